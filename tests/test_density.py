"""The compiled log density and its gradient: against dense N × N normal densities, and against differences."""

import ctypes
import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import grouped_problems as problems
import numpy as np
import pages
import pandas as pd
import pytest
import scipy.linalg
import scipy.sparse
from fastlmm_vi_kernels import marginal, tiles
from problems import SHARED, needs_references

from fastlmm_vi.grouped import density as density_module
from fastlmm_vi.grouped import model_priors
from fastlmm_vi.grouped.cross_products import CrossProducts
from fastlmm_vi.grouped.density import Density
from fastlmm_vi.grouped.model_frame import build
from fastlmm_vi.grouped.posterior import correlation_root
from fastlmm_vi.priors import (
    LKJ,
    Exponential,
    Fixed,
    Flat,
    HalfCauchy,
    HalfNormal,
    HuangWand,
    InverseWishart,
    Normal,
    ScalePrior,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
C_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_size_t, *[ctypes.c_void_p] * 4)
SEEDS = sorted({*range(203)} - {105, 106, 169})  # those three are refused: as many groups as rows


def random_priors(rng, design):
    """Normal or flat β; deviations with priors of many kinds, some known; correlations; or covariances as a whole."""
    p = design.X.shape[1]
    beta = [Flat() if rng.random() < 0.2 else Normal(rng.normal(), rng.uniform(0.5, 3.0)) for _ in range(p)]
    given = {"beta": beta, "sigma": Fixed(0.9) if rng.random() < 0.1 else HalfCauchy(rng.uniform(0.5, 3.0))}
    kinds = [HalfNormal(1.3), HalfCauchy(0.8), Exponential(0.7), Fixed(0.6)]
    names = {}
    for term in design.terms:
        names.setdefault(term.factor.name, []).extend("Intercept" if x == "(Intercept)" else x for x in term.names)
    kind = rng.integers(4)
    if kind == 0:
        given["cov"] = HuangWand(2.0, 1.5)
    elif kind == 1:
        given["cov"] = InverseWishart(6.0, 0.8)
    else:
        given["sd"] = {g: {x: kinds[rng.integers(4)] for x in xs} for g, xs in names.items()}
        if any(len(term.names) > 1 for term in design.terms):
            given["cor"] = LKJ(rng.uniform(0.7, 3.0))
    return given


@cache
def setting(seed):
    problem = problems.draw(seed)
    design = build(problem.formula, problem.frame, weights=problem.weights)
    data = CrossProducts.of(design)
    rng = np.random.default_rng(seed)
    priors = model_priors.resolve(random_priors(rng, design), design, data.fixed.kept)
    size = Density(data, priors).dim
    return data, priors, 0.5 * rng.normal(size=size)


