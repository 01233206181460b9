"""The log posterior density of variance parameters where every two groups of crossed factors meet, or most.

One factor leads; the effects t of all others, X and y are the columns of what `marginal` has for [X y] alone. Its groups are
rows R (d, d) and C (d, t + q) of covariance V = I + R Λ Λᵀ Rᵀ; hence T = within + Σ CᵀV⁻¹C, a sum of positive terms, and of
T scaled by the Λ of the other factors, I added, the Cholesky factor UᵀU holds all that is wanted. With A = U⁻¹ diag(1, …, 1,
r/σ), A Aᵀ is E[(u, β, −1)(u, β, −1)ᵀ | y] up to the unit of β, and the slope in Λ is Ω Λ, Ω = Σ RᵀL⁻ᵀ(N Nᵀ − I)L⁻¹R,
N = L⁻¹C A. Leading groups with equal R and C but for y are one row: their sum, and what y scatters about their mean.
"""

import math

import numpy as np
from numba import carray

from .covariance import by_terms, log_prior, relative, to_terms, triangular, unpack
from .dense import clear, copy
from .jit import Callback, kernel
from .marginal import (
    COMMON,
    SIGNATURE,
    add,
    common_of,
    corner,
    dot,
    line,
    log_pivots,
    multiply,
    prior_of,
    section,
    take,
    whiten,
    whiten_1,
    whiten_2,
)
from .tiles import SIDE, factor, invert_factor, subtract_tile, transpose


@kernel
def crossed(block, phi, gradient):
    """Log density and its gradient; −∞ where a pivot is not positive."""
    header = block.view(np.int64)
    prior, common = prior_of(block, header), common_of(block, header)
    sizes, tail = section(header, header, COMMON), section(header, header, COMMON + 1)
    d, n, side, t, single, weighted = sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]
    R, C, count, within = (
        section(block, header, COMMON + 2),
        section(block, header, COMMON + 3),
        section(block, header, COMMON + 4),
        section(block, header, COMMON + 5),
    )
    q, effects, squares, entries = common.q, prior.effect.size - 1, prior.M.size, common.place[-1]
    small = np.zeros(2 * effects + 3 * squares + 2 * entries + 2 * d * d + q * q)
    log_sd, sd, small = small[:effects], small[effects : 2 * effects], small[2 * effects :]
    root, E, turn, small = (
        small[:squares],
        small[squares : 2 * squares],
        small[2 * squares : 3 * squares],
        small[3 * squares :],
    )
    lam, B, small = small[:entries], small[entries : 2 * entries], small[2 * entries :]
    own, omega, last = small[: d * d], small[d * d : 2 * d * d], small[2 * d * d :].reshape((q, q))
    K = d * n
    large = np.empty((d * (3 * d + side + 2) + 1) * n + K * side + 2 * side * side)
    Q, H, large = large[: d * K], large[d * K : (2 * d + side) * K], large[(2 * d + side) * K :]
    work, large = large[: (d * d + d + 1) * n], large[(d * d + d + 1) * n :]
    X, T, M = large[: K * side], large[K * side :], large[K * side + side * side :]

    log_sigma = unpack(prior, phi, log_sd, sd, root)
    sigma = math.exp(log_sigma)
    relative(prior, sd, root, sigma, lam, common.place)
    copy(own, lam[: d * d])
    triangular(prior, lam, common.place, turn)
    unit = sigma / prior.unit
    if d == 1:
        whiten_1(n, side + d, own, R, C, Q, H, work)
    elif d == 2:
        whiten_2(n, side + d, own, R, C, Q, H, work)
    else:
        whiten(d, n, side + d, own, R, C, Q, H, work)
    half = log_pivots(work, count, single, weighted)
    scale(tail, lam, common.place, H, K)
    transpose(H, 0, side, K, X)
    fill(tail, lam, common.place, X, K, within, side, t, M, T)
    scatter = H[side * K :]
    T[(t + q - 1) * (side + 1)] += dot(scatter[: d * K], scatter[: d * K])
    for i in range(q):
        for j in range(i, q):
            T[(t + i) * side + t + j] += unit * unit * common.P[i * q + j]
    if factor(T, 0, side) < side:
        return -math.inf
    for i in range(t):
        half += math.log(T[i * side + i])
    value, of_sigma = last_corner(T, side, t, common, unit, last)
    invert_factor(T, 0, side, M)
    y = t + q - 1
    add(line(M, y, side), line(M, y, side), last[q - 1, q - 1] / M[y * side + y] - 1.0)
    moments(tail, common.place, M, side, t + q, B)
    transpose(M, 0, side, side, T)
    weigh(d, n, side, t + q, T, Q, H, count, last[q - 1, q - 1] ** 2, X, work, omega)
    to_terms(prior, omega, own, sd, sigma, d, E)
    by_terms(prior, 1, B, common.place, root, turn, E)
    value += log_prior(prior, phi, log_sd, sd, root, E, of_sigma, gradient) - half
    return value if value > -math.inf else -math.inf


