"""Nanoseconds an entry and evaluation of the compiled kernels, beside what the processor can do.

Run it by ``python tests/benchmarks/entry_costs.py``. ``--family``, ``--latents``
and ``--features`` measure some of it.

The floor of an entry is the time of its multiply-adds at the speed of PyTorch's matrix product,
plus the time of one exponential: with ``l`` latents ``l`` for the linear predictor, ``l`` for the
score and ``l (l + 1) / 2`` for the information. Everything is in float32 on one thread, in
processor seconds, the least of several.
"""

import argparse
from collections.abc import Callable, Sequence
from time import process_time
from typing import NamedTuple

import numba
import numpy as np
import torch
from page import table

from pyro_expfam import families, links
from pyro_expfam.deq import FisherScoring, LatentProblem
from pyro_expfam.deq.backend import kernels_of
from pyro_expfam.deq.cpu.compilation import OF_KERNELS, whole_registers
from pyro_expfam.deq.cpu.fast_exponential import power_of_two

LATENTS, FEATURES = (2, 5, 10, 16, 32, 64), (50, 200, 2_000, 20_000)

FAMILIES: dict[str, families.Family] = {
    "bits": families.Bernoulli(),
    "counts": families.Poisson(),
    "binomial": families.Binomial(total_count=10),
    "continuous Bernoulli": families.ContinuousBernoulli(),
    "negative binomial": families.NegativeBinomial(3.0),
    "gamma": families.Gamma(2.0),
    "ordinal": families.Ordinal(4, cut_points=[-1.0, 0.0, 1.0]),
    "categorical": families.Categorical(4),
    "probit": families.Linked(families.Bernoulli(), links.Probit()),
    "complementary log-log": families.Linked(families.Bernoulli(), links.ComplementaryLogLog()),
}

ENTRIES = 1e7
"""Entries of a table with few latents. Tables with more have fewer, down to :data:`FEWEST_ROWS`."""

FEWEST_ROWS, REPEATS = 512, 3


class Floor(NamedTuple):
    """What the processor does in a second.

    Attributes:
        products: multiply-adds of a matrix product.
        exponentials: exponentials.
    """

    products: float
    exponentials: float

    def nanoseconds(self, latent_dim: int) -> float:
        """The floor of an entry and evaluation."""
        products = 2 * latent_dim + latent_dim * (latent_dim + 1) / 2
        return 1e9 * (products / self.products + 1 / self.exponentials)


@numba.njit(**OF_KERNELS)
def exponentiate(x, powers, times):  # type: ignore[no-untyped-def]
    """Powers of two, again and again."""
    whole_registers()
    for _ in range(times):
        for r in range(len(x)):
            powers[r] = power_of_two(x[r])


def measure_floor() -> Floor:
    """The speed of products and exponentials."""
    size, times = 768, 5_000
    square = torch.randn(size, size)
    of_product = least_seconds(lambda: square @ square)
    x = np.random.default_rng(0).normal(size=4_096).astype(np.float32)
    powers = np.empty_like(x)
    exponentiate(x, powers, 1)
    of_powers = least_seconds(lambda: exponentiate(x, powers, times))
    return Floor(size**3 / of_product, len(x) * times / of_powers)


def random_problem(
    family: families.Family, num_rows: int, num_features: int, latent_dim: int
) -> LatentProblem:
    """A table drawn from the model, in float32."""
    torch.manual_seed(0)
    W = 0.7 * torch.randn(num_features, latent_dim) / latent_dim**0.5
    eta = torch.randn(num_rows, latent_dim) @ W.T
    y = family.sample(eta.clamp(-6, 6)).float()
    return LatentProblem(family, y, W, torch.zeros(num_features), torch.tensor(1.0))


def measure(family: families.Family, num_features: int, latent_dim: int) -> tuple[float, bool]:
    """Nanoseconds an entry and evaluation, and whether a kernel took them."""
    # Levels of a column are side by side.
    num_features -= num_features % family.predictors_per_column
    rows = ENTRIES / num_features / (1 + latent_dim**2 / 60)
    num_rows = int(max(rows, FEWEST_ROWS))
    problem = random_problem(family, num_rows, num_features, latent_dim)
    # One start per row, so that no work is shared between rows.
    start, solver = torch.zeros(num_rows, latent_dim), FisherScoring()
    evaluations = float(solver.solve(problem, start).num_iter.double().sum())
    seconds = least_seconds(lambda: solver.solve(problem, start))
    return 1e9 * seconds / (evaluations * num_features), kernels_of(problem) is not None


def least_seconds(work: Callable[[], object]) -> float:
    """The least processor seconds of several runs."""
    seconds = []
    for _ in range(REPEATS):
        begin = process_time()
        work()
        seconds.append(process_time() - begin)
    return min(seconds)


def rows_of(
    name: str, floor: Floor, latents: Sequence[int], features: Sequence[int]
) -> list[list[str]]:
    """The rows of a family in the table of results."""
    rows = []
    for latent_dim in latents:
        least = floor.nanoseconds(latent_dim)
        row = [name, str(latent_dim), f"{least:.2f}"]
        for num_features in features:
            cost, compiled = measure(FAMILIES[name], num_features, latent_dim)
            by = "" if compiled else ", PyTorch"
            row.append(f"{cost:.2f} ({cost / least:.1f}{by})")
        print(row, flush=True)
        rows.append(row)
    return rows


def main() -> None:
    """Measures all families, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", action="append", choices=FAMILIES)
    parser.add_argument("--features", action="append", type=int)
    parser.add_argument("--latents", action="append", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    floor, features = measure_floor(), arguments.features or FEATURES
    latents = arguments.latents or LATENTS
    print(f"{2e-9 * floor.products:.0f} GFLOP/s, {1e9 / floor.exponentials:.3f} ns an exponential")
    names = arguments.family or FAMILIES
    rows = [row for name in names for row in rows_of(name, floor, latents, features)]
    heading = ("family", "latents", "floor, ns", *(f"{d:,} features" for d in features))
    print(table(heading, rows))


if __name__ == "__main__":
    main()
