"""Families whose linear predictor is the log of their mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pyro_expfam.families.bregman import bregman_divergence
from pyro_expfam.families.linked import Linkable
from pyro_expfam.links import Link, Log


@dataclass(frozen=True, eq=False, repr=False)
class LogMeanFamily(Linkable):
    """A family with the mean ``exp(eta)``, whose loss is convex with self-concordance 1."""

    self_concordance: ClassVar[float] = 1.0
    is_convex: ClassVar[bool] = True

    @property
    def own_link(self) -> Link:
        """The logarithm."""
        return Log()

    def under_link(self, link: Link, eta: Tensor) -> Tensor:
        """The log of the mean of the link."""
        return link.log_mean(eta)

    def expected_y(self, eta: Tensor) -> Tensor:
        """The mean, the exponential of the linear predictor."""
        return torch.exp(eta)

    def bregman_divergence(self, y: Tensor, mean: Tensor) -> Tensor:
        """Half the deviance of an observation from a mean."""
        return 0.5 * self.deviance(y, mean.double().log()).to(mean.dtype)

    def predictor(self, y: Tensor) -> Tensor:
        """The log of a mean, at least 0."""
        return torch.log(y)

    def kl_divergence(self, eta: Tensor, other: Tensor) -> Tensor:
        """The divergence of the law at ``eta`` from the law at ``other``.

        The loss is affine in the observation, so its expectation is the loss of the mean, which is
        smallest at ``eta``.
        """
        mean = torch.exp(eta)
        return bregman_divergence(
            lambda x: self.loss(x, mean),
            torch.zeros_like,
            lambda x: self.curvature(x, mean),
            eta,
            other,
        )
