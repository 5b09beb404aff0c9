"""Fisher scoring of a block's table, for the parameters that SVI would train."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from pyro.infer.autoguide import AutoDelta, AutoGuide
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.coefficients import EvidenceProblem
from pyro_expfam.deq.solution import ConvergenceWarning
from pyro_expfam.deq.solver import Solver
from pyro_expfam.deq.sparse_rows import is_sparse
from pyro_expfam.families import Family, Gaussian
from pyro_expfam.families.kinds import Kind, take
from pyro_expfam.joint import (
    Fit,
    FreeParameter,
    JointProblem,
    LearntParametersProblem,
    NoiseScaleProblem,
    Objective,
    ScaledCoefficients,
    SparseTable,
    StreamedTable,
    Sweep,
    Table,
    TableInMemory,
    fit_coefficients,
)
from pyro_expfam.joint.account import INTERRUPTED
from pyro_expfam.joint.spectral import spectral_start
from pyro_expfam.joint.table import Sums, TableRows
from pyro_expfam.losses import LaplaceEvidence
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.runtime.progress import progress_bar
from pyro_expfam.user_warning import warn_user

NO_LOADING = 1e-3
"""Entries of a loading below this leave every linear predictor as it is."""

IMPOSSIBLE = 0.5
"""A log probability above this, in nats, is more than an ordinary error of the expansion."""


@torch.no_grad()
def block_objective(
    block: ExpFamPCA, loss: LaplaceEvidence | None, y: Any, *entries: Any
) -> Objective:
    """The objective of a fit: a loss of the block's table, with the block's priors."""
    if loss is not None and not isinstance(loss, LaplaceEvidence):
        raise TypeError(
            "loss must be a pyro_expfam.LaplaceEvidence, or None for the joint MAP estimate, got "
            f"{type(loss).__name__}: train with SVI for any other"
        )
    like = block.latent_precision
    if not isinstance(like, Tensor) or "latent_precision" in block._pyro_samples:
        raise ValueError(
            "fit wants a known latent_precision, got one with a prior: train with SVI in its place"
        )
    if not block.has_isotropic_latents:
        raise ValueError(
            "fit wants latents with one known latent_precision, got a prior with a latent_scale, a "
            "matrix or a law of its own: train with SVI in its place"
        )
    _warn_of_learnable(block)
    by_coefficient = block.coefficient_precision().to(like)
    loading, intercept = by_coefficient[:-1], float(by_coefficient[-1])
    table = _table(block, like, y, entries)
    constant = sum(_log_normaliser(block.num_predictors, float(x)) for x in by_coefficient)
    if loss is not None:
        evidence = EvidenceProblem(
            table, like, loading, intercept, constant, loss.order, loss.nodes
        )
        return _with_learnt_parameters(block, evidence)
    constant += _log_normaliser(table.num_rows * block.latent_dim, float(like))
    joint = JointProblem(table, like, _one_scale(loading), intercept, constant)
    refuse_free_columns(block)
    return _with_learnt_parameters(block, joint)


def refuse_free_columns(block: ExpFamPCA) -> None:
    """An error if columns have learnt parameters under which the joint density has no bound."""
    family = block.family
    if noise_scale(block) is not None:
        return
    of_numbers = {
        name if family.num_columns is None else f"{kind.name}_{name}"
        for kind in family.kinds(block.num_features)
        if not kind.family.support.is_discrete
        for name in kind.family.parameter_names
    }
    for name in block._learnt_of_family:
        attribute = f"family_{name}"
        is_positive = family.constraint_of(name) is constraints.positive
        if name in of_numbers and is_positive and getattr(block, attribute).dim() > 0:
            raise ValueError(
                f"loss must be a pyro_expfam.LaplaceEvidence() for a {attribute} by column, "
                "got None: under the joint MAP estimate latents become copies of columns, "
                "whose spread then falls to nothing"
            )


def learns_by_column(block: ExpFamPCA) -> bool:
    """Whether every learnt parameter of the family is one number, or one per column.

    The table is then fitted by columns. Linear predictors must belong to columns too.
    """
    family = block._known_family
    for kind in family.kinds(block.num_features):
        for name in _learnt_of(block, kind):
            shape = tuple(getattr(block, f"family_{name}").shape)
            if kind.family.predictors_per_column > 1 or shape not in [(), (kind.width,)]:
                return False
    return True


def _learnt_of(block: ExpFamPCA, kind: Kind) -> dict[str, str]:
    """The names in a block of the learnt parameters of some columns, with their own names."""
    prefix = "" if block._known_family.num_columns is None else f"{kind.name}_"
    own = {prefix + name: name for name in kind.family.parameter_names}
    return {name: own[name] for name in block._learnt_of_family if name in own}


def has_safe_steps(block: ExpFamPCA) -> bool:
    """Whether scoring by columns comes to rest quickly under the learnt parameters of a block.

    It does not where the loss is not convex, or a parameter runs to the end of a bounded set.
    """
    if not block._learnt_of_family or noise_scale(block) is not None:
        return True
    names = block._learnt_of_family
    if not all(block._pyro_params[f"family_{x}"][0] is constraints.positive for x in names):
        return False
    kinds = block._known_family.kinds(block.num_features)
    return all(kind.family.is_convex for kind in kinds if _learnt_of(block, kind))


def free_parameters(block: ExpFamPCA) -> tuple[FreeParameter, ...]:
    """The parameters of the family that a fit moves."""
    family = block._known_family
    found = []
    for name in block._learnt_of_family:
        constraint = block._pyro_params[f"family_{name}"][0]
        found.append(
            FreeParameter(
                name,
                constraint,
                getattr(block, f"family_{name}").dim() == 0,
                block.common_prior(name),
                family.places_of_parameter(name, block.num_features),
                family.is_unit(name) and constraint is constraints.positive,
            )
        )
    return tuple(found)


@torch.no_grad()
def evidence_with_parameters(block: ExpFamPCA, y: Any, *entries: Any) -> LearntParametersProblem:
    """Minus the log evidence and log priors of a table, with all learnt parameters free."""
    like: Any = block.latent_precision
    precision = block.coefficient_precision().to(like)
    table = _table(block, like, y, entries)
    evidence = EvidenceProblem(table, like, precision[:-1], float(precision[-1]))
    return LearntParametersProblem.of(evidence, free_parameters(block))


def noise_scale(block: ExpFamPCA) -> Tensor | None:
    """The scale of Gaussian noise that a fit learns, ``()`` or ``(d,)``, or None."""
    scale = getattr(block, "family_scale", None)
    if not isinstance(scale, Tensor) or not isinstance(block.family, Gaussian):
        return None
    fits = tuple(scale.shape) in [(), (block.num_features,)]
    # Under a prior of its own it is learnt as any other parameter.
    return scale.detach() if fits and block.common_prior("scale") is None else None


def _with_learnt_parameters(block: ExpFamPCA, known: Objective) -> Objective:
    """The same objective, with what the block learns of its family free."""
    scale = noise_scale(block)
    if scale is None:
        free = free_parameters(block)
        return LearntParametersProblem.of(known, free) if free else known
    by_column = scale.dim() == 1
    if by_column and isinstance(known, JointProblem):
        raise ValueError(
            "loss must be a pyro_expfam.LaplaceEvidence() for a scale of the noise by column, got "
            "None: under the joint MAP estimate latents become copies of columns, whose scale then "
            "falls with the number of rows"
        )
    return NoiseScaleProblem.of(known, by_column)


def _one_scale(loading_precision: Tensor) -> float:
    """The one precision of a loading, which must be the same for all latents."""
    one = float(loading_precision[0])
    if not bool((loading_precision == one).all()):
        raise ValueError(
            "loading_scale must be one number for the joint MAP estimate, which divides natural "
            f"parameters between loading and latents by it, got {loading_precision.rsqrt()}: take "
            "loss=pyro_expfam.LaplaceEvidence() for a scale by latent"
        )
    return one


def _warn_of_learnable(block: ExpFamPCA) -> None:
    """Warns of parameters that SVI would train and a fit leaves as they are."""
    fitted = ["loading", "intercept"]
    of_family = [f"family_{name}" for name in block._learnt_of_family]
    if of_family and not learns_by_column(block):
        raise ValueError(
            f"{', '.join(of_family)} is not learnt from batches: fit a table in memory, train with "
            f"SVI, or give {block._known_family} what is known"
        )
    fitted += of_family
    left = sorted(set(block._pyro_params) - set(fitted))
    if left:
        warn_user(
            f"fit trains {', '.join(fitted)}, and leaves {', '.join(left)} as they are: train "
            "with SVI to learn them, or take known numbers",
            UserWarning,
        )


def _table(block: ExpFamPCA, like: Tensor, y: Any, entries: tuple[Any, ...]) -> Table:
    if is_sparse(y):
        return SparseTable(block.family, block.num_features, like, y, *entries)
    if not is_loader(y):
        family, size = block.family, block.num_features
        offset, mask, weights = (*entries, None, None, None)[:3]
        return TableInMemory(family, size, like, y, offset, mask, weights, missing=block.missing)
    if any(x is not None for x in entries):
        raise ValueError(
            "offset, mask and weights must be None where y is a loader, whose batches hold them"
        )
    return StreamedTable(block.family, block.num_features, like, y, missing=block.missing)


def is_loader(y: Any) -> bool:
    """Whether observations come in batches, rather than as one table.

    A list is a table of numbers, unless its items are tables or arguments of the block.
    """
    if not isinstance(y, Sequence):
        return isinstance(y, Iterable) and not hasattr(y, "shape")
    first = y[0] if len(y) else None
    if isinstance(first, tuple | list) and len(first):
        first = first[0]
    return isinstance(first, Mapping) or len(getattr(first, "shape", ())) > 1


def is_read_in_parts(y: Any) -> bool:
    """Whether observations are never in memory as one dense table: a loader, or a sparse table."""
    return is_loader(y) or is_sparse(y)


def _log_normaliser(size: int, precision: float) -> float:
    """The log normaliser of a Gaussian prior of ``size`` numbers, 0 for a flat prior."""
    return 0.5 * size * math.log(2 * math.pi / precision) if precision else 0.0


def rows_for_structure(problem: Objective) -> Tensor:
    """As few observations as show the structure of the model.

    One row is enough, unless the family differs by row.
    """
    table = problem.table
    num_rows = table.num_rows if table.family.differs_by_row else 1
    return _possible(table.family, num_rows, table.num_features, table.like)


def one_row(block: ExpFamPCA) -> Tensor:
    """One row of observations of a block whose family is the same for all rows."""
    like: Any = block.latent_precision
    return _possible(block.family, 1, block.num_features, like.detach())


def _possible(family: Family, num_rows: int, num_features: int, like: Tensor) -> Tensor:
    """Possible observations of a family, in the dtype of ``like``."""
    return family.possible_rows(num_features).to(like).expand(num_rows, num_features)


def coefficient_parameters(block: ExpFamPCA, global_guide: AutoGuide) -> tuple[Tensor, Tensor]:
    """The parameters of loading and intercept that SVI trains."""
    found = []
    for name in ("loading", "intercept"):
        if name not in block._pyro_samples:
            found.append(getattr(block, name))
        elif isinstance(global_guide, AutoDelta):
            found.append(attrgetter(block.site_name(name))(global_guide))
        else:
            raise ValueError(
                "fit finds point estimates, and wants a global_guide that is an AutoDelta; got "
                f"{type(global_guide).__name__}: train with SVI in its place"
            )
    return found[0], found[1]


def check_trained(loading: Tensor, intercept: Tensor) -> None:
    """An error unless training has left loading and intercept finite."""
    if not bool(loading.isfinite().all() & intercept.isfinite().all()):
        raise ValueError(
            "guide must have a finite loading and intercept, got one that training has left "
            "without: it diverged. Make a new guide, and take guide.fit or a smaller step size"
        )


def fit_parameters(
    block: ExpFamPCA,
    problem: Objective,
    loading: Tensor,
    intercept: Tensor,
    from_here: bool,
    solver: Solver,
    callback: Callable[[Sweep], object] | None,
    progress: bool | None,
    **limits: Any,
) -> Fit:
    """Sets a loading and an intercept to the least value of an objective.

    Parameters of the family are set too if they are free in the objective.
    """
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function of a Sweep or None, got {callback!r}")
    start = None
    if from_here:
        check_trained(loading, intercept)
        start = torch.cat([loading, intercept[:, None]], 1).detach()
    if isinstance(problem, NoiseScaleProblem):
        problem, start = _start_of_noise_scale(block, problem, start, solver)
    if isinstance(problem, LearntParametersProblem):
        problem, start = _start_of_parameters(block, problem, start)
    start_again = partial(_start_again, problem, block.latent_dim, solver) if from_here else None
    with progress_line(progress) as line:

        def report(sweep: Sweep) -> object:
            show(line, sweep)
            return callback(sweep) if callback is not None else None

        coefficients, fit = fit_coefficients(
            problem,
            loading.shape[1],
            solver,
            callback=report,
            start=start,
            start_again=start_again,
            **limits,
        )
    if isinstance(problem, NoiseScaleProblem):
        coefficients = _set_noise_scale(block, problem, coefficients)
    if isinstance(problem, LearntParametersProblem):
        coefficients = _set_parameters(block, problem, coefficients)
    with torch.no_grad():
        loading.copy_(coefficients[:, :-1])
        intercept.copy_(coefficients[:, -1])
    _warn_unless_converged(coefficients, fit)
    _warn_of_no_loading(problem, coefficients)
    _warn_of_impossible_rows(problem, coefficients, fit)
    return fit


def progress_line(progress: bool | None) -> Any:
    """A line with the progress of a fit. It does not guess how long the rest takes."""
    start = "fit: finding a start (the first fit on a machine also compiles its kernels)"
    return progress_bar(progress, bar_format="{desc}", desc=start)


def show(line: Any, sweep: Sweep) -> None:
    """Shows a sweep in a progress line."""
    line.set_description_str(
        f"fit: sweep {sweep.number}, objective {sweep.objective:,.2f}, {sweep.seconds:.1f} s",
        refresh=False,
    )
    line.update()


@torch.no_grad()
def _start_of_noise_scale(
    block: ExpFamPCA, problem: NoiseScaleProblem, start: Tensor | None, solver: Solver
) -> tuple[NoiseScaleProblem, Tensor]:
    """Where a fit that learns the scale of the noise starts."""
    if start is None:
        return problem.spectral_start(block.latent_dim, solver)
    scale = block.family_scale.detach().to(start).expand(block.num_features)
    return problem.start_from(ScaledCoefficients(start, scale), solver)


@torch.no_grad()
def _start_of_parameters(
    block: ExpFamPCA, problem: LearntParametersProblem, start: Tensor | None
) -> tuple[LearntParametersProblem, Tensor]:
    """Where a fit that learns parameters of the family starts."""
    if start is not None:
        return problem, problem.coefficients_of(start, block.family.parameters)
    for kind in block._known_family.kinds(block.num_features):
        for name, own in _learnt_of(block, kind).items():
            if kind.family.is_unit(own) and own in kind.family.to_learn(kind.width):
                _start_unit(block, problem.table, kind, name, own)
    values = block.family.parameters
    problem = problem.around(values)
    known = replace(problem.known, table=problem.table.under(block.family, 0.0))
    return problem, problem.coefficients_of(spectral_start(known, block.latent_dim), values)


@torch.no_grad()
def _start_unit(block: ExpFamPCA, table: Table, kind: Kind, name: str, own: str) -> None:
    """Sets a learnt unit of some columns to where their observations suggest."""

    def of_rows(place: slice, rows: TableRows) -> Sums:
        del place
        y, weights = take(rows.y, kind.predictors), torch.ones_like(rows.y)
        if rows.weights is not None:
            weights = rows.weights.expand(rows.y.shape)
        weights = take(weights, kind.predictors)
        count = weights.sum(0)
        return count, count * kind.family.starts_from(y, weights)[own].square()

    count, squares = table.sum(of_rows)
    if getattr(block, f"family_{name}").dim() == 0:
        count, squares = count.sum(), squares.sum()
    start = torch.where(count > 0, (squares / count).sqrt(), 1.0)
    setattr(block, f"family_{name}", start)


@torch.no_grad()
def _set_parameters(
    block: ExpFamPCA, problem: LearntParametersProblem, coefficients: Tensor
) -> Tensor:
    """Sets the learnt parameters of a block's family, and returns loading and intercept."""
    theta, free = problem.parts(coefficients)
    values = problem.values(free)
    for x in problem.parameters:
        setattr(block, f"family_{x.name}", values[x.name][0] if x.is_shared else values[x.name])
    problem.table.family = block.family
    return theta


