"""Laplace inference on counts of genes in single cells, from the number of latents to criticism.

pyPLNmodels comes with counts of transcripts in single cells of three types. A cell's counts are
Poisson given its size, the total of what was sequenced of it, and given its latents.

1. Choose: :func:`pef.compare_latent_dims` fits several numbers of latents, and says which explains
   cells that it has not seen.
2. Fit: ``guide.fit`` with :class:`pef.LaplaceEvidence`, which integrates the latents out. A joint
   fit makes loadings too large and latents too small; the evidence does not.
3. Posterior: :class:`pef.LaplaceGuide` for the latents, and for loading and intercept.
4. Check: :func:`pef.check` says in words what of it can be trusted.
5. Compare: leaving out cells, for the Poisson model and for a binomial one, whose totals are the
   sizes of the cells.
6. Draw: cells with their regions, the loadings with intervals, predictions, Pareto diagnostics.

Run it with ``python examples/laplace_workflow.py``. Tables go to the terminal, and pictures to
``examples/output/``.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any, NamedTuple

with warnings.catch_warnings():
    # ArviZ 0.23 announces ArviZ 1.x at import, and pyPLNmodels uses pkg_resources.
    warnings.simplefilter("ignore")
    import arviz as az
    from pyPLNmodels import load_scrna

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch
from torch import Tensor

import pyro_expfam as pef

OUTPUT = Path(__file__).parent / "output"
SEED = 0
NUM_CELLS, NUM_GENES = 300, 40
LATENT_DIMS = (2, 4, 6, 8, 10)
DRAWS = 400
INTERCEPT_SCALE = 5.0


class Cells(NamedTuple):
    """Counts ``(N, d)``, sizes of the cells ``(N, 1)``, names of genes and types of cells."""

    counts: Tensor
    size: Tensor
    genes: list[str]
    types: list[str]

    @property
    def offset(self) -> Tensor:
        """Log sizes relative to their mean."""
        return (self.size / self.size.mean()).log()


class Fitted(NamedTuple):
    """A model with its posterior, and what ArviZ needs of it."""

    model: pef.ExpFamPCA
    guide: pef.LaplaceGuide
    arguments: dict[str, Any]
    idata: Any


def load_cells() -> Cells:
    """The cells that have any count of the genes whose counts vary most."""
    with contextlib.redirect_stdout(io.StringIO()):
        data = load_scrna(n_samples=NUM_CELLS, dim=NUM_GENES)
    table = data["endog"]
    counts = torch.tensor(table.to_numpy(), dtype=torch.float64)
    seen = counts.sum(1) > 0
    types = [name for name, keep in zip(data["labels"], seen, strict=True) if keep]
    counts = counts[seen]
    return Cells(counts, counts.sum(1, keepdim=True), [str(x) for x in table.columns], types)


def fit(
    family: pef.families.Family, cells: Cells, latent_dim: int, offset: Tensor | None
) -> Fitted:
    """Loading and intercept at the maximum of the evidence, with their posterior."""
    pyro.clear_param_store()
    pyro.set_rng_seed(SEED)
    arguments: dict[str, Any] = {"offset": offset}
    model = pef.ExpFamPCA(
        family, cells.counts.shape[1], latent_dim, intercept_scale=INTERCEPT_SCALE
    ).double()
    trained = pef.DEQMAPGuide(model)
    trained.fit(cells.counts, **arguments, loss=pef.LaplaceEvidence())
    guide = pef.LaplaceGuide(model, params=trained, globals="laplace")
    guide(cells.counts, **arguments)
    idata = pef.to_arviz(model, guide, cells.counts, num_samples=DRAWS, **arguments)
    return Fitted(model, guide, arguments, idata)


def compare(fits: dict[str, Fitted]) -> None:
    """Which family explains cells better that it has not seen."""
    with warnings.catch_warnings():
        # Cells with a large Pareto shape are in the picture.
        warnings.simplefilter("ignore")
        table = az.compare({name: fit.idata for name, fit in fits.items()}, var_name="y_marginal")
    print("\nLeave-one-out cross-validation of cells, latents integrated out\n")
    print(table.iloc[:, :6].to_string())


def draw_fit(fitted: Fitted, cells: Cells) -> None:
    """Latents, loadings, predictions and Pareto shapes of a fit."""
    aligned = pef.align(fitted.idata)
    figure, grid = plt.subplots(2, 2, figsize=(10, 8), layout="constrained")
    pef.plots.plot_latents(aligned, labels=cells.types, ax=grid[0, 0])
    pef.plots.plot_loading(aligned, names=cells.genes, num_features=15, ax=grid[0, 1])
    some = np.random.default_rng(SEED).choice(len(cells.counts), 10, replace=False)
    pef.plots.plot_reconstruction(fitted.idata, rows=some.tolist(), ax=grid[1, 0])
    grid[1, 0].set(xscale="symlog", yscale="symlog")
    pef.plots.plot_khat(fitted.idata["sample_stats"]["khat"].values.ravel(), ax=grid[1, 1])
    figure.savefig(OUTPUT / "cells.png", dpi=150)
    plt.close(figure)


def main() -> None:
    """Choose, fit, check, compare and draw."""
    mpl.use("agg")
    OUTPUT.mkdir(exist_ok=True)
    cells = load_cells()
    print(f"{len(cells.counts)} cells, {len(cells.genes)} genes\n")
    poisson = pef.families.Poisson()
    comparison = pef.compare_latent_dims(
        poisson, cells.counts, LATENT_DIMS, cells.offset, intercept_scale=INTERCEPT_SCALE
    )
    print(comparison)
    figure, ax = plt.subplots(figsize=(5, 3.5), layout="constrained")
    comparison.plot(ax)
    figure.savefig(OUTPUT / "latent_dims.png", dpi=150)
    plt.close(figure)
    fits = {"Poisson": fit(poisson, cells, comparison.best, cells.offset)}
    best = fits["Poisson"]
    print()
    print(pef.check(best.model, best.guide, cells.counts, **best.arguments))
    fits["binomial"] = fit(pef.families.Binomial(cells.size), cells, comparison.best, None)
    compare(fits)
    draw_fit(best, cells)


if __name__ == "__main__":
    main()
