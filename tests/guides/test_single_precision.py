"""What a fit in single precision says of itself, against float64 at the same coefficients."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_expfam as pef
from pyro_expfam import families
from pyro_expfam.distributions import distribution
from pyro_expfam.families import Family

sys.path.insert(0, str(Path(__file__).parents[1] / "families"))
from all_families import ON_THE_REAL_LINE, one_of_each_kind
from quick_cases import name_of, slow_unless

N, D = 24, 3
A_ROW = 1e-6
"""Nats per row by which an objective may be off."""

FAMILIES = [*one_of_each_kind(ON_THE_REAL_LINE), families.Categorical(3)]

HEAVY = (
    families.Poisson,
    families.NegativeBinomial,
    families.Gamma,
    families.Exponential,
    families.Geometric,
)
"""Laws whose observations may be of any size."""

QUICK = (families.Poisson, families.Ordinal)


def predictors(family: Family, seed: int) -> Tensor:
    """Linear predictors of a table, some of which are far out where observations may be large."""
    torch.manual_seed(seed)
    number = family.num_predictors(D)
    eta = torch.randn(N, 1) @ torch.randn(1, number) + 0.3 * torch.randn(number)
    if type(family) in HEAVY:
        tail = torch.distributions.StudentT(1.5).sample((N, number))
        return (eta + tail).clamp(-4, 16).double()
    return eta.clamp(-2, 2).double()


def table_of(family: Family, seed: int = 0) -> Tensor:
    """Observations that single precision holds exactly."""
    law = distribution(family, predictors(family, seed), validate_args=False)
    return law.sample().float()


def fitted(kind: type, family: Family, y: Tensor, **settings: Any) -> tuple[Any, Any]:
    torch.manual_seed(1)
    model = pef.ExpFamPCA(family, D, 1, parameter_scale=None, **settings)
    guide = kind(model)
    return guide, guide.fit(y, num_starts=1, max_sweeps=300)


def log_prior(guide: Any) -> Tensor:
    """The log density of loading and intercept in float64."""
    block, total = guide.model, torch.zeros((), dtype=torch.float64)
    for name in ("loading", "intercept"):
        scale = getattr(block, f"{name}_scale").double()
        value = getattr(guide, name).double()
        total = total + torch.distributions.Normal(0.0, scale).log_prob(value).sum()
    return total


def joint_objective(guide: Any, y: Tensor, z: Tensor) -> Tensor:
    z = z.double()
    eta = z @ guide.loading.double().mT + guide.intercept.double()
    of_table = distribution(guide.model.family, eta, validate_args=False).log_prob(y.double())
    standard = torch.distributions.Normal(0.0, 1.0)
    return -of_table.sum() - standard.log_prob(z).sum() - log_prior(guide)


def evidence_objective(guide: Any, y: Tensor) -> Tensor:
    W, b = guide.loading.double(), guide.intercept.double()
    evidence = pef.log_evidence(guide.model.family, y.double(), W, b, order=1)
    return -evidence.sum() - log_prior(guide)


def is_quick(family: Family) -> bool:
    return type(family) in QUICK


@pytest.mark.filterwarnings("ignore::pyro_expfam.ConvergenceWarning")
@pytest.mark.parametrize("family", slow_unless(is_quick, FAMILIES), ids=name_of)
def test_the_joint_objective_is_exact(family: Family) -> None:
    y = table_of(family)
    guide, fit = fitted(pef.DEQMAPGuide, family, y)
    assert fit.objective == pytest.approx(
        float(joint_objective(guide, y, fit.latents)), rel=1e-12, abs=A_ROW * N
    )


CONVEX = [family for family in FAMILIES if family.is_convex]


@pytest.mark.parametrize("family", slow_unless(is_quick, CONVEX), ids=name_of)
def test_the_evidence_is_exact(family: Family) -> None:
    y = table_of(family)
    guide, fit = fitted(pef.LaplaceGuide, family, y)
    wanted = float(evidence_objective(guide, y))
    assert fit.objective == pytest.approx(wanted, rel=1e-12, abs=A_ROW * N)


@pytest.mark.parametrize("kind", [pef.DEQMAPGuide, pef.LaplaceGuide])
@pytest.mark.parametrize("family", slow_unless(is_quick, CONVEX), ids=name_of)
def test_a_fit_that_has_converged_is_at_rest(family: Family, kind: type) -> None:
    y = table_of(family)
    guide, fit = fitted(kind, family, y)
    assert fit.converged, fit.reason
    exact = copy.deepcopy(guide).double()
    exact.model.double()
    further = exact.fit(y.double())
    assert further.objective >= fit.objective - 1e-5 * (1 + abs(fit.objective))


@pytest.mark.parametrize("kind", [pef.DEQMAPGuide, pef.LaplaceGuide])
def test_a_count_of_tens_of_millions(kind: type) -> None:
    y = torch.tensor([[3e7, 1.0], [1.0, 2.0], [2.0, 0.0], [0.0, 1.0]])
    objectives = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        guide = kind(pef.ExpFamPCA(families.Poisson(), 2, 1).to(dtype))
        guide(y.to(dtype))
        fit = guide.to(dtype).fit(y.to(dtype))
        assert fit.converged
        objectives.append(fit.objective)
    assert objectives[0] == pytest.approx(objectives[1], abs=1e-4)


REAL = {
    "one scale": families.Gaussian(),
    "a known scale": families.Gaussian(0.5),
    "mixed columns": families.Columns(
        [(slice(0, 2), families.Gaussian(0.5)), ([2], families.Poisson())]
    ),
}


@pytest.mark.filterwarnings("ignore::pyro_expfam.ConvergenceWarning")
@pytest.mark.parametrize(("dtype", "far"), [(torch.float32, 1e3), (torch.float64, 1e6)])
@pytest.mark.parametrize("law", REAL)
def test_the_objective_of_real_numbers_far_from_zero(
    law: str, dtype: torch.dtype, far: float
) -> None:
    # Their squares are 1e6 and 1e12 times the squares of the residuals.
    torch.manual_seed(0)
    y = torch.randn(30, D, dtype=torch.float64)
    y[:, :2] += far
    y[:, 2] = torch.poisson(y[:, 2].exp()) if law == "mixed columns" else y[:, 2] + far
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(REAL[law], D, 1).to(dtype))
    fit = guide.fit(y, num_starts=1, max_sweeps=100)
    wanted = float(joint_objective(guide, y, fit.latents).detach())
    # The coefficients themselves are rounded.
    tolerance = A_ROW * len(y) + 40 * torch.finfo(dtype).eps ** 2 * far**2 * y.numel()
    assert fit.objective == pytest.approx(wanted, abs=tolerance)


@pytest.mark.filterwarnings("ignore::pyro_expfam.ConvergenceWarning")
def test_learnt_sizes_of_counts_that_single_precision_rounds() -> None:
    """Base measures, which sizes change, are of the same counts as the losses."""
    torch.manual_seed(0)
    y = 30_000_001 + 2 * torch.poisson(torch.full((N, D), 1e6, dtype=torch.float64))
    model = pef.ExpFamPCA(families.NegativeBinomial("shared"), D, 1, parameter_scale=None)
    guide = pef.DEQMAPGuide(model)
    fit = guide.fit(y, num_starts=1, max_sweeps=20)
    wanted = float(joint_objective(guide, y, fit.latents).detach())
    # Logarithms of counts have the rounding of single precision in the coefficients.
    assert fit.objective == pytest.approx(wanted, abs=1e-3 * N)


@pytest.mark.parametrize("kind", [pef.DEQMAPGuide, pef.LaplaceGuide])
def test_a_callback_sees_every_sweep_once_and_no_objective_that_rises(kind: type) -> None:
    torch.manual_seed(0)
    y = 3e4 * torch.poisson(torch.exp(torch.randn(40, 2) @ torch.randn(2, 6)))
    seen: list[pef.joint.Sweep] = []
    model = pef.ExpFamPCA(families.Poisson(), 6, 2, loading_scale=10.0)
    fit = kind(model).fit(y, num_starts=1, max_sweeps=200, callback=lambda x: seen.append(x))
    # Single precision ends the descent, and double precision goes on.
    assert len(fit.sweeps) == fit.sweeps[-1].number + 1 > 1
    # Starts that are compared have no objective.
    seen = [x for x in seen if x.objective < float("inf")]
    assert [x.number for x in seen] == list(range(fit.sweeps[-1].number + 1))
    objectives = [x.objective for x in seen]
    assert objectives == sorted(objectives, reverse=True)