@torch.no_grad()
def _start_again(problem: Objective, latent_dim: int, solver: Solver) -> Tensor:
    """The start of a second attempt, where no step leads on from what the guide had learnt."""
    if isinstance(problem, LearntParametersProblem):
        start = spectral_start(problem.known, latent_dim)
        return problem.coefficients_of(start, problem.table.family.parameters)
    if not isinstance(problem, NoiseScaleProblem):
        return spectral_start(problem, latent_dim)
    other, start = problem.spectral_start(latent_dim, solver)
    return problem.coefficients_of(other.natural(start))


@torch.no_grad()
def _set_noise_scale(block: ExpFamPCA, problem: NoiseScaleProblem, coefficients: Tensor) -> Tensor:
    """Sets the scale of a block's noise, and returns the coefficients in the same units."""
    natural = problem.natural(coefficients)
    block.family_scale = natural.scale if problem.by_column else natural.scale[0]
    problem.table.family = block.family
    collapsed = problem.is_collapsed(natural.scale).nonzero().flatten().tolist()
    if collapsed:
        which = f"of columns {collapsed}" if problem.by_column else "of the noise"
        warn_user(
            f"the scale {which} has run to less than a thousandth of the observations' standard "
            "deviation: the latents explain them exactly. Take fewer latents, one scale for the "
            "table, or a known scale",
            ConvergenceWarning,
        )
    return natural.coefficients


