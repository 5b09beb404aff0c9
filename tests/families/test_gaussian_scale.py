"""Which scales a Gaussian family takes, and which it leaves to be learnt."""

import numpy as np
import pytest
import torch

from pyro_expfam.families import Gaussian


@pytest.mark.parametrize("scale", [None, "per column"])
def test_a_scale_may_be_left_to_be_learnt(scale):
    family = Gaussian(scale)
    assert family.scale == scale
    (start,) = family.to_learn(5).values()
    torch.testing.assert_close(start, torch.ones(()) if scale is None else torch.ones(5))
    with pytest.raises(ValueError, match="scale must be known"):
        family.log_prob(torch.ones(5), torch.ones(5))
    assert Gaussian().scale is None


@pytest.mark.parametrize(
    "scale", [2, 2.0, np.float32(2.0), torch.tensor(2.0), torch.full((3,), 2.0)]
)
def test_a_known_scale_is_not_learnt(scale):
    family = Gaussian(scale)
    assert family.to_learn(3) == {}
    y, eta = torch.randn(2, 3).double()
    expected = torch.distributions.Normal(2 * eta, 2.0).log_prob(y)
    torch.testing.assert_close(family.log_prob(y, eta), expected)


def test_another_word_is_refused():
    wanted = r"positive finite number or a tensor .* None to learn one or 'per column' to learn one"
    with pytest.raises(TypeError, match=rf"scale is 'per row', but should be a {wanted}"):
        Gaussian("per row")
