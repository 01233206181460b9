"""Factors of q for the covariance matrix of several effects: inverse Wishart, also with auxiliary variables."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg
from scipy.special import digamma, gammaln, multigammaln

from ..priors import HuangWand, InverseWishart
from ..result import Array
from .marginals import DROP, LineMarginal, Marginal
from .posterior import correlation_root, log_jacobian

ROUNDS = 1000  # of the auxiliary variables of a Huang-Wand prior
STILL = 1e-14  # relative change of them that is rounding
NODES = 200  # of the integral over the ratio of two standard deviations


@dataclass(frozen=True, eq=False)
class CovarianceFactor:
    """q(Σ) = InverseWishart(df, scale), made with `squares`; `evidence` is what the ELBO has of Σ there."""

    df: float
    scale: Array
    squares: Array
    evidence: float

    @cached_property
    def precision(self) -> Array:
        """E[Σ⁻¹], (d, d)."""
        found = self.df * scipy.linalg.inv(self.scale)
        return np.asarray(0.5 * (found + found.T))

    def bound(self, squares: Array) -> float:
        """E log of (prior, |Σ|^(−n/2) exp(−½ tr(squares Σ⁻¹))) + entropy; largest at the squares that it was made with."""
        return self.evidence - 0.5 * float(((squares - self.squares) * self.precision).sum())

    def marginals(self) -> tuple[list[Marginal], list[Marginal]]:
        """Of the standard deviations; of the correlations (0, 1), (0, 2) and so on."""
        d = len(self.scale)
        sds = [self._sd(j) for j in range(d)]
        return sds, [self._correlation(i, j) for i in range(d) for j in range(i + 1, d)]

    def _sd(self, j: int) -> Marginal:
        """Σ_jj ~ InverseGamma((df − d + 1) / 2, scale_jj / 2)."""
        twice_shape, half = self.df - len(self.scale) + 1.0, 0.5 * float(self.scale[j, j])
        centre = 0.5 * np.log(2.0 * half / twice_shape)
        return LineMarginal(lambda t: -twice_shape * t - half * np.exp(-2.0 * t), centre)

    def _correlation(self, i: int, j: int) -> Marginal:
        """Of the block of i and j, the standard deviations integrated out.

        The block is inverse Wishart with ν = df − d + 2 degrees of freedom; with ρ the correlation of its scale,
        p(r) ∝ (1 − r²)^((ν − 3)/2) ∫ (cosh w − r ρ)^(−ν) dw, w the logarithm of the ratio of the standard deviations.
        """
        nu = self.df - len(self.scale) + 2.0
        rho = float(self.scale[i, j] / np.sqrt(self.scale[i, i] * self.scale[j, j]))

        def log_density(t: Array) -> Array:
            near = 1.0 - np.tanh(t) * rho
            reach = np.arccosh(1.0 + near * np.expm1(DROP / nu))
            w = reach[..., None] * np.linspace(0.0, 1.0, NODES)
            inner = np.exp(-nu * np.log1p(2.0 * np.sinh(0.5 * w) ** 2 / near[..., None]))
            inner[..., 0] *= 0.5
            width = reach * inner.sum(axis=-1)
            return -(nu - 1.0) * np.log(np.cosh(t)) - nu * np.log(near) + np.log(width)

        return LineMarginal(log_density, float(np.arctanh(rho)), bounded=True)

    def draw(self, rng: np.random.Generator, size: int) -> Array:
        """Draw covariances, (size, d, d)."""
        from scipy.stats import invwishart

        return np.asarray(invwishart.rvs(self.df, self.scale, size, rng)).reshape(size, *self.scale.shape)

    def log_q(self, logs: Array, z: Array) -> Array:
        """Log density of logarithms of standard deviations (size, d) and z-transforms (size, d (d − 1) / 2)."""
        d = logs.shape[1]
        logdet, traces, of_z = np.empty(len(logs)), np.empty(len(logs)), np.empty(len(logs))
        for i, (log_sd, at) in enumerate(zip(logs, z, strict=True)):
            root = np.exp(log_sd)[:, None] * correlation_root(np.tanh(at), d)
            half = scipy.linalg.solve_triangular(root, scipy.linalg.cholesky(self.scale, lower=True), lower=True)
            logdet[i], traces[i] = 2.0 * np.log(np.diag(root)).sum(), (half**2).sum()
            of_z[i] = log_jacobian(at, d)
        jacobian = d * np.log(2.0) + (d + 1) * logs.sum(axis=1) + of_z
        return _log_constant(self.df, self.scale) - 0.5 * ((self.df + d + 1) * logdet + traces) + jacobian


def conjugate(prior: InverseWishart, n: int, squares: Array) -> CovarianceFactor:
    """q(Σ) under an inverse-Wishart prior, of n vectors with E Σ_v u_v u_vᵀ = squares."""
    scale = prior.matrix(len(squares))
    evidence = _log_constant(prior.df, scale) - _log_constant(prior.df + n, scale + squares)
    return CovarianceFactor(prior.df + n, scale + squares, squares, evidence)


def auxiliary(prior: HuangWand, n: int, squares: Array) -> CovarianceFactor:
    """q(Σ) of q(Σ) Π q(a_j) under a Huang-Wand prior, both at their joint optimum.

    q(a_j) = InverseGamma((df + d)/2, df E[Σ⁻¹]_jj + 1/scales_j²), q(Σ) = InverseWishart(df + d − 1 + n,
    squares + 2 df diag E[1/a]), in turn until neither moves (Huang and Wand, Bayesian Analysis 8, 2013, section 4).
    """
    d, nu = len(squares), prior.df
    of_a = prior.vector(d) ** -2.0
    inner, shape = nu + d - 1.0, 0.5 * (nu + d)
    rate = of_a + nu * n / np.diag(squares)
    scale = squares
    for _ in range(ROUNDS):
        before = scale
        scale = squares + np.diag(2.0 * nu * shape / rate)
        if np.abs(np.diag(scale - before)).max() <= STILL * np.abs(np.diag(scale)).max():
            break
        rate = of_a + nu * (inner + n) * np.diag(scipy.linalg.inv(scale))
    log_a, per_a = np.log(rate) - digamma(shape), shape / rate
    evidence = 0.5 * inner * float(np.log(2.0 * nu) * d - log_a.sum()) - 0.5 * inner * d * np.log(2.0)
    evidence -= multigammaln(0.5 * inner, d) + _log_constant(inner + n, scale)
    evidence += float((0.5 * np.log(of_a) - gammaln(0.5) - 1.5 * log_a - of_a * per_a).sum())
    evidence += float((shape + np.log(rate) + gammaln(shape) - (1.0 + shape) * digamma(shape)).sum())
    return CovarianceFactor(inner + n, scale, squares, float(evidence))


def _log_constant(df: float, scale: Array) -> float:
    """Log of the normalising constant of an inverse Wishart."""
    d = len(scale)
    return float(0.5 * df * (np.linalg.slogdet(scale)[1] - d * np.log(2.0)) - multigammaln(0.5 * df, d))