def unpacked(priors, phi, signed):
    """Of every term the root of its covariance, s and the root of its correlations; σ; log of the Jacobian."""
    at, terms, jacobian = 0, [], 0.0
    for prior in priors.terms:
        d = len(prior.effects)
        s = np.empty(d)
        for i, one in enumerate(prior.scales or [None] * d):
            if isinstance(one, Fixed):
                s[i] = one.value
                continue
            s[i] = phi[at] if signed else np.exp(phi[at])
            jacobian += -np.log(2.0) if signed else phi[at]
            at += 1
        z = phi[at : at + d * (d - 1) // 2]
        rows = [(i, j) for i in range(d) for j in range(i)]
        jacobian -= sum((2 + d - 2 - j) * np.log(np.cosh(x)) for (_, j), x in zip(rows, z, strict=True))
        at += z.size
        signs = np.sign(s)
        terms.append((s[:, None] * correlation_root(np.tanh(z), d), np.abs(s), z, signs))
    if isinstance(priors.sigma, Fixed):
        return terms, priors.sigma.value, jacobian
    return terms, float(np.exp(phi[-1])), jacobian + phi[-1]


def dense_log_density(data, priors, phi, signed):
    """Prior, Jacobian, and the normal density of all of y, β of flat prior integrated out afterwards."""
    design = data.design
    terms, sigma, value = unpacked(priors, phi, signed)
    if isinstance(priors.sigma, ScalePrior):
        value += float(priors.sigma.log_density(sigma))
    n = len(design.y)
    V = np.diag(sigma**2 / (np.ones(n) if design.weights is None else design.weights))
    for (half, s, z, signs), prior, term in zip(terms, priors.terms, design.terms, strict=True):
        root = correlation_root(np.tanh(z), s.size)
        value += prior.log_density(s, signs[:, None] * root * signs)
        own = term.basis @ half
        V += (own @ own.T) * (term.factor.codes[:, None] == term.factor.codes)
    kept = list(data.fixed.kept)
    X, P, y = design.X[:, kept], priors.beta.precision, design.y if design.offset is None else design.y - design.offset
    flat = np.diag(P) == 0.0
    proper = ~flat
    root = X[:, proper] @ np.linalg.cholesky(np.linalg.inv(P[np.ix_(proper, proper)])) if proper.any() else X[:, :0]
    factor = scipy.linalg.cho_factor(V + root @ root.T, lower=True)
    off, F = y - X @ priors.beta.mean, X[:, flat]
    value -= np.log(np.diag(factor[0])).sum() + 0.5 * (n - flat.sum()) * np.log(2.0 * np.pi)
    if flat.any():
        W = F.T @ scipy.linalg.cho_solve(factor, F)
        off = off - F @ np.linalg.solve(W, F.T @ scipy.linalg.cho_solve(factor, off))
        value -= 0.5 * np.linalg.slogdet(W)[1]
    return value - 0.5 * off @ scipy.linalg.cho_solve(factor, off)


def differences(of, x, step=1e-5):
    return np.array([(of(x + step * row) - of(x - step * row)) / (2.0 * step) for row in np.eye(x.size)])


def check(data, priors, phi, scale, tol=1e-9):
    density = Density(data, priors, scale)
    value, gradient = density.logp_grad(phi)
    expected = dense_log_density(data, priors, phi, scale == "signed")
    assert value == pytest.approx(expected, rel=tol, abs=tol)
    numerical = differences(density.logp, phi)
    np.testing.assert_allclose(gradient, numerical, rtol=1e-6, atol=1e-6 * np.abs(gradient).max(initial=1.0))


@pytest.mark.parametrize("seed", SEEDS)
def test_random_models(seed):
    """One to three factors, nested and crossed, d = 1 to 4, weights, flat and normal β, every kind of prior."""
    data, priors, phi = setting(seed)
    check(data, priors, phi, "signed" if seed % 3 == 0 else "log")


def test_the_random_models_are_of_every_family():
    families = {Density(*setting(seed)[:2])._family.callback for seed in range(60)}
    assert len(families) == 4


@pytest.mark.parametrize("seed", [0, 1, 4, 5, 9])
def test_signed_deviations_move_their_signs_to_correlations(seed):
    data, priors, phi = setting(seed)
    signed, plain = Density(data, priors, "signed"), Density(data, priors)
    at = signed.unsigned(phi)
    log_sds = [j for j, name in enumerate(plain.names) if name.startswith("sd_")]
    expected = plain.logp(at) - at[log_sds].sum() - len(log_sds) * np.log(2.0)
    assert signed.logp(phi) == pytest.approx(expected, rel=1e-12, abs=1e-10)
    np.testing.assert_array_equal(plain.unsigned(phi), phi)


@pytest.mark.parametrize("seed", [0, 1, 3, 4])
def test_by_address_and_many_at_once(seed):
    data, priors, phi = setting(seed)
    density = Density(data, priors)
    f, value, gradient = C_FUNCTION(density.address), np.zeros(1), np.zeros(phi.size)
    assert f(phi.size, phi.ctypes.data, gradient.ctypes.data, value.ctypes.data, density.user_data) == 0
    expected, slope = density.logp_grad(phi)
    assert value[0] == expected
    np.testing.assert_array_equal(gradient, slope)
    rows = phi + 0.1 * np.random.default_rng(0).normal(size=(7, phi.size))
    np.testing.assert_array_equal(density.logp_many(rows), [density.logp(row) for row in rows])


@pytest.mark.parametrize("seed", [0, 1, 3, 4])
def test_far_out_it_is_zero_and_never_nan(seed):
    data, priors, phi = setting(seed)
    for scale in ("log", "signed"):
        density = Density(data, priors, scale)
        f, value, gradient = C_FUNCTION(density.address), np.zeros(1), np.zeros(phi.size)
        for size in (1e-300, 20.0, 100.0, 340.0, 800.0, 1e300):
            for sign in (-1.0, 1.0):
                at = np.full(phi.size, sign * size)
                code = f(phi.size, at.ctypes.data, gradient.ctypes.data, value.ctypes.data, density.user_data)
                assert not np.isnan(value[0])
                assert code == (value[0] == -np.inf)
                if code == 0:
                    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("seed", [0, 1, 3, 4])
def test_threads_get_the_same_bits(seed):
    """Every chain calls the same density on the same data."""
    data, priors, phi = setting(seed)
    density = Density(data, priors)
    rows = phi + 0.2 * np.random.default_rng(1).normal(size=(300, phi.size))
    expected = density.logp_many(rows)
    start = threading.Barrier(4)

    def evaluate(_):
        start.wait()
        return np.array([density.logp_many(rows) for _ in range(5)])

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(evaluate, range(4)):
            np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))


