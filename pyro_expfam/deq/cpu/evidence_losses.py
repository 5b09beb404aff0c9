"""Losses of a block of rows, their derivatives and the information, compiled by Numba."""

from __future__ import annotations

import numba
import numpy as np

from pyro_expfam.deq.cpu.callbacks import call
from pyro_expfam.deq.cpu.compilation import OPTIONS, whole_registers
from pyro_expfam.deq.cpu.evaluation import (
    GROUP,
    LANES,
    begin_sums,
    linear_predictors,
    load_panel,
)
from pyro_expfam.deq.cpu.evidence_block import load_weights
from pyro_expfam.deq.cpu.evidence_levels import find_losses_of_levels
from pyro_expfam.deq.cpu.evidence_table import BEGIN, COUNT, END, FUNCTION, KIND
from pyro_expfam.deq.cpu.fast_exponential import LARGEST_EXPONENT, power_of_two
from pyro_expfam.deq.cpu.fast_logarithm import natural_log
from pyro_expfam.deq.cpu.separate_moments import (
    EXPONENTIAL,
    IDENTITY,
    SeparateLaw,
    separate_moments,
)
from pyro_expfam.deq.cpu.tiles import add_products

_LARGEST = float(LARGEST_EXPONENT[np.float64])


@numba.njit(**OPTIONS)
def find_losses(table, block):
    """Losses, the derivatives of the losses, and the information of all lanes."""
    whole_registers()
    design = table.design
    rows, latent_dim, columns = design.rows, design.rows.shape[1], len(design.columns)
    begin_sums(design.precision, block.vectors[3, :latent_dim], block.information)
    block.loss[:] = 0
    for p in range(len(design.laws)):
        _find_losses_of_law(table, p, block)
    if columns:
        find_losses_of_levels(table, block)
        # Beside levels, second derivatives have memory of their own.
        for i in range(design.separate):
            for r in range(LANES):
                block.variance[i, r] = block.curvature[i, r]
        for begin in range(design.separate, len(rows), GROUP):
            add_information(rows, begin, min(GROUP, len(rows) - begin), block)


@numba.njit(**OPTIONS)
def _find_losses_of_law(table, p, block):
    """Losses, derivatives and information of the features of a law."""
    whole_registers()
    design, offset, weights = table.design, table.offset, table.weights
    exponent_rows, intercept, unit = (
        design.exponent_rows,
        design.exponent_intercept,
        design.units[p],
    )
    law = SeparateLaw(design.laws[p, KIND], _LARGEST, 0.0)
    end, function, number = design.laws[p, END], design.laws[p, FUNCTION], design.laws[p, COUNT]
    parameters, found, memory = design.parameters, block.derivatives, block.memory
    exponent, mean, variance = memory[:GROUP], memory[GROUP : 2 * GROUP], memory[2 * GROUP :]
    row, y = block.row, block.y
    weight = np.ones(LANES)
    for begin in range(design.laws[p, BEGIN], end, GROUP):
        count = min(GROUP, end - begin)
        linear_predictors(
            exponent_rows, intercept, offset, unit, begin, count, row, block.z, exponent
        )
        if function == 0:
            separate_moments(law, exponent, count, mean, variance)
        for c in range(count):
            i = begin + c
            load_weights(weights, i, row, weight)
            if function == 0:
                _from_moments(
                    law.kind,
                    parameters[i, 0],
                    1 / unit,
                    exponent[c],
                    mean[c],
                    variance[c],
                    y[i],
                    found,
                )
            else:
                call(function, exponent[c], y[i], parameters[i], found, number)
            _weigh(i, weight, block)
        add_information(design.rows, begin, count, block)


@numba.njit(**OPTIONS)
def add_information(rows, begin, count, block):
    """Adds the information of a group of features."""
    ones, panel, information = block.ones, block.panel, block.information
    load_panel(rows, ones, ones, begin, count, panel)
    curvature = block.curvature[begin : begin + count]
    add_products(information, 0, len(information), panel, 2 * rows.shape[1], 0, curvature, count)


@numba.njit(**OPTIONS)
def _weigh(i, weight, block):
    """Adds the weighted losses of a feature, and keeps their derivatives."""
    whole_registers()
    found, present, loss = block.derivatives, block.present, block.loss
    residual, curvature, third = block.residual[i], block.curvature[i], block.third[i]
    for r in range(LANES):
        w = weight[r]
        # The loss of an entry without weight may be infinite.
        loss[r] += w * found[0, r] if w > 0 else 0.0
        residual[r] = -w * found[1, r] if w > 0 else 0.0
        w = present[r] * w
        curvature[r] = w * found[2, r] if w > 0 else 0.0
        third[r] = w * found[3, r] if w > 0 else 0.0
    if len(block.fourth):
        fourth, fifth = block.fourth[i], block.fifth[i]
        for r in range(LANES):
            w = present[r] * weight[r]
            fourth[r] = w * found[4, r] if w > 0 else 0.0
            fifth[r] = w * found[5, r] if w > 0 else 0.0


@numba.njit(**OPTIONS)
def _from_moments(kind, size, to_natural, exponent, mean, variance, y, found):
    """Losses of bits, counts or real numbers and their derivatives, from mean and variance."""
    whole_registers()
    if kind == EXPONENTIAL:
        for r in range(LANES):
            rate = size * mean[r]
            found[0, r] = rate - y[r] * (to_natural * exponent[r])
            found[1, r] = rate - y[r]
            for k in range(2, 6):
                found[k, r] = rate
    elif kind == IDENTITY:
        # Half the squared residual: the parts of the loss would cancel where noise is small.
        for r in range(LANES):
            rest = y[r] - to_natural * exponent[r]
            found[0, r], found[1, r], found[2, r] = 0.5 * rest * rest, -rest, 1.0
            found[3, r], found[4, r], found[5, r] = 0.0, 0.0, 0.0
    else:
        for r in range(LANES):
            eta = to_natural * exponent[r]
            power = power_of_two(-abs(exponent[r]))
            partition = (eta if eta > 0 else 0.0) + natural_log(1.0 + power)
            found[0, r] = size * partition - y[r] * eta
            found[1, r] = size * mean[r] - y[r]
            curvature, ratio = size * variance[r], 1.0 - 2.0 * mean[r]
            found[2, r] = curvature
            found[3, r] = curvature * ratio
            found[4, r] = curvature * (1.5 * ratio * ratio - 0.5)
            found[5, r] = curvature * ratio * (3 * ratio * ratio - 2)
