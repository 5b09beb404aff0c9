"""The trapezoidal rule: the evidence of rows with few latents, whatever their posterior."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.fisher_scoring import FisherScoring
from pyro_expfam.deq.layer import make_problem, make_solver, solve
from pyro_expfam.deq.limits import check_size
from pyro_expfam.deq.problem import LatentProblem, event_dim
from pyro_expfam.deq.row_block import tiles
from pyro_expfam.deq.solution import ConvergenceWarning
from pyro_expfam.evidence.expansion import Expansion
from pyro_expfam.families import Family
from pyro_expfam.user_warning import warn_user

MOST_LATENTS = 3
"""The most latents; with more, a grid of nodes takes longer than importance sampling."""

MOST_NODES = {1: 1 << 16, 2: 1 << 11, 3: 1 << 7}
"""The most intervals along each latent, by the number of latents."""

FIRST_NODES = 31
"""The nodes of a first rule that is accurate for a normal posterior."""

TOLERANCE = 1e-6
"""Steps are halved until the log evidence of a row changes by no more than this, in nats."""

LARGE_ERROR = 1e-3
"""A change by more than this, in nats, at the finest step is worth a warning."""

DROP = 30.0
"""Nodes reach to where the log density is this much below its value at the centre."""

REACH = math.sqrt(2 * DROP)
"""Where a normal log density has dropped by so much, in standard deviations."""

SCANNED = 129
"""Points at which a density with several modes is looked at to find where it is negligible."""

WIDEST, LOOKED_AT = 30.0, 241
"""Linear predictors from minus to plus this, and so many of them, show the least loss."""

GROWTH = 1.5
"""A reach that is too short grows by this factor."""

SMOOTH_HALVINGS = 2
"""A density for which so many halvings are not enough is taken for one with edges."""

EDGE_SPREAD = 6.0
"""The error at an edge is at most the spread of rules of four times the step over this number."""

CENTRE = FisherScoring(tol=0.1, max_iter=30)
"""What finds the middle of the nodes given the first latent, which need not be the root."""

MOST_ATTEMPTS = 100
"""A reach grows or is halved at most this often."""


class Integral(NamedTuple):
    """An integral per row, and its error.

    Attributes:
        log_value: the log of the integral, ``(..., N)``.
        error: a bound of the error of ``log_value``, ``(..., N)``: the change when the step was
            halved last, and what rules of four times the step say that begin at different nodes.
            For smooth densities the true error is far smaller.
    """

    log_value: Tensor
    error: Tensor


def quadrature_evidence(
    family: Family,
    y: Any,
    W: Tensor,
    b: Tensor,
    precision: float | Tensor = 1.0,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    num_nodes: int = FIRST_NODES,
) -> Tensor:
    r"""The log evidence of every row by numerical integration, for up to 3 latents.

    Each latent is integrated by the trapezoidal rule between the points where the density has
    become negligible, given the latents before it. Where losses are convex the density of a row's
    observations and latents is log-concave in the latents, with or without some of them integrated
    out, and falls for good on its way from the root. Otherwise it may have several modes: it is
    negligible where the prior and the least losses say so, and looked at on a grid before. The step
    is halved, row by row, until the log evidence changes by no more than 1e-6 nats. The rule
    converges exponentially for such smooth densities, also where a posterior is far from normal, as
    under steep loadings. No gradient is taken.

    Source: Trefethen and Weideman, *The exponentially convergent trapezoidal rule*, SIAM Review 56
    (2014).

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
        num_nodes: nodes along each latent before the step is first halved, at least 3. It decides
            about the time that the integral takes, not about its accuracy.

    Returns:
        The log evidence in nats, ``(..., N)``.

    Raises:
        TypeError: if an argument holds no real numbers.
        ValueError: if a shape, device or value does not fit, or there are more than 3 latents; the
            message names the argument.

    Warns:
        ConvergenceWarning: if the log evidence of some rows still changes by more than 1e-3 nats
            with the finest step, or if some rows did not reach the root.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> W, b, y = torch.tensor([[1.0], [0.5]]), torch.zeros(2), torch.tensor([[0.0, 3.0]])
        >>> pef.evidence.quadrature_evidence(pef.families.Poisson(), y, W, b)
        tensor([-4.2002])
    """
    problem = make_problem(family, y, W, b, precision, offset, mask, weights)
    return integrate_evidence(problem, solve(problem, make_solver()).value, num_nodes)


def _warn_of_large_error(found: Integral) -> None:
    # A comparison with NaN is False.
    large = ~(found.error <= LARGE_ERROR)
    if bool(large.any()):
        warn_user(
            f"the evidence of {int(large.sum()):,} of {large.numel():,} rows by quadrature still "
            f"changes by up to {float(found.error.max()):.2g} nats with the finest step: their "
            "latents have a posterior with edges that are too steep. Take fewer latents, or "
            "importance_evidence",
            ConvergenceWarning,
        )


def integrate_evidence(problem: LatentProblem, z: Tensor, num_nodes: int = FIRST_NODES) -> Tensor:
    """The result of :func:`quadrature_evidence` for a problem at latents ``z`` ``(..., N, l)``.

    The latents are in the middle of the nodes, and need not be the root.
    """
    found = evidence_with_error(problem, z, num_nodes)
    _warn_of_large_error(found)
    return found.log_value


@torch.no_grad()
def evidence_with_error(
    problem: LatentProblem,
    z: Tensor,
    num_nodes: int = FIRST_NODES,
    tol: float = TOLERANCE,
    most_nodes: int | None = None,
) -> Integral:
    """The log evidence of a problem as in :func:`quadrature_evidence`, with its error.

    Args:
        problem: the problem of the latents.
        z: latents ``(..., N, l)`` in the middle of the nodes, which need not be the root.
        num_nodes: as in :func:`quadrature_evidence`.
        tol: the change of a row's log evidence, in nats, at which its step is halved no more.
        most_nodes: the most nodes along each latent, by default as many as a machine can take.
    """
    latent_dim = problem.latent_dim
    if latent_dim > MOST_LATENTS:
        raise ValueError(
            f"W must have at most {MOST_LATENTS} latents for quadrature, got {latent_dim}: use "
            "importance_evidence, whose cost does not grow with the number of latents"
        )
    if problem.term is not None:
        raise ValueError(
            "quadrature integrates over the latents of a table alone, got latents that other sites "
            "of the model depend on: use importance_evidence"
        )
    if check_size("num_nodes", num_nodes) < 3:
        raise ValueError(f"num_nodes must be at least 3, got {num_nodes}")
    most = MOST_NODES[latent_dim] if most_nodes is None else most_nodes
    if num_nodes > most:
        raise ValueError(f"num_nodes must be at most {most}, got {num_nodes}")
    dtype = z.dtype
    double, z = problem.double(), z.double()
    if double.precision_factor is not None:
        z = z @ double.precision_factor
        double = double.with_standard_prior()
    parts = [
        _of_table(table, latents, num_nodes, most, tol) for table, latents in _tables(double, z)
    ]
    shape = (*problem.batch_shape, problem.num_rows)
    value, error = (torch.cat(x).reshape(shape) for x in zip(*parts, strict=True))
    base = double.family.log_base_measure(double.y)
    of_prior = 0.5 * latent_dim * (double.precision / (2 * math.pi)).log()
    value = value + double.weighted(base).sum(-1) + of_prior[..., None]
    return Integral(value.to(dtype), error.to(dtype))


def _tables(problem: LatentProblem, z: Tensor) -> Iterator[tuple[LatentProblem, Tensor]]:
    """Every table of a batch, with its latents."""
    batch_shape = problem.batch_shape
    z = z.expand(*batch_shape, *z.shape[-2:])
    for place in itertools.product(*map(range, batch_shape)):
        fields = {
            name: x.expand(batch_shape + x.shape[x.dim() - event_dim(name) :])[place]
            for name, x in problem.fields.items()
        }
        yield problem.with_fields(fields), z[place]


def _of_table(problem: LatentProblem, z: Tensor, num_nodes: int, most: int, tol: float) -> Integral:
    """The integral of ``exp(-objective)`` for each row of a table, without batch dimensions."""
    entries = problem.num_features * num_nodes**problem.latent_dim
    parts = []
    for tile in tiles(problem.num_rows, entries, z.device):
        rows = problem.rows(tile)
        least = None if problem.is_convex else least_losses(rows)
        parts.append(_integral(rows, z[tile], num_nodes, most, tol, least))
    return Integral(*(torch.cat(x) for x in zip(*parts, strict=True)))


def _integral(
    problem: LatentProblem,
    z: Tensor,
    num_nodes: int,
    most: int,
    tol: float,
    least: Tensor | None,
) -> Integral:
    """The integral of ``exp(-objective)`` over all latents of each row, ``(N,)``.

    Args:
        problem: the problem of the latents.
        z: latents in the middle of the nodes, ``(N, l)``.
        num_nodes: nodes along each latent of the first rule.
        most: the most intervals along each.
        tol: the change at which steps are no longer halved.
        least: the least sum of losses of each row, ``(N,)``; None if losses are convex, whose
            densities are log-concave.
    """
    covariance = Expansion(problem, z).definite_covariance

    def of_nodes(x: Tensor, rows: Tensor) -> Integral:
        """The integrand at nodes ``(K, n)`` of the first latent, with all others integrated out."""
        if problem.latent_dim == 1:
            log_density = -problem.rows(rows).objective(x.unsqueeze(-1))
            return Integral(log_density, torch.zeros_like(x))
        given = _given_first(problem, x.flatten(), rows.repeat(len(x)))
        centre = CENTRE.solve(given, z[rows, 1:].repeat(len(x), 1)).value
        of_each = None if least is None else least[rows].repeat(len(x))
        log_value, error = _integral(given, centre, num_nodes, most, tol / 10, of_each)
        loc = problem.rows(rows).loc
        first = x if loc is None else x - loc[:, 0]
        log_prior = -0.5 * problem.precision * first.square()
        return Integral(log_value.view(x.shape) + log_prior, error.view(x.shape))

    def in_parts(x: Tensor, rows: Tensor) -> Integral:
        entries = len(rows) * problem.num_features * num_nodes ** (problem.latent_dim - 1)
        parts = [of_nodes(x[part], rows) for part in tiles(len(x), entries, x.device)]
        log_density, error = (torch.cat(x) for x in zip(*parts, strict=True))
        # Far from the centre a density may underflow to 0, or overflow on the way.
        log_density = log_density.nan_to_num(-torch.inf, neginf=-torch.inf)
        return Integral(log_density, error.masked_fill(log_density == -torch.inf, 0.0))

    bounds = None
    if least is not None:
        loc = 0.0 if problem.loc is None else problem.loc[:, 0]
        others = 0.5 * (problem.latent_dim - 1) * (2 * math.pi / problem.precision).log()
        bounds = Bounds(z[:, 0] - loc, problem.precision, others - least)
    scale = covariance[:, 0, 0].sqrt()
    return _trapezoidal(in_parts, z[:, 0], scale, num_nodes - 1, most, tol, bounds)


def _given_first(problem: LatentProblem, x: Tensor, rows: Tensor) -> LatentProblem:
    """The problem of the other latents of some rows, given the first one ``(n,)`` of each."""
    chosen = problem.rows(rows)
    first, others = problem.map.without_first_latent()
    offset = x[:, None] * first
    return replace(
        chosen,
        map=others,
        loc=None if chosen.loc is None else chosen.loc[:, 1:],
        offset=offset if chosen.offset is None else offset + chosen.offset,
    )


class Bounds(NamedTuple):
    r"""An upper bound of a log density of one variable: :math:`c - \lambda (x - m)^2 / 2`.

    Attributes:
        centre: the centre of the nodes minus ``m``, ``(N,)``.
        precision: :math:`\lambda`, ``()``.
        constant: ``c``, ``(N,)``.
    """

    centre: Tensor
    precision: Tensor
    constant: Tensor

    def reach(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """How far below and above the centre the bound falls to a level, ``(N,)`` each."""
        square = 2 * (self.constant - level) / self.precision
        whole = square.clamp(min=0.0).sqrt()
        return -whole - self.centre, whole - self.centre


LogDensity = Callable[[Tensor, Tensor], Integral]
"""The log density at nodes ``(K, n)`` of the rows with numbers ``(n,)``, and its errors."""


def _trapezoidal(
    log_density: LogDensity,
    centre: Tensor,
    scale: Tensor,
    size: int,
    most: int,
    tol: float,
    bounds: Bounds | None = None,
) -> Integral:
    """The integral of a density of one variable for each row, ``(N,)``.

    Args:
        log_density: the log density.
        centre: where it is large, ``(N,)``.
        scale: roughly its standard deviation, ``(N,)``.
        size: intervals of the first rule.
        most: the most intervals.
        tol: the change at which the step of a row is no longer halved.
        bounds: an upper bound of the log density, or None if it is log-concave.
    """
    rows = torch.arange(len(centre), device=centre.device)
    highest = log_density(centre[None], rows).log_value[0]
    if bounds is None:
        below, above = (
            _reach(log_density, centre, direction * scale, highest - DROP, rows)
            for direction in (-1.0, 1.0)
        )
    else:
        below, above = _scanned(log_density, centre, bounds, highest, rows)
        # The rule must not step over a mode.
        intervals = ((above - below) / scale).nan_to_num(0.0, posinf=0.0).amax()
        size = min(max(size, math.ceil(float(intervals))), most - most % 4)
    low, width = centre + below, above - below
    # The second rule has the nodes of the first, and those in the middle between them. Every fourth
    # node is a rule too, from each of the first four.
    size = 4 * math.ceil(size / 4)
    places = torch.arange(size + 1).to(centre)[:, None] / size
    found, errors = log_density(low + places * width, rows)
    step = (width / size).log()
    value = found.logsumexp(0) + step
    sums = torch.stack([found[k::4].logsumexp(0) for k in range(4)])
    error, halvings = _error(sums, value - step, 0), 0
    # The errors at nodes, weighted by the share of each node in the integral.
    at_nodes = (found.softmax(0) * errors).sum(0)
    while size * 2 <= most and len(rows := (error > tol).nonzero().squeeze(-1)):
        middle = (
            torch.arange(size, dtype=centre.dtype, device=centre.device)[:, None] + 0.5
        ) / size
        found, errors = log_density(low[rows] + middle * width[rows], rows)
        added = found.logsumexp(0) + (width[rows] / size).log()
        finer = torch.logaddexp(value[rows], added) - math.log(2)
        share = (added - finer - math.log(2)).exp()
        of_added = (found.softmax(0) * errors).sum(0)
        at_nodes[rows] = (1 - share) * at_nodes[rows] + share * of_added
        value[rows] = finer
        size, halvings = size * 2, halvings + 1
        middles = [found[k::2].logsumexp(0) for k in range(2)]
        pairs = [torch.logaddexp(*sums[k::2, rows]) for k in range(2)]
        sums[:, rows] = torch.stack([pairs[0], middles[0], pairs[1], middles[1]])
        error[rows] = _error(sums[:, rows], finer - (width[rows] / size).log(), halvings)
    return Integral(value, error + at_nodes)


def _error(sums: Tensor, total: Tensor, halvings: int) -> Tensor:
    """A bound of the error of a log integral, ``(N,)``.

    Where a density is smooth, the error of a step is about the square of the error of twice the
    step. At a kink it is about a quarter, and then the change of one halving may be small by
    chance. Rules of four times the step that begin at four different nodes are not all equal there.

    Args:
        sums: logs of the sums over every fourth node, ``(4, N)``.
        total: the logs of the sums over all nodes, ``(N,)``.
        halvings: how often the step has been halved.
    """
    change = (total - torch.logaddexp(sums[0], sums[2]) - math.log(2)).abs()
    spread = (sums.amax(0) - sums.amin(0)).nan_to_num(0.0)
    of_spread = spread**3 if halvings < SMOOTH_HALVINGS else spread / EDGE_SPREAD
    return torch.maximum(change, of_spread)


def _scanned(
    log_density: LogDensity, centre: Tensor, bounds: Bounds, highest: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """How far below and above the centre a density with several modes is negligible, ``(N,)``.

    It is negligible where its bound is. Between, it is looked at on a grid: beyond the outermost
    of its points where the density is not negligible there is no mode.
    """
    lowest, furthest = bounds.reach(highest - DROP)
    places = torch.linspace(0, 1, SCANNED, dtype=centre.dtype, device=centre.device)[:, None]
    at = lowest + places * (furthest - lowest)
    found = log_density(centre + at, rows).log_value
    level = torch.maximum(found.amax(0), highest) - DROP
    there = (found > level) | (at.abs() <= (at[1] - at[0]))
    first = there.double().argmax(0)
    last = len(at) - 1 - there.flip(0).double().argmax(0)
    # One point further on each side.
    first, last = (first - 1).clamp(min=0), (last + 1).clamp(max=len(at) - 1)
    return at.gather(0, first[None])[0], at.gather(0, last[None])[0]


def least_losses(problem: LatentProblem) -> Tensor:
    """The least sum of the losses of each row over all linear predictors, ``(N,)``.

    Each loss is looked at on a grid of linear predictors, and where the observation is the mean.
    """
    best = problem.family.predictor(problem.y).nan_to_num(0.0, posinf=WIDEST, neginf=-WIDEST)
    least = problem.family.loss(best, problem.y)
    for eta in torch.linspace(-WIDEST, WIDEST, LOOKED_AT, dtype=best.dtype).tolist():
        least = torch.minimum(least, problem.family.loss(torch.full_like(best, eta), problem.y))
    return problem.weighted_losses(least).sum(-1)


def _reach(
    log_density: LogDensity, centre: Tensor, scale: Tensor, level: Tensor, rows: Tensor
) -> Tensor:
    """How far from the centre the log density falls to a level, within a factor of 2, ``(N,)``.

    The sign of ``scale`` is the direction. The density is log-concave: it stays below the level
    further on.
    """
    reach = REACH * scale

    def is_below(reach: Tensor, some: Tensor) -> Tensor:
        return log_density((centre[some] + reach)[None], some).log_value[0] <= level[some]

    shrinking = is_below(reach, rows)
    growing = (~shrinking).nonzero().squeeze(-1)
    some = shrinking.nonzero().squeeze(-1)
    # Only numbers that have overflowed need as many attempts.
    for _ in range(MOST_ATTEMPTS):
        if len(growing):
            reach[growing] *= GROWTH
            growing = growing[~is_below(reach[growing], growing)]
        if len(some):
            some = some[is_below(reach[some] / 2, some)]
            reach[some] /= 2
        if not len(growing) and not len(some):
            break
    return reach
