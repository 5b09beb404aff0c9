r"""The second order of the evidence of many rows at once and its gradient, compiled by Numba.

A block of rows passes the features once more for each sum that the next one needs: the third
derivatives in the latents, the gradient in the posterior covariance, the gradient in the latents,
and the gradients in the linear predictors. Everything is computed in float64, and the gradient by
the chain rule, backwards from the term of a row.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from pyro_expfam.deq.cpu.compilation import OPTIONS, compiled_once, whole_registers
from pyro_expfam.deq.cpu.dots import add_dots
from pyro_expfam.deq.cpu.evaluation import GROUP, LANES, STRIDE
from pyro_expfam.deq.cpu.evidence_block import empty_block, keep_entries, load_block, padded
from pyro_expfam.deq.cpu.evidence_losses import find_losses
from pyro_expfam.deq.cpu.evidence_moments import find_moments
from pyro_expfam.deq.cpu.evidence_parameters import (
    NO_FUNCTIONS,
    add_of_parameters,
    functions_of_parameters,
)
from pyro_expfam.deq.cpu.evidence_table import (
    EvidenceTable,
    evidence_table,
    laws_of,
    order_of,
)
from pyro_expfam.deq.cpu.laplace_sums import NO_OTHERS, OtherGradients, double, unpacked
from pyro_expfam.deq.cpu.second_order_levels import (
    add_terms_of_levels,
    empty_levels,
    find_natural_of_levels,
    forms_of_levels,
    latents_of_levels,
)
from pyro_expfam.deq.cpu.second_order_tensors import (
    WIDTH,
    find_information,
    raise_indices,
    times,
    triples_of,
    whiten,
)
from pyro_expfam.deq.cpu.threads import ENTRIES_TO_SOLVE, in_threads, spans
from pyro_expfam.deq.cpu.tiles import add_products
from pyro_expfam.deq.packed import SMALLEST_PIVOT
from pyro_expfam.deq.problem import LatentProblem


class SecondOrderRows(NamedTuple):
    r"""What the second order of the evidence adds to rows.

    Attributes:
        term: what it adds, as
            :func:`~pyro_expfam.evidence.second_order_term`, ``(N,)``.
        resolved: whether the information is positive definite to rounding, ``(N,)``.
        slope: the gradient in the precision of the latents at a held root, ``(N,)``.
        u: what the gradients through the latents are made of: the inverse of the information times
            the gradient that reaches the latents, ``(N, l)``.
    """

    term: Any
    resolved: Any
    slope: Any
    u: Any


class SecondOrderSums(NamedTuple):
    """Sums over rows.

    Attributes:
        rows: the parts of each row.
        coefficients: gradients of loading, intercept and coefficients of covariates, also through
            the root, ``(d, l + 1 + p)``.
        parameters: gradients of what the laws know of each feature, ``(d, m)``, zero if they are
            not wanted.
        offset: gradients of the linear predictors of each row, ``(N, d)``, or nothing.
    """

    rows: SecondOrderRows
    coefficients: Tensor
    parameters: Tensor
    offset: Tensor


def second_order_rows(problem: LatentProblem, z: Tensor) -> SecondOrderRows:
    """What the second order adds to rows at latents ``z`` ``(N, l)``, without gradients."""
    nothing = np.zeros((0, 0))
    found, _ = _compute(evidence_table(problem), z, np.zeros(0), NO_FUNCTIONS, nothing)
    return SecondOrderRows(*map(torch.from_numpy, found))


def second_order_sums(
    problem: LatentProblem,
    z: Tensor,
    grad: Tensor,
    wanted: OtherGradients = NO_OTHERS,
) -> SecondOrderSums:
    """The gradient of a function of what the second order adds to rows.

    Args:
        problem: the problem of the latents, in float64.
        z: its root, ``(N, l)``.
        grad: the gradient of the function in the terms of rows, ``(N,)``.
        wanted: which other gradients are wanted.
    """
    table = evidence_table(problem)
    offset = np.zeros(problem.y.shape if wanted.offset else (0, 0))
    functions = functions_of_parameters(problem) if wanted.parameters else NO_FUNCTIONS
    found, parts = _compute(table, z, double(grad), functions, offset)
    coefficients = _coefficients(table, problem, [part[:-1] for part in parts])
    parameters = torch.from_numpy(np.sum([part[-1] for part in parts], 0))
    by_entry, order = torch.from_numpy(offset), order_of(laws_of(problem))
    if order is not None:
        own = order.argsort()
        coefficients, parameters = coefficients[own], parameters[own]
        by_entry = by_entry[:, own] if wanted.offset else by_entry
    rows = SecondOrderRows(*map(torch.from_numpy, found))
    return SecondOrderSums(rows, coefficients, parameters, by_entry)


def _coefficients(table: EvidenceTable, problem: LatentProblem, parts: Any) -> Tensor:
    """The gradients of the coefficients in the order of the arrays, from the sums of threads."""
    latent_dim = problem.latent_dim
    to_predictors, to_latents, along, spread, cubes, to_loading = (
        torch.from_numpy(np.sum(x, 0)[: problem.num_features]) for x in zip(*parts, strict=True)
    )
    W, triples = torch.from_numpy(table.design.rows), triples_of(latent_dim)
    by_spread = unpacked(spread[:, : latent_dim * (latent_dim + 1) // 2], latent_dim)
    coefficients = to_predictors[:, : problem.num_coefficients].clone()
    of_loading = coefficients[:, :latent_dim]
    of_loading += to_latents[:, :latent_dim] + along[:, :latent_dim] + to_loading
    of_loading += 2 * (by_spread @ W.unsqueeze(-1)).squeeze(-1)
    # The gradient of a sixth of the cubic form of each feature.
    weighted = cubes[:, : len(triples.count)] * torch.from_numpy(triples.count) / 6
    a, b, c = (W[:, torch.from_numpy(x)] for x in triples.places)
    for place, others in zip(triples.places, (b * c, a * c, a * b), strict=True):
        of_loading.index_add_(1, torch.from_numpy(place), weighted * others)
    return coefficients


def _compute(
    table: EvidenceTable, z: Tensor, grad: np.ndarray, functions: np.ndarray, to_offset: np.ndarray
) -> tuple[SecondOrderRows, Any]:
    num_rows, latent_dim = z.shape
    term, slope = np.zeros((2, num_rows))
    found = SecondOrderRows(
        term, np.zeros(num_rows, np.bool_), slope, np.zeros((num_rows, latent_dim))
    )
    work = partial(
        _find_sums,
        table,
        triples_of(latent_dim),
        double(z),
        grad,
        functions,
        SMALLEST_PIVOT[torch.float64],
        to_offset,
        *found,
    )
    return found, in_threads(work, spans(num_rows, len(table.design.rows), ENTRIES_TO_SOLVE))


class _Memory(NamedTuple):
    """Memory for a block of rows beside a block; the last dimension runs over lanes.

    Attributes:
        forms: posterior variances of the linear predictors.
        natural: gradients in the linear predictors.
        weighted: third derivatives times the forms.
        along: the gradients in the forms.
        to_curvature: gradients in the second derivatives, or nothing if they are not wanted.
        to_third: gradients in the third derivatives, likewise.
        cubes: packed third derivatives in the latents, then with all indices raised.
        whitened: the same in coordinates with posterior covariance one.
        whitening: packed maps to these coordinates, which are lower triangles.
        contracted: packed gradients in the covariance in these coordinates.
        spread: packed gradients in the covariance by the forms, then in the information.
        vectors: vectors over the latents: the sum ``t``, its product with the covariance, ``t`` in
            the coordinates above or the gradient in the latents, and what goes through them.
        pairs: products of pairs of loadings, ``(entries, GROUP)``.
        triples: products of three loadings, ``(entries, GROUP)``.
        forms_of: the first, so often as there are entries of a matrix, ``(GROUP, entries)``.
        cubes_of: the second, so often as there are entries of a tensor, ``(GROUP, entries)``.
        matrices: matrices of some lanes.
        tensors: tensors of some lanes.
    """

    forms: Any
    natural: Any
    weighted: Any
    along: Any
    to_curvature: Any
    to_third: Any
    cubes: Any
    whitened: Any
    whitening: Any
    contracted: Any
    spread: Any
    vectors: Any
    pairs: Any
    triples: Any
    forms_of: Any
    cubes_of: Any
    matrices: Any
    tensors: Any


@numba.njit(**OPTIONS)
def _empty_memory(num_features, size, entries, has_parameters):
    packed = size * (size + 1) // 2
    by_feature = np.zeros((4, padded(num_features), STRIDE))
    to_derivatives = np.zeros((2, num_features if has_parameters else 0, STRIDE))
    over_cubes = np.zeros((2, padded(entries), STRIDE))
    return _Memory(
        by_feature[0],
        by_feature[1],
        by_feature[2],
        by_feature[3],
        to_derivatives[0],
        to_derivatives[1],
        over_cubes[0],
        over_cubes[1],
        np.zeros((packed, STRIDE)),
        np.zeros((packed, STRIDE)),
        np.zeros((padded(packed), STRIDE)),
        np.zeros((4, padded(size), STRIDE)),
        np.zeros((packed, GROUP)),
        np.zeros((entries, GROUP)),
        np.zeros((GROUP, packed)),
        np.zeros((GROUP, entries)),
        np.zeros((2, size, size, WIDTH)),
        np.zeros((2, size, size, size, WIDTH)),
    )


@compiled_once
def _find_sums(
    table,
    triples,
    z,
    grad,
    of_parameters,
    smallest_pivot,
    to_offset,
    term,
    resolved,
    slope,
    u,
    begin,
    end,
):
    """The terms of rows from ``begin`` to ``end``, and gradients if there is one of each row."""
    size, design = z.shape[1], table.design
    rows, has_levels = design.rows, len(design.columns) > 0
    block = empty_block(table, size, 5)
    memory = _empty_memory(len(rows), size, len(triples.count), len(of_parameters) > 0)
    levels = empty_levels(size if has_levels else 0)
    height, width = memory.forms.shape[0], memory.vectors.shape[1]
    to_predictors, to_loading = np.zeros((height, len(block.known))), np.zeros(rows.shape)
    to_latents, along = np.zeros((height, width)), np.zeros((height, width))
    spread = np.zeros((height, memory.spread.shape[0]))
    cubes = np.zeros((height, memory.cubes.shape[0]))
    to_parameters, no_density = np.zeros(design.parameters.shape), np.zeros(LANES)
    of_row, traces, own = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    for first in range(begin, end, LANES):
        load_block(table, z, first, end, block)
        find_losses(table, block)
        # Sums of third derivatives have none of levels, where they are memory.
        block.third[design.separate : len(rows)] = 0
        find_moments(size, smallest_pivot, block, traces)
        _find_sums_of_features(design, triples, block, memory, own)
        if has_levels:
            add_terms_of_levels(design, block, memory, levels, own)
        _find_terms(triples, smallest_pivot, block, memory, own)
        for r in range(min(LANES, end - first)):
            term[first + r], resolved[first + r] = own[r], block.resolved[r]
        if len(grad):
            for r in range(LANES):
                of_row[r] = grad[block.row[r]] * block.present[r]
            _find_natural(design, triples, of_row, block, memory)
            if has_levels:
                find_natural_of_levels(design, triples, of_row, block, memory, levels, to_loading)
            # Before the moments of the block are the gradient in the information.
            add_dots(spread, memory.along, block.moments[: len(memory.spread)])
            find_information(size, memory)
            _add_forms(design, block, memory)
            if has_levels:
                forms_of_levels(design, block, memory, levels, to_loading)
            _find_latents(design, block, memory)
            if has_levels:
                latents_of_levels(design, block, memory.vectors[3], memory.natural)
            if len(of_parameters):
                _find_fourth(of_row, memory)
                add_of_parameters(
                    table,
                    of_parameters,
                    block,
                    memory.vectors[3],
                    no_density,
                    memory.to_curvature,
                    memory.to_third,
                    memory.forms,
                    to_parameters,
                )
            keep_entries(first, end, to_offset, memory.natural)
            add_dots(to_predictors, memory.natural, block.known)
            add_dots(to_latents, block.residual, memory.vectors[3])
            add_dots(along, memory.weighted, memory.vectors[1])
            add_dots(spread, block.curvature, memory.spread)
            add_dots(cubes, block.third, memory.cubes)
            for r in range(min(LANES, end - first)):
                slope[first + r] = 0
                for k in range(size):
                    slope[first + r] += memory.spread[k * (k + 3) // 2, r]
                    u[first + r, k] = memory.vectors[3, k, r]
    return to_predictors, to_latents, along, spread, cubes, to_loading, to_parameters


@numba.njit(**OPTIONS)
def _load_products(rows, triples, begin, count, memory):
    """Products of the loadings of a group of features."""
    size, number = rows.shape[1], len(triples.count)
    for c in range(count):
        w, place = rows[begin + c], 0
        for j in range(size):
            for k in range(j + 1):
                product = w[j] * w[k]
                memory.pairs[place, c] = product
                memory.forms_of[c, place] = product if j == k else 2 * product
                place += 1
        for place in range(number):
            a, b, d = triples.places[0, place], triples.places[1, place], triples.places[2, place]
            product = w[a] * w[b] * w[d]
            memory.triples[place, c] = product
            memory.cubes_of[c, place] = triples.count[place] * product


@numba.njit(**OPTIONS)
def _load_loadings(rows, begin, count, panel):
    """The loadings of a group of features, ``(l or more, GROUP)``."""
    for c in range(count):
        for j in range(rows.shape[1]):
            panel[j, c] = rows[begin + c, j]


@numba.njit(**OPTIONS)
def _find_sums_of_features(design, triples, block, memory, term):
    """What the fourth derivatives add to all lanes, and the sums that the rest is made of."""
    whole_registers()
    rows, size = design.rows, design.rows.shape[1]
    packed = size * (size + 1) // 2
    sums, moments = memory.vectors[0], block.moments
    memory.cubes[:] = 0
    sums[:] = 0
    term[:] = 0
    for begin in range(0, design.separate, GROUP):
        count = min(GROUP, design.separate - begin)
        _load_products(rows, triples, begin, count, memory)
        _load_loadings(rows, begin, count, block.panel)
        forms = memory.forms[begin : begin + count]
        forms[:] = 0
        add_products(forms, 0, count, memory.forms_of, 0, 0, moments, packed)
        for c in range(count):
            third, fourth = block.third[begin + c], block.fourth[begin + c]
            weighted = memory.weighted[begin + c]
            for r in range(LANES):
                weighted[r] = third[r] * forms[c, r]
                term[r] -= 0.125 * fourth[r] * forms[c, r] * forms[c, r]
        weighted = memory.weighted[begin : begin + count]
        add_products(sums, 0, size, block.panel, 0, 0, weighted, count)
        third = block.third[begin : begin + count]
        add_products(memory.cubes, 0, len(triples.count), memory.triples, 0, 0, third, count)


@numba.njit(**OPTIONS)
def _find_terms(triples, smallest_pivot, block, memory, term):
    """Adds what the sums over features add to all lanes."""
    whole_registers()
    whiten(triples, smallest_pivot, block, memory)
    sums, white, size = memory.vectors[0], memory.vectors[2], len(triples.entry)
    for j in range(size):
        for r in range(LANES):
            white[j, r] = 0
        for k in range(j + 1):
            place = j * (j + 1) // 2 + k
            for r in range(LANES):
                white[j, r] += memory.whitening[place, r] * sums[k, r]
        for r in range(LANES):
            term[r] += 0.125 * white[j, r] * white[j, r]
    for at in range(len(triples.count)):
        for r in range(LANES):
            term[r] += triples.count[at] / 12 * memory.whitened[at, r] * memory.whitened[at, r]


@numba.njit(**OPTIONS)
def _find_natural(design, triples, of_row, block, memory):
    """Gradients in the covariance and, with the covariance held, in the linear predictors."""
    whole_registers()
    rows, size, entries = design.rows, design.rows.shape[1], len(triples.count)
    packed = size * (size + 1) // 2
    sums, by_covariance, white = memory.vectors[0], memory.vectors[1], memory.vectors[2]
    # The memory of the tensors takes them with their indices raised.
    raise_indices(triples, memory)
    raised, contracted, spread = memory.cubes, memory.contracted, memory.spread
    times(size, block.moments, sums, by_covariance)
    spread[:] = 0
    for j in range(size):
        for k in range(j + 1):
            place = j * (j + 1) // 2 + k
            for r in range(LANES):
                own = 0.125 * white[j, r] * white[k, r] + 0.25 * contracted[place, r]
                contracted[place, r] = of_row[r] * own
    for j in range(size):
        for r in range(LANES):
            by_covariance[j, r] *= 0.25 * of_row[r]
    for at in range(entries):
        for r in range(LANES):
            raised[at, r] *= of_row[r]
    for begin in range(0, design.separate, GROUP):
        count = min(GROUP, design.separate - begin)
        _load_products(rows, triples, begin, count, memory)
        along, cubes = block.memory[:count], block.memory[GROUP : GROUP + count]
        along[:] = 0
        cubes[:] = 0
        add_products(along, 0, count, rows, begin, 0, by_covariance, size)
        add_products(cubes, 0, count, memory.cubes_of, 0, 0, raised, entries)
        for c in range(count):
            i = begin + c
            third, fourth, fifth = block.third[i], block.fourth[i], block.fifth[i]
            forms, to_forms, natural = memory.forms[i], memory.along[i], memory.natural[i]
            for r in range(LANES):
                s, g = forms[r], of_row[r]
                to_forms[r] = third[r] * along[c, r] - 0.25 * g * fourth[r] * s
                cubes[c, r] = s * along[c, r] + cubes[c, r] / 6
                natural[r] = cubes[c, r] * fourth[r] - 0.125 * g * s * s * fifth[r]
            if len(memory.to_third):
                for r in range(LANES):
                    memory.to_third[i, r] = cubes[c, r]
        to_forms = memory.along[begin : begin + count]
        add_products(spread, 0, packed, memory.pairs, 0, 0, to_forms, count)


@numba.njit(**OPTIONS)
def _add_forms(design, block, memory):
    """Adds to gradients in the linear predictors what reaches them through the information."""
    whole_registers()
    rows, size = design.rows, design.rows.shape[1]
    packed = size * (size + 1) // 2
    for begin in range(0, design.separate, GROUP):
        count = min(GROUP, design.separate - begin)
        forms = block.memory[:count]
        forms[:] = 0
        for c in range(count):
            w, place = rows[begin + c], 0
            for j in range(size):
                for k in range(j + 1):
                    memory.forms_of[c, place] = w[j] * w[k] if j == k else 2 * w[j] * w[k]
                    place += 1
        add_products(forms, 0, count, memory.forms_of, 0, 0, memory.spread, packed)
        for c in range(count):
            third, natural = block.third[begin + c], memory.natural[begin + c]
            for r in range(LANES):
                natural[r] += forms[c, r] * third[r]
            if len(memory.to_curvature):
                for r in range(LANES):
                    memory.to_curvature[begin + c, r] = forms[c, r]


@numba.njit(**OPTIONS)
def _find_latents(design, block, memory):
    """What goes through the latents, and the gradients in the linear predictors with it."""
    whole_registers()
    rows, size = design.rows, design.rows.shape[1]
    reached, u = memory.vectors[2], memory.vectors[3]
    reached[:] = 0
    for begin in range(0, len(rows), GROUP):
        count = min(GROUP, len(rows) - begin)
        _load_loadings(rows, begin, count, block.panel)
        natural = memory.natural[begin : begin + count]
        add_products(reached, 0, size, block.panel, 0, 0, natural, count)
    times(size, block.moments, reached, u)
    for begin in range(0, design.separate, GROUP):
        count = min(GROUP, design.separate - begin)
        along = block.memory[:count]
        along[:] = 0
        add_products(along, 0, count, rows, begin, 0, u, size)
        for c in range(count):
            curvature, natural = block.curvature[begin + c], memory.natural[begin + c]
            for r in range(LANES):
                natural[r] -= curvature[r] * along[c, r]


@numba.njit(**OPTIONS)
def _find_fourth(of_row, memory):
    """The gradients in the fourth derivatives, in place of the forms."""
    for i in range(len(memory.forms)):
        for r in range(LANES):
            form = memory.forms[i, r]
            memory.forms[i, r] = -0.125 * of_row[r] * form * form
