"""The multinomial family, of compositions: the counts of a row given their total."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.base import Family
from pyro_expfam.families.canonical_form import CanonicalForm
from pyro_expfam.families.categorical import Categorical
from pyro_expfam.families.entries import Entries
from pyro_expfam.families.positive import positive
from pyro_expfam.families.row_error import RowError


@dataclass(frozen=True, eq=False, repr=False)
class Multinomial(Family):
    r"""Compositions: the counts of a row given their total, by the softmax of its predictors.

    .. math:: P(y) = \frac{n!}{\prod_i y_i!} \prod_i p_i^{y_i}, \quad
              p_i = \frac{e^{\eta_i}}{\sum_j e^{\eta_j}}, \quad
              \ell(\eta; y) = n \log \sum_j e^{\eta_j} - \sum_i y_i \eta_i, \quad n = \sum_i y_i.

    A whole row of a table is one observation, and all its columns are the parts of one whole. It is
    the law of independent Poisson counts given their total. A row with the total 0 says nothing.
    The functions here share what belongs to a row among its entries: a loss of a row is the sum of
    its entries.

    Adding a number to all predictors of a row changes nothing. The prior of the loading and the
    intercept holds this direction: at a maximum, both sum to zero over the columns. Compare columns
    with each other: their differences are what a table determines.

    Rows may be missing as a whole, and have one weight for all their entries.

    Source: Agresti (2013), *Categorical data analysis*, section 1.2; Lang (1996), *On the
    comparison of multinomial and Poisson log-linear models*, for the Poisson counts.

    Args:
        total: the total of each row: a whole number, or a tensor of them, ``(N, 1)``. A table whose
            rows have other sums is refused. Left out, the total of a row is its sum. Draws and
            expected counts need a total; without it, the mean is the share of the total.

    Raises:
        TypeError: ``total`` holds no real numbers.
        ValueError: ``total`` is not a positive whole number.

    Example:
        >>> import torch
        >>> family = Multinomial(total=10)
        >>> family.expected_y(torch.tensor([[0.0, 0.0, 1.0]]))
        tensor([[2.1194, 2.1194, 5.7612]])
    """

    total: float | Tensor | None = None

    self_concordance: ClassVar[float] = Categorical.self_concordance
    is_convex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.total is not None:
            total = positive("total", self.total)
            numbers = torch.as_tensor(total)
            if bool((numbers != numbers.round()).any()):
                raise ValueError(f"total must be a whole number, got {self.total}")
            object.__setattr__(self, "total", total)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The total, if it is known; it is never learnt."""
        return () if self.total is None else ("total",)

    @property
    def is_coupled(self) -> bool:
        """True: the loss of a row couples all of its linear predictors."""
        return True

    def levels_among(self, num_predictors: int) -> int:
        """All linear predictors of a row."""
        return num_predictors

    def observation_of_predictor(self, num_columns: int) -> Tensor:
        """The only observation of a row."""
        return torch.zeros(num_columns, dtype=torch.long)

    @property
    def support(self) -> constraints.Constraint:
        """The non-negative integers."""
        return constraints.nonnegative_integer

    def possible_rows(self, num_columns: int) -> Tensor:
        """Rows whose first part is all of the total, or of one count each."""
        if self.total is None:
            return super().possible_rows(num_columns)
        total = torch.as_tensor(self.total)
        total = total if total.dim() else total.unsqueeze(-1)
        return torch.nn.functional.pad(total, (0, num_columns - 1))

    def check_rows(
        self, y: Tensor, mask: Tensor | None, weights: Tensor | None, dtype: torch.dtype
    ) -> None:
        """Raises an error unless rows have their total, and are present or missing as a whole.

        Raises:
            ValueError: a row has another sum than its total, or entries of one row differ in
                presence or weight.
        """
        del dtype
        for name, entries in (("mask", mask), ("weights", weights)):
            if entries is None or entries.shape[-1] == 1:
                continue
            unequal = (entries != entries[..., :1]).any(-1)
            if bool(unequal.any()):
                row = int(unequal.nonzero()[0, -1])
                raise RowError(
                    f"{name} must be the same for all entries of a row, since a row is one "
                    "composition, got row {row} with different ones: leave out the whole row, or "
                    "drop the column",
                    row,
                )
        if self.total is None:
            return
        total = torch.as_tensor(self.total, dtype=torch.float64, device=y.device)
        found = y.double().sum(-1, keepdim=True)
        off = found != total
        if mask is not None:
            off = off & mask[..., :1]
        if bool(off.any()):
            place = tuple(off.nonzero()[0].tolist())
            raise RowError(
                "y must have rows that sum to their total, got row {row} with the sum "
                f"{float(found[place]):g} and the total {float(total.expand_as(found)[place]):g}: "
                "leave total out to take the sums",
                place[-2],
            )

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """The share of each entry in the log probability of its row."""
        return self.log_base_measure(y) + self._log_shares(eta, y)

    def log_base_measure(self, y: Tensor) -> Tensor:
        r"""The terms :math:`-\log y_i!`, and the share :math:`\log n! / d` of the row's term."""
        whole = torch.lgamma(y.sum(-1, keepdim=True) + 1)
        return whole / y.shape[-1] - torch.lgamma(y + 1)

    def loss(self, eta: Tensor, y: Tensor) -> Tensor:
        r"""The terms :math:`-y_i \log p_i`."""
        return -self._log_shares(eta, y)

    def score(self, eta: Tensor, y: Tensor) -> Tensor:
        """The counts minus their expectations."""
        return y - self._expected(eta, y)

    def curvature(self, eta: Tensor, y: Tensor) -> Tensor:
        """The second derivative of a row's loss in one of its predictors, ``n p (1 - p)``."""
        return y.sum(-1, keepdim=True) * _one_category(eta).variance_of_y(eta)

    def third_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The third derivative of a row's loss in one of its predictors."""
        return y.sum(-1, keepdim=True) * _one_category(eta).third_derivative(eta, y)

    def fourth_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The fourth derivative of a row's loss in one of its predictors."""
        return y.sum(-1, keepdim=True) * _one_category(eta).fourth_derivative(eta, y)

    def expected_y(self, eta: Tensor) -> Tensor:
        """The expected counts where the total is known, and shares of the total otherwise."""
        return self._known_total(eta) * torch.softmax(eta, -1)

    def variance_of_y(self, eta: Tensor) -> Tensor:
        """The variances of the counts where the total is known, of one count otherwise."""
        return self._known_total(eta) * _one_category(eta).variance_of_y(eta)

    def predictor(self, y: Tensor) -> Tensor:
        """The log of the shares, minus infinity for a count of 0."""
        return torch.log(y) - torch.log(y.sum(-1, keepdim=True).clamp(min=1))

    def deviance(self, y: Tensor, eta: Tensor) -> Tensor:
        """The terms ``2 y (log(y / n) - log p)``, whose sum over a row is its deviance."""
        share = y / y.sum(-1, keepdim=True).clamp(min=1)
        return 2 * (torch.xlogy(y, share) + self.loss(eta, y))

    def saturated_log_prob(self, y: Tensor) -> Tensor:
        """The terms of the largest log probability of each row."""
        share = y / y.sum(-1, keepdim=True).clamp(min=1)
        return self.log_base_measure(y) + torch.xlogy(y, share)

    def bregman_divergence(self, y: Tensor, mean: Tensor) -> Tensor:
        r"""The terms :math:`y_i \log (y_i / \mu_i)`, whose sum over a row is half its deviance."""
        return torch.xlogy(y, y) - torch.xlogy(y, mean)

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Counts of shape ``sample_shape + eta.shape``, column by column as binomial counts.

        Raises:
            NotImplementedError: the total is not known.
        """
        if self.total is None:
            raise NotImplementedError(
                f"{self} cannot be sampled without a total: take Multinomial(total=...)"
            )
        shares = torch.softmax(eta.double(), -1).expand(*sample_shape, *eta.shape)
        left = self._known_total(eta.double()).expand(*shares.shape[:-1], 1)[..., 0]
        rest = shares.flip(-1).cumsum(-1).flip(-1)
        chance = (shares / rest).nan_to_num(1.0).clamp(0, 1)
        counts = []
        for share in chance[..., :-1].unbind(-1):
            counts.append(torch.binomial(left.contiguous(), share.contiguous()))
            left = left - counts[-1]
        return torch.stack([*counts, left], -1).to(eta.dtype)

    def with_totals_of(self, y: Tensor) -> Multinomial:
        """The law of compositions whose rows have the totals of ``y``; 0 is a total, too."""
        if self.total is not None:
            return self
        known = Multinomial(torch.ones((), dtype=y.dtype))
        return known.with_parameters({"total": y.sum(-1, keepdim=True)})

    def entries(self, y: Tensor) -> Entries:
        """Compositions as functions of the linear predictors, as solvers take them."""
        return MultinomialEntries(y, y.sum(-1, keepdim=True))

    def canonical_form(self, y: Tensor) -> CanonicalForm:
        """One category per row, whose indicators are the shares, with the total as weight."""
        total = y.sum(-1, keepdim=True)
        return CanonicalForm(_one_category(y), y / total.clamp(min=1), None, total)

    def _log_shares(self, eta: Tensor, y: Tensor) -> Tensor:
        # A part of probability zero that is not there counts as 0.
        return torch.where(y == 0, 0.0, y * torch.log_softmax(eta, -1))

    def _expected(self, eta: Tensor, y: Tensor) -> Tensor:
        return y.sum(-1, keepdim=True) * torch.softmax(eta, -1)

    def _known_total(self, like: Tensor) -> Tensor:
        total = 1.0 if self.total is None else self.total
        return torch.as_tensor(total, dtype=like.dtype, device=like.device)


def _one_category(like: Tensor) -> Categorical:
    """The category that one count of a row is."""
    return Categorical(like.shape[-1])


class MultinomialEntries:
    """Entries of compositions: the log-partition of a row is shared among its entries.

    Args:
        statistic: counts, ``(..., N, d)``.
        total: the totals of the rows, ``(..., N, 1)``.
    """

    differs_by_row = True

    def __init__(self, statistic: Tensor, total: Tensor) -> None:
        self.statistic, self._total = statistic, total
        self.predictors_per_column = statistic.shape[-1]

    def rows(self, index: Tensor) -> Entries:
        """The entries of some rows; their statistics are left out."""
        return MultinomialEntries(self.statistic, self._total[..., index, :])

    def mean(self, eta: Tensor) -> Tensor:
        """The expected counts."""
        return self._total * torch.softmax(eta, -1)

    def mean_and_variance_in_place(self, eta: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
        """The expected counts, and their variances."""
        del scratch
        share = torch.softmax(eta, -1)
        mean = self._total * share
        return mean, mean * (1 - share)

    def first_cumulants_in_place(
        self, eta: Tensor, scratch: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The share of the log-partition, the expected counts, and their variances."""
        share = self._total * torch.logsumexp(eta, -1, keepdim=True) / eta.shape[-1]
        return share.expand(eta.shape), *self.mean_and_variance_in_place(eta, scratch)
