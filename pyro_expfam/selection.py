"""How many latents a table has."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, SupportsIndex

import torch
from torch import Tensor

from pyro_expfam.coefficients import (
    CoefficientPosterior,
    learn_loading_scale,
    log_orbit_volume,
    maximise_evidence,
)
from pyro_expfam.coefficients.maximum import with_coefficients
from pyro_expfam.deq.layer import check_size, make_problem, make_solver, solve
from pyro_expfam.deq.observations import as_tensor
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.evidence import laplace_evidence, second_order_term
from pyro_expfam.families import Family
from pyro_expfam.inference_mode import outside_inference_mode
from pyro_expfam.joint import JointProblem, TableInMemory
from pyro_expfam.joint.spectral import spectral_start
from pyro_expfam.plots import plot_evidence


class LatentDim(NamedTuple):
    """What a table says of a number of latents.

    Attributes:
        latent_dim: the number of latents.
        evidence: the log evidence of the table, loading and intercept integrated out, in nats.
        held_out: the log evidence of all rows, each under a fit without it, in nats.
        held_out_se: the standard error of it.
        difference: how much ``held_out`` is below the best number's.
        difference_se: the standard error of that, from the differences row by row.
        loading_scale: the scale of the loading that was learnt.
        seconds: that it took.
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
    """Numbers of latents compared.

    Attributes:
        rows: one for each number, in the order in which they were given.
    """

    rows: tuple[LatentDim, ...]

    @property
    def best(self) -> int:
        """The number of latents under which rows that were held out are most probable."""
        return max(self.rows, key=lambda row: row.held_out).latent_dim

    def to_frame(self) -> Any:
        """The comparison as a :class:`pandas.DataFrame`, by number of latents."""
        import pandas as pd

        return pd.DataFrame(self.rows).set_index("latent_dim")

    def plot(self, ax: Any = None) -> Any:
        """A picture of evidence and held-out evidence, by :func:`~pyro_expfam.plots.plot_evidence`.

        The bars of held-out evidence are those of its difference from the best number's, which
        has none: rows differ far more among each other than between numbers of latents.

        Args:
            ax: axes to draw on.
        """
        return plot_evidence(
            [row.latent_dim for row in self.rows],
            [row.evidence for row in self.rows],
            loo=[row.held_out for row in self.rows],
            loo_se=[row.difference_se for row in self.rows],
            loo_name="rows held out",
            ax=ax,
        )

    def __repr__(self) -> str:
        """The table."""
        table = self.to_frame().to_string(float_format="{:,.2f}".format)
        return f"{table}\nbest: {self.best}"


@torch.no_grad()
@outside_inference_mode()
def compare_latent_dims(
    family: Family,
    y: Any,
    dims: Iterable[SupportsIndex],
    offset: Any = None,
    mask: Any = None,
    intercept_scale: float | None = None,
    num_folds: int = 5,
) -> LatentDims:
    r"""Fits a table with each number of latents, and says which explains rows that it has not seen.

    Loading and intercept are at the maximum of the evidence, with the scale of the loading
    learnt, one for all latents. Two criteria come of it. ``evidence`` is that of the whole table
    with loading and intercept integrated out, by the Laplace approximation to first order, with all
    rotations of the latents counted; a flat prior of the intercept leaves it a constant that
    is the same for every number. ``held_out`` leaves each row out in turn with others of its fold,
    and is its evidence to second order under the fit of the rest. That takes a fit a fold, and in
    exchange rests on no expansion in the loading, which is poor about latents that are not needed:
    the number that is ``best`` is that with the largest ``held_out``. One number of each of these
    fits has seen the rows that are held out: the scale of the loading, which is learnt once, on
    all rows.

    Args:
        family: the law of the observations, with its parameters known.
        y: observations, ``(N, d)``: a tensor, an array or a data frame.
        dims: the numbers of latents to compare.
        offset: known part of the natural parameters, broadcastable to ``(N, d)``.
        mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
        intercept_scale: prior standard deviation of the intercepts; None for a flat prior.
        num_folds: parts of the rows, each of which is held out once; at least 2.

    Returns:
        The :class:`~pyro_expfam.selection.LatentDims`: a row for each number, with standard errors.

    Raises:
        TypeError: if an argument holds no real numbers, or ``dims`` is a single number.
        ValueError: if ``dims`` is empty, a number is not between 1 and ``d``, or there are fewer
            folds than 2 or more than rows; if the evidence has no maximum.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> _ = torch.manual_seed(0)
        >>> y = torch.poisson(torch.exp(torch.randn(100, 1) @ torch.randn(1, 6)))
        >>> comparison = pef.compare_latent_dims(pef.families.Poisson(), y, [1, 2], num_folds=2)
        >>> comparison.best
        1

    Source: Tierney and Kadane (1986) for the evidence; Minka (2000) for its rotations.
    """
    numbers = _numbers_of_latents(dims)
    device = y.device if isinstance(y, Tensor) else None
    y = as_tensor("y", y, torch.zeros((), dtype=torch.float64, device=device))
    for number in numbers:
        if number > y.shape[-1]:
            raise ValueError(f"dims must be at most {y.shape[-1]}, the features, got {number}")
    num_folds = check_size("num_folds", num_folds)
    if not 2 <= num_folds <= len(y):
        raise ValueError(f"num_folds must be between 2 and {len(y)}, the rows, got {num_folds}")
    intercept_precision = 0.0 if intercept_scale is None else float(intercept_scale) ** -2
    fits = []
    for number in numbers:
        begin = time.perf_counter()
        problem = _start(family, y, number, offset, mask, intercept_precision)
        evidence, scale, by_row = _fit(problem, intercept_precision, num_folds)
        fits.append((number, evidence, scale, by_row, time.perf_counter() - begin))
    best = max((fit[3] for fit in fits), key=lambda by_row: float(by_row.sum()))
    return LatentDims(
        tuple(
            LatentDim(
                number,
                evidence,
                float(by_row.sum()),
                _standard_error(by_row),
                float((best - by_row).sum()),
                _standard_error(best - by_row),
                scale,
                seconds,
            )
            for number, evidence, scale, by_row, seconds in fits
        )
    )


