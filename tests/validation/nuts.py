"""The Laplace posterior of loading, intercept and latents against Hamiltonian Monte Carlo."""

from collections.abc import Callable
from typing import NamedTuple

import pyro
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

import pyro_expfam as pef
from pyro_expfam.diagnostics import AlignedDraws, align_draws

NUM_ROWS, NUM_FEATURES, LATENT_DIM = 200, 20, 2
NUM_CHAINS, NUM_DRAWS, NUM_WARMUP = 4, 400, 200
NUM_GUIDE_DRAWS = 1_500
SEED = 20240229


class Distance(NamedTuple):
    """How far two posteriors are apart, at the coordinate where they are furthest.

    Attributes:
        mean: the distance of the means in standard deviations of NUTS.
        sd: the relative error of the standard deviation.
    """

    mean: float
    sd: float


def compare_with_nuts() -> dict[str, Distance]:
    """Loadings, intercepts and latents of a Poisson table of which nothing is known.

    Numbers are of the default dtype, which double precision should be.
    """
    pyro.clear_param_store()
    pyro.set_rng_seed(SEED)
    family = pef.families.Poisson()
    eta = torch.randn(NUM_ROWS, LATENT_DIM) @ (0.5 * torch.randn(LATENT_DIM, NUM_FEATURES))
    y = family.sample(eta + 0.5 * torch.randn(NUM_FEATURES))
    model = pef.ExpFamPCA(family, NUM_FEATURES, LATENT_DIM, intercept_scale=1.0)
    guide = pef.LaplaceGuide(model, globals="laplace")
    guide.fit(y)
    guide.update_globals(y)
    exact = draws_of_nuts(model, y, lambda: guide(y))
    draws = [guide(y) for _ in range(NUM_GUIDE_DRAWS)]
    drawn = {name: torch.stack([draw[name] for draw in draws]) for name in exact}

    def aligned(posterior: dict[str, Tensor]) -> AlignedDraws:
        reference = guide.coefficients.mode[:, :-1]
        return align_draws(posterior["loading"], posterior["z"], reference=reference)

    nuts, laplace = aligned(exact), aligned(drawn)
    return {
        "loadings": distance(laplace.loading, nuts.loading),
        "intercepts": distance(drawn["intercept"], exact["intercept"]),
        "latents": distance(laplace.latents, nuts.latents),
    }


def draws_of_nuts(
    model: pef.ExpFamPCA, y: Tensor, start: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Draws of all chains, each of which starts at a draw of the guide."""
    pyro.enable_validation(False)
    chains = []
    for _ in range(NUM_CHAINS):
        initial = {name: value.detach() for name, value in start().items()}
        mcmc = MCMC(
            NUTS(model, max_tree_depth=7),
            num_samples=NUM_DRAWS,
            warmup_steps=NUM_WARMUP,
            initial_params=initial,
            disable_progbar=True,
        )
        mcmc.run(y)
        chains.append(mcmc.get_samples())
    return {name: torch.cat([chain[name] for chain in chains]) for name in chains[0]}


def distance(ours: Tensor, theirs: Tensor) -> Distance:
    """The largest distances of draws ``(S, ...)`` from those of NUTS."""
    deviation = theirs.std(0)
    mean = (ours.mean(0) - theirs.mean(0)).abs() / deviation
    return Distance(float(mean.max()), float((ours.std(0) / deviation - 1).abs().max()))
