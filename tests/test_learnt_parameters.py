"""Parameters of a family that a block learns."""

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroParam
from pyro.optim import Adam

import pyro_expfam as pef

F = pef.families
POSITIVE = dist.constraints.positive
COUNTS = F.NegativeBinomial(1.0)
LINKED = F.NegativeBinomial(1.0, link=pef.links.Softplus())


def block(family, start, **settings):
    return pef.ExpFamPCA(family, 4, 1, family_parameters={"size": PyroParam(start, **settings)})


@pytest.mark.parametrize("family", [COUNTS, pytest.param(LINKED, marks=pytest.mark.slow)], ids=str)
def test_a_learnt_size_comes_to_the_dispersion_of_the_table(family):
    torch.manual_seed(0)
    y = COUNTS.sample(torch.full((200, 4), 1.5))
    model = block(family, torch.full((4,), 10.0), constraint=POSITIVE)
    guide = pef.DEQMAPGuide(model)
    svi = SVI(model, guide, Adam({"lr": 0.1}), pef.LaplaceEvidence())
    losses = [svi.step(y) for _ in range(40)]
    assert losses[-1] < losses[0]
    assert bool((model.family_size < 3.0).all())


def test_a_parameter_without_a_constraint_stays_positive():
    torch.manual_seed(0)
    y = torch.poisson(torch.full((40, 4), 3.0))
    model = block(COUNTS, torch.full((4,), 0.05))
    svi = SVI(model, pef.DEQMAPGuide(model), Adam({"lr": 0.5}), Trace_ELBO())
    for _ in range(20):
        svi.step(y)
    assert bool((model.family_size > 0).all())


@pytest.mark.parametrize("family", [COUNTS, LINKED], ids=str)
@pytest.mark.parametrize(
    ("start", "named"),
    [
        (torch.tensor([1.0, -2.0, 1.0, 1.0]), r"size .* must start inside .*, got -2 at .* \(1,\)"),
        (torch.tensor(0.0), r"size .* must start inside of .*, got 0$"),
        (torch.tensor([1.0, torch.inf, 1.0, 1.0]), r"got inf at position \(1,\)"),
    ],
)
def test_a_start_outside_of_the_constraint_is_refused(family, start, named):
    with pytest.raises(ValueError, match=named):
        block(family, start, constraint=POSITIVE)


@pytest.mark.parametrize("family", [COUNTS, LINKED], ids=str)
def test_an_unknown_parameter_is_refused_with_those_that_there_are(family):
    with pytest.raises(ValueError, match=r"must be among \['size'\] of .*, got 'shape'"):
        pef.ExpFamPCA(family, 4, 1, family_parameters={"shape": PyroParam(torch.ones(4))})


def test_the_second_order_warns_of_a_kink():
    family = F.Gaussian(0.5, link=pef.links.ReLU())
    y, W = torch.rand(5, 3), torch.ones(3, 1)
    with pytest.warns(UserWarning, match=r"second order of the evidence does not see the kink"):
        pef.log_evidence(family, y, W, torch.zeros(3), order=2)


def test_a_fit_of_a_law_that_is_not_convex_says_where_it_ends():
    torch.manual_seed(0)
    family = F.Gaussian(
        1.0, link=pef.links.Mean(lambda eta: eta.square(), lambda mean: mean.sqrt())
    )
    eta = 0.5 * torch.randn(200, 1) @ torch.randn(1, 6)
    y = eta.square() + 0.3 * torch.randn(200, 6)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(family, 6, 1))
    with pytest.warns(pef.deq.ConvergenceWarning, match="loading of zero|has not converged"):
        guide.fit(y, progress=False)


LEARNT = [
    (F.NegativeBinomial(), F.NegativeBinomial(3.0), "size"),
    (F.Gamma(), F.Gamma(3.0), "shape"),
    (F.Gamma("shared"), F.Gamma(3.0), "shape"),
    (F.Weibull(), F.Weibull(2.0), "shape"),
    (F.LogNormal(), F.LogNormal(0.5), "scale"),
    (F.Beta("shared"), F.Beta(8.0), "precision"),
    (F.Tweedie(), F.Tweedie(1.5, 2.0), "dispersion"),
    (F.Ordinal(4), F.Ordinal(4, [0.0, 1.5, 2.0]), "gap_1"),
    (F.Ordinal(3, "shared"), F.Ordinal(3, [0.0, 1.5]), "gap_1"),
    (F.ZeroInflatedPoisson("shared"), F.ZeroInflatedPoisson(0.3), "zero_probability"),
]


