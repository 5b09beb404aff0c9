"""Functions of rows by compiled kernels."""

from __future__ import annotations

from collections.abc import Set
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_expfam.deq import cpu
from pyro_expfam.deq.activation import PLACES, evidence_activation_of
from pyro_expfam.deq.backend import fields_of_fused_evidence, fuses_evidence, parameter_fields
from pyro_expfam.deq.packed import SMALLEST_PIVOT
from pyro_expfam.deq.positive_definite import cholesky, inverse_lower
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.root_gradients import SUMMED, Gradients
from pyro_expfam.deq.row_block import row_tiles
from pyro_expfam.evidence.expansion import Expansion
from pyro_expfam.evidence.row_function import Fused
from pyro_expfam.families.kinds import Kind, take


class EvidenceSums(NamedTuple):
    """What a fit of the evidence sums over rows, without the base measures of the observations.

    Attributes:
        evidence: the evidence of all rows.
        coefficients: its gradient in loading, intercept and coefficients of covariates,
            ``(d, l + 1 + p)``.
        information: the information of the coefficients as if latents were normal around their
            root, ``(d, l + 1 + p, l + 1 + p)``.
        parameters: its gradients in parameters of the family, by the names of the fields.
    """

    evidence: Tensor
    coefficients: Tensor
    information: Tensor
    parameters: Gradients


class Shares(NamedTuple):
    """The coefficients of the two parts of a function of rows.

    Attributes:
        joint: the coefficient of the log density of observations and latents, without the powers of
            two pi in the normaliser of the prior.
        half_log_det: the coefficient of half the log determinant of the information.
    """

    joint: float
    half_log_det: float


def by_kernels(shares: Shares) -> Fused:
    """A sum of the log joint density and half the log determinant, by kernels."""
    return Fused(partial(value_by_kernels, shares), partial(_gradients, shares))


def evidence_sums(
    problem: LatentProblem, z: Tensor, order: int = 1, parameters: Set[str] = frozenset()
) -> EvidenceSums | None:
    """The evidence at the root ``z`` ``(N, l)``, with all that a fit needs of it.

    None where there is no kernel for all of it on the processor, or where it lacks the digits.

    Args:
        problem: the problem of the latents.
        z: its root.
        order: 1 for the Laplace approximation, 2 for the next.
        parameters: the fields of parameters of the family in which gradients are wanted. They
            include the gradients of the base measures.
    """
    # Where no loss has a third derivative, the first order is exact.
    is_first = order == 1 or problem.family.self_concordance == 0
    has_kernel = cpu.has_evidence if is_first else cpu.has_second_order
    if not (has_kernel(problem) and fuses_evidence(problem)):
        return None
    if not parameters <= fields_of_fused_evidence(problem):
        return None
    # Only here: Numba takes a second to import.
    from pyro_expfam.deq.cpu.laplace_by_parts import laplace_sums
    from pyro_expfam.deq.cpu.laplace_sums import OtherGradients

    one = torch.ones(len(z), dtype=torch.float64)
    found = laplace_sums(problem, z, one, -one, OtherGradients(parameters=bool(parameters)))
    if not bool(found.rows.resolved.all()):
        return None
    evidence = _log_prior(problem, z) - found.rows.loss - 0.5 * found.rows.log_det
    of_family = _of_family(problem, parameters, found.parameters)
    sums = EvidenceSums(evidence.sum(), found.coefficients, found.information, of_family)
    return sums if is_first else _with_second_order(problem, z, sums, parameters)


def _with_second_order(
    problem: LatentProblem, z: Tensor, first: EvidenceSums, parameters: Set[str]
) -> EvidenceSums:
    # Only here: Numba takes a second to import.
    from pyro_expfam.deq.cpu.laplace_sums import OtherGradients
    from pyro_expfam.deq.cpu.second_order_by_parts import second_order_sums

    one = torch.ones(len(z), dtype=torch.float64)
    found = second_order_sums(problem, z, one, OtherGradients(parameters=bool(parameters)))
    of_family = _of_family(problem, parameters, found.parameters)
    return first._replace(
        evidence=first.evidence + found.rows.term.sum(),
        coefficients=first.coefficients + found.coefficients,
        parameters={name: x + of_family[name] for name, x in first.parameters.items()},
    )


