"""Fisher scoring with a certificate of decrease: the default solver."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from pyro_expfam.deq import step_rules
from pyro_expfam.deq.backend import kernels_of
from pyro_expfam.deq.line_search import search_rows
from pyro_expfam.deq.newton_cg import NewtonCG
from pyro_expfam.deq.packed import solve_packed
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.quadratic_rows import solve_quadratic
from pyro_expfam.deq.row_block import Design, RowBlock, row_tiles
from pyro_expfam.deq.solution import Solution, unsolved
from pyro_expfam.deq.solver import Solver
from pyro_expfam.deq.step_rules import StepRules

MOST_IN_SINGLE = 50
"""The most evaluations of a row in single precision. Steps of a row whose score is a difference of
large numbers may find no end there, and all rows in flight would wait for it."""

DEFAULT_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}

WORTH_LEAVING = 4
"""Converged rows leave the computation once they are at least one row in this many."""


@dataclass(frozen=True)
class FisherScoring(Solver):
    r"""Fisher scoring, convergent from every start without evaluating the objective.

    With score ``g`` and information ``H``, the direction is :math:`p = H^{-1} g` with
    :math:`\delta = g^\top p`. Along it no variance changes by more than a factor
    :math:`e^{\pm t D}`, :math:`D = M \max_i |(W p)_i|`, since :math:`|A'''| \le M A''`. A step
    ``t`` is taken if the score where it ends shows that the objective has decreased by at least
    :math:`\tfrac12 t^2 \kappa(tD)\,\delta`, which is so when
    :math:`-g(z + tp)^\top p \le \tfrac12 t \kappa(tD)\,\delta` with
    :math:`\kappa(x) = (1 - (1 + x) e^{-x}) / x^2`. The full step comes first; if it fails, the
    damped step :math:`t = \log(1 + D) / D` cannot (generalised self-concordance: Sun and
    Tran-Dinh, 2019). After each damped step a row tries twice as many times the damped step, until
    a full step succeeds again. A row takes its last step when the score after that step is certain
    to be below the tolerance, :math:`\tfrac12 e^D D \sqrt{\delta} \le` ``tol``.

    Args:
        tol: tolerance, in posterior standard deviations of the latents. By default 1e-6 in
            float32 and 1e-12 in float64: convergence is quadratic, so that the last digits
            cost little. Without a certificate a row has also converged where steps lower neither
            its objective nor its score, which is at most 1e-8: large counts round the score to so
            many standard deviations.
        max_iter: the most evaluations of the score per row.
        compiled: whether to use a compiled kernel where there is one; it takes the same steps,
            up to rounding. With Numba there are kernels for Bernoulli, Ising, ContinuousBernoulli,
            Binomial, Poisson, NegativeBinomial, Gamma, Categorical and Ordinal tables on a CPU, and
            for bits and counts under the probit and the complementary log-log link, with up to 64
            latents, and for large tables of zero-inflated counts, PoissonLogNormal counts and
            proportions; with Triton, for float32 tables with up to 32 latents on a CUDA device.
            Gradients have kernels too.

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

    def search_limits(self, dtype: torch.dtype) -> tuple[float, int]:
        """Tolerance and most iterations of a line search."""
        return DEFAULT_TOLERANCE[dtype] if self.tol is None else self.tol, self.max_iter

    def solve(self, problem: LatentProblem, start: Tensor) -> Solution:
        """Latents of all rows of ``problem``, from latents ``start`` ``(N, l)``."""
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self._solve(problem, start)
        return self._solve(problem, start)

    def _solve(self, problem: LatentProblem, start: Tensor) -> Solution:
        if not problem.map.has_matrix:
            return NewtonCG(self.tol, self.max_iter).solve(problem, start)
        # The matrix is formed once.
        dense = problem.map.dense()
        if dense is not problem.map:
            problem = replace(problem, map=dense)
        found = solve_quadratic(problem)
        if found is not None:
            return found
        tolerance = DEFAULT_TOLERANCE[start.dtype] if self.tol is None else self.tol
        is_certified = problem.family.self_concordance is not None
        kernels = kernels_of(problem) if self.compiled else None
        rules = self.rules(start.dtype)
        goes_on_in_double = is_certified and start.dtype == torch.float32
        if goes_on_in_double:
            rules = rules._replace(max_iter=min(rules.max_iter, MOST_IN_SINGLE))
        if kernels is not None:
            solution = kernels.solve(problem, start, rules)
        else:
            solution = unsolved(start)
            solve_tiles = _solve_tiles if is_certified else search_rows
            solve_tiles(problem, start, rules, solution)
        # A line search is in float64 already.
        if goes_on_in_double and not solution.all_converged():
            self._solve_again_in_double(problem, solution, tolerance)
        return solution

    def rules(self, dtype: torch.dtype) -> StepRules:
        """The rules of its steps in a dtype."""
        tolerance = DEFAULT_TOLERANCE[dtype] if self.tol is None else self.tol
        return StepRules.of(tolerance, dtype, self.max_iter)

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


