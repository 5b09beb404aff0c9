"""Covariates wherever a table goes in: SVI, posteriors, reports, predictions, files and errors."""

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import torch
from pyro.infer import Predictive, Trace_ELBO
from pyro.nn import PyroModule

import pyro_expfam as pef

F = pef.families
NUM_ROWS, NUM_FEATURES = 70, 4


@pytest.fixture(autouse=True)
def in_double_precision():
    torch.set_default_dtype(torch.float64)


def frames():
    x = torch.randn(NUM_ROWS, 2)
    eta = torch.randn(NUM_ROWS, 1) @ torch.randn(1, NUM_FEATURES) / 2
    y = torch.poisson(torch.exp(eta + x @ torch.randn(2, NUM_FEATURES) / 2))
    rows = [f"r{k}" for k in range(NUM_ROWS)]
    names = [f"g{k}" for k in range(NUM_FEATURES)]
    covariates = pd.DataFrame(x.numpy(), rows, ["age", "dose"])
    return pd.DataFrame(y.numpy(), rows, names), covariates


def fitted(y, x, **settings):
    model = pef.ExpFamPCA(F.Poisson(), NUM_FEATURES, 1, num_covariates=2, **settings)
    guide = pef.LaplaceGuide(model, globals="laplace")
    guide.fit(y, covariates=x)
    return guide


def test_the_objective_of_a_fit_is_the_loss_of_svi():
    y, x = (torch.as_tensor(frame.to_numpy().copy()) for frame in frames())
    model = pef.ExpFamPCA(F.Poisson(), NUM_FEATURES, 1, num_covariates=2)
    guide = pef.DEQMAPGuide(model)
    fit = guide.fit(y, covariates=x)
    loss = Trace_ELBO().loss(model, guide, y, covariates=x)
    assert fit.objective == pytest.approx(loss, rel=1e-10)
    evidence = pef.LaplaceEvidence()
    fit = guide.fit(y, covariates=x, loss=evidence)
    found = evidence.loss(model, guide, y, covariates=x)
    assert fit.objective == pytest.approx(found, rel=1e-10)


def test_svi_steps_on_batches_add_up_to_the_gradient_of_the_table():
    y, x = (torch.as_tensor(frame.to_numpy().copy()) for frame in frames())
    model = pef.ExpFamPCA(F.Poisson(), NUM_FEATURES, 1, num_covariates=2)
    guide = pef.DEQMAPGuide(model)
    guide.fit(y, covariates=x, tol=1e-13)
    parameter = guide.global_guide.coefficients

    def gradient(part):
        loss = Trace_ELBO().differentiable_loss(
            model, guide, y[part], covariates=x[part], num_rows=NUM_ROWS
        )
        return torch.autograd.grad(loss, parameter)[0]

    at_rest = gradient(slice(None))
    torch.testing.assert_close(at_rest, torch.zeros_like(at_rest), rtol=0.0, atol=1e-3)
    with torch.no_grad():
        parameter += 0.3
    halves = (gradient(slice(0, 35)) + gradient(slice(35, 70))) / 2
    torch.testing.assert_close(halves, gradient(slice(None)))
    step = torch.zeros_like(parameter)
    step[1, 0] = 1e-5
    losses = []
    for direction in (step, -2 * step):
        with torch.no_grad():
            parameter += direction
        losses.append(Trace_ELBO().loss(model, guide, y, covariates=x))
    slope = (losses[0] - losses[1]) / 2e-5
    with torch.no_grad():
        parameter += step
    assert slope == pytest.approx(float(gradient(slice(None))[1, 0]), rel=1e-5)


def test_a_model_with_several_tables_fits_the_coefficients_of_each():
    y, x = (torch.as_tensor(frame.to_numpy().copy()) for frame in frames())

    class TwoTables(PyroModule):
        def __init__(self):
            super().__init__()
            self.genes = pef.ExpFamPCA(F.Poisson(), 2, 1, num_covariates=2)
            self.others = pef.ExpFamPCA(F.Poisson(), 2, 1, num_covariates=2)

        def forward(self, first, second, x):
            z = self.genes(first, covariates=x)
            return self.others(second, covariates=x, z=z)

    guide = pef.LaplaceGuide(TwoTables())
    guide.fit(y[:, :2], y[:, 2:], x, tol=1e-12)
    whole = pef.LaplaceGuide(pef.ExpFamPCA(F.Poisson(), 4, 1, num_covariates=2))
    whole.fit(y, covariates=x, tol=1e-12)
    found = [guide.block(name).covariate_coefficients for name in ("genes", "others")]
    torch.testing.assert_close(torch.cat(found), whole.covariate_coefficients, rtol=0.0, atol=1e-3)
    with pytest.raises(ValueError, match="no covariates where several tables"):
        pef.check(guide.model, guide, y[:, :2], y[:, 2:], x)


