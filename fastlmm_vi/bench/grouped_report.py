"""The grouped benchmarks as tables: whole fits, pieces, units, growth; and the machine."""

from collections.abc import Mapping, Sequence
from typing import Any

from . import grouped_fits, grouped_growth, grouped_pieces, machine
from .grouped_contenders import NAMES, OURS
from .grouped_record import GroupedRecord, Rows
from .record import Record, Row
from .table import Table

NO_FIT = "–"
LEAST = 1e-16


def tables(record: GroupedRecord) -> dict[str, Table]:
    """Return every table that the record has rows for, by the name that a document calls it."""
    found: dict[str, Table] = {}
    for name, question, make in (
        ("fits", grouped_fits.QUESTION, fits),
        ("pieces", grouped_pieces.QUESTION, pieces),
    ):
        rows = [row for row in record.timed.rows.values() if row.question == question]
        found |= {name: make(record.timed, rows)} if rows else {}
    found |= {"units": units(record.units), "own units": units_own(record.units)} if record.units else {}
    found |= {"growth": growth(record.growth), "exponents": exponents(record.growth)} if record.growth else {}
    return found


def conditions(record: Record) -> str:
    """Return the machine, and what its BLAS does."""
    described = dict(record.machine)
    speeds = ", ".join(f"{name} {value:.0f} GFlop/s" for name, value in described["gflops"].items())
    return f"{machine.text(described)}\nXᵀX on one thread by the BLAS of {speeds}"


def fits(record: Record, rows: Sequence[Row]) -> Table:
    """Whole fits: time and accuracy of all who can express the model."""
    return Table(
        title=f"{grouped_fits.QUESTION} (seconds of one core)",
        header=("model", "rows", "package", "time", "ratio", "criterion", "sd", "remark"),
        rows=[_fit(record, row) for row in rows],
        note=(
            "time: to fixed effects with standard errors, and variances, in the fastest round. criterion: −2 × the\n"
            "restricted log-likelihood less that of fastlmm_vi, positive is worse. sd: the largest relative difference of a\n"
            "standard deviation. Of fastlmm_vi itself, both are what another Newton step promises."
        ),
        left=3,
        remarks=True,
    )


def _fit(record: Record, row: Row) -> tuple[str, ...]:
    info, ours = row.info, row.info["package"] == OURS
    model = (info["formula"], _thousands(info["rows"])) if ours else ("", "")
    error, sd = (_error(info[key]) for key in ("error", "sd_error"))
    return (*model, info["package"], _time(row.seconds()), _ratio(record, row), error, sd, info["mark"])


def pieces(record: Record, rows: Sequence[Row]) -> Table:
    """Pieces of fits, beside lme4's."""
    return Table(
        title=f"{grouped_pieces.QUESTION} (seconds of one core)",
        header=("piece", "package", "time", "ratio", "criterion"),
        rows=[_piece(record, row) for row in rows],
        note=(
            "ratio: lme4's time over ours; of the repeated rows, ours over that of the rows as they are. An evaluation of\n"
            "ours comes with the gradient, lme4's without. criterion: lme4's less ours at the same θ."
        ),
        left=2,
    )


def _piece(record: Record, row: Row) -> tuple[str, ...]:
    info = row.info
    title = info["title"] if info["package"] == OURS else ""
    error = "" if info["error"] is None else _error(info["error"])
    return title, info["package"], _time(row.seconds()), _ratio(record, row), error


def units(rows: Rows) -> Table:
    """What other units, and other origins, do to a log-likelihood that they cannot change; ours as given is the truth."""
    return _units(
        rows,
        "error",
        "Units: log-likelihood of fastlmm_vi less that after a change of the data (sleepstudy, by ML)",
        "Reaction ~ Days + (Days | Subject). By how much the log-likelihood after the change, its Jacobian added, lies\n"
        "below that of fastlmm_vi before it. Where a shift will round digits away, they are gone before it, too.",
    )


def units_own(rows: Rows) -> Table:
    """The same, each package's own log-likelihood as given being the truth."""
    return _units(
        rows,
        "moved",
        "Units: each package's own log-likelihood less that after the change",
        "The same, below the package's own log-likelihood before the change.",
    )


def _units(rows: Rows, quantity: str, title: str, note: str) -> Table:
    packages = [name for name in NAMES if any(row["package"] == name for row in rows)]
    changes: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        changes.setdefault(row["change"], {})[row["package"]] = row
    return Table(
        title=title,
        header=("data", *packages),
        rows=[(change, *(_unit(found[name], quantity) for name in packages)) for change, found in changes.items()],
        note=note,
    )


def _unit(row: Mapping[str, Any], quantity: str) -> str:
    """The number, and what the package says of its fit."""
    value = row[quantity]
    return ", ".join(part for part in ("" if value is None else _error(value), row["mark"]) if part)


def growth(rows: Rows) -> Table:
    """Times and memory at every size."""
    return Table(
        title="Growth, by REML (seconds of one core)",
        header=("design", "rows", "levels", "fit", "evaluations", "each", "memory"),
        rows=[
            (
                row["formula"],
                _thousands(row["rows"]),
                " × ".join(map(_thousands, row["levels"])),
                _time(row["seconds"]),
                str(row["evaluations"]),
                _time(row["evaluation"]),
                NO_FIT if row["bytes"] is None else f"{row['bytes'] / 1e6:.0f} MB",
            )
            for row in rows
        ],
        note="each: one evaluation, with gradient. memory: the peak of the process beyond the data.",
    )


def exponents(rows: Rows) -> Table:
    """Fitted powers beside those of theory."""
    return Table(
        title="Exponents, in rows; of crossed factors, in levels of the smaller one",
        header=("design", "of", "measured", "theory"),
        rows=[
            (
                found["design"],
                grouped_growth.QUANTITIES[found["quantity"]],
                NO_FIT if found["measured"] is None else f"{found['measured']:.2f}",
                f"{found['theory']:.2f}",
            )
            for found in grouped_growth.exponents(rows)
        ],
        left=2,
    )


def _ratio(record: Record, row: Row) -> str:
    ratio = record.ratio(row.name)
    return "" if ratio is None else f"{ratio:#.3g}".rstrip(".")


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1.0:
            return f"{seconds * factor:#.3g}".rstrip(".") + f" {unit}"
    return f"{seconds * 1e6:#.3g}".rstrip(".") + " µs"


def _error(value: float | None) -> str:
    """Two digits with a sign; what is exactly 0 is 0, and what no float64 of order 1 shows is said to be less.

    Examples
    --------
    >>> from fastlmm_vi.bench.grouped_report import _error
    >>> [_error(value) for value in (None, 0.0, 3e-24, -1.23e-9, 0.0541, 191.2)]
    ['–', '0', '< 1e-16', '-1.2e-09', '+0.054', '+191']
    """
    if value is None:
        return NO_FIT
    if value == 0.0 or abs(value) < LEAST:
        return "0" if value == 0.0 else f"< {LEAST:.0e}"
    if abs(value) < 1e-3:
        return f"{value:+.1e}"
    return f"{value:+.2g}" if abs(value) < 100.0 else f"{value:+.0f}"


def _thousands(number: int) -> str:
    return f"{number:,}".replace(",", "\u202f")
