"""Factors of q for standard deviations: each the best there is, given the squares that belong to it.

A standard deviation s of n normal numbers with E Σ squares = S has q(s) ∝ p(s) s⁻ⁿ exp(−S / 2s²), whatever its prior: a
density on a line, which the trapezoidal rule integrates to rounding.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..priors import Fixed, ScalePrior
from ..result import Array
from .marginals import Line, LineMarginal, Marginal, PointMarginal, line


@dataclass(frozen=True, eq=False)
class ScaleFactor:
    """q of one standard deviation, on a grid of its logarithm; `squares` is S."""

    prior: ScalePrior
    n: int
    squares: float

    def log_density(self, t: Array) -> Array:
        """Of t = log s, up to its integral."""
        return self.prior.log_density(np.exp(t)) + (1 - self.n) * t - 0.5 * self.squares * np.exp(-2.0 * t)

    @property
    def _centre(self) -> float:
        return 0.5 * float(np.log(self.squares / max(self.n, 1)))

    @cached_property
    def _line(self) -> Line:
        return line(self.log_density, self._centre)

    @cached_property
    def _marginal(self) -> LineMarginal:
        return LineMarginal(self.log_density, self._centre)

    @cached_property
    def precision(self) -> Array:
        """E[1/s²], (1, 1)."""
        return np.array([[float(self._line.mass @ np.exp(-2.0 * self._line.t))]])

    def bound(self, squares: Array) -> float:
        """E log of (prior, s⁻ⁿ exp(−squares / 2s²)) + entropy, at any squares (1, 1); largest at those it was made with."""
        return self._line.log_integral - 0.5 * float(squares[0, 0] - self.squares) * float(self.precision[0, 0])

    def marginals(self) -> tuple[list[Marginal], list[Marginal]]:
        """Of the standard deviation; there are no correlations."""
        return [self._marginal], []

    def draw(self, rng: np.random.Generator, size: int) -> Array:
        """Draw variances, (size, 1, 1)."""
        return self._marginal.rvs(rng, size)[:, None, None] ** 2

    def log_q(self, logs: Array, z: Array) -> Array:
        """Log density of log s (size, 1)."""
        return self.log_density(logs[:, 0]) - self._line.log_integral


@dataclass(frozen=True, eq=False)
class FixedFactor:
    """A standard deviation that is held."""

    prior: Fixed
    n: int

    @property
    def precision(self) -> Array:
        """1/s², (1, 1)."""
        return np.array([[self.prior.value**-2.0]])

    def bound(self, squares: Array) -> float:
        """Log of s⁻ⁿ exp(−squares / 2s²)."""
        return -self.n * float(np.log(self.prior.value)) - 0.5 * float(squares[0, 0]) / self.prior.value**2

    def marginals(self) -> tuple[list[Marginal], list[Marginal]]:
        """All mass at the value."""
        return [PointMarginal(self.prior.value)], []

    def draw(self, rng: np.random.Generator, size: int) -> Array:
        """Return the variance `size` times, (size, 1, 1)."""
        return np.full((size, 1, 1), self.prior.value**2)

    def log_q(self, logs: Array, z: Array) -> Array:
        """0: there is nothing to know."""
        return np.zeros(len(logs))
