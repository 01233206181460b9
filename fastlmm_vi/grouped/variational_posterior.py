"""What variational Bayes of the grouped model returns: q, the ELBO, and how it was reached."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from ..mixtures import Mixtures
from ..result import Array, Status
from .coordinate_ascent import Ascent
from .cross_products import CrossProducts
from .draws import Draws
from .factors import Factor
from .gaussian_factor import GaussianFactor
from .gaussian_posterior import GaussianPosterior
from .marginals import Marginal
from .model_priors import ModelPriors
from .parameters import names
from .posterior import Scales, partial_correlations
from .starts import Start


@dataclass(frozen=True, eq=False)
class VariationalPosterior:
    """q(β, u) q(σ) Π q(Σ_l), or with finer Gaussian factors, at a maximum of the ELBO.

    Attributes
    ----------
    data : CrossProducts
    priors : ModelPriors
    factorisation : {"joint", "factor", "group", "coefficient"}
    gaussian : GaussianPosterior
        q of β and of the random effects.
    sigma : Factor
        q(σ).
    terms : tuple of Factor
        q(Σ_l), in formula order.
    elbo : float
        A lower bound of the log evidence, with every constant, if the priors are proper.
    trace : ndarray
        The ELBO after every turn.
    path : ndarray
        The ELBO after every update of a factor; after a turn of all factors by extrapolation, once.
    change : float
        Largest change of the logarithm of an expected square in the last turn.
    n_iter : int
        Turns.
    status : Status
    starts : tuple of Start
        All that were tried, the one that is returned first.
    """

    data: CrossProducts
    priors: ModelPriors
    factorisation: str
    gaussian: GaussianPosterior
    sigma: Factor
    terms: tuple[Factor, ...]
    elbo: float
    trace: Array
    path: Array
    change: float
    n_iter: int
    status: Status
    starts: tuple[Start, ...]

    @classmethod
    def of(
        cls, gaussian: GaussianFactor, priors: ModelPriors, found: Ascent, starts: tuple[Start, ...]
    ) -> "VariationalPosterior":
        """Of the end of an ascent."""
        return cls(
            gaussian.data,
            priors,
            gaussian.factorisation,
            GaussianPosterior(gaussian, *found.expectations),
            found.sigma,
            found.terms,
            found.elbo,
            found.trace,
            found.path,
            found.change,
            len(found.trace),
            found.status,
            starts,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Fields alone: what was computed from them holds functions, and is computed anew."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def beta(self) -> Array:
        """E[β], (p,)."""
        return self.gaussian.moments.beta

    @property
    def beta_cov(self) -> Array:
        """Cov(β), (p, p)."""
        return self.gaussian.moments.beta_cov

    @property
    def log_evidence(self) -> None:
        """None: the ELBO is a lower bound of it."""
        return

    @cached_property
    def marginals(self) -> Mapping[str, Marginal]:
        """Distribution of every parameter by brms' name: `b_x`, `sd_g__x`, `cor_g__x__z`, `sigma`."""
        normal = _normal(self.beta, np.diag(self.beta_cov))
        found: dict[str, Marginal] = {f"b_{name}": normal[j] for j, name in enumerate(self.priors.coefficients)}
        of_terms = [marginal for factor in self.terms for part in factor.marginals() for marginal in part]
        of_scales = [*of_terms, self.sigma.marginals()[0][0]]
        return found | dict(zip(names(self.data.design.terms), of_scales, strict=True))

    @cached_property
    def random(self) -> list[Mixtures]:
        """Distributions of the random effects of every term, level by level."""
        pairs = zip(self.gaussian.means, self.gaussian.covariances, strict=True)
        return [_normal(mean.ravel(), np.einsum("vii->vi", cov).ravel()) for mean, cov in pairs]

    def draw(self, rng: np.random.Generator, size: int) -> Draws:
        """Draw from q, with its log density."""
        beta, effects, log_density = self.gaussian.draw(rng, size)
        found = {f"b_{name}": column for name, column in zip(self.priors.coefficients, beta.T, strict=True)}
        columns: list[Array] = []
        for factor in (*self.terms, self.sigma):
            covariance = factor.draw(rng, size)
            sd, (i, j) = np.sqrt(np.einsum("sii->is", covariance)), np.triu_indices(covariance.shape[1], 1)
            columns += [*sd, *(covariance[:, a, b] / (sd[a] * sd[b]) for a, b in zip(i, j, strict=True))]
        draws = Draws(found | dict(zip(names(self.data.design.terms), columns, strict=True)), effects)
        of_scales = self.log_density_of(draws.scales([len(term.names) for term in self.data.design.terms]))
        return draws._replace(log_density=log_density + of_scales)

    def log_density_of(self, scales: Sequence[Scales]) -> Array:
        """Log q of σ and all Σ in logarithms and z-transforms, (draws,)."""
        found = self.sigma.log_q(np.log([[at.sigma] for at in scales]), np.empty((len(scales), 0)))
        for k, factor in enumerate(self.terms):
            z = np.arctanh([partial_correlations(at.correlation[k]) for at in scales]).reshape(len(scales), -1)
            found = found + factor.log_q(np.log([at.sd[k] for at in scales]), z)
        return found


def _normal(means: Array, variances: Array) -> Mixtures:
    """Normal distributions, as mixtures of one."""
    return Mixtures(np.ones(1), means[None], np.sqrt(variances)[None])
