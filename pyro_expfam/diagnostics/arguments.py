"""The arguments of a model that are constant data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from pyro_expfam.diagnostics.draws import to_numpy
from pyro_expfam.diagnostics.sites import Site


def constant_arguments(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    observed: Iterable[tuple[Site, np.ndarray]],
) -> dict[str, np.ndarray]:
    """The numeric arguments of a model but those that it observes, by parameter name."""
    arrays = {name: _numeric(value) for name, value in _arguments(model, args, kwargs).items()}
    constant = {name: array for name, array in arrays.items() if array is not None}
    for site, values in observed:
        matches = (name for name, array in constant.items() if _observes(site, values, array))
        constant.pop(next(matches, ""), None)
    return constant


def _arguments(
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
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return None
    return array if array.dtype.kind in "biuf" else None


def _observes(site: Site, values: np.ndarray, array: np.ndarray) -> bool:
    """Whether an argument is what a site observes, in all that is not masked."""
    if array.shape != values.shape:
        return False
    return np.array_equal(array[site.present], values[site.present])
