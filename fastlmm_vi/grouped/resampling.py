"""New responses drawn from a fitted model, and the model fitted to them."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..errors import DataError, FitWarning
from ..result import Array
from . import reml
from .cross_products import CrossProducts
from .design import GroupedDesign
from .likelihood import Likelihood

if TYPE_CHECKING:
    from .result import MixedFit


def checked_response(design: GroupedDesign, y: Any) -> Array:
    """Return another response in the order of the rows, (N,).

    Raises
    ------
    DataError
        If it does not match them, or is not finite.
    """
    if isinstance(y, pd.Series) and not y.index.equals(design.index):
        if not (y.index.is_unique and design.index.isin(y.index).all()):
            raise DataError(
                "y is a Series whose index does not name every row of the data once: align it, or give its values alone."
            )
        y = y.loc[design.index]
    values = np.array(y, dtype=np.float64)
    if values.shape != design.y.shape:
        left_out = f", {design.n_missing} with missing values left out" if design.n_missing else ""
        raise DataError(
            f"y has shape {values.shape}, the fit has {len(design.y)} rows{left_out}: give one value for each."
        )
    if not np.isfinite(values).all():
        raise DataError(
            f"y has {int((~np.isfinite(values)).sum())} missing or infinite values: leave those rows out of the fit."
        )
    return values


def simulate(fit: "MixedFit", draws: int, *, random_state: Any, random_effects: str) -> pd.DataFrame:
    """See `MixedFit.simulate`."""
    if random_effects not in ("new", "estimated"):
        raise ValueError(f"random_effects={random_effects!r} is not known: choose 'new' or 'estimated'.")
    if draws < 1:
        raise ValueError(f"draws={draws!r} is not a number of draws: give 1, 2, …")
    rng = np.random.default_rng(random_state)
    columns = [_draw(fit, rng, new=random_effects == "new") for _ in range(draws)]
    return pd.DataFrame(np.column_stack(columns), index=fit.data.design.index)


def bootstrap(fit: "MixedFit", draws: int, *, random_state: Any, report: Callable[[str], None]) -> pd.DataFrame:
    """See `MixedFit.bootstrap`."""
    rng = np.random.default_rng(random_state)
    rows, failed = [], 0
    for i in range(draws):
        report(f"bootstrap, {i} of {draws}")
        row, converged = _refit(fit, _draw(fit, rng, new=True))
        rows.append(row)
        failed += not converged
    if failed:
        warnings.warn(f"{failed} of {draws} bootstrap fits stopped before their optimum.", FitWarning, stacklevel=3)
    return pd.DataFrame(rows)


def intervals(draws: pd.DataFrame, level: float) -> pd.DataFrame:
    """Percentile intervals of every column; draws without a value (a correlation with a variance of 0) are left out."""
    lost = draws.isna().sum()
    for name in lost.index[lost > 0]:
        warnings.warn(
            f"{lost[name]} of {len(draws)} bootstrap fits have no {name}, as a variance is 0: its interval is of the others.",
            FitWarning,
            stacklevel=3,
        )
    tail = 0.5 * (1.0 - level)
    return pd.DataFrame({"lower": draws.quantile(tail), "upper": draws.quantile(1.0 - tail)})


def _draw(fit: "MixedFit", rng: np.random.Generator, *, new: bool) -> Array:
    """One response of the model: random effects drawn anew, or those of the fit."""
    design, solution = fit.data.design, fit.solution
    y = design.X[:, list(fit.data.fixed.kept)] @ solution.beta
    y = y if design.offset is None else y + design.offset
    for k, term in enumerate(design.terms):
        effects = solution.effects[k]
        if new:
            effects = fit.sigma * rng.standard_normal(effects.shape) @ solution.roots[k].T
        y = y + np.einsum("ij,ij->i", term.basis, effects[term.factor.codes])
    sigma = fit.sigma if design.weights is None else fit.sigma / np.sqrt(design.weights)
    return y + sigma * rng.standard_normal(y.size)


def _refit(fit: "MixedFit", y: Array) -> tuple[dict[str, float], bool]:
    """Fixed effects, variances and criterion of the same model of another response."""
    likelihood = Likelihood(CrossProducts.of(replace(fit.data.design, y=y)), fit.reml)
    optimum = reml.fit(likelihood)
    again = replace(
        fit,
        data=likelihood.data,
        standard_theta=optimum.theta,
        deviance=optimum.deviance + likelihood.constant,
    )
    return {**again.point_estimates, "criterion": again.criterion}, optimum.minimum.converged
