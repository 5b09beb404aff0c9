"""Tables of laws without a certificate of decrease, as the kernel of searches reads them.

They are the tables of the evidence, whose laws are functions at an address: the losses of the
evidence and their derivatives are all that a search needs of a law.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from pyro_expfam.deq.cpu.compilation import OPTIONS, whole_registers
from pyro_expfam.deq.cpu.evaluation import GROUP, LANES
from pyro_expfam.deq.cpu.evidence_block import empty_block
from pyro_expfam.deq.cpu.evidence_losses import find_losses
from pyro_expfam.deq.cpu.evidence_table import evidence_table
from pyro_expfam.deq.cpu.observed import load_observed
from pyro_expfam.deq.cpu.tiles import add_products
from pyro_expfam.deq.problem import LatentProblem


class SearchedDesign(NamedTuple):
    """What lanes of rows are made like.

    Attributes:
        loading: memory like the loading transposed, ``(l, 0)``.
        precision: precision of the latents.
    """

    loading: Any
    precision: Any


class SearchedTable(NamedTuple):
    """Rows of a problem.

    Attributes:
        design: what lanes are made like.
        evidence: the table of the evidence.
    """

    design: SearchedDesign
    evidence: Any


def searched_table(problem: LatentProblem) -> SearchedTable:
    """A problem in float64 as the kernel reads it."""
    table = evidence_table(problem)
    nothing = np.zeros((problem.latent_dim, 0))
    return SearchedTable(SearchedDesign(nothing, table.design.precision), table)


def memory_of_search(table, latent_dim):
    """The working memory: a block of rows of the evidence."""
    return empty_block(table.evidence, latent_dim, 3)


@numba.njit(**OPTIONS)
def evaluate_searched(table, row, z, objective, sums, information, work):
    """Sums over the features: losses, slopes times loadings, and the information."""
    whole_registers()
    evidence, block = table.evidence, work
    rows, panel, latent_dim = evidence.design.rows, block.panel, len(sums)
    for r in range(LANES):
        block.row[r], block.present[r] = row[r], 1.0
        for k in range(latent_dim):
            block.z[k, r] = z[k, r]
    load_observed(evidence.observed, row, block.y, block.loaded)
    find_losses(evidence, block)
    for r in range(LANES):
        objective[r] = block.loss[r]
    for place in range(len(information)):
        for r in range(LANES):
            information[place, r] = block.information[place, r]
    sums[:] = 0
    for begin in range(0, len(rows), GROUP):
        count = min(GROUP, len(rows) - begin)
        for c in range(count):
            for k in range(latent_dim):
                panel[k, c] = -rows[begin + c, k]
        residual = block.residual[begin : begin + count]
        add_products(sums, 0, latent_dim, panel, 0, 0, residual, count)
