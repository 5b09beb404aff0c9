"""Fits of the evidence to rest, beside joint fits of the same tables to rest."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import pyro
import torch
from timing import median_seconds_in_turns
from torch import Tensor

import pyro_expfam as pef

TABLES = (
    ("Poisson", 1_600, 40, 2),
    ("Bernoulli", 42_453, 50, 2),
    ("Poisson", 2_000, 1_000, 5),
    ("Bernoulli", 5_000, 200, 5),
)
"""Families, rows, features and latents."""


class EvidenceResult(NamedTuple):
    """Seconds of fits of a table from nothing to rest, with default priors.

    Attributes:
        family: the family.
        shape: rows and features.
        latent_dim: the number of latents.
        joint: the joint fit.
        evidence: the evidence to first order.
        second: the evidence to second order.
        posterior: the evidence to first order with the posterior of the coefficients.
    """

    family: str
    shape: tuple[int, int]
    latent_dim: int
    joint: float
    evidence: float
    second: float
    posterior: float


def benchmark_evidence(repeats: int) -> Iterator[EvidenceResult]:
    """Fits of every table, in turns."""
    for name, num_rows, num_features, latent_dim in TABLES:
        print(f"evidence: {name}, {num_rows} x {num_features}, {latent_dim} latents", flush=True)
        family = getattr(pef.families, name)()
        y = simulated(family, num_rows, num_features, latent_dim)
        of = partial(fit, y, family, latent_dim)
        first, second = pef.LaplaceEvidence(), pef.LaplaceEvidence(order=2)
        works: dict[str, Callable[[], object]] = {
            "joint": partial(of, pef.DEQMAPGuide, None),
            "evidence": partial(of, pef.DEQMAPGuide, first),
            "second": partial(of, pef.DEQMAPGuide, second),
            "posterior": partial(of, partial(pef.LaplaceGuide, globals="laplace"), first),
        }
        seconds = median_seconds_in_turns(works, repeats)
        yield EvidenceResult(name, (num_rows, num_features), latent_dim, **seconds)


def fit(
    y: Tensor,
    family: pef.families.Family,
    latent_dim: int,
    guide: Callable[[pef.ExpFamPCA], pef.DEQMAPGuide | pef.LaplaceGuide],
    loss: pef.LaplaceEvidence | None,
) -> None:
    """A fit from nothing, which must come to rest."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    end = guide(pef.ExpFamPCA(family, y.shape[1], latent_dim)).fit(y, loss=loss)
    if not end.converged:
        raise RuntimeError(f"the fit has not come to rest: {end}")


def simulated(
    family: pef.families.Family, num_rows: int, num_features: int, latent_dim: int
) -> Tensor:
    """A table drawn from the model."""
    torch.manual_seed(20230611)
    eta = torch.randn(num_rows, latent_dim) @ torch.randn(latent_dim, num_features)
    return family.sample(0.5 * eta - 0.5)
