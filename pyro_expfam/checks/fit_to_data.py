"""Whether the fitted model could have made a table."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.checks.discrepancies import (
    Discrepancies,
    are_bits,
    by_kind,
    deviance,
    discrepancies,
    evenly_spaced,
    has_one_scale,
    kinds_with_dispersion,
)
from pyro_expfam.checks.replicates import Posterior, Score, replicates
from pyro_expfam.checks.rows_of_processes import gathered_rows
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import ConvergenceWarning
from pyro_expfam.families import Family
from pyro_expfam.families.kinds import Kind, places, take

NUM_REPLICATES = 30

MOST_ENTRIES = 1 << 17
"""The most entries that are compared. They suffice to find any misfit of consequence."""

MARGIN = 1.25
"""An outlier has a score this many times as large as the largest score in all replicates."""


class Comparison(NamedTuple):
    """A number of the observed table beside the same number of tables from the fitted model.

    Attributes:
        observed: the number of the observed table.
        expected: the mean over replicates.
        score: the difference, in standard deviations over replicates.
    """

    observed: float
    expected: float
    score: float


class Outliers(NamedTuple):
    """Rows or columns that stand out more than any row or column of the replicates.

    Attributes:
        places: their numbers, the worst first.
        ratios: their deviance or variance relative to the replicates.
    """

    places: list[int]
    ratios: list[float]


class Entry(NamedTuple):
    """An entry of the table.

    Attributes:
        row: its row.
        column: its column.
        observed: its value.
        expected: its expectation under the fitted model.
    """

    row: int
    column: int
    observed: float
    expected: float


class KindFit(NamedTuple):
    """The comparison of the columns of one law of a mixed table.

    Attributes:
        name: the name of this kind of column.
        family: its law.
        coverage: as in :class:`FitToData`, as are the others.
        dispersion: of these columns.
        zeros: of these columns.
        tail: of these columns.
        worst: among these columns.
    """

    name: str
    family: Family
    coverage: Comparison | None
    dispersion: Comparison | None
    zeros: Comparison | None
    tail: Comparison | None
    worst: Entry


class FitToData(NamedTuple):
    """The comparison of a table with tables drawn from the fitted model.

    An attribute is None if it does not apply to the family or the table.

    Attributes:
        num_rows: the number of rows that were compared.
        is_refitted: whether coefficients were fitted to each replicate, as they were to a table
            that trained the guide.
        are_bits: whether observations have two values. Their mean then determines their law, and
            the next four attributes are None.
        coverage: the share of entries inside their 90% predictive intervals.
        dispersion: the ratio of the residuals' variance to the family's, relative to the
            replicates; their mean is therefore 1.
        zeros: the share of zeros, for counts.
        tail: the deviance of the most surprising entries, in nats.
        shared: the largest eigenvalue of the residuals' correlations: what columns still share.
        columns: columns whose dispersion stands out.
        rows: rows whose deviance stands out.
        worst: the entry with the largest deviance.
        column_ratio: the dispersion of every column, relative to the replicates, ``(d,)``.
        kinds: the comparisons of the laws of a mixed table, but for bits.
    """

    num_rows: int
    is_refitted: bool
    are_bits: bool
    coverage: Comparison | None
    dispersion: Comparison | None
    zeros: Comparison | None
    tail: Comparison | None
    shared: Comparison | None
    columns: Outliers
    rows: Outliers
    worst: Entry
    column_ratio: Tensor
    kinds: tuple[KindFit, ...] = ()


@torch.no_grad()
def check_fit_to_data(
    problem: LatentProblem,
    z: Tensor,
    score: Score | None,
    priors: Tensor,
    posterior: Posterior | None = None,
    known: int | None = None,
) -> FitToData:
    """Compares a table with replicates of it.

    Source: Gelman, Meng and Stern, *Posterior predictive assessment of model fitness via realized
    discrepancies* (1996), with replicates that are fitted again as in a parametric bootstrap.

    Args:
        problem: the problem of the latents, in double precision and without batch dimensions.
        z: its root, ``(N, l)``.
        score: the gradient of the objective that the coefficients maximise, or None if they were
            not fitted to this table.
        priors: prior precisions of the coefficients of a column, ``(l + 1,)``.
        posterior: as in :func:`~pyro_expfam.checks.replicates.replicates`, like the next one.
        known: the place of a coefficient of every column that is known.
    """
    processes, (num_rows, _) = problem.processes, problem.count_rows()
    count = min(num_rows, max(1, MOST_ENTRIES // problem.num_features))
    chosen = evenly_spaced(num_rows, count).to(z.device)
    if count < num_rows:
        score, posterior = None, None if posterior is None else posterior.rows(chosen)
    if count < num_rows or processes.count > 1:
        problem, z = gathered_rows(problem, z, chosen)
    # Replicates are random: all processes take the replicates of the first.
    return processes.of_first(
        lambda: _compare_rows(problem, z, score, priors, posterior, known, chosen)
    )


def _compare_rows(
    problem: LatentProblem,
    z: Tensor,
    score: Score | None,
    priors: Tensor,
    posterior: Posterior | None,
    known: int | None,
    chosen: Tensor,
) -> FitToData:
    """The comparison of some rows, given their numbers in the table."""
    present = _present(problem)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        observed, of_kinds = discrepancies(problem, z, present), by_kind(problem, z, present)
        repeated, kinds_repeated = [], []
        for table in replicates(problem, z, NUM_REPLICATES, score, priors, posterior, known):
            repeated.append(discrepancies(*table, present))
            kinds_repeated.append(by_kind(*table, present))
    kinds = [
        (kind, of_kinds[k], [found[k] for found in kinds_repeated])
        for k, kind in enumerate(kinds_with_dispersion(problem))
    ]
    expected = Discrepancies(*(torch.stack(values) for values in zip(*repeated, strict=True)))
    ratio = (observed.columns - expected.columns.mean(0)).exp()
    return FitToData(
        num_rows=len(chosen),
        is_refitted=score is not None,
        are_bits=are_bits(problem.family),
        coverage=_compare(observed.coverage, expected.coverage),
        dispersion=_dispersion_of(problem, observed.columns, expected.columns, present),
        zeros=_compare_zeros(problem, present, observed.zeros, expected.zeros),
        tail=_compare(observed.tail, expected.tail),
        shared=_exponential(_compare(observed.shared, expected.shared)),
        columns=_outliers(observed.columns, expected.columns, ratio),
        rows=_outlying_rows(observed.rows, expected.rows, chosen),
        worst=_worst(problem, z, present, chosen),
        column_ratio=ratio,
        kinds=tuple(_of_kind(problem, z, present, chosen, *kind) for kind in kinds),
    )


def _of_kind(
    problem: LatentProblem,
    z: Tensor,
    present: Tensor,
    chosen: Tensor,
    kind: Kind,
    observed: Discrepancies,
    repeated: Sequence[Discrepancies],
) -> KindFit:
    """The comparison of the columns of one law."""
    expected = Discrepancies(*(torch.stack(values) for values in zip(*repeated, strict=True)))
    part = problem.predictors(kind.family, kind.predictors)
    there = take(present, kind.predictors)
    worst = _worst(part, z, there, chosen)
    columns = places(kind.columns, problem.num_columns)
    return KindFit(
        kind.name,
        kind.family,
        _compare(observed.coverage, expected.coverage),
        _dispersion_of(part, observed.columns, expected.columns, there),
        _compare_zeros(part, there, observed.zeros, expected.zeros),
        _compare(observed.tail, expected.tail),
        worst._replace(column=columns[worst.column]),
    )


def _present(problem: LatentProblem) -> Tensor:
    if problem.weights is None:
        return torch.ones_like(problem.y, dtype=torch.bool)
    return (problem.weights > 0).expand_as(problem.y)


def _compare(observed: Tensor, expected: Tensor) -> Comparison | None:
    if not bool(observed.isfinite() & expected.isfinite().all()):
        return None
    return Comparison(float(observed), float(expected.mean()), float(_scores(observed, expected)))


def _scores(observed: Tensor, expected: Tensor) -> Tensor:
    """Differences from the mean of replicates, in standard deviations of such a difference."""
    deviation = expected.std(0) * math.sqrt(1 + 1 / len(expected))
    # Among many places, some hardly vary over so few replicates.
    deviation = deviation.clamp(min=0.1 * float(deviation.median()))
    difference = observed - expected.mean(0)
    return torch.where(difference == 0, 0.0, difference / deviation)


def _dispersion_of(
    problem: LatentProblem, observed: Tensor, expected: Tensor, present: Tensor
) -> Comparison | None:
    """The dispersion over all columns, from the log dispersion of each."""
    if has_one_scale(problem.family):
        return _pooled_dispersion(observed, expected, present.sum(0).to(observed))
    return _dispersion(observed, expected)


def _pooled_dispersion(observed: Tensor, expected: Tensor, count: Tensor) -> Comparison | None:
    """The dispersion of all entries together, which a scale for the table is learnt from.

    An average over columns of the logarithm would differ from it wherever columns differ.
    """
    known = observed.isfinite() & expected.isfinite().all(0)
    if not bool(known.any()):
        return None
    weight = (count[known] / count[known].sum()).log()
    pooled, of_replicates = (
        torch.logsumexp(x[..., known] + weight, -1) for x in (observed, expected)
    )
    centre = of_replicates.mean()
    return _exponential(_compare(pooled - centre, of_replicates - centre))


def _dispersion(observed: Tensor, expected: Tensor) -> Comparison | None:
    """The dispersion over all columns, weighted by how precisely each column determines it."""
    known = observed.isfinite() & expected.isfinite().all(0)
    if not bool(known.any()):
        return None
    variance = expected[:, known].var(0)
    # No column counts more than twice as much as an ordinary one.
    weight = 1 / (variance + variance.median())
    weight = weight / weight.sum()
    centre = expected[:, known].mean(0)
    found = _compare((observed[known] - centre) @ weight, (expected[:, known] - centre) @ weight)
    return _exponential(found)


def _exponential(found: Comparison | None) -> Comparison | None:
    if found is None:
        return None
    return Comparison(math.exp(found.observed), math.exp(found.expected), found.score)


def _compare_zeros(
    problem: LatentProblem, present: Tensor, observed: Tensor, expected: Tensor
) -> Comparison | None:
    """The share of zeros, beside the share expected from the excess of the replicates."""
    found = _compare(observed, expected)
    if found is None:
        return None
    zeros = (problem.y == 0) & present
    share = float(zeros.sum() / present.sum())
    # The excess of few zeros may be larger than their share.
    expected_share = min(max(share - (found.observed - found.expected), 0.0), 1.0)
    return Comparison(share, expected_share, found.score)


def _outliers(observed: Tensor, expected: Tensor, ratio: Tensor) -> Outliers:
    """Places where the observed score exceeds the largest score of all replicates."""
    known = (observed.isfinite() & expected.isfinite().all(0)).nonzero().flatten()
    if not len(known):
        return Outliers([], [])
    observed, expected = observed[known], expected[:, known]
    largest = max(
        float(_scores(expected[r], torch.cat([expected[:r], expected[r + 1 :]])).abs().max())
        for r in range(len(expected))
    )
    high = (_scores(observed, expected).abs() > MARGIN * largest).nonzero().flatten()
    found = known[high]
    order = ratio[found].log().abs().argsort(descending=True)
    return Outliers(found[order].tolist(), ratio[found[order]].tolist())


def _outlying_rows(observed: Tensor, expected: Tensor, chosen: Tensor) -> Outliers:
    ratio = observed / expected.mean(0)
    found = _outliers(observed, expected, ratio)
    return Outliers(chosen[found.places].tolist(), found.ratios)


def _worst(problem: LatentProblem, z: Tensor, present: Tensor, chosen: Tensor) -> Entry:
    family, eta = problem.family, problem.predictor(z)
    surprise = torch.where(present, deviance(problem, eta), -1.0)
    row, column = divmod(int(surprise.argmax()), surprise.shape[1])
    values = (x[row, column] for x in (problem.y, family.expected_y(eta)))
    return Entry(int(chosen[row]), int(problem.column_of_predictor[column]), *map(float, values))
