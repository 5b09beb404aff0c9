"""All checks of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_expfam.checks.conditioning import Conditioning, conditioning_of
from pyro_expfam.checks.estimates import (
    EVIDENCES,
    OBJECTIVES,
    Estimates,
    check_estimates,
    evidence_scores,
    is_at_optimum,
    place_of_effect,
    prior_precisions,
    with_distances,
)
from pyro_expfam.checks.fit_to_data import FitToData, check_fit_to_data
from pyro_expfam.checks.learnt_spreads import LearntSpread, learnt_spreads
from pyro_expfam.checks.names import Names, names_of
from pyro_expfam.checks.replicates import Posterior, Score, joint_score, score_of_evidence
from pyro_expfam.checks.rows import MOST_NODES, Rows, check_rows
from pyro_expfam.checks.without_latents import likelihood_without_latents
from pyro_expfam.deq.layer import make_solver, solve
from pyro_expfam.deq.observations import check_any_entry
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.evidence.expansion import Expansion
from pyro_expfam.families import Family, Linked
from pyro_expfam.guides.group_root import GroupRoot, TableRoot


@dataclass(frozen=True, eq=False)
class BlockCheck:
    """The results of all checks of the table of a block, in numbers.

    Attributes:
        name: the name of the block in its model, empty if the block is the model.
        family: the law of its observations.
        num_features: columns of its table.
        names: names of rows and columns.
        has_offset: whether the table has an offset.
        learns_family: whether the block learns parameters of its family.
        learns_scale: whether the block learns the scale of its noise.
        fit_to_data: the comparison of the table with tables drawn from the fitted model, or None if
            no table can be drawn.
        rows: the checks of the latents of its rows, given everything that depends on them. Tables
            whose latents are found together have the same.
        estimates: the checks of its loading and intercept.
        without_latents: the largest log likelihood of all tables whose latents are found together,
            with an intercept per column, coefficients of covariates, and no latents.
        conditioning: what the latents are found from.
        why_not_compared: why there is no comparison, in words; empty if there is one.
        num_table_rows: rows of the table, which may lack some of the rows of the latents.
        is_whole_model: whether the block is the model.
        unreliable_columns: columns whose coefficients have a posterior too skew for a normal,
            booleans ``(num_features,)``; None if the guide has no normal posterior of them.
        learnt: the parameters of its family that the block learns, by name.
        row_effect: the row effect of the block, ``"fixed"`` or ``"random"``, or None.
        spreads: what was learnt of the spread of its columns.
    """

    name: str
    family: Family
    num_features: int
    names: Names
    has_offset: bool
    learns_family: bool
    learns_scale: bool
    fit_to_data: FitToData | None
    rows: Rows
    estimates: Estimates
    without_latents: float
    conditioning: Conditioning
    why_not_compared: str
    num_table_rows: int
    is_whole_model: bool
    unreliable_columns: torch.Tensor | None = None
    learnt: tuple[str, ...] = ()
    row_effect: str | None = None
    spreads: tuple[LearntSpread, ...] = ()

    @property
    def num_rows(self) -> int:
        """Rows of the latents."""
        return len(self.rows.converged)

    @property
    def latent_dim(self) -> int:
        """The number of latents per row of the table."""
        return len(self.estimates.information)

    @property
    def is_integrated(self) -> bool:
        """Whether the evidence of rows is known by quadrature."""
        return self.conditioning.latent_dim in MOST_NODES and not self.conditioning.has_term

    @property
    def family_name(self) -> str:
        """The name of the family."""
        if isinstance(self.family, Linked):
            return repr(self.family)
        return type(self.family).__name__


def check_group(
    root: GroupRoot,
    trained: GroupRoot,
    is_whole_model: bool,
    num_draws: int,
    arguments: Sequence[Any] = (),
    unreliable_columns: Tensor | None = None,
) -> list[BlockCheck]:
    """Checks the tables whose latents are found together, one by one.

    Args:
        root: the latents at the root, under the medians of the coefficients.
        trained: the latents at the root, under the coefficients at the end of training.
        is_whole_model: whether a single block is the model.
        num_draws: draws of each row's latents.
        arguments: the arguments of the model; a data frame among them names rows and columns.
        unreliable_columns: as in :class:`BlockCheck`.

    Raises:
        ValueError: if a table has batch dimensions, or no entry at all, or tables that share their
            latents have covariates.
    """
    if not root.group.is_single_table and any(x.sites.block.num_covariates for x in root.tables):
        raise ValueError(
            "model must have no covariates where several tables or other sites share latents, for "
            "a check of their coefficients, got a block with num_covariates"
        )
    has_effects = any(x.sites.block.row_effect is not None for x in root.tables)
    if not root.group.is_single_table and has_effects:
        raise ValueError(
            "model must have no row_effect where several tables or other sites share latents, for "
            "a check of loading and intercept, got a block with one: "
            "pyro_expfam.deviance_explained and to_arviz take it"
        )
    for table in root.tables:
        _refuse_batches(table, root)
        if table.likelihood.processes.count == 1:
            check_any_entry(table.likelihood.weights)
    rows, scores = check_rows(root, num_draws), evidence_scores(trained)
    without_latents = likelihood_without_latents(trained.problem.double())
    estimates = with_distances([check_estimates(x, trained, scores) for x in trained.tables])
    return [
        _check_table(
            table,
            trained,
            found,
            name=table.sites.name,
            family=table.sites.block.family,
            num_features=table.sites.block.num_features,
            names=_names(table, root, arguments),
            rows=rows,
            without_latents=without_latents,
            is_whole_model=is_whole_model,
            unreliable_columns=unreliable_columns,
        )
        for table, found in zip(trained.tables, estimates, strict=True)
    ]


def _check_table(
    table: TableRoot, group: GroupRoot, estimates: Estimates, **known: Any
) -> BlockCheck:
    why = _why_not_compared(table)
    return BlockCheck(
        has_offset=table.likelihood.known_offset is not None,
        learns_family=bool(table.sites.block._learnt_of_family),
        learnt=tuple(table.sites.block._learnt_of_family),
        learns_scale=isinstance(getattr(table.sites.block, "family_scale", None), Tensor),
        fit_to_data=None if why else _fit_to_data(table, group, estimates),
        row_effect=table.sites.block.row_effect,
        why_not_compared=why,
        estimates=estimates,
        conditioning=conditioning_of(table, group),
        spreads=learnt_spreads(table, group),
        num_table_rows=group.problem.count_rows()[0]
        if table.latent_rows is None
        else len(table.latent_rows),
        **known,
    )


def _refuse_batches(table: TableRoot, root: GroupRoot) -> None:
    batch_shape = root.solution.value.shape[:-2]
    if batch_shape:
        raise ValueError(
            "model must have tables of two dimensions, rows and features, got batches of shape "
            f"{tuple(batch_shape)} of {table.sites.table!r}"
        )


def _names(table: TableRoot, group: GroupRoot, arguments: Sequence[Any]) -> Names:
    """The names of the columns of a table, and of the rows of its latents."""
    own = _names_of(table.likelihood, [table.y, *arguments])
    processes = table.likelihood.processes
    if processes.count > 1:
        each = processes.gather(own.rows)
        known = [name for names in each if names is not None for name in names]
        return own._replace(rows=None if None in each else known)
    if table.latent_rows is None:
        return own
    first = _names_of(group.tables[0].likelihood, [group.tables[0].y, *arguments])
    columns = getattr(table.y, "columns", None)
    return Names(first.rows, own.columns if columns is None else list(columns))


def _names_of(problem: LatentProblem, arguments: Sequence[Any]) -> Names:
    present = torch.ones_like(problem.y, dtype=torch.bool)
    if problem.weights is not None:
        present = (problem.weights > 0).expand_as(present)
    # All levels of a category are present or missing together.
    y, present = problem.family.decode(problem.y), problem.of_columns(present)
    found = names_of(arguments, y, present)
    return (
        found if found.columns is not None else found._replace(columns=problem.family.column_names)
    )


def _why_not_compared(table: TableRoot) -> str:
    """Why no table can be drawn and fitted like the observed one, in words, or nothing."""
    family = table.sites.block.family
    if table.latents is None:
        return "its latents are a function of the latents of other blocks"
    if table.alone is None:
        return "its latents have a prior that is not normal and depends on other latents"
    if table.sites.block.row_effect == "fixed":
        return "its fixed row effects have no law to draw them from"
    likelihood = _with_known_totals(table.likelihood)
    try:
        with torch.no_grad():
            likelihood.family.sample(likelihood.predictor(table.z))
    except NotImplementedError:
        return f"{family} has no function sample to draw them"
    return ""


def _with_known_totals(problem: LatentProblem) -> LatentProblem:
    """The problem of a table whose replicates have the totals of its rows."""
    return replace(problem, family=problem.family.with_totals_of(problem.y))


def _fit_to_data(table: TableRoot, group: GroupRoot, estimates: Estimates) -> FitToData:
    """The comparison of a table with tables of the model's own making.

    The latents of the table and of each replicate are found from the table alone, so that both are
    treated alike. The latents that replicates are drawn from are those given everything.
    """
    assert table.alone is not None
    problem = _with_known_totals(table.alone.double())
    priors = prior_precisions(table.sites.block)
    if priors is None:
        priors = problem.b.new_zeros(problem.num_coefficients)
    score = _trained_score(estimates)
    if group.group.is_single_table:
        z, known = group.solution.value.double(), place_of_effect(table.sites.block)
        return check_fit_to_data(problem, z, score, priors, known=known)
    z = solve(problem, make_solver()).value.detach()
    return check_fit_to_data(problem, z, score, priors, _posterior(table, group))


def _posterior(table: TableRoot, group: GroupRoot) -> Posterior:
    """The posterior of the latents of a table, given everything that depends on them."""
    at = table.latents
    assert at is not None
    with torch.no_grad():
        z = group.solution.value.double()
        covariance = Expansion(group.problem.double(), z).covariance[..., at, at]
        return Posterior(z[..., at], torch.linalg.cholesky(covariance).mT)


def _trained_score(estimates: Estimates) -> Score | None:
    """The gradient of the objective that loading and intercept maximise on this table, if any."""
    nearest = estimates.nearest
    if nearest is None or not is_at_optimum(nearest[0]) or bool(estimates.run_away.any()):
        return None
    place = OBJECTIVES.index(nearest[1])
    return joint_score if place == 0 else score_of_evidence(*EVIDENCES[place - 1])
