"""All that is checked of a block."""

from __future__ import annotations

from dataclasses import dataclass

from pyro_expfam.checks.estimates import Estimates, check_estimates
from pyro_expfam.checks.rows import Rows, check_rows
from pyro_expfam.guides import BlockRoot


@dataclass(frozen=True, eq=False)
class BlockCheck:
    """What was found of a block, in numbers.

    Attributes:
        name: the name of the block in its model, empty where it is the model.
        family: the family of its observations, in words.
        num_features: columns of its table.
        rows: what was found of its rows.
        estimates: what was found of its loading and intercept.
        is_whole_model: whether the block is the model.
    """

    name: str
    family: str
    num_features: int
    rows: Rows
    estimates: Estimates
    is_whole_model: bool

    @property
    def num_rows(self) -> int:
        """Rows of the table."""
        return len(self.rows.converged)

    @property
    def latent_dim(self) -> int:
        """Latents of a row."""
        return len(self.estimates.information)


def check_block(
    root: BlockRoot, trained: BlockRoot, is_whole_model: bool, num_draws: int
) -> BlockCheck:
    """Checks a block.

    Args:
        root: its latents at the root, at the medians of its coefficients.
        trained: the same at the coefficients that training has come to.
        is_whole_model: whether the block is the model.
        num_draws: draws of each row's latents.

    Raises:
        ValueError: if its table has batch dimensions.
    """
    root, trained = (x._replace(problem=x.problem.distinct()) for x in (root, trained))
    if root.problem.batch_shape:
        raise ValueError(
            "model must have tables of two dimensions, rows and features, got batches of shape "
            f"{tuple(root.problem.batch_shape)} of {root.sites.site_name('y')!r}"
        )
    block = root.block
    return BlockCheck(
        name=root.sites.name,
        family=type(block.family).__name__,
        num_features=block.num_features,
        rows=check_rows(root, num_draws),
        estimates=check_estimates(trained),
        is_whole_model=is_whole_model,
    )
