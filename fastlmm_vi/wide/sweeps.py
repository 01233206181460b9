"""Coordinate ascent on X itself, feature by feature or block by block: sweeps, the M-step, and an acceleration of both."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..result import Array
from . import profile
from .basis import Criterion
from .basis import elbo as elbo_at_its_optimum
from .blocks import Factorisation
from .design import Design
from .posterior import mean_field_variances
from .rotated import Rotated

MEMORY = 4  # sweeps whose means span the subspace of an accelerated step
REACH = 4.0  # largest factor by which an accelerated step changes γ
FALLS = 5  # consecutive steps in which γ falls by that factor, after which the boundary γ = 0 is tried
REPRODUCED = 1e-20  # share of the starting σ²_e below which y counts as reproduced: the ELBO has no maximum


@dataclass(frozen=True, eq=False)
class State:
    """q(β) = Π_b N(m_b, S_b) and θ, with `residual` = y − Zω − X mean; sweeps overwrite mean and residual.

    `spread` (p,) are the eigenvalues of all S_b, in the order of the factorisation's h; of single features the variances.
    """

    mean: Array
    spread: Array
    residual: Array
    a: Array
    sigma2_beta: float
    sigma2_e: float

    @property
    def gamma(self) -> float:
        """σ²_β / σ²_e."""
        return self.sigma2_beta / self.sigma2_e


@dataclass(frozen=True, eq=False)
class Ascent:
    """The iterates of one run: θ, ω (rotated), ELBO and the largest change at each, and the last q."""

    state: State
    elbo: Array
    sigma2_beta: Array
    sigma2_e: Array
    a: Array
    max_change: Array
    seconds: Array
    converged: bool
    gradient: float


def elbo(residual: Array, h: Array, mean: Array, spread: Array, sigma2_beta: float, sigma2_e: float) -> float:
    """E_q log p(y | β) + E_q log p(β) + entropy of q, summed term by term from q; no spectrum of X.

    `residual` is y − Zω − X mean (n,), `h` the eigenvalues of all X_bᵀX_b (p,), of single features ‖x_j‖², and `spread`
    those of S_b in the same eigenvectors. At σ²_β = 0 prior and entropy cancel.
    """
    n, p = residual.size, mean.size
    likelihood = -0.5 * n * np.log(2 * np.pi * sigma2_e) - 0.5 * (residual @ residual + h @ spread) / sigma2_e
    if sigma2_beta == 0.0:
        return float(likelihood)
    prior = -0.5 * p * np.log(2 * np.pi * sigma2_beta) - 0.5 * (mean @ mean + spread.sum()) / sigma2_beta
    entropy = 0.5 * p * np.log(2 * np.pi * np.e) + 0.5 * np.log(spread).sum()
    return float(likelihood + prior + entropy)


def ascend(
    design: Design,
    factorisation: Factorisation,
    *,
    accelerate: bool,
    fixed: tuple[float, float, Array] | None,
    start: tuple[float, float],
    tol: float,
    max_iter: int,
    report: Callable[[int, float], None],
) -> Ascent:
    """Run sweeps from q(β) with zero means and θ = `start` until the ELBO's gradient is below `tol`.

    Parameters
    ----------
    factorisation : Factorisation
        Of q(β), on the design's features.
    accelerate : bool
        False: the textbook's sweep and M-step. True: after each sweep the ELBO is maximised jointly over σ²_β, σ²_e,
        ω and all means in the span of the last sweeps (`_Subspace`); the current point lies in it, so the ELBO cannot
        fall, and a step that rounding lets fall is not taken.
    fixed : (σ²_β, σ²_e, a) or None
        Hold θ there and find q alone (`theta_by="loglik"`).
    start : (σ²_β, σ²_e)
    tol : float
        On the gradient, free of units: in E[β_j] per standard deviation of q, in log σ²_β and log σ²_e.
    report : callable
        Called with the iteration and the gradient.
    """
    begin = time.perf_counter()
    h = factorisation.h
    s = _start(design, h, fixed, start)
    space = _Subspace(s.residual.copy(), h, theta_free=fixed is None)
    boundary = _Boundary(design) if accelerate and fixed is None else None
    rows = [(_elbo(s, h), s.sigma2_beta, s.sigma2_e, s.a, np.nan, 0.0)]
    gradient, converged = np.inf, False
    for iteration in range(1, max_iter + 1):
        change = gradient = factorisation.sweep(s.gamma, s.mean, s.residual) / np.sqrt(s.sigma2_e)
        s = replace(s, spread=mean_field_variances(h, s.gamma, s.sigma2_e))
        if fixed is None:
            s = _fit_omega(design, s)
        if accelerate:
            s, slope = space.step(s)
            gradient = max(gradient, abs(slope))
            if boundary is not None:
                s = boundary.reached(s, slope, rows[-1][0])
        elif fixed is None:
            s, slope = _m_step(s, h)
            gradient = max(gradient, slope)
        rows.append((_elbo(s, h), s.sigma2_beta, s.sigma2_e, s.a, change, time.perf_counter() - begin))
        report(iteration, gradient)
        converged = gradient <= tol or s.sigma2_beta == 0.0
        if converged or not s.sigma2_e > REPRODUCED * start[1]:
            break
    values, betas, es, a, changes, seconds = map(np.array, zip(*rows, strict=True))
    return Ascent(s, values, betas, es, a, changes, seconds, bool(converged), float(gradient))


def _start(design: Design, h: Array, fixed: tuple[float, float, Array] | None, start: tuple[float, float]) -> State:
    sigma2_beta, sigma2_e, a = (*start, np.zeros(design.c)) if fixed is None else fixed
    spread = mean_field_variances(h, sigma2_beta / sigma2_e, sigma2_e)
    return State(np.zeros(design.p), spread, design.residual - design.Q @ a, a, sigma2_beta, sigma2_e)


def _elbo(s: State, h: Array) -> float:
    return elbo(s.residual, h, s.mean, s.spread, s.sigma2_beta, s.sigma2_e)


def _fit_omega(design: Design, s: State) -> State:
    """ω by least squares of y − X mean."""
    shift = design.Q.T @ s.residual
    return replace(s, a=s.a + shift, residual=s.residual - design.Q @ shift)


def _m_step(s: State, h: Array) -> tuple[State, float]:
    """Both variances at their optimum given q, and the gradient in their logarithms before."""
    n, p = s.residual.size, s.mean.size
    sigma2_beta = float(s.mean @ s.mean + s.spread.sum()) / p
    sigma2_e = float(s.residual @ s.residual + h @ s.spread) / n
    slopes = 0.5 * p * (sigma2_beta / s.sigma2_beta - 1.0), 0.5 * n * (sigma2_e / s.sigma2_e - 1.0)
    return replace(s, sigma2_beta=sigma2_beta, sigma2_e=sigma2_e), float(max(np.abs(slopes)))


class _Boundary:
    """σ²_β = 0, where the ELBO is the least-squares log-likelihood: taken when γ keeps falling and it is a maximum."""

    def __init__(self, design: Design) -> None:
        y, n = design.residual, design.n
        rss = float(y @ y)
        self.value = -0.5 * n * (np.log(2 * np.pi * rss / n) + 1.0)
        self.is_maximum = (
            n * float((design.features.rmatvec(y) ** 2).sum()) / rss <= design.features.column_sq_norms().sum()
        )
        self.state = State(np.zeros(design.p), np.zeros(design.p), y.copy(), np.zeros(design.c), 0.0, rss / n)
        self.falls = 0

    def reached(self, s: State, slope: float, value: float) -> State:
        """Return the boundary state where it is due, else `s`."""
        self.falls = self.falls + 1 if slope < 0.0 else 0
        due = self.falls >= FALLS or not s.mean.any()
        return self.state if due and self.is_maximum and self.value >= value else s


class _Subspace:
    """The span of the last sweeps' means, in which the ELBO over means, ω and variances is a one-variable problem.

    For means Σ_k α_k m_k with fits g_k = MX m_k the profile ELBO is the one of the whole model with XᵀX's spectrum
    replaced by its Rayleigh–Ritz values on the span (docs/derivation.md, section 9): the same kernel maximises it.
    """

    def __init__(self, y: Array, h: Array, *, theta_free: bool) -> None:
        self.y, self.h, self.theta_free = y, h, theta_free
        self.kept: deque[tuple[Array, Array, Array]] = deque(maxlen=MEMORY)

    def step(self, s: State) -> tuple[State, float]:
        """Return the maximum over the span of the last means and this one, with γ within a factor of `REACH`.

        Also returns the slope in log γ that remains where γ was held back by that factor, else 0.
        """
        if not s.mean.any():
            return s, 0.0
        self.kept.append((s.mean.copy(), self.y - s.residual, s.a))
        means, fits, effects = (np.array(part) for part in zip(*self.kept, strict=True))
        T, ritz = self._ritz(means, fits)
        g = T.T @ (fits @ self.y)
        rest = max(float(self.y @ self.y - (g**2 / ritz).sum()), 0.0)
        d, y = np.append(ritz, 0.0), np.append(g / np.sqrt(ritz), np.sqrt(rest))
        gamma, slope, sigma2_e = s.gamma, 0.0, s.sigma2_e
        if self.theta_free:
            span = Rotated(d, y, np.empty((d.size, 0)), self.y.size)
            gamma, slope, sigma2_e = _near(span, elbo_at_its_optimum(self.h), gamma)
        alpha = T @ (gamma * g / (1.0 + gamma * ritz))
        stepped = State(
            mean=alpha @ means,
            spread=mean_field_variances(self.h, gamma, sigma2_e),
            residual=self.y - alpha @ fits,
            a=alpha @ effects if self.theta_free else s.a,
            sigma2_beta=gamma * sigma2_e if self.theta_free else s.sigma2_beta,
            sigma2_e=sigma2_e,
        )
        before, after = _elbo(s, self.h), _elbo(stepped, self.h)
        if after >= before - 1e-13 * abs(before):
            return stepped, slope
        self.kept.clear()
        return s, np.inf

    def _ritz(self, means: Array, fits: Array) -> tuple[Array, Array]:
        """T (k, r) with TᵀMMᵀT = I and TᵀGGᵀT = diag(ritz).

        Directions that are the others' to rounding are left out, and so are those whose fit is nothing but rounding
        (where X has a null space): the best coefficient on them is 0.
        """
        norms = np.linalg.norm(means, axis=1)
        scaled = means / norms[:, None]
        values, vectors = np.linalg.eigh(scaled @ scaled.T)
        keep = values > 1e-13 * values[-1]
        T = vectors[:, keep] / np.sqrt(values[keep]) / norms[:, None]
        half = T.T @ fits
        ritz, W = np.linalg.eigh(half @ half.T)
        keep = ritz > 1e-26 * (self.y @ self.y) * (T**2).sum(axis=0).max()
        return T @ W[:, keep], ritz[keep]


def _near(span: Rotated, criterion: Criterion, gamma: float) -> tuple[float, float, float]:
    """The γ that maximises the profile within `REACH`, its slope in log γ where that is an end (0 inside), and σ²_e."""
    value = span.at(criterion, gamma).value
    for end, outward in ((gamma / REACH, -1.0), (gamma * REACH, 1.0)):
        point = span.at(criterion, end)
        if point.value >= value and outward * point.slope >= 0.0:
            return end, end * point.slope, point.sigma2_e
    best = profile.climb(span, criterion, gamma / REACH, gamma * REACH, gamma)[-1]
    return best.gamma, 0.0, best.sigma2_e
