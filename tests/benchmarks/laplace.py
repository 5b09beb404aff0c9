"""Laplace covariances of all rows, beside Pyro's Laplace approximation of all latents at once."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from paper_data import LATENT_DIM, NUM_FEATURES, PRECISION, paper_table
from pyro.infer.autoguide import AutoLaplaceApproximation
from timing import median_seconds_in_turns
from torch import Tensor

import pyro_expfam as pef

NUM_ROWS = (5_000, 10_000, 20_000, 42_453)
PYRO_NUM_ROWS = (50, 100, 200, 400)

IN_A_ROW = 20
"""Runs of what takes a millisecond, timed together."""


class LaplaceResult(NamedTuple):
    """Seconds of a solve of some rows, and of solve and covariances together."""

    num_rows: int
    solve: float
    posterior: float


class PyroLaplaceResult(NamedTuple):
    """Seconds of Pyro's covariance and of this package's, and how far they are apart."""

    num_rows: int
    pyro: float
    package: float
    largest_difference: float


def benchmark_laplace(repeats: int) -> Iterator[LaplaceResult]:
    """Times a solve alone, and with the covariances of the rows, for more and more rows."""
    table = paper_table("Bernoulli")
    shuffled = table.y[torch.randperm(len(table.y))]
    guide = laplace_guide(shuffled, table.loading)
    for num_rows in NUM_ROWS:
        y = shuffled[:num_rows]
        works = {
            "solve": partial(latents_of, guide, y),
            "posterior": partial(covariances, guide, y),
        }
        result = LaplaceResult(num_rows, **median_seconds_in_turns(works, repeats))
        print(f"laplace: {result}", flush=True)
        yield result


def benchmark_pyro_laplace(repeats: int) -> Iterator[PyroLaplaceResult]:
    """Times Pyro's approximation at the same latents, with the loading fixed."""
    table = paper_table("Bernoulli")
    shuffled = table.y[torch.randperm(len(table.y))]
    guide = laplace_guide(shuffled, table.loading)
    for num_rows in PYRO_NUM_ROWS:
        y = shuffled[:num_rows]
        pyro_guide = pyro_laplace_guide(y, table.loading, latents_of(guide, y))
        works = {
            "pyro": partial(pyro_guide.laplace_approximation, y),
            "package": partial(in_a_row, partial(covariances, guide, y)),
        }
        seconds = median_seconds_in_turns(works, repeats)
        seconds["package"] /= IN_A_ROW
        posterior, ours = works["pyro"](), covariances(guide, y)
        covariance = posterior.get_posterior().covariance_matrix.detach()
        theirs = covariance.view(num_rows, LATENT_DIM, num_rows, LATENT_DIM)
        blocks = theirs.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        difference = float((blocks - ours).abs().max())
        result = PyroLaplaceResult(num_rows, **seconds, largest_difference=difference)
        print(f"laplace: {result}", flush=True)
        yield result


def in_a_row(work: Callable[[], object]) -> None:
    """Does the same again and again."""
    for _ in range(IN_A_ROW):
        work()


def laplace_guide(y: Tensor, loading: Tensor) -> pef.LaplaceGuide:
    """The guide of a block whose loading is known."""
    pyro.clear_param_store()
    model = pef.ExpFamPCA(
        pef.families.Bernoulli(), NUM_FEATURES, LATENT_DIM, PRECISION, loading_scale=None
    )
    with torch.no_grad():
        model.loading.copy_(loading)
    guide = pef.LaplaceGuide(model)
    guide(y)
    return guide


@torch.no_grad()
def latents_of(guide: pef.LaplaceGuide, y: Tensor) -> Tensor:
    """Latents of all rows, ``(N, l)``."""
    return guide.latents(y)


@torch.no_grad()
def covariances(guide: pef.LaplaceGuide, y: Tensor) -> Tensor:
    """Covariances of the latents of all rows, ``(N, l, l)``, solve included."""
    return guide.posterior(y).covariance_matrix


def pyro_laplace_guide(y: Tensor, loading: Tensor, latents: Tensor) -> AutoLaplaceApproximation:
    """Pyro's guide of the same model, written in Pyro, placed at its most probable latents."""

    def model(y: Tensor) -> None:
        scale = torch.full((LATENT_DIM,), PRECISION**-0.5)
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, scale).to_event(1))
            pyro.sample("y", dist.Bernoulli(logits=z @ loading.T).to_event(1), obs=y)

    # The latents of another number of rows would be kept under the same name.
    pyro.clear_param_store()
    guide = AutoLaplaceApproximation(model)
    guide(y)
    with torch.no_grad():
        guide.loc.copy_(latents.flatten())
    return guide
