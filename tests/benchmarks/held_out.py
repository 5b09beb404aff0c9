"""Poisson PCA of single cells to convergence, and the counts of cells that were held out."""

from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from typing import NamedTuple

import numpy as np
import pyro
import torch
from count_tables import cell_table, poisson_log_likelihood, relative_size
from pyPLNmodels import PlnPCA
from timing import timed
from torch import Tensor

import pyro_expfam as pef
from pyro_expfam.families import Poisson

RANK = 5
HELD_OUT_ROWS = 400
PRECISION = 1.0
"""The latents of both models are standard normal."""

ENOUGH_ITERATIONS = 10_000
SEED = 20230611


class Split(NamedTuple):
    """Rows to train with, and rows whose features in ``given`` are to predict the others."""

    y: Tensor
    offset: Tensor
    held_out: Tensor
    given: Tensor


class Estimate(NamedTuple):
    """Loading ``(d, l)`` and intercept ``(d,)``."""

    W: Tensor
    b: Tensor
    outcome: str


class HeldOutResult(NamedTuple):
    """The seconds of a method to convergence, and what it makes of the held-out counts."""

    method: str
    seconds: float
    outcome: str
    log_likelihood: float


def benchmark_held_out(max_iterations: int = ENOUGH_ITERATIONS) -> Iterator[HeldOutResult]:
    """The package, PlnPCA by its defaults and to its tolerance, and intercepts alone."""
    split = split_cells()
    package_estimate(split, max_sweeps=2)
    works: dict[str, Callable[[], Estimate]] = {
        PACKAGE_METHOD: partial(package_estimate, split),
        "PlnPCA, at most 400 iterations": partial(pln_estimate, split, min(400, max_iterations)),
        "PlnPCA, to its tolerance": partial(pln_estimate, split, max_iterations),
        "intercepts alone": partial(intercepts_alone, split),
    }
    for method, work in works.items():
        seconds, estimate = timed(work)
        result = HeldOutResult(
            method, seconds, estimate.outcome, held_out_log_likelihood(split, estimate)
        )
        print(f"held out: {result}", flush=True)
        yield result


PACKAGE_METHOD = "pyro-expfam, `guide.fit`"


def split_cells() -> Split:
    """Every other gene of 400 cells is given; the offsets are made without the other genes."""
    y = cell_table().y
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(SEED))
    train, held_out = y[order[HELD_OUT_ROWS:]], y[order[:HELD_OUT_ROWS]]
    seen = train.sum(0) > 0
    train, held_out = train[:, seen], held_out[:, seen]
    given = torch.arange(train.shape[1]) % 2 == 0
    return Split(train, relative_size(train, float(train.sum(1).mean())), held_out, given)


def held_out_log_likelihood(split: Split, estimate: Estimate) -> float:
    """Of the genes that are not given, at the most probable latents under those that are."""
    W, b, _ = estimate
    given = split.given
    y, mean_sum = split.held_out[:, given], float(split.y[:, given].sum(1).mean())
    offset = relative_size(y, mean_sum)
    z = pef.solve_latents(Poisson(), y, W[given], b[given], PRECISION, offset=offset).value
    eta = z @ W[~given].T + b[~given] + offset
    return poisson_log_likelihood(split.held_out[:, ~given], eta)


def package_estimate(split: Split, max_sweeps: int = 500) -> Estimate:
    """Joint Fisher scoring with the defaults of model and fit."""
    pyro.clear_param_store()
    model = pef.ExpFamPCA(Poisson(), split.y.shape[1], RANK, latent_precision=PRECISION)
    guide = pef.DEQMAPGuide(model)
    fit = guide.fit(split.y, offset=split.offset, max_sweeps=max_sweeps)
    outcome = f"{'converged' if fit.converged else 'stopped'}, {fit.sweeps[-1].number} sweeps"
    return Estimate(guide.loading, guide.intercept, outcome)


def pln_estimate(split: Split, max_iterations: int) -> Estimate:
    """Variational inference by PlnPCA."""
    printed = StringIO()
    torch.manual_seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - the principal components that it starts from draw on it.
    with redirect_stdout(printed), redirect_stderr(StringIO()):
        model = PlnPCA(split.y, offsets=split.offset.expand_as(split.y), rank=RANK)
        model.fit(maxiter=max_iterations)
    reached = "Tolerance" in printed.getvalue()
    outcome = "converged" if reached else f"stopped after {max_iterations} iterations"
    return Estimate(model.components, model.coef.squeeze(0), outcome)


def intercepts_alone(split: Split) -> Estimate:
    """Independent Poisson counts: no latents."""
    b = (split.y.sum(0) / split.offset.exp().sum()).log()
    return Estimate(b.new_zeros(len(b), RANK), b, "closed form")
