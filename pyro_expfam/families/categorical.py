"""The categorical family, with a softmax over levels."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.base import Family
from pyro_expfam.families.entries import Entries
from pyro_expfam.table_categories import level_names


@dataclass(frozen=True, eq=False)
class Categorical(Family):
    r"""Categories ``0, ..., K - 1`` with probabilities by the softmax of ``K`` linear predictors.

    .. math:: P(y = k) = \frac{e^{\eta_k}}{\sum_j e^{\eta_j}}, \quad
              \ell(\eta; y) = \log \sum_j e^{\eta_j} - \eta_y.

    A table holds the numbers of levels. A data frame of pandas may hold categories, which take the
    numbers of their order: ``frame.astype(pandas.CategoricalDtype(["no", "yes"]))``.

    A column of a table takes ``K`` linear predictors, one per level, side by side. The functions
    here take the indicators of the levels in place of ``y``, as :meth:`encode` makes them:
    ``(..., d K)`` for ``d`` columns, in the shape of the linear predictors. A loss of a column is
    the sum of its ``K`` entries.

    Adding a number to all predictors of a column changes nothing. The prior of the loading and the
    intercept holds this direction: at a maximum, both sum to zero over the levels of a column. A
    posterior of loading and intercept has the prior in this direction. Compare levels with each
    other: their differences are what a table determines.

    Source: section 2 of Tsuchida and Ong, *When are equilibrium networks scoring algorithms?*, for
    softmax layers; McCullagh and Nelder (1989), section 5.2. The third derivative along a direction
    ``u`` is at most the range of ``u`` times the second, and the range is at most twice the largest
    entry, so that :attr:`self_concordance` is 2.

    Args:
        levels: the number of categories ``K``, at least 2.

    Raises:
        TypeError: ``levels`` is not a whole number.
        ValueError: ``levels`` is below 2.

    Example:
        >>> import torch
        >>> family = Categorical(3)
        >>> y = family.encode(torch.tensor([[2.0, 0.0]]))
        >>> y
        tensor([[0., 0., 1., 1., 0., 0.]])
        >>> family.expected_y(torch.zeros(1, 6))
        tensor([[0.3333, 0.3333, 0.3333, 0.3333, 0.3333, 0.3333]])
    """

    levels: int

    self_concordance: ClassVar[float] = 2.0
    is_convex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.levels, bool) or not isinstance(self.levels, numbers.Integral):
            raise TypeError(f"levels is {self.levels!r}, but should be a whole number")
        if self.levels < 2:
            raise ValueError(f"levels is {self.levels}, but should be at least 2")
        object.__setattr__(self, "levels", int(self.levels))

    @property
    def predictors_per_column(self) -> int:
        """The number of levels."""
        return self.levels

    @property
    def num_levels(self) -> int:
        """The number of levels."""
        return self.levels

    @property
    def support(self) -> constraints.Constraint:
        """The numbers of the levels, from 0."""
        return constraints.integer_interval(0, self.levels - 1)

    def encode(self, y: Tensor) -> Tensor:
        """The indicators of levels ``(..., d K)`` of categories ``(..., d)``."""
        levels = torch.arange(self.levels, dtype=y.dtype, device=y.device)
        return (y.unsqueeze(-1) == levels).to(y.dtype).flatten(-2)

    def decode(self, y: Tensor) -> Tensor:
        """The categories ``(..., d)`` of indicators ``(..., d K)``."""
        return self._by_column(y).argmax(-1).to(y.dtype)

    def level_names(self, columns: Sequence[Any]) -> list[str]:
        """Names for the linear predictors of columns, as for the rows of a loading.

        Example:
            >>> Categorical(2).level_names(["wine", "beer"])
            ['wine=0', 'wine=1', 'beer=0', 'beer=1']
        """
        return level_names(list(columns), self.levels)

    def log_probabilities(self, eta: Tensor) -> Tensor:
        """The log probabilities of the levels, in the shape of ``eta``."""
        return torch.log_softmax(self._by_column(eta), -1).flatten(-2)

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """The log probability of the level that is there, and 0 for the other levels."""
        if y.dim() < 1 or y.shape[-1] != eta.shape[-1]:
            raise ValueError(
                "y must hold the indicators of levels in the shape of eta, "
                f"{tuple(eta.shape)}, got {tuple(y.shape)}: pass family.encode(y), or take "
                "distributions.Categorical"
            )
        log_probabilities = self.log_probabilities(eta)
        # A level of probability zero that is not there counts as 0.
        return torch.where(y == 0, 0.0, y * log_probabilities)

    def loss(self, eta: Tensor, y: Tensor) -> Tensor:
        """Minus the log probability."""
        return -self.log_prob(y, eta)

    def score(self, eta: Tensor, y: Tensor) -> Tensor:
        """The indicators minus the probabilities."""
        return y - self.expected_y(eta)

    def curvature(self, eta: Tensor, y: Tensor) -> Tensor:
        """The diagonal of the second derivative of a column's loss, ``p (1 - p)``."""
        del y
        return self.variance_of_y(eta)

    def third_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The third derivative of a column's loss in one of its predictors."""
        del y
        p = self.expected_y(eta)
        return self.variance_of_y(eta) * (1 - 2 * p)

    def fourth_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The fourth derivative of a column's loss in one of its predictors."""
        del y
        variance = self.variance_of_y(eta)
        return variance * (1 - 6 * variance)

    def expected_y(self, eta: Tensor) -> Tensor:
        """The probabilities of the levels."""
        return torch.softmax(self._by_column(eta), -1).flatten(-2)

    def variance_of_y(self, eta: Tensor) -> Tensor:
        """The variances of the indicators."""
        p = self._by_column(self.expected_y(eta))
        # One minus a probability near 1 is the sum of the others.
        others = p.sum(-1, keepdim=True) - p
        near = torch.where(p > 0.5, self._sum_of_others(p), others)
        return (p * near).flatten(-2)

    def _sum_of_others(self, p: Tensor) -> Tensor:
        most = torch.nn.functional.one_hot(p.argmax(-1), self.levels).bool()
        rest = torch.where(most, 0.0, p).sum(-1, keepdim=True)
        return torch.where(most, rest, 1 - p)

    def predictor(self, y: Tensor) -> Tensor:
        """The log of the probabilities; minus infinity for a level that cannot be."""
        return torch.log(y)

    def deviance(self, y: Tensor, eta: Tensor) -> Tensor:
        """Twice the loss of the level that is there, 0 for the others; a column has their sum."""
        return 2 * self.loss(eta, y)

    def saturated_log_prob(self, y: Tensor) -> Tensor:
        """The log probability of a level that is certain: 0."""
        return torch.zeros_like(y)

    def convex_conjugate(self, mean: Tensor) -> Tensor:
        r"""The terms :math:`p_k \log p_k`, whose sum over the levels is minus the entropy."""
        return torch.where(mean < 0, torch.inf, torch.xlogy(mean, mean))

    def bregman_divergence(self, y: Tensor, mean: Tensor) -> Tensor:
        r"""The terms :math:`y_k \log (y_k / p_k)`, whose sum over the levels is half a deviance."""
        return torch.xlogy(y, y) - torch.xlogy(y, mean)

    def entropy(self, eta: Tensor) -> Tensor:
        """The entropy of each column in nats, ``(..., d)``."""
        log_probabilities = self._by_column(self.log_probabilities(eta))
        return -torch.special.xlogy(log_probabilities.exp(), log_probabilities.exp()).sum(-1)

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Indicators of drawn levels, of shape ``sample_shape + eta.shape``."""
        shape = (*sample_shape, *eta.shape)
        uniform = torch.rand(shape, dtype=torch.float64, device=eta.device)
        # The largest of Gumbel variables around the predictors is drawn from the softmax.
        gumbel = eta - torch.log(-torch.log(uniform))
        drawn = self._by_column(gumbel).argmax(-1)
        return torch.nn.functional.one_hot(drawn, self.levels).flatten(-2).to(eta.dtype)

    def entries(self, y: Tensor) -> Entries:
        """Indicators as functions of the linear predictors, as solvers take them."""
        return CategoricalEntries(self, y)

    def _by_column(self, entries: Tensor) -> Tensor:
        return entries.unflatten(-1, (-1, self.levels))


class CategoricalEntries:
    """Entries of categories: the log-partition of a column is shared among its levels.

    Args:
        family: the family.
        y: indicators of levels, ``(..., N, d)``.
    """

    differs_by_row = False

    def __init__(self, family: Categorical, y: Tensor) -> None:
        self.statistic = y
        self.mean = family.expected_y
        self.predictors_per_column = family.levels
        self._family = family

    def rows(self, index: Tensor) -> Entries:
        """The same entries; their statistics are left out."""
        del index
        return self

    def mean_and_variance_in_place(self, eta: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
        """The probabilities, and the variances of the indicators."""
        del scratch
        mean = self.mean(eta)
        return mean, mean * (1 - mean)

    def first_cumulants_in_place(
        self, eta: Tensor, scratch: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The share of the log-partition, the probabilities, and the variances."""
        by_column = eta.unflatten(-1, (-1, self.predictors_per_column))
        share = torch.logsumexp(by_column, -1, keepdim=True) / self.predictors_per_column
        return share.expand(by_column.shape).flatten(-2), *self.mean_and_variance_in_place(
            eta, scratch
        )
