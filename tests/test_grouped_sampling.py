"""Sampled posteriors of grouped models: against long runs of another program, quadrature, and dense algebra."""

import json

import grouped_problems as problems
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from problems import REFERENCES, SHARED, needs_bayes, needs_references

import fastlmm_vi as fl
from fastlmm_vi import ConvergenceWarning, Status, priors
from fastlmm_vi.grouped import sampled_posterior, sampling
from fastlmm_vi.grouped.leave_one_out import Predictors
from fastlmm_vi.grouped.sampled_posterior import SampleMarginal

EXACT = json.loads((REFERENCES / "posteriors_quadrature.json").read_text()) if REFERENCES.is_dir() else {}
LONG = json.loads((REFERENCES / "posteriors_long_runs.json").read_text()) if REFERENCES.is_dir() else {}
METHODS = [pytest.param("nuts", marks=needs_bayes), "laplace-is"]
N, HN, HC = priors.Normal, priors.HalfNormal, priors.HalfCauchy
MODELS = {
    "Dyestuff": ("Yield ~ 1 + (1 | Batch)", [N(1500, 500)], 100),
    "sleepstudy_int": ("Reaction ~ Days + (1 | Subject)", [N(250, 100), N(0, 50)], 50),
    "sleepstudy_uncorr": ("Reaction ~ Days + (Days || Subject)", [N(250, 100), N(0, 50)], 50),
    "Penicillin": ("diameter ~ 1 + (1 | plate) + (1 | sample)", [N(20, 10)], 3),
}
EXPERIMENTS = {
    "pupil": (
        "p_size ~ load + (load | subj)",
        {"beta": [N(1000, 500), N(0, 100)], "sigma": HN(1000), "sd": HN(500), "cor": priors.LKJ(1)},
    ),
    "fibrosis": (
        "FVC ~ Weeks + (Weeks || Patient)",
        {
            "beta": [N(0, 500), N(0, 3)],
            "sigma": HC(100),
            "sd": {"Patient": {"Intercept": HC(100), "Weeks": HC(3)}},
        },
    ),
    "dutch": (
        "NP1 ~ condition + (condition | subject) + (condition | item)",
        {"beta": [N(0, 10), N(0, 5)], "sigma": HN(5), "sd": HN(1), "cor": priors.LKJ(1)},
    ),
}


def assert_near(row, mean, sd, error=0.0, size=2000):
    """A row of `to_frame` within four Monte-Carlo errors; its standard deviation within five of `size` draws."""
    assert abs(row["mean"] - mean) < 4 * np.hypot(row["mcse_mean"], error) + 2e-6 * sd
    assert row["sd"] == pytest.approx(sd, rel=5 / np.sqrt(size))


@needs_references
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_exact_posteriors(name, method):
    formula, beta, scale = MODELS[name]
    data = problems.reference_frame(problems.reference_models()[name])
    given = {"beta": beta, "sigma": HN(scale), "sd": HN(scale)}
    fit = fl.lmm(formula, data, method=method, priors=given)
    assert fit.converged
    table, expected = fit.to_frame(), EXACT[name]
    of_kind = {"beta": "b_", "tau": "sd_", "u": "r_"}
    ours = {kind: [one for one in table.index if one.startswith(start)] for kind, start in of_kind.items()}
    for parameter, value in expected["params"].items():
        kind, number = parameter.rstrip("0123456789"), parameter.lstrip("abcdefghijklmnopqrstuvwxyz")
        row = table.loc["sigma" if parameter == "sigma" else ours[kind][int(number)]]
        assert_near(row, value["mean"], value["sd"], size=1000)
    if method == "laplace-is":
        assert fit.log_evidence == pytest.approx(expected["log_evidence"], abs=4 * fit.log_evidence_se)
        assert fit.log_evidence_se < 0.02
    else:
        assert fit.log_evidence is None
        assert list(table.columns[-4:]) == ["mcse_mean", "ess_bulk", "ess_tail", "r_hat"]


