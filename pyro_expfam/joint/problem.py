"""The joint estimation problem of a table, evaluated tile by tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solver import Solver
from pyro_expfam.joint.gauge import balancing, centring
from pyro_expfam.joint.objective import Columns, Objective, Visitor, pass_by


@dataclass(frozen=True, eq=False)
class JointProblem(Objective):
    r"""Finding the most probable loading, intercept and latents of a table at once.

    The objective is the one of Theorem 1 of the paper, plus the base measure of the observations
    and ``constant``:

    .. math::
        \sum_{s,i} \omega_{si} \, (\ell(\eta_{si}; y_{si}) - \log h(y_{si}))
        + \tfrac{\lambda}{2} \|Z\|^2 + \tfrac{1}{2\tau^2} \|W\|^2 + \tfrac{1}{2\rho^2} \|b\|^2,
        \qquad \eta_s = W z_s + b + \text{offset}_s.

    Attributes:
        table: the observations, with their offsets and weights.
        latent_precision: :math:`\lambda`, ``()``.
        loading_precision: :math:`1 / \tau^2`, or 0 for a flat prior.
        intercept_precision: :math:`1 / \rho^2`, or 0 for a flat prior.
        constant: a constant to add to the objective, such as the constants of the priors.
    """

    latent_share: ClassVar[float] = 0.03

    def columns(
        self, coefficients: Tensor, z: Tensor, solver: Solver, visit: Visitor = pass_by
    ) -> Columns:
        """Solves for the latents ``z`` ``(N, l)``, in place, and evaluates the objective there."""
        num_features, size = coefficients.shape
        row, column = torch.tril_indices(size, size, device=z.device)
        loss = 0.0
        # Features come last: products of a small with a large dimension are four times as fast in
        # this order.
        score = coefficients.new_zeros(size, num_features)
        packed = coefficients.new_zeros(len(row), num_features)
        scratch = _Scratch()
        for tile, problem in self.tiles(coefficients):
            z[tile] = solver.solve(problem, z[tile]).value
            visit(problem, z[tile])
            entries = scratch.evaluate(problem, z[tile])
            loss += entries.loss
            design = torch.nn.functional.pad(z[tile], (0, 1), value=1.0)
            score.addmm_(design.mT, entries.residual)
            packed.addmm_((design[:, row] * design[:, column]).mT, entries.variance)
        precision = self.coefficient_precision(coefficients)
        information = coefficients.new_empty(num_features, size, size)
        information[:, row, column] = packed.mT
        information[:, column, row] = packed.mT
        information.diagonal(dim1=-2, dim2=-1).add_(precision)
        objective = self.constant - self.table.log_base_measure + loss
        objective += self.penalty(coefficients, z)
        return Columns(objective, precision * coefficients - score.mT, information)

    def value(self, coefficients: Tensor, z: Tensor) -> float:
        """The objective at coefficients ``(d, l + 1)`` and latents ``(N, l)``, tile by tile."""
        objective = self.constant - self.table.log_base_measure + self.penalty(coefficients, z)
        for tile, problem in self.tiles(coefficients):
            loss = problem.family.loss(problem.natural_param(z[tile]), problem.statistic)
            objective += float(problem.weighted(loss).sum(dtype=torch.float64))
        return objective

    def change_basis(self, coefficients: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same natural parameters in the basis of the least penalty, in new memory."""
        W, b = coefficients[:, :-1], coefficients[:, -1]
        shift = centring(z, W, b, self.latent_precision, self.intercept_precision)
        b, z = b + W @ shift, z - shift
        gram_z = self.latent_precision * (z.T @ z)
        basis = balancing(gram_z, self.loading_precision * (W.T @ W))
        if basis is not None:
            W = (W.double() @ torch.linalg.inv(basis).T).to(W.dtype)
            z = (z.double() @ basis).to(z.dtype)
        return torch.cat([W, b[:, None]], 1), z.clone()

    def penalty(self, coefficients: Tensor, z: Tensor) -> float:
        """The terms of the objective from the Gaussian priors."""
        of_latents = float(self.latent_precision) * float(z.double().square().sum())
        precision = self.coefficient_precision(coefficients).double()
        return 0.5 * (of_latents + float((precision * coefficients.double().square()).sum()))


class _Entries(NamedTuple):
    """Weighted terms of objective, gradient and information from the entries of some rows.

    Attributes:
        loss: the sum of the losses, a number of double precision.
        residual: weighted residuals, ``(n, d)``.
        variance: weighted variances, ``(n, d)``.
    """

    loss: float
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
        statistic, weights = problem.statistic, problem.weights
        eta, product, spare = self._matrices(statistic)
        torch.addmm(problem.b, z, problem.W.T, out=eta)
        if problem.offset is not None:
            eta.add_(problem.offset)
        torch.mul(statistic, eta, out=product)
        log_partition, mean, variance = problem.family.first_cumulants_in_place(eta, spare)
        loss = torch.sub(log_partition, product, out=product)
        if weights is not None:
            loss.mul_(weights)
        # Rows are summed first: a double-precision sum over all entries would copy them.
        total = float(loss.sum(-1).sum(dtype=torch.float64))
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
