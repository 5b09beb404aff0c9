"""The beta family of known precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from pyro_expfam.families.base import Family
from pyro_expfam.families.positive import as_like, known_or_learnt


class OpenUnitInterval(constraints.Constraint):
    """The numbers between 0 and 1 without both ends."""

    def check(self, value: Any) -> Any:
        """Whether entries are above 0 and below 1."""
        return (value > 0) & (value < 1)


open_unit_interval = OpenUnitInterval()


@dataclass(frozen=True, eq=False, repr=False)
class Beta(Family):
    r"""Proportions between 0 and 1, by the log odds of their mean.

    .. math:: \mu = \sigma(\eta), \quad p(y) \propto y^{\mu \phi - 1} (1 - y)^{(1 - \mu) \phi - 1},
              \quad \operatorname{Var}[y] = \mu (1 - \mu) / (1 + \phi).

    The loss is not convex. Steps use the Fisher information, and a row may have several stationary
    points.

    Zeros and ones are not possible. Mask them, or move all observations by
    ``y = (y * (n - 1) + 0.5) / n`` in a table of ``n`` rows (Smithson and Verkuilen, 2006). For
    proportions of whole numbers take :class:`~pyro_expfam.families.Binomial`, and for a density
    without a precision :class:`~pyro_expfam.families.ContinuousBernoulli`.

    Source: Ferrari and Cribari-Neto (2004), *Beta regression for modelling rates and proportions*.

    Args:
        precision: the precision :math:`\phi`, a positive number, or a tensor, an array, a series or
            a list of such numbers that broadcasts against observations, for instance ``(d,)`` for
            one per column. Gradients flow to a tensor. Without it a block learns one per
            column, and with ``"shared"`` one for all columns.

    Raises:
        TypeError: ``precision`` does not hold real numbers.
        ValueError: ``precision`` is not positive and finite.

    Example:
        >>> import torch
        >>> from pyro_expfam.families import Beta
        >>> family = Beta(precision=4.0)
        >>> family.variance_of_y(torch.tensor([0.0, 2.0]))
        tensor([0.0500, 0.0210])
    """

    precision: float | Tensor | str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", known_or_learnt("precision", self.precision))

    @property
    def support(self) -> constraints.Constraint:
        """The numbers between 0 and 1 without both ends."""
        return open_unit_interval

    @property
    def placeholder(self) -> float:
        """One half."""
        return 0.5

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """The log density of a proportion."""
        first, second = self._shapes(eta)
        precision = as_like(self.precision, eta, "precision")
        # The log of the gamma function at x is the log at x + 1, minus log x, which may be large.
        log_shapes = 2 * torch.log(precision) + logsigmoid(eta) + logsigmoid(-eta)
        normaliser = (
            torch.lgamma(precision) - torch.lgamma(first + 1) - torch.lgamma(second + 1)
        ) + log_shapes
        return normaliser + (first - 1) * torch.log(y) + (second - 1) * torch.log1p(-y)

    def score(self, eta: Tensor, y: Tensor) -> Tensor:
        r"""Minus the derivative of the loss.

        It is
        :math:`\phi \mu (1 - \mu) (\operatorname{logit} y - \psi(\mu \phi) + \psi((1 - \mu) \phi))`.
        """
        first, second = self._shapes(eta)
        mean, rest = torch.sigmoid(eta), torch.sigmoid(-eta)
        # With x psi(x) = x psi(x + 1) - 1 it is finite at all linear predictors.
        observed = torch.log(y) - torch.log1p(-y) - torch.digamma(first + 1)
        return rest * (first * observed + 1) + mean * (second * torch.digamma(second + 1) - 1)

    def information(self, eta: Tensor, y: Tensor) -> Tensor:
        r"""The Fisher information.

        It is :math:`\phi^2 \mu^2 (1 - \mu)^2 (\psi'(\mu \phi) + \psi'((1 - \mu) \phi))`.
        """
        first, second = self._shapes(eta)
        mean, rest = torch.sigmoid(eta), torch.sigmoid(-eta)
        # With the square of x times psi'(x), which is x ** 2 psi'(x + 1) + 1.
        of_mean = rest * (rest * (first.square() * torch.polygamma(1, first + 1) + 1))
        of_rest = mean * (mean * (second.square() * torch.polygamma(1, second + 1) + 1))
        return of_mean + of_rest + torch.zeros_like(y)

    def expected_y(self, eta: Tensor) -> Tensor:
        """The mean of a proportion."""
        return torch.sigmoid(eta)

    def variance_of_y(self, eta: Tensor) -> Tensor:
        """The variance of a proportion."""
        mean = torch.sigmoid(eta)
        return mean * torch.sigmoid(-eta) / (1 + as_like(self.precision, eta, "precision"))

    def predictor(self, y: Tensor) -> Tensor:
        """The log odds."""
        return torch.logit(y)

    def entropy(self, eta: Tensor) -> Tensor:
        """The entropy in nats."""
        first, second = self._shapes(eta)
        return torch.distributions.Beta(first, second, validate_args=False).entropy()

    def kl_divergence(self, eta: Tensor, other: Tensor) -> Tensor:
        """The divergence of the law at ``eta`` from the law at ``other``, of the same precision."""
        (a, b), (c, d) = self._shapes(eta), self._shapes(other)
        normalisers = torch.lgamma(c) + torch.lgamma(d) - torch.lgamma(a) - torch.lgamma(b)
        return normalisers + (a - c) * torch.digamma(a) + (b - d) * torch.digamma(b)

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape ``sample_shape + eta.shape``, broadcast with the precision."""
        first, second = self._shapes(eta.double())
        shape = (*sample_shape, *torch.broadcast_shapes(first.shape, second.shape))
        draws = (torch._standard_gamma(x.expand(shape).contiguous()) for x in (first, second))
        numerator, other = next(draws), next(draws)
        value = (numerator / (numerator + other)).to(eta.dtype)
        # A draw that rounds to 0 or 1 is outside of the support.
        tiny, eps = torch.finfo(eta.dtype).tiny, torch.finfo(eta.dtype).eps
        return value.clamp(min=tiny, max=1 - eps / 2)

    def _shapes(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        precision = as_like(self.precision, eta, "precision")
        return precision * torch.sigmoid(eta), precision * torch.sigmoid(-eta)
