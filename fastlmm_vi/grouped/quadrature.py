"""The exact posterior of the grouped model by quadrature over its variance parameters: the judge of the other methods."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from .. import grid, threads
from ..marginal import Marginal
from ..result import Array
from . import parameters, reml
from .likelihood import Likelihood
from .posterior import Posterior, Scales
from .solution import Solution

MOST = 4  # parameters that a grid can have
NEGLIGIBLE = 1e-8  # probability of all nodes together that are left out where effects are summed up
LEAST = 0.05  # of the standard deviation of the residual: smallest standard deviation at the start
INNERMOST = 0.95  # of the correlations, at the start


@dataclass(frozen=True, eq=False)
class Transformed:
    """Distribution of a standard deviation, whose logarithm is on the grid, or of a correlation, whose z-transform is."""

    inner: Marginal
    mean: float
    sd: float
    correlation: bool

    def _inward(self, x: Array) -> tuple[Array, Array]:
        """The coordinate on the grid and its derivative."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return (np.arctanh(x), 1.0 / (1.0 - x**2)) if self.correlation else (np.log(x), 1.0 / x)

    def quantile(self, q: ArrayLike) -> Array:
        """Values below which the probability is q."""
        inner = self.inner.quantile(q)
        return np.tanh(inner) if self.correlation else np.exp(inner)

    def cdf(self, x: ArrayLike) -> Array:
        """Probability below x."""
        values = np.clip(np.asarray(x, dtype=np.float64), -1.0 if self.correlation else 0.0, None)
        return self.inner.cdf(self._inward(np.minimum(values, 1.0) if self.correlation else values)[0])

    def pdf(self, x: ArrayLike) -> Array:
        """Density at x."""
        inner, slope = self._inward(np.asarray(x, dtype=np.float64))
        density = np.interp(inner, self.inner.x, self.inner.density, left=0.0, right=0.0)
        return np.where(np.isfinite(inner), density * slope, 0.0)


@dataclass(frozen=True, eq=False)
class Mixtures:
    """Distributions of r effects, each of them normal at every node of the grid."""

    weights: Array  # (m,)
    means: Array  # (m, r)
    sds: Array  # (m, r)

    @cached_property
    def mean(self) -> Array:
        """Posterior means, (r,)."""
        return self.weights @ self.means

    @cached_property
    def sd(self) -> Array:
        """Posterior standard deviations, (r,)."""
        return np.sqrt(self.weights @ (self.sds**2 + (self.means - self.mean) ** 2))

    def cdf(self, x: ArrayLike) -> Array:
        """Probability of every effect to be below x, which has r values, or rows of them."""
        values = np.asarray(x, dtype=np.float64)
        return np.einsum("m,...mr->...r", self.weights, ndtr((values[..., None, :] - self.means) / self.sds))

    def pdf(self, x: ArrayLike) -> Array:
        """Density of every effect at x, which has r values, or rows of them."""
        z = (np.asarray(x, dtype=np.float64)[..., None, :] - self.means) / self.sds
        return np.einsum("m,...mr->...r", self.weights, np.exp(-0.5 * z**2) / self.sds) / np.sqrt(2.0 * np.pi)

    def quantile(self, q: float) -> Array:
        """Values below which the probability is q, (r,): Newton's steps, kept within what is known to hold the root."""
        low, high = (self.means - 9.0 * self.sds).min(axis=0), (self.means + 9.0 * self.sds).max(axis=0)
        x = np.clip(self.mean + self.sd * ndtri(q), low, high)
        for _ in range(100):
            excess = self.cdf(x) - q
            low, high = np.where(excess < 0.0, x, low), np.where(excess < 0.0, high, x)
            with np.errstate(divide="ignore", invalid="ignore"):
                new = x - excess / self.pdf(x)
            new = np.where((new > low) & (new < high), new, 0.5 * (low + high))
            moved, x = np.abs(new - x), new
            if (moved < 1e-11 * self.sd).all():
                break
        return x


