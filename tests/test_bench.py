"""The benchmarks themselves: every case has its row, files go round, a change is no noise and no slower machine."""

import copy
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import test_cases as bench_tests
from test_cli import cli

from fastlmm_vi.bench import cases, change, clock, growth, measure, peers, record, report
from fastlmm_vi.bench.case import Case, Problem
from fastlmm_vi.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
TINY = Problem(n=60, p=150, c=2)


SIZES = ["--n", "60", "--p", "150", "--c", "2"]


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """All cases that are installed, on tiny data, in a process of their own: peers leave traces. The times mean nothing."""
    folder = tmp_path_factory.mktemp("bench")
    done = cli("bench", *SIZES, "--rounds", "3", "--out", "run.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout, record.read(folder / "run.json")


@pytest.fixture(scope="module")
def run(command):
    return command[1]


def made(**times):
    """A record of fixed times: case → (yardstick, fastest round, first quartile above it)."""
    rows = {}
    for name, (yardstick, fastest, above) in times.items():
        info = {"case": name, "yardstick": yardstick, "units": 1, "n": 9, "p": 9, "c": 1, "jobs": 1}
        info |= {"error": None, "package": None, "package_version": None}
        stats = {"min": fastest, "q1": fastest + above, "median": fastest + above, "rounds": 9}
        rows[name] = record.Row(question="Which?", stats=stats, info=info)
    machine = {"cpu": {"brand_raw": "A", "arch": "x", "count": 2}, "system": "S", "python_version": "3", "versions": {}}
    return record.Record({**machine, "blas": [{"internal_api": "b", "version": "1", "architecture": "x"}]}, rows)


def scaled(file, factors):
    """The contents of a file with all times of the given cases multiplied; "all" is every case."""
    content = copy.deepcopy(file)
    for entry in content["benchmarks"]:
        factor = factors.get(entry["extra_info"]["case"], factors.get("all", 1.0))
        for key in ("min", "max", "mean", "stddev", "median", "q1", "q3", "iqr", "total"):
            entry["stats"][key] *= factor
    return content


def test_every_case_has_a_sound_definition():
    names = [case.name for case in cases.CASES]
    assert len(names) == len(set(names))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    offered = [*project["dependencies"], *project["optional-dependencies"]["bench"]]
    for case in cases.CASES:
        assert case.yardstick is None or case.yardstick in names
        assert case.package is None or any(each.startswith(case.package) for each in offered)
    for question in {case.question for case in cases.CASES}:
        assert sum(case.question == question and case.package is None for case in cases.CASES) >= 1


def test_the_benchmark_suite_runs_the_registry():
    assert set(cases.CASES) <= set(bench_tests.CASES.values())


def test_every_case_has_its_row_and_its_accuracy(command):
    printed, run = command
    assert report.table(run) in printed
    assert "n = 60, p = 150, c = 2, 1 thread" in printed
    chosen = cases.select()
    assert list(run.rows) == [case.name for case in chosen]
    lines = printed.splitlines()
    for case in chosen:
        (line,) = [line for line in lines if line.split()[:1] == [case.name]]
        assert f"{1e3 * run.rows[case.name].seconds():.3f}" in line
        assert f"{1e3 * run.rows[case.name].seconds('median'):.3f}" in line
        assert (case.yardstick is None) == (run.ratio(case.name) is None)
        error = run.rows[case.name].info["error"]
        assert (error is None) == (case.truth is None)
        assert error is None or error <= case.within, case.name
    for case in chosen:
        assert case.question in printed
    assert run.rows["em_1000"].info["error"] > 0.0
    assert all(run.rows[case.name].stats["rounds"] == (1 if case.once else 3) for case in chosen)


def test_error_is_relative_to_the_truth():
    case = Case(name="a", question="b", prepare=lambda problem: float, truth=lambda problem: [3.0, 4.0])
    assert case.error(TINY, np.array([3.0, 4.5])) == pytest.approx(0.1)
    zero = Case(name="a", question="b", prepare=lambda problem: float, truth=lambda problem: 0.0)
    assert zero.error(TINY, 0.25) == 0.25


def test_rounds_are_interleaved():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds, _ = measure.interleaved(runs, rounds=2, once=["b"])
    assert "".join(calls) == "ac" + "abc" + "ac"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 1, "c": 2}


