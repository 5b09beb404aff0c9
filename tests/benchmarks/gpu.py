"""Measures the kernels on a CUDA device and writes the results to docs/performance.md.

Run it from anywhere: ``python tests/benchmarks/gpu.py``. It needs no package but this one and what
it depends on.
"""

import platform
from collections.abc import Callable
from datetime import UTC, datetime
from statistics import median
from typing import NamedTuple

import torch
import triton
from page import commit, table, write_part
from torch import Tensor

import pyro_expfam as pef
from pyro_expfam.deq import FisherScoring, LatentProblem, Solution
from pyro_expfam.deq.cuda.evidence import row_evidence
from pyro_expfam.deq.packed import SMALLEST_PIVOT
from pyro_expfam.families import Bernoulli, Family, Poisson

LARGE = (1_000_000, 2_000, 10)
SMALL = (42_453, 50, 2)
"""Rows, features and latents."""

REPEATS = 9
CHUNK = 50_000


class Ceilings(NamedTuple):
    """What the device reaches on plain work: bytes and operations of float32 a second."""

    bandwidth: float
    flops: float


class Count(NamedTuple):
    """The work of a solve, each entry of the table read once."""

    bytes: float
    flops: float

    def floor(self, ceilings: Ceilings) -> float:
        """The least seconds that the device needs for it."""
        return max(self.bytes / ceilings.bandwidth, self.flops / ceilings.flops)


def seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median seconds of work on the device, after two runs that warm up."""
    for _ in range(2):
        work()
    found = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end) / 1e3)
    return median(found)


def measure_ceilings() -> Ceilings:
    """A copy of two gigabytes, and a product of large matrices in float32."""
    source = torch.empty(1 << 29, device="cuda")
    target = torch.empty_like(source)
    copied = 2 * source.numel() * 4 / seconds(lambda: target.copy_(source))
    size = 8192
    a, b = torch.randn(2, size, size, device="cuda")
    multiplied = 2 * size**3 / seconds(lambda: a @ b)
    return Ceilings(copied, multiplied)


def simulate(family: Family, num_rows: int, num_features: int, latent_dim: int) -> LatentProblem:
    """A table drawn on the device, some rows at a time."""
    W = latent_dim**-0.5 * torch.randn(num_features, latent_dim, device="cuda")
    b = -0.5 * torch.ones(num_features, device="cuda")
    statistic = torch.empty(num_rows, num_features, device="cuda")
    for rows in statistic.split(CHUNK):
        z = torch.randn(len(rows), latent_dim, device="cuda")
        rows.copy_(family.sample(z @ W.T + b))
    return LatentProblem(family, statistic, W, b, torch.tensor(1.0, device="cuda"))


def count_work(problem: LatentProblem, solution: Solution) -> Count:
    """Operations and bytes of Fisher scoring.

    An evaluation of a row takes products with the loading for the natural parameters and for the
    score, and one with the distinct products of its columns for the information.
    """
    num_features, latent_dim = problem.W.shape
    evaluation = num_features * (4 * latent_dim + latent_dim * (latent_dim + 1))
    statistic = 2 * num_features * latent_dim
    evaluations = float(solution.num_iter.sum())
    return Count(
        4.0 * problem.num_rows * (num_features + latent_dim),
        evaluations * evaluation + problem.num_rows * statistic,
    )


def start_of(problem: LatentProblem) -> Tensor:
    """Latents zero, shared by all rows as those of the layer are."""
    return problem.W.new_zeros(()).expand(problem.num_rows, problem.latent_dim)


def large_section(ceilings: Ceilings) -> str:
    """A large Poisson table against the floor."""
    problem = simulate(Poisson(), *LARGE)
    start, solver = start_of(problem), FisherScoring()
    solution = solver.solve(problem, start)
    work = count_work(problem, solution)
    taken, floor = seconds(lambda: solver.solve(problem, start)), work.floor(ceilings)
    z = solution.value
    grad = torch.randn_like(z)
    pivot = SMALLEST_PIVOT[torch.float32]
    evidence = seconds(lambda: row_evidence(problem, z, pivot))
    backward = seconds(lambda: gradients_of(problem, solver, grad)) - taken
    rows = [
        ["solve", f"{1e3 * taken:.1f}", f"{1e3 * floor:.1f}", f"{taken / floor:.2f}"],
        ["backward pass", f"{1e3 * backward:.1f}", "", ""],
        ["log likelihood and log determinant", f"{1e3 * evidence:.1f}", "", ""],
    ]
    num_rows, num_features, latent_dim = LARGE
    return (
        f"### Poisson, {num_rows:,} x {num_features:,}, {latent_dim} latents\n\n"
        f"{work.flops:.3g} operations and {work.bytes:.3g} bytes; "
        f"{float(solution.num_iter.float().mean()):.2f} evaluations a row, "
        f"{int((~solution.converged).sum())} rows unsolved.\n\n"
        + table(["work", "ms", "floor, ms", "ratio"], rows)
    )


def gradients_of(problem: LatentProblem, solver: FisherScoring, grad: Tensor) -> None:
    """A solve and its backward pass."""
    W, b = (x.detach().requires_grad_() for x in (problem.W, problem.b))
    value = pef.deq.implicit.solve(
        LatentProblem(problem.family, problem.y, W, b, problem.precision),
        solver,
        start_of(problem),
    ).value
    value.backward(grad)


def small_section() -> str:
    """The table of the paper by kernels and by PyTorch operations."""
    problem = simulate(Bernoulli(), *SMALL)
    start = start_of(problem)
    fused, plain = FisherScoring(), FisherScoring(compiled=False)
    by_kernels = seconds(lambda: fused.solve(problem, start))
    by_operations = seconds(lambda: plain.solve(problem, start))
    difference = fused.solve(problem, start).value - plain.solve(problem, start).value
    rows = [
        ["PyTorch operations", f"{1e3 * by_operations:.3f}", ""],
        ["kernels", f"{1e3 * by_kernels:.3f}", f"{by_operations / by_kernels:.1f}"],
    ]
    num_rows, num_features, latent_dim = SMALL
    return (
        f"### Bernoulli, {num_rows:,} x {num_features}, {latent_dim} latents\n\n"
        f"The latents differ by at most {float(difference.abs().max()):.1e}.\n\n"
        + table(["solve by", "ms", "times faster"], rows)
    )


def device_section(ceilings: Ceilings) -> str:
    """The device, its ceilings and the versions."""
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d} at commit {commit()}, on "
        f"{torch.cuda.get_device_name()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, triton {triton.__version__}. The device copies "
        f"{ceilings.bandwidth / 1e12:.2f} TB/s, counting bytes read and written, and multiplies "
        f"matrices of float32 at {ceilings.flops / 1e12:.1f} TFLOP/s."
    )


def main() -> None:
    """Measures everything and writes the page."""
    torch.manual_seed(20230611)
    ceilings = measure_ceilings()
    sections = [device_section(ceilings), small_section(), large_section(ceilings)]
    print("\n\n".join(sections))
    write_part("gpu", sections)


if __name__ == "__main__":
    main()
