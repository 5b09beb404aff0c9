"""The family of Poisson counts with a normal effect in the log rate of every entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.base import Family
from pyro_expfam.families.normal_effect import log_prob, loss_derivatives
from pyro_expfam.families.poisson import Poisson
from pyro_expfam.families.positive import as_like, known_or_learnt

_POISSON = Poisson()


@dataclass(frozen=True, eq=False, repr=False)
class PoissonLogNormal(Family):
    r"""Counts 0, 1, 2, ... whose log rate varies normally from entry to entry.

    .. math:: y \sim \text{Poisson}(e^{\eta + s e}), \quad e \sim N(0, 1), \quad
              E[y] = e^{\eta + s^2 / 2}, \quad
              \operatorname{Var}[y] = E[y] + (e^{s^2} - 1) \, E[y]^2.

    The linear predictor is the median of the log rate. The effect ``e`` of every entry is
    integrated out, by quadrature to rounding. With a small scale the law is the Poisson law. Models
    of latents with this law are the Poisson log-normal models whose covariance is of low rank plus
    a diagonal.

    The loss is convex: the density of effect and count is log-concave in effect and linear
    predictor together, and so is its integral over the effect. An evaluation takes a
    few microseconds per entry by PyTorch operations, hundreds of times as long as of a Poisson
    count, and a tenth of a microsecond by the kernels for latents and evidence of large tables.

    Source: Aitchison and Ho (1989), *The multivariate Poisson-log normal distribution*; Prékopa
    (1973), *On logarithmic concave measures and functions*, for the convexity.

    Args:
        scale: the standard deviation ``s`` of the log rate, a positive number, or a tensor, an
            array, a series or a list of such numbers that broadcasts against observations, for
            instance ``(d,)`` for one per column. Gradients flow to a tensor. Without it a block
            learns one per column, and with ``"shared"`` one for all columns.

    Raises:
        TypeError: ``scale`` does not hold real numbers.
        ValueError: ``scale`` is not positive and finite.

    Example:
        >>> import torch
        >>> from pyro_expfam.families import PoissonLogNormal
        >>> family = PoissonLogNormal(scale=0.5)
        >>> eta = torch.tensor([0.0, 1.0])
        >>> family.expected_y(eta), family.variance_of_y(eta)
        (tensor([1.1331, 3.0802]), tensor([1.4978, 5.7750]))
    """

    scale: float | Tensor | str | None = None

    is_convex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", known_or_learnt("scale", self.scale))

    @property
    def support(self) -> constraints.Constraint:
        """The non-negative integers."""
        return constraints.nonnegative_integer

    def log_base_measure(self, y: Tensor) -> Tensor:
        r"""The term :math:`-\log y!`."""
        return _POISSON.log_base_measure(y)

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """The log probability of a count, computed in double precision without cancellation."""
        return log_prob(eta, y, as_like(self.scale, eta, "scale"))

    def loss(self, eta: Tensor, y: Tensor) -> Tensor:
        """Minus the log probability, up to the term that is free of ``eta``."""
        return self._derivatives(eta, y, 0)[0]

    def score(self, eta: Tensor, y: Tensor) -> Tensor:
        """Minus the derivative of :meth:`loss`: the count minus its expected rate."""
        return -self._derivatives(eta, y, 1)[0]

    def curvature(self, eta: Tensor, y: Tensor) -> Tensor:
        """The second derivative of :meth:`loss`, at most one over the squared scale."""
        return self._derivatives(eta, y, 2)[0]

    def third_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The third derivative of :meth:`loss`."""
        return self._derivatives(eta, y, 3)[0]

    def fourth_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The fourth derivative of :meth:`loss`."""
        return self._derivatives(eta, y, 4)[0]

    def score_and_curvature(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Both functions, with the quadrature done once."""
        slope, curvature = self._derivatives(eta, y, 1, 2)
        return -slope, curvature

    def loss_score_information(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All three functions, with the quadrature done once."""
        loss, slope, curvature = self._derivatives(eta, y, 0, 1, 2)
        return loss, -slope, curvature

    def parameter_scores(self, names: Sequence[str], eta: Tensor, y: Tensor) -> Tensor:
        """The derivatives of :meth:`log_prob` in the scale, by the heat equation of the density."""
        y, eta = torch.broadcast_tensors(y.double(), eta.detach().double())
        slope, curvature = self._derivatives(eta, y, 1, 2)
        of_scale = as_like(self.scale, eta, "scale").detach() * (slope.square() - curvature)
        return torch.stack([of_scale for _ in names]).detach()

    def expected_y(self, eta: Tensor) -> Tensor:
        """The mean of a count."""
        return torch.exp(eta + 0.5 * as_like(self.scale, eta, "scale").square())

    def variance_of_y(self, eta: Tensor) -> Tensor:
        """The variance of a count."""
        mean = self.expected_y(eta)
        return mean + torch.expm1(as_like(self.scale, eta, "scale").square()) * mean.square()

    def predictor(self, y: Tensor) -> Tensor:
        """The linear predictor at which ``y`` is the mean of a count."""
        return torch.log(y) - 0.5 * as_like(self.scale, y, "scale").square()

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape ``sample_shape + eta.shape``, broadcast with the scale."""
        scale = as_like(self.scale, eta.double(), "scale")
        shape = (*sample_shape, *torch.broadcast_shapes(eta.shape, scale.shape))
        effect = torch.randn(shape, dtype=scale.dtype, device=eta.device)
        return _POISSON.sample(eta.double() + scale * effect).to(eta.dtype)

    def _derivatives(self, eta: Tensor, y: Tensor, *orders: int) -> tuple[Tensor, ...]:
        return loss_derivatives(eta, y, as_like(self.scale, eta, "scale"), orders)
