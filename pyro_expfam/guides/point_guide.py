"""Point estimates of all latents that are not a block's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer.autoguide import AutoDelta, AutoGuide, init_to_median
from torch import Tensor

from pyro_expfam.models import INITIAL_LOADING_SCALE
from pyro_expfam.models.annotations import coefficient_site


def point_guide(model: Callable[..., Any]) -> AutoGuide:
    """The default guide of all latents that are not a block's: a point estimate."""
    return AutoDelta(model, init_loc_fn=init_to_small_loading)


def init_to_small_loading(site: Any) -> Tensor:
    """Starts loadings small and random, intercepts at zero, and all else at its prior median."""
    coefficient = coefficient_site(site)
    if coefficient is not None and coefficient.attribute == "loading":
        return INITIAL_LOADING_SCALE * torch.randn_like(site["fn"].mean)
    if coefficient is not None and coefficient.starts_at_zero:
        # Zero is the prior median. Pyro takes the median of some draws, far off under a wide prior.
        return torch.zeros_like(site["fn"].mean)
    return init_to_median(site)
