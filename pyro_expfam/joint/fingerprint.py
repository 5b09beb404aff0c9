"""Fingerprints of batches, which tell whether a batch came back unchanged, bit for bit."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1 << 13
"""How many words of eight bytes one pair of sums covers."""


class Fingerprint(NamedTuple):
    """The fingerprint of a tensor.

    Attributes:
        dtype: the dtype of the tensor.
        shape: its shape.
        sums: a pair of sums for each chunk of its bytes.
    """

    dtype: torch.dtype
    shape: torch.Size
    sums: tuple[tuple[int, int], ...]


@torch.no_grad()
def fingerprint(tensor: Tensor) -> Fingerprint:
    r"""The fingerprint of a tensor: tensors that differ in any bit have different fingerprints.

    The words :math:`x_i` of 64 bits are summed with random factors, as :math:`\sum_i k_i x_i` and
    :math:`\sum_i k'_i \lfloor x_i / 2^{32} \rfloor` modulo :math:`2^{64}`. Two tensors that differ
    in the lower half of some word have the same first sum with a probability of at most
    :math:`2^{-33}`. Two tensors that differ in upper halves only have the same second sum with at
    most this probability. A sum takes a fraction of the time of a cryptographic hash.

    Source: Carter and Wegman, *Universal classes of hash functions* (1979).
    """
    entries = tensor.detach().cpu().contiguous().view(-1)
    size = entries.element_size()
    whole = 8 * (len(entries) * size // 8) // size
    sums = [_pair(words) for words in _words(entries[:whole]).split(CHUNK)]
    rest = entries[whole:].view(torch.uint8)
    if len(rest):
        sums.append(_pair(torch.nn.functional.pad(rest, (0, 8 - len(rest))).view(torch.int64)))
    return Fingerprint(tensor.dtype, tensor.shape, tuple(sums))


def _words(entries: Tensor) -> Tensor:
    """The bytes of entries that fill whole words, as words of eight bytes."""
    if entries.storage_offset() * entries.element_size() % 8:
        entries = entries.clone()
    return entries.view(torch.int64)


def _pair(words: Tensor) -> tuple[int, int]:
    lower, upper = (factors[: len(words)] for factors in _factors())
    return int(torch.dot(words, lower)), int(torch.dot(words >> 32, upper))


@cache
def _factors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    lower, upper = torch.randint(-(2**63), 2**63 - 1, (2, CHUNK), generator=generator)
    return lower, upper
