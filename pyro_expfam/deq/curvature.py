r"""Second and higher derivatives of a row's losses in the latents.

The losses of a row depend on the latents through the linear predictors :math:`\eta = W z`. Their
derivatives in the latents are sums over columns of products of the rows :math:`w_i` of the linear
map. If every observation has one linear predictor, the sums have one term per predictor. If it has
several, as a category has, the terms are cumulants of the rows under the probabilities.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_expfam.deq.row_term import RowTerm
from pyro_expfam.families.kinds import At, take

if TYPE_CHECKING:
    from pyro_expfam.deq.problem import LatentProblem


class Curvature(ABC):
    """Derivatives of the weighted losses of a problem at linear predictors.

    Attributes:
        problem: the problem.
        eta: the linear predictors, ``(..., N, d)``.
    """

    problem: LatentProblem
    eta: Tensor

    @cached_property
    def second(self) -> Tensor:
        """The weighted second derivatives, each in its own predictor, ``(..., N, d)``."""
        return self.problem.curvatures(self.eta)

    @cached_property
    def third_by_entry(self) -> Tensor:
        """The weighted third derivatives, each in its own predictor, ``(..., N, d)``."""
        return self.problem.third_derivatives(self.eta)

    @cached_property
    def fourth_by_entry(self) -> Tensor:
        """The weighted fourth derivatives, each in its own predictor, ``(..., N, d)``."""
        return self.problem.fourth_derivatives(self.eta)

    @abstractmethod
    def times(self, entries: Tensor) -> Tensor:
        r"""The products :math:`V x` of second derivatives in :math:`\eta` with ``(..., N, d)``."""

    @abstractmethod
    def gram(self) -> Tensor:
        r"""The second derivatives :math:`W^\top V W` in the latents, ``(..., N, l, l)``."""

    @abstractmethod
    def exact_gram(self) -> Tensor:
        """The same as :meth:`gram`, summed in float64."""

    @abstractmethod
    def forms(self, matrix: Tensor) -> Tensor:
        r"""The quadratic forms that the functions below take, ``(..., N, d)``.

        They are :math:`w_i^\top C w_i`, with centred rows where levels are coupled.

        Args:
            matrix: symmetric matrices ``C``, ``(..., N, l, l)``.
        """

    @abstractmethod
    def gram_slope(self, forms: Tensor) -> Tensor:
        r"""The gradient of :math:`\operatorname{tr}(C W^\top V W)` in :math:`\eta`.

        Args:
            forms: the :meth:`forms` of ``C``.
        """

    @abstractmethod
    def gram_pullback(self, matrix: Tensor, grad: Tensor) -> dict[str, Tensor]:
        r"""Gradients of the fields of the map through :math:`\operatorname{tr}(C W^\top V W)`.

        The second derivatives ``V`` are held.

        Args:
            matrix: symmetric matrices ``C``, ``(..., N, l, l)``.
            grad: the gradient of the traces, ``(..., N)``.
        """

    @abstractmethod
    def weight_slope(self, forms: Tensor) -> Tensor:
        r"""The gradient of :math:`\operatorname{tr}(C W^\top V W)` in the entry weights."""

    @abstractmethod
    def third(self) -> Tensor:
        """The third derivatives in the latents, ``(..., N, l, l, l)``."""

    @abstractmethod
    def third_along(self, direction: Tensor) -> Tensor:
        """The third derivatives contracted with a vector ``(..., N, l)``, ``(..., N, l, l)``."""

    @abstractmethod
    def fourth_with(self, forms: Tensor, matrix: Tensor) -> Tensor:
        """The fourth derivatives contracted with ``C`` ``(..., N, l, l)``, ``(..., N, l, l)``."""

    @abstractmethod
    def kurtosis(self, forms: Tensor, matrix: Tensor) -> Tensor:
        """The fourth derivatives contracted with ``C`` twice, ``(..., N)``."""


class OfOneFamily(Curvature):
    """Derivatives of the losses of a table whose columns all have ``K`` linear predictors.

    They are also given column by column, in the predictors, which the losses of a column couple.
    """

    @abstractmethod
    def by_column(self) -> Tensor:
        """The second derivatives ``V`` of each column, ``(..., N, columns, K, K)``."""

    @abstractmethod
    def times_rows(self, rows: Tensor) -> Tensor:
        r"""The products :math:`V X` with rows ``(..., N, d, k)``, of the same shape."""

    @abstractmethod
    def third_by_column(self, rows: Tensor) -> Tensor:
        """The third derivatives of each column contracted with vectors of predictors.

        Args:
            rows: ``k`` vectors, ``(..., N, d, k)``.

        Returns:
            A matrix for each vector, ``(..., N, columns, K, K, k)``.
        """

    @abstractmethod
    def third_of_products(self, first: Tensor, second: Tensor) -> Tensor:
        """The third derivatives contracted with ``k`` pairs of vectors, ``(..., N, d, k)``.

        Args:
            first: the first vectors of the pairs, ``(..., N, d, k)``.
            second: the second vectors, of the same shape.
        """

    @abstractmethod
    def third_of_blocks(self, blocks: Tensor) -> Tensor:
        """The third derivatives contracted with matrices ``(..., N, columns, K, K)``.

        The result is ``(..., N, d)``.
        """

    @abstractmethod
    def fourth_by_column(self, forms: Tensor, matrix: Tensor) -> Tensor:
        r"""The fourth derivatives of each column contracted with :math:`W C W^\top`.

        Args:
            forms: the :meth:`forms` of ``C``.
            matrix: symmetric matrices ``C``, ``(..., N, l, l)``.

        Returns:
            A matrix for each column, ``(..., N, columns, K, K)``.
        """


@dataclass(frozen=True, eq=False)
class Separate(OfOneFamily):
    """Losses of one linear predictor each: second derivatives are diagonal.

    Attributes:
        problem: the problem.
        eta: the linear predictors, ``(..., N, d)``.
        known: the weighted second derivatives, if they have been computed already.
    """

    problem: LatentProblem
    eta: Tensor
    known: Tensor | None = None

    @cached_property
    def second(self) -> Tensor:
        """The weighted second derivatives of the entries, ``(..., N, d)``."""
        return self.problem.curvatures(self.eta) if self.known is None else self.known

    def times(self, entries: Tensor) -> Tensor:
        """Products of entries with the curvatures."""
        return self.second * entries

    def gram(self) -> Tensor:
        """The Gram matrix of the map, weighted by the curvatures."""
        return self.problem.map.gram(self.second)

    def exact_gram(self) -> Tensor:
        """The same in float64, from curvatures in the dtype of the problem."""
        return self.problem.map.double().gram(self.second.double())

    def forms(self, matrix: Tensor) -> Tensor:
        """Quadratic forms of the map's rows."""
        return self.problem.map.forms(matrix)

    def gram_slope(self, forms: Tensor) -> Tensor:
        """The third derivatives times the quadratic forms of the map's rows."""
        return self.third_by_entry * forms

    def gram_pullback(self, matrix: Tensor, grad: Tensor) -> dict[str, Tensor]:
        """The gradients of weighted quadratic forms."""
        return self.problem.map.pullback_of_forms(grad.unsqueeze(-1) * self.second, matrix)

    def weight_slope(self, forms: Tensor) -> Tensor:
        """The curvatures without their weights, times the quadratic forms."""
        plain = self.problem.family.curvature(self.eta, self.problem.y)
        return plain * forms

    def third(self) -> Tensor:
        """Sums of third powers of the map's rows."""
        return self.problem.map.cubes(self.third_by_entry)

    def third_along(self, direction: Tensor) -> Tensor:
        """The Gram matrix weighted by third derivatives along the direction."""
        return self.problem.map.gram(self.third_by_entry * self.problem.map(direction))

    def fourth_with(self, forms: Tensor, matrix: Tensor) -> Tensor:
        """The Gram matrix weighted by fourth derivatives times quadratic forms."""
        del matrix
        return self.problem.map.gram(self.fourth_by_entry * forms)

    def kurtosis(self, forms: Tensor, matrix: Tensor) -> Tensor:
        """The sum of fourth derivatives times squared quadratic forms."""
        del matrix
        return (self.fourth_by_entry * forms.square()).sum(-1)

    def by_column(self) -> Tensor:
        """The curvatures, as matrices of one entry."""
        return self.second[..., None, None]

    def times_rows(self, rows: Tensor) -> Tensor:
        """Products of rows with the curvatures."""
        return self.second.unsqueeze(-1) * rows

    def third_by_column(self, rows: Tensor) -> Tensor:
        """The third derivatives times the vectors."""
        return (self.third_by_entry.unsqueeze(-1) * rows)[..., None, None, :]

    def third_of_products(self, first: Tensor, second: Tensor) -> Tensor:
        """The third derivatives times the products of the vectors."""
        return self.third_by_entry.unsqueeze(-1) * (first * second)

    def third_of_blocks(self, blocks: Tensor) -> Tensor:
        """The third derivatives times the matrices of one entry."""
        return self.third_by_entry * blocks[..., 0, 0]

    def fourth_by_column(self, forms: Tensor, matrix: Tensor) -> Tensor:
        """The fourth derivatives times the quadratic forms."""
        del matrix
        return (self.fourth_by_entry * forms)[..., None, None]