@needs_references
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_long_runs(name, method):
    formula, given = EXPERIMENTS[name]
    fit = fl.lmm(formula, pd.read_csv(SHARED / "data" / "grouped" / f"{name}.csv.gz"), method=method, priors=given)
    assert fit.converged
    tables = [fit.posterior.errors_of_fixed, fit.posterior.errors_of_variances]
    table = pd.concat([fit._fixed, fit.variances]).join(pd.concat(tables))
    kinds = {"tau": "sd_", "rho": "cor_", "beta": "b_"}
    of_kind = {kind: iter([one for one in table.index if one.startswith(start)]) for kind, start in kinds.items()}
    for parameter, value in LONG[name]["post"].items():
        if parameter.startswith("log_"):
            continue
        kind = parameter.rstrip("0123456789_")
        row = table.loc["sigma" if kind == "sigma" else next(of_kind[kind])]
        assert_near(row, value["mean"], value["sd"], value["mcse_mean"], size=700)


@pytest.fixture(scope="module")
def frame():
    return problems.make(groups=12, size=6)


@pytest.fixture(scope="module")
def exact(frame):
    return fl.lmm("y ~ x + (x || g)", frame, method="quadrature")


@pytest.fixture(scope="module")
def weighted(frame):
    return fl.lmm("y ~ x + (x || g)", frame, method="laplace-is")


@pytest.fixture(scope="module")
def chained(frame):
    return fl.lmm("y ~ x + (x || g)", frame, method="nuts")


@pytest.mark.parametrize("name", [pytest.param("chained", marks=needs_bayes), "weighted"])
def test_like_quadrature(name, exact, request):
    """Everything in the table, effects included, default priors."""
    fit = request.getfixturevalue(name)
    ours, theirs = fit.to_frame(), exact.to_frame()
    assert list(ours.index) == list(theirs.index)
    z = (ours["mean"] - theirs["mean"]) / ours["mcse_mean"]
    assert z.abs().max() < 4.5  # 30 parameters
    np.testing.assert_allclose(ours["sd"], theirs["sd"], rtol=0.1)
    effects = ours.index.str.startswith(("b_", "r_"))
    for q in ("q05", "q50", "q95"):
        off = (ours[q] - theirs[q]) / theirs["sd"]
        assert off.abs().max() < 0.15
        assert off[effects].abs().max() < 0.06  # of mixtures
    assert fit.random_effects["g"].shape == (12, 2)
    assert fit.sigma == pytest.approx(exact.sigma, rel=0.02)
    assert isinstance(fit, fl.SampledFit)
    assert isinstance(fit, fl.BayesFit)


def test_evidence_against_quadrature(weighted, exact):
    assert weighted.log_evidence == pytest.approx(exact.log_evidence, abs=4 * weighted.log_evidence_se)
    assert weighted.pareto_k < 0.7
    assert weighted.criterion == weighted.log_evidence
    assert weighted.elbo is None
    assert weighted.divergences == 0


@needs_bayes
def test_summary_of_chains(chained):
    text = chained.summary()
    assert "posterior by NUTS, 4 chains of 1000 draws" in text
    assert "log evidence: not known by NUTS" in text
    assert "Converged: the chains agree" in text
    assert "ess_bulk" in text
    assert chained.pareto_k is None
    assert chained.log_evidence_se is None
    assert chained.divergences == 0
    assert repr(chained).startswith("<SampledFit nuts")


def test_summary_of_weights(weighted):
    assert "Pareto k̂" in weighted.summary()
    assert "Reliable" in weighted.summary()
    assert "importance sampling, 4000 draws" in weighted.summary()
    assert f"{weighted.log_evidence:.4f}" in weighted.summary()


