"""Variables of a container of ArviZ, for pictures."""

from __future__ import annotations

from typing import Any

import xarray

from pyro_expfam.diagnostics.container import datasets
from pyro_expfam.plots.arguments import Array


def levels_of(array: xarray.DataArray) -> int:
    """The number of levels of a variable of categories, or of their coefficients; 1 for others."""
    return int(array.attrs.get("levels", 1))


def centred_loading(array: xarray.DataArray) -> Array:
    """The draws of a loading, without what all levels of a category share.

    Adding a number to all levels changes no probability. Draws of it are draws of the prior.
    """
    values, levels = array.values, levels_of(array)
    if levels == 1:
        return values
    by_level = values.reshape(*values.shape[:-2], -1, levels, values.shape[-1])
    centred: Array = (by_level - by_level.mean(-2, keepdims=True)).reshape(values.shape)
    return centred


def variable_of(container: Any, group: str, variable: str) -> xarray.DataArray:
    """A variable of a group.

    Raises:
        ValueError: if there is no such group or variable.
    """
    dataset = datasets(container).get(group, xarray.Dataset())
    if variable not in dataset:
        raise ValueError(
            f"variable must be one of the group {group}, {sorted(map(str, dataset.data_vars))}, "
            f"got {variable!r}"
        )
    return dataset[variable]
