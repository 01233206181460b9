"""Marginal distributions from the nodes of a lattice: of coordinates, and of the second plus any function of the first.

Lines of the lattice are interpolated (splines of the log density) where they meet the surface on which the number is
constant; the sum over lines is a trapezoid rule again, so that a marginal is as exact as the interpolation.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.optimize
from numpy.typing import ArrayLike
from scipy.integrate import cumulative_simpson
from scipy.interpolate import BSpline, make_interp_spline
from scipy.special import logsumexp

from .lattice import Coordinates, Indices, Lattice, arcsinh, codes, sinh
from .result import Array

POINTS = 513
TABLE_POINTS, FINER = 801, 8
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

    def shifted(self, by: float) -> "Marginal":
        """The distribution of the number plus a known one."""
        return replace(self, x=self.x + by, center=self.center + by)

    def reflected(self) -> "Marginal":
        """The distribution of the number's negative."""
        lo, hi = self.ends
        t = np.linspace(-hi, -lo, POINTS)
        probability = self.cumulative(hi) - self.cumulative(-t)
        return _from_probabilities(t, probability, -self.center, self.scale, self.tail)

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


def of(lattice: Lattice, coordinates: Coordinates, j: int) -> Marginal:
    """Return the marginal of coordinate j."""
    b = coordinates.T[j]
    axis = int(np.abs(b).argmax())
    others = np.delete(np.arange(b.size), axis)
    rest = lattice.z[:, others] @ b[others]
    center, scale, tail = (float(part[j]) for part in (coordinates.center, coordinates.scale, coordinates.tails))
    nodes = (lattice.z @ b)[lattice.significant]
    lo, hi = float(nodes.min()), float(nodes.max())
    u = np.linspace(lo, hi, POINTS)
    density = np.zeros(u.size)
    cell = lattice.log_cell - np.log(2.0 * lattice.unit[axis] * abs(b[axis])) - float(logsumexp(lattice.log_mass))
    for line in _lines(lattice, axis):
        z = (u - rest[line[0]]) / b[axis]
        spline, first, last = _interpolated(lattice, axis, line)
        inside = np.flatnonzero((z >= first) & (z <= last))
        density[inside] += np.exp(spline(z[inside]) + cell)
    cumulative = make_interp_spline(u, density, k=5).antiderivative()
    x = center + scale * sinh(u, tail)
    density /= scale * np.cosh(tail * u)
    return Marginal(x=x, density=density, center=center, scale=scale, tail=tail, cumulative=cumulative, ends=(lo, hi))


