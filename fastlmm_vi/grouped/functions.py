"""The functions and operators a formula may call, each with R's meaning, and nothing else.

- Operators inside a function: `+ - * / ^ %% %/%`, `== != < > <= >=`, `& | !`. `^` is a power.
- Of one number: abs, acos, asin, atan, ceiling, cos, cosh, exp, expm1, floor, log1p, log2, log10, sign, sin, sinh, sqrt,
  tan, tanh, trunc; also log(x, base), round(x, digits) and as.numeric(x).
- Factors: factor(x, levels, ordered), as.factor(x), relevel(x, ref), interaction(a, b, …).
- Fitted to the data once and then kept: scale(x, center, scale), center(x), poly(x, degree, raw), bs(x, df, knots, degree).
- I(x) is x; offset(x) a term without a coefficient; c(…) lists constants; pi, TRUE and FALSE are constants,
  T and F too where data have no such columns.
"""

import difflib
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from ..errors import DataError, FormulaError
from ..result import Array
from .expression import Call, Expression, Name, deparse, walk

Elementwise = Callable[..., Any]


def _log(x: Any, base: float = np.e) -> Any:
    whole = {np.e: np.log, 2.0: np.log2, 10.0: np.log10}
    return whole[base](x) if base in whole else np.log(x) / np.log(base)


def _round(x: Any, digits: float = 0.0) -> Any:
    """R's: the nearer of the numbers with so many digits, as floating point has them; between two as near the even one."""
    unit = 10.0 ** abs(digits)
    below = np.floor(x * unit if digits > 0 else x / unit)
    low, high = (n / unit if digits > 0 else n * unit for n in (below, below + 1.0))
    up = (high - x < x - low) | ((high - x == x - low) & (below % 2 == 1))
    return np.where(up, high, low)


ELEMENTWISE: Mapping[str, Elementwise] = MappingProxyType(
    {
        "abs": np.abs,
        "acos": np.arccos,
        "asin": np.arcsin,
        "atan": np.arctan,
        "ceiling": np.ceil,
        "cos": np.cos,
        "cosh": np.cosh,
        "exp": np.exp,
        "expm1": np.expm1,
        "floor": np.floor,
        "log1p": np.log1p,
        "log2": np.log2,
        "log10": np.log10,
        "sign": np.sign,
        "sin": np.sin,
        "sinh": np.sinh,
        "sqrt": np.sqrt,
        "tan": np.tan,
        "tanh": np.tanh,
        "trunc": np.trunc,
        "as.numeric": np.positive,
        "offset": np.positive,
        "round": _round,
        "log": _log,
    }
)
ARITHMETIC: Mapping[str, Elementwise] = MappingProxyType(
    {
        "+": np.add,
        "-": np.subtract,
        "*": np.multiply,
        "/": np.divide,
        "^": np.power,
        "%%": np.mod,
        "%/%": np.floor_divide,
        "<": np.less,
        ">": np.greater,
        "<=": np.less_equal,
        ">=": np.greater_equal,
    }
)
LOGICAL: Mapping[str, Elementwise] = MappingProxyType({"&": np.logical_and, "|": np.logical_or})
OPERATORS = {"(", "!", "==", "!=", *ARITHMETIC, *LOGICAL}
STATEFUL = {"scale", "center", "poly", "bs"}
PARAMETERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys((*ELEMENTWISE, "I", "as.factor", "center"), ("x",)),
        "log": ("x", "base"),
        "round": ("x", "digits"),
        "factor": ("x", "levels", "ordered"),
        "relevel": ("x", "ref"),
        "scale": ("x", "center", "scale"),
        "poly": ("x", "degree", "raw"),
        "bs": ("x", "df", "knots", "degree"),
    }
)
VARIADIC = {"interaction", "c"}
_INSTEAD = {
    "C": "factor(x)",
    **dict.fromkeys(("ordered", "as.ordered"), "factor(x, ordered = TRUE)"),
    "Q": "the name in `backticks`",
    "ns": "bs(x, df = 4)",
    "cr": "bs(x, df = 4)",
    "standardize": "scale(x)",
    "pow": "I(x^2)",
    "np.power": "I(x^2)",
}


