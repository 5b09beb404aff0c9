"""Ways to solve a table on a CPU: PyTorch operations by tiles, torch.compile, the Numba kernel.

Run it by ``python tests/benchmarks/kernels.py``; torch.compile needs a C++ compiler.
"""

from collections.abc import Callable
from functools import partial

import torch
from timing import median_seconds_in_turns
from torch import Tensor

from pyro_expfam.deq import FisherScoring, LatentProblem
from pyro_expfam.deq.cpu.solving import solve_rows
from pyro_expfam.deq.solution import unsolved
from pyro_expfam.deq.symmetric import weighted_gram
from pyro_expfam.families import Bernoulli

SIZES = ((42_453, 50, 2), (2_000, 2_000, 10))
"""Rows, features and latents."""

REPEATS = 9


def random_problem(num_rows: int, num_features: int, latent_dim: int) -> LatentProblem:
    """A Bernoulli table drawn from the model, in float32."""
    torch.manual_seed(0)
    W = torch.randn(num_features, latent_dim) / latent_dim**0.5
    y = torch.bernoulli(torch.sigmoid(torch.randn(num_rows, latent_dim) @ W.T))
    return LatentProblem(Bernoulli(), y, W, torch.zeros(num_features), torch.tensor(1.0))


def solve_by_kernel(problem: LatentProblem, start: Tensor) -> Tensor:
    """The latents by the Numba kernel, whatever the size."""
    solution = unsolved(start)
    solver = FisherScoring()
    solve_rows(problem, start, solver.rules(start.dtype), solution)
    return solution.value


def evaluate(statistic_loading: Tensor, W: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Score and information without the prior's part: what every iteration computes."""
    mean = torch.sigmoid(z @ W.T)
    return statistic_loading - mean @ W, weighted_gram(mean * (1 - mean), W)


def benchmark(num_rows: int, num_features: int, latent_dim: int) -> None:
    """Prints the seconds of every way."""
    problem = random_problem(num_rows, num_features, latent_dim)
    # One start per row, so that none of the ways shares work between rows.
    start = torch.zeros(num_rows, latent_dim)
    arguments = (problem.y @ problem.W, problem.W, start)
    works: dict[str, Callable[[], object]] = {
        "solve: PyTorch by tiles": partial(FisherScoring(compiled=False).solve, problem, start),
        "solve: Numba kernel": partial(solve_by_kernel, problem, start),
        "one evaluation: PyTorch": partial(evaluate, *arguments),
        "one evaluation: torch.compile": partial(torch.compile(evaluate), *arguments),
    }
    for name, seconds in median_seconds_in_turns(works, REPEATS).items():
        print(f"{num_rows} x {num_features}, {latent_dim} latents, {name}: {seconds:.4f} s")


if __name__ == "__main__":
    for size in SIZES:
        benchmark(*size)
