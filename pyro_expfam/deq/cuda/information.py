"""Score and information of a block of rows, whatever the activation."""

import triton
import triton.language as tl

from pyro_expfam.deq.cuda.evaluation import evaluate
from pyro_expfam.deq.cuda.linear_algebra import unpack
from pyro_expfam.deq.cuda.softmax import evaluate_levels


@triton.jit
def sums_and_information(
    table,
    row,
    z,
    ACTIVATION: tl.constexpr,
    LEVELS: tl.constexpr,
    WIDTH: tl.constexpr,
    PACKED: tl.constexpr,
    DOT: tl.constexpr,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """Means times loadings; the diagonal of the information, and the information."""
    place = tl.arange(0, WIDTH)
    prior = tl.where((place < table.latent_dim)[None, :], tl.load(table.precision), 1.0)
    if ACTIVATION == "softmax":
        sums, matrix = evaluate_levels(table, row, z, WIDTH, DOT, ROWS, FEATURES, LEVELS)
        is_diagonal = (place[:, None] == place[None, :])[None, :, :]
        matrix += tl.where(is_diagonal, prior[:, :, None], 0.0)
        diagonal = tl.sum(tl.where(is_diagonal, matrix, 0.0), axis=2)
        return sums, diagonal, matrix
    else:
        sums, diagonal, packed = evaluate(
            table, row, z, ACTIVATION, WIDTH, PACKED, DOT, ROWS, FEATURES
        )
        diagonal += prior
        return sums, diagonal, unpack(diagonal, packed, table.latent_dim, WIDTH)
