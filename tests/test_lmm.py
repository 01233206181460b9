"""The grouped model as its users meet it: results, predictions, simulation, states, errors."""

import pickle
import warnings

import grouped_problems as problems
import matplotlib.pyplot as plt
import naive
import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.stats
from grouped_problems import make
from problems import needs_bayes

import fastlmm_vi as fl
from fastlmm_vi.grouped import lrt as lrt_module


@pytest.fixture(scope="module")
def frame():
    return make()


@pytest.fixture(scope="module")
def fit(frame):
    return fl.lmm("y ~ x + (x | g)", frame)


def test_to_frame_has_brms_names(fit):
    table = fit.to_frame()
    variances = ["sd_g__Intercept", "sd_g__x", "cor_g__Intercept__x", "sigma"]
    assert list(table.index[:6]) == ["b_Intercept", "b_x", *variances]
    assert list(table.index[6:8]) == ["r_g[g00,Intercept]", "r_g[g00,x]"]
    assert len(table) == 6 + 60
    assert list(table.columns) == ["estimate", "se"]
    assert table.notna().all(axis=None)
    assert table.loc["r_g[g03,x]", "estimate"] == fit.random_effects["g"].loc["g03", "x"]
    covariance = fit.varcorr["g"].to_numpy()
    np.testing.assert_allclose(table.loc["sd_g__x", "estimate"], np.sqrt(covariance[1, 1]), rtol=1e-12)
    correlation = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    np.testing.assert_allclose(table.loc["cor_g__Intercept__x", "estimate"], correlation, rtol=1e-12)


def test_levels_are_named_as_by_r(frame):
    numbered = fl.lmm("y ~ x + (1 | k)", frame.assign(k=np.arange(240) % 3 / 2))
    assert list(numbered.to_frame().index[-3:]) == ["r_k[0,Intercept]", "r_k[0.5,Intercept]", "r_k[1,Intercept]"]
    logical = fl.lmm("y ~ x + (1 | flag)", frame.assign(flag=frame["x"] > 0.5))
    assert list(logical.to_frame().index[-2:]) == ["r_flag[FALSE,Intercept]", "r_flag[TRUE,Intercept]"]


def test_several_terms_on_one_factor_and_nested_names():
    frame = make().assign(h=lambda d: d["g"].str[:2])
    fit = fl.lmm("y ~ x + (x || g)", frame)
    assert list(fit.varcorr) == ["g", "g.1"]
    assert list(fit.random_effects["g"].columns) == ["(Intercept)", "x"]
    assert "cor_g__Intercept__x" not in fit.to_frame().index
    nested = fl.lmm("y ~ x + (1 | h/g)", frame)
    assert set(nested.groups) == {"g:h", "h"}
    assert "sd_g:h__Intercept" in nested.to_frame().index


def test_criteria(fit, frame):
    ml = fl.lmm("y ~ x + (x | g)", frame, method="ml")
    twin = problems.dense(ml.data.design, ml.solution.roots)
    assert ml.loglik == ml.criterion == pytest.approx(-0.5 * twin.deviance(False), abs=1e-9)
    assert fit.loglik < ml.loglik  # the same likelihood at other estimates
    twin = problems.dense(fit.data.design, fit.solution.roots)
    V = fit.sigma**2 * twin.V
    expected = naive.gaussian_logpdf(frame["y"].to_numpy(), twin.X @ twin.beta, V)
    assert fit.loglik == pytest.approx(expected, abs=1e-9)
    assert fit.criterion == pytest.approx(-0.5 * twin.deviance(True), abs=1e-9)
    assert fit.aic == pytest.approx(-2 * fit.criterion + 12)
    assert fit.elbo is None
    assert fit.log_evidence is None
    trace = fit.trace["criterion"].to_numpy()
    assert (np.diff(trace) > -1e-9).all()
    assert trace[-1] == pytest.approx(fit.criterion, abs=1e-9)


def test_summary_reads_like_lme4s(fit, frame):
    text = fit.summary()
    for words in ("fit by REML", "Formula: y ~ x + (x | g)", "REML criterion at convergence:", "Scaled residuals:"):
        assert words in text
    for words in ("Groups", "Std.Dev.", "Corr", "Residual", "Number of obs: 240, groups:  g, 30", "Pr(>|t|)"):
        assert words in text
    assert f"{fit.sigma**2:.4f}" in text
    assert "(Intr)" in text
    assert str(fit) == text
    ml = fl.lmm("y ~ x + (x | g)", frame, method="ml").summary()
    assert "logLik" in ml
    assert "maximum likelihood" in ml


def test_predictions_of_the_data_and_of_other_rows(fit, frame):
    np.testing.assert_allclose(fit.predict(), fit.fitted_values, rtol=1e-12)
    np.testing.assert_allclose(fit.predict(frame.drop(columns="y")), fit.fitted_values, rtol=1e-12)
    np.testing.assert_allclose(fit.residuals, frame["y"] - fit.fitted_values, rtol=1e-12)
    new = pd.DataFrame({"x": [0.0, 1.0], "g": ["g05", "g07"]}, index=["a", "b"])
    effects = fit.random_effects["g"]
    expected = [
        fit.fixed_effects["(Intercept)"] + effects.loc["g05", "(Intercept)"],
        fit.fixed_effects.sum() + effects.loc["g07"].sum(),
    ]
    predicted = fit.predict(new)
    assert list(predicted.index) == ["a", "b"]
    np.testing.assert_allclose(predicted, expected, rtol=1e-12)
    average = fit.predict(new.drop(columns="g"), random_effects=False)
    np.testing.assert_allclose(average, fit.fixed_effects.iloc[0] + [0.0, fit.fixed_effects["x"]], rtol=1e-12)


def test_no_rows_have_no_predictions(fit, frame):
    for random_effects in (True, False):
        means = fit.predict(frame.iloc[:0], random_effects=random_effects)
        assert isinstance(means, pd.Series)
        assert (len(means), means.dtype, means.name) == (0, np.float64, "mean")
        table = fit.predict(frame.iloc[:0], interval="confidence", random_effects=random_effects)
        assert table.shape == (0, 3)
        assert list(table.columns) == ["mean", "lower", "upper"]
    assert fit.predict({"x": [], "g": []}, interval="prediction").empty


