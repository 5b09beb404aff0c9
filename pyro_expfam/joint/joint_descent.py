"""Descent of coefficients and latents together, by quasi-Newton steps for all of them at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.processes import Processes
from pyro_expfam.deq.solver import Solver
from pyro_expfam.joint.account import INTERRUPTED, Account, End, FitEnded, reason_of_no_step
from pyro_expfam.joint.blocks import Blocks, BlockSteps, Both, inverses
from pyro_expfam.joint.joint_problem import JointProblem
from pyro_expfam.joint.quasi_newton import QuasiNewton, inner
from pyro_expfam.joint.table import Table

ENOUGH = 1e-4
"""A step must bring at least this part of the decrease that the gradient promises (Armijo)."""

SHORTEST_PART = 0.1
"""A step that failed is shortened to this part of itself at least, and to half at most."""

MOST_HALVINGS = 20
"""Trials of a step of all rows or all columns."""

MEMORY, LEAST_MEMORY = 6, 2
"""Steps that the quasi-Newton directions remember, at most and at least. More of them do not pay
where the objective is far from quadratic."""

PATIENCE = 3
"""Trials of a quasi-Newton direction before rows and columns take turns."""

REFRESH = 10
"""Sweeps after which the information is computed anew."""

ROUNDS = 2
"""How often rows and columns take turns, at least, once a quasi-Newton direction has failed."""

GROWTH = 2.0
"""How much longer than the last step along a quasi-Newton direction the next one may be. Rows and
columns that move together overshoot far from the optimum, and a step that fails costs as much as
one that does not."""

SMALL_GAIN, FEW_LATENTS = 3e-2, 5
"""Rows and columns take turns until a round brings less than this part of the objective, and until
it brings still less beyond so many latents: the few steps that quasi-Newton directions remember
tell little of all their rotations."""

LOOSE = 0.3
"""How exact the first latents are, in posterior standard deviations."""

MOST_BYTES, OTHERS = 1 << 30, 12
"""The most memory for directions of all latents, and how many arrays of their size there are beside
the steps remembered and the information. Beyond it latents are eliminated row by row."""


class JointState(NamedTuple):
    """Coefficients and latents, with what is known of the objective there.

    Attributes:
        at: coefficients and latents.
        objective: the objective.
        gradient: its gradient.
        steps: the steps of rows and columns alone.
        age: how many sweeps ago their information was computed.
        is_exact: whether the latents are solved for to the tolerance of the solver.
    """

    at: Both
    objective: float
    gradient: Both
    steps: BlockSteps
    age: int = 0
    is_exact: bool = False


def steps_in_memory(table: Table, latent_dim: int) -> int:
    """How many steps of all its latents every process can remember; 0 if that is too few."""
    num_rows = max(table.processes.gather(table.num_own_rows))
    arrays = MOST_BYTES // max(1, num_rows * latent_dim * table.like.element_size())
    steps = min(MEMORY, (arrays - OTHERS - latent_dim) // 2)
    return steps if steps >= LEAST_MEMORY else 0


class JointDescent:
    """Minimises a joint objective from given coefficients.

    One evaluation of the table gives the gradient in coefficients and latents. Both move together,
    along quasi-Newton directions that are preconditioned by the information of every row and
    column, and then to the best basis. At the start, and where such a direction leads nowhere, rows
    and columns take turns: steps of rows alone decrease the objective, and so do steps of columns.

    Args:
        problem: the objective.
        solver: the solver for the latents at start and end.
        account: the account of the fit.
    """

    def __init__(self, problem: JointProblem, solver: Solver, account: Account) -> None:
        self._problem, self._solver, self._account = problem, solver, account
        self._processes: Processes = problem.table.processes
        self._known = problem.known()
        self._memory: QuasiNewton
        # Memory for inverses of the information of the rows, and whether a trial that failed has
        # overwritten them.
        self._of_rows: Tensor
        self._are_spoilt = False
        self._turns, self._at_round = 2, math.inf
        # The part of the last quasi-Newton direction that decreased the objective.
        self._length = 1.0
        self._state: JointState

    def run(
        self, coefficients: Tensor, latent_dim: int, z: Tensor | None = None
    ) -> tuple[Both, End]:
        """Coefficients and latents where the descent ended, and how it did.

        Args:
            coefficients: where it starts, ``(d, l + 1 + p)``.
            latent_dim: the number of latents ``l``.
            z: the latents with which it starts, ``(N, l)``; by default they are solved for.
        """
        problem, table = self._problem, self._problem.table
        self._memory = QuasiNewton(steps_in_memory(table, latent_dim) or LEAST_MEMORY, self._inners)
        self._of_rows = coefficients.new_empty(table.num_own_rows, latent_dim, latent_dim)
        if z is None:
            z = coefficients.new_zeros(problem.table.num_own_rows, latent_dim)
            problem.solve_latents(coefficients, z, self._solver.at(LOOSE, z.dtype))
            # It is the turn of the columns.
            self._turns = 1
        self._state = self._evaluate(Both(coefficients, z), None, Blocks(True, True))
        try:
            end = self._descend()
        except FitEnded as over:
            end = over.end
        except KeyboardInterrupt:
            # After hours of waiting, the user wants what was found so far.
            end = End(False, INTERRUPTED, chosen=True)
        return self._state.at, end

    def _descend(self) -> End:
        account, gain = self._account, math.inf
        account.record(
            self._state.objective, self._state.steps.decrement, self._state.at.of_columns
        )
        while True:
            at_rest = account.is_at_rest(gain)
            if at_rest and self._state.is_exact:
                return account.at_rest
            before = self._state.objective
            if at_rest or not self._move():
                if self._state.is_exact:
                    return reason_of_no_step(account.sweeps[-1], self._state.at.of_rows.dtype)
                self._solve_exactly()
            gain = before - self._state.objective

    def _move(self) -> bool:
        """Takes a step that decreases the objective, if there is one."""
        if not self._turns:
            if self._are_spoilt:
                self._renew_information()
            before, longest = self._state, min(1.0, GROWTH * self._length)
            length = self._search(self._quasi_newton(), longest, PATIENCE)
            if length:
                self._length = length
                self._memory.remember(
                    self._state.at.flat().sub_(before.at.flat()),
                    self._state.gradient.flat().sub_(before.gradient.flat()),
                )
                return True
            self._memory.forget()
            self._turns, self._length = 2 * ROUNDS, 1.0
        # A turn that failed may have been the last.
        return self._take_turn() or (self._turns > 0 and self._take_turn())

    def _renew_information(self) -> None:
        state = self._state
        again = self._evaluate(state.at, state.steps.inverse, Blocks(True, True))
        # The same sum over the table differs by rounding. NaN comes last and is never the least.
        objective = min(state.objective, again.objective)
        self._are_spoilt = False
        self._accept(again._replace(objective=objective, is_exact=state.is_exact))

    def _take_turn(self) -> bool:
        """A step of all rows, or of all columns, if it decreases the objective."""
        if self._state.age or self._are_spoilt:
            self._renew_information()
        steps, gradient = self._state.steps, self._state.gradient
        is_of_rows = self._turns % 2 == 0
        if is_of_rows:
            self._at_round = self._state.objective
            still = torch.zeros_like(gradient.of_columns)
            direction = Both(still, -steps.of_rows(gradient.of_rows))
        else:
            still = torch.zeros_like(gradient.of_rows)
            direction = Both(-steps.of_columns(gradient.of_columns), still)
        found = bool(self._search(direction, 1.0, MOST_HALVINGS))
        self._turns -= 1
        if not self._turns:
            gain = self._at_round - self._state.objective
            few = min(1.0, FEW_LATENTS / self._state.at.of_rows.shape[1]) ** 2
            self._turns = 2 if gain > few * SMALL_GAIN * abs(self._state.objective) else 0
        return found

    def _quasi_newton(self) -> Both:
        state = self._state

        def scoring_step(flat: Tensor) -> Tensor:
            of_columns, of_rows = self._centred(state.at.like(flat))
            step = Both(state.steps.of_columns(of_columns), state.steps.of_rows(of_rows))
            return self._centred(step).flat()

        return state.at.like(self._memory.direction(state.gradient.flat(), scoring_step))

    def _inners(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
        size = self._state.at.of_columns.numel()
        of_columns = [inner(x[:size], y[:size]) for x, y in pairs]
        own = torch.tensor([inner(x[size:], y[size:]) for x, y in pairs], dtype=torch.float64)
        (of_rows,) = self._processes.sum((own.to(pairs[0][0].device),))
        return [x + y for x, y in zip(of_columns, of_rows.tolist(), strict=True)]

    def _centred(self, both: Both) -> Both:
        return both._replace(of_columns=self._problem.centred(both.of_columns))

    def _search(self, direction: Both, length: float, most: int) -> float:
        """Goes along a direction as far as decreases the objective, and accepts where it ends.

        Args:
            direction: the direction.
            length: the part of it to try first.
            most: how many parts to try.

        Returns:
            The part of the direction that was taken, or zero if none of them was short enough.
        """
        state, wanted = self._state, self._wanted()
        slope = state.gradient.inner(direction, self._processes)
        rounding = torch.finfo(state.at.of_rows.dtype).eps * abs(state.objective) / 16
        for _ in range(most):
            # A comparison with NaN is False.
            if not -length * slope > rounding:
                return 0.0
            moved = Both(*(x + length * p for x, p in zip(state.at, direction, strict=True)))
            # Levels of an observation sum to zero where the penalty is least.
            moved = Both(*self._problem.change_basis(*self._centred(moved)))
            found = self._evaluate(moved, state.steps.inverse, wanted, state.age + 1)
            self._are_spoilt |= wanted.of_rows
            if found.objective <= state.objective + ENOUGH * length * slope:
                self._are_spoilt &= not wanted.of_rows
                self._accept(found)
                return length
            self._account.record_rejected()
            length *= _shorter(found.objective - state.objective, length * slope)
        return 0.0

    def _accept(self, found: JointState) -> None:
        self._state = found
        self._account.record(found.objective, found.steps.decrement, found.at.of_columns)

    def _solve_exactly(self) -> None:
        """Solves for the latents to the tolerance of the solver."""
        coefficients, z = self._state.at
        z = z.clone()
        found = self._problem.columns(coefficients, z, self._solver.at(0.0, z.dtype))
        if not math.isfinite(found.objective):
            reason = f"the objective is {found.objective} where the latents are solved for exactly"
            raise FitEnded(End(False, reason, lacks_digits=True))
        gradient = Both(found.gradient, torch.zeros_like(z))
        of_rows = self._state.steps.inverse.of_rows
        # A trial that failed may have left no numbers, and rows have no gradient here.
        of_rows = torch.zeros_like(of_rows) if self._are_spoilt else of_rows
        inverse = Both(inverses(found.information), of_rows)
        # Solving never increases the objective: an increase is rounding.
        objective = min(found.objective, self._state.objective)
        at = Both(coefficients, z)
        state = self._with_steps(at, objective, gradient, inverse, REFRESH)
        self._accept(state._replace(is_exact=True))

    def _wanted(self) -> Blocks:
        """The blocks whose information the step after this one needs anew."""
        if self._turns:
            rows_move_now = self._turns % 2 == 0
            return Blocks(of_columns=rows_move_now, of_rows=not rows_move_now)
        is_old = self._state.age + 1 >= REFRESH
        return Blocks(is_old, is_old)

    def _evaluate(self, at: Both, inverse: Both | None, wanted: Blocks, age: int = 0) -> JointState:
        """The state at some coefficients and latents.

        Args:
            at: the coefficients and latents.
            inverse: inverses of earlier informations, if there are any.
            wanted: the blocks whose information is computed anew.
            age: the age of the earlier informations.
        """
        found = self._problem.derivatives(*at, wanted, self._of_rows)
        inverse, age = found.information.inverse(inverse), 0 if any(wanted) else age
        return self._with_steps(at, found.objective, found.gradient, inverse, age)

    def _with_steps(
        self, at: Both, objective: float, gradient: Both, inverse: Both, age: int
    ) -> JointState:
        steps = BlockSteps(inverse, gradient, at, self._known, self._processes)
        return JointState(at, objective, gradient, steps, age)


def _shorter(change: float, promised: float) -> float:
    """The part of a step to try next, where the parabola through what is known has its minimum.

    Args:
        change: the change of the objective along the step that failed.
        promised: the change that the gradient promised.
    """
    if not math.isfinite(change):
        return SHORTEST_PART
    return min(max(-promised / (2 * (change - promised)), SHORTEST_PART), 0.5)
