"""Leave-one-out predictive densities of the grouped model, all effects integrated out, in closed form at every draw.

Given φ the linear predictors η_i = x_iᵀβ + Σ_l z_ilᵀb_l are normal a posteriori, with means m_i and variances s_i². To take
y_i ~ N(η_i, v_i) away again gives, with h_i = s_i²/v_i,

    p(y_i | y_−i, φ) = N(y_i − m_i; 0, v_i (1 − h_i)) / (1 − h_i):   y_i − E[η_i | y_−i] = (y_i − m_i)/(1 − h_i),
    variance v_i/(1 − h_i).

Weights ∝ 1 / p(y_i | y_−i, φ) then turn draws of φ | y into draws of φ | y_−i (Vehtari, Mononen, Tolvanen, Sivula and
Winther, Journal of Machine Learning Research 17, 2016): importance sampling of a few variance parameters only.
"""

from collections.abc import Iterator

import numpy as np
import scipy.sparse

from .. import threads
from ..result import Array
from .likelihood import LOG_2PI
from .posterior import Posterior, Scales

LARGEST = 3000  # effects of which a dense covariance is made at every draw
MOST_LEVERAGE = 1.0 - 1e-12


class Predictors:
    """Means and variances of all linear predictors given φ and y. Time O(q³ + N d²) at every φ, q effects in all.

    Raises
    ------
    ValueError
        If there are more than 3000 effects.
    """

    def __init__(self, posterior: Posterior) -> None:
        data = posterior.data
        design, fixed, prior = data.design, data.fixed, posterior.priors.beta
        self.posterior, p = posterior, len(data.fixed.kept)
        q = sum(len(term.factor.levels) * len(term.names) for term in design.terms)
        if p + q > LARGEST:
            raise ValueError(
                f"Leave-one-out needs the covariance of all {p + q} effects at every draw, and is made for up to {LARGEST}: "
                "compare models by their log evidence (method='laplace-is'), or leave out whole groups and refit."
            )
        X, B = design.X[:, list(fixed.kept)], fixed.scale * fixed.to_beta
        offset = 0.0 if design.offset is None else design.offset
        self.base = X @ fixed.least_squares + offset  # of η at effects of 0
        self.residual = design.y - self.base
        self.weights = np.ones(len(design.y)) if design.weights is None else design.weights
        columns, values, at = [np.broadcast_to(np.arange(p), X.shape)], [X @ B], p
        for term in design.terms:
            d = len(term.names)
            columns.append(at + term.factor.codes[:, None] * d + np.arange(d))
            values.append(term.basis)
            at += len(term.factor.levels) * d
        self.columns, self.values = np.hstack(columns), np.hstack(values)
        rows = np.repeat(np.arange(len(X)), self.columns.shape[1])
        C = scipy.sparse.csr_array((self.values.ravel(), (rows, self.columns.ravel())), shape=(len(X), at))
        weighted = scipy.sparse.diags_array(self.weights) @ C
        self.gram: Array = (C.T @ weighted).toarray()
        self.products = np.asarray(weighted.T @ self.residual, dtype=np.float64)
        self.P = B.T @ prior.precision @ B
        self.Pm = B.T @ prior.precision @ (prior.mean - fixed.least_squares)

    def _scaled(self, A: Array, scales: Scales, transpose: bool) -> Array:
        """Λᵀ A, or Λ A, for A (effects, …), effects = Λ (standard effects); those of X stand for themselves."""
        out, at = A.copy(), len(self.P)
        for term, sd, root in zip(self.posterior.data.design.terms, scales.sd, scales.correlation, strict=True):
            d, own = len(sd), sd[:, None] * root
            part = slice(at, at + len(term.factor.levels) * d)
            blocks = A[part].reshape(len(term.factor.levels), d, -1)
            out[part] = ((own.T if transpose else own) @ blocks).reshape(A[part].shape)
            at = part.stop
        return out

    def at(self, phi: Array) -> tuple[Array, Array, Array]:
        """Means and variances of η (N,), and variances v of the observations, at φ."""
        scales, p = self.posterior.scales(phi), len(self.P)
        precision = self._scaled(self._scaled(self.gram, scales, True).T, scales, True) / scales.sigma**2
        precision[:p, :p] += self.P
        diagonal = np.arange(p, len(precision))
        precision[diagonal, diagonal] += 1.0
        right = self._scaled(self.products, scales, True) / scales.sigma**2
        right[:p] += self.Pm
        inverse: Array = np.asarray(np.linalg.inv(precision), dtype=np.float64)
        effects = self._scaled(inverse @ right, scales, False)
        covariance = self._scaled(self._scaled(inverse, scales, False).T, scales, False)
        mean = self.base + np.einsum("ij,ij->i", self.values, effects[self.columns])
        own = covariance[self.columns[:, :, None], self.columns[:, None, :]]
        variance = ((own @ self.values[:, :, None])[:, :, 0] * self.values).sum(axis=1)
        return mean, variance, scales.sigma**2 / self.weights

    def log_densities(self, phis: Array) -> tuple[Array, Array]:
        """Return log p(y_i | y_−i, φ), and log p(new y_i | y, φ) at y_i, at rows of φ, (S, N) each."""
        y = self.posterior.data.design.y
        with threads.limit(1):
            pairs = [_log_densities(y, *self.at(phi)) for phi in phis]
        return np.array([without for without, _ in pairs]), np.array([within for _, within in pairs])

    def moments(self, phis: Array) -> Iterator[tuple[Array, Array]]:
        """Means and variances of η at rows of φ."""
        with threads.limit(1):
            for phi in phis:
                yield self.at(phi)[:2]


def _log_densities(y: Array, mean: Array, variance: Array, v: Array) -> tuple[Array, Array]:
    """Of y_i without, and with, what it says itself."""
    left = 1.0 - np.minimum(variance / v, MOST_LEVERAGE)
    squares = (y - mean) ** 2
    without = -0.5 * (LOG_2PI + np.log(v / left) + squares / (v * left))
    return without, -0.5 * (LOG_2PI + np.log(v + variance) + squares / (v + variance))
