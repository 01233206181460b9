"""Progress of long work on standard error: silent unless asked for."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Report = Callable[[str, int, float], None]


@contextmanager
def stages(show: bool) -> Iterator[Callable[[str], None]]:
    """Yield `report(text)`: a live line with the time taken on a terminal, a line a second elsewhere, or nothing."""
    console = Console(stderr=True)
    if not show:
        yield lambda text: None
    elif console.is_terminal:
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=None)
            yield lambda text: bar.update(task, description=text)
    else:
        shown, at = "", 0.0

        def report(text: str) -> None:
            nonlocal shown, at
            if text.partition(",")[0] != shown or time.monotonic() - at >= 1.0:
                console.print(text)
                shown, at = text.partition(",")[0], time.monotonic()

        yield report


@contextmanager
def reporter(verbose: int) -> Iterator[Report]:
    """Yield `report(stage, iteration, gradient)` of a fit, shown if `verbose` > 0."""
    with stages(bool(verbose)) as show:

        def report(stage: str, iteration: int, gradient: float) -> None:
            text = "Gram matrix and its eigenbasis" if stage == "spectrum" else stage
            if iteration:
                text += f", iteration {iteration}, scaled gradient {gradient:.1e}"
            show(text)

        yield report
