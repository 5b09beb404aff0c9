"""The evidence by adaptive quadrature: values, gradients, and fits of questionnaires."""

import math

import numpy as np
import pyro
import pytest
import scipy.optimize
import torch
from pyro.infer import SVI
from pyro.nn import PyroModule

import pyro_expfam as pef
from pyro_expfam.deq.layer import make_problem
from pyro_expfam.evidence.adaptive import adaptive_evidence

F = pef.families

LSAT = {
    "00000": 3, "00001": 6, "00010": 2, "00011": 11, "00100": 1, "00101": 1, "00110": 3,
    "00111": 4, "01000": 1, "01001": 8, "01011": 16, "01101": 3, "01110": 2, "01111": 15,
    "10000": 10, "10001": 29, "10010": 14, "10011": 81, "10100": 3, "10101": 28, "10110": 15,
    "10111": 80, "11000": 16, "11001": 56, "11010": 21, "11011": 173, "11100": 11, "11101": 61,
    "11110": 28, "11111": 298,
}  # fmt: skip
"""Section 6 of the Law School Admission Test: how many of 1,000 gave each pattern of answers.

Source: Bock and Lieberman (1970), *Fitting a response model for n dichotomously scored items*.
"""


def lsat():
    rows = [[float(c) for c in pattern] for pattern, count in LSAT.items() for _ in range(count)]
    return torch.tensor(rows)


def flat_block(num_features, latent_dim=1):
    model = pef.ExpFamPCA(
        F.Bernoulli(), num_features, latent_dim, loading_scale=None, intercept_scale=None
    )
    return model.double()


def minus_log_likelihood(parameters, y, num_nodes=81):
    """The two-parameter logistic model on a fixed grid of abilities, with its gradient."""
    W, b = np.split(parameters, 2)
    x, w = np.polynomial.hermite_e.hermegauss(num_nodes)
    eta = x[:, None] * W + b
    log_row = y @ eta.T - np.logaddexp(0, eta).sum(1) + np.log(w / w.sum())
    highest = log_row.max(1, keepdims=True)
    share = np.exp(log_row - highest)
    value = np.log(share.sum(1)) + highest[:, 0]
    share /= share.sum(1, keepdims=True)
    residual = share.T @ y - share.sum(0)[:, None] / (1 + np.exp(-eta))
    return -value.sum(), -np.concatenate([(residual * x[:, None]).sum(0), residual.sum(0)])


def maximum_likelihood(y):
    start = np.concatenate([np.ones(y.shape[1]), np.zeros(y.shape[1])])
    found = scipy.optimize.minimize(
        minus_log_likelihood, start, args=(y,), jac=True, method="BFGS", options={"gtol": 1e-7}
    )
    return -found.fun, np.split(found.x, 2)


def test_a_questionnaire_of_five_items_has_its_known_maximum():
    guide = pef.LaplaceGuide(flat_block(5))
    fit = guide.fit(lsat().double(), loss=pef.LaplaceEvidence(nodes=15))
    assert fit.converged
    assert -fit.objective == pytest.approx(-2466.653, abs=1e-3)
    W = guide.loading.flatten() * guide.loading.sum().sign()
    # Source: the estimates of the package ltm for R, Rizopoulos (2006), table 2.
    known = torch.tensor([0.8254, 0.7229, 0.8905, 0.6886, 0.6575], dtype=torch.float64)
    torch.testing.assert_close(W, known, atol=3e-3, rtol=0)


@pytest.mark.parametrize("num_items", [6, 20])
def test_fits_are_the_maximum_likelihood_of_the_two_parameter_model(num_items):
    torch.manual_seed(num_items)
    W = 0.8 + torch.rand(num_items, dtype=torch.float64)
    eta = torch.randn(600, 1, dtype=torch.float64) * W + torch.randn(num_items).double()
    y = torch.bernoulli(eta.sigmoid())
    best, (loading, intercept) = maximum_likelihood(y.numpy())
    guide = pef.LaplaceGuide(flat_block(num_items))
    fit = guide.fit(y, loss=pef.LaplaceEvidence(nodes=15), tol=1e-10)
    assert -fit.objective == pytest.approx(best, abs=1e-3)
    sign = guide.loading.sum().sign()
    found = torch.cat([guide.loading.flatten() * sign, guide.intercept])
    expected = torch.from_numpy(np.concatenate([loading, intercept]))
    torch.testing.assert_close(found.detach(), expected, atol=1e-3, rtol=1e-3)