def test_seeds(frame, weighted):
    again = fl.lmm("y ~ x + (x || g)", frame, method="laplace-is")
    np.testing.assert_array_equal(again.posterior.phi, weighted.posterior.phi)
    pd.testing.assert_frame_equal(again.random_effects["g"], weighted.random_effects["g"])
    other = fl.lmm("y ~ x + (x || g)", frame, method="laplace-is", random_state=1)
    assert not np.array_equal(other.posterior.phi, weighted.posterior.phi)


@needs_bayes
def test_draws_do_not_depend_on_threads(frame, chained):
    two = fl.lmm("y ~ x + (x || g)", frame, method="nuts", n_jobs=2)
    one = fl.lmm("y ~ x + (x || g)", frame, method="nuts", n_jobs=1)
    np.testing.assert_array_equal(one.posterior.phi, two.posterior.phi)
    np.testing.assert_array_equal(one.posterior.phi, chained.posterior.phi)


@pytest.mark.parametrize("name", [pytest.param("chained", marks=needs_bayes), "weighted"])
def test_effects_are_thinned_where_they_are_many(name, request, monkeypatch):
    fit = request.getfixturevalue(name)
    monkeypatch.setattr(sampled_posterior, "MOST_VALUES", 1)
    thin = sampled_posterior.SampledPosterior(
        fit.posterior.posterior, fit.posterior.phi, fit.posterior.run, fit.posterior.seed
    )
    assert thin.fixed.means.shape == (400, 2)
    assert thin.effects[0].draws.shape == (400, 24)
    for few, all_ in zip(thin.random, fit.posterior.random, strict=True):
        np.testing.assert_allclose(few.mean, all_.mean, atol=0.1 * all_.sd.max())
    assert thin.errors_of_random.index.equals(fit.posterior.errors_of_random.index)


def test_auto(frame, weighted, monkeypatch):
    found = fl.lmm("y ~ x + (x || g)", frame, method="auto")
    assert found.method == "laplace-is"
    np.testing.assert_array_equal(found.posterior.phi, weighted.posterior.phi)
    asked = []
    monkeypatch.setattr(sampling, "LIGHT", -np.inf)
    monkeypatch.setattr(sampling, "_by_chains", lambda *rest: asked.append(rest) or weighted.posterior)
    assert fl.lmm("y ~ x + (x || g)", frame, method="auto").method == "nuts"
    assert len(asked) == 1


def test_some_are_fixed(frame):
    given = {"sd": {"g": {"Intercept": priors.Fixed(1.0), "x": HN(2.0)}}}
    fit = fl.lmm("y ~ x + (x || g)", frame, method="laplace-is", priors=given)
    row = fit.to_frame().loc["sd_g__Intercept"]
    assert row["mean"] == row["q05"] == row["q95"] == 1.0
    assert row["sd"] == row["mcse_mean"] == 0.0
    reference = fl.lmm("y ~ x + (x || g)", frame, method="quadrature", priors=given)
    assert fit.log_evidence == pytest.approx(reference.log_evidence, abs=4 * fit.log_evidence_se)
    everything = {"sd": priors.Fixed(1.0), "sigma": priors.Fixed(1.0)}
    with pytest.raises(ValueError, match="all of them are Fixed"):
        fl.lmm("y ~ x + (1 | g)", frame, method="laplace-is", priors=everything)


def test_heavy_weights_are_told(frame):
    """Two levels of a factor say next to nothing about its variance: a long tail."""
    two = frame.assign(h=np.where(np.arange(len(frame)) % 2 == 0, "a", "b"))
    with pytest.warns(ConvergenceWarning) as caught:
        fit = fl.lmm(
            "y ~ x + (x | g) + (x | h)",
            two,
            method="laplace-is",
            draws=400,
            priors={"sd": priors.HalfCauchy(1e3)},
        )
    assert fit.status in (Status.HEAVY_WEIGHTS, Status.FEW_DRAWS)
    assert fit.status.advice in str(caught[0].message)


