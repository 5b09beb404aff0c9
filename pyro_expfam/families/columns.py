"""Several laws side by side: each for its own columns of a table."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families.base import Family
from pyro_expfam.families.column_choice import Choice, choices_of, described
from pyro_expfam.families.columns_entries import ColumnsEntries
from pyro_expfam.families.columns_form import laws_of_names, laws_of_places
from pyro_expfam.families.columns_order import (
    as_places,
    described_places,
    joined,
    merged,
    names_of_kinds,
    of_part,
    order_of,
)
from pyro_expfam.families.entries import Entries
from pyro_expfam.families.kinds import At, Kind, places, take
from pyro_expfam.runtime.progress import tell
from pyro_expfam.table_frames import as_pandas


class Columns(Family):
    """A law for each column of a table: a mixed table.

    Columns of one law need not be adjacent. Those with equal families are computed together. The
    order of the table is the order of the columns everywhere: of observations, linear predictors,
    log densities and predictions. A categorical column has a linear predictor for each of its
    levels, at its place among the columns.

    A parameter that a family leaves out is learnt by a block, one per column. Its name in the block
    says the kind of column, as in ``family_negative_binomial_size``. ``"shared"`` learns one for
    all columns of that law.

    Args:
        columns: a mapping of names of columns to families, in the order of the table. Or pairs of
            places and a family: the places are a slice or a list of indices, in any order.

    Raises:
        TypeError: ``columns`` is no mapping and holds no such pairs, or a law is no family.
        ValueError: there are no columns, two have one name, or the places overlap or leave a gap.

    Example:
        >>> import torch
        >>> from pyro_expfam import families as F
        >>> family = F.Columns({"smoker": F.Bernoulli(), "visits": F.Poisson()})
        >>> family.expected_y(torch.zeros(2))
        tensor([0.5000, 1.0000])
        >>> family = F.Columns([([0, 2], F.Bernoulli()), (slice(1, 2), F.Poisson())])
        >>> family.expected_y(torch.zeros(3))
        tensor([0.5000, 1.0000, 0.5000])
    """

    names: tuple[Hashable, ...] | None
    """The names of the columns, or None."""

    parts: tuple[Kind, ...]
    """The columns of each law."""

    reasons: tuple[str, ...] | None = None
    """Why :meth:`from_frame` chose the law of each column, or None."""

    def __init__(
        self,
        columns: Mapping[Any, Family] | Iterable[tuple[slice | Sequence[int], Family]],
    ) -> None:
        if isinstance(columns, Mapping):
            self.names, groups = tuple(columns), laws_of_names(columns)
        else:
            self.names, groups = None, laws_of_places(columns)
        self._set(merged(groups))

    @classmethod
    def from_frame(cls, frame: Any, laws: Mapping[Any, Family] | None = None) -> Self:
        """A law for each column of a data frame of pandas, by its dtype and values.

        ===================================  ==============================================
        column                               law
        ===================================  ==============================================
        true or false, 0 or 1                :class:`~pyro_expfam.families.Bernoulli`
        two categories                       ``Bernoulli`` of the second
        categories                           :class:`~pyro_expfam.families.Categorical`
        categories with an order             :class:`~pyro_expfam.families.Ordinal`
        whole numbers from 0                 :class:`~pyro_expfam.families.Poisson`
        the same, variance above 3 means     :class:`~pyro_expfam.families.NegativeBinomial`
        shares above 0 and below 1           :class:`~pyro_expfam.families.Beta`
        other numbers                        :class:`~pyro_expfam.families.Gaussian`
        ===================================  ==============================================

        What a law leaves open, such as the scale of a Gaussian column, is learnt per column. Whole
        numbers that vary by less than a third of their mean are Gaussian too, and so are whole
        numbers from 1 to at most 10, as ratings. Proportions are beta rather than continuous
        Bernoulli, since a beta column learns how far it spreads around its mean. Missing values
        play no part in the choice.

        Numbers between 0 and 1 are shares where they come within 0.05 of both ends and at least a
        tenth lie on either side of 1/2. Others may as well be amounts, and are refused. So are
        whole numbers that differ in every row, or have a median above 1,000: they may be counts,
        money or names of rows.

        :meth:`describe` says what was chosen and why. In a terminal or a notebook it is printed.
        ``laws`` decides what is refused, and overrules what would be chosen.

        Args:
            frame: the data frame, of pandas or polars.
            laws: families of some of the columns by name, such as ``{"share": Beta()}``.

        Raises:
            TypeError: it is no data frame of pandas.
            ValueError: it has columns whose law cannot be told: texts, dates, objects, constants,
                numbers of rows, large whole numbers, and numbers from 0 to 1 that need not be
                shares. The message names them all, and what to do. Or ``laws`` has a name that is
                no column.

        Example:
            >>> import pandas as pd
            >>> from pyro_expfam import families as F
            >>> frame = pd.DataFrame({"smoker": [True, False], "visits": [0, 2], "age": [7.5, 8]})
            >>> print(F.Columns.from_frame(frame).describe())
            smoker  Bernoulli()          true or false
            visits  Poisson()            whole numbers from 0 (variance / mean 1)
            age     Gaussian(scale=None) real numbers, with a scale of their own
        """
        choices = choices_of(as_pandas(frame), laws or {})
        family = cls({name: choice.family for name, choice in choices.items()})
        family.reasons = tuple(choice.reason for choice in choices.values())
        tell(family.describe())
        return family

    @property
    def laws(self) -> dict[Hashable, Family]:
        """The family of each column, by its name, or by its place where columns have no names."""
        by_place = {
            column: part.family
            for part in self.parts
            for column in places(part.columns, self.num_columns)
        }
        names = self.names if self.names is not None else range(self.num_columns)
        return {name: by_place[place] for place, name in enumerate(names)}

    @property
    def _own_laws(self) -> dict[Hashable, Family]:
        """The laws of named columns, each with its own part of parameters that differ by column."""
        found = self.laws
        names = list(found)
        for part in self.parts:
            for place, column in enumerate(places(part.columns, self.num_columns)):
                own = {
                    name: value[place]
                    for name, value in part.family.parameters.items()
                    if value.dim() and len(value) == part.width
                }
                found[names[column]] = part.family.with_parameters(own)
        return found

    def describe(self) -> str:
        """A line for each column: its name, its family and, from :meth:`from_frame`, the reason."""
        reasons = self.reasons or ("",) * self.num_columns
        pairs = zip(self._own_laws.items(), reasons, strict=True)
        return described({name: Choice(family, reason) for (name, family), reason in pairs})

    @classmethod
    def side_by_side(cls, families: Iterable[tuple[Family, int]]) -> Self:
        """The law of tables side by side, from their families and numbers of columns.

        A family may be of several laws itself.

        Example:
            >>> from pyro_expfam import families as F
            >>> F.Columns.side_by_side([(F.Bernoulli(), 2), (F.Poisson(), 1)])
            Columns([(slice(0, 2), Bernoulli()), (slice(2, 3), Poisson())])
        """
        groups: list[tuple[Family, list[int]]] = []
        begin = 0
        for family, width in families:
            for part in family.kinds(width):
                groups.append((part.family, [begin + k for k in places(part.columns, width)]))
            begin += width
        family = cls.__new__(cls)
        family.names = None
        family._set(merged(groups))
        return family

    def _set(self, groups: list[tuple[Family, list[int]]]) -> None:
        """Lays the columns out, from families and the places of their columns."""
        self._num_columns = sum(len(columns) for _, columns in groups)
        per_column = [0] * self.num_columns
        for family, columns in groups:
            for column in columns:
                per_column[column] = family.predictors_per_column
        owners = torch.arange(self.num_columns).repeat_interleave(torch.tensor(per_column))
        begins = [0, *torch.tensor(per_column).cumsum(0).tolist()]
        self._column_of_predictor = owners
        parts = []
        for (family, columns), name in zip(groups, names_of_kinds(groups), strict=True):
            predictors = [k for i in columns for k in range(begins[i], begins[i + 1])]
            parts.append(
                Kind(family, name, as_places(columns), as_places(predictors), len(columns))
            )
        self.parts = tuple(parts)
        self._column_order = order_of([places(p.columns, self.num_columns) for p in self.parts])
        self._predictor_order = order_of([places(p.predictors, len(owners)) for p in self.parts])

    def __repr__(self) -> str:
        """The laws with their columns."""
        if self.names is not None:
            named = (f"{name!r}: {law}" for name, law in self._own_laws.items())
            return f"Columns({{{', '.join(named)}}})"
        pairs = (f"({described_places(part.columns)}, {part.family})" for part in self.parts)
        return f"Columns([{', '.join(pairs)}])"

    def _identity(self) -> tuple[Any, ...]:
        return (
            self.names,
            tuple(
                (part.family, tuple(places(part.columns, self.num_columns))) for part in self.parts
            ),
        )

    @property
    def num_columns(self) -> int:
        """The number of columns of a table."""
        return self._num_columns

    @property
    def column_names(self) -> tuple[Hashable, ...] | None:
        """The names of the columns, if they have names."""
        return self.names

    @property
    def self_concordance(self) -> float | None:  # type: ignore[override]
        """The largest bound of the parts, or None if a part has none."""
        bounds = [part.family.self_concordance for part in self.parts]
        known = [bound for bound in bounds if bound is not None]
        return max(known) if len(known) == len(bounds) else None

    @property
    def is_convex(self) -> bool:  # type: ignore[override]
        """Whether the losses of all parts are convex."""
        return all(part.family.is_convex for part in self.parts)

    @property
    def is_smooth(self) -> bool:
        """Whether the losses of all parts have derivatives of every order everywhere."""
        return all(part.family.is_smooth for part in self.parts)

    @property
    def bounded_variance(self) -> bool:  # type: ignore[override]
        """Whether the information of all parts has an upper bound."""
        return all(part.family.bounded_variance for part in self.parts)

    @property
    def weak_loading_scale(self) -> float:  # type: ignore[override]
        """The widest of the parts. A block takes the scale of each part for its own columns."""
        return max(part.family.weak_loading_scale for part in self.parts)

    @property
    def weak_intercept_scale(self) -> float:  # type: ignore[override]
        """The widest of the parts. A block takes the scale of each part for its own columns."""
        return max(part.family.weak_intercept_scale for part in self.parts)

    @property
    def is_coupled(self) -> bool:
        """Whether the loss of some part couples several linear predictors."""
        return any(part.family.is_coupled for part in self.parts)

    @property
    def has_levels(self) -> bool:
        """Whether an entry of some part has several linear predictors."""
        return any(part.family.has_levels for part in self.parts)

    def observation_of_predictor(self, num_columns: int) -> Tensor:
        """The observation that each linear predictor of a row belongs to."""
        del num_columns
        found = torch.zeros_like(self._column_of_predictor)
        begin = 0
        for part in self.parts:
            own = part.family.observation_of_predictor(part.width)
            found[part.predictors] = begin + own
            begin += int(own.max()) + 1
        return found

    def num_predictors(self, num_columns: int) -> int:
        """The number of linear predictors of a row."""
        del num_columns
        return len(self._column_of_predictor)

    def column_of_predictor(self, num_columns: int) -> Tensor:
        """The column of each linear predictor."""
        del num_columns
        return self._column_of_predictor

    def kinds(self, num_columns: int) -> tuple[Kind, ...]:
        """The columns of each law."""
        del num_columns
        return self.parts

    def predictor_parts(self) -> Iterator[tuple[Family, At]]:
        """The families with the places of their linear predictors."""
        for part in self.parts:
            yield part.family, part.predictors

    @property
    def support(self) -> constraints.Constraint:
        """The supports of the parts, by column."""
        return MixedSupport(self)

    @property
    def placeholder(self) -> Tensor:
        """A possible observation of each column, ``(d,)``."""
        values = [
            torch.as_tensor(part.family.placeholder).expand(part.width) for part in self.parts
        ]
        return self.join_columns(values)

    def possible_rows(self, num_columns: int) -> Tensor:
        """Possible observations of a whole row."""
        del num_columns
        parts = [part.family.possible_rows(part.width) for part in self.parts]
        batch_shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return self.join_columns([part.expand(*batch_shape, part.shape[-1]) for part in parts])

    def check_rows(
        self, y: Tensor, mask: Tensor | None, weights: Tensor | None, dtype: torch.dtype
    ) -> None:
        """Raises a ValueError unless the rows of each part are possible as a whole."""
        for part in self.parts:
            mask_, weights_ = (
                x if x is None or x.shape[-1] == 1 else take(x, part.columns)
                for x in (mask, weights)
            )
            part.family.check_rows(take(y, part.columns), mask_, weights_, dtype)

    def encode(self, y: Tensor) -> Tensor:
        """Observations in the shape of their linear predictors."""
        return self.join([part.family.encode(take(y, part.columns)) for part in self.parts])

    def decode(self, y: Tensor) -> Tensor:
        """The inverse of :meth:`encode`."""
        return self.join_columns(
            [part.family.decode(take(y, part.predictors)) for part in self.parts]
        )

    def join(self, entries: Sequence[Tensor]) -> Tensor:
        """Entries of the linear predictors of each part, in the order of the table."""
        return joined(entries, self._predictor_order)

    def join_columns(self, entries: Sequence[Tensor]) -> Tensor:
        """Entries of the columns of each part, in the order of the table."""
        return joined(entries, self._column_order)

    def join_rows(self, rows: Sequence[Tensor]) -> Tensor:
        """As :meth:`join`, along the dimension before the last."""
        return joined([x.mT for x in rows], self._predictor_order).mT

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

    def entropy(self, eta: Tensor) -> Tensor:
        """The entropies of the columns in nats, ``(..., d)``."""
        return self.join_columns([f.entropy(take(eta, at)) for f, at in self.predictor_parts()])

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

    def score_and_curvature(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The scores and curvatures of the entries, with shared computations done once."""
        score, curvature = self._each(lambda family, *at: family.score_and_curvature(*at), eta, y)
        return score, curvature

    def loss_score_information(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The losses, scores and informations of the entries, shared work done once."""
        loss, score, information = self._each(
            lambda family, *at: family.loss_score_information(*at), eta, y
        )
        return loss, score, information

    def entries(self, y: Tensor) -> Entries:
        """Observations as functions of their linear predictors, as solvers take them."""
        parts = [(at, family.entries(take(y, at))) for family, at in self.predictor_parts()]
        return ColumnsEntries(self.join, parts, y)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters of the parts that are tensors, by the name of the part and their own."""
        return {
            f"{part.name}_{name}": value
            for part in self.parts
            for name, value in part.family.parameters.items()
        }

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names of all parameters of the parts."""
        return tuple(
            f"{part.name}_{name}" for part in self.parts for name in part.family.parameter_names
        )

    def constraint_of(self, name: str) -> constraints.Constraint:
        """The set of values of a parameter that a block learns."""
        part, own = self._owner(name)
        return part.family.constraint_of(own)

    def parameter_start(self, name: str) -> float:
        """Where training of a parameter of a part begins."""
        part, own = self._owner(name)
        return part.family.parameter_start(own)

    def places_of_parameter(self, name: str, num_columns: int) -> At:
        """The columns that a parameter belongs to, as places of their linear predictors."""
        del num_columns
        return self._owner(name)[0].predictors

    def is_in_units(self, name: str) -> bool:
        """Whether the values of a parameter of a part depend on the units of a column."""
        part, own = self._owner(name)
        return part.family.is_in_units(own)

    def is_unit(self, name: str) -> bool:
        """Whether a parameter of a part is the unit of its linear predictors."""
        part, own = self._owner(name)
        return part.family.is_unit(own)

    def parameter_scores(self, names: Sequence[str], eta: Tensor, y: Tensor) -> Tensor:
        """The derivatives of the log densities in parameters of the parts, zero elsewhere."""
        scores = eta.new_zeros((len(names), *eta.shape), dtype=torch.float64)
        for part in self.parts:
            own = [x for x in names if self._owner(x)[0] is part]
            if own:
                plain = [self._owner(x)[1] for x in own]
                found = part.family.parameter_scores(
                    plain, take(eta, part.predictors), take(y, part.predictors)
                )
                for x, of_entries in zip(own, found, strict=True):
                    scores[names.index(x)][..., part.predictors] = of_entries.double()
        return scores

    def _owner(self, name: str) -> tuple[Kind, str]:
        """The part that a parameter belongs to, with the parameter's name there."""
        for part in self.parts:
            own = name.removeprefix(f"{part.name}_")
            if own != name and own in part.family.parameter_names:
                return part, own
        raise KeyError(f"{self} has no parameter {name!r}")

    def to_learn(self, num_features: int) -> dict[str, Tensor]:
        """Starting values of the parameters to be learnt: one per column where they are left out.

        Those that are ``"shared"`` have one for all columns of their law.
        """
        del num_features
        starts = {}
        for part in self.parts:
            for name, start in part.family.to_learn(part.width).items():
                is_left_out = getattr(part.family, name) is None and start.dim() == 0
                starts[f"{part.name}_{name}"] = start.repeat(part.width) if is_left_out else start
        return starts

    def starts_from(self, y: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Starting values that the columns of each law suggest."""
        starts = {}
        for part in self.parts:
            own_y, own_weights = (take(x, part.columns) for x in (y, weights))
            for name, start in part.family.starts_from(own_y, own_weights).items():
                starts[f"{part.name}_{name}"] = start
        return starts

    def replaced(self, parameters: dict[str, Tensor]) -> Self:
        """The same laws with other values of some of their :attr:`parameter_names`."""
        return self._with_families(
            part.family.replaced(found)
            if (found := of_part(parameters, part, part.family.parameter_names))
            else part.family
            for part in self.parts
        )

    def with_parameters(self, parameters: dict[str, Tensor]) -> Self:
        """The same laws with other tensors as parameters."""
        return self._with_families(
            part.family.with_parameters(of_part(parameters, part, part.family.parameters))
            for part in self.parts
        )

    def rows(self, index: slice | Tensor) -> Self:
        """The laws of some rows of a table."""
        if not self.differs_by_row:
            return self
        return self._with_families(part.family.rows(index) for part in self.parts)

    def check_known(self) -> None:
        """Raises a ValueError if a parameter of a part is still to be learnt."""
        for part in self.parts:
            part.family.check_known()

    def _with_families(self, families: Iterable[Family]) -> Self:
        other = copy(self)
        pairs = zip(self.parts, families, strict=True)
        other.parts = tuple(part._replace(family=family) for part, family in pairs)
        return other

    def _by_part(self, function: Callable[..., Tensor], *entries: Tensor) -> Tensor:
        """A function of each part's entries, in the order of the table."""
        return self.join(
            [
                function(family, *(take(x, at) for x in entries))
                for family, at in self.predictor_parts()
            ]
        )

    def _each(
        self, function: Callable[..., tuple[Tensor, ...]], *entries: Tensor
    ) -> tuple[Tensor, ...]:
        """As :meth:`_by_part`, for functions that return several tensors."""
        found = [
            function(family, *(take(x, at) for x in entries))
            for family, at in self.predictor_parts()
        ]
        return tuple(self.join(x) for x in zip(*found, strict=True))


class MixedSupport(constraints.Constraint):
    """The supports of the laws of a mixed table, by column.

    Args:
        family: the laws.
    """

    def __init__(self, family: Columns) -> None:
        self._family = family
        self.is_discrete = all(part.family.support.is_discrete for part in family.parts)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Which entries are inside, in the shape of ``value``."""
        family = self._family
        return family.join_columns(
            [part.family.support.check(take(value, part.columns)) for part in family.parts]
        )
