"""Containers of models of several tables, labels and priors of latents."""

import warnings

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from quick_cases import slow_unless
from torch.distributions import constraints
from whole_models import (
    NUM_ROWS,
    Base,
    Chain,
    Data,
    Everything,
    HeavyTails,
    Offset,
    PartOfTheRows,
    Supervised,
    TwoLatents,
    TwoViews,
)

import pyro_expfam as pef

F = pef.families
NUM_DRAWS = 200_000


@pytest.fixture(autouse=True)
def _double_and_quiet():
    torch.set_default_dtype(torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def made(make, **settings):
    pyro.set_rng_seed(1)
    model = make()
    guide, args = pef.LaplaceGuide(model, **settings), Data().args
    guide(*args)
    return model, guide, args


def converted(make, num_samples=3, **settings):
    model, guide, args = made(make, **settings)
    return pef.to_arviz(model, guide, *args, num_samples=num_samples)


def marginals(idata):
    coords = idata["log_likelihood"].coords
    return {name: coords[name].values[0] for name in coords if str(name).endswith("marginal")}


@pytest.mark.parametrize("name", ["rna", "protein"])
def test_a_table_that_shares_latents_has_its_own_evidence(name):
    model, guide, args = made(TwoViews)
    found = marginals(pef.to_arviz(model, guide, *args, num_samples=3))[f"{name}.y_marginal"]
    block, table = guide.block(name), args[("rna", "protein").index(name)]
    family = getattr(model, name).family
    expected = pef.log_evidence(family, table, block.loading, block.intercept, order=2)
    np.testing.assert_allclose(found, np.broadcast_to(expected.detach(), (3, NUM_ROWS)), atol=1e-8)


@pytest.mark.parametrize("make", [TwoViews, Supervised, Everything], ids=lambda kind: kind.__name__)
def test_everything_together_has_the_evidence_of_prior_sampling(make):
    model, guide, args = made(make)
    counts, bits, label, covariates = args
    found = marginals(pef.to_arviz(model, guide, *args, num_samples=2))["rna.marginal"][0]
    median = {name: x.detach() for name, x in guide.median(*args).items()}
    noise = torch.randn(NUM_DRAWS, 2)
    for row in range(3):
        z = noise
        if make is Everything:
            z = z + (covariates @ model.slope).detach()[row]

        def eta(name, z=z):
            return z @ median[f"{name}.loading"].T + median[f"{name}.intercept"]

        log_likelihood = dist.Poisson(eta("rna").exp()).log_prob(counts[row]).sum(-1)
        if make is not Supervised:
            law = dist.Bernoulli(logits=eta("protein"))
            log_likelihood = log_likelihood + law.log_prob(bits[row]).sum(-1)
        if make is not TwoViews:
            logit = z @ median["head.weight"][0] + median["head.bias"][0]
            log_likelihood = log_likelihood + dist.Bernoulli(logits=logit).log_prob(label[row])
        expected = torch.logsumexp(log_likelihood, 0) - np.log(NUM_DRAWS)
        assert found[row] == pytest.approx(float(expected), abs=0.05)


@pytest.mark.parametrize(
    "make",
    slow_unless(
        (PartOfTheRows, Chain).__contains__,
        [Supervised, PartOfTheRows, TwoLatents, Offset, Chain],
    ),
    ids=lambda kind: kind.__name__,
)
def test_a_table_alone_is_the_table_under_the_prior_whatever_else_is_observed(make):
    """Labels and other tables leave the evidence of a table as it is."""
    model, guide, args = made(make)
    block = guide.block("rna")
    expected = pef.log_evidence(F.Poisson(), args[0], block.loading, block.intercept, order=2)
    found = marginals(pef.to_arviz(model, guide, *args, num_samples=2))["rna.y_marginal"]
    assert found.shape == (2, NUM_ROWS)
    np.testing.assert_allclose(found[0], expected.detach(), atol=1e-6)


def test_a_table_whose_prior_depends_on_other_latents_has_them_integrated_out():
    model, guide, args = made(Chain)
    found = marginals(pef.to_arviz(model, guide, *args, num_samples=2))["protein.y_marginal"][0]
    block = guide.block("protein")
    # The latents are a sum of a half of the other latents and their own noise.
    precision = 1 / (1 + 0.25)
    expected = pef.log_evidence(
        F.Bernoulli(), args[1], block.loading, block.intercept, precision, order=2
    )
    np.testing.assert_allclose(found, expected.detach(), atol=2e-3)


def test_a_prior_that_is_not_normal_is_integrated_as_it_is():
    block = pef.ExpFamPCA(F.Bernoulli(), 5, 1, loading_scale=None)
    law = dist.StudentT(4.0, torch.zeros(1), 1.0).to_event(1)
    block.z = pyro.nn.PyroSample(law)
    with torch.no_grad():
        block.loading.copy_(torch.tensor([[1.0], [-0.5], [1.0], [0.8], [0.0]]))
    y = torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0]])
    guide = pef.LaplaceGuide(block)
    guide(y)
    found = marginals(pef.to_arviz(block, guide, y, num_samples=2))
    z = torch.linspace(-60, 60, 100_001)[:, None]
    eta = z @ guide.loading.T + guide.intercept
    likelihood = dist.Bernoulli(logits=eta[:, None]).log_prob(y).sum(-1) + law.log_prob(z)[:, None]
    expected = torch.logsumexp(likelihood, 0) + np.log(120 / 100_000)
    normal = pef.log_evidence(F.Bernoulli(), y, guide.loading, guide.intercept, order=2)
    error = np.abs(found["y_marginal"][0] - expected.numpy())
    assert error.max() < 0.05
    assert (error < (normal.detach() - expected).abs().numpy() / 3).all()
    np.testing.assert_allclose(found["marginal"], found["y_marginal"], atol=1e-8)


