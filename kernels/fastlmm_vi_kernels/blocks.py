"""Block elimination of the grouped model: its penalised normal equations, their determinant, solution and gradient.

The matrix of the equations, in the order (groups that are eliminated one by one; the tail: other groups, X, y), is

    [[ΛᵀZᵀZΛ + I, ΛᵀZᵀX, ΛᵀZᵀy], [·, XᵀX, Xᵀy], [·, ·, yᵀy]] = L Lᵀ,

of which only blocks that are not 0 are kept. Every leading group v has a panel: the entries of its d columns on itself
(d × d), on its neighbours (the groups of later factors that it occurs with) and on the q columns of X and y, row after row
in one stretch of memory. Zᵀ[Z X y], L and the inverse share that layout, which a `Pattern` describes.
"""

import math
from typing import NamedTuple

import numpy as np

from .dense import cholesky, invert, logs
from .jit import kernel


class Pattern(NamedTuple):
    """Where the blocks are. Factors are in order of elimination, those of the tail last; "row" counts scalars."""

    width: np.ndarray  # (F,) random effects of one group, d
    group: np.ndarray  # (F + 1,) first group of every factor
    effect: np.ndarray  # (F + 1,) first random effect of every factor: rows 0, 1, … of the matrix
    place: np.ndarray  # (F + 1,) where Λ_f (d × d) stands among all of them
    panel: np.ndarray  # (leading groups + 1,) where the panel of a group starts
    near: np.ndarray  # (leading groups + 1,) its first neighbour
    factor: np.ndarray  # (neighbours,) whose group it is,
    row: np.ndarray  # (neighbours,) and its first row
    tail_factor: np.ndarray  # (blocks, 2) factors of the blocks of ZᵀZ between groups of the tail, lower triangle,
    tail_row: np.ndarray  # (blocks, 2) their first rows,
    tail_block: np.ndarray  # (blocks,) and where each is found
    leading: int  # factors whose groups are eliminated one by one
    q: int  # columns of [X y]


class Products(NamedTuple):
    """The numbers of Zᵀ[Z X y] and [X y]ᵀ[X y]."""

    panels: np.ndarray  # of the leading groups
    tail: np.ndarray  # blocks between groups of the tail
    border: np.ndarray  # (random effects in the tail, q) those of Zᵀ[X y]
    corner: np.ndarray  # (q, q)


# One pass over the data.


@kernel
def pairs(first, second, n_first, n_second):
    """Which groups of two factors occur together: (pointers (n_first + 1,), sorted partners, the pair of every row)."""
    rows = first.size
    place = np.zeros(n_second + 1, np.intp)
    for i in range(rows):
        place[second[i] + 1] += 1
    for j in range(n_second):
        place[j + 1] += place[j]
    by_second = np.empty(rows, np.intp)
    for i in range(rows):
        by_second[place[second[i]]] = i
        place[second[i]] += 1
    start = np.zeros(n_first + 1, np.intp)
    for i in range(rows):
        start[first[i] + 1] += 1
    for j in range(n_first):
        start[j + 1] += start[j]
    order = np.empty(rows, np.intp)  # sorted by `first`, and by `second` within
    place = start[:-1].copy()
    for i in by_second:
        order[place[first[i]]] = i
        place[first[i]] += 1
    pointer, partner, pair = np.zeros(n_first + 1, np.intp), np.empty(rows, np.intp), np.empty(rows, np.intp)
    count = 0
    for j in range(n_first):
        last = -1
        for k in range(start[j], start[j + 1]):
            i = order[k]
            if second[i] != last:
                last = second[i]
                partner[count] = last
                count += 1
            pair[i] = count - 1
        pointer[j + 1] = count
    return pointer, partner[:count].copy(), pair


@kernel
def add_products(place, left, right, out):
    """out[place_i …] += left_i right_iᵀ for every row i of the data, left (N, a), right (N, b): a × b numbers each."""
    for i in range(place.size):
        at = place[i]
        for r in range(left.shape[1]):
            for c in range(right.shape[1]):
                out[at] += left[i, r] * right[i, c]
                at += 1


# At every Λ.


