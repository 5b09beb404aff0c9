"""What a comparison of numbers of latents has found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from pyro_expfam.plots import plot_evidence
from pyro_expfam.selection.held_out_parts import HoldOut

SAME = 0.01
"""Numbers of latents whose held-out evidence differs by less, in nats, are equally good."""


class LatentDim(NamedTuple):
    """The scores of a number of latents; NaN if the table has no fit under it.

    Attributes:
        latent_dim: the number of latents.
        evidence: the log evidence of the table with loading and intercept integrated out, in nats.
        held_out: the log evidence of all rows, each under a fit without it, or the log density of
            all entries, each given the others, in nats.
        held_out_se: the standard error of ``held_out`` under a new sample of rows.
        difference: how far ``held_out`` is below its value for the best number, in nats.
        difference_se: the standard error of ``difference``, from the differences per row.
        loading_scale: the learnt scale of the loading.
        seconds: the time that the fits took.
    """

    latent_dim: int
    evidence: float
    held_out: float
    held_out_se: float
    difference: float
    difference_se: float
    loading_scale: float
    seconds: float


@dataclass(frozen=True, repr=False)
class LatentDims:
    """A comparison of numbers of latents.

    Attributes:
        rows: the scores of each number, in the order in which the numbers were given.
        largest: the largest number of latents that the table may have: the number of its columns,
            times one less than the number of levels for categories.
        hold_out: what was held out, ``"rows"`` or ``"entries"``.
    """

    rows: tuple[LatentDim, ...]
    largest: int
    hold_out: HoldOut = "rows"

    @property
    def one_standard_error(self) -> int:
        """The smallest number of latents within one standard error of the best.

        The standard error is of the difference between the two, row by row. Further latents explain
        too little to be told from chance.

        Source: Breiman, Friedman, Olshen and Stone (1984) for the rule.
        """
        close = [row.latent_dim for row in self.rows if row.difference <= row.difference_se]
        return min([*close, self.best])

    @property
    def best(self) -> int:
        """The smallest number of latents under which what is held out is most probable."""
        scored = [row for row in self.rows if not math.isnan(row.held_out)]
        enough = max(row.held_out for row in scored) - SAME
        return min(row.latent_dim for row in scored if row.held_out >= enough)

    @property
    def still_rises(self) -> bool:
        """Whether the best number is the largest of several, so that a larger one may be better.

        It is False if no larger number than the largest can be had.
        """
        numbers = {row.latent_dim for row in self.rows}
        return len(numbers) > 1 and self.best == max(numbers) < self.largest

    def to_frame(self) -> Any:
        """The comparison as a :class:`pandas.DataFrame`, indexed by number of latents."""
        import pandas as pd

        return pd.DataFrame(self.rows).set_index("latent_dim")

    def plot(self, ax: Any = None) -> Any:
        """A picture of evidence and held-out evidence, by :func:`~pyro_expfam.plots.plot_evidence`.

        The bars of held-out evidence are the standard errors of its difference from the best
        number, which has no bar itself. They are paired per row, since the evidence varies far more
        between rows than between numbers of latents.

        Args:
            ax: axes to draw on.
        """
        return plot_evidence(
            [row.latent_dim for row in self.rows],
            [row.evidence for row in self.rows],
            loo=[row.held_out for row in self.rows],
            loo_se=[row.difference_se for row in self.rows],
            loo_name=f"{self.hold_out} held out",
            ax=ax,
        )

    def __repr__(self) -> str:
        """The comparison as text."""
        table = self.to_frame().to_string(float_format="{:,.2f}".format)
        more = ", the largest that was tried: try larger ones" if self.still_rises else ""
        smaller = self.one_standard_error
        close = f"\nwithin one standard error: {smaller}" if smaller != self.best else ""
        return f"{table}\nbest: {self.best}{more}{close}"
