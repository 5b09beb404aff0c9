"""From a model and its guide to ArviZ: what is in the groups, against computations by hand."""

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoNormal
from pyro.nn import PyroModule

import pyro_expfam as pef

DRAWS = 20


def counts(num_rows=12, num_features=5):
    return torch.poisson(torch.full((num_rows, num_features), 2.0, dtype=torch.float64))


def poisson_block(num_features=5, **settings):
    """A block whose intercept is a point parameter, unless settings give it a prior."""
    settings = {"intercept_scale": None, **settings}
    return pef.ExpFamPCA(pef.families.Poisson(), num_features, 2, **settings).double()


def laplace(model, *args, **kwargs):
    guide = pef.LaplaceGuide(model).double()
    guide(*args, **kwargs)
    return guide.double()


def draws_of(idata, group, name):
    return np.asarray(idata[group][name])[0]


def natural_params(idata, block):
    W, z = draws_of(idata, "posterior", "loading"), draws_of(idata, "posterior", "z")
    return z @ np.swapaxes(W, -1, -2) + block.intercept.detach().numpy()


class TestBlock:
    """A block with its Laplace guide."""

    @pytest.fixture
    def y(self):
        return counts()

    @pytest.fixture
    def model(self):
        return poisson_block()

    @pytest.fixture
    def idata(self, model, y):
        return pef.to_arviz(model, laplace(model, y), y, num_samples=DRAWS)

    def test_dimensions_are_named(self, idata):
        dims = {
            group: {name: array.dims for name, array in idata[group].data_vars.items()}
            for group in ("posterior", "prior", "posterior_predictive", "prior_predictive")
        }
        latents = {
            "loading": ("chain", "draw", "feature", "latent"),
            "z": ("chain", "draw", "row", "latent"),
        }
        table = {"y": ("chain", "draw", "row", "feature")}
        assert dims == {
            "posterior": latents,
            "prior": latents,
            "posterior_predictive": table,
            "prior_predictive": table,
        }
        assert dict(idata["posterior"].sizes) == {
            "chain": 1,
            "draw": DRAWS,
            "feature": 5,
            "latent": 2,
            "row": 12,
        }

    def test_log_likelihood_is_of_the_posterior_draws(self, idata, model, y):
        expected = scipy.stats.poisson.logpmf(y.numpy(), np.exp(natural_params(idata, model)))
        np.testing.assert_allclose(draws_of(idata, "log_likelihood", "y"), expected, rtol=1e-9)
        rows = idata["log_likelihood"]["y_row"]
        assert rows.dims == ("chain", "draw", "row")
        np.testing.assert_allclose(np.asarray(rows)[0], expected.sum(-1), rtol=1e-9)

    def test_densities_are_those_of_the_elbo(self, idata, model, y):
        W, z = draws_of(idata, "posterior", "loading"), draws_of(idata, "posterior", "z")
        normal = scipy.stats.norm
        log_likelihood = draws_of(idata, "log_likelihood", "y").sum((1, 2))
        log_prior = normal.logpdf(W).sum((1, 2)) + normal.logpdf(z).sum((1, 2))
        lp = draws_of(idata, "sample_stats", "lp")
        np.testing.assert_allclose(lp, log_prior + log_likelihood, rtol=1e-9)

        guide = laplace(model, y)
        idata = pef.to_arviz(model, guide, y, num_samples=DRAWS)
        with torch.no_grad():
            posterior = guide.posterior(y)
        z = draws_of(idata, "posterior", "z")
        log_q = sum(
            scipy.stats.multivariate_normal.logpdf(z[:, row], mean, covariance)
            for row, (mean, covariance) in enumerate(
                zip(posterior.mean.numpy(), posterior.covariance_matrix.numpy(), strict=True)
            )
        )
        np.testing.assert_allclose(draws_of(idata, "sample_stats", "log_q"), log_q, rtol=1e-8)

    def test_latents_are_drawn_from_the_posterior(self, model, y):
        guide = laplace(model, y)
        idata = pef.to_arviz(model, guide, y, num_samples=4000, groups=["posterior"])
        z = draws_of(idata, "posterior", "z")
        with torch.no_grad():
            posterior = guide.posterior(y)
        sd = posterior.stddev.numpy()
        error = (z.mean(0) - posterior.mean.numpy()) / sd
        assert np.abs(error).max() < 5 / np.sqrt(4000)
        assert np.abs(z.std(0) / sd - 1).max() < 5 / np.sqrt(2 * 4000)

    def test_predictions_have_the_mean_of_the_law(self, model, y):
        groups = ["posterior", "posterior_predictive", "prior_predictive", "observed_data"]
        idata = pef.to_arviz(model, laplace(model, y), y, num_samples=4000, groups=groups)
        rate = np.exp(natural_params(idata, model))
        error = draws_of(idata, "posterior_predictive", "y").mean(0) - rate.mean(0)
        assert np.abs(error / np.sqrt(rate.mean(0) / 4000)).max() < 5
        assert not np.array_equal(
            draws_of(idata, "prior_predictive", "y")[0], idata["observed_data"]["y"]
        )

    def test_observations_and_convergence_are_in_it(self, idata, y):
        np.testing.assert_array_equal(idata["observed_data"]["y"], y)
        stats = idata["sample_stats"]
        assert stats["converged"].dims == ("row",)
        assert bool(stats["converged"].all())
        assert {"num_iter", "residual"} <= set(stats.data_vars)

    def test_marginals_are_the_evidence_of_rows(self, idata, model, y):
        rows = idata["log_likelihood"].coords["y_marginal"]
        assert rows.dims == ("chain", "draw", "row")
        W = torch.tensor(draws_of(idata, "posterior", "loading")[0])
        expected = pef.log_evidence(model.family, y, W, model.intercept, order=2)
        np.testing.assert_allclose(
            rows.values[0], np.tile(expected.detach(), (DRAWS, 1)), rtol=1e-9
        )

    def test_marginals_are_of_each_draw_of_the_loading(self, model, y):
        guide = pef.LaplaceGuide(model, global_guide=AutoNormal).double()
        guide(y)
        idata = pef.to_arviz(model, guide.double(), y, num_samples=DRAWS)
        W = torch.tensor(draws_of(idata, "posterior", "loading"))
        expected = pef.log_evidence(model.family, y, W, model.intercept, order=2)
        found = draws_of(idata, "log_likelihood", "y_marginal")
        np.testing.assert_allclose(found, expected.detach(), rtol=1e-8)
        assert found.std(0).min() > 1e-3

    def test_how_normal_posteriors_are_is_in_it(self, model, y):
        guide = laplace(model, y)
        stats = pef.to_arviz(model, guide, y, num_samples=3)["sample_stats"]
        arguments = (model.family, y, guide.loading, guide.intercept)
        term = pef.log_evidence(*arguments, order=2) - pef.log_evidence(*arguments)
        np.testing.assert_allclose(stats["second_order_term"], term, atol=1e-9)
        shift = pef.evidence.posterior_mean(*arguments) - guide.latents(y).detach()
        np.testing.assert_allclose(stats["mean_shift"], shift, atol=1e-9)
        assert stats["mean_shift"].dims == ("row", "latent")
        assert stats["khat"].dims == ("row",)
        assert float(stats["khat"].max()) < 0.8

    def test_a_point_guide_says_nothing_of_normality(self, model, y):
        guide = pef.DEQMAPGuide(model).double()
        guide(y)
        idata = pef.to_arviz(model, guide.double(), y, num_samples=3)
        assert "khat" not in idata["sample_stats"]
        assert "y_marginal" in idata["log_likelihood"].coords

    def test_scale_of_a_minibatch_is_in_the_densities_alone(self, model, y):
        guide = laplace(model, y)
        pyro.set_rng_seed(1)
        whole = pef.to_arviz(model, guide, y, num_samples=DRAWS)
        pyro.set_rng_seed(1)
        batch = pef.to_arviz(model, guide, y, num_samples=DRAWS, num_rows=120)
        np.testing.assert_allclose(
            draws_of(batch, "log_likelihood", "y"), draws_of(whole, "log_likelihood", "y")
        )
        np.testing.assert_allclose(
            draws_of(batch, "sample_stats", "log_q"), 10 * draws_of(whole, "sample_stats", "log_q")
        )
        assert float(batch["constant_data"]["num_rows"]) == 120

    def test_other_arguments_are_constant_data(self, model, y):
        offset, mask = torch.randn(12, 1), torch.rand(12, 5) < 0.7
        guide = laplace(model, y, offset, mask=mask)
        constant = pef.to_arviz(model, guide, y, offset, mask=mask, num_samples=3)["constant_data"]
        assert set(constant.data_vars) == {"offset", "mask"}
        np.testing.assert_array_equal(constant["offset"], offset)
        assert constant["mask"].dims == ("row", "feature")


