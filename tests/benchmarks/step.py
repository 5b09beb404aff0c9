"""A step of SVI with the MAP guide against plain Pyro, which learns the latents as parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import process_time
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta
from pyro.optim import Adam
from torch import Tensor

import pyro_expfam as pef

NUM_ROWS, NUM_FEATURES, LATENT_DIM = 500, 50, 2
LOADING_SCALE, INTERCEPT_SCALE = 1.0, 10.0
LEARNING_RATE = 1e-3
ROUNDS, STEPS = 40, 25


class StepResult(NamedTuple):
    """Processor milliseconds of a step on one thread, the least of all and their tenth percentile.

    Attributes:
        validation: whether Pyro checks its arguments.
        package: a step of the package.
        plain: a step of plain Pyro.
    """

    validation: bool
    package: tuple[float, float]
    plain: tuple[float, float]


def plain_model(y: Tensor) -> None:
    """Exponential-family PCA of bits as one writes it in Pyro."""
    shape = (NUM_FEATURES, LATENT_DIM)
    W = pyro.sample("loading", dist.Normal(0.0, LOADING_SCALE).expand(shape).to_event(2))
    b = pyro.sample("intercept", dist.Normal(0.0, INTERCEPT_SCALE).expand(shape[:1]).to_event(1))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([LATENT_DIM]).to_event(1))
        pyro.sample("y", dist.Bernoulli(logits=z @ W.mT + b).to_event(1), obs=y)


def plain_training() -> SVI:
    """Point estimates of everything, the latents among it."""
    return SVI(plain_model, AutoDelta(plain_model), Adam({"lr": LEARNING_RATE}), Trace_ELBO())


def package_training() -> SVI:
    """Point estimates of loading and intercept, and latents at the root."""
    model = pef.ExpFamPCA(
        pef.families.Bernoulli(),
        NUM_FEATURES,
        LATENT_DIM,
        loading_scale=LOADING_SCALE,
        intercept_scale=INTERCEPT_SCALE,
    )
    return SVI(model, pef.DEQMAPGuide(model), Adam({"lr": LEARNING_RATE}), Trace_ELBO())


TRAININGS: dict[str, Callable[[], SVI]] = {"package": package_training, "plain": plain_training}


def benchmark_steps(rounds: int = ROUNDS) -> Iterator[StepResult]:
    """Steps with and without Pyro's validation, taken in turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    z = torch.randn(NUM_ROWS, LATENT_DIM)
    y = torch.bernoulli(torch.sigmoid(z @ torch.randn(LATENT_DIM, NUM_FEATURES)))
    for validation in (True, False):
        with pyro.validation_enabled(validation):
            yield StepResult(validation, **_steps_in_turns(y, rounds))
    torch.set_num_threads(threads)


def _steps_in_turns(y: Tensor, rounds: int) -> dict[str, tuple[float, float]]:
    trainings = {name: make() for name, make in TRAININGS.items()}
    spent: dict[str, list[float]] = {name: [] for name in TRAININGS}
    for _ in range(rounds):
        for name, svi in trainings.items():
            # Two models of one program have one store.
            pyro.clear_param_store()
            for step in range(2 * STEPS):
                begin = process_time()
                svi.step(y)
                # The first steps after the other program pay for its memory.
                if step >= STEPS:
                    spent[name].append(1e3 * (process_time() - begin))
    for times in spent.values():
        times.sort()
    return {name: (times[0], times[len(times) // 10]) for name, times in spent.items()}
