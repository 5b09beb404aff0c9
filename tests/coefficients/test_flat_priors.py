"""The posterior of loading and intercept under flat priors: the theory of largest likelihood."""

import pytest
import torch

import pyro_expfam as pef

F = pef.families


def counts(num_rows=200, num_features=6):
    torch.manual_seed(0)
    z = torch.randn(num_rows, 2, dtype=torch.float64)
    W = 0.7 * torch.randn(num_features, 2, dtype=torch.float64)
    return torch.poisson(torch.exp(1 + z @ W.mT))


def fitted(y, scale, family=None):
    torch.manual_seed(1)
    model = pef.ExpFamPCA(
        family or F.Poisson(), y.shape[1], 2, loading_scale=scale, intercept_scale=scale
    )
    guide = pef.LaplaceGuide(model.double(), globals="laplace")
    guide.fit(y, progress=False)
    return guide


def test_flat_priors_are_the_limit_of_wide_ones():
    y = counts()
    flat, wide = (fitted(y, scale).coefficients for scale in (None, 1e4))
    products = [x.mode[:, :-1] @ x.mode[:, :-1].mT for x in (flat, wide)]
    torch.testing.assert_close(*products, rtol=1e-3, atol=1e-4)
    variances = [x.variance()[:, -1] for x in (flat, wide)]
    torch.testing.assert_close(*variances, rtol=1e-3, atol=1e-6)
    assert flat.rotations.shape[1] == 1


def test_the_standard_errors_of_gaussian_means_are_those_of_their_covariance():
    # With noise of known scale, the intercepts are the column means, whose covariance is
    # (W W^T + I) / N whatever the loading.
    torch.manual_seed(2)
    loading = torch.randn(5, 2, dtype=torch.float64)
    y = torch.randn(300, 2, dtype=torch.float64) @ loading.mT + torch.randn(300, 5).double()
    found = fitted(y, None, F.Gaussian(1.0)).coefficients
    torch.testing.assert_close(found.mode[:, -1], y.mean(0), rtol=1e-6, atol=1e-6)
    W = found.mode[:, :-1]
    expected = (W @ W.mT + torch.eye(5, dtype=torch.float64)) / len(y)
    of_intercepts = found.covariance()[2::3, 2::3]
    torch.testing.assert_close(of_intercepts, expected, rtol=1e-5, atol=1e-8)


def test_draws_have_the_covariance_and_leave_the_trained_parameters():
    guide = fitted(counts(), None)
    found = guide.coefficients
    noise = torch.randn(4_000, found.noise_dim, dtype=torch.float64)
    draws = found.draw(noise).flatten(1)
    torch.testing.assert_close(draws.T.cov(), found.covariance(), rtol=0.2, atol=4e-4)
    before = guide.loading.clone()
    assert list(guide(counts())) == ["z"]
    assert torch.equal(guide.loading, before)


def test_intervals_are_normal_around_the_mean():
    found = fitted(counts(), None).coefficients
    low, high = found.interval(0.95)
    torch.testing.assert_close((low + high) / 2, found.mean)
    torch.testing.assert_close(
        (high - low) / 2, 1.959964 * found.variance().sqrt(), rtol=1e-6, atol=0
    )
    with pytest.raises(ValueError, match="level must be between 0 and 1, got 95"):
        found.interval(95)


def test_a_file_keeps_them(tmp_path):
    guide = fitted(counts(), None)
    guide.save(tmp_path / "flat")
    loaded = pef.load(tmp_path / "flat").coefficients
    torch.testing.assert_close(loaded.variance(), guide.coefficients.variance())


def test_a_column_of_zeros_has_no_largest_likelihood():
    y = counts()
    y[:, 2] = 0.0
    with pytest.warns(UserWarning, match="have no posterior, because y must determine loading"):
        guide = fitted(y, None)
    # What has been learnt stays, and what reads the posterior says why there is none.
    assert bool(guide.loading.isfinite().all())
    with pytest.raises(RuntimeError, match="no posterior"):
        guide.coefficients.variance()
    with pytest.raises(ValueError, match="y must determine loading"):
        guide(y)
