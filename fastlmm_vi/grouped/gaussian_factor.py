"""The Gaussian factors of q at given expectations of 1/σ² and Σ⁻¹: one evaluation of the mixed-model equations.

Given these expectations the optimal q(β, u) is the posterior of a model with σ² = 1 / E[1/σ²] and Σ = E[Σ⁻¹]⁻¹. If β and u
are independent of each other in q, or parts of u, the optimal factors have its means, and as covariances the inverses of the
diagonal blocks of its precision.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.linalg

from ..priors import Gaussian
from ..result import Array
from .cross_products import CrossProducts
from .elimination import Workspace
from .kept_blocks import KeptBlocks
from .likelihood import LOG_2PI, Likelihood
from .one_way import OneWay


class Moments(NamedTuple):
    """What the other factors, and the ELBO, need to know of q(β, u), in the units of the data."""

    residual: float  # E‖W^½(y − Xβ − Zu)‖²
    squares: tuple[Array, ...]  # Σ_v E[u_v u_vᵀ] of every term in formula order
    beta: Array
    beta_cov: Array
    value: float  # E log p(β) + the entropy of q(β, u) + constants in N and m


@dataclass(frozen=True, eq=False)
class GaussianFactor:
    """q(β, u), or its factors, as functions of E[1/σ²] and the E[Σ⁻¹] of all terms.

    Parameters
    ----------
    data : CrossProducts
    beta : Gaussian
        Prior of β.
    factorisation : {"joint", "factor", "group", "coefficient"}
        - "joint": q(β, u).
        - "factor": q(β) Π q(u_f), u_f all effects of a grouping factor; its groups are independent of each other by
          themselves.
        - "group": q(β) Π q(u_lv), groups of every single term.
        - "coefficient": q(β) Π q(u_lvj), the coordinates in which the formula gives the effects.
    """

    data: CrossProducts
    beta: Gaussian
    factorisation: str

    def __call__(self, tau: float, precisions: Sequence[Array]) -> Moments:
        """Moments of the optimal factors at E[1/σ²] = `tau` and E[Σ⁻¹] = `precisions`, term by term in formula order.

        Raises
        ------
        LinAlgError
            If rounding leaves no positive pivot.
        """
        at = self._solved(tau, precisions)
        data, fixed, p = self.data, self.data.fixed, len(self.data.fixed.kept)
        effects, pseudo = self._effects(at), at.pseudo_x
        joint = self.factorisation == "joint"
        half = scipy.linalg.solve_triangular(at.of_x, np.eye(p), lower=True) if joint else self.root_of_x(tau)
        inverse = half.T @ half
        of_x = -2.0 * float(np.log(np.diag(half)).sum())
        logdet = at.logdet if joint else of_x + sum(part.logdet for part in effects)
        shrunk = float(((pseudo @ inverse) * pseudo).sum())
        length = sum(float(np.trace(part.mean)) for part in effects)
        spread = p - shrunk + sum(part.determined for part in effects)
        residual = fixed.scale**2 * max(at.squares - length - at.off, 0.0) + spread / tau
        squares: dict[int, Array] = {}
        for f, start, k, d in data.places:
            own = slice(start, start + d)
            A = fixed.scale**2 * effects[f].mean[own, own] + effects[f].cov[own, own] / tau
            squares[k] = at.roots[k] @ A @ at.roots[k].T
        value = self._constant + self.beta.log_constant - 0.5 * (fixed.scale**2 * tau * at.off + shrunk)
        value -= 0.5 * (p * np.log(tau) + logdet)
        for term, precision in zip(data.design.terms, precisions, strict=True):
            value -= 0.5 * len(term.factor.levels) * float(np.linalg.slogdet(precision)[1])
        return Moments(
            residual,
            tuple(0.5 * (squares[k] + squares[k].T) for k in range(len(squares))),
            fixed.least_squares + fixed.scale * (fixed.to_beta @ at.alpha),
            fixed.to_beta @ inverse @ fixed.to_beta.T / tau,
            float(value),
        )

    def _solved(self, tau: float, precisions: Sequence[Array]) -> "_Solved":
        """The mixed-model equations, the prior of β as rows of the data: roots of its precision, times √(1/τ)."""
        data, p = self.data, len(self.data.fixed.kept)
        state, corner = self._evaluator
        pseudo_x, pseudo_y = (part / np.sqrt(tau) for part in self._pseudo_rows)
        rows = np.column_stack([pseudo_x, pseudo_y - pseudo_x @ self._shift])
        corner[:] = self._corner + rows.T @ rows
        roots, state.lam[:] = self.roots(tau, precisions)
        of_u, of_x, squares = state.run()
        if not np.isfinite(squares):
            raise np.linalg.LinAlgError(f"no positive pivot at E[1/σ²] = {tau:g}")
        T = state.T[-1 - p :, -1 - p :]
        alpha = self._shift + scipy.linalg.solve_triangular(T[:-1, :-1], T[-1, :-1], lower=True, trans=1)
        off = pseudo_x @ alpha - pseudo_y
        lams, slopes = [], []
        for f, group in enumerate(data.groups):
            where, shape = slice(*data.pattern.place[f : f + 2]), (group.d, group.d)
            lams.append(state.lam[where].reshape(shape).copy())
            slopes.append(state.slopes[:, where].reshape(2, *shape).copy())
        return _Solved(roots, lams, slopes, T[:-1, :-1], alpha, pseudo_x, float(off @ off), of_u + of_x, squares)

    def workspace(self, tau: float, precisions: Sequence[Array]) -> tuple[Workspace, list[Array], float]:
        """The equations eliminated, solved and inverted by blocks, the roots of every term, and the log-determinant."""
        data = self.data
        pseudo_x, pseudo_y = (part / np.sqrt(tau) for part in self._pseudo_rows)
        rows = np.column_stack([pseudo_x, pseudo_y])
        products = data.products._replace(corner=data.products.corner + rows.T @ rows)
        work = Workspace.of(replace(data, products=products), with_x=True)
        roots, work.lam[:] = self.roots(tau, precisions)
        of_u, of_x, _ = work.run()
        return work, roots, of_u + of_x

    def root_of_x(self, tau: float) -> Array:
        """R with RᵀR = Cov(standard β) τ where β is independent of u."""
        pseudo = self._pseudo_rows[0] / np.sqrt(tau)
        own = np.linalg.cholesky(np.eye(pseudo.shape[1]) + pseudo.T @ pseudo)
        return np.asarray(scipy.linalg.solve_triangular(own, np.eye(len(own)), lower=True))

    def roots(self, tau: float, precisions: Sequence[Array]) -> tuple[list[Array], Array]:
        """Roots of τ E[Σ⁻¹]⁻¹ in the units of the data, and all Λ_f in standard coordinates."""
        triangles, roots = [], []
        for term, precision in zip(self.data.terms, precisions, strict=True):
            root = np.sqrt(tau) * scipy.linalg.inv(np.linalg.cholesky(precision)).T
            triangle = np.asarray(scipy.linalg.qr((term.M @ root).T, mode="r")[0]).T
            triangles.append(triangle * np.copysign(1.0, np.diag(triangle)))
            roots.append(scipy.linalg.solve_triangular(term.M, triangles[-1]))
        theta = self._likelihood.pack([triangles[k] for k in self._likelihood.terms])
        return roots, self._likelihood.lam(theta)

    def _effects(self, at: "_Solved") -> list["_Effects"]:
        """What is known of the random effects of every factor, spherical."""
        found = []
        for f, (group, lam) in enumerate(zip(self.data.groups, at.lams, strict=True)):
            mean = -0.5 * lam.T @ at.slopes[f][1]
            if self.factorisation == "joint":
                fixed = 0.5 * lam.T @ at.slopes[f][0]  # Σ_v of I − S_vv
                found.append(_Effects(mean, group.levels * np.eye(group.d) - fixed, float(np.trace(fixed)), 0.0))
            else:
                covariances, logdet = self.blocks[f].covariances(lam)
                cov = covariances.sum(axis=0)
                found.append(_Effects(mean, cov, group.levels * group.d - float(np.trace(cov)), logdet))
        return found

    @cached_property
    def _likelihood(self) -> Likelihood:
        return Likelihood(self.data, reml=False)

    @cached_property
    def blocks(self) -> tuple[KeptBlocks, ...]:
        """What q(u) keeps of the precision, factor by factor, if it is not joint with β."""
        return KeptBlocks.of(self.data, self.factorisation)

    @cached_property
    def _evaluator(self) -> tuple[Workspace | OneWay, Array]:
        """What solves the equations, and the products of [X y] that it adds, to be written to."""
        one_way = self.data.one_way
        found = Workspace.of(self.data, with_x=True) if one_way is None else OneWay.of(one_way, with_x=True)
        return found, found.corner

    @cached_property
    def _corner(self) -> Array:
        """The same of the data alone."""
        return self.data.products.corner if self.data.one_way is None else self.data.one_way.within

    @cached_property
    def _shift(self) -> Array:
        """Effects of X that the evaluator has taken from y."""
        return np.zeros(len(self.data.fixed.kept)) if self.data.one_way is None else self.data.one_way.shift

    @cached_property
    def _pseudo_rows(self) -> tuple[Array, Array]:
        """Rows [X y] in standard coordinates that stand for the prior of β where 1/E[1/σ²] is 1."""
        fixed = self.data.fixed
        size = np.sqrt(np.diag(self.beta.precision))
        size[size == 0.0] = 1.0
        values, vectors = np.linalg.eigh(self.beta.precision / np.outer(size, size))
        root = (vectors * np.sqrt(np.clip(values, 0.0, None))).T * size
        return root @ fixed.to_beta, root @ (self.beta.mean - fixed.least_squares) / fixed.scale

    @cached_property
    def _constant(self) -> float:
        """What no parameter of q moves."""
        n, p = self.data.fixed.Q.shape
        effects, weights = int(self.data.pattern.effect[-1]), self.data.design.weights
        of_weights = 0.0 if weights is None else 0.5 * float(np.log(weights).sum())
        entropy = 0.5 * ((effects + p) * (1.0 + LOG_2PI) - self.data.fixed.logdet)
        return entropy - 0.5 * (n + effects) * LOG_2PI + of_weights


class _Solved(NamedTuple):
    """The equations solved: by term or factor, and what belongs to X."""

    roots: Sequence[Array]
    lams: Sequence[Array]
    slopes: Sequence[Array]  # (2, d, d): of the log-determinant, of r²
    of_x: Array
    alpha: Array
    pseudo_x: Array
    off: float  # (β − its prior mean)ᵀ precision (·), in units of r²
    logdet: float
    squares: float


class _Effects(NamedTuple):
    """Of one factor: Σ_v û_v û_vᵀ, Σ_v Cov(u_v) τ, tr of what the data take from I, log-determinant (unless joint)."""

    mean: Array
    cov: Array
    determined: float
    logdet: float
