"""Formula + data → the grouped design: values, R's column names, coding of new rows, and every refusal."""

import json
import pickle
import re
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.interpolate
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import REFERENCES, SHARED, needs_references

from fastlmm_vi import FormulaError
from fastlmm_vi.errors import DataError
from fastlmm_vi.grouped.contrasts import polynomials
from fastlmm_vi.grouped.model_frame import build

SMALL = pd.DataFrame(
    {
        "y": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "x": [0.5, -1.0, 2.0, 0.0, 1.5, -0.5],
        "n": [3, 1, 2, 3, 1, 2],
        "f": ["b", "a", "b", "a", "b", "a"],
        "h": ["u", "u", "v", "w", "v", "w"],
        "g": [10, 9, 10, 9, 10, 9],
    }
)


def table(n=60, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "x": rng.normal(size=n),
            "z": rng.uniform(1.0, 5.0, size=n),
            "n": rng.integers(1, 4, size=n),
            "a": rng.permutation(np.resize(["p", "q", "r"], n)),
            "b": rng.permutation(np.resize(["u", "v"], n)),
            "flag": rng.permutation(np.resize([True, False], n)),
            "my col": rng.normal(size=n),
            "g": rng.permutation(np.resize(np.arange(8), n)),
            "h": rng.permutation(np.resize(list("ABCDE"), n)),
            "o": pd.Categorical(rng.permutation(np.resize(list("low"), n)), list("low"), ordered=True),
        },
        index=[f"row {i}" for i in range(n)],
    )


TABLE = table()

# The fixed part and the names that R's model.matrix gives its columns.
NAMES = {
    "1": "(Intercept)",
    "0": "",
    "x": "(Intercept) x",
    "a": "(Intercept) aq ar",
    "0 + a": "ap aq ar",
    "0 + a + b": "ap aq ar bv",
    "0 + b + a": "bu bv aq ar",
    "0 + x + a": "x ap aq ar",
    "0 + x:a + b": "bu bv x:ap x:aq x:ar",
    "a*b": "(Intercept) aq ar bv aq:bv ar:bv",
    "a + a:b": "(Intercept) aq ar ap:bv aq:bv ar:bv",
    "b + a + a:b": "(Intercept) bv aq ar bv:aq bv:ar",
    "a:b": "(Intercept) ap:bu aq:bu ar:bu ap:bv aq:bv ar:bv",
    "0 + a:b": "ap:bu aq:bu ar:bu ap:bv aq:bv ar:bv",
    "b %in% a": "(Intercept) bu:ap bv:ap bu:aq bv:aq bu:ar bv:ar",
    "a/b": "(Intercept) aq ar ap:bv aq:bv ar:bv",
    "a/x": "(Intercept) aq ar ap:x aq:x ar:x",
    "x:a": "(Intercept) x:ap x:aq x:ar",
    "x + x:a": "(Intercept) x x:aq x:ar",
    "x*a - x": "(Intercept) aq ar x:ap x:aq x:ar",
    "0 + x + x:a": "x x:ap x:aq x:ar",
    "0 + a*x": "ap aq ar x aq:x ar:x",
    "a:b + a:flag": "(Intercept) ap:bu aq:bu ar:bu ap:bv aq:bv ar:bv ap:flagTRUE aq:flagTRUE ar:flagTRUE",
    "flag": "(Intercept) flagTRUE",
    "0 + flag": "flagFALSE flagTRUE",
    "flag*x": "(Intercept) flagTRUE x flagTRUE:x",
    "factor(n)": "(Intercept) factor(n)2 factor(n)3",
    "as.factor(n):x": "(Intercept) as.factor(n)1:x as.factor(n)2:x as.factor(n)3:x",
    "`my col`*x": "(Intercept) `my_col` x `my_col`:x",
    "I(x^2) + log(z)": "(Intercept) I(x^2) log(z)",
    "(x > 0) + (a == 'q')": '(Intercept) x_>_0TRUE a_==_"q"TRUE',
    "poly(x, 2)": "(Intercept) poly(x,_2)1 poly(x,_2)2",
    "poly(x, 1)": "(Intercept) poly(x,_1)",
    "poly(x, 2):b": "(Intercept) poly(x,_2)1:bu poly(x,_2)2:bu poly(x,_2)1:bv poly(x,_2)2:bv",
    "relevel(a, ref = 'q')": '(Intercept) relevel(a,_ref_=_"q")p relevel(a,_ref_=_"q")r',
    "factor(a, levels = c('r', 'q', 'p'))": "(Intercept) "
    + " ".join(f'factor(a,_levels_=_c("r",_"q",_"p")){level}' for level in "qp"),
    "interaction(b, a)": "(Intercept) "
    + " ".join(f"interaction(b,_a){ab}" for ab in ["v.p", "u.q", "v.q", "u.r", "v.r"]),
    "(x + a + b)^2 - a:b": "(Intercept) x aq ar bv x:aq x:ar x:bv",
}

# One piece of a column name → its numbers in TABLE.
PIECES = {
    "(Intercept)": np.ones(60),
    **{f"a{level}": (TABLE["a"] == level).to_numpy(float) for level in "pqr"},
    **{f"b{level}": (TABLE["b"] == level).to_numpy(float) for level in "uv"},
    **{f"{kind}factor(n){level}": (TABLE["n"] == level).to_numpy(float) for kind in ("", "as.") for level in (1, 2, 3)},
    **{f'relevel(a, ref = "q"){level}': (TABLE["a"] == level).to_numpy(float) for level in "pr"},
    **{f'factor(a, levels = c("r", "q", "p")){level}': (TABLE["a"] == level).to_numpy(float) for level in "pq"},
    **{f"interaction(b, a){b}.{a}": ((TABLE.b == b) & (TABLE.a == a)).to_numpy(float) for b in "uv" for a in "pqr"},
    "flagTRUE": TABLE["flag"].to_numpy(float),
    "flagFALSE": 1.0 - TABLE["flag"].to_numpy(float),
    "x": TABLE["x"].to_numpy(),
    "`my col`": TABLE["my col"].to_numpy(),
    "I(x^2)": TABLE["x"].to_numpy() ** 2,
    "log(z)": np.log(TABLE["z"].to_numpy()),
    "x > 0TRUE": (TABLE["x"] > 0).to_numpy(float),
    'a == "q"TRUE': (TABLE["a"] == "q").to_numpy(float),
    "poly(x, 1)": (TABLE["x"] - TABLE["x"].mean()).to_numpy() / np.sqrt(((TABLE["x"] - TABLE["x"].mean()) ** 2).sum()),
}


