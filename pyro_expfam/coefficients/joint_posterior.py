"""The posterior of loading and intercept together with learnt parameters of the family."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from pyro_expfam.coefficients.maximum import (
    MAX_SWEEPS,
    TOLERANCE,
    coefficients_of,
    with_coefficients,
)
from pyro_expfam.coefficients.parameter_posterior import (
    ParameterPosterior,
    objective_with_parameters,
)
from pyro_expfam.coefficients.posterior import CoefficientPosterior
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solver import Solver
from pyro_expfam.joint import FreeParameter, fit_coefficients


@dataclass(frozen=True, eq=False, repr=False)
class JointPosterior(CoefficientPosterior):
    r"""A normal of the coefficients of a table and of learnt parameters, such as sizes.

    With the normal of the coefficients under known parameters, :math:`\theta \sim N(\mu, C)`, and
    of the unconstrained parameters with the coefficients integrated out, :math:`u \sim N(m, S)`,
    draws are :math:`\theta + K (u - m)`. The columns of :attr:`factor` are a factor of :math:`C`,
    followed by :math:`K` times a factor of :math:`S`.

    Attributes:
        known: the normal of the coefficients under known parameters.
        parameters: the normal of the parameters.
    """

    known: CoefficientPosterior
    parameters: ParameterPosterior

    @classmethod
    def of(cls, known: CoefficientPosterior, parameters: ParameterPosterior) -> JointPosterior:
        """The joint posterior from its two parts."""
        common = {x.name: getattr(known, x.name) for x in fields(CoefficientPosterior)}
        common["factor"] = torch.cat([known.factor, parameters.slope @ parameters.factor], 1)
        log_det = known.log_det_information + parameters.log_det_information
        common["log_det_information"] = log_det
        return cls(**common, known=known, parameters=parameters)

    @property
    def sandwich(self) -> CoefficientPosterior:
        """The normal of the coefficients with their sandwich covariance, under known parameters."""
        return self.known.sandwich

    def parameters_of(self, noise: Tensor) -> dict[str, Tensor]:
        """The parameters of a draw by name, ``(..., n)``, from its noise ``(..., noise_dim)``."""
        return self.parameters.draw(self._own_noise(noise))

    def log_slope_of(self, noise: Tensor) -> dict[str, Tensor]:
        """The log derivatives of parameters in their unconstrained numbers, summed, by name."""
        free = self.parameters.mode + self._own_noise(noise) @ self.parameters.factor.mT
        pieces = zip(
            self.parameters.parameters,
            free.split(self.parameters.sizes, -1),
            self.parameters.is_determined.split(self.parameters.sizes),
            strict=True,
        )
        # What stays at its mode has no density.
        return {x.name: (x.slope(u).log() * known).sum(-1) for x, u, known in pieces}

    def drawn(self, problem: LatentProblem, noise: Tensor) -> LatentProblem:
        """A problem under the coefficients and parameters of a draw."""
        values = self.parameters_of(noise)
        family = problem.family.with_parameters(
            problem.family.parameters | {name: x.to(problem.b) for name, x in values.items()}
        )
        return replace(super().drawn(problem, noise), family=family)

    def _own_noise(self, noise: Tensor) -> Tensor:
        return noise[..., -len(self.parameters.mode) :]


def maximise_with_parameters(
    problem: LatentProblem,
    prior_precision: Tensor,
    solver: Solver,
    free: Tensor,
    parameters: tuple[FreeParameter, ...],
) -> LatentProblem:
    """Moves coefficients and learnt parameters to the maximum of the evidence.

    Arguments are as in
    :func:`~pyro_expfam.coefficients.parameter_posterior.objective_with_parameters`. They start from
    the coefficients and parameters of the problem.

    Returns:
        The problem at the maximum, in float64.
    """
    problem, prior_precision = problem.double(), prior_precision.double()
    if not bool(free.all()):
        # Known coefficients are known in their own units.
        parameters = tuple(x._replace(is_unit=False) for x in parameters)
    objective = objective_with_parameters(problem, prior_precision, free, parameters)
    start = objective.coefficients_of(coefficients_of(problem), problem.family.parameters)
    coefficients, _ = fit_coefficients(
        objective,
        problem.latent_dim,
        solver,
        max_sweeps=MAX_SWEEPS,
        tol=TOLERANCE,
        start=start,
    )
    theta, unconstrained = objective.parts(coefficients)
    values = objective.values(unconstrained)
    found = {x.name: values[x.name][0] if x.is_shared else values[x.name] for x in parameters}
    family = problem.family.with_parameters(problem.family.parameters | found)
    return with_coefficients(replace(problem, family=family), theta)
