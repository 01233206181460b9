"""Machine and ratios are written beside the numbers; one thread."""

import pytest

from fastlmm_vi import threads
from fastlmm_vi.bench import machine, record


@pytest.fixture(autouse=True)
def one_thread():
    with threads.limit(1):
        yield


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info.clear()
    machine_info.update(machine.describe())


def pytest_benchmark_update_json(config, benchmarks, output_json):
    record.add_ratios(output_json["benchmarks"])
