"""The part of the deviance of a table that latents explain, by column and by component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_expfam.checks import deviance_explained, deviance_explained_by_column
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.row_block import row_tiles
from pyro_expfam.guides import BlockGuide
from pyro_expfam.loadings.column_names import column_names, single_block
from pyro_expfam.loadings.components import Components, orthonormal_components
from pyro_expfam.table_labels import label_index


@dataclass(frozen=True, eq=False)
class ExplainedDeviance:
    """The result of :func:`explained_deviance`; printed, it is a table.

    A row effect stands after the components, as one more of them.

    Attributes:
        names: the names of the columns.
        by_column: the part of the deviance of each column that the latents explain, ``(d,)``.
        by_component: the part of the deviance of the table that each component explains, ``(l,)``,
            which add up to ``total``.
        share: the part of what is explained of a column that each component explains, ``(d, l)``.
        total: the part of the deviance of the table that the latents explain, as
            :func:`~pyro_expfam.deviance_explained` has it.
        components: the components, by falling part of the deviance.
    """

    names: list[Any]
    by_column: Tensor
    by_component: Tensor
    share: Tensor
    total: float
    components: Components

    @property
    def table(self) -> Any:
        """The parts by column and component as a data frame."""
        import pandas as pd

        parts = self.by_column[:, None] * self.share
        names = [f"component {k}" for k in range(len(self.components.rows))]
        names += ["row effect"] * (parts.shape[1] - len(names))
        columns = {name: x.numpy() for name, x in zip(names, parts.unbind(1), strict=True)}
        frame = pd.DataFrame(
            {"explained": self.by_column.numpy(), **columns},
            index=label_index(self.names),
        )
        frame.loc["whole table"] = [self.total, *self.by_component.tolist()]
        return frame

    def __str__(self) -> str:
        return str(self.table.to_string(float_format="{:.3f}".format))


@torch.no_grad()
def explained_deviance(
    guide: BlockGuide,
    y: Any,
    offset: Any = None,
    mask: Any = None,
    weights: Any = None,
    covariates: Any = None,
) -> ExplainedDeviance:
    r"""The part of the deviance of a table that latents explain, by column and by component.

    It is :math:`1 - D / D_0` as in :func:`~pyro_expfam.deviance_explained`, of each column and of
    the whole table. What is explained is divided among orthonormal components of the loading in
    proportion to the deviance that comes back when a component is left out. In a Gaussian table
    the parts are parts of the variance, as for principal components, but for a share
    :math:`(\sigma^2 / \lambda)^2` of each: latents are drawn towards zero, at a variance
    :math:`\sigma^2` of the noise and an eigenvalue :math:`\lambda` of the covariance.

    Args:
        guide: a fitted guide of a single block.
        y: observations, ``(N, d)``, of rows seen in training or new.
        offset: known part of the natural parameters, broadcastable to ``(N, d)``.
        mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
        weights: non-negative weights of the log densities of entries, broadcastable to ``(N, d)``.
        covariates: known numbers of each row, ``(N, p)``.

    Raises:
        TypeError: if ``guide`` is no guide of this package.
        ValueError: if its model is no single block with a dense loading.

    Source: McCullagh and Nelder (1989), section 2.3.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> y = torch.poisson(torch.exp(torch.randn(100, 2) @ torch.randn(2, 8)))
        >>> guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Poisson(), 8, latent_dim=2))
        >>> _ = guide.fit(y)
        >>> found = pef.explained_deviance(guide, y)
        >>> abs(found.total - pef.deviance_explained(guide, y)) < 1e-5
        True
    """
    block = single_block(guide)
    table = (y, offset, mask, weights, covariates)
    total = deviance_explained(guide, *table)
    (root,) = guide.roots(*table)
    problem, z = root.problem.double(), root.solution.value.double()
    units, W = problem.family.predictor_unit.double(), guide.loading.double()
    components = orthonormal_components(
        W * (units[:, None] if units.dim() == 1 else units),
        guide.block().latent_precision.double(),
    )
    # With more latents than columns there are as many components as columns.
    whole, size = _deviances(problem, z), len(components.rows)
    without = [_without(z, components, k) for k in range(size)]
    if block.row_effect is not None:
        without.append(torch.nn.functional.pad(z[:, : block.latent_dim], (0, 1)))
    back = torch.stack([_deviances(problem, at) - whole for at in without])
    if problem.family.is_coupled and not problem.family.has_levels:
        # Terms of the deviance of a composition belong to the row, and may be negative.
        back = back.sum(1, keepdim=True).expand_as(back) / back.shape[1]
    back = back.clamp(min=0)
    order = torch.argsort(back[:size].sum(1), descending=True, stable=True)
    back, tiny = torch.cat([back[order], back[size:]]), torch.finfo(back.dtype).tiny
    return ExplainedDeviance(
        column_names(guide),
        deviance_explained_by_column(guide, *table),
        total * back.sum(1) / back.sum().clamp(min=tiny),
        (back / back.sum(0).clamp(min=tiny)).mT,
        total,
        components.of_rank(order),
    )


def _without(z: Tensor, components: Components, place: int) -> Tensor:
    """Latents whose score along one component is zero; a row effect stays."""
    removed = components.from_scores[:, place, None] @ components.to_scores[None, place]
    size = len(removed)
    return torch.cat([z[:, :size] - z[:, :size] @ removed.mT, z[:, size:]], 1)


def _deviances(problem: LatentProblem, z: Tensor) -> Tensor:
    """The deviance of each column of the table, ``(columns,)``."""
    total: Any = 0.0
    for tile in row_tiles(problem):
        rows = problem.rows(tile)
        found = rows.family.deviance(rows.y, rows.predictor(z[tile]))
        if rows.weights is not None:
            found = torch.where(rows.weights > 0, rows.weights * found, 0.0)
        total = total + found.sum(0)
    zero = z.new_zeros(problem.num_columns)
    return zero.index_add(0, problem.column_of_predictor, total)
