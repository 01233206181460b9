"""The exact posterior of the grouped model: its density in the variance parameters, and all effects given these."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.linalg

from ..priors import Fixed, ScalePrior
from ..result import Array
from .cross_products import CrossProducts
from .density import Density
from .elimination import Workspace
from .model_priors import ModelPriors
from .one_way import OneWay
from .reml import canonical


class Scales(NamedTuple):
    """Variance parameters as people name them."""

    sd: tuple[Array, ...]  # of every term, (d,)
    correlation: tuple[Array, ...]  # its lower Cholesky factor, (d, d)
    sigma: float


@dataclass(frozen=True, eq=False)
class Posterior:
    """p(φ | y) up to its constant p(y), β and u integrated out; φ unconstrained.

    φ has, term by term as in the formula, the logarithms of the standard deviations and, in the order of rows of a lower
    triangle, z-transforms (atanh) of canonical partial correlations; at the end log σ. The density is in φ: Jacobians of
    these transformations are in it. (Lewandowski, Kurowicka and Joe, Journal of Multivariate Analysis 100, 2009, for the
    correlations.) The state of `given` is shared by what it returns: not for several threads.
    """

    data: CrossProducts
    priors: ModelPriors

    @cached_property
    def _at(self) -> Workspace | OneWay:
        data = self.data
        return Workspace.of(data, with_x=False) if data.one_way is None else OneWay.of(data.one_way, with_x=False)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Random effects of a level, of every term."""
        return tuple(len(term.names) for term in self.data.design.terms)

    @cached_property
    def _free(self) -> tuple[tuple[Array, ...], bool]:
        """Which standard deviations vary, term by term, and whether σ does: those without a `Fixed` prior."""
        of_terms = tuple(
            np.array([not isinstance(prior, Fixed) for prior in term.scales or ()] or [True] * d)
            for term, d in zip(self.priors.terms, self.sizes, strict=True)
        )
        return of_terms, not isinstance(self.priors.sigma, Fixed)

    @cached_property
    def density(self) -> Density:
        """The compiled log density of φ: this object calls it, and so may any sampler."""
        return Density(self.data, self.priors)

    @property
    def names(self) -> list[str]:
        """Parameters of φ by brms' names, of which it has the logarithms or z-transforms."""
        return self.density.names

    def scales(self, phi: Array) -> Scales:
        """Standard deviations, correlations and σ at φ."""
        sd, roots, at = [], [], 0
        for d, free, prior in zip(self.sizes, self._free[0], self.priors.terms, strict=True):
            values = np.array([one.value if isinstance(one, Fixed) else np.nan for one in prior.scales or [None] * d])
            count = int(free.sum())
            values[free] = np.exp(phi[at : at + count])
            at += count
            sd.append(values)
            roots.append(correlation_root(np.tanh(phi[at : at + d * (d - 1) // 2]), d))
            at += d * (d - 1) // 2
        sigma = self.priors.sigma
        return Scales(tuple(sd), tuple(roots), sigma.value if isinstance(sigma, Fixed) else float(np.exp(phi[-1])))

    def phi(self, scales: Scales) -> Array:
        """The reverse of `scales`."""
        parts = []
        for sd, root, free in zip(scales.sd, scales.correlation, self._free[0], strict=True):
            parts += [np.log(sd[free]), np.arctanh(partial_correlations(root))]
        return np.concatenate([*parts, [np.log(scales.sigma)] if self._free[1] else []])

    def __call__(self, phi: Array) -> float:
        """Log of prior density and likelihood at φ; −∞ where rounding leaves no positive pivot, or a prior has no density."""
        return self.density.logp(phi)

    def log_prior(self, phi: Array, scales: Scales) -> float:
        """Log density of φ a priori."""
        total = 0.0
        if isinstance(self.priors.sigma, ScalePrior):
            total += float(self.priors.sigma.log_density(scales.sigma)) + phi[-1]
        at = 0
        for d, free, prior, sd, root in zip(
            self.sizes, self._free[0], self.priors.terms, scales.sd, scales.correlation, strict=True
        ):
            count = int(free.sum())
            total += prior.log_density(sd, root) + phi[at : at + count].sum()
            at += count
            total += log_jacobian(phi[at : at + d * (d - 1) // 2], d)
            at += d * (d - 1) // 2
        return float(total)

    def _set(self, scales: Scales) -> None:
        """Λ of all terms in standard coordinates; β's prior as rows of data, of the residual's variance."""
        data, lam = self.data, self._at.lam
        self._at.corner[:] = self._corner + (scales.sigma / data.fixed.scale) ** 2 * self.density.beta_rows
        lam[:] = 0.0
        for group, place in zip(data.groups, data.pattern.place, strict=False):
            block, start = lam[place : place + group.d**2].reshape(group.d, group.d), 0
            for k in group.terms:
                G = data.terms[k].M @ (scales.sd[k][:, None] * scales.correlation[k]) / scales.sigma
                d = len(G)
                block[start : start + d, start : start + d] = G if d == 1 else canonical(G, 0.0)[0]
                start += d

    @cached_property
    def _corner(self) -> Array:
        """[X y]ᵀ[X y] of the data."""
        return self._at.corner.copy()

    def given(self, phi: Array) -> "Given":
        """β and b given φ and y; valid until the next evaluation."""
        scales = self.scales(phi)
        self._set(scales)
        self._at.factor()
        sigma, p = scales.sigma / self.data.fixed.scale, len(self.data.fixed.to_beta)
        root, one_way = self._at.T[-1 - p :, -1 - p :], self.data.one_way
        delta = scipy.linalg.solve_triangular(root[:-1, :-1], root[-1, :-1], trans=1, lower=True)
        delta = delta if one_way is None else delta + one_way.shift
        return Given(self.data, self._at, scales, sigma, delta, np.tril(root[:-1, :-1]) / sigma)


@dataclass(frozen=True, eq=False)
class Given:
    """β and b | φ, y: jointly normal."""

    data: CrossProducts
    at: Workspace | OneWay
    scales: Scales
    sigma: float  # in units of the standard y
    delta: Array  # mean of β in standard coordinates
    M: Array  # lower Cholesky factor of its precision there

    def _beta(self, delta: Array) -> Array:
        fixed = self.data.fixed
        return fixed.least_squares + fixed.scale * fixed.to_beta @ delta

    @cached_property
    def fixed(self) -> tuple[Array, Array]:
        """Mean (p,) and covariance (p, p) of β."""
        B = self.data.fixed.scale * self.data.fixed.to_beta
        half = scipy.linalg.solve_triangular(self.M, B.T, lower=True)
        return self._beta(self.delta), half.T @ half

    @cached_property
    def random(self) -> list[tuple[Array, Array]]:
        """Means (levels, d) and covariances (levels, d, d) of b of every term, β integrated out."""
        p = len(self.M)
        mean = self.at.solve_given(self.delta)
        slopes = np.empty((mean.size, p))
        for j, row in enumerate(np.eye(p)):
            slopes[:, j] = self.at.solve_given(row, 0.0)
        slopes = scipy.linalg.solve_triangular(self.M, slopes.T, lower=True).T if p else slopes
        covs = []
        for f, (group, own) in enumerate(zip(self.data.groups, self.at.own_inverses(), strict=True)):
            along = slopes[slice(*self.data.pattern.effect[f : f + 2])].reshape(group.levels, group.d, p)
            covs.append(self.sigma**2 * own + along @ along.transpose(0, 2, 1))
        found: dict[int, tuple[Array, Array]] = {}
        for k, (f, part, back) in self._terms().items():
            effects = mean[slice(*self.data.pattern.effect[f : f + 2])].reshape(-1, self.data.groups[f].d)
            found[k] = effects[:, part] @ back.T, back @ covs[f][:, part, part] @ back.T
        return [found[k] for k in range(len(found))]

    def draw(self, rng: np.random.Generator) -> tuple[Array, list[Array]]:
        """One β (p,), and b of every term (levels, d)."""
        p, effects = len(self.M), int(self.data.pattern.effect[-1])
        delta = self.delta + scipy.linalg.solve_triangular(self.M, rng.standard_normal(p), trans=1, lower=True)
        u = self.at.solve_given(delta, 1.0, self.sigma * rng.standard_normal(effects))
        found = {}
        for k, (f, part, back) in self._terms().items():
            own = u[slice(*self.data.pattern.effect[f : f + 2])].reshape(-1, self.data.groups[f].d)
            found[k] = own[:, part] @ back.T
        return self._beta(delta), [found[k] for k in range(len(found))]

    def _terms(self) -> dict[int, tuple[int, slice, Array]]:
        """For every term its factor, its columns in the factor's block, and the map of u to b."""
        data, found = self.data, {}
        for f, group in enumerate(data.groups):
            lam = self.at.lam[slice(*data.pattern.place[f : f + 2])].reshape(group.d, group.d)
            start = 0
            for k in group.terms:
                part = slice(start, start + len(data.terms[k].M))
                found[k] = f, part, data.fixed.scale * scipy.linalg.solve_triangular(data.terms[k].M, lam[part, part])
                start = part.stop
        return found


def correlation_root(partial: Array, d: int) -> Array:
    """The lower Cholesky factor (d, d) of the correlation matrix with these canonical partial correlations, by rows."""
    root = np.zeros((d, d))
    at = 0
    for i in range(d):
        left = 1.0
        for j in range(i):
            root[i, j] = partial[at] * np.sqrt(left)
            left -= root[i, j] ** 2
            at += 1
        root[i, i] = np.sqrt(max(left, 0.0))
    return root


def partial_correlations(root: Array) -> Array:
    """The reverse of `correlation_root`."""
    found = []
    for i in range(len(root)):
        left = 1.0
        for j in range(i):
            found.append(root[i, j] / np.sqrt(left))
            left -= root[i, j] ** 2
    return np.array(found)


def log_jacobian(z: Array, d: int) -> float:
    """Log |∂(correlation matrix) / ∂z|, z = atanh of the canonical partial correlations (LKJ 2009, equation 11)."""
    total, at = 0.0, 0
    for i in range(1, d):
        for j in range(i):
            total += (1.0 + 0.5 * (d - 2 - j)) * -2.0 * (np.logaddexp(z[at], -z[at]) - np.log(2.0))
            at += 1
    return float(total)
