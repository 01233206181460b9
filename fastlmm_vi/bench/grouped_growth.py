"""How times and memory of grouped fits grow with the data, beside the powers of theory."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..plots import COLORS
from . import grouped_trial
from .growth import draw_power, exponent, label_sizes

DESIGNS = tuple(grouped_trial.DESIGNS)
QUANTITIES: Mapping[str, str] = {
    "seconds": "whole fit",
    "evaluation": "one evaluation",
    "bytes": "memory beyond the data",
}
# Crossed: the dense Schur complement in the levels of the smaller factor. Else everything is linear.
THEORY: Mapping[str, Mapping[str, float]] = {
    "slopes": dict.fromkeys(QUANTITIES, 1.0),
    "nested": dict.fromkeys(QUANTITIES, 1.0),
    "crossed": {"seconds": 3.0, "evaluation": 3.0, "bytes": 2.0},
}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Rows of the designs with slopes and with nested factors; levels of the larger crossed factor."""

    slopes: tuple[int, ...]
    nested: tuple[int, ...]
    crossed: tuple[int, ...]
    rounds: int


ROWS = (10_000, 30_000, 100_000, 300_000, 1_000_000)
FULL = Sizes(slopes=ROWS, nested=ROWS, crossed=(5_000, 10_000, 20_000, 50_000), rounds=3)
QUICK = Sizes(slopes=(500, 1000), nested=(500, 1000), crossed=(200, 400), rounds=1)


def run(sizes: Sizes, report: Callable[[str], None] = lambda stage: None) -> list[dict[str, Any]]:
    """Measure every size of every design, each in a process of its own (`grouped_trial.measure`)."""
    rows = []
    for design in DESIGNS:
        for size in getattr(sizes, design):
            report(f"{design}, {size}")
            rows.append(grouped_trial.run(design, size, sizes.rounds))
    return rows


def size(row: Mapping[str, Any]) -> int:
    """What the powers are powers of: the rows, or the levels of the smaller crossed factor."""
    return int(row["levels"][-1] if row["design"] == "crossed" else row["rows"])


def exponents(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return design, quantity, and its exponent as fitted (None where fewer than two sizes show any) and by theory."""
    found = []
    for design in DESIGNS:
        for quantity in QUANTITIES:
            part = [row for row in rows if row["design"] == design and row[quantity]]
            fitted = exponent([size(row) for row in part], [row[quantity] for row in part]) if len(part) > 1 else None
            theory = THEORY[design][quantity]
            found.append({"design": design, "quantity": quantity, "measured": fitted, "theory": theory})
    return found


def plot(rows: Sequence[Mapping[str, Any]], *, axes: Any) -> None:
    """Seconds of a whole fit against the rows, and of an evaluation of crossed factors against the smaller one's levels.

    Parameters
    ----------
    rows : sequence of mapping
        As `run` returns them.
    axes : two of matplotlib's Axes
    """
    panels = ((("slopes", "nested"), "seconds", "rows"), (("crossed",), "evaluation", "levels of the smaller factor"))
    for ax, (designs, quantity, label) in zip(axes, panels, strict=True):
        for color, design in zip(COLORS, designs, strict=False):
            part = [row for row in rows if row["design"] == design]
            x, y = (
                np.array(values, float) for values in ([size(row) for row in part], [row[quantity] for row in part])
            )
            draw_power(ax, x, y, THEORY[design][quantity], design, color)
        label_sizes(ax, sorted({size(row) for row in rows if row["design"] in designs}))
        ax.set_xlabel(label)
        ax.set_ylabel(f"seconds, {QUANTITIES[quantity]}")
        ax.legend(frameon=False, fontsize="small")


def write(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Write grouped_growth.csv and, where matplotlib is installed, grouped_growth.png."""
    paths = [folder / "grouped_growth.csv"]
    pd.DataFrame(rows).to_csv(paths[0], index=False)
    if importlib.util.find_spec("matplotlib"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10.4, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        plot(rows, axes=figure.subplots(1, 2))
        paths.append(folder / "grouped_growth.png")
        figure.savefig(paths[1], dpi=150)
    return paths
