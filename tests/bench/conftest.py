"""One data set, one thread, warm kernels; machine and ratios are written beside the numbers."""

import pytest

from fastlmm_vi import threads, warmup
from fastlmm_vi.bench import machine, record
from fastlmm_vi.bench.case import Problem


@pytest.fixture(scope="session")
def problem():
    warmup()
    return Problem()


@pytest.fixture(autouse=True)
def one_thread():
    with threads.limit(1):
        yield


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info.clear()
    machine_info.update(machine.describe())


def pytest_benchmark_update_json(config, benchmarks, output_json):
    record.add_ratios(output_json["benchmarks"])
