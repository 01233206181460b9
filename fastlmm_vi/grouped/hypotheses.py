"""Wald tests of linear hypotheses on the fixed effects, with Satterthwaite's degrees of freedom."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import NDArray

from ..result import Array

if TYPE_CHECKING:
    from .result import MixedFit

DEPENDENT = 1e-8  # eigenvalue of the hypotheses' correlations, relative to the largest, that is 0


def test(fit: "MixedFit", contrasts: Any, *, joint: bool) -> pd.DataFrame:
    """See `MixedFit.test`."""
    table = _contrasts(contrasts, list(fit.fixed_names))
    return one_by_one(fit, table) if len(table) == 1 or not joint else _together(fit, table.to_numpy())


def one_by_one(fit: "MixedFit", contrasts: pd.DataFrame) -> pd.DataFrame:
    """Return estimate, se, df, t and p of every row of L."""
    L = contrasts.to_numpy(dtype=np.float64)
    estimate = L @ fit.solution.beta
    se = np.where(_unsure(fit, L), np.nan, np.sqrt(np.einsum("ij,jk,ik->i", L, fit.solution.beta_cov, L)))
    df = np.where(_unsure(fit, L), np.nan, fit.uncertainty.satterthwaite(L))
    t = estimate / se
    columns = {"estimate": estimate, "se": se, "df": df, "t": t, "p": 2.0 * scipy.stats.t.sf(np.abs(t), df)}
    return pd.DataFrame(columns, index=contrasts.index)


def _unsure(fit: "MixedFit", L: Array) -> NDArray[np.bool_]:
    """Rows of L with an effect whose variance the data do not determine."""
    return np.asarray((L[:, np.isin(fit.fixed_names, fit.undetermined)] != 0.0).any(axis=1))


def _together(fit: "MixedFit", L: Array) -> pd.DataFrame:
    """F of all rows of L, by uncorrelated combinations of them."""
    if _unsure(fit, L).any():
        return pd.DataFrame({"F": [np.nan], "df1": [len(L)], "df2": [np.nan], "p": [np.nan]}, index=["joint"])
    L = L / np.sqrt(np.einsum("ij,jk,ik->i", L, fit.solution.beta_cov, L))[:, None]
    values, vectors = np.linalg.eigh(L @ fit.solution.beta_cov @ L.T)
    firm = values > DEPENDENT * values.max()
    uncorrelated = vectors[:, firm].T @ L
    F = float(np.mean((uncorrelated @ fit.solution.beta) ** 2 / values[firm]))
    rank, df = int(firm.sum()), _denominator(fit.uncertainty.satterthwaite(uncorrelated))
    return pd.DataFrame({"F": [F], "df1": [rank], "df2": [df], "p": [scipy.stats.f.sf(F, rank, df)]}, index=["joint"])


def _denominator(df: Array) -> float:
    """Degrees of freedom of the F whose mean is that of the mean of independent squared t: E = Σ k / (k − 2), 2 E / (E − q).

    2 where one of them has no mean, as in lmerTest.
    """
    if np.ptp(df) < 1e-8 * df.max():
        return float(df.mean())
    if df.min() <= 2.0:
        return 2.0
    with np.errstate(invalid="ignore"):
        E = float(np.where(np.isinf(df), 1.0, df / (df - 2.0)).sum())
    return 2.0 * E / (E - df.size)


def _contrasts(given: Any, names: list[str]) -> pd.DataFrame:
    """L as a table, hypotheses by coefficients."""
    identity = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    if isinstance(given, str):
        given = [given]
    labels = list(given.columns) if isinstance(given, pd.DataFrame) else list(given)
    by_name = isinstance(given, pd.DataFrame) or (labels and all(isinstance(label, str) for label in labels))
    if by_name:
        unknown = [label for label in labels if label not in names]
        if unknown:
            raise ValueError(f"{unknown} are no coefficients of this model: it has {names}.")
        table = (
            given.reindex(columns=names, fill_value=0.0) if isinstance(given, pd.DataFrame) else identity.loc[labels]
        )
    else:
        L = np.atleast_2d(np.asarray(given, dtype=np.float64))
        if L.ndim != 2 or L.shape[1] != len(names):
            raise ValueError(f"contrasts has shape {np.shape(given)}: give a column for each of {names}.")
        table = pd.DataFrame(L, index=[f"L{i + 1}" for i in range(len(L))], columns=names)
    values = table.to_numpy(dtype=np.float64)
    if table.empty or not np.isfinite(values).all() or not values.any(axis=1).all():
        raise ValueError("contrasts has no row, a row of zeros, or a number that is not finite: nothing to test there.")
    return table
