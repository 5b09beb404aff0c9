"""Variables of a container of ArviZ, for pictures."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray

from pyro_expfam.diagnostics.container import datasets
from pyro_expfam.plots.arguments import Array
from pyro_expfam.table_categories import Categories


def levels_of(array: xarray.DataArray) -> Array | None:
    """The number of levels of each column of categories, or None for a table of numbers.

    It is one number if they are all the same.
    """
    levels = array.attrs.get("levels")
    return None if levels is None else np.atleast_1d(levels)


def kinds_of(array: xarray.DataArray) -> Array | None:
    """The kind of each column of a mixed table, or None for a table of one family."""
    prefix, _, last = str(array.dims[-1]).rpartition("feature")
    name = f"{prefix}kind{last}"
    return np.asarray(array.coords[name].values) if name in array.coords else None


def categories_of(array: xarray.DataArray) -> Categories:
    """The names of the levels of each column of a table, None for a column without."""
    names = array.attrs.get("categories")
    found: Categories = [None] * array.shape[-1] if names is None else json.loads(names)
    return found


def centred_loading(array: xarray.DataArray) -> Array:
    """The draws of a loading, without what all levels of a category share.

    Adding a number to all levels changes no probability. Draws of it are draws of the prior.

    Raises:
        ValueError: if it is the kernel of a convolution.
    """
    if str(array.dims[-1]).rpartition(".")[2].startswith("kernel_"):
        raise ValueError(
            f"variable must be a loading of features by latents, got {array.name!r} with the "
            f"dimensions {array.dims}, the kernel of a convolution"
        )
    values, levels = array.values, levels_of(array)
    if levels is None:
        return values
    if len(levels) == 1:
        levels = np.repeat(levels, values.shape[-2] // levels[0])
    centred: Array = values.copy()
    ends = np.cumsum(levels)
    for begin, end in zip(ends - levels, ends, strict=True):
        if end - begin > 1:
            centred[..., begin:end, :] -= values[..., begin:end, :].mean(-2, keepdims=True)
    return centred


def latents_of(container: Any, variable: str) -> xarray.DataArray:
    """Draws of latents, such as ``"genes.z"``.

    A table that shares the latents of another block has them under the name of that block. They
    have the latent dimension of the table's loading.

    Raises:
        ValueError: if there is no such group or variable.
    """
    posterior = datasets(container).get("posterior", xarray.Dataset())
    loading = variable.removesuffix("z") + "loading"
    if variable not in posterior and loading in posterior:
        shared = [
            str(name)
            for name, values in posterior.data_vars.items()
            if str(name).rpartition(".")[2] == "z"
            and values.dims[-1] == posterior[loading].dims[-1]
        ]
        if len(shared) == 1:
            return posterior[shared[0]]
    return variable_of(container, "posterior", variable)


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
