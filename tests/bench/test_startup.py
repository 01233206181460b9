"""How long do the import and the first fit of a process take, with and without kernels in numba's cache?

Run: python -m pytest tests/bench/test_startup.py -m slow --benchmark-enable --benchmark-only
"""

import subprocess
import sys
import tempfile

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.benchmark(group="Start-up of a process")]


@pytest.mark.parametrize("cache", ["cold", "warm"])
def test_first_fit_of_a_process(benchmark, cache, monkeypatch):
    """Import and one small fit of every method; cold compiles all kernels."""
    code = (
        "import warnings; warnings.simplefilter('ignore'); from fastlmm_vi import WideLMM\n"
        "from fastlmm_vi.datasets import make_xyz_twin; d = make_xyz_twin(n=30, p=50, c=2)\n"
        "for o in ({}, {'reml': True}, {'method': 'em'}, {'method': 'mfvi'}, {'method': 'mfvi', 'solver': 'sweep'}):\n"
        "    WideLMM(**o).fit(d.X, d.y, d.Z)"
    )
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("NUMBA_CACHE_DIR", folder)
        command = [sys.executable, "-c", code]
        if cache == "warm":
            subprocess.run(command, check=True)
        benchmark.pedantic(lambda: subprocess.run(command, check=True), rounds=1)


@pytest.mark.parametrize("module", ["numba, pandas, sklearn.base", "fastlmm_vi", "fastlmm_vi.wide.estimator"])
def test_import(benchmark, module):
    command = [sys.executable, "-c", f"import {module}"]
    benchmark.pedantic(lambda: subprocess.run(command, check=True), rounds=5, warmup_rounds=1)
