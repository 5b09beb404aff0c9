"""Which functions are log-partitions."""

import math

import mpmath
import pytest
import torch

from pyro_expfam.families import check_admissible


def polylogarithm(order, z):
    """Li of an order at complex numbers, by mpmath."""
    values = [complex(mpmath.polylog(order, complex(x))) for x in z.flatten()]
    return torch.tensor(values, dtype=torch.complex128).reshape(z.shape)


def bose_einstein(order):
    return lambda r: polylogarithm(order + 1, torch.exp(r))


def fermi_dirac(order):
    return lambda r: -polylogarithm(order + 1, -torch.exp(r))


ADMISSIBLE = {
    "Ising": (lambda r: torch.log(torch.cosh(r)), 0.0),
    "Bernoulli": (lambda r: torch.log1p(torch.exp(r)), 0.0),
    "Poisson": (torch.exp, 0.0),
    "Gaussian": (lambda r: r**2 / 2, 0.0),
    "geometric": (lambda r: -torch.log(1 - torch.exp(r)), -0.7),
    "Gamma": (lambda r: -2.5 * torch.log(-r), -1.0),
}
REFUSED = {
    "fourth power": (lambda r: r**4, 0.0),
    "cubic": (lambda r: r**2 / 2 + r**3 / 6, 0.0),
    "concave": (lambda r: -(r**2), 0.0),
    "half a bit": (lambda r: 0.5 * torch.log1p(torch.exp(r)), -0.5),
}


@pytest.mark.parametrize(("function", "at"), ADMISSIBLE.values(), ids=ADMISSIBLE)
def test_log_partitions_are_accepted(function, at):
    found = check_admissible(function, at)
    assert found
    assert "admissible as far as seen" in str(found)


@pytest.mark.parametrize(("function", "at"), REFUSED.values(), ids=REFUSED)
def test_other_functions_are_refused_with_a_witness(function, at):
    found = check_admissible(function, at)
    assert not found
    assert "not admissible" in str(found)
    # The witness is a quadratic form, computed here anew.
    s = found.points
    matrix = found.transform(s[:, None] - s[None, :])
    form = found.vector.conj() @ matrix @ found.vector
    assert float(form.real) < 0


@pytest.mark.parametrize("order", [0, 1])
def test_bose_einstein_is_admissible(order):
    # Fewer points, since every polylogarithm takes a while.
    found = check_admissible(bose_einstein(order), at=-0.5)
    assert found


def test_the_mean_function_softplus_belongs_to_no_family():
    found = check_admissible(fermi_dirac(1), at=-0.5)
    assert not found
    # The coefficient of the fourth power of e^r in exp(-Li_2(-e^r)) is -1/288.
    masses = found.lattice_masses(32) * math.exp(complex(fermi_dirac(1)(_at(-0.5))).real)
    assert float(masses[4]) * math.exp(0.5 * 4) == pytest.approx(-1 / 288, rel=1e-6)


def _at(r):
    return torch.tensor(complex(r, 0.0), dtype=torch.complex128)


def test_the_base_measure_on_whole_numbers_comes_back():
    masses = check_admissible(torch.exp).lattice_masses(32)
    expected = [math.exp(-1) / math.factorial(k) for k in range(32)]
    assert torch.allclose(masses, torch.tensor(expected, dtype=torch.float64))


def test_the_base_density_comes_back():
    y = torch.linspace(-3, 3, 13, dtype=torch.float64)
    density = check_admissible(lambda r: r**2 / 2).density(y)
    assert torch.allclose(density, torch.exp(-(y**2) / 2) / math.sqrt(2 * math.pi))


def test_a_point_outside_of_the_domain_is_refused():
    with pytest.raises(ValueError, match="must be finite at 0"):
        check_admissible(lambda r: torch.log(torch.zeros_like(r)))
