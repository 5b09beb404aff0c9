"""Ecology: fungi and bacteria on oak leaves
=========================================

116 samples of oak leaves from three trees, of which one is susceptible to mildew, and the
counts of 114 taxa of fungi and bacteria (Jakuschkin et al., 2016; pyPLNmodels ships the table).
Which taxa tell the trees apart?
"""

import warnings

import pyro
import torch

import pyro_expfam as pef

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports pkg_resources
    from pyPLNmodels import load_oaks

pyro.set_rng_seed(0)
oaks = load_oaks()
counts, tree = oaks["endog"], oaks["tree"]

# %%
# The obvious family for counts is Poisson, with the logarithm of the sequencing depth as an
# offset. ``check`` compares the fitted model with the table.

common = counts.sum().nlargest(30).index
depth = torch.tensor(oaks["offsets"][common].to_numpy(), dtype=torch.float32)
poisson = pef.ExpFamPCA(pef.families.Poisson(), num_features=30, latent_dim=3)
poisson_guide = pef.LaplaceGuide(poisson)
fit = poisson_guide.fit(counts[common], offset=depth)
print(f"converged: {fit.converged} after {fit.sweeps[-1].number} sweeps")
print(pef.check(poisson, poisson_guide, counts[common], offset=depth))

# %%
# The model does not fit. Sequence counts of a taxon vary many times as much as Poisson
# counts, and a few large counts would decide the map. A simpler question has a better
# answer: which taxa are there at all? Presence is a bit, and a bit cannot vary too much.

presence = (counts > 0).astype(float)
share = presence.mean()
presence = presence[share[(share > 0.1) & (share < 0.9)].index]
num_taxa = presence.shape[1]
model = pef.ExpFamPCA(pef.families.Bernoulli(), num_features=num_taxa, latent_dim=3)
guide = pef.LaplaceGuide(model)
fit = guide.fit(presence)
print(f"{num_taxa} taxa, converged: {fit.converged} after {fit.sweeps[-1].number} sweeps")

# %%
# A biplot has both sides of the table: samples as points, and the taxa with the largest
# loadings as arrows. The model has not seen the trees, and yet they fall apart.

with torch.no_grad():
    posterior = guide.posterior(presence)
ax = pef.plots.plot_biplot(posterior, guide.loading, names=list(presence.columns), labels=tree)

# %%
# The report on this model.

print(pef.check(model, guide, presence))

# %%
# Samples of one tree are not independent of each other, and where the family is in doubt,
# so are the intervals that rest on it. The sandwich covariance of loading and intercept
# replaces the family's word by the spread between rows.

whole = pef.LaplaceGuide(model, params=guide, globals="laplace")
whole.update_globals(presence)
sandwich = whole.coefficients.sandwich.variance().sqrt()
ratio = (sandwich / whole.coefficients.variance().sqrt()).median()
print(f"sandwich standard deviations are {ratio:.2f} times the model's (median)")
