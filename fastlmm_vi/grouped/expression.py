"""R's expressions: text → tree and back. Precedence, backticks, dots in names and `^` are R's, not Python's."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from ..errors import FormulaError


@dataclass(frozen=True)
class Name:
    """A column, or a constant such as pi."""

    id: str


@dataclass(frozen=True)
class Constant:
    """A number, a string or a logical, with the text R prints for it."""

    value: float | str | bool
    text: str


@dataclass(frozen=True)
class Call:
    """A function or operator (as in R, "(" is one) and its arguments.

    `keywords` has the name of every argument of a function, "" for the positional ones; operators have none.
    """

    function: str
    args: tuple["Expression", ...]
    keywords: tuple[str, ...] = ()


Expression = Name | Constant | Call

# How tightly a binary operator binds; ^ groups from the right, the others from the left.
PRECEDENCE = {
    **dict.fromkeys(["~"], 1),
    **dict.fromkeys(["|", "||"], 2),
    **dict.fromkeys(["&", "&&"], 3),
    **dict.fromkeys(["==", "!=", "<", ">", "<=", ">="], 5),
    **dict.fromkeys(["+", "-"], 6),
    **dict.fromkeys(["*", "/"], 7),
    **dict.fromkeys(["%in%", "%%", "%/%"], 8),
    **dict.fromkeys([":"], 9),
    **dict.fromkeys(["^"], 11),
}
PREFIX = {"~": 1, "!": 4, "+": 10, "-": 10}
COMPARISON = PRECEDENCE["=="]
_CLOSE = {"/", "^", ":", "%%", "%/%"}  # printed without blanks
_LOGICAL = {"TRUE": True, "FALSE": False}
_NAME = re.compile(r"(?:[^\W\d]|\.(?!\d))[\w.]*")
_TOKEN = re.compile(
    rf"""(?P<blank>\s+)
    |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?L?)
    |(?P<name>{_NAME.pattern})
    |`(?P<quoted>[^`]+)`
    |"(?P<double>[^"\\]*)"|'(?P<single>[^'\\]*)'
    |(?P<operator>%in%|%/%|%%|\|\||&&|\*\*|[=!<>]=|[-+*/^:|&!<>=~(),])""",
    re.VERBOSE,
)


class _Token(NamedTuple):
    kind: str
    text: str
    start: int


def parse(text: str) -> Expression:
    """Return the tree of one expression in R's grammar.

    Raises
    ------
    FormulaError
        If `text` is not an expression; the message quotes the place.
    """
    parser = _Parser(text)
    tree = parser.expression(0)
    parser.expect("")
    return tree


def deparse(tree: Expression) -> str:
    """Text of an expression as R prints it: `log(x + 1)`, `I(x^2)`, `a:b`; names that need it in backticks."""
    match tree:
        case Name(id):
            return id if _NAME.fullmatch(id) and id not in _LOGICAL else f"`{id}`"
        case Constant(_, text):
            return text
        case Call("(", (inner,)):
            return f"({deparse(inner)})"
        case Call(operator, (left, right)) if operator in PRECEDENCE:
            blank = "" if operator in _CLOSE else " "
            return f"{deparse(left)}{blank}{operator}{blank}{_right(operator, right)}"
        case Call(operator, (operand,)) if operator in PREFIX:
            return operator + deparse(operand)
        case Call(function, args, keywords):
            shown = [
                f"{key} = {deparse(arg)}" if key else deparse(arg) for key, arg in zip(keywords, args, strict=True)
            ]
            return f"{function}({', '.join(shown)})"


def label(tree: Expression) -> str:
    """Like `deparse`, but a name alone stands without backticks, as R names responses and grouping factors."""
    return tree.id if isinstance(tree, Name) else deparse(tree)


def walk(tree: Expression) -> Iterator[Expression]:
    """Iterate over the tree and everything below it, from left to right."""
    yield tree
    if isinstance(tree, Call):
        for arg in tree.args:
            yield from walk(arg)


def number(value: float) -> Constant:
    """Constant of a number, printed with up to 15 digits, in whichever of 0.001 and 1e-03 is shorter."""
    fixed = format(Decimal(f"{value:.15g}"), "f")
    mantissa, _, exponent = f"{value:.14e}".partition("e")
    scientific = f"{mantissa.rstrip('0').rstrip('.')}e{exponent}"
    return Constant(value, scientific if len(scientific) < len(fixed) else fixed)


def _right(operator: str, right: Expression) -> str:
    """Right operand; in parentheses where it would else be read as part of the left one."""
    text = deparse(right)
    same = isinstance(right, Call) and len(right.args) == 2 and PRECEDENCE.get(right.function) == PRECEDENCE[operator]
    return f"({text})" if same and operator != "^" else text


class _Parser:
    """Precedence climbing over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._tokens())
        self.next = 0

    def _tokens(self) -> Iterator[_Token]:
        start = 0
        while start < len(self.text):
            found = _TOKEN.match(self.text, start)
            if found is None:
                raise self._error(_Token("", self.text[start], start))
            kind = str(found.lastgroup)
            if kind != "blank":
                yield _Token(kind, found[kind], start)
            start = found.end()
        yield _Token("end", "", start)

    def _error(self, token: _Token) -> FormulaError:
        what = f"{token.text!r} was not expected" if token.text else "something is missing"
        return FormulaError(
            f"formula {self.text!r}: {what} after {self.text[: token.start]!r}. It has to read as R's, e.g. "
            "y ~ x + (1 + x | g); a column whose name is not a plain word goes in `backticks`."
        )

    def _take(self) -> _Token:
        token = self.tokens[self.next]
        self.next += token.kind != "end"
        return token

    def _operator(self) -> str:
        """Binary operator that comes next, or "" where none does."""
        kind, text, _ = self.tokens[self.next]
        text = "^" if text == "**" else text
        return text if kind == "operator" and text in PRECEDENCE else ""

    def _at(self, text: str) -> bool:
        kind, found, _ = self.tokens[self.next]
        return kind in ("operator", "end") and found == text

    def expect(self, text: str) -> None:
        """Step over `text`, or over nothing at the end."""
        token = self._take()
        if token.kind not in ("operator", "end") or token.text != text:
            raise self._error(token)

    def expression(self, weakest: int) -> Expression:
        """Longest expression whose operators bind at least as tightly as `weakest`."""
        tree = self._operand()
        while (operator := self._operator()) and (binds := PRECEDENCE[operator]) >= weakest:
            token = self._take()
            if binds == COMPARISON and isinstance(tree, Call) and PRECEDENCE.get(tree.function) == COMPARISON:
                raise self._error(token)
            tree = Call(operator, (tree, self.expression(binds if operator == "^" else binds + 1)))
        return tree

    def _operand(self) -> Expression:
        token = self._take()
        match token.kind:
            case "number":
                value = float(token.text.rstrip("L"))
                return Constant(value, token.text) if token.text.endswith("L") else number(value)
            case "double" | "single":
                return Constant(token.text, '"' + token.text.replace('"', '\\"') + '"')
            case "quoted":
                return Name(token.text)
            case "name" if self._at("("):
                return self._call(token.text)
            case "name":
                known = _LOGICAL.get(token.text)
                return Name(token.text) if known is None else Constant(known, token.text)
            case "operator" if token.text == "(":
                inner = self.expression(0)
                self.expect(")")
                return Call("(", (inner,))
            case "operator" if token.text in PREFIX:
                return Call(token.text, (self.expression(PREFIX[token.text]),))
        raise self._error(token)

    def _call(self, function: str) -> Call:
        self.expect("(")
        args: list[Expression] = []
        keywords: list[str] = []
        while not self._at(")"):
            if args:
                self.expect(",")
            named = self.tokens[self.next].kind == "name" and self.tokens[self.next + 1].text == "="
            keywords.append(self._take().text if named else "")
            if named:
                self.expect("=")
            args.append(self.expression(0))
        self.expect(")")
        return Call(function, tuple(args), tuple(keywords))
