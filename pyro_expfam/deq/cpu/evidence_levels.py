r"""Categories in the Laplace evidence of a block of rows, compiled by Numba.

With the probabilities :math:`p_k` of the levels of a column and their mean loading
:math:`m = \sum_k p_k w_k`, the information of a column is :math:`\sum_k p_k w_k w_k^\top` less
:math:`m m^\top`, and the slope of its log determinant in a linear predictor is :math:`p_k` times
the form :math:`(w_k - m)^\top C (w_k - m)` less the mean of these forms.
"""

from __future__ import annotations

import math

import numba

from pyro_expfam.deq.cpu.compilation import IN_ANY_ORDER, OPTIONS, whole_registers
from pyro_expfam.deq.cpu.evaluation import GROUP, LANES, linear_predictors
from pyro_expfam.deq.cpu.evidence_block import load_weights
from pyro_expfam.deq.cpu.fast_exponential import power_of_two
from pyro_expfam.deq.cpu.fast_logarithm import natural_log
from pyro_expfam.deq.cpu.tiles import add_products

_TO_EXPONENT = 1 / math.log(2)
TINY = 1e-300
"""Where the sum of the weights of a column begins: averages of nothing are then zero."""


@numba.njit(**OPTIONS)
def find_losses_of_levels(table, block):
    """Losses, residuals, and probabilities times weights of all lanes.

    The products of mean loadings are subtracted from the information.
    """
    whole_registers()
    design, offset, weights = table.design, table.offset, table.weights
    rows, row, y = design.rows, block.row, block.y
    latent_dim, information, eta = rows.shape[1], block.information, block.third
    levels_of, numbers = block.levels, block.levels.numbers
    weight, top, total, drawn = numbers[0], numbers[1], numbers[2], numbers[3]
    weight[:] = 1
    for begin in range(design.separate, len(rows), GROUP):
        count = min(GROUP, len(rows) - begin)
        of_group = eta[begin : begin + count]
        linear_predictors(
            rows, design.exponent_intercept, offset, 1.0, begin, count, row, block.z, of_group
        )
    for column in range(len(design.columns)):
        first, levels = design.columns[column, 0], design.columns[column, 1]
        load_weights(weights, first, row, weight)
        for r in range(LANES):
            top[r], total[r], drawn[r] = eta[first, r], 0.0, 0.0
        for i in range(first + 1, first + levels):
            for r in range(LANES):
                top[r] = max(top[r], eta[i, r])
        for i in range(first, first + levels):
            power = block.curvature[i]
            for r in range(LANES):
                power[r] = power_of_two(_TO_EXPONENT * (eta[i, r] - top[r]))
                total[r] += power[r]
                drawn[r] += y[i, r]
        for r in range(LANES):
            top[r] += natural_log(total[r])
            total[r] = 1.0 / total[r]
        for i in range(first, first + levels):
            p = block.curvature[i]
            for r in range(LANES):
                p[r] *= total[r]
        mean = levels_of.means[column * latent_dim : (column + 1) * latent_dim]
        mean[:] = 0
        of_column = block.curvature[first : first + levels]
        add_products(mean, 0, latent_dim, levels_of.loading, 0, first, of_column, levels)
        for i in range(first, first + levels):
            p, variance, residual = block.curvature[i], block.variance[i], block.residual[i]
            for r in range(LANES):
                w, times = weight[r], weight[r] * y[i, r]
                # A level of probability zero that is not there counts as 0.
                block.loss[r] += times * (top[r] - eta[i, r]) if times > 0 else 0.0
                residual[r] = times - w * drawn[r] * p[r]
                w *= block.present[r] * drawn[r]
                variance[r] = w * p[r] * (1.0 - p[r])
                p[r] *= w
        for r in range(LANES):
            total[r] = weight[r] * drawn[r] * block.present[r]
        place = 0
        for j in range(latent_dim):
            for k in range(j + 1):
                for r in range(LANES):
                    information[place, r] -= total[r] * mean[j, r] * mean[k, r]
                place += 1


@numba.njit(**OPTIONS)
def find_slopes_of_levels(design, gradients, block, to_means):
    """The slopes of the log determinants in the linear predictors, from the forms of loadings.

    What reaches the loadings through their means is added to the sums over rows.
    """
    whole_registers()
    rows, columns = design.rows, design.columns
    through, crossed, numbers = block.levels.through, block.levels.crossed, block.levels.numbers
    moments, forms, latent_dim = block.moments, block.third, rows.shape[1]
    of_mean, average, weight = numbers[0], numbers[1], numbers[2]
    for column in range(len(columns)):
        first, levels = columns[column, 0], columns[column, 1]
        mean = block.levels.means[column * latent_dim : (column + 1) * latent_dim]
        of_mean[:] = 0
        for j in range(latent_dim):
            through[j] = 0
            for k in range(latent_dim):
                place = j * (j + 1) // 2 + k if k <= j else k * (k + 1) // 2 + j
                for r in range(LANES):
                    through[j, r] += moments[place, r] * mean[k, r]
            for r in range(LANES):
                of_mean[r] += through[j, r] * mean[j, r]
        crossed[:levels] = 0
        add_products(crossed, 0, levels, rows, first, 0, through, latent_dim)
        average[:] = 0
        weight[:] = TINY
        for c in range(levels):
            form, q = forms[first + c], block.curvature[first + c]
            for r in range(LANES):
                form[r] += of_mean[r] - 2 * crossed[c, r]
                average[r] += q[r] * form[r]
                weight[r] += q[r]
        for r in range(LANES):
            average[r] /= weight[r]
        for c in range(levels):
            form, q = forms[first + c], block.curvature[first + c]
            for r in range(LANES):
                form[r] = q[r] * (form[r] - average[r])
        for j in range(latent_dim):
            for r in range(LANES):
                through[j, r] *= gradients[1, r]
            for c in range(levels):
                to_means[first + c, j] += sum_of_products(block.curvature[first + c], through[j])


@numba.njit(**IN_ANY_ORDER)
def sum_of_products(x, y):
    """The sum over the lanes of products."""
    total = 0.0
    for r in range(LANES):
        total += x[r] * y[r]
    return total


@numba.njit(**OPTIONS)
def add_through_latents(design, block, along, entries):
    """Subtracts from entries of levels what reaches the linear predictors through the latents.

    Args:
        design: the design of the table.
        block: the block of rows.
        along: products of the loading with what goes through the latents.
        entries: gradients in the linear predictors.
    """
    whole_registers()
    columns = design.columns
    average, weight = block.levels.numbers[1], block.levels.numbers[2]
    for column in range(len(columns)):
        first, levels = columns[column, 0], columns[column, 1]
        average[:] = 0
        weight[:] = TINY
        for i in range(first, first + levels):
            q = block.curvature[i]
            for r in range(LANES):
                average[r] += q[r] * along[i, r]
                weight[r] += q[r]
        for r in range(LANES):
            average[r] /= weight[r]
        for i in range(first, first + levels):
            q = block.curvature[i]
            for r in range(LANES):
                entries[i, r] -= q[r] * (along[i, r] - average[r])
