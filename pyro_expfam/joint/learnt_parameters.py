r"""Fitting parameters of a family, such as sizes, together with loading and intercept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints, transform_to

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solver import Solver
from pyro_expfam.families.common_prior import CommonPrior
from pyro_expfam.families.kinds import At, take
from pyro_expfam.joint.base_measures import BaseMeasures
from pyro_expfam.joint.noise_scale import Moments, check_variation
from pyro_expfam.joint.objective import ColumnSums, Objective, OfRows, nothing
from pyro_expfam.joint.spectral import spectral_start
from pyro_expfam.joint.table import Sums, Table

FURTHEST = 15.0
"""The largest unconstrained parameter; beyond it stays there. A size of e^15 is as good as
infinite: a column of counts that spread no more than a Poisson law allows has no largest size. The
unit of a column is as far at most from its reference."""

SPREADS = ("scale", "shape", "precision", "dispersion")
"""What parameters are called that say how much a column varies."""

LEAST_INFORMATION = 1.0
"""Steps take a free parameter for known to at least a standard deviation of 1. Under a size that
runs to infinity the table's own information vanishes, and steps would have no bound."""

OWN_SHARE = 0.5
"""A parameter keeps at least this share of its information when the coefficients are free too."""


class FreeParameter(NamedTuple):
    """A parameter of a family that a fit is free to move.

    Attributes:
        name: its name in the family.
        constraint: the set of its values.
        is_shared: whether all columns have the same value.
        prior: the prior of its unconstrained values, or None for a flat one.
        at: the columns that it belongs to, as places of their linear predictors.
        is_unit: whether it is the unit of the linear predictors of its columns.
    """

    name: str
    constraint: constraints.Constraint
    is_shared: bool
    prior: CommonPrior | None = None
    at: At = slice(None)
    is_unit: bool = False

    def value(self, free: Tensor) -> Tensor:
        """The parameter from the unconstrained one, such as a size from its logarithm."""
        value: Tensor = transform_to(self.constraint)(free)
        return value

    def unconstrained(self, value: Tensor) -> Tensor:
        """The inverse of :meth:`value`."""
        free: Tensor = transform_to(self.constraint).inv(value)
        return free

    def is_held(self, num_rows: int) -> bool:
        """Whether the prior holds the logarithm of a unit where a column is constant.

        Each row of it gains what the logarithm falls by.
        """
        return self.prior is not None and num_rows * float(self.prior.scale) ** 2 < FURTHEST

    def slope(self, free: Tensor) -> Tensor:
        """The derivative of :meth:`value`."""
        with torch.enable_grad():
            at = free.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.value(at).sum(), at)
        return slope


