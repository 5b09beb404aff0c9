"""The law of a family, transformations of torch, and laws inside of Pyro models."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from law_cases import (
    Case,
    each_enumerable,
    each_law,
    each_of_number_parameters,
    some_reparameterised,
    some_with_the_mean,
)
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceEnum_ELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.distributions import constraints, kl_divergence

from pyro_expfam import distributions, families
from pyro_expfam.distributions import (
    ExponentialFamilyDistribution,
    FamilyDistribution,
    distribution,
)
from pyro_expfam.distributions.of_family import CLASSES
from pyro_expfam.families import ExponentialFamily


class LoadedCoin(families.Bernoulli):
    """A user's refinement of a family of the package."""


@each_law
def test_each_family_has_the_distribution_of_its_name(case: Case) -> None:
    law = case(4, 3)
    same = distribution(law.family, law._eta)
    assert same.family is law.family
    y = law.sample()
    assert (same.log_prob(y) == law.log_prob(y)).all()
    assert same.batch_shape == law.batch_shape
    is_exponential = isinstance(law.family, ExponentialFamily)
    generic = ExponentialFamilyDistribution if is_exponential else FamilyDistribution
    assert type(same) is getattr(distributions, type(law.family).__name__, generic)


def test_a_refined_family_has_the_generic_distribution() -> None:
    assert type(distribution(LoadedCoin(), torch.zeros(2))) is ExponentialFamilyDistribution


def test_every_public_name_exists() -> None:
    names = {cls.__name__ for cls in CLASSES.values()}
    assert names == {cls.__name__ for cls in CLASSES}
    general = {"ExponentialFamilyDistribution", "FamilyDistribution", "distribution"}
    public = names | general | {"Categorical", "MixedDistribution", "Multinomial"}
    assert set(distributions.__all__) == public


@each_of_number_parameters
def test_log_prob_maps_and_differentiates_under_vmap(case: Case) -> None:
    eta = case.domain(torch.randn(5, 3, dtype=torch.float64))
    y = case.given(eta).sample()

    def log_prob(eta: Tensor, y: Tensor) -> Tensor:
        return case.given(eta).log_prob(y)

    torch.testing.assert_close(torch.func.vmap(log_prob)(eta, y), log_prob(eta, y))
    each = torch.func.vmap(torch.func.grad(lambda eta, y: log_prob(eta, y).sum()))(eta, y)
    whole = torch.func.grad(lambda eta: log_prob(eta, y).sum())(eta)
    torch.testing.assert_close(each, whole)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@each_law
def test_log_prob_traces(case: Case) -> None:
    def log_prob(eta: Tensor, y: Tensor) -> Tensor:
        return case.given(eta).log_prob(y)

    law = case(4, 3)
    y = law.sample()
    with pyro.validation_enabled(False):
        traced = torch.jit.trace(log_prob, (law._eta, y))
    other = case(4, 3)._eta
    torch.testing.assert_close(traced(other, y), log_prob(other, y))


@each_law
def test_an_observed_plate_has_the_log_prob_of_its_rows(case: Case) -> None:
    law = case(5, 3)
    y = law.sample()
    mask: Any = torch.rand(5) < 0.5

    def model() -> None:
        with pyro.plate("rows", 5), poutine.mask(mask=mask), poutine.scale(scale=2.0):
            pyro.sample("y", distribution(law.family, law._eta).to_event(1), obs=y)

    trace = poutine.trace(model).get_trace()
    expected = 2 * (law.log_prob(y).sum(-1) * mask).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)


@each_law
def test_prior_predictive_draws_of_a_plate(case: Case) -> None:
    eta = case(1, 3)._eta

    def model() -> None:
        with pyro.plate("columns", 3, dim=-1), pyro.plate("rows", 5, dim=-2):
            pyro.sample("y", case.given(eta))

    for parallel in (False, True):
        draws = Predictive(model, num_samples=7, parallel=parallel)()["y"]
        assert draws.shape == (7, 5, 3)
        assert case.given(eta).support.check(draws).all()


@each_enumerable
def test_enumerating_elbo_is_the_log_evidence(case: Case) -> None:
    law = case(5)
    data = torch.randn(5, dtype=torch.float64)

    def model() -> None:
        with pyro.plate("rows", 5):
            x = pyro.sample(
                "x", distribution(law.family, law._eta), infer={"enumerate": "parallel"}
            )
            pyro.sample("data", dist.Normal(x, 1.0), obs=data)

    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(model, lambda: None)
    values = law.enumerate_support()
    joint = law.log_prob(values) + dist.Normal(values, 1.0).log_prob(data)
    assert loss == pytest.approx(-joint.logsumexp(0).sum().item(), rel=1e-9)


@some_with_the_mean
def test_svi_finds_the_maximum_likelihood(case: Case) -> None:
    law = case(1, 3)
    y = law.sample((200,)).squeeze(1)
    pyro.clear_param_store()

    def model(y: Tensor) -> None:
        eta = pyro.param("eta", law._eta.detach().clone(), constraint=law_domain(law))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", distribution(law.family, eta).to_event(1), obs=y)

    svi = SVI(model, lambda y: None, PyroOptim(torch.optim.Adam, {"lr": 0.05}), Trace_ELBO())
    for _ in range(120):
        svi.step(y)
    fitted = distribution(law.family, pyro.param("eta").detach())
    spread = (law.variance / len(y)).sqrt().squeeze(0)
    assert ((fitted.mean.squeeze(0) - y.mean(0)).abs() < 0.2 * spread + 1e-3).all()


def law_domain(law: ExponentialFamilyDistribution) -> constraints.Constraint:
    return law.family.predictor_domain


@some_reparameterised
def test_reparameterised_laws_serve_as_guides(case: Case) -> None:
    target = case.at(torch.tensor([-1.0, 0.5, 1.5]))
    pyro.clear_param_store()

    def model() -> None:
        with pyro.plate("columns", 3):
            pyro.sample("x", distribution(target.family, target._eta))

    def guide() -> None:
        eta = pyro.param("eta", target._eta + torch.tensor([0.5, -0.5, 0.5]))
        with pyro.plate("columns", 3):
            pyro.sample("x", distribution(target.family, eta))

    elbo = Trace_ELBO(num_particles=50, vectorize_particles=True)
    svi = SVI(model, guide, PyroOptim(torch.optim.Adam, {"lr": 0.05}), elbo)
    for _ in range(120):
        svi.step()
    fitted = distribution(target.family, pyro.param("eta").detach())
    assert (kl_divergence(fitted, target) < 0.01).all()
