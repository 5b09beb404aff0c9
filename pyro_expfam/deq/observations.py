"""Checks of a table of observations, made once where it enters the package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.deq import cpu
from pyro_expfam.deq.arrays import (
    SPARSE_METHODS,
    as_boolean_array,
    as_numeric_array,
    without_masked_array,
)
from pyro_expfam.deq.covariates import Covariates, as_covariates
from pyro_expfam.deq.frames import EntryError, by_label, check_same_order, naming_entries_of
from pyro_expfam.deq.inference_mode import out_of_inference_mode
from pyro_expfam.deq.mixed_frames import as_numbers, in_order_of_names
from pyro_expfam.deq.row_block import tiles
from pyro_expfam.deq.supports import describe, hint
from pyro_expfam.deq.transformed import are_transformed, checked
from pyro_expfam.families import Family
from pyro_expfam.families.kinds import places
from pyro_expfam.table_categories import as_levels

ENTRIES_AT_ONCE = 1 << 16
"""Entries in a tile of a table on a CPU: allocating larger tiles costs more than the checks."""

ROWS_AT_ONCE = 64
"""Rows that are searched for a present entry at once."""

Missing = Literal["nan"] | None
"""What marks missing entries of a table beside a mask."""

WORTH_A_KERNEL = 1 << 12
"""The least number of entries for which a call of compiled code pays."""


class Observations(NamedTuple):
    """A table with offset, mask and weights of its entries.

    Attributes:
        y: observations, ``(..., N, d)``.
        offset: known part of the natural parameters, broadcastable to ``y``, or None.
        mask: which entries are observed, broadcastable to ``y``, or None for all.
        weights: weights of the entries' log densities, broadcastable to ``y``, or None for 1.
        covariates: known numbers of each row, ``(..., N, p)``, or None.
    """

    y: Tensor
    offset: Tensor | None = None
    mask: Tensor | None = None
    weights: Tensor | None = None
    covariates: Tensor | None = None

    @property
    def entry_weights(self) -> Tensor | None:
        """The weights, 0 for a missing entry, or None if all are 1."""
        if self.mask is None:
            return self.weights
        observed = self.mask.to(self.y.dtype)
        return observed if self.weights is None else observed * self.weights

    def is_alone(self, y: Any) -> bool:
        """Whether this is a tensor itself, in which every change is seen, and nothing else."""
        return self.y is y and all(x is None for x in self[1:])

    def rows(self, index: slice) -> Observations:
        """Some of the rows."""
        x = self.covariates
        return Observations(
            self.y[..., index, :],
            _rows(self.offset, index),
            _rows(self.mask, index),
            _rows(self.weights, index),
            None if x is None else x[..., index, :],
        )

    def on(self, device: torch.device) -> Observations:
        """The same on another device."""
        return Observations(*(None if x is None else x.to(device) for x in self))  # type: ignore[arg-type]

    def to(self, like: Tensor) -> Observations:
        """The same numbers in the dtype of ``like``."""
        return self._replace(
            y=self.y.to(like.dtype),
            offset=None if self.offset is None else self.offset.to(like.dtype),
            weights=None if self.weights is None else self.weights.to(like.dtype),
            covariates=None if self.covariates is None else self.covariates.to(like.dtype),
        )

    def filled(self, family: Family) -> Observations:
        """The same observations, with a value of the support in place of each missing entry.

        A missing entry, its offset and its weight may hold NaN, which would spread through products
        with zero.
        """
        if self.mask is None:
            return self
        return self._replace(
            y=_fill(self.y, self.mask, family.placeholder),
            offset=_fill(self.offset, _repeated(self.mask, family), 0.0),
            weights=_fill(self.weights, self.mask, 1.0),
        )


def covariates_of(observed: Observations, C: Tensor | None) -> Covariates | None:
    """The covariates of checked observations with coefficients ``(..., d, p)``, or None."""
    if observed.covariates is None or C is None:
        return None
    return Covariates(observed.covariates, C, observed.offset)


def encoded(family: Family, observed: Observations) -> Observations:
    """Observations in the shape of their linear predictors, as problems hold them."""
    if not family.has_levels:
        return observed
    return observed._replace(
        y=family.encode(observed.y),
        mask=_repeated(observed.mask, family),
        weights=_repeated(observed.weights, family),
    )


def _repeated(entries: Any, family: Family) -> Any:
    """Entries of columns, repeated for each of their linear predictors."""
    if entries is None or not family.has_levels or entries.shape[-1] == 1:
        return entries
    column = family.column_of_predictor(entries.shape[-1])
    return entries.index_select(-1, column.to(entries.device))


def check_observations(
    family: Family,
    y: Any,
    num_features: int,
    like: Tensor,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    covariates: Any = None,
    *,
    missing: Missing = None,
    num_covariates: int = 0,
) -> Observations:
    """A checked table as tensors of the dtype and device of ``like``.

    Args:
        family: the law of the observations.
        y: observations, ``(..., N, num_features)``: a tensor, an array or nested sequences.
        num_features: the number of features wanted.
        like: a tensor of the dtype and device wanted.
        offset: broadcastable to the linear predictors, from the right; it and the next two
            may have more batch dimensions than ``y``, which is then repeated along them. A series
            of pandas that has the index of the frame ``y`` is one number per row.
        mask: booleans broadcastable to the same shape; False marks a missing entry. The value, the
            offset and the weight of a missing entry are not read.
        weights: non-negative numbers, broadcastable to the same shape.
        covariates: known numbers of each row, ``(..., N, num_covariates)``.
        missing: ``"nan"`` if NaN in ``y``, and every missing value of a frame, is a missing entry;
            None if it is an error.
        num_covariates: the number of covariates wanted.

    Raises:
        TypeError: if an argument holds no numbers, or ``like`` has half precision.
        ValueError: if a shape or device does not fit, ``y`` has no rows, a weight is negative, an
            observed entry is not finite or outside the support of ``family``, or frames have the
            same labels in different orders.
    """
    check_dtype(like)
    y, offset, mask, weights = in_order_of_names(family, y, offset, mask, weights)
    observed = as_observations(
        family,
        y,
        num_features,
        like,
        offset,
        mask,
        weights,
        covariates,
        missing=missing,
        num_covariates=num_covariates,
    )
    observed = observed.to(like)
    check_parameters(family, *observed.y.shape[-2:])

    def check(*tensors: Any) -> None:
        with naming_entries_of(y):
            check_values(family, Observations(*tensors), like)

    return observed._replace(y=checked(check, *observed)).filled(family)


def convert_observations(
    family: Family,
    y: Any,
    num_features: int,
    like: Tensor,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    covariates: Any = None,
    *,
    missing: Missing = None,
    num_covariates: int = 0,
) -> Observations:
    """As :func:`check_observations`, for values that have been checked already."""
    observed = as_observations(
        family,
        y,
        num_features,
        like,
        offset,
        mask,
        weights,
        covariates,
        missing=missing,
        num_covariates=num_covariates,
    )
    return observed.to(like).filled(family)


def as_observations(
    family: Family,
    y: Any,
    num_features: int,
    like: Tensor,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    covariates: Any = None,
    *,
    missing: Missing = None,
    num_covariates: int = 0,
) -> Observations:
    """A table as tensors of their own dtypes; of all but covariates only shapes are checked."""
    y, offset, mask, weights = in_order_of_names(family, y, offset, mask, weights)
    frame = y
    given = {"offset": offset, "mask": mask, "weights": weights}
    offset, mask, weights = (by_label(name, entries, y) for name, entries in given.items())
    for name, entries in (("offset", offset), ("mask", mask), ("weights", weights)):
        _refuse_table(name, entries, y)
        check_same_order(name, entries, y)
    named = family.num_levels
    if missing is not None:
        y = without_masked_array(y)
    y = as_numbers(family, y) if named is None else as_levels(y, named, family.has_order)
    y = _as_numbers("y", y, like)
    if y.dim() < 2 or y.shape[-1] != num_features:
        raise ValueError(
            f"y must have shape (..., rows, {num_features}), one column for each feature, "
            f"got {tuple(y.shape)}{_transposed(y, num_features)}"
        )
    if y.numel() == 0:
        raise ValueError(f"y must have at least one row, got shape {tuple(y.shape)}")
    offset, mask, weights = entries_of_table(family, y.shape, like, offset, mask, weights)
    if missing is not None:
        mask = _and_present(mask, y)
    x = as_covariates(covariates, num_covariates, y.shape[-2], like, frame)
    y = _in_all_batches(y, offset, mask, weights, x)
    return Observations(y, offset, mask, weights, x)


def entries_of_table(
    family: Family, shape: torch.Size, like: Tensor, offset: Any, mask: Any, weights: Any
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Offset, mask and weights as tensors that broadcast to a table of some shape."""
    if mask is not None:
        mask = as_entries("mask", as_mask(mask, like), shape)
    if offset is not None:
        offset = _as_offset(offset, like)
        if family.has_levels:
            _check_offset_of_levels(offset, shape, family)
        predictors = torch.Size((*shape[:-1], family.num_predictors(shape[-1])))
        offset = as_entries("offset", offset, predictors)
    if weights is not None:
        weights = as_entries("weights", _as_numbers("weights", weights, like), shape)
    return offset, mask, weights


