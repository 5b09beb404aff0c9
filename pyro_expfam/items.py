"""Item response: discriminations, difficulties and information of the columns of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families import Family
from pyro_expfam.families.kinds import Kind
from pyro_expfam.guides import LaplaceGuide
from pyro_expfam.guides.block_guide import BlockGuide
from pyro_expfam.guides.coefficient_guide import CoefficientGuide
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.plots import plot_information
from pyro_expfam.table_labels import label_index

NUM_DRAWS = 2000
"""Draws of loading and intercept behind the intervals."""

WIDEST = 4.0
"""Curves go from minus to plus so many standard deviations of the latents."""

NUM_POINTS = 161
"""Latents at which curves are drawn."""


@dataclass(frozen=True, eq=False, repr=False)
class ItemResponse:
    r"""The items of a questionnaire, in units of the standard deviation of the latents.

    Attributes:
        names: the names of the items.
        discrimination: how well an item tells latents apart, ``(d,)``: the loading under one
            latent, its length :math:`\|w\|` under several (MDISC).
        difficulty: where on the latent an answer of at least ``k`` is as probable as a lower one,
            ``(d, K - 1)``, NaN beyond the last answer of an item: :math:`(c_k - b) / w`, and
            :math:`(c_k - b) / \|w\|` along the direction of the item under several latents (MDIFF).
        direction: the direction cosines of the items, ``(d, l)``.
        discrimination_interval: the ends of intervals, ``(2, d)``, or None.
        difficulty_interval: the ends of intervals, ``(2, d, K - 1)``, or None.
        level: the probability of the intervals.
    """

    names: tuple[str, ...]
    discrimination: Tensor
    difficulty: Tensor
    direction: Tensor
    discrimination_interval: Tensor | None
    difficulty_interval: Tensor | None
    level: float
    _kinds: tuple[Kind, ...]
    _loading: Tensor
    _intercept: Tensor

    def information(self, latents: Any, direction: Any = None) -> Tensor:
        r"""The Fisher information of each item about a latent, ``(K, d)``.

        It is :math:`(w^\top u)^2\, E[\ell''(\eta; y)]` in the direction :math:`u`. The sum over
        items is the information of the whole test, and one over the root of one plus this sum is
        about the standard deviation of the posterior of a latent there.

        Args:
            latents: ``(K,)`` or ``(K, l)``, in units of their standard deviation.
            direction: a direction of the latents, ``(l,)``; it must be given under several latents.

        Raises:
            ValueError: if a shape does not fit, or ``direction`` is missing.

        Source: Samejima (1969) for ordered answers; Reckase and McKinley (1991) for directions.
        """
        z = torch.as_tensor(latents).to(self._loading)
        size = self._loading.shape[1]
        z = z.unsqueeze(-1) if z.dim() == 1 and size == 1 else z
        if z.dim() != 2 or z.shape[1] != size:
            wanted = "(K,)" if size == 1 else f"(K, {size})"
            raise ValueError(f"latents must be of shape {wanted}, got {tuple(z.shape)}")
        along = self._loading @ self._unit(direction)
        eta = z @ self._loading.T + self._intercept
        found = torch.zeros_like(eta)
        for kind in self._kinds:
            found[:, kind.columns] = _expected_information(kind.family, eta[:, kind.columns])
        return along.square() * found

    def _unit(self, direction: Any) -> Tensor:
        size = self._loading.shape[1]
        if direction is None:
            if size > 1:
                raise ValueError(
                    f"direction must be given for {size} latents, such as [1, 0], got none"
                )
            return self._loading.new_ones(1)
        unit = torch.as_tensor(direction).to(self._loading)
        if unit.shape != (size,) or not bool(unit.norm() > 0):
            raise ValueError(
                f"direction must be {size} numbers that are not all zero, got {direction!r}"
            )
        return unit / unit.norm()

    @property
    def table(self) -> Any:
        """Discriminations and difficulties as a :class:`pandas.DataFrame`, by item."""
        import pandas as pd

        columns = {"discrimination": self.discrimination}
        columns |= _ends("discrimination", self.discrimination_interval)
        for k in range(self.difficulty.shape[1]):
            name = "difficulty" if self.difficulty.shape[1] == 1 else f"difficulty_{k + 1}"
            columns[name] = self.difficulty[:, k]
            if self.difficulty_interval is not None:
                columns |= _ends(name, self.difficulty_interval[..., k])
        if self.direction.shape[1] > 1:
            columns |= {f"direction_{k}": x for k, x in enumerate(self.direction.T)}
        values = {name: x.cpu().numpy() for name, x in columns.items()}
        return pd.DataFrame(values, index=label_index(self.names, "item"))

    def plot(self, direction: Any = None, ax: Any = None) -> Any:
        """A picture of the information, by :func:`~pyro_expfam.plots.plot_information`.

        Args:
            direction: as in :meth:`information`; the latents go along it through zero.
            ax: axes to draw on.
        """
        along = torch.linspace(-WIDEST, WIDEST, NUM_POINTS).to(self._loading)
        information = self.information(along.outer(self._unit(direction)), direction)
        return plot_information(along, information, names=list(self.names), ax=ax)

    def __repr__(self) -> str:
        """The table as text."""
        text: str = self.table.to_string(float_format="{:,.2f}".format)
        return text


@torch.no_grad()
def item_response(
    guide: BlockGuide, names: Sequence[Any] | None = None, level: float = 0.9
) -> ItemResponse:
    r"""The items of a fitted questionnaire: discriminations, difficulties and information.

    The columns of the table are items with finitely many ordered answers: bits, binomial counts,
    ordered answers, or a mixture of them. With the linear predictor :math:`w z + b` of an item the
    discrimination is :math:`w` and the difficulty :math:`-b / w`: the two-parameter logistic model
    for bits, and the graded response model for ordered answers. Under several latents they are the
    multidimensional ones of Reckase. The sign of a single latent, which no table determines, is
    such that discriminations have a positive sum.

    A guide with the posterior of loading and intercept, ``globals="laplace"``, gives intervals.
    They take cut points for known.

    Args:
        guide: a fitted guide, whose model is a block.
        names: the names of the items; by default the columns of the data frame that the guide was
            fitted to, or numbers.
        level: the probability of the intervals.

    Raises:
        TypeError: if the model of the guide is no block.
        ValueError: if columns have infinitely many answers, or answers without an order; if the
            latents have no common scale, ``names`` are too few or too many, or ``level`` is not
            between 0 and 1.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> _ = torch.manual_seed(0)
        >>> ability = torch.randn(300, 1)
        >>> y = torch.bernoulli((ability * torch.tensor([1.0, 2.0, 1.0, 1.5]) + 0.5).sigmoid())
        >>> guide = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Bernoulli(), 4, 1))
        >>> fit = guide.fit(y, loss=pef.LaplaceEvidence(nodes=9))
        >>> items = pef.item_response(guide)
        >>> items.discrimination.shape, items.difficulty.shape
        (torch.Size([4]), torch.Size([4, 1]))
        >>> items.information([-1.0, 0.0, 1.0]).shape
        torch.Size([3, 4])

    Source: Birnbaum (1968); Samejima (1969); Reckase (1985), *The difficulty of test items that
    measure more than one ability*.
    """
    block = guide.model
    if not isinstance(block, ExpFamPCA):
        raise TypeError(f"guide must be of a block, an ExpFamPCA, got {type(block).__name__}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    if block.row_effect is not None:
        raise ValueError(
            "guide must be of a block without row effects, which are one more ability with equal "
            f"discriminations, got row_effect={block.row_effect!r}: take one more latent"
        )
    if not block.has_isotropic_latents:
        raise ValueError(
            "the latents must have one precision for units that all items share, got a prior of "
            "another form: pass latent_precision as a number"
        )
    known = guide.block()
    unit = known.latent_precision.double().rsqrt()
    loading, intercept = known.loading.double() * unit, known.intercept.double()
    kinds = block.family.kinds(block.num_features)
    _check_answers(kinds)
    cuts = _cut_points(kinds, block.num_features).to(loading)
    draws = _draws(guide, unit)
    sign = loading.new_tensor(1.0)
    if block.latent_dim == 1 and float(loading.sum()) < 0:
        sign = -sign
    discrimination, difficulty = _parameters(sign * loading, intercept, cuts)
    of_discrimination = of_difficulty = None
    if draws is not None:
        tails = loading.new_tensor([(1 - level) / 2, (1 + level) / 2])
        drawn = _parameters(sign * draws[0], draws[1], cuts)
        of_discrimination, of_difficulty = (torch.quantile(x, tails, 0) for x in drawn)
    return ItemResponse(
        _names(guide, names, block.num_features),
        discrimination,
        difficulty,
        sign * loading / discrimination.unsqueeze(-1),
        of_discrimination,
        of_difficulty,
        level,
        kinds,
        sign * loading,
        intercept,
    )


def _parameters(loading: Tensor, intercept: Tensor, cuts: Tensor) -> tuple[Tensor, Tensor]:
    """Discriminations ``(..., d)`` and difficulties ``(..., d, K - 1)``."""
    length = loading[..., 0] if loading.shape[-1] == 1 else loading.norm(dim=-1)
    return length, (cuts - intercept.unsqueeze(-1)) / length.unsqueeze(-1)


def _check_answers(kinds: tuple[Kind, ...]) -> None:
    """Raises a ValueError unless columns have finitely many ordered answers."""
    for kind in kinds:
        part = kind.family
        support = part.support
        is_finite = support is constraints.boolean or isinstance(
            support, constraints.integer_interval
        )
        if not is_finite or part.predictors_per_column > 1:
            raise ValueError(
                "guide must be of columns with finitely many ordered answers, such as Bernoulli(), "
                f"Binomial(4) and Ordinal(5), got {part}"
            )


def _highest(family: Family) -> Tensor:
    """The number of the last answer, one for all columns or one per column."""
    support: Any = family.support
    return torch.as_tensor(getattr(support, "upper_bound", 1))


def _cut_points(kinds: tuple[Kind, ...], num_features: int) -> Tensor:
    """Linear predictors at which an answer of at least ``k`` has the probability one half.

    For binomial counts it is the one where half of the total is expected. They are ``(d, K - 1)``,
    with NaN beyond the last of an item.
    """
    found = []
    for kind in kinds:
        family, width = kind.family, kind.width
        like = torch.zeros((), dtype=torch.float64)
        if hasattr(family, "cut_points"):
            found.append(family.cut_points(like).expand(width, -1))
        else:
            half = (_highest(family).to(like) / 2).expand(width)
            found.append(family.predictor(half).unsqueeze(-1))
    most = max(x.shape[1] for x in found)
    cuts = torch.full((num_features, most), math.nan, dtype=torch.float64)
    for kind, own in zip(kinds, found, strict=True):
        cuts[kind.columns, : own.shape[1]] = own
    return cuts


def _expected_information(family: Family, eta: Tensor) -> Tensor:
    """The expected second derivative of the loss at linear predictors ``(K, d)``."""
    highest = _highest(family).to(eta)
    total = torch.zeros_like(eta)
    for answer in range(int(highest.max()) + 1):
        y = torch.full_like(eta, answer)
        is_possible = y <= highest
        y = torch.where(is_possible, y, 0.0)
        share = torch.where(is_possible, family.log_prob(y, eta).exp(), 0.0)
        total += share * family.curvature(eta, y)
    return total


def _draws(guide: BlockGuide, unit: Tensor) -> tuple[Tensor, Tensor] | None:
    """Loadings and intercepts from their posterior, where the guide has it, the same each time."""
    if not isinstance(guide, LaplaceGuide) or not isinstance(guide.global_guide, CoefficientGuide):
        return None
    posterior = guide.coefficients
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(NUM_DRAWS, posterior.noise_dim, generator=generator)
    drawn = posterior.draw(noise.to(posterior.mean)).double()
    size = guide.loading.shape[1]
    return drawn[..., :size] * unit, drawn[..., size]


def _names(guide: BlockGuide, names: Sequence[Any] | None, num_features: int) -> tuple[str, ...]:
    found = guide.column_labels() if names is None else list(names)
    if found is None:
        found = list(range(num_features))
    if len(found) != num_features:
        raise ValueError(f"names must be {num_features} names, got {len(found)}")
    return tuple(map(str, found))


def _ends(name: str, interval: Tensor | None) -> dict[str, Tensor]:
    """The two ends of an interval by name."""
    return {} if interval is None else {f"{name}_low": interval[0], f"{name}_high": interval[1]}
