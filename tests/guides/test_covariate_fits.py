"""Fits of tables with covariates, against regressions, closed forms and finite differences."""

import warnings

import numpy as np
import pytest
import scipy.optimize
import torch
from pyro.infer import Trace_ELBO
from torch.utils.data import DataLoader, TensorDataset

import pyro_expfam as pef
from pyro_expfam.coefficients import evidence_information, weighted_information_gradient
from pyro_expfam.coefficients.evidence_problem import EvidenceProblem
from pyro_expfam.coefficients.maximum import coefficients_of, with_coefficients
from pyro_expfam.coefficients.scores import row_scores
from pyro_expfam.deq import FisherScoring
from pyro_expfam.deq.layer import solve
from pyro_expfam.evidence import evidence_at_root
from pyro_expfam.evidence.expansion import Expansion
from pyro_expfam.joint import JointProblem, TableInMemory

F = pef.families
NUM_ROWS, NUM_FEATURES, LATENT_DIM, NUM_COVARIATES = 80, 5, 2, 2
SOLVER = FisherScoring()


@pytest.fixture(autouse=True)
def in_double_precision():
    torch.set_default_dtype(torch.float64)


def random_table(family, num_rows=NUM_ROWS):
    x = torch.randn(num_rows, NUM_COVARIATES)
    W, b = 0.7 * torch.randn(NUM_FEATURES, LATENT_DIM), 0.3 * torch.randn(NUM_FEATURES)
    C = 0.6 * torch.randn(NUM_FEATURES, NUM_COVARIATES)
    eta = torch.randn(num_rows, LATENT_DIM) @ W.T + b + x @ C.T
    return family.sample(eta.clamp(-3, 3)), x


def block(family, **settings):
    return pef.ExpFamPCA(
        family, NUM_FEATURES, LATENT_DIM, num_covariates=NUM_COVARIATES, **settings
    )


def table_of(family, y, x, **entries):
    like = torch.zeros(())
    return TableInMemory(
        family, NUM_FEATURES, like, y, covariates=x, num_covariates=NUM_COVARIATES, **entries
    )


def objective_of(kind, family, y, x, **entries):
    return kind(
        table_of(family, y, x, **entries),
        torch.tensor(0.8),
        0.5,
        0.25,
        covariate_precision=torch.tensor([0.3, 2.0]),
    )


def coefficients():
    return 0.5 * torch.randn(NUM_FEATURES, LATENT_DIM + 1 + NUM_COVARIATES)


def ridge_regression(loss, y, x, precision):
    """Intercepts and coefficients of each column by a general optimiser."""
    u = np.column_stack([np.ones(len(x)), x.numpy()])

    def of_column(column):
        def objective(theta):
            return loss(u @ theta, column).sum() + 0.5 * (precision * theta**2).sum()

        found = scipy.optimize.minimize(objective, np.zeros(u.shape[1]), method="BFGS", tol=1e-12)
        return found.x

    return np.stack([of_column(column) for column in y.numpy().T])


@pytest.mark.parametrize("loss", [None, pef.LaplaceEvidence()])
@pytest.mark.parametrize(
    ("family", "scalar_loss"),
    [
        (F.Poisson(), lambda eta, y: np.exp(eta) - y * eta),
        (F.Bernoulli(), lambda eta, y: np.logaddexp(0, eta) - y * eta),
    ],
    ids=["counts", "bits"],
)
def test_without_loading_a_fit_is_a_regression_per_column(family, scalar_loss, loss):
    y, x = random_table(family)
    model = block(family, loading_scale=1e-6, intercept_scale=2.0, coefficient_scale=0.8)
    guide = pef.LaplaceGuide(model)
    guide.fit(y, covariates=x, loss=loss, tol=1e-13)
    precision = np.array([0.25, *[0.8**-2] * NUM_COVARIATES])
    expected = torch.as_tensor(ridge_regression(scalar_loss, y, x, precision))
    found = torch.cat([guide.intercept[:, None], guide.covariate_coefficients], 1)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-6)


def test_the_evidence_of_gaussian_rows_is_their_marginal_normal():
    y, x = random_table(F.Gaussian(1.0))
    guide = pef.LaplaceGuide(block(F.Gaussian(1.0), latent_precision=2.0))
    guide.fit(y, covariates=x)
    W = guide.loading
    law = torch.distributions.MultivariateNormal(
        guide.intercept + x @ guide.covariate_coefficients.T, W @ W.T / 2 + torch.eye(NUM_FEATURES)
    )
    torch.testing.assert_close(guide.log_evidence(y, covariates=x), law.log_prob(y))