def _solve_tiles(problem: LatentProblem, start: Tensor, rules: StepRules, out: Solution) -> None:
    """Solves the rows of a tile at a time by PyTorch operations."""
    design = Design.of(problem)
    rules = rules.for_variance(bounded=problem.family.bounded_variance)
    for tile in row_tiles(problem):
        rows = RowBlock.of(problem.rows(tile), design)
        _solve_rows(rows, start[tile], rules, Solution(*(x[tile] for x in out)))


def _solve_rows(rows: RowBlock, start: Tensor, rules: StepRules, out: Solution) -> None:
    """Solves some rows into ``out``; a row leaves the computation when it has converged."""
    index = torch.arange(len(start), device=start.device)
    z = start.T.clone(memory_format=torch.contiguous_format)
    # Rows that are alike and start from the same latents have the same mean and information.
    shared = rows.alike and start.stride(0) == 0
    evaluated = rows.score_and_information(z[:, :1] if shared else z)
    step = _Step.first(rows, z, *evaluated, None, rules)
    for num_iter in range(1, rules.max_iter + 1):
        last = step.is_last(rules)
        leaving = step_rules.leaves(last, step.resolved, num_iter, rules)
        # Removing rows costs as much as a few iterations: wait until enough have converged,
        # unless some directions cannot be trusted.
        if WORTH_LEAVING * int(leaving.sum()) >= len(index) or not bool(step.resolved.all()):
            step.write(index, last, leaving, num_iter, rules, out)
            staying = (~leaving).nonzero().squeeze(-1)
            if not len(staying):
                return
            index, step, rows = index[staying], step.rows(staying), rows.rows(staying)
        z = step.end()
        step = step.after(rows, z, *rows.score_and_information(z), rules)


