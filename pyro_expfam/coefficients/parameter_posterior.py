"""The normal of learnt parameters of a family, with coefficients and latents integrated out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_expfam.coefficients.information import evidence_information
from pyro_expfam.coefficients.maximum import coefficients_of, evidence_of
from pyro_expfam.coefficients.rotations import rotations_of
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solver import Solver
from pyro_expfam.joint import FreeParameter, LearntParametersProblem

STEP = 1e-3
"""The step of central differences of the gradient, of unconstrained parameters."""

MOST_NAMED, PART = 3, 0.3
"""An error names this many parameters at most, and those with this part in a direction."""

WIDEST = 5.0
"""The largest standard deviation of an unconstrained parameter that a normal describes. A logarithm
that is known to 5 is a number that is known to a factor of 4,000 either way: the table hardly
informs about it, and the density has no normal shape there."""


@dataclass(frozen=True, eq=False)
class ParameterPosterior:
    r"""A normal of the unconstrained learnt parameters of a family, such as logarithms of sizes.

    Its covariance is a block of the inverse information of loading, intercept and parameters, with
    the latents integrated out. So it counts that loading and intercept are uncertain too.

    A table may not determine a number, such as the size of counts that spread no more than a
    Poisson law allows. Its interval is the whole set of its values, and draws leave it at the mode.

    Attributes:
        parameters: the parameters, in the order of the numbers.
        mode: the unconstrained numbers, one parameter after the other, ``(k,)``.
        covariance: their covariance, ``(k, k)``; infinite variances of numbers that the table does
            not determine.
        sizes: how many numbers each parameter has: one, or one per column.
        slope: how far loading and intercept move with the numbers, on average,
            ``(d (l + 1), k)``.
    """

    parameters: tuple[FreeParameter, ...]
    mode: Tensor
    covariance: Tensor
    sizes: tuple[int, ...]
    slope: Tensor

    def __repr__(self) -> str:
        """A short form, without the tensors."""
        counts = zip(self.parameters, self.sizes, strict=True)
        return f"ParameterPosterior({', '.join(f'{n} {x.name}' for x, n in counts)})"

    def interval(self, probability: float = 0.9) -> dict[str, tuple[Tensor, Tensor]]:
        """The bounds of central intervals of every parameter, by name.

        They are bounds on the unconstrained scale, mapped back: an interval of a size is positive.
        The bounds of a number that the table does not determine are the ends of the set of its
        values, 0 and infinity for a size.

        Args:
            probability: of each interval, between 0 and 1.

        Raises:
            ValueError: if ``probability`` is not between 0 and 1.
        """
        if not 0 < probability < 1:
            raise ValueError(f"probability must be between 0 and 1, got {probability!r}")
        half = torch.special.ndtri(torch.tensor(0.5 + probability / 2, dtype=torch.float64))
        reach = half * self.covariance.diagonal().sqrt()
        low, high = self.named(self.mode - reach), self.named(self.mode + reach)
        return {name: (low[name], high[name]) for name in low}

    def quantiles(self, quantiles: Sequence[float]) -> dict[str, Tensor]:
        """The quantiles of every number by name, along a first dimension."""
        wanted = torch.special.ndtri(torch.as_tensor(quantiles, dtype=torch.float64))
        reach = wanted.to(self.mode)[:, None] * self.covariance.diagonal().sqrt()
        # The median of what is not determined is its mode.
        return self.named(self.mode + reach.nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf))

    @property
    def is_determined(self) -> Tensor:
        """Whether the table determines each number, ``(k,)``."""
        return self.covariance.diagonal().isfinite()

    @property
    def factor(self) -> Tensor:
        """A factor of the covariance, ``(k, k)``, with zeros for what is not determined."""
        factor, known = torch.zeros_like(self.covariance), self.is_determined
        factor[known.nonzero(), known] = torch.linalg.cholesky(self.covariance[known][:, known])
        return factor

    @property
    def log_det_information(self) -> Tensor:
        """The log determinant of the inverse covariance of what is determined, ``()``."""
        known = self.is_determined
        return -torch.logdet(self.covariance[known][:, known])

    def draw(self, noise: Tensor) -> dict[str, Tensor]:
        """Parameters by name, ``(..., n)``, from standard normal noise ``(..., k)``."""
        return self.named(self.mode + noise @ self.factor.mT)

    def named(self, free: Tensor) -> dict[str, Tensor]:
        """Parameters by name from unconstrained numbers ``(..., k)``."""
        parts = zip(self.parameters, free.split(self.sizes, -1), strict=True)
        return {x.name: x.value(u[..., 0] if x.is_shared else u) for x, u in parts}


def objective_with_parameters(
    problem: LatentProblem,
    prior_precision: Tensor,
    free: Tensor,
    parameters: tuple[FreeParameter, ...],
) -> LearntParametersProblem:
    """Minus the log evidence and log priors of a table, with parameters of its family free.

    Args:
        problem: the problem of the latents, without batch dimensions.
        prior_precision: prior precisions of the coefficients of a column, ``(l + 1,)``.
        free: booleans ``(l + 1,)``, False for coefficients that are known.
        parameters: the parameters.
    """
    evidence = evidence_of(problem, prior_precision, None if bool(free.all()) else free)
    return LearntParametersProblem.of(evidence, parameters)


@torch.no_grad()
def parameter_posterior(
    problem: LatentProblem,
    prior_precision: Tensor,
    z: Tensor,
    solver: Solver,
    free: Tensor,
    parameters: tuple[FreeParameter, ...],
) -> ParameterPosterior:
    r"""The normal around learnt parameters at a maximum of the evidence.

    The information of loading and intercept is in closed form. Its products with the parameters,
    and the information of the parameters, are central differences of the exact gradient. They are
    taken at constant means: where a column follows the latents, its scale and its loading change
    together, and differences in the scale alone are large numbers that cancel.

    Args:
        problem: the problem of the latents at the maximum, without batch dimensions.
        prior_precision: prior precisions of the coefficients of a column, ``(l + 1,)``.
        z: the root of the problem, ``(N, l)``.
        solver: the solver of the latents.
        free: booleans ``(l + 1,)``, False for coefficients that are known.
        parameters: the parameters.

    Raises:
        ValueError: if the evidence has no maximum in the parameters, nor runs on to the end of
            their sets.
    """
    problem, z, precision = problem.double(), z.double(), prior_precision.double()
    if not bool(free.all()):
        # Known coefficients are known in their own units.
        parameters = tuple(x._replace(is_unit=False) for x in parameters)
    objective = objective_with_parameters(problem, precision, free, parameters)
    objective = objective.centred_at(problem.family.parameters)
    theta = coefficients_of(problem)
    place = objective.coefficients_of(theta, problem.family.parameters)
    moves, rows = _moves(parameters, place)

    def gradient(at: Tensor) -> Tensor:
        return objective.columns(at, z.clone(), solver).gradient

    slopes = torch.stack(
        [(gradient(place + STEP * x) - gradient(place - STEP * x)) / (2 * STEP) for x in moves]
    )
    size = theta.shape[1]
    of_parameters = torch.einsum("adp,bdp->ab", slopes[..., size:], moves[..., size:])
    moving = free.repeat(len(theta))
    between = slopes[..., :size].flatten(1)[:, moving]
    of_theta = evidence_information(problem, precision, z)[moving][:, moving]
    # No parameter changes along a rotation, so that any information there will do.
    rotations = rotations_of(theta[:, : problem.latent_dim], free)[moving]
    of_theta = of_theta + rotations @ rotations.mT * of_theta.diagonal().mean()
    slope = theta.new_zeros(theta.numel(), len(moves))
    slope[moving] = -torch.linalg.solve(of_theta, between.mT)
    information = of_parameters + between @ slope[moving]
    slope -= _in_units(parameters, moves, theta)
    columns = problem.column_of_predictor.tolist()
    names = [
        x.name if x.is_shared else f"{x.name} of column {columns[k]}"
        for x, own in zip(parameters, rows, strict=True)
        for k in own.tolist()
    ]
    covariance = _inverse(0.5 * (information + information.mT), names)
    slope[:, covariance.diagonal().isinf()] = 0.0
    unconstrained = objective.parts(place)[1]
    mode = torch.cat([u[own] for u, own in zip(unconstrained.T, rows, strict=True)])
    return ParameterPosterior(parameters, mode, covariance, tuple(map(len, rows)), slope)


def _in_units(parameters: tuple[FreeParameter, ...], moves: Tensor, theta: Tensor) -> Tensor:
    """How far loading and intercept fall with the units at constant means, ``(d (l + 1), k)``."""
    of_units = moves[..., theta.shape[1] :] * moves.new_tensor([x.is_unit for x in parameters])
    return (of_units.sum(-1, keepdim=True) * theta).flatten(1).mT


def _inverse(information: Tensor, names: list[str]) -> Tensor:
    """The covariance of numbers, with infinite variances of those that are not determined."""
    known = torch.ones_like(information.diagonal(), dtype=torch.bool)
    covariance = torch.zeros_like(information)
    # What one number is known to depends on which others are known, so that some may follow.
    while bool(known.any()):
        factor, failed = torch.linalg.cholesky_ex(information[known][:, known])
        if bool(failed):
            own = torch.where(known, information.diagonal(), torch.inf)
            if float(own.min()) > WIDEST**-2:
                own_names = [name for name, is_known in zip(names, known, strict=True) if is_known]
                which = _rising(information[known][:, known], own_names)
                raise ValueError(
                    "y must determine the learnt parameters of the family, got a table where the "
                    f"evidence has no maximum in {which}: fit fewer latents where they follow "
                    "these columns, learn one parameter for all columns by 'shared', or take a "
                    "known one"
                )
            known = known & (own > WIDEST**-2)
            continue
        found = torch.cholesky_inverse(factor)
        covariance.zero_()
        covariance[known.nonzero(), known] = found
        wide = known & (covariance.diagonal() > WIDEST**2)
        if not bool(wide.any()):
            break
        known = known & ~wide
    covariance[:, ~known], covariance[~known] = 0.0, 0.0
    covariance.diagonal()[~known] = torch.inf
    return covariance


def _rising(information: Tensor, names: list[str]) -> str:
    """The numbers, by name, along whose change the evidence rises on both sides."""
    along = torch.linalg.eigh(information)[1][:, 0].abs()
    most = torch.argsort(along, descending=True)[:MOST_NAMED]
    return " and ".join(names[k] for k in most.tolist() if along[k] > PART)


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
