"""Saving a guide in a file, and taking its state back from the file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from pyro.infer import autoguide
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from pyro_expfam.coefficients import CoefficientPosterior, JointPosterior, ParameterPosterior
from pyro_expfam.guides.coefficient_guide import CoefficientGuide, trained_part
from pyro_expfam.guides.described_block import describe_block
from pyro_expfam.guides.plain_data import NotPlainError, Plain, from_plain, to_plain
from pyro_expfam.guides.point_guide import init_to_small_loading
from pyro_expfam.guides.structured_guide import StructuredGuide
from pyro_expfam.guides.table_objective import free_parameters
from pyro_expfam.guides.tensor_file import FileError, read_tensors, write_tensors
from pyro_expfam.guides.training_table import TrainingTable
from pyro_expfam.models import ExpFamPCA

STATE, POSTERIOR, SUMS = "state.", "posterior.", "table.sums"
"""The prefixes of the names of tensors in a file."""

PARAMETERS, OF_PARAMETERS = "parameters.", ("mode", "covariance", "slope")
"""The same for the posterior of learnt parameters of the family, and the names of its tensors."""

OTHER_GUIDES = ("AutoDelta", "AutoDiagonalNormal", "AutoMultivariateNormal", "AutoNormal")
"""Guides of Pyro that can be made again from their name."""


def write_guide(guide: StructuredGuide, path: str | os.PathLike[str]) -> None:
    """Writes a guide to a file.

    Args:
        guide: a guide that has seen its model.
        path: the file.
    """
    trained = guide._trained_guide()
    state = trained.state_dict()
    tensors = {STATE + name: value for name, value in state.items()}
    plain: dict[str, Any] = {
        "guide": _described(guide, tensors),
        "columns": trained._columns.to_plain(),
        "num_rows": None,
    }
    table = trained._trained_on
    if table is not None:
        plain["num_rows"] = table.num_rows
        if table.sums is not None:
            tensors[SUMS] = table.sums
    posterior = guide.global_guide
    if isinstance(posterior, CoefficientGuide) and posterior.is_current:
        plain["takes_sandwich"] = posterior._takes_sandwich
        found = posterior.posterior()
        if isinstance(found, JointPosterior):
            tensors |= {PARAMETERS + x: getattr(found.parameters, x) for x in OF_PARAMETERS}
            found = found.known
        for field in fields(found):
            tensors[POSTERIOR + field.name] = getattr(found, field.name)
    write_tensors(path, tensors, plain)


def restore_guide(guide: StructuredGuide, path: str | os.PathLike[str]) -> None:
    """Gives a guide the state in a file, or leaves it as it is.

    Args:
        guide: a guide of the same model.
        path: the file.

    Raises:
        FileError: if the file is damaged, or is of a guide of another model.
    """
    tensors, plain = read_tensors(path)
    _refuse_other_family(guide, tensors, plain, path)
    set_state(guide, tensors, plain, path)


def _refuse_other_family(
    guide: StructuredGuide, tensors: dict[str, Tensor], plain: Plain, path: str | os.PathLike[str]
) -> None:
    """An error if both guides are of a single block, and their families differ."""
    with refused_as_file(path):
        theirs = plain["guide"].get("model")
    if theirs is None or not isinstance(guide.model, ExpFamPCA):
        return
    family = guide.model._known_family
    try:
        ours = to_plain(family, {}, "model.family")
    except NotPlainError:
        return
    if not _are_alike(theirs["family"], ours):
        with refused_as_file(path):
            found = from_plain(theirs["family"], tensors)
        raise FileError(
            f"{path} is of a guide of another model, with the family {found} where it has {family}"
        )


def _are_alike(one: Plain, other: Plain) -> bool:
    """Whether descriptions are equal but for tensors, which may be parameters by row."""
    if isinstance(one, dict) and isinstance(other, dict):
        if "tensor" in one or "tensor" in other:
            return True
        return one.keys() == other.keys() and all(_are_alike(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_are_alike, one, other))
    is_tensor = any(isinstance(x, dict) and "tensor" in x for x in (one, other))
    return is_tensor or one == other


def set_state(
    guide: StructuredGuide, tensors: dict[str, Tensor], plain: Plain, path: str | os.PathLike[str]
) -> None:
    """Gives a guide the state of a file that has been read, or leaves it as it is."""
    state = {
        name.removeprefix(STATE): value for name, value in tensors.items() if name.startswith(STATE)
    }
    if guide._trained_guide() is not guide:
        raise ValueError(
            "a guide with params takes its state from the guide that has the parameters: restore "
            "that one"
        )
    _refuse_other_state(guide, state, path)
    with refused_as_file(path):
        rest = _Rest.of(guide, tensors, plain)
    guide.load_state_dict(state)
    guide._columns.set_plain(rest.columns)
    if rest.table is not None:
        guide._trained_on = rest.table
    if rest.posterior is not None:
        guide.global_guide.take(rest.posterior, rest.takes_sandwich)


@contextmanager
def refused_as_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns errors of making something from a file into the error that the file is unfit."""
    try:
        yield
    except FileError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise _unfit(path, repr(error)) from error
    except ValueError as error:
        raise _unfit(path, str(error)) from error


def _unfit(path: str | os.PathLike[str], problem: str) -> FileError:
    return FileError(
        f"{path} does not hold what this version of the package makes a guide of: {problem}"
    )


