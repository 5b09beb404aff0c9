"""Laplace inference on counts of genes in single cells, from the number of latents to criticism.

pyPLNmodels comes with counts of transcripts in single cells of three types. A cell's counts are
Poisson given its size, the total of what was sequenced of it, and given its latents.

1. Choose: :func:`pef.compare_latent_dims` fits several numbers of latents, and scores each on
   held-out cells.
2. Fit: ``guide.fit`` of a :class:`pef.LaplaceGuide`, which integrates the latents out.
3. Posterior: the same guide, for the latents, and for loading and intercept.
4. Check: :func:`pef.check` reports in words what can be trusted.
5. Compare: cross-validation over cells, for the Poisson model and for a binomial one with the sizes
   of the cells as totals. ArviZ leaves out cells by weighting the draws, and reports for how many
   cells this is unreliable. Fits without a fifth of the cells at a time need no weights.
6. Draw: cells with their regions, the loadings with intervals, predictions, Pareto diagnostics.

Run it with ``python examples/laplace_workflow.py``. Tables go to the terminal, and pictures to
``examples/output/``.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Callable
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
NUM_FOLDS = 5
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


class Law(NamedTuple):
    """The law of the counts of some cells, given their sizes."""

    family: pef.families.Family
    offset: Tensor | None


class Fitted(NamedTuple):
    """A model with its posterior, its arguments and its draws for ArviZ."""

    model: pef.ExpFamPCA
    guide: pef.LaplaceGuide
    arguments: dict[str, Any]
    idata: Any


ALL = slice(None)
Rows = Tensor | slice
LawOf = Callable[[Cells, Rows], Law]


def poisson(cells: Cells, rows: Rows) -> Law:
    """Rates grow with the size of a cell."""
    return Law(pef.families.Poisson(), cells.offset[rows])


def binomial(cells: Cells, rows: Rows) -> Law:
    """The size of a cell is its number of trials."""
    return Law(pef.families.Binomial(cells.size[rows]), None)


LAWS: dict[str, LawOf] = {"Poisson": poisson, "binomial": binomial}


def load_cells() -> Cells:
    """The genes with the most variable counts, and the cells with any count of them."""
    with contextlib.redirect_stdout(io.StringIO()):
        data = load_scrna(n_samples=NUM_CELLS, dim=NUM_GENES)
    table = data["endog"]
    counts = torch.tensor(table.to_numpy(), dtype=torch.float64)
    seen = counts.sum(1) > 0
    types = [name for name, keep in zip(data["labels"], seen, strict=True) if keep]
    counts = counts[seen]
    return Cells(counts, counts.sum(1, keepdim=True), [str(x) for x in table.columns], types)


def train(law: LawOf, cells: Cells, rows: Rows, latent_dim: int) -> pef.LaplaceGuide:
    """Loading and intercept at the maximum of the evidence of some cells."""
    pyro.set_rng_seed(SEED)
    family, offset = law(cells, rows)
    num_genes = cells.counts.shape[1]
    model = pef.ExpFamPCA(family, num_genes, latent_dim, intercept_scale=INTERCEPT_SCALE).double()
    guide = pef.LaplaceGuide(model)
    guide.fit(cells.counts[rows], offset=offset)
    return guide


def fit(law: LawOf, cells: Cells, latent_dim: int) -> Fitted:
    """The posterior around the maximum of the evidence of all cells."""
    trained = train(law, cells, ALL, latent_dim)
    arguments: dict[str, Any] = {"offset": law(cells, ALL).offset}
    model = trained.model
    guide = pef.LaplaceGuide(model, params=trained, globals="laplace")
    guide.update_globals(cells.counts, **arguments)
    idata = pef.to_arviz(model, guide, cells.counts, num_samples=DRAWS, **arguments)
    return Fitted(model, guide, arguments, idata)


def leave_one_out(fitted: Fitted) -> Any:
    """ArviZ's estimate of the density of every cell under a fit without it."""
    with warnings.catch_warnings():
        # ArviZ warns of large Pareto shapes, which are printed and drawn below.
        warnings.simplefilter("ignore")
        return az.loo(fitted.idata, var_name="y_marginal", pointwise=True)


