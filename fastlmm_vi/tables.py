"""Numeric tables from files: text with a header, Parquet, npz; every fault located by line and column."""

import csv
import itertools
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .errors import DataError

Array = NDArray[np.float64]

# pandas' C parser rounds correctly by default since 3.1 (and then deprecates the option that older versions need).
_PANDAS = tuple(int(part) for part in pd.__version__.split(".")[:2])
_EXACT: dict[str, str] = {} if _PANDAS >= (3, 1) else {"float_precision": "round_trip"}


def read_table(path: str | Path) -> tuple[tuple[str, ...], Array]:
    """Return column names and values (n, number of columns) of a text, `.parquet` or `.npz` file.

    A `.npz` archive holds arrays y, X and, where there are covariates, Z.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(path)
    if suffix == ".npz":
        return _read_npz(path)
    return read_text(path)


def read_text(path: str | Path) -> tuple[tuple[str, ...], Array]:
    """Return column names and values of a text table with a header; separator tab, comma, semicolon or blanks.

    pandas' C parser reads it: on the 1000 × 6031 file it was faster than pandas with pyarrow, pyarrow alone,
    numpy.loadtxt, numpy.fromstring and a loop over lines (tests/bench/README.md), and returns the nearest float64 of
    every decimal. Only if something is wrong are the lines read again, to say where.

    Raises
    ------
    DataError
        Naming file, line and column.
    """
    path = _existing(path)
    separator, names = _header(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                sep=separator,
                header=None,
                names=range(len(names)),
                skiprows=1,
                index_col=False,
                dtype=np.float64,
                engine="c",
                encoding="utf-8-sig",
                **_EXACT,  # type: ignore[call-overload]
            )
    except (ValueError, pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError):
        frame = None
    if frame is None or frame.empty or not np.isfinite(values := frame.to_numpy()).all():
        raise DataError(_fault(path, separator, names))
    return names, values


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: is a directory; give a file.")
    if not path.exists():
        raise DataError(f"{path}: no such file. Check the path (it is read relative to {Path.cwd()}).")
    if not path.is_file():
        raise DataError(f"{path}: is not a regular file (pipes are not read: save the table first).")
    return path


def _header(path: Path) -> tuple[str, tuple[str, ...]]:
    with path.open("rb") as binary:
        start = binary.read(4096)
    if b"\0" in start or start[:2] in (b"\x1f\x8b", b"BZ", b"PK"):
        raise DataError(f"{path}: is compressed or binary, or not UTF-8; unpack it, or save it as UTF-8 text first.")
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        line = file.readline().rstrip("\r\n")
    if not line.strip():
        raise DataError(f"{path}, line 1: empty; a header with column names is expected there.")
    separator = next((s for s in "\t,;" if s in line), r"\s+")
    names = tuple(_cells(line, separator))
    numbers = sum(_is_number(name) for name in names)
    if numbers == len(names):
        raise DataError(f"{path}, line 1: holds numbers; a header with column names is expected there.")
    seen: set[str] = set()
    for column, name in enumerate(names, 1):
        if name in seen:
            raise DataError(f"{path}, line 1, column {column}: the name {name!r} is there twice; rename one of them.")
        seen.add(name)
    return separator, names


def _cells(line: str, separator: str) -> list[str]:
    if separator == r"\s+":
        return [cell.strip('"') for cell in line.split()]
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _fault(path: Path, separator: str, names: tuple[str, ...]) -> str:
    """The first fault of a table, in words."""
    count = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(itertools.islice(file, 1, None), 2):
            if not line.strip():
                continue
            count += 1
            cells = _cells(line.rstrip("\r\n"), separator)
            if len(cells) != len(names):
                return (
                    f"{path}, line {number}: {len(cells)} cells where the header has {len(names)} names; every line needs "
                    "one number per column (row names are not read: write the file without them)."
                )
            for name, cell in zip(names, cells, strict=True):
                if cell in ("", "NA", "N/A", "<NA>", "NaN", "nan", "NULL", "null", "None", ".", "-"):
                    return f"{path}, line {number}, column {name}: missing value; drop or impute that row."
                if not _is_number(cell):
                    return f"{path}, line {number}, column {name}: {cell!r} is not a number; correct or encode it."
                if not np.isfinite(float(cell)):
                    return f"{path}, line {number}, column {name}: {cell!r} is not finite; correct or drop that row."
    if count == 0:
        return f"{path}: a header and no data below it."
    return f"{path}: not a table of numbers that can be read; check its encoding (UTF-8) and quoting."


def _read_parquet(path: str | Path) -> tuple[tuple[str, ...], Array]:
    path = _existing(path)
    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        raise DataError(f"{path}: reading Parquet needs pyarrow; run pip install pyarrow.") from error
    return _checked(path, tuple(map(str, frame.columns)), frame)


def _read_npz(path: str | Path) -> tuple[tuple[str, ...], Array]:
    path = _existing(path)
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: is not a numpy archive; write it with numpy.savez(path, y=y, Z=Z, X=X).")
    with np.load(path, allow_pickle=False) as archive:
        if "y" not in archive or "X" not in archive:
            raise DataError(f"{path}: holds {', '.join(archive.files)}; arrays y, X and (optional) Z are expected.")
        try:
            y, X = archive["y"], archive["X"]
            Z = archive["Z"] if "Z" in archive else np.empty((len(y), 0))
        except ValueError as error:
            raise DataError(f"{path}: holds Python objects, not numbers; convert the arrays to float first.") from error
    if any(np.iscomplexobj(part) for part in (y, Z, X)):
        raise DataError(f"{path}: holds complex numbers; give real ones.")
    if y.ndim != 1 or Z.ndim != 2 or X.ndim != 2 or not len(y) == len(Z) == len(X):
        raise DataError(f"{path}: y {y.shape}, Z {Z.shape}, X {X.shape}; (n,), (n, c) and (n, p) are expected.")
    names = ("y", *(f"Z.{j + 1}" for j in range(Z.shape[1])), *(f"X.{j + 1}" for j in range(X.shape[1])))
    return _checked(path, names, pd.DataFrame(np.column_stack([y, Z, X])))


def _checked(path: Path, names: tuple[str, ...], frame: pd.DataFrame) -> tuple[tuple[str, ...], Array]:
    for name, (_, column) in zip(names, frame.items(), strict=True):
        if not pd.api.types.is_numeric_dtype(column):
            raise DataError(f"{path}, column {name}: {column.dtype} values, not numbers; encode or drop it.")
    values = frame.to_numpy(dtype=np.float64, na_value=np.nan)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        raise DataError(
            f"{path}, row {row + 1}, column {names[column]}: missing or not finite; drop or impute that row."
        )
    return names, values
