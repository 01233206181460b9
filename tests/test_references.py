"""Held against optima to 22 digits that another program found."""

import json

import numpy as np
import pytest
from problems import REFERENCES, SETS, SHARED, needs_references, reference

from fastlmm_vi import Status, WideLMM

pytestmark = [needs_references, pytest.mark.filterwarnings("ignore::UserWarning")]


def fit(problem, **options):
    return WideLMM(fit_intercept=False, **options).fit(problem.X, problem.y, problem.Z)


@pytest.mark.parametrize("reml", [False, True], ids=["ML", "REML"])
@pytest.mark.parametrize("name", SETS)
def test_newton(name, reml):
    problem, block, arrays = reference(name)
    key = "REML" if reml else "ML"
    expected = block[key]
    model = fit(problem, reml=reml)
    assert model.criterion_ == pytest.approx(float(expected["value"]), abs=1e-8)
    assert model.loglik_ == pytest.approx(expected["loglik_dense"], abs=1e-8)
    np.testing.assert_allclose(model.sigma2_beta_, expected["sb2_f"], rtol=1e-7)
    np.testing.assert_allclose(model.sigma2_e_, expected["se2_f"], rtol=1e-7)
    np.testing.assert_allclose(model.omega_, expected["w_f"], rtol=1e-7)
    if name == "w4_null":
        assert model.sigma2_beta_ == 0.0
        assert model.status_ is Status.ZERO_SIGMA2_BETA
        assert not model.coef_.any()
        assert not model.beta_var_.any()
        assert np.isnan(model.sigma2_beta_se_)
        assert np.isnan(model.pve_se_)
        assert "boundary" in model.fit_.se_note
        gls = np.linalg.inv(problem.Z.T @ problem.Z) * model.sigma2_e_
        np.testing.assert_allclose(model.omega_se_, np.sqrt(np.diag(gls)), rtol=1e-10)
        return
    np.testing.assert_allclose(model.coef_, arrays[f"{key}_post_mean"], rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(model.beta_var_, arrays[f"{key}_post_var"], rtol=1e-7)
    variances = [model.sigma2_beta_se_, model.sigma2_e_se_]
    if reml:
        np.testing.assert_allclose(variances, expected["se_vc_observed"], rtol=1e-6)
        np.testing.assert_allclose(model.omega_se_, np.sqrt(np.diag(expected["cov_w_GLS"])), rtol=1e-6)
    else:
        np.testing.assert_allclose([*model.omega_se_, *variances], expected["se_observed"], rtol=1e-6)


@pytest.mark.parametrize("solver", ["sweep", "collapsed"])
@pytest.mark.parametrize("name", SETS)
def test_mean_field(name, solver):
    problem, block, arrays = reference(name)
    expected = block["MFVI"]
    model = fit(problem, method="mfvi", solver=solver)
    rtol = 1e-4 if solver == "sweep" else 1e-7
    assert model.elbo_ == model.criterion_ == pytest.approx(expected["elbo"], abs=1e-6)
    np.testing.assert_allclose(model.sigma2_beta_, expected["sb2_f"], rtol=rtol)
    np.testing.assert_allclose(model.sigma2_e_, expected["se2_f"], rtol=rtol)
    np.testing.assert_allclose(model.omega_, expected["w_f"], rtol=rtol)
    if name == "w4_null":
        assert model.sigma2_beta_ == 0.0
        assert model.status_ is Status.ZERO_SIGMA2_BETA
        return
    assert model.fit_.gap == pytest.approx(
        float(expected["gap_loglik_minus_elbo"]), abs=1e-6 if solver == "sweep" else 1e-8
    )
    np.testing.assert_allclose(model.coef_, arrays["MFVI_q_mean"], rtol=rtol, atol=1e-7)
    np.testing.assert_allclose(model.beta_var_, arrays["MFVI_q_var"], rtol=rtol)


@pytest.mark.parametrize("name", ["w2_tall", "w4_null"])
@pytest.mark.parametrize(
    ("options", "criterion", "key"),
    [
        ({"method": "em"}, "loglik", "EM_trajectory"),
        ({"method": "mfvi", "solver": "collapsed", "accelerate": False}, "elbo", "MFVIEM_trajectory"),
    ],
)
@pytest.mark.filterwarnings("ignore::fastlmm_vi.errors.ConvergenceWarning")
def test_em_follows_the_reference_trajectory(name, options, criterion, key):
    problem, block, _ = reference(name)
    trace = fit(problem, max_iter=60, tol=1e-300, **options).trace_
    at = block["trajectory_iters"]
    got = trace.loc[at, ["sigma2_beta", "sigma2_e", criterion]].to_numpy()
    np.testing.assert_allclose(got, block[key], rtol=1e-11)


@pytest.mark.parametrize("name", ["w1_wide", "w2_tall"])
def test_em_converges_to_the_optimum(name):
    problem, block, _ = reference(name)
    model = fit(problem, method="em")
    assert model.converged_
    np.testing.assert_allclose(model.sigma2_beta_, block["ML"]["sb2_f"], rtol=1e-4)


def test_em_says_how_far_it_is_from_a_boundary_optimum():
    problem, _, _ = reference("w4_null")
    with pytest.warns(match="on its way to the optimum 0"):
        model = fit(problem, method="em")
    assert not model.converged_
    assert model.status_ is Status.NOT_CONVERGED


@pytest.mark.parametrize("environment", [1, 2, 3, 4])
def test_wheat(environment):
    data = np.load(SHARED / "data" / "wide" / "wheat.npz")
    X, y = data["X"].astype(float), data["Y"][:, environment - 1].astype(float)
    block = json.loads((REFERENCES / "wide_real.json").read_text())["results"][f"wheat/environment_{environment}"]
    ml, reml = WideLMM().fit(X, y), WideLMM(reml=True).fit(X, y)
    assert ml.loglik_ == pytest.approx(block["ML"]["loglik"], abs=1e-8)
    assert reml.criterion_ == pytest.approx(block["REML"]["criterion_lme4_convention"], abs=1e-8)
    assert ml.pve_ == pytest.approx(block["ML"]["pve"], abs=1e-6)
    assert reml.pve_ == pytest.approx(block["REML"]["pve"], abs=1e-6)
    for solver in ("collapsed", "sweep"):
        mean_field = WideLMM("mfvi", solver=solver).fit(X, y)
        assert mean_field.elbo_ == pytest.approx(block["MFVI"]["elbo"], abs=1e-6)
        if environment == 1:
            assert mean_field.sigma2_beta_ == 0.0
            assert mean_field.status_ is Status.SHRUNK_TO_ZERO
        else:
            # The reference is itself good to about 1e-6 here.
            np.testing.assert_allclose(mean_field.sigma2_beta_, block["MFVI"]["sigma2_beta"], rtol=1e-5)
            assert mean_field.status_ is Status.SHRUNK
        assert 'theta_by="loglik"' in mean_field.fit_.summary()
