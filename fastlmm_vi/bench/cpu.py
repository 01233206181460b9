"""Seconds of the processor instead of those on the wall: what `interleaved` counts of runs that are wrapped here."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import clock

LEAST = 0.1  # seconds that one round lasts for, by running again what is faster


def repeated(run: Callable[[], Any], least: float = LEAST) -> Callable[[], Any]:
    """Return `run` so that the clock counts its seconds of the processor, the mean of as many runs as last for `least`.

    Examples
    --------
    >>> from fastlmm_vi.bench import clock, cpu
    >>> start = clock.now()
    >>> cpu.repeated(lambda: 3, least=0.01)()
    3
    >>> clock.now() - start < 0.01
    True
    """

    def mean() -> Any:
        start, begin, count, seconds = clock.now(), time.process_time(), 0, 0.0
        while count == 0 or seconds < least:
            for _ in range(max(count, 1)):
                value = run()
            count += max(count, 1)
            seconds = time.process_time() - begin
        clock.add(seconds / count - (clock.now() - start))
        return value

    return mean


def counted(ask: Callable[[], Mapping[str, Sequence[Any]]]) -> Callable[[], Any]:
    """Return `ask` so that the clock counts the seconds that stand in its answer."""

    def asked() -> Any:
        start = clock.now()
        answer = ask()
        clock.add(answer["seconds"][0] - (clock.now() - start))
        return answer

    return asked
