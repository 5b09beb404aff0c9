"""The saved state of a guide, and what it is loaded into."""

import copy
import gc
import pickle
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from pyro.optim import Adam
from quick_cases import in_turn
from torch.distributions.constraints import positive

import pyro_expfam as pef

POISSON = pef.families.Poisson()


def counts(num_rows=30):
    return torch.poisson(torch.exp(torch.randn(num_rows, 2) @ torch.randn(2, 5) / 2))


def trained(model, guide, *data, steps=3):
    svi = SVI(model, guide, Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(steps):
        svi.step(*data)
    return guide


def learnt_precision():
    return PyroParam(torch.tensor(2.0), constraint=positive)


SETTINGS = {
    "point intercept": {"intercept_scale": None},
    "priors": {"intercept_scale": 2.0},
    "point loading": {"loading_scale": None},
    "learnt precision": {"latent_precision": learnt_precision()},
}


@pytest.mark.parametrize(
    ("settings", "make", "local"),
    in_turn(list(SETTINGS), [pef.DEQMAPGuide, pef.LaplaceGuide], [False, True]),
)
def test_the_state_of_a_guide_makes_a_fresh_one_the_same(settings, make, local):
    with pyro.settings.context(module_local_params=local):
        y = counts()

        def fresh():
            return make(
                pef.ExpFamPCA(POISSON, 5, 2, **{"intercept_scale": None, **SETTINGS[settings]})
            )

        guide = fresh()
        trained(guide.model, guide, y)
        other = fresh()
        assert other.load_state_dict(guide.state_dict()) == ([], [])
        for name in ("loading", "intercept"):
            torch.testing.assert_close(getattr(other, name), getattr(guide, name))
        torch.testing.assert_close(other.latents(y), guide.latents(y))
        torch.testing.assert_close(other.log_evidence(y), guide.log_evidence(y))
        # It goes on from there.
        for one in (guide, other):
            pyro.set_rng_seed(1)
            trained(one.model, one, y, steps=1)
        torch.testing.assert_close(other.loading, guide.loading)


@pytest.mark.parametrize("global_guide", [AutoNormal, AutoMultivariateNormal])
def test_the_state_of_any_global_guide_loads(global_guide):
    y = counts()

    def fresh():
        return pef.LaplaceGuide(
            pef.ExpFamPCA(POISSON, 5, 2, intercept_scale=None), global_guide=global_guide
        )

    guide = fresh()
    trained(guide.model, guide, y)
    other = fresh()
    other.load_state_dict(guide.state_dict())
    torch.testing.assert_close(other.latents(y), guide.latents(y))


def test_fit_goes_on_from_a_loaded_state():
    y = counts()
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(POISSON, 5, 2, intercept_scale=None))
    best = guide.fit(y).objective
    other = pef.DEQMAPGuide(pef.ExpFamPCA(POISSON, 5, 2, intercept_scale=None))
    other.load_state_dict(guide.state_dict())
    fit = other.fit(y, max_sweeps=10)
    assert fit.objective <= best * (1 + 1e-6)


class Larger(PyroModule):
    def __init__(self):
        super().__init__()
        self.pca = pef.ExpFamPCA(POISSON, 5, 2, intercept_scale=None)

    def forward(self, y):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        return self.pca(y, offset=shift)


@pytest.mark.parametrize("is_function", [False, True])
def test_the_state_of_a_guide_of_a_larger_model_waits_for_the_first_call(is_function):
    y = counts()

    def fresh():
        model = Larger()
        return pef.DEQMAPGuide((lambda y: model(y)) if is_function else model)

    guide = fresh()
    trained(guide.model, guide, y)
    state = copy.deepcopy(guide.state_dict())
    assert "model.pca.intercept_unconstrained" in state
    other = fresh()
    other.load_state_dict(state)
    # Saved once more before it has seen anything, it is the same.
    torch.testing.assert_close(dict(other.state_dict()), dict(state))
    torch.testing.assert_close(other(y)["pca.loading"], guide(y)["pca.loading"])
    torch.testing.assert_close(other.block().latents(y), guide.block().latents(y))
    # A tensor that does not fit is an error at the first call, and at every later one.
    wrong = fresh()
    wrong.load_state_dict({**state, "global_guide.shift_unconstrained": torch.zeros(3)})
    for _ in range(2):
        with pytest.raises(RuntimeError, match="shift"):
            wrong(y)


