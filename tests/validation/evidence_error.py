"""The evidence of rows beside importance sampling."""

from typing import NamedTuple

import torch
from simulations import Setting, simulate

from pyro_expfam.deq import FisherScoring
from pyro_expfam.deq.layer import solve
from pyro_expfam.evidence import laplace_evidence, sample_evidence, second_order_term

NUM_ROWS = 100
NUM_DRAWS = 20_000


class EvidenceError(NamedTuple):
    """Mean absolute errors of a row in nats, and how sure they are.

    Attributes:
        first: of the Laplace approximation.
        second: of the second order.
        standard_error: of importance sampling, the mean over rows.
        unreliable: the part of the rows whose Pareto diagnostic is above 0.7.
    """

    first: float
    second: float
    standard_error: float
    unreliable: float


def evidence_error(setting: Setting, num_rows: int = NUM_ROWS) -> EvidenceError:
    """Both orders of the expansion against draws from the Laplace posterior."""
    problem, _ = simulate(setting, num_rows)
    z = solve(problem, FisherScoring()).value
    with torch.random.fork_rng():
        torch.manual_seed(num_rows)
        sampled = sample_evidence(problem, z, NUM_DRAWS)
    first = laplace_evidence(problem, z)
    second = first + second_order_term(problem, z)
    return EvidenceError(
        float((first - sampled.log_evidence).abs().mean()),
        float((second - sampled.log_evidence).abs().mean()),
        float(sampled.standard_error.mean()),
        float((sampled.khat > 0.7).double().mean()),
    )