def orthonormal(x, degree):
    """Polynomials of x orthonormal to each other and to the constant, leading coefficients positive, by QR."""
    powers = np.vander(x - x.mean(), degree + 1, increasing=True)
    q, r = np.linalg.qr(powers)
    return (q * np.sign(np.diag(r)))[:, 1:]


PIECES |= {f"poly(x, 2){k + 1}": column for k, column in enumerate(orthonormal(TABLE["x"].to_numpy(), 2).T)}


@pytest.mark.parametrize("fixed", NAMES)
def test_columns_have_the_names_and_values_of_r(fixed):
    expected = [name.replace("_", " ") for name in NAMES[fixed].split()]
    design = build(f"y ~ {fixed} + (1 | g)", TABLE)
    assert list(design.fixed_names) == expected
    assert design.X.shape == (60, len(expected))
    assert design.X.flags.c_contiguous
    for name, column in zip(expected, design.X.T, strict=True):
        product = np.prod([PIECES[piece] for piece in name.split(":")], axis=0)
        np.testing.assert_allclose(column, product, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "left", [left for left in NAMES if NAMES[left] and "interaction" not in left and ":b" not in left]
)
def test_a_left_side_is_coded_like_a_fixed_part(left):
    data = pd.concat([TABLE] * 3)
    fixed = build(f"y ~ {left} + (1 | g)", data)
    (term,) = build(f"y ~ 1 + ({left} | g)", data).terms
    assert term.names == fixed.fixed_names
    np.testing.assert_array_equal(term.basis, fixed.X)


def test_design_by_hand():
    design = build("log(y) ~ f*x + (1 | h) + (0 + x | h) + (1 | f:g)", SMALL.assign(g=[1, 1, 2, 2, 1, 1]))
    x = SMALL["x"].to_numpy()
    is_b = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    assert design.response == "log(y)"
    assert design.fixed_names == ("(Intercept)", "fb", "x", "fb:x")
    np.testing.assert_array_equal(design.X, np.column_stack([np.ones(6), is_b, x, is_b * x]))
    np.testing.assert_array_equal(design.y, np.log(SMALL["y"]))
    intercept, slope, crossed = design.terms
    assert intercept.factor is slope.factor
    assert intercept.factor.name == "h"
    assert list(intercept.factor.levels) == ["u", "v", "w"]
    np.testing.assert_array_equal(intercept.factor.codes, [0, 0, 1, 2, 1, 2])
    assert intercept.factor.codes.dtype == np.intp
    np.testing.assert_array_equal(slope.basis, x[:, None])
    assert (intercept.names, slope.names) == (("(Intercept)",), ("x",))
    assert crossed.factor.name == "f:g"
    assert list(crossed.factor.levels) == ["a:1", "a:2", "b:1", "b:2"]
    np.testing.assert_array_equal(crossed.factor.codes, [2, 0, 3, 1, 2, 0])
    assert design.offset is None
    assert design.weights is None
    assert (design.n_missing, design.unused_levels) == (0, {})


def test_independent_effects_of_a_factor_stay_one_term_with_all_its_dummies():
    terms = build("y ~ 1 + (a*x || h)", pd.concat([TABLE] * 2)).terms
    assert [term.names for term in terms] == [
        ("(Intercept)",),
        ("ap", "aq", "ar"),
        ("x",),
        ("ap:x", "aq:x", "ar:x"),
    ]
    assert len({id(term.factor) for term in terms}) == 1


def test_nested_groups_are_named_and_ordered_as_in_lme4():
    data = TABLE.assign(h=pd.Categorical(TABLE["h"], categories=list("EDCBA")))
    inner, middle, outer = (term.factor for term in build("y ~ x + (1 | b/a/h)", pd.concat([data] * 2)).terms)
    assert [factor.name for factor in (inner, middle, outer)] == ["h:(a:b)", "a:b", "b"]
    assert list(middle.levels) == ["p:u", "p:v", "q:u", "q:v", "r:u", "r:v"]
    combined = data["h"].astype(str) + ":" + data["a"] + ":" + data["b"]
    assert list(inner.levels) == sorted(set(combined), key=lambda text: ("EDCBA".index(text[0]), text[2:]))
    assert list(inner.levels[inner.codes]) == list(combined) * 2


@pytest.mark.parametrize(
    ("labels", "levels", "names"),
    [
        (["b", "a", "c"], ["a", "b", "c"], "abc"),
        ([10, 9, 100], [9, 10, 100], ["9", "10", "100"]),
        (["10", "9", "100"], ["10", "100", "9"], ["10", "100", "9"]),
        ([0.5, 2.0, 1.0], [0.5, 1.0, 2.0], ["0.5", "1", "2"]),
        (pd.Categorical(["m", "l", "h"], categories=["l", "m", "h", "never"], ordered=True), ["l", "m", "h"], "lmh"),
        (pd.Categorical([3, 1, 2], categories=[3, 2, 1]), [3, 2, 1], "321"),
        (pd.array([3, 1, 2], dtype="Int64"), [1, 2, 3], "123"),
        (pd.array(["z", "x", "y"], dtype="string"), ["x", "y", "z"], "xyz"),
        (np.array(["z", "x", "y"], dtype=object), ["x", "y", "z"], "xyz"),
        (
            pd.date_range("2020-01-01", periods=3),
            list(pd.date_range("2020-01-01", periods=3)),
            ["2020-01-01", "2020-01-02", "2020-01-03"],
        ),
        (
            pd.date_range("2020-01-01", periods=3, freq="12h"),
            list(pd.date_range("2020-01-01", periods=3, freq="12h")),
            ["2020-01-01 00:00:00", "2020-01-01 12:00:00", "2020-01-02 00:00:00"],
        ),
        ([True, False, True], [False, True], ["FALSE", "TRUE"]),
        (np.array([True, False, True], dtype=object), [False, True], ["FALSE", "TRUE"]),
        (pd.array([True, False, True], dtype="boolean"), [False, True], ["FALSE", "TRUE"]),
        (pd.Categorical([True, False, True], [True, False]), [True, False], ["TRUE", "FALSE"]),
        ([2**63 + 5, 2**63 + 1, 2**63 + 3], [2**63 + 1, 2**63 + 3, 2**63 + 5], None),
    ],
)
def test_levels_have_the_order_of_the_categorical_or_else_are_sorted(labels, levels, names):
    data = (
        pd.DataFrame({"f": labels}).iloc[np.resize([0, 1, 2], 12)].assign(y=np.arange(12.0), g=np.repeat([1, 2, 3], 4))
    )
    factor = build("y ~ 1 + (1 | f)", data).terms[0].factor
    assert list(factor.levels) == levels
    assert list(factor.levels[factor.codes]) == list(data["f"])
    if names is not None:
        assert factor.labels == list(names)
        assert build("y ~ 0 + factor(f) + (1 | g)", data).fixed_names == tuple(f"factor(f){name}" for name in names)


