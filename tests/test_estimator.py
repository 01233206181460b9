"""scikit-learn's contract, and what its users type on day one."""

import contextlib
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from problems import PROBLEMS, draw
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from fastlmm_vi import DataError, Spectrum, WideLMM

y, Z, X = PROBLEMS["wide"]


@contextlib.contextmanager
def quiet():
    """Centred or standardised features with an intercept make ML unbounded: said by a warning tested elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


COVARIATES = Z[:, 1:]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "estimator",
    [
        WideLMM(),
        WideLMM("em"),
        WideLMM("mfvi"),
        WideLMM("mfvi", solver="sweep"),
        WideLMM(reml=True),
        WideLMM(standardize=True),
    ],
    ids=str,
)
def test_check_estimator(estimator):
    results = check_estimator(estimator, on_fail="raise")
    skipped = {result["check_name"] for result in results if result["status"] == "skipped"}
    assert skipped <= {"check_array_api_input"}  # scikit-learn itself runs it only with SCIPY_ARRAY_API set


def test_pipeline_and_grid_search():
    problem = draw(0, 360, 540, 1, signal=0.5)
    search = GridSearchCV(make_pipeline(StandardScaler(), WideLMM()), {"widelmm__method": ["newton", "mfvi"]}, cv=3)
    with quiet():
        search.fit(problem.X, problem.y)
    assert np.isfinite(search.best_score_)


def test_covariates_are_routed():
    with sklearn.config_context(enable_metadata_routing=True):
        model = WideLMM().set_fit_request(covariates=True).set_predict_request(covariates=True)
        pipeline = make_pipeline(StandardScaler(), model)
        with quiet():
            direct = WideLMM().fit(StandardScaler().fit_transform(X), y, COVARIATES)
        with quiet():
            routed = pipeline.fit(X, y, covariates=COVARIATES)
        np.testing.assert_array_equal(
            routed.predict(X, covariates=COVARIATES), direct.predict(StandardScaler().fit_transform(X), COVARIATES)
        )
        scored = WideLMM(reml=True).set_fit_request(covariates=True).set_score_request(covariates=True)
        with quiet():
            scores = cross_val_score(scored, X, y, params={"covariates": COVARIATES}, cv=3)
        assert scores.shape == (3,)


def test_clone_pickle_and_parameters():
    model = WideLMM("mfvi", theta_by="loglik", standardize=True)
    assert clone(model).get_params() == model.get_params()
    with quiet():
        fitted = model.fit(X, y, COVARIATES)
    again = pickle.loads(pickle.dumps(fitted))
    for want, got in zip(
        fitted.predict(X, COVARIATES, return_std=True), again.predict(X, COVARIATES, return_std=True), strict=True
    ):
        np.testing.assert_array_equal(want, got)
    assert again.status_ is fitted.status_


def test_no_attribute_is_p_by_p():
    model = WideLMM().fit(X, y, COVARIATES)
    _ = model.beta_var_
    p = X.shape[1]

    def arrays(value, seen):
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, np.ndarray):
            yield value
        elif hasattr(value, "__dict__"):
            for inner in vars(value).values():
                yield from arrays(inner, seen)

    found = list(arrays(model, set()))
    assert len(found) > 5
    assert all(array.size < p * p for array in found)


def test_fitting_twice_gives_the_same_bits_and_leaves_the_data_alone():
    X0, y0, C0 = X.copy(), y.copy(), COVARIATES.copy()
    model = WideLMM(standardize=False)
    first = model.fit(X, y, COVARIATES).coef_.copy()
    np.testing.assert_array_equal(model.fit(X, y, COVARIATES).coef_, first)
    np.testing.assert_array_equal(np.asarray(X0), X)
    np.testing.assert_array_equal(y0, y)
    np.testing.assert_array_equal(C0, COVARIATES)


@pytest.mark.parametrize("options", [{}, {"method": "em"}, {"method": "mfvi"}, {"method": "mfvi", "solver": "sweep"}])
def test_memory_order_memmap_and_frames_change_nothing(tmp_path, options):
    model = WideLMM(**options).fit(X, y, COVARIATES)
    np.save(tmp_path / "X.npy", X)
    for other in (np.asfortranarray(X), np.load(tmp_path / "X.npy", mmap_mode="r"), pd.DataFrame(X)):
        again = WideLMM(**options).fit(np.asarray(other) if isinstance(other, np.memmap) else other, y, COVARIATES)
        np.testing.assert_allclose(again.coef_, model.coef_, rtol=1e-7, atol=1e-10)


def test_names_in_and_out():
    frame = pd.DataFrame(X, columns=[f"snp{j}" for j in range(X.shape[1])])
    covariates = pd.DataFrame(COVARIATES, columns=["age", "sex"])
    model = WideLMM(reml=True).fit(frame, pd.Series(y), covariates)
    assert list(model.feature_names_in_[:2]) == ["snp0", "snp1"]
    assert list(model.fit_.to_frame().index) == ["intercept", "age", "sex", "sigma2_beta", "sigma2_e", "pve"]
    assert model.fit_.effects().index[3] == "snp3"
    assert "age" in model.fit_.summary()
    with pytest.raises(ValueError, match="in the same order"):
        model.predict(frame, covariates[["sex", "age"]])


def test_predict_with_uncertainty():
    new = np.random.default_rng(5).normal(size=(7, X.shape[1]))
    C = np.random.default_rng(6).normal(size=(7, 2))
    model = WideLMM().fit(X, y, COVARIATES)
    mean, std = model.predict(new, C, return_std=True)
    S = np.linalg.inv(X.T @ X / model.sigma2_e_ + np.eye(X.shape[1]) / model.sigma2_beta_)
    np.testing.assert_allclose(mean, model.intercept_ + C @ model.omega_ + new @ model.coef_, rtol=1e-12)
    np.testing.assert_allclose(std**2, np.einsum("ij,jk,ik->i", new, S, new) + model.sigma2_e_, rtol=1e-9)


@pytest.mark.parametrize("standardize", [False, True])
def test_intervals_are_the_inverse_of_the_mixed_model_equations(standardize):
    """Henderson's equations, dense: their inverse holds the prediction error variance, ω's uncertainty in it."""
    rng = np.random.default_rng(5)
    new, C = rng.normal(size=(7, X.shape[1])), rng.normal(size=(7, 2))
    model = WideLMM(reml=True, standardize=standardize).fit(X, y, COVARIATES)
    scale = X.std(axis=0) * np.sqrt(X.shape[1]) if standardize else 1.0
    center = X.mean(axis=0) if standardize else 0.0
    W = np.hstack([np.ones((40, 1)), COVARIATES, (X - center) / scale])
    penalty = np.diag(np.r_[np.zeros(3), np.full(X.shape[1], 1 / model.sigma2_beta_)])
    inverse = np.linalg.inv(W.T @ W / model.sigma2_e_ + penalty)
    at = np.hstack([np.ones((7, 1)), C, (new - center) / scale])
    error = np.einsum("ij,jk,ik->i", at, inverse, at)
    for interval, variance in (("mean", error), ("prediction", error + model.sigma2_e_)):
        mean, lower, upper = model.predict(new, C, interval=interval, level=0.9)
        np.testing.assert_allclose(mean, model.predict(new, C))
        np.testing.assert_allclose(upper - lower, 2 * 1.6448536269514722 * np.sqrt(variance), rtol=1e-8)


def test_mean_field_predictions():
    new, C = X[:7] + 0.1, COVARIATES[:7]
    mean_field = WideLMM("mfvi", theta_by="loglik").fit(X, y, COVARIATES)
    _, std = mean_field.predict(new, C, return_std=True)
    np.testing.assert_allclose(std**2, new**2 @ mean_field.beta_var_ + mean_field.sigma2_e_, rtol=1e-12)


def test_tall_predictive_variance():
    tall = PROBLEMS["tall"]
    model = WideLMM(fit_intercept=False).fit(tall.X, tall.y, tall.Z)
    S = np.linalg.inv(tall.X.T @ tall.X / model.sigma2_e_ + np.eye(20) / model.sigma2_beta_)
    _, std = model.predict(tall.X[:5], tall.Z[:5], return_std=True)
    np.testing.assert_allclose(std**2, np.diag(tall.X[:5] @ S @ tall.X[:5].T) + model.sigma2_e_, rtol=1e-10)
    np.testing.assert_allclose(model.beta_var_, np.diag(S), rtol=1e-10)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "options", [{"reml": True}, {"method": "mfvi"}, {"method": "mfvi", "solver": "sweep"}], ids=str
)
def test_standardize_is_standardising_by_hand(options):
    scale = X.std(axis=0) * np.sqrt(X.shape[1])
    by_hand = (X - X.mean(axis=0)) / scale
    a = WideLMM(standardize=True, **options).fit(X, y, COVARIATES)
    b = WideLMM(**options).fit(by_hand, y, COVARIATES)
    np.testing.assert_allclose(a.sigma2_beta_, b.sigma2_beta_, rtol=1e-8)
    np.testing.assert_allclose(a.coef_, b.coef_ / scale, rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(a.beta_var_, b.beta_var_ / scale**2, rtol=1e-8)
    assert np.isnan(a.fit_.intercept_se)
    assert a.fit_.omega_cov[0, 0] ** 0.5 == pytest.approx(b.fit_.intercept_se, rel=1e-8)
    np.testing.assert_allclose(a.predict(X, COVARIATES), b.predict(by_hand, COVARIATES), rtol=1e-8, atol=1e-10)
    stds = (m.predict(D, COVARIATES, return_std=True)[1] for m, D in ((a, X), (b, by_hand)))
    np.testing.assert_allclose(*stds, rtol=1e-8)


def test_standardize_counts_constant_features():
    constant = X.copy()
    constant[:, :3] = 5.0
    model = WideLMM(reml=True, standardize=True).fit(constant, y)
    assert not model.coef_[:3].any()
    assert "3 of 90 features are constant" in model.fit_.summary()


def test_spectrum_is_reused():
    spectrum = Spectrum.of(X)
    for options in ({}, {"reml": True}, {"method": "em"}, {"method": "mfvi"}):
        with quiet():
            a = WideLMM(**options).fit(X, y, COVARIATES, spectrum=spectrum)
            b = WideLMM(**options).fit(X, y, COVARIATES)
        np.testing.assert_allclose(a.coef_, b.coef_, rtol=1e-6)  # optimisers on two roads: eigenvectors and tridiagonal
    with pytest.raises(DataError, match="another X"):
        WideLMM().fit(2 * X, y, spectrum=spectrum)


def test_threads_are_what_n_jobs_says():
    assert WideLMM().fit(X, y).fit_.threads == 1
    assert WideLMM(n_jobs=2).fit(X, y).fit_.threads == 1  # small
    large = np.random.default_rng(0).normal(size=(200, 1500))
    target = large[:, 0] + np.random.default_rng(1).normal(size=200)
    one, two = (WideLMM(n_jobs=n).fit(large, target).fit_ for n in (None, 2))
    assert (one.threads, two.threads) == (1, 2)
    assert WideLMM(n_jobs=-1).fit(large, target).fit_.threads >= 1
    assert two.loglik == pytest.approx(one.loglik, rel=1e-12)


def test_sweeps_without_a_spectrum_say_what_they_cannot_know(monkeypatch):
    from fastlmm_vi.wide import fit

    reference = WideLMM("mfvi", solver="sweep").fit(X, y, COVARIATES)
    monkeypatch.setattr(fit, "LARGEST_SPECTRUM", 10)
    model = WideLMM("mfvi").fit(X, y, COVARIATES)
    assert model.elbo_ == reference.elbo_
    np.testing.assert_array_equal(model.coef_, reference.coef_)
    assert model.pve_ == pytest.approx(reference.pve_, rel=1e-10)
    assert np.isnan(model.loglik_)
    assert model.trace_["gap"].isna().all()
    assert "no spectrum" in model.fit_.se_note
    assert "too large" in model.fit_.summary()
    with pytest.raises(ValueError, match="theta_by"):
        WideLMM("mfvi", theta_by="loglik").fit(X, y)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_silent_unless_verbose(capfd):
    WideLMM("mfvi", solver="sweep").fit(X, y)
    assert capfd.readouterr() == ("", "")
    WideLMM("mfvi", solver="sweep", verbose=1).fit(X, y)
    out, err = capfd.readouterr()
    assert out == ""
    assert "eigenbasis" in err


WRONG = [
    ({"method": "nuts"}, "method='nuts'"),
    ({"solver": "fast"}, "solver='fast'"),
    ({"theta_by": "posterior"}, "theta_by='posterior'"),
    ({"method": "em", "reml": True}, "method='newton'"),
    ({"reml": "yes"}, "reml='yes'"),
    ({"tol": 0.0}, "tol=0.0"),
    ({"max_iter": 0}, "max_iter=0"),
    ({"max_iter": 2.5}, "max_iter=2.5"),
    ({"max_iter": True}, "max_iter=True"),
    ({"tol": np.inf}, "tol=inf"),
    ({"tol": "small"}, "tol='small'"),
    ({"n_jobs": 0}, "n_jobs=0"),
    ({"n_jobs": "two"}, "n_jobs='two'"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        WideLMM(**options).fit(X, y)


def with_missing():
    bad = COVARIATES.copy()
    bad[3, 1] = np.nan
    return bad


BAD_DATA = [
    (X, y, COVARIATES[:-1], "39 rows, X has 40"),
    (X, y, with_missing(), r"missing or infinite values in z1 \(1\)"),
    (X, y, np.column_stack([COVARIATES, np.ones(40)]), "linearly dependent"),
    (X, y, np.column_stack([COVARIATES, COVARIATES[:, 0] * 2]), "linearly dependent"),
    (X, y, pd.DataFrame({"sex": ["m", "f"] * 20}), "'sex' holds"),
    (X, y, np.random.default_rng(0).normal(size=(40, 40)), "at most 39"),
    (X, y, np.zeros((40, 2, 2)), "3 dimensions"),
    (X, y, pd.DataFrame(COVARIATES, columns=["a", "a"]), "more than one column called a"),
    (pd.DataFrame(X), y, pd.DataFrame(COVARIATES, index=range(40, 0, -1)), "different indices"),
    (X, np.ones(40), None, "no variance is left"),
    (X, np.where(np.arange(40) == 2, np.nan, y), None, "NaN"),
    (X, 1e-200 * y, None, "Rescale y"),
    (X, 1e100 * y, None, "Rescale y"),
    (1e-200 * X, y, None, "rescale X"),
    (X[:30], y, None, "inconsistent numbers of samples"),
    (X * 1j, y, None, "[Cc]omplex"),
]


@pytest.mark.parametrize(("features", "response", "covariates", "message"), BAD_DATA, ids=[row[3] for row in BAD_DATA])
def test_bad_data(features, response, covariates, message):
    with pytest.raises(ValueError, match=message):
        WideLMM().fit(features, response, covariates)


def test_predict_wants_the_covariates_of_fit():
    model = WideLMM().fit(X, y, COVARIATES)
    with pytest.raises(DataError, match="fitted with z0, z1"):
        model.predict(X)
    with pytest.raises(DataError, match="1 columns, the fit had 2"):
        model.predict(X, COVARIATES[:, :1])
    with pytest.raises(ValueError, match="interval='both'"):
        model.predict(X, COVARIATES, interval="both")
    with pytest.raises(ValueError, match="level=95"):
        model.predict(X, COVARIATES, interval="mean", level=95)


def test_offsets_that_drown_the_variation_are_said():
    with pytest.warns(UserWarning, match="90 of 90 features vary by less than 1e-4 of their mean"):
        WideLMM(reml=True).fit(X + 1e7, y)
    shifted = WideLMM(reml=True, standardize=True).fit(X + 1e7, y)
    np.testing.assert_allclose(shifted.sigma2_e_, WideLMM(reml=True, standardize=True).fit(X, y).sigma2_e_, rtol=1e-6)
