"""Data: the seeded twin of the course's XYZ_MoM data, the real file by download, and its text layout.

The layout is tab-separated text with a header: first column y, then the covariates Z.1 … Z.c, then the features
X.1 … X.p, one observation a line.
"""

import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import DataError
from .tables import read_text

Array = NDArray[np.float64]

XYZ_URL = "https://github.com/LucaJiang/Mixed-Effect-Model-Numerical-Algorithm/releases/download/data/XYZ_MoM.txt"
XYZ_SHAPE = (1000, 30, 6000)
# Chosen so that the maximum-likelihood estimates of seed 0 lie near those published for the real file.
TWIN_KEY = 29

# What others published for the real file; neither run was at its optimum to more digits than shown.
PUBLISHED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "NumPy EM, no intercept (github.com/LucaJiang/Mixed-Effect-Model-Numerical-Algorithm, em_result.ipynb)": {
            "sigma2_beta": 0.31265,
            "sigma2_e": 0.58632,
            "loglik": -1359.4,
            "n_iter": 309,
        },
        "VCM linRegPXEM, X standardised, with intercept (same repository, pxem.ipynb)": {
            "sigma2_beta": 0.2719648,
            "sigma2_e": 0.6165358,
            "loglik": -1355.972,
            "n_iter": 164,
        },
    }
)


class XYZ(NamedTuple):
    """Response y (n,), covariates Z (n, c), features X (n, p), their names, and where they come from."""

    y: Array
    Z: Array
    X: Array
    y_name: str
    Z_names: tuple[str, ...]
    X_names: tuple[str, ...]
    source: str

    @property
    def sha256(self) -> str:
        """Hash of the numbers (y, Z, X as little-endian float64 in row order): equal data, equal hash."""
        digest = hashlib.sha256()
        for part in (self.y, self.Z, self.X):
            digest.update(np.ascontiguousarray(part, dtype="<f8"))
        return digest.hexdigest()


def make_xyz_twin(seed: int = 0, n: int = 1000, p: int = 6000, c: int = 30) -> XYZ:
    """Return the stand-in of the course data `XYZ_MoM.txt`: the same sizes and published properties, other numbers.

    X iid N(0, 1/p), Z iid N(0, 1), ω iid N(0, 0.03²), intercept −0.07, β iid N(0, 0.3), e iid N(0, 0.6). X and Z are
    rounded to 8 decimals, y to 6.

    Parameters
    ----------
    seed : int, default 0
    n, p, c : int
        Observations, features, covariates.

    Returns
    -------
    XYZ
        Identical bits on every machine: numpy's frozen `RandomState` stream, sums in a fixed order without BLAS, and
        rounding, which takes away the last digits of the platform's logarithm.

    Examples
    --------
    >>> from fastlmm_vi.datasets import make_xyz_twin
    >>> data = make_xyz_twin(n=20, p=50, c=2)
    >>> data.y.shape, data.Z.shape, data.X.shape
    ((20,), (20, 2), (20, 50))
    """
    stream = np.random.RandomState([TWIN_KEY, seed])
    X = np.round(stream.standard_normal((n, p)) / np.sqrt(p), 8)
    Z = np.round(stream.standard_normal((n, c)), 8)
    omega = 0.03 * stream.standard_normal(c)
    beta = np.sqrt(0.3) * stream.standard_normal(p)
    y = -0.07 + np.sqrt(0.6) * stream.standard_normal(n)
    for j in range(c):
        y += Z[:, j] * omega[j]
    for j in range(p):
        y += X[:, j] * beta[j]
    source = f"twin of XYZ_MoM (seed {seed})"
    return XYZ(np.round(y, 6), Z, X, "y", _numbered("Z", c), _numbered("X", p), source)


def load_xyz_mom(path: str | Path | None = None, download: bool = False) -> XYZ:
    """Return the course's real data `XYZ_MoM.txt` (n = 1000, c = 30, p = 6000), checked.

    Parameters
    ----------
    path : str or Path, optional
        The file, if you have it.
    download : bool, default False
        Fetch it (108 MB) from its public address into the user's cache, once, with progress.

    Raises
    ------
    DataError
        If the file is not there, cannot be fetched, or is not the table it should be.

    Notes
    -----
    No hash of the file was ever published. The sha256 of the file as first fetched is recorded beside it and every
    later load is held against it.
    """
    if path is None:
        path = _fetch(download)
    data = read_xyz(path)
    n, c, p = XYZ_SHAPE
    if (data.y.size, data.Z.shape[1], data.X.shape[1]) != (n, c, p):
        raise DataError(
            f"{path} has n = {data.y.size}, c = {data.Z.shape[1]}, p = {data.X.shape[1]}; XYZ_MoM has n = {n}, c = {c}, "
            f"p = {p}: it is another file (read_xyz reads any size)."
        )
    return data


def read_xyz(path: str | Path) -> XYZ:
    """Read a text file in the layout of `XYZ_MoM.txt`; the same bits that `write_xyz` was given.

    Raises
    ------
    DataError
        Naming file, line and column, if the file does not exist, has a duplicated header, a short or long line, a
        missing value or a cell that is not a finite number, or no X columns.
    """
    names, values = read_text(path)
    return split(names, values, path)


