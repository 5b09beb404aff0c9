"""The posterior of coefficients against exact moments, its sandwich against many tables."""

import pytest
import torch
from exact_posterior import (
    exact_posterior,
    posterior_of,
    prior_precision,
    random_table,
)

import pyro_expfam as pef
from pyro_expfam.coefficients import covariance as covariance_module
from pyro_expfam.coefficients import evidence_information
from pyro_expfam.coefficients.posterior import LARGEST_SHIFT
from pyro_expfam.coefficients.scores import row_scores
from pyro_expfam.evidence.expansion import Expansion

POISSON, BERNOULLI = pef.families.Poisson(), pef.families.Bernoulli()
BINOMIAL = pef.families.Binomial(total_count=8)


def length_by_column(change, covariance):
    """The length of changes ``(d, l + 1)`` in standard deviations of their column."""
    blocks = covariance.view(*change.shape, *change.shape)
    return torch.stack(
        [
            (delta @ torch.linalg.pinv(blocks[i, :, i], hermitian=True) @ delta).sqrt()
            for i, delta in enumerate(change)
        ]
    )


@pytest.mark.parametrize(
    ("family", "num_rows", "num_features"), [(POISSON, 30, 4), (BINOMIAL, 40, 5)], ids=str
)
def test_the_mean_is_nearer_to_the_exact_one_than_the_mode(family, num_rows, num_features):
    of_mode, of_mean = [], []
    for _ in range(3):
        y, W, b = random_table(family, num_rows, num_features, 1.0)
        prior = prior_precision(3.0)
        _, _, posterior = posterior_of(family, y, W, b, prior)
        exact = exact_posterior(family, y, prior, posterior)
        assert exact.effective_size > 300
        deviation = exact.deviation(exact.draws)
        used = ~posterior.unreliable_columns
        for errors, estimate in ((of_mode, posterior.mode), (of_mean, posterior.mean)):
            error = (estimate - exact.mean(exact.draws)) / deviation
            errors.append(error[used].flatten())
    of_mode, of_mean = torch.cat(of_mode), torch.cat(of_mean)
    assert len(of_mean) >= 4 * num_features
    assert of_mean.square().mean() <= 0.15 * of_mode.square().mean()
    assert of_mean.abs().max() <= 0.3


def column_without_an_event():
    y = torch.poisson(torch.full((40, 4), 2.0, dtype=torch.float64))
    y[:, 0] = 0
    return y


@pytest.mark.parametrize("intercept_scale", [10.0, 30.0, 100.0, 1_000.0])
def test_a_column_without_an_event_keeps_its_mode_under_a_wide_prior(intercept_scale):
    y = column_without_an_event()
    start = torch.full((4, 1), 0.1).double(), torch.zeros(4).double()
    _, _, posterior = posterior_of(POISSON, y, *start, prior_precision(intercept_scale))
    assert posterior.unreliable_columns.tolist() == [True, False, False, False]
    torch.testing.assert_close(posterior.mean[0], posterior.mode[0])
    assert (posterior.mean[1:] != posterior.mode[1:]).all()


@pytest.mark.parametrize("intercept_scale", [1.0, 2.0, 3.0])
def test_a_column_without_an_event_has_its_exact_mean_under_a_narrow_prior(intercept_scale):
    y = column_without_an_event()
    start = torch.full((4, 1), 0.1).double(), torch.zeros(4).double()
    _, _, posterior = posterior_of(POISSON, y, *start, prior_precision(intercept_scale))
    assert not posterior.unreliable_columns[0]
    # The exact posterior of the column alone, which does not inform about latents.
    b, w = torch.linspace(-25.0, 3.0, 1_401).double(), torch.linspace(-4.0, 4.0, 161).double()
    rate = (b[:, None] + 0.5 * w.square()).exp()
    log_density = -40 * rate - 0.5 * (b[:, None] / intercept_scale) ** 2 - 0.5 * w.square()
    weights = log_density.flatten().softmax(0).view_as(log_density).sum(1)
    mean = (weights * b).sum()
    deviation = (weights * (b - mean).square()).sum().sqrt()
    assert (posterior.mean[0, 1] - mean).abs() <= 0.15 * deviation
    assert (posterior.mode[0, 1] - mean).abs() > (posterior.mean[0, 1] - mean).abs()


