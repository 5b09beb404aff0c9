"""Handwritten digits: predicting hidden pixels
============================================

A model of a table predicts what is missing from it. Here a quarter of the pixels of each test
image is hidden. The latents of an image follow from the pixels that are left, and predict the
hidden ones with a standard deviation.
"""

import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch
from sklearn.datasets import load_digits

import pyro_expfam as pef

pyro.set_rng_seed(0)
images = torch.tensor(load_digits().data, dtype=torch.float32)
images = images[torch.randperm(len(images))]
train, test = images[:1500], images[1500:]
observed = torch.rand(test.shape) < 0.75  # False is missing

model = pef.ExpFamPCA(pef.families.Binomial(16), num_features=64, latent_dim=6)
guide = pef.LaplaceGuide(model)
fit = guide.fit(train)
print(f"converged: {fit.converged} after {fit.sweeps[-1].number} sweeps")

# %%
# The mask goes wherever the table goes. What stands in place of a missing entry is never
# read.
#
# Draws of the latents give draws of the pixels.

with torch.no_grad():
    posterior = guide.posterior(test, mask=observed)
    eta = posterior.sample((200,)) @ guide.loading.T + guide.intercept
    pixels = pef.distributions.Binomial(eta, total_count=16).sample()
mean, sd = pixels.mean(0), pixels.std(0)

error = (mean - test).abs()[~observed].mean()
baseline = (train.mean(0) - test).abs()[~observed].mean()
print(f"mean absolute error of hidden pixels: {error:.2f} points of 16")
print(f"the same by the mean of each pixel: {baseline:.2f}")

# %%
# The predictions are least certain where strokes may end.

grey = plt.get_cmap("gray_r").copy()
grey.set_bad("#9ecae1")
panels = {
    "scan": (test, grey),
    "observed": (test.where(observed, torch.nan), grey),
    "predicted": (mean, grey),
    "sd": (sd, plt.get_cmap("viridis")),
}
figure, grid = plt.subplots(len(panels), 8, figsize=(7, 3.8), layout="constrained")
for line, (name, (table, colours)) in zip(grid, panels.items(), strict=True):
    line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for axes, image in zip(line, np.asarray(table), strict=False):
        axes.imshow(image.reshape(8, 8), cmap=colours, vmin=0, vmax=16 if colours is grey else 5)
        axes.set(xticks=[], yticks=[])

# %%
# How often do predictive intervals hold the hidden pixels?

low, high = pixels.quantile(0.05, 0), pixels.quantile(0.95, 0)
inside = ((low <= test) & (test <= high))[~observed].float().mean()
print(f"90% intervals hold {inside:.0%} of the hidden pixels")

# %%
# Less than 90%: neighbouring points of a scan are dark together, so that a pixel varies
# more than a binomial count of 16 independent points does. :func:`pyro_expfam.check`
# reports it, and the remedy at hand is more latents.
