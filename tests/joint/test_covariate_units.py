"""Covariates in other units within a fit: the same model, and no more sweeps."""

import pyro
import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.joint.covariate_units import CovariateUnits, are_far
from pyro_expfam.joint.table import gram_of

F = pef.families
FLAT = {"loading_scale": None, "intercept_scale": None, "coefficient_scale": None}


def covariates(num_rows):
    year = 2000.0 + torch.arange(num_rows) % 10
    return torch.stack([year, 1e4 * torch.randn(num_rows)], 1).double()


@pytest.mark.parametrize("centred", [True, False])
def test_linear_predictors_and_penalties_stay(centred):
    x = covariates(50)
    units = CovariateUnits.of(gram_of(x, 50), centred)
    coefficients = torch.randn(4, 2 + 1 + 2).double()
    there = units.to_units(coefficients)
    b, C, b_there, C_there = (y for c in (coefficients, there) for y in (c[:, 2], c[:, 3:]))
    torch.testing.assert_close(units.of_rows(x) @ C_there.T + b_there, x @ C.T + b)
    torch.testing.assert_close(units.from_units(there), coefficients)
    torch.testing.assert_close(units.gram(gram_of(x, 50)), gram_of(units.of_rows(x), 50))
    precision = torch.tensor([0.5, 2.0]).double()
    penalty = (units.precision(precision) * C_there.square()).sum()
    torch.testing.assert_close(penalty, (precision * C.square()).sum())
    # An intercept with a prior must not move.
    assert centred or torch.equal(b_there, b)


def test_a_covariate_of_one_value_has_units():
    x = torch.full((20, 1), 3.0).double()
    units = CovariateUnits.of(gram_of(x, 20), centred=True)
    assert units.of_rows(x).isfinite().all()
    assert not are_far(gram_of(x, 20)).any()


def fitted(y, x, dtype, **settings):
    torch.manual_seed(0)
    model = pef.ExpFamPCA(F.Poisson(), y.shape[1], 1, num_covariates=2, **settings).to(dtype)
    guide = pef.LaplaceGuide(model)
    fit = guide.fit(y.to(dtype), covariates=x.to(dtype), num_starts=2)
    assert fit.latents.dtype == dtype
    eta = guide.latents(y.to(dtype), covariates=x.to(dtype)).detach() @ guide.loading.T
    eta = eta + x.to(dtype) @ guide.covariate_coefficients.T + guide.intercept
    return fit, eta.double()


def counts():
    x = covariates(200)
    centred = (x - x.mean(0)) / x.std(0)
    W, C = torch.randn(1, 5).double(), torch.randn(2, 5).double()
    eta = torch.randn(200, 1).double() @ W + centred @ C / 2
    return x, centred, torch.poisson(torch.exp(eta))


def test_a_fit_does_not_depend_on_units_under_flat_priors():
    x, centred, y = counts()
    expected, eta = fitted(y, centred, torch.float64, **FLAT)
    for dtype in (torch.float32, torch.float64):
        found, own = fitted(y, x, dtype, **FLAT)
        assert found.converged
        assert len(found.sweeps) <= len(expected.sweeps) + 2
        assert found.objective == pytest.approx(expected.objective, rel=1e-6)
        torch.testing.assert_close(own, eta, rtol=0.0, atol=0.02)


@pytest.mark.filterwarnings("ignore:covariate 0 has the mean")
def test_a_prior_of_the_intercept_keeps_its_meaning():
    x, _, y = counts()
    expected, _ = fitted(y, x, torch.float64)
    found, _ = fitted(y, x, torch.float32)
    assert found.objective == pytest.approx(expected.objective, rel=1e-6)
    # The objective is the loss of SVI at the same parameters.
    model = pef.ExpFamPCA(F.Poisson(), 5, 1, num_covariates=2).double()
    guide = pef.DEQMAPGuide(model)
    fit = guide.fit(y, covariates=x, num_starts=2, tol=1e-10)
    loss = pyro.infer.Trace_ELBO().loss(model, guide, y, covariates=x)
    assert fit.objective == pytest.approx(loss, rel=1e-8)


def test_a_fit_out_of_time_makes_no_posterior():
    x, _, y = counts()
    model = pef.ExpFamPCA(F.Poisson(), 5, 1, num_covariates=2, **FLAT).double()
    guide = pef.LaplaceGuide(model, globals="laplace")
    guide.fit(y, covariates=x, max_time=1e-9)
    with pytest.raises(RuntimeError, match="no posterior of loading and intercept"):
        guide.coefficients  # noqa: B018
    guide.update_globals(y, covariates=x)
    assert guide.coefficients.mode.shape == (5, 4)
