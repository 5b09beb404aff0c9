"""A block inside a larger model: learning with labels
===================================================

A block may stand in any Pyro model. Here a linear head predicts the digit of an image from
three latents. Loading, intercept and head are trained together, without step sizes.

An image has 64 pixels of 16 points, which outvote its one label. Weights of 0.02 on the pixels
let the label be heard.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroSample
from sklearn.datasets import load_digits
from torch import Tensor

import pyro_expfam as pef

pyro.set_rng_seed(0)
pixels, digits = (torch.tensor(x) for x in load_digits(return_X_y=True))
order = torch.randperm(len(pixels))
pixels, digits = pixels[order].float(), digits[order]
train, test = slice(0, 1200), slice(1200, None)
WEIGHT = torch.full((1, 1), 0.02)


class Supervised(PyroModule):
    """Images and their digits, which share latents."""

    def __init__(self) -> None:
        super().__init__()
        self.images = pef.ExpFamPCA(pef.families.Binomial(16), num_features=64, latent_dim=3)
        self.weight = PyroSample(dist.Normal(0.0, 3.0).expand([3, 10]).to_event(2))
        self.bias = PyroSample(dist.Normal(0.0, 3.0).expand([10]).to_event(1))

    def forward(self, counts: Tensor, digit: Tensor | None = None) -> Tensor:
        """The digits of images, drawn or observed."""
        z = self.images(counts, weights=WEIGHT)
        logits = z @ self.weight + self.bias
        with pyro.plate("labels", len(counts)):
            return pyro.sample("digit", dist.Categorical(logits=logits), obs=digit)


# %%
# A guide usually finds the latents of an image from everything that the model observes of it,
# the digit included. To predict digits of new images, train the latents as they will be found
# then: from the pixels alone, as an encoder does. The digits still train the loading, through
# the implicit gradient of the latents.

model = Supervised()
guide = pef.DEQMAPGuide(model, condition_on="table")
fit = guide.fit(pixels[train], digits[train], max_sweeps=300)
print(fit)

# %%
# Compare with a fit of the pixels that has never seen a digit, and a head trained
# afterwards.


def accuracy(logits: Tensor) -> float:
    """The share of test digits that a head names."""
    return float((logits.argmax(-1) == digits[test]).float().mean())


with torch.no_grad():
    latents = guide.block("images").latents(pixels[test], weights=WEIGHT)
    head = guide.median(pixels[test])
    together = accuracy(latents @ head["weight"] + head["bias"])

apart_guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Binomial(16), 64, latent_dim=3))
apart_guide.fit(pixels[train])
with torch.no_grad():
    z = apart_guide.latents(pixels)
apart = torch.nn.Linear(3, 10)
optimizer = torch.optim.Adam(apart.parameters(), lr=0.05)
for _ in range(300):
    loss = torch.nn.functional.cross_entropy(apart(z[train]), digits[train])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"pixels and digits together: {together:.1%} of the test digits")
print(f"pixels first, then digits: {accuracy(apart(z[test])):.1%}")

# %%
# The latents of the test images in the model of both.

ax = pef.plots.plot_latents(latents, labels=digits[test])
