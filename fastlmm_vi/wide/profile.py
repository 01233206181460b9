"""The criterion as a function of γ = σ²_β / σ²_e alone, and its global maximum.

ω and σ²_e have closed forms at a given γ, so that log-likelihood, restricted log-likelihood and ELBO are all
functions of one variable (docs/derivation.md, sections 4 and 8). They may have several maxima, the boundary γ = 0 may
win, and the criterion may be unbounded: hence a scan before the polishing.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from fastlmm_vi_kernels import spectral as kernels

from ..errors import UnboundedLikelihoodError
from ..result import Array, Status
from .spectrum import Rotated

# A term d_i / (1 + γ d_i) of the slope changes over about two units of log γ; 0.35 resolves every sign change.
GRID_STEP = 0.35


class Criterion(NamedTuple):
    """What is maximised: `h` are the eigenvalues of XᵀX (likelihood) or its diagonal (ELBO)."""

    name: str
    h: Array
    reml: bool = False


class Point(NamedTuple):
    """The criterion at one γ, with everything else at its optimum there."""

    gamma: float
    value: float
    slope: float
    sigma2_e: float
    a: Array

    @property
    def sigma2_beta(self) -> float:
        """σ²_β = γ σ²_e."""
        return self.gamma * self.sigma2_e


@dataclass(frozen=True)
class Optimum:
    """The global maximum (or the best interior one where the criterion is unbounded), and how it was reached."""

    best: Point
    status: Status
    modes: tuple[Point, ...]
    path: Array  # the γ of the accepted steps towards the best mode


def likelihood(rotated: Rotated, reml: bool = False) -> Criterion:
    """The (restricted) log-likelihood of the rotated data."""
    name = "restricted log-likelihood" if reml else "log-likelihood"
    return Criterion(name, rotated.d[rotated.d > 0.0], reml)


def elbo(column_sq_norms: Array) -> Criterion:
    """The mean-field ELBO with q(β) at its optimum."""
    return Criterion("ELBO", column_sq_norms)


def evaluate(rotated: Rotated, criterion: Criterion, gamma: float) -> Point:
    """Return the profile criterion at γ: one O(n c²) pass."""
    d, y, Q, n = rotated
    value, slope, _, sigma2_e, a = kernels.profile(gamma, d, y, Q, n, criterion.h, criterion.reml)
    return Point(gamma, value, slope, sigma2_e, a)


def maximise(rotated: Rotated, criterion: Criterion) -> Optimum:
    """Return the global maximum of the criterion over γ ≥ 0: scan, then Newton in every bracket.

    Raises
    ------
    UnboundedLikelihoodError
        If the criterion is unbounded and has no interior maximum.
    """
    zero = evaluate(rotated, criterion, 0.0)
    if zero.slope <= 1e-12 * criterion.h.sum():  # a slope within rounding of 0, where σ²_β leaves no trace, is none
        zero = zero._replace(slope=min(zero.slope, 0.0))
    if not rotated.d.any():
        return Optimum(zero, Status.ZERO_SIGMA2_BETA, (zero,), np.zeros(1))
    grid = _grid(rotated.d)
    arguments = (*rotated, criterion.h, criterion.reml)
    values, slopes = kernels.scan(grid, *arguments)
    grid, values, slopes = np.r_[0.0, grid], np.r_[zero.value, values], np.r_[zero.slope, slopes]

    modes: list[tuple[Point, Array]] = []
    for i in np.flatnonzero((slopes[:-1] > 0.0) & (slopes[1:] <= 0.0)):
        lo, hi = grid[i], grid[i + 1]
        start = hi if lo == 0.0 else np.sqrt(lo * hi)
        gammas, path_values = kernels.climb(lo, hi, start, 100, *arguments)
        gammas = np.r_[lo, gammas]  # the scan's point below the bracket is where the climb began
        rising = np.maximum.accumulate(np.r_[values[i], path_values])
        # Not below the highest so far, but for rounding: which way that falls differs between machines.
        accepted = np.r_[values[i], path_values] >= rising - 1e-12 * np.abs(rising)
        if lo == 0.0 or not _is_rounding(hi, slopes[i : i + 2] * grid[i : i + 2], rotated.d):
            modes.append((evaluate(rotated, criterion, gammas[-1]), gammas[accepted]))
    modes.sort(key=lambda mode: -mode[0].value)
    interior = tuple(mode for mode, _ in modes)

    if slopes[-1] > 0.0 and _unbounded(rotated, criterion):
        if not modes:
            raise UnboundedLikelihoodError(
                f"The {criterion.name} grows without end as σ²_e → 0 and has no interior maximum: X and the covariates "
                f"can reproduce any y (n = {rotated.n}, rank of X = {rotated.n - rotated.nullity}, "
                f"{rotated.Q.shape[1]} fixed effects). Use method='newton', reml=True: bounded here."
            )
        return Optimum(interior[0], Status.UNBOUNDED, interior, modes[0][1])
    candidates = [(mode, Status.CONVERGED, path) for mode, path in modes]
    if zero.slope <= 0.0:
        candidates.append((zero, Status.ZERO_SIGMA2_BETA, np.zeros(1)))
    if slopes[-1] > 0.0 or not candidates:
        floor = evaluate(rotated, criterion, grid[-1])
        candidates.append((floor, Status.ZERO_SIGMA2_E, grid[-1:]))
    best, status, path = max(candidates, key=lambda candidate: candidate[0].value)
    rest = (mode for mode, _, _ in candidates if mode is not best)
    return Optimum(best, status, (best, *sorted(rest, key=lambda mode: -mode.value)), path)


def _grid(d: Array) -> Array:
    """γ from where every γ d_i is small to where σ²_e is 1e-10 of what the weakest direction of X explains.

    Fine where some γ d_i is of order 1; coarse beyond, where the criterion is a function of one or two powers of γ and
    turns at most once.
    """
    lo, hi = np.log(1.0 / d.max()), np.log(1.0 / d[d > 0.0].min())
    ends = np.array([lo - 9.0, lo - 5.0, hi + 5.0, hi + 23.0])
    steps = np.array([4.0, 1.0, 4.0]) * GRID_STEP
    parts = [np.arange(a, b, step) for a, b, step in zip(ends[:-1], ends[1:], steps, strict=True)]
    return np.exp(np.append(np.concatenate(parts), ends[-1]))


def _is_rounding(gamma: float, slopes: Array, d: Array) -> bool:
    """Whether a change of sign of the slope (`slopes` in log γ on either side) is rounding where the criterion is flat.

    It may be flat everywhere (X within the covariates' span, under REML), or on a plateau at large γ: where the weakest
    direction of X has γ d > 1e6 it is flat to 1e-6 of a nat or has slopes of order n; what lies between is the error of
    |QᵀV⁻¹Q|, whose directions differ in size by γ d.
    """
    steepest = np.abs(slopes).max()
    return bool(steepest < 1e-9 * d.size or (gamma * d[d > 0.0].min() > 1e6 and steepest < 1e-3))


def _unbounded(rotated: Rotated, criterion: Criterion) -> bool:
    """Whether the criterion → ∞ as γ → ∞ for any y: no direction of null(K) is orthogonal to all covariates.

    There the residual can be made 0, F ~ 1/γ, and the criterion grows like ½ (f − rank of what is penalised) log γ.
    """
    null_rows = rotated.Q[rotated.d == 0.0]
    nullity = rotated.nullity
    rank = int(np.linalg.matrix_rank(null_rows)) if null_rows.size else 0
    if nullity == 0 or rank < nullity:
        return False
    penalised = int(np.count_nonzero(criterion.h)) + (rank if criterion.reml else 0)
    return rotated.n - penalised > 0
