"""Quantiles of the latents of a guide."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuideList, AutoNormal

import pyro_expfam as pef

QUANTILES = [0.05, 0.5, 0.95]


@pytest.fixture
def y():
    return torch.poisson(torch.full((30, 5), 2.0))


def test_quantiles_of_latents_are_where_their_draws_are(y):
    guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 5, 2))
    guide.fit(y)
    draws = guide.posterior(y).sample((4_000,))
    quantiles = guide.quantiles(QUANTILES, y)
    for place, quantile in zip(quantiles["z"], QUANTILES, strict=True):
        below = (draws < place).double().mean(0)
        assert (below - quantile).abs().max() < 0.02
    # The loading is a point.
    assert torch.equal(quantiles["loading"], guide.loading.detach().expand(3, -1, -1))


def test_quantiles_of_coefficients_are_of_their_posterior(y):
    block = pef.ExpFamPCA(pef.families.Poisson(), 5, 2, intercept_scale=1.0)
    guide = pef.LaplaceGuide(block, global_guide=pef.CoefficientGuide)
    guide.fit(y)
    low, middle, high = guide.quantiles(QUANTILES, y)["loading"]
    torch.testing.assert_close(middle, guide.median(y)["loading"])
    width = 2 * 1.6448536 * guide.coefficients.variance()[:, :-1].sqrt()
    torch.testing.assert_close(high - low, width.to(low))


def test_a_list_of_guides_has_the_quantiles_of_its_parts(y):
    block = pef.ExpFamPCA(pef.families.Poisson(), 5, 2)

    def model(y):
        return block(y, offset=pyro.sample("exposure", dist.LogNormal(0.0, 1.0)).log())

    guide = AutoGuideList(model)
    guide.append(AutoNormal(poutine.block(model, expose=["exposure"])))
    guide.append(pef.LaplaceGuide(poutine.block(model, hide=["exposure"])))
    guide(y)
    found = guide.quantiles(QUANTILES, y)
    assert {name: tuple(x.shape) for name, x in found.items()} == {
        "exposure": (3,),
        "loading": (3, 5, 2),
        "intercept": (3, 5),
        "z": (3, 30, 2),
    }
    assert (found["z"][0] < found["z"][2]).all()


@pytest.mark.parametrize("quantiles", [[1.5], [-0.1, 0.5], 0.5])
def test_what_is_no_list_of_probabilities_is_refused(quantiles, y):
    guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 5, 2))
    with pytest.raises(ValueError, match="quantiles must be a list of numbers from 0 to 1"):
        guide.quantiles(quantiles, y)
