r"""Fitting the scale of Gaussian noise together with loading and intercept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solver import Solver
from pyro_expfam.families import Family
from pyro_expfam.families.kinds import At, take
from pyro_expfam.joint.objective import ColumnSums, Objective, OfRows, nothing
from pyro_expfam.joint.spectral import spectral_start
from pyro_expfam.joint.table import Sums, Table, TableRows

SMALLEST_START = 0.05
"""The fit starts from at least this part of the standard deviation of the observations."""

FAR = 10.0
"""A fit does not start from a scale that is more than this many times the standard deviation of the
observations, or more than this many times smaller than the residuals."""

SMALLEST = 1e-6
"""The smallest scale, relative to the standard deviation of the observations. Single precision does
not resolve a smaller one, and the scale of a table that latents explain exactly would fall to zero.
"""

COLLAPSED = 1e-3
"""A scale below this part of the standard deviation of the observations does not estimate noise."""


class ScaledCoefficients(NamedTuple):
    """Coefficients of a table with the scale of its noise.

    Attributes:
        coefficients: loading and intercept in units of the noise, ``(d, l + 1)``.
        scale: the scale of the noise per column, ``(d,)``; equal entries if the table has one
            scale.
    """

    coefficients: Tensor
    scale: Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    """Weighted moments of each column, in double precision.

    Attributes:
        count: the sum of the weights, ``(d,)``.
        mean: the mean of the observations, ``(d,)``; 0 in a column without entries.
        squares: the sum of squared distances to the mean, ``(d,)``.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, table: Table) -> Moments:
        """The moments of a table, from two passes over it."""
        count, total = _column_sums(table, lambda y: torch.stack([torch.ones_like(y), y]))
        mean = total / count.clamp(min=torch.finfo(total.dtype).tiny)
        (squares,) = _column_sums(table, lambda y: (y - mean).square()[None])
        return cls(count, mean, squares)

    def deviation(self, by_column: bool) -> Tensor:
        """The standard deviation of each column, or of the whole table, ``(d,)``."""
        pooled = (self.squares.sum() / self.count.sum()).sqrt()
        if not by_column:
            return pooled.expand_as(self.squares)
        own = (self.squares / self.count).sqrt()
        return torch.where(self.count > 0, own, pooled)


