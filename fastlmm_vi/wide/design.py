"""The only door of the wide model: data are checked here once, and are clean behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.linalg

from ..errors import DataError
from ..result import Array
from .storage import DenseFeatures, FeatureMatrix


@dataclass(frozen=True, eq=False)
class Design:
    """Checked data of y = Zω + Xβ + e, with the covariates brought to an orthonormal basis.

    With Z = QR (Z holds the intercept as its first column where there is one) and a = R(ω − ω_ls), the model is
    `residual` = Qa + Xβ + e: the least-squares fit of y on Z is taken out once, so that no later sum cancels.

    Attributes
    ----------
    y : ndarray (n,)
        Response as given.
    residual : ndarray (n,)
        y minus its least-squares fit on Z.
    Q, R, omega_ls : ndarray (n, c), (c, c), (c,)
        Z = QR and the least-squares ω.
    features : FeatureMatrix (n, p)
        X, standardised where asked.
    center, scale : ndarray (p,) or None
        What was subtracted from and divided out of the columns of X.
    """

    y: Array
    residual: Array
    Q: Array
    R: Array
    omega_ls: Array
    features: FeatureMatrix
    center: Array | None
    scale: Array | None
    has_intercept: bool
    covariate_names: tuple[str, ...]
    feature_names: tuple[str, ...] | None
    notes: tuple[str, ...]

    @property
    def n(self) -> int:
        """Number of observations."""
        return self.y.size

    @property
    def c(self) -> int:
        """Number of fixed effects, the intercept included."""
        return self.Q.shape[1]

    @property
    def p(self) -> int:
        """Number of features."""
        return self.features.shape[1]

    @property
    def log_abs_R(self) -> float:
        """log|det R| = ½ log|ZᵀZ|."""
        return float(np.log(np.abs(np.diag(self.R))).sum())

    def omega(self, a: Array) -> Array:
        """ω (with the intercept first, where there is one) of the rotated effects a."""
        return self.omega_ls + scipy.linalg.solve_triangular(self.R, a)

    def omega_covariance(self, covariance: Array) -> Array:
        """Cov(ω) of Cov(a): R⁻¹ Cov(a) R⁻ᵀ."""
        half = scipy.linalg.solve_triangular(self.R, covariance, check_finite=False)
        return scipy.linalg.solve_triangular(self.R, half.T, check_finite=False).T


def build(
    X: Array,
    y: Array,
    covariates: Any,
    *,
    fit_intercept: bool,
    standardize: bool,
    precision: str = "float64",
    feature_names: Sequence[str] | None = None,
) -> Design:
    """Check the covariates against X and y (already numeric and finite) and return the design.

    Raises
    ------
    DataError
        If the covariates are not numeric, have missing values, another number of rows, or depend on each other, or
        if they leave no degree of freedom.
    """
    n, p = X.shape
    if y.any() and not 1e-50 < np.abs(y).max() < 1e50:
        raise DataError(f"y reaches {np.abs(y).max():.1g} in size: its powers leave the range of numbers. Rescale y.")
    Z, names = check_covariates(covariates, n)
    if fit_intercept:
        Z = np.column_stack([np.ones(n), Z])
    Q, R = _orthonormal(Z, ["intercept", *names] if fit_intercept else names)
    omega_ls = scipy.linalg.solve_triangular(R, Q.T @ y)
    residual = y - Z @ omega_ls
    residual -= Q @ (Q.T @ residual)
    if np.linalg.norm(residual) <= 1e-13 * np.linalg.norm(y):
        raise DataError(
            "y is an exact linear combination of the covariates"
            + (" and the intercept" if fit_intercept else "")
            + " (or constant, or all zero): no variance is left to estimate. Check that y is the response you meant."
        )
    notes: tuple[str, ...] = ()
    center = scale = None
    if standardize:
        X, center, scale, constant = _standardize(X)
        if constant:
            notes = (f"{constant} of {p} features are constant: their effects are 0 (they still count in p).",)
    return Design(
        y=y,
        residual=residual,
        Q=Q,
        R=R,
        omega_ls=omega_ls,
        features=DenseFeatures.of(X, precision),
        center=center,
        scale=scale,
        has_intercept=fit_intercept,
        covariate_names=tuple(names),
        feature_names=None if feature_names is None else tuple(map(str, feature_names)),
        notes=notes,
    )


def group_labels(block_size: Any, names: Sequence[str] | None, p: int) -> Any:
    """Return a number as it is, and labels as an array in the order of the features.

    Raises
    ------
    DataError
        If labels are missing, or the index of a Series is not that of the features.
    """
    if np.ndim(block_size) == 0:
        return block_size
    if isinstance(block_size, pd.Series):
        wanted = pd.Index(range(p) if names is None else names)
        if not block_size.index.is_unique or set(block_size.index) != set(wanted):
            raise DataError(
                "block_size is a Series whose index is not that of the features "
                f"({f'0 … {p - 1}' if names is None else 'their names'}): align it, or give its values alone."
            )
        block_size = block_size.reindex(wanted)
    labels = np.asarray(block_size)
    missing = int(np.sum(pd.isna(labels)))
    if missing:
        raise DataError(f"block_size has {missing} missing labels: give every feature a group.")
    return labels


def check_covariates(covariates: Any, n: int) -> tuple[Array, list[str]]:
    """Return covariates as a float64 array (n, c) with their names; None is (n, 0).

    Raises
    ------
    DataError
        If they are not numeric, hold missing or infinite values, or have another number of rows than `n`.
    """
    if covariates is None:
        return np.empty((n, 0)), []
    if isinstance(covariates, np.ndarray) and covariates.ndim == 2 and covariates.dtype.kind in "biuf":
        names = [f"z{j}" for j in range(covariates.shape[1])]
        Z = covariates.astype(np.float64, copy=False)
    else:
        Z, names = _from_frame(covariates if isinstance(covariates, pd.DataFrame) else _as_frame(covariates))
    if len(Z) != n:
        raise DataError(f"covariates has {len(Z)} rows, X has {n}: give one row of covariates per row of X.")
    bad = np.flatnonzero(~np.isfinite(Z).all(axis=0))
    if bad.size:
        counts = ", ".join(f"{names[j]} ({(~np.isfinite(Z[:, j])).sum()})" for j in bad[:5])
        raise DataError(f"covariates has missing or infinite values in {counts}: drop or impute those rows.")
    return np.ascontiguousarray(Z), names


def _from_frame(frame: pd.DataFrame) -> tuple[Array, list[str]]:
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"covariates has more than one column called {', '.join(twice)}: rename or drop one.")
    for name, (_, column) in zip(names, frame.items(), strict=True):
        if not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)) or np.iscomplexobj(column):
            raise DataError(
                f"covariates column {name!r} holds {column.dtype} values, not real numbers: encode it first, e.g. "
                "pandas.get_dummies(covariates, drop_first=True, dtype=float)."
            )
    return frame.to_numpy(dtype=np.float64, na_value=np.nan), names


def _as_frame(covariates: Any) -> pd.DataFrame:
    if isinstance(covariates, pd.Series):
        return covariates.to_frame(covariates.name if covariates.name is not None else "z0")
    array = np.asarray(covariates)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise DataError(f"covariates has {array.ndim} dimensions: give a table with a row per observation (n, c).")
    return pd.DataFrame(array, columns=[f"z{j}" for j in range(array.shape[1])])


def _orthonormal(Z: Array, names: list[str]) -> tuple[Array, Array]:
    """Z = QR; raises DataError, naming the columns, where Z is not of full column rank or leaves no freedom."""
    n, c = Z.shape
    if c == 0:
        return Z, np.empty((0, 0))
    if c >= n:
        raise DataError(f"{c} covariates (intercept included) for {n} observations: at most {n - 1} can be estimated.")
    norms = np.linalg.norm(Z, axis=0)
    _, r, order = scipy.linalg.qr(Z / np.where(norms > 0.0, norms, 1.0), mode="economic", pivoting=True)
    dependent = order[np.abs(np.diag(r)) <= n * np.finfo(float).eps]
    if dependent.size:
        listed = ", ".join(names[j] for j in sorted(dependent))
        raise DataError(
            f"covariates are linearly dependent: {listed} can be written through the others"
            + (" (the intercept is one of them)" if "intercept" in names else "")
            + ". Drop such columns."
        )
    Q, R = np.linalg.qr(Z)
    return np.ascontiguousarray(Q), R


def _standardize(X: Array) -> tuple[Array, Array, Array, int]:
    """Columns centred and divided by their sd (ddof 0) and by √p, as a new array; constant columns become 0."""
    center = X.mean(axis=0, dtype=np.float64)
    Xs = X - center.astype(X.dtype)
    sd = np.sqrt(np.einsum("ij,ij->j", Xs, Xs, dtype=np.float64) / X.shape[0])
    constant = sd <= 45.0 * np.finfo(X.dtype).eps * np.abs(center)
    scale = np.where(constant, 1.0, sd) * np.sqrt(X.shape[1])
    Xs /= scale.astype(X.dtype)
    Xs[:, constant] = 0.0
    return Xs, center, scale, int(constant.sum())
