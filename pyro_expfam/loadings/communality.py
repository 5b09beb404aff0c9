"""How much of each column the latents explain, under the fitted model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.guides import BlockGuide
from pyro_expfam.loadings.column_names import trained_block

NODES = 61


@torch.no_grad()
def communalities(guide: BlockGuide) -> Tensor:
    r"""The part of the variance of each column that the latents explain, ``(d,)``.

    It is :math:`\operatorname{Var}(E[y \mid z]) / \operatorname{Var}(y)` over rows that are drawn
    from the fitted model without offset or covariates. The linear predictor of a column is then
    normal around its intercept, and the moments are integrals over it by Gauss-Hermite quadrature.
    For a Gaussian table it is the communality of factor analysis, :math:`h^2 / (h^2 + \psi)`.

    Args:
        guide: a fitted guide of a single block whose latents have one precision.

    Raises:
        TypeError: if ``guide`` is no guide of this package.
        ValueError: if its model is no such block or has covariates, the guide has not been trained,
            or its family has categories or compositions.

    Source: Nakagawa and Schielzeth (2013), *A general and simple method for obtaining R² from
    generalized linear mixed-effects models*, on the scale of the observations.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.randn(100, 1) @ torch.ones(1, 4) + torch.randn(100, 4)
        >>> guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Gaussian(1.0), 4, latent_dim=1))
        >>> _ = guide.fit(y)
        >>> h = guide.loading[:, 0] ** 2
        >>> torch.allclose(pef.communalities(guide), (h / (h + 1)).double())
        True
    """
    block = trained_block(guide)
    family = block.family
    if family.is_coupled:
        raise ValueError(
            "guide must have one linear predictor per column, whose law depends on no other, got "
            f"{family}"
        )
    if block.num_covariates:
        raise ValueError(
            "guide must be of a block without covariates, whose rows are drawn from the fitted "
            f"model, got num_covariates={block.num_covariates}"
        )
    if not block.has_isotropic_latents:
        raise ValueError("guide must be of a block whose latents have one precision")
    scale = guide.loading.double().norm(dim=1) / guide.block().latent_precision.double().sqrt()
    at, weights = map(torch.as_tensor, np.polynomial.hermite_e.hermegauss(NODES))
    weights, at = weights / weights.sum(), at[:, None]
    eta = guide.intercept.double() + scale * at
    means, variances = family.expected_y(eta), family.variance_of_y(eta)
    mean = weights @ means
    between = weights @ (means - mean).square()
    return between / (between + weights @ variances)
