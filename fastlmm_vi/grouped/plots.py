"""Pictures of grouped fits. Each takes `ax=`, returns the Axes, and leaves the tidy table it drew in `ax.fastlmm_vi_data`."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.stats

from ..canvas import COLORS, new_axes, with_data
from .result import MixedFit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LABELS = 40


def plot_caterpillar(
    fit: MixedFit, factor: str | None = None, effect: str | None = None, *, level: float = 0.95, ax: Any = None
) -> "Axes":
    """Random effects of one grouping factor in order of size, with intervals from their conditional variances.

    Parameters
    ----------
    fit : MixedFit
    factor, effect : str, optional
        Default the first of the formula, and its first effect ("(Intercept)").
    level : float, default 0.95
    ax : matplotlib Axes, optional

    Examples
    --------
    >>> import matplotlib, numpy as np, pandas as pd, fastlmm_vi as fl
    >>> matplotlib.use("agg")
    >>> df = pd.DataFrame({"g": np.repeat(list("abcdef"), 5), "y": np.random.default_rng(0).normal(size=30)})
    >>> df["y"] += np.repeat([-2, -1, 0, 0, 1, 2], 5)
    >>> ax = fl.plot_caterpillar(fl.lmm("y ~ 1 + (1 | g)", df))
    >>> list(ax.fastlmm_vi_data.columns)
    ['level', 'estimate', 'lower', 'upper']
    """
    found = [
        (k, term.names.index(effect) if effect else 0)
        for k, term in enumerate(fit.data.design.terms)
        if (factor is None or term.factor.name == factor) and (effect is None or effect in term.names)
    ]
    if not found:
        known = {term.factor.name: list(term.names) for term in fit.data.design.terms}
        raise ValueError(f"factor={factor!r}, effect={effect!r} is not in this model: it has {known}.")
    k, j = found[0]
    term = fit.data.design.terms[k]
    half = scipy.stats.norm.isf(0.5 * (1.0 - level)) * np.sqrt(fit.solution.effect_cov[k][:, j, j])
    estimate = fit.solution.effects[k][:, j]
    table = pd.DataFrame(
        {"level": list(term.factor.levels), "estimate": estimate, "lower": estimate - half, "upper": estimate + half}
    ).sort_values("estimate", ignore_index=True)
    ax = new_axes(ax)
    y = np.arange(len(table))
    ax.hlines(y, table["lower"], table["upper"], color=COLORS[0], lw=1.0)
    ax.plot(table["estimate"], y, "o", color=COLORS[0], ms=3)
    ax.axvline(0.0, color="0.4", lw=0.8, ls=":")
    if len(table) <= MOST_LABELS:
        ax.set_yticks(y, [str(label) for label in table["level"]])
    else:
        ax.set_yticks([])
    ax.set_xlabel(f"{term.names[j]} given {term.factor.name}, {100 * level:g} % intervals")
    ax.set_ylabel(f"{term.factor.name} ({len(table)} levels)")
    return with_data(ax, table)


def plot_residuals(fit: MixedFit, *, ax: Any = None) -> "Axes":
    """Scaled residuals against fitted values, with a running mean."""
    ax = new_axes(ax)
    weights = fit.data.design.weights
    scaled = fit.residuals.to_numpy() / fit.sigma * (1.0 if weights is None else np.sqrt(weights))
    table = pd.DataFrame({"fitted": fit.fitted_values.to_numpy(), "residual": scaled}).sort_values("fitted")
    ax.plot(table["fitted"], table["residual"], ".", color=COLORS[0], ms=3, alpha=min(1.0, 300.0 / len(table) ** 0.75))
    width = max(9, len(table) // 8)
    running = table.rolling(width, center=True, min_periods=width).mean()
    ax.plot(running["fitted"], running["residual"], color=COLORS[1], lw=1.5, label=f"mean of {width} neighbours")
    ax.axhline(0.0, color="0.4", lw=0.8, ls=":")
    ax.set_xlabel("fitted value")
    ax.set_ylabel("residual / σ")
    ax.legend(frameon=False, fontsize="small")
    return with_data(ax, table.reset_index(drop=True))


def plot_profile(fit: MixedFit, parameter: str, *, ax: Any = None) -> "Axes":
    """Profile ζ of one parameter, straight where its likelihood is that of a normal distribution, and the 95 % interval.

    Parameters
    ----------
    fit : MixedFit
    parameter : str
        By its name in `fit.to_frame()`: "sd_g__Intercept", "b_x", "sigma".
    ax : matplotlib Axes, optional
    """
    table = fit.profile([parameter])
    ax = new_axes(ax)
    ax.plot(table["value"], table["zeta"], color=COLORS[0], marker=".")
    for target in (-scipy.stats.norm.isf(0.025), scipy.stats.norm.isf(0.025)):
        ax.axhline(target, color="0.4", lw=0.8, ls=":")
        if table["zeta"].min() <= target <= table["zeta"].max():
            ax.axvline(np.interp(target, table["zeta"], table["value"]), color=COLORS[1], lw=0.8)
    ax.axhline(0.0, color="0.7", lw=0.8)
    ax.set_xlabel(parameter)
    ax.set_ylabel("ζ (profile)")
    return with_data(ax, table)