def test_what_is_read_does_not_grow_with_the_rows():
    """Ten copies of every row: the compiled function reads as much as before, so that it takes as long."""
    frame = problems.make(groups=12, size=15)
    frame["h"] = np.arange(len(frame)) % 7
    for formula in ("y ~ x + (x | g)", "y ~ x + (x | g) + (1 | h)", "y ~ x + (1 | g) + (1 | g:h) + (1 | h)"):
        sizes = []
        for copies in (1, 10):
            design = build(formula, pd.concat([frame] * copies))
            data = CrossProducts.of(design)
            density = Density(data, model_priors.resolve(None, design, data.fixed.kept))
            density.logp(np.zeros(density.dim))
            sizes.append(density._block.size)
        assert sizes[0] == sizes[1]


def read(name):
    return pd.read_csv(SHARED / "data" / "grouped" / f"{name}.csv.gz")


def experiment(name):
    """The models of the sampling experiments, t as there."""
    given = {"beta": [Normal(0, 10), Normal(0, 5)], "sigma": HalfNormal(5), "sd": HalfNormal(5)}
    frame = read(name)
    if name == "pupil":
        given = {"beta": [Normal(1000, 500), Normal(0, 100)], "sigma": HalfNormal(1000), "sd": HalfNormal(500)}
        return "p_size ~ load + (load | subj)", frame, given
    if name == "fibrosis":
        sd = {"Patient": {"Intercept": HalfCauchy(100), "Weeks": HalfCauchy(3)}}
        given = {"beta": [Normal(0, 500), Normal(0, 3)], "sigma": HalfCauchy(100), "sd": sd}
        return "FVC ~ Weeks + (Weeks || Patient)", frame, given
    if name in ("dutch", "english"):
        return (
            "NP1 ~ condition + (condition | subject) + (condition | item)",
            frame,
            {
                **given,
                "sd": HalfNormal(1),
            },
        )
    if name == "eeg":
        given = {"beta": Normal(0, 10), "sigma": HalfNormal(50), "sd": HalfNormal(20)}
        return "n400 ~ cloze + (cloze | subj) + (cloze | item)", frame, given
    if name == "grouseticks":
        given = {"beta": [Normal(0, np.sqrt(2.0)), Normal(0, 1), Normal(0, 1)], "sigma": HalfCauchy(5)}
        return "TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | LOCATION)", frame, {**given, "sd": HalfCauchy(5)}
    if name == "insteval":
        given = {"beta": [Normal(0, 5), Normal(0, 1)], "sigma": HalfNormal(1), "sd": HalfNormal(1)}
        return "y ~ service + (1 | s) + (1 | d) + (1 | dept)", frame, given
    if name == "electric":
        formula = "post_test ~ 0 + factor(grade) + factor(grade):treatment + (1 | pair)"
        return formula, frame, {"beta": Normal(0, 100), "sigma": HalfNormal(10), "sd": Fixed(1)}
    column, treated = {
        "gg05": ("condition", "objgap"),
        "dillonE1": ("int", "low"),
        "mandarin": ("type", "subj-ext"),
        "mandarin2": ("condition", "subj-ext"),
        "stroop": ("condition", "Incongruent"),
    }[name]
    low, high = {"dillonE1": (0.0, 1.0), "gg05": (-1.0, 1.0), "stroop": (-1.0, 1.0)}.get(name, (-0.5, 0.5))
    frame["t"] = np.where(frame[column] == treated, high, low)
    frame["y"] = np.log(frame["RT" if "RT" in frame else "rt"])
    groups = {"gg05": ("subj", "item", "experiment"), "stroop": ("subj",)}.get(name, ("subj", "item"))
    return "y ~ t + " + " + ".join(f"(t | {g})" for g in groups), frame, given


