"""The exact posterior of the grouped model by quadrature over its variance parameters: the judge of the other methods."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from .. import grid
from ..marginal import Marginal as LatticeMarginal
from ..mixtures import Mixtures
from ..result import Array, Status
from . import parameters, reml
from .draws import Draws, of_scales, recovered
from .exact import Exact
from .likelihood import Likelihood
from .marginals import Marginal, PointMarginal
from .posterior import Posterior, Scales
from .solution import Solution

MOST = 4  # parameters that a grid can have
NEGLIGIBLE = 1e-7  # probability of all nodes together that are left out where effects are summed up
LEAST = 0.05  # of the residual's standard deviation over the size of a column: smallest standard deviation at the start
INNERMOST = 0.95  # of the correlations, at the start


@dataclass(frozen=True, eq=False)
class Transformed:
    """Distribution of a standard deviation, whose logarithm is on the grid, or of a correlation, whose z-transform is."""

    inner: LatticeMarginal
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
class Quadrature(Exact):
    """The posterior on a grid of its variance parameters, and normal given these."""

    posterior: Posterior
    nodes: grid.Grid

    @property
    def log_evidence(self) -> float | None:
        """Log p(y), None under an improper prior."""
        return self.nodes.log_evidence if self.posterior.priors.proper else None

    @property
    def n_iter(self) -> int:
        """Evaluations of the density."""
        return self.nodes.evaluations

    @property
    def status(self) -> Status:
        """Whether the grid has reached its tolerance."""
        return Status.CONVERGED if self.nodes.converged else Status.NOT_CONVERGED

    @cached_property
    def kept(self) -> tuple[Array, Array]:
        """Nodes that count where effects are summed up, and their probabilities."""
        nodes, weights = self.nodes.coarser
        order = np.argsort(weights)
        keep = order[np.cumsum(weights[order]) > NEGLIGIBLE]
        return nodes[keep], weights[keep] / weights[keep].sum()

    @cached_property
    def _natural(self) -> Array:
        """Variance parameters at all nodes, (m, k)."""
        return natural(self.posterior, self.nodes.nodes)

    @cached_property
    def marginals(self) -> Mapping[str, Marginal]:
        """Distribution of every parameter by brms' name: `b_x`, `sd_g__x`, `cor_g__x__z`, `sigma`."""
        found: dict[str, Marginal] = {
            f"b_{name}": self._fixed[j] for j, name in enumerate(self.posterior.priors.coefficients)
        }
        held = of_scales([self.posterior.scales(self.nodes.mode)])
        for name, (value,) in zip(parameters.names(self.posterior.data.design.terms), held, strict=True):
            free = name in self.posterior.names
            found[name] = self._variance(name) if free else PointMarginal(float(value))
        return found

    def _variance(self, name: str) -> Transformed:
        j = self.posterior.names.index(name)
        values = self._natural[:, j]
        mean = float(self.nodes.weights @ values)
        sd = float(np.sqrt(self.nodes.weights @ (values - mean) ** 2))
        return Transformed(self.nodes.marginal(j), mean, sd, name.startswith("cor_"))

    @cached_property
    def _fixed(self) -> Mixtures:
        nodes, weights = self.kept
        means, covariances = self.posterior.recovery.fixed(nodes)
        return Mixtures(weights, means, np.sqrt(np.einsum("mii->mi", covariances)))

    @cached_property
    def random(self) -> list[Mixtures]:
        """Distributions of the random effects of every term, level by level."""
        nodes, weights = self.kept
        found = [self.posterior.recovery.by_term(one) for one in self.posterior.recovery.random(nodes)]
        shape = len(weights), -1
        return [Mixtures(weights, m.reshape(shape), sd.reshape(shape)) for m, sd in zip(*found, strict=True)]

    def draw(self, rng: np.random.Generator, size: int) -> Draws:
        """Draw variance parameters, and effects given them."""
        return recovered(self.posterior, self.nodes.sample(rng, size), rng)


def natural(posterior: Posterior, phi: Array) -> Array:
    """Standard deviations, correlations and σ at rows of φ, (m, k), where no term has more than one correlation."""
    correlation = np.array([name.startswith("cor_") for name in posterior.names])
    return np.where(correlation, np.tanh(phi), np.exp(np.where(correlation, 0.0, phi)))


def fit(posterior: Posterior, tol: float = 1e-6, report: Callable[[str], None] = lambda text: None) -> Quadrature:
    """Integrate over the variance parameters, from the REML estimates as a start.

    Raises
    ------
    ValueError
        If there are none, or more than four of them.
    IntegrationError
        If the posterior is improper.
    """
    names = posterior.names
    if not names:
        raise ValueError(
            "method='quadrature' integrates over variance parameters, and all of this model's are held by Fixed(…): give one "
            "of them a prior, or use method='structured-vi', which then is exact."
        )
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
    for d, term in zip(posterior.sizes, data.terms, strict=True):
        size = np.linalg.norm(term.M, axis=0)  # root mean squares of the columns that the effects belong to
        sd.append(np.maximum(values[at : at + d], LEAST * solution.sigma / size))
        at += d
        R = np.eye(d)
        R[np.triu_indices(d, 1)] = R.T[np.triu_indices(d, 1)] = INNERMOST * np.nan_to_num(
            values[at : at + d * (d - 1) // 2]
        )
        roots.append(np.asarray(np.linalg.cholesky(R), dtype=np.float64))
        at += d * (d - 1) // 2
    return Scales(tuple(sd), tuple(roots), float(solution.sigma))
