"""The block as a Pyro model."""

import copy
import pickle

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule, PyroParam, PyroSample

import pyro_expfam as pef

FAMILY = pef.families.Bernoulli()


def bits(num_rows=12, num_features=6):
    return torch.bernoulli(torch.full((num_rows, num_features), 0.4))


def traced(model, *args, **kwargs):
    trace = poutine.trace(model).get_trace(*args, **kwargs)
    trace.compute_log_prob()
    return trace


def test_the_log_joint_is_that_of_the_graphical_model():
    y = bits()
    model = pef.ExpFamPCA(FAMILY, 6, 2, 0.7, loading_scale=0.5, intercept_scale=2.0)
    trace = traced(model, y)
    W, b, z = (trace.nodes[name]["value"] for name in ("loading", "intercept", "z"))
    expected = (
        dist.Normal(0.0, 0.5).log_prob(W).sum()
        + dist.Normal(0.0, 2.0).log_prob(b).sum()
        + dist.Normal(0.0, 0.7**-0.5).log_prob(z).sum()
        + dist.Bernoulli(logits=z @ W.T + b).log_prob(y).sum()
    )
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_weights_multiply_the_log_densities_of_entries():
    y, weights, mask = bits(), 2 * torch.rand(12, 6), torch.rand(12, 6) < 0.7
    model = pef.ExpFamPCA(FAMILY, 6, 2)
    trace = traced(model, y, mask=mask, weights=weights)
    W, b, z = (trace.nodes[name]["value"] for name in ("loading", "intercept", "z"))
    entries = dist.Bernoulli(logits=z @ W.T + b).log_prob(y)
    torch.testing.assert_close(trace.nodes["y"]["log_prob"], (entries * weights * mask).sum(1))
    assert traced(model, weights=weights).nodes["y"]["value"].shape == (12, 6)
    with pytest.raises(ValueError, match="weights must be non-negative and finite"):
        model(y, weights=-weights)


def test_a_minibatch_is_scaled_to_the_whole_table():
    y = bits(4)
    model = pef.ExpFamPCA(FAMILY, 6, 2)
    trace = traced(model, y, num_rows=20)
    assert trace.nodes["z"]["scale"] == 5.0
    assert trace.nodes["y"]["scale"] == 5.0
    assert trace.nodes["loading"]["scale"] == 1.0
    frame = trace.nodes["z"]["cond_indep_stack"][0]
    assert (frame.name, frame.dim, frame.size, frame.full_size) == ("rows", -1, 4, 20)


@pytest.mark.parametrize("how", ["num_rows", "offset", "mask"])
def test_a_table_can_be_drawn(how):
    model = pef.ExpFamPCA(pef.families.Poisson(), 6, 2)
    arguments = {
        "num_rows": {"num_rows": 9},
        "offset": {"offset": torch.zeros(9, 1)},
        "mask": {"mask": torch.ones(9, 6).bool()},
    }[how]
    trace = traced(model, **arguments)
    assert trace.nodes["y"]["value"].shape == (9, 6)
    assert not trace.nodes["y"]["is_observed"]
    assert trace.nodes["_RETURN"]["value"] is trace.nodes["z"]["value"]


def test_draws_of_the_block_have_the_moments_of_the_family():
    model = pef.ExpFamPCA(
        pef.families.Poisson(), 3, 1, 100.0, loading_scale=0.01, intercept_scale=None
    )
    offset = torch.log(torch.tensor([1.0, 5.0, 20.0]))
    y = traced(model, offset=offset.expand(20_000, 3)).nodes["y"]["value"]
    torch.testing.assert_close(y.mean(0), offset.exp(), rtol=0.05, atol=0.0)