@pytest.mark.parametrize("name", [pytest.param("chained", marks=needs_bayes), "weighted"])
def test_draw(name, request):
    fit = request.getfixturevalue(name)
    draws = fit.draws(2000, random_state=0)
    table = fit.to_frame()
    assert list(draws.columns) == list(table.index)
    z = (draws.mean() - table["mean"]) / (table["sd"] / np.sqrt(2000))
    assert z.abs().max() < 5


def test_correlations():
    """Of three effects, two of the canonical partial correlations are no correlations."""
    rng = np.random.default_rng(1)
    g, x, z = np.repeat(np.arange(25), 10), rng.normal(size=250), rng.normal(size=250)
    b = rng.normal(size=(25, 3)) @ [[1.0, 0.5, 0.3], [0.0, 0.8, -0.4], [0.0, 0.0, 0.6]]
    data = pd.DataFrame({"g": g, "x": x, "z": z})
    data["y"] = b[g, 0] + b[g, 1] * x + b[g, 2] * z + rng.normal(size=250)
    fit = fl.lmm("y ~ x + z + (x + z | g)", data, method="laplace-is", priors={"sd": HN(2.0), "cor": priors.LKJ(2.0)})
    names = [name for name in fit.variances.index if name.startswith("cor_")]
    assert names == ["cor_g__Intercept__x", "cor_g__Intercept__z", "cor_g__x__z"]
    scales = [fit.posterior.posterior.scales(phi) for phi in fit.posterior.phi[0]]
    R = np.array([at.correlation[0] @ at.correlation[0].T for at in scales])
    for name, (i, j) in zip(names, [(0, 1), (0, 2), (1, 2)], strict=True):
        assert fit.variances.loc[name, "mean"] == pytest.approx(fit.posterior.weights @ R[:, i, j])
    assert fit.varcorr["g"].shape == (3, 3)


def test_marginal_of_draws():
    rng = np.random.default_rng(0)
    x = rng.gamma(5.0, size=20_000)
    found = SampleMarginal(x, np.full(x.size, 1.0 / x.size), False)
    assert found.mean == pytest.approx(5.0, abs=0.1)
    assert found.sd == pytest.approx(np.sqrt(5.0), rel=0.03)
    np.testing.assert_allclose(
        found.quantile([0.05, 0.5, 0.95]), scipy.stats.gamma(5).ppf([0.05, 0.5, 0.95]), rtol=0.03
    )
    at = np.array([2.0, 5.0, 9.0])
    np.testing.assert_allclose(found.pdf(at), scipy.stats.gamma(5).pdf(at), rtol=0.1)
    assert found.pdf(-1.0) == 0.0
    halves = SampleMarginal(np.array([-0.5, 0.0, 0.5]), np.array([0.25, 0.5, 0.25]), True)
    assert halves.quantile(0.5) == 0.0
    assert halves.pdf(np.array([1.5, 0.0]))[0] == 0.0


# Leave-one-out.


@pytest.fixture(scope="module")
def crossed():
    """Two crossed factors, weights, an offset, proper priors."""
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"g": np.repeat(list("abcde"), 8), "h": np.tile(list("wxyz"), 10), "x": rng.normal(size=40)})
    data["w"], data["o"] = rng.uniform(0.5, 2.0, size=40), rng.normal(size=40)
    data["y"] = (
        3.0 + data["x"] + data["o"] + np.repeat(rng.normal(size=5), 8) + rng.normal(size=40) / np.sqrt(data["w"])
    )
    given = {"beta": [N(1.0, 2.0), N(0.0, 3.0)], "sigma": HN(2.0), "sd": HN(2.0)}
    formula = "y ~ x + (x | g) + (1 | h) + offset(o)"
    return data, fl.lmm(formula, data, method="laplace-is", priors=given, weights="w", draws=8000)


