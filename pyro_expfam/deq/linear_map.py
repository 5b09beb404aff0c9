"""The linear map from latents to linear predictors, and what the layer needs of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_expfam.deq import symmetric
from pyro_expfam.families.kinds import At


class LinearMap(ABC):
    """A linear map of latents ``(..., N, l)`` to linear predictors ``(..., N, d)``.

    Write :math:`w_i` for the row of the map's matrix that belongs to column :math:`i` of a table.
    A map by a matrix that is a differentiable function of some tensors has :attr:`fields`,
    :meth:`with_fields` and :attr:`loading`; all else follows. A map without a matrix overrides all
    other functions.

    Example:
        A loading with two equal columns:

        >>> import torch
        >>> class Twice(LinearMap):
        ...     def __init__(self, half):
        ...         self.half = half
        ...     @property
        ...     def fields(self):
        ...         return {"half": self.half}
        ...     def with_fields(self, fields):
        ...         return Twice(**{**self.fields, **fields})
        ...     @property
        ...     def loading(self):
        ...         return torch.cat([self.half, self.half], -1)
        >>> Twice(torch.tensor([[1.0], [2.0]]))(torch.tensor([[3.0, 4.0]]))
        tensor([[ 7., 14.]])
    """

    @property
    @abstractmethod
    def fields(self) -> dict[str, Tensor]:
        """The tensors that gradients reach, by name, each with two event dimensions."""

    @abstractmethod
    def with_fields(self, fields: Mapping[str, Tensor]) -> LinearMap:
        """The same map with other tensors in some of its fields."""

    def double(self) -> LinearMap:
        """The same map in float64."""
        return self.with_fields({name: x.double() for name, x in self.fields.items()})

    @property
    def has_matrix(self) -> bool:
        """Whether the map has a :attr:`loading`. Without it solvers use products alone."""
        return True

    @property
    def loading(self) -> Tensor:
        """The matrix of the map, ``(..., d, l)``.

        Raises:
            TypeError: if the map is not given by a matrix.
        """
        raise TypeError(f"a map by a matrix is needed here, got {type(self).__name__}")

    def dense(self) -> Dense:
        """The same map by its matrix, which is formed once."""
        return Dense(self.loading)

    @property
    def num_features(self) -> int:
        """The number of linear predictors ``d`` per row."""
        return self.loading.shape[-2]

    @property
    def latent_dim(self) -> int:
        """The number of latents ``l`` per row."""
        return self.loading.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the map's numbers."""
        return self.loading.dtype

    @property
    def device(self) -> torch.device:
        """The device of the map's numbers."""
        return self.loading.device

    def __call__(self, z: Tensor) -> Tensor:
        """The linear predictors of latents, without intercept and offset."""
        return z @ self.loading.mT

    def transpose(self, entries: Tensor) -> Tensor:
        r""":math:`\sum_i r_{si} w_i` for entries ``(..., N, d)``, as ``(..., N, l)``."""
        return entries @ self.loading

    def gram(self, entries: Tensor) -> Tensor:
        r""":math:`\sum_i v_{si} w_i w_i^\top` for entries ``(..., N, d)``, ``(..., N, l, l)``."""
        return symmetric.weighted_gram(entries, self.loading)

    def gram_diagonal(self, entries: Tensor) -> Tensor:
        r""":math:`\sum_i v_{si} w_{ij}^2`, the diagonals of :meth:`gram`, ``(..., N, l)``."""
        return entries @ self.loading.square()

    def forms(self, matrix: Tensor) -> Tensor:
        r""":math:`w_i^\top C_s w_i` for symmetric ``C`` ``(..., N, l, l)``, as ``(..., N, d)``."""
        return symmetric.quadratic_forms(matrix, self.loading)

    def times(self, matrix: Tensor) -> Tensor:
        r""":math:`w_i^\top C_s` for ``C`` ``(..., N, l, k)``, as ``(..., N, d, k)``."""
        return self.loading.unsqueeze(-3) @ matrix

    def by_level(self, levels: int) -> Tensor:
        """The rows of the map, ``(..., columns, levels, l)``."""
        return self.loading.unflatten(-2, (-1, levels))

    def level_sums(self, probability: Tensor) -> Tensor:
        r""":math:`\sum_k p_{sck} w_{ck}` for ``(..., N, columns, levels)``, by column.

        The linear predictors are the levels of columns, side by side.
        """
        W = self.by_level(probability.shape[-1])
        return torch.einsum("...nck,...ckl->...ncl", probability, W)

    def at_levels(self, vectors: Tensor, levels: int) -> Tensor:
        r""":math:`w_{ck}^\top u_{sc}` for ``u`` ``(..., N, columns, l)``, by column and level."""
        return torch.einsum("...ncl,...ckl->...nck", vectors, self.by_level(levels))

    def pullback_at_levels(self, to_levels: Tensor, vectors: Tensor) -> dict[str, Tensor]:
        """Gradients of the map's fields, given the gradient of :meth:`at_levels`."""
        gradient = torch.einsum("...nck,...ncl->...ckl", to_levels, vectors).flatten(-3, -2)
        return self.pullback_of_loading(gradient)

    def of_whitened(self, factor: Tensor) -> LinearMap:
        r"""The map of :math:`F^\top z` for a lower triangular matrix ``F``, ``(..., l, l)``."""
        # Solves F X = W' for each table.
        return Dense(torch.linalg.solve_triangular(factor, self.loading.mT, upper=False).mT)

    def of_more_latents(self, before: int, after: int) -> LinearMap:
        """The map of more latents, on which the linear predictors do not depend."""
        return Dense(torch.nn.functional.pad(self.loading, (before, after)))

    def predictors(self, at: At) -> LinearMap:
        """The map to some of the linear predictors."""
        if isinstance(at, slice) and at == slice(0, self.num_features):
            return self
        return Dense(self.loading[..., at, :])

    def largest_norm(self) -> Tensor:
        r""":math:`\max_i \|w_i\|`, ``(...)``."""
        return self.loading.square().sum(-1).amax(-1).sqrt()

    def plus(self, b: Tensor, z: Tensor, out: Tensor) -> Tensor:
        """Linear predictors of latents ``(N, l)`` with intercept ``(d,)``, in memory ``out``."""
        return torch.addmm(b, z, self.loading.T, out=out)

    def cubes(self, entries: Tensor) -> Tensor:
        r""":math:`\sum_i k_{si}\, w_i \otimes w_i \otimes w_i`, as ``(..., N, l, l, l)``."""
        return symmetric.weighted_cubes(entries, self.loading)

    def pullback(self, to_predictor: Tensor, z: Tensor) -> dict[str, Tensor]:
        """Gradients of the map's fields, given the gradient of its value at ``z``."""
        return self.pullback_of_loading(to_predictor.mT @ z)

    def pullback_of_forms(self, to_forms: Tensor, matrix: Tensor) -> dict[str, Tensor]:
        """Gradients of the map's fields, given the gradient of :meth:`forms`."""
        gradient = 2 * symmetric.weighted_products(to_forms, matrix, self.loading)
        return self.pullback_of_loading(gradient)

    def without_first_latent(self) -> tuple[Tensor, LinearMap]:
        """The linear predictors of the first latent per unit, and the map of all others."""
        return self.loading[..., 0], Dense(self.loading[..., 1:])

    def pullback_of_loading(self, gradient: Tensor) -> dict[str, Tensor]:
        """Gradients of the map's fields, given the gradient of the loading."""
        fields = self.fields

        def loading(*tensors: Tensor) -> Tensor:
            of_tensors = self.with_fields(dict(zip(fields, tensors, strict=True)))
            return of_tensors.loading.expand(gradient.shape)

        pull_back = torch.func.vjp(loading, *fields.values())[1]
        return dict(zip(fields, pull_back(gradient), strict=True))