@dataclass(frozen=True, eq=False)
class Softmax(OfOneFamily):
    r"""Losses of categories, whose second derivatives couple the levels of a column.

    With the probabilities ``p`` of the levels of a column and the rows :math:`w_k` of the map that
    belong to them, the derivatives in the latents are the cumulants of :math:`w_k` under ``p``:
    :math:`\sum_k p_k \tilde w_k \tilde w_k^\top` and
    :math:`\sum_k p_k \tilde w_k \otimes \tilde w_k \otimes \tilde w_k` for the second and the
    third, with :math:`\tilde w_k = w_k - m` and the mean :math:`m = \sum_k p_k w_k`. No matrix of
    levels x levels is formed.

    Attributes:
        problem: the problem.
        eta: the linear predictors, ``(..., N, d)``, with the levels of a column side by side.
    """

    problem: LatentProblem
    eta: Tensor

    @cached_property
    def _probability(self) -> Tensor:
        """The probabilities of the levels, ``(..., N, columns, levels)``."""
        return torch.softmax(self._levels(self.eta), -1)

    @cached_property
    def _weight(self) -> Tensor:
        """The weight of each column times its total, ``(..., N, columns)``.

        Its levels have the same weight.
        """
        weights = self.problem.weights
        if weights is None:
            return self._total
        wide = weights.expand(*weights.shape[:-1], self.eta.shape[-1])
        return self._levels(wide)[..., 0] * self._total

    @cached_property
    def _total(self) -> Tensor:
        """How often each column was drawn, ``(..., N, columns)``: 1 for indicators of levels."""
        return self._levels(self.problem.y).sum(-1).to(self.eta.dtype)

    @cached_property
    def _mean(self) -> Tensor:
        """The mean of the map's rows in each column, ``(..., N, columns, l)``."""
        return self.problem.map.level_sums(self._probability)

    def _levels(self, entries: Tensor) -> Tensor:
        return entries.unflatten(-1, (-1, self.problem.levels))

    def times(self, entries: Tensor) -> Tensor:
        """Products with the covariance of the indicators of levels."""
        x, p = self._levels(entries), self._probability
        centred = x - (p * x).sum(-1, keepdim=True)
        return (self._weight[..., None] * p * centred).flatten(-2)

    def gram(self) -> Tensor:
        """The covariances of the map's rows, summed over columns."""
        weighted = (self._weight[..., None] * self._probability).flatten(-2)
        mean = self._weight.sqrt()[..., None] * self._mean
        return self.problem.map.gram(weighted) - mean.mT @ mean

    def exact_gram(self) -> Tensor:
        """The same in float64."""
        return Softmax(self.problem.double(), self.eta.double()).gram()

    def forms(self, matrix: Tensor) -> Tensor:
        r"""The forms :math:`\tilde w_k^\top C \tilde w_k` of centred rows."""
        through = self._mean @ matrix
        of_mean = (through * self._mean).sum(-1, keepdim=True)
        forms = self._levels(self.problem.map.forms(matrix))
        crossed = self.problem.map.at_levels(through, forms.shape[-1])
        return (forms - 2 * crossed + of_mean).flatten(-2)

    def gram_slope(self, forms: Tensor) -> Tensor:
        """The probabilities times the centred forms, less their mean."""
        by_level, p = self._levels(forms), self._probability
        centred = by_level - (p * by_level).sum(-1, keepdim=True)
        return (self._weight[..., None] * p * centred).flatten(-2)

    def gram_pullback(self, matrix: Tensor, grad: Tensor) -> dict[str, Tensor]:
        """The gradients of the weighted forms of the centred rows."""
        weighted = (grad[..., None] * self._weight)[..., None] * self._probability
        of_forms = self.problem.map.pullback_of_forms(weighted.flatten(-2), matrix)
        of_mean = self.problem.map.pullback_at_levels(-2 * weighted, self._mean @ matrix)
        return {name: x + of_mean[name] for name, x in of_forms.items()}

    def weight_slope(self, forms: Tensor) -> Tensor:
        """The probabilities times the centred forms, whose sum is the trace."""
        return (self._total[..., None] * self._probability * self._levels(forms)).flatten(-2)

    @cached_property
    def _centred(self) -> Tensor:
        """The centred rows of the map, ``(..., N, columns, levels, l)``."""
        rows = self.problem.map.by_level(self.problem.levels)
        return rows.unsqueeze(-4) - self._mean.unsqueeze(-2)

    @cached_property
    def _weighted(self) -> Tensor:
        return self._weight[..., None] * self._probability

    def third(self) -> Tensor:
        """The third cumulants of the map's rows, summed over columns."""
        x = self._centred
        return torch.einsum("...ck,...cka,...ckb,...ckd->...abd", self._weighted, x, x, x)

    def third_along(self, direction: Tensor) -> Tensor:
        """The third cumulants contracted with a vector."""
        x = self._centred
        along = torch.einsum("...cka,...a->...ck", x, direction)
        return torch.einsum("...ck,...cka,...ckb->...ab", self._weighted * along, x, x)

    def _covariances(self) -> Tensor:
        """The covariance of the map's rows in each column, ``(..., N, columns, l, l)``."""
        x = self._centred
        return torch.einsum("...ck,...cka,...ckb->...cab", self._probability, x, x)

    def fourth_with(self, forms: Tensor, matrix: Tensor) -> Tensor:
        """The fourth cumulants of the map's rows contracted with a matrix."""
        x, p = self._centred, self._probability
        by_level = self._levels(forms)
        excess = by_level - (p * by_level).sum(-1, keepdim=True)
        first = torch.einsum("...ck,...cka,...ckb->...ab", self._weighted * excess, x, x)
        covariance = self._covariances()
        product = covariance @ matrix.unsqueeze(-3) @ covariance
        return first - 2 * (self._weight[..., None, None] * product).sum(-3)

    def kurtosis(self, forms: Tensor, matrix: Tensor) -> Tensor:
        """The fourth cumulants of the map's rows contracted with a matrix twice."""
        return (self.fourth_with(forms, matrix) * matrix).sum((-2, -1))

    # With the indicators e of the levels, the derivatives of a column in its predictors are the
    # cumulants of e under p.

    def by_column(self) -> Tensor:
        """The covariances of the indicators of levels."""
        p = self._probability
        covariance = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
        return self._weight[..., None, None] * covariance

    def times_rows(self, rows: Tensor) -> Tensor:
        """The centred rows of each column times the probabilities."""
        return (self._weighted.unsqueeze(-1) * self._centred_rows(rows)).flatten(-3, -2)

    def third_by_column(self, rows: Tensor) -> Tensor:
        """The third cumulants of the indicators contracted with the vectors."""
        return self._weight[..., None, None, None] * self._tilted(self._centred_rows(rows))

    def third_of_products(self, first: Tensor, second: Tensor) -> Tensor:
        """The centred products of centred vectors times the probabilities."""
        product = self._centred_rows(first) * self._centred_rows(second)
        return self.times_rows(product.flatten(-3, -2))

    def third_of_blocks(self, blocks: Tensor) -> Tensor:
        """The centred diagonals of the matrices between centred indicators, times ``p``."""
        p = self._probability.unsqueeze(-1)
        crossed = (blocks @ p + blocks.mT @ p).squeeze(-1)
        return self.times((blocks.diagonal(dim1=-2, dim2=-1) - crossed).flatten(-2))

    def fourth_by_column(self, forms: Tensor, matrix: Tensor) -> Tensor:
        """The fourth cumulants of the indicators contracted with a matrix."""
        tilted = self._tilted(self._centred_rows(forms.unsqueeze(-1))).squeeze(-1)
        rows = self._probability.unsqueeze(-1) * self._centred
        product = rows @ matrix.unsqueeze(-3) @ rows.mT
        return self._weight[..., None, None] * (tilted - 2 * product)

    def _centred_rows(self, rows: Tensor) -> Tensor:
        """Rows ``(..., N, d, k)`` less their means in a column, by column and level."""
        by_level, p = rows.unflatten(-2, self._probability.shape[-2:]), self._probability
        return by_level - (p.unsqueeze(-1) * by_level).sum(-2, keepdim=True)

    def _tilted(self, centred: Tensor) -> Tensor:
        r"""The slopes of the covariances of the indicators along centred vectors.

        They are :math:`\mathrm E[(e - p)(e - p)^\top x_e]`, of the shape
        ``(..., N, columns, K, K, k)``, for ``k`` vectors ``x`` ``(..., N, columns, K, k)``.
        """
        weighted = self._probability.unsqueeze(-1) * centred
        off = self._probability[..., None, :, None] * weighted.unsqueeze(-2)
        diagonal = torch.diag_embed(weighted.movedim(-1, -2)).movedim(-3, -1)
        return diagonal - off - off.transpose(-3, -2)