def test_totals_by_row_wait_for_the_first_call():
    totals = torch.tensor([[3.0], [5.0], [4.0]])
    y = torch.binomial(totals.expand(3, 5), torch.full((3, 5), 0.4))

    def fresh():
        return pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Binomial(totals), 5, 1))

    guide = fresh()
    guide.fit(y)
    other = fresh()
    other.load_state_dict(guide.state_dict())
    other(y)
    torch.testing.assert_close(other.latents(y), guide.latents(y))


@pytest.mark.parametrize("is_seen", [False, True])
def test_a_bad_entry_of_a_state_is_named(is_seen):
    y = counts()
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(POISSON, 5, 2, intercept_scale=None))
    guide(y)
    state = guide.state_dict()
    assert set(state) == {"model.intercept_unconstrained", "global_guide.loading_unconstrained"}

    def load(changes, model=None):
        other = pef.DEQMAPGuide(model or pef.ExpFamPCA(POISSON, 5, 2, intercept_scale=None))
        if is_seen:
            other(y)
        other.load_state_dict({k: v for k, v in {**state, **changes}.items() if v is not None})

    with pytest.raises(RuntimeError, match=r"global_guide.loading_unconstrained.*\[5, 2\]"):
        load({}, pef.ExpFamPCA(POISSON, 5, 3, intercept_scale=None))
    with pytest.raises(RuntimeError, match=r"model.intercept_unconstrained.*\(5,\).*\(4,\)"):
        load({"model.intercept_unconstrained": torch.zeros(4)})
    with pytest.raises(RuntimeError, match=r"Missing.*model.intercept_unconstrained"):
        load({"model.intercept_unconstrained": None})
    with pytest.raises(RuntimeError, match=r"Missing.*global_guide.loading_unconstrained"):
        load({"global_guide.loading_unconstrained": None})
    with pytest.raises(RuntimeError, match=r"Unexpected.*model.offset"):
        load({"model.offset": torch.zeros(5)})
    with pytest.raises(RuntimeError, match=r"Unexpected.*global_guide.loadings"):
        load({"global_guide.loadings": torch.zeros(5)})


def test_a_loaded_state_moves_the_point_parameters_of_the_model_for_all_its_guides():
    y = counts()
    model = pef.ExpFamPCA(POISSON, 5, 2, intercept_scale=None)
    first, second = pef.DEQMAPGuide(model), pef.DEQMAPGuide(model)
    first.fit(y)
    # The same numbers move nothing.
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(first.latents(y), second.latents(y))
    state = {name: value + 1.0 for name, value in first.state_dict().items()}
    second.load_state_dict(state)
    second.latents(y)
    with pytest.raises(RuntimeError, match="another guide"):
        first.latents(y)


@pytest.mark.parametrize(
    ("make", "local"), in_turn([pef.DEQMAPGuide, pef.LaplaceGuide], [False, True])
)
def test_a_guide_that_is_copied_or_written_is_independent_of_the_original(make, local, tmp_path):
    with pyro.settings.context(module_local_params=local):
        y = counts()
        model = pef.ExpFamPCA(POISSON, 5, 2, intercept_scale=None)
        guide = trained(model, make(model), y)
        expected = guide.latents(y)
        torch.save(guide, tmp_path / "guide.pt")
        others = [
            copy.deepcopy(guide),
            pickle.loads(pickle.dumps(guide)),
            torch.load(tmp_path / "guide.pt", weights_only=False),
        ]
        for other in others:
            torch.testing.assert_close(other.latents(y), expected)
            other.fit(y + 1)
        torch.testing.assert_close(guide.latents(y), expected)
        guide.fit(y + 2)
        for other in others[1:]:
            torch.testing.assert_close(other.latents(y), others[0].latents(y))


LEARNT = {
    "scale of the noise": lambda: pef.ExpFamPCA(pef.families.Gaussian(), 5, 2),
    "scales by column": lambda: pef.ExpFamPCA(pef.families.Gaussian("per column"), 5, 2),
    "precision": lambda: pef.ExpFamPCA(POISSON, 5, 2, latent_precision=learnt_precision()),
    "loading scale": lambda: pef.ExpFamPCA(
        POISSON, 5, 2, loading_scale=PyroParam(torch.ones(2)), intercept_scale=None
    ),
}

