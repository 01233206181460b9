"""Symmetric tridiagonal T: its eigenvalues with a few rows rotated along, and linear systems in I + γT.

T has the diagonal `diag` (n,) and the off-diagonal `off` (n − 1,). No eigenvector is ever formed.
"""

import math

import numpy as np

from .jit import kernel

EPS = 2.220446049250313e-16
MOST_STEPS = 60  # QL steps for one eigenvalue; two are usual


@kernel
def diagonalise(diag, off, rows):
    """Overwrite `diag` by the eigenvalues of T = S D Sᵀ and `rows` (n, k) by Sᵀ rows; destroy `off`.

    Implicit QL with Wilkinson's shift (Golub and Van Loan, section 8.3): every rotation of two rows of T is applied to
    the same two of `rows`, at 6 k flops, so that n² k of them replace the n³ of eigenvectors. Returns False if an
    eigenvalue has not settled after `MOST_STEPS` steps.
    """
    n, k = rows.shape
    scale = 0.0  # squares below are of numbers of order 1
    for i in range(n):
        scale = max(scale, abs(diag[i]))
    for i in range(n - 1):
        scale = max(scale, abs(off[i]))
    if scale == 0.0:
        return True
    for i in range(n):
        diag[i] /= scale
    for i in range(n - 1):
        off[i] /= scale

    settled = True
    for l in range(n):
        steps = 0
        while True:
            m = l  # T splits where an off-diagonal entry is rounding: rows l … m are one block
            while m < n - 1 and not abs(off[m]) <= EPS * (abs(diag[m]) + abs(diag[m + 1])):
                m += 1
            if m == l:
                break
            if steps == MOST_STEPS:
                settled = False
                break
            steps += 1
            g = (diag[l + 1] - diag[l]) / (2.0 * off[l])
            r = math.sqrt(g * g + 1.0)
            g = diag[m] - diag[l] + off[l] / (g + math.copysign(r, g))  # d_m − shift
            s, c, p = 1.0, 1.0, 0.0
            i = m - 1
            while i >= l:  # chase the bulge from the bottom of the block to its top
                f, b = s * off[i], c * off[i]
                r = math.sqrt(f * f + g * g)
                if i + 1 < m:
                    off[i + 1] = r
                if r == 0.0:
                    break
                s, c = f / r, g / r
                g = diag[i + 1] - p
                r = (diag[i] - g) * s + 2.0 * c * b
                p = s * r
                diag[i + 1] = g + p
                g = c * r - b
                for j in range(k):
                    upper, lower = rows[i, j], rows[i + 1, j]
                    rows[i + 1, j] = s * upper + c * lower
                    rows[i, j] = c * upper - s * lower
                i -= 1
            if i >= l:  # the block fell apart on the way: start again with what is left
                diag[i + 1] -= p
                if m < n - 1:
                    off[m] = 0.0
                continue
            diag[l] -= p
            off[l] = g
            if m < n - 1:
                off[m] = 0.0
    for i in range(n):
        diag[i] *= scale
    return settled


@kernel
def continued_fraction(gamma, diag, off):
    """Return log|W⁻¹| and 1 / W₁₁, W = (I + γT)⁻¹, each with its first two derivatives in γ: O(n), no square roots.

    Elimination from the last row upwards has the pivots e_n = 1 + γ a_n and e_i = 1 + γ a_i − (γ b_i)² / e_{i+1}, whose
    product is the determinant, and ends at e_1 = 1 / W₁₁ (docs/derivation.md, section 5).
    """
    n = diag.size
    logdet, logdet1, logdet2, product = 0.0, 0.0, 0.0, 1.0
    e, e1, e2 = 1.0, 0.0, 0.0
    for i in range(n - 1, -1, -1):
        b = off[i] if i < n - 1 else 0.0
        q, s = e1 / e, b / e
        q1 = e2 / e - q * q
        r = gamma * s  # γ b_i / e_{i+1} and its derivatives
        r1 = s * (1.0 - gamma * q)
        r2 = -s * (q * (2.0 - gamma * q) + gamma * q1)
        e = 1.0 + gamma * (diag[i] - b * r)
        e1 = diag[i] - b * r - gamma * b * r1
        e2 = -b * (2.0 * r1 + gamma * r2)
        product *= e
        if product > 1e200:  # one logarithm for as many factors as a number holds
            logdet += math.log(product)
            product = 1.0
        logdet1 += e1 / e
        logdet2 += e2 / e - (e1 / e) ** 2
    return logdet + math.log(product), logdet1, logdet2, e, e1, e2


@kernel
def factorise(gamma, diag, off):
    """Return the pivots D (n,) and the subdiagonal of L (n,), last entry unused, with I + γT = L D Lᵀ."""
    n = diag.size
    pivots = np.empty(n)
    factor = np.empty(n)
    pivots[0] = 1.0 + gamma * diag[0]
    for i in range(1, n):
        factor[i - 1] = gamma * off[i - 1] / pivots[i - 1]
        pivots[i] = 1.0 + gamma * diag[i] - factor[i - 1] * gamma * off[i - 1]
    return pivots, factor


@kernel
def solve(gamma, diag, off, B):
    """Overwrite B (n, k) by (I + γT)⁻¹ B, T positive semidefinite, γ ≥ 0: by L forwards, then by D Lᵀ backwards."""
    n, k = B.shape
    pivots, factor = factorise(gamma, diag, off)
    for i in range(1, n):
        for j in range(k):
            B[i, j] -= factor[i - 1] * B[i - 1, j]
    for i in range(n - 1, -1, -1):
        f = 1.0 / pivots[i]
        for j in range(k):
            B[i, j] *= f
        if i < n - 1:
            for j in range(k):
                B[i, j] -= factor[i] * B[i + 1, j]
