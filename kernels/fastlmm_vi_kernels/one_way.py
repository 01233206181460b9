"""The deviance of a model with one grouping factor, from an orthogonal reduction of each group.

With Z_v = Q_v R_v a group is the d rows R_v (d, d) and C_v = Q_vᵀ[X y] (d, q), of covariance V_v = I + R_v Λ Λᵀ R_vᵀ, and
what Q_v does not reach, of covariance I, which all groups add to `within` (q, q). Only positive terms are summed: no ratio of
variances costs digits. Groups with the same R share V, and the rows of a class of them may be any with the same
Σ vec(C) vec(C)ᵀ. Arrays: R (classes, d, d); `count`, groups of a class; C (rows, d, q), those of class c from `first[c]` on.
"""

import math

import numpy as np

from .dense import cholesky, invert, logs
from .jit import kernel

NONE = 1e-14  # length of a column, relative to what it was, at which nothing of it is left


@kernel
def reduce(order, start, Z, B, R, C):
    """Write R and C of every group, whose rows are `order[start[v]]` to `order[start[v + 1]]`; B ← B − Q C."""
    d, q = Z.shape[1], B.shape[1]
    most = 0
    for v in range(len(R)):
        most = max(most, start[v + 1] - start[v])
    Q, b = np.empty((d, most)), np.empty(most)
    for v in range(len(R)):
        rows = order[start[v] : start[v + 1]]
        n = rows.size
        for j in range(d):
            for k in range(n):
                Q[j, k] = Z[rows[k], j]
            before = math.sqrt(project(Q[j], Q, j, n, R[v, :, j]))
            left = 0.0
            for k in range(n):
                left += Q[j, k] ** 2
            left = math.sqrt(left)
            there = left > NONE * before
            R[v, j, j] = left if there else 0.0
            for k in range(n):
                Q[j, k] = Q[j, k] / left if there else 0.0
        for c in range(q):
            for k in range(n):
                b[k] = B[rows[k], c]
            project(b, Q, d, n, C[v, :, c])
            for k in range(n):
                B[rows[k], c] = b[k]


@kernel
def project(b, Q, d, n, out):
    """Take from b (n,) its projection on the first d rows of Q, twice for the rounding; `out` ← Q b, returned is ‖b‖²."""
    size = 0.0
    for k in range(n):
        size += b[k] ** 2
    for j in range(d):
        out[j] = 0.0
    for _ in range(2):
        for j in range(d):
            total = 0.0
            for k in range(n):
                total += Q[j, k] * b[k]
            for k in range(n):
                b[k] -= total * Q[j, k]
            out[j] += total
    return size


@kernel
def evaluate(R, count, first, C, within, lam, G, S, T, inverse, of_logdet, of_squares):
    """(Log-determinant of the random effects, that of the effects of X, r²), or NaN where a pivot is not positive.

    Written are G ← RΛ and S ← V⁻¹ of every class, T (q, q), and derivatives in Λ: of the log-determinant, with that of X if
    `inverse` has room for it (q − 1, q − 1), and of r².
    """
    half = eliminate(R, count, first, C, within, lam, G, S, T)
    if half != half or cholesky(T) < len(T):
        return math.nan, math.nan, math.nan
    invert(T, inverse)
    gradient(R, count, first, C, G, S, T, inverse, of_logdet, of_squares)
    return logs(T, half, len(T))


@kernel
def eliminate(R, count, first, C, within, lam, G, S, T):
    """T ← [X y]ᵀ V⁻¹ [X y], lower triangle; return ½ log|V|."""
    d, q = len(lam), len(T)
    V, H = np.empty((d, d)), np.empty((d, q))
    half = 0.0
    for i in range(q):
        for j in range(i + 1):
            T[i, j] = within[i, j]
    for c in range(len(R)):
        for i in range(d):
            for j in range(d):
                total = 0.0
                for k in range(max(i, j), d):
                    total += R[c, i, k] * lam[k, j]
                G[c, i, j] = total
        for i in range(d):
            for j in range(i + 1):
                total = 1.0 if i == j else 0.0
                for k in range(d):
                    total += G[c, i, k] * G[c, j, k]
                V[i, j] = total
        if cholesky(V) < d:
            return math.nan
        for i in range(d):
            half += count[c] * math.log(V[i, i])
        for r in range(first[c], first[c + 1]):
            for i in range(d):
                for j in range(q):
                    total = C[r, i, j]
                    for k in range(i):
                        total -= V[i, k] * H[k, j]
                    H[i, j] = total / V[i, i]
            for i in range(q):
                for j in range(i + 1):
                    for k in range(d):
                        T[i, j] += H[k, i] * H[k, j]
        invert(V, S[c])
    return half


@kernel
def gradient(R, count, first, C, G, S, T, inverse, of_logdet, of_squares):
    """Derivatives in Λ: 2 Σ_c Rᵀ(n_c S − S F S)G of the log-determinant, −2 Σ_c RᵀS E S G of r².

    E = Σ e eᵀ, e = C (−β, 1), and F = Σ C_X `inverse` C_Xᵀ, over the rows of a class.
    """
    d, q, p = R.shape[1], len(T), len(inverse)
    beta, e = np.empty(q - 1), np.empty(d)
    E, F, A, D = np.empty((d, d)), np.empty((d, d)), np.empty((d, d)), np.empty((d, d))
    for i in range(q - 2, -1, -1):
        total = T[q - 1, i]
        for k in range(i + 1, q - 1):
            total -= T[k, i] * beta[k]
        beta[i] = total / T[i, i]
    for i in range(d):
        for j in range(d):
            of_logdet[i, j] = 0.0
            of_squares[i, j] = 0.0
    for c in range(len(R)):
        for i in range(d):
            for j in range(d):
                E[i, j] = 0.0
                F[i, j] = 0.0
        for r in range(first[c], first[c + 1]):
            for i in range(d):
                e[i] = C[r, i, q - 1]
                for k in range(q - 1):
                    e[i] -= C[r, i, k] * beta[k]
            for i in range(d):
                for j in range(d):
                    E[i, j] += e[i] * e[j]
                for k in range(p):
                    total = 0.0
                    for l in range(p):
                        total += inverse[k, l] * C[r, i, l]
                    for j in range(d):
                        F[i, j] += total * C[r, j, k]
        for i in range(d):  # E ← S E S, F ← S F S − n S
            for j in range(d):
                A[i, j] = 0.0
                D[i, j] = 0.0
                for k in range(d):
                    A[i, j] += E[i, k] * S[c, k, j]
                    D[i, j] += F[i, k] * S[c, k, j]
        for j in range(d):
            for i in range(d):
                E[i, j] = 0.0
                F[i, j] = -count[c] * S[c, i, j]
                for k in range(d):
                    E[i, j] += S[c, i, k] * A[k, j]
                    F[i, j] += S[c, i, k] * D[k, j]
        for i in range(d):  # A ← E G, D ← F G
            for j in range(d):
                A[i, j] = 0.0
                D[i, j] = 0.0
                for k in range(d):
                    A[i, j] += E[i, k] * G[c, k, j]
                    D[i, j] += F[i, k] * G[c, k, j]
        for i in range(d):
            for j in range(d):
                for k in range(i + 1):
                    of_logdet[i, j] -= 2.0 * R[c, k, i] * D[k, j]
                    of_squares[i, j] -= 2.0 * R[c, k, i] * A[k, j]
