"""The grouped model held against optima to 18 digits, and NIST's hard one-way data."""

import json

import grouped_problems as problems
import numpy as np
import pandas as pd
import pytest
from problems import REFERENCES, needs_references

from fastlmm_vi import Status, lmm

pytestmark = needs_references
MODELS = problems.reference_models() if REFERENCES.is_dir() else {}
NIST = json.loads((REFERENCES / "nist_anova.json").read_text()) if REFERENCES.is_dir() else {}


def numbers(values):
    return np.atleast_1d(np.asarray(values, dtype=float))


@pytest.mark.parametrize("method", ["reml", "ml"])
@pytest.mark.parametrize("name", MODELS)
def test_optimum(name, method):
    model = MODELS[name]
    fit = lmm(model["formula"], problems.reference_frame(model), method=method)
    names = model["xnames"]
    assert list(fit.fixed_names) == ([names] if isinstance(names, str) else names)
    if "exact" not in model:  # to lme4's own digits
        expected = model[f"{method.upper()}_default"]
        assert -2 * fit.criterion == pytest.approx(expected["criterion"], abs=1e-6)
        np.testing.assert_allclose(fit.theta, numbers(expected["theta"]), atol=1e-5)
        np.testing.assert_allclose(fit.fixed_effects, list(expected["fixef"].values()), rtol=1e-4)
        return
    exact = model["exact"][method.upper()]
    large = model["nobs"] > 10_000  # its exact block is in float64
    assert -2 * fit.criterion == pytest.approx(float(exact["criterion"]), abs=1e-6 if large else 1e-8)
    np.testing.assert_allclose(fit.theta, numbers(exact["theta"]), atol=1e-8)
    np.testing.assert_allclose(fit.sigma, float(exact["sigma"]), rtol=1e-9)
    np.testing.assert_allclose(fit.fixed_effects, numbers(exact["beta"]), rtol=1e-9)
    if "se" in exact:
        np.testing.assert_allclose(fit.se, numbers(exact["se"]), rtol=1e-8)
    effects = np.concatenate([frame.to_numpy().ravel() for frame in fit.random_effects.values()])
    assert effects @ effects == pytest.approx(exact["blup_sumsq"], rel=1e-8, abs=1e-30)
    if "condvar_diag_sum" in exact:
        variances = [np.einsum("vii->", blocks) for blocks in fit.random_effects_var.values()]
        assert sum(variances) == pytest.approx(exact["condvar_diag_sum"], rel=1e-8, abs=1e-30)
    if exact.get("hess_dev_theta"):  # empty on the boundary
        check_hessian(fit, np.array(exact["hess_dev_theta"], dtype=float))
    singular = name == "Dyestuff2"
    assert fit.status is (Status.SINGULAR if singular else Status.CONVERGED)
    assert fit.singular == singular
    if singular:
        assert not fit.theta.any()  # exactly on the boundary
        assert not effects.any()


def check_hessian(fit, expected):
    """Our Hessian in φ = (θ, log σ²), σ² profiled out, carried over to lme4's θ: JᵀHJ, as the gradient is zero."""
    terms = fit.data.design.terms
    order = sorted(range(len(terms)), key=lambda k: -len(terms[k].factor.levels))  # lme4's

    def ours(theta):
        roots, at = {}, 0
        for k in order:
            d = len(terms[k].names)
            columns, rows = np.triu_indices(d)
            root = np.zeros((d, d))
            root[rows, columns] = theta[at : at + rows.size]
            at += rows.size
            moved = fit.data.terms[k].M @ root
            roots[k] = np.linalg.cholesky(moved @ moved.T)
        return np.concatenate([roots[k].T[np.triu_indices(len(roots[k]))] for k in fit.likelihood.terms])

    np.testing.assert_allclose(ours(fit.theta), fit.standard_theta, rtol=1e-8)
    step = 1e-6 * np.eye(fit.theta.size)
    J = np.column_stack([(ours(fit.theta + h) - ours(fit.theta - h)) / 2e-6 for h in step])
    H = fit.uncertainty.hessian
    profiled = H[:-1, :-1] - np.outer(H[:-1, -1], H[:-1, -1]) / H[-1, -1]
    np.testing.assert_allclose(J.T @ profiled @ J, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", [k for k, m in MODELS.items() if "exact" in m and m["nobs"] < 10_000])
def test_effects_of_the_first_levels(name):
    """BLUPs and conditional variances in lme4's order: factors by decreasing number of levels."""
    model = MODELS[name]
    fit = lmm(model["formula"], problems.reference_frame(model))
    block, exact = model["REML"], model["exact"]["REML"]
    for expected in block["ranef"] if isinstance(block["ranef"], list) else [block["ranef"]]:
        ours = fit.random_effects[expected["group"]]
        first = [str(level) for level in numbers_or_text(expected["levels_first"])]
        ours = ours.set_axis([str(level) for level in ours.index])
        theirs = np.array(expected["values_first"], dtype=float).reshape(len(first), -1)
        scale = np.abs(theirs).max() + 1e-30
        # lmer's own digits: its θ is off by up to 6e-6
        np.testing.assert_allclose(ours.loc[first], theirs, atol=1e-5 * scale)
    assert exact["sigma"] == pytest.approx(fit.sigma, rel=1e-9)


def numbers_or_text(values):
    return values if isinstance(values, list) else [values]


@pytest.mark.parametrize("method", ["reml", "ml"])
@pytest.mark.parametrize("name", NIST)
def test_nist(name, method):
    """At least ten digits of both variance components, of the numbers as float64 holds them."""
    frame = pd.read_csv(problems.DATA / "nist" / f"{name}.csv")
    fit = lmm("response ~ 1 + (1 | treatment)", frame, method=method)
    expected = NIST[name]["from_float64"]
    variance = fit.varcorr["treatment"].iloc[0, 0]
    assert variance == pytest.approx(float(expected[f"{method}_sb2"]), rel=1e-10, abs=0.0)
    assert fit.sigma**2 == pytest.approx(float(expected[f"{method}_se2"]), rel=1e-10)
    assert fit.fixed_effects.iloc[0] == pytest.approx(float(expected["mean"]), rel=1e-12)
    assert fit.singular == (float(expected[f"{method}_sb2"]) == 0.0)
