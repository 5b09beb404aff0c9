"""Positive definite systems of a block of rows, in registers."""

import triton
import triton.language as tl


@triton.jit
def unpack(diagonal, packed, latent_dim, WIDTH: tl.constexpr):
    """Symmetric matrices from their diagonals and the entries below."""
    place = tl.arange(0, WIDTH)
    entry = tl.arange(0, WIDTH * WIDTH)
    larger = tl.maximum(entry // WIDTH, entry % WIDTH)
    smaller = tl.minimum(entry // WIDTH, entry % WIDTH)
    below = (larger < latent_dim) & (smaller < larger)
    # The last column is zero: from 16 latents on the number of products is no power of two.
    where = tl.where(below, larger * (larger - 1) // 2 + smaller, packed.shape[1] - 1)
    index = tl.broadcast_to(where[None, :], (packed.shape[0], WIDTH * WIDTH))
    full = tl.reshape(tl.gather(packed, index, axis=1), (packed.shape[0], WIDTH, WIDTH))
    is_diagonal = (place[:, None] == place[None, :])[None, :, :]
    return full + tl.where(is_diagonal, diagonal[:, :, None], 0.0)


@triton.jit
def solve_definite(matrix, diagonal, vector, smallest_pivot, latent_dim, WIDTH: tl.constexpr):
    """Solutions by Gauss-Jordan elimination, which systems are resolved, and log determinants.

    All entries of a matrix are updated at once, and no back substitution remains.
    """
    place = tl.arange(0, WIDTH)
    is_diagonal = (place[:, None] == place[None, :])[None, :, :]
    resolved = tl.full((matrix.shape[0],), 1, tl.int1)
    for k in range(latent_dim):
        chosen = place == k
        row = tl.sum(tl.where(chosen[None, :, None], matrix, 0.0), axis=1)
        column = tl.sum(tl.where(chosen[None, None, :], matrix, 0.0), axis=2)
        pivot = tl.sum(tl.where(chosen[None, :], row, 0.0), axis=1)
        size = tl.sum(tl.where(chosen[None, :], diagonal, 0.0), axis=1)
        # A comparison with NaN is False.
        resolved &= (pivot > 0) & (pivot >= smallest_pivot * size) & (size < float("inf"))
        multiple = tl.where(chosen[None, :], 0.0, column / pivot[:, None])
        right = tl.sum(tl.where(chosen[None, :], vector, 0.0), axis=1)
        vector -= multiple * right[:, None]
        matrix -= multiple[:, :, None] * row[:, None, :]
    pivots = tl.sum(tl.where(is_diagonal, matrix, 0.0), axis=2)
    return vector / pivots, resolved, tl.sum(tl.log(pivots), axis=1)