def second_order_by_kernels() -> Fused:
    """What the second order adds to the evidence of rows, by kernels of the processor."""
    return Fused(_second_order_value, _second_order_gradients)


def _second_order_value(problem: LatentProblem, z: Tensor) -> Tensor | None:
    if not cpu.has_second_order(problem):
        return None
    # Only here: Numba takes a second to import.
    from pyro_expfam.deq.cpu.second_order_by_parts import second_order_rows

    found = second_order_rows(problem, z)
    term: Tensor = found.term
    return term if bool(found.resolved.all()) else None


def _second_order_gradients(
    problem: LatentProblem, z: Tensor, grad: Tensor, needed: Set[str]
) -> Gradients | None:
    if not (cpu.has_second_order(problem) and needed <= fields_of_fused_evidence(problem)):
        return None
    # Only here: Numba takes a second to import.
    from pyro_expfam.deq.cpu.laplace_sums import OtherGradients
    from pyro_expfam.deq.cpu.second_order_by_parts import second_order_sums

    own = needed - SUMMED - {"offset"}
    found = second_order_sums(
        problem, z, grad.double(), OtherGradients(bool(own), "offset" in needed)
    )
    if not bool(found.rows.resolved.all()):
        return None
    return {
        "W": found.coefficients[:, :-1],
        "b": found.coefficients[:, -1],
        "precision": found.rows.slope.sum() - (found.rows.u * z.double()).sum(),
        "offset": found.offset,
        **_of_family(problem, own, found.parameters),
    }


def _log_prior(problem: LatentProblem, z: Tensor) -> Tensor:
    """Log densities of latents, without the powers of two pi, ``(N,)``."""
    precision, square = problem.precision.double(), z.double().square().sum(-1)
    return 0.5 * (problem.latent_dim * precision.log() - precision * square)


def _rows(problem: LatentProblem, z: Tensor) -> Any:
    # Only here: Numba and Triton take a second each to import.
    if cpu.has_evidence(problem):
        from pyro_expfam.deq.cpu.laplace_by_parts import laplace_rows

        return laplace_rows(problem, z)
    from pyro_expfam.deq.cuda.evidence import row_evidence

    return row_evidence(problem, z, SMALLEST_PIVOT[z.dtype])


def value_by_kernels(shares: Shares, problem: LatentProblem, z: Tensor) -> Tensor:
    """A sum of the log joint density and half the log determinant of each row, ``(N,)``."""
    found = _rows(problem, z)
    log_det = found.log_det.double()
    failed = (~found.resolved).nonzero().squeeze(-1)
    if len(failed):
        again = Expansion(problem.rows(failed).double(), z[failed].double())
        log_det[failed] = again.log_det_information()
    value = 0.5 * shares.half_log_det * log_det
    if shares.joint:
        log_joint = log_base_measure(problem) - found.loss + _log_prior(problem, z)
        value += shares.joint * log_joint
    return value


def log_base_measure(problem: LatentProblem) -> Tensor:
    """Sums over the features of log base measures, ``(N,)``."""
    sums = []
    for tile in row_tiles(problem):
        rows = problem.rows(tile)
        # A large count has a base measure of many digits.
        y = rows.y.double()
        of_kinds = (_base_measures(rows, kind, take(y, kind.predictors)) for kind in rows.kinds)
        sums.append(sum(of_kinds, y.new_zeros(len(y))))
    return torch.cat(sums)


def _base_measures(problem: LatentProblem, kind: Kind, y: Tensor) -> Tensor:
    """Sums over the features of one law, of observations in float64."""
    family = kind.family
    statistic = family.entries(y).statistic if family.self_concordance == 0 else None
    if statistic is not None and cpu.has_evidence(problem):
        # The kernel's loss is half the squared residual.
        base = family.log_prob(y, statistic)
    else:
        base = family.log_base_measure(y)
    weights = problem.weights
    if weights is not None:
        base = base * (weights if weights.shape[-1] == 1 else take(weights, kind.predictors))
    return base.sum(-1, dtype=torch.float64)


def _gradients(
    shares: Shares, problem: LatentProblem, z: Tensor, grad: Tensor, needed: Set[str]
) -> Gradients | None:
    if cpu.has_evidence(problem):
        return _gradients_by_processor(shares, problem, z, grad, needed)
    return _gradients_by_device(shares, problem, z, grad, needed)


