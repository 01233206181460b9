"""Means and intervals for new rows, of known groups and of new ones."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.stats

from ..errors import FitWarning
from ..result import Array
from .solution import Rows, Solution

if TYPE_CHECKING:
    from .fit import GroupedFit
    from .result import MixedFit
INTERVALS = (None, "confidence", "prediction")
# Degrees of freedom where the delta method gives fewer: the standard error of a variance near 0 says little of it.
LEAST = 1.0


def predict(
    fit: "MixedFit", data: Any, *, interval: str | None, level: float, random_effects: bool
) -> "pd.Series | pd.DataFrame":
    """See `MixedFit.predict`."""
    level = checked(interval, level, random_effects)
    X, offset, index, rows = rows_of(fit, data, random_effects)
    mean = means(X, offset, rows, fit.solution.beta, fit.solution.effects)
    if interval is None:
        return pd.Series(mean, index=index, name="mean")
    noise = np.zeros(len(X))
    if interval == "prediction":
        noise += per_weight(fit, data)
    variance, df = _spread(fit, X, rows, noise)
    half = scipy.stats.t.isf(0.5 * (1.0 - level), df) * np.sqrt(variance)
    return pd.DataFrame({"mean": mean, "lower": mean - half, "upper": mean + half}, index=index)


def means(X: Array, offset: Array | float, rows: Rows, beta: Array, effects: Mapping[int, Array]) -> Array:
    """X β + offset + Z b, b of every term (levels, d), 0 where a code is −1."""
    found = X @ beta + offset
    for k, (Z, codes) in enumerate(rows):
        known = codes >= 0
        found[known] += np.einsum("ij,ij->i", Z[known], effects[k][codes[known]])
    return found


def checked(interval: str | None, level: float, random_effects: bool) -> float:
    """Return the level, or say what is wrong."""
    if interval not in INTERVALS:
        raise ValueError(f"interval={interval!r} is not known: choose one of {', '.join(map(repr, INTERVALS))}.")
    if interval == "prediction" and not random_effects:
        raise ValueError(
            'interval="prediction" is that of a new observation, which has random effects: leave random_effects=True, and '
            "give a label that is not in the data for a new group."
        )
    return checked_level(level)


def rows_of(fit: "GroupedFit", data: Any, random_effects: bool) -> tuple[Array, Array | float, pd.Index, Rows]:
    """X, offset, index, and coefficients and codes of every random term, of new rows or those of the fit."""
    design, kept = fit.data.design, list(fit.data.fixed.kept)
    if data is None:
        rows = [(term.basis, term.factor.codes) for term in design.terms]
        offset = 0.0 if design.offset is None else design.offset
        return design.X[:, kept], offset, design.index, rows if random_effects else []
    new = design.rows(data, random=random_effects)
    rows = [(term.basis, term.codes) for term in new.terms]
    _count_new(fit, rows)
    return new.X[:, kept], new.offset, new.index, rows if random_effects else []


def per_weight(fit: "GroupedFit", data: Any) -> "Array | float":
    """Variance of a new observation over σ²: by its weight in the fit, 1 for new rows."""
    weights = fit.data.design.weights
    return 1.0 if data is not None or weights is None else 1.0 / weights


def _spread(fit: "MixedFit", X: Array, rows: Rows, noise: Array) -> tuple[Array, Array]:
    """Variance of every row's error, and the degrees of freedom of its estimate: each distinct row once."""
    if not rows:  # as `MixedFit.test` of the same combinations
        return np.einsum("ij,jk,ik->i", X, fit.solution.beta_cov, X), fit.uncertainty.satterthwaite(X)
    table = np.column_stack([X, noise, *(np.column_stack(part) for part in rows)])
    _, first, place = np.unique(table, axis=0, return_index=True, return_inverse=True)
    X, noise, rows = X[first], noise[first], [(Z[first], codes[first]) for Z, codes in rows]

    def variance(solution: Solution) -> Array:
        return solution.variance_of(X, rows) + _of_new_groups(solution, rows) + solution.sigma**2 * noise

    v = variance(fit.solution)
    df = np.maximum(fit.uncertainty.degrees(v, fit.uncertainty.jacobian(variance)), LEAST)
    return v[place.ravel()], df[place.ravel()]


def _of_new_groups(solution: Solution, rows: Rows) -> Array:
    """Variance of random effects that the fit knows nothing of."""
    parts = []
    for k, (Z, codes) in enumerate(rows):
        spread = solution.sigma * Z @ solution.roots[k]
        parts.append(np.where(codes < 0, np.einsum("ij,ij->i", spread, spread), 0.0))
    return sum(parts, np.zeros(1))


def _count_new(fit: "GroupedFit", rows: Rows) -> None:
    """Warn of levels that the fit has not seen."""
    counts = {}
    for term, (_, codes) in zip(fit.data.design.terms, rows, strict=False):  # none where they are left out
        if (codes < 0).any():
            counts[term.factor.name] = int((codes < 0).sum())
    if counts:
        text = ", ".join(f"{count} of {len(rows[0][1])} rows by {name}" for name, count in counts.items())
        warnings.warn(
            f"Groups that were not in the data of the fit: {text}. Their random effects are predicted as 0, with the "
            "estimated variance in intervals. Check the labels if that is not meant.",
            FitWarning,
            stacklevel=5,
        )


def checked_level(level: float) -> float:
    """Return the level, a probability between 0 and 1."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"level={level!r} is not a probability between 0 and 1, such as 0.95.")
    return float(level)
