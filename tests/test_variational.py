"""Variational Bayes of the grouped model: against dense twins, exact evidences, references, and what must not matter."""

import json
import re
import tracemalloc
from functools import cache
from pathlib import Path

import grouped_problems
import naive_variational as naive
import numpy as np
import pandas as pd
import pytest
import variational_problems as problems
from problems import REFERENCES

from fastlmm_vi import priors, threads
from fastlmm_vi.grouped import reml, variational, variational_em
from fastlmm_vi.grouped.coordinate_ascent import ROUNDING, climb
from fastlmm_vi.grouped.cross_products import CrossProducts
from fastlmm_vi.grouped.gaussian_factor import GaussianFactor
from fastlmm_vi.grouped.kept_blocks import FACTORISATIONS
from fastlmm_vi.grouped.likelihood import Likelihood
from fastlmm_vi.grouped.model_frame import build
from fastlmm_vi.grouped.model_priors import resolve
from fastlmm_vi.grouped.solution import Solution
from fastlmm_vi.grouped.starts import Start, in_order, precisions, thetas
from fastlmm_vi.grouped.variational_em import ProfileElbo
from fastlmm_vi.result import Status

FINEST_FIRST = FACTORISATIONS[::-1]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with threads.limit(1):
        yield


@cache
def random_model(seed):
    return problems.random_model(seed)


def fallen(path):
    """The largest fall of the ELBO, relative to it."""
    return max(0.0, -np.diff(path).min(initial=0.0)) / max(1.0, np.abs(path).max())


# The ELBO and its maximum against dense matrices.


