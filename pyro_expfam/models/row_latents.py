"""The latents of a block's rows: their prior, and a row effect beside them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.nn import PyroSample
from torch import Tensor

from pyro_expfam.models.centred_normal import KnownLaw
from pyro_expfam.models.latent_prior import (
    LatentPrior,
    by_precision_matrix,
    by_scale,
    isotropic,
    of_distribution,
    with_row_effect,
)
from pyro_expfam.models.parameters import BlockParameters
from pyro_expfam.models.priors import Hyperparameter, checked_precision_matrix
from pyro_expfam.models.row_plate import before_rows

FLAT = 1e3
"""The standard deviation of a fixed row effect, wide enough to be flat: the mean of a row that has
an event moves by less than a millionth of the effect."""


class RowLatents(BlockParameters):
    """The part of a block that has the prior of its rows' latents, and their row effects."""

    _known_prior: KnownLaw

    def _set_latent_prior(self, precision: Hyperparameter, scale: Hyperparameter | None) -> None:
        """Sets the precision of the latents, or their standard deviations in its place."""
        by_latent = (self.latent_dim,)
        self._has_latent_scale, self._has_precision_matrix = scale is not None, False
        self._latent_scale_dim = 0
        if scale is None:
            matrix = (self.latent_dim, self.latent_dim)
            if tuple(getattr(precision, "shape", ())) == matrix:
                known = checked_precision_matrix(precision)
                self.register_buffer("latent_precision", known)
                self._has_precision_matrix = True
            else:
                self._set_hyperparameter("latent_precision", precision, [()])
            return
        if not isinstance(precision, int | float) or precision != 1.0:
            raise ValueError(
                "latent_precision must be left out where latent_scale is given, got "
                f"{precision!r} beside it"
            )
        self._latent_scale_dim = len(
            self._set_hyperparameter("latent_scale", scale, [(), by_latent])
        )
        # Nothing reads it but for its dtype and device.
        self.register_buffer("latent_precision", torch.ones(()))

    def _set_row_effect(self, kind: Any, scale: Hyperparameter) -> None:
        """Sets what each row adds to all its linear predictors.

        Raises:
            ValueError: if the kind is unknown, or the family, map or prior allows none.
        """
        if kind not in (None, "fixed", "random"):
            raise ValueError(f"row_effect must be 'random', 'fixed' or None, got {kind!r}")
        is_given = not isinstance(scale, int | float) or scale != 1.0
        if kind != "random" and is_given:
            raise ValueError(
                f"row_effect_scale must be left out without row_effect='random', got {scale!r}"
            )
        self.row_effect = kind
        if kind is None:
            return
        if self._known_family.is_coupled:
            raise ValueError(
                "row_effect must be None for categories and compositions, whose probabilities it "
                f"would not change, got {kind!r} under {self._known_family}"
            )
        if self.linear_map is not None or self._has_precision_matrix:
            raise ValueError(
                f"row_effect must be None under a linear_map or a precision matrix, got {kind!r}"
            )
        if isinstance(scale, PyroSample):
            raise ValueError("row_effect_scale must be a number or a PyroParam, got a PyroSample")
        self._set_hyperparameter("row_effect_scale", FLAT if kind == "fixed" else scale, [()])

    @property
    def has_isotropic_latents(self) -> bool:
        """Whether all numbers of a row are latents of one precision, ``latent_precision``."""
        return self.has_one_precision and self.row_effect is None

    @property
    def reads_loading_and_intercept_alone(self) -> bool:
        """Whether nothing else that is learnt or sampled says which problem the latents solve."""
        prior = self._buffers.get("latent_precision")
        others = self._learnt_of_family or self.num_covariates
        return prior is not None and self.has_isotropic_latents and not others

    @property
    def has_one_precision(self) -> bool:
        """Whether the prior of the latents is normal with one precision, beside a row effect."""
        own = "z" in self._pyro_samples
        return not (own or self._has_latent_scale or self._has_precision_matrix)

    @property
    def has_rotations_beside_effect(self) -> bool:
        """Whether the latents may be rotated beside a row effect, which may not."""
        return self.row_effect is not None and self.has_one_precision

    @property
    def learns_row_effect(self) -> bool:
        """Whether the standard deviation of row effects is learnt."""
        return self.row_effect is not None and "row_effect_scale" in self._pyro_params

    @property
    def site_dim(self) -> int:
        """The numbers of a row at the site ``z``: its latents, and its row effect if it has one."""
        return self.latent_dim + (self.row_effect is not None)

    @property
    def _latent_dim_name(self) -> str:
        """The dimension of the site of the latents: a row effect makes it longer than a loading."""
        return "latent" if self.row_effect is None else "latent_or_row_effect"

    def _latent_prior(self, loc: Tensor | None, like: Tensor) -> LatentPrior:
        """The prior of the latents under the present values of its parameters."""
        if "z" in self._pyro_samples:
            return self.latent_prior(like, loc, like)
        known = self._buffers.get("latent_precision")
        if loc is None and known is not None and self.has_isotropic_latents:
            found: LatentPrior = self._known_prior.of(
                known, partial(isotropic, loc=None, latent_dim=self.latent_dim)
            )
            return found
        name = "latent_scale" if self._has_latent_scale else "latent_precision"
        with poutine.infer_config(config_fn=self._infer_config):
            value = getattr(self, name)
        return self.latent_prior(value, loc, like)

    def latent_prior(self, value: Tensor, loc: Tensor | None, like: Tensor) -> LatentPrior:
        """The prior of the latents.

        Args:
            value: the value of ``latent_precision`` or ``latent_scale``, whichever the block has.
            loc: the prior means, ``(..., N or 1, l)``, or None for zero.
            like: a tensor of the dtype and device wanted.
        """
        own: Any = self._pyro_samples.get("z")
        if own is not None and self.row_effect is not None:
            raise ValueError("z must have no prior of its own beside a row_effect, got both")
        if own is not None:
            if loc is not None:
                raise ValueError(
                    "latent_loc must be left out where z has a prior of its own, got both: write "
                    "the means into the prior"
                )
            law = own if hasattr(own, "event_shape") else own(self)
            return of_distribution(law, self.latent_dim, like)
        if self._has_precision_matrix:
            return by_precision_matrix(before_rows(value, 2), loc)
        if self.row_effect is not None:
            scale = before_rows(value, self._latent_scale_dim)
            scale = scale if self._has_latent_scale else scale.rsqrt()
            return with_row_effect(scale, self.row_effect_scale, loc, self.latent_dim)
        if self._latent_scale_dim:
            return by_scale(before_rows(value, 1), loc, self.latent_dim)
        value = before_rows(value, 0)
        precision = value.pow(-2) if self._has_latent_scale else value
        return isotropic(precision, loc, self.latent_dim)
