"""The time a row of joint fits and of solving, from ten thousand rows to a million."""

from collections.abc import Iterator
from functools import partial
from statistics import median
from time import sleep
from typing import NamedTuple

import pyro
import torch
from timing import REST, timed
from torch import Tensor

import pyro_expfam as pef
from pyro_expfam.families import Bernoulli

NUM_FEATURES, LATENT_DIM = 50, 2
LOADING_VARIANCE = 0.5
NUM_ROWS = (10_000, 31_623, 100_000, 316_228, 1_000_000)
SEED = 20230611


class ScalingResult(NamedTuple):
    """Seconds of a joint fit to convergence and of solving, on so many rows."""

    num_rows: int
    sweeps: int
    fit: float
    solve: float

    @property
    def fit_by_row_and_sweep(self) -> float:
        """Seconds of the fit over rows and sweeps."""
        return self.fit / self.num_rows / self.sweeps


def benchmark_scaling(repeats: int) -> Iterator[ScalingResult]:
    """Tables of all sizes with the same loading, taking turns."""
    loading = LOADING_VARIANCE**0.5 * torch.randn(
        NUM_FEATURES, LATENT_DIM, generator=torch.Generator().manual_seed(SEED)
    )
    tables = {num_rows: bernoulli_table(num_rows, loading) for num_rows in NUM_ROWS}
    fit_table(tables[NUM_ROWS[0]])
    solve_table(tables[NUM_ROWS[0]], loading)
    fits: dict[int, list[tuple[float, int]]] = {num_rows: [] for num_rows in NUM_ROWS}
    solves: dict[int, list[float]] = {num_rows: [] for num_rows in NUM_ROWS}
    for _ in range(repeats):
        for num_rows, y in tables.items():
            fits[num_rows].append(timed(partial(fit_table, y)))
            sleep(REST)
            solves[num_rows].append(timed(partial(solve_table, y, loading))[0])
    for num_rows in NUM_ROWS:
        seconds = median(run[0] for run in fits[num_rows])
        result = ScalingResult(num_rows, fits[num_rows][0][1], seconds, median(solves[num_rows]))
        print(f"scaling: {result}", flush=True)
        yield result


def bernoulli_table(num_rows: int, loading: Tensor) -> Tensor:
    """Draws ``(N, d)`` in float32."""
    generator = torch.Generator().manual_seed(SEED)
    z = torch.randn(num_rows, LATENT_DIM, generator=generator)
    return torch.bernoulli(torch.sigmoid(z @ loading.T), generator=generator)


def fit_table(y: Tensor) -> int:
    """The sweeps of a joint fit to its own convergence."""
    pyro.clear_param_store()
    fit = pef.DEQMAPGuide(pef.ExpFamPCA(Bernoulli(), NUM_FEATURES, LATENT_DIM)).fit(y)
    if not fit.converged:
        raise RuntimeError(f"the fit did not converge: {fit}")
    return fit.sweeps[-1].number


def solve_table(y: Tensor, loading: Tensor) -> Tensor:
    """All latents with the generating loading."""
    return pef.solve_latents(Bernoulli(), y, loading, loading.new_zeros(len(loading)), 1.0).value
