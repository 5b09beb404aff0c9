"""Guides inside and outside of ``torch.inference_mode``."""

import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam
from quick_cases import in_turn

import pyro_expfam as pef

POISSON = pef.families.Poisson()


def counts(num_rows=30):
    return torch.poisson(torch.exp(torch.randn(num_rows, 2) @ torch.randn(2, 5) / 2))


GUIDES = {
    "map": pef.DEQMAPGuide,
    "laplace": pef.LaplaceGuide,
    "normal": lambda model: pef.LaplaceGuide(model, global_guide=AutoNormal),
    "globals": lambda model: pef.LaplaceGuide(model, globals="laplace"),
}


def guide_of(kind):
    return GUIDES[kind](pef.ExpFamPCA(POISSON, 5, 2, intercept_scale=2.0))


def use_outside(kind, guide, *table):
    """Everything that a guide does, outside of an inference mode."""
    guide(*table)
    guide.latents(*table).sum().backward() if kind != "globals" else guide.latents(*table)
    guide.log_evidence(*table)
    guide.median(*table)
    if kind != "globals":
        svi = SVI(guide.model, guide, Adam({"lr": 0.01}), Trace_ELBO())
        for _ in range(2):
            svi.step(*table)
    if kind != "normal":
        guide.fit(*table, callback=lambda sweep: sweep.number == 2)
        pef.check(guide.model, guide, *table, num_draws=50)
    Predictive(guide.model, guide=guide, num_samples=2)(*table)


@pytest.mark.parametrize(("kind", "is_first"), in_turn(list(GUIDES), [True, False]))
def test_a_call_inside_leaves_nothing_behind(kind, is_first):
    y = counts()
    guide = guide_of(kind)
    if not is_first:
        guide(y)
    with torch.inference_mode():
        inside = guide(y)["z"]
        guide.latents(y), guide.median(y), guide.sample_stats(y), guide.model(y)
        Predictive(guide.model, guide=guide, num_samples=2)(y)
        if kind != "normal":
            pef.check(guide.model, guide, y, num_draws=50)
        assert inside.is_inference()
    assert not any(x.is_inference() for x in [*guide.parameters(), *guide.model.parameters()])
    use_outside(kind, guide, y)


@pytest.mark.parametrize("kind", GUIDES)
def test_tensors_made_inside_may_come_in_outside(kind):
    y = counts()
    with torch.inference_mode():
        table = y + 0, torch.zeros(30, 5), torch.ones(30, 5, dtype=torch.bool), torch.ones(30, 5)
    guide = guide_of(kind)
    if kind in {"map", "laplace"}:
        guide.fit(*table)
        expected = guide.latents(y, *(x.clone() for x in table[1:]))
        torch.testing.assert_close(guide.latents(*table), expected)
    use_outside(kind, guide, *table)


def test_arviz_takes_tensors_made_inside():
    pytest.importorskip("arviz")
    y = counts()
    guide = guide_of("laplace")
    guide.fit(y)
    with torch.inference_mode():
        inside = y + 0
        pef.to_arviz(guide.model, guide, y, num_samples=3)
    pef.to_arviz(guide.model, guide, inside, num_samples=3)


@pytest.mark.parametrize("kind", ["map", "laplace", "globals"])
def test_a_fit_inside_is_a_fit(kind):
    y = counts()
    guide = guide_of(kind)
    with torch.inference_mode():
        fit = guide.fit(y)
    assert fit.converged
    assert not fit.latents.is_inference()
    use_outside(kind, guide, y)


def test_the_latents_are_the_same_inside():
    y = counts()
    guide = guide_of("laplace")
    guide.fit(y)
    outside = guide.latents(y)
    with torch.inference_mode():
        torch.testing.assert_close(guide.latents(y), outside, rtol=0.0, atol=0.0)
        posterior = guide.posterior(y)
        assert not posterior.mean.requires_grad


@pytest.mark.slow
def test_choosing_latents_and_their_scale_works_inside():
    y = counts()
    guide = guide_of("globals")
    with torch.inference_mode():
        guide.learn_loading_scale(y)
        made_inside = guide_of("globals")
        inside = pef.compare_latent_dims(POISSON, y, [1], num_folds=2)
    outside = pef.compare_latent_dims(POISSON, y, [1], num_folds=2)
    evidence = [[row.evidence for row in found.rows] for found in (inside, outside)]
    assert evidence[0] == pytest.approx(evidence[1], rel=1e-4)
    use_outside("globals", guide, y)
    use_outside("globals", made_inside, y)
