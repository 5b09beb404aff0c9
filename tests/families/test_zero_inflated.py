"""Zero-inflated counts against sums over counts."""

import pytest
import torch

from pyro_expfam.families import (
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)

ETA = torch.linspace(-4, 3, 8, dtype=torch.float64)
Y = torch.arange(0.0, 400.0, dtype=torch.float64)[:, None]
CASES = pytest.mark.parametrize(
    ("family", "base", "share"),
    [
        (ZeroInflatedPoisson(0.3), Poisson(), 0.3),
        (ZeroInflatedPoisson(0.999), Poisson(), 0.999),
        (ZeroInflatedNegativeBinomial(3.0, 0.05), NegativeBinomial(3.0), 0.05),
    ],
    ids=repr,
)


@CASES
def test_probabilities_are_those_of_a_mixture(family, base, share):
    expected = (1 - share) * torch.exp(base.log_prob(Y, ETA)) + share * (Y == 0)
    torch.testing.assert_close(torch.exp(family.log_prob(Y, ETA)), expected)


@CASES
def test_moments_and_information_are_sums_over_counts(family, base, share):
    probability = torch.exp(family.log_prob(Y, ETA))
    mean = (probability * Y).sum(0)
    torch.testing.assert_close(family.expected_y(ETA), mean)
    variance = (probability * (Y - mean).square()).sum(0)
    torch.testing.assert_close(family.variance_of_y(ETA), variance)
    information = (probability * family.score(ETA, Y).square()).sum(0)
    torch.testing.assert_close(family.information(ETA, Y[:1])[0], information)


def slopes(entries, eta):
    """The derivatives of entries ``(n, d)``, each in its own linear predictor."""
    rows = (torch.autograd.grad(row.sum(), eta, create_graph=True)[0] for row in entries)
    return torch.stack(list(rows))


@CASES
def test_derivatives_are_those_of_the_log_probability(family, base, share):
    eta, y = ETA.clone().requires_grad_(), Y[:12]
    loss = family.log_base_measure(y) - family.log_prob(y, eta)
    torch.testing.assert_close(family.loss(eta, y), loss)
    torch.testing.assert_close(-family.score(eta, y), slopes(loss, eta))
    torch.testing.assert_close(family.curvature(eta, y), slopes(slopes(loss, eta), eta))


@pytest.mark.parametrize("value", [0.0, 1.0, -0.2, [0.5, 1.5]])
def test_shares_that_are_not_between_0_and_1_are_refused(value):
    with pytest.raises(ValueError, match="zero_probability must be"):
        ZeroInflatedPoisson(value)


@pytest.mark.parametrize(
    "family",
    [
        ZeroInflatedPoisson(0.3),
        ZeroInflatedPoisson(1e-6),
        ZeroInflatedNegativeBinomial(1e-3, 0.3),
        ZeroInflatedNegativeBinomial(1.0, 0.9),
    ],
    ids=repr,
)
def test_single_precision_is_double_precision_at_all_predictors(family):
    """Up to where a mean overflows, and beyond it there is no NaN."""
    eta, y = torch.linspace(-200, 200, 2_001), torch.tensor([[0.0], [3.0]])
    for function in (family.information, family.score, family.curvature):
        exact = function(eta.double(), y.double())
        found = function(eta, y)
        assert not found.isnan().any()
        has_number = exact.abs() < 1e37
        torch.testing.assert_close(
            found.double()[has_number], exact[has_number], rtol=1e-4, atol=1e-9
        )


def test_information_of_large_means_is_what_quadrature_of_counts_has():
    """The mean's square overflows in single precision, where the information nears the size."""
    family = ZeroInflatedNegativeBinomial(2.0, 0.25)
    found = family.information(torch.tensor([45.0, 60.0, 88.0]), torch.zeros(3))
    torch.testing.assert_close(found, torch.full((3,), 0.75 * 2.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "family",
    [ZeroInflatedPoisson(0.3), ZeroInflatedNegativeBinomial(2.0, 0.3)],
)
def test_a_zero_beside_an_infinite_mean_has_a_log_probability_with_a_gradient(family, dtype):
    eta = torch.tensor([60.0, 95.0, 800.0], dtype=dtype, requires_grad=True)
    found = family.log_prob(torch.zeros(3, dtype=dtype), eta)
    torch.testing.assert_close(found, torch.full_like(found, 0.3).log())
    for value in (found, -family.loss(eta, torch.zeros(3, dtype=dtype))):
        (gradient,) = torch.autograd.grad(value.sum(), eta)
        torch.testing.assert_close(gradient, torch.zeros(3, dtype=dtype), rtol=0.0, atol=1e-12)
