"""Exact posteriors of grouped models: against values of another program, and against dense integration."""

import json

import grouped_problems as problems
import numpy as np
import pandas as pd
import pytest
import scipy.integrate
from problems import REFERENCES, needs_references

import fastlmm_vi as fl
from fastlmm_vi import priors

POSTERIORS = json.loads((REFERENCES / "posteriors_quadrature.json").read_text()) if REFERENCES.is_dir() else {}
MODELS = {
    "Dyestuff": ("Yield ~ 1 + (1 | Batch)", [(1500, 500)], 100),
    "sleepstudy_int": ("Reaction ~ Days + (1 | Subject)", [(250, 100), (0, 50)], 50),
    "sleepstudy_uncorr": ("Reaction ~ Days + (Days || Subject)", [(250, 100), (0, 50)], 50),
    "Penicillin": ("diameter ~ 1 + (1 | plate) + (1 | sample)", [(20, 10)], 3),
}


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(6), 5), rng.normal(size=30)
    y = 2.0 + 0.5 * x + rng.normal(size=6)[g] + rng.normal(size=30)
    return pd.DataFrame({"y": y, "x": x, "g": [f"g{i}" for i in g]})


@pytest.fixture(scope="module")
def fit(frame):
    return fl.lmm("y ~ x + (1 | g)", frame, method="quadrature")


@needs_references
@pytest.mark.parametrize("name", MODELS)
def test_reference_posteriors(name):
    """Means and sds to 1e-6 sd, evidence to 1e-8. Quantiles of the reference are those of its coarse grid: not compared."""
    formula, beta, scale = MODELS[name]
    given = {"beta": [priors.Normal(*one) for one in beta], "sigma": priors.HalfNormal(scale)}
    data = problems.reference_frame(problems.reference_models()[name])
    fit = fl.lmm(formula, data, method="quadrature", priors={**given, "sd": priors.HalfNormal(scale)})
    expected = POSTERIORS[name]
    assert fit.converged
    assert fit.log_evidence == pytest.approx(expected["log_evidence"], abs=1e-8)
    table = fit.to_frame()
    ours = {
        kind: [name for name in table.index if name.startswith(prefix)]
        for kind, prefix in {"beta": "b_", "tau": "sd_", "u": "r_"}.items()
    }
    for parameter, value in expected["params"].items():
        kind, number = parameter.rstrip("0123456789"), parameter.lstrip("abcdefghijklmnopqrstuvwxyz")
        row = table.loc["sigma" if parameter == "sigma" else ours[kind][int(number)]]
        assert row["mean"] == pytest.approx(value["mean"], abs=1e-6 * value["sd"])
        assert row["sd"] == pytest.approx(value["sd"], rel=1e-6)


def test_everything_against_dense_integration(frame, fit):
    """The evidence, and the distribution function of σ and of an effect at the quantiles found, on a plain grid."""
    post, chosen = fit.posterior.posterior, fit.priors
    X = np.column_stack([np.ones(30), frame["x"]])
    Z = (frame["g"].to_numpy()[:, None] == np.unique(frame["g"])).astype(float)
    S = np.linalg.inv(chosen.beta.precision)
    a, b = np.meshgrid(np.linspace(-17.0, 6.0, 260), np.linspace(-1.2, 1.4, 70), indexing="ij")
    values, means, sds = [], [], []
    for log_sd, log_sigma in zip(a.ravel(), b.ravel(), strict=True):
        sd, sigma = np.exp([log_sd, log_sigma])
        V = sigma**2 * np.eye(30) + sd**2 * Z @ Z.T + X @ S @ X.T
        L = np.linalg.cholesky(V)
        half = np.linalg.solve(L, frame["y"] - X @ chosen.beta.mean)
        value = -0.5 * half @ half - np.log(np.diag(L)).sum() - 15 * np.log(2 * np.pi) + log_sd + log_sigma
        value += float(chosen.terms[0].scales[0].log_density(sd)) + float(chosen.sigma.log_density(sigma))
        values.append(value)
        gain = np.linalg.solve(V, np.column_stack([X @ S[:, 1], frame["y"] - X @ chosen.beta.mean]))
        means.append(chosen.beta.mean[1] + S[1] @ X.T @ gain[:, 1])
        sds.append(np.sqrt(S[1, 1] - S[1] @ X.T @ gain[:, 0]))
    cell = (a[1, 0] - a[0, 0]) * (b[0, 1] - b[0, 0])
    weights = np.exp(np.array(values) - max(values))
    assert fit.log_evidence == pytest.approx(max(values) + np.log(weights.sum() * cell), abs=1e-6)
    weights /= weights.sum()
    table = fit.to_frame()
    for q, p in {"q05": 0.05, "q50": 0.5, "q95": 0.95}.items():
        below = scipy.stats.norm.cdf(table.loc["b_x", q], means, sds)
        assert weights @ below == pytest.approx(p, abs=1e-6)
    marginal = weights.reshape(a.shape).sum(axis=0) / (b[0, 1] - b[0, 0])
    for q in (0.05, 0.5, 0.95):
        at = np.log(fit.posterior.marginals["sigma"].quantile(q))
        spline = scipy.interpolate.CubicSpline(b[0], marginal).antiderivative()
        assert float(spline(at)) == pytest.approx(q, abs=1e-5)
    assert post.names == ["sd_g__Intercept", "sigma"]


