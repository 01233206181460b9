"""Profile likelihood: how much the deviance rises when one parameter is held at a value and all others are fitted again."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.optimize
import scipy.stats

from ..result import Array
from . import parameters, reml
from .cross_products import CrossProducts
from .likelihood import Likelihood
from .solution import Solution

if TYPE_CHECKING:
    from .result import MixedFit

MOST = 3.5  # |ζ| up to which a profile is drawn
POINTS = 8  # on either side
FAR = 1e12  # a deviance that no model has


class Profile:
    """The signed root ζ(value) = ± √(deviance with the parameter held there − smallest deviance) of one parameter.

    The deviance is that of maximum likelihood, as in lme4's `profile`; under the model ζ is nearly standard normal.
    """

    def __init__(self, fit: "MixedFit", name: str, report: Callable[[float], None] = lambda value: None) -> None:
        self.ml = fit if not fit.reml else fit.refit("ml")
        self.name = name
        self.report = report  # called with every value
        self.estimate = float(self.ml.point_estimates[name])
        self.lowest, self.highest = _range(name)
        self._held: Callable[[float], float] = (
            _fixed(self.ml, name) if name.startswith("b_") else _variance(self.ml, name)
        )

    def zeta(self, value: float) -> float:
        """ζ at a value."""
        self.report(value)
        rise = self._held(value) - self.ml.deviance
        return float(np.copysign(np.sqrt(max(rise, 0.0)), value - self.estimate))

    def bound(self, target: float) -> float:
        """The value at which ζ is `target`; the end of the parameter's range where ζ does not get there."""
        end = self.lowest if target < 0.0 else self.highest
        step = 0.5 * abs(target) * self._scale()
        inner, outer = self.estimate, self.estimate
        for _ in range(60):
            outer = float(np.clip(outer + np.copysign(step, target), self.lowest, self.highest))
            if abs(self.zeta(outer)) >= abs(target):
                return float(scipy.optimize.brentq(lambda x: self.zeta(x) - target, inner, outer, rtol=1e-7))
            if outer == end:
                return end
            inner, step = outer, 1.5 * step
        return end

    def _scale(self) -> float:
        """A first guess of the standard error."""
        table = self.ml.to_frame() if self.name.startswith("b_") else self.ml.variances
        se = float(table["se"].to_dict()[self.name])
        return se if np.isfinite(se) and se > 0.0 else 0.1 * (self.ml.sigma if self.name.startswith("s") else 1.0)

    def table(self) -> pd.DataFrame:
        """ζ on a grid from −`MOST` to `MOST`, or to the end of the range."""
        low, high = self.bound(-MOST), self.bound(MOST)
        grid = np.union1d(np.linspace(low, self.estimate, POINTS + 1), np.linspace(self.estimate, high, POINTS + 1))
        return pd.DataFrame({"parameter": self.name, "value": grid, "zeta": [self.zeta(value) for value in grid]})


def tables(fit: "MixedFit", names: list[str], show: Callable[[str], None]) -> pd.DataFrame:
    """See `MixedFit.profile`."""
    return pd.concat([profile.table() for profile in _profiles(fit, names, show)], ignore_index=True)


def intervals(fit: "MixedFit", level: float, names: list[str], show: Callable[[str], None]) -> pd.DataFrame:
    """Bounds by the profile, for parameters by their brms names."""
    z = float(scipy.stats.norm.isf(0.5 * (1.0 - level)))
    bounds = [(profile.bound(-z), profile.bound(z)) for profile in _profiles(fit, names, show)]
    return pd.DataFrame(bounds, index=names, columns=["lower", "upper"])


def _profiles(fit: "MixedFit", names: list[str], show: Callable[[str], None]) -> Iterator[Profile]:
    """Of every name, with one fit by maximum likelihood for all."""
    ml = fit.refit("ml") if fit.reml else fit
    for i, name in enumerate(names, start=1):
        yield Profile(ml, name, partial(_say, show, f"profile of {name} ({i} of {len(names)})"))


def _say(show: Callable[[str], None], what: str, value: float) -> None:
    show(f"{what}, at {value:.4g}")


def _range(name: str) -> tuple[float, float]:
    if name.startswith("cor_"):
        return -1.0, 1.0
    return (0.0, np.inf) if name.startswith(("sd_", "sigma")) else (-np.inf, np.inf)


