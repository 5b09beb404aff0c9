"""Determinants, inverses and forms of the information of a block of rows, compiled by Numba."""

from __future__ import annotations

import math

import numba
import numpy as np

from pyro_expfam.deq.cpu.compilation import OPTIONS, whole_registers
from pyro_expfam.deq.cpu.evaluation import GROUP, LANES
from pyro_expfam.deq.cpu.linear_algebra import factorise, substitute
from pyro_expfam.deq.cpu.tiles import add_products


@numba.njit(**OPTIONS)
def _find_log_det(factor, latent_dim, lane, log_det):
    """Log determinants of lanes from ``lane`` on."""
    for r in range(factor.shape[1]):
        log_det[lane + r] = 0
        for k in range(latent_dim):
            # The diagonal holds reciprocals.
            log_det[lane + r] -= 2 * math.log(factor[k * (k + 3) // 2, r])


@numba.njit(**OPTIONS)
def find_log_dets(latent_dim, smallest_pivot, block):
    """Log determinants of the information of all lanes."""
    factor = block.factor
    for lane in range(0, LANES, factor.shape[1]):
        factorise(block.information, latent_dim, lane, smallest_pivot, factor, block.resolved)
        _find_log_det(factor, latent_dim, lane, block.log_det)


@numba.njit(**OPTIONS)
def find_moments(latent_dim, smallest_pivot, block, traces):
    """Log determinants, inverses of the information and products of what is known, of all lanes."""
    whole_registers()
    factor, moments, vectors = block.factor, block.moments, block.vectors
    unit_vector, solution = vectors[2], vectors[3]
    for lane in range(0, LANES, factor.shape[1]):
        factorise(block.information, latent_dim, lane, smallest_pivot, factor, block.resolved)
        _find_log_det(factor, latent_dim, lane, block.log_det)
        for k in range(latent_dim):
            # Lane by lane: compiling slices takes longer than all else here.
            for j in range(latent_dim):
                for r in range(lane, lane + factor.shape[1]):
                    unit_vector[j, r] = 1.0 if j == k else 0.0
            substitute(factor, unit_vector, latent_dim, lane, solution)
            for j in range(k, latent_dim):
                place = j * (j + 1) // 2 + k
                for r in range(lane, lane + factor.shape[1]):
                    moments[place, r] = solution[j, r]
    traces[:] = 0
    for k in range(latent_dim):
        for r in range(LANES):
            traces[r] += moments[k * (k + 3) // 2, r]
    known, place = block.known, len(block.information)
    for j in range(block.number):
        for k in range(j + 1):
            for r in range(LANES):
                moments[place, r] = known[j, r] * known[k, r]
            place += 1


@numba.njit(**OPTIONS)
def find_forms(rows, block, factors):
    """Multiplies factors of all features by the posterior variances of the linear predictors."""
    whole_registers()
    moments, forms = block.moments, block.memory
    latent_dim, packed = rows.shape[1], len(block.information)
    products = np.zeros((GROUP, packed))
    for begin in range(0, len(rows), GROUP):
        count = min(GROUP, len(rows) - begin)
        for c in range(count):
            for j in range(latent_dim):
                own, place = rows[begin + c, j], j * (j + 1) // 2
                for k in range(j):
                    products[c, place + k] = 2 * own * rows[begin + c, k]
                products[c, place + j] = own * own
        forms[:count] = 0
        add_products(forms, 0, count, products, 0, 0, moments, packed)
        for c in range(count):
            for r in range(LANES):
                factors[begin + c, r] *= forms[c, r]


@numba.njit(**OPTIONS)
def solve_latents(gradients, block):
    """The gradient that reaches the latents times the inverse of the information."""
    whole_registers()
    moments, u, reached = block.moments, block.vectors[1], block.vectors[2]
    latent_dim = len(block.z)
    u[:] = 0
    for j in range(latent_dim):
        for r in range(LANES):
            reached[j, r] *= 0.5 * gradients[1, r]
    for j in range(latent_dim):
        for k in range(latent_dim):
            place = j * (j + 1) // 2 + k if k <= j else k * (k + 1) // 2 + j
            for r in range(LANES):
                u[j, r] += moments[place, r] * reached[k, r]
