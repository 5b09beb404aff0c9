"""The Laplace posterior of loading, intercept and latents against Hamiltonian Monte Carlo."""

import pyro
import pytest
import torch
from pyro.infer import MCMC, NUTS

import pyro_expfam as pef
from pyro_expfam.diagnostics import align_draws

NUM_ROWS, NUM_FEATURES, LATENT_DIM = 200, 20, 2
NUM_CHAINS, NUM_DRAWS, NUM_WARMUP = 4, 400, 200


def draws_of_nuts(model, y, start):
    """Draws by chain, each starting at a draw of the guide."""
    pyro.enable_validation(False)
    chains = []
    for _ in range(NUM_CHAINS):
        initial = {name: value.detach() for name, value in start().items()}
        kernel = NUTS(model, max_tree_depth=7)
        mcmc = MCMC(
            kernel,
            num_samples=NUM_DRAWS,
            warmup_steps=NUM_WARMUP,
            initial_params=initial,
            disable_progbar=True,
        )
        mcmc.run(y)
        chains.append(mcmc.get_samples())
    return {name: torch.stack([chain[name] for chain in chains]) for name in chains[0]}


@pytest.mark.slow
def test_loading_intercept_and_latents_agree_with_nuts():
    torch.set_default_dtype(torch.float64)
    family = pef.families.Poisson()
    eta = torch.randn(NUM_ROWS, LATENT_DIM) @ (0.5 * torch.randn(LATENT_DIM, NUM_FEATURES))
    y = family.sample(eta + 0.5 * torch.randn(NUM_FEATURES))
    model = pef.ExpFamPCA(family, NUM_FEATURES, LATENT_DIM, intercept_scale=1.0)
    guide = pef.LaplaceGuide(model, globals="laplace")
    guide.fit(y)
    guide.update_globals(y)
    exact = draws_of_nuts(model, y, lambda: guide(y))

    def aligned(loading, latents):
        reference = guide.coefficients.mode[:, :-1]
        return align_draws(loading, latents, reference=reference)

    nuts = aligned(exact["loading"].flatten(0, 1), exact["z"].flatten(0, 1))
    draws = [guide(y) for _ in range(1_500)]
    drawn = {name: torch.stack([draw[name] for draw in draws]) for name in exact}
    laplace = aligned(drawn["loading"], drawn["z"])
    for ours, theirs in (
        (laplace.loading, nuts.loading),
        (drawn["intercept"], exact["intercept"].flatten(0, 1)),
        (laplace.latents, nuts.latents),
    ):
        deviation = theirs.std(0)
        distance = ((ours.mean(0) - theirs.mean(0)) / deviation).abs()
        ratio = ours.std(0) / deviation
        assert float(distance.max()) <= 0.3
        assert float((ratio - 1).abs().max()) <= 0.15
