"""Whether what was learnt of the spread of columns estimates a spread."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.checks.estimates import parts_of_rows
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.evidence.expansion import Expansion
from pyro_expfam.families.kinds import Kind, places, take
from pyro_expfam.guides.group_root import GroupRoot, TableRoot
from pyro_expfam.guides.table_objective import learnt_of

SPREADS = ("scale", "shape", "precision", "dispersion", "size")
"""What parameters are called that say how much a column varies around its means."""

COPIED = 0.99
"""A latent copies a column if this part of what rows know of its linear predictors is from its own
entries. In fits of the model's own tables of 5 to 30 columns, with 2 and 5 latents, it was at most
0.8 where the scale was learnt rightly, and above 0.99 where the scale had fallen."""

EXACT = 1e6
"""Latents explain a column exactly if its means vary with this many times the variance of the
observations: a thousand standard deviations of the noise."""

INFINITE_SIZE, NO_SCALE = 1e5, 1e-3
"""Counts of a larger size, or a smaller normal scale, are Poisson counts."""


class LearntSpread(NamedTuple):
    """What a check finds of a learnt scale, shape, precision, dispersion or size.

    Attributes:
        name: its name in the family.
        of_latents: the part of what is known of the linear predictors of each column that is from
            the column itself, ``(columns,)``. It is the leverage of an entry on its own predictor.
        signal: the variance of the means of each column relative to the variance of its
            observations, ``(columns,)``.
        values: the parameter of each column, ``(columns,)``.
        columns: the places of the columns in the table.
        is_shared: whether one value is for all of them.
        is_discrete: whether observations are counts, whose spread has a least value.
        prior_scale: the standard deviation of the prior of its logarithm, or None for a flat one.
    """

    name: str
    of_latents: Tensor
    signal: Tensor
    values: Tensor
    columns: list[int]
    is_shared: bool
    is_discrete: bool
    prior_scale: float | None

    @property
    def copied(self) -> dict[int, float]:
        """Columns that a latent copies, with their values."""
        return {} if self.is_shared else self._where(self.of_latents > COPIED)

    @property
    def explained(self) -> dict[int, float]:
        """Columns of real numbers that latents and covariates explain exactly."""
        signal = self.signal.mean().expand_as(self.signal) if self.is_shared else self.signal
        return {} if self.is_discrete else self._where(signal > EXACT)

    @property
    def poisson(self) -> dict[int, float]:
        """Columns of counts that vary as Poisson counts do."""
        if not self.is_discrete:
            return {}
        is_size = self.name.endswith("size")
        return self._where(self.values > INFINITE_SIZE if is_size else self.values < NO_SCALE)

    def _where(self, which: Tensor) -> dict[int, float]:
        return {self.columns[int(k)]: float(self.values[int(k)]) for k in which.nonzero().flatten()}


@torch.no_grad()
def learnt_spreads(table: TableRoot, group: GroupRoot) -> tuple[LearntSpread, ...]:
    """What was learnt of the spread of the columns of a table.

    A latent that copies a column is a Heywood case of factor analysis. The likelihood then goes on
    as the noise of the column falls, and only priors hold it.

    Args:
        table: the table.
        group: its latents at the root, under the coefficients at the end of training.

    Source: Jöreskog, *Some contributions to maximum likelihood factor analysis* (1967).
    """
    block = table.sites.block
    kinds = [
        (kind, name, own)
        for kind in table.likelihood.kinds
        for name, own in learnt_of(block, kind).items()
        if own in SPREADS
    ]
    if not kinds or table.latents is None:
        return ()
    leverage, signal = _leverage_and_signal(table, group)
    return tuple(_of_kind(table, kind, name, own, leverage, signal) for kind, name, own in kinds)


def _of_kind(
    table: TableRoot, kind: Kind, name: str, own: str, leverage: Tensor, signal: Tensor
) -> LearntSpread:
    block = table.sites.block
    value, prior = block._point(name).double(), block.common_prior(name)
    of_kind = take(leverage, kind.predictors)
    return LearntSpread(
        own,
        of_kind,
        take(signal, kind.predictors),
        value.to(of_kind).expand_as(of_kind),
        places(kind.columns, table.likelihood.num_columns),
        value.dim() == 0,
        kind.family.support.is_discrete,
        None if prior is None else prior.scale,
    )


def _leverage_and_signal(table: TableRoot, group: GroupRoot) -> tuple[Tensor, Tensor]:
    """Means over rows of the leverage of entries, and signal relative to noise, ``(d,)``."""
    problem, z = table.likelihood.double(), table.z.double()
    whole, root = group.problem.double(), group.solution.value.double()
    sums = z.new_zeros(5, problem.num_features)
    for part in parts_of_rows(whole if table.latent_rows is None else problem):
        at = part if table.latent_rows is None else table.latent_rows[part]
        covariance = Expansion(whole.rows(at), root[at]).definite_covariance
        own = covariance[..., table.latents, table.latents]
        sums += _sums(problem.rows(part), z[part], own)
    (sums,) = problem.sum(sums)
    leverage, count, first, second, weight = sums
    spread = second - first.square() / weight.clamp(min=torch.finfo(weight.dtype).tiny)
    count = count.clamp(min=1)
    return leverage / count, spread / count


def _sums(rows: LatentProblem, z: Tensor, covariance: Tensor) -> Tensor:
    """Sums over rows of leverages, of present entries, and of moments of the means, ``(5, d)``."""
    eta = rows.predictor(z)
    information = rows.informations(eta)
    present = torch.ones_like(eta) if rows.weights is None else (rows.weights > 0).expand_as(eta)
    moving = eta - rows.b.unsqueeze(-2)
    entries = (
        information * rows.map.forms(covariance),
        present,
        information * moving,
        information * moving.square(),
        information,
    )
    return torch.stack([x.sum(0) for x in entries])
