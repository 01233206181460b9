"""One data set, one thread, warm kernels; the machine's BLAS is written beside the numbers."""

import warnings

import pytest
from threadpoolctl import ThreadpoolController

from fastlmm_vi import Spectrum, WideLMM
from fastlmm_vi.datasets import make_xyz_twin


@pytest.fixture(scope="session")
def data():
    return make_xyz_twin()


@pytest.fixture(scope="session")
def spectrum(data):
    return Spectrum.of(data.X)


@pytest.fixture(scope="session")
def optimum(data, spectrum):
    """Newton's fit, and with it every kernel compiled before the first measurement."""
    small = make_xyz_twin(n=30, p=50, c=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for options in (
            {},
            {"reml": True},
            {"method": "em"},
            {"method": "mfvi"},
            {"method": "mfvi", "solver": "sweep"},
        ):
            WideLMM(**options).fit(small.X, small.y, small.Z)
    return WideLMM(fit_intercept=False).fit(data.X, data.y, data.Z, spectrum=spectrum)


@pytest.fixture(autouse=True)
def one_thread():
    with ThreadpoolController().limit(limits=1):
        yield


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["blas"] = [
        {key: library.get(key) for key in ("internal_api", "version", "architecture")}
        for library in ThreadpoolController().info()
    ]