def test_intervals_against_the_dense_twin(fit, frame):
    twin = problems.dense(fit.data.design, fit.solution.roots)
    combine = np.hstack([twin.X, twin.Z])[:5]
    variance = np.einsum("ij,jk,ik->i", combine, twin.joint_cov(True), combine)
    mean = implied(fit, frame.head(5), interval="confidence")
    np.testing.assert_allclose(mean["variance"], variance, rtol=1e-6)
    wide = implied(fit, frame.head(5), interval="prediction")
    np.testing.assert_allclose(wide["variance"], variance + fit.sigma**2, rtol=1e-6)
    fixed = implied(fit, frame.head(5), interval="confidence", random_effects=False)
    tests = fit.test(twin.X[:5], joint=False)
    np.testing.assert_allclose(fixed["variance"], tests["se"] ** 2, rtol=1e-6)
    np.testing.assert_allclose(fixed["df"], tests["df"], rtol=1e-4)


def implied(fit, data, **options):
    """Variance and degrees of freedom of intervals, from their widths at two levels."""
    near, far = (fit.predict(data, level=level, **options) for level in (0.5, 0.9999))
    near, far = ((table["upper"] - table["lower"]).to_numpy() / 2 for table in (near, far))
    df = np.array(
        [
            scipy.optimize.brentq(
                lambda k, r=r: np.divide(*scipy.stats.t.isf([5e-5, 0.25], k)) - r, 0.5, 1e5, rtol=1e-13
            )
            for r in far / near
        ]
    )
    return pd.DataFrame({"variance": (near / scipy.stats.t.isf(0.25, df)) ** 2, "df": df})


def test_degrees_of_freedom_of_a_balanced_table():
    """One-way, J groups of n: Satterthwaite's own formula, of mean squares between and within."""
    J, n = 6, 5
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(J), n)
    data = pd.DataFrame({"g": g, "y": rng.normal(size=J)[g] + rng.normal(size=J * n)})
    fit = fl.lmm("y ~ 1 + (1 | g)", data)
    within = fit.sigma**2
    between = within + n * fit.varcorr["g"].iloc[0, 0]

    def degrees(b, w):
        return (b * between + w * within) ** 2 / ((b * between) ** 2 / (J - 1) + (w * within) ** 2 / (J * (n - 1)))

    mean = implied(fit, data.head(1), interval="confidence", random_effects=False)
    assert mean["df"].item() == pytest.approx(J - 1, rel=1e-3)
    new = pd.DataFrame({"g": [99]})
    with pytest.warns(fl.FitWarning, match="not in the data"):
        found = implied(fit, new, interval="confidence")
    assert found["df"].item() == pytest.approx(degrees((1 + 1 / J) / n, -1 / n), rel=1e-3)
    with pytest.warns(fl.FitWarning, match="not in the data"):
        found = implied(fit, new, interval="prediction")
    assert found["df"].item() == pytest.approx(degrees((1 + 1 / J) / n, 1 - 1 / n), rel=1e-3)


def test_intervals_that_depend_on_no_variance_have_no_width():
    frame = make(6, 5)
    fit = fl.lmm("y ~ 0 + x + (0 + x | g)", frame)
    table = fit.predict(frame.head(2).assign(x=[0.0, 1.0]), interval="confidence")
    assert table.iloc[0].tolist() == [0.0, 0.0, 0.0]
    assert table["upper"].iloc[1] > table["mean"].iloc[1]


def test_new_groups_have_the_variance_of_a_new_group(fit):
    new = pd.DataFrame({"x": [0.0, 2.0, 2.0], "g": ["new", "newer", "g01"]})
    with pytest.warns(fl.FitWarning, match=r"2 of 3 rows by g"):
        found = fit.predict(new, interval="confidence")
    assert found["mean"].iloc[0] == pytest.approx(fit.fixed_effects["(Intercept)"])
    G = fit.varcorr["g"].to_numpy()
    z = np.array([1.0, 2.0])
    variance = z @ (G + fit.vcov.to_numpy()) @ z
    with pytest.warns(fl.FitWarning, match="not in the data"):
        assert implied(fit, new, interval="confidence")["variance"].iloc[1] == pytest.approx(variance, rel=1e-6)


def test_prediction_intervals_know_of_weights_and_of_random_effects(fit, frame):
    w = np.where(np.arange(len(frame)) % 2, 4.0, 1.0)
    weighted = fl.lmm("y ~ x + (x | g)", frame, weights=w)
    mean, wide = (implied(weighted, None, interval=interval)["variance"] for interval in ("confidence", "prediction"))
    np.testing.assert_allclose(wide - mean, weighted.sigma**2 / w, rtol=1e-6)
    with pytest.raises(ValueError, match="which has random effects"):
        fit.predict(frame.head(2), interval="prediction", random_effects=False)


def test_prediction_intervals_cover():
    """Of new observations, in groups of the fit and in new ones: 95 % within three binomial standard errors and 1 %."""
    inside = []
    for seed in range(20):
        frame = make(40, 12, seed=seed)
        known = np.arange(len(frame)) % 12 < 8
        known &= frame["g"] < "g30"
        fit = fl.lmm("y ~ x + (x | g)", frame[known])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fl.FitWarning)
            found = fit.predict(frame[~known], interval="prediction")
        inside.append(frame["y"][~known].between(found["lower"], found["upper"]))
    covered = np.concatenate(inside)
    assert abs(covered.mean() - 0.95) < 0.01 + 3 * np.sqrt(0.95 * 0.05 / covered.size)


@pytest.fixture(scope="module")
def five_groups():
    """Whether 95 % intervals hold what they are of, 500 times five groups of ten: rows of x = 0 and x = 1."""
    rng, inside = np.random.default_rng(0), {}
    for _ in range(500):
        b = rng.normal(size=6)
        data = pd.DataFrame({"g": np.repeat(np.arange(5), 10), "x": np.tile(np.linspace(-1.0, 1.0, 10), 5)})
        data["y"] = 1.0 + 0.5 * data["x"] + b[data["g"]] + rng.normal(size=50)
        fit = fl.lmm("y ~ x + (1 | g)", data)
        rows = pd.DataFrame({"x": [0.0, 1.0, 0.0, 1.0], "g": [0, 0, 5, 5]})
        population = 1.0 + 0.5 * rows["x"]
        mean = population + b[rows["g"]]
        for interval, truth, options in [
            ("population", population, {"interval": "confidence", "random_effects": False}),
            ("mean", mean, {"interval": "confidence"}),
            ("observation", mean + rng.normal(size=4), {"interval": "prediction"}),
        ]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", fl.FitWarning)
                table = fit.predict(rows, **options)
            held = truth.between(table["lower"], table["upper"]).to_numpy().reshape(2, 2)
            for group, one in zip(("known group", "new group"), held, strict=True):
                inside.setdefault((interval, group), []).append(one)
    return {name: np.array(found) for name, found in inside.items()}


