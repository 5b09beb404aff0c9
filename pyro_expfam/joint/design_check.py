"""Covariates that determine one another, named in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_expfam.joint.covariate_units import are_far, mean_and_deviation
from pyro_expfam.joint.table import Table
from pyro_expfam.user_warning import warn_user

NOTHING_LEFT = 1e-12
"""A covariate of whose square less than this part is left by others is a combination of them."""

NO_SHARE = 1e-6
"""A covariate with less than this part of the length of a combination has no share in it."""


class Dependence(NamedTuple):
    """A covariate that is a linear combination of others.

    Attributes:
        column: its number among the known numbers of a row; 0 is the intercept.
        others: the numbers of those that it is a combination of; empty if it is zero in every row.
    """

    column: int
    others: tuple[int, ...]


def check_design(table: Table, precision: Tensor, names: Sequence[str] | None) -> None:
    """Looks for covariates that are linear combinations of others or of the intercept.

    Args:
        table: the table.
        precision: the prior precisions of intercept and coefficients, ``(1 + p,)``, or by
            linear predictor, ``(d, 1 + p)``; 0 if flat.
        names: the names of the covariates, or None to number them.

    Raises:
        ValueError: if flat priors leave coefficients undetermined.

    Warns:
        UserWarning: if the priors alone determine how coefficients are shared.
        UserWarning: if a covariate is far from zero, and the intercept has a prior.
    """
    if bool((precision[..., 0] > 0).any()):
        _warn_of_far(table, names)
    found = dependences(table.gram)
    if not found:
        return
    words = "; ".join(_in_words(x, names, table.num_covariates) for x in found)
    wanted = "covariates must be linearly independent of each other and of the intercept"
    if any(_is_flat(x, precision) for x in found):
        raise ValueError(
            f"{wanted} under flat priors; here {words}. Leave a covariate out, or give "
            "coefficient_scale a number"
        )
    warn_user(
        f"{words}: the priors alone say how coefficients are shared among them. Leave a covariate "
        "out to compare the others with it",
        UserWarning,
    )


def dependences(gram: Tensor) -> list[Dependence]:
    """The known numbers of rows that are linear combinations of those before them.

    Args:
        gram: the sum over rows of their products, ``(1 + p, 1 + p)``, in float64.
    """
    gram = gram.cpu()
    kept: list[int] = []
    found = []
    for column in range(len(gram)):
        square = float(gram[column, column])
        share = torch.linalg.solve(gram[kept][:, kept], gram[kept, column])
        left = square - float(gram[kept, column] @ share)
        if left > NOTHING_LEFT * square:
            kept.append(column)
            continue
        lengths = share.abs() * gram.diagonal()[kept].sqrt()
        others = [k for k, x in zip(kept, lengths, strict=True) if x > NO_SHARE * square**0.5]
        found.append(Dependence(column, tuple(others) if square else ()))
    return found


def _warn_of_far(table: Table, names: Sequence[str] | None) -> None:
    """Warns of covariates whose mean is many standard deviations from zero."""
    mean, deviation = mean_and_deviation(table.gram)
    for place in are_far(table.gram).nonzero().flatten().tolist():
        warn_user(
            f"{_name(1 + place, names, table.num_covariates)} has the mean "
            f"{float(mean[place]):.4g} and the standard deviation "
            f"{float(deviation[place]):.2g}: the intercept is the linear predictor where it "
            "is zero, and the prior of the intercept draws its coefficients to zero. Centre it",
            UserWarning,
        )


def _name(column: int, names: Sequence[str] | None, num_covariates: int) -> str:
    if column == 0:
        return "the intercept"
    if names is None or len(names) != num_covariates:
        return f"covariate {column - 1}"
    return repr(names[column - 1])


def _is_flat(found: Dependence, precision: Tensor) -> bool:
    members = [found.column, *found.others]
    return not bool((precision[..., members] > 0).any(-1).all())


def _in_words(found: Dependence, names: Sequence[str] | None, num_covariates: int) -> str:
    def name(column: int) -> str:
        return _name(column, names, num_covariates)

    if not found.others:
        return f"{name(found.column)} is zero in every row"
    if found.others == (0,):
        return f"{name(found.column)} is the same in every row, as the intercept is"
    *first, last = map(name, found.others)
    listed = f"{', '.join(first)} and {last}" if first else f"a multiple of {last}"
    verb = "is a linear combination of" if first else "is"
    return f"{name(found.column)} {verb} {listed}"
