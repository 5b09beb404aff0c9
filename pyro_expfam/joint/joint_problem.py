"""The joint estimation problem of a table, evaluated tile by tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solver import Solver
from pyro_expfam.joint.gauge import balancing, centring
from pyro_expfam.joint.objective import ColumnSums, Objective, OfRows, nothing
from pyro_expfam.joint.table import Sums, TableRows

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

    def columns(
        self, coefficients: Tensor, z: Tensor, solver: Solver, also: OfRows = nothing
    ) -> ColumnSums:
        """Solves for the latents ``z`` ``(N, l)``, in place, and evaluates the objective there."""
        num_features, size = coefficients.shape
        row, column = torch.tril_indices(size, size, device=z.device)
        scratch = _Scratch()

        def of_rows(place: slice, problem: LatentProblem) -> Sums:
            z[place] = at = solver.solve(problem, z[place]).value
            entries = scratch.evaluate(problem, at)
            design = problem.design(at)
            # Features come last: products of a small with a large dimension are four times as fast
            # in this order.
            score = design.mT @ entries.residual
            if problem.stored is not None:
                score += problem.stored.transposed_times(design, num_features).mT
            packed = (design[:, row] * design[:, column]).mT @ entries.variance
            squares = at.double().square().sum()
            return entries.loss, score, packed, squares, *also(problem, at)

        loss, score, packed, squares, *others = self.sum(coefficients, of_rows)
        precision = self.coefficient_precision(coefficients)
        information = coefficients.new_empty(num_features, size, size)
        information[:, row, column] = packed.mT
        information[:, column, row] = packed.mT
        information.diagonal(dim1=-2, dim2=-1).add_(precision)
        objective = self.constant - self.table.log_base_measure + float(loss)
        objective += self.penalty(coefficients, squares)
        gradient = precision * coefficients - score.mT
        return ColumnSums(objective, gradient, information, tuple(others))

    def value(self, coefficients: Tensor, z: Tensor) -> float:
        """The objective at coefficients ``(d, l + 1 + p)`` and latents ``(N, l)``, tile by tile."""

        def of_rows(place: slice, problem: LatentProblem) -> Sums:
            losses = problem.losses(problem.predictor(z[place]))
            return losses.sum(dtype=torch.float64), z[place].double().square().sum()

        loss, squares = self.sum(coefficients, of_rows)
        constant = self.constant - self.table.log_base_measure
        return constant + self.penalty(coefficients, squares) + float(loss)

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
        gram_W = W.T @ (self.loading_precision * W)
        basis = balancing(self.latent_precision * gram_z, gram_W)
        if basis is not None:
            W = (W.double() @ torch.linalg.inv(basis).T).to(W.dtype)
            # Some rows at a time: latents in double precision would take twice their memory.
            for rows in z.split(ROWS_AT_ONCE):
                rows.copy_(rows.double() @ basis)
        return torch.cat([W, known], 1), z

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


class _Entries(NamedTuple):
    """Weighted terms of objective, gradient and information from the entries of some rows.

    Attributes:
        loss: the sum of the losses, ``()``, in double precision.
        residual: weighted residuals, ``(n, d)``; of a sparse table, without the statistics.
        variance: weighted variances, ``(n, d)``.
    """

    loss: Tensor
    residual: Tensor
    variance: Tensor


class _Scratch:
    """Memory of the size of a tile, which every evaluation overwrites.

    Allocating it anew for every tile costs more than the computation.
    """

    def __init__(self) -> None:
        self._memory: Tensor | None = None

    def evaluate(self, problem: LatentProblem, z: Tensor) -> _Entries:
        """The entries of a tile at latents ``(n, l)``."""
        entries, weights, stored = problem.entries, problem.weights, problem.stored
        statistic = entries.statistic if stored is None else None
        eta, product, spare = self._matrices(problem.y)
        problem.map.plus(problem.b, z, eta)
        if problem.offset is not None:
            eta.add_(problem.offset)
        if statistic is not None:
            torch.mul(statistic, eta, out=product)
        of_stored = None if stored is None else stored.statistic * stored.at(eta)
        loss, mean, variance = entries.first_cumulants_in_place(eta, spare)
        if statistic is not None:
            loss = torch.sub(loss, product, out=product)
        if weights is not None:
            loss = loss * weights if statistic is None else loss.mul_(weights)
        # Rows are summed first: a double-precision sum over all entries would copy them.
        total = loss.sum(-1).sum(dtype=torch.float64)
        if of_stored is not None:
            total -= of_stored.sum(dtype=torch.float64)
        if statistic is None:
            residual = torch.neg(mean, out=product)
        else:
            residual = torch.sub(statistic, mean, out=product)
        if weights is not None:
            residual.mul_(weights)
            variance = variance * weights
        return _Entries(total, residual, variance)

    def _matrices(self, like: Tensor) -> Tensor:
        """Three matrices of the shape of a tile."""
        if self._memory is None or self._memory.shape[1] < like.numel():
            self._memory = like.new_empty(3, like.numel())
        return self._memory[:, : like.numel()].view(3, *like.shape)
