"""Several laws side by side: each for its own columns of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Self

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.base import Family
from pyro_expfam.families.entries import Entries


class Columns(Family):
    """A law for each group of adjacent columns.

    The linear predictors and observations of the groups stand side by side in the last dimension.

    Args:
        parts: the families with their numbers of columns, from left to right.

    Raises:
        ValueError: if there is no part, or a part has no columns.

    Example:
        >>> import torch
        >>> from pyro_expfam import families
        >>> family = families.Columns([(families.Bernoulli(), 1), (families.Poisson(), 2)])
        >>> family.expected_y(torch.zeros(3))
        tensor([0.5000, 1.0000, 1.0000])
    """

    def __init__(self, parts: Iterable[tuple[Family, int]]) -> None:
        self.parts = tuple(parts)
        if not self.parts or any(width < 1 for _, width in self.parts):
            raise ValueError(
                f"parts must be families with numbers of columns of at least 1, got {self.parts}"
            )

    def __repr__(self) -> str:
        """The parts with their numbers of columns."""
        parts = ", ".join(f"({family}, {width})" for family, width in self.parts)
        return f"Columns([{parts}])"

    @property
    def num_columns(self) -> int:
        """The number of columns of a table."""
        return sum(width for _, width in self.parts)

    @property
    def self_concordance(self) -> float | None:  # type: ignore[override]
        """The largest bound of the parts; None if a part has none, or couples its predictors."""
        bounds = [family.self_concordance for family, _ in self.parts]
        if self.is_coupled or any(bound is None for bound in bounds):
            return None
        return max(bound for bound in bounds if bound is not None)

    @property
    def is_convex(self) -> bool:  # type: ignore[override]
        """Whether the losses of all parts are convex."""
        return all(family.is_convex for family, _ in self.parts)

    @property
    def bounded_variance(self) -> bool:  # type: ignore[override]
        """Whether the information of all parts has an upper bound."""
        return all(family.bounded_variance for family, _ in self.parts)

    @property
    def is_coupled(self) -> bool:
        """Whether an observation of some part has several linear predictors."""
        return any(
            family.levels_among(at.stop - at.start) > 1 for family, at in self.predictor_parts()
        )

    def predictor_parts(self) -> Iterator[tuple[Family, slice]]:
        """The families with the places of their linear predictors."""
        begin = 0
        for family, width in self.parts:
            end = begin + width * family.predictors_per_column
            yield family, slice(begin, end)
            begin = end

    @property
    def support(self) -> constraints.Constraint:
        """The supports of the parts, by column."""
        return constraints.cat(
            [family.support for family, _ in self.parts],
            dim=-1,
            lengths=[width for _, width in self.parts],
        )

    @property
    def placeholder(self) -> Tensor:
        """A possible observation of each column, ``(d,)``."""
        values = [torch.as_tensor(family.placeholder).expand(width) for family, width in self.parts]
        return torch.cat(values)

    def possible_rows(self, num_columns: int) -> Tensor:
        """Possible observations of a whole row, of each part side by side."""
        del num_columns
        parts = [family.possible_rows(width) for family, width in self.parts]
        batch_shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return torch.cat([part.expand(*batch_shape, part.shape[-1]) for part in parts], -1)

    def check_rows(
        self, y: Tensor, mask: Tensor | None, weights: Tensor | None, dtype: torch.dtype
    ) -> None:
        """Raises a ValueError unless the rows of each part are possible as a whole."""
        begin = 0
        for family, width in self.parts:
            at = slice(begin, begin + width)
            mask_, weights_ = (
                x if x is None or x.shape[-1] == 1 else x[..., at] for x in (mask, weights)
            )
            family.check_rows(y[..., at], mask_, weights_, dtype)
            begin += width

    def encode(self, y: Tensor) -> Tensor:
        """Observations in the shape of their linear predictors."""
        widths = [width for _, width in self.parts]
        groups = zip(self.parts, y.split(widths, -1), strict=True)
        return torch.cat([family.encode(part) for (family, _), part in groups], -1)

    def decode(self, y: Tensor) -> Tensor:
        """The inverse of :meth:`encode`."""
        return torch.cat([family.decode(y[..., at]) for family, at in self.predictor_parts()], -1)

    def log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """The log densities of the entries."""
        return self._by_part(lambda family, eta, y: family.log_prob(y, eta), eta, y)

    @torch.no_grad()
    def sample(self, eta: Tensor, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape ``sample_shape + eta.shape``."""
        return self._by_part(lambda family, eta: family.sample(eta, sample_shape), eta)

    def expected_y(self, eta: Tensor) -> Tensor:
        """The means of the observations."""
        return self._by_part(lambda family, eta: family.expected_y(eta), eta)

    def variance_of_y(self, eta: Tensor) -> Tensor:
        """The variances of the observations."""
        return self._by_part(lambda family, eta: family.variance_of_y(eta), eta)

    def predictor(self, y: Tensor) -> Tensor:
        """The linear predictors at which ``y`` are the means."""
        return self._by_part(lambda family, y: family.predictor(y), y)

    def deviance(self, y: Tensor, eta: Tensor) -> Tensor:
        """The deviances of the entries."""
        return self._by_part(lambda family, *at: family.deviance(*at), y, eta)

    def saturated_log_prob(self, y: Tensor) -> Tensor:
        """The largest log densities of the entries."""
        return self._by_part(lambda family, y: family.saturated_log_prob(y), y)

    def convex_conjugate(self, mean: Tensor) -> Tensor:
        """The convex conjugates of the parts."""
        return self._by_part(lambda family, mean: family.convex_conjugate(mean), mean)

    def bregman_divergence(self, y: Tensor, mean: Tensor) -> Tensor:
        """The divergences of the entries."""
        return self._by_part(lambda family, *at: family.bregman_divergence(*at), y, mean)

    def log_base_measure(self, y: Tensor) -> Tensor:
        """The terms of the log densities that the losses leave out."""
        return self._by_part(lambda family, y: family.log_base_measure(y), y)

    def loss(self, eta: Tensor, y: Tensor) -> Tensor:
        """The losses of the entries."""
        return self._by_part(lambda family, *at: family.loss(*at), eta, y)

    def score(self, eta: Tensor, y: Tensor) -> Tensor:
        """The scores of the entries."""
        return self._by_part(lambda family, *at: family.score(*at), eta, y)

    def curvature(self, eta: Tensor, y: Tensor) -> Tensor:
        """The second derivatives of the losses."""
        return self._by_part(lambda family, *at: family.curvature(*at), eta, y)

    def information(self, eta: Tensor, y: Tensor) -> Tensor:
        """The informations of the entries."""
        return self._by_part(lambda family, *at: family.information(*at), eta, y)

    def third_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The third derivatives of the losses."""
        return self._by_part(lambda family, *at: family.third_derivative(*at), eta, y)

    def fourth_derivative(self, eta: Tensor, y: Tensor) -> Tensor:
        """The fourth derivatives of the losses."""
        return self._by_part(lambda family, *at: family.fourth_derivative(*at), eta, y)

    def entries(self, y: Tensor) -> Entries:
        """Observations as functions of their linear predictors, as solvers take them."""
        return ColumnsEntries([(at, f.entries(y[..., at])) for f, at in self.predictor_parts()], y)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters of the parts, by the number of the part and their name."""
        return {
            f"{number}.{name}": value
            for number, (family, _) in enumerate(self.parts)
            for name, value in family.parameters.items()
        }

    def with_parameters(self, parameters: dict[str, Tensor]) -> Self:
        """The same laws with other tensors as parameters."""
        return self._with_families(
            family.with_parameters(
                {
                    name: parameters[key]
                    for name in family.parameters
                    if (key := f"{number}.{name}") in parameters
                }
            )
            for number, (family, _) in enumerate(self.parts)
        )

    def rows(self, index: slice | Tensor) -> Self:
        """The laws of some rows of a table."""
        if not self.differs_by_row:
            return self
        return self._with_families(family.rows(index) for family, _ in self.parts)

    def check_known(self) -> None:
        """Raises a ValueError if a parameter of a part is still to be learnt."""
        for family, _ in self.parts:
            family.check_known()

    def _with_families(self, families: Iterable[Family]) -> Self:
        widths = [width for _, width in self.parts]
        return type(self)(zip(families, widths, strict=True))

    def _by_part(self, function: Callable[..., Tensor], *entries: Tensor) -> Tensor:
        """A function of each part's entries, side by side."""
        return torch.cat(
            [
                function(family, *(x[..., at] for x in entries))
                for family, at in self.predictor_parts()
            ],
            -1,
        )


