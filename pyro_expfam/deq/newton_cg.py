"""Newton's method whose directions are found by conjugate gradients, for maps without a matrix."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from pyro_expfam.deq import search_rules, step_rules
from pyro_expfam.deq.conjugate_gradients import Information, conjugate_gradients
from pyro_expfam.deq.curvature import Separate
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import tiles
from pyro_expfam.deq.solution import Solution, unsolved
from pyro_expfam.deq.solver import Solver
from pyro_expfam.deq.step_rules import StepRules

DEFAULT_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
"""In float32 the latents themselves are rounded to about this many standard deviations."""

LEAST_FORCING = 0.3
"""A direction leaves at most this part of the score, and less near the root."""

STALLED = 0.5
"""A whole step without a change of the variances that leaves more than this part of the decrement
is the last one: the dtype has no more digits."""


SEARCH = search_rules.SearchRules.of(tolerance=0.0, max_iter=1)
"""How much a step must decrease the objective of a family without a certificate."""


@dataclass(frozen=True)
class NewtonCG(Solver):
    r"""Newton's method without a matrix, convergent from every start.

    The direction ``p`` solves :math:`H p = g` with the score ``g`` and the information ``H``, by
    conjugate gradients with the diagonal of ``H`` as preconditioner. The solve ends when the
    residual ``r`` is a small part of the score, which is smaller near the root. Along ``p`` the
    objective then has the slope :math:`-g^\top p` and the curvature :math:`g^\top p`, as along the
    exact direction. So steps are taken by the law of
    :class:`~pyro_expfam.deq.FisherScoring`: the step :math:`\log(1 + D)/D` is certain to decrease
    the objective. Families without a certificate search along each direction.

    A row has converged where an upper bound of its distance from the root is at most ``tol``. The
    bound is :math:`\sqrt{g^\top p + p^\top r + \|r\|^2 / \lambda}`, which is at least
    :math:`\sqrt{g^\top H^{-1} g}` for every ``p``, since no eigenvalue of ``H`` is below the
    smallest eigenvalue :math:`\lambda` of the prior's precision. In float32 the score of this bound
    is computed in float64, and rows that do not meet it are solved again in float64. There a row
    has also converged where steps no longer bring it closer, and the bound is at most 1e-8.

    :class:`~pyro_expfam.deq.FisherScoring`, the default, takes this method for maps without a
    matrix.

    Args:
        tol: tolerance, in posterior standard deviations of the latents. By default 1e-4 in float32
            and 1e-9 in float64.
        max_iter: the most evaluations of the score per row.

    Raises:
        ValueError: if ``tol`` is not positive or ``max_iter`` below 1.

    Source: Nocedal and Wright, *Numerical optimization* (2006), chapter 7; Sun and Tran-Dinh,
    *Generalized self-concordant functions* (2019), for the length of a step.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> W, b, y = torch.tensor([[1.0], [2.0]]), torch.zeros(2), torch.tensor([[1.0, 0.0]])
        >>> solver = pef.deq.NewtonCG()
        >>> pef.solve_latents(pef.families.Bernoulli(), y, W, b, solver=solver).converged
        tensor([True])
    """

    tol: float | None = None
    max_iter: int = 500

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
        solution = unsolved(start)
        is_single = start.dtype == torch.float32
        # A line search wants objectives in float64.
        if not is_single or problem.family.self_concordance is not None:
            self._solve_tiles(problem, start, tolerance, solution)
        if is_single and not solution.all_converged():
            self._solve_again_in_double(problem, solution, tolerance)
        return solution

    def _solve_tiles(
        self, problem: LatentProblem, start: Tensor, tolerance: float, out: Solution
    ) -> None:
        row_entries = max(problem.num_features, problem.latent_dim)
        for tile in tiles(problem.num_rows, row_entries, start.device):
            part = Solution(*(x[tile] for x in out))
            _solve_rows(problem.rows(tile), start[tile], tolerance, self.max_iter, part)

    def _solve_again_in_double(
        self, problem: LatentProblem, solution: Solution, tolerance: float
    ) -> None:
        """Solves in float64 the rows for which float32 lacks the digits."""
        failed = (~solution.converged).nonzero().squeeze(-1)
        again = replace(self, tol=tolerance).solve(
            problem.rows(failed).double(), solution.value[failed].double()
        )
        for whole, part in zip(solution[:4], again[:4], strict=True):
            whole[failed] = part.to(whole.dtype)


class _Place(NamedTuple):
    """Rows at some latents.

    Attributes:
        z: the latents, ``(N, l)``.
        eta: the linear predictors, ``(N, d)``.
        score: the score, ``(N, l)``.
        objective: the objective, ``(N,)``; None for a family with a certificate, which needs none.
    """

    z: Tensor
    eta: Tensor
    score: Tensor
    objective: Tensor | None

    @classmethod
    def of(cls, problem: LatentProblem, z: Tensor) -> _Place:
        """The evaluation of rows at latents."""
        eta = problem.predictor(z)
        score = problem.map.transpose(problem.scores(eta)) + problem.prior.score(z)
        objective = None
        if problem.family.self_concordance is None:
            objective = problem.prior.objective(z) + problem.losses(eta).sum(-1)
        return cls(z, eta, score, objective)

    def rows(self, index: Tensor) -> _Place:
        """Some of the rows."""
        return _Place(*(None if x is None else x[index] for x in self))  # type: ignore[arg-type]


class _Step(NamedTuple):
    """A step of every row, on trial until the score at its end is known.

    Attributes:
        origin: where it starts, ``(N, l)``.
        objective: the objective there, ``(N,)``, or None.
        direction: the direction, ``(N, l)``.
        decrement: score times direction, ``(N,)``.
        change: a bound of the change of any log variance along the direction, ``(N,)``.
        bound: the square of the bound of the distance from the root, ``(N,)``.
        left: what the direction leaves of the score, ``(N, l)``.
        score: the score where the step starts, ``(N, l)``.
        reach: how many times the damped step the row tries, ``(N,)``.
        length: the length of the step, as a part of the direction, ``(N,)``.
        stalled: whether the last step has left as much as there was, ``(N,)``.
    """

    origin: Tensor
    objective: Tensor | None
    direction: Tensor
    decrement: Tensor
    change: Tensor
    bound: Tensor
    left: Tensor
    score: Tensor
    reach: Tensor
    length: Tensor
    stalled: Tensor

    @classmethod
    def first(
        cls,
        problem: LatentProblem,
        place: _Place,
        tolerance: float,
        reach: Tensor,
        rules: StepRules,
    ) -> _Step:
        """The step to try first from a place."""
        curvature = problem.curvature(place.eta)
        if isinstance(curvature, Separate) and not problem.family.is_convex:
            curvature = Separate(problem, place.eta, problem.informations(place.eta))
        information = Information(problem, curvature)
        least = problem.prior.smallest()

        def enough(decrement: Tensor, residual: Tensor, square: Tensor) -> Tensor:
            del square
            left = residual / least
            forcing = decrement.clamp(max=LEAST_FORCING**2) * decrement
            return (left <= forcing.clamp(min=(tolerance / 4) ** 2)) | (
                decrement + left <= tolerance**2
            )

        score = place.score
        diagonal = information.diagonal.expand(score.shape)
        found = conjugate_gradients(
            information.times, diagonal, score, enough, 2 * problem.latent_dim
        )
        direction = found.value
        left = score - information.times(direction)
        decrement = (score * direction).sum(-1)
        change = torch.zeros_like(decrement)
        length = torch.ones_like(decrement)
        if problem.family.self_concordance is not None:
            along = problem.map(direction).abs().amax(-1)
            change = problem.family.self_concordance * along
            length = step_rules.first_length(change, reach, rules)
        return cls(
            place.z,
            place.objective,
            direction,
            decrement,
            change,
            _bound(score, direction, left, least),
            left,
            score,
            reach,
            length,
            torch.zeros_like(decrement, dtype=torch.bool),
        )

    def end(self) -> Tensor:
        """Where the step ends, ``(N, l)``."""
        return torch.addcmul(self.origin, self.direction, self.length.unsqueeze(-1))

    def is_accepted(self, there: _Place, rules: StepRules) -> Tensor:
        """Whether the objective has decreased along the step."""
        agreement = (there.score * self.direction).sum(-1)
        if self.objective is not None and there.objective is not None:
            decreased: Tensor = search_rules.has_decreased(
                self.objective, there.objective, self.length, self.decrement, agreement, SEARCH
            )
            return decreased
        accepted: Tensor = step_rules.is_accepted(
            agreement, self.length, self.change, self.decrement, rules
        )
        return accepted

    def shorter(self) -> _Step:
        """The same step, shorter after it has been refused."""
        if self.objective is not None:
            return self._replace(length=self.length / 2)
        reach = step_rules.reach_after_failure(self.reach, self.length)
        return self._replace(reach=reach, length=step_rules.damped_length(self.change, reach))

    def after(
        self, problem: LatentProblem, there: _Place, tolerance: float, rules: StepRules
    ) -> _Step:
        """The step to try next, given the evaluation where this one ends."""
        accepted = self.is_accepted(there, rules)
        reach = step_rules.reach_after_step(self.reach, self.length)
        if bool(accepted.all()):
            step = _Step.first(problem, there, tolerance, reach, rules)
            return step._replace(stalled=self._stalls(step, rules))
        good = accepted.nonzero().squeeze(-1)
        if not len(good):
            return self.shorter()
        before = self.rows(good)
        step = _Step.first(problem.rows(good), there.rows(good), tolerance, reach[good], rules)
        step = step._replace(stalled=before._stalls(step, rules))
        return self.shorter().put(good, step)

    def put(self, index: Tensor, step: _Step) -> _Step:
        """The same steps, with others for some of the rows."""
        pairs: Any = zip(self, step, strict=True)
        rows: Any = (x if x is None else x.index_copy(0, index, new) for x, new in pairs)
        return _Step(*rows)

    def _stalls(self, following: _Step, rules: StepRules) -> Tensor:
        """Whether a step has left so much of the decrement that rounding must be the reason."""
        if self.objective is not None:
            return torch.zeros_like(self.stalled)
        smooth = (self.length == 1) & (self.change <= rules.safe_change)
        return smooth & (following.decrement > STALLED * self.decrement)

    def rows(self, index: Tensor) -> _Step:
        """Some of the rows."""
        return _Step(*(None if x is None else x[index] for x in self))  # type: ignore[arg-type]


def _solve_rows(
    problem: LatentProblem, start: Tensor, tolerance: float, max_iter: int, out: Solution
) -> None:
    """Solves some rows into ``out``; a row leaves the computation when it has converged."""
    rules = StepRules.of(tolerance, start.dtype, max_iter)
    rules = rules.for_variance(bounded=problem.family.bounded_variance)
    index = torch.arange(len(start), device=start.device)
    place = _Place.of(problem, start)
    reach = torch.full_like(place.score[:, 0], torch.inf)
    step = _Step.first(problem, place, tolerance, reach, rules)
    for num_iter in range(1, max_iter + 1):
        done = step.bound <= tolerance**2
        # A comparison with NaN is False.
        leaving = done | step.stalled | (step.length < SEARCH.shortest) | ~(step.decrement >= 0)
        if num_iter == max_iter:
            leaving = torch.ones_like(leaving)
        if bool(leaving.any()):
            _write(
                problem.rows(leaving), index[leaving], step.rows(leaving), tolerance, num_iter, out
            )
            staying = (~leaving).nonzero().squeeze(-1)
            if not len(staying):
                return
            index, problem, step = index[staying], problem.rows(staying), step.rows(staying)
        step = step.after(problem, _Place.of(problem, step.end()), tolerance, rules)


def _write(
    problem: LatentProblem,
    index: Tensor,
    step: _Step,
    tolerance: float,
    num_iter: int,
    out: Solution,
) -> None:
    """Writes rows that leave. In float32 the bound that calls them converged is of float64."""
    bound = step.bound
    if step.origin.dtype == torch.float32:
        exact = problem.double()
        score = exact.score(step.origin.double())
        left = score - (step.score - step.left).double()
        bound = _bound(score, step.direction.double(), left, exact.prior.smallest())
    residual = bound.clamp(min=0).sqrt()
    # The dtype has no more digits where a step of Newton's method has left as much as there was.
    enough = torch.full_like(residual, tolerance)
    if step.origin.dtype == torch.float64:
        enough[step.stalled] = max(tolerance, search_rules.ROUNDED)
    out.value[index] = step.origin
    out.converged[index] = residual <= enough
    out.num_iter[index] = num_iter
    out.residual[index] = residual.to(out.residual.dtype)


def _bound(score: Tensor, direction: Tensor, left: Tensor, least: Tensor) -> Tensor:
    r"""The bound :math:`g^\top p + p^\top r + \|r\|^2 / \lambda` of :math:`g^\top H^{-1} g`."""
    known = (direction * (score + left)).sum(-1)
    return known + left.square().sum(-1) / least