@pytest.mark.parametrize(("left_out", "true", "name"), LEARNT, ids=repr)
def test_a_fit_learns_what_a_family_leaves_out(left_out, true, name):
    torch.manual_seed(1)
    # Fits of zero-inflated tables and of proportions take many times as long.
    num_rows = 200 if name in ("zero_probability", "precision") else 400
    eta = torch.randn(num_rows, 2) @ (0.6 * torch.randn(2, 8)) + 0.5
    y = true.sample(eta)
    model = pef.ExpFamPCA(left_out, 8, 2)
    fit = pef.LaplaceGuide(model).fit(y)
    assert fit.converged
    found = getattr(model, f"family_{name}").detach()
    assert found.shape == (() if getattr(left_out, name) == "shared" else (8,))
    assert float(found.median()) == pytest.approx(getattr(true, name), rel=0.25)
    assert bool(model.family.support.check(y).all())


def test_the_joint_estimate_refuses_a_spread_by_column():
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(F.Gamma(), 4, 1))
    with pytest.raises(ValueError, match=r"LaplaceEvidence\(\) for a family_shape by column"):
        guide.fit(torch.ones(9, 4))


@pytest.mark.parametrize("family", [F.NegativeBinomial(), F.ZeroInflatedNegativeBinomial(2.0)])
def test_what_is_to_be_learnt_must_be_known_elsewhere(family):
    with pytest.raises(ValueError, match="must be known where nothing is learnt"):
        pef.distributions.distribution(family, torch.zeros(3))
    with pytest.raises(ValueError, match="must be known"):
        pef.solve_latents(family, torch.ones(2, 3), torch.ones(3, 1), torch.zeros(3))


@pytest.mark.parametrize(
    ("family", "name"),
    [
        (F.NegativeBinomial(), "size"),
        (F.Gamma(), "shape"),
        (F.Gaussian(), "scale"),
        (F.LogNormal(), "scale"),
        (F.Beta(), "precision"),
        (F.Tweedie(), "dispersion"),
        (F.Weibull(), "shape"),
        (F.PoissonLogNormal(), "scale"),
        (F.ZeroInflatedPoisson(), "zero_probability"),
        (F.Ordinal(3), "cut_points"),
    ],
    ids=str,
)
def test_errors_say_which_parameter_must_be_known(family, name):
    with pytest.raises(ValueError, match=f"^{name} must be known where nothing is learnt"):
        family.log_prob(torch.ones(2, 3), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("family", "name"),
    [
        pytest.param(F.ZeroInflatedPoisson(), "zero_probability", marks=pytest.mark.slow),
        (F.Tweedie(None), "power"),
    ],
)
def test_learnt_parameters_stay_inside_of_their_sets(family, name):
    torch.manual_seed(0)
    y = (torch.rand(60, 3) < 0.05) * 5.0
    model = pef.ExpFamPCA(family, 3, 1)
    pef.LaplaceGuide(model).fit(y)
    found = getattr(model, f"family_{name}").detach()
    assert bool(family.constraint_of(name).check(found).all())


def test_a_posterior_of_coefficients_is_made_around_learnt_parameters():
    torch.manual_seed(0)
    y = F.Weibull(2.0).sample(torch.randn(100, 1) @ torch.ones(1, 5))
    model = pef.ExpFamPCA(F.Weibull(), 5, 1)
    guide = pef.LaplaceGuide(model, global_guide=pef.CoefficientGuide)
    assert guide.fit(y).converged
    assert float(model.family_shape.median()) == pytest.approx(2.0, rel=0.2)
    assert guide.coefficients.variance().shape == (5, 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the fit has not converged")
def test_a_second_order_that_no_probability_has_is_a_warning():
    torch.manual_seed(0)
    y = F.ZeroInflatedPoisson(0.3).sample(torch.randn(100, 1) @ (0.6 * torch.randn(1, 6)) + 0.5)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(F.ZeroInflatedPoisson("shared"), 6, 1))
    with pytest.warns(pef.deq.ConvergenceWarning, match="above 0"):
        guide.fit(y, loss=pef.LaplaceEvidence(order=2), max_sweeps=20)