@pytest.mark.parametrize(
    "name", [("population", "new group"), ("observation", "known group"), ("observation", "new group")]
)
def test_intervals_cover_where_groups_are_few(five_groups, name):
    """Within three binomial standard errors; by normal quantiles 88 % of the means and 91 % in new groups were held."""
    assert (np.abs(five_groups[name].mean(axis=0) - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 500)).all()


def test_intervals_of_means_of_new_groups_are_rather_too_wide(five_groups):
    """Few degrees of freedom; by normal quantiles 85 % were held."""
    held = five_groups["mean", "new group"].mean(axis=0)
    assert ((0.95 - 3 * np.sqrt(0.95 * 0.05 / 500) < held) & (held < 0.99)).all()


def test_simulation_has_the_moments_of_the_model(fit):
    draws = fit.simulate(4000, random_state=1).to_numpy()
    twin = problems.dense(fit.data.design, fit.solution.roots)
    V = fit.sigma**2 * twin.V
    error = np.sqrt(np.diag(V) / 4000)
    assert (np.abs(draws.mean(axis=1) - twin.X @ twin.beta) < 5 * error).all()
    covariance = np.cov(draws[:16])
    spread = np.sqrt((np.outer(np.diag(V), np.diag(V))[:16, :16] + V[:16, :16] ** 2) / 4000)
    assert (np.abs(covariance - V[:16, :16]) < 5 * spread).all()
    assert fit.simulate(2, random_state=1).equals(fit.simulate(2, random_state=1))
    kept = fit.simulate(2000, random_effects="estimated", random_state=2).to_numpy()
    assert (np.abs(kept.mean(axis=1) - fit.fitted_values) < 5 * fit.sigma / np.sqrt(2000)).all()
    with pytest.raises(ValueError, match="random_effects='old'"):
        fit.simulate(random_effects="old")
    with pytest.raises(ValueError, match="draws=0"):
        fit.simulate(0)
    with pytest.raises(ValueError, match="draws=0"):
        fit.bootstrap(0)


@pytest.mark.parametrize("noise", [1.0, 0.02, 0.01])
def test_uncertainty_where_groups_differ_by_two_thousand_residuals(noise):
    """Balanced one-way data: J − 1 degrees of freedom, and a standard deviation known to 1 / √(2 (J − 1)) of itself."""
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(18), 10)
    frame = pd.DataFrame({"g": g, "y": 20.0 * rng.normal(size=18)[g] + noise * rng.normal(size=180)})
    fit = fl.lmm("y ~ 1 + (1 | g)", frame)
    assert fit.coefficients.loc["(Intercept)", "df"] == pytest.approx(17.0, rel=1e-3)
    row = fit.variances.loc["sd_g__Intercept"]
    assert row["se"] / row["estimate"] == pytest.approx(1.0 / np.sqrt(34.0), rel=0.01)


def test_bootstrap_agrees_with_standard_errors(fit, capsys):
    table = fit.bootstrap(200, random_state=3, verbose=1)
    assert "bootstrap" in capsys.readouterr().err
    assert list(table.columns) == [*fit.to_frame().index[:6], "criterion"]
    assert len(table) == 200
    ratio = table["b_x"].std() / fit.se["x"]
    assert abs(ratio - 1.0) < 4 / np.sqrt(2 * 199)
    again = fit.bootstrap(3, random_state=3)
    np.testing.assert_array_equal(again.to_numpy(), table.head(3).to_numpy())


def test_profile_is_the_deviance_with_the_parameter_held(frame):
    """At a held σ_g the profile is what a grid over the other parameter says."""
    fit = fl.lmm("y ~ x + (1 | g)", frame, method="ml")
    table = fit.profile(["sd_g__Intercept"])
    row = table.iloc[3]
    rest = np.linspace(0.5, 2.5, 4001)  # σ
    theta = row["value"] / rest / (fit.varcorr["g"].iloc[0, 0] ** 0.5 / fit.sigma) * fit.standard_theta
    scale = fit.data.fixed.scale
    values = []
    for sigma, t in zip(rest, theta, strict=True):
        at = fit.likelihood(np.array([t]))
        s2 = (sigma / scale) ** 2
        values.append(at.logdet + fit.n * np.log(2 * np.pi * s2) + at.squares / s2 + fit.likelihood.constant)
    zeta = np.sign(row["value"] - fit.variances.loc["sd_g__Intercept", "estimate"]) * np.sqrt(
        min(values) - fit.deviance
    )
    assert row["zeta"] == pytest.approx(zeta, abs=1e-4)  # the grid's spacing
    assert table["zeta"].is_monotonic_increasing
    with pytest.raises(ValueError, match="sd_h"):
        fit.profile(["sd_h"])


def test_intervals_by_profile_and_by_t(fit):
    t = fit.conf_int(0.9)
    assert list(t.index) == ["(Intercept)", "x"]
    assert ((t["lower"] < fit.fixed_effects) & (fit.fixed_effects < t["upper"])).all()
    wider = fit.conf_int(0.99)
    assert (wider["upper"] > t["upper"]).all()
    profile = fit.conf_int(0.9, method="profile")
    assert list(profile.index) == list(fit.point_estimates.index[2:]) + list(fit.point_estimates.index[:2])
    np.testing.assert_allclose(profile.loc["b_x"], t.loc["x"], rtol=0.1)
    with pytest.raises(ValueError, match="method='boot'"):
        fit.conf_int(method="boot")
    with pytest.raises(ValueError, match="level=95"):
        fit.conf_int(95)


def test_profile_of_a_correlation(fit):
    table = fit.profile(["cor_g__Intercept__x"])
    assert np.isfinite(table["zeta"]).all()
    assert table["zeta"][table["zeta"].abs() < 3.0].is_monotonic_increasing
    assert table["value"].between(-1.0, 1.0).all()
    wide = fit.conf_int(0.999, method="profile")
    assert (wide["lower"] < wide["upper"]).all()


def test_profile_that_ends_at_zero():
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"g": np.repeat(list("abcdef"), 5), "y": rng.normal(size=30)})
    fit = fl.lmm("y ~ 1 + (1 | g)", frame)
    interval = fit.conf_int(method="profile").loc["sd_g__Intercept"]
    assert interval["lower"] == 0.0
    assert interval["upper"] > 0.1