def test_distributions_are_distributions(fit):
    for name in ("sd_g__Intercept", "sigma"):
        found = fit.posterior.marginals[name]
        x = np.linspace(1e-9, float(found.quantile(0.9999)), 20001)
        assert scipy.integrate.simpson(found.pdf(x), x=x) == pytest.approx(0.9999, abs=1e-4)
        assert found.cdf(found.quantile(0.3)) == pytest.approx(0.3, abs=1e-9)
        assert found.cdf(-1.0) == 0.0
    for name in ("b_Intercept", "b_x"):
        found = fit.posterior.marginals[name]
        x = np.linspace(-60.0, 60.0, 40001) * found.sd + found.mean
        assert scipy.integrate.simpson(found.pdf(x), x=x) == pytest.approx(1.0, abs=1e-5)
        assert found.alone.cdf(found.quantile([0.05])) == pytest.approx(0.05, abs=1e-10)


def test_draws_agree_with_the_marginals(fit):
    draws, table = fit.draws(2000, random_state=0), fit.to_frame()
    assert list(draws.columns) == list(table.index)
    for name in ("sigma", "sd_g__Intercept", "b_x", "r_g[g0,Intercept]"):
        row = table.loc[name]
        assert draws[name].mean() == pytest.approx(row["mean"], abs=5 * row["sd"] / np.sqrt(2000))
        assert (draws[name] < row["q05"]).mean() == pytest.approx(0.05, abs=0.025)


def test_rows_in_any_order_and_other_units(frame, fit):
    table = fit.to_frame()
    mixed = fl.lmm("y ~ x + (1 | g)", frame.sample(frac=1.0, random_state=0), method="quadrature")
    np.testing.assert_allclose(mixed.to_frame(), table, rtol=1e-5, atol=1e-6)
    other = fl.lmm("y ~ x + (1 | g)", frame.assign(y=1000.0 * frame["y"], x=frame["x"] / 1000.0), method="quadrature")
    scaled = table.copy()
    scaled.loc["b_x"] *= 1e6
    scaled.loc[table.index != "b_x"] *= 1000.0
    np.testing.assert_allclose(other.to_frame(), scaled, rtol=1e-5, atol=1e-3)
    assert other.log_evidence == pytest.approx(
        fit.log_evidence - 30 * np.log(1000.0), abs=1e-2
    )  # priors to three digits


def test_a_correlation():
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(20), 8), rng.normal(size=160)
    b = rng.normal(size=(20, 2)) @ [[2.0, 1.0], [0.0, 1.7]]
    frame = pd.DataFrame({"g": g, "x": x, "y": b[g, 0] + b[g, 1] * x + rng.normal(size=160)})
    given = {"sigma": priors.HalfNormal(2.0), "sd": priors.HalfNormal(4.0), "cor": priors.LKJ(2.0)}
    fit = fl.lmm("y ~ x + (x | g)", frame, method="quadrature", priors=given)
    row, reml = fit.variances.loc["cor_g__Intercept__x"], fl.lmm("y ~ x + (x | g)", frame).variances
    assert -1.0 < row["q05"] < row["mean"] < row["q95"] < 1.0
    assert abs(row["mean"] - reml.loc["cor_g__Intercept__x", "estimate"]) < row["sd"]
    strict = {**given, "cor": priors.LKJ(1000.0)}  # holds the correlation at 0
    near = fl.lmm("y ~ x + (x | g)", frame, method="quadrature", priors=strict)
    del given["cor"]
    apart = fl.lmm("y ~ x + (x || g)", frame, method="quadrature", priors=given)
    assert near.log_evidence == pytest.approx(apart.log_evidence, abs=5e-2)
    assert near.log_evidence != pytest.approx(fit.log_evidence, abs=5e-2)


def test_a_fixed_standard_deviation(frame):
    fit = fl.lmm("y ~ x + (1 | g)", frame, method="quadrature", priors={"sd": priors.Fixed(0.7)})
    row = fit.variances.loc["sd_g__Intercept"]
    assert (row == [0.7, 0.0, 0.7, 0.7, 0.7]).all()
    assert fit.posterior.posterior.names == ["sigma"]


def test_errors(frame):
    with pytest.raises(ValueError, match="up to 4 variance parameters, and this model has 5"):
        fl.lmm("y ~ x + (x | g) + (1 | h)", frame.assign(h=np.arange(30) % 4), method="quadrature")
    with pytest.raises(ValueError, match="priors are of Bayesian methods"):
        fl.lmm("y ~ x + (1 | g)", frame, priors={"sigma": priors.HalfNormal(1.0)})
    with pytest.raises(ValueError, match="'quadrature'"):
        fl.lmm("y ~ x + (1 | g)", frame, method="bayes")


def test_improper_priors_have_no_evidence(frame):
    fit = fl.lmm("y ~ x + (1 | g)", frame, method="quadrature", priors={"beta": priors.Flat()})
    assert fit.log_evidence is None
    assert "improper" in fit.notes[0]
    assert "none (an improper prior)" in fit.summary()


def test_flat_priors_have_their_mode_at_reml(frame):
    """With β and the variances flat the density of (sd, σ) is the restricted likelihood."""
    given = {"beta": priors.Flat(), "sigma": priors.Flat(), "sd": priors.Flat()}
    reml = fl.lmm("y ~ x + (1 | g)", frame)
    post = fl.lmm("y ~ x + (1 | g)", frame, method="quadrature", priors=given).posterior.posterior
    at = np.log([np.sqrt(reml.varcorr["g"].iloc[0, 0]), reml.sigma])
    slopes = [(post(at + 1e-5 * row) - post(at - 1e-5 * row)) / 2e-5 - 1.0 for row in np.eye(2)]  # less the Jacobian's
    np.testing.assert_allclose(slopes, 0.0, atol=1e-6)


def test_summary_lists_estimates_and_priors(fit):
    text = fit.summary()
    assert "exact posterior by quadrature" in text
    assert all(line in text for line in fit.priors.lines())
    assert "b_x" in text
    assert "Number of obs: 30, groups:  g, 6" in text
