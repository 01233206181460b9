"""The mode of a log density and the normal distribution of its curvature there."""

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from .errors import ConvergenceWarning, IntegrationError
from .log_density import LogDensity
from .result import Array

LOG_2PI = float(np.log(2.0 * np.pi))
STEP = 1e-3  # of differences of the gradient, in standard deviations
LONGEST = 5.0  # step in standard deviations of the curvature
LEAST_CURVED = 1e-8  # of the axes of curvature, in units of those of the coordinates
TINY = 1e-300
FARTHEST = 1e10  # the mode from the start, in units of the start or of 1


@dataclass(frozen=True, eq=False)
class Laplace:
    """The normal approximation N(mode, H⁻¹), H the negative Hessian of the log density at its mode.

    Attributes
    ----------
    mode : ndarray (k,)
    log_density : float
        There.
    precision : ndarray (k, k)
        H.
    converged : bool
        Whether half the squared Newton step in standard deviations, ½ gᵀH⁻¹g, is below the tolerance.
    evaluations : int
        Of the gradient.
    """

    mode: Array
    log_density: float
    precision: Array
    converged: bool
    evaluations: int

    @cached_property
    def covariance(self) -> Array:
        """H⁻¹, (k, k)."""
        return self.root @ self.root.T

    @cached_property
    def root(self) -> Array:
        """D R^½ of the covariance D R D with correlations R, (k, k): its columns stay near the coordinate axes."""
        covariance = np.linalg.inv(self.precision)
        sd = np.sqrt(np.diag(covariance))
        values, vectors = np.linalg.eigh(covariance / np.outer(sd, sd))
        return sd[:, None] * ((vectors * np.sqrt(values)) @ vectors.T)

    @property
    def log_evidence(self) -> float:
        """Laplace's approximation of the log integral of the density."""
        return float(self.log_density + 0.5 * len(self.mode) * LOG_2PI + np.log(np.abs(np.linalg.det(self.root))))


def laplace(density: LogDensity, start: ArrayLike, *, tol: float = 1e-8, max_iter: int = 200) -> Laplace:
    """Find the mode by Newton's method and the curvature there.

    The Hessian is made of central differences of the gradient, 2 k of them; negative curvatures are turned, steps limited to
    five standard deviations and halved until the density rises.

    Parameters
    ----------
    density : LogDensity
    start : array-like (k,)
    tol : float, default 1e-8
        Of ½ gᵀH⁻¹g, by which the log density may still rise.
    max_iter : int, default 200

    Raises
    ------
    ValueError
        If `start` has the wrong size or no density.
    IntegrationError
        If the density has no curved mode: it rises without end, or is flat.

    Warns
    -----
    ConvergenceWarning
        If the mode was not reached.
    """
    x = np.array(start, dtype=np.float64)
    if x.shape != (density.dim,):
        raise ValueError(f"start has shape {x.shape}: give one value for each of {', '.join(density.names)}.")
    counted = _Counted(density)
    value, gradient = counted(x)
    if not np.isfinite(value) or not np.isfinite(gradient).all():
        raise ValueError("The density is 0, or has no gradient, at start: start where it has.")
    widths, gain = np.maximum(np.abs(x), 1.0), np.inf
    for _ in range(max_iter):
        H = _curvature(counted, x, widths)
        unit = 1.0 / np.sqrt(np.maximum(np.abs(np.diag(H)), TINY))
        values, vectors = np.linalg.eigh(H * np.outer(unit, unit))
        bent = np.maximum(np.abs(values), LEAST_CURVED)
        step = unit * (vectors @ ((vectors.T @ (unit * gradient)) / bent))
        gain = 0.5 * float(step @ gradient)
        if gain <= tol and values[0] > 0.0:
            return Laplace(x, value, H, True, counted.count)
        step *= min(1.0, LONGEST / np.sqrt(2.0 * gain)) if gain > 0.0 else 1.0
        widths = np.minimum(unit, 1e3 * np.maximum(np.abs(x), 1.0))
        rise = _rise(counted, x, value, step, gain)
        if rise is None:
            break
        x, value, gradient = rise
        if np.abs(x).max() > FARTHEST * max(1.0, np.abs(start).max()):
            break
    if values[0] <= 0.0 or np.abs(x).max() > FARTHEST * max(1.0, np.abs(start).max()):
        raise IntegrationError(
            f"The density has no mode that is curved on all sides near {dict(zip(density.names, x, strict=True))}: it rises "
            "without end or is flat. Give proper priors."
        )
    if gain > 1e3 * tol:
        warnings.warn(
            f"The mode was not reached: the log density can still rise by {gain:.2g} (wanted: {tol:.2g}).",
            ConvergenceWarning,
            stacklevel=2,
        )
    return Laplace(x, value, H, gain <= 1e3 * tol, counted.count)


class _Counted:
    """The gradient, counting its evaluations."""

    def __init__(self, density: LogDensity) -> None:
        self.density, self.count = density, 0

    def __call__(self, x: Array) -> tuple[float, Array]:
        self.count += 1
        return self.density.logp_grad(x)


def _curvature(density: _Counted, x: Array, widths: Array) -> Array:
    """The negative Hessian by central differences of the gradient."""
    H = np.empty((x.size, x.size))
    for j, h in enumerate(STEP * widths):
        ahead, behind = x.copy(), x.copy()
        ahead[j] += h
        behind[j] -= h
        H[j] = (density(behind)[1] - density(ahead)[1]) / (2.0 * h)
    if not np.isfinite(H).all():
        raise IntegrationError(f"The density has no gradient near {x}: it is not smooth there.")
    return 0.5 * (H + H.T)


def _rise(density: _Counted, x: Array, value: float, step: Array, gain: float) -> tuple[Array, float, Array] | None:
    """The first of the halved steps at which the density rises enough; None where rounding hides every rise."""
    for _ in range(40):
        new, gradient = density(x + step)
        if np.isfinite(new) and np.isfinite(gradient).all() and new - value >= 1e-4 * min(gain, 1.0):
            return x + step, new, gradient
        step = 0.5 * step
        gain = 0.5 * gain
    return None