@kernel
def scale(block, at, lam, left, a, right, b, out, to):
    """Write out ← Λ_leftᵀ block Λ_right, block (a, b); both Λ lower triangular, `left` < 0 stands for I."""
    for r in range(a):
        for c in range(b):
            total = 0.0
            for k in range(c, b):
                total += block[at + r * b + k] * lam[right + k * b + c]
            out[to + r * b + c] = total
    if left >= 0:
        for r in range(a):  # row r needs rows from r on, not yet overwritten
            for c in range(b):
                total = 0.0
                for k in range(r, a):
                    total += lam[left + k * a + r] * out[to + k * b + c]
                out[to + r * b + c] = total


@kernel
def scale_own(block, at, lam, own, d, out, to):
    """The lower triangle of out ← I + Λᵀ block Λ, of the block (d, d) of a group on itself."""
    for r in range(d):
        for c in range(r + 1):
            total = 0.0
            for k in range(r, d):
                inner = 0.0
                for l in range(c, d):
                    inner += block[at + k * d + l] * lam[own + l * d + c]
                total += lam[own + k * d + r] * inner
            out[to + r * d + c] = total
        out[to + r * d + r] += 1.0


@kernel
def fill(pattern, products, lam, L, T):
    """Write the matrix of the equations at Λ: leading panels to L, the rest to the lower triangle of T."""
    width, group, effect, place = pattern.width, pattern.group, pattern.effect, pattern.place
    panel, near, factor, tail_factor = pattern.panel, pattern.near, pattern.factor, pattern.tail_factor
    tail_row, tail_block, leading = pattern.tail_row, pattern.tail_block, pattern.leading
    panels, tail, border, corner = products.panels, products.tail, products.border, products.corner
    q = pattern.q
    for f in range(leading):
        d, own = width[f], place[f]
        for v in range(group[f], group[f + 1]):
            at = panel[v]
            scale_own(panels, at, lam, own, d, L, at)
            at += d * d
            for e in range(near[v], near[v + 1]):
                a = width[factor[e]]
                scale(panels, at, lam, place[factor[e]], a, own, d, L, at)
                at += a * d
            scale(panels, at, lam, -1, q, own, d, L, at)
    for i in range(len(T)):
        for j in range(len(T)):
            T[i, j] = 0.0
    head = effect[leading]
    work = np.empty(place[-1])  # enough for any block
    for k in range(tail_block.size):
        left, right = tail_factor[k, 0], tail_factor[k, 1]
        a, b = width[left], width[right]
        scale(tail, tail_block[k], lam, place[left], a, place[right], b, work, 0)
        for r in range(a):
            for c in range(b):
                T[tail_row[k, 0] - head + r, tail_row[k, 1] - head + c] = work[r * b + c]
    m = len(T) - q
    for i in range(m):
        T[i, i] += 1.0
    for f in range(leading, width.size):
        d = width[f]
        for start in range(effect[f] - head, effect[f + 1] - head, d):
            for c in range(d):
                for k in range(c, d):
                    for r in range(q):
                        T[m + r, start + c] += border[start + k, r] * lam[place[f] + k * d + c]
    for r in range(q):
        for c in range(r + 1):
            T[m + r, m + c] = corner[r, c]


@kernel
def eliminate(pattern, L, T):
    """Factorise the leading panels in place and subtract what they explain from the rest; return their ½ log-determinant.

    NaN if a pivot is not positive.
    """
    width, group, effect, panel = pattern.width, pattern.group, pattern.effect, pattern.panel
    near, factor, row, leading = pattern.near, pattern.factor, pattern.row, pattern.leading
    q, m = pattern.q, len(T)
    head = effect[leading]
    index = np.empty(m, np.intp)
    half = 0.0
    pivots = 1.0  # a product, the logarithm of which is taken once it is large
    for f in range(leading):
        d = width[f]
        for v in range(group[f], group[f + 1]):
            at = panel[v]
            rows = (panel[v + 1] - at) // d
            if not factor_panel(L, at, d, rows):
                return math.nan
            for j in range(d):
                pivots *= L[at + j * d + j] ** 2
            if pivots > 1e100:
                half += 0.5 * math.log(pivots)
                pivots = 1.0
            i = d
            inside = 0  # rows of the panel whose partners are leading themselves
            for e in range(near[v], near[v + 1]):
                a = width[factor[e]]
                if factor[e] < leading:
                    update_ancestor(pattern, L, v, e, at + i * d, d)
                    inside = i + a - d
                else:
                    for r in range(a):
                        index[i - d + r] = row[e] - head + r
                i += a
            for r in range(q):
                index[i - d + r] = m - q + r
            for i in range(d + inside, rows):
                target = T[index[i - d]]
                for j in range(d + inside, i + 1):
                    total = 0.0
                    for k in range(d):
                        total += L[at + i * d + k] * L[at + j * d + k]
                    target[index[j - d]] -= total
    return half + 0.5 * math.log(pivots)