class TestMissingEntries:
    """A table with a mask."""

    MASK = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])

    @pytest.fixture
    def y(self):
        return torch.tensor([[1.0, float("nan"), 3.0], [0.0, 0.0, 0.0], [4.0, 5.0, 6.0]]).double()

    @pytest.fixture
    def idata(self, y):
        model = poisson_block(3)
        guide = laplace(model, y, mask=self.MASK)
        self.model = model
        return pef.to_arviz(model, guide, y, mask=self.MASK, num_samples=DRAWS)

    def test_the_table_keeps_its_shape(self, idata, y):
        observed = idata["observed_data"]["y"]
        assert observed.dims == ("row", "feature")
        np.testing.assert_array_equal(observed, y.where(self.MASK, torch.nan))
        for group in ("posterior_predictive", "prior_predictive"):
            predicted = idata[group]["y"]
            assert predicted.dims == ("chain", "draw", "row", "feature")
            np.testing.assert_array_equal(
                np.isfinite(predicted.values), np.broadcast_to(self.MASK, (1, DRAWS, 3, 3))
            )
        assert set(idata["prior_predictive"].data_vars) == {"y"}
        assert set(idata["observed_data"].data_vars) == {"y", "y_present"}

    def test_present_entries_are_listed_with_their_places(self, idata):
        for group in ("observed_data", "log_likelihood", "posterior_predictive"):
            listed = idata[group]["y_present"]
            assert listed.dims[-1] == "y_entry"
            assert listed["y_entry_row"].values.tolist() == [0, 0, 2, 2, 2]
            assert listed["y_entry_feature"].values.tolist() == [0, 2, 0, 1, 2]
        assert idata["observed_data"]["y_present"].values.tolist() == [1, 3, 4, 5, 6]
        predicted = idata["posterior_predictive"]
        np.testing.assert_array_equal(
            predicted["y_present"], predicted["y"].values[..., self.MASK.numpy()]
        )

    def test_log_likelihood_is_of_present_entries(self, idata):
        rate = np.exp(natural_params(idata, self.model))[:, self.MASK.numpy()]
        expected = scipy.stats.poisson.logpmf([1, 3, 4, 5, 6], rate)
        found = draws_of(idata, "log_likelihood", "y_present")
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        assert set(idata["log_likelihood"].data_vars) == {"y_present"}

    def test_rows_without_an_entry_have_no_likelihood(self, idata):
        rows = idata["log_likelihood"]["y_row"]
        assert rows["y_row_entry_row"].values.tolist() == [0, 2]
        entries = draws_of(idata, "log_likelihood", "y_present")
        sums = np.stack([entries[:, :2].sum(1), entries[:, 2:].sum(1)], axis=1)
        np.testing.assert_allclose(np.asarray(rows)[0], sums)

    def test_rows_without_an_entry_have_no_marginal(self, idata, y):
        rows = idata["log_likelihood"].coords["y_marginal"]
        assert rows["y_marginal_entry_row"].values.tolist() == [0, 2]
        W = torch.tensor(draws_of(idata, "posterior", "loading")[0])
        expected = pef.log_evidence(
            self.model.family, y, W, self.model.intercept, mask=self.MASK, order=2
        )
        np.testing.assert_allclose(rows.values[0, 0], expected.detach()[[0, 2]], rtol=1e-9)

    def test_missing_entries_are_predicted(self, idata):
        missing = idata["predictions"]["y"]
        assert missing["y_entry_row"].values.tolist() == [0, 1, 1, 1]
        assert missing["y_entry_feature"].values.tolist() == [1, 0, 1, 2]
        assert missing.shape == (1, DRAWS, 4)
        assert np.isfinite(missing.values).all()

    def test_a_table_of_integers_can_have_missing_entries(self):
        def model(y, mask):
            with pyro.plate("row", len(y)), pyro.poutine.mask(mask=mask):
                pyro.sample("y", dist.Categorical(torch.ones(4)), obs=y)

        y, mask = torch.tensor([0, 3, 1]), torch.tensor([True, False, True])
        idata = pef.to_arviz(model, lambda y, mask: None, y, mask, num_samples=3)
        np.testing.assert_array_equal(idata["observed_data"]["y"], [0, np.nan, 1])
        assert idata["observed_data"]["y_present"].values.tolist() == [0, 1]


