"""Comparison of numbers of latents by held-out evidence."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple, SupportsIndex

import torch
from torch import Tensor

from pyro_expfam.coefficients import (
    CoefficientCovariance,
    LearntScale,
    learn_loading_scale,
    learn_noise_scale,
    log_orbit_volume,
    maximise_evidence,
    scale_of,
    with_scale,
)
from pyro_expfam.coefficients.maximum import coefficients_of, loading_of, with_coefficients
from pyro_expfam.deq.covariates import count_covariates
from pyro_expfam.deq.family_check import check_family
from pyro_expfam.deq.inference_mode import outside_inference_mode
from pyro_expfam.deq.layer import make_problem, make_solver
from pyro_expfam.deq.limits import check_positive, check_size
from pyro_expfam.deq.observations import (
    Missing,
    Observations,
    as_tensor,
    check_missing,
    check_observations,
    covariates_of,
)
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.processes import Processes, processes_of
from pyro_expfam.deq.solver import Solver
from pyro_expfam.evidence import laplace_evidence
from pyro_expfam.families import Family, Gaussian
from pyro_expfam.guides.table_objective import names_of
from pyro_expfam.joint import JointProblem, NoiseScaleProblem, TableInMemory
from pyro_expfam.joint.design_check import check_design
from pyro_expfam.joint.frame_names import FrameNames, check_names_in_processes
from pyro_expfam.joint.spectral import spectral_start
from pyro_expfam.models import known_scale
from pyro_expfam.models.priors import known_coefficient_scale
from pyro_expfam.runtime.progress import progress_bar
from pyro_expfam.selection.accurate_evidence import accurate_evidence
from pyro_expfam.selection.folds import check_folds
from pyro_expfam.selection.held_out_parts import HoldOut, Part, check_hold_out, parts
from pyro_expfam.selection.jobs import check_jobs, run_jobs
from pyro_expfam.selection.latent_dims import LatentDim, LatentDims
from pyro_expfam.selection.learnt_family import LearntFamily
from pyro_expfam.selection.leaving_entries_out import has_closed_form, leave_entries_out
from pyro_expfam.selection.rare_columns import rare_columns, warn_of_rare_columns, without_columns
from pyro_expfam.user_warning import warn_user

MAX_TURNS = 10
"""Turns of learning the scale of the noise, and the scale of the loading in units of the noise."""

AT_REST = 1e-3
"""Both scales are at rest when the scale of the noise changes by less than this relative amount."""

MANY = 0.1
"""More entries than this part of a table that determine their own predictors are worth a word."""

FOLD_TOLERANCE = 1e-8
"""The tolerance of the fits that leave a fold out.

