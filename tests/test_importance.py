"""Pareto-smoothed weights, leave-one-out and WAIC: against ArviZ and closed forms; ArviZ's containers."""

import numpy as np
import pytest
from problems import needs_bayes
from scipy import stats

from fastlmm_vi import elpd, pareto
from fastlmm_vi.inference_data import import_arviz, inference_data


def arviz_psis(ratios):
    """Weights and k̂ by ArviZ, and how near ours must be: the tail of version 1 is one draw shorter."""
    az = import_arviz()
    if az.__version__.startswith("0."):
        return *az.psislw(ratios.copy()), 1e-9
    from arviz_stats.base import array_stats

    return *array_stats.psislw(-ratios), 0.02  # of the log-likelihoods that are left out


def ratios(df, size, seed=0):
    """Draws of a normal distribution weighted as a Student t: the fewer degrees of freedom, the heavier the tail."""
    x = np.random.default_rng(seed).normal(size=size)
    return x, stats.t(df).logpdf(x) - stats.norm.logpdf(x)


@needs_bayes
@pytest.mark.parametrize("size", [60, 1000, 20_000])
@pytest.mark.parametrize("df", [2, 8, 100])
def test_smoothing_against_arviz(df, size):
    found, (weights, k, near) = pareto.smooth(ratios(df, size)[1]), arviz_psis(ratios(df, size)[1])
    assert found.k == pytest.approx(float(k), abs=near)
    np.testing.assert_allclose(found.log_weights, weights, atol=2 * near)


def test_tail_of_a_known_shape():
    """Ratios that are themselves Pareto of shape k."""
    for k in (0.2, 0.5, 0.9):
        x = stats.genpareto(k).rvs(200_000, random_state=0)
        assert pareto.smooth(np.log(x)).k == pytest.approx(k, abs=0.1)
        excess = np.sort(x)
        assert pareto.fit_tail(excess)[0] == pytest.approx(k, abs=0.02)
        assert pareto.fit_tail(7.0 * excess)[1] == pytest.approx(7.0, rel=0.02)
        np.testing.assert_allclose(
            pareto.tail_quantiles(np.array([0.1, 0.9]), k, 3.0), stats.genpareto(k, 0, 3).ppf([0.1, 0.9])
        )
    np.testing.assert_allclose(pareto.tail_quantiles(np.array([0.9]), 0.0, 3.0), stats.expon(0, 3).ppf(0.9))


def test_weighted_means_are_those_of_the_target():
    """Draws of a t with 5 degrees of freedom, weighted as normal ones: bounded ratios."""
    x = stats.t(5).rvs(50_000, random_state=1)
    found = pareto.smooth(stats.norm.logpdf(x) - stats.t(5).logpdf(x) + 1234.5)
    w = np.exp(found.log_weights)
    assert w.sum() == pytest.approx(1.0, rel=1e-12)
    assert found.k < 0.5
    assert 1.0 / (w**2).sum() == pytest.approx(found.ess)
    assert 0.5 * x.size < found.ess < x.size
    error = np.sqrt((w**2 * x**2).sum())
    assert w @ x == pytest.approx(0.0, abs=5 * error)
    assert w @ x**2 == pytest.approx(1.0, abs=5 * np.sqrt((w**2 * (x**2 - 1) ** 2).sum()))


def test_limits_of_smoothing():
    same = pareto.smooth(np.full(100, -7.0))
    assert same.k == -np.inf
    np.testing.assert_allclose(np.exp(same.log_weights), 0.01)
    few = pareto.smooth([0.0, -1.0, -2.0])
    assert few.k == np.inf
    np.testing.assert_allclose(few.log_weights, np.array([0.0, -1.0, -2.0]) - np.log(np.exp([0.0, -1.0, -2.0]).sum()))
    one = pareto.smooth(np.r_[0.0, np.full(99, -np.inf)])
    assert one.k == np.inf
    assert one.ess == pytest.approx(1.0)
    shifted = pareto.smooth(ratios(8, 500)[1] + 1e3)
    np.testing.assert_allclose(shifted.log_weights, pareto.smooth(ratios(8, 500)[1]).log_weights, atol=1e-9)
    assert pareto.threshold(100) == pytest.approx(0.5)
    assert pareto.threshold(10**6) == 0.7


@pytest.mark.parametrize("wrong", [[np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf], [], [[0.0, 1.0]]])
def test_wrong_ratios(wrong):
    with pytest.raises(ValueError, match="log_ratios"):
        pareto.smooth(wrong)