def _warn_unless_converged(coefficients: Tensor, fit: Fit) -> None:
    """Warns of a fit that did not converge, unless the user has chosen its end."""
    category: type[Warning] = ConvergenceWarning
    if not (math.isfinite(fit.objective) and bool(coefficients.isfinite().all())):
        message = (
            f"has ended at the objective {fit.objective:g}, because {fit.reason}: natural "
            "parameters have overflowed. Look for entries, offsets and weights of unusual size"
        )
    elif fit.reason == INTERRUPTED:
        # This is no fault, but the user wants to know what the guide has now.
        category = UserWarning
        message = f"has ended early, because {fit.reason}. The guide has the best of its sweeps"
    elif fit.converged or fit.chosen:
        return
    else:
        message = (
            f"has not converged, because {fit.reason}. The guide has the best of its sweeps, and "
            "another fit goes on from there"
        )
    warn_user(f"the fit {message}", category)


def _warn_of_no_loading(problem: Objective, coefficients: Tensor) -> None:
    """Warns of a loading of zero under a loss that is not convex, where it may be a saddle."""
    largest = float(coefficients[:, :-1].abs().max())
    if not problem.table.family.is_convex and largest < NO_LOADING:
        warn_user(
            f"the fit has ended at a loading of zero (largest entry {largest:.2g}). Under "
            f"{problem.table.family}, whose loss is not convex, that may be a saddle from which no "
            "step leads on: start from another loading, or take a link that is not flat at zero",
            ConvergenceWarning,
        )


