"""Alternating damped Newton steps for Poisson PCA: the plain iteration, as a peer.

Rows take two Newton steps at constant columns, columns one at constant rows, each shortened so that
it changes no linear predictor by much. There is no acceleration and no memory.
"""

import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

TILE = 512
RIDGE = 1e-6


class Point(NamedTuple):
    """Where the iteration is, and the seconds of this thread that it took.

    Attributes:
        seconds: processor seconds since the beginning, without the caller's.
        z: latents, ``(N, l)``.
        loading: ``(d, l)``.
        intercept: ``(d,)``.
    """

    seconds: float
    z: Tensor
    loading: Tensor
    intercept: Tensor


def alternate(
    y: Tensor, offset: Tensor, latent_dim: int, latent_precision: float, loading_precision: float
) -> Iterator[Point]:
    """Sweeps over counts ``(N, d)`` with an offset ``(N, 1)``, without end.

    The caller looks at a point while the clock stands still.
    """
    spent, begin = 0.0, time.process_time()
    intercept = torch.log(y.sum(0).clamp(min=0.5) / offset.exp().sum())
    mean = (intercept + offset).exp()
    width = min(latent_dim + 5, *y.shape)
    _, _, directions = torch.svd_lowrank((y - mean) / mean.sqrt(), q=width, niter=2)
    loading, z = 0.5 * directions[:, :latent_dim], y.new_zeros(len(y), latent_dim)
    by_column, offset_by_column = y.T.contiguous(), offset.T.contiguous()
    of_coefficients = y.new_tensor([loading_precision] * latent_dim + [0.0])
    steps = 6
    while True:
        of_latents = y.new_full((latent_dim,), latent_precision)
        z = _newton(y, offset + intercept, loading, z, of_latents, steps)
        # The scale of each latent at which the penalties are least.
        share = latent_precision * z.square().sum(0) / (loading_precision * loading.square().sum(0))
        scale = share.clamp(1e-12, 1e12).sqrt().sqrt()
        z, loading, steps = z / scale, loading * scale, 2
        design = torch.nn.functional.pad(z, (0, 1), value=1.0)
        coefficients = torch.cat([loading, intercept[:, None]], 1)
        coefficients = _newton(
            by_column, offset_by_column, design, coefficients, of_coefficients, 1
        )
        loading, intercept = coefficients[:, :-1].contiguous(), coefficients[:, -1].contiguous()
        spent += time.process_time() - begin
        yield Point(spent, z, loading, intercept)
        begin = time.process_time()


def _newton(
    y: Tensor, known: Tensor, design: Tensor, x: Tensor, precision: Tensor, steps: int
) -> Tensor:
    """Damped Newton steps on rows ``x`` ``(n, k)``, with predictors ``x design' + known``."""
    size = x.shape[1]
    row, column = torch.tril_indices(size, size)
    products, out = design[:, row] * design[:, column], torch.empty_like(x)
    for begin in range(0, len(x), TILE):
        rows = slice(begin, begin + TILE)
        at, offset = x[rows], known[rows] if len(known) == len(x) else known
        for _ in range(steps):
            mean = (at @ design.T + offset).exp_()
            score = (y[rows] - mean) @ design - precision * at
            packed = mean @ products
            information = packed.new_empty(len(at), size, size)
            information[:, row, column] = packed
            information[:, column, row] = packed
            information.diagonal(dim1=1, dim2=2).add_(precision + RIDGE)
            factor, _ = torch.linalg.cholesky_ex(information)
            step = torch.cholesky_solve(score.unsqueeze(-1), factor).squeeze(-1)
            change = (step @ design.T).abs_().amax(1, keepdim=True)
            at = at + torch.where(change > 1, change.log1p() / change, 1.0) * step
        out[rows] = at
    return out
