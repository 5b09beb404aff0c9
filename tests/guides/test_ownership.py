"""Several models and guides in one program, none of which changes another."""

import copy
import gc
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoGuideList,
    AutoMultivariateNormal,
    AutoNormal,
    AutoNormalizingFlow,
)
from pyro.nn import PyroModule, PyroParam
from pyro.optim import Adam
from torch.distributions.constraints import positive

import pyro_expfam as pef

POISSON = pef.families.Poisson()
BITS = pef.families.Bernoulli()


def counts(num_rows=60, num_features=6):
    factors = torch.randn(num_rows, 3) @ torch.randn(3, num_features)
    return torch.poisson(torch.exp(factors / 2))


def svi_of(model, guide, rate=0.03):
    return SVI(model, guide, Adam({"lr": rate}), Trace_ELBO())


def parameters(model, guide):
    return {
        **{f"model.{name}": x.detach().clone() for name, x in model.named_parameters()},
        **{f"guide.{name}": x.detach().clone() for name, x in guide.named_parameters()},
    }


@pytest.mark.parametrize("local", [False, True])
def test_fits_of_several_sizes_end_where_each_would_alone(local):
    y = counts()

    def fitted(latent_dim):
        pyro.set_rng_seed(latent_dim)
        guide = pef.DEQMAPGuide(pef.ExpFamPCA(POISSON, 6, latent_dim))
        return guide, guide.fit(y).objective

    with pyro.settings.context(module_local_params=local):
        alone = []
        for latent_dim in (1, 2, 3):
            pyro.clear_param_store()
            guide, objective = fitted(latent_dim)
            alone.append((objective, guide.log_evidence(y).detach()))
        pyro.clear_param_store()
        together = [fitted(latent_dim) for latent_dim in (1, 2, 3)]
        for latent_dim, (guide, objective) in enumerate(together, start=1):
            assert guide.loading.shape == (6, latent_dim)
            expected_objective, expected_evidence = alone[latent_dim - 1]
            assert objective == expected_objective
            torch.testing.assert_close(guide.log_evidence(y), expected_evidence, rtol=0.0, atol=0.0)


def test_a_fit_to_other_observations_leaves_the_first_as_it_was():
    y = counts()
    first = pef.DEQMAPGuide(pef.ExpFamPCA(POISSON, 6, 2))
    first.fit(y)
    evidence, latents = first.log_evidence(y).detach(), first(y)["z"].detach()
    bits = (y > 1).to(y.dtype)
    second = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Binomial(1), 6, 2))
    second.fit(bits)
    second(bits)
    torch.testing.assert_close(first.log_evidence(y), evidence, rtol=0.0, atol=0.0)
    torch.testing.assert_close(first(y)["z"], latents)
    # Their loadings are not the start of a third.
    third = pef.DEQMAPGuide(pef.ExpFamPCA(POISSON, 6, 2))
    third(y)
    assert not torch.equal(third.loading, first.loading)
    assert float(third.loading.norm()) < float(first.loading.norm())


def auto_multivariate(model):
    return AutoMultivariateNormal(model, init_scale=0.1)


def auto_flow(model):
    def transforms(dim):
        return dist.transforms.iterated(2, dist.transforms.planar, dim)

    return AutoNormalizingFlow(model, transforms)


class Supervised(PyroModule):
    """Responses from the latents of a table, by a head that Pyro knows as a module or not."""

    def __init__(self, kind, latent_dim=2):
        super().__init__()
        self.pca = pef.ExpFamPCA(POISSON, 6, latent_dim, intercept_scale=None)
        self.head = kind(latent_dim, 1)

    def forward(self, y):
        z = self.pca(y)
        mean = self.head(z).squeeze(-1)
        with pyro.plate("responses", len(z)):
            pyro.sample("response", dist.Normal(mean, 0.5), obs=y.sum(-1).log1p())


def single(**settings):
    def make(latent_dim=2):
        return pef.ExpFamPCA(POISSON, 6, latent_dim, **{"intercept_scale": None, **settings})

    return make


