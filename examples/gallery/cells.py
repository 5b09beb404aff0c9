"""Single cells: counts that come with a size
==========================================

pyPLNmodels ships counts of transcripts in single cells of three types. Cells differ in how much
of them was sequenced. The logarithm of that size is an offset: a known part of the natural
parameter.
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
# ``globals="laplace"`` makes the loading uncertain too. Draws of loading and latents go to
# ArviZ with the names of the genes. ``align`` takes out the rotation between draws, which
# means nothing.

idata = pef.to_arviz(model, guide, counts, offset=offset, num_samples=200)
aligned = pef.align(idata)
print(aligned["posterior"]["loading"].dims)

# %%
# Cells of a type lie together, though the model has not seen the types.

ax = pef.plots.plot_latents(aligned, labels=types)

# %%
# The genes that the first latent weighs most, with intervals.

ax = pef.plots.plot_loading(aligned, latent=0, num_features=15)

# %%
# The report leads with the fit to the data.

print(pef.check(model, guide, counts, offset=offset))

# %%
# How many latents do these cells have? ``pef.compare_latent_dims`` says; the :doc:`workflow
# </workflow>` goes on from here to that question and to a comparison of families.
