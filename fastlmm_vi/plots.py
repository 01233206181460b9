"""Pictures of fits. Each takes `ax=`, returns the Axes, and leaves the tidy table it drew in `ax.fastlmm_vi_data`."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .canvas import COLORS, new_axes, with_data
from .comparison import as_fit, default_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARAMETERS = {"sigma2_beta": "$\\sigma^2_\\beta$", "sigma2_e": "$\\sigma^2_e$", "pve": "PVE"}


def plot_trace(*fits: object, names: list[str] | None = None, optimum: float | None = None, ax: Any = None) -> "Axes":
    """Log-likelihood (solid) and ELBO (dashed) against iteration, the gap between them shaded.

    Parameters
    ----------
    *fits : Fit or fitted estimator
    names : list of str, optional
    optimum : float, optional
        Draw a horizontal line there, e.g. the maximum of the log-likelihood.
    ax : matplotlib Axes, optional

    Examples
    --------
    >>> import fastlmm_vi as fl, matplotlib
    >>> matplotlib.use("agg")
    >>> data = fl.datasets.make_xyz_twin(n=80, p=200, c=2)
    >>> ax = fl.plot_trace(fl.WideLMM("mfvi", solver="sweep").fit(data.X, data.y, data.Z))
    >>> list(ax.fastlmm_vi_data.columns)
    ['fit', 'iteration', 'loglik', 'elbo', 'gap']
    """
    ax = new_axes(ax)
    tables = []
    for color, (name, fit) in zip(_colors(), _named(fits, names), strict=False):
        table = fit.trace.to_frame()[["iteration", "loglik", "elbo", "gap"]]
        tables.append(table.assign(fit=name)[["fit", "iteration", "loglik", "elbo", "gap"]])
        x = table["iteration"] + 1
        ax.plot(x, table["loglik"], color=color, label=f"{name}: log-likelihood", marker=_marker(table))
        if table["elbo"].notna().any():
            ax.plot(x, table["elbo"], color=color, ls="--", label=f"{name}: ELBO", marker=_marker(table))
            ax.fill_between(x, table["elbo"], table["loglik"], color=color, alpha=0.15, lw=0)
    if optimum is not None:
        ax.axhline(optimum, color="0.4", lw=0.8, ls=":", label="maximum of the log-likelihood")
    data = pd.concat(tables, ignore_index=True)
    _iterations(ax, data)
    ax.set_ylabel("log-likelihood, ELBO" if data["elbo"].notna().any() else "log-likelihood")
    _focus(ax, data)
    ax.legend(frameon=False, fontsize="small", loc="lower right")
    return with_data(ax, data)


def plot_gap(*fits: object, names: list[str] | None = None, ax: Any = None) -> "Axes":
    """Gap = log-likelihood − ELBO = KL(q ‖ posterior) against iteration, on a logarithmic scale.

    Parameters
    ----------
    *fits : Fit or fitted estimator
        With an ELBO; others are refused.
    names : list of str, optional
    ax : matplotlib Axes, optional
    """
    ax = new_axes(ax)
    tables = []
    for color, (name, fit) in zip(_colors(), _named(fits, names), strict=False):
        if fit.gap is None:
            raise ValueError(f"{name} has no ELBO of the log-likelihood: only variational fits of WideLMM have a gap.")
        table = fit.trace.to_frame()[["iteration", "gap"]].assign(fit=name)
        tables.append(table[["fit", "iteration", "gap"]])
        ax.plot(table["iteration"] + 1, table["gap"], color=color, label=name, marker=_marker(table))
    data = pd.concat(tables, ignore_index=True)
    _iterations(ax, data)
    if (data["gap"] > 0).any():
        ax.set_yscale("log")
    ax.set_ylabel("gap = KL(q ‖ posterior), nats")
    ax.legend(frameon=False, fontsize="small")
    return with_data(ax, data)


def plot_variance_path(*fits: object, names: list[str] | None = None, ax: Any = None) -> "Axes":
    """σ²_β (solid) and σ²_e (dashed) against iteration.

    Parameters
    ----------
    *fits : Fit or fitted estimator
    names : list of str, optional
    ax : matplotlib Axes, optional
    """
    ax = new_axes(ax)
    tables = []
    for color, (name, fit) in zip(_colors(), _named(fits, names), strict=False):
        table = fit.trace.to_frame()[["iteration", "sigma2_beta", "sigma2_e"]].assign(fit=name)
        tables.append(table[["fit", "iteration", "sigma2_beta", "sigma2_e"]])
        x, marker = table["iteration"] + 1, _marker(table)
        ax.plot(x, table["sigma2_beta"], color=color, marker=marker, label=f"{name}: $\\sigma^2_\\beta$")
        ax.plot(x, table["sigma2_e"], color=color, marker=marker, ls="--", label=f"{name}: $\\sigma^2_e$")
    data = pd.concat(tables, ignore_index=True)
    _iterations(ax, data)
    ax.set_ylabel("variance")
    ax.legend(frameon=False, fontsize="small")
    return with_data(ax, data)


def plot_omega(*fits: object, names: list[str] | None = None, level: float = 0.95, ax: Any = None) -> "Axes":
    """Fixed effects with confidence intervals, the fits side by side.

    Parameters
    ----------
    *fits : Fit or fitted estimator
    names : list of str, optional
    level : float, default 0.95
    ax : matplotlib Axes, optional
    """
    from scipy.stats import norm

    ax = new_axes(ax)
    z = norm.ppf(0.5 + level / 2)
    named = _named(fits, names)
    tables = []
    for k, (color, (name, fit)) in enumerate(zip(_colors(), named, strict=False)):
        table = fit.to_frame().iloc[:-3].reset_index()
        table = table.assign(
            fit=name, lower=table["estimate"] - z * table["se"], upper=table["estimate"] + z * table["se"]
        )
        tables.append(table[["fit", "parameter", "estimate", "lower", "upper"]])
        x = np.arange(len(table)) + 0.7 * ((k + 0.5) / len(named) - 0.5)
        ax.errorbar(x, table["estimate"], yerr=z * table["se"], fmt="o", ms=3, lw=1, color=color, label=name)
    data = pd.concat(tables, ignore_index=True)
    labels = list(dict.fromkeys(data["parameter"]))
    ax.set_xticks(np.arange(len(labels)), labels, rotation=90, fontsize="small")
    ax.axhline(0.0, color="0.6", lw=0.8)
    ax.set_ylabel(f"fixed effect, {level:.0%} interval")
    ax.margins(y=0.15)
    ax.legend(frameon=False, fontsize="small", loc="upper left", ncols=len(named))
    return with_data(ax, data)


def plot_compare(fit_a: object, fit_b: object, names: list[str] | None = None, ax: Any = None) -> "Axes":
    """Posterior means of β of one fit against another's, with the line of equality.

    Parameters
    ----------
    fit_a, fit_b : Fit or fitted estimator
        Of the same features; `fit_a` on the horizontal axis.
    names : list of str, optional
    ax : matplotlib Axes, optional
    """
    ax = new_axes(ax)
    (name_a, a), (name_b, b) = _named((fit_a, fit_b), names)
    data = pd.DataFrame({"a": a.beta_mean, "b": b.beta_mean})
    ax.scatter(data["a"], data["b"], s=3, alpha=0.4, color=COLORS[0], linewidths=0, rasterized=True)
    ends = [float(data.min().min()), float(data.max().max())]
    ax.plot(ends, ends, color="0.4", lw=0.8)
    ax.set_xlabel(f"E[$\\beta_j$], {name_a}")
    ax.set_ylabel(f"E[$\\beta_j$], {name_b}")
    if data["a"].any() and data["b"].any():
        rmse = np.sqrt(((data["a"] - data["b"]) ** 2).mean())
        text = f"correlation {np.corrcoef(a.beta_mean, b.beta_mean)[0, 1]:.6f}\nRMSE {rmse:.3g}"
        ax.text(0.05, 0.95, text, transform=ax.transAxes, va="top", fontsize="small")
    return with_data(ax, data.set_axis([name_a, name_b], axis=1))


def plot_variances(fit_a: object, fit_b: object, names: list[str] | None = None, ax: Any = None) -> "Axes":
    """Histogram of Var(β_j) of the second fit over the first's: below 1, the second is overconfident.

    Parameters
    ----------
    fit_a, fit_b : Fit or fitted estimator
    names : list of str, optional
    ax : matplotlib Axes, optional
    """
    ax = new_axes(ax)
    (name_a, a), (name_b, b) = _named((fit_a, fit_b), names)
    if not a.beta_var.all():
        raise ValueError(f"{name_a} has Var(β_j) = 0 (σ²_β = 0): no ratio to it exists.")
    ratio = b.beta_var / a.beta_var
    ax.hist(ratio, bins=60, color=COLORS[0], alpha=0.8, label=f"mean {ratio.mean():.4g}")
    if np.ptp(ratio) > 0.1 * abs(1.0 - ratio.mean()):
        ax.axvline(1.0, color="0.4", lw=0.8, label="equal")
    ax.set_xlabel(f"Var($\\beta_j$), {name_b} / {name_a}")
    ax.set_ylabel("features")
    ax.legend(frameon=False, fontsize="small")
    return with_data(ax, pd.DataFrame({"ratio": ratio}))


def plot_marginals(
    *fits: object, parameter: str = "sigma2_beta", names: list[str] | None = None, ax: Any = None
) -> "Axes":
    """Posterior densities of a variance or of PVE, q against the exact one; fits without a posterior as lines.

    Parameters
    ----------
    *fits : Fit or fitted estimator
        Of `BayesWideLMM`, where `parameter` has a density, or `WideLMM`, drawn at the estimate.
    parameter : {"sigma2_beta", "sigma2_e", "pve"}, default "sigma2_beta"
    names : list of str, optional
    ax : matplotlib Axes, optional
    """
    if parameter not in PARAMETERS:
        raise ValueError(f"parameter={parameter!r} is not known: choose {', '.join(map(repr, PARAMETERS))}.")
    ax = new_axes(ax)
    tables, ends, heights = [], [], []
    for color, (name, fit) in zip(_colors(), _named(fits, names), strict=False):
        density = None if fit.theta is None else fit.theta.densities.get(parameter)
        if density is None:
            x, height = np.array([getattr(fit, parameter)]), np.array([np.nan])
            ax.axvline(x[0], color=color, ls="--", lw=1.0, label=name)
            ends.append((x[0], x[0]))
        else:
            x, height = density.x, density.density
            inside = (density.cdf > 5e-4) & (density.cdf < 1.0 - 5e-4)  # at 0 a density of σ² may have no bound
            ax.plot(x[inside], height[inside], color=color, label=name)
            ends.append(tuple(fit.theta.quantile(parameter, [0.001, 0.999])))
            heights.append(height[(density.cdf > 0.01) & (density.cdf < 0.99)].max())
        tables.append(pd.DataFrame({"fit": name, "parameter": parameter, "x": x, "density": height}))
    lo, hi = min(end for end, _ in ends), max(end for _, end in ends)
    if hi > lo:
        ax.set_xlim(lo - 0.03 * (hi - lo), hi + 0.03 * (hi - lo))
    if heights:
        ax.set_ylim(0.0, 1.1 * max(heights))
    ax.set_xlabel(PARAMETERS[parameter])
    ax.set_ylabel("posterior density")
    ax.legend(frameon=False, fontsize="small")
    return with_data(ax, pd.concat(tables, ignore_index=True))


def _named(fits: tuple[object, ...], names: list[str] | None) -> list[tuple[str, Any]]:
    results = [as_fit(fit) for fit in fits]
    if not results:
        raise ValueError("There is nothing to draw: give at least one fit.")
    return list(zip(names or default_names(results), results, strict=True))


def _colors() -> list[str]:
    return COLORS * 5


def _marker(table: pd.DataFrame) -> str | None:
    return "." if len(table) < 50 else None


def _iterations(ax: Any, data: pd.DataFrame) -> None:
    """Iterations on a logarithmic axis (shifted by one, to show the start) where there are many, else whole numbers."""
    if data["iteration"].max() >= 50:
        ax.set_xscale("log")
    else:
        ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("iteration, the start being 1")


def _focus(ax: Any, data: pd.DataFrame) -> None:
    """Leave the steep first third of the (logarithmic) iterations below the picture."""
    late = data[np.log(data["iteration"] + 1) >= 0.3 * np.log(data["iteration"].max() + 1)]
    values = late[["loglik", "elbo"]].to_numpy().ravel()
    values = values[np.isfinite(values)]
    height = max(float(np.ptp(values)), 1e-6)
    ax.set_ylim(values.min() - 0.05 * height, values.max() + 0.1 * height)
    ax.ticklabel_format(axis="y", useOffset=False)
