"""Measures the speed of the package and writes the results to docs/performance.md.

Run it from anywhere: ``python tests/benchmarks/run.py``. With ``--only peers`` it measures that
part alone and leaves the results of the others; ``--only`` may be given more than once. With
``--quick`` everything is short, and the results are printed in place of being written.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
from evidence_fits import benchmark_evidence
from held_out import ENOUGH_ITERATIONS, benchmark_held_out
from laplace import benchmark_laplace, benchmark_pyro_laplace
from large_counts import benchmark_large
from optimum import benchmark_optimum
from page import write_part
from peer_gaps import benchmark_peer_gaps
from poisson_pca import benchmark_poisson_pca
from reduced_rank import benchmark_reduced_rank
from report import (
    evidence_section,
    held_out_section,
    laplace_section,
    large_section,
    machine_section,
    optimum_section,
    peer_gaps_section,
    poisson_pca_section,
    reduced_rank_section,
    scaling_section,
    solving_section,
    step_section,
    training_section,
)
from scaling import benchmark_scaling
from solving import benchmark_solving
from step import ROUNDS, benchmark_steps
from training import benchmark_training

THREADS = 2


class Effort(NamedTuple):
    """How long to measure.

    Attributes:
        epochs: of training.
        repeats: of what takes less than a second.
        fit_repeats: of what takes seconds.
        peer_seconds: the most processor seconds of a peer on its way to the optimum.
        peer_iterations: of the peers whose log likelihood is to be reached.
        most_iterations: of the peers that run to convergence.
        latent_dims: on the way to the optimum.
        optimum_seconds: the most processor seconds of a way to the optimum.
        large_rows: of the largest table.
        reduced_rank_rows: of the table for glmmTMB.
    """

    epochs: int
    repeats: int
    fit_repeats: int
    peer_seconds: float
    peer_iterations: tuple[int, ...]
    most_iterations: int
    latent_dims: tuple[int, ...]
    optimum_seconds: float
    large_rows: int
    reduced_rank_rows: int


FULL = Effort(30, 9, 5, 300.0, (40,), ENOUGH_ITERATIONS, (2, 10, 30), 10.0, 1_300_000, 1_600)
QUICK = Effort(2, 1, 1, 5.0, (2,), 20, (2,), 2.0, 20_000, 200)


def measure_solving(effort: Effort) -> list[str]:
    """Solving and covariances, against torchdeq and Pyro."""
    return [
        solving_section(list(benchmark_solving(effort.repeats))),
        laplace_section(
            list(benchmark_laplace(effort.repeats)),
            list(benchmark_pyro_laplace(effort.fit_repeats)),
        ),
    ]


def measure_training(effort: Effort) -> list[str]:
    """Training, against the paper's method."""
    return [training_section(list(benchmark_training(effort.epochs)))]


def measure_step(effort: Effort) -> list[str]:
    """A step of SVI, against plain Pyro."""
    rounds = ROUNDS if effort.repeats > 1 else 2
    return [step_section(list(benchmark_steps(rounds)))]


def measure_peers(effort: Effort) -> list[str]:
    """Joint fits against other packages for Poisson PCA."""
    return [
        poisson_pca_section(
            list(benchmark_poisson_pca(effort.peer_iterations, effort.fit_repeats))
        ),
        held_out_section(list(benchmark_held_out(effort.most_iterations))),
    ]


def measure_peer_gaps(effort: Effort) -> list[str]:
    """Other packages on their way to the optimum of Poisson PCA."""
    return [peer_gaps_section(list(benchmark_peer_gaps(effort.peer_seconds)))]


def measure_optimum(effort: Effort) -> list[str]:
    """The way to the optimum, against a plain iteration."""
    return [optimum_section(list(benchmark_optimum(effort.latent_dims, effort.optimum_seconds)))]


def measure_evidence(effort: Effort) -> list[str]:
    """Fits of the evidence, against joint fits."""
    return [evidence_section(list(benchmark_evidence(max(1, effort.fit_repeats // 2))))]


def measure_reduced_rank(effort: Effort) -> list[str]:
    """Fits of the evidence, against glmmTMB."""
    result = benchmark_reduced_rank(effort.reduced_rank_rows, effort.fit_repeats)
    if result is None:
        return ["Not measured: it needs R with glmmTMB."]
    return [reduced_rank_section(result)]


def measure_large(effort: Effort) -> list[str]:
    """A joint fit of more than a million rows."""
    return [large_section(benchmark_large(effort.large_rows))]


def measure_scaling(effort: Effort) -> list[str]:
    """Joint fits and solving by the number of rows."""
    return [scaling_section(list(benchmark_scaling(effort.fit_repeats)))]


PARTS: dict[str, Callable[[Effort], list[str]]] = {
    "solving": measure_solving,
    "training": measure_training,
    "step": measure_step,
    "peers": measure_peers,
    "peer-gaps": measure_peer_gaps,
    "optimum": measure_optimum,
    "evidence": measure_evidence,
    "reduced-rank": measure_reduced_rank,
    "scaling": measure_scaling,
    "large": measure_large,
}


def main() -> None:
    """Parses the command line and runs the parts that are wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few minutes, nothing written")
    parser.add_argument("--only", action="append", choices=PARTS, help="a part to measure")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    for part in arguments.only or PARTS:
        sections = PARTS[part](QUICK if arguments.quick else FULL)
        sections.insert(0, machine_section(part))
        if arguments.quick:
            print("\n\n".join(sections))
        else:
            write_part(part, sections)


if __name__ == "__main__":
    main()
