"""Sums over the entries of a table that a joint fit needs, compiled by Numba.

A thread takes a few rows at a time. Their linear predictors, residuals and variances stay in its
cache, and so do the sums, which the products are added to as soon as their factors are known.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.activation import Activation
from pyro_expfam.deq.cpu.compilation import OPTIONS, compiled_once, whole_registers
from pyro_expfam.deq.cpu.entry_terms import find_terms
from pyro_expfam.deq.cpu.fast_exponential import LARGEST_EXPONENT
from pyro_expfam.deq.cpu.registers import BYTES
from pyro_expfam.deq.cpu.separate_moments import KINDS
from pyro_expfam.deq.cpu.threads import ENTRIES_TO_SOLVE, in_threads, spans
from pyro_expfam.deq.cpu.tiles import add_products
from pyro_expfam.deq.row_sums import RowSums, Wanted

ROWS_AT_ONCE = 96
"""Rows of which a thread forms the linear predictors at once."""

MANY_PRODUCTS = 256
"""Products per feature beyond which a thread takes twice as many rows: the factors and sums of all
features are then larger than the cache, and are read and written once for every block of rows."""

CACHE = 3 << 18
"""Bytes of the second cache of a processor that linear predictors, factors and sums may fill."""

LEAST_FEATURES = 32
"""Features at once, at least. Fewer of them leave more work outside of the registers than in."""

GIVEN = -1
"""The kind of a law whose residuals and variances are given."""


class _Panels(NamedTuple):
    """Coefficients as the kernel multiplies by them. Features are padded with zeros.

    Attributes:
        coefficients: of the linear predictors, ``(l + 1 + p, d)``.
        loading: ``(d, l)``, each row padded to whole registers.
        products: products of pairs of columns of the loading, ``(d, l (l + 1) / 2)``, each row
            padded to whole registers; no rows while they are not wanted.
        precision: the precision of the latents.
    """

    coefficients: Any
    loading: Any
    products: Any
    precision: Any


class _Rows(NamedTuple):
    """What the kernel reads of rows.

    Attributes:
        design: what the coefficients of linear predictors multiply, ``(n, l + 1 + p)``.
        statistic: sufficient statistics, ``(n, d)`` or ``(1, d)``, or ``(0, 0)`` where residuals
            are given.
        weights: the same of weights.
        offset: broadcasts to ``(n, d)``, or ``(0, 0)``.
        residual: residuals ``(n, d)`` that are given, or ``(0, 0)``.
        variance: variances ``(n, d)`` that are given, or ``(0, 0)``.
    """

    design: Any
    statistic: Any
    weights: Any
    offset: Any
    residual: Any
    variance: Any


class FusedSums:
    """Sums over the rows of a table at some coefficients.

    Args:
        coefficients: loading, intercept and coefficients of covariates, ``(d, l + 1 + p)``.
        latent_dim: the number of latents ``l``.
        precision: the precision of the latents.
    """

    def __init__(self, coefficients: Tensor, latent_dim: int, precision: float) -> None:
        self._loading = coefficients[:, :latent_dim].numpy()
        self._num_features = len(coefficients)
        self._panels = _Panels(
            _padded(coefficients.T.numpy()),
            _padded(self._loading),
            np.empty((0, 0), self._loading.dtype),
            self._loading.dtype.type(precision),
        )

    def of_law(
        self,
        activation: Activation,
        design: Tensor,
        statistic: Tensor | None,
        weights: Tensor | None,
        offset: Tensor | None,
        wanted: Wanted,
    ) -> RowSums:
        """As :meth:`pyro_expfam.deq.row_sums.JointSums.of_law`, of bits and counts."""
        number = design.numpy().dtype.type
        law = (
            KINDS[activation.name],
            number(activation.size),
            number(LARGEST_EXPONENT[number]),
            weights is not None,
        )
        no_entries = design.new_empty(0, 0)
        entries = (
            self._by_row(statistic, design, 0.0),
            self._by_row(weights, design, 1.0),
            no_entries if offset is None else offset.contiguous(),
        )
        rows = _Rows(design.contiguous(), *entries, no_entries, no_entries)
        return self._sum(law, rows, wanted)

    def of_terms(
        self, design: Tensor, residual: Tensor, variance: Tensor, wanted: Wanted
    ) -> RowSums:
        """As :meth:`pyro_expfam.deq.row_sums.JointSums.of_terms`."""
        number = design.numpy().dtype.type
        law, no_entries = (GIVEN, number(1), number(1), False), design.new_empty(0, 0)
        rows = _Rows(design.contiguous(), *(no_entries,) * 3, residual, variance)
        return self._sum(law, rows, wanted)

    def _by_row(self, entries: Tensor | None, design: Tensor, default: float) -> Tensor:
        """Entries of every row, or of one row that all share, contiguous."""
        if entries is None:
            return design.new_full((1, self._num_features), default)
        num_rows = 1 if entries.shape[-2] == 1 else len(design)
        return entries.expand(num_rows, self._num_features).contiguous()

    def _sum(self, law: tuple[Any, ...], rows: _Rows, wanted: Wanted) -> RowSums:
        num_rows, like = len(rows.design), rows.design
        scores, information, of_columns = wanted
        if information is not None and not len(self._panels.products):
            self._panels = self._panels._replace(products=_products(self._loading))
        out = (
            like.new_empty(0, 0) if scores is None else scores,
            like.new_empty(0, 0, 0) if information is None else information,
        )
        work = partial(
            _add_rows,
            law,
            self._num_features,
            self._panels,
            _Rows(*(x.numpy() for x in rows)),
            (*(x.numpy() for x in out), of_columns),
        )
        parts = in_threads(work, spans(num_rows, self._num_features, ENTRIES_TO_SOLVE))
        loss, score, packed = (sum(x[1:], x[0]) for x in zip(*parts, strict=True))
        of_features = (torch.from_numpy(x)[:, : self._num_features] for x in (score, packed))
        return RowSums(torch.tensor(loss, dtype=torch.float64), *of_features)


def _padded(matrix: Any) -> Any:
    """A matrix whose rows end in zeros, such that every row is an odd number of registers.

    Rows whose distance is a power of two would push each other out of the cache.
    """
    rows, columns = matrix.shape
    padded = _zeros(rows, columns, matrix)
    padded[:, :columns] = matrix
    return padded


def _products(loading: Any) -> Any:
    """Products of pairs of columns of a loading ``(d, l)``, padded, in the order of a triangle."""
    num_features, size = loading.shape
    products = _zeros(num_features, size * (size + 1) // 2, loading)
    for k in range(size):
        own = products[:, k * (k + 1) // 2 : (k + 1) * (k + 2) // 2]
        np.multiply(loading[:, : k + 1], loading[:, k : k + 1], out=own)
    return products


def _zeros(rows: int, columns: int, like: Any) -> Any:
    """Zeros, such that at least so many columns are an odd number of registers."""
    lanes = BYTES // like.itemsize
    registers = -(-columns // lanes)
    return np.zeros((rows, (registers + 1 - registers % 2) * lanes), like.dtype)


@compiled_once
def _add_rows(law, num_features, panels, rows, out, begin, end):
    """Adds up the rows from ``begin`` to ``end``; returns losses, scores and information."""
    coefficients, loading, products, precision = panels
    design, (scores, own, of_columns) = rows.design, out
    width, padded = coefficients.shape
    num_pairs = width * (width + 1) // 2 if of_columns else 0
    num_products = products.shape[1] if len(own) else 0
    factors = num_products + num_pairs
    at_once = ROWS_AT_ONCE if factors <= MANY_PRODUCTS else 2 * ROWS_AT_ONCE
    across = _features_at_once(factors + 3 * at_once, padded, design.itemsize)
    # An odd number of registers, as in the panels.
    lanes = BYTES // design.itemsize
    distance = (across // lanes | 1) * lanes
    memory = np.zeros((3, at_once, distance), design.dtype)
    variance, residual, power = memory[0], memory[1], memory[2]
    pairs = np.empty((at_once, num_pairs), design.dtype)
    of_rows = np.empty((at_once, loading.shape[1]), design.dtype)
    information = np.empty((at_once, products.shape[1]), design.dtype)
    score = np.zeros((width, padded), design.dtype)
    packed = np.zeros((num_pairs, padded), design.dtype)
    loss = 0.0
    for first in range(begin, end, at_once):
        count = min(at_once, end - first)
        of_block = design[first : first + count]
        if num_pairs:
            _multiply_pairs(of_block, pairs)
        of_rows[:] = 0
        information[:] = 0
        for f in range(0, num_features, across):
            wide, number = min(across, padded - f), min(across, num_features - f)
            to_eta, block = coefficients[:, f : f + wide], (variance, residual, power)
            loss += _find_block(law, rows, to_eta, of_block, first, f, number, block)
            if len(scores):
                add_products(of_rows, 0, count, residual, 0, 0, loading[f : f + number], number)
            if len(own):
                add_products(
                    information, 0, count, variance, 0, 0, products[f : f + number], number
                )
            left, weight = residual[:count, :wide], variance[:count, :wide]
            add_products(score[:, f : f + wide], 0, width, of_block.T, 0, 0, left, count)
            if num_pairs:
                of_pairs, to_pairs = pairs[:count].T, packed[:, f : f + wide]
                add_products(to_pairs, 0, num_pairs, of_pairs, 0, 0, weight, count)
        if len(scores):
            _copy(of_rows, 0, 0, count, scores.shape[1], scores[first : first + count])
        if len(own):
            _write_symmetric(information, precision, own[first : first + count])
    return loss, score, packed


@numba.njit(**OPTIONS)
def _find_block(law, rows, to_eta, design, first, f, number, block):
    """The loss of a block of rows and features, whose residuals and variances are written.

    Args:
        law: as in :func:`~pyro_expfam.deq.cpu.entry_terms.find_terms`.
        rows: what is read of rows.
        to_eta: the coefficients of the features, padded.
        design: what they multiply in the rows of the block.
        first: the first row of the block.
        f: its first feature.
        number: how many features it has.
        block: where variances and residuals go, and memory for exponentials.
    """
    whole_registers()
    variance, residual, power = block
    count, wide = len(design), to_eta.shape[1]
    if law[0] == GIVEN:
        _copy(rows.variance, first, f, count, number, variance)
        _copy(rows.residual, first, f, count, number, residual)
        return 0.0
    for r in range(count):
        row = variance[r, :wide]
        _begin_predictors(rows.offset, first + r, f, number, row)
    add_products(variance[:, :wide], 0, count, design, 0, 0, to_eta, len(to_eta))
    statistic = rows.statistic[first : first + count] if len(rows.statistic) > 1 else rows.statistic
    weights = rows.weights[first : first + count] if len(rows.weights) > 1 else rows.weights
    return find_terms(
        law, (statistic, weights), f, number, variance[:count], power[:count], residual[:count]
    )


@numba.njit(**OPTIONS)
def _copy(source, row, column, count, number, to):
    """Copies a block of a matrix.

    For an assignment of a slice Numba compiles the text of an error, which takes three seconds.
    """
    whole_registers()
    for r in range(count):
        for i in range(number):
            to[r, i] = source[row + r, column + i]


@numba.njit(**OPTIONS)
def _features_at_once(numbers, padded, itemsize):
    """How many features fit in the cache with so many numbers each."""
    lanes = BYTES // itemsize
    at_once = CACHE // (itemsize * numbers)
    return min(padded, max(LEAST_FEATURES, at_once // (2 * lanes) * 2 * lanes))


@numba.njit(**OPTIONS)
def _multiply_pairs(design, pairs):
    """Products of pairs of columns, in the order of packed lower triangles."""
    for r in range(len(design)):
        place = 0
        for k in range(design.shape[1]):
            x = design[r, k]
            for m in range(k + 1):
                pairs[r, place] = x * design[r, m]
                place += 1


@numba.njit(**OPTIONS)
def _begin_predictors(offset, s, f, number, eta):
    """Puts the offsets of a row's features from ``f`` on into linear predictors."""
    whole_registers()
    eta[:] = 0
    if not len(offset):
        return
    own = offset[s if len(offset) > 1 else 0]
    if len(own) > 1:
        own = own[f : f + number]
        for i in range(len(own)):
            eta[i] = own[i]
    else:
        eta[:number] = own[0]


@numba.njit(**OPTIONS)
def _write_symmetric(packed, precision, matrices):
    """Writes symmetric matrices from packed lower triangles, plus a precision on the diagonal."""
    for r in range(len(matrices)):
        place = 0
        for k in range(matrices.shape[1]):
            for m in range(k):
                matrices[r, k, m] = packed[r, place]
                matrices[r, m, k] = packed[r, place]
                place += 1
            matrices[r, k, k] = packed[r, place] + precision
            place += 1