@kernel
def factor_panel(L, at, d, rows):
    """Cholesky of the first d rows of a panel; the rest times the inverse of its transpose. Whether pivots are positive."""
    for j in range(d):
        for i in range(j, rows):
            for k in range(j):
                L[at + i * d + j] -= L[at + i * d + k] * L[at + j * d + k]
        pivot = L[at + j * d + j]
        if not pivot > 0.0:
            return False
        pivot = 1.0 / math.sqrt(pivot)
        for i in range(j, rows):
            L[at + i * d + j] *= pivot
    return True


@kernel
def group_of(pattern, e):
    """The group that neighbour e is."""
    f = pattern.factor[e]
    return pattern.group[f] + (pattern.row[e] - pattern.effect[f]) // pattern.width[f]


@kernel
def update_ancestor(pattern, L, v, e, at, d):
    """Subtract from the panel of a leading neighbour e of v what v explains; `at`: the rows of v's panel from e on.

    Groups of v's factor are nested in it, so that it has all later neighbours of v among its own.
    """
    width, panel, near, factor = pattern.width, pattern.panel, pattern.near, pattern.factor
    row = pattern.row
    w, q = group_of(pattern, e), pattern.q
    b = width[factor[e]]
    to, e2, own = panel[w], e, near[w] - 1  # own: neighbour of w that e2 is; first w itself
    first = at
    while True:
        if e2 == near[v + 1]:
            size, to = q, panel[w + 1] - q * b
        else:
            size = width[factor[e2]]
        for r in range(size):
            for c in range(b):
                total = 0.0
                for k in range(d):
                    total += L[at + r * d + k] * L[first + c * d + k]
                L[to + r * b + c] -= total
        at += size * d
        if e2 == near[v + 1]:
            return
        e2 += 1
        if e2 == near[v + 1]:
            continue
        to += size * b
        own += 1
        while row[own] != row[e2]:
            to += width[factor[own]] * b
            own += 1


@kernel
def solve(pattern, L, T, x):
    """Write x ← (u, β) (random effects in units of σ Λ, fixed effects): back substitution from the last row of L Lᵀ."""
    q, m = pattern.q, len(T) - 1
    head = pattern.effect[pattern.leading]
    for i in range(m - 1, m - q, -1):
        total = T[m, i]
        for k in range(i + 1, m):
            total -= T[k, i] * x[head + k]
        x[head + i] = total / T[i, i]
    for i in range(head + m - q + 1):
        x[i] = 0.0
    back_substitute(pattern, L, T, x)


@kernel
def back_substitute(pattern, L, T, x):
    """Overwrite r in x = (r, β) by the random effects: L_uᵀ u = (y's row of L) + r − (those of X)ᵀ β."""
    width, group, effect, panel = pattern.width, pattern.group, pattern.effect, pattern.panel
    near, factor, row, leading = pattern.near, pattern.factor, pattern.row, pattern.leading
    q, m = pattern.q, len(T) - 1
    head = effect[leading]
    for i in range(m - q, -1, -1):
        total = T[m, i] + x[head + i]
        for k in range(i + 1, m):
            total -= T[k, i] * x[head + k]
        x[head + i] = total / T[i, i]
    for f in range(leading - 1, -1, -1):
        d = width[f]
        for v in range(group[f + 1] - 1, group[f] - 1, -1):
            at = panel[v]
            own = effect[f] + (v - group[f]) * d
            last = panel[v + 1] - d  # the row of y
            for j in range(d - 1, -1, -1):
                total = L[last + j] + x[own + j]
                i = at + d * d + j
                for e in range(near[v], near[v + 1]):
                    for r in range(width[factor[e]]):
                        total -= L[i] * x[row[e] + r]
                        i += d
                for r in range(q - 1):
                    total -= L[i] * x[head + m - q + 1 + r]
                    i += d
                for k in range(j + 1, d):
                    total -= L[at + k * d + j] * x[own + k]
                x[own + j] = total / L[at + j * d + j]


