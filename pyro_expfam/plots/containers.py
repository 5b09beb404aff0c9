"""Variables of a container of ArviZ, for pictures."""

from __future__ import annotations

from typing import Any

import xarray

from pyro_expfam.diagnostics.container import datasets


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