def learnt_scale():
    return PyroParam(torch.tensor(1.0), constraint=positive)


PROGRAMS = {
    "point intercept": (single(), pef.DEQMAPGuide),
    "priors of both": (single(intercept_scale=1.0), pef.LaplaceGuide),
    "point loading": (single(loading_scale=None), pef.DEQMAPGuide),
    "learnt precision": (single(latent_precision=learnt_scale()), pef.LaplaceGuide),
    "normal loading": (single(), lambda model: pef.DEQMAPGuide(model, global_guide=AutoNormal)),
    "correlated": (single(), lambda model: pef.DEQMAPGuide(model, global_guide=auto_multivariate)),
    "a flow": (single(), lambda model: pef.DEQMAPGuide(model, global_guide=auto_flow)),
    "a head": (lambda: Supervised(torch.nn.Linear), pef.DEQMAPGuide),
    "a head of Pyro": (lambda: Supervised(PyroModule[torch.nn.Linear]), pef.DEQMAPGuide),
}

# SVI takes no parameter of PyTorch where parameters are local to modules.
WITH_PLAIN_PARAMETERS = {"correlated", "a flow", "a head", "a head of Pyro"}


@pytest.mark.filterwarnings("ignore:Failed to verify mean field restriction")
@pytest.mark.parametrize(
    ("program", "local"),
    # Once for each program; without local parameters where both are possible is a slow test.
    [
        pytest.param(
            program, False, marks=() if program in WITH_PLAIN_PARAMETERS else pytest.mark.slow
        )
        for program in PROGRAMS
    ]
    + [(program, True) for program in PROGRAMS if program not in WITH_PLAIN_PARAMETERS],
)
def test_training_two_in_turn_equals_training_each_alone(program, local):
    make_model, make_guide = PROGRAMS[program]
    tables = counts(), counts()

    class Run:
        def __init__(self, seed):
            self.y = tables[seed]
            self.random = torch.Generator().manual_seed(seed).get_state()
            with self:
                self.model = make_model()
                self.guide = make_guide(self.model)
                self.svi = svi_of(self.model, self.guide)

        def __enter__(self):
            torch.set_rng_state(self.random)

        def __exit__(self, *_):
            self.random = torch.get_rng_state()

        def step(self):
            with self:
                return self.svi.step(self.y)

        def trained(self):
            return parameters(self.model, self.guide)

    with pyro.settings.context(module_local_params=local):
        alone = []
        for seed in (0, 1):
            pyro.clear_param_store()
            run = Run(seed)
            alone.append(([run.step() for _ in range(6)], run.trained()))
        pyro.clear_param_store()
        first, second = Run(0), Run(1)
        losses = [(first.step(), second.step()) for _ in range(6)]
        for run, expected, found in zip(
            (first, second), alone, zip(*losses, strict=True), strict=True
        ):
            assert list(found) == expected[0]
            assert run.trained().keys() == expected[1].keys()
            for name, value in run.trained().items():
                torch.testing.assert_close(value, expected[1][name], rtol=0.0, atol=0.0, msg=name)
            # And training has moved all of it.
            assert found[-1] != found[0]


@pytest.mark.parametrize("kind", [torch.nn.Linear, PyroModule[torch.nn.Linear]])
def test_a_model_that_runs_alone_has_its_own_head(kind):
    y = counts()
    first, second = Supervised(kind), Supervised(kind)
    for model in (first, second):
        svi = svi_of(model, pef.DEQMAPGuide(model))
        for _ in range(3):
            svi.step(y)
    heads = [model.head.weight.detach().clone() for model in (first, second)]
    assert not torch.equal(*heads)
    samples = {"pca.loading": torch.randn(1, 6, 2), "pca.z": torch.randn(1, 60, 2)}
    for model in (first, second, first):
        Predictive(model, posterior_samples=samples)(y)
    for model, head in zip((first, second), heads, strict=True):
        torch.testing.assert_close(model.head.weight, head, rtol=0.0, atol=0.0)
    assert first.head.weight is not second.head.weight


