"""Missing entries from the rest of their rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_expfam.guides import BlockGuide
from pyro_expfam.loadings.column_names import column_names
from pyro_expfam.prediction.filled_table import filled_like
from pyro_expfam.prediction.predictive import PredictiveTable, check_draws
from pyro_expfam.table_frames import as_pandas
from pyro_expfam.table_labels import labels_of


@dataclass(frozen=True, eq=False)
class Imputation:
    """The posterior predictive distribution of the ``k`` missing entries of a table.

    Unordered categories have no mean and no interval: theirs are NaN.

    Attributes:
        rows: the row of each missing entry, ``(k,)``.
        columns: its column, ``(k,)``.
        row_labels: the labels of the rows, or their positions, one per entry.
        column_labels: the labels of the columns likewise.
        mean: predictive means, ``(k,)``, in the units of the table.
        standard_error: standard deviations of the means, by latents and coefficients, ``(k,)``.
        standard_deviation: standard deviations of the entries, ``(k,)``.
        lower: the lower ends of predictive intervals, ``(k,)``.
        upper: the upper ends, ``(k,)``.
        draws: draws of the entries, ``(num_draws, k)``; of categories, numbers of levels.
        level: the probability of the intervals.
        filled: the table with its holes filled, in the form in which it came: by the mean, and
            columns of categories by the most probable level.
    """

    rows: Tensor
    columns: Tensor
    row_labels: list[Any]
    column_labels: list[Any]
    mean: Tensor
    standard_error: Tensor
    standard_deviation: Tensor
    lower: Tensor
    upper: Tensor
    draws: Tensor
    level: float
    filled: Any

    def __repr__(self) -> str:
        """A short form, without the numbers."""
        return (
            f"Imputation({len(self.rows):,} missing entries in {len(self.rows.unique()):,} rows "
            f"and {len(self.columns.unique()):,} columns, level={self.level})"
        )

    def to_frame(self) -> Any:
        """A frame of pandas with a line for each missing entry."""
        import pandas as pd

        numbers = ("mean", "standard_error", "standard_deviation", "lower", "upper")
        labels = {"row": self.row_labels, "column": self.column_labels}
        return pd.DataFrame({**labels, **{x: getattr(self, x).cpu().numpy() for x in numbers}})


@torch.no_grad()
def impute(
    guide: BlockGuide,
    y: Any,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    covariates: Any = None,
    num_draws: int = 200,
    level: float = 0.9,
) -> Imputation:
    r"""The posterior predictive distribution of the missing entries of a table.

    Latents are drawn from the guide's posterior given the present entries of their row. Loading and
    intercept are drawn too where the guide has a :class:`~pyro_expfam.CoefficientGuide`. Given a
    draw, an entry follows its family. A :class:`~pyro_expfam.DEQMAPGuide` has points in place of
    the latents' distribution, and intervals that are too narrow: take a
    :class:`~pyro_expfam.LaplaceGuide`. Rows go by tiles, so that memory holds the draws of a tile
    and the draws of the missing entries.

    Args:
        guide: a trained guide of a single block with a dense loading.
        y: observations, ``(N, d)``, of rows seen in training or new. Missing are the entries that
            ``mask`` marks, and NaN if the block has ``missing="nan"``.
        offset: known part of the natural parameters, broadcastable to ``(N, d)``; it must be finite
            at missing entries too.
        mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
        weights: non-negative weights of the log densities of entries, broadcastable to ``(N, d)``.
        covariates: known numbers of each row, ``(N, p)``.
        num_draws: draws of each missing entry.
        level: the probability of the intervals.

    Raises:
        TypeError: if ``guide`` is no guide of this package.
        ValueError: if it is not trained or not of a single block with a dense loading, or an
            argument is out of range.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.poisson(torch.exp(torch.randn(100, 1) @ torch.ones(1, 6)))
        >>> y[3, 2] = torch.nan
        >>> model = pef.ExpFamPCA(pef.families.Poisson(), 6, latent_dim=1, missing="nan")
        >>> guide = pef.LaplaceGuide(model)
        >>> _ = guide.fit(y)
        >>> found = pef.impute(guide, y)
        >>> found
        Imputation(1 missing entries in 1 rows and 1 columns, level=0.9)
        >>> bool(found.filled.isfinite().all()), found.draws.shape
        (True, torch.Size([200, 1]))

    Source: Rubin (1987), *Multiple Imputation for Nonresponse in Surveys*, for draws of missing
    entries from their posterior predictive distribution.
    """
    check_draws(num_draws, level)
    table = PredictiveTable(guide, y, offset, mask, weights, covariates)
    missing = ~table.present
    table.check_offset(missing)
    family, best = table.problem.family, table.problem.b.new_zeros(missing.shape)
    parts: list[list[Tensor]] = []
    for rows, predicted in table.tiles(num_draws):
        holes = missing[rows]
        best[rows] = predicted.most_probable(family)
        lower, upper = predicted.interval(level)
        moments = (predicted.mean, predicted.standard_error, predicted.standard_deviation)
        parts.append([x[..., holes] for x in (*moments, lower, upper, predicted.draws)])
    mean, error, deviation, lower, upper, draws = (
        torch.cat(each, -1) for each in zip(*parts, strict=True)
    )
    places = missing.nonzero()
    row_labels = labels_of(as_pandas(y)).rows
    names = column_names(guide)
    return Imputation(
        rows=places[:, 0],
        columns=places[:, 1],
        row_labels=[int(k) if row_labels is None else row_labels[int(k)] for k in places[:, 0]],
        column_labels=[names[int(k)] for k in places[:, 1]],
        mean=mean,
        standard_error=error,
        standard_deviation=deviation,
        lower=lower,
        upper=upper,
        draws=draws,
        level=level,
        filled=_filled(guide, y, best, missing),
    )


def _filled(guide: BlockGuide, y: Any, best: Tensor, missing: Tensor) -> Any:
    """The table with the best values in its holes, its columns in their own order."""
    block: Any = guide.model
    names, columns = block.family.column_names, labels_of(as_pandas(y)).columns
    if names is not None and columns is not None and list(columns) != list(names):
        order = [list(names).index(name) for name in columns]
        best, missing = best[:, order], missing[:, order]
    return filled_like(y, best, missing)