def test_unused_levels_are_dropped_and_counted():
    data = TABLE.assign(
        a=pd.Categorical(TABLE["a"], categories=list("rspqt")), h=pd.Categorical(TABLE["h"], categories=list("XABCDE"))
    )
    data["b"] = pd.Categorical(data["b"])
    design = build("y ~ a + b + (1 | h)", data)
    assert design.fixed_names == ("(Intercept)", "ap", "aq", "bv")
    np.testing.assert_array_equal(design.X[:, 1], TABLE["a"] == "p")
    factor = design.terms[0].factor
    assert list(factor.levels) == list("ABCDE")
    assert list(factor.levels[factor.codes]) == list(TABLE["h"])
    assert design.unused_levels == {"a": 2, "h": 1}


@pytest.mark.parametrize("size", [2, 3, 6, 40, 200])
def test_polynomial_contrasts_are_orthonormal_and_of_their_degree(size):
    Q = polynomials(size)
    points = np.linspace(-1.0, 1.0, size)
    np.testing.assert_allclose(Q.T @ Q, np.eye(size - 1), rtol=0, atol=1e-13)
    np.testing.assert_allclose(Q.sum(axis=0), 0.0, rtol=0, atol=1e-12)
    for degree in range(1, min(size, 12)):  # the least-squares polynomial of that degree is the column itself
        fit = np.polynomial.Chebyshev.fit(points, Q[:, degree - 1], degree)
        np.testing.assert_allclose(fit(points), Q[:, degree - 1], rtol=0, atol=1e-12)
        assert fit.coef[-1] > 0.0


def test_new_rows_of_an_ordered_factor_are_coded_by_the_scale_of_the_fit():
    design = build("y ~ o*x + (o | g)", pd.concat([TABLE] * 2))
    linear, square = [-(0.5**0.5), 0.0, 0.5**0.5], [6**-0.5, -2 * 6**-0.5, 6**-0.5]
    expected = [[1.0, linear[k], square[k]] for k in (2, 0)]
    for labels in (["w", "l"], pd.Categorical(["w", "l"]), pd.Categorical(["w", "l"], list("wl"), ordered=True)):
        new = design.rows({"o": labels, "x": [0.0, 0.0], "g": [0, 1]})
        np.testing.assert_allclose(new.X[:, :3], expected, rtol=0, atol=1e-15)
        np.testing.assert_allclose(new.terms[0].basis, expected, rtol=0, atol=1e-15)
    with pytest.raises(DataError, match=r"o has the level 'x', which the fit did not have.*Known are l, o, w"):
        design.rows({"o": ["x"], "x": [0.0], "g": [0]})


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (np.arange(12), "number"),
        (np.arange(12, dtype=np.uint8), "number"),
        (np.arange(12, dtype=np.float32), "number"),
        ([10**25 + i for i in range(12)], "number"),
        (pd.array(range(12), dtype="Int64"), "number"),
        (pd.array(range(12), dtype="Float64"), "number"),
        (np.arange(12).astype(object), "number"),
        (np.resize([True, False], 12), "logical"),
        (pd.array(np.resize([True, False], 12), dtype="boolean"), "logical"),
        (np.resize([True, False], 12).astype(object), "logical"),
        (np.resize([True, True], 12), "logical"),
        (np.resize(["s", "t"], 12), "factor"),
        (pd.array(np.resize(["s", "t"], 12), dtype="string"), "factor"),
        (pd.Categorical(np.resize(["s", "t"], 12)), "factor"),
        (pd.Categorical(np.resize([1, 2], 12)), "factor"),
        (np.array(["s", 1] * 6, dtype=object), "factor"),
    ],
)
def test_columns_are_numbers_logicals_or_factors(column, kind):
    data = pd.DataFrame({"c": column, "y": np.arange(12.0), "g": np.resize([1, 2, 3], 12)})
    design = build("y ~ c + (1 | g)", data)
    if kind == "number":
        assert design.fixed_names == ("(Intercept)", "c")
        np.testing.assert_array_equal(design.X[:, 1], np.asarray(column, dtype=float))
    elif kind == "logical":
        assert design.fixed_names == ("(Intercept)", "cTRUE")
        np.testing.assert_array_equal(design.X[:, 1], np.asarray(column, dtype=float))
    else:
        assert len(design.fixed_names) == 2
        assert set(design.X[:, 1]) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("I(x^2 + 1)", lambda d: d.x**2 + 1),
        ("I(x**3)", lambda d: d.x**3),
        ("I(-x^2)", lambda d: -(d.x**2)),
        ("I(x*z/2 - 1)", lambda d: d.x * d.z / 2 - 1),
        ("I((x > 0)*z)", lambda d: (d.x > 0) * d.z),
        ("I(as.numeric((x > 0 & z <= 3) | !(n != 2)))", lambda d: ((d.x > 0) & (d.z <= 3)) | (d.n == 2)),
        ("I(0 + (a == 'q' | 'r' == a))", lambda d: d.a.isin(["q", "r"])),
        ("I(0 + (a != 'q'))", lambda d: d.a != "q"),
        ("I(0 + (factor(n) == 2))", lambda d: d.n == 2),
        ("I(0 + (n == 2))", lambda d: d.n == 2),
        ("I(n %% 2 + n %/% 2)", lambda d: d.n % 2 + d.n // 2),
        ("I(x %% 2)", lambda d: d.x - 2 * np.floor(d.x / 2)),
        ("log(z, 2)", lambda d: np.log2(d.z)),
        ("log(z, base = 3)", lambda d: np.log(d.z) / np.log(3)),
        ("log(base = 10, z)", lambda d: np.log10(d.z)),
        ("sin(2*pi*z/5)", lambda d: np.sin(2 * np.pi * d.z / 5)),
        ("sqrt(exp(abs(x)))", lambda d: np.sqrt(np.exp(np.abs(d.x)))),
        ("log1p(z^2)", lambda d: np.log1p(d.z**2)),
        ("round(z, 1)", lambda d: np.round(d.z, 1)),
        ("round(z)", lambda d: np.round(d.z)),
        ("ceiling(z)", lambda d: np.ceil(d.z)),
        ("as.numeric(flag)", lambda d: d.flag),
        ("scale(z)", lambda d: (d.z - d.z.mean()) / d.z.std(ddof=1)),
        ("scale(z, scale = FALSE)", lambda d: d.z - d.z.mean()),
        ("scale(z, center = 2, scale = 3)", lambda d: (d.z - 2) / 3),
        ("center(z)", lambda d: d.z - d.z.mean()),
        ("I(scale(z)^2)", lambda d: ((d.z - d.z.mean()) / d.z.std(ddof=1)) ** 2),
        ("`my col`", lambda d: d["my col"]),
    ],
)
def test_functions_mean_what_they_mean_in_r(text, values):
    (column,) = build(f"y ~ 0 + {text} + (1 | g)", TABLE).X.T
    np.testing.assert_allclose(column, values(TABLE).to_numpy(float), rtol=1e-14, atol=1e-14)


