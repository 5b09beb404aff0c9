"""Finding loading and intercept where the evidence of a table is greatest, tile by tile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from pyro_expfam.coefficients.information import complete_information, second_moment
from pyro_expfam.coefficients.rotations import cheapest_rotation
from pyro_expfam.deq.problem import OF_FAMILY, LatentProblem
from pyro_expfam.deq.solver import Solver
from pyro_expfam.evidence import evidence_at_root, is_beyond_expansion, second_order_term
from pyro_expfam.evidence.adaptive import Nodes
from pyro_expfam.evidence.expansion import widest_variance
from pyro_expfam.evidence.fused import evidence_sums, log_base_measure
from pyro_expfam.joint.gauge import solve_scaled
from pyro_expfam.joint.joint_problem import JointProblem
from pyro_expfam.joint.objective import ColumnSums, Objective, OfRows, nothing
from pyro_expfam.joint.table import Sums

WIDEST = 10.0
"""The largest posterior variance of latents, in units of the prior variance, at which a normal
around the root is credible. Beyond it the information of a row is near zero, and its Laplace
evidence grows without bound. Fits of zero-inflated counts that come to rest have 5 at most."""

ROWS_OF_MOMENT = 4_096
"""The scale of the latents is found from about so many rows, to one or two percent."""

WEAK_PRECISION = 0.1
"""The precision of the loading in the joint fit from which a fit under a flat prior starts."""


@dataclass(frozen=True, eq=False)
class EvidenceProblem(Objective):
    r"""Finding the loading and intercept under which a table is most probable.

    The objective is the loss of :class:`~pyro_expfam.LaplaceEvidence` up to a constant. With the
    log evidence :math:`E_k` of a row to order :math:`k` it is

    .. math::
        -\sum_s E_k(y_s \mid W, b) + \tfrac12 \sum_j \tau_j^{-2} \|W_j\|^2
        + \tfrac{1}{2\rho^2} \|b\|^2 + \tfrac12 \sum_k \kappa_k^{-2} \|C_k\|^2.

    The information of each feature is taken as if the latents were normal around their root, as in
    expectation maximisation. Rotations of the latents do not change the evidence. If every latent
    has a loading scale of its own, the best basis is the one with the least penalty.

    Attributes:
        table: the observations, with their offsets and weights.
        latent_precision: :math:`\lambda`, ``()``.
        loading_precision: :math:`1 / \tau^2`, one for all latents, one per latent, ``(l,)``, or
            per linear predictor, ``(d, l)``; 0 for a flat prior.
        intercept_precision: :math:`1 / \rho^2`, or one per linear predictor, ``(d,)``; 0 for a
            flat prior.
        constant: a constant to add to the objective, such as the constants of the priors.
        covariate_precision: :math:`\kappa_k^{-2}` of the coefficients of covariates, or 0 for a
            flat prior.
        order: 1 for the Laplace approximation, 2 for the next order.
        nodes: nodes of adaptive quadrature along each latent in place of an order, or None.
        parameters: the names of parameters of the family in which the objective is differentiated
            too, tensors with an entry per column that they belong to.
    """

    order: int = 1
    nodes: Nodes | None = None
    parameters: tuple[str, ...] = ()

    latent_share: ClassVar[float] = 0.0
    reads_base_measures: ClassVar[bool] = False

    def joint(self, latent_dim: int) -> JointProblem | None:
        """The joint objective of the same table, with one loading scale for all latents.

        A flat prior of the loading gives way to a weak one: without it the joint objective has no
        optimum. By quadrature there is none: the tables that it is for have few columns, whose
        joint optimum is far from the maximum of the evidence.
        """
        del latent_dim
        if self.nodes is not None:
            return None
        precision = torch.as_tensor(self.loading_precision).to(self.table.like)
        if precision.dim():
            precision = precision.mean(-1, keepdim=True)
        precision = torch.where(precision > 0, precision, WEAK_PRECISION)
        return JointProblem(
            self.table,
            self.latent_precision,
            precision,
            self.intercept_precision,
            self.constant,
            covariate_precision=self.covariate_precision,
            row_effect=None
            if self.row_effect is None
            else replace(self.row_effect, is_learnt=False),
        )

    def learning(self, names: tuple[str, ...]) -> EvidenceProblem:
        """The same objective, which also differentiates in parameters of the family."""
        return replace(self, parameters=names)

    def columns(
        self, coefficients: Tensor, z: Tensor, solver: Solver, also: OfRows = nothing
    ) -> ColumnSums:
        """Solves for the latents ``z`` ``(N, l)``, in place, and evaluates the objective there."""

        def of_rows(place: slice, problem: LatentProblem) -> Sums:
            z[place] = at = solver.solve(problem, z[place]).value
            found = self._by_kernels(place, problem, at)
            if found is None:
                found = *self._evidence(problem, at), complete_information(problem, at)
            return *found, *also(problem, at)

        evidence, score, to_parameters, of_latents, *others = self.sum(coefficients, of_rows)
        precision = self.coefficient_precision(coefficients)
        objective = self.constant + self._penalty(coefficients) - float(evidence)
        gradient = precision * coefficients - score
        information = torch.diag_embed(precision) + of_latents
        gradient, information = self.of_moving(gradient, information)
        # No step leads on from a point where the gradient overflows.
        finite = bool(gradient.isfinite().all())
        objective = objective if finite else math.inf
        return ColumnSums(objective, gradient, information, tuple(others), -to_parameters)

    @torch.no_grad()
    def latents_of_value(self, coefficients: Tensor, z: Tensor, solver: Solver) -> Tensor:
        """The root of the latents ``(N, l)`` found from given ones.

        The evidence is no function of other latents: half the log determinant changes with them
        to first order.
        """
        rows = [
            solver.solve(problem, z[place]).value for place, problem in self.tiles(coefficients)
        ]
        return torch.cat(rows) if rows else z

    def value(self, coefficients: Tensor, z: Tensor) -> float:
        """The objective at coefficients ``(d, l + 1 + p)`` and latents at the root, by tiles."""
        own = self.row_evidence(coefficients, z).sum(dtype=torch.float64)
        (evidence,) = self.table.processes.sum((own,))
        return self.constant + self._penalty(coefficients) - float(evidence)

    def _penalty(self, coefficients: Tensor) -> float:
        """The terms of the objective from the Gaussian priors."""
        precision = self.coefficient_precision(coefficients).double()
        return 0.5 * float((precision * coefficients.double().square()).sum())

    @torch.no_grad()
    def row_evidence(self, coefficients: Tensor, z: Tensor) -> Tensor:
        """The log evidence of the rows of this process, given latents at the root ``(N, l)``."""
        rows = [
            evidence_at_root(problem, z[tile], self.order, self.nodes)
            for tile, problem in self.tiles(coefficients)
        ]
        return torch.cat(rows) if rows else z.new_zeros(0)

    @torch.no_grad()
    def latent_moment(self, coefficients: Tensor, z: Tensor, solver: Solver) -> Tensor:
        """The mean of the second moment of the latents, whose posterior is normal by Laplace.

        For a large table it is the mean over rows at equal distances.
        """
        step = max(1, self.table.num_rows // ROWS_OF_MOMENT)

        def of_rows(place: slice, problem: LatentProblem) -> Sums:
            some = torch.arange(place.start, place.stop, step, device=z.device)
            part = problem.rows(some - place.start)
            z[some] = at = solver.solve(part, z[some]).value
            return second_moment(part, at), at.new_tensor(float(len(at)))

        total, count = self.sum(coefficients, of_rows)
        return self.latent_precision.to(total) * total / count

    @torch.no_grad()
    def added_by_second_order(self, coefficients: Tensor, z: Tensor) -> float:
        """What the second order adds to the log evidence of a row, on average over the table."""
        total = z.new_zeros((), dtype=torch.float64)
        for tile, problem in self.tiles(coefficients):
            total = total + second_order_term(problem, z[tile]).sum(dtype=torch.float64)
        (total,) = self.table.processes.sum((total,))
        return float(total) / self.table.num_rows

    @torch.no_grad()
    def widest_posterior(self, coefficients: Tensor, z: Tensor) -> Tensor:
        """The largest posterior variance of the latents of each own row, ``(N,)``.

        The unit is the prior variance. The variance is at most 1 under a convex loss, and NaN at a
        saddle, where there is no posterior.
        """
        rows = [widest_variance(problem, z[place]) for place, problem in self.tiles(coefficients)]
        return self.latent_precision * torch.cat(rows) if rows else z.new_zeros(0)

    def has_run_away(self, coefficients: Tensor, z: Tensor) -> bool:
        """Whether the approximation of the evidence holds no longer.

        Under a loss that is not convex the information of a row may come near zero: neither order
        has a bound there. The second order has no bound where loadings are large.
        """
        if self.nodes is not None:
            return False
        if not self.table.family.is_convex:
            own = self.widest_posterior(coefficients, z)
            if any(self.table.processes.gather(not bool((own <= WIDEST).all()))):
                return True
        if self.order == 1:
            return False
        return is_beyond_expansion(self.added_by_second_order(coefficients, z), z.shape[1])

    def change_basis(self, coefficients: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients and latents, in new memory, in the rotation with the least penalty."""
        size = self.num_rotated(z.shape[1])
        precision = self.coefficient_precision(coefficients)[..., :size]
        is_held = self.free is not None and not bool(self.free[:size].all())
        if is_held or bool((precision == precision[..., :1]).all()):
            return coefficients, z.clone()
        # Scales by latent are the same for all linear predictors.
        rotation = cheapest_rotation(coefficients[:, :size], torch.atleast_2d(precision)[0])
        turned = torch.cat([coefficients[:, :size] @ rotation, coefficients[:, size:]], 1)
        return turned, torch.cat([z[:, :size] @ rotation, z[:, size:]], 1)

    def scoring_step(self, coefficients: Tensor, factor: Tensor, gradient: Tensor) -> Tensor:
        r"""Minus the step of Fisher scoring per feature, plus a step of the latents' prior.

        Steps per feature alone are slow in the scale of the loading: they take the posterior of the
        latents as given, and the scale of these latents follows the scale of the loading. A step
        would be as small as the posterior variance.

        The loading :math:`W (I + X)` with the coefficients :math:`B + W K` of the known numbers
        :math:`u_s = (1, x_s)` of a row is equivalent to the prior
        :math:`N(K u_s, \lambda^{-1} (I + X)^2)` of the latents. The ``N`` latents have the
        information :math:`2 N` about symmetric :math:`X`, and
        :math:`\lambda \sum_s u_s u_s^\top` about each row of :math:`K`. The priors of the
        coefficients add their own information, computed for a loading with orthogonal columns.

        Source: Liu, Rubin and Wu, *Parameter expansion to accelerate EM* (1998).
        """
        step = super().scoring_step(coefficients, factor, gradient)
        W, num_rows = self.split(coefficients).loading, self.table.num_rows
        latent_dim = W.shape[1]
        product = W.T @ gradient
        precision = self.coefficient_precision(coefficients).expand_as(coefficients)
        of_priors = W.square().T @ precision
        of_loading, of_known = product[:, :latent_dim], product[:, latent_dim:]
        penalty = of_priors[:, :latent_dim]
        basis = (of_loading + of_loading.T) / (4 * num_rows + penalty + penalty.T)
        information = self.latent_precision * self.table.gram.to(W)
        information = information + torch.diag_embed(of_priors[:, latent_dim:])
        of_prior = W @ torch.cat([basis, solve_scaled(information, of_known)], 1)
        return step + self.moving(of_prior)

    def _by_kernels(self, place: slice, problem: LatentProblem, z: Tensor) -> Sums | None:
        """What :meth:`_evidence` returns of some rows, and the information, by kernels."""
        if self.nodes is not None:
            return None
        names = [OF_FAMILY + name for name in self.parameters]
        found = evidence_sums(problem, z, self.order, frozenset(names))
        if found is None:
            return None
        evidence = found.evidence + self._base_measure(place, problem)
        to_coefficients, information = (x.to(problem.b.dtype) for x in found[1:3])
        to_parameters = self._by_predictor([found.parameters[name] for name in names], problem)
        return evidence, to_coefficients, to_parameters, information

    def _by_predictor(self, gradients: Sequence[Tensor], problem: LatentProblem) -> Tensor:
        """Gradients of the parameters by linear predictor, ``(d, k)``."""
        found = problem.b.new_zeros(len(problem.b), len(self.parameters))
        for place, (name, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            at = problem.family.places_of_parameter(name, len(problem.b))
            found[at, place] = gradient[0].to(found.dtype)
        return found

    def _base_measure(self, place: slice, problem: LatentProblem) -> Tensor:
        """The sum of the log base measures of some rows, which no coefficient changes."""
        if self.parameters:
            return log_base_measure(problem).sum()
        known = self._base_measures
        if (place.start, place.stop) not in known:
            known[place.start, place.stop] = log_base_measure(problem).sum()
        return known[place.start, place.stop]

    @cached_property
    def _base_measures(self) -> dict[tuple[int, int], Tensor]:
        """Sums of log base measures by rows as they are read."""
        return {}

    def _evidence(self, problem: LatentProblem, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The log evidence of some rows, and its gradients ``(d, l + 1 + p)`` and ``(d, k)``."""
        known = () if problem.covariates is None else ("offset",)
        names = ("W", "b", *known, *(OF_FAMILY + name for name in self.parameters))
        leaves = {name: problem.fields[name].detach().requires_grad_() for name in names}
        with torch.enable_grad():
            rows = evidence_at_root(problem.with_fields(leaves), z, self.order, self.nodes)
            total = rows.sum(dtype=torch.float64)
            to_W, to_b, *others = torch.autograd.grad(total, tuple(leaves.values()))
        gradient = torch.cat([to_W, to_b[:, None]], 1)
        if problem.covariates is not None:
            to_offset, *others = others
            gradient = torch.cat([gradient, to_offset.mT @ problem.covariates.x], 1)
        return total.detach(), gradient, self._by_predictor(others, problem)
