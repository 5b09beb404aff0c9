"""A joint fit of more than a million rows of counts to rest, its posterior, and its memory."""

import resource
from time import perf_counter
from typing import NamedTuple

import pyro
import torch
from torch import Tensor

import pyro_expfam as pef

NUM_FEATURES, LATENT_DIM = 500, 10
ROWS_AT_ONCE, ROWS_OF_POSTERIOR = 20_000, 100_000
LARGEST_ETA = 9.0


class LargeResult(NamedTuple):
    """Seconds and memory of a fit.

    Attributes:
        num_rows: rows.
        share_of_zeros: entries that are zero.
        largest: the largest count.
        fit: seconds of the fit, with the check of the table and the starts.
        starts: seconds before the first sweep over the whole table.
        sweeps: sweeps over the whole table.
        posterior: seconds of means and covariances of all latents.
        gigabytes: the most memory of the fit beside the table, and of the posterior.
    """

    num_rows: int
    share_of_zeros: float
    largest: float
    fit: float
    starts: float
    sweeps: int
    posterior: float
    gigabytes: tuple[float, float]


def benchmark_large(num_rows: int) -> LargeResult:
    """Fits simulated counts with the mean and the tail of counts of single cells."""
    y = simulated(num_rows)
    size = y.sum(1, keepdim=True).clamp(min=1)
    offset = torch.log(size / size.mean())
    warm = y[:4_000].clone(), offset[:4_000].clone()
    fitted(*warm, [])
    before, seconds = peak_gigabytes(), []
    begin = perf_counter()
    guide, fit = fitted(y, offset, seconds)
    of_fit, memory = perf_counter() - begin, peak_gigabytes() - before
    if not fit.converged:
        raise RuntimeError(f"the fit has not come to rest: {fit}")
    begin = perf_counter()
    with torch.no_grad():
        parts = zip(y.split(ROWS_OF_POSTERIOR), offset.split(ROWS_OF_POSTERIOR), strict=True)
        covariances = [guide.posterior(*part).covariance_matrix for part in parts]
    of_posterior = perf_counter() - begin
    assert sum(map(len, covariances)) == num_rows
    return LargeResult(
        num_rows,
        float((y == 0).float().mean()),
        float(y.max()),
        of_fit,
        seconds[0],
        fit.sweeps[-1].number,
        of_posterior,
        (memory, peak_gigabytes() - before),
    )


def fitted(
    y: Tensor, offset: Tensor, seconds: list[float]
) -> tuple[pef.LaplaceGuide, pef.joint.Fit]:
    """A guide and its fit to rest; the seconds of every sweep over the whole table are noted."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), NUM_FEATURES, LATENT_DIM))

    def note(sweep: pef.joint.Sweep) -> None:
        if sweep.objective < float("inf"):
            seconds.append(sweep.seconds)

    return guide, guide.fit(y, offset, loss=None, callback=note, progress=False)


def simulated(num_rows: int) -> Tensor:
    """Counts of which three quarters are zero, and the largest are thousands."""
    generator = torch.Generator().manual_seed(0)
    loading = 0.5 * torch.randn(NUM_FEATURES, LATENT_DIM, generator=generator)
    intercept = 1.2 * torch.randn(NUM_FEATURES, generator=generator) - 2.2
    y = torch.empty(num_rows, NUM_FEATURES)
    for part in y.split(ROWS_AT_ONCE):
        z = torch.randn(len(part), LATENT_DIM, generator=generator)
        of_row = 0.4 * torch.randn(len(part), 1, generator=generator)
        eta = (z @ loading.T + intercept + of_row).clamp(max=LARGEST_ETA)
        part.copy_(torch.poisson(eta.exp(), generator=generator))
    return y


def peak_gigabytes() -> float:
    """The most memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
