"""Any table → the columns a formula uses, complete, as numbers, logicals or factors."""

import difflib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..errors import DataError
from ..result import Array
from .expression import Name, deparse
from .factor import Factor, encode, listed

Logical = NDArray[np.bool_]
NUMBERS = {"integer", "floating", "mixed-integer-float", "decimal"}


class Columns:
    """Columns without missing values, converted once each.

    Attributes
    ----------
    index : Index (n,)
        Of the rows.
    unused_levels : dict
        How many levels of a Categorical do not occur, for the columns used as factors where there are any.
    series : mapping of str to Series (n,)
        The columns as they came.
    """

    def __init__(self, series: Mapping[str, "pd.Series[Any]"], index: pd.Index) -> None:
        self.index = index
        self.unused_levels: dict[str, int] = {}
        self.series = series
        self._values: dict[str, Array | Logical | Factor] = {}
        self._factors: dict[str, Factor] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.series

    def value(self, name: str) -> Array | Logical | Factor:
        """Column as R takes it: text and Categoricals are factors, numbers and logicals themselves; (n,).

        Raises
        ------
        DataError
            If the column holds dates, complex numbers or the like.
        """
        if name not in self._values:
            self._values[name] = self._convert(name)
        return self._values[name]

    def factor(self, name: str) -> Factor:
        """Column as a factor, whatever it holds."""
        if name not in self._factors:
            column = self.series[name]
            labels = column.array if isinstance(column.dtype, pd.CategoricalDtype) else column
            self._factors[name] = factor = encode(labels, name)
            if isinstance(labels, pd.Categorical) and len(labels.categories) > len(factor.levels):
                self.unused_levels[name] = len(labels.categories) - len(factor.levels)
        return self._factors[name]

    def _convert(self, name: str) -> Array | Logical | Factor:
        column = self.series[name]
        dtype = column.dtype
        held = pd.api.types.infer_dtype(column) if pd.api.types.is_object_dtype(dtype) else ""
        if isinstance(dtype, pd.CategoricalDtype):
            return self.factor(name)
        if held == "boolean" or pd.api.types.is_bool_dtype(dtype):
            return column.to_numpy(dtype=np.bool_)
        if held in NUMBERS or (pd.api.types.is_numeric_dtype(dtype) and not np.iscomplexobj(column)):
            return column.to_numpy(dtype=np.float64)
        if held or pd.api.types.is_string_dtype(dtype):
            return self.factor(name)
        raise DataError(f"column {name!r} holds {dtype} values: turn them into numbers or labels first.")


def take(data: Any, names: Iterable[str], optional: Iterable[str] = ()) -> tuple[dict[str, "pd.Series[Any]"], pd.Index]:
    """Return the named columns of a table and its index; of the optional names those it has.

    A column whose name is no text goes by what `str` makes of it.

    Raises
    ------
    DataError
        If `data` is no table, or has no such column, or more than one.
    """
    frame = as_frame(data)
    places = _places(frame.columns)
    series = {}
    for name in [*names, *(name for name in optional if name in places)]:
        if name not in places:
            raise DataError(_no_column(name, list(places)))
        if len(places[name]) > 1:
            raise DataError(f"data has more than one column called {name!r}: rename or drop one.")
        series[name] = frame.iloc[:, places[name][0]]
    return series, frame.index


def missing_rows(series: Mapping[str, "pd.Series[Any]"]) -> tuple[Logical | None, str]:
    """Which rows miss a value, (n,) or None where none does, and how many in words, by column."""
    missing = {name: column.isna().to_numpy(dtype=np.bool_) for name, column in series.items()}
    missing = {name: rows for name, rows in missing.items() if rows.any()}
    if not missing:
        return None, ""
    rows = np.logical_or.reduce(list(missing.values()))
    listed = ", ".join(f"{name} ({where.sum()})" for name, where in missing.items())
    return rows, f"{rows.sum()} of {rows.size} rows have missing values, in {listed}"


def leave_out(series: Mapping[str, "pd.Series[Any]"], index: pd.Index, rows: Logical | None) -> Columns:
    """Return the columns without these rows, (n,); None of them leaves all."""
    if rows is None:
        return Columns(series, index)
    return Columns({name: column[~rows] for name, column in series.items()}, index[~rows])


def _places(columns: pd.Index) -> dict[str, list[int]]:
    """Where the columns of every name are; one whose name is no text goes by its text, unless that is another's name."""
    places: dict[str, list[int]] = {}
    for i, column in enumerate(columns):
        if isinstance(column, str):
            places.setdefault(column, []).append(i)
    names = set(places)
    for i, column in enumerate(columns):
        if not isinstance(column, str) and str(column) not in names:
            places.setdefault(str(column), []).append(i)
    return places


def _no_column(name: str, known: list[str]) -> str:
    by_case = {column.lower(): deparse(Name(column)) for column in known}
    near = difflib.get_close_matches(name.lower(), by_case, n=3)
    hint = f"did you mean {' or '.join(by_case[column] for column in near)}? " if near else ""
    has = "It has" if hint else "it has"
    return f"{name!r} is not a column of data: {hint}{has} {listed([deparse(Name(column)) for column in known], 20)}."


def as_frame(data: Any) -> pd.DataFrame:
    """Return a DataFrame of any table; a DataFrame itself, without a copy."""
    if isinstance(data, pd.DataFrame):
        return data
    if isinstance(data, Mapping):
        return _from_mapping(data)
    if hasattr(data, "collect"):
        raise DataError(f"data is a {type(data).__name__}, not computed yet: give data.collect().")
    if hasattr(data, "to_pandas"):
        try:
            return data.to_pandas()
        except ImportError as lacking:
            raise DataError(
                f"data is a {type(data).__name__}, which needs another package to become a pandas DataFrame ({lacking}): "
                "install it, pip install pyarrow for polars, or give a dict of columns."
            ) from lacking
    if hasattr(data, "__dataframe__"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pandas 3 advises against the protocol
            return pd.api.interchange.from_dataframe(data)
    raise DataError(
        f"data is a {type(data).__name__}, not a table: give a pandas or polars DataFrame, or a dict of columns."
    )


def _from_mapping(data: Mapping[str, Any]) -> pd.DataFrame:
    """Columns side by side as they come: never aligned by an index."""
    for name, column in data.items():
        if getattr(column, "ndim", np.ndim(column)) != 1:
            raise DataError(f"data[{name!r}] is not a column: give one value per row, in one dimension.")
    lengths = {name: len(column) for name, column in data.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} ({length})" for name, length in lengths.items())
        raise DataError(f"the columns of data differ in length: {listed}. Give all one value per row.")
    indexes = [column.index for column in data.values() if isinstance(column, pd.Series)]
    if any(not index.equals(indexes[0]) for index in indexes[1:]):
        raise DataError("data is a dict of Series whose indexes differ: join them in a DataFrame first.")
    arrays = {name: column.array if isinstance(column, pd.Series) else column for name, column in data.items()}
    return pd.DataFrame(arrays, index=indexes[0] if indexes else None)
