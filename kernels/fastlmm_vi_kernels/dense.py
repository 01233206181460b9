"""Small symmetric matrices, in their lower triangle, and vectors: what a call of a library would cost more than."""

import math

from .jit import kernel


@kernel
def cholesky(T):
    """Overwrite the lower triangle of T by its Cholesky factor; return the number of positive pivots."""
    m = len(T)
    for i in range(m):
        for j in range(i + 1):
            total = T[i, j]
            for k in range(j):
                total -= T[i, k] * T[j, k]
            if i > j:
                T[i, j] = total / T[j, j]
            elif total > 0.0:
                T[i, i] = math.sqrt(total)
            else:
                return i
    return m


@kernel
def invert(T, S):
    """S ← (L Lᵀ)⁻¹ of order len(S), L the leading part of the lower triangle of T."""
    m = len(S)
    for j in range(m):  # column j of L⁻¹, below the diagonal of S
        S[j, j] = 1.0 / T[j, j]
        for i in range(j + 1, m):
            total = 0.0
            for k in range(j, i):
                total += T[i, k] * S[k, j]
            S[i, j] = -total / T[i, i]
    for i in range(m):  # L⁻ᵀ L⁻¹: entry (i, j) needs rows from i ≥ j on
        for j in range(i + 1):
            total = 0.0
            for k in range(i, m):
                total += S[k, i] * S[k, j]
            S[i, j] = total
            S[j, i] = total


@kernel
def mirror(S):
    """Copy the lower triangle of S to its upper one, by squares that stay in the cache."""
    m = len(S)
    for start in range(0, m, 32):
        for other in range(0, start + 1, 32):
            for i in range(start, min(start + 32, m)):
                for j in range(other, min(other + 32, i)):
                    S[j, i] = S[i, j]


@kernel
def logs(T, half, q):
    """Log-determinants of the random effects (½ of the leading ones given) and of X, and r², from the factor of the tail."""
    m = len(T)
    of_x = 0.0
    for i in range(m - 1):
        if i < m - q:
            half += math.log(T[i, i])
        else:
            of_x += math.log(T[i, i])
    return 2.0 * half, 2.0 * of_x, T[m - 1, m - 1] ** 2


@kernel
def clear(out, size):
    """Write 0 to the first `size` numbers; assignment to a slice compiles for seconds."""
    for r in range(size):
        out[r] = 0.0


@kernel
def copy(out, left):
    """Write out ← left."""
    for r in range(left.size):
        out[r] = left[r]
