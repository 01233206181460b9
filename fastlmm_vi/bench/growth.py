"""How times grow with n and p: measured, fitted as powers, and set beside the powers of the operation counts."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..plots import COLORS
from ..result import Array
from .case import Problem
from .cases import CASES
from .measure import conditions, interleaved

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Sizes:
    """n varies at `p_fixed`, p varies at `n_fixed`."""

    n: tuple[int, ...]
    p_fixed: int
    p: tuple[int, ...]
    n_fixed: int
    c: int
    rounds: int


FULL = Sizes((250, 500, 1000, 2000, 4000), 6000, (2000, 5000, 10_000, 20_000, 50_000, 100_000), 1000, 30, rounds=3)
QUICK = Sizes((40, 80, 160), 300, (200, 400, 800), 60, 3, rounds=2)


def _direct(n: float, p: float) -> float:
    """Gram matrix of the smaller side, and its tridiagonal form."""
    small, large = min(n, p), max(n, p)
    return small**2 * large + 4 / 3 * small**3


# Multiplications and additions of the leading terms, n < p, in the units of `units` in the registry.
OPERATIONS: Mapping[str, tuple[str, Callable[[float, float, float], float]]] = {
    "newton_ml": ("n²p + 4n³/3", lambda n, p, c: _direct(n, p)),
    "em_1000": ("n²p + 4n³/3 + 4000nc", lambda n, p, c: _direct(n, p) + 4000 * n * c),
    "mfvi_collapsed": ("n²p + 4n³/3", lambda n, p, c: _direct(n, p)),
    "sweep": ("4np", lambda n, p, c: 4 * n * p),
}


def exponent(sizes: Any, values: Any) -> float:
    """Return b of the power a · sizeᵇ that fits positive values best, by least squares of the logarithms.

    Examples
    --------
    >>> from fastlmm_vi.bench.growth import exponent
    >>> round(exponent([1, 2, 4], [3, 12, 48]), 12)
    2.0
    """
    return float(np.polyfit(np.log(np.asarray(sizes, float)), np.log(np.asarray(values, float)), 1)[0])


def run(sizes: Sizes, jobs: int | None = None, report: Callable[[str], None] = lambda stage: None) -> pd.DataFrame:
    """Return the tidy table method, varied ("n" or "p"), n, p, c, seconds (of the fastest round), operations."""
    grid = [("n", n, sizes.p_fixed) for n in sizes.n] + [("p", sizes.n_fixed, p) for p in sizes.p]
    rows = []
    for varied, n, p in grid:
        for method, seconds in _seconds(Problem(n, p, sizes.c, jobs), sizes.rounds, report).items():
            rows.append((method, varied, n, p, sizes.c, seconds, OPERATIONS[method][1](n, p, sizes.c)))
    return pd.DataFrame(rows, columns=["method", "varied", "n", "p", "c", "seconds", "operations"])


def _seconds(problem: Problem, rounds: int, report: Callable[[str], None]) -> dict[str, float]:
    """Seconds of the fastest round, what else runs on the machine only adding to them, for one unit of every method."""

    def show(text: str) -> None:
        report(f"n = {problem.n} and p = {problem.p}, {text}")

    chosen = [case for case in CASES if case.name in OPERATIONS]
    with conditions(problem, show):
        show("data")
        runs = {case.name: case.prepare(problem) for case in chosen}
        seconds, _ = interleaved(runs, rounds, report=show)
    return {case.name: min(seconds[case.name]) / case.units for case in chosen}


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """Return per method and varied size the exponent of the seconds and that of the operation count, fitted alike."""
    rows = []
    for (method, varied), part in table.groupby(["method", "varied"], sort=False):
        rows.append(
            (method, varied, exponent(part[varied], part["seconds"]), exponent(part[varied], part["operations"]))
        )
    return pd.DataFrame(rows, columns=["method", "in", "measured", "theory"])


def text(fitted: pd.DataFrame) -> str:
    """Return the table of exponents with the operation counts."""
    frame = fitted.assign(operations=[OPERATIONS[method][0] for method in fitted["method"]])
    return (
        "Exponents of the time, fitted over the sizes; theory: of the operation count, fitted over the same sizes\n\n"
        + frame.to_string(index=False, float_format="{:.2f}".format)
    )


def plot_growth(table: pd.DataFrame, varied: str, *, ax: Any) -> "Axes":
    """Seconds against n or p, both logarithmic, with the fitted powers; the legend sets them beside theory.

    Parameters
    ----------
    table : DataFrame
        As `run` returns it.
    varied : {"n", "p"}
    ax : matplotlib Axes

    Examples
    --------
    >>> import matplotlib.figure, pandas as pd
    >>> from fastlmm_vi.bench.growth import plot_growth
    >>> rows = [("sweep", "n", n, 10, 1, 1e-6 * n, 40 * n) for n in (10, 20)]
    >>> table = pd.DataFrame(rows, columns=["method", "varied", "n", "p", "c", "seconds", "operations"])
    >>> plot_growth(table, "n", ax=matplotlib.figure.Figure().subplots()).get_legend().get_texts()[0].get_text()
    'sweep: 1.00 (theory 1.00)'
    """
    data = table[table["varied"] == varied]
    for color, (method, part) in zip(COLORS, data.groupby("method", sort=False), strict=False):
        x, y = part[varied].to_numpy(float), part["seconds"].to_numpy(float)
        draw_power(ax, x, y, exponent(x, part["operations"]), method, color)
    other = "p" if varied == "n" else "n"
    label_sizes(ax, sorted(set(data[varied])))
    ax.set_xlabel(f"{varied}, at {other} = {data[other].iloc[0]}")
    ax.set_ylabel("seconds")
    ax.legend(frameon=False, fontsize="small")
    ax.fastlmm_vi_data = data
    axes: Axes = ax
    return axes


def draw_power(ax: Any, x: Array, y: Array, theory: float, name: Any, color: str) -> None:
    """Draw points and the power that fits them best; the legend sets its exponent beside that of theory."""
    slope = exponent(x, y)
    level = np.exp(np.mean(np.log(y) - slope * np.log(x)))
    ax.loglog(x, y, "o", ms=4, color=color, label=f"{name}: {slope:.2f} (theory {theory:.2f})")
    ax.loglog(x, level * x**slope, lw=1, color=color)


def label_sizes(ax: Any, sizes: Sequence[int]) -> None:
    """Give the horizontal axis a tick at every size."""
    ax.set_xticks(sizes, [f"{size:,}".replace(",", "\u2009") for size in sizes])
    ax.set_xticks([], minor=True)


def write(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write growth.csv and, where matplotlib is installed, growth.png."""
    paths = [folder / "growth.csv"]
    table.to_csv(paths[0], index=False)
    if importlib.util.find_spec("matplotlib"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10.4, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        for varied, ax in zip(("n", "p"), figure.subplots(1, 2), strict=True):
            plot_growth(table, varied, ax=ax)
        paths.append(folder / "growth.png")
        figure.savefig(paths[1], dpi=150)
    return paths
