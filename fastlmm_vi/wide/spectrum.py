"""The one expensive object of the wide model: the eigenbasis of X Xᵀ, made once per X."""

import warnings
from dataclasses import dataclass

import numpy as np

from .. import threads
from ..errors import DataError, FitWarning
from ..result import Array
from .design import Design
from .factor import Diagonalisable, Eigenvectors, Factor, Tridiagonal, for_one_response
from .rotated import Rotated
from .storage import DenseFeatures, FeatureMatrix


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Spectrum of K = X Xᵀ, through X Xᵀ when n < p and XᵀX when n ≥ p; reusable for every y, Z, method and start.

    Attributes
    ----------
    features : FeatureMatrix (n, p)
    factor : Factor
        The smaller Gram matrix, by its eigenvectors or, for a single response, in tridiagonal form.

    Notes
    -----
    Cost: O(min(n, p)² max(n, p)) for the Gram matrix, O(min(n, p)³) for its factor, O(min(n, p)²) memory beside X. The
    larger Gram matrix is never formed. X itself is kept by reference: do not change it afterwards.

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
    factor: Factor

    @classmethod
    def of(
        cls, X: Array | FeatureMatrix, *, reuse: bool = True, precision: str = "float64", n_jobs: int | None = None
    ) -> "Spectrum":
        """Make the spectrum of X (n, p), an array of finite numbers or a `FeatureMatrix`.

        Parameters
        ----------
        X : ndarray or FeatureMatrix
        reuse : bool, default True
            True computes eigenvectors: each further response then costs a few products. False, for n < p and X Xᵀ of full
            rank, stops at tridiagonal form: the first fit is faster, but each response is diagonalised anew.
        precision : {"float64", "float32-gram", "float32"}, default "float64"
            That of the fits that will use it (see `WideLMM`); of an array only.
        n_jobs : int or None
            Threads: None is 1, −1 all cores.
        """
        features = DenseFeatures.of(X, precision) if hasattr(X, "__array__") else X
        jobs = threads.count(n_jobs)
        gram = checked_gram(features, jobs)
        trace = float(gram.trace())
        # With n ≥ p the projection off the columns of X needs the eigenvectors (`rotate`).
        make = Eigenvectors.of if reuse or not features.shape[0] < features.shape[1] else for_one_response
        with threads.limit(jobs):
            factor: Diagonalisable = make(gram, features.rounding)
        warn_if_offset_dominates(features, factor.largest(), trace)
        return cls(features, factor)

    @property
    def eigenvalues(self) -> Array:
        """Of the smaller Gram matrix, (min(n, p),), ascending; those within rounding of zero are exactly 0."""
        return self._diagonalisable.eigenvalues

    @property
    def _diagonalisable(self) -> Diagonalisable:
        if not isinstance(self.factor, Eigenvectors | Tridiagonal):
            raise TypeError("This spectrum was made for one response and has no eigenvalues: use Spectrum.of(X).")
        return self.factor

    def logdet(self, gamma: float) -> float:
        """log|I + γK|."""
        return self.factor.logdet(gamma)

    @property
    def row_side(self) -> bool:
        """True where the factor is that of X Xᵀ (n < p), False where it is that of XᵀX."""
        n, p = self.features.shape
        return n < p

    def rotate(self, design: Design) -> Rotated:
        """Turn the design's residual and covariates into the eigenbasis of K."""
        data = np.column_stack([design.residual, design.Q])
        if self.row_side:
            d, rows = self._diagonalisable.rows(data)
        else:
            d, rows = self._diagonalisable.rows(self.features.rmatvec(data))
            keep = d > 0.0
            d, rows = d[keep], rows[keep] / np.sqrt(d[keep])[:, None]
            # U = X W d^-½ spans the column space of X; what is left of the data lies in the null space of K, where
            # only inner products matter: the triangular factor R keeps them in c + 1 rows.
            assert isinstance(self.factor, Eigenvectors)
            rest = data - self.features.matvec(self.factor.W[:, keep] @ (rows / np.sqrt(d)[:, None]))
            null_rows = np.linalg.qr(rest, mode="r")[: design.n - d.size]
            d = np.concatenate([d, np.zeros(len(null_rows))])
            rows = np.vstack([rows, null_rows])
        return Rotated(d, np.ascontiguousarray(rows[:, 0]), np.ascontiguousarray(rows[:, 1:]), design.n)

    def ridge(self, gamma: float, R: Array) -> Array:
        """γ Xᵀ (I + γK)⁻¹ R, (p,) or (p, k): the ridge coefficients of R (n,) or (n, k) with penalty 1/γ."""
        if self.row_side:
            return self.features.rmatvec(self.factor.ridge(gamma, R))
        return self.factor.ridge(gamma, self.features.rmatvec(R))

    def predictive(self, gamma: float, X: Array) -> Array:
        """xᵀ (I + γ XᵀX)⁻¹ x for every row x of `X` (k, p): Var(xᵀβ | y) / σ²_β, (k,)."""
        if self.row_side:
            C = self.features.matvec(X.T)
            rest = np.einsum("ij,ij->i", X, X) - gamma * np.einsum("ij,ij->j", C, self.factor.solve(gamma, C))
            return np.maximum(rest, 0.0)  # a difference: rounding may leave less than nothing
        return np.einsum("ij,ji->i", X, self.factor.solve(gamma, X.T))

    def with_vectors(self) -> "Spectrum":
        """The same spectrum by its eigenvectors, which posteriors that average over θ need."""
        return Spectrum(self.features, self._diagonalisable.with_vectors())

    @property
    def _vectors(self) -> tuple[Array, Array]:
        """Positive eigenvalues (r,) and their eigenvectors (min(n, p), r)."""
        if not isinstance(self.factor, Eigenvectors):
            raise TypeError("This spectrum has no eigenvectors: use Spectrum.of(X), or its with_vectors().")
        keep = self.factor.eigenvalues > 0.0
        return self.factor.eigenvalues[keep], self.factor.W[:, keep]

    def from_eigenbasis(self, t: Array) -> Array:
        """XᵀU t, (p,): U the eigenvectors of K with positive eigenvalue, t (r,)."""
        d, W = self._vectors
        return self.features.rmatvec(W @ t) if self.row_side else W @ (np.sqrt(d) * t)

    def to_eigenbasis(self, X: Array) -> Array:
        """(XᵀU)ᵀx of every row x of `X` (k, p), (k, r)."""
        d, W = self._vectors
        return self.features.matvec(X.T).T @ W if self.row_side else (X @ W) * np.sqrt(d)

    def quadratic(self, M: Array, block: int = 1024) -> Array:
        """Diagonal of XᵀU M UᵀX, (p,), M (r, r) symmetric, by blocks of columns."""
        d, W = self._vectors
        if not self.row_side:
            half = W * np.sqrt(d)
            return np.einsum("ij,ij->i", half @ M, half)
        p = self.features.shape[1]
        out = np.empty(p)
        for start in range(0, p, block):
            part = self.features.columns(start, min(p, start + block)).T @ W
            out[start : start + block] = np.einsum("ij,ij->i", part @ M, part)
        return out

    def variances(self, gamma: float, block: int = 1024) -> Array:
        """Diagonal of (I + γ XᵀX)⁻¹, (p,): Var(β_j | y) / σ²_β, by blocks of columns, never p × p when n < p."""
        half = self.factor.half(gamma)
        if not self.row_side:
            return np.einsum("ij,ij->i", half, half)
        p = self.features.shape[1]
        out = np.empty(p)
        for start in range(0, p, block):
            part = self.features.columns(start, min(p, start + block)).T @ half
            out[start : start + block] = np.maximum(1.0 - gamma * np.einsum("ij,ij->i", part, part), 0.0)
        return out


