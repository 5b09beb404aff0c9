"""Thirty epochs of training against the paper's method, on the same batches from the same start."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, Protocol

import pyro
import torch
from paper_data import FAMILIES, LATENT_DIM, NUM_FEATURES, PRECISION, Table, paper_table
from paper_method import SystemSolver, elimination, equilibrium, least_squares
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from timing import timed
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


class Run(NamedTuple):
    """What a method needed for all epochs, and where it came to."""

    seconds: float
    objective: float
    skipped_steps: int


class TrainingResult(NamedTuple):
    """The runs of all methods on the table of a family."""

    family: str
    epochs: int
    steps: int
    package: Run
    joint: Run
    published: Run
    elimination: Run


class Method(Protocol):
    """A way to train a loading and an intercept, with the number of steps that it left out."""

    skipped: int

    def step(self, batch: Tensor) -> None:
        """One step of the optimiser on some rows."""

    def parameters(self) -> tuple[Tensor, Tensor]:
        """The loading ``(d, l)`` and the intercept ``(d,)``."""


class PackageMethod:
    """Stochastic variational inference in Pyro with the MAP guide."""

    def __init__(self, table: Table, start: Tensor) -> None:
        pyro.clear_param_store()
        self.skipped = 0
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

    def __init__(self, name: str, table: Table, start: Tensor, solve: SystemSolver) -> None:
        self.solve = solve
        self.num_rows = len(table.y)
        self.log_partition, self.mean = ACTIVATIONS[name]
        self.W = start.clone().requires_grad_()
        self.b = torch.zeros(NUM_FEATURES, requires_grad=True)
        self.optimiser = torch.optim.Adam([self.W, self.b], lr=LEARNING_RATE)
        self.skipped = 0

    def step(self, batch: Tensor) -> None:
        def layer(z: Tensor) -> Tensor:
            return (batch - self.mean(z @ self.W.T + self.b)) @ self.W / PRECISION

        z = equilibrium(layer, batch.new_zeros(len(batch), LATENT_DIM), self.solve)
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
    """Trains each family by all methods, which take turns epoch by epoch."""
    for name in FAMILIES:
        table = paper_table(name)
        start = START_SCALE[name] * torch.randn(NUM_FEATURES, LATENT_DIM)
        methods: dict[str, Method] = {
            "package": PackageMethod(table, start),
            "published": PaperMethod(name, table, start, least_squares),
            "elimination": PaperMethod(name, table, start, elimination),
        }
        seconds = dict.fromkeys(methods, 0.0)
        for epoch in range(epochs):
            batches = table.y[torch.randperm(len(table.y))].split(BATCH_SIZE)
            for key, method in methods.items():
                seconds[key] += timed(partial(take_steps, method, batches))[0]
            so_far = ", ".join(f"{key} {spent:.1f} s" for key, spent in seconds.items())
            print(f"training {name}: epoch {epoch + 1} of {epochs}: {so_far}", flush=True)
        runs = {
            key: Run(seconds[key], joint_objective(table, *method.parameters()), method.skipped)
            for key, method in methods.items()
        }
        runs["joint"] = joint_fit(table)
        yield TrainingResult(name, epochs, epochs * len(batches), **runs)


def joint_fit(table: Table) -> Run:
    """Joint Fisher scoring of the whole table, from its own start to its own convergence."""
    model = pef.ExpFamPCA(
        table.family, NUM_FEATURES, LATENT_DIM, PRECISION, loading_scale=LOADING_SCALE
    )
    guide = pef.DEQMAPGuide(model)
    seconds, fit = timed(partial(guide.fit, table.y))
    print(f"joint fit: {seconds:.2f} s, {len(fit.sweeps)} sweeps, {fit.reason}", flush=True)
    return Run(seconds, joint_objective(table, guide.loading, guide.intercept), 0)


def take_steps(method: Method, batches: tuple[Tensor, ...]) -> None:
    """One step on every batch."""
    for batch in batches:
        method.step(batch)


def joint_objective(table: Table, W: Tensor, b: Tensor) -> float:
    """The objective of Theorem 1 on all rows in float64, less the constants of the densities."""
    family, y = table.family, table.y.double()
    W, b = W.double(), b.double()
    z = pef.solve_latents(family, y, W, b, PRECISION).value
    eta = z @ W.T + b
    loss = family.log_partition(eta) - family.sufficient_statistic(y) * eta
    prior = W.square().sum() / (2 * LOADING_SCALE**2)
    return float(loss.sum() + PRECISION / 2 * z.square().sum() + prior)
