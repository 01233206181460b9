"""K with the covariates split off and the rest tridiagonal: every criterion without an eigenvector.

In an orthonormal basis [Q, A] whose first vectors are the covariates, and the next one the response,

    K = [Q A] [[K₁₁, Cᵀ], [C, T]] [Q A]ᵀ,    T (m, m) tridiagonal, m = n − c.

The contrasts Aᵀy = ‖y‖ e₁ are those of REML, and their likelihood is a continued fraction in γ: O(n) an evaluation,
whatever c is. Only what involves ω (the likelihood's determinant, ω̂ itself) needs C (docs/derivation.md, section 5).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import scipy.linalg
from fastlmm_vi_kernels import tridiagonal as kernels
from fastlmm_vi_kernels.spectral import LOG_2PI
from scipy.linalg.lapack import dgeqrf

from ..result import Array
from .basis import Criterion, Effects, Point
from .factor import Eigenvectors, Tridiagonal
from .householder import apply_reflectors, reflect_both_sides


@dataclass(frozen=True, eq=False)
class Bordered:
    """One response in that basis (a `Basis`), and K itself in it (a `Factor`)."""

    reflectors: tuple[Array, Array]  # of [Q, y], as LAPACK's dgeqrf leaves them
    signs: Array  # (c,), of the reflected unit vectors against Q
    y1: float  # ± ‖y‖
    K11: Array
    C: Array
    tri: Tridiagonal
    rounding: float

    @classmethod
    def of(cls, gram: Array, Q: Array, y: Array, rounding: float) -> Self:
        """Split K (n, n), given by its lower triangle, by Q (n, c) and y (n,), Qᵀy = 0; reflects K in place."""
        c = Q.shape[1]
        packed, tau, _, _ = dgeqrf(np.asfortranarray(np.column_stack([Q, y])))
        reflect_both_sides(gram, packed, tau)
        signs = np.copysign(1.0, np.diag(packed)[:c])
        K11 = np.tril(gram[:c, :c])
        K11 = (K11 + np.tril(K11, -1).T) * signs * signs[:, None]
        C = gram[c:, :c] * signs
        tri = Tridiagonal.of(gram[c:, c:].copy(order="F"), rounding)
        return cls((packed, tau), signs, float(packed[c, c]), K11, tri.reflect(C, "T"), tri, rounding)

    def eigenvectors(self, reflected: Array) -> Eigenvectors:
        """The eigenvectors of K, given what `of` left in place of it."""
        inner = Eigenvectors.of(reflected, self.rounding)
        return Eigenvectors(inner.eigenvalues, apply_reflectors(*self.reflectors, inner.W, "N"))

    @property
    def n(self) -> int:
        """Observations."""
        return self.c + self.tri.diag.size

    @property
    def c(self) -> int:
        """Covariates."""
        return self.signs.size

    @cached_property
    def extremes(self) -> tuple[float, float]:
        """Smallest and largest eigenvalue of T."""
        return self.tri.extremes

    @cached_property
    def _limit(self) -> tuple[Array, Array, Array]:
        """G = T⁻¹ C; eigenvalues (those of null directions exactly 0) and eigenvectors of S_∞ = K₁₁ − Cᵀ G."""
        G = self.tri.inverse(self.C)
        values, vectors = np.linalg.eigh(self.K11 - self.C.T @ G)
        return G, np.where(values > self.rounding * self.largest(), values, 0.0), vectors

    @property
    def ambiguous(self) -> bool:
        """Whether rounding hides which directions of K are null: T singular, or its complement lost in rounding."""
        smallest, largest = self.extremes
        if smallest <= self.rounding * self.largest():
            return True
        values = self._limit[1]
        doubt = self.rounding * largest / smallest * float(np.trace(self.K11))
        return bool(((values > 0.0) & (values < doubt)).any())

    @property
    def nullity(self) -> int:
        """Dimension of the null space of K: all of it reached by the covariates, as T is regular."""
        return int((self._limit[1] == 0.0).sum())

    @property
    def covered(self) -> bool:
        """True."""
        return True

    @property
    def trace(self) -> float:
        """Trace of K."""
        return float(np.trace(self.K11)) + self.explained

    @property
    def explained(self) -> float:
        """The trace of MK, which is that of T."""
        return float(self.tri.diag.sum())

    def at(self, criterion: Criterion, gamma: float) -> Point:
        """The criterion at γ: O(n) for REML, O(n + p) for an ELBO, O(n c²) for the likelihood."""
        *logdet, e, e1, e2 = kernels.continued_fraction(gamma, self.tri.diag, self.tri.off)
        free = self.n - self.c if criterion.reml else self.n
        if criterion.h is not None:
            logdet = _log_volume(criterion.h, gamma)
        elif not criterion.reml:
            logdet = [a + b for a, b in zip(logdet, self._logdet_S(gamma), strict=True)]
        sigma2_e = self.y1**2 / e / free
        value = -0.5 * (free * (math.log(sigma2_e) + LOG_2PI + 1.0) + logdet[0])
        slope = -0.5 * (logdet[1] - free * e1 / e)
        curvature = -0.5 * (logdet[2] - free * (e2 / e - (e1 / e) ** 2))
        return Point(gamma, value, slope, curvature, sigma2_e)

    def rises(self, criterion: Criterion, gamma: float) -> bool:
        """Whether the slope at γ is positive; the likelihood's log|S| is looked at only where it can decide."""
        _, volume, _, e, e1, _ = kernels.continued_fraction(gamma, self.tri.diag, self.tri.off)
        if criterion.reml:
            return bool(volume < (self.n - self.c) * e1 / e)
        if criterion.h is not None:
            return bool((criterion.h / (1.0 + gamma * criterion.h)).sum() < self.n * e1 / e)
        rest = gamma * (self.n * e1 / e - volume)
        least, most = self._bounds_of_slope(gamma)
        return bool(rest > most) if not least < rest <= most else self.at(criterion, gamma).slope > 0.0

    def effects(self, gamma: float) -> Effects:
        """No least squares is left to solve: a = −γ y₁ U₁ᵀ and A⁻¹ = S."""
        *_, e, e1, _ = kernels.continued_fraction(gamma, self.tri.diag, self.tri.off)
        S, _, U = self._schur(gamma)
        a_slope = -self.y1 * self.tri.inner_solve(gamma, U)[0]
        return Effects(-gamma * self.y1 * U[0], a_slope, S, self.y1**2 / e, -(self.y1**2) * e1 / e**2)

    def loglik(self, sigma2_beta: float, sigma2_e: float, a: Array) -> float:
        """Log-likelihood with β integrated out: with (a − â)ᵀ A (a − â) beyond its maximum in a."""
        gamma = sigma2_beta / sigma2_e
        logdet, _, _, e, _, _ = kernels.continued_fraction(gamma, self.tri.diag, self.tri.off)
        S, _, U = self._schur(gamma)
        off = a + gamma * self.y1 * U[0]
        logdet += np.linalg.slogdet(S)[1]
        quad = self.y1**2 / e + off @ np.linalg.solve(S, off)
        return -0.5 * float(self.n * (LOG_2PI + math.log(sigma2_e)) + logdet + quad / sigma2_e)

    def gap(self, h: Array, gamma: float) -> float:
        """½ [Σ log(1 + γ h_j) − log|I + γK|]."""
        return 0.5 * (float(np.log1p(gamma * h).sum()) - self.logdet(gamma))

    def logdet(self, gamma: float) -> float:
        """log|I + γK|."""
        return self.tri.logdet(gamma) + float(np.linalg.slogdet(self._schur(gamma)[0])[1])

    def largest(self) -> float:
        """Not below the largest eigenvalue of K, and at most twice it."""
        return self.extremes[1] + float(np.linalg.norm(self.K11, 2) if self.c else 0.0)

    def solve(self, gamma: float, B: Array) -> Array:
        """(I + γK)⁻¹ B by block elimination."""
        S, _, U = self._schur(gamma)
        top, rest = self._split(B.reshape(self.n, -1))
        first = scipy.linalg.solve(S, top - gamma * U.T @ rest, assume_a="pos", check_finite=False)
        return self._join(first, self.tri.inner_solve(gamma, rest) - gamma * U @ first).reshape(B.shape)

    def ridge(self, gamma: float, B: Array) -> Array:
        """γ (I + γK)⁻¹ B."""
        return gamma * self.solve(gamma, B)

    def half(self, gamma: float) -> Array:
        """H (n, n) with (I + γK)⁻¹ = H Hᵀ."""
        S, _, U = self._schur(gamma)
        root = np.linalg.inv(np.linalg.cholesky(S)).T
        M = np.zeros((self.n, self.n))
        M[: self.c, : self.c] = root
        M[self.c :, : self.c] = -gamma * U @ root
        M[self.c :, self.c :] = self.tri.inner_half(gamma)
        return self._join(M[: self.c], M[self.c :])

    def _schur(self, gamma: float) -> tuple[Array, Array, Array]:
        """S(γ) = A⁻¹, the Schur complement of I + γT in I + γK; its derivative; and U = (I + γT)⁻¹ C.

        Written through its limit S_∞ = K₁₁ − Cᵀ T⁻¹ C, so that nothing cancels: S = I + γ (S_∞ + Gᵀ U), G = T⁻¹ C, and
        S' = S_∞ + Gᵀ U − γ Uᵀ U.
        """
        found = self._latest.get(gamma)
        if found is None:
            G, values, vectors = self._limit
            U = self.tri.inner_solve(gamma, self.C)
            inner = (vectors * values) @ vectors.T + G.T @ U
            found = np.eye(self.c) + gamma * inner, inner - gamma * U.T @ U, U
            self._latest.clear()
            self._latest[gamma] = found
        return found

    @cached_property
    def _latest(self) -> dict[float, tuple[Array, Array, Array]]:
        """The last γ asked for: at an optimum half a dozen questions follow each other."""
        return {}

    def _logdet_S(self, gamma: float) -> tuple[float, float, float]:
        """log|S| and its derivatives; S'' = −2 Uᵀ (I + γT)⁻¹ U."""
        if self.c == 0:
            return 0.0, 0.0, 0.0
        S, slope, U = self._schur(gamma)
        factor = scipy.linalg.cho_factor(S, lower=True, check_finite=False)
        first = scipy.linalg.cho_solve(factor, slope, check_finite=False)
        second = scipy.linalg.cho_solve(factor, U.T @ self.tri.inner_solve(gamma, U), check_finite=False)
        logdet = 2.0 * float(np.log(np.diag(factor[0])).sum())
        return logdet, float(np.trace(first)), -2.0 * float(np.trace(second)) - float((first * first.T).sum())

    @cached_property
    def _tail(self) -> tuple[Array, Array]:
        """Eigenvalues of S_∞, and the diagonal of I + GᵀG in its eigenvectors."""
        G, values, vectors = self._limit
        return values, 1.0 + ((G @ vectors) ** 2).sum(axis=0)

    def _bounds_of_slope(self, gamma: float) -> tuple[float, float]:
        """Between what γ (log|S|)' lies: tight for small and for large γ, at O(c).

        S is concave in γ and S ≥ I: at most γ tr K₁₁, and c. From below c − tr S⁻¹(I + γ² UᵀU), γU ≤ G, S ≥ I + γ S_∞.
        """
        values, spread = self._tail
        least = self.c - float((spread / (1.0 + gamma * values)).sum())
        return max(0.0, least), min(float(self.c), gamma * float(np.trace(self.K11)))

    def _split(self, B: Array) -> tuple[Array, Array]:
        """Coordinates of the columns of B (n, k) on Q, and on the basis of T."""
        B = apply_reflectors(*self.reflectors, B, "T")
        return B[: self.c] * self.signs[:, None], self.tri.reflect(B[self.c :], "T")

    def _join(self, first: Array, rest: Array) -> Array:
        """The columns with these coordinates."""
        return apply_reflectors(
            *self.reflectors, np.vstack([first * self.signs[:, None], self.tri.reflect(rest, "N")]), "N"
        )


def _log_volume(h: Array, gamma: float) -> list[float]:
    """Σ log(1 + γ h_j) and its first two derivatives."""
    u = h / (1.0 + gamma * h)
    return [float(np.log1p(gamma * h).sum()), float(u.sum()), -float(u @ u)]
