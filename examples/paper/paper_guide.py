"""The paper's equilibrium network for a table: its priors, and a fit."""

from __future__ import annotations

from paper_tables import LATENT_DIM
from torch import Tensor
from working_start import working_start

import pyro_expfam as pef


def fitted_guide(family: pef.families.Family, y: Tensor) -> pef.DEQMAPGuide:
    """The joint MAP estimate (Theorem 1 of the paper) of a table ``(N, d)``."""
    model = pef.ExpFamPCA(family, y.shape[1], LATENT_DIM, **pef.paper_prior(len(y)))
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
