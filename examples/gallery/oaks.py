"""Ecology: fungi and bacteria on oak leaves
=========================================

116 samples of oak leaves, counts of 114 taxa, and three trees, of which one is susceptible to
mildew (Jakuschkin et al., 2016; pyPLNmodels ships the table). What differs between trees, and
does a Poisson model fit?
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
common = oaks["endog"].sum().nlargest(30).index  # the 30 most frequent taxa
counts = oaks["endog"][common]
offset = torch.tensor(oaks["offsets"][common].to_numpy(), dtype=torch.float32)  # log depth

model = pef.ExpFamPCA(pef.families.Poisson(), num_features=30, latent_dim=3)
guide = pef.LaplaceGuide(model)
fit = guide.fit(counts, offset=offset)
print(f"converged: {fit.converged}, {fit.seconds:.1f} seconds")

# %%
# A biplot has both sides of the table: samples as points, and the taxa whose loadings are
# largest as arrows. The trees fall apart.

with torch.no_grad():
    posterior = guide.posterior(counts, offset=offset)
ax = pef.plots.plot_biplot(posterior, guide.loading, names=list(common), labels=oaks["tree"])

# %%
# Is it a good model of these counts? ``check`` looks.

report = pef.check(model, guide, counts, offset=offset)
print(report)

# %%
# Counts of taxa vary more than Poisson counts do, with three latents and with twelve. The
# map above remains a description of the table. Intervals that take the Poisson law at its
# word are too narrow. The sandwich covariance of loading and intercept does not rest on
# that law: it compares the scores of the rows with each other.

posterior_guide = pef.LaplaceGuide(model, params=guide, globals="laplace")
posterior_guide.update_globals(counts, offset=offset)
model_sd = posterior_guide.coefficients.variance().sqrt()
sandwich_sd = posterior_guide.coefficients.sandwich.variance().sqrt()
ratio = (sandwich_sd / model_sd).median()
print(f"sandwich standard deviations are {ratio:.1f} times those of the model (median)")