@pytest.mark.parametrize("factorisation", FACTORISATIONS)
@pytest.mark.parametrize("seed", range(0, 40, 3))
def test_moments_are_those_of_dense_matrices(seed, factorisation):
    model = random_model(seed)
    rng = np.random.default_rng(seed)
    tau, precisions = rng.gamma(2.0), []
    for _, d in model.widths:
        A = rng.normal(size=(d, d + 2))
        precisions.append(A @ A.T)
    got = GaussianFactor(model.data, model.priors.beta, factorisation)(tau, precisions)
    dense = model.dense(tau, precisions, factorisation)
    p = model.X.shape[1]
    assert got.residual == pytest.approx(dense.residual, rel=1e-8)
    for a, b in zip(got.squares, dense.squares, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9 * np.abs(b).max())
    np.testing.assert_allclose(got.beta, dense.mean[:p], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(got.beta_cov, dense.cov[:p, :p], rtol=1e-7, atol=1e-10)
    assert got.value == pytest.approx(dense.part, rel=1e-9, abs=1e-8)


def dense_elbo(model, found, factorisation):
    """The ELBO at the end of an ascent, every term by its own formula, the scales by grids of the twins."""
    moments = model.dense(*found.expectations, factorisation)
    sigma = model.priors.sigma
    value = moments.part
    value += naive.scale(sigma.log_density, len(model.y), found.moments.residual, moments.residual)[1]
    for prior, (J, d), made_with, square in zip(
        model.priors.terms, model.widths, found.moments.squares, moments.squares, strict=True
    ):
        if isinstance(prior.covariance, priors.HuangWand):
            value += naive.huang_wand(prior.covariance.df, prior.covariance.vector(d), J, made_with)[1]
        elif prior.covariance is not None:
            value += naive.inverse_wishart(prior.covariance.df, prior.covariance.matrix(d), J, made_with)[1]
        elif d == 1:
            value += naive.scale(prior.scales[0].log_density, J, made_with[0, 0], square[0, 0])[1]
        else:
            both = [one.log_density for one in prior.scales]
            value += naive.correlated(both, prior.correlation.eta, J, made_with)[1]
    return value


@pytest.mark.parametrize("factorisation", FACTORISATIONS)
@pytest.mark.parametrize("seed", [0, 3, 7, 12, 14, 15])
def test_the_elbo_has_every_constant(seed, factorisation):
    model = random_model(seed)
    found = model.climb(factorisation)
    assert found.status is Status.CONVERGED
    assert found.elbo == pytest.approx(dense_elbo(model, found, factorisation), rel=1e-7)


# It never falls.


def check_monotone(seed, factorisation):
    model = problems.random_model(seed)
    found = model.climb(factorisation, model.start(seed), tol=1e-7)
    assert found.status is Status.CONVERGED, (seed, factorisation, found.change)
    assert fallen(found.path) <= ROUNDING, (seed, factorisation)
    plain = model.climb(factorisation, model.start(seed), memory=0, max_iter=8)
    assert fallen(plain.path) <= ROUNDING, (seed, factorisation)
    assert plain.path[-1] > plain.path[0], (seed, factorisation)


@pytest.mark.parametrize("part", [*range(2), *(pytest.param(k, marks=pytest.mark.slow) for k in range(2, 50))])
def test_the_elbo_never_falls_on_a_thousand_problems(part):
    """The factorisations in turn."""
    for seed in range(20 * part, 20 * part + 20):
        check_monotone(seed, FACTORISATIONS[seed % len(FACTORISATIONS)])


@pytest.mark.slow
@pytest.mark.parametrize("factorisation", FACTORISATIONS)
def test_the_elbo_never_falls_in_any_factorisation(factorisation):
    for seed in range(40):
        check_monotone(seed, factorisation)


def test_a_fall_would_be_named(monkeypatch):
    """Gaussian factors that are not the optimal ones, less and less so: the status says it."""
    model = random_model(0)
    right, calls = GaussianFactor.__call__, []

    def wrong(self, tau, precisions):
        calls.append(tau)
        found = right(self, tau, precisions)
        return found._replace(value=found.value - 1e-6 * len(calls) ** 2)

    assert model.climb("joint", memory=0).status is Status.CONVERGED
    monkeypatch.setattr(GaussianFactor, "__call__", wrong)
    found = model.climb("joint", memory=0)
    assert found.status is Status.ELBO_FELL
    assert not found.status.converged
    assert "rounding" in found.status.advice


@pytest.mark.parametrize("seed", [19, 32, 34])
def test_converged_means_at_the_maximum(seed):
    """Where a turn moves next to nothing although the maximum is far: plain ascent with the same tolerance stops short."""
    model = random_model(seed)
    best, off = model.climb("coefficient", tol=1e-11), []
    for memory in (8, 0):
        found = model.climb("coefficient", tol=1e-5, memory=memory)
        assert found.change <= 1e-5
        ends = zip(found.expectations[1], best.expectations[1], strict=True)
        off.append(max(np.abs(a / b - 1).max() for a, b in ends))
    assert off[0] < 5e-5
    assert off[1] > 5 * off[0]


def test_too_few_turns_are_said():
    model = random_model(1)
    found = model.climb("joint", max_iter=2)
    assert found.status is Status.NOT_CONVERGED
    assert np.isfinite(found.elbo)


# A lower bound of the evidence.


def check_bound(seed):
    model = problems.small_model(seed)
    log_priors = [model.priors.sigma.log_density, *(term.scales[0].log_density for term in model.priors.terms)]
    beta = model.beta
    log_z = naive.log_evidence(model.y, model.X, model.Z, model.w, beta, log_priors, 64 if len(model.Z) == 1 else 30)
    elbos = [model.climb(factorisation).elbo for factorisation in FINEST_FIRST]
    # the grid of the evidence leaves out small standard deviations: e⁻⁷ of the spread, a thousandth of the mass
    assert elbos[-1] <= log_z + 2e-3, seed
    assert (np.diff(elbos) >= -1e-7).all(), seed
    return log_z - np.array(elbos)


@pytest.mark.parametrize("part", range(5))
def test_the_elbo_is_below_the_evidence(part):
    gaps = np.array([check_bound(seed) for seed in range(12 * part, 12 * part + 12)])
    assert (gaps[:, -1] < gaps[:, 0]).all()  # joint loses less than single coefficients


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_the_elbo_is_below_the_evidence_of_many(part):
    for seed in range(60 + 10 * part, 70 + 10 * part):
        check_bound(seed)


# The four reference posteriors.


@cache
def reference():
    return json.loads((REFERENCES / "posteriors_quadrature.json").read_text())


@cache
def fitted(name, factorisation):
    model = problems.reference_model(name)
    return model, variational.fit(model.data, model.priors, factorisation=factorisation)


@pytest.mark.parametrize("name", problems.REFERENCE)
def test_the_gap_to_the_reference_evidence_falls_as_less_is_independent(name):
    fits = [fitted(name, factorisation)[1] for factorisation in FINEST_FIRST]
    elbos = np.array([fit.elbo for fit in fits])
    assert all(fit.status is Status.CONVERGED for fit in fits)
    assert elbos[-1] < reference()[name]["log_evidence"]
    assert (np.diff(elbos) >= -1e-9 * np.abs(elbos[-1])).all()
    assert elbos[-1] - elbos[0] > 0.5
    if name == "sleepstudy_uncorr":
        assert elbos[2] - elbos[1] > 1.0  # its two terms share a factor


RANGES = {
    "Dyestuff": [(25, 130), (0.5, 500)],
    "sleepstudy_int": [(24, 42), (15, 110)],
    "sleepstudy_uncorr": [(20, 34), (2, 80), (1.5, 20)],
    "Penicillin": [(0.42, 0.76), (0.4, 2.2), (0.7, 12)],
}
# Accuracy 100 (1 − ½∫|q − p|) of q(β, u) q(σ) Π q(s): at least, of fixed effects, of standard deviations.
LEAST = {
    "Dyestuff": (94.0, 80.0),
    "sleepstudy_int": (94.0, 90.0),
    "sleepstudy_uncorr": (94.0, 80.0),
    "Penicillin": (94.0, 90.0),
}


@cache
def exact(name):
    model, _ = fitted(name, "joint")
    log_priors = [model.priors.sigma.log_density, *(term.scales[0].log_density for term in model.priors.terms)]
    points = 160 if len(RANGES[name]) == 2 else 44
    return naive.marginals(model.y, model.X, model.Z, model.w, model.beta, log_priors, RANGES[name], points)


def accuracies(name, factorisation):
    """Of b_…, then of sigma and the standard deviations."""
    model, fit = fitted(name, factorisation)
    axes, mass, mean, cov, log_z = exact(name)
    assert log_z == pytest.approx(reference()[name]["log_evidence"], abs=2e-3)  # the twin's grid is good enough
    of_beta, of_scale = [], []
    for j, name_j in enumerate(model.priors.coefficients):
        q = fit.marginals[f"b_{name_j}"]
        x = np.linspace(q.mean - 8 * q.sd, q.mean + 8 * q.sd, 2001)
        m, s = mean[..., j].ravel(), np.sqrt(cov[..., j, j]).ravel()
        held = mass.ravel() > 1e-8
        p = sum(
            weight * np.exp(-0.5 * ((x - a) / b) ** 2) / b / np.sqrt(2 * np.pi)
            for weight, a, b in zip(mass.ravel()[held], m[held], s[held], strict=True)
        )
        of_beta.append(naive.accuracy(q.pdf(x), p, x))
    names = ["sigma", *(f"sd_{term.factor}__{term.effects[0]}" for term in model.priors.terms)]
    for i, name_i in enumerate(names):
        others = tuple(k for k in range(len(axes)) if k != i)
        x = np.exp(axes[i])
        p = mass.sum(axis=others) / (axes[i][1] - axes[i][0]) / x
        of_scale.append(naive.accuracy(fit.marginals[name_i].pdf(x), p, x))
    return of_beta, of_scale


def documented(name):
    """The row of a model in section 8 of docs/derivation_variational.md."""
    label = {"sleepstudy_int": "sleepstudy, intercepts", "sleepstudy_uncorr": "sleepstudy, uncorrelated"}.get(
        name, name
    )
    page = (Path(__file__).resolve().parents[1] / "docs" / "derivation_variational.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| {label} \| (.*) \|$", page, flags=re.MULTILINE)
    return [float(number) for number in re.findall(r"[\d.]+", row)]


@pytest.mark.parametrize("name", problems.REFERENCE)
def test_accuracy_of_structured_variational_bayes(name):
    of_beta, of_scale = accuracies(name, "joint")
    np.testing.assert_allclose([*of_beta, *of_scale], documented(name), atol=0.1)
    assert min(of_beta) >= LEAST[name][0]
    assert min(of_scale) >= LEAST[name][1]
    finer, _ = accuracies(name, "coefficient")
    assert min(finer) < min(of_beta) - 5.0  # what independence of β and u costs


@pytest.mark.parametrize("name", problems.REFERENCE)
def test_posterior_means_are_near_the_reference(name):
    model, fit = fitted(name, "joint")
    of = reference()[name]["params"]
    for j, marginal in enumerate(model.priors.coefficients):
        assert fit.beta[j] == pytest.approx(of[f"beta{j}"]["mean"], abs=0.05 * of[f"beta{j}"]["sd"])
        assert fit.marginals[f"b_{marginal}"].sd < of[f"beta{j}"]["sd"]
    assert fit.marginals["sigma"].quantile(0.5) == pytest.approx(of["sigma"]["median"], abs=0.2 * of["sigma"]["sd"])


# Point estimates: the maximum-likelihood mean-field fixed points.


def point(factorisation, data):
    rng = np.random.default_rng(0)
    return variational_em.maximise(data, factorisation, max_iter=200, rng=rng, report=lambda *state: None)


@cache
def points():
    return {k: model for k, model in grouped_problems.reference_models().items() if "mfvi" in model}


@pytest.mark.parametrize("name", ["Penicillin", "sleepstudy_int", "sleepstudy_uncorr", "sleepstudy_slope"])
def test_mean_field_with_point_estimates(name):
    model = points()[name]
    of = model["mfvi"]
    data = CrossProducts.of(build(model["formula"], grouped_problems.reference_frame(model)))
    fit = point("coefficient", data)
    assert fit.status is Status.CONVERGED
    assert fit.gap == pytest.approx(float(of["gap"]), abs=1e-8)
    assert fit.elbo == pytest.approx(float(of["elbo"]), abs=1e-8)
    assert fit.loglik == pytest.approx(float(of["loglik_at_mfvi"]), abs=1e-8)
    assert fit.solution.sigma**2 == pytest.approx(float(of["sigma2"]), rel=1e-6)
    np.testing.assert_allclose(fit.solution.beta, np.array(of["beta"], dtype=float), rtol=1e-8)
    triangles = [reml.canonical(root, 0.0)[0] for _, root in sorted(fit.solution.roots.items())]
    theta = np.concatenate([L.T[np.triu_indices(len(L))] for L in triangles])
    np.testing.assert_allclose(theta, np.array(of["theta"], dtype=float), rtol=1e-6)
    found_mean = np.concatenate([fit.solution.effects[k].ravel() for k in sorted(fit.effect_cov)])
    if name == "sleepstudy_uncorr":  # there by groups, here by terms
        found_mean = np.stack([fit.solution.effects[0][:, 0], fit.solution.effects[1][:, 0]]).ravel()
    k = len(of["q_mean_first"]) if name != "sleepstudy_uncorr" else 0
    np.testing.assert_allclose(found_mean[:k], of["q_mean_first"][:k], rtol=1e-5)
    var = np.concatenate([np.einsum("vii->vi", fit.effect_cov[k]).ravel() for k in sorted(fit.effect_cov)])
    np.testing.assert_allclose(var[:1], of["q_var_first"][:1], rtol=1e-5)


@pytest.mark.parametrize("factorisation", FACTORISATIONS)
@pytest.mark.parametrize("seed", [1, 2, 6, 8, 15, 18])
def test_the_profiled_elbo_and_its_gradient(seed, factorisation):
    problem = grouped_problems.draw(seed)
    data = CrossProducts.of(build(problem.formula, problem.frame, weights=problem.weights))
    profile = ProfileElbo(Likelihood(data, reml=False), factorisation)
    theta = np.random.default_rng(seed).normal(size=profile.likelihood.free.size)
    at = profile(theta)
    assert at.gap >= -1e-9
    assert at.deviance == pytest.approx(profile.likelihood(theta).deviance + 2 * at.gap, rel=1e-10)
    moves = 1e-5 * np.eye(theta.size)
    numeric = [(profile(theta + m).deviance - profile(theta - m).deviance) / 2e-5 for m in moves]
    np.testing.assert_allclose(at.gradient, numeric, rtol=1e-5, atol=1e-6 * np.abs(numeric).max())


def test_a_variance_without_trace_in_the_data_is_zero():
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"y": rng.normal(size=60), "g": np.repeat(list("abcdef"), 10)})
    frame["y"] -= frame.groupby("g")["y"].transform("mean")
    data = CrossProducts.of(build("y ~ 1 + (1 | g)", frame))
    fit = point("group", data)
    assert fit.status is Status.SINGULAR
    assert fit.standard_theta[0] == 0.0


