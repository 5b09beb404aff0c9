"""The evidence of rows with few latents by Gauss-Hermite quadrature around their root."""

from __future__ import annotations

import math
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.evidence.expansion import Expansion
from pyro_expfam.evidence.row_function import RowFunction, at_root, by_autograd

MOST_LATENTS = 3
"""The number of nodes grows as a power of the number of latents."""

FEWEST_NODES = 5
"""With fewer the error is so large that value and gradient do not fit together."""

MOST_NODES = 51
"""More nodes along a latent change nothing that a number in double precision could show."""


def adaptive_evidence(problem: LatentProblem, z: Tensor, nodes: int) -> Tensor:
    r"""The log evidence of every row by adaptive Gauss-Hermite quadrature, ``(..., N)``.

    With the nodes :math:`x_k` and weights :math:`w_k` of the standard normal law, and the
    information :math:`H = L L^\top` at the root, the integral over the latents is

    .. math:: |L|^{-1} (2 \pi)^{l / 2} \sum_k w_k\, e^{\|x_k\|^2 / 2}\,
              p(y, z_k), \quad z_k = z^* + L^{-\top} x_k,

    over a product grid of ``nodes`` per latent. The gradient is the mean of the gradient of the log
    joint density over the nodes, with their shares in the sum as weights (Fisher's identity): like
    the value, it is exact up to the error of the quadrature.

    Source: Naylor and Smith (1982), *Applications of a method for the efficient computation of
    posterior distributions*; Pinheiro and Bates (1995) for the scaling by the information.

    Args:
        problem: the problem of the latents.
        z: its root, ``(..., N, l)``, as :func:`~pyro_expfam.deq.layer.solve` returns it.
        nodes: the nodes along each latent.

    Raises:
        ValueError: if there are more than 3 latents, ``nodes`` is out of range, or sites other than
            tables depend on the latents.
    """
    check_nodes(nodes)
    if problem.latent_dim > MOST_LATENTS:
        raise ValueError(
            f"nodes must be None for more than {MOST_LATENTS} latents, got nodes={nodes} and "
            f"{problem.latent_dim} latents: the nodes are too many. Take the order 1 or 2, or "
            "importance_evidence"
        )
    if problem.term is not None:
        raise ValueError(
            f"nodes must be None where sites other than tables depend on the latents, got {nodes}: "
            "take the order 1 or 2"
        )
    return at_root(_function(nodes, problem.latent_dim), problem, z)


def check_nodes(nodes: int) -> None:
    """Refuses what is no number of nodes."""
    is_number = isinstance(nodes, int) and not isinstance(nodes, bool)
    if not is_number or not FEWEST_NODES <= nodes <= MOST_NODES:
        raise ValueError(
            f"nodes must be a whole number from {FEWEST_NODES} to {MOST_NODES}, got {nodes!r}"
        )


@lru_cache
def _function(nodes: int, latent_dim: int) -> RowFunction:
    value = partial(_value, nodes)
    return RowFunction(value, by_autograd(value), rank=2, copies=nodes**latent_dim)


@lru_cache
def _grid(nodes: int, latent_dim: int) -> tuple[Tensor, Tensor]:
    r"""Nodes ``(K, l)`` of a product rule for the standard normal law, and their log weights.

    The weights have the factor :math:`(2 \pi)^{l / 2} e^{\|x\|^2 / 2}`, for an integral without
    the density.
    """
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    places = np.stack(np.meshgrid(*[x] * latent_dim, indexing="ij"), -1).reshape(-1, latent_dim)
    log_weight = np.log(w) + 0.5 * x**2
    grids = np.stack(np.meshgrid(*[log_weight] * latent_dim, indexing="ij"))
    return torch.from_numpy(places), torch.from_numpy(grids.sum(0).reshape(-1))


def _value(nodes: int, problem: LatentProblem, z: Tensor) -> Tensor:
    places, log_weights = (x.to(z) for x in _grid(nodes, problem.latent_dim))
    with torch.no_grad():
        # The integral does not depend on where the nodes are, up to the error of the quadrature.
        expansion = Expansion(problem, z)
        # The rows of the whitening are L^{-1}.
        steps = torch.einsum("kj,...ji->k...i", places, expansion.whitening)
        log_width = -0.5 * expansion.log_det_information()
        at = z + steps
    log_likelihood = problem.log_probs(problem.predictor(at)).sum(-1)
    prior = problem.prior
    log_joint = log_likelihood - prior.objective(at) + 0.5 * prior.log_det[..., None]
    weights = log_weights.reshape(-1, *[1] * (log_joint.dim() - 1))
    constant = 0.5 * problem.latent_dim * math.log(2 * math.pi)
    return torch.logsumexp(log_joint + weights, 0) + log_width - constant
