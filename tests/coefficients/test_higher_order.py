"""The covariance of coefficients to second order against exact posteriors."""

import pytest
import torch
from exact_posterior import (
    SOLVER,
    exact_posterior,
    posterior_of,
    prior_precision,
    random_table,
)

import pyro_expfam as pef
from pyro_expfam.coefficients import higher_order, second_order_posterior

POISSON = pef.families.Poisson()


def test_standard_deviations_are_nearer_to_the_exact_ones():
    first, second = [], []
    for num_rows, num_features in ((25, 5), (40, 6)) * 2:
        y, W, b = random_table(POISSON, num_rows, num_features, 0.7)
        prior = prior_precision(2.0)
        problem, _, posterior = posterior_of(POISSON, y, W, b, prior)
        corrected = second_order_posterior(problem, prior, SOLVER, posterior)
        exact = exact_posterior(POISSON, y, prior, posterior)
        deviation = exact.deviation(exact.draws)
        for ratios, found in ((first, posterior), (second, corrected)):
            ratios.append((found.variance().sqrt() / deviation)[:, 0].mean())
    first, second = torch.stack(first), torch.stack(second)
    assert first.mean() <= 0.9
    assert (second - 1).abs().max() <= 0.06


def test_large_tables_have_no_correction_to_make():
    y, W, b = random_table(POISSON, 4_000, 4, 0.6, latent_dim=2)
    prior = prior_precision(2.0, 2)
    problem, _, posterior = posterior_of(POISSON, y, W, b, prior)
    corrected = second_order_posterior(problem, prior, SOLVER, posterior)
    ratio = corrected.variance() / posterior.variance()
    assert ((ratio - 1).abs() <= 0.05).all()
    assert not torch.equal(ratio, torch.ones_like(ratio))
    # Without rotations, as the first order.
    W_hat = posterior.mode[:, :-1]
    draws = corrected.draw(torch.randn(5, corrected.noise_dim).double())[..., :-1]
    product = draws.mT @ W_hat
    torch.testing.assert_close(product, product.mT)


def test_the_first_order_is_kept_where_the_expansion_does_not_hold():
    y = torch.poisson(torch.full((40, 4), 2.0, dtype=torch.float64))
    y[:, 0] = 0
    start = torch.full((4, 1), 0.1).double(), torch.zeros(4).double()
    prior = prior_precision(100.0)
    problem, _, posterior = posterior_of(POISSON, y, *start, prior)
    with pytest.warns(UserWarning, match="cannot be corrected to second order"):
        assert second_order_posterior(problem, prior, SOLVER, posterior) is posterior


def test_more_coefficients_than_it_is_for_are_refused(monkeypatch):
    monkeypatch.setattr(higher_order, "LARGEST", 7)
    y, W, b = random_table(POISSON, 60, 4)
    problem, _, posterior = posterior_of(POISSON, y, W, b, prior_precision(2.0))
    with pytest.raises(ValueError, match="order must be 1 for more than 7 coefficients, got"):
        second_order_posterior(problem, prior_precision(2.0), SOLVER, posterior)
