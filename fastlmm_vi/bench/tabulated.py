"""A marginal as a table, where its own density is a sum over hundred thousands of nodes."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline

from ..grouped.marginals import Marginal
from ..result import Array

TAIL, POINTS = 1e-8, 1001


@dataclass(frozen=True, eq=False)
class Tabulated:
    """The density between its outermost quantiles, by a cubic spline."""

    mean: float
    sd: float
    x: Array
    density: Array

    @classmethod
    def of(cls, marginal: Marginal) -> "Tabulated":
        """Of any marginal with a smooth density."""
        low, high = marginal.quantile([TAIL, 1.0 - TAIL])
        x = np.linspace(low, high, POINTS)
        return cls(marginal.mean, marginal.sd, x, marginal.pdf(x))

    @cached_property
    def _spline(self) -> CubicSpline:
        return CubicSpline(self.x, self.density)

    @cached_property
    def _cumulative(self) -> Array:
        below = self._spline.antiderivative()(self.x)
        return np.asarray(np.maximum.accumulate(below / below[-1]))

    def quantile(self, p: ArrayLike) -> Array:
        """Values below which it is with probabilities p, between the outermost points."""
        return np.interp(np.asarray(p, dtype=np.float64), self._cumulative, self.x)

    def pdf(self, x: ArrayLike) -> Array:
        """Density, 0 beyond the outermost points."""
        values = np.asarray(x, dtype=np.float64)
        inside = (values >= self.x[0]) & (values <= self.x[-1])
        return np.where(inside, self._spline(np.where(inside, values, self.x[0])), 0.0)
