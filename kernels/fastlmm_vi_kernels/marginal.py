"""The log posterior density of the variance parameters φ, effects integrated out, and its gradient.

Everything that a density reads stands in one block of memory, numbers and integers alike, which no evaluation writes:
any number of threads may evaluate at once. The block starts with its length and the places of its sections; those of
`covariance.Prior` and of `Common` come first, what a family of designs needs after them.

With T = [X y]ᵀV⁻¹[X y] + σ² [I m]ᵀP[I m] = L Lᵀ, its corner r² = (last diagonal entry of L)², and K the precision of the
random effects u,

    log p(y | φ) = constant − ½ (log|K| + log|T_XX| + (N − p) log σ² + r²/σ²).

A = L⁻ᵀ diag(1, …, 1, r/σ) holds what is to be known of β: A Aᵀ = E[(−β, 1)(−β, 1)ᵀ]/σ² given y.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import carray, types

from .covariance import Prior, log_prior, relative, unpack
from .dense import cholesky
from .jit import Callback, kernel

COMMON = 11  # sections before those of a family


class Common(NamedTuple):
    """What every family needs beside the priors."""

    constant: float
    degrees: float  # N − p
    P: np.ndarray  # (q, q) prior of β in the corner: [I m]ᵀ P [I m]
    place: np.ndarray  # (factors + 1,) where Λ of a factor starts


@kernel
def real(block, i):
    """Section i of a block."""
    start = block.view(np.int64)[1 + 2 * i]
    return block[start : start + block.view(np.int64)[2 + 2 * i]]


@kernel
def whole(block, i):
    """Section i of a block, of integers."""
    return real(block, i).view(np.int64)


@kernel
def prior_of(block):
    """The priors in a block."""
    term, row, of_term, numbers = whole(block, 0), real(block, 2), real(block, 3), real(block, 8)
    return Prior(
        term.reshape((term.size // 5, 5)),
        whole(block, 1),
        row.reshape((row.size // 3, 3)),
        of_term.reshape((of_term.size // 4, 4)),
        real(block, 4),
        real(block, 5),
        real(block, 6),
        whole(block, 7),
        int(numbers[0]),
        numbers[1],
    )


@kernel
def common_of(block):
    """The constants in a block."""
    numbers, P = real(block, 8), real(block, 9)
    q = int(math.sqrt(P.size + 0.5))
    return Common(numbers[2], numbers[3], P.reshape((q, q)), whole(block, 10))


@kernel
def corner(T, first, common, sigma, A):
    """From the Cholesky factor of T, (q, q) from row `first` on: (log density without log|K|, its slope in log σ at given Λ).

    A is written.
    """
    q, P = len(A), common.P
    value = common.constant - common.degrees * math.log(sigma)
    for j in range(q):
        for i in range(q):
            A[i, j] = 0.0
    for j in range(q):  # row j of A, from L⁻¹ by columns
        A[j, j] = 1.0 / T[first + j, first + j]
        for i in range(j + 1, q):
            total = 0.0
            for k in range(j, i):
                total += T[first + i, first + k] * A[j, k]
            A[j, i] = -total / T[first + i, first + i]
    r = T[first + q - 1, first + q - 1] / sigma
    for i in range(q - 1):
        value -= math.log(T[first + i, first + i])
    for i in range(q):
        A[i, q - 1] *= r
    slope = r * r - common.degrees
    for i in range(q):
        for j in range(q):
            if P[i, j] != 0.0:
                total = 0.0
                for k in range(max(i, j), q):
                    total += A[i, k] * A[j, k]
                slope -= sigma * sigma * P[i, j] * total
    return value - 0.5 * r * r, slope


# One grouping factor: rows R (d × d) and C (d × q) of classes of groups, side by side: what is summed over rows stands last.


@kernel
def one_way(block, phi, gradient):
    """Log density and its gradient of a model with one grouping factor; −∞ where a pivot is not positive."""
    prior, common = prior_of(block), common_of(block)
    sizes = whole(block, COMMON)
    d, n, single, weighted = sizes[0], sizes[1], sizes[2], sizes[3]
    q = len(common.P)
    effects, squares = len(prior.effect) - 1, prior.M.size
    R = real(block, COMMON + 1).reshape((d * d, n))
    C = real(block, COMMON + 2).reshape((q, d * n))
    count, within = real(block, COMMON + 3), real(block, COMMON + 4).reshape((q, q))
    small = np.empty(2 * effects + 2 * squares + 3 * d * d)
    log_sd, sd, small = small[:effects], small[effects : 2 * effects], small[2 * effects :]
    root, E, small = small[:squares], small[squares : 2 * squares], small[2 * squares :]
    lam, omega = small[: d * d], small[d * d : 2 * d * d]
    large = np.empty((d * d + d * q + 2 * d + d * d + 1, n))
    Q, H, work = large[: d * d], large[d * d : d * d + d * q].reshape((q, d * n)), large[d * d + d * q :]
    T, A = np.empty((q, q)), np.empty((q, q))

    log_sigma = unpack(prior, phi, log_sd, sd, root)
    sigma = math.exp(log_sigma)
    relative(prior, sd, root, sigma, lam, common.place)
    unit = sigma / prior.unit
    if d == 1:
        whiten_1(lam, R, C, Q, H, work)
    elif d == 2:
        whiten_2(lam, R, C, Q, H, work)
    else:
        whiten(d, lam, R, C, Q, H, work)
    half = log_pivots(work[0], count, single, weighted)
    for i in range(q):
        for j in range(i + 1):
            total = 0.0
            left, right = H[i], H[j]
            for r in range(left.size):
                total += left[r] * right[r]
            T[i, j] = within[i, j] + unit * unit * common.P[i, j] + total
    if cholesky(T) < q:
        return -math.inf
    value, of_sigma = corner(T, 0, common, unit, A)
    if d == 1:
        weigh_1(A, Q, H, count, work, omega)
    elif d == 2:
        weigh_2(A, Q, H, count, work, omega)
    else:
        weigh(d, A, Q, H, count, work, omega)
    to_terms(prior, omega, lam, sd, sigma, d, E)
    value += log_prior(prior, phi, log_sd, sd, root, E, of_sigma, gradient) - half
    return value if value > -math.inf else -math.inf


@kernel
def log_pivots(pivots, count, single, weighted):
    """½ log|V| of all groups: the first `single` rows count once, those up to `weighted` as `count` says, others not."""
    total, product = 0.0, 1.0
    for r in range(single):
        if pivots[r] > 1e100:
            total += math.log(pivots[r])
        else:
            product *= pivots[r]
            if product > 1e100:
                total += math.log(product)
                product = 1.0
    for r in range(single, weighted):
        total += count[r] * math.log(pivots[r])
    return 0.5 * (total + math.log(product))


@kernel
def whiten_1(lam, R, C, Q, H, work):
    """Q ← R/√V, H ← C/√V, V = 1 + (Rλ)²; work[0] ← V."""
    pivot, root, out, l = work[0], R[0], Q[0], lam[0]
    inverse = work[1]
    for r in range(root.size):
        pivot[r] = 1.0 + (root[r] * l) ** 2
        inverse[r] = 1.0 / math.sqrt(pivot[r])
        out[r] = root[r] * inverse[r]
    for j in range(len(C)):
        left, right = H[j], C[j]
        for r in range(root.size):
            left[r] = right[r] * inverse[r]


@kernel
def whiten_2(lam, R, C, Q, H, work):
    """Q ← L⁻¹R, H ← L⁻¹C, L Lᵀ = V = I + G Gᵀ, G = RΛ; work[0] ← |V| = 1 + ‖G‖² + |G|², of positive terms alone."""
    n = R.shape[1]
    R0, R1, R3 = R[0], R[1], R[3]
    Q0, Q1, Q2, Q3 = Q[0], Q[1], Q[2], Q[3]
    pivot, first, second, below = work[0], work[1], work[2], work[3]
    a, b, c, e = lam[0], lam[1], lam[2], lam[3]
    area = a * e - b * c
    for r in range(n):
        g0, g1 = R0[r] * a + R1[r] * c, R0[r] * b + R1[r] * e
        g2, g3 = R3[r] * c, R3[r] * e
        top = 1.0 + g0 * g0 + g1 * g1
        whole_area = R0[r] * R3[r] * area
        V = top + g2 * g2 + g3 * g3 + whole_area * whole_area
        root_top, root_V = math.sqrt(top), math.sqrt(V)
        inverse = 1.0 / (root_top * root_V)
        first_r = root_V * inverse
        second_r = top * inverse
        below_r = (g0 * g2 + g1 * g3) * first_r * first_r
        pivot[r], first[r], second[r], below[r] = V, first_r, second_r, below_r
        Q0[r] = R0[r] * first_r
        Q1[r] = R1[r] * first_r
        Q2[r] = -below_r * R0[r] * second_r
        Q3[r] = (R3[r] - below_r * R1[r]) * second_r
    for j in range(len(C)):
        C0, C1, H0, H1 = C[j, :n], C[j, n:], H[j, :n], H[j, n:]
        for r in range(n):
            H0[r] = C0[r] * first[r]
            H1[r] = (C1[r] - below[r] * C0[r]) * second[r]


@kernel
def whiten(d, lam, R, C, Q, H, work):
    """The same for any d; work[0] ← |V|."""
    n = R.shape[1]
    pivot, V, G = work[0], work[1 : 1 + d * d], work[1 + d * d : 1 + d * d + d]
    pivot[:] = 1.0
    V[:] = 0.0
    for j in range(d):  # V += G_j G_jᵀ, G_j = R λ_j
        for i in range(d):
            g = G[i]
            g[:] = 0.0
            for k in range(i, d):
                x, line = lam[k * d + j], R[i * d + k]
                for r in range(n):
                    g[r] += line[r] * x
            for k in range(i + 1):
                v, other = V[i * d + k], G[k]
                for r in range(n):
                    v[r] += g[r] * other[r]
    for i in range(d):  # L, the reciprocals of its diagonal in place of this
        for j in range(i + 1):
            v = V[i * d + j]
            if i == j:
                for r in range(n):
                    v[r] += 1.0
            for k in range(j):
                left, right = V[i * d + k], V[j * d + k]
                for r in range(n):
                    v[r] -= left[r] * right[r]
            if i == j:
                for r in range(n):
                    pivot[r] *= v[r]
                    v[r] = 1.0 / math.sqrt(v[r])
            else:
                inverse = V[j * d + j]
                for r in range(n):
                    v[r] *= inverse[r]
    for i in range(d):
        inverse = V[i * d + i]
        for j in range(d):
            out, line = Q[i * d + j], R[i * d + j]
            for r in range(n):
                out[r] = line[r] if j >= i else 0.0
            for k in range(i):
                left, right = V[i * d + k], Q[k * d + j]
                for r in range(n):
                    out[r] -= left[r] * right[r]
            for r in range(n):
                out[r] *= inverse[r]
        for j in range(len(C)):
            out, line = H[j, i * n : (i + 1) * n], C[j, i * n : (i + 1) * n]
            for r in range(n):
                out[r] = line[r]
            for k in range(i):
                left, right = V[i * d + k], H[j, k * n : (k + 1) * n]
                for r in range(n):
                    out[r] -= left[r] * right[r]
            for r in range(n):
                out[r] *= inverse[r]


@kernel
def combine(A, H, k, out):
    """Out ← Σ_i H_i A_ik."""
    line, x = H[0], A[0, k]
    for r in range(out.size):
        out[r] = line[r] * x
    for i in range(1, k + 1):
        line, x = H[i], A[i, k]
        for r in range(out.size):
            out[r] += line[r] * x


@kernel
def weigh_1(A, Q, H, count, work, omega):
    """Ω ← Σ Q²(Σ_k N_k² − count), N = H A: the slope of the log-likelihood in Λ is Ω Λ."""
    N, square = work[0], work[1]
    for r in range(N.size):
        square[r] = -count[r]
    for k in range(len(A)):
        combine(A, H, k, N)
        for r in range(N.size):
            square[r] += N[r] * N[r]
    line, total = Q[0], 0.0
    for r in range(N.size):
        total += line[r] * line[r] * square[r]
    omega[0] = total


@kernel
def weigh_2(A, Q, H, count, work, omega):
    """Ω ← Σ Qᵀ(Σ_k N_k N_kᵀ − count I) Q, N = H A."""
    n = count.size
    N = work[:2].reshape(2 * n)
    N0, N1, S0, S1, S2 = work[0], work[1], work[2], work[3], work[4]
    for r in range(n):
        S0[r] = S2[r] = -count[r]
        S1[r] = 0.0
    for k in range(len(A)):
        combine(A, H, k, N)
        for r in range(n):
            S0[r] += N0[r] * N0[r]
            S1[r] += N0[r] * N1[r]
            S2[r] += N1[r] * N1[r]
    Q0, Q1, Q2, Q3 = Q[0], Q[1], Q[2], Q[3]
    first = both = second = 0.0
    for r in range(n):
        a, b = S0[r] * Q0[r] + S1[r] * Q2[r], S1[r] * Q0[r] + S2[r] * Q2[r]
        first += Q0[r] * a + Q2[r] * b
        both += Q1[r] * a + Q3[r] * b
        second += Q1[r] * (S0[r] * Q1[r] + S1[r] * Q3[r]) + Q3[r] * (S1[r] * Q1[r] + S2[r] * Q3[r])
    omega[0], omega[1], omega[2], omega[3] = first, both, both, second


@kernel
def weigh(d, A, Q, H, count, work, omega):
    """The same for any d."""
    n = count.size
    N, Z = work[:d], work[d : 2 * d]
    omega[:] = 0.0
    for k in range(len(A) + d):  # the columns of N, and those of the identity
        if k < len(A):
            combine(A, H, k, N.reshape(d * n))
        for a in range(d):
            z = Z[a]
            for r in range(n):
                z[r] = 0.0 if k < len(A) else Q[(k - len(A)) * d + a, r]
            for i in range(d if k < len(A) else 0):
                line, other = Q[i * d + a], N[i]
                for r in range(n):
                    z[r] += line[r] * other[r]
            for b in range(a + 1):
                total, other = 0.0, Z[b]
                if k < len(A):
                    for r in range(n):
                        total += z[r] * other[r]
                else:
                    for r in range(n):
                        total -= count[r] * z[r] * other[r]
                omega[a * d + b] += total
    for a in range(d):
        for b in range(a):
            omega[b * d + a] = omega[a * d + b]


@kernel
def to_terms(prior, omega, lam, sd, sigma, width, E):
    """E of every term, D Mᵀ(Ω Λ)/σ, from the slope Ω Λ of a single factor, (width, width)."""
    e, square = 0, 0
    for k in range(len(prior.term)):
        d, start = prior.term[k, 0], prior.term[k, 2]
        for i in range(d):
            for j in range(d):
                total = 0.0
                for l in range(i + 1):
                    slope = 0.0
                    for m in range(width):
                        slope += omega[(start + l) * width + m] * lam[m * width + start + j]
                    total += prior.M[square + l * d + i] * slope
                E[square + i * d + j] = sd[e + i] * total / sigma
        e += d
        square += d * d


@kernel
def one_way_many(block, phis, values):
    """Log densities at rows of φ."""
    gradient = np.empty(phis.shape[1])
    for i in range(len(phis)):
        values[i] = one_way(block, phis[i], gradient)


# By address.

SIGNATURE = types.int32(
    types.uintp,
    types.CPointer(types.float64),
    types.CPointer(types.float64),
    types.CPointer(types.float64),
    types.voidptr,
)


def _one_way(dim, phi, gradient, value, data):
    """0, or 1 where the density is 0; log density and gradient are written."""
    size = carray(data, 1, np.int64)[0]
    found = one_way(carray(data, size, np.float64), carray(phi, dim), carray(gradient, dim))
    carray(value, 1)[0] = found
    return 0 if found > -math.inf else 1


ONE_WAY = Callback(SIGNATURE, _one_way)
