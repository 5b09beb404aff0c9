"""A questionnaire: answers on scales
==================================

The American National Election Study of 1996 asked 944 voters where they and the candidates
stand between left and right (1 to 7), for their party (0 to 6), and how often they watch the
news (0 to 7 days a week). statsmodels ships the answers.

An answer on a scale of K + 1 steps is a count out of K, with a different K in each column.
"""

import pyro
import torch
from statsmodels.datasets import anes96

import pyro_expfam as pef

pyro.set_rng_seed(0)
survey = anes96.load_pandas().data
items = {"TVnews": 7, "selfLR": 6, "ClinLR": 6, "DoleLR": 6, "PID": 6, "educ": 6, "income": 23}
first = {"TVnews": 0, "selfLR": 1, "ClinLR": 1, "DoleLR": 1, "PID": 0, "educ": 1, "income": 1}
answers = survey[list(items)] - first
steps = torch.tensor(list(items.values()), dtype=torch.float32)

model = pef.ExpFamPCA(pef.families.Binomial(steps), num_features=len(items), latent_dim=2)
guide = pef.LaplaceGuide(model, globals="laplace")
fit = guide.fit(answers)
print(f"converged: {fit.converged}, {fit.seconds:.1f} seconds")

# %%
# The items that make up each latent, with 90% intervals.

idata = pef.align(pef.to_arviz(model, guide, answers, num_samples=200))
ax = pef.plots.plot_loading(idata, latent=0)

# %%
# Voters by their latents. The vote itself, Clinton or Dole, is not in the table.

votes = survey["vote"].map({0.0: "Clinton", 1.0: "Dole"})
ax = pef.plots.plot_latents(guide.posterior(answers), labels=votes)

# %%
# Voters may skip questions. Hide one answer in five, and predict it from the other answers of the
# same voter.

answered = torch.rand(answers.shape) < 0.8
again = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Binomial(steps), len(items), latent_dim=2))
again.fit(answers, mask=answered)
with torch.no_grad():
    z = again.latents(answers, mask=answered)
    expected = steps * (z @ again.loading.T + again.intercept).sigmoid()
truth = torch.tensor(answers.to_numpy(), dtype=torch.float32)
means = torch.where(answered, truth, 0).sum(0) / answered.sum(0)
for name, item in zip(items, range(len(items)), strict=True):
    hidden = ~answered[:, item]
    error = (expected - truth)[hidden, item].square().mean().sqrt()
    baseline = (means - truth)[hidden, item].square().mean().sqrt()
    print(f"{name:8} error {error:.2f} steps, by the mean of the item {baseline:.2f}")

# %%
# ``check`` finds a misfit of scales: people choose the middle and the ends more often than under a
# binomial law.

print(pef.check(model, guide, answers))
