"""Which compiled kernels compute with a problem, if any: the only place that decides it."""

from __future__ import annotations

from collections.abc import Set
from typing import Protocol

from torch import Tensor

from pyro_expfam.deq import cpu, cuda
from pyro_expfam.deq.activation import Activation, activation_of, evidence_activation_of
from pyro_expfam.deq.problem import OF_FAMILY, LatentProblem
from pyro_expfam.deq.reduction import ReducedKernels, canonical_problem
from pyro_expfam.deq.root_gradients import SUMMED, Gradients
from pyro_expfam.deq.row_sums import JointSums
from pyro_expfam.deq.solution import Solution
from pyro_expfam.deq.step_rules import StepRules
from pyro_expfam.families import Family
from pyro_expfam.families.kinds import Kind


class Kernels(Protocol):
    """Kernels for problems without batch dimensions."""

    def solve(self, problem: LatentProblem, start: Tensor, rules: StepRules) -> Solution:
        """Latents of all rows, from latents ``start`` ``(N, l)``, by Fisher scoring."""

    def gradients(
        self, problem: LatentProblem, z: Tensor, grad: Tensor, needed: Set[str]
    ) -> Gradients | None:
        """Gradients of fields through the root, not yet summed over dimensions that broadcast.

        None where kernels do not have all that are needed.
        """


def kernels_of(problem: LatentProblem) -> Kernels | None:
    """The kernels that are the fastest way to compute with a problem, or None."""
    if problem.precision_factor is not None:
        return None
    kernels = _of_canonical(problem)
    if kernels is not None:
        return kernels
    reduced = canonical_problem(problem)
    kernels = None if reduced is None else _of_canonical(reduced[0])
    if reduced is not None and kernels is not None:
        return ReducedKernels(kernels, *reduced)
    if cpu.has_search(problem):
        # Only here: Numba takes a second to import.
        from pyro_expfam.deq.cpu import searched_rows

        return searched_rows
    return None


def _of_canonical(problem: LatentProblem) -> Kernels | None:
    # Kernels are imported here alone: Numba and Triton take a second each.
    if cuda.has_kernels(problem):
        from pyro_expfam.deq.cuda import kernels as of_device

        return of_device
    if cpu.has_kernels(problem):
        from pyro_expfam.deq.cpu import kernels as of_processor

        return of_processor
    return None


