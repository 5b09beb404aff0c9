"""A family that the layer would solve wrongly is refused where it enters."""

import math

import pytest
import torch
from torch.distributions import constraints

import pyro_expfam as pef
from pyro_expfam.deq.canonical import CUMULANTS
from pyro_expfam.deq.family_check import check_family
from pyro_expfam.families import Bernoulli, Binomial, ExponentialFamily, Gaussian, Poisson

F = pef.families


class Geometric(ExponentialFamily):
    """Failures before a success, whose natural parameters are negative."""

    self_concordance = 2.0
    support = constraints.nonnegative_integer

    def log_base_measure(self, y):
        return torch.zeros_like(y)

    def expected_log_base_measure(self, eta):
        return torch.zeros_like(eta)

    def log_partition(self, eta):
        return -torch.log(-torch.expm1(eta))

    def mean(self, eta):
        return 1 / torch.expm1(-eta)

    def variance(self, eta):
        mean = self.mean(eta)
        return mean + mean.square()

    def third_cumulant(self, eta):
        mean = self.mean(eta)
        return self.variance(eta) * (1 + 2 * mean)

    def fourth_cumulant(self, eta):
        mean, variance = self.mean(eta), self.variance(eta)
        return self.third_cumulant(eta) * (1 + 2 * mean) + 2 * variance.square()

    def natural_param(self, mean):
        return torch.log(mean / (1 + mean))

    def sample(self, eta, sample_shape=()):
        return torch.distributions.Geometric(logits=-eta).sample(sample_shape)


class DeclaredGeometric(Geometric):
    natural_domain = constraints.less_than(0.0)


class LogLink(Bernoulli):
    """Bits whose probability is the exponential of minus a softplus."""

    def loss(self, eta, y):
        return super().loss(2 * eta, y)

    def score(self, eta, y):
        return 2 * super().score(2 * eta, y)

    def curvature(self, eta, y):
        return 4 * super().curvature(2 * eta, y)


class OtherScore(Poisson):
    def score(self, eta, y):
        return y - self.mean(0.5 * eta)


class OtherInformation(Poisson):
    def information(self, eta, y):
        return 0.5 * self.variance(eta)


class Concave(ExponentialFamily):
    """A log-partition that is no log-partition: it bends down where it is far from zero."""

    def log_partition(self, eta):
        return torch.cos(eta)


class OtherMean(Bernoulli):
    """Takes the mean alone from a steeper sigmoid."""

    def mean(self, eta):
        return torch.sigmoid(2 * eta)


class OtherVariance(Poisson):
    def variance(self, eta):
        return 1.1 * eta.exp()


class OtherThird(Poisson):
    def third_cumulant(self, eta):
        return 1.1 * eta.exp()


class OtherFourth(Bernoulli):
    def fourth_cumulant(self, eta):
        return -super().fourth_cumulant(eta)


class Steeper(Bernoulli):
    """Bits by half their log odds, but for what a subclass has to override beside the cumulants."""

    self_concordance = 2.0

    def log_partition(self, eta):
        return Bernoulli().log_partition(2 * eta)

    def mean(self, eta):
        return 2 * Bernoulli().mean(2 * eta)

    def variance(self, eta):
        return 4 * Bernoulli().variance(2 * eta)

    def third_cumulant(self, eta):
        return 8 * Bernoulli().third_cumulant(2 * eta)

    def fourth_cumulant(self, eta):
        return 16 * Bernoulli().fourth_cumulant(2 * eta)

    def sufficient_statistic(self, y):
        return 2 * y

    def observation(self, statistic):
        return statistic / 2


class SteeperInOnePass(Steeper):
    def mean_and_variance(self, eta):
        return self.mean(eta), self.variance(eta)


class RightSteeper(SteeperInOnePass):
    """All of it: a family that the layer can solve."""

    def mean_and_variance_in_place(self, eta, scratch):
        return self.mean_and_variance(eta)

    def log_prob(self, y, eta):
        return super().log_prob(y, 2 * eta)

    def natural_param(self, mean):
        return super().natural_param(mean / 2) / 2

    def sample(self, eta, sample_shape=()):
        return super().sample(2 * eta, sample_shape)


class WrongInverse(RightSteeper):
    def observation(self, statistic):
        return statistic


class NaNAtZero(Poisson):
    """A mean with a removable singularity that nobody removed."""

    def mean(self, eta):
        return eta.exp() * eta / eta


class TooSafe(RightSteeper):
    self_concordance = 1.0


class Unbounded(Poisson):
    self_concordance = math.inf


class OtherDensity(Poisson):
    """Overrides what distributions score, and not what the layer solves."""

    def log_prob(self, y, eta):
        return torch.distributions.Geometric(logits=-eta).log_prob(y)


