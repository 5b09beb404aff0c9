"""Likelihood statistics of a fit, and the comparison of nested fits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from pyro_expfam.guides import BlockGuide
from pyro_expfam.loadings.column_names import single_block
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.selection.candidate import num_parameters


@dataclass(frozen=True)
class FitStatistics:
    """Statistics of a fit, as users of generalised linear mixed models know them.

    Attributes:
        log_likelihood: the log likelihood in nats, with the latents integrated out.
        degrees_of_freedom: free numbers of the model.
        num_rows: rows of the table.
        num_entries: present entries of the table.
    """

    log_likelihood: float
    degrees_of_freedom: int
    num_rows: int
    num_entries: int

    @property
    def aic(self) -> float:
        """Akaike's criterion, smaller is better."""
        return 2 * self.degrees_of_freedom - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        """The Bayesian criterion, smaller is better; rows are the independent units."""
        return self.degrees_of_freedom * math.log(self.num_rows) - 2 * self.log_likelihood

    def __str__(self) -> str:
        """The statistics in one line."""
        return (
            f"log likelihood {self.log_likelihood:,.2f} on {self.degrees_of_freedom} degrees of "
            f"freedom, AIC {self.aic:,.2f}, BIC {self.bic:,.2f}, {self.num_rows:,} rows, "
            f"{self.num_entries:,} entries"
        )


@dataclass(frozen=True)
class LikelihoodRatio:
    """The comparison of two nested fits of one table.

    Attributes:
        small: statistics of the smaller model.
        large: statistics of the larger model.
        caveats: what the p-value does not take into account, in words.
    """

    small: FitStatistics
    large: FitStatistics
    caveats: tuple[str, ...]

    @property
    def statistic(self) -> float:
        """Twice the difference of the log likelihoods."""
        return 2 * (self.large.log_likelihood - self.small.log_likelihood)

    @property
    def degrees_of_freedom(self) -> int:
        """The difference of the degrees of freedom."""
        return self.large.degrees_of_freedom - self.small.degrees_of_freedom

    @property
    def p_value(self) -> float:
        """The probability of a larger statistic under a chi-squared law; see the caveats."""
        halves = (self.degrees_of_freedom / 2, max(self.statistic, 0.0) / 2)
        shape, at = torch.tensor(halves, dtype=torch.float64)
        return float(torch.special.gammaincc(shape, at))

    def __str__(self) -> str:
        """The comparison in words."""
        found = (
            f"statistic {self.statistic:,.2f} on {self.degrees_of_freedom} degrees of freedom, "
            f"p = {self.p_value:.3g}"
        )
        return "\n".join([found, *(f"- {caveat}" for caveat in self.caveats)])


@torch.no_grad()
def fit_statistics(
    guide: BlockGuide,
    y: Any,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    covariates: Any = None,
    order: int = 1,
    nodes: int | None = None,
) -> FitStatistics:
    r"""The log likelihood of a fitted table, its degrees of freedom, AIC and BIC.

    The log likelihood is the log evidence of the rows at the guide's loading and intercept, with
    the latents integrated out; the densities of priors are not in it. With ``l`` latents and ``d``
    columns the degrees of freedom are :math:`l d - l (l - 1) / 2` of the loading, since rotations
    of the latents change nothing, :math:`d` intercepts, the learnt parameters of the family, and a
    learnt standard deviation of row effects. A column of ``K`` unordered categories counts
    :math:`K - 1` times.

    Take ``loading_scale=None`` and ``intercept_scale=None`` for fits of largest likelihood. Under
    priors a fit has fewer effective parameters than are counted.

    Args:
        guide: a guide of a single block with a dense loading, fitted to the table.
        y: observations, ``(N, d)``.
        offset: known part of the natural parameters, broadcastable to ``(N, d)``.
        mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
        weights: non-negative weights of the log densities of entries, broadcastable to ``(N, d)``.
        covariates: known numbers of each row, ``(N, p)``.
        order: 1 for the Laplace approximation of the evidence, 2 for the next order.
        nodes: quadrature with so many nodes along each of up to 3 latents, in place of ``order``.

    Raises:
        TypeError: if ``guide`` is no guide of this package.
        ValueError: if it is not trained or not of a single block with a dense loading.

    Source: Akaike (1974); Schwarz (1978); Lawley and Maxwell (1971), *Factor Analysis as a
    Statistical Method*, for the degrees of freedom.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.poisson(torch.exp(torch.randn(200, 2) @ torch.randn(2, 8)))
        >>> flat = {"loading_scale": None, "intercept_scale": None}
        >>> guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 8, 2, **flat))
        >>> _ = guide.fit(y)
        >>> pef.fit_statistics(guide, y).degrees_of_freedom
        23
    """
    block = _trained_block("guide", guide)
    table = (y, offset, mask, weights, covariates)
    problem = guide.block()._problem(*table)
    present = torch.ones_like(problem.y) if problem.weights is None else problem.weights > 0
    entries = problem.of_columns(present.expand_as(problem.y).to(problem.b))
    evidence = guide.block().log_evidence(*table, order=order, nodes=nodes)
    return FitStatistics(
        log_likelihood=float(evidence.double().sum()),
        degrees_of_freedom=num_parameters(block),
        num_rows=problem.num_rows,
        num_entries=int(entries.sum()),
    )