def test_raw_polynomials_and_splines():
    z = TABLE["z"].to_numpy()
    X = build("y ~ 0 + poly(z, 3, raw = TRUE) + bs(z, df = 5) + bs(z, knots = 3, degree = 2) + (1 | g)", TABLE).X
    np.testing.assert_allclose(X[:, :3], np.column_stack([z, z**2, z**3]), rtol=1e-14)
    for columns, inner, k in [(X[:, 3:8], np.quantile(z, [1 / 3, 2 / 3]), 3), (X[:, 8:], [3.0], 2)]:
        knots = np.concatenate([np.repeat(z.min(), k + 1), inner, np.repeat(z.max(), k + 1)])
        basis = scipy.interpolate.BSpline.design_matrix(z, knots, k).toarray()
        np.testing.assert_allclose(columns, basis[:, 1:], rtol=0, atol=1e-12)


def test_splines_go_on_as_polynomials_beyond_the_data_of_the_fit():
    design = build("y ~ 0 + bs(z, degree = 2) + (1 | g)", TABLE)
    within, beyond = np.array([1.5, 2.0, 3.0]), np.array([-4.0, 9.0])
    inside, outside = (design.rows({"z": z}, random=False).X for z in (within, beyond))
    polynomials = np.polynomial.polynomial.polyfit(within, inside, 2)
    np.testing.assert_allclose(outside, np.polynomial.polynomial.polyval(beyond, polynomials).T, rtol=1e-10)


def test_offsets_add_up():
    design = build("y ~ offset(x) + a + offset(log(z)) + offset(flag) + (1 | g)", TABLE)
    np.testing.assert_allclose(design.offset, TABLE["x"] + np.log(TABLE["z"]) + TABLE["flag"], rtol=1e-15)
    assert design.fixed_names == ("(Intercept)", "aq", "ar")


MODELS = json.loads((REFERENCES / "grouped_ml_reml.json").read_text())["models"] if REFERENCES.is_dir() else {"": {}}


@needs_references
@pytest.mark.parametrize("name", MODELS)
def test_designs_are_those_of_lme4(name):
    model = MODELS[name]
    data = pd.read_csv(SHARED / "data" / "lme4" / f"{model['dataset']}.csv")
    for column, levels in model["factor_levels_in_order"].items():
        if levels:
            data[column] = pd.Categorical(data[column].astype(str), categories=levels)
    design = build(model["formula"], data)
    assert list(design.fixed_names) == np.atleast_1d(model["xnames"]).tolist()
    assert design.X.shape == (model["nobs"], model["p"])
    assert {term.factor.name: len(term.factor.levels) for term in design.terms} == model["ngrps"]
    assert sum(term.basis.shape[1] * len(term.factor.levels) for term in design.terms) == model["q"]
    expected = [
        (block["group"].removesuffix(".1"), tuple(np.atleast_1d(block["names"])))
        for block in model["REML_default"]["varcorr"]
    ]
    assert sorted((term.factor.name, term.names) for term in design.terms) == sorted(expected)


# Tables of every kind


class Exchanged:
    """A table of a library that knows the interchange protocol only."""

    def __init__(self, frame):
        self.frame = frame

    def __dataframe__(self, **options):
        return self.frame.__dataframe__(**options)


class Convertible:
    """A table of a library that can turn itself into pandas, such as polars."""

    def __init__(self, frame):
        self.frame = frame

    def to_pandas(self):
        return self.frame


@pytest.mark.parametrize(
    "convert",
    [
        lambda frame: {name: frame[name].to_numpy() for name in frame},
        lambda frame: {name: frame[name].tolist() for name in frame},
        lambda frame: dict(frame.items()),
        Exchanged,
        Convertible,
    ],
    ids=["arrays", "lists", "series", "interchange", "to_pandas"],
)
def test_every_kind_of_table_gives_the_same_design(convert):
    formula = "y ~ a*x + flag + (x | g) + (1 | h)"
    expected = build(formula, TABLE)
    design = build(formula, convert(TABLE))
    assert design.fixed_names == expected.fixed_names
    np.testing.assert_array_equal(design.X, expected.X)
    np.testing.assert_array_equal(design.y, expected.y)
    for term, other in zip(design.terms, expected.terms, strict=True):
        assert list(term.factor.levels) == list(other.factor.levels)
        np.testing.assert_array_equal(term.factor.codes, other.factor.codes)
        np.testing.assert_array_equal(term.basis, other.basis)
    assert len(design.index) == 60


@pytest.mark.parametrize("convert", [lambda frame: frame, lambda frame: dict(frame.items())], ids=["frame", "dict"])
def test_columns_whose_names_are_no_text_go_by_their_text_in_backticks(convert):
    renamed = {"x": 1, "a": 2020, "h": ("h", 0), "g": 3.5, "z": "5", "n": 5}
    formula = "y ~ `1`*`2020` + `5` + (`1` | `3.5`) + (1 | `('h', 0)`)"
    design = build(formula, convert(TABLE.rename(columns=renamed)), weights="5")
    expected = build("y ~ x*a + z + (x | g) + (1 | h)", TABLE, weights="z")  # not n: text comes before numbers
    np.testing.assert_array_equal(design.X, expected.X)
    np.testing.assert_array_equal(design.weights, expected.weights)
    names = ("(Intercept)", "`1`", "`2020`q", "`2020`r", "`5`", "`1`:`2020`q", "`1`:`2020`r")
    assert design.fixed_names == names
    assert [term.factor.name for term in design.terms] == ["3.5", "('h', 0)"]
    np.testing.assert_array_equal(design.rows(convert(TABLE.rename(columns=renamed))).X, expected.X)


