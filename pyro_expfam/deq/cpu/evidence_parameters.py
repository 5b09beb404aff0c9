"""Gradients of the evidence in parameters of the laws of a block of rows, compiled by Numba."""

from __future__ import annotations

import numba
import numpy as np

from pyro_expfam.deq.cpu.callbacks import call
from pyro_expfam.deq.cpu.compilation import OPTIONS, whole_registers
from pyro_expfam.deq.cpu.entry_parameters import parameters_at
from pyro_expfam.deq.cpu.evaluation import GROUP, LANES, linear_predictors
from pyro_expfam.deq.cpu.evidence_block import load_weights
from pyro_expfam.deq.cpu.evidence_table import BEGIN, COUNT, END, laws_of
from pyro_expfam.deq.cpu.tiles import add_products
from pyro_expfam.deq.problem import LatentProblem

NO_FUNCTIONS = np.zeros(0, np.int64)
"""What the kernels read where no gradients in parameters are wanted."""


def functions_of_parameters(problem: LatentProblem) -> np.ndarray:
    """The addresses of the functions of gradients in the parameters of each law, or 0."""
    laws = [law for law in laws_of(problem) if law.is_separate]
    return np.array([parameters_at(law.activation.learnt) for law in laws], np.int64)


@numba.njit(**OPTIONS)
def add_of_parameters(
    table, functions, block, u, of_density, of_curvature, of_third, of_fourth, total
):
    """Adds the gradients in the parameters of all features.

    Args:
        table: the table.
        functions: the addresses of the functions of gradients in parameters, or 0.
        block: the block of rows.
        u: what goes through the latents; its products with the loading multiply the scores.
        of_density: what multiplies the log densities of each row, ``(lanes,)``.
        of_curvature: what multiplies second derivatives, without weights, ``(d, stride)``.
        of_third: what multiplies the third, likewise, or nothing.
        of_fourth: what multiplies the fourth, likewise, or nothing.
        total: where the gradients are added, ``(d, m)``.
    """
    whole_registers()
    design, offset, weights = table.design, table.offset, table.weights
    rows, row, latent_dim = design.rows, block.row, design.rows.shape[1]
    eta, along, inputs = block.memory[:GROUP], block.memory[GROUP : 2 * GROUP], np.zeros((6, LANES))
    weight = np.ones(LANES)
    for p in range(len(functions)):
        end, unit = design.laws[p, END] if functions[p] else 0, design.units[p]
        for begin in range(design.laws[p, BEGIN], end, GROUP):
            count = min(GROUP, end - begin)
            linear_predictors(
                design.exponent_rows,
                design.exponent_intercept,
                offset,
                unit,
                begin,
                count,
                row,
                block.z,
                eta,
            )
            along[:count] = 0
            add_products(along, 0, count, rows, begin, 0, u, latent_dim)
            for c in range(count):
                i = begin + c
                load_weights(weights, i, row, weight)
                for r in range(LANES):
                    w = block.present[r] * weight[r]
                    # The losses of an entry without weight may be infinite.
                    inputs[0, r] = eta[c, r] / unit if w > 0 else 0.0
                    inputs[1, r] = w * of_density[r]
                    inputs[2, r] = w * of_curvature[i, r]
                    inputs[3, r] = w * along[c, r]
                if len(of_third):
                    for r in range(LANES):
                        w = block.present[r] * weight[r]
                        inputs[4, r] = w * of_third[i, r]
                        inputs[5, r] = w * of_fourth[i, r]
                number = design.laws[p, COUNT]
                call(functions[p], inputs, block.y[i], design.parameters[i], total[i], number)
