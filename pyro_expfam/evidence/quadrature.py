"""Adaptive Gauss-Hermite quadrature: the evidence of rows with few latents to any accuracy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.layer import make_problem, make_solver, solve
from pyro_expfam.deq.limits import check_size
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import tiles
from pyro_expfam.evidence.expansion import Expansion
from pyro_expfam.evidence.laplace import laplace_evidence
from pyro_expfam.families import Family

MOST_LATENTS = 3
"""The most latents; with more, a grid of nodes takes longer than importance sampling."""

MOST_NODES = 100
"""The most nodes; with more, the outermost weights are too small for double precision."""


def quadrature_evidence(
    family: Family,
    y: Any,
    W: Tensor,
    b: Tensor,
    precision: float | Tensor = 1.0,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    num_nodes: int = 21,
) -> Tensor:
    r"""The log evidence of every row by adaptive Gauss-Hermite quadrature, for up to 3 latents.

    The nodes of each row are centred at the root of the score and scaled by the information there.
    One node gives the Laplace approximation, and more nodes converge to the integral. Compare two
    numbers of nodes to see how accurate it is. The grid has ``num_nodes ** l`` nodes, and each node
    takes one evaluation of the table. No gradient is taken.

    Source: Naylor and Smith (1982); Pinheiro and Bates (1995).

    Args:
        family: the law of the observations.
        y: observations, ``(..., N, d)``.
        W: loading, ``(..., d, l)``, float32 or float64; it sets dtype and device of the result.
        b: intercept, ``(..., d)``.
        precision: precision of the latents, positive, a number or ``(...)``.
        offset: known part of the natural parameters, broadcastable to ``(..., N, d)``.
        mask: booleans broadcastable to ``(..., N, d)``, False for a missing entry.
        weights: non-negative weights of the entries' log densities, broadcastable to
            ``(..., N, d)``; an entry of weight 2 counts as two observations.
        num_nodes: nodes along each latent, from 1 to 100.

    Returns:
        The log evidence in nats, ``(..., N)``.

    Raises:
        TypeError: if an argument holds no real numbers.
        ValueError: if a shape, device or value does not fit, or there are more than 3 latents; the
            message names the argument.

    Warns:
        ConvergenceWarning: if some rows did not reach the root. The nodes are then off-centre.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> W, b, y = torch.tensor([[1.0], [0.5]]), torch.zeros(2), torch.tensor([[0.0, 3.0]])
        >>> pef.evidence.quadrature_evidence(pef.families.Poisson(), y, W, b)
        tensor([-4.2002])
    """
    problem = make_problem(family, y, W, b, precision, offset, mask, weights)
    return integrate_evidence(problem, solve(problem, make_solver()).value, num_nodes)


@torch.no_grad()
def integrate_evidence(problem: LatentProblem, z: Tensor, num_nodes: int = 21) -> Tensor:
    """The result of :func:`quadrature_evidence` for a problem at latents ``z`` ``(..., N, l)``.

    The latents are the centre of the grid, and need not be the root.
    """
    grid, log_weights = _grid(num_nodes, problem.latent_dim, z.device)
    z = z.expand(*problem.batch_shape, *z.shape[-2:])
    num_features, parts = problem.W.shape[-2], []
    row_entries = z.shape[:-2].numel() * len(grid) * num_features
    for tile in tiles(problem.num_rows, row_entries, z.device):
        rows, centre = problem.rows(tile).double(), z[..., tile, :].double()
        nodes = centre + torch.einsum("qj,...ji->q...i", grid, Expansion(rows, centre).whitening)
        # Even one row may have too many nodes for one evaluation.
        some = tiles(len(nodes), centre[..., 0].numel() * num_features, z.device)
        objective = torch.cat([rows.objective(nodes[part]) for part in some])
        log_ratios = rows.objective(centre) - objective
        by_node = log_weights.view(-1, *(1 for _ in centre.shape[:-1]))
        parts.append((log_ratios + by_node).logsumexp(0))
    return (laplace_evidence(problem, z).double() + torch.cat(parts, -1)).to(z.dtype)


def _grid(num_nodes: int, latent_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes ``(Q, l)`` in posterior standard deviations, and their log weights ``(Q,)``.

    The weights apply to a function divided by the standard normal density, up to its constant, so
    that the sum is 1 for a normal posterior.
    """
    if latent_dim > MOST_LATENTS:
        raise ValueError(
            f"W must have at most {MOST_LATENTS} latents for quadrature, got {latent_dim}: use "
            "importance_evidence, whose cost does not grow with the number of latents"
        )
    if check_size("num_nodes", num_nodes) > MOST_NODES:
        raise ValueError(f"num_nodes must be at most {MOST_NODES}, got {num_nodes}")
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    x = torch.as_tensor(nodes, device=device)
    log_weight = torch.as_tensor(np.log(weights / math.sqrt(2 * math.pi)), device=device)
    log_weight = log_weight + 0.5 * x.square()
    grid = torch.cartesian_prod(*[x] * latent_dim).reshape(-1, latent_dim)
    total = torch.cartesian_prod(*[log_weight] * latent_dim).reshape(-1, latent_dim).sum(-1)
    return grid, total
