"""Pictures of grouped fits. Each takes `ax=`, returns the Axes, and leaves the tidy table it drew in `ax.fastlmm_vi_data`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.stats

from ..canvas import COLORS, new_axes, with_data
from ..comparison import default_names
from .bayes_result import BayesFit
from .diagnostics import accuracies
from .mean_field_result import MeanFieldFit
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


def plot_elbo(*fits: BayesFit | MeanFieldFit, names: list[str] | None = None, ax: Any = None) -> "Axes":
    """ELBO against iteration, and the log evidence of a fit by quadrature as a line: what the others are below.

    Parameters
    ----------
    *fits : BayesFit or MeanFieldFit
        Of the same data and priors.
    names : list of str, optional
    ax : matplotlib Axes, optional
    """
    ax, tables = new_axes(ax), []
    for color, name, fit in zip(COLORS * 5, _names(fits, names), fits, strict=False):
        if fit.trace.empty:
            ax.axhline(fit.criterion, color=color, lw=1.0, ls="--", label=f"{name}: log evidence")
            continue
        ax.plot(fit.trace["iteration"] + 1, fit.trace["elbo"], color=color, marker=".", label=f"{name}: ELBO")
        tables.append(fit.trace.assign(fit=name)[["fit", "iteration", "elbo"]])
    if not tables:
        raise ValueError("No fit given has an ELBO: fit by method='structured-vi' or 'mfvi'.")
    data = pd.concat(tables, ignore_index=True)
    ends = data.groupby("fit")["elbo"].last()
    low = min(ends.min(), data.groupby("fit")["elbo"].nth(1).min()) if len(data) > len(ends) else ends.min()
    top = max([ends.max(), *(line.get_ydata()[0] for line in ax.lines if line.get_ls() == "--")])
    ax.set_ylim(low - 0.1 * max(top - low, 1.0), top + 0.1 * max(top - low, 1.0))
    ax.set_xlabel("iteration")
    ax.set_ylabel("ELBO")
    ax.legend(frameon=False, fontsize="small", loc="best")
    return with_data(ax, data)


def plot_posterior(
    *fits: BayesFit, parameter: str | None = None, names: list[str] | None = None, ax: Any = None
) -> "Axes":
    """Posterior densities of one parameter, q against the exact one.

    Parameters
    ----------
    *fits : BayesFit
        Of models that have the parameter.
    parameter : str, optional
        Any but the random effects, by its name in `to_frame`; default the first standard deviation.
    names : list of str, optional
    ax : matplotlib Axes, optional

    Examples
    --------
    >>> import matplotlib, numpy as np, pandas as pd, fastlmm_vi as fl
    >>> matplotlib.use("agg")
    >>> df = pd.DataFrame({"g": np.repeat(list("abcdef"), 5), "y": np.random.default_rng(0).normal(size=30)})
    >>> df["y"] += np.repeat([-2, -1, 0, 0, 1, 2], 5)
    >>> fits = [fl.lmm("y ~ 1 + (1 | g)", df, method=method) for method in ("mfvi", "quadrature")]
    >>> list(fl.plot_posterior(*fits, parameter="sd_g__Intercept").fastlmm_vi_data.columns)
    ['fit', 'parameter', 'x', 'density']
    """
    labels = _names(fits, names)
    known = [name for name, one in fits[0].posterior.marginals.items() if one.sd > 0.0]
    chosen = parameter or next((name for name in known if not name.startswith("b_")), known[0])
    if any(chosen not in fit.posterior.marginals for fit in fits):
        raise ValueError(f"parameter={chosen!r} is not one of all fits: choose one of {', '.join(map(repr, known))}.")
    ax, tables = new_axes(ax), []
    for color, name, fit in zip(COLORS * 5, labels, fits, strict=False):
        one = fit.posterior.marginals[chosen]
        low, high = one.quantile([5e-4, 0.9995])
        x = np.linspace(low, high, 400)
        ax.plot(x, one.pdf(x), color=color, label=name)
        tables.append(pd.DataFrame({"fit": name, "parameter": chosen, "x": x, "density": one.pdf(x)}))
    ax.set_ylim(bottom=0.0)
    ax.set_xlabel(chosen)
    ax.set_ylabel("posterior density")
    ax.legend(frameon=False, fontsize="small")
    return with_data(ax, pd.concat(tables, ignore_index=True))


def plot_accuracy(*fits: BayesFit, reference: BayesFit, names: list[str] | None = None, ax: Any = None) -> "Axes":
    """Dots of the accuracy 100 (1 − ½ ∫ |q − p|) of every parameter but the random effects, p that of the reference.

    Parameters
    ----------
    *fits : BayesFit
        Of one model.
    reference : BayesFit
        The exact posterior, `method="quadrature"`.
    names : list of str, optional
    ax : matplotlib Axes, optional

    Examples
    --------
    >>> import matplotlib, numpy as np, pandas as pd, fastlmm_vi as fl
    >>> matplotlib.use("agg")
    >>> df = pd.DataFrame({"g": np.repeat(list("abcdef"), 5), "y": np.random.default_rng(0).normal(size=30)})
    >>> df["y"] += np.repeat([-2, -1, 0, 0, 1, 2], 5)
    >>> fits = [fl.lmm("y ~ 1 + (1 | g)", df, method=method) for method in ("structured-vi", "mfvi", "quadrature")]
    >>> ax = fl.plot_accuracy(*fits[:2], reference=fits[2])
    >>> ax.fastlmm_vi_data.round().iloc[0].to_dict()
    {'fit': 'structured-vi', 'parameter': 'b_Intercept', 'accuracy': 96.0}
    """
    ax, tables = new_axes(ax), []
    for color, name, fit in zip(COLORS * 5, _names(fits, names), fits, strict=False):
        found = accuracies(fit.posterior.marginals, reference.posterior.marginals)
        tables.append(found.reset_index().assign(fit=name)[["fit", "parameter", "accuracy"]])
        ax.plot(found, found.index, "o", color=color, label=name)
    ax.invert_yaxis()
    ax.set_xlim(0.0, 102.0)
    ax.grid(axis="y", lw=0.5, color="0.85")
    ax.set_xlabel("accuracy, %")
    ax.legend(frameon=False, fontsize="small", loc="lower left")
    return with_data(ax, pd.concat(tables, ignore_index=True))


def _names(fits: Sequence[BayesFit | MeanFieldFit], names: list[str] | None) -> list[str]:
    """What fits are called: given, or their methods."""
    if not fits:
        raise ValueError("There is nothing to draw: give at least one fit.")
    return names or default_names(fits)
