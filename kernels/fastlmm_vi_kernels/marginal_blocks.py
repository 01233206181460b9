"""The log posterior density of variance parameters for any nested and crossed factors, by block elimination.

As `marginal`, with the panels of `blocks`. With u ~ N(0, I) in b = D C u, the slope in a term's C is C⁻ᵀ(B − J I), by
Fisher's identity, B = E[Σ_v u_v u_vᵀ | y] over its J levels: blocks of the inverse on the diagonal, and products of means.
"""

import math

import numpy as np
from numba import carray

from .blocks import Pattern, Products, add_inverse, eliminate, fill, selected_inverse, solve
from .covariance import by_terms, log_prior, relative, triangular, unpack
from .dense import copy
from .jit import Callback, kernel
from .marginal import COMMON, SIGNATURE, common_of, corner, prior_of, section
from .tiles import factor_lower, invert_leading, padded


@kernel
def pattern_of(header):
    """The pattern in a block."""
    numbers, pairs = section(header, header, COMMON), section(header, header, COMMON + 9).size // 2
    return Pattern(
        section(header, header, COMMON + 1),
        section(header, header, COMMON + 2),
        section(header, header, COMMON + 3),
        section(header, header, COMMON + 4),
        section(header, header, COMMON + 5),
        section(header, header, COMMON + 6),
        section(header, header, COMMON + 7),
        section(header, header, COMMON + 8),
        section(header, header, COMMON + 9).reshape((pairs, 2)),
        section(header, header, COMMON + 10).reshape((pairs, 2)),
        section(header, header, COMMON + 11),
        numbers[0],
        numbers[1],
    )


@kernel
def products_of(block, header):
    """The products in a block."""
    q = section(header, header, COMMON)[1]
    border = section(block, header, COMMON + 14)
    return Products(
        section(block, header, COMMON + 12),
        section(block, header, COMMON + 13),
        border.reshape((border.size // q, q)),
        section(block, header, COMMON + 15).reshape((q, q)),
    )


@kernel
def by_blocks(block, phi, gradient):
    """Log density and its gradient; −∞ where a pivot is not positive."""
    header = block.view(np.int64)
    prior, common = prior_of(block, header), common_of(block, header)
    pattern, products = pattern_of(header), products_of(block, header)
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
    padded_side = padded(m)
    square = padded_side * padded_side
    room = np.empty(3 * square)
    if half != half or not factor_lower(T, room, 0):
        return -math.inf
    for i in range(side):
        half += math.log(T[i, i])
    A = np.empty((q, q))
    value, of_sigma = corner(T, side, common, unit, A)
    S, inverse, x = np.zeros(products.panels.size), np.empty((m - 1, m - 1)), np.empty(pattern.effect[-1] + q - 1)
    invert_leading(room, 0, padded_side, room[square:], room[2 * square :], inverse)
    solve(pattern, L, T, x)
    if pattern.leading == 1:
        leading_inverses(pattern, L, inverse, B)
    else:
        selected_inverse(pattern, L, inverse, S)
    moments(pattern, S, inverse, x, unit, B)
    by_terms(prior, 0, B, common.place, root, turn, E)
    value += log_prior(prior, phi, log_sd, sd, root, E, of_sigma, gradient) - half
    return value if value > -math.inf else -math.inf


@kernel
def leading_inverses(pattern, L, inverse, B):
    """B += Σ_v (K⁻¹)_vv of the one factor that leads, whose groups have neighbours in the tail alone: no panel is kept."""
    d, head, near, panel = pattern.width[0], pattern.effect[1], pattern.near, pattern.panel
    beta, q = pattern.effect[-1] - head, pattern.q
    most = 0
    for v in range(panel.size - 1):
        most = max(most, (panel[v + 1] - panel[v]) // d)
    H, index, own, y = np.empty(most * d), np.empty(most, np.intp), np.empty(d * d), np.empty(d)
    column, factor = np.empty(d), np.empty(d * d)
    for v in range(panel.size - 1):
        at, rows = panel[v], 0
        for e in range(near[v], near[v + 1]):
            for r in range(pattern.width[pattern.factor[e]]):
                index[rows] = pattern.row[e] - head + r
                rows += 1
        for r in range(q - 1):
            index[rows] = beta + r
            rows += 1
        below = at + d * d
        for c in range(d - 1, -1, -1):  # H = (rows below) L_vv⁻¹, column by column
            pivot = 1.0 / L[at + c * d + c]
            for i in range(rows):
                total = L[below + i * d + c]
                for s in range(c + 1, d):
                    total -= H[s * most + i] * L[at + s * d + c]
                H[c * most + i] = total * pivot
        for c in range(d * d):
            own[c] = 0.0
        for i in range(rows):
            line = inverse[index[i]]
            for c in range(d):
                total, h = 0.5 * line[index[i]] * H[c * most + i], H[c * most : c * most + i]
                for j in range(i):
                    total += line[index[j]] * h[j]
                column[c] = total
            for a in range(d):
                for b in range(d):
                    own[a * d + b] += H[a * most + i] * column[b] + column[a] * H[b * most + i]
        copy(factor, L[at : at + d * d])
        add_inverse(factor, 0, d, own, y)
        for c in range(d * d):
            B[pattern.place[0] + c] += own[c]


@kernel
def moments(pattern, S, inverse, x, unit, B):
    """B += Σ_v E[u_v u_vᵀ | y] of every factor, from the inverse of the equations and the means x.

    Of a factor that leads alone the means only.
    """
    width, group, effect, place = pattern.width, pattern.group, pattern.effect, pattern.place
    head = effect[pattern.leading]
    for f in range(width.size):
        d, at = width[f], place[f]
        for v in range(group[f + 1] - group[f]):
            own = effect[f] + v * d
            for i in range(d):
                for j in range(d):
                    B[at + i * d + j] += x[own + i] * x[own + j] / unit**2
                    if f < pattern.leading and pattern.leading > 1:
                        B[at + i * d + j] += S[pattern.panel[group[f] + v] + i * d + j]
                    elif f >= pattern.leading:
                        B[at + i * d + j] += inverse[own - head + i, own - head + j]


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
