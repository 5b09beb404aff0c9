"""Blocks and guides as parts of larger models."""

import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib.autoname import scope
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from pyro.optim import Adam
from quick_cases import in_turn

import pyro_expfam as pef

BITS, COUNTS = pef.families.Bernoulli(), pef.families.Poisson()
NUM_ROWS = 12


def bits(num_rows=NUM_ROWS):
    return torch.bernoulli(torch.full((num_rows, 6), 0.4))


def counts(num_rows=NUM_ROWS):
    return torch.poisson(torch.full((num_rows, 4), 2.0))


class Supervised(PyroModule):
    """Labels from the latents of two tables."""

    def __init__(self):
        super().__init__()
        self.bits = pef.ExpFamPCA(BITS, 6, 2, loading_scale=None, intercept_scale=None)
        self.counts = pef.ExpFamPCA(COUNTS, 4, 1, loading_scale=None, intercept_scale=None)
        self.head = PyroModule[torch.nn.Linear](3, 1)
        self.head.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 3]).to_event(2))

    def forward(self, bits, counts, label=None):
        z = torch.cat([self.bits(bits), self.counts(counts)], -1)
        mean = self.head(z).squeeze(-1)
        with pyro.plate("labels", len(z)):
            return pyro.sample("label", dist.Normal(mean, 0.5), obs=label)


def supervised():
    return Supervised(), (bits(), counts(), torch.randn(NUM_ROWS))


def trained(model, guide, data, steps=40, elbo=Trace_ELBO):
    svi = SVI(model, guide, Adam({"lr": 0.03}), elbo())
    return [svi.step(*data) for _ in range(steps)]


# The head comes after the blocks in the model, and before them in the guide.
@pytest.mark.filterwarnings("ignore:Failed to verify mean field restriction")
@pytest.mark.parametrize(
    ("make", "elbo"),
    [
        pytest.param(pef.DEQMAPGuide, Trace_ELBO, marks=pytest.mark.slow),
        pytest.param(pef.LaplaceGuide, Trace_ELBO, marks=pytest.mark.slow),
        (pef.LaplaceGuide, TraceMeanField_ELBO),
    ],
)
def test_two_blocks_train_with_a_head(make, elbo):
    model, data = supervised()
    guide = make(model)
    losses = trained(model, guide, data, elbo=elbo)
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])
    assert set(guide(*data)) == {"head.weight", "bits.z", "counts.z"}


def test_the_gradient_goes_through_the_latents_into_the_head():
    torch.set_default_dtype(torch.float64)
    model, data = supervised()
    guide = pef.DEQMAPGuide(model, condition_on="table")
    guide(*data)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.copy_(torch.randn_like(parameter))
    W = model.bits.loading_unconstrained

    def loss():
        return Trace_ELBO().differentiable_loss(model, guide, *data)

    (gradient,) = torch.autograd.grad(loss(), W)
    direction, step = torch.randn_like(W), 1e-5
    around = []
    with torch.no_grad():
        for signed in (step, -2 * step):
            W += signed * direction
            around.append(loss())
    expected = (around[0] - around[1]) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-7, atol=0.0)
    with torch.no_grad():
        W += step * direction
    # With the latents held constant, the head does not affect the loading: its effect is implicit.
    values = guide(*data)
    held = poutine.condition(model, {name: value.detach() for name, value in values.items()})
    (explicit,) = torch.autograd.grad(-poutine.trace(held).get_trace(*data).log_prob_sum(), W)
    assert not torch.allclose(explicit, gradient, rtol=0.1)


@pytest.mark.parametrize("local", [True, False])
def test_both_modes_of_the_parameter_store(local):
    with pyro.settings.context(module_local_params=local):
        model = pef.ExpFamPCA(BITS, 6, 2)
        guide, y = pef.DEQMAPGuide(model), bits()
        losses = trained(model, guide, (y,))
        assert sum(losses[-5:]) < sum(losses[:5])
        assert bool(pyro.get_param_store().keys()) != local

        state, latents = copy.deepcopy(guide.state_dict()), guide.latents(y)
        pyro.clear_param_store()
        other = pef.DEQMAPGuide(model)
        other(y)
        assert not torch.allclose(other.latents(y), latents)
        other.load_state_dict(state)
        torch.testing.assert_close(other.latents(y), latents)