def test_models_of_two_sizes_run_in_turn():
    y = counts()
    models = [single()(latent_dim) for latent_dim in (1, 3)]
    wide = pef.ExpFamPCA(POISSON, 4, 1, intercept_scale=None)
    for _ in range(2):
        for model in models:
            assert model(y).shape == (60, model.latent_dim)
        assert wide(y[:, :4]).shape == (60, 1)
        assert wide.intercept.shape == (4,)


def test_lists_of_guides_have_their_own_parameters():
    y = counts()

    def trained(seed, steps=3):
        pyro.set_rng_seed(seed)
        model = single(intercept_scale=1.0)()
        guide = AutoGuideList(model)
        guide.append(AutoDelta(pyro.poutine.block(model, expose=["intercept"])))
        guide.append(pef.DEQMAPGuide(pyro.poutine.block(model, hide=["intercept"])))
        svi = svi_of(model, guide)
        return guide, [svi.step(y) for _ in range(steps)]

    pyro.clear_param_store()
    _, alone = trained(1)
    pyro.clear_param_store()
    first, _ = trained(0)
    before = {name: x.detach().clone() for name, x in first.named_parameters()}
    second, losses = trained(1)
    assert losses == alone
    median = second.median(y)
    first(y)
    for name, parameter in first.named_parameters():
        torch.testing.assert_close(parameter, before[name], rtol=0.0, atol=0.0)
    torch.testing.assert_close(second.median(y), median)


@pytest.mark.parametrize("globals", [None, "laplace"])
def test_a_guide_shares_the_parameters_of_the_given_guide(globals):
    y = counts()
    model = single(intercept_scale=1.0)()
    guide = pef.DEQMAPGuide(model)
    guide.fit(y)
    laplace = pef.LaplaceGuide(model, params=guide, globals=globals)
    laplace(y)
    expected = laplace.median(y)
    other = single(intercept_scale=1.0)()
    other_guide = pef.DEQMAPGuide(other)
    other_guide.fit(y + 1)
    pef.LaplaceGuide(other, params=other_guide, globals=globals)(y + 1)
    torch.testing.assert_close(laplace.median(y), expected, rtol=0.0, atol=0.0)
    torch.testing.assert_close(laplace.loading, expected["loading"], rtol=0.0, atol=0.0)


def test_a_trained_guide_goes_on_after_the_store_is_cleared():
    y = counts()
    model = single()()
    guide = pef.DEQMAPGuide(model)
    svi = svi_of(model, guide)
    losses = [svi.step(y) for _ in range(3)]
    pyro.clear_param_store()
    losses += [svi.step(y) for _ in range(3)]
    pyro.clear_param_store()
    assert losses == sorted(losses, reverse=True)
    loading = guide.loading
    guide(y)
    torch.testing.assert_close(guide.loading, loading, rtol=0.0, atol=0.0)
    stored = pyro.get_param_store()._params["DEQMAPGuide.global_guide.loading"]
    assert stored is guide.global_guide.loading_unconstrained


# ------------------------------------------------------------------ what the user puts in the store


def test_what_the_user_loads_into_the_store_is_taken(tmp_path):
    y = counts()
    model = single()()
    guide = pef.DEQMAPGuide(model)
    guide.fit(y)
    guide(y), model(y)
    loading, intercept = guide.loading.clone(), guide.intercept.clone()
    pyro.get_param_store().save(tmp_path / "store")
    guide.fit(y + 3)
    # Into the guide that is there, and into a new one before its first call.
    for other in (guide, pef.DEQMAPGuide(single()())):
        pyro.clear_param_store()
        pyro.get_param_store().load(tmp_path / "store")
        other(y)
        torch.testing.assert_close(other.loading, loading, rtol=0.0, atol=0.0)
        torch.testing.assert_close(other.intercept, intercept, rtol=0.0, atol=0.0)