@kernel
def unexplained(pattern, products, lam, x, residual, c):
    """Write c ← [Z X y]ᵀ(y − ZΛu − Xβ), (random effects + q,), at x = (u, β); `residual` holds (−Λu, −β, 1) then."""
    width, effect, place = pattern.width, pattern.effect, pattern.place
    for f in range(width.size):
        d = width[f]
        for start in range(effect[f], effect[f + 1], d):
            for i in range(d):
                total = 0.0
                for k in range(i + 1):
                    total -= lam[place[f] + i * d + k] * x[start + k]
                residual[start + i] = total
    for i in range(effect[-1], x.size):
        residual[i] = -x[i]
    residual[x.size] = 1.0
    multiply(pattern, products, residual, c)


@kernel
def multiply(pattern, products, x, out):
    """Write out ← [Z X y]ᵀ[Z X y] x, both (random effects + q,)."""
    width, group, effect, panel = pattern.width, pattern.group, pattern.effect, pattern.panel
    near, factor, row = pattern.near, pattern.factor, pattern.row
    tail_factor, tail_row, tail_block = pattern.tail_factor, pattern.tail_row, pattern.tail_block
    panels, tail, border, corner = products.panels, products.tail, products.border, products.corner
    leading, q = pattern.leading, pattern.q
    head, effects = effect[leading], effect[-1]
    for i in range(head):
        out[i] = 0.0
    for r in range(q):
        out[effects + r] = 0.0
        for k in range(q):
            out[effects + r] += corner[r, k] * x[effects + k]
    for i in range(head, effects):
        out[i] = 0.0
        for r in range(q):
            out[i] += border[i - head, r] * x[effects + r]
            out[effects + r] += border[i - head, r] * x[i]
    for k in range(tail_block.size):
        i, j, at = tail_row[k, 0], tail_row[k, 1], tail_block[k]
        for r in range(width[tail_factor[k, 0]]):
            for s in range(width[tail_factor[k, 1]]):
                out[i + r] += tail[at] * x[j + s]
                if i != j:
                    out[j + s] += tail[at] * x[i + r]
                at += 1
    for f in range(leading):
        d = width[f]
        for v in range(group[f], group[f + 1]):
            own, at = effect[f] + (v - group[f]) * d, panel[v]
            for r in range(d):
                for k in range(d):
                    out[own + r] += panels[at] * x[own + k]
                    at += 1
            for e in range(near[v], near[v + 1]):
                for r in range(row[e], row[e] + width[factor[e]]):
                    for k in range(d):
                        out[own + k] += panels[at] * x[r]
                        out[r] += panels[at] * x[own + k]
                        at += 1
            for r in range(effects, effects + q):
                for k in range(d):
                    out[own + k] += panels[at] * x[r]
                    out[r] += panels[at] * x[own + k]
                    at += 1


