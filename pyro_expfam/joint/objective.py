"""The objective that a fit of a table minimises, a function of loading and intercept alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solver import Solver
from pyro_expfam.joint.table import Sums, Table


class ColumnSums(NamedTuple):
    r"""An objective at some coefficients, with the latents eliminated.

    The coefficients of a feature are its loading and its intercept, :math:`(W_i, b_i)`.

    Attributes:
        objective: the value, a number of double precision.
        gradient: the gradient per feature, ``(d, l + 1)``.
        information: the information per feature, ``(d, l + 1, l + 1)``. It is the Hessian with the
            latents and all other features held constant.
        sums: further sums over rows that were asked for.
        to_parameters: the gradient in the parameters of the family that are learnt, ``(d, p)``,
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
        loading_precision: the precision of the loading's prior, or 0 for a flat one.
        intercept_precision: the precision of the intercept's prior, or 0 for a flat one.
        constant: a constant to add to the objective, such as the constants of the densities.
        latent_share: how inexact the latents may be: the decrease that exact latents would still
            bring, as a part of the decrease that a step of the coefficients promises. It is 0 for
            an objective that holds at the root of the latents alone.
        reads_base_measures: whether the objective takes the base measures from its table.
    """

    table: Table
    latent_precision: Tensor
    loading_precision: float | Tensor
    intercept_precision: float
    constant: float = 0.0

    latent_share: ClassVar[float]
    reads_base_measures: ClassVar[bool] = True

    def double(self) -> Self:
        """The same objective in double precision."""
        return replace(
            self, table=self.table.double(), latent_precision=self.latent_precision.double()
        )

    def joint(self, latent_dim: int) -> Objective | None:
        """The joint objective of the same table, from whose optimum a fit starts, if any."""
        del latent_dim
        return None

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
        """The problem of the latents given coefficients ``(d, l + 1)``, some rows at a time."""
        for tile, rows in self.table.tiles():
            yield tile, rows.problem(coefficients, self.latent_precision)

    def sum(self, coefficients: Tensor, of: Callable[[slice, LatentProblem], Sums]) -> Sums:
        """Sums over all rows of what a function computes from the problem of some of them.

        Args:
            coefficients: loading and intercept, ``(d, l + 1)``.
            of: returns new tensors, given the numbers of some rows and their problem.
        """
        return self.table.sum(
            lambda place, rows: of(place, rows.problem(coefficients, self.latent_precision))
        )

    def coefficient_precision(self, coefficients: Tensor) -> Tensor:
        """The prior precisions of the coefficients of one feature, ``(l + 1,)``."""
        precision = coefficients.new_empty(coefficients.shape[1])
        precision[:-1] = self.loading_precision
        precision[-1] = self.intercept_precision
        return precision

    @abstractmethod
    def columns(
        self, coefficients: Tensor, z: Tensor, solver: Solver, also: OfRows = nothing
    ) -> ColumnSums:
        """Solves for the latents ``z`` ``(N, l)``, in place, and evaluates the objective there.

        Args:
            coefficients: loading and intercept, ``(d, l + 1)``.
            z: the start, which is overwritten with the latents.
            solver: the solver for the latents.
            also: further tensors to be summed over rows, at the solved latents.
        """

    @abstractmethod
    def value(self, coefficients: Tensor, z: Tensor) -> float:
        """The objective at coefficients ``(d, l + 1)`` and latents ``(N, l)``, tile by tile."""

    @abstractmethod
    def change_basis(self, coefficients: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same natural parameters in the basis of the least objective, in new memory."""

    def scoring_step(self, coefficients: Tensor, factor: Tensor, gradient: Tensor) -> Tensor:
        """Minus the step of Fisher scoring, from a gradient ``(d, l + 1)``.

        Args:
            coefficients: the coefficients at which the gradient was taken.
            factor: Cholesky factors of the information per feature, ``(d, l + 1, l + 1)``.
            gradient: the gradient in the coefficients.
        """
        del coefficients
        gradient = self.centred(gradient)
        step = torch.cholesky_solve(gradient.unsqueeze(-1), factor).squeeze(-1)
        return self.centred(step)

    def centred(self, coefficients: Tensor) -> Tensor:
        """Coefficients ``(d, l + 1)`` that sum to zero over the levels of an observation.

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
