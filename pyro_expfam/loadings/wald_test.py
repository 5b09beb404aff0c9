"""A test, column by column, of whether the latents say anything about the column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_expfam.coefficients import CoefficientPosterior
from pyro_expfam.guides import LaplaceGuide
from pyro_expfam.loadings.column_names import column_names, single_block
from pyro_expfam.table_labels import label_index


@dataclass(frozen=True, eq=False)
class LoadingTest:
    """The result of :func:`loading_test`; printed, it is a table.

    Attributes:
        names: the names of the columns.
        length: the length of the loading of each column, ``(d,)``, which no rotation changes.
        statistic: the Wald statistic, ``(d,)``.
        degrees_of_freedom: its degrees of freedom under the hypothesis of no loading, ``(d,)``.
        p_value: the probability of such a statistic or a larger one without a loading, ``(d,)``.
        q_value: the least false discovery rate at which the column counts, ``(d,)``.
        fdr: the false discovery rate of ``loads``.
    """

    names: list[Any]
    length: np.ndarray
    statistic: np.ndarray
    degrees_of_freedom: np.ndarray
    p_value: np.ndarray
    q_value: np.ndarray
    fdr: float

    @property
    def loads(self) -> np.ndarray:
        """Which columns load, with at most ``fdr`` of them expected to be false, ``(d,)``."""
        found: np.ndarray = self.q_value <= self.fdr
        return found

    @property
    def table(self) -> Any:
        """The result as a data frame, a row per column of the table."""
        import pandas as pd

        return pd.DataFrame(
            {
                "length": self.length,
                "statistic": self.statistic,
                "df": self.degrees_of_freedom,
                "p": self.p_value,
                "q": self.q_value,
                "loads": self.loads,
            },
            index=label_index(self.names),
        )

    def __str__(self) -> str:
        count = int(self.loads.sum())
        head = f"{count} of {len(self.names)} columns load, at a false discovery rate of {self.fdr}"
        return f"{head}\n\n{self.table.to_string(float_format='{:.3g}'.format)}"


@torch.no_grad()
def loading_test(guide: LaplaceGuide, fdr: float = 0.05) -> LoadingTest:
    r"""Tests for each column of a table whether it has a loading at all.

    The statistic of a column with loading :math:`w` is :math:`w^\top S^{-1} w`, where ``S`` is the
    sampling covariance of the estimate, :math:`C - C P C` with the posterior covariance ``C`` and
    the precision ``P`` of the prior. A rotation of the latents does not change it. Without a
    loading it is chi-squared with as many degrees of freedom as there are latents, or
    :math:`(K - 1)\, l` for a column of ``K`` categories. Columns are counted at a false discovery
    rate by the rule of Benjamini and Hochberg.

    The test takes the model for true. For counts that vary more than the model says it rejects too
    often: take a family with dispersion, or ``guide.with_sandwich()``, whose covariance is measured
    from the rows.

    Args:
        guide: a fitted guide with a posterior of its coefficients, as ``LaplaceGuide(model,
            globals="laplace")`` has after a fit.
        fdr: the false discovery rate, between 0 and 1.

    Raises:
        TypeError: if ``guide`` is no guide of this package.
        ValueError: if ``fdr`` is out of range, or the guide has no posterior of its coefficients.

    Source: Wald (1943); Benjamini and Hochberg (1995).

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> z, W = torch.randn(300, 1), torch.tensor([[2.0, 2.0, 2.0, 2.0, 0.0]])
        >>> model = pef.ExpFamPCA(pef.families.Bernoulli(), num_features=5, latent_dim=1)
        >>> guide = pef.LaplaceGuide(model, globals="laplace")
        >>> _ = guide.fit(torch.bernoulli(torch.sigmoid(z @ W)))
        >>> pef.loading_test(guide).loads[:4].tolist()
        [True, True, True, True]
    """
    from scipy import stats

    block = single_block(guide)
    if not 0 < fdr < 1:
        raise ValueError(f"fdr must be between 0 and 1, got {fdr}")
    posterior = guide.coefficients
    owners = block._known_family.column_of_predictor(block.num_features)
    covariance = sampling_covariance(posterior, block.coefficient_precision(), owners)
    places, is_there = _predictors_of(owners)
    W = (posterior.mode[:, : block.latent_dim][places] * is_there[..., None]).flatten(1)
    # Loadings stand first among the coefficients of a linear predictor.
    kept = torch.arange(covariance.shape[-1]) % posterior.mode.shape[1]
    among = (kept < block.latent_dim).nonzero()[:, 0]
    statistic, df = _wald(W, covariance[:, among][:, :, among])
    p_value = stats.chi2.sf(statistic.numpy(), df.numpy())
    return LoadingTest(
        column_names(guide),
        W.norm(dim=1).numpy(),
        statistic.numpy(),
        df.numpy(),
        p_value,
        stats.false_discovery_control(p_value),
        fdr,
    )


def sampling_covariance(
    posterior: CoefficientPosterior, prior_precision: Tensor, owners: Tensor
) -> Tensor:
    """The covariance of the estimate over tables, by column: ``(columns, K (l + 1), K (l + 1))``.

    A column of fewer than ``K`` linear predictors has zeros in the places of the others.

    Args:
        posterior: the posterior of the coefficients.
        prior_precision: the prior precisions of the coefficients, ``(l + 1,)``, or ``(d, l + 1)``.
        owners: the column of each linear predictor, ``(d,)``.
    """
    if posterior.factor.dim() == 3:
        C = posterior.factor @ posterior.factor.mT
        P = prior_precision.to(C).expand(posterior.mode.shape).reshape(*C.shape[:2], 1)
        return C - C @ (P * C)
    whole = posterior.covariance()
    P = prior_precision.to(whole).expand(posterior.mode.shape).flatten()
    size = posterior.mode.shape[1]
    places, is_there = _predictors_of(owners)
    of_column = (places[..., None] * size + torch.arange(size)).flatten(1)
    by_column = whole[of_column] * is_there.repeat_interleave(size, 1)[..., None]
    blocks = torch.stack([x[:, at] for x, at in zip(by_column, of_column, strict=True)])
    blocks = blocks * is_there.repeat_interleave(size, 1)[:, None]
    return blocks - (by_column * P) @ by_column.mT


def _predictors_of(owners: Tensor) -> tuple[Tensor, Tensor]:
    """The predictors of each column ``(columns, K)``, any where there are fewer, and whether."""
    counts = owners.bincount()
    order, begins = owners.argsort(stable=True), counts.cumsum(0) - counts
    steps = torch.arange(int(counts.max()))
    is_there = steps < counts[:, None]
    return order[torch.where(is_there, begins[:, None] + steps, 0)], is_there


RANK = 1e-6
"""Smaller eigenvalues than this part of the largest are directions that only the prior holds."""


def _wald(W: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The statistic of each column and its degrees of freedom."""
    values, vectors = torch.linalg.eigh(covariance)
    there = values > RANK * values[:, -1:]
    along = (vectors.mT @ W[..., None])[..., 0].square()
    return torch.where(there, along / values, 0.0).sum(1), there.sum(1)
