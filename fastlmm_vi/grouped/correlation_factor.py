"""The factor of q for two correlated effects with priors of their standard deviations and an LKJ prior of the correlation.

q(s₁, s₂, r) ∝ p(s₁) p(s₂) (1 − r²)^(η − 1) |Σ|^(−n/2) exp(−½ tr(squares Σ⁻¹)), the optimum without any approximation, by the
trapezoidal rule in three dimensions: w = log s₁/s₂, z = artanh r, and a third that moves both standard deviations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline

from ..priors import LKJ, ScalePrior
from ..result import Array
from .marginals import DROP, LineMarginal, Marginal

POINTS = 41  # an axis, of which at least half have more than rounding
START = 6.0  # half-width of the first box, in rough standard deviations
LIMIT = 300.0  # of a logarithm
ROUNDS = 60  # of widening and narrowing the box


class Box(NamedTuple):
    """A density on three axes: points, masses (·, ·, ·), log of the integral."""

    axes: tuple[Array, Array, Array]
    mass: Array
    log_integral: float


@dataclass(frozen=True, eq=False)
class CorrelationFactor:
    """q of two standard deviations and their correlation."""

    first: ScalePrior
    second: ScalePrior
    eta: float
    n: int
    squares: Array

    def log_density(self, x: Array, y: Array, z: Array) -> Array:
        """Of (log s₁, log s₂, artanh r), up to its integral but with the constants of the priors."""
        A, tanh = self.squares, np.tanh(z)
        log_rest = -2.0 * np.log(np.cosh(z))  # log(1 − r²)
        quadratic = A[0, 0] * np.exp(-2.0 * x) - 2.0 * tanh * A[0, 1] * np.exp(-x - y) + A[1, 1] * np.exp(-2.0 * y)
        prior = self.first.log_density(np.exp(x)) + self.second.log_density(np.exp(y)) + LKJ(self.eta).log_constant(2)
        power = self.eta - 0.5 * self.n  # LKJ's η − 1, |Σ|'s −n/2, dr/dz's 1
        return prior + (1.0 - self.n) * (x + y) + power * log_rest - 0.5 * quadratic * np.exp(-log_rest)

    def _box(self, share: float) -> Box:
        """Where the mass is, in axes (t, w, z): log s₁ = t + share · w, log s₂ = t − (1 − share) w."""
        log_sd = 0.5 * np.log(np.diag(self.squares) / self.n)
        rho = float(self.squares[0, 1] / np.sqrt(self.squares[0, 0] * self.squares[1, 1]))
        centre = np.array([(1.0 - share) * log_sd[0] + share * log_sd[1], log_sd[0] - log_sd[1], np.arctanh(rho)])
        return _concentrated(lambda t, w, z: self.log_density(t + share * w, t - (1.0 - share) * w, z), centre, self.n)

    @cached_property
    def _both(self) -> Box:
        return self._box(0.5)

    @cached_property
    def precision(self) -> Array:
        """E[Σ⁻¹], (2, 2)."""
        t, w, z = np.meshgrid(*self._both.axes, indexing="ij", sparse=True)
        per_rest = self._both.mass * np.cosh(z) ** 2  # over 1 − r²
        found = np.empty((2, 2))
        found[0, 0] = (per_rest * np.exp(-2.0 * t - w)).sum()
        found[1, 1] = (per_rest * np.exp(-2.0 * t + w)).sum()
        found[0, 1] = found[1, 0] = -(per_rest * np.tanh(z) * np.exp(-2.0 * t)).sum()
        return found

    def bound(self, squares: Array) -> float:
        """What the ELBO has of it; largest at the squares that it was made with."""
        return self._both.log_integral - 0.5 * float(((squares - self.squares) * self.precision).sum())

    def marginals(self) -> tuple[list[Marginal], list[Marginal]]:
        """Of the two standard deviations, and of their correlation."""
        sds: list[Marginal] = []
        for share in (0.0, 1.0):
            box = self._box(share)
            sds.append(_marginal(box.axes[0], box.mass.sum(axis=(1, 2)), bounded=False))
        return sds, [_marginal(self._both.axes[2], self._both.mass.sum(axis=(0, 1)), bounded=True)]

    def draw(self, rng: np.random.Generator, size: int) -> Array:
        """Draw covariances, (size, 2, 2): a cell of the grid, a point in it, kept or not by its density."""
        axes, mass, log_integral = self._both
        cells, steps = mass.ravel(), [axis[1] - axis[0] for axis in axes]
        found: list[Array] = []
        while sum(len(part) for part in found) < size:
            places = rng.choice(cells.size, 4 * size, p=cells)
            t, w, z = (
                axis[index] + step * rng.uniform(-0.5, 0.5, 4 * size)
                for axis, step, index in zip(axes, steps, np.unravel_index(places, mass.shape), strict=True)
            )
            x, y = t + 0.5 * w, t - 0.5 * w
            ratio = np.exp(self.log_density(x, y, z) - log_integral) * np.prod(steps) / cells[places]
            kept = rng.uniform(size=ratio.size) * ratio.max() < ratio
            found.append(np.column_stack([np.exp(x), np.exp(y), np.tanh(z)])[kept])
        s1, s2, r = np.concatenate(found)[:size].T
        return np.stack([s1**2, r * s1 * s2, r * s1 * s2, s2**2], axis=-1).reshape(size, 2, 2)


def _concentrated(log_density: Callable[[Array, Array, Array], Array], centre: Array, n: int) -> Box:
    """The box that holds all but rounding of a unimodal density."""
    low, high = centre - START / np.sqrt(n), centre + START / np.sqrt(n)
    for _ in range(ROUNDS):
        axes = tuple(np.linspace(a, b, POINTS) for a, b in zip(low, high, strict=True))
        with np.errstate(over="ignore", invalid="ignore"):
            values = log_density(*np.meshgrid(*axes, indexing="ij", sparse=True))
        values[np.isnan(values)] = -np.inf
        top = float(values.max())
        good = True
        for i, axis in enumerate(axes):
            held = np.flatnonzero(values.max(axis=tuple(j for j in range(3) if j != i)) > top - DROP)
            first, last = int(held[0]), int(held[-1])
            if first == 0 or last == POINTS - 1 or 2 * (last - first) < POINTS - 2:
                good = False
                width = high[i] - low[i]
                low[i], high[i] = (
                    max(low[i] - 0.5 * width, -LIMIT) if first == 0 else axis[first - 1],
                    min(high[i] + 0.5 * width, LIMIT) if last == POINTS - 1 else axis[last + 1],
                )
        if good:
            break
    mass = np.exp(values - top)
    total = float(mass.sum())
    steps = [axis[1] - axis[0] for axis in axes]
    return Box((axes[0], axes[1], axes[2]), mass / total, top + float(np.log(total * np.prod(steps))))


def _marginal(t: Array, mass: Array, *, bounded: bool) -> Marginal:
    """One axis of a box, by a spline through the logarithms."""
    there = mass > 0.0
    spline = CubicSpline(t[there], np.log(mass[there] / (t[1] - t[0])))
    low, high = float(t[there][0]), float(t[there][-1])

    def log_density(at: Array) -> Array:
        inside = (at >= low) & (at <= high)
        return np.where(inside, spline(np.clip(at, low, high)), -np.inf)

    return LineMarginal(log_density, float(t[int(mass.argmax())]), bounded)
