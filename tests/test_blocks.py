"""Block mean field: equal to its dense twin, and between mean field and the exact posterior."""

import naive
import numpy as np
import pandas as pd
import pytest
from problems import PROBLEMS, draw

from fastlmm_vi import DataError, WideLMM
from fastlmm_vi.wide import blocks
from fastlmm_vi.wide.storage import DenseFeatures


def fit(problem, **options):
    return WideLMM("mfvi", fit_intercept=False, **options).fit(problem.X, problem.y, problem.Z)


def neighbours(p, size):
    return [np.arange(a, min(a + size, p)) for a in range(0, p, size)]


def groups(p):
    labels = np.array(["abc"[j % 3] for j in range(p)])
    return labels, [np.flatnonzero(labels == name) for name in "abc"]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("size", [2, 7, 1000, "groups"])
@pytest.mark.parametrize("name", ["wide", "tall", "rank_deficient_wide"])
def test_sweeps_covariances_and_predictions_are_those_of_the_dense_twin(name, size, order):
    y, Z, X = PROBLEMS[name]
    p = X.shape[1]
    block_size, parts = groups(p) if size == "groups" else (size, neighbours(p, size))
    q = blocks.factorise(DenseFeatures(np.asarray(X, order=order)), block_size)
    rng = np.random.default_rng(0)
    mean, gamma = rng.normal(size=p), 0.3
    expected = naive.block_sweep(y, Z, X, np.zeros(Z.shape[1]), mean, gamma, parts)
    before, residual = mean.copy(), y - X @ mean
    change = q.sweep(gamma, mean, residual)
    np.testing.assert_allclose(mean, expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(residual, y - X @ mean, atol=1e-10)
    moved = [np.r_[X[:, b] @ (mean - before)[b], (mean - before)[b] / np.sqrt(gamma)] for b in parts]
    assert change == pytest.approx(max(np.linalg.norm(move) for move in moved))
    S = naive.block_covariance(X, gamma, 1.0, parts)
    np.testing.assert_allclose(gamma * q.variances(gamma), np.diag(S), rtol=1e-10)
    new = rng.normal(size=(4, p))
    np.testing.assert_allclose(gamma * q.predictive(gamma, new), np.diag(new @ S @ new.T), rtol=1e-9)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("size", [5, "groups"])
@pytest.mark.parametrize("solver", ["sweep", "collapsed"])
def test_the_elbo_is_that_of_the_dense_twin(solver, size, standardize):
    y, Z, X = problem = draw(3, 40, 24, 2)
    block_size, parts = groups(24) if size == "groups" else (size, neighbours(24, size))
    model = fit(problem, block_size=block_size, solver=solver, standardize=standardize)
    Xs = (X - X.mean(axis=0)) / X.std(axis=0) / np.sqrt(24) if standardize else X
    scale = X.std(axis=0) * np.sqrt(24) if standardize else np.ones(24)
    theta = (model.omega_, model.sigma2_beta_, model.sigma2_e_)
    S = naive.block_covariance(Xs, *theta[1:], parts)
    value = naive.elbo(y, Z, Xs, *theta, model.coef_ * scale, S)
    assert model.elbo_ == pytest.approx(value, abs=1e-6 if solver == "sweep" else 1e-9)
    np.testing.assert_allclose(model.beta_var_, np.diag(S) / scale**2, rtol=1e-8)
    assert (np.diff(model.trace_.elbo) >= -1e-9).all()


@pytest.mark.parametrize("name", ["wide", "rank_deficient_wide", "tall"])
def test_both_solvers_find_the_same_optimum(name):
    problem = PROBLEMS[name]
    collapsed, swept, plain = (
        fit(problem, block_size=4, **options)
        for options in ({"solver": "collapsed"}, {"solver": "sweep"}, {"solver": "sweep", "accelerate": False})
    )
    for other in (swept, plain):
        assert other.elbo_ == pytest.approx(collapsed.elbo_, abs=1e-5)
        np.testing.assert_allclose(other.sigma2_beta_, collapsed.sigma2_beta_, rtol=1e-3)


@pytest.mark.parametrize("n", [30, 90])
def test_nested_blocks_lead_from_mean_field_to_the_exact_posterior(n):
    """At fixed θ the gap falls to 0; with θ learned the ELBO rises to the maximal log-likelihood."""
    problem = draw(5, n, 48, 2)
    exact = WideLMM(fit_intercept=False).fit(problem.X, problem.y, problem.Z)
    sizes = [1, 2, 4, 8, 16, 48]
    gaps = [fit(problem, block_size=size, theta_by="loglik").fit_.gap for size in sizes]
    assert (np.diff(gaps) < 0.0).all()
    assert gaps[-1] == pytest.approx(0.0, abs=1e-10)
    models = [fit(problem, block_size=size) for size in sizes]
    elbos = [model.elbo_ for model in models]
    assert (np.diff(elbos) > 0.0).all()
    assert elbos[-1] == pytest.approx(exact.loglik_, abs=1e-9)
    np.testing.assert_allclose(models[-1].beta_var_, exact.beta_var_, rtol=1e-8)
    np.testing.assert_allclose(models[-1].sigma2_beta_, exact.sigma2_beta_, rtol=1e-8)


def test_the_order_of_labels_and_of_columns_changes_nothing():
    problem = draw(6, 30, 40, 2)
    labels = np.random.default_rng(0).integers(0, 6, size=40)
    shuffled = np.random.default_rng(1).permutation(40)
    one = fit(problem, block_size=labels)
    other = fit(problem._replace(X=problem.X[:, shuffled]), block_size=10 - labels[shuffled])
    assert other.elbo_ == pytest.approx(one.elbo_, rel=1e-12)
    np.testing.assert_allclose(other.coef_, one.coef_[shuffled], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 0}, "whole number"),
        ({"block_size": 2.5}, "whole number"),
        ({"block_size": "ten"}, "whole number"),
        ({"block_size": [1, 2, 3]}, "one label per feature"),
        ({"block_size": [1.0] * 39 + [np.nan]}, "1 missing labels"),
        ({"block_size": ["a"] * 39 + [None]}, "1 missing labels"),
        ({"block_size": 2, "method": "newton"}, "method='mfvi' only"),
    ],
    ids=str,
)
def test_a_bad_block_size_is_refused(options, message):
    problem = draw(6, 30, 40, 2)
    with pytest.raises((ValueError, DataError), match=message):
        WideLMM(**{"method": "mfvi", "fit_intercept": False, **options}).fit(problem.X, problem.y, problem.Z)


def test_a_series_of_labels_is_aligned_by_its_index():
    problem = draw(6, 30, 40, 2)
    frame = pd.DataFrame(problem.X, columns=[f"x{j}" for j in range(40)])
    labels = pd.Series(np.random.default_rng(0).integers(0, 5, size=40), index=frame.columns)
    expected = fit(problem, block_size=labels.to_numpy()).elbo_
    for series in (labels, labels.sample(frac=1.0, random_state=1)):
        model = WideLMM("mfvi", fit_intercept=False, block_size=series).fit(frame, problem.y, problem.Z)
        assert model.elbo_ == pytest.approx(expected, rel=1e-12)
    assert fit(problem, block_size=labels.reset_index(drop=True)).elbo_ == pytest.approx(expected, rel=1e-12)
    with pytest.raises(DataError, match="index is not that of the features"):
        fit(problem, block_size=labels)  # X has no names here
    with pytest.raises(DataError, match="40 missing labels"):
        fit(problem, block_size=pd.Series([pd.NA] * 40))
