"""Fixed and random effects, and linear predictors, given the variance parameters φ and y: moments and draws.

Data stand in one block of memory, as those of `marginal_blocks`, followed by the map of β and, of a single factor, by its
groups reduced (`one_way`). At every φ the mixed-model equations in (u, β) are factorised, L Lᵀ = Kₓ, on the pattern of
`blocks`; u and β are normal with covariance σ² Kₓ⁻¹, of which every block on the pattern is in the selected inverse: those of
groups on themselves, and of all that a row of the data is a combination of. b = (D C O/σ) u, O the rotation that makes Λ
triangular.
"""

import math
from typing import NamedTuple

import numpy as np

from .blocks import back_substitute, eliminate, fill, selected_inverse, solve
from .covariance import relative, triangular, unpack
from .dense import cholesky
from .jit import kernel
from .marginal import COMMON, common_of, prior_of, section
from .marginal_blocks import pattern_of, products_of
from .tiles import factor_lower, invert_leading, padded

BASE, TO_BETA, R, C, WITHIN = range(COMMON + 16, COMMON + 21)  # sections


class Room(NamedTuple):
    """What is written at one φ."""

    log_sd: np.ndarray  # (effects,)
    sd: np.ndarray  # (effects,)
    root: np.ndarray  # (squares,) lower factors C of correlations; D C O/σ after `factor`
    turn: np.ndarray  # (squares,) O
    lam: np.ndarray  # (all entries of Λ,)
    L: np.ndarray  # leading panels of the factor
    T: np.ndarray  # (side + q, side + q) the rest of it, y at its end
    tiles: np.ndarray  # (3 · padded side²,)
    S: np.ndarray  # leading panels of Kₓ⁻¹
    inverse: np.ndarray  # (side + p, side + p) the rest of it
    x: np.ndarray  # (random effects + p,) u and β


class Rows(NamedTuple):
    """Rows of the data as combinations of the effects; F factors in order of elimination."""

    values: np.ndarray  # (N, columns + p) bases of all factors, and X, in the coordinates of the equations
    effect: np.ndarray  # (N, F) first random effect of its group
    panel: np.ndarray  # (N, F) where covariances of its group with β start, of leading factors
    block: np.ndarray  # (N, F, F) block of Kₓ⁻¹ between its groups of a leading factor and of a later one


@kernel
def room_of(prior, common, products, effects):
    """Make room for one φ."""
    squares, side, q = prior.M.size, len(products.border), common.q
    m, padded_side, size = side + q, padded(side + q), prior.effect.size - 1
    return Room(
        np.empty(size),
        np.empty(size),
        np.empty(squares),
        np.empty(squares),
        np.empty(common.place[-1]),
        np.empty(products.panels.size),
        np.zeros((m, m)),
        np.empty(3 * padded_side * padded_side),
        np.zeros(products.panels.size),
        np.empty((m - 1, m - 1)),
        np.empty(effects + q - 1),
    )


@kernel
def factor(block, phi, prior, common, pattern, products, room):
    """Factorise the equations at φ; return σ in units of y in the products, NaN where a pivot is not positive."""
    header = block.view(np.int64)
    sigma = math.exp(unpack(prior, phi, room.log_sd, room.sd, room.root))
    relative(prior, room.sd, room.root, sigma, room.lam, common.place)
    triangular(prior, room.lam, common.place, room.turn)
    unit = sigma / prior.unit
    to_effects(prior, room.sd, room.turn, unit, room.root)
    q, side = common.q, len(products.border)
    half = 0.0
    if section(block, header, WITHIN).size > 0:
        panels_of_reduced(
            pattern,
            section(block, header, R),
            section(block, header, C),
            section(block, header, WITHIN),
            room.lam,
            room.L,
            room.T,
        )
    else:
        fill(pattern, products, room.lam, room.L, room.T)
        half = eliminate(pattern, room.L, room.T)
    for i in range(q):
        for j in range(i + 1):
            room.T[side + i, side + j] += unit * unit * common.P[i * q + j]
    if half != half or not factor_lower(room.T, room.tiles):
        return math.nan
    return unit


