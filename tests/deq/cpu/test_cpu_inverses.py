"""The kernels invert many small matrices as LAPACK does, and multiply by them."""

import pytest
import torch

pytest.importorskip("numba")

from pyro_expfam.deq.cpu.inverses import invert, products
from pyro_expfam.deq.cpu.registers import BYTES


def positive_definite(number, size, dtype):
    factor = torch.randn(number, size, size + 3).double()
    return (factor @ factor.mT + 0.1 * torch.eye(size)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 11, 30, 64])
def test_inverses_are_those_of_lapack(size, dtype):
    lanes = BYTES // torch.finfo(dtype).bits * 8
    for number in (1, lanes, 2 * lanes + 1):
        matrices = positive_definite(number, size, dtype)
        expected = torch.linalg.inv(matrices.double())
        invert(matrices, 0.0)
        tolerance = 100 * size * torch.finfo(dtype).eps
        error = (matrices.double() - expected).abs().amax((1, 2))
        conditioned = expected.abs().amax((1, 2)) * 100
        assert bool((error <= tolerance * conditioned).all())
        torch.testing.assert_close(matrices, matrices.mT)


def test_the_ridge_is_a_part_of_the_mean_of_the_diagonal():
    matrices = torch.diag(torch.tensor([1.0, 2.0, 6.0])).double().expand(5, 3, 3).contiguous()
    invert(matrices, 0.5)
    expected = torch.diag(1 / torch.tensor([2.5, 3.5, 7.5])).double()
    torch.testing.assert_close(matrices, expected.expand(5, 3, 3))


def test_a_matrix_without_a_factor_gives_the_inverse_of_its_diagonal():
    matrices = torch.stack([torch.eye(2), torch.tensor([[4.0, 5.0], [5.0, 4.0]]), torch.eye(2)])
    invert(matrices, 0.0)
    torch.testing.assert_close(matrices[1], torch.eye(2) / 4)
    torch.testing.assert_close(matrices[0], torch.eye(2))
    assert bool((matrices[2] == matrices[0]).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("number", "size"), [(0, 3), (1, 1), (7, 2), (40, 11), (3, 64)])
def test_products_are_those_of_each_matrix(number, size, dtype):
    matrices, vectors = positive_definite(number, size, dtype), torch.randn(number, size).to(dtype)
    expected = torch.einsum("nij,nj->ni", matrices.double(), vectors.double())
    scale = torch.einsum("nij,nj->ni", matrices.double().abs(), vectors.double().abs())
    error = (products(matrices, vectors).double() - expected).abs()
    assert bool((error <= size * torch.finfo(dtype).eps * scale).all())
