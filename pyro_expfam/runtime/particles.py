"""Distinguishing particles from rows in the arguments of a block."""

from __future__ import annotations

from typing import Any, NamedTuple

from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from torch import Tensor


class _Particles(NamedTuple):
    """A mark of tensors that are computed from a value that differs per particle.

    Attributes:
        site: the name of the site that has the value.
    """

    site: str


def with_particles(site: str, value: Tensor, event_dim: int) -> Tensor:
    """The value of a site, marked if it has dimensions to the left of the rows.

    A number drawn under ``vectorize_particles`` has shape ``(particles, 1)``. If there are as many
    particles as rows, one number per row has the same shape.
    """
    if value.dim() - event_dim < 2 or value.numel() == 1:
        return value
    marked: Tensor = track_provenance(value, frozenset({_Particles(site)}))
    return marked


def differs_by_particle(value: Any) -> bool:
    """Whether an argument of a block is marked."""
    return any(isinstance(x, _Particles) for x in get_provenance(value))


def without_particles_for_rows(name: str, value: Any) -> Any:
    """An argument of a block, without its mark.

    Raises:
        ValueError: if it differs per particle and has no dimensions for rows and features.
    """
    if value is None:
        return None
    marks = {x for x in get_provenance(value) if isinstance(x, _Particles)}
    if not marks:
        return value
    value = detach_provenance(value)
    if value.dim() < 3 and value.numel() > 1:
        sites = ", ".join(sorted(mark.site for mark in marks))
        raise ValueError(
            f"{name} must have dimensions (particles, rows, features), each of which may be 1, "
            f"since it comes from {sites}, got shape {tuple(value.shape)}: a number drawn outside "
            "the rows takes one more dimension for the features, as in x[..., None]"
        )
    return value