def of_sum(lattice: Lattice, coordinates: Coordinates, plus: Callable[[Array], Array]) -> Marginal:
    """Return the marginal of y = x₁ + plus(x₀), two coordinates.

    Where y hardly depends on the direction of a line, few lines of the lattice meet a value of it: the log density is first
    interpolated across lines too.
    """
    z0, log_density, u1 = _table(lattice, coordinates)
    fine = np.linspace(z0[0], z0[-1], FINER * (z0.size - 1) + 1)
    across = make_interp_spline(z0, log_density, k=min(7, (z0.size - 2) // 2 * 2 + 1))(fine)
    height = np.exp(across) * (fine[1] - fine[0])
    below = cumulative_simpson(height, x=u1, axis=1, initial=0.0)
    x = coordinates.x(lattice.z[lattice.significant])
    y = x[:, 1] + plus(x[:, 0])
    weights = np.exp(lattice.log_mass[lattice.significant] - lattice.log_mass.max())
    center = float(np.average(y, weights=weights))
    scale = float(np.sqrt(np.average((y - center) ** 2, weights=weights)))
    tail = _tail(float(np.abs(y - center).max()) / scale)
    lo, hi = (float(arcsinh((end - center) / scale, tail)) for end in (y.min(), y.max()))
    t = np.linspace(lo, hi, POINTS)
    at = center + scale * sinh(t, tail)
    c, s, a = (part for part in (coordinates.center, coordinates.scale, coordinates.tails))
    added = plus(c[0] + s[0] * sinh(coordinates.T[0, 0] * fine, a[0]))
    u = arcsinh((at - added[:, None] - c[1]) / s[1], a[1])
    probability = _hermite(u, u1, below, height).sum(axis=0)
    return _from_probabilities(t, probability, center, scale, tail)


def of_difference(first: Marginal, second: Marginal | float) -> Marginal:
    """Return the marginal of y = first − second, independent numbers; `second` may be known."""
    if isinstance(second, Marginal):
        points = second.center + second.scale * sinh(np.linspace(*second.ends, FINER * POINTS), second.tail)
        steps = np.diff(second.cdf(points))
        ends = points[[0, -1]]
        middles = 0.5 * (points[1:] + points[:-1])
    else:
        steps, ends, middles = np.ones(1), np.full(2, second), np.full(1, second)
    y = np.array([first.x[0] - ends[1], first.x[-1] - ends[0]])
    center = first.center - float(steps @ middles)
    scale = float(np.hypot(first.scale, np.sqrt(steps @ (middles - steps @ middles) ** 2)))
    tail = _tail(float(np.abs(y - center).max()) / scale)
    lo, hi = (float(end) for end in arcsinh((y - center) / scale, tail))
    t = np.linspace(lo, hi, POINTS)
    at = center + scale * sinh(t, tail)
    probability = np.array([steps @ first.cdf(end + middles) for end in at])
    return _from_probabilities(t, probability, center, scale, tail)


def _from_probabilities(t: Array, probability: Array, center: float, scale: float, tail: float) -> Marginal:
    """The marginal with these probabilities below x = center + scale sinh(tail t) / tail, t equidistant."""
    cumulative = make_interp_spline(t, probability, k=5)
    density = np.maximum(cumulative.derivative()(t), 0.0) / (scale * np.cosh(tail * t))
    x, ends = center + scale * sinh(t, tail), (float(t[0]), float(t[-1]))
    return Marginal(x=x, density=density, center=center, scale=scale, tail=tail, cumulative=cumulative, ends=ends)


def _tail(far: float) -> float:
    """The a that draws a distance of `far` standard deviations in to what is normal."""
    if far <= NORMAL:
        return 0.0
    return float(scipy.optimize.brentq(lambda a: np.arcsinh(a * far) / a - NORMAL, 1e-9, 1e3))


def _hermite(at: Array, x: Array, values: Array, slopes: Array) -> Array:
    """Cubic interpolation of every row of values (m, n) with slopes, given at equidistant x (n,), at points (m, k)."""
    step = x[1] - x[0]
    where = np.clip((at - x[0]) / step, 0.0, x.size - 1.0)
    i = np.minimum(where.astype(np.int64), x.size - 2)
    s = where - i
    left, right = np.take_along_axis(values, i, 1), np.take_along_axis(values, i + 1, 1)
    rise, run = np.take_along_axis(slopes, i, 1) * step, np.take_along_axis(slopes, i + 1, 1) * step
    return left + s**2 * (3 - 2 * s) * (right - left) + s * (1 - s) * ((1 - s) * rise - s * run)


def _table(lattice: Lattice, coordinates: Coordinates) -> tuple[Array, Array, Array]:
    """z₀ of the lines along the second axis, log density of (z₀, u₁) on them, and u₁ = T₁₀ z₀ + T₁₁ z₁ where it is given."""
    (_, _), (slant, stretch) = coordinates.T
    u = (lattice.z @ coordinates.T[1])[lattice.significant]
    u1 = np.linspace(u.min(), u.max(), TABLE_POINTS)
    constant = float(logsumexp(lattice.log_mass)) + np.log(stretch)
    rows: dict[float, Array] = {}
    for line in _lines(lattice, 1):
        spline, first, last = _interpolated(lattice, 1, line)
        at = float(lattice.z[line[0], 0])
        z1 = (u1 - slant * at) / stretch
        inside = np.clip(z1, first, last)
        # Beyond its ends, where it is negligible, the log density goes on falling.
        rows[at] = spline(inside) - 5.0 * np.abs(z1 - inside) - constant
    z0 = np.array(sorted(rows))
    return z0, np.array([rows[z] for z in z0]), u1


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
    """Spline of the log density in z along a line, and its ends: where the density is e⁻⁶⁰ of its largest on the line."""
    value = lattice.value[line]
    floor = value.max() - 60.0
    holds = np.flatnonzero(value > floor)
    part = slice(max(holds[0] - 1, 0), holds[0] + 2) if holds.size == 1 else slice(holds[0], holds[-1] + 1)
    z = lattice.index[line[part], axis] * lattice.unit[axis]
    spline = make_interp_spline(z, np.maximum(value[part], floor), k=min(7, (z.size - 2) // 2 * 2 + 1))
    return spline, float(z[0]), float(z[-1])
