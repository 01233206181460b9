"""R's algebra of terms: `a*b`, `(a + b)^2 - a:b`, `a/b`, `a %in% b`, `- 1` → a list of terms."""

from dataclasses import dataclass
from functools import reduce
from itertools import product
from operator import or_

from ..errors import FormulaError
from .expression import Call, Constant, Expression, deparse
from .functions import check_variable


@dataclass(frozen=True)
class TermList:
    """A sum of terms as R expands it: an intercept or none, and products of variables.

    Attributes
    ----------
    variables : tuple of Expression
        In order of first appearance.
    products : tuple of tuple of int
        Every term as ascending places in `variables`; terms of fewer variables first, then as written.
    """

    variables: tuple[Expression, ...]
    products: tuple[tuple[int, ...], ...]
    intercept: bool

    @property
    def labels(self) -> tuple[str, ...]:
        """R's term labels: "x", "a:b"."""
        return tuple(":".join(deparse(self.variables[i]) for i in term) for term in self.products)


def expand(tree: Expression | None, response: Expression | None) -> tuple[TermList, tuple[Expression, ...]]:
    """R's terms of one right side, and its offsets."""
    expansion = _Expansion()
    masks = [] if tree is None else expansion.terms(tree)
    variables = tuple(expansion.places)
    offsets = {1 << i: v for i, v in enumerate(variables) if isinstance(v, Call) and v.function == "offset"}
    products = sorted((mask for mask in masks if mask not in offsets), key=int.bit_count)
    used = [i for i in range(len(variables)) if any(mask >> i & 1 for mask in products)]
    for i in used:
        if variables[i] == response:
            raise FormulaError(f"the response {deparse(variables[i])} is also on the right of ~: remove it there.")
    for mask, offset in offsets.items():
        if mask not in masks or any(mask & term for term in products):
            raise FormulaError(f"{deparse(offset)}: an offset can be added only, … + {deparse(offset)}.")
    terms = TermList(
        variables=tuple(variables[i] for i in used),
        products=tuple(tuple(place for place, i in enumerate(used) if mask >> i & 1) for mask in products),
        intercept=expansion.intercept,
    )
    return terms, tuple(offsets.values())


class _Expansion:
    """R's algebra of terms. A term is an integer whose bit i says that variable i is in it."""

    def __init__(self) -> None:
        self.places: dict[Expression, int] = {}
        self.intercept = True
        self.adding = True  # not on the right of a minus

    def terms(self, tree: Expression) -> list[int]:
        """Terms of a tree, each once, as first met; whether there is an intercept is noted in passing."""
        match tree:
            case Constant(float(value)) if value in (0.0, 1.0):
                self.intercept = (value == 1.0) is self.adding
                return []
            case Constant(_, text):
                raise FormulaError(
                    f"{text} is no term: only 0 and 1 are, for the intercept. Arithmetic goes in I(…), a column of that name "
                    f"in backticks: `{text}`."
                )
            case Call("(" | "+", (inner,)):
                return self.terms(inner)
            case Call("+", (left, right)):
                return _unique(self.terms(left) + self.terms(right))
            case Call("-", (*left, right)):
                kept = [term for side in left for term in self.terms(side)]
                self.adding = not self.adding
                removed = self.terms(right)
                self.adding = not self.adding
                return [term for term in kept if term not in removed]
            case Call("^", (base, power)):
                return self._power(tree, self.terms(base), power)
            case Call("*" | "/" | ":" | "%in%" as operator, (left, right)):
                return self._product(tree, operator, self.terms(left), self.terms(right))
        check_variable(tree)
        return [1 << self.places.setdefault(tree, len(self.places))]

    def _power(self, tree: Expression, terms: list[int], power: Expression) -> list[int]:
        if not (isinstance(power, Constant) and power.value in range(2, 100)):
            raise FormulaError(
                f"{deparse(tree)}: ^ crosses terms, (a + b)^2, up to a whole number. For a power write I({deparse(tree)})."
            )
        crossed = terms
        for _ in range(int(power.value) - 1):
            crossed = _unique([a | b for a, b in product(terms, crossed)])
        return crossed

    def _product(self, tree: Expression, operator: str, left: list[int], right: list[int]) -> list[int]:
        if not (left and right):
            raise FormulaError(f"{deparse(tree)}: {operator} needs a variable on both sides. Arithmetic goes in I(…).")
        if operator == "/":
            return _unique(left + [reduce(or_, left) | term for term in right])
        if operator == "%in%":
            return _unique([term | reduce(or_, right) for term in left])
        crossed = [a | b for a, b in product(left, right)]
        return _unique(crossed if operator == ":" else left + right + crossed)


def _unique(terms: list[int]) -> list[int]:
    return list(dict.fromkeys(terms))
