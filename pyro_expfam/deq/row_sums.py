"""Sums over the entries of some rows that a joint fit needs, and who computes them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from pyro_expfam.deq.activation import Activation


class Wanted(NamedTuple):
    """Which sums are wanted, and where the sums of each row go.

    Attributes:
        scores: residuals times the loading go here, ``(n, l)``; None if they are not wanted.
        information: the information of the rows goes here, ``(n, l, l)``; None if it is not wanted.
        of_columns: whether the information of the columns is wanted.
    """

    scores: Tensor | None
    information: Tensor | None
    of_columns: bool


class RowSums(NamedTuple):
    """Sums over some rows.

    Attributes:
        loss: the sum of the losses, ``()``, in double precision.
        score: residuals times the design, ``(l + 1 + p, d)``.
        packed: the information of the columns, without the prior, as packed lower triangles
            ``(k (k + 1) / 2, d)`` with ``k = l + 1 + p``; no rows if it is not wanted.
    """

    loss: Tensor
    score: Tensor
    packed: Tensor


class JointSums(Protocol):
    """A kernel for the sums over the rows of a table at some coefficients."""

    def of_law(
        self,
        activation: Activation,
        design: Tensor,
        statistic: Tensor | None,
        weights: Tensor | None,
        offset: Tensor | None,
        wanted: Wanted,
    ) -> RowSums:
        """The sums over rows of a law whose terms the kernel forms itself.

        Args:
            activation: of the family.
            design: what the coefficients of linear predictors multiply, ``(n, l + 1 + p)``.
            statistic: sufficient statistics, ``(n, d)``; None leaves them out.
            weights: weights that broadcast to ``(n, d)``, or None for ones.
            offset: an offset that broadcasts to ``(n, d)``, or None.
            wanted: what is wanted, and where it goes.
        """

    def of_terms(
        self, design: Tensor, residual: Tensor, variance: Tensor, wanted: Wanted
    ) -> RowSums:
        """The sums over rows whose residuals and variances ``(n, d)`` are known, without a loss."""
