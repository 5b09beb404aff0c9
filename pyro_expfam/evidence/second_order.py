"""The terms that follow the Laplace approximation, from third and fourth derivatives."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.evidence.expansion import Expansion
from pyro_expfam.evidence.fused import second_order_by_kernels
from pyro_expfam.evidence.row_function import RowFunction, at_root, by_autograd
from pyro_expfam.user_warning import warn_user

NATS_PER_ROW, NATS_PER_LATENT = 1.0, 0.1
"""Where the second order adds more than this to the log evidence of a row, on average, it does not
hold. Fits that come to rest have at most 0.04 nats per latent. Fits whose loadings run away come to
6 nats per row or more in 150 sweeps."""


def is_beyond_expansion(added: float, latent_dim: int) -> bool:
    """Whether the second order adds more nats per row, on average, than it can where it holds.

    The term that it adds has no bound: for a bit whose loading grows it grows in proportion.

    Args:
        added: the mean of :func:`second_order_term` over the rows; NaN is beyond the expansion too.
        latent_dim: the number of latents.
    """
    return not added <= NATS_PER_ROW + NATS_PER_LATENT * latent_dim


def second_order_term(problem: LatentProblem, z: Tensor) -> Tensor:
    r"""What the next order of the expansion adds to the Laplace evidence, ``(..., N)``.

    With the posterior covariance :math:`C = H^{-1}`, the posterior variances
    :math:`s_i = w_i^\top C w_i` of linear predictors,
    :math:`t = \sum_i \omega_i \ell'''_i s_i w_i` and
    :math:`T = \sum_i \omega_i \ell'''_i\, w_i \otimes w_i \otimes w_i`, it is

    .. math:: -\tfrac18 \sum_i \omega_i \ell''''_i s_i^2 + \tfrac18 t^\top C t
              + \tfrac1{12} \langle T, T \cdot (C, C, C) \rangle,

    at :math:`O(d l^3)` operations per row. Gradients include the dependence of the root on the
    problem.

    Source: Tierney and Kadane (1986); Shun and McCullagh (1995).

    Args:
        problem: the problem of the latents.
        z: its root, ``(..., N, l)``, as :func:`~pyro_expfam.deq.layer.solve` returns it.

    Warns:
        UserWarning: if the loss has a kink, which the expansion does not see.
    """
    if not problem.family.is_smooth:
        warn_user(
            f"the second order of the evidence does not see the kink of {problem.family}: its term "
            "may be far too small. Take importance_evidence, or the link Softplus",
            UserWarning,
        )
    return at_root(_TERM, problem, z)


def second_order_mean(problem: LatentProblem, z: Tensor) -> Tensor:
    r"""The posterior mean of latents to second order, :math:`z^* - \tfrac12 C t`, ``(..., N, l)``.

    Mean and mode differ where the posterior is skewed. ``C`` and ``t`` are defined in
    :func:`second_order_term`.

    Source: Tierney and Kadane (1986).

    Args:
        problem: the problem of the latents.
        z: its root, ``(..., N, l)``, as :func:`~pyro_expfam.deq.layer.solve` returns it.
    """
    return z + at_root(_SHIFT, problem, z)


def second_order_covariance(problem: LatentProblem, z: Tensor) -> Tensor:
    r"""The posterior covariance of latents to second order, ``(..., N, l, l)``.

    With ``C``, ``s``, ``t`` and ``T`` as in :func:`second_order_term`, and the indices of ``T``
    raised by ``C``, the covariance is :math:`C + C \Sigma C` with

    .. math:: \Sigma_{ab} = -\tfrac12 \sum_i \omega_i \ell''''_i s_i w_{ia} w_{ib}
              + \tfrac12 \sum_i \omega_i \ell'''_i (w_i^\top C t)\, w_{ia} w_{ib}
              + \tfrac12 T_{acd} T_b{}^{cd}.

    Written with :math:`C = F F^\top`, it is computed as
    :math:`F \exp(F^\top \Sigma F) F^\top`, which is the same to this order, and positive definite
    however large the correction. Regions of the uncorrected ``C`` are too small where observations
    are few, above all for bits.

    Source: the expansion of cumulants in connected diagrams, McCullagh (1987), chapter 6.

    Args:
        problem: the problem of the latents.
        z: its root, ``(..., N, l)``, as :func:`~pyro_expfam.deq.layer.solve` returns it.
    """
    return at_root(_COVARIANCE, problem, z)


def _term(problem: LatentProblem, z: Tensor) -> Tensor:
    expansion = Expansion(problem, z)
    kurtosis = expansion.losses.kurtosis(expansion.predictor_variance, expansion.covariance)
    chain = _apply(expansion.whitening, expansion.skew).square().sum(-1)
    cubes = _whitened_cubes(expansion)
    return (chain - kurtosis) / 8 + cubes.square().sum((-3, -2, -1)) / 12


def _whitened_cubes(expansion: Expansion) -> Tensor:
    """The tensors ``T`` in coordinates with posterior covariance 1, ``(..., N, l, l, l)``."""
    cubes = expansion.losses.third()
    # Each product contracts the first dimension and appends the result: three products treat all.
    for _ in range(3):
        cubes = torch.einsum("...ij,...jkm->...kmi", expansion.whitening, cubes)
    return cubes


def _covariance(problem: LatentProblem, z: Tensor) -> Tensor:
    expansion = Expansion(problem, z)
    whitening = expansion.whitening
    along = _apply(expansion.covariance, expansion.skew)
    losses, forms = expansion.losses, expansion.predictor_variance
    entries = losses.third_along(along) - losses.fourth_with(forms, expansion.covariance)
    cubes = _whitened_cubes(expansion).flatten(-2)
    correction = whitening @ entries @ whitening.mT
    growth = torch.linalg.matrix_exp(0.5 * (correction + cubes @ cubes.mT))
    return whitening.mT @ growth @ whitening


def _shift(problem: LatentProblem, z: Tensor) -> Tensor:
    expansion = Expansion(problem, z)
    return -0.5 * _apply(expansion.covariance, expansion.skew)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


_TERM = RowFunction(_term, by_autograd(_term), rank=3, fused=second_order_by_kernels())
_SHIFT = RowFunction(_shift, by_autograd(_shift), rank=2)
_COVARIANCE = RowFunction(_covariance, by_autograd(_covariance), rank=3)
