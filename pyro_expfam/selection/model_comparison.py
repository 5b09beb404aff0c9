"""What a comparison of families and numbers of latents has found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pyro_expfam.guides import LaplaceGuide
from pyro_expfam.plots import plot_comparison


class ComparedModel(NamedTuple):
    """The scores of a family with a number of latents; NaN where there is none.

    Attributes:
        family: the name of the family.
        latent_dim: the number of latents.
        parameters: free numbers of loading, intercept and family.
        evidence: the log evidence of the table at the fit, with latents integrated out, in nats.
        aic: minus twice the evidence plus twice the parameters (Akaike, 1974).
        held_out: the log evidence of all rows, each under a fit without its fold, in nats.
        held_out_se: the standard error of ``held_out`` under a new sample of rows.
        difference: how far ``held_out`` is below the largest, in nats.
        difference_se: the standard error of ``difference``, from the differences per row.
        loo: the log density of all rows, each left out by importance sampling, in nats.
        loo_se: the standard error of ``loo`` under a new sample of rows.
        khat: the largest Pareto shape of the rows in ``loo``.
        unreliable: the rows whose Pareto shape is above 0.7.
        coverage: the share of entries inside their 90% predictive intervals; NaN for bits.
        zeros: the share of zeros in tables from the fitted model; NaN where zero is no count.
        zeros_observed: the share of zeros in the table.
        seconds: the time that the fits took.
        failed: why there is no fit, in words, or nothing.
    """

    family: str
    latent_dim: int
    parameters: int
    evidence: float
    aic: float
    held_out: float
    held_out_se: float
    difference: float
    difference_se: float
    loo: float
    loo_se: float
    khat: float
    unreliable: int
    coverage: float
    zeros: float
    zeros_observed: float
    seconds: float
    failed: str = ""


class ModelChoice(NamedTuple):
    """A family by name, with a number of latents."""

    family: str
    latent_dim: int


SHOWN = (
    "parameters",
    "evidence",
    "aic",
    "held_out",
    "difference",
    "difference_se",
    "loo",
    "khat",
    "coverage",
    "zeros",
)
"""The columns of the table as text."""


@dataclass(frozen=True, repr=False)
class ModelComparison:
    """A comparison of families and numbers of latents.

    Attributes:
        rows: the scores of every model, family by family.
        caveats: what to keep in mind when reading the scores, in words.
        guides: the fitted guides, by family and number of latents.
    """

    rows: tuple[ComparedModel, ...]
    caveats: tuple[str, ...] = ()
    guides: Mapping[ModelChoice, LaplaceGuide] = field(default_factory=dict)

    @property
    def best(self) -> ModelChoice:
        """The model with the fewest parameters within one standard error of the largest held-out.

        The standard error is of the difference between the two, row by row. Among as many
        parameters the more probable rows decide.

        Source: Breiman, Friedman, Olshen and Stone (1984) for the rule.
        """
        row = min(self.close, key=lambda row: (row.parameters, row.difference))
        return ModelChoice(row.family, row.latent_dim)

    @property
    def close(self) -> tuple[ComparedModel, ...]:
        """The models within one standard error of the largest held-out evidence."""
        return tuple(row for row in self.rows if row.difference <= row.difference_se)

    @property
    def table(self) -> Any:
        """The comparison as a :class:`pandas.DataFrame`, by family and number of latents."""
        import pandas as pd

        return pd.DataFrame(self.rows).set_index(["family", "latent_dim"])

    def plot(self, ax: Any = None) -> Any:
        """A picture of held-out evidence, by :func:`~pyro_expfam.plots.plot_comparison`.

        Args:
            ax: axes to draw on.
        """
        scored = [row for row in self.rows if not math.isnan(row.difference)]
        return plot_comparison(
            [row.family for row in scored],
            [row.latent_dim for row in scored],
            [row.difference for row in scored],
            [row.difference_se for row in scored],
            best=self.best,
            ax=ax,
        )

    def __repr__(self) -> str:
        """The comparison as text, with its caveats."""
        table = self.table
        frame = table.loc[:, [name for name in SHOWN if table[name].notna().any()]]
        whole = {
            name: "{:,.1f}".format for name in frame if name not in ("coverage", "zeros", "khat")
        }
        shares = {name: "{:.1%}".format for name in frame if name in ("coverage", "zeros")}
        formats: Any = {**whole, **shares, "khat": "{:.2f}".format, "parameters": "{:,}".format}
        text = frame.to_string(formatters={name: formats[name] for name in frame})
        observed = next((row.zeros_observed for row in self.rows if "zeros" in frame), None)
        lines = [text]
        if observed is not None:
            lines.append(f"zeros in the table: {observed:.1%}")
        family, latents = self.best
        lines.append(f"best: {family}, {latents} latent{'s' if latents > 1 else ''}")
        return "\n".join([*lines, *(f"- {caveat}" for caveat in self.caveats)])
