"""A guide whose other latents are those of another guide."""

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample

import pyro_expfam as pef


class WithSlope(PyroModule):
    def __init__(self):
        super().__init__()
        self.counts = pef.ExpFamPCA(pef.families.Poisson(), 4, 1)
        self.slope = PyroSample(dist.Normal(0.0, 1.0))

    def forward(self, y):
        return self.counts(y, offset=self.slope[..., None, None])


@pytest.fixture(name="y")
def table():
    return torch.poisson(torch.ones(9, 4))


@pytest.mark.parametrize("make", [WithSlope, lambda: pef.ExpFamPCA(pef.families.Poisson(), 4, 1)])
def test_medians_are_those_of_the_other_guide_before_any_call(y, make):
    model = make()
    params = pef.DEQMAPGuide(model, global_guide=AutoNormal)
    guide = pef.LaplaceGuide(model, params=params)
    medians = guide.median(y)
    torch.testing.assert_close(medians, params.median(y))
    assert len(medians) == 3 + isinstance(model, WithSlope)


def test_draws_have_the_law_and_the_parameters_of_the_other_guide(y):
    model = WithSlope()
    params = pef.DEQMAPGuide(model, global_guide=AutoNormal)
    guide = pef.LaplaceGuide(model, params=params)
    assert not list(guide.parameters())
    # The first run of each looks at the model too.
    guide(y), params(y)
    traces = []
    for one in (guide, params):
        torch.manual_seed(0)
        traces.append(poutine.trace(one).get_trace(y))
    found, expected = traces
    for name in expected.stochastic_nodes:
        if name != "counts.z":
            value = expected.nodes[name]["value"]
            torch.testing.assert_close(found.nodes[name]["value"], value, rtol=0.0, atol=0.0)
    assert not list(guide.parameters())
    assert list(params.parameters())