def check_missing(missing: Any) -> Missing:
    """What marks missing entries, checked."""
    if missing is None or missing == "nan":
        return missing
    raise ValueError(f"missing must be 'nan' or None, got {missing!r}")


def _and_present(mask: Tensor | None, y: Tensor) -> Tensor | None:
    """A mask that also marks NaN in ``y`` as missing."""
    if not y.is_floating_point():
        return mask
    present = ~y.isnan()
    # A mask costs time in every pass.
    if not are_transformed() and bool(present.all()):
        return mask
    return present if mask is None else mask & present


def _check_offset_of_levels(offset: Tensor, shape: torch.Size, family: Family) -> None:
    """Raises an error unless the offset of categories has an entry for each level."""
    num_rows, columns = shape[-2:]
    size = family.num_predictors(columns)
    fits = offset.dim() < 1 or offset.shape[-1] in (1, size)
    if fits and (offset.dim() < 2 or offset.shape[-2] in (1, num_rows)):
        return
    shapes = f"(..., {num_rows}, {size}), ({size},), ({num_rows}, 1) or one number"
    advice = ""
    levels = f"of {family.num_levels} levels" if family.num_levels else "with their levels"
    if offset.dim() >= 2 and offset.shape[-2:] == (columns, family.num_levels):
        advice = ": pass offset.flatten(-2)"
    elif offset.dim() >= 1 and offset.shape[-1] == columns:
        advice = ": one number for all levels of a column would change no probability"
    raise ValueError(
        f"offset must have the shape {shapes}, for {columns} columns {levels} side by "
        f"side, got {tuple(offset.shape)}{advice}"
    )


