"""Tests, intervals, refits and comparisons of grouped fits."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from grouped_problems import make

import fastlmm_vi as fl


@pytest.fixture(scope="module")
def frame():
    return make()


@pytest.fixture(scope="module")
def fit(frame):
    return fl.lmm("y ~ x + (x | g)", frame)


def test_wald_tests_of_names_are_those_of_the_table(fit):
    for given in ("x", ["x"], [0.0, 1.0], np.array([[0.0, 1.0]]), pd.DataFrame({"x": [1.0]})):
        np.testing.assert_allclose(fit.test(given).iloc[0], fit.coefficients.loc["x"], rtol=1e-12)
    pd.testing.assert_frame_equal(fit.test(["x", "(Intercept)"], joint=False), fit.coefficients.iloc[::-1])
    assert fit.test("x", joint=True).index[0] == "x"


def test_joint_wald_tests(frame):
    """The quadratic form of the dense twin; nothing changes with units, and with hypotheses that others imply."""
    data = frame.assign(z=np.random.default_rng(2).normal(size=240), k=np.arange(240) % 5)
    fit = fl.lmm("y ~ x + z + k + (x | g)", data)
    table = fit.test(["x", "k"])
    beta, V = fit.fixed_effects[["x", "k"]], fit.vcov.loc[["x", "k"], ["x", "k"]]
    assert table.loc["joint", "F"] == pytest.approx(beta @ np.linalg.solve(V, beta) / 2, rel=1e-10)
    assert table.loc["joint", "p"] == scipy.stats.f.sf(table.loc["joint", "F"], 2, table.loc["joint", "df2"])
    assert 20 < table.loc["joint", "df2"] < 300
    other = fl.lmm("y ~ x + z + k + (x | g)", data.assign(x=1e-7 * data["x"], k=1e7 * data["k"]))
    np.testing.assert_allclose(other.test(["x", "k"]), table, rtol=1e-5)
    np.testing.assert_allclose(fit.test(["x", "k", "x"])[["F", "df1"]], table[["F", "df1"]], rtol=1e-8)


@pytest.mark.parametrize(
    ("contrasts", "words"),
    [
        ("z", r"\['z'\] are no coefficients of this model: it has \['\(Intercept\)', 'x'\]"),
        (pd.DataFrame({"z": [1.0]}), r"\['z'\] are no coefficients"),
        ([[1.0, 0.0, 0.0]], r"shape \(1, 3\): give a column for each of"),
        ([[0.0, 0.0]], "a row of zeros"),
        ([], r"shape \(0,\)"),
        (pd.DataFrame({"x": []}), "no row"),
    ],
)
def test_hypotheses_that_are_none(fit, contrasts, words):
    with pytest.raises(ValueError, match=words):
        fit.test(contrasts)


def test_intervals_of_some_parameters(fit):
    assert list(fit.conf_int(parameters="x").index) == ["x"]
    pd.testing.assert_frame_equal(fit.conf_int(parameters=["x"]), fit.conf_int().loc[["x"]])
    profile = fit.conf_int(method="profile", parameters=["sigma", "b_x"])
    assert list(profile.index) == ["sigma", "b_x"]
    assert (profile["lower"] < fit.point_estimates[["sigma", "b_x"]]).all()
    for name in ("b_x", ["sigma"], []):  # R's names of fixed effects for t, brms' for all parameters
        with pytest.raises(ValueError, match=r"not of this table: choose from \['\(Intercept\)', 'x'\]"):
            fit.conf_int(parameters=name)
    with pytest.raises(ValueError, match=r"\['x'\] are not of this table: choose from \['sd_g__Intercept'"):
        fit.conf_int(method="profile", parameters="x")


def test_a_profile_by_one_name(fit):
    pd.testing.assert_frame_equal(fit.profile("sigma"), fit.profile(["sigma"]))


def test_profiles_show_their_progress(fit, capsys):
    quiet = fit.profile("b_x")
    assert capsys.readouterr().err == ""
    pd.testing.assert_frame_equal(fit.profile("b_x", verbose=1), quiet)
    assert "profile of b_x (1 of 1), at " in capsys.readouterr().err
    fit.conf_int(method="profile", parameters=["b_x", "b_Intercept"], verbose=1)
    assert "profile of b_Intercept (2 of 2), at " in capsys.readouterr().err


def test_bootstrap_intervals_are_quantiles(fit, capsys):
    found = fit.conf_int(0.8, method="bootstrap", draws=40, random_state=1, parameters=["b_x", "sigma"], verbose=1)
    assert "bootstrap, " in capsys.readouterr().err
    draws = fit.bootstrap(40, random_state=1)
    for name in ("b_x", "sigma"):
        np.testing.assert_allclose(found.loc[name], np.quantile(draws[name], [0.1, 0.9]), rtol=1e-12)
    everything = fit.conf_int(method="bootstrap", draws=5, random_state=1)
    assert list(everything.index) == [*fit.variances.index, *fit.fixed_parameters]


def test_bootstrap_says_where_a_correlation_is_lost():
    fit = fl.lmm("y ~ x + (x | g)", make(6, 5, sd=(0.3, 0.3), seed=3))
    with pytest.warns(fl.FitWarning, match=r"of 30 bootstrap fits have no cor_g__Intercept__x, as a variance is 0"):
        found = fit.conf_int(method="bootstrap", draws=30, random_state=0)
    assert found.notna().all(axis=None)


@pytest.mark.parametrize(("seed", "groups"), [(1, 6), (12, 5)])
def test_profiles_of_correlations_rise(seed, groups):
    """No correlation costs more than leaving out an effect, whatever branch the search is on."""
    rng = np.random.default_rng(seed)
    g, x = np.repeat(np.arange(groups), 10), np.tile(np.arange(10.0), groups)
    b = rng.normal(size=(groups, 2)) * [25, 6]
    y = 250 + 10 * x + b[g, 0] + b[g, 1] * x + 25 * rng.normal(size=g.size)
    frame = pd.DataFrame({"Reaction": y, "Days": x, "Subject": g})
    fit = fl.lmm("Reaction ~ Days + (Days | Subject)", frame, method="ml")
    zeta = fit.profile("cor_Subject__Intercept__Days")["zeta"].to_numpy()
    assert (np.diff(zeta) > -1e-6).all()
    without = max(
        fl.lmm(f"Reaction ~ Days + ({term} | Subject)", frame, method="ml").criterion for term in ("1", "0 + Days")
    )
    assert zeta.max() ** 2 <= 2 * (fit.criterion - without) + 1e-6
    assert zeta.min() ** 2 <= 2 * (fit.criterion - without) + 1e-6


def test_compare_sets_grouped_fits_side_by_side(frame):
    fits = [
        fl.lmm("y ~ x + (x | g)", frame),
        fl.lmm("y ~ 1 + (1 | g)", frame),
        fl.lmm("y ~ x + (1 | g)", frame, method="ml"),
    ]
    table = fl.compare(*fits)
    assert list(table.columns) == ["reml", "reml (2)", "ml"]
    names = ["b_Intercept", "b_x", "sd_g__Intercept", "sd_g__x", "cor_g__Intercept__x", "sigma"]
    assert list(fl.compare(*fits[::-1]).index[:6]) == list(table.index[:6]) == names
    np.testing.assert_array_equal(table.loc[names, "reml"].astype(float), fits[0].point_estimates[names])
    assert table.loc[["b_x", "sd_g__x"], "reml (2)"].isna().all()
    for name in ("loglik", "criterion", "aic", "bic", "seconds", "formula"):
        assert list(table.loc[name]) == [getattr(fit, name) for fit in fits]
    assert list(fl.compare(fits[0], names=["slopes"]).columns) == ["slopes"]
    with pytest.raises(ValueError, match="different data"):
        fl.compare(fits[0], fl.lmm("y ~ x + (1 | g)", frame.head(200)))
    with pytest.raises(ValueError, match="different data"):
        fl.compare(fits[0], fits[0].refit(y=2 * frame["y"]))


def test_wide_and_grouped_fits_do_not_mix(fit):
    rng = np.random.default_rng(0)
    wide = fl.WideLMM(reml=True).fit(rng.normal(size=(20, 30)), rng.normal(size=20))
    with pytest.raises(ValueError, match="wide and grouped fits"):
        fl.compare(wide, fit)
    with pytest.raises(TypeError, match=r"plot_caterpillar, plot_residuals and plot_profile, .* fit\.trace"):
        fl.plot_trace(fit)
    plt.close("all")
