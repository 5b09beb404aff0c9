"""The prior of a block's latents: normal where it can be, or a distribution of the user's own."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_expfam.deq.observations import as_tensor
from pyro_expfam.models.centred_normal import CentredNormal


class LatentPrior(NamedTuple):
    r"""The prior of the latents of rows.

    Attributes:
        law: the distribution of a row's latents, of event dimension 1.
        precision: the number :math:`\lambda` of the precision matrix :math:`\lambda F F^\top`.
        factor: the lower triangular matrix ``F``, or None for the identity.
        loc: the mean, ``(..., N or 1, l)``, or None for zero.
        is_normal: whether the law is the normal of these numbers. Where it is not, the numbers are
            of a normal with unit precision about zero.
    """

    law: Any
    precision: Tensor
    factor: Tensor | None
    loc: Tensor | None
    is_normal: bool = True

    def log_ratio(self, z: Tensor) -> Tensor:
        """The log density of latents relative to a standard normal, ``(..., N)``."""
        constant = 0.5 * z.shape[-1] * math.log(2 * math.pi)
        found: Tensor = self.law.log_prob(z) + 0.5 * z.square().sum(-1) + constant
        return found


def isotropic(precision: Tensor, loc: Tensor | None, latent_dim: int) -> LatentPrior:
    """The normal prior with one precision for all latents, a number or ``(...)``."""
    scale = precision.rsqrt()[..., None, None]
    return LatentPrior(_independent(scale, loc, latent_dim), precision, None, loc)


def by_scale(scale: Tensor, loc: Tensor | None, latent_dim: int) -> LatentPrior:
    """The normal prior with a standard deviation per latent, ``(..., l)``."""
    one = torch.ones_like(scale[..., 0])
    law = _independent(scale.unsqueeze(-2), loc, latent_dim)
    return LatentPrior(law, one, torch.diag_embed(scale.reciprocal()), loc)


def with_row_effect(
    scale: Tensor, effect_scale: Tensor, loc: Tensor | None, latent_dim: int
) -> LatentPrior:
    """The normal prior of latents and a row effect about zero, which stands last.

    Args:
        scale: the standard deviation of the latents, one or one per latent, ``(l,)``.
        effect_scale: the standard deviation of the row effect, ``()``.
        loc: the mean of the latents, ``(..., N or 1, l)``, or None for zero.
        latent_dim: the number of latents ``l``.
    """
    if scale.dim() == 0 or scale.shape[-1] != latent_dim:
        scale = scale.unsqueeze(-1)
    scale = scale.expand(*scale.shape[:-1], latent_dim)
    last = effect_scale.to(scale).expand(*scale.shape[:-1], 1)
    if loc is not None:
        loc = torch.nn.functional.pad(loc, (0, 1))
    return by_scale(torch.cat([scale, last], -1), loc, latent_dim + 1)


def by_precision_matrix(precision: Tensor, loc: Tensor | None) -> LatentPrior:
    """The normal prior with a precision matrix, ``(..., l, l)``."""
    factor = torch.linalg.cholesky(precision)
    mean = precision.new_zeros(1, precision.shape[-1]) if loc is None else loc
    law = dist.MultivariateNormal(
        mean, precision_matrix=precision.unsqueeze(-3), validate_args=False
    )
    return LatentPrior(law, torch.ones_like(precision[..., 0, 0]), factor, loc)


def of_distribution(law: Any, latent_dim: int, like: Tensor) -> LatentPrior:
    """A prior by a distribution of the latents of a row.

    Raises:
        ValueError: if the event shape is not ``(l,)``.
    """
    if law.event_shape != (latent_dim,):
        raise ValueError(
            f"z must have a prior of event shape {(latent_dim,)}, the latents of a row, got batch "
            f"shape {tuple(law.batch_shape)} and event shape {tuple(law.event_shape)}"
        )
    base = law.base_dist if isinstance(law, dist.Independent) else law
    while isinstance(base, dist.Independent):
        base = base.base_dist
    if type(base) is dist.Normal:
        return _of_normal(law, base.loc.to(like), base.scale.to(like))
    if type(base) is dist.MultivariateNormal and base is law:
        return _of_multivariate_normal(law, like)
    one = torch.ones((), dtype=like.dtype, device=like.device)
    return LatentPrior(law, one, None, None, is_normal=False)


def check_loc(loc: Any, num_rows: int | None, latent_dim: int, like: Tensor) -> Tensor | None:
    """Checked prior means of latents, with dimensions for rows and latents, or None.

    Raises:
        ValueError: if the shape does not fit, or a number is not finite.
    """
    if loc is None:
        return None
    given = as_tensor("latent_loc", loc, like)
    loc = given if given.dim() >= 2 else given.expand(1, given.shape[-1] if given.dim() else 1)
    fits = loc.shape[-1] in (1, latent_dim) and (num_rows is None or loc.shape[-2] in (1, num_rows))
    if not fits:
        rows = "rows" if num_rows is None else num_rows
        raise ValueError(
            f"latent_loc must broadcast to ({rows}, {latent_dim}), the latents of the rows, got "
            f"shape {tuple(given.shape)}"
        )
    if not torch._C._are_functorch_transforms_active() and not bool(loc.isfinite().all()):
        raise ValueError("latent_loc must be finite, got NaN or infinity")
    return loc.expand(*loc.shape[:-1], latent_dim)


def _independent(scale: Tensor, loc: Tensor | None, latent_dim: int) -> Any:
    # Scales were checked when they were set. Pyro would check them again at every step.
    law = CentredNormal(scale) if loc is None else dist.Normal(loc, scale, validate_args=False)
    return law.expand((*law.batch_shape[:-1], latent_dim)).to_event(1)


def _of_normal(law: Any, loc: Tensor, scale: Tensor) -> LatentPrior:
    shape = law.batch_shape + law.event_shape
    scale, loc = _with_rows(scale.expand(shape)), _with_rows(loc.expand(shape))
    if not _is_shared(scale):
        return LatentPrior(law, torch.ones_like(scale[..., 0, 0]), None, None, is_normal=False)
    shared = scale[..., 0, :]
    return LatentPrior(
        law, torch.ones_like(shared[..., 0]), torch.diag_embed(shared.reciprocal()), loc
    )


def _of_multivariate_normal(law: Any, like: Tensor) -> LatentPrior:
    precision, loc = law.precision_matrix.to(like), _with_rows(law.loc.to(like))
    if precision.dim() > 2:
        if not bool((precision == precision[..., :1, :, :]).all()):
            one = torch.ones_like(precision[..., 0, 0, 0])
            return LatentPrior(law, one, None, None, is_normal=False)
        precision = precision[..., 0, :, :]
    factor = torch.linalg.cholesky(precision)
    return LatentPrior(law, torch.ones_like(precision[..., 0, 0]), factor, loc)


def _with_rows(x: Tensor) -> Tensor:
    return x if x.dim() > 1 else x.unsqueeze(0)


def _is_shared(scale: Tensor) -> bool:
    """Whether all rows have the same standard deviations."""
    return scale.shape[-2] == 1 or bool((scale == scale[..., :1, :]).all())
