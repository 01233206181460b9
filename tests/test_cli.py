"""The command line as its users see it: files, tables, exit codes, no tracebacks."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from fastlmm_vi import WideLMM
from fastlmm_vi.datasets import make_xyz_twin, write_xyz

FILES = {
    "estimates.json",
    "trace.csv",
    "posterior.csv",
    "trace.png",
    "gap.png",
    "variances.png",
    "omega.png",
    "posterior_same_theta.png",
    "posterior_own_theta.png",
    "posterior_theta.png",
}


def cli(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "fastlmm_vi", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    data = make_xyz_twin(n=150, p=400, c=3)
    write_xyz(folder / "small.txt", data.y, data.Z, data.X)
    return folder, data


def test_reproduce_on_the_twin(tmp_path):
    done = cli("reproduce", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    result = json.loads((tmp_path / "out" / "estimates.json").read_text())
    assert result["data"] == {
        "source": "twin of XYZ_MoM (seed 0)",
        "n": 1000,
        "p": 6000,
        "c": 30,
        "sha256": make_xyz_twin().sha256,
    }
    for block in ("fits", "fits_intercept"):
        assert list(result[block]) == ["em", "newton", "reml", "mfvi"]
    for fit in (*result["fits"].values(), result["mfvi_sweep"]):
        assert len(fit["omega"]) == 30
        assert fit["intercept"] is None
        assert fit["converged"] is True
        assert fit["seconds"] > 0
    fits = result["fits"]
    assert fits["em"]["sigma2_beta"] == pytest.approx(fits["newton"]["sigma2_beta"], rel=1e-4)
    assert result["mfvi_sweep"]["elbo"] == pytest.approx(fits["mfvi"]["elbo"], abs=1e-6)
    assert fits["mfvi"]["gap"] == pytest.approx(fits["mfvi"]["loglik"] - fits["mfvi"]["elbo"])
    assert fits["newton"]["elbo"] is None
    assert result["fits_intercept"]["newton"]["intercept"] == pytest.approx(-0.07, abs=0.05)
    same, own = (result["comparison"][k] for k in ("same_theta", "own_theta"))
    assert same["beta_mean_rmse"] < 1e-6 < own["beta_mean_rmse"]
    assert f"{fits['newton']['sigma2_beta']:.6g}" in done.stdout
    trace = pd.read_csv(tmp_path / "out" / "trace.csv")
    em = trace[trace["fit"] == "em"]
    assert len(em) == fits["em"]["n_iter"] + 1
    assert (np.diff(em["loglik"]) >= -1e-9).all()
    posterior = pd.read_csv(tmp_path / "out" / "posterior.csv")
    assert posterior.shape == (6000, 11)
    derived_entries_follow_from_the_files(result, em, posterior)
    every_method_stands_in_one_table(result, done.stdout)


def every_method_stands_in_one_table(result, printed):
    """EM, ML, REML, mean field in its three ways and quadrature: each number is that of the fit."""
    names = ["em", "newton", "reml", "mfvi", "mfvi_loglik", "mfvi_posterior", "quadrature"]
    table = result["methods"]
    assert list(table) == names
    for name in names:
        fit = result["fits"].get(name) or result[name]
        for row in ("sigma2_beta", "sigma2_e", "pve", "loglik", "elbo"):
            assert table[name][row] == fit[row]
    assert table["quadrature"]["log_evidence"] == result["quadrature"]["log_evidence"]
    assert table["mfvi_posterior"]["elbo"] < table["quadrature"]["log_evidence"]
    assert table["mfvi_posterior"]["log_evidence"] is None
    theta = result["quadrature"]["theta"]["pve"]
    assert table["quadrature"]["pve_lower"] == pytest.approx(theta["q05"], rel=1e-4)
    assert table["quadrature"]["pve_upper"] == pytest.approx(theta["q95"], rel=1e-4)
    reml = result["fits"]["reml"]
    assert table["reml"]["pve_upper"] == pytest.approx(reml["pve"] + 1.6448536 * reml["pve_se"])
    assert table["mfvi"]["pve_lower"] is None
    assert table["quadrature"]["beta_mean_rmse"] == 0.0
    assert table["reml"]["beta_mean_correlation"] > table["mfvi"]["beta_mean_correlation"]
    assert result["quadrature"]["priors"]["sigma_e"].startswith("HalfNormal(")
    for heading in ("EM", "ML", "REML", "θ by ELBO", "θ by log-lik.", "θ by posterior", "quadrature"):
        assert heading in printed
    assert f"{theta['q05']:.4g} … {theta['q95']:.4g}" in printed


def derived_entries_follow_from_the_files(result, em, posterior):
    """The table, the thinned traces, where EM would have stopped, and the largest effects."""
    assert result["table"]["mfvi"]["beta_var_ratio"] == pytest.approx(
        result["comparison"]["own_theta"]["beta_var_ratio"]
    )
    assert result["table"]["newton"]["beta_mean_correlation"] == pytest.approx(1.0)
    steps = [row["iteration"] for row in result["paths"]["em"]]
    assert steps == [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, result["fits"]["em"]["n_iter"]]
    assert [row["loglik"] for row in result["paths"]["em"]] == pytest.approx(em["loglik"].iloc[steps].tolist())
    loglik, newton = em["loglik"].to_numpy(), result["fits"]["newton"]
    for tolerance, stop in result["em_stopped"].items():
        first = next(k for k in range(1, len(loglik)) if loglik[k] - loglik[k - 1] < float(tolerance))
        assert stop["n_iter"] == first
        assert stop["below_maximum"] == pytest.approx(newton["loglik"] - loglik[first])
        assert stop["sigma2_beta_off"] == pytest.approx(em["sigma2_beta"].iloc[first] / newton["sigma2_beta"] - 1)
    z = (posterior["newton_mean"] / np.sqrt(posterior["newton_var"])).abs()
    largest = result["effects"]["newton"]
    assert largest[0]["feature"] == posterior["feature"][z.idxmax()]
    assert [abs(row["z"]) for row in largest] == pytest.approx(z.nlargest(len(largest)).tolist())


def test_reproduce_on_a_file(small):
    folder, data = small
    done = cli("reproduce", "--data", "small.txt", "--out", "study", cwd=folder)
    assert done.returncode == 0, done.stderr
    result = json.loads((folder / "study" / "estimates.json").read_text())
    assert result["data"]["sha256"] == data.sha256
    assert result["data"]["source"] == "small.txt"


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("--reml", {"reml": True}),
        ("--reml --precision float32-gram --n-jobs 2", {"reml": True, "precision": "float32-gram"}),
        ("--method em", {"method": "em"}),
        ("--method mfvi", {"method": "mfvi"}),
        ("--method mfvi --solver sweep", {"method": "mfvi", "solver": "sweep"}),
        ("--method mfvi --block-size 7", {"method": "mfvi", "block_size": 7}),
    ],
)
def test_fit(small, options, settings):
    folder, data = small
    done = cli("fit", "small.txt", *options.split(), "--out", "fit", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Fixed effects" in done.stdout
    (fit,) = json.loads((folder / "fit" / "estimates.json").read_text())["fits"].values()
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = WideLMM(**settings).fit(data.X, data.y, data.Z)
    # Another process aligns its arrays otherwise, and sums round otherwise: the same to the sweeps' tolerance.
    assert fit["sigma2_beta"] == pytest.approx(model.sigma2_beta_, rel=1e-7)
    assert fit["loglik"] == pytest.approx(model.loglik_, rel=1e-11)
    assert fit["n_iter"] == pytest.approx(model.n_iter_, rel=0.1)  # tells solvers apart that end at the same point


def test_reproduce_goes_on_where_a_fit_does_not_exist(tmp_path):
    """Centred features with an intercept: maximum likelihood has no maximum, REML and mean field have."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 90))
    write_xyz(tmp_path / "a.txt", rng.normal(size=60), np.empty((60, 0)), X - X.mean(axis=0))
    done = cli("reproduce", "--data", "a.txt", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "estimates.json").read_text())
    assert "newton" in result["failed"]["fits_intercept"]
    assert "reml" in result["fits_intercept"]
    assert "newton (fits_intercept): no fit" in done.stdout


