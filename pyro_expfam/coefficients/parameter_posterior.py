"""The normal of learnt parameters of a family, with coefficients and latents integrated out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_expfam.coefficients.information import evidence_information
from pyro_expfam.coefficients.maximum import coefficients_of
from pyro_expfam.coefficients.rotations import gauge_directions
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solver import Solver
from pyro_expfam.joint import FreeParameter, LearntParametersProblem

STEP = 1e-3
"""The step of central differences of the gradient, of unconstrained parameters."""


@dataclass(frozen=True, eq=False)
class ParameterPosterior:
    r"""A normal of the unconstrained learnt parameters of a family, such as logarithms of sizes.

    Its covariance is a block of the inverse information of loading, intercept and parameters, with
    the latents integrated out. So it counts that loading and intercept are uncertain too.

    Attributes:
        parameters: the parameters, in the order of the numbers.
        mode: the unconstrained numbers, one parameter after the other, ``(k,)``.
        covariance: their covariance, ``(k, k)``.
        sizes: how many numbers each parameter has: one, or one per column.
    """

    parameters: tuple[FreeParameter, ...]
    mode: Tensor
    covariance: Tensor
    sizes: tuple[int, ...]

    def interval(self, probability: float = 0.9) -> dict[str, tuple[Tensor, Tensor]]:
        """The bounds of central intervals of every parameter, by name.

        They are bounds on the unconstrained scale, mapped back: an interval of a size is positive.

        Args:
            probability: of each interval, between 0 and 1.

        Raises:
            ValueError: if ``probability`` is not between 0 and 1.
        """
        if not 0 < probability < 1:
            raise ValueError(f"probability must be between 0 and 1, got {probability!r}")
        half = torch.special.ndtri(torch.tensor(0.5 + probability / 2, dtype=torch.float64))
        reach = half * self.covariance.diagonal().sqrt()
        low, high = self._named(self.mode - reach), self._named(self.mode + reach)
        return {name: (low[name], high[name]) for name in low}

    def draw(self, noise: Tensor) -> dict[str, Tensor]:
        """Parameters by name, ``(..., n)``, from standard normal noise ``(..., k)``."""
        return self._named(self.mode + noise @ torch.linalg.cholesky(self.covariance).mT)

    def _named(self, free: Tensor) -> dict[str, Tensor]:
        parts = zip(self.parameters, free.split(self.sizes, -1), strict=True)
        return {x.name: x.value(u[..., 0] if x.is_shared else u) for x, u in parts}


@torch.no_grad()
def parameter_posterior(
    objective: LearntParametersProblem,
    problem: LatentProblem,
    prior_precision: Tensor,
    z: Tensor,
    solver: Solver,
) -> ParameterPosterior:
    r"""The normal around learnt parameters at a maximum of the evidence.

    The information of loading and intercept is in closed form. Its products with the parameters,
    and the information of the parameters, are central differences of the exact gradient.

    Args:
        objective: minus the log evidence and log priors, with the parameters free.
        problem: the problem of the latents at the maximum, without batch dimensions.
        prior_precision: prior precisions of the coefficients of a column, ``(l + 1,)``.
        z: the root of the problem, ``(N, l)``.
        solver: the solver of the latents.

    Raises:
        ValueError: if the table does not determine the parameters, as a size of counts that spread
            no more than a Poisson law allows.
    """
    objective, problem, z = objective.double(), problem.double(), z.double()
    theta = coefficients_of(problem)
    place = objective.coefficients_of(theta, problem.family.parameters)
    moves, rows = _moves(objective.parameters, place)

    def gradient(at: Tensor) -> Tensor:
        return objective.columns(at, z.clone(), solver).gradient

    slopes = torch.stack(
        [(gradient(place + STEP * x) - gradient(place - STEP * x)) / (2 * STEP) for x in moves]
    )
    size = theta.shape[1]
    of_parameters = torch.einsum("adp,bdp->ab", slopes[..., size:], moves[..., size:])
    between = slopes[..., :size].flatten(1)
    of_theta = evidence_information(problem, prior_precision, z)
    rotations = gauge_directions(theta[:, : problem.latent_dim], size)
    # No parameter changes along a rotation, so that any information there will do.
    of_theta = of_theta + rotations @ rotations.mT * of_theta.diagonal().mean()
    information = of_parameters - between @ torch.linalg.solve(of_theta, between.mT)
    information = 0.5 * (information + information.mT)
    factor, failed = torch.linalg.cholesky_ex(information)
    if bool(failed):
        raise ValueError(
            "y must determine the learnt parameters of the family, got a table where the evidence "
            "has no maximum in them: learn one for all columns by 'shared', or take a known one"
        )
    free = objective.parts(place)[1]
    mode = torch.cat([u[own] for u, own in zip(free.T, rows, strict=True)])
    sizes = tuple(len(own) for own in rows)
    return ParameterPosterior(objective.parameters, mode, torch.cholesky_inverse(factor), sizes)


def _moves(parameters: tuple[FreeParameter, ...], place: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The changes of the coefficients that are steps of one number each, and rows by name."""
    first = place.shape[1] - len(parameters)
    every = torch.arange(len(place), device=place.device)
    moves, rows = [], []
    for column, x in enumerate(parameters, first):
        own = every[x.at]
        rows.append(own[:1] if x.is_shared else own)
        for row in rows[-1]:
            move = torch.zeros_like(place)
            move[own if x.is_shared else row, column] = 1.0
            moves.append(move)
    return torch.stack(moves), rows