REFUSED = [
    (LogLink(), "family must not override loss, got LogLink, which does"),
    (OtherScore(), "family must not override score"),
    (OtherInformation(), "family must not override information.*override log_partition, mean"),
    (Concave(), "a convex log_partition; got .*variance is -.* at natural parameter"),
    (
        Geometric(),
        "whole real line; got .*log_partition is inf at natural parameter 0",
    ),
    (DeclaredGeometric(), r"whole real line, because .*natural_domain is LessThan\(upper_bound=0"),
    (NaNAtZero(), "whole real line; got .*whose mean is nan at natural parameter 0"),
    (OtherMean(), "family must have a mean that is the derivative of its log_partition; got"),
    (OtherVariance(), "family must have a variance that is the derivative of its mean.*slope"),
    (OtherThird(), "a third_cumulant that is the derivative of its variance"),
    (OtherFourth(), "a fourth_cumulant that is the derivative of its third_cumulant"),
    (Steeper(), "same mean by mean_and_variance and by mean; got"),
    (SteeperInOnePass(), "same mean by mean_and_variance_in_place and by mean; got"),
    (WrongInverse(), "an observation that is the inverse of its sufficient_statistic"),
    (TooSafe(), "a self_concordance of at least 2, a number M .*; got 1 of"),
    (Unbounded(), "a finite self_concordance, .*; got inf of"),
    (OtherDensity(), r"must have the log_prob log_base_measure\(y\) \+ T\(y\) eta"),
]
Y, W = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]), torch.tensor([[1.0], [-1.0], [0.5]])


def enter_solve(family):
    pef.solve_latents(family, Y, W, torch.zeros(3))


def enter_layer(family):
    pef.DEQLayer(family, 3, 1)


def enter_block(family):
    pef.ExpFamPCA(family, 3, 1)


def enter_table(family):
    pef.joint.TableInMemory(family, 3, torch.zeros(()), Y)


def enter_evidence(family):
    pef.log_evidence(family, Y, W, torch.zeros(3))


def enter_comparison(family):
    pef.compare_latent_dims(family, Y, [1], num_folds=2)


ENTRANCES = [
    enter_solve,
    enter_layer,
    enter_block,
    enter_table,
    enter_evidence,
    enter_comparison,
]


@pytest.mark.parametrize(("family", "message"), REFUSED, ids=lambda x: type(x).__name__)
def test_a_family_that_would_be_solved_wrongly_is_refused(family, message):
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            check_family(family)


@pytest.mark.parametrize("enter", ENTRANCES)
@pytest.mark.parametrize(
    "family", [LogLink(), Geometric(), OtherVariance()], ids=lambda x: type(x).__name__
)
def test_every_entrance_refuses_it(enter, family):
    with pytest.raises(ValueError, match="family must "):
        enter(family)


@pytest.mark.parametrize("enter", ENTRANCES)
def test_what_is_no_family_is_refused(enter):
    with pytest.raises(TypeError, match=r"family must be a family such as .*, got 'poisson'"):
        enter("poisson")


def test_a_problem_of_ones_own_refuses_a_link_too():
    with pytest.raises(ValueError, match="family must not override loss"):
        pef.deq.LatentProblem(LogLink(), Y, W, torch.zeros(3), torch.tensor(1.0))


def test_a_refined_family_that_is_whole_is_solved():
    y = torch.bernoulli(torch.full((30, 3), 0.5))
    steep = pef.solve_latents(RightSteeper(), y, W, torch.zeros(3))
    same = pef.solve_latents(Bernoulli(), y, 2 * W, torch.zeros(3))
    assert steep.converged.all()
    torch.testing.assert_close(steep.value, same.value)
    evidence = pef.log_evidence(RightSteeper(), y, W, torch.zeros(3), order=2)
    expected = pef.log_evidence(Bernoulli(), y, 2 * W, torch.zeros(3), order=2)
    torch.testing.assert_close(evidence, expected)


class Scaled(Gaussian):
    """A refinement with a tensor of its own."""


class ByRow(Binomial):
    """A refinement whose parameters differ by row."""


@pytest.mark.parametrize(
    "family",
    [Scaled(torch.tensor([0.5, 1.0, 2.0])), Scaled(0.5), ByRow(torch.tensor([[3], [9]]))],
    ids=str,
)
def test_families_with_parameters_of_their_own_pass(family):
    state = torch.random.get_rng_state()
    check_family(family)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert type(family.rows(slice(0, 1))) is type(family)


class Changing(Poisson):
    """A family that reads a tensor, which may change in place."""

    def __init__(self, factor):
        object.__setattr__(self, "factor", factor)

    def variance(self, eta):
        return self.factor * eta.exp()


def test_a_tensor_that_changes_in_place_is_seen():
    family = Changing(torch.ones(()))
    check_family(family)
    family.factor.mul_(1.5)
    with pytest.raises(ValueError, match="a variance that is the derivative"):
        check_family(family)


def test_a_method_that_is_replaced_is_seen(monkeypatch):
    family = RightSteeper()
    check_family(family)
    monkeypatch.setattr(RightSteeper, "variance", lambda self, eta: eta.exp())
    with pytest.raises(ValueError, match="family must have"):
        check_family(family)


@pytest.mark.parametrize(
    "family",
    [
        F.Gaussian(0.7),
        F.Bernoulli(),
        F.Ising(),
        F.ContinuousBernoulli(),
        F.Poisson(),
        F.Binomial(torch.tensor([[4, 9, 2]])),
    ],
    ids=str,
)
def test_the_families_of_the_package_pass_the_same_check(family):
    kind = type(family)
    refined = type(f"Refined{kind.__name__}", (kind,), {})(**vars(family))
    check_family(refined)
    assert all(getattr(kind, name) is not getattr(ExponentialFamily, name) for name in CUMULANTS)