def test_start_up_of_a_peer_is_not_counted(monkeypatch):
    """A second a sweep after a start-up of 7 s: only the sweeps are left."""
    now = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(clock, "_added", 0.0)

    def sweeps(count):
        now[0] += 7.0 + count

    seconds, _ = measure.interleaved({"peer": peers._less_start(sweeps)}, rounds=2)
    assert seconds["peer"] == [peers.SWEEPS] * 2

    def drowned(count):
        now[0] += 1.0

    assert measure.interleaved({"peer": peers._less_start(drowned)}, rounds=1)[0]["peer"] == [1.0]


def test_selection(monkeypatch):
    names = {case.name for case in cases.select("response_*")}
    assert names == {"read_X", "response_newton_ml", "response_em_1000", "response_mfvi_collapsed"}
    assert not any(case.package for case in cases.select(peers=False))
    with pytest.raises(DataError, match="name of no case"):
        cases.select("nothing*")
    with pytest.raises(DataError, match="leaves them out"):
        cases.select("sklearn_cd", peers=False)
    monkeypatch.setattr(cases, "version", lambda case: None)
    with pytest.raises(DataError, match="not installed"):
        cases.select("skglm_cd")


def test_a_peer_that_cannot_be_imported_is_named():
    def broken(problem):
        raise ImportError("no such symbol")

    case = Case(name="peer", question="Which?", prepare=broken, package="their-package")
    with pytest.raises(DataError, match="peer: their-package is installed but cannot be imported"):
        measure.measure([case], TINY)


def test_statistics_are_those_of_pytest_benchmark():
    from pytest_benchmark.stats import Stats

    theirs = Stats()
    for seconds in (0.3, 0.1, 0.2, 0.7, 0.4):
        theirs.update(seconds)
    ours = record.statistics([0.3, 0.1, 0.2, 0.7, 0.4])
    for key in ("min", "max", "mean", "stddev", "median", "total", "ops", "rounds"):
        assert ours[key] == pytest.approx(getattr(theirs, key)), key
    assert ours["iqr"] == pytest.approx(ours["q3"] - ours["q1"]) == pytest.approx(0.2)


def test_a_file_goes_round(run, tmp_path):
    again = record.read(record.write(run, tmp_path / "run.json"))
    assert again.machine == run.machine
    assert list(again.rows) == list(run.rows)
    for name, row in run.rows.items():
        assert again.ratio(name) == run.ratio(name)
        assert again.rows[name].info["error"] == row.info["error"]
    written = json.loads((tmp_path / "run.json").read_text())["benchmarks"]
    assert [entry["extra_info"]["ratio"] for entry in written] == [run.ratio(name) for name in run.rows]
    assert "Beyond the noise: nothing" in report.against(again, run)
    done = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "compare", "run.json"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "newton_reml" in done.stdout


def test_a_slower_machine_is_no_regression_and_a_slower_case_is(run, tmp_path):
    path = record.write(run, tmp_path / "run.json")
    content = json.loads(path.read_text())

    def verdicts(factors):
        path.write_text(json.dumps(scaled(content, factors)))
        return {each.name: each.verdict for each in change.changes(run, record.read(path)) if each.verdict}

    assert verdicts({"all": 3.0}) == {}
    assert verdicts({"newton_ml": 50.0}) == {"newton_ml": "slower"}
    assert verdicts({"all": 3.0, "sweep": 0.03}) == {"sweep": "faster"}


