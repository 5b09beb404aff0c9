"""Log determinants of the information without a matrix, by Lanczos quadrature."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.conjugate_gradients import Information, solve_information
from pyro_expfam.deq.problem import LatentProblem

NUM_PROBES = 16
"""Random vectors per row."""

NUM_STEPS = 20
"""Steps of the Lanczos iteration per vector."""

SEED = 0
"""Where nothing is trained, the same rows have the same random vectors in every call."""


class LogDeterminant(NamedTuple):
    """Estimates of the log determinants of the information of rows.

    Attributes:
        value: the estimates, ``(..., N)``.
        standard_error: their standard errors over the random vectors, ``(..., N)``.
    """

    value: Tensor
    standard_error: Tensor


def log_determinant(
    problem: LatentProblem, z: Tensor, num_probes: int = NUM_PROBES, num_steps: int = NUM_STEPS
) -> LogDeterminant:
    r"""The log determinant of the information of each row, by products with the map alone.

    With the diagonal ``D`` of the information ``H``, the log determinant is
    :math:`\sum_j \log D_j + \operatorname{tr} \log B` for
    :math:`B = D^{-1/2} H D^{-1/2}`. The trace is the mean of :math:`v^\top \log(B)\, v` over
    vectors of random signs, and each of these numbers is a Gauss quadrature whose nodes and weights
    the Lanczos iteration finds. The gradient :math:`\operatorname{tr}(H^{-1} dH)` is estimated
    with the same vectors, without bias.

    If gradients are wanted, the vectors come from PyTorch's random numbers. Otherwise they are the
    same in every call.

    Args:
        problem: the problem of the latents, without a term.
        z: its root, ``(..., N, l)``.
        num_probes: random vectors per row, at least 2.
        num_steps: steps of the iteration, at most ``l``.

    Source: Ubaru, Chen and Saad (2017), *Fast estimation of tr(f(A)) via stochastic Lanczos
    quadrature*; Hutchinson (1990) for the random vectors.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> up = pef.linear.ConvTranspose1d(2, 1, 4, stride=2, padding=1, latent_shape=(2, 5))
        >>> problem = pef.deq.LatentProblem(
        ...     pef.families.Gaussian(1.0), torch.ones(1, 10), up.map(torch.zeros(2, 1, 4)),
        ...     torch.zeros(10), torch.tensor(2.0)
        ... )
        >>> log_determinant(problem, torch.zeros(1, 10)).value  # ten times log 2
        tensor([6.9315])
    """
    eta = problem.predictor(z)
    information = Information(problem, problem.curvature(eta))
    trains = torch.is_grad_enabled() and any(
        x.requires_grad for x in (eta, *problem.fields.values())
    )
    generator = None if trains else torch.Generator(z.device).manual_seed(SEED)
    diagonal = information.diagonal.expand(eta.shape[:-1] + z.shape[-1:])
    scale, of_diagonal = diagonal.detach().rsqrt(), diagonal.detach().log().sum(-1)
    found, slopes = [], []
    for _ in range(num_probes):
        signs = torch.randint(0, 2, scale.shape, generator=generator, device=z.device)
        probe = (2 * signs - 1).to(z.dtype)
        with torch.no_grad():
            found.append(_quadrature(information, scale, probe, min(num_steps, z.shape[-1])))
        if trains:
            slopes.append(_slope(information, eta, scale, probe))
    traces = torch.stack(found)
    value = of_diagonal + traces.mean(0)
    if trains:
        slope = torch.stack(slopes).mean(0)
        value = value + slope - slope.detach()
    return LogDeterminant(value, traces.std(0) / num_probes**0.5)


def _quadrature(information: Information, scale: Tensor, probe: Tensor, num_steps: int) -> Tensor:
    r"""The numbers :math:`v^\top \log(B)\, v` of probes ``v`` ``(..., N, l)``, ``(..., N)``."""
    squared = probe.square().sum(-1)
    vector, before = probe / squared.sqrt().unsqueeze(-1), torch.zeros_like(probe)
    across = torch.zeros_like(squared)
    diagonal, off_diagonal = [], []
    for _ in range(num_steps):
        product = scale * information.times(scale * vector)
        along = (product * vector).sum(-1)
        product = product - along.unsqueeze(-1) * vector - across.unsqueeze(-1) * before
        across = product.norm(dim=-1)
        diagonal.append(along)
        off_diagonal.append(across)
        # Where nothing is left, the vectors found so far span all that matters.
        left = across > torch.finfo(across.dtype).eps ** 0.5
        across = torch.where(left, across, 0.0)
        safe = torch.where(left, across, 1.0).unsqueeze(-1)
        before, vector = vector, torch.where(left.unsqueeze(-1), product / safe, 0.0)
        off_diagonal[-1] = across
        if not bool(left.any()):
            break
    off = torch.stack(off_diagonal[:-1], -1) if len(diagonal) > 1 else squared[..., :0]
    matrix = torch.diag_embed(torch.stack(diagonal, -1))
    matrix = matrix + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    nodes, vectors = torch.linalg.eigh(matrix.double())
    weights = vectors[..., 0, :].square()
    # Beyond its last vector an iteration has nodes 0 of weight 0.
    logs = torch.where(weights > 0, nodes.clamp(min=torch.finfo(nodes.dtype).tiny).log(), 0.0)
    return (squared.double() * (weights * logs).sum(-1)).to(squared.dtype)


def _slope(information: Information, eta: Tensor, scale: Tensor, probe: Tensor) -> Tensor:
    r"""A number per row whose gradient is an estimate of the gradient of the log determinant.

    For random ``v`` with :math:`\mathrm E[v v^\top] = D` it is
    :math:`(D^{-1} v)^\top H\, (H^{-1} v)`, in which the vectors are held.
    """
    with torch.no_grad():
        solved = solve_information(information.problem, eta, probe / scale)
    return (scale * probe * information.times(solved)).sum(-1)
