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


@pytest.mark.parametrize(
    "family",
    [F.Beta(), F.ZeroInflatedPoisson(0.2), F.Poisson(), F.Gamma(), F.Tweedie()],
    ids=lambda x: type(x).__name__,
)
@pytest.mark.parametrize("is_new", [True, False], ids=["new", "trained"])
def test_errors_of_a_block_end_with_the_message(family, is_new):
    good, bad = (
        torch.full((6, 3), 0.5 if isinstance(family, F.Beta) else 1.0),
        torch.full((6, 3), -2.5),
    )
    guide = pef.LaplaceGuide(pef.ExpFamPCA(family, 3, 1))
    doors = [guide.fit, guide]
    if not is_new:
        guide(good)
        doors += [guide.latents, guide.posterior, guide.log_evidence]
    for door in doors:
        with pytest.raises(ValueError, match="must be in the support") as caught:
            door(bad)
        assert "Trace Shapes" not in str(caught.value)
