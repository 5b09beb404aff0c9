"""Several starts of a table, which are followed side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_expfam.deq.backend import joint_sums_of
from pyro_expfam.deq.row_block import tiles
from pyro_expfam.joint.blocks import solved
from pyro_expfam.joint.entry_terms import Scratch
from pyro_expfam.joint.joint_problem import JointProblem
from pyro_expfam.joint.sums_of_starts import OfRows, SumsInTurn, SumsOfStarts, SumsTogether
from pyro_expfam.joint.symmetric import symmetric
from pyro_expfam.joint.table import Sums, TableRows

FIRST_STEPS = 3
"""Steps of the latents in the first sweep, from zero."""


class StartsTogether:
    """Follows several starts at once, by turns of shortened scoring steps of rows and columns.

    A small table costs little beside the overhead of the operations on it: many starts take little
    longer than one. The steps have no safeguard. Every start keeps the best coefficients that it
    has reached, and one that overflows keeps what it had.

    Args:
        problem: the joint objective.
        coefficients: loading, intercept and coefficients of covariates, ``(S, d, l + 1 + p)``.
        latent_dim: the number of latents ``l``.

    Attributes:
        coefficients: the best coefficients of every start so far, ``(S, d, l + 1 + p)``.
        latents: the latents of the same sweep, ``(S, N, l)``.
        objectives: the objectives of both, ``(S,)``, in float64.
    """

    def __init__(self, problem: JointProblem, coefficients: Tensor, latent_dim: int) -> None:
        self._problem, self._latent_dim = problem, latent_dim
        self._at = coefficients
        self._z = coefficients.new_zeros(len(coefficients), problem.table.num_own_rows, latent_dim)
        self._known = problem.known()
        self._precision = problem.coefficient_precision(coefficients[0])
        self._scratch = Scratch()
        self._row_steps = FIRST_STEPS
        self.coefficients, self.latents = coefficients.clone(), self._z.clone()
        self.objectives = torch.full_like(coefficients[:, 0, 0], torch.inf, dtype=torch.float64)

    @property
    def ends(self) -> list[Tensor]:
        """The best coefficients of every start, from which a fit goes on."""
        return list(self.coefficients)

    def keep(self, places: list[int]) -> None:
        """Goes on with some of the starts alone."""
        self._at, self._z = self._at[places], self._z[places]
        self.coefficients, self.latents = self.coefficients[places], self.latents[places]
        self.objectives = self.objectives[places]

    def sweep(self) -> None:
        """Takes a step of all latents, and then one of all coefficients."""
        before, sums, problem = self._z.clone(), self._sums(), self._problem

        def of_rows(place: slice, rows: TableRows) -> Sums:
            loss, squares = None, self._z[:, place].double().square().sum((1, 2))
            for _ in range(self._row_steps):
                found = sums.of_rows(self._z[:, place], rows)
                if loss is None:
                    loss = found.loss
                self._move_rows(place, found)
            assert loss is not None
            return loss, squares, *sums.of_columns(self._z[:, place], rows)

        loss, squares, score, packed = problem.sum_by_kernels(
            of_rows, self._at[0], self._latent_dim
        )
        self._row_steps = 1
        self._remember(loss, squares, before)
        self._move_columns(score.mT, packed.mT)
        self._change_basis()

    def _sums(self) -> SumsOfStarts:
        """Computes the sums over entries at the present coefficients."""
        problem, latent_dim = self._problem, self._latent_dim
        num_rows, precision = problem.table.num_own_rows, problem.latent_precision
        kernel = joint_sums_of(self._at[0], num_rows, latent_dim, precision)
        if kernel is None:
            return SumsTogether(self._at, latent_dim, precision, self._scratch)
        return SumsInTurn(self._at, latent_dim, precision, num_rows)

    @property
    def _loading(self) -> Tensor:
        return self._at[..., : self._latent_dim]

    def _design(self, place: slice) -> Tensor:
        """What coefficients multiply in some rows, ``(S, n, l + 1 + p)``."""
        known = self._known[place].expand(len(self._z), -1, -1)
        return torch.cat([self._z[:, place], known], -1)

    def _move_rows(self, place: slice, found: OfRows) -> None:
        """Takes a step of the latents of some rows."""
        score = found.scores - self._problem.latent_precision * self._z[:, place]
        step = _solved(found.information, score)
        self._z[:, place] += _shortened(step, _largest_change(step, self._loading))

    def _move_columns(self, score: Tensor, packed: Tensor) -> None:
        """Takes a step of all coefficients."""
        problem = self._problem
        score = score - self._precision * self._at
        information = symmetric(packed, self._precision)
        # What a fit holds in place has no information, and takes no step.
        each = [problem.of_moving(*x) for x in zip(score, information, strict=True)]
        step = _solved(torch.stack([x for _, x in each]), torch.stack([x for x, _ in each]))
        step = torch.stack([problem.moving(problem.centred(x)) for x in step])
        change = step.new_zeros(*step.shape[:-1], 1)
        for place in tiles(len(self._known), step[..., 0].numel(), step.device):
            change = torch.maximum(change, _largest_change(step, self._design(place)))
        change = problem.table.processes.max(change)
        self._at = self._at + _shortened(step, change)

    def _change_basis(self) -> None:
        """Centres the latents, and scales each of them so that the penalties are least.

        Under a flat prior of the loading the least penalty is at latents of zero, and the scale
        stays as it is.
        """
        problem, W = self._problem, self._loading
        total, squares = problem.table.processes.sum((self._z.sum(1), self._z.square().sum(1)))
        mean = total / problem.table.num_rows
        known = self._at[..., self._latent_dim :].clone()
        known[..., 0] += (W @ mean.unsqueeze(-1)).squeeze(-1)
        of_latents = problem.latent_precision * (squares - mean * total)
        of_loading = (self._precision[..., : self._latent_dim] * W.square()).sum(1)
        ratio = of_latents / of_loading
        has_scale = (ratio > 0) & (of_loading > 0)
        scale = torch.where(has_scale, ratio.clamp(1e-12, 1e12).sqrt().sqrt(), 1.0).unsqueeze(1)
        scale[..., problem.num_rotated(self._latent_dim) :] = 1.0
        self._z.sub_(mean.unsqueeze(1)).div_(scale)
        self._at = torch.cat([W * scale, known], -1)

    def _remember(self, loss: Tensor, squares: Tensor, z: Tensor) -> None:
        """Keeps coefficients and latents that are better than all before."""
        problem = self._problem
        of_coefficients = (self._precision * self._at.double().square()).sum((1, 2))
        penalty = problem.latent_precision * squares + of_coefficients
        objectives = self._constant() + loss + penalty / 2
        # A comparison with NaN is False.
        better = objectives < self.objectives
        self.objectives = torch.where(better, objectives, self.objectives)
        better = better[:, None, None]
        self.coefficients = torch.where(better, self._at, self.coefficients)
        self.latents = torch.where(better, z, self.latents)

    def _constant(self) -> float | Tensor:
        """The terms of the objective without coefficients and latents, or one per start."""
        return self._problem.constant - self._problem.table.log_base_measure


def _solved(information: Tensor, score: Tensor) -> Tensor:
    """Scoring steps from information ``(S, n, k, k)`` and scores ``(S, n, k)``."""
    return solved(information.flatten(0, 1), score.flatten(0, 1)).view_as(score)


def _largest_change(step: Tensor, other: Tensor) -> Tensor:
    """The most that steps ``(S, n, k)`` change a linear predictor, ``(S, n, 1)``."""
    if not other.shape[-2]:
        return torch.zeros_like(step[..., :1])
    return (step @ other.mT).abs_().amax(-1, keepdim=True)


def _shortened(step: Tensor, change: Tensor) -> Tensor:
    """Steps along which no linear predictor changes by much, from their largest changes."""
    return torch.where(change > 1, change.log1p() / change, 1.0) * step
