"""Expected log predictive density of new observations, from the log-likelihood of every observation at every draw.

Vehtari, Gelman and Gabry (Statistics and Computing 27, 2017).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from . import pareto
from .result import Array


@dataclass(frozen=True, kw_only=True)
class Elpd:
    """Expected log pointwise predictive density for new data.

    Attributes
    ----------
    method : {"loo", "waic"}
    elpd, se : float
        Sum over the observations, and its standard error.
    p : float
        Effective number of parameters.
    pointwise : ndarray (n,)
        Each observation's part of `elpd`.
    k : ndarray (n,) or None
        Pareto k̂ of leaving each observation out; None for WAIC, and where nothing is sampled.
    threshold : float or None
        Largest k̂ at which its part can be relied on.
    unreliable : int
        Observations with a k̂ above it (WAIC: with a posterior variance of the log density above 0.4).
    """

    method: str
    elpd: float
    se: float
    p: float
    pointwise: Array
    k: Array | None
    threshold: float | None
    unreliable: int

    @property
    def reliable(self) -> bool:
        """Whether every observation's part can be relied on."""
        return self.unreliable == 0

    def __str__(self) -> str:
        text = f"elpd ({self.method}) {self.elpd:.2f}, se {self.se:.2f}; effective parameters {self.p:.2f}"
        if self.unreliable:
            text += f"; not reliable at {self.unreliable} of {len(self.pointwise)} observations"
        return text


def loo(
    log_likelihood: ArrayLike,
    *,
    log_weights: ArrayLike | None = None,
    r_eff: float = 1.0,
    within: Array | None = None,
    nodes: bool = False,
) -> Elpd:
    """Leave-one-out cross-validation by Pareto-smoothed importance sampling.

    Parameters
    ----------
    log_likelihood : array-like (draws, n)
        log p(y_i | draw).
    log_weights : array-like (draws,), optional
        Of the draws, where they are weighted.
    r_eff : float, default 1
        Effective over actual number of draws, where these come from a Markov chain.
    within : ndarray (n,), optional
        Log predictive density of every observation with itself in the data, for `p`; default that of the draws.
    nodes : bool, default False
        Whether the draws are nodes of an integral, whose weights are not smoothed.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import stats
    >>> from fastlmm_vi.elpd import loo
    >>> rng = np.random.default_rng(0)
    >>> y = rng.normal(size=50)
    >>> draws = rng.normal(y.mean(), 1 / np.sqrt(50), size=4000)
    >>> found = loo(stats.norm.logpdf(y, draws[:, None]))
    >>> found.reliable, bool(0.5 < found.p < 1.5)
    (True, True)
    """
    values, weights = _checked(log_likelihood, log_weights)
    if nodes:
        return _of("loo", values, weights, -logsumexp(weights[:, None] - values, axis=0), None, None, 0, within)
    pointwise, k = np.empty(values.shape[1]), np.empty(values.shape[1])
    for i, column in enumerate(values.T):
        smoothed = pareto.smooth(weights - column, r_eff=r_eff)
        pointwise[i], k[i] = logsumexp(smoothed.log_weights + column), smoothed.k
    limit = pareto.threshold(len(values))
    return _of("loo", values, weights, pointwise, k, limit, int((k > limit).sum()), within)


def waic(log_likelihood: ArrayLike, *, log_weights: ArrayLike | None = None) -> Elpd:
    """Watanabe's widely applicable information criterion, on the scale of log densities; arguments as for `loo`."""
    values, weights = _checked(log_likelihood, log_weights)
    w = np.exp(weights)[:, None]
    mean = (w * values).sum(axis=0)
    variance = (w * (values - mean) ** 2).sum(axis=0) / (1.0 - (w**2).sum())
    pointwise = logsumexp(values + weights[:, None], axis=0) - variance
    return _of("waic", values, weights, pointwise, None, None, int((variance > 0.4).sum()))


def _checked(log_likelihood: ArrayLike, log_weights: ArrayLike | None) -> tuple[Array, Array]:
    values = np.asarray(log_likelihood, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(
            f"log_likelihood has shape {values.shape}, finite: {bool(np.isfinite(values).all())}: give a finite log density "
            "for every draw (rows, two or more) and observation (columns)."
        )
    weights = np.zeros(len(values)) if log_weights is None else np.asarray(log_weights, dtype=np.float64)
    if weights.shape != values.shape[:1]:
        raise ValueError(f"log_weights has shape {weights.shape}: give one for each of the {len(values)} draws.")
    return values, weights - logsumexp(weights)


def _of(
    method: str,
    values: Array,
    weights: Array,
    pointwise: Array,
    k: Array | None,
    limit: float | None,
    bad: int,
    within: Array | None = None,
) -> Elpd:
    within = logsumexp(values + weights[:, None], axis=0) if within is None else within
    n = len(pointwise)
    return Elpd(
        method=method,
        elpd=float(pointwise.sum()),
        se=float(np.sqrt(n * pointwise.var())),
        p=float((within - pointwise).sum()),
        pointwise=pointwise,
        k=k,
        threshold=limit,
        unreliable=bad,
    )
