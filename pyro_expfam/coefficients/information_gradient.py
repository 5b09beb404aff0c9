"""How the information of loading and intercept changes with them, by automatic differentiation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.coefficients.information import (
    evidence_hessian,
    evidence_information,
    expansions,
    numbers_per_row,
    predictors_of_feature,
    total_of,
)
from pyro_expfam.coefficients.row_hessian import RowHessian, predictors_last
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.root_gradients import SUMMED, gradients
from pyro_expfam.evidence.expansion import Expansion

LATENTS = "z"
"""The name of the latents among the leaves."""

MOST_KEPT = 1 << 22
"""The numbers of factors of rows up to which the graphs of all rows are kept, some 150 MB."""


class _Part(NamedTuple):
    """The Hessian of some rows with its graph.

    Attributes:
        rows: the problem of the rows.
        z: their root, ``(n, l)``.
        leaves: what the Hessian is a function of, by name: coefficients, offsets and latents.
        hessian: the Hessian.
    """

    rows: LatentProblem
    z: Tensor
    leaves: dict[str, Tensor]
    hessian: RowHessian


class KeptInformation:
    """The information at a point, whose gradient takes no second forward pass in a small table.

    A call returns the :func:`~pyro_expfam.coefficients.evidence_information`, and
    :meth:`weighted_gradient` differentiates the one of the last call.
    """

    def __init__(self) -> None:
        self._parts: tuple[_Part, ...] = ()
        self._at: tuple[LatentProblem, Tensor] | None = None

    def __call__(self, problem: LatentProblem, prior_precision: Tensor, z: Tensor) -> Tensor:
        """The information at a point, as :func:`evidence_information`."""
        self._at, self._parts = (problem, z), ()
        if problem.num_rows * numbers_per_row(problem) > MOST_KEPT:
            return evidence_information(problem, prior_precision, z)
        self._parts = tuple(map(_with_graph, expansions(problem, z)))
        return total_of(problem, prior_precision, (_detached(part.hessian) for part in self._parts))

    def weighted_gradient(self, weight: Tensor) -> Tensor:
        """The gradient at the point of the last call, as :func:`weighted_information_gradient`.

        The graphs are free afterwards.
        """
        assert self._at is not None
        problem, z = self._at
        parts, self._parts = self._parts, ()
        found = parts or map(_with_graph, expansions(problem, z))
        return _weighted_gradient(problem, weight, found)


def weighted_information_gradient(problem: LatentProblem, weight: Tensor, z: Tensor) -> Tensor:
    r"""The gradient in the coefficients of :math:`\operatorname{tr}(C I)` at constant ``C``.

    :math:`I` is the :func:`evidence_information`, with the root following the coefficients. Where
    ``C`` is the inverse of :math:`I`, this is the gradient of the log determinant of :math:`I`.

    Args:
        problem: the problem of the latents, without batch dimensions.
        weight: :math:`C`, symmetric, ``(d (l + 1), d (l + 1))``.
        z: the root, ``(N, l)``.

    Returns:
        The gradient, ``(d, l + 1)``.
    """
    return _weighted_gradient(problem, weight, map(_with_graph, expansions(problem, z)))


def _weighted_gradient(problem: LatentProblem, weight: Tensor, parts: Iterable[_Part]) -> Tensor:
    of_feature = predictors_of_feature(problem) * problem.num_coefficients
    number = torch.arange(len(weight) // of_feature, device=weight.device)
    by_feature = weight.unflatten(1, (-1, of_feature)).unflatten(0, (-1, of_feature))
    blocks = by_feature[number, :, number]
    of_products = predictors_last(weight, problem.num_features)
    total = weight.new_zeros(len(problem.b), problem.num_coefficients)
    for part in parts:
        total = total + _gradient_of_part(part, blocks, of_products)
    return problem.sum(total)[0]


def _gradient_of_part(part: _Part, blocks: Tensor, of_products: Tensor) -> Tensor:
    """The gradient of some rows, ``(d, l + 1 + p)``.

    Args:
        part: the rows.
        blocks: the diagonal blocks of the weight, ``(features, K (l + 1), K (l + 1))``.
        of_products: the weight with the predictors last.
    """
    rows, hessian = part.rows, part.hessian
    to_hessian = (blocks, *hessian.product_gradients(of_products))
    direct = torch.autograd.grad(hessian, tuple(part.leaves.values()), to_hessian)
    found = dict(zip(part.leaves, direct, strict=True))
    through = gradients(rows, part.z, found.pop(LATENTS), SUMMED | set(found))
    found = {name: x + through[name] for name, x in found.items()}
    parts = [found["W"], found["b"][:, None]]
    if rows.covariates is not None:
        parts.append(found["offset"].mT @ rows.covariates.x)
    return torch.cat(parts, 1)


def _with_graph(part: Expansion) -> _Part:
    rows = part.problem
    names = ("W", "b") if rows.covariates is None else ("W", "b", "offset")
    leaves = {name: rows.fields[name].detach().requires_grad_() for name in names}
    at = part.z.detach().requires_grad_()
    with torch.enable_grad():
        hessian = evidence_hessian(Expansion(rows.with_fields(leaves), at))
    return _Part(rows, part.z, {**leaves, LATENTS: at}, hessian)


def _detached(hessian: RowHessian) -> RowHessian:
    return RowHessian(*(part.detach() for part in hessian))
