"""Two runs set side by side: of every case the ratio to its yardstick then and now, and whether it changed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import machine
from .record import Record, Row

LEAST = 0.05  # of a ratio: below this no change is called one
UNKNOWN = 0.3  # relative uncertainty assumed of a case that had a single round


@dataclass(frozen=True)
class Change:
    """Ratio of one case to its yardstick in two runs; `noise` is the relative change that chance allows."""

    name: str
    then: float
    now: float
    noise: float

    @property
    def relative(self) -> float:
        """Now over then, less 1."""
        return self.now / self.then - 1.0

    @property
    def verdict(self) -> str:
        """The words "slower" or "faster", or none where the change is within the noise in either direction."""
        change = np.log(self.now / self.then)
        if abs(change) <= np.log1p(self.noise):
            return ""
        return "slower" if change > 0.0 else "faster"


def changes(then: Record, now: Record) -> list[Change]:
    """Return the change of every case that both runs measured against its yardstick.

    The noise adds up, as independent errors do, the uncertainties of the four fastest rounds that enter: of the case and
    of its yardstick, then and now. That of one is how far the first quarter of the rounds lies above the fastest, relative
    to it. Seconds are never compared.
    """
    found = []
    for name in now.rows:
        before, after = (record.ratio(name) if name in record.rows else None for record in (then, now))
        if before is not None and after is not None:
            yardstick = str(now.rows[name].info["yardstick"])
            spreads = [_spread(record.rows[each]) for record in (then, now) for each in (name, yardstick)]
            found.append(Change(name, before, after, max(LEAST, float(np.linalg.norm(spreads)))))
    return found


def _spread(row: Row) -> float:
    return row.seconds("q1") / row.seconds("min") - 1.0 if row.stats["rounds"] > 1 else UNKNOWN


def obstacles(then: Record, now: Record) -> list[str]:
    """Return what makes ratios of the two runs incomparable: other sizes, threads, or kernels of the BLAS."""
    found = []
    for key in ("n", "p", "c", "jobs"):
        before, after = (sorted({row.info[key] for row in record.rows.values()}) for record in (then, now))
        if before != after:
            found.append(f"{key} was {_list(before)}, is {_list(after)}")
    before, after = (machine.kernels(dict(record.machine), "internal_api", "architecture") for record in (then, now))
    if before != after:
        found.append(f"BLAS kernels were {_list(before)}, are {_list(after)}")
    return found


def differences(then: Record, now: Record) -> list[str]:
    """Return what else is different: machine and versions, which ratios should survive."""
    found = []
    for line, other in zip(*(machine.text(dict(record.machine)).split("\n") for record in (then, now)), strict=True):
        if line != other:
            found.append(f"was {line}; is {other}")
    for name in now.rows:
        if name in then.rows:
            before, after = (record.rows[name].info["package_version"] for record in (then, now))
            if before != after:
                found.append(f"{name}: version was {before}, is {after}")
    return found


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