def held_out(law: LawOf, cells: Cells, latent_dim: int) -> Tensor:
    """The log evidence of every cell under a fit without its fold, to second order."""
    num_cells = len(cells.counts)
    order = torch.randperm(num_cells, generator=torch.Generator().manual_seed(SEED))
    by_cell = cells.counts.new_empty(num_cells)
    for test in order.chunk(NUM_FOLDS):
        rest = torch.ones(num_cells, dtype=torch.bool)
        rest[test] = False
        guide = train(law, cells, rest, latent_dim)
        family, offset = law(cells, test)
        loading, intercept = guide.loading.detach(), guide.intercept.detach()
        by_cell[test] = pef.log_evidence(
            family, cells.counts[test], loading, intercept, offset=offset, order=2
        )
    return by_cell


def compare(fits: dict[str, Fitted], cells: Cells, latent_dim: int) -> None:
    """Compares families on cells that were left out."""
    with warnings.catch_warnings():
        # ArviZ warns of large Pareto shapes, which are printed below the table.
        warnings.simplefilter("ignore")
        table = az.compare({name: fit.idata for name, fit in fits.items()}, var_name="y_marginal")
    print("\nLeave-one-out cross-validation of cells, latents integrated out\n")
    print(table.iloc[:, :6].to_string())
    threshold = float(pef.evidence.khat_threshold(DRAWS))
    for name, fitted in fits.items():
        shape = np.asarray(leave_one_out(fitted).pareto_k)
        print(
            f"{name}: {(shape > 0.7).mean():.0%} of the cells have a Pareto shape above 0.7, "
            f"{(shape > threshold).mean():.0%} one above {threshold:.2f}, "
            f"the most for {DRAWS} draws"
        )
    print(f"\nLog evidence of held-out cells, {NUM_FOLDS} folds\n")
    by_cell = {name: held_out(LAWS[name], cells, latent_dim) for name in fits}
    best = max(by_cell.values(), key=lambda values: float(values.sum()))
    for name, values in by_cell.items():
        difference = best - values
        error = float(difference.std()) * math.sqrt(len(difference))
        print(
            f"{name:10}{values.sum():12,.1f}, {difference.sum():,.1f} ± {error:.1f} below the best"
        )


def draw_fit(fitted: Fitted, cells: Cells, comparison: pef.LatentDims) -> None:
    """Numbers of latents, latents, loadings, predictions and Pareto shapes of a fit."""
    aligned = pef.align(fitted.idata)
    figure, grid = plt.subplots(2, 3, figsize=(13, 7.5), layout="constrained")
    comparison.plot(grid[0, 0])
    pef.plots.plot_latents(aligned, labels=cells.types, ax=grid[0, 2])
    pef.plots.plot_loading(aligned, names=cells.genes, num_features=15, ax=grid[0, 1])
    some = np.random.default_rng(SEED).choice(len(cells.counts), 10, replace=False)
    pef.plots.plot_reconstruction(fitted.idata, rows=some.tolist(), ax=grid[1, 0])
    pef.plots.plot_khat(fitted.idata, ax=grid[1, 1])
    pef.plots.plot_khat(leave_one_out(fitted), ax=grid[1, 2])
    for ax in grid[1, 1:]:
        ax.set_xlabel("cell")
    figure.savefig(OUTPUT / "cells.png", dpi=100)
    plt.close(figure)


def main() -> None:
    """Choose, fit, check, compare and draw."""
    mpl.use("agg")
    OUTPUT.mkdir(exist_ok=True)
    cells = load_cells()
    print(f"{len(cells.counts)} cells, {len(cells.genes)} genes\n")
    family, offset = poisson(cells, ALL)
    comparison = pef.compare_latent_dims(
        family, cells.counts, LATENT_DIMS, offset, intercept_scale=INTERCEPT_SCALE
    )
    print(comparison)
    fits = {name: fit(law, cells, comparison.best) for name, law in LAWS.items()}
    best = fits["Poisson"]
    print()
    print(pef.check(best.model, best.guide, cells.counts, **best.arguments))
    compare(fits, cells, comparison.best)
    draw_fit(best, cells, comparison)


if __name__ == "__main__":
    main()
