"""Counts from three batches: taking the batch away
================================================

900 simulated cells of three kinds were measured in three batches, at a depth that is known. Each
batch has gains of its own for every gene, so that the latents of a plain fit show the batch more
than the kind. With the batch as a covariate every gene has a coefficient for each batch, and the
latents show the kinds alone.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import torch
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

import pyro_expfam as pef

pyro.set_rng_seed(0)
NUM_CELLS, NUM_GENES = 900, 60
kind, batch = torch.arange(NUM_CELLS) % 3, torch.randint(3, (NUM_CELLS,))
gains = 0.7 * torch.randn(3, NUM_GENES)
profile = 0.8 * torch.randn(3, NUM_GENES) * (torch.rand(NUM_GENES) < 0.3)
depth = torch.exp(0.3 * torch.randn(NUM_CELLS, 1))
counts = torch.poisson(depth * torch.exp(0.2 + profile[kind] + gains[batch]))
cells = pd.DataFrame({"batch": np.array(["one", "two", "three"])[batch.numpy()]})
offset = depth.log()

# %%
# A plain fit, and a fit with the batch as a covariate. ``Design`` makes two indicators of the three
# batches: the intercept stands for the first.

plain = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), NUM_GENES, latent_dim=2))
_ = plain.fit(counts, offset)

design = pef.Design("~ batch", cells)
x = design(cells)
model = pef.ExpFamPCA(pef.families.Poisson(), NUM_GENES, 2, num_covariates=design.num_covariates)
corrected = pef.LaplaceGuide(model, globals="laplace")
_ = corrected.fit(counts, offset, covariates=x)
print(design)

# %%
# How well the nearest neighbours of a cell tell its kind, and its batch. Chance is a third.

latents = {
    "without": plain.latents(counts, offset).detach().numpy(),
    "with covariates": corrected.latents(counts, offset, covariates=x).detach().numpy(),
}
for name, z in latents.items():
    neighbours = KNeighborsClassifier(15)
    right = [
        (cross_val_predict(neighbours, z, labels.numpy()) == labels.numpy()).mean()
        for labels in (kind, batch)
    ]
    print(f"{name}: kind {right[0]:.0%}, batch {right[1]:.0%}")

# %%
# Colours are kinds, markers are batches. Without covariates there is a cloud for each batch.

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for ax, (name, z) in zip(axes, latents.items(), strict=True):
    for b, marker in enumerate("o^s"):
        own = (batch == b).numpy()
        colours = [f"C{k}" for k in kind[own].tolist()]
        ax.scatter(*z[own].T, c=colours, marker=marker, s=12, alpha=0.7, linewidths=0)
    ax.set(title=name, xlabel="latent 0", ylabel="latent 1", aspect="equal")
    ax.spines[["top", "right"]].set_visible(False)

# %%
# The gains of the batches are known here. The coefficients estimate them against the first batch,
# with intervals of 90%.

names = ["one", "two", "three"]
truth = torch.stack([gains[names.index(b)] - gains[0] for b in ("three", "two")], 1)
low, high = (end[:, 3:] for end in corrected.coefficients.interval(0.9))
estimate = (low + high) / 2
inside = ((low < truth) & (truth < high)).double().mean()
print(f"{inside:.0%} of the true coefficients are inside their intervals")

figure, ax = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
for k, name in enumerate(design.names):
    error = ((high - low) / 2)[:, k].numpy()
    ax.errorbar(truth[:, k], estimate[:, k], error, fmt="o", ms=3, lw=0.8, alpha=0.7, label=name)
ax.axline((0, 0), slope=1, color="grey", lw=0.8)
ax.set(xlabel="true coefficient", ylabel="estimate", aspect="equal")
ax.legend(frameon=False)
ax.spines[["top", "right"]].set_visible(False)
plt.show()
