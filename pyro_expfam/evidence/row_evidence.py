"""The log evidence of a table, row by row, with the latents integrated out."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_expfam.deq.layer import make_problem, make_solver, solve
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.evidence.adaptive import Nodes, adaptive_evidence, check_nodes
from pyro_expfam.evidence.laplace import laplace_evidence
from pyro_expfam.evidence.second_order import (
    second_order_covariance,
    second_order_mean,
    second_order_term,
)
from pyro_expfam.families import Family


def log_evidence(
    family: Family,
    y: Any,
    W: Tensor,
    b: Tensor,
    precision: float | Tensor = 1.0,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    order: int = 1,
    nodes: Nodes | None = None,
) -> Tensor:
    r"""The log evidence :math:`\log p(y \mid W, b)` of every row, with its latents integrated out.

    The first order is the Laplace approximation around the root of the score, which is exact
    for Gaussian observations. The second adds the next term of the expansion, in closed form
    from the third and fourth cumulants; no sampling is involved. Both are differentiable, with
    the root following, in ``W``, ``b``, ``precision``, ``offset``, ``weights``, in the scale of a
    Gaussian family, and where the sufficient statistic is, in ``y``. Rows are taken tile by tile,
    on the way back too, so that nothing else of the table's size is kept. Leading dimensions of
    all arguments are batch dimensions and broadcast.

    Source: appendix D of the paper; Shun and McCullagh (1995) for the second order.

    Args:
        family: the law of the observations.
        y: observations, ``(..., N, d)``.
        W: loading, ``(..., d, l)``, float32 or float64; it sets dtype and device of the result.
        b: intercept, ``(..., d)``.
        precision: precision of the latents, positive, a number or ``(...)``.
        offset: known part of the natural parameters, broadcastable to ``(..., N, d)``.
        mask: booleans broadcastable to ``(..., N, d)``, False for a missing entry, which does
            not count; a row without any entry has the log evidence 0.
        weights: non-negative weights of the entries' log densities, broadcastable to
            ``(..., N, d)``; an entry of weight 2 counts as two observations.
        order: 1 for the Laplace approximation, 2 for the next.
        nodes: with up to 3 latents, the nodes along each of adaptive Gauss-Hermite quadrature in
            place of an expansion, such as 7; with any number of latents,
            :class:`~pyro_expfam.evidence.Draws`. Rows of few columns want it.

    Returns:
        The log evidence in nats, ``(..., N)``.

    Raises:
        TypeError: if an argument holds no real numbers.
        ValueError: if a shape, device or value does not fit; the message names the argument.

    Warns:
        ConvergenceWarning: if some rows did not reach the root; their evidence is then from an
            expansion around the last latents.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> W = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
        >>> y = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
        >>> pef.log_evidence(pef.families.Bernoulli(), y, W, torch.zeros(3), order=2)
        tensor([-1.7641, -2.2685], grad_fn=<AddBackward0>)
    """
    check_order(order, nodes)
    problem = make_problem(family, y, W, b, precision, offset, mask, weights)
    return evidence_at_root(problem, solve(problem, make_solver()).value, order, nodes)


def check_order(order: int, nodes: Nodes | None = None) -> None:
    """Refuses what is no order of the evidence, and no number of nodes."""
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}")
    if nodes is None:
        return
    check_nodes(nodes)
    if order != 1:
        raise ValueError(
            f"order must be left out where nodes are given, got order={order!r} and nodes={nodes}"
        )


def evidence_at_root(
    problem: LatentProblem, z: Tensor, order: int, nodes: Nodes | None = None
) -> Tensor:
    """The log evidence of every row, ``(..., N)``, by an expansion or by quadrature.

    Args:
        problem: the problem of the latents.
        z: its root, ``(..., N, l)``, as :func:`~pyro_expfam.deq.layer.solve` returns it.
        order: 1 for :func:`laplace_evidence`, 2 with :func:`second_order_term`.
        nodes: the nodes of :func:`adaptive_evidence` along each latent, or None.
    """
    if nodes is not None:
        return adaptive_evidence(problem, z, nodes)
    first = laplace_evidence(problem, z)
    return first if order == 1 else first + second_order_term(problem, z)


def second_order_evidence(problem: LatentProblem) -> Tensor:
    """The log evidence of every row of a problem to second order, ``(..., N)``.

    Under a map without a matrix it is the first order.
    """
    order = 2 if problem.map.has_matrix else 1
    return evidence_at_root(problem, solve(problem, make_solver()).value, order)


def posterior_mean(
    family: Family,
    y: Any,
    W: Tensor,
    b: Tensor,
    precision: float | Tensor = 1.0,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
) -> Tensor:
    r"""The posterior mean :math:`E[z \mid y]` of the latents of every row, to second order.

    The root of the score, which :func:`~pyro_expfam.solve_latents` finds, is the mode of the
    posterior; this corrects it for skewness, see :func:`second_order_mean`. Arguments, errors
    and warnings are as in :func:`log_evidence`.

    Returns:
        The mean, ``(..., N, l)``.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> W, b, y = torch.tensor([[1.0], [0.5]]), torch.zeros(2), torch.tensor([[0.0, 0.0]])
        >>> pef.solve_latents(pef.families.Poisson(), y, W, b).value
        tensor([[-0.7904]])
        >>> pef.evidence.posterior_mean(pef.families.Poisson(), y, W, b)
        tensor([[-0.8926]])
    """
    problem = make_problem(family, y, W, b, precision, offset, mask, weights)
    return second_order_mean(problem, solve(problem, make_solver()).value)


def posterior_covariance(
    family: Family,
    y: Any,
    W: Tensor,
    b: Tensor,
    precision: float | Tensor = 1.0,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
) -> Tensor:
    r"""The posterior covariance of the latents of every row, to second order.

    The covariance of the Laplace posterior is the inverse of the information at the mode; this
    corrects it for skewness and tails, see :func:`second_order_covariance`. With
    :func:`posterior_mean` it gives calibrated regions where regions of the Laplace posterior are
    too small. Arguments, errors and warnings are as in :func:`log_evidence`.

    Returns:
        The covariance, ``(..., N, l, l)``.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> W, b, y = torch.tensor([[1.0], [0.5]]), torch.zeros(2), torch.tensor([[1.0, 0.0]])
        >>> pef.evidence.posterior_covariance(pef.families.Bernoulli(), y, W, b)
        tensor([[[0.7926]]])
    """
    problem = make_problem(family, y, W, b, precision, offset, mask, weights)
    return second_order_covariance(problem, solve(problem, make_solver()).value)
