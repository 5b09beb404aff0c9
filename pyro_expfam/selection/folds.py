"""Numbers of the folds of what is held out together."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pyro_expfam.deq.limits import check_size


def folds(num_rows: int, num_folds: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Training rows and held-out rows of each fold, the same in every comparison.

    Args:
        num_rows: rows of the whole table.
        num_folds: parts of the rows.
        device: the device of the table.
    """
    order = _order(num_rows, device)
    fold = torch.arange(num_rows, device=device) % num_folds
    for number in range(num_folds):
        yield order[fold != number], order[fold == number]


def fold_numbers(size: int, num_folds: int, device: torch.device) -> Tensor:
    """The number of the fold of each of so many things, ``(size,)``, in no order."""
    fold = torch.empty(size, dtype=torch.long, device=device)
    fold[_order(size, device)] = torch.arange(size, device=device) % num_folds
    return fold


def _order(size: int, device: torch.device) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(0)).to(device)


def check_folds(num_folds: int, num_rows: int) -> int:
    """A checked number of folds.

    Raises:
        ValueError: if there are fewer than 2 folds or more folds than rows.
    """
    num_folds = check_size("num_folds", num_folds)
    if not 2 <= num_folds <= num_rows:
        raise ValueError(
            f"num_folds must be between 2 and {num_rows}, the number of rows, got {num_folds}"
        )
    return num_folds
