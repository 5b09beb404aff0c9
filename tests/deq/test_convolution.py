"""Convolutions are the modules of PyTorch, and the matrices that they stand for."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch

import pyro_expfam as pef
from pyro_expfam.deq import LatentProblem
from pyro_expfam.deq.transposed_convolution import transposed_convolution

linear = pef.linear

PAIRS = {
    "sequences": (
        linear.Conv1d(2, 3, 3, stride=2, padding=1, latent_shape=(2, 10)),
        torch.nn.Conv1d(2, 3, 3, stride=2, padding=1, bias=False),
    ),
    "images": (
        linear.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=1, latent_shape=(2, 6, 5)),
        torch.nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=1, bias=False),
    ),
    "transposed sequences": (
        linear.ConvTranspose1d(2, 3, 4, stride=3, padding=1, output_padding=2, latent_shape=(2, 5)),
        torch.nn.ConvTranspose1d(2, 3, 4, stride=3, padding=1, output_padding=2, bias=False),
    ),
    "transposed images": (
        linear.ConvTranspose2d(
            2, 1, (5, 3), stride=(2, 3), padding=(2, 0), output_padding=1, latent_shape=(2, 4, 3)
        ),
        torch.nn.ConvTranspose2d(
            2, 1, (5, 3), stride=(2, 3), padding=(2, 0), output_padding=1, bias=False
        ),
    ),
}
every_pair = pytest.mark.parametrize("name", PAIRS)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


@every_pair
@both_dtypes
def test_a_map_is_the_module_of_pytorch(name, dtype):
    convolution, module = PAIRS[name]
    kernel = torch.randn(convolution.kernel_shape, dtype=dtype)
    module = copy.deepcopy(module).to(dtype)
    module.weight.data = kernel
    z = torch.randn(7, convolution.latent_dim, dtype=dtype)
    images = module(convolution.unflatten_latents(z))
    assert images.shape[1:] == convolution.feature_shape
    features = convolution.map(kernel)(z)
    torch.testing.assert_close(convolution.unflatten(features), images, rtol=1e-4, atol=1e-5)


@every_pair
@both_dtypes
def test_operations_without_a_matrix_are_the_operations_of_the_matrix(name, dtype):
    convolution, _ = PAIRS[name]
    kernel = torch.randn(convolution.kernel_shape, dtype=dtype)
    W = convolution.map(kernel).loading
    free = replace(convolution, dense_latents=0).map(kernel)
    assert not free.has_matrix
    z, v = torch.randn(5, W.shape[1], dtype=dtype), torch.randn(5, W.shape[0], dtype=dtype)
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
    assert (free.num_features, free.latent_dim) == W.shape
    torch.testing.assert_close(free(z), z @ W.T, **close)
    torch.testing.assert_close(free.transpose(v), v @ W, **close)
    torch.testing.assert_close(free.gram_diagonal(v), v @ W.square(), **close)
    torch.testing.assert_close(free.largest_norm(), W.norm(dim=1).max(), **close)
    at = kernel.clone().requires_grad_()
    (expected,) = torch.autograd.grad((convolution.map(at).loading * (v.T @ z)).sum(), at)
    found = free.pullback(v, z)["kernel"]
    torch.testing.assert_close(found, expected.flatten(1), rtol=1e-4, atol=1e-3)


def test_kernels_of_a_batch_are_as_many_maps():
    convolution, _ = PAIRS["transposed images"]
    kernels = torch.randn(3, *convolution.kernel_shape).double()
    z = torch.randn(3, 4, convolution.latent_dim).double()
    v = torch.randn(3, 4, convolution.num_features).double()
    together = convolution.map(kernels)
    pulled = together.pullback(v, z)["kernel"]
    for k in range(3):
        alone = convolution.map(kernels[k])
        torch.testing.assert_close(together(z)[k], alone(z[k]))
        torch.testing.assert_close(together.transpose(v)[k], alone.transpose(v[k]))
        torch.testing.assert_close(together.loading[k], alone.loading)
        torch.testing.assert_close(together.largest_norm()[k], alone.largest_norm())
        torch.testing.assert_close(pulled[k], alone.pullback(v[k], z[k])["kernel"])


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_transposed_convolutions_by_ordinary_ones(stride, size):
    images, kernel = torch.randn(3, 2, 4, 3), torch.randn(2, 3, size, 4)
    for more in {0, stride - 1}:
        arguments = ((stride, 2), (size // 2, 1), (more, 1))
        expected = torch.nn.functional.conv_transpose2d(
            images, kernel, stride=arguments[0], padding=arguments[1], output_padding=arguments[2]
        )
        torch.testing.assert_close(
            transposed_convolution(images, kernel, *arguments), expected, rtol=1e-4, atol=1e-5
        )


def test_copies_of_a_map_are_the_same():
    convolution, _ = PAIRS["images"]
    found = convolution.map(torch.randn(convolution.kernel_shape))
    z = torch.randn(2, convolution.latent_dim)
    for copied in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert copied.convolution == convolution
        assert torch.equal(copied(z), found(z))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"latent_shape": (4, 4)},
            r"latent_shape must be \(channels, height, width\), got \(4, 4\)",
        ),
        ({"latent_shape": None}, "latent_shape must be .* got None"),
        ({"latent_shape": (3, 4, 4)}, "latent_shape must begin with the 2 channels of in_channels"),
        ({"latent_shape": (2, 0, 4)}, "latent_shape must be a whole number of at least 1, got 0"),
        ({"in_channels": 0}, "in_channels must be a whole number of at least 1, got 0"),
        ({"out_channels": 1.5}, "out_channels must be a whole number of at least 1, got 1.5"),
        ({"kernel_size": 5}, r"kernel_size must fit .* got \(5, 5\), which leaves features of"),
        (
            {"kernel_size": (3, 3, 3)},
            "kernel_size must be a whole number of at least 1, or 2 of them",
        ),
        ({"stride": 0}, "stride must be a whole number of at least 1"),
        ({"padding": -1}, "padding must be a whole number of at least 0"),
        ({"dense_latents": -1}, "dense_latents must be a whole number of at least 0, got -1"),
        ({"dense_latents": None}, "dense_latents must be a whole number of at least 0, got None"),
    ],
)
def test_sizes_that_do_not_fit(wrong, message):
    right = {"in_channels": 2, "out_channels": 1, "kernel_size": 3, "latent_shape": (2, 4, 4)}
    assert linear.Conv2d(**right).num_features == 4
    with pytest.raises(ValueError, match=message):
        linear.Conv2d(**{**right, **wrong})


def test_output_padding_and_kernels_that_do_not_fit():
    with pytest.raises(ValueError, match=r"output_padding must be below stride \(2,\), got \(2,\)"):
        linear.ConvTranspose1d(1, 1, 3, stride=2, output_padding=2, latent_shape=(1, 4))
    with pytest.raises(ValueError, match="kernel_size must fit"):
        linear.ConvTranspose1d(1, 1, 1, padding=2, latent_shape=(1, 4))
    up = linear.ConvTranspose1d(1, 1, 3, latent_shape=(1, 4))
    with pytest.raises(
        ValueError, match=r"kernel must have shape \(..., \(1, 1, 3\)\), got \(1, 3\)"
    ):
        up.map(torch.ones(1, 3))


def test_too_many_latents_for_a_matrix_are_said():
    free = linear.Conv1d(1, 1, 1, latent_shape=(1, 65)).map(torch.ones(1, 1, 1))
    with pytest.raises(TypeError, match="65 latents, more than its dense_latents=64"):
        _ = free.loading
    problem = LatentProblem(
        pef.families.Bernoulli(), torch.ones(2, 65), free, torch.zeros(65), torch.tensor(1.0)
    )
    for solver in (pef.deq.FixedPoint(), pef.deq.Anderson()):
        with pytest.raises(TypeError, match="linear_map must have a matrix here"):
            solver.solve(problem, torch.zeros(2, 65))
