"""The estimation problem that the equilibrium layer solves: its data and its derivatives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_expfam.deq.canonical import refuse_link
from pyro_expfam.deq.symmetric import weighted_gram
from pyro_expfam.families import Family


@dataclass(frozen=True, eq=False)
class LatentProblem:
    r"""Finding the most probable latents of a table, given loading and intercept.

    Row ``s`` has latents :math:`z_s \sim N(0, \lambda^{-1} I)`, natural parameters
    :math:`\eta_s = W z_s + b + \text{offset}_s` and independent observations from ``family``.
    Minus the log posterior of the latents is, up to a constant,

    .. math:: f(z) = \tfrac{\lambda}{2} \|z\|^2 + \sum_i \omega_i \, \ell(\eta_i; y_i),

    with entry weights :math:`\omega` (0 for a missing entry) and the family's loss
    :math:`\ell`. Its root is the fixed point of equation (6) of the paper. Leading batch
    dimensions of all fields broadcast.

    Attributes:
        family: the law of the observations.
        statistic: sufficient statistics ``T(y)``, ``(..., N, d)``.
        W: loading, ``(..., d, l)``.
        b: intercept, ``(..., d)``.
        precision: precision of the latents, ``(...)``.
        offset: known part of the natural parameters, broadcastable to ``(..., N, d)``, or None.
        weights: entry weights, broadcastable to ``(..., N, d)``, or None.
    """

    family: Family
    statistic: Tensor
    W: Tensor
    b: Tensor
    precision: Tensor
    offset: Tensor | None = None
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        refuse_link(type(self.family))

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All fields but the family, in order."""
        return self.statistic, self.W, self.b, self.precision, self.offset, self.weights

    @property
    def batch_shape(self) -> torch.Size:
        """The leading batch dimensions of the solution."""
        if not self._has_batch_dims():
            return torch.Size()
        shapes = [self.statistic.shape[:-2], self.W.shape[:-2], self.b.shape[:-1]]
        shapes.append(self.precision.shape)
        shapes += [x.shape[:-2] for x in (self.offset, self.weights) if x is not None]
        return torch.broadcast_shapes(*shapes)

    def _has_batch_dims(self) -> bool:
        """Whether any field has batch dimensions; this is quicker than computing their shape."""
        return (
            self.statistic.dim() > 2
            or self.W.dim() > 2
            or self.b.dim() > 1
            or self.precision.dim() > 0
            or (self.offset is not None and self.offset.dim() > 2)
            or (self.weights is not None and self.weights.dim() > 2)
        )

    def distinct(self) -> LatentProblem:
        """The same problem with size 1 along batch dimensions in which every field is repeated.

        A vectorised plate repeats point estimates. The problem is then solved once, and the
        solution is broadcast.
        """
        rank = len(self.batch_shape)
        if not rank:
            return self
        fields = {
            "statistic": (self.statistic, 2),
            "W": (self.W, 2),
            "b": (self.b, 1),
            "precision": (self.precision, 0),
            "offset": (self.offset, 2),
            "weights": (self.weights, 2),
        }
        given = {name: (x, event) for name, (x, event) in fields.items() if x is not None}
        for dim in range(-rank, 0):
            along = [(x, dim - event) for x, event in given.values() if x.dim() >= event - dim]
            if all(x.stride(k) == 0 for x, k in along if x.shape[k] > 1):
                given = {
                    name: (x.narrow(dim - event, 0, 1) if x.dim() >= event - dim else x, event)
                    for name, (x, event) in given.items()
                }
        narrowed: dict[str, Any] = {name: x for name, (x, _) in given.items()}
        return replace(self, **narrowed)

    @property
    def num_rows(self) -> int:
        """The number of rows ``N``."""
        return self.statistic.shape[-2]

    @property
    def latent_dim(self) -> int:
        """The number of latents ``l``."""
        return self.W.shape[-1]

    def double(self) -> LatentProblem:
        """The same problem in float64."""
        fields: dict[str, Any] = {
            name: value.double() for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **fields)

    def rows(self, index: slice | Tensor) -> LatentProblem:
        """The same problem for some of the rows."""
        return replace(
            self,
            family=self.family.rows(index),
            statistic=self.statistic[..., index, :],
            offset=_rows(self.offset, index),
            weights=_rows(self.weights, index),
        )

    def natural_param(self, z: Tensor) -> Tensor:
        """Natural parameters ``W z + b + offset`` at latents ``(..., N, l)``."""
        eta = z @ self.W.mT + self.b.unsqueeze(-2)
        return eta if self.offset is None else eta + self.offset

    def objective(self, z: Tensor) -> Tensor:
        """Minus the log posterior at latents ``(..., N, l)``, up to a constant, ``(..., N)``."""
        entries = self.weighted(self.family.loss(self.natural_param(z), self.statistic))
        if self.weights is not None:
            # The loss of an entry without weight may be infinite, and zero times it is not zero.
            entries = entries.masked_fill((self.weights == 0) & entries.isnan(), 0.0)
        return 0.5 * self.precision[..., None] * z.square().sum(-1) + entries.sum(-1)

    def score(self, z: Tensor) -> Tensor:
        """Minus the gradient of :meth:`objective`, ``(..., N, l)``; zero at the root."""
        entries = self.weighted(self.family.score(self.natural_param(z), self.statistic))
        return entries @ self.W - self.precision[..., None, None] * z

    def information(self, z: Tensor) -> Tensor:
        r"""The information :math:`\lambda I + W^\top \mathrm{diag}(v) W`, ``(..., N, l, l)``.

        For a canonical family it is the Hessian of :meth:`objective` (appendix B of the paper).
        """
        return self.information_of(self.family.fisher_weight(self.natural_param(z)))

    def information_of(self, fisher_weight: Tensor) -> Tensor:
        """The information from Fisher weights of the entries, ``(..., N, d)``."""
        return weighted_gram(self.weighted(fisher_weight), self.W) + self.prior_information()

    def prior_information(self) -> Tensor:
        """The part of the information from the prior, ``(..., 1, l, l)``."""
        eye = torch.eye(self.latent_dim, dtype=self.W.dtype, device=self.W.device)
        return self.precision[..., None, None, None] * eye

    def weighted(self, entries: Tensor) -> Tensor:
        """Entries ``(..., N, d)`` times the entry weights."""
        return entries if self.weights is None else entries * self.weights


def _rows(entries: Tensor | None, index: slice | Tensor) -> Tensor | None:
    # A single row broadcasts to all rows.
    return entries if entries is None or entries.shape[-2] == 1 else entries[..., index, :]
