"""The profiled deviance of the grouped model and its gradient, from cross products alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..result import Array
from .cross_products import CrossProducts
from .elimination import Workspace
from .one_way import OneWay

LOG_2PI = math.log(2.0 * math.pi)


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
                columns, rows = _triangle(size)
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
            columns, rows = _triangle(len(L))
            L[rows, columns] = theta[at : at + rows.size]
            found.append(L)
            at += rows.size
        return found

    @staticmethod
    def pack(triangles: Sequence[Array]) -> Array:
        """The reverse of `unpack`."""
        return np.concatenate([np.zeros(0), *(L.T[_triangle(len(L))] for L in triangles)])

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
    def _evaluator(self) -> Workspace | OneWay:
        return self._work if self.data.one_way is None else OneWay.of(self.data.one_way, with_x=self.reml)

    @cached_property
    def _work(self) -> Workspace:
        work = Workspace.of(self.data, with_x=self.reml)
        work.lam[self.free] = np.nan  # of no evaluation yet
        return work

    @property
    def balanced(self) -> bool:
        """Whether there is one factor, all of whose groups have the same design."""
        return isinstance(self._evaluator, OneWay) and self._evaluator.classes == 1

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

    def factored(self, theta: Array) -> Workspace:
        """The workspace as an evaluation at θ leaves it."""
        work = self._work
        if not np.array_equal(work.lam[self.free], theta):
            work.lam[self.free] = theta
            work.run()
        return work

    def at_sigma2(self, at: Evaluation, sigma2: float) -> float:
        """The deviance of the data as given where σ² (standard coordinates) is not profiled out."""
        return self.degrees * (LOG_2PI + math.log(sigma2)) + at.logdet + at.squares / sigma2 + self.constant


@cache
def _triangle(d: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Columns and rows of a lower triangle, column by column."""
    columns, rows = np.triu_indices(d)
    return columns, rows
