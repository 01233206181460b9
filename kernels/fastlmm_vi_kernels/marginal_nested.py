"""The log posterior density of variance parameters of groups (any effects) nested in groups of one effect each.

The inner groups v are rows of `marginal`, with the column z of the outer effect beside [X y]. Of an outer group w they leave
the products S = Σ_v (L⁻¹C)ᵀ(L⁻¹C) of z with itself and with [X y]; k = 1 + λ²S_zz, g = λ/√k and Y = g S_z[Xy] eliminate it,
and with z ← g z, [X y] ← [X y] − z Y the inner rows are those of a model of one factor with one column more.
"""

import math

import numpy as np
from numba import carray

from .covariance import by_terms, log_prior, relative, to_terms, unpack
from .dense import cholesky, clear
from .jit import Callback, kernel
from .marginal import (
    COMMON,
    SIGNATURE,
    combine,
    common_of,
    corner,
    dot,
    line,
    log_pivots,
    prior_of,
    section,
    take,
    weigh,
    weigh_1,
    weigh_2,
    whiten,
    whiten_1,
    whiten_2,
)


@kernel
def nested(block, phi, gradient):
    """Log density and its gradient; −∞ where a pivot is not positive."""
    header = block.view(np.int64)
    prior, common = prior_of(block, header), common_of(block, header)
    sizes, start = section(header, header, COMMON), section(header, header, COMMON + 1)
    d, n, single, m, levels = sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]
    R, C, count = (
        section(block, header, COMMON + 2),
        section(block, header, COMMON + 3),
        section(block, header, COMMON + 4),
    )
    within, own = section(block, header, COMMON + 5), section(block, header, COMMON + 6)
    q, effects, squares = common.q, prior.effect.size - 1, prior.M.size
    small = np.empty(2 * effects + 3 * squares + 2 * common.place[-1] + d * d)
    log_sd, sd, small = small[:effects], small[effects : 2 * effects], small[2 * effects :]
    root, E, turn, small = (
        small[:squares],
        small[squares : 2 * squares],
        small[2 * squares : 3 * squares],
        small[3 * squares :],
    )
    lam, B, omega = small[: d * d + 1], small[d * d + 1 : 2 * d * d + 2], small[2 * d * d + 2 :]
    large = np.empty((d * (2 * d + q + 3) + 3) * n + (q + 4) * m)
    Q, H, large = large[: d * d * n], large[d * d * n : d * (d + q + 1) * n], large[d * (d + q + 1) * n :]
    z, work, large = line(large, 0, n), large[n : (d * d + 2 * d + 3) * n], large[(d * d + 2 * d + 3) * n :]
    k, g, N, S = line(large, 0, m), line(large, 1, m), line(large, 2, m), large[3 * m :]
    T, A = np.empty((q, q)), np.empty((q + 1, q + 1))

    log_sigma = unpack(prior, phi, log_sd, sd, root)
    sigma = math.exp(log_sigma)
    relative(prior, sd, root, sigma, lam, common.place)
    unit, outer = sigma / prior.unit, lam[d * d]
    if d == 1:
        whiten_1(n, q + 1, lam, R, C, Q, H, work)
    elif d == 2:
        whiten_2(n, q + 1, lam, R, C, Q, H, work)
    else:
        whiten(d, n, q + 1, lam, R, C, Q, H, work)
    half = log_pivots(work, count, single, single)
    for j in range(q + 1):
        clear(z, n)
        for i in range(d):
            take(z, line(H, i, n), line(H, j * d + i, n), -1.0)
        add_up(start, z, line(own, j, m), line(S, j, m))
    for w in range(m):
        k[w] = 1.0 + outer * outer * S[w]
        g[w] = outer / math.sqrt(k[w])
    half += log_pivots(k, k, levels, levels)
    for j in range(1, q + 1):
        Y = line(S, j, m)
        for w in range(m):
            Y[w] *= g[w]
    for i in range(q):
        for j in range(i + 1):
            known = within[i * q + j] + unit * unit * common.P[i * q + j]
            rows = dot(line(H, i + 1, d * n), line(H, j + 1, d * n))
            T[i, j] = known + rows - dot(line(S, i + 1, m), line(S, j + 1, m))
    if cholesky(T) < q:
        return -math.inf
    inner = np.empty((q, q))
    value, of_sigma = corner(T, 0, common, unit, inner)
    slope = outer_slope(m, inner, outer, k, S, N)
    inwards(start, d, n, m, q, g, S, H, z)
    for i in range(q + 1):
        for j in range(q + 1):
            A[i, j] = inner[i - 1, j - 1] if i > 0 and j > 0 else 1.0 if i == j else 0.0
    if d == 1:
        weigh_1(n, A, Q, H, count, work, omega)
    elif d == 2:
        weigh_2(n, A, Q, H, count, work, omega)
    else:
        weigh(d, n, A, Q, H, count, work, omega)
    to_terms(prior, omega, lam, sd, sigma, d, E)
    B[d * d] = slope + levels
    for i in range(squares):
        turn[i] = 1.0
    by_terms(prior, 1, B, common.place, root, turn, E)
    value += log_prior(prior, phi, log_sd, sd, root, E, of_sigma, gradient) - half
    return value if value > -math.inf else -math.inf


@kernel
def add_up(start, x, known, out):
    """Write out ← known + sums of x over the inner groups of every outer one."""
    for w in range(out.size):
        out[w] = known[w]
    for w in range(start.size - 1):
        total = 0.0
        for v in range(start[w], start[w + 1]):
            total += x[v]
        out[w] += total


@kernel
def outer_slope(m, A, outer, k, S, N):
    """The slope in log λ, Σ_w (Σ_j (Y A)_j² − λ²S_zz)/k."""
    slope = 0.0
    for w in range(m):
        slope -= outer * outer * S[w] / k[w]
    for j in range(len(A)):
        combine(A, S[m:], j, N)
        for w in range(m):
            slope += N[w] * N[w] / k[w]
    return slope


@kernel
def inwards(start, d, n, m, q, g, S, H, x):
    """Overwrite the inner rows: [X y] by [X y] − z g Y, and z by g z."""
    clear(x, n)
    for j in range(1, q + 1):
        for w in range(start.size - 1):
            value = g[w] * S[j * m + w]
            for v in range(start[w], start[w + 1]):
                x[v] = value
        for i in range(d):
            take(line(H, j * d + i, n), line(H, i, n), x, 1.0)
    for w in range(start.size - 1):
        for v in range(start[w], start[w + 1]):
            x[v] = g[w]
    for i in range(d):
        z = line(H, i, n)
        for v in range(n):
            z[v] *= x[v]


@kernel
def nested_many(block, phis, values):
    """Log densities at rows of φ."""
    gradient = np.empty(phis.shape[1])
    for i in range(len(phis)):
        values[i] = nested(block, phis[i], gradient)


def _nested(dim, phi, gradient, value, data):
    """0, or 1 where the density is 0; log density and gradient are written."""
    size = carray(data, 1, np.int64)[0]
    found = nested(carray(data, size, np.float64), carray(phi, dim), carray(gradient, dim))
    carray(value, 1)[0] = found
    return 0 if found > -math.inf else 1


NESTED = Callback(SIGNATURE, _nested)
