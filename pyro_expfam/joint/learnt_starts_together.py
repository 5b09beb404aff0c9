"""Several starts of a fit that learns parameters of a family, which are followed side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from pyro_expfam.families.kinds import take
from pyro_expfam.joint.joint_problem import JointProblem
from pyro_expfam.joint.learnt_parameters import (
    FURTHEST,
    LEAST_INFORMATION,
    LearntParametersProblem,
)
from pyro_expfam.joint.starts_together import StartsTogether
from pyro_expfam.joint.sums_of_starts import SumsTogether
from pyro_expfam.joint.table import Sums, TableRows


class LearntStartsTogether(StartsTogether):
    """Follows several starts at once, each under parameters of its own.

    A scoring step of the parameters, with the squares of their scores as information, follows the
    steps of rows and columns. It moves a parameter by one at most.

    Args:
        problem: the objective, whose parameters are no units of linear predictors.
        coefficients: loading, intercept, coefficients of covariates and unconstrained parameters,
            ``(S, d, l + 1 + p + k)``.
        latent_dim: the number of latents ``l``.

    Attributes:
        coefficients: the best coefficients of every start so far, of the same shape.
        latents: the latents of the same sweep, ``(S, N, l)``.
        objectives: the objectives of both, ``(S,)``, in float64.
    """

    def __init__(
        self, problem: LearntParametersProblem, coefficients: Tensor, latent_dim: int
    ) -> None:
        parts = [problem.parts(x) for x in coefficients]
        self._learnt = problem
        self._free = torch.stack([free for _, free in parts])
        self._best_free = self._free.clone()
        known = cast(JointProblem, problem.known)
        super().__init__(known, torch.stack([theta for theta, _ in parts]), latent_dim)
        self._use_parameters()

    @property
    def ends(self) -> list[Tensor]:
        """The best coefficients of every start, with the unconstrained parameters."""
        pairs = zip(self.coefficients, self._best_free, strict=True)
        problem = self._learnt
        return [problem.coefficients_of(theta, problem.values(free)) for theta, free in pairs]

    def keep(self, places: list[int]) -> None:
        """Goes on with some of the starts alone."""
        super().keep(places)
        self._free, self._best_free = self._free[places], self._best_free[places]
        self._use_parameters()

    def sweep(self) -> None:
        """Takes a step of all latents, of all coefficients, and of all parameters."""
        super().sweep()
        self._move_parameters()
        self._use_parameters()

    def _use_parameters(self) -> None:
        """Goes on under the present parameters."""
        problem = self._learnt
        each = [problem.values(free) for free in self._free]
        # Parameters of a column are the same in all rows of a start.
        stacked = {name: torch.stack([x[name] for x in each])[:, None] for name in each[0]}
        family = problem.table.family.with_parameters(stacked)
        self._problem = replace(self._problem, table=problem.table.under(family, 0.0))
        priors = [problem.prior_penalty(free) for free in self._free]
        self._constants = self._free.new_tensor(priors, dtype=torch.float64)
        self._constants -= problem.base_measures.totals(family)

    def _constant(self) -> float | Tensor:
        return self._problem.constant + self._constants

    def _sums(self) -> SumsTogether:
        # A kernel has one law for all starts.
        precision = self._problem.latent_precision
        return SumsTogether(self._at, self._latent_dim, precision, self._scratch)

    def _remember(self, loss: Tensor, squares: Tensor, z: Tensor) -> None:
        before = self.objectives
        super()._remember(loss, squares, z)
        better = (self.objectives < before)[:, None, None]
        self._best_free = torch.where(better, self._free, self._best_free)

    def _move_parameters(self) -> None:
        """Takes a step of the parameters of every start."""
        problem = self._learnt
        names = tuple(x.name for x in problem.parameters)

        def of_rows(place: slice, rows: TableRows) -> Sums:
            eta = self._design(place) @ self._at.mT
            if rows.offset is not None:
                eta = eta + rows.offset
            scores = rows.family.parameter_scores(names, eta, rows.y).to(eta)
            weighted = scores if rows.weights is None else scores * rows.weights
            return weighted.sum(-2), (weighted * scores).sum(-2)

        score, squares = self._problem.sum_by_kernels(of_rows, self._at[0], self._latent_dim)
        for place, x in enumerate(problem.parameters):
            own = take(self._free[..., place], x.at)
            slope = x.slope(own)
            step = take(score[place], x.at) * slope
            information = take(squares[place], x.at) * slope.square()
            if x.prior is not None:
                common = torch.stack([x.prior.common(u) for u in own])[:, None]
                step = step - (own - common) / x.prior.scale**2
                information = information + x.prior.scale**-2
            if x.is_shared:
                step, information = (y.mean(-1, keepdim=True) for y in (step, information))
            least = torch.maximum(information.clamp(min=LEAST_INFORMATION), step.abs())
            moved = (own + step / least).clamp(-FURTHEST, FURTHEST)
            self._free[..., place].index_copy_(-1, _numbers(x.at, self._free), moved)


def _numbers(at: slice | Tensor, like: Tensor) -> Tensor:
    """Some of the columns as numbers, on the device of parameters ``(S, d, k)``."""
    every = torch.arange(like.shape[1], device=like.device)
    return every[at]
