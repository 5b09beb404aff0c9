"""The names of the dimensions of arrays that are not sites of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pyro_expfam.diagnostics.container import Variable
from pyro_expfam.diagnostics.sites import Site, check_dims


class ArrayDims:
    """Names for the dimensions of arrays, such as arguments of the model.

    An array of the shape of a site has that site's dimensions, as an offset does. Else a
    dimension has the name of the plate of its size, if there is one such plate, or one whose
    name has the same prefix as the array's; and ArviZ's own name if there is none.

    Args:
        sites: the sites whose shapes count. Of several, one whose name has the same prefix as
            the array's comes first.
        plates: the size of each of its plates, by name.
        dims: the user's names, by array.
    """

    def __init__(
        self,
        sites: Iterable[Site],
        plates: Mapping[str, int],
        dims: Mapping[str, Sequence[str]],
    ) -> None:
        self._sites = list(sites)
        self._plates = plates
        self._dims = dims

    def variable(self, name: str, values: np.ndarray) -> Variable:
        """The array as a variable.

        Raises:
            ValueError: if the user's names are not one for each dimension.
        """
        if name in self._dims:
            return Variable(tuple(check_dims(name, self._dims[name], values.ndim)), values)
        alike = [site for site in self._sites if tuple(site.sizes.values()) == values.shape]
        if values.ndim and alike:
            alike.sort(key=lambda site: _prefix(site.name) != _prefix(name))
            return Variable(alike[0].named_dims, values)
        dims: list[str] = []
        for position, size in enumerate(values.shape):
            plate = self._plate(name, size)
            unique = plate is not None and plate not in dims
            dims.append(plate if plate and unique else f"{name}_dim_{position}")
        return Variable(tuple(dims), values)

    def _plate(self, array: str, size: int) -> str | None:
        fitting = [name for name, length in self._plates.items() if length == size]
        if len(fitting) > 1:
            fitting = [name for name in fitting if _prefix(name) == _prefix(array)]
        return fitting[0] if len(fitting) == 1 else None


def _prefix(name: str) -> str:
    return name.rpartition(".")[0]