class TwoTables(PyroModule):
    """Two blocks of the same rows, with a head that both feed."""

    def __init__(self):
        super().__init__()
        self.genes = pef.ExpFamPCA(pef.families.Poisson(), 5, 2)
        self.marks = pef.ExpFamPCA(pef.families.Bernoulli(), 4, 1)

    def forward(self, counts, bits):
        z = torch.cat([self.genes(counts), self.marks(bits)], -1)
        slope = pyro.sample("slope", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("people", len(counts)):
            return pyro.deterministic("score", z @ slope)


@pytest.mark.parametrize("as_list", [False, True])
def test_blocks_keep_their_names(as_list):
    counts, bits = torch.poisson(torch.full((6, 5), 2.0)), torch.bernoulli(torch.full((6, 4), 0.5))
    model = TwoTables()
    if as_list:
        guide = AutoGuideList(model)
        guide.append(AutoNormal(pyro.poutine.block(model, expose=["slope"])))
        guide.append(pef.LaplaceGuide(pyro.poutine.block(model, hide=["slope"])))
    else:
        guide = pef.LaplaceGuide(model, global_guide=AutoNormal)
    guide(counts, bits)
    idata = pef.to_arviz(model, guide, counts, bits, num_samples=DRAWS)
    posterior = idata["posterior"]
    assert posterior["genes.z"].dims == ("chain", "draw", "genes.row", "genes.latent")
    assert posterior["score"].dims == ("chain", "draw", "people")
    assert idata["sample_stats"]["marks.converged"].dims == ("marks.row",)
    assert idata["sample_stats"]["genes.mean_shift"].dims == ("genes.row", "genes.latent")
    marginal = idata["log_likelihood"].coords["marks.y_marginal"]
    assert marginal.dims == ("chain", "draw", "marks.row")
    z = np.concatenate([posterior["genes.z"], posterior["marks.z"]], -1)
    score = np.einsum("cdrl,cdl->cdr", z, posterior["slope"])
    np.testing.assert_allclose(posterior["score"], score, rtol=1e-4, atol=1e-5)


def regression(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("person", len(x)):
        mean = pyro.deterministic("mean", slope * x)
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def test_any_pyro_model_with_an_svi_guide():
    x = torch.randn(8)
    y = x + torch.randn(8)
    guide = AutoNormal(regression)
    guide(x, y)
    idata = pef.to_arviz(regression, guide, x, y, num_samples=DRAWS)
    slope = draws_of(idata, "posterior", "slope")
    assert len(set(slope)) == DRAWS
    mean = slope[:, None] * x.numpy()
    np.testing.assert_allclose(draws_of(idata, "posterior", "mean"), mean, rtol=1e-5)
    expected = scipy.stats.norm.logpdf(y.numpy(), mean)
    np.testing.assert_allclose(draws_of(idata, "log_likelihood", "y"), expected, rtol=1e-4)
    assert idata["constant_data"]["x"].dims == ("person",)
    assert "y" not in idata["constant_data"]
    assert "y_row" not in idata["log_likelihood"].coords


def test_subsample_labels_its_dimension():
    x, y = torch.randn(10), torch.randn(10)

    def model(x, y):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("person", 10, subsample_size=4) as index:
            pyro.sample("y", dist.Normal(level + x[index], 1.0), obs=y[index])

    guide = AutoNormal(model)
    guide(x, y)
    idata = pef.to_arviz(model, guide, x, y, num_samples=DRAWS)
    people = idata["observed_data"]["person"].values
    assert len(set(people)) == 4
    np.testing.assert_array_equal(idata["observed_data"]["y"], y.numpy()[people])
    mean = draws_of(idata, "posterior", "level")[:, None] + x.numpy()[people]
    expected = scipy.stats.norm.logpdf(y.numpy()[people], mean)
    np.testing.assert_allclose(draws_of(idata, "log_likelihood", "y"), expected, rtol=1e-4)


def refuses_plates(x, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    if slope.dim():
        raise RuntimeError("one slope at a time")
    with pyro.plate("person", len(x)):
        pyro.sample("y", dist.Normal(float(slope) * x, 1.0), obs=y)


def mixes_draws_up(x, y):
    slopes = pyro.sample("slope", dist.Normal(0.0, 1.0))
    slope = slopes.mean()
    with pyro.plate("person", len(x)):
        pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


@pytest.mark.parametrize("model", [refuses_plates, mixes_draws_up])
def test_models_that_cannot_be_vectorized_are_drawn_one_by_one(model):
    x, y = torch.randn(6), torch.randn(6)
    guide = AutoNormal(model)
    guide(x, y)
    idata = pef.to_arviz(model, guide, x, y, num_samples=DRAWS)
    slope = draws_of(idata, "posterior", "slope")
    expected = scipy.stats.norm.logpdf(y.numpy(), slope[:, None] * x.numpy())
    np.testing.assert_allclose(draws_of(idata, "log_likelihood", "y"), expected, rtol=1e-4)


def test_model_without_a_proper_prior_has_none_in_it():
    def model(y):
        level = pyro.sample(
            "level", dist.ImproperUniform(dist.constraints.real, batch_shape=(), event_shape=())
        )
        with pyro.plate("person", len(y)):
            pyro.sample("y", dist.Normal(level, 1.0), obs=y)

    y = torch.randn(6)
    guide = AutoDelta(model, init_loc_fn=pyro.infer.autoguide.init_to_value(values={"level": y[0]}))
    guide(y)
    with pytest.warns(UserWarning, match="prior of the model cannot be sampled"):
        idata = pef.to_arviz(model, guide, y, num_samples=3)
    assert idata["posterior"]["level"].shape == (1, 3)
    with pytest.raises(KeyError):
        idata["prior"]


def test_own_labels_and_names():
    y = counts()
    model = poisson_block()
    genes = ["a", "b", "c", "d", "e"]
    idata = pef.to_arviz(
        model,
        laplace(model, y),
        y,
        num_samples=3,
        coords={"gene": genes},
        dims={"loading": ["gene", "latent"], "y": ["cell", "gene"]},
    )
    assert idata["posterior"]["gene"].values.tolist() == genes
    assert idata["observed_data"]["y"].dims == ("cell", "gene")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_samples": 0}, ValueError, "num_samples must be at least 1, got 0"),
        ({"num_samples": 2.5}, TypeError, "num_samples must be an integer, got 2.5"),
        ({"dims": {"w": ["a"]}}, ValueError, r"dims must be of variables among .* got \['w'\]"),
        ({"dims": {"z": ["a"]}}, ValueError, "dims of 'z' must be 2 different names"),
        ({"coords": {"gene": [1]}}, ValueError, r"coords must be of .* got \['gene'\]"),
        ({"coords": {"latent": [1]}}, ValueError, r"coords\['latent'\] must be 2 labels"),
    ],
)
def test_bad_arguments_are_named(settings, error, message):
    y = counts()
    model = poisson_block()
    guide = laplace(model, y)
    with pytest.raises(error, match=message):
        pef.to_arviz(model, guide, y, **{"num_samples": 3, **settings})


def test_guide_of_another_model_is_named():
    x, y = torch.randn(6), torch.randn(6)

    def guide(x, y):
        pyro.sample("level", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"guide must sample every latent site.*\['slope'\]"):
        pef.to_arviz(regression, guide, x, y)


def test_container_is_that_of_the_installed_arviz():
    y = counts()
    model = poisson_block()
    idata = pef.to_arviz(model, laplace(model, y), y, num_samples=3)
    name = "InferenceData" if az.__version__.startswith("0.") else "DataTree"
    assert type(idata).__name__ == name


def test_model_and_guide_swapped_are_refused():
    def model(y):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(level, 1.0), obs=y)

    guide = AutoNormal(model)
    guide(torch.zeros(3))
    with pytest.raises(TypeError, match="model must be the model, got the guide AutoNormal"):
        pef.to_arviz(guide, model, torch.zeros(3))
