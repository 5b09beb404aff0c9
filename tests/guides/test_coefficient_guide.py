"""The guide of loading and intercept as a ``global_guide``."""

import copy
import pickle
from functools import partial

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoNormal
from pyro.nn import PyroModule, PyroSample
from pyro.optim import Adam
from quick_cases import in_turn

import pyro_expfam as pef

POISSON = pef.families.Poisson()


@pytest.fixture(name="y")
def table():
    return torch.poisson((0.6 * torch.randn(60, 1) @ torch.randn(1, 5)).exp())


def block(**settings):
    return pef.ExpFamPCA(POISSON, 5, 1, **{"intercept_scale": 2.0, **settings})


def drawn(guide, y):
    torch.manual_seed(0)
    return guide(y)


def test_globals_laplace_is_the_same_guide(y):
    model = block()
    trained = pef.DEQMAPGuide(model)
    trained.fit(y)
    short = pef.LaplaceGuide(model, params=trained, globals="laplace")
    guide = pef.LaplaceGuide(model, params=trained, global_guide=pef.CoefficientGuide)
    assert type(short.global_guide) is type(guide.global_guide) is pef.CoefficientGuide
    for one in (short, guide):
        one.update_globals(y)
    torch.testing.assert_close(drawn(short, y), drawn(guide, y), rtol=0.0, atol=0.0)
    torch.testing.assert_close(short.median(y), guide.median(y), rtol=0.0, atol=0.0)


def test_before_a_fit_by_hand_the_medians_are_those_that_it_begins_from(y):
    guide = pef.LaplaceGuide(block(), global_guide=pef.CoefficientGuide)
    guide.fit(y)
    medians = guide.median(y)
    guide.global_guide.forget()
    points = guide.global_guide.trained
    torch.testing.assert_close(guide.loading, points.loading.detach(), rtol=0.0, atol=0.0)
    # The mean of the posterior is corrected for skewness.
    assert not torch.allclose(medians["loading"], points.loading.detach(), rtol=1e-4)
    guide.update_globals(y)
    torch.testing.assert_close(guide.median(y), medians)


