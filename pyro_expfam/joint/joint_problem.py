"""The joint estimation problem of a table, evaluated tile by tile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.backend import fuses_joint_sums
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_sums import Wanted
from pyro_expfam.deq.solver import Solver
from pyro_expfam.families import Gaussian, Linked
from pyro_expfam.joint.blocks import Blocks, Both, Information
from pyro_expfam.joint.gauge import balancing, centring, common_part
from pyro_expfam.joint.objective import ColumnSums, Objective, OfRows, nothing
from pyro_expfam.joint.sums_of_tiles import SumsOfTiles
from pyro_expfam.joint.symmetric import symmetric
from pyro_expfam.joint.table import Sums, TableRows
from pyro_expfam.runtime.torch_threads import num_threads, threads_for_kernels

MOST_BY_PYTORCH = 1 << 20
"""The most entries of a table whose objective at the end of a fit is found by PyTorch. In double
precision it is wanted once, and compilation of the kernel for it takes four seconds."""

TILES_OF_KERNELS = 8
"""Tiles that kernels take at once. They write nothing of the size of a tile, and the more rows they
have, the less their threads wait for one another."""

ROWS_AT_ONCE = 1 << 16
"""Rows whose latents are in double precision at once."""


@dataclass(frozen=True, eq=False)
class JointProblem(Objective):
    r"""Finding the most probable loading, intercept and latents of a table at once.

    The objective is the one of Theorem 1 of the paper, plus the base measure of the observations
    and ``constant``:

    .. math::
        \sum_{s,i} \omega_{si} \, (\ell(\eta_{si}; y_{si}) - \log h(y_{si}))
        + \tfrac{\lambda}{2} \|Z\|^2 + \tfrac{1}{2\tau^2} \|W\|^2 + \tfrac{1}{2\rho^2} \|b\|^2
        + \tfrac12 \sum_k \kappa_k^{-2} \|C_k\|^2,
        \qquad \eta_s = W z_s + b + C x_s + \text{offset}_s.

    Attributes:
        table: the observations, with their offsets and weights.
        latent_precision: :math:`\lambda`, ``()``.
        loading_precision: :math:`1 / \tau^2`, one number or one per linear predictor, ``(d, 1)``;
            0 for a flat prior.
        intercept_precision: :math:`1 / \rho^2`, one number or one per linear predictor, ``(d,)``;
            0 for a flat prior.
        constant: a constant to add to the objective, such as the constants of the priors.
        covariate_precision: :math:`\kappa_k^{-2}` of the coefficients of covariates, or 0 for a
            flat prior.
    """

    latent_share: ClassVar[float] = 0.03

    def joint(self, latent_dim: int) -> JointProblem:
        """This objective."""
        del latent_dim
        return self

    def columns(
        self, coefficients: Tensor, z: Tensor, solver: Solver, also: OfRows = nothing
    ) -> ColumnSums:
        """Solves for the latents ``z`` ``(N, l)``, in place, and evaluates the objective there."""
        sums = self._sums_of_tiles(coefficients, z)

        def of_rows(place: slice, problem: LatentProblem) -> Sums:
            z[place] = at = solver.solve(problem, z[place]).value
            found = sums(problem, at, Wanted(None, None, of_columns=True))
            return *found, at.double().square().sum(), *also(problem, at)

        loss, score, packed, squares, *others = self._sum(coefficients, z, of_rows)
        precision = self.coefficient_precision(coefficients)
        information = symmetric(packed.mT, precision)
        objective = self.constant - self.table.log_base_measure + float(loss)
        objective += self.penalty(coefficients, squares)
        found = self.of_moving(precision * coefficients - score.mT, information)
        return ColumnSums(objective, *found, tuple(others))

    def solve_latents(self, coefficients: Tensor, z: Tensor, solver: Solver) -> None:
        """Solves for the latents from ``z`` ``(N, l)``, in place."""

        def of_rows(place: slice, rows: TableRows) -> Sums:
            problem = rows.problem(coefficients, self.latent_precision)
            z[place] = solver.solve(problem, z[place]).value
            return ()

        at_once = self.tiles_at_once(coefficients, z.shape[1])
        with _kernels_first(at_once):
            self.table.own_sum(of_rows, at_once)

    def derivatives(
        self, coefficients: Tensor, z: Tensor, wanted: Blocks, memory: Tensor | None = None
    ) -> JointDerivatives:
        """The objective with its gradient in coefficients and latents, none of them eliminated.

        Args:
            coefficients: loading, intercept and coefficients of covariates, ``(d, l + 1 + p)``.
            z: latents, ``(N, l)``.
            wanted: the blocks whose information is wanted.
            memory: where the information of the rows goes, ``(N, l, l)``; by default it is new.
        """
        to_rows, own = torch.empty_like(z), None
        if wanted.of_rows:
            own = z.new_empty(*z.shape, z.shape[1]) if memory is None else memory
        sums = self._sums_of_tiles(coefficients, z)

        def of_rows(place: slice, problem: LatentProblem) -> Sums:
            of_place = None if own is None else own[place]
            found = sums(problem, z[place], Wanted(to_rows[place], of_place, wanted.of_columns))
            return *found, z[place].double().square().sum()

        loss, score, packed, squares = self._sum(coefficients, z, of_rows)
        precision = self.coefficient_precision(coefficients)
        objective = self.constant - self.table.log_base_measure + float(loss)
        objective += self.penalty(coefficients, squares)
        to_rows = torch.addcmul(-to_rows, z, self.latent_precision)
        gradient = precision * coefficients - score.mT
        if wanted.of_columns:
            gradient, of_columns = self.of_moving(gradient, symmetric(packed.mT, precision))
        else:
            gradient, of_columns = self.moving(gradient), None
        information = Information(of_columns, own)
        return JointDerivatives(objective, Both(gradient, to_rows), information)

    def sum_by_kernels(
        self,
        of: Callable[[slice, TableRows], Sums],
        coefficients: Tensor,
        latent_dim: int,
        same: Tensor | None = None,
    ) -> Sums:
        """As :meth:`Table.sum`, with the processors left to the kernels if they do the work.

        Args:
            of: as there.
            coefficients: the coefficients at which kernels compute, ``(d, l + 1 + p)``.
            latent_dim: the number of latents ``l``.
            same: as there.
        """
        at_once = self.tiles_at_once(coefficients, latent_dim)
        with _kernels_first(at_once):
            return self.table.sum(of, same, at_once)

    def tiles_at_once(self, coefficients: Tensor, latent_dim: int) -> int:
        """How many tiles kernels take at once, whose threads share them by rows; 1 without any."""
        table = self.table
        is_fused = fuses_joint_sums(table.family, coefficients, table.num_own_rows, latent_dim)
        return TILES_OF_KERNELS if is_fused and num_threads() > 1 else 1

    def _sum(
        self, coefficients: Tensor, z: Tensor, of: Callable[[slice, LatentProblem], Sums]
    ) -> Sums:
        """As :meth:`Objective.sum`, where kernels do the work at latents ``z`` ``(N, l)``."""

        def of_rows(place: slice, rows: TableRows) -> Sums:
            return of(place, rows.problem(coefficients, self.latent_precision))

        return self.sum_by_kernels(of_rows, coefficients, z.shape[1], coefficients)

    def _sums_of_tiles(self, coefficients: Tensor, z: Tensor) -> SumsOfTiles:
        """Computes the sums of tiles at coefficients; the latents are ``z`` ``(N, l)``."""
        return SumsOfTiles.by_kernel(coefficients, z.shape[1], self.latent_precision, len(z))

    def known(self) -> Tensor:
        """A column of ones, and the covariates, of the rows of this process, ``(N, 1 + p)``."""
        table = self.table
        if not table.num_covariates:
            return table.like.new_ones(table.num_own_rows, 1)
        none = table.like.new_zeros(0, 1 + table.num_covariates)
        return torch.cat([none, *(rows.known() for _, rows in table.tiles())])

    def value(self, coefficients: Tensor, z: Tensor) -> float:
        """The objective at coefficients ``(d, l + 1 + p)`` and latents ``(N, l)``, tile by tile."""
        loss, squares = (
            self._of_residuals(coefficients, z) if self.cancels else self._of_sums(coefficients, z)
        )
        constant = self.constant - (0.0 if self.cancels else self.table.log_base_measure)
        return constant + self.penalty(coefficients, squares) + float(loss)

    def _of_sums(self, coefficients: Tensor, z: Tensor) -> Sums:
        """The sum of the losses without base measures, and of the squares of the latents."""
        by_kernel = self.table.num_rows * self.table.num_predictors > MOST_BY_PYTORCH
        sums = (
            self._sums_of_tiles(coefficients, z)
            if by_kernel
            else SumsOfTiles(coefficients, z.shape[1], self.latent_precision, len(z), kernel=None)
        )

        def of_rows(place: slice, problem: LatentProblem) -> Sums:
            found = sums(problem, z[place], Wanted(None, None, False))
            return found.loss, z[place].double().square().sum()

        if by_kernel:
            return self._sum(coefficients, z, of_rows)
        return self.sum(coefficients, of_rows)

    def _of_residuals(self, coefficients: Tensor, z: Tensor) -> Sums:
        """The same with base measures, entry by entry."""

        def of_rows(place: slice, problem: LatentProblem) -> Sums:
            losses = -problem.log_likelihoods(problem.predictor(z[place]))
            return losses.sum(dtype=torch.float64), z[place].double().square().sum()

        return self.sum(coefficients, of_rows)

    @property
    def cancels(self) -> bool:
        """Whether losses and base measures are about the squares of real numbers."""
        kinds = self.table.family.kinds(self.table.num_features)
        laws = (kind.family for kind in kinds)
        return any(isinstance(x.base if isinstance(x, Linked) else x, Gaussian) for x in laws)

    def change_basis(self, coefficients: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same natural parameters in the basis of the least penalty, in new memory."""
        latent_dim = z.shape[1]
        W, known = coefficients[:, :latent_dim], coefficients[:, latent_dim:]
        shift = centring(
            self._products_with_known(z),
            W,
            known,
            self.latent_precision,
            self.table.gram,
            self.known_precision(coefficients),
        )
        known, z = known + W @ shift, self._shifted(z, shift)
        (gram_z,) = self.table.processes.sum((z.T @ z,))
        if self.row_effect is not None:
            W, z, gram_z = self._effect_moved(W, z, gram_z)
        size = self.num_rotated(latent_dim)
        gram_W = W[:, :size].T @ (self.loading_precision * W[:, :size])
        basis = balancing(self.latent_precision * gram_z[:size, :size], gram_W)
        if basis is not None:
            turned = (W[:, :size].double() @ torch.linalg.inv(basis).T).to(W.dtype)
            W = torch.cat([turned, W[:, size:]], 1)
            # Some rows at a time: latents in double precision would take twice their memory.
            for rows in z[:, :size].split(ROWS_AT_ONCE):
                rows.copy_(rows.double() @ basis)
        return torch.cat([W, known], 1), z

    def _effect_moved(self, W: Tensor, z: Tensor, gram_z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best division between a row effect and a part of the loading common to all columns.

        Args:
            W: the loading, ``(d, l)``, with the effect last.
            z: the latents ``(N, l)``, which are overwritten.
            gram_z: their products over the rows of all processes, ``(l, l)``.

        Returns:
            Loading and latents of the same natural parameters, and the products of the latents.
        """
        to_effect = common_part(W, gram_z, self.loading_precision, self.latent_precision)
        change = torch.eye(len(gram_z), dtype=torch.float64, device=z.device)
        change[:-1, -1] = to_effect
        moved = W.clone()
        moved[:, :-1] -= W[:, -1:] * to_effect.to(W)
        z[:, -1] += z[:, :-1] @ to_effect.to(z)
        return moved, z, (change.mT @ gram_z.double() @ change).to(gram_z)

    def _products_with_known(self, z: Tensor) -> Tensor:
        """The sums over rows of latents times ones and covariates, ``(l, 1 + p)``, in float64."""
        if not self.table.num_covariates:
            (total,) = self.table.processes.sum((z.sum(0, dtype=torch.float64),))
            return total[:, None]

        def of_rows(place: slice, rows: TableRows) -> Sums:
            return (z[place].double().mT @ rows.known().double(),)

        (products,) = self.table.sum(of_rows)
        return products

    def _shifted(self, z: Tensor, shift: Tensor) -> Tensor:
        """Latents ``(N, l)`` less a shift ``(l, 1 + p)`` times ones and covariates."""
        if not self.table.num_covariates:
            return z - shift[:, 0]
        moved = z.clone()
        for place, rows in self.table.tiles():
            moved[place] -= rows.known() @ shift.mT
        return moved

    def penalty(self, coefficients: Tensor, squares: Tensor) -> float:
        """The terms of the objective from the Gaussian priors.

        Args:
            coefficients: loading, intercept and coefficients of covariates, ``(d, l + 1 + p)``.
            squares: the sum of the squares of all latents, ``()``.
        """
        of_latents = float(self.latent_precision) * float(squares)
        precision = self.coefficient_precision(coefficients).double()
        return 0.5 * (of_latents + float((precision * coefficients.double().square()).sum()))


def _kernels_first(tiles_at_once: int) -> AbstractContextManager[None]:
    return threads_for_kernels() if tiles_at_once > 1 else nullcontext()


class JointDerivatives(NamedTuple):
    """A joint objective at some coefficients and latents.

    Attributes:
        objective: the value, a number of double precision.
        gradient: the gradient in coefficients and latents.
        information: the information of the blocks that were wanted.
    """

    objective: float
    gradient: Both
    information: Information