@pytest.mark.slow
def test_the_mean_is_never_far_from_the_mode():
    number_unreliable = 0
    for number in range(18):
        family = (POISSON, BERNOULLI)[number % 2]
        num_rows, num_features = (15, 40, 100)[number % 3], (3, 5, 8)[number // 2 % 3]
        y, W, b = random_table(family, num_rows, num_features, (0.2, 0.6, 1.2)[number // 3 % 3])
        if number % 4 == 0:
            y[:, 0] = 0
        prior = prior_precision((1.0, 10.0, 100.0, 1_000.0)[number % 4])
        try:
            _, _, posterior = posterior_of(family, y, W, b, prior)
        except ValueError:
            continue
        change = posterior.mean - posterior.mode
        length = length_by_column(change, posterior.covariance())
        # The part that all columns share, of few columns and one latent, comes on top.
        assert (length <= 2 * LARGEST_SHIFT).all()
        assert not change[posterior.unreliable_columns].any()
        number_unreliable += int(posterior.unreliable_columns.sum())
    assert number_unreliable > 0


@pytest.mark.parametrize(("num_features", "latent_dim"), [(40, 1), (30, 3)])
def test_many_ordinary_columns_are_reliable_and_an_empty_one_beside_them_is_not(
    num_features, latent_dim
):
    W = 0.7 * torch.randn(num_features, latent_dim).double()
    eta = torch.randn(200, latent_dim).double() @ W.mT + 0.3
    y = torch.poisson(eta.exp())
    y[:, 0] = 0
    start = W, torch.full((num_features,), 0.3).double()
    _, _, posterior = posterior_of(POISSON, y, *start, prior_precision(100.0, latent_dim))
    assert posterior.unreliable_columns.nonzero().flatten().tolist() == [0]
    # All columns add to the correction along the scale of the latents.
    length = length_by_column(posterior.mean - posterior.mode, posterior.covariance())
    assert float(length.max()) > LARGEST_SHIFT


def test_large_tables_flag_the_same_column(monkeypatch):
    monkeypatch.setattr(covariance_module, "LARGEST_DENSE", 1)
    start = torch.full((4, 1), 0.1).double(), torch.zeros(4).double()
    y = column_without_an_event()
    _, _, posterior = posterior_of(POISSON, y, *start, prior_precision(100.0))
    assert posterior.factor.shape == (4, 2, 2)
    assert posterior.unreliable_columns.tolist() == [True, False, False, False]
    assert torch.equal(posterior.mean, posterior.mode)


@pytest.mark.parametrize("latent_dim", [1, 3])
def test_sandwich_is_the_product_of_inverse_information_and_scores(latent_dim):
    y, W, b = random_table(POISSON, 80, 7, 0.8, latent_dim)
    prior = prior_precision(2.0, latent_dim)
    problem, z, posterior = posterior_of(POISSON, y, W, b, prior)
    information = evidence_information(problem, prior, z)
    scores = row_scores(Expansion(problem, z)).flatten(1)
    middle = scores.T @ scores + torch.diag(prior).repeat(7, 7) * torch.eye(7 * len(prior))
    # Rotations are its null space.
    inverse = torch.linalg.pinv(information, hermitian=True, rtol=1e-7)
    expected = inverse @ middle @ inverse
    sandwich = posterior.sandwich
    torch.testing.assert_close(sandwich.covariance(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        sandwich.variance().flatten(), expected.diagonal(), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(sandwich.sandwich.covariance(), sandwich.covariance())
    assert torch.equal(sandwich.mean, posterior.mean)


def test_sandwich_by_feature_has_the_scores_of_each_feature(monkeypatch):
    y, W, b = random_table(POISSON, 80, 7)
    prior = prior_precision(2.0)
    monkeypatch.setattr(covariance_module, "LARGEST_DENSE", 1)
    problem, z, posterior = posterior_of(POISSON, y, W, b, prior)
    information = evidence_information(problem, prior, z).view(7, 2, 7, 2)
    scores = row_scores(Expansion(problem, z))
    for i in range(7):
        inverse = torch.linalg.inv(information[i, :, i])
        middle = scores[:, i].T @ scores[:, i] + torch.diag(prior)
        found = posterior.sandwich.covariance().view(7, 2, 7, 2)[i, :, i]
        torch.testing.assert_close(found, inverse @ middle @ inverse)


def products(posterior):
    r"""Entries of :math:`W W^\top` and the intercepts, with their standard deviations."""
    W = posterior.mean[:, :-1]
    i, j = torch.tril_indices(len(W), len(W))
    number = torch.arange(len(i))
    change = torch.zeros(len(i), *posterior.mean.shape, dtype=torch.float64)
    change[number, i, :-1] += W[j]
    change[number, j, :-1] += W[i]
    change = change.flatten(1)
    variance = ((change @ posterior.covariance()) * change).sum(1)
    value = torch.cat([(W @ W.T)[i, j], posterior.mean[:, -1]])
    return value, torch.cat([variance, posterior.variance()[:, -1]]).sqrt()


@pytest.mark.parametrize(
    ("num_rows", "num_features", "latent_dim", "num_tables"), [(400, 15, 2, 6), (60, 6, 1, 20)]
)
def test_sandwich_is_the_covariance_where_the_model_is_right(
    num_rows, num_features, latent_dim, num_tables
):
    ratios = []
    for _ in range(num_tables):
        y, W, b = random_table(POISSON, num_rows, num_features, 0.5, latent_dim)
        prior = prior_precision(10.0, latent_dim)
        _, _, posterior = posterior_of(POISSON, y, W, b, prior)
        ratios.append((posterior.sandwich.variance() / posterior.variance()).mean())
    ratios = torch.stack(ratios)
    error = ratios.std() / len(ratios) ** 0.5
    # In small tables residuals are shorter than errors, as in any regression.
    assert (ratios.mean() - 1).abs() <= 3 * error + 2 * (latent_dim + 1) / num_rows


def overdispersed(num_rows, W, b, size=2.0):
    """Negative binomial counts."""
    rate = (torch.randn(num_rows, W.shape[1]).double() @ W.T + b).exp()
    gamma = torch.distributions.Gamma(size, size).sample(rate.shape).double()
    return torch.poisson(rate * gamma)


def coverage(num_rows, num_tables):
    """How often 90% intervals hold the limit of large tables: the model's, and the sandwich's."""
    W = 0.2 + (0.5 * torch.randn(6, 1).double()).abs()
    b = 1.0 + 0.3 * torch.randn(6).double()
    prior = prior_precision(10.0)
    _, _, limit = posterior_of(POISSON, overdispersed(40_000, W, b), W, b, prior)
    truth, _ = products(limit)
    inside = []
    for _ in range(num_tables):
        _, _, posterior = posterior_of(POISSON, overdispersed(num_rows, W, b), W, b, prior)
        both = (products(posterior), products(posterior.sandwich))
        inside.append([((x - truth).abs() <= 1.645 * error).double().mean() for x, error in both])
    return torch.tensor(inside).mean(0).tolist()


@pytest.mark.slow
def test_sandwich_intervals_of_overdispersed_counts_have_their_coverage():
    of_model, of_sandwich = coverage(200, 30)
    assert of_model <= 0.82
    assert 0.85 <= of_sandwich <= 0.95


@pytest.mark.slow
def test_sandwich_intervals_in_many_tables():
    of_model, of_sandwich = coverage(400, 400)
    assert of_model <= 0.8
    assert 0.87 <= of_sandwich <= 0.92


@pytest.mark.slow
def test_sandwich_agrees_with_a_bootstrap_of_rows():
    W, b = 0.3 + (0.5 * torch.randn(5, 1).double()).abs(), torch.ones(5).double()
    y, prior = overdispersed(200, W, b), prior_precision(10.0)
    _, _, posterior = posterior_of(POISSON, y, W, b, prior)
    estimates = []
    for _ in range(80):
        rows = torch.randint(len(y), (len(y),))
        _, _, again = posterior_of(POISSON, y[rows], W, b, prior)
        estimates.append(products(again)[0])
    bootstrap = torch.stack(estimates).std(0)
    of_sandwich, of_model = products(posterior.sandwich)[1], products(posterior)[1]
    assert (of_sandwich / bootstrap).log().abs().mean() <= 0.15
    assert (of_model / bootstrap).log().mean() <= -0.2
