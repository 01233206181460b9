"""`lmm` by variational Bayes: what users see of it, beside the exact posterior."""

import pickle
import warnings

import grouped_problems
import numpy as np
import pandas as pd
import pytest
from problems import needs_bayes

import fastlmm_vi as fl
from fastlmm_vi import priors
from fastlmm_vi.errors import ConvergenceWarning
from fastlmm_vi.grouped.bayes_result import FACTORISATIONS_OF

FORMULA = "y ~ x + (1 | g) + (1 | h)"
CHOICES = [(method, each) for method, all_ in FACTORISATIONS_OF.items() for each in all_]


@pytest.fixture(scope="module")
def frame():
    frame = grouped_problems.make(groups=12, size=8, sd=(1.0, 0.0), seed=3)
    h = np.arange(len(frame)) % 7
    return frame.assign(h=h, y=frame["y"] + np.cos(3 * h))


@pytest.fixture(scope="module")
def exact(frame):
    return fl.lmm(FORMULA, frame, method="quadrature")


@pytest.mark.parametrize(("method", "factorisation"), CHOICES)
def test_the_same_parameters_as_the_exact_posterior(frame, exact, method, factorisation):
    fit = fl.lmm(FORMULA, frame, method=method, factorisation=factorisation)
    assert fit.converged
    assert fit.elbo <= exact.log_evidence
    assert (exact.elbo, fit.log_evidence) == (None, None)
    assert (fit.criterion, exact.criterion) == (fit.elbo, exact.log_evidence)
    ours, truth = fit.to_frame(), exact.to_frame()
    assert list(ours.columns) == list(truth.columns) == ["mean", "sd", "q05", "q50", "q95"]
    assert list(ours.index) == list(truth.index)
    assert (np.abs(ours["mean"] - truth["mean"]) < 0.25 * truth["sd"]).all()
    assert (ours["sd"] < 1.05 * truth["sd"]).all()  # factorised q is too narrow
    assert fit.loglik == pytest.approx(exact.loglik, abs=0.5)
    for name, table in fit.random_effects.items():
        np.testing.assert_allclose(table, exact.random_effects[name], atol=0.2)


def test_defaults_are_those_of_the_names(frame):
    fits = {method: fl.lmm(FORMULA, frame, method=method) for method in FACTORISATIONS_OF}
    assert {method: fit.factorisation for method, fit in fits.items()} == {"structured-vi": "joint", "mfvi": "group"}
    assert "q(β, b) q(σ) Π q(Σ_l)" in fits["structured-vi"].summary()
    assert "q(β) Π q(b of a term) q(σ)" in str(fits["mfvi"])
    assert "sigma ~ HalfStudentT(3" in fits["mfvi"].summary()
    assert repr(fits["mfvi"]) == f"<BayesFit mfvi: {FORMULA}, converged>"


def test_loglik_is_that_of_the_likelihood_at_posterior_means(frame):
    frame = grouped_problems.make(groups=12, size=8)
    fit = fl.lmm("y ~ x + (1 + x | g)", frame, method="structured-vi")
    table = fit.variances["mean"]
    root = np.array([table["sd_g__Intercept"], table["sd_g__x"]])
    R = np.array([[1.0, table["cor_g__Intercept__x"]], [table["cor_g__Intercept__x"], 1.0]])
    G = root[:, None] * R * root
    np.testing.assert_allclose(fit.varcorr["g"], G)
    Z, X, y = np.column_stack([np.ones(len(frame)), frame["x"]]), fit.data.design.X, frame["y"].to_numpy()
    same = frame["g"].to_numpy()[:, None] == frame["g"].to_numpy()
    V = (Z @ G @ Z.T) * same + fit.sigma**2 * np.eye(len(y))
    beta = np.linalg.solve(X.T @ np.linalg.solve(V, X), X.T @ np.linalg.solve(V, y))
    r = y - X @ beta
    expected = -0.5 * (np.linalg.slogdet(2 * np.pi * V)[1] + r @ np.linalg.solve(V, r))
    assert fit.loglik == pytest.approx(expected, rel=1e-10)