def test_noise_is_the_spread_of_all_that_enters():
    then = made(yard=(None, 2.0, 0.12), case=("yard", 1.0, 0.08), steady=("yard", 1.0, 0.0))
    now = made(yard=(None, 2.0, 0.0), case=("yard", 1.09, 0.0), steady=("yard", 1.09, 0.0))
    case, steady = change.changes(then, now)
    assert case.noise == pytest.approx(np.sqrt(0.06**2 + 0.08**2))
    assert steady.noise == pytest.approx(0.06)
    assert (case.relative, case.verdict, steady.verdict) == (pytest.approx(0.09), "", "slower")
    (same, _) = change.changes(now, now)
    assert (same.noise, same.verdict) == (change.LEAST, "")
    once = made(yard=(None, 2.0, 0.0), case=("yard", 1.2, 0.0))
    once.rows["case"].stats["rounds"] = 1
    (case,) = change.changes(then, once)
    assert (case.noise > change.UNKNOWN, case.verdict) == (True, "")


def test_what_cannot_be_compared_is_not_judged():
    then = made(yard=(None, 1.0, 0.0), case=("yard", 1.0, 0.0), old=("yard", 1.0, 0.0))
    now = made(yard=(None, 1.0, 0.0), case=("yard", 9.0, 0.0), new=("yard", 1.0, 0.0))
    assert "SLOWER" in report.against(then, now)
    assert "1 slower (case)" in report.against(then, now)
    assert "Only then: old\nOnly now: new" in report.against(then, now)
    now.machine["cpu"]["brand_raw"] = "B"
    assert "SLOWER" in report.against(then, now)
    assert "Also different: was A" in report.against(then, now)
    now.machine["blas"][0]["architecture"] = "y"
    now.rows["case"].info["p"] = 10
    text = report.against(then, now)
    assert "SLOWER" not in text
    assert "p was 9, is 9, 10; BLAS kernels were b x, are b y" in text


FILES = {
    "nothing": (None, "no such file"),
    "no JSON": ("{", "not a file of benchmarks"),
    "a list": ("[1]", "not a file of benchmarks"),
    "something else": ('{"fits": {}}', "not a file of benchmarks"),
    "other benchmarks": ('{"benchmarks": [], "machine_info": {}}', "not a file of benchmarks"),
}


@pytest.mark.parametrize("fault", FILES)
def test_files_that_are_none(tmp_path, fault):
    content, message = FILES[fault]
    if content is not None:
        (tmp_path / "file.json").write_text(content)
    with pytest.raises(DataError, match=message):
        record.read(tmp_path / "file.json")


@pytest.mark.parametrize(("key", "value"), [("median", None), ("median", float("nan")), ("min", 0.0), ("q1", "x")])
def test_files_with_broken_times(run, tmp_path, key, value):
    path = record.write(run, tmp_path / "file.json")
    content = json.loads(path.read_text())
    content["benchmarks"][1]["stats"][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="not a file of benchmarks"):
        record.read(path)
    for entry in content["benchmarks"]:
        del entry["extra_info"]["case"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="none of the cases"):
        record.read(path)


def test_against_at_the_command_line(run, tmp_path):
    record.write(run, tmp_path / "run.json")
    options = ["--rounds", "2", "--only", "newton_*", "--no-peers", "--against", "run.json"]
    same = cli("bench", *options, cwd=tmp_path)
    assert same.returncode == 0, same.stderr
    assert "n = 60, p = 150, c = 2, 1 thread" in same.stdout
    assert "Beyond the noise" in same.stdout
    assert "Only then: read_X, dsyrk, em_optimum" in same.stdout
    other = cli("bench", *options, "--p", "160", "--jobs", "2", cwd=tmp_path)
    assert "Not comparable, and not judged: p was 150, is 160; jobs was 1, is 2." in other.stdout


