"""Marginals of what other software returns: a normal distribution of coordinates without bounds."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.special import logsumexp

from ..grouped.marginals import LineMarginal, Marginal
from ..mixtures import Mixtures
from ..result import Array

LOG_2PI = float(np.log(2.0 * np.pi))
WIDE, POINTS = 12.0, 4001  # of the line on which the other coordinate is integrated out


def normal(mean: float, sd: float) -> Marginal:
    """Of a number that is normal itself."""
    return Mixtures(np.ones(1), np.array([[mean]]), np.array([[sd]]))[0]


def log_normal(mean: float, sd: float) -> Marginal:
    """Of a number whose logarithm is normal."""
    return LineMarginal(lambda t: -0.5 * ((t - mean) / sd) ** 2, mean)


def of_root(mean: Sequence[float], cov: Sequence[Sequence[float]]) -> tuple[Marginal, Marginal, Marginal]:
    """Two standard deviations and their correlation, where (log l₁₁, l₂₁, log l₂₂) of the triangular root is normal.

    With t = log s₂ and w = artanh r, l₂₁ = eᵗ tanh w and l₂₂ = eᵗ / cosh w, whose Jacobian is eᵗ.
    """
    center, V = np.array(mean[1:]), np.array(cov)[1:, 1:]
    P = np.linalg.inv(V)

    def log_joint(t: Array, w: Array) -> Array:
        log_cosh = np.logaddexp(w, -w) - np.log(2.0)
        with np.errstate(over="ignore"):
            a, b = np.exp(t) * np.tanh(w) - center[0], t - log_cosh - center[1]
            return -0.5 * (P[0, 0] * a * a + 2.0 * P[0, 1] * a * b + P[1, 1] * b * b) + t

    largest = float(np.hypot(center[0], np.exp(center[1])))
    at_t, at_w = float(np.log(largest)), float(np.arcsinh(center[0] * np.exp(-center[1])))
    over_w = partial(_summed, log_joint, at_w)
    over_t = partial(_summed, lambda w, t: log_joint(t, w), at_t)
    first = log_normal(mean[0], float(np.sqrt(cov[0][0])))
    return first, LineMarginal(over_w, at_t), LineMarginal(over_t, at_w, bounded=True)


def _summed(log_joint: Any, centre: float, kept: Array) -> Array:
    """Log of the integral of the density over the other coordinate, up to a constant."""
    other = centre + np.linspace(-WIDE, WIDE, POINTS)
    return np.array([logsumexp(log_joint(x, other)) for x in np.ravel(kept)]).reshape(np.shape(kept))


def marginals(answer: Mapping[str, Any], terms: Sequence[tuple[str, tuple[str, ...]]]) -> dict[str, Marginal]:
    """Return the marginals of an answer of `pymc_script` by brms' names."""
    found = {name: normal(*at) for name, at in answer["normal"].items()}
    found |= {name: log_normal(*at) for name, at in answer["log_normal"].items()}
    if answer["root"] is not None:
        ((group, (one, two)),) = terms
        names = f"sd_{group}__{one}", f"sd_{group}__{two}", f"cor_{group}__{one}__{two}"
        found |= dict(zip(names, of_root(**answer["root"]), strict=True))
    return found