@pytest.fixture(scope="module")
def normal_mean():
    """Draws of the mean of a normal distribution of variance 1 under a flat prior, and the log-likelihood."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=40)
    draws = rng.normal(y.mean(), 1.0 / np.sqrt(40), size=4000)
    return y, draws, stats.norm.logpdf(y, draws[:, None])


def test_leave_one_out_exactly(normal_mean):
    y, _, loglik = normal_mean
    without = (y.sum() - y) / 39
    exact = stats.norm.logpdf(y, without, np.sqrt(1 + 1 / 39))
    found = elpd.loo(loglik)
    np.testing.assert_allclose(found.pointwise, exact, atol=0.02)  # Monte-Carlo error of 4000 draws
    assert found.elpd == pytest.approx(exact.sum(), abs=0.1)
    assert found.se == pytest.approx(np.sqrt(40 * exact.var()), rel=0.01)
    within = stats.norm.logpdf(y, y.mean(), np.sqrt(1 + 1 / 40)).sum()
    assert found.p == pytest.approx(within - exact.sum(), abs=0.1)
    assert found.reliable
    assert "elpd (loo)" in str(found)
    assert "not reliable" not in str(found)


def test_waic_is_close_to_leave_one_out(normal_mean):
    loglik = normal_mean[2]
    found = elpd.waic(loglik)
    assert found.elpd == pytest.approx(elpd.loo(loglik).elpd, abs=0.1)
    assert found.p == pytest.approx(loglik.var(axis=0, ddof=1).sum(), rel=1e-10)
    assert found.k is None


def test_weighted_draws(normal_mean):
    """Draws of a wider distribution, weighted: the same within Monte-Carlo error."""
    y, _, loglik = normal_mean
    x = stats.t(5, y.mean(), 0.2).rvs(8000, random_state=2)
    weights = stats.norm.logpdf(x, y.mean(), 1 / np.sqrt(40)) - stats.t(5, y.mean(), 0.2).logpdf(x)
    values = stats.norm.logpdf(y, x[:, None])
    np.testing.assert_allclose(elpd.loo(values, log_weights=weights).pointwise, elpd.loo(loglik).pointwise, atol=0.03)
    np.testing.assert_allclose(elpd.waic(values, log_weights=weights).elpd, elpd.waic(loglik).elpd, atol=0.2)


def test_an_outlier_is_not_reliable():
    rng = np.random.default_rng(0)
    y = np.r_[rng.normal(size=5), 30.0]
    loglik = stats.norm.logpdf(y, rng.normal(y.mean(), 1 / np.sqrt(6), size=1000)[:, None])
    found = elpd.loo(loglik)
    assert found.k[-1] > found.threshold
    assert found.unreliable >= 1
    assert "not reliable at" in str(found)
    assert elpd.waic(loglik).unreliable >= 1


@needs_bayes
def test_loo_against_arviz(normal_mean):
    az, loglik = import_arviz(), normal_mean[2].reshape(4, 1000, 40)
    data = inference_data({"posterior": {"mu": normal_mean[1].reshape(4, 1000)}, "log_likelihood": {"y": loglik}})
    theirs, ours = az.loo(data, pointwise=True, reff=1.0), elpd.loo(normal_mean[2])
    old = az.__version__.startswith("0.")
    assert float(theirs.elpd_loo if old else theirs.elpd) == pytest.approx(ours.elpd, abs=1e-8 if old else 1e-3)
    assert float(theirs.se) == pytest.approx(ours.se * (1.0 if old else np.sqrt(40 / 39)), rel=1e-8 if old else 1e-3)
    np.testing.assert_allclose(np.asarray(theirs.pareto_k), ours.k, atol=1e-8 if old else 0.02)


def test_wrong_log_likelihoods():
    with pytest.raises(ValueError, match="log_likelihood has shape"):
        elpd.loo(np.zeros(5))
    with pytest.raises(ValueError, match="finite: False"):
        elpd.waic(np.full((5, 2), np.nan))
    with pytest.raises(ValueError, match="log_weights has shape"):
        elpd.loo(np.zeros((5, 2)), log_weights=np.zeros(2))


@needs_bayes
def test_container():
    rng = np.random.default_rng(0)
    b, sigma, y = rng.normal(size=(2, 50, 3)), rng.normal(size=(2, 50)), np.arange(4.0)
    data = inference_data(
        {
            "posterior": {"b": b, "sigma": sigma},
            "posterior_predictive": {"y": rng.normal(size=(2, 50, 4))},
            "log_likelihood": {"y": rng.normal(size=(2, 50, 4))},
            "sample_stats": {"diverging": np.zeros((2, 50), dtype=bool)},
            "warmup_posterior": {"sigma": sigma[:, :7]},
            "observed_data": {"y": y},
            "constant_data": {"x": y},
        },
        coords={"effect": ["Intercept", "x", "z"], "row": np.arange(4)},
        dims={"b": ["effect"], "y": ["row"], "x": ["row"]},
        attributes={"formula": "y ~ x", "method": "nuts"},
    )
    np.testing.assert_array_equal(data["posterior"]["b"].sel(effect="x").values, b[:, :, 1])
    np.testing.assert_array_equal(data["posterior"]["sigma"].values, sigma)
    np.testing.assert_array_equal(data["observed_data"]["y"].values, y)
    assert data["posterior_predictive"]["y"].dims == ("chain", "draw", "row")
    assert data["constant_data"]["x"].dims == ("row",)
    assert data["warmup_posterior"]["sigma"].shape == (2, 7)
    assert data.attrs["formula"] == "y ~ x"
    assert data.attrs["method"] == "nuts"


@needs_bayes
def test_containers_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="Group 'posteriors' is not known"):
        inference_data({"posteriors": {"b": np.zeros((2, 3))}})
    with pytest.raises(ValueError, match=r"posterior\['b'\] has shape \(3,\): expected \(chain, draw\)"):
        inference_data({"posterior": {"b": np.zeros(3)}})
    with pytest.raises(ValueError, match=r"expected \(chain, draw, effect\)"):
        inference_data({"posterior": {"b": np.zeros((2, 3))}}, dims={"b": ["effect"]})
    with pytest.raises(ValueError, match="2 entries along 'effect', whose coords have 1"):
        inference_data({"posterior": {"b": np.zeros((2, 3, 2))}}, dims={"b": ["effect"]}, coords={"effect": ["x"]})


def test_without_arviz(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "arviz", None)
    with pytest.raises(ImportError, match=r"fastlmm_vi\[bayes\]"):
        inference_data({})
