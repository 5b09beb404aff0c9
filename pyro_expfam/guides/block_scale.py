"""The scale of a block's loading at the greatest evidence of a table."""

from __future__ import annotations

from pyro_expfam.coefficients import learn_loading_scale
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solver import Solver
from pyro_expfam.guides.coefficient_draws import have_priors, known_of_table
from pyro_expfam.models import ExpFamPCA


def learn_block_scale(block: ExpFamPCA, problem: LatentProblem, solver: Solver) -> LatentProblem:
    """Sets the scale of a block's loading to its best value, and returns the problem there.

    Raises:
        ValueError: if the loading is a point parameter, or its scale has a prior.
    """
    if not have_priors(block)[0]:
        raise ValueError("loading must have a loading_scale to learn, got a point parameter")
    known, prior, free = known_of_table(block, problem)
    scale = block.loading_scale
    learnt = learn_loading_scale(known, prior, solver, free, by_latent=scale.dim() == 1)
    new = (learnt.scale if scale.dim() == 1 else learnt.scale[0]).to(scale)
    if "loading_scale" in block._pyro_params:
        block.loading_scale = new
    else:
        scale.copy_(new)
    return learnt.problem