The error is far below the standard error of the evidence of the fold.
"""


@torch.no_grad()
@outside_inference_mode()
def compare_latent_dims(
    family: Family,
    y: Any,
    dims: Iterable[SupportsIndex],
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    covariates: Any = None,
    intercept_scale: float | Literal["weak"] | None = "weak",
    num_folds: int = 5,
    progress: bool | None = None,
    missing: Missing = None,
    hold_out: HoldOut = "rows",
    n_jobs: int | None = None,
    processes: Any = None,
) -> LatentDims:
    r"""Fits a table with each number of latents, and scores each number on what is held out.

    Loading and intercept are at the maximum of the evidence. The scale of the loading, one for all
    latents, is learnt. There are two criteria:

    - ``held_out`` is the log evidence of every row under a fit without the rows of its fold: to
      second order, or by importance sampling where the second order is uncertain. With
      ``hold_out="entries"`` it is the log density of entries given the rest of their rows. The
      number of latents with the largest ``held_out`` is ``best``, and the smallest number within
      one standard error of it is ``one_standard_error``.
    - ``evidence`` is the log evidence of the whole table with loading and intercept integrated out,
      by the Laplace approximation to first order, over all rotations of the latents. Under a flat
      prior of the intercept it is known up to a constant, the same for every number.

    Held-out evidence takes one fit per fold. It needs no expansion in the loading, which is poor
    for latents that are not needed. The scale of the loading is the only part of these fits that
    depends on the held-out rows: it is learnt once, on all rows.

    Entries are held out one by one in closed form, from the fit of the table and the covariance of
    its coefficients, so that no fit is repeated. Where columns have several linear predictors, as
    categories have, entries are held out in folds, with a fit for each. Rows ask how probable a new
    row is; entries ask how well the rest of a row predicts an entry, as for a table with holes.
    For families beside numbers of latents see :func:`~pyro_expfam.compare`.

    Args:
        family: the law of the observations. The scale of ``Gaussian()`` is learnt for each
            number of latents, and for each fold on the rows that are not held out. So are the
            parameters that any other family leaves open, such as the size of
            ``NegativeBinomial()``, by a fit of the evidence under the learnt scale of the loading.
        y: observations, ``(N, d)``: a tensor, an array or a data frame.
        dims: the numbers of latents to compare.
        offset: known part of the natural parameters, broadcastable to ``(N, d)``.
        mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
        weights: non-negative weights of the log densities of entries, broadcastable to ``(N, d)``.
        covariates: known numbers of each row, ``(N, p)``. Their coefficients are fitted with
            loading and intercept under the default prior of a block, in every fold anew.
        intercept_scale: prior standard deviation of the intercepts; ``"weak"`` for the family's
            default, as in :class:`~pyro_expfam.ExpFamPCA`, None for a flat prior.
        num_folds: parts of the rows, each held out once; at least 2.
        progress: whether to show a bar over the fits, ``num_folds + 1`` for each number of
            latents; by default in terminals and notebooks only.
        missing: ``"nan"`` if NaN in ``y``, and every missing value of a frame, is a missing entry;
            None if it is an error.
        hold_out: ``"rows"`` or ``"entries"``.
        n_jobs: processes for the numbers of latents, each with one thread, -1 for one per
            processor. The result is the same for any number of processes. None for this process,
            with all of its threads.
        processes: the processes of ``torch.distributed`` that hold the rows, as for ``guide.fit``.
            Each passes rows of its own, at least one, and all have the comparison that one process
            with all rows would make. Rows whose evidence is sampled have other draws.

    Returns:
        The :class:`~pyro_expfam.selection.LatentDims`: scores of each number, with standard errors.

    Raises:
        TypeError: if an argument holds no real numbers, or ``dims`` is a single number.
        ValueError: if ``dims`` is empty, a number is not between 1 and ``d``, or ``d (K - 1)`` for
            categories with ``K`` levels, there are fewer than 2 folds or more folds than rows,
            ``intercept_scale`` is not positive, or None for categories, or the evidence has no
            maximum under any number, or covariates determine one another under a flat prior of the
            intercept. If ``hold_out`` is another word, or single entries of the family cannot be
            missing, or ``n_jobs`` is no number of processes, or is given together with
            ``processes``.
        ~pyro_expfam.joint.ProcessesError: if another process has stopped.

    Warns:
        ConvergenceWarning: if the scale of the loading ends at its bound, 30, which it reaches on
            counts or bits that vary far more than the family lets them.
        UserWarning: if the evidence has no maximum under some number: its scores are NaN.
            Also if columns with fewer than three informative entries outside a fold, such as
            counts above zero, carry much of the difference between numbers of latents.
            Also if the best number is the largest of several: a larger one may be better.
            Also if many entries determine their own linear predictors, so that leaving them out is
            no small change.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> _ = torch.manual_seed(0)
        >>> y = torch.poisson(torch.exp(torch.randn(100, 1) @ torch.randn(1, 6)))
        >>> comparison = pef.compare_latent_dims(pef.families.Poisson(), y, [1, 2], num_folds=2)
        >>> comparison.best
        1

    Source: Tierney and Kadane (1986) for the evidence; Minka (2000) for its rotations.
    """
    check_family(family)
    group = processes_of(processes, y if isinstance(y, Tensor) else torch.zeros(()))
    with group.together():
        return _comparison(
            group,
            family,
            (y, offset, mask, weights, covariates, missing),
            _numbers_of_latents(dims),
            intercept_scale,
            num_folds,
            progress,
            hold_out,
            n_jobs,
        )


def _comparison(
    processes: Processes,
    family: Family,
    arguments: tuple[Any, Any, Any, Any, Any, Missing],
    numbers: list[int],
    intercept_scale: float | Literal["weak"] | None,
    num_folds: int,
    progress: bool | None,
    hold_out: HoldOut,
    n_jobs: int | None,
) -> LatentDims:
    """The comparison by the processes that hold the rows."""
    names, table = names_of(arguments[1:5]), _checked_table(family, *arguments)
    check_names_in_processes(processes, FrameNames.of(family, arguments[0], arguments[4]))
    y = table.y
    # One linear predictor of a category is redundant.
    num_levels = family.observation_of_predictor(y.shape[-1]).bincount()
    largest = int((num_levels - 1).clamp(min=1).sum())
    for number in numbers:
        if number > largest:
            raise ValueError(
                f"dims must be at most {largest} for {y.shape[-1]} columns, got {number}"
            )
    num_rows, hold_out = sum(processes.gather(len(y))), check_hold_out(hold_out)
    num_folds, n_jobs = check_folds(num_folds, num_rows), check_jobs(n_jobs)
    if processes.count > 1 and n_jobs is not None:
        raise ValueError(
            f"n_jobs must be None where several processes hold the rows, got {n_jobs!r}"
        )
    prior_scale: Any = known_scale("intercept", family, y.shape[-1], intercept_scale)
    if not isinstance(intercept_scale, str) and prior_scale is not None:
        prior_scale = check_positive("intercept_scale", prior_scale)
    if prior_scale is None and family.is_coupled:
        raise ValueError(
            "intercept_scale must be positive for categories, got None: a number that is added to "
            "the intercepts of all levels changes no probability, and only a prior determines it"
        )
    known_prior = _known_prior(family, table, prior_scale)
    check_design(_table_of(_law_to_start(family), table, processes), known_prior, names)
    plain = _plain_problem(family, table, processes)
    if hold_out == "entries" and has_closed_form(plain):
        fits_per_number, rare = 1, rare_columns(plain)
    else:
        fits_per_number, rare = num_folds + 1, _rare_in_a_part(plain, hold_out, num_folds)
    jobs = [
        partial(
            _scored,
            processes,
            family,
            table,
            number,
            prior_scale,
            known_prior,
            hold_out,
            num_folds,
        )
        for number in numbers
    ]
    fits: list[_Scored] = []
    failed: dict[int, ValueError] = {}
    drawn = progress if processes.number == 0 else False
    with progress_bar(drawn, total=len(numbers) * fits_per_number, unit="fit") as bar:
        results = run_jobs(jobs, n_jobs, fits_per_number, bar.update)
        for number, (fit, error) in zip(numbers, results, strict=True):
            bar.set_description(f"{number} latent{'s' if number > 1 else ''}")
            fits.append(fit)
            if error is not None:
                failed[number] = error
    scored = [fit for fit in fits if fit.number not in failed]
    if not scored:
        raise failed[numbers[0]]
    if processes.number == 0:
        _warn_of_scores(scored, failed, rare, num_rows * y.shape[-1])
    best = max((fit.by_row for fit in scored), key=lambda by_row: float(by_row.sum()))
    rows = tuple(
        LatentDim(
            fit.number,
            fit.evidence,
            float(fit.by_row.sum()),
            _standard_error(fit.by_row),
            float((best - fit.by_row).sum()),
            _standard_error(best - fit.by_row),
            fit.scale,
            fit.seconds,
        )
        for fit in fits
    )
    comparison = LatentDims(rows, largest, hold_out)
    if comparison.still_rises and processes.number == 0:
        _warn_of_larger_numbers(comparison)
    return comparison


class _Scored(NamedTuple):
    """A number of latents with its fit; NaN where the fit failed.

    Attributes:
        number: the number of latents.
        evidence: the log evidence of the table.
        scale: the learnt scale of the loading.
        by_row: held-out evidence per row, ``(N,)``.
        without_rare: the same without columns that are rare in the training rows, ``(N,)``.
        unreliable: entries that determine their own linear predictors for the most part.
        seconds: the time that the fits took.
    """

    number: int
    evidence: float
    scale: float
    by_row: Tensor
    without_rare: Tensor
    unreliable: int
    seconds: float


def _scored(
    processes: Processes,
    family: Family,
    table: Observations,
    number: int,
    prior_scale: Any,
    known_prior: Tensor,
    hold_out: HoldOut,
    num_folds: int,
    report: Callable[[], object],
) -> tuple[_Scored, ValueError | None]:
    """The scores of a number of latents, with the reason if it has no fit."""
    begin, error = time.perf_counter(), None
    with torch.no_grad():
        learn = None
        if family.to_learn(1) and not _learns_noise(family):
            learn = LearntFamily(family, number, prior_scale, processes)
        known = family if learn is None else learn(table, 1.0)
        problem = _start(known, table, number, known_prior, processes)
        try:
            fit = _fit(problem, known, known_prior, hold_out, num_folds, report, learn)
        except ValueError as reason:
            unknown = problem.b.new_full((problem.num_rows,), math.nan)
            fit, error = (math.nan, math.nan, unknown, unknown, 0), reason
    evidence, scale, *by_row, unreliable = fit
    # The scores of a row are two numbers, which every process has of all rows.
    held_out, without_rare = (
        torch.cat([x.to(rows.device) for x in processes.gather(rows.cpu())]) for rows in by_row
    )
    seconds = processes.of_first(lambda: time.perf_counter() - begin)
    return _Scored(number, evidence, scale, held_out, without_rare, unreliable, seconds), error


def _warn_of_scores(
    scored: list[_Scored], failed: dict[int, ValueError], rare: Tensor, num_entries: int
) -> None:
    """Warns of numbers of latents without a fit, and of scores that few entries decide."""
    if failed:
        _warn_of_failed(failed)
    warn_of_rare_columns(
        [fit.number for fit in scored],
        [fit.by_row for fit in scored],
        [fit.without_rare for fit in scored],
        rare,
    )
    many = [fit for fit in scored if fit.unreliable > MANY * num_entries]
    _warn_of_unreliable(many, num_entries)


def _warn_of_unreliable(fits: list[_Scored], size: int) -> None:
    if fits:
        shares = ", ".join(f"{fit.unreliable / size:.0%} under {fit.number}" for fit in fits)
        warn_user(
            "hold_out should be 'rows': many entries determine their own linear predictors for the "
            f"most part, {shares} latents, and what is left without them is an extrapolation"
        )


def _warn_of_failed(failed: dict[int, ValueError]) -> None:
    reasons = "; ".join(f"{number}: {error}" for number, error in failed.items())
    warn_user(
        f"dims must be numbers of latents that y can be fitted with. Left out are {reasons}",
    )


def _warn_of_larger_numbers(comparison: LatentDims) -> None:
    best = comparison.best
    smaller = [row for row in comparison.rows if row.latent_dim < best]
    second = max(smaller, key=lambda row: row.latent_dim)
    warn_user(
        f"dims should go further: the best number of latents, {best}, is the largest that was "
        f"tried. Held-out {comparison.hold_out} are more probable under it than under "
        f"{second.latent_dim} by "
        f"{second.difference:,.1f} nats (standard error {second.difference_se:,.1f})",
    )


def _checked_table(
    family: Family,
    y: Any,
    offset: Any,
    mask: Any,
    weights: Any,
    covariates: Any,
    missing: Missing,
) -> Observations:
    """The table in double precision, on its own device."""
    device = y.device if isinstance(y, Tensor) else None
    like = torch.zeros((), dtype=torch.float64, device=device)
    if not hasattr(y, "shape"):
        y = as_tensor("y", y, like)
    if len(y.shape) != 2:
        raise ValueError(f"y must have shape (rows, features), got {tuple(y.shape)}")
    return check_observations(
        family,
        y,
        y.shape[1],
        like,
        offset,
        mask,
        weights,
        covariates,
        missing=check_missing(missing),
        num_covariates=count_covariates(covariates),
    )


def _numbers_of_latents(dims: Iterable[SupportsIndex]) -> list[int]:
    """Checked numbers of latents."""
    try:
        numbers = list(dims)
    except TypeError:
        raise TypeError(
            f"dims must be several numbers of latents, such as [1, 2, 3], got {dims!r}"
        ) from None
    if not numbers:
        raise ValueError("dims must name at least one number of latents, got none")
    return [check_size("dims", number) for number in numbers]


def _precision_of(scale: Any, like: Tensor) -> Tensor:
    """The precision of a prior of a scale, ``()`` or one per linear predictor; 0 if it is flat."""
    return like.new_zeros(()) if scale is None else torch.as_tensor(scale).to(like).pow(-2)


def _standard_error(by_row: Tensor) -> float:
    return float(by_row.std() * math.sqrt(len(by_row)))


def _known_prior(family: Family, table: Observations, intercept_scale: Any) -> Tensor:
    """The prior precisions of intercept and coefficients of covariates, ``(1 + p,)``.

    Where they differ by linear predictor they are ``(d, 1 + p)``.
    """
    of_intercept = _precision_of(intercept_scale, table.y).unsqueeze(-1)
    if table.covariates is None:
        return of_intercept
    scale: Any = known_coefficient_scale(family, table.y.shape[-1], "weak")
    of_covariates = _precision_of(scale, table.y)
    if of_covariates.dim() < 2:
        of_covariates = of_covariates.unsqueeze(-1)
    size = table.covariates.shape[-1]
    shape = torch.broadcast_shapes(of_intercept.shape[:-1], of_covariates.shape[:-1])
    parts = [of_intercept.expand(*shape, 1), of_covariates.expand(*shape, size)]
    return torch.cat(parts, -1)


def _law_to_start(family: Family) -> Family:
    """The law under which a start is found: noise of a scale to be learnt has the scale 1."""
    return Gaussian(1.0) if _learns_noise(family) else family


def _table_of(family: Family, table: Observations, processes: Processes) -> TableInMemory:
    size = 0 if table.covariates is None else table.covariates.shape[-1]
    return TableInMemory(
        family, table.y.shape[-1], table.y, *table, num_covariates=size, processes=processes
    )


def _start(
    family: Family,
    table: Observations,
    latent_dim: int,
    known_prior: Tensor,
    processes: Processes,
) -> LatentProblem:
    """The problem of the latents at coefficients from the spectrum of the table."""
    num_features = table.y.shape[-1]
    known = _law_to_start(family)
    problem = _problem_of(known, table, latent_dim, processes)
    joint = JointProblem(
        _table_of(known, table, processes),
        problem.precision,
        1.0,
        known_prior[..., 0],
        covariate_precision=known_prior[..., 1:],
    )
    if not _learns_noise(family):
        return with_coefficients(problem, spectral_start(joint, latent_dim))
    by_column = _by_column(family, num_features)
    noise, start = NoiseScaleProblem.of(joint, by_column).spectral_start(latent_dim, make_solver())
    natural = noise.natural(start)
    problem = with_scale(problem, natural.scale if by_column else natural.scale[0])
    return with_coefficients(problem, natural.coefficients)


def _learns_noise(family: Family) -> bool:
    """Whether the scale of Gaussian noise is to be learnt."""
    return isinstance(family, Gaussian) and "scale" in family.to_learn(1)


def _by_column(family: Family, num_features: int) -> bool:
    """Whether every column has a scale of the noise of its own."""
    return family.to_learn(num_features)["scale"].dim() == 1


def _learn_scales(
    problem: LatentProblem,
    family: Family,
    prior: Tensor,
    solver: Solver,
    learn: LearntFamily | None,
) -> LearntScale:
    """Learns the scale of the loading, in turn with what the family leaves open.

    The scale of the loading is in units of the noise. The learnt precision of the loading is
    written into ``prior``, in place.
    """
    if learn is not None:
        return _learn_scale_and_family(problem, prior, solver, learn)
    free = torch.ones(prior.shape[-1], dtype=torch.bool, device=prior.device)
    size = problem.latent_dim
    for _ in range(MAX_TURNS):
        before = problem
        if _learns_noise(family):
            by_column = _by_column(family, len(problem.b))
            problem = learn_noise_scale(problem, prior, solver, by_column)
        learnt = learn_loading_scale(problem, prior, solver, free, by_latent=False)
        prior[..., :size] = learnt.scale.pow(-2)
        problem = learnt.problem
        if not _learns_noise(family):
            break
        change = (scale_of(problem) / scale_of(before)).log()
        if float(change.abs().max()) <= AT_REST:
            break
    return learnt


def _learn_scale_and_family(
    problem: LatentProblem, prior: Tensor, solver: Solver, learn: LearntFamily
) -> LearntScale:
    """Learns the scale of the loading in turn with parameters of the family."""
    free = torch.ones(prior.shape[-1], dtype=torch.bool, device=prior.device)
    learnt = learn_loading_scale(problem, prior, solver, free, by_latent=False)
    size = problem.latent_dim
    for _ in range(MAX_TURNS):
        scale = learnt.scale
        prior[..., :size] = scale.pow(-2)
        family = learn(_observations(problem), float(scale[0]))
        problem = replace(learnt.problem, family=family)
        learnt = learn_loading_scale(problem, prior, solver, free, by_latent=False)
        if float((learnt.scale / scale).log().abs().max()) <= AT_REST:
            break
    prior[..., :size] = learnt.scale.pow(-2)
    return learnt


def _observations(problem: LatentProblem) -> Observations:
    """The table of a problem."""
    x = None if problem.covariates is None else problem.covariates.x
    y = problem.family.decode(problem.y)
    return Observations(y, problem.known_offset, None, _column_weights(problem), x)


def _column_weights(problem: LatentProblem) -> Tensor | None:
    """The weights of the entries of the columns."""
    return None if problem.weights is None else problem.of_columns(problem.weights)


def _fit(
    problem: LatentProblem,
    family: Family,
    known_prior: Tensor,
    hold_out: HoldOut,
    num_folds: int,
    report: Callable[[], object],
    learn: LearntFamily | None,
) -> tuple[float, float, Tensor, Tensor, int]:
    """The evidence of the table, the scale of the loading, and held-out evidence per row.

    The next value is the held-out evidence per row without columns that are rare in the training
    rows, and the last one the number of unreliable entries. ``report`` is called after the fit of
    the table, and after the fit without each part. ``learn`` finds the parameters of the family on
    training rows, where it leaves some open.
    """
    solver = make_solver()
    of_loading = problem.b.new_ones(*known_prior.shape[:-1], problem.latent_dim)
    prior = torch.cat([of_loading, known_prior], -1)
    learnt = _learn_scales(problem, family, prior, solver, learn)
    evidence = _table_evidence(learnt.problem, prior, learnt.z, learnt.covariance)
    report()
    scale = float(learnt.scale[0])
    if hold_out == "entries" and has_closed_form(learnt.problem):
        left = leave_entries_out(learnt.problem, learnt.z, learnt.covariance, solver)
        kept = left.by_entry[:, ~rare_columns(learnt.problem)]
        return evidence, scale, left.by_entry.sum(-1), kept.sum(-1), left.unreliable
    by_row, without_rare = problem.y.new_zeros(2, problem.num_rows)
    for part in parts(learnt.problem, hold_out, num_folds):
        known = family if learn is None else learn(_observations(part.training), scale)
        coefficients, known = _fit_of_part(part, known, prior, solver)
        rare = rare_columns(part.training)
        for sign, scored in ((1.0, part.with_held_out), (-1.0, part.given)):
            if scored is None:
                continue
            at = with_coefficients(replace(scored, family=known), coefficients)
            found = accurate_evidence(at, solver)
            by_row[part.rows] += sign * found
            if bool(rare.any()):
                found = accurate_evidence(without_columns(at, rare), solver)
            without_rare[part.rows] += sign * found
        report()
    return evidence, scale, by_row, without_rare, 0


def _fit_of_part(
    part: Part, family: Family, prior: Tensor, solver: Solver
) -> tuple[Tensor, Family]:
    """Coefficients and family of the fit without a part."""
    if not _learns_noise(family):
        training = replace(part.training, family=family)
        fitted, _ = maximise_evidence(training, prior, solver, tol=FOLD_TOLERANCE)
        return coefficients_of(fitted), family
    by_column = _by_column(family, len(part.training.b))
    fitted = learn_noise_scale(part.training, prior, solver, by_column)
    return coefficients_of(fitted), with_scale(part.training, scale_of(fitted)).family


def _plain_problem(family: Family, table: Observations, processes: Processes) -> LatentProblem:
    """A problem of the table without loadings, under a law of its kind."""
    return _problem_of(_law_to_start(family), table, 1, processes)


def _problem_of(
    family: Family, table: Observations, latent_dim: int, processes: Processes
) -> LatentProblem:
    """The problem of a table at coefficients of zero."""
    y, offset, mask, weights, _ = table
    b = y.new_zeros(family.num_predictors(y.shape[-1]))
    W = b.new_zeros(len(b), latent_dim)
    problem = make_problem(family, y, W, b, 1.0, offset, mask, weights)
    problem = replace(problem, processes=processes)
    if table.covariates is None:
        return problem
    C = b.new_zeros(len(b), table.covariates.shape[-1])
    part = covariates_of(table._replace(offset=problem.offset), C)
    assert part is not None
    return replace(problem, offset=part.total(), covariates=part)


def _rare_in_a_part(problem: LatentProblem, hold_out: HoldOut, num_folds: int) -> Tensor:
    """Which columns are rare without some part, ``(features,)``."""
    found = [rare_columns(part.training) for part in parts(problem, hold_out, num_folds)]
    return torch.stack(found).any(0)


def _table_evidence(
    problem: LatentProblem, prior_precision: Tensor, z: Tensor, covariance: CoefficientCovariance
) -> float:
    """The log evidence of a table with loading and intercept integrated out."""
    precision = prior_precision.expand(covariance.mode.shape)
    proper, coefficients = precision[precision > 0], covariance.mode[precision > 0]
    log_prior = 0.5 * ((proper / (2 * math.pi)).log() - proper * coefficients.square()).sum()
    volume = 0.5 * (covariance.noise_dim * math.log(2 * math.pi) - covariance.log_det_information)
    total = (
        problem.sum(laplace_evidence(problem, z).sum())[0]
        + log_prior
        + volume
        + log_orbit_volume(loading_of(problem))
    )
    return float(total)
