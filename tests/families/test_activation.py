"""Families made from their activation."""

import copy
import math
import pickle
from functools import cache

import pytest
import torch
from quick_cases import in_turn
from scipy import stats

import pyro_expfam as pef
from pyro_expfam import families
from pyro_expfam.families import ActivationFamily, NotAdmissibleError, from_activation


def poisson_and_spin(r):
    return torch.exp(r) + torch.tanh(r)


def mixture_of_normals(r):
    return 0.25 * r + torch.tanh(r)


def steps_of_a_half(r):
    return 2 * torch.exp(0.5 * r)


def normal_and_poisson(r):
    return r + torch.exp(r)


def three_values(r):
    return torch.tanh(r / 2)


@cache
def family_of(activation):
    """The family of an activation, made once."""
    return from_activation(activation)


NEW = [poisson_and_spin, mixture_of_normals, steps_of_a_half, normal_and_poisson, three_values]


@pytest.mark.parametrize(
    ("activation", "family"),
    [
        (torch.tanh, families.Ising()),
        (lambda x: torch.tanh(x), families.Ising()),
        (lambda x: 2 * torch.sigmoid(2 * x) - 1, families.Ising()),
        (torch.sigmoid, families.Bernoulli()),
        (lambda x: 1 / (1 + torch.exp(-x)), families.Bernoulli()),
        (torch.exp, families.Poisson()),
        (lambda x: x, families.Gaussian(1.0)),
        (lambda x: 16 * torch.sigmoid(x), families.Binomial(16)),
        (
            lambda r: (r.exp() * (r - 1) + 1) / ((r.exp() - 1) * r),  # as in Table 1
            families.ContinuousBernoulli(),
        ),
    ],
)
def test_known_activations_are_recognised_by_their_values(activation, family):
    found = from_activation(activation)
    assert type(found) is type(family)
    assert found == family


def exact_log_prob(name, y, r):
    """The law by hand, from sums and mixtures of laws of scipy."""
    p = 1 / (1 + math.exp(-2 * r))
    if name == "poisson_and_spin":
        mass = p * stats.poisson.pmf(y - 1, math.exp(r))
        return mass + (1 - p) * stats.poisson.pmf(y + 1, math.exp(r))
    if name == "mixture_of_normals":
        density = p * stats.norm.pdf(y, 1 + r / 4, 0.5)
        return density + (1 - p) * stats.norm.pdf(y, -1 + r / 4, 0.5)
    if name == "steps_of_a_half":
        return stats.poisson.pmf(2 * y, 4 * math.exp(0.5 * r))
    if name == "three_values":
        return stats.binom.pmf(y + 1, 2, 1 / (1 + math.exp(-r)))
    return sum(
        stats.poisson.pmf(k, math.exp(r)) * stats.norm.pdf(y, k + r, 1.0) for k in range(200)
    )


@pytest.mark.parametrize(("activation", "r"), in_turn(NEW, [-1.3, 2.2]))
def test_log_probabilities_are_those_of_the_law_by_hand(activation, r):
    family = family_of(activation)
    assert isinstance(family, ActivationFamily)
    points = family.sample(torch.full((40,), r, dtype=torch.float64))
    found = family.log_prob(points, torch.tensor(r, dtype=torch.float64))
    expected = torch.as_tensor(exact_log_prob(activation.__name__, points.numpy(), r)).log()
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_far_tails_keep_their_digits():
    family = from_activation(lambda r: 3 * torch.exp(r))
    y = torch.tensor([0.0, 3.0, 60.0, 1000.0], dtype=torch.float64)
    found = family.log_prob(y, torch.zeros_like(y))
    torch.testing.assert_close(
        found, torch.as_tensor(stats.poisson.logpmf(y, 3.0)), rtol=1e-9, atol=0
    )


