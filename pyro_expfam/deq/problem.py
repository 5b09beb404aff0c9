"""The estimation problem that the equilibrium layer solves: its data and its derivatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from pyro_expfam.deq.canonical import refuse_overrides
from pyro_expfam.deq.covariates import Covariates
from pyro_expfam.deq.curvature import Curvature, Separate, SideBySide, Softmax
from pyro_expfam.deq.linear_map import Dense, LinearMap
from pyro_expfam.deq.prior import NormalPrior
from pyro_expfam.deq.processes import ONE, Processes, Sums
from pyro_expfam.deq.row_term import RowTerm
from pyro_expfam.deq.stored_entries import StoredEntries
from pyro_expfam.families import Entries, ExponentialFamily, Family
from pyro_expfam.families.kinds import At, Kind, take

EVENT_DIMS = {"b": 1, "precision": 0}
"""The event dimensions of fields that do not have two."""

BY_ROW = frozenset({"y", "offset", "weights", "loc"})
"""Fields that have a dimension of rows."""

OPTIONAL = ("offset", "weights", "loc", "precision_factor")
"""Fields that may be None."""

OF_FAMILY = "family."
"""What the name of a field begins with if it is a parameter of the family."""


def event_dim(name: str) -> int:
    """The event dimensions of a field; parameters of a family are tables of rows x features."""
    return EVENT_DIMS.get(name, 2)


def has_rows(name: str) -> bool:
    """Whether a field has a dimension of rows, which may have size 1."""
    return name in BY_ROW or name.startswith(OF_FAMILY)


@dataclass(frozen=True, eq=False)
class LatentProblem:
    r"""Finding the most probable latents of a table, given loading and intercept.

    Row ``s`` has latents :math:`z_s \sim N(m_s, (\lambda F F^\top)^{-1})`, linear predictors
    :math:`\eta_s = W z_s + b + \text{offset}_s` and independent observations from ``family``.
    Minus the log posterior of the latents is, up to a constant,

    .. math:: f(z) = \tfrac{\lambda}{2} \|F^\top (z - m)\|^2
              + \sum_i \omega_i \, \ell(\eta_i; y_i),

    with entry weights :math:`\omega` (0 for a missing entry) and the family's loss
    :math:`\ell`. By default ``m`` is zero and ``F`` the identity, and the root is the fixed point
    of equation (6) of the paper. Leading batch dimensions of all fields broadcast.

    Attributes:
        family: the law of the observations.
        y: observations, ``(..., N, d)``.
        map: the linear map from latents to linear predictors; a loading ``(..., d, l)`` stands for
            the map by it.
        b: intercept, ``(..., d)``.
        precision: precision :math:`\lambda` of the latents, ``(...)``.
        offset: known part of the linear predictors, broadcastable to ``(..., N, d)``, or None.
        weights: entry weights, broadcastable to ``(..., N, d)``, or None. Linear predictors of one
            category or composition must have the same, which is not looked at here.
        loc: prior mean ``m`` of the latents, broadcastable to ``(..., N, l)``, or None for zero.
        precision_factor: lower triangular factor ``F`` of their precision matrix,
            ``(..., l, l)``, or None for the identity.
        term: a further log density of the latents of each row, or None. It is no field: gradients
            reach what it depends on by autograd.
        stored: what a sparse table stores of ``y``, or None; sums over its entries replace sums
            over all where they can.
        covariates: covariates with their coefficients, which ``offset`` counts already, or None.
            They are no field either: gradients reach the coefficients through the offset.
        processes: the processes that hold the rows of the table; ``y`` has the rows of this one.
            What is computed row by row does not know of the others.
    """

    family: Family
    y: Tensor
    map: LinearMap
    b: Tensor
    precision: Tensor
    offset: Tensor | None = None
    weights: Tensor | None = None
    loc: Tensor | None = None
    precision_factor: Tensor | None = None
    term: RowTerm | None = None
    stored: StoredEntries | None = None
    covariates: Covariates | None = None
    processes: Processes = ONE

    def __post_init__(self) -> None:
        refuse_overrides(type(self.family))
        if isinstance(self.map, Tensor):
            object.__setattr__(self, "map", Dense(self.map))

    @property
    def fields(self) -> dict[str, Tensor]:
        """All tensors of the problem by name.

        Parameters of the family have names that begin with ``family.``. They are tables here, with
        a dimension of rows and one of features.
        """
        fields = {"y": self.y, **self.map.fields, "b": self.b, "precision": self.precision}
        for name in OPTIONAL:
            value = getattr(self, name)
            if value is not None:
                fields[name] = value
        for name, value in self.family.parameters.items():
            fields[OF_FAMILY + name] = torch.atleast_2d(value)
        return fields

    def with_fields(self, fields: dict[str, Tensor]) -> LatentProblem:
        """The same problem with other tensors in some of its :attr:`fields`."""
        problem = problem_of(self.family, self.map, self.fields | fields)
        stored = None if {"y", "weights"} & fields.keys() else self.stored
        return replace(
            problem,
            term=self.term,
            stored=stored,
            covariates=self.covariates,
            processes=self.processes,
        )

    @property
    def W(self) -> Tensor:
        """The loading of a dense map, ``(..., d, l)``."""
        return self.map.loading

    @cached_property
    def prior(self) -> NormalPrior:
        """The prior of the latents."""
        return NormalPrior(self.precision, self.loc, self.precision_factor, self.latent_dim)

    @cached_property
    def entries(self) -> Entries:
        """The observations as functions of their linear predictors, as solvers take them."""
        return self.family.entries(self.y)

    @property
    def statistic(self) -> Tensor:
        """The sufficient statistics ``T(y)`` of a canonical family, ``(..., N, d)``."""
        statistic = self.entries.statistic
        if statistic is None:
            raise ValueError(
                f"family must be canonical to have sufficient statistics, got {self.family}"
            )
        return statistic

    @cached_property
    def batch_shape(self) -> torch.Size:
        """The leading batch dimensions of the solution."""
        fields = self.fields.items()
        if all(x.dim() == event_dim(name) for name, x in fields):
            return torch.Size()
        return torch.broadcast_shapes(
            *(x.shape[: max(x.dim() - event_dim(name), 0)] for name, x in fields)
        )

    def distinct(self) -> LatentProblem:
        """The same problem with size 1 along batch dimensions in which every field is repeated.

        A vectorised plate repeats point estimates. The problem is then solved once, and the
        solution is broadcast.
        """
        rank = len(self.batch_shape)
        # What the term depends on may differ between repetitions.
        if not rank or self.term is not None:
            return self
        fields = self.fields
        for dim in range(-rank, 0):
            place = {name: dim - event_dim(name) for name in fields}
            along = [(x, place[name]) for name, x in fields.items() if x.dim() >= -place[name]]
            if all(x.stride(k) == 0 for x, k in along if x.shape[k] > 1):
                fields = {
                    name: x.narrow(place[name], 0, 1) if x.dim() >= -place[name] else x
                    for name, x in fields.items()
                }
        return self.with_fields(fields)

    @property
    def num_rows(self) -> int:
        """The number of rows ``N``."""
        return self.y.shape[-2]

    def sum(self, *own: Tensor) -> Sums:
        """The sums over the rows of all processes, from sums over the rows of this one."""
        return self.processes.sum(own)

    def count_rows(self) -> tuple[int, int]:
        """The rows of all processes, and the number of the first row of this one among them."""
        counts = self.processes.gather(self.num_rows)
        return sum(counts), sum(counts[: self.processes.number])

    @property
    def latent_dim(self) -> int:
        """The number of latents ``l``."""
        return self.map.latent_dim

    @property
    def num_features(self) -> int:
        """The number of linear predictors ``d`` per row."""
        return self.map.num_features

    @property
    def levels(self) -> int:
        """How many adjacent linear predictors of a row a softmax couples, or 1."""
        return self.family.levels_among(self.num_features)

    def double(self) -> LatentProblem:
        """The same problem in float64."""
        problem = self.with_fields(
            {name: x.double() for name, x in self.fields.items() if x.is_floating_point()}
        )
        stored = None if self.stored is None else self.stored.double()
        covariates = None if self.covariates is None else self.covariates.to(torch.float64)
        return replace(problem, stored=stored, covariates=covariates)

    @property
    def known_offset(self) -> Tensor | None:
        """The part of the offset that no coefficient makes, or None for zero."""
        return self.offset if self.covariates is None else self.covariates.offset

    @property
    def num_coefficients(self) -> int:
        """The coefficients of a linear predictor: loading, intercept and covariates."""
        num_covariates = 0 if self.covariates is None else self.covariates.num_covariates
        return self.latent_dim + 1 + num_covariates

    def design(self, z: Tensor) -> Tensor:
        """What the coefficients of linear predictors multiply, ``(..., N, l + 1 + p)``.

        These are the latents ``(..., N, l)``, a column of ones, and the covariates.
        """
        design = torch.nn.functional.pad(z, (0, 1), value=1.0)
        if self.covariates is None:
            return design
        return torch.cat([design, self.covariates.x.to(z.dtype)], -1)

    @property
    def is_convex(self) -> bool:
        """Whether the objective is known to be convex: the root is then the only one."""
        return self.family.is_convex and self.term is None

    def with_standard_prior(self) -> LatentProblem:
        r"""The same problem in coordinates :math:`F^\top z`, whose prior precision is isotropic.

        Its latents times :math:`F^{-1}` from the right are the latents of this problem.
        """
        if self.precision_factor is None:
            return self
        factor = self.precision_factor
        loc = None if self.loc is None else self.loc @ factor
        return replace(self, map=self.map.of_whitened(factor), loc=loc, precision_factor=None)

    @property
    def num_columns(self) -> int:
        """The number of columns of the table."""
        known = self.family.num_columns
        return self.num_features // self.family.predictors_per_column if known is None else known

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The laws of the table with the places of their columns."""
        return self.family.kinds(self.num_columns)

    @property
    def column_of_predictor(self) -> Tensor:
        """The column of each linear predictor, ``(d,)``."""
        return self.family.column_of_predictor(self.num_columns).to(self.b.device)

    def of_columns(self, entries: Tensor) -> Tensor:
        """Entries ``(..., d)`` that all linear predictors of a column share, by column."""
        if not self.family.has_levels or entries.shape[-1] == 1:
            return entries
        owners = self.column_of_predictor
        first = torch.searchsorted(owners, torch.arange(self.num_columns, device=owners.device))
        return entries[..., first]

    def of_predictors(self, entries: Tensor) -> Tensor:
        """Entries of columns, repeated for the linear predictors of each."""
        if not self.family.has_levels or entries.shape[-1] == 1:
            return entries
        return entries[..., self.column_of_predictor]

    def predictors(self, family: Family, at: At) -> LatentProblem:
        """The problem of some of the linear predictors, which are a whole table of a family."""
        return replace(
            self,
            family=family,
            y=take(self.y, at),
            map=self.map.predictors(at),
            b=take(self.b, at),
            offset=_predictors(self.offset, at),
            weights=_predictors(self.weights, at),
            stored=None,
            covariates=None if self.covariates is None else self.covariates.predictors(at),
        )

    def rows(self, index: slice | Tensor) -> LatentProblem:
        """The same problem for some of the rows."""
        return replace(
            self,
            family=self.family.rows(index),
            y=self.y[..., index, :],
            offset=_rows(self.offset, index),
            weights=_rows(self.weights, index),
            loc=_rows(self.loc, index),
            term=None if self.term is None else self.term.rows(index),
            stored=self._stored_of(index),
            covariates=None if self.covariates is None else self.covariates.rows(index),
        )

    def _stored_of(self, index: slice | Tensor) -> StoredEntries | None:
        if self.stored is None or not isinstance(index, slice):
            return None
        return self.stored.rows(index)

    def predictor(self, z: Tensor) -> Tensor:
        """Linear predictors ``W z + b + offset`` at latents ``(..., N, l)``."""
        eta = self.map(z) + self.b.unsqueeze(-2)
        return eta if self.offset is None else eta + self.offset

    def losses(self, eta: Tensor) -> Tensor:
        """The weighted losses of the entries at linear predictors ``(..., N, d)``."""
        return self.weighted_losses(self.family.loss(eta, self.y))

    def weighted_losses(self, losses: Tensor) -> Tensor:
        """Losses of the entries ``(..., N, d)`` times their weights."""
        losses = self.weighted(losses)
        if self.weights is None:
            return losses
        # The loss of an entry without weight may be infinite, and zero times it is not zero.
        return losses.masked_fill((self.weights == 0) & losses.isnan(), 0.0)

    def scores(self, eta: Tensor) -> Tensor:
        """Minus the derivatives of the weighted losses."""
        return self.weighted(self.family.score(eta, self.y))

    def curvatures(self, eta: Tensor) -> Tensor:
        """The second derivatives of the weighted losses."""
        return self.weighted(self.family.curvature(eta, self.y))

    def informations(self, eta: Tensor) -> Tensor:
        """The weighted information of the entries, which is not negative; steps use it."""
        return self.weighted(self.family.information(eta, self.y))

    def third_derivatives(self, eta: Tensor) -> Tensor:
        """The third derivatives of the weighted losses."""
        return self.weighted(self.family.third_derivative(eta, self.y))

    def fourth_derivatives(self, eta: Tensor) -> Tensor:
        """The fourth derivatives of the weighted losses."""
        return self.weighted(self.family.fourth_derivative(eta, self.y))

    def log_probs(self, eta: Tensor) -> Tensor:
        """The weighted log densities of the entries."""
        return self.weighted(self.family.log_prob(self.y, eta))

    def log_likelihoods(self, eta: Tensor) -> Tensor:
        """The sums of :meth:`log_probs` over the entries of each row, ``(..., N)``."""
        stored, family = self.stored, self.family
        if stored is None or not isinstance(family, ExponentialFamily):
            return self.log_probs(eta).sum(-1)
        of_zeros = -self.weighted(family.log_partition(eta)).sum(-1)
        at = stored.at(eta)
        beyond = family.log_prob(stored.y, at) + family.log_partition(at)
        return of_zeros + stored.by_row(stored.weighted(beyond))

    def curvature(self, eta: Tensor) -> Curvature:
        """The second and higher derivatives of the losses at linear predictors."""
        if self.levels > 1:
            return Softmax(self, eta)
        if self.family.is_coupled:
            return SideBySide(self, eta)
        return Separate(self, eta)

    def score_and_curvature(self, eta: Tensor) -> tuple[Tensor, Curvature]:
        """The scores of the entries without their weights, and :meth:`curvature`."""
        curvature = self.curvature(eta)
        if not isinstance(curvature, Separate):
            return self.family.score(eta, self.y), curvature
        score, second = self.family.score_and_curvature(eta, self.y)
        return score, Separate(self, eta, self.weighted(second))

    def objective(self, z: Tensor) -> Tensor:
        """Minus the log posterior at latents ``(..., N, l)``, up to a constant, ``(..., N)``."""
        loss = self.losses(self.predictor(z)).sum(-1)
        of_table = self.prior.objective(z) + loss
        return of_table if self.term is None else of_table - self.term(z)

    def score(self, z: Tensor) -> Tensor:
        """Minus the gradient of :meth:`objective`, ``(..., N, l)``; zero at the root."""
        to_latents = self.map.transpose(self.scores(self.predictor(z)))
        of_table = to_latents + self.prior.score(z)
        return of_table if self.term is None else of_table + self.term.derivatives(z).score

    def information(self, z: Tensor) -> Tensor:
        r"""The Hessian :math:`\lambda F F^\top + W^\top \mathrm{diag}(v) W` of :meth:`objective`.

        Its shape is ``(..., N, l, l)``. For a canonical family it is the Fisher information
        (appendix B of the paper).
        """
        of_table = self.curvature(self.predictor(z)).gram() + self.prior_information()
        return of_table if self.term is None else of_table + self.term.information(z)

    def prior_information(self) -> Tensor:
        """The part of the information from the prior, ``(..., 1, l, l)``."""
        return self.prior.information()

    def weighted(self, entries: Tensor) -> Tensor:
        """Entries ``(..., N, d)`` times the entry weights."""
        return entries if self.weights is None else entries * self.weights


