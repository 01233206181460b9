"""The one expensive object of the grouped model: Zᵀ[Z X y] and [X y]ᵀ[X y] in blocks of groups."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from fastlmm_vi_kernels.blocks import Pattern, Products

from ..errors import DataError, FitWarning
from ..result import Array
from . import blocks
from .blocks import Group
from .model_frame import GroupedDesign
from .one_way import Reduced
from .standard import StandardTerm, StandardX, standard_term, standard_x

LARGE = 1e9  # bytes that are worth a warning before they are taken
SPEED = 3e10  # operations a second on one core, of the side³ that a dense matrix is factored and inverted in


@dataclass(frozen=True, eq=False)
class CrossProducts:
    """Everything that a method asks of the data: nothing after it costs anything in N.

    Attributes
    ----------
    design : GroupedDesign
        What it was made from.
    fixed : StandardX
        X and y as they enter the products: centred, weighted, X orthonormal, y the residual of least squares.
    terms : tuple of StandardTerm
        Bases of the random effects, orthogonal within a term, in formula order.
    groups : tuple of Group
        Grouping factors in order of elimination: the first `pattern.leading` level by level, the rest together.
    pattern, products
        The blocks (`fastlmm_vi_kernels.blocks`).

    Notes
    -----
    Time O(N (d + q)²). Memory: that of the pairs of levels which occur together and, for crossed factors, two dense
    matrices whose side is the number of random effects of all factors that are not eliminated level by level.
    """

    design: GroupedDesign
    fixed: StandardX
    terms: tuple[StandardTerm, ...]
    groups: tuple[Group, ...]
    pattern: Pattern
    products: Products

    @classmethod
    def of(cls, design: GroupedDesign) -> "CrossProducts":
        """Make them in one pass over the data.

        Raises
        ------
        DataError
            If a term is degenerate, or crossed factors need more memory than the machine has.
        """
        fixed = standard_x(design)
        terms = tuple(standard_term(term, design.weights) for term in design.terms)
        groups, leading = blocks.order(_by_factor(design, terms))
        _check_memory(groups[leading:])
        return cls(design, fixed, terms, groups, *blocks.sums(groups, leading, _border(fixed)))

    @cached_property
    def one_way(self) -> Reduced | None:
        """The groups of a single factor, each reduced to as many rows as it has random effects; None for more factors."""
        alone = len(self.groups) == self.pattern.leading == 1
        return Reduced.of(self.groups[0], _border(self.fixed)) if alone else None

    @cached_property
    def places(self) -> tuple[tuple[int, int, int, int], ...]:
        """Factor, first column in its block, place in the formula, and width, of every term in order of elimination."""
        found = []
        for f, group in enumerate(self.groups):
            start = 0
            for k in group.terms:
                d = len(self.terms[k].M)
                found.append((f, start, k, d))
                start += d
        return tuple(found)

    def own_blocks(self, f: int) -> tuple[Array, Array]:
        """Z_vᵀZ_v (levels, d, d) and Z_vᵀy (levels, d) of factor f."""
        p, d, products = self.pattern, self.groups[f].d, self.products
        if f < p.leading:
            panel = p.panel[p.group[f] : p.group[f + 1] + 1]
            own = products.panels[panel[:-1, None] + np.arange(d * d)]
            return own.reshape(-1, d, d), products.panels[panel[1:, None] - d + np.arange(d)]
        places = p.tail_block[(p.tail_factor == f).all(axis=1)]
        effects = slice(p.effect[f] - p.effect[p.leading], p.effect[f + 1] - p.effect[p.leading])
        own = products.tail[places[:, None] + np.arange(d * d)]
        return own.reshape(-1, d, d), products.border[effects, -1].reshape(-1, d)


def _border(fixed: StandardX) -> Array:
    """[X y], (N, q)."""
    return np.ascontiguousarray(np.column_stack([fixed.Q, fixed.y]))


def _by_factor(design: GroupedDesign, terms: Sequence[StandardTerm]) -> list[Group]:
    """Factors, with the bases of all their terms side by side."""
    places: dict[str, list[int]] = {}
    for k, term in enumerate(design.terms):
        places.setdefault(term.factor.name, []).append(k)
    return [
        Group(
            design.terms[ks[0]].factor, tuple(ks), np.ascontiguousarray(np.column_stack([terms[k].basis for k in ks]))
        )
        for ks in places.values()
    ]


def _check_memory(tail: Sequence[Group]) -> None:
    """Say what the dense part will take, before it is taken."""
    side = sum(group.levels * group.d for group in tail)
    needed = 2.0 * 8.0 * side**2
    if needed < LARGE:
        return
    names = ", ".join(group.factor.name for group in tail)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else np.inf
    text = f"The {side} random effects of the crossed factors {names} need {needed / 1e9:.1f} GB"
    seconds = side**3 / SPEED
    time = f"{seconds:.0f} s" if seconds < 120.0 else f"{seconds / 60.0:.0f} min"
    if needed > 0.8 * there:
        raise DataError(f"{text}; this machine has {there / 1e9:.1f} GB. Drop a term, or use fewer levels.")
    warnings.warn(f"{text}, and each of some ten evaluations about {time}.", FitWarning, stacklevel=2)