def test_where_it_started_and_how_it_went(frame, exact):
    fit = fl.lmm(FORMULA, frame, method="structured-vi")
    assert set(fit.starts.index) == {"moments", "reml", "random"}
    assert (np.diff(fit.trace["elbo"]) > -1e-8).all()
    assert fit.trace["elbo"].iloc[-1] == fit.elbo == fit.starts["elbo"].iloc[0]
    assert fit.n_iter == len(fit.trace)
    assert exact.starts.empty
    assert exact.trace.empty
    same = fl.lmm(FORMULA, frame, method="structured-vi", random_state=0)
    other = fl.lmm(FORMULA, frame, method="structured-vi", random_state=1)
    assert same.starts.equals(fit.starts)
    assert other.starts.loc["random", "n_iter"] != fit.starts.loc["random", "n_iter"]
    assert other.elbo == pytest.approx(fit.elbo, abs=1e-6)


def test_draws(frame):
    fit = fl.lmm(FORMULA, frame, method="structured-vi")
    draws, table = fit.draws(4000, random_state=1), fit.to_frame()
    assert list(draws.columns) == list(table.index)
    assert (np.abs(draws.mean() - table["mean"]) < 5 * table["sd"] / np.sqrt(4000)).all()
    pd.testing.assert_frame_equal(draws.head(3), fit.draws(4000, random_state=1).head(3))
    with pytest.raises(ValueError, match="size=0 is not a number of draws"):
        fit.draws(0)


@pytest.mark.parametrize(
    ("method", "term"), [("quadrature", "(1 | g)"), ("structured-vi", "(x | g)"), ("mfvi", "(x | g)")]
)
def test_pickling(method, term):
    fit = fl.lmm(f"y ~ x + {term}", grouped_problems.make(groups=6, size=5), method=method)
    before = fit.to_frame()
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(fit)).to_frame(), before)


def test_points_that_maximise_the_elbo(frame):
    fit = fl.lmm(FORMULA, frame, method="mfvi", theta_by="elbo")
    exact = fl.lmm(FORMULA, frame, method="ml")
    assert fit.converged
    assert fit.loglik == pytest.approx(fit.elbo + fit.gap)
    assert fit.elbo < fit.loglik < exact.loglik
    assert fit.criterion == fit.elbo
    table = fit.to_frame()
    assert list(table.index) == list(exact.to_frame().index)
    assert table.loc["b_Intercept":"sigma", "se"].isna().all()
    effects = table.index.str.startswith("r_")
    assert (table.loc[effects, "se"] < exact.to_frame().loc[effects, "se"]).all()
    assert set(fit.starts.index) == {"moments", "reml", "random"}
    assert (np.diff(fit.trace["elbo"]) >= 0).all()
    assert fit.log_evidence is None
    assert fit.random_effects_var["g"].shape == (12, 1, 1)
    assert "gap: " in str(fit)
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(fit)).to_frame(), table)


def test_side_by_side(frame, exact):
    fits = [
        fl.lmm(FORMULA, frame),
        fl.lmm(FORMULA, frame, method="mfvi", theta_by="elbo"),
        fl.lmm(FORMULA, frame, method="mfvi"),
        fl.lmm(FORMULA, frame, method="structured-vi"),
        exact,
    ]
    table = fl.compare(*fits)
    assert list(table.columns) == ["reml", "mfvi", "mfvi (2)", "structured-vi", "quadrature"]
    assert list(table.index[:5]) == ["b_Intercept", "b_x", "sd_g__Intercept", "sd_h__Intercept", "sigma"]
    assert table.loc["elbo"].isna().tolist() == [True, False, False, False, True]
    assert table.loc["log_evidence"].isna().tolist() == [True, True, True, True, False]
    assert table.loc["aic"].isna().tolist() == [False, True, True, True, True]
    assert table.loc["elbo", "mfvi (2)"] < table.loc["elbo", "structured-vi"] < exact.log_evidence


def test_three_correlated_effects_have_huang_and_wands_prior():
    frame = grouped_problems.make(groups=15, size=8).assign(z=lambda d: np.cos(np.arange(len(d))))
    fit = fl.lmm("y ~ x + z + (1 + x + z | g)", frame, method="structured-vi")
    assert fit.converged
    assert any("HuangWand(2" in line for line in fit.priors.lines())
    given = {"sd": {"g": priors.HalfNormal(1.0)}}
    with pytest.raises(ValueError, match="of 3 effects, has no optimal factor"):
        fl.lmm("y ~ x + z + (1 + x + z | g)", frame, method="mfvi", priors=given)


def test_stopped_early_says_so(frame):
    with pytest.warns(ConvergenceWarning, match="Raise max_iter"):
        fit = fl.lmm(FORMULA, frame, method="structured-vi", max_iter=2)
    assert not fit.converged
    assert not fit.to_frame().isna().any().any()
    with pytest.warns(ConvergenceWarning, match="Raise max_iter"):
        assert not fl.lmm(FORMULA, frame, method="mfvi", theta_by="elbo", max_iter=1).converged


