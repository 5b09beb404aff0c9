"""Checking a table of observations, once, where it enters the package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.deq import cpu
from pyro_expfam.deq.row_block import tiles
from pyro_expfam.families import Family
from pyro_expfam.inference_mode import out_of_inference_mode

ENTRIES_AT_ONCE = 1 << 16
"""Of a table that is checked on a CPU: asking for memory costs more than what is done in it."""

WORTH_A_KERNEL = 1 << 12
"""Entries of a table that are worth a call of compiled code."""


class Observations(NamedTuple):
    """A table and what is known of its entries.

    Attributes:
        y: observations, ``(..., N, d)``.
        offset: known part of the natural parameters, broadcastable to ``y``, or None.
        mask: which entries are observed, broadcastable to ``y``, or None for all.
        weights: of the log densities of entries, broadcastable to ``y``, or None for 1.
    """

    y: Tensor
    offset: Tensor | None = None
    mask: Tensor | None = None
    weights: Tensor | None = None

    @property
    def entry_weights(self) -> Tensor | None:
        """The weights, 0 where an entry is missing, or None where all are 1."""
        if self.mask is None:
            return self.weights
        observed = self.mask.to(self.y.dtype)
        return observed if self.weights is None else observed * self.weights

    def rows(self, index: slice) -> Observations:
        """Some of the rows."""
        return Observations(
            self.y[..., index, :],
            *(_rows(entries, index) for entries in (self.offset, self.mask, self.weights)),
        )

    def to(self, like: Tensor) -> Observations:
        """The same numbers in the dtype of ``like``."""
        return self._replace(
            y=self.y.to(like.dtype),
            offset=None if self.offset is None else self.offset.to(like.dtype),
            weights=None if self.weights is None else self.weights.to(like.dtype),
        )

    def filled(self) -> Observations:
        """The same, with some value of the support for each entry that is missing.

        A missing entry may hold NaN, which would spread through products with zero; one is an
        observation of every family.
        """
        if self.mask is None:
            return self
        return self._replace(y=torch.where(self.mask, self.y, 1.0))


def check_observations(
    family: Family,
    y: Any,
    num_features: int,
    like: Tensor,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
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
        weights: non-negative numbers, broadcastable to the shape of ``y``.

    Raises:
        TypeError: if an argument holds no numbers.
        ValueError: if a shape or device does not fit, ``y`` has no rows, a weight is negative, or
            an observed entry is not finite or outside the support of ``family``.
    """
    observed = as_observations(y, num_features, like, offset, mask, weights).to(like)
    check_values(family, observed, like)
    return observed.filled()


def as_observations(
    y: Any,
    num_features: int,
    like: Tensor,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
) -> Observations:
    """A table as tensors of the dtypes that they have, of which only the shapes are checked."""
    y = _as_numbers("y", y, like)
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
    if weights is not None:
        weights = as_entries("weights", _as_numbers("weights", weights, like), y.shape)
    return Observations(y, offset, mask, weights)


def check_values(family: Family, observed: Observations, like: Tensor) -> None:
    """An error unless numbers, in the dtype of ``like``, are of the support and finite."""
    y, offset, mask, weights = observed
    if mask is None and offset is None and weights is None and _all_inside(family.support, y, like):
        return
    # In tiles: what is computed on the way would take more memory than the table.
    for tile in _tiles(y):
        if not _is_valid(family.rows(tile), observed.rows(tile).to(like)):
            _explain(family, observed.to(like))


def _all_inside(support: constraints.Constraint, y: Tensor, like: Tensor) -> bool:
    """Whether a compiled kernel finds all entries in a support; False where there is none."""
    if y.device.type != "cpu" or y.dtype != like.dtype or y.dim() != 2:
        return False
    if not y.is_contiguous() or y.numel() < WORTH_A_KERNEL or not cpu.numba_is_installed():
        return False
    # Only here: Numba takes a second to import.
    from pyro_expfam.deq.cpu.checks import are_surely_inside

    return are_surely_inside(support, y.detach())


def _tiles(y: Tensor) -> Iterator[slice]:
    num_rows, row_entries = y.shape[-2], y.numel() // y.shape[-2]
    if y.device.type != "cpu":
        return tiles(num_rows, row_entries, y.device)
    size = max(1, ENTRIES_AT_ONCE // row_entries)
    return (slice(begin, min(begin + size, num_rows)) for begin in range(0, num_rows, size))


def as_tensor(name: str, value: Any, like: Tensor) -> Tensor:
    """``value`` as a tensor of the dtype of ``like``, which has to lie on the same device."""
    return _as_numbers(name, value, like).to(like.dtype)


def _as_numbers(name: str, value: Any, like: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
            raise ValueError(
                f"{name} must be a plain array, got a masked one: pass its data, and mask= with "
                "True where an entry is present"
            )
        if hasattr(value, "toarray"):
            raise TypeError(f"{name} must be dense, got a sparse array: pass its toarray()")
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
        # Data frames give arrays that must not be written to, which PyTorch does not know of.
        array = array if array.flags.writeable else array.copy()
        value = torch.as_tensor(array).to(like.device)
    value = out_of_inference_mode(value)
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be dense, got a sparse tensor: pass its to_dense()")
    if value.is_complex():
        raise TypeError(f"{name} must hold real numbers, got a tensor of dtype {value.dtype}")
    if value.device != like.device:
        raise ValueError(f"{name} must be on device {like.device}, got {value.device}")
    return value


def _as_offset(offset: Any, like: Tensor) -> Tensor:
    value = offset if isinstance(offset, Tensor) else np.asarray(offset)
    if value.dtype in (torch.bool, np.bool_):
        raise TypeError("offset must hold real numbers, got booleans: pass a mask as mask=")
    return _as_numbers("offset", offset, like)


def as_mask(mask: Any, like: Tensor) -> Tensor:
    """``mask`` as a boolean tensor on the device of ``like``."""
    if not isinstance(mask, Tensor):
        mask = torch.as_tensor(np.asarray(mask)).to(like.device)
    mask = out_of_inference_mode(mask)
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


def _is_valid(family: Family, observed: Observations) -> bool:
    y, offset, _, weights = observed.filled()
    inside = _is_surely_inside(family.support, y)
    others = (offset, weights) if inside else (y, offset, weights)
    # An extreme is finite only if all are.
    extremes = [x for entries in others if entries is not None for x in entries.aminmax()]
    if extremes and not bool(torch.stack(extremes).isfinite().all()):
        return False
    if weights is not None and bool(weights.amin() < 0):
        return False
    return inside or bool(family.support.check(y).all())


def _explain(family: Family, observed: Observations) -> None:
    """The error of a table that is not valid."""
    y, offset, _, weights = observed.filled()
    if offset is not None:
        _check_entries("offset", offset, torch.isfinite(offset), "finite")
    if weights is not None and not bool(((weights >= 0) & torch.isfinite(weights)).all()):
        raise ValueError(
            "weights must be non-negative and finite, got values from "
            f"{float(weights.min()):g} to {float(weights.max()):g}"
        )
    _check_entries("y", y, torch.isfinite(y), "finite; pass mask= to mark missing entries")
    _check_entries("y", y, family.support.check(y), f"in the support of {family}, {family.support}")


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


def _rows(entries: Tensor | None, index: slice) -> Tensor | None:
    # A single row stands for all of them by broadcasting.
    return entries if entries is None or entries.shape[-2] == 1 else entries[..., index, :]
