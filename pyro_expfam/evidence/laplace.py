"""The Laplace evidence of rows, with its gradient in closed form."""

from __future__ import annotations

from collections.abc import Set

import torch
from torch import Tensor

from pyro_expfam.deq.problem import OF_FAMILY, LatentProblem
from pyro_expfam.deq.root_gradients import Gradients, of_law
from pyro_expfam.evidence.determinant import half_log_det_gradients
from pyro_expfam.evidence.expansion import Expansion
from pyro_expfam.evidence.fused import Shares, by_kernels
from pyro_expfam.evidence.lanczos import log_determinant
from pyro_expfam.evidence.row_function import RowFunction, added, at_root
from pyro_expfam.families.kinds import take


def laplace_evidence(problem: LatentProblem, z: Tensor) -> Tensor:
    r"""The Laplace approximation to the log evidence of every row, ``(..., N)``.

    .. math:: \sum_i \omega_i \log p(y_i \mid \eta_i) - \tfrac{\lambda}{2} \|z\|^2
              + \tfrac{l}{2} \log \lambda - \tfrac12 \log \det H(z)

    at the root ``z``. It is exact for the Gaussian family. Gradients in all fields of the problem
    include the dependence of the root on them. Under a map without a matrix the determinant is an
    estimate, see :func:`~pyro_expfam.evidence.log_determinant`.

    Source: appendix D of the paper; Tierney and Kadane (1986).

    Args:
        problem: the problem of the latents.
        z: its root, ``(..., N, l)``, as :func:`~pyro_expfam.deq.layer.solve` returns it.
    """
    return at_root(_LAPLACE, problem, z)


def _value(problem: LatentProblem, z: Tensor) -> Tensor:
    expansion = Expansion(problem, z)
    prior = problem.prior
    log_likelihood = problem.log_likelihoods(expansion.eta)
    half_log_det = 0.5 * (prior.log_det[..., None] - expansion.log_det_information())
    value = log_likelihood - prior.objective(z) + half_log_det
    return value if problem.term is None else value + problem.term(z)


def _without_matrix(problem: LatentProblem, z: Tensor) -> Tensor:
    prior = problem.prior
    log_likelihood = problem.log_probs(problem.predictor(z)).sum(-1)
    half_log_det = 0.5 * (prior.log_det[..., None] - log_determinant(problem, z).value)
    return log_likelihood - prior.objective(z) + half_log_det


def _gradients(problem: LatentProblem, z: Tensor, grad: Tensor, needed: Set[str]) -> Gradients:
    expansion = Expansion(problem, z)
    joint = _log_joint_gradients(expansion, grad, needed)
    return added(joint, half_log_det_gradients(expansion, -grad, needed))


def _log_joint_gradients(expansion: Expansion, grad: Tensor, needed: Set[str]) -> Gradients:
    """Partial gradients of the log density of observations and latents."""
    problem, z, eta = expansion.problem, expansion.z, expansion.eta
    by_entry = grad.unsqueeze(-1)
    to_eta = by_entry * problem.scores(eta)
    # The gradient in the latents vanishes at the root.
    found = {
        **problem.map.pullback(to_eta, z),
        "b": to_eta.sum(-2),
        **problem.prior.log_density_gradients(z, grad),
        "offset": to_eta,
    }
    if "weights" in needed:
        found["weights"] = by_entry * problem.family.log_prob(problem.y, eta)

    own = [name for name in problem.fields if name in needed and name.startswith(OF_FAMILY)]
    if own and "y" not in needed and _is_plain():
        plain = [name.removeprefix(OF_FAMILY) for name in own]
        scores = problem.family.parameter_scores(plain, eta, problem.y)
        for name, parameter, score in zip(own, plain, scores, strict=True):
            at = problem.family.places_of_parameter(parameter, eta.shape[-1])
            entries = take(problem.weighted(by_entry * score), at)
            found[name] = entries.sum_to_size(problem.fields[name].shape)
        return found

    def log_density(law: LatentProblem) -> Tensor:
        return law.family.log_prob(law.y, eta)

    return found | of_law(problem, needed, log_density, by_entry.expand(eta.shape))


def _is_plain() -> bool:
    """Whether nothing differentiates or maps over what is computed now."""
    return not (torch.is_grad_enabled() or torch._C._are_functorch_transforms_active())


_LAPLACE = RowFunction(
    _value,
    _gradients,
    rank=2,
    fused=by_kernels(Shares(joint=1.0, half_log_det=-1.0)),
    matrix_free=_without_matrix,
)
