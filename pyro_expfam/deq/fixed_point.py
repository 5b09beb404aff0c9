"""Damped fixed-point iteration: the equilibrium layer as the paper writes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import Design, RowBlock, row_tiles
from pyro_expfam.deq.solution import Solution, unsolved
from pyro_expfam.deq.solver import Solver

SCORE_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8}
"""Default tolerances of the solvers that see the score but not the information."""


@dataclass(frozen=True)
class FixedPoint(Solver):
    r"""The iteration :math:`z \leftarrow z + \beta (f(z) - z)` with the layer's map ``f``.

    The map is :math:`f(z) = \lambda^{-1} W^\top (T(y) - \sigma(Wz + b))`, equation (6) of the
    paper. The iteration converges only while :math:`\lambda^{-1} \|W\|^2 \max_i A''(\eta_i)` is
    below about :math:`2 / \beta - 1`; rows on which it does not are reported as such, at their best
    iterate.

    Args:
        damping: the step :math:`\beta` in (0, 1].
        tol: stop where :math:`\|g\| / \sqrt\lambda \le` ``tol``, which bounds the distance from
            the root in posterior standard deviations. By default 1e-3 in float32 and 1e-8 in
            float64.
        max_iter: the most evaluations of the score of a row.

    Raises:
        ValueError: if ``damping`` is not in (0, 1], ``tol`` is not positive or ``max_iter`` below
            1.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> W, b = torch.tensor([[0.5], [0.2]]), torch.zeros(2)
        >>> y = torch.tensor([[1.0, 0.0]])
        >>> solver = pef.deq.FixedPoint(damping=0.5)
        >>> pef.solve_latents(pef.families.Bernoulli(), y, W, b, solver=solver).converged
        tensor([True])
    """

    damping: float = 0.5
    tol: float | None = None
    max_iter: int = 1000

    def __post_init__(self) -> None:
        self._check_limits(self.tol, self.max_iter)
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping must be in (0, 1], got {self.damping}")

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
        for num_iter in range(1, self.max_iter + 1):
            score = rows.score(z.T).T
            staying = record(out, index, z, score_residual(rows, score), tolerance, num_iter)
            if not bool(staying.all()):
                index, rows = index[staying], rows.rows(staying)
                z, score = z[staying], score[staying]
                if not len(index):
                    return
            z = z + (self.damping / rows.design.precision) * score


def score_residual(rows: RowBlock, score: Tensor) -> Tensor:
    r"""The bound :math:`\|g\| / \sqrt\lambda` of the score in the norm of inverse information."""
    return torch.linalg.vector_norm(score, dim=-1) / rows.design.precision.sqrt()


def record(
    out: Solution, index: Tensor, z: Tensor, residual: Tensor, tolerance: float, num_iter: int
) -> Tensor:
    """Keeps the iterates that are the best so far; tells which rows have still to go on."""
    better = residual < out.residual[index]
    where = index[better]
    out.value[where] = z[better]
    out.residual[where] = residual[better]
    out.num_iter[index] = num_iter
    converged = residual <= tolerance
    out.converged[index] = converged
    # An iterate that is not finite never comes back.
    return ~converged & residual.isfinite()