def test_missing_entries_carry_no_log_density_and_no_gradient():
    y, mask = bits(), torch.rand(12, 6) < 0.5
    holes = torch.where(mask, y, torch.nan)
    model = pef.ExpFamPCA(FAMILY, 6, 2, loading_scale=None, intercept_scale=None)
    z = torch.randn(12, 2)
    trace = traced(poutine.condition(model, {"z": z}), holes, mask=mask)
    eta = z @ model.loading.T + model.intercept
    expected = (dist.Bernoulli(logits=eta).log_prob(y) * mask).sum()
    torch.testing.assert_close(trace.nodes["y"]["log_prob_sum"], expected)
    trace.log_prob_sum().backward()
    assert model.loading_unconstrained.grad.isfinite().all()


def test_priors_may_be_of_the_users_own():
    model = pef.ExpFamPCA(FAMILY, 6, 2)
    model.loading = PyroSample(dist.Laplace(0.0, 1.0).expand([6, 2]).to_event(2))
    model.intercept = PyroSample(dist.Normal(0.0, 3.0).expand([6]).to_event(1))
    model.latent_precision = PyroSample(dist.Gamma(2.0, 2.0))
    trace = traced(model, bits())
    assert isinstance(trace.nodes["loading"]["fn"].base_dist, dist.Laplace)
    assert trace.nodes["latent_precision"]["value"] > 0
    assert trace.nodes["z"]["fn"].base_dist.scale[0, 0] == pytest.approx(
        float(trace.nodes["latent_precision"]["value"]) ** -0.5
    )
    model.loading = PyroParam(torch.ones(6, 2))
    assert "loading" not in traced(model, bits()).stochastic_nodes


def test_sites_carry_the_name_of_the_block():
    class Two(PyroModule):
        def __init__(self):
            super().__init__()
            self.bits = pef.ExpFamPCA(FAMILY, 6, 2)
            self.counts = pef.ExpFamPCA(pef.families.Poisson(), 3, 1)

        def forward(self, bits, counts):
            return self.bits(bits), self.counts(counts)

    model = Two()
    trace = traced(model, bits(), torch.poisson(torch.ones(12, 3)))
    names = {f"{block}.{site}" for block in ("bits", "counts") for site in ("loading", "z", "y")}
    assert names <= set(trace.nodes)
    assert model.bits.name == "bits"
    assert model.counts.site_name("z") == "counts.z"


def in_place(kind, table):
    """A table as a tensor over an array that can be refilled without a sign."""
    buffer = table.numpy().astype(kind)
    return buffer, torch.from_numpy(buffer)


@pytest.mark.parametrize("kind", ["float32", "float64", "int64"])
def test_an_array_that_is_refilled_is_read_again(kind):
    model = pef.ExpFamPCA(FAMILY, 6, 2)
    first, second = bits(), bits()
    buffer, y = in_place(kind, first)
    for table in (first, second):
        buffer[:] = table.numpy()
        assert torch.equal(traced(model, y).nodes["y"]["value"], table)
    buffer[0, 0] = 7
    with pytest.raises(ValueError, match="y must be in the support"):
        model(y)


@pytest.mark.parametrize("name", ["offset", "weights"])
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_entries_that_are_refilled_are_read_again(name, kind):
    model, y, z = (
        pef.ExpFamPCA(FAMILY, 6, 2, loading_scale=None, intercept_scale=None),
        bits(),
        torch.randn(12, 2),
    )
    buffer, entries = in_place(kind, torch.rand(12, 6))
    known = poutine.condition(model, {"z": z})
    for _ in range(2):
        buffer[:] = np.random.default_rng(0).random((12, 6)) + buffer
        found = traced(known, y, **{name: entries}).log_prob_sum()
        torch.testing.assert_close(found, traced(known, y, **{name: buffer.copy()}).log_prob_sum())


