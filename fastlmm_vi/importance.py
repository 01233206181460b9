"""Importance sampling of a log density from a split Student t around its mode.

Geweke (Econometrica 57, 1989): along every axis through the mode the t has one scale to the left and another to the right,
each as wide as the density asks for.
"""

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from . import pareto
from .convergence import FEWEST_DRAWS
from .errors import ConvergenceWarning
from .laplace import Laplace
from .log_density import LogDensity
from .result import Array, Status

# Where scales are sought, in standard deviations: so far that exponential tails (of a log standard deviation that may be 0)
# have fallen below those of the t for good.
REACH = np.array([0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 14.0, 17.0, 20.0])
NARROWEST, WIDEST = 0.5, 20.0


@dataclass(frozen=True, eq=False)
class SplitT:
    """x = center + root η, η_i = s_i^± t_i, t a standard multivariate Student t.

    Attributes
    ----------
    center : ndarray (k,)
    root : ndarray (k, k)
    scales : ndarray (2, k)
        s to the left and to the right.
    df : float
    """

    center: Array
    root: Array
    scales: Array
    df: float

    def draw(self, rng: np.random.Generator, size: int) -> Array:
        """Draws, (size, k)."""
        t = rng.standard_normal((size, len(self.center)))
        t /= np.sqrt(rng.chisquare(self.df, size) / self.df)[:, None]
        return self.center + (t * np.where(t < 0.0, *self.scales)) @ self.root.T

    def log_density(self, x: Array) -> Array:
        """Normalised log density at rows of x (size, k)."""
        k, df = len(self.center), self.df
        eta = np.linalg.solve(self.root, (x - self.center).T).T
        scale = np.where(eta < 0.0, *self.scales)
        constant = gammaln(0.5 * (df + k)) - gammaln(0.5 * df) - 0.5 * k * np.log(df * np.pi)
        constant -= np.linalg.slogdet(self.root)[1]
        return constant - np.log(scale).sum(axis=1) - 0.5 * (df + k) * np.log1p(((eta / scale) ** 2).sum(axis=1) / df)


def split_t(density: LogDensity, normal: Laplace, *, df: float = 7.0) -> SplitT:
    """The split t as wide along every half axis as the density is: the t falls below it nowhere on the axis, up to 20 sd."""
    k = len(normal.mode)
    scales = np.empty((2, k))
    for i in range(k):
        for side, sign in enumerate((-1.0, 1.0)):
            values = [density.logp(normal.mode + sign * step * normal.root[:, i]) for step in REACH]
            drop = np.maximum(normal.log_density - np.array(values), 1e-6)
            with np.errstate(over="ignore"):
                asked = REACH / np.sqrt(df * np.expm1(2.0 * drop / (df + k)))
            scales[side, i] = np.clip(asked.max(), NARROWEST, WIDEST)
    return SplitT(normal.mode, normal.root, scales, df)


@dataclass(frozen=True, eq=False)
class WeightedDraws:
    """Draws with weights, whose expectations are those of the density.

    Attributes
    ----------
    draws : ndarray (S, k)
    log_weights : ndarray (S,)
        Pareto-smoothed; their exponentials sum to 1.
    k : float
        Pareto k̂ of the weights.
    log_evidence, log_evidence_se : float
        Log integral of the density, and its Monte-Carlo error.
    status : Status
        CONVERGED, HEAVY_WEIGHTS where k̂ is above its threshold, or FEW_DRAWS where the effective number is below 400.
    """

    draws: Array
    log_weights: Array
    k: float
    log_evidence: float
    log_evidence_se: float
    status: Status

    @property
    def converged(self) -> bool:
        """Whether the weights are reliable."""
        return self.status.converged

    @property
    def ess(self) -> float:
        """Effective number of draws, 1 / Σ w²."""
        return float(1.0 / (self.weights**2).sum())

    @cached_property
    def weights(self) -> Array:
        """Of the draws, (S,); they sum to 1."""
        return np.exp(self.log_weights)

    @property
    def mean(self) -> Array:
        """Means, (k,)."""
        return self.weights @ self.draws

    @property
    def sd(self) -> Array:
        """Standard deviations, (k,)."""
        return np.sqrt(self.weights @ (self.draws - self.mean) ** 2)

    def mcse(self, values: Array) -> Array:
        """Monte-Carlo error of the weighted mean of values (S, …) at the draws."""
        return np.sqrt(np.tensordot(self.weights**2, (values - np.tensordot(self.weights, values, 1)) ** 2, 1))

    def resample(self, rng: np.random.Generator, size: int) -> NDArray[np.int64]:
        """Indices (size,) of unweighted draws, by systematic resampling: each is taken size · w times, up to one."""
        places = (np.arange(size) + rng.random()) / size
        chosen = np.searchsorted(np.cumsum(self.weights), places)
        return rng.permutation(np.minimum(chosen, len(self.weights) - 1))


def importance(
    density: LogDensity,
    normal: Laplace,
    *,
    draws: int = 4000,
    df: float = 7.0,
    random_state: int | np.random.Generator | None = None,
) -> WeightedDraws:
    """Weighted draws of a density from the split t around its mode.

    Parameters
    ----------
    density : LogDensity
    normal : Laplace
        Of the same density (`laplace.laplace`).
    draws : int, default 4000
    df : float, default 7
        Degrees of freedom of the t.
    random_state : int, Generator or None

    Warns
    -----
    ConvergenceWarning
        If Pareto's k̂ is above its threshold, so that the weighted draws are not to be relied on, or they are effectively
        fewer than 400.

    Examples
    --------
    The logarithm of a Gamma variable, skewed; its density integrates to Γ(3) = 2:

    >>> import numpy as np
    >>> from fastlmm_vi.importance import importance
    >>> from fastlmm_vi.laplace import laplace
    >>> from fastlmm_vi.log_density import Differenced
    >>> density = Differenced(lambda x: 3.0 * x[0] - np.exp(x[0]), ["x"])
    >>> found = importance(density, laplace(density, [0.0]), random_state=0)
    >>> bool(abs(found.log_evidence - np.log(2.0)) < 4 * found.log_evidence_se), found.status.value
    (True, 'converged')
    """
    if draws < 100:
        raise ValueError(f"draws={draws}: a hundred at least are needed to judge the weights.")
    rng = np.random.default_rng(random_state)
    proposal = split_t(density, normal, df=df)
    x = proposal.draw(rng, draws)
    log_p = np.array([density.logp(one) for one in x])
    found = pareto.smooth(log_p - proposal.log_density(x))
    limit = pareto.threshold(draws)
    status = Status.CONVERGED
    if found.k > limit:
        status, figure = Status.HEAVY_WEIGHTS, f"Pareto k̂ {found.k:.2f}, threshold {limit:.2f}"
    elif found.ess < FEWEST_DRAWS:
        status, figure = Status.FEW_DRAWS, f"{found.ess:.0f}"
    if status is not Status.CONVERGED:
        warnings.warn(f"{status.advice} ({figure})", ConvergenceWarning, stacklevel=2)
    return WeightedDraws(
        draws=x,
        log_weights=found.log_weights,
        k=found.k,
        log_evidence=found.log_mean,
        log_evidence_se=float(np.sqrt(max(1.0 / found.ess - 1.0 / draws, 0.0))),
        status=status,
    )
