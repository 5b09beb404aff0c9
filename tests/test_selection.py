"""How many latents: numbers that are known, and closed forms of probabilistic PCA."""

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_expfam as pef


def table(family, num_rows, num_features, scale, latent_dim=3):
    W = scale * torch.randn(latent_dim, num_features, dtype=torch.float64)
    return family.sample(torch.randn(num_rows, latent_dim, dtype=torch.float64) @ W)


@pytest.mark.parametrize(
    ("family", "num_rows", "num_features", "scale"),
    [
        (pef.families.Poisson(), 150, 12, 0.6),
        (pef.families.Bernoulli(), 250, 20, 1.5),
    ],
    ids=str,
)
def test_both_criteria_find_three_latents(family, num_rows, num_features, scale):
    y = table(family, num_rows, num_features, scale)
    comparison = pef.compare_latent_dims(family, y, [2, 3, 4], num_folds=3)
    assert comparison.best == 3
    assert max(comparison.rows, key=lambda row: row.evidence).latent_dim == 3
    frame = comparison.to_frame()
    assert list(frame.index) == [2, 3, 4]
    assert frame.difference[3] == 0
    assert (frame.difference >= 0).all()
    assert (frame.held_out_se > 0).all()


def test_evidence_of_one_gaussian_latent_is_the_integral_over_its_loading():
    family = pef.families.Gaussian(1.0)
    y = table(family, 150, 2, 1.0, latent_dim=1)
    row = pef.compare_latent_dims(family, y, [1], intercept_scale=0.01).rows[0]
    grid = torch.linspace(-5, 5, 301, dtype=torch.float64)
    W = torch.cartesian_prod(grid, grid)
    covariance = W[:, :, None] * W[:, None, :] + torch.eye(2).double()
    # The intercepts are as good as zero, and their prior as good as integrated out.
    law = torch.distributions.MultivariateNormal(torch.zeros(2).double(), covariance)
    log_prior = torch.distributions.Normal(0.0, row.loading_scale).log_prob(W).sum(-1)
    total = law.log_prob(y[:, None]).sum(0) + log_prior + 2 * (grid[1] - grid[0]).log()
    assert row.evidence == pytest.approx(float(total.logsumexp(0)), abs=0.5)


def minka_evidence(y, latent_dim):
    """The log evidence of probabilistic PCA with unit noise by Minka's approximation (BIC)."""
    num_rows, num_features = y.shape
    centred = y - y.mean(0)
    values = torch.linalg.eigvalsh(centred.T @ centred / num_rows).flip(0)
    kept = values[:latent_dim].clamp(min=1)
    fit = kept.log() + values[:latent_dim] / kept
    log_likelihood = -0.5 * num_rows * (fit.sum() + values[latent_dim:].sum())
    size = num_features * latent_dim - latent_dim * (latent_dim - 1) / 2
    return float(log_likelihood) - 0.5 * size * torch.tensor(float(num_rows)).log().item()


def test_evidence_of_gaussian_tables_ranks_as_that_of_probabilistic_pca():
    family = pef.families.Gaussian(1.0)
    y = table(family, 200, 12, 0.8)
    dims = [1, 2, 3, 4, 5]
    rows = pef.compare_latent_dims(family, y, dims, num_folds=2).rows
    ours = sorted(dims, key=lambda dim: rows[dim - 1].evidence)
    assert ours == sorted(dims, key=lambda dim: minka_evidence(y, dim))
    assert ours[-1] == 3


def test_it_draws_itself():
    family = pef.families.Gaussian(1.0)
    comparison = pef.compare_latent_dims(family, table(family, 60, 5, 1.0), [1, 2], num_folds=2)
    ax = comparison.plot()
    assert ax.get_xlabel() == "number of latents"
    (bars,) = ax.containers[1].lines[2]
    lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
    assert lengths == pytest.approx([2 * row.difference_se for row in comparison.rows])
    assert "best: " in repr(comparison)


def test_missing_entries_and_offsets_take_part():
    family = pef.families.Poisson()
    y = table(family, 120, 10, 0.6, latent_dim=2)
    mask = torch.rand(y.shape) < 0.9
    offset = 0.3 * torch.randn(len(y), 1)
    comparison = pef.compare_latent_dims(family, y, [1, 2], offset, mask, num_folds=2)
    poisoned = torch.where(mask, y, torch.nan)
    again = pef.compare_latent_dims(family, poisoned, [1, 2], offset, mask, num_folds=2)
    assert comparison.best == 2
    assert again.rows[0].evidence == pytest.approx(comparison.rows[0].evidence)


@pytest.mark.parametrize(
    ("dims", "num_folds", "message"),
    [
        ([], 5, "dims must name at least one"),
        ([0], 5, "dims must be a whole number"),
        ([True], 5, "dims must be a whole number of at least 1, got True"),
        ([1.0], 5, "dims must be a whole number of at least 1, got 1.0"),
        ([9], 5, "dims must be at most 4"),
        ([1], 1, "num_folds must be between 2 and 30"),
        ([1], 31, "num_folds must be between 2 and 30"),
    ],
)
def test_bad_input(dims, num_folds, message):
    with pytest.raises(ValueError, match=message):
        pef.compare_latent_dims(
            pef.families.Gaussian(1.0), torch.randn(30, 4), dims, num_folds=num_folds
        )


def test_data_frames_and_numbers_of_numpy_are_as_good_as_tensors_and_ints():
    y = table(pef.families.Poisson(), 60, 5, 0.5, latent_dim=1)
    expected = pef.compare_latent_dims(pef.families.Poisson(), y, [1, 2], num_folds=2)
    frame = pd.DataFrame(y.numpy().astype(int))
    found = pef.compare_latent_dims(
        pef.families.Poisson(), frame, np.arange(1, 3), num_folds=np.int64(2)
    )
    assert [row.latent_dim for row in found.rows] == [1, 2]
    assert all(type(row.latent_dim) is int for row in found.rows)
    assert [row.held_out for row in found.rows] == pytest.approx(
        [row.held_out for row in expected.rows]
    )


def test_a_single_number_is_no_comparison():
    with pytest.raises(TypeError, match=r"such as \[1, 2, 3\], got 2"):
        pef.compare_latent_dims(pef.families.Gaussian(1.0), torch.randn(30, 4), 2)
    with pytest.raises(TypeError, match="y must hold real numbers"):
        pef.compare_latent_dims(pef.families.Gaussian(1.0), [["a", "b"]], [1])
