"""The parts of the variance of columns that latents, covariates and row effects explain."""

import pytest
import torch

import pyro_expfam as pef

F = pef.families
NUM_ROWS, NUM_FEATURES = 200, 4


def fitted(family, y, x=None, **settings):
    num_covariates = 0 if x is None else x.shape[1]
    model = pef.ExpFamPCA(family, NUM_FEATURES, 1, num_covariates=num_covariates, **settings)
    guide = pef.LaplaceGuide(model.double())
    guide.fit(y, covariates=x)
    return guide


def linear_predictors():
    x, effect = torch.randn(NUM_ROWS, 1).double(), 0.5 * torch.randn(NUM_ROWS, 1).double()
    W = torch.linspace(0.2, 0.8, NUM_FEATURES).double()
    return x, torch.randn(NUM_ROWS, 1).double() * W + 0.5 * x + effect


def test_the_parts_of_a_gaussian_table_are_in_closed_form():
    x, eta = linear_predictors()
    y = eta + torch.randn_like(eta)
    guide = fitted(F.Gaussian(1.0), y, x, row_effect="random", row_effect_scale=0.5)
    found = pef.variance_shares(guide, covariates=x)
    h, C = guide.loading[:, 0], guide.covariate_coefficients[:, 0]
    parts = torch.stack([h**2, C**2 * x.var(correction=0), 0.25 * torch.ones(4), torch.ones(4)])
    parts = parts / parts.sum(0)
    ours = torch.stack([found.latents, found.covariates, found.row_effects, found.rest])
    torch.testing.assert_close(ours, parts)
    assert list(found.table.columns) == ["latents", "covariates", "row_effects", "rest"]
    torch.testing.assert_close(pef.communalities(guide, covariates=x), found.latents)


def test_the_parts_of_counts_are_those_of_rows_drawn_from_the_model():
    x, eta = linear_predictors()
    guide = fitted(F.Poisson(), torch.poisson(torch.exp(eta)), x)
    found = pef.variance_shares(guide, covariates=x)
    W, b, C = guide.loading, guide.intercept, guide.covariate_coefficients
    z = torch.randn(4000, NUM_ROWS, 1).double()
    mean = torch.exp(z @ W.T + b + x @ C.T)
    total = mean.var((0, 1)) + mean.mean((0, 1))
    of_latents = mean.var(0).mean(0) / total
    torch.testing.assert_close(found.latents, of_latents, rtol=0.05, atol=0.0)
    torch.testing.assert_close(found.covariates, mean.mean(0).var(0) / total, rtol=0.05, atol=0.0)


def test_bad_arguments_are_refused():
    x, eta = linear_predictors()
    y = torch.poisson(torch.exp(eta))
    with pytest.raises(ValueError, match="covariates must have shape"):
        pef.variance_shares(fitted(F.Poisson(), y, x), covariates=torch.ones(3, 2).double())
    with pytest.raises(ValueError, match="without fixed row effects"):
        pef.variance_shares(fitted(F.Poisson(), y, row_effect="fixed"))
