"""Every state a fit can end in, on a problem made or found for it."""

import numpy as np
import pytest
import scipy.linalg
from problems import draw

from fastlmm_vi import DataError, Spectrum, Status, UnboundedLikelihoodError, WideLMM
from fastlmm_vi.datasets import make_xyz_twin
from fastlmm_vi.errors import FitWarning


@pytest.fixture(scope="module")
def twin():
    return make_xyz_twin()


def centred(X):
    return X - X.mean(axis=0)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_centred_features_with_an_intercept(twin):
    X = centred(twin.X)
    assert WideLMM(reml=True).fit(X, twin.y, twin.Z).criterion_ == pytest.approx(
        WideLMM(reml=True).fit(twin.X, twin.y, twin.Z).criterion_, abs=1e-8
    )
    newton, em = WideLMM().fit(X, twin.y, twin.Z), WideLMM("em").fit(X, twin.y, twin.Z)
    for model in (newton, em):
        assert model.status_ is Status.UNBOUNDED
        assert model.converged_
        assert "reml=True" in model.fit_.summary()
    np.testing.assert_allclose(em.sigma2_beta_, newton.sigma2_beta_, rtol=1e-4)
    assert 0 < newton.sigma2_beta_se_ < newton.sigma2_beta_
    mean_field = WideLMM("mfvi").fit(X, twin.y, twin.Z)
    swept = WideLMM("mfvi", solver="sweep").fit(X, twin.y, twin.Z)
    assert mean_field.status_ is swept.status_ is Status.SHRUNK
    assert swept.elbo_ == pytest.approx(mean_field.elbo_, abs=1e-6)


def test_em_on_the_twin_converges_to_newton(twin):
    em, newton = (WideLMM(m, fit_intercept=False).fit(twin.X, twin.y, twin.Z) for m in ("em", "newton"))
    assert em.converged_
    np.testing.assert_allclose(em.sigma2_beta_, newton.sigma2_beta_, rtol=1e-4)


def test_unbounded_without_any_centring():
    bounded = draw(0, 60, 55, 10, signal=0.3)
    with pytest.warns(UserWarning, match="grows without end"):
        model = WideLMM(fit_intercept=False).fit(bounded.X, bounded.y, bounded.Z)
    assert model.status_ is Status.UNBOUNDED
    assert model.converged_
    assert WideLMM(reml=True, fit_intercept=False).fit(bounded.X, bounded.y, bounded.Z).status_ is Status.CONVERGED


@pytest.mark.parametrize("options", [{}, {"method": "em"}, {"method": "mfvi"}, {"method": "mfvi", "solver": "sweep"}])
def test_unbounded_and_nothing_to_return(options):
    nothing = draw(0, 60, 55, 10, signal=0.0)
    with pytest.raises(UnboundedLikelihoodError, match="reml=True"):
        WideLMM(fit_intercept=False, **options).fit(nothing.X, nothing.y, nothing.Z)
    model = WideLMM(reml=True, fit_intercept=False).fit(nothing.X, nothing.y, nothing.Z)
    assert model.status_ is Status.ZERO_SIGMA2_BETA


def found(seed):
    """The generator in which the two problems below were searched for."""
    rng = np.random.default_rng(seed)
    n, p = rng.integers(5, 9), rng.integers(2, 20)
    X = rng.normal(size=(n, p)) * np.exp(rng.normal(size=p) * 2)
    return X, rng.standard_t(2, size=n)


def test_two_interior_maxima_of_reml():
    X, y = found(172)
    model = WideLMM(reml=True).fit(X, y)
    values = [mode[2] for mode in model.fit_.modes]
    interior = [mode for mode in model.fit_.modes if 0 < mode[0] / mode[1] < 1e8]
    assert len(interior) == 2
    assert model.status_ is Status.CONVERGED
    assert values == sorted(values, reverse=True)
    assert model.criterion_ == values[0]
    assert "other local maxima" in model.fit_.summary()


def test_boundary_that_beats_its_interior_maximum():
    X, y = found(11)
    model = WideLMM(reml=True).fit(X, y)
    assert model.status_ is Status.ZERO_SIGMA2_BETA
    assert model.sigma2_beta_ == 0.0
    assert any(mode[0] > 0 for mode in model.fit_.modes[1:])


@pytest.mark.parametrize(
    "options", [{}, {"reml": True}, {"method": "em"}, {"method": "mfvi", "solver": "sweep"}], ids=str
)
def test_data_without_noise(options):
    problem = draw(1, 40, 6, 1)
    model = WideLMM(**options).fit(problem.X, 1.0 + problem.X @ np.arange(6.0))
    assert model.status_ is Status.ZERO_SIGMA2_E
    np.testing.assert_allclose(model.coef_, np.arange(6.0), atol=1e-6)
    assert np.isnan(model.sigma2_e_se_)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("X", [np.zeros((30, 4)), np.ones((30, 4))], ids=["zero", "constant"])
