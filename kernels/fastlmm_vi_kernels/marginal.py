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

from .covariance import Prior, log_prior, relative, to_terms, unpack
from .dense import cholesky, clear, copy
from .jit import Callback, kernel

COMMON = 11  # sections before those of a family


class Common(NamedTuple):
    """What every family needs beside the priors."""

    constant: float
    degrees: float  # N − p
    P: np.ndarray  # (q · q,) prior of β in the corner: [I m]ᵀ P [I m]
    q: int
    place: np.ndarray  # (factors + 1,) where Λ of a factor starts


@kernel
def section(view, header, i):
    """Section i of a block, of which `view` has the numbers or the integers."""
    start = header[1 + 2 * i]
    return view[start : start + header[2 + 2 * i]]


@kernel
def prior_of(block, header):
    """The priors in a block."""
    numbers = section(block, header, 8)
    return Prior(
        section(header, header, 0),
        section(header, header, 1),
        section(block, header, 2),
        section(block, header, 3),
        section(block, header, 4),
        section(block, header, 5),
        section(block, header, 6),
        section(header, header, 7),
        int(numbers[0]),
        numbers[1],
    )


@kernel
def common_of(block, header):
    """The constants in a block."""
    numbers = section(block, header, 8)
    return Common(numbers[2], numbers[3], section(block, header, 9), int(numbers[4]), section(header, header, 10))


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
            if P[i * q + j] != 0.0:
                total = 0.0
                for k in range(max(i, j), q):
                    total += A[i, k] * A[j, k]
                slope -= sigma * sigma * P[i * q + j] * total
    return value - 0.5 * r * r, slope


# One grouping factor: rows R (d × d) and C (d × q) of classes of groups, side by side: what is summed over rows stands last.


@kernel
def one_way(block, phi, gradient):
    """Log density and its gradient of a model with one grouping factor; −∞ where a pivot is not positive."""
    header = block.view(np.int64)
    prior, common = prior_of(block, header), common_of(block, header)
    sizes = section(header, header, COMMON)
    d, n, single, weighted = sizes[0], sizes[1], sizes[2], sizes[3]
    q = common.q
    effects, squares = prior.effect.size - 1, prior.M.size
    R, C, count, within = (
        section(block, header, COMMON + 1),
        section(block, header, COMMON + 2),
        section(block, header, COMMON + 3),
        section(block, header, COMMON + 4),
    )
    small = np.empty(2 * effects + 2 * squares + 3 * d * d)
    log_sd, sd, small = small[:effects], small[effects : 2 * effects], small[2 * effects :]
    root, E, small = small[:squares], small[squares : 2 * squares], small[2 * squares :]
    lam, omega = small[: d * d], small[d * d : 2 * d * d]
    large = np.empty((d * (2 * d + q + 2) + 1) * n)
    Q, H, work = large[: d * d * n], large[d * d * n : d * (d + q) * n], large[d * (d + q) * n :]
    T, A = np.empty((q, q)), np.empty((q, q))

    log_sigma = unpack(prior, phi, log_sd, sd, root)
    sigma = math.exp(log_sigma)
    relative(prior, sd, root, sigma, lam, common.place)
    unit = sigma / prior.unit
    if d == 1:
        whiten_1(n, q, lam, R, C, Q, H, work)
    elif d == 2:
        whiten_2(n, q, lam, R, C, Q, H, work)
    else:
        whiten(d, n, q, lam, R, C, Q, H, work)
    half = log_pivots(work, count, single, weighted)
    for i in range(q):
        for j in range(i + 1):
            own = within[i * q + j] + unit * unit * common.P[i * q + j]
            T[i, j] = own + dot(line(H, i, d * n), line(H, j, d * n))
    if cholesky(T) < q:
        return -math.inf
    value, of_sigma = corner(T, 0, common, unit, A)
    if d == 1:
        weigh_1(n, A, Q, H, count, work, omega)
    elif d == 2:
        weigh_2(n, A, Q, H, count, work, omega)
    else:
        weigh(d, n, A, Q, H, count, work, omega)
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
def line(X, i, n):
    """Row i of rows of n numbers: loops over it need no look at signs of indices, nor at overlaps."""
    return X[i * n : (i + 1) * n]


