"""The log posterior density of variance parameters for any nested and crossed factors, by block elimination.

As `marginal`, with the panels of `blocks`. With u ~ N(0, I) in b = D C u, the slope in a term's C is C⁻ᵀ(B − J I), by
Fisher's identity, B = E[Σ_v u_v u_vᵀ | y] over its J levels: blocks of the inverse on the diagonal, and products of means.
"""

import math

import numpy as np
from numba import carray

from .blocks import Pattern, Products, eliminate, fill, selected_inverse, solve
from .covariance import log_prior, relative, unpack
from .dense import cholesky, invert
from .jit import Callback, kernel
from .marginal import COMMON, SIGNATURE, common_of, corner, prior_of, real, whole


@kernel
def pattern_of(block):
    """The pattern in a block."""
    numbers, pairs = whole(block, COMMON), whole(block, COMMON + 9).size // 2
    return Pattern(
        whole(block, COMMON + 1),
        whole(block, COMMON + 2),
        whole(block, COMMON + 3),
        whole(block, COMMON + 4),
        whole(block, COMMON + 5),
        whole(block, COMMON + 6),
        whole(block, COMMON + 7),
        whole(block, COMMON + 8),
        whole(block, COMMON + 9).reshape((pairs, 2)),
        whole(block, COMMON + 10).reshape((pairs, 2)),
        whole(block, COMMON + 11),
        numbers[0],
        numbers[1],
    )


@kernel
def products_of(block):
    """The products in a block."""
    q = whole(block, COMMON)[1]
    border = real(block, COMMON + 14)
    return Products(
        real(block, COMMON + 12),
        real(block, COMMON + 13),
        border.reshape((border.size // q, q)),
        real(block, COMMON + 15).reshape((q, q)),
    )


@kernel
def by_blocks(block, phi, gradient):
    """Log density and its gradient; −∞ where a pivot is not positive."""
    prior, common = prior_of(block), common_of(block)
    pattern, products = pattern_of(block), products_of(block)
    q, effects, squares = common.q, prior.effect.size - 1, prior.M.size
    log_sd, sd, root, E = np.empty(effects), np.empty(effects), np.empty(squares), np.empty(squares)
    turn, lam, B = np.empty(squares), np.empty(common.place[-1]), np.zeros(common.place[-1])

    log_sigma = unpack(prior, phi, log_sd, sd, root)
    sigma = math.exp(log_sigma)
    relative(prior, sd, root, sigma, lam, common.place)
    triangular(prior, lam, common.place, turn)
    unit = sigma / prior.unit
    side = len(products.border)
    m = side + q
    L, T = np.empty(products.panels.size), np.empty((m, m))
    fill(pattern, products, lam, L, T)
    for i in range(q):
        for j in range(i + 1):
            T[side + i, side + j] += unit * unit * common.P[i * q + j]
    half = eliminate(pattern, L, T)
    if half != half or cholesky(T) < m:
        return -math.inf
    for i in range(side):
        half += math.log(T[i, i])
    A = np.empty((q, q))
    value, of_sigma = corner(T, side, common, unit, A)
    S, inverse, x = np.zeros(products.panels.size), np.empty((m - 1, m - 1)), np.empty(pattern.effect[-1] + q - 1)
    invert(T, inverse)
    solve(pattern, L, T, x)
    selected_inverse(pattern, L, inverse, S)
    moments(pattern, S, inverse, x, unit, B)
    by_terms(prior, B, common.place, root, turn, E)
    value += log_prior(prior, phi, log_sd, sd, root, E, of_sigma, gradient) - half
    return value if value > -math.inf else -math.inf


@kernel
def triangular(prior, lam, place, turn):
    """Λ ← Λ O of every term, lower triangular, O orthogonal, by rotations of columns; `turn` ← O."""
    square = 0
    for k in range(prior.term.size // 5):
        d, f, start, width = prior.term[5 * k], prior.term[5 * k + 1], prior.term[5 * k + 2], prior.term[5 * k + 3]
        first = place[f] + start * width + start
        for i in range(d):
            for j in range(d):
                turn[square + i * d + j] = 1.0 if i == j else 0.0
        for i in range(d):
            for j in range(i + 1, d):
                a, b = lam[first + i * width + i], lam[first + i * width + j]
                if b == 0.0:
                    continue
                size = math.hypot(a, b)
                c, s = a / size, b / size
                for l in range(d):
                    at = first + l * width
                    one, two = lam[at + i], lam[at + j]
                    lam[at + i], lam[at + j] = c * one + s * two, c * two - s * one
                    at = square + l * d
                    one, two = turn[at + i], turn[at + j]
                    turn[at + i], turn[at + j] = c * one + s * two, c * two - s * one
                lam[first + i * width + j] = 0.0
        square += d * d


@kernel
def moments(pattern, S, inverse, x, unit, B):
    """B += Σ_v E[u_v u_vᵀ | y] of every factor, from the inverse of the equations and the means x."""
    width, group, effect, place = pattern.width, pattern.group, pattern.effect, pattern.place
    head = effect[pattern.leading]
    for f in range(width.size):
        d, at = width[f], place[f]
        for v in range(group[f + 1] - group[f]):
            own = effect[f] + v * d
            for i in range(d):
                for j in range(d):
                    B[at + i * d + j] += x[own + i] * x[own + j] / unit**2
                    if f < pattern.leading:
                        B[at + i * d + j] += S[pattern.panel[group[f] + v] + i * d + j]
                    else:
                        B[at + i * d + j] += inverse[own - head + i, own - head + j]


@kernel
def by_terms(prior, B, place, root, turn, E):
    """E ← C⁻ᵀ(O B Oᵀ − J I) of every term."""
    square = 0
    for k in range(prior.term.size // 5):
        d, f, start, width = prior.term[5 * k], prior.term[5 * k + 1], prior.term[5 * k + 2], prior.term[5 * k + 3]
        first = place[f] + start * width + start
        for i in range(d - 1, -1, -1):
            for j in range(d):
                total = 0.0
                for l in range(d):
                    for m in range(d):
                        total += turn[square + i * d + l] * B[first + l * width + m] * turn[square + j * d + m]
                if i == j:
                    total -= prior.groups[k]
                for l in range(i + 1, d):
                    total -= root[square + l * d + i] * E[square + l * d + j]
                E[square + i * d + j] = total / root[square + i * d + i]
        square += d * d


@kernel
def by_blocks_many(block, phis, values):
    """Log densities at rows of φ."""
    gradient = np.empty(phis.shape[1])
    for i in range(len(phis)):
        values[i] = by_blocks(block, phis[i], gradient)


def _by_blocks(dim, phi, gradient, value, data):
    """0, or 1 where the density is 0; log density and gradient are written."""
    size = carray(data, 1, np.int64)[0]
    found = by_blocks(carray(data, size, np.float64), carray(phi, dim), carray(gradient, dim))
    carray(value, 1)[0] = found
    return 0 if found > -math.inf else 1


BY_BLOCKS = Callback(SIGNATURE, _by_blocks)