FAMILIES = [
    F.Bernoulli(),
    F.Binomial(4),
    F.Poisson(),
    F.Gaussian(0.7),
    F.Gamma(2.0),
    F.NegativeBinomial(2.0),
    F.Ordinal(4, [-1.0, 0.0, 1.5]),
    F.Bernoulli(link=pef.links.Probit()),
    F.Beta(5.0),
]


def problem(family, latent_dim, rows=4):
    torch.manual_seed(3)
    W = torch.randn(5, latent_dim, dtype=torch.float64)
    b = 0.3 * torch.randn(5, dtype=torch.float64)
    y = family.sample((torch.randn(rows, latent_dim).double() @ W.T + b).clamp(-3, 3))
    return y, W, b


@pytest.mark.parametrize("latent_dim", [1, 2])
@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_it_is_the_integral(family, latent_dim):
    y, W, b = problem(family, latent_dim)
    mask = torch.rand(y.shape) < 0.8
    given = {"precision": 0.8, "offset": torch.full((4, 1), 0.2), "mask": mask}
    exact = pef.evidence.quadrature_evidence(family, y, W, b, **given)
    found = pef.log_evidence(family, y, W, b, **given, nodes=21)
    torch.testing.assert_close(found, exact, atol=2e-4, rtol=0)


def test_categories_are_integrated_too():
    torch.manual_seed(0)
    family, W = F.Categorical(3), torch.randn(12, 1, dtype=torch.float64)
    y, b = torch.randint(0, 3, (6, 4)), torch.zeros(12, dtype=torch.float64)
    exact = pef.evidence.quadrature_evidence(family, y, W, b)
    torch.testing.assert_close(
        pef.log_evidence(family, y, W, b, nodes=21), exact, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("family", FAMILIES[:4], ids=repr)
def test_gradients_are_differences_of_values(family):
    y, W, b = problem(family, 2)
    direction = torch.randn_like(W)

    def total(step, W=W, b=b):
        return pef.log_evidence(family, y, W + step * direction, b, nodes=25).sum()

    W.requires_grad_()
    (gradient,) = torch.autograd.grad(total(0.0), W)
    with torch.no_grad():
        slope = (total(1e-4) - total(-1e-4)) / 2e-4
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-4)


class Two(PyroModule):
    """Two questionnaires of one ability."""

    def __init__(self):
        super().__init__()
        self.first = pef.ExpFamPCA(F.Bernoulli(), 4, 1)
        self.second = pef.ExpFamPCA(F.Ordinal(3, [-1.0, 1.0]), 3, 1)

    def forward(self, y, ratings):
        z = self.first(y)
        self.second(ratings, z=z)