def _numbers_of_latents(dims: Iterable[SupportsIndex]) -> list[int]:
    """Checked numbers of latents."""
    try:
        numbers = list(dims)
    except TypeError:
        raise TypeError(
            f"dims must be several numbers of latents, such as [1, 2, 3], got {dims!r}"
        ) from None
    if not numbers:
        raise ValueError("dims must name at least one number of latents, got none")
    return [check_size("dims", number) for number in numbers]


def _standard_error(by_row: Tensor) -> float:
    return float(by_row.std() * math.sqrt(len(by_row)))


def _start(
    family: Family, y: Any, latent_dim: int, offset: Any, mask: Any, intercept_precision: float
) -> LatentProblem:
    """The problem of the latents at coefficients from the spectrum of the table."""
    num_features = y.shape[-1]
    nothing = y.new_zeros(num_features, latent_dim)
    problem = make_problem(family, y, nothing, y.new_zeros(num_features), 1.0, offset, mask)
    table = TableInMemory(family, num_features, y, y, offset, mask)
    joint = JointProblem(table, problem.precision, 1.0, intercept_precision)
    return with_coefficients(problem, spectral_start(joint, latent_dim))


def _fit(
    problem: LatentProblem, intercept_precision: float, num_folds: int
) -> tuple[float, float, Tensor]:
    """The evidence of the table, the scale of the loading, and held-out evidence by row."""
    solver = make_solver()
    prior = problem.b.new_ones(problem.latent_dim + 1)
    prior[-1] = intercept_precision
    free = torch.ones_like(prior, dtype=torch.bool)
    learnt = learn_loading_scale(problem, prior, solver, free, by_latent=False)
    prior[:-1] = learnt.scale.pow(-2)
    evidence = _table_evidence(learnt.problem, prior, learnt.z, learnt.posterior)
    by_row = problem.statistic.new_empty(problem.num_rows)
    for train, test in _folds(problem.num_rows, num_folds, problem.b.device):
        fitted, _ = maximise_evidence(learnt.problem.rows(train), prior, solver)
        held_out = learnt.problem.rows(test)
        held_out = with_coefficients(held_out, torch.cat([fitted.W, fitted.b[:, None]], 1))
        z = solve(held_out, solver).value
        by_row[test] = laplace_evidence(held_out, z) + second_order_term(held_out, z)
    return evidence, float(learnt.scale[0]), by_row


def _folds(num_rows: int, num_folds: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows to train on and rows that are held out, the same in every comparison."""
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(0)).to(device)
    fold = torch.arange(num_rows, device=device) % num_folds
    for number in range(num_folds):
        yield order[fold != number], order[fold == number]


def _table_evidence(
    problem: LatentProblem, prior_precision: Tensor, z: Tensor, posterior: CoefficientPosterior
) -> float:
    """The log evidence of a table with loading and intercept integrated out."""
    proper = prior_precision[prior_precision > 0]
    coefficients = posterior.mode[:, prior_precision > 0]
    log_prior = 0.5 * ((proper / (2 * math.pi)).log() - proper * coefficients.square()).sum()
    volume = 0.5 * (posterior.noise_dim * math.log(2 * math.pi) - posterior.log_det_information)
    total = laplace_evidence(problem, z).sum() + log_prior + volume + log_orbit_volume(problem.W)
    return float(total)
