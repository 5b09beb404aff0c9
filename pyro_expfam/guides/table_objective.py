"""The objective of a block of a model: its table, its priors and its learnt parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.coefficients import EvidenceProblem
from pyro_expfam.deq.processes import ONE, Processes
from pyro_expfam.deq.sparse_rows import is_sparse
from pyro_expfam.families import Gaussian
from pyro_expfam.families.kinds import Kind
from pyro_expfam.guides.no_rows import check_no_rows, has_no_rows
from pyro_expfam.guides.table_checks import check_table
from pyro_expfam.joint import (
    EmptyTable,
    FreeParameter,
    JointProblem,
    LearntParametersProblem,
    NoiseScaleProblem,
    Objective,
    SparseTable,
    StreamedTable,
    Table,
    TableInMemory,
)
from pyro_expfam.joint.covariate_units import CovariateUnits, are_far
from pyro_expfam.joint.row_effect import RowEffect
from pyro_expfam.losses import LaplaceEvidence
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.table_frames import as_pandas
from pyro_expfam.table_labels import labels_of
from pyro_expfam.tables.table_on_disk import TableOnDisk
from pyro_expfam.user_warning import warn_user


@torch.no_grad()
def block_objective(
    block: ExpFamPCA,
    loss: LaplaceEvidence | None,
    y: Any,
    *entries: Any,
    processes: Processes = ONE,
) -> Objective:
    """The objective of a fit: a loss of the block's table, with the block's priors.

    Args:
        block: the block.
        loss: the loss, or None for the joint density.
        y: the observations, of this process where there are several.
        *entries: offset, mask and weights.
        processes: the processes that hold the rows.
    """
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
    if not block.has_one_precision:
        raise ValueError(
            "fit wants latents with one known latent_precision, got a prior with a latent_scale, a "
            "matrix or a law of its own: train with SVI in its place"
        )
    if block._samples_parameters:
        raise ValueError(
            "fit learns parameters of the family as points, got a block made by "
            "with_sampled_parameters(): fit the block that it was made from, or take SVI or NUTS"
        )
    _warn_of_learnable(block)
    row_effect = row_effect_of(block)
    by_coefficient = block.coefficient_precision().to(like)
    loading, intercept, of_covariates = _split_precision(block, by_coefficient)
    table = _table(block, like, y, entries, processes)
    known = by_coefficient[..., block.latent_dim :]
    check_table(block, table, y, known, names_of(entries))
    if table.num_covariates:
        table, of_covariates = _in_good_units(table, known)
        like = like.to(table.like.dtype)
    constant = _log_normaliser(by_coefficient.expand(block.num_predictors, -1))
    if loss is not None:
        evidence = EvidenceProblem(
            table,
            like,
            loading,
            intercept,
            constant,
            loss.order,
            loss.nodes,
            covariate_precision=of_covariates,
            row_effect=row_effect,
        )
        return _with_learnt_parameters(block, evidence)
    constant += table.num_rows * block.site_dim * _log_normaliser(like)
    if row_effect is not None:
        _refuse_learnt_effect(block)
        constant += table.num_rows * math.log(row_effect.common_loading)
    joint = JointProblem(
        table,
        like,
        _one_scale(loading),
        intercept,
        constant,
        covariate_precision=of_covariates,
        row_effect=row_effect,
    )
    refuse_free_columns(block)
    return _with_learnt_parameters(block, joint)


def _in_good_units(table: Table, precision: Tensor) -> tuple[Table, Tensor]:
    """A table whose covariates are in units that the fit goes on well with.

    A covariate far from zero, such as a year, takes more digits than single precision has, unless
    it is centred. Under a prior of the intercept it is not, and the fit is in double precision.

    Args:
        table: the table.
        precision: the prior precisions of intercept and coefficients, ``(1 + p,)``, or by linear
            predictor.

    Returns:
        The table, and the prior precisions of the coefficients in these units.
    """
    is_flat = not bool((precision[..., 0] > 0).any())
    units = CovariateUnits.of(table.gram, centred=is_flat)
    if not is_flat and bool(are_far(table.gram).any()):
        table = table.double()
    return table.in_units(units), units.precision(precision[..., 1:])


def row_effect_of(block: ExpFamPCA) -> RowEffect | None:
    """The row effect of a block whose latents have one known precision."""
    if block.row_effect is None:
        return None
    precision: Any = block.latent_precision
    scale, learnt = block.row_effect_scale.detach(), block.learns_row_effect
    return RowEffect.of(scale, precision.detach(), learnt)


def takes_row_effect(block: ExpFamPCA) -> bool:
    """Whether the row effect of a block is fitted by columns.

    A learnt unit of the linear predictors, such as the scale of Gaussian noise, would change the
    loading of the effect with it, and a learnt standard deviation must be free to be any.
    """
    if noise_scale(block) is not None or any(x.is_unit for x in free_parameters(block)):
        return False
    return not block.learns_row_effect or _is_positive(block._pyro_params["row_effect_scale"][0])


def _refuse_learnt_effect(block: ExpFamPCA) -> None:
    """An error for a learnt standard deviation of effects that are point estimates themselves."""
    if block.learns_row_effect:
        raise ValueError(
            "loss must be a pyro_expfam.LaplaceEvidence() for a learnt row_effect_scale, got None: "
            "the joint density of effects and their standard deviation has no bound, since both go "
            "to zero. Take a known row_effect_scale for the joint MAP estimate"
        )


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
    return all(learns_for_columns(block, name) for name in block._learnt_of_family)


def learns_for_columns(block: ExpFamPCA, name: str) -> bool:
    """Whether a learnt parameter of the family is one number, or one per column."""
    (kind,) = (
        x for x in block._known_family.kinds(block.num_features) if name in learnt_of(block, x)
    )
    shape = tuple(getattr(block, f"family_{name}").shape)
    return kind.family.predictors_per_column == 1 and shape in [(), (kind.width,)]


def learnt_of(block: ExpFamPCA, kind: Kind) -> dict[str, str]:
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
    if not all(_is_positive(block._pyro_params[f"family_{x}"][0]) for x in names):
        return False
    kinds = block._known_family.kinds(block.num_features)
    return all(kind.family.is_convex for kind in kinds if learnt_of(block, kind))


def _is_positive(constraint: constraints.Constraint) -> bool:
    """Whether a set has all positive numbers, be it the constraint of PyTorch or a copy."""
    positive = constraints.positive
    return type(constraint) is type(positive) and vars(constraint) == vars(positive)


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
                family.is_unit(name) and _is_positive(constraint),
            )
        )
    return tuple(found)


def _split_precision(block: ExpFamPCA, precision: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The prior precisions of loading, intercept and coefficients of covariates."""
    size = block.latent_dim
    return precision[..., :size], precision[..., size], precision[..., size + 1 :]


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