def test_the_values_of_a_table_are_checked_once_a_step(monkeypatch):
    calls = []
    checked = pef.models.table_of_block.check_observations
    monkeypatch.setattr(
        pef.models.table_of_block,
        "check_observations",
        lambda *a, **k: calls.append(1) or checked(*a, **k),
    )
    model, y = pef.ExpFamPCA(FAMILY, 6, 2), bits()
    guide = pef.DEQMAPGuide(model)
    guide(y)
    for expected in (1, 1):
        calls.clear()
        Trace_ELBO().loss(model, guide, y)
        assert len(calls) == expected
    # Replayed against the guide's run on another table, the model checks its own.
    trace = poutine.trace(guide).get_trace(y)
    with pytest.raises(ValueError, match="y must be in the support"):
        poutine.replay(model, trace=trace)(y + 7)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("y", PyroSample(dist.Normal(0.0, 1.0)), "y is a site of the block that cannot be"),
        ("y", torch.zeros(3), "y is a site of the block that cannot be"),
        ("z", torch.zeros(3), "z is a site of the block: assign a PyroSample"),
    ],
)
def test_sites_of_the_block_cannot_be_replaced(name, value, message):
    model = pef.ExpFamPCA(FAMILY, 6, 2)
    with pytest.raises(AttributeError, match=message):
        setattr(model, name, value)
    assert set(traced(model, bits()).stochastic_nodes) >= {"loading", "z"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loadings", PyroSample(dist.Normal(0.0, 1.0))),
        ("offset", PyroParam(torch.zeros(6))),
        ("family_scale", PyroParam(torch.ones(6))),
        ("intercept_scale", 2.0),
    ],
)
def test_attributes_that_would_be_ignored_are_refused(name, value):
    model = pef.ExpFamPCA(FAMILY, 6, 2, intercept_scale=None)
    with pytest.raises(AttributeError, match=f"{name} is nothing that the block reads"):
        setattr(model, name, value)


def test_a_subclass_may_read_attributes_of_its_own():
    class Shifted(pef.ExpFamPCA):
        def forward(self, y):
            return super().forward(y, offset=self.shift)

    model = Shifted(FAMILY, 6, 2)
    model.shift = PyroSample(dist.Normal(0.0, 1.0).expand([6]).to_event(1))
    assert "shift" in traced(model, bits()).stochastic_nodes


@pytest.mark.parametrize("name", ["offset", "weights", "mask"])
@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 12, 1), (3, 1, 6), (3, 12, 6)])
def test_entries_may_have_batches_that_the_table_has_not(name, shape):
    y, entries = bits(), torch.rand(shape)
    entries = entries < 0.5 if name == "mask" else entries
    model = pef.ExpFamPCA(FAMILY, 6, 2, loading_scale=None, intercept_scale=None)
    z = torch.randn(3, 12, 2)

    def log_density(y, entries, z):
        known = poutine.condition(model, {"z": z})
        return traced(known, y, **{name: entries}).nodes["y"]["log_prob"]

    with pyro.plate("batches", 3, dim=-2):
        found = log_density(y, entries, z)
    each = [log_density(y, *one) for one in zip(entries, z, strict=True)]
    torch.testing.assert_close(found, torch.stack(each))


@pytest.mark.parametrize("kind", [np.asarray, np.ndarray.tolist, torch.as_tensor])
def test_observations_of_any_kind_serve(kind):
    y = bits()
    model = pef.ExpFamPCA(FAMILY, 6, 2)
    values = [traced(model, x).nodes["y"]["value"] for x in (y, kind(y.numpy().astype(int)))]
    assert torch.equal(*values)


def test_dtype_pickling_and_copies():
    model = pef.ExpFamPCA(FAMILY, 6, 2, intercept_scale=1.0).double()
    assert traced(model, bits()).nodes["z"]["value"].dtype == torch.float64
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        pyro.set_rng_seed(1)
        z = other(num_rows=5)
        pyro.set_rng_seed(1)
        torch.testing.assert_close(z, model(num_rows=5))


