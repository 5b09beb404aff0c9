r"""Categories in the second order of the evidence of a block of rows, compiled by Numba.

With the probabilities :math:`p_k` of the levels of a column, its weight :math:`\omega`, loadings
:math:`x_k` less their mean, their covariance :math:`\Sigma = \sum_k p_k x_k x_k^\top` and the forms
:math:`s_k = x_k^\top C x_k`, a column adds :math:`\omega \sum_k p_k s_k x_k` to the vector ``t``,
:math:`\omega \sum_k p_k x_k \otimes x_k \otimes x_k` to the tensor ``T``, and

.. math:: -\tfrac\omega8 \Big(\sum_k p_k (s_k - \bar s)^2
          - 2 \operatorname{tr}(\Sigma C \Sigma C)\Big)

to the term of a row. These are cumulants of the loadings under the probabilities. For the gradient,
the mean of a function ``f`` of the centred loadings has the slope
:math:`p_k (f_k - \bar f - x_k^\top \overline{\nabla f})` in a linear predictor and
:math:`p_k (\nabla f_k - \overline{\nabla f})` in a loading.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from pyro_expfam.deq.cpu.compilation import OPTIONS, own_code, whole_registers
from pyro_expfam.deq.cpu.evaluation import LANES
from pyro_expfam.deq.cpu.evidence_levels import TINY, add_through_latents, sum_of_products
from pyro_expfam.deq.cpu.second_order_tensors import times
from pyro_expfam.deq.cpu.tiles import add_products


class LevelsMemory(NamedTuple):
    """Memory for a column of a block of rows; the last dimension runs over lanes.

    Attributes:
        x: the loading of a level less the mean of its column.
        vectors: other vectors over the latents.
        pairs: packed products of pairs of its entries.
        spread: the packed covariance of loadings, then its product with the posterior covariance
            on both sides.
        product: the product of the posterior covariance with it, ``(l * l, lanes)``.
        numbers: numbers of a column.
    """

    x: Any
    vectors: Any
    pairs: Any
    spread: Any
    product: Any
    numbers: Any


@numba.njit(**OPTIONS)
def empty_levels(size):
    """Memory for a column under so many latents, or 0 without categories."""
    packed = size * (size + 1) // 2
    return LevelsMemory(
        np.zeros((size, LANES)),
        np.zeros((4 * size, LANES)),
        np.zeros((packed, LANES)),
        np.zeros((packed, LANES)),
        np.zeros((size * size, LANES)),
        np.zeros((5, LANES)),
    )


@numba.njit(**OPTIONS)
def _centre(w, mean, x):
    """A loading less the mean of its column."""
    own_code()
    whole_registers()
    for k in range(len(x)):
        for r in range(LANES):
            x[k, r] = w[k] - mean[k, r]


@numba.njit(**OPTIONS)
def _add_pairs(x, q, total):
    """Adds the packed products of a vector with itself, times a number of each lane."""
    own_code()
    whole_registers()
    place = 0
    for a in range(len(x)):
        for b in range(a + 1):
            for r in range(LANES):
                total[place, r] += q[r] * x[a, r] * x[b, r]
            place += 1


@numba.njit(**OPTIONS)
def _dot(x, y, product):
    """Products of vectors over the latents, for all lanes."""
    own_code()
    whole_registers()
    product[:] = 0
    for k in range(len(x)):
        for r in range(LANES):
            product[r] += x[k, r] * y[k, r]


@numba.njit(**OPTIONS)
def _find_product(size, moments, spread, product):
    """The posterior covariance times the packed covariance of loadings."""
    own_code()
    whole_registers()
    for j in range(size):
        for k in range(size):
            at = j * size + k
            product[at] = 0
            for m in range(size):
                one = j * (j + 1) // 2 + m if m <= j else m * (m + 1) // 2 + j
                other = m * (m + 1) // 2 + k if k <= m else k * (k + 1) // 2 + m
                for r in range(LANES):
                    product[at, r] += moments[one, r] * spread[other, r]


@numba.njit(**OPTIONS)
def add_terms_of_levels(design, block, memory, own, term):
    """Adds what categories add to the terms of all lanes, and to the sums that they are made of."""
    whole_registers()
    rows, columns, moments = design.rows, design.columns, block.moments
    size, sums, cubes = rows.shape[1], memory.vectors[0], memory.cubes
    x, through, spread = own.x, own.vectors[:size], own.spread
    weight, average, squares, trace = own.numbers[0], own.numbers[1], own.numbers[2], own.numbers[3]
    for column in range(len(columns)):
        first, levels = columns[column, 0], columns[column, 1]
        mean = block.levels.means[column * size : (column + 1) * size]
        weight[:] = TINY
        average[:] = 0
        squares[:] = 0
        spread[:] = 0
        for i in range(first, first + levels):
            q, form = block.curvature[i], memory.forms[i]
            _centre(rows[i], mean, x)
            times(size, moments, x, through)
            _dot(x, through, form)
            for r in range(LANES):
                by_form = q[r] * form[r]
                weight[r] += q[r]
                average[r] += by_form
                squares[r] += by_form * form[r]
            for k in range(size):
                for r in range(LANES):
                    sums[k, r] += q[r] * form[r] * x[k, r]
            _add_cubes(x, q, own.pairs, spread, cubes)
        _find_product(size, moments, spread, own.product)
        trace[:] = 0
        for j in range(size):
            for k in range(size):
                for r in range(LANES):
                    trace[r] += own.product[j * size + k, r] * own.product[k * size + j, r]
        for r in range(LANES):
            others = average[r] * average[r] + 2.0 * trace[r]
            term[r] -= 0.125 * (squares[r] - others / weight[r])


@numba.njit(**OPTIONS)
def _add_cubes(x, q, pairs, spread, cubes):
    """Adds products of two and of three entries of a vector, times a number of each lane."""
    own_code()
    whole_registers()
    pair, at = 0, 0
    for a in range(len(x)):
        for b in range(a + 1):
            for r in range(LANES):
                product = q[r] * x[a, r] * x[b, r]
                pairs[pair, r] = product
                spread[pair, r] += product
            for c in range(b + 1):
                for r in range(LANES):
                    cubes[at, r] += pairs[pair, r] * x[c, r]
                at += 1
            pair += 1


@numba.njit(**OPTIONS)
def _contract(triples, raised, pairs, product):
    """Half the contraction of symmetric tensors with packed matrices, for all lanes."""
    own_code()
    whole_registers()
    size = len(product)
    for c in range(size):
        product[c] = 0
        place = 0
        for a in range(size):
            for b in range(a + 1):
                at = triples.entry[a, b, c]
                factor = 0.5 if a == b else 1.0
                for r in range(LANES):
                    product[c, r] += factor * pairs[place, r] * raised[at, r]
                place += 1


@numba.njit(**OPTIONS)
def find_natural_of_levels(design, triples, of_row, block, memory, own, to_loading):
    """Gradients in the covariance, in the linear predictors and in the loading of categories.

    The gradient in the loading is summed over the lanes.
    """
    whole_registers()
    rows, columns, moments = design.rows, design.columns, block.moments
    size, x, vectors = rows.shape[1], own.x, own.vectors
    by_covariance, spread, numbers = memory.vectors[1], own.spread, own.numbers
    average, weight, total, ones = numbers[0], numbers[1], numbers[2], numbers[3]
    ones[:] = 1
    for column in range(len(columns)):
        first, levels = columns[column, 0], columns[column, 1]
        mean = block.levels.means[column * size : (column + 1) * size]
        _find_column(rows, first, levels, mean, block, memory, own)
        slope = vectors[:size]
        _find_mean_slope(triples, of_row, moments, memory, own, slope)
        # From here on the covariance of loadings has posterior covariances on both sides.
        cubic, through, fourth = (
            vectors[size : 2 * size],
            vectors[2 * size : 3 * size],
            vectors[3 * size :],
        )
        total[:] = 0
        for i in range(first, first + levels):
            q, form, natural = block.curvature[i], memory.forms[i], memory.natural[i]
            tilt = numbers[4]
            _centre(rows[i], mean, x)
            own.pairs[:] = 0
            _add_pairs(x, ones, own.pairs)
            _contract(triples, memory.cubes, own.pairs, cubic)
            times(size, moments, x, through)
            times(size, spread, x, fourth)
            for r in range(LANES):
                # Up to here these are products of the loading with the vector of the row.
                along, s, g = natural[r], form[r], of_row[r]
                tilt[r] = along - 0.25 * g * (s - average[r])
                natural[r] = s * along - 0.125 * g * s * (s - 2.0 * average[r])
            for k in range(size):
                for r in range(LANES):
                    of_slope = cubic[k, r] / 3 + 0.5 * of_row[r] * fourth[k, r] - slope[k, r]
                    natural[r] += x[k, r] * of_slope
                    cubic[k, r] += (
                        2.0 * tilt[r] * through[k, r]
                        + form[r] * by_covariance[k, r]
                        + of_row[r] * fourth[k, r]
                        - slope[k, r]
                    )
                to_loading[i, k] += sum_of_products(q, cubic[k])
            for r in range(LANES):
                total[r] += q[r] * natural[r]
                tilt[r] *= q[r]
            _add_pairs(x, tilt, memory.spread)
        for r in range(LANES):
            total[r] /= weight[r]
        for i in range(first, first + levels):
            q, natural = block.curvature[i], memory.natural[i]
            for r in range(LANES):
                natural[r] = q[r] * (natural[r] - total[r])


@numba.njit(**OPTIONS)
def _find_column(rows, first, levels, mean, block, memory, own):
    """The covariance of the loadings of a column, and the mean of loadings times forms.

    Products of loadings with the vector of a row are in the place of the gradients in the linear
    predictors.
    """
    whole_registers()
    size, x, spread, by_covariance = rows.shape[1], own.x, own.spread, memory.vectors[1]
    by_form, average, weight = own.vectors[:size], own.numbers[0], own.numbers[1]
    spread[:] = 0
    by_form[:] = 0
    average[:] = 0
    weight[:] = TINY
    for i in range(first, first + levels):
        q, form, natural = block.curvature[i], memory.forms[i], memory.natural[i]
        _centre(rows[i], mean, x)
        _add_pairs(x, q, spread)
        natural[:] = 0
        for k in range(size):
            for r in range(LANES):
                natural[r] += by_covariance[k, r] * x[k, r]
                by_form[k, r] += q[r] * form[r] * x[k, r]
        for r in range(LANES):
            weight[r] += q[r]
            average[r] += q[r] * form[r]
    for r in range(LANES):
        average[r] /= weight[r]
    for k in range(size):
        for r in range(LANES):
            by_form[k, r] /= weight[r]
    for place in range(len(spread)):
        for r in range(LANES):
            spread[place, r] /= weight[r]


@numba.njit(**OPTIONS)
def _find_mean_slope(triples, of_row, moments, memory, own, slope):
    """The mean of the slopes in the loadings, in the place of the mean of loadings times forms.

    The gradient in the posterior covariance through the fourth cumulant is added, and the
    covariance of loadings gets posterior covariances on both sides.
    """
    whole_registers()
    size, spread, product = len(own.x), own.spread, own.product
    by_covariance, average, weight = memory.vectors[1], own.numbers[0], own.numbers[1]
    half, through = own.vectors[size : 2 * size], own.vectors[2 * size : 3 * size]
    _find_product(size, moments, spread, product)
    # The sum over all pairs counts those off the diagonal twice.
    _contract(triples, memory.cubes, spread, half)
    times(size, moments, slope, through)
    for j in range(size):
        for r in range(LANES):
            slope[j, r] = (
                half[j, r] + average[r] * by_covariance[j, r] - 0.5 * of_row[r] * through[j, r]
            )
        for k in range(size):
            for r in range(LANES):
                slope[j, r] += 2.0 * product[j * size + k, r] * by_covariance[k, r]
    place = 0
    for j in range(size):
        for k in range(j + 1):
            for m in range(size):
                at = j * (j + 1) // 2 + m if m <= j else m * (m + 1) // 2 + j
                for r in range(LANES):
                    factor = 0.5 * of_row[r] * weight[r]
                    memory.spread[place, r] += factor * spread[at, r] * product[m * size + k, r]
            place += 1
    place = 0
    for j in range(size):
        for k in range(j + 1):
            # The memory of the covariance may be overwritten: its products remain.
            spread[place] = 0
            for m in range(size):
                at = m * (m + 1) // 2 + k if k <= m else k * (k + 1) // 2 + m
                for r in range(LANES):
                    spread[place, r] += product[j * size + m, r] * moments[at, r]
            place += 1


@numba.njit(**OPTIONS)
def forms_of_levels(design, block, memory, own, to_loading):
    """Adds what reaches linear predictors and loadings of categories through the information."""
    whole_registers()
    rows, columns, size, x = design.rows, design.columns, design.rows.shape[1], own.x
    through, average, weight = own.vectors[:size], own.numbers[0], own.numbers[1]
    for column in range(len(columns)):
        first, levels = columns[column, 0], columns[column, 1]
        mean = block.levels.means[column * size : (column + 1) * size]
        average[:] = 0
        weight[:] = TINY
        for i in range(first, first + levels):
            q, form = block.curvature[i], block.variance[i]
            _centre(rows[i], mean, x)
            times(size, memory.spread, x, through)
            _dot(x, through, form)
            for k in range(size):
                to_loading[i, k] += 2.0 * sum_of_products(q, through[k])
            for r in range(LANES):
                weight[r] += q[r]
                average[r] += q[r] * form[r]
        for r in range(LANES):
            average[r] /= weight[r]
        for i in range(first, first + levels):
            q, form, natural = block.curvature[i], block.variance[i], memory.natural[i]
            for r in range(LANES):
                natural[r] += q[r] * (form[r] - average[r])


@numba.njit(**OPTIONS)
def latents_of_levels(design, block, u, natural):
    """Subtracts what reaches linear predictors through the latents; no curvatures remain."""
    rows, first = design.rows, design.separate
    number = len(rows) - first
    block.variance[first : len(rows)] = 0
    add_products(block.variance, first, number, rows, first, 0, u, rows.shape[1])
    add_through_latents(design, block, block.variance, natural)
    # The sums of products of curvatures over rows have the terms of the levels already.
    block.curvature[first : len(rows)] = 0
