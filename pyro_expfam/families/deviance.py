"""How far a loss is above its least value over all linear predictors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_expfam.families.bregman import bregman_divergence

if TYPE_CHECKING:
    from pyro_expfam.families.base import Family

EDGE = 50.0
"""The linear predictor that stands for an infinite one; an improbable outcome has exp(-50)."""

STEPS = 30
"""Steps to the smallest loss from where the mean is the observation."""


def excess_loss(family: Family, y: Tensor, eta: Tensor) -> Tensor:
    """The loss minus its least value over all linear predictors, elementwise.

    Close to the least value it is a remainder of Taylor's theorem, so that nothing cancels.

    Args:
        family: the law of the observations, with one linear predictor per observation.
        y: observations.
        eta: linear predictors, of the shape of ``y``.
    """
    best = best_predictor(family, y)
    inside = best.isfinite()
    near = torch.where(inside, best, eta)
    if family.is_smooth:
        above = bregman_divergence(
            lambda x: family.loss(x, y),
            torch.zeros_like,  # the loss is smallest here
            lambda x: family.curvature(x, y),
            near,
            eta,
        )
    else:
        above = (family.loss(eta, y) - family.loss(near, y)).clamp(min=0)
    edge = torch.where(inside, 0.0, best).nan_to_num(posinf=EDGE, neginf=-EDGE)
    at_edge = (family.loss(eta, y) - family.loss(edge, y)).clamp(min=0)
    return of_infinite_predictors(torch.where(inside, above, at_edge), best, eta)


def of_infinite_predictors(excess: Tensor, best: Tensor, eta: Tensor) -> Tensor:
    """The excess, which is 0 or infinite where the linear predictor is infinite."""
    certain = torch.where(best == eta, 0.0, torch.inf).to(excess)
    return torch.where(eta.isinf(), certain, excess)


@torch.no_grad()
def best_predictor(family: Family, y: Tensor) -> Tensor:
    """Where the loss is smallest, from where the mean is the observation; it may be infinite.

    For most laws that is the same place. For others it is found by steps that are kept where they
    make the loss smaller.
    """
    best = family.predictor(y)
    inside = best.isfinite()
    if not bool(inside.any()):
        return best
    x = torch.where(inside, best, 0.0)
    reach = torch.ones_like(x)
    loss, score, information = family.loss_score_information(x, y)
    for _ in range(STEPS):
        step = torch.minimum((score / information.clamp(min=1e-300)).abs(), reach) * score.sign()
        # The rounding of a loss near its minimum must not move the place.
        if not bool((inside & (step.abs() > 1e-6 * (1 + x.abs()))).any()):
            break
        other, *derivatives = family.loss_score_information(x + step, y)
        better = other < loss
        x, loss = torch.where(better, x + step, x), torch.where(better, other, loss)
        score, information = (
            torch.where(better, new, old)
            for new, old in zip(derivatives, (score, information), strict=True)
        )
        reach = torch.where(better, 1.0, 0.5 * step.abs())
    return torch.where(inside, x, best)