@kernel
def to_effects(prior, sd, turn, unit, root):
    """Overwrite the C of every term by D C O/σ, which makes b of u."""
    e, square, most = 0, 0, 0
    for k in range(prior.term.size // 5):
        most = max(most, prior.term[5 * k])
    line = np.empty(most)
    for k in range(prior.term.size // 5):
        d = prior.term[5 * k]
        for i in range(d):
            own = square + i * d
            for j in range(d):
                line[j] = root[own + j]
            for j in range(d):
                total = 0.0
                for l in range(i + 1):
                    total += line[l] * turn[square + l * d + j]
                root[own + j] = sd[e + i] * total / unit
        e += d
        square += d * d


@kernel
def panels_of_reduced(pattern, R, C, within, lam, L, T):
    """Panels of the groups of one factor, and T less its prior, from their d rows R_v, C_v: sums of positive terms."""
    d, q = pattern.width[0], pattern.q
    G, V, K, H = np.empty((d, d)), np.empty((d, d)), np.empty((d, d)), np.empty((d, q))
    for i in range(q):
        for j in range(i + 1):
            T[i, j] = within[i * q + j]
    for v in range(pattern.group[1]):
        at = pattern.panel[v]
        for i in range(d):
            for j in range(d):
                total = 0.0
                for k in range(max(i, j), d):
                    total += R[(v * d + i) * d + k] * lam[k * d + j]
                G[i, j] = total
        for i in range(d):
            for j in range(i + 1):
                V[i, j] = K[i, j] = 1.0 if i == j else 0.0
                for k in range(d):
                    V[i, j] += G[i, k] * G[j, k]
                    K[i, j] += G[k, i] * G[k, j]
        cholesky(V)
        cholesky(K)
        for i in range(d):
            for j in range(d):
                L[at] = K[i, j]
                at += 1
            for j in range(q):
                total = C[(v * d + i) * q + j]
                for k in range(i):
                    total -= V[i, k] * H[k, j]
                H[i, j] = total / V[i, i]
        for i in range(q):
            for j in range(i + 1):
                for k in range(d):
                    T[i, j] += H[k, i] * H[k, j]
            for j in range(d):
                total = 0.0
                for k in range(d):
                    total += C[(v * d + k) * q + i] * G[k, j]
                for k in range(j):
                    total -= L[at + k] * K[j, k]
                L[at + j] = total / K[j, j]
            at += d


@kernel
def recover(block, phis, noise, fixed, covariances, means, sds, draws):
    """At rows of φ: moments of β and of b (m, effects), standard numbers `noise` (m, p + effects) made draws of (β, b).

    Arrays without rows are not asked for. b stands term by term as in the formula, level by level. Return how many rows were
    done: fewer than all where a pivot is not positive.
    """
    header = block.view(np.int64)
    prior, common = prior_of(block, header), common_of(block, header)
    pattern, products = pattern_of(header), products_of(block, header)
    base, to_beta = section(block, header, BASE), section(block, header, TO_BETA)
    p, effects = common.q - 1, pattern.effect[-1]
    room = room_of(prior, common, products, effects)
    half = np.empty((p, p))
    for i in range(len(phis)):
        unit = factor(block, phis[i], prior, common, pattern, products, room)
        if unit != unit:
            return i
        solve(pattern, room.L, room.T, room.x)
        if len(fixed) > 0:
            beta(base, to_beta, room.x[effects:], fixed[i])
            covariance_of_beta(to_beta, room.T, unit, half, covariances[i])
        if len(means) > 0:
            invert(pattern, room)
            random_means(prior, pattern, room, means[i])
            random_sds(prior, pattern, room, unit, sds[i])
        if len(draws) > 0:
            substitute(pattern, room.L, room.T, unit, noise[i], room.x)
            beta(base, to_beta, room.x[effects:], draws[i, :p])
            random_means(prior, pattern, room, draws[i, p:])
    return len(phis)


@kernel
def invert(pattern, room):
    """Write Kₓ⁻¹ on the pattern."""
    side = padded(len(room.T))
    square = side * side
    invert_leading(room.tiles, side, room.tiles[square:], room.tiles[2 * square :], room.inverse)
    selected_inverse(pattern, room.L, room.inverse, room.S)


@kernel
def beta(base, to_beta, delta, out):
    """Write out ← base + to_beta δ."""
    p = base.size
    for j in range(p):
        total = base[j]
        for k in range(p):
            total += to_beta[j * p + k] * delta[k]
        out[j] = total


@kernel
def covariance_of_beta(to_beta, T, unit, half, out):
    """Write out ← σ² B (Lₓ Lₓᵀ)⁻¹ Bᵀ; row j of `half` is L⁻¹ of row j of B."""
    p = len(half)
    first = len(T) - 1 - p
    for j in range(p):
        for i in range(p):
            total = to_beta[j * p + i]
            for k in range(i):
                total -= T[first + i, first + k] * half[j, k]
            half[j, i] = total / T[first + i, first + i]
    for i in range(p):
        for j in range(i + 1):
            total = 0.0
            for k in range(p):
                total += half[i, k] * half[j, k]
            out[i, j] = out[j, i] = unit * unit * total


@kernel
def substitute(pattern, L, T, unit, noise, x):
    """Write x ← (u, β) with Lᵀx = (y's row of L) + σ · noise, which has that of β first."""
    p, m, effects = pattern.q - 1, len(T) - 1, pattern.effect[-1]
    for i in range(p - 1, -1, -1):
        row = m - p + i
        total = T[m, row] + unit * noise[i]
        for k in range(i + 1, p):
            total -= T[m - p + k, row] * x[effects + k]
        x[effects + i] = total / T[row, row]
    for i in range(effects):
        x[i] = unit * noise[p + i]
    back_substitute(pattern, L, T, x)


@kernel
def random_means(prior, pattern, room, out):
    """Write out ← b of u in `room.x`."""
    at, square = 0, 0
    for k in range(prior.term.size // 5):
        d, f, start, width = prior.term[5 * k], prior.term[5 * k + 1], prior.term[5 * k + 2], prior.term[5 * k + 3]
        for own in range(pattern.effect[f] + start, pattern.effect[f + 1], width):
            for i in range(d):
                total = 0.0
                for j in range(d):
                    total += room.root[square + i * d + j] * room.x[own + j]
                out[at] = total
                at += 1
        square += d * d


@kernel
def random_sds(prior, pattern, room, unit, out):
    """Write out ← standard deviations of b."""
    leading = pattern.leading
    head = pattern.effect[leading]
    at, square = 0, 0
    for k in range(prior.term.size // 5):
        d, f, start, width = prior.term[5 * k], prior.term[5 * k + 1], prior.term[5 * k + 2], prior.term[5 * k + 3]
        for v in range(pattern.group[f + 1] - pattern.group[f]):
            own = pattern.effect[f] + v * width + start
            panel = pattern.panel[pattern.group[f] + v] if f < leading else 0
            for i in range(d):
                total = 0.0
                for j in range(d):
                    inner = 0.0
                    for l in range(d):
                        if f < leading:
                            value = room.S[panel + (start + j) * width + start + l]
                        else:
                            value = room.inverse[own - head + j, own - head + l]
                        inner += value * room.root[square + i * d + l]
                    total += room.root[square + i * d + j] * inner
                out[at] = unit * math.sqrt(max(total, 0.0))
                at += 1
        square += d * d


@kernel
def predict(block, rows, phis, means, variances):
    """At rows of φ: means and variances (m, N) of rows of the data; return how many rows of φ were done, as `recover`."""
    header = block.view(np.int64)
    prior, common = prior_of(block, header), common_of(block, header)
    pattern, products = pattern_of(header), products_of(block, header)
    effects = pattern.effect[-1]
    room = room_of(prior, common, products, effects)
    values = np.empty(rows.values.shape[1])
    for i in range(len(phis)):
        unit = factor(block, phis[i], prior, common, pattern, products, room)
        if unit != unit:
            return i
        solve(pattern, room.L, room.T, room.x)
        invert(pattern, room)
        for r in range(len(rows.values)):
            in_units_of_u(pattern, room.lam, rows.values[r], values)
            means[i, r] = combined(pattern, rows.effect[r], values, room.x)
            variances[i, r] = unit * unit * quadratic(pattern, rows, r, values, room)
    return len(phis)


@kernel
def in_units_of_u(pattern, lam, row, out):
    """Write out ← (Λᵀ row of every factor, row of X)."""
    start = 0
    for f in range(pattern.width.size):
        d, own = pattern.width[f], pattern.place[f]
        for j in range(d):
            total = 0.0
            for k in range(j, d):
                total += lam[own + k * d + j] * row[start + k]
            out[start + j] = total
        start += d
    for j in range(start, out.size):
        out[j] = row[j]


@kernel
def combined(pattern, effect, a, x):
    """Sum of a times the u of its groups, and β."""
    total, start = 0.0, 0
    for f in range(pattern.width.size):
        for j in range(pattern.width[f]):
            total += a[start + j] * x[effect[f] + j]
        start += pattern.width[f]
    for j in range(start, a.size):
        total += a[j] * x[pattern.effect[-1] + j - start]
    return total


@kernel
def quadratic(pattern, rows, r, a, room):
    """Sum over a aᵀ times the blocks of Kₓ⁻¹ of row r: those of leading groups stand in their panels."""
    width, leading, p = pattern.width, pattern.leading, pattern.q - 1
    head, side = pattern.effect[leading], pattern.effect[-1] - pattern.effect[leading]
    effect, panel, block = rows.effect[r], rows.panel[r], rows.block[r]
    first_x = a.size - p
    total, start = 0.0, 0
    for f in range(width.size):
        d = width[f]
        other = start
        for g in range(f, width.size):
            inner = 0.0
            for i in range(width[g]):
                for j in range(d):
                    if f < leading:
                        value = room.S[block[f, g] + i * d + j]
                    else:
                        value = room.inverse[effect[g] - head + i, effect[f] - head + j]
                    inner += a[other + i] * a[start + j] * value
            total += inner if f == g else 2.0 * inner
            other += width[g]
        for i in range(p):
            for j in range(d):
                value = room.S[panel[f] + i * d + j] if f < leading else room.inverse[side + i, effect[f] - head + j]
                total += 2.0 * a[first_x + i] * a[start + j] * value
        start += d
    for i in range(p):
        for j in range(p):
            total += a[first_x + i] * a[first_x + j] * room.inverse[side + i, side + j]
    return total
