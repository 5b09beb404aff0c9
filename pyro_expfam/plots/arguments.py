"""Checks of the arguments of pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_expfam.deq.arrays import as_numeric_array

Array = NDArray[Any]


def as_array(name: str, values: Any) -> Array:
    """Numbers as an array in double precision: a tensor, an array, a frame or nested sequences.

    Missing values of a frame become NaN.

    Raises:
        TypeError: if they are not real numbers.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    elif isinstance(values, list | tuple):
        values = [x.detach().cpu() if isinstance(x, torch.Tensor) else x for x in values]
    try:
        array = as_numeric_array(name, values)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must hold real numbers, got {type(values).__name__}") from error
    return array.astype(np.float64)


def as_shape(name: str, values: Any, shape: tuple[int | str, ...]) -> Array:
    """Numbers as an array of a given shape, in which a letter stands for any size but zero.

    Raises:
        TypeError: if they are not real numbers.
        ValueError: if they have another shape.
    """
    array = as_array(name, values)
    fits = array.ndim == len(shape) and all(
        size == wanted if isinstance(wanted, int) else size > 0
        for size, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits:
        letters = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
        raise ValueError(f"{name} must be of shape {letters}, got {array.shape}")
    return array


def as_level(level: float) -> float:
    """A checked probability, strictly between 0 and 1."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    return level


def as_position(name: str, position: int, size: int) -> int:
    """A checked position in an axis of this size, counted from its start."""
    if not -size <= position < size:
        raise ValueError(f"{name} must be a position among {size}, got {position}")
    return position % size
