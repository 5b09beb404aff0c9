"""Changes of basis keep the natural parameters and make the penalties least."""

import pytest
import torch

from pyro_expfam.joint.gauge import balancing, centring


def penalties(z, W, latent_precision, loading_precision):
    return latent_precision * z.square().sum() + loading_precision * W.square().sum()


@pytest.mark.parametrize("latent_dim", [1, 2, 6])
def test_balancing_is_the_best_change_of_basis(latent_dim):
    z = torch.randn(40, latent_dim).double() @ torch.randn(latent_dim, latent_dim).double()
    W = torch.randn(9, latent_dim).double()
    latent_precision, loading_precision = 0.3, 5.0
    R = balancing(latent_precision * z.T @ z, loading_precision * W.T @ W)
    torch.testing.assert_close(R, R.T)
    best_z, best_W = z @ R, W @ torch.linalg.inv(R).T
    torch.testing.assert_close(best_z @ best_W.T, z @ W.T)
    least = penalties(best_z, best_W, latent_precision, loading_precision)
    # The least is the nuclear norm of the natural parameters.
    nuclear = torch.linalg.svdvals(z @ W.T).sum()
    torch.testing.assert_close(least, 2 * (latent_precision * loading_precision) ** 0.5 * nuclear)


def test_directions_that_have_died_out_are_left_alone():
    z = torch.randn(10, 2).double()
    z[:, 1] = 0.0
    W = torch.randn(5, 2).double()
    assert balancing(z.T @ z, W.T @ W) is None
    assert balancing(W.T @ W, 0 * W.T @ W) is None


@pytest.mark.parametrize("size", [3e-2, 3e-3, 1e-3, 1e-4, 1e-6])
def test_a_direction_that_dies_out_in_single_precision_leaves_the_balance_of_all_others(size):
    axes = torch.linalg.qr(torch.randn(20, 3, 3)).Q
    small = torch.tensor([1.0, 1.0, size])
    for of_latents in axes:
        z = torch.randn(30, 3) * small @ of_latents
        W = torch.randn(6, 3) * small @ of_latents
        R = balancing(z.T @ z, W.T @ (5.0 * W))
        if R is not None:
            best_z, best_W = z.double() @ R, W.double() @ torch.linalg.inv(R)
            before = penalties(z.double(), W.double(), 1.0, 5.0)
            assert penalties(best_z, best_W, 1.0, 5.0) <= before * (1 + 1e-7)


@pytest.mark.parametrize("intercept_precision", [0.0, 1e-6, 0.01, 3.0])
def test_centring_is_the_best_shift(intercept_precision):
    z = (torch.randn(30, 3).double() + 2.0).requires_grad_()
    W, b = torch.randn(9, 3).double(), torch.randn(9).double()
    latent_precision = torch.tensor(0.3).double()
    products, gram = z.detach().sum(0)[:, None], torch.full((1, 1), 30.0).double()
    precision = torch.tensor([intercept_precision], dtype=torch.float64)
    shift = centring(products, W, b[:, None], latent_precision, gram, precision)[:, 0]
    shift = shift.detach().requires_grad_()
    penalty = latent_precision * (z - shift).square().sum()
    penalty = penalty + intercept_precision * (b + W @ shift).square().sum()
    (gradient,) = torch.autograd.grad(penalty, shift)
    torch.testing.assert_close(gradient, torch.zeros(3).double(), rtol=0.0, atol=1e-10)
    if intercept_precision == 0:
        torch.testing.assert_close(shift, z.mean(0))


def test_centring_moves_what_covariates_explain_to_their_coefficients():
    z, x = torch.randn(30, 3).double(), torch.randn(30, 2).double()
    z = z + x @ torch.randn(2, 3).double()
    W, known = torch.randn(9, 3).double(), torch.randn(9, 3).double()
    u = torch.cat([torch.ones(30, 1).double(), x], 1)
    latent_precision, precision = torch.tensor(0.3).double(), torch.tensor([0.0, 0.1, 2.0]).double()
    shift = centring(z.mT @ u, W, known, latent_precision, u.mT @ u, precision).requires_grad_()
    penalty = latent_precision * (z - u @ shift.mT).square().sum()
    penalty = penalty + (precision * (known + W @ shift).square()).sum()
    (gradient,) = torch.autograd.grad(penalty, shift)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0.0, atol=1e-9)