@dataclass(frozen=True, eq=False)
class SideBySide(Curvature):
    """Losses of several laws, of which some couple the predictors of a column.

    Attributes:
        problem: the problem, whose family is of several laws.
        eta: the linear predictors of all of them, ``(..., N, d)``.
    """

    problem: LatentProblem
    eta: Tensor

    @cached_property
    def parts(self) -> list[tuple[At, Curvature]]:
        """The derivatives of each law, with the places of its linear predictors."""
        return [
            (at, self.problem.predictors(law, at).curvature(take(self.eta, at)))
            for law, at in self._family.predictor_parts()
        ]

    @property
    def _family(self) -> Any:
        return self.problem.family

    def _joined(self, function: Callable[[At, Curvature], Tensor]) -> Tensor:
        """Entries of all laws, in the order of the table."""
        joined: Tensor = self._family.join([function(at, part) for at, part in self.parts])
        return joined

    def _summed(self, function: Callable[[At, Curvature], Tensor]) -> Tensor:
        """The sum over the laws."""
        first, *others = (function(at, part) for at, part in self.parts)
        return sum(others, first)

    def times(self, entries: Tensor) -> Tensor:
        """Products with the second derivatives of each law."""
        return self._joined(lambda at, part: part.times(take(entries, at)))

    def gram(self) -> Tensor:
        """The sum of the second derivatives in the latents."""
        return self._summed(lambda _, part: part.gram())

    def exact_gram(self) -> Tensor:
        """The same, summed in float64."""
        return self._summed(lambda _, part: part.exact_gram())

    def forms(self, matrix: Tensor) -> Tensor:
        """The quadratic forms of each law."""
        return self._joined(lambda _, part: part.forms(matrix))

    def gram_slope(self, forms: Tensor) -> Tensor:
        """The gradients of each law."""
        return self._joined(lambda at, part: part.gram_slope(take(forms, at)))

    def gram_pullback(self, matrix: Tensor, grad: Tensor) -> dict[str, Tensor]:
        """The gradients of the map's fields, joined from the rows of the loading of each law."""
        # Each part has a dense map.
        found = [part.gram_pullback(matrix, grad)["W"] for _, part in self.parts]
        return self.problem.map.pullback_of_loading(self._family.join_rows(found))

    def weight_slope(self, forms: Tensor) -> Tensor:
        """The gradients of each law in its weights."""
        return self._joined(lambda at, part: part.weight_slope(take(forms, at)))

    def third(self) -> Tensor:
        """The sum of the third derivatives."""
        return self._summed(lambda _, part: part.third())

    def third_along(self, direction: Tensor) -> Tensor:
        """The sum of the contracted third derivatives."""
        return self._summed(lambda _, part: part.third_along(direction))

    def fourth_with(self, forms: Tensor, matrix: Tensor) -> Tensor:
        """The sum of the contracted fourth derivatives."""
        return self._summed(lambda at, part: part.fourth_with(take(forms, at), matrix))

    def kurtosis(self, forms: Tensor, matrix: Tensor) -> Tensor:
        """The sum of the fourth derivatives contracted twice."""
        return self._summed(lambda at, part: part.kurtosis(take(forms, at), matrix))


