"""What lme4 and lmerTest print of the same models (tests/lme4/values.R made the numbers), to the digits they have."""

import json
from pathlib import Path

import grouped_problems as problems
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from problems import SHARED

import fastlmm_vi as fl

VALUES = json.loads((Path(__file__).parent / "lme4" / "values.json").read_text())
UNIDENTIFIED = "distance ~ age + (0 + Sex | Subject)"  # every subject has one sex
pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the data of lme4 lie beside the checkout on development machines only"
)


def frame(name):
    source = "sleepstudy" if name in ("unbalanced", "tied") else name
    data = pd.read_csv(problems.DATA / "lme4" / f"{source}.csv")
    if name == "sleepstudy":
        data["w"] = np.arange(180) % 5 + 1.0
    if name == "tied":
        i = np.arange(180)
        data = data.assign(a=i // 30, b=i % 6, s=i // 10 % 4)
        data["Reaction"] += 20 * np.cos(3 * data["a"]) + 30 * np.cos(2 * data["b"]) + 40 * np.cos(data["s"])
    if name == "unbalanced":
        data = data.drop(index=np.array([1, 5, 17, 33, 80, 81, 82, 120, 121, 150]) - 1)
    if name == "Orthodont":
        data["Sex"] = pd.Categorical(data["Sex"], ["Male", "Female"])
    return data


def listed(value):
    return value if isinstance(value, list) else [value]


def check(fit, expected):
    """lmer stops short of its optimum: never below ours, and estimates are compared to four digits."""
    assert expected["deviance"] - 2e-5 < -2 * fit.criterion < expected["deviance"] + 1e-9
    assert fit.aic == pytest.approx(expected["aic"], abs=2e-5)
    assert fit.bic == pytest.approx(expected["bic"], abs=2e-5)
    assert fit.sigma == pytest.approx(expected["sigma"], rel=1e-4)
    assert list(fit.fixed_names) == listed(expected["names"])
    np.testing.assert_allclose(fit.fixed_effects, listed(expected["estimate"]), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fit.se, listed(expected["se"]), rtol=2e-4)
    table = fit.coefficients
    np.testing.assert_allclose(table["df"], listed(expected["df"]), rtol=2e-3)  # lmerTest differentiates numerically
    np.testing.assert_allclose(table["p"], listed(expected["p"]), rtol=2e-2, atol=1e-6)
    assert fit.singular == expected["singular"]
    estimates = []
    for covariance in fit.varcorr.values():
        sd = np.sqrt(np.diag(covariance))
        with np.errstate(invalid="ignore"):
            entries = covariance.to_numpy() / np.outer(sd, sd)
        np.fill_diagonal(entries, sd)
        columns, rows = np.triu_indices(len(sd))
        estimates.append(entries[rows, columns])
    known = np.array(expected["sd"])
    if fit.formula == UNIDENTIFIED:
        known[1] = estimates[0][1]  # any correlation fits as well
    np.testing.assert_allclose(np.concatenate([*estimates, [fit.sigma]]), known, rtol=1e-3, atol=2e-4)


@pytest.mark.filterwarnings("ignore:Fixed effects left out:fastlmm_vi.FitWarning")  # lmer prints a message there
@pytest.mark.parametrize("method", ["reml", "ml"])
@pytest.mark.parametrize("model", VALUES["models"], ids=lambda model: model["formula"])
def test_model(model, method):
    check(fl.lmm(model["formula"], frame(model["data"]), method=method), model[method])


def test_a_correlation_that_the_data_do_not_show():
    fit = fl.lmm(UNIDENTIFIED, frame("Orthodont"))
    assert fit.converged
    assert np.isnan(fit.variances.loc["cor_Subject__SexMale__SexFemale", "se"])
    assert fit.variances["se"].notna().sum() == 3
    assert any("does not depend on" in note and "Subject" in note for note in fit.notes)


def test_weights():
    check(fl.lmm("Reaction ~ Days + (Days | Subject)", frame("sleepstudy"), weights="w"), VALUES["weighted"])


@pytest.mark.parametrize(
    ("name", "formula", "order"),
    [
        ("sleepstudy", "Reaction ~ Days + (Days | Subject)", [0, 2, 1, 3, 4, 5]),
        ("Penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)", [0, 1, 2, 3]),
    ],
)
def test_profile_intervals(name, formula, order):
    ours = fl.lmm(formula, frame(name), method="reml").conf_int(method="profile")
    np.testing.assert_allclose(
        ours, np.array(VALUES["profile"][name])[order], rtol=2e-4
    )  # lme4 interpolates by splines


def test_likelihood_ratio():
    data = frame("sleepstudy")
    small = fl.lmm("Reaction ~ Days + (1 | Subject)", data, method="ml")
    large = fl.lmm("Reaction ~ Days + (Days | Subject)", data, method="ml")
    table = fl.lrt(large, small)
    expected = VALUES["anova"]
    row = table.loc[large.formula]
    assert row["chisq"] == pytest.approx(expected["Chisq"], abs=1e-4)
    assert row["df"] == expected["Df"]
    assert row["reference"] == "½ χ²(1) + ½ χ²(2)"
    assert row["p"] < expected["Pr(>Chisq)"] < 2 * row["p"]  # lme4 ignores the boundary


def test_prediction():
    fit = fl.lmm("Reaction ~ Days + (Days | Subject)", frame("sleepstudy"))
    new = pd.DataFrame(VALUES["predict"]["new"])
    with pytest.warns(fl.FitWarning, match=r"1 of 3 rows by Subject"):
        known = fit.predict(new)
    np.testing.assert_allclose(known, VALUES["predict"]["known"], rtol=1e-6)
    np.testing.assert_allclose(fit.predict(new, random_effects=False), VALUES["predict"]["population"], rtol=1e-6)


@pytest.mark.parametrize("expected", VALUES["orders"], ids=lambda expected: expected["formula"])
def test_order_of_terms(expected):
    """As written where no factor has more levels than the one before it; else by levels, the last of equals first."""
    fit = fl.lmm(expected["formula"], frame("tied"))
    np.testing.assert_allclose(fit.theta, expected["theta"], rtol=1e-4, atol=1e-6)
    assert list(fit.varcorr) == list(fit.random_effects_var) == expected["groups"]
    effects = {name: listed(columns) for name, columns in expected["effects"].items()}
    assert {name: list(table.columns) for name, table in fit.random_effects.items()} == effects
    assert list(fit.random_effects) == list(fit.groups) == list(effects)
    places = [fit.summary().index(f"\n {name} ") for name in expected["groups"]]
    assert places == sorted(places)
    for label, table in fit.varcorr.items():
        variances = fit.random_effects_var[label]
        assert variances.shape[1:] == table.shape
        assert len(variances) == fit.groups[label.removesuffix(".1")]


@pytest.mark.parametrize(
    "expected", VALUES["drops"], ids=lambda expected: f"{expected['formula']}, {expected['method']}"
)
def test_deletions_of_random_terms(expected):
    """lmerTest's ranova: its statistics; its p where nothing is on the boundary."""
    table = fl.lmm(expected["formula"], frame(expected["data"]), method=expected["method"]).test_random_effects()
    assert list(table.index) == expected["rows"]
    assert list(table["npar"]) == expected["npar"]
    np.testing.assert_allclose(table["loglik"], expected["loglik"], atol=2e-5)
    np.testing.assert_allclose(table["chisq"].iloc[1:], expected["chisq"][1:], atol=5e-5)
    assert list(table["df"].iloc[1:]) == expected["df"][1:]
    for (_, row), p in zip(table.iloc[1:].iterrows(), expected["p"][1:], strict=True):
        k = int(row["df"])
        assert row["reference"] in (f"½ χ²({k - 1}) + ½ χ²({k})", f"χ²({k})")
        mixed = 0.5 * scipy.stats.chi2.sf(row["chisq"], [k, k - 1]).sum() if k > 1 else 0.5 * p
        assert row["p"] == pytest.approx(mixed if "½" in row["reference"] else p, rel=1e-3)


def test_refitting_before_a_likelihood_ratio_test():
    """As anova(): Days is tested by maximum likelihood though both fits are by REML."""
    large = fl.lmm("Reaction ~ Days + (Days | Subject)", frame("sleepstudy"))
    row = fl.lrt(large, fl.lmm("Reaction ~ 1 + (Days | Subject)", frame("sleepstudy"))).loc[large.formula]
    expected = VALUES["refitted"]
    assert row["chisq"] == pytest.approx(expected["Chisq"], abs=1e-4)
    assert row["df"] == expected["Df"]
    assert row["p"] == pytest.approx(expected["Pr(>Chisq)"], rel=1e-4)
    assert row["method"] == "ml, refitted"


@pytest.mark.parametrize("name", ["two", "dependent", "unequal"])
def test_joint_hypotheses(name):
    """lmerTest's contest."""
    expected = VALUES["tests"][name]
    if name == "unequal":
        fit = fl.lmm("Reaction ~ Days + I(Days^2) + (Days || Subject)", frame("unbalanced"))
        table = fit.test(["Days", "I(Days^2)"])
    else:
        fit = fl.lmm("distance ~ age * Sex + (age | Subject)", frame("Orthodont"))
        L = [[0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 1, 1]]
        table = fit.test(L[:2] if name == "two" else L)
    assert list(table.columns) == ["F", "df1", "df2", "p"]
    np.testing.assert_allclose(table[["F", "df1"]].iloc[0], [expected["F"], expected["df1"]], rtol=1e-5)
    np.testing.assert_allclose(table[["df2", "p"]].iloc[0], [expected["df2"], expected["p"]], rtol=2e-3)  # differences


def test_hypotheses_one_by_one():
    fit = fl.lmm("distance ~ age * Sex + (age | Subject)", frame("Orthodont"))
    L = pd.DataFrame({"SexFemale": [1, 0, 1], "age:SexFemale": [0, 1, 1]}, index=["sex", "slope", "both"])
    table = fit.test(L, joint=False)
    assert list(table.index) == list(L.index)
    for name, expected in VALUES["tests"]["apart"].items():
        np.testing.assert_allclose(table[name], expected, rtol=1e-3 if name in ("df", "p") else 1e-5)


def test_refit_to_another_response():
    data = frame("sleepstudy")
    fit = fl.lmm("Reaction ~ Days + (Days | Subject)", data)
    check(fit.refit(y=np.sqrt(data["Reaction"])), VALUES["response"])
