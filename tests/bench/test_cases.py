"""How long does every case of `fastlmm-vi bench` take, beside yardsticks and peers, at stated accuracy?

Run: python -m pytest tests/bench -m slow --benchmark-enable --benchmark-only

The cases are measured as the command measures them, round by round and all in each; pytest-benchmark is told the times.
"""

import pytest
import students

from fastlmm_vi.bench import cases, clock, measure
from fastlmm_vi.bench.case import Problem

CASES = {case.name: case for case in (*cases.CASES, *students.CASES)}

pytestmark = [pytest.mark.slow, pytest.mark.benchmark(timer=clock.now)]


@pytest.fixture(scope="module")
def run(request):
    """All cases that were collected and are installed."""
    names = {item.callspec.params["name"] for item in request.session.items if item.originalname == "test_case"}
    chosen = [case for case in CASES.values() if case.name in names and (not case.package or cases.version(case))]
    rounds = measure.ROUNDS if request.config.getoption("benchmark_enable") else 1
    return measure.measure(chosen, Problem(), rounds)


@pytest.mark.parametrize("name", CASES)
def test_case(benchmark, run, name):
    if name not in run.rows:
        pytest.skip(f"{CASES[name].package} is installed by the extra `bench`")
    row = run.rows[name]
    seconds = iter(row.stats["data"])
    benchmark.group = row.question
    benchmark.extra_info |= row.info
    benchmark.pedantic(lambda: clock.add(next(seconds)), rounds=row.stats["rounds"])
    assert row.info["error"] is None or row.info["error"] <= CASES[name].within