class WithTerm(Curvature):
    """Derivatives of the losses of a table and of a further term in the latents.

    What is a function of linear predictors is of the table alone.

    Args:
        table: the derivatives of the table's losses.
        term: the further term.
        z: the latents, ``(..., N, l)``.
    """

    def __init__(self, table: Curvature, term: RowTerm, z: Tensor) -> None:
        self.problem, self.eta = table.problem, table.eta
        self._table, self._term, self._z = table, term, z

    def times(self, entries: Tensor) -> Tensor:
        """Products with the second derivatives of the table."""
        return self._table.times(entries)

    def gram(self) -> Tensor:
        """The sum of the second derivatives in the latents."""
        return self._table.gram() + self._term.information(self._z)

    def exact_gram(self) -> Tensor:
        """The same, summed in float64."""
        return self._table.exact_gram() + self._term.information(self._z.double())

    def forms(self, matrix: Tensor) -> Tensor:
        """The quadratic forms of the table."""
        return self._table.forms(matrix)

    def gram_slope(self, forms: Tensor) -> Tensor:
        """The gradient of the table's part."""
        return self._table.gram_slope(forms)

    def gram_pullback(self, matrix: Tensor, grad: Tensor) -> dict[str, Tensor]:
        """The gradients of the map's fields."""
        return self._table.gram_pullback(matrix, grad)

    def weight_slope(self, forms: Tensor) -> Tensor:
        """The gradients in the entry weights."""
        return self._table.weight_slope(forms)

    def third(self) -> Tensor:
        """The sum of the third derivatives."""
        return self._table.third() + self._term.third(self._z)

    def third_along(self, direction: Tensor) -> Tensor:
        """The sum of the third derivatives contracted with a vector."""
        of_term = torch.einsum("...abc,...c->...ab", self._term.third(self._z), direction)
        return self._table.third_along(direction) + of_term

    def fourth_with(self, forms: Tensor, matrix: Tensor) -> Tensor:
        """The sum of the fourth derivatives contracted with a matrix."""
        return self._table.fourth_with(forms, matrix) + self._term.fourth_with(self._z, matrix)

    def kurtosis(self, forms: Tensor, matrix: Tensor) -> Tensor:
        """The sum of the fourth derivatives contracted with a matrix twice."""
        of_term = (self._term.fourth_with(self._z, matrix) * matrix).sum((-2, -1))
        return self._table.kurtosis(forms, matrix) + of_term
