"""A symmetric band matrix reduced to tridiagonal form by chasing bulges: the second stage for matrices out of cache.

`band` (2 b, n) in Fortran order holds the lower band by diagonals, band[i − j, j] = A[i, j], with b − 1 further rows of
zeros for the bulges. Reflectors are kept by sweep: sweep j acts on rows j + 1 … in consecutive blocks of b.
"""

import math

import numpy as np

from .jit import kernel


@kernel
def reflector(x, v):
    """Fill v with v₁ = 1 and overwrite x by (β, 0, …) = (I − τ v vᵀ) x; return τ."""
    m = x.size
    v[0] = 1.0
    s = 0.0
    for r in range(1, m):
        s += x[r] * x[r]
    if s == 0.0:
        for r in range(1, m):
            v[r] = 0.0
        return 0.0
    alpha = x[0]
    beta = -math.copysign(math.sqrt(alpha * alpha + s), alpha)
    for r in range(1, m):
        v[r] = x[r] / (alpha - beta)
        x[r] = 0.0
    x[0] = beta
    return (beta - alpha) / beta


@kernel
def chase(band, b, V, tau):
    """Reduce the band matrix to tridiagonal form, rows 0 and 1 of `band`; fill V (n, n) and tau with the reflectors.

    Sweep j annihilates column j below its subdiagonal; that fills a block below the band, whose first column alone is
    annihilated in turn, and so on down the band (Lang, SIAM J. Sci. Comput. 14, 1993): about 6 n² b flops.
    """
    n = band.shape[1]
    w = np.empty(b)
    for j in range(n - 2):
        column, lo, block = j, j + 1, 0
        while lo < n:
            hi = min(lo + b, n)
            m = hi - lo
            v = V[j, lo:hi]
            t = reflector(band[lo - column : hi - column, column], v)
            tau[j, block] = t
            if t != 0.0:
                for q in range(column + 1, lo):  # from the left: the rest of the block
                    x = band[lo - q : hi - q, q]
                    g = 0.0
                    for r in range(m):
                        g += v[r] * x[r]
                    for r in range(m):
                        x[r] -= t * g * v[r]
                both_sides(band, lo, m, t, v, w)
                below = min(b, n - hi)  # from the right: the block below, which fills
                w[:below] = 0.0
                for q in range(m):
                    x = band[m - q : m - q + below, lo + q]
                    for r in range(below):
                        w[r] += x[r] * v[q]
                for q in range(m):
                    x = band[m - q : m - q + below, lo + q]
                    for r in range(below):
                        x[r] -= w[r] * (t * v[q])
            column, lo, block = lo, hi, block + 1


@kernel
def both_sides(band, lo, m, t, v, w):
    """Overwrite the diagonal block D of rows lo … lo + m − 1 by H D H, H = I − t v vᵀ; w is workspace."""
    w[:m] = 0.0
    for q in range(m):
        x = band[: m - q, lo + q]
        s = x[0] * v[q]
        for r in range(1, m - q):
            s += x[r] * v[q + r]
            w[q + r] += x[r] * v[q]
        w[q] += s
    g = 0.0
    for r in range(m):
        w[r] *= t
        g += w[r] * v[r]
    for r in range(m):
        w[r] -= 0.5 * t * g * v[r]
    for q in range(m):
        x = band[: m - q, lo + q]
        for r in range(m - q):
            x[r] -= v[q + r] * w[q] + w[q + r] * v[q]


@kernel
def apply(V, tau, b, B, transpose):
    """Overwrite B (n, k), Fortran order, by QᵀB or Q B with Q the product of all reflectors of `chase`."""
    n, k = B.shape
    for step in range(n - 2):
        j = step if transpose else n - 3 - step
        for block in range((n - j - 2) // b + 1):
            lo = j + 1 + block * b
            v = V[j, lo : min(lo + b, n)]
            for c in range(k):
                x = B[lo : min(lo + b, n), c]
                g = 0.0
                for r in range(v.size):
                    g += v[r] * x[r]
                for r in range(v.size):
                    x[r] -= tau[j, block] * g * v[r]