def _one_scale(loading_precision: Tensor) -> Tensor:
    """The precision of a loading, ``(1,)`` or ``(d, 1)``, the same for all latents."""
    one = loading_precision[..., :1]
    if not bool((loading_precision == one).all()):
        raise ValueError(
            "loading_scale must be one number for the joint MAP estimate, which divides natural "
            f"parameters between loading and latents by it, got {loading_precision.rsqrt()}: take "
            "loss=pyro_expfam.LaplaceEvidence() for a scale by latent"
        )
    return one


def _warn_of_learnable(block: ExpFamPCA) -> None:
    """Warns of parameters that SVI would train and a fit leaves as they are."""
    fitted = ["loading", "intercept", *(["coefficients"] if block.num_covariates else [])]
    of_family = [f"family_{name}" for name in block._learnt_of_family]
    if of_family and not learns_by_column(block):
        raise ValueError(
            f"{', '.join(of_family)} is not learnt from batches: fit a table in memory, train with "
            f"SVI, or give {block._known_family} what is known"
        )
    fitted += [*of_family, *(["row_effect_scale"] if block.learns_row_effect else [])]
    left = sorted(set(block._pyro_params) - set(fitted))
    if left:
        warn_user(
            f"fit trains {', '.join(fitted)}, and leaves {', '.join(left)} as they are: train "
            "with SVI to learn them, or take known numbers",
            UserWarning,
        )


def _table(
    block: ExpFamPCA,
    like: Tensor,
    y: Any,
    entries: tuple[Any, ...],
    processes: Processes = ONE,
) -> Table:
    family, size, num_covariates = block.family, block.num_features, block.num_covariates
    both: dict[str, Any] = {"num_covariates": num_covariates, "processes": processes}
    if isinstance(y, TableOnDisk) and not y.is_part:
        y = y.part(processes.number, processes.count)
    if processes.count > 1 and has_no_rows(y):
        check_no_rows(block, y, *entries, like=like)
        return EmptyTable(family, size, like, **both)
    if is_sparse(y):
        return SparseTable(family, size, like, y, *entries, **both)
    settings: dict[str, Any] = {"missing": block.missing, **both}
    if not is_loader(y):
        return TableInMemory(family, size, like, y, *entries, **settings)
    if any(x is not None for x in entries):
        raise ValueError(
            "offset, mask, weights and covariates must be None where y is a loader, whose batches "
            "hold them"
        )
    return StreamedTable(family, size, like, y, **settings)


def names_of(entries: tuple[Any, ...]) -> list[str] | None:
    """The names of the covariates among offset, mask, weights and covariates, if they have any."""
    covariates = entries[3] if len(entries) > 3 else None
    names = labels_of(as_pandas(covariates)).columns
    return None if names is None else [str(name) for name in names]


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


def _log_normaliser(precision: Tensor) -> float:
    """The log normaliser of Gaussian priors, to which flat ones add 0."""
    proper = precision[precision > 0].double()
    return 0.5 * float((2 * math.pi / proper).log().sum())
