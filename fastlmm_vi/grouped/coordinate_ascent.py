"""Coordinate ascent on the ELBO from one start, its fixed point found by extrapolation.

A turn updates q(σ), then every q(Σ_l), then the Gaussian factors: each to its optimum given the others, so that the ELBO
never falls. It is a map of the expected squares (of residuals, of the random effects of every term) to themselves. Where the
data tell little it crawls; Anderson's extrapolation of the last iterates makes long steps of it, which count only if they
raise the ELBO.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.linalg

from ..result import Array, Status
from .factors import Factor, of_scale, of_term
from .gaussian_factor import GaussianFactor, Moments
from .model_priors import ModelPriors

MEMORY = 8  # iterates that the extrapolation looks back at
ROUNDING = 1e-11  # of the ELBO, relative to it
FAR = 3.0  # of a logarithm, that an extrapolation may go

Report = Callable[[int, float, float], None]


@dataclass(frozen=True, eq=False)
class Ascent:
    """Where coordinate ascent ended.

    Attributes
    ----------
    sigma : Factor
        q(σ).
    terms : tuple of Factor
        q(Σ_l) in formula order.
    moments : Moments
        Of the Gaussian factors.
    path : ndarray
        The ELBO after every update of a factor; after a step of extrapolation, once for all factors.
    trace : ndarray
        The ELBO after every turn.
    change : float
        Largest change of the logarithm of an expected square in the last turn.
    status : Status
    """

    sigma: Factor
    terms: tuple[Factor, ...]
    moments: Moments
    path: Array
    trace: Array
    change: float
    status: Status

    @property
    def elbo(self) -> float:
        """The evidence lower bound at the end."""
        return float(self.path[-1])

    @property
    def expectations(self) -> tuple[float, list[Array]]:
        """E[1/σ²], and E[Σ⁻¹] of every term."""
        return float(self.sigma.precision[0, 0]), [factor.precision for factor in self.terms]


def climb(
    gaussian: GaussianFactor,
    priors: ModelPriors,
    start: tuple[float, Sequence[Array]],
    *,
    max_iter: int,
    tol: float,
    memory: int = MEMORY,
    report: Report = lambda iteration, elbo, change: None,
) -> Ascent:
    """Ascend from E[1/σ²] and the E[Σ⁻¹] of `start`; `memory` 0 is plain coordinate ascent.

    Raises
    ------
    LinAlgError
        If rounding leaves no positive pivot at the start.
    """
    model = _Model(gaussian, priors)
    first = gaussian(*start)
    coordinates = _Coordinates.of(first)
    at = coordinates.of_squares(first.residual, first.squares)
    now = model.turn(coordinates, at)
    path, trace, history = [now.elbo], [now.elbo], _History(memory)
    status, change, iteration = Status.NOT_CONVERGED, np.inf, 1
    while True:
        move = coordinates.of_squares(now.moments.residual, now.moments.squares) - at
        jump = history.extrapolated(at, move)
        change = float(np.abs(move).max())
        report(iteration, now.elbo, change)
        if change <= tol and (memory == 0 or (jump is not None and np.abs(jump).max() <= tol)):
            status = Status.CONVERGED
            break
        if iteration >= max_iter:
            break
        iteration += 1
        least = now.elbo - ROUNDING * max(1.0, abs(now.elbo))
        found = None if jump is None else model.tried(coordinates, at + jump)
        if found is not None and found.elbo >= least:
            now, at = found, at + np.asarray(jump)
            path.append(now.elbo)
        else:
            history.clear()
            at, before = at + move, now.elbo
            now, values = model.plain_turn(now)
            path += values
            if not min(np.diff([before, *values])) >= least - before:
                status = Status.ELBO_FELL
                break
        trace.append(now.elbo)
    return Ascent(now.sigma, now.terms, now.moments, np.array(path), np.array(trace), change, status)


class _State(NamedTuple):
    """All factors of q; the Gaussian ones optimal given the others."""

    sigma: Factor
    terms: tuple[Factor, ...]
    moments: Moments
    elbo: float


@dataclass(frozen=True, eq=False)
class _Model:
    """How factors are updated."""

    gaussian: GaussianFactor
    priors: ModelPriors

    def turn(self, coordinates: "_Coordinates", at: Array) -> _State:
        """The factors that are optimal for the expected squares with these coordinates, and the Gaussian ones given them."""
        residual, squares = coordinates.to_squares(at)
        sigma = of_scale(self.priors.sigma, self._n, residual)
        terms = tuple(of_term(*each) for each in zip(self.priors.terms, self._levels, squares, strict=True))
        return self._with_gaussian(sigma, terms)

    def tried(self, coordinates: "_Coordinates", at: Array) -> _State | None:
        """The same, or None where squares so far off leave the range of numbers."""
        try:
            return self.turn(coordinates, at)
        except np.linalg.LinAlgError:
            return None

    def plain_turn(self, now: _State) -> tuple[_State, list[float]]:
        """Update factor after factor; and the ELBO after every update."""
        sigma, terms, moments = of_scale(self.priors.sigma, self._n, now.moments.residual), list(now.terms), now.moments
        values = [_elbo(sigma, terms, moments)]
        for k, (prior, levels, squares) in enumerate(
            zip(self.priors.terms, self._levels, moments.squares, strict=True)
        ):
            terms[k] = of_term(prior, levels, squares)
            values.append(_elbo(sigma, terms, moments))
        state = self._with_gaussian(sigma, tuple(terms))
        return state, [*values, state.elbo]

    def _with_gaussian(self, sigma: Factor, terms: tuple[Factor, ...]) -> _State:
        moments = self.gaussian(float(sigma.precision[0, 0]), [factor.precision for factor in terms])
        return _State(sigma, terms, moments, _elbo(sigma, terms, moments))

    @property
    def _n(self) -> int:
        return len(self.gaussian.data.fixed.y)

    @property
    def _levels(self) -> list[int]:
        return [len(term.factor.levels) for term in self.gaussian.data.design.terms]


def _elbo(sigma: Factor, terms: Sequence[Factor], moments: Moments) -> float:
    """E log p(y, β, u, Σ, σ) − E log q, with every constant."""
    of_terms = sum(factor.bound(squares) for factor, squares in zip(terms, moments.squares, strict=True))
    return moments.value + sigma.bound(np.array([[moments.residual]])) + of_terms


@dataclass(frozen=True, eq=False)
class _Coordinates:
    """Expected squares as logarithms of triangular factors, relative to those at the start: no unit of the data is felt."""

    residual: float
    roots: tuple[Array, ...]

    @classmethod
    def of(cls, start: Moments) -> "_Coordinates":
        return cls(start.residual, tuple(np.asarray(np.linalg.cholesky(A), dtype=np.float64) for A in start.squares))

    def of_squares(self, residual: float, squares: Sequence[Array]) -> Array:
        found = [np.array([np.log(residual / self.residual)])]
        for root, A in zip(self.roots, squares, strict=True):
            half = scipy.linalg.solve_triangular(root, A, lower=True)
            L = np.linalg.cholesky(scipy.linalg.solve_triangular(root, half.T, lower=True))
            found += [np.log(np.diag(L)), L[np.tril_indices(len(L), -1)]]
        return np.concatenate(found)

    def to_squares(self, at: Array) -> tuple[float, list[Array]]:
        """The reverse of `of_squares`."""
        found, place = [], 1
        for root in self.roots:
            d = len(root)
            L = np.diag(np.exp(at[place : place + d]))
            place += d
            below = np.tril_indices(d, -1)
            L[below] = at[place : place + below[0].size]
            place += below[0].size
            half = root @ L
            found.append(half @ half.T)
        return self.residual * float(np.exp(at[0])), found


class _History:
    """The last points and what a turn moves them by; where a line through them would have them not move."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.points: list[Array] = []
        self.moves: list[Array] = []

    def clear(self) -> None:
        """Forget all but the last."""
        self.points, self.moves = self.points[-1:], self.moves[-1:]

    def extrapolated(self, point: Array, move: Array) -> Array | None:
        """Anderson's step from the point (Walker and Ni, SIAM J. Numer. Anal. 49, 2011); None without a point before it."""
        self.points, self.moves = [*self.points, point][-self.length - 1 :], [*self.moves, move][-self.length - 1 :]
        if self.length == 0 or len(self.points) < 2:
            return None
        of_points, of_moves = np.diff(self.points, axis=0).T, np.diff(self.moves, axis=0).T
        size = np.linalg.norm(of_moves, axis=0)
        size[size == 0.0] = 1.0
        weights = np.linalg.lstsq(of_moves / size, move, rcond=1e-10)[0] / size
        jump = move - (of_points + of_moves) @ weights
        largest = float(np.abs(jump).max())
        return jump if largest <= FAR else jump * (FAR / largest)
