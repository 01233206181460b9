"""What must hold on any data: monotone criteria, ELBO ≤ log-likelihood, gap = KL, invariances; random problems."""

import warnings

import naive
import numpy as np
import pytest
from fastlmm_vi_kernels import spectral
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import PROBLEMS, draw

from fastlmm_vi import Status, UnboundedLikelihoodError, WideLMM
from fastlmm_vi.errors import ConvergenceWarning
from fastlmm_vi.wide import blocks, design, householder, information, mean_field, sweeps
from fastlmm_vi.wide.basis import LIKELIHOOD, RESTRICTED
from fastlmm_vi.wide.spectrum import Spectrum

METHODS = {
    "newton": {"method": "newton"},
    "em": {"method": "em", "max_iter": 200},
    "collapsed": {"method": "mfvi", "solver": "collapsed"},
    "collapsed_plain": {"method": "mfvi", "solver": "collapsed", "accelerate": False, "max_iter": 200},
    "sweep": {"method": "mfvi", "solver": "sweep", "max_iter": 500},
    "sweep_plain": {"method": "mfvi", "solver": "sweep", "accelerate": False, "max_iter": 100},
    "sweep_loglik": {"method": "mfvi", "solver": "sweep", "theta_by": "loglik", "max_iter": 500},
}


