"""The deviance of a model with one grouping factor, by classes of groups with the same design.

Groups with the same W = ZᵀZ share K = I + ΛᵀWΛ. The rest of a class is Σ vec(B) vec(B)ᵀ, B = Zᵀ[X y]: any rows with that
sum of products stand for its groups. Arrays: W (classes, d, d); `count`, groups of a class; B (rows, d, q), those of class c
from `first[c]` to `first[c + 1]`; `corner`, [X y]ᵀ[X y]; Λ (d, d).
"""

import math

import numpy as np

from .dense import cholesky, invert, logs
from .jit import kernel


@kernel
def evaluate(W, count, first, B, corner, lam, P, T, inverse, of_logdet, of_squares):
    """(Log-determinant of the random effects, that of the effects of X, r²), or NaN where a pivot is not positive.

    Written are P ← ΛK⁻¹ of every class, T (q, q), and derivatives in Λ: of the log-determinant, with that of X if `inverse`
    has room for it (q − 1, q − 1), and of r².
    """
    half = eliminate(W, count, first, B, corner, lam, P, T)
    if half != half or cholesky(T) < len(T):
        return math.nan, math.nan, math.nan
    invert(T, inverse)
    gradient(W, count, first, B, lam, P, T, inverse, of_logdet, of_squares)
    return logs(T, half, len(T))


@kernel
def eliminate(W, count, first, B, corner, lam, P, T):
    """T ← what the random effects leave of [X y]ᵀ[X y], lower triangle; return their ½ log-determinant."""
    d, q = len(lam), len(T)
    K, WL, H = np.empty((d, d)), np.empty((d, d)), np.empty((d, q))
    half = 0.0
    for i in range(q):
        for j in range(i + 1):
            T[i, j] = corner[i, j]
    for c in range(len(W)):
        for i in range(d):
            for j in range(d):
                WL[i, j] = 0.0
                for k in range(j, d):
                    WL[i, j] += W[c, i, k] * lam[k, j]
        for i in range(d):  # the lower triangle of K, then its Cholesky factor
            for j in range(i + 1):
                total = 1.0 if i == j else 0.0
                for k in range(i, d):
                    total += lam[k, i] * WL[k, j]
                K[i, j] = total
        if cholesky(K) < d:
            return math.nan
        for i in range(d):
            half += count[c] * math.log(K[i, i])
        for r in range(first[c], first[c + 1]):  # H ← K^(-½) ΛᵀB
            for i in range(d):
                for j in range(q):
                    total = 0.0
                    for k in range(i, d):
                        total += lam[k, i] * B[r, k, j]
                    for k in range(i):
                        total -= K[i, k] * H[k, j]
                    H[i, j] = total / K[i, i]
            for i in range(q):
                for j in range(i + 1):
                    for k in range(d):
                        T[i, j] -= H[k, i] * H[k, j]
        for r in range(d):  # a row of P: that of Λ, by K^(-½ᵀ) and by K^(-½)
            for i in range(d):
                total = lam[r, i]
                for k in range(i):
                    total -= K[i, k] * P[c, r, k]
                P[c, r, i] = total / K[i, i]
            for i in range(d - 1, -1, -1):
                total = P[c, r, i]
                for k in range(i + 1, d):
                    total -= K[k, i] * P[c, r, k]
                P[c, r, i] = total / K[i, i]
    return half


@kernel
def gradient(W, count, first, B, lam, P, T, inverse, of_logdet, of_squares):
    """Derivatives in Λ: 2 Σ_c (n_c W − R F) P of the log-determinant, −2 Σ_c R E P of r², R = I − WPΛᵀ.

    E = Σ e eᵀ, e = B (−β, 1), and F = Σ B_X `inverse` B_Xᵀ, over the rows of a class.
    """
    d, q, p = len(lam), len(T), len(inverse)
    beta, e = np.empty(q - 1), np.empty(d)
    WP, R, E, F = np.empty((d, d)), np.empty((d, d)), np.empty((d, d)), np.empty((d, d))
    for i in range(q - 2, -1, -1):
        total = T[q - 1, i]
        for k in range(i + 1, q - 1):
            total -= T[k, i] * beta[k]
        beta[i] = total / T[i, i]
    for i in range(d):
        for j in range(d):
            of_logdet[i, j] = 0.0
            of_squares[i, j] = 0.0
    for c in range(len(W)):
        for i in range(d):
            for j in range(d):
                WP[i, j] = 0.0
                E[i, j] = 0.0
                F[i, j] = 0.0
                for k in range(d):
                    WP[i, j] += W[c, i, k] * P[c, k, j]
        for i in range(d):
            for j in range(d):
                R[i, j] = 1.0 if i == j else 0.0
                for k in range(j + 1):
                    R[i, j] -= WP[i, k] * lam[j, k]
        for r in range(first[c], first[c + 1]):
            for i in range(d):
                e[i] = B[r, i, q - 1]
                for k in range(q - 1):
                    e[i] -= B[r, i, k] * beta[k]
            for i in range(d):
                for j in range(d):
                    E[i, j] += e[i] * e[j]
            for i in range(d):
                for k in range(p):
                    total = 0.0
                    for l in range(p):
                        total += inverse[k, l] * B[r, i, l]
                    for j in range(d):
                        F[i, j] += total * B[r, j, k]
        for i in range(d):
            for j in range(d):
                of_logdet[i, j] += 2.0 * count[c] * WP[i, j]
                for k in range(d):
                    fixed, explained = 0.0, 0.0
                    for l in range(d):
                        fixed += F[k, l] * P[c, l, j]
                        explained += E[k, l] * P[c, l, j]
                    of_logdet[i, j] -= 2.0 * R[i, k] * fixed
                    of_squares[i, j] -= 2.0 * R[i, k] * explained
