"""How much of each column latents, covariates and row effects explain, under the fitted model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.covariates import as_covariates
from pyro_expfam.deq.row_block import tiles
from pyro_expfam.guides import BlockGuide
from pyro_expfam.loadings.column_names import column_names, trained_block
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.table_labels import label_index

NODES = 61


@dataclass(frozen=True, eq=False)
class VarianceShares:
    """The parts of the variance of each column; printed, they are a table.

    Attributes:
        names: the names of the columns.
        latents: the part that latents explain, ``(d,)``.
        covariates: the part that covariates explain, ``(d,)``; zero without any.
        row_effects: the part that random row effects explain, ``(d,)``; zero without any.
    """

    names: list[Any]
    latents: Tensor
    covariates: Tensor
    row_effects: Tensor

    @property
    def rest(self) -> Tensor:
        """The part that an observation varies by around its mean, ``(d,)``."""
        return 1 - self.latents - self.covariates - self.row_effects

    @property
    def table(self) -> Any:
        """The parts by column as a data frame."""
        import pandas as pd

        names = ("latents", "covariates", "row_effects", "rest")
        columns = {name: getattr(self, name).numpy() for name in names}
        return pd.DataFrame(columns, index=label_index(self.names))

    def __str__(self) -> str:
        return str(self.table.to_string(float_format="{:.3f}".format))


@torch.no_grad()
def variance_shares(guide: BlockGuide, covariates: Any = None) -> VarianceShares:
    r"""The parts of the variance of each column that latents, covariates and row effects explain.

    The variance is over rows that are drawn from the fitted model without offset: covariates are
    one of the given rows, latents and row effects are drawn from their priors. It is the sum of

    - covariates: :math:`\operatorname{Var}_x(E[y \mid x])`;
    - latents and row effects: :math:`E_x[\operatorname{Var}(E[y \mid x, z, r])]`, divided in
      proportion to the variances :math:`\|W_i\|^2 / \lambda` and :math:`\tau^2` that they add to
      the linear predictor;
    - the rest: :math:`E[\operatorname{Var}(y \mid x, z, r)]`.

    Given the covariates the linear predictor of a column is normal, and the moments are integrals
    over it by Gauss-Hermite quadrature. For a Gaussian table without covariates the part of the
    latents is the communality of factor analysis, :math:`h^2 / (h^2 + \psi)`.

    Args:
        guide: a fitted guide of a single block whose latents have one precision.
        covariates: known numbers of rows, ``(N, p)``, such as the covariates of the fitted table;
            for a block with covariates.

    Raises:
        TypeError: if ``guide`` is no guide of this package.
        ValueError: if its model is no such block or has fixed row effects, the guide has not been
            trained, its family has categories or compositions, or covariates do not fit the block.

    Source: Nakagawa and Schielzeth (2013), *A general and simple method for obtaining R² from
    generalized linear mixed-effects models*, on the scale of the observations.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> x, z = torch.randn(200, 1), torch.randn(200, 1)
        >>> y = (x + z) @ torch.ones(1, 4) + torch.randn(200, 4)
        >>> model = pef.ExpFamPCA(pef.families.Gaussian(1.0), 4, 1, num_covariates=1)
        >>> guide = pef.LaplaceGuide(model)
        >>> _ = guide.fit(y, covariates=x)
        >>> shares = pef.variance_shares(guide, covariates=x)
        >>> bool((shares.covariates - 1 / 3).abs().max() < 0.1)
        True
    """
    block = _checked_block(guide)
    # Rows of a block without covariates are alike.
    like = guide.intercept.double()
    x = as_covariates(covariates, block.num_covariates, None, like)
    for sites in guide._known_blocks().values():
        guide.check_covariates(sites.labels, covariates)
    h2 = guide.loading.double().square().sum(1) / guide.block().latent_precision.double()
    r2 = torch.zeros_like(h2)
    if block.row_effect is not None:
        r2 += block.row_effect_scale.double().square()
    mean, square, within, between = _moments(guide, x, (h2 + r2).sqrt())
    of_covariates = (square - mean.square()).clamp(min=0)
    total = of_covariates + within + between
    of_latents = torch.where(h2 > 0, h2 / (h2 + r2), 0.0)
    return VarianceShares(
        column_names(guide),
        between * of_latents / total,
        of_covariates / total,
        between * (1 - of_latents) / total,
    )


def communalities(guide: BlockGuide, covariates: Any = None) -> Tensor:
    r"""The part of the variance of each column that the latents explain, ``(d,)``.

    It is :attr:`VarianceShares.latents` of :func:`variance_shares`, with the same arguments and
    errors. What covariates and row effects explain is a part of the variance and does not count.

    Args:
        guide: a fitted guide of a single block whose latents have one precision.
        covariates: known numbers of rows, ``(N, p)``; for a block with covariates.

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
    return variance_shares(guide, covariates).latents


def _checked_block(guide: BlockGuide) -> ExpFamPCA:
    block = trained_block(guide)
    family = block.family
    if family.is_coupled:
        raise ValueError(
            "guide must have one linear predictor per column, whose law depends on no other, got "
            f"{family}"
        )
    if not block.has_one_precision:
        raise ValueError("guide must be of a block whose latents have one precision")
    if block.row_effect == "fixed":
        raise ValueError(
            "guide must be of a block without fixed row effects, which have no law and so no "
            "variance, got row_effect='fixed': take row_effect='random'"
        )
    return block


def _moments(
    guide: BlockGuide, x: Tensor | None, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Moments over rows of :math:`m = E[y | x]`, and of what varies given the covariates.

    Args:
        guide: the guide.
        x: the covariates, ``(N, p)``, or None.
        scale: the standard deviation of linear predictors given the covariates, ``(d,)``.

    Returns:
        The means of :math:`m`, of its square, of the variance around the mean of an observation,
        and of the variance of this mean; each ``(d,)``.
    """
    block: Any = guide.model
    at, weights = map(torch.as_tensor, np.polynomial.hermite_e.hermegauss(NODES))
    weights, at = (weights / weights.sum()).to(scale), at.to(scale)[:, None, None]
    total: Any = 0.0
    count = 0
    for known in _known_parts(guide, x):
        eta = known + scale * at
        means = block.family.expected_y(eta)
        variances = block.family.variance_of_y(eta)
        mean = torch.tensordot(weights, means, 1)
        within = torch.tensordot(weights, variances, 1)
        between = torch.tensordot(weights, (means - mean).square(), 1)
        total = total + torch.stack([mean, mean.square(), within, between]).sum(1)
        count += len(known)
    mean, square, within, between = total / count
    return mean, square, within, between


def _known_parts(guide: BlockGuide, x: Tensor | None) -> Iterator[Tensor]:
    """Linear predictors of rows whose latents are zero, ``(n, d)``, some rows at a time."""
    b = guide.intercept.double()
    if x is None:
        yield b[None]
        return
    C = guide.covariate_coefficients.double()
    for tile in tiles(len(x), NODES * len(b), b.device):
        yield b + x[tile] @ C.mT
