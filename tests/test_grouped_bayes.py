"""`lmm` by variational Bayes: what users see of it, beside the exact posterior."""

import pickle

import grouped_problems
import numpy as np
import pandas as pd
import pytest

import fastlmm_vi as fl
from fastlmm_vi import priors
from fastlmm_vi.errors import ConvergenceWarning
from fastlmm_vi.grouped.bayes_result import FACTORISATIONS

FORMULA = "y ~ x + (1 | g) + (1 | h)"
CHOICES = [(method, each) for method, all_ in FACTORISATIONS.items() for each in all_]


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
    fits = {method: fl.lmm(FORMULA, frame, method=method) for method in FACTORISATIONS}
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