def bind(call: Call) -> dict[str, Expression]:
    """Arguments of a call by their names.

    Raises
    ------
    FormulaError
        If the function is not one of this module's, or does not take these arguments.
    """
    if call.function not in PARAMETERS:
        raise _unknown(call.function)
    parameters = PARAMETERS[call.function]
    bound = {key: arg for key, arg in zip(call.keywords, call.args, strict=True) if key}
    positional = [arg for key, arg in zip(call.keywords, call.args, strict=True) if not key]
    free = [name for name in parameters if name not in bound]
    if not set(bound) <= set(parameters) or len(positional) > len(free) or {*free[len(positional) :]} & {"x"}:
        raise FormulaError(f"{deparse(call)}: write it as {call.function}({', '.join(parameters)}).")
    return bound | dict(zip(free, positional, strict=False))


def check_variable(tree: Expression) -> None:
    """Raise FormulaError if a variable, log(x) say, calls what a formula may not, or is the `.` that stands for all."""
    for node in walk(tree):
        match node:
            case Name("."):
                raise FormulaError("the columns that . stands for would include the grouping factors: name them.")
            case Call("offset") if node is not tree:
                raise FormulaError(f"{deparse(tree)}: an offset is added to the fixed part by itself, … + offset(x).")
            case Call():
                _check(node)


def transform(function: str, x: Array, settings: dict[str, Any], state: dict[str, Any], *, fitted: bool) -> Array:
    """Scale, center, poly or bs of x (n,) as formulaic has them: (n,) or (n, k).

    `state` takes up what is found in x or, where `fitted`, holds what was found before.

    Raises
    ------
    ImportError
        If formulaic is not installed.
    DataError, FormulaError
        If x has too few values, or the settings contradict each other.
    """
    try:
        transforms = importlib.import_module("formulaic.transforms")
    except ImportError as missing:
        raise ImportError(f"{function}() in a formula needs formulaic: pip install fastlmm_vi[formula]") from missing
    if function == "poly":
        degree = int(settings.get("degree", 1))
        if not fitted and not 1 <= degree < np.unique(x).size:
            raise DataError(
                f"poly() of degree {degree}: the degree has to be 1 or more and below the number of values."
            )
        return np.asarray(transforms.poly(x, degree, raw=settings.get("raw", False), _state=state))
    if function == "bs":
        df, degree, knots = settings.get("df"), int(settings.get("degree", 3)), np.atleast_1d(settings.get("knots", ()))
        if (df is not None and (knots.size or df < degree)) or degree < 1:
            raise FormulaError("bs(x, df, knots, degree) takes a df of at least the degree, or knots, not both.")
        size = {"df": None if df is None else int(df), "degree": degree, "knots": list(knots) if knots.size else None}
        return np.column_stack(list(transforms.basis_spline(x, **size, extrapolation="extend", _state=state).values()))
    return np.asarray(getattr(transforms, function)(x, **settings, _state=state))


def _check(call: Call) -> None:
    if call.function in VARIADIC:
        if not call.args or any(call.keywords):
            raise FormulaError(f"{deparse(call)}: write it as {call.function}(a, b, …), without names.")
    elif not call.keywords and call.args and call.function not in PARAMETERS:
        if call.function not in OPERATORS:
            raise FormulaError(f"{deparse(call)}: {call.function!r} has no meaning inside a function of a formula.")
    else:
        bind(call)


def _unknown(function: str) -> FormulaError:
    known = sorted({*PARAMETERS, *VARIADIC})
    near = difflib.get_close_matches(function.rpartition(".")[2], known, n=3)
    instead = [_INSTEAD[function]] if function in _INSTEAD else near
    hint = f"did you mean {' or '.join(instead)}? " if instead else ""
    return FormulaError(
        f"{function}() is not a function of formulas: {hint}Known are {', '.join(known)}. "
        "Anything else: compute it as a column of the data first."
    )
