"""Tensors have the same fingerprint if they are the same in every bit."""

import pytest
import torch

from pyro_expfam.joint.fingerprint import CHUNK, fingerprint

DTYPES = [torch.bool, torch.uint8, torch.int16, torch.int64, torch.bfloat16, torch.float64]


def random_tensor(dtype, shape=(37, 5)):
    return (100 * torch.randn(shape)).abs().to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_copies_and_views_have_the_same(dtype):
    x = random_tensor(dtype)
    padded = torch.nn.functional.pad(x, (1, 2, 3, 1))[3:-1, 1:-2]
    transposed = x.T.contiguous().T
    flat = torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)
    for same in (x.clone(), padded, transposed, flat):
        assert fingerprint(same) == fingerprint(x)


def test_every_flipped_bit_is_seen():
    x = torch.randint(-(2**62), 2**62, (11, 3))
    before = fingerprint(x)
    for place in range(x.numel()):
        for bit in range(64):
            changed = x.clone()
            changed.view(-1)[place] ^= -(2**63) if bit == 63 else 2**bit
            assert fingerprint(changed) != before


def test_rows_and_columns_that_change_places_are_seen():
    x = torch.poisson(torch.ones(60, 8))
    # A large row must not hide changes of the other rows.
    x[0] = 3e5
    before = fingerprint(x)
    for i in range(1, 60):
        order = torch.arange(60)
        order[[i, (i % 59) + 1]] = order[[(i % 59) + 1, i]]
        if not torch.equal(x[order], x):
            assert fingerprint(x[order]) != before
    assert fingerprint(x.flip(1)) != before


def test_signs_that_change_in_pairs_are_seen():
    x = torch.randn(64).double()
    before = fingerprint(x)
    for i in range(63):
        changed = x.clone()
        changed[[i, i + 1]] *= -1
        assert fingerprint(changed) != before


def test_shape_and_dtype_count():
    x = torch.zeros(6, 2, dtype=torch.int32)
    others = x.T, x[:5], x.view(torch.float32), torch.zeros(7, 2, dtype=torch.int32)
    assert len({fingerprint(other) for other in (x, *others)}) == 5


def test_all_chunks_count():
    x = torch.zeros(3 * CHUNK + 5, dtype=torch.int64)
    before = fingerprint(x)
    for place in (0, CHUNK, 2 * CHUNK - 1, 3 * CHUNK + 4):
        changed = x.clone()
        changed[place] = 1
        assert fingerprint(changed) != before


def test_an_empty_tensor_has_a_fingerprint():
    assert fingerprint(torch.zeros(0, 3)) == fingerprint(torch.zeros(0, 3))
