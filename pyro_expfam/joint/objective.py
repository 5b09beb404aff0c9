"""The objective that a fit of a table minimises, a function of loading and intercept alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solver import Solver
from pyro_expfam.joint.row_effect import RowEffect
from pyro_expfam.joint.table import CoefficientParts, Sums, Table, split_coefficients


class ColumnSums(NamedTuple):
    r"""An objective at some coefficients, with the latents eliminated.

    The coefficients of a feature are its loading, its intercept and the coefficients of covariates,
    :math:`(W_i, b_i, C_i)`. A table without covariates has ``p = 0``.

    Attributes:
        objective: the value, a number of double precision.
        gradient: the gradient per feature, ``(d, l + 1 + p)``.
        information: the information per feature, ``(d, l + 1 + p, l + 1 + p)``. It is the Hessian
            with the latents and all other features held constant.
        sums: further sums over rows that were asked for.
        to_parameters: the gradient in the parameters of the family that are learnt, ``(d, k)``,
            zero in columns that a parameter does not belong to; or None if it is the sum of the
            gradients of the entries at constant latents.
    """

    objective: float
    gradient: Tensor
    information: Tensor
    sums: Sums = ()
    to_parameters: Tensor | None = None


OfRows = Callable[[LatentProblem, Tensor], Sums]
"""Tensors to be summed, from the problem of some rows and their latents ``(n, l)``."""


def nothing(problem: LatentProblem, z: Tensor) -> Sums:
    """No further sums."""
    del problem, z
    return ()


@dataclass(frozen=True, eq=False)
class Objective(ABC):
    r"""A function of the coefficients of a table, with the latents solved for.

    Attributes:
        table: the observations, with their offsets and weights.
        latent_precision: :math:`\lambda`, ``()``.
        loading_precision: the precision of the loading's prior, one number, or what broadcasts to
            ``(d, l)``; 0 for a flat one.
        intercept_precision: the precision of the intercept's prior, one number, or one per linear
            predictor, ``(d,)``; 0 for a flat one.
        constant: a constant to add to the objective, such as the constants of the densities.
        latent_share: how inexact the latents may be: the decrease that exact latents would still
            bring, as a part of the decrease that a step of the coefficients promises. It is 0 for
            an objective that holds at the root of the latents alone.
        covariate_precision: the precision of the prior of the coefficients of covariates, one or
            one per covariate, ``(p,)``; 0 for a flat prior.
        free: booleans ``(l + 1 + p,)``, False for coefficients that stay where they are; by default
            all move.
        row_effect: the row effect, which is the last of the ``l`` latents, or None.
        reads_base_measures: whether the objective takes the base measures from its table.
    """

    table: Table
    latent_precision: Tensor
    loading_precision: float | Tensor
    intercept_precision: float | Tensor
    constant: float = 0.0
    covariate_precision: float | Tensor = field(default=0.0, kw_only=True)
    free: Tensor | None = field(default=None, kw_only=True)
    row_effect: RowEffect | None = field(default=None, kw_only=True)

    latent_share: ClassVar[float]
    reads_base_measures: ClassVar[bool] = True

    def double(self) -> Self:
        """The same objective in double precision."""
        return replace(
            self, table=self.table.double(), latent_precision=self.latent_precision.double()
        )

    def of_sample(self, table: Table) -> Self:
        """The same objective of some of the rows, with the priors' part of it in proportion.

        Args:
            table: the rows.
        """
        share = table.num_rows / self.table.num_rows
        return replace(
            self,
            table=table,
            loading_precision=share * self.loading_precision,
            intercept_precision=share * self.intercept_precision,
            covariate_precision=share * self.covariate_precision,
            constant=share * self.constant,
        )

    @property
    def cancels(self) -> bool:
        """Whether the objective is a difference of large numbers, also in double precision.

        :meth:`value` then computes it from the residuals of the observations.
        """
        return False

    def joint(self, latent_dim: int) -> Objective | None:
        """The joint objective of the same table, from whose optimum a fit starts, if any."""
        del latent_dim
        return None

    def latent_moment(self, coefficients: Tensor, z: Tensor, solver: Solver) -> Tensor | None:
        r"""The mean of :math:`\lambda\, \mathrm E[z z^\top]` over the rows, ``(l, l)``.

        It is the unit matrix where latents vary as their prior says. None if the objective does not
        integrate over the latents.

        Args:
            coefficients: loading, intercept and coefficients of covariates, ``(d, l + 1 + p)``.
            z: latents to solve from, in place, ``(N, l)``.
            solver: the solver for the latents.
        """
        del coefficients, z, solver
        return None

    def has_run_away(self, coefficients: Tensor, z: Tensor) -> bool:
        """Whether the objective is an approximation that does not hold at these coefficients.

        Args:
            coefficients: loading, intercept and coefficients of covariates, ``(d, l + 1 + p)``.
            z: the latents at their root, ``(N, l)``.
        """
        del coefficients, z
        return False

    def latents_of_value(self, coefficients: Tensor, z: Tensor, solver: Solver) -> Tensor:
        """The latents ``(N, l)`` at which :meth:`value` holds, found from given ones.

        A joint objective holds at any latents.

        Args:
            coefficients: loading, intercept and coefficients of covariates, ``(d, l + 1 + p)``.
            z: latents near their root, ``(N, l)``.
            solver: the solver for the latents.
        """
        del coefficients, solver
        return z

    def learning(self, names: tuple[str, ...]) -> Self:
        """The same objective, which also differentiates in parameters of the family.

        At the root of the latents the gradient of a joint objective is the sum of the gradients of
        the entries, so that there is nothing to add.

        Args:
            names: the names of the parameters, tensors with an entry per column of theirs.
        """
        del names
        return self

    def tiles(self, coefficients: Tensor) -> Iterator[tuple[slice, LatentProblem]]:
        """The problem of the latents given coefficients ``(d, l + 1 + p)``, a tile at a time."""
        for tile, rows in self.table.tiles():
            yield tile, rows.problem(coefficients, self.latent_precision)

    def sum(self, coefficients: Tensor, of: Callable[[slice, LatentProblem], Sums]) -> Sums:
        """Sums over all rows of what a function computes from the problem of some of them.

        Args:
            coefficients: loading, intercept and coefficients of covariates, ``(d, l + 1 + p)``.
            of: returns new tensors, given the numbers of some rows and their problem.
        """
        return self.table.sum(
            lambda place, rows: of(place, rows.problem(coefficients, self.latent_precision)),
            coefficients,
        )

    def coefficient_precision(self, coefficients: Tensor) -> Tensor:
        """The prior precisions of the coefficients, ``(l + 1 + p,)``.

        Where they differ by linear predictor, they are ``(d, l + 1 + p)``.
        """
        latent_dim = self.split(coefficients).loading.shape[1]
        like: Any = {"dtype": coefficients.dtype, "device": coefficients.device}
        loading = torch.as_tensor(self.loading_precision, **like)
        known = self.known_precision(coefficients)
        by_predictor = loading.dim() > 1 or known.dim() > 1
        shape = coefficients.shape if by_predictor else coefficients.shape[1:]
        precision = coefficients.new_zeros(shape)
        # The loading of a row effect has no prior.
        precision[..., : self.num_rotated(latent_dim)] = loading
        precision[..., latent_dim:] = known
        return precision

    def known_precision(self, like: Tensor) -> Tensor:
        """The prior precisions of intercept and coefficients of covariates, ``(1 + p,)``.

        Where they differ by linear predictor, they are ``(d, 1 + p)``.
        """
        of_type: Any = {"dtype": like.dtype, "device": like.device}
        intercept = torch.as_tensor(self.intercept_precision, **of_type)
        of_covariates = torch.as_tensor(self.covariate_precision, **of_type)
        by_predictor = intercept.dim() > 0 or of_covariates.dim() > 1
        shape = (self.table.num_predictors,) if by_predictor else ()
        precision = like.new_empty(*shape, 1 + self.table.num_covariates)
        precision[..., 0] = intercept
        precision[..., 1:] = of_covariates
        return precision

    def split(self, coefficients: Tensor) -> CoefficientParts:
        """Loading, intercept and coefficients of covariates in coefficients ``(d, l + 1 + p)``."""
        return split_coefficients(coefficients, self.table.num_covariates)

    def num_rotated(self, latent_dim: int) -> int:
        """How many of ``l`` latents may be rotated: all but a row effect, which is the last."""
        return latent_dim - (self.row_effect is not None)

    def moving(self, direction: Tensor) -> Tensor:
        """The part of a gradient or a step ``(d, l + 1 + p)`` along which coefficients may move.

        Known coefficients stay, and the loading of a row effect is the same in all columns.
        """
        if self.row_effect is not None and self.row_effect.is_learnt:
            place = self._place_of_effect(direction)
            direction = direction.clone()
            direction[:, place] = direction[:, place].mean()
        held = self.held(direction)
        return direction if held is None else direction.masked_fill(held, 0.0)

    def held(self, coefficients: Tensor) -> Tensor | None:
        """Which coefficients of a feature are known, booleans ``(l + 1 + p,)``; None for none."""
        if self.row_effect is None or self.row_effect.is_learnt:
            return None if self.free is None else ~self.free
        size = coefficients.shape[1]
        held = torch.zeros(size, dtype=torch.bool, device=coefficients.device)
        held[self._place_of_effect(coefficients)] = True
        return held if self.free is None else held | ~self.free

    def _place_of_effect(self, coefficients: Tensor) -> int:
        return coefficients.shape[1] - 2 - self.table.num_covariates

    def of_moving(self, gradient: Tensor, information: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient and information by feature, under which known coefficients make no step."""
        held = self.held(gradient)
        if held is not None:
            information = information.masked_fill(held[:, None] | held, 0.0)
            information.diagonal(dim1=-2, dim2=-1)[:, held] = 1.0
        return self.moving(gradient), information

    @abstractmethod
    def columns(
        self, coefficients: Tensor, z: Tensor, solver: Solver, also: OfRows = nothing
    ) -> ColumnSums:
        """Solves for the latents ``z`` ``(N, l)``, in place, and evaluates the objective there.

        Args:
            coefficients: loading, intercept and coefficients of covariates, ``(d, l + 1 + p)``.
            z: the start, which is overwritten with the latents.
            solver: the solver for the latents.
            also: further tensors to be summed over rows, at the solved latents.
        """

    @abstractmethod
    def value(self, coefficients: Tensor, z: Tensor) -> float:
        """The objective at coefficients ``(d, l + 1 + p)`` and latents ``(N, l)``, tile by tile."""

    @abstractmethod
    def change_basis(self, coefficients: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same natural parameters in the basis of the least objective, in new memory."""

    def scoring_step(self, coefficients: Tensor, factor: Tensor, gradient: Tensor) -> Tensor:
        """Minus the step of Fisher scoring, from a gradient ``(d, l + 1 + p)``.

        Args:
            coefficients: the coefficients at which the gradient was taken.
            factor: Cholesky factors of the information per feature, ``(d, l + 1 + p, l + 1 + p)``.
            gradient: the gradient in the coefficients.
        """
        del coefficients
        gradient = self.centred(gradient)
        step = torch.cholesky_solve(gradient.unsqueeze(-1), factor).squeeze(-1)
        return self.moving(self.centred(step))

    def centred(self, coefficients: Tensor) -> Tensor:
        """Coefficients ``(d, l + 1 + p)`` that sum to zero over the levels of an observation.

        Adding a number to all levels changes no probability, so that the best coefficients under
        the priors sum to zero. Columns of one linear predictor stay as they are.
        """
        family = self.table.family
        if not family.is_coupled:
            return coefficients
        owner = family.observation_of_predictor(self.table.num_features).to(coefficients.device)
        levels = owner.bincount()
        zero = coefficients.new_zeros(len(levels), coefficients.shape[1])
        mean = zero.index_add(0, owner, coefficients) / levels[:, None]
        return torch.where((levels > 1)[owner, None], coefficients - mean[owner], coefficients)
