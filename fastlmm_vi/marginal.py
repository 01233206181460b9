"""Marginal distributions from the nodes of a lattice: of coordinates, and of the last plus any function of the others.

Lines of the lattice are interpolated (splines of the log density) where they meet the surface on which the number is
constant; the sum over lines is a trapezoid rule again, so that a marginal is as exact as the interpolation.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy.optimize
from numpy.typing import ArrayLike
from scipy.interpolate import BSpline, make_interp_spline
from scipy.special import logsumexp

from .lattice import Coordinates, Indices, Lattice, arcsinh, codes, sinh
from .result import Array

POINTS = 513
NORMAL = 10.0  # standard deviations beyond which tails are drawn in


@dataclass(frozen=True, eq=False)
class Marginal:
    """Distribution of one number.

    Attributes
    ----------
    x, density : ndarray (m,)
        The density where it is not negligible, dense enough to be drawn.
    """

    x: Array
    density: Array
    center: float = field(repr=False)
    scale: float = field(repr=False)
    tail: float = field(repr=False)
    cumulative: BSpline = field(repr=False)  # of t, x = center + scale sinh(tail t) / tail
    ends: tuple[float, float] = field(repr=False)

    @property
    def mass(self) -> float:
        """Integral of the density; its distance from 1 is the interpolation's error."""
        return float(self.cumulative(self.ends[1]) - self.cumulative(self.ends[0]))

    def cdf(self, x: ArrayLike) -> Array:
        """Probability below x (any shape)."""
        t = arcsinh((np.asarray(x, dtype=np.float64) - self.center) / self.scale, self.tail)
        below = self.cumulative(np.clip(t, *self.ends)) - self.cumulative(self.ends[0])
        return np.clip(below / self.mass, 0.0, 1.0)

    def quantile(self, q: ArrayLike) -> Array:
        """Values below which the probability is q (any shape, between 0 and 1)."""
        probabilities = np.asarray(q, dtype=np.float64)
        if not ((probabilities > 0.0) & (probabilities < 1.0)).all():
            raise ValueError(f"q={q!r} must lie between 0 and 1.")
        low = self.cumulative(self.ends[0])
        wanted = low + self.mass * probabilities.ravel()
        u = [
            scipy.optimize.brentq(lambda u, w=w: float(self.cumulative(u)) - w, *self.ends, xtol=1e-13) for w in wanted
        ]
        return (self.center + self.scale * sinh(np.array(u), self.tail)).reshape(probabilities.shape)[()]


def of(lattice: Lattice, coordinates: Coordinates, j: int, plus: Callable[[Array], Array] | None = None) -> Marginal:
    """Return the marginal of coordinate j, or of the last plus a function of the others: y below."""
    b = coordinates.T[j]
    axis = int(np.abs(b).argmax()) if plus is None else b.size - 1
    others = np.delete(np.arange(b.size), axis)
    rest = lattice.z[:, others] @ b[others]
    x = coordinates.x(lattice.z)
    added = np.zeros(len(x)) if plus is None else plus(x)
    y = (x[:, j] + added)[lattice.significant]
    own_center, own_scale, own_tail = (float(v[j]) for v in (coordinates.center, coordinates.scale, coordinates.tails))
    center, scale, tail = own_center, own_scale, own_tail
    if plus is not None:
        weights = np.exp(lattice.log_mass[lattice.significant] - lattice.log_mass.max())
        center = float(np.average(y, weights=weights))
        scale = float(np.sqrt(np.average((y - center) ** 2, weights=weights)))
        far = float(np.abs(y - center).max()) / scale
        tail = scipy.optimize.brentq(lambda a: np.arcsinh(a * far) / a - NORMAL, 1e-9, 1e3) if far > NORMAL else 0.0
    lo, hi = (float(arcsinh((end - center) / scale, tail)) for end in (y.min(), y.max()))
    t = np.linspace(lo, hi, POINTS)
    at = center + scale * sinh(t, tail)
    density = np.zeros(t.size)
    cell = lattice.log_cell - np.log(2.0 * lattice.unit[axis]) - float(logsumexp(lattice.log_mass))
    for line in _lines(lattice, axis):
        u = arcsinh((at - added[line[0]] - own_center) / own_scale, own_tail)
        z = (u - rest[line[0]]) / b[axis]
        spline, first, last = _interpolated(lattice, axis, line)
        inside = np.flatnonzero((z >= first) & (z <= last))
        slope = abs(b[axis]) * own_scale * np.cosh(own_tail * u[inside])  # dy/dz
        density[inside] += np.exp(spline(z[inside]) + cell) / slope
    cumulative = make_interp_spline(t, density * scale * np.cosh(tail * t), k=5).antiderivative()
    return Marginal(x=at, density=density, center=center, scale=scale, tail=tail, cumulative=cumulative, ends=(lo, hi))


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