def test_it_begins_from_any_guide(y):
    make = partial(pef.CoefficientGuide, trained=partial(AutoNormal, init_scale=0.01))
    guide = pef.LaplaceGuide(block(), global_guide=make)
    guide(y)
    points = pef.LaplaceGuide(block(), global_guide=pef.CoefficientGuide)
    points.fit(y)
    for name in ("mean", "factor"):
        found, expected = (getattr(x.coefficients, name) for x in (guide, points))
        # The sign of a latent is free.
        torch.testing.assert_close(found.abs(), expected.abs(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("is_shared", [False, True], ids=["own", "shared"])
def test_other_latents_come_from_the_guide_that_it_begins_from(y, is_shared):
    prior = dist.LogNormal(0.0, 0.1)
    model = block(latent_precision=PyroSample(prior))
    trained = partial(AutoNormal, init_scale=0.3)
    if is_shared:
        other = pef.DEQMAPGuide(model, global_guide=trained)
        guide = pef.LaplaceGuide(model, params=other, global_guide=pef.CoefficientGuide)
    else:
        make = partial(pef.CoefficientGuide, trained=trained)
        guide = pef.LaplaceGuide(model, global_guide=make)
    draws = [guide(y) for _ in range(4)]
    assert set(draws[0]) == {"z", "loading", "intercept", "latent_precision"}
    assert len({float(x["latent_precision"]) for x in draws}) == 4


def list_of_guides(model):
    guide = AutoGuideList(model)
    guide.append(AutoNormal(poutine.block(model, hide=["loading"])))
    guide.append(AutoDelta(poutine.block(model, expose=["loading"])))
    return guide


WAYS = {"copied": copy.deepcopy, "pickled": lambda guide: pickle.loads(pickle.dumps(guide))}


@pytest.mark.parametrize(
    ("seen", "way", "trained"),
    in_turn([False, True], list(WAYS.values()), [AutoDelta, list_of_guides]),
)
def test_copies_go_on_by_themselves(y, trained, way, seen):
    guide = pef.LaplaceGuide(block(), global_guide=partial(pef.CoefficientGuide, trained=trained))
    if seen:
        guide(y)
    other = way(guide)
    if seen:
        torch.testing.assert_close(drawn(other, y), drawn(guide, y))
    before = guide.loading.clone() if seen else None
    other.update_globals(y[:30])
    assert other(y)["loading"].shape == guide(y)["loading"].shape
    if seen:
        assert torch.equal(guide.loading, before)
        assert not torch.allclose(other.loading, before, rtol=1e-3)


def test_a_state_goes_between_guides_with_and_without_it(y):
    plain, guide = pef.LaplaceGuide(block()), pef.LaplaceGuide(block(), globals="laplace")
    guide.fit(y)
    plain.load_state_dict(guide.state_dict())
    loading = guide.global_guide.trained.loading.detach()
    torch.testing.assert_close(plain.loading, loading, rtol=0.0, atol=0.0)
    other = pef.LaplaceGuide(block(), global_guide=pef.CoefficientGuide)
    other.load_state_dict(plain.state_dict())
    other.update_globals(y)
    torch.testing.assert_close(other.coefficients.mean, guide.coefficients.mean)
    assert plain.state_dict().keys() == guide.state_dict().keys() == other.state_dict().keys()


def test_a_state_of_another_model_is_refused(y):
    guide = pef.LaplaceGuide(block(), global_guide=pef.CoefficientGuide)
    guide.fit(y)
    wider = pef.LaplaceGuide(pef.ExpFamPCA(POISSON, 6, 1), global_guide=pef.CoefficientGuide)
    with pytest.raises(RuntimeError, match="size mismatch"):
        wider.load_state_dict(guide.state_dict())
    state = guide.state_dict()
    del state["global_guide.intercept_unconstrained"]
    with pytest.raises(RuntimeError, match=r"Missing key.*intercept_unconstrained"):
        guide.load_state_dict(state)


def test_the_sandwich_shares_what_is_trained_and_has_a_posterior_of_its_own(y):
    guide = pef.LaplaceGuide(block(), global_guide=pef.CoefficientGuide)
    guide.fit(2 * y)
    sandwich, mean = guide.with_sandwich(), guide.coefficients.mean
    assert sandwich.global_guide.trained is guide.global_guide.trained
    sandwich.update_globals(y)
    assert torch.equal(guide.coefficients.mean, mean)
    assert not torch.allclose(sandwich.coefficients.mean, mean, rtol=1e-2)


@pytest.mark.parametrize("name", ["update_globals", "learn_loading_scale"])
def test_guides_without_it_say_which_guide_has_a_posterior(y, name):
    for guide in (
        pef.LaplaceGuide(block()),
        pef.LaplaceGuide(block(), global_guide=AutoNormal),
    ):
        with pytest.raises(ValueError, match=f"{name} wants a CoefficientGuide .* got a guide wit"):
            getattr(guide, name)(y)
        assert not hasattr(guide, "coefficients")


def test_bad_input(y):
    class Two(PyroModule):
        def __init__(self):
            super().__init__()
            self.counts = block()

        def forward(self, y):
            return self.counts(y)

    with pytest.raises(ValueError, match=r"single block.*got Two"):
        pef.LaplaceGuide(Two(), global_guide=pef.CoefficientGuide)
    with pytest.raises(ValueError, match="give one"):
        pef.LaplaceGuide(block(), global_guide=pef.CoefficientGuide, globals="laplace")
    make = partial(pef.CoefficientGuide, trained=AutoNormal)
    guide = pef.LaplaceGuide(block(), global_guide=make)
    with pytest.raises(ValueError, match="wants a global_guide that is an AutoDelta; got AutoNorm"):
        guide.fit(y)


def test_a_map_guide_trains_it_and_has_no_posterior_to_draw_from(y):
    guide = pef.DEQMAPGuide(block(), global_guide=pef.CoefficientGuide)
    expected = pef.DEQMAPGuide(block())
    assert guide.fit(y).objective == pytest.approx(expected.fit(y).objective, rel=1e-6)
    assert guide.latents(y).shape == (60, 1)
    with pytest.raises(RuntimeError, match="update_globals of the LaplaceGuide"):
        guide(y)
    with pytest.raises(RuntimeError, match=r"no parameters .*params="):
        SVI(guide.model, guide, Adam({"lr": 0.05}), Trace_ELBO()).step(y)


def test_categories_beside_other_columns_are_drawn_around_the_maximum():
    law = pef.families.Columns([([0, 2], POISSON), ([1, 3], pef.families.Categorical(3))])
    y = law.decode(law.sample(torch.randn(150, 1) @ (0.8 * torch.randn(1, 8))))
    guide = pef.LaplaceGuide(pef.ExpFamPCA(law, latent_dim=1), globals="laplace")
    assert guide.fit(y).converged
    posterior, owners = guide.coefficients, law.column_of_predictor(4)
    draws = posterior.draw(torch.randn(4_000, posterior.noise_dim).double())
    scale = posterior.variance().flatten().sqrt()
    expected = posterior.covariance() / (scale[:, None] * scale)
    of_draws = (draws.flatten(1) / scale).mT.cov()
    torch.testing.assert_close(of_draws, expected, rtol=0.0, atol=0.1)
    for column in (1, 3):
        levels = posterior.mode[owners == column]
        torch.testing.assert_close(levels.sum(0), torch.zeros_like(levels[0]), rtol=0.0, atol=1e-4)
    assert drawn(guide, y)["loading"].shape == (8, 1)
