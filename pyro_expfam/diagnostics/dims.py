"""Names for the dimensions of arrays that are not sites of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pyro_expfam.diagnostics.container import Variable
from pyro_expfam.diagnostics.sites import Site, check_dims


class ArrayDims:
    """Names for the dimensions of arrays, such as arguments of the model.

    An array with the shape of a site, or one that broadcasts to it as an offset does, gets the
    site's dimensions. A dimension along which the array does not vary gets a name of its own.
    Otherwise a dimension is named after the only plate of its size, or the only one whose name has
    the same prefix as the array's. If no name is certain, the dimension is named as in ArviZ:
    ``x_dim_0``.

    Args:
        sites: the sites to compare shapes with. Among several with the same shape, a site whose
            name has the same prefix as the array's is preferred.
        plates: the size of each plate, by the name of its dimension.
        dims: the user's names, by array.
        others: the sizes of dimensions other than plates, by name. If one has the same size as a
            plate, the plate's name is not certain.
    """

    def __init__(
        self,
        sites: Iterable[Site],
        plates: Mapping[str, int],
        dims: Mapping[str, Sequence[str]],
        others: Mapping[str, int],
    ) -> None:
        self._sites = list(sites)
        self._plates = plates
        self._dims = dims
        self._others = others

    def variable(self, name: str, values: np.ndarray) -> Variable:
        """The array as a variable.

        Raises:
            ValueError: if the user did not give one name per dimension.
        """
        if name in self._dims:
            return Variable(tuple(check_dims(name, self._dims[name], values.ndim)), values)
        for fits in (_has_shape, _broadcasts):
            alike = [site for site in self._sites if fits(values.shape, site)]
            if alike:
                alike.sort(key=lambda site: _prefix(site.name) != _prefix(name))
                return Variable(_own_names(name, values.shape, alike[0]), values)
        dims: list[str] = []
        for position, size in enumerate(values.shape):
            plate = self._plate(name, size)
            unique = plate is not None and plate not in dims
            dims.append(plate if plate and unique else f"{name}_dim_{position}")
        return Variable(tuple(dims), values)

    def _plate(self, array: str, size: int) -> str | None:
        sizes = {**self._others, **self._plates}
        fitting = [name for name, length in sizes.items() if length == size]
        if len(fitting) > 1:
            fitting = [name for name in fitting if _prefix(name) == _prefix(array)]
        return fitting[0] if len(fitting) == 1 and fitting[0] in self._plates else None


def _has_shape(shape: tuple[int, ...], site: Site) -> bool:
    return bool(shape) and shape == tuple(site.sizes.values())


def _broadcasts(shape: tuple[int, ...], site: Site) -> bool:
    """Whether an array that varies has as many dimensions as a site, each of its size or 1."""
    sizes = tuple(site.sizes.values())
    if len(shape) != len(sizes) or len(shape) < 2 or set(shape) == {1}:
        return False
    return all(size in (1, wanted) for size, wanted in zip(shape, sizes, strict=True))


def _own_names(name: str, shape: tuple[int, ...], site: Site) -> tuple[str, ...]:
    """The names of a site's dimensions, with other names for dimensions of size 1."""
    sizes = site.sizes.items()
    return tuple(
        dim if size == wanted else f"{name}_dim_{position}"
        for position, (size, (dim, wanted)) in enumerate(zip(shape, sizes, strict=True))
    )


def _prefix(name: str) -> str:
    return name.rpartition(".")[0]
