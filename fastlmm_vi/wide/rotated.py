"""The eigenbasis of K = X Xᵀ, where the observations decouple."""

from typing import NamedTuple

import numpy as np
from fastlmm_vi_kernels import spectral as kernels

from ..result import Array
from .basis import Criterion, Effects, Point


class Rotated(NamedTuple):
    """y and Z in the eigenbasis of K: all that an exact iteration needs, O((n + c) c) numbers; a `Basis`.

    Row i carries eigenvalue d_i ≥ 0 of K, y_i and Q_i (see `Design`). Where K has a larger null space than the c + 1
    rows that keep every inner product there, only those rows are stored; `n` still counts all.
    """

    d: Array
    y: Array
    Q: Array
    n: int

    @property
    def c(self) -> int:
        """Covariates."""
        return self.Q.shape[1]

    @property
    def positive(self) -> Array:
        """The positive eigenvalues."""
        return self.d[self.d > 0.0]

    @property
    def extremes(self) -> tuple[float, float]:
        """Smallest and largest positive eigenvalue."""
        d = self.positive
        return (float(d.min()), float(d.max())) if d.size else (0.0, 0.0)

    @property
    def nullity(self) -> int:
        """Dimension of the null space of K."""
        return self.n - self.positive.size

    @property
    def covered(self) -> bool:
        """Whether the covariates reach all of the null space."""
        rows = self.Q[self.d == 0.0]
        return self.nullity == (int(np.linalg.matrix_rank(rows)) if rows.size else 0)

    @property
    def trace(self) -> float:
        """Trace of K."""
        return float(self.d.sum())

    @property
    def explained(self) -> float:
        """The trace of MK: Σ d_i (1 − ‖Q_i‖²)."""
        return float(self.d.sum() - self.d @ (self.Q**2).sum(axis=1))

    def at(self, criterion: Criterion, gamma: float) -> Point:
        """The criterion at γ: one O(n c²) pass."""
        h = self.positive if criterion.h is None else criterion.h
        value, slope, curvature, sigma2_e, _ = kernels.profile(gamma, *self, h, criterion.reml)
        return Point(gamma, value, slope, curvature, sigma2_e)

    def rises(self, criterion: Criterion, gamma: float) -> bool:
        """Whether the criterion's slope at γ is positive."""
        return self.at(criterion, gamma).slope > 0.0

    def effects(self, gamma: float) -> Effects:
        """Weighted least squares with weights 1 / (1 + γ d_i)."""
        d, y, Q, _ = self
        w = 1.0 / (1.0 + gamma * d)
        covariance = np.linalg.inv((Q.T * w) @ Q).astype(np.float64, copy=False)
        a = covariance @ (Q.T @ (w * y))
        r = y - Q @ a
        bend = d * (w * r) ** 2
        return Effects(a, -covariance @ (Q.T @ (d * w**2 * r)), covariance, float(w @ r**2), -float(bend.sum()))

    def loglik(self, sigma2_beta: float, sigma2_e: float, a: Array) -> float:
        """Log-likelihood with β integrated out, at any (a, σ²_β, σ²_e)."""
        return float(kernels.marginal_loglik(sigma2_beta, sigma2_e, a, *self))

    def gap(self, h: Array, gamma: float) -> float:
        """½ [Σ log(1 + γ h_j) − Σ log(1 + γ d_i)]."""
        return float(kernels.mean_field_gap(np.array([gamma]), h, self.d)[0])
