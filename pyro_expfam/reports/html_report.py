"""What a fit says, on one page that can be handed on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pyro_expfam
from pyro_expfam.checks import check
from pyro_expfam.diagnostics import to_arviz
from pyro_expfam.diagnostics.container import datasets
from pyro_expfam.families import Columns
from pyro_expfam.guides import BlockGuide, LaplaceGuide
from pyro_expfam.loadings import (
    RotatedLoading,
    communalities,
    explained_deviance,
    loading_test,
    rotate,
)
from pyro_expfam.loadings.column_names import predictor_names, single_block
from pyro_expfam.plots import plot_biplot, plot_columns, plot_loading, plot_residuals
from pyro_expfam.plots.style import axes_or_new, pyplot
from pyro_expfam.reports.page import Page
from pyro_expfam.table_labels import axis_of

MOST_ROWS = 60
"""The most columns of a table whose loadings are listed."""

MOST_DRAWN = 4e7
"""The most predictive draws of entries that a report holds."""


def report(
    guide: BlockGuide,
    y: Any,
    path: str | os.PathLike[str],
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    covariates: Any = None,
    title: str = "Exponential-family PCA",
    num_samples: int = 200,
) -> None:
    """Writes what a fit says to one page of HTML, which needs no other file.

    The page has the model and its size, the report of :func:`~pyro_expfam.check`, the deviance that
    latents explain, loadings with intervals and a test of each column, rows and columns in one
    plane, and each column against its posterior predictions.

    Args:
        guide: a fitted guide of a single block. Loadings have intervals with
            ``globals="laplace"``.
        y: observations, ``(N, d)``.
        path: the file to write.
        offset: known part of the natural parameters, broadcastable to ``(N, d)``.
        mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
        weights: non-negative weights of the log densities of entries, broadcastable to ``(N, d)``.
        covariates: known numbers of each row, ``(N, p)``.
        title: the title of the page.
        num_samples: posterior predictive draws.

    Raises:
        TypeError: if ``guide`` is no guide of this package.
        ValueError: if its model is no single block with a dense loading and one precision of the
            latents, or an argument does not fit.
        OSError: if the file cannot be written.
        ModuleNotFoundError: if matplotlib is not installed.

    Example:
        >>> import tempfile, pathlib
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.poisson(torch.exp(torch.randn(60, 2) @ torch.randn(2, 5) / 2))
        >>> guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 5, latent_dim=2))
        >>> _ = guide.fit(y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pef.report(guide, y, pathlib.Path(folder, "fit.html"), num_samples=20)
        ...     pathlib.Path(folder, "fit.html").read_text()[:15]
        '<!DOCTYPE html>'
    """
    single_block(guide)
    rotated = rotate(guide)
    table = (y, offset, mask, weights, covariates)
    page = Page(title)
    _model(page, guide, table)
    page.heading("What can be trusted")
    page.text(str(check(guide.model, guide, *table)))
    _explained(page, guide, table)
    _loadings(page, guide, rotated, covariates)
    if guide.model.num_covariates:
        _covariates(page, guide, table[4])
    _rows(page, rotated, guide.latents(*table).detach().double())
    _columns(page, guide, table, num_samples)
    Path(path).write_text(page.html(), encoding="utf-8")


def _model(page: Page, guide: BlockGuide, table: tuple[Any, ...]) -> None:
    import pandas as pd

    block: Any = guide.model
    y, family = table[0], block.family
    named = isinstance(family, Columns) and family.names is not None
    law = "a family per column" if named else str(family)
    beside = f", {block.num_covariates} covariates" if block.num_covariates else ""
    page.note(
        f"{type(guide).__name__} of {law}, {len(y):,} rows, {block.num_features:,} "
        f"columns, {block.latent_dim} latents{beside}. pyro-expfam {pyro_expfam.__version__}."
    )
    if named and block.num_features <= MOST_ROWS:
        laws = {str(name): str(law) for name, law in family._own_laws.items()}
        page.table(pd.Series(laws, name="family").rename_axis("column").to_frame())


def _explained(page: Page, guide: BlockGuide, table: tuple[Any, ...]) -> None:
    page.heading("What the latents explain")
    try:
        found = explained_deviance(guide, *table)
    except ValueError as error:
        # Deviances do not exist where a density has no bound.
        page.note(f"Left out: {error}.")
        return
    page.note(
        f"The latents explain {100 * found.total:.1f}% of the deviance of the table, divided among "
        "orthogonal components by falling part."
        + (" What covariates explain does not count." if guide.model.num_covariates else "")
    )
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(9, 3), layout="constrained")
    names = [str(k) for k in range(len(found.by_component))]
    left.bar(names, 100 * found.by_component.numpy())
    left.set(xlabel="component", ylabel="% of the deviance")
    right.hist(100 * found.by_column.numpy(), bins=20)
    right.set(xlabel="% of the deviance of a column that is explained", ylabel="columns")
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    page.picture(figure, "Deviance explained by component, and over the columns")
    order = np.argsort(-found.by_column.numpy())[:MOST_ROWS]
    page.table(found.table.iloc[[*order.tolist(), len(found.names)]])


def _loadings(page: Page, guide: BlockGuide, rotated: RotatedLoading, covariates: Any) -> None:
    page.heading("Loadings")
    page.note(
        "Latents are rotated by varimax, so that columns load on few of them each."
        + ("" if rotated.draws is None else " Intervals hold 90% of the posterior.")
    )
    W, frame = rotated.loading, rotated.table
    sd = None if rotated.draws is None else rotated.draws.std(0)
    names = [str(x) for x in frame.index]
    count = min(W.shape[1], 4)
    figure, axes = pyplot().subplots(
        1, count, figsize=(3.2 * count, 4.5), layout="constrained", squeeze=False
    )
    for latent, ax in enumerate(axes[0]):
        plot_loading(W, sd=sd, latent=latent, names=names, num_features=15, ax=ax)
        ax.spines[["top", "right"]].set_visible(False)
    page.picture(figure, "The largest loadings of each latent")
    frame = _with_tests(guide, frame, covariates)
    largest = torch.argsort(-W.norm(dim=1))[:MOST_ROWS].tolist()
    page.table(frame.iloc[largest])
    if len(frame) > MOST_ROWS:
        page.note(f"The {MOST_ROWS} columns of the longest loadings, of {len(frame)}.")


def _with_tests(guide: BlockGuide, frame: Any, covariates: Any) -> Any:
    """The loadings, with communalities and the test of each column where they can be had."""
    block: Any = guide.model
    if not block._known_family.is_coupled and block.row_effect != "fixed":
        frame = frame.assign(communality=communalities(guide, covariates).numpy())
    if isinstance(guide, LaplaceGuide) and guide._coefficient_guide is not None:
        test = loading_test(guide)
        owners = block._known_family.column_of_predictor(block.num_features).tolist()
        frame = frame.assign(q=test.q_value[owners], loads=test.loads[owners])
    return frame


def _covariates(page: Page, guide: BlockGuide, covariates: Any) -> None:
    """The coefficients of covariates, with intervals where they can be had."""
    import pandas as pd

    page.heading("Covariates")
    count = guide.model.num_covariates
    labels = axis_of(covariates, "columns")
    names = [str(x) for x in (range(count) if labels is None else labels)]
    columns = {"": guide.covariate_coefficients}
    has_intervals = isinstance(guide, LaplaceGuide) and guide._coefficient_guide is not None
    if has_intervals:
        low, high = (x[:, -count:] for x in guide.coefficients.interval())
        columns |= {" low": low, " high": high}
    page.note(
        "What one unit of a covariate adds to the linear predictor of each column."
        + (" Intervals hold 90% of the posterior." if has_intervals else "")
    )
    found = {
        f"{name}{kind}": values[:, k].detach().numpy()
        for k, name in enumerate(names)
        for kind, values in columns.items()
    }
    index = pd.Index([str(x) for x in predictor_names(guide)], name="column")
    page.table(pd.DataFrame(found, index=index).iloc[:MOST_ROWS])
    if len(index) > MOST_ROWS:
        page.note(f"The first {MOST_ROWS} columns of {len(index)}.")


def _rows(page: Page, rotated: RotatedLoading, z: Tensor) -> None:
    page.heading("Rows")
    z = rotated.latents(z)[:, : len(rotated.matrix)]
    if z.shape[1] == 1:
        ax = axes_or_new(None)
        ax.hist(z[:, 0].numpy(), bins=40)
        ax.set(xlabel="latent 0", ylabel="rows")
        page.picture(ax.figure, "The latents of the rows")
        return
    ax = axes_or_new(None, (6.5, 5.5))
    plot_biplot(z, rotated.loading, names=[str(x) for x in rotated.names], ax=ax)
    page.picture(ax.figure, "Rows as points, and the longest loadings as arrows")


def _columns(page: Page, guide: BlockGuide, table: tuple[Any, ...], num_samples: int) -> None:
    block: Any = guide.model
    page.heading("Columns against their predictions")
    entries = len(table[0]) * block.num_features
    if entries * num_samples > MOST_DRAWN:
        page.note("Left out: the table is too large for its posterior predictive draws.")
        return
    idata = to_arviz(
        block,
        guide,
        *table,
        num_samples=num_samples,
        groups=["posterior", "posterior_predictive", "observed_data"],
    )
    name = "y" if not block.name else f"{block.name}.y"
    if name not in datasets(idata).get("posterior_predictive", ()):
        page.note(f"Left out: {block.family} has no draws.")
        return
    page.picture(
        plot_columns(idata, variable=name),
        "The shares of rows with each value (bars), and in tables drawn from the fit (line, and "
        "band of 90%): the columns that fit worst",
    )
    page.picture(
        plot_residuals(idata, variable=name),
        "Ranks of the observations among their posterior predictive draws (band of 99% of uniform "
        "ranks): the columns that fit worst. Ranks of a column whose entries decide over their own "
        "row's latents, explained nearly wholly, crowd in the middle under the right model too",
    )
