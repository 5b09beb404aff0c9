"""Covariates by a formula, such as ``~ batch + age``, with the same coding for new rows."""

from __future__ import annotations

import re
import warnings
from importlib import import_module
from typing import Any

from pyro_expfam.table_frames import as_pandas
from pyro_expfam.user_warning import warn_user

MOST_NAMED = 5
"""The most names that an error lists."""

INTERCEPT = "Intercept"

MOST_LEVELS = 10
"""A column of more different whole numbers is hardly a batch."""


class Design:
    """The covariates that a formula makes of the columns of a data frame.

    Calling it makes the covariates of any rows, with the coding of the frame that it was made of:
    the same levels of categories, the same mean and scale of ``scale(age)``, the same knots of a
    spline. The intercept is left out, since a block has one. It takes ``formulaic``, which
    ``pip install pyro-expfam[formula]`` brings. A pickle keeps the coding. A column of whole
    numbers is a number; of 3 to 10 different ones, such as numbers of batches, it is so with a
    warning. ``C(batch)`` makes levels of them, and ``batch.astype(float)`` says that they are none.

    Args:
        formula: a formula of formulaic without a left-hand side.
        frame: the frame of the rows to fit.

    Attributes:
        names: the names of the covariates.

    Raises:
        ModuleNotFoundError: if formulaic is not installed.
        ValueError: if the formula cannot be read, has a left-hand side or nothing but an intercept,
            or the frame lacks a column or has a missing value in one. At a call, also if a column
            has a level that the first frame did not have.

    Example:
        >>> import pandas as pd
        >>> import pyro_expfam as pef
        >>> cells = pd.DataFrame({"batch": ["a", "b", "c", "b"], "age": [1.0, 2.0, 3.0, 6.0]})
        >>> design = pef.Design("~ batch + center(age)", cells)
        >>> design(cells)
           batch[T.b]  batch[T.c]  center(age)
        0         0.0         0.0         -2.0
        1         1.0         0.0         -1.0
        2         0.0         1.0          0.0
        3         1.0         0.0          3.0
        >>> design(cells[:1]).shape, design.num_covariates
        ((1, 3), 3)
    """

    def __init__(self, formula: str, frame: Any) -> None:
        formulaic = _formulaic()
        self.formula = formula
        frame = _without_unused_levels(as_pandas(frame))
        try:
            parsed = formulaic.Formula(formula)
        except Exception as error:
            found = str(error).partition("\n")[0]
            if re.search(r"(^|[~+\s])\.($|[+\s])", formula):
                found = "a dot stands for no columns here, write their names"
            raise ValueError(
                f"formula must be one of formulaic, got {formula!r}: {found}"
            ) from None
        if hasattr(parsed, "lhs"):
            raise ValueError(
                f"formula must have no left-hand side, got {formula!r}: the table is the left-hand "
                "side. Write it from ~ on"
            )
        try:
            # Missing values are looked for below, where the columns are known.
            made = formulaic.model_matrix(parsed, frame, na_action="ignore")
        except Exception as error:
            raise ValueError(
                f"frame must have the columns of the formula {formula!r}, got one with "
                f"{_listing(list(frame.columns))}: {error}"
            ) from None
        self._spec = made.model_spec
        self._columns = sorted(str(x) for x in self._spec.required_variables if x in frame)
        self._levels: dict[str, set[Any]] = {}
        self._check(frame)
        self.names = [str(name) for name in made.columns if name != INTERCEPT]
        for name in self._columns:
            if frame[name].nunique() == 1:
                raise ValueError(
                    f"covariates must differ between rows, got {name!r} with the one value "
                    f"{frame[name].iloc[0]!r} in all of them: leave it out of {formula!r}"
                )
        if not self.names:
            raise ValueError(f"formula must have a covariate beside the intercept, got {formula!r}")
        for name in self.names:
            if name in frame and is_few_whole_numbers(frame[name]):
                warn_user(
                    f"{name!r} holds {_some(frame[name])}, and has one slope, as an amount. If "
                    f"they are levels, such as batches, write C({name}); if not, frame[{name!r}]"
                    ".astype(float) takes the warning away"
                )
        self._levels = {
            name: set(frame[name].unique())
            for name in self._columns
            if getattr(frame[name].dtype, "kind", "O") not in "biuf"
        }

    @property
    def num_covariates(self) -> int:
        """The number of covariates."""
        return len(self.names)

    def __call__(self, frame: Any) -> Any:
        """The covariates of the rows of a frame, a frame of pandas with the same index.

        Args:
            frame: a frame with the columns of the formula.
        """
        frame = _without_unused_levels(as_pandas(frame))
        self._check(frame)
        with warnings.catch_warnings():
            # Formulaic codes a level that it does not know by zeros.
            warnings.simplefilter("error", _formulaic().errors.DataMismatchWarning)
            try:
                made = self._spec.get_model_matrix(frame, na_action="raise")
            except Warning as found:
                raise ValueError(
                    f"frame must have the levels that the design was made of: {found}"
                ) from None
        return _plain(made)[self.names]

    def _check(self, frame: Any) -> None:
        """An error for a column that is absent, a missing value, or an unknown level."""
        absent = [name for name in self._columns if name not in frame]
        if absent:
            raise ValueError(
                f"frame must have the columns of the formula {self.formula!r}, got one without "
                f"{_listing(absent)}"
            )
        for name in self._columns:
            missing = frame[name].isna()
            if missing.any():
                row = frame.index[int(missing.to_numpy().argmax())]
                raise ValueError(
                    f"frame must have a value of {name!r} in every row, got none in row {row!r} "
                    f"({int(missing.sum())} in all): impute it, or leave the row out"
                )
        for name, levels in self._levels.items():
            new = sorted(map(str, set(frame[name].unique()) - levels))
            if new:
                raise ValueError(
                    f"frame must have the levels of {name!r} that the design was made of, "
                    f"{_listing(sorted(map(str, levels)))}, got {_listing(new)}: a level without "
                    "rows in the fit has no coefficient"
                )

    def __repr__(self) -> str:
        """The formula and the names of the covariates."""
        return f"Design({self.formula!r}, {self.names})"