@kernel
def whiten_1(n, q, lam, R, C, Q, H, work):
    """Q ← R/√V, H ← C/√V, V = 1 + (Rλ)², which `work` holds first."""
    l, V, inverse = lam[0], line(work, 0, n), line(work, 1, n)
    for r in range(n):
        V[r] = 1.0 + (R[r] * l) ** 2
        inverse[r] = 1.0 / math.sqrt(V[r])
        Q[r] = R[r] * inverse[r]
    for j in range(q):
        multiply(line(H, j, n), line(C, j, n), inverse)


@kernel
def whiten_2(n, q, lam, R, C, Q, H, work):
    """Q ← L⁻¹R, H ← L⁻¹C, L Lᵀ = V = I + G Gᵀ, G = RΛ; `work` ← |V| = 1 + ‖G‖² + |G|², of positive terms alone."""
    a, b, c, e = lam[0], lam[1], lam[2], lam[3]
    area = a * e - b * c
    R0, R1, R3 = line(R, 0, n), line(R, 1, n), line(R, 3, n)
    Q0, Q1, Q2, Q3 = line(Q, 0, n), line(Q, 1, n), line(Q, 2, n), line(Q, 3, n)
    pivot, first, second, below = line(work, 0, n), line(work, 1, n), line(work, 2, n), line(work, 3, n)
    for r in range(n):
        g0, g1, g2, g3 = R0[r] * a + R1[r] * c, R0[r] * b + R1[r] * e, R3[r] * c, R3[r] * e
        top = 1.0 + g0 * g0 + g1 * g1
        V = top + g2 * g2 + g3 * g3 + (R0[r] * R3[r] * area) ** 2
        root_top, root_V = math.sqrt(top), math.sqrt(V)
        inverse = 1.0 / (root_top * root_V)
        pivot[r] = V
        first[r] = root_V * inverse
        second[r] = top * inverse
        below[r] = (g0 * g2 + g1 * g3) / top
    for r in range(n):
        Q0[r] = R0[r] * first[r]
        Q1[r] = R1[r] * first[r]
        Q2[r] = -below[r] * R0[r] * second[r]
        Q3[r] = (R3[r] - below[r] * R1[r]) * second[r]
    for j in range(q):
        C0, C1, H0, H1 = line(C, 2 * j, n), line(C, 2 * j + 1, n), line(H, 2 * j, n), line(H, 2 * j + 1, n)
        for r in range(n):
            H0[r] = C0[r] * first[r]
            H1[r] = (C1[r] - below[r] * C0[r]) * second[r]


@kernel
def whiten(d, n, q, lam, R, C, Q, H, work):
    """The same for any d."""
    pivot, V, G = line(work, 0, n), work[n:], work[(1 + d * d) * n :]
    clear(V, d * d * n)
    for r in range(n):
        pivot[r] = 1.0
    for j in range(d):  # V += G_j G_jᵀ, G_j = R λ_j
        for i in range(d):
            g = line(G, i, n)
            clear(g, n)
            for k in range(i, d):
                add(g, line(R, i * d + k, n), lam[k * d + j])
            for k in range(i + 1):
                take(line(V, i * d + k, n), g, line(G, k, n), -1.0)
    for i in range(d):  # L, the reciprocals of its diagonal in place of this
        for j in range(i + 1):
            v = line(V, i * d + j, n)
            for k in range(j):
                take(v, line(V, i * d + k, n), line(V, j * d + k, n), 1.0)
            if i > j:
                multiply(v, v, line(V, j * d + j, n))
            else:
                for r in range(n):
                    v[r] += 1.0
                    pivot[r] *= v[r]
                    v[r] = 1.0 / math.sqrt(v[r])
    for i in range(d):
        for j in range(d):
            forward(d, i, n, V, line(R, i * d + j, n), Q[j * n :], d)
        for j in range(q):
            forward(d, i, n, V, line(C, j * d + i, n), H[j * d * n :], 1)


