"""The criterion as a function of γ = σ²_β / σ²_e alone, and its global maximum.

ω and σ²_e have closed forms at a given γ, so that log-likelihood, restricted log-likelihood and ELBO are all
functions of one variable (docs/derivation.md, sections 4 and 8). They may have several maxima, the boundary γ = 0 may
win, and the criterion may be unbounded: hence a scan before the polishing.
"""

import math
from dataclasses import dataclass

import numpy as np

from ..errors import UnboundedLikelihoodError
from ..result import Array, Status
from .basis import Basis, Criterion, Point

# A term d_i / (1 + γ d_i) of the slope changes over about two units of log γ; 0.35 resolves every sign change.
GRID_STEP = 0.35
MOST_STEPS = 100  # of one Newton climb; six are usual


@dataclass(frozen=True)
class Optimum:
    """The global maximum (or the best interior one where the criterion is unbounded), and how it was reached."""

    best: Point
    status: Status
    modes: tuple[Point, ...]
    path: tuple[Point, ...]  # the accepted steps towards the best mode


def maximise(basis: Basis, criterion: Criterion) -> Optimum:
    """Return the global maximum of the criterion over γ ≥ 0: scan, then Newton in every bracket.

    Raises
    ------
    UnboundedLikelihoodError
        If the criterion is unbounded and has no interior maximum.
    """
    zero = basis.at(criterion, 0.0)
    # A slope within rounding of 0, where σ²_β leaves no trace, is none.
    if zero.slope <= 1e-12 * basis.trace:
        zero = zero._replace(slope=min(zero.slope, 0.0))
    smallest, largest = basis.extremes
    if largest == 0.0:
        return Optimum(zero, Status.ZERO_SIGMA2_BETA, (zero,), (zero,))
    grid = [0.0, *_grid(smallest, largest)]
    rises = [zero.slope > 0.0, *(basis.rises(criterion, gamma) for gamma in grid[1:])]
    last = basis.at(criterion, grid[-1])

    modes: list[tuple[Point, tuple[Point, ...]]] = []
    for i in range(len(grid) - 1):
        if not (rises[i] and not rises[i + 1]):
            continue
        below, above = (basis.at(criterion, gamma) for gamma in grid[i : i + 2])
        path = [below, *climb(basis, criterion, below.gamma, above.gamma)]  # the scan's point is where it began
        if i == 0 or not _is_rounding(basis, smallest, below, above):
            modes.append((path[-1], _rising(path)))
    modes.sort(key=lambda mode: -mode[0].value)
    interior = tuple(mode for mode, _ in modes)

    if last.slope > 0.0 and _unbounded(basis, criterion):
        if not modes:
            raise UnboundedLikelihoodError(
                f"The {criterion.name} grows without end as σ²_e → 0 and has no interior maximum: X and the covariates "
                f"can reproduce any y (n = {basis.n}, rank of X = {basis.n - basis.nullity}, "
                f"{basis.c} fixed effects). Use method='newton', reml=True: bounded here."
            )
        return Optimum(interior[0], Status.UNBOUNDED, interior, modes[0][1])
    candidates = [(mode, Status.CONVERGED, steps) for mode, steps in modes]
    if zero.slope <= 0.0:
        candidates.append((zero, Status.ZERO_SIGMA2_BETA, (zero,)))
    if last.slope > 0.0 or not candidates:
        candidates.append((last, Status.ZERO_SIGMA2_E, (last,)))
    best, status, accepted = max(candidates, key=lambda candidate: candidate[0].value)
    rest = (mode for mode, _, _ in candidates if mode is not best)
    return Optimum(best, status, (best, *sorted(rest, key=lambda mode: -mode.value)), accepted)


def climb(basis: Basis, criterion: Criterion, lo: float, hi: float, start: float | None = None) -> list[Point]:
    """Maximise the criterion between lo (slope > 0) and hi (slope < 0) by Newton steps, bisecting where one leaves.

    Returns the visited points. Newton converges quadratically: after a step of relative size 1e-8 the next point is
    exact to rounding.
    """
    gamma = start if start is not None else math.sqrt(lo * hi) if lo > 0.0 else hi
    step = math.inf
    visited: list[Point] = []
    while len(visited) < MOST_STEPS:
        point = basis.at(criterion, gamma)
        visited.append(point)
        if point.slope == 0.0 or abs(step) <= 1e-8 * gamma:
            break
        lo, hi = (gamma, hi) if point.slope > 0.0 else (lo, gamma)
        new = gamma - point.slope / point.curvature if point.curvature < 0.0 else -1.0
        if not lo < new < hi:
            new = math.sqrt(lo * hi) if lo > 0.0 else 0.5 * hi
        step, gamma = new - gamma, new
    return visited


def _rising(path: list[Point]) -> tuple[Point, ...]:
    """The points of a path that are not below the highest so far, but for rounding: which way that falls is chance."""
    values = np.array([point.value for point in path])
    highest = np.maximum.accumulate(values)
    return tuple(path[i] for i in np.flatnonzero(values >= highest - 1e-12 * np.abs(highest)))


def _grid(smallest: float, largest: float) -> Array:
    """γ from where every γ d_i is small to where σ²_e is 1e-10 of what the weakest direction of X explains.

    Fine where some γ d_i is of order 1; coarse beyond, where the criterion is a function of one or two powers of γ and
    turns at most once.
    """
    lo, hi = math.log(1.0 / largest), math.log(1.0 / smallest)
    ends = np.array([lo - 9.0, lo - 5.0, hi + 5.0, hi + 23.0])
    steps = np.array([4.0, 1.0, 4.0]) * GRID_STEP
    parts = [np.arange(a, b, step) for a, b, step in zip(ends[:-1], ends[1:], steps, strict=True)]
    return np.exp(np.append(np.concatenate(parts), ends[-1]))


def _is_rounding(basis: Basis, smallest: float, below: Point, above: Point) -> bool:
    """Whether a change of sign of the slope between two points is rounding where the criterion is flat.

    It may be flat everywhere (X within the covariates' span, under REML), or on a plateau at large γ: where the weakest
    direction of X has γ d > 1e6 it is flat to 1e-6 of a nat or has slopes of order n in log γ; what lies between is the
    error of |QᵀV⁻¹Q|, whose directions differ in size by γ d.
    """
    steepest = max(abs(point.slope) * point.gamma for point in (below, above))
    return steepest < 1e-9 * basis.n or (above.gamma * smallest > 1e6 and steepest < 1e-3)


def _unbounded(basis: Basis, criterion: Criterion) -> bool:
    """Whether the criterion → ∞ as γ → ∞ for any y: no direction of null(K) is orthogonal to all covariates.

    There the residual can be made 0, F ~ 1/γ, and the criterion grows like ½ (f − rank of what is penalised) log γ.
    """
    nullity = basis.nullity
    if nullity == 0 or not basis.covered or criterion.reml:
        return False
    penalised = basis.n - nullity if criterion.h is None else int(np.count_nonzero(criterion.h))
    return penalised < basis.n
