"""Marginal distributions of coordinates, and of linear combinations of them, from the nodes of a lattice.

Lines of the lattice are interpolated (splines of the log density) where they meet the hyperplane on which the combination
is constant; the sum over lines is a trapezoid rule again, so that a marginal is as exact as the interpolation.
"""

from dataclasses import dataclass, field

import numpy as np
import scipy.optimize
from numpy.typing import ArrayLike
from scipy.interpolate import BSpline, make_interp_spline
from scipy.special import logsumexp

from .lattice import Coordinates, Indices, Lattice, arcsinh, codes, sinh
from .result import Array

POINTS = 513


@dataclass(frozen=True, eq=False)
class Marginal:
    """Distribution of one coordinate, or of a linear combination.

    Attributes
    ----------
    x, density : ndarray (m,)
        The density where it is not negligible, dense enough to be drawn.
    """

    x: Array
    density: Array
    center: float = field(repr=False)
    spread: float = field(repr=False)
    tail: float = field(repr=False)
    cumulative: BSpline = field(repr=False)
    ends: Array = field(repr=False)

    @property
    def mass(self) -> float:
        """Integral of the density; its distance from 1 is the interpolation's error."""
        return float(self.cumulative(self.ends[1]) - self.cumulative(self.ends[0]))

    def cdf(self, x: ArrayLike) -> Array:
        """Probability below x (any shape)."""
        t = arcsinh((np.asarray(x, dtype=np.float64) - self.center) / self.spread, self.tail)
        below = self.cumulative(np.clip(t, *self.ends)) - self.cumulative(self.ends[0])
        return np.clip(below / self.mass, 0.0, 1.0)

    def quantile(self, q: ArrayLike) -> Array:
        """Values below which the probability is q (any shape, between 0 and 1)."""
        probabilities = np.asarray(q, dtype=np.float64)
        if not ((probabilities > 0.0) & (probabilities < 1.0)).all():
            raise ValueError(f"q={q!r} must lie between 0 and 1.")
        low = self.cumulative(self.ends[0])
        wanted = low + self.mass * probabilities.ravel()
        lo, hi = map(float, self.ends)
        t = [scipy.optimize.brentq(lambda t, w=w: float(self.cumulative(t)) - w, lo, hi, xtol=1e-13) for w in wanted]
        return (self.center + self.spread * sinh(np.array(t), self.tail)).reshape(probabilities.shape)[()]


def of(lattice: Lattice, coordinates: Coordinates, a: Array, center: float, spread: float) -> Marginal:
    """Return the marginal of aᵀx, whose mean and standard deviation are `center` and `spread`."""
    b = a @ coordinates.L
    axis = int(np.abs(b).argmax())
    tail = float(coordinates.tails[axis])
    nodes = coordinates.stretched(lattice.z)
    others = np.delete(np.arange(b.size), axis)
    offset = float(a @ coordinates.center)
    rest = offset + nodes[:, others] @ b[others]
    u = offset + (nodes @ b)[lattice.significant]
    ends = arcsinh((np.array([u.min(), u.max()]) - center) / spread, tail)
    t = np.linspace(ends[0], ends[1], POINTS)
    x = center + spread * sinh(t, tail)
    density = np.zeros(t.size)
    cell = lattice.log_cell - np.log(2.0 * lattice.unit[axis]) - float(logsumexp(lattice.log_mass))
    for line in _lines(lattice, axis):
        z = arcsinh((x - rest[line[0]]) / b[axis], tail)
        spline, lo, hi = _interpolated(lattice, axis, line)
        inside = np.flatnonzero((z >= lo) & (z <= hi))
        slope = np.abs(b[axis]) * np.cosh(tail * z[inside])
        density[inside] += np.exp(spline(z[inside]) + cell) / slope
    cumulative = make_interp_spline(t, density * spread * np.cosh(tail * t), k=5).antiderivative()
    return Marginal(x=x, density=density, center=center, spread=spread, tail=tail, cumulative=cumulative, ends=ends)


def _lines(lattice: Lattice, axis: int) -> list[Indices]:
    """Nodes of every line of the lattice along an axis, in order, without the lines that are negligible."""
    index = lattice.index
    rest = codes(np.delete(index, axis, axis=1))
    order: Indices = np.lexsort((index[:, axis], rest))
    breaks = (np.diff(rest[order]) != 0) | (np.diff(index[order, axis]) != 2)
    lines = np.split(order, np.flatnonzero(breaks) + 1)
    significant = lattice.significant
    return [line for line in lines if line.size > 1 and significant[line].any()]


def _interpolated(lattice: Lattice, axis: int, line: Indices) -> tuple[BSpline, float, float]:
    """Spline of the log density in z along a line, and its ends."""
    z = lattice.index[line, axis] * lattice.unit[axis]
    value = lattice.value[line]
    lowest = value[np.isfinite(value)].min() - 10.0
    spline = make_interp_spline(z, np.maximum(value, lowest), k=min(7, (z.size - 2) // 2 * 2 + 1))
    return spline, float(z[0]), float(z[-1])
