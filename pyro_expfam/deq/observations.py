"""Checking a table of observations, once, where it enters the package."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families import Family

ENTRIES_AT_ONCE = 1 << 16
"""Of a table that is checked: to ask for much memory costs more than what is done in it."""


class Observations(NamedTuple):
    """A checked table and what is known of its entries.

    Attributes:
        y: observations, ``(..., N, d)``; a missing entry holds some value of the support.
        offset: known part of the natural parameters, broadcastable to ``y``, or None.
        mask: which entries are observed, broadcastable to ``y``, or None for all.
    """

    y: Tensor
    offset: Tensor | None
    mask: Tensor | None


def check_observations(
    family: Family,
    y: Any,
    num_features: int,
    like: Tensor,
    offset: Any = None,
    mask: Any = None,
) -> Observations:
    """A table as tensors of the dtype and device of ``like``, or an error that says what is wrong.

    Args:
        family: the law of the observations.
        y: observations, ``(..., N, num_features)``: a tensor, an array or nested sequences.
        num_features: the number of features wanted.
        like: a tensor of the dtype and device wanted.
        offset: broadcastable to the shape of ``y``.
        mask: booleans broadcastable to the shape of ``y``; False marks a missing entry, whose
            value in ``y`` is not read.

    Raises:
        TypeError: if ``y``, ``offset`` or ``mask`` holds no numbers.
        ValueError: if a shape or device does not fit, ``y`` has no rows, or an observed entry
            is not finite or outside the support of ``family``.
    """
    y = as_tensor("y", y, like)
    if y.dim() < 2 or y.shape[-1] != num_features:
        raise ValueError(
            f"y must have shape (..., rows, {num_features}), one column for each feature, "
            f"got {tuple(y.shape)}"
        )
    if y.numel() == 0:
        raise ValueError(f"y must have at least one row, got shape {tuple(y.shape)}")
    if mask is not None:
        mask = as_entries("mask", as_mask(mask, like), y.shape)
    if offset is not None:
        offset = as_entries("offset", _as_offset(offset, like), y.shape)
        _check_entries("offset", offset, torch.isfinite(offset), "finite")
    y = _check_support(family, y, mask)
    return Observations(y, offset, mask)


def as_tensor(name: str, value: Any, like: Tensor) -> Tensor:
    """``value`` as a tensor of the dtype of ``like``, which has to lie on the same device."""
    if not isinstance(value, Tensor):
        if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
            raise ValueError(
                f"{name} must be a plain array, got a masked one: pass its data, and mask= with "
                "True where an entry is present"
            )
        array = np.asarray(value)
        if array.dtype == object:
            try:
                array = array.astype(np.float64)
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"{name} must hold numbers, got an object array that does not convert: {error}"
                ) from None
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name} must hold real numbers, got an array of dtype {array.dtype}")
        value = torch.as_tensor(array).to(like.device)
    if value.is_complex():
        raise TypeError(f"{name} must hold real numbers, got a tensor of dtype {value.dtype}")
    if value.device != like.device:
        raise ValueError(f"{name} must be on device {like.device}, got {value.device}")
    return value.to(like.dtype)


def _as_offset(offset: Any, like: Tensor) -> Tensor:
    value = offset if isinstance(offset, Tensor) else np.asarray(offset)
    if value.dtype in (torch.bool, np.bool_):
        raise TypeError("offset must hold real numbers, got booleans: pass a mask as mask=")
    return as_tensor("offset", offset, like)


def as_mask(mask: Any, like: Tensor) -> Tensor:
    """``mask`` as a boolean tensor on the device of ``like``."""
    if not isinstance(mask, Tensor):
        mask = torch.as_tensor(np.asarray(mask)).to(like.device)
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must hold booleans, got dtype {mask.dtype}")
    if mask.device != like.device:
        raise ValueError(f"mask must be on device {like.device}, got {mask.device}")
    return mask


def as_entries(name: str, entries: Tensor, shape: torch.Size) -> Tensor:
    """``entries`` with at least two dimensions, if they broadcast to ``shape``."""
    given = tuple(entries.shape)
    if entries.dim() < 2:
        entries = entries.expand(*(1,) * (2 - entries.dim()), *entries.shape)
    try:
        fits = torch.broadcast_shapes(entries.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"{name} must broadcast to the shape of y, {tuple(shape)}, got {given}")
    return entries


def _check_support(family: Family, y: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        # A missing entry may hold NaN, which would spread through products with zero; one is
        # an observation of every family.
        y = torch.where(mask, y, 1.0)
    if all(_is_surely_inside(family.support, rows) for rows in y.split(_rows_at_once(y), -2)):
        return y
    valid = family.support.check(y)
    smallest, largest = y.aminmax()
    if not bool(valid.all() & smallest.isfinite() & largest.isfinite()):
        _check_entries("y", y, torch.isfinite(y), "finite; pass mask= to mark missing entries")
        _check_entries("y", y, valid, f"in the support of {family}, {family.support}")
    return y


def _rows_at_once(y: Tensor) -> int:
    return max(1, ENTRIES_AT_ONCE * y.shape[-2] // y.numel())


def _is_surely_inside(support: constraints.Constraint, y: Tensor) -> bool:
    """Whether a quick test finds all entries finite and in a support; False if there is none."""
    if support is constraints.boolean:
        # y - y * y, which is zero at 0 and 1 alone.
        distance = torch.addcmul(y, y, y, value=-1)
    elif support is constraints.nonnegative_integer:
        # Of a negative number it is at most that number, which is not 0.
        distance = y.frac().add_(y.clamp(max=0))
    else:
        return False
    smallest, largest = distance.aminmax()
    # A comparison with NaN is False.
    return bool((smallest == 0) & (largest == 0))


def _check_entries(name: str, entries: Tensor, valid: Tensor, wanted: str) -> None:
    if bool(valid.all()):
        return
    position = tuple(int(i) for i in (~valid).nonzero()[0])
    count = int((~valid).sum())
    raise ValueError(
        f"{name} must be {wanted}; got {float(entries[position]):g} at position {position}"
        + (f" and {count - 1} more such entries" if count > 1 else "")
    )
