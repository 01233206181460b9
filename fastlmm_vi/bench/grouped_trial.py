"""One size of one grouped design, measured in a process of its own: seconds, and memory beyond the data."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..compilation import warmup
from ..grouped.model import lmm
from ..result import Array
from . import cpu

EACH = 10  # rows in a level of the factor with most levels
CODE = "import sys; from fastlmm_vi.bench import grouped_trial; grouped_trial.child(*sys.argv[1:])"


def slopes(n: int) -> tuple[str, pd.DataFrame]:
    """Intercept and slope in each of a tenth as many groups as rows."""
    rng = np.random.default_rng(0)
    g, x = np.arange(n) // EACH, rng.normal(size=n)
    b = rng.normal(size=(2, n // EACH))
    return "y ~ x + (x | g)", _frame(rng, b[0, g] + b[1, g] * x, x=x, g=g)


def nested(n: int) -> tuple[str, pd.DataFrame]:
    """A hundredth as many groups as rows, and ten smaller ones in each."""
    rng = np.random.default_rng(0)
    inner = np.arange(n) // EACH
    outer = inner // 10
    effects = rng.normal(size=n // EACH)[inner] + rng.normal(size=n // EACH // 10 + 1)[outer]
    return "y ~ x + (1 | a/b)", _frame(rng, effects, x=rng.normal(size=n), a=outer, b=inner % 10)


def crossed(levels: int) -> tuple[str, pd.DataFrame]:
    """A factor of so many levels, with ten rows each, and another of a tenth of them, met at random."""
    rng = np.random.default_rng(0)
    n = EACH * levels
    a, b = np.arange(n) // EACH, rng.integers(levels // EACH, size=n)
    effects = rng.normal(size=levels)[a] + rng.normal(size=levels // EACH)[b]
    return "y ~ x + (1 | a) + (1 | b)", _frame(rng, effects, x=rng.normal(size=n), a=a, b=b)


DESIGNS: Mapping[str, Callable[[int], tuple[str, pd.DataFrame]]] = {
    "slopes": slopes,
    "nested": nested,
    "crossed": crossed,
}


def _frame(rng: np.random.Generator, effects: Array, **columns: Any) -> pd.DataFrame:
    noise = rng.normal(size=effects.size)
    return pd.DataFrame({"y": 1.0 + columns["x"] + effects + noise, **columns})


def run(design: str, size: int, rounds: int) -> dict[str, Any]:
    """Measure one size in a new process, and return what `measure` does there."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, design, str(size), str(rounds)], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def child(design: str, size: str, rounds: str) -> None:
    """What that process does."""
    sys.stdout.write(json.dumps(measure(design, int(size), int(rounds))))


def measure(design: str, size: int, rounds: int) -> dict[str, Any]:
    """Fit by REML, and return the size and what it took.

    Returns
    -------
    dict
        "seconds" of a whole fit and of one evaluation with gradient, of the processor, in the fastest round; "bytes", the
        peak of the first fit above the peak before it, None where the system does not tell.
    """
    warmup("grouped")
    formula, frame = DESIGNS[design](size)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak so far is what is held now
    before = peak()
    first, fit = cpu.seconds(lambda: lmm(formula, frame), least=0.0)
    after = peak()
    further = [cpu.seconds(lambda: lmm(formula, frame), least=0.0)[0] for _ in range(rounds - 1)]
    evaluation, _ = cpu.seconds(lambda: fit.likelihood(fit.standard_theta))
    return {
        "design": design,
        "formula": formula,
        "rows": len(frame),
        "levels": list(fit.groups.values()),
        "seconds": min([first, *further]),
        "evaluation": evaluation,
        "evaluations": fit.n_evaluations,
        "bytes": None if before is None or after is None else after - before,
        "converged": fit.converged,
    }


def peak() -> int | None:
    """The most memory that this process has had so far, in bytes; None where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])