# What must not matter.


def test_order_labels_and_units_do_not_matter():
    frame = grouped_problems.make(groups=12, size=6)
    given = {"beta": {"x": priors.Normal(0, 4)}, "sd": priors.HalfCauchy(2), "sigma": priors.HalfNormal(3)}
    formula = "y ~ x + (1 + x || g)"

    def fit(data, given, factorisation):
        products = CrossProducts.of(build(formula, data))
        return variational.fit(products, resolve(given, products.design), factorisation=factorisation)

    rows = np.random.default_rng(1).permutation(len(frame))
    shuffled = frame.iloc[rows].reset_index(drop=True)
    relabelled = frame.assign(g=frame["g"].map({name: f"z{i:03d}" for i, name in enumerate(frame["g"].unique()[::-1])}))
    moved = frame.assign(y=10 * frame["y"] + 3, x=frame["x"] * 4)  # of a unit of 1/10, and of 1/4
    units = {
        "beta": {"x": priors.Normal(0, 10)},
        "sd": {"g": {"Intercept": priors.HalfCauchy(20), "x": priors.HalfCauchy(5)}},
        "sigma": priors.HalfNormal(30),
    }
    for factorisation in FACTORISATIONS:
        one = fit(frame, given, factorisation)
        for other in (fit(shuffled, given, factorisation), fit(relabelled, given, factorisation)):
            assert other.elbo == pytest.approx(one.elbo, rel=1e-9)
            np.testing.assert_allclose(other.beta, one.beta, rtol=1e-6)
        other = fit(moved, units, factorisation)
        assert other.elbo == pytest.approx(one.elbo - len(frame) * np.log(10), rel=1e-9)
        assert other.n_iter == one.n_iter
        assert other.marginals["sd_g__x"].mean == pytest.approx(2.5 * one.marginals["sd_g__x"].mean, rel=1e-6)


