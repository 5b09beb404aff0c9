"""What an estimator asks of a sparse table."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.observations import as_entries
from pyro_expfam.families import Family
from pyro_expfam.families.chosen_family import chosen_by

MOST_ENTRIES = 1 << 23
"""The most entries of a sparse table that are made dense at once, to describe a fit."""


def as_scipy(y: Tensor) -> Any:
    """A sparse tensor as a sparse matrix of SciPy, which shares its numbers."""
    from scipy.sparse import csr_array

    if y.layout == torch.sparse_coo:
        y = y.coalesce()
    if y.layout != torch.sparse_csr:
        y = y.to_sparse_csr()
    parts = (y.values().numpy(), y.col_indices().numpy(), y.crow_indices().numpy())
    return csr_array(parts, shape=tuple(y.shape))


def choose_sparse_family(table: Any) -> tuple[Family, str]:
    """A family for a sparse table, as for the dense one, and the reason for it.

    Args:
        table: a sparse matrix of SciPy, ``(N, d)``.
    """
    stored, num_rows = table.data, table.shape[0]
    least = min(float(stored.min(initial=0.0)), 0.0)
    square = table.copy()
    square.data = square.data.astype(np.float64) ** 2
    means = np.asarray(table.sum(0), dtype=np.float64).ravel() / num_rows
    variances = np.asarray(square.sum(0)).ravel() / num_rows - means**2
    return chosen_by(
        is_whole=bool((stored == np.round(stored)).all()),
        least=least,
        largest=float(stored.max(initial=0.0)),
        means=means,
        variances=variances,
    )


def as_dense(table: Any, method: str) -> Tensor:
    """A table as a dense tensor.

    Args:
        table: a dense tensor, which is returned as it is, or a sparse matrix of SciPy.
        method: the method that wants it, for errors.

    Raises:
        ValueError: if a sparse table has too many entries to be made dense.
    """
    if isinstance(table, Tensor):
        return table
    num_rows, num_columns = table.shape
    if num_rows * num_columns > MOST_ENTRIES:
        raise ValueError(
            f"X must have at most {MOST_ENTRIES:,} entries for {method}, which makes it dense, got "
            f"a sparse table of {num_rows:,} rows and {num_columns:,} columns: fit and {method} a "
            "sample of its rows"
        )
    return torch.as_tensor(table.toarray())


def some_rows(table: Any, offset: Any, mask: Any, weights: Any, covariates: Any) -> tuple[Any, ...]:
    """A dense table with what belongs to its entries, of evenly spaced rows of a large sparse one.

    Args:
        table: a dense tensor, which is returned as it is, or a sparse matrix of SciPy.
        offset: broadcastable to the table, or None.
        mask: broadcastable to the table, or None.
        weights: broadcastable to the table, or None.
        covariates: of the rows, ``(N, p)``, or None.
    """
    if isinstance(table, Tensor):
        return table, offset, mask, weights, covariates
    num_rows, num_columns = table.shape
    count = min(num_rows, max(2, MOST_ENTRIES // num_columns))
    rows = np.linspace(0, num_rows - 1, count).round().astype(np.int64)
    dense = torch.as_tensor(table[rows].toarray())
    shape = torch.Size(table.shape)
    entries = (_rows_of(x, rows, shape) for x in (offset, mask, weights))
    if covariates is not None:
        is_frame = hasattr(covariates, "iloc")
        covariates = covariates.iloc[rows] if is_frame else np.asarray(covariates)[rows]
    return (dense, *entries, covariates)


def _rows_of(entries: Any, rows: np.ndarray, shape: torch.Size) -> Tensor | None:
    if entries is None:
        return None
    found = as_entries("offset, mask and weights", torch.as_tensor(np.asarray(entries)), shape)
    return found if len(found) == 1 else found[rows]