def test_containers_name_coefficients_by_column_and_covariate():
    y, x = frames()
    guide = fitted(y, x)
    idata = pef.to_arviz(guide.model, guide, y, covariates=x, num_samples=30)
    found = idata["posterior"]["coefficients"]
    assert found.dims == ("chain", "draw", "feature", "covariate")
    assert list(found["covariate"].values) == ["age", "dose"]
    assert list(found["feature"].values) == list(y.columns)
    constant = idata["constant_data"]["covariates"]
    assert constant.dims == ("row", "covariate")
    np.testing.assert_allclose(constant.values, x.to_numpy())


def test_coefficients_have_intervals_and_quantiles():
    y, x = frames()
    guide = fitted(y, x)
    low, high = guide.coefficients.interval(0.9)
    assert low.shape == (NUM_FEATURES, 4)
    sites = guide.quantiles([0.05, 0.95], y, covariates=x)
    torch.testing.assert_close(sites["coefficients"], torch.stack([low, high])[..., 2:])
    assert guide.with_sandwich()(y, covariates=x)["coefficients"].shape == (NUM_FEATURES, 2)


def test_latents_explain_what_covariates_do_not():
    y, x = frames()
    guide = fitted(y, x)
    u = np.column_stack([np.ones(NUM_ROWS), x.to_numpy()])

    def best(column):
        def loss(theta):
            return (np.exp(u @ theta) - column * (u @ theta)).sum()

        return scipy.optimize.minimize(loss, np.zeros(3), method="BFGS").fun

    def minus_log_likelihood(eta):
        return (eta.exp() - torch.as_tensor(y.to_numpy()) * eta).sum()

    covariates = torch.as_tensor(x.to_numpy())
    eta = guide.latents(y, covariates=x).detach() @ guide.loading.T + guide.intercept
    eta = eta + covariates @ guide.covariate_coefficients.T
    largest = F.Poisson().deviance(torch.as_tensor(y.to_numpy()), eta).sum()
    null = largest + 2 * (sum(map(best, y.to_numpy().T)) - minus_log_likelihood(eta))
    found = pef.deviance_explained(guide, y, covariates=x)
    assert found == pytest.approx(float(1 - largest / null), rel=1e-6)
    by_part = pef.explained_deviance(guide, y, covariates=x)
    assert by_part.total == pytest.approx(found)


def test_reports_and_statistics_count_coefficients():
    y, x = frames()
    guide = fitted(y, x, loading_scale=None, intercept_scale=None, coefficient_scale=None)
    found = pef.fit_statistics(guide, y, covariates=x)
    assert found.degrees_of_freedom == NUM_FEATURES * 4
    evidence = guide.log_evidence(y, covariates=x).sum().item()
    assert found.log_likelihood == pytest.approx(evidence)
    text = str(pef.check(guide.model, guide, y, covariates=x))
    assert "loading and intercept are at an optimum of the evidence" in " ".join(text.split())
    with pytest.raises(ValueError, match="covariates must be numbers"):
        pef.communalities(guide)
    model = pef.ExpFamPCA(F.Poisson(), 3, 1, num_covariates=1)
    with pytest.raises(ValueError, match="covariates must be numbers"):
        pef.simulation_based_calibration(model, 20)


def test_predictions_follow_the_covariates():
    y, x = frames()
    guide = fitted(y, x)
    mask = y.notna()
    mask.iloc[:, 2] = False
    low, high = (
        pef.impute(guide, y, mask=mask, covariates=x.assign(age=value)).mean.mean()
        for value in (-1.0, 1.0)
    )
    slope = guide.covariate_coefficients[2, 0]
    assert torch.sign(high - low) == torch.sign(slope)
    found = pef.predict(guide, y, columns=["g2"], covariates=x)
    assert found.mean.shape == (NUM_ROWS, 1)


def test_files_and_encoders_keep_coefficients(tmp_path):
    y, x = frames()
    guide = fitted(y, x)
    guide.save(tmp_path / "fit.safetensors")
    loaded = pef.load(tmp_path / "fit.safetensors")
    torch.testing.assert_close(
        loaded.latents(y, covariates=x), guide.latents(y, covariates=x), rtol=0.0, atol=0.0
    )
    assert loaded.covariate_labels() == ["age", "dose"]
    torch.testing.assert_close(loaded.coefficients.mean, guide.coefficients.mean)
    values, covariates = (torch.as_tensor(frame.to_numpy().copy()) for frame in (y, x))
    encoder = pef.DEQEncoder(guide)
    encoder(values, covariates=covariates).square().sum().backward()
    assert encoder.coefficients.grad.abs().max() > 0
    with torch.no_grad():
        encoder.coefficients += 0.1
    moved = encoder.to_guide().latents(values, covariates=covariates)
    torch.testing.assert_close(moved, encoder(values, covariates=covariates))


