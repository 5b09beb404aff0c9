"""The normal of learnt parameters of a family, with coefficients and latents integrated out."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

import pyro_expfam as pef
from pyro_expfam.coefficients import EvidenceProblem
from pyro_expfam.coefficients.parameter_posterior import _inverse
from pyro_expfam.deq.layer import make_solver
from pyro_expfam.guides.table_objective import free_parameters
from pyro_expfam.joint import LearntParametersProblem, TableInMemory

F = pef.families


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def fitted(family, y, latent_dim=1, **settings):
    torch.manual_seed(0)
    model = pef.ExpFamPCA(family, y.shape[1], latent_dim, **settings)
    guide = pef.LaplaceGuide(model)
    assert guide.fit(y, tol=1e-12, progress=False).converged
    return model, guide


def evidence_with_parameters(model, y):
    precision, like = model.coefficient_precision(), model.latent_precision
    table = TableInMemory(model.family, model.num_features, like, y)
    evidence = EvidenceProblem(table, like, precision[..., :-1], precision[..., -1])
    return LearntParametersProblem.of(evidence, free_parameters(model))


def counts(size, num_rows=150, num_features=4):
    torch.manual_seed(0)
    eta = 0.6 * torch.randn(num_rows, 1) @ torch.randn(1, num_features) + 1.0
    return F.NegativeBinomial(size).sample(eta)


@pytest.mark.parametrize("size", [None, "shared"])
def test_the_covariance_is_a_block_of_the_inverse_hessian(size):
    y = counts(2.0)
    model, guide = fitted(F.NegativeBinomial(size), y)
    objective, solver = evidence_with_parameters(model, y), make_solver()
    median = guide.median(y)
    theta = torch.cat([median["loading"], median["intercept"][:, None]], 1)
    place = objective.coefficients_of(theta, model.family.parameters).detach()
    # A size for all columns moves all entries of its column of the coefficients.
    basis = torch.eye(place.numel()).view(-1, *place.shape)
    if size == "shared":
        moves = basis[basis[..., -1].sum(1) == 0]
        together = torch.zeros_like(place)
        together[:, -1] = 1.0
        basis = torch.cat([moves, together[None]])
    number = [k for k, move in enumerate(basis) if bool(move[:, -1].any())]

    def gradient(at):
        found = objective.columns(at, torch.zeros(len(y), 1), solver).gradient
        return (basis * found).sum((1, 2))

    hessian = torch.stack(
        [(gradient(place + 1e-3 * x) - gradient(place - 1e-3 * x)) for x in basis]
    )
    wanted = torch.linalg.inv(hessian / 2e-3)[number][:, number]
    found = guide.learnt_parameters(y).covariance
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


def test_without_a_loading_it_is_maximum_likelihood_by_column():
    y = counts(2.0, 300, 2)
    flat = {"loading_scale": 1e-4, "intercept_scale": 1e4, "parameter_scale": None}
    _, guide = fitted(F.NegativeBinomial(), y, **flat)
    posterior = guide.learnt_parameters(y)
    for column, of_column in enumerate(y.numpy().T):

        def loss(place, of_column=of_column):
            size, mean = np.exp(place)
            return -scipy.stats.nbinom.logpmf(of_column, size, size / (size + mean)).sum()

        best = scipy.optimize.minimize(loss, np.zeros(2), method="Nelder-Mead", tol=1e-10).x
        step = 1e-3 * np.eye(2)
        hessian = [
            [
                loss(best + a + b) - loss(best + a - b) - loss(best - a + b) + loss(best - a - b)
                for a in step
            ]
            for b in step
        ]
        covariance = np.linalg.inv(np.array(hessian) / 4e-6)
        assert float(posterior.mode[column]) == pytest.approx(best[0], abs=1e-4)
        assert float(guide.median(y)["intercept"][column]) == pytest.approx(best[1], abs=1e-4)
        assert float(posterior.covariance[column, column]) == pytest.approx(
            covariance[0, 0], rel=1e-3
        )


def test_a_mixed_table_has_the_parameters_of_its_laws():
    torch.manual_seed(0)
    eta = torch.randn(150, 1) @ torch.tensor([[0.6, -0.5, 0.4, 0.7]])
    lengths = 50.0 + 20.0 * F.Gaussian(1.0).sample(eta[:, :2])
    y = torch.cat([lengths, F.NegativeBinomial(2.0).sample(eta[:, 2:] + 1.0)], 1)[:, [0, 2, 1, 3]]
    laws = [([0, 2], F.Gaussian()), ([1, 3], F.NegativeBinomial("shared"))]
    model, guide = fitted(F.Columns(laws), y)
    posterior = guide.learnt_parameters(y)
    assert posterior.sizes == (2, 1)
    low, high = posterior.interval(0.99)["gaussian_scale"]
    scale = model.family_gaussian_scale
    assert bool(((low < scale) & (scale < high)).all())
    objective, solver = evidence_with_parameters(model, y), make_solver()
    median = guide.median(y)
    theta = torch.cat([median["loading"], median["intercept"][:, None]], 1)
    place = objective.coefficients_of(theta, model.family.parameters).detach()
    basis = torch.nn.functional.pad(torch.eye(8).view(8, 4, 2), (0, 2))
    own = torch.zeros(3, 4, 4)
    own[0, 0, 2] = own[1, 2, 2] = own[2, [1, 3], 3] = 1.0
    basis = torch.cat([basis, own])

    def gradient(at):
        found = objective.columns(at, torch.zeros(len(y), 1), solver).gradient
        return (basis * found).sum((1, 2))

    hessian = torch.stack(
        [(gradient(place + 1e-3 * x) - gradient(place - 1e-3 * x)) for x in basis]
    )
    wanted = torch.linalg.inv(hessian / 2e-3)[8:, 8:]
    torch.testing.assert_close(posterior.covariance, wanted, rtol=1e-3, atol=1e-6)


def test_intervals_keep_the_constraint_and_widen():
    y = counts(2.0)
    _, guide = fitted(F.NegativeBinomial(), y)
    posterior = guide.learnt_parameters(y)
    low, high = posterior.interval(0.99)["size"]
    assert bool((low > 0).all())
    narrow = posterior.interval(0.5)["size"]
    assert bool(((low < narrow[0]) & (narrow[1] < high)).all())
    draws = posterior.draw(torch.randn(4_000, 4))["size"].log()
    torch.testing.assert_close(draws.mT.cov(), posterior.covariance, rtol=0.2, atol=0.005)
    with pytest.raises(ValueError, match="between 0 and 1"):
        posterior.interval(90)


def test_what_has_no_interval_is_refused():
    torch.manual_seed(0)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(F.Poisson(), 3, 1))
    with pytest.raises(ValueError, match="must learn parameters of its family"):
        guide.learnt_parameters(torch.ones(5, 3))


def coverage(num_tables):
    """The share of sizes by column inside their own 90% intervals, over simulated tables."""
    size = torch.tensor([1.0, 2.0, 4.0, 2.0])
    inside = []
    for seed in range(num_tables):
        torch.manual_seed(seed)
        eta = torch.randn(200, 1) @ torch.tensor([[0.6, -0.5, 0.4, 0.7]]) + 1.5
        y = F.NegativeBinomial(size).sample(eta)
        guide = pef.LaplaceGuide(pef.ExpFamPCA(F.NegativeBinomial(), 4, 1))
        guide.fit(y, progress=False)
        low, high = guide.learnt_parameters(y).interval(0.9)["size"]
        inside.append((low < size) & (size < high))
    return float(torch.stack(inside).double().mean())


@pytest.mark.slow
def test_intervals_cover_sizes_in_most_of_a_few_tables():
    assert coverage(6) > 0.7


@pytest.mark.slow
def test_intervals_cover_sizes_as_often_as_they_say():
    assert 0.85 < coverage(200) < 0.95


def test_parameters_without_a_maximum_are_named():
    information = torch.tensor([[5.0, 0.0, 0.0], [0.0, 0.3, 2.5], [0.0, 2.5, 4.6]]).double()
    names = ["scale of column 0", "scale of column 2", "size"]
    with pytest.raises(ValueError, match=r"no maximum in scale of column 2 and size: fit fewer"):
        _inverse(information, names)
    covariance = _inverse(information.diagonal().diag(), names)
    torch.testing.assert_close(covariance, (1 / information.diagonal()).diag())


def test_scales_of_columns_that_latents_copy_have_the_covariance_of_factor_analysis():
    torch.manual_seed(0)
    y = torch.randn(200, 6)
    # Communalities of columns 0 and 3 would be above 1 (Heywood cases).
    y[:, 0] = y[:, 1] + y[:, 2] + 0.3 * y[:, 0]
    y[:, 3] = y[:, 4] + y[:, 5] + 0.3 * y[:, 3]
    family = F.Columns([(slice(0, 6), F.Gaussian())])
    model, guide = fitted(family, y, 2, parameter_scale=None, loading_scale=300.0)
    found = guide.learnt_parameters(y)
    assert float(found.mode.min()) < -3.4
    median = guide.median(y)
    of_loading, _, of_intercept = model.coefficient_precision()
    place = torch.cat([median["loading"].flatten(), median["intercept"], found.mode])

    def loss(place):
        loading, intercept, log_scale = place[:12].view(6, 2), place[12:18], place[18:]
        scale = log_scale.exp()
        covariance = scale[:, None] * (loading @ loading.mT + torch.eye(6)) * scale
        law = torch.distributions.MultivariateNormal(scale * intercept, covariance)
        of_prior = of_loading * loading.square().sum() + of_intercept * intercept.square().sum()
        return 0.5 * of_prior - law.log_prob(y).sum()

    hessian = torch.autograd.functional.hessian(loss, place.detach())
    of_theta, between = hessian[:18, :18], hessian[:18, 18:]
    # No change along the rotation of two latents.
    slope = -torch.linalg.pinv(of_theta, rtol=1e-9, hermitian=True) @ between
    wanted = torch.linalg.inv(hessian[18:, 18:] + between.mT @ slope)
    torch.testing.assert_close(found.covariance, wanted, rtol=1e-3, atol=1e-6)
    coefficients = torch.cat([slope[:12].view(6, 2, 6), slope[12:].view(6, 1, 6)], 1)
    torch.testing.assert_close(found.slope, coefficients.flatten(0, 1), rtol=1e-3, atol=1e-3)
