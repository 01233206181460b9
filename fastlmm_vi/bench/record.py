"""A run as data: times and accuracy of every case, in the layout of a pytest-benchmark file."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, threads
from ..errors import DataError
from . import machine
from .case import Case, Problem
from .cases import version


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case as it was measured: statistics of the rounds, in seconds per run of `info["units"]` pieces of work."""

    question: str
    stats: Mapping[str, Any]
    info: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the case."""
        return str(self.info["case"])

    def seconds(self, statistic: str = "min") -> float:
        """Seconds for one piece of work, in the fastest round unless told otherwise."""
        return float(self.stats[statistic] / self.info["units"])


@dataclass(frozen=True, eq=False)
class Record:
    """The rows of one run by name, and the machine it ran on."""

    machine: Mapping[str, Any]
    rows: Mapping[str, Row]

    def ratio(self, name: str) -> float | None:
        """Time of a case over that of its yardstick in this run; None for those that are measured alone.

        Each in its fastest round: what else runs on a machine only adds to times, so that of all statistics the least
        vary least from run to run.
        """
        yardstick = self.rows.get(str(self.rows[name].info["yardstick"]))
        return None if yardstick is None else self.rows[name].seconds() / yardstick.seconds()

    def problem(self) -> Problem:
        """Return the problem of the run, to be measured again."""
        info = next(iter(self.rows.values())).info
        return Problem(*(int(info[key]) for key in ("n", "p", "c", "jobs")))


def info(case: Case, problem: Problem, value: Any) -> dict[str, Any]:
    """Return what a file says of a case beside its times; `value` is what its run returned."""
    return {
        "case": case.name,
        "yardstick": case.yardstick,
        "units": case.units,
        "n": problem.n,
        "p": problem.p,
        "c": problem.c,
        "jobs": threads.count(problem.jobs),
        "error": case.error(problem, value),
        "package": case.package,
        "package_version": version(case),
    }


def statistics(seconds: Sequence[float]) -> dict[str, Any]:
    """Return pytest-benchmark's statistics of the rounds."""
    data = np.asarray(seconds)
    q1, median, q3 = np.quantile(data, [0.25, 0.5, 0.75])
    values = {
        "min": data.min(),
        "max": data.max(),
        "mean": data.mean(),
        "stddev": data.std(ddof=1) if data.size > 1 else 0.0,
        "median": median,
        "q1": q1,
        "q3": q3,
        "iqr": q3 - q1,
        "total": data.sum(),
        "ops": 1.0 / data.mean(),
    }
    plain = {key: float(value) for key, value in values.items()}
    return {**plain, "rounds": data.size, "iterations": 1, "outliers": "", "data": data.tolist()}


def add_ratios(benchmarks: Iterable[dict[str, Any]]) -> None:
    """Write into every benchmark of a file the ratio to its yardstick in the same file."""
    rows = {entry["extra_info"]["case"]: entry for entry in benchmarks if "case" in entry["extra_info"]}
    record = Record({}, {name: row_of(entry) for name, entry in rows.items()})
    for name, entry in rows.items():
        entry["extra_info"]["ratio"] = record.ratio(name)


def content(record: Record) -> dict[str, Any]:
    """Return the run as a file holds it, in the layout of pytest-benchmark."""
    benchmarks = [
        {
            "group": row.question,
            "name": row.name,
            "fullname": f"fastlmm_vi.bench::{row.name}",
            "params": {"name": row.name},
            "param": row.name,
            "extra_info": dict(row.info),
            "options": {},
            "stats": dict(row.stats),
        }
        for row in record.rows.values()
    ]
    add_ratios(benchmarks)
    return {
        "machine_info": record.machine,
        "commit_info": {},
        "benchmarks": benchmarks,
        "datetime": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": f"fastlmm_vi {__version__}",
    }


def write(record: Record, path: Path) -> Path:
    """Write the run as a file that pytest-benchmark reads, too."""
    path.write_text(json.dumps(content(record), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> Record:
    """Read a file that `write` or pytest-benchmark made; benchmarks that are no cases of the registry are left out."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file. Make one with `fastlmm-vi bench --out {path}`.")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        rows = [row_of(entry) for entry in held["benchmarks"] if _is_wide(entry["extra_info"])]
        for row in rows:
            _check(row)
        machine.text(held["machine_info"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not a file of benchmarks ({type(error).__name__}: {error}). "
            "Make one with `fastlmm-vi bench --out FILE`, or pytest --benchmark-json=FILE on tests/bench."
        ) from error
    if not rows:
        raise DataError(f"{path} holds none of the cases of `fastlmm-vi bench`: make one with its --out.")
    return Record(held["machine_info"], {row.name: row for row in rows})


def _is_wide(extra: Mapping[str, Any]) -> bool:
    """Whether a benchmark is a case of the wide model's registry, or one like them; `grouped_measure` names its wing."""
    return "case" in extra and "wing" not in extra


def row_of(entry: Mapping[str, Any]) -> Row:
    """Return the row that stands in one benchmark of a file."""
    return Row(question=str(entry["group"]), stats=entry["stats"], info=entry["extra_info"])


def _check(row: Row) -> None:
    for key in ("n", "p", "c", "jobs", "units", "yardstick", "error", "package_version"):
        row.info[key]
    for key in ("min", "q1", "median", "rounds"):
        if not float(row.stats[key]) >= 0.0:
            raise ValueError(f"{row.name} has {key} = {row.stats[key]}")
    if not (row.seconds() > 0.0 and row.info["units"] >= 1):
        raise ValueError(f"{row.name} took {row.seconds()} s")
