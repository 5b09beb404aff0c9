"""What a law is: support, log density, moments, quantiles, enumeration."""

from __future__ import annotations

import inspect

import mpmath
import pytest
import torch
from law_cases import (
    COUNTS,
    DISCRETE_LINKED,
    GENERIC,
    IS_DISCRETE,
    WITHOUT_ENTROPY,
    Case,
    each_enumerable,
    each_law,
    each_two_point,
    each_with_cdf,
    each_with_quantiles,
)
from pyro.distributions import TorchDistribution
from pyro.distributions.util import broadcast_shape
from torch import Tensor

from pyro_expfam import distributions
from pyro_expfam.distributions import (
    ExponentialFamilyDistribution,
)


@each_law
def test_support_contains_samples(case: Case) -> None:
    law = case(4, 3)
    y = law.sample((100,))
    assert law.support.event_dim == law.event_dim == 0
    inside = law.support.check(y)
    assert inside.shape == y.shape
    assert inside.all()


@each_law
def test_support_is_discrete_exactly_for_counts_and_signs(case: Case) -> None:
    discrete = case.name.split("-")[0] in IS_DISCRETE or case.name in DISCRETE_LINKED
    assert case(3).support.is_discrete == discrete
    if case.build not in GENERIC:
        assert case.build.support.is_discrete == discrete
    assert case.build.support.event_dim == 0


@pytest.mark.parametrize("shape", [(), (3,), (4, 1), (2, 1, 3)], ids=str)
@each_law
def test_infer_shapes_foretells_the_shapes(case: Case, shape: tuple[int, ...]) -> None:
    law = case(*shape)
    if case.build in GENERIC and law.batch_shape != shape:
        return  # the tensors inside of a family are not told
    arguments = {case.argument: torch.Size(shape)} | {
        name: value.shape if isinstance(value, Tensor) else ()
        for name, value in case.arguments.items()
    }
    assert case.build.infer_shapes(**arguments) == (law.batch_shape, law.event_shape)
    assert law.sample().shape == law.shape()


@each_law
def test_arguments_have_constraints_that_their_values_meet(case: Case) -> None:
    law = case(4, 3)
    parameters = inspect.signature(case.build).parameters
    assert set(law.arg_constraints) == set(parameters) - {"family", "validate_args"}
    for name, constraint in law.arg_constraints.items():
        assert constraint.check(getattr(law, name)).all()
        if name != "cut_points":
            assert getattr(law, name).shape == law.batch_shape


@each_law
def test_log_prob_is_that_of_scipy(case: Case) -> None:
    law = case(50, 3)
    y = law.sample()
    expected = [
        float(case.reference(float(eta)).logpdf(value))
        for eta, value in zip(
            case_eta(case, law)[:, -1].tolist(), y[:, -1].double().tolist(), strict=True
        )
    ]
    torch.testing.assert_close(
        law.log_prob(y)[:, -1], torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-10
    )


def case_eta(case: Case, law: ExponentialFamilyDistribution) -> Tensor:
    """The real numbers that the case maps into the natural domain."""
    return law._eta.log() if case.domain is torch.exp else law._eta


@each_law
def test_an_entropy_without_closed_form_is_refused(case: Case) -> None:
    law = case(3)
    if case.name.startswith(WITHOUT_ENTROPY):
        with pytest.raises(NotImplementedError, match="entropy"):
            law.entropy()
    else:
        assert law.entropy().isfinite().all()


