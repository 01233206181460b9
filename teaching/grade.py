"""Students' notebooks run, and the gaps counted whose check passes."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import nbformat
import pandas as pd
from nbclient.exceptions import CellTimeoutError, DeadKernelError

from .execute import kernel_for
from .lesson import Lesson, lessons

TIMEOUT = 120  # seconds a cell may take


def grade(notebooks: Sequence[Path], report: Callable[[str], None] = lambda text: None) -> pd.DataFrame:
    """Return a row per notebook: file, lesson, passed, gaps, and the names of the gaps still open.

    The checks are those of the lessons, whatever the notebook's own say; a cell that fails does not stop the rest.
    """
    rows = []
    for path in notebooks:
        report(str(path))
        notebook = nbformat.read(path, as_version=4)
        lesson = _lesson_of(notebook, path)
        passed = _passed(notebook, lesson)
        still_open = [name for name in lesson.gaps if name not in passed]
        row = {"file": str(path), "lesson": lesson.name, "passed": len(passed), "gaps": len(lesson.gaps)}
        rows.append({**row, "open": " ".join(still_open)})
    return pd.DataFrame(rows)


def _lesson_of(notebook: nbformat.NotebookNode, path: Path) -> Lesson:
    names = {name for cell in notebook.cells for name in [cell.metadata.get("fastlmm_vi", {}).get("check")] if name}
    for lesson in lessons():
        if names and names <= set(lesson.gaps):
            return lesson
    raise ValueError(f"{path}: not a student notebook of these lessons (no check cell of theirs is in it).")


def _passed(notebook: nbformat.NotebookNode, lesson: Lesson) -> set[str]:
    checks = {cell.options["check"]: cell.source for cell in lesson.cells if "check" in cell.options}
    for cell in notebook.cells:
        name = cell.metadata.get("fastlmm_vi", {}).get("check")
        if name:
            cell.source = checks[name]
    client = kernel_for(notebook, timeout=TIMEOUT, allow_errors=True)
    with contextlib.suppress(CellTimeoutError, DeadKernelError):  # what ran before counts; the rest stays open
        client.execute()
    passed = set()
    for cell in notebook.cells:
        name = cell.metadata.get("fastlmm_vi", {}).get("check")
        if name and cell.get("execution_count") and not any(o.output_type == "error" for o in cell.outputs):
            passed.add(name)
    return passed
