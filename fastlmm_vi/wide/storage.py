"""What a method may ask of the wide X, whatever stores it."""

from functools import cached_property
from typing import Protocol

import numpy as np
from fastlmm_vi_kernels import sweep as kernels
from scipy.linalg.blas import dsyrk

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

    def matvec(self, b: Array) -> Array:
        """X b; b is (p,) or (p, k)."""
        ...

    def rmatvec(self, r: Array) -> Array:
        """Xᵀ r; r is (n,) or (n, k)."""
        ...

    def columns(self, start: int, stop: int) -> Array:
        """Columns start … stop − 1 as an array (n, stop − start)."""
        ...

    def sweep(self, gamma: float, mean: Array, residual: Array) -> float:
        """One coordinate sweep over all columns, in place; see `fastlmm_vi_kernels.sweep.sweep`."""
        ...


class DenseFeatures:
    """X as a float64 array in memory, in either order; used as it lies, never copied for Gram and products.

    Parameters
    ----------
    X : ndarray, shape (n, p)
        Float64, C or Fortran order. A sweep needs contiguous columns: for a C-ordered X one Fortran-ordered copy is
        made at the first sweep and kept.
    """

    def __init__(self, X: Array) -> None:
        self.X = X

    @property
    def shape(self) -> tuple[int, int]:
        """(n, p)."""
        n, p = self.X.shape
        return n, p

    @cached_property
    def _columns(self) -> Array:
        return np.asfortranarray(self.X)

    @cached_property
    def _sq_norms(self) -> Array:
        return np.einsum("ij,ij->j", self.X, self.X)

    def column_sq_norms(self) -> Array:
        """‖x_j‖² for every column, (p,)."""
        return self._sq_norms

    def gram(self) -> Array:
        """Lower triangle of the smaller of X Xᵀ and XᵀX, by one symmetric rank-k product (n²p or np² flops)."""
        n, p = self.shape
        # dsyrk reads Fortran order: a C-ordered X is the Fortran-ordered Xᵀ, so neither order is copied.
        if self.X.flags.f_contiguous:
            return dsyrk(1.0, self.X, trans=int(n >= p), lower=1)
        return dsyrk(1.0, self.X.T, trans=int(n < p), lower=1)

    def matvec(self, b: Array) -> Array:
        """X b."""
        return self.X @ b

    def rmatvec(self, r: Array) -> Array:
        """Xᵀ r."""
        return self.X.T @ r

    def columns(self, start: int, stop: int) -> Array:
        """View of columns start … stop − 1."""
        return self.X[:, start:stop]

    def sweep(self, gamma: float, mean: Array, residual: Array) -> float:
        """One coordinate sweep, in place: reads X once."""
        return float(kernels.sweep(self._columns, self._sq_norms, gamma, mean, residual))
