"""Ranks of the truth among draws, and what they say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyro_expfam.diagnostics.container import Group, Variable, container
from pyro_expfam.plots.ecdf import is_uniform, plot_ecdf
from pyro_expfam.plots.style import pyplot

MOST_SHOWN = 12


@dataclass(frozen=True, eq=False)
class Calibration:
    """The ranks of the truth among posterior draws; printed, it is a table.

    Attributes:
        ranks: the ranks by variable, from 0 to ``num_draws``, ``(S,)`` or ``(S, k)`` for ``S``
            simulations.
        num_draws: posterior draws of each simulation.
        num_failed: simulations whose fit has not converged, which are left out.
    """

    ranks: dict[str, np.ndarray]
    num_draws: int
    num_failed: int = 0

    def columns(self) -> dict[str, np.ndarray]:
        """The ranks of every number by name, such as ``intercept[2]``."""
        found = {}
        for name, ranks in self.ranks.items():
            if ranks.ndim == 1:
                found[name] = ranks
            else:
                found |= {f"{name}[{k}]": ranks[:, k] for k in range(ranks.shape[1])}
        return found

    @property
    def table(self) -> Any:
        """A data frame with the coverage of intervals of 50 and 90%, and whether ranks are uniform.

        ``mean`` is the mean rank as a part of the draws, which is one half under a calibrated
        posterior. ``p`` is of a chi-squared test in ten bins. ``uniform`` says whether the
        distribution function stays in its band of 95%.
        """
        import pandas as pd
        from scipy import stats

        rows = {}
        for name, ranks in self.columns().items():
            at = (ranks + 0.5) / (self.num_draws + 1)
            bins = np.histogram(at, 10, (0, 1))[0]
            rows[name] = {
                "mean": at.mean(),
                "50%": np.mean(np.abs(at - 0.5) < 0.25),
                "90%": np.mean(np.abs(at - 0.5) < 0.45),
                "p": float(stats.chisquare(bins).pvalue),
                "uniform": is_uniform(ranks, self.num_draws),
            }
        return pd.DataFrame.from_dict(rows, orient="index")

    def plot(self) -> Any:
        """The distribution function of the ranks of each number, with its band; the figure."""
        columns = list(self.columns().items())[:MOST_SHOWN]
        across = min(3, len(columns))
        down = math.ceil(len(columns) / across)
        figure, axes = pyplot().subplots(
            down, across, figsize=(3.4 * across, 2.6 * down), layout="constrained", squeeze=False
        )
        for (name, ranks), ax in zip(columns, axes.flat, strict=False):
            plot_ecdf(ranks, self.num_draws, name=name, ax=ax)
            ax.spines[["top", "right"]].set_visible(False)
            ax.set(xlabel="", ylabel="")
        for ax in axes.flat[len(columns) :]:
            ax.remove()
        figure.supxlabel("rank, as a part of the draws", fontsize="medium")
        figure.supylabel("difference from uniform", fontsize="medium")
        return figure

    def to_arviz(self) -> Any:
        """The ranks as parts of the draws in a container of ArviZ, for its pictures of uniformity.

        They are the group ``posterior``, with a draw per simulation.
        """
        variables = {}
        for name, ranks in self.ranks.items():
            at = ((ranks + 0.5) / (self.num_draws + 1))[None]
            dims = ("chain", "draw", *(f"{name}_dim",) * (at.ndim - 2))
            variables[name] = Variable(dims, at)
        return container({"posterior": Group(variables, {})})

    def __str__(self) -> str:
        count = len(next(iter(self.ranks.values())))
        failed = f", {self.num_failed} left out" if self.num_failed else ""
        head = f"{count} simulations of {self.num_draws} draws{failed}"
        return f"{head}\n\n{self.table.to_string(float_format='{:.3f}'.format)}"