@pytest.mark.parametrize(
    "options", [{}, {"reml": True}, {"method": "mfvi"}, {"method": "mfvi", "solver": "sweep"}], ids=str
)
def test_features_that_say_nothing(options, X):
    model = WideLMM(**options).fit(X, np.random.default_rng(0).normal(size=30))
    assert model.status_ is Status.ZERO_SIGMA2_BETA
    assert not model.coef_.any()


def test_no_advice_is_missing():
    assert all(len(status.advice) > 20 for status in Status)
    of_samplers = {"divergent", "heavy_weights", "not_mixed", "interrupted"}
    assert {status.value for status in Status if not status.converged} == {"elbo_fell", "not_converged", *of_samplers}


@pytest.mark.parametrize("options", [{}, {"reml": True}, {"method": "mfvi"}, {"method": "em"}], ids=str)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_one_contrast_is_enough(options):
    """n − c = 1: a tridiagonal matrix of one number."""
    rng = np.random.default_rng(0)
    X, y, Z = rng.normal(size=(12, 30)), rng.normal(size=12), rng.normal(size=(12, 10))
    once = WideLMM(**options).fit(X, y, Z)
    assert np.isfinite(once.loglik_)
    reused = WideLMM(**options).fit(X, y, Z, spectrum=Spectrum.of(X))
    assert once.criterion_ == pytest.approx(reused.criterion_, rel=1e-6)  # θ itself need not be identified


@pytest.mark.parametrize(
    "X", [scipy.linalg.hadamard(64)[:50].astype(float), np.eye(40, 90)], ids=["hadamard", "identity"]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_orthogonal_rows(X):
    """All eigenvalues of X Xᵀ are equal: the two variances are not identified, the log-likelihood is."""
    y = np.random.default_rng(0).normal(size=len(X))
    for options in ({}, {"reml": True}, {"method": "mfvi"}):
        once, reused = WideLMM(**options).fit(X, y), WideLMM(**options).fit(X, y, spectrum=Spectrum.of(X))
        assert once.criterion_ == pytest.approx(reused.criterion_, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-160, 1e-80, 1e80, 1e150, np.inf])
@pytest.mark.parametrize("precision", ["float64", "float32-gram", "float32"])
def test_features_whose_products_are_no_numbers_are_refused(scale, precision):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 50)), rng.normal(size=20)
    for options in ({"reml": True}, {"method": "em"}, {"method": "mfvi", "solver": "sweep"}):
        with pytest.raises(DataError, match="rescale X"):
            WideLMM(precision=precision, **options).fit(X * scale, y)
    with pytest.raises(DataError, match="rescale X"):
        Spectrum.of(X * scale)


def test_single_precision_warns_where_column_means_drown_the_rest():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 300)) + 50.0
    y = (X - 50.0) @ rng.normal(size=300) * 0.05 + rng.normal(size=100)
    with pytest.warns(FitWarning, match="Centre the columns"):
        WideLMM(reml=True, precision="float32-gram").fit(X, y)
    WideLMM(reml=True, precision="float32-gram", standardize=True).fit(X, y)  # no warning


def test_a_spectrum_of_the_same_rows_in_another_order_is_refused():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 80)), rng.normal(size=30)
    order = np.argsort(y)
    with pytest.raises(DataError, match="another X"):
        WideLMM(reml=True).fit(X[order], y[order], spectrum=Spectrum.of(X))
    WideLMM(reml=True).fit(X.copy(), y, spectrum=Spectrum.of(X))
    with pytest.raises(DataError, match="in another precision"):
        WideLMM(reml=True).fit(X, y, spectrum=Spectrum.of(X, precision="float32-gram"))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sweeps_that_did_not_arrive_never_say_they_did():
    """At σ²_e → 0, where given θ lies on the boundary, sweeps converge too slowly to end."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(25, 300))
    y = X @ rng.normal(size=300) * 0.05 + rng.normal(size=25) * 0.3
    options = {"method": "mfvi", "theta_by": "loglik"}
    assert WideLMM(**options, solver="collapsed").fit(X, y).status_ is Status.ZERO_SIGMA2_E
    assert WideLMM(**options, solver="sweep", max_iter=20).fit(X, y).status_ is Status.NOT_CONVERGED


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_predictive_standard_deviations_are_numbers_where_rounding_leaves_less_than_nothing():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 500))
    y = X @ rng.normal(size=500) * 0.05 + rng.normal(size=20) * 0.1
    model = WideLMM(reml=True, precision="float32-gram").fit(X, y)
    assert model.status_ is Status.ZERO_SIGMA2_E
    for values in model.predict(X, return_std=True, interval="mean"):
        assert np.isfinite(values).all()
