"""Does a fit depend on units? The same data in other units and from other origins, which no log-likelihood may notice."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .grouped_contenders import Contender
from .grouped_measure import Report, silent
from .grouped_models import SLEEPSTUDY, Model
from .outcome import Outcome


@dataclass(frozen=True, kw_only=True)
class Change:
    """column → factor · column + shift.

    Examples
    --------
    >>> from fastlmm_vi.bench.grouped_units import Change
    >>> change = Change(column="Days", shift=-5.0)
    >>> change.label, change.name
    ('Days − 5', 'units_Days_minus_5')
    >>> Change(column="Reaction", factor=1e6).label
    'Reaction × 1e6'
    """

    column: str
    factor: float = 1.0
    shift: float = 0.0

    @property
    def _words(self) -> tuple[str, str, float]:
        if self.shift == 0.0:
            return "×", "times", self.factor
        return ("−", "minus", -self.shift) if self.shift < 0.0 else ("+", "plus", self.shift)

    @property
    def label(self) -> str:
        """For a table."""
        sign, _, number = self._words
        return f"{self.column} {sign} {_plain(number)}"

    @property
    def name(self) -> str:
        """Name of the row."""
        _, word, number = self._words
        return f"units_{self.column}_{word}_{_plain(number)}"

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the data after the change."""
        return frame.assign(**{self.column: frame[self.column] * self.factor + self.shift})

    def before(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the data before it; a shift rounds them, so that what it leaves of them is shifted back."""
        return frame.assign(**{self.column: frame[self.column] + self.shift - self.shift})

    def jacobian(self, frame: pd.DataFrame, response: str) -> float:
        """What the log-likelihood loses: N log(factor) where y is scaled."""
        return len(frame) * math.log(self.factor) if self.column == response else 0.0


RESPONSE = "Reaction"
CHANGES = (
    *(Change(column="Days", factor=factor) for factor in (1e-3, 1e3, 1e6)),
    *(Change(column="Days", shift=shift) for shift in (1e3, -5.0, 1e6)),
    *(Change(column=RESPONSE, factor=factor) for factor in (1e-6, 1e6)),
    *(Change(column=RESPONSE, shift=shift) for shift in (1e6, 1e9)),
)


AS_GIVEN = "as given"


def measure(
    contenders: Sequence[Contender],
    changes: Iterable[Change] = CHANGES,
    model: Model = SLEEPSTUDY,
    report: Report = silent,
) -> list[dict[str, Any]]:
    """Fit by ML after every change, and return a row for each of the contenders, ours first.

    Returns
    -------
    list of dict
        "error" is by how much the log-likelihood, its Jacobian added, lies below that of our fit before the change,
        "moved" by how much it lies below the contender's own; None where there is no fit.
    """

    def outcomes(name: str, frame: pd.DataFrame) -> list[Outcome]:
        report(f"units, {name}")
        return [contender.outcome(model.on(name, frame), reml=False) for contender in contenders]

    given = outcomes("units_as_given", model.frame)
    rows = _rows(contenders, AS_GIVEN, given, given, 0.0)
    for change in changes:
        before = outcomes(f"{change.name}_before", change.before(model.frame)) if change.shift else given
        after = outcomes(change.name, change(model.frame))
        rows += _rows(contenders, change.label, before, after, change.jacobian(model.frame, RESPONSE))
    return rows


def _rows(
    contenders: Sequence[Contender], label: str, before: Sequence[Outcome], after: Sequence[Outcome], jacobian: float
) -> list[dict[str, Any]]:
    return [
        {
            "change": label,
            "package": contender.name,
            "package_version": contender.version,
            "loglik": None if found.deviance is None else -0.5 * found.deviance,
            "error": _below(before[0], found, jacobian),
            "moved": _below(own, found, jacobian),
            "mark": found.mark,
            "messages": [*found.messages],
        }
        for contender, own, found in zip(contenders, before, after, strict=True)
    ]


def _below(before: Outcome, after: Outcome, jacobian: float) -> float | None:
    """By how much the log-likelihood after a change lies below the one before it."""
    if before.deviance is None or after.deviance is None:
        return None
    return 0.5 * (after.deviance - before.deviance) - jacobian


def _plain(number: float) -> str:
    """The number as people write it: 0.001, 1000, 1e6."""
    return f"{number:g}".replace("e+0", "e").replace("e-0", "e-")
