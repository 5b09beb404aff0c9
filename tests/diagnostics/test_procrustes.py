"""Alignment of draws: what rotations and reflections do is undone, and nothing else changes."""

import numpy as np
import pytest
import scipy.linalg
import torch

from pyro_expfam.diagnostics import align_draws

SIZES = dict(num_draws=7, num_features=9, num_rows=11)


def random_orthogonal(*shape, latent_dim, dtype):
    """Rotations and reflections in equal parts, by Haar measure."""
    Q, R = torch.linalg.qr(torch.randn(*shape, latent_dim, latent_dim, dtype=dtype))
    return Q * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def random_draws(latent_dim, dtype, num_draws, num_features, num_rows):
    scale = torch.linspace(2.0, 0.5, latent_dim, dtype=dtype)
    W = torch.randn(num_draws, num_features, latent_dim, dtype=dtype) * scale
    return W, torch.randn(num_draws, num_rows, latent_dim, dtype=dtype)


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def dtype(request):
    return request.param


def rounding(dtype):
    return {"rtol": 0, "atol": 200 * torch.finfo(dtype).eps}


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_rotations_and_reflections_are_undone(latent_dim, dtype):
    W, z = (draws[0] for draws in random_draws(latent_dim, dtype, **SIZES))
    Q = random_orthogonal(6, latent_dim=latent_dim, dtype=dtype)
    if latent_dim > 1:
        assert {-1.0, 1.0} == set(torch.linalg.det(Q).round().tolist())
    aligned = align_draws(W @ Q, z @ Q)
    for draws in (aligned.loading, aligned.latents):
        torch.testing.assert_close(draws, draws[:1].expand_as(draws), **rounding(dtype))
    torch.testing.assert_close(aligned.reference, aligned.loading[0], **rounding(dtype))


@pytest.mark.parametrize("latent_dim", [1, 3])
def test_natural_parameters_stay(latent_dim, dtype):
    W, z = random_draws(latent_dim, dtype, **SIZES)
    aligned = align_draws(W, z)
    assert aligned.loading.dtype == aligned.latents.dtype == dtype
    torch.testing.assert_close(aligned.latents @ aligned.loading.mT, z @ W.mT, **rounding(dtype))
    gram = aligned.rotation @ aligned.rotation.mT
    torch.testing.assert_close(gram, torch.eye(latent_dim).to(gram).expand_as(gram))


def test_each_draw_is_as_close_to_a_reference_as_rotations_allow():
    W, _ = random_draws(3, torch.float64, **SIZES)
    reference = torch.randn(9, 3, dtype=torch.float64)
    aligned = align_draws(W, reference=reference)
    torch.testing.assert_close(aligned.reference, reference)
    for draw, found in zip(W, aligned.rotation, strict=True):
        wanted, _ = scipy.linalg.orthogonal_procrustes(draw.numpy(), reference.numpy())
        np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_reference_is_the_mean_in_its_principal_axes():
    W, _ = random_draws(3, torch.float64, **SIZES)
    W[1:] = W[0] + 0.2 * W[1:]
    aligned = align_draws(W @ random_orthogonal(len(W), latent_dim=3, dtype=W.dtype))
    mean = aligned.loading.mean(0)
    torch.testing.assert_close(mean, aligned.reference)
    gram = mean.T @ mean
    torch.testing.assert_close(gram, gram.diagonal().diag())
    assert (gram.diagonal().diff() < 0).all()
    for column in mean.T:
        assert column[column.abs().argmax()] > 0


def test_one_loading_is_brought_to_its_singular_vectors():
    W = torch.randn(9, 4, dtype=torch.float64)
    U, singular, _ = np.linalg.svd(W.numpy(), full_matrices=False)
    found = align_draws(W).loading.numpy()
    np.testing.assert_allclose(np.abs(found), np.abs(U * singular), atol=1e-12)


def test_fewer_features_than_latents():
    W, z = torch.randn(5, 2, 4), torch.randn(5, 6, 4)
    aligned = align_draws(W, z)
    torch.testing.assert_close(aligned.latents @ aligned.loading.mT, z @ W.mT, atol=1e-5, rtol=0)


def test_leading_dimensions_are_kept_and_arrays_are_taken():
    W, z = torch.randn(2, 3, 5, 2).numpy(), torch.randn(2, 3, 4, 2).numpy()
    aligned = align_draws(W, z)
    assert aligned.loading.shape == W.shape
    assert aligned.latents.shape == z.shape
    flat = align_draws(W.reshape(6, 5, 2), z.reshape(6, 4, 2))
    torch.testing.assert_close(aligned.latents.flatten(0, 1), flat.latents)


def test_dead_latents_do_no_harm():
    W = torch.randn(1, 8, 2, dtype=torch.float64)
    W[..., 1] = 0
    Q = random_orthogonal(5, latent_dim=2, dtype=W.dtype)
    aligned = align_draws(W @ Q)
    torch.testing.assert_close(aligned.loading, aligned.loading[:1].expand(5, 8, 2))
    torch.testing.assert_close(aligned.loading[..., 1], torch.zeros(5, 8, dtype=W.dtype))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"loading": torch.ones(5, 2, dtype=torch.long)}, TypeError, "loading must hold floating"),
        ({"loading": torch.ones(5)}, ValueError, r"loading must be of shape .* got \(5,\)"),
        ({"loading": torch.ones(0, 5, 2)}, ValueError, r"loading must be .* got \(0, 5, 2\)"),
        ({"loading": torch.full((5, 2), torch.nan)}, ValueError, "loading must be finite"),
        ({"latents": torch.ones(3, 6, 2)}, ValueError, r"latents must be of shape \(4, N, 2\)"),
        ({"latents": torch.ones(4, 6, 3)}, ValueError, r"latents must .* got \(4, 6, 3\)"),
        ({"reference": torch.ones(4, 2)}, ValueError, r"reference must be of shape \(5, 2\)"),
        ({"reference": torch.full((5, 2), torch.inf)}, ValueError, "reference must be finite"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        align_draws(**{"loading": torch.randn(4, 5, 2), **arguments})