@dataclass(frozen=True, eq=False, kw_only=True)
class NoiseScaleProblem(Objective):
    r"""An objective of loading, intercept and the scale of Gaussian noise.

    The natural parameter is a mean in units of the noise. A change of the scale :math:`s_i` of
    column :math:`i` therefore leaves the means as they are only if its loading and intercept change
    too, and the coefficients of covariates with them. For this reason the coefficients of a column
    are :math:`(s_i W_i, s_i b_i) / r_i` and :math:`\log (s_i / r_i)`, ``(d, l + 2)``. The
    reference :math:`r_i` is a constant near :math:`s_i`. Take the residuals :math:`\epsilon = T(y)
    - \eta`, the offset :math:`o`, and the prior precision :math:`p` of the coefficients
    :math:`\theta_i = (W_i, b_i)`. The derivative in :math:`\log s_i` is then

    .. math:: n_i - \sum_s \omega_{si} \epsilon_{si} (\epsilon_{si} + o_{si})
              - \sum_k p_k \theta_{ik}^2 - v_i,

    where :math:`n_i` is the number of entries. For the joint objective :math:`v_i` is 0. For the
    evidence it is :math:`\sum_s \omega_{si} W_i^\top H_s^{-1} W_i`, the uncertainty of the latents.
    The derivative is zero at the maximisation step of expectation maximisation. The derivative of a
    scale for the whole table is the sum over columns, and it is shared evenly among them.

    Attributes:
        known: the objective under a known scale.
        reference: :math:`r`, ``(d,)``.
        moments: the moments of the observations.
        by_column: whether every column has a scale of its own.

    Source: Tipping and Bishop, *Probabilistic principal component analysis* (1999); Rubin and
    Thayer, *EM algorithms for ML factor analysis* (1982).
    """

    known: Objective
    reference: Tensor
    moments: Moments
    by_column: bool

    @classmethod
    def of(cls, known: Objective, by_column: bool) -> NoiseScaleProblem:
        """The problem of a table, with the deviation of the observations as reference.

        Args:
            known: the objective under a known scale.
            by_column: whether every column has a scale of its own.

        Raises:
            ValueError: if the table is constant, or a column that needs a scale of its own is.
        """
        moments = Moments.of(known.table)
        deviation = moments.deviation(by_column)
        check_variation(known.table.family, moments, by_column)
        return cls(
            table=known.table,
            latent_precision=known.latent_precision,
            loading_precision=known.loading_precision,
            intercept_precision=known.intercept_precision,
            covariate_precision=known.covariate_precision,
            known=known,
            reference=deviation.to(known.table.like),
            moments=moments,
            by_column=by_column,
        )

    def double(self) -> NoiseScaleProblem:
        """The same objective in double precision, of observations that are not rounded."""
        exact, known = super().double(), self.known.double()
        moments = Moments.of(exact.table)
        return replace(exact, known=known, reference=self.reference.double(), moments=moments)

    @property
    def cancels(self) -> bool:
        """Whether the objective with known parameters is a difference of large numbers."""
        return self.known.cancels

    @property
    def latent_share(self) -> float:  # type: ignore[override]
        """The share of the objective with a known scale."""
        return self.known.latent_share

    def at(self, scale: Tensor) -> Objective:
        """The objective of loading and intercept under a scale per column, ``(d,)``."""
        own = scale if self.by_column else scale[0]
        family = self.table.family.with_parameters({"scale": own})
        log_scale = scale.double().log()
        squares = self.moments.squares + self.moments.count * self.moments.mean.square()
        log_normaliser = (self.moments.count * (log_scale + 0.5 * math.log(2 * math.pi))).sum()
        log_base_measure = -0.5 * (squares * (-2 * log_scale).exp()).sum() - log_normaliser
        return replace(self.known, table=self.table.under(family, float(log_base_measure)))

    def natural(self, coefficients: Tensor) -> ScaledCoefficients:
        """Loading and intercept in units of the noise, and its scale, from the fit's own form."""
        ratio = self._ratio(coefficients)
        return ScaledCoefficients(coefficients[:, :-1] / ratio, self.reference * ratio[:, 0])

    def _ratio(self, coefficients: Tensor) -> Tensor:
        """The scale relative to its reference, ``(d, 1)``."""
        log_ratio = coefficients[:, -1:]
        # One scale for the table: the entries are equal up to rounding.
        return (log_ratio if self.by_column else log_ratio.mean().expand_as(log_ratio)).exp()

    def coefficients_of(self, natural: ScaledCoefficients) -> Tensor:
        """The coefficients in the fit's form, ``(d, l + 2)``: the inverse of :meth:`natural`."""
        ratio = (natural.scale / self.reference)[:, None]
        return torch.cat([natural.coefficients * ratio, ratio.log()], 1)

    def spectral_start(self, latent_dim: int, solver: Solver) -> tuple[NoiseScaleProblem, Tensor]:
        """The problem with the scale of the residuals as reference, and starting coefficients.

        Loading and intercept come from the spectrum of the table.
        """
        scale = self.moments.deviation(self.by_column).to(self.reference)
        coefficients = spectral_start(self.at(scale), latent_dim)
        residual = self._residual_scale(ScaledCoefficients(coefficients, scale), solver)
        problem = replace(self, reference=residual)
        natural = ScaledCoefficients(coefficients * (scale / residual)[:, None], residual)
        return problem, problem.coefficients_of(natural)

    def start_from(
        self, natural: ScaledCoefficients, solver: Solver
    ) -> tuple[NoiseScaleProblem, Tensor]:
        """The problem with the scale of the residuals as reference, and the given coefficients.

        The scale of the residuals replaces a scale that no such observations could have.
        """
        theta, scale = natural
        residual = self._residual_scale(natural, solver)
        is_far = (scale > FAR * self.moments.deviation(self.by_column)) | (scale < residual / FAR)
        chosen = torch.where(is_far, residual, scale)
        problem = replace(self, reference=residual)
        theta = theta * (scale / chosen)[:, None]
        return problem, problem.coefficients_of(ScaledCoefficients(theta, chosen))

    def is_collapsed(self, scale: Tensor) -> Tensor:
        """Whether each column's scale is far below the deviation of its observations, ``(d,)``."""
        return scale.double() < COLLAPSED * self.moments.deviation(self.by_column)

    def columns(
        self, coefficients: Tensor, z: Tensor, solver: Solver, also: OfRows = nothing
    ) -> ColumnSums:
        """Solves for the latents ``z`` ``(N, l)``, in place, and evaluates the objective there."""
        theta, scale = self.natural(coefficients)
        if not bool((scale > SMALLEST * self.moments.deviation(self.by_column)).all()):
            return self._nothing_there(coefficients)

        def both(problem: LatentProblem, at: Tensor) -> Sums:
            return *_residual_sums(problem, at), *also(problem, at)

        columns = self.at(scale).columns(theta, z, solver, both)
        squares, _, score, *others = columns.sums
        penalty = self.known.coefficient_precision(theta) * theta
        # The uncertainty of the latents enters the gradient but not the residuals.
        uncertain = theta * (columns.gradient - penalty + score)
        of_loading = uncertain[:, : z.shape[1]]
        moved = squares + (theta * penalty).sum(1) + of_loading.sum(1)
        count = self.moments.count.to(theta)
        to_scale, information = count - moved, 2 * torch.maximum(count, moved)
        if not self.by_column:
            to_scale = to_scale.mean().expand_as(to_scale)
            information = 2 * torch.maximum(count.mean(), moved.mean()).expand_as(information)
        ratio = self._ratio(coefficients)
        of_all = torch.nn.functional.pad(columns.information / ratio[..., None] ** 2, (0, 1, 0, 1))
        of_all[:, -1, -1] = information
        gradient = torch.cat([columns.gradient / ratio, to_scale[:, None]], 1)
        return ColumnSums(columns.objective, gradient, of_all, tuple(others))

    def latents_of_value(self, coefficients: Tensor, z: Tensor, solver: Solver) -> Tensor:
        """The latents ``(N, l)`` at which the objective with a known scale holds."""
        theta, scale = self.natural(coefficients)
        return self.at(scale).latents_of_value(theta, z, solver)

    def value(self, coefficients: Tensor, z: Tensor) -> float:
        """The objective at coefficients ``(d, l + 2)`` and latents ``(N, l)``, tile by tile."""
        theta, scale = self.natural(coefficients)
        return self.at(scale).value(theta, z)

    def _nothing_there(self, coefficients: Tensor) -> ColumnSums:
        """An infinite objective, at which no step may end: the scale is too small or NaN."""
        num_features, size = coefficients.shape
        information = torch.eye(size).to(coefficients).expand(num_features, size, size)
        return ColumnSums(math.inf, torch.zeros_like(coefficients), information)

    def change_basis(self, coefficients: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same natural parameters in the basis of the least objective, in new memory."""
        ratio = self._ratio(coefficients)
        theta, z = self.known.change_basis(coefficients[:, :-1] / ratio, z)
        return torch.cat([theta * ratio, coefficients[:, -1:]], 1), z

    def scoring_step(self, coefficients: Tensor, factor: Tensor, gradient: Tensor) -> Tensor:
        """The step of the objective with a known scale, with the step of the scale beside it."""
        ratio = self._ratio(coefficients)
        step = self.known.scoring_step(
            coefficients[:, :-1] / ratio,
            factor[:, :-1, :-1] * ratio[..., None],
            gradient[:, :-1] * ratio,
        )
        of_scale = gradient[:, -1] / factor[:, -1, -1].square()
        return torch.cat([step * ratio, of_scale[:, None]], 1)

    def _residual_scale(self, natural: ScaledCoefficients, solver: Solver) -> Tensor:
        """The root mean square residual of each column, or of the whole table, ``(d,)``."""
        theta, scale = natural
        latent_dim = self.split(theta).loading.shape[1]
        z = theta.new_zeros(self.table.num_own_rows, latent_dim)
        _, residual, _ = self.at(scale).columns(theta, z, solver, _residual_sums).sums
        squares, count = residual.double() * scale.double().square(), self.moments.count
        if not self.by_column:
            squares, count = squares.sum().expand_as(squares), count.sum().expand_as(count)
        deviation = self.moments.deviation(self.by_column)
        residual = torch.where(count > 0, (squares / count).sqrt(), deviation)
        return torch.maximum(residual, SMALLEST_START * deviation).to(scale)


def _residual_sums(problem: LatentProblem, z: Tensor) -> Sums:
    """Sums over rows of the residuals of each column, in units of the noise.

    These are the products of residuals with residuals and offsets together, the squares of
    residuals, and the score of the coefficients ``(d, l + 1)``. Only products with the offset
    belong to the derivative, and they may be negative.
    """
    residual = problem.family.score(problem.predictor(z), problem.y)
    weighted = problem.weighted(residual)
    offset = problem.known_offset
    moved = residual if offset is None else residual + offset
    design = problem.design(z)
    return (weighted * moved).sum(0), (weighted * residual).sum(0), weighted.mT @ design


def check_variation(
    family: Family,
    moments: Moments,
    by_column: bool,
    at: At = slice(None),
    name: str = "scale",
    bounded: Tensor | None = None,
) -> None:
    """Raises an error if scales are to be learnt of observations that do not vary.

    The likelihood has no maximum there: the scale falls to zero, or a shape has no bound.

    Args:
        family: the law of the observations.
        moments: their moments.
        by_column: whether every column has a scale of its own.
        at: the columns with a scale, as places of their linear predictors.
        name: the name of the parameter.
        bounded: linear predictors of columns whose likelihood has a maximum nevertheless, ``(d,)``.

    Raises:
        ValueError: if all of these columns are constant, or a column that needs a scale of its own
            is.
    """
    own = Moments(*(take(x, at) for x in (moments.count, moments.mean, moments.squares)))
    is_constant = (own.deviation(by_column) <= 1e-12 * own.mean.abs()) & (own.count > 0)
    if bounded is not None:
        is_constant &= ~take(bounded, at)
    if not bool(is_constant.any()):
        return
    if not by_column:
        raise ValueError(f"y must vary for its {name} to be learnt, got a constant table")
    places = take(family.column_of_predictor(family.num_columns or len(moments.count)), at)
    found = places.to(is_constant.device)[is_constant].tolist()
    names = getattr(family, "names", None)
    raise ValueError(
        f"y must vary in every column that is to have a {name} of its own, got constant columns "
        f"{found if names is None else [names[place] for place in found]}: drop them, or learn "
        f"one {name} for the table"
    )


def _column_sums(table: Table, of_entries: Callable[[Tensor], Tensor]) -> Tensor:
    """Weighted sums over rows of functions of the observations, ``(k, d)``, in float64."""

    def of_rows(place: slice, rows: TableRows) -> Sums:
        del place
        entries = of_entries(rows.y.double())
        return ((entries if rows.weights is None else entries * rows.weights).sum(1),)

    (sums,) = table.sum(of_rows)
    return sums