def test_data_are_not_changed_and_not_shared():
    data = TABLE.copy()
    design = build("y ~ x + poly(z, 2) + offset(z) + (x | h) + (1 | g)", data, weights="z", missing="drop")
    for array in (design.y, design.X, design.offset, design.weights, *(term.basis for term in design.terms)):
        array[:] = 7.0
    pd.testing.assert_frame_equal(data, TABLE)


# Missing values and weights


def with_gaps():
    data = TABLE.copy()
    data.loc["row 3", "y"] = np.nan
    data.loc[["row 3", "row 7"], "x"] = np.nan
    data["h"] = data["h"].astype(object)
    data.loc["row 9", "h"] = None
    data.loc["row 20", "my col"] = np.nan
    return data


def test_missing_values_are_refused_by_column():
    with pytest.raises(DataError, match=r'^3 of 60 rows .*, in y \(1\), x \(2\), h \(1\): missing="drop"'):
        build("y ~ x + (1 | h)", with_gaps())
    assert build("z ~ a + (1 | g)", with_gaps()).n_missing == 0


def test_dropping_is_the_same_as_dropping_beforehand():
    data = with_gaps()
    kept = data.dropna(subset=["y", "x", "h"])
    formula = "y ~ x + factor(n)*a + I(z^2) + (x | h) + (1 | g)"
    weights = np.arange(1.0, 61.0)
    design = build(formula, data, missing="drop", weights=weights)
    expected = build(formula, kept, weights=weights[~data[["y", "x", "h"]].isna().any(axis=1)])
    assert design.n_missing == 3
    assert list(design.index) == list(kept.index)
    for field in ("y", "X", "weights"):
        np.testing.assert_array_equal(getattr(design, field), getattr(expected, field))
    np.testing.assert_array_equal(design.terms[0].factor.codes, expected.terms[0].factor.codes)


def test_what_is_fitted_to_the_data_sees_all_rows_that_have_its_columns():
    data = with_gaps()
    design = build("scale(y) ~ scale(x) + I(center(z)^2) + (scale(x + z) | h)", data, missing="drop")
    assert design.n_missing == 3
    kept = data.dropna(subset=["y", "x", "h"])
    both = data["x"] + data["z"]
    np.testing.assert_allclose(design.y, (kept["y"] - data["y"].mean()) / data["y"].std(), rtol=1e-12)
    np.testing.assert_allclose(design.X[:, 1], (kept["x"] - data["x"].mean()) / data["x"].std(), rtol=1e-12)
    np.testing.assert_allclose(design.X[:, 2], (kept["z"] - data["z"].mean()) ** 2, rtol=1e-12)
    np.testing.assert_allclose(design.terms[0].basis[:, 1], ((both - both.mean()) / both.std())[kept.index], rtol=1e-12)
    new = design.rows(data.iloc[[0]])
    np.testing.assert_allclose(new.X, design.X[:1], rtol=1e-15)


def test_polynomials_are_fitted_where_their_own_column_is_there():
    data = with_gaps()
    design = build("y ~ poly(x, 2) + a + (1 | h)", data, missing="drop")
    there = data.dropna(subset=["x"])
    expected = pd.DataFrame(orthonormal(there["x"].to_numpy(), 2), index=there.index)
    np.testing.assert_allclose(design.X[:, 1:3], expected.loc[design.index], rtol=0, atol=1e-14)


def test_levels_of_dropped_rows_go_too():
    data = TABLE.assign(a=pd.Categorical(TABLE["a"]), x=TABLE["x"].mask(TABLE["a"] == "p"))
    design = build("y ~ a + x + (1 | g)", data, missing="drop")
    assert design.fixed_names == ("(Intercept)", "ar", "x")
    assert design.unused_levels == {"a": 1}


def test_weights_by_name_by_array_and_missing():
    named = build("y ~ x + (1 | g)", TABLE, weights="z")
    np.testing.assert_array_equal(named.weights, TABLE["z"])
    for given_weights in (TABLE["z"], TABLE["z"].to_numpy(), TABLE["z"].tolist()):
        np.testing.assert_array_equal(build("y ~ x + (1 | g)", TABLE, weights=given_weights).weights, TABLE["z"])
    gappy = TABLE["z"].where(np.arange(60) != 5)
    with pytest.raises(DataError, match=r"weights.*\(1\)"):
        build("y ~ x + (1 | g)", TABLE, weights=gappy)
    assert build("y ~ x + (1 | g)", TABLE, weights=gappy, missing="drop").n_missing == 1


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(59), r"shape \(59,\), data has 60 rows"),
        (np.ones((60, 1)), r"shape \(60, 1\)"),
        (2.0, r"shape \(\), data has 60 rows"),
        (np.zeros(60), "positive, finite"),
        (-np.ones(60), "positive, finite"),
        (np.full(60, np.inf), "positive, finite"),
        (["heavy"] * 60, "positive, finite"),
        ("Z", "'Z' is not a column of data: did you mean z"),
        ("pi", "'pi' is not a column of data"),
        ("a", "positive, finite"),
        (pd.Series(np.ones(60)), "index is not that of data"),
    ],
)
def test_weights_that_are_none_are_refused(weights, message):
    with pytest.raises(DataError, match=message):
        build("y ~ x + (1 | g)", TABLE, weights=weights)


# Refusals

