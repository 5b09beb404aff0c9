"""Symmetric tensors over the latents of all lanes, for compiled functions."""

from __future__ import annotations

from functools import cache
from itertools import permutations
from typing import Any, NamedTuple

import numba
import numpy as np

from pyro_expfam.deq.cpu.compilation import OPTIONS, own_code, whole_registers
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.linear_algebra import factorise
from pyro_expfam.deq.cpu.registers import BYTES

WIDTH = BYTES // 8
"""Lanes whose tensors over the latents are multiplied together: a register of them."""


class Triples(NamedTuple):
    """Places of the distinct entries of a symmetric tensor over the latents.

    Attributes:
        places: the three latents of each entry, ``(3, entries)``.
        count: how many entries of the whole tensor are the same, ``(entries,)``.
        entry: the entry of three latents, ``(l, l, l)``.
    """

    places: Any
    count: Any
    entry: Any


@cache
def triples_of(latent_dim: int) -> Triples:
    """The places of the distinct entries of tensors over so many latents."""
    places = [(a, b, c) for a in range(latent_dim) for b in range(a + 1) for c in range(b + 1)]
    entry = np.zeros((latent_dim,) * 3, np.int64)
    for number, place in enumerate(places):
        for order in permutations(place):
            entry[order] = number
    count = np.bincount(entry.ravel()).astype(np.float64)
    return Triples(np.array(places).T.copy(), count, entry)


@numba.njit(**OPTIONS)
def times(size, moments, vector, product):
    """Products of packed symmetric matrices with vectors, for all lanes."""
    own_code()
    whole_registers()
    for j in range(size):
        for r in range(LANES):
            product[j, r] = 0
        for k in range(size):
            place = j * (j + 1) // 2 + k if k <= j else k * (k + 1) // 2 + j
            for r in range(LANES):
                product[j, r] += moments[place, r] * vector[k, r]


@numba.njit(**OPTIONS)
def whiten(triples, smallest_pivot, block, memory):
    """The tensors of all lanes in coordinates with posterior covariance one, and the maps to them.

    There the numbers of a row whose information is large in some directions are of one size.
    """
    whole_registers()
    entry, factor = triples.entry, block.factor
    size, cubes, whitened = len(entry), memory.cubes, memory.whitened
    X, first, second = memory.matrices[0], memory.tensors[0], memory.tensors[1]
    for lane in range(0, LANES, WIDTH):
        factorise(block.information, size, lane, smallest_pivot, factor, block.resolved)
        for j in range(size):
            row = j * (j + 1) // 2
            for k in range(j + 1):
                for r in range(WIDTH):
                    X[j, k, r] = -1.0 if j == k else 0.0
                for m in range(k, j):
                    for r in range(WIDTH):
                        X[j, k, r] += factor[row + m, r] * X[m, k, r]
                for r in range(WIDTH):
                    # The diagonal holds reciprocals.
                    X[j, k, r] *= -factor[row + j, r]
                    memory.whitening[row + k, lane + r] = X[j, k, r]
        for a in range(size):
            for b in range(a + 1):
                for c in range(size):
                    for r in range(WIDTH):
                        first[a, b, c, r] = 0
                    for k in range(c + 1):
                        at = entry[a, b, k]
                        for r in range(WIDTH):
                            first[a, b, c, r] += cubes[at, lane + r] * X[c, k, r]
                    for r in range(WIDTH):
                        first[b, a, c, r] = first[a, b, c, r]
        for a in range(size):
            for b in range(size):
                for c in range(b + 1):
                    for r in range(WIDTH):
                        second[a, b, c, r] = 0
                    for k in range(b + 1):
                        for r in range(WIDTH):
                            second[a, b, c, r] += first[a, k, c, r] * X[b, k, r]
                    for r in range(WIDTH):
                        second[a, c, b, r] = second[a, b, c, r]
        for at in range(len(triples.count)):
            a, b, c = triples.places[0, at], triples.places[1, at], triples.places[2, at]
            for r in range(WIDTH):
                whitened[at, lane + r] = 0
            for k in range(a + 1):
                for r in range(WIDTH):
                    whitened[at, lane + r] += second[k, b, c, r] * X[a, k, r]


