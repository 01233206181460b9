"""What a fit says of itself, against the exact posterior."""

from functools import cache

import grouped_problems
import numpy as np
import pandas as pd
import pytest
from problems import needs_references
from test_grouped_quadrature import MODELS

import fastlmm_vi as fl
from fastlmm_vi import priors
from fastlmm_vi.grouped import pointwise
from fastlmm_vi.grouped.bayes_result import FACTORISATIONS_OF
from fastlmm_vi.grouped.diagnostics import accuracy
from fastlmm_vi.grouped.posterior import Posterior

CHOICES = [(method, each) for method, all_ in FACTORISATIONS_OF.items() for each in all_]
HALF_T = {"g": priors.HalfStudentT(4, 1.5)}
COVARIANCES = {
    "lkj": {"sd": HALF_T, "cor": priors.LKJ(2)},
    "inverse_wishart": {"cov": {"g": priors.InverseWishart(5, [[1.0, 0.2], [0.2, 0.5]])}},
    "huang_wand": {"cov": {"g": priors.HuangWand(3, (1.0, 2.0))}},
}


def ratios(fit, size=4000):
    """Log p(y, everything) − log q(everything) at draws of q."""
    exact, draws = Posterior(fit.data, fit.priors), fit.posterior.draw(np.random.default_rng(7), size)
    scales = draws.scales(exact.sizes)
    phi = np.array([exact.phi(at) for at in scales])
    likelihood = pointwise.log_density(fit.data, draws).sum(axis=1)
    return pointwise.log_joint(exact, draws, scales, phi, likelihood) - draws.log_density


@pytest.mark.parametrize(("method", "factorisation"), CHOICES)
@pytest.mark.parametrize("kind", COVARIANCES)
def test_the_elbo_is_the_mean_of_the_log_ratio(kind, method, factorisation):
    """Of densities made of draws, with every constant: nothing of the ELBO's own formula."""
    frame = grouped_problems.make(groups=10, size=6, seed=2).assign(w=lambda d: 0.5 + np.arange(len(d)) % 3)
    fit = fl.lmm(
        "y ~ x + (1 + x | g)", frame, weights="w", method=method, factorisation=factorisation, priors=COVARIANCES[kind]
    )
    found = ratios(fit)
    error = 4 * found.std() / np.sqrt(found.size)
    if kind == "huang_wand":  # the ELBO has a factor of the auxiliary variables too, which are integrated out here
        assert fit.elbo - error < found.mean() < fit.elbo + 0.5
    else:
        assert found.mean() == pytest.approx(fit.elbo, abs=error)


@pytest.mark.parametrize(("method", "factorisation"), CHOICES)
def test_crossed_factors_and_several_terms(method, factorisation):
    frame = grouped_problems.make(groups=9, size=8, seed=5).assign(h=lambda d: np.arange(len(d)) % 5)
    fit = fl.lmm("y ~ x + (1 | g) + (0 + x | g) + (1 | h)", frame, method=method, factorisation=factorisation)
    found = ratios(fit)
    assert found.mean() == pytest.approx(fit.elbo, abs=4 * found.std() / np.sqrt(found.size))


@pytest.mark.parametrize("factorisation", ["group", "factor", "coefficient", "joint"])
def test_linear_response_is_exact_where_variances_are_known(factorisation):
    """Then the posterior is normal, and every answer of a mean is a covariance."""
    frame = grouped_problems.make(groups=9, size=8, seed=5).assign(h=lambda d: np.arange(len(d)) % 5)
    held = {"sd": priors.Fixed(0.8), "sigma": priors.Fixed(1.2)}
    method = "structured-vi" if factorisation == "joint" else "mfvi"
    formula = "y ~ x + (1 | g) + (0 + x | g) + (1 | h)"
    fit = fl.lmm(formula, frame, method=method, factorisation=factorisation, priors=held)
    found = fit.diagnostics(draws=100)
    assert found.accuracy is None
    with pytest.raises(ValueError, match="all of this model's are held"):
        fl.lmm(formula, frame, method="quadrature", priors=held)
    exact = Posterior(fit.data, fit.priors).recovery
    _, covariance = exact.fixed(np.zeros((1, 0)))
    np.testing.assert_allclose(found.linear_response["sd_lr"].iloc[:2], np.sqrt(np.diag(covariance[0])), rtol=1e-6)
    _, (random,) = exact.random(np.zeros((1, 0)))
    effects = found.linear_response["sd_lr"][found.linear_response.index.str.startswith("r_")]
    np.testing.assert_allclose(effects, random, rtol=1e-6)


