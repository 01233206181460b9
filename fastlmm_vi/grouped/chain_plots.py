"""Pictures of Markov chains. Each takes `ax=`, returns the Axes, and leaves its tidy table in `ax.fastlmm_vi_data`."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import NDArray

from ..canvas import COLORS, new_axes, with_data
from ..result import Array
from ..sampler import Chains
from .sampled_result import SampledFit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 20


def plot_ranks(fit: SampledFit, parameter: str = "sigma", *, ax: Any = None) -> "Axes":
    """Histograms of the ranks of every chain's draws among all: level where the chains agree.

    Vehtari, Gelman, Simpson, Carpenter and Bürkner (Bayesian Analysis 16, 2021).

    Parameters
    ----------
    fit : SampledFit
        By NUTS.
    parameter : str, default "sigma"
        Any but the random effects, by its name in `to_frame`.
    ax : matplotlib Axes, optional
    """
    draws = _draws(fit, parameter)
    ranks = scipy.stats.rankdata(draws).reshape(draws.shape)
    edges = np.linspace(0.5, draws.size + 0.5, BINS + 1)
    ax, tables = new_axes(ax), []
    for chain, own in enumerate(ranks):
        counts = np.histogram(own, edges)[0]
        ax.stairs(counts, edges, color=COLORS[chain % len(COLORS)], label=f"chain {chain}")
        tables.append(pd.DataFrame({"chain": chain, "rank": 0.5 * (edges[:-1] + edges[1:]), "count": counts}))
    ax.axhline(draws.shape[1] / BINS, color="0.4", lw=0.8, ls=":")
    ax.set_ylim(bottom=0.0)
    ax.set_xlabel(f"rank of {parameter}")
    ax.set_ylabel("draws")
    ax.legend(frameon=False, fontsize="small", ncols=2)
    return with_data(ax, pd.concat(tables, ignore_index=True))


def plot_chains(fit: SampledFit, parameter: str = "sigma", *, ax: Any = None) -> "Axes":
    """Draws of every chain one after the other; divergent ones marked below.

    Parameters are those of `plot_ranks`.
    """
    draws, diverging = _draws(fit, parameter), _diverging(fit)
    ax, tables = new_axes(ax), []
    for chain, own in enumerate(draws):
        ax.plot(own, color=COLORS[chain % len(COLORS)], lw=0.5, label=f"chain {chain}")
        table = {"chain": chain, "draw": np.arange(own.size), parameter: own, "diverging": diverging[chain]}
        tables.append(pd.DataFrame(table))
    data = pd.concat(tables, ignore_index=True)
    wrong = data["draw"][data["diverging"]]
    ax.plot(wrong, np.full(len(wrong), draws.min()), "|", color="black", ms=8)
    ax.set_xlabel("draw")
    ax.set_ylabel(parameter)
    ax.legend(frameon=False, fontsize="small", ncols=2)
    return with_data(ax, data)


def plot_pairs(fit: SampledFit, x: str, y: str, *, log: bool = False, ax: Any = None) -> "Axes":
    """Draws of two parameters against each other; divergent ones stand out where the posterior is too narrow for the steps.

    Parameters
    ----------
    fit : SampledFit
        By NUTS.
    x, y : str
        Any but the random effects, by their names in `to_frame`.
    log : bool, default False
        Whether y has a logarithmic axis: the neck of a funnel.
    ax : matplotlib Axes, optional
    """
    data = pd.DataFrame({x: _draws(fit, x).ravel(), y: _draws(fit, y).ravel()})
    data["diverging"] = _diverging(fit).ravel()
    ax = new_axes(ax)
    for kind, style in ((False, {"color": COLORS[0], "alpha": 0.3}), (True, {"color": COLORS[1]})):
        part = data[data["diverging"] == kind]
        ax.plot(part[x], part[y], ".", ms=6 if kind else 3, label="divergent" if kind else "draws", **style)
    if log:
        ax.set_yscale("log")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.legend(frameon=False, fontsize="small")
    return with_data(ax, data)


def _draws(fit: SampledFit, parameter: str) -> Array:
    """Draws (chains, draws) of a parameter, those at which effects are recovered."""
    found = fit.posterior
    if not isinstance(found.run, Chains):
        raise ValueError(f"A fit by method={fit.method!r} has no chains: fit by method='nuts'.")
    if parameter in found.variances:
        return found.variances[parameter][:, found.kept.places]
    if parameter not in found.fixed_names:
        known = [*found.fixed_names, *found.variances]
        raise ValueError(f"{parameter!r} is not in this model, or a random effect: choose one of {', '.join(known)}.")
    return found.fixed.draws[:, found.fixed_names.index(parameter)].reshape(found.kept.phi.shape[:2])


def _diverging(fit: SampledFit) -> NDArray[np.bool_]:
    """Which of them diverged."""
    run = fit.posterior.run
    return run.stats["diverging"][:, fit.posterior.kept.places] if isinstance(run, Chains) else np.zeros((0, 0), bool)
