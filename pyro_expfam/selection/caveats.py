"""What to keep in mind when reading a comparison, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from pyro_expfam.coefficients.covariance import LARGEST_DENSE
from pyro_expfam.deq.supports import describe
from pyro_expfam.families import Columns, Family
from pyro_expfam.guides.coefficient_draws import parameters_to_draw
from pyro_expfam.selection.candidate import Scores
from pyro_expfam.selection.measures import are_whole_numbers, is_discrete
from pyro_expfam.selection.model_comparison import ComparedModel, ModelComparison

LARGE_KHAT = 0.7
"""Beyond this Pareto shape an estimate by importance sampling is unreliable."""

EXCESS = 1e-6
"""A log probability above this number of nats is none."""

NARROW, WIDE = 0.87, 0.95
"""Shares of entries in 90% intervals between which a law is about as wide as the table.

Latents are fitted to the entries that they predict, so that the share of a right law is somewhat
above 90% where columns are few.
"""

ZEROS = 0.02
"""A difference between shares of zeros that matters."""


def caveats(
    comparison: ModelComparison,
    scores: Mapping[tuple[str, int], Scores],
    families: Mapping[str, Family],
    y: Tensor,
) -> Iterator[str]:
    """All that applies, the gravest first.

    Args:
        comparison: the scores.
        scores: what the fits have shown, by family and number of latents.
        families: the families by name.
        y: the table, with NaN for missing entries.
    """
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in comparison.rows:
        if row.failed:
            reasons.setdefault((row.family, row.failed), []).append(str(row.latent_dim))
    for (family, reason), numbers in reasons.items():
        yield f"{family} has no fit with {', '.join(numbers)} latents: {reason}"
    yield from _of_fits(comparison.rows, scores, families)
    yield from _of_choice(comparison)
    yield from _of_densities(families, y)


def _of_fits(
    rows: Sequence[ComparedModel],
    scores: Mapping[tuple[str, int], Scores],
    families: Mapping[str, Family],
) -> Iterator[str]:
    for row in rows:
        found = scores.get((row.family, row.latent_dim))
        if found is None:
            continue
        if not found.converged:
            yield f"the fit of {_name(row)} has not converged: its scores are too low"
        if found.no_loo:
            yield f"{_name(row)} has no LOO: {found.no_loo}"
        excess = int((found.evidence > EXCESS).sum())
        if excess and is_discrete(families[row.family]):
            yield (
                f"the evidence of {_rows(excess)} of {_name(row)} is above what a probability can "
                "be: the expansion does not hold for them, and the loading has run away"
            )
    unreliable = [f"{row.unreliable} of {_name(row)}" for row in rows if row.unreliable]
    if unreliable:
        yield (
            f"LOO is unreliable for some rows (k-hat above {LARGE_KHAT}), {', '.join(unreliable)}: "
            "read held_out"
        )
    blocks = [found.guide.model for found in scores.values()]
    if any(x._learnt_of_family and not parameters_to_draw(x) for x in blocks):
        yield (
            "LOO takes learnt parameters of a family for known in tables of more than "
            f"{LARGEST_DENSE:,} coefficients; held_out learns them anew"
        )


def _of_choice(comparison: ModelComparison) -> Iterator[str]:
    best = next(row for row in comparison.rows if row[:2] == comparison.best)
    others = [row for row in comparison.close if row is not best]
    if others:
        yield (
            f"within one standard error of the largest held_out are {_name(best)} and "
            f"{', '.join(_name(row) for row in others)}: the first has the fewest parameters"
        )
    numbers = {row.latent_dim for row in comparison.rows}
    largest = max(numbers)
    if len(numbers) > 1 and best.latent_dim == largest:
        yield f"the best has the largest number of latents, {largest}: try larger ones"
    if best.coverage < NARROW:
        yield (
            f"90% predictive intervals of the best hold only {best.coverage:.0%} of the entries: "
            "entries vary more than all of these families say, see check"
        )
    if best.coverage > WIDE:
        yield (
            f"90% predictive intervals of the best hold {best.coverage:.0%} of the entries: "
            "entries vary less than it says"
        )
    if abs(best.zeros - best.zeros_observed) > ZEROS:
        yield (
            f"the best predicts {best.zeros:.1%} zeros, and the table has {best.zeros_observed:.1%}"
        )


def _of_densities(families: Mapping[str, Family], y: Tensor) -> Iterator[str]:
    supports = {
        name: describe(family.support)
        for name, family in families.items()
        if not isinstance(family, Columns)
    }
    if len(set(supports.values())) > 1:
        listed = ", ".join(f"{support} ({name})" for name, support in supports.items())
        yield (
            f"supports differ: {listed}. A family pays for the probability that it gives to "
            "values that cannot occur"
        )
    continuous = [name for name, family in families.items() if not is_discrete(family)]
    if continuous and are_whole_numbers(y):
        yield (
            f"the table holds whole numbers alone, and {', '.join(continuous)} gives densities: "
            "these scores do not compare with scores of families of counts"
        )


def _name(row: ComparedModel) -> str:
    return f"{row.family} with {row.latent_dim} latent{'s' if row.latent_dim > 1 else ''}"


def _rows(count: int) -> str:
    return f"{count:,} row{'s' if count > 1 else ''}"
