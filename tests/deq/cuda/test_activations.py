"""Cumulants as the kernels compute them, entry by entry."""

import pytest
import torch
import triton
import triton.language as tl
from random_tables import FAMILIES

from pyro_expfam.deq.activation import activation_of
from pyro_expfam.deq.cuda.activations import log_partition, mean_and_variance, third_cumulant

SIZE = 4096


@triton.jit
def cumulant_kernel(
    eta, out, size, slope, shift, constant, ACTIVATION: tl.constexpr, SIZE: tl.constexpr
):
    place = tl.arange(0, SIZE)
    x = tl.load(eta + place)
    mean, variance = mean_and_variance(x, size, slope, shift, ACTIVATION)
    tl.store(out + place, log_partition(x, size, slope, shift, constant, ACTIVATION))
    tl.store(out + SIZE + place, mean)
    tl.store(out + 2 * SIZE + place, variance)
    tl.store(out + 3 * SIZE + place, third_cumulant(x, size, slope, shift, ACTIVATION))


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_cumulants_are_accurate_to_single_precision(family, device):
    activation = activation_of(family)
    eta = torch.linspace(-20, 20, SIZE).to(device)
    found = torch.full((4, SIZE), torch.nan, device=device)
    cumulant_kernel[(1,)](
        eta,
        found,
        float(activation.size),
        activation.slope,
        activation.shift,
        activation.constant,
        ACTIVATION=activation.name,
        SIZE=SIZE,
    )
    x = eta.double()
    functions = (family.log_partition, family.mean, family.variance, family.third_cumulant)
    for value, function in zip(found.double(), functions, strict=True):
        expected = function(x)
        # Parameters of up to 20 are rounded, which the exponential multiplies by up to 20.
        scale = expected.abs() + (expected.abs() > 1e-3) * 1e-1
        assert ((value - expected).abs() <= 5e-6 * scale + 1e-6).all()