@pytest.mark.parametrize(
    "make",
    [Everything, TwoLatents, PartOfTheRows, pytest.param(HeavyTails, marks=pytest.mark.slow)],
    ids=lambda kind: kind.__name__,
)
def test_marginals_of_draws_at_once_are_those_of_draws_one_by_one(make):
    model, guide, args = made(make, global_guide=AutoNormal)
    idata = pef.to_arviz(model, guide, *args, num_samples=3)
    posterior, found = idata["posterior"], marginals(idata)
    assert found["rna.marginal"].std(0).min() > 0
    for draw in range(3):
        values = {
            name: torch.as_tensor(np.array(values.values[0, draw]))
            for name, values in posterior.data_vars.items()
        }
        singly = guide.marginals(values, *args)
        assert singly.keys() == found.keys()
        for name, marginal in singly.items():
            np.testing.assert_allclose(found[name][draw], marginal.log_density, atol=1e-6)


@pytest.fixture(scope="module")
def partial():
    """A container of two tables of which one has some of the rows, in another order, and labels."""
    pd = pytest.importorskip("pandas")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(0)
    data = Data()
    counts = pd.DataFrame(data.counts.numpy(), [f"cell {k}" for k in range(NUM_ROWS)])
    rows = torch.tensor([5, 0, 3, 9])

    class Model(Base):
        def forward(self, counts, bits, rows, label):
            z = self.rna(counts)
            self.protein(bits, z=z, latent_rows=rows)
            logit = self.logit(z)
            with pyro.plate("cells", len(counts)):
                pyro.sample("label", dist.Bernoulli(logits=logit), obs=label)

    model = Model()
    guide = pef.LaplaceGuide(model, global_guide=AutoNormal)
    args = counts, data.bits[rows], rows, data.label
    guide(*args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield pef.to_arviz(model, guide, *args, num_samples=300)
    torch.set_default_dtype(before)


def test_shared_latents_have_one_name_for_their_dimension(partial):
    dims = {name: x.dims[2:] for name, x in partial["posterior"].data_vars.items()}
    assert dims["rna.loading"] == ("rna.feature", "rna.latent")
    assert dims["protein.loading"] == ("protein.feature", "rna.latent")
    assert dims["rna.z"] == ("rna.row", "rna.latent")
    assert "protein.z" not in dims
    same = converted(TwoViews)
    assert same["log_likelihood"]["protein.y"].dims[2:] == ("rna.row", "protein.feature")


def test_some_of_the_rows_are_labelled_by_the_rows_of_the_latents(partial):
    labels = ["cell 5", "cell 0", "cell 3", "cell 9"]
    for group in ("observed_data", "posterior_predictive", "log_likelihood"):
        assert list(partial[group]["protein.row"].values) == labels
    likelihood = partial["log_likelihood"]
    assert likelihood["protein.y_marginal"].dims == ("chain", "draw", "protein.row")
    assert likelihood["rna.marginal"].dims == ("chain", "draw", "rna.row")
    # Rows without proteins have as much as is observed of them.
    assert dict(partial["sample_stats"].sizes)["rna.row"] == NUM_ROWS
    assert "rna.khat" in partial["sample_stats"]


@pytest.mark.parametrize(
    "name", ["rna.marginal", "rna.y_marginal", "protein.y_marginal", "rna.y", "protein.y", "label"]
)
def test_every_likelihood_can_be_left_out(partial, name):
    found = az.loo(partial, var_name=name)
    value = float(getattr(found, "elpd_loo", getattr(found, "elpd", None)))
    assert np.isfinite(value)
    assert value < 0


def test_a_container_of_several_tables_is_read_back_unchanged(partial, tmp_path):
    partial.to_netcdf(str(tmp_path / "model.nc"))
    back = az.from_netcdf(str(tmp_path / "model.nc"))
    for group in ("posterior", "log_likelihood", "sample_stats", "observed_data"):
        for name, variable in partial[group].variables.items():
            np.testing.assert_array_equal(back[group][name].values, variable.values)


def test_tables_that_share_latents_are_rotated_together(partial):
    aligned = pef.align(partial)

    def eta(idata, name):
        posterior = idata["posterior"]
        return posterior["rna.z"].values @ posterior[f"{name}.loading"].values.swapaxes(-1, -2)

    for name in ("rna", "protein"):
        np.testing.assert_allclose(eta(aligned, name), eta(partial, name), atol=1e-8)
    both = [
        aligned["posterior"][f"{name}.loading"].mean(("chain", "draw"))
        for name in ("rna", "protein")
    ]
    mean = np.concatenate([x.values for x in both])
    assert abs(mean[:, 0] @ mean[:, 1]) < 1e-6
    reference = {"protein.loading": torch.as_tensor(both[1].values)}
    np.testing.assert_allclose(
        eta(pef.align(partial, reference), "protein"), eta(partial, "protein"), atol=1e-8
    )


def test_a_learnt_parameter_of_a_family_is_in_the_posterior():
    positive = constraints.positive
    scale = PyroParam(torch.tensor([0.5, 1.0, 2.0]), constraint=positive)

    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.table = pef.ExpFamPCA(F.Gaussian(), 3, 1, family_parameters={"scale": scale})
            self.counts = pef.ExpFamPCA(
                F.NegativeBinomial(torch.tensor(1.0)),
                3,
                1,
                family_parameters={"size": PyroParam(torch.tensor(4.0), constraint=positive)},
            )

        def forward(self, y, counts):
            return self.counts(counts, z=self.table(y))

    model = Model()
    guide = pef.LaplaceGuide(model)
    y = torch.randn(10, 3)
    args = y, y.exp().round()
    guide(*args)
    posterior = pef.to_arviz(model, guide, *args, num_samples=4)["posterior"]
    assert posterior["table.family_scale"].dims == ("chain", "draw", "table.feature")
    np.testing.assert_allclose(posterior["table.family_scale"].values[0, 2], [0.5, 1.0, 2.0])
    assert posterior["counts.family_size"].dims == ("chain", "draw")
    assert float(posterior["counts.family_size"][0, 3]) == pytest.approx(4.0)


class NoSample(F.ExponentialFamily):
    """Counts that cannot be drawn."""

    support = constraints.nonnegative_integer

    def log_partition(self, eta):
        return eta.exp()


def test_a_family_without_draws_leaves_out_drawn_observations():
    y = torch.poisson(torch.ones(10, 3))
    model = pef.ExpFamPCA(NoSample(), 3, 1)
    guide = pef.LaplaceGuide(model)
    guide(y)
    with pytest.warns(UserWarning, match="observations cannot be drawn.*no function sample"):
        idata = pef.to_arviz(model, guide, y, num_samples=4)
    for group in ("posterior", "prior", "log_likelihood", "observed_data"):
        assert len(idata[group].data_vars)
    with pytest.raises(KeyError):
        idata["posterior_predictive"]
