"""Errors of a block keep their message, and errors of larger models have the shapes of sites."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_expfam as pef

F = pef.families


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


def test_errors_of_larger_models_have_the_shapes_of_sites():
    block = pef.ExpFamPCA(F.Poisson(), 3, 1)

    def model(y):
        pyro.sample("rate", dist.Gamma(1.0, 1.0))
        return block(y)

    with pytest.raises(ValueError, match=r"must be in the support[\s\S]*rate"):
        pef.LaplaceGuide(model).fit(torch.full((6, 3), -2.5))