def _warn_of_impossible_rows(problem: Objective, coefficients: Tensor, fit: Fit) -> None:
    """Warns of rows whose log evidence is above 0.

    The first order is at most 0, as every log probability is. The second order is an expansion. It
    has no bound where loadings are so large that it no longer holds.
    """
    table = problem.table
    if isinstance(problem, LearntParametersProblem):
        # Its table has the family that was found.
        problem = replace(problem.known, table=problem.table)
    if not isinstance(problem, EvidenceProblem) or problem.order == 1:
        return
    if not table.family.support.is_discrete:
        return
    warn_of_impossible(problem.row_evidence(coefficients, fit.latents))


def warn_of_impossible(evidence: Tensor) -> None:
    """Warns of log evidences of discrete rows ``(N,)`` that no probability has."""
    # The comparison is also False for NaN, which is no probability either.
    impossible = ~(evidence <= IMPOSSIBLE)
    if bool(impossible.any()):
        warn_user(
            f"the log evidence of {int(impossible.sum()):,} of {len(evidence):,} rows is above 0, "
            f"up to {float(evidence[impossible].max()):.3g} nats, as of no probability: loadings "
            "have run away to where the expansion to second order does not hold. Take "
            "loss=pyro_expfam.LaplaceEvidence(order=1), a smaller loading_scale or fewer latents",
            ConvergenceWarning,
        )
