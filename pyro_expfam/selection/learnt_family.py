"""The parameters that a family leaves open, learnt on a table or on some rows of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from pyro_expfam.deq.observations import Observations
from pyro_expfam.deq.processes import ONE, Processes
from pyro_expfam.families import Family
from pyro_expfam.guides import LaplaceGuide
from pyro_expfam.joint.account import refuse_interrupted
from pyro_expfam.models import ExpFamPCA


class LearntFamily(NamedTuple):
    """Learns what a family leaves open, by a fit of the evidence.

    Attributes:
        family: the law of the observations.
        latent_dim: the number of latents.
        intercept_scale: the prior standard deviation of the intercepts, as of a block.
        processes: the processes that hold the rows.
    """

    family: Family
    latent_dim: int
    intercept_scale: Any
    processes: Processes = ONE

    def __call__(self, table: Observations, loading_scale: float) -> Family:
        """The family with its parameters at the greatest evidence of a table.

        Args:
            table: the observations.
            loading_scale: the prior standard deviation of the loading. What a wider loading takes
                up of the spread of the observations is no longer left for a size.
        """
        block = ExpFamPCA(
            self.family,
            table.y.shape[-1],
            self.latent_dim,
            loading_scale=loading_scale,
            intercept_scale=self.intercept_scale,
            num_covariates=0 if table.covariates is None else table.covariates.shape[-1],
        ).to(table.y)
        with torch.enable_grad():
            guide = LaplaceGuide(block)
            fit = guide.fit(*table, progress=False, processes=self.processes.argument)
        refuse_interrupted(fit)
        learnt = {name: x.detach() for name, x in block.family.parameters.items()}
        return block.family.with_parameters(learnt)
