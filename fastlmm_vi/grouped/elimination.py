"""The grouped model at one Λ by block elimination: any factors, nested or crossed."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import scipy.linalg
from fastlmm_vi_kernels import blocks as kernels
from fastlmm_vi_kernels import dense
from fastlmm_vi_kernels.blocks import Pattern, Products
from scipy.linalg.lapack import dpotrf, dpotri

from ..result import Array
from .cross_products import CrossProducts

SMALL = 64  # rows of the tail below which the kernel's own loops beat LAPACK and its call


@dataclass(frozen=True, eq=False)
class Workspace:
    """Where the kernels write: L and its inverse on the pattern, the tail, u and β, [Z X y]ᵀ times the residual; and Λ."""

    pattern: Pattern
    products: Products
    L: Array
    T: Array
    S: Array
    inverse: Array
    x: Array
    residual: Array
    c: Array
    slopes: Array  # (2, all entries of Λ), of the log-determinant and of r²
    lam: Array

    @classmethod
    def of(cls, data: CrossProducts, *, with_x: bool) -> Self:
        """Make room; `with_x` for the inverse of the system in (u, β), else in u."""
        panels, border, q = data.products.panels, data.products.border, data.pattern.q
        effects, side, lam = int(data.pattern.effect[-1]), len(border), int(data.pattern.place[-1])
        inverted = side + (q - 1 if with_x else 0)
        return cls(
            data.pattern,
            data.products._replace(corner=data.products.corner.copy()),
            np.empty_like(panels),
            np.zeros((side + q, side + q)),
            np.zeros_like(panels),
            np.empty((inverted, inverted)),
            np.empty(effects + q - 1),
            np.empty(effects + q),
            np.empty(effects + q),
            np.empty((2, lam)),
            np.zeros(lam),
        )

    @property
    def corner(self) -> Array:
        """[X y]ᵀ[X y], (q, q), a copy of its own: what a prior of β adds may be added."""
        return self.products.corner

    def run(self) -> tuple[float, float, float]:
        """Log-determinants and r² at `lam`; the solution, the inverse and the slopes are left in the workspace."""
        if len(self.T) <= SMALL:
            return kernels.evaluate(*self.arguments)
        found = self.factor()
        if not math.isnan(found[0]):
            self.solve()
            self.invert()
            kernels.unexplained(self.pattern, self.products, self.lam, self.x, self.residual, self.c)
            kernels.gradient(self.pattern, self.products, self.lam, self.x, self.c, self.inverse, self.S, *self.slopes)
        return found

    def factor(self) -> tuple[float, float, float]:
        """The same values; the factor alone is left."""
        kernels.fill(self.pattern, self.products, self.lam, self.L, self.T)
        half = kernels.eliminate(self.pattern, self.L, self.T)
        if math.isnan(half) or not self._factor_tail():
            return math.nan, math.nan, math.nan
        return dense.logs(self.T, half, self.pattern.q)

    def _factor_tail(self) -> bool:
        """Overwrite T by its Cholesky factor; False if a pivot is not positive."""
        if len(self.T) <= SMALL:
            return bool(dense.cholesky(self.T) == len(self.T))
        factor, info = dpotrf(self.T.T, lower=0, clean=0, overwrite_a=1)
        assert np.shares_memory(factor, self.T)
        return bool(info == 0)

    def solve(self) -> Array:
        """Random effects in units of σ Λ and, after them, fixed ones."""
        kernels.solve(self.pattern, self.L, self.T, self.x)
        return self.x

    def invert(self) -> None:
        """Write the inverse of the tail and, on the pattern, of the rest."""
        if len(self.T) <= SMALL:
            dense.invert(self.T, self.inverse)
        else:
            k = len(self.inverse)
            self.inverse[:] = self.T[:k, :k]
            if k > 0:
                dpotri(self.inverse.T, lower=0, overwrite_c=1)
            dense.mirror(self.inverse)
        kernels.selected_inverse(self.pattern, self.L, self.inverse, self.S)

    def own_inverses(self) -> list[Array]:
        """Blocks of the inverse of groups on themselves, (levels, d, d) of every factor."""
        self.invert()
        p, found = self.pattern, []
        for f, d in enumerate(self.pattern.width):
            if f < p.leading:
                at = p.panel[p.group[f] : p.group[f + 1], None] + np.arange(d * d)
                found.append(self.S[at].reshape(-1, d, d))
                continue
            first = np.arange(p.effect[f], p.effect[f + 1], d) - p.effect[p.leading]
            rows = first[:, None] + np.arange(d)
            found.append(self.inverse[rows[:, :, None], rows[:, None, :]])
        return found

    def forward(self, A: Array) -> None:
        """Overwrite A (effects and β, m) by L⁻¹A, L Lᵀ the mixed-model equations of u and β."""
        kernels.forward(self.pattern, self.L, A)
        head = int(self.pattern.effect[self.pattern.leading])
        tail = np.concatenate([A[head:], np.zeros((1, A.shape[1]))])  # the row of y too: T as it stands, without a copy
        A[head:] = scipy.linalg.solve_triangular(self.T.T, tail, trans=1, check_finite=False)[:-1]

    @cached_property
    def arguments(self) -> tuple[Any, ...]:
        """Of the one kernel that does all of it."""
        written = self.L, self.T, self.S, self.inverse, self.x, self.residual, self.c, *self.slopes
        return (*self.pattern, *self.products), *written, self.lam
