"""A family that has just what the table of the architecture page asks for works everywhere."""

import re
from pathlib import Path

import pytest
import torch
from pyro import poutine

import pyro_expfam as pef
from pyro_expfam.deq.family_check import check_family
from pyro_expfam.families import ExponentialFamily

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"


class Bare(ExponentialFamily):
    """Signs -1 and 1, with the mean tanh: the law of Ising, with nothing but what is asked for."""

    def log_partition(self, eta):
        return torch.logaddexp(eta, -eta)


class Sides(Bare):
    """The same law, with what a table of observations and draws need."""

    support = pef.families.Ising().support

    def sample(self, eta, sample_shape=()):
        probability = torch.sigmoid(2 * eta).expand(torch.Size(sample_shape) + eta.shape)
        return 2 * torch.bernoulli(probability) - 1


class WithoutHigherCumulants(Bare):
    def third_cumulant(self, eta):
        raise NotImplementedError

    def fourth_cumulant(self, eta):
        raise NotImplementedError


SAME = pef.families.Ising()


def asked_for():
    """The members in the first table of the page, those that a family must have."""
    text = PAGE.read_text(encoding="utf-8")
    table = text[text.index("It must have") : text.index("and may have")]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`(\w+)", cell)}


def members(kind):
    return {name for name in vars(kind) if not name.startswith("_")}


@pytest.fixture
def table():
    W = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    b = torch.randn(7, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        y = SAME.sample(torch.randn(30, 2, dtype=torch.float64) @ W.T + b)
    return y, W, b


def test_the_table_names_what_a_family_must_have():
    assert asked_for() == ExponentialFamily.__abstractmethods__ == members(Bare)


def test_it_passes_the_check():
    check_family(Bare())
    check_family(Sides())


def test_latents_and_their_gradient_are_those_of_the_same_law(table):
    y, W, b = table
    found = pef.solve_latents(Bare(), y, W, b).value
    expected = pef.solve_latents(SAME, y, W, b).value
    torch.testing.assert_close(found, expected)
    for mine, known in zip(
        torch.autograd.grad(found.square().sum(), (W, b)),
        torch.autograd.grad(expected.square().sum(), (W, b)),
        strict=True,
    ):
        torch.testing.assert_close(mine, known)


@pytest.mark.parametrize("order", [1, 2])
def test_the_evidence_and_its_gradient_are_those_of_the_same_law(table, order):
    y, W, b = table
    found = pef.log_evidence(Bare(), y, W, b, order=order)
    expected = pef.log_evidence(SAME, y, W, b, order=order)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), W), torch.autograd.grad(expected.sum(), W)
    )


@pytest.mark.parametrize("make", [pef.DEQMAPGuide, pef.LaplaceGuide])
def test_a_guide_fits_and_draws(table, make):
    y = table[0]
    objectives = []
    for family in (Sides(), SAME):
        model = pef.ExpFamPCA(family, 7, 2, intercept_scale=2.0).double()
        guide = make(model).double()
        fit = guide.fit(y)
        assert fit.converged
        objectives.append(fit.objective)
        drawn = poutine.trace(model).get_trace(num_rows=4).nodes["y"]["value"]
        assert bool((drawn.abs() == 1).all())
    assert objectives[0] == pytest.approx(objectives[1], rel=1e-7)


def test_without_higher_cumulants_the_layer_still_has_its_gradient(table):
    y, W, b = table
    family = WithoutHigherCumulants()
    found = pef.solve_latents(family, y, W, b).value
    expected = pef.solve_latents(SAME, y, W, b).value
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), W), torch.autograd.grad(expected.sum(), W)
    )
