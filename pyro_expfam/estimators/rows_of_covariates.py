"""Covariates of the rows of a table, as numbers or coded by a formula."""

from __future__ import annotations

from typing import Any

from pyro_expfam.deq.frames import check_same_rows
from pyro_expfam.formula import Design
from pyro_expfam.table_frames import as_pandas


def design_of(formula: str | None, covariates: Any) -> Design | None:
    """What codes covariates as a formula of their columns, or None without a formula.

    Raises:
        ValueError: if there are no covariates, or the formula does not fit them.
    """
    if formula is None:
        return None
    _refuse_text(covariates)
    return Design(formula, _checked_frame(formula, covariates))


def covariates_of_rows(covariates: Any, X: Any, design: Design | None) -> Any:
    """The covariates of the rows of a table, whose labels must not contradict.

    Args:
        covariates: numbers of the rows, or a frame with the columns of the design.
        X: the table, or None for any rows.
        design: what codes them, or None for numbers.

    Raises:
        TypeError: if covariates are a text.
        ValueError: if the labels contradict, or the frame does not fit the design.
    """
    _refuse_text(covariates)
    covariates = as_pandas(covariates)
    if X is not None:
        check_same_rows("covariates", covariates, as_pandas(X))
    if design is None:
        return covariates
    return design(_checked_frame(design.formula, covariates))


def _checked_frame(formula: str, covariates: Any) -> Any:
    frame = as_pandas(covariates)
    if hasattr(frame, "columns"):
        return frame
    got = "None" if covariates is None else type(covariates).__name__
    raise ValueError(
        f"covariates must be a data frame with the columns of the formula {formula!r}, got {got}"
    )


def _refuse_text(covariates: Any) -> None:
    if isinstance(covariates, str):
        raise TypeError(
            f"covariates must be an array or a data frame, got the text {covariates!r}: write "
            f"ExponentialFamilyPCA(formula={covariates!r}).fit(X, covariates=frame), with a frame "
            "that has the columns of the formula"
        )
