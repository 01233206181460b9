"""Formula + data → the grouped design: the only door of the grouped model, behind which everything is clean."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError, FormulaError
from ..result import Array
from .coding import model_matrix
from .columns import Logical, leave_out, missing_rows
from .design import GroupedDesign, NewRows, NewTerm, Term, offset_of
from .expression import Expression, deparse, label
from .factor import Factor, same_groups
from .formula import Formula, parse
from .variables import State, Variables, learn, read

__all__ = ["Factor", "GroupedDesign", "NewRows", "NewTerm", "Term", "build"]

WEIGHTS = "weights="  # what weights given as an array are called among the columns


def build(
    formula: str, data: Any, *, weights: Any = None, missing: str = "raise", state: State | None = None
) -> GroupedDesign:
    """Return the design that an lme4 formula makes of data; the same as lme4's lFormula before any column is dropped.

    Parameters
    ----------
    formula : str
        In lme4's language, `y ~ x + (1 + x | g)`; see `formula.parse` for the terms, `functions` for what may be called.
    data : table
        A pandas DataFrame, a dict of columns, or anything with `to_pandas` or the dataframe interchange protocol, such as
        a polars DataFrame. It is not changed. Text, Categoricals and logicals are factors, their levels in the order of
        the Categorical, else sorted; ordered Categoricals are ordered factors. Numbers are numbers unless in factor(), and
        labels as grouping factors.
    weights : array_like (n,) or str, optional
        Prior weights, ε_i ~ N(0, σ² / weight_i), or the column that holds them.
    missing : {"raise", "drop"}, default "raise"
        What to do with rows that miss a value in any column used. "drop" leaves them out, once scale(), center(), poly() and
        bs() have seen all rows in which their own columns have values.
    state : dict, optional
        What those found in the data of an earlier design, to be kept.

    Raises
    ------
    FormulaError
        If the formula is not one.
    DataError
        If the data do not suit it.
    """
    if missing not in ("raise", "drop"):
        raise ValueError(f"missing={missing!r} is not known: choose 'raise' or 'drop'.")
    if not isinstance(formula, str):
        raise FormulaError(f"formula is a {type(formula).__name__}: give it as text, 'y ~ x + (1 | g)'.")
    parsed = parse(formula)
    series, index, weights_name = _used(parsed, data, weights)
    incomplete = _incomplete(series, missing)
    columns = leave_out(series, index, incomplete)
    variables = Variables(columns, learn(_trees(parsed), series, index) if state is None else state)
    n = len(columns.index)
    y = variables.response(parsed.response)
    values = {tree: _checked(variables, tree) for tree in _variables(parsed)}
    X, fixed_names = model_matrix(parsed.fixed, values, n)
    groups = {label(term.group): term.group for term in parsed.random}
    factors = {name: variables.group(group) for name, group in groups.items()}
    terms = tuple(Term(factors[label(term.group)], *model_matrix(term.basis, values, n)) for term in parsed.random)
    for term, written in zip(terms, parsed.random, strict=True):
        _check_groups(term, str(written))
    for (one, _), (other, written) in combinations(zip(terms, parsed.random, strict=True), 2):
        _check_alike(one, other, str(written))
    _check_names(fixed_names, "the fixed part")
    for factor in factors.values():
        effects = [name for term in terms if term.factor is factor for name in term.names]
        _check_names(effects, f"the random terms of {factor.name}")
    return GroupedDesign(
        formula=formula,
        y=y,
        response=label(parsed.response),
        X=X,
        fixed_names=fixed_names,
        terms=terms,
        offset=offset_of(variables, parsed),
        weights=None if weights_name is None else _checked_weights(columns.value(weights_name)),
        index=columns.index,
        n_missing=len(index) - n,
        unused_levels=columns.unused_levels,
        columns=columns.series,
        weights_name=weights_name,
        state=variables.state,
        _factors={tree: _without_rows(value) for tree, value in values.items()},
    )


def _variables(parsed: Formula) -> list[Expression]:
    """Variables of the fixed part and of all left sides, each once."""
    return list(dict.fromkeys([*parsed.fixed.variables, *(v for term in parsed.random for v in term.basis.variables)]))


def _trees(parsed: Formula) -> list[Expression]:
    """All expressions of a formula that are evaluated."""
    return [parsed.response, *_variables(parsed), *parsed.offsets, *(term.group for term in parsed.random)]


def _used(parsed: Formula, data: Any, weights: Any) -> tuple[dict[str, "pd.Series[Any]"], pd.Index, str | None]:
    """Columns used, their index, and the name of the one that holds the weights."""
    by_name = [weights] if isinstance(weights, str) else []
    series, index = read(data, _trees(parsed), by_name)
    if not len(index):
        raise DataError("data has no rows: give at least one observation per parameter.")
    if weights is None or by_name:
        return series, index, weights
    return {**series, WEIGHTS: _given_weights(weights, index)}, index, WEIGHTS


def _incomplete(series: Mapping[str, "pd.Series[Any]"], missing: str) -> Logical | None:
    """Which rows miss a value (n,), None if none does, unless they are refused."""
    incomplete, words = missing_rows(series)
    if incomplete is not None and (missing == "raise" or incomplete.all()):
        cure = "fill them in" if incomplete.all() else 'missing="drop" leaves those rows out; or fill them in'
        raise DataError(f"{words}: {cure}.")
    return incomplete


def _given_weights(weights: Any, index: pd.Index) -> "pd.Series[Any]":
    values = np.asarray(weights)
    if values.shape != index.shape:
        raise DataError(f"weights has shape {values.shape}, data has {len(index)} rows: give one weight for each row.")
    if isinstance(weights, pd.Series) and not weights.index.equals(index):
        raise DataError("weights is a Series whose index is not that of data: align it, or give its values alone.")
    return pd.Series(values, index=index)


def _checked_weights(weights: Any) -> Array:
    if isinstance(weights, Factor) or not (np.isfinite(weights) & (weights > 0)).all():
        raise DataError("weights have to be positive, finite numbers: leave out rows that should not count.")
    return weights.astype(np.float64)


def _checked(variables: Variables, tree: Expression) -> Array | Factor:
    """Value of a variable of the fixed part or of a left side."""
    value = variables.variable(tree)
    if isinstance(value, Factor) and len(value.levels) < 2:
        raise DataError(
            f"{deparse(tree)} is a factor with one level ({value.labels[0]}): there is nothing to compare. Take it out."
        )
    if isinstance(value, Factor) and len(value.levels) == len(value.codes) > 2:
        raise DataError(
            f"{deparse(tree)} is a factor with another level in each of the {len(value.codes)} rows: each would have a "
            "coefficient of its own. Numbers stored as text: pandas.to_numeric; names of rows: leave it out."
        )
    return value


def _without_rows(value: Array | Factor) -> Factor | None:
    """Levels of a factor, for the coding of new rows; None of numbers."""
    return replace(value, codes=np.zeros(0, dtype=np.intp)) if isinstance(value, Factor) else None


def _check_alike(one: Term, other: Term, written: str) -> None:
    """Refuse variances of one effect by factors that differ in their labels only: (1 | g) + (1 | g) in other words."""
    effects = [name for name in one.names if name in other.names]
    if effects and one.factor is not other.factor and same_groups(one.factor, other.factor):
        raise DataError(
            f"{one.factor.name} and {other.factor.name} group the rows alike, with other labels: their variances of "
            f"{', '.join(effects)} cannot be told apart. Take ({written}) out, or its part of that."
        )


def _check_names(names: Sequence[str], part: str) -> None:
    """Refuse two effects of one name, where the intercept counts as Intercept, which brms calls it."""
    seen = set()
    for name in ("Intercept" if name == "(Intercept)" else name for name in names):
        if name in seen:
            raise DataError(
                f"Two effects of {part} would be called {name}"
                + (", the intercept and that of a column" if name == "Intercept" else "")
                + ": rename the column, or the levels of the factor, that it comes from."
            )
        seen.add(name)


def _check_groups(term: Term, written: str) -> None:
    """Refuse what lme4 refuses: one group, or no more observations than groups or random effects."""
    n, d = term.basis.shape
    J = len(term.factor.levels)
    if J < 2:
        raise DataError(
            f"grouping factor {term.factor.name} has one level ({term.factor.labels[0]}): a variance between groups needs "
            f"two or more. Take ({written}) out."
        )
    if n <= J:
        raise DataError(
            f"grouping factor {term.factor.name} has {J} levels, data has {n} observations: with one observation a group, "
            f"the groups cannot be told from the residuals. Take ({written}) out, or group more coarsely."
        )
    if J * d >= n:
        raise DataError(
            f"number of observations (={n}) <= number of random effects (={J * d}) for term ({written}): they cannot be "
            "told from the residuals. Take something out of the left side, or write || for independent effects."
        )
