"""The clock of the benchmarks: wall time, less what a case has asked not to count."""

import time

_skipped = 0.0


def now() -> float:
    """Return seconds since some fixed moment, less all that was skipped."""
    return time.perf_counter() - _skipped


def skip(seconds: float) -> None:
    """Do not count the last `seconds`: what a case had to do, but is not asked about.

    Examples
    --------
    >>> from fastlmm_vi.bench import clock
    >>> start = clock.now()
    >>> clock.skip(60.0)
    >>> -60.0 < clock.now() - start < 0.0
    True
    """
    global _skipped
    _skipped += seconds