@dataclass(frozen=True, eq=False, kw_only=True)
class LearntParametersProblem(Objective):
    r"""An objective of loading, intercept and parameters of the family, such as sizes.

    The coefficients of a column are its loading, its intercept and its unconstrained parameters
    :math:`u`, ``(d, l + 1 + p)``, such as the logarithm of a size. The latents are eliminated as
    under known parameters. A parameter for several columns has equal entries, among which its
    gradient is shared evenly. In a mixed table a parameter belongs to some columns, and has zeros
    in the others.

    Under a unit :math:`s_i` of the linear predictors, such as the scale of Gaussian noise, a change
    of the unit leaves the means as they are only if loading and intercept change too. For this
    reason the coefficients of such a column are :math:`(s_i W_i, s_i b_i) / r_i` and
    :math:`\log (s_i / r_i)`, with a constant reference :math:`r_i` near :math:`s_i`.

    Steps take the sum of squared scores of the entries as the information of the parameters, and
    the products with the scores of the linear predictors as the information that they share with
    the coefficients of their column (Berndt, Hall, Hall and Hausman, 1974).

    Attributes:
        known: the objective under known parameters.
        parameters: the free parameters.
        base_measures: the base measures of the observations.
        reference: unconstrained values from which the coefficients measure parameters, 0 for all
            but the logarithms of references of units at first, ``(d, p)``.
    """

    known: Objective
    parameters: tuple[FreeParameter, ...]
    base_measures: BaseMeasures
    reference: Tensor

    @classmethod
    def of(cls, known: Objective, parameters: tuple[FreeParameter, ...]) -> LearntParametersProblem:
        """The problem of a table, given its objective under known parameters.

        Raises:
            ValueError: if a column of real numbers is constant that needs a parameter of its own,
                such as a scale or a shape.
        """
        table = known.table
        check_that_observations_vary(table, parameters)
        return cls(
            table=table,
            latent_precision=known.latent_precision,
            loading_precision=known.loading_precision,
            intercept_precision=known.intercept_precision,
            covariate_precision=known.covariate_precision,
            known=known.learning(tuple(x.name for x in parameters)),
            parameters=parameters,
            base_measures=BaseMeasures(table),
            reference=table.like.new_zeros(table.num_predictors, len(parameters)),
        ).around(table.family.parameters)

    def around(self, values: Mapping[str, Tensor]) -> LearntParametersProblem:
        """The same objective with present values as references of units."""
        reference = torch.zeros_like(self.reference)
        for place, x in enumerate(self.parameters):
            if x.is_unit:
                reference[x.at, place] = x.unconstrained(values[x.name].detach().to(reference))
        return replace(self, reference=reference)

    def centred_at(self, values: Mapping[str, Tensor]) -> LearntParametersProblem:
        """The same objective with coefficients that measure parameters from present values."""
        reference = torch.zeros_like(self.reference)
        for place, x in enumerate(self.parameters):
            reference[x.at, place] = x.unconstrained(values[x.name].detach().to(reference))
        return replace(self, reference=reference)

    def double(self) -> LearntParametersProblem:
        """The same objective in double precision, of observations that are not rounded."""
        exact, known = super().double(), self.known.double()
        base_measures = BaseMeasures(exact.table)
        reference = self.reference.double()
        return replace(exact, known=known, reference=reference, base_measures=base_measures)

    @property
    def cancels(self) -> bool:
        """Whether the objective with known parameters is a difference of large numbers."""
        return self.known.cancels

    @property
    def latent_share(self) -> float:  # type: ignore[override]
        """The share of the objective with known parameters."""
        return self.known.latent_share

    def latent_moment(self, coefficients: Tensor, z: Tensor, solver: Solver) -> Tensor | None:
        """The moment of the latents under the present parameters."""
        theta, free = self.parts(coefficients)
        return self.at(free).latent_moment(theta, z, solver)

    def has_run_away(self, coefficients: Tensor, z: Tensor) -> bool:
        """Whether the objective under the present parameters does not hold."""
        theta, free = self.parts(coefficients)
        return self.at(free).has_run_away(theta, z)

    def at(self, free: Tensor) -> Objective:
        """The objective of loading and intercept at unconstrained parameters ``(d, p)``."""
        family = self.table.family.with_parameters(self.values(free))
        base = self.base_measures.total(family) if self.known.reads_base_measures else 0.0
        return replace(self.known, table=self.table.under(family, base))

    def values(self, free: Tensor) -> dict[str, Tensor]:
        """The parameters of their columns by name, from the unconstrained ones ``(d, p)``."""
        return {
            x.name: x.value(take(u, x.at)) for x, u in zip(self.parameters, free.T, strict=True)
        }

    def parts(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Loading and intercept ``(d, l + 1)``, and unconstrained parameters ``(d, p)``."""
        size = coefficients.shape[1] - len(self.parameters)
        free = torch.zeros_like(self.reference)
        for place, x in enumerate(self.parameters):
            own = coefficients[x.at, size + place] + self.reference[x.at, place]
            # One value for several columns: the entries are equal up to rounding.
            free[x.at, place] = own.mean() if x.is_shared else own
        free = self.reference + (free - self.reference).clamp(-FURTHEST, FURTHEST)
        return coefficients[:, :size] * self._per_unit(free), free

    def coefficients_of(self, theta: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """The coefficients ``(d, l + 1 + p)``: the inverse of :meth:`parts`.

        Args:
            theta: loading and intercept, ``(d, l + 1)``.
            values: the parameters by name, ``()`` or one per column that they belong to.
        """
        free = torch.zeros_like(self.reference)
        for place, x in enumerate(self.parameters):
            free[x.at, place] = x.unconstrained(values[x.name].to(theta))
        moved = (free - self.reference).clamp(-FURTHEST, FURTHEST)
        return torch.cat([theta / self._per_unit(self.reference + moved), moved], 1)

    def spectral_start(self, latent_dim: int) -> Tensor:
        """Coefficients ``(d, l + 1 + p)`` to start from, with the table's own parameters."""
        family = self.table.family
        known = replace(self.known, table=self.table.under(family, 0.0))
        return self.coefficients_of(spectral_start(known, latent_dim), family.parameters)

    def _per_unit(self, free: Tensor) -> Tensor:
        """Loading and intercept as parts of the coefficients, ``(d, 1)``."""
        return torch.exp((self._of_units * (self.reference - free)).sum(1, keepdim=True))

    @property
    def _of_units(self) -> Tensor:
        """1 where a parameter is the unit of a column and 0 elsewhere, ``(d, p)``."""
        found = torch.zeros_like(self.reference)
        for place, x in enumerate(self.parameters):
            if x.is_unit:
                found[x.at, place] = 1.0
        return found

    def columns(
        self, coefficients: Tensor, z: Tensor, solver: Solver, also: OfRows = nothing
    ) -> ColumnSums:
        """Solves for the latents ``z`` ``(N, l)``, in place, and evaluates the objective there."""
        theta, free = self.parts(coefficients)
        if not bool(coefficients.isfinite().all()):
            return self._nothing_there(coefficients)
        slope = torch.zeros_like(free)
        for place, x in enumerate(self.parameters):
            slope[x.at, place] = x.slope(free[x.at, place])
        units = self._of_units

        def both(problem: LatentProblem, at: Tensor) -> Sums:
            return *self._score_sums(problem, at, slope, units), *also(problem, at)

        found = self.at(free).columns(theta, z, solver, both)
        score, of_free, between, *others = found.sums
        to_free = -score if found.to_parameters is None else found.to_parameters.to(slope) * slope
        # At constant means the coefficients move against their unit.
        to_free = to_free - units * (theta * found.gradient).sum(1, keepdim=True)
        self._add_priors(free, to_free, of_free)
        self._share(to_free, of_free, between)
        # A full step moves a parameter by at most about one.
        own = of_free.diagonal(dim1=-2, dim2=-1)
        own.copy_(torch.maximum(own.clamp(min=LEAST_INFORMATION), to_free.abs()))
        to_free = torch.where((free - self.reference).abs() < FURTHEST, to_free, 0.0)
        held = self.known.held(theta)
        if held is not None:
            between = between.masked_fill(held[:, None], 0.0)
        per_unit = self._per_unit(free)
        gradient = torch.cat([found.gradient * per_unit, to_free], 1)
        of_theta = found.information * per_unit.square()[:, :, None]
        information = _joined(of_theta, between * per_unit[:, :, None], of_free)
        objective = found.objective + self.prior_penalty(free)
        if not bool(gradient.isfinite().all()):
            objective = math.inf
        return ColumnSums(objective, gradient, information, tuple(others))

    def _score_sums(self, problem: LatentProblem, z: Tensor, slope: Tensor, units: Tensor) -> Sums:
        """Sums over rows of scores, of their products, and with the scores of coefficients.

        Their shapes are ``(d, p)``, ``(d, p, p)`` and ``(d, l + 1, p)``. Products are of the scores
        at constant means of columns with a unit.
        """
        eta = problem.predictor(z)
        names = tuple(x.name for x in self.parameters)
        scores = problem.family.parameter_scores(names, eta, problem.y).to(eta)
        scores = scores * slope.mT[:, None]
        design = problem.design(z)
        of_predictor = problem.family.score(eta, problem.y)
        own = eta if problem.known_offset is None else eta - problem.known_offset
        at_means = [x - u * own * of_predictor for x, u in zip(scores, units.mT, strict=True)]
        total = torch.stack([problem.weighted(x).sum(0) for x in scores], 1)
        weighted = torch.stack([problem.weighted(x) for x in at_means])
        squares = torch.stack([(weighted * x).sum(1) for x in at_means], 1)
        shared = torch.stack([(x * of_predictor).mT @ design for x in weighted], -1)
        return total, squares.permute(2, 0, 1).contiguous(), shared

    def _add_priors(self, free: Tensor, to_free: Tensor, of_free: Tensor) -> None:
        """Adds the priors of parameters to gradient and information, in place."""
        for place, x in enumerate(self.parameters):
            if x.prior is not None:
                own = free[x.at, place]
                to_free[x.at, place] += (own - x.prior.common(own)) / x.prior.scale**2
                of_free[x.at, place, place] += x.prior.scale**-2

    def _share(self, to_free: Tensor, of_free: Tensor, between: Tensor) -> None:
        """Shares gradient and information of a parameter among the columns of one value."""
        for place, x in enumerate(self.parameters):
            if x.is_shared:
                to_free[x.at, place] = to_free[x.at, place].mean()
                of_free[x.at, place] = of_free[x.at, place].mean(0)
                of_free[x.at, :, place] = of_free[x.at, :, place].mean(0)
                between[:, :, place] = 0.0

    def latents_of_value(self, coefficients: Tensor, z: Tensor, solver: Solver) -> Tensor:
        """The latents ``(N, l)`` at which the objective with known parameters holds."""
        theta, free = self.parts(coefficients)
        return self.at(free).latents_of_value(theta, z, solver)

    def value(self, coefficients: Tensor, z: Tensor) -> float:
        """The objective at coefficients ``(d, l + 1 + p)`` and latents ``(N, l)``."""
        theta, free = self.parts(coefficients)
        return self.at(free).value(theta, z) + self.prior_penalty(free)

    def change_basis(self, coefficients: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same natural parameters in the basis of the least objective, in new memory."""
        theta, free = self.parts(coefficients)
        theta, z = self.known.change_basis(theta, z)
        size = theta.shape[1]
        return torch.cat([theta / self._per_unit(free), coefficients[:, size:]], 1), z

    def scoring_step(self, coefficients: Tensor, factor: Tensor, gradient: Tensor) -> Tensor:
        """The step of all coefficients, with what the known objective adds to its own."""
        size = coefficients.shape[1] - len(self.parameters)
        step = torch.cholesky_solve(gradient.unsqueeze(-1), factor).squeeze(-1)
        # The leading block of the factor is the factor of the leading block.
        of_theta, known = gradient[:, :size].contiguous(), factor[:, :size, :size]
        plain = torch.cholesky_solve(of_theta.unsqueeze(-1), known).squeeze(-1)
        more = self.known.scoring_step(coefficients[:, :size], known, of_theta) - plain
        of_theta = self.known.moving(step[:, :size] + more)
        return torch.cat([of_theta, step[:, size:]], 1)

    def prior_penalty(self, free: Tensor) -> float:
        """Minus the log prior of the parameters."""
        columns = zip(self.parameters, free.double().T, strict=True)
        return -sum(
            float(x.prior.log_density(take(u, x.at))) for x, u in columns if x.prior is not None
        )

    def _nothing_there(self, coefficients: Tensor) -> ColumnSums:
        """An infinite objective, at which no step may end."""
        num_features, size = coefficients.shape
        information = torch.eye(size).to(coefficients).expand(num_features, size, size)
        return ColumnSums(math.inf, torch.zeros_like(coefficients), information)


def check_that_observations_vary(table: Table, parameters: Sequence[FreeParameter]) -> None:
    """Looks for columns without variation that are to tell how much they vary.

    The density of real numbers has no bound there. Probabilities have one, as of counts, and of
    zeros under a law that has a mass there.

    Args:
        table: the table.
        parameters: the parameters that are learnt, such as shapes; others do not matter.

    Raises:
        ValueError: if a column is constant, or the whole table for a parameter of all columns.
    """
    parameters = [x for x in parameters if not x.is_held(table.num_rows)]
    if not parameters:
        return
    moments = Moments.of(table)
    bounded = moments.mean == 0
    for kind in table.family.kinds(table.num_features):
        if kind.family.support.is_discrete:
            bounded[kind.predictors] = True
    for x in parameters:
        name = next((word for word in SPREADS if x.name.endswith(word)), None)
        if x.is_unit:
            check_variation(table.family, moments, not x.is_shared, x.at)
        elif name is not None:
            check_variation(table.family, moments, not x.is_shared, x.at, name, bounded)


def _joined(of_theta: Tensor, between: Tensor, of_free: Tensor) -> Tensor:
    """The information of all coefficients, ``(d, l + 1 + p, l + 1 + p)``, positive definite.

    The part that coefficients and parameters share is left out where it would leave a parameter
    too little: the blocks have different sources.
    """
    factor, _ = torch.linalg.cholesky_ex(of_theta)
    through = between.mT @ torch.cholesky_solve(between, factor)
    left = of_free - through
    least = OWN_SHARE * torch.diag_embed(of_free.diagonal(dim1=-2, dim2=-1))
    _, failed = torch.linalg.cholesky_ex(torch.nan_to_num(left - least, nan=-1.0))
    between = between * (failed == 0)[:, None, None]
    top = torch.cat([of_theta, between], 2)
    return torch.cat([top, torch.cat([between.mT, of_free], 2)], 1)
