"""Variational Bayes of the wide model, q(ω) q(β) q(σ²_β) q(σ²_e): coordinate ascent in the eigenbasis, O(n c²) a step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

from ..priors import LOG_2PI, Fixed, Gaussian, InverseGamma, ScalePrior
from ..result import Array
from .evidence import rounding
from .prior import Priors
from .rotated import Rotated
from .variances import log_prior

STEP = 1e-5  # of differences in log τ
LARGEST_MOVE = 2.0  # of a long step in log τ


class ScaleFactor(NamedTuple):
    """q(σ²) ∝ p(σ) (2πσ²)^(−number/2) exp(−S/σ²): one factor at its optimum, S half the expected sum of squares."""

    prior: ScalePrior | Fixed
    number: int

    def log_kernel(self, log_variance: Array, half_squares: float) -> Array:
        """Log of its unnormalised density in log σ²."""
        with np.errstate(over="ignore"):
            quadratic = half_squares * np.exp(-log_variance)
        return log_prior(self.prior, log_variance) - 0.5 * self.number * (LOG_2PI + log_variance) - quadratic

    def normalise(self, half_squares: float) -> tuple[float, float]:
        """Log of its integral, which is what it adds to the ELBO, and τ = E[1/σ²].

        In closed form for `InverseGamma`, whose q is inverse gamma; by quadrature of one dimension for other priors.
        """
        if isinstance(self.prior, InverseGamma):
            shape, rate = self.prior.shape + 0.5 * self.number, self.prior.scale + half_squares
            constant = self.prior.shape * np.log(self.prior.scale) - gammaln(self.prior.shape)
            log_z = constant - 0.5 * self.number * LOG_2PI + gammaln(shape) - shape * np.log(rate)
            return float(log_z), shape / rate
        if isinstance(self.prior, Fixed):
            log_variance = np.array([2.0 * np.log(self.prior.value)])
            return float(self.log_kernel(log_variance, half_squares)[0]), self.prior.value**-2
        x = np.log(2.0 * half_squares / self.number) + np.sqrt(2.0 / self.number) * np.sinh(np.linspace(-9.0, 9.0, 401))
        for points in (401, 801):  # what is not negligible, closer and closer; the trapezoid rule is then exact
            holds = np.flatnonzero(_above(self.log_kernel(x, half_squares)))
            x = np.linspace(x[max(holds[0] - 1, 0)], x[min(holds[-1] + 1, x.size - 1)], points)
        log_mass = self.log_kernel(x, half_squares) + np.log(x[1] - x[0])
        log_z = float(logsumexp(log_mass))
        return log_z, float(np.exp(log_mass - log_z) @ np.exp(-x))


def _above(log_density: Array) -> NDArray[np.bool_]:
    """Where a density is more than e⁻⁴⁵ of its maximum."""
    return log_density > log_density.max() - 45.0


@dataclass(frozen=True, eq=False)
class State:
    """q after one round: means and covariances given τ, then q(σ²) given those; `tau` is where the round began.

    Attributes
    ----------
    tau, new : ndarray (2,)
        E[1/σ²_β] and E[1/σ²_e] before and after the update of q(σ²).
    effects, covariance : ndarray (c,), (c, c)
        Of q(a), a the rotated ω.
    half_squares : ndarray (2,)
        ½ E‖β‖² and ½ E‖y − Zω − Xβ‖².
    """

    tau: Array
    new: Array
    effects: Array
    covariance: Array
    half_squares: Array
    elbo: float


class Ascent(NamedTuple):
    """Accepted states of one start, how far the last is from the fixed point (in log τ), and whether the ELBO ever fell."""

    states: list[State]
    distance: float
    fell: bool


def update(basis: Rotated, p: int, priors: Priors, tau: Array) -> State:
    """One round of coordinate ascent at τ: q(ω) and q(β) at their joint optimum, then q(σ²_β) and q(σ²_e).

    The covariances are (τ_e QᵀQ + P)⁻¹ and (τ_e XᵀX + τ_β I)⁻¹; the means, at which alternate updates of the two factors
    end, are those of the exact posterior at γ = τ_e / τ_β and σ²_e = 1/τ_e. Docs: derivation_bayes_wide, section 4.
    """
    d, y, Q, n = basis
    t_beta, t_e = tau
    prior: Gaussian = priors.effects
    c, positive = basis.c, basis.positive
    kept = 1.0 / (1.0 + t_e / t_beta * d)  # what is left of a residual once β is fitted to it
    B = t_e * (Q.T * kept) @ Q + prior.precision
    effects = np.linalg.solve(B, t_e * Q.T @ (kept * y) + prior.precision @ prior.mean)
    precision = t_e * np.eye(c) + prior.precision
    covariance = np.linalg.inv(precision)
    residual = y - Q @ effects
    spread = 1.0 / (t_e * positive + t_beta)  # variances of q(β) along the eigenvectors of XᵀX
    squares_beta = (t_e / t_beta) ** 2 * float((d * kept**2) @ residual**2)
    squares_beta += float(spread.sum()) + (p - positive.size) / t_beta
    squares_e = float((kept * residual) @ (kept * residual)) + float(positive @ spread) + float(np.trace(covariance))
    half_squares = 0.5 * np.array([squares_beta, squares_e + rounding(basis)])
    log_beta, new_beta = ScaleFactor(priors.sigma_beta, p).normalise(half_squares[0])
    log_e, new_e = ScaleFactor(priors.sigma_e, n).normalise(half_squares[1])
    off = effects - prior.mean
    prior_of_effects = prior.log_constant - 0.5 * float(
        off @ prior.precision @ off + np.sum(prior.precision * covariance)
    )
    entropy_effects = 0.5 * (c * (LOG_2PI + 1.0) - float(np.linalg.slogdet(precision)[1]))
    entropy_beta = 0.5 * (p * (LOG_2PI + 1.0) + float(np.log(spread).sum()) - (p - positive.size) * np.log(t_beta))
    elbo = log_beta + log_e + prior_of_effects + entropy_effects + entropy_beta
    return State(tau, np.array([new_beta, new_e]), effects, covariance, half_squares, elbo)


def ascend(basis: Rotated, p: int, priors: Priors, tau: Sequence[float], *, tol: float, max_iter: int) -> Ascent:
    """Climb from τ to the fixed point of `update`.

    A round is a map g of log τ to itself, along which the ELBO cannot fall; where it is a contraction of rate near 1, small
    steps say nothing. So each round is compared with Newton's step for log τ = g(log τ), Jacobian by differences, turned
    round where it would lead downhill; the one after which the ELBO is higher is taken. It ends when Newton's step is below
    `tol` at a point that attracts.
    """

    def at(x: Array) -> State:
        return update(basis, p, priors, np.exp(x))

    state = at(np.log(np.asarray(tau, dtype=np.float64)))
    states, distance, reach = [state], np.inf, LARGEST_MOVE
    for _ in range(max_iter):
        x = np.log(state.tau)
        gap = np.log(state.new) - x
        J = np.column_stack([(np.log(at(x + h).new) - np.log(state.new)) / STEP for h in STEP * np.eye(2)])
        rates, directions = np.linalg.eig(np.eye(2) - J)  # real: J is similar to a symmetric matrix
        rates, directions = rates.real, directions.real
        step = directions @ (np.linalg.solve(directions, gap) / np.maximum(np.abs(rates), 1e-12))
        distance = float(np.abs(step).max()) if (rates > 0.0).all() else np.inf
        if distance <= tol:
            break
        moves = [gap, step * min(1.0, reach / np.abs(step).max())]
        candidates = [at(x + move) for move in moves]
        best = max(candidates, key=lambda candidate: candidate.elbo)
        reach = min(2.0 * reach, LARGEST_MOVE) if candidates[1].elbo > candidates[0].elbo else 0.5 * reach
        if best.elbo < state.elbo - 1e-9 * max(1.0, abs(state.elbo)):
            return Ascent(states, distance, fell=True)
        state = best
        states.append(state)
    return Ascent(states, distance, fell=False)


def climb(
    basis: Rotated, p: int, priors: Priors, starts: Sequence[tuple[float, float]], *, tol: float, max_iter: int
) -> tuple[Ascent, list[Ascent]]:
    """Return the ascent that ends highest, and those that end at other fixed points, from several starts (σ²_β, σ²_e)."""
    ascents = [
        ascend(basis, p, priors, (1.0 / sigma2_beta, 1.0 / sigma2_e), tol=tol, max_iter=max_iter)
        for sigma2_beta, sigma2_e in starts
    ]
    ascents.sort(key=lambda ascent: -ascent.states[-1].elbo)
    others: list[Ascent] = []
    for ascent in ascents[1:]:
        ends = [np.log(known.states[-1].tau) for known in (ascents[0], *others)]
        if ascent.distance <= tol and all(np.abs(np.log(ascent.states[-1].tau) - end).max() > 1e-3 for end in ends):
            others.append(ascent)
    return ascents[0], others
