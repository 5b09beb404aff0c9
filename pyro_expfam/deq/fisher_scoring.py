"""Fisher scoring with a certificate of decrease: the default solver."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.packed import solve_packed
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import Design, RowBlock, row_tiles
from pyro_expfam.deq.solution import Solution, unsolved
from pyro_expfam.deq.solver import Solver

DEFAULT_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}

SAFE_CHANGE = 0.35
"""Steps that change no log variance by more than this always pass the test of decrease."""

EAGER_CHANGE = 2.0
"""Beyond this change of a log variance, a family of unbounded variance starts damped."""


@dataclass(frozen=True)
class FisherScoring(Solver):
    r"""Fisher scoring, convergent from every start without evaluating the objective.

    With score ``g`` and information ``H``, the direction is :math:`p = H^{-1} g` with
    :math:`\delta = g^\top p`. Along it no variance changes by more than a factor
    :math:`e^{\pm t D}`, :math:`D = M \max_i |(W p)_i|`, since :math:`|A'''| \le M A''`. A step
    ``t`` is taken if the score where it ends shows that the objective has decreased by at least
    :math:`\tfrac12 t^2 \kappa(tD)\,\delta`, which is so when
    :math:`-g(z + tp)^\top p \le \tfrac12 t \kappa(tD)\,\delta` with
    :math:`\kappa(x) = (1 - (1 + x) e^{-x}) / x^2`. The full step comes first; if it fails,
    :math:`t = \log(1 + D) / D` cannot (generalised self-concordance: Sun and Tran-Dinh, 2019).
    A row stops when the score after the coming step is certain to be below the tolerance,
    :math:`\sqrt{\delta}\,\tfrac12 D e^D \le` ``tol``, and that step is its last.

    Args:
        tol: tolerance, in posterior standard deviations of the latents. By default 1e-6 in
            float32 and 1e-12 in float64: convergence is quadratic, so that the last digits
            cost little.
        max_iter: the most evaluations of the score of a row.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> W, b = torch.tensor([[1.0], [2.0]]), torch.zeros(2)
        >>> y = torch.tensor([[1.0, 0.0]])
        >>> solver = pef.deq.FisherScoring(tol=1e-5)
        >>> pef.solve_latents(pef.families.Bernoulli(), y, W, b, solver=solver).converged
        tensor([True])
    """

    tol: float | None = None
    max_iter: int = 200

    @torch.no_grad()
    def solve(self, problem: LatentProblem, start: Tensor) -> Solution:
        """Latents of all rows of ``problem``, from latents ``start`` ``(N, l)``."""
        tolerance = DEFAULT_TOLERANCE[start.dtype] if self.tol is None else self.tol
        solution = unsolved(start)
        design = Design.of(problem)
        for tile in row_tiles(problem):
            rows = RowBlock.of(problem.rows(tile), design)
            self._solve_rows(rows, start[tile], tolerance, Solution(*(x[tile] for x in solution)))
        if start.dtype == torch.float32:
            self._solve_again_in_double(problem, solution, tolerance)
        return solution

    def _solve_again_in_double(
        self, problem: LatentProblem, solution: Solution, tolerance: float
    ) -> None:
        """Solves the rows that float32 could not, for want of digits, in float64.

        They are those where observations say 10⁴ times more of one direction than all else says
        of another, such as large counts with more latents than features.
        """
        failed = (~solution.converged).nonzero().squeeze(-1)
        if not len(failed):
            return
        again = replace(self, tol=tolerance).solve(
            problem.rows(failed).double(), solution.value[failed].double()
        )
        for whole, part in zip(solution, again, strict=True):
            whole[failed] = part.to(whole.dtype)

    def _solve_rows(self, rows: RowBlock, start: Tensor, tolerance: float, out: Solution) -> None:
        """Solves some rows into ``out``; a row leaves the computation when it has converged."""
        index = torch.arange(len(start), device=start.device)
        z = start.T.clone(memory_format=torch.contiguous_format)
        score, information = rows.score_and_information(z)
        step = _Step.from_point(rows, z, score, information)
        for num_iter in range(1, self.max_iter + 1):
            done = step.residual <= tolerance
            leaving = done | ~step.resolved
            if num_iter == self.max_iter:
                leaving = torch.ones_like(done)
            if bool(leaving.any()):
                where = index[leaving]
                # A step that is not certain to be the last may not be good: stay before it.
                value = torch.where(done, step.end(), step.origin)
                residual = torch.where(done, step.residual, step.decrement.sqrt())
                out.value[where] = value[:, leaving].T
                out.converged[where] = done[leaving]
                out.num_iter[where] = num_iter
                out.residual[where] = residual[leaving]
                staying = (~leaving).nonzero().squeeze(-1)
                if not len(staying):
                    return
                index, step, rows = index[staying], step.rows(staying), rows.rows(staying)
            z = step.end()
            score, information = rows.score_and_information(z)
            decreased = step.decreased(score)
            if bool(decreased.all()):
                step = _Step.from_point(rows, z, score, information)
            else:
                step = step.shortened()
                good = decreased.nonzero().squeeze(-1)
                step.put(
                    good,
                    _Step.from_point(
                        rows.rows(good), z[:, good], score[:, good], information[:, good]
                    ),
                )


class _Step(NamedTuple):
    """A step of every row, on trial until the score at its end is known.

    Attributes:
        origin: where it starts, ``(l, N)``.
        direction: the direction of Fisher scoring there, ``(l, N)``.
        decrement: score times direction, ``(N,)``.
        change: the largest change of a log variance along the whole direction, or a bound of
            it, ``(N,)``.
        length: the length of the step as a part of the direction, ``(N,)``.
        residual: a bound of the score after the whole direction, in the norm of the inverse
            information at the origin; infinite on a shortened step, ``(N,)``.
        resolved: whether the dtype has the digits to resolve the information, ``(N,)``.
    """

    origin: Tensor
    direction: Tensor
    decrement: Tensor
    change: Tensor
    length: Tensor
    residual: Tensor
    resolved: Tensor

    @classmethod
    def from_point(cls, rows: RowBlock, z: Tensor, score: Tensor, information: Tensor) -> _Step:
        """The step to try first from latents ``z``."""
        direction, resolved = scoring_direction(score, information)
        decrement = (score * direction).sum(0).clamp_(min=0.0)
        change = rows.change_bound(direction)
        length = torch.ones_like(change)
        if not rows.design.family.bounded_variance and bool((change > SAFE_CHANGE).any()):
            change = rows.change(direction)
            length = torch.where(change > EAGER_CHANGE, change.log1p() / change, length)
        residual = decrement.sqrt().mul_(0.5 * change).mul_(change.exp())
        residual.masked_fill_(length < 1, torch.inf)
        return cls(z, direction, decrement, change, length, residual, resolved)

    def end(self) -> Tensor:
        """Where the step ends, ``(l, N)``."""
        return torch.addcmul(self.origin, self.direction, self.length)

    def decreased(self, score: Tensor) -> Tensor:
        """Whether the objective is certain to have decreased, given the score at the end."""
        agreement = (score * self.direction).sum(0)
        # A comparison with NaN, from a step that overflowed, is False.
        short_of_the_minimum = agreement >= 0
        if bool(short_of_the_minimum.all()):
            return short_of_the_minimum
        change = self.length * self.change
        safe = change <= SAFE_CHANGE
        allowed = -0.5 * self.length * _curvature_share(change) * self.decrement
        return safe | (agreement >= allowed)

    def shortened(self) -> _Step:
        """The step to try next where this one failed."""
        damped = torch.log1p(self.change) / self.change
        length = torch.where(self.length == 1, damped, self.length / 2)
        return self._replace(length=length, residual=torch.full_like(length, torch.inf))

    def rows(self, index: Tensor) -> _Step:
        """Some of the rows."""
        return _Step(*(field.index_select(-1, index) for field in self))

    def put(self, index: Tensor, step: _Step) -> None:
        """Replaces the steps of some rows."""
        for field, value in zip(self, step, strict=True):
            field[..., index] = value


def scoring_direction(score: Tensor, information: Tensor) -> tuple[Tensor, Tensor]:
    """The direction :math:`H^{-1} g` of Fisher scoring, ``(l, N)``, and where to trust it."""
    direction, resolved = solve_packed(information, score)
    if score.dtype == torch.float32 or bool(resolved.all()):
        return direction, resolved
    # Beyond the digits of float64: the trace is no less than any eigenvalue, so that this
    # shorter step is sure to decrease the objective too.
    diagonal = [i * (i + 3) // 2 for i in range(len(score))]
    shorter = score / information[diagonal].sum(0)
    return torch.where(resolved, direction, shorter), torch.ones_like(resolved)


def _curvature_share(change: Tensor) -> Tensor:
    r"""The part of the decrement that curvature is sure to remove, :math:`\kappa`."""
    exact = (1 - (1 + change) * torch.exp(-change)) / change.square()
    return torch.where(change < 1e-2, 0.5 - change / 3, exact)
