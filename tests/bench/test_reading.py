"""Which reader of the course's text layout is fastest? The choice in `fastlmm_vi.tables` rests on this.

Run: python -m pytest tests/bench/test_reading.py -m slow --benchmark-enable --benchmark-only
"""

import numpy as np
import pandas as pd
import pytest

from fastlmm_vi.datasets import read_xyz, write_xyz

pytestmark = [pytest.mark.slow, pytest.mark.benchmark(group="reading 1000 × 6031 numbers of 17 digits (130 MB)")]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    rng = np.random.default_rng(0)
    y, Z, X = rng.normal(size=1000), rng.normal(size=(1000, 30)), rng.normal(size=(1000, 6000)) / np.sqrt(6000)
    path = write_xyz(tmp_path_factory.mktemp("reading") / "big.txt", y, Z, X)
    return path, np.column_stack([y, Z, X])


def lines(path):
    with open(path, "rb") as handle:
        next(handle)
        return np.array([list(map(float, line.split(b"\t"))) for line in handle])


READERS = {
    "read_xyz": lambda path: np.column_stack(read_xyz(path)[:3]),
    "pandas": lambda path: pd.read_csv(path, sep="\t").to_numpy(),
    "pandas_pyarrow": lambda path: pd.read_csv(path, sep="\t", engine="pyarrow").to_numpy(),
    "numpy_loadtxt": lambda path: np.loadtxt(path, delimiter="\t", skiprows=1),
    "loop_over_lines": lines,
}


@pytest.mark.parametrize("name", READERS)
def test_reading(benchmark, file, name):
    if name == "pandas_pyarrow":
        pytest.importorskip("pyarrow", reason="pyarrow is optional")
    path, expected = file
    values = benchmark.pedantic(lambda: READERS[name](path), rounds=3)
    benchmark.extra_info["same bits"] = bool((values == expected).all())
    np.testing.assert_allclose(values, expected, rtol=1e-15)
