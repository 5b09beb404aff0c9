"""The ordinal family, of ordered answers by a cumulative logit."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from copy import copy
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.base import Family
from pyro_expfam.families.inversion import invert_increasing
from pyro_expfam.families.positive import SHARED, as_like, as_parameter, known_or_learnt
from pyro_expfam.links.logistic import softplus


class Ordinal(Family):
    r"""Ordered answers ``0, ..., K - 1``, such as ratings, by a cumulative logit.

    .. math:: P(y \le k) = \sigma(c_{k + 1} - \eta), \quad
              \ell(\eta; y) = \log(1 + e^{\eta - c_{y + 1}}) + \log(1 + e^{c_y - \eta}),

    with cut points :math:`-\infty = c_0 < c_1 < \dots < c_K = \infty`. An answer says between which
    cut points a logistic variable around :math:`\eta` lies. The loss is the sum of two logistic
    losses, and so convex.

    Without cut points a block learns them, one set per column. The first is then zero, since the
    intercept moves all of them. The distances between the others are the parameters ``gap_1``,
    ``gap_2``, ..., which are positive.

    Source: McCullagh (1980), *Regression models for ordinal data*.

    Args:
        levels: the number of answers ``K``, at least 2.
        cut_points: the ``K - 1`` cut points in increasing order, or a tensor of them per column,
            ``(d, K - 1)``. Gradients flow to a tensor. None learns them for each column, and
            ``"shared"`` learns one set for all columns.

    Raises:
        TypeError: ``levels`` is not a whole number, or ``cut_points`` holds no real numbers.
        ValueError: ``levels`` is below 2, or ``cut_points`` has another number of them or is not
            increasing.

    Example:
        >>> import torch
        >>> from pyro_expfam.families import Ordinal
        >>> family = Ordinal(3, cut_points=[-1.0, 1.0])
        >>> family.probabilities(torch.tensor([0.0, 2.0]))
        tensor([[0.2689, 0.4621, 0.2689],
                [0.0474, 0.2215, 0.7311]])
    """

    levels: int
    first_cut_point: float | Tensor

    self_concordance: ClassVar[float] = 1.0
    is_convex: ClassVar[bool] = True

    def __init__(self, levels: int, cut_points: Any = None) -> None:
        if isinstance(levels, bool) or not isinstance(levels, numbers.Integral):
            raise TypeError(f"levels is {levels!r}, but should be a whole number")
        if levels < 2:
            raise ValueError(f"levels is {levels}, but should be at least 2")
        self.levels = int(levels)
        if cut_points is None or (isinstance(cut_points, str) and cut_points == SHARED):
            self.first_cut_point = 0.0
            gaps: Sequence[Any] = [cut_points] * (self.levels - 2)
        else:
            self.first_cut_point, gaps = _first_and_gaps(self.levels, cut_points)
        for name, gap in zip(self.parameter_names, gaps, strict=True):
            setattr(self, name, gap)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The distances between cut points: ``gap_1``, ``gap_2``, ..."""
        return tuple(f"gap_{place}" for place in range(1, self.levels - 1))

    def replaced(self, parameters: dict[str, Tensor]) -> Self:
        """The same law with other distances between some cut points."""
        other = copy(self)
        for name, value in parameters.items():
            setattr(other, name, known_or_learnt(name, value))
        return other

    def __repr__(self) -> str:
        """The levels, and the cut points if they are known."""
        if self.to_learn(1):
            return f"Ordinal({self.levels})"
        cuts = self.cut_points(torch.zeros((), dtype=torch.float64))
        shown = (
            f"[{', '.join(f'{float(x):.4g}' for x in cuts)}]"
            if cuts.dim() == 1
            else f"Tensor{tuple(cuts.shape)}"
        )
        return f"Ordinal({self.levels}, cut_points={shown})"

    def check_known(self) -> None:
        """Raises a ValueError if cut points are still to be learnt."""
        if self.to_learn(1):
            raise ValueError(
                f"cut_points must be known where nothing is learnt, as in Ordinal({self.levels}, "
                f"cut_points=[...]), got {self}: a block, pyro_expfam.ExpFamPCA, learns them"
            )

    def cut_points(self, like: Tensor) -> Tensor:
        """The cut points in the dtype of ``like``, ``(K - 1,)`` or ``(..., d, K - 1)``."""
        gaps = [as_like(getattr(self, name), like, "cut_points") for name in self.parameter_names]
        steps = torch.broadcast_tensors(as_like(self.first_cut_point, like, "cut_points"), *gaps)
        return torch.stack(steps, -1).cumsum(-1)

    @property
    def num_levels(self) -> int:
        """The number of levels."""
        return self.levels

    @property
    def has_order(self) -> bool:
        """The order of the answers counts."""
        return True

    @property
    def support(self) -> constraints.Constraint:
        """The numbers of the answers, from 0."""
        return constraints.integer_interval(0, self.levels - 1)

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """The log probability of an answer."""
        return self.log_base_measure(y) - self.loss(eta, y)

    def log_base_measure(self, y: Tensor) -> Tensor:
        r"""The terms :math:`\log(1 - e^{c_y - c_{y + 1}})`, and 0 for the first and last answer."""
        gaps = self.cut_points(y).diff(dim=-1)
        by_answer = torch.nn.functional.pad(torch.log(-torch.expm1(-gaps)), (1, 1))
        return _at(by_answer, y.long().clamp(0, self.levels - 1))

    def loss(self, eta: Tensor, y: Tensor) -> Tensor:
        """Minus the log probability, up to terms free of ``eta``."""
        lower, upper = self._around(y)
        return softplus(eta - upper) + softplus(lower - eta)

    def score(self, eta: Tensor, y: Tensor) -> Tensor:
        """Minus the derivative of :meth:`loss`."""
        above, below = self._shares(eta, y)
        return below - above

    def curvature(self, eta: Tensor, y: Tensor) -> Tensor:
        """The second derivative of :meth:`loss`."""
        return sum_of(lambda p: p * (1 - p), self._shares(eta, y))

    def third_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The third derivative of :meth:`loss`."""
        above, below = (p * (1 - p) * (1 - 2 * p) for p in self._shares(eta, y))
        return above - below

    def fourth_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The fourth derivative of :meth:`loss`."""
        return sum_of(lambda p: p * (1 - p) * (1 - 6 * p * (1 - p)), self._shares(eta, y))

    def probabilities(self, eta: Tensor) -> Tensor:
        """The probabilities of the answers, ``(..., K)``."""
        answers = torch.arange(self.levels, dtype=eta.dtype, device=eta.device)
        answers = answers.view(-1, *[1] * eta.dim()).expand(-1, *eta.shape)
        return torch.exp(self.log_prob(answers, eta)).movedim(0, -1)

    def expected_y(self, eta: Tensor) -> Tensor:
        """The mean of the number of an answer."""
        return torch.sigmoid(eta.unsqueeze(-1) - self.cut_points(eta)).sum(-1)

    def variance_of_y(self, eta: Tensor) -> Tensor:
        """The variance of the number of an answer."""
        answers = torch.arange(self.levels, dtype=eta.dtype, device=eta.device)
        deviation = answers - self.expected_y(eta).unsqueeze(-1)
        return (self.probabilities(eta) * deviation.square()).sum(-1)

    def predictor(self, y: Tensor) -> Tensor:
        """The linear predictor at which ``y`` is the mean, by bisection."""
        cuts = self.cut_points(y)
        if (
            y.requires_grad
            or cuts.dim() > 2
            or bool((y != y.long().clamp(0, self.levels - 1)).any())
        ):
            return invert_increasing(self.expected_y, y, constraints.real)
        # A table of answers has few different means.
        answers = torch.arange(self.levels, dtype=y.dtype, device=y.device)
        answers = answers.view(-1, *[1] * (cuts.dim() - 1)).expand(-1, *cuts.shape[:-1])
        by_answer = invert_increasing(self.expected_y, answers, constraints.real)
        return _at(by_answer.movedim(0, -1), y.long())

    def entropy(self, eta: Tensor) -> Tensor:
        """The entropy in nats."""
        probabilities = self.probabilities(eta)
        return -torch.special.xlogy(probabilities, probabilities).sum(-1)

    def kl_divergence(self, eta: Tensor, other: Tensor) -> Tensor:
        """The divergence of the law at ``eta`` from the law at ``other``, of the same cuts."""
        answers = torch.arange(self.levels, dtype=eta.dtype, device=eta.device)
        answers = answers.view(-1, *[1] * eta.dim()).expand(-1, *eta.shape)
        log_ratio = self.log_prob(answers, eta) - self.log_prob(answers, other)
        return (torch.exp(self.log_prob(answers, eta)) * log_ratio).sum(0)

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape ``sample_shape + eta.shape``, broadcast with the cut points."""
        cuts = self.cut_points(eta)
        shape = (*sample_shape, *torch.broadcast_shapes(eta.shape, cuts.shape[:-1]))
        uniform = torch.rand(shape, dtype=torch.float64, device=eta.device)
        logistic = (eta + torch.logit(uniform)).unsqueeze(-1)
        return (logistic > cuts).sum(-1).to(eta.dtype)

    def _around(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The cut points below and above an answer, infinite for the first and the last."""
        ends = torch.nn.functional.pad(self.cut_points(y), (1, 0), value=-torch.inf)
        ends = torch.nn.functional.pad(ends, (0, 1), value=torch.inf)
        place = y.long().clamp(0, self.levels - 1)
        return _at(ends, place), _at(ends, place + 1)

    def _shares(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The derivatives of both parts of the loss in their own arguments."""
        lower, upper = self._around(y)
        return torch.sigmoid(eta - upper), torch.sigmoid(lower - eta)


def sum_of(function: Any, pair: tuple[Tensor, Tensor]) -> Tensor:
    """The sum of a function of both tensors of a pair."""
    total: Tensor = function(pair[0]) + function(pair[1])
    return total


def _at(cuts: Tensor, place: Tensor) -> Tensor:
    """The cut point, or what else there is of each, at a place per entry."""
    if cuts.dim() == 1:
        return cuts[place]
    wide = cuts.expand(*torch.broadcast_shapes(cuts.shape[:-1], place.shape), cuts.shape[-1])
    return wide.gather(-1, place.expand(wide.shape[:-1]).unsqueeze(-1)).squeeze(-1)


def _first_and_gaps(levels: int, cut_points: Any) -> tuple[float | Tensor, list[float | Tensor]]:
    value = as_parameter("cut_points", cut_points)
    if not isinstance(value, Tensor):
        raise TypeError(f"cut_points must be {levels - 1} numbers, got {cut_points!r}")
    if value.dim() == 0 or value.shape[-1] != levels - 1:
        raise ValueError(
            f"cut_points must be {levels - 1} numbers for {levels} levels, got shape "
            f"{tuple(value.shape)}"
        )
    gaps = value.diff(dim=-1)
    if not bool((gaps > 0).all() & value.isfinite().all()):
        raise ValueError(f"cut_points must be finite and increase, got {value.tolist()}")
    columns: list[Any] = [value[..., 0], *gaps.unbind(-1)]
    if value.dim() == 1 and not value.requires_grad:
        columns = [float(x) for x in columns]
    return columns[0], columns[1:]