def checked_gram(features: FeatureMatrix, jobs: int = 1) -> Array:
    """Return the smaller Gram matrix (lower triangle).

    Raises
    ------
    DataError
        If X has missing or infinite values, or its squares leave the range of numbers.
    """
    gram = features.gram(jobs)
    trace = float(gram.trace())
    check_size(trace, features)
    if trace == 0.0 and features.columns(0, features.shape[1]).any():
        raise DataError("X is so small that its squares are no numbers (below 1e-300): rescale X.")
    return gram


def check_size(sum_of_squares: float, features: FeatureMatrix) -> None:
    """Raise DataError where ‖X‖² is no number, or so large or small that products of it are none."""
    if not np.isfinite(sum_of_squares):
        raise DataError(
            "X contains NaN or infinity, or numbers whose squares overflow: impute missing values, or rescale X."
        )
    n, p = features.shape
    size = np.sqrt(sum_of_squares / (n * p))
    smallest, largest = features.range
    if size > 0.0 and not smallest < size < largest:
        raise DataError(
            f"X is of size {size:.1g} (root mean square), outside {smallest:.0e} … {largest:.0e}, where its products are "
            "numbers in this precision: rescale X."
        )


def warn_if_offset_dominates(features: FeatureMatrix, largest: float, trace: float) -> None:
    """Warn where columns vary so little around their means that the Gram matrix keeps none of it.

    `largest` is its largest eigenvalue, or not below that.
    """
    n, p = features.shape
    if largest <= 1e9 * max(trace - largest, 0.0) / min(n, p):
        return
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