def stacked(maps: Sequence[LinearMap], batch_shape: torch.Size) -> LinearMap:
    """The map to the linear predictors of several maps of the same latents, side by side."""
    loadings = [part.loading for part in maps]
    return Dense(torch.cat([x.expand(*batch_shape, *x.shape[-2:]) for x in loadings], -2))


@dataclass(frozen=True, eq=False)
class Dense(LinearMap):
    """A map by a matrix, the loading.

    Args:
        W: the loading, ``(..., d, l)``.

    Example:
        >>> import torch
        >>> from pyro_expfam.deq import Dense
        >>> Dense(torch.tensor([[1.0], [2.0]]))(torch.tensor([[3.0]]))
        tensor([[3., 6.]])
    """

    W: Tensor

    @property
    def fields(self) -> dict[str, Tensor]:
        """The loading, by the name ``W``."""
        return {"W": self.W}

    def with_fields(self, fields: Mapping[str, Tensor]) -> Dense:
        """The map by another loading, if there is one."""
        return Dense(fields["W"]) if fields else self

    @property
    def loading(self) -> Tensor:
        """The loading."""
        return self.W

    def dense(self) -> Dense:
        """The map itself."""
        return self

    def pullback_of_loading(self, gradient: Tensor) -> dict[str, Tensor]:
        """The gradient itself, by the name ``W``."""
        return {"W": gradient}
