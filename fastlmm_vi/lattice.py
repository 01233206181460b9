"""The nodes of the quadrature: a lattice in whitened coordinates, grown outwards from the mode until nothing is left.

x_j = centre_j + scale_j sinh(a_j u_j) / a_j, u = T z: a_j > 0 draws in heavy tails, which go along the coordinates (a
standard deviation near 0 whatever the others are), and T whitens the density around its mode.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from .result import Array

Indices = NDArray[np.int64]
BITS = 15  # of a node's index along one axis: four of them fit into 60


@dataclass(frozen=True, eq=False)
class Coordinates:
    """The map from z to x, smooth and increasing along every axis.

    Attributes
    ----------
    center, scale : ndarray (k,)
        Mode, and about the standard deviations.
    T : ndarray (k, k)
        Lower triangular, with T Tᵀ about the correlations: the last axis moves the last coordinate alone.
    tails : ndarray (k,)
        a_j; 0 leaves a coordinate as it is.
    """

    center: Array
    scale: Array
    T: Array
    tails: Array

    def x(self, z: Array) -> Array:
        """The x of every row of z (m, k)."""
        u = z @ self.T.T
        return self.center + self.scale * np.column_stack([sinh(u[:, j], a) for j, a in enumerate(self.tails)])

    def z(self, x: Array) -> Array:
        """The z of every row of x (m, k)."""
        g = (x - self.center) / self.scale
        u = np.column_stack([arcsinh(g[:, j], a) for j, a in enumerate(self.tails)])
        return u @ np.linalg.inv(self.T).T

    def log_jacobian(self, z: Array) -> Array:
        """log|dx/dz| of every row of z (m, k)."""
        bend = np.abs(self.tails * (z @ self.T.T))
        log_cosh = bend + np.log1p(np.exp(-2.0 * bend)) - np.log(2.0)
        return log_cosh.sum(axis=1) + float(np.log(self.scale).sum() + np.linalg.slogdet(self.T)[1])


def sinh(z: Array, a: float) -> Array:
    """sinh(a z) / a, infinite where it overflows; z where a = 0."""
    if a == 0.0:
        return z
    with np.errstate(over="ignore"):
        return np.sinh(a * z) / a


def arcsinh(g: Array, a: float) -> Array:
    """The inverse of `sinh`."""
    return np.arcsinh(a * g) / a if a > 0.0 else g


class TooManyError(Exception):
    """More evaluations would be needed than are allowed."""


class Lattice:
    """Nodes z = index × h / 2 with their log density in z, evaluated where it is not negligible.

    Indices are integers; the first lattice has even ones, `interleave` adds those that are all odd (the centres of its
    cells), `halve` all the others. Nothing is evaluated twice.

    Parameters
    ----------
    log_density : callable (m, k) -> (m,)
        In z.
    reach : callable (m, k) -> (m,)
        Logarithm of the largest integrand's growth: a node counts while density × growth is above exp(−cut) of the largest.
    h : ndarray (k,)
        Spacing of the first lattice.
    seeds : ndarray of int (s, k)
        Where growth starts, in units of h.
    """

    def __init__(
        self,
        log_density: Callable[[Array], Array],
        reach: Callable[[Array], Array],
        h: Array,
        seeds: Indices,
        cut: float,
        most: int,
    ) -> None:
        self._log_density, self._reach, self._cut, self._most = log_density, reach, cut, most
        k = h.size
        self.unit = 0.5 * h
        self.index: Indices = np.empty((0, k), dtype=np.int64)
        self.value = np.empty(0)
        self.weight = np.empty(0)
        self.log_cell = float(np.log(h).sum())
        self.coarser = 0  # nodes before the last refinement, which come first
        self._grow(2 * seeds, stride=2)

    def __getstate__(self) -> dict[str, Any]:
        """Nodes and values: a lattice that comes out of a file does not grow any more."""
        return {name: value for name, value in vars(self).items() if name not in ("_log_density", "_reach")}

    @property
    def z(self) -> Array:
        """Nodes (m, k)."""
        return self.index * self.unit

    @property
    def log_mass(self) -> Array:
        """Log of every node's part of the integral, (m,)."""
        return self.value + self.log_cell

    @property
    def significant(self) -> NDArray[np.bool_]:
        """Which nodes are not negligible, (m,); the others are the shell around them."""
        return self.weight > self.weight.max(initial=-np.inf) - self._cut

    @property
    def edge(self) -> float:
        """What the shell around the significant nodes holds, as a part of all: about what lies beyond it."""
        outside = self.log_mass[~self.significant]
        return float(np.exp(logsumexp(outside) - logsumexp(self.log_mass))) if outside.size else 0.0

    def interleave(self) -> None:
        """Add the centres of all cells: twice as many nodes (along one axis, half the spacing)."""
        seeds = self.index[self.significant]
        self._grow(np.concatenate([seeds + 1, seeds - 1]), stride=2)
        self.log_cell -= np.log(2.0)
        if self.unit.size == 1:
            self._rename()

    def halve(self) -> None:
        """Add all nodes that an interleaved lattice lacks to one of half the spacing, and rename indices."""
        k = self.unit.size
        self._grow(self._neighbours(self.index[self.significant], 1), stride=1)
        self.log_cell -= (k - 1) * np.log(2.0)
        self._rename()

    def _rename(self) -> None:
        self.index = 2 * self.index
        self.unit = 0.5 * self.unit

    def _neighbours(self, index: Indices, stride: int) -> Indices:
        steps = stride * np.eye(index.shape[1], dtype=np.int64)
        return np.concatenate([index[:, None, :] + steps, index[:, None, :] - steps]).reshape(-1, index.shape[1])

    def _grow(self, seeds: Indices, stride: int) -> None:
        before = self.index, self.value, self.weight
        try:
            self._flood(seeds, stride)
            self.coarser = len(before[0])
        except TooManyError:
            self.index, self.value, self.weight = before
            raise

    def _flood(self, seeds: Indices, stride: int) -> None:
        known = np.sort(codes(self.index))
        frontier = seeds
        while True:
            new, first = np.unique(codes(frontier), return_index=True)
            fresh = ~np.isin(new, known, assume_unique=True)
            frontier = frontier[first[fresh]]
            if not len(frontier):
                break
            if len(self.index) + len(frontier) > self._most or np.abs(frontier).max(initial=0) >= 2 ** (BITS - 2):
                raise TooManyError
            known = np.sort(np.concatenate([known, new[fresh]]))
            z = frontier * self.unit
            value = self._log_density(z)
            weight = value + self._reach(z)
            self.index = np.concatenate([self.index, frontier])
            self.value = np.concatenate([self.value, value])
            self.weight = np.concatenate([self.weight, weight])
            frontier = self._neighbours(frontier[weight > self.weight.max() - self._cut], stride)


def codes(index: Indices) -> Indices:
    """One integer for every row of indices, (m,); neighbours along the last axis differ by 1."""
    shifts = BITS * np.arange(index.shape[1])[::-1]
    return ((index + 2 ** (BITS - 1)) << shifts).sum(axis=1)
