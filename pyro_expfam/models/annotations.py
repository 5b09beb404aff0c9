"""What a block writes into the ``infer`` of its sites, for guides, losses and diagnostics."""

from __future__ import annotations

from typing import Any, NamedTuple

import pyro.distributions as dist
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.evidence import second_order_evidence


class Answer(NamedTuple):
    """What a guide says of a block's latents: the annotation ``answer`` of its site.

    Attributes:
        problem: the problem of the latents, without repetitions.
        posterior: the distribution around its root, of the problem's batch shape.
    """

    problem: LatentProblem
    posterior: dist.TorchDistribution


def infer(**annotations: Any) -> Any:
    """Annotations of a site.

    Pyro types a few of its own, and passes on all others.
    """
    return annotations


def marginal(problem: LatentProblem) -> Tensor:
    """The log density of every row with its latents integrated out, ``(..., N)``."""
    return second_order_evidence(problem.distinct())
