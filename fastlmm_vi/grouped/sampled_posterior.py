"""The posterior of a grouped model from draws of its variance parameters; effects are normal given these."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import gaussian_kde

from ..convergence import diagnose
from ..importance import WeightedDraws
from ..mixtures import Mixtures
from ..result import Array, Status
from ..sampler import Chains
from . import parameters
from .draws import Draws, of_scales, recovered
from .exact import Exact
from .marginals import Marginal, PointMarginal
from .posterior import Posterior

MOST_VALUES = 400_000  # draws times random effects that are kept
FEWEST_DRAWS = 400  # that are kept whatever the number of effects
ERRORS = ["mcse_mean", "ess_bulk", "ess_tail", "r_hat"]


@dataclass(frozen=True, eq=False)
class SampleMarginal:
    """The distribution of a standard deviation (positive) or a correlation, from weighted draws.

    Attributes
    ----------
    values, weights : ndarray (S,)
    correlation : bool
    """

    values: Array
    weights: Array
    correlation: bool

    @property
    def mean(self) -> float:
        """Expectation."""
        return float(self.weights @ self.values)

    @property
    def sd(self) -> float:
        """Standard deviation."""
        return float(np.sqrt(self.weights @ (self.values - self.mean) ** 2))

    def quantile(self, p: ArrayLike) -> Array:
        """Values below which it is with probabilities p, between draws on a straight line."""
        order = np.argsort(self.values)
        below = np.cumsum(self.weights[order]) - 0.5 * self.weights[order]
        return np.interp(np.asarray(p, dtype=np.float64), below, self.values[order])

    def pdf(self, x: ArrayLike) -> Array:
        """Density, smoothed by a normal kernel on the logarithm or z-transform."""
        x = np.asarray(x, dtype=np.float64)
        inside = (np.abs(x) < 1.0) if self.correlation else (x > 0.0)
        there = np.where(inside, x, 0.5)
        inward, slope = (np.arctanh, 1.0 - there**2) if self.correlation else (np.log, there)
        kernel = gaussian_kde(inward(self.values), weights=self.weights)
        return np.where(inside, kernel(inward(there).ravel()).reshape(x.shape) / slope, 0.0)


class Kept(NamedTuple):
    """Draws at which effects are recovered."""

    places: NDArray[np.int64]  # (m,), in every chain
    phi: Array  # (chains, m, k)
    weights: Array  # (chains · m,)


class Recovered(NamedTuple):
    """Effects at draws of φ: means and standard deviations given each, and one draw."""

    means: Array  # (S, r)
    sds: Array  # (S, r)
    draws: Array  # (S, r)


@dataclass(frozen=True, eq=False)
class SampledPosterior(Exact):
    """Draws of the variance parameters; β and b are recovered when they are asked for.

    Their means, standard deviations and quantiles are those of mixtures of the normal distributions given each draw of φ (Rao
    and Blackwell), which know them far better than draws of the effects would.

    Attributes
    ----------
    posterior : Posterior
    phi : ndarray (chains, draws, k)
    run : Chains or WeightedDraws
        What φ is of.
    seed : int
        Of the draws of effects.
    """

    posterior: Posterior
    phi: Array
    run: Chains | WeightedDraws
    seed: int

    @property
    def status(self) -> Status:
        """How sampling ended."""
        return self.run.status

    @property
    def log_evidence(self) -> float | None:
        """Log p(y) by importance sampling, None under an improper prior, and by NUTS."""
        proper = isinstance(self.run, WeightedDraws) and self.posterior.priors.proper
        return self.run.log_evidence if isinstance(self.run, WeightedDraws) and proper else None

    @property
    def n_iter(self) -> int:
        """Evaluations of the density behind the draws that were kept."""
        return int(self.run.stats["n_steps"].sum()) if isinstance(self.run, Chains) else len(self.run.draws)

    @cached_property
    def weights(self) -> Array:
        """Of the draws of all chains, (S,)."""
        size = self.phi.shape[0] * self.phi.shape[1]
        return self.run.weights if isinstance(self.run, WeightedDraws) else np.full(size, 1.0 / size)

    # Variance parameters.

    @cached_property
    def variances(self) -> Mapping[str, Array]:
        """Draws (chains, draws) of every standard deviation and correlation, and of σ, by brms' names."""
        scales = [self.posterior.scales(phi) for phi in self.phi.reshape(-1, self.phi.shape[2])]
        names = parameters.names(self.posterior.data.design.terms)
        shape = self.phi.shape[:2]
        return {name: draws.reshape(shape) for name, draws in zip(names, of_scales(scales), strict=True)}

    @cached_property
    def marginals(self) -> Mapping[str, Marginal]:
        """Distribution of every parameter by brms' name: `b_x`, `sd_g__x`, `cor_g__x__z`, `sigma`."""
        mixtures = Mixtures(self.kept.weights, self.fixed.means, self.fixed.sds)
        found: dict[str, Marginal] = {name: mixtures[j] for j, name in enumerate(self.fixed_names)}
        for name, draws in self.variances.items():
            values = draws.ravel()
            held = name not in self.posterior.names and np.ptp(values) == 0.0
            correlation = name.startswith("cor_")
            found[name] = PointMarginal(float(values[0])) if held else SampleMarginal(values, self.weights, correlation)
        return found

    # Effects.

    @property
    def fixed_names(self) -> list[str]:
        """Brms' names of the fixed effects."""
        return [f"b_{name}" for name in self.posterior.priors.coefficients]

    @property
    def effect_names(self) -> list[str]:
        """Brms' names of the random effects, term by term."""
        return [name for term in self.posterior.data.design.terms for name in parameters.effect_names(term)]

    @cached_property
    def kept(self) -> Kept:
        """Draws at which effects are recovered: all, or evenly thinned (by weights resampled) where effects are many."""
        chains, draws, _ = self.phi.shape
        most = max(MOST_VALUES // max(len(self.fixed_names) + len(self.effect_names), 1), FEWEST_DRAWS)
        if chains * draws <= most:
            return Kept(np.arange(draws), self.phi, self.weights)
        chosen: NDArray[np.int64]
        if isinstance(self.run, WeightedDraws):
            chosen = self.run.resample(np.random.default_rng(self.seed), most)
        else:
            chosen = np.linspace(0, draws - 1, most // chains).round().astype(np.int64)
        size = chains * len(chosen)
        return Kept(chosen, self.phi[:, chosen], np.full(size, 1.0 / size))

    @cached_property
    def fixed(self) -> Recovered:
        """β at the kept draws."""
        means, covariances = self.posterior.recovery.fixed(self.kept.phi.reshape(-1, self.phi.shape[2]))
        noise = np.random.default_rng(self.seed).standard_normal((*means.shape, 1))
        draws = means + (np.linalg.cholesky(covariances) @ noise)[:, :, 0]
        return Recovered(means, np.sqrt(np.einsum("mii->mi", covariances)), draws)

    @cached_property
    def effects(self) -> tuple[Recovered, Array]:
        """Random effects of all terms side by side at the kept draws, and the β (S, p) drawn with them."""
        phis, rng = self.kept.phi.reshape(-1, self.phi.shape[2]), np.random.default_rng(self.seed)
        means, sds, beta, draws = self.posterior.recovery.random_and_draw(phis, rng)
        return Recovered(means, sds, draws), beta

    @cached_property
    def random(self) -> list[Mixtures]:
        """Distributions of the random effects of every term, level by level."""
        by_term, weights = self.posterior.recovery.by_term, self.kept.weights
        pairs = zip(by_term(self.effects[0].means), by_term(self.effects[0].sds), strict=True)
        return [Mixtures(weights, m.reshape(len(m), -1), sd.reshape(len(sd), -1)) for m, sd in pairs]

    def draw(self, rng: np.random.Generator, size: int) -> Draws:
        """Draw variance parameters from the draws, and effects given them."""
        chosen = self.phi.reshape(-1, self.phi.shape[2])[rng.choice(len(self.weights), size, p=self.weights)]
        return recovered(self.posterior, chosen, rng)

    def kept_draws(self, chosen: NDArray[np.int64]) -> Draws:
        """Draws at places among those kept of every chain, chain by chain: those whose errors are reported."""
        shape, (effects, beta) = self.kept.phi.shape[:2], self.effects
        flat = (np.arange(shape[0])[:, None] * shape[1] + chosen).ravel()
        found = {name: beta[flat, j] for j, name in enumerate(self.fixed_names)}
        found |= {name: values[:, self.kept.places[chosen]].ravel() for name, values in self.variances.items()}
        return Draws(found, self.posterior.recovery.by_term(effects.draws[flat]))

    # Monte-Carlo errors.

    @cached_property
    def errors_of_variances(self) -> pd.DataFrame:
        """Monte-Carlo errors and diagnostics of standard deviations, correlations and σ."""
        free = [name for name, marginal in self.marginals.items() if isinstance(marginal, SampleMarginal)]
        values = np.stack([self.variances[name] for name in free], axis=2)
        table = self._errors(values, self.weights, values, free)
        held = [name for name in self.variances if name not in free]
        size = float(values.shape[0] * values.shape[1])
        exact = pd.DataFrame({"mcse_mean": 0.0, "ess_bulk": size, "ess_tail": size, "r_hat": 1.0}, index=held)
        return pd.concat([table, exact[list(table.columns)]] if held else [table]).loc[list(self.variances)]

    @cached_property
    def errors_of_fixed(self) -> pd.DataFrame:
        """Those of β: errors of the means of mixtures, diagnostics of draws."""
        return self._errors_of(self.fixed, self.fixed_names)

    @cached_property
    def errors_of_random(self) -> pd.DataFrame:
        """Those of the random effects."""
        return self._errors_of(self.effects[0], self.effect_names)

    def _errors_of(self, found: Recovered, names: list[str]) -> pd.DataFrame:
        shape = (*self.kept.phi.shape[:2], len(names))
        return self._errors(found.means.reshape(shape), self.kept.weights, found.draws.reshape(shape), names)

    def _errors(self, means: Array, weights: Array, draws: Array, names: list[str]) -> pd.DataFrame:
        """Errors of the means of `means`, diagnostics of `draws`, both (chains, draws, k)."""
        index = pd.Index(names, dtype=object)
        if not names:
            return pd.DataFrame(columns=ERRORS if isinstance(self.run, Chains) else ERRORS[:1], dtype=np.float64)
        if isinstance(self.run, WeightedDraws):
            flat = means.reshape(-1, means.shape[2])
            error = np.sqrt(weights**2 @ (flat - weights @ flat) ** 2)
            return pd.DataFrame({"mcse_mean": error}, index=index)
        found = diagnose(draws)
        error = found.mcse_mean if means is draws else np.nan_to_num(diagnose(means).mcse_mean)  # NaN where constant
        return pd.DataFrame(found._replace(mcse_mean=error)._asdict(), index=index)