def test_singular_is_a_state_and_no_warning():
    frame = make(sd=(0.3, 0.0), seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fl.lmm("y ~ x + (x | g)", frame)
    assert fit.singular
    assert fit.converged
    assert fit.status is fl.Status.SINGULAR
    assert "singular" in fit.summary()
    eigenvalues = np.linalg.eigvalsh(fit.varcorr["g"])
    assert eigenvalues[0] == pytest.approx(0.0, abs=1e-12)
    assert fit.variances["se"].isna().sum() == 3
    assert fit.variances.loc["sigma", "se"] > 0


def test_singular_optima_are_optima():
    """At a reduced rank no small step in the covariance raises the criterion."""
    seen = 0
    for seed in range(30):
        problem = problems.draw(seed)
        fit = fl.lmm(problem.formula, problem.frame, weights=problem.weights)
        if not fit.singular:
            continue
        seen += 1
        rng = np.random.default_rng(seed)
        for size in (1e-2, 1e-3):
            for _ in range(20):
                step = size * rng.normal(size=fit.standard_theta.size)
                assert (
                    fit.likelihood(fit.standard_theta + step).deviance > fit.deviance - fit.likelihood.constant - 1e-9
                )
    assert seen >= 5


def test_a_smaller_maximum_on_the_boundary_is_not_taken():
    """Slopes of uncentred columns, kept independent of the intercept: two maxima, the smaller one singular."""
    problem = problems.draw(160)
    fit = fl.lmm(problem.formula, problem.frame, weights=problem.weights)
    assert not fit.singular
    nothing = fl.lmm("y ~ 1 + x0 + x1 + x2 + (0 + x0 | a) + (0 + x1 | a)", problem.frame, weights=problem.weights)
    assert fit.criterion > nothing.criterion + 4.0  # where the search from small variances ends


def test_one_variance_is_looked_for_on_the_whole_line():
    """One small group far off: the deviance falls towards 0 from small variances, and again from large ones."""
    rng = np.random.default_rng(20)
    g = np.repeat([0, 1, 2], [25, 2, 60])
    y = np.array([0.0, 4.0, 0.0])[g] * rng.normal() + rng.normal(size=g.size)
    fit = fl.lmm("y ~ 1 + (1 | g)", pd.DataFrame({"g": g, "y": y}))
    values = [fit.likelihood(np.array([t])).deviance for t in np.geomspace(1e-3, 1e3, 400)]
    assert fit.deviance - fit.likelihood.constant < min(values)
    assert fit.likelihood(np.zeros(1)).deviance > min(values) + 0.5
    assert not fit.singular


@pytest.mark.parametrize("seed", [16, 137, 152, 213, 395])
@pytest.mark.parametrize("method", ["ml", "reml"])
def test_the_search_ends_where_the_gradient_has_no_more_digits(seed, method):
    problem = problems.draw(seed)
    fit = fl.lmm(problem.formula, problem.frame, weights=problem.weights, method=method)
    assert fit.converged
    assert np.abs(fit.likelihood(fit.standard_theta).gradient).max() < 1e-8


def test_no_convergence_is_said(frame):
    with pytest.warns(fl.ConvergenceWarning, match="Raise max_iter"):
        fit = fl.lmm("y ~ x + (x | g)", frame, max_iter=1)
    assert not fit.converged
    assert fit.status is fl.Status.NOT_CONVERGED
    assert np.isfinite(fit.to_frame()["estimate"]).all()


def test_dependent_columns_are_left_out_and_named(frame):
    doubled = frame.assign(x2=2 * frame["x"] + 1)
    with pytest.warns(fl.FitWarning, match="left out, as they depend linearly on others: x2"):
        fit = fl.lmm("y ~ x + x2 + (1 | g)", doubled)
    assert fit.fixed_names == ("(Intercept)", "x")
    assert "x2" in fit.summary()
    reference = fl.lmm("y ~ x + (1 | g)", frame)
    assert fit.criterion == pytest.approx(reference.criterion, abs=1e-9)
    np.testing.assert_allclose(fit.predict(doubled), reference.predict(frame), rtol=1e-9)


def test_missing_rows_and_unused_levels_are_counted(frame):
    holes = frame.copy()
    holes.loc[[3, 17], "x"] = np.nan
    holes["g"] = pd.Categorical(holes["g"], [*sorted(holes["g"].unique()), "nobody"])
    with pytest.raises(fl.DataError, match=r"2 of 240 rows have missing values, in x"):
        fl.lmm("y ~ x + (1 | g)", holes)
    fit = fl.lmm("y ~ x + (1 | g)", holes, missing="drop")
    assert fit.n == 238
    assert "Rows with missing values left out: 2." in fit.notes
    assert "Levels of g that do not occur in the data, and were left out: 1." in fit.notes
    assert not fit.fitted_values.index.isin([3, 17]).any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "bfgs"}, "method='bfgs'"),
        ({"formula": "y ~ x + (1 | gg)"}, "did you mean g"),
        ({"formula": "y ~ x"}, "no random term"),
        ({"max_iter": -1}, "max_iter=-1"),
        ({"n_jobs": 0}, "n_jobs=0"),
    ],
)
def test_wrong_arguments(frame, change, words):
    arguments = {"formula": "y ~ x + (1 | g)", "data": frame} | change
    with pytest.raises(ValueError, match=words):
        fl.lmm(**arguments)


def test_a_response_without_residual(frame):
    with pytest.raises(fl.DataError, match="fit y exactly"):
        fl.lmm("y ~ x + (1 | g)", frame.assign(y=3.0 + 2.0 * frame["x"]))
    with pytest.raises(fl.DataError, match="fit y exactly"):
        fl.lmm("y ~ 1 + (1 | g)", frame.assign(y=7.0))


def test_a_response_that_the_groups_explain_exactly(frame):
    """σ² goes to 0: no optimum, and no number that looks like one."""
    exact = frame.assign(y=frame["g"].str[1:].astype(float))
    with pytest.raises(fl.DataError, match="fit the response exactly"):
        fl.lmm("y ~ 1 + (1 | g)", exact)


