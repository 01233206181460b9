"""A matplotlib figure for a slide: its picture in large type, and the numbers behind it as a table."""

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
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

TEXT = 18  # points, on slides
DPI = 150
LONGEST = 1000  # points of a line in a table

Array = NDArray[np.float64]


class Axis(NamedTuple):
    """One axis of one panel."""

    label: str
    scale: str  # linear or log
    low: float
    high: float


def write(figure: Figure, path: Path) -> None:
    """Write the figure's numbers: a line of comment per axis, then columns panel, series, kind, x, y.

    `kind` is line, rule (a line across the panel), points, segment, contour or bars. A line of more than a thousand points
    is thinned to about as many, dense where it begins.
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


def save_for_slide(figure: Figure, path: Path, width: float, height: float) -> None:
    """Save the figure as a PNG of this size in inches, its text as large as a slide's; the figure is changed."""
    figure.set_size_inches(width, height)
    crowded = len(figure.axes) > 1 and width < 8.0
    for text in figure.findobj(Text):
        text.set_fontsize(TEXT)
    for ax in figure.axes:
        for line in ax.lines:
            line.set_linewidth(1.6 * line.get_linewidth())
        for axis in (ax.xaxis, ax.yaxis):
            if isinstance(locator := axis.get_major_locator(), MaxNLocator):
                locator.set_params(nbins=3 if crowded else 5)
            axis.set_tick_params(labelsize=TEXT)
            axis.get_offset_text().set_fontsize(TEXT)
    figure.draw_without_rendering()
    for ax in figure.axes:
        _fold(ax.xaxis.label, ax.get_window_extent().width)
        _fold(ax.yaxis.label, ax.get_window_extent().height)
        _fold(ax.title, ax.get_window_extent().width)
    figure.savefig(path, dpi=DPI)


def _fold(label: Text, room: float) -> None:
    """Break a label that is longer than its axis at the space nearest to its middle, never within a formula."""
    extent = label.get_window_extent()
    text = label.get_text()
    spaces = [k for k, letter in enumerate(text) if letter == " " and text[:k].count("$") % 2 == 0]
    if max(extent.width, extent.height) > room and spaces:
        middle = min(spaces, key=lambda k: abs(k - len(text) / 2))
        label.set_text(f"{text[:middle]}\n{text[middle + 1 :]}")


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
        yield _frame(panel, line.get_label(), kind, *thinned(x, y, LONGEST))
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


def thinned(x: Array, y: Array, most: int) -> tuple[Array, Array]:
    """At most `most` of the points, at geometric distances, first and last among them."""
    if x.size <= most:
        return x, y
    keep = np.unique(np.round(np.geomspace(1, x.size, most)).astype(int)) - 1
    return x[keep], y[keep]


def _frame(panel: int, series: object, kind: str, x: Array, y: Array) -> pd.DataFrame:
    label = "" if str(series).startswith("_") else str(series)
    return pd.DataFrame({"panel": panel, "series": label, "kind": kind, "x": x, "y": y})
