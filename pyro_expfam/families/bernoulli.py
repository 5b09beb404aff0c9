"""The Bernoulli family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.exponential import ExponentialFamily
from pyro_expfam.families.linked import Linkable
from pyro_expfam.families.reflection import sign_to_negative
from pyro_expfam.links import Link, Logit
from pyro_expfam.links.logistic import log_odds, softplus


@dataclass(frozen=True, eq=False)
class Bernoulli(Linkable, ExponentialFamily):
    r"""Binary observations, 0 or 1, by their log odds.

    .. math:: T(y) = y, \quad A(\eta) = \log(1 + e^\eta), \quad h(y) = 1.

    The activation is the logistic sigmoid.

    Args:
        link: how the probability of 1 follows from the linear predictor, as
            :class:`~pyro_expfam.links.Probit` or :class:`~pyro_expfam.links.ComplementaryLogLog`.
            The default is :class:`~pyro_expfam.links.Logit`.

    Source: Table 1 of Tsuchida and Ong.

    Example:
        >>> import torch
        >>> Bernoulli().mean(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([0.2689, 0.5000, 0.7311])
    """

    self_concordance: ClassVar[float] = 1.0

    @property
    def support(self) -> constraints.Constraint:
        """The numbers 0 and 1."""
        return constraints.boolean

    def log_base_measure(self, y: Tensor) -> Tensor:
        """The log base measure: 0."""
        return y.new_zeros(()).expand(y.shape)

    def expected_log_base_measure(self, eta: Tensor) -> Tensor:
        """The expected log base measure: 0."""
        return torch.zeros_like(eta)

    def log_partition(self, eta: Tensor) -> Tensor:
        r"""The log-partition :math:`\log(1 + e^\eta)`."""
        return softplus(eta)

    def mean(self, eta: Tensor) -> Tensor:
        """The logistic sigmoid."""
        return torch.sigmoid(eta)

    def variance(self, eta: Tensor) -> Tensor:
        """The variance, with relative accuracy in both tails."""
        return torch.sigmoid(eta) * torch.sigmoid(-eta)

    def third_cumulant(self, eta: Tensor) -> Tensor:
        r"""The third cumulant :math:`-A'' \tanh(\eta / 2)`."""
        return -self.variance(eta) * torch.tanh(0.5 * eta)

    def fourth_cumulant(self, eta: Tensor) -> Tensor:
        r"""The fourth cumulant :math:`A'' (1 - 6 A'')`."""
        variance = self.variance(eta)
        return variance * (1 - 6 * variance)

    def mean_and_variance(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one sigmoid; the variance is exact to rounding in units of the mean.

        Where the mean rounds to 1 it is 0, unlike :meth:`variance`.
        """
        mean = torch.sigmoid(eta)
        return mean, mean * (1 - mean)

    def mean_and_variance_in_place(self, eta: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
        """The mean in ``eta`` and the variance in ``scratch``."""
        mean = eta.sigmoid_()
        return mean, torch.sub(1, mean, out=scratch).mul_(mean)

    def natural_param(self, mean: Tensor) -> Tensor:
        """The log odds of a mean between 0 and 1."""
        return log_odds(mean, 1)

    def convex_conjugate(self, mean: Tensor) -> Tensor:
        r"""Minus the entropy, :math:`\mu \log \mu + (1 - \mu) \log (1 - \mu)`, 0 at 0 and 1."""
        value = torch.xlogy(mean, mean) + torch.special.xlog1py(1 - mean, -mean)
        return torch.where((mean < 0) | (mean > 1), torch.inf, value)

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws 0 or 1, of shape ``sample_shape + eta.shape``."""
        # Uniforms of single precision are multiples of 2^-24, too coarse for rare events.
        shape = (*sample_shape, *eta.shape)
        uniform = torch.rand(shape, dtype=torch.float64, device=eta.device)
        return (uniform < torch.sigmoid(eta.double())).to(eta.dtype)

    @property
    def own_link(self) -> Link:
        """The logit."""
        return Logit()

    def under_link(self, link: Link, eta: Tensor) -> Tensor:
        """The log odds of the link."""
        return link.log_odds(eta)

    def residual(self, eta: Tensor, y: Tensor) -> Tensor:
        """The observation minus its mean, with relative accuracy in both tails."""
        return y * torch.sigmoid(-eta) - (1 - y) * torch.sigmoid(eta)

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """The log probability of 0 or 1, with relative accuracy in both tails."""
        return -softplus((1 - 2 * y) * eta)

    def entropy(self, eta: Tensor) -> Tensor:
        """The entropy in nats, with relative accuracy in both tails."""
        return super().entropy(sign_to_negative(eta) * eta)

    def kl_divergence(self, eta: Tensor, other: Tensor) -> Tensor:
        """The divergence to ``other`` in nats, with relative accuracy in both tails."""
        sign = sign_to_negative(eta)
        return super().kl_divergence(sign * eta, sign * other)
