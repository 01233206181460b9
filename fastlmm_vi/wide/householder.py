"""Orthogonal reductions of a symmetric matrix by Householder reflectors H₁ H₂ …, H_i = I − τ_i v_i v_iᵀ."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from fastlmm_vi_kernels import band as kernels
from scipy.linalg.lapack import dgeqrf, dormqr, dsytrd

from .. import threads
from ..result import Array
from .blas import subtract_syr2k, symm

BLOCK = 64  # reflectors LAPACK applies at a time
# A matrix of this side leaves the cache, and dsytrd, half of it matrix–vector products, waits for memory.
TWO_STAGES = 2_500
BAND = 48


class Reflections(Protocol):
    """An orthogonal Q made of reflectors; its first row and column are those of I."""

    def apply(self, B: Array, trans: str) -> Array:
        """QᵀB ("T") or Q B ("N"), B (m, k)."""
        ...


def tridiagonal(A: Array) -> tuple[Array, Array, Reflections]:
    """Return diagonal and off-diagonal of T, and Q, with A = Q T Qᵀ; A, given by its lower triangle, is overwritten."""
    return in_two_stages(A) if len(A) >= TWO_STAGES else in_one_stage(A)


def apply_reflectors(packed: Array, tau: Array, B: Array, trans: str) -> Array:
    """HᵀB ("T") or H B ("N"), B (n, k), H as LAPACK's dgeqrf leaves it."""
    k = B.shape[1]
    if tau.size == 0 or k == 0:
        return B
    # LAPACK applies reflectors in blocks if the workspace allows it: worth their set-up for many columns only.
    product, _, _ = dormqr("L", trans, packed, tau, B, k if k < 16 else BLOCK * k + 65 * BLOCK)
    return product


def reflect_both_sides(A: Array, packed: Array, tau: Array) -> None:
    """Overwrite the lower triangle of the symmetric A (n, n) by that of HᵀAH, H of k reflectors: 4 n² k flops.

    With H = I − V T Vᵀ (compact WY form) and P = A V T: HᵀAH = A − V Wᵀ − W Vᵀ, W = P − ½ V (Tᵀ Vᵀ P).
    """
    V = np.tril(packed[:, : tau.size], -1)
    np.fill_diagonal(V, 1.0)
    V = np.asfortranarray(V)
    gram = V.T @ V
    T = np.zeros_like(gram)
    for j in range(tau.size):
        T[:j, j] = -tau[j] * (T[:j, :j] @ gram[:j, j])
        T[j, j] = tau[j]
    P = symm(A, V) @ T
    subtract_syr2k(A, V, np.asfortranarray(P - 0.5 * V @ (T.T @ (V.T @ P))))


@dataclass(frozen=True, eq=False)
class _OneStage:
    """As dsytrd leaves them, viewed one element further: row i of `packed` (m, m − 1) belongs to row i + 1; the last is 0."""

    packed: Array
    tau: Array

    def apply(self, B: Array, trans: str) -> Array:
        if len(B) < 2:
            return B
        shifted = np.empty_like(B, order="F")
        shifted[:-1], shifted[-1] = B[1:], 0.0
        return np.vstack([B[:1], apply_reflectors(self.packed, self.tau, shifted, trans)[:-1]])


def in_one_stage(A: Array) -> tuple[Array, Array, Reflections]:
    """`tridiagonal` by LAPACK's dsytrd."""
    m = len(A)
    if m == 1:  # LAPACK's wrapper has no place for an off-diagonal of length 0
        return A.diagonal().copy(), np.empty(0), _OneStage(np.empty((1, 0)), np.empty(0))
    # scipy's own default workspace reduces one column at a time, at half the speed. One thread: with more, each of the m
    # matrix–vector products waits for the slowest of them (seconds instead of 40 ms where another program runs).
    with threads.limit(1):
        reduced, diag, off, tau, _ = dsytrd(A, lower=1, lwork=BLOCK * max(m, 1), overwrite_a=1)
    reduced[0, 1:] = 0.0
    packed = reduced.ravel(order="K")[1 : 1 + m * (m - 1)].reshape(m - 1, m).T
    return diag, off, _OneStage(packed, tau)


@dataclass(frozen=True, eq=False)
class _TwoStages:
    """Panels of the reduction to band form, each (first row, packed, tau), and the reflectors of the bulge chase."""

    panels: tuple[tuple[int, Array, Array], ...]
    V: Array
    tau: Array
    b: int

    def apply(self, B: Array, trans: str) -> Array:
        B = np.array(B, order="F")
        if trans == "N":
            kernels.apply(self.V, self.tau, self.b, B, False)
        for start, packed, tau in self.panels if trans == "T" else reversed(self.panels):
            B[start:] = apply_reflectors(packed, tau, B[start:], trans)
        if trans == "T":
            kernels.apply(self.V, self.tau, self.b, B, True)
        return B


def in_two_stages(A: Array, b: int = BAND) -> tuple[Array, Array, Reflections]:
    """`tridiagonal` first to a band of b subdiagonals, by products of matrices alone, then along the band, in cache."""
    m = len(A)
    panels = []
    for j in range(0, m - b - 1, b):
        packed, tau, _, _ = dgeqrf(np.asfortranarray(A[j + b :, j : j + b]))
        A[j + b :, j : j + b] = np.triu(packed)
        reflect_both_sides(A[j + b :, j + b :], packed, tau)
        panels.append((j + b, np.asfortranarray(packed[:, : tau.size]), tau))
    band = np.zeros((2 * b, m), order="F")
    for k in range(min(b + 1, m)):
        band[k, : m - k] = A.diagonal(-k)
    V, tau = np.zeros((m, m)), np.zeros((m, m // b + 1))
    kernels.chase(band, b, V, tau)
    return band[0].copy(), band[1, : m - 1].copy(), _TwoStages(tuple(panels), V, tau, b)