class ColumnsEntries:
    """Entries of several laws side by side.

    Args:
        parts: the entries of each law, with the places of their linear predictors.
        y: all observations, ``(..., N, d)``.
    """

    predictors_per_column = 1

    def __init__(self, parts: list[tuple[slice, Entries]], y: Tensor) -> None:
        self._parts, self._y = parts, y
        self.differs_by_row = any(part.differs_by_row for _, part in parts)

    @property
    def statistic(self) -> Tensor:
        """The factors of the linear parts, zero where a law has none."""
        statistics = [(at, part.statistic) for at, part in self._parts]
        return torch.cat(
            [torch.zeros_like(self._y[..., at]) if x is None else x for at, x in statistics], -1
        )

    def rows(self, index: Tensor) -> Entries:
        """The entries of some rows, as far as their functions are concerned."""
        if not self.differs_by_row:
            return self
        return ColumnsEntries([(at, part.rows(index)) for at, part in self._parts], self._y)

    def mean(self, eta: Tensor) -> Tensor:
        """The derivatives of the nonlinear parts."""
        return torch.cat([part.mean(eta[..., at]) for at, part in self._parts], -1)

    def mean_and_variance_in_place(self, eta: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
        """The first two derivatives of the nonlinear parts."""
        found = [
            part.mean_and_variance_in_place(eta[..., at], scratch[..., at])
            for at, part in self._parts
        ]
        mean, variance = (torch.cat(x, -1) for x in zip(*found, strict=True))
        return mean, variance

    def first_cumulants_in_place(
        self, eta: Tensor, scratch: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The nonlinear parts, and their first two derivatives."""
        found = [
            part.first_cumulants_in_place(eta[..., at], scratch[..., at])
            for at, part in self._parts
        ]
        value, mean, variance = (torch.cat(x, -1) for x in zip(*found, strict=True))
        return value, mean, variance
