"""Thirty epochs of training against the paper's method, on the same batches from the same start."""

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import NamedTuple, Protocol

import pyro
import torch
from paper_data import FAMILIES, LATENT_DIM, NUM_FEATURES, PRECISION, Table, paper_table
from paper_method import equilibrium
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import Tensor

import pyro_expfam as pef

BATCH_SIZE = 500
LEARNING_RATE = 1e-3
LOADING_SCALE = 1.0
START_SCALE = {"Bernoulli": 0.1, "Gaussian": 0.1, "Poisson": 1e-3}
"""Counts are up to 57,007: from larger loadings the first iterate of the paper's map overflows."""

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, tuple[Activation, Activation]] = {
    "Bernoulli": (torch.nn.functional.softplus, torch.sigmoid),
    "Gaussian": (lambda eta: eta.square() / 2, lambda eta: eta),
    "Poisson": (torch.exp, torch.exp),
}
"""Log-partition and mean as the paper's code computes them, by built-in operations."""


class TrainingResult(NamedTuple):
    """Seconds and final objectives of both methods on one table."""

    family: str
    epochs: int
    seconds: float
    paper_seconds: float
    objective: float
    paper_objective: float
    paper_skipped: int
    paper_steps: int


class Method(Protocol):
    """A way to train a loading and an intercept."""

    def step(self, batch: Tensor) -> None:
        """One step of the optimiser on some rows."""

    def parameters(self) -> tuple[Tensor, Tensor]:
        """The loading ``(d, l)`` and the intercept ``(d,)``."""


class PackageMethod:
    """Stochastic variational inference in Pyro with the MAP guide."""

    def __init__(self, table: Table, start: Tensor) -> None:
        pyro.clear_param_store()
        self.num_rows = len(table.y)
        self.model = pef.ExpFamPCA(
            table.family, NUM_FEATURES, LATENT_DIM, PRECISION, loading_scale=LOADING_SCALE
        )
        self.guide = pef.DEQMAPGuide(self.model)
        self.guide(table.y[:BATCH_SIZE], num_rows=self.num_rows)
        with torch.no_grad():
            self.guide.global_guide.loading.copy_(start)
        self.svi = SVI(self.model, self.guide, Adam({"lr": LEARNING_RATE}), Trace_ELBO())

    def step(self, batch: Tensor) -> None:
        self.svi.step(batch, num_rows=self.num_rows)

    def parameters(self) -> tuple[Tensor, Tensor]:
        return self.guide.loading, self.guide.intercept


class PaperMethod:
    """The paper's equilibrium network: Anderson acceleration forwards and backwards."""

    def __init__(self, name: str, table: Table, start: Tensor) -> None:
        self.num_rows = len(table.y)
        self.log_partition, self.mean = ACTIVATIONS[name]
        self.W = start.clone().requires_grad_()
        self.b = torch.zeros(NUM_FEATURES, requires_grad=True)
        self.optimiser = torch.optim.Adam([self.W, self.b], lr=LEARNING_RATE)
        self.skipped = 0

    def step(self, batch: Tensor) -> None:
        def layer(z: Tensor) -> Tensor:
            return (batch - self.mean(z @ self.W.T + self.b)) @ self.W / PRECISION

        z = equilibrium(layer, batch.new_zeros(len(batch), LATENT_DIM))
        eta = z @ self.W.T + self.b
        rows = (self.log_partition(eta) - batch * eta).sum() + PRECISION / 2 * z.square().sum()
        prior = self.W.square().sum() / (2 * LOADING_SCALE**2)
        self.optimiser.zero_grad()
        (self.num_rows / len(batch) * rows + prior).backward()
        # Where its solver has left the numbers behind, the parameters at least stay.
        if all(bool(x.grad.isfinite().all()) for x in (self.W, self.b) if x.grad is not None):
            self.optimiser.step()
        else:
            self.skipped += 1

    def parameters(self) -> tuple[Tensor, Tensor]:
        return self.W.detach(), self.b.detach()


def benchmark_training(epochs: int) -> Iterator[TrainingResult]:
    """Trains each family by both methods, taking turns epoch by epoch."""
    for name in FAMILIES:
        table = paper_table(name)
        start = START_SCALE[name] * torch.randn(NUM_FEATURES, LATENT_DIM)
        package, paper = PackageMethod(table, start), PaperMethod(name, table, start)
        seconds = paper_seconds = 0.0
        for epoch in range(epochs):
            batches = table.y[torch.randperm(len(table.y))].split(BATCH_SIZE)
            seconds += time_epoch(package, batches)
            paper_seconds += time_epoch(paper, batches)
            print(
                f"{name}: epoch {epoch + 1} of {epochs}, {seconds:.1f} s, "
                f"the paper's method {paper_seconds:.1f} s ({paper.skipped} steps skipped)",
                flush=True,
            )
        yield TrainingResult(
            name,
            epochs,
            seconds,
            paper_seconds,
            joint_objective(table, *package.parameters()),
            joint_objective(table, *paper.parameters()),
            paper.skipped,
            epochs * len(batches),
        )


def time_epoch(method: Method, batches: tuple[Tensor, ...]) -> float:
    """Seconds of a step on every batch."""
    begin = perf_counter()
    for batch in batches:
        method.step(batch)
    return perf_counter() - begin


def joint_objective(table: Table, W: Tensor, b: Tensor) -> float:
    """The objective of Theorem 1 on all rows in float64, less the constants of the densities."""
    family, y = table.family, table.y.double()
    W, b = W.double(), b.double()
    z = pef.solve_latents(family, y, W, b, PRECISION).value
    eta = z @ W.T + b
    loss = family.log_partition(eta) - family.sufficient_statistic(y) * eta
    prior = W.square().sum() / (2 * LOADING_SCALE**2)
    return float(loss.sum() + PRECISION / 2 * z.square().sum() + prior)
