"""What a fit of a table minimises: a function of loading and intercept alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solver import Solver
from pyro_expfam.joint.table import Table


class Columns(NamedTuple):
    r"""An objective at some coefficients, with the latents eliminated.

    Coefficients of a feature are its loading and its intercept, :math:`(W_i, b_i)`.

    Attributes:
        objective: its value, a number of double precision.
        gradient: by feature, ``(d, l + 1)``.
        information: by feature, ``(d, l + 1, l + 1)``: its Hessian, but for what other features
            and the latents that follow do to it.
    """

    objective: float
    gradient: Tensor
    information: Tensor


Visitor = Callable[[LatentProblem, Tensor], None]
"""What looks at the problem of some rows and their latents ``(n, l)``."""


def pass_by(problem: LatentProblem, z: Tensor) -> None:
    """Looks at nothing."""
    del problem, z


@dataclass(frozen=True, eq=False)
class Objective(ABC):
    r"""A function of the coefficients of a table, whose latents are solved for.

    Attributes:
        table: the observations, with their offsets and weights.
        latent_precision: :math:`\lambda`, ``()``.
        loading_precision: the precision of the loading's prior, or 0 for a flat one.
        intercept_precision: that of the intercept's, or 0 for a flat one.
        constant: what the objective is to have on top, such as the constants of the densities.
        latent_share: the part of a decrease of the coefficients that latents may leave undone
            beside it; 0 if the objective is one at the root alone.
    """

    table: Table
    latent_precision: Tensor
    loading_precision: float | Tensor
    intercept_precision: float
    constant: float = 0.0

    latent_share: ClassVar[float]

    def tiles(self, coefficients: Tensor) -> Iterator[tuple[slice, LatentProblem]]:
        """The problem of the latents given coefficients ``(d, l + 1)``, some rows at a time."""
        for tile, rows in self.table.tiles():
            yield tile, rows.problem(coefficients, self.latent_precision)

    def coefficient_precision(self, coefficients: Tensor) -> Tensor:
        """The prior precision of the coefficients of a feature, ``(l + 1,)``."""
        precision = coefficients.new_empty(coefficients.shape[1])
        precision[:-1] = self.loading_precision
        precision[-1] = self.intercept_precision
        return precision

    @abstractmethod
    def columns(
        self, coefficients: Tensor, z: Tensor, solver: Solver, visit: Visitor = pass_by
    ) -> Columns:
        """Solves for the latents ``z`` ``(N, l)``, in place, and evaluates what is left.

        Args:
            coefficients: loading and intercept, ``(d, l + 1)``.
            z: where to start, and then the latents.
            solver: of the latents.
            visit: called with the problem and the latents of every tile, once they are solved for.
        """

    @abstractmethod
    def change_basis(self, coefficients: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same natural parameters where the objective is least, in new memory."""

    def scoring_step(self, coefficients: Tensor, factor: Tensor, gradient: Tensor) -> Tensor:
        """The step of Fisher scoring, but for its sign, from a gradient ``(d, l + 1)``.

        Args:
            coefficients: where the gradient is that of.
            factor: Cholesky factors of the information by feature, ``(d, l + 1, l + 1)``.
            gradient: of the coefficients.
        """
        del coefficients
        return torch.cholesky_solve(gradient.unsqueeze(-1), factor).squeeze(-1)