def _without_unused_levels(frame: Any) -> Any:
    """A frame whose categories all have a row: a level without rows has no coefficient."""
    names = [name for name in frame if hasattr(frame[name], "cat")]
    return frame.assign(**{name: frame[name].cat.remove_unused_categories() for name in names})


def is_few_whole_numbers(column: Any) -> bool:
    """Whether a column of integers may as well name levels, such as batches."""
    return getattr(column.dtype, "kind", "O") in "iu" and 3 <= column.nunique() <= MOST_LEVELS


def _some(column: Any) -> str:
    found = sorted(column.unique())
    return f"the {len(found)} whole numbers {', '.join(map(str, found))}"


def indicators(frame: Any) -> Any:
    """The columns of a frame, with indicators of all levels but the first for texts and categories.

    A formula gives levels the same names, such as ``batch[T.b]``, in the same order.

    Args:
        frame: a frame of pandas without missing values.

    Raises:
        ValueError: if a column of texts or categories has one level alone, or a column of integers
            may name levels.
    """
    import pandas as pd

    columns = {}
    for name in frame:
        column = frame[name]
        if is_few_whole_numbers(column):
            raise ValueError(
                f"covariates must be amounts or categories, got {_some(column)} in {name!r}: take "
                f"obs[{name!r}].astype('category') if they are levels, such as batches, and "
                ".astype(float) if they are amounts"
            )
        if getattr(column.dtype, "kind", "O") in "biuf":
            columns[name] = column.astype(float)
            continue
        # Categories have an order of their own, without those that no row has.
        levels = pd.Categorical(column).remove_unused_categories().categories
        if len(levels) == 1:
            raise ValueError(
                f"covariates must differ between cells, got {name!r} with the one level "
                f"{levels[0]!r} in all of them: leave it out"
            )
        for level in levels[1:]:
            columns[f"{name}[T.{level}]"] = (column == level).astype(float)
    return pd.DataFrame(columns, index=frame.index)


def _plain(made: Any) -> Any:
    """A model matrix as a frame of pandas alone."""
    import pandas as pd

    return pd.DataFrame(made).astype(float)


def _formulaic() -> Any:
    try:
        formulaic = import_module("formulaic")
        import_module("formulaic.errors")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a formula wants formulaic: pip install 'pyro-expfam[formula]', or pass covariates as "
            "a table of numbers"
        ) from error
    return formulaic


def _listing(names: list[Any]) -> str:
    more = len(names) - MOST_NAMED
    listed = ", ".join(repr(name) for name in names[:MOST_NAMED])
    return listed + (f" and {more} more" if more > 0 else "")
