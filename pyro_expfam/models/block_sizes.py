"""The sizes of a block, checked against its family."""

from __future__ import annotations

from typing import Any

from pyro_expfam.deq.limits import check_size
from pyro_expfam.families import Family


def checked_num_covariates(num_covariates: Any, scale: Any) -> int:
    """The number of covariates, checked."""
    if isinstance(num_covariates, int) and not isinstance(num_covariates, bool):
        if num_covariates == 0 and scale != "weak":
            raise ValueError(
                "coefficient_scale must be left out without covariates, got "
                f"{scale!r}: give num_covariates too"
            )
        if num_covariates >= 0:
            return num_covariates
    raise ValueError(f"num_covariates must be a whole number of at least 0, got {num_covariates!r}")


def checked_num_features(family: Family, num_features: int | None) -> int:
    """The number of columns, which a family of named or numbered columns knows."""
    known = family.num_columns
    if known is None:
        return check_size("num_features", num_features)
    if num_features is not None and num_features != known:
        raise ValueError(
            f"num_features must be left out, or be the {known} columns of the family, got "
            f"{num_features!r}"
        )
    return known


def check_columns(family: Family, num_features: int) -> None:
    """An error unless parameters of a family that differ by column have one entry per column."""
    for kind in family.kinds(num_features):
        for name, value in kind.family.parameters.items():
            if value.dim() > 0 and value.shape[-1] not in (1, kind.width):
                raise ValueError(
                    f"{name} of the family must have one entry, or one for each of {kind.width} "
                    f"columns, got shape {tuple(value.shape)}"
                )
