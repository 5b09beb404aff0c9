"""The Bose-Einstein families and their polylogarithms, against mpmath and the geometric law."""

import mpmath
import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.families import BoseEinstein, Geometric
from pyro_expfam.families.bose_einstein import _BELOW_ZERO
from pyro_expfam.families.polylogarithm import polylogarithm

DERIVATIVES = ("score", "curvature", "third_derivative", "fourth_derivative")


@pytest.mark.parametrize("order", [-5, -1, 0, 1, 2, 3, 6])
def test_polylogarithms_are_those_of_mpmath(order):
    t = torch.tensor([-1e-12, -1e-3, -0.4, -1.4999, -1.5001, -5.0, -100.0], dtype=torch.float64)
    with mpmath.workdps(60):
        exact = [
            mpmath.fsum(mpmath.exp(k * mpmath.mpf(x)) * mpmath.mpf(k) ** -order for k in terms)
            if x < -0.3
            else mpmath.polylog(order, mpmath.exp(mpmath.mpf(x))).real
            for x in t.tolist()
            for terms in [range(1, 500)]
        ]
    assert polylogarithm(order, t).tolist() == pytest.approx([float(x) for x in exact], rel=1e-13)


def test_order_0_with_spacing_1_is_the_geometric_law():
    family = BoseEinstein(order=0, spacing=1.0)
    eta = torch.linspace(-12, 12, 49, dtype=torch.float64)
    y = torch.arange(0.0, 98.0, 2.0, dtype=torch.float64)
    for name in DERIVATIVES:
        found, expected = (getattr(x, name)(eta, y) for x in (family, Geometric()))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    log_prob = family.log_prob(y, eta)
    torch.testing.assert_close(log_prob, Geometric().log_prob(y, eta), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(family.expected_y(eta), torch.exp(eta), rtol=1e-13, atol=0)
    assert family.is_convex
    assert family.self_concordance == 1


@pytest.mark.parametrize(("order", "spacing"), [(0, 0.2), (0, 1.0), (0, 3.0), (1, 1.0), (2, 0.5)])
def test_what_is_known_of_the_default_link_is_what_the_grid_says(order, spacing):
    known, found = (BoseEinstein(order, spacing, link=link) for link in (None, _BELOW_ZERO))
    for name in ("is_convex", "bounded_variance", "self_concordance", "weak_intercept_scale"):
        assert getattr(known, name) == getattr(found, name)
    assert known == found


@pytest.mark.parametrize(("order", "spacing"), [(0, 0.5), (1, 1.0), (2, 0.5), (3, 2.0)])
def test_masses_sum_to_one_with_the_moments(order, spacing):
    family = BoseEinstein(order, spacing)
    eta = torch.tensor([-2.0, 0.0, 1.5], dtype=torch.float64)
    y = spacing * torch.arange(3000.0, dtype=torch.float64)[:, None]
    mass = torch.exp(family.log_prob(y, eta))
    torch.testing.assert_close(mass.sum(0), torch.ones_like(eta))
    mean = (mass * y).sum(0)
    torch.testing.assert_close(mean, family.expected_y(eta))
    variance = (mass * (y - mean).square()).sum(0)
    torch.testing.assert_close(variance, family.variance_of_y(eta))
    draws = family.sample(eta, (1000,))
    assert bool(family.support.check(draws).all())


def test_a_block_fits_bunches():
    torch.manual_seed(0)
    eta = torch.randn(60, 1) @ torch.randn(1, 5)
    y = BoseEinstein(1, 0.5).sample(eta)
    guide = pef.LaplaceGuide(pef.ExpFamPCA(BoseEinstein(1, 0.5), 5, 1))
    guide.fit(y, progress=False)
    assert bool(guide.latents(y).isfinite().all())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"order": -1}, ValueError, "order is -1, but should be at least 0"),
        ({"order": 0.5}, TypeError, "order is 0.5, but should be a whole number"),
        ({"spacing": 0.0}, ValueError, "spacing must be positive and finite, got 0"),
        ({"spacing": [1.0, 2.0]}, TypeError, "spacing must be one number"),
    ],
)
def test_other_orders_and_spacings_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        BoseEinstein(**arguments)


def test_observations_beside_the_lattice_are_refused():
    y = torch.tensor([[0.5, 1.0], [0.7, 0.0]])
    with pytest.raises(ValueError, match=r"y must be in the support of BoseEinstein.* got 0.7"):
        pef.solve_latents(BoseEinstein(1, 0.5), y, torch.ones(2, 1), torch.zeros(2))
