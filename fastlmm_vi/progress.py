"""Progress of long work: silent by default, one line on standard error where asked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Report = Callable[[str, int, float], None]
STAGES = {"spectrum": "Gram matrix and its eigenbasis"}


@contextmanager
def reporter(verbose: int) -> Iterator[Report]:
    """Yield `report(stage, iteration, gradient)`, which draws on standard error if `verbose` > 0, else does nothing."""
    if not verbose:
        yield lambda stage, iteration, gradient: None
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
        task = bar.add_task("fit", total=None)

        def report(stage: str, iteration: int, gradient: float) -> None:
            text = STAGES.get(stage, stage)
            if iteration:
                text += f" · iteration {iteration}"
            if not np.isnan(gradient):
                text += f" · scaled gradient {gradient:.2e}"
            bar.update(task, description=text)

        yield report