@pytest.mark.parametrize("family", [F.Poisson(), F.Bernoulli()], ids=str)
@pytest.mark.parametrize("kind", [JointProblem, EvidenceProblem])
def test_the_gradient_is_the_slope_of_the_objective(kind, family):
    y, x = random_table(family)
    mask, offset = torch.rand(y.shape) < 0.9, 0.2 * torch.randn(NUM_ROWS, 1)
    problem = objective_of(kind, family, y, x, mask=mask, offset=offset)
    place, direction = coefficients(), torch.randn_like(coefficients())

    def columns(at):
        z = torch.zeros(NUM_ROWS, LATENT_DIM)
        return problem.columns(at, z, SOLVER.at(1e-12, z.dtype))

    step = 1e-5
    ahead, behind = columns(place + step * direction), columns(place - step * direction)
    slope = (ahead.objective - behind.objective) / (2 * step)
    assert slope == pytest.approx(float((columns(place).gradient * direction).sum()), rel=1e-6)


def test_a_change_of_basis_keeps_the_predictors_and_lowers_the_penalty():
    y, x = random_table(F.Poisson())
    problem = objective_of(JointProblem, F.Poisson(), y, x)
    place, z = coefficients(), torch.randn(NUM_ROWS, LATENT_DIM) + x @ torch.randn(2, LATENT_DIM)
    moved, at = problem.change_basis(place, z)

    def predictors(theta, latents):
        return torch.cat([latents, torch.ones(NUM_ROWS, 1), x], 1) @ theta.T

    torch.testing.assert_close(predictors(moved, at), predictors(place, z))
    before, after = z.square().sum(), at.square().sum()
    assert problem.penalty(moved, after) < problem.penalty(place, before)


def latent_problem(family):
    y, x = random_table(family, 30)
    table = table_of(family, y, x)
    (rows,) = [rows for _, rows in table.tiles()]
    return rows.problem(coefficients(), torch.tensor(0.8))


def root(problem):
    return solve(problem, SOLVER).value.detach()


@pytest.mark.parametrize("family", [F.Poisson(), F.Bernoulli()], ids=str)
def test_the_information_is_the_hessian_of_the_evidence(family):
    problem = latent_problem(family)
    theta, precision = coefficients_of(problem), torch.tensor([0.5, 0.5, 0.25, 0.3, 2.0])

    def gradient(at):
        there = with_coefficients(problem, at)
        scores = row_scores(Expansion(there, root(there))).sum(0)
        return (precision * at - scores).flatten()

    def objective(at):
        there = with_coefficients(problem, at)
        return float(
            0.5 * (precision * at.square()).sum() - evidence_at_root(there, root(there), 1).sum()
        )

    step, direction = 1e-5, torch.randn_like(theta)
    ahead, behind = theta + step * direction, theta - step * direction
    slope = (objective(ahead) - objective(behind)) / (2 * step)
    assert slope == pytest.approx(float(gradient(theta) @ direction.flatten()), rel=1e-6)
    change = (gradient(ahead) - gradient(behind)) / (2 * step)
    information = evidence_information(problem, precision, root(problem))
    torch.testing.assert_close(information @ direction.flatten(), change, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_the_information_is_its_slope():
    problem, precision = latent_problem(F.Poisson()), torch.ones(5)
    theta = coefficients_of(problem)
    weight = torch.randn(theta.numel(), theta.numel())
    weight = weight + weight.T

    def trace(at):
        there = with_coefficients(problem, at)
        return float((weight * evidence_information(there, precision, root(there))).sum())

    step, direction = 1e-5, torch.randn_like(theta)
    slope = (trace(theta + step * direction) - trace(theta - step * direction)) / (2 * step)
    found = weighted_information_gradient(problem, weight, root(problem))
    assert slope == pytest.approx(float((found * direction).sum()), rel=1e-5)


@pytest.mark.parametrize("named", [False, True])
def test_a_stream_leads_to_the_fit_of_the_table_in_memory(named):
    y, x = random_table(F.Poisson())
    rows = TensorDataset(y, x)

    def batch(items):
        ys, xs = map(torch.stack, zip(*items, strict=True))
        return {"y": ys, "covariates": xs} if named else (ys, None, None, None, xs)

    found = []
    for arguments in (
        {"y": y, "covariates": x},
        {"y": DataLoader(rows, batch_size=30, collate_fn=batch)},
    ):
        torch.manual_seed(1)
        guide = pef.LaplaceGuide(block(F.Poisson()))
        fit = guide.fit(**arguments, tol=1e-12)
        found.append((fit.objective, guide.covariate_coefficients))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-9)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make_guide", [pef.DEQMAPGuide, pef.LaplaceGuide])
