"""The evidence of counts with flat priors, beside reduced-rank models of glmmTMB.

The likelihood is the same, so that both ends can be compared.
"""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from evidence_fits import simulated
from timing import timed
from torch import Tensor

import pyro_expfam as pef

NUM_FEATURES, LATENT_DIM = 40, 2
SCRIPT = Path(__file__).with_suffix(".R")


class ReducedRankResult(NamedTuple):
    """One thread each.

    Attributes:
        shape: rows and features.
        version: of glmmTMB.
        peer_seconds: of a fit by glmmTMB, without covariances.
        peer_covariance_seconds: of the covariance of its coefficients.
        peer_has_covariance: whether all entries of it are numbers.
        peer_log_likelihood: at its end.
        peer_is_at_rest: whether glmmTMB says so.
        seconds: of a fit by the package, with the posterior of the coefficients.
        without_posterior: of a fit by the package, without it.
        log_likelihood: of the package at the end, in float64.
    """

    shape: tuple[int, int]
    version: str
    peer_seconds: float
    peer_covariance_seconds: float
    peer_has_covariance: bool
    peer_log_likelihood: float
    peer_is_at_rest: bool
    seconds: float
    without_posterior: float
    log_likelihood: float


def benchmark_reduced_rank(num_rows: int, repeats: int) -> ReducedRankResult | None:
    """Both fits of a table; None without R and its package."""
    if shutil.which("Rscript") is None:
        return None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    y = simulated(pef.families.Poisson(), num_rows, NUM_FEATURES, LATENT_DIM)
    print(f"reduced rank: {num_rows} x {NUM_FEATURES}, {LATENT_DIM} latents", flush=True)
    fit(y, "laplace")
    of_runs = [timed(lambda: fit(y, "laplace"))[0] for _ in range(repeats)]
    without = [timed(lambda: fit(y, None))[0] for _ in range(repeats)]
    reached = fit(y, None)
    torch.set_num_threads(threads)
    peer = fit_by_peer(y)
    result = ReducedRankResult(
        (num_rows, NUM_FEATURES),
        peer["version"],
        peer["seconds"],
        peer["covariance_seconds"],
        peer["has_covariance"],
        peer["log_likelihood"],
        peer["at_rest"],
        sorted(of_runs)[repeats // 2],
        sorted(without)[repeats // 2],
        reached,
    )
    print(f"reduced rank: {result}", flush=True)
    return result


def fit(y: Tensor, posterior: str | None) -> float:
    """A fit from nothing to rest; the log likelihood where it ends."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    family = pef.families.Poisson()
    model = pef.ExpFamPCA(family, y.shape[1], LATENT_DIM, loading_scale=None, intercept_scale=None)
    guide = pef.LaplaceGuide(model, globals=posterior)
    end = guide.fit(y)
    if not end.converged:
        raise RuntimeError(f"the fit has not come to rest: {end}")
    W, b = guide.loading.detach().double(), guide.intercept.detach().double()
    return float(pef.log_evidence(family, y.double(), W, b).sum())


def fit_by_peer(y: Tensor) -> dict[str, Any]:
    """What the script says of a fit by glmmTMB on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "counts.csv"
        np.savetxt(table, y.numpy(), fmt="%d", delimiter=",")
        done = subprocess.run(
            ["Rscript", str(SCRIPT), str(table), str(LATENT_DIM)],
            check=True,
            capture_output=True,
            text=True,
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found