@pytest.mark.parametrize("make", [pef.DEQMAPGuide, pef.LaplaceGuide])
def test_guides_can_be_pickled_and_copied(make):
    model, data = supervised()
    guide = make(model)
    trained(model, guide, data, steps=3)
    expected = guide.median(*data)
    for other in (pickle.loads(pickle.dumps(guide)), copy.deepcopy(guide)):
        torch.testing.assert_close(other.median(*data), expected)


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("make", [pef.DEQMAPGuide, pef.LaplaceGuide])
def test_a_guide_of_one_block_can_be_pickled_after_training(make, local):
    with pyro.settings.context(module_local_params=local):
        y = bits()
        model = pef.ExpFamPCA(BITS, 6, 2)
        guide = make(model)
        trained(model, guide, (y,), steps=2)
        guide.fit(y)
        expected = guide.latents(y)
        written = pickle.dumps(guide)
        pyro.clear_param_store()
        torch.testing.assert_close(pickle.loads(written).latents(y), expected)


class OneTable(PyroModule):
    """A block with a latent of its own upstream and another downstream."""

    def __init__(self):
        super().__init__()
        self.pca = pef.ExpFamPCA(BITS, 6, 2)

    def forward(self, y):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        z = self.pca(y, offset=shift)
        effect = pyro.sample("effect", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("responses", len(z)):
            pyro.sample("response", dist.Normal(z @ effect, 1.0), obs=torch.ones(len(y)))


GLOBALS = ["shift", "effect"]


def guide_list(model, make, order):
    parts = {
        "globals": AutoDelta(poutine.block(model, expose=GLOBALS)),
        "latents": make(poutine.block(model, hide=GLOBALS)),
    }
    guide = AutoGuideList(model)
    for name in order:
        guide.append(parts[name])
    return guide, parts["latents"]


@pytest.mark.parametrize(
    "make", [pef.LaplaceGuide, pytest.param(pef.DEQMAPGuide, marks=pytest.mark.slow)]
)
def test_a_part_of_a_guide_list(make):
    model, y = OneTable(), bits()
    guide, latents = guide_list(model, make, ("globals", "latents"))
    losses = trained(model, guide, (y,), steps=30)
    assert sum(losses[-5:]) < sum(losses[:5])
    median = guide.median(y)
    assert set(median) == {"shift", "effect", "pca.loading", "pca.intercept", "pca.z"}
    z = median["pca.z"].requires_grad_()
    held = poutine.condition(model, median)
    (score,) = torch.autograd.grad(poutine.trace(held).get_trace(y).log_prob_sum(), z)
    assert float(score.abs().max()) < 1e-4
    assert latents.loading.shape == (6, 2)
    for other in (pickle.loads(pickle.dumps(guide)), copy.deepcopy(guide)):
        torch.testing.assert_close(other.median(y), median)


def test_a_part_alone_takes_no_values_of_another_call():
    y = bits()
    guide, latents = guide_list(OneTable(), pef.DEQMAPGuide, ("globals", "latents"))
    for call in (guide, guide.median):
        call(y)
        with pytest.raises(ValueError, match="must know 'shift' before the latents"):
            latents(y)


def test_latents_cannot_come_before_globals_that_they_depend_on():
    guide, _ = guide_list(OneTable(), pef.DEQMAPGuide, ("latents", "globals"))
    with pytest.raises(ValueError, match=r"must know 'shift' .* append the guide of 'shift' first"):
        guide(bits())


@pytest.mark.parametrize(
    "make", [pef.LaplaceGuide, pytest.param(pef.DEQMAPGuide, marks=pytest.mark.slow)]
)
def test_any_guide_of_the_globals(make):
    model, y = OneTable(), bits()
    guide = make(model, global_guide=AutoNormal)
    losses = trained(model, guide, (y,), steps=40)
    assert sum(losses[-10:]) < sum(losses[:10])
    draws = torch.stack([guide(y)["pca.loading"].detach() for _ in range(10)])
    assert (draws.std(0) > 0).all()


def test_priors_of_the_users_own_reach_the_root():
    model, y = pef.ExpFamPCA(BITS, 6, 2, intercept_scale=1.0), bits()
    model.loading = PyroSample(dist.Laplace(0.0, 1.0).expand([6, 2]).to_event(2))
    model.latent_precision = PyroSample(dist.Gamma(3.0, 2.0))
    guide = pef.DEQMAPGuide(model)
    trained(model, guide, (y,), steps=10)
    precision = guide.block().latent_precision
    assert precision != 1.0
    root = pef.solve_latents(BITS, y, guide.loading, guide.intercept, precision).value
    torch.testing.assert_close(guide(y)["z"], root)


@pytest.mark.parametrize(
    ("make", "parallel"), in_turn([pef.LaplaceGuide, pef.DEQMAPGuide], [False, True])
)
def test_predictive(make, parallel):
    model, y = pef.ExpFamPCA(COUNTS, 4, 2), counts()
    guide = make(model)
    trained(model, guide, (y,), steps=5)
    sites = ["loading", "z", "y"]
    draws = Predictive(model, guide=guide, num_samples=7, parallel=parallel, return_sites=sites)(y)
    shapes = {name: tuple(value.shape[-2:]) for name, value in draws.items()}
    assert shapes == {"loading": (4, 2), "z": (NUM_ROWS, 2), "y": (NUM_ROWS, 4)}
    assert all(len(value) == 7 for value in draws.values())
    if make is pef.DEQMAPGuide:
        unknown = poutine.uncondition(model)
        new = Predictive(unknown, guide=guide, num_samples=400, parallel=parallel)(y)
        replicated = new["y"].reshape(400, NUM_ROWS, 4).mean(0)
        eta = guide.latents(y) @ guide.loading.T + guide.intercept
        assert ((replicated - eta.exp()).abs() < 6 * (eta.exp() / 400).sqrt()).all()


@pytest.mark.parametrize(
    "make", [pef.LaplaceGuide, pytest.param(pef.DEQMAPGuide, marks=pytest.mark.slow)]
)
def test_particles_at_once_and_one_by_one(make):
    model, y = pef.ExpFamPCA(COUNTS, 4, 2), counts()
    guide = make(model)
    guide(y)
    losses = {
        vectorised: torch.tensor(
            [
                Trace_ELBO(num_particles=60, vectorize_particles=vectorised).loss(model, guide, y)
                for _ in range(3)
            ]
        )
        for vectorised in (True, False)
    }
    spread = max(float(loss.std()) for loss in losses.values())
    assert abs(losses[True].mean() - losses[False].mean()) <= 6 * spread + 1e-4


def test_tables_in_an_outer_plate():
    block = pef.ExpFamPCA(COUNTS, 4, 2, loading_scale=None, intercept_scale=None)
    y = torch.stack([counts(), counts(), counts()])

    def model(y):
        with pyro.plate("tables", 3, dim=-2):
            return block(y)

    guide = pef.DEQMAPGuide(model)
    z = guide(y)["z"]
    assert z.shape == (3, NUM_ROWS, 2)
    each = [pef.solve_latents(COUNTS, rows, block.loading, block.intercept).value for rows in y]
    torch.testing.assert_close(z, torch.stack(each))
    losses = trained(model, guide, (y,))
    assert losses[-1] < losses[0]


def test_one_block_called_twice():
    block = pef.ExpFamPCA(COUNTS, 4, 2, loading_scale=None, intercept_scale=None)

    def model(first, second):
        with scope(prefix="first"):
            block(first)
        with scope(prefix="second"):
            block(second)

    data = counts(), counts(5)
    guide = pef.DEQMAPGuide(model)
    losses = trained(model, guide, data)
    assert losses[-1] < losses[0]
    values = guide(*data)
    assert {name: tuple(z.shape) for name, z in values.items()} == {
        "first/z": (NUM_ROWS, 2),
        "second/z": (5, 2),
    }
    root = pef.solve_latents(COUNTS, data[1], block.loading, block.intercept).value
    torch.testing.assert_close(values["second/z"], root)


def scoped(block):
    def model(y):
        with scope(prefix="a"):
            return block(y)

    return model


class Twice(PyroModule):
    """A block inside a module that calls it in two scopes, with one loading."""

    def __init__(self):
        super().__init__()
        self.pca = pef.ExpFamPCA(COUNTS, 4, 2)

    def forward(self, first, second):
        with scope(prefix="first"):
            self.pca(first)
        with scope(prefix="second"):
            self.pca(second)


@pytest.mark.parametrize(
    "make", [pef.LaplaceGuide, pytest.param(pef.DEQMAPGuide, marks=pytest.mark.slow)]
)
def test_a_block_under_a_scope(make):
    block, y = pef.ExpFamPCA(COUNTS, 4, 2, intercept_scale=2.0), counts()
    model = scoped(block)
    guide = make(model)
    trained(model, guide, (y,), steps=3)
    median = guide.median(y)
    assert set(median) == {"a/loading", "a/intercept", "a/z"}
    assert torch.equal(guide.loading, median["a/loading"])
    assert torch.equal(guide.block("a").intercept, median["a/intercept"])
    root = pef.solve_latents(COUNTS, y, median["a/loading"], median["a/intercept"]).value
    torch.testing.assert_close(guide.latents(y), root)
    assert guide.sample_stats(y)["a/converged"].all()
    idata = pef.to_arviz(model, guide, y, num_samples=3)
    assert idata["sample_stats"]["a.converged"].dims == ("row",)
    report = pef.check(model, guide, y)
    assert set(report.blocks) == {"a"}
    assert report.blocks["a"].rows.converged.all()


def test_a_block_in_two_scopes():
    model, data = Twice(), (counts(), counts(5))
    guide = pef.DEQMAPGuide(model)
    trained(model, guide, data, steps=3)
    median = guide.median(*data)
    assert set(median) == {
        "first/pca.loading",
        "first/pca.intercept",
        "first/pca.z",
        "second/pca.z",
    }
    for name, y in zip(("first/pca", "second/pca"), data, strict=True):
        block = guide.block(name)
        assert torch.equal(block.loading, median["first/pca.loading"])
        torch.testing.assert_close(block.latents(y), median[f"{name}.z"])
    with pytest.raises(ValueError, match=r"name must be one of .*first/pca.*second/pca"):
        _ = guide.loading
    assert set(pef.check(model, guide, *data).blocks) == {"first/pca", "second/pca"}
    pef.to_arviz(model, guide, *data, num_samples=2)


class Shifted(PyroModule):
    """A table whose offset the model draws, for all entries or for each row or feature."""

    def __init__(self, shape, has_features=True):
        super().__init__()
        self.pca = pef.ExpFamPCA(COUNTS, 4, 2, loading_scale=None, intercept_scale=None)
        self.shape, self.has_features = shape, has_features

    def forward(self, y):
        prior = dist.Normal(0.0, 1.0)
        if self.shape == "rows":
            with pyro.plate("effects", len(y), dim=-1):
                shift = pyro.sample("shift", prior)
        elif self.shape == "features":
            shift = pyro.sample("shift", prior.expand([4]).to_event(1))
        else:
            shift = pyro.sample("shift", prior)
        expands = self.has_features and self.shape != "features"
        self.pca(y, offset=shift[..., None] if expands else shift)


@pytest.mark.parametrize("make", [pef.DEQMAPGuide, pef.LaplaceGuide])
@pytest.mark.parametrize(
    ("shape", "num_particles"), in_turn(["number", "rows", "features"], [7, NUM_ROWS])
)
def test_particles_of_an_offset_that_the_model_draws(make, shape, num_particles):
    model, y = Shifted(shape), counts()
    guide = make(model, global_guide=AutoNormal)
    guide(y)

    with torch.no_grad():
        # ELBOs draw their particles like this.
        with pyro.plate("particles", num_particles, dim=-2):
            trace = poutine.trace(guide).get_trace(y)
            found = poutine.trace(poutine.replay(model, trace=trace)).get_trace(y)
        found.compute_log_prob()
        values = {name: trace.nodes[name]["value"] for name in ("shift", "pca.z")}
        single = {"number": (), "rows": (NUM_ROWS,), "features": (4,)}[shape]
        for k in range(num_particles):
            one = {"shift": values["shift"][k].reshape(single), "pca.z": values["pca.z"][k]}
            alone = poutine.trace(poutine.condition(model, one)).get_trace(y)
            alone.compute_log_prob()
            torch.testing.assert_close(
                found.nodes["pca.y"]["log_prob"][k], alone.nodes["pca.y"]["log_prob"]
            )
            offset = one["shift"] if shape == "features" else one["shift"][..., None]
            root = pef.solve_latents(COUNTS, y, guide.loading, guide.intercept, offset=offset).value
            mean = trace.nodes["pca.z"]["fn"].mean[k]
            torch.testing.assert_close(mean, root, rtol=1e-4, atol=1e-4)
    elbo = Trace_ELBO(num_particles, max_plate_nesting=1, vectorize_particles=True)
    assert SVI(model, guide, Adam({"lr": 0.01}), elbo).step(y) > 0


@pytest.mark.parametrize("num_particles", [7, NUM_ROWS], ids=["others", "as many as rows"])
def test_particles_are_never_taken_for_rows(num_particles):
    model, y = Shifted("number", has_features=False), counts()
    guide = pef.DEQMAPGuide(model, global_guide=AutoNormal)
    # Without particles the offset is a number.
    guide(y)
    elbo = Trace_ELBO(num_particles=num_particles, vectorize_particles=True)
    with pytest.raises(
        ValueError, match=r"offset must have dimensions .*since it comes from shift"
    ):
        elbo.loss(model, guide, y)


@pytest.mark.parametrize("num_particles", [7, NUM_ROWS])
def test_one_offset_for_each_row_serves_all_particles(num_particles):
    model, y, offset = pef.ExpFamPCA(COUNTS, 4, 2), counts(), torch.randn(NUM_ROWS, 1)
    guide = pef.DEQMAPGuide(model)
    guide(y, offset)
    losses = [
        Trace_ELBO(num_particles=num_particles, vectorize_particles=vectorised).loss(
            model, guide, y, offset
        )
        for vectorised in (True, False)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_missing_entries_and_offsets_in_a_model_with_two_blocks():
    model = Supervised()
    mask = torch.rand(NUM_ROWS, 6) < 0.6
    y = torch.where(mask, bits(), torch.nan)

    def masked(y, counts):
        return model.bits(y, mask=mask), model.counts(counts, offset=torch.full((1, 4), 0.3))

    guide = pef.DEQMAPGuide(masked)
    values = guide(y, counts())
    W, b = model.bits.loading, model.bits.intercept
    root = pef.solve_latents(BITS, y, W, b, mask=mask).value
    torch.testing.assert_close(values["bits.z"], root)


def test_the_same_model_runs_under_nuts():
    model = pef.ExpFamPCA(COUNTS, 4, 1)
    y = counts(5)
    mcmc = MCMC(NUTS(model), num_samples=10, warmup_steps=10, disable_progbar=True)
    mcmc.run(y)
    assert mcmc.get_samples()["z"].shape == (10, 5, 1)


def test_a_point_loading_may_be_set():
    model = pef.ExpFamPCA(COUNTS, 4, 2, intercept_scale=None)
    model.loading = PyroParam(torch.ones(4, 2))
    guide = pef.DEQMAPGuide(model)
    assert set(guide(counts())) == {"z"}
    assert torch.equal(guide.loading, torch.ones(4, 2))
