"""Products with Householder reflectors as LAPACK's dgeqrf and dsytrd leave them: H = H₁ H₂ …, H_i = I − τ_i v_i v_iᵀ."""

import numpy as np
from scipy.linalg.blas import dsymm, dsyr2k
from scipy.linalg.lapack import dormqr

from ..result import Array

BLOCK = 64  # reflectors LAPACK applies at a time


def apply_reflectors(packed: Array, tau: Array, B: Array, trans: str) -> Array:
    """HᵀB ("T") or H B ("N"), B (n, k)."""
    if tau.size == 0 or B.shape[1] == 0:
        return B
    k = B.shape[1]
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
    P = dsymm(1.0, A, V, lower=1) @ _compact(V, tau)
    W = np.asfortranarray(P - 0.5 * V @ (_compact(V, tau).T @ (V.T @ P)))
    dsyr2k(-1.0, V, W, beta=1.0, c=A, lower=1, overwrite_c=1)


def _compact(V: Array, tau: Array) -> Array:
    """Upper triangular T with H₁ H₂ … = I − V T Vᵀ."""
    gram = V.T @ V
    T = np.zeros_like(gram)
    for j in range(tau.size):
        T[:j, j] = -tau[j] * (T[:j, :j] @ gram[:j, j])
        T[j, j] = tau[j]
    return T