GUIDES = {
    "map": pef.DEQMAPGuide,
    "normal": lambda model: pef.LaplaceGuide(model, global_guide=AutoNormal),
    "shared": lambda model: pef.LaplaceGuide(model, params=pef.DEQMAPGuide(model)),
    "globals": lambda model: pef.LaplaceGuide(model, globals="laplace"),
    "list": lambda model: pef.LaplaceGuide(model, global_guide=list_of_guides),
}


def list_of_guides(model):
    guide = AutoGuideList(model)
    guide.append(AutoNormal(poutine.block(model, hide=["loading"])))
    guide.append(AutoDelta(poutine.block(model, expose=["loading"])))
    return guide


def written(guide, tmp_path):
    torch.save(guide, tmp_path / "guide.pt")
    return torch.load(tmp_path / "guide.pt", weights_only=False)


WAYS = {
    "copied": lambda guide, tmp_path: copy.deepcopy(guide),
    "pickled": lambda guide, tmp_path: pickle.loads(pickle.dumps(guide)),
    "written": written,
}


@pytest.mark.parametrize(
    ("learnt", "kind", "way"),
    in_turn(list(LEARNT), ["map", "normal", "shared", "globals"], list(WAYS.values())),
)
def test_a_guide_of_learnt_hyperparameters_is_copied_and_written(learnt, kind, way, tmp_path):
    y = counts()
    model = LEARNT[learnt]()
    guide = GUIDES[kind](model)
    guide(y)
    other = way(guide, tmp_path)
    torch.testing.assert_close(other.latents(y), guide.latents(y))
    if kind != "globals":
        trained(model, guide, y, steps=1)
    torch.testing.assert_close(way(guide, tmp_path).latents(y), guide.latents(y))
    if kind != "globals":
        trained(other.model, other, y, steps=1)
        torch.testing.assert_close(other.loading, guide.loading, rtol=0.5, atol=0.5)


def test_a_fitted_guide_of_learnt_noise_is_copied_and_written(tmp_path):
    y = torch.randn(30, 2) @ torch.randn(2, 5) + torch.randn(30, 5) / 2
    guide = pef.LaplaceGuide(LEARNT["scales by column"](), globals="laplace")
    guide.fit(y)
    for way in WAYS.values():
        other = way(guide, tmp_path)
        torch.testing.assert_close(other.model.family_scale, guide.model.family_scale)
        torch.testing.assert_close(other.coefficients.variance(), guide.coefficients.variance())


@pytest.mark.parametrize("way", [WAYS["copied"], WAYS["pickled"]], ids=["copied", "pickled"])
@pytest.mark.parametrize("kind", ["map", "normal", "shared", "globals"])
def test_original_and_copy_of_a_guide_that_has_seen_nothing_both_work(kind, way, tmp_path):
    y = counts()
    guide = GUIDES[kind](pef.ExpFamPCA(POISSON, 5, 2))
    other = way(guide, tmp_path)
    for one in (guide, other):
        assert one(y)["z"].shape == (30, 2)
        if kind != "globals":
            trained(one.model, one, y, steps=1)
        one.latents(y)
    assert other.model is not guide.model
    assert not torch.equal(other.model.loading, guide.model.loading)


def test_a_copy_leaves_each_part_of_a_list_of_global_guides_its_model():
    y = counts()
    guide = GUIDES["list"](pef.ExpFamPCA(POISSON, 5, 2))
    other = copy.deepcopy(guide)
    for one in (guide, other):
        assert set(one(y)) == {"z", "loading", "intercept"}
        trained(one.model, one, y, steps=1)


@pytest.mark.parametrize("kind", ["map", "normal", "shared"])
def test_a_guide_lets_its_first_table_go(kind):
    # Garbage of this test alone is looked for.
    gc.freeze()
    guide = GUIDES[kind](pef.ExpFamPCA(POISSON, 5, 2))
    y = counts()
    table = weakref.ref(y)
    trained(guide.model, guide, y, steps=1)
    guide.latents(y)
    del y
    gc.collect()
    assert table() is None
    guide.latents(counts())


@pytest.mark.parametrize("is_seen", [False, True])
def test_a_copy_made_in_inference_mode_can_be_trained(is_seen):
    y = counts()
    guide = pef.LaplaceGuide(pef.ExpFamPCA(POISSON, 5, 2, intercept_scale=None))
    if is_seen:
        guide(y)
    with torch.inference_mode():
        other = copy.deepcopy(guide)
    other.latents(y) if is_seen else other(y)
    trained(other.model, other, y, steps=1)