def _fixed(ml: "MixedFit", name: str) -> Callable[[float], float]:
    """The deviance with a fixed effect held: its column is moved to the offset."""
    design, j = ml.data.design, ml.data.fixed.kept[ml.fixed_parameters.index(name)]
    others = [k for k in ml.data.fixed.kept if k != j]
    names = tuple(design.fixed_names[k] for k in others)

    def held(value: float) -> float:
        moved = replace(design, X=design.X[:, others], fixed_names=names, y=design.y - value * design.X[:, j])
        likelihood = Likelihood(CrossProducts.of(moved), False)
        return reml.fit(likelihood).deviance + likelihood.constant

    return held


def _variance(ml: "MixedFit", name: str) -> Callable[[float], float]:
    """The deviance with a function of (θ, σ) held, by sequential quadratic programming from the last solution."""
    likelihood, place = ml.likelihood, list(ml.variances.index).index(name)
    free, scale = likelihood.free, ml.data.fixed.scale
    first = np.append(ml.standard_theta, 2.0 * np.log(ml.sigma / scale))
    start = first
    ceiling = (
        min((_without(ml, k, j) for k, j in _pair(ml, place)), default=np.inf) if name.startswith("cor_") else np.inf
    )
    size = max(abs(float(ml.variances["estimate"].iloc[place])), 1e-3 * ml.sigma) if not name.startswith("cor") else 1.0

    def variance(phi: Array) -> float:
        return math.exp(min(max(phi[-1], -50.0), 50.0))  # trials far outside are numbers, too

    def deviance(phi: Array) -> tuple[float, Array]:
        at = likelihood(phi[:-1])
        if not np.isfinite(at.deviance):  # a trial far outside: SLSQP turns back
            return FAR, np.zeros(phi.size)
        sigma2 = variance(phi)
        slope = (at.of_logdet + at.of_squares / sigma2)[free]
        return likelihood.at_sigma2(at, sigma2), np.append(slope, likelihood.degrees - at.squares / sigma2)

    def parameter(phi: Array) -> float:
        solution = Solution(likelihood, phi[:-1], scale * math.sqrt(variance(phi)))
        return float(parameters.values(solution)[place]) / size

    def held(value: float) -> float:
        nonlocal start
        if value == 0.0 and not name.startswith("cor"):
            value = 1e-8 * size
        constraint: dict[str, Any] = {"type": "eq", "fun": lambda phi: parameter(phi) - value / size}
        found = min((_constrained(deviance, constraint, phi) for phi in (start, first)), key=_rank)
        start = found.x if found.success else first
        return min(float(found.fun), ceiling)

    return held


def _pair(ml: "MixedFit", place: int) -> list[tuple[int, int]]:
    """Term and column of the two effects whose correlation stands at a place among the variances."""
    for k, term in enumerate(ml.data.design.terms):
        d = len(term.names)
        rows, columns = np.triu_indices(d, 1)
        if d <= place < d + rows.size:
            return [(k, int(rows[place - d])), (k, int(columns[place - d]))]
        place -= d + rows.size
    return []


def _without(ml: "MixedFit", k: int, j: int) -> float:
    """The least deviance without one effect of a term: that of every correlation of the effect, as its variance goes to 0."""
    terms = list(ml.data.design.terms)
    names = terms[k].names
    terms[k] = replace(terms[k], basis=np.delete(terms[k].basis, j, axis=1), names=names[:j] + names[j + 1 :])
    likelihood = Likelihood(CrossProducts.of(replace(ml.data.design, terms=tuple(terms))), False)
    return reml.fit(likelihood).deviance + likelihood.constant


def _constrained(deviance: Callable[[Array], tuple[float, Array]], constraint: dict[str, Any], start: Array) -> Any:
    """The least deviance under the constraint that a start leads to."""
    return scipy.optimize.minimize(  # type: ignore[call-overload]  # its stubs know no jac=True with a tuple
        deviance, start, jac=True, method="SLSQP", constraints=constraint, options={"ftol": 1e-12, "maxiter": 500}
    )


def _rank(found: Any) -> tuple[bool, float]:
    """Searches that arrived first, the lowest of them first."""
    return not found.success, float(found.fun)
