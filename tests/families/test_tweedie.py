"""The Tweedie family: its series, its moments, and its limits."""

import mpmath
import pytest
import torch

from pyro_expfam.families import Tweedie
from pyro_expfam.families.tweedie import log_series


def exact_log_series(y, power, dispersion):
    """The series term by term, in 40 digits."""
    with mpmath.workdps(40):
        y, p, phi = (mpmath.mpf(x) for x in (y, power, dispersion))
        a = (2 - p) / (p - 1)
        log_z = a * mpmath.log(y / (p - 1)) - (1 + a) * mpmath.log(phi) - mpmath.log(2 - p)
        largest = int(y ** (2 - p) / (phi * (2 - p)))
        reach = 30 * int(mpmath.sqrt(largest + 1)) + 60
        terms = [
            mpmath.exp(j * log_z - mpmath.loggamma(j + 1) - mpmath.loggamma(j * a))
            for j in range(max(1, largest - reach), largest + reach)
        ]
        return float(mpmath.log(mpmath.fsum(terms)) - mpmath.log(y))


@pytest.mark.parametrize("power", [1.02, 1.3, 1.5, 1.9, 1.98])
@pytest.mark.parametrize("dispersion", [0.02, 0.7, 4.0])
def test_the_series_is_exact(power, dispersion):
    y = torch.tensor([1e-6, 0.3, 7.0, 90.0], dtype=torch.float64)
    found = log_series(y, torch.tensor(power).double(), torch.tensor(dispersion).double())
    # The power in double precision, as the series has it.
    exact = [
        exact_log_series(
            float(x), float(torch.tensor(power).double()), float(torch.tensor(dispersion).double())
        )
        for x in y
    ]
    torch.testing.assert_close(
        found, torch.tensor(exact, dtype=torch.float64), rtol=1e-10, atol=1e-10
    )


def test_the_density_and_the_mass_at_zero_sum_to_one():
    family = Tweedie(1.4, 0.8)
    eta = torch.tensor([0.0, 1.0], dtype=torch.float64)
    # Gauss-Legendre on pieces in log y.
    t = torch.linspace(-40, 6, 20_001, dtype=torch.float64)[:, None]
    y = t.exp()
    integral = torch.trapezoid(torch.exp(family.log_prob(y, eta)) * y, t.squeeze(-1), dim=0)
    zero = torch.exp(family.log_prob(torch.zeros(2, dtype=torch.float64), eta))
    torch.testing.assert_close(integral + zero, torch.ones_like(eta), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["power", "dispersion"])
def test_gradients_reach_the_parameters_through_the_series(name):
    y = torch.tensor([0.0, 0.4, 30.0], dtype=torch.float64)
    eta = torch.tensor([0.3, 0.1, 1.0], dtype=torch.float64)
    values = {"power": torch.tensor(1.6).double(), "dispersion": torch.tensor(0.7).double()}

    def log_prob(value):
        return Tweedie(**{**values, name: value}).log_prob(y, eta)

    leaf = values[name].clone().requires_grad_()
    assert torch.autograd.gradcheck(log_prob, leaf, rtol=1e-4)


def test_the_certificate_is_the_larger_of_both_exponents():
    assert Tweedie(1.2).self_concordance == pytest.approx(0.8)
    assert Tweedie(torch.tensor([1.5, 1.9])).self_concordance == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("power", "message"),
    [(1.0, "got 1: take Poisson"), (2.0, "got 2: take Gamma"), (0.5, "got 0.5$"), (3.0, "got 3$")],
)
def test_powers_that_are_not_between_1_and_2_are_refused(power, message):
    with pytest.raises(ValueError, match=message):
        Tweedie(power)


@pytest.mark.parametrize("dispersion", [0.0, -2.0, [1.0, -2.0]], ids=str)
def test_dispersions_that_are_not_positive_are_refused(dispersion):
    with pytest.raises(ValueError, match=r"dispersion must be positive and finite, got (0|-2)"):
        Tweedie(1.5, dispersion)
