"""Tables of other libraries as data frames of pandas."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import Tensor


def as_pandas(table: Any) -> Any:
    """A table with named columns as a frame of pandas; anything else as it is.

    A frame of polars and a table of Arrow come by the Arrow stream that they offer, which takes
    ``pyarrow``. Without it they stay as they are, and count as arrays of numbers. Any other frame
    comes by the dataframe interchange protocol. A DataArray of xarray with two dimensions brings
    its coordinates as labels.

    Example:
        >>> import xarray
        >>> from pyro_expfam.table_frames import as_pandas
        >>> as_pandas(xarray.DataArray([[1, 2]], {"tree": ["a"]}, ("tree", "oak"))).index.tolist()
        ['a']
    """
    # A tensor is asked for its type: to look for attributes that it lacks takes longer.
    if table is None or isinstance(table, Tensor) or hasattr(table, "iloc"):
        return table
    if hasattr(table, "dims") and hasattr(table, "to_pandas"):
        return table.to_pandas() if table.ndim == 2 else table
    # A series of polars has a stream too, and no columns.
    if hasattr(table, "__arrow_c_stream__") and len(getattr(table, "shape", ())) == 2:
        return _by_arrow(table)
    if hasattr(table, "__dataframe__"):
        from pandas.api.interchange import from_dataframe

        return from_dataframe(table)
    return table


def _by_arrow(table: Any) -> Any:
    try:
        pyarrow: Any = import_module("pyarrow")
    except ImportError:
        return table
    if not isinstance(table, pyarrow.Table):
        table = pyarrow.table(table)
    return table.to_pandas()
