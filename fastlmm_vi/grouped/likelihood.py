"""The profiled deviance of the grouped model and its gradient, from cross products alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from fastlmm_vi_kernels import blocks as kernels
from fastlmm_vi_kernels import dense
from fastlmm_vi_kernels.blocks import Pattern, Products
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotri

from ..result import Array
from .cross_products import CrossProducts
from .one_way import OneWay

LOG_2PI = math.log(2.0 * math.pi)
SMALL = 64  # rows of the tail below which the kernel's own loops beat LAPACK and its call


class Evaluation(NamedTuple):
    """The deviance −2ℓ at θ, in standard coordinates, and what it is made of."""

    deviance: float
    gradient: Array  # (k,)
    logdet: float  # log|ΛᵀZᵀZΛ + I|, and of REML log|XᵀV⁻¹X| with it
    squares: float  # r²(θ) = (y − Xβ̂)ᵀ V⁻¹ (y − Xβ̂)
    of_logdet: Array  # their derivatives in all entries of all Λ_f, those that are not free too
    of_squares: Array


@dataclass(frozen=True, eq=False)
class Likelihood:
    """−2 × the log-likelihood (or restricted log-likelihood) of θ, σ² and β profiled out.

    θ holds the lower triangles of every term's relative Cholesky factor Λ, column by column, in standard coordinates and in
    the order of `products.groups`. The deviance is an even function of every column of Λ: θ is free, no bound is needed.
    After Bates et al. (Journal of Statistical Software 67(1), 2015, sections 3 and 4), with the gradient.

    An evaluation overwrites workspace that the next one uses: not to be shared by threads.
    """

    data: CrossProducts
    reml: bool

    @cached_property
    def free(self) -> NDArray[np.intp]:
        """Where the entries of θ stand among those of all Λ_f."""
        return np.concatenate([np.zeros(0, np.intp), *self.triangles])

    @cached_property
    def triangles(self) -> tuple[NDArray[np.intp], ...]:
        """The same, term by term (`terms`)."""
        found = []
        for group, place in zip(self.data.groups, self.data.pattern.place, strict=False):
            start = 0
            for k in group.terms:
                size = len(self.data.terms[k].M)
                columns, rows = np.triu_indices(size)
                found.append(place + (start + rows) * group.d + start + columns)
                start += size
        return tuple(found)

    @property
    def terms(self) -> tuple[int, ...]:
        """Terms of the formula in the order of θ."""
        return tuple(k for group in self.data.groups for k in group.terms)

    def unpack(self, theta: Array) -> list[Array]:
        """Λ of every term, in the order of θ."""
        found, at = [], 0
        for k in self.terms:
            L = np.zeros_like(self.data.terms[k].M)
            columns, rows = np.triu_indices(len(L))
            L[rows, columns] = theta[at : at + rows.size]
            found.append(L)
            at += rows.size
        return found

    @staticmethod
    def pack(triangles: Sequence[Array]) -> Array:
        """The reverse of `unpack`."""
        return np.concatenate([np.zeros(0), *(L.T[np.triu_indices(len(L))] for L in triangles)])

    @cached_property
    def degrees(self) -> int:
        """N, or N − p for REML."""
        n, p = self.data.fixed.Q.shape
        return n - p if self.reml else n

    @cached_property
    def constant(self) -> float:
        """What the deviance of the data as given has more than that in standard coordinates."""
        fixed, weights = self.data.fixed, self.data.design.weights
        of_weights = 0.0 if weights is None else float(np.log(weights).sum())
        return 2.0 * self.degrees * math.log(fixed.scale) + (fixed.logdet if self.reml else 0.0) - of_weights

    @cached_property
    def _evaluator(self) -> "Workspace | OneWay":
        return (
            OneWay.of(self.data, with_x=self.reml)
            if self.data.pattern.leading == len(self.data.groups) == 1
            else self._work
        )

    @cached_property
    def _work(self) -> "Workspace":
        work = Workspace.of(self.data, with_x=self.reml)
        work.lam[self.free] = np.nan  # of no evaluation yet
        return work

    def lam(self, theta: Array) -> Array:
        """All Λ_f, one after another."""
        out = np.zeros(int(self.data.pattern.place[-1]))
        out[self.free] = theta
        return out

    def __call__(self, theta: Array) -> Evaluation:
        """Deviance and gradient; the deviance is infinite where rounding leaves no positive pivot."""
        e, free, nu = self._evaluator, self.free, self.degrees
        e.lam[free] = theta
        of_u, of_x, squares = e.run()
        if not squares > 0.0:
            nothing = np.full(e.lam.size, np.nan)
            return Evaluation(math.inf, nothing[free], math.nan, math.nan, nothing, nothing)
        logdet = of_u + of_x if self.reml else of_u
        deviance = logdet + nu * (1.0 + LOG_2PI + math.log(squares / nu))
        of_logdet, of_squares = e.slopes.copy()
        gradient = (of_logdet + (nu / squares) * of_squares)[free]
        return Evaluation(deviance, gradient, logdet, squares, of_logdet, of_squares)

    def factored(self, theta: Array) -> "Workspace":
        """The workspace as an evaluation at θ leaves it."""
        work = self._work
        if not np.array_equal(work.lam[self.free], theta):
            work.lam[self.free] = theta
            work.run()
        return work

    def at_sigma2(self, at: Evaluation, sigma2: float) -> float:
        """The deviance of the data as given where σ² (standard coordinates) is not profiled out."""
        return self.degrees * (LOG_2PI + math.log(sigma2)) + at.logdet + at.squares / sigma2 + self.constant


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
    def of(cls, data: CrossProducts, *, with_x: bool) -> "Workspace":
        """Make room; `with_x` for the inverse of the system in (u, β), else in u."""
        panels, border, q = data.products.panels, data.products.border, data.pattern.q
        effects, side, lam = int(data.pattern.effect[-1]), len(border), int(data.pattern.place[-1])
        inverted = side + (q - 1 if with_x else 0)
        return cls(
            data.pattern,
            data.products,
            np.empty_like(panels),
            np.empty((side + q, side + q)),
            np.zeros_like(panels),
            np.empty((inverted, inverted)),
            np.empty(effects + q - 1),
            np.empty(effects + q),
            np.empty(effects + q),
            np.empty((2, lam)),
            np.zeros(lam),
        )

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

    def solve(self) -> None:
        """Write u and β, once L and T are factored."""
        kernels.solve(self.pattern, self.L, self.T, self.x)

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

    def forward(self, A: Array) -> None:
        """Overwrite A (effects and β, m) by L⁻¹A."""
        kernels.forward(self.pattern, self.L, A)
        head = int(self.pattern.effect[self.pattern.leading])
        tail = np.concatenate([A[head:], np.zeros((1, A.shape[1]))])  # the row of y too: T as it stands, without a copy
        A[head:] = scipy.linalg.solve_triangular(self.T.T, tail, trans=1, check_finite=False)[:-1]

    @cached_property
    def arguments(self) -> tuple[Any, ...]:
        """Of the one kernel that does all of it."""
        written = self.L, self.T, self.S, self.inverse, self.x, self.residual, self.c, *self.slopes
        return (*self.pattern, *self.products), *written, self.lam
