"""A survey with holes: voters of 1996
====================================

944 voters of the American National Election Study of 1996 told their age, income and education,
the days of the week on which they watch television news, where they place themselves and the two
candidates between liberal and conservative, their party, and their vote. Yes or no, ordered
answers and numbers stand side by side, and every seventh answer is taken out here, so that its
prediction can be compared with it. The data comes with statsmodels.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import statsmodels.api as sm
import torch

import pyro_expfam as pef
from pyro_expfam.families import Columns

pyro.set_rng_seed(0)
data = sm.datasets.anes96.load_pandas().data


def ordered(name: str) -> pd.Categorical:
    """Answers in their order, whose names are numbers here."""
    return pd.Categorical(data[name].astype(int), ordered=True).rename_categories(str)


answers = pd.DataFrame(
    {
        "votes for Dole": data["vote"] == 1,
        "party": ordered("PID"),
        "places self": ordered("selfLR"),
        "places Clinton": ordered("ClinLR"),
        "places Dole": ordered("DoleLR"),
        "education": ordered("educ"),
        "TV news": ordered("TVnews"),
        "age": data["age"] / 10,  # decades
        "income": data["income"] / 6,  # quarters of the 24 brackets
    }
)
removed = np.random.default_rng(0).random(answers.shape) < 1 / 7
table = answers.astype({"votes for Dole": "boolean"}).mask(removed)

# %%
# Every column takes its family from its dtype. The latents see neither the units of a column nor
# the distances between answers, which the fit learns.

family = Columns.from_frame(table)
print(family.describe())

# %%
# How many latents? Each number is fitted, with the latents integrated out. The Bayesian information
# criterion weighs the likelihood against the number of parameters: the smallest is best. It falls
# by more with the second latent than with the third. The page goes on with two, which fit into one
# picture.

for latent_dim in (1, 2, 3):
    tried = pef.LaplaceGuide(pef.ExpFamPCA(family, latent_dim=latent_dim, missing="nan"))
    tried.fit(table)
    print(f"{latent_dim} latents: BIC {pef.fit_statistics(tried, table).bic:,.0f}")

# %%
# The fit integrates the latents out. ``globals="laplace"`` adds a posterior of loading and
# intercept.

model = pef.ExpFamPCA(family, latent_dim=2, missing="nan")
guide = pef.LaplaceGuide(model, globals="laplace")
fit = guide.fit(table)
print(f"converged: {fit.converged} after {fit.sweeps[-1].number} sweeps")
print(pef.explained_deviance(guide, table))

# %%
# After a varimax rotation the first latent is politics: vote, party and the place of oneself. The
# second one is what goes with education and income. Intervals hold 90%.

rotated = pef.rotate(guide, "varimax")
figure, axes = plt.subplots(1, 2, figsize=(7.5, 3.4), sharey=True, layout="constrained")
place = np.arange(len(answers.columns))[::-1]
names = ["politics, towards Dole", "education"]
for k, axis in enumerate(axes):
    middle, low, high = (x[:, k].numpy() for x in (rotated.loading, rotated.lower, rotated.upper))
    axis.axvline(0, color="0.7", linewidth=1)
    axis.errorbar(middle, place, xerr=(middle - low, high - middle), fmt="o", markersize=4)
    axis.set(yticks=place, yticklabels=answers.columns, xlabel=f"loading on {names[k]}")

# %%
# Voters in the plane of the two latents. An arrow points to where a column is large.

with torch.no_grad():
    scores = rotated.latents(guide.latents(table))
vote = np.where(answers["votes for Dole"], "Dole", "Clinton")
figure, axis = plt.subplots(figsize=(5.5, 4.5), layout="constrained")
pef.plots.plot_biplot(scores, rotated.loading, labels=vote, names=list(answers.columns), ax=axis)
axis.set(xlabel=names[0], ylabel=names[1])

# %%
# The answers that were taken out, against their predictions. Intervals of ordered answers end at
# answers, and so hold more than the 90% that they promise. Coverage counts an answer at the end of
# an interval by the part of its probability inside.

found = pef.impute(guide, table, num_draws=400)
rows, columns = found.rows.numpy(), found.columns.numpy()
codes = [x.cat.codes if x.dtype == "category" else x for _, x in answers.items()]
truth = np.column_stack(codes).astype(float)[rows, columns]
draws = found.draws.numpy()
ties = (draws == truth).mean(0) * np.random.default_rng(1).random(len(truth))
rank = (draws < truth).mean(0) + ties
inside = pd.Series((rank > 0.05) & (rank < 0.95)).groupby(answers.columns[columns]).mean()
right = pd.Series(found.filled.to_numpy(object)[rows, columns] == answers.to_numpy()[rows, columns])
print(f"coverage of intervals of 90%: {((rank > 0.05) & (rank < 0.95)).mean():.1%}")
print(inside.round(2).to_string())
is_vote = columns == 0
print(f"votes that were taken out, predicted right: {right[is_vote].mean():.0%}")
print(f"voters who voted like most: {max((vote == 'Dole').mean(), (vote != 'Dole').mean()):.0%}")

# %%
# One page of HTML for a colleague has all of it, and the checks of the fit.

with tempfile.TemporaryDirectory() as folder:
    page = Path(folder, "survey.html")
    pef.report(guide, table, page, title="Voters of 1996", num_samples=100)
    print(f"{page.stat().st_size / 1e6:.1f} MB")
