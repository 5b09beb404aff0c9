"""Ecology: fungi and bacteria on oak leaves
=========================================

The table has counts of 114 taxa in 116 samples of leaves from three oaks, one of them susceptible
to mildew (Jakuschkin et al., 2016; pyPLNmodels ships it). How do the trees differ, and does a
Poisson model fit?
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
# A biplot shows samples as points, and the taxa with the largest loadings as arrows. The trees
# are separated.

with torch.no_grad():
    posterior = guide.posterior(counts, offset=offset)
ax = pef.plots.plot_biplot(posterior, guide.loading, names=list(common), labels=oaks["tree"])

# %%
# Is it a good model of these counts? ``check`` reports.

report = pef.check(model, guide, counts, offset=offset)
print(report)

# %%
# Counts of taxa vary more than Poisson counts, with three latents and with twelve. The biplot
# still describes the table, but intervals under the Poisson law are too narrow. The sandwich
# covariance of loading and intercept does not assume this law: it measures the spread of the
# scores of rows.

posterior_guide = pef.LaplaceGuide(model, params=guide, globals="laplace")
posterior_guide.update_globals(counts, offset=offset)
model_sd = posterior_guide.coefficients.variance().sqrt()
sandwich_sd = posterior_guide.coefficients.sandwich.variance().sqrt()
ratio = (sandwich_sd / model_sd).median()
print(f"sandwich standard deviations are {ratio:.1f} times the model's (median)")