@torch.no_grad()
def likelihood_ratio(
    small: BlockGuide,
    large: BlockGuide,
    y: Any,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    covariates: Any = None,
    order: int = 1,
    nodes: int | None = None,
) -> LikelihoodRatio:
    """The likelihood ratio of two nested fits of one table, with caveats in words.

    Args:
        small: the fitted guide of the smaller model.
        large: the fitted guide of the larger model, of which the smaller is a special case.
        y: observations, ``(N, d)``, as for :func:`fit_statistics`, like all others.
        offset: known part of the natural parameters.
        mask: False for a missing entry.
        weights: weights of the log densities of entries.
        covariates: known numbers of each row.
        order: of the Laplace approximation.
        nodes: of a quadrature.

    Raises:
        TypeError: if a guide is no guide of this package.
        ValueError: if a guide is not trained, the numbers of columns differ, or ``large`` has no
            more degrees of freedom than ``small``.

    Source: Wilks (1938) for the chi-squared law; Self and Liang (1987), and Drton (2009),
    *Likelihood ratio tests and singularities*, for where it fails.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> counts = pef.families.NegativeBinomial(2.0)
        >>> y = counts.sample(torch.randn(200, 1) @ torch.ones(1, 6))
        >>> def fitted(family):
        ...     block = pef.ExpFamPCA(family, 6, 1, loading_scale=None, intercept_scale=None)
        ...     guide = pef.LaplaceGuide(block)
        ...     _ = guide.fit(y)
        ...     return guide
        >>> shared = fitted(pef.families.NegativeBinomial("shared"))
        >>> own = fitted(pef.families.NegativeBinomial())
        >>> pef.likelihood_ratio(shared, own, y).degrees_of_freedom
        5
    """
    blocks = [_trained_block("small", small), _trained_block("large", large)]
    if blocks[0].num_features != blocks[1].num_features:
        raise ValueError(
            "small and large must be fits of one table, got "
            f"{blocks[0].num_features} and {blocks[1].num_features} columns"
        )
    sizes = [num_parameters(block) for block in blocks]
    if sizes[1] <= sizes[0]:
        raise ValueError(
            "large must have more degrees of freedom than small, got "
            f"{sizes[1]} and {sizes[0]}: swap them"
        )
    table = (y, offset, mask, weights, covariates)
    found = [fit_statistics(guide, *table, order=order, nodes=nodes) for guide in (small, large)]
    return LikelihoodRatio(found[0], found[1], tuple(_caveats(blocks, found)))


def _trained_block(name: str, guide: BlockGuide) -> ExpFamPCA:
    block = single_block(guide)
    if block.row_effect == "fixed":
        raise ValueError(
            f"{name} must be of a block without fixed row effects, got one: under their flat prior "
            "the log likelihood has a constant that means nothing. Take row_effect='random' with a "
            "PyroParam as row_effect_scale, which is one degree of freedom"
        )
    if not guide.is_trained:
        raise ValueError(f"{name} must be trained, got one with its first, random parameters")
    return block


def _caveats(blocks: list[ExpFamPCA], found: list[FitStatistics]) -> list[str]:
    caveats = []
    small, large = blocks
    if small.latent_dim > large.latent_dim:
        caveats.append(
            f"The models are not nested: small has {small.latent_dim} latents, large "
            f"{large.latent_dim}. The p-value means nothing."
        )
    if small.latent_dim < large.latent_dim:
        caveats.append(
            "The numbers of latents differ. Under the smaller model the further loadings are zero, "
            "the boundary of what they can be, where their directions are not determined. The "
            "statistic is then not chi-squared, and the p-value is a rough guide. Choose the "
            "number by compare_latent_dims, or compare with tables drawn from the smaller fit."
        )
    if large.learns_row_effect and not small.learns_row_effect:
        caveats.append(
            "Only the larger model has row effects of a learnt standard deviation, which is zero "
            "under the smaller model, the boundary of what it can be. The p-value is then too "
            "large, by about two times for this one degree of freedom."
        )
    if type(small._known_family) is not type(large._known_family):
        caveats.append(
            f"The families differ: the comparison holds only if {small._known_family} is a special "
            f"case of {large._known_family}. If it is a limit at the end of a range, as Poisson is "
            "of the negative binomial, the p-value is too large."
        )
    if any(name in block._pyro_samples for block in blocks for name in block.coefficient_sites):
        covariates = any(block.num_covariates for block in blocks)
        caveats.append(
            "Coefficients have priors, so that the fits are not at the largest likelihood: take "
            "loading_scale=None and intercept_scale=None"
            + (", and coefficient_scale=None." if covariates else ".")
        )
    if found[1].log_likelihood < found[0].log_likelihood:
        caveats.append(
            "The larger model has the smaller likelihood: its fit is at another maximum, or not at "
            "rest."
        )
    return caveats
