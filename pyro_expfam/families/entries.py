r"""Observed entries as functions of their linear predictors.

Every loss is written as :math:`\ell(\eta) = A(\eta) - T \eta` per entry. For a canonical family
``A`` is the log-partition, the same for all observations, and ``T`` is the sufficient statistic.
For any other law ``A`` is the loss itself, and ``T`` is zero. Solvers, evidence and fits use this
form alone. It lets them sum :math:`T W` over the columns once, before they iterate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from pyro_expfam.families.base import Family
    from pyro_expfam.families.exponential import ExponentialFamily


class Entries(Protocol):
    """Entries of a table as functions of linear predictors ``(..., N, d)``."""

    @property
    def statistic(self) -> Tensor | None:
        """The factor ``T`` of the linear part, ``(..., N, d)``, or None for zero."""

    @property
    def predictors_per_column(self) -> int:
        """The number of linear predictors of an observation.

        Beyond 1 they are the levels of a category: the second derivatives of ``A`` are the
        covariances of the levels, whose probabilities are the :meth:`mean`.
        """

    @property
    def differs_by_row(self) -> bool:
        """Whether ``A`` differs per row; then :meth:`rows` must be used to select rows."""

    def rows(self, index: Tensor) -> Entries:
        """The entries of some rows, as far as ``A`` is concerned."""

    def mean(self, eta: Tensor) -> Tensor:
        """The derivative of ``A``."""

    def mean_and_variance_in_place(self, eta: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
        """The first and second derivative of ``A``; may overwrite ``eta`` and ``scratch``."""

    def first_cumulants_in_place(
        self, eta: Tensor, scratch: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``A`` and its first two derivatives; may overwrite ``eta`` and ``scratch``."""


class CanonicalEntries:
    """Entries of a canonical family.

    Args:
        family: the family.
        statistic: sufficient statistics ``T(y)``, ``(..., N, d)``.
    """

    predictors_per_column = 1

    def __init__(self, family: ExponentialFamily, statistic: Tensor) -> None:
        self.statistic = statistic
        self.differs_by_row = family.differs_by_row
        self.mean = family.mean
        self.mean_and_variance_in_place = family.mean_and_variance_in_place
        self.first_cumulants_in_place = family.first_cumulants_in_place
        self._family = family

    def rows(self, index: Tensor) -> Entries:
        """The entries of some rows; their statistics are left out."""
        if not self.differs_by_row:
            return self
        return CanonicalEntries(self._family.rows(index), self.statistic)


class GeneralEntries:
    """Entries of any law.

    Args:
        family: the law.
        y: observations, ``(..., N, d)``.
    """

    statistic = None
    differs_by_row = True
    predictors_per_column = 1

    def __init__(self, family: Family, y: Tensor) -> None:
        self._family, self._y = family, y

    def rows(self, index: Tensor) -> Entries:
        """The entries of some rows."""
        return GeneralEntries(self._family.rows(index), self._y[..., index, :])

    def mean(self, eta: Tensor) -> Tensor:
        """The derivative of the loss."""
        return -self._family.score(eta, self._y)

    def mean_and_variance_in_place(self, eta: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
        """The derivative of the loss, and the information."""
        del scratch
        _, score, information = self._family.loss_score_information(eta, self._y)
        return -score, information

    def first_cumulants_in_place(
        self, eta: Tensor, scratch: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, its derivative and the information."""
        del scratch
        loss, score, information = self._family.loss_score_information(eta, self._y)
        return loss, -score, information