def test_a_loss_of_svi_is_the_integral_of_all_tables_of_the_latents():
    torch.manual_seed(1)
    y = torch.bernoulli(torch.full((30, 4), 0.5)).double()
    ratings = torch.randint(0, 3, (30, 3)).double()
    model = Two().double()
    guide = pef.DEQMAPGuide(model).double()
    guide(y, ratings)
    losses = [
        SVI(model, guide, pyro.optim.Adam({"lr": 0.0}), loss).evaluate_loss(y, ratings)
        for loss in (pef.LaplaceEvidence(nodes=9), pef.LaplaceEvidence(nodes=31))
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    values = guide.median(y, ratings)
    with torch.no_grad():
        W = torch.cat([values["first.loading"], values["second.loading"]])
        b = torch.cat([values["first.intercept"], values["second.intercept"]])
        x, w = np.polynomial.hermite_e.hermegauss(61)
        eta = torch.from_numpy(x)[:, None, None] * W[:, 0] + b
        rows = F.Bernoulli().log_prob(y, eta[..., :4]).sum(-1)
        rows = rows + F.Ordinal(3, [-1.0, 1.0]).log_prob(ratings, eta[..., 4:]).sum(-1)
        log_weights = torch.from_numpy(np.log(w / w.sum()))[:, None]
        evidence = torch.logsumexp(rows + log_weights, 0).sum()
        log_prior = -0.5 * (W.square().sum() + 7 * math.log(2 * math.pi))
        scale = model.first.intercept_scale
        log_prior = log_prior - 0.5 * (b / scale).square().sum()
        log_prior = log_prior - 7 * (0.5 * math.log(2 * math.pi) + scale.log())
    assert -losses[1] == pytest.approx(float(evidence + log_prior), abs=1e-4)


def test_check_knows_that_training_has_taken_quadrature():
    guide = pef.LaplaceGuide(pef.ExpFamPCA(F.Bernoulli(), 5, 1))
    guide.fit(lsat(), loss=pef.LaplaceEvidence(nodes=9))
    report = str(pef.check(guide.model, guide, lsat()))
    assert "at an optimum of the evidence by quadrature" in report
    assert "PROBLEM" not in report


@pytest.mark.parametrize("nodes", [0, 4, 52, 7.0, True])
def test_numbers_of_nodes_out_of_range_are_refused(nodes):
    with pytest.raises(ValueError, match="nodes must be a whole number from 5 to 51"):
        pef.LaplaceEvidence(nodes=nodes)


def test_nodes_and_an_order_are_one_too_many():
    with pytest.raises(ValueError, match="order must be left out where nodes are given"):
        pef.LaplaceEvidence(order=2, nodes=7)


def test_many_latents_have_too_many_nodes():
    y, W, b = torch.zeros(2, 6), torch.ones(6, 4), torch.zeros(6)
    with pytest.raises(ValueError, match="nodes must be None for more than 3 latents"):
        pef.log_evidence(F.Bernoulli(), y, W, b, nodes=7)


# ---------------------------------------------------------------- quasi-random nodes


def few_columns(latent_dim, num_rows=40, num_columns=8):
    W = torch.randn(num_columns, latent_dim, dtype=torch.float64)
    y = torch.bernoulli(torch.sigmoid(torch.randn(num_rows, latent_dim).double() @ W.mT))
    return y, W, torch.zeros(num_columns, dtype=torch.float64)


def test_draws_agree_with_quadrature():
    torch.manual_seed(0)
    y, W, b = few_columns(2)
    family = pef.families.Bernoulli()
    exact = pef.log_evidence(family, y, W, b, nodes=25)
    errors = [
        float(
            (pef.log_evidence(family, y, W, b, nodes=pef.evidence.Draws(count)) - exact).abs().max()
        )
        for count in (64, 1024)
    ]
    assert errors[1] < 0.01 < 0.03
    assert errors[1] < errors[0] / 3


@pytest.mark.slow
def test_draws_are_better_than_expansions_for_many_latents_in_few_columns():
    torch.manual_seed(1)
    y, W, b = few_columns(5)
    family = pef.families.Bernoulli()
    exact = pef.evidence.importance_evidence(family, y, W, b, num_draws=40_000).log_evidence
    error = {
        name: float((pef.log_evidence(family, y, W, b, **settings) - exact).abs().mean())
        for name, settings in {
            "first": {},
            "second": {"order": 2},
            "draws": {"nodes": pef.evidence.Draws(512)},
        }.items()
    }
    assert error["draws"] < 0.02
    assert error["draws"] < min(error["first"], error["second"]) / 3


def test_the_gradient_of_draws_is_the_gradient_of_their_value():
    torch.manual_seed(2)
    y, W, b = few_columns(4, num_rows=5, num_columns=6)
    family = pef.families.Poisson()
    W.requires_grad_()
    b.requires_grad_()

    def value(W, b):
        return pef.log_evidence(family, y, W, b, nodes=pef.evidence.Draws(16)).sum()

    assert torch.autograd.gradcheck(value, (W, b), atol=1e-6)


@pytest.mark.slow
def test_a_fit_by_draws_has_more_evidence_than_a_fit_by_the_first_order():
    torch.manual_seed(3)
    y, _, _ = few_columns(4, num_rows=400, num_columns=9)
    found = {}
    for name, loss in {
        "first": pef.LaplaceEvidence(),
        "draws": pef.LaplaceEvidence(nodes=pef.evidence.Draws(512)),
    }.items():
        guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Bernoulli(), 9, 4).double())
        assert guide.fit(y, loss=loss).converged
        evidence = guide.importance_evidence(y, num_draws=5_000).log_evidence.sum()
        loading, intercept = guide.loading, guide.intercept
        prior = -0.5 * loading.square().sum() - 0.005 * intercept.square().sum()
        found[name] = float(evidence + prior)
    assert found["draws"] > found["first"]


