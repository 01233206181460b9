"""Pareto-smoothed importance sampling: weights whose largest are replaced by quantiles of a fitted Pareto tail.

Vehtari, Simpson, Gelman, Yao and Gabry (Journal of Machine Learning Research 25(72), 2024); the tail is fitted as by Zhang
and Stephens (Technometrics 51, 2009). Written out rather than taken from ArviZ, whose two generations differ in its name,
its sign, the length of the tail and what they raise: so every method can say how far its draws are to be trusted, without an
optional library.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from .result import Array

FEWEST_IN_TAIL = 5
PRIOR_K, PRIOR_SIZE = 0.5, 10  # pulls k̂ of short tails to 1/2, as heavy as ten observations
SMALLEST = np.log(np.finfo(float).tiny)
LIKE_ZERO = 1e-10  # spread of log ratios below which all weights are equal


class Smoothed(NamedTuple):
    """Normalised importance weights, and how heavy their tail is.

    Attributes
    ----------
    log_weights : ndarray (S,)
        Their exponentials sum to 1.
    k : float
        k̂, the estimated shape of the tail: means have a finite variance below ½, are reliable below `threshold(S)`; −∞ where
        all weights are equal, ∞ where there are too few draws to say.
    log_mean : float
        Log of the mean of the smoothed ratios: the target's integral, where the proposal's is 1.
    """

    log_weights: Array
    k: float
    log_mean: float

    @property
    def ess(self) -> float:
        """Effective number of draws, 1 / Σ w²."""
        return float(np.exp(-logsumexp(2.0 * self.log_weights)))


def smooth(log_ratios: ArrayLike, *, r_eff: float = 1.0) -> Smoothed:
    """Smooth the tail of importance ratios and normalise them.

    Parameters
    ----------
    log_ratios : array-like (S,)
        Log of target over proposal at draws of the proposal, each up to one constant; −∞ where the target is 0.
    r_eff : float, default 1
        Effective over actual number of draws, where these come from a Markov chain.

    Raises
    ------
    ValueError
        If a ratio is NaN or +∞, or none is above 0.

    Examples
    --------
    Draws of a normal distribution weighted as those of a Cauchy distribution, whose tails are too heavy:

    >>> import numpy as np
    >>> from scipy import stats
    >>> from fastlmm_vi import pareto
    >>> x = np.random.default_rng(0).normal(size=4000)
    >>> found = pareto.smooth(stats.cauchy.logpdf(x) - stats.norm.logpdf(x))
    >>> bool(found.k > pareto.threshold(4000))
    True
    """
    ratios = np.asarray(log_ratios, dtype=np.float64)
    if ratios.ndim != 1 or not ratios.size or np.isnan(ratios).any() or not np.isfinite(ratios.max()):
        raise ValueError(
            f"log_ratios has shape {ratios.shape} and a maximum of {ratios.max(initial=-np.inf)}: give one finite number a "
            "draw, −∞ where the target has no density (not everywhere)."
        )
    x = ratios - ratios.max()
    if x.min() > -LIKE_ZERO:
        return Smoothed(np.full(x.size, -np.log(x.size)), -np.inf, float(ratios.mean()))
    count = min(int(np.ceil(min(0.2 * x.size, 3.0 * np.sqrt(x.size / r_eff)))), x.size - 1)
    order = np.argsort(x, kind="stable")
    edge = max(x[order[-count - 1]], SMALLEST)
    tail, cut = order[np.searchsorted(x[order], edge, side="right") :], np.exp(edge)
    k = np.inf
    if len(tail) >= FEWEST_IN_TAIL:
        k, scale = fit_tail(np.exp(x[tail]) - cut)
        if np.isfinite(k):
            levels = (np.arange(len(tail)) + 0.5) / len(tail)
            x[tail] = np.minimum(np.log(cut + tail_quantiles(levels, k, scale)), 0.0)
    total = float(logsumexp(x))
    return Smoothed(x - total, float(k), float(ratios.max()) + total - np.log(x.size))


def threshold(size: int) -> float:
    """k̂ up to which means of this many weighted draws are reliable: min(1 − 1/log₁₀ S, 0.7)."""
    return min(1.0 - 1.0 / np.log10(max(size, 2)), 0.7)


def fit_tail(excess: Array) -> tuple[float, float]:
    """Shape k and scale of the generalised Pareto distribution of these sorted excesses above a threshold.

    The posterior mean under Zhang and Stephens' prior; k is drawn to ½ by a weak prior of its own.
    """
    n = len(excess)
    size = 30 + int(np.sqrt(n))
    quartile = excess[int(n / 4 + 0.5) - 1]
    if not quartile > 0.0:
        return np.inf, np.nan
    b = 1.0 / excess[-1] + (1.0 - np.sqrt(size / (np.arange(size) + 0.5))) / (3.0 * quartile)
    k = np.log1p(-b[:, None] * excess).mean(axis=1)
    loglik = n * (np.log(-b / k) - k - 1.0)
    weights = np.exp(loglik - logsumexp(loglik))
    best = float(b @ weights / weights.sum())
    shape = float(np.log1p(-best * excess).mean())
    return (n * shape + PRIOR_SIZE * PRIOR_K) / (n + PRIOR_SIZE), -shape / best


def tail_quantiles(levels: Array, k: float, scale: float) -> Array:
    """Quantiles of the generalised Pareto distribution."""
    below = -np.log1p(-levels)
    return scale * (below if abs(k) < np.finfo(float).eps else np.expm1(k * below) / k)
