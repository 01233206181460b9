"""One grouping factor: each group reduced to d rows, and groups of equal design taken together."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.linalg
from fastlmm_vi_kernels import one_way as kernels
from numpy.typing import NDArray

from ..errors import DataError
from ..result import Array
from .blocks import Group
from .standard import DEPENDENT

EQUAL = 1e-13  # difference of R of two groups, relative to the largest entry of any, that is rounding
MANY = 2  # times as many groups as entries of C: worth a factorisation
SEEN = 0.03  # length within groups of a direction of X, of length 1, from which y is freed of it
EXACT = 1e-12  # residual within groups, in units of y's, that is rounding


@dataclass(frozen=True, eq=False)
class Reduced:
    """Z_v = Q_v R_v of every group: rows [R_v, C_v], C_v = Q_vᵀ[X y − X shift], and what is orthogonal to all Q_v.

    Attributes
    ----------
    R, C : ndarray (J, d, d), (J, d, q)
    within : ndarray (q, q)
        [X y]ᵀ[X y] of the rest.
    shift : ndarray (p,)
        Effects of X that are seen within groups, taken from y: whatever the groups differ by, the rest is small then.
    variance : float
        Residual variance within groups; NaN without degrees of freedom for it.
    """

    R: Array
    C: Array
    within: Array
    shift: Array
    variance: float

    @classmethod
    def of(cls, group: Group, border: Array) -> Self:
        """Reduce the groups of a factor; `border` is [X y], (N, q).

        Raises
        ------
        DataError
            If nothing is left within groups that could be residual.
        """
        codes, d, q = group.factor.codes, group.d, border.shape[1]
        order = np.argsort(codes, kind="stable")
        start = np.searchsorted(codes[order], np.arange(group.levels + 1))
        R, C, rest = np.zeros((group.levels, d, d)), np.empty((group.levels, d, q)), border.copy()
        kernels.reduce(order, start, group.basis, rest, R, C)
        triangle = np.zeros((q, q))
        found = np.linalg.qr(rest, mode="r")
        triangle[: len(found)] = found
        U, s, V = np.linalg.svd(triangle[:, :-1], full_matrices=False)
        s, U, V = s[s > DEPENDENT], U[:, s > DEPENDENT], V[s > DEPENDENT]
        along = U.T @ triangle[:, -1]
        degrees = len(codes) - np.count_nonzero(np.einsum("vii->vi", R)) - s.size
        left = triangle[:, -1] - U @ along
        variance = float(left @ left) / degrees if degrees > 0 else np.nan
        if variance < EXACT**2:
            raise DataError(
                f"Fixed effects and the random effects of {group.factor.name} together fit the response exactly: no residual "
                "is left, and the likelihood grows without end. Drop a term, or look whether the response was computed from "
                "the groups."
            )
        seen = s > SEEN
        shift = V[: s.size][seen].T @ (along[seen] / s[seen])
        for part in (triangle, C):
            part[..., -1] -= part[..., :-1] @ shift
        return cls(R, C, triangle.T @ triangle, shift, variance)


@dataclass(frozen=True, eq=False)
class OneWay:
    """The model at one Λ: what an evaluation needs by classes of groups, what effects need by groups."""

    groups: Reduced
    lam: Array  # (d · d,)
    slopes: Array  # (2, d · d), derivatives of the log-determinant and of r²
    corner: Array  # (q, q), `groups.within`: a copy, to which what a prior of β adds may be added
    T: Array  # lower factor of [X y]ᵀ V⁻¹ [X y], of y less X shift; 0 above the diagonal
    arguments: tuple[Any, ...]

    @classmethod
    def of(cls, groups: Reduced, *, with_x: bool) -> Self:
        """Take equal groups together; `with_x` for the log-determinant with X in it."""
        R, count, first, C = merged(groups.R, groups.C)
        d, q = C.shape[1:]
        lam, slopes, p = np.zeros(d * d), np.empty((2, d * d)), q - 1 if with_x else 0
        T, square, corner = np.zeros((q, q)), lam.reshape(d, d), groups.within.copy()
        room = np.empty_like(R), np.empty_like(R), T, np.empty((p, p))
        arguments = R, count, first, C, corner, square, *room, *slopes.reshape(2, d, d)
        return cls(groups, lam, slopes, corner, T, arguments)

    @property
    def classes(self) -> int:
        """Number of different designs of groups."""
        return len(self.arguments[0])

    def run(self) -> tuple[float, float, float]:
        """Log-determinants and r² at `lam`; the slopes and T are left."""
        return kernels.evaluate(*self.arguments)

    factor = run

    @property
    def _G(self) -> Array:
        """R Λ of every group."""
        return self.groups.R @ self.lam.reshape(self.groups.R.shape[1:])

    def solve(self) -> Array:
        """Random effects in units of σ Λ and, after them, fixed ones."""
        delta = scipy.linalg.solve_triangular(self.T[:-1, :-1], self.T[-1, :-1], trans=1, lower=True)
        G, C = self._G, self.groups.C
        V = np.eye(G.shape[1]) + G @ G.transpose(0, 2, 1)
        e = C[:, :, -1] - C[:, :, :-1] @ delta
        u = np.einsum("vij,vi->vj", G, np.linalg.solve(V, e[:, :, None])[:, :, 0])
        return np.concatenate([u.ravel(), delta + self.groups.shift])

    @property
    def _root(self) -> Array:
        """Lower factors of K = I + ΛᵀZᵀZΛ, (J, d, d)."""
        G = self._G
        return np.asarray(np.linalg.cholesky(np.eye(G.shape[1]) + G.transpose(0, 2, 1) @ G), dtype=np.float64)

    def own_inverses(self) -> list[Array]:
        """K⁻¹ of every group, (J, d, d), of the one factor there is."""
        root = self._root
        half = np.linalg.solve(root, np.broadcast_to(np.eye(root.shape[1]), root.shape))
        return [half.transpose(0, 2, 1) @ half]

    def forward(self, A: Array) -> None:
        """Overwrite A (effects and β, m) by L⁻¹A, L Lᵀ the mixed-model equations of u and β."""
        J, d, _ = self.groups.C.shape
        effects = A[: J * d].reshape(J, d, -1)
        touched = np.flatnonzero(effects.any(axis=(1, 2)))
        root, G, X = self._root[touched], self._G[touched], self.groups.C[touched, :, :-1]
        half = np.linalg.solve(root, effects[touched])
        effects[touched] = half
        explained = np.einsum("vip,vij,vjm->pm", X, G, np.linalg.solve(root.transpose(0, 2, 1), half), optimize=True)
        A[J * d :] = scipy.linalg.solve_triangular(self.T[:-1, :-1], A[J * d :] - explained, lower=True)


def merged(R: Array, C: Array) -> tuple[Array, NDArray[np.intp], NDArray[np.intp], Array]:
    """Classes of groups with equal R, (J, d, d): their R, sizes, and rows of C, (J, d, q), class c from `first[c]` on.

    Of a class with many more groups than entries of C, the rows are the triangular factor of all its C, with the same
    Σ vec(C) vec(C)ᵀ.
    """
    flat, rows = R.reshape(len(R), -1), C.reshape(len(C), -1)
    order, start = classes(flat)
    rows = rows[order]
    count = np.diff(np.append(start, len(R)))
    many = count > MANY * rows.shape[1]
    size = np.where(many, rows.shape[1], count)
    first = np.append(0, np.cumsum(size))
    out = np.empty((first[-1], rows.shape[1]))
    out[np.repeat(~many, size)] = rows[np.repeat(~many, count)]
    for c in np.flatnonzero(many):
        out[first[c] : first[c + 1]] = np.linalg.qr(rows[start[c] : start[c] + count[c]], mode="r")
    return R[order[start]], count, first, out.reshape(-1, *C.shape[1:])


def classes(rows: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Order in which equal rows stand together, and where in it another begins."""
    key = rows @ np.random.default_rng(0).standard_normal(rows.shape[1])  # unequal rows are unequal along any direction
    order = np.argsort(key, kind="stable")
    new = (np.abs(np.diff(rows[order], axis=0)) > EQUAL * np.abs(rows).max(initial=0.0)).any(axis=1)
    return order, np.flatnonzero(np.append(True, new))