@kernel
def forward(d, i, n, V, right, out, step):
    """Row i of L⁻¹ times a column, whose rows are lines of `out`, `step` apart."""
    own = line(out, i * step, n)
    copy(own, right)
    for k in range(i):
        take(own, line(V, i * d + k, n), line(out, k * step, n), 1.0)
    multiply(own, own, line(V, i * d + i, n))


@kernel
def multiply(out, left, right):
    """Write out ← left · right."""
    for r in range(out.size):
        out[r] = left[r] * right[r]


@kernel
def take(out, left, right, sign):
    """Overwrite out by out − sign · left · right."""
    for r in range(out.size):
        out[r] -= sign * left[r] * right[r]


@kernel
def add(out, left, x):
    """Overwrite out by out + left x."""
    for r in range(out.size):
        out[r] += left[r] * x


@kernel
def dot(left, right):
    """Sum of products."""
    total = 0.0
    for r in range(left.size):
        total += left[r] * right[r]
    return total


@kernel
def combine(A, H, k, N):
    """N ← Σ_i H_i A_ik, three lines at a time."""
    m, i = N.size, 0
    while i <= k:
        H0, H1, H2 = line(H, i, m), line(H, min(i + 1, k), m), line(H, min(i + 2, k), m)
        a, b, c = A[i, k], A[i + 1, k] if i < k else 0.0, A[i + 2, k] if i + 1 < k else 0.0
        if i == 0:
            for r in range(m):
                N[r] = H0[r] * a + H1[r] * b + H2[r] * c
        else:
            for r in range(m):
                N[r] += H0[r] * a + H1[r] * b + H2[r] * c
        i += 3


@kernel
def weigh_1(n, A, Q, H, count, work, omega):
    """Ω ← Σ Q²(Σ_k N_k² − count), N = H A: the slope of the log-likelihood in Λ is Ω Λ."""
    N, S = line(work, 0, n), line(work, 1, n)
    for r in range(n):
        S[r] = -count[r]
    for k in range(len(A)):
        combine(A, H, k, N)
        take(S, N, N, -1.0)
    total = 0.0
    for r in range(n):
        total += Q[r] * Q[r] * S[r]
    omega[0] = total


@kernel
def weigh_2(n, A, Q, H, count, work, omega):
    """Ω ← Σ Qᵀ(Σ_k N_k N_kᵀ − count I) Q, N = H A."""
    Q0, Q1, Q2, Q3 = line(Q, 0, n), line(Q, 1, n), line(Q, 2, n), line(Q, 3, n)
    first = both = second = 0.0
    for r in range(n):
        first -= count[r] * (Q0[r] * Q0[r] + Q2[r] * Q2[r])
        both -= count[r] * (Q0[r] * Q1[r] + Q2[r] * Q3[r])
        second -= count[r] * (Q1[r] * Q1[r] + Q3[r] * Q3[r])
    N, N0, N1 = work[: 2 * n], line(work, 0, n), line(work, 1, n)
    for k in range(len(A)):
        combine(A, H, k, N)
        for r in range(n):
            a, b = Q0[r] * N0[r] + Q2[r] * N1[r], Q1[r] * N0[r] + Q3[r] * N1[r]
            first += a * a
            both += a * b
            second += b * b
    omega[0], omega[1], omega[2], omega[3] = first, both, both, second


@kernel
def weigh(d, n, A, Q, H, count, work, omega):
    """The same for any d."""
    N, Z = work[: d * n], work[d * n :]
    clear(omega, d * d)
    for k in range(len(A)):
        combine(A, H, k, N)
        for a in range(d):
            z = line(Z, a, n)
            clear(z, n)
            for i in range(d):
                take(z, line(Q, i * d + a, n), line(N, i, n), -1.0)
            for b in range(a + 1):
                omega[a * d + b] += dot(z, line(Z, b, n))
    z = line(Z, 0, n)
    for i in range(d):
        for a in range(d):
            multiply(z, line(Q, i * d + a, n), count)
            for b in range(a + 1):
                omega[a * d + b] -= dot(z, line(Q, i * d + b, n))
    for a in range(d):
        for b in range(a):
            omega[b * d + a] = omega[a * d + b]


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
