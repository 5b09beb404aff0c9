r"""Joint objectives whose minima are all the same but for rotation, so that one start is enough.

Take a Gaussian table ``R = T(y) - o`` without weights and missing entries, one precision
:math:`\tau^{-2}` of the loading, and flat priors of the coefficients ``B`` of the known numbers
``U`` of the rows. With these and the latents eliminated, and ``S = I + W W' / lambda``, it is

.. math:: G(W) = \tfrac12 \operatorname{tr}(S^{-1} C) + \tfrac{1}{2 \tau^2} \|W\|^2,
          \qquad C = R^\top (I - U (U^\top U)^{-1} U^\top) R.

Where its gradient is zero, the columns of ``W`` span eigenvectors of ``C``, with lengths that their
eigenvalues determine. Wherever one of the ``l`` largest eigenvectors is left out, turning a column
towards it decreases the objective. All minima are therefore the rotations of one: principal
components with shrunken singular values.

A Gaussian prior of the coefficients adds :math:`h(S) \ge 0`, which is convex and falls in ``S``.
With the coefficients :math:`B_i` of a model without latents, their prior precisions
:math:`\Pi_i` and :math:`\kappa = \sum_i B_i^\top \Pi_i (U^\top U)^{-1} \Pi_i B_i`,

.. math:: h(I) - h(S) \le \tfrac12 \kappa \, (s - 1)

for the largest eigenvalue ``s`` of ``S``. In the minimum of ``G`` it is at most
:math:`s_1 = \tau \sqrt{\operatorname{tr} C / \lambda}`, and a larger one costs
:math:`\lambda (s - s_1)^2 / 2 \tau^2 s` at least. If :math:`\kappa \le \lambda / 4 \tau^2`, no
``W`` with :math:`s > 2 s_1` is better than the minimum of ``G``, and no other by more than
:math:`\kappa s_1`.

Source: Tipping and Bishop, *Probabilistic principal component analysis* (1999), appendix A, for the
stationary points; their argument holds for any function of the eigenvalues that falls in them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_expfam.deq.activation import activation_of
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.joint.joint_problem import JointProblem
from pyro_expfam.joint.table import Sums

NEGLIGIBLE = 1e-2
"""Nats by which another start might be better, of which one start is taken nevertheless."""

ROUNDING = 1e-6
"""What rounding may take from sums of squares, as a part of them."""


def has_one_optimum(problem: JointProblem) -> bool:
    """Whether no start leads to a better optimum than the spectral one, but for a hundredth nat."""
    table = problem.table
    laws = (activation_of(kind.family) for kind in table.family.kinds(table.num_features))
    is_gaussian = all(law is not None and law.name == "identity" for law in laws)
    moves_freely = problem.row_effect is None and problem.free is None
    if not (is_gaussian and moves_freely and table.num_rows and table.is_complete):
        return False
    of_loading = torch.as_tensor(problem.loading_precision)
    weight = float(problem.latent_precision) * float(of_loading.flatten()[0])
    if not weight > 0 or not bool((of_loading == of_loading.flatten()[0]).all()):
        return False
    return _most_gain(problem, weight) <= NEGLIGIBLE


def _most_gain(problem: JointProblem, weight: float) -> float:
    """How much better than the minimum under flat priors any place may be; infinite if not known.

    Args:
        problem: the objective.
        weight: the precision of the latents times the precision of the loading.
    """
    table = problem.table
    none = table.like.new_zeros(table.num_predictors, 1 + table.num_covariates)
    if not bool(problem.known_precision(none).any()):
        return 0.0
    kappa, left = prior_pull(problem, none)
    if not kappa <= weight / 4:
        return math.inf
    return kappa * max(1.0, math.sqrt(left / weight))


def prior_pull(problem: JointProblem, none: Tensor) -> tuple[float, float]:
    r"""The number :math:`\kappa`, and the trace of ``C``; infinite where ``U`` lacks a rank.

    Args:
        problem: the objective.
        none: coefficients of zero, ``(d, 1 + p)``.
    """
    squares, products = _products_with_known(problem, none)
    gram, precision = problem.table.gram.to(products), problem.known_precision(none).double()
    factor, failed = torch.linalg.cholesky_ex(gram)
    if bool(failed):
        return math.inf, math.inf
    known = torch.linalg.solve(gram + torch.diag_embed(precision.expand_as(none)), products)
    pull = precision * known
    kappa = float((pull * torch.cholesky_solve(pull.mT, factor).mT).sum())
    explained = (products * torch.cholesky_solve(products.mT, factor).mT).sum()
    return kappa, float(squares - explained) + ROUNDING * float(squares)


def _products_with_known(problem: JointProblem, none: Tensor) -> Sums:
    """The sum of the squares of ``R``, and the products of its columns with ``U``, ``(d, 1 + p)``.

    Args:
        problem: the objective.
        none: coefficients of zero, ``(d, 1 + p)``.
    """

    def of_rows(place: slice, rows: LatentProblem) -> Sums:
        del place
        eta = none.new_zeros(()) if rows.offset is None else rows.offset
        own = rows.scores(eta.expand(rows.y.shape))
        known = rows.design(rows.y[:, :0])
        return own.square().sum(dtype=torch.float64), (own.mT @ known).double()

    return problem.sum(none, of_rows)
