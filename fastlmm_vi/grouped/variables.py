"""Expression + columns → values, with R's meaning of every function and operator; Python's eval is not asked."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError, FormulaError
from ..result import Array
from . import functions
from .columns import Columns, Logical, leave_out, missing_rows, take
from .expression import Call, Constant, Expression, Name, deparse, label, walk
from .factor import Factor, cross, encode, listed
from .formula import components

CONSTANTS = {"pi": np.pi, "T": True, "F": False}  # unless columns have these names
WHOLE = {"degree", "df", "digits"}

State = dict[Expression, dict[str, Any]]
Value = Array | Logical | Factor | float | str | tuple[Any, ...]


def read(
    data: Any, trees: Iterable[Expression], others: Iterable[str] = ()
) -> tuple[dict[str, "pd.Series[Any]"], pd.Index]:
    """Return the columns of a table that expressions use, and others by their names, and its index."""
    names = dict.fromkeys(node.id for tree in trees for node in walk(tree) if isinstance(node, Name))
    columns = [*(name for name in names if name not in CONSTANTS), *others]
    return take(data, columns, [name for name in names if name in CONSTANTS])


def learn(trees: Iterable[Expression], series: Mapping[str, "pd.Series[Any]"], index: pd.Index) -> State:
    """Return what scale(), center(), poly() and bs() keep of the data, wherever they are called in expressions.

    As in R, each looks at all rows in which its own columns have values, whatever the others miss. (R's poly() refuses
    missing values.)
    """
    state: State = {}
    for call in (node for tree in trees for node in reversed(list(walk(tree)))):  # from within
        if isinstance(call, Call) and call.function in functions.STATEFUL and call not in state:
            own = {node.id: series[node.id] for node in walk(call) if isinstance(node, Name) and node.id in series}
            columns = leave_out(own, index, missing_rows(own)[0])
            state[call] = Variables(columns, state).learned(call)
    return state


class Variables:
    """The values of expressions on one set of columns.

    Parameters
    ----------
    columns : Columns
        Complete rows.
    state : dict
        What `learn` found for scale(), poly() …
    new : bool, default False
        Whether these are new rows, whose factors will be recoded to the levels of the fit, whatever their order here.
    """

    def __init__(self, columns: Columns, state: State, *, new: bool = False) -> None:
        self.columns = columns
        self.state = state
        self.new = new

    def variable(self, tree: Expression) -> Array | Factor:
        """Return a variable of a model matrix: numbers (n,) or (n, k), or a factor; a logical has levels FALSE, TRUE.

        Raises
        ------
        DataError
            If it is infinite, or no number, anywhere.
        """
        value = self.value(tree)
        if isinstance(value, Factor):
            return value
        if not isinstance(value, np.ndarray):
            raise FormulaError(f"{deparse(tree)} is a constant, not a variable: take it out, or name a column in it.")
        if value.dtype == np.bool_:
            return Factor(label(tree), pd.Index([False, True]), value.astype(np.intp))
        return self._finite(tree, value)

    def response(self, tree: Expression) -> Array:
        """Return the response as numbers (n,), in new memory; a logical as 0 and 1.

        Raises
        ------
        DataError
            If it is not one column of finite numbers.
        """
        value = self.variable(tree)
        if isinstance(value, Factor):
            if value.levels.dtype == np.bool_:
                return np.asarray(value.levels, dtype=np.float64)[value.codes]
            raise DataError(
                f"response {label(tree)} holds labels ({listed(value.labels)}), not numbers: a linear mixed model needs a "
                "numeric response. Numbers stored as text: pandas.to_numeric."
            )
        if value.ndim != 1:
            raise DataError(f"response {label(tree)} has {value.shape[1]} columns: give one.")
        return value.copy()

    def group(self, tree: Expression) -> Factor:
        """Return the grouping factor of an expression: a column, a:b, or a function of columns."""
        factors = [self.factor(part) for part in components(tree)]
        return replace(factors[0], name=label(tree)) if len(factors) == 1 else cross(factors, label(tree))

    def factor(self, tree: Expression) -> Factor:
        """Return an expression as a factor, whatever it holds."""
        if isinstance(tree, Name) and tree.id in self.columns:
            return self.columns.factor(tree.id)
        value = self.value(tree)
        if isinstance(value, Factor):
            return value
        if isinstance(value, np.ndarray) and value.ndim == 1:
            return encode(self._finite(tree, value), label(tree))
        raise FormulaError(f"{deparse(tree)} cannot be a factor: name a column in it.")

    def value(self, tree: Expression) -> Value:
        """Whatever an expression is on these columns."""
        match tree:
            case Name(id) if id in CONSTANTS and id not in self.columns:
                return CONSTANTS[id]
            case Name(id):
                return self.columns.value(id)
            case Constant(value):
                return value
            case Call("(" | "I", (inner,)):
                return self.value(inner)
            case Call("c", args):
                return tuple(self._constant(arg) for arg in args)
            case Call("interaction", args):
                return cross([self.factor(arg) for arg in args], deparse(tree), ".", first_slowest=False)
            case Call("+", (operand,)):
                return self.numbers(operand)
            case Call("-", (operand,)):
                return -self.numbers(operand)
            case Call("!", (operand,)):
                return ~self._logical(operand)
            case Call(operator, (left, right)) if operator in functions.ARITHMETIC:
                with np.errstate(all="ignore"):
                    return functions.ARITHMETIC[operator](self.numbers(left), self.numbers(right))
            case Call(operator, (left, right)) if operator in functions.LOGICAL:
                return functions.LOGICAL[operator](self._logical(left), self._logical(right))
            case Call("==" | "!=" as operator, (left, right)):
                return self._equal(left, right) ^ (operator == "!=")
            case Call():
                return self._function(tree, functions.bind(tree))

    def numbers(self, tree: Expression) -> Any:
        """Return an expression as a float or as floats (n,).

        Raises
        ------
        DataError
            If it holds labels.
        FormulaError
            If it is text, several constants or several columns.
        """
        value = self.value(tree)
        if isinstance(value, Factor):
            raise DataError(
                f"{deparse(tree)} holds labels ({listed(value.labels)}) where numbers are needed: turn the "
                "column into numbers first, e.g. by pandas.to_numeric."
            )
        if isinstance(value, str | tuple) or np.ndim(value) > 1:
            raise FormulaError(f"{deparse(tree)} cannot be calculated with: it is text, or more than one column.")
        return np.asarray(value, dtype=np.float64) if isinstance(value, np.ndarray) else float(value)

    def _finite(self, tree: Expression, value: Any) -> Any:
        infinite = ~np.isfinite(value if value.ndim == 1 else value.sum(axis=1))
        if infinite.any():
            raise DataError(
                f"{deparse(tree)} is infinite or not a number in {infinite.sum()} of {infinite.size} rows, first in row "
                f"{self.columns.index[int(infinite.argmax())]}: correct or leave out those rows, or transform otherwise."
            )
        return value

    def _logical(self, tree: Expression) -> Logical:
        value = self.value(tree)
        if isinstance(value, np.ndarray) and value.dtype == np.bool_:
            return np.asarray(value, dtype=np.bool_)
        raise FormulaError(f"{deparse(tree)} is not logical: write a comparison, such as {deparse(tree)} > 0.")

    def _equal(self, left: Expression, right: Expression) -> Logical:
        sides = self.value(left), self.value(right)
        factors = [side for side in sides if isinstance(side, Factor)]
        texts = [_text(side) for side in sides if isinstance(side, float | str | bool)]
        if factors and texts:
            return np.array([level == texts[0] for level in factors[0].labels])[factors[0].codes]
        return np.equal(self.numbers(left), self.numbers(right))

    def _constant(self, tree: Expression) -> Any:
        value = self.value(tree)
        if isinstance(value, np.ndarray | Factor):
            raise FormulaError(f"{deparse(tree)} has to be a constant, such as 2, TRUE, or c(1, 2).")
        return value

    def _setting(self, tree: Call, name: str, arg: Expression) -> Any:
        """Argument of a function that is not its first: a number, or for the knots of a spline several."""
        value = self._constant(arg)
        numbers = value if isinstance(value, tuple) and name == "knots" else (value,)
        if not all(isinstance(each, float | bool) for each in numbers) or (name in WHOLE and value % 1):
            raise FormulaError(f"{deparse(tree)}: {name} has to be a {'whole ' * (name in WHOLE)}number.")
        return value

    def _function(self, tree: Call, args: dict[str, Expression]) -> Value:
        if tree.function in ("factor", "as.factor", "relevel"):
            return self._ordered(tree, args)
        if tree.function in functions.STATEFUL:
            return self._transform(tree, self.state[tree], fitted=True)
        x = self.numbers(args.pop("x"))
        settings = {name: self._setting(tree, name, arg) for name, arg in args.items()}
        with np.errstate(all="ignore"):
            return functions.ELEMENTWISE[tree.function](x, **settings)

    def learned(self, tree: Call) -> dict[str, Any]:
        """Return what one call of scale(), poly() … finds in these rows."""
        found: dict[str, Any] = {}
        self._transform(tree, found, fitted=False)
        return found

    def _transform(self, tree: Call, state: dict[str, Any], *, fitted: bool) -> Array:
        args = functions.bind(tree)
        first = args.pop("x")
        x = self.numbers(first)
        settings = {name: self._setting(tree, name, arg) for name, arg in args.items()}
        if not isinstance(x, np.ndarray):
            raise FormulaError(f"{deparse(tree)} is a constant, not a variable: name a column in it.")
        with np.errstate(all="ignore"):
            return functions.transform(tree.function, self._finite(first, x), settings, state, fitted=fitted)

    def _ordered(self, tree: Call, args: dict[str, Expression]) -> Factor:
        """factor(x, levels, ordered) and relevel(x, ref): the same labels, in another order."""
        factor = self.factor(args.pop("x"))
        if self.new:
            return factor
        if "ordered" in args:
            ordered = self._constant(args.pop("ordered"))
            if not isinstance(ordered, bool):
                raise FormulaError(f"{deparse(tree)}: ordered has to be TRUE or FALSE.")
            factor = replace(factor, ordered=ordered)
        if tree.function == "relevel" and factor.ordered:
            raise DataError(
                f"{deparse(tree)}: {factor.name} is an ordered Categorical, whose levels are steps of a scale. Another "
                f"reference needs an unordered one: factor({factor.name}, ordered = FALSE)."
            )
        if not args:
            return factor
        (given,) = (self._constant(arg) for arg in args.values())
        first = list(dict.fromkeys(_text(level) for level in (given if isinstance(given, tuple) else (given,))))
        labels = factor.labels
        others = [level for level in labels if level not in first]
        if others if tree.function == "factor" else first[0] not in labels:
            raise DataError(
                f"{deparse(tree)}: the levels are {listed(labels, 20)}"
                + (f"; those not listed ({listed(others)}) would be missing." if tree.function == "factor" else ".")
            )
        order = [labels.index(level) for level in [*first, *others] if level in labels]
        return replace(factor, levels=factor.levels[order], codes=np.argsort(order).astype(np.intp)[factor.codes])


def _text(constant: float | str | bool) -> str:
    """Label that a constant stands for."""
    if isinstance(constant, bool):
        return str(constant).upper()
    return constant if isinstance(constant, str) else f"{constant:.15g}"