def _transposed(y: Tensor, num_features: int) -> str:
    is_likely = y.dim() == 2 and y.shape[0] == num_features
    return ": is the table transposed? Pass y.T" if is_likely else ""


def _refuse_table(name: str, entries: Any, y: Any) -> None:
    """Raises an error if the table itself comes in place of a known offset, mask or weights.

    Programs for scikit-learn call ``fit(X, y)``.
    """
    if name == "offset" and entries is not None and entries is y:
        raise ValueError(
            "offset must be a known part of the natural parameters, got y itself: a guide takes "
            "one table, as in guide.fit(y)"
        )


def _in_all_batches(y: Tensor, *others: Tensor | None) -> Tensor:
    """``y`` repeated along the batch dimensions that only the others have."""
    batches = [x.shape[:-2] for x in others if x is not None and x.dim() > 2]
    if not batches:
        return y
    try:
        batch_shape = torch.broadcast_shapes(y.shape[:-2], *batches)
    except RuntimeError:
        raise ValueError(
            "batch dimensions of offset, mask, weights and covariates must broadcast, got "
            f"{', '.join(str(tuple(x)) for x in batches)}"
        ) from None
    return y.expand(*batch_shape, *y.shape[-2:])


def check_parameters(family: Family, num_rows: int, num_features: int) -> None:
    """Raises a ValueError unless parameters have one entry, or one per row or column or both."""
    for kind in family.kinds(num_features):
        width = kind.width
        for name, value in kind.family.parameters.items():
            shape = (1, 1, *value.shape)
            if shape[-2] not in (1, num_rows) or shape[-1] not in (1, width):
                raise ValueError(
                    f"{name} of the family must fit y with its {num_rows} rows and {width} "
                    f"columns, got shape {tuple(value.shape)}: one number, ({width},) for one per "
                    f"column, ({num_rows}, 1) for one per row, or ({num_rows}, {width})"
                )


def check_values(family: Family, observed: Observations, like: Tensor) -> None:
    """Raises an error unless numbers, in the dtype of ``like``, are finite and in the support."""
    y, offset, mask, weights, _ = observed
    family.check_rows(y, mask, weights, like.dtype)
    if mask is None and offset is None and weights is None and _all_inside(family.support, y, like):
        return
    # In tiles: intermediate results for all rows would take more memory than the table.
    for tile in _tiles(y):
        if not is_valid(family.rows(tile), observed.rows(tile).to(like)):
            _explain(family, observed.to(like))


