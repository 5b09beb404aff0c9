"""The paper's equilibrium network for a table: its priors, and a fit."""

from __future__ import annotations

from random_tables import LATENT_DIM
from torch import Tensor
from working_start import working_start

import pyro_expfam as pef

LATENT_PRECISION = 0.1
"""The lambda of the paper."""


def paper_loading_scale(num_rows: int) -> float:
    """The prior standard deviation of the loading's entries that the published code amounts to.

    It divides the objective of N rows by 2N and adds a weight decay of 0.52, which is a precision
    of 1.04 N. The intercept has no weight decay there.
    """
    return (1.04 * num_rows) ** -0.5


def fitted_guide(family: pef.families.Family, y: Tensor) -> pef.DEQMAPGuide:
    """The joint MAP estimate (Theorem 1 of the paper) of a table ``(N, d)``."""
    model = pef.ExpFamPCA(
        family,
        y.shape[1],
        LATENT_DIM,
        latent_precision=LATENT_PRECISION,
        loading_scale=paper_loading_scale(len(y)),
    )
    loading, intercept = working_start(family, y)
    guide = pef.DEQMAPGuide(model)
    guide.load_state_dict(
        {
            "global_guide.loading_unconstrained": loading,
            "global_guide.intercept_unconstrained": intercept,
        }
    )
    guide.fit(y, progress=False)
    return guide
