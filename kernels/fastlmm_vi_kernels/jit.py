"""How every kernel is compiled and kept. It holds no compiled code itself."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.ccallback import CFunc

# What a compiler may assume. Sums may be reordered (reassoc: SIMD reductions), a product and a sum may become one
# fused instruction (contract), a division may become a product with a reciprocal (arcp). NaN and infinity keep their
# meaning: loops end on checks for them, which fastmath=True would remove.
FAST_MATH = {"reassoc", "contract", "arcp"}
OPTIONS: dict[str, Any] = {"fastmath": FAST_MATH, "nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
_files = sorted(Path(__file__).parent.glob("*.py"))
SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in _files)).hexdigest()


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` on its first call and keep the machine code on disk.

    numba looks for a writable place beside the source, then in the user's cache folder, and raises RuntimeError if
    it finds neither (read-only installs, containers without a home): the kernel is then compiled per process.
    """
    try:
        return _stamped(njit(cache=True, **OPTIONS)(function))
    except RuntimeError:
        return njit(**OPTIONS)(function)


def _stamped(compiled: Any) -> Any:
    """Let machine code on disk be that of all kernels as they are: numba alone looks at the file of the function itself."""
    index = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if index is not None:
        index._source_stamp = (index._source_stamp, SOURCES)
    return compiled


class Callback:
    """A function of C types that other programs call by its address; compiled when this is asked for."""

    def __init__(self, signature: Any, function: Callable[..., Any]) -> None:
        self.signature = signature
        self.function = function

    def __reduce__(self) -> tuple[Any, ...]:
        return Callback, (self.signature, self.function)  # without the machine code

    @cached_property
    def address(self) -> int:
        """Where it is in memory, for as long as the process lives."""
        address = self._compiled.address
        assert address is not None
        return address

    @cached_property
    def _compiled(self) -> CFunc:
        types = self.signature.args, self.signature.return_type
        options = {key: value for key, value in OPTIONS.items() if key in ("fastmath", "error_model")}
        found = CFunc(self.function, types, locals={}, options=options)
        with suppress(RuntimeError):  # nothing is writable
            found.enable_caching()
        _stamped(found).compile()
        return found
