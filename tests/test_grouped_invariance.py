"""No unit, offset, order or name in the data changes a grouped fit: only its units change, as they must."""

import grouped_problems as problems
import numpy as np
import pandas as pd
import pytest
from problems import SHARED
from scipy.stats import special_ortho_group

from fastlmm_vi import lmm

FORMULA = "Reaction ~ Days + (Days | Subject)"
METHODS = ["reml", "ml"]
needs_data = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the data of lme4 lie beside the checkout on development machines only"
)


@pytest.fixture(scope="module")
def sleepstudy():
    return pd.read_csv(problems.DATA / "lme4" / "sleepstudy.csv")


def both(frame, changed, method):
    return lmm(FORMULA, frame, method=method), lmm(FORMULA, changed, method=method)


@needs_data
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [1e-3, 1e3, 1e6])
def test_units_of_a_slope(sleepstudy, factor, method):
    fit, other = both(sleepstudy, sleepstudy.assign(Days=sleepstudy["Days"] * factor), method)
    jacobian = -np.log(factor) if method == "reml" else 0.0  # lme4's REML criterion knows the units of X
    assert other.criterion == pytest.approx(fit.criterion + jacobian, abs=1e-8)
    np.testing.assert_allclose(other.fixed_effects, fit.fixed_effects / [1.0, factor], rtol=1e-9)
    np.testing.assert_allclose(other.se, fit.se / [1.0, factor], rtol=1e-8)
    scale = np.array([1.0, 1.0 / factor])
    np.testing.assert_allclose(other.varcorr["Subject"], fit.varcorr["Subject"] * np.outer(scale, scale), rtol=1e-7)
    np.testing.assert_allclose(other.variances["se"], fit.variances["se"] * [1, 1 / factor, 1, 1], rtol=1e-5)


@needs_data
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shift", [1000.0, -5.0, 1e6])
def test_origin_of_a_slope(sleepstudy, shift, method):
    fit, other = both(sleepstudy, sleepstudy.assign(Days=sleepstudy["Days"] + shift), method)
    assert other.criterion == pytest.approx(fit.criterion, abs=1e-8)
    assert other.loglik == pytest.approx(fit.loglik, abs=1e-8)
    move = np.array([[1.0, -shift], [0.0, 1.0]])
    expected = move @ fit.fixed_effects
    np.testing.assert_allclose(other.fixed_effects, expected, rtol=1e-9)
    covariance = move @ fit.varcorr["Subject"].to_numpy() @ move.T
    np.testing.assert_allclose(other.varcorr["Subject"], covariance, rtol=1e-6)
    np.testing.assert_allclose(other.fitted_values, fit.fitted_values, rtol=1e-7)


@needs_data
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_units_of_the_response(sleepstudy, factor, method):
    fit, other = both(sleepstudy, sleepstudy.assign(Reaction=sleepstudy["Reaction"] * factor), method)
    free = 180 - 2 if method == "reml" else 180
    assert other.criterion == pytest.approx(fit.criterion - free * np.log(factor), abs=1e-8)
    np.testing.assert_allclose(other.theta, fit.theta, rtol=1e-8)
    np.testing.assert_allclose(other.fixed_effects, fit.fixed_effects * factor, rtol=1e-10)
    np.testing.assert_allclose(other.sigma, fit.sigma * factor, rtol=1e-10)


@needs_data
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shift", [1e6, 1e9])
def test_origin_of_the_response(sleepstudy, shift, method):
    moved = sleepstudy["Reaction"] + shift  # rounds: at 1e9 to 1e-7, which moves the criterion by some 1e-10
    exact = sleepstudy.assign(Reaction=moved - shift)
    fit, other = both(exact, sleepstudy.assign(Reaction=moved), method)
    assert other.criterion == pytest.approx(fit.criterion, abs=1e-8)
    np.testing.assert_allclose(other.fixed_effects - [shift, 0.0], fit.fixed_effects, rtol=1e-6)
    np.testing.assert_allclose(other.theta, fit.theta, rtol=1e-8)


@pytest.mark.parametrize("seed", range(12))
def test_order_of_rows_names_of_levels_and_of_terms(seed):
    problem = problems.draw(seed)
    rng = np.random.default_rng(seed)
    fit = lmm(problem.formula, problem.frame, weights=problem.weights)
    order = rng.permutation(len(problem.frame))
    frame = problem.frame.iloc[order].copy()
    for name in "abc":
        if name in frame:
            labels = frame[name].unique()
            frame[name] = frame[name].map(dict(zip(labels, rng.permutation(len(labels)), strict=True)))
    weights = None if problem.weights is None else problem.weights[order]
    response, *terms = problem.formula.replace("~", "+").split(" + (")
    formula = response.replace("+", "~", 1) + "".join(f" + ({term}" for term in reversed(terms))
    other = lmm(formula, frame, weights=weights)
    assert other.status is fit.status
    assert other.criterion == pytest.approx(fit.criterion, abs=1e-8)
    np.testing.assert_allclose(other.fixed_effects, fit.fixed_effects, rtol=1e-6, atol=1e-8)
    # A flat optimum leaves fewer digits to the estimates than to the criterion.
    np.testing.assert_allclose(other.sigma, fit.sigma, rtol=1e-6)
    np.testing.assert_allclose(other.fitted_values.sort_index(), fit.fitted_values.sort_index(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_rotated_columns_of_x(method):
    """Any basis of the same columns of X gives the same fit, and REML differs by log|det| of the map."""
    problem = problems.draw(4)
    rng = np.random.default_rng(0)
    frame = problem.frame.copy()
    map_ = special_ortho_group.rvs(3, random_state=rng) @ np.diag([1.0, 20.0, 0.03])
    frame[["z0", "z1", "z2"]] = frame[["x0", "x1", "x2"]] @ map_
    random = "(1 | a)"
    fit = lmm(f"y ~ x0 + x1 + x2 + {random}", frame, method=method)
    other = lmm(f"y ~ z0 + z1 + z2 + {random}", frame, method=method)
    jacobian = -np.log(abs(np.linalg.det(map_))) if method == "reml" else 0.0
    assert other.criterion == pytest.approx(fit.criterion + jacobian, abs=1e-8)
    np.testing.assert_allclose(map_ @ other.fixed_effects[1:], fit.fixed_effects[1:], rtol=1e-8)
    np.testing.assert_allclose(other.theta, fit.theta, rtol=1e-7)


def test_weights_stand_for_repeated_rows():
    """A row of weight 2 is two rows of mean y: the same β̂, b̂ and θ by ML up to the residual sum within pairs."""
    problem = problems.draw(6)
    frame = problem.frame
    doubled = frame.loc[frame.index.repeat(2)]
    fit = lmm("y ~ x0 + (1 | a)", frame, weights=np.full(len(frame), 2.0))
    plain = lmm("y ~ x0 + (1 | a)", frame)
    # constant weights change the units of σ² alone
    np.testing.assert_allclose(fit.theta * np.sqrt(0.5), plain.theta / 1.0, rtol=1e-7)
    np.testing.assert_allclose(fit.sigma * np.sqrt(0.5), plain.sigma, rtol=1e-8)
    assert fit.criterion == pytest.approx(plain.criterion, abs=1e-8)
    assert len(doubled) == 2 * len(frame)