def test_faults_end_in_one_message_and_code_2(tmp_path):
    (tmp_path / "broken.json").write_text("{}")
    for options, message in (
        (["--against", "broken.json"], "broken.json is not a file of benchmarks"),
        (["--out", "none/run.json"], "there is no folder"),
    ):
        done = cli("bench", *options, cwd=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


SUITE = """
import sys, pytest
from fastlmm_vi.bench.case import Problem
Problem.__init__.__defaults__ = (60, 150, 2, None)
options = ["-p", "no:cacheprovider", "-m", "slow", "--benchmark-enable", "--benchmark-only", "-q"]
sys.exit(pytest.main(["tests/bench/test_cases.py", *options, *sys.argv[1:]]))
"""


def test_a_file_of_pytest_benchmark_is_as_good(run, tmp_path):
    path = tmp_path / "suite.json"
    chosen = "dsyrk_eigh or read_X or newton_reml or sklearn_cd or student"
    command = [sys.executable, "-c", SUITE, f"--benchmark-json={path}", "-k", chosen]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=alone)
    assert done.returncode == 0, done.stdout + done.stderr
    suite = record.read(path)
    assert set(suite.rows) >= {"dsyrk_eigh", "read_X", "newton_reml", "sklearn_cd", "student_em"}
    assert suite.rows["newton_reml"].stats["rounds"] == measure.ROUNDS
    assert suite.machine == run.machine
    assert change.obstacles(suite, run) == []
    assert {each.name for each in change.changes(suite, run)} == {"newton_reml", "sklearn_cd"}
    for entry in json.loads(path.read_text())["benchmarks"]:
        name = entry["extra_info"]["case"]
        assert entry["extra_info"]["ratio"] == suite.ratio(name)


def test_growth_recovers_known_exponents():
    n = np.array([10, 20, 50, 100])
    for power in (0.5, 1.0, 2.7):
        assert growth.exponent(n, 3e-9 * n**power) == pytest.approx(power, abs=1e-10)
    for name, (_, count) in growth.OPERATIONS.items():
        small = growth.exponent([10, 100], [count(10, 1e9, 1), count(100, 1e9, 1)])
        assert small == pytest.approx(1.0 if name == "sweep" else 2.0, abs=1e-3)
        assert growth.exponent([1e8, 1e9], [count(10, 1e8, 1), count(10, 1e9, 1)]) == pytest.approx(1.0, abs=1e-3)
    rows = [("a", "n", m, 5, 1, 2e-6 * m**1.5, m**2) for m in n] + [("a", "p", 5, m, 1, 1e-6 * m, m) for m in n]
    table = pd.DataFrame(rows, columns=["method", "varied", "n", "p", "c", "seconds", "operations"])
    fitted = growth.exponents(table)
    assert fitted["in"].tolist() == ["n", "p"]
    assert fitted["measured"].tolist() == pytest.approx([1.5, 1.0])
    assert fitted["theory"].tolist() == pytest.approx([2.0, 1.0])


def test_growth_on_tiny_sizes(tmp_path):
    sizes = growth.Sizes(n=(20, 40), p_fixed=60, p=(50, 100), n_fixed=20, c=1, rounds=1)
    table = growth.run(sizes)
    assert set(table["method"]) == set(growth.OPERATIONS) <= {case.name for case in cases.CASES}
    assert table.groupby(["method", "varied"])[["n", "p"]].nunique().to_numpy().sum() == 3 * 8
    assert (table["seconds"] > 0.0).all()
    paths = growth.write(table, tmp_path)
    assert [path.name for path in paths] == ["growth.csv", "growth.png"]
    pd.testing.assert_frame_equal(pd.read_csv(paths[0]), table, check_dtype=False)
    for name in growth.OPERATIONS:
        assert name in growth.text(growth.exponents(table))


def test_growth_at_the_command_line(tmp_path):
    done = cli("bench", "growth", "--quick", "--out", "here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"growth.csv", "growth.png"}
    assert "measured  theory" in done.stdout
