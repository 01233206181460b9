"""lme4's formulas: text → response, fixed terms, offsets and random terms. No data are needed here."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, reduce

from ..errors import FormulaError
from . import functions
from .expression import PRECEDENCE, PREFIX, Call, Expression, Name, deparse, label, number
from .expression import parse as parse_expression
from .term_list import TermList, expand


@dataclass(frozen=True)
class RandomTerm:
    """One (left | group) after `/` and `||` are expanded."""

    left: Expression
    basis: TermList
    group: Expression

    def __str__(self) -> str:
        return f"{deparse(self.left)} | {deparse(self.group)}"


@dataclass(frozen=True)
class Formula:
    """A parsed formula."""

    text: str
    response: Expression
    fixed: TermList
    offsets: tuple[Expression, ...]
    random: tuple[RandomTerm, ...]


@lru_cache(maxsize=512)
def parse(text: str) -> Formula:
    """Return the terms of lme4's `response ~ fixed + (left | group) + …`.

    `(x || g)` becomes one term for each term of x, `(x | a/b)` becomes `(x | b:a)` and `(x | a)`; the fixed part and the
    left sides are expanded as R's `terms()` does, `a*b`, `a/b`, `(a + b)^2`, `a %in% b`, `- 1` and `0 +` included.

    Raises
    ------
    FormulaError
        If the text is not such a formula.
    """
    tree = parse_expression(text)
    match tree:
        case Call("~", (response, right)):
            pass
        case _:
            raise FormulaError(f"formula {text!r} has no response: write y ~ … with the response on the left of ~.")
    functions.check_variable(response)
    bars: list[Call] = []
    fixed, offsets = expand(_without_bars(right, bars), response)
    if not bars:
        raise FormulaError(
            f"formula {text!r} has no random term such as (1 | group). A model without one is ordinary least squares: "
            "lm in R, statsmodels.formula.api.ols in Python."
        )
    random = tuple(term for bar in bars for term in _random_terms(bar, response))
    _check_twice(random)
    return Formula(text, response, fixed, offsets, random)


def components(group: Expression) -> list[Expression]:
    """Return the factors whose combinations are the groups: a and b of a:b."""
    match group:
        case Call("(", (inner,)):
            return components(inner)
        case Call(":", (left, right)):
            return components(left) + components(right)
        case Name() | Call(_, _, (_, *_)):
            functions.check_variable(group)
            return [group]
    raise FormulaError(
        f"(… | {deparse(group)}): {deparse(group)} is no grouping factor. Write one (… | group) for each factor, "
        "(… | a:b) for their combinations, (… | a/b) for b within a; the name of a column that is no word in `backticks`."
    )


def _without_bars(tree: Expression, bars: list[Call]) -> Expression | None:
    """Fixed part, None where nothing is left; the bars that were added to it in parentheses go to `bars`."""
    match tree:
        case Call("(", (Call("|" | "||") as bar,)):
            bars.append(bar)
            return None
        case Call("(" | "+" as operator, (inner,)):
            kept = _without_bars(inner, bars)
            return None if kept is None else Call(operator, (kept,))
        case Call("+", (left, right)):
            sides = [side for side in (_without_bars(left, bars), _without_bars(right, bars)) if side is not None]
            return Call("+", tuple(sides)) if sides else None
        case Call("-", (left, right)):
            _check_no_bar(right)
            kept = _without_bars(left, bars)
            return Call("-", (right,)) if kept is None else Call("-", (kept, right))
    _check_no_bar(tree)
    return tree


def _check_no_bar(tree: Expression) -> None:
    match tree:
        case Call("|" | "||"):
            raise FormulaError(
                f"{deparse(tree)}: a random term is added to the fixed part in parentheses, … + ({deparse(tree)}). A "
                "comparison or ! before it goes in I(…)."
            )
        case Call(operator, args) if operator in ("(", *PRECEDENCE, *PREFIX):
            for arg in args:
                _check_no_bar(arg)


def _random_terms(bar: Call, response: Expression) -> Iterator[RandomTerm]:
    """Terms of one (left | group) or (left || group), in lme4's order."""
    left, right = bar.args
    _check_no_bar(left)
    whole, offsets = expand(left, response)
    if offsets or not (whole.intercept or whole.products):
        raise FormulaError(
            f"({deparse(bar)}) has no random effect on the left"
            + (": an offset belongs in the fixed part." if offsets else ": write 1 for a random intercept.")
        )
    for part in [left] if bar.function == "|" else _independent(whole):
        basis, _ = expand(part, response)
        for group in _nested(right):
            yield RandomTerm(part, basis, group)


def _independent(terms: TermList) -> Iterator[Expression]:
    """Left sides of the terms that a left || group stands for: 1, 0 + x, 0 + x:z."""
    if terms.intercept:
        yield number(1.0)
    for term in terms.products:
        variables = [terms.variables[i] for i in term]
        yield Call("+", (number(0.0), reduce(lambda a, b: Call(":", (a, b)), variables)))


def _nested(group: Expression) -> list[Expression]:
    """Groups of a/b: b:a, a."""
    match group:
        case Call("(", (inner,)):
            return _nested(inner)
        case Call("/", (outer, inner)):
            outers = _nested(outer)
            return [*(Call(":", (factor, outers[0])) for factor in _nested(inner)), *outers]
    components(group)
    return [group]


def _check_twice(random: tuple[RandomTerm, ...]) -> None:
    """Refuse an effect that varies by the same groups in two terms: only the sum of its variances would be determined."""
    first: dict[tuple[frozenset[Expression], frozenset[Expression]], RandomTerm] = {}
    for term in random:
        groups = frozenset(components(term.group))
        for effect, text in _effects(term.basis).items():
            other = first.setdefault((effect, groups), term)
            if other is not term:
                raise FormulaError(
                    f"({other}) and ({term}) both let {text} vary by {label(other.group)}: variances of one effect cannot be "
                    "told apart. Take it out of one of them, the intercept by 0 + …; (… | a/b) holds (… | a) already."
                )


def _effects(basis: TermList) -> dict[frozenset[Expression], str]:
    """What varies in a random term, and how a message calls it."""
    terms = zip(basis.products, basis.labels, strict=True)
    effects = {frozenset(basis.variables[i] for i in places): text for places, text in terms}
    return {frozenset(): "the intercept", **effects} if basis.intercept else effects