SMALL = ("dutch", "english", "gg05", "mandarin", "mandarin2", "grouseticks", "electric", "fibrosis", "pupil")


@needs_references
@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(x, marks=pytest.mark.slow) for x in ("dillonE1", "stroop"))])
def test_sampling_experiments(name):
    formula, frame, given = experiment(name)
    design = build(formula, frame)
    data = CrossProducts.of(design)
    priors = model_priors.resolve(given, design, data.fixed.kept)
    density = Density(data, priors)
    spread = float(design.y.std())
    typical = {"sd_": np.log(0.3 * spread), "cor": 0.2, "sig": np.log(0.7 * spread)}
    phi = np.array([typical[one[:3]] for one in density.names])
    for at, one in enumerate(density.names):
        if "__" in one and one.split("__")[1] == "Weeks":
            phi[at] -= 4.0
    check(data, priors, phi, "log")


def test_a_density_that_was_called_by_address_is_pickled():
    data, priors, phi = setting(0)
    density = Density(data, priors)
    value = density.logp(phi)
    assert density.address
    again = pickle.loads(pickle.dumps(density))
    assert (again.logp(phi), again.address > 0) == (value, True)


# The formulas of docs/marginalisation.md that no test above holds: twins by name.

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "marginalisation.md").read_text(encoding="utf-8")


def test_the_page_points_to_code_that_exists():
    names = re.findall(r"^→ `([\w.]+)`", PAGE, flags=re.MULTILINE)
    assert len(names) == 13
    for name in names:
        pages.check_exists(name)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_whitened_rows_and_their_weights(d):
    """H = L⁻¹C and |V| of every group; Ω against its formula."""
    rng = np.random.default_rng(d)
    n, q = 16, 4
    lam = np.tril(rng.normal(size=(d, d))) if d < 3 else rng.normal(size=(d, d))
    R, C, A = np.triu(rng.normal(size=(n, d, d))), rng.normal(size=(n, d, q)), np.triu(rng.normal(size=(q, q)))
    Q, H, work = np.empty(d * d * n), np.empty(q * d * n), np.empty((d * d + d + 3) * n)
    arguments = lam.ravel(), R.transpose(1, 2, 0).ravel(), C.transpose(2, 1, 0).ravel(), Q, H, work
    if d < 3:
        {1: marginal.whiten_1, 2: marginal.whiten_2}[d](n, q, *arguments)
    else:
        marginal.whiten(d, n, q, *arguments)
    G = R @ lam
    V = np.eye(d) + G @ G.transpose(0, 2, 1)
    L = np.linalg.cholesky(V)
    np.testing.assert_allclose(work[:n], np.linalg.det(V), rtol=1e-12)
    expected = np.linalg.solve(L, C)
    np.testing.assert_allclose(H.reshape(q, d, n).transpose(2, 1, 0), expected, rtol=1e-9, atol=1e-12)

    omega, count = np.empty(d * d), rng.integers(0, 3, n).astype(float)
    arguments = A, Q, H, count, work, omega
    if d < 3:
        {1: marginal.weigh_1, 2: marginal.weigh_2}[d](n, *arguments)
    else:
        marginal.weigh(d, n, *arguments)
    N, half = expected @ A, np.linalg.solve(L, R)
    inner = N @ N.transpose(0, 2, 1) - count[:, None, None] * np.eye(d)
    np.testing.assert_allclose(omega.reshape(d, d), (half.transpose(0, 2, 1) @ inner @ half).sum(axis=0), rtol=1e-9)


