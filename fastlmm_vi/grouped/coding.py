"""R's model matrix: contrasts of factors, or dummies for all levels where a margin is missing; columns named as in R.

The rules are those of `terms` and `model.matrix`, which go by Chambers and Hastie (1992), Statistical Models in S, p. 38:
a factor in a term is coded by contrasts if what the term is without it lies within an earlier term, or is the intercept;
by one column for each level otherwise. Without an intercept, the first factor of all has a column for each level.
"""

from collections.abc import Mapping
from itertools import product

import numpy as np

from ..result import Array
from .contrasts import contrasts, dummies
from .expression import Expression, deparse
from .factor import Factor
from .term_list import TermList


def model_matrix(terms: TermList, values: Mapping[Expression, Array | Factor], n: int) -> tuple[Array, tuple[str, ...]]:
    """Return the design of a list of terms (n, p), C order, and R's names of its columns (p,).

    Within an interaction the first factor varies fastest.
    """
    variables = [values[variable] for variable in terms.variables]
    written = [deparse(variable) for variable in terms.variables]
    blocks = [np.ones((n, 1))] if terms.intercept else []
    names = ["(Intercept)"] if terms.intercept else []
    for term, coded in zip(terms.products, _full(terms, variables), strict=True):
        parts = [_columns(variables[i], written[i], full) for i, full in zip(term, coded, strict=True)]
        block = parts[0][0]
        for columns, _ in parts[1:]:
            block = (columns[:, :, None] * block[:, None, :]).reshape(n, -1)
        blocks.append(block)
        names += [":".join(name[::-1]) for name in product(*(named for _, named in parts[::-1]))]
    X = np.empty((n, len(names)))
    if blocks:
        np.concatenate(blocks, axis=1, out=X)
    return X, tuple(names)


def _full(terms: TermList, variables: list[Array | Factor]) -> list[list[bool]]:
    """Whether each variable of each term has, where it is a factor, a column for every level."""
    within = [frozenset(term) for term in terms.products]
    coded = []
    for j, term in enumerate(terms.products):
        margins = [within[j] - {i} for i in term]
        coded.append([bool(margin) and not any(margin <= earlier for earlier in within[:j]) for margin in margins])
    factors = [
        (j, k) for j, term in enumerate(terms.products) for k, i in enumerate(term) if isinstance(variables[i], Factor)
    ]
    if factors and not terms.intercept:
        j, k = factors[0]
        coded[j][k] = True
    return coded


def _columns(value: Array | Factor, written: str, full: bool) -> tuple[Array, list[str]]:
    """Columns of one variable (n, k) and their names."""
    if isinstance(value, Factor):
        coded, suffixes = dummies(value) if full else contrasts(value)
        return coded[value.codes], [written + suffix for suffix in suffixes]
    if value.ndim == 1:
        return value[:, None], [written]
    k = value.shape[1]
    return value, [written] if k == 1 else [f"{written}{i + 1}" for i in range(k)]