@cache
def small():
    frame = grouped_problems.make(groups=6, size=5, seed=11).assign(w=lambda d: 1.0 + np.arange(len(d)) % 2)
    given = {"beta": priors.Normal(0, 3), "sd": priors.HalfNormal(2), "sigma": priors.HalfNormal(2)}
    return frame, given


def test_leaving_out_by_hand_is_fitting_without():
    """log p(y_i | the others) is a difference of log evidences."""
    frame, given = small()
    fit = fl.lmm("y ~ x + (1 | g)", frame, weights="w", method="quadrature", priors=given)
    found = fit.diagnostics(draws=200)
    for i in (0, 7, 29):
        rest = fl.lmm("y ~ x + (1 | g)", frame.drop(index=i), weights="w", method="quadrature", priors=given)
        difference = fit.log_evidence - rest.log_evidence
        assert found.exact_loo.pointwise[i] == pytest.approx(difference, abs=1e-5)
    assert found.exact_loo.elpd == pytest.approx(found.exact_loo.pointwise.sum())
    assert found.loo.elpd == pytest.approx(found.exact_loo.elpd, abs=1.0)
    assert (found.elbo, found.k, found.linear_response, found.accuracy) == (None, None, None, None)


def test_importance_weights_estimate_the_evidence():
    frame, given = grouped_problems.make(groups=25, size=5, seed=11), small()[1]
    exact = fl.lmm("y ~ x + (1 | g)", frame, method="quadrature", priors=given)
    found = fl.lmm("y ~ x + (1 | g)", frame, method="structured-vi", priors=given).diagnostics(exact, draws=4000)
    assert found.k_scales < 0.7
    assert found.log_evidence_estimate == pytest.approx(exact.log_evidence, abs=0.1)
    assert found.log_evidence == exact.log_evidence > found.elbo
    improper = {**given, "beta": priors.Flat()}
    found = fl.lmm("y ~ x + (1 | g)", frame, method="structured-vi", priors=improper).diagnostics()
    assert (found.log_evidence, found.log_evidence_estimate, found.elbo) == (None, None, None)


class Normal:
    def __init__(self, mean, sd):
        self.mean, self.sd = mean, sd

    def quantile(self, p):
        from scipy.stats import norm

        return norm.ppf(p, self.mean, self.sd)

    def pdf(self, x):
        from scipy.stats import norm

        return norm.pdf(x, self.mean, self.sd)


@pytest.mark.parametrize("shift", [0.0, 0.3, 2.0, 40.0])
def test_accuracy_of_normal_distributions(shift):
    """½ ∫ |p − q| of N(0, 1) and N(δ, 1) is 2 Φ(δ/2) − 1."""
    from scipy.stats import norm

    expected = 100 * (2 - 2 * norm.cdf(shift / 2))
    assert accuracy(Normal(0.0, 1.0), Normal(shift, 1.0)) == pytest.approx(expected, abs=0.02)
    assert accuracy(Normal(shift, 2.0), Normal(shift, 0.02)) < 8


@cache
def reference_fits(name):
    formula, beta, scale = MODELS[name]
    given = {"beta": [priors.Normal(*one) for one in beta]}
    given |= dict.fromkeys(("sigma", "sd"), priors.HalfNormal(scale))
    data = grouped_problems.reference_frame(grouped_problems.reference_models()[name])
    return {method: fl.lmm(formula, data, method=method, priors=given) for method in ("quadrature", *FACTORISATIONS_OF)}


