"""The benchmark of variational Bayes as tables."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from .grouped_report import NO_FIT, _time
from .table import Table
from .variational_models import EXACT
from .variational_record import VariationalRecord

Rows = Sequence[Mapping[str, Any]]


def tables(record: VariationalRecord) -> dict[str, Table]:
    """Return every table, by the name that a document calls it."""
    return {
        "fits": fits(record.rows),
        "accuracy": accuracy(record.rows),
        "first": first(record.first),
        "summary": summary(record.rows),
    }


def _groups(rows: Rows) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """The rows of all seeds, by formula and method."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["formula"], row["method"]), []).append(row)
    return found


def fits(rows: Rows) -> Table:
    """Seconds, and what the whole of q has lost."""
    lines, before = [], ""
    for (formula, method), seeds in _groups(rows).items():
        lines.append(("" if formula == before else formula, method, *_fit(method, seeds)))
        before = formula
    return Table(
        title="From the data in memory to q, everything imported (seconds of one thread)",
        header=("model", "method", "processor", "wall", "compiling", "ELBO", "lost", "k̂"),
        rows=lines,
        note=(
            "Seconds: of the fastest seed. compiling: of the processor's. ELBO: median of the seeds; of PyMC and Bambi by\n"
            "1000 draws; of quadrature, the log evidence. lost: log evidence less ELBO, median (least–most). k̂: of\n"
            "importance weights from q to the exact posterior of everything, likewise; above 0.7 they do not help."
        ),
        left=2,
    )


def _fit(method: str, seeds: Rows) -> tuple[str, ...]:
    done = [row for row in seeds if not row["error"]]
    if not done:
        return (NO_FIT,) * 6
    cpu, wall = (min(row[key] for row in done) for key in ("cpu", "wall"))
    compiling = min(row.get("compile_cpu", 0.0) for row in done)
    times = (_time(cpu), _time(wall), _time(compiling) if compiling else NO_FIT)
    if method == EXACT:
        return (*times, f"{done[0]['log_evidence']:.2f}", NO_FIT, NO_FIT)
    elbo = [row["elbo"] for row in done if row["elbo"] is not None]
    k = [row["k"] for row in done if row["k"] is not None]
    lost = [done[0]["log_evidence"] - each for each in elbo]
    return (
        *times,
        f"{median(elbo):.2f}" if elbo else NO_FIT,
        _spread(lost, 2),
        _spread(k, 2),
    )


def accuracy(rows: Rows) -> Table:
    """Shares of overlap with the exact marginals."""
    groups = {key: seeds for key, seeds in _groups(rows).items() if key[1] != EXACT}
    methods = list(dict.fromkeys(method for _, method in groups))
    lines, before = [], ""
    for formula in dict.fromkeys(formula for formula, _ in groups):
        parameters = next(seeds[0]["accuracy"] for (of, _), seeds in groups.items() if of == formula)
        for name in parameters:
            cells = [_accuracy(groups.get((formula, method), []), name) for method in methods]
            lines.append(("" if formula == before else formula, name, *cells))
            before = formula
    return Table(
        title="Accuracy, 100 (1 − ½∫|q − p|), p by quadrature",
        header=("model", "parameter", *methods),
        rows=lines,
        note="Median of the seeds (least–most, where they differ).",
        left=2,
    )


def _accuracy(seeds: Rows, name: str) -> str:
    return _spread([row["accuracy"][name] for row in seeds if name in row["accuracy"]], 1)


def _spread(values: Sequence[float], digits: int) -> str:
    """The median, with the range where there is one.

    Examples
    --------
    >>> from fastlmm_vi.bench.variational_report import _spread
    >>> [_spread(values, 1) for values in ([], [93.21, 93.22], [80.0, 95.0, 90.0])]
    ['–', '93.2', '90.0 (80.0–95.0)']
    """
    if not values:
        return NO_FIT
    middle, low, high = (f"{value:.{digits}f}" for value in (median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low}–{high})"


def summary(rows: Rows) -> Table:
    """Seconds and the worst marginal."""
    groups = _groups(rows)
    methods = list(dict.fromkeys(method for _, method in groups))
    return Table(
        title="Seconds of the processor, and accuracy of the worst marginal",
        header=("model", *methods),
        rows=[
            (formula, *(_worst(groups.get((formula, method), [])) for method in methods))
            for formula in dict.fromkeys(formula for formula, _ in groups)
        ],
        note=(
            "Time to q; 100 (1 − ½∫|q − p|) of the marginal that is worst, median of three seeds. The exact posterior p is\n"
            "that by quadrature."
        ),
    )


def _worst(seeds: Rows) -> str:
    done = [row for row in seeds if not row["error"]]
    if not done:
        return NO_FIT
    least = [min(row["accuracy"].values()) for row in done if row["accuracy"]]
    time = _time(min(row["cpu"] for row in done))
    return f"{time}; {median(least):.0f}" if least else time


def first(rows: Rows) -> Table:
    """Imports and first fits."""
    lines = [
        (row["model"], row["software"], *(_pair(row[key]) for key in ("import", "nothing", "compiled"))) for row in rows
    ]
    return Table(
        title="The first fit of a process (seconds of the processor; on the wall)",
        header=("model", "software", "import", "nothing compiled before", "compiled before"),
        rows=lines,
        note=(
            "fastlmm_vi: structured-vi; kernels are compiled once in an installation. PyMC: ADVI by its defaults; every\n"
            "fit derives and compiles its own step, with parts of earlier ones from the disk."
        ),
        left=2,
    )


def _pair(seconds: Sequence[float] | None) -> str:
    return NO_FIT if seconds is None else f"{_time(seconds[1])}; {_time(seconds[0])}"
