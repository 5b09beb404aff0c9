"""Restarts as chains: do fits from different starts agree?
========================================================

Latents are known up to a rotation, so that coordinates of two fits cannot be compared directly.
``align`` removes the rotation. R-hat then shows whether restarts agree.
"""

import warnings

import matplotlib.pyplot as plt
import pyro
import torch

import pyro_expfam as pef

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ArviZ 0.23 announces 1.x
    import arviz as az

pyro.set_rng_seed(0)
loading = torch.randn(2, 12)
y = torch.poisson(torch.exp(torch.randn(80, 2) @ loading / 2))


def restart(seed: int) -> object:
    """Draws of a fit that begins at random loadings."""
    pyro.set_rng_seed(seed)
    model = pef.ExpFamPCA(pef.families.Poisson(), num_features=12, latent_dim=2)
    fitted = pef.LaplaceGuide(model)
    fitted(y)  # a guide that has been called starts from its parameters, which are random here
    fitted.fit(y)
    guide = pef.LaplaceGuide(model, params=fitted, globals="laplace")
    guide.update_globals(y)
    return pef.to_arviz(model, guide, y, num_samples=200)


chains = pef.concat_chains([restart(seed) for seed in range(4)])
aligned = pef.align(chains)

# %%
# R-hat of the loadings, before and after.

containers = {"as drawn": chains, "aligned": aligned}
for name, container in containers.items():
    rhat = az.rhat(container, var_names=["loading"])
    print(f"{name}: R-hat of the loadings is at most {float(rhat['loading'].max()):.2f}")

# %%
# The posterior of the first row in four fits. As drawn, every fit has axes of its own.

figure, grid = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
for ax, (name, container) in zip(
    grid, {"as drawn": chains, "aligned": aligned}.items(), strict=True
):
    for chain in container["posterior"]["z"].values[:, :, 0]:
        ax.plot(*chain.T, ".", markersize=3)
    ax.set(title=name, xlabel="latent 0", ylabel="latent 1", aspect="equal")
