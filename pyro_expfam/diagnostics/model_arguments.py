"""The arguments of a model: constant data, and the labels of data frames."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from pyro_expfam.diagnostics.container import Variable
from pyro_expfam.diagnostics.draws import to_numpy
from pyro_expfam.diagnostics.sites import Site
from pyro_expfam.table_categories import Categories, categories_of, with_codes
from pyro_expfam.table_frames import as_pandas
from pyro_expfam.table_labels import axis_of, labels_of


class Arguments:
    """The numeric arguments of a model by parameter name, and those that it observes.

    Args:
        model: the model.
        args: its positional arguments.
        kwargs: its keyword arguments.
        observed: the observed sites, with their values.
        columns: the names of the columns of sites, for frames that have them in another order.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        observed: Sequence[tuple[Site, np.ndarray]],
        columns: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        self._values = {
            name: _in_order(as_pandas(value), (columns or {}).values())
            for name, value in _by_name(model, args, kwargs).items()
        }
        arrays = {name: _numeric(value) for name, value in self._values.items()}
        self.constant = {name: array for name, array in arrays.items() if array is not None}
        self._observed: dict[str, tuple[str, ...]] = {}
        for site, values in observed:
            names = (name for name, array in self.constant.items() if _is_of(site, values, array))
            name = next(names, None)
            if name is not None:
                del self.constant[name]
                self._observed[name] = site.named_dims

    def categories(self) -> dict[str, Categories]:
        """The names of levels in observed frames, by the dimension of the columns."""
        found = {
            dims[-1]: categories_of(self._values[name]) for name, dims in self._observed.items()
        }
        return {dim: names for dim, names in found.items() if names is not None}

    def frame_labels(self, constants: Mapping[str, Variable]) -> dict[str, np.ndarray]:
        """The names of the rows and columns of data frames, by dimension.

        Observed frames take precedence over frames in ``constants``.
        """
        found: dict[str, np.ndarray] = {}
        dims = {**self._observed, **{name: variable.dims for name, variable in constants.items()}}
        for name, of_frame in dims.items():
            if len(of_frame) == 2:
                for dim, labels in zip(of_frame, labels_of(self._values[name]), strict=True):
                    if labels is not None:
                        found.setdefault(dim, labels)
        return found


def _in_order(value: Any, orders: Iterable[Sequence[Any]]) -> Any:
    """A frame with its columns in the order that a table of the model has them."""
    columns = axis_of(value, "columns")
    for order in orders:
        if columns is not None and len(columns) == len(order) and set(columns) == set(order):
            return value[list(order)]
    return value


def _by_name(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    signature = inspect.signature(model.forward if isinstance(model, nn.Module) else model)
    named: dict[str, Any] = {}
    for name, value in signature.bind(*args, **kwargs).arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named.update({f"{name}_{index}": item for index, item in enumerate(value)})
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        else:
            named[name] = value
    return named


def _numeric(value: Any) -> np.ndarray | None:
    if isinstance(value, Tensor):
        return to_numpy(value)
    try:
        value = with_codes(value)
        array = np.asarray(value)
        if array.dtype == object and hasattr(value, "columns"):
            # Nullable columns, or columns of several types, make an array of objects.
            array = value.to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError):  # lists of different lengths, or a column of names
        return None
    return array if array.dtype.kind in "biuf" else None


def _is_of(site: Site, values: np.ndarray, array: np.ndarray) -> bool:
    """Whether an argument equals the observations of a site, in all entries that are present."""
    if array.shape != values.shape:
        return False
    # The model may observe the argument in less precision.
    given = array[site.present].astype(values.dtype)
    return np.array_equal(given, values[site.present])
