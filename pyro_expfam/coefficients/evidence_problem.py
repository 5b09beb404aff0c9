"""Finding loading and intercept where the evidence of a table is greatest, tile by tile."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pyro_expfam.coefficients.information import complete_information
from pyro_expfam.coefficients.rotations import cheapest_rotation
from pyro_expfam.deq.problem import OF_FAMILY, LatentProblem
from pyro_expfam.deq.solver import Solver
from pyro_expfam.evidence import evidence_at_root
from pyro_expfam.evidence.adaptive import Nodes
from pyro_expfam.joint.joint_problem import JointProblem
from pyro_expfam.joint.objective import ColumnSums, Objective, OfRows, nothing
from pyro_expfam.joint.table import Sums

WEAK_PRECISION = 0.1
"""The precision of the loading in the joint fit from which a fit under a flat prior starts."""


@dataclass(frozen=True, eq=False)
class EvidenceProblem(Objective):
    r"""Finding the loading and intercept under which a table is most probable.

    The objective is the loss of :class:`~pyro_expfam.LaplaceEvidence` up to a constant. With the
    log evidence :math:`E_k` of a row to order :math:`k` it is

    .. math::
        -\sum_s E_k(y_s \mid W, b) + \tfrac12 \sum_j \tau_j^{-2} \|W_j\|^2
        + \tfrac{1}{2\rho^2} \|b\|^2.

    The information of each feature is taken as if the latents were normal around their root, as in
    expectation maximisation. Rotations of the latents do not change the evidence. If every latent
    has a loading scale of its own, the best basis is the one with the least penalty.

    Attributes:
        table: the observations, with their offsets and weights.
        latent_precision: :math:`\lambda`, ``()``.
        loading_precision: :math:`1 / \tau^2`, one for all latents or one per latent, ``(l,)``; 0
            for a flat prior.
        intercept_precision: :math:`1 / \rho^2`, or 0 for a flat prior.
        constant: a constant to add to the objective, such as the constants of the priors.
        order: 1 for the Laplace approximation, 2 for the next order.
        nodes: nodes of adaptive quadrature along each latent in place of an order, or None.
        free: booleans ``(l + 1,)``, False for coefficients that stay where they are; by default
            all move.
        parameters: the names of parameters of the family in which the objective is differentiated
            too, tensors with an entry per column that they belong to.
    """

    order: int = 1
    nodes: Nodes | None = None
    free: Tensor | None = None
    parameters: tuple[str, ...] = ()

    latent_share: ClassVar[float] = 0.0
    reads_base_measures: ClassVar[bool] = False

    def joint(self, latent_dim: int) -> JointProblem:
        """The joint objective of the same table, with one loading scale for all latents.

        A flat prior of the loading gives way to a weak one: without it the joint objective has no
        optimum.
        """
        del latent_dim
        precision = float(torch.as_tensor(self.loading_precision).mean()) or WEAK_PRECISION
        return JointProblem(
            self.table, self.latent_precision, precision, self.intercept_precision, self.constant
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
            information = complete_information(problem, at)
            return *self._evidence(problem, at), information, *also(problem, at)

        evidence, score, to_parameters, of_latents, *others = self.sum(coefficients, of_rows)
        precision = self.coefficient_precision(coefficients)
        objective = self.constant + self._penalty(coefficients) - float(evidence)
        gradient = precision * coefficients - score
        information = torch.diag(precision) + of_latents
        if self.free is not None:
            gradient = gradient * self.free
            information = information.where(self.free[:, None] & self.free, 0.0)
            information.diagonal(dim1=-2, dim2=-1)[:, ~self.free] = 1.0
        # No step leads on from a point where the gradient overflows.
        finite = bool(gradient.isfinite().all())
        objective = objective if finite else math.inf
        return ColumnSums(objective, gradient, information, tuple(others), -to_parameters)

    def value(self, coefficients: Tensor, z: Tensor) -> float:
        """The objective at coefficients ``(d, l + 1)`` and latents at the root, tile by tile."""
        evidence = self.row_evidence(coefficients, z).sum(dtype=torch.float64)
        return self.constant + self._penalty(coefficients) - float(evidence)

    def _penalty(self, coefficients: Tensor) -> float:
        """The terms of the objective from the Gaussian priors."""
        precision = self.coefficient_precision(coefficients).double()
        return 0.5 * float((precision * coefficients.double().square()).sum())

    @torch.no_grad()
    def row_evidence(self, coefficients: Tensor, z: Tensor) -> Tensor:
        """The log evidence of every row, ``(N,)``, given the latents at the root, ``(N, l)``."""
        rows = [
            evidence_at_root(problem, z[tile], self.order, self.nodes)
            for tile, problem in self.tiles(coefficients)
        ]
        return torch.cat(rows)

    def change_basis(self, coefficients: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients and latents, in new memory, in the rotation with the least penalty."""
        precision = self.coefficient_precision(coefficients)[:-1]
        is_held = self.free is not None and not bool(self.free[:-1].all())
        if is_held or bool((precision == precision[0]).all()):
            return coefficients, z.clone()
        rotation = cheapest_rotation(coefficients[:, :-1], precision)
        turned = torch.cat([coefficients[:, :-1] @ rotation, coefficients[:, -1:]], 1)
        return turned, z @ rotation

    def scoring_step(self, coefficients: Tensor, factor: Tensor, gradient: Tensor) -> Tensor:
        r"""Minus the step of Fisher scoring per feature, plus a step of the latents' prior.

        Steps per feature alone are slow in the scale of the loading: they take the posterior of the
        latents as given, and the scale of these latents follows the scale of the loading. A step
        would be as small as the posterior variance.

        The loading :math:`W (I + X)` with the intercept :math:`b + W c` is equivalent to the prior
        :math:`N(c, \lambda^{-1} (I + X)^2)` of the latents. The ``N`` latents have the information
        :math:`2 N` about symmetric :math:`X` and :math:`\lambda N` about :math:`c`. The priors of
        the coefficients add their own information, computed for a loading with orthogonal columns.

        Source: Liu, Rubin and Wu, *Parameter expansion to accelerate EM* (1998).
        """
        step = super().scoring_step(coefficients, factor, gradient)
        W, num_rows = coefficients[:, :-1], self.table.num_rows
        product, square = W.T @ gradient, W.square().sum(0)
        precision = self.coefficient_precision(coefficients)
        penalty = square[:, None] * precision[:-1]
        basis = (product[:, :-1] + product[:, :-1].T) / (4 * num_rows + penalty + penalty.T)
        mean = (
            product[:, -1:] / (self.latent_precision * num_rows + precision[-1] * square)[:, None]
        )
        of_prior = W @ torch.cat([basis, mean], 1)
        return step + (of_prior if self.free is None else of_prior * self.free)

    def _evidence(self, problem: LatentProblem, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The log evidence of some rows, and its gradients ``(d, l + 1)`` and ``(d, p)``."""
        names = ("W", "b", *(OF_FAMILY + name for name in self.parameters))
        leaves = {name: problem.fields[name].detach().requires_grad_() for name in names}
        with torch.enable_grad():
            rows = evidence_at_root(problem.with_fields(leaves), z, self.order, self.nodes)
            total = rows.sum(dtype=torch.float64)
            to_W, to_b, *others = torch.autograd.grad(total, tuple(leaves.values()))
        to_parameters = to_b.new_zeros(len(to_b), len(self.parameters))
        for place, (name, found) in enumerate(zip(self.parameters, others, strict=True)):
            at = problem.family.places_of_parameter(name, len(to_b))
            to_parameters[at, place] = found[0]
        return total.detach(), torch.cat([to_W, to_b[:, None]], 1), to_parameters