def dense(data, fit, phi):
    """Mean and covariance of y a priori given φ, and the part of the linear predictor."""
    scales = fit.posterior.posterior.scales(phi)
    X = np.column_stack([np.ones(40), data["x"]])
    eta = X @ np.diag([4.0, 9.0]) @ X.T
    for name, basis, sd, root in zip("gh", (X, np.ones((40, 1))), scales.sd, scales.correlation, strict=True):
        same = data[name].to_numpy()[:, None] == data[name].to_numpy()
        half = basis @ (sd[:, None] * root)
        eta += np.where(same, half @ half.T, 0.0)
    return X @ [1.0, 0.0] + data["o"].to_numpy(), eta, np.diag(scales.sigma**2 / data["w"])


def test_left_out_densities_are_conditional_normal_ones(crossed):
    data, fit = crossed
    for phi in fit.posterior.phi[0, :3]:
        mean, eta, noise = dense(data, fit, phi)
        V, r = eta + noise, data["y"].to_numpy() - mean
        without, within = Predictors(fit.posterior.posterior).log_densities(phi[None])
        gain = eta @ np.linalg.inv(V)
        spread = np.diag(eta - gain @ eta + noise)
        np.testing.assert_allclose(within[0], scipy.stats.norm.logpdf(r, gain @ r, np.sqrt(spread)), rtol=1e-9)
        for i in range(40):
            rest = np.delete(np.arange(40), i)
            weights = np.linalg.solve(V[np.ix_(rest, rest)], V[rest, i])
            expected = scipy.stats.norm.logpdf(r[i], weights @ r[rest], np.sqrt(V[i, i] - weights @ V[rest, i]))
            assert without[0, i] == pytest.approx(expected, rel=1e-9)


def test_left_out_densities_do_not_depend_on_how_many_are_made_at_a_time(crossed, monkeypatch):
    _, fit = crossed
    predictors, phi = Predictors(fit.posterior.posterior), fit.posterior.phi[0, :5]
    together = predictors.log_densities(phi)
    monkeypatch.setattr("fastlmm_vi.grouped.leave_one_out.AT_A_TIME", 80)
    np.testing.assert_array_equal(predictors.log_densities(phi), together)


def test_fitted_values_are_means_of_conditional_ones(crossed):
    data, fit = crossed
    means, seconds = np.zeros(40), np.zeros(40)
    phis, weights = fit._few
    for w, phi in zip(weights, phis, strict=True):
        mean, eta, noise = dense(data, fit, phi)
        gain = eta @ np.linalg.inv(eta + noise)
        m = mean + gain @ (data["y"].to_numpy() - mean)
        means += w * m
        seconds += w * (m**2 + np.diag(eta - gain @ eta))
    np.testing.assert_allclose(fit.fitted["mean"], means, rtol=1e-9)
    np.testing.assert_allclose(fit.fitted["sd"], np.sqrt(seconds - means**2), rtol=1e-6)
    assert fit.fitted.index.equals(data.index)


def test_leave_one_out_is_the_change_of_the_evidence(frame):
    """log p(y_i | y_−i) = log p(y) − log p(y_−i), both by quadrature, for the largest residual and others."""
    given = {"beta": [N(0.0, 5.0), N(0.0, 5.0)], "sigma": HN(2.0), "sd": HN(2.0)}
    fit = fl.lmm("y ~ x + (1 | g)", frame, method="laplace-is", priors=given)
    found = fit.loo()
    whole = fl.lmm("y ~ x + (1 | g)", frame, method="quadrature", priors=given)
    worst = int(np.argmin(found.pointwise))
    for i in (0, worst, 40):
        rest = fl.lmm("y ~ x + (1 | g)", frame.drop(frame.index[i]), method="quadrature", priors=given)
        assert found.pointwise[i] == pytest.approx(whole.log_evidence - rest.log_evidence, abs=0.02)
    assert found.reliable
    assert 2.0 < found.p < 20.0
    assert found.elpd == pytest.approx(found.pointwise.sum())


def test_leave_one_out_refuses_very_many_densities(monkeypatch, weighted):
    monkeypatch.setattr("fastlmm_vi.grouped.leave_one_out.LARGEST", 10)
    with pytest.raises(ValueError, match=f"all {weighted.n} observations"):
        weighted.loo()