def test_large_counts_take_expansions():
    torch.manual_seed(0)
    family = family_of(poisson_and_spin)
    # Against Poisson laws shifted by a spin, which is 1 here but for a part of 3e-7.
    eta = torch.tensor([7.5, 20.0], dtype=torch.float64)
    y = (eta.exp() + torch.tensor([[-3.0], [0.0], [4.0]]) * (0.5 * eta).exp()).round()
    expected = torch.as_tensor(stats.poisson.logpmf(y - 1, eta.exp()))
    torch.testing.assert_close(family.log_prob(y, eta), expected, rtol=0, atol=1e-5)
    drawn = family.sample(eta, (4_000,))
    assert bool((drawn == drawn.round()).all())
    z = (drawn - eta.exp() - 1) / (0.5 * eta).exp()
    assert float(z.mean(0).abs().max()) < 4 / 4_000**0.5
    assert stats.kstest(z[:, 0].numpy(), "norm").pvalue > 1e-3
    # A prior that is wide on a log scale makes means of any size.
    assert bool(family.sample(torch.linspace(-40, 40, 17)).isfinite().all())


@pytest.mark.parametrize("activation", NEW)
def test_draws_have_the_mean_and_variance_of_the_activation(activation):
    torch.manual_seed(0)
    family = family_of(activation)
    eta = torch.tensor([-1.5, 0.0, 1.2])
    y = family.sample(eta, (6_000,))
    assert y.shape == (6_000, 3)
    assert bool(family.support.check(y).all())
    variance = family.variance(eta)
    error = (variance / len(y)).sqrt()
    assert bool(((y.mean(0) - activation(eta)).abs() < 4 * error).all())
    torch.testing.assert_close(y.var(0), variance, rtol=0.15, atol=0)


@pytest.mark.parametrize("activation", NEW)
def test_autograd_of_the_log_partition_is_the_activation(activation):
    family = family_of(activation)
    eta = torch.linspace(-6, 6, 13, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(family.log_partition(eta).sum(), eta)
    assert torch.equal(slope, activation(eta))
    torch.testing.assert_close(family.mean(eta), activation(eta))
    # The log-partition itself, against its closed form.
    closed = {
        "poisson_and_spin": eta.exp() - 1 + eta.cosh().log(),
        "mixture_of_normals": eta**2 / 8 + eta.cosh().log(),
        "steps_of_a_half": 4 * (0.5 * eta).exp() - 4,
        "normal_and_poisson": eta**2 / 2 + eta.exp() - 1,
        "three_values": 2 * (0.5 * eta).cosh().log(),
    }[activation.__name__]
    torch.testing.assert_close(family.log_partition(eta), closed, rtol=1e-13, atol=1e-13)


def test_supports_are_lattices_or_intervals():
    support = family_of(poisson_and_spin).support
    values = torch.tensor([-2.0, -1.0, 0.0, 0.5, 7.0])
    assert support.check(values).tolist() == [False, True, True, False, True]
    assert support.is_discrete
    halves = family_of(steps_of_a_half).support
    assert halves.check(torch.tensor([-0.5, 0.0, 0.5, 0.7])).tolist() == [False, True, True, False]
    three = family_of(three_values).support
    assert three.check(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert not family_of(normal_and_poisson).support.is_discrete
    outside = family_of(poisson_and_spin).log_prob(torch.tensor([-2.0, 0.5]), torch.zeros(2))
    assert outside.tolist() == [-math.inf, -math.inf]


@pytest.mark.parametrize("activation", [poisson_and_spin, normal_and_poisson])
def test_a_fit_finds_the_loading_again(activation):
    torch.manual_seed(0)
    family = family_of(activation)
    W = 0.6 * torch.randn(10, 2)
    eta = torch.randn(300, 2) @ W.mT
    y = family.sample(eta)
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(family, 10, 2))
    assert guide.fit(y, progress=False).converged
    bases = [torch.linalg.qr(x)[0] for x in (W, guide.loading)]
    assert float(torch.linalg.svdvals(bases[0].mT @ bases[1]).min()) > 0.95
    evidence = pef.LaplaceGuide(guide.model, params=guide).log_evidence(y).detach()
    assert bool(evidence.isfinite().all())
    # The activation of the equilibrium: z = W'(y - sigma(W z + b)).
    z = guide.latents(y).detach()
    residual = (y - activation(z @ guide.loading.mT + guide.intercept)) @ guide.loading
    torch.testing.assert_close(z, residual, rtol=1e-3, atol=1e-3)


def test_softplus_is_refused_with_its_negative_mass():
    for activation in (torch.nn.functional.softplus, lambda x: torch.log1p(torch.exp(x))):
        with pytest.raises(NotAdmissibleError, match=r"mass -0\.00347222 at 4") as caught:
            from_activation(activation)
        assert caught.value.found.negative_mass == (4, pytest.approx(-1 / 288, rel=1e-6))


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        (torch.relu, r"increases everywhere.*derivative 0 at -0.05.*would be certain"),
        (torch.nn.functional.gelu, "increases everywhere.*derivative -0"),
        (torch.nn.functional.leaky_relu, "analytic.*derivative of order 1 jumps at -?[0-9.e-]+"),
        (torch.nn.functional.elu, "analytic.*derivative of order 2 jumps"),
        (torch.nn.functional.softsign, "analytic.*derivative of order 2 jumps"),
        (torch.atan, "eigenvalue"),
        (lambda x: x + x**3, "eigenvalue"),
        (lambda x: 0.5 * torch.sigmoid(x), "eigenvalue"),
    ],
)
def test_activations_of_no_family_are_refused_with_the_reason(activation, message):
    with pytest.raises(NotAdmissibleError, match=message):
        from_activation(activation)