def test_reproduce_without_any_signal_or_with_one_feature(tmp_path):
    rng = np.random.default_rng(0)
    for name, X in (("zero", np.zeros((40, 3))), ("one", rng.normal(size=(40, 1)))):
        write_xyz(tmp_path / f"{name}.txt", rng.normal(size=40), np.ones((40, 1)), X)
        done = cli("reproduce", "--data", f"{name}.txt", "--out", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / name / "estimates.json").exists()


def test_output_that_cannot_be_written(small):
    for arguments in (["fit", "small.txt", "--out", "small.txt"], ["reproduce", "--out", "small.txt/sub"]):
        done = cli(*arguments, cwd=small[0])
        assert done.returncode == 2
        assert "small.txt" in done.stderr
        assert "Traceback" not in done.stderr


def test_output_without_greek(small):
    folder, _ = small
    command = [sys.executable, "-m", "fastlmm_vi", "fit", "small.txt", "--reml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "cp1252"})
    assert done.returncode == 0
    assert b"Fixed effects" in done.stdout


def test_fit_chooses_columns(small):
    folder, data = small
    table = pd.DataFrame(
        np.column_stack([data.X[:, :50], data.Z[:, 0], data.y]),
        columns=[*(f"snp{j}" for j in range(50)), "age", "height"],
    )
    table.to_csv(folder / "named.csv", index=False)
    done = cli("fit", "named.csv", "--y", "height", "--covariates", "age", "--features", "snp", "--reml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "response height; covariates age; features snp0, snp1, … snp49 (50); not used none" in done.stdout
    model = WideLMM(reml=True).fit(data.X[:, :50], data.y, data.Z[:, 0])
    assert f"{model.sigma2_e_:.6g}" in done.stdout


FAULTS = {
    "no file": (["nothing.txt"], "nothing.txt: no such file"),
    "unknown column": (["small.txt", "--y", "Y"], "no column called 'Y'"),
    "unknown method": (["small.txt", "--method", "magic"], "method='magic'"),
    "unknown prefix": (["small.txt", "--covariates", "Q."], "beginning with it"),
    "reml with em": (["small.txt", "--method", "em", "--reml"], "reml=True goes with"),
    "response as covariate": (["small.txt", "--covariates", "y"], "column 'y' is the response"),
    "both": (["small.txt", "--covariates", "X.1"], "both a covariate and a feature"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_end_in_one_message_and_code_2(small, fault):
    arguments, message = FAULTS[fault]
    done = cli("fit", *arguments, cwd=small[0])
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_broken_cell_is_named(small):
    folder, _ = small
    lines = (folder / "small.txt").read_text().splitlines()
    cells = lines[7].split("\t")
    cells[9] = "x"
    lines[7] = "\t".join(cells)
    (folder / "broken.txt").write_text("\n".join(lines))
    for command in (["fit", "broken.txt"], ["reproduce", "--data", "broken.txt"]):
        done = cli(*command, cwd=folder)
        assert done.returncode == 2
        assert "broken.txt, line 8, column X.6: 'x' is not a number" in done.stderr.replace("\n", " ")
        assert "Traceback" not in done.stderr


def test_help_and_version(tmp_path):
    assert "reproduce" in cli("--help", cwd=tmp_path).stdout
    import fastlmm_vi

    assert fastlmm_vi.__version__ in cli("--version", cwd=tmp_path).stdout
