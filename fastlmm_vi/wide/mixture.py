"""The posterior of ω and β with the variances' uncertainty in it: a mixture of normals over the nodes of θ."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..mixtures import Mixtures
from ..result import Array
from .design import Design
from .rotated import Rotated
from .spectrum import Spectrum


@dataclass(frozen=True, eq=False)
class Mixture:
    """Given a node, a (rotated ω) and β are jointly normal; moments are exact sums over nodes.

    Attributes
    ----------
    weights : ndarray (m,)
    gamma, sigma2_beta : ndarray (k,)
        At every node of a; k = m, or 1 where a and β do not depend on the node (variational: only the noise does).
    noise : ndarray (m,)
        σ²_e of a new observation.
    effects, covariances : ndarray (k, c), (k, c, c)
        Mean and covariance of a.
    coupled : bool
        Whether β answers to a (exact posterior), or is independent of it (q(ω) q(β)).
    """

    design: Design
    spectrum: Spectrum
    basis: Rotated
    weights: Array
    gamma: Array
    sigma2_beta: Array
    noise: Array
    effects: Array
    covariances: Array
    coupled: bool
    link: None = None

    @cached_property
    def _shares(self) -> Array:
        """γ / (1 + γ d) of every node and positive eigenvalue, (k, r)."""
        gamma = self.gamma[:, None]
        return gamma / (1.0 + gamma * self.basis.positive)

    @cached_property
    def _inner(self) -> Array:
        """E[β] at every node in the eigenbasis, (k, r): β = Xᵀ U t."""
        rows = self.basis.d > 0.0
        return self._shares * (self.basis.y[rows] - self.effects @ self.basis.Q[rows].T)

    @cached_property
    def _over(self) -> Array:
        """Weights of the nodes of a and β, (k,)."""
        return self.weights if len(self.gamma) == len(self.weights) else np.ones(1)

    @cached_property
    def _compressed(self) -> tuple[Array, Array]:
        """The shares as Φ V, (k, ρ) and (ρ, r): functions of γ alone, smooth, so that a few of them tell all."""
        left, singular, V = np.linalg.svd(self._shares, full_matrices=False)
        rank = max(1, int((singular > 1e-13 * singular[0]).sum())) if singular.size else 0
        return left[:, :rank] * singular[:rank], V[:rank]

    @cached_property
    def _rows(self) -> Array:
        """Covariates where β answers to a, (r, c); 0 where it does not."""
        return self.basis.Q[self.basis.d > 0.0] * float(self.coupled)

    @cached_property
    def mean(self) -> Array:
        """E[β], (p,), on the original scale of X."""
        inner = self._over @ self._inner
        mean = self.spectrum.from_eigenbasis(inner)
        return mean if self.design.scale is None else mean / self.design.scale

    def variances(self) -> Array:
        """Var(β_j), (p,): within nodes and between them, ω's uncertainty included; O(min(n, p)² max(n, p))."""
        off = np.sqrt(self._over)[:, None] * (self._inner - self._over @ self._inner)
        M = off.T @ off - np.diag(self._over @ (self.sigma2_beta[:, None] * self._shares))
        phi, V = self._compressed
        H = (V[:, :, None] * self._rows).transpose(1, 0, 2).reshape(len(self._rows), len(V) * self.basis.c)
        C = np.einsum("k,ka,kb,kij->aibj", self._over, phi, phi, self.covariances, optimize=True)
        M += H @ C.reshape(H.shape[1], H.shape[1]) @ H.T
        var = np.maximum(self._over @ self.sigma2_beta + self.spectrum.quadratic(M), 0.0)
        return var if self.design.scale is None else var / self.design.scale**2

    def effects_moments(self) -> tuple[Array, Array]:
        """Mean and covariance of a, θ integrated out, (c,) and (c, c)."""
        mean = self._over @ self.effects
        off = self.effects - mean
        within = np.tensordot(self._over, self.covariances, axes=1)
        return mean, within + (self._over[:, None] * off).T @ off

    def predictive(self, X: Array) -> Array:
        """Var(xᵀβ) of every row of X (rows, p)."""
        mean, variance = self._at(X, np.zeros((len(X), self.basis.c)))
        return self._over @ variance + self._over @ (mean - self._over @ mean) ** 2

    def predict(self, X: Array, Z: Array) -> tuple[Array, Array, Array]:
        """E and Var of zᵀω + xᵀβ at every node and row, (k, rows), X and Z as the data were given; and σ²_e, (m,)."""
        if self.design.has_intercept:
            Z = np.column_stack([np.ones(len(Z)), Z])
        return *self._at(X, Z), self.noise

    def moments(self, X: Array, Z: Array) -> tuple[Array, Array]:
        """Mean and variance of zᵀω + xᵀβ, θ integrated out, (rows,)."""
        mean, variance, _ = self.predict(X, Z)
        overall = self._over @ mean
        return overall, self._over @ (variance + (mean - overall) ** 2)

    def interval(self, X: Array, Z: Array, level: float, *, observation: bool) -> tuple[Array, Array]:
        """Central interval of zᵀω + xᵀβ, or of a new observation there: quantiles of the mixture, (rows,)."""
        mean, variance, noise = self.predict(X, Z)
        weights = self._over
        if observation:
            mean, variance = np.broadcast_arrays(mean, variance + noise[:, None])
            weights = self.weights
        of_rows = Mixtures(weights, mean, np.sqrt(variance))
        return of_rows.quantile(0.5 - 0.5 * level), of_rows.quantile(0.5 + 0.5 * level)

    def _at(self, X: Array, Z: Array) -> tuple[Array, Array]:
        """Mean and variance at every node of z̃ᵀa + xᵀβ + z̃ᵀR ω_ls; Z with its intercept column."""
        if self.design.center is not None and self.design.scale is not None:
            X = (X - self.design.center) / self.design.scale
        z = Z @ np.linalg.inv(self.design.R) if self.basis.c else Z  # in the rotated effects
        C = self.spectrum.to_eigenbasis(X)
        mean = self.effects @ z.T + self._inner @ C.T + Z @ self.design.omega_ls
        own = np.maximum((X**2).sum(axis=1) - self._shares @ (C**2).T, 0.0)
        variance = self.sigma2_beta[:, None] * own
        phi, V = self._compressed
        answers = np.stack([(C * v) @ self._rows for v in V]) if len(V) else np.zeros((0, *z.shape))
        for k, covariance in enumerate(self.covariances):
            D = z - np.tensordot(phi[k], answers, axes=1)
            variance[k] += np.einsum("ij,jk,ik->i", D, covariance, D)
        return mean, variance
