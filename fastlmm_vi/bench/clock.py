"""The clock of the benchmarks: wall time, corrected by what a case has to do but is not asked about."""

import time

_added = 0.0


def now() -> float:
    """Return seconds since some fixed moment, with all that was added."""
    return time.perf_counter() + _added


def add(seconds: float) -> None:
    """Count `seconds` more than have passed, or fewer where negative.

    Examples
    --------
    >>> from fastlmm_vi.bench import clock
    >>> start = clock.now()
    >>> clock.add(60.0)
    >>> 60.0 < clock.now() - start < 61.0
    True
    """
    global _added
    _added += seconds
