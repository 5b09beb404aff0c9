"""Which functions are log-partitions."""

import math

import mpmath
import pytest
import torch
from torch.distributions import constraints

from pyro_expfam.families import Lattice, check_admissible


def polylogarithm(order, z):
    """Li of an order by its power series, for complex numbers of size below 0.7."""
    m = torch.arange(1, 120, dtype=torch.float64)
    return (z[..., None] ** m * m**-order).sum(-1)


def test_the_power_series_is_the_polylogarithm():
    z = torch.tensor([0.6 + 0.1j, -0.65 + 0j, 0.6j], dtype=torch.complex128)
    for order in (1, 1.5, 3):
        expected = [complex(mpmath.polylog(order, x)) for x in z.tolist()]
        torch.testing.assert_close(
            polylogarithm(order, z), torch.tensor(expected, dtype=torch.complex128)
        )


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
    found = check_admissible(function, at=at)
    assert found
    assert "admissible as far as seen" in str(found)


@pytest.mark.parametrize(("function", "at"), REFUSED.values(), ids=REFUSED)
def test_other_functions_are_refused_with_a_witness(function, at):
    found = check_admissible(function, at=at)
    assert not found
    assert "not admissible" in str(found)
    # The witness is a quadratic form, computed here anew.
    s = found.points
    matrix = found.transform(s[:, None] - s[None, :])
    form = found.vector.conj() @ matrix @ found.vector
    assert float(form.real) < 0


@pytest.mark.parametrize("order", [0, 1])
def test_bose_einstein_is_admissible(order):
    found = check_admissible(bose_einstein(order), at=-0.5)
    assert found


def test_the_mean_function_softplus_belongs_to_no_family():
    found = check_admissible(fermi_dirac(1), at=-0.5)
    assert not found
    # The coefficient of the fourth power of e^r in exp(-Li_2(-e^r)) is -1/288.
    assert found.negative_mass == (4, pytest.approx(-1 / 288, rel=1e-6))
    assert "mass -0.00347222 at 4" in str(found)
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


@pytest.mark.parametrize("order", [0.5, 2, 3])
def test_fermi_dirac_orders_fail_with_a_witness(order):
    # The power series of exp(-Li(-e^r)) by hand: with p_m = -(-1)^m m^-j, k a_k = sum p_m a_(k-m).
    powers = [-((-1.0) ** m) * m**-order for m in range(1, 30)]
    series = [1.0]
    for k in range(1, 30):
        series.append(sum(powers[m - 1] * series[k - m] for m in range(1, k + 1)) / k)
    first = next(k for k, x in enumerate(series) if x < 0)
    found = check_admissible(fermi_dirac(order), at=-0.5)
    assert not found
    assert found.negative_mass == (first, pytest.approx(series[first], rel=1e-6))


def test_the_fermi_dirac_integral_of_order_zero_is_a_bit():
    assert check_admissible(fermi_dirac(0), at=-0.5)


def test_bose_einstein_has_the_masses_of_its_compound_poisson():
    # m a_m = c sum_k k^-j a_(m - k), with the order j and beta = 1.
    order, masses = 1, [1.0]
    for m in range(1, 12):
        masses.append(sum(k**-order * masses[m - k] for k in range(1, m + 1)) / m)
    domain = constraints.less_than(0.0)
    found = check_admissible(bose_einstein(order), domain)
    assert found.at == -0.5
    measure = found.base_measure(64)
    assert measure.is_lattice
    at_zero = float(bose_einstein(order)(_at(-0.5)).real)
    expected = [a * math.exp(-0.5 * m - at_zero) for m, a in enumerate(masses)]
    first = int((measure.points == 0).nonzero())
    assert torch.allclose(measure.values[:first], torch.zeros(first, dtype=torch.float64))
    found_masses = measure.values[first : first + 12]
    assert torch.allclose(found_masses, torch.tensor(expected, dtype=torch.float64))


def test_the_domain_says_where_to_look():
    gamma = lambda r: -2.5 * torch.log(-r)  # noqa: E731
    assert check_admissible(gamma, constraints.less_than(0.0)).at == -0.5
    assert check_admissible(lambda r: -torch.log(r), constraints.positive).at == 0.5
    assert check_admissible(torch.exp, constraints.interval(1.0, 3.0)).at == 2.0
    with pytest.raises(ValueError, match=r"at must be in the domain, .*, got 1"):
        check_admissible(gamma, constraints.less_than(0.0), at=1.0)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda r: torch.log(torch.cosh(r)), (2.0, 1.0)),
        (lambda r: torch.exp(0.5 * r), (0.5, 0.0)),
        (lambda r: torch.exp(math.sqrt(2) * r) + 0.25 * r, (math.sqrt(2), 0.25)),
        (lambda r: 200 * torch.exp(r), (1.0, 0.0)),
        (lambda r: r**2 / 2, None),
        (lambda r: torch.exp(r) + torch.exp(math.sqrt(2) * r), None),
    ],
)
def test_the_lattice_of_a_law_is_found(function, expected):
    found = check_admissible(function).lattice
    if expected is None:
        assert found is None
        return
    assert isinstance(found, Lattice)
    assert (found.spacing, found.origin) == pytest.approx(expected, abs=1e-7)
    points = found.points(-2.1, 3.0)
    assert bool(found.check(points).all())
    assert not bool(found.check(points + 0.4 * found.spacing).any())
    assert found.points(-2.1, 3.0).min() >= -2.1


def test_a_law_without_masses_and_density_has_no_base_measure():
    found = check_admissible(lambda r: torch.exp(r) + torch.exp(math.sqrt(2) * r))
    assert found
    with pytest.raises(ValueError, match="lattice or with a smooth density"):
        found.base_measure()


def test_the_base_measure_has_the_mean_of_the_family():
    # A density is looked at within six standard deviations.
    for function, error in ((lambda r: r**2 / 2 + torch.exp(r), 1e-4), (torch.exp, 1e-9)):
        measure = check_admissible(function).base_measure(400)
        weight = measure.values / measure.values.sum()
        assert float((weight * measure.points).sum()) == pytest.approx(1.0, abs=error)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (3, "must be a function of complex tensors, got 3"),
        (lambda r: 3.0, "must return a tensor, got float"),
        (lambda r: None, "must return a tensor, got NoneType"),
    ],
)
def test_what_is_no_function_of_tensors_is_refused(function, message):
    with pytest.raises(TypeError, match=message):
        check_admissible(function)
