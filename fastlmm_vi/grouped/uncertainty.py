"""How well variance parameters are known: curvature of the deviance, standard errors by it, degrees of freedom of t tests."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..result import Array
from .likelihood import Likelihood
from .solution import Solution

Indices = NDArray[np.intp]
FLAT = 1e-7  # curvature, relative to the largest, that differences cannot tell from none
STEP = 1e-5  # of θ in its units, for central differences: truncation 1e-10, rounding of the gradient 1e-8


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Curvature at an optimum of the deviance in φ = (θ, log σ²), σ² not profiled out.

    Entries of θ in columns of Λ that are exactly 0 (a singular fit) have no sampling distribution around a maximum in
    which they could vary both ways: they are held at 0.
    """

    likelihood: Likelihood
    theta: Array

    @cached_property
    def active(self) -> Indices:
        """Places in θ of the entries that vary."""
        columns = [np.repeat(np.diag(L) > 0.0, np.arange(len(L), 0, -1)) for L in self.likelihood.unpack(self.theta)]
        return np.flatnonzero(np.concatenate([np.zeros(0, bool), *columns]))

    @cached_property
    def units(self) -> Array:
        """In which each of them is of order 1: the largest entry of its Λ, and not less than 1, that of the residual."""
        sizes = [
            np.full(len(L) * (len(L) + 1) // 2, max(1.0, np.abs(L).max())) for L in self.likelihood.unpack(self.theta)
        ]
        return np.concatenate([np.zeros(0), *sizes])[self.active]

    @cached_property
    def hessian(self) -> Array:
        """Second derivatives of −2ℓ in φ, (active + 1, active + 1), by central differences of the exact gradient."""
        at, free, k = self.likelihood(self.theta), self.likelihood.free[self.active], len(self.active)
        nu = self.likelihood.degrees
        per_square = nu / at.squares  # 1 / σ²
        H = np.empty((k + 1, k + 1))
        for i, (place, step) in enumerate(zip(self.active, STEP * self.units, strict=True)):
            up, down = (self.likelihood(_step(self.theta, place, sign * step)) for sign in (1.0, -1.0))
            change = up.of_logdet - down.of_logdet + per_square * (up.of_squares - down.of_squares)
            H[i, :k] = change[free] / (2.0 * step)
        H[:k, :k] = 0.5 * (H[:k, :k] + H[:k, :k].T)
        H[k, :k] = H[:k, k] = -per_square * at.of_squares[free]
        H[k, k] = nu
        return H

    @cached_property
    def _eigen(self) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
        """Units of φ, eigenvalues and eigenvectors of the Hessian in them, and which directions the deviance curves along."""
        units = np.append(self.units, 1.0)
        values, vectors = np.linalg.eigh(self.hessian * np.outer(units, units))
        return units, values, vectors, values > FLAT * values.max()

    @property
    def flat(self) -> Indices:
        """Places in θ of the entries that the deviance does not determine, alone or together with others."""
        _, _, vectors, firm = self._eigen
        return self.active[(np.abs(vectors[:-1, ~firm]) > 0.1).any(axis=1)]

    @property
    def covariance(self) -> Array:
        """Asymptotic covariance of φ̂: 2 × the inverse of the Hessian, along directions in which the deviance curves."""
        units, values, vectors, firm = self._eigen
        return 2.0 * np.outer(units, units) * ((vectors[:, firm] / values[firm]) @ vectors[:, firm].T)

    def of(self, function: Callable[[Solution], Array]) -> Array:
        """Standard errors of functions (m,) of the solution that depend on φ, by the delta method; NaN where flat."""
        J = self.jacobian(function)
        units, _, vectors, firm = self._eigen
        lost = np.abs(J * units @ vectors[:, ~firm]).max(axis=1, initial=0.0) > 1e-4 * np.abs(J * units).max(axis=1)
        return np.where(lost, np.nan, np.sqrt(np.einsum("ij,jk,ik->i", J, self.covariance, J)))

    def jacobian(self, function: Callable[[Solution], Array]) -> Array:
        """Derivatives (m, active + 1) in φ of functions of (θ, σ), by central differences."""
        columns = []
        for place, step in zip(self.active, STEP * self.units, strict=True):
            up, down = (self._moved(_step(self.theta, place, sign * step), 1.0) for sign in (1.0, -1.0))
            columns.append((function(up) - function(down)) / (2.0 * step))
        up, down = (self._moved(self.theta, np.exp(0.5 * sign * STEP)) for sign in (1.0, -1.0))
        return np.column_stack([*columns, (function(up) - function(down)) / (2.0 * STEP)])

    def _moved(self, theta: Array, factor: float) -> Solution:
        """The solution at another θ, and at σ̂ times a factor."""
        return Solution(self.likelihood, theta, self._sigma * factor)

    @cached_property
    def _sigma(self) -> float:
        return Solution(self.likelihood, self.theta).sigma

    def satterthwaite(self, contrasts: Array) -> Array:
        """Degrees of freedom of Lβ̂ / se, (m,), for contrasts L (m, p).

        As lmerTest does (Kuznetsova, Brockhoff and Christensen, Journal of Statistical Software 82(13), 2017).
        """
        v = np.einsum("ij,jk,ik->i", contrasts, self._beta_cov[0], contrasts)
        slopes = np.einsum("ij,jka,ik->ia", contrasts, self._beta_cov[1], contrasts)
        return self.degrees(v, slopes)

    @cached_property
    def _beta_cov(self) -> tuple[Array, Array]:
        """Cov β̂ (p, p), and its derivatives in φ (p, p, active + 1)."""
        at = Solution(self.likelihood, self.theta).beta_cov
        return at, self.jacobian(lambda solution: solution.beta_cov.ravel()).reshape(*at.shape, len(self.active) + 1)

    def degrees(self, variance: Array, slopes: Array) -> Array:
        """Degrees of freedom of estimated variances v (m,): 2 v² / (gᵀ C g), g their gradients in φ (m, active + 1).

        Those of the χ² distribution with the mean and the variance of v̂ (Satterthwaite, Biometrics Bulletin 2, 1946).
        Infinite where v does not depend on φ, a variance of 0 included.
        """
        spread = np.einsum("ij,jk,ik->i", slopes, self.covariance, slopes)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(spread > 0.0, 2.0 * variance**2 / spread, np.inf)


def _step(theta: Array, place: int, by: float) -> Array:
    out = theta.copy()
    out[place] += by
    return out
