"""Coefficients of a table whose rows have effects: what is known of them, and what is not."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pyro_expfam.coefficients.parameter_posterior import ParameterPosterior
from pyro_expfam.coefficients.posterior import CoefficientPosterior
from pyro_expfam.deq.problem import LatentProblem


def in_one_precision(problem: LatentProblem) -> LatentProblem:
    r"""The same problem in units of a row effect in which it has the precision of the latents.

    The last latent is the effect, with a loading of one and a prior precision of its own. In the
    new units its loading is :math:`\tau \sqrt\lambda`, with its prior standard deviation
    :math:`\tau` and the precision :math:`\lambda` of all other latents.

    Args:
        problem: a problem whose prior has a diagonal factor.
    """
    if problem.precision_factor is None:
        return problem
    roots = problem.precision_factor.diagonal(dim1=-2, dim2=-1)
    return replace(
        problem,
        map=problem.map.of_whitened(torch.diag_embed(roots / roots[..., :1])).dense(),
        precision=problem.precision * roots[..., 0].square(),
        precision_factor=None,
    )


def with_effect_column(of_coefficients: Tensor, latent_dim: int) -> Tensor:
    """Numbers ``(..., l + 1 + p)`` of coefficients, with a zero for the loading of an effect."""
    zero = torch.zeros_like(of_coefficients[..., :1])
    parts = [of_coefficients[..., :latent_dim], zero, of_coefficients[..., latent_dim:]]
    return torch.cat(parts, -1)


def without_effect_column(posterior: CoefficientPosterior, latent_dim: int) -> CoefficientPosterior:
    """The same posterior of loading, intercept and covariates, without the known loading.

    Args:
        posterior: the posterior of coefficients ``(d, l + 2 + p)``.
        latent_dim: the number of latents ``l`` beside the effect.
    """
    kept = _kept(posterior.mode.shape[1], latent_dim, posterior.mode)
    every = kept.repeat(len(posterior.mode))
    of_columns = posterior.factor.dim() == 3
    factor = posterior.factor[:, kept] if of_columns else posterior.factor[every]
    return replace(
        posterior,
        mode=posterior.mode[:, kept],
        mean=posterior.mean[:, kept],
        factor=factor,
        rotations=posterior.rotations[every],
    )


def parameters_without_effect(
    posterior: ParameterPosterior, num_predictors: int, latent_dim: int
) -> ParameterPosterior:
    """The same posterior of learnt parameters, beside coefficients without the known loading.

    Args:
        posterior: the posterior, beside coefficients ``(d, l + 2 + p)``.
        num_predictors: linear predictors ``d``.
        latent_dim: the number of latents ``l`` beside the effect.
    """
    slope = posterior.slope
    kept = _kept(len(slope) // num_predictors, latent_dim, slope)
    return replace(posterior, slope=slope[kept.repeat(num_predictors)])


def _kept(size: int, place: int, like: Tensor) -> Tensor:
    """All coefficients but one, booleans."""
    return torch.arange(size, device=like.device) != place
