"""A Gram matrix G brought to a form in which (I + γG)⁻¹ is cheap at every γ: eigenvectors, or tridiagonal without them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import scipy.linalg
from fastlmm_vi_kernels import tridiagonal as kernels

from ..result import Array
from .householder import Reflections, tridiagonal


class Factor(Protocol):
    """What the spectrum asks of G (m, m), whatever form it was brought to."""

    def largest(self) -> float:
        """Its largest eigenvalue."""
        ...

    def solve(self, gamma: float, B: Array) -> Array:
        """(I + γG)⁻¹ B, B (m,) or (m, k)."""
        ...

    def ridge(self, gamma: float, B: Array) -> Array:
        """γ (I + γG)⁻¹ B where the null space of G adds nothing: B in the range of G, or the product left of Xᵀ."""
        ...

    def half(self, gamma: float) -> Array:
        """H (m, m) with (I + γG)⁻¹ = H Hᵀ."""
        ...

    def logdet(self, gamma: float) -> float:
        """log|I + γG|."""
        ...


class Diagonalisable(Factor, Protocol):
    """A factor that also gives eigenvalues, and rows in the eigenbasis."""

    @property
    def eigenvalues(self) -> Array:
        """Of G, (m,), ascending; those within rounding of 0 are exactly 0."""
        ...

    def rows(self, B: Array) -> tuple[Array, Array]:
        """Eigenvalues of G = U D Uᵀ and UᵀB, B (m, k), in the same order."""
        ...

    def with_vectors(self) -> "Eigenvectors":
        """The same G by its eigenvectors."""
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

    def with_vectors(self) -> "Eigenvectors":
        """Itself."""
        return self

    def rows(self, B: Array) -> tuple[Array, Array]:
        """Eigenvalues and WᵀB."""
        return self.eigenvalues, self.W.T @ B

    def solve(self, gamma: float, B: Array) -> Array:
        """(I + γG)⁻¹ B."""
        return self.W @ ((self.W.T @ B).T / (1.0 + gamma * self.eigenvalues)).T

    def ridge(self, gamma: float, B: Array) -> Array:
        """γ (I + γG)⁻¹ B without the null space, where γ, which may be 1e20, would multiply rounding."""
        weights = np.where(self.eigenvalues > 0.0, gamma / (1.0 + gamma * self.eigenvalues), 0.0)
        return self.W @ ((self.W.T @ B).T * weights).T

    def half(self, gamma: float) -> Array:
        """W diag(1 + γd)^(−½)."""
        return self.W / np.sqrt(1.0 + gamma * self.eigenvalues)

    def logdet(self, gamma: float) -> float:
        """log|I + γG|."""
        return float(np.log1p(gamma * self.eigenvalues).sum())


@dataclass(frozen=True, eq=False)
class Tridiagonal:
    """G = Q T Qᵀ, T tridiagonal, Q as Householder reflectors: the form for one response, a third of the eigenvectors' time.

    The first row and column of Q are those of I.
    """

    diag: Array
    off: Array
    reflections: Reflections
    rounding: float

    @classmethod
    def of(cls, gram: Array, rounding: float) -> "Tridiagonal":
        """Reduce G, given by its lower triangle, which is overwritten."""
        return cls(*tridiagonal(gram), rounding)

    @cached_property
    def eigenvalues(self) -> Array:
        """Of G, ascending."""
        return np.sort(self.rows(np.empty((self.diag.size, 0)))[0])

    @cached_property
    def extremes(self) -> tuple[float, float]:
        """Smallest and largest eigenvalue alone, by bisection."""
        last = self.diag.size - 1
        if last == 0:
            return float(self.diag[0]), float(self.diag[0])
        try:
            ends = [
                scipy.linalg.eigvalsh_tridiagonal(self.diag, self.off, select="i", select_range=(k, k))[0]
                for k in (0, last)
            ]
        except np.linalg.LinAlgError:  # LAPACK's bisection gives up where all eigenvalues are equal: then all of them
            ends = list(scipy.linalg.eigvalsh_tridiagonal(self.diag, self.off))
        return float(ends[0]), float(ends[-1])

    def largest(self) -> float:
        """The largest alone."""
        return self.extremes[1]

    @property
    def singular(self) -> bool:
        """Whether the smallest eigenvalue is nothing but rounding: γ then multiplies rounding, which `solve` cannot know."""
        smallest, largest = self.extremes
        return smallest <= self.rounding * largest

    def with_vectors(self) -> Eigenvectors:
        """The same G by its eigenvectors."""
        d, S = (np.asarray(part, dtype=np.float64) for part in scipy.linalg.eigh_tridiagonal(self.diag, self.off))
        return Eigenvectors(_floored(d, self.rounding), self.reflect(S, "N"))

    def rows(self, B: Array) -> tuple[Array, Array]:
        """Eigenvalues and UᵀB by QL on the rows of QᵀB alone: O(m² k)."""
        d, k = self.diag.copy(), B.shape[1]
        rows = np.zeros((d.size, -(-k // 8) * 8))  # whole vectors: rotating a rest of seven numbers costs as much as 24
        rows[:, :k] = self.reflect(B, "T")
        if not kernels.diagonalise(d, self.off.copy(), rows):
            raise np.linalg.LinAlgError("QL did not converge on the tridiagonal form of X Xᵀ.")
        return _floored(d, self.rounding), rows[:, :k]

    def solve(self, gamma: float, B: Array) -> Array:
        """(I + γG)⁻¹ B = Q (I + γT)⁻¹ Qᵀ B."""
        inner = self.reflect(B.reshape(self.diag.size, -1), "T")
        return self.reflect(self.inner_solve(gamma, inner), "N").reshape(B.shape)

    def ridge(self, gamma: float, B: Array) -> Array:
        """γ (I + γG)⁻¹ B; G is regular in this form."""
        return gamma * self.solve(gamma, B)

    def half(self, gamma: float) -> Array:
        """Q M with (I + γT)⁻¹ = M Mᵀ."""
        return self.reflect(self.inner_half(gamma), "N")

    def logdet(self, gamma: float) -> float:
        """log|I + γG|."""
        return float(kernels.continued_fraction(gamma, self.diag, self.off)[0])

    def reflect(self, B: Array, trans: str) -> Array:
        """QᵀB ("T") or Q B ("N"), B (m, k)."""
        return self.reflections.apply(B, trans)

    def inner_solve(self, gamma: float, B: Array) -> Array:
        """(I + γT)⁻¹ B, B (m, k)."""
        B = np.array(B, order="C")
        kernels.solve(gamma, self.diag, self.off, B)
        return B

    def inner_half(self, gamma: float) -> Array:
        """M = L⁻ᵀ D^(−½) (m, m), upper triangular, with (I + γT)⁻¹ = M Mᵀ and I + γT = L D Lᵀ."""
        pivots, factor = kernels.factorise(gamma, self.diag, self.off)
        M = np.diag(1.0 / np.sqrt(pivots))
        for i in range(pivots.size - 2, -1, -1):
            M[i, i + 1 :] = -factor[i] * M[i + 1, i + 1 :]
        return M

    def inverse(self, B: Array) -> Array:
        """T⁻¹ B, T regular."""
        if self.diag.size == 1:
            return B / self.diag
        band = np.vstack([self.diag, np.append(self.off, 0.0)])
        return np.asarray(scipy.linalg.solveh_banded(band, B, lower=True, check_finite=False))


def for_one_response(gram: Array, rounding: float) -> Diagonalisable:
    """Return the tridiagonal form of G or, where G is singular, its eigenvectors: they tell 0 from rounding at every γ."""
    factor = Tridiagonal.of(gram, rounding)
    return factor.with_vectors() if factor.singular else factor


def _floored(d: Array, rounding: float) -> Array:
    """Eigenvalues of a positive semidefinite matrix, exactly 0 where they are nothing but rounding."""
    return np.where(d > rounding * max(float(d.max(initial=0.0)), 0.0), d, 0.0)
