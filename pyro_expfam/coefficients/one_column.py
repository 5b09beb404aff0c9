"""The losses of categories beside other columns, as those of one column that couples all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_expfam.deq.curvature import OfOneFamily, SideBySide
from pyro_expfam.families.kinds import take


@dataclass(frozen=True, eq=False)
class OneColumn:
    """Derivatives of the losses of a mixed table, as if it had one column of ``d`` predictors.

    The columns of a mixed table have different numbers of linear predictors. One column has room
    for all of them: matrices between predictors of different columns are zero. The functions are
    those of :class:`~pyro_expfam.deq.curvature.OfOneFamily`.

    Attributes:
        losses: the derivatives, law by law.
    """

    losses: SideBySide

    def times(self, entries: Tensor) -> Tensor:
        """The products of second derivatives with entries ``(..., N, d)``."""
        return self.losses.times(entries)

    def by_column(self) -> Tensor:
        """The second derivatives, ``(..., N, 1, d, d)``."""
        return self._matrices(lambda _, part: part.by_column()[..., None])[..., 0]

    def times_rows(self, rows: Tensor) -> Tensor:
        """The products of second derivatives with rows ``(..., N, d, k)``."""
        return self._rows(lambda at, part: part.times_rows(rows[..., at, :]))

    def third_by_column(self, rows: Tensor) -> Tensor:
        """The third derivatives along vectors ``(..., N, d, k)``, ``(..., N, 1, d, d, k)``."""
        return self._matrices(lambda at, part: part.third_by_column(rows[..., at, :]))

    def third_of_products(self, first: Tensor, second: Tensor) -> Tensor:
        """The third derivatives contracted with ``k`` pairs of vectors, ``(..., N, d, k)``."""
        return self._rows(
            lambda at, part: part.third_of_products(first[..., at, :], second[..., at, :])
        )

    def third_of_blocks(self, blocks: Tensor) -> Tensor:
        """The third derivatives contracted with matrices ``(..., N, 1, d, d)``, ``(..., N, d)``."""

        def of_part(at: Tensor, part: OfOneFamily) -> Tensor:
            levels = part.problem.levels
            own = blocks[..., 0, :, :][..., at[:, None], at].unflatten(-1, (-1, levels))
            by_column = own.unflatten(-3, (-1, levels)).diagonal(dim1=-4, dim2=-2)
            return part.third_of_blocks(by_column.movedim(-1, -3))[..., None]

        return self._rows(of_part)[..., 0]

    def fourth_by_column(self, forms: Tensor, matrix: Tensor) -> Tensor:
        """The fourth derivatives contracted with a matrix, ``(..., N, 1, d, d)``."""
        return self._matrices(
            lambda at, part: part.fourth_by_column(forms[..., at], matrix)[..., None]
        )[..., 0]

    def _rows(self, function: Callable[[Tensor, OfOneFamily], Tensor]) -> Tensor:
        """Rows of all laws, ``(..., d, k)``."""
        found = [(at, function(at, part)) for at, part in self._parts()]
        first = found[0][1]
        joined = first.new_zeros(*first.shape[:-2], self._size, first.shape[-1])
        for at, rows in found:
            joined[..., at, :] = rows
        return joined

    def _matrices(self, function: Callable[[Tensor, OfOneFamily], Tensor]) -> Tensor:
        """Matrices ``(..., columns, K, K, k)`` of each law, as one matrix ``(..., 1, d, d, k)``."""
        joined = None
        for at, part in self._parts():
            found = function(at, part)
            if joined is None:
                joined = found.new_zeros(*found.shape[:-4], self._size**2, found.shape[-1])
            of_columns = at.view(-1, found.shape[-2])
            places = of_columns[:, :, None] * self._size + of_columns[:, None, :]
            joined[..., places.flatten(), :] = found.flatten(-4, -2)
        assert joined is not None
        return joined.unflatten(-2, (1, self._size, self._size))

    @property
    def _size(self) -> int:
        return self.losses.problem.num_features

    def _parts(self) -> list[tuple[Tensor, OfOneFamily]]:
        """The derivatives of every law, with the places of its predictors."""
        every = torch.arange(self._size, device=self.losses.eta.device)
        parts = []
        for at, part in self.losses.parts:
            assert isinstance(part, OfOneFamily)
            parts.append((take(every, at), part))
        return parts
