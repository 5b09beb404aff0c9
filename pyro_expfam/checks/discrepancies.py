"""Discrepancies between a table and the model that was fitted to it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.evidence.expansion import Expansion
from pyro_expfam.families import (
    Bernoulli,
    Binomial,
    Columns,
    Family,
    Gaussian,
    Ising,
    Linked,
    Multinomial,
)
from pyro_expfam.families.kinds import Kind, take

NUM_PREDICTIONS = 19
"""Predictions of an entry. Together with the entry they have 20 ranks."""

INSIDE = (1, 18)
"""The ranks inside a 90% interval: 18 of the 20, by symmetry."""

PREDICTED_ENTRIES = 1 << 14
"""The most entries whose coverage is computed; they determine it to a quarter of a percent."""

LARGEST_RESIDUAL = 3.0
"""Residuals are clamped to so many standard deviations before they are correlated. Two columns with
a rare event in the same row would otherwise look the same."""

LEAST_DEVIATION = 0.7
"""Clamped residuals of a column are divided by their standard deviation, or by this if it is
larger. In a column of rare events nearly all residuals are close to zero and alike, and would look
correlated if they were scaled up to an ordinary column."""

TAIL = 1 / 500
"""The part of the entries, with the largest deviance, that measures how heavy the tails are."""

FEWEST_EVENTS = 5.0
"""The least sum of expected variances for which a column of counts has a known dispersion."""

EDGE = 50.0
"""The natural parameter that stands for an infinite one; the improbable outcome has exp(-50)."""


class Discrepancies(NamedTuple):
    """Differences of a table from its own fit; NaN for those that do not apply to the family.

    Attributes:
        columns: the log ratio of the sum of squared residuals to the sum of the variances under the
            family, per column, ``(d,)``.
        rows: the mean deviance of the entries, per row, ``(N,)``.
        zeros: the share of zeros minus the expected share, ``()``.
        tail: the mean over the 0.2% of entries with the largest deviance, in nats, ``()``: the gain
            in log density from the entry's own best natural parameter over the fitted one.
        shared: the log of the largest eigenvalue of the residuals' correlation matrix, in which
            columns of rare events count less, ``()``.
        coverage: the share of entries inside their 90% predictive intervals, ``()``.
    """

    columns: Tensor
    rows: Tensor
    zeros: Tensor
    tail: Tensor
    shared: Tensor
    coverage: Tensor


def by_kind(problem: LatentProblem, z: Tensor, present: Tensor) -> list[Discrepancies]:
    """How far the columns of each law of a mixed table are from their fit; bits are left out.

    Arguments are as in :func:`discrepancies`.
    """
    return [
        discrepancies(
            problem.predictors(kind.family, kind.predictors),
            z,
            take(present, kind.predictors),
            problem,
        )
        for kind in kinds_with_dispersion(problem)
    ]


def kinds_with_dispersion(problem: LatentProblem) -> list[Kind]:
    """The laws of a mixed table that are not of bits; none for a table of one family."""
    if problem.family.num_columns is None:
        return []
    return [kind for kind in problem.kinds if not are_bits(kind.family)]


def discrepancies(
    problem: LatentProblem, z: Tensor, present: Tensor, whole: LatentProblem | None = None
) -> Discrepancies:
    """How far a table is from its fit.

    Args:
        problem: the problem of the latents, in double precision and without batch dimensions.
        z: its root, ``(N, l)``.
        present: which entries are not missing, ``(N, d)``.
        whole: the problem whose root the latents are, if the table is a part of its table.
    """
    family, eta = problem.family, problem.predictor(z)
    variance = family.variance_of_y(eta)
    residual = torch.where(present, problem.y - family.expected_y(eta), 0.0)
    expected = torch.where(present, variance, 0.0)
    unknown = residual.new_tensor(math.nan)
    bits = are_bits(family)
    surprise = torch.where(present, deviance(problem, eta), 0.0)
    return Discrepancies(
        columns=_dispersions(problem, residual, expected),
        rows=surprise.sum(-1) / present.sum(-1),
        zeros=_zeros(problem, eta, present) if counts_zeros(family) else unknown,
        tail=unknown if bits else 0.5 * surprise.flatten().topk(_tail_size(present)).values.mean(),
        shared=_largest_eigenvalue(residual / variance.sqrt()).log(),
        coverage=unknown if bits else _coverage_of_some(problem, z, present, whole or problem),
    )


def _dispersions(problem: LatentProblem, residual: Tensor, expected: Tensor) -> Tensor:
    """The log ratios of variances by column; NaN for columns of bits, ``(columns,)``."""
    found = residual.new_full((problem.num_features,), math.nan)
    for kind in problem.kinds:
        if not are_bits(kind.family):
            at = kind.predictors
            found[at] = _dispersion(kind.family, take(residual, at), take(expected, at))
    return problem.of_columns(found)


def are_bits(family: Family) -> bool:
    """Whether an observation is an indicator, so that its mean determines its law."""
    if family.predictors_per_column > 1:
        return True
    if isinstance(family, Linked):
        return are_bits(family.base)
    if isinstance(family, Columns):
        return all(are_bits(part.family) for part in family.parts)
    if isinstance(family, Binomial):
        return bool((torch.as_tensor(family.total_count) == 1).all())
    return isinstance(family, Bernoulli | Ising)


def has_one_scale(family: Family) -> bool:
    """Whether all entries have the same Gaussian scale."""
    return isinstance(family, Gaussian) and torch.as_tensor(family.scale).numel() == 1


def counts_zeros(family: Family) -> bool:
    """Whether zero is one of many possible counts."""
    if isinstance(family, Columns):
        return all(counts_zeros(part.family) for part in family.parts)
    zero = torch.zeros(())
    return (
        family.support.is_discrete
        and family.num_levels is None
        and not are_bits(family)
        and bool(family.support.check(zero).all())
    )


def deviance(problem: LatentProblem, eta: Tensor) -> Tensor:
    """Twice the log density that an entry gains from its own best linear predictor."""
    family, y = problem.family, problem.y
    if isinstance(family, Multinomial):
        # The terms of a row add up to its deviance, and none is negative.
        mean = y.sum(-1, keepdim=True) * torch.softmax(eta, -1)
        return 2 * (torch.xlogy(y, y) - torch.xlogy(y, mean) - (y - mean))
    best = torch.nan_to_num(family.predictor(y), neginf=-EDGE, posinf=EDGE)
    return 2 * (family.loss(eta, y) - family.loss(best, y))


def _coverage_of_some(
    problem: LatentProblem, z: Tensor, present: Tensor, whole: LatentProblem
) -> Tensor:
    rows = rows_of_so_many_entries(problem, PREDICTED_ENTRIES)
    whitening = Expansion(whole.rows(rows), z[rows]).whitening
    return coverage(problem.rows(rows), z[rows], present[rows], whitening)


def rows_of_so_many_entries(problem: LatentProblem, entries: int) -> Tensor:
    """All rows, or evenly spaced rows with at most this number of entries."""
    count = min(problem.num_rows, max(1, entries // problem.num_features))
    return evenly_spaced(problem.num_rows, count).to(problem.map.device)


def evenly_spaced(num_rows: int, count: int) -> Tensor:
    """The numbers of some of the rows of a table, evenly spaced, ``(count,)``."""
    return (torch.arange(count, dtype=torch.float64) * num_rows / count).long()


def coverage(
    problem: LatentProblem, z: Tensor, present: Tensor, whitening: Tensor | None = None
) -> Tensor:
    """The share of entries inside the 90% interval of predictions from the Laplace posterior.

    An entry is ranked among draws of latents and observations. Ties are ranked at random, so that
    discrete entries drawn from the model have exactly the same coverage as continuous ones.
    """
    y = problem.y
    below, equal = torch.zeros_like(y), torch.zeros_like(y)
    if whitening is None:
        whitening = Expansion(problem, z).whitening
    for predicted in predictions(problem, z, NUM_PREDICTIONS, whitening):
        below += predicted < y
        equal += predicted == y
    rank = below + torch.floor((equal + 1) * torch.rand_like(y))
    inside = (rank >= INSIDE[0]) & (rank <= INSIDE[1])
    return (inside & present).sum() / present.sum().double()


def predictions(
    problem: LatentProblem, z: Tensor, count: int, whitening: Tensor
) -> Iterable[Tensor]:
    """Tables ``(N, d)`` drawn from a normal posterior of the latents around ``z``."""
    for _ in range(count):
        noise = torch.randn_like(z).unsqueeze(-2)
        latents = z + (noise @ whitening).squeeze(-2)
        yield problem.family.sample(problem.predictor(latents))


def _dispersion(family: Family, residual: Tensor, expected: Tensor) -> Tensor:
    sums = expected.sum(0)
    enough = sums > (FEWEST_EVENTS if family.support.is_discrete else 0.0)
    ratio = residual.square().sum(0) / torch.where(enough, sums, 1.0)
    return torch.where(enough & (ratio > 0), ratio.log(), torch.nan)


def _zeros(problem: LatentProblem, eta: Tensor, present: Tensor) -> Tensor:
    family, none = problem.family, torch.zeros_like(eta)
    is_zero = (problem.y == 0).double()
    if isinstance(family, Multinomial):
        # One count of a composition is binomial.
        total = problem.y.sum(-1, keepdim=True)
        expected = (total * torch.log1p(-torch.softmax(eta, -1))).exp()
    else:
        expected = family.log_prob(none, eta).exp()
    excess = is_zero - expected
    return torch.where(present, excess, 0.0).sum() / present.sum()


def _tail_size(present: Tensor) -> int:
    return max(1, round(TAIL * int(present.sum())))


def _largest_eigenvalue(residual: Tensor) -> Tensor:
    residual = residual.clamp(-LARGEST_RESIDUAL, LARGEST_RESIDUAL)
    residual = residual / residual.square().mean(0).sqrt().clamp(min=LEAST_DEVIATION)
    if not bool(residual.isfinite().all()):
        return residual.new_tensor(math.nan)
    few = residual if residual.shape[0] < residual.shape[1] else residual.mT
    return torch.linalg.eigvalsh(few @ few.mT)[-1] / len(residual)
