"""What a method may ask of the wide X, whatever stores it."""

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from fastlmm_vi_kernels import gram as gram_kernels
from fastlmm_vi_kernels import sweep as kernels
from llvmlite.binding import get_host_cpu_features
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk, ssyrk

from ..errors import DataError
from ..result import Array

PRECISIONS = ("float64", "float32-gram", "float32")
SINGLE_RANGE, DOUBLE_RANGE = (1e-15, 1e15), (1e-60, 1e60)  # sizes of X whose products are numbers, with room
IN_CACHE = 262_144  # bytes of C-ordered columns copied at a time
WIDE_MULTIPLY_ADD = all(get_host_cpu_features().get(name, False) for name in ("avx2", "fma"))


class FeatureMatrix(Protocol):
    """The questions every storage of X (n, p) answers; methods know nothing else of it."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, p)."""
        ...

    def column_sq_norms(self) -> Array:
        """‖x_j‖² for every column, (p,)."""
        ...

    def gram(self, threads: int = 1) -> Array:
        """Lower triangle of the smaller of X Xᵀ (n, n) and XᵀX (p, p), columns contiguous; the caller may overwrite it."""
        ...

    single_gram: bool  # whether the Gram matrix is multiplied in float32

    @property
    def rounding(self) -> float:
        """What is nothing but rounding in an eigenvalue of the Gram matrix, relative to the largest."""
        ...

    @property
    def range(self) -> tuple[float, float]:
        """Sizes of X between which squares of sums of squares are numbers in its precision."""
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
        """Whether `other` holds the same features: the same memory, or else rows and columns that look the same."""
        ...

    def subset(self, indices: NDArray[np.intp]) -> "FeatureMatrix":
        """These columns alone."""
        ...

    def sweep(self, gamma: float, mean: Array, residual: Array) -> float:
        """One coordinate sweep over all columns, in place; see `fastlmm_vi_kernels.sweep.sweep`."""
        ...


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
        X = np.asarray(X)
        if precision == "float32" and X.size:
            peak = max(float(X.max()), -float(X.min()))
            if not (peak == 0.0 or SINGLE_RANGE[0] < peak < SINGLE_RANGE[1] or np.isnan(peak)):
                raise DataError(f"X reaches {peak:.1g} in size, beyond what float32 can square: rescale X.")
        return cls(X.astype(dtype, copy=False), single_gram=precision == "float32-gram")

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

    def gram(self, threads: int = 1) -> Array:
        """Lower triangle of the smaller of X Xᵀ and XᵀX, n²p or np² flops; X is read as it lies.

        By a kernel where the processor has the wide multiply-add it is written for, else by the BLAS. In single precision
        the kernel sums a few hundred columns in float32 and the rest in float64.
        """
        n, p = self.shape
        X = self.X if n < p else self.X.T
        if not X.flags.forc:
            X = np.ascontiguousarray(X)
        if not WIDE_MULTIPLY_ADD:
            return _gram_by_blas(X, self.single_gram)
        side, length = X.shape
        strides = [stride // X.itemsize for stride in X.strides]
        like = np.empty(0, dtype=np.float32 if self.single_gram else np.float64)

        def part(start: int, stop: int) -> Array:
            K = np.zeros((max(side, gram_kernels.WIDEST),) * 2)
            gram_kernels.gram(X.ravel(order="K"), side, *strides, start, stop, like, K)
            return np.asfortranarray(K.T[:side, :side])

        ends = np.linspace(0, length, threads + 1).astype(int).tolist()
        if threads == 1:
            return part(*ends)
        with ThreadPoolExecutor(threads) as pool:
            total, *rest = pool.map(part, ends[:-1], ends[1:])
        for K in rest:
            total += K
        return total

    @property
    def rounding(self) -> float:
        """Largest dimension × machine epsilon; in float32 the square root of a panel's depth, as errors mostly cancel."""
        if self.single_gram:
            return float(np.sqrt(gram_kernels.DEPTH) * np.finfo(np.float32).eps)
        return float(max(self.shape) * np.finfo(np.float64).eps)

    @property
    def range(self) -> tuple[float, float]:
        """Sizes of X between which squares of sums of squares are numbers in its precision."""
        return SINGLE_RANGE if self.single_gram else DOUBLE_RANGE

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
        """Whether `other` holds the same features: the same memory, or else rows and columns that look the same.

        Features in single precision do not stand for others in double.
        """
        if self.shape != other.shape or (self.single_gram and not other.single_gram):
            return False
        if isinstance(other, DenseFeatures) and self.X.__array_interface__ == other.X.__array_interface__:
            return True
        if not np.allclose(self.column_sq_norms(), other.column_sq_norms(), rtol=1e-10, atol=0.0):
            return False
        wave = np.cos(np.arange(self.shape[1]))  # one number per row: the same rows in another order are another X
        mine, theirs = self.matvec(wave), other.matvec(wave)
        return bool(np.abs(mine - theirs).max() <= 1e-6 * np.abs(mine).max())

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


def _gram_by_blas(X: Array, single: bool) -> Array:
    """Lower triangle of X Xᵀ by the BLAS, which reads Fortran order: a C-ordered X is the Fortran-ordered Xᵀ."""
    X = X.astype(np.float32, copy=False) if single else X
    syrk = ssyrk if single else dsyrk
    K = syrk(1.0, X, lower=1) if X.flags.f_contiguous else syrk(1.0, X.T, trans=1, lower=1)
    return np.asarray(K, dtype=np.float64)
