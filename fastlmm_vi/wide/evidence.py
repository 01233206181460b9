"""The likelihood of the two variances, ω and β integrated out: O(n c²) a point in the eigenbasis, whatever p is."""

from typing import NamedTuple

import numpy as np

from ..priors import LOG_2PI, Gaussian
from ..result import Array
from .rotated import Rotated

BLOCK = 4_000_000  # numbers held at a time
# A residual sum of squares is not known better than this part of yᵀy. Where X and the covariates reproduce y it is all that
# keeps the likelihood finite as σ²_e goes to 0; elsewhere it changes nothing.
ROUNDING = 1e-18


def rounding(basis: Rotated) -> float:
    """What is added to every residual sum of squares."""
    return ROUNDING * float(basis.y @ basis.y)


class Conditional(NamedTuple):
    """At m points (σ²_β, σ²_e): log p(y | θ), and a | y, θ ~ N(mean, covariance); (m,), (m, c), (m, c, c)."""

    log_likelihood: Array
    mean: Array
    covariance: Array


class Evidence:
    """The likelihood of (σ²_β, σ²_e), β and, with a `prior` of the rotated effects a, ω integrated out.

    With V = σ²_β K + σ²_e I, B = QᵀV⁻¹Q + P and a = B⁻¹(QᵀV⁻¹y + P m):
    log p(y | θ) = log c₀ − ½ [(n − c) log 2π + log|V| + log|B| + (y − Qa)ᵀV⁻¹(y − Qa) + (a − m)ᵀP(a − m)].
    Docs: derivation_bayes_wide, section 2.
    """

    def __init__(self, basis: Rotated, prior: Gaussian) -> None:
        self._basis, self._prior = basis, prior
        Q, (i, j) = basis.Q, np.tril_indices(basis.c)
        self._products = Q[:, i] * Q[:, j]  # QᵀV⁻¹Q is a product of the weights with these

    def __call__(self, sigma2_beta: Array, sigma2_e: Array) -> Conditional:
        """At m points at once."""
        step = max(1, BLOCK // max(self._basis.d.size, self._basis.c**2))
        starts = range(0, len(sigma2_beta), step)
        parts = [self._some(sigma2_beta[k : k + step], sigma2_e[k : k + step]) for k in starts]
        return Conditional(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _some(self, sigma2_beta: Array, sigma2_e: Array) -> Conditional:
        d, y, Q, n = self._basis
        prior, c = self._prior, self._basis.c
        variance = sigma2_beta[:, None] * d + sigma2_e[:, None]  # (m, rows): V is diagonal here
        weight = 1.0 / variance
        B = np.empty((len(weight), c, c))
        i, j = np.tril_indices(c)
        B[:, i, j] = B[:, j, i] = weight @ self._products
        B += prior.precision
        covariance = np.asarray(np.linalg.inv(B), dtype=np.float64)
        right = weight @ (Q * y[:, None]) + prior.precision @ prior.mean
        mean = np.einsum("mij,mj->mi", covariance, right)
        residual, off = y - mean @ Q.T, mean - prior.mean
        rss = (weight * residual**2).sum(axis=1) + rounding(self._basis) / sigma2_e
        rss += np.einsum("mi,ij,mj->m", off, prior.precision, off)
        logdet_V = np.log(variance).sum(axis=1) + (n - d.size) * np.log(sigma2_e)
        logdet_B = np.linalg.slogdet(B)[1]
        log_likelihood = prior.log_constant - 0.5 * ((n - c) * LOG_2PI + logdet_V + logdet_B + rss)
        return Conditional(log_likelihood, mean, covariance)
