"""The normal laws about zero of coefficients have the densities of PyTorch's."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Independent, Normal

import pyro_expfam as pef
from pyro_expfam.models.centred_normal import CentredNormal, CentredNormals

SHAPE = (6, 3)
SCALES = {
    "one": torch.tensor(0.7, dtype=torch.float64),
    "by latent": torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64),
    "by feature": torch.linspace(0.5, 2.0, 6, dtype=torch.float64)[:, None],
}


def laws(scale: Tensor, shape: tuple[int, ...] = SHAPE) -> tuple[CentredNormals, Independent]:
    found = CentredNormals(CentredNormal(scale).expand(shape), 2)
    zero = torch.zeros((), dtype=scale.dtype)
    return found, Independent(Normal(zero, scale).expand(torch.Size(shape)), 2)


@pytest.mark.parametrize("learnt", [False, True], ids=["known", "learnt"])
@pytest.mark.parametrize("scale", SCALES)
def test_densities_and_gradients(scale: str, learnt: bool) -> None:
    numbers = SCALES[scale].clone().requires_grad_(learnt)
    value = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
    of = [value, numbers] if learnt else [value]
    found = []
    for law in laws(numbers):
        density = law.log_prob(value)
        found.append((density, torch.autograd.grad(density, of)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", SCALES)
def test_batches_of_values_and_of_laws(scale: str) -> None:
    value = torch.randn(4, *SHAPE, dtype=torch.float64)
    law, plain = laws(SCALES[scale])
    torch.testing.assert_close(law.log_prob(value), plain.log_prob(value))
    wide, plain_wide = law.expand((4,)), plain.expand(torch.Size((4,)))
    assert isinstance(wide, CentredNormals)
    assert wide.batch_shape == (4,)
    torch.testing.assert_close(wide.log_prob(value), plain_wide.log_prob(value))
    torch.testing.assert_close(wide.log_prob(value[0]), plain_wide.log_prob(value[0]))
    assert wide.sample().shape == value.shape


def test_a_law_under_an_inference_mode_does_not_stay_for_training() -> None:
    model = pef.ExpFamPCA(pef.families.Bernoulli(), 6, 2, loading_scale=0.5)
    y = torch.bernoulli(torch.full((4, 6), 0.5))
    with torch.inference_mode():
        poutine.trace(model).get_trace(y).log_prob_sum()
    trace = poutine.trace(model).get_trace(y)
    W = trace.nodes["loading"]["value"].detach().requires_grad_()
    trace.nodes["loading"]["fn"].log_prob(W).backward()
    assert W.grad is not None
    torch.testing.assert_close(W.grad, -W.detach() / 0.25)


def test_the_density_follows_the_scale_of_the_block() -> None:
    model = pef.ExpFamPCA(pef.families.Bernoulli(), 6, 2, loading_scale=0.5)
    y, zero = torch.bernoulli(torch.full((4, 6), 0.5)), torch.zeros(6, 2)
    for scale in (0.5, 2.0):
        model.loading_scale = scale
        law = poutine.trace(model).get_trace(y).nodes["loading"]["fn"]
        wanted = -12 * (math.log(scale) + 0.5 * math.log(2 * math.pi))
        assert float(law.log_prob(zero)) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("num_rows", [7, 5_000])
def test_numbers_of_rows_are_those_of_the_plate_whoever_wrote_into_them(num_rows: int) -> None:
    pyro.clear_param_store()
    model = pef.ExpFamPCA(pef.families.Bernoulli(), 3, 1)
    y = torch.bernoulli(torch.full((num_rows, 3), 0.5))
    for _ in range(2):
        rows = poutine.trace(model).get_trace(y).nodes["rows"]["value"]
        assert torch.equal(rows, torch.arange(num_rows))
        rows.zero_()


@pytest.mark.parametrize(
    "scale", [0.5, torch.tensor([0.5, 2.0]), torch.linspace(0.5, 2, 6)[:, None]]
)
def test_the_density_follows_a_scale_that_is_written_through_its_data(
    scale: Tensor | float,
) -> None:
    model = pef.ExpFamPCA(pef.families.Bernoulli(), 6, 2, loading_scale=scale)
    y = torch.bernoulli(torch.full((4, 6), 0.5))
    poutine.trace(model).get_trace(y).log_prob_sum()
    known, wanted = model.loading_scale, 3 * torch.as_tensor(scale)
    assert isinstance(known, Tensor)
    known.data.mul_(3.0)
    trace = poutine.trace(model).get_trace(y)
    W = trace.nodes["loading"]["value"]
    expected = Normal(0.0, wanted).expand(W.shape).log_prob(W).sum()
    torch.testing.assert_close(trace.nodes["loading"]["fn"].log_prob(W), expected)
    # Latents too.
    precision = model.latent_precision
    assert isinstance(precision, Tensor)
    precision.data.fill_(4.0)
    trace = poutine.trace(model).get_trace(y)
    z = trace.nodes["z"]["value"]
    expected = Normal(0.0, 0.5).log_prob(z).sum(-1)
    torch.testing.assert_close(trace.nodes["z"]["fn"].log_prob(z), expected)
