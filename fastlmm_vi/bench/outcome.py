"""What a fit of a grouped model ended with, whoever fitted it, and what it said of itself."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# What packages say of a fit, the gravest first, as a mark that fits a table.
MARKS = (
    ("different optimizer may help", "did not converge"),
    ("odel failed to converge", "did not converge"),
    ("did not reach its optimum", "did not converge"),
    ("not positive definite", "Hessian not positive definite"),
    ("unidentifiable", "nearly unidentifiable"),
    ("singular", "singular"),
    ("boundary of the parameter space", "on the boundary"),
    ("very different scales", "asks to rescale"),
    ("Retrying", "retried"),
    ("", "warns"),
)
FAILS = "fails"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One fit.

    Attributes
    ----------
    deviance : float or None
        −2 × the criterion; None where there is no fit.
    sd : mapping
        Standard deviations by our names.
    messages : sequence of str
        Its warnings, or the error.
    """

    deviance: float | None
    sd: Mapping[str, float] = field(default_factory=dict)
    messages: Sequence[str] = ()

    @property
    def mark(self) -> str:
        """The gravest of the messages in short.

        Examples
        --------
        >>> from fastlmm_vi.bench.outcome import Outcome
        >>> Outcome(deviance=1.0, messages=["boundary (singular) fit: see help('isSingular')"]).mark
        'singular'
        """
        if self.deviance is None:
            return FAILS
        return next((mark for part, mark in MARKS if any(part in message for message in self.messages)), "")


def heard(run: Callable[[], Any]) -> tuple[Any, list[str]]:
    """Return what `run` returns, and the texts of its warnings, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = run()
    return value, list(dict.fromkeys(str(warning.message) for warning in caught))


def largest_relative(found: Mapping[Any, float], truth: Mapping[Any, float]) -> float:
    """Largest |found / truth − 1|; where a truth is 0, |found| over the largest truth.

    Examples
    --------
    >>> from fastlmm_vi.bench.outcome import largest_relative
    >>> largest_relative({"a": 1.5, "b": 0.0}, {"a": 1.0, "b": 0.0})
    0.5
    """
    top = max(truth.values())
    return max(abs(found[name] - value) / (value or top) for name, value in truth.items())
