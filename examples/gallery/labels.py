"""Cell types of which only some are known
========================================

pyPLNmodels ships counts of transcripts in single cells of three types. Suppose that an expert has
named the types of 60 cells of 400. One model describes counts and types: a table whose latents
also decide the type. A cell without a name tells of the loading all the same.
"""

import warnings
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroSample
from torch import Tensor

import pyro_expfam as pef

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports pkg_resources
    from pyPLNmodels import load_scrna

pyro.set_rng_seed(0)
data = load_scrna(n_samples=400, dim=60)
counts, types = data["endog"], pd.Categorical(data["labels"])
label = torch.tensor(types.codes).long()
named = torch.zeros(len(label), dtype=torch.bool)
named[torch.randperm(len(label))[:60]] = True
size = torch.tensor(counts.sum(axis=1).to_numpy(), dtype=torch.float32)[:, None]
offset = (size / size.mean()).log()


class Cells(PyroModule):
    """Counts of genes, and the type of a cell by its latents."""

    def __init__(self) -> None:
        super().__init__()
        self.genes = pef.ExpFamPCA(pef.families.NegativeBinomial(1.0), 60, latent_dim=2)
        self.weight = PyroSample(dist.Normal(0.0, 2.0).expand([2, 3]).to_event(2))
        self.bias = PyroSample(dist.Normal(0.0, 2.0).expand([3]).to_event(1))

    def forward(
        self,
        counts: pd.DataFrame,
        offset: Tensor,
        label: Tensor | None = None,
        named: Any = True,
    ) -> Tensor:
        """The types of cells, of which those that are named are observed."""
        z = self.genes(counts, offset=offset)
        logits = z @ self.weight + self.bias
        with pyro.plate("cells", len(counts)), poutine.mask(mask=named):
            return pyro.sample("type", dist.Categorical(logits=logits), obs=label)


model = Cells()
guide = pef.LaplaceGuide(model)
known = torch.where(named, label, 0)  # what stands at a cell without a name is not read
fit = guide.fit(counts, offset, known, named)
print(f"converged: {fit.converged} after {fit.sweeps[-1].number} sweeps")

# %%
# The latents of a cell with a name follow from its counts and its name, the latents of all others
# from their counts alone. So a name moves the latents of its own cell, and makes them a
# little more certain.

with_names = guide.posteriors(counts, offset, known, named)["genes.z"]
without = guide.posteriors(counts, offset)["genes.z"]
moved = (with_names.mean - without.mean).norm(dim=-1)
certain = (without.variance / with_names.variance).sqrt().mean(-1)
for name, rows in {"cells with a name": named, "cells without": ~named}.items():
    print(
        f"{name:18} moved by {moved[rows].mean():.3f}, sd smaller by {certain[rows].mean() - 1:.1%}"
    )

# %%
# Names that were given (the other cells are grey), and names that the model finds.

found = guide.median(counts, offset)
guess = (found["genes.z"] @ found["weight"] + found["bias"]).argmax(-1)
names = types.categories.to_numpy()
given = pd.Series(names[label]).where(named.numpy())
figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharex=True, sharey=True, layout="constrained")
for ax, title, labels in zip(axes, ("given", "found"), (given, names[guess]), strict=True):
    pef.plots.plot_latents(without.mean, labels=labels, ax=ax)
    ax.set(title=title)

# %%
# How many names are right? Macrophages are easy to tell. Two kinds of T cells are not.

right = (guess == label)[~named]
print(f"{right.float().mean():.0%} of the cells without a name")
for number, name in enumerate(names):
    print(f"{name:14} {right[label[~named] == number].float().mean():.0%}")
