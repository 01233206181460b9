"""The variance parameters as people name them: standard deviations and correlations, by brms' names."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..result import Array
from .design import Term
from .solution import Solution


def plain(name: str) -> str:
    """R's name of an effect as brms writes it: without parentheses around the intercept."""
    return "Intercept" if name == "(Intercept)" else name


def order(terms: Sequence[Term]) -> list[int]:
    """Places of the terms in lme4's order, which its `theta`, `VarCorr` and `ranef` share.

    As written where no factor has more levels than the one before it; else by decreasing number of levels, ties reversed.
    """
    levels = [len(term.factor.levels) for term in terms]
    written = list(range(len(levels)))
    if all(before >= after for before, after in pairwise(levels)):
        return written
    return sorted(written, key=lambda k: levels[k])[::-1]


def names(terms: Sequence[Term]) -> list[str]:
    """`sd_g__x` and `cor_g__x__z` of every term in formula order, then `sigma`."""
    found = []
    for term in terms:
        effects = [plain(name) for name in term.names]
        pairs = [(a, b) for i, a in enumerate(effects) for b in effects[i + 1 :]]
        found += [f"sd_{term.factor.name}__{x}" for x in effects]
        found += [f"cor_{term.factor.name}__{a}__{b}" for a, b in pairs]
    return [*found, "sigma"]


def values(solution: Solution) -> Array:
    """Their values at a solution, in the same order; a correlation with an effect of variance 0 is NaN."""
    found: list[float] = []
    for _, root in sorted(solution.roots.items()):
        G = root @ root.T
        sd = np.sqrt(np.diag(G))
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = G / np.outer(sd, sd)
        found += [*(solution.sigma * sd), *correlation[np.triu_indices(len(sd), 1)]]
    return np.array([*found, solution.sigma])


def effect_names(term: Term) -> list[str]:
    """`r_g[level,x]` of the random effects of a term, level by level."""
    return [f"r_{term.factor.name}[{level},{plain(x)}]" for level in term.factor.labels for x in term.names]
