"""One-dimensional distributions: of what has a density known up to its integral, and of what is held."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline

from ..result import Array

DROP = 45.0  # below its largest value, the log density at which the rest is rounding
START = 60.0  # half-width of the first window, in logarithms
LIMIT = 340.0  # of a logarithm, the exponential of which has a square
POINTS = 129  # of a grid; at least half of them in the window
FINE = 16  # times as many points for quantiles: interpolation then errs by less than 1e-9


class Marginal(Protocol):
    """What may be asked of the distribution of a parameter."""

    @property
    def mean(self) -> float:
        """Expectation; infinite where there is none."""
        ...

    @property
    def sd(self) -> float:
        """Standard deviation; infinite where there is none."""
        ...

    def quantile(self, p: ArrayLike) -> Array:
        """Values below which it is with probabilities p."""
        ...

    def pdf(self, x: ArrayLike) -> Array:
        """Density."""
        ...


@dataclass(frozen=True)
class PointMarginal:
    """All mass at one value, that of a parameter which is held there."""

    mean: float
    sd: float = 0.0

    def quantile(self, p: ArrayLike) -> Array:
        """Return the value."""
        return np.full(np.shape(p), self.mean)

    def pdf(self, x: ArrayLike) -> Array:
        """Infinite at the value, 0 elsewhere."""
        return np.where(np.asarray(x) == self.mean, np.inf, 0.0)


class Line(NamedTuple):
    """A density on a line, known where it is more than rounding: equidistant points t, their masses, log of the integral."""

    t: Array
    mass: Array
    log_integral: float


def line(log_density: Callable[[Array], Array], centre: float, points: int = POINTS) -> Line:
    """Find where a unimodal density on the line has its mass; the trapezoidal rule, exact to rounding for smooth ones."""
    low, high = max(centre - START, -LIMIT), min(centre + START, LIMIT)
    while True:
        t = np.linspace(low, high, points)
        with np.errstate(over="ignore", invalid="ignore"):
            values = log_density(t)
        values[np.isnan(values)] = -np.inf
        top = float(values.max())
        held = np.flatnonzero(values > top - DROP)
        first, last = int(held[0]), int(held[-1])
        cut = (first == 0 and low > -LIMIT) or (last == points - 1 and high < LIMIT)
        if not cut and 2 * (last - first) >= points - 2:
            break
        low, high = (
            max(2.0 * low - high, -LIMIT) if first == 0 else t[first - 1],
            min(2.0 * high - low, LIMIT) if last == points - 1 else t[last + 1],
        )
    weights = np.exp(values - top)
    total = float(weights.sum())
    return Line(t, weights / total, top + float(np.log(total * (t[1] - t[0]))))


@dataclass(frozen=True, eq=False)
class LineMarginal:
    """x = e^t or tanh t, with a density of t known up to its integral.

    Parameters
    ----------
    log_density : callable
        Of t, any shape; unimodal.
    centre : float
        A t not far from its mode.
    bounded : bool
        Whether x = tanh t, a correlation; else x = e^t, a standard deviation.
    """

    log_density: Callable[[Array], Array]
    centre: float
    bounded: bool = False

    @cached_property
    def _line(self) -> Line:
        coarse = line(self.log_density, self.centre)
        held = np.flatnonzero(coarse.mass > 0.0)
        t = np.linspace(coarse.t[held[0]], coarse.t[held[-1]], FINE * POINTS)
        values = np.exp(self.log_density(t) - coarse.log_integral)
        return Line(t, values, coarse.log_integral)

    @cached_property
    def _cumulative(self) -> CubicSpline:
        found = CubicSpline(self._line.t, self._line.mass).antiderivative()
        return found

    def _moment(self, power: int) -> float:
        """E xᵖ."""
        if self.bounded:
            t, density, _ = self._line
            return float(np.trapezoid(np.tanh(t) ** power * density, t))
        shifted = line(lambda t: self.log_density(t) + power * t, self.centre)
        if shifted.t[-1] >= LIMIT and shifted.mass[-1] > shifted.mass.max() * np.exp(-DROP):
            return np.inf
        return float(np.exp(shifted.log_integral - self._line.log_integral))

    @cached_property
    def mean(self) -> float:
        """Expectation; infinite where there is none."""
        return self._moment(1)

    @cached_property
    def sd(self) -> float:
        """Standard deviation; infinite where there is none."""
        if self.bounded:
            t, density, _ = self._line
            return float(np.sqrt(np.trapezoid((np.tanh(t) - self.mean) ** 2 * density, t)))
        second = self._moment(2)
        if not np.isfinite(second):
            return np.inf
        t, density, _ = self._line
        near = float(np.trapezoid((np.exp(t) / self.mean - 1.0) ** 2 * density, t))  # no difference of large numbers
        far = second / self.mean**2 - 1.0  # tails beyond the line too
        return self.mean * float(np.sqrt(near if near < 0.1 else far))

    def quantile(self, p: ArrayLike) -> Array:
        """Values below which it is with probabilities p."""
        p = np.asarray(p, dtype=np.float64)
        t, cumulative = self._line.t, self._cumulative(self._line.t)
        keep = np.append(True, np.diff(np.maximum.accumulate(cumulative)) > 0.0)
        at = np.interp(p, cumulative[keep] / cumulative[-1], t[keep])
        for _ in range(2):  # Newton, from straight lines to the spline
            slope = np.interp(at, t, self._line.mass)
            step = (self._cumulative(at) - p * cumulative[-1]) / np.where(slope > 0.0, slope, np.inf)
            at = np.clip(at - np.clip(step, t[0] - t[1], t[1] - t[0]), t[0], t[-1])
        return np.asarray(np.tanh(at) if self.bounded else np.exp(at))

    def pdf(self, x: ArrayLike) -> Array:
        """Density."""
        x = np.asarray(x, dtype=np.float64)
        inside = (np.abs(x) < 1.0) if self.bounded else (x > 0.0)
        there = np.where(inside, x, 0.5)
        t = np.arctanh(there) if self.bounded else np.log(there)
        per_t = 1.0 - there**2 if self.bounded else there
        return np.where(inside, np.exp(self.log_density(t) - self._line.log_integral) / per_t, 0.0)

    def rvs(self, rng: np.random.Generator, n: int) -> Array:
        """Draw n values, (n,)."""
        return self.quantile(rng.uniform(size=n))
