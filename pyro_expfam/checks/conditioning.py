"""What the latents of a table are found from."""

from __future__ import annotations

from typing import NamedTuple

from pyro_expfam.guides.group_root import GroupRoot, TableRoot


class Conditioning(NamedTuple):
    """What the latents of a table are found from.

    Attributes:
        blocks: the names of the blocks whose tables depend on the latents, in the order of the
            model.
        sites: the names of the other sites that depend on them.
        left_out: the names of sites that depend on the latents, and that the guide leaves out.
        latent_dim: the number of latents per row that are found together.
        num_features: the linear predictors per row of all tables together.
        is_unique: whether the root is known to be the only one of every row.
        has_term: whether the latents depend on more than tables and a normal prior.
        is_of_tables: whether the evidence is the evidence of tables alone.
        has_rotations: whether the prior is the same for every rotation of the latents.
        is_first: whether the table is the first one that depends on the latents. What holds for all
            tables together is said there.
        shared_with: the name of the block whose latents the table takes, or None.
    """

    blocks: tuple[str, ...]
    sites: tuple[str, ...]
    left_out: tuple[str, ...]
    latent_dim: int
    num_features: int
    is_unique: bool
    has_term: bool
    is_of_tables: bool
    has_rotations: bool
    is_first: bool
    shared_with: str | None

    @property
    def others(self) -> str:
        """What else the latents are found from, in words; empty for one table alone."""
        if len(self.blocks) + len(self.sites) == 1:
            return ""
        parts = [_named("table", self.blocks), _named("site", self.sites)]
        return " and ".join(part for part in parts if part)


def conditioning_of(table: TableRoot, group: GroupRoot) -> Conditioning:
    """What the latents of a table are found from."""
    problem, owner = group.problem, table.sites.owner
    return Conditioning(
        blocks=tuple(other.sites.name for other in group.tables),
        sites=group.other_sites,
        left_out=group.left_out,
        latent_dim=problem.latent_dim,
        num_features=problem.num_features,
        is_unique=all(problem.processes.gather(bool(group.solution.is_unique.all()))),
        has_term=problem.term is not None,
        is_of_tables=set(group.group.terms) <= set(group.group.latents),
        # The latents beside a row effect have one precision.
        has_rotations=group.has_rotations or table.sites.block.has_rotations_beside_effect,
        is_first=table is group.tables[0],
        shared_with=None if owner is None else owner.name,
    )


def _named(kind: str, names: tuple[str, ...]) -> str:
    """Such as "the tables 'genes' and 'proteins'"; empty without names."""
    quoted = [repr(name) for name in names]
    if len(quoted) < 2:
        return f"the {kind} {quoted[0]}" if quoted else ""
    return f"the {kind}s {', '.join(quoted[:-1])} and {quoted[-1]}"