def test_groups_that_are_equal_but_for_y():
    rng = np.random.default_rng(0)
    R, C = rng.normal(size=(3, 2, 2))[[0, 1, 0, 2, 0, 1]], rng.normal(size=(3, 2, 5))[[0, 1, 0, 2, 0, 1]]
    C[:, :, -1] = rng.normal(size=(6, 2))
    count, _, means, scatter = density_module.same_but_for_y(R, C)
    assert sorted(count) == [1.0, 2.0, 3.0]
    expected = np.einsum("vik,vil->kl", C, C)
    found = np.einsum("vik,vil->kl", means, means)
    found[-1, -1] += (scatter**2).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(("side", "above"), [(8, 0), (16, 8), (40, 24), (104, 16)])
def test_tiles(side, above):
    rng = np.random.default_rng(side)
    X, half = rng.normal(size=(above, side)), rng.normal(size=(2 * side, side))
    expected = half.T @ half
    W, M, out = np.vstack([X, expected + X.T @ X]).ravel(), np.empty(side * side), np.empty(side * side)
    assert tiles.factor(W, above, side) == side
    U = np.triu(W.reshape(-1, side)[above:])
    np.testing.assert_allclose(U.T @ U, expected, rtol=1e-10, atol=1e-10)
    tiles.invert_factor(W, above, side, M)
    np.testing.assert_allclose(M.reshape(side, side) @ U.T, np.eye(side), atol=1e-10)
    tiles.symmetric(M, side, out)
    np.testing.assert_allclose(out.reshape(side, side), np.linalg.inv(expected), rtol=1e-8, atol=1e-10)
    tiles.transpose(W, 0, above + side, side, copy := np.empty((above + side) * side))
    np.testing.assert_array_equal(copy.reshape(side, -1), W.reshape(-1, side).T)
    W[above * side] = -1e9
    assert tiles.factor(W, above, side) == 0

    m = side - 3
    X[:, m:] = 0.0
    T, inverse = (expected + X.T @ X)[:m, :m].copy(), np.empty((m - 1, m - 1))
    room = np.vstack([X, np.empty((side, side))]).ravel()
    assert tiles.factor_lower(T, room, above)
    np.testing.assert_allclose(np.tril(T), np.linalg.cholesky(expected[:m, :m]), rtol=1e-9, atol=1e-10)
    tiles.invert_leading(room, above, side, M, out, inverse)
    np.testing.assert_allclose(inverse, np.linalg.inv(expected[: m - 1, : m - 1]), rtol=1e-8, atol=1e-10)


def by_the_lemmas(data, priors, phi):
    """The dense log density with matrices of the order of the random effects, for data whose N × N does not fit."""
    design = data.design
    terms, sigma, value = unpacked(priors, phi, False)
    value += float(priors.sigma.log_density(sigma))
    n, columns = len(design.y), []
    for (half, s, z, _), prior, term in zip(terms, priors.terms, design.terms, strict=True):
        value += prior.log_density(s, correlation_root(np.tanh(z), s.size))
        basis, codes, J = term.basis @ half, term.factor.codes, len(term.factor.levels)
        columns += [scipy.sparse.csr_array((one, (np.arange(n), codes)), shape=(n, J)) for one in basis.T]
    prior = priors.beta
    columns.append(scipy.sparse.csr_array(design.X @ np.linalg.cholesky(np.linalg.inv(prior.precision))))
    G, off = scipy.sparse.hstack(columns).tocsr() / sigma, (design.y - design.X @ prior.mean) / sigma
    factor = scipy.linalg.cho_factor((G.T @ G).toarray() + np.eye(G.shape[1]), lower=True)
    b = G.T @ off
    value -= 0.5 * n * np.log(2.0 * np.pi * sigma**2) + np.log(np.diag(factor[0])).sum()
    return value - 0.5 * (off @ off - b @ scipy.linalg.cho_solve(factor, b))


