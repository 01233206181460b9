"""Fit, Trace, compare and the pictures."""

import pickle
from dataclasses import FrozenInstanceError

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from problems import PROBLEMS

import fastlmm_vi as fl

y, Z, X = PROBLEMS["wide"]


@pytest.fixture(scope="module")
def fits():
    import warnings

    options = {
        "newton": {},
        "reml": {"reml": True},
        "em": {"method": "em"},
        "mfvi": {"method": "mfvi", "solver": "sweep"},
        "same": {"method": "mfvi", "theta_by": "loglik"},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return {name: fl.WideLMM(**o).fit(X, y, Z[:, 1:]) for name, o in options.items()}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_trace_table(fits):
    for model in fits.values():
        trace = model.trace_
        columns = ["iteration", "loglik", "elbo", "gap", "sigma2_beta", "sigma2_e", "max_change", "seconds"]
        assert list(trace.columns) == columns
        assert (trace["iteration"] == np.arange(len(trace))).all()
        assert (np.diff(trace["seconds"]) >= 0).all()
        assert trace["sigma2_beta"].iloc[-1] == pytest.approx(model.sigma2_beta_, rel=1e-9)
    assert fits["mfvi"].trace_["max_change"].iloc[1:].notna().all()
    assert fits["mfvi"].trace_["max_change"].iloc[-1] < 1e-6


def test_summary_says_what_matters(fits):
    for model in fits.values():
        text = model.fit_.summary()
        assert text == str(model.fit_)
        assert f"{model.sigma2_beta_:.6g}" in text
        assert model.status_.advice in text
        assert "iterations" in text
    assert "REML criterion" in fits["reml"].fit_.summary()
    assert "ELBO" in fits["mfvi"].fit_.summary()
    assert "of maximum likelihood" in fits["mfvi"].fit_.summary()
    assert "newton" in repr(fits["newton"].fit_)


def test_frozen(fits):
    with pytest.raises(FrozenInstanceError):
        fits["newton"].fit_.sigma2_e = 1.0


def test_save_and_load(fits, tmp_path):
    for name, model in fits.items():
        fit = model.fit_
        again = fl.load(fit.save(tmp_path / f"{name}.npz"))
        assert again.summary() == fit.summary()
        assert again.status is fit.status
        assert again.modes == fit.modes
        pd.testing.assert_frame_equal(again.to_frame(), fit.to_frame())
        pd.testing.assert_frame_equal(again.trace.to_frame(), fit.trace.to_frame())
        np.testing.assert_array_equal(again.beta_var, fit.beta_var)
        np.testing.assert_array_equal(again.beta_mean, fit.beta_mean)
        with pytest.raises(ValueError, match="correlations"):
            again.posterior.predictive(X)
        assert pickle.loads(pickle.dumps(fit)).loglik == fit.loglik


def test_what_is_not_a_saved_fit_is_said_so(tmp_path):
    (tmp_path / "a.npz").write_text("text")
    np.savez(tmp_path / "b.npz", y=y)
    for name in ("a", "b"):
        with pytest.raises(ValueError, match=r"Fit\.save"):
            fl.load(tmp_path / f"{name}.npz")
    with pytest.raises(FileNotFoundError, match=r"c\.npz does not exist"):
        fl.load(tmp_path / "c.npz")


def test_unfitted_attributes_say_so():
    assert not hasattr(fl.WideLMM(), "coef_")
    with pytest.raises(AttributeError, match="not fitted yet"):
        fl.WideLMM().coef_  # noqa: B018


def test_tables(fits):
    fit = fits["newton"].fit_
    frame = fit.to_frame()
    assert frame.loc["sigma2_e", "se"] == fit.sigma2_e_se
    assert frame.loc["z0", "estimate"] == fit.omega[0]
    effects = fit.effects()
    np.testing.assert_allclose(effects["sd"] ** 2, fit.beta_var)
    assert effects.index.name == "feature"


def test_compare(fits):
    table = fl.compare(*fits.values())
    assert list(table.columns) == ["newton", "reml", "em", "mfvi", "mfvi (2)"]
    assert table.loc["beta_mean_correlation", "newton"] == pytest.approx(1.0)
    assert table.loc["beta_mean_rmse", "mfvi (2)"] == pytest.approx(0.0, abs=1e-12)
    assert table.loc["beta_mean_rmse", "mfvi"] > 1e-3
    assert table.loc["beta_var_ratio", "mfvi (2)"] < 1.0
    assert table.loc["gap", "mfvi"] == pytest.approx(fits["mfvi"].loglik_ - fits["mfvi"].elbo_)
    assert np.isnan(table.loc["elbo", "em"])
    assert fl.compare(fits["em"], names=["EM"]).columns == ["EM"]
    with pytest.raises(ValueError, match="at least one"):
        fl.compare()
    with pytest.raises(TypeError, match="WideLMM"):
        fl.compare(fl.WideLMM())
    with pytest.raises(ValueError, match="different data"):
        fl.compare(fits["em"], fl.WideLMM(reml=True).fit(X[:, :5], y))


def test_pictures(fits):
    _, ax = plt.subplots()
    assert fl.plot_trace(fits["mfvi"], fits["em"], ax=ax) is ax
    assert set(ax.fastlmm_vi_data["fit"]) == {"mfvi", "em"}
    for axes, columns in (
        (fl.plot_trace(fits["em"], optimum=fits["newton"].loglik_), ["fit", "iteration", "loglik", "elbo", "gap"]),
        (fl.plot_gap(fits["mfvi"]), ["fit", "iteration", "gap"]),
        (fl.plot_variance_path(fits["em"], fits["mfvi"]), ["fit", "iteration", "sigma2_beta", "sigma2_e"]),
        (fl.plot_omega(fits["newton"], fits["mfvi"]), ["fit", "parameter", "estimate", "lower", "upper"]),
        (fl.plot_compare(fits["newton"], fits["mfvi"]), ["newton", "mfvi"]),
        (fl.plot_variances(fits["newton"], fits["same"]), ["ratio"]),
    ):
        assert list(axes.fastlmm_vi_data.columns) == columns
        assert axes.get_ylabel()
        assert len(axes.fastlmm_vi_data) > 0
    line = fl.plot_gap(fits["mfvi"]).get_lines()[0]
    np.testing.assert_array_equal(line.get_ydata(), fits["mfvi"].trace_["gap"])
    with pytest.raises(ValueError, match="at least one fit"):
        fl.plot_trace()
    with pytest.raises(ValueError, match="no ELBO"):
        fl.plot_gap(fits["em"])
    zero = fl.WideLMM(reml=True).fit(np.ones((40, 3)), y)
    with pytest.raises(ValueError, match="no ratio"):
        fl.plot_variances(zero, zero)


@pytest.fixture(scope="module")
def bayes():
    return [fl.BayesWideLMM(engine).fit(X, y, Z[:, 1:]) for engine in ("quadrature", "mfvi")]


@pytest.mark.parametrize("parameter", ["sigma2_beta", "sigma2_e", "pve"])
def test_marginals(bayes, fits, parameter):
    ax = fl.plot_marginals(*bayes, fits["reml"], parameter=parameter)
    data = ax.fastlmm_vi_data
    assert list(data.columns) == ["fit", "parameter", "x", "density"]
    assert list(dict.fromkeys(data["fit"])) == ["quadrature", "mfvi", "reml"]
    exact = data[data["fit"] == "quadrature"]
    inside = bayes[0].fit_.theta.quantile(parameter, [0.05, 0.95])
    held = exact["x"].between(*inside)
    assert np.trapezoid(exact["density"][held], exact["x"][held]) == pytest.approx(0.9, abs=0.01)
    (line,) = data.loc[data["fit"] == "reml", "x"]
    assert line == getattr(fits["reml"], f"{parameter}_")
    lo, hi = ax.get_xlim()
    assert lo < inside[0] < inside[1] < hi


def test_marginals_of_points_alone(fits):
    ax = fl.plot_marginals(fits["newton"], fits["reml"], names=["ML", "REML"])
    assert ax.fastlmm_vi_data["density"].isna().all()
    with pytest.raises(ValueError, match="parameter='h2' is not known: choose 'sigma2_beta', 'sigma2_e', 'pve'"):
        fl.plot_marginals(fits["newton"], parameter="h2")


def test_bayesian_fits_beside_others(bayes, fits):
    table = fl.compare(fits["newton"], *bayes)
    assert list(table.columns) == ["newton", "quadrature", "mfvi"]
    assert table.loc["log_evidence", "quadrature"] == bayes[0].log_evidence_
    assert np.isnan(table.loc["log_evidence", "mfvi"])
    assert np.isnan(table.loc["gap", "mfvi"])
    assert "log_evidence" not in fl.compare(fits["newton"]).index
    assert (fl.plot_omega(fits["newton"], bayes[0]).fastlmm_vi_data["lower"] < 10).all()
    with pytest.raises(ValueError, match="has no ELBO of the log-likelihood"):
        fl.plot_gap(bayes[1])
