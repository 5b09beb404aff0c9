"""What ArviZ, of either line, makes of a converted posterior."""

import warnings

import arviz as az
import matplotlib
import matplotlib.pyplot
import numpy as np
import pytest
import scipy.special
import torch
from pyro.infer.autoguide import AutoNormal

import pyro_expfam as pef

matplotlib.use("Agg")

FIRST_LINE = az.__version__.startswith("0.")


@pytest.fixture(scope="module")
def idata():
    torch.manual_seed(0)
    y = torch.poisson(torch.full((20, 6), 2.0))
    model = pef.ExpFamPCA(pef.families.Poisson(), 6, 2, loading_scale=0.3)
    guide = pef.LaplaceGuide(model)
    guide(y)
    mask = torch.ones(20, 6, dtype=torch.bool)
    mask[3, 2] = False
    return pef.to_arviz(model, guide, y, mask=mask, num_samples=400)


@pytest.fixture(autouse=True)
def quiet():
    """ArviZ warns of too few draws and chains, which is not what is tested here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        yield
    matplotlib.pyplot.close("all")


def elpd(result):
    return float(result.elpd_loo if FIRST_LINE else result.elpd)


def test_the_likelihood_of_weighted_entries_is_weighted():
    y, weights = torch.poisson(torch.full((20, 6), 2.0)), 2 * torch.rand(20, 6)
    model = pef.ExpFamPCA(pef.families.Poisson(), 6, 2, loading_scale=0.3)
    guide = pef.LaplaceGuide(model)
    guide(y)
    found = pef.to_arviz(model, guide, y, weights=weights, num_samples=5)
    z, W = (torch.as_tensor(found["posterior"][name].values[0]) for name in ("z", "loading"))
    log_prob = torch.distributions.Poisson((z @ W.mT).exp()).log_prob(y)
    np.testing.assert_allclose(
        found["log_likelihood"]["y"].values[0], weights * log_prob, rtol=1e-4, atol=1e-5
    )
    assert found["constant_data"]["weights"].shape == (20, 6)


@pytest.mark.parametrize("name", ["y_present", "y_row", "y_marginal"])
def test_loo_takes_entries_and_rows(idata, name):
    found = elpd(az.loo(idata, var_name=name))
    log_likelihood = idata["log_likelihood"][name].values[0]
    # With hardly any influence of one observation, close to the mean predictive density.
    naive = -scipy.special.logsumexp(-log_likelihood, axis=0) + np.log(len(log_likelihood))
    assert found == pytest.approx(naive.sum(), rel=0.02)


def test_loo_of_rows_without_their_latents_is_the_evidence_at_a_point_estimate(idata):
    result = az.loo(idata, var_name="y_marginal", pointwise=True)
    marginal = idata["log_likelihood"].coords["y_marginal"].values[0]
    pointwise = np.asarray(result.loo_i if FIRST_LINE else result.elpd_i)
    np.testing.assert_allclose(pointwise, marginal[0], atol=1e-6)
    assert np.asarray(result.pareto_k).max() < 0.5


def test_loo_of_rows_accounts_for_a_loading_fitted_to_them():
    torch.manual_seed(0)
    family, draws = pef.families.Gaussian(1.0), 2000
    y = torch.randn(12, 3).double()
    model = pef.ExpFamPCA(family, 3, 1, loading_scale=0.3, intercept_scale=1.0).double()
    # With a loading of nearly zero, rows are normal with an unknown mean.
    model.loading_scale.fill_(1e-6)
    precision = len(y) + 1.0
    mean, sd = y.sum(0) / precision, precision**-0.5

    guide = pef.LaplaceGuide(model, global_guide=AutoNormal)
    guide(y)
    guide.double()
    with torch.no_grad():
        guide.global_guide.locs.intercept.copy_(mean)
        guide.global_guide.scales.intercept = torch.full((3,), sd).double()
        guide.global_guide.locs.loading.zero_()
        guide.global_guide.scales.loading = torch.full((3, 1), 1e-6).double()
    found = az.loo(pef.to_arviz(model, guide, y, num_samples=draws), var_name="y_marginal")
    without = precision - 1
    law = torch.distributions.Normal((mean * precision - y) / without, (1 + 1 / without) ** 0.5)
    assert elpd(found) == pytest.approx(float(law.log_prob(y).sum()), abs=0.3)
    in_sample = torch.distributions.Normal(mean, (1 + sd**2) ** 0.5).log_prob(y).sum()
    assert elpd(found) < float(in_sample) - 1.0


def test_loo_takes_the_entries_by_default(idata):
    assert elpd(az.loo(idata)) == elpd(az.loo(idata, var_name="y_present"))


def test_loo_of_nearly_certain_entries_is_a_number():
    y = torch.poisson(torch.full((20, 6), 2.0))
    y[:, :3] = 0.0
    model = pef.ExpFamPCA(pef.families.Poisson(), 6, 2, loading_scale=None, intercept_scale=None)
    with torch.no_grad():
        model.loading[:3] = 0.003
        model.intercept[:3] = torch.tensor([-7.0, -9.0, -25.0])
    guide = pef.LaplaceGuide(model)
    certain = az.loo(pef.to_arviz(model, guide, y, num_samples=400), pointwise=True)
    pointwise = np.asarray(certain.loo_i if FIRST_LINE else certain.elpd_i)
    assert np.isfinite(pointwise).all()
    rate = np.exp([-7.0, -9.0, -25.0])
    np.testing.assert_allclose(pointwise[:, :3], np.tile(-rate, (20, 1)), rtol=0.02, atol=1e-9)


def test_a_saved_container_is_read_back_unchanged(idata, tmp_path):
    path = tmp_path / "posterior.nc"
    idata.to_netcdf(path)
    again = az.from_netcdf(path)
    for group in ("posterior", "prior", "log_likelihood", "sample_stats", "observed_data"):
        for name, values in idata[group].data_vars.items():
            np.testing.assert_array_equal(again[group][name].values, values.values)
            assert again[group][name].dims == values.dims
    assert elpd(az.loo(again, var_name="y_row")) == elpd(az.loo(idata, var_name="y_row"))


def test_summary_has_the_moments_of_the_draws(idata):
    summary = az.summary(idata, var_names=["z"], kind="stats", round_to=6)
    assert len(summary) == 40
    mean = idata["posterior"]["z"].values[0].mean(0).ravel()
    np.testing.assert_allclose(summary["mean"].astype(float), mean, atol=2e-6)


PLOTS = (
    [
        ("plot_forest", {}),
        ("plot_ppc", {"num_pp_samples": 20}),
        ("plot_loo_pit", {"y": "y_present"}),
    ]
    if FIRST_LINE
    else [("plot_forest", {}), ("plot_ppc_dist", {}), ("plot_loo_pit", {"var_names": "y_present"})]
)


@pytest.mark.filterwarnings("ignore")  # of the plotting libraries, about each other
@pytest.mark.parametrize(("plot", "settings"), PLOTS)
def test_plots_draw_finite_lines(idata, plot, settings, monkeypatch):
    if FIRST_LINE:
        # It compiles its histograms where it finds Numba, which takes longer than all plots.
        monkeypatch.setattr(az.Numba, "numba_flag", False)
    getattr(az, plot)(idata, **settings)
    lines = [line for axes in matplotlib.pyplot.gcf().axes for line in axes.lines]
    assert lines
    assert any(np.isfinite(line.get_ydata()).all() and len(line.get_ydata()) for line in lines)
