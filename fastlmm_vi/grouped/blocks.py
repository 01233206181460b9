"""Where the blocks of Zᵀ[Z X y] stand, and the sums over the data in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from fastlmm_vi_kernels import blocks as kernels
from fastlmm_vi_kernels.blocks import Pattern, Products
from numpy.typing import NDArray

from ..result import Array
from .model_frame import Factor

Indices = NDArray[np.intp]
Pairs = tuple[Indices, Indices, Indices]  # pointers, partners, the pair of every row of the data: kernels.pairs


@dataclass(frozen=True, eq=False)
class Group:
    """A grouping factor with all its terms, which share one block of d random effects a level."""

    factor: Factor
    terms: tuple[int, ...]  # places among the terms of the formula
    basis: Array  # (N, d), standardised

    @property
    def d(self) -> int:
        """Random effects of one level."""
        return int(self.basis.shape[1])

    @property
    def levels(self) -> int:
        """Levels of the factor."""
        return len(self.factor.levels)


def order(groups: Sequence[Group]) -> tuple[tuple[Group, ...], int]:
    """Return the groups in order of elimination, and how many of them are eliminated level by level.

    The levels of a factor are independent of each other given all other random effects, and stay so when factors nested in
    it have been eliminated. So a chain of factors, each nested in the next, can go level by level: of all chains the one
    with most random effects does. The rest, crossed with some of them, is solved for together.
    """
    by_levels = sorted(groups, key=lambda group: -group.levels)
    chains: list[tuple[Group, ...]] = []  # the heaviest that ends at each
    for g, group in enumerate(by_levels):
        below = [chain for chain, other in zip(chains, by_levels[:g], strict=True) if nested(other, group)]
        chains.append((*max(below, key=_effects, default=()), group))
    leading = max(chains, key=_effects, default=())
    return (*leading, *(group for group in by_levels if group not in leading)), len(leading)


def _effects(groups: Sequence[Group]) -> int:
    """Random effects of all of them."""
    return sum(group.levels * group.d for group in groups)


def nested(f: Group, g: Group) -> bool:
    """Whether every level of f occurs with one level of g only."""
    partner = np.empty(f.levels, np.intp)
    partner[f.factor.codes] = g.factor.codes
    return bool((partner[f.factor.codes] == g.factor.codes).all())


def together(f: Group, g: Group) -> Pairs:
    """Which levels of two factors occur together."""
    return kernels.pairs(f.factor.codes, g.factor.codes, f.levels, g.levels)


def sums(groups: Sequence[Group], leading: int, border: Array) -> tuple[Pattern, Products]:
    """Add up the products of all rows of the data; `border` is [X y], (N, q)."""
    layout = _Layout(groups, leading, border.shape[1])
    panels = np.zeros(layout.panel[-1])
    for f in range(leading):
        _add_panels(layout, f, border, panels)
    factors, rows, places, tail = _tail(layout)
    head, side = layout.effect[leading], layout.effect[-1] - layout.effect[leading]
    borders = np.zeros(side * layout.q)
    for g in range(leading, len(groups)):
        group = groups[g]
        start = (layout.effect[g] - head + group.factor.codes * group.d) * layout.q
        kernels.add_products(start, group.basis, border, borders)
    pattern = Pattern(
        layout.width,
        layout.group,
        layout.effect,
        _ends(layout.width**2),
        layout.panel,
        layout.near,
        layout.factor,
        layout.row,
        factors,
        rows,
        places,
        leading,
        layout.q,
    )
    return pattern, Products(panels, tail, borders.reshape(side, layout.q), border.T @ border)


class _Layout:
    """Places of the leading panels and of their neighbours."""

    def __init__(self, groups: Sequence[Group], leading: int, q: int) -> None:
        self.groups, self.leading, self.q = groups, leading, q
        levels = np.array([group.levels for group in groups], np.intp)
        self.width = np.array([group.d for group in groups], np.intp)
        self.group, self.effect = _ends(levels), _ends(levels * self.width)
        self.pairs: Mapping[tuple[int, int], Pairs] = {
            (f, g): together(groups[f], groups[g]) for f in range(len(groups)) for g in range(f + 1, len(groups))
        }
        neighbours, sizes = [np.zeros(0, np.intp)], [np.zeros(0, np.intp)]
        for f in range(leading):
            counts = np.zeros((levels[f], len(groups)), np.intp)
            for g in range(f + 1, len(groups)):
                counts[:, g] = np.diff(self.pairs[f, g][0])
            neighbours.append(counts.sum(axis=1))
            sizes.append((counts @ self.width + self.width[f] + q) * self.width[f])
        self.near, self.panel = _ends(np.concatenate(neighbours)), _ends(np.concatenate(sizes))
        self.factor, self.row = np.empty(self.near[-1], np.intp), np.empty(self.near[-1], np.intp)


def _add_panels(layout: _Layout, f: int, border: Array, panels: Array) -> None:
    """Sums of one leading factor: on itself, on its neighbours factor by factor, on [X y]; and who the neighbours are."""
    group, d = layout.groups[f], layout.width[f]
    codes, here = group.factor.codes, slice(layout.group[f], layout.group[f + 1])
    at, slot = layout.panel[here].copy(), layout.near[here].copy()
    kernels.add_products(at[codes], group.basis, group.basis, panels)
    at += d * d
    for g in range(f + 1, len(layout.groups)):
        other, a = layout.groups[g], layout.width[g]
        pointer, partner, pair = layout.pairs[f, g]
        count = np.diff(pointer)
        owner = np.repeat(np.arange(group.levels), count)
        within = np.arange(partner.size) - pointer[owner]
        layout.factor[slot[owner] + within] = g
        layout.row[slot[owner] + within] = layout.effect[g] + partner * a
        kernels.add_products((at[owner] + within * a * d)[pair], other.basis, group.basis, panels)
        slot += count
        at += count * a * d
    kernels.add_products(at[codes], border, group.basis, panels)


def _tail(layout: _Layout) -> tuple[Indices, Indices, Indices, Array]:
    """Blocks between the groups that are solved for together: their factors, rows, places, and sums."""
    factors, rows, places = [np.zeros((0, 2), np.intp)], [np.zeros((0, 2), np.intp)], [np.zeros(0, np.intp)]
    size, sums = 0, []
    for g in range(layout.leading, len(layout.groups)):
        for h in range(g, len(layout.groups)):
            left, right = layout.groups[h], layout.groups[g]
            pointer, partner, pair = layout.pairs[g, h] if h > g else _itself(right)
            owner = np.repeat(np.arange(right.levels), np.diff(pointer))
            factors.append(np.tile(np.array([h, g], np.intp), (partner.size, 1)))
            first = layout.effect[h] + partner * left.d, layout.effect[g] + owner * right.d
            rows.append(np.column_stack(first))
            at = size + np.arange(partner.size) * (left.d * right.d)
            places.append(at)
            size += partner.size * left.d * right.d
            sums.append((at[pair], left.basis, right.basis))
    tail = np.zeros(size)
    for start, left_basis, right_basis in sums:
        kernels.add_products(start, left_basis, right_basis, tail)
    return np.concatenate(factors), np.concatenate(rows), np.concatenate(places), tail


def _itself(group: Group) -> Pairs:
    """Every level with itself alone."""
    levels = np.arange(group.levels)
    return np.arange(group.levels + 1), levels, group.factor.codes


def _ends(sizes: Indices) -> Indices:
    """Where stretches of these sizes start, and where the last ends."""
    return np.concatenate([np.zeros(1, np.intp), np.cumsum(sizes)]).astype(np.intp)
