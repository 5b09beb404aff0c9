"""A block inside a larger model: learning with labels
===================================================

A block may stand in any Pyro model. Here a linear head predicts the digit of an image from
three latents. Loading, intercept and head are trained together by stochastic variational
inference.

An image has 64 pixels of 16 points, which outvote its one label. Weights of 0.02 on the pixels
let the label be heard.
"""

import warnings

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule
from pyro.optim import ClippedAdam
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
        self.head = torch.nn.Linear(3, 10)

    def forward(self, counts: Tensor, digit: Tensor | None = None) -> Tensor:
        """The digits of images, drawn or observed."""
        z = self.images(counts, weights=WEIGHT)
        with pyro.plate("labels", len(z)):
            logits = self.head(z)
            return pyro.sample("digit", dist.Categorical(logits=logits), obs=digit)


# %%
# The guide finds the latents of an image from its pixels alone, as an encoder does. It
# warns that the digit depends on them too. That is what prediction wants, where the digit
# is unknown, and so the warning is silenced here.

warnings.simplefilter("ignore", pef.guides.ConditioningWarning)
model = Supervised()
guide = pef.DEQMAPGuide(model)
svi = SVI(model, guide, ClippedAdam({"lr": 0.05}), Trace_ELBO())
losses = [svi.step(pixels[train], digits[train]) for _ in range(300)]
print(f"loss: {losses[0]:,.0f} at first, {losses[-1]:,.0f} at last")

# %%
# Compare with a fit of the pixels that has never seen a digit, and a head trained
# afterwards.


def accuracy(latents: Tensor, head: torch.nn.Module) -> float:
    """The share of test digits that a head names."""
    return float((head(latents).argmax(-1) == digits[test]).float().mean())


with torch.no_grad():
    latents = guide.block("images").latents(pixels[test], weights=WEIGHT)
    together = accuracy(latents, model.head)

apart_guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Binomial(16), 64, latent_dim=3))
apart_guide.fit(pixels[train])
with torch.no_grad():
    z = apart_guide.latents(pixels)
head = torch.nn.Linear(3, 10)
optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
for _ in range(300):
    loss = torch.nn.functional.cross_entropy(head(z[train]), digits[train])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"pixels and digits together: {together:.1%} of the test digits")
print(f"pixels first, then digits: {accuracy(z[test], head):.1%}")

# %%
# The latents of the test images in the model of both.

ax = pef.plots.plot_latents(latents, labels=digits[test])
