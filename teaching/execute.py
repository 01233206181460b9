"""Notebooks executed in a kernel of their own, with the data behind every picture written beside."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
from traitlets.config import Config

TIMEOUT = 600  # seconds a cell may take; a lesson takes less than 60 altogether

# Pictures into the notebook, whatever backend the user's shell asks for.
INLINE = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}

# Run unseen around the lesson: figures stay open after their cell, so that what they show can be read off, and drawn
# once more for a slide.
BEFORE = "import matplotlib.pyplot as plt\n%config InlineBackend.close_figures = False"
AFTER_FIGURE = """\
from teaching import artists
artists.write(plt.gcf(), {path!r} + ".csv")
if {size!r}:
    artists.save_for_slide(plt.gcf(), {path!r} + ".png", *{size!r})
plt.close("all")
"""


def execute(
    notebook: nbformat.NotebookNode,
    figures: Path | None = None,
    sizes: Mapping[str, tuple[float, float]] = MappingProxyType({}),
    report: Callable[[str], None] = lambda text: None,
) -> float:
    """Execute the notebook in place and return its seconds.

    The data of each figure go to `figures`/NAME.csv, and for those in `sizes` (width and height in inches) a picture for
    a slide to NAME.png.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        As soon as a cell fails.
    """
    start = time.perf_counter()
    seen = notebook.cells
    run = nbformat.from_dict({**notebook, "cells": list(_with_unseen(seen, figures, sizes))})
    code = [cell for cell in seen if cell.cell_type == "code"]
    with kernel_for(run, timeout=TIMEOUT) as client, client.setup_kernel(env={**os.environ, **INLINE}):
        for position, cell in enumerate(run.cells):
            if cell.cell_type == "code":
                report(f"cell {position + 1} of {len(run.cells)}")
                client.execute_cell(cell, position)
    done = {cell.id: cell for cell in run.cells}
    for count, cell in enumerate(code, start=1):
        cell.outputs = [_plain(output, count) for output in done[cell.id].outputs]
        cell.execution_count = count
    return time.perf_counter() - start


@contextmanager
def kernel_for(notebook: nbformat.NotebookNode, **options: Any) -> Iterator[NotebookClient]:
    """Yield a client that runs the notebook in a kernel which nobody else on the machine's network can reach."""
    config = Config()
    with tempfile.TemporaryDirectory(prefix="fastlmm_vi_", ignore_cleanup_errors=True) as sockets:
        if os.name != "nt":
            config.KernelManager.transport = "ipc"
            config.KernelManager.ip = str(Path(sockets) / "kernel")
        yield NotebookClient(notebook, record_timing=False, coalesce_streams=True, config=config, **options)


def _with_unseen(
    cells: list[nbformat.NotebookNode], figures: Path | None, sizes: Mapping[str, tuple[float, float]]
) -> Iterator[nbformat.NotebookNode]:
    if figures is not None:
        yield new_code_cell(BEFORE)
    for cell in cells:
        yield cell
        name = cell.metadata.get("fastlmm_vi", {}).get("figure")
        if figures is not None and name:
            yield new_code_cell(AFTER_FIGURE.format(path=str(figures / name), size=sizes.get(name, ())))


def _plain(output: nbformat.NotebookNode, count: int) -> nbformat.NotebookNode:
    if "execution_count" in output:
        output.execution_count = count
    return output
