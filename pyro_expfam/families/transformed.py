"""Laws of observations of which a function follows another family."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from pyro_expfam.families.base import Family
from pyro_expfam.families.canonical_form import CanonicalForm
from pyro_expfam.families.entries import Entries


class Transformed(Family):
    r"""The law of ``y`` for which :math:`t = g(y)` follows the family :attr:`base`.

    The loss of ``y`` in the linear predictor is the loss of ``t``. So the layer takes the kernels
    and the certificate of the family of ``t``. The density alone has a factor, :math:`g'(y)`.

    To write one, override :attr:`base`, :meth:`transform`, :meth:`inverse`, :meth:`log_slope`, and
    the moments of an observation.
    """

    @property
    @abstractmethod
    def base(self) -> Family:
        """The family of the transformed observations."""

    @abstractmethod
    def transform(self, y: Tensor) -> Tensor:
        """The increasing function ``g``."""

    @abstractmethod
    def inverse(self, transformed: Tensor) -> Tensor:
        """The inverse of :meth:`transform`."""

    @abstractmethod
    def log_slope(self, y: Tensor) -> Tensor:
        """The log of the derivative of :meth:`transform`."""

    def loss(self, eta: Tensor, y: Tensor) -> Tensor:
        """The loss of the transformed observation."""
        return self.base.loss(eta, self.transform(y))

    def score(self, eta: Tensor, y: Tensor) -> Tensor:
        """Minus the derivative of :meth:`loss`."""
        return self.base.score(eta, self.transform(y))

    def curvature(self, eta: Tensor, y: Tensor) -> Tensor:
        """The second derivative of :meth:`loss`."""
        return self.base.curvature(eta, self.transform(y))

    def information(self, eta: Tensor, y: Tensor) -> Tensor:
        """The information of the transformed observation."""
        return self.base.information(eta, self.transform(y))

    def third_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The third derivative of :meth:`loss`."""
        return self.base.third_derivative(eta, self.transform(y))

    def fourth_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The fourth derivative of :meth:`loss`."""
        return self.base.fourth_derivative(eta, self.transform(y))

    def score_and_curvature(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Both functions, with shared computations done once."""
        return self.base.score_and_curvature(eta, self.transform(y))

    def entries(self, y: Tensor) -> Entries:
        """The transformed observations as functions of their linear predictors."""
        return self.base.entries(self.transform(y))

    def canonical_form(self, y: Tensor) -> CanonicalForm | None:
        """The canonical form of the transformed observations."""
        return self.base.canonical_form(self.transform(y))

    def log_base_measure(self, y: Tensor) -> Tensor:
        """The terms of the log density that are free of ``eta``."""
        return self.base.log_base_measure(self.transform(y)) + self.log_slope(y)

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """The log density of ``y``."""
        return self.base.log_prob(self.transform(y), eta) + self.log_slope(y)

    def kl_divergence(self, eta: Tensor, other: Tensor) -> Tensor:
        """The divergence of the laws of the transformed observations, which is the same."""
        return self.base.kl_divergence(eta, other)

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape ``sample_shape + eta.shape``, broadcast with the parameters."""
        return self.inverse(self.base.sample(eta, sample_shape))