@pytest.mark.parametrize(
    "centre", [0.0, 2000.0]
)  # a covariate far from zero wants double precision
@pytest.mark.parametrize("as_table", [torch.Tensor.clone, torch.Tensor.to_sparse_csr])
def test_a_stream_of_single_precision_leads_to_the_fit_in_memory(make_guide, centre, as_table):
    y, x = random_table(F.Poisson())
    y, x = y.float(), (x + centre).float()
    found = []
    for arguments in (
        {"y": y, "covariates": x},
        {"y": [{"y": as_table(y[k]), "covariates": x[k]} for k in torch.arange(len(y)).split(30)]},
    ):
        torch.manual_seed(1)
        guide = make_guide(block(F.Poisson()).float())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*Centre it")
            fit = guide.fit(**arguments)
        assert guide.covariate_coefficients.dtype == torch.float32
        found.append((fit.objective, guide.covariate_coefficients))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-2, atol=1e-3)


def test_a_sparse_table_leads_to_the_fit_of_the_dense_one():
    y, x = random_table(F.Poisson())
    found = []
    for table in (y, y.to_sparse_csr()):
        torch.manual_seed(1)
        guide = pef.LaplaceGuide(block(F.Poisson()))
        fit = guide.fit(table, covariates=x)
        found.append((fit.objective, guide.latents(table, covariates=x)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-7)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("loss", [None, pef.LaplaceEvidence()])
def test_a_covariate_of_zeros_changes_nothing(loss):
    y, x = random_table(F.Poisson())
    plain = pef.LaplaceGuide(pef.ExpFamPCA(F.Poisson(), NUM_FEATURES, LATENT_DIM))
    fit = plain.fit(y, loss=loss, tol=1e-12)
    guide = pef.LaplaceGuide(block(F.Poisson(), coefficient_scale=1.0))
    with pytest.warns(UserWarning, match="is zero in every row"):
        with_zeros = guide.fit(y, covariates=0 * x, loss=loss, tol=1e-12)
    constant = 0.5 * NUM_FEATURES * NUM_COVARIATES * np.log(2 * np.pi)
    assert with_zeros.objective == pytest.approx(fit.objective + constant, rel=1e-9)
    assert float(guide.covariate_coefficients.abs().max()) < 1e-6
    torch.testing.assert_close(
        guide.latents(y, covariates=0 * x).square().sum(1),
        plain.latents(y).square().sum(1),
        rtol=1e-3,
        atol=1e-4,
    )


def test_latents_are_those_of_a_known_offset():
    y, x = random_table(F.Poisson())
    guide = pef.LaplaceGuide(block(F.Poisson()))
    guide.fit(y, covariates=x)
    offset = x @ guide.covariate_coefficients.T
    precision = guide.block().latent_precision
    expected = pef.solve_latents(
        F.Poisson(), y, guide.loading, guide.intercept, precision, offset
    ).value
    torch.testing.assert_close(guide.latents(y, covariates=x), expected)


@pytest.mark.parametrize("guide_class", [pef.DEQMAPGuide, pef.LaplaceGuide])
@pytest.mark.parametrize("kind", ["mixed", "scales by column"])
def test_covariates_beside_priors_by_column_are_at_an_optimum(guide_class, kind):
    columns = F.Columns([([0, 2], F.Poisson()), ([1], F.Gaussian(2.0)), ([3], F.Bernoulli())])
    family = columns if kind == "mixed" else F.Poisson()
    y, x = family.sample(0.3 * torch.randn(40, 4)), torch.randn(40, 2)
    scales = {}
    if kind != "mixed":
        scales = {"loading_scale": torch.rand(4, 1) + 0.5, "intercept_scale": torch.rand(4) + 1}
    model = pef.ExpFamPCA(family, 4, 1, num_covariates=2, **scales)
    guide = guide_class(model)
    fit = guide.fit(y, covariates=x, tol=1e-13)
    assert fit.converged
    loss = pef.LaplaceEvidence() if guide_class is pef.LaplaceGuide else Trace_ELBO()
    value = loss.differentiable_loss(model, guide, y, covariates=x)
    assert value.item() == pytest.approx(fit.objective, rel=1e-9)
    parameters = [p for p in (*model.parameters(), *guide.parameters()) if p.requires_grad]
    for slope in torch.autograd.grad(value, parameters, allow_unused=True):
        assert slope is None or float(slope.abs().max()) < 1e-3