def test_a_value_set_in_the_store_is_taken_by_a_read():
    y = counts()
    guide = pef.DEQMAPGuide(single()())
    guide.fit(y)
    guide(y)
    new = torch.randn(6, 2)
    pyro.get_param_store()["DEQMAPGuide.global_guide.loading"] = new
    torch.testing.assert_close(guide.loading, new)
    torch.testing.assert_close(guide(y)["loading"].detach(), new)


@pytest.mark.parametrize("name", ["intercept", "DEQMAPGuide.global_guide.loading"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_stored_parameter_of_another_shape_is_refused_by_name(name, is_first):
    y = counts()
    guide = pef.DEQMAPGuide(single()())
    if not is_first:
        guide(y)
    pyro.get_param_store()[name] = torch.zeros(5, 4)
    with pytest.raises(ValueError, match=rf"{name}'.*\(6,.*got \(5, 4\).*clear_param_store"):
        guide(y)
    with pytest.raises(ValueError, match=name):
        guide.fit(y)
    pyro.clear_param_store()
    assert guide.fit(y).converged


# ------------------------------------------------------------------ optimisers and memory


def test_the_state_of_an_optimiser_keeps_its_names():
    y = counts()
    runs = []
    for _ in range(2):
        model = single()()
        runs.append(svi_of(model, pef.DEQMAPGuide(model)))
    for svi in runs * 2:
        svi.step(y)
    for svi in runs:
        assert set(svi.optim.get_state()) == {"intercept", "DEQMAPGuide.global_guide.loading"}


def test_guides_that_are_gone_leave_no_tensors_behind():
    # Garbage of this test alone is looked for.
    gc.freeze()
    y = counts()

    def names():
        guide = pef.DEQMAPGuide(single()())
        guide(y)
        del guide
        gc.collect()
        return len(pyro.get_param_store()._param_to_name)

    names()
    assert names() == names()


# ------------------------------------------------------------------ two guides of one model


def test_a_guide_whose_model_another_has_trained_is_refused():
    y = counts()
    model = single()()
    first = pef.DEQMAPGuide(model)
    first.fit(y)
    second = pef.LaplaceGuide(model)
    second.fit(y + 3)
    latents = second.latents(y)
    for use in (
        lambda: first.latents(y),
        lambda: first.intercept,
        lambda: first.log_evidence(y),
        lambda: first.median(y),
        lambda: Predictive(model, guide=first, num_samples=1)(y),
        lambda: pef.LaplaceGuide(model, params=first).posterior(y),
        lambda: pickle.loads(pickle.dumps(first)).latents(y),
        lambda: copy.deepcopy(first).latents(y),
    ):
        with pytest.raises(RuntimeError, match=r"intercept.*another guide.*deepcopy"):
            use()
    torch.testing.assert_close(second.latents(y), latents)
    # Training it again is one cure.
    assert first.fit(y).converged
    first.latents(y)
    with pytest.raises(RuntimeError, match="another guide"):
        second.latents(y)


def test_steps_of_another_guide_are_seen_too():
    y = counts()
    model = single()()
    first, second = pef.DEQMAPGuide(model), pef.LaplaceGuide(model)
    first_svi, second_svi = svi_of(model, first), svi_of(model, second)
    first_svi.step(y)
    second_svi.step(y)
    with pytest.raises(RuntimeError, match="another guide"):
        first(y)
    second(y)
    first_svi.step(y)
    first(y)


def test_guides_of_one_model_whose_priors_leave_nothing_to_share_are_independent():
    y = counts()
    model = single(intercept_scale=1.0)()
    first, second = pef.DEQMAPGuide(model), pef.LaplaceGuide(model)
    first.fit(y)
    latents = first.latents(y)
    second.fit(y + 3)
    torch.testing.assert_close(first.latents(y), latents, rtol=0.0, atol=0.0)


def test_what_the_user_sets_in_the_model_is_taken():
    y = counts()
    model = single()()
    guide = pef.DEQMAPGuide(model)
    guide.fit(y)
    model.intercept = torch.full((6,), 0.5)
    torch.testing.assert_close(guide.intercept, torch.full((6,), 0.5))
    guide.latents(y)
