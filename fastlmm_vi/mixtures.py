"""Mixtures of normal distributions: of numbers that are normal given what their weights belong to."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from .result import Array

LARGEST = 10_000_000  # points × parts at a time


@dataclass(frozen=True, eq=False)
class Mixtures:
    """Distributions of r numbers, each of them a mixture of m normal ones with the same weights.

    Attributes
    ----------
    weights : ndarray (m,)
    means, sds : ndarray (m, r)
    """

    weights: Array
    means: Array
    sds: Array

    @cached_property
    def mean(self) -> Array:
        """Expectations, (r,)."""
        return self.weights @ self.means

    @cached_property
    def sd(self) -> Array:
        """Standard deviations, (r,)."""
        return np.sqrt(self.weights @ (self.sds**2 + (self.means - self.mean) ** 2))

    def cdf(self, x: ArrayLike) -> Array:
        """Probability of every number to be below x, which has r values, or rows of them."""
        values = np.asarray(x, dtype=np.float64)
        return np.einsum("m,...mr->...r", self.weights, ndtr((values[..., None, :] - self.means) / self.sds))

    def pdf(self, x: ArrayLike) -> Array:
        """Density of every number at x, which has r values, or rows of them."""
        z = (np.asarray(x, dtype=np.float64)[..., None, :] - self.means) / self.sds
        return np.einsum("m,...mr->...r", self.weights, np.exp(-0.5 * z**2) / self.sds) / np.sqrt(2.0 * np.pi)

    def quantile(self, q: float) -> Array:
        """Values below which the probability is q, (r,): Newton's steps, kept within what is known to hold the root."""
        parts = self.means + self.sds * ndtri(q)  # the quantile of a mixture lies between those of its parts
        low, high = parts.min(axis=0), parts.max(axis=0)
        x = np.clip(self.mean + self.sd * ndtri(q), low, high)
        for _ in range(100):
            excess = self.cdf(x) - q
            low, high = np.where(excess < 0.0, x, low), np.where(excess < 0.0, high, x)
            with np.errstate(divide="ignore", invalid="ignore"):
                new = x - excess / self.pdf(x)
            new = np.where((new > low) & (new < high), new, 0.5 * (low + high))
            moved, x = np.abs(new - x), new
            if (moved <= 1e-11 * self.sd).all():
                break
        return x

    def __getitem__(self, j: int) -> "MixtureMarginal":
        """Return the distribution of one of them."""
        return MixtureMarginal(Mixtures(self.weights, self.means[:, j : j + 1], self.sds[:, j : j + 1]))


@dataclass(frozen=True, eq=False)
class MixtureMarginal:
    """The distribution of one number, of `alone`, which has no other."""

    alone: Mixtures

    @property
    def mean(self) -> float:
        """Expectation."""
        return float(self.alone.mean[0])

    @property
    def sd(self) -> float:
        """Standard deviation."""
        return float(self.alone.sd[0])

    def quantile(self, p: ArrayLike) -> Array:
        """Values below which it is with probabilities p."""
        p = np.asarray(p, dtype=np.float64)
        return np.array([self.alone.quantile(one)[0] for one in p.ravel()]).reshape(p.shape)

    def pdf(self, x: ArrayLike) -> Array:
        """Density."""
        values = np.asarray(x, dtype=np.float64)
        blocks = np.array_split(values.ravel(), 1 + values.size * self.alone.weights.size // LARGEST)
        return np.concatenate([self.alone.pdf(block[:, None])[:, 0] for block in blocks]).reshape(values.shape)
