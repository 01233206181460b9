"""The one decorator under which every kernel is compiled. It holds no compiled code itself."""

from collections.abc import Callable
from typing import Any

from numba import njit

# What a compiler may assume. Sums may be reordered (reassoc: SIMD reductions), a product and a sum may become one
# fused instruction (contract), a division may become a product with a reciprocal (arcp). NaN and infinity keep their
# meaning: loops end on checks for them, which fastmath=True would remove.
FAST_MATH = {"reassoc", "contract", "arcp"}


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` on its first call and keep the machine code on disk.

    numba looks for a writable place beside the source, then in the user's cache folder, and raises RuntimeError if
    it finds neither (read-only installs, containers without a home): the kernel is then compiled per process.
    """
    options: dict[str, Any] = {"fastmath": FAST_MATH, "nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        return njit(**options)(function)