def test_a_block_draws_tables_with_covariates():
    model = pef.ExpFamPCA(F.Gaussian(1.0), 3, 1, num_covariates=1, coefficient_scale=5.0)
    x = torch.linspace(-1, 1, 50)[:, None]
    drawn = Predictive(model, num_samples=200)(covariates=x)
    assert drawn["y"].shape == (200, 50, 3)
    ends = drawn["y"][:, -1] - drawn["y"][:, 0]
    spread = (2 * drawn["coefficients"][:, 0, :, 0]).var()
    assert ends.var() > spread


BAD = [
    ({}, ValueError, "covariates must be numbers.*got None"),
    ({"covariates": np.ones((5, 2))}, ValueError, "a row for each of the 70 rows of y, got 5"),
    ({"covariates": np.ones((NUM_ROWS, 3))}, ValueError, r"must have shape \(70, 2\)"),
    ({"covariates": np.full((NUM_ROWS, 2), np.nan)}, ValueError, "finite; a covariate has no miss"),
    ({"covariates": [["a", "b"]] * NUM_ROWS}, TypeError, "covariates must hold real numbers"),
]


@pytest.mark.parametrize(("given", "error", "message"), BAD)
def test_covariates_that_do_not_fit_are_refused(given, error, message):
    y, _ = frames()
    model = pef.ExpFamPCA(F.Poisson(), NUM_FEATURES, 1, num_covariates=2)
    with pytest.raises(error, match=message):
        pef.LaplaceGuide(model).fit(y, **given)


def test_frames_of_covariates_are_taken_by_name():
    y, x = frames()
    guide = fitted(y, x)
    with pytest.raises(ValueError, match="in the order that the guide was trained on, got 'dose'"):
        guide.latents(y, covariates=x[["dose", "age"]])
    with pytest.raises(ValueError, match="a frame without 'age' and with 'size'"):
        guide.latents(y, covariates=x.rename(columns={"age": "size"}))
    with pytest.raises(ValueError, match="got 'r69' where y has 'r0' at position 0"):
        guide.latents(y, covariates=x[::-1])
    hole = x.copy()
    hole.iloc[2, 0] = np.nan
    with pytest.raises(ValueError, match="row 'r2', column 'age'"):
        guide.latents(y, covariates=hole)


@pytest.mark.parametrize("scale", [1.0, None])
def test_covariates_that_determine_one_another_are_named(scale):
    y, x = frames()
    groups = pd.get_dummies(pd.Series(["a", "b"] * 35, x.index), dtype=float)
    x = pd.concat([groups, 2 * x["age"].rename("double"), x["age"]], axis=1)
    model = pef.ExpFamPCA(
        F.Poisson(),
        NUM_FEATURES,
        1,
        num_covariates=4,
        intercept_scale=scale,
        coefficient_scale=scale,
    )
    message = (
        "'b' is a linear combination of the intercept and 'a'; 'age' is a multiple of 'double'"
    )
    if scale is None:
        with pytest.raises(ValueError, match=message):
            pef.LaplaceGuide(model).fit(y, covariates=x)
    else:
        with pytest.warns(UserWarning, match=message):
            pef.LaplaceGuide(model).fit(y, covariates=x)


def test_a_covariate_far_from_zero_is_to_be_centred():
    y, x = frames()
    far = x.assign(age=2010 + 5 * x["age"])
    model = pef.ExpFamPCA(F.Poisson(), NUM_FEATURES, 1, num_covariates=2)
    with pytest.warns(UserWarning, match=r"'age' has the mean 20\d\d .*Centre it"):
        pef.LaplaceGuide(model).fit(y, covariates=far)
    flat = pef.ExpFamPCA(F.Poisson(), NUM_FEATURES, 1, num_covariates=2, intercept_scale=None)
    pef.LaplaceGuide(flat).fit(y, covariates=far)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_covariates": -1}, "num_covariates must be a whole number"),
        ({"num_covariates": 1.0}, "num_covariates must be a whole number"),
        ({"coefficient_scale": 2.0}, "coefficient_scale must be left out without covariates"),
        ({"num_covariates": 2, "coefficient_scale": "wide"}, "'weak' for a quarter"),
        (
            {"num_covariates": 2, "coefficient_scale": torch.ones(3)},
            "coefficient_scale must have sh",
        ),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        pef.ExpFamPCA(F.Poisson(), 3, 1, **settings)
