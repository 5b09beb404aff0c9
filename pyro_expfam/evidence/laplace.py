"""The Laplace evidence of rows, with its gradient in closed form."""

from __future__ import annotations

from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.evidence.determinant import half_log_det_gradients
from pyro_expfam.evidence.expansion import Expansion
from pyro_expfam.evidence.fused import Shares, by_kernels
from pyro_expfam.evidence.row_function import Gradients, RowFunction, at_root


def laplace_evidence(problem: LatentProblem, z: Tensor) -> Tensor:
    r"""The Laplace approximation to the log evidence of every row, ``(..., N)``.

    .. math:: \sum_i \omega_i \log p(y_i \mid \eta_i) - \tfrac{\lambda}{2} \|z\|^2
              + \tfrac{l}{2} \log \lambda - \tfrac12 \log \det H(z)

    at the root ``z``. It is exact for the Gaussian family. Gradients in all tensors of the problem
    include the dependence of the root on them.

    Source: appendix D of the paper; Tierney and Kadane (1986).

    Args:
        problem: the problem of the latents.
        z: its root, ``(..., N, l)``, as :func:`~pyro_expfam.deq.layer.solve` returns it.
    """
    value = at_root(_LAPLACE, problem, z)
    base = problem.family.log_base_measure(problem.family.observation(problem.statistic))
    if base.requires_grad:
        # The value is included already; the gradient of a learnt scale comes from here.
        value = value + problem.weighted(base - base.detach()).sum(-1)
    return value


def _value(problem: LatentProblem, z: Tensor) -> Tensor:
    expansion = Expansion(problem, z)
    precision = problem.precision[..., None]
    log_prior = problem.latent_dim * precision.log() - precision * z.square().sum(-1)
    log_likelihood = problem.weighted(_log_likelihood(expansion)).sum(-1)
    return log_likelihood + 0.5 * (log_prior - expansion.log_det_information())


def _log_likelihood(expansion: Expansion) -> Tensor:
    """The log density of every entry without its weight, ``(..., N, d)``."""
    family = expansion.problem.family
    return family.log_prob(family.observation(expansion.problem.statistic), expansion.eta)


def _gradients(problem: LatentProblem, z: Tensor, grad: Tensor) -> Gradients:
    expansion = Expansion(problem, z)
    joint = _log_joint_gradients(expansion, grad)
    return joint.plus(half_log_det_gradients(expansion, -grad))


def _log_joint_gradients(expansion: Expansion, grad: Tensor) -> Gradients:
    """Partial gradients of the log density of observations and latents."""
    problem, z = expansion.problem, expansion.z
    by_entry = grad.unsqueeze(-1)
    score = problem.family.score(expansion.eta, problem.statistic)
    to_eta = by_entry * problem.weighted(score)
    of_prior = problem.latent_dim / problem.precision[..., None] - z.square().sum(-1)
    return Gradients(
        statistic=by_entry * problem.weighted(expansion.eta),
        W=to_eta.mT @ z,
        b=to_eta.sum(-2),
        precision=0.5 * (grad * of_prior).sum(-1),
        offset=to_eta,
        weights=None if problem.weights is None else by_entry * _log_likelihood(expansion),
        # The gradient in the latents vanishes at the root.
        z=None,
    )


_LAPLACE = RowFunction(
    _value, _gradients, rank=2, fused=by_kernels(Shares(joint=1.0, half_log_det=-1.0))
)
