"""What processes have found for their rows: in the order of all rows, and summed."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.processes import processes_of

CHUNK = 1 << 16
"""Rows of a chunk of a Zarr array."""


def gather_rows(rows: Tensor, processes: Any = "all") -> Tensor:
    """The rows of all processes in their order, in each of them.

    Args:
        rows: rows of this process, such as ``fit.latents``, ``(n, ...)``.
        processes: as for ``guide.fit``.

    Returns:
        All rows, ``(N, ...)``, on the device of the rows of this process.

    Raises:
        ~pyro_expfam.joint.ProcessesError: if another process has stopped.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> pef.joint.gather_rows(torch.zeros(5, 2), processes=None).shape
        torch.Size([5, 2])
    """
    group = processes_of(processes, rows)
    with group.together():
        return torch.cat([x.to(rows.device) for x in group.gather(rows.detach().cpu())])


def write_rows(path: str | os.PathLike[str], rows: Tensor, processes: Any = "all") -> None:
    """Writes the rows of all processes in their order to a new Zarr array.

    No process ever has more than its own rows in memory. All processes must reach the same path.

    Args:
        path: where the array is to be.
        rows: rows of this process, such as ``fit.latents``, ``(n, ...)``.
        processes: as for ``guide.fit``.

    Raises:
        ImportError: if ``zarr`` is not installed.
        FileExistsError: if there is something at the path.
        ~pyro_expfam.joint.ProcessesError: if another process has stopped.

    Example:
        >>> import tempfile
        >>> import torch
        >>> import pyro_expfam as pef
        >>> folder = tempfile.TemporaryDirectory()
        >>> pef.joint.write_rows(f"{folder.name}/latents", torch.zeros(5, 2), processes=None)
        >>> pef.tables.zarr(f"{folder.name}/latents").num_rows
        5
    """
    zarr: Any = import_module("zarr")
    group, values = processes_of(processes, rows), rows.detach().cpu().numpy()
    with group.together():
        counts = group.gather(len(rows))
        shape = (sum(counts), *values.shape[1:])

        def make() -> None:
            if os.path.exists(path):
                raise FileExistsError(f"path must be free, got {os.fspath(path)!r}")
            chunks = (min(CHUNK, shape[0]), *shape[1:])
            zarr.create_array(os.fspath(path), shape=shape, dtype=values.dtype, chunks=chunks)

        group.of_first(make)
        begin = int(np.sum(counts[: group.number]))
        # In turn: two processes may hold rows of one chunk.
        for turn in range(group.count):
            if turn == group.number and len(rows):
                array = zarr.open_array(os.fspath(path), mode="r+")
                array[begin : begin + len(rows)] = values
            group.gather(None)


def sum_rows(rows: Tensor, processes: Any = "all") -> Tensor:
    """The sum over the rows of all processes, in each of them, in double precision.

    Args:
        rows: numbers of the rows of this process, such as ``guide.log_evidence(y)``, ``(n, ...)``.
        processes: as for ``guide.fit``.

    Raises:
        ~pyro_expfam.joint.ProcessesError: if another process has stopped.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> pef.joint.sum_rows(torch.ones(5, 2), processes=None)
        tensor([5., 5.], dtype=torch.float64)
    """
    group = processes_of(processes, rows)
    with group.together():
        return group.sum((rows.detach().sum(0, dtype=torch.float64),))[0]


def row_numbers(num_rows: int, processes: Any = "all") -> range:
    """The numbers of the rows of this process among the rows of all processes.

    Args:
        num_rows: the rows of this process.
        processes: as for ``guide.fit``.

    Raises:
        ~pyro_expfam.joint.ProcessesError: if another process has stopped.

    Example:
        >>> import pyro_expfam as pef
        >>> pef.joint.row_numbers(5, processes=None)
        range(0, 5)
    """
    group = processes_of(processes, torch.zeros(()))
    with group.together():
        counts = group.gather(num_rows)
    first = sum(counts[: group.number])
    return range(first, first + num_rows)
