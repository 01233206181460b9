"""Jobs of the grouped benchmarks, run round by round, and the record of them."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import threads
from . import cpu, machine
from .lme4 import Session
from .measure import ROUNDS
from .record import Record, Row, statistics

Report = Callable[[str], None]
WING = "grouped"  # of every row, so that files may hold those of both


def silent(stage: str) -> None:
    """Report nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """What is timed in one row of a table.

    Attributes
    ----------
    name, package, version : str
        Of the piece of work, and of who does it.
    question : str
        Heading under which the row stands.
    run : callable
        Returns its seconds of the processor, and a value.
    describe : callable
        From that value to further entries of the row ("error" is one); called after all is measured.
    yardstick : str or None
        Key of the job whose time this one's is divided by.
    info : mapping
        Further entries that are known before.
    """

    name: str
    package: str
    version: str
    question: str
    run: cpu.Timed
    describe: Callable[[Any], Mapping[str, Any]] = lambda value: {"error": None}
    yardstick: str | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Name of the row."""
        return key(self.name, self.package)


def key(name: str, package: str) -> str:
    """Name of the row of a piece of work by a package.

    Examples
    --------
    >>> from fastlmm_vi.bench import grouped_measure
    >>> grouped_measure.key("fit_cake", "lme4")
    'fit_cake[lme4]'
    """
    return f"{name}[{package}]"


def measure(jobs: Sequence[Job], rounds: int = ROUNDS, report: Report = silent) -> dict[str, Row]:
    """Run the jobs, each once in every round, on one BLAS thread, and return their rows."""
    with warnings.catch_warnings(), threads.limit(1):
        warnings.simplefilter("ignore")  # a package that warns does so at every run; `describe` listens
        seconds, values = _in_rounds(jobs, rounds, report)
        rows = {}
        for job in jobs:
            report(f"accuracy, {job.key}")
            rows[job.key] = Row(
                question=job.question, stats=statistics(seconds[job.key]), info=_info(job, values[job.key])
            )
    return rows


def _in_rounds(jobs: Sequence[Job], rounds: int, report: Report) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """As `measure.interleaved`, which reads a clock before and after: microseconds do not bear that."""
    seconds: dict[str, list[float]] = {job.key: [] for job in jobs}
    values: dict[str, Any] = {}
    for k in range(rounds + 1):
        for job in jobs:
            report(f"round {k} of {rounds}, {job.key}" if k else f"warming up, {job.key}")
            taken, values[job.key] = job.run()
            seconds[job.key] += [taken] if k else []
    return seconds, values


def _info(job: Job, value: Any) -> dict[str, Any]:
    return {
        "wing": WING,
        "case": job.key,
        "yardstick": job.yardstick,
        "units": 1,
        "jobs": 1,
        "package": job.package,
        "package_version": job.version,
        **job.info,
        **job.describe(value),
    }


def record(rows: Mapping[str, Row], packages: Mapping[str, str], session: Session | None) -> Record:
    """Return the rows with the machine, the packages and R among its versions."""
    described = machine.describe()
    R = dict(session.versions) if session else {}
    described["versions"] |= {**packages, **({"R": R["R"]} if R else {})}
    described["gflops"] = {"NumPy": _gflops()} | ({"R": R["gflops"]} if R else {})
    return Record(described, rows)


def _gflops() -> float:
    """What NumPy's BLAS does on one thread in XᵀX, of the same X as lme4.R's."""
    X = np.sin(np.arange(1.0, 250_001.0)).reshape(500, 500)
    with threads.limit(1):
        return max(0.125 / cpu.seconds(lambda: X.T @ X)[0] for _ in range(5))
