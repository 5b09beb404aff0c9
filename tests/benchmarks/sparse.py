"""A large sparse table of counts: seconds and memory of fits, beside other packages.

Every method runs in a process of its own, whose largest resident memory is its peak. The first fit
is a rehearsal on a small table, which compiles kernels.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse

import pyro_expfam as pef

LATENT_DIM = 10
NUM_ROWS, NUM_FEATURES, DENSITY = 100_000, 5_000, 0.01
REHEARSAL_ROWS = 400
ROWS_AT_ONCE = 2_000
LOADING_DEVIATION, SIZE_DEVIATION = 0.3, 0.3
PRECISION, LOADING_SCALE = 1e-2, 10.0
"""Priors that vanish beside the table, as the peer has none."""

PEER_ITERATIONS = 3
THREADS = 2


class SparseResult(NamedTuple):
    """What a method takes on a sparse table, and how likely the table is at its end.

    Attributes:
        method: the method.
        seconds: from the start of the fit to its end.
        processor_seconds: the same, of all threads together.
        gigabytes: the peak of resident memory, with Python, the packages and the table.
        log_likelihood: the Poisson log likelihood per stored entry, NaN for another model.
        outcome: how the fit ended.
    """

    method: str
    seconds: float
    processor_seconds: float
    gigabytes: float
    log_likelihood: float
    outcome: str


def counts(num_rows: int) -> Any:
    """Poisson counts of log-normal rates, of which a hundredth is not zero."""
    random = np.random.default_rng(20230611)
    loading = LOADING_DEVIATION * random.standard_normal((LATENT_DIM, NUM_FEATURES), np.float32)
    intercept = random.standard_normal(NUM_FEATURES, np.float32)
    parts = []
    for begin in range(0, num_rows, ROWS_AT_ONCE):
        size = min(ROWS_AT_ONCE, num_rows - begin)
        eta = random.standard_normal((size, LATENT_DIM), np.float32) @ loading + intercept
        rate = np.exp(eta + SIZE_DEVIATION * random.standard_normal((size, 1), np.float32))
        parts.append(sparse.csr_matrix(random.poisson(rate * (1.07 * DENSITY / rate.mean()))))
    return sparse.vstack(parts).astype(np.float32).tocsr()


def sizes(y: Any) -> np.ndarray:
    """The logarithms of row sums over their mean, ``(N, 1)``."""
    total = np.maximum(np.asarray(y.sum(1)), 1)
    found: np.ndarray = np.log(total / total.mean()).astype(np.float32)
    return found


def log_likelihood(y: Any, left: np.ndarray, right: np.ndarray) -> float:
    """The log likelihood per stored entry at natural parameters ``left @ right.T``."""
    total = 0.0
    for begin in range(0, y.shape[0], ROWS_AT_ONCE):
        rows = slice(begin, begin + ROWS_AT_ONCE)
        eta = torch.from_numpy(left[rows]) @ torch.from_numpy(right.T.copy())
        part = y[rows].tocoo()
        stored = eta[part.row, part.col] * torch.from_numpy(part.data)
        of_counts = torch.lgamma(torch.from_numpy(part.data) + 1.0)
        total += float((stored - of_counts).double().sum() - eta.exp().sum(dtype=torch.float64))
    return total / y.nnz


def joint(y: Any, wanted: float) -> tuple[float, str]:
    """Joint Fisher scoring under vanishing priors, until the log likelihood is reached."""
    num_rows = y.shape[0]
    model = pef.ExpFamPCA(
        pef.families.Poisson(),
        NUM_FEATURES,
        LATENT_DIM,
        latent_precision=PRECISION,
        loading_scale=LOADING_SCALE,
    )
    guide, offset = pef.DEQMAPGuide(model), sizes(y)
    constant = 0.5 * num_rows * LATENT_DIM * math.log(2 * math.pi / PRECISION)
    constant += 0.5 * NUM_FEATURES * LATENT_DIM * math.log(2 * math.pi * LOADING_SCALE**2)
    # Less this constant the objective is minus the log likelihood and a penalty.
    fit = guide.fit(
        y,
        offset,
        callback=lambda sweep: (constant - sweep.objective) / y.nnz >= wanted,
        progress=False,
    )
    left = np.hstack([fit.latents.numpy(), np.ones_like(offset), offset])
    right = [guide.loading.numpy(), guide.intercept.numpy()[:, None], np.ones((NUM_FEATURES, 1))]
    found = log_likelihood(y, left, np.hstack(right).astype(np.float32))
    return found, f"{fit.sweeps[-1].number} sweeps"


def joint_by_default(y: Any, wanted: float) -> tuple[float, str]:
    """The joint MAP estimate under the default priors, to convergence."""
    del wanted
    model = pef.ExpFamPCA(pef.families.Poisson(), NUM_FEATURES, LATENT_DIM)
    fit = pef.DEQMAPGuide(model).fit(y, sizes(y), progress=False)
    return math.nan, _end(fit)


def evidence(y: Any, wanted: float) -> tuple[float, str]:
    """The evidence under the default priors, to convergence."""
    del wanted
    model = pef.ExpFamPCA(pef.families.Poisson(), NUM_FEATURES, LATENT_DIM)
    fit = pef.LaplaceGuide(model).fit(y, sizes(y), progress=False)
    return math.nan, _end(fit)


def _end(fit: Any) -> str:
    return f"{fit.sweeps[-1].number} sweeps" + ("" if fit.converged else ", not at rest")


def fastglmpca_fit(y: Any, wanted: float) -> tuple[float, str]:
    """Some iterations of fastglmpca, which has the same offsets and no priors."""
    del wanted
    import fastglmpca

    model = fastglmpca.poisson(
        y,
        n_pcs=LATENT_DIM,
        max_iter=PEER_ITERATIONS,
        tol=0.0,
        device="cpu",
        progress_bar=False,
        return_model=True,
    )
    offset, intercept = _column(model.row_offset), _column(model.col_offset)
    left = np.hstack([_array(model.U) * _array(model.d), np.ones_like(offset), offset])
    right = np.hstack([_array(model.V), intercept, np.ones_like(intercept)])
    return log_likelihood(y, left, right), f"{PEER_ITERATIONS} iterations"


def _array(x: Any) -> np.ndarray:
    return np.asarray(x, dtype=np.float32)


def _column(x: Any) -> np.ndarray:
    return _array(x).reshape(-1, 1)


def truncated_svd(y: Any, wanted: float) -> tuple[float, str]:
    """The truncated singular value decomposition of the logarithms of the counts plus one."""
    del wanted
    from sklearn.decomposition import TruncatedSVD

    TruncatedSVD(LATENT_DIM, random_state=0).fit_transform(y.log1p())
    return math.nan, "5 power iterations"


METHODS: dict[str, Callable[[Any, float], tuple[float, str]]] = {
    "fastglmpca": fastglmpca_fit,
    "guide.fit, joint, to its log likelihood": joint,
    "guide.fit, joint, default priors": joint_by_default,
    "guide.fit, evidence, default priors": evidence,
    "TruncatedSVD of log counts": truncated_svd,
}


def measured(method: str, num_rows: int, wanted: float) -> SparseResult:
    """The result of a method in this process, which has done nothing else."""
    torch.set_num_threads(THREADS)
    fit = METHODS[method]
    fit(counts(REHEARSAL_ROWS), -math.inf)
    y = counts(num_rows)
    begin, processor = time.perf_counter(), time.process_time()
    found, outcome = fit(y, wanted)
    seconds = time.perf_counter() - begin, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return SparseResult(method, *seconds, peak, found, outcome)


def benchmark_sparse(num_rows: int, methods: list[str]) -> list[SparseResult]:
    """Methods one after the other, each in a process of its own."""
    results, wanted = [], math.inf
    for method in methods:
        command = [sys.executable, __file__, "--alone", method, "--rows", str(num_rows)]
        command += ["--wanted", repr(wanted)]
        environment = os.environ | {"OMP_NUM_THREADS": str(THREADS)}
        done = subprocess.run(
            command, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        result = SparseResult(*json.loads(done.stdout.splitlines()[-1]))
        print(result, flush=True)
        if method == "fastglmpca":
            wanted = result.log_likelihood
        results.append(result)
    return results


def main() -> None:
    """Measures all methods, or one of them alone in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=NUM_ROWS)
    parser.add_argument("--method", action="append", choices=METHODS, help="a method to measure")
    parser.add_argument("--alone", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--wanted", type=float, default=math.inf, help="log likelihood to reach")
    arguments = parser.parse_args()
    if arguments.alone:
        found = measured(arguments.alone, arguments.rows, arguments.wanted)
        print(json.dumps(found))
    else:
        benchmark_sparse(arguments.rows, arguments.method or list(METHODS))


if __name__ == "__main__":
    main()
