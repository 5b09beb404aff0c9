"""Poisson PCA without penalties, against coordinate descent: the time to a log likelihood."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

import fastglmpca
import numpy as np
import pyro
import torch
from count_tables import CountTable, cell_table, poisson_log_likelihood, simulated_table
from glmpca import glmpca
from timing import timed
from torch import Tensor

import pyro_expfam as pef

LATENT_DIM = 10
PRECISION, LOADING_SCALE = 0.01, 10.0
"""Penalties that count for less than LARGEST_PENALTY of the objective."""

LARGEST_PENALTY = 1e-4
SEED = 20230611


class PeerResult(NamedTuple):
    """A peer's seconds for its iterations, and the package's to the same log likelihood.

    Attributes:
        table: the name of the table.
        peer: the name of the peer.
        iterations: that the peer took.
        peer_seconds: of the peer.
        peer_log_likelihood: after those iterations.
        sweeps: that the package took.
        seconds: of ``guide.fit``, which has loading, intercept and latents at its end.
        log_likelihood: of the package at the end.
        penalty: the part of the package's objective that its priors are.
        gap: of the peer to the best log likelihood known, as a part of it.
    """

    table: str
    peer: str
    iterations: int
    peer_seconds: float
    peer_log_likelihood: float
    gap: float
    sweeps: int
    seconds: float
    log_likelihood: float
    penalty: float


class PackageFit(NamedTuple):
    """What the package needed to a log likelihood, and where it came to."""

    sweeps: int
    seconds: float
    log_likelihood: float
    penalty: float


def benchmark_poisson_pca(iterations: Sequence[int], repeats: int) -> Iterator[PeerResult]:
    """Every peer on every table after so many iterations, with the package beside it."""
    for table in (simulated_table(), cell_table()):
        package_fit(table, math.inf, max_sweeps=2)
        best = package_fit(table, math.inf).log_likelihood
        for peer, natural_param in PEERS.items():
            for count in iterations:
                print(f"poisson pca: {peer}, {table.name}, {count} iterations", flush=True)
                seconds, eta = timed(partial(natural_param, table, count))
                wanted = poisson_log_likelihood(table.y, eta)
                runs = [package_fit(table, wanted) for _ in range(repeats)]
                ours = runs[0]._replace(seconds=median(run.seconds for run in runs))
                gap = (best - wanted) / abs(best)
                result = PeerResult(table.name, peer, count, seconds, wanted, gap, *ours)
                print(f"poisson pca: {result}", flush=True)
                yield checked(result)


def checked(result: PeerResult) -> PeerResult:
    """The result, if the package came as far as the peer and its penalties vanish."""
    if result.gap > 0 and result.log_likelihood < result.peer_log_likelihood:
        raise RuntimeError(f"the package did not reach the log likelihood: {result}")
    if result.penalty > LARGEST_PENALTY:
        raise RuntimeError(f"the penalties do not vanish: {result}")
    return result


def package_fit(table: CountTable, wanted: float, max_sweeps: int = 500) -> PackageFit:
    """Joint Fisher scoring from its own start until the log likelihood is sure to be there."""
    num_rows, num_features = table.y.shape
    pyro.clear_param_store()
    model = pef.ExpFamPCA(
        pef.families.Poisson(),
        num_features,
        LATENT_DIM,
        latent_precision=PRECISION,
        loading_scale=LOADING_SCALE,
        intercept_scale=None,
    ).to(table.y.dtype)
    guide = pef.DEQMAPGuide(model)
    # Less this constant of the priors, the objective is minus the log likelihood, and a penalty
    # that is not negative.
    constant = 0.5 * num_rows * LATENT_DIM * math.log(2 * math.pi / PRECISION)
    constant += 0.5 * num_features * LATENT_DIM * math.log(2 * math.pi * LOADING_SCALE**2)
    seconds, fit = timed(
        partial(
            guide.fit,
            table.y,
            offset=table.offset,
            max_sweeps=max_sweeps,
            callback=lambda sweep: constant - sweep.objective >= wanted,
        )
    )
    W, b, z = guide.loading, guide.intercept, fit.latents
    log_likelihood = poisson_log_likelihood(table.y, z @ W.T + b + table.offset)
    penalty = PRECISION * float(z.square().sum()) + float(W.square().sum()) / LOADING_SCALE**2
    return PackageFit(
        fit.sweeps[-1].number,
        seconds,
        log_likelihood,
        0.5 * penalty / abs(log_likelihood),
    )


def fastglmpca_natural_param(table: CountTable, iterations: int) -> Tensor:
    """Natural parameters after so many iterations of fastglmpca, which has the same offsets."""
    model = fastglmpca.poisson(
        table.y,
        n_pcs=LATENT_DIM,
        max_iter=iterations,
        tol=0.0,
        device="cpu",
        progress_bar=False,
        return_model=True,
    )
    return torch.from_numpy(model.reconstruct_counts()).double().log()


def glmpca_natural_param(table: CountTable, iterations: int) -> Tensor:
    """Natural parameters after so many iterations of glmpca, which starts at random."""
    np.random.seed(SEED)  # noqa: NPY002 - glmpca draws from the global generator.
    size = table.offset.double().exp().flatten().numpy()
    fit = glmpca.glmpca(
        table.y.T.numpy(), LATENT_DIM, ctl={"maxIter": iterations, "eps": 0.0}, sz=size
    )
    eta = fit["factors"] @ fit["loadings"].T + fit["coefX"].T
    return torch.from_numpy(eta) + table.offset


PEERS: dict[str, Callable[[CountTable, int], Tensor]] = {
    "fastglmpca": fastglmpca_natural_param,
    "glmpca": glmpca_natural_param,
}
