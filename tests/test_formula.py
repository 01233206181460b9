"""lme4's formula language: text → terms. Expected expansions are those of R's terms() and lme4's findbars."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlmm_vi import FormulaError
from fastlmm_vi.grouped.expression import Call, Name, deparse, label, number
from fastlmm_vi.grouped.expression import parse as parse_expression
from fastlmm_vi.grouped.formula import parse

RANDOM = {
    "(1 | g)": ["1 | g"],
    "(1|g)": ["1 | g"],
    "(x | g)": ["x | g"],
    "(1 + x | g)": ["1 + x | g"],
    "(0 + f | g)": ["0 + f | g"],
    "(-1 + x | g)": ["-1 + x | g"],
    "((1 + (x)) | g)": ["(1 + (x)) | g"],
    "((1 | g))": ["1 | g"],
    "((1 | g) + (1 | h))": ["1 | g", "1 | h"],
    "(x || g)": ["1 | g", "0 + x | g"],
    "(0 + x || g)": ["0 + x | g"],
    "(1 || g)": ["1 | g"],
    "(x*z || g)": ["1 | g", "0 + x | g", "0 + z | g", "0 + x:z | g"],
    "(x + x || g)": ["1 | g", "0 + x | g"],
    "(x || a/b)": ["1 | b:a", "1 | a", "0 + x | b:a", "0 + x | a"],
    "(1 | a/b)": ["1 | b:a", "1 | a"],
    "(1 | (a/b))": ["1 | b:a", "1 | a"],
    "(1 | a/b/c)": ["1 | c:(b:a)", "1 | b:a", "1 | a"],
    "(1 | a:b/c)": ["1 | c:(a:b)", "1 | a:b"],
    "(x | a/b)": ["x | b:a", "x | a"],
    "(1 | a:b)": ["1 | a:b"],
    "(1 | (a:b))": ["1 | a:b"],
    "(1 | g) + (1 | h)": ["1 | g", "1 | h"],
    "(1 | g) + (0 + x | g)": ["1 | g", "0 + x | g"],
    "(1 | factor(g))": ["1 | factor(g)"],
    "(1 | interaction(a, b))": ["1 | interaction(a, b)"],
    "(log(x) | g)": ["log(x) | g"],
    "(1 | `my group`)": ["1 | `my group`"],
}

# Right side → whether it has an intercept, and R's term labels.
FIXED = {
    "x": (True, ["x"]),
    "1": (True, []),
    "0": (False, []),
    "-1 + x": (False, ["x"]),
    "x - 1": (False, ["x"]),
    "x + 0": (False, ["x"]),
    "0 + x + 1": (True, ["x"]),
    "x - 0": (True, ["x"]),
    "x - (-1)": (True, ["x"]),
    "+x": (True, ["x"]),
    "x + x + (x)": (True, ["x"]),
    "a*b": (True, ["a", "b", "a:b"]),
    "a:b + a": (True, ["a", "a:b"]),
    "b + a + a:b": (True, ["b", "a", "b:a"]),
    "a*b*c": (True, ["a", "b", "c", "a:b", "a:c", "b:c", "a:b:c"]),
    "a*b*c - a:b:c": (True, ["a", "b", "c", "a:b", "a:c", "b:c"]),
    "(a + b + c)^2": (True, ["a", "b", "c", "a:b", "a:c", "b:c"]),
    "(a + b)**2 - a": (True, ["b", "a:b"]),
    "(a + b + c)^3": (True, ["a", "b", "c", "a:b", "a:c", "b:c", "a:b:c"]),
    "x^2": (True, ["x"]),
    "a/b": (True, ["a", "a:b"]),
    "(a + b)/c": (True, ["a", "b", "a:b:c"]),
    "a/(b + c)": (True, ["a", "a:b", "a:c"]),
    "a/b/c": (True, ["a", "a:b", "a:b:c"]),
    "a %in% b": (True, ["a:b"]),
    "b + a %in% b": (True, ["b", "b:a"]),
    "(1 + a)*b": (True, ["a", "b", "a:b"]),
    "(0 + a):b": (False, ["a:b"]),
    "x - x": (True, []),
    "I(x^2) + log(x + 1, base = 2)": (True, ["I(x^2)", "log(x + 1, base = 2)"]),
    "poly(x,2)*g": (True, ["poly(x, 2)", "g", "poly(x, 2):g"]),
    "`my col`:x": (True, ["`my col`:x"]),
    "Sepal.Length + _z": (True, ["Sepal.Length", "_z"]),
    "(x > 3)": (True, ["x > 3"]),
    "x%%2 + (!flag)": (True, ["x%%2", "!flag"]),
    "x + offset(z)": (True, ["x"]),
    "offset(z) + offset(log(n))": (True, []),
}

ERRORS = {
    "": "something is missing",
    "y ~ x +": "something is missing after 'y ~ x \\+'",
    "y ~ x + (1 | g": "something is missing",
    "y ~ x + (1 | g))": r"'\)' was not expected",
    "y ~ x[1] + (1 | g)": r"'\[' was not expected after 'y ~ x'",
    "y ~ x // 2 + (1 | g)": "'/' was not expected",
    "y ~ x % 2 + (1 | g)": "'%' was not expected",
    "y ~ my col + (1 | g)": "'col' was not expected after 'y ~ my '.*backticks",
    "y ~ (a < b < c) + (1 | g)": "'<' was not expected",
    "x + (1 | g)": "has no response",
    "~ x + (1 | g)": "has no response",
    "y ~ x": "no random term.*least squares",
    "y ~ x | g": r"x \| g: a random term is added .* in parentheses",
    "y ~ x + 1 | g": r"in parentheses, … \+ \(x \+ 1 \| g\)",
    "y ~ x*(1 | g)": "in parentheses",
    "y ~ x - (1 | g)": "in parentheses",
    "y ~ !flag + (1 | g)": r"! before it goes in I\(…\)",
    "y ~ (x | g | h)": "in parentheses",
    "y ~ (1 | g) + (1 | g)": r"\(1 \| g\) and \(1 \| g\) both let the intercept vary by g",
    "y ~ (x | g) + (z | g)": r"\(x \| g\) and \(z \| g\) both let the intercept vary by g.*cannot be told apart.*0 \+",
    "y ~ (x | g) + (0 + x | g)": r"\(x \| g\) and \(0 \+ x \| g\) both let x vary by g",
    "y ~ (x || g) + (0 + z:x | g) + (0 + x:z | g)": "both let x:z vary by g",
    "y ~ (0 + a | g) + (x + log(x) + a - 1 | g)": "both let a vary by g",
    "y ~ (1 | a:b) + (1 | b:a)": r"\(1 \| a:b\) and \(1 \| b:a\) both let the intercept vary by a:b",
    "y ~ (x + z | g) + (z + x | g)": "both let the intercept vary by g",
    "y ~ (1 | a/b) + (1 | a)": r"intercept vary by a: .*\(… \| a/b\) holds \(… \| a\)",
    "y ~ (x || g) + (1 | g)": r"\(1 \| g\) and \(1 \| g\) both let",
    "y ~ (0 | g)": "no random effect on the left: write 1",
    "y ~ (x - x - 1 || g)": "no random effect on the left",
    "y ~ (x + offset(z) | g)": "no random effect on the left: an offset belongs",
    "y ~ (offset(z) + x || g)": "an offset belongs in the fixed part",
    "y ~ (1 | a + b)": r"a \+ b is no grouping factor.*\(… \| a:b\)",
    "y ~ (1 | a*b)": "no grouping factor",
    "y ~ (1 | 1)": "1 is no grouping factor.* in `backticks`",
    "y ~ . + (1 | g)": "name them",
    "y ~ y + (1 | g)": "response y is also on the right",
    "log(y) ~ x + (log(y) | g)": r"response log\(y\) is also on the right",
    "y ~ 2 + (1 | g)": r"2 is no term.*I\(…\).*a column of that name in backticks: `2`",
    "y ~ 'x' + (1 | g)": '"x" is no term',
    "y ~ TRUE + (1 | g)": "TRUE is no term",
    "y ~ x/2 + (1 | g)": "2 is no term",
    "y ~ 1/x + (1 | g)": "needs a variable on both sides",
    "y ~ x^z + (1 | g)": r"I\(x\^z\)",
    "y ~ x^1 + (1 | g)": r"I\(x\^1\)",
    "y ~ x^0.5 + (1 | g)": r"I\(x\^0.5\)",
    "y ~ x*offset(z) + (1 | g)": "an offset can be added only",
    "y ~ x - offset(z) + (1 | g)": "an offset can be added only",
    "y ~ log(offset(z)) + (1 | g)": "an offset is added .* by itself",
    "y ~ np.log(x) + (1 | g)": r"np.log\(\) is not a function of formulas: did you mean log",
    "y ~ C(x) + (1 | g)": r"did you mean factor\(x\)",
    "y ~ ordered(x) + (1 | g)": r"did you mean factor\(x, ordered = TRUE\)",
    "y ~ x.str.len() + (1 | g)": "is not a function of formulas",
    "foo(y) ~ x + (1 | g)": r"foo\(\) is not a function",
    "y ~ (Scale(x) | g)": "did you mean scale",
    "y ~ (1 | cut(x))": r"cut\(\) is not a function",
    "y ~ I(__import__(x)) + (1 | g)": "is not a function of formulas",
    "y ~ log(x, 2, 3) + (1 | g)": r"write it as log\(x, base\)",
    "y ~ log(b = 3) + (1 | g)": r"write it as log\(x, base\)",
    "y ~ log() + (1 | g)": r"write it as log\(x, base\)",
    "y ~ interaction() + (1 | g)": r"write it as interaction\(a, b, …\)",
    "y ~ I(a:b) + (1 | g)": "':' has no meaning inside a function",
    "y ~ I(a && b) + (1 | g)": "'&&' has no meaning",
    "y ~ I(a %in% b) + (1 | g)": "'%in%' has no meaning",
    "y ~ x ~ z + (1 | g)": "'~' has no meaning",
}


@pytest.mark.parametrize("text", RANDOM)
def test_random_terms_expand_as_in_lme4(text):
    assert [str(term) for term in parse(f"y ~ x + {text}").random] == RANDOM[text]


@pytest.mark.parametrize("text", FIXED)
def test_fixed_terms_expand_as_in_r(text):
    for formula in (f"y ~ {text} + (1 | g)", f"y ~ (1 | g) + {text}"):
        parsed = parse(formula)
        assert (parsed.fixed.intercept, list(parsed.fixed.labels)) == FIXED[text]


@pytest.mark.parametrize("text", [text for text in FIXED if "offset" not in text and FIXED[text] != (False, [])])
def test_left_sides_expand_like_the_fixed_part(text):
    basis = parse(f"y ~ ({text} | g)").random[0].basis
    assert (basis.intercept, list(basis.labels)) == FIXED[text]


@pytest.mark.parametrize(
    "text", ["(1 | g) + (0 + x | g)", "(x || g)", "(0 + a | g) + (0 + a:x | g)", "(x | g) + (x | h) + (x | g:h)"]
)
def test_different_effects_of_a_factor_may_be_in_several_terms(text):
    assert len(parse(f"y ~ {text}").random) == text.count("(") + text.count("||")


@pytest.mark.parametrize("text", ERRORS)
def test_malformed_formula_is_refused_with_a_way_out(text):
    with pytest.raises(FormulaError, match=ERRORS[text]):
        parse(text)


def test_left_sides_have_an_implicit_intercept():
    bases = [term.basis for term in parse("y ~ (x | g) + (0 + x | h) + (x - 1 | i) + (f*x || j)").random]
    assert [basis.intercept for basis in bases] == [True, False, False, True, False, False, False]
    assert [list(basis.labels) for basis in bases] == [["x"], ["x"], ["x"], [], ["f"], ["x"], ["f:x"]]


def test_offsets_are_kept_once_each():
    assert [deparse(tree) for tree in parse("y ~ offset(a) + x + offset(log(b)) + offset(a) + (1 | g)").offsets] == [
        "offset(a)",
        "offset(log(b))",
    ]


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("x+1*2/ 3", "x + 1 * 2/3"),
        ("- x ^ 2", "-x^2"),
        ("(-x)^2", "(-x)^2"),
        ("2^-x", "2^-x"),
        ("a^b^c", "a^b^c"),
        ("a-(b-c)", "a - (b - c)"),
        ("x**2", "x^2"),
        ("f( x,k=2L , 'it' )", 'f(x, k = 2L, "it")'),
        ("1e5+100+.5+1e-4+0.001", "1e+05 + 100 + 0.5 + 1e-04 + 0.001"),
        ("a%%2+a%/%2", "a%%2 + a%/%2"),
        ("! a==b & c", "!a == b & c"),
        ("`a b`+`c`", "`a b` + c"),
        ("été + x.1", "été + x.1"),
        ("TRUE", "TRUE"),
        ("`TRUE`", "`TRUE`"),
    ],
)
def test_expressions_are_printed_as_r_prints_them(text, printed):
    tree = parse_expression(text)
    assert deparse(tree) == printed
    assert parse_expression(printed) == tree


@pytest.mark.parametrize(
    ("text", "grouped"),
    [
        ("-x^2", "-(x^2)"),
        ("-a:b", "(-a):b"),
        ("a*b:c", "a*(b:c)"),
        ("a %in% b*c", "(a %in% b)*c"),
        ("a - b - c", "(a - b) - c"),
        ("a^b^c", "a^(b^c)"),
        ("a + b | c", "(a + b) | c"),
        ("!a == b", "!(a == b)"),
        ("a & b | c & d", "(a & b) | (c & d)"),
        ("1 + x | a/b", "(1 + x) | (a/b)"),
    ],
)
def test_operators_bind_as_in_r(text, grouped):
    def bare(tree):
        """Tree without its parentheses."""
        if not isinstance(tree, Call):
            return tree
        if tree.function == "(":
            return bare(tree.args[0])
        return Call(tree.function, tuple(map(bare, tree.args)), tree.keywords)

    assert parse_expression(text) == bare(parse_expression(grouped))


def test_a_name_alone_is_labelled_without_backticks():
    assert label(Name("my col")) == "my col"
    assert label(parse_expression("log(`my col`)")) == "log(`my col`)"


names = st.sampled_from(["x", "y.1", "my col", "_a"]).map(Name)
numbers = st.floats(0, 1e9).map(lambda value: float(f"{value:.6g}")).map(number)


def operations(inner):
    binary = st.builds(
        lambda operator, left, right: Call("(", (Call(operator, (left, right)),)),
        st.sampled_from(["+", "-", "*", "/", "^", ":", "%in%", "|", "||", "==", "&"]),
        inner,
        inner,
    )
    calls = st.builds(lambda arg, key: Call("log", (arg,), (key,)), inner, st.sampled_from(["", "x"]))
    return binary | calls


@given(st.recursive(names | numbers, operations, max_leaves=12))
@settings(max_examples=150, deadline=None)
def test_printing_and_parsing_are_inverse(tree):
    assert parse_expression(deparse(tree)) == tree


@given(st.lists(st.sampled_from(["a", "b", "c", "a:b", "a*c", "(a + b)^2", "b/c", "1", "0"]), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_adding_a_term_twice_changes_nothing(parts):
    once, twice = (parse(f"y ~ {' + '.join(written)} + (1 | g)").fixed for written in (parts, parts + parts))
    assert once == twice
