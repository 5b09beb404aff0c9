"""Corners of fitting and saving: one latent, parts made by closures, starts that lead nowhere."""

import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from pyro.nn import PyroModule

import pyro_expfam as pef


def test_the_learnt_scale_of_one_latent_is_a_fixed_point():
    y = (torch.randn(100, 1) @ torch.randn(1, 6) + torch.randn(100, 6)).double()
    model = pef.ExpFamPCA(pef.families.Gaussian(1.0), 6, 1, loading_scale=0.3).double()
    guide = pef.LaplaceGuide(model, globals="laplace").double()
    guide.learn_loading_scale(y)
    posterior = guide.coefficients
    moment = (posterior.mode.square() + posterior.variance())[:, 0].mean()
    assert model.loading_scale.shape == ()
    assert float(model.loading_scale) == pytest.approx(float(moment.sqrt()), rel=2e-3)


class Regression(PyroModule):
    """Counts with latents that a regression takes."""

    def __init__(self):
        super().__init__()
        self.counts = pef.ExpFamPCA(pef.families.Poisson(), 5, 2)

    def forward(self, y):
        z = self.counts(y)
        slope = pyro.sample("slope", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.deterministic("score", z @ slope)


def test_a_list_of_guides_made_by_closures_is_pickled_after_its_first_call():
    y, model = torch.poisson(torch.ones(20, 5)), Regression()
    is_slope = "slope"
    guide = AutoGuideList(model)
    guide.append(pef.DEQMAPGuide(poutine.block(model, hide_fn=lambda x: x["name"] == is_slope)))
    guide.append(AutoNormal(poutine.block(model, expose=[is_slope])))
    expected = guide(y)["counts.z"]
    part = pickle.loads(pickle.dumps(guide[0]))
    torch.testing.assert_close(part.latents(y), guide[0].latents(y))
    torch.testing.assert_close(part.latents(y), expected)


def blocks_of_points():
    return pef.ExpFamPCA(pef.families.Poisson(), 5, 2, loading_scale=None, intercept_scale=None)


@pytest.mark.parametrize("make", [blocks_of_points, Regression])
@pytest.mark.parametrize("is_seen", [False, True])
def test_a_guide_inside_of_another_module_saves_and_loads_its_state(make, is_seen):
    y = torch.poisson(torch.ones(20, 5))
    saved, loaded = (torch.nn.ModuleDict({"outer": pef.DEQMAPGuide(make())}) for _ in range(2))
    block = "counts" if make is Regression else ""
    saved["outer"](y)
    if is_seen:
        loaded["outer"](y)
        assert not torch.equal(
            loaded["outer"].block(block).loading, saved["outer"].block(block).loading
        )
    loaded.load_state_dict(saved.state_dict())
    torch.testing.assert_close(loaded["outer"](y), saved["outer"](y))


# From far away an objective comes back in many sweeps, and the evidence in many costly ones.
FAR_STARTS = [
    (None, 1e18),
    (pef.LaplaceEvidence(), 1e3),
    pytest.param(pef.LaplaceEvidence(), 1e18, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("loss", "size"), FAR_STARTS)
@pytest.mark.parametrize("scale", [None, 0.8])
def test_a_gaussian_fit_leaves_a_start_that_leads_nowhere(scale, loss, size):
    y = torch.randn(80, 2) @ torch.randn(2, 6) + torch.randn(80, 6)
    objectives = []
    for start in (None, size):
        guide = pef.DEQMAPGuide(pef.ExpFamPCA(pef.families.Gaussian(scale), 6, 2))
        if start is not None:
            guide(y)
            with torch.no_grad():
                guide.global_guide.loading.copy_(start * torch.randn(6, 2))
        fit = guide.fit(y, loss=loss)
        assert fit.converged
        objectives.append(fit.objective)
    assert objectives[1] == pytest.approx(objectives[0], rel=1e-4)


@pytest.mark.filterwarnings("ignore:the fit has not converged")
def test_rows_that_would_be_more_than_certain_have_a_cure():
    y = torch.bernoulli(torch.sigmoid(torch.randn(200, 2) @ torch.randn(2, 5)))
    model = pef.ExpFamPCA(pef.families.Bernoulli(), 5, 2, loading_scale=None)
    guide = pef.DEQMAPGuide(model)
    guide(y)
    with torch.no_grad():
        model.loading.mul_(100)
    cure = r"Take loss=pyro_expfam\.LaplaceEvidence\(order=1\), a smaller loading_scale or fewer"
    with pytest.warns(pef.ConvergenceWarning, match=cure):
        guide.fit(y, loss=pef.LaplaceEvidence(order=2), max_sweeps=60)