REFUSED = {
    "y ~ Z + (1 | g)": r"'Z' is not a column of data: did you mean z\? It has y, x, z",
    "y ~ x + (1 | group)": "'group' is not a column",
    "y ~ DIGITS + (1 | g)": "did you mean digits",
    "y ~ camelcase + (1 | g)": "did you mean camelCase",
    "log(Y) ~ x + (1 | g)": "did you mean y",
    "y ~ np.pi + (1 | g)": "'np.pi' is not a column",
    "y ~ log(x) + (1 | g)": r"log\(x\) is infinite or not a number in \d+ of 60 rows, first in row row \d",
    "y ~ I(1/(n - 1)) + (1 | g)": r"I\(1/\(n - 1\)\) is infinite",
    "y ~ x + (1 | factor(log(x)))": r"log\(x\) is infinite or not a number",
    "y ~ factor(sqrt(x)) + (1 | g)": r"sqrt\(x\) is infinite or not a number",
    "y ~ scale(infinite) + (1 | g)": "^infinite is infinite or not a number",
    "y ~ scale(camelCase) + (1 | g)": r"scale\(camelCase\) is infinite or not a number in 60",
    "y ~ infinite + (1 | g)": "infinite is infinite or not a number in 1 of 60 rows, first in row row 4",
    "infinite ~ x + (1 | g)": "infinite is infinite or not a number in 1 of 60",
    "y ~ offset(infinite) + (1 | g)": "is infinite",
    "y ~ offset(a) + (1 | g)": "a holds labels",
    "a ~ x + (1 | g)": r"response a holds labels \(p, q, r\), not numbers",
    "digits ~ x + (1 | g)": "response digits holds labels .*pandas.to_numeric",
    "poly(x, 2) ~ a + (1 | g)": "response .* has 2 columns",
    "y ~ log(a) + (1 | g)": r"a holds labels \(p, q, r\) where numbers are needed",
    "y ~ I(a + 1) + (1 | g)": "a holds labels",
    "y ~ as.numeric(a) + (1 | g)": "a holds labels",
    "y ~ when + (1 | g)": "'when' holds datetime64.* values",
    "y ~ complex + (1 | g)": "'complex' holds complex128 values",
    "y ~ one + (1 | g)": r"one is a factor with one level \(k\)",
    "y ~ x + (0 + one | g)": r"one is a factor with one level \(k\)",
    "y ~ digits + (1 | g)": "digits is a factor with another level in each of the 60 rows",
    "y ~ x + (1 | one)": r"grouping factor one has one level \(k\).*\(1 \| one\)",
    "y ~ x + (1 | digits)": r"grouping factor digits has 60 levels, data has 60 observations.*\(1 \| digits\)",
    "y ~ x + (a*b*x | h)": r"observations \(=60\) <= number of random effects \(=60\) for term \(a \* b \* x \| h\)",
    "y ~ x + (1 | muddle)": "muddle mixes labels that have no common order",
    "y ~ factor(a, levels = c('p', 'q')) + (1 | g)": r"levels are p, q, r; those not listed \(r\)",
    "y ~ relevel(a, ref = 's') + (1 | g)": "levels are p, q, r",
    "y ~ relevel(o, ref = 'w') + (1 | g)": r"o is an ordered Categorical.*factor\(o, ordered = FALSE\)",
    "y ~ poly(n, 3) + (1 | g)": "degree 3",
    "y ~ poly(x, 0) + (1 | g)": "degree 0",
    "y ~ x + (1 | colon1:colon2)": "two combinations of labels read 'a:b:c'",
}
MALFORMED = {
    "y ~ poly(x, 'two') + (1 | g)": "degree has to be a whole number",
    "y ~ poly(x, 2.5) + (1 | g)": "degree has to be a whole number",
    "y ~ scale(x, center = c(1, 2)) + (1 | g)": "center has to be a number",
    "y ~ bs(x, knots = c(0, 'a')) + (1 | g)": "knots has to be a number",
    "y ~ offset(2) + (1 | g)": r"offset\(2\) is a constant",
    "y ~ I(2) + (1 | g)": r"I\(2\) is a constant",
    "y ~ pi + (1 | g)": "pi is a constant",
    "y ~ scale(2) + (1 | g)": r"scale\(2\) is a constant",
    "y ~ c(1, 2) + (1 | g)": "is a constant",
    "y ~ factor(2) + (1 | g)": "2 cannot be a factor",
    "y ~ factor(a, ordered = 2) + (1 | g)": "ordered has to be TRUE or FALSE",
    "y ~ factor(poly(x, 2)) + (1 | g)": "cannot be a factor",
    "y ~ I(poly(x, 2)^2) + (1 | g)": "cannot be calculated with",
    "y ~ log('x') + (1 | g)": "cannot be calculated with",
    "y ~ I(x == 'p') + (1 | g)": "cannot be calculated with",
    "y ~ I(flag & x) + (1 | g)": "x is not logical",
    "y ~ poly(x, n) + (1 | g)": "n has to be a constant",
    "y ~ log(x, base = z) + (1 | g)": "z has to be a constant",
    "y ~ bs(x, df = 2) + (1 | g)": "df of at least the degree",
    "y ~ bs(x, df = 5, knots = 0) + (1 | g)": "not both",
    "y ~ bs(x, degree = 0) + (1 | g)": "at least the degree",
}

ODD = TABLE.assign(
    infinite=np.where(np.arange(60) == 4, np.inf, 1.0),
    digits=[f"{i}.5" for i in range(60)],
    when=pd.date_range("2020-01-01", periods=60),
    complex=np.ones(60) * 1j,
    one="k",
    camelCase=1.0,
    muddle=np.array([(1, 2), "a", 2.5] * 20, dtype=object),
    colon1=np.resize(["a", "a:b"], 60),
    colon2=np.resize(["b:c", "c"], 60),
)


@pytest.mark.parametrize("formula", REFUSED)
def test_data_that_do_not_suit_the_formula_are_refused(formula):
    with pytest.raises(DataError, match=REFUSED[formula]):
        build(formula, ODD)


@pytest.mark.parametrize("formula", MALFORMED)
def test_expressions_without_meaning_are_refused(formula):
    with pytest.raises(FormulaError, match=MALFORMED[formula]):
        build(formula, TABLE)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TABLE.iloc[:0], "no rows"),
        ({"y": [], "g": []}, "no rows"),
        ({"y": [1.0, 2.0, 3.0], "g": [1, 2]}, r"differ in length: y \(3\), g \(2\)"),
        ({"y": np.ones((3, 2)), "g": [1, 2, 1]}, r"data\['y'\] is not a column"),
        ({"y": [1.0, 2.0, 3.0], "g": 1}, r"data\['g'\] is not a column"),
        ({"y": pd.Series([1.0, 2.0, 3.0]), "g": pd.Series([1, 2, 1], index=[2, 1, 0])}, "indexes differ"),
        (pd.concat([TABLE, TABLE[["g"]]], axis=1), "more than one column called 'g'"),
        (
            TABLE[["y", "x", "a"]].set_axis(["y", 1, True], axis=1),
            r"'g' is not a column of data: it has y, `1`, True\.",
        ),
        (TABLE[["y", "g", "x"]].set_axis(["y", ("g",), "('g',)"], axis=1), r"it has y, `\('g',\)`\."),
        (pd.concat({"u": TABLE[["y", "g"]]}, axis=1), r"'y' is not a column of data: it has `\('u', 'y'\)`, "),
        (np.ones((3, 2)), "data is a ndarray, not a table"),
        (None, "data is a NoneType"),
        (TABLE.assign(y=np.nan), "60 of 60 rows have missing values, in y .60.: fill them in"),
    ],
)
def test_what_is_no_table_is_refused(data, message):
    with pytest.raises(DataError, match=message):
        build("y ~ 1 + (1 | g)", data, missing="drop")