@needs_references
@pytest.mark.slow
@pytest.mark.parametrize("name", ["eeg", "insteval"])
def test_large_sampling_experiments(name):
    formula, frame, given = experiment(name)
    design = build(formula, frame)
    data = CrossProducts.of(design)
    priors = model_priors.resolve(given, design, data.fixed.kept)
    density = Density(data, priors)
    spread = float(np.log(design.y.std()))
    phi = np.array([0.2 if one.startswith("cor") else spread - 1.0 * one.startswith("sd") for one in density.names])
    value, gradient = density.logp_grad(phi)
    assert value == pytest.approx(by_the_lemmas(data, priors, phi), rel=1e-9)
    numerical = differences(density.logp, phi, 1e-4)
    np.testing.assert_allclose(gradient, numerical, rtol=1e-6, atol=1e-6 * np.abs(gradient).max())


def larger_frame(balanced):
    """Every inner group c lies in one of b; a is crossed with both. Balanced: all groups of a have the same design."""
    rng = np.random.default_rng(3)
    a, c, repeat = (one.ravel() for one in np.meshgrid(range(9), range(10), range(2), indexing="ij"))
    frame = pd.DataFrame({"a": a, "b": c // 3, "c": c, "x0": repeat - 0.5, "x1": np.cos(1.0 + c + 3.0 * repeat)})
    frame["y"] = rng.normal(size=10)[c] + rng.normal(size=9)[a] * (1.0 + frame["x0"]) + rng.normal(size=len(frame))
    return frame if balanced else frame[rng.random(len(frame)) < 0.9]


LARGER = {
    "y ~ x0 + (x0 + x1 | a)": "ONE_WAY",
    "y ~ x0 + (x0 + x1 | c) + (1 | b)": "NESTED",
    "y ~ x0 + (x0 || c) + (1 | b)": "NESTED",
    "y ~ x0 + (x0 | c) + (x0 | b)": "BLOCKS",
    "y ~ x0 + (1 | a) + (1 | c) + (1 | b)": "BLOCKS",
    "y ~ x0 + (x0 + x1 | a) + (x0 | c)": "CROSSED",
    "y ~ x0 + (x0 | a) + (1 | c)": "CROSSED",
    "y ~ x0 + (1 | a) + (0 + x0 | a) + (x0 | c)": "CROSSED",
}


@pytest.mark.parametrize("formula", LARGER)
@pytest.mark.parametrize("balanced", [True, False], ids=["balanced", "unbalanced"])
def test_every_family(formula, balanced):
    design = build(formula, larger_frame(balanced))
    data = CrossProducts.of(design)
    given = {"beta": Normal(0, 2), "sigma": HalfNormal(2), "sd": HalfNormal(1)}
    priors = model_priors.resolve(given, design, data.fixed.kept)
    density = Density(data, priors)
    assert density._family is getattr(density_module, LARGER[formula])
    phi = 0.5 * np.random.default_rng(5).normal(size=density.dim)
    check(data, priors, phi, "log")
    check(data, priors, phi, "signed")


def test_equal_groups_of_crossed_factors_are_one_row():
    design = build("y ~ x0 + (x0 | a) + (1 | c)", larger_frame(True))
    sizes = density_module.crossed_sections(CrossProducts.of(design))[0]
    assert sizes[5] == 1  # of 9 or 10 groups
