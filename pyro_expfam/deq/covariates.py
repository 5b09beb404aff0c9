"""Covariates of the rows of a table, with a coefficient for each linear predictor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.arrays import as_numeric_array
from pyro_expfam.deq.frames import EntryError, check_same_rows, naming_entries_of
from pyro_expfam.deq.inference_mode import out_of_inference_mode
from pyro_expfam.deq.transformed import checked
from pyro_expfam.families.kinds import At, take
from pyro_expfam.table_frames import as_pandas


@dataclass(frozen=True, eq=False)
class Covariates:
    """What known numbers of the rows add to the linear predictors.

    Attributes:
        x: the covariates, ``(..., N, p)``.
        C: their coefficients, ``(..., d, p)``.
        offset: the known part of the linear predictors beside them, broadcastable to
            ``(..., N, d)``, or None.
    """

    x: Tensor
    C: Tensor
    offset: Tensor | None = None

    @property
    def num_covariates(self) -> int:
        """The number of covariates ``p``."""
        return self.x.shape[-1]

    def total(self) -> Tensor:
        """The part of the linear predictors that latents and intercept do not make."""
        of_covariates = self.x @ self.C.mT
        return of_covariates if self.offset is None else of_covariates + self.offset

    def rows(self, index: slice | Tensor) -> Covariates:
        """The same for some of the rows."""
        offset = self.offset
        if offset is not None and offset.shape[-2] > 1:
            offset = offset[..., index, :]
        return Covariates(self.x[..., index, :], self.C, offset)

    def predictors(self, at: At) -> Covariates:
        """The same for some of the linear predictors."""
        offset = self.offset
        if offset is not None and offset.shape[-1] > 1:
            offset = take(offset, at)
        return Covariates(self.x, self.C[..., at, :], offset)

    def to(self, dtype: torch.dtype) -> Covariates:
        """The same in another precision."""
        offset = None if self.offset is None else self.offset.to(dtype)
        return Covariates(self.x.to(dtype), self.C.to(dtype), offset)


def as_covariates(
    covariates: Any, num_covariates: int, num_rows: int | None, like: Tensor, y: Any = None
) -> Tensor | None:
    """Covariates as a tensor ``(..., N, p)`` of the dtype and device of ``like``; None without any.

    Args:
        covariates: numbers, ``(..., N, p)``: a tensor, an array or a data frame.
        num_covariates: the number of covariates ``p`` wanted.
        num_rows: the number of rows ``N`` wanted, or None for any.
        like: a tensor of the dtype and device wanted.
        y: the table of the rows, whose labels a frame of covariates must share.

    Raises:
        TypeError: if covariates hold no real numbers.
        ValueError: if they are given to a block without covariates or the reverse, a shape, device
            or label does not fit, or a number is not finite.
    """
    if covariates is None:
        if num_covariates:
            raise ValueError(
                f"covariates must be numbers of shape (rows, {num_covariates}) for a block with "
                f"num_covariates={num_covariates}, got None"
            )
        return None
    if not num_covariates:
        raise ValueError(
            "covariates must be None for a block without covariates, got "
            f"{type(covariates).__name__}: make the block with num_covariates, the number of them"
        )
    _refuse_text(covariates)
    given = as_pandas(covariates)
    check_same_rows("covariates", given, y)
    found = _as_numbers(given, like)
    wanted = "rows" if num_rows is None else num_rows
    if found.dim() < 2 or found.shape[-1] != num_covariates:
        raise ValueError(
            f"covariates must have shape ({wanted}, {num_covariates}), one column for each "
            f"covariate, got {tuple(found.shape)}"
        )
    if num_rows is not None and found.shape[-2] != num_rows:
        raise ValueError(
            f"covariates must have a row for each of the {num_rows} rows of y, got "
            f"{found.shape[-2]}"
        )

    def check(tensor: Tensor) -> None:
        with naming_entries_of(given):
            _check_finite(tensor)

    return checked(check, found)


def count_covariates(covariates: Any) -> int:
    """The number of covariates ``p`` of a table, 0 for None.

    Raises:
        TypeError: if covariates are a formula.
        ValueError: if they are no table of two dimensions.
    """
    if covariates is None:
        return 0
    _refuse_text(covariates)
    shape = np.shape(as_pandas(covariates))
    if len(shape) != 2:
        raise ValueError(f"covariates must have shape (rows, covariates), got {tuple(shape)}")
    return int(shape[1])


def _refuse_text(covariates: Any) -> None:
    if isinstance(covariates, str):
        raise TypeError(
            f"covariates must be a table of numbers, got the text {covariates!r}: write "
            f"covariates=pyro_expfam.Design({covariates!r}, frame)(frame), with a frame that has "
            "the columns of the formula, and num_covariates=Design(...).num_covariates in the block"
        )


def _as_numbers(covariates: Any, like: Tensor) -> Tensor:
    if not isinstance(covariates, Tensor):
        covariates = torch.as_tensor(as_numeric_array("covariates", covariates)).to(like.device)
    covariates = out_of_inference_mode(covariates)
    if covariates.layout != torch.strided:
        raise TypeError("covariates must be dense, got a sparse tensor: pass its to_dense()")
    if covariates.is_complex():
        raise TypeError(f"covariates must hold real numbers, got dtype {covariates.dtype}")
    if covariates.device != like.device:
        raise ValueError(f"covariates must be on device {like.device}, got {covariates.device}")
    found: Tensor = covariates.to(like.dtype)
    return found


def _check_finite(covariates: Tensor) -> None:
    finite = covariates.isfinite()
    if bool(finite.all()):
        return
    position = tuple(int(i) for i in (~finite).nonzero()[0])
    count = int((~finite).sum())
    raise EntryError(
        "covariates",
        "finite; a covariate has no missing entries: impute it, or leave the row out",
        f"{float(covariates[position]):g}",
        position,
        tuple(covariates.shape),
        f" and {count - 1} more such entries" if count > 1 else "",
        dtype=str(covariates.dtype).removeprefix("torch."),
    )
