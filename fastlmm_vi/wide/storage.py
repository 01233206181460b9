"""What a method may ask of the wide X, whatever stores it."""

from functools import cached_property
from typing import Any, Protocol

import numpy as np
from fastlmm_vi_kernels import sweep as kernels
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk, ssyrk

from ..result import Array


class FeatureMatrix(Protocol):
    """The questions every storage of X (n, p) answers; methods know nothing else of it."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, p)."""
        ...

    def column_sq_norms(self) -> Array:
        """‖x_j‖² for every column, (p,)."""
        ...

    def gram(self) -> Array:
        """Lower triangle of the smaller of X Xᵀ (n, n) and XᵀX (p, p); the caller may overwrite it."""
        ...

    @property
    def rounding(self) -> float:
        """What is nothing but rounding in an eigenvalue of the Gram matrix, relative to the largest."""
        ...

    def matvec(self, b: Array) -> Array:
        """X b; b is (p,) or (p, k)."""
        ...

    def rmatvec(self, r: Array) -> Array:
        """Xᵀ r; r is (n,) or (n, k)."""
        ...

    def columns(self, start: int, stop: int) -> Array:
        """Columns start … stop − 1 as an array (n, stop − start)."""
        ...

    def same(self, other: "FeatureMatrix") -> bool:
        """Whether `other` holds the same features: the same memory, or else columns of the same norms."""
        ...

    def subset(self, indices: NDArray[np.intp]) -> "FeatureMatrix":
        """These columns alone."""
        ...

    def sweep(self, gamma: float, mean: Array, residual: Array) -> float:
        """One coordinate sweep over all columns, in place; see `fastlmm_vi_kernels.sweep.sweep`."""
        ...


PRECISIONS = ("float64", "float32-gram", "float32")
CAST = 2048  # columns cast to float32 at a time
IN_CACHE = 262_144  # bytes of C-ordered columns copied at a time


class DenseFeatures:
    """X as a float64 or float32 array in memory, in either order; used as it lies, never copied for Gram and products.

    Parameters
    ----------
    X : ndarray, shape (n, p)
        Either order. A sweep needs contiguous columns: those of a C-ordered X are copied a few at a time, into cache, at
        every sweep, which takes about five times as long as on a Fortran-ordered X and no memory.
    single_gram : bool, default False
        Multiply X Xᵀ in float32, at twice the speed. A float32 X always is.
    """

    def __init__(self, X: Array, *, single_gram: bool = False) -> None:
        self.X = X
        self.single_gram = single_gram or X.dtype == np.float32

    @classmethod
    def of(cls, X: Any, precision: str) -> "DenseFeatures":
        """X in one of the `PRECISIONS` of `WideLMM`, copied only where its type has to change."""
        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision!r} is not known: choose one of {', '.join(map(repr, PRECISIONS))}.")
        dtype = np.float32 if precision == "float32" else np.float64
        return cls(np.asarray(X, dtype=dtype), single_gram=precision == "float32-gram")

    @property
    def shape(self) -> tuple[int, int]:
        """(n, p)."""
        n, p = self.X.shape
        return n, p

    @cached_property
    def _sq_norms(self) -> Array:
        return np.einsum("ij,ij->j", self.X, self.X, dtype=np.float64)

    def column_sq_norms(self) -> Array:
        """‖x_j‖² for every column, (p,)."""
        return self._sq_norms

    def gram(self) -> Array:
        """Lower triangle of the smaller of X Xᵀ and XᵀX, by symmetric rank-k products (n²p or np² flops)."""
        if not self.single_gram:
            return _syrk(dsyrk, self.X, self.shape)
        if self.X.dtype == np.float32:
            return _syrk(ssyrk, self.X, self.shape).astype(np.float64)
        total = None
        longer = int(np.argmax(self.shape))
        for start in range(0, self.shape[longer], CAST):  # a few columns (or rows) at a time: no second X in memory
            part = self.X.take(range(start, min(start + CAST, self.shape[longer])), axis=longer).astype(np.float32)
            total = _syrk(ssyrk, part, self.shape, total)
        assert total is not None
        return total.astype(np.float64)

    @property
    def rounding(self) -> float:
        """Largest dimension × machine epsilon; in float32 its square root, as rounding errors of sums mostly cancel."""
        longest = max(self.shape)
        if self.single_gram:
            return float(np.sqrt(longest) * np.finfo(np.float32).eps)
        return float(longest * np.finfo(np.float64).eps)

    def matvec(self, b: Array) -> Array:
        """X b."""
        return (self.X @ b.astype(self.X.dtype, copy=False)).astype(np.float64, copy=False)

    def rmatvec(self, r: Array) -> Array:
        """Xᵀ r."""
        return (self.X.T @ r.astype(self.X.dtype, copy=False)).astype(np.float64, copy=False)

    def columns(self, start: int, stop: int) -> Array:
        """View of columns start … stop − 1."""
        return self.X[:, start:stop]

    def same(self, other: FeatureMatrix) -> bool:
        """Whether `other` holds the same features: the same memory, or else columns of the same norms."""
        if self.shape != other.shape:
            return False
        if isinstance(other, DenseFeatures) and self.X.__array_interface__ == other.X.__array_interface__:
            return True
        return np.allclose(self.column_sq_norms(), other.column_sq_norms(), rtol=1e-10, atol=0.0)

    def subset(self, indices: NDArray[np.intp]) -> "DenseFeatures":
        """These columns: a view where they are neighbours, else a copy."""
        first, last = int(indices[0]), int(indices[-1])
        neighbours = last - first + 1 == indices.size and bool((np.diff(indices) == 1).all())
        part = self.X[:, first : last + 1] if neighbours else self.X[:, indices]
        return DenseFeatures(part, single_gram=self.single_gram)

    def sweep(self, gamma: float, mean: Array, residual: Array) -> float:
        """One coordinate sweep, in place: reads X once."""
        n, p = self.shape
        width = p if self.X.flags.f_contiguous else max(1, IN_CACHE // (n * self.X.itemsize))
        largest = 0.0
        for start in range(0, p, width):
            part = slice(start, min(p, start + width))
            columns = np.asfortranarray(self.X[:, part])
            largest = max(largest, kernels.sweep(columns, self._sq_norms[part], gamma, mean[part], residual))
        return largest


def _syrk(syrk: Any, X: Any, shape: tuple[int, int], total: Any = None) -> Any:
    """Add the lower triangle of X Xᵀ (shape n < p) or XᵀX to `total`, which is overwritten.

    The product reads Fortran order: a C-ordered X is the Fortran-ordered Xᵀ, so neither order is copied.
    """
    n, p = shape
    more = {} if total is None else {"beta": 1.0, "c": total, "overwrite_c": 1}
    if X.flags.f_contiguous:
        return syrk(1.0, X, trans=int(n >= p), lower=1, **more)
    return syrk(1.0, X.T, trans=int(n < p), lower=1, **more)