@pytest.mark.parametrize("formula", ["y ~ x + (1 + x | g)", "y ~ x + (1 | g) + (0 + x | g)"])
@pytest.mark.parametrize("factorisation", FACTORISATIONS)
def test_no_update_reads_a_row(formula, factorisation):
    """What belongs to rows is blotted out once the products are there."""
    frame = grouped_problems.make(groups=30, size=6)

    def ends(blot):
        data = CrossProducts.of(build(formula, frame))
        found = resolve(None, data.design)
        gaussian, likelihood = GaussianFactor(data, found.beta, factorisation), Likelihood(data, reml=False)
        start = precisions(likelihood, thetas(likelihood, np.random.default_rng(0))["moments"])
        gaussian(*start)
        if blot:
            for rows in (data.fixed.Q, data.fixed.y, *(term.basis for term in data.terms)):
                rows.flags.writeable = True
                rows[:] = np.nan
        return climb(gaussian, found, start, max_iter=100, tol=1e-6).path

    np.testing.assert_array_equal(ends(True), ends(False))


@pytest.mark.parametrize("formula", ["y ~ x + (1 + x || g)", "y ~ x + (1 | g / h)"])
def test_memory_grows_with_the_number_of_groups(formula):
    peaks = []
    for groups in (300, 1200):
        frame = grouped_problems.make(groups=groups, size=6).assign(h=lambda d: np.arange(len(d)) % 3)
        data = CrossProducts.of(build(formula, frame))
        found = resolve(None, data.design)
        variational.fit(data, found, max_iter=2)  # compiled, and what is kept with the data is there
        tracemalloc.start()
        variational.fit(data, found, max_iter=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 4.5 * peaks[0]


@pytest.mark.slow
def test_insteval():
    """73 421 ratings, 4 100 effects of three crossed factors: some ten turns, each an evaluation of the likelihood."""
    frame = pd.read_csv(grouped_problems.DATA / "lme4" / "InstEval.csv").astype({"s": str, "d": str, "dept": str})
    data = CrossProducts.of(build("y ~ 1 + (1 | s) + (1 | d) + (1 | dept)", frame))
    fit = variational.fit(data, resolve(None, data.design))
    assert fit.status is Status.CONVERGED
    assert fit.n_iter < 20
    assert fallen(fit.path) <= ROUNDING
    likelihood = Likelihood(data, reml=True)
    roots = Solution(likelihood, reml.fit(likelihood).theta)
    for k, name in enumerate(("s", "d")):
        expected = roots.sigma * roots.roots[k][0, 0]
        assert fit.marginals[f"sd_{name}__Intercept"].mean == pytest.approx(expected, rel=0.02)
    assert fit.marginals["sigma"].mean == pytest.approx(roots.sigma, rel=0.002)


# What is returned.


@cache
def slopes(factorisation, cov=None):
    data = CrossProducts.of(build("y ~ x + (1 + x | g)", grouped_problems.make(groups=15, size=6)))
    given = None if cov is None else {"cov": cov}
    return variational.fit(data, resolve(given, data.design), factorisation=factorisation)


COVARIANCES = (None, priors.HuangWand(2, 1.5), priors.InverseWishart(4, 1.0))
CASES = [*((factorisation, None) for factorisation in FACTORISATIONS), *(("joint", cov) for cov in COVARIANCES[1:])]


@pytest.mark.parametrize(("factorisation", "cov"), CASES)
def test_marginals_and_draws_are_of_one_distribution(factorisation, cov):
    fit = slopes(factorisation, cov)
    assert list(fit.marginals) == ["b_Intercept", "b_x", "sd_g__Intercept", "sd_g__x", "cor_g__Intercept__x", "sigma"]
    n = 20_000
    draws, effects, _ = fit.draw(np.random.default_rng(3), n)
    for name, marginal in fit.marginals.items():
        error = marginal.sd / np.sqrt(n)
        assert draws[name].mean() == pytest.approx(marginal.mean, abs=5 * error), name
        assert draws[name].std() == pytest.approx(marginal.sd, rel=0.05), name  # heavy tails of half-t posteriors
        for p in (0.1, 0.5, 0.9):
            assert (draws[name] < marginal.quantile(p)).mean() == pytest.approx(p, abs=5 * np.sqrt(p * (1 - p) / n))
        x = marginal.quantile(np.array([0.3, 0.31]))
        assert marginal.pdf(x.mean()) * np.diff(x)[0] == pytest.approx(0.01, rel=1e-3)
    u, mean, cov = effects[0], fit.gaussian.means[0], fit.gaussian.covariances[0]
    sd = np.sqrt(np.einsum("vii->vi", cov))
    assert np.abs((u.mean(axis=0) - mean) / sd).max() < 5 / np.sqrt(n)
    np.testing.assert_allclose(u.std(axis=0), sd, rtol=5 / np.sqrt(2 * n))
    np.testing.assert_allclose(fit.random[0].mean, mean.ravel())
    np.testing.assert_allclose(fit.random[0].sd, sd.ravel())
    between = np.corrcoef(draws["b_Intercept"], u[:, 0, 0])[0, 1]
    if factorisation == "joint":
        assert between < -0.1
    else:
        assert abs(between) < 5 / np.sqrt(n)


@pytest.mark.parametrize("factorisation", FACTORISATIONS)
@pytest.mark.parametrize("seed", [2, 7, 12, 18])
def test_effects_are_those_of_dense_matrices(seed, factorisation):
    model = random_model(seed)
    fit = variational.fit(model.data, model.priors, factorisation=factorisation)
    dense = model.dense(fit.gaussian.tau, fit.gaussian.precisions, factorisation)
    p = model.X.shape[1]
    means = np.concatenate([part.ravel() for part in fit.gaussian.means])
    np.testing.assert_allclose(means, dense.mean[p:], rtol=1e-6, atol=1e-8)
    at = p
    for part in fit.gaussian.covariances:
        for cov in part:
            d = len(cov)
            np.testing.assert_allclose(cov, dense.cov[at : at + d, at : at + d], rtol=1e-6, atol=1e-9)
            at += d


def test_starts_are_reported_and_the_best_kept():
    fit = slopes("joint")
    assert sorted(start.name for start in fit.starts) == ["moments", "random", "reml"]
    assert fit.elbo == fit.starts[0].elbo
    assert all(fit.elbo >= start.elbo - 1e-8 * abs(fit.elbo) for start in fit.starts)
    assert fit.n_iter == len(fit.trace)
    assert fit.path[-1] == fit.trace[-1] == fit.elbo


def test_the_best_end_is_first():
    ends = [Start("a", -5.0, 3, Status.CONVERGED), Start("b", -4.0, 3, Status.CONVERGED)]
    ends += [Start("c", -4.0 + 1e-12, 3, Status.CONVERGED), Start("d", -3.0, 3, Status.NOT_CONVERGED)]
    assert [end.name for end in in_order(ends)] == ["b", "a", "c", "d"]
    assert in_order([ends[3]])[0].name == "d"


def test_fitting_twice_gives_the_same():
    one, two = slopes("group"), slopes.__wrapped__("group")
    assert one.elbo == two.elbo
    assert one.starts == two.starts


def test_a_standard_deviation_that_is_held():
    frame = grouped_problems.make(groups=8, size=5)
    data = CrossProducts.of(build("y ~ x + (1 | g)", frame))
    held = resolve({"sd": priors.Fixed(0.7), "sigma": priors.Fixed(1.1), "beta": priors.Normal(0, 5)}, data.design)
    fit = variational.fit(data, held)
    dense = problems.Model(data.design, {"beta": priors.Normal(0, 5)})
    V = np.eye(len(frame)) * 1.1**2 + 0.7**2 * dense.Z[0] @ dense.Z[0].T + 25 * dense.X @ dense.X.T
    expected = -0.5 * (np.linalg.slogdet(2 * np.pi * V)[1] + dense.y @ np.linalg.solve(V, dense.y))
    assert fit.elbo == pytest.approx(expected, rel=1e-10)  # nothing is lost: q is the posterior
    assert fit.marginals["sigma"].mean == 1.1


def test_what_cannot_be_fitted_says_why():
    data = CrossProducts.of(build("y ~ x + (1 + x | g)", grouped_problems.make(groups=8, size=5)))
    good = resolve(None, data.design)
    with pytest.raises(ValueError, match="factorisation='mean' is not known"):
        variational.fit(data, good, factorisation="mean")
    with pytest.raises(ValueError, match="tol=0 must be positive"):
        variational.fit(data, good, tol=0)
    held = resolve({"sd": {"g": {"x": priors.Fixed(1.0)}}}, data.design)
    with pytest.raises(ValueError, match=r"is held, has no optimal factor.*HuangWand"):
        variational.fit(data, held)
    frame = grouped_problems.make(groups=8, size=6).assign(z=lambda d: d["x"] ** 2)
    three = CrossProducts.of(build("y ~ x + (1 + x + z | g)", frame))
    with pytest.raises(ValueError, match=r"of 3 effects, has no optimal factor.*HuangWand"):
        variational.fit(three, resolve(None, three.design))
