"""What the grouped model is fitted to, and how new data are coded like it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import DataError
from ..result import Array
from .coding import model_matrix
from .columns import Columns, as_frame, missing_rows
from .expression import Expression, deparse
from .factor import Codes, Factor, listed
from .formula import Formula, parse
from .variables import State, Variables, read


@dataclass(frozen=True, eq=False)
class Term:
    """One random term (basis | factor), `/` and `||` expanded.

    Attributes
    ----------
    factor : Factor
        The groups; terms on the same grouping factor share the object.
    basis : ndarray (N, d)
        What the random effects of a group multiply, C order.
    names : tuple of str (d,)
        R's names of its columns: "(Intercept)", "Days", "Sexmale".
    """

    factor: Factor
    basis: Array
    names: tuple[str, ...]


class NewTerm(NamedTuple):
    """A random term on new rows: basis (m, d) and codes (m,) in the levels of the fit, −1 for a new group."""

    basis: Array
    codes: Codes


@dataclass(frozen=True, eq=False)
class NewRows:
    """New data in the coding of a fit: X (m, p), offset (m,) or 0, the terms in the design's order, the rows' index."""

    X: Array
    offset: Array | float
    terms: tuple[NewTerm, ...]
    index: pd.Index


@dataclass(frozen=True, eq=False)
class GroupedDesign:
    """Checked data of y = Xβ + Σ_l Z_l u_l + ε.

    Attributes
    ----------
    formula : str
    y, response : ndarray (N,), str
        The response and its name as R deparses it: "Reaction", "log(rt)".
    X, fixed_names : ndarray (N, p), tuple of str (p,)
        The fixed part, C order, and R's names of its columns.
    terms : tuple of Term
        As in the formula.
    offset, weights : ndarray (N,) or None
    index : Index (N,)
        Of the rows used.
    n_missing : int
        Rows left out because of missing values.
    unused_levels : dict
        Of every column used as a factor whose Categorical has levels that do not occur, how many; they are dropped.
    columns : mapping of str to Series (N,)
        Of the data, those used, as they came.
    weights_name : str or None
        Which of them holds the weights.
    state : dict
        What scale(), center(), poly() and bs() found in the data, rows that miss other values included.
    """

    formula: str
    y: Array
    response: str
    X: Array
    fixed_names: tuple[str, ...]
    terms: tuple[Term, ...]
    offset: Array | None
    weights: Array | None
    index: pd.Index
    n_missing: int
    unused_levels: dict[str, int]
    columns: Mapping[str, "pd.Series[Any]"] = field(repr=False)
    weights_name: str | None
    state: State = field(repr=False)
    _factors: Mapping[Expression, Factor | None] = field(repr=False)  # of each variable; None for numbers

    def rows(self, data: Any, *, random: bool = True) -> NewRows:
        """Code new data as the fit was coded; neither the response nor weights are looked at.

        Parameters
        ----------
        data : table
            As for `build`.
        random : bool, default True
            False leaves the random terms out, and needs no columns of theirs.

        Raises
        ------
        DataError
            If a column is lacking, or of another kind than at the fit, has missing values, or a level of a fixed factor
            that the fit did not have.
        """
        parsed = parse(self.formula)
        terms = parsed.random if random else ()
        variables_used = [*parsed.fixed.variables, *(tree for term in terms for tree in term.basis.variables)]
        series, index = _read_new(parsed, data, [*variables_used, *(term.group for term in terms)])
        if not len(index):
            none = (NewTerm(fitted.basis[:0], fitted.factor.codes[:0]) for fitted in self.terms if random)
            return NewRows(self.X[:0], 0.0, tuple(none), index)
        _, missing = missing_rows(series)
        if missing:
            raise DataError(f"{missing}: fill them in, or leave those rows out.")
        variables = Variables(Columns(series, index), self.state, new=True)
        values = self._recoded(variables, variables_used)
        X, _ = model_matrix(parsed.fixed, values, len(index))
        new = []
        for term, fitted in zip(terms, self.terms, strict=False):
            basis, _ = model_matrix(term.basis, values, len(index))
            new.append(NewTerm(basis, variables.group(term.group).recode(fitted.factor.levels)))
        offset = offset_of(variables, parsed)
        return NewRows(X, 0.0 if offset is None else offset, tuple(new), index)

    def _recoded(self, variables: Variables, trees: Iterable[Expression]) -> dict[Expression, Array | Factor]:
        """Variables on new data, factors in the levels of the fit."""
        values: dict[Expression, Array | Factor] = {}
        for tree in trees:
            value, fitted = variables.variable(tree), self._factors[tree]
            if isinstance(value, Factor) != (fitted is not None):
                was, now = ("labels", "numbers") if fitted is not None else ("numbers", "labels")
                raise DataError(f"{deparse(tree)} holds {now} here and held {was} at the fit: convert the column.")
            if isinstance(value, Factor) and fitted is not None:
                codes = value.recode(fitted.levels)
                if (codes < 0).any():
                    new = value.labels[value.codes[int((codes < 0).argmax())]]
                    raise DataError(
                        f"{deparse(tree)} has the level {new!r}, which the fit did not have: it has no coefficient. "
                        f"Known are {listed(fitted.labels, 20)}."
                    )
                value = replace(fitted, codes=codes)
            values[tree] = value
        return values


def _read_new(parsed: Formula, data: Any, trees: Iterable[Expression]) -> tuple[dict[str, "pd.Series[Any]"], pd.Index]:
    """Columns of new data that expressions use; of one that random terms alone use, say how to do without."""
    frame = as_frame(data)
    fixed, _ = read(frame, [*parsed.fixed.variables, *parsed.offsets])
    try:
        series, index = read(frame, trees)
    except DataError as lacking:
        raise DataError(
            f"{lacking} Random effects alone need it: the mean over all groups is random_effects=False."
        ) from lacking
    return fixed | series, index


def offset_of(variables: Variables, parsed: Formula) -> Array | None:
    """Return the sum of a formula's offsets, (n,), None where it has none."""
    if not parsed.offsets:
        return None
    total = np.zeros(len(variables.columns.index))
    for tree in parsed.offsets:
        value: Any = variables.variable(tree)  # numbers (n,): offset() gives nothing else
        total += value
    return total
