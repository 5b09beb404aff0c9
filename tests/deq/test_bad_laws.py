"""What cannot be a law, a link or an observation of a law is refused at every entrance."""

import pytest
import torch
from torch.distributions import constraints

import pyro_expfam as pef
from pyro_expfam.families import ExponentialFamily, Family

F, L = pef.families, pef.links
Y, W = torch.tensor([[2.0, 1.0, 1.0], [1.0, 3.0, 1.0]]), torch.tensor([[1.0], [-1.0], [0.5]])


def enter_solve(family, y=Y):
    pef.solve_latents(family, y, W, torch.zeros(3))


def enter_layer(family, y=Y):
    pef.DEQLayer(family, 3, 1)(y)


def enter_block(family, y=Y):
    pef.DEQMAPGuide(pef.ExpFamPCA(family, 3, 1))(y)


def enter_fit(family, y=Y):
    pef.LaplaceGuide(pef.ExpFamPCA(family, 3, 1)).fit(y)


def enter_table(family, y=Y):
    pef.joint.TableInMemory(family, 3, torch.zeros(()), y)


def enter_stream(family, y=Y):
    pef.joint.StreamedTable(family, 3, torch.zeros(()), [y])


def enter_evidence(family, y=Y):
    pef.log_evidence(family, y, W, torch.zeros(3))


def enter_importance(family, y=Y):
    pef.evidence.importance_evidence(family, y, W, torch.zeros(3))


def enter_comparison(family, y=Y):
    pef.compare_latent_dims(family, y, [1], num_folds=2)


ENTRANCES = [
    enter_solve,
    enter_layer,
    enter_block,
    enter_fit,
    enter_table,
    enter_stream,
    enter_evidence,
    enter_importance,
    enter_comparison,
]
every_entrance = pytest.mark.parametrize("enter", ENTRANCES, ids=lambda x: x.__name__)


OBSERVATIONS = {
    "negative count": (F.NegativeBinomial(2.0), -1.0, "counts 0, 1, 2, …; got -1"),
    "fractional count": (F.NegativeBinomial(2.0), 1.5, "counts 0, 1, 2, …; got 1.5"),
    "zero duration": (F.Gamma(2.0), 0.0, r"\(mask the zeros, or replace zeros .*\); got 0"),
    "negative duration": (F.Gamma(2.0), -2.0, "positive numbers; got -2"),
    "no bit under probit": (F.Bernoulli(link=L.Probit()), 0.5, "0 or 1; got 0.5"),
    "no bit under a log-log link": (F.Bernoulli(link=L.ComplementaryLogLog()), 2.0, "got 2"),
    "infinite count": (F.NegativeBinomial(2.0), torch.inf, "got inf|infin"),
}


@every_entrance
@pytest.mark.parametrize("case", OBSERVATIONS)
def test_an_observation_outside_of_the_support_is_named_with_its_place(enter, case):
    family, value, message = OBSERVATIONS[case]
    y = torch.ones(2, 3)
    y[1, 2] = value
    with pytest.raises(ValueError, match=message) as refused:
        enter(family, y)
    assert "(1, 2)" in str(refused.value) or "infin" in str(refused.value)


@pytest.mark.parametrize("make", [F.NegativeBinomial, F.Gamma])
@pytest.mark.parametrize(
    "value", [0, 0.0, -1.0, float("nan"), float("inf"), torch.tensor([1.0, 0.0, 2.0])], ids=str
)
def test_a_size_or_shape_that_is_not_positive_is_refused(make, value):
    with pytest.raises(ValueError, match="must be positive and finite, got"):
        make(value)


@pytest.mark.parametrize("make", [F.NegativeBinomial, F.Gamma])
@pytest.mark.parametrize("value", ["2", [1.0, "a"], [True], torch.tensor([True])], ids=str)
def test_a_size_or_shape_that_is_no_number_is_refused(make, value):
    with pytest.raises(TypeError, match=r"must be a positive number|real numbers, got"):
        make(value)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (lambda: F.Bernoulli(link=L.Identity()), "mean is 0 at linear predictor 0: use Logit"),
        (lambda: F.Bernoulli(link=L.Log()), "mean is 1 at linear predictor 0"),
        (lambda: F.Poisson(link=L.Identity()), r"mean is 0 .*: use Log\(\) or Softplus\(\)"),
        (lambda: F.Gamma(2.0, link=L.ReLU()), "mean is 0 at linear predictor 0: use Log"),
        (lambda: F.NegativeBinomial(2.0, link=L.Mean(torch.sinh)), "sinh.*mean is 0"),
        (
            lambda: F.Linked(Geometric(), L.NaturalParameter(torch.tanh)),
            "natural parameter is 0 at linear predictor 0",
        ),
    ],
)
def test_a_link_whose_image_leaves_the_domain_is_refused_when_it_is_made(family, message):
    with pytest.raises(ValueError, match=f"link must have .*{message}"):
        family()


class Geometric(ExponentialFamily):
    """Counts, whose natural parameters are negative."""

    natural_domain = constraints.less_than(0.0)
    support = constraints.nonnegative_integer

    def log_partition(self, eta):
        return -torch.log(-torch.expm1(eta))


