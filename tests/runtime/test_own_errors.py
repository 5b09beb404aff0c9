"""Errors of this package are not followed by what Pyro adds to errors inside of a trace."""

import pyro
import pytest
import torch
from pyro import poutine

import pyro_expfam as pef

F = pef.families


def with_a_bad_entry():
    y = torch.full((20, 4), 0.5)
    y[3, 2] = 1.5
    return y


@pytest.mark.parametrize(
    "call",
    [
        lambda model, guide, y: guide.fit(y),
        lambda model, guide, y: guide(y),
        lambda model, guide, y: guide.median(y),
        lambda model, guide, y: guide.group_roots(y),
        lambda model, guide, y: guide.posteriors(y),
        lambda model, guide, y: pef.to_arviz(model, guide, y),
    ],
)
@pytest.mark.filterwarnings("ignore:the guide has not been trained")
@pytest.mark.parametrize("is_trained", [False, True])
def test_an_error_has_the_message_of_the_package_alone(call, is_trained):
    y = with_a_bad_entry()
    model = pef.ExpFamPCA(F.Beta(10.0), 4, 1, latent_scale=torch.ones(1))
    guide = pef.LaplaceGuide(model)
    if is_trained:
        guide.fit(torch.rand(20, 4) * 0.8 + 0.1)
    with pytest.raises(ValueError, match="numbers above 0 and below 1") as found:
        call(model, guide, y)
    assert str(found.value).endswith("got 1.5 at position (3, 2)")
    # Nor is the longer text of Pyro printed above it.
    assert found.value.__suppress_context__


def test_an_error_of_the_users_model_keeps_the_shapes():
    block = pef.ExpFamPCA(F.Bernoulli(), 4, 1)

    def model(y):
        block(y)
        raise ValueError("of the user")

    with pytest.raises(ValueError, match=r"of the user\n[^$]*Trace Shapes"):
        pef.LaplaceGuide(model)(torch.ones(5, 4))


def test_an_error_of_pyro_keeps_the_shapes():
    block = pef.ExpFamPCA(F.Bernoulli(), 4, 1)

    def model(y):
        z = block(y)
        pyro.sample("scale", pyro.distributions.Normal(z.sum(), -1.0))

    with pytest.raises(ValueError, match="Trace Shapes"), poutine.block():
        pef.LaplaceGuide(model)(torch.ones(5, 4))
