"""The information of every row and every column, and steps of rows and columns that it gives."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.processes import ONE, Processes
from pyro_expfam.deq.row_block import tiles

AT_ONCE = 1 << 14
"""Matrices that are inverted at once."""


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


class BlockSteps(NamedTuple):
    """Newton steps of every row and column alone, none of which goes too far.

    A row is a convex problem when the columns are held, and so is a column when the rows are. A
    step of either that would change a linear predictor by much is shortened, as in
    :mod:`pyro_expfam.deq.step_rules`: along it the objective decreases.

    Attributes:
        inverse: inverses of the informations.
        length: the part of its Newton step that every row and column takes, ``(d, 1)``, ``(N, 1)``.
        decrement: twice the decrease that full Newton steps promise.
    """

    inverse: Both
    length: Both
    decrement: float

    @classmethod
    def of(
        cls,
        inverse: Both,
        gradient: Both,
        loading: Tensor,
        design: Tensor,
        processes: Processes = ONE,
    ) -> BlockSteps:
        """The steps at a gradient.

        Args:
            inverse: inverses of the informations.
            gradient: the gradient.
            loading: ``(d, l)``.
            design: what the coefficients of a column multiply, ``(N, k)``.
            processes: the processes that hold the rows.
        """
        of_columns, of_rows = (_times(m, g) for m, g in zip(inverse, gradient, strict=True))
        steps = Both(of_columns, of_rows)
        lengths = Both(_length(of_columns, design, processes), _length(of_rows, loading, ONE))
        return cls(inverse, lengths, gradient.inner(steps, processes))

    def step(self, gradient: Both) -> Both:
        """Minus the step from a gradient."""
        parts = zip(self.length, self.inverse, gradient, strict=True)
        return Both(*(length * _times(matrix, g) for length, matrix, g in parts))


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices @ vectors.unsqueeze(-1)).squeeze(-1)


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
    # Some at a time: temporary copies of a million matrices would take gigabytes.
    for some in information.split(AT_ONCE):
        some.copy_(torch.cholesky_inverse(factors(some)))
    return information


def factors(information: Tensor) -> Tensor:
    """The Cholesky factors of the informations of rows or columns, ``(n, k, k)``."""
    size = information.diagonal(dim1=-2, dim2=-1).mean(-1)
    # Under a flat prior a column without variance has no information of its own.
    smallest = torch.finfo(information.dtype).eps * 16 * size + torch.finfo(size.dtype).tiny ** 0.5
    eye = torch.eye(information.shape[-1], dtype=information.dtype, device=information.device)
    factor, _ = torch.linalg.cholesky_ex(information + smallest[:, None, None] * eye)
    return factor
