"""One grouping factor: groups of equal design taken together, so that an evaluation costs nothing in their number."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from fastlmm_vi_kernels import one_way as kernels
from numpy.typing import NDArray

from ..result import Array
from .cross_products import CrossProducts

EQUAL = 1e-13  # difference of ZᵀZ of two groups, relative to the largest entry of any, that is rounding
MANY = 2  # times as many groups as entries of B: worth a factorisation


@dataclass(frozen=True, eq=False)
class OneWay:
    """The groups by classes of equal ZᵀZ, and where the kernel writes."""

    lam: Array  # (d · d,)
    slopes: Array  # (2, d · d), derivatives of the log-determinant and of r²
    arguments: tuple[Any, ...]

    @classmethod
    def of(cls, data: CrossProducts, *, with_x: bool) -> "OneWay":
        """Take the groups of the only factor together; `with_x` for the log-determinant with X in it."""
        d, q = data.groups[0].d, data.pattern.q
        panels = data.products.panels.reshape(-1, d + q, d)
        W, count, first, B = merged(panels[:, :d], panels[:, d:].transpose(0, 2, 1))
        lam, slopes, p = np.zeros(d * d), np.empty((2, d * d)), q - 1 if with_x else 0
        room = np.empty_like(W), np.empty((q, q)), np.empty((p, p))
        views = lam.reshape(d, d), *room, *slopes.reshape(2, d, d)
        return cls(lam, slopes, (W, count, first, B, data.products.corner, *views))

    def run(self) -> tuple[float, float, float]:
        """Log-determinants and r² at `lam`; their derivatives are left in `slopes`."""
        return kernels.evaluate(*self.arguments)


def merged(W: Array, B: Array) -> tuple[Array, NDArray[np.intp], NDArray[np.intp], Array]:
    """Classes of groups with equal W, (J, d, d): their W, sizes, and rows of B, (J, d, q), class c from `first[c]` on.

    Of a class with many more groups than entries of B, the rows are the triangular factor of all its B, with the same
    Σ vec(B) vec(B)ᵀ.
    """
    flat, rows = W.reshape(len(W), -1), B.reshape(len(B), -1)
    key = flat @ np.random.default_rng(0).standard_normal(flat.shape[1])  # unequal W are unequal along any direction
    order = np.argsort(key, kind="stable")
    flat, rows = flat[order], rows[order]
    new = (np.abs(np.diff(flat, axis=0)) > EQUAL * np.abs(flat).max(initial=0.0)).any(axis=1)
    start = np.flatnonzero(np.append(True, new))
    count = np.diff(np.append(start, len(W)))
    many = count > MANY * rows.shape[1]
    size = np.where(many, rows.shape[1], count)
    first = np.append(0, np.cumsum(size))
    out = np.empty((first[-1], rows.shape[1]))
    out[np.repeat(~many, size)] = rows[np.repeat(~many, count)]
    for c in np.flatnonzero(many):
        out[first[c] : first[c + 1]] = scipy.linalg.qr(rows[start[c] : start[c] + count[c]], mode="r")[0][: size[c]]
    return W[order[start]], count, first, out.reshape(-1, *B.shape[1:])