class _Step(NamedTuple):
    """A step of every row, on trial until the score at its end is known.

    Attributes:
        origin: where it starts, ``(l, N)``.
        direction: the direction of Fisher scoring there, ``(l, N)``.
        decrement: score times direction, ``(N,)``.
        square: the square of a bound of the change of any log variance, ``(N,)``.
        reach: how many times the damped step the row tries, ``(N,)``; None while no step of any
            row has been refused, and all are infinite.
        length: the length of the step as a part of the direction, ``(N,)``.
        resolved: whether the dtype has enough digits for the information, ``(N,)``.
    """

    origin: Tensor
    direction: Tensor
    decrement: Tensor
    square: Tensor
    reach: Tensor | None
    length: Tensor
    resolved: Tensor

    @classmethod
    def first(
        cls,
        rows: RowBlock,
        z: Tensor,
        score: Tensor,
        information: Tensor,
        reach: Tensor | None,
        rules: StepRules,
    ) -> _Step:
        """The step to try first from latents ``z``."""
        direction, resolved = scoring_direction(score, information)
        decrement = (score * direction).sum(0)
        length = torch.ones_like(decrement)
        square = direction.square().sum(0).mul_(rows.design.largest_rate**2)
        if reach is not None or rules.eager_change < torch.inf:
            far = _infinite(square) if reach is None else reach
            unknown = step_rules.needs_change(square, far, rules).nonzero().squeeze(-1)
            if len(unknown):
                change = rows.change(direction[:, unknown])
                length[unknown] = step_rules.first_length(change, far[unknown], rules)
        return cls(z, direction, decrement, square, reach, length, resolved)

    def end(self) -> Tensor:
        """Where the step ends, ``(l, N)``."""
        return torch.addcmul(self.origin, self.direction, self.length)

    def is_last(self, rules: StepRules) -> Tensor:
        """Whether the score at the end is certain to be below the tolerance."""
        return step_rules.is_last(self.decrement, self.square, self.length, self.resolved, rules)

    def after(
        self, rows: RowBlock, z: Tensor, score: Tensor, information: Tensor, rules: StepRules
    ) -> _Step:
        """The step to try next, given score and information where this one ends."""
        reach = self.reach
        if reach is not None:
            reach = step_rules.reach_after_step(reach, self.length)
        refused, again = self._refused(rows, (score * self.direction).sum(0), rules)
        if again is None:
            return _Step.first(rows, z, score, information, reach, rules)
        taken = torch.ones_like(self.resolved).index_fill_(0, refused, False)
        good = taken.nonzero().squeeze(-1)
        reach = _infinite(self.length) if reach is None else reach
        first = _Step.first(
            rows, z[:, good], score[:, good], information[:, good], reach[good], rules
        )
        following = self._replace(reach=reach)
        following.put(refused, again)
        following.put(good, first)
        return following

    def _refused(
        self, rows: RowBlock, agreement: Tensor, rules: StepRules
    ) -> tuple[Tensor, _Step | None]:
        """The rows whose objective may not have decreased, and the steps that they try next."""
        known = step_rules.descends(agreement)
        known |= step_rules.is_safe(self.square, self.length, rules)
        beyond = (~known).nonzero().squeeze(-1)
        if not len(beyond):
            return beyond, None
        step = self.rows(beyond)
        change = rows.change(step.direction)
        accepted = step_rules.is_accepted(
            agreement[beyond], step.length, change, step.decrement, rules
        )
        short = (~accepted).nonzero().squeeze(-1)
        if not len(short):
            return short, None
        step = step.rows(short)
        before = _infinite(step.length) if step.reach is None else step.reach
        reach = step_rules.reach_after_failure(before, step.length)
        length = step_rules.damped_length(change[short], reach)
        return beyond[short], step._replace(reach=reach, length=length)

    def rows(self, index: Tensor) -> _Step:
        """Some of the rows."""
        return _Step(
            self.origin.index_select(-1, index),
            self.direction.index_select(-1, index),
            self.decrement[index],
            self.square[index],
            None if self.reach is None else self.reach[index],
            self.length[index],
            self.resolved[index],
        )

    def put(self, index: Tensor, step: _Step) -> None:
        """Replaces the steps of some rows."""
        for field, value in zip(self, step, strict=True):
            if field is not None and value is not None:
                field[..., index] = value

    def write(
        self,
        index: Tensor,
        last: Tensor,
        leaving: Tensor,
        num_iter: int,
        rules: StepRules,
        out: Solution,
    ) -> None:
        """Writes the rows that leave the computation; converged rows at the end of their step."""
        # A step that is not certain to be the last may be a bad one: stay before it.
        value = torch.where(last, self.end(), self.origin)
        left = step_rules.residual(self.decrement, self.square, last, rules)
        where = index[leaving]
        out.value[where] = value[:, leaving].T
        out.converged[where] = last[leaving]
        out.num_iter[where] = num_iter
        out.residual[where] = left[leaving]


def _infinite(numbers: Tensor) -> Tensor:
    """The reach of rows none of whose steps has been refused."""
    return torch.full_like(numbers, torch.inf)


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