def split(
    names: tuple[str, ...],
    values: Array,
    source: str | Path,
    *,
    y: str | None = None,
    covariates: str = "Z.",
    features: str = "X.",
) -> XYZ:
    """Sort the columns of a table into y, Z and X.

    Parameters
    ----------
    names : tuple of str
    values : ndarray (n, number of names)
    source : str or Path
        Stands in messages and in the result.
    y : str, optional
        Name of the response; default the first column.
    covariates, features : str
        Comma-separated names or prefixes of columns.

    Raises
    ------
    DataError
        If a name is not there, a column would be both, or no features remain.
    """
    target = names[0] if y is None else y
    if target not in names:
        raise DataError(f"{source}: no column called {target!r}{_near(target, names)}.")
    if target in (part.strip() for part in f"{covariates},{features}".split(",")):
        raise DataError(f"{source}: column {target!r} is the response; choose other covariates and features.")
    Z_names = _select(names, covariates, target, source, optional=covariates == "Z.")
    X_names = _select(names, features, target, source, optional=False)
    both = sorted(set(Z_names) & set(X_names))
    if both:
        raise DataError(f"{source}: column {both[0]!r} would be both a covariate and a feature: choose one.")
    unused = set(names) - {target, *Z_names, *X_names}
    if unused and y is None and covariates == "Z." and features == "X.":
        raise DataError(
            f"{source}: column {sorted(unused)[0]!r} is neither the first column (y) nor called Z.… or X.…: rename it, or "
            "choose columns by name or prefix (--y, --covariates, --features)."
        )
    where = {name: j for j, name in enumerate(names)}

    def block(wanted: tuple[str, ...]) -> Array:
        columns = [where[name] for name in wanted]
        if columns and columns == list(range(columns[0], columns[-1] + 1)):
            return values[:, columns[0] : columns[-1] + 1]
        return values[:, columns]

    X, Z = np.ascontiguousarray(block(X_names)), np.ascontiguousarray(block(Z_names))
    return XYZ(values[:, where[target]].copy(), Z, X, target, Z_names, X_names, str(source))


def write_xyz(path: str | Path, y: Array, Z: Array, X: Array) -> Path:
    """Write data in the layout of `XYZ_MoM.txt`; every number so that it reads back to the same bits.

    Parameters
    ----------
    path : str or Path
    y : ndarray (n,)
    Z : ndarray (n, c)
        c may be 0.
    X : ndarray (n, p)

    Examples
    --------
    >>> import tempfile
    >>> from fastlmm_vi.datasets import make_xyz_twin, read_xyz, write_xyz
    >>> data = make_xyz_twin(n=20, p=50, c=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = read_xyz(write_xyz(f"{folder}/small.txt", data.y, data.Z, data.X))
    >>> again.sha256 == data.sha256
    True
    """
    table = np.column_stack([np.asarray(part, dtype=np.float64) for part in (y, Z, X)])
    header = "\t".join(["y", *_numbered("Z", Z.shape[1]), *_numbered("X", X.shape[1])])
    path = Path(path)
    with path.open("w", encoding="ascii") as file:
        file.write(header + "\n")
        for row in table:
            file.write("\t".join(map(repr, row.tolist())) + "\n")
    return path


def _numbered(letter: str, count: int) -> tuple[str, ...]:
    return tuple(f"{letter}.{j}" for j in range(1, count + 1))


def _select(names: tuple[str, ...], wanted: str, target: str, source: str | Path, *, optional: bool) -> tuple[str, ...]:
    chosen: dict[str, None] = {}
    for part in (part.strip() for part in wanted.split(",") if part.strip()):
        exact = part in names
        found = [part] if exact else [name for name in names if name.startswith(part) and name != target]
        if not found and not optional:
            what = "feature columns" if part.startswith("X") else "columns"
            raise DataError(f"{source}: no {what} called {part!r} or beginning with it{_near(part, names)}.")
        chosen |= dict.fromkeys(found)
    chosen.pop(target, None)
    return tuple(chosen)


def _near(name: str, names: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f" (near it: {', '.join(close)})" if close else f" (the first ones are: {', '.join(names[:4])})"


class _DownloadBar:
    """What pooch asks of a progress bar, drawn by rich on standard error."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._task = self._bar.add_task("XYZ_MoM.txt")
        self.total = 0

    def update(self, count: int) -> None:
        if not self._bar.live.is_started:
            self._bar.start()
        self._bar.update(self._task, total=self.total or None, advance=count)

    def reset(self) -> None:
        self._bar.reset(self._task)

    def close(self) -> None:
        self._bar.stop()


def _fetch(download: bool) -> Path:
    import pooch
    import requests

    cache = Path(pooch.os_cache("fastlmm_vi"))
    path = cache / "XYZ_MoM.txt"
    record = cache / "XYZ_MoM.txt.sha256"
    if not path.exists() and not download:
        raise DataError(
            "XYZ_MoM.txt is not here: give its path, or download=True to fetch it (108 MB). Without a connection use "
            "make_xyz_twin(), a stand-in of the same size."
        )
    known = record.read_text().strip() if record.exists() else None
    try:
        pooch.retrieve(XYZ_URL, known_hash=known, fname=path.name, path=cache, progressbar=_DownloadBar())
    except (requests.exceptions.RequestException, OSError) as error:
        raise DataError(
            f"XYZ_MoM.txt could not be fetched from {XYZ_URL} ({type(error).__name__}): check the connection, give the "
            "path of a copy, or use make_xyz_twin(), a stand-in of the same size."
        ) from error
    if known is None:
        record.write_text(pooch.file_hash(str(path)) + "\n")
    return path
