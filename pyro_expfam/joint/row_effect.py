"""A number per row that is added to all of its linear predictors, as one more latent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowEffect:
    r"""A row effect in units in which it has the precision of the latents.

    An effect :math:`r_s \sim N(0, \tau^2)` beside latents of precision :math:`\lambda` is
    :math:`c u_s`, where :math:`u_s \sim N(0, \lambda^{-1})` is the last latent of the row and
    :math:`c = \tau \sqrt\lambda` its loading in every column.

    Attributes:
        common_loading: :math:`c`, where it is known or where its fit starts.
        is_learnt: whether the fit moves :math:`c`, the same number in all columns.
    """

    common_loading: float
    is_learnt: bool = False

    @classmethod
    def of(cls, scale: Tensor, latent_precision: Tensor, is_learnt: bool) -> RowEffect:
        r"""The effect of standard deviation :math:`\tau` beside latents of a precision."""
        return cls(float(scale.double() * latent_precision.double().sqrt()), is_learnt)

    def beside(self, coefficients: Tensor, latent_dim: int) -> Tensor:
        """Coefficients ``(d, l + 1 + p)`` with the loading of the effect after ``l`` latents."""
        own = coefficients.new_full((len(coefficients), 1), self.common_loading)
        return torch.cat([coefficients[:, :latent_dim], own, coefficients[:, latent_dim:]], 1)

    def start(self, loading: Tensor) -> Tensor:
        """A loading ``(d, l + 1)`` to start from, given one without regard to the effect.

        The effect takes what is common to all columns, and the latents the largest components of
        the rest.
        """
        size = loading.shape[1]
        centred = loading - loading.mean(0)
        left, values, _ = torch.linalg.svd(centred, full_matrices=False)
        kept = min(size - 1, len(values))
        found = torch.full_like(loading, self.common_loading)
        found[:, :-1] = 0.0
        found[:, :kept] = left[:, :kept] * values[:kept]
        return found