def test_what_cannot_be_judged_says_so():
    with pytest.raises(ValueError, match="activation must take complex tensors") as caught:
        from_activation(torch.erf)
    assert not isinstance(caught.value, NotAdmissibleError)
    with pytest.raises(ValueError, match="activation must be finite"):
        from_activation(torch.log)
    with pytest.raises(ValueError, match="activation must act elementwise"):
        from_activation(lambda x: x.sum())
    family = from_activation(lambda r: torch.exp(r) + 2**0.5 * torch.exp(2**0.5 * r))
    with pytest.raises(NotImplementedError, match="no base measure here"):
        family.sample(torch.zeros(3))


def test_families_of_one_activation_are_equal_and_pickle():
    family = family_of(poisson_and_spin)
    for other in (
        from_activation(poisson_and_spin),
        copy.deepcopy(family),
        pickle.loads(pickle.dumps(family)),
    ):
        assert other == family
        assert hash(other) == hash(family)
        y = torch.tensor([-1.0, 0.0, 5.0])
        assert torch.equal(other.log_base_measure(y), family.log_base_measure(y))
    assert family != family_of(three_values)
    assert repr(family) == "from_activation(poisson_and_spin)"


def test_a_density_is_right_up_to_the_ends_of_its_support_and_refused_beyond():
    family = from_activation(lambda x: x + torch.tanh(x))
    y = torch.tensor([-44.0, 30.0, 45.0], dtype=torch.float64)
    spin = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    exact = torch.distributions.Normal(spin, 1.0).log_prob(y).logsumexp(0) - math.log(2)
    torch.testing.assert_close(family.log_prob(y, torch.zeros_like(y)), exact, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(family.predictor(y), y - y.sign(), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="numbers from -46 to 46; got 100 at position"):
        pef.solve_latents(family, torch.full((1, 2), 100.0), torch.ones(2, 1), torch.zeros(2))


def test_means_at_the_limits_of_an_activation_have_infinite_natural_parameters():
    family = from_activation(lambda x: 2 * torch.tanh(x))
    found = family.natural_param(torch.tensor([-2.0, 0.0, 2.0]))
    assert found.tolist() == pytest.approx([-math.inf, 0, math.inf], abs=1e-12)
