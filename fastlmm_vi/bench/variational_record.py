"""The benchmark of variational Bayes: measured, and as a file."""

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import __version__, threads
from ..compilation import warmup
from ..errors import DataError
from . import machine, variational_first
from .grouped_measure import Report, silent
from .pymc_session import Session, session
from .variational_contenders import OURS, Contender, peers, quadrature
from .variational_models import EXACT, Model

HOW = "Make one with `fastlmm-vi bench variational --out FILE`."


@dataclass(frozen=True, kw_only=True)
class VariationalRecord:
    """One run.

    Attributes
    ----------
    machine : mapping
    rows : sequence of mapping
        A fit each: "model", "formula", "method", "seed", "log_evidence", seconds on the wall ("wall") and of the processor
        ("cpu"), of peers those of compiling among them, and what `variational_contenders.row` holds.
    first : sequence of mapping
        Imports and first fits of a process: "software", "model", and seconds (wall, processor) of "import", "nothing"
        (compiled before) and "compiled".
    """

    machine: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    first: Sequence[Mapping[str, Any]]


def measure(
    models: Sequence[Model], seeds: Sequence[int], python: Path | None, report: Report = silent
) -> VariationalRecord:
    """Fit every model by everybody, one after the other for every seed, all with one thread.

    Parameters
    ----------
    models : sequence of Model
    seeds : sequence of int
    python : Path or None
        Of the peers' environment; None measures ours alone.
    """
    described = machine.describe()
    rows: list[dict[str, Any]] = []
    first: list[dict[str, Any]] = []
    with warnings.catch_warnings(), threads.limit(1):
        warnings.simplefilter("ignore")
        warmup("grouped")
        for model in models:
            report(f"{model.name}, first fits")
            first.append({"software": "fastlmm_vi", "model": model.name, **variational_first.run(model.name)})
            rows.append(_about(model, EXACT, None) | quadrature(model) | {"log_evidence": model.exact.log_evidence})
            with session(python) if python else nullcontext() as running:
                if running is not None:
                    described["versions"] |= running.hello["versions"]
                    first.append(_first(model, running))
                contenders = [*OURS, *(peers(running) if running else ())]
                rows += in_rounds(model, [each for each in contenders if each.takes(model)], seeds, report)
    return VariationalRecord(machine=described, rows=rows, first=first)


def _first(model: Model, running: Session) -> dict[str, Any]:
    """The peer's first fit, with nothing compiled; later ones are compiled anew with what is on disk."""
    found = peers(running)[0].run(model, 0)
    hello = running.hello
    return {
        "software": "PyMC",
        "model": model.name,
        "import": [hello["import_wall"], hello["import_cpu"]],
        "nothing": [found["wall"], found["cpu"]],
        "compiled": None,
    }


def in_rounds(
    model: Model, contenders: Sequence[Contender], seeds: Sequence[int], report: Report = silent
) -> list[dict[str, Any]]:
    """Every contender once for every seed, so that what else a machine does falls on all alike."""
    rows = []
    for seed in seeds:
        for contender in contenders:
            report(f"{model.name}, seed {seed}, {contender.name}")
            evidence = {"log_evidence": model.exact.log_evidence}
            rows.append(_about(model, contender.name, seed) | evidence | contender.run(model, seed))
    return rows


def _about(model: Model, method: str, seed: int | None) -> dict[str, Any]:
    return {"model": model.name, "formula": model.formula, "method": method, "seed": seed}


def write(record: VariationalRecord, path: Path) -> Path:
    """Write the run."""
    held = {
        "machine_info": record.machine,
        "rows": list(record.rows),
        "first": list(record.first),
        "datetime": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": f"fastlmm_vi {__version__}",
    }
    path.write_text(json.dumps(held, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> VariationalRecord:
    """Read a file that `write` made."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file. {HOW}")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return VariationalRecord(machine=held["machine_info"], rows=held["rows"], first=held["first"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a file of this benchmark ({type(error).__name__}: {error}). {HOW}") from error
