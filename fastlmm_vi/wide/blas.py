"""The two symmetric BLAS products of a blocked reduction on parts of a matrix, in place.

scipy's wrappers copy every array that is not contiguous; its BLAS itself takes a leading dimension. The pointers are those
that `scipy.linalg.cython_blas` exports for use from compiled code.
"""

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.linalg.cython_blas

from ..result import Array


def _pointer(name: str, arguments: int) -> Callable[..., None]:
    exported: Mapping[str, Any] = scipy.linalg.cython_blas.__pyx_capi__
    capsule = exported[name]
    get_name, get = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = get(capsule, get_name(capsule))
    assert address is not None
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)(address)


_dsymm = _pointer("dsymm", 12)
_dsyr2k = _pointer("dsyr2k", 12)


def symm(A: Array, V: Array) -> Array:
    """A V, the symmetric A (m, m) given by its lower triangle, V (m, k); columns contiguous."""
    m, k = V.shape
    W = np.empty((m, k), order="F")
    _dsymm(b"L", b"L", _int(m), _int(k), _double(1.0), *_view(A), *_view(V), _double(0.0), *_view(W))
    return W


def subtract_syr2k(A: Array, V: Array, W: Array) -> None:
    """Overwrite the lower triangle of A (m, m) by that of A − V Wᵀ − W Vᵀ; columns contiguous."""
    m, k = V.shape
    _dsyr2k(b"L", b"N", _int(m), _int(k), _double(-1.0), *_view(V), *_view(W), _double(1.0), *_view(A))


def _int(value: int) -> Any:
    return ctypes.byref(ctypes.c_int(value))


def _double(value: float) -> Any:
    return ctypes.byref(ctypes.c_double(value))


def _view(A: Array) -> tuple[Any, Any]:
    """Address and leading dimension of a float64 array whose columns are contiguous."""
    assert A.dtype == np.float64
    assert A.shape[0] < 2 or A.strides[0] == A.itemsize
    leading = A.strides[1] // A.itemsize if A.shape[1] > 1 else A.shape[0]
    return ctypes.c_void_p(A.ctypes.data), _int(max(leading, 1))
