"""Comparison of families and numbers of latents."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from pyro_expfam.deq.arrays import as_numeric_array, without_masked_array
from pyro_expfam.deq.covariates import count_covariates
from pyro_expfam.deq.inference_mode import outside_inference_mode
from pyro_expfam.deq.limits import check_size
from pyro_expfam.deq.observations import Missing, check_missing
from pyro_expfam.deq.processes import Processes, ProcessesError, processes_of
from pyro_expfam.families import Family
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.runtime.progress import progress_bar
from pyro_expfam.selection.candidate import (
    ERRORS,
    Candidate,
    Scores,
    ending_one_candidate,
    num_parameters,
    score,
)
from pyro_expfam.selection.caveats import LARGE_KHAT, caveats
from pyro_expfam.selection.folds import check_folds
from pyro_expfam.selection.held_out_parts import HoldOut, check_hold_out
from pyro_expfam.selection.jobs import check_jobs, run_jobs
from pyro_expfam.selection.measures import check_comparable
from pyro_expfam.selection.model_comparison import ComparedModel, ModelChoice, ModelComparison
from pyro_expfam.table_categories import with_codes
from pyro_expfam.table_frames import as_pandas


@torch.no_grad()
@outside_inference_mode()
def compare(
    families: Mapping[str, Family | Callable[[int], ExpFamPCA]],
    y: Any,
    latent_dims: Iterable[SupportsIndex],
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    covariates: Any = None,
    num_folds: int = 5,
    progress: bool | None = None,
    missing: Missing = None,
    hold_out: HoldOut = "rows",
    n_jobs: int | None = None,
    processes: Any = None,
) -> ModelComparison:
    """Compares families, each with several numbers of latents, on one table.

    Every model is fitted to its evidence by :meth:`LaplaceGuide.fit`, which learns the parameters
    that a family leaves open. Rows of at most 12 columns with up to 3 latents are integrated by
    quadrature. For each model the comparison has

    - ``evidence`` and ``aic`` of the fit to the whole table;
    - ``held_out``, the log evidence of every row under a fit without its fold, which learns all
      parameters anew: to second order, or by importance sampling where that is uncertain;
    - ``loo``, every row left out by Pareto-smoothed importance sampling from the posterior of
      loading and intercept, and its ``khat``;
    - ``coverage``, the share of entries in their 90% predictive intervals, and ``zeros``, the share
      of zeros that the model predicts: whether the family fits at all.

    The model with the fewest parameters within one standard error of the largest ``held_out`` is
    ``best``. The ``caveats`` say in words what the numbers do not.

    Args:
        families: the families by a name of your own. A function of the number of latents that
            returns a block, :class:`~pyro_expfam.ExpFamPCA`, stands for a block with other
            settings than the default.
        y: observations, ``(N, d)``: a tensor, an array or a data frame.
        latent_dims: the numbers of latents to compare.
        offset: known part of the natural parameters, broadcastable to ``(N, d)``. All families
            take the same.
        mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
        weights: non-negative weights of the log densities of entries, broadcastable to ``(N, d)``.
        covariates: known numbers of each row, ``(N, p)``.
        num_folds: parts of the rows, each held out once; at least 2.
        progress: whether to show a bar over the fits, ``num_folds + 1`` for each model; by default
            in terminals and notebooks only.
        missing: ``"nan"`` if NaN in ``y``, and every missing value of a frame, is a missing entry;
            None if it is an error. A block from a function of yours has its own ``missing``.
        hold_out: ``"rows"``, or ``"entries"`` for the log density of entries given the rest of
            their rows, as of :func:`~pyro_expfam.compare_latent_dims`: in closed form where every
            entry has one linear predictor.
        n_jobs: processes for the models, each with one thread, -1 for one per processor. None for
            this process, with all of its threads.
        processes: the processes of ``torch.distributed`` that hold the rows, as for ``guide.fit``.
            Each passes rows of its own, at least one, and all have the comparison that one process
            with all rows would make. ``coverage`` and ``zeros`` are of other draws.

    Returns:
        The :class:`~pyro_expfam.selection.ModelComparison`. A model that cannot be fitted to the
        table is in it with the reason.

    Raises:
        TypeError: if ``families`` is no mapping of families or functions that return a block, or
            ``latent_dims`` is a single number.
        ValueError: if ``families`` or ``latent_dims`` is empty, a number is out of range, or log
            densities of two families are of different kinds, such as probabilities of counts and
            densities of real numbers. If no model at all can be fitted. If ``hold_out`` is another
            word, or ``n_jobs`` no number of processes, or given together with ``processes``.
        ~pyro_expfam.joint.ProcessesError: if another process has stopped.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> _ = torch.manual_seed(0)
        >>> mean = torch.exp(1 + torch.randn(80, 1) @ torch.randn(1, 6))
        >>> y = torch.poisson(mean * torch.distributions.Gamma(1.0, 1.0).sample(mean.shape))
        >>> families = {"Poisson": pef.families.Poisson(), "geometric": pef.families.Geometric()}
        >>> pef.compare(families, y, latent_dims=[1], num_folds=2).best
        ModelChoice(family='geometric', latent_dim=1)

    Source: Vehtari, Gelman and Gabry (2017) for leaving out rows.
    """
    numbers = _numbers(latent_dims)
    group = processes_of(processes, y if isinstance(y, Tensor) else torch.zeros(()))
    with group.together():
        return _comparison(
            group,
            families,
            (y, offset, mask, weights, covariates),
            numbers,
            {"missing": check_missing(missing), "num_covariates": count_covariates(covariates)},
            (check_hold_out(hold_out), num_folds),
            progress,
            check_jobs(n_jobs),
        )


def _comparison(
    processes: Processes,
    families: Any,
    table: tuple[Any, ...],
    numbers: list[int],
    settings: dict[str, Any],
    held_out: tuple[HoldOut, int],
    progress: bool | None,
    n_jobs: int | None,
) -> ModelComparison:
    """The comparison by the processes that hold the rows.

    Args:
        processes: the processes.
        families: the families by name.
        table: ``y``, ``offset``, ``mask``, ``weights`` and ``covariates`` of this process.
        numbers: the numbers of latents.
        settings: arguments of every block.
        held_out: what is held out, and in how many parts.
        progress: whether to show a bar.
        n_jobs: processes of joblib for the models.
    """
    (num_rows, num_columns), (hold_out, num_folds) = _shape(table[0]), held_out
    num_folds = check_folds(num_folds, sum(processes.gather(num_rows)))
    if processes.count > 1:
        _check_shared(num_rows, n_jobs)
    candidates = _candidates(families, numbers, num_columns, settings)
    laws = {candidate.family: candidate.model._known_family for candidate in candidates}
    numeric = _numeric(table[0], table[2])
    zeros = processes.sum(((numeric == 0).sum().double(), numeric.isfinite().sum().double()))
    seen = _of_every_kind(processes, laws, numeric)
    check_comparable(laws, seen)
    scores: dict[tuple[str, int], Scores] = {}
    failed: dict[tuple[str, int], Exception] = {}
    jobs = [partial(_score, x, table, hold_out, num_folds, processes) for x in candidates]
    drawn = progress if processes.number == 0 else False
    with progress_bar(drawn, total=len(candidates) * (num_folds + 1), unit="fit") as bar:
        results = run_jobs(jobs, n_jobs, num_folds + 1, bar.update)
        for candidate, result in zip(candidates, results, strict=True):
            key = (candidate.family, candidate.latent_dim)
            bar.set_description(f"{candidate.family}, {candidate.latent_dim}")
            if isinstance(result, Scores):
                scores[key] = result
            else:
                failed[key] = result
    if not scores:
        raise next(iter(failed.values()))
    rows = _rows(candidates, scores, failed, float(zeros[0] / zeros[1]))
    guides = {ModelChoice(*key): found.guide for key, found in scores.items()}
    found = ModelComparison(rows, guides=guides)
    return ModelComparison(rows, tuple(caveats(found, scores, laws, seen)), guides)


def _check_shared(num_rows: int, n_jobs: int | None) -> None:
    """An error if several processes cannot compare models of their rows."""
    if n_jobs is not None:
        raise ValueError(
            f"n_jobs must be None where several processes hold the rows, got {n_jobs!r}"
        )
    if num_rows == 0:
        raise ValueError("y must have at least one row in every process, got none")


def _of_every_kind(processes: Processes, laws: Mapping[str, Family], y: Tensor) -> Tensor:
    """A few rows, the same in every process, with a value of every kind that a column has.

    Kinds are the values that have a probability of their own under some family, and numbers that
    are not whole. Where a column has no such value there is NaN.

    Args:
        processes: the processes that hold the rows.
        laws: the families by name.
        y: the table of this process, ``(N, d)``, with NaN for missing entries.
    """
    atoms = sorted(
        {x for law in laws.values() for kind in law.kinds(y.shape[1]) for x in kind.family.atoms}
    )
    rows = [torch.where((y == x).any(0), x, torch.nan) for x in atoms]
    is_broken = y.isfinite() & (y != y.round())
    rows.append(torch.where(is_broken.any(0), 0.5, torch.nan))
    own = torch.stack([x.to(y) for x in rows])
    return torch.cat([x.to(y) for x in processes.gather(own.cpu())])


def _numbers(latent_dims: Iterable[SupportsIndex]) -> list[int]:
    try:
        numbers = list(latent_dims)
    except TypeError:
        raise TypeError(
            "latent_dims must be several numbers of latents, such as [1, 2, 3], got "
            f"{latent_dims!r}"
        ) from None
    if not numbers:
        raise ValueError("latent_dims must name at least one number of latents, got none")
    return [check_size("latent_dims", number) for number in numbers]


def _shape(y: Any) -> tuple[int, int]:
    shape = tuple(y.shape) if hasattr(y, "shape") else as_numeric_array("y", y).shape
    if len(shape) != 2:
        raise ValueError(f"y must have shape (rows, features), got {shape}")
    return shape


def _numeric(y: Any, mask: Any) -> Tensor:
    """The table as numbers, with NaN where an entry is missing or has no number."""
    if not isinstance(y, Tensor):
        y = torch.as_tensor(as_numeric_array("y", without_masked_array(with_codes(as_pandas(y)))))
    values = y.double()
    if mask is None:
        return values
    observed = torch.as_tensor(mask, device=values.device).bool().expand_as(values)
    return torch.where(observed, values, torch.nan)


def _candidates(
    families: Any, numbers: list[int], num_features: int, settings: dict[str, Any]
) -> list[Candidate]:
    """The models, all made before the first fit, so that bad arguments are errors at once."""
    if not isinstance(families, Mapping):
        raise TypeError(
            "families must be a dictionary from names to families, such as "
            f"{{'Poisson': Poisson()}}, got {type(families).__name__}"
        )
    if not families:
        raise ValueError("families must name at least one family, got none")
    _check_different(families)
    found = []
    for name, family in families.items():
        largest = num_features
        if isinstance(family, Family):
            largest *= max(1, family.predictors_per_column - 1)
        for number in numbers:
            if number > largest:
                raise ValueError(
                    f"latent_dims must be at most {largest} for {num_features} columns of "
                    f"{name!r}, got {number}"
                )
            block = _block(name, family, num_features, number, settings)
            found.append(Candidate(str(name), number, block))
    return found


def _check_different(families: Mapping[Any, Any]) -> None:
    """Raises a ValueError if a family has two names."""
    seen: dict[tuple[Any, ...], Any] = {}
    for name, family in families.items():
        key: tuple[Any, ...] = (id(family),)
        if isinstance(family, Family):
            # Tensors read alike, and may hold other numbers.
            values = family.parameters.values()
            tensors = [(tuple(x.shape), *x.flatten().tolist()) for x in values]
            key = (type(family), repr(vars(family)), *tensors)
        if key in seen:
            raise ValueError(
                f"families must be different, got {family} under the names {seen[key]!r} and "
                f"{name!r}"
            )
        seen[key] = name


def _block(
    name: str, family: Any, num_features: int, latent_dim: int, settings: dict[str, Any]
) -> ExpFamPCA:
    if isinstance(family, Family):
        return ExpFamPCA(family, num_features, latent_dim, **settings)
    is_function = callable(family) and not isinstance(family, type)
    block = family(latent_dim) if is_function else None
    if not isinstance(block, ExpFamPCA):
        got = type(family if block is None else block).__name__
        if isinstance(family, type):
            got = f"the class {family.__name__}, which lacks its parentheses,"
        raise TypeError(
            "families must hold families, or functions of the number of latents that return an "
            f"ExpFamPCA, got {got} for {name!r}"
        )
    if block.row_effect == "fixed":
        raise ValueError(
            "families must return blocks without fixed row effects, whose evidence has a constant "
            f"that means nothing, got one for {name!r}: take row_effect='random'"
        )
    if (block.num_features, block.latent_dim) != (num_features, latent_dim):
        raise ValueError(
            f"families must return blocks of {num_features} columns and {latent_dim} latents, got "
            f"{block.num_features} and {block.latent_dim} for {name!r}"
        )
    return block


def _score(
    candidate: Candidate,
    table: tuple[Any, ...],
    hold_out: HoldOut,
    num_folds: int,
    processes: Processes,
    report: Callable[[], object],
) -> Scores | Exception:
    """The scores of a candidate in double precision, the same at every call, or why it has none."""
    device = table[0].device if isinstance(table[0], Tensor) else None
    candidate.model.to(dtype=torch.float64, device=device)
    with warnings.catch_warnings(), torch.random.fork_rng(), torch.no_grad():
        # What a fit warns of is in the caveats.
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        try:
            with processes.together():
                return score(candidate, table, hold_out, num_folds, processes, report)
        except ERRORS as error:
            reason = ending_one_candidate(error)
    return _reason_of_all(processes, reason)


def _reason_of_all(processes: Processes, own: Exception) -> Exception:
    """Why a candidate has no scores, the same in every process: where it happened first."""
    if processes.count == 1:
        return own
    reasons = processes.gather(None if isinstance(own, ProcessesError) else str(own))
    return RuntimeError(next((x for x in reasons if x is not None), str(own)))


def _rows(
    candidates: list[Candidate],
    scores: Mapping[tuple[str, int], Scores],
    failed: Mapping[tuple[str, int], Exception],
    zeros: float,
) -> tuple[ComparedModel, ...]:
    largest = max((x.held_out for x in scores.values()), key=lambda rows: float(rows.sum()))
    rows = []
    for candidate in candidates:
        key = (candidate.family, candidate.latent_dim)
        if key in failed:
            rows.append(_without_fit(candidate, zeros, failed[key]))
        else:
            rows.append(_row(key, scores[key], largest, zeros))
    return tuple(rows)


def _without_fit(candidate: Candidate, zeros: float, error: Exception) -> ComparedModel:
    known: dict[str, Any] = {
        "family": candidate.family,
        "latent_dim": candidate.latent_dim,
        "parameters": num_parameters(candidate.model),
        "unreliable": 0,
        "zeros_observed": zeros,
        "failed": str(error),
    }
    return ComparedModel(**(dict.fromkeys(ComparedModel._fields, math.nan) | known))


def _row(key: tuple[str, int], found: Scores, largest: Tensor, zeros: float) -> ComparedModel:
    evidence = float(found.evidence.sum())
    loo = found.loo
    return ComparedModel(
        *key,
        parameters=found.num_parameters,
        evidence=evidence,
        aic=2 * (found.num_parameters - evidence),
        held_out=float(found.held_out.sum()),
        held_out_se=_standard_error(found.held_out),
        difference=float((largest - found.held_out).sum()),
        difference_se=_standard_error(largest - found.held_out),
        loo=math.nan if loo is None else float(loo.by_row.sum()),
        loo_se=math.nan if loo is None else _standard_error(loo.by_row),
        khat=math.nan if loo is None else float(loo.khat.max()),
        unreliable=0 if loo is None else int((loo.khat > LARGE_KHAT).sum()),
        coverage=found.coverage,
        zeros=found.zeros,
        zeros_observed=zeros,
        seconds=found.seconds,
    )


def _standard_error(by_row: Tensor) -> float:
    return float(by_row.std() * math.sqrt(len(by_row)))