def test_sizes_may_be_numbers_of_numpy():
    model = pef.ExpFamPCA(pef.families.Bernoulli(), np.int64(6), np.int64(2))
    assert (type(model.num_features), type(model.latent_dim)) == (int, int)
    assert model(bits(10)).shape == (10, 2)
    with pytest.raises(ValueError, match=r"latent_dim must be a whole number .* got True"):
        pef.ExpFamPCA(pef.families.Bernoulli(), 6, True)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"latent_dim": 0}, ValueError, "latent_dim must be a whole number of at least 1, got 0"),
        ({"num_features": -3}, ValueError, "num_features must be a whole number .* got -3"),
        ({"latent_precision": 0.0}, ValueError, "latent_precision must be a positive .* got 0.0"),
        ({"loading_scale": -1.0}, ValueError, "loading_scale must be a positive .* got -1.0"),
        ({"intercept_scale": float("nan")}, ValueError, "intercept_scale must be a positive"),
        ({"family": "poisson"}, TypeError, "family must be a family .* got 'poisson'"),
    ],
)
def test_an_impossible_block_is_refused(settings, error, message):
    with pytest.raises(error, match=message):
        pef.ExpFamPCA(**{"family": FAMILY, "num_features": 6, "latent_dim": 2, **settings})


def test_a_mask_in_the_place_of_the_offset_is_refused():
    with pytest.raises(TypeError, match="offset must hold real numbers, got booleans"):
        pef.ExpFamPCA(FAMILY, 6, 2)(bits(), torch.ones(12, 6).bool())


def test_the_block_shows_its_settings():
    assert repr(pef.ExpFamPCA(FAMILY, 6, 2)) == (
        "ExpFamPCA(Bernoulli(), num_features=6, latent_dim=2)"
    )


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((2 * bits() + 1,), {}, "y must be in the support of Bernoulli"),
        ((bits()[:, :4],), {}, r"y must have shape \(..., rows, 6\)"),
        ((bits()[:0],), {}, "y must have at least one row"),
        ((bits() * torch.nan,), {}, "y must be finite; pass mask="),
        ((), {}, "num_rows must say how many rows to draw"),
        ((bits(),), {"num_rows": 3}, "num_rows must be at least the number of rows of y, 12"),
        ((bits(),), {"offset": torch.zeros(5)}, "offset must broadcast from the right"),
        ((bits().to("meta"),), {}, "y must be on device cpu, got meta"),
        ((np.ma.masked_equal(bits().numpy(), 1),), {}, "y must be a plain array, got a masked one"),
        ((bits(),), {"mask": torch.ones(12).bool()}, r"mask must broadcast .* got \(12,\)"),
    ],
)
def test_bad_input_is_refused_by_name_before_anything_is_sampled(args, kwargs, message):
    model = pef.ExpFamPCA(FAMILY, 6, 2)
    with pytest.raises(ValueError, match=message):
        model(*args, **kwargs)


@pytest.mark.parametrize("make", [np.asarray, pd.DataFrame, torch.as_tensor])
def test_rows_are_drawn_with_an_offset_of_any_kind(make):
    model = pef.ExpFamPCA(pef.families.Poisson(), 3, 1)
    offset = make(np.linspace(0.0, 5.0, 8)[:, None])
    trace = poutine.trace(model).get_trace(offset=offset)
    assert trace.nodes["y"]["value"].shape == (8, 3)
    pyro.set_rng_seed(1)
    found = poutine.trace(model).get_trace(num_rows=8, offset=offset).nodes["y"]["value"]
    pyro.set_rng_seed(1)
    known = torch.as_tensor(np.asarray(offset)).float()
    expected = poutine.trace(model).get_trace(num_rows=8, offset=known).nodes["y"]["value"]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("num_rows", [5.5, 0, -2, True])
