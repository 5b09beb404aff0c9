"""Whether a fit is finished, in words."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from pyro_expfam.checks.block import BlockCheck
from pyro_expfam.checks.estimates import UNUSED_INFORMATION, is_at_optimum, is_near_optimum
from pyro_expfam.checks.finding import NOTE, OK, PROBLEM, Finding
from pyro_expfam.checks.names import listing

ORDINARY_SPREAD = (0.5, 2.0)
"""Latents with a mean square in this range, relative to the prior variance, fit their prior."""

LARGE_LOADING = (
    "the loading is too large for this prior, as joint MAP makes it. Natural parameters of rows "
    "then seem too uncertain, and new rows are explained less well than after training with "
    "pyro_expfam.LaplaceEvidence."
)
SMALL_LOADING = (
    "the loading is too small for this prior, and natural parameters of rows seem too certain."
)
LEARN_LOADING_SCALE = (
    "The loading_scale decides: take loading_scale=None with "
    "loss=pyro_expfam.LaplaceEvidence(), learn it by learn_loading_scale of a LaplaceGuide with "
    'globals="laplace", or take the one that pyro_expfam.compare_latent_dims learns.'
)


def training_findings(check: BlockCheck) -> list[Finding]:
    """Whether latents, loading and intercept are where training should have brought them."""
    return [*_convergence(check), *_training(check), *_columns(check), *_latents(check)]


def _uniqueness(check: BlockCheck) -> str:
    """What is said of roots that need not be the only ones."""
    if check.conditioning.is_unique:
        return "."
    cause = (
        "Sites beside tables and normal priors may have a log density that is not concave"
        if check.conditioning.has_term
        else "The loss of this family is not convex"
    )
    return (
        f", a stationary point. {cause}: a row may have other stationary points, with a higher "
        "density."
    )


def _convergence(check: BlockCheck) -> Iterator[Finding]:
    if not check.conditioning.is_first:
        return
    rows, others = check.rows, check.conditioning.others
    failed = ~rows.converged
    if bool(failed.any()):
        worst = float(rows.residual[failed].max())
        yield Finding(
            PROBLEM,
            "solving",
            f"{check.names.of_rows(failed)} {_be(failed)} not at the root of the score; the "
            f"farthest is {worst:.2g} posterior sd away. The checks of posterior and evidence "
            "leave them out. Give the guide another solver, or more iterations.",
        )
    else:
        yield Finding(
            OK,
            "solving",
            f"the latents of all {check.num_rows:,} rows are at the root of the score"
            f"{f' given {others}' if others else ''}{_uniqueness(check)}",
        )
    blank = rows.num_entries == 0
    if bool(blank.any()):
        yield Finding(
            NOTE,
            "solving",
            f"{check.names.of_rows(blank)} {_be(blank)} without any entry: the posterior of their "
            f"latents is the prior{'' if check.conditioning.is_of_tables else ' and other sites'}.",
        )


def _training(check: BlockCheck) -> Iterator[Finding]:
    found = check.estimates
    nearest = found.nearest
    left_out = check.conditioning.left_out
    if left_out:
        yield Finding(
            NOTE,
            "training",
            "the guide finds the latents from tables alone, by condition_on='table', and other "
            f"sites depend on them too ({listing(map(repr, left_out))}). The checks leave these "
            "out, and the distance of loading and intercept from an optimum is not checked.",
        )
        return
    if nearest is None:
        yield Finding(
            NOTE,
            "training",
            "the prior of loading or intercept is your own: their distance from an optimum is not "
            "checked.",
        )
        return
    if bool(found.run_away.any()) and _has_no_noise(check):
        yield Finding(
            PROBLEM,
            "training",
            "natural parameters have a standard deviation of "
            f"{float(found.reach.max()):.2g} in units of a learnt spread that has run to nothing: "
            "objectives are flat there, and the distance from an optimum is unknown.",
        )
        return
    if bool(found.run_away.any()):
        yield Finding(
            PROBLEM,
            "training",
            "the loading has run away: natural parameters have a standard deviation of "
            f"{float(found.reach.max()):.2g}, at which observations no longer vary and objectives "
            "are flat, so that the distance from an optimum is unknown. Give the block a "
            "loading_scale, train with pyro_expfam.LaplaceEvidence to first order, or take fewer "
            "latents.",
        )
        return
    gap, objective = nearest
    step = (
        f"the next step of scoring would move them by {gap.distance:.2g} sd, and gain "
        f"{gap.gain:.2g} nats a row."
    )
    unsolved = _basis(check)
    if is_at_optimum(gap):
        yield Finding(
            NOTE if unsolved else OK,
            "training",
            f"loading and intercept are at an optimum of the {objective}: {step}{unsolved}",
        )
    elif is_near_optimum(gap):
        advice = f" This is expected if {_excuse(check)}; otherwise train longer."
        yield Finding(
            NOTE,
            "training",
            f"loading and intercept are near an optimum of the {objective}, not at it: {step}"
            f"{unsolved or advice}",
        )
    else:
        yield Finding(
            PROBLEM,
            "training",
            f"loading and intercept are far from any optimum: {step}"
            f"{unsolved or _reason_of_distance(check)}",
        )
    if found.has_flat_loading and objective == "joint density":
        yield Finding(
            PROBLEM,
            "training",
            "the loading has a flat prior. Joint MAP then has no optimum: latents shrink and "
            "loadings grow without end. Give the block a loading_scale, or train with "
            "pyro_expfam.LaplaceEvidence.",
        )


def _has_no_noise(check: BlockCheck) -> bool:
    """Whether latents explain columns exactly, whose spread was to be learnt."""
    return any(spread.explained for spread in check.spreads)


def _is_trained(check: BlockCheck) -> bool:
    nearest = check.estimates.nearest
    return nearest is None or is_near_optimum(nearest[0])


def _basis(check: BlockCheck) -> str:
    """A warning that the step rests on rows that are not solved, if there are any."""
    failed = ~check.rows.converged
    if not bool(failed.any()):
        return ""
    return (
        f" This rests on {check.names.of_rows(failed)} that {_be(failed)} not solved, and means "
        "little before that."
    )


def _reason_of_distance(check: BlockCheck) -> str:
    if not check.is_whole_model:
        return (
            " The guide is not trained, or was trained on other rows, by another loss, or with "
            "other latents that are no point estimates."
        )
    return " The guide is not trained, or was trained on too few rows or on rows unlike these."


def _excuse(check: BlockCheck) -> str:
    rows = "these rows did not train the guide"
    return rows if check.is_whole_model else f"{rows}, or other parts of the model matter"


def _columns(check: BlockCheck) -> Iterator[Finding]:
    found = check.estimates
    if found.extreme_features and found.has_flat_intercept:
        yield Finding(
            NOTE,
            "columns",
            f"{check.names.of_columns(found.extreme_features)} at one edge of what is possible in "
            "every row, such as all zero. Under a flat prior the intercept runs away, and its "
            "value means nothing. Drop them, or keep the block's default intercept_scale.",
        )
    if found.unseen_levels:
        levels = check.family.column_of_predictor(check.num_features).bincount().tolist()
        one = len(found.unseen_levels) == 1
        listed = listing(check.names.level(place, levels) for place in found.unseen_levels)
        unknown = (
            "Under a flat prior their intercepts run away: keep the block's default "
            "intercept_scale."
            if found.has_flat_intercept
            else "Their loading and intercept are what the priors say."
        )
        yield Finding(
            NOTE,
            "columns",
            f"{len(found.unseen_levels):,} level{'' if one else 's'} ({listed}) "
            f"{'is' if one else 'are'} never seen. {unknown}",
        )
    if found.empty_features:
        yield Finding(
            NOTE,
            "columns",
            f"{check.names.of_columns(found.empty_features)} without any entry: their loading and "
            "intercept are unknown.",
        )


def _latents(check: BlockCheck) -> Iterator[Finding]:
    found, size = check.estimates, check.latent_dim
    silent = found.information < UNUSED_INFORMATION
    run_away = found.run_away
    unused = int((silent & ~run_away).sum())
    if bool(run_away.any()) and not _has_no_noise(check):
        lost = int(run_away.sum())
        yield Finding(
            PROBLEM,
            "latents",
            f"{lost} of {size} {'has' if lost == 1 else 'have'} run away with the loading: "
            "observations are certain under these latents and do not inform about them.",
        )
    if unused:
        alone = len(check.conditioning.blocks) == 1
        by = "not used" if alone else "not used by this table"
        yield Finding(
            PROBLEM if unused == size and alone else NOTE,
            "latents",
            f"{unused} of {size} {'is' if unused == 1 else 'are'} {by}: the loading there is too "
            "small for rows to inform about the latent.",
        )
    low, high = ORDINARY_SPREAD
    if (
        not bool(silent.all() | run_away.any())
        and _is_trained(check)
        and check.conditioning.is_first
        and (found.spread < low or found.spread > high)
    ):
        yield Finding(
            NOTE,
            "latents",
            f"their mean square is {found.spread:.2g} times the prior variance: "
            f"{LARGE_LOADING if found.spread < 1 else SMALL_LOADING} {LEARN_LOADING_SCALE}",
        )
    if not (check.conditioning.has_rotations and check.conditioning.is_first):
        return
    basis = "a rotation" if size > 1 else "their sign"
    yield Finding(
        NOTE,
        "latents",
        f"they are known up to {basis}{_unless_fixed(check)}: compare coordinates of fits or draws "
        "after pyro_expfam.align.",
    )


def _unless_fixed(check: BlockCheck) -> str:
    sites = (*check.conditioning.sites, *check.conditioning.left_out)
    return f", unless other sites ({listing(map(repr, sites))}) fix their basis" if sites else ""


def _be(which: Tensor) -> str:
    return "is" if int(which.sum()) == 1 else "are"
