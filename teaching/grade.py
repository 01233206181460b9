"""Students' notebooks graded: each gap on its own, everything before it filled as in the lesson."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat.reader import NotJSONError
from nbformat.v4 import new_code_cell, new_notebook

from .execute import kernel_for
from .lesson import Lesson, lessons

TIMEOUT = 60  # seconds a gap may take, and any cell of a lesson

# One gap tried on a copy of the names that the lesson has made so far.
TRIAL = """\
_names = dict(globals())
exec(compile({filling!r}, "your cell", "exec"), _names)
exec(compile({check!r}, "the check", "exec"), _names)
"""


def grade(
    notebooks: Sequence[Path], data: Path | None = None, report: Callable[[str], None] = lambda text: None
) -> pd.DataFrame:
    """Return a row per notebook: file, lesson, passed, gaps, and for every gap that did not pass the reason.

    Only the gap cells of a notebook are run. Each is run in the lesson itself, all other gaps filled by their
    solutions and checked by the lesson's own check, so that one slip costs one gap. A file that is no notebook of these
    lessons gets a row that says so.

    Parameters
    ----------
    notebooks : sequence of Path
    data : Path, optional
        The file that lessons on the data read, where they were built on one.
    """
    rows = []
    for path in notebooks:
        report(str(path))
        try:
            notebook = nbformat.read(path, as_version=4)
            lesson, fillings = _fillings(notebook)
        except (OSError, NotJSONError, nbformat.ValidationError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            rows.append(
                {"file": str(path), "lesson": "", "passed": 0, "gaps": 0, "not passed": f"not graded: {reason}"}
            )
            continue
        reasons = _reasons(lesson, fillings, data)
        passed = sum(not reason for reason in reasons.values())
        notes = "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason)
        rows.append(
            {"file": str(path), "lesson": lesson.name, "passed": passed, "gaps": len(lesson.gaps), "not passed": notes}
        )
    return pd.DataFrame(rows)


def _fillings(notebook: nbformat.NotebookNode) -> tuple[Lesson, dict[str, str]]:
    """The lesson a notebook is of, and its cell for every gap: by its mark or, where that was lost, its first line."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    best: tuple[Lesson, dict[str, str]] | None = None
    for lesson in lessons():
        found = {}
        for name, gap in lesson.gaps.items():
            first = gap.blank.splitlines()[0]
            marked = [cell.source for cell in code if cell.metadata.get("fastlmm_vi", {}).get("gap") == name]
            alike = [cell.source for cell in code if first in cell.source.splitlines()]
            if marked or alike:
                found[name] = (marked or alike)[0]
        if found and (best is None or len(found) > len(best[1])):
            best = lesson, found
    if best is None:
        raise ValueError("no gap cell of these lessons is in it")
    return best


def _reasons(lesson: Lesson, fillings: Mapping[str, str], data: Path | None) -> dict[str, str]:
    """Why each gap did not pass; empty where it did."""
    source = None if data is None else str(data.resolve())
    reference = lesson.notebook(student=False, numbers=None, data=source)
    cells, trials = [], {}
    for cell in (cell for cell in reference.cells if cell.cell_type == "code"):
        options = cell.metadata.get("fastlmm_vi", {})
        if "timing" in options or "figure" in options:
            continue
        if (name := options.get("gap")) in fillings:
            check = next(each.source for each in lesson.cells if each.options.get("check") == name)
            trials[name] = new_code_cell(TRIAL.format(filling=fillings[name], check=check))
            cells.append(trials[name])
        cells.append(cell)
    run = new_notebook(cells=cells, metadata=reference.metadata)
    with (
        kernel_for(run, timeout=TIMEOUT, interrupt_on_timeout=True, allow_errors=True) as client,
        contextlib.suppress(CellTimeoutError, DeadKernelError),
    ):
        client.execute()
    return {name: _reason(trials.get(name), lesson.gaps[name].blank, fillings.get(name)) for name in lesson.gaps}


def _reason(trial: Any, blank: str, filling: str | None) -> str:
    if filling is None:
        return "its cell is missing"
    if filling.strip() == blank.strip():
        return "empty"
    if not trial.get("execution_count"):
        return "not run: something before it stopped the lesson"
    errors = [output for output in trial.outputs if output.output_type == "error"]
    if not errors:
        return ""
    name, message = errors[0].ename, " ".join(errors[0].evalue.split())
    if name == "KeyboardInterrupt":
        return f"stopped after {TIMEOUT} s"
    return message if name == "AssertionError" else f"{name}: {message}"
