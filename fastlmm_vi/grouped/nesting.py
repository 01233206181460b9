"""Which grouped model lies within which: by the spans of their columns, not by names."""

import numpy as np

from ..result import Array
from .cross_products import CrossProducts
from .factor import Factor
from .standard import StandardTerm

OUTSIDE = 1e-6  # of a column of length 1: far above what rounding leaves, far below any column that is another


def fixed_outside(small: CrossProducts, large: CrossProducts) -> list[str]:
    """Names of the fixed columns of the first that make its span leave that of the second.

    Both are compared in standard coordinates, in which no unit can be felt.
    """
    lost = _outside(small.fixed.Q, large.fixed.Q)
    return [small.design.fixed_names[j] for j, gone in zip(small.fixed.kept, lost, strict=True) if gone]


def within(small: StandardTerm, large: StandardTerm) -> bool:
    """Whether the basis of a random term lies within that of another."""
    size = np.sqrt(len(small.basis))
    return not _outside(small.basis / size, large.basis / size).any()


def same_groups(a: Factor, b: Factor) -> bool:
    """Whether two factors part the rows alike, whatever they call the groups."""
    pairs = np.unique(a.codes.astype(np.int64) * len(b.levels) + b.codes).size
    return len(a.levels) == len(b.levels) == pairs


def _outside(columns: Array, Q: Array) -> Array:
    """Whether each of the columns, of length 1, leaves the span of orthonormal Q."""
    return np.linalg.norm(columns - Q @ (Q.T @ columns), axis=0) > OUTSIDE
