"""The Gaussian family."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_expfam.families import Gaussian


def test_scale_is_the_standard_deviation_and_unit_of_the_mean():
    family = Gaussian(scale=2.5)
    y, eta = torch.linspace(-9, 9, 7), torch.linspace(-3, 3, 7)
    expected = torch.distributions.Normal(2.5 * eta, 2.5)
    torch.testing.assert_close(family.log_prob(y, eta), expected.log_prob(y))
    torch.testing.assert_close(family.entropy(eta), expected.entropy())


def test_gradients_flow_to_a_scale_of_each_feature():
    scale = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    y, eta = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: Gaussian(s).log_prob(y, eta), scale)
    assert torch.autograd.gradcheck(lambda s: Gaussian(s).entropy(eta), scale)
    assert torch.autograd.gradcheck(lambda s: Gaussian(s).sufficient_statistic(y), scale)


def test_a_tensor_scale_follows_the_dtype_of_its_argument():
    family = Gaussian(torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert family.log_prob(torch.zeros(2), torch.zeros(2)).dtype == torch.float32
    assert family.sample(torch.zeros(2)).dtype == torch.float32


def test_repr_shows_the_scale():
    assert repr(Gaussian(scale=2)) == "Gaussian(scale=2.0)"
    assert repr(Gaussian(torch.tensor([1.0, 2.0]))) == "Gaussian(scale=[1, 2])"


@pytest.mark.parametrize("scale", [0, -1.0, math.nan, math.inf])
def test_a_number_that_is_no_scale_is_refused(scale):
    with pytest.raises(ValueError, match=rf"scale is {scale}, .* positive finite number"):
        Gaussian(scale)


@pytest.mark.parametrize("entry", [0.0, -1.0, math.nan, math.inf])
def test_a_tensor_with_an_entry_that_is_no_scale_is_refused(entry):
    with pytest.raises(ValueError, match=r"scale is tensor\(.* positive finite number"):
        Gaussian(torch.tensor([1.0, entry]))


@pytest.mark.parametrize("scale", ["1", True])
def test_a_scale_of_another_type_is_refused(scale):
    with pytest.raises(TypeError, match=r"scale is .* positive finite number"):
        Gaussian(scale)


def test_an_integer_tensor_is_refused():
    with pytest.raises(ValueError, match=r"scale is tensor"):
        Gaussian(torch.tensor([1, 2]))