def _all_inside(support: constraints.Constraint, y: Tensor, like: Tensor) -> bool:
    """Whether a compiled kernel finds all entries in a support; False if there is no kernel."""
    if y.device.type != "cpu" or y.dtype != like.dtype or y.dim() != 2:
        return False
    if not y.is_contiguous() or y.numel() < WORTH_A_KERNEL or not cpu.numba_is_installed():
        return False
    # Imported here, since importing Numba takes a second.
    from pyro_expfam.deq.cpu.checks import are_surely_inside

    return are_surely_inside(support, y.detach())


def _tiles(y: Tensor) -> Iterator[slice]:
    num_rows, row_entries = y.shape[-2], y.numel() // y.shape[-2]
    if y.device.type != "cpu":
        return tiles(num_rows, row_entries, y.device)
    size = max(1, ENTRIES_AT_ONCE // row_entries)
    return (slice(begin, min(begin + size, num_rows)) for begin in range(0, num_rows, size))


def check_dtype(like: Tensor) -> None:
    """Raises an error unless ``like`` has single or double precision."""
    if like.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"the model must be float32 or float64, got parameters of dtype {like.dtype}: call its "
            "float() or double(). Observations may have any dtype"
        )


def as_tensor(name: str, value: Any, like: Tensor) -> Tensor:
    """``value`` as a tensor of the dtype of ``like``; both must be on the same device."""
    return _as_numbers(name, value, like).to(like.dtype)


def _as_numbers(name: str, value: Any, like: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        value = torch.as_tensor(as_numeric_array(name, value)).to(like.device)
    value = out_of_inference_mode(value)
    if value.layout != torch.strided:
        raise TypeError(
            f"{name} must be dense, got a sparse tensor: pass its to_dense(). {SPARSE_METHODS}"
        )
    if value.is_complex():
        raise TypeError(f"{name} must hold real numbers, got a tensor of dtype {value.dtype}")
    if value.device != like.device:
        raise ValueError(f"{name} must be on device {like.device}, got {value.device}")
    return value


def _as_offset(offset: Any, like: Tensor) -> Tensor:
    value = _as_numbers("offset", offset, like)
    if value.dtype == torch.bool:
        raise TypeError("offset must hold real numbers, got booleans: pass a mask as mask=")
    return value


def check_any_entry(weights: Tensor | None) -> None:
    """Raises an error if mask and weights leave no entry of a whole table."""
    if weights is None:
        return
    # A few rows at a time, most often the first few: a comparison of all would be a second table.
    # Weights below zero have an error of their own.
    if not any(bool((rows != 0).any()) for rows in weights.split(ROWS_AT_ONCE, -2)):
        raise ValueError(
            "mask must leave at least one entry present, got none (True marks a present entry, and "
            "a weight of 0 a missing one)"
        )


def absent_columns(mask: Tensor | None, weights: Tensor | None) -> list[int]:
    """The columns that mask and weights leave no entry of; empty if both are the same for all."""
    there = [x for x in (mask, weights) if x is not None]
    if not there or all(x.shape[-1] == 1 for x in there):
        return []
    num_rows, width = (max(x.shape[k] for x in there) for k in (-2, -1))
    present = torch.zeros(width, dtype=torch.bool, device=there[0].device)
    # Some rows at a time: booleans of the size of the table would be new memory.
    for rows in tiles(num_rows, width, present.device):
        parts = [x[..., rows, :] if x.shape[-2] > 1 else x for x in there]
        of_rows = parts[0] > 0 if len(parts) == 1 else (parts[0] > 0) & (parts[1] > 0)
        present |= of_rows.expand(*of_rows.shape[:-1], width).any(-2)
    found: list[int] = (~present).nonzero().flatten().tolist()
    return found


def as_mask(mask: Any, like: Tensor) -> Tensor:
    """``mask`` as a boolean tensor on the device of ``like``."""
    if not isinstance(mask, Tensor):
        mask = torch.as_tensor(as_boolean_array("mask", mask)).to(like.device)
    mask = out_of_inference_mode(mask)
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must hold booleans, got dtype {mask.dtype}")
    if mask.device != like.device:
        raise ValueError(f"mask must be on device {like.device}, got {mask.device}")
    return mask


def as_entries(name: str, entries: Tensor, shape: torch.Size) -> Tensor:
    """``entries`` with at least two dimensions, after checking that they broadcast with ``y``.

    Shapes are aligned from the right, at rows and features. Entries may have more batch dimensions
    than ``y``, but not more rows or features.
    """
    given = tuple(entries.shape)
    if entries.dim() < 2:
        entries = entries.expand(*(1,) * (2 - entries.dim()), *entries.shape)
    try:
        fits = torch.broadcast_shapes(entries.shape, shape)[-2:] == shape[-2:]
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} must broadcast from the right to the rows and features of y, {tuple(shape)}, "
            f"got {given}: one number per row is (rows, 1), one per feature (features,), and one "
            "per batch or particle (..., 1, 1), such as x[..., None] for a sampled x"
        )
    return entries


