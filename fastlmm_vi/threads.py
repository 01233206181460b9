"""The one place that says how many threads a fit may use."""

import os
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import scipy.linalg  # noqa: F401 - loads scipy's own BLAS, so that the controller finds it
from threadpoolctl import ThreadpoolController


def count(n_jobs: int | None) -> int:
    """Return the number of threads that `n_jobs` means: None is 1, −1 all available cores, −2 all but one.

    Raises
    ------
    ValueError
        If `n_jobs` is 0 or not an integer.

    Examples
    --------
    >>> count(None), count(2)
    (1, 2)
    """
    if n_jobs is None:
        return 1
    if not isinstance(n_jobs, int) or isinstance(n_jobs, bool) or n_jobs == 0:
        raise ValueError(f"n_jobs={n_jobs!r} is not a number of threads: give None (one), 1, 2, … or −1 (all cores).")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return n_jobs if n_jobs > 0 else max(1, cores + 1 + n_jobs)


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def limit(threads: int) -> AbstractContextManager[Any]:
    """Bound every BLAS to `threads` inside the `with` block; the kernels themselves run on the caller's thread."""
    return _controller().limit(limits=threads, user_api="blas")
