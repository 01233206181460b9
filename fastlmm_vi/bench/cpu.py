"""Seconds of the processor, instead of those on the wall, of work that may take microseconds."""

import time
from collections.abc import Callable
from typing import Any

LEAST = 0.1  # seconds that one measurement lasts for, by running again what is faster

Timed = Callable[[], tuple[float, Any]]  # returns the seconds of one run, and what it returned


def seconds(run: Callable[[], Any], least: float = LEAST) -> tuple[float, Any]:
    """Return the seconds of one run, the mean of as many as last for `least`, and what the last of them returned.

    Examples
    --------
    >>> from fastlmm_vi.bench import cpu
    >>> taken, value = cpu.seconds(lambda: 3, least=0.01)
    >>> taken < 0.01, value
    (True, 3)
    """
    begin, count, passed = time.process_time(), 0, 0.0
    while count == 0 or passed < least:
        for _ in range(max(count, 1)):
            value = run()
        count += max(count, 1)
        passed = time.process_time() - begin
    return passed / count, value
