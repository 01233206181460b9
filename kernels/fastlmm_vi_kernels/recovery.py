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

from .blocks import add_inverse, back_substitute, eliminate, factor_panel, fill, selected_inverse, solve
from .covariance import relative, triangular, unpack
from .dense import cholesky, clear
from .jit import kernel
from .marginal import COMMON, common_of, dot, prior_of, section
from .marginal_blocks import pattern_of, products_of
from .tiles import SIDE, factor_lower, invert_leading, padded, subtract_tile, transpose

ABOVE, BASE, TO_BETA, R, C, WITHIN = range(COMMON + 16, COMMON + 22)  # sections


class Room(NamedTuple):
    """What is written at one φ."""

    log_sd: np.ndarray  # (effects,)
    sd: np.ndarray  # (effects,)
    root: np.ndarray  # (squares,) lower factors C of correlations; D C O/σ after `factor`
    turn: np.ndarray  # (squares,) O
    lam: np.ndarray  # (all entries of Λ,)
    L: np.ndarray  # leading panels of the factor
    T: np.ndarray  # (side + q, side + q) the rest of it, y at its end
    above: int  # rows, a multiple of 8, of leading effects in W: 0, or all where most groups meet
    W: np.ndarray  # (above + side, side) transposed leading panels on the rest, and the factor of that; side padded
    M: np.ndarray  # (side, side) inverse of the latter
    work: np.ndarray  # (2 · above + side, side)
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
def room_of(prior, common, products, effects, above):
    """Make room for one φ."""
    squares, m, q, size = prior.M.size, len(products.border) + common.q, common.q, prior.effect.size - 1
    side = padded(m)
    return Room(
        np.empty(size),
        np.empty(size),
        np.empty(squares),
        np.empty(squares),
        np.empty(common.place[-1]),
        np.empty(products.panels.size),
        np.zeros((m, m)),
        above,
        np.zeros((above + side) * side),
        np.empty(side * side),
        np.empty((2 * above + side) * side),
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
        if not (panels_together(pattern, room) if room.above > 0 else eliminate(pattern, room.L, room.T) > -math.inf):
            return math.nan
    for i in range(q):
        for j in range(i + 1):
            room.T[side + i, side + j] += unit * unit * common.P[i * q + j]
    return unit if factor_lower(room.T, room.W, room.above) else math.nan


@kernel
def panels_together(pattern, room):
    """Factorise the panels of one leading factor, and lay them as rows of W; return whether all pivots are positive."""
    panel, near, d, head, m = pattern.panel, pattern.near, pattern.width[0], pattern.effect[1], len(room.T)
    side = padded(m)
    clear(room.W, room.above * side)
    for v in range(pattern.group[1]):
        at = panel[v]
        if not factor_panel(room.L, at, d, (panel[v + 1] - at) // d):
            return False
        at += d * d
        for e in range(near[v], near[v + 1]):
            for r in range(pattern.row[e] - head, pattern.row[e] - head + pattern.width[pattern.factor[e]]):
                for c in range(d):
                    room.W[(v * d + c) * side + r] = room.L[at]
                    at += 1
        for r in range(m - pattern.q, m):
            for c in range(d):
                room.W[(v * d + c) * side + r] = room.L[at]
                at += 1
    return True


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
    room = room_of(prior, common, products, effects, section(header, header, ABOVE)[0])
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
    side, above = padded(len(room.T)), room.above
    invert_leading(room.W, above, side, room.M, room.work, room.inverse)
    if above > 0:
        invert_together(pattern, room)
    else:
        selected_inverse(pattern, room.L, room.inverse, room.S)


@kernel
def invert_together(pattern, room):
    """The panels of Kₓ⁻¹ from W = X over U: of a group and the rest −Z M, of itself L⁻ᵀL⁻¹ + Z Zᵀ, Z = L⁻ᵀX Mᵀ, M = U⁻ᵀ."""
    panel, near, d, head, m = pattern.panel, pattern.near, pattern.width[0], pattern.effect[1], len(room.T)
    side, above = padded(m), room.above
    W, M, y = room.W, room.M, np.empty(d)
    turned, X, Z = room.work, room.work[side * side :], room.work[(side + above) * side :]
    transpose(M, 0, side, side, turned)
    transpose(W, 0, above, side, X)
    clear(Z, above * side)
    for i in range(0, above, SIDE):
        for j in range(0, side, SIDE):
            subtract_tile(X, i, above, turned, j, side, j + SIDE, Z, i * side + j, side)
    for v in range(pattern.group[1]):
        at = panel[v]
        for j in range(d - 1, -1, -1):
            own, pivot = Z[(v * d + j) * side : (v * d + j + 1) * side], 1.0 / room.L[at + j * d + j]
            for k in range(j + 1, d):
                x, below = room.L[at + k * d + j], Z[(v * d + k) * side : (v * d + k + 1) * side]
                for r in range(own.size):
                    own[r] -= x * below[r]
            for r in range(own.size):
                own[r] *= pivot
    transpose(Z, 0, above, side, X)
    clear(W, above * side)
    for i in range(0, above, SIDE):
        for j in range(0, side, SIDE):
            subtract_tile(X, j * above + i, above, M, j * side + j, side, side - j, W, i * side + j, side)
    for v in range(pattern.group[1]):
        at = panel[v]
        for i in range(d):
            for j in range(d):
                first, second = (v * d + i) * side, (v * d + j) * side
                room.S[at + i * d + j] = dot(Z[first : first + side], Z[second : second + side])
        add_inverse(room.L, at, d, room.S, y)
        at += d * d
        for e in range(near[v], near[v + 1]):
            for r in range(pattern.row[e] - head, pattern.row[e] - head + pattern.width[pattern.factor[e]]):
                for c in range(d):
                    room.S[at] = -W[(v * d + c) * side + r]
                    at += 1
        for r in range(m - pattern.q, m - 1):
            for c in range(d):
                room.S[at] = -W[(v * d + c) * side + r]
                at += 1


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
    room = room_of(prior, common, products, effects, section(header, header, ABOVE)[0])
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