class Cubic(ExponentialFamily):
    """A log-partition that bends down left of zero."""

    def log_partition(self, eta):
        return eta**3 / 6


class Cauchy(Family):
    """A law that says that its loss is convex, and is wrong."""

    is_convex = True
    support = constraints.real

    def log_prob(self, y, eta):
        return -torch.log1p((y - eta) ** 2) - 1.1447298858494

    def sample(self, eta, sample_shape=()):
        return eta + 0.3 * torch.randn(*sample_shape, *eta.shape, dtype=eta.dtype)

    def expected_y(self, eta):
        return eta

    def variance_of_y(self, eta):
        return torch.ones_like(eta)

    def predictor(self, y):
        return y


class Positive(Cauchy):
    """A law of positive linear predictors."""

    predictor_domain = constraints.positive


LAWS = [
    (Cubic(), "convex log_partition; got .*variance is -8 at natural parameter -8"),
    (Cauchy(), "is not negative; got .* is -.* at linear predictor"),
    (Geometric(), "whole real line.*natural_domain is LessThan.*give it a link onto that domain"),
    (Positive(), "whole real line.*predictor_domain is .*give it a link onto that domain"),
    (F.Gamma(2.0, link=L.Reciprocal()), r"take Log\(\) or Softplus\(\) in place of Reciprocal\(\)"),
    (F.Poisson(link=L.Power(0.5)), r"take Log\(\) or Softplus\(\) in place of Power"),
]


@every_entrance
@pytest.mark.parametrize(("family", "message"), LAWS, ids=lambda x: type(x).__name__)
def test_a_law_that_the_layer_cannot_solve_is_refused_with_the_place(enter, family, message):
    with pytest.raises(ValueError, match=f"family must have .*{message}"):
        enter(family)


def test_a_bounded_domain_is_reached_by_a_link():
    def negative(eta):
        return -torch.nn.functional.softplus(-eta)

    y = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 8.0]])
    found = pef.solve_latents(
        F.Linked(Geometric(), L.NaturalParameter(negative)), y, W, torch.zeros(3)
    )
    # The mean is e^eta there: a negative binomial count of size 1.
    expected = pef.solve_latents(F.NegativeBinomial(1.0), y, W, torch.zeros(3))
    assert found.converged.all()
    torch.testing.assert_close(found.value, expected.value, rtol=1e-4, atol=1e-4)


class Votes(ExponentialFamily):
    """The values -1, 0 and 1, by the log-partition alone; far out its cumulants cancel."""

    self_concordance = 2.0
    support = constraints.integer_interval(-1, 1)

    def log_partition(self, eta):
        return torch.stack([-eta, torch.zeros_like(eta), eta]).logsumexp(0)


@every_entrance
def test_a_log_partition_whose_cumulants_cancel_is_taken(enter):
    enter(Votes(), torch.tensor([[0.0, 1.0, -1.0], [1.0, 1.0, 0.0]]).repeat(4, 1))


class OfFunction(ExponentialFamily):
    """A family by its log-partition alone."""

    support = constraints.real

    def __init__(self, function):
        self.function = function

    def __repr__(self):
        return "OfFunction()"

    def log_partition(self, eta):
        return self.function(eta)


@pytest.mark.parametrize("enter", [enter_solve, enter_block, enter_table])
@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda eta: eta.square().sum(), ValueError, r"elementwise, got a value of shape \(\)"),
        (
            lambda eta: eta.square().sum(-1),
            ValueError,
            r"got a value of shape \(73,\)",
        ),
        (lambda eta: eta.square() + eta.sum(), ValueError, "changes with the other entries"),
        (lambda eta: None, TypeError, "must return a tensor, got NoneType"),
        (lambda eta: eta.detach().square().numpy(), TypeError, "must return a tensor, got ndarray"),
        (lambda eta: 1.0, TypeError, "must return a tensor, got float"),
        (lambda eta: eta.float().square(), TypeError, "must keep the dtype"),
        (lambda eta: torch.ones_like(eta), ValueError, "log_partition that is not linear"),
        (lambda eta: 2 * eta, ValueError, "log_partition that is not linear"),
    ],
)
def test_a_function_that_is_no_log_partition_is_refused(function, error, message, enter):
    with pytest.raises(error, match=message):
        enter(OfFunction(function))


@pytest.mark.parametrize("enter", [enter_solve, enter_fit, enter_table, enter_stream])
@pytest.mark.parametrize("shape", [(4, 1), (1, 1, 4, 3), (4, 3)], ids=str)
@pytest.mark.parametrize("make", [F.NegativeBinomial, F.Gamma, F.Gaussian])
def test_parameters_of_another_number_of_rows_are_refused(make, shape, enter):
    with pytest.raises(ValueError, match=r"of the family must fit y with its 2 rows and 3 columns"):
        enter(make(torch.ones(shape)))


def test_parameters_of_another_number_of_columns_are_refused():
    with pytest.raises(ValueError, match=r"size of the family must fit .*, got shape \(4,\)"):
        enter_solve(F.NegativeBinomial(torch.ones(4)))