def test_too_few_draws_are_refused():
    with pytest.raises(ValueError, match="count must be a whole number of at least 16, got 3"):
        pef.evidence.Draws(3)
    with pytest.raises(ValueError, match=r"nodes=pyro_expfam\.evidence\.Draws\(512\)"):
        pef.log_evidence(pef.families.Bernoulli(), *few_columns(4), nodes=7)


def sums_on_a_grid(family, y, W, b):
    """The log evidence under two latents by a sum over a fine grid of them."""
    axis = torch.linspace(-7, 7, 701, dtype=torch.float64)
    nodes = torch.cartesian_prod(axis, axis)
    log_prior = -0.5 * nodes.square().sum(-1) - math.log(2 * math.pi)
    log_joint = [family.log_prob(row, nodes @ W.T + b).sum(-1) + log_prior for row in y]
    return torch.stack(log_joint).logsumexp(-1) + 2 * math.log(axis[1] - axis[0])


def test_nodes_around_a_saddle_have_the_integral_and_its_gradient():
    torch.manual_seed(0)
    family, rows = F.ZeroInflatedPoisson(0.3), 200
    W, b = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    y = family.sample(torch.randn(rows, 2, dtype=torch.float64) @ W.T + b)
    z = torch.randn(rows, 2, dtype=torch.float64)
    whole = make_problem(family, y, W, b)
    saddle = (torch.linalg.eigvalsh(whole.information(z))[:, 0] < 0).nonzero().squeeze(-1)[:3]
    assert len(saddle) == 3
    problem, z = whole.rows(saddle), z[saddle]
    loading = W.clone().requires_grad_()
    found = adaptive_evidence(problem.with_fields(problem.fields | {"W": loading}), z, 45)
    expected = loading.detach().clone().requires_grad_()
    exact = sums_on_a_grid(family, y[saddle], expected, b)
    torch.testing.assert_close(found, exact, atol=2e-3, rtol=0)
    (gradient,) = torch.autograd.grad(found.sum(), loading)
    (exact_gradient,) = torch.autograd.grad(exact.sum(), expected)
    torch.testing.assert_close(gradient, exact_gradient, rtol=1e-2, atol=1e-2)


def test_fits_go_on_where_a_row_is_at_a_saddle():
    torch.manual_seed(10)
    family, loading = F.ZeroInflatedPoisson(0.3), torch.randn(30, 2) / 2**0.5
    eta = torch.randn(500, 2) @ loading.T + 0.3 * torch.randn(30)
    y = family.sample(eta)
    model = pef.ExpFamPCA(family, 30, 2).double()
    # In the first solve for the latents a row ends where its information is not definite.
    guide, loss = pef.LaplaceGuide(model), pef.LaplaceEvidence(nodes=7)
    with pytest.warns(pef.ConvergenceWarning, match="max_sweeps, 3"):
        fit = guide.fit(y.double(), loss=loss, max_sweeps=3)
    assert fit.objective < fit.sweeps[0].objective - 2_000