class Likelihoods(Protocol):
    """Kernels for the log likelihoods of rows."""

    def solve_small(
        self, problem: LatentProblem, rules: StepRules, start: Tensor
    ) -> tuple[Solution, tuple[Tensor, Tensor, Tensor, Tensor]] | None:
        """The root of a small table from latents ``(N, l)``, with :meth:`values` there; or None.

        None for any other table, and where a row has not converged.
        """

    def values(self, problem: LatentProblem, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log likelihoods at latents ``(N, l)``, ``(N,)``.

        The others are the log densities of the latents under their prior, about zero, ``(N,)``, and
        the gradients of the sum of the log likelihoods in loading and intercept at held latents.
        """

    def cancel(self, z: Tensor, of_root: Tensor, of_likelihood: Tensor, precision: float) -> bool:
        """Whether gradients of the root are minus what reaches it through the log likelihoods.

        All log likelihoods must have the same gradient, too.
        """


def likelihoods_of(problem: LatentProblem) -> Likelihoods | None:
    """The kernels for the log likelihoods of a problem's rows, or None."""
    if problem.term is not None or problem.precision_factor is not None:
        return None
    if not cpu.has_kernels(problem):
        return None
    # Only here: Numba takes a second to import.
    from pyro_expfam.deq.cpu import small_tables

    return small_tables if small_tables.has_likelihood(problem) else None


def joint_sums_of(
    coefficients: Tensor, num_rows: int, latent_dim: int, precision: Tensor
) -> JointSums | None:
    """The kernel for the sums of a joint fit of so many rows at some coefficients, or None.

    Args:
        coefficients: loading, intercept and coefficients of covariates, ``(d, l + 1 + p)``.
        num_rows: the rows of the table.
        latent_dim: the number of latents ``l``.
        precision: the precision of the latents.
    """
    if not cpu.has_joint_sums(coefficients, num_rows, latent_dim):
        return None
    # Only here: Numba takes a second to import.
    from pyro_expfam.deq.cpu.joint_sums import FusedSums

    return FusedSums(coefficients, latent_dim, float(precision))


def activation_with_terms(family: Family) -> Activation | None:
    """The activation of a family if :class:`JointSums` forms the terms of its entries, or None."""
    activation = activation_of(family)
    return activation if activation is not None and cpu.has_terms(activation) else None


class LawTerms(Protocol):
    """The function that forms the terms of entries by functions of their laws."""

    def law_terms(self, problem: LatentProblem, matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The sums of the losses by row ``(n,)``, and weighted residuals and informations.

        Args:
            problem: the rows.
            matrices: linear predictors, and two matrices to be overwritten, ``(3, n, d)``.
        """


def law_terms_of(problem: LatentProblem, num_rows: int) -> LawTerms | None:
    """Who forms the terms of the entries of a joint fit by functions of their laws, or None.

    Args:
        problem: some of the rows.
        num_rows: the rows of the table.
    """
    if not cpu.has_law_terms(problem, num_rows):
        return None
    # Only here: Numba takes a second to import.
    from pyro_expfam.deq.cpu import law_terms

    return law_terms


def fuses_joint_sums(family: Family, coefficients: Tensor, num_rows: int, latent_dim: int) -> bool:
    """Whether a kernel forms the terms of a family's entries itself, and sums them.

    Args:
        family: the law of the observations.
        coefficients: loading, intercept and coefficients of covariates, ``(d, l + 1 + p)``.
        num_rows: the rows of the table.
        latent_dim: the number of latents ``l``.
    """
    is_known = activation_with_terms(family) is not None
    return is_known and cpu.has_joint_sums(coefficients, num_rows, latent_dim)


class ResidualProducts(Protocol):
    """Kernels for the linear part of the scores of Gaussian rows."""

    def residual_products(self, problem: LatentProblem, units: Tensor, weights: Tensor) -> Tensor:
        """The weighted sums over the columns of residuals times loadings, ``(N, l)``.

        Observations are multiplied by ``units``, ``(1, d)``. The weights are ``(1, d)``.
        """


def residual_products_of(problem: LatentProblem) -> ResidualProducts | None:
    """The kernel for products of the residuals of a problem with its loading, or None."""
    if not cpu.has_residual_products(problem):
        return None
    # Only here: Numba takes a second to import.
    from pyro_expfam.deq.cpu import residual_products

    return residual_products


class Inverses(Protocol):
    """Kernels for the inverses of many small matrices."""

    def invert(self, matrices: Tensor, ridge: float) -> None:
        """Inverts symmetric positive definite matrices ``(n, k, k)``, contiguous, in place.

        In place of a matrix that has no Cholesky factor the inverse of its diagonal is written.
        The ridge is added to each diagonal entry, as a part of the mean of the diagonal.
        """

    def products(self, matrices: Tensor, vectors: Tensor) -> Tensor:
        """Products ``(n, k)`` of symmetric matrices ``(n, k, k)`` with vectors ``(n, k)``."""


def inverses_of(matrices: Tensor) -> Inverses | None:
    """The kernels that invert so many matrices, or None."""
    if not cpu.has_inverses(matrices):
        return None
    # Only here: Numba takes a second to import.
    from pyro_expfam.deq.cpu import inverses

    return inverses


def fuses_evidence(problem: LatentProblem) -> bool:
    """Whether there are kernels for the evidence of a problem's rows."""
    is_standard = problem.loc is None and problem.precision_factor is None and problem.term is None
    return is_standard and (cuda.has_evidence(problem) or cpu.has_evidence(problem))


def fields_of_fused_evidence(problem: LatentProblem) -> Set[str]:
    """The fields in which the kernels for the evidence have gradients."""
    fields = SUMMED | {"offset"}
    if not cpu.has_evidence(problem):
        return fields
    return fields.union(
        *(parameter_fields(problem, kind).values() for kind in problem.kinds if _is_learnt(kind))
    )


def _is_learnt(kind: Kind) -> bool:
    """Whether kernels have gradients in the parameters of a law."""
    activation = evidence_activation_of(kind.family)
    return activation is not None and activation.learnt is not None


def parameter_fields(problem: LatentProblem, kind: Kind) -> dict[str, str]:
    """The fields of a problem that the parameters of one of its laws are, by their own names."""
    prefix = OF_FAMILY if problem.family.num_columns is None else f"{OF_FAMILY}{kind.name}_"
    return {name: prefix + name for name in kind.family.parameters}