def test_improper_priors_have_no_elbo(frame):
    fit = fl.lmm(FORMULA, frame, method="structured-vi", priors={"beta": priors.Flat()})
    assert fit.elbo is None
    assert "none (an improper prior)" in fit.summary()
    assert "the ELBO is defined up to a factor only" in fit.notes[-1]


WRONG = [
    ({"method": "mfvi", "factorisation": "joint"}, "factorisation='joint' is not one of method='mfvi': 'group'"),
    ({"method": "quadrature", "factorisation": "joint"}, "is not one of method='quadrature': none"),
    ({"method": "mfvi", "theta_by": "loglik"}, "theta_by='loglik' is not known"),
    ({"method": "structured-vi", "theta_by": "elbo"}, "theta_by='elbo' is of method='mfvi'"),
    ({"method": "mfvi", "theta_by": "elbo", "priors": {}}, "drop priors, or theta_by"),
    ({"method": "vi"}, "method='vi' is not known: choose one of 'reml', 'ml', 'quadrature', 'structured-vi', 'mfvi'"),
    ({"method": "mfvi", "max_iter": 0}, "max_iter=0"),
    ({"method": "mfvi", "priors": {"sd": priors.Normal(0, 1)}}, "sd"),
    ({"method": "mfvi", "priors": {"beta": [priors.Normal(0, 1)]}}, "beta"),
    ({"method": "mfvi", "priors": {"sd": {"k": priors.HalfNormal(1)}}}, "no grouping factor of the model"),
    ({"method": "mfvi", "priors": {"sd": {"h": priors.Flat(on="log")}}}, "leaves no proper posterior"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_what_is_wrong_is_named(frame, options, message):
    with pytest.raises(ValueError, match=message):
        fl.lmm(FORMULA, frame, **options)


@pytest.mark.parametrize("bad", [-1.0, 0.0, np.nan, "1"])
def test_scales_must_be_positive(bad):
    with pytest.raises((ValueError, TypeError), match="scale"):
        priors.HalfNormal(bad)


# Predictions, containers, pictures.


def test_predictions_are_those_of_the_posterior(frame, exact):
    """Means are linear; intervals of a mean and of an observation against draws made here."""
    draws, design = exact.draws(20_000, random_state=5), exact.data.design
    X = design.X
    names = [f"r_g[{a},Intercept]" for a in frame["g"]], [f"r_h[{b},Intercept]" for b in frame["h"]]
    values = draws[["b_Intercept", "b_x"]].to_numpy() @ X.T + draws[names[0]].to_numpy() + draws[names[1]].to_numpy()
    np.testing.assert_allclose(exact.predict(), values.mean(axis=0), atol=0.05)
    for interval, noise in (("confidence", 0.0), ("prediction", 1.0)):
        table = exact.predict(frame, interval=interval, level=0.8, draws=4000)
        z = np.random.default_rng(0).normal(size=values.shape)
        ends = np.quantile(values + noise * draws["sigma"].to_numpy()[:, None] * z, [0.1, 0.9], axis=0)
        width = (ends[1] - ends[0]).mean()
        np.testing.assert_allclose(table[["lower", "upper"]].T, ends, atol=0.12 * width)
        np.testing.assert_array_equal(table["mean"], exact.predict())
    pd.testing.assert_frame_equal(exact.predict(interval="confidence"), exact.predict(frame, interval="confidence"))


def test_new_groups_have_effects_of_their_own(frame, exact):
    new = frame.head(2).assign(g="never seen", h=99)
    with pytest.warns(fl.FitWarning, match="2 of 2 rows by g"):
        table = exact.predict(new, interval="confidence", draws=4000)
    np.testing.assert_allclose(table["mean"], exact.data.design.X[:2] @ exact.fixed_effects.to_numpy())
    draws = exact.draws(20_000, random_state=1)
    variance = (draws[["sd_g__Intercept", "sd_h__Intercept"]] ** 2).sum(axis=1).mean()
    variance += (draws["b_Intercept"] + draws["b_x"] * frame["x"].iloc[0]).var()
    assert table["upper"].iloc[0] - table["lower"].iloc[0] == pytest.approx(2 * 2.1 * np.sqrt(variance), rel=0.15)
    alone = exact.predict(frame, random_effects=False)
    np.testing.assert_allclose(alone, exact.data.design.X @ exact.fixed_effects.to_numpy())
    with pytest.raises(ValueError, match="interval='both' is not known"):
        exact.predict(interval="both")


def test_predictions_of_points(frame):
    fit = fl.lmm(FORMULA, frame, method="mfvi", theta_by="elbo")
    np.testing.assert_allclose(fit.predict(), fit.fitted_values)
    np.testing.assert_allclose(fit.predict(frame.iloc[[5, 3]]), fit.fitted_values.iloc[[5, 3]])


@needs_bayes
def test_containers_of_arviz(frame):
    import arviz as az

    fit = fl.lmm("y ~ x + (1 + x | g) + (1 | h)", frame, method="structured-vi")
    found = fit.to_inference_data(400, random_state=2)
    posterior, table = found["posterior"], fit.to_frame()
    assert dict(posterior.sizes) == {"chain": 4, "draw": 100, "g": 12, "g_effect": 2, "h": 7, "h_effect": 1}
    some = posterior["r_g"].sel(g="g03", g_effect="x")
    assert float(some.mean()) == pytest.approx(table.loc["r_g[g03,x]", "mean"], abs=0.3)
    for name in ("b_x", "sd_g__x", "cor_g__Intercept__x", "sigma"):
        row = table.loc[name]
        assert float(posterior[name].mean()) == pytest.approx(row["mean"], abs=5 * row["sd"] / 20)
    np.testing.assert_allclose(found["constant_data"]["elbo"], fit.trace["elbo"])
    np.testing.assert_allclose(found["observed_data"]["y"], frame["y"])
    assert float(found.attrs["elbo"]) == fit.elbo
    own = fit.diagnostics(draws=400).loo.elpd
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the shape of the tail
        by_arviz = az.loo(found)
    assert float(getattr(by_arviz, "elpd_loo", getattr(by_arviz, "elpd", None))) == pytest.approx(own, abs=4.0)
    predicted = found["posterior_predictive"]["y"].to_numpy().reshape(400, -1)
    assert np.corrcoef(predicted.mean(axis=0), fit.predict())[0, 1] > 0.99
    with pytest.raises(ValueError, match="draws=401 is not a multiple of 4"):
        fit.to_inference_data(401)


def test_pictures(frame, exact):
    import matplotlib as mpl

    mpl.use("agg")
    fits = [fl.lmm(FORMULA, frame, method=method) for method in FACTORISATIONS_OF]
    ax = fl.plot_elbo(*fits, exact)
    assert [text.get_text() for text in ax.get_legend().get_texts()][-1] == "quadrature: log evidence"
    assert ax.fastlmm_vi_data.groupby("fit")["elbo"].last().to_dict() == {fit.method: fit.elbo for fit in fits}
    low, high = ax.get_ylim()
    assert low < min(fit.elbo for fit in fits) < exact.log_evidence < high
    with pytest.raises(ValueError, match="No fit given has an ELBO"):
        fl.plot_elbo(exact)
    data = fl.plot_posterior(*fits, exact).fastlmm_vi_data
    assert set(data["parameter"]) == {"sd_g__Intercept"}
    for _, one in data.groupby("fit"):
        assert np.trapezoid(one["density"], one["x"]) == pytest.approx(1.0, abs=5e-3)
    assert set(fl.plot_posterior(exact, parameter="b_x").fastlmm_vi_data["parameter"]) == {"b_x"}
    with pytest.raises(ValueError, match="parameter='b_z' is not one of all fits: choose one of 'b_Intercept'"):
        fl.plot_posterior(exact, parameter="b_z")
    dots = fl.plot_accuracy(*fits, reference=exact).fastlmm_vi_data
    assert list(dots.columns) == ["fit", "parameter", "accuracy"]
    expected = fits[0].diagnostics(exact, draws=100).accuracy
    np.testing.assert_allclose(dots["accuracy"][dots["fit"] == fits[0].method], expected)


@needs_bayes
@pytest.mark.parametrize("name", ["obs", "chain", "draw"])
def test_groups_may_have_the_names_of_dimensions(frame, name):
    fit = fl.lmm(f"y ~ x + (1 | {name})", frame.rename(columns={"g": name}), method="structured-vi")
    found = fit.to_inference_data(40)["posterior"][f"r_{name}"]
    assert found.dims == ("chain", "draw", f"{name}_level", f"{name}_effect")
    assert list(found[f"{name}_level"].to_numpy()) == list(fit.random_effects[name].index)
