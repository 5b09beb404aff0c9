"""The evidence of rows by nodes around their root: of Gauss-Hermite quadrature, or quasi-random."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.positive_definite import cholesky, inverse_lower
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.root_gradients import Gradients
from pyro_expfam.evidence.expansion import Expansion
from pyro_expfam.evidence.row_function import (
    PartialGradients,
    RowFunction,
    at_root,
    by_autograd,
)

MOST_LATENTS = 3
"""The number of nodes grows as a power of the number of latents."""

FEWEST_NODES = 5
"""With fewer the error is so large that value and gradient do not fit together."""

MOST_NODES = 51
"""More nodes along a latent change nothing that a number in double precision could show."""


FEWEST_DRAWS = 16


@dataclass(frozen=True)
class Draws:
    r"""Quasi-random nodes around the root, for any number of latents: importance sampling.

    They stand where a number of nodes does, as in ``LaplaceEvidence(nodes=Draws(512))``. The
    evidence is the mean of importance weights over draws from the Laplace posterior, which are the
    same in every evaluation, so that it is a smooth function of the parameters. Its logarithm is
    too small on average by about half the relative variance of the mean weight (Burda, Grosse and
    Salakhutdinov), which falls nearly as the squared number of draws.

    Take 512 draws or more for a fit. A fit exploits the error of few draws: with 64 of them it ran
    to loadings of length 9 on a table of 400 rows, 9 bits and 4 latents, where 512 draws had 12
    nats more evidence than the first order.

    Args:
        count: the number of draws of each row, at least 16.

    Raises:
        ValueError: if there are fewer draws.

    Source: Burda, Grosse and Salakhutdinov (2016), *Importance weighted autoencoders*; Owen (1997)
    for scrambled nets.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> W, b, y = torch.randn(6, 4), torch.zeros(6), torch.tensor([[1.0, 0, 0, 1, 1, 0]])
        >>> draws = pef.evidence.Draws(256)
        >>> pef.log_evidence(pef.families.Bernoulli(), y, W, b, nodes=draws).shape
        torch.Size([1])
    """

    count: int

    def __post_init__(self) -> None:
        is_number = isinstance(self.count, int) and not isinstance(self.count, bool)
        if not is_number or self.count < FEWEST_DRAWS:
            raise ValueError(
                f"count must be a whole number of at least {FEWEST_DRAWS}, got {self.count!r}"
            )


Nodes = int | Draws
"""Nodes of quadrature along each latent, or draws."""


def adaptive_evidence(problem: LatentProblem, z: Tensor, nodes: Nodes) -> Tensor:
    r"""The log evidence of every row by adaptive Gauss-Hermite quadrature, ``(..., N)``.

    With the nodes :math:`x_k` and weights :math:`w_k` of the standard normal law, and the
    information :math:`H = L L^\top` at the root, the integral over the latents is

    .. math:: |L|^{-1} (2 \pi)^{l / 2} \sum_k w_k\, e^{\|x_k\|^2 / 2}\,
              p(y, z_k), \quad z_k = z^* + L^{-\top} x_k,

    over a product grid of ``nodes`` per latent. The gradient is the mean of the gradient of the log
    joint density over the nodes, with their shares in the sum as weights (Fisher's identity): like
    the value, it is exact up to the error of the quadrature. With :class:`Draws` the weights are
    equal, and the gradient is the gradient of the value, through the nodes too.

    Where a loss is not convex and the information at ``z`` is not positive definite, as at a saddle
    between two modes, the expected information of the entries stands in its place.

    Source: Naylor and Smith (1982), *Applications of a method for the efficient computation of
    posterior distributions*; Pinheiro and Bates (1995) for the scaling by the information.

    Args:
        problem: the problem of the latents.
        z: its root, ``(..., N, l)``, as :func:`~pyro_expfam.deq.layer.solve` returns it.
        nodes: the nodes along each latent, or draws.

    Raises:
        ValueError: if there are more than 3 latents for a number of nodes, ``nodes`` is out of
            range, or sites other than tables depend on the latents.
    """
    check_nodes(nodes)
    if isinstance(nodes, int) and problem.latent_dim > MOST_LATENTS:
        raise ValueError(
            f"nodes must be None for more than {MOST_LATENTS} latents, got nodes={nodes} and "
            f"{problem.latent_dim} latents: the nodes are too many. Take the order 1 or 2, or "
            "nodes=pyro_expfam.evidence.Draws(512)"
        )
    if problem.term is not None:
        raise ValueError(
            f"nodes must be None where sites other than tables depend on the latents, got {nodes}: "
            "take the order 1 or 2"
        )
    return at_root(_function(nodes, problem.latent_dim), problem, z)


def log_joint_density(problem: LatentProblem, z: Tensor) -> Tensor:
    """The log joint density of the rows and their latents ``z`` ``(..., N, l)``, ``(..., N)``."""
    constant = 0.5 * problem.latent_dim * math.log(2 * math.pi)
    of_latents = 0.5 * problem.prior.log_det[..., None] - problem.prior.objective(z) - constant
    return problem.log_likelihoods(problem.predictor(z)) + of_latents


def check_nodes(nodes: Nodes) -> None:
    """Refuses what is no number of nodes."""
    if isinstance(nodes, Draws):
        return
    is_number = isinstance(nodes, int) and not isinstance(nodes, bool)
    if not is_number or not FEWEST_NODES <= nodes <= MOST_NODES:
        raise ValueError(
            f"nodes must be a whole number from {FEWEST_NODES} to {MOST_NODES}, or Draws, got "
            f"{nodes!r}"
        )


@lru_cache
def _function(nodes: Nodes, latent_dim: int) -> RowFunction:
    value = partial(_value, nodes)
    if isinstance(nodes, Draws):
        return RowFunction(value, by_autograd(value), rank=2, copies=nodes.count)
    gradients = _at_held_nodes(by_autograd(value))
    return RowFunction(value, gradients, rank=2, copies=nodes**latent_dim)


def _at_held_nodes(gradients: PartialGradients) -> PartialGradients:
    """Gradients without the latents': the integral does not depend on where the nodes are."""

    def held(problem: LatentProblem, z: Tensor, grad: Tensor, needed: Set[str]) -> Gradients:
        found = gradients(problem, z, grad, needed)
        return {name: x for name, x in found.items() if name != "z"}

    return held


@lru_cache
def _draws(count: int, latent_dim: int) -> tuple[Tensor, Tensor]:
    """Quasi-random standard normal nodes ``(K, l)``, and their log weights as in :func:`_grid`."""
    sobol = torch.quasirandom.SobolEngine(latent_dim, scramble=True, seed=0)
    uniform = sobol.draw(count, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    x = torch.special.ndtri(uniform)
    constant = 0.5 * latent_dim * math.log(2 * math.pi) - math.log(count)
    return x, 0.5 * x.square().sum(-1) + constant


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


def _value(nodes: Nodes, problem: LatentProblem, z: Tensor) -> Tensor:
    if isinstance(nodes, Draws):
        rule, moves = _draws(nodes.count, problem.latent_dim), torch.is_grad_enabled()
    else:
        # The integral does not depend on where the nodes are, up to the error of the quadrature.
        rule, moves = _grid(nodes, problem.latent_dim), False
    places, log_weights = (x.to(z) for x in rule)
    with torch.set_grad_enabled(moves):
        factor, _ = cholesky(Expansion(problem, z).definite_information)
        # The rows of the inverse are L^{-1}.
        steps = torch.einsum("kj,...ji->k...i", places, inverse_lower(factor))
        log_width = -factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        at = z + steps
    # Base measures take longer than losses, and all nodes of a row share them.
    base = problem.weighted(problem.family.log_base_measure(problem.y)).sum(-1)
    log_likelihood = base - problem.losses(problem.predictor(at)).sum(-1)
    prior = problem.prior
    log_joint = log_likelihood - prior.objective(at) + 0.5 * prior.log_det[..., None]
    weights = log_weights.reshape(-1, *[1] * (log_joint.dim() - 1))
    constant = 0.5 * problem.latent_dim * math.log(2 * math.pi)
    return torch.logsumexp(log_joint + weights, 0) + log_width - constant