# ArviZ.


@needs_bayes
@pytest.mark.parametrize("method", ["nuts", "laplace-is"])
def test_inference_data(method, frame):
    fit = fl.lmm("y ~ x + (x | g)", frame, method=method, draws=800)
    data = fit.to_inference_data(None if method == "nuts" else 2000)
    post, table = data["posterior"], fit.to_frame()
    for parameter, values in {
        "b_x": post["b_x"],
        "sigma": post["sigma"],
        "cor_g__Intercept__x": post["cor_g__Intercept__x"],
        "r_g[g03,x]": post["r_g"].sel(g="g03", g_effect="x"),
    }.items():
        row = table.loc[parameter]
        assert float(values.mean()) == pytest.approx(row["mean"], abs=5 * row["sd"] / np.sqrt(400))
        assert float(values.std()) == pytest.approx(row["sd"], rel=0.2)
    at = {"chain": 0, "draw": 17}
    b = post["r_g"].isel(at).values[pd.Categorical(frame["g"]).codes]
    mean = (
        float(post["b_Intercept"].isel(at)) + b[:, 0] + (float(post["b_x"].isel(at)) + b[:, 1]) * frame["x"].to_numpy()
    )
    expected = scipy.stats.norm.logpdf(frame["y"], mean, float(post["sigma"].isel(at)))
    np.testing.assert_allclose(data["log_likelihood"]["y"].isel(at).values, expected, rtol=1e-9)
    assert data.attrs["method"] == method
    if method == "nuts":
        assert data["sample_stats"]["diverging"].shape == post["sigma"].shape == (4, 800)
        np.testing.assert_array_equal(post["sigma"].values, fit.posterior.variances["sigma"])
        few = fit.to_inference_data(40)
        np.testing.assert_array_equal(few["posterior"]["sigma"].values[:, [0, -1]], post["sigma"].values[:, [0, -1]])
        with pytest.raises(ValueError, match="draws=2 is not between 4 and 3200"):
            fit.to_inference_data(2)


@needs_bayes
def test_a_standard_deviation_that_may_be_0(frame, monkeypatch):
    """No sign of a slope's variance: it is sampled with a sign, and agrees with quadrature down to 0."""
    flat = frame.assign(y=frame["y"] - 0.5 * frame["x"], x=np.random.default_rng(5).normal(size=len(frame)))
    given = {"sd": HN(1.0), "sigma": HN(2.0)}
    exact = fl.lmm("y ~ x + (x || g)", flat, method="quadrature", priors=given)
    fit = fl.lmm("y ~ x + (x || g)", flat, method="nuts", priors=given)
    assert fit.converged
    assert fit.variances.loc["sd_g__x", "q05"] < 0.15 * fit.variances.loc["sd_g__x", "q95"]
    for name in fit.variances.index:
        row, truth = fit.variances.loc[name], exact.variances.loc[name]
        assert abs(row["mean"] - truth["mean"]) < 4 * fit.posterior.errors_of_variances.loc[name, "mcse_mean"]
        assert abs(row["q05"] - truth["q05"]) < 0.15 * truth["sd"]
    found = []
    monkeypatch.setattr(sampling, "NEAR", -np.inf)
    monkeypatch.setattr(sampling, "Density", lambda *rest: found.append(rest))
    fl.lmm("y ~ x + (x || g)", flat, method="nuts", priors=given)
    assert not found


# Pictures.


