"""Compiled once, cached, and callable where nothing can be written."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fastlmm_vi_kernels import spectral, sweep, tridiagonal

from fastlmm_vi.wide import blas, householder, storage
from fastlmm_vi.wide.factor import Tridiagonal
from fastlmm_vi.wide.storage import DenseFeatures

COUNT = """
from fastlmm_vi_kernels import band, blocks, gram, spectral, sweep, tridiagonal
modules = (band, blocks, gram, spectral, sweep, tridiagonal)
compiled = {f for m in modules for f in vars(m).values() if hasattr(f, "stats")}
misses = sum(sum(f.stats.cache_misses.values()) for f in compiled)
signatures = max(len(f.signatures) for f in compiled)
print(misses, signatures)
"""
WARM_UP = "import fastlmm_vi; fastlmm_vi.warmup()"
FIT_ALL = """
import numpy as np
from fastlmm_vi import Spectrum, WideLMM
rng = np.random.default_rng(0)
for shape in ((30, 50), (50, 20)):
    X = rng.normal(size=shape)
    y, Z = X[:, 0] + rng.normal(size=shape[0]), rng.normal(size=(shape[0], 2))
    for options in ({}, {"reml": True}, {"method": "em"}, {"method": "mfvi"}, {"method": "mfvi", "solver": "sweep"}):
        for order in "CF":
            model = WideLMM(**options).fit(np.asarray(X, order=order), y, Z)
        model.predict(X, Z, return_std=True), model.beta_var_
        WideLMM(**options).fit(X, y, Z, spectrum=Spectrum.of(X))
