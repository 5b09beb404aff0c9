"""Columns of a table given other columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_expfam.deq.arrays import as_boolean_array
from pyro_expfam.families.kinds import places
from pyro_expfam.guides import BlockGuide
from pyro_expfam.loadings.column_names import column_names
from pyro_expfam.prediction.predictive import Predicted, PredictiveTable, check_draws
from pyro_expfam.table_frames import as_pandas
from pyro_expfam.table_labels import axes_of, labels_of


@dataclass(frozen=True, eq=False)
class Prediction:
    """The posterior predictive distribution of ``q`` columns of ``N`` rows.

    Unordered categories have no mean and no interval: theirs are NaN.

    Attributes:
        columns: the labels of the predicted columns, or their positions.
        row_labels: the labels of the rows, or their positions.
        mean: predictive means, ``(N, q)``, in the units of the table.
        standard_error: standard deviations of the means, by latents and coefficients, ``(N, q)``.
        standard_deviation: standard deviations of the entries, ``(N, q)``.
        lower: the lower ends of predictive intervals, ``(N, q)``.
        upper: the upper ends, ``(N, q)``.
        draws: draws of the entries, ``(num_draws, N, q)``; of categories, numbers of levels.
        probabilities: for each column of unordered categories, by its label, the probabilities of
            its levels, ``(N, K)``.
        level: the probability of the intervals.
    """

    columns: list[Any]
    row_labels: list[Any]
    mean: Tensor
    standard_error: Tensor
    standard_deviation: Tensor
    lower: Tensor
    upper: Tensor
    draws: Tensor
    probabilities: dict[Any, Tensor]
    level: float

    def __repr__(self) -> str:
        """A short form, without the numbers."""
        return f"Prediction(columns={self.columns}, {len(self.mean):,} rows, level={self.level})"

    def to_frame(self) -> Any:
        """A frame of pandas with a line per row, and columns by what they are and their name."""
        import pandas as pd

        numbers = ("mean", "standard_error", "standard_deviation", "lower", "upper")
        parts = {
            name: pd.DataFrame(getattr(self, name).cpu().numpy(), self.row_labels, self.columns)
            for name in numbers
        }
        return pd.concat(parts, axis=1)


@torch.no_grad()
def predict(
    guide: BlockGuide,
    y: Any,
    columns: Sequence[Any],
    given: Sequence[Any] | None = None,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    covariates: Any = None,
    num_draws: int = 200,
    level: float = 0.9,
) -> Prediction:
    r"""Some columns given others, for rows seen in training or new.

    What stands in the predicted columns is never read. Latents, and loading and intercept where the
    guide has a :class:`~pyro_expfam.CoefficientGuide`, are drawn from their posterior as in
    :func:`impute`.

    Args:
        guide: a trained guide of a single block with a dense loading.
        y: observations, ``(N, d)``. A frame may lack columns that are not given.
        columns: the columns to predict: labels of the frame that the guide was trained on, or
            positions.
        given: the columns that are known; by default all others. Their missing entries are missing.
        offset: known part of the natural parameters, broadcastable to ``(N, d)``.
        mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
        weights: non-negative weights of the log densities of entries, broadcastable to ``(N, d)``.
        covariates: known numbers of each row, ``(N, p)``.
        num_draws: draws of each entry.
        level: the probability of the intervals.

    Raises:
        TypeError: if ``guide`` is no guide of this package.
        ValueError: if a column is unknown, is both predicted and given, or is given and absent; and
            as for :func:`impute`.

    Example:
        >>> import pandas as pd
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.poisson(torch.exp(1 + torch.randn(200, 1) @ torch.ones(1, 3)))
        >>> frame = pd.DataFrame(y.numpy(), columns=["oak", "elm", "ash"])
        >>> guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 3, latent_dim=1))
        >>> _ = guide.fit(frame)
        >>> found = pef.predict(guide, frame[["oak", "ash"]], columns=["elm"])
        >>> found
        Prediction(columns=['elm'], 200 rows, level=0.9)
        >>> bool(torch.corrcoef(torch.stack([found.mean[:, 0], y[:, 1]]))[0, 1] > 0.5)
        True
    """
    check_draws(num_draws, level)
    names = column_names(guide)
    targets = _places("columns", columns, names)
    known = [k for k in range(len(names)) if k not in targets]
    if given is not None:
        known = _places("given", given, names)
        both = [names[k] for k in known if k in targets]
        if both:
            raise ValueError(f"given must differ from columns, got {both} in both")
    y, absent = _with_all_columns(as_pandas(y), names)
    if given is not None and any(k in absent for k in known):
        raise ValueError(
            f"given must be columns of y, got {[names[k] for k in known if k in absent]}, which "
            "the frame does not have"
        )
    allowed = torch.zeros(len(names), dtype=torch.bool)
    allowed[[k for k in known if k not in absent]] = True
    mask = _and(mask, allowed, y, names)
    table = PredictiveTable(guide, y, offset, mask, weights, covariates)
    wanted = torch.zeros_like(table.present)
    wanted[:, targets] = True
    table.check_offset(wanted)
    parts = [_of_columns(predicted, targets, level) for _, predicted in table.tiles(num_draws)]
    mean, error, deviation, lower, upper, draws, probabilities = (
        torch.cat(each, -2) for each in zip(*parts, strict=True)
    )
    rows = labels_of(y).rows
    return Prediction(
        columns=[names[k] for k in targets],
        row_labels=list(range(len(mean))) if rows is None else list(rows),
        mean=mean,
        standard_error=error,
        standard_deviation=deviation,
        lower=lower,
        upper=upper,
        draws=draws,
        probabilities=_by_column(guide, probabilities, targets, names),
        level=level,
    )


def _of_columns(predicted: Predicted, targets: list[int], level: float) -> list[Tensor]:
    lower, upper = predicted.interval(level)
    moments = (predicted.mean, predicted.standard_error, predicted.standard_deviation)
    by_column = (*moments, lower, upper, predicted.draws)
    return [*(x[..., targets] for x in by_column), predicted.probabilities]


def _by_column(
    guide: BlockGuide, probabilities: Tensor, targets: list[int], names: list[Any]
) -> dict[Any, Tensor]:
    """The probabilities of the levels of each predicted column that has levels."""
    block: Any = guide.model
    family = block.family
    of_predictor = family.column_of_predictor(len(names)).tolist()
    with_levels = {
        column
        for kind in family.kinds(len(names))
        if kind.family.has_levels
        for column in places(kind.columns, len(names))
    }
    return {
        names[k]: probabilities[:, [p for p, column in enumerate(of_predictor) if column == k]]
        for k in targets
        if k in with_levels
    }


def _places(name: str, columns: Sequence[Any], names: list[Any]) -> list[int]:
    """The positions of columns by their labels or positions."""
    if isinstance(columns, str) or not hasattr(columns, "__iter__"):
        raise ValueError(f"{name} must be several columns, such as [{columns!r}], got {columns!r}")
    found = []
    for column in columns:
        if names.count(column) > 1:
            places = [k for k, other in enumerate(names) if other == column]
            raise ValueError(
                f"{name} must be the labels of one column each, got {column!r} of the columns "
                f"{places}: give one of these positions"
            )
        if column in names:
            found.append(names.index(column))
        elif isinstance(column, int) and not isinstance(column, bool) and column < len(names):
            found.append(column % len(names))
        else:
            raise ValueError(
                f"{name} must be columns of the guide, got {column!r}, none of {names}"
            )
    if not found or len(set(found)) != len(found):
        raise ValueError(f"{name} must be different columns, at least one, got {list(columns)}")
    return found


def _with_all_columns(y: Any, names: list[Any]) -> tuple[Any, set[int]]:
    """A frame with all columns of the guide, and the positions of those that were absent."""
    columns = axes_of(y)[1]
    if columns is None or not hasattr(y, "reindex") or all(x in columns for x in names):
        return y, set()
    others = [x for x in columns if x not in names]
    if others:
        raise ValueError(f"y must have columns of the guide alone, got {others} too")
    absent = {k for k, x in enumerate(names) if x not in columns}
    return y.reindex(columns=names), absent


def _and(mask: Any, allowed: Tensor, y: Any, names: list[Any]) -> Any:
    """The mask, without the columns that are not given; in the order of the names of the guide."""
    columns = axes_of(y)[1]
    if columns is not None and set(columns) == set(names) and list(columns) != names:
        allowed = allowed[[names.index(x) for x in columns]]
    array = allowed if mask is None else torch.as_tensor(as_boolean_array("mask", mask)) & allowed
    if columns is None or set(columns) != set(names):
        return array
    import pandas as pd

    return pd.DataFrame(array.expand(len(y), -1).numpy(), axes_of(y)[0], list(columns))
