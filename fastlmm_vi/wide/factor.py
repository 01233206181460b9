"""A Gram matrix G brought to a form in which (I + γG)⁻¹ is cheap at every γ: eigenvectors, or tridiagonal without them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import scipy.linalg
from fastlmm_vi_kernels import tridiagonal as kernels
from scipy.linalg.lapack import dormqr, dsytrd

from ..result import Array

BLOCK = 64  # columns LAPACK reduces at a time; scipy's own default is one, at half the speed


class Factor(Protocol):
    """What the spectrum asks of G (m, m), whatever form it was brought to."""

    @property
    def eigenvalues(self) -> Array:
        """Of G, (m,); those within rounding of 0 are exactly 0."""
        ...

    def largest(self) -> float:
        """Its largest eigenvalue."""
        ...

    def rows(self, B: Array) -> tuple[Array, Array]:
        """Eigenvalues of G = U D Uᵀ and UᵀB, B (m, k), in the same order."""
        ...

    def solve(self, gamma: float, B: Array) -> Array:
        """(I + γG)⁻¹ B, B (m,) or (m, k)."""
        ...

    def half(self, gamma: float) -> Array:
        """H (m, m) with (I + γG)⁻¹ = H Hᵀ."""
        ...


@dataclass(frozen=True, eq=False)
class Eigenvectors:
    """G = W diag(eigenvalues) Wᵀ: the form for many responses, O(m²) each after O(m³) once."""

    eigenvalues: Array
    W: Array

    @classmethod
    def of(cls, gram: Array, rounding: float) -> "Eigenvectors":
        """Decompose G, given by its lower triangle, which is overwritten."""
        d, W = scipy.linalg.eigh(gram, lower=True, driver="evd", overwrite_a=True, check_finite=False)
        return cls(_floored(d, rounding), W)

    def largest(self) -> float:
        """The last."""
        return float(self.eigenvalues[-1])

    def rows(self, B: Array) -> tuple[Array, Array]:
        """Eigenvalues and WᵀB."""
        return self.eigenvalues, self.W.T @ B

    def solve(self, gamma: float, B: Array) -> Array:
        """(I + γG)⁻¹ B."""
        return self.W @ ((self.W.T @ B).T / (1.0 + gamma * self.eigenvalues)).T

    def half(self, gamma: float) -> Array:
        """W diag(1 + γd)^(−½)."""
        return self.W / np.sqrt(1.0 + gamma * self.eigenvalues)


@dataclass(frozen=True, eq=False)
class Tridiagonal:
    """G = Q T Qᵀ, T tridiagonal, Q as Householder reflectors: the form for one response, a third of the eigenvectors' time.

    `packed` holds the reflectors as LAPACK's dsytrd leaves them; the first row and column of Q are those of I.
    """

    diag: Array
    off: Array
    packed: Array
    tau: Array
    rounding: float

    @classmethod
    def of(cls, gram: Array, rounding: float) -> "Tridiagonal":
        """Reduce G, given by its lower triangle, which is overwritten."""
        packed, diag, off, tau, _ = dsytrd(gram, lower=1, lwork=BLOCK * max(len(gram), 1), overwrite_a=1)
        return cls(diag, off, packed, tau, rounding)

    @cached_property
    def eigenvalues(self) -> Array:
        """Of G, ascending."""
        return np.sort(self.rows(np.empty((self.diag.size, 0)))[0])

    def largest(self) -> float:
        """The largest alone, by bisection."""
        return self._eigenvalue(self.diag.size - 1)

    @property
    def singular(self) -> bool:
        """Whether the smallest eigenvalue is nothing but rounding: γ then multiplies rounding, which `solve` cannot know."""
        return self._eigenvalue(0) <= self.rounding * self.largest()

    def with_vectors(self) -> Eigenvectors:
        """The same G by its eigenvectors."""
        d, S = (np.asarray(part, dtype=np.float64) for part in scipy.linalg.eigh_tridiagonal(self.diag, self.off))
        return Eigenvectors(_floored(d, self.rounding), self._reflect(S, "N"))

    def _eigenvalue(self, k: int) -> float:
        return float(scipy.linalg.eigvalsh_tridiagonal(self.diag, self.off, select="i", select_range=(k, k))[0])

    def rows(self, B: Array) -> tuple[Array, Array]:
        """Eigenvalues and UᵀB by QL on the rows of QᵀB alone: O(m² k)."""
        d, rows = self.diag.copy(), np.ascontiguousarray(self._reflect(B, "T"))
        if not kernels.diagonalise(d, self.off.copy(), rows):
            raise np.linalg.LinAlgError("QL did not converge on the tridiagonal form of X Xᵀ.")
        return _floored(d, self.rounding), rows

    def solve(self, gamma: float, B: Array) -> Array:
        """(I + γG)⁻¹ B = Q (I + γT)⁻¹ Qᵀ B."""
        inner = np.ascontiguousarray(self._reflect(B.reshape(self.diag.size, -1), "T"))
        kernels.solve(gamma, self.diag, self.off, inner)
        return self._reflect(inner, "N").reshape(B.shape)

    def half(self, gamma: float) -> Array:
        """Q M with (I + γT)⁻¹ = M Mᵀ, M upper triangular."""
        M = np.empty((self.diag.size, self.diag.size))
        kernels.inverse_factor(gamma, self.diag, self.off, M)
        return self._reflect(M, "N")

    def _reflect(self, B: Array, trans: str) -> Array:
        """QᵀB ("T") or Q B ("N")."""
        m, k = B.shape
        if m < 2 or k == 0:
            return B
        tail, _, _ = dormqr("L", trans, self.packed[1:, : m - 1], self.tau, B[1:], BLOCK * k)
        return np.vstack([B[:1], tail])


def for_one_response(gram: Array, rounding: float) -> Factor:
    """Return the tridiagonal form of G or, where G is singular, its eigenvectors: they tell 0 from rounding at every γ."""
    factor = Tridiagonal.of(gram, rounding)
    return factor.with_vectors() if factor.singular else factor


def _floored(d: Array, rounding: float) -> Array:
    """Eigenvalues of a positive semidefinite matrix, exactly 0 where they are nothing but rounding."""
    return np.where(d > rounding * max(float(d.max(initial=0.0)), 0.0), d, 0.0)