@kernel
def selected_inverse(pattern, L, inverse, S):
    """S ← the panels of the inverse of the first rows of L Lᵀ, on the pattern of L (Takahashi's recursion).

    `inverse` is that of the tail, of as many rows as are wanted: its groups alone, or X with them. Rows of a panel beyond
    them are left as they are.
    """
    width, group, effect, panel = pattern.width, pattern.group, pattern.effect, pattern.panel
    near, factor, row, leading = pattern.near, pattern.factor, pattern.row, pattern.leading
    q = pattern.q
    head, k = effect[leading], len(inverse)
    most = 0
    for v in range(panel.size - 1):
        most = max(most, panel[v + 1] - panel[v])
    H, index, y = np.empty(most), np.empty(most, np.intp), np.empty(most)
    for f in range(leading - 1, -1, -1):
        d = width[f]
        for v in range(group[f + 1] - 1, group[f] - 1, -1):
            at = panel[v]
            rows, inside = 0, 0
            for e in range(near[v], near[v + 1]):
                for r in range(width[factor[e]]):
                    index[rows] = row[e] + r
                    rows += 1
                if factor[e] < leading:
                    inside = rows
            for r in range(effect[-1] - head, k):
                index[rows] = head + r
                rows += 1
            own = at + d * d
            for c in range(d - 1, -1, -1):  # H = (rows below) L_vv⁻¹
                pivot = 1.0 / L[at + c * d + c]
                for i in range(rows):
                    total = L[own + i * d + c]
                    for s in range(c + 1, d):
                        total -= H[i * d + s] * L[at + s * d + c]
                    H[i * d + c] = total * pivot
                    S[own + i * d + c] = 0.0
            for i in range(inside, rows):
                line = inverse[index[i] - head]
                for j in range(inside, i):
                    value = line[index[j] - head]
                    for c in range(d):
                        S[own + i * d + c] -= value * H[j * d + c]
                        S[own + j * d + c] -= value * H[i * d + c]
                for c in range(d):
                    S[own + i * d + c] -= line[index[i] - head] * H[i * d + c]
            e, i = near[v], 0
            while i < inside:  # rows that are leading groups: their inverse stands in their own panels
                b = width[factor[e]]
                w = group_of(pattern, e)
                for s in range(b):
                    for j in range(b):
                        value = S[panel[w] + s * b + j]
                        for c in range(d):
                            S[own + (i + s) * d + c] -= value * H[(i + j) * d + c]
                to, e2, j = panel[w] + b * b, near[w], i + b
                tail = panel[w + 1] - q * b
                while j < rows:
                    if index[j] >= effect[-1]:
                        to = tail + (index[j] - effect[-1]) * b
                    else:
                        while row[e2] + width[factor[e2]] <= index[j]:
                            to += width[factor[e2]] * b
                            e2 += 1
                    line = to if index[j] >= effect[-1] else to + (index[j] - row[e2]) * b
                    for s in range(b):
                        value = S[line + s]
                        for c in range(d):
                            S[own + (i + s) * d + c] -= value * H[j * d + c]
                            S[own + j * d + c] -= value * H[(i + s) * d + c]
                    j += 1
                i += b
                e += 1
            for i in range(d):  # (L_vv L_vvᵀ)⁻¹ + Hᵀ (inverse of the rows below) H
                for c in range(i + 1):
                    total = 0.0
                    for s in range(rows):
                        total -= H[s * d + i] * S[own + s * d + c]
                    S[at + i * d + c] = total
                    S[at + c * d + i] = total
            add_inverse(L, at, d, S, y)


@kernel
def add_inverse(L, at, d, S, y):
    """S_vv += L_vv⁻ᵀ L_vv⁻¹; y (d,) is overwritten."""
    for j in range(d):
        for i in range(d):
            total = 1.0 if i == j else 0.0
            for k in range(j, i):
                total -= L[at + i * d + k] * y[k]
            y[i] = total / L[at + i * d + i] if i >= j else 0.0
        for i in range(d - 1, -1, -1):
            total = y[i]
            for k in range(i + 1, d):
                total -= L[at + k * d + i] * y[k]
            y[i] = total / L[at + i * d + i]
            S[at + i * d + j] += y[i]


@kernel
def gradient(pattern, products, lam, x, c, inverse, S, of_logdet, of_squares):
    """Derivatives in every Λ_f (d × d): of the log-determinant, 2 Σ_v [Zᵀ(ZΛ, X) S]_vv, and of r², −2 Σ_v c_v u_vᵀ.

    S and `inverse` are the inverse of the system in (u) or (u, β): ML's, or REML's log-determinant.
    """
    width, group, effect, place = pattern.width, pattern.group, pattern.effect, pattern.place
    panel, near, factor, tail_factor = pattern.panel, pattern.near, pattern.factor, pattern.tail_factor
    tail_row, tail_block, leading = pattern.tail_row, pattern.tail_block, pattern.leading
    panels, tail, border = products.panels, products.tail, products.border
    head, effects, k = effect[leading], effect[-1], len(inverse)
    for i in range(of_logdet.size):
        of_logdet[i] = 0.0
        of_squares[i] = 0.0
    for f in range(width.size):
        d = width[f]
        for start in range(effect[f], effect[f + 1], d):
            for i in range(d):
                for j in range(d):
                    of_squares[place[f] + i * d + j] -= 2.0 * c[start + i] * x[start + j]
    for f in range(leading):
        d, own = width[f], place[f]
        for v in range(group[f], group[f + 1]):
            at = panel[v]
            add_trace(panels, at, lam, own, d, d, S, at, of_logdet, own, own, True)
            at += d * d
            for e in range(near[v], near[v + 1]):
                a, other = width[factor[e]], place[factor[e]]
                add_trace(panels, at, lam, other, a, d, S, at, of_logdet, own, other, False)
                at += a * d
            for _ in range(k - (effects - head)):
                for i in range(d):
                    for j in range(d):
                        of_logdet[own + i * d + j] += 2.0 * panels[at + i] * S[at + j]
                at += d
    work = np.empty(place[-1])
    for t in range(tail_block.size):
        left, right, i, j = tail_factor[t, 0], tail_factor[t, 1], tail_row[t, 0], tail_row[t, 1]
        a, b = width[left], width[right]
        for r in range(a):
            for s in range(b):
                work[r * b + s] = inverse[i - head + r, j - head + s]
        at, own, other = tail_block[t], place[right], place[left]
        add_trace(tail, at, lam, other, a, b, work, 0, of_logdet, own, other, i == j)
    for f in range(leading, width.size):
        d, own = width[f], place[f]
        for start in range(effect[f] - head, effect[f + 1] - head, d):
            for r in range(k - (effects - head)):
                for i in range(d):
                    for j in range(d):
                        value = inverse[effects - head + r, start + j]
                        of_logdet[own + i * d + j] += 2.0 * border[start + i, r] * value


