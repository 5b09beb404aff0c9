"""All checks of a block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pyro_expfam.checks.estimates import (
    OBJECTIVES,
    Estimates,
    check_estimates,
    is_at_optimum,
    prior_precisions,
)
from pyro_expfam.checks.fit_to_data import FitToData, check_fit_to_data
from pyro_expfam.checks.names import Names, names_of
from pyro_expfam.checks.replicates import Score, joint_score, score_of_evidence
from pyro_expfam.checks.rows import Rows, check_rows
from pyro_expfam.checks.without_latents import likelihood_without_latents
from pyro_expfam.deq.observations import check_any_entry
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.families import Family, Linked
from pyro_expfam.guides import BlockRoot


@dataclass(frozen=True, eq=False)
class BlockCheck:
    """The results of all checks of a block, in numbers.

    Attributes:
        name: the name of the block in its model, empty if the block is the model.
        family: the law of its observations.
        num_features: columns of its table.
        names: names of rows and columns.
        has_offset: whether the table has an offset.
        learns_scale: whether the block learns the scale of its noise.
        fit_to_data: the comparison of the table with tables drawn from the fitted model.
        rows: the checks of the latents of its rows.
        estimates: the checks of its loading and intercept.
        without_latents: the largest log likelihood of the table with an intercept per column and no
            latents.
        is_whole_model: whether the block is the model.
        unreliable_columns: columns whose coefficients have a posterior too skew for a normal,
            booleans ``(num_features,)``; None if the guide has no normal posterior of them.
    """

    name: str
    family: Family
    num_features: int
    names: Names
    has_offset: bool
    learns_scale: bool
    fit_to_data: FitToData
    rows: Rows
    estimates: Estimates
    without_latents: float
    is_whole_model: bool
    unreliable_columns: torch.Tensor | None = None

    @property
    def num_rows(self) -> int:
        """Rows of the table."""
        return len(self.rows.converged)

    @property
    def latent_dim(self) -> int:
        """The number of latents per row."""
        return len(self.estimates.information)

    @property
    def family_name(self) -> str:
        """The name of the family."""
        if isinstance(self.family, Linked):
            return repr(self.family)
        return type(self.family).__name__


def check_block(
    root: BlockRoot,
    trained: BlockRoot,
    is_whole_model: bool,
    num_draws: int,
    arguments: Sequence[Any] = (),
    unreliable_columns: torch.Tensor | None = None,
) -> BlockCheck:
    """Checks a block.

    Args:
        root: its latents at the root, under the medians of its coefficients.
        trained: its latents at the root, under the coefficients at the end of training.
        is_whole_model: whether the block is the model.
        num_draws: draws of each row's latents.
        arguments: the arguments of the model; a data frame among them names rows and columns.
        unreliable_columns: as in :class:`BlockCheck`.

    Raises:
        ValueError: if its table has batch dimensions, or no entry at all.
    """
    root, trained = (x._replace(problem=x.problem.distinct()) for x in (root, trained))
    if root.problem.batch_shape:
        raise ValueError(
            "model must have tables of two dimensions, rows and features, got batches of shape "
            f"{tuple(root.problem.batch_shape)} of {root.sites.site_name('y')!r}"
        )
    block, problem = root.block, trained.problem.double()
    check_any_entry(problem.weights)
    estimates = check_estimates(trained)
    return BlockCheck(
        name=root.sites.name,
        family=block.family,
        num_features=block.num_features,
        names=_names(problem, arguments),
        has_offset=problem.offset is not None,
        learns_scale=isinstance(getattr(block, "family_scale", None), torch.Tensor),
        fit_to_data=_fit_to_data(trained, problem, estimates),
        rows=check_rows(root, num_draws),
        estimates=estimates,
        without_latents=likelihood_without_latents(problem),
        is_whole_model=is_whole_model,
        unreliable_columns=unreliable_columns,
    )


def _names(problem: LatentProblem, arguments: Sequence[Any]) -> Names:
    present = torch.ones_like(problem.y, dtype=torch.bool)
    if problem.weights is not None:
        present = (problem.weights > 0).expand_as(present)
    # All levels of a category are present or missing together.
    levels = problem.family.predictors_per_column
    return names_of(arguments, problem.family.decode(problem.y), present[:, ::levels])


def _fit_to_data(trained: BlockRoot, problem: LatentProblem, estimates: Estimates) -> FitToData:
    priors = prior_precisions(trained.block)
    if priors is None:
        priors = problem.b.new_zeros(problem.latent_dim + 1)
    z = trained.solution.value.double()
    return check_fit_to_data(problem, z, _trained_score(estimates), priors)


def _trained_score(estimates: Estimates) -> Score | None:
    """The gradient of the objective that loading and intercept maximise on this table, if any."""
    nearest = estimates.nearest
    if nearest is None or not is_at_optimum(nearest[0]) or bool(estimates.run_away.any()):
        return None
    order = OBJECTIVES.index(nearest[1])
    return joint_score if order == 0 else score_of_evidence(order)
