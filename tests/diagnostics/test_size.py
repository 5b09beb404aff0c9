"""The size of a container, which groups it has, and the precision of its log likelihoods."""

import arviz as az
import numpy as np
import pyro
import pytest
import torch
from quick_cases import in_turn

import pyro_expfam as pef
from pyro_expfam.diagnostics.container import datasets

DRAWN = ("posterior", "posterior_predictive", "log_likelihood", "prior", "prior_predictive")


@pytest.fixture
def y():
    return torch.poisson(torch.full((30, 12), 2.0))


@pytest.fixture
def guide(y):
    guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 12, 3))
    guide(y)
    return guide


def convert(guide, *args, **settings):
    pyro.set_rng_seed(0)
    return pef.to_arviz(guide.model, guide, *args, **settings)


def nbytes(dataset):
    """The bytes of draws, variables and coordinates alike."""
    arrays = [*dataset.data_vars.values(), *dataset.coords.values()]
    return sum(array.nbytes for array in arrays if array.dims[:2] == ("chain", "draw"))


@pytest.mark.parametrize(
    ("masked", "dtype", "double", "groups"),
    in_turn(
        [False, True],
        ["float64", "float32"],
        [True, False],
        [DRAWN, ("log_likelihood", "predictions", "posterior")],
    ),
)
def test_the_size_is_that_of_the_arrays(y, masked, dtype, double, groups):
    model = pef.ExpFamPCA(pef.families.Poisson(), 12, 3)
    if double:
        model, y = model.double(), y.double()
    mask = torch.rand(30, 12) < 0.8
    mask[3] = False
    guide = pef.LaplaceGuide(model)
    settings = {"groups": groups, "log_likelihood_dtype": dtype, "num_samples": 7}
    if masked:
        settings["mask"] = mask
    idata = convert(guide, y, **settings)
    size = sum(nbytes(dataset) for dataset in datasets(idata).values())
    assert size > 7 * 360 * (4 if dtype == "float32" else 8) * (0.5 if masked else 1)
    convert(guide, y, max_gigabytes=size / 1e9, **settings)
    with pytest.raises(ValueError, match="max_gigabytes"):
        convert(guide, y, max_gigabytes=(size - 1) / 1e9, **settings)


def test_a_large_table_is_refused_with_its_size_and_the_cures():
    y = torch.ones(50_000, 500)

    def model(y):
        with pyro.plate("row", len(y)):
            law = pyro.distributions.Poisson(torch.ones(500).expand(y.shape), validate_args=False)
            pyro.sample("y", law.to_event(1), obs=y)

    with pytest.raises(ValueError, match="would take 400 GB") as error:
        pef.to_arviz(model, lambda y: None, y)
    for text in ("max_gigabytes=4:", "log_likelihood 200 GB", "prior_predictive 100 GB"):
        assert text in str(error.value)
    for cure in ("num_samples=", "groups=", "log_likelihood_dtype='float32'", "some of the rows"):
        assert cure in str(error.value)


def test_groups_are_chosen_and_nothing_else_is_computed(y, guide, monkeypatch):
    def unwanted(*args, **kwargs):
        raise AssertionError("not asked for")

    monkeypatch.setattr(guide, "sample_stats", unwanted)
    groups = ["observed_data", "posterior"]
    idata = convert(guide, y, num_samples=5, groups=groups, coords={"latent": list("abc")})
    assert set(datasets(idata)) == set(groups)
    with pytest.raises(AssertionError):
        convert(guide, y, num_samples=5, groups=["sample_stats"])


@pytest.mark.parametrize(
    "group", [*DRAWN, "sample_stats", "predictions", "observed_data", "constant_data"]
)
def test_a_group_alone_has_its_variables(y, guide, group):
    mask = torch.ones(30, 12, dtype=torch.bool)
    mask[2, 5] = False
    whole = datasets(convert(guide, y, mask=mask, num_samples=5))[group]
    alone = datasets(convert(guide, y, mask=mask, num_samples=5, groups=[group]))
    assert set(alone) == {group}
    assert set(alone[group].variables) == set(whole.variables)
    assert alone[group].sizes == whole.sizes


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_log_likelihoods_in_single_precision_are_near_and_without_ties(y):
    y[:, :3] = 0.0
    model = pef.ExpFamPCA(pef.families.Poisson(), 12, 3, loading_scale=None, intercept_scale=None)
    with torch.no_grad():
        model.loading[:3] = 0.003
        model.intercept[:3] = torch.tensor([-7.0, -9.0, -25.0])
    guide = pef.LaplaceGuide(model)
    guide(y)
    exact = convert(guide, y, num_samples=200)["log_likelihood"]
    single = convert(guide, y, num_samples=200, log_likelihood_dtype=torch.float32)
    for name in ("y", "y_row", "y_marginal"):
        found = single["log_likelihood"][name]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, exact[name], rtol=1e-5, atol=1e-5)
    assert float(abs(exact["y"][..., 2]).max()) < 1e-9
    loo = az.loo(single, pointwise=True)
    pointwise = loo.loo_i if az.__version__.startswith("0.") else loo.elpd_i
    assert np.isfinite(np.asarray(pointwise)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": ["posteriors"]}, r"groups must be a list of names among .*\['posteriors'\]"),
        ({"groups": "posterior"}, "groups must be a list of names among .* got 'posterior'"),
        ({"log_likelihood_dtype": "float16"}, "log_likelihood_dtype must be .* got 'float16'"),
        ({"log_likelihood_dtype": torch.int32}, "log_likelihood_dtype must be .* got torch.int32"),
    ],
)
def test_bad_arguments_are_named(y, guide, settings, message):
    with pytest.raises(ValueError, match=message):
        convert(guide, y, num_samples=3, **settings)