@needs_references
@pytest.mark.parametrize("name", MODELS)
def test_diagnostics_of_the_reference_models(name):
    fits = reference_fits(name)
    exact = fits["quadrature"]
    truth, own = exact.to_frame()["sd"], exact.diagnostics()
    found = {method: fits[method].diagnostics(exact) for method in FACTORISATIONS_OF}
    for method, one in found.items():
        q, by_response = (one.linear_response[column] / truth for column in ("sd", "sd_lr"))
        assert (np.abs(np.log(by_response)) <= np.abs(np.log(q)) + 0.06).all()  # nearer to the truth than q
        assert by_response.between(0.74, 1.07).all()
        assert one.k_scales < 0.7
        assert one.log_evidence_estimate == pytest.approx(exact.log_evidence, abs=0.3)
        assert one.exact_loo.elpd == pytest.approx(own.exact_loo.elpd, abs=1e-9)
        assert one.loo.elpd == pytest.approx(own.exact_loo.elpd, abs=4.0 if method == "mfvi" else 2.0)
        assert one.waic.elpd == pytest.approx(own.exact_loo.elpd, abs=4.0)
        assert (one.accuracy.index == [*exact._fixed.index, *exact.variances.index]).all()
        assert f"Diagnostics of {method}" in str(one)
    structured, mean_field = found["structured-vi"], found["mfvi"]
    assert structured.log_evidence - structured.elbo < mean_field.log_evidence - mean_field.elbo
    fixed = structured.accuracy.index.str.startswith("b_")
    assert (structured.accuracy[fixed] >= 94).all()
    assert (structured.accuracy[~fixed] >= 80).all()
    assert structured.accuracy["sigma"] >= 90
    assert (mean_field.accuracy[fixed].min()) < 75  # what mean field loses


def test_by_itself_it_finds_the_exact_posterior():
    frame, given = small()
    fit = fl.lmm("y ~ x + (1 | g)", frame, method="structured-vi", priors=given)
    exact = fl.lmm("y ~ x + (1 | g)", frame, method="quadrature", priors=given)
    alone, told = fit.diagnostics(draws=300), fit.diagnostics(exact, draws=300)
    pd.testing.assert_series_equal(alone.accuracy, told.accuracy)
    assert alone.log_evidence == pytest.approx(exact.log_evidence)
    with pytest.raises(ValueError, match="draws=10 are too few"):
        fit.diagnostics(draws=10)


def test_many_parameters_have_no_quadrature():
    frame = grouped_problems.make(groups=9, size=8, seed=5).assign(h=lambda d: np.arange(len(d)) % 5)
    fit = fl.lmm("y ~ x + (1 + x | g) + (1 | h)", frame, method="structured-vi")
    found = fit.diagnostics(draws=500)
    assert (found.log_evidence, found.accuracy) == (None, None)
    assert np.isfinite(found.log_evidence_estimate)
    assert found.exact_loo.elpd == pytest.approx(found.loo.elpd, abs=3.0)
    assert "log evidence:" not in str(found)


def test_a_reference_is_the_exact_posterior_of_the_same_model():
    frame, given = small()
    fit = fl.lmm("y ~ x + (1 | g)", frame, method="structured-vi", priors=given)
    for wrong in (
        fl.lmm("y ~ x + (1 | g)", frame),
        fl.lmm("y ~ x + (1 | g)", frame, method="mfvi", priors=given),
    ):
        with pytest.raises(ValueError, match="is no exact posterior"):
            fit.diagnostics(wrong)
    for wrong in (
        fl.lmm("y ~ x + (1 | g)", frame, method="quadrature"),
        fl.lmm("y ~ 1 + (1 | g)", frame, method="quadrature", priors={**given, "beta": priors.Normal(0, 3)}),
        fl.lmm("y ~ x + (1 | g)", frame.assign(y=-frame["y"]), method="quadrature", priors=given),
    ):
        with pytest.raises(ValueError, match="is of another model"):
            fit.diagnostics(wrong)
