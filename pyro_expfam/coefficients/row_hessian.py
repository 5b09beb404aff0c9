"""The Hessian of the coefficients of all predictors, from the factors of rows."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

STRIPS = 8
"""Strips of a symmetric sum of products, of which the part above the diagonal is left out."""


class RowHessian(NamedTuple):
    r"""The Hessian of some rows in parts: :math:`B + \sum_s (P_s + P_s^\top - M_s M_s^\top)`.

    The products :math:`P_s` and :math:`M_s M_s^\top` are of factors that have the predictors last,
    so that matrix products make and take them without a copy.

    Attributes:
        blocks: :math:`B`, one block per feature, ``(features, K (l + 1), K (l + 1))``.
        missing: the factors :math:`M_s`, ``(n, k, l + 1, d)``.
        left: the left factors of the products :math:`P_s`, ``(n, m, l + 1, d)``.
        right: the right factors, of the same shape.
    """

    blocks: Tensor
    missing: Tensor
    left: Tensor
    right: Tensor

    def by_feature(self) -> Tensor:
        """The diagonal blocks of the Hessian, in the shape of :attr:`blocks`."""
        missing, left, right = (
            # Products of the factors as they lie in memory take four times as long.
            _as_matrix(factor)
            .T.contiguous()
            .view(*factor.shape[2:], -1)
            .transpose(0, 1)
            .reshape(*self.blocks.shape[:2], -1)
            for factor in self[1:]
        )
        product = left @ right.mT
        return self.blocks - missing @ missing.mT + product + product.mT

    def add_products(self, total: Tensor) -> None:
        """Adds the lower triangle of the Hessian without its blocks :math:`B`.

        Args:
            total: where to add it, ``((l + 1) d, (l + 1) d)``, with the predictors last.
        """
        missing, left, right = (_as_matrix(factor) for factor in self[1:])
        size = -(-len(total) // STRIPS)
        for begin in range(0, len(total), size):
            end = min(begin + size, len(total))
            strip = total[begin:end, :end]
            strip.addmm_(missing[:, begin:end].mT, missing[:, :end], alpha=-1)
            strip.addmm_(left[:, begin:end].mT, right[:, :end])
            strip.addmm_(right[:, begin:end].mT, left[:, :end])

    def product_gradients(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""The gradient of :math:`\operatorname{tr}(C (P + P^\top - M M^\top))`.

        Args:
            weight: symmetric :math:`C`, with the predictors last, as in :meth:`add_products`.

        Returns:
            The gradient in :attr:`missing`, :attr:`left` and :attr:`right`.
        """
        twice = 2 * weight
        of_missing, of_left, of_right = (
            (_as_matrix(factor.detach()) @ by).view_as(factor)
            for factor, by in zip(self[1:], (-twice, twice, twice), strict=True)
        )
        return of_missing, of_right, of_left


def _as_matrix(factor: Tensor) -> Tensor:
    """The factors of all rows one below the other, ``(n k, (l + 1) d)``."""
    return factor.flatten(2).flatten(0, 1)


def predictors_last(matrix: Tensor, num_predictors: int) -> Tensor:
    """A matrix of all coefficients, predictor by predictor, with the predictors last."""
    size = len(matrix) // num_predictors
    by_predictor = matrix.view(num_predictors, size, num_predictors, size)
    return by_predictor.permute(1, 0, 3, 2).reshape(matrix.shape)


def predictors_first(lower: Tensor, num_predictors: int) -> Tensor:
    """The inverse of :func:`predictors_last`, of a symmetric matrix from its lower triangle."""
    matrix = lower.tril() + lower.tril(-1).mT
    size = len(matrix) // num_predictors
    by_coefficient = matrix.view(size, num_predictors, size, num_predictors)
    return by_coefficient.permute(1, 0, 3, 2).reshape(matrix.shape)
