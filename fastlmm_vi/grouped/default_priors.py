"""Priors that a grouped model has where the user gives none: weakly informative, in the units of the data."""

from dataclasses import dataclass

import numpy as np

from ..priors import HalfStudentT, Normal, ScalePrior
from ..result import Array
from .model_frame import GroupedDesign, Term

WIDE = 2.5  # standard deviations of the response that the prior of a coefficient is wide, as rstanarm's
DF = 3.0  # of the half-t priors, as brms'


@dataclass(frozen=True)
class Sizes:
    """Mean and spread of the response, and of any column, by the weights."""

    weights: Array
    centred: bool  # whether the model has an intercept
    mean: float
    spread: float
    residual: float  # the spread of a row of weight 1

    @classmethod
    def of(cls, design: GroupedDesign) -> "Sizes":
        """Of a design."""
        y = design.y if design.offset is None else design.y - design.offset
        w = np.ones(len(y)) if design.weights is None else design.weights
        centred = "(Intercept)" in design.fixed_names
        mean, spread = moments(y, w, centred)
        return cls(w, centred, mean, spread, spread * float(np.sqrt(w.mean())))

    def per_unit(self, column: Array, centred: bool) -> float:
        """Spread of the response over that of a column."""
        mean, spread = moments(column, self.weights, centred)
        if not spread > 1e-10 * abs(mean):  # constant: it counts by its size
            spread = abs(mean)
        return self.spread / spread if spread > 0.0 else self.spread


def moments(x: Array, w: Array, centred: bool) -> tuple[float, float]:
    """Weighted mean, and standard deviation, or without `centred` the root mean square."""
    mean = float(x[0] + np.average(x - x[0], weights=w))
    return mean, float(np.sqrt(np.average((x - mean if centred else x) ** 2, weights=w)))


def mean(sizes: Sizes) -> Normal:
    """Of the response where all columns are at their means."""
    return Normal(sizes.mean, WIDE * sizes.spread)


def coefficient(column: Array, sizes: Sizes) -> Normal:
    """Of any other coefficient."""
    return Normal(0.0, WIDE * sizes.per_unit(column, sizes.centred))


def sigma(sizes: Sizes) -> ScalePrior:
    """Of the residual standard deviation."""
    return HalfStudentT(DF, sizes.residual)


def scales(term: Term, with_intercept: bool, sizes: Sizes) -> list[HalfStudentT]:
    """Of every standard deviation of a term; `with_intercept`: whether the factor has one, in this term or another."""
    return [
        HalfStudentT(DF, sizes.spread if name == "(Intercept)" else sizes.per_unit(column, with_intercept))
        for name, column in zip(term.names, term.basis.T, strict=True)
    ]
