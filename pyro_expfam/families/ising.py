"""The non-interacting Ising family."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.bernoulli import Bernoulli
from pyro_expfam.families.exponential import ExponentialFamily
from pyro_expfam.links.logistic import softplus


class Spin(constraints.Constraint):
    """The two numbers -1 and 1."""

    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        """Whether each value is -1 or 1."""
        return (value == -1) | (value == 1)

    def __repr__(self) -> str:
        return "the numbers -1 and 1"


_SPIN = Spin()
_BERNOULLI = Bernoulli()


@dataclass(frozen=True, eq=False)
class Ising(ExponentialFamily):
    r"""Spins, -1 or 1, of a non-interacting Ising model.

    .. math:: T(y) = y, \quad A(\eta) = \log \cosh \eta, \quad h(y) = 1 / 2.

    The activation is the hyperbolic tangent. The spin is ``2 x - 1`` for a Bernoulli ``x`` with
    log odds ``2 eta``.

    Source: Table 1 and appendix A of Tsuchida and Ong.

    Example:
        >>> import torch
        >>> Ising().mean(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-0.7616,  0.0000,  0.7616])
    """

    self_concordance: ClassVar[float] = 2.0

    weak_intercept_scale: ClassVar[float] = 5.0
    """Half the scale of a log odds, as the natural parameter is half the log odds."""

    @property
    def support(self) -> constraints.Constraint:
        """The numbers -1 and 1."""
        return _SPIN

    def log_base_measure(self, y: Tensor) -> Tensor:
        r"""The log base measure :math:`-\log 2`."""
        return torch.full_like(y, -math.log(2))

    def expected_log_base_measure(self, eta: Tensor) -> Tensor:
        r"""The expected log base measure :math:`-\log 2`."""
        return torch.full_like(eta, -math.log(2))

    def log_partition(self, eta: Tensor) -> Tensor:
        r"""The log-partition :math:`\log \cosh \eta`, with relative accuracy near 0."""
        near = eta.abs() < 1
        # cosh = 1 + 2 sinh^2(eta / 2): nothing cancels where log cosh is small.
        small = torch.log1p(2 * torch.sinh(0.5 * torch.where(near, eta, 0.0)).square())
        size = eta.abs()
        return torch.where(near, small, size + torch.log1p(torch.exp(-2 * size)) - math.log(2))

    def mean(self, eta: Tensor) -> Tensor:
        """The hyperbolic tangent."""
        return torch.tanh(eta)

    def variance(self, eta: Tensor) -> Tensor:
        """The variance, with relative accuracy in both tails."""
        return 4 * _BERNOULLI.variance(2 * eta)

    def third_cumulant(self, eta: Tensor) -> Tensor:
        r"""The third cumulant :math:`-2 A'' \tanh \eta`."""
        return -2 * self.variance(eta) * torch.tanh(eta)

    def fourth_cumulant(self, eta: Tensor) -> Tensor:
        r"""The fourth cumulant :math:`A'' (4 - 6 A'')`."""
        variance = self.variance(eta)
        return variance * (4 - 6 * variance)

    def mean_and_variance(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one sigmoid, which costs less than a hyperbolic tangent.

        They are exact to rounding in units of 1. Where the mean rounds to -1 or 1 the variance
        is 0, unlike :meth:`variance`.
        """
        share = torch.sigmoid(2 * eta)
        return 2 * share - 1, 4 * share * (1 - share)

    def mean_and_variance_in_place(self, eta: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
        """The mean in ``eta`` and the variance in ``scratch``."""
        share = eta.mul_(2).sigmoid_()
        variance = torch.sub(1, share, out=scratch).mul_(share).mul_(4)
        return share.mul_(2).sub_(1), variance

    def natural_param(self, mean: Tensor) -> Tensor:
        """The inverse hyperbolic tangent of a mean between -1 and 1."""
        return torch.atanh(mean)

    def convex_conjugate(self, mean: Tensor) -> Tensor:
        r"""The convex conjugate :math:`\tfrac12 \sum_\pm (1 \pm \mu) \log (1 \pm \mu)`.

        It is 0 at 0, and :math:`\log 2` at -1 and 1.
        """
        xlog1py = torch.special.xlog1py
        value = 0.5 * (xlog1py(1 + mean, mean) + xlog1py(1 - mean, -mean))
        return torch.where(mean.abs() > 1, torch.inf, value)

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws -1 or 1, of shape ``sample_shape + eta.shape``."""
        return 2 * _BERNOULLI.sample(2 * eta, sample_shape) - 1

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """The log probability of -1 or 1, with relative accuracy in both tails."""
        return -softplus(-2 * y * eta)

    def entropy(self, eta: Tensor) -> Tensor:
        """The entropy in nats, equal to the entropy of a Bernoulli with log odds ``2 eta``."""
        return _BERNOULLI.entropy(2 * eta)

    def kl_divergence(self, eta: Tensor, other: Tensor) -> Tensor:
        """The divergence to ``other`` in nats: a Bernoulli divergence at twice the log odds."""
        return _BERNOULLI.kl_divergence(2 * eta, 2 * other)