def test_a_number_of_rows_that_is_none_is_refused(num_rows):
    model = pef.ExpFamPCA(pef.families.Poisson(), 3, 1)
    with pytest.raises(ValueError, match="num_rows must be a whole number of at least 1, got"):
        model(num_rows=num_rows)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("loading_scale", torch.tensor(-1.0), "must be a positive finite number, got -1.0"),
        ("latent_precision", torch.tensor(-1.0), "must be a positive finite number, got -1.0"),
        ("latent_precision", float("nan"), "must be a positive finite number, got nan"),
        ("intercept_scale", torch.tensor(0.0), "must be a positive finite number, got 0.0"),
        ("intercept_scale", None, "must be a number or a tensor, got None"),
        ("intercept_scale", "weak", "must be a number or a tensor, got 'weak'"),
        ("loading_scale", torch.ones(3), r"must have shape \(\) or \(2,\) or \(6, 1\), got \(3,\)"),
        ("latent_precision", torch.ones(2), r"must have shape \(\), got \(2,\)"),
        ("latent_precision", PyroParam(torch.tensor(-1.0)), "must be a positive finite number"),
        ("intercept", torch.zeros(4), r"must have shape \(6,\), got \(4,\)"),
        ("loading", torch.zeros(2, 6), r"must have shape \(6, 2\), got \(2, 6\)"),
        ("loading", PyroParam(torch.zeros(2, 6)), r"must have shape \(6, 2\), got \(2, 6\)"),
    ],
)
def test_a_bad_value_is_refused_when_it_is_assigned(name, value, message):
    model = pef.ExpFamPCA(pef.families.Poisson(), 6, 2)
    with pytest.raises(ValueError, match=f"{name} {message}"):
        setattr(model, name, value)
    assert model(torch.ones(5, 6)).shape == (5, 2)


@pytest.mark.parametrize("name", ["latent_dim", "num_features"])
def test_the_sizes_of_a_block_cannot_change(name):
    model = pef.ExpFamPCA(pef.families.Poisson(), 6, 2)
    with pytest.raises(AttributeError, match=f"{name} of a block is . and cannot change, got 3"):
        setattr(model, name, 3)


def test_a_learnt_scale_of_the_noise_stays_positive():
    model = pef.ExpFamPCA(pef.families.Gaussian(), 6, 2)
    with pytest.raises(ValueError, match="family_scale must satisfy"):
        model.family_scale = torch.tensor(-1.0)


def test_known_hyperparameters_may_be_assigned():
    model = pef.ExpFamPCA(pef.families.Poisson(), 6, 2).double()
    model.latent_precision = 2.0
    assert model.latent_precision.dtype == torch.float64
    model.loading_scale = torch.tensor([0.5, 2.0]).double()
    guide = pef.DEQMAPGuide(model).double()
    trace = pyro.poutine.trace(model).get_trace(torch.ones(5, 6))
    scale = trace.nodes["loading"]["fn"].base_dist.scale.expand(6, 2)
    torch.testing.assert_close(scale, torch.tensor([0.5, 2.0]).double().expand(6, 2))
    assert guide.fit(torch.ones(5, 6), loss=pef.LaplaceEvidence(), max_sweeps=50) is not None


@pytest.mark.parametrize(
    ("family", "name"),
    [
        (pef.families.NegativeBinomial(torch.ones(3)), "size"),
        (pef.families.Gamma(torch.ones(7, 3)), "shape"),
        (pef.families.Gaussian(torch.ones(3)), "scale"),
        (pef.families.Binomial(torch.tensor([2, 3, 4])), "total_count"),
    ],
)
def test_parameters_by_column_fit_the_columns(family, name):
    with pytest.raises(ValueError, match=f"{name} of the family .* each of 4 columns, got shape"):
        pef.ExpFamPCA(family, 4, 1)
    pef.ExpFamPCA(family, 3, 1)


@pytest.mark.parametrize("value", [None, "wide", object()])
@pytest.mark.parametrize("name", ["latent_precision", "row_effect_scale"])
def test_hyperparameters_that_are_no_numbers_are_named(name, value):
    arguments = {"row_effect": "random", name: value}
    with pytest.raises(TypeError, match=f"^{name} must be a positive finite number, got "):
        pef.ExpFamPCA(FAMILY, 6, 2, **arguments)
