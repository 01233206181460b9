"""Fixed effects, random effects and their (co)variances at given θ, in the units of the data."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ..result import Array
from .elimination import Workspace
from .likelihood import Likelihood
from .one_way import OneWay

Rows = list[tuple[Array, NDArray[np.intp]]]  # coefficients (m, d) and codes (m,) of every term


@dataclass(frozen=True, eq=False)
class Solution:
    """The mixed-model equations solved at θ (standard coordinates)."""

    likelihood: Likelihood
    theta: Array
    given_sigma: float | None = None  # else σ² = r²(θ) / (N or N − p)

    @cached_property
    def _state(self) -> tuple[Workspace | OneWay, float]:
        """The factor at θ, r²."""
        data = self.likelihood.data
        at = Workspace.of(data, with_x=False) if data.one_way is None else OneWay.of(data.one_way, with_x=False)
        at.lam[:] = self.likelihood.lam(self.theta)
        return at, at.factor()[-1]

    @cached_property
    def _x(self) -> Array:
        """Random and fixed effects, in units of σ Λ and of the standard X."""
        return self._state[0].solve()

    @cached_property
    def sigma(self) -> float:
        """Residual standard deviation."""
        if self.given_sigma is not None:
            return self.given_sigma
        return float(self.likelihood.data.fixed.scale * np.sqrt(self._state[1] / self.likelihood.degrees))

    @cached_property
    def beta(self) -> Array:
        """Fixed effects of the columns that were kept, (p,)."""
        fixed, x = self.likelihood.data.fixed, self._x
        return fixed.least_squares + fixed.scale * (fixed.to_beta @ x[x.size - len(fixed.least_squares) :])

    @cached_property
    def beta_cov(self) -> Array:
        """σ² (XᵀV⁻¹X)⁻¹, (p, p), V = Var(y) / σ²."""
        T, to_beta = self._state[0].T, self.likelihood.data.fixed.to_beta
        of_beta = slice(-1 - len(to_beta), -1)
        half = scipy.linalg.solve_triangular(T[of_beta, of_beta], to_beta.T, lower=True)
        return self.sigma**2 * (half.T @ half)

    @cached_property
    def roots(self) -> dict[int, Array]:
        """For every term a root of its covariance over σ², in the units of the data: G = σ² root rootᵀ."""
        data, triangles = self.likelihood.data, self.likelihood.unpack(self.theta)
        return {
            k: scipy.linalg.solve_triangular(data.terms[k].M, L)
            for k, L in zip(self.likelihood.terms, triangles, strict=True)
        }

    @cached_property
    def effects(self) -> dict[int, Array]:
        """E[b | y] of every term, (levels, d)."""
        scale, x, found = self.likelihood.data.fixed.scale, self._x, {}
        for f, start, k, d in self.likelihood.data.places:
            u = x[slice(*self.likelihood.data.pattern.effect[f : f + 2])].reshape(-1, self.likelihood.data.groups[f].d)
            found[k] = scale * u[:, start : start + d] @ self.roots[k].T
        return found

    @cached_property
    def effect_cov(self) -> dict[int, Array]:
        """Var(b | y, β̂, θ̂) of every term, (levels, d, d): lme4's conditional variances."""
        found = {}
        for f, start, k, d in self.likelihood.data.places:
            part = slice(start, start + d)
            root, inverse = self.sigma * self.roots[k], self._own_inverses[f]
            found[k] = root @ inverse[:, part, part] @ root.T
        return found

    def variance_of(self, X: Array, rows: Rows) -> Array:
        """Var(x_i β̂ + Σ z_i (b̂ − b)) of m combinations: X (m, p) and, per term, coefficients (m, d) and codes (m,).

        A code of −1 leaves the term out of a row, no `rows` at all leave out all terms.
        """
        out = np.empty(len(X))
        for start in range(0, len(X), 256):
            part = slice(start, start + 256)
            out[part] = self._variance_of(X[part], [(Z[part], codes[part]) for Z, codes in rows])
        return out

    def _variance_of(self, X: Array, rows: Rows) -> Array:
        """‖L⁻¹a‖² of every combination a, in spherical coordinates."""
        data = self.likelihood.data
        effects = int(data.pattern.effect[-1])
        A = np.zeros((effects + X.shape[1], len(X)))
        A[effects:] = data.fixed.to_beta.T @ X.T
        column = np.arange(len(X))
        for f, start, k, d in data.places if rows else ():
            Z, codes = rows[k]
            seen = codes >= 0
            first = data.pattern.effect[f] + codes[seen] * data.groups[f].d + start
            A[first[:, None] + np.arange(d), column[seen, None]] = Z[seen] @ self.roots[k]
        self._state[0].forward(A)
        return self.sigma**2 * np.einsum("ij,ij->j", A, A)

    @cached_property
    def _own_inverses(self) -> list[Array]:
        """Blocks of the inverse for u alone, β̂ held fixed, of groups on themselves: (levels, d, d) of every factor."""
        return self._state[0].own_inverses()
