"""The Gaussian family, with a scale that is known or to be learnt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.exponential import ExponentialFamily
from pyro_expfam.families.linked import Linkable
from pyro_expfam.families.positive import as_parameter
from pyro_expfam.links import Identity, Link

PER_COLUMN = "per column"
"""The argument for a scale to be learnt per column."""


@dataclass(frozen=True, eq=False, repr=False)
class Gaussian(Linkable, ExponentialFamily):
    r"""Real observations of scale ``s``: :math:`y \sim N(s \eta, s^2)`.

    .. math:: T(y) = y / s, \quad A(\eta) = \eta^2 / 2, \quad
              h(y) = e^{-y^2 / 2 s^2} / (s \sqrt{2 \pi}).

    The activation is the identity, so the natural parameter is the mean in units of the scale. So
    is an offset: under the scale ``s`` an offset ``o`` adds ``s * o`` to the mean. Under a scale to
    be learnt, subtract a known mean from ``y`` in place of an offset.

    ``Gaussian()`` has one scale for the whole table, which is learnt, as in probabilistic PCA.
    ``Gaussian("per column")`` has a learnt scale per column, as in factor analysis. In a block,
    :class:`~pyro_expfam.ExpFamPCA`, the scale is a parameter ``family_scale`` that ``guide.fit``
    and SVI train. :func:`~pyro_expfam.compare_latent_dims` learns it for each number of latents.
    Functions that learn nothing, such as :func:`~pyro_expfam.solve_latents` or :meth:`log_prob`,
    need a given scale.

    Source: Table 1 of Tsuchida and Ong; Tipping and Bishop (1999) for one scale that is learnt.

    Args:
        scale: standard deviation of an observation, in units of ``y``: a number, or a tensor
            that broadcasts against observations, for instance ``(d,)`` for one per feature.
            Gradients flow to a tensor. None learns one scale, ``"per column"`` one per column.
        link: how the mean, in units of ``y``, follows from the linear predictor. Without a link the
            linear predictor is the mean in units of the scale.
            :class:`~pyro_expfam.links.Identity` makes it the mean in units of ``y``; under the
            scale 1 this is the same.

    Raises:
        TypeError: ``scale`` is no real number, and holds none.
        ValueError: ``scale`` is not positive and finite. Methods that need the scale raise it if
            the scale is still to be learnt.

    Example:
        >>> import torch
        >>> family = Gaussian(2.0)
        >>> family.sufficient_statistic(torch.tensor([3.0]))
        tensor([1.5000])
        >>> family.mean(torch.tensor([1.5]))
        tensor([1.5000])
    """

    scale: float | Tensor | str | None = None

    self_concordance: ClassVar[float] = 0.0
    unit_parameters: ClassVar[frozenset[str]] = frozenset({"scale"})
    parameters_in_units: ClassVar[frozenset[str]] = frozenset({"scale"})

    weak_loading_scale: ClassVar[float] = 1_000.0
    r"""The scale is wide, since the loading is in units of the noise, which may be small.

    A loading of :math:`w` units costs :math:`w^2 / (2 \tau^2)` nats under the scale :math:`\tau`.
    A learnt scale of the noise grows by about :math:`l w^2 / (N \tau^2)` of itself to bring this
    cost down. Under :math:`\tau = 1000` this is a small part for noise down to a thousandth of what
    latents explain. A fit warns of smaller noise.
    """

    weak_intercept_scale: ClassVar[float] = 1e10
    r"""The scale is wide, since the natural parameter is a mean in units of the noise, which may be
    far from zero.

    A mean :math:`m` units from zero costs :math:`m^2 / (2 \rho^2)` nats under the scale
    :math:`\rho`. For a learnt scale of the noise this cost must stay below one nat, or the noise
    would grow to bring the mean closer to zero. It does for means of up to 10 billion units, such
    as times in seconds. Take ``model.double()`` for a mean beyond 100,000 units: single precision
    does not resolve the noise beside it.
    """

    def __post_init__(self, link: Link | None) -> None:
        del link
        wanted = (
            "a positive finite number or a tensor of such numbers, None to learn one or "
            f"{PER_COLUMN!r} to learn one per column"
        )
        scale = as_parameter("scale", self.scale)
        object.__setattr__(self, "scale", scale)
        if scale is None or (isinstance(scale, str) and scale == PER_COLUMN):
            return
        if isinstance(scale, Tensor):
            if not (scale.is_floating_point() and bool(((scale > 0) & scale.isfinite()).all())):
                raise ValueError(f"scale is {scale}, but should be {wanted}")
            return
        if isinstance(scale, bool) or not hasattr(scale, "__float__"):
            raise TypeError(f"scale is {scale!r}, but should be {wanted}")
        object.__setattr__(self, "scale", float(scale))
        if not 0 < float(scale) < math.inf:
            raise ValueError(f"scale is {scale!r}, but should be {wanted}")

    def to_learn(self, num_features: int) -> dict[str, Tensor]:
        """The starting value of the scale, ``()`` or ``(d,)``, unless the scale is known."""
        if self.scale is None:
            return {"scale": torch.ones(())}
        return {"scale": torch.ones(num_features)} if isinstance(self.scale, str) else {}

    def starts_from(self, y: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """The standard deviations of the columns."""
        if self.scale is not None and not isinstance(self.scale, str):
            return {}
        count = weights.sum(0).clamp(min=1)
        mean = (weights * y).sum(0) / count
        variance = (weights * (y - mean).square()).sum(0) / count
        # A constant column has no scale of its own.
        return {"scale": torch.where(variance > 0, variance, 1.0).sqrt()}

    @property
    def predictor_unit(self) -> Tensor:
        """The scale: the linear predictor is a mean in units of the noise."""
        return torch.as_tensor(self.scale).detach()

    @property
    def support(self) -> constraints.Constraint:
        """The real numbers."""
        return constraints.real

    def sufficient_statistic(self, y: Tensor) -> Tensor:
        """The observation in units of the scale."""
        return y / self._scale(y)

    def observation(self, statistic: Tensor) -> Tensor:
        """The observation, from its value in units of the scale."""
        return statistic * self._scale(statistic)

    def log_base_measure(self, y: Tensor) -> Tensor:
        r"""The log density of :math:`N(0, s^2)`."""
        return -0.5 * self.sufficient_statistic(y).square() - self._log_normaliser(y)

    def expected_log_base_measure(self, eta: Tensor) -> Tensor:
        r"""The expectation :math:`-(1 + \eta^2) / 2 - \log s \sqrt{2 \pi}`."""
        return -0.5 * (1 + eta.square()) - self._log_normaliser(eta)

    def log_partition(self, eta: Tensor) -> Tensor:
        r"""The log-partition :math:`\eta^2 / 2`."""
        return 0.5 * eta.square()

    def mean(self, eta: Tensor) -> Tensor:
        """The mean in units of the scale: ``eta`` itself."""
        return eta

    def variance(self, eta: Tensor) -> Tensor:
        """The variance in units of the squared scale: 1."""
        return _constant(eta, 1.0)

    def third_cumulant(self, eta: Tensor) -> Tensor:
        """The third cumulant: 0."""
        return _constant(eta, 0.0)

    def fourth_cumulant(self, eta: Tensor) -> Tensor:
        """The fourth cumulant: 0."""
        return _constant(eta, 0.0)

    def natural_param(self, mean: Tensor) -> Tensor:
        """The natural parameter, which is the mean."""
        return mean

    def convex_conjugate(self, mean: Tensor) -> Tensor:
        r"""The convex conjugate :math:`\mu^2 / 2`, of means in units of the scale."""
        return 0.5 * mean.square()

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape ``sample_shape + eta.shape``, broadcast with the scale."""
        shape = torch.broadcast_shapes(eta.shape, self._scale(eta).shape)
        noise = torch.randn((*sample_shape, *shape), dtype=eta.dtype, device=eta.device)
        return self.observation(eta + noise)

    @property
    def own_link(self) -> Link | None:
        """The identity under the scale 1, otherwise None."""
        return Identity() if isinstance(self.scale, float) and self.scale == 1 else None

    def under_link(self, link: Link, eta: Tensor) -> Tensor:
        """The mean of the link in units of the scale."""
        return link.mean(eta) / self._scale(eta)

    def self_concordance_under(self, link: Link) -> float | None:
        """0 for the identity."""
        return 0.0 if isinstance(link, Identity) else None

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        r"""The log density of :math:`N(s \eta, s^2)`, computed from the squared residual."""
        return -0.5 * (self.sufficient_statistic(y) - eta).square() - self._log_normaliser(eta)

    def entropy(self, eta: Tensor) -> Tensor:
        r"""The entropy :math:`\tfrac12 \log 2 \pi e s^2` in nats."""
        return 0.5 + self._log_normaliser(eta) + _constant(eta, 0.0)

    def kl_divergence(self, eta: Tensor, other: Tensor) -> Tensor:
        """Half the squared difference of the natural parameters."""
        return 0.5 * (other - eta).square()

    def _scale(self, like: Tensor) -> Tensor:
        self.check_known()
        return torch.as_tensor(self.scale, dtype=like.dtype, device=like.device)

    def _log_normaliser(self, like: Tensor) -> Tensor:
        return self._scale(like).log() + 0.5 * math.log(2 * math.pi)


def _constant(eta: Tensor, value: float) -> Tensor:
    # The constant stays on the graph, so that differentiating it gives zero instead of an error.
    return torch.where(torch.ones_like(eta, dtype=torch.bool), value, eta)
