"""The rows of a block: how many there are, which of them a batch holds, and their plate."""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from pyro_expfam.deq.transformed import are_transformed, checked
from pyro_expfam.runtime.handlers import plate_sizes

ROWS_TO_KEEP = 1 << 12
"""Tables of no more rows do not make the numbers of their rows again in every run."""

_KNOWN_NUMBERS: dict[torch.device, Tensor] = {}


class RowPlace(NamedTuple):
    """Which rows of a table a batch holds.

    Attributes:
        rows: indices of the rows of the batch in the table, or a slice of all.
        num_rows: the number of rows of the table.
    """

    rows: Tensor | slice
    num_rows: int


def rows_to_draw(num_rows: int | None, *entries: Any) -> int:
    """How many rows a block draws that has no observations.

    Raises:
        ValueError: if neither ``num_rows`` nor a table among the entries says so.
    """
    if num_rows is not None:
        return num_rows
    shapes = [x.shape for x in entries if len(getattr(x, "shape", ())) >= 2]
    if not shapes:
        raise ValueError(
            "num_rows must say how many rows to draw where y is None, got None for both"
        )
    return max(shape[-2] for shape in shapes)


def row_index(
    rows: Any, batch_rows: int, num_rows: int | None, device: torch.device
) -> Tensor | None:
    """Checked indices of the rows of a batch, or None where they are not given.

    Raises:
        ValueError: if there is not one integer for each row, or one is no row of the table.
    """
    if rows is None:
        return None
    index = torch.as_tensor(rows, device=device)
    if index.shape != (batch_rows,) or index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(
            f"rows must be {batch_rows} integers, one for each row of y, got dtype "
            f"{index.dtype} and shape {tuple(index.shape)}"
        )
    if num_rows is None:
        raise ValueError("num_rows must be given beside rows: the rows of the whole table")
    return checked(partial(_check_between, num_rows), index)


def row_plate(
    name: str, batch_rows: int, num_rows: int | None, index: Tensor | None, device: torch.device
) -> pyro.plate:
    """The plate of the rows, of dimension -1, which scales a minibatch to the whole table.

    Raises:
        ValueError: if the batch has more rows than the table.
    """
    if num_rows is not None and num_rows < batch_rows:
        raise ValueError(
            f"num_rows must be at least the number of rows of y, {batch_rows}, got {num_rows}"
        )
    if index is None:
        # The caller has chosen the rows of the batch: the plate needs their number only.
        index = _numbers_of_rows(batch_rows, device)
    # Without a device the plate makes a tensor to ask for one.
    return pyro.plate(name, num_rows or batch_rows, subsample=index, dim=-1, device=str(device))


def _numbers_of_rows(count: int, device: torch.device) -> Tensor:
    """The numbers 0, 1, ... of rows; of small tables they are made once."""
    is_special = are_transformed() or torch.is_inference_mode_enabled()
    if is_special or count > ROWS_TO_KEEP:
        return torch.arange(count, device=device)
    known = _KNOWN_NUMBERS.get(device)
    # A handler that writes into them has changed their version.
    if known is None or len(known) < count or known._version:
        known = _KNOWN_NUMBERS[device] = torch.arange(ROWS_TO_KEEP, device=device)
    return known[:count]


def row_place(index: Tensor | None, batch_rows: int, num_rows: int | None) -> RowPlace | None:
    """Which rows a batch holds, or None where nobody has said."""
    if index is not None and num_rows is not None:
        return RowPlace(index, num_rows)
    whole = num_rows is None or num_rows == batch_rows
    return RowPlace(slice(None), batch_rows) if whole else None


def before_rows(x: Tensor, event_dim: int) -> Tensor:
    """Removes the batch dimension that stands for the rows' plate, in which ``x`` does not vary.

    A value that is sampled outside the plate but inside an outer one, such as several draws, has
    size 1 there. The layer wants the rows right before the features.
    """
    dim = -1 - event_dim
    return x.squeeze(dim) if x.dim() > event_dim and x.shape[dim] == 1 else x


def of_rows(x: Tensor, differs_by_particle: bool) -> Tensor:
    """A value per row, without the dimension of a value that was drawn outside the rows' plate.

    Means of groups that differ by particle are ``(particles, 1, groups, l)``, and the means of rows
    that are picked from them ``(particles, 1, N, l)``. Latents are ``(particles, N, l)``.

    Args:
        x: the value, with its dimensions for rows and latents or features.
        differs_by_particle: whether that is known. Else the active plates tell: dimensions left of
            them belong to discrete sites that are summed over.
    """
    without = before_rows(x, 2)
    if without is x or differs_by_particle:
        return without
    return x if _fits_plates(x) or not _fits_plates(without) else without


def _fits_plates(x: Tensor) -> bool:
    """Whether each dimension left of the rows has the size of an active plate, or 1."""
    sizes = plate_sizes()
    left = reversed(x.shape[:-2])
    return all(size in (1, sizes.get(dim, 1)) for dim, size in zip(count(-2, -1), left))


def _check_between(num_rows: int, index: Tensor) -> None:
    if not bool(((index >= 0) & (index < num_rows)).all()):
        raise ValueError(
            f"rows must be between 0 and {num_rows - 1}, got {int(index.min())} to "
            f"{int(index.max())}"
        )
