"""The one expensive object of the wide model: the eigenbasis of X Xᵀ, made once per X."""

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.linalg

from ..errors import DataError, FitWarning
from ..result import Array
from .design import Design
from .storage import DenseFeatures, FeatureMatrix


class Rotated(NamedTuple):
    """y and Z in the eigenbasis of K = X Xᵀ: all that an exact iteration needs, O((n + c) c) numbers.

    Row i carries eigenvalue d_i ≥ 0 of K, y_i and Q_i (see `Design`). Where K has a larger null space than the c + 1
    rows that keep every inner product there, only those rows are stored; `n` still counts all.
    """

    d: Array
    y: Array
    Q: Array
    n: int

    @property
    def nullity(self) -> int:
        """Dimension of the null space of K."""
        return self.n - int(np.count_nonzero(self.d))


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenbasis of K = X Xᵀ, through X Xᵀ when n < p and XᵀX when n ≥ p; reusable for every y, Z, method and start.

    Attributes
    ----------
    features : FeatureMatrix (n, p)
    eigenvalues : ndarray (min(n, p),)
        Of the smaller Gram matrix, ascending; those within rounding of zero are exactly 0.
    basis : ndarray (min(n, p), min(n, p))
        Its eigenvectors, in columns.

    Notes
    -----
    Cost: O(min(n, p)² max(n, p)) for the Gram matrix, O(min(n, p)³) for the eigenvectors, O(min(n, p)²) memory beside
    X. The larger Gram matrix is never formed. X itself is kept by reference: do not change it afterwards.

    Examples
    --------
    >>> import numpy as np, fastlmm_vi as fl
    >>> X = np.random.default_rng(0).normal(size=(40, 90))
    >>> Y = X[:, :2] + np.random.default_rng(1).normal(size=(40, 2))
    >>> spectrum = fl.Spectrum.of(X)
    >>> [round(fl.WideLMM().fit(X, y, spectrum=spectrum).loglik_, 3) for y in Y.T]
    [-58.563, -61.236]
    """

    features: FeatureMatrix
    eigenvalues: Array
    basis: Array

    @classmethod
    def of(cls, X: Array | FeatureMatrix) -> "Spectrum":
        """Make the spectrum of X (n, p), an array of finite numbers or a `FeatureMatrix`."""
        features = DenseFeatures(np.asarray(X, dtype=np.float64)) if hasattr(X, "__array__") else X
        gram = features.gram()
        trace = gram.diagonal().sum()
        if not np.isfinite(trace):
            raise DataError("X has missing or infinite values, or their squares overflow: impute or rescale X.")
        if trace == 0.0 and features.columns(0, features.shape[1]).any():
            raise DataError("X is so small that its squares are no numbers (below 1e-300): rescale X.")
        eigenvalues, basis = scipy.linalg.eigh(gram, lower=True, driver="evd", overwrite_a=True, check_finite=False)
        if eigenvalues[-1] > 1e9 * np.abs(eigenvalues[:-1]).sum() / eigenvalues.size:
            _warn_if_offset_dominates(features)
        zero = max(features.shape) * np.finfo(float).eps * max(eigenvalues[-1], 0.0)
        return cls(features, np.where(eigenvalues > zero, eigenvalues, 0.0), basis)

    @property
    def row_side(self) -> bool:
        """True where the basis is that of X Xᵀ (n < p), False where it is that of XᵀX."""
        n, p = self.features.shape
        return n < p

    def rotate(self, design: Design) -> Rotated:
        """Turn the design's residual and covariates into the eigenbasis: O(min(n, p) n c), or O(n p c) when n ≥ p."""
        data = np.column_stack([design.residual, design.Q])
        if self.row_side:
            d, rows = self.eigenvalues, self.basis.T @ data
        else:
            keep = self.eigenvalues > 0.0
            d, W = self.eigenvalues[keep], self.basis[:, keep]
            # U = X W d^-½ spans the column space of X; what is left of the data lies in the null space of K, where
            # only inner products matter: the triangular factor R keeps them in c + 1 rows.
            rows = (W.T @ self.features.rmatvec(data)) / np.sqrt(d)[:, None]
            rest = data - self.features.matvec(W @ (rows / np.sqrt(d)[:, None]))
            null_rows = np.linalg.qr(rest, mode="r")[: design.n - d.size]
            d = np.concatenate([d, np.zeros(len(null_rows))])
            rows = np.vstack([rows, null_rows])
        return Rotated(d, np.ascontiguousarray(rows[:, 0]), np.ascontiguousarray(rows[:, 1:]), design.n)

    def back(self, t: Array) -> Array:
        """Xᵀ U t of a vector t in the rotated basis, (p,)."""
        if self.row_side:
            return self.features.rmatvec(self.basis @ t)
        keep = self.eigenvalues > 0.0
        d = self.eigenvalues[keep]
        return self.basis[:, keep] @ (np.sqrt(d) * t[: d.size])

    def predictive(self, gamma: float, X: Array) -> Array:
        """xᵀ (I + γ XᵀX)⁻¹ x for every row x of `X` (k, p): Var(xᵀβ | y) / σ²_β, (k,)."""
        if self.row_side:
            explained = (self.features.matvec(X.T).T @ self.basis) ** 2 @ self._weights(gamma)
            return np.einsum("ij,ij->i", X, X) - explained
        return (X @ self.basis) ** 2 @ (1.0 / (1.0 + gamma * self.eigenvalues))

    def variances(self, gamma: float, block: int = 1024) -> Array:
        """Diagonal of (I + γ XᵀX)⁻¹, (p,): Var(β_j | y) / σ²_β, by blocks of columns, never p × p when n < p."""
        if not self.row_side:
            return self.basis**2 @ (1.0 / (1.0 + gamma * self.eigenvalues))
        half = self.basis * np.sqrt(self._weights(gamma))
        p = self.features.shape[1]
        out = np.empty(p)
        for start in range(0, p, block):
            part = self.features.columns(start, min(p, start + block)).T @ half
            out[start : start + block] = 1.0 - np.einsum("ij,ij->i", part, part)
        return out

    def _weights(self, gamma: float) -> Array:
        return gamma / (1.0 + gamma * self.eigenvalues)


def _warn_if_offset_dominates(features: FeatureMatrix) -> None:
    """Warn where columns vary so little around their means that the Gram matrix keeps none of it."""
    n, p = features.shape
    ones = np.ones(n)
    means = features.rmatvec(ones) / n
    lost = 0
    for start in range(0, p, 1024):
        block = features.columns(start, min(p, start + 1024))
        sd = (block - means[start : start + 1024]).std(axis=0)
        lost += int(((sd > 0.0) & (sd < 1e-4 * np.abs(means[start : start + 1024]))).sum())
    if lost:
        warnings.warn(
            f"{lost} of {p} features vary by less than 1e-4 of their mean: rounding in X Xᵀ drowns that variation. "
            "Centre them first, or use standardize=True.",
            FitWarning,
            stacklevel=2,
        )
