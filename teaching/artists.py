"""The numbers behind a matplotlib figure, read off its lines, points and bars, as a table that a chart can be made of."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.container import BarContainer
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure


class Axis(NamedTuple):
    """One axis of one panel."""

    label: str
    scale: str  # linear or log
    low: float
    high: float


def write(figure: Figure, path: Path) -> None:
    """Write the figure's numbers: a line of comment per axis, then columns panel, series, kind, x, y.

    `kind` is line, rule (a line across the panel), points, segment, contour or bars.
    """
    frames = [frame for panel, ax in enumerate(figure.axes, start=1) for frame in _panel(panel, ax)]
    if not frames:
        raise ValueError("The figure has no line, point or bar: there is nothing to keep as its source data.")
    with Path(path).open("w", encoding="utf-8") as file:
        for panel, ax in enumerate(figure.axes, start=1):
            for letter, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
                low, high = axis.get_view_interval()
                file.write(f"# {panel}\t{letter}\t{axis.get_label_text()}\t{axis.get_scale()}\t{low:.6g}\t{high:.6g}\n")
        pd.concat(frames, ignore_index=True).to_csv(file, index=False, float_format="%.9g", lineterminator="\n")


def read(path: Path) -> tuple[dict[tuple[int, str], Axis], pd.DataFrame]:
    """Return the axes, by panel and letter, and the table that `write` wrote."""
    axes = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.startswith("# "):
                break
            panel, letter, label, scale, low, high = line[2:].rstrip("\n").split("\t")
            axes[int(panel), letter] = Axis(label, scale, float(low), float(high))
    return axes, pd.read_csv(path, skiprows=len(axes), keep_default_na=False, na_values=["nan"])


def _panel(panel: int, ax: Axes) -> Iterator[pd.DataFrame]:
    for line in ax.lines:
        x, y = np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)
        kind = "line" if line.get_transform() == ax.transData else "rule"  # axhline and axvline span the panel
        yield _frame(panel, line.get_label(), kind, x, y)
    for collection in ax.collections:
        if isinstance(collection, PathCollection):
            points = np.asarray(collection.get_offsets())
            yield _frame(panel, collection.get_label(), "points", points[:, 0], points[:, 1])
        elif isinstance(collection, LineCollection):
            for segment in collection.get_segments():
                yield _frame(panel, collection.get_label(), "segment", *np.asarray(segment).T)
        elif isinstance(collection, ContourSet):
            for level, path in zip(collection.levels, collection.get_paths(), strict=True):
                yield _frame(panel, f"level {level:.6g}", "contour", *np.asarray(path.vertices, dtype=float).T)
    for container in ax.containers:
        if isinstance(container, BarContainer):
            x = np.array([patch.get_x() + patch.get_width() / 2 for patch in container])
            yield _frame(panel, container.get_label(), "bars", x, np.array([patch.get_height() for patch in container]))


def _frame(panel: int, series: object, kind: str, x: np.ndarray, y: np.ndarray) -> pd.DataFrame:
    label = "" if str(series).startswith("_") else str(series)
    return pd.DataFrame({"panel": panel, "series": label, "kind": kind, "x": x, "y": y})
