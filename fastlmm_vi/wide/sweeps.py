"""Mean-field coordinate ascent on X itself: sweeps, the M-step, and the same accelerated in the span of past sweeps."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastlmm_vi_kernels import spectral as kernels

from ..result import Array
from .design import Design
from .posterior import mean_field_variances

MEMORY = 4  # sweeps whose means span the subspace of an accelerated step
FALLS = 5  # consecutive steps in which γ falls by the largest factor, after which the boundary γ = 0 is tried


@dataclass(eq=False)
class State:
    """q(β) = Π N(mean_j, var_j) and θ, with the residual y − Zω − X mean that the sweep keeps up to date."""

    mean: Array
    var: Array
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


def elbo(residual: Array, sq_norms: Array, mean: Array, var: Array, sigma2_beta: float, sigma2_e: float) -> float:
    """E_q log p(y | β) + E_q log p(β) + entropy of q, summed term by term from q; no spectrum.

    `residual` is y − Zω − X mean (n,), `sq_norms` are ‖x_j‖² (p,). At σ²_β = 0 prior and entropy cancel.
    """
    n, p = residual.size, mean.size
    likelihood = -0.5 * n * np.log(2 * np.pi * sigma2_e) - 0.5 * (residual @ residual + sq_norms @ var) / sigma2_e
    if sigma2_beta == 0.0:
        return float(likelihood)
    prior = -0.5 * p * np.log(2 * np.pi * sigma2_beta) - 0.5 * (mean @ mean + var.sum()) / sigma2_beta
    entropy = 0.5 * p * np.log(2 * np.pi * np.e) + 0.5 * np.log(var).sum()
    return float(likelihood + prior + entropy)


def ascend(
    design: Design,
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
    accelerate : bool
        False: the textbook's sweep and M-step. True: after each sweep the ELBO is maximised jointly over σ²_β, σ²_e,
        ω and all means in the span of the last sweeps (`_Subspace`); since the current point lies in it, the ELBO
        cannot fall.
    fixed : (σ²_β, σ²_e, a) or None
        Hold θ there and find q alone (`theta_by="loglik"`).
    start : (σ²_β, σ²_e)
    tol : float
        On the gradient, free of units: in E[β_j] per standard deviation of q, in log σ²_β and log σ²_e.
    report : callable
        Called with the iteration and the gradient.
    """
    clock = time.perf_counter
    begin = clock()
    features, sq_norms, Q = design.features, design.features.column_sq_norms(), design.Q
    n, p = design.n, design.p
    s = _start(design, fixed, start)
    y = s.residual.copy()
    space = _Subspace(y, n, sq_norms)
    no_signal = _no_signal(design, sq_norms)
    rows = []

    def record(change: float) -> float:
        value = elbo(s.residual, sq_norms, s.mean, s.var, s.sigma2_beta, s.sigma2_e)
        rows.append((value, s.sigma2_beta, s.sigma2_e, change, clock() - begin, s.a.copy()))
        return value

    value = record(np.nan)
    gradient, converged, falls = np.inf, False, 0
    for iteration in range(1, max_iter + 1):
        change = features.sweep(s.gamma, s.mean, s.residual) / np.sqrt(s.sigma2_e)
        s.var = mean_field_variances(sq_norms, s.gamma, s.sigma2_e)
        gradient = change
        if fixed is None:
            shift = Q.T @ s.residual
            s.a += shift
            s.residual -= Q @ shift
        if accelerate:
            space.add(s)
            slope = space.step(s, theta_free=fixed is None)
            gradient = max(gradient, abs(slope))
            falls = falls + 1 if slope < 0.0 else 0
            if fixed is None and (falls >= FALLS or not s.mean.any()) and no_signal and no_signal[0] >= value:
                s.mean[:], s.var[:], s.residual[:], s.a[:] = 0.0, 0.0, y, 0.0
                s.sigma2_beta, s.sigma2_e = 0.0, no_signal[1]
        elif fixed is None:
            sigma2_beta = float(s.mean @ s.mean + s.var.sum()) / p
            sigma2_e = float(s.residual @ s.residual + sq_norms @ s.var) / n
            steps = 0.5 * p * np.log(sigma2_beta / s.sigma2_beta), 0.5 * n * np.log(sigma2_e / s.sigma2_e)
            gradient = max(gradient, *np.abs(steps))
            s.sigma2_beta, s.sigma2_e = sigma2_beta, sigma2_e
        value = record(change)
        report(iteration, gradient)
        if gradient <= tol or s.sigma2_beta == 0.0:
            converged = True
            break
        if not s.sigma2_e > 1e-20 * start[1]:  # y is reproduced: the ELBO rises without a maximum
            break
    values, betas, es, changes, seconds, a = map(np.array, zip(*rows, strict=True))
    return Ascent(s, values, betas, es, a, changes, seconds, converged, float(gradient))


