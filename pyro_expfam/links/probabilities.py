"""Links for means between 0 and 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_expfam.links.link import Link
from pyro_expfam.links.log_rates import log1m_exp_exp, log_expm1_exp
from pyro_expfam.links.logistic import log_odds, sigmoid, softplus_of_tails
from pyro_expfam.links.normal_tails import log_ndtr


@dataclass(frozen=True)
class Logit(Link):
    """The linear predictor is the log odds.

    Example:
        >>> import torch
        >>> Logit().mean(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([0.2689, 0.5000, 0.7311])
    """

    def mean(self, eta: Tensor) -> Tensor:
        """The logistic sigmoid."""
        return sigmoid(eta)

    def predictor(self, mean: Tensor) -> Tensor:
        """The log odds of a probability."""
        return log_odds(mean.clamp(0, 1), 1)

    def log_mean(self, eta: Tensor) -> Tensor:
        """The log of the sigmoid."""
        return -softplus_of_tails(-eta)

    def log_odds(self, eta: Tensor) -> Tensor:
        """The linear predictor."""
        return eta


@dataclass(frozen=True)
class Probit(Link):
    r"""The mean is the normal distribution function :math:`\Phi(\eta)`.

    Log odds and their derivatives are accurate in both tails.

    Example:
        >>> import torch
        >>> Probit().mean(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([0.1587, 0.5000, 0.8413])
    """

    def mean(self, eta: Tensor) -> Tensor:
        """The normal distribution function."""
        return torch.special.ndtr(eta)

    def predictor(self, mean: Tensor) -> Tensor:
        """The normal quantile of a probability."""
        return torch.special.ndtri(mean.clamp(0, 1))

    def log_mean(self, eta: Tensor) -> Tensor:
        """The log of the normal distribution function."""
        return log_ndtr(eta)

    def log_odds(self, eta: Tensor) -> Tensor:
        r"""The log odds :math:`\log \Phi(\eta) - \log \Phi(-\eta)`."""
        return log_ndtr(eta) - log_ndtr(-eta)


@dataclass(frozen=True)
class ComplementaryLogLog(Link):
    r"""The mean is :math:`1 - \exp(-e^\eta)`.

    It is the probability that a Poisson count of log rate ``eta`` is not 0. Log odds
    and their derivatives are accurate in both tails.

    Example:
        >>> import torch
        >>> ComplementaryLogLog().mean(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([0.3078, 0.6321, 0.9340])
    """

    def mean(self, eta: Tensor) -> Tensor:
        r"""The probability :math:`1 - \exp(-e^\eta)`."""
        return -torch.expm1(-torch.exp(eta))

    def predictor(self, mean: Tensor) -> Tensor:
        r"""The log rate :math:`\log(-\log(1 - \mu))`."""
        return torch.log(-torch.log1p(-mean.clamp(0, 1)))

    def log_mean(self, eta: Tensor) -> Tensor:
        r"""The log probability :math:`\log(1 - \exp(-e^\eta))`."""
        return log1m_exp_exp(eta)

    def log_odds(self, eta: Tensor) -> Tensor:
        r"""The log odds :math:`\log(e^t - 1)` of the rate :math:`t = e^\eta`."""
        return log_expm1_exp(eta)