@st.composite
def problems(draw_value):
    n = draw_value(st.integers(8, 40))
    p = draw_value(st.sampled_from([1, 2, n // 2, n - 1, n, n + 1, 2 * n, 80]))
    c = draw_value(st.integers(0, 3))
    rank = draw_value(st.sampled_from([None, None, 1, 3]))
    return draw(
        draw_value(st.integers(0, 10**6)),
        n,
        p,
        c,
        signal=draw_value(st.sampled_from([0.05, 0.5, 0.95])),
        rank=None if rank is None or rank > p else rank,
        constant_column=draw_value(st.booleans()),
        scale=draw_value(st.sampled_from([1e-4, 1.0, 1e3])),
    )


def fit(problem, *, spectrum=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return WideLMM(fit_intercept=False, **options).fit(problem.X, problem.y, problem.Z, spectrum=spectrum)


def fit_or_skip(problem, **options):
    """Problems whose likelihood is unbounded without an interior maximum have no fit: that error is tested apart."""
    try:
        return fit(problem, **options)
    except UnboundedLikelihoodError:
        assume(False)


@settings(max_examples=60, deadline=None)
@given(problem=problems(), name=st.sampled_from(sorted(METHODS)))
def test_trace_invariants(problem, name):
    model = fit_or_skip(problem, **METHODS[name])
    trace, criterion = model.trace_, model.fit_.trace.criterion
    size = 1.0 + np.abs(criterion).max()
    assert (np.diff(criterion) >= -1e-11 * size).all()
    if model.elbo_ is not None:
        assert (trace["elbo"] <= trace["loglik"] + 1e-9 * size).all()
        assert (np.diff(trace["elbo"]) >= -1e-11 * size).all()
    assert criterion[-1] == pytest.approx(model.criterion_, abs=1e-9 * size)
    # Two ways to the same number; where σ²_e is at its floor V is singular to 1e-10 and they share fewer digits.
    assert trace["loglik"].iloc[-1] == pytest.approx(model.loglik_, abs=1e-7 * size)
    assert (trace["sigma2_beta"] >= 0).all()
    assert (trace["sigma2_e"] > 0).all()
    finite = [model.coef_, model.omega_, model.beta_var_, model.loglik_, model.criterion_, model.pve_]
    assert all(np.isfinite(value).all() for value in finite)


@settings(max_examples=40, deadline=None)
@given(problem=problems(), accelerate=st.booleans(), iterations=st.integers(1, 4))
def test_gap_is_kl_at_unconverged_iterates(problem, accelerate, iterations):
    data = design.build(problem.X, problem.y, problem.Z, fit_intercept=False, standardize=False)
    spectrum = Spectrum.of(problem.X)
    rotated = spectrum.rotate(data)
    half = problem.y.var() / 2
    run = sweeps.ascend(
        data,
        blocks.Columns(data.features),
        accelerate=accelerate,
        fixed=None,
        start=(half / np.mean(problem.X**2) / problem.X.shape[1], half),
        tol=1e-300,
        max_iter=iterations,
        report=lambda *_: None,
    )
    s = run.state
    assume(s.sigma2_beta > 0 and s.sigma2_e > 1e-8 * half)
    loglik = spectral.marginal_loglik(s.sigma2_beta, s.sigma2_e, s.a, *rotated)
    kl = mean_field.kl_to_posterior(data, spectrum, s.mean, s.spread, s.sigma2_beta, s.sigma2_e, s.a)
    assert loglik - run.elbo[-1] == pytest.approx(kl, abs=1e-8, rel=1e-8)


@pytest.mark.parametrize("name", PROBLEMS)
def test_solvers_agree_and_the_gap_has_its_short_form(name):
    problem = PROBLEMS[name]
    collapsed = fit(problem, method="mfvi", solver="collapsed")
    swept = fit(problem, method="mfvi", solver="sweep")
    assert collapsed.converged_
    assert swept.converged_
    assert swept.elbo_ == pytest.approx(collapsed.elbo_, abs=1e-6)
    np.testing.assert_allclose(swept.sigma2_beta_, collapsed.sigma2_beta_, rtol=1e-4, atol=1e-12)
    spectrum = Spectrum.of(problem.X)
    for model, tolerance in ((collapsed, 1e-8), (swept, 1e-6)):
        gamma = np.array([model.sigma2_beta_ / model.sigma2_e_])
        norms = spectrum.features.column_sq_norms()
        short = spectral.mean_field_gap(gamma, norms, spectrum.eigenvalues)[0]
        assert model.fit_.gap == pytest.approx(short, abs=tolerance)


@pytest.mark.parametrize("name", PROBLEMS)
def test_theta_by_loglik_keeps_the_exact_theta_and_mean(name):
    problem = PROBLEMS[name]
    exact = fit(problem)
    for solver in ("collapsed", "sweep"):
        model = fit(problem, method="mfvi", theta_by="loglik", solver=solver)
        assert model.sigma2_beta_ == pytest.approx(exact.sigma2_beta_, rel=1e-12)
        assert model.sigma2_e_ == pytest.approx(exact.sigma2_e_, rel=1e-12)
        assert model.criterion_ == pytest.approx(exact.loglik_, abs=1e-9)
        np.testing.assert_allclose(model.omega_, exact.omega_, rtol=1e-12)
        sd = np.sqrt(exact.beta_var_).max()
        np.testing.assert_allclose(model.coef_, exact.coef_, atol=1e-4 * sd + 1e-12)
        assert (model.beta_var_ <= exact.beta_var_ * (1 + 1e-9) + 1e-300).all()
        assert model.elbo_ <= exact.loglik_ + 1e-9
        np.testing.assert_allclose(model.sigma2_beta_se_, exact.sigma2_beta_se_, rtol=1e-9)


def test_orthogonal_features_make_mean_field_exact():
    problem = draw(3, 40, 12, 2)
    Q, _ = np.linalg.qr(np.column_stack([problem.Z, problem.X]))
    X = 5.0 * Q[:, 2:]
    problem = problem._replace(X=X, y=problem.Z.sum(axis=1) + X @ np.full(12, 0.5) + problem.y)
    exact, model = fit(problem), fit(problem, method="mfvi")
    assert model.fit_.gap == pytest.approx(0.0, abs=1e-10)
    np.testing.assert_allclose(model.sigma2_beta_, exact.sigma2_beta_, rtol=1e-8)
    np.testing.assert_allclose(model.beta_var_, exact.beta_var_, rtol=1e-8)


@pytest.mark.parametrize("options", [{}, {"reml": True}, {"method": "em"}, {"method": "mfvi"}], ids=str)
@pytest.mark.parametrize("name", ["wide", "tall"])
def test_invariances(name, options):
    y, Z, X = problem = PROBLEMS[name]
    n, c = Z.shape
    model = fit(problem, **options)
    # An EM fit ends within its tolerance of 1e-6, the others at rounding.
    rtol = 3e-6 if options.get("method") == "em" else 1e-8
    rng = np.random.default_rng(0)

    rows, columns = rng.permutation(n), rng.permutation(X.shape[1])
    other = fit(problem._replace(y=y[rows], Z=Z[rows], X=X[rows][:, columns]), **options)
    assert other.criterion_ == pytest.approx(model.criterion_, abs=1e-8)
    np.testing.assert_allclose(other.coef_, model.coef_[columns], rtol=rtol, atol=rtol)
    np.testing.assert_allclose(other.beta_var_, model.beta_var_[columns], rtol=rtol)

    for unit in (1e-6, 1e5):
        other = fit(problem._replace(y=unit * y), **options)
        degrees = n - c if options.get("reml") else n
        assert other.criterion_ == pytest.approx(model.criterion_ - degrees * np.log(unit), rel=1e-9)
        np.testing.assert_allclose(other.sigma2_beta_, unit**2 * model.sigma2_beta_, rtol=rtol)
        np.testing.assert_allclose(other.sigma2_e_, unit**2 * model.sigma2_e_, rtol=rtol)

    other = fit(problem._replace(y=y + Z @ np.full(c, 3.0)), **options)
    np.testing.assert_allclose(other.omega_, model.omega_ + 3.0, rtol=rtol)
    np.testing.assert_allclose(other.sigma2_beta_, model.sigma2_beta_, rtol=rtol)

    # EM starts from var(y)/2 for both variances, on which the unit of X has a bearing, its optimum has not.
    other = fit(problem._replace(X=100.0 * X), **options)
    np.testing.assert_allclose(other.sigma2_beta_, 1e-4 * model.sigma2_beta_, rtol=rtol)
    assert other.criterion_ == pytest.approx(model.criterion_, abs=1e-8)

    if options.get("method") != "mfvi":  # mean field is not invariant to a rotation of β
        rotation, _ = np.linalg.qr(rng.normal(size=(X.shape[1], X.shape[1])))
        other = fit(problem._replace(X=X @ rotation), **options)
        assert other.criterion_ == pytest.approx(model.criterion_, abs=1e-8)
        np.testing.assert_allclose(other.coef_, rotation.T @ model.coef_, rtol=rtol, atol=rtol)

    turn, _ = np.linalg.qr(rng.normal(size=(n, n)))
    other = fit(problem._replace(y=turn @ y, Z=turn @ Z, X=turn @ X), **options)
    assert other.criterion_ == pytest.approx(model.criterion_, abs=1e-8)
    np.testing.assert_allclose(other.coef_, model.coef_, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("offset", [30.0, 1000.0])
def test_reml_with_an_intercept_does_not_see_the_means_of_x(offset):
    problem = PROBLEMS["wide"]
    model, shifted = (WideLMM(reml=True).fit(X, problem.y) for X in (problem.X, problem.X + offset))
    # The Gram matrix holds n · offset² of its own size beside what matters.
    rtol = 1e-14 * 40 * offset**2
    assert shifted.criterion_ == pytest.approx(model.criterion_, rel=rtol)
    np.testing.assert_allclose(shifted.sigma2_e_, model.sigma2_e_, rtol=max(10 * rtol, 1e-8))


@settings(max_examples=25, deadline=None)
@given(problem=problems(), reml=st.booleans())
def test_newton_is_at_the_top_of_a_dense_scan(problem, reml):
    model = fit_or_skip(problem, reml=reml)
    assume(model.status_ in (Status.CONVERGED, Status.ZERO_SIGMA2_BETA))
    data = design.build(problem.X, problem.y, problem.Z, fit_intercept=False, standardize=False)
    rotated = Spectrum.of(problem.X).rotate(data)
    assume(rotated.d.any())
    smallest, largest = rotated.extremes
    criterion = RESTRICTED if reml else LIKELIHOOD
    highest = max(rotated.at(criterion, gamma).value for gamma in np.geomspace(1e-6 / largest, 1e5 / smallest, 3000))
    shift = data.log_abs_R if reml else 0.0
    assert model.criterion_ + shift >= highest - 1e-9 * (1 + abs(highest))


@pytest.mark.parametrize("name", ["wide", "tall", "rank_deficient_wide"])
def test_em_ends_where_newton_does(name):
    problem = PROBLEMS[name]
    em, newton = fit(problem, method="em"), fit(problem)
    assert em.converged_
    np.testing.assert_allclose(em.sigma2_beta_, newton.sigma2_beta_, rtol=1e-4)
    assert em.loglik_ == pytest.approx(newton.loglik_, abs=1e-7)


def test_em_that_stops_early_says_how_far_it_is():
    with pytest.warns(ConvergenceWarning, match=r"times the optimum .* method='newton'"):
        model = WideLMM("em", max_iter=5, fit_intercept=False).fit(*[PROBLEMS["wide"][i] for i in (2, 0, 1)])
    assert not model.converged_
    assert model.n_iter_ == 5
    assert np.isnan(model.sigma2_beta_se_)
    assert "not at the optimum" in model.fit_.se_note


def test_plain_variational_em_reaches_the_same_optimum():
    problem = PROBLEMS["tall"]
    optimum = fit(problem, method="mfvi")
    for solver in ("collapsed", "sweep"):
        plain = fit(problem, method="mfvi", solver=solver, accelerate=False)
        assert plain.converged_
        np.testing.assert_allclose(plain.sigma2_beta_, optimum.sigma2_beta_, rtol=1e-4)


def test_reml_is_bayesian_ridge_on_contrasts():
    from sklearn.linear_model import BayesianRidge

    y, Z, X = problem = PROBLEMS["wide"]
    model = fit(problem, reml=True)
    Xc, yc = naive.contrasts(y, Z, X)
    ridge = BayesianRidge(
        fit_intercept=False, alpha_1=0, alpha_2=0, lambda_1=0, lambda_2=0, tol=1e-14, max_iter=100_000
    ).fit(Xc, yc)
    np.testing.assert_allclose(1 / ridge.lambda_, model.sigma2_beta_, rtol=1e-10)
    np.testing.assert_allclose(1 / ridge.alpha_, model.sigma2_e_, rtol=1e-10)
    np.testing.assert_allclose(ridge.coef_, model.coef_, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"reml": True}], ids=str)
@pytest.mark.parametrize("name", ["wide", "tall"])
def test_pve_and_its_standard_error(name, options):
    y, Z, X = problem = PROBLEMS[name]
    model = fit(problem, **options)
    theta = np.array([model.sigma2_beta_, model.sigma2_e_])
    assert model.pve_ == pytest.approx(naive.pve(Z, X, *theta), rel=1e-10)
    steps = 1e-5 * np.diag(theta)
    gradient = [(naive.pve(Z, X, *(theta + h)) - naive.pve(Z, X, *(theta - h))) / (2 * h.sum()) for h in steps]
    rotated = Spectrum.of(X).rotate(design.build(X, y, Z, fit_intercept=False, standardize=False))
    covariance = information.observed(rotated, *theta, reml=bool(options)).variances
    assert model.pve_se_ == pytest.approx(np.sqrt(gradient @ covariance @ gradient), rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"reml": True}, {"method": "mfvi"}], ids=str)
def test_a_large_matrix_goes_through_a_band_to_the_same_fit(options, monkeypatch):
    problem = draw(1, 150, 400, 5)
    once = fit(problem, **options)
    monkeypatch.setattr(householder, "TWO_STAGES", 100)
    banded = fit(problem, **options)
    for name in ("loglik_", "sigma2_beta_", "sigma2_e_", "coef_", "beta_var_", "omega_se_"):
        np.testing.assert_allclose(getattr(banded, name), getattr(once, name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("precision", ["float32-gram", "float32"])
@pytest.mark.parametrize("name", ["wide", "tall", "constant_column", "rank_deficient_wide"])
@pytest.mark.parametrize("options", [{"reml": True}, {"method": "em"}, {"method": "mfvi"}], ids=str)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_single_precision_stays_within_its_bound(name, options, precision):
    problem = PROBLEMS[name]
    double, single = fit(problem, **options), fit(problem, precision=precision, **options)
    K = problem.X @ problem.X.T
    gamma = double.sigma2_beta_ / double.sigma2_e_
    bound = 1e-6 * gamma * len(K) * np.linalg.norm(K, 2)
    again = fit(problem, precision=precision, spectrum=Spectrum.of(problem.X, precision=precision), **options)
    assert again.criterion_ == pytest.approx(single.criterion_, abs=bound + 1e-6)
    assert single.status_ is double.status_
    assert "single precision" in single.fit_.summary()
    assert abs(single.criterion_ - double.criterion_) <= bound + 1e-6
    assert single.coef_.dtype == single.beta_var_.dtype == np.float64
    np.testing.assert_allclose(single.coef_, double.coef_, atol=1e-3 * np.abs(double.coef_).max() + 1e-12)


@pytest.mark.parametrize("noise", [0.0, 1e-8])
@pytest.mark.parametrize("name", ["low rank", "graded", "centred", "repeated rows"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_singular_features_that_reproduce_y_give_one_fit_by_either_form_of_the_spectrum(name, noise):
    """σ²_e goes to 0 and γ to 1e10 and beyond: what rounding leaves in the null space of X Xᵀ must not be amplified."""
    rng = np.random.default_rng(3)
    low = rng.normal(size=(12, 70))
    X = {
        "low rank": rng.normal(size=(40, 12)) @ low,
        "graded": rng.normal(size=(40, 12)) * np.logspace(0, -3, 12) @ low,
        "centred": (full := rng.normal(size=(40, 70))) - full.mean(axis=0),
        "repeated rows": np.repeat(rng.normal(size=(20, 70)), 2, axis=0),
    }[name]
    y = X @ rng.normal(size=70) + noise * rng.normal(size=40)
    for options in ({"method": "em", "max_iter": 3000}, {"method": "mfvi"}, {"reml": True}):
        try:
            by_vectors = WideLMM(**options).fit(X, y, spectrum=Spectrum.of(X))
        except UnboundedLikelihoodError:
            continue
        once = WideLMM(**options).fit(X, y)
        assert np.isfinite(once.beta_var_).all()
        # The fits end at σ²_e of 1e-28: variances there are the square root of rounding apart, means are not.
        np.testing.assert_allclose(once.coef_, by_vectors.coef_, atol=1e-6 * np.abs(by_vectors.coef_).max())
