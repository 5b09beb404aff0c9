"""Choosing a family: microbes on oak leaves, genes in cells
=========================================================

Counts of the most common taxa of fungi and bacteria on 116 oak leaves (Jakuschkin et al., 2016),
and of 15 genes in 400 cells, both as pyPLNmodels ships them. Which family do they have, and how
many latents?
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np

import pyro_expfam as pef

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports pkg_resources
    from pyPLNmodels import load_oaks, load_scrna

oaks, cells = load_oaks(), load_scrna()
common = oaks["endog"].sum().nlargest(15).index
counts, depth = oaks["endog"][common], oaks["offsets"][common]

# %%
# ``compare`` fits every family with every number of latents, on all leaves and without each third
# of them. Parameters that a family leaves out, here one size per taxon, are learnt.
# ``PoissonLogNormal()`` and ``ZeroInflatedNegativeBinomial()`` are further families of counts. They
# take minutes on this table.

families = {
    "Poisson": pef.families.Poisson(),
    "negative binomial": pef.families.NegativeBinomial(),
}
microbes = pef.compare(families, counts, [1, 2], offset=depth, num_folds=3)
print(microbes)

# %%
# Poisson counts are out of the question: their 90% intervals hold far fewer than 90% of the
# entries, and rows that were held out are tens of thousands of nats less probable. The negative
# binomial fits. The axis is logarithmic beyond 10 nats.

microbes.plot()

# %%
# The same for 15 genes in cells, with the logarithm of the total of a cell as an offset.

genes = cells["endog"].iloc[:, :15]
total = np.log(cells["endog"].sum(axis=1).to_numpy()[:, None])
single_cells = pef.compare(families, genes, [1, 2], offset=total - total.mean(), num_folds=3)
print(single_cells)

# %%
# The share of the entries inside their 90% intervals is a check that any family can fail. It is
# near 90% where the family is as wide as the table.

figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
found = {"microbes": microbes, "cells": single_cells}
for ax, (title, comparison) in zip(axes, found.items(), strict=True):
    rows = [row for row in comparison.rows if row.latent_dim == 1 and not row.failed]
    ax.barh([row.family for row in rows], [row.coverage for row in rows], color="0.6")
    ax.axvline(0.9, color="#D55E00")
    ax.set(title=title, xlabel="share in 90% intervals", xlim=(0, 1))
