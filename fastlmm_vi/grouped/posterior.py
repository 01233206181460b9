"""The exact posterior of the grouped model: its density in the variance parameters, and all effects given these."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..priors import Fixed, ScalePrior
from ..result import Array
from .cross_products import CrossProducts
from .density import Density
from .model_priors import ModelPriors
from .recovery import Recovery


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
    correlations.)
    """

    data: CrossProducts
    priors: ModelPriors

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

    @cached_property
    def recovery(self) -> Recovery:
        """β and all random effects given φ."""
        return Recovery(self.density)

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
