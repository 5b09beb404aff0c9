"""Single cells: counts that come with a size
==========================================

pyPLNmodels ships counts of transcripts in single cells of three types. Cells differ in size, the
total number of sequenced transcripts. The logarithm of the size is an offset: a known part of the
natural parameter.
"""

import warnings

import pyro
import torch

import pyro_expfam as pef

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports pkg_resources
    from pyPLNmodels import load_scrna

pyro.set_rng_seed(0)
data = load_scrna(n_samples=300, dim=40)
counts, types = data["endog"], data["labels"]
some = counts.sum(axis=1) > 0
counts, types = counts[some], types[some]
size = torch.tensor(counts.sum(axis=1).to_numpy(), dtype=torch.float32)[:, None]
offset = (size / size.mean()).log()

model = pef.ExpFamPCA(pef.families.Poisson(), num_features=40, latent_dim=4)
guide = pef.LaplaceGuide(model, globals="laplace")
fit = guide.fit(counts, offset=offset)
print(f"converged: {fit.converged} after {fit.sweeps[-1].number} sweeps")

# %%
# ``globals="laplace"`` adds the uncertainty of the loading. Draws of loading and latents go to
# ArviZ with the names of the genes. ``align`` removes the arbitrary rotation between draws.

idata = pef.to_arviz(model, guide, counts, offset=offset, num_samples=200)
aligned = pef.align(idata)
print(aligned["posterior"]["loading"].dims)

# %%
# Cells of a type lie together, although the types were not part of the model.

ax = pef.plots.plot_latents(aligned, labels=types)

# %%
# The genes with the largest loadings of the first latent, with intervals.

ax = pef.plots.plot_loading(aligned, latent=0, num_features=15)

# %%
# The report begins with the fit to the data.

print(pef.check(model, guide, counts, offset=offset))

# %%
# The :doc:`workflow </workflow>` goes on from here: ``pef.compare_latent_dims`` chooses the number
# of latents, and two families are compared.
