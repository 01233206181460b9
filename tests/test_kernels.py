"""Compiled once, cached, and callable where nothing can be written."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from fastlmm_vi_kernels import spectral, sweep

FIT_ALL = """
import numpy as np
from fastlmm_vi import WideLMM
from fastlmm_vi_kernels import spectral, sweep
rng = np.random.default_rng(0)
for shape in ((30, 50), (50, 20)):
    X = rng.normal(size=shape)
    y = X[:, 0] + rng.normal(size=shape[0])
    for options in ({}, {"reml": True}, {"method": "em"}, {"method": "mfvi"}, {"method": "mfvi", "solver": "sweep"}):
        for order in "CF":
            WideLMM(**options).fit(np.asarray(X, order=order), y, rng.normal(size=(len(y), 2)))
compiled = [f for m in (spectral, sweep) for f in vars(m).values() if hasattr(f, "stats")]
misses = sum(sum(f.stats.cache_misses.values()) for f in compiled)
signatures = max(len(f.signatures) for f in compiled)
print(misses, signatures)
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


def test_second_process_compiles_nothing():
    run(FIT_ALL)
    misses, signatures = map(int, run(FIT_ALL))
    assert misses == 0
    assert signatures <= 2  # a view and a contiguous array at most


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
        "print(spectral.mean_field_gap(np.ones(1), np.ones(3), np.zeros(2))[0])"
    )
    home = str(tmp_path / "home" / "user")
    out = run(code, NUMBA_CACHE_DIR="", HOME=home, XDG_CACHE_HOME=home)
    assert float(out[0]) == np.float64(1.5 * np.log(2.0))


def test_sweep_is_the_same_gauss_seidel_as_the_naive_one():
    import naive
    from problems import PROBLEMS

    y, Z, X = PROBLEMS["wide"]
    omega = np.zeros(Z.shape[1])
    mean, residual = np.zeros(X.shape[1]), y.copy()
    expected = mean.copy()
    for _ in range(3):
        sweep.sweep(np.asfortranarray(X), np.sum(X**2, axis=0), 0.3, mean, residual)
        expected = naive.sweep(y, Z, X, omega, expected, 0.3)
    np.testing.assert_allclose(mean, expected, rtol=1e-11)
    np.testing.assert_allclose(residual, y - X @ mean, rtol=1e-10, atol=1e-12)