@pytest.mark.parametrize("moment", ["mean", "variance", "entropy"])
@each_law
def test_moments_and_entropy_are_those_of_scipy(case: Case, moment: str) -> None:
    if moment == "entropy" and case.name.startswith(WITHOUT_ENTROPY):
        return
    law = case(10, 3)
    references = [case.reference(eta) for eta in case_eta(case, law)[:, -1].tolist()]
    ours = law.entropy() if moment == "entropy" else getattr(law, moment)
    theirs = [float(getattr(r, {"variance": "var"}.get(moment, moment))()) for r in references]
    assert ours.shape == law.batch_shape
    # SciPy sums some of these numerically.
    torch.testing.assert_close(
        ours[:, -1], torch.tensor(theirs, dtype=torch.float64), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("sample_shape", [(), (1,), (5,), (2, 5)], ids=str)
@each_law
def test_log_prob_has_the_broadcast_shape(case: Case, sample_shape: tuple[int, ...]) -> None:
    law = case(4, 3)
    y = law.sample(sample_shape)
    assert y.shape == (*sample_shape, 4, 3)
    assert law.log_prob(y).shape == y.shape
    assert law.log_prob(y[..., :1, :1]).shape == broadcast_shape(y[..., :1, :1].shape, (4, 3))
    assert law.to_event(1).log_prob(y).shape == (*sample_shape, 4)
    assert law.mean.shape == law.variance.shape == (4, 3)
    torch.testing.assert_close(law.stddev, law.variance.sqrt())


@each_law
def test_shapes_that_do_not_fit_are_refused(case: Case) -> None:
    law = case(2, 3)
    value = law.sample()[:1]
    with pytest.raises(ValueError, match="not broadcastable"):
        law.log_prob(value.expand(4, 3))
    with pytest.raises(ValueError, match="event_shape"):
        law.to_event(1).log_prob(value.unsqueeze(-1).expand(2, 3, 1))


@each_with_cdf
def test_cdf_is_that_of_scipy(case: Case) -> None:
    law = case(20, 3)
    y = law.sample()
    expected = [
        float(case.reference(eta).cdf(value))
        for eta, value in zip(law._eta[:, -1].tolist(), y[:, -1].tolist(), strict=True)
    ]
    torch.testing.assert_close(
        law.cdf(y)[:, -1], torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12
    )


@each_with_quantiles
def test_icdf_inverts_cdf(case: Case) -> None:
    law = case(4, 3)
    uniform = torch.rand(100, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(law.cdf(law.icdf(uniform)), uniform)
    y = law.sample((100,))
    torch.testing.assert_close(law.icdf(law.cdf(y)), y)


@each_two_point
def test_cdf_steps_between_the_values(case: Case) -> None:
    law = case(5)
    low, high = law.enumerate_support()
    unchecked = case.at(law._eta, validate_args=False)
    torch.testing.assert_close(unchecked.cdf(low), law.log_prob(low).exp())
    torch.testing.assert_close(unchecked.cdf(0.5 * (low + high)), law.log_prob(low).exp())
    assert (unchecked.cdf(low - 1) == 0).all()
    assert (unchecked.cdf(high) == 1).all()


def test_poisson_cdf_is_the_sum_of_probabilities() -> None:
    law = distributions.Poisson(torch.randn(5, dtype=torch.float64), validate_args=False)
    values = torch.arange(20.0, dtype=torch.float64)[:, None]
    summed = law.log_prob(values).exp().cumsum(0)
    torch.testing.assert_close(law.cdf(values), summed)
    torch.testing.assert_close(law.cdf(values + 0.5), summed)
    assert (law.cdf(torch.tensor(-1.0)) == 0).all()
    value = values.clone().requires_grad_()
    assert not law.cdf(value).requires_grad


@pytest.mark.parametrize(
    ("dtype", "value_tolerance", "gradient_tolerance"),
    [(torch.float32, 1e-6, 1e-4), (torch.float64, 1e-13, 1e-10)],
    ids=str,
)
def test_continuous_bernoulli_quantiles_are_exact_at_every_parameter(
    dtype: torch.dtype, value_tolerance: float, gradient_tolerance: float
) -> None:
    edge = 4 * torch.finfo(dtype).eps ** (1 / 6)
    sizes = torch.tensor(
        [0.0, 1e-30, 1e-8, 1e-3, 0.9 * edge, 1.1 * edge, 0.5, 2.0, 20.0, 200.0], dtype=dtype
    )
    eta = torch.cat([-sizes, sizes])[:, None].requires_grad_()
    uniform = torch.tensor([0.001, 0.2, 0.5, 0.75, 0.99], dtype=dtype)
    each = eta.expand(-1, len(uniform))
    y = distributions.ContinuousBernoulli(each).icdf(uniform)
    (gradient,) = torch.autograd.grad(y.sum(), each)
    expected = [[quantile(e, u) for u in uniform.tolist()] for e in eta[:, 0].tolist()]
    exact = torch.tensor([[q for q, _ in row] for row in expected], dtype=torch.float64)
    slope = torch.tensor([[s for _, s in row] for row in expected], dtype=torch.float64)
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=value_tolerance)
    torch.testing.assert_close(
        gradient.double(), slope, rtol=gradient_tolerance, atol=gradient_tolerance / 10
    )


def quantile(eta: float, uniform: float) -> tuple[float, float]:
    """The quantile of the continuous Bernoulli and its derivative, to fifty digits more."""
    with mpmath.workdps(80):
        r, u = mpmath.mpf(eta), mpmath.mpf(uniform)
        if r == 0:
            return float(u), float(u * (1 - u) / 2)
        y = mpmath.log1p(u * mpmath.expm1(r)) / r
        return float(y), float((mpmath.expm1(-r * y) / mpmath.expm1(-r) - y) / r)


def test_continuous_bernoulli_quantiles_reach_both_ends() -> None:
    eta = torch.tensor([-1000.0, -1.0, 0.0, 1.0, 1000.0])
    law = distributions.ContinuousBernoulli(eta)
    assert (law.icdf(torch.zeros(5)) == 0).all()
    assert (law.icdf(torch.ones(5)) == 1).all()


@each_enumerable
def test_enumerated_support_is_the_whole_support(case: Case) -> None:
    law = case(4, 3)
    values = law.enumerate_support()
    torch.testing.assert_close(law.log_prob(values).exp().sum(0), torch.ones_like(law.mean))
    torch.testing.assert_close((law.log_prob(values).exp() * values).sum(0), law.mean)
    assert values.dtype == law._eta.dtype
    assert (values.diff(dim=0) > 0).all()


@pytest.mark.parametrize("shape", [(), (3,), (4, 3)], ids=str)
@each_enumerable
def test_enumerated_support_has_the_promised_shape(case: Case, shape: tuple[int, ...]) -> None:
    law = case(*shape)
    expanded, plain = law.enumerate_support(expand=True), law.enumerate_support(expand=False)
    assert expanded.shape == (len(expanded), *shape)
    assert plain.shape == (len(expanded), *[1] * len(shape))
    assert (expanded == plain).all()
    assert law.enumerate_support().shape == expanded.shape
    large = law.expand_by((2,))
    assert large.enumerate_support().shape == (len(expanded), 2, *shape)
    assert law.mask(True).enumerate_support().shape == expanded.shape
    default = TorchDistribution.expand(law, (2, *shape))
    assert (default.enumerate_support() == large.enumerate_support()).all()


def test_binomials_of_different_counts_do_not_enumerate() -> None:
    law = distributions.Binomial(torch.zeros(3), COUNTS)
    with pytest.raises(NotImplementedError, match="from 1 to 7"):
        law.enumerate_support()
    same = distributions.Binomial(torch.zeros(3), torch.tensor([4.0, 4.0, 4.0]))
    assert same.enumerate_support().shape == (5, 3)


@each_law
def test_only_finite_laws_enumerate_their_support(case: Case) -> None:
    expected = case.name.split("-")[0] in {"Bernoulli", "Ising", "Binomial", "Ordinal"}
    assert case(3).has_enumerate_support == case.build.has_enumerate_support == expected
    if not expected:
        with pytest.raises(NotImplementedError):
            case(3).enumerate_support()
    with pytest.raises(NotImplementedError):
        case(3).to_event(1).enumerate_support()