@needs_bayes
def test_pictures_of_chains(chained, weighted):
    ranks = fl.plot_ranks(chained, "b_x").fastlmm_vi_data
    assert ranks.groupby("chain")["count"].sum().tolist() == [1000] * 4
    assert ranks["count"].max() < 100  # 50 are expected
    trace = fl.plot_chains(chained).fastlmm_vi_data
    assert list(trace.columns) == ["chain", "draw", "sigma", "diverging"]
    np.testing.assert_array_equal(trace["sigma"], chained.posterior.variances["sigma"].ravel())
    ax = fl.plot_pairs(chained, "b_x", "sd_g__x", log=True)
    assert ax.get_yscale() == "log"
    assert ax.fastlmm_vi_data.shape == (4000, 3)
    with pytest.raises(ValueError, match="has no chains"):
        fl.plot_ranks(weighted)
    with pytest.raises(ValueError, match="'b_z' is not in this model"):
        fl.plot_chains(chained, "b_z")


# The door.


@needs_references
@pytest.mark.slow
def test_many_students_and_lecturers():
    """73 421 ratings, 4114 effects of standard deviation 1: σ alone is sampled."""
    data = pd.read_csv(SHARED / "data" / "grouped" / "insteval.csv.gz")
    given = {"beta": [N(0, 5), N(0, 1)], "sigma": HN(1), "sd": priors.Fixed(1.0)}
    fit = fl.lmm("y ~ service + (1 | s) + (1 | d) + (1 | dept)", data, method="laplace-is", priors=given, draws=500)
    table = pd.concat([fit._fixed, fit.variances])
    table = table.join(pd.concat([fit.posterior.errors_of_fixed, fit.posterior.errors_of_variances]))
    names = {"sigma": "sigma", "alpha": "b_Intercept", "service": "b_service"}
    for name, value in LONG["insteval/fixed-sd-1"]["post"].items():
        assert_near(table.loc[names[name]], value["mean"], value["sd"], size=400)


def test_settings_belong_to_samplers(frame):
    with pytest.raises(ValueError, match="draws=10 is a setting of method='nuts', and method='reml'"):
        fl.lmm("y ~ x + (1 | g)", frame, draws=10)
    with pytest.raises(ValueError, match="tune=10 is a setting of method='nuts', and method='laplace-is'"):
        fl.lmm("y ~ x + (1 | g)", frame, method="laplace-is", tune=10)
    with pytest.raises(ValueError, match="chains=2 is a setting"):
        fl.lmm("y ~ x + (1 | g)", frame, method="quadrature", chains=2)
    with pytest.raises(ValueError, match="factorisation"):
        fl.lmm("y ~ x + (1 | g)", frame, method="nuts", factorisation="group")


@needs_bayes
def test_settings_reach_the_sampler(frame):
    with pytest.warns(ConvergenceWarning):
        fit = fl.lmm("y ~ x + (1 | g)", frame, method="nuts", draws=60, tune=50, chains=2, target_accept=0.95)
    assert fit.posterior.phi.shape == (2, 60, 2)
    assert fit.posterior.run.stats["acceptance_rate"].mean() > 0.9


def test_an_improper_prior_has_no_evidence(frame):
    fit = fl.lmm("y ~ x + (1 | g)", frame, method="laplace-is", priors={"beta": priors.Flat()})
    assert fit.log_evidence is None
    assert fit.log_evidence_se is None
    assert any("improper" in note for note in fit.notes)
    reference = fl.lmm("y ~ x + (1 | g)", frame, method="quadrature", priors={"beta": priors.Flat()})
    row = fit.to_frame().loc["b_x"]
    assert row["mean"] == pytest.approx(reference.to_frame().loc["b_x", "mean"], abs=5 * row["mcse_mean"])


@pytest.mark.parametrize("unit", [1e-6, 1e4, 1e6])
def test_the_unit_of_a_slope_does_not_matter(unit):
    frame = problems.make(groups=12, size=8)
    fit = fl.lmm("y ~ x + (x || g)", frame, method="laplace-is")
    other = fl.lmm("y ~ x + (x || g)", frame.assign(x=unit * frame["x"]), method="laplace-is")
    assert other.log_evidence == pytest.approx(fit.log_evidence, abs=0.2)
    assert other.variances.loc["sd_g__x", "mean"] * unit == pytest.approx(
        fit.variances.loc["sd_g__x", "mean"], rel=0.05
    )
