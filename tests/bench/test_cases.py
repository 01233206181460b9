"""How long does every case of `fastlmm-vi bench` take, beside yardsticks and peers, at stated accuracy?

Run: python -m pytest tests/bench -m slow --benchmark-enable --benchmark-only
"""

import pytest
import students

from fastlmm_vi.bench import cases, clock, record
from fastlmm_vi.bench.measure import ROUNDS

CASES = {case.name: case for case in (*cases.CASES, *students.CASES)}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.benchmark(timer=clock.now),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.mark.parametrize("name", CASES)
def test_case(benchmark, problem, name):
    case = CASES[name]
    if case.package and not cases.version(case):
        pytest.skip(f"{case.package} is installed by the extra `bench`")
    rounds, warmup_rounds = (1, 0) if case.once else (ROUNDS, 1)
    value = benchmark.pedantic(case.prepare(problem), rounds=rounds, warmup_rounds=warmup_rounds)
    benchmark.group = case.question
    benchmark.extra_info |= record.info(case, problem, value)
    error = benchmark.extra_info["error"]
    assert error is None or error <= case.within
