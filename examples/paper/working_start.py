"""Where a fit starts: at the principal components of the entries' own linear predictors."""

from __future__ import annotations

import torch
from paper_tables import LATENT_DIM
from torch import Tensor

import pyro_expfam as pef

SHRINKAGE = 0.01
"""The weight of the column's mean beside an entry, which keeps zeros off minus infinity."""

LARGEST_DEVIATION = 1.5
"""The most that a linear predictor varies by column at the start, where no mean overflows."""


def working_start(family: pef.families.Family, y: Tensor) -> tuple[Tensor, Tensor]:
    """A loading ``(d, l)`` and an intercept ``(d,)`` to start a fit to ``y`` from.

    Counts of the paper's Poisson tables range from 0 to a million, and a few of the largest make
    nearly all of the residuals. :meth:`pyro_expfam.DEQMAPGuide.fit` starts from the spectrum of
    residuals, and ends 100,000 nats and more above the best optimum there. Logarithms of counts
    have no such tails; in general they are the linear predictors whose means are the entries.
    """
    shrunk = (y + SHRINKAGE * y.mean(0)) / (1 + SHRINKAGE)
    predictors = family.predictor(shrunk)
    intercept = predictors.mean(0)
    _, values, directions = torch.linalg.svd(predictors - intercept, full_matrices=False)
    loading = directions[:LATENT_DIM].mT * values[:LATENT_DIM] / len(y) ** 0.5
    largest = loading.norm(dim=1, keepdim=True).clamp(min=LARGEST_DEVIATION)
    return loading * LARGEST_DEVIATION / largest, intercept
