"""The terms that follow the Laplace approximation, from the third and fourth cumulants."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.symmetric import weighted_cubes
from pyro_expfam.evidence.expansion import Expansion
from pyro_expfam.evidence.row_function import RowFunction, at_root, by_autograd


def second_order_term(problem: LatentProblem, z: Tensor) -> Tensor:
    r"""What the next order of the expansion adds to the Laplace evidence, ``(..., N)``.

    With the posterior covariance :math:`C = H^{-1}`, the posterior variances
    :math:`s_i = w_i^\top C w_i` of natural parameters,
    :math:`t = \sum_i \omega_i A'''_i s_i w_i` and
    :math:`T = \sum_i \omega_i A'''_i\, w_i \otimes w_i \otimes w_i`, it is

    .. math:: -\tfrac18 \sum_i \omega_i A''''_i s_i^2 + \tfrac18 t^\top C t
              + \tfrac1{12} \langle T, T \cdot (C, C, C) \rangle,

    at :math:`O(d l^3)` operations a row. Its gradient has the root following the problem.

    Source: Tierney and Kadane (1986); Shun and McCullagh (1995).

    Args:
        problem: the problem of the latents.
        z: its root, ``(..., N, l)``, as :func:`~pyro_expfam.deq.layer.solve` returns it.
    """
    return at_root(_TERM, problem, z)


def second_order_mean(problem: LatentProblem, z: Tensor) -> Tensor:
    r"""The posterior mean of latents to second order, :math:`z^* - \tfrac12 C t`, ``(..., N, l)``.

    The mean lies beside the mode where the posterior is skewed. ``C`` and ``t`` are those of
    :func:`second_order_term`.

    Source: Tierney and Kadane (1986).

    Args:
        problem: the problem of the latents.
        z: its root, ``(..., N, l)``, as :func:`~pyro_expfam.deq.layer.solve` returns it.
    """
    return z + at_root(_SHIFT, problem, z)


def _term(problem: LatentProblem, z: Tensor) -> Tensor:
    expansion = Expansion(problem, z)
    fourth = problem.weighted(problem.family.fourth_cumulant(expansion.eta))
    kurtosis = (fourth * expansion.natural_variance.square()).sum(-1)
    chain = _apply(expansion.whitening, expansion.skew).square().sum(-1)
    cubes = weighted_cubes(expansion.third_cumulant, problem.W)
    # Every product takes the first dimension and puts it last: all three in turn.
    for _ in range(3):
        cubes = torch.einsum("...ij,...jkm->...kmi", expansion.whitening, cubes)
    return (chain - kurtosis) / 8 + cubes.square().sum((-3, -2, -1)) / 12


def _shift(problem: LatentProblem, z: Tensor) -> Tensor:
    expansion = Expansion(problem, z)
    return -0.5 * _apply(expansion.covariance, expansion.skew)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


_TERM = RowFunction(_term, by_autograd(_term), rank=3)
_SHIFT = RowFunction(_shift, by_autograd(_shift), rank=2)