def is_valid(family: Family, observed: Observations) -> bool:
    """Whether entries of some rows are finite and in their support, and weights not negative."""
    y, offset, _, weights, _ = observed.filled(family)
    inside = _is_surely_inside(family.support, y)
    others = (offset, weights) if inside else (y, offset, weights)
    # The extremes are finite only if all entries are.
    extremes = [x for entries in others if entries is not None for x in entries.aminmax()]
    if extremes and not bool(torch.stack(extremes).isfinite().all()):
        return False
    if weights is not None and bool(weights.amin() < 0):
        return False
    return inside or bool(family.support.check(y).all())


def _explain(family: Family, observed: Observations) -> None:
    """Raises the error that explains why a table is not valid."""
    y, offset, _, weights, _ = observed.filled(family)
    if offset is not None:
        _check_entries("offset", offset, torch.isfinite(offset), "finite")
    if weights is not None:
        valid = (weights >= 0) & torch.isfinite(weights)
        _check_entries("weights", weights, valid, "non-negative and finite")
    cure = "pass {missing} to mark missing entries, or missing='nan' to the block"
    _check_entries("y", y, torch.isfinite(y), f"finite; {cure}")
    inside = family.support.check(y)
    if not bool(inside.all()):
        law, entries = _law_of_first(family, y, inside)
        words = f"{describe(law.support)}{hint(law.support, entries)}"
        wanted = f"in the support of {law}, {words}".replace("{", "{{").replace("}", "}}")
        _check_entries("y", y, inside, wanted)


def _law_of_first(family: Family, y: Tensor, inside: Tensor) -> tuple[Family, Tensor]:
    """The law of the first entry that is outside of its support, and all entries of its column."""
    if family.num_columns is None:
        return family, y
    column = int((~inside).nonzero()[0][-1])
    for kind in family.kinds(family.num_columns):
        if column in places(kind.columns, family.num_columns):
            return kind.family, y[..., column]
    raise AssertionError("every column has a law")


def _is_surely_inside(support: constraints.Constraint, y: Tensor) -> bool:
    """Whether a quick test finds all entries finite and in a support; False without a test."""
    if support is constraints.boolean:
        # y - y * y, which is zero at 0 and 1 alone.
        distance = torch.addcmul(y, y, y, value=-1)
    elif support is constraints.nonnegative_integer:
        # For a negative number the distance is at most this number, and so not 0.
        distance = y.frac().add_(y.clamp(max=0))
    else:
        return False
    smallest, largest = distance.aminmax()
    # A comparison with NaN is False.
    return bool((smallest == 0) & (largest == 0))


def _check_entries(name: str, entries: Tensor, valid: Tensor, wanted: str) -> None:
    """Raises an error for the first entry that is not valid.

    In ``wanted``, ``{missing}`` stands for the way to mark missing entries.
    """
    if bool(valid.all()):
        return
    position = tuple(int(i) for i in (~valid).nonzero()[0])
    count = int((~valid).sum())
    raise EntryError(
        name,
        wanted,
        f"{float(entries[position]):g}",
        position,
        tuple(entries.shape),
        f" and {count - 1} more such entries" if count > 1 else "",
        dtype=str(entries.dtype).removeprefix("torch."),
    )


def _fill(entries: Any, mask: Tensor, value: float | Tensor) -> Any:
    """Entries, replaced by a value where every entry of ``y`` that they broadcast to is missing."""
    if entries is None:
        return None
    extra = mask.dim() - entries.dim()
    repeated = [
        dim
        for dim in range(mask.dim())
        if dim < extra or (entries.shape[dim - extra] == 1 and mask.shape[dim] > 1)
    ]
    if repeated:
        mask = mask.any(dim=repeated, keepdim=True)
    is_read = mask.reshape(mask.shape[max(extra, 0) :])
    # With a plain number, torch.where would turn integers into floats.
    fill = torch.as_tensor(value, dtype=entries.dtype, device=entries.device)
    return torch.where(is_read, entries, fill)


def _rows(entries: Tensor | None, index: slice) -> Tensor | None:
    # A single row broadcasts to all rows.
    return entries if entries is None or entries.shape[-2] == 1 else entries[..., index, :]
