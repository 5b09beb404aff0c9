"""Containers of either line of ArviZ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import arviz
import numpy as np
import pyro
import xarray

from pyro_expfam.table_categories import Categories


class Variable(NamedTuple):
    """An array with a name for each of its dimensions."""

    dims: tuple[str, ...]
    values: np.ndarray


class Group(NamedTuple):
    """A group of ArviZ: variables by name, and coordinates by name."""

    variables: dict[str, Variable]
    coords: dict[str, Variable]


OF_TABLES = ("observed_data", "posterior_predictive")
"""The groups that hold tables, observed or drawn."""


def container(
    groups: Mapping[str, Group],
    levels: Mapping[str, Sequence[int]] | None = None,
    categories: Mapping[str, Categories] | None = None,
) -> Any:
    """The groups in the container of the installed ArviZ.

    It is an ``InferenceData`` in ArviZ 0.23 and a :class:`xarray.DataTree` in ArviZ 1.x.

    Args:
        groups: the groups by name.
        levels: the number of levels of each column of variables of categories, by name. They are an
            attribute ``levels`` of these variables, one number where they are all the same.
        categories: the names of the levels of each column, by the dimension of the columns. They
            are an attribute ``categories`` of tables with this dimension, as JSON.
    """
    made: dict[str, Any] = {
        name: _dataset(group) for name, group in groups.items() if group.variables
    }
    for name, count in (levels or {}).items():
        for dataset in made.values():
            if name in dataset.data_vars:
                dataset[name].attrs["levels"] = (
                    count[0] if len(set(count)) == 1 else np.asarray(count)
                )
    for dim, names in (categories or {}).items():
        for dataset in (made[name] for name in OF_TABLES if name in made):
            for variable in dataset.data_vars.values():
                if variable.dims[-1:] == (dim.replace("/", "."),):
                    variable.attrs["categories"] = json.dumps(names)
    if arviz.__version__.startswith("0."):
        return arviz.InferenceData(**made)
    return xarray.DataTree.from_dict(made)


def datasets(idata: Any) -> dict[str, xarray.Dataset]:
    """The groups of a container of either ArviZ line, by name.

    Raises:
        TypeError: if ``idata`` is not such a container.
    """
    if isinstance(idata, xarray.DataTree):
        return {str(name): group.to_dataset() for name, group in idata.children.items()}
    if _is_inference_data(idata):
        return {name: idata[name] for name in idata.groups()}
    raise TypeError(
        f"a container must be an InferenceData or a DataTree of ArviZ, got {type(idata).__name__}"
    )


def with_datasets(idata: Any, groups: Mapping[str, xarray.Dataset]) -> Any:
    """A container with these groups, and the kind and attributes of ``idata``."""
    if isinstance(idata, xarray.DataTree):
        tree = xarray.DataTree.from_dict(dict(groups), name=idata.name)
        tree.attrs = idata.attrs
        return tree
    return type(idata)(attrs=idata.attrs, **groups)


def is_container(value: Any) -> bool:
    """Whether a value is a container of either ArviZ line."""
    return isinstance(value, xarray.DataTree) or _is_inference_data(value)


def _is_inference_data(value: Any) -> bool:
    return arviz.__version__.startswith("0.") and isinstance(value, arviz.InferenceData)


def _dataset(group: Group) -> xarray.Dataset:
    return xarray.Dataset(_named(group.variables), _named(group.coords), _attributes())


def _named(variables: Mapping[str, Variable]) -> dict[str, tuple[list[str], np.ndarray]]:
    """Replaces slashes in names by dots: a slash separates groups in netCDF."""
    return {
        name.replace("/", "."): ([dim.replace("/", ".") for dim in dims], values)
        for name, (dims, values) in variables.items()
    }


def _attributes() -> dict[str, str]:
    """The attributes that the schema of ArviZ requires in every group."""
    attributes = {
        "created_at": datetime.now(UTC).isoformat(),
        "creation_library": "pyro_expfam",
        "creation_library_language": "Python",
        "inference_library": "pyro",
        "inference_library_version": pyro.__version__,
    }
    try:
        attributes["creation_library_version"] = version("pyro-expfam")
    except PackageNotFoundError:  # a checkout that is not installed has no version
        return attributes
    return attributes