def test_columns_that_read_the_same_are_refused():
    data = TABLE[["y", "g", "x", "n"]].set_axis(["y", "g", 1, np.datetime64("2020", "Y")], axis=1)
    data = pd.concat([data, data[[1]]], axis=1)
    with pytest.raises(DataError, match="more than one column called '1'"):
        build("y ~ `1` + (1 | g)", data)


@pytest.mark.parametrize(
    ("formula", "name"),
    [
        ("y ~ Intercept + (1 | g)", "Intercept"),
        ("y ~ x + (Intercept | g)", "Intercept"),
        ("y ~ x + (1 | g) + (0 + Intercept | g)", "Intercept"),
        ("y ~ Int + (1 | g)", "Intercept"),
        ("y ~ a + aq + (1 | g)", "aq"),
        ("y ~ 0 + x + (0 + a + aq | g)", "aq"),
    ],
)
def test_two_effects_of_one_name_are_refused(formula, name):
    data = TABLE.assign(Intercept=TABLE["x"], Int=np.resize(["", "ercept"], 60), aq=TABLE["z"])
    with pytest.raises(DataError, match=rf"[Tt]wo effects .* called {name}.*rename"):
        build(formula, data)


@pytest.mark.parametrize(
    ("random", "message"),
    [
        ("(1 | g) + (1 | s)", r"g and s group the rows alike.* variances of \(Intercept\) .*\(1 \| s\)"),
        ("(1 | g/s)", "s:g and g group"),
        ("(1 | g) + (1 | factor(g))", r"g and factor\(g\) group"),
        ("(1 | h) + (x | g) + (0 + x + z | s)", r"g and s group .* variances of x cannot .*\(0 \+ x \+ z \| s\)"),
    ],
)
def test_one_grouping_by_two_names_is_refused(random, message):
    with pytest.raises(DataError, match=message):
        build(f"y ~ x + {random}", TABLE.assign(s=["s" + str(9 - i) for i in TABLE["g"]]))


def test_one_grouping_by_two_names_may_have_different_effects():
    data = TABLE.assign(s=-TABLE["g"], k=np.arange(60) % 8)  # k has as many levels as g
    assert len(build("y ~ x + (1 | g) + (0 + x | s) + (1 | k)", data).terms) == 3


def test_a_column_may_be_called_intercept_where_there_is_none():
    data = TABLE.assign(Intercept=TABLE["x"])
    assert build("y ~ 0 + Intercept + (1 | g)", data).fixed_names == ("Intercept",)
    assert len(build("y ~ x + (0 + Intercept | g) + (1 | h)", data).terms) == 2


def test_options_that_are_none_are_refused():
    with pytest.raises(ValueError, match="missing='ignore' is not known"):
        build("y ~ 1 + (1 | g)", TABLE, missing="ignore")
    with pytest.raises(FormulaError, match="formula is a list"):
        build(["y ~ 1 + (1 | g)"], TABLE)


def test_what_lme4_allows_is_allowed():
    named = build("`my col` ~ x + (1 | `G 1`) + (1 | factor(n)) + (1 | `G 1`:b)", TABLE.rename(columns={"g": "G 1"}))
    assert named.response == "my col"
    assert [term.factor.name for term in named.terms] == ["G 1", "factor(n)", "`G 1`:b"]
    assert build("y ~ 0 + (1 | g)", TABLE).X.shape == (60, 0)
    assert set(build("y ~ 1 + (1 | g)", TABLE.assign(y=3.0)).y) == {3.0}
    assert set(build("flag ~ 1 + (1 | g)", TABLE).y) == {0.0, 1.0}
    assert set(build("y ~ 1 + (1 | g)", TABLE.assign(y=pd.Categorical([True] * 60))).y) == {1.0}
    assert build("y ~ x + I(2*x) + (1 | g)", TABLE).X.shape == (60, 3)  # the caller drops what depends on the rest
    assert build("y ~ T + (1 | g)", TABLE.assign(T=TABLE["x"])).fixed_names == ("(Intercept)", "T")
    assert build("y ~ pi + (1 | g)", TABLE.assign(pi=TABLE["x"])).fixed_names == ("(Intercept)", "pi")


def test_plain_formulas_do_without_formulaic_and_others_say_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "formulaic.transforms", None)
    assert build("y ~ a*log(z) + factor(n) + (x || g)", TABLE).X.shape == (60, 8)
    with pytest.raises(
        ImportError, match=re.escape("poly() in a formula needs formulaic: pip install fastlmm_vi[formula]")
    ):
        build("y ~ poly(x, 2) + (1 | g)", TABLE)


# New rows

RICH = (
    "log(z) ~ a*x + flag + relevel(a, ref = 'q'):n + poly(x, 2) + I(scale(x)^2) + bs(x, df = 4) + offset(n) + o "
    "+ (a + x || h/b) + (o | g)"
)


RICH_DATA = pd.concat([TABLE] * 3)


@pytest.mark.parametrize(
    "formula", [RICH, "y ~ 1 + (1 | g)", "y ~ 0 + (0 + a | factor(n))", "y ~ x + (1 | interaction(a, b))"]
)
def test_the_rows_of_the_fit_are_coded_as_in_the_fit(formula):
    data = RICH_DATA
    design = build(formula, data)
    new = design.rows(data.drop(columns=[c for c in ("y", "z") if f"{c} ~" in formula or f"log({c}) ~" in formula]))
    np.testing.assert_array_equal(new.X, design.X)
    np.testing.assert_array_equal(new.offset, 0.0 if design.offset is None else design.offset)
    assert list(new.index) == list(design.index)
    for term, (basis, codes) in zip(design.terms, new.terms, strict=True):
        np.testing.assert_array_equal(basis, term.basis)
        np.testing.assert_array_equal(codes, term.factor.codes)


def test_few_new_rows_keep_the_state_and_the_levels_of_the_fit():
    data = RICH_DATA
    design = build(RICH, data)
    for i in (0, 11, 42):
        new = design.rows(data.iloc[i : i + 1])
        np.testing.assert_allclose(new.X, design.X[i : i + 1], rtol=1e-13, atol=1e-13)
        for term, (basis, codes) in zip(design.terms, new.terms, strict=True):
            np.testing.assert_array_equal(basis, term.basis[i : i + 1])
            np.testing.assert_array_equal(codes, term.factor.codes[i : i + 1])