@kernel
def add_trace(block, at, lam, left, a, b, S, to, out, right_out, left_out, same):
    """A block W (a, b) between groups of two factors: add 2 Wᵀ Λ_left S and, if they differ, 2 W Λ_right Sᵀ; S (a, b)."""
    for i in range(b):
        for j in range(b):
            total = 0.0
            for r in range(a):
                scaled = 0.0  # (Λ_left S)_rj
                for k in range(r + 1):
                    scaled += lam[left + r * a + k] * S[to + k * b + j]
                total += block[at + r * b + i] * scaled
            out[right_out + i * b + j] += 2.0 * total
    if same:
        return
    for i in range(a):
        for j in range(a):
            total = 0.0
            for r in range(b):
                scaled = 0.0  # (Λ_right Sᵀ)_rj
                for k in range(r + 1):
                    scaled += lam[right_out + r * b + k] * S[to + j * b + k]
                total += block[at + i * b + r] * scaled
            out[left_out + i * a + j] += 2.0 * total


@kernel
def evaluate(blocks, L, T, S, inverse, x, residual, c, of_logdet, of_squares, lam):
    """All of the above for a tail so small that no library is worth calling.

    `blocks` holds the fields of a `Pattern` and of `Products`: a plain tuple is handed over faster. Returns
    (log-determinant of the random effects, that of the effects of X, r²), or NaN where a pivot is not positive.
    """
    pattern, products = Pattern(*blocks[:13]), Products(*blocks[13:])
    fill(pattern, products, lam, L, T)
    half = eliminate(pattern, L, T)
    if half != half or cholesky(T) < len(T):
        return math.nan, math.nan, math.nan
    invert(T, inverse)
    solve(pattern, L, T, x)
    unexplained(pattern, products, lam, x, residual, c)
    selected_inverse(pattern, L, inverse, S)
    gradient(pattern, products, lam, x, c, inverse, S, of_logdet, of_squares)
    return logs(T, half, pattern.q)


@kernel
def forward(pattern, L, A):
    """Overwrite the leading rows of A (effects and β, m) by those of L⁻¹A, and take from the tail what they explain."""
    width, group, effect, panel = pattern.width, pattern.group, pattern.effect, pattern.panel
    near, factor, row, leading = pattern.near, pattern.factor, pattern.row, pattern.leading
    q, m = pattern.q, A.shape[1]
    for f in range(leading):
        d = width[f]
        for v in range(group[f], group[f + 1]):
            own, at = effect[f] + (v - group[f]) * d, panel[v]
            touched = False
            for i in range(d):
                for j in range(m):
                    touched |= A[own + i, j] != 0.0
            if not touched:
                continue
            for i in range(d):
                for j in range(m):
                    total = A[own + i, j]
                    for k in range(i):
                        total -= L[at + i * d + k] * A[own + k, j]
                    A[own + i, j] = total / L[at + i * d + i]
            at += d * d
            for e in range(near[v], near[v + 1]):
                for r in range(row[e], row[e] + width[factor[e]]):
                    for k in range(d):
                        for j in range(m):
                            A[r, j] -= L[at] * A[own + k, j]
                        at += 1
            for r in range(effect[-1], effect[-1] + q - 1):
                for k in range(d):
                    for j in range(m):
                        A[r, j] -= L[at] * A[own + k, j]
                    at += 1
