"""Poisson PCA by coordinate descent: processor seconds of peers to gaps of the log likelihood."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import fastglmpca
import numpy as np
import torch
from count_tables import CountTable, cell_table, poisson_log_likelihood, simulated_table
from glmpca import glmpca
from optimum import Trace, package_trace, seconds_to
from poisson_pca import LATENT_DIM, LOADING_SCALE, PRECISION, SEED, package_fit

LONG = 2_000
"""Sweeps of the fit in float64 whose log likelihood gaps are to, if it does not rest before."""


class PeerGaps(NamedTuple):
    """Processor seconds to gaps, infinite where they were not reached in the time.

    Attributes:
        table: the name of the table.
        peer: the name of the peer.
        iterations: that the peer took.
        theirs: its seconds to each of the gaps.
        ours: the seconds of ``guide.fit``.
        seconds: the processor seconds that the peer had in all.
        end: its gap at the end.
    """

    table: str
    peer: str
    iterations: int
    theirs: tuple[float, ...]
    ours: tuple[float, ...]
    seconds: float
    end: float


class OutOfTime(Exception):
    """A peer has had its seconds."""


def benchmark_peer_gaps(seconds: float) -> Iterator[PeerGaps]:
    """Every peer on every table for so many processor seconds of one thread.

    Gaps are to the log likelihood of a fit in float64 that is followed to rest. The package's
    objectives are counted without the penalty at its end, which differs along the last sweeps by
    less than a hundredth of itself, 2e-7 of the objective.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for table in (simulated_table(), cell_table()):
        exact = table._replace(y=table.y.double(), offset=table.offset.double())
        long = package_fit(exact, math.inf, LONG)
        package_trace(table, LATENT_DIM, PRECISION, LOADING_SCALE, seconds)
        ours = package_trace(table, LATENT_DIM, PRECISION, LOADING_SCALE, seconds)
        penalty = long.penalty * abs(long.log_likelihood)
        ours = [(at, value - penalty) for at, value in ours]
        for peer, trace_of in PEERS.items():
            print(f"peer gaps: {peer}, {table.name}", flush=True)
            trace = trace_of(table, seconds)
            best = min(-long.log_likelihood, *(value for _, value in trace))
            last, value = trace[-1]
            result = PeerGaps(
                table.name,
                peer,
                len(trace) - 1,
                seconds_to(trace, best),
                seconds_to(ours, best),
                last,
                (value - best) / abs(best),
            )
            print(f"peer gaps: {result}", flush=True)
            yield result
    torch.set_num_threads(threads)


def fastglmpca_trace(table: CountTable, seconds: float) -> Trace:
    """Minus the log likelihoods on the way of fastglmpca, which has the same offsets."""
    model = fastglmpca.PoissonGLMPCA(
        n_pcs=LATENT_DIM, tol=0.0, device="cpu", progress_bar=False, max_iter=10**6
    )
    # Its log likelihood has no factorials.
    factorials = float(torch.lgamma(table.y.double() + 1).sum())
    trace: Trace = []
    begin = time.process_time()

    def in_time(iterations: Iterable[int]) -> Iterator[int]:
        for iteration in iterations:
            lost = factorials - model.loglik_history_[-1]
            trace.append((time.process_time() - begin, lost))
            if trace[-1][0] > seconds:
                return
            yield iteration

    model.fit(table.y, init="svd", custom_iterator=in_time)
    _check(table, torch.from_numpy(model.reconstruct_counts()).log(), trace[-1][1])
    return trace


def glmpca_trace(table: CountTable, seconds: float) -> Trace:
    """Minus the log likelihoods on the way of glmpca, which starts at random."""
    counts = table.y.T.double().numpy()
    saturated = poisson_log_likelihood(table.y, table.y.double().log())
    trace: Trace = []
    mean = np.empty(0)
    family, begin = glmpca.GlmpcaFamily, time.process_time()

    class TimedFamily(family):  # type: ignore[misc, valid-type]
        """The family, which looks at the clock where its deviance is computed."""

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            deviance = self.dev_func

            def timed_deviance(y: np.ndarray, eta: np.ndarray) -> float:
                nonlocal mean
                mean, found = eta, float(deviance(y, eta))
                trace.append((time.process_time() - begin, found / 2 - saturated))
                if trace[-1][0] > seconds:
                    raise OutOfTime
                return found

            self.dev_func = timed_deviance

    np.random.seed(SEED)  # noqa: NPY002 - glmpca draws from the global generator.
    size = table.offset.double().exp().flatten().numpy()
    glmpca.GlmpcaFamily = TimedFamily
    try:
        glmpca.glmpca(counts, LATENT_DIM, ctl={"maxIter": 10**6, "eps": 0.0}, sz=size)
    except OutOfTime:
        pass
    finally:
        glmpca.GlmpcaFamily = family
    _check(table, torch.from_numpy(mean.T), trace[-1][1])
    return trace


def _check(table: CountTable, eta: torch.Tensor, found: float) -> None:
    """Compares what a peer says of its end with its log likelihood in float64."""
    expected = -poisson_log_likelihood(table.y, eta)
    if not math.isclose(found, expected, rel_tol=2e-6):
        raise RuntimeError(f"the peer has the log likelihood {-expected}, and says {-found}")


PEERS: dict[str, Callable[[CountTable, float], Trace]] = {
    "fastglmpca": fastglmpca_trace,
    "glmpca": glmpca_trace,
}