def test_new_groups_are_coded_minus_one():
    design = build("y ~ x + (1 | h) + (x | g) + (1 | a:b)", TABLE)
    new = design.rows(
        pd.DataFrame(
            {"x": [1.0, 2.0, 3.0], "h": ["E", "new", "A"], "g": [99, 3, 0], "a": ["p", "p", "s"], "b": ["v", "w", "u"]}
        )
    )
    assert [list(term.codes) for term in new.terms] == [[4, -1, 0], [-1, 3, 0], [1, -1, -1]]
    np.testing.assert_array_equal(new.terms[1].basis, [[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])


def test_labels_match_whatever_stores_them():
    data = TABLE.assign(h=pd.Categorical(TABLE["h"], categories=list("EDCBA")))
    design = build("y ~ h + (1 | h) + (1 | g)", data)
    for labels in (["D", "A"], np.array(["D", "A"], dtype=object), pd.Categorical(["D", "A"], categories=list("AD"))):
        new = design.rows({"h": labels, "g": [3.0, 4.5]})
        np.testing.assert_array_equal(new.X, [[1, 1, 0, 0, 0], [1, 0, 0, 0, 1]])
        assert [list(term.codes) for term in new.terms] == [[1, 4], [3, -1]]


def test_groups_are_not_needed_without_random_terms():
    new = build("y ~ x + (x | g)", TABLE).rows({"x": [1.0, 2.0]}, random=False)
    np.testing.assert_array_equal(new.X, [[1.0, 1.0], [1.0, 2.0]])
    assert new.terms == ()
    assert new.offset == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": "s"}, "a has the level 's', which the fit did not have.*Known are p, q, r"),
        ({"a": 1.0}, "a holds numbers here and held labels at the fit"),
        ({"x": "1.0"}, "x holds labels here and held numbers at the fit"),
        ({"x": np.nan}, r"2 of 2 rows have missing values, in x \(2\): fill them in"),
        ({"g": None}, r"missing values, in g \(2\)"),
        ({"x": np.inf}, "x is infinite"),
    ],
)
def test_new_rows_that_cannot_be_coded_are_refused(changes, message):
    design = build("y ~ a + x + (1 | g)", TABLE)
    with pytest.raises(DataError, match=message):
        design.rows(TABLE.iloc[:2].assign(**changes))


def test_a_lacking_column_is_named():
    design = build("y ~ a + x + (x | g) + (0 + z | b:h)", TABLE)
    for lost in ("a", "x"):
        with pytest.raises(DataError, match=f"'{lost}' is not a column of data: [^:]*$"):
            design.rows(TABLE.drop(columns=lost))
    for lost in ("g", "z", "b"):
        with pytest.raises(DataError, match=f"'{lost}' is not a column.* random_effects=False"):
            design.rows(TABLE.drop(columns=lost))
    assert design.rows(TABLE[["a", "x"]], random=False).X.shape == (60, 4)


@pytest.mark.parametrize("none", [RICH_DATA.iloc[:0], dict.fromkeys(RICH_DATA, ())], ids=["frame", "lists"])
@pytest.mark.parametrize("random", [True, False])
def test_no_new_rows_are_no_rows(none, random):
    design = build(RICH, RICH_DATA)
    new = design.rows(none, random=random)
    assert new.X.shape == (0, design.X.shape[1])
    assert len(new.index) == 0
    assert [term.basis.shape for term in new.terms] == [(0, len(term.names)) for term in design.terms if random]
    assert [term.codes.size for term in new.terms] == [0 for term in design.terms if random]
    with pytest.raises(DataError, match="'flag' is not a column"):
        design.rows({name: () for name in RICH_DATA if name != "flag"})


def test_a_design_survives_pickling():
    design = build(RICH, RICH_DATA)
    again = pickle.loads(pickle.dumps(design))
    np.testing.assert_array_equal(again.rows(TABLE).X, design.rows(TABLE).X)


# Invariances

FORMULAS = st.sampled_from(
    [
        "y ~ a*x + (x | g)",
        "y ~ 0 + b:a + flag + (0 + flag | h)",
        "y ~ x*b - b + factor(n) + (1 | h/b)",
        "y ~ n + (a || h)",
    ]
)


@given(FORMULAS, st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_permuting_rows_permutes_the_design(formula, random):
    order = random.sample(range(60), 60)
    design, permuted = build(formula, TABLE), build(formula, TABLE.iloc[order])
    np.testing.assert_array_equal(permuted.X, design.X[order])
    np.testing.assert_array_equal(permuted.y, design.y[order])
    assert list(permuted.index) == list(design.index[order])
    for term, other in zip(permuted.terms, design.terms, strict=True):
        assert list(term.factor.levels) == list(other.factor.levels)
        np.testing.assert_array_equal(term.factor.codes, other.factor.codes[order])
        np.testing.assert_array_equal(term.basis, other.basis[order])


labels = st.lists(st.text(min_size=1, max_size=4), min_size=3, max_size=3, unique=True).map(sorted)


@given(FORMULAS, labels)
@settings(max_examples=25, deadline=None)
def test_renaming_levels_changes_names_only(formula, names):
    renamed = TABLE.assign(a=TABLE["a"].map(dict(zip("pqr", names, strict=True))))
    design, other = build(formula, TABLE), build(formula, renamed)
    np.testing.assert_array_equal(other.X, design.X)
    for term, changed in zip(design.terms, other.terms, strict=True):
        np.testing.assert_array_equal(changed.basis, term.basis)
        np.testing.assert_array_equal(changed.factor.codes, term.factor.codes)
    if formula.startswith("y ~ a*x"):
        assert other.fixed_names == (
            "(Intercept)",
            *(f"a{name}" for name in names[1:]),
            "x",
            *(f"a{name}:x" for name in names[1:]),
        )


@given(st.integers(2, 6), st.integers(2, 5), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_crossed_factors_are_the_pairs_that_occur(levels_a, levels_b, seed):
    rng = np.random.default_rng(seed)
    data = pd.DataFrame({"a": rng.integers(levels_a, size=80), "b": rng.integers(levels_b, size=80), "y": 1.0})
    factor = build("y ~ 1 + (1 | a:b)", data).terms[0].factor
    pairs = sorted(set(zip(data["a"], data["b"], strict=True)))
    assert list(factor.levels) == [f"{a}:{b}" for a, b in pairs]
    assert [pairs[code] for code in factor.codes] == list(zip(data["a"], data["b"], strict=True))