def _gradients_by_processor(
    shares: Shares, problem: LatentProblem, z: Tensor, grad: Tensor, needed: Set[str]
) -> Gradients | None:
    # Only here: Numba takes a second to import.
    from pyro_expfam.deq.cpu.laplace_by_parts import laplace_sums
    from pyro_expfam.deq.cpu.laplace_sums import OtherGradients

    of_likelihood, of_log_det = (
        share * grad.double() for share in (shares.joint, shares.half_log_det)
    )
    own = needed - SUMMED - {"offset"}
    wanted = OtherGradients(bool(own), "offset" in needed)
    found = laplace_sums(problem, z, of_likelihood, of_log_det, wanted)
    if not bool(found.rows.resolved.all()):
        return None
    z, precision = z.double(), problem.precision.double()
    of_prior = 0.5 * (problem.latent_dim / precision - z.square().sum(-1))
    by_row = of_likelihood * of_prior + 0.5 * of_log_det * found.rows.trace
    to_precision = (by_row - (found.rows.u * z).sum(-1)).sum()
    return {
        "W": found.coefficients[:, :-1],
        "b": found.coefficients[:, -1],
        "precision": to_precision,
        "offset": found.offset,
        **_of_family(problem, own, found.parameters),
    }


def _of_family(problem: LatentProblem, needed: Set[str], to_parameters: Tensor) -> Gradients:
    """Gradients of parameters of the family from gradients of what kernels know of the features."""
    found: Gradients = {}
    for kind in problem.kinds:
        fields, values = parameter_fields(problem, kind), kind.family.parameters
        own = {name: values[name].double() for name, field in fields.items() if field in needed}
        if own:
            gradients = _of_parameters(kind.family, own, to_parameters[kind.predictors])
            found |= {fields[name]: torch.atleast_2d(x) for name, x in gradients.items()}
    return found


def _of_parameters(family: Any, own: Gradients, to_parameters: Tensor) -> Gradients:
    """Gradients of some parameters of a law, by their own names."""
    activation = evidence_activation_of(family)
    assert activation is not None
    assert activation.learnt is not None
    learnt = activation.learnt
    if learnt != "cut_points":
        by_feature = {name: to_parameters[None, :, PLACES.get((learnt, name), 0)] for name in own}
        return {
            name: by_feature[name].sum_to_size(torch.atleast_2d(x).shape) for name, x in own.items()
        }
    to_cuts = to_parameters[:, 1 : activation.levels]

    def cut_points(*values: Tensor) -> Tensor:
        cuts: Tensor = family.with_parameters(dict(zip(own, values, strict=True))).cut_points(
            to_parameters
        )
        return cuts

    cuts, pull_back = torch.func.vjp(cut_points, *own.values())[:2]
    return dict(zip(own, pull_back(to_cuts.sum_to_size(cuts.shape)), strict=True))


def _gradients_by_device(
    shares: Shares, problem: LatentProblem, z: Tensor, grad: Tensor, needed: Set[str]
) -> Gradients:
    # Only here: Triton takes a second to import.
    from pyro_expfam.deq.cuda.evidence import (
        evidence_gradients,
        information_matrices,
        third_moment,
    )

    factor, _ = cholesky(information_matrices(problem, z).double())
    whitening = inverse_lower(factor)
    covariance = whitening.mT @ whitening
    single = covariance.to(z.dtype)
    of_log_det = shares.half_log_det * grad
    # The gradient of the log joint density in the latents vanishes at the root.
    reached = 0.5 * of_log_det[:, None] * third_moment(problem, z, single)
    u = (covariance @ reached.double().unsqueeze(-1)).squeeze(-1).to(z.dtype)
    of_likelihood = shares.joint * grad
    wants_offset = "offset" in needed
    found = evidence_gradients(problem, z, single, of_likelihood, of_log_det, u, wants_offset)
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    of_prior = 0.5 * (problem.latent_dim / problem.precision - z.square().sum(-1))
    by_row = of_likelihood * of_prior + 0.5 * of_log_det * trace - (u * z).sum(-1)
    gradients = {"W": found.W, "b": found.b, "precision": by_row.sum().to(z.dtype)}
    if found.offset is not None:
        gradients["offset"] = found.offset
    return gradients
