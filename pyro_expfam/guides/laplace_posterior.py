"""The normal distribution of latents by mean and Cholesky factor of the precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import Delta, TorchDistribution, constraints
from torch import Tensor
from torch.distributions import Independent, Normal, register_kl

from pyro_expfam.deq.positive_definite import inverse_lower, solve_upper


class LaplacePosterior(TorchDistribution):
    r"""A multivariate normal :math:`N(\mu, (L L^\top)^{-1})` that never forms its covariance.

    Draws, densities and entropies take one triangular solve a row.

    Args:
        loc: mean, ``(..., l)``.
        precision_factor: lower Cholesky factor ``L`` of the precision, ``(..., l, l)``.
        validate_args: as in every Pyro distribution.

    Example:
        >>> import torch
        >>> from pyro_expfam.guides import LaplacePosterior
        >>> posterior = LaplacePosterior(torch.zeros(2), torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        >>> posterior.variance
        tensor([0.2500, 1.0000])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real_vector,
        "precision_factor": constraints.lower_cholesky,
    }
    support = constraints.real_vector
    has_rsample = True

    method = "exact"
    """How draws and the log determinant are found: by the Cholesky factor."""

    def __init__(
        self, loc: Tensor, precision_factor: Tensor, validate_args: bool | None = None
    ) -> None:
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], precision_factor.shape[:-2])
        event_shape = loc.shape[-1:]
        self.loc = loc.expand(batch_shape + event_shape)
        self.precision_factor = precision_factor.expand(batch_shape + event_shape + event_shape)
        super().__init__(batch_shape, event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LaplacePosterior:
        """The same distribution with a larger batch."""
        new = self._get_checked_instance(LaplacePosterior, _instance)
        batch_shape = torch.Size(batch_shape)
        new.loc = self.loc.expand(batch_shape + self.event_shape)
        new.precision_factor = self.precision_factor.expand(
            batch_shape + self.event_shape + self.event_shape
        )
        super(LaplacePosterior, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @classmethod
    def infer_shapes(cls, **arg_shapes: Any) -> tuple[torch.Size, torch.Size]:
        """Batch and event shape from the shapes of the arguments."""
        loc, factor = arg_shapes["loc"], arg_shapes["precision_factor"]
        return torch.broadcast_shapes(loc[:-1], factor[:-2]), torch.Size(loc[-1:])

    @property
    def mean(self) -> Tensor:
        """The mean, ``(..., l)``."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """The mode, which is the mean."""
        return self.loc

    @property
    def precision_matrix(self) -> Tensor:
        """The precision, ``(..., l, l)``."""
        return self.precision_factor @ self.precision_factor.mT

    @property
    def covariance_matrix(self) -> Tensor:
        """The covariance, ``(..., l, l)``."""
        inverse = inverse_lower(self.precision_factor)
        return inverse.mT @ inverse

    @property
    def variance(self) -> Tensor:
        """The marginal variances, ``(..., l)``."""
        return inverse_lower(self.precision_factor).square().sum(-2)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Differentiable draws, ``sample_shape + (..., l)``."""
        shape = self._extended_shape(sample_shape)
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + solve_upper(self.precision_factor, noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of ``value`` ``(..., l)``."""
        if self._validate_args:
            self._validate_sample(value)
        whitened = ((value - self.loc).unsqueeze(-2) @ self.precision_factor).squeeze(-2)
        constant = self.event_shape[0] * math.log(2 * math.pi)
        return 0.5 * (self._log_det_precision() - constant - whitened.square().sum(-1))

    def entropy(self) -> Tensor:
        """The entropy, ``(...)``."""
        return 0.5 * (self.event_shape[0] * (1 + math.log(2 * math.pi)) - self._log_det_precision())

    def _log_det_precision(self) -> Tensor:
        return 2 * self.precision_factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


@register_kl(LaplacePosterior, Independent)
def _kl_laplace_independent(p: LaplacePosterior, q: Independent) -> Tensor:
    """The divergence from independent normals, such as the prior of latents."""
    prior = q.base_dist
    if q.reinterpreted_batch_ndims != 1 or not isinstance(prior, Normal):
        raise NotImplementedError
    scaled = (p.variance + (p.loc - prior.loc).square()) / prior.variance
    log_det_prior = prior.variance.log().sum(-1)
    return 0.5 * ((scaled - 1).sum(-1) + log_det_prior + p._log_det_precision())


@register_kl(LaplacePosterior, LaplacePosterior)
def _kl_laplace_laplace(p: LaplacePosterior, q: LaplacePosterior) -> Tensor:
    ratio = q.precision_factor.mT @ inverse_lower(p.precision_factor).mT
    shift = ((q.loc - p.loc).unsqueeze(-2) @ q.precision_factor).squeeze(-2)
    log_det = p._log_det_precision() - q._log_det_precision()
    quadratic = ratio.square().sum((-2, -1)) + shift.square().sum(-1)
    return 0.5 * (quadratic - p.event_shape[0] + log_det)


def joined(posteriors: Sequence[TorchDistribution]) -> TorchDistribution:
    """The distributions of the latents of some rows after others, as one.

    Args:
        posteriors: Laplace posteriors, or point masses, all of one kind.

    Raises:
        TypeError: if they have neither form.
    """
    first = posteriors[0]
    if isinstance(first, LaplacePosterior):
        parts: Any = posteriors
        return LaplacePosterior(
            torch.cat([part.loc for part in parts]),
            torch.cat([part.precision_factor for part in parts]),
        )
    if isinstance(first, Delta):
        return Delta(torch.cat([part.mean for part in posteriors]), event_dim=1)
    raise TypeError(f"y must be dense for a {type(first).__name__}, got a sparse one")