@dataclass(frozen=True, eq=False)
class Quadrature:
    """The posterior on a grid of its variance parameters, and normal given these."""

    posterior: Posterior
    nodes: grid.Grid

    @property
    def log_evidence(self) -> float | None:
        """Log p(y), None under an improper prior."""
        return self.nodes.log_evidence if self.posterior.priors.proper else None

    @property
    def converged(self) -> bool:
        """Whether the grid has reached its tolerance."""
        return self.nodes.converged

    @cached_property
    def _kept(self) -> tuple[Array, Array]:
        """Nodes that count, and their probabilities."""
        order = np.argsort(self.nodes.weights)
        keep = order[np.cumsum(self.nodes.weights[order]) > NEGLIGIBLE]
        weights = self.nodes.weights[keep]
        return self.nodes.nodes[keep], weights / weights.sum()

    @cached_property
    def _natural(self) -> Array:
        """Variance parameters at all nodes, (m, k)."""
        return natural(self.posterior, self.nodes.nodes)

    def fixed_value(self, name: str) -> float:
        """The value of a standard deviation whose prior is `Fixed`."""
        scales = self.posterior.scales(self.nodes.mode)
        by_name = {"sigma": scales.sigma}
        for prior, sd in zip(self.posterior.priors.terms, scales.sd, strict=True):
            by_name |= {f"sd_{prior.factor}__{x}": float(value) for x, value in zip(prior.effects, sd, strict=True)}
        return by_name[name]

    def variance(self, name: str) -> Transformed:
        """Distribution of a standard deviation, of a correlation, or of σ, by brms' name."""
        j = self.posterior.names.index(name)
        values = self._natural[:, j]
        mean = float(self.nodes.weights @ values)
        sd = float(np.sqrt(self.nodes.weights @ (values - mean) ** 2))
        return Transformed(self.nodes.marginal(j), mean, sd, name.startswith("cor_"))

    @cached_property
    def fixed(self) -> Mixtures:
        """Distributions of the fixed effects."""
        nodes, weights = self._kept
        with threads.limit(1):  # many small systems
            found = [self.posterior.given(phi).fixed for phi in nodes]
        return Mixtures(weights, np.array([m for m, _ in found]), np.sqrt([np.diag(V) for _, V in found]))

    @cached_property
    def random(self) -> list[Mixtures]:
        """Distributions of the random effects of every term, level by level."""
        nodes, weights = self._kept
        with threads.limit(1):
            found = [self.posterior.given(phi).random for phi in nodes]
        return [
            Mixtures(
                weights,
                np.array([at[k][0].ravel() for at in found]),
                np.sqrt([np.einsum("vii->vi", at[k][1]).ravel() for at in found]),
            )
            for k in range(len(self.posterior.sizes))
        ]

    def draw(self, rng: np.random.Generator, size: int) -> tuple[list[Scales], list[tuple[Array, list[Array]]]]:
        """Draw variance parameters, and effects given them."""
        scales, effects = [], []
        for phi in self.nodes.sample(rng, size):
            scales.append(self.posterior.scales(phi))
            effects.append(self.posterior.given(phi).draw(rng))
        return scales, effects


def natural(posterior: Posterior, phi: Array) -> Array:
    """Standard deviations, correlations and σ at rows of φ, (m, k), where no term has more than one correlation."""
    correlation = np.array([name.startswith("cor_") for name in posterior.names])
    return np.where(correlation, np.tanh(phi), np.exp(np.where(correlation, 0.0, phi)))


def fit(posterior: Posterior, tol: float = 1e-6, report: Callable[[str], None] = lambda text: None) -> Quadrature:
    """Integrate over the variance parameters, from the REML estimates as a start.

    Raises
    ------
    ValueError
        If there are more than four of them.
    IntegrationError
        If the posterior is improper.
    """
    names = posterior.names
    if len(names) > MOST:
        raise ValueError(
            f"method='quadrature' integrates over up to {MOST} variance parameters, and this model has {len(names)} "
            f"({', '.join(names)}): use method='structured-vi', leave out correlations with ||, or fix some by Fixed(…)."
        )
    report("quadrature, start")
    start = posterior.phi(estimates(posterior))
    report("quadrature, grid")
    log_density = posterior.density.logp_many
    nodes = grid.integrate(log_density, start, of=lambda phi: natural(posterior, phi), vectorised=True, tol=tol)
    return Quadrature(posterior, nodes)


def estimates(posterior: Posterior) -> Scales:
    """REML's, drawn away from the boundary."""
    data = posterior.data
    likelihood = Likelihood(data, True)
    solution = Solution(likelihood, reml.fit(likelihood).theta)
    values, at = parameters.values(solution), 0
    sd, roots = [], []
    for d in posterior.sizes:
        sd.append(np.maximum(values[at : at + d], LEAST * solution.sigma))
        at += d
        R = np.eye(d)
        R[np.triu_indices(d, 1)] = R.T[np.triu_indices(d, 1)] = INNERMOST * np.nan_to_num(
            values[at : at + d * (d - 1) // 2]
        )
        roots.append(np.asarray(np.linalg.cholesky(R), dtype=np.float64))
        at += d * (d - 1) // 2
    return Scales(tuple(sd), tuple(roots), float(solution.sigma))
