"""A block inside a larger model: learning with labels
===================================================

A block can be part of any Pyro model. Here a linear head predicts the digit of an image from its
latents. Loading, intercept and head are trained together by stochastic variational inference.
"""

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


class Supervised(PyroModule):
    """Images, with digits that depend on the same latents."""

    def __init__(self) -> None:
        super().__init__()
        self.images = pef.ExpFamPCA(pef.families.Binomial(16), num_features=64, latent_dim=6)
        self.head = torch.nn.Linear(6, 10)

    def forward(self, counts: Tensor, digit: Tensor | None = None) -> Tensor:
        """The digits of images, drawn or observed."""
        z = self.images(counts)
        with pyro.plate("labels", len(z)):
            logits = self.head(z)
            return pyro.sample("digit", dist.Categorical(logits=logits), obs=digit)


model = Supervised()
guide = pef.DEQMAPGuide(model)
svi = SVI(model, guide, ClippedAdam({"lr": 0.05}), Trace_ELBO())
losses = [svi.step(pixels[train], digits[train]) for _ in range(150)]
print(f"loss: {losses[0]:,.0f} at first, {losses[-1]:,.0f} at last")

# %%
# The latents of a new image are inferred from its pixels alone, and the head predicts the digit
# from them. Compare this with a fit to the pixels without digits, and the same head trained
# afterwards.


def accuracy(latents: Tensor, head: torch.nn.Module) -> float:
    """The share of test digits that a head predicts correctly."""
    return float((head(latents).argmax(-1) == digits[test]).float().mean())


with torch.no_grad():
    together = accuracy(guide.block("images").latents(pixels[test]), model.head)

apart_guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Binomial(16), 64, latent_dim=6))
apart_guide.fit(pixels[train])
with torch.no_grad():
    z = apart_guide.latents(pixels)
head = torch.nn.Linear(6, 10)
optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
for _ in range(300):
    loss = torch.nn.functional.cross_entropy(head(z[train]), digits[train])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"pixels and digits together: {together:.1%} of the test digits")
print(f"pixels first, then digits: {accuracy(z[test], head):.1%}")

# %%
# The latents of the test images in the joint model.

with torch.no_grad():
    latents = guide.block("images").latents(pixels[test])
ax = pef.plots.plot_latents(latents, labels=digits[test])

# %%
# The guide conditions the latents of a row on its pixels, not on its digit. The digit affects
# only the loading. This suits prediction, since the digit of a new row is unknown. It is not the
# posterior of ``z`` given *all* observations: the package warns that another observed site depends
# on ``z``.