def problem_of(family: Family, map: LinearMap, fields: Mapping[str, Tensor]) -> LatentProblem:
    """A problem from all its :attr:`~LatentProblem.fields`.

    Args:
        family: the law of the observations, in which parameters that are tensors are replaced.
        map: the linear map, in which all tensors are replaced.
        fields: the fields by name.
    """
    of_family = {
        name: _in_dims(fields[OF_FAMILY + name], value.dim())
        for name, value in family.parameters.items()
    }
    return LatentProblem(
        family.with_parameters(of_family),
        fields["y"],
        map.with_fields({name: fields[name] for name in map.fields}),
        fields["b"],
        fields["precision"],
        fields.get("offset"),
        fields.get("weights"),
        fields.get("loc"),
        fields.get("precision_factor"),
    )


def _in_dims(value: Tensor, rank: int) -> Tensor:
    """A tensor without leading dimensions of size 1 beyond its rank."""
    while value.dim() > rank and value.shape[0] == 1:
        value = value.squeeze(0)
    return value


def _predictors(entries: Tensor | None, at: At) -> Tensor | None:
    # A single column broadcasts to all columns.
    return entries if entries is None or entries.shape[-1] == 1 else take(entries, at)


def _rows(entries: Tensor | None, index: slice | Tensor) -> Tensor | None:
    # A single row broadcasts to all rows.
    return entries if entries is None or entries.shape[-2] == 1 else entries[..., index, :]
