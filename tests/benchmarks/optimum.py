"""The way to the optimum of Poisson PCA: processor seconds to small gaps, beside a peer."""

import math
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from typing import NamedTuple

import pyro
import torch
from alternating import alternate
from count_tables import CountTable, cell_table, with_sizes
from pyPLNmodels import load_microcosm, load_oaks
from torch import Tensor

import pyro_expfam as pef

GAPS = (1e-3, 1e-4, 1e-5)
PRIORS = {"default": (1.0, 1.0), "vanishing": (0.01, 10.0)}
"""Latent precision and loading scale."""

Trace = list[tuple[float, float]]
"""Processor seconds and objectives."""


class OptimumResult(NamedTuple):
    """Processor seconds to gaps, infinite where they were not reached in the time.

    Attributes:
        table: the name of the table.
        priors: the name of the priors.
        latent_dim: the number of latents.
        plain: seconds of the plain iteration to each of the gaps.
        package: seconds of the package.
        plain_end: the gap of the plain iteration at its end.
        package_end: the gap of the package at its end.
    """

    table: str
    priors: str
    latent_dim: int
    plain: tuple[float, ...]
    package: tuple[float, ...]
    plain_end: float
    package_end: float


def benchmark_optimum(latent_dims: tuple[int, ...], seconds: float) -> Iterator[OptimumResult]:
    """Both iterations for so many processor seconds on every table, one after the other.

    The best known objective is the best of three: of both, and of a fit in float64 that is followed
    until it rests within 1e-11 of itself.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for table in (cell_table(), *ecological_tables(), heavy_table()):
        for priors, scales in PRIORS.items():
            for latent_dim in latent_dims:
                print(f"optimum: {table.name}, {priors} priors, {latent_dim} latents", flush=True)
                plain = plain_trace(table, latent_dim, *scales, seconds)
                package = package_trace(table, latent_dim, *scales, seconds)
                exact = table._replace(y=table.y.double(), offset=table.offset.double())
                long = package_trace(exact, latent_dim, *scales, 2 * seconds, tol=1e-11)
                best = min(objective for _, objective in (*plain, *package, *long))
                result = OptimumResult(
                    table.name,
                    priors,
                    latent_dim,
                    seconds_to(plain, best),
                    seconds_to(package, best),
                    gap(plain, best),
                    gap(package, best),
                )
                print(f"optimum: {result}", flush=True)
                yield result
    torch.set_num_threads(threads)


def ecological_tables() -> Iterator[CountTable]:
    """Counts of species that pyPLNmodels comes with, to thousands and tens of thousands."""
    with redirect_stdout(StringIO()):
        oaks, microcosm = load_oaks(), load_microcosm(n_samples=921, dim=1209)
    for name, data in (("oaks", oaks), ("microcosm", microcosm)):
        yield with_sizes(name, torch.as_tensor(data["endog"].to_numpy()).float())


def heavy_table() -> CountTable:
    """Simulated counts with log-normal rates: half are zero, the largest above 100,000."""
    generator = torch.Generator().manual_seed(20230611)
    latents = torch.randn(2_000, 5, generator=generator)
    loading = 1.2 * torch.randn(300, 5, generator=generator)
    eta = latents @ loading.T + 1.5 * torch.randn(300, generator=generator) - 0.5
    y = torch.poisson(eta.clamp(max=13).exp(), generator=generator)
    return CountTable("heavy tails", y, torch.zeros(len(y), 1))


def plain_trace(
    table: CountTable, latent_dim: int, precision: float, scale: float, seconds: float
) -> Trace:
    """The way of the plain iteration."""
    torch.manual_seed(0)
    trace: Trace = []
    for point in alternate(table.y, table.offset, latent_dim, precision, scale**-2):
        at = (point.z, point.loading, point.intercept)
        trace.append((point.seconds, objective(table, *at, precision, scale)))
        if point.seconds > seconds:
            return trace
    raise AssertionError("the iteration has no end of its own")


def package_trace(
    table: CountTable,
    latent_dim: int,
    precision: float,
    scale: float,
    seconds: float,
    tol: float = 1e-7,
) -> Trace:
    """The way of ``guide.fit`` from its own start, without the constants of the priors."""
    num_rows, num_features = table.y.shape
    pyro.clear_param_store()
    torch.manual_seed(0)
    model = pef.ExpFamPCA(
        pef.families.Poisson(),
        num_features,
        latent_dim,
        latent_precision=precision,
        loading_scale=scale,
        intercept_scale=None,
    ).to(table.y.dtype)
    clock: list[float] = []
    seen: list[float] = []
    begin = time.process_time()

    def callback(sweep: pef.joint.Sweep) -> bool:
        clock.append(time.process_time() - begin)
        seen.append(sweep.objective)
        return clock[-1] > seconds

    fit = pef.DEQMAPGuide(model).fit(
        table.y, offset=table.offset, callback=callback, max_sweeps=100_000, tol=tol
    )
    end = time.process_time() - begin
    constant = 0.5 * num_rows * latent_dim * math.log(2 * math.pi / precision)
    constant += 0.5 * num_features * latent_dim * math.log(2 * math.pi * scale**2)
    # The fit reports objectives of single precision, and moves them to the exact one at its end.
    natural = constant
    constant += seen[-1] - fit.objective if math.isfinite(seen[-1]) else 0.0
    objectives = [x - constant for x in seen]
    return [*zip(clock, objectives, strict=True), (end, fit.objective - natural)]


def objective(
    table: CountTable,
    z: Tensor,
    loading: Tensor,
    intercept: Tensor,
    precision: float,
    scale: float,
) -> float:
    """Minus the log density of counts, and the penalties, in float64."""
    y, z, loading = table.y.double(), z.double(), loading.double()
    eta = z @ loading.T + intercept.double() + table.offset.double()
    entries = eta.exp() - y * eta + torch.lgamma(y + 1)
    penalty = precision * z.square().sum() + loading.square().sum() / scale**2
    return float(entries.sum() + penalty / 2)


def seconds_to(trace: Trace, best: float) -> tuple[float, ...]:
    """The first seconds at which a trace has each of the gaps."""
    return tuple(
        next((at for at, value in trace if value - best <= wanted * abs(best)), math.inf)
        for wanted in GAPS
    )


def gap(trace: Trace, best: float) -> float:
    """The gap at the end of a trace."""
    return (trace[-1][1] - best) / abs(best)
