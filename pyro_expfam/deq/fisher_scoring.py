"""Fisher scoring with a certificate of decrease: the default solver."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from pyro_expfam.deq.backend import kernels_of
from pyro_expfam.deq.line_search import search_rows
from pyro_expfam.deq.packed import SMALLEST_PIVOT, solve_packed
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import Design, RowBlock, row_tiles
from pyro_expfam.deq.solution import Solution, unsolved
from pyro_expfam.deq.solver import Solver
from pyro_expfam.deq.step_rules import StepRules

DEFAULT_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}

SAFE_CHANGE = 0.35
"""A step that changes no log variance by more than this always passes the test of decrease."""

WORTH_LEAVING = 4
"""Converged rows leave the computation once they are at least one row in this many."""

LAST_STEP = 0.71
"""Half the exponential of the safe change. After a safe step the score is less than this number
times the change times the score before the step."""

EAGER_CHANGE = 2.0
"""First steps that change a log variance by more are damped, for families of unbounded variance."""


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
    A row takes its last step when the score after that step is certain to be below the tolerance,
    :math:`\tfrac12 e^D D \sqrt{\delta} \le` ``tol``.

    Args:
        tol: tolerance, in posterior standard deviations of the latents. By default 1e-6 in
            float32 and 1e-12 in float64: convergence is quadratic, so that the last digits
            cost little.
        max_iter: the most evaluations of the score per row.
        compiled: whether to use a compiled kernel where there is one; it takes the same steps,
            up to rounding. With Numba there are kernels for Bernoulli, Ising, Binomial, Poisson,
            NegativeBinomial, Gamma and Categorical tables on a CPU; with Triton, for float32
            tables with up to 32 latents on a CUDA device. Gradients have kernels too.

    Raises:
        ValueError: if ``tol`` is not positive or ``max_iter`` below 1.

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
    max_iter: int = 1000
    compiled: bool = True

    def __post_init__(self) -> None:
        self._check_limits(self.tol, self.max_iter)

    def at(self, tol: float, dtype: torch.dtype) -> Self:
        """The same solver, no more exact than ``tol``."""
        own = DEFAULT_TOLERANCE[dtype] if self.tol is None else self.tol
        return replace(self, tol=max(own, tol))

    @torch.no_grad()
    def solve(self, problem: LatentProblem, start: Tensor) -> Solution:
        """Latents of all rows of ``problem``, from latents ``start`` ``(N, l)``."""
        tolerance = DEFAULT_TOLERANCE[start.dtype] if self.tol is None else self.tol
        if problem.family.self_concordance is None:
            solution = unsolved(start)
            search_rows(problem, start, tolerance, self.max_iter, solution)
            return solution
        kernels = kernels_of(problem) if self.compiled else None
        if kernels is not None:
            solution = kernels.solve(problem, start, self._rules(tolerance, start.dtype))
        else:
            solution = unsolved(start)
            self._solve_tiles(problem, start, tolerance, solution)
        if start.dtype == torch.float32 and not solution.all_converged():
            self._solve_again_in_double(problem, solution, tolerance)
        return solution

    def _solve_tiles(
        self, problem: LatentProblem, start: Tensor, tolerance: float, solution: Solution
    ) -> None:
        """Solves the rows of a tile at a time by PyTorch operations."""
        design = Design.of(problem)
        for tile in row_tiles(problem):
            rows = RowBlock.of(problem.rows(tile), design)
            self._solve_rows(rows, start[tile], tolerance, Solution(*(x[tile] for x in solution)))

    def _rules(self, tolerance: float, dtype: torch.dtype) -> StepRules:
        return StepRules(
            tolerance, SAFE_CHANGE, LAST_STEP, EAGER_CHANGE, SMALLEST_PIVOT[dtype], self.max_iter
        )

    def _solve_again_in_double(
        self, problem: LatentProblem, solution: Solution, tolerance: float
    ) -> None:
        """Solves in float64 the rows for which float32 lacks the digits.

        In such rows the information along one direction is 10⁴ times that along another, as for
        large counts with more latents than features.
        """
        failed = (~solution.converged).nonzero().squeeze(-1)
        again = replace(self, tol=tolerance).solve(
            problem.rows(failed).double(), solution.value[failed].double()
        )
        for whole, part in zip(solution[:4], again[:4], strict=True):
            whole[failed] = part.to(whole.dtype)

    def _solve_rows(self, rows: RowBlock, start: Tensor, tolerance: float, out: Solution) -> None:
        """Solves some rows into ``out``; a row leaves the computation when it has converged."""
        index = torch.arange(len(start), device=start.device)
        z = start.T.clone(memory_format=torch.contiguous_format)
        # Rows that are alike and start from the same latents have the same mean and information.
        shared = rows.alike and start.stride(0) == 0
        step = _Step.first(rows, z, *rows.score_and_information(z[:, :1] if shared else z))
        for num_iter in range(1, self.max_iter + 1):
            done = step.is_last(tolerance) & step.resolved
            leaving = done | ~step.resolved
            if num_iter == self.max_iter:
                leaving = torch.ones_like(done)
            # Removing rows costs as much as a few iterations: wait until enough have converged,
            # unless some directions cannot be trusted.
            if WORTH_LEAVING * int(leaving.sum()) >= len(index) or not bool(step.resolved.all()):
                step.write(index, done, leaving, num_iter, out)
                staying = (~leaving).nonzero().squeeze(-1)
                if not len(staying):
                    return
                index, step, rows = index[staying], step.rows(staying), rows.rows(staying)
            z = step.end()
            score, information = rows.score_and_information(z)
            decreased = step.decreased(rows, score)
            if bool(decreased.all()):
                step = _Step.first(rows, z, score, information)
            else:
                good = decreased.nonzero().squeeze(-1)
                step = step.shortened(rows)
                step.put(
                    good,
                    _Step.first(rows.rows(good), z[:, good], score[:, good], information[:, good]),
                )


class _Step(NamedTuple):
    """A step of every row, on trial until the score at its end is known.

    Attributes:
        origin: where it starts, ``(l, N)``.
        direction: the direction of Fisher scoring there, ``(l, N)``.
        decrement: score times direction, ``(N,)``.
        change: a bound of the change of any log variance along the direction, ``(N,)``.
        length: the length of the step as a part of the direction, ``(N,)``.
        resolved: whether the dtype has enough digits for the information, ``(N,)``.
    """

    origin: Tensor
    direction: Tensor
    decrement: Tensor
    change: Tensor
    length: Tensor
    resolved: Tensor

    @classmethod
    def first(cls, rows: RowBlock, z: Tensor, score: Tensor, information: Tensor) -> _Step:
        """The step to try first from latents ``z``."""
        direction, resolved = scoring_direction(score, information)
        decrement = (score * direction).sum(0)
        length = torch.ones_like(decrement)
        if rows.bounded_variance:
            # The bound M max |W_i| |p| needs no pass over the features.
            change = direction.square().sum(0).sqrt_().mul_(rows.design.largest_rate)
        else:
            change = rows.change(direction)
            length = torch.where(change > EAGER_CHANGE, change.log1p() / change, length)
        return cls(z, direction, decrement, change, length, resolved)

    def exact_change(self, rows: RowBlock) -> Tensor:
        """The largest change of a log variance along the direction, ``(N,)``."""
        return rows.change(self.direction) if rows.bounded_variance else self.change

    def end(self) -> Tensor:
        """Where the step ends, ``(l, N)``."""
        return torch.addcmul(self.origin, self.direction, self.length)

    def is_last(self, tolerance: float) -> Tensor:
        """Whether the score at the end of a whole step is certain to be below the tolerance."""
        # Squares cost less than roots.
        small = self.decrement * self.change.square() <= (tolerance / LAST_STEP) ** 2
        return small & (self.change <= SAFE_CHANGE) & (self.length == 1)

    def decreased(self, rows: RowBlock, score: Tensor) -> Tensor:
        """Whether the objective is certain to have decreased, given the score at the end."""
        agreement = (score * self.direction).sum(0)
        # A comparison with NaN, from a step that overflowed, is False.
        decreased = agreement >= 0
        beyond = (~decreased).nonzero().squeeze(-1)
        if len(beyond):
            step = self.rows(beyond)
            change = step.length * step.exact_change(rows)
            allowed = -0.5 * step.length * _curvature_share(change) * step.decrement
            decreased[beyond] = (change <= SAFE_CHANGE) | (agreement[beyond] >= allowed)
        return decreased

    def shortened(self, rows: RowBlock) -> _Step:
        """The step to try next where this one failed."""
        change = self.exact_change(rows)
        damped = torch.log1p(change) / change
        return self._replace(length=torch.where(self.length == 1, damped, self.length / 2))

    def rows(self, index: Tensor) -> _Step:
        """Some of the rows."""
        return _Step(*(field.index_select(-1, index) for field in self))

    def put(self, index: Tensor, step: _Step) -> None:
        """Replaces the steps of some rows."""
        for field, value in zip(self, step, strict=True):
            field[..., index] = value

    def write(
        self,
        index: Tensor,
        done: Tensor,
        leaving: Tensor,
        num_iter: int,
        out: Solution,
    ) -> None:
        """Writes the rows that leave the computation; converged rows at the end of their step."""
        # A step that is not certain to be the last may be a bad one: stay before it.
        value = torch.where(done, self.end(), self.origin)
        before = self.decrement.clamp(min=0).sqrt()
        after = before * self.change * LAST_STEP
        where = index[leaving]
        out.value[where] = value[:, leaving].T
        out.converged[where] = done[leaving]
        out.num_iter[where] = num_iter
        out.residual[where] = torch.where(done, after, before)[leaving]


def scoring_direction(score: Tensor, information: Tensor) -> tuple[Tensor, Tensor]:
    """The direction :math:`H^{-1} g` of Fisher scoring, ``(l, N)``, and where to trust it."""
    direction, resolved = solve_packed(information, score)
    if score.dtype == torch.float32 or bool(resolved.all()):
        return direction, resolved
    # Where even float64 lacks digits: the trace is at least the largest eigenvalue, so that this
    # shorter step is certain to decrease the objective.
    diagonal = [i * (i + 3) // 2 for i in range(len(score))]
    shorter = score / information[diagonal].sum(0)
    return torch.where(resolved, direction, shorter), torch.ones_like(resolved)


def _curvature_share(change: Tensor) -> Tensor:
    r"""The lower bound :math:`\kappa` of the curvature along a step, as a part of the decrement."""
    exact = (1 - (1 + change) * torch.exp(-change)) / change.square()
    return torch.where(change < 1e-2, 0.5 - change / 3, exact)
