"""The grouped benchmarks as a file: times in the layout of pytest-benchmark, units and growth beside them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import DataError
from . import machine
from .grouped_measure import WING
from .record import Record, content, row_of

Rows = Sequence[Mapping[str, Any]]
HOW = "Make one with `fastlmm-vi bench grouped --out FILE`."


@dataclass(frozen=True, kw_only=True)
class GroupedRecord:
    """One run: what was timed, fits in other units, and how times grow, with the machine of that."""

    timed: Record
    units: Rows = ()
    growth: Rows = ()
    growth_machine: Mapping[str, Any] | None = None


def write(record: GroupedRecord, path: Path) -> Path:
    """Write the run."""
    held = content(record.timed) | {"units": list(record.units)}
    if record.growth:
        held["growth"] = {"machine_info": record.growth_machine, "rows": list(record.growth)}
    path.write_text(json.dumps(held, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def add_growth(rows: Rows, path: Path) -> Path:
    """Write how times grow, measured on this machine, into the file of a run."""
    return write(replace(read(path), growth=rows, growth_machine=machine.describe()), path)


def read(path: Path) -> GroupedRecord:
    """Read a file that `write` made."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file. {HOW}")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        rows = [row_of(entry) for entry in held["benchmarks"] if entry["extra_info"].get("wing") == WING]
        growth = held.get("growth", {"rows": (), "machine_info": None})
        return GroupedRecord(
            timed=Record(held["machine_info"], {row.name: row for row in rows}),
            units=held["units"],
            growth=growth["rows"],
            growth_machine=growth["machine_info"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not a file of grouped benchmarks ({type(error).__name__}: {error}). {HOW}"
        ) from error
