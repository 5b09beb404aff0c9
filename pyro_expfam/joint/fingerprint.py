"""Telling whether a batch is bit for bit what it was, without keeping it."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1 << 13
"""Words of eight bytes that share a pair of numbers."""


class Fingerprint(NamedTuple):
    """What is kept of a tensor.

    Attributes:
        dtype: its dtype.
        shape: its shape.
        sums: a pair of numbers for each chunk of its bytes.
    """

    dtype: torch.dtype
    shape: torch.Size
    sums: tuple[tuple[int, int], ...]


@torch.no_grad()
def fingerprint(tensor: Tensor) -> Fingerprint:
    r"""Numbers of a tensor that differ where any of its bits does.

    For words :math:`x_i` of 64 bits the sums :math:`\sum_i k_i x_i` and
    :math:`\sum_i k'_i \lfloor x_i / 2^{32} \rfloor`, modulo :math:`2^{64}`, have random factors. If
    some of the lower halves of the words differ, the first sum is the same with a probability of at
    most :math:`2^{-33}`; if only upper halves do, the second is. A sum takes a fraction of the time
    in which the bytes pass through a cryptographic hash.

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
    """The bytes of whole words."""
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