def _start(design: Design, fixed: tuple[float, float, Array] | None, start: tuple[float, float]) -> State:
    sigma2_beta, sigma2_e, a = (*start, np.zeros(design.c)) if fixed is None else fixed
    residual = design.residual - design.Q @ a
    var = mean_field_variances(design.features.column_sq_norms(), sigma2_beta / sigma2_e, sigma2_e)
    return State(np.zeros(design.p), var, residual, a.copy(), sigma2_beta, sigma2_e)


def _no_signal(design: Design, sq_norms: Array) -> tuple[float, float] | None:
    """(log-likelihood, σ²_e) at σ²_β = 0 where the ELBO falls from there, else None: one read of X."""
    y, n = design.residual, design.n
    rss = float(y @ y)
    slope = n * float((design.features.rmatvec(y) ** 2).sum()) / rss - float(sq_norms.sum())
    return (-0.5 * n * (np.log(2 * np.pi * rss / n) + 1.0), rss / n) if slope <= 0.0 else None


class _Subspace:
    """The span of the last sweeps' means, in which the ELBO over means, ω and variances is a one-variable problem.

    For means Σ_k α_k m_k with fits g_k = MX m_k the profile ELBO is the one of the whole model with XᵀX's spectrum
    replaced by its Rayleigh–Ritz values on the span (docs/derivation.md, section 9): the same kernel maximises it.
    """

    def __init__(self, y: Array, n: int, sq_norms: Array) -> None:
        self.y, self.n, self.sq_norms = y, n, sq_norms
        self.kept: deque[tuple[Array, Array, Array]] = deque(maxlen=MEMORY)

    def add(self, s: State) -> None:
        if s.mean.any():
            self.kept.append((s.mean.copy(), self.y - s.residual, s.a.copy()))

    def step(self, s: State, *, theta_free: bool) -> float:
        """Move `s` to the maximum over the span, γ by a factor of 4 at most.

        Returns the slope in log γ that remains where γ was held back by that factor, else 0.
        """
        if not self.kept:
            return 0.0
        means, fits, effects = (np.array(part) for part in zip(*self.kept, strict=True))
        T, ritz = self._ritz(means, fits)
        h = T.T @ (fits @ self.y)
        rest = max(float(self.y @ self.y - (h**2 / ritz).sum()), 0.0)
        d = np.append(ritz, 0.0)
        data = (d, np.append(h / np.sqrt(ritz), np.sqrt(rest)), np.empty((d.size, 0)), self.n, self.sq_norms, False)
        gamma, slope = s.gamma, 0.0
        if theta_free:
            gamma, slope = _near(gamma, data)
            s.sigma2_e = kernels.profile(gamma, *data)[3]
            s.sigma2_beta = gamma * s.sigma2_e
        alpha = T @ (gamma * h / (1.0 + gamma * ritz))
        s.mean = alpha @ means
        s.residual = self.y - alpha @ fits
        if theta_free:
            s.a = alpha @ effects
        s.var = mean_field_variances(self.sq_norms, gamma, s.sigma2_e)
        return slope

    @staticmethod
    def _ritz(means: Array, fits: Array) -> tuple[Array, Array]:
        """T (k, r) with TᵀMMᵀT = I and TᵀGGᵀT = diag(ritz), directions within rounding of the others dropped."""
        norms = np.linalg.norm(means, axis=1)
        scaled = means / norms[:, None]
        values, vectors = np.linalg.eigh(scaled @ scaled.T)
        keep = values > 1e-13 * values[-1]
        T = vectors[:, keep] / np.sqrt(values[keep]) / norms[:, None]
        half = T.T @ fits
        ritz, W = np.linalg.eigh(half @ half.T)
        keep = ritz > 0.0
        return T @ W[:, keep], ritz[keep]


def _near(gamma: float, data: tuple[object, ...]) -> tuple[float, float]:
    """The maximum of the profile between γ/4 and 4γ, and its slope in log γ where it lies at an end (0 inside)."""
    value = kernels.profile(gamma, *data)[0]
    for end, outward in ((gamma / 4.0, -1.0), (gamma * 4.0, 1.0)):
        at_end, slope = kernels.profile(end, *data)[:2]
        if at_end >= value and outward * slope >= 0.0:
            return end, end * slope
    gammas, values = kernels.climb(gamma / 4.0, gamma * 4.0, gamma, 50, *data)
    return (float(gammas[-1]), 0.0) if values[-1] >= value else (gamma, 0.0)
