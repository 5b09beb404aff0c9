"""The determinant of the information, with its gradient in closed form."""

from __future__ import annotations

import math
from collections.abc import Set

from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.root_gradients import Gradients, of_law
from pyro_expfam.evidence.expansion import Expansion
from pyro_expfam.evidence.fused import Shares, by_kernels, value_by_kernels
from pyro_expfam.evidence.lanczos import log_determinant
from pyro_expfam.evidence.row_function import Fused, RowFunction, at_root


def mode_log_density(problem: LatentProblem, z: Tensor) -> Tensor:
    r"""The log density of the Laplace posterior at its own mode, ``(..., N)``.

    It is :math:`\tfrac12 \log \det H(z) - \tfrac{l}{2} \log 2 \pi` at the root ``z``. The Laplace
    evidence is the log joint density at the root minus this number. Gradients include the
    dependence of the root on the problem. Under a map without a matrix the determinant is an
    estimate, see :func:`~pyro_expfam.evidence.log_determinant`.

    Args:
        problem: the problem of the latents.
        z: its root, ``(..., N, l)``, as :func:`~pyro_expfam.deq.layer.solve` returns it.
    """
    return at_root(_LOG_DENSITY, problem, z)


def half_log_det_gradients(expansion: Expansion, grad: Tensor, needed: Set[str]) -> Gradients:
    r"""Partial gradients of half the log determinant of the information.

    From :math:`d \log \det H = \mathrm{tr}(C\, dH)`.
    """
    problem, eta = expansion.problem, expansion.eta
    by_entry = grad.unsqueeze(-1)
    to_eta = 0.5 * by_entry * expansion.log_det_slope
    of_forms = expansion.losses.gram_pullback(expansion.covariance, 0.5 * grad)
    of_predictor = problem.map.pullback(to_eta, expansion.z)
    of_prior = problem.prior.information_gradients(
        (0.5 * by_entry.unsqueeze(-1) * expansion.covariance).sum(-3), needed
    )
    found = {
        **{name: x + of_forms[name] for name, x in of_predictor.items()},
        "b": to_eta.sum(-2),
        **of_prior,
        "offset": to_eta,
        "z": 0.5 * by_entry * expansion.skew,
    }
    if "weights" in needed:
        found["weights"] = (
            0.5 * by_entry * expansion.losses.weight_slope(expansion.predictor_variance)
        )

    def curvature_of(law: LatentProblem) -> Tensor:
        return law.family.curvature(eta, law.y)

    to_curvature = 0.5 * by_entry * expansion.predictor_variance
    return found | of_law(problem, needed, curvature_of, to_curvature)


def _log_density(problem: LatentProblem, z: Tensor) -> Tensor:
    return 0.5 * Expansion(problem, z).log_det_information() - _constant(problem)


def _constant(problem: LatentProblem) -> float:
    return 0.5 * problem.latent_dim * math.log(2 * math.pi)


def _gradients(problem: LatentProblem, z: Tensor, grad: Tensor, needed: Set[str]) -> Gradients:
    return half_log_det_gradients(Expansion(problem, z), grad, needed)


def _without_matrix(problem: LatentProblem, z: Tensor) -> Tensor:
    return 0.5 * log_determinant(problem, z).value - _constant(problem)


def _by_kernels() -> Fused:
    shares = Shares(joint=0.0, half_log_det=1.0)
    return by_kernels(shares)._replace(
        value=lambda problem, z: value_by_kernels(shares, problem, z) - _constant(problem)
    )


_LOG_DENSITY = RowFunction(
    _log_density, _gradients, rank=2, fused=_by_kernels(), matrix_free=_without_matrix
)
