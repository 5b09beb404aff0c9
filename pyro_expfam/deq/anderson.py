"""Anderson acceleration of the fixed-point iteration: the solver that the paper uses."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from pyro_expfam.deq.fixed_point import SCORE_TOLERANCE, record, score_residual
from pyro_expfam.deq.limits import check_size
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import Design, RowBlock, row_tiles
from pyro_expfam.deq.solution import Solution, unsolved
from pyro_expfam.deq.solver import Solver


@dataclass(frozen=True)
class Anderson(Solver):
    r"""Anderson acceleration of the layer's fixed-point iteration, row by row.

    The next iterate combines the last ``window`` values of the map ``f`` with the weights
    :math:`\alpha`, :math:`\sum \alpha = 1`, that make the combined residual
    :math:`\|\sum_k \alpha_k (f(z_k) - z_k)\|` least (Walker and Ni, 2011). It needs no
    information matrix, and it is not globally convergent: rows on which it fails are reported
    as such, at their best iterate.

    Args:
        window: how many iterates are combined, at least 1.
        mixing: the weight of the map's values against the iterates themselves, in (0, 1].
        regularisation: ridge of the least-squares weights, relative to the residuals' size.
        tol: as for :class:`FixedPoint`.
        max_iter: the most evaluations of the score of a row.

    Raises:
        ValueError: if ``window`` or ``max_iter`` is below 1, ``mixing`` not in (0, 1],
            ``regularisation`` negative or ``tol`` not positive.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> W, b = torch.tensor([[0.5], [1.0]]), torch.zeros(2)
        >>> y = torch.tensor([[1.0, 0.0]])
        >>> solver = pef.deq.Anderson(window=3)
        >>> pef.solve_latents(pef.families.Bernoulli(), y, W, b, solver=solver).converged
        tensor([True])
    """

    window: int = 5
    mixing: float = 1.0
    regularisation: float = 1e-10
    tol: float | None = None
    max_iter: int = 100

    def __post_init__(self) -> None:
        self._check_limits(self.tol, self.max_iter)
        check_size("window", self.window)
        if not 0 < self.mixing <= 1:
            raise ValueError(f"mixing must be in (0, 1], got {self.mixing}")
        if not 0 <= self.regularisation < math.inf:
            raise ValueError(
                f"regularisation must be at least 0 and finite, got {self.regularisation}"
            )

    def at(self, tol: float, dtype: torch.dtype) -> Self:
        """The same solver, no more exact than ``tol``."""
        own = SCORE_TOLERANCE[dtype] if self.tol is None else self.tol
        return replace(self, tol=max(own, tol))

    @torch.no_grad()
    def solve(self, problem: LatentProblem, start: Tensor) -> Solution:
        """Latents of all rows of ``problem``, from latents ``start`` ``(N, l)``."""
        tolerance = SCORE_TOLERANCE[start.dtype] if self.tol is None else self.tol
        solution = unsolved(start)
        design = Design.of(problem)
        for tile in row_tiles(problem):
            rows = RowBlock.of(problem.rows(tile), design)
            self._solve_rows(rows, start[tile], tolerance, Solution(*(x[tile] for x in solution)))
        return solution

    def _solve_rows(self, rows: RowBlock, z: Tensor, tolerance: float, out: Solution) -> None:
        index = torch.arange(len(z), device=z.device)
        # The last iterates and the steps f(z) - z from them, (rows, at most window, l).
        iterates, steps = z[:, None, :][:, :0], z[:, None, :][:, :0]
        for num_iter in range(1, self.max_iter + 1):
            score = rows.score(z.T).T
            staying = record(out, index, z, score_residual(rows, score), tolerance, num_iter)
            if not bool(staying.all()):
                index, rows = index[staying], rows.rows(staying)
                z, score = z[staying], score[staying]
                iterates, steps = iterates[staying], steps[staying]
                if not len(index):
                    return
            iterates = torch.cat([iterates, z.unsqueeze(1)], 1)[:, -self.window :]
            steps = torch.cat([steps, score.unsqueeze(1) / rows.design.precision], 1)[
                :, -self.window :
            ]
            alpha = self._weights(steps)
            z = (alpha * (iterates + self.mixing * steps)).sum(1)

    def _weights(self, steps: Tensor) -> Tensor:
        """The weights of the iterates, ``(rows, window, 1)``."""
        gram = steps @ steps.mT
        # Scaled rows keep the ridge meaningful however small the residuals are.
        scale = (
            gram.diagonal(dim1=-2, dim2=-1)
            .sum(-1)[:, None, None]
            .clamp(min=torch.finfo(gram.dtype).tiny)
        )
        ridge = self.regularisation + torch.finfo(gram.dtype).eps
        eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        ones = torch.ones_like(steps[..., :1])
        unnormalised, _ = torch.linalg.solve_ex(gram / scale + ridge * eye, ones)
        return unnormalised / unnormalised.sum(1, keepdim=True)