@pytest.mark.parametrize("method", ["ml", "reml"])
@pytest.mark.parametrize("seed", range(5))
def test_what_the_data_do_not_determine_is_said(method, seed):
    """Of a factor both fixed and random: by REML any variance; by ML 0. Correlations of effects no group has both of."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(12), 8)
    frame = pd.DataFrame({"g": g, "s": np.array(["f", "m"])[g % 2], "x": rng.normal(size=96)})
    frame["y"] = rng.normal(size=12)[g] + rng.normal(size=96)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fl.FitWarning)
        fit = fl.lmm("y ~ x + s + (1 | s) + (1 | g)", frame, method=method)
    if method == "ml":
        assert fit.singular
        assert not fit.notes
    else:
        assert "variances or correlations of s:" in fit.notes[0]
        assert "Nor have (Intercept), sm, whose variance depends on them" in fit.notes[0]
        unsure = ["(Intercept)", "sm"]
        assert fit.se[unsure].isna().all()
        assert fit.coefficients.loc[unsure, ["se", "df", "t", "p"]].isna().all(axis=None)
        assert fit.conf_int().loc[unsure].isna().all(axis=None)
        assert fit.test(["x", "sm"])["p"].isna().all()
        assert np.isfinite(fit.coefficients.loc["x"]).all()
    fit = fl.lmm("y ~ x + (0 + s | g)", frame, method=method)
    assert fit.singular or "variances or correlations of g:" in fit.notes[0]
    assert not fl.lmm("y ~ x + (1 | g)", frame, method=method).notes


def test_what_is_handed_out_is_a_copy(fit):
    before = fit.fixed_effects.tolist(), fit.random_effects["g"].to_numpy().tolist(), fit.residuals.tolist()
    fixed, random, residuals = fit.fixed_effects, fit.random_effects, fit.residuals
    fixed.iloc[0] = 0.0
    random["g"].iloc[:, 0] = 0.0
    random.clear()
    residuals.iloc[:] = 0.0
    assert before == (fit.fixed_effects.tolist(), fit.random_effects["g"].to_numpy().tolist(), fit.residuals.tolist())
    assert type(fit).fixed_effects.__doc__.startswith("β̂")


def unbalanced(seed):
    """Few groups of very different sizes: criteria with several optima."""
    rng = np.random.default_rng(seed)
    J = int(rng.integers(6, 40))
    g = np.repeat(np.arange(J), rng.geometric(rng.choice([0.1, 0.2, 0.4, 0.6]), J))
    x, z = rng.normal(size=(2, g.size))
    rng.integers(0, 3, g.size), rng.integers(0, 2, g.size)
    h, s = rng.integers(0, 6, g.size), rng.choice([0, 0.3, 1, 3, 10], 6)
    y = s[0] * rng.normal(size=J)[g] + s[1] * rng.normal(size=J)[g] * x + s[2] * rng.normal(size=J)[g] * z
    y += s[3] * rng.normal(size=6)[h] + rng.normal(size=g.size)
    return pd.DataFrame({"y": y, "x": x, "z": z, "g": g, "h": h})


@pytest.mark.parametrize(
    ("formula", "seed", "deviance"),  # lme4's, the better of two optimisers
    [
        ("y ~ x + (x || g)", 95, 302.89659),
        ("y ~ x + (x || g)", 160, None),
        ("y ~ x + z + (x + z || g)", 144, None),
        ("y ~ x + (x | g) + (1 | h)", 123, None),
    ],
)
def test_second_optima(formula, seed, deviance):
    """Where a search from the moments ends in a local optimum: never above the fit of any smaller model."""
    frame = unbalanced(seed)
    fit = fl.lmm(formula, frame)
    fixed = formula.split(" + (")[0]
    for smaller in ("(1 | g)", "(0 + x | g)", "(1 | g) + (1 | h)"[: 7 + 10 * ("h" in formula)]):
        assert fit.deviance <= fl.lmm(f"{fixed} + {smaller}", frame).deviance + 1e-6
    if deviance is not None:
        assert fit.deviance == pytest.approx(deviance, abs=1e-4)


def test_a_larger_model_that_fits_worse_is_not_tested():
    with pytest.warns(fl.FitWarning, match="local optimum"):
        row = lrt_module.tested(-0.5, {1: 1.0})
    assert np.isnan(row["p"])
    assert lrt_module.tested(-1e-9, {1: 1.0})["p"] == 1.0


def test_numbers_out_of_range(frame):
    with pytest.raises(fl.DataError, match=r"y is of the size .*other units"):
        fl.lmm("y ~ x + (1 | g)", frame.assign(y=1e200 * frame["y"]))
    with pytest.raises(fl.DataError, match=r"x is of the size .*other units"):
        fl.lmm("y ~ x + (1 | g)", frame.assign(x=1e-200 * frame["x"]))


def test_a_term_whose_columns_depend_on_each_other(frame):
    with pytest.raises(fl.DataError, match="x2 depends linearly"):
        fl.lmm("y ~ x + (x + x2 | g)", frame.assign(x2=3 * frame["x"]))


def test_no_fixed_effects_at_all(frame):
    fit = fl.lmm("y ~ 0 + (1 | g)", frame)
    twin = problems.dense(fit.data.design, fit.solution.roots)
    assert fit.criterion == pytest.approx(-0.5 * twin.deviance(True), abs=1e-9)
    assert fit.fixed_effects.empty
    assert "No fixed effects." in fit.summary()
    assert len(fit.predict(frame.head(3), interval="prediction")) == 3


def test_offset_and_weights(frame):
    w = np.random.default_rng(0).uniform(0.5, 2.0, len(frame))
    fit = fl.lmm("y ~ x + offset(3 * x) + (1 | g)", frame.assign(w=w), weights="w")
    other = fl.lmm("y ~ x + (1 | g)", frame.assign(y=frame["y"] - 3 * frame["x"]), weights=w)
    assert fit.criterion == pytest.approx(other.criterion, abs=1e-10)
    np.testing.assert_allclose(fit.fitted_values, other.fitted_values + 3 * frame["x"], rtol=1e-10)


def test_pickling_and_copies(fit):
    again = pickle.loads(pickle.dumps(fit))
    assert again.summary() == fit.summary()
    pd.testing.assert_frame_equal(again.to_frame(), fit.to_frame())
    new = pd.DataFrame({"x": [1.0], "g": ["g01"]})
    assert again.predict(new).equals(fit.predict(new))


@pytest.mark.parametrize("weighted", [False, True])
def test_a_fit_read_back_does_the_same(frame, weighted, tmp_path):
    data = frame.assign(h=pd.Categorical(frame["g"].str[:2], ["g3", "g2", "g1", "g0"]), w=np.arange(240) % 3 + 1.0)
    data[["u", "v"]] = np.random.default_rng(1).normal(size=(240, 2))
    data.loc[5, "x"] = np.nan
    data.loc[9, "y"] = np.nan  # its x, u and v count for poly(), bs() and scale()
    given = {"weights": "w"} if weighted else {}
    formula = "y ~ poly(x, 2) + bs(u, df=4) + scale(v, center=2) + h + (x | g)"
    fit = fl.lmm(formula, data.sample(frac=1.0, random_state=1), missing="drop", **given)
    again = fl.load(fit.save(tmp_path / "fit.npz"))
    assert again.summary() == fit.summary()
    assert "Rows with missing values left out: 2." in again.summary()
    pd.testing.assert_frame_equal(again.to_frame(), fit.to_frame())
    pd.testing.assert_frame_equal(again.trace, fit.trace)
    new = pd.DataFrame({"x": [1.0, 0.5], "u": 0.1, "v": -1.0, "g": ["g01", "g20"], "h": ["g0", "g2"]})
    pd.testing.assert_frame_equal(again.predict(new, interval="prediction"), fit.predict(new, interval="prediction"))
    pd.testing.assert_series_equal(again.fitted_values, fit.fitted_values)
    array = fl.lmm("y ~ x + (1 | g)", frame, weights=np.full(240, 2.0))
    assert fl.load(array.save(tmp_path / "array.npz")).criterion == array.criterion


def test_ordered_factors_are_read_back_as_such(frame, tmp_path):
    steps = pd.Categorical.from_codes(np.arange(240) % 3, ["low", "middle", "high"], ordered=True)
    fit = fl.lmm("y ~ o + (1 | g)", frame.assign(o=steps))
    assert list(fit.fixed_names) == ["(Intercept)", "o.L", "o.Q"]
    again = fl.load(fit.save(tmp_path / "fit.npz"))
    pd.testing.assert_series_equal(again.fixed_effects, fit.fixed_effects)


LABELS = np.arange(240) % 5
DAYS = pd.date_range("2024-03-29", periods=5)


@pytest.mark.parametrize(
    "labels",
    [
        DAYS[LABELS],
        DAYS.tz_localize("Europe/Berlin")[LABELS],  # summer time begins among them
        pd.DatetimeIndex(DAYS).tz_localize("UTC")[LABELS],
        pd.Categorical(DAYS.tz_localize("+02:00")[LABELS]),
        pd.to_timedelta(LABELS, unit="h"),
        LABELS > 1,
        (LABELS > 1).astype(object),
        LABELS.astype(object),
        LABELS / 2,
        pd.array(LABELS, dtype="Int64"),
        pd.array(LABELS / 2, dtype="Float64"),
        pd.array(LABELS > 1, dtype="boolean"),
        pd.array(LABELS.astype(str), dtype="string"),
        np.array(list("ä b'c")).astype(object)[LABELS],
    ],
    ids=lambda labels: f"{type(labels).__name__}-{labels.dtype}",
)
def test_groups_and_indexes_of_every_kind_are_read_back(frame, labels, tmp_path):
    data = frame.assign(k=labels).set_axis(pd.Index(labels, name="of rows"))
    fit = fl.lmm("y ~ x + (1 | k)", data)
    again = fl.load(fit.save(tmp_path / "fit.npz"))
    assert again.data.design.terms[0].factor.labels == fit.data.design.terms[0].factor.labels
    pd.testing.assert_frame_equal(again.to_frame(), fit.to_frame())
    assert list(again.fitted_values.index) == list(fit.fitted_values.index)
    assert again.fitted_values.index.name == "of rows"
    pd.testing.assert_series_equal(again.predict(data.head(7)), fit.predict(data.head(7)))


def test_indexes_of_several_levels_are_read_back(frame, tmp_path):
    zoned = DAYS.tz_localize("Asia/Tokyo")[LABELS]
    steps = pd.Categorical.from_codes(LABELS, list("abcde"), ordered=True)
    data = frame.set_axis(pd.MultiIndex.from_arrays([np.arange(240), zoned, steps], names=["row", None, 3]))
    fit = fl.lmm("y ~ x + (1 | g)", data)
    again = fl.load(fit.save(tmp_path / "fit.npz"))
    pd.testing.assert_series_equal(again.fitted_values, fit.fitted_values)


def test_files_refuse_what_they_cannot_keep(frame, tmp_path):
    odd = frame.assign(g=[(label,) for label in frame["g"]])
    with pytest.raises(fl.DataError, match="column 'g' holds objects"):
        fl.lmm("y ~ x + (1 | g)", odd).save(tmp_path / "odd.npz")
    months = frame.set_axis(pd.period_range("2000-01", periods=240, freq="M"))
    with pytest.raises(fl.DataError, match=r"the index of data holds objects.*: turn them into numbers or text"):
        fl.lmm("y ~ x + (1 | g)", months).save(tmp_path / "odd.npz")


def test_progress_is_shown_where_asked_for(frame, capsys):
    fl.lmm("y ~ x + (x | g)", frame)
    assert capsys.readouterr().err == ""
    fl.lmm("y ~ x + (x | g)", frame, verbose=1)
    shown = capsys.readouterr().err
    assert "cross products" in shown
    assert "reml, iteration 0, deviance to fall by" in shown


def test_refit_knows_two_methods(fit):
    assert fit.refit("ml").method == "ml"
    with pytest.raises(ValueError, match="method='REML'"):
        fit.refit("REML")
    with pytest.raises(ValueError, match="nothing to change"):
        fit.refit()


@pytest.mark.parametrize("method", [None, "ml"])
def test_refit_to_another_response(frame, method, tmp_path):
    """The same as a fit of data with that response, whichever way it is given; a file keeps it."""
    holes = frame.assign(h=frame["g"].str[:2], other=np.exp(0.1 * frame["y"])).sample(frac=1.0, random_state=0)
    holes.loc[[3, 17], "x"] = np.nan
    fit = fl.lmm("y ~ poly(x, 2) + (x | g) + (1 | h)", holes, missing="drop")
    expected = fl.lmm("other ~ poly(x, 2) + (x | g) + (1 | h)", holes, missing="drop", method=method or "reml")
    by_index = fit.refit(method, y=frame.assign(other=np.exp(0.1 * frame["y"]))["other"])
    values = fit.refit(method, y=holes["other"].drop(index=[3, 17]).to_numpy())
    for again in (by_index, values, fl.load(values.save(tmp_path / "fit.npz"))):
        pd.testing.assert_frame_equal(again.to_frame(), expected.to_frame())
        pd.testing.assert_series_equal(again.residuals, expected.residuals)
        assert again.method == expected.method
        assert again.notes == fit.notes


def test_refit_refuses_responses_that_do_not_match(frame):
    holes = frame.copy()
    holes.loc[[3, 17], "x"] = np.nan
    fit = fl.lmm("y ~ x + (1 | g)", holes, missing="drop")
    with pytest.raises(fl.DataError, match=r"shape \(240,\), the fit has 238 rows, 2 with missing values left out"):
        fit.refit(y=frame["y"].to_numpy())
    with pytest.raises(fl.DataError, match="does not name every row"):
        fit.refit(y=frame["y"].iloc[5:])
    with pytest.raises(fl.DataError, match="1 missing or infinite"):
        fit.refit(y=frame["y"].mask(frame.index == 9))


def test_refit_leaves_notes_of_the_old_optimum_behind():
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(12), 8)
    sex = np.array(["f", "m"])[g % 2]
    frame = pd.DataFrame({"g": g, "sex": sex, "y": 2 * rng.normal(size=12)[g] + rng.normal(size=96)})
    fit = fl.lmm("y ~ 1 + (0 + sex | g)", frame)
    assert sum("does not depend on" in note for note in fit.notes) == 1
    assert sum("does not depend on" in note for note in fit.refit("ml").notes) == 1


def test_the_data_are_not_changed(frame):
    before = frame.copy()
    fl.lmm("log(y + 20) ~ x + (x | g)", frame)
    pd.testing.assert_frame_equal(frame, before)


def test_likelihood_ratio_tables(frame):
    nothing = fl.lmm("y ~ 1 + (1 | g)", frame)
    x = fl.lmm("y ~ x + (1 | g)", frame)
    slopes = fl.lmm("y ~ x + (x | g)", frame)
    table = fl.lrt(slopes, nothing, x)
    assert list(table["npar"]) == [3, 4, 6]
    assert list(table["reference"]) == ["", "χ²(1)", "½ χ²(1) + ½ χ²(2)"]
    ml = [fl.lmm(fit.formula, frame, method="ml") for fit in (nothing, x, slopes)]
    np.testing.assert_allclose(table["loglik"], [fit.criterion for fit in ml], rtol=1e-12)  # refitted by ML
    chisq = 2 * (ml[1].criterion - ml[0].criterion)
    assert table["chisq"].iloc[1] == pytest.approx(chisq)
    assert table["p"].iloc[1] == pytest.approx(scipy.stats.chi2.sf(chisq, 1))
    chisq = 2 * (ml[2].criterion - ml[1].criterion)
    assert table["p"].iloc[2] == pytest.approx(0.5 * scipy.stats.chi2.sf(chisq, [1, 2]).sum())
    assert list(table["method"]) == ["ml, refitted"] * 3
    assert list(fl.lrt(ml[0], x)["method"]) == ["ml", "ml, refitted"]
    same_x = fl.lrt(x, slopes, refit=False)  # REML compares where X is the same
    assert list(same_x["loglik"]) == [x.criterion, slopes.criterion]
    assert list(same_x["method"]) == ["reml", "reml"]


@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e9])
def test_nesting_is_a_matter_of_spans(frame, unit):
    """Names say nothing: x lies within a polynomial in another unit, a number within the factor of its values."""
    data = frame.assign(u=unit * frame["x"], k=unit * (np.arange(240) % 4), m=np.arange(240) % 4 + 1e6)
    data["group"] = data["g"].map({name: f"other {i}" for i, name in enumerate(data["g"].unique()[::-1])})
    line, curve = fl.lmm("y ~ x + (1 | g)", data), fl.lmm("y ~ poly(u, 2) + (1 | group)", data)
    assert list(fl.lrt(line, curve)["reference"]) == ["", "χ²(1)"]
    steps = fl.lmm("y ~ factor(m) + (1 | g)", data)
    assert list(fl.lrt(fl.lmm("y ~ k + (1 | g)", data), steps)["reference"]) == ["", "χ²(2)"]
    with pytest.raises(ValueError, match=r"not nested .* lacks x"):
        fl.lrt(line, steps)
    slopes = fl.lmm("y ~ x + (0 + factor(m > 1e6 + 1) | g)", data)
    assert list(fl.lrt(line, slopes)["reference"]) == ["", "½ χ²(1) + ½ χ²(2)"]
    apart = fl.lmm("y ~ x + (u || g)", data)
    assert list(fl.lrt(apart, fl.lmm("y ~ x + (1 + I(x + 1) | g)", data))["reference"]) == ["", "χ²(1)"]
    with pytest.raises(ValueError, match="no term on g"):
        fl.lrt(fl.lmm("y ~ x + (0 + u | g)", data), slopes)


def test_restricted_likelihoods_compare_where_the_spans_are_the_same(frame):
    """log|XᵀX| of another basis is no evidence."""
    data = frame.assign(u=1000 * frame["x"])
    small, large = fl.lmm("y ~ x + (1 | g)", data), fl.lmm("y ~ u + (u | g)", data)
    same = fl.lrt(small, fl.lmm("y ~ x + (x | g)", data), refit=False)
    assert fl.lrt(small, large, refit=False)["chisq"].iloc[1] == pytest.approx(same["chisq"].iloc[1], rel=1e-8)
    with pytest.raises(ValueError, match=r"differ in their fixed effects \(x\)"):
        fl.lrt(fl.lmm("y ~ 1 + (1 | g)", data), small, refit=False)
    with pytest.raises(ValueError, match="by REML and by maximum likelihood"):
        fl.lrt(small, large.refit("ml"), refit=False)


@pytest.mark.parametrize("method", ["ml", "reml"])
@pytest.mark.parametrize("weighted", [False, True])
def test_deletion_of_the_only_term_leaves_least_squares(frame, method, weighted):
    w = np.random.default_rng(0).uniform(0.5, 2.0, len(frame)) if weighted else None
    fit = fl.lmm("y ~ x + (1 | g)", frame, method=method, weights=w)
    table = fit.test_random_effects()
    design = fit.data.design
    nothing = naive.Grouped(design.y, design.X, [np.zeros((240, 1))], [np.eye(1)], np.ones(240) if w is None else w)
    assert table.loc["(1 | g)", "loglik"] == pytest.approx(-0.5 * nothing.deviance(method == "reml"), abs=1e-8)
    assert table.loc["(1 | g)", "reference"] == "½ χ²(0) + ½ χ²(1)"
    assert table.loc["<none>", "loglik"] == fit.criterion
    assert list(table["npar"]) == [4, 3]


def test_deletions_leave_models_within_the_model(frame):
    data = frame.assign(h=np.tile(list("abcdefgh"), 30), f=np.tile(list("uv"), 120))
    fit = fl.lmm("y ~ x + (x * f | g) + (0 + x | h) + (0 + f | h)", data)
    table = fit.test_random_effects()
    assert list(table.index[1:]) == ["x:f in (x * f | g)", "(0 + x | h)", "f in (0 + f | h)"]
    assert list(table["df"].iloc[1:]) == [4, 1, 2]
    for label, formula in [
        ("x:f in (x * f | g)", "y ~ x + (x + f | g) + (0 + x | h) + (0 + f | h)"),
        ("(0 + x | h)", "y ~ x + (x * f | g) + (0 + f | h)"),
        ("f in (0 + f | h)", "y ~ x + (x * f | g) + (0 + x | h) + (1 | h)"),
    ]:
        other = fl.lmm(formula, data)
        assert table.loc[label, "loglik"] == pytest.approx(other.criterion, abs=1e-6)
        assert table.loc[label, "npar"] == other.n_parameters
        test = fl.lrt(other, fit, refit=False).iloc[1]
        assert test["reference"] == table.loc[label, "reference"]


def test_likelihood_ratio_refuses_what_does_not_compare(frame):
    x = fl.lmm("y ~ x + (1 | g)", frame)
    with pytest.raises(ValueError, match="two or more"):
        fl.lrt(x)
    with pytest.raises(ValueError, match="different data"):
        fl.lrt(x, fl.lmm("y ~ x + (x | g)", frame.iloc[::-1]))
    with pytest.raises(ValueError, match="same model"):
        fl.lrt(x, x)
    other = frame.assign(z=frame["x"] ** 2, h=frame["g"].str[:2])
    with pytest.raises(ValueError, match="different weights"):
        fl.lrt(x, fl.lmm("y ~ x + (x | g)", frame, weights=np.full(240, 2.0)))
    with pytest.raises(ValueError, match="different offset"):
        fl.lrt(x, fl.lmm("y ~ x + offset(x) + (x | g)", frame))
    with pytest.raises(ValueError, match=r"not nested .* lacks x"):
        fl.lrt(fl.lmm("y ~ x + (1 | g)", other), fl.lmm("y ~ z + (z | g)", other))
    with pytest.raises(ValueError, match="no term on h"):
        fl.lrt(fl.lmm("y ~ x + (1 | h)", other), fl.lmm("y ~ x + (x | g)", other))


def test_the_mixture_is_the_null_distribution():
    """p values of a variance that is 0 are uniform above ½: half of the statistics are 0."""
    p = []
    for seed in range(150):
        frame = make(12, 5, sd=(0.0, 0.0), seed=seed)
        frame["h"] = np.tile(list("abcde"), 12)
        small, large = fl.lmm("y ~ x + (1 | h)", frame), fl.lmm("y ~ x + (1 | h) + (1 | g)", frame)
        p.append(fl.lrt(small, large)["p"].iloc[1])
    assert abs(np.mean(np.array(p) < 0.2) - 0.2) < 3 * np.sqrt(0.16 / 150)


def test_plots(fit):
    try:
        ax = fl.plot_caterpillar(fit, "g", "x")
        table = ax.fastlmm_vi_data
        assert len(table) == 30
        assert table["estimate"].is_monotonic_increasing
        sd = np.sqrt(fit.random_effects_var["g"][:, 1, 1])
        width = table.set_index("level")["upper"] - table.set_index("level")["lower"]
        np.testing.assert_allclose(width.sort_index(), 2 * scipy.stats.norm.isf(0.025) * sd, rtol=1e-9)
        ax = fl.plot_residuals(fit)
        np.testing.assert_allclose(ax.fastlmm_vi_data["residual"].std(), (fit.residuals / fit.sigma).std(), rtol=1e-9)
        ax = fl.plot_profile(fit, "sigma")
        assert ax.fastlmm_vi_data["zeta"].is_monotonic_increasing
        with pytest.raises(ValueError, match="is not in this model"):
            fl.plot_caterpillar(fit, "h")
    finally:
        plt.close("all")


def block(text, title):
    """Cells of the lines of a summary under a title."""
    lines = text.split(title + "\n")[1].split("\n\n")[0].splitlines()
    return [line.split() for line in lines[1:]]


def test_a_summary_has_columns_of_one_precision():
    """As R's print: to the decimal that shows four digits of the smallest number of a column, or with exponents."""
    data = make(8, 6, seed=2)
    text = fl.lmm("y ~ x + (x | g)", data.assign(x=30 * data["x"])).summary()
    fixed, random = block(text, "Fixed effects:"), block(text, "Random effects:")[:3]
    for cells in ([row[i] for row in fixed for i in (1, 2)], [row[-2 - (i == 1)] for i, row in enumerate(random)]):
        decimals = {len(cell.partition(".")[2]) for cell in cells}
        smallest = min(cells, key=lambda cell: abs(float(cell)))
        assert len(decimals) == 1
        assert len(smallest.replace(".", "").lstrip("-0")) == 4
    tiny = fl.lmm("y ~ x + (1 | g)", data.assign(y=1e-3 * data["y"])).summary()
    assert "Corr\n" in text
    assert "Corr\n" not in tiny
    assert all(
        "e-" in row[-2] for row in block(tiny, "Random effects:")[:2]
    )  # variances; standard deviations are short


@pytest.mark.parametrize("terms", ["(1 + x | g)", "(1 | g) + (1 | h)", "(1 | g / h)"])
@pytest.mark.parametrize("method", ["reml", "ml", "structured-vi", pytest.param("laplace-is", marks=needs_bayes)])
def test_no_memory_is_read_before_it_is_written(monkeypatch, method, terms):
    """What NumPy leaves as it finds it is NaN here."""
    empty, empty_like = np.empty, np.empty_like

    def poisoned(out):
        if out.dtype == np.float64:
            out.fill(np.nan)
        return out

    frame = make(groups=8, size=6).assign(h=lambda d: np.arange(len(d)) % 4)
    before = fl.lmm(f"y ~ x + {terms}", frame, method=method)
    expected = before.to_frame(), before.summary().splitlines()[:12]
    monkeypatch.setattr(np, "empty", lambda *shape, **options: poisoned(empty(*shape, **options)))
    monkeypatch.setattr(np, "empty_like", lambda *like, **options: poisoned(empty_like(*like, **options)))
    fit = fl.lmm(f"y ~ x + {terms}", frame, method=method)
    pd.testing.assert_frame_equal(fit.to_frame(), expected[0])
    assert fit.summary().splitlines()[:12] == expected[1]
