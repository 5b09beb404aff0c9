"""Measures the speed of the package and writes the results to docs/performance.md.

Run it from anywhere: ``python tests/benchmarks/run.py``. With ``--quick`` it trains for two
epochs only and prints the results in place of writing them.
"""

import argparse

import torch
from laplace import benchmark_laplace, benchmark_pyro_laplace
from report import (
    laplace_section,
    machine_section,
    solving_section,
    training_section,
    write_page,
)
from solving import benchmark_solving
from training import benchmark_training

EPOCHS, REPEATS = 30, 9
QUICK_EPOCHS, QUICK_REPEATS = 2, 1
THREADS = 2


def measure(epochs: int, repeats: int) -> list[str]:
    """The sections of the page."""
    return [
        machine_section(),
        solving_section(list(benchmark_solving(repeats))),
        laplace_section(list(benchmark_laplace(repeats)), list(benchmark_pyro_laplace())),
        training_section(list(benchmark_training(epochs))),
    ]


def main() -> None:
    """Parses the command line and runs everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few minutes, nothing written")
    torch.set_num_threads(THREADS)
    if parser.parse_args().quick:
        print("\n\n".join(measure(QUICK_EPOCHS, QUICK_REPEATS)))
    else:
        write_page(measure(EPOCHS, REPEATS))


if __name__ == "__main__":
    main()
