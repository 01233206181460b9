"""Runs cases round by round, each round all of them, so that a machine that drifts does so for all alike."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .. import threads
from ..compilation import warmup
from ..errors import DataError
from . import clock, machine
from .case import Case, Problem
from .record import Record, Row, info, statistics

ROUNDS = 9


@contextmanager
def conditions(problem: Problem, report: Callable[[str], None] = lambda stage: None) -> Iterator[None]:
    """Kernels compiled, the BLAS bounded to the problem's threads, no warnings of fits that are stopped on purpose."""
    with warnings.catch_warnings(), threads.limit(threads.count(problem.jobs)):
        warnings.simplefilter("ignore")
        report("compiling")
        warmup("wide")
        yield


def interleaved(
    runs: Mapping[str, Callable[[], Any]],
    rounds: int,
    once: Sequence[str] = (),
    report: Callable[[str], None] = lambda stage: None,
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Return the seconds of every round and the last value of each run.

    Parameters
    ----------
    runs : mapping of functions without arguments
    rounds : int
        Round by round, every function once; before the first, every function once unmeasured.
    once : sequence of str
        Names that run in the first round only, and not before it.
    report : callable

    Examples
    --------
    >>> from fastlmm_vi.bench.measure import interleaved
    >>> seconds, values = interleaved({"a": lambda: 1, "b": lambda: 2}, rounds=3)
    >>> [len(times) for times in seconds.values()], values
    ([3, 3], {'a': 1, 'b': 2})
    """
    for name, run in runs.items():
        if name not in once:
            report(f"warming up, {name}")
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    values: dict[str, Any] = {}
    for k in range(rounds):
        for name, run in runs.items():
            if k > 0 and name in once:
                continue
            report(f"round {k + 1} of {rounds}, {name}")
            start = clock.now()
            values[name] = run()
            seconds[name].append(clock.now() - start)
    return seconds, values


def measure(
    cases: Sequence[Case],
    problem: Problem,
    rounds: int = ROUNDS,
    report: Callable[[str], None] = lambda stage: None,
) -> Record:
    """Run the cases on one problem and return their times and accuracies.

    Examples
    --------
    >>> from fastlmm_vi.bench import cases, measure
    >>> from fastlmm_vi.bench.case import Problem
    >>> record = measure.measure(cases.select("newton_ml"), Problem(n=40, p=90, c=2), rounds=2)
    >>> list(record.rows), record.ratio("newton_ml") > 0.0
    (['dsyrk_eigh', 'newton_ml'], True)
    """
    with conditions(problem, report):
        report("data")
        runs = {case.name: _prepare(case, problem) for case in cases}
        once = [case.name for case in cases if case.once]
        seconds, values = interleaved(runs, rounds, once, report)
        report("accuracy")
        rows = {
            case.name: Row(
                question=case.question,
                stats=statistics(seconds[case.name]),
                info=info(case, problem, values[case.name]),
            )
            for case in cases
        }
    return Record(machine.describe(), rows)


def _prepare(case: Case, problem: Problem) -> Callable[[], Any]:
    try:
        return case.prepare(problem)
    except ImportError as error:
        raise DataError(
            f"{case.name}: {case.package} is installed but cannot be imported ({error}); --no-peers leaves it out."
        ) from error
