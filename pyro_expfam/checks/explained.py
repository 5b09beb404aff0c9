"""The part of the deviance of a table that a fit explains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_expfam.checks.without_latents import (
    likelihood_without_latents,
    log_probs_without_latents,
)
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.families import Columns
from pyro_expfam.guides.block_guide import BlockGuide
from pyro_expfam.models import ExpFamPCA

NOTHING = 1e-6
"""A deviance without latents, in nats, below which there is nothing to explain.

It is the deviance of a constant column. An intercept that goes to infinity stops somewhere, so that
the deviance of a column of zeros is no exact zero.
"""


@torch.no_grad()
def deviance_explained(
    guide: BlockGuide,
    y: Any,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    covariates: Any = None,
) -> float:
    r"""The part of the deviance of a table that the latents of its rows explain.

    It is :math:`1 - D / D_0`, where ``D`` is the deviance of the entries under the fitted loading
    and intercept at the latents of their rows, and :math:`D_0` is the deviance under intercepts
    alone, fitted to these rows with the same offset and weights. With covariates :math:`D_0` is the
    deviance under intercepts and coefficients of covariates, so that what covariates explain does
    not count. Of a Gaussian table of known scale
    it is the :math:`R^2`. The latents are found from the same entries, so that it grows with their
    number: compare numbers of latents by :func:`~pyro_expfam.compare_latent_dims`. Of a table whose
    columns are constant it is 0, since there is nothing to explain.

    Args:
        guide: a fitted guide of a single block.
        y: observations, ``(N, d)``, of rows seen in training or new.
        offset: known part of the natural parameters, broadcastable to ``(N, d)``.
        mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
        weights: non-negative weights of the log densities of entries, broadcastable to ``(N, d)``.
        covariates: known numbers of each row, ``(N, p)``.

    Raises:
        TypeError: ``guide`` is no guide of this package.
        ValueError: the model of the guide is no single block, the guide has not been trained, or
            the density of an entry has no bound, as for a proportion of exactly 0 or 1.

    Source: McCullagh and Nelder (1989), section 2.3; Cameron and Windmeijer (1997), *An R-squared
    measure of goodness of fit for some common nonlinear regression models*.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.poisson(torch.exp(torch.randn(100, 1) @ torch.ones(1, 8)))
        >>> guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 8, latent_dim=1))
        >>> fit = guide.fit(y)
        >>> 0.2 < pef.deviance_explained(guide, y) < 1
        True
    """
    problem, entries, eta = _deviances(guide, y, offset, mask, weights, covariates)
    remaining = float(entries.sum())
    gained = float(problem.log_probs(eta).sum()) - likelihood_without_latents(problem)
    without_latents = remaining + 2 * gained
    return 1.0 - remaining / without_latents if without_latents > NOTHING else 0.0


@torch.no_grad()
def deviance_explained_by_column(
    guide: BlockGuide,
    y: Any,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    covariates: Any = None,
) -> Tensor:
    """The part of the deviance of each column that the latents of the rows explain, ``(d,)``.

    It is :func:`deviance_explained` of each column alone, with the latents of the whole table. It
    may be negative for a column that intercepts alone fit better, and is 0 for a constant column,
    which has nothing to explain.

    Args:
        guide: as for :func:`deviance_explained`, as are the others.
        y: observations, ``(N, d)``.
        offset: known part of the natural parameters.
        mask: False for a missing entry.
        weights: of the log densities of entries.
        covariates: of the rows.

    Raises:
        TypeError: as for :func:`deviance_explained`.
        ValueError: as for :func:`deviance_explained`.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.poisson(torch.exp(torch.randn(100, 1) @ torch.ones(1, 8)))
        >>> guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Poisson(), 8, latent_dim=1))
        >>> fit = guide.fit(y)
        >>> pef.deviance_explained_by_column(guide, y).shape
        torch.Size([8])
    """
    problem, entries, eta = _deviances(guide, y, offset, mask, weights, covariates)
    column = problem.column_of_predictor
    zero = entries.new_zeros(problem.num_columns)
    remaining = zero.index_add(0, column, entries.sum(0))
    log_probs = zero.index_add(0, column, problem.log_probs(eta).sum(0))
    without = zero.index_add(0, column, log_probs_without_latents(problem))
    total = remaining + 2 * (log_probs - without)
    return torch.where(total > NOTHING, 1 - remaining / total, 0.0)


def _deviances(guide: BlockGuide, *table: Any) -> tuple[LatentProblem, Tensor, Tensor]:
    """The problem of a table at its root, weighted deviances of its entries, and the predictors."""
    if not isinstance(guide, BlockGuide):
        raise TypeError(
            f"guide must be a guide of this package, such as a DEQMAPGuide, got "
            f"{type(guide).__name__}"
        )
    if not isinstance(guide.model, ExpFamPCA):
        raise ValueError(
            "guide must be of a single block, an ExpFamPCA, got one of "
            f"{type(guide.model).__name__}"
        )
    if not guide.is_trained:
        raise ValueError("guide must be trained, got one with its first, random parameters")
    (root,) = guide.roots(*table)
    problem, z = root.problem.double(), root.solution.value.double()
    eta = problem.predictor(z)
    entries = problem.family.deviance(problem.y, eta)
    if problem.weights is not None:
        entries = torch.where(problem.weights > 0, problem.weights * entries, 0.0)
    if not entries.isfinite().all():
        place = tuple((~entries.isfinite()).nonzero()[0].tolist())
        raise ValueError(
            f"y must have entries of bounded density, got {float(problem.y[place]):g} at {place}, "
            f"where the density of {_law_of(problem, place[-1])} has no bound"
        )
    return problem, entries, eta


def _law_of(problem: LatentProblem, predictor: int) -> str:
    """The law of a linear predictor, with the name of its column where laws have names."""
    family = problem.family
    if not isinstance(family, Columns):
        return str(family)
    place = int(problem.column_of_predictor[predictor])
    name, law = list(family.laws.items())[place]
    return f"{type(law).__name__}, of column {name!r},"