@kernel
def scale(tail, lam, place, rows, n):
    """Overwrite rows of n numbers, those of the effects of `tail` on top, by Λᵀ rows."""
    for f in range(tail.size // 3):
        d, levels, first, at = tail[3 * f], tail[3 * f + 1], tail[3 * f + 2], place[f + 1]
        for b in range(d):
            for v in range(levels):
                own = line(rows, first + b * levels + v, n)
                x = lam[at + b * d + b]
                for r in range(n):
                    own[r] *= x
                for a in range(b + 1, d):
                    add(own, line(rows, first + a * levels + v, n), lam[at + a * d + b])


@kernel
def fill(tail, lam, place, X, K, within, side, t, room, T):
    """T ← Λᵀ within Λ + XᵀX + I on the effects, from the diagonal on; `room` (side, side) is overwritten."""
    copy(room, within)
    scale(tail, lam, place, room, side)
    transpose(room, 0, side, side, T)
    scale(tail, lam, place, T, side)
    for i in range(0, side, SIDE):
        for k in range(i, i + SIDE):
            own = T[k * side + i : (k + 1) * side]
            for r in range(own.size):
                own[r] = -own[r]
        for j in range(i, side, SIDE):
            subtract_tile(X, i, side, X, j, side, K, T, i * side + j, side)
        for k in range(i, i + SIDE):
            own = T[k * side + i : (k + 1) * side]
            for r in range(own.size):
                own[r] = -own[r]
            if k < t:
                own[k - i] += 1.0


@kernel
def last_corner(T, side, t, common, unit, A):
    """What `marginal.corner` makes of the last rows of U."""
    q = common.q
    lower = np.empty((q, q))
    for i in range(q):
        for j in range(i + 1):
            lower[i, j] = T[(t + j) * side + t + i]
    return corner(lower, 0, common, unit, A)


@kernel
def moments(tail, place, M, side, rows, B):
    """B ← Σ_v (MᵀM)_vv of every factor of the tail."""
    for f in range(tail.size // 3):
        d, levels, first, at = tail[3 * f], tail[3 * f + 1], tail[3 * f + 2], place[f + 1]
        for k in range(first, rows):
            for a in range(d):
                left = M[k * side + first + a * levels : k * side + first + (a + 1) * levels]
                for b in range(a + 1):
                    right = M[k * side + first + b * levels : k * side + first + (b + 1) * levels]
                    B[at + a * d + b] += dot(left, right)
        for a in range(d):
            for b in range(a):
                B[at + b * d + a] = B[at + a * d + b]


@kernel
def weigh(d, n, side, rows, A, Q, H, count, of_scatter, N, S, omega):
    """Ω ← Σ Qᵀ(N Nᵀ + scatter − count I)Q, N = (H A)ᵀ, A upper triangular; N (d n, side) and S are overwritten."""
    K = d * n
    clear(N, K * side)
    for r in range(0, K, SIDE):
        for l in range(0, rows, SIDE):
            subtract_tile(H, r, K, A, l, side, min(l + SIDE, rows), N, r * side + l, side)
    for i in range(d):
        for j in range(i + 1):
            own = line(S, i * d + j, n)
            for r in range(n):
                own[r] = dot(line(N, i * n + r, side), line(N, j * n + r, side)) - (count[r] if i == j else 0.0)
            for k in range(side, side + d):
                take(own, line(H, k * d + i, n), line(H, k * d + j, n), -of_scatter)
    z = S[d * d * n : (d * d + 1) * n]
    for i in range(d):
        for j in range(d):
            own = line(S, max(i, j) * d + min(i, j), n)
            for a in range(d):
                multiply(z, line(Q, i * d + a, n), own)
                for b in range(d):
                    omega[a * d + b] += dot(z, line(Q, j * d + b, n))


@kernel
def crossed_many(block, phis, values):
    """Log densities at rows of φ."""
    gradient = np.empty(phis.shape[1])
    for i in range(len(phis)):
        values[i] = crossed(block, phis[i], gradient)


def _crossed(dim, phi, gradient, value, data):
    """0, or 1 where the density is 0; log density and gradient are written."""
    size = carray(data, 1, np.int64)[0]
    found = crossed(carray(data, size, np.float64), carray(phi, dim), carray(gradient, dim))
    carray(value, 1)[0] = found
    return 0 if found > -math.inf else 1


CROSSED = Callback(SIGNATURE, _crossed)
