"""Properties that all canonical families share."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from all_families import CANONICAL, one_of_each_kind
from hypothesis import given, settings
from hypothesis import strategies as st
from quick_cases import slow_unless
from torch.func import grad, vmap

from pyro_expfam.families import (
    Bernoulli,
    Binomial,
    ContinuousBernoulli,
    ExponentialFamily,
    Gaussian,
    Ising,
    Poisson,
)

FAMILIES = CANONICAL
SCALAR_FAMILIES = FAMILIES[:-1]
QUICK, QUICK_SCALARS = one_of_each_kind(FAMILIES), one_of_each_kind(SCALAR_FAMILIES)
each_scalar = pytest.mark.parametrize(
    "family", slow_unless(lambda family: family in QUICK_SCALARS, SCALAR_FAMILIES), ids=repr
)
FUNCTIONS = [
    "log_partition",
    "mean",
    "variance",
    "third_cumulant",
    "fourth_cumulant",
    "entropy",
    "expected_log_base_measure",
]
SMOOTH = [*FUNCTIONS[:5], "entropy"]
ETA = torch.tensor([[-2.3, -0.7, 0.0], [0.4, 1.1, 3.2]], dtype=torch.float64)
natural_params = st.floats(-80, 80)
moderate_params = st.floats(-20, 20)
property_settings = settings(derandomize=True, deadline=None, max_examples=50)


def double(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


@pytest.fixture(params=slow_unless(lambda family: family in QUICK, FAMILIES), ids=repr)
def family(request: pytest.FixtureRequest) -> ExponentialFamily:
    return request.param


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def every_value(family: ExponentialFamily, eta: torch.Tensor) -> list[torch.Tensor]:
    y = family.sample(eta)
    statistic = family.sufficient_statistic(y)
    return [
        *(getattr(family, name)(eta) for name in FUNCTIONS),
        *family.mean_and_variance(eta),
        y,
        statistic,
        family.log_base_measure(y),
        family.log_prob(y, eta),
        family.kl_divergence(eta, -eta),
        family.loss(eta, y),
        family.score(eta, y),
        family.information(eta, y),
        family.observation(statistic),
        family.residual(eta, y),
    ]


def test_values_keep_dtype_and_shape_and_are_finite(family, dtype):
    eta = torch.linspace(-80, 80, 33, dtype=dtype).reshape(1, 11, 3)
    for value in every_value(family, eta):
        assert value.dtype == dtype
        assert value.shape == eta.shape
        assert bool(value.isfinite().all())


def test_log_prob_broadcasts(family):
    eta = torch.randn(4, 1, 3)
    y = family.sample(torch.zeros(5, 3))
    assert family.log_prob(y, eta).shape == (4, 5, 3)
    torch.testing.assert_close(
        family.log_prob(y, eta)[2, 1], family.log_prob(y[1], eta[2, 0]), rtol=0, atol=0
    )


def test_log_prob_is_equation_1(family):
    eta = ETA + 0.1
    y = family.sample(eta)
    expected = family.log_base_measure(y) - family.loss(eta, y)
    torch.testing.assert_close(family.log_prob(y, eta), expected)


def test_observation_inverts_the_sufficient_statistic(family, dtype):
    y = family.sample(ETA.to(dtype))
    torch.testing.assert_close(family.observation(family.sufficient_statistic(y)), y)


def test_score_is_minus_the_derivative_of_the_loss(family):
    eta = ETA.clone().requires_grad_()
    y = family.sample(ETA)
    (gradient,) = torch.autograd.grad(family.loss(eta, y).sum(), eta)
    torch.testing.assert_close(family.score(ETA, y), -gradient)


def test_derivative_of_the_log_prob_is_the_score(family):
    eta = ETA.clone().requires_grad_()
    y = family.sample(ETA)
    (gradient,) = torch.autograd.grad(family.log_prob(y, eta).sum(), eta)
    torch.testing.assert_close(gradient, family.score(ETA, y))


@pytest.mark.parametrize("name", SMOOTH)
def test_first_and_second_derivatives(family, name):
    function, eta = getattr(family, name), ETA.clone().requires_grad_()
    assert torch.autograd.gradcheck(function, eta, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, eta, fast_mode=True)


def test_derivatives_of_expected_log_base_measure(family):
    eta = ETA.clone().requires_grad_()
    if family.expected_log_base_measure(eta).requires_grad:
        assert torch.autograd.gradcheck(family.expected_log_base_measure, eta, fast_mode=True)
        assert torch.autograd.gradgradcheck(family.expected_log_base_measure, eta, fast_mode=True)
    else:
        values = family.expected_log_base_measure(ETA)
        torch.testing.assert_close(values, values[:1, :1].expand_as(values))


def test_derivatives_of_natural_param(family):
    mean = family.mean(ETA).detach().requires_grad_()
    assert torch.autograd.gradcheck(family.natural_param, mean, fast_mode=True)
    assert torch.autograd.gradgradcheck(family.natural_param, mean, fast_mode=True)
    (gradient,) = torch.autograd.grad(family.natural_param(mean).sum(), mean)
    torch.testing.assert_close(gradient, 1 / family.variance(ETA))


def test_derivatives_of_log_prob(family):
    eta, y = ETA.clone().requires_grad_(), family.sample(ETA)
    assert torch.autograd.gradcheck(lambda x: family.log_prob(y, x), eta, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: family.log_prob(y, x), eta, fast_mode=True)


def test_derivatives_of_kl_divergence(family):
    eta, other = ETA.clone().requires_grad_(), (ETA.flip(0) / 2 + 0.2).requires_grad_()
    assert torch.autograd.gradcheck(family.kl_divergence, (eta, other), fast_mode=True)
    assert torch.autograd.gradgradcheck(family.kl_divergence, (eta, other), fast_mode=True)


def test_derivatives_of_mean_and_variance(family):
    eta = ETA.clone().requires_grad_()
    mean, variance = family.mean_and_variance(eta)
    gradients = torch.autograd.grad([mean.sum(), variance.sum()], eta)
    expected = family.variance(ETA) + family.third_cumulant(ETA)
    torch.testing.assert_close(gradients[0], expected)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_are_finite_everywhere(family, dtype, name):
    eta = torch.linspace(-80, 80, 33, dtype=dtype).reshape(11, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(getattr(family, name)(eta).sum(), eta)
    assert bool(gradient.isfinite().all())


@each_scalar
@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_transforms(family, name):
    function, eta = getattr(family, name), ETA.flatten()
    torch.testing.assert_close(vmap(function)(eta), function(eta), rtol=1e-12, atol=1e-12)
    leaf = eta.clone().requires_grad_()
    value = function(leaf)
    expected = torch.zeros_like(eta)
    if value.requires_grad:
        (expected,) = torch.autograd.grad(value.sum(), leaf)
    torch.testing.assert_close(vmap(grad(function))(eta), expected, rtol=1e-12, atol=1e-12)


@each_scalar
def test_function_transforms_of_two_arguments(family):
    eta = ETA.flatten()
    y, mean = family.sample(eta), family.mean(eta)
    both = vmap(family.log_prob)(y, eta)
    torch.testing.assert_close(both, family.log_prob(y, eta))
    scores = vmap(grad(family.log_prob, argnums=1))(y, eta)
    torch.testing.assert_close(scores, family.score(eta, y))
    torch.testing.assert_close(vmap(family.natural_param)(mean), family.natural_param(mean))
    slopes = vmap(grad(family.natural_param))(mean)
    torch.testing.assert_close(slopes, 1 / family.variance(eta))
    pairs = vmap(family.mean_and_variance)(eta)
    torch.testing.assert_close(pairs, family.mean_and_variance(eta))


def test_no_grad_gives_the_same_values(family):
    torch.manual_seed(0)
    expected = every_value(family, ETA.clone().requires_grad_())
    torch.manual_seed(0)
    with torch.no_grad():
        values = every_value(family, ETA)
    for value, wanted in zip(values, expected, strict=True):
        assert not value.requires_grad
        torch.testing.assert_close(value, wanted.detach(), rtol=0, atol=0)


@each_scalar
@property_settings
@given(x=moderate_params, other=moderate_params)
def test_kl_divergence_is_the_expected_log_ratio(family, x, other):
    eta, other = double(x), double(other)
    terms = torch.stack(
        [
            family.log_partition(other),
            -other * family.mean(eta),
            -family.expected_log_base_measure(eta),
            -family.entropy(eta),
        ]
    )
    error = abs(family.kl_divergence(eta, other) - terms.sum())
    assert error <= 1e-13 * (1 + terms.abs().sum())
    assert family.kl_divergence(eta, eta) == 0


@each_scalar
@property_settings
@given(x=natural_params)
def test_self_concordance(family, x):
    eta = double(x)
    bound = family.self_concordance * family.variance(eta)
    assert family.third_cumulant(eta).abs() <= bound * (1 + 1e-12)


@each_scalar
@settings(property_settings, max_examples=30)
@given(x=natural_params)
def test_natural_param_inverts_the_mean(family, x):
    eta = double(x)
    mean = family.mean(eta)
    torch.testing.assert_close(family.mean(family.natural_param(mean)), mean, rtol=1e-13, atol=0)
    # A rounding of the mean moves the natural parameter by one over the variance.
    moved = 4 * torch.finfo(mean.dtype).eps * mean.abs() / family.variance(eta)
    error = (family.natural_param(mean) - eta).abs()
    assert error <= moved + 1e-14 * (1 + eta.abs()) or moved > 1


@each_scalar
@property_settings
@given(x=natural_params, step=st.floats(1e-3, 5))
def test_mean_increases(family, x, step):
    eta = double(min(x, 75.0))
    assert family.mean(eta + step) >= family.mean(eta)
    assert family.variance(eta) >= 0


def test_natural_param_at_the_boundary(dtype):
    ends = {
        Bernoulli(): (0, 1),
        ContinuousBernoulli(): (0, 1),
        Ising(): (-1, 1),
        Binomial(total_count=16): (0, 16),
    }
    for family, mean in ends.items():
        natural = family.natural_param(torch.tensor(mean, dtype=dtype))
        assert natural.tolist() == [-math.inf, math.inf]
    assert Poisson().natural_param(torch.zeros((), dtype=dtype)) == -math.inf


@pytest.mark.parametrize("family", [Bernoulli(), Ising(), Poisson(), Binomial(16)], ids=repr)
def test_saturated_log_prob_of_extreme_counts(family, dtype):
    lowest = family.sample(torch.tensor(-80.0, dtype=dtype))
    natural = family.natural_param(lowest)
    assert natural == -math.inf
    assert family.log_prob(lowest, natural) == 0


def test_discrete_probabilities_sum_to_one(dtype):
    eta = torch.tensor([-7.0, -0.3, 0.0, 2.0, 3.9], dtype=dtype)
    for family, values in [
        (Bernoulli(), [0.0, 1.0]),
        (Ising(), [-1.0, 1.0]),
        (Binomial(total_count=37), list(range(38))),
        (Poisson(), list(range(400))),
    ]:
        y = torch.tensor(values, dtype=dtype)[:, None]
        total = family.log_prob(y, eta).double().exp().sum(0)
        tolerance = 1e-6 if dtype == torch.float32 else 1e-13
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=tolerance)


def test_support_is_checked_by_element(family):
    nan, outside = math.nan, -2.5
    values = torch.tensor([[nan, nan, nan], [outside, outside, outside]])
    expected = torch.tensor([[False] * 3, [isinstance(family, Gaussian)] * 3])
    assert torch.equal(family.support.check(values), expected)
    draws = family.sample(torch.zeros(7, 3))
    assert torch.equal(family.support.check(draws), torch.ones(7, 3, dtype=torch.bool))


@each_scalar
def test_copies_are_equal_and_hash_equal(family):
    for copied in (pickle.loads(pickle.dumps(family)), copy.deepcopy(family)):
        assert copied == family
        assert hash(copied) == hash(family)


def test_families_differ_by_class_and_parameter():
    assert len(set(FAMILIES)) == len(FAMILIES)
    assert Gaussian(1) == Gaussian(1.0)
    assert Gaussian(1.0) != Gaussian(2.0)
    assert Bernoulli() != Binomial(1)
    assert Bernoulli() != "Bernoulli()"


def test_tensor_parameters_are_equal_by_identity():
    scale = torch.ones(3)
    assert Gaussian(scale) == Gaussian(scale)
    assert hash(Gaussian(scale)) == hash(Gaussian(scale))
    assert Gaussian(scale) != Gaussian(torch.ones(3))


def test_pickle_keeps_tensor_parameters():
    family = pickle.loads(pickle.dumps(Binomial(torch.tensor([3, 40]))))
    assert family.total_count.tolist() == [3, 40]


def test_families_cannot_be_changed(family):
    name = next(iter(vars(family)), "scale")
    with pytest.raises(AttributeError):
        setattr(family, name, 2.0)
