"""The information of every row and every column, and steps of rows and columns that it gives."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.backend import inverses_of
from pyro_expfam.deq.processes import ONE, Processes
from pyro_expfam.deq.row_block import tiles

AT_ONCE = 1 << 14
"""Matrices that PyTorch inverts at once."""

RIDGE = 16
"""Roundings of the mean of its diagonal that are added to the diagonal of an information."""


class Both(NamedTuple):
    """Numbers that belong to coefficients and latents: a gradient, or a step.

    Attributes:
        of_columns: by column, in the shape of the coefficients.
        of_rows: by row, ``(N, l)``.
    """

    of_columns: Tensor
    of_rows: Tensor

    def flat(self) -> Tensor:
        """All numbers in one vector."""
        return torch.cat([self.of_columns.flatten(), self.of_rows.flatten()])

    def inner(self, other: Both, processes: Processes) -> float:
        """The inner product with others, over the rows of all processes."""
        of_columns, own = ((x * y).sum() for x, y in zip(self, other, strict=True))
        (of_rows,) = processes.sum((own,))
        return float(of_columns) + float(of_rows)

    def like(self, flat: Tensor) -> Both:
        """The parts of such a vector, in the shapes of these."""
        size = self.of_columns.numel()
        return Both(flat[:size].view_as(self.of_columns), flat[size:].view_as(self.of_rows))


class Blocks(NamedTuple):
    """Which of the blocks are meant, all columns and all rows."""

    of_columns: bool
    of_rows: bool


class Information(NamedTuple):
    """The information by column ``(d, k, k)`` and by row ``(N, l, l)``, each with the rest held.

    What was not wanted is None.
    """

    of_columns: Tensor | None
    of_rows: Tensor | None

    def inverse(self, old: Both | None) -> Both:
        """The inverse of every matrix, and an old one where there is none."""
        found = [x if x is None else inverses(x) for x in self]
        if old is not None:
            found = [before if x is None else x for x, before in zip(found, old, strict=True)]
        of_columns, of_rows = found
        assert of_columns is not None
        assert of_rows is not None
        return Both(of_columns, of_rows)


class BlockSteps:
    """Newton steps of every row and column alone, none of which goes too far.

    A row is a convex problem when the columns are held, and so is a column when the rows are. A
    step of either that would change a linear predictor by much is shortened, as in
    :mod:`pyro_expfam.deq.step_rules`: along it the objective decreases.

    Args:
        inverse: inverses of the informations.
        gradient: the gradient.
        at: coefficients and latents.
        known: what the coefficients of a column multiply beside the latents, ``(N, 1 + p)``.
        processes: the processes that hold the rows.

    Attributes:
        inverse: as given.
    """

    def __init__(
        self, inverse: Both, gradient: Both, at: Both, known: Tensor, processes: Processes = ONE
    ) -> None:
        self.inverse = inverse
        self._gradient, self._at, self._known, self._processes = gradient, at, known, processes

    # A trial that does not decrease the objective has no use of it.
    @cached_property
    def decrement(self) -> float:
        """Twice the decrease that full Newton steps promise."""
        newton = Both(*(_times(m, g) for m, g in zip(self.inverse, self._gradient, strict=True)))
        return self._gradient.inner(newton, self._processes)

    def of_columns(self, gradient: Tensor) -> Tensor:
        """Minus the steps of the columns from a gradient in the coefficients."""
        return self._length_of_columns * _times(self.inverse.of_columns, gradient)

    def of_rows(self, gradient: Tensor) -> Tensor:
        """Minus the steps of the rows from a gradient in the latents."""
        return self._length_of_rows * _times(self.inverse.of_rows, gradient)

    # Rows or columns that do not move need no lengths, which may cost as much as a sweep.
    @cached_property
    def _length_of_columns(self) -> Tensor:
        """The part of its Newton step that every column takes, ``(d, 1)``."""
        design = torch.cat([self._at.of_rows, self._known], 1)
        newton = _times(self.inverse.of_columns, self._gradient.of_columns)
        return _length(newton, design, self._processes)

    @cached_property
    def _length_of_rows(self) -> Tensor:
        """The part of its Newton step that every row takes, ``(N, 1)``."""
        loading = self._at.of_columns[:, : self._at.of_rows.shape[1]]
        return _length(_times(self.inverse.of_rows, self._gradient.of_rows), loading, ONE)


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Products ``(n, k)`` of symmetric matrices ``(n, k, k)`` with vectors ``(n, k)``."""
    kernels = inverses_of(matrices)
    if kernels is None or not vectors.is_contiguous():
        return (matrices @ vectors.unsqueeze(-1)).squeeze(-1)
    return kernels.products(matrices, vectors)


def _length(steps: Tensor, other: Tensor, processes: Processes) -> Tensor:
    """The parts of steps that may be taken, by the most that they change a linear predictor."""
    length = torch.ones_like(steps[:, :1])
    longest = other.norm(dim=1).amax() if len(other) else other.new_zeros(())
    bound = steps.norm(dim=1) * processes.max(longest)
    far = (~(bound <= 1)).nonzero().squeeze(-1)
    if len(far):
        change = processes.max(_largest_change(steps[far], other))
        length[far, 0] = torch.where(change > 1, change.log1p() / change, 1.0)
    return length


def _largest_change(steps: Tensor, other: Tensor) -> Tensor:
    """The most that each of some steps changes a linear predictor."""
    if not len(other):
        return steps.new_zeros(len(steps))
    places = tiles(len(steps), len(other), steps.device)
    return torch.cat([(steps[tile] @ other.mT).abs_().amax(1) for tile in places])


def inverses(information: Tensor) -> Tensor:
    """The inverses of the informations of rows or columns, ``(n, k, k)``.

    They are used again and again. Products with inverses take a fraction of the time of solving
    with thousands of small factors, and the directions that they precondition need not be exact.
    The inverses take the place of the informations.
    """
    kernels = inverses_of(information)
    if kernels is not None:
        kernels.invert(information, RIDGE * torch.finfo(information.dtype).eps)
        return information
    # Some at a time: temporary copies of a million matrices would take gigabytes.
    for some in information.split(AT_ONCE):
        some.copy_(torch.cholesky_inverse(factors(some)))
    return information


def solved(information: Tensor, vectors: Tensor) -> Tensor:
    """Solutions ``(n, k)`` of systems of the informations ``(n, k, k)``, which are overwritten."""
    if inverses_of(information) is not None:
        return _times(inverses(information), vectors)
    return torch.cholesky_solve(vectors.unsqueeze(-1), factors(information)).squeeze(-1)


def factors(information: Tensor) -> Tensor:
    """The Cholesky factors of the informations of rows or columns, ``(n, k, k)``."""
    size = information.diagonal(dim1=-2, dim2=-1).mean(-1)
    # Under a flat prior a column without variance has no information of its own.
    smallest = (
        RIDGE * torch.finfo(information.dtype).eps * size + torch.finfo(size.dtype).tiny ** 0.5
    )
    eye = torch.eye(information.shape[-1], dtype=information.dtype, device=information.device)
    factor, _ = torch.linalg.cholesky_ex(information + smallest[:, None, None] * eye)
    return factor