@numba.njit(**OPTIONS)
def raise_indices(triples, memory):
    """Raises the indices of the tensors of all lanes, and contracts two with themselves."""
    whole_registers()
    entry = triples.entry
    size, cubes, raised = len(entry), memory.whitened, memory.cubes
    X, first, second = memory.matrices[0], memory.tensors[0], memory.tensors[1]
    for lane in range(0, LANES, WIDTH):
        _unpack(size, memory.whitening, lane, X)
        for a in range(size):
            for b in range(a + 1):
                for c in range(size):
                    for r in range(WIDTH):
                        first[a, b, c, r] = 0
                    for k in range(c, size):
                        at = entry[a, b, k]
                        for r in range(WIDTH):
                            first[a, b, c, r] += cubes[at, lane + r] * X[k, c, r]
                    for r in range(WIDTH):
                        first[b, a, c, r] = first[a, b, c, r]
        for a in range(size):
            for b in range(size):
                for c in range(b + 1):
                    for r in range(WIDTH):
                        second[a, b, c, r] = 0
                    for k in range(b, size):
                        for r in range(WIDTH):
                            second[a, b, c, r] += first[a, k, c, r] * X[k, b, r]
                    for r in range(WIDTH):
                        second[a, c, b, r] = second[a, b, c, r]
        for a in range(size):
            for b in range(a + 1):
                place = a * (a + 1) // 2 + b
                for r in range(WIDTH):
                    memory.contracted[place, lane + r] = 0
                for c in range(size):
                    for k in range(size):
                        one, other = entry[a, c, k], entry[b, c, k]
                        for r in range(WIDTH):
                            memory.contracted[place, lane + r] += (
                                cubes[one, lane + r] * cubes[other, lane + r]
                            )
        for at in range(len(triples.count)):
            a, b, c = triples.places[0, at], triples.places[1, at], triples.places[2, at]
            for r in range(WIDTH):
                raised[at, lane + r] = 0
            for k in range(a, size):
                for r in range(WIDTH):
                    raised[at, lane + r] += second[k, b, c, r] * X[k, a, r]


@numba.njit(**OPTIONS)
def _unpack(size, packed, lane, matrix):
    """The symmetric matrices of some lanes of their lower triangles."""
    for j in range(size):
        for k in range(j + 1):
            place = j * (j + 1) // 2 + k
            for r in range(WIDTH):
                matrix[j, k, r] = packed[place, lane + r]
                matrix[k, j, r] = packed[place, lane + r]


@numba.njit(**OPTIONS)
def find_information(size, memory):
    """The gradient in the information, in place of the gradient in the covariance."""
    whole_registers()
    X, matrix = memory.matrices[0], memory.matrices[1]
    product = memory.tensors[0, 0]
    for lane in range(0, LANES, WIDTH):
        _unpack(size, memory.whitening, lane, X)
        _unpack(size, memory.spread, lane, matrix)
        for j in range(size):
            for k in range(size):
                for r in range(WIDTH):
                    product[j, k, r] = 0
                for m in range(j + 1):
                    for r in range(WIDTH):
                        product[j, k, r] += X[j, m, r] * matrix[m, k, r]
        for j in range(size):
            for k in range(j + 1):
                place = j * (j + 1) // 2 + k
                for r in range(WIDTH):
                    matrix[j, k, r] = memory.contracted[place, lane + r]
                for m in range(k + 1):
                    for r in range(WIDTH):
                        matrix[j, k, r] += product[j, m, r] * X[k, m, r]
                for r in range(WIDTH):
                    matrix[k, j, r] = matrix[j, k, r]
        for j in range(size):
            for k in range(size):
                for r in range(WIDTH):
                    product[j, k, r] = 0
                for m in range(j, size):
                    for r in range(WIDTH):
                        product[j, k, r] += X[m, j, r] * matrix[m, k, r]
        for j in range(size):
            for k in range(j + 1):
                place = j * (j + 1) // 2 + k
                for r in range(WIDTH):
                    memory.spread[place, lane + r] = 0
                for m in range(k, size):
                    for r in range(WIDTH):
                        memory.spread[place, lane + r] -= product[j, m, r] * X[m, k, r]