"""
LMM_ALL = """
import numpy as np, pandas as pd
from fastlmm_vi import lmm
rng = np.random.default_rng(0)
i = np.arange(300)
frame = pd.DataFrame({"y": rng.normal(size=300), "x": rng.normal(size=300), "g": i % 10, "h": i // 6, "k": i // 30})
frame["l"] = i % 75
frame["text"] = frame["g"].astype(str)
for formula in ("y ~ x + (x | g)", "y ~ 0 + (x || text)", "y ~ x + (1 | h) + (1 | k)", "y ~ text + (1 | h) + (x | l)"):
    for method in ("ml", "reml"):
        fit = lmm(formula, frame, method=method, weights=None if method == "ml" else frame["x"] ** 2 + 1.0)
        fit.summary(), fit.to_frame(), fit.predict(frame.iloc[:3], interval="prediction")
"""


def run(code, **environment):
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return out.stdout.split()


@pytest.mark.parametrize("work", [WARM_UP, FIT_ALL, LMM_ALL], ids=["warmup", "wide fits", "grouped fits"])
def test_second_process_compiles_nothing_after_a_warmup(work):
    run(WARM_UP)
    misses, signatures = map(int, run(work + COUNT))
    assert misses == 0
    assert signatures == 1  # one specialisation of each, whatever the order of X and the number of covariates


def test_works_where_nothing_is_writable(tmp_path):
    site = tmp_path / "site"
    source = Path(spectral.__file__).parent
    (site / source.name).mkdir(parents=True)
    for path in source.glob("*.py"):
        (site / source.name / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    # A file where each cache folder would be: not writable for anyone, the superuser included.
    (site / source.name / "__pycache__").write_text("")
    (tmp_path / "home").write_text("")
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); sys.dont_write_bytecode = True\n"
        "import numpy as np\nfrom fastlmm_vi_kernels import spectral\n"
        f"assert spectral.__file__.startswith({str(site)!r})\n"
        "print(spectral.log_volume(1.0, np.ones(3)))"
    )
    home = str(tmp_path / "home" / "user")
    out = run(code, NUMBA_CACHE_DIR="", HOME=home, XDG_CACHE_HOME=home)
    assert float(out[0]) == pytest.approx(3 * np.log(2.0))


def plain_sweep(X, gamma, mean, residual):
    """The textbook's loop, column by column."""
    sq_norms, largest = (X**2).sum(axis=0), 0.0
    for j, x in enumerate(X.T):
        shrink = gamma / (1 + gamma * sq_norms[j])
        delta = shrink * (x @ residual + sq_norms[j] * mean[j]) - mean[j]
        residual -= delta * x
        mean[j] += delta
        largest = max(largest, abs(delta) / np.sqrt(shrink))
    return largest


# Vectors are 4 or 8 wide, two to a turn: lengths around multiples of those, and beyond the first-level cache.
@pytest.mark.parametrize("n", [1, 3, 4, 7, 8, 9, 15, 16, 17, 100, 1001, 2501])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_sweep_is_the_same_gauss_seidel_as_the_naive_one(n, dtype, order):
    rng = np.random.default_rng(n)
    for p in (1, 2, 50):
        X = np.asarray(rng.normal(size=(n, p)).astype(dtype), order=order)
        mean, residual = rng.normal(size=p), rng.normal(size=n)
        expected, left = mean.copy(), residual.copy()
        for _ in range(2):
            largest = plain_sweep(X.astype(np.float64), 0.3, expected, left)
            change = DenseFeatures(X).sweep(0.3, mean, residual)
        np.testing.assert_allclose(mean, expected, rtol=0, atol=1e-11)
        np.testing.assert_allclose(residual, left, rtol=0, atol=1e-11)
        assert change == pytest.approx(largest, abs=1e-11)


def test_sweep_of_c_ordered_columns_in_parts(monkeypatch):
    monkeypatch.setattr(storage, "IN_CACHE", 7 * 8 * 20)  # seven columns at a time
    X = np.random.default_rng(0).normal(size=(20, 50))
    results = []
    for order in "CF":
        mean, residual = np.zeros(50), np.arange(20.0)
        results.append((DenseFeatures(np.asarray(X, order=order)).sweep(0.3, mean, residual), mean, residual))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_sweep_lets_nan_through():
    X = np.asfortranarray(np.ones((9, 4)))
    X[5, 2] = np.nan
    mean, residual = np.zeros(4), np.ones(9)
    sweep.sweep(X, np.full(4, 9.0), 0.3, mean, residual)
    assert np.isnan(mean[2:]).all()
    assert np.isfinite(mean[:2]).all()


def tridiagonals():
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 40):
        yield rng.normal(size=n) ** 2 + 1.0, 0.3 * rng.normal(size=n - 1)
    yield np.ones(30), np.zeros(29)  # nothing to do
    off = 0.3 * rng.normal(size=29)
    off[[4, 17]] = 0.0  # falls apart into blocks
    yield rng.normal(size=30) ** 2 + 1.0, off
    yield 10.0 ** -np.arange(25.0), 1e-3 * 10.0 ** -np.arange(24.0)  # graded
    yield 1e160 * (2.0 + rng.normal(size=20) ** 2), 1e160 * np.full(19, 0.5)  # squares overflow unless scaled


@pytest.mark.parametrize(("diag", "off"), list(tridiagonals()), ids=lambda a: str(a.size))
def test_tridiagonal_kernels_against_dense_matrices(diag, off):
    n = diag.size
    T = np.diag(diag) + np.diag(off, 1) + np.diag(off, -1)
    rows = np.random.default_rng(1).normal(size=(n, 3))
    d, rotated = diag.copy(), rows.copy()
    assert tridiagonal.diagonalise(d, off.copy(), rotated)
    values, S = np.linalg.eigh(T)
    order = np.argsort(d)
    np.testing.assert_allclose(d[order], values, rtol=0, atol=1e-13 * values[-1])
    # Any function of T shows the rotated rows to be right, whatever the signs of eigenvectors and their order.
    scaled = T / values[-1]
    inside = S @ np.diag(1.0 / (1.0 + values / values[-1])) @ S.T
    by_rows = rotated.T @ (rotated / (1.0 + d / values[-1])[:, None])
    np.testing.assert_allclose(by_rows, rows.T @ inside @ rows, atol=1e-12)
    gamma = 0.7 / values[-1]
    solved = rows.copy()
    tridiagonal.solve(gamma, diag, off, solved)
    np.testing.assert_allclose((np.eye(n) + 0.7 * scaled) @ solved, rows, atol=1e-13)
    factor = Tridiagonal(diag, off, None, 0.0).inner_half(gamma)
    np.testing.assert_allclose(factor @ factor.T, np.linalg.inv(np.eye(n) + 0.7 * scaled), atol=1e-13)


@pytest.mark.parametrize(("n", "b"), [(60, 4), (61, 8), (100, 16), (49, 48), (48, 48), (5, 3), (3, 2), (2, 2), (1, 2)])
def test_two_stages_reduce_to_the_same_tridiagonal_form(n, b):
    X = np.random.default_rng(n).normal(size=(n, 2 * n))
    K = np.asfortranarray(X @ X.T)
    for diag, off, reflections in (
        householder.in_two_stages(K.copy(order="F"), b),
        householder.in_one_stage(K.copy(order="F")),
    ):
        T = np.diag(diag) + np.diag(off, 1) + np.diag(off, -1)
        Q = reflections.apply(np.eye(n), "N")
        np.testing.assert_allclose(Q @ T @ Q.T, K, rtol=0, atol=1e-13 * K.max())
        np.testing.assert_allclose(reflections.apply(np.eye(n), "T"), Q.T, rtol=0, atol=1e-13)
        np.testing.assert_array_equal(Q[0], np.eye(n)[0])  # the response stays the first direction


def test_products_on_parts_of_a_matrix():
    rng = np.random.default_rng(0)
    whole, V, W = (np.asfortranarray(rng.normal(size=shape)) for shape in ((9, 9), (5, 2), (5, 2)))
    part = whole[3:8, 3:8]
    full = np.tril(part) + np.tril(part, -1).T
    np.testing.assert_allclose(blas.symm(part, V), full @ V, rtol=1e-13)
    before = whole.copy()
    blas.subtract_syr2k(part, V, W)
    np.testing.assert_allclose(np.tril(part), np.tril(full - V @ W.T - W @ V.T), rtol=1e-13)
    before[3:8, 3:8] = whole[3:8, 3:8]
    np.testing.assert_array_equal(whole, before)  # nothing else was touched


def test_ql_says_when_it_does_not_settle():
    assert not tridiagonal.diagonalise(np.full(5, np.nan), np.ones(4), np.ones((5, 1)))
