"""Covariates and weights in the comparison of numbers of latents, and row effects in compare."""

import pytest
import torch
from pyro.nn import PyroParam
from torch.distributions.constraints import positive

import pyro_expfam as pef
from pyro_expfam.selection.folds import folds

F = pef.families
NUM_ROWS, NUM_FEATURES = 80, 5


@pytest.fixture(autouse=True)
def in_double_precision():
    torch.set_default_dtype(torch.float64)


def table():
    x = torch.randn(NUM_ROWS, 2)
    C = torch.linspace(-1, 1, NUM_FEATURES)[:, None] * torch.tensor([[1.5, 0.7]])
    z, W = torch.randn(NUM_ROWS, 1), torch.randn(1, NUM_FEATURES)
    return x, z @ W + x @ C.T + torch.randn(NUM_FEATURES)


def test_held_out_rows_are_scored_with_coefficients_of_the_other_rows():
    x, eta = table()
    y = eta + torch.randn(NUM_ROWS, NUM_FEATURES)
    weights = torch.randint(1, 3, (NUM_ROWS, NUM_FEATURES)).double()
    family = F.Gaussian(1.0)
    found = pef.compare_latent_dims(
        family, y, [1], weights=weights, covariates=x, num_folds=2
    ).rows[0]
    expected = 0.0
    for train, test in folds(NUM_ROWS, 2, torch.device("cpu")):
        model = pef.ExpFamPCA(
            family, NUM_FEATURES, 1, loading_scale=found.loading_scale, num_covariates=2
        )
        guide = pef.LaplaceGuide(model)
        guide.fit(y[train], weights=weights[train], covariates=x[train], tol=1e-10)
        rows = {"weights": weights[test], "covariates": x[test]}
        expected += float(guide.log_evidence(y[test], **rows, order=2).detach().sum())
    assert found.held_out == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize("hold_out", ["rows", "entries"])
def test_covariates_take_the_place_of_latents(hold_out):
    x, eta = table()
    y = eta + torch.randn(NUM_ROWS, NUM_FEATURES)
    settings = {"num_folds": 2, "hold_out": hold_out}
    family = F.Gaussian(1.0)
    found = pef.compare_latent_dims(family, y, [1], covariates=x, **settings)
    # Covariates of one direction look like one more latent.
    without = pef.compare_latent_dims(family, y, [1, 2, 3], **settings)
    assert without.one_standard_error == 2
    assert found.rows[0].held_out > without.rows[1].held_out


def test_learnt_noise_is_learnt_beside_covariates():
    x, eta = table()
    y = 3 * (eta + torch.randn(NUM_ROWS, NUM_FEATURES))
    found = pef.compare_latent_dims(F.Gaussian(), y, [1], covariates=x, num_folds=2)
    without = pef.compare_latent_dims(F.Gaussian(), y, [1], num_folds=2)
    assert found.rows[0].held_out > without.rows[0].held_out


@pytest.mark.slow
def test_learnt_sizes_are_learnt_beside_covariates():
    x, eta = table()
    counts = F.NegativeBinomial(2.0).sample(eta[:40, :3].clamp(max=3))
    family = F.NegativeBinomial("shared")
    found = pef.compare_latent_dims(family, counts, [1], covariates=x[:40], num_folds=2)
    assert found.rows[0].held_out < 0


def test_covariates_that_determine_one_another_are_named():
    x, eta = table()
    y = torch.poisson(torch.exp(eta.clamp(max=3)))
    twice = torch.cat([x, x[:, :1]], 1)
    with pytest.warns(UserWarning, match="covariate 2 is a multiple of covariate 0"):
        pef.compare_latent_dims(F.Poisson(), y, [1], covariates=twice, num_folds=2)


def test_compare_holds_out_entries_of_categories_beside_covariates():
    x, eta = table()
    x, eta = x[:40], eta[:40, :3]
    y = (eta + torch.randn(40, 3) > 0).long()
    families = {"categories": F.Categorical(2)}
    settings = {"latent_dims": [1], "num_folds": 2, "hold_out": "entries"}
    found = pef.compare(families, y, covariates=x, **settings).rows[0]
    assert not found.failed
    assert -40 * 3 * 3 < found.held_out < 0


@pytest.mark.slow
def test_compare_takes_random_row_effects():
    W = torch.tensor([[1.0, 0.5, -0.5, -1.0]])
    y = torch.poisson(torch.exp(torch.randn(30, 1) @ W + 0.7 * torch.randn(30, 1) + 1))

    def with_effects(kind):
        def block(latent_dim):
            settings = {"row_effect": kind}
            if kind == "random":
                scale = PyroParam(torch.tensor(0.7), constraint=positive)
                settings["row_effect_scale"] = scale
            return pef.ExpFamPCA(F.Poisson(), 4, latent_dim, **settings)

        return block

    families = {"plain": F.Poisson(), "row effects": with_effects("random")}
    plain, effects = pef.compare(families, y, [1], num_folds=2, hold_out="entries").rows
    assert not effects.failed
    assert effects.parameters == plain.parameters + 1
    assert effects.held_out > plain.held_out
    with pytest.raises(ValueError, match="without fixed row effects"):
        pef.compare({"fixed": with_effects("fixed")}, y, [1])
