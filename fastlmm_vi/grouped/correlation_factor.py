"""The factor of q for two correlated effects with priors of their standard deviations and an LKJ prior of the correlation.

q(s₁, s₂, r) ∝ p(s₁) p(s₂) (1 − r²)^(η − 1) |Σ|^(−n/2) exp(−½ tr(squares Σ⁻¹)): the optimum without any approximation, by the
trapezoidal rule in three dimensions. With w = log s₁/s₂ − ½ log(squares₁₁/squares₂₂), ρ the correlation in the squares, and
2 sinh²(w/2) = (1 − rρ) sinh²q, the exponent is −Q/(s₁ s₂) with Q ∝ (1 − rρ) cosh²q / (1 − r²): log(s₁ s₂) − log Q, q and
artanh r hang together by the priors alone. sinh on every axis lets exponential tails end early.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline

from ..priors import LKJ, ScalePrior
from ..result import Array
from .marginals import LineMarginal, Marginal

COARSE = 21  # points an axis to find the mass
FINE = (41, 51, 61, 75, 91, 113, 135)  # for expectations: as many as it takes
FINEST = 81  # for marginals, which no iteration waits for
SAME = 1e-9  # range of the logarithms of an integral on three grids at which the finest is fine enough
DROP = 38.0  # below its largest value, the log density at which the rest is rounding
START = 3.0  # half-width of the first box, of sinh
WIDEST = 6.0  # and of any
ROUNDS = 40  # of moving the box
LIMIT = 300.0  # of logarithms

Density = Callable[[Array, Array, Array], Array]


class Axis(NamedTuple):
    """Points centre + scale · sinh v, v equidistant; what dv is in them."""

    points: Array
    v: Array
    weights: Array
    centre: float
    scale: float


class Place(NamedTuple):
    """Where three axes are: centre, scale, and range of v."""

    centre: list[float]
    scale: list[float]
    ranges: list[tuple[float, float]]


class Box(NamedTuple):
    """A density on three axes: masses (·, ·, ·), log of the integral."""

    axes: Sequence[Axis]
    mass: Array
    log_integral: float


@dataclass(frozen=True, eq=False)
class CorrelationFactor:
    """q of two standard deviations and their correlation; n levels, `squares` = E Σ_v u_v u_vᵀ."""

    first: ScalePrior
    second: ScalePrior
    eta: float
    n: int
    squares: Array

    def log_density(self, x: Array, y: Array, z: Array) -> Array:
        """Of (log s₁, log s₂, artanh r), with the constants of the priors."""
        A, log_rest = self.squares, -2.0 * np.log(np.cosh(z))  # log(1 − r²)
        quadratic = (
            A[0, 0] * np.exp(-2.0 * x) - 2.0 * np.tanh(z) * A[0, 1] * np.exp(-x - y) + A[1, 1] * np.exp(-2.0 * y)
        )
        prior = self.first.log_density(np.exp(x)) + self.second.log_density(np.exp(y)) + LKJ(self.eta).log_constant(2)
        power = self.eta - 0.5 * self.n  # LKJ's η − 1, −n/2 of |Σ|, 1 of dr/dz
        return prior + (1.0 - self.n) * (x + y) + power * log_rest - 0.5 * quadratic * np.exp(-log_rest)

    @cached_property
    def _rho(self) -> float:
        return float(self.squares[0, 1] / np.sqrt(self.squares[0, 0] * self.squares[1, 1]))

    def _ratio(self, q: Array, z: Array) -> tuple[Array, Array]:
        """Log s₁/s₂ and the logarithm of its derivative in q."""
        k = np.sqrt(0.5 * (1.0 - np.tanh(z) * self._rho))
        whole = 0.5 * np.log(self.squares[0, 0] / self.squares[1, 1]) + 2.0 * np.arcsinh(k * np.sinh(q))
        return whole, np.log(2.0 * k * np.cosh(q)) - 0.5 * np.log1p((k * np.sinh(q)) ** 2)

    def _logs(self, t: Array, q: Array, z: Array) -> tuple[Array, Array]:
        """Log s₁ and log s₂, with log(s₁ s₂) = 2 t + log Q."""
        w, _ = self._ratio(q, z)
        log_q = 0.5 * np.log(self.squares[0, 0] * self.squares[1, 1]) + np.log(2.0 * (1.0 - np.tanh(z) * self._rho))
        middle = t + 0.5 * log_q + np.log(np.cosh(q)) + np.log(np.cosh(z))
        return middle + 0.5 * w, middle - 0.5 * w

    def _density(self, t: Array, q: Array, z: Array) -> Array:
        return self.log_density(*self._logs(t, q, z), z) + self._ratio(q, z)[1]

    def _slice(self, place: int) -> Box:
        """The same with log s₁ (0) or log s₂ (1) itself on the first axis."""

        def density(x: Array, q: Array, z: Array) -> Array:
            w, log_slope = self._ratio(q, z)
            logs = (x, x - w) if place == 0 else (x + w, x)
            return self.log_density(*logs, z) + log_slope

        centre = 0.5 * float(np.log(self.squares[place, place] / self.n))
        found = concentrated(density, [centre, 0.0, float(np.arctanh(self._rho))], [self._width] * 3)
        return filled(density, found, FINEST)

    @property
    def _width(self) -> float:
        """Of any of these densities, roughly."""
        return 1.0 / float(np.sqrt(self.n))

    @cached_property
    def _box(self) -> Box:
        centre = [-0.5 * float(np.log(2.0 * max(self.n - 1.0, 0.5))), 0.0, float(np.arctanh(self._rho))]
        place = concentrated(self._density, centre, [self._width] * 3)
        logs: list[float] = []
        for points in FINE:
            found = filled(self._density, place, points)
            logs.append(found.log_integral)
            if len(logs) > 2 and max(logs[-3:]) - min(logs[-3:]) < SAME:
                break
        return found

    @cached_property
    def precision(self) -> Array:
        """E[Σ⁻¹], (2, 2)."""
        t, q, z = np.meshgrid(*(axis.points for axis in self._box.axes), indexing="ij", sparse=True)
        x, y = self._logs(t, q, z)
        per_rest = self._box.mass * np.cosh(z) ** 2  # over 1 − r²
        found = np.empty((2, 2))
        found[0, 0] = (per_rest * np.exp(-2.0 * x)).sum()
        found[1, 1] = (per_rest * np.exp(-2.0 * y)).sum()
        found[0, 1] = found[1, 0] = -(per_rest * np.tanh(z) * np.exp(-x - y)).sum()
        return found

    def bound(self, squares: Array) -> float:
        """What the ELBO has of it; largest at the squares that it was made with."""
        return self._box.log_integral - 0.5 * float(((squares - self.squares) * self.precision).sum())

    def marginals(self) -> tuple[list[Marginal], list[Marginal]]:
        """Of the two standard deviations, and of their correlation."""
        sds = [_marginal(self._slice(place), 0, bounded=False) for place in (0, 1)]
        return sds, [_marginal(self._box, 2, bounded=True)]

    def draw(self, rng: np.random.Generator, size: int) -> Array:
        """Draw covariances, (size, 2, 2): a cell of the grid, a point in it, kept or not by its density."""
        axes, mass, log_integral = self._box
        cells, steps = mass.ravel(), [axis.v[1] - axis.v[0] for axis in axes]
        found: list[Array] = []
        while sum(len(part) for part in found) < size:
            places = rng.choice(cells.size, 4 * size, p=cells)
            points, log_jacobian = [], np.zeros(4 * size)
            for axis, step, index in zip(axes, steps, np.unravel_index(places, mass.shape), strict=True):
                v = axis.v[index] + step * rng.uniform(-0.5, 0.5, 4 * size)
                points.append(axis.centre + axis.scale * np.sinh(v))
                log_jacobian += np.log(step * axis.scale * np.cosh(v))
            ratio = np.exp(self._density(*points) + log_jacobian - log_integral) / cells[places]
            kept = rng.uniform(size=ratio.size) * ratio.max() < ratio
            x, y = self._logs(*points)
            found.append(np.column_stack([np.exp(x), np.exp(y), np.tanh(points[2])])[kept])
        s1, s2, r = np.concatenate(found)[:size].T
        return np.stack([s1**2, r * s1 * s2, r * s1 * s2, s2**2], axis=-1).reshape(size, 2, 2)

    def log_q(self, logs: Array, z: Array) -> Array:
        """Log density of (log s₁, log s₂) (size, 2) and artanh r (size, 1)."""
        return self.log_density(logs[:, 0], logs[:, 1], z[:, 0]) - self._box.log_integral


def concentrated(log_density: Density, centre: Sequence[float], scale: Sequence[float]) -> Place:
    """Find the mass of a unimodal density on a coarse grid, the moments on which place the axes."""
    place = Place(list(centre), list(scale), [(-START, START)] * 3)
    for _ in range(ROUNDS):
        box = filled(log_density, place, COARSE)
        wanted = [_range(box, i, place.ranges[i]) for i in range(3)]
        if wanted != place.ranges:
            place = place._replace(ranges=wanted)
            continue
        moved = False
        for i, axis in enumerate(box.axes):
            of_axis = box.mass.sum(axis=_others(i))
            mean = float(of_axis @ axis.points)
            sd = float(np.sqrt(of_axis @ (axis.points - mean) ** 2))
            if abs(mean - axis.centre) > 0.5 * sd or not 0.5 * sd < axis.scale < 2.0 * sd:
                moved = True
                place.centre[i], place.scale[i], place.ranges[i] = mean, max(sd, 1e-8), (-START, START)
        if not moved:
            break
    return place


def filled(log_density: Density, place: Place, points: int) -> Box:
    """The density on a grid."""
    axes = []
    for middle, width, (low, high) in zip(*place, strict=True):
        v = np.linspace(low, high, points)
        weights = width * np.cosh(v) * (v[1] - v[0])
        axes.append(Axis(middle + width * np.sinh(v), v, weights, middle, width))
    grid = np.meshgrid(*(np.clip(axis.points, -LIMIT, LIMIT) for axis in axes), indexing="ij", sparse=True)
    weights = np.meshgrid(*(np.log(axis.weights) for axis in axes), indexing="ij", sparse=True)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        values = log_density(*grid) + weights[0] + weights[1] + weights[2]
    values[np.isnan(values)] = -np.inf
    top = float(values.max())
    mass = np.exp(values - top)
    total = float(mass.sum())
    return Box(axes, mass / total, top + float(np.log(total)))


def _range(box: Box, i: int, now: tuple[float, float]) -> tuple[float, float]:
    """Where v should be on an axis: as now, if all mass but rounding is within, on at least half of the points."""
    v, largest = box.axes[i].v, box.mass.max(axis=_others(i))
    held = np.flatnonzero(largest > np.exp(-DROP) * largest.max())
    first, last, end = int(held[0]), int(held[-1]), v.size - 1
    if first > 0 and last < end and 2 * (last - first) >= v.size - 3:
        return now
    low = max(now[0] - 1.0, -WIDEST) if first == 0 else float(v[first - 1])
    high = min(now[1] + 1.0, WIDEST) if last == end else float(v[last + 1])
    return low, high


def _others(i: int) -> tuple[int, ...]:
    return tuple(j for j in range(3) if j != i)


def _marginal(box: Box, place: int, *, bounded: bool) -> Marginal:
    """One axis of a box, by a spline through the logarithms."""
    axis = box.axes[place]
    mass = box.mass.sum(axis=_others(place)) / axis.weights
    there = mass > 0.0
    spline = CubicSpline(axis.v[there], np.log(mass[there]))
    low, high = float(axis.v[there][0]), float(axis.v[there][-1])

    def log_density(t: Array) -> Array:
        v = np.arcsinh((t - axis.centre) / axis.scale)
        return np.where((v >= low) & (v <= high), spline(np.clip(v, low, high)), -np.inf)

    return LineMarginal(log_density, float(axis.points[int(mass.argmax())]), bounded)
