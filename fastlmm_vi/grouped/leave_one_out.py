"""Leave-one-out predictive densities of the grouped model, all effects integrated out, in closed form at every draw.

Given φ the linear predictors η_i = x_iᵀβ + Σ_l z_ilᵀb_l are normal a posteriori, with means m_i and variances s_i². To take
y_i ~ N(η_i, v_i) away again gives, with h_i = s_i²/v_i,

    p(y_i | y_−i, φ) = N(y_i − m_i; 0, v_i (1 − h_i)) / (1 − h_i):   y_i − E[η_i | y_−i] = (y_i − m_i)/(1 − h_i),
    variance v_i/(1 − h_i).

Weights ∝ 1 / p(y_i | y_−i, φ) then turn draws of φ | y into draws of φ | y_−i (Vehtari, Mononen, Tolvanen, Sivula and
Winther, Journal of Machine Learning Research 17, 2016): importance sampling of a few variance parameters only.
"""

from collections.abc import Iterator

import numpy as np
from scipy.special import logsumexp

from .. import elpd
from ..elpd import Elpd
from ..result import Array
from .likelihood import LOG_2PI
from .posterior import Posterior

LARGEST = 100_000_000  # observations times draws of which densities are kept
AT_A_TIME = 1_000_000  # predictors
MOST_LEVERAGE = 1.0 - 1e-12


def left_out(posterior: Posterior, phis: Array, log_weights: Array, weights: Array | None = None) -> Elpd:
    """Leave every observation out, by weighted draws φ (S, k) whose ratios are smoothed, or by nodes of an integral.

    Parameters
    ----------
    posterior : Posterior
    phis : ndarray (S, k)
    log_weights : ndarray (S,)
        Of draws.
    weights : ndarray (S,), optional
        Of nodes, in place of them.

    Raises
    ------
    ValueError
        If observations times draws are more than 10⁸.
    """
    without, within = Predictors(posterior).log_densities(phis)
    log_weights = log_weights if weights is None else np.log(weights)
    within = logsumexp(within + (log_weights - logsumexp(log_weights))[:, None], axis=0)
    return elpd.loo(without, log_weights=log_weights, within=within, nodes=weights is not None)


class Predictors:
    """Means and variances of all linear predictors given φ and y."""

    def __init__(self, posterior: Posterior) -> None:
        weights = posterior.data.design.weights
        self.posterior = posterior
        self.weights = np.ones(len(posterior.data.design.y)) if weights is None else weights

    def log_densities(self, phis: Array) -> tuple[Array, Array]:
        """Return log p(y_i | y_−i, φ), and log p(new y_i | y, φ) at y_i, at rows of φ, (S, N) each.

        Raises
        ------
        ValueError
            If these are more than 10⁸ numbers.
        """
        y, shape = self.posterior.data.design.y, (len(phis), len(self.weights))
        if shape[0] * shape[1] > LARGEST:
            raise ValueError(
                f"Leave-one-out keeps a density of all {shape[1]} observations at {shape[0]} draws, and is made for up to "
                f"{LARGEST} in all: compare models by their log evidence (method='laplace-is'), or leave out whole groups "
                "and refit."
            )
        without, within = np.empty(shape), np.empty(shape)
        for s, (phi, moments) in enumerate(zip(phis, self.moments(phis), strict=True)):
            without[s], within[s] = _log_densities(y, *moments, self.posterior.scales(phi).sigma ** 2 / self.weights)
        return without, within

    def moments(self, phis: Array) -> Iterator[tuple[Array, Array]]:
        """Means and variances of η (N,) at rows of φ."""
        size = max(AT_A_TIME // len(self.weights), 1)
        for start in range(0, len(phis), size):
            yield from zip(*self.posterior.recovery.predictors(phis[start : start + size]), strict=True)


def _log_densities(y: Array, mean: Array, variance: Array, v: Array) -> tuple[Array, Array]:
    """Of y_i without, and with, what it says itself."""
    left = 1.0 - np.minimum(variance / v, MOST_LEVERAGE)
    squares = (y - mean) ** 2
    without = -0.5 * (LOG_2PI + np.log(v / left) + squares / (v * left))
    return without, -0.5 * (LOG_2PI + np.log(v + variance) + squares / (v + variance))