class _Rest(NamedTuple):
    """What a file holds of a guide beside its state.

    Attributes:
        columns: labels and categories of columns.
        table: the record of the table that it was trained on, or None.
        posterior: the posterior of a :class:`CoefficientGuide`, or None.
        takes_sandwich: whether its covariance is the sandwich covariance.
    """

    columns: dict[str, Any]
    table: TrainingTable | None
    posterior: CoefficientPosterior | None
    takes_sandwich: bool

    @classmethod
    def of(cls, guide: StructuredGuide, tensors: dict[str, Tensor], plain: Plain) -> _Rest:
        """What a file holds, checked against the guide."""
        columns = {name: dict(plain["columns"][name]) for name in ("labels", "categories")}
        num_rows, table = plain["num_rows"], None
        if num_rows is not None:
            if type(num_rows) is not int:
                raise ValueError(f"num_rows must be a whole number, got {num_rows!r}")
            table = TrainingTable(num_rows, tensors.get(SUMS))
        posterior = None
        if isinstance(guide.global_guide, CoefficientGuide) and "takes_sandwich" in plain:
            posterior = _posterior(guide.model, tensors)
        return cls(columns, table, posterior, bool(plain.get("takes_sandwich")))


def _posterior(block: ExpFamPCA, tensors: dict[str, Tensor]) -> CoefficientPosterior:
    """The posterior of coefficients in a file, whose shapes fit the coefficients of a block."""
    shape = (block.num_predictors, block.latent_dim + 1 + block.num_covariates)
    device = block.latent_precision.device
    numbers = {
        name.removeprefix(POSTERIOR): value.to(device)
        for name, value in tensors.items()
        if name.startswith(POSTERIOR)
    }
    found = CoefficientPosterior(**numbers)
    size, noise = math.prod(shape), found.factor.shape[-1]
    features = torch.Size() if found.factor.dim() == 2 else found.factor.shape[:1]
    _check_shapes(
        numbers,
        {
            "mode": shape,
            "mean": shape,
            "factor": (*features, size // features.numel(), noise),
            "rotations": (size, found.rotations.shape[-1]),
            "log_det_information": (),
            "score_covariance": (*features, noise, noise),
            "unreliable_columns": (block.num_features,),
        },
    )
    if PARAMETERS + "mode" not in tensors:
        return found
    of_parameters = {x: tensors[PARAMETERS + x].to(device) for x in OF_PARAMETERS}
    parameters = _of_parameters(block, of_parameters)
    count = sum(parameters.sizes)
    shapes = {"mode": (count,), "covariance": (count, count), "slope": (size, count)}
    _check_shapes(of_parameters, shapes)
    return JointPosterior.of(found, parameters)


def _check_shapes(tensors: dict[str, Tensor], wanted: dict[str, tuple[int, ...]]) -> None:
    wrong = [
        f"{name} of shape {tuple(tensors[name].shape)} in place of {tuple(shape)}"
        for name, shape in wanted.items()
        if tensors[name].shape != shape
    ]
    wrong += [
        f"{name} of {tensors[name].dtype}"
        for name in wanted
        if tensors[name].is_floating_point() == (name == "unreliable_columns")
    ]
    if wrong:
        raise ValueError(f"its posterior has {', '.join(wrong)}")


def _of_parameters(block: ExpFamPCA, numbers: dict[str, Tensor]) -> ParameterPosterior:
    """The posterior of the learnt parameters of a block from its numbers."""
    parameters = tuple(x._replace(is_unit=False) for x in free_parameters(block))
    sizes = tuple(block._point(x.name).numel() for x in parameters)
    return ParameterPosterior(parameters, sizes=sizes, **numbers)


def _refuse_other_state(
    guide: StructuredGuide, state: dict[str, Tensor], path: str | os.PathLike[str]
) -> None:
    if guide.prototype_trace is None and not guide._see_without_data():
        return  # The first call shows the structure, and checks the state against it.
    own = guide.state_dict()
    wrong = [
        f"{name} of shape {tuple(value.shape)} where it has "
        + (str(tuple(own[name].shape)) if name in own else "none")
        for name, value in state.items()
        if name not in own or own[name].shape != value.shape
    ]
    wrong += [
        f"{name} of {value.dtype} where it has {own[name].dtype}"
        for name, value in state.items()
        if name in own and own[name].is_floating_point() != value.is_floating_point()
    ]
    wrong += [f"no {name}" for name in own if name not in state]
    if wrong:
        raise FileError(f"{path} is of a guide of another model, with {', '.join(wrong)}")


def _described(guide: StructuredGuide, tensors: dict[str, Tensor]) -> Plain:
    """What makes the guide again, or the reason why nothing does."""
    try:
        model = describe_block(guide.model, tensors)
        dtype = str(guide.model.latent_precision.dtype).removeprefix("torch.")
        return {
            "class": type(guide).__name__,
            "model": model,
            "dtype": dtype,
            "global_guide": _name_of(trained_part(guide._trained_guide().global_guide)),
            "coefficients": isinstance(guide.global_guide, CoefficientGuide),
            "solver": to_plain(guide.solver, tensors, "solver"),
            "warm_start": guide.warm_start,
        }
    except NotPlainError as error:
        return {"reason": str(error)}


def _name_of(global_guide: AutoGuide) -> str | None:
    """The name of a guide of Pyro with its default settings, None for the default of a guide."""
    name = type(global_guide).__name__
    if name == "AutoDelta" and getattr(global_guide, "init_loc_fn", None) is init_to_small_loading:
        return None
    if name in OTHER_GUIDES and type(global_guide) is getattr(autoguide, name):
        return name
    raise NotPlainError(f"the guide of all other latents is a {name}")
