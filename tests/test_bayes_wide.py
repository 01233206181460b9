"""The Bayesian wide model against dense twins, its own limits, and what its users type."""

import pickle

import naive
import numpy as np
import pandas as pd
import pytest
from problems import PROBLEMS, SETS, Problem, draw, needs_references, reference
from scipy import special, stats
from scipy.interpolate import make_interp_spline
from scipy.optimize import brentq
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

import fastlmm_vi as fl
from fastlmm_vi import BayesWideLMM, ConvergenceWarning, IntegrationError, Spectrum, Status, WideLMM, datasets
from fastlmm_vi.grid import integrate
from fastlmm_vi.priors import (
    Exponential,
    Fixed,
    Flat,
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    InverseGamma,
    LogNormal,
    Normal,
)
from fastlmm_vi.wide import design, variational
from fastlmm_vi.wide.prior import resolve

FLAT = {"omega": Flat(), "sigma_beta": Flat("variance"), "sigma_e": Flat("variance")}
SHAPES = ("wide", "tall", "one_feature", "no_covariates", "rank_deficient_wide")


def gaussian_priors(Z, X):
    """Stated priors, off the data on purpose, and the same as mean and covariance of ω."""
    c = Z.shape[1]
    half = np.random.default_rng(3).normal(size=(c, c)) + 2 * np.eye(c)
    m0, S0 = np.linspace(-0.5, 0.5, c), half @ half.T
    priors = {"sigma_beta": HalfNormal(2 / np.sqrt(X.shape[1])), "sigma_e": HalfStudentT(5, 1.5)}
    if c:
        priors["omega"] = Normal(m0, S0)
    return priors, m0, S0


def fit_literally(problem, engine="quadrature", priors=None, **options):
    """The model of the problem's own Z, its intercept column included."""
    y, Z, X = problem
    return BayesWideLMM(engine, priors=priors, fit_intercept=False, **options).fit(X, y, Z if Z.shape[1] else None)


def log_scale_priors(priors, sb, se):
    """Their density in the two log variances."""
    both = priors["sigma_beta"].log_density(np.sqrt(sb)) + priors["sigma_e"].log_density(np.sqrt(se))
    return both + 0.5 * np.log(sb * se) - 2 * np.log(2)


def mean_eigenvalue(Z, X):
    M = np.eye(len(X)) - Z @ np.linalg.pinv(Z)
    return np.trace(M @ X @ X.T) / (len(X) - Z.shape[1])


def finer(x, density):
    """The density on twenty times as many points, its logarithm interpolated."""
    at = np.linspace(x[0], x[-1], 20 * (x.size - 1) + 1)
    spline = make_interp_spline(x, np.log(np.maximum(density, density.max() * 1e-40)), k=5)
    return at, np.exp(spline(at))


def probability_below(x, density, end):
    at, fine = finer(x, density)
    cumulative = make_interp_spline(at, fine, k=3).antiderivative()
    return cumulative(np.clip(end, x[0], x[-1])) - cumulative(x[0])


def below(parameter, value, nodes, weights, t):
    """P(parameter < value) of a product grid: splines along the logarithm of the total variance, or along the share."""
    v, s = np.unique(np.round(np.log(nodes[:, 0] * t / nodes[:, 1]), 6)), np.arange(-4, 8, 0.12)
    density = weights.reshape(v.size, s.size)
    if parameter == "pve":
        return probability_below(v, density.sum(axis=1) / 0.3, special.logit(value))
    ends = (
        np.log(value * t) - special.log_expit(v)
        if parameter == "sigma2_beta"
        else np.log(value) - special.log_expit(-v)
    )
    rows = zip(density / 0.12, ends, strict=True)
    return sum(probability_below(s, row, end) for row, end in rows if row.sum() > 1e-12)


def highest(name):
    """Where the logit of PVE may stop: dense matrices of deficient rank are singular beyond."""
    return 25.0 if name in ("tall", "one_feature", "rank_deficient_wide", "rank_deficient_tall") else 40.0


@pytest.mark.parametrize("name", SHAPES)
def test_quadrature_is_brute_force(name):
    """Evidence, variances, ω, β and predictions against dense matrices at every node of a product grid."""
    y, Z, X = (part[:30, :45] if part.ndim > 1 else part[:30] for part in PROBLEMS[name])
    p, c = X.shape[1], Z.shape[1]
    priors, m0, S0 = gaussian_priors(Z, X)
    model = fit_literally((y, Z, X), priors=priors)
    t = mean_eigenvalue(Z, X)
    nodes, weights, evidence = naive.bayes_nodes(
        lambda sb, se: naive.bayes_loglik(y, Z, X, m0, S0, sb, se) + log_scale_priors(priors, sb, se), t, highest(name)
    )
    assert model.log_evidence_ == pytest.approx(evidence, abs=1e-6)
    assert model.converged_
    assert model.criterion_ == model.log_evidence_
    assert model.elbo_ is None
    assert model.fit_.gap is None
    for name_, values in {
        "sigma2_beta": nodes[:, 0],
        "sigma2_e": nodes[:, 1],
        "pve": nodes[:, 0] * t / (nodes[:, 0] * t + nodes[:, 1]),
    }.items():
        mean = weights @ values
        sd = np.sqrt(weights @ (values - mean) ** 2)
        assert model.theta_.loc[name_, "mean"] == pytest.approx(mean, abs=1e-5 * sd)
        assert model.theta_.loc[name_, "sd"] == pytest.approx(sd, rel=1e-5)
        for q in (0.05, 0.5, 0.95):
            end = model.theta_.loc[name_, f"q{round(100 * q):02d}"]
            assert below(name_, end, nodes, weights, t) == pytest.approx(q, abs=1e-5)
    rng = np.random.default_rng(0)
    Z_new, X_new = rng.normal(size=(3, c)), rng.normal(size=(3, p)) * X.std()
    W = np.vstack([np.eye(c + p), np.hstack([Z_new, X_new])])
    keep = weights > 1e-10
    parts = [naive.bayes_effects(y, Z, X, m0, S0, sb, se, W) for sb, se in nodes[keep]]
    w = weights[keep] / weights[keep].sum()
    means = np.array([part[0] for part in parts])
    variances = np.array([np.diag(part[1]) for part in parts])
    mean = w @ means
    variance = w @ (variances + (means - mean) ** 2)
    sd = np.sqrt(variance)
    np.testing.assert_allclose(model.omega_, mean[:c], atol=1e-5 * sd[:c].max(initial=1.0))
    np.testing.assert_allclose(model.omega_se_, sd[:c], rtol=1e-5)
    np.testing.assert_allclose(model.coef_, mean[c : c + p], atol=1e-5 * sd[c : c + p].max())
    np.testing.assert_allclose(model.beta_var_, variance[c : c + p], rtol=1e-5)
    covariates = Z_new if c else None
    got, std = model.predict(X_new, covariates, return_std=True)
    noise = nodes[keep, 1]
    np.testing.assert_allclose(got, mean[c + p :], atol=1e-5 * sd.max())
    np.testing.assert_allclose(std, np.sqrt(variance[c + p :] + w @ noise), rtol=1e-5)
    for interval, extra in (("mean", 0.0), ("prediction", noise)):
        _, lower, upper = model.predict(X_new, covariates, interval=interval, level=0.8)
        for i in range(3):
            scale = np.sqrt(variances[:, c + p + i] + extra)

            def excess(x, q, i=i, scale=scale):
                return w @ stats.norm.cdf((x - means[:, c + p + i]) / scale) - q

            for end, q in ((lower[i], 0.1), (upper[i], 0.9)):
                assert end == pytest.approx(brentq(excess, -100, 100, args=(q,)), abs=1e-5 * scale.max())


@pytest.mark.parametrize("name", ["wide", "tall", "one_feature"])
def test_flat_effects(name):
    """A flat ω is REML with every constant, and the limit of a wide normal but for that prior's own density."""
    problem = Problem(*(part[:30] for part in PROBLEMS[name]))
    y, Z, X = problem
    priors, _, _ = gaussian_priors(Z, X)
    flat = fit_literally(problem, priors={**priors, "omega": Flat()})
    t = mean_eigenvalue(Z, X)
    _, _, evidence = naive.bayes_nodes(
        lambda sb, se: naive.bayes_loglik_flat(y, Z, X, sb, se) + log_scale_priors(priors, sb, se), t, highest(name)
    )
    assert flat.log_evidence_ == pytest.approx(evidence, abs=1e-6)
    vague = fit_literally(problem, priors={**priors, "omega": Normal(0, 1e6)})
    constant = Z.shape[1] * np.log(1e6 * np.sqrt(2 * np.pi))
    assert vague.log_evidence_ + constant == pytest.approx(flat.log_evidence_, abs=1e-6)
    assert any("improper" in note for note in flat.fit_.notes)
    assert not any("improper" in note for note in vague.fit_.notes)


def same_mode(problem, rel):
    y, Z, X = problem
    reml = WideLMM(reml=True, fit_intercept=False).fit(X, y, Z)
    model = fit_literally(problem, priors=FLAT)
    ((sigma2_beta, sigma2_e, _),) = model.fit_.modes
    assert sigma2_beta == pytest.approx(reml.sigma2_beta_, rel=rel)
    assert sigma2_e == pytest.approx(reml.sigma2_e_, rel=rel)
    vague = fit_literally(problem, priors={**FLAT, "omega": Normal(0, 1e4)})
    assert vague.fit_.modes[0][:2] == pytest.approx((reml.sigma2_beta_, reml.sigma2_e_), rel=rel)


@pytest.mark.parametrize("name", ["wide", "tall", "square"])
def test_mode_under_flat_priors_is_reml(name):
    same_mode(PROBLEMS[name], 1e-4)


@needs_references
@pytest.mark.parametrize("name", ["w1_wide", "w2_tall"])
def test_mode_under_flat_priors_is_reml_on_reference_sets(name):
    same_mode(reference(name)[0], 1e-4)
    problem, block, _ = reference(name)
    ((sigma2_beta, sigma2_e, _),) = fit_literally(problem, priors=FLAT).fit_.modes
    assert (sigma2_beta, sigma2_e) == pytest.approx((block["REML"]["sb2_f"], block["REML"]["se2_f"]), rel=1e-4)


@needs_references
@pytest.mark.parametrize("omega", [Flat(), Normal(0, 1e4)], ids=str)
def test_no_mode_where_reml_is_on_the_boundary(omega):
    problem, block, _ = reference("w4_null")
    assert float(block["REML"]["sb2_f"]) == 0.0
    assert fit_literally(problem, priors={**FLAT, "omega": omega}).fit_.modes == ()


def bound_below_evidence(problem, priors, **options):
    exact = fit_literally(problem, "quadrature", priors, **options)
    found = fit_literally(problem, "mfvi", priors, **options)
    check_bound(exact, found)
    return exact, found


def check_bound(exact, found):
    assert found.converged_
    assert found.elbo_ < exact.log_evidence_
    assert found.log_evidence_ is None
    assert found.criterion_ == found.elbo_
    elbo = found.trace_["elbo"].to_numpy()
    assert (np.diff(elbo) >= -1e-9 * np.abs(elbo[1:])).all()
    assert found.theta_.loc["pve", "sd"] < exact.theta_.loc["pve", "sd"]


CONJUGATE = {"sigma_beta": InverseGamma(2, 0.01), "sigma_e": InverseGamma(2, 1)}


@pytest.mark.parametrize("priors", [None, CONJUGATE], ids=["default", "conjugate"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_bound_is_below_the_evidence(name, priors):
    bound_below_evidence(PROBLEMS[name], priors)


@needs_references
@pytest.mark.parametrize("priors", [None, CONJUGATE], ids=["default", "conjugate"])
@pytest.mark.parametrize("name", SETS)
def test_bound_is_below_the_evidence_on_reference_sets(name, priors):
    bound_below_evidence(reference(name)[0], priors)


@pytest.mark.parametrize(
    "size", [{"n": 100, "p": 600, "c": 5}, pytest.param({}, marks=pytest.mark.slow)], ids=["small", "whole"]
)
def test_twin(size):
    """The bound under both priors; the mode under flat variances is REML's, with ω flat and with ω vague."""
    data = datasets.make_xyz_twin(**size)
    spectrum = Spectrum.of(data.X)

    def fit(engine, priors):
        return BayesWideLMM(engine, priors=priors, fit_intercept=False).fit(data.X, data.y, data.Z, spectrum=spectrum)

    for priors in (None, CONJUGATE):
        check_bound(fit("quadrature", priors), fit("mfvi", priors))
    reml = WideLMM(reml=True, fit_intercept=False).fit(data.X, data.y, data.Z, spectrum=spectrum)
    for omega in (Flat(), Normal(0, 1e4)):
        ((sigma2_beta, sigma2_e, _),) = fit("quadrature", {**FLAT, "omega": omega}).fit_.modes
        assert (sigma2_beta, sigma2_e) == pytest.approx((reml.sigma2_beta_, reml.sigma2_e_), rel=1e-4)


@pytest.mark.parametrize("name", ["wide", "tall", "one_feature", "rank_deficient_wide"])
def test_mean_field_is_the_dense_twin(name):
    """The fixed point and the ELBO, every term, of coordinate ascent on dense matrices."""
    y, Z, X = PROBLEMS[name]
    _, m0, S0 = gaussian_priors(Z, X)
    model = fit_literally(PROBLEMS[name], "mfvi", {"omega": Normal(m0, S0), **CONJUGATE})
    path, omega, S_omega, beta, S_beta, q_beta, q_e = naive.vb(y, Z, X, m0, S0, (2, 0.01), (2, 1), 3000)
    assert (np.diff(path) > -1e-9).all()
    assert abs(path[-1] - path[-2]) < 1e-12 * abs(path[-1])
    # The twin is one start; the library keeps the best of three.
    assert model.elbo_ == pytest.approx(path[-1], abs=1e-7)
    np.testing.assert_allclose(model.omega_, omega, atol=1e-6)
    np.testing.assert_allclose(model.omega_se_, np.sqrt(np.diag(S_omega)), rtol=1e-6)
    np.testing.assert_allclose(model.coef_, beta, atol=1e-6 * np.abs(beta).max())
    np.testing.assert_allclose(model.beta_var_, np.diag(S_beta), rtol=1e-5)
    for parameter, (shape, scale) in (("sigma2_beta", q_beta), ("sigma2_e", q_e)):
        q = stats.invgamma(shape, scale=scale)
        row = model.theta_.loc[parameter]
        assert row["mean"] == pytest.approx(q.mean(), rel=1e-5)
        assert row["sd"] == pytest.approx(q.std(), rel=1e-5)
        np.testing.assert_allclose(row[["q05", "q50", "q95"]], q.ppf([0.05, 0.5, 0.95]), rtol=1e-5)
        density = model.fit_.theta.densities[parameter]
        np.testing.assert_allclose(density.density, q.pdf(density.x), rtol=1e-4, atol=1e-6 / q.std())
        np.testing.assert_allclose(density.cdf, q.cdf(density.x), atol=1e-6)
    # PVE of independent variances, by simulation: three standard errors of a quantile.
    t = mean_eigenvalue(Z, X)
    rng = np.random.default_rng(0)
    sb, se = (stats.invgamma(a, scale=b).rvs(200_000, random_state=rng) for a, b in (q_beta, q_e))
    share = sb * t / (sb * t + se)
    for q in (0.05, 0.5, 0.95):
        assert np.mean(share < model.fit_.theta.quantile("pve", q)) == pytest.approx(
            q, abs=3 * np.sqrt(q * (1 - q) / 200_000)
        )
    rng = np.random.default_rng(0)
    Z_new, X_new = rng.normal(size=(3, Z.shape[1])), rng.normal(size=(3, X.shape[1])) * X.std()
    mean, std = model.predict(X_new, Z_new, return_std=True)
    variance = np.einsum("ij,jk,ik->i", Z_new, S_omega, Z_new) + np.einsum("ij,jk,ik->i", X_new, S_beta, X_new)
    np.testing.assert_allclose(mean, Z_new @ omega + X_new @ beta, atol=1e-6)
    np.testing.assert_allclose(std, np.sqrt(variance + q_e[1] / (q_e[0] - 1)), rtol=1e-5)
    _, lower, upper = model.predict(X_new, Z_new, interval="mean", level=0.9)
    half = stats.norm.ppf(0.95) * np.sqrt(variance)
    np.testing.assert_allclose(upper - lower, 2 * half, rtol=1e-5)
    _, lower, upper = model.predict(X_new, Z_new, interval="prediction", level=0.9)
    noise = np.sqrt(se)[:, None] * rng.standard_normal((se.size, 3))
    new = Z_new @ omega + X_new @ beta + rng.standard_normal((se.size, 3)) * np.sqrt(variance) + noise
    np.testing.assert_allclose((new < lower).mean(axis=0), 0.05, atol=4 * np.sqrt(0.05 * 0.95 / se.size))
    np.testing.assert_allclose((new > upper).mean(axis=0), 0.05, atol=4 * np.sqrt(0.05 * 0.95 / se.size))


def test_one_round_is_that_of_the_twin():
    """Away from the fixed point: means where alternate updates of q(ω) and q(β) end, then q(σ²), then the ELBO."""
    y, Z, X = PROBLEMS["wide"]
    _, m0, S0 = gaussian_priors(Z, X)
    data = design.build(X, y, Z, fit_intercept=False, standardize=False)
    basis = Spectrum.of(X).rotate(data)
    priors = resolve({"omega": Normal(m0, S0), **CONJUGATE}, data, 1.0)
    tau = np.array([90.0, 1.4])
    state = variational.update(basis, data.p, priors, tau)
    beta = np.zeros(data.p)
    for _ in range(5000):
        omega, S_omega = naive.vb_q_omega(y, Z, X, beta, tau[1], m0, S0)
        new, S_beta = naive.vb_q_beta(y, Z, X, omega, *tau)
        if np.abs(new - beta).max() < 1e-15:
            break
        beta = new
    half = naive.vb_half_squares(y, Z, X, omega, S_omega, beta, S_beta)
    np.testing.assert_allclose(state.half_squares, half, rtol=1e-10)
    q_beta, q_e = (2 + data.p / 2, 0.01 + half[0]), (2 + data.n / 2, 1 + half[1])
    np.testing.assert_allclose(state.new, [q_beta[0] / q_beta[1], q_e[0] / q_e[1]], rtol=1e-10)
    elbo = naive.vb_elbo(y, Z, X, m0, S0, omega, S_omega, beta, S_beta, (2, 0.01), (2, 1), q_beta, q_e)
    assert state.elbo == pytest.approx(elbo, rel=1e-10)


@pytest.mark.parametrize("number", [1, 40, 6000])
@pytest.mark.parametrize("half_squares", [1e-6, 3.0, 1e5])
@pytest.mark.parametrize(
    "prior", [InverseGamma(2, 3), HalfNormal(1.5), HalfCauchy(0.2), LogNormal(0, 1), Exponential(2)], ids=str
)
def test_factor_of_a_variance(prior, number, half_squares):
    """Closed form and own trapezoid rule against the adaptive grid."""
    factor = variational.ScaleFactor(prior, number)
    log_z, tau = factor.normalise(half_squares)
    grid = integrate(
        lambda x: factor.log_kernel(x[:, 0], half_squares),
        [np.log(2 * half_squares / number)],
        of=lambda x: np.exp(-np.minimum(x, 300)),
        vectorised=True,
        tol=1e-10,
    )
    assert log_z == pytest.approx(grid.log_evidence, rel=1e-9, abs=1e-9)
    assert tau == pytest.approx(grid.expectation(np.exp(-grid.nodes[:, 0])), rel=1e-8)


@pytest.mark.parametrize("engine", ["quadrature", "mfvi"])
def test_fixed_standard_deviations(engine):
    """Each alone, and both: then nothing is left to integrate, and the bound has lost only q(ω) q(β)."""
    y, Z, X = PROBLEMS["wide"]
    priors, m0, S0 = gaussian_priors(Z, X)
    t = mean_eigenvalue(Z, X)
    sb, se = 0.006, 0.5
    both = {**priors, "sigma_beta": Fixed(np.sqrt(sb)), "sigma_e": Fixed(np.sqrt(se))}
    model = fit_literally(PROBLEMS["wide"], engine, both)
    exact = naive.bayes_loglik(y, Z, X, m0, S0, sb, se)
    assert model.criterion_ == pytest.approx(exact, abs=1e-8) if engine == "quadrature" else model.criterion_ < exact
    share = sb * t / (sb * t + se)
    np.testing.assert_allclose(model.theta_.loc["pve"], [share, 0, share, share, share], rtol=1e-12)
    assert model.fit_.theta.quantile("pve", [0.1, 0.9]) == pytest.approx([share, share])
    assert not model.fit_.theta.densities
    alone = {name: {**priors, name: both[name]} for name in ("sigma_beta", "sigma_e")}
    for name, given in alone.items():
        model = fit_literally(PROBLEMS["wide"], engine, given)
        table, fixed = model.theta_, "sigma2_" + name.removeprefix("sigma_")
        free = "sigma2_e" if fixed == "sigma2_beta" else "sigma2_beta"
        assert table.loc[fixed, "sd"] == pytest.approx(0.0, abs=1e-12)
        assert table.loc[free, "sd"] > 0.0
        # PVE is a function of the free variance: its quantiles are those of that.
        other = table.loc[free, ["q05", "q50", "q95"]].to_numpy()
        other = sb * t / (sb * t + other[::-1]) if fixed == "sigma2_beta" else other * t / (other * t + se)
        np.testing.assert_allclose(table.loc["pve", ["q05", "q50", "q95"]], other, rtol=1e-6)
        if engine == "quadrature":
            x = np.linspace(-25, 8, 4000)
            values = [
                naive.bayes_loglik(y, Z, X, m0, S0, *((sb, v) if fixed == "sigma2_beta" else (v, se)))
                + given["sigma_e" if fixed == "sigma2_beta" else "sigma_beta"].log_density(np.sqrt(v))
                + 0.5 * np.log(v / 4)
                for v in np.exp(x)
            ]
            total = np.log(np.exp(np.array(values) - max(values)).sum() * (x[1] - x[0])) + max(values)
            assert model.log_evidence_ == pytest.approx(total, abs=1e-5)  # the tail below exp(−25)


def test_units_and_origin_do_not_matter():
    y, Z, X = PROBLEMS["wide"]
    n = len(y)
    covariates = Z[:, 1:]
    for engine in ("quadrature", "mfvi"):
        base = BayesWideLMM(engine).fit(X, y, covariates)
        scaled = BayesWideLMM(engine).fit(1e-3 * X, 1e4 * y + 7e4, 1e2 * covariates + 30.0)
        shift = -n * np.log(1e4)
        assert scaled.criterion_ - shift == pytest.approx(base.criterion_, abs=0.2)  # the intercept's prior follows Z
        assert scaled.theta_.loc["pve"].to_numpy() == pytest.approx(base.theta_.loc["pve"].to_numpy(), rel=0.02)
        exactly = BayesWideLMM(engine).fit(1e-3 * X, 1e4 * y, 1e2 * covariates)
        assert exactly.criterion_ - shift == pytest.approx(base.criterion_, abs=1e-6)
        np.testing.assert_allclose(exactly.theta_.loc["pve"], base.theta_.loc["pve"], rtol=1e-5)
        np.testing.assert_allclose(exactly.coef_, 1e7 * base.coef_, rtol=1e-5, atol=1e-3 * np.abs(base.coef_).max())


def test_standardised_features():
    """Centred and scaled outside or inside, with the intercept moved where predictions need it."""
    y, Z, X = PROBLEMS["tall"]
    scale = X.std(axis=0) * np.sqrt(X.shape[1])
    inside = BayesWideLMM(standardize=True).fit(X + 3.0, y, Z[:, 1:])
    outside = BayesWideLMM().fit((X - X.mean(axis=0)) / scale, y, Z[:, 1:])
    assert inside.log_evidence_ == pytest.approx(outside.log_evidence_, abs=1e-6)
    np.testing.assert_allclose(inside.coef_, outside.coef_ / scale, atol=1e-8)
    np.testing.assert_allclose(inside.beta_var_, outside.beta_var_ / scale**2, rtol=1e-6)
    kinds = {"return_std": True, "interval": "mean"}
    new = X[:4] + 0.3
    for got, want in zip(
        inside.predict(new + 3.0, Z[:4, 1:], **kinds),
        outside.predict((new - X.mean(axis=0)) / scale, Z[:4, 1:], **kinds),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_default_priors_are_printed_and_weak():
    y, Z, X = PROBLEMS["wide"]
    frame = pd.DataFrame(Z[:, 1:], columns=["age", "sex"])
    model = BayesWideLMM().fit(X, y, frame)
    names = [name for name, _ in model.fit_.priors]
    assert names == ["intercept", "omega[age]", "omega[sex]", "sigma_beta", "sigma_e"]
    text = model.summary()
    for name, prior in model.fit_.priors:
        assert f"{name:<22}{prior}" in text
    residual = y - Z @ np.linalg.lstsq(Z, y, rcond=None)[0]
    s = np.sqrt(residual @ residual / (len(y) - 3))
    assert dict(model.fit_.priors)["sigma_e"] == str(HalfNormal(2.5 * s))
    assert dict(model.fit_.priors)["omega[age]"] == str(Normal(0, 10 * s / frame["age"].std(ddof=0)))
    assert "log evidence" in text
    assert "q95" in text
    part = BayesWideLMM(priors={"omega": {"sex": Normal(1, 2)}}).fit(X, y, frame)
    assert dict(part.fit_.priors)["omega[sex]"] == "Normal(1, 2)"
    assert dict(part.fit_.priors)["omega[age]"] == dict(model.fit_.priors)["omega[age]"]
    listed = BayesWideLMM(priors={"omega": [Normal(0, 3), Flat(), Normal(1, 2)]}).fit(X, y, frame)
    assert listed.fit_.priors[:3] == (
        ("omega[intercept]", "Normal(0, 3)"),
        ("omega[age]", "Flat()"),
        ("omega[sex]", "Normal(1, 2)"),
    )
    many = BayesWideLMM().fit(X, y, np.random.default_rng(0).normal(size=(40, 12)))
    assert "… and 6 more (fit.priors)" in many.summary()
    assert "No covariates." in BayesWideLMM(fit_intercept=False).fit(X, y).summary()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "nuts"}, r"engine='nuts' is not known: choose one of 'quadrature', 'mfvi'"),
        ({"priors": [1]}, r"priors=\[1\] is no mapping"),
        (
            {"priors": {"sigma": HalfNormal(1)}},
            r"priors has 'sigma': the parameters are 'omega', 'sigma_beta', 'sigma_e'",
        ),
        ({"priors": {"sigma_e": Normal(0, 1)}}, r'priors\["sigma_e"\]=.* is no prior of a standard deviation'),
        ({"priors": {"omega": {"z9": Flat()}}}, r"names 'z9', which the model does not have.*'intercept', 'z0', 'z1'"),
        ({"priors": {"omega": Normal([0, 0], 1)}}, r'priors\["omega"\] is a Normal of 2 coefficients, the model has 3'),
        ({"tol": 0}, r"tol=0 must be a number between 0 and 1"),
        ({"max_iter": 0.5}, r"max_iter=0.5 must be a whole number"),
        ({"fit_intercept": 1}, r"fit_intercept=1 is neither True nor False"),
    ],
)
def test_bad_options(options, message):
    y, Z, X = PROBLEMS["wide"]
    with pytest.raises(ValueError, match=message):
        BayesWideLMM(**options).fit(X, y, Z[:, 1:])


def test_improper_posterior_is_an_error():
    """A density 1/σ_β piles up at σ_β = 0, where the likelihood is positive."""
    y, Z, X = PROBLEMS["wide"]
    with pytest.raises(IntegrationError, match="improper"):
        BayesWideLMM(priors={"sigma_beta": Flat("log")}).fit(X, y, Z[:, 1:])


def test_not_converged_is_said():
    y, Z, X = PROBLEMS["wide"]
    with pytest.warns(ConvergenceWarning, match=r"from its fixed point"):
        model = BayesWideLMM("mfvi", max_iter=1).fit(X, y, Z[:, 1:])
    assert not model.converged_
    assert model.status_ is Status.NOT_CONVERGED
    assert np.isfinite(model.theta_.to_numpy()).all()
    with pytest.warns(ConvergenceWarning, match=r"raise max_evaluations"):
        model = BayesWideLMM(max_iter=700).fit(X, y, Z[:, 1:])
    assert model.status_ is Status.NOT_CONVERGED
    assert "Not converged" in model.summary()


def test_falling_elbo_is_a_state(monkeypatch):
    """It cannot happen but by rounding: here by a kernel that lies."""
    y, Z, X = PROBLEMS["wide"]
    true = variational.update
    calls = []

    def lying(*arguments):
        calls.append(1)
        state = true(*arguments)
        object.__setattr__(state, "elbo", state.elbo - len(calls))
        return state

    monkeypatch.setattr(variational, "update", lying)
    model = BayesWideLMM("mfvi").fit(X, y, Z[:, 1:])
    assert model.status_ is Status.ELBO_FELL
    assert not model.converged_


def test_priors_against_the_data_leave_two_modes():
    """Either variance may be as small as its prior wants: quadrature covers both, mean field reports the other one."""
    y, Z, X = problem = draw(0, 30, 60, 1, signal=0.7)
    priors = {"sigma_beta": LogNormal(-5, 0.3), "sigma_e": LogNormal(-3, 0.3), "omega": Normal(0, 1)}
    exact, found = bound_below_evidence(problem, priors)
    t = mean_eigenvalue(Z, X)
    _, _, evidence = naive.bayes_nodes(
        lambda sb, se: naive.bayes_loglik(y, Z, X, np.zeros(1), np.eye(1), sb, se) + log_scale_priors(priors, sb, se), t
    )
    assert exact.log_evidence_ == pytest.approx(evidence, abs=1e-6)
    assert len(found.fit_.modes) == 2
    assert found.fit_.modes[0][2] == found.elbo_ > found.fit_.modes[1][2]
    assert any("Other starts end at other fixed points" in note for note in found.fit_.notes)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", [BayesWideLMM(), BayesWideLMM("mfvi"), BayesWideLMM(standardize=True)], ids=str)
def test_check_estimator(estimator):
    results = check_estimator(estimator, on_fail="raise")
    skipped = {result["check_name"] for result in results if result["status"] == "skipped"}
    assert skipped <= {"check_array_api_input"}


@pytest.mark.parametrize("engine", ["quadrature", "mfvi"])
def test_clone_pickle_and_file(engine, tmp_path):
    y, Z, X = PROBLEMS["wide"]
    covariates = Z[:, 1:]
    model = BayesWideLMM(engine, priors={"sigma_e": HalfNormal(3), "omega": Normal(0, 5)})
    assert clone(model).get_params() == model.get_params()
    fitted = model.fit(X, y, covariates)
    again = pickle.loads(pickle.dumps(fitted))
    for want, got in zip(
        fitted.predict(X, covariates, return_std=True, interval="prediction"),
        again.predict(X, covariates, return_std=True, interval="prediction"),
        strict=True,
    ):
        np.testing.assert_array_equal(want, got)
    read = fl.load(fitted.fit_.save(tmp_path / "fit.npz"))
    assert read.summary() == fitted.summary()
    pd.testing.assert_frame_equal(read.theta.table, fitted.theta_)
    assert read.theta.quantile("pve", 0.2) == fitted.fit_.theta.quantile("pve", 0.2)
    assert read.priors == fitted.fit_.priors
    assert read.log_evidence == fitted.log_evidence_


def test_quantiles():
    theta = fit_literally(PROBLEMS["wide"]).fit_.theta
    for name in theta.table.index:
        got = theta.quantile(name, [0.05, 0.5, 0.95])
        np.testing.assert_allclose(got, theta.table.loc[name, ["q05", "q50", "q95"]], rtol=1e-4)
    with pytest.raises(ValueError, match="parameter='h2' is not known: choose 'sigma2_beta', 'sigma2_e', 'pve'"):
        theta.quantile("h2", 0.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        theta.quantile("pve", 1.5)


def test_spectrum_is_reused_whatever_its_form():
    y, Z, X = PROBLEMS["wide"]
    plain = BayesWideLMM().fit(X, y, Z[:, 1:])
    for spectrum in (Spectrum.of(X), Spectrum.of(X, reuse=False)):
        again = BayesWideLMM().fit(X, y, Z[:, 1:], spectrum=spectrum)
        assert again.log_evidence_ == pytest.approx(plain.log_evidence_, abs=1e-9)
        np.testing.assert_allclose(again.beta_var_, plain.beta_var_, rtol=1e-9)
    with pytest.raises(ValueError, match="another X"):
        BayesWideLMM().fit(X[:, 1:], y, Z[:, 1:], spectrum=Spectrum.of(X))


def test_features_without_a_trace():
    """X within the covariates' span: the posterior of σ_β is its prior, PVE is 0."""
    y, Z, _ = PROBLEMS["wide"]
    model = BayesWideLMM(priors={"sigma_beta": HalfNormal(1.0), "omega": Flat()}).fit(np.ones((len(y), 3)), y, Z[:, 1:])
    assert model.theta_.loc["sigma2_beta", "mean"] == pytest.approx(1.0, rel=1e-6)
    np.testing.assert_array_equal(model.theta_.loc["pve"], 0.0)


def coverage(count):
    """How often central 95 % intervals of PVE hold it, θ drawn from the prior, one X for all sets."""
    problem = draw(11, 60, 120, 2)
    _, Z, X = problem
    t = mean_eigenvalue(Z, X)
    priors = {"sigma_beta": HalfNormal(1 / np.sqrt(t)), "sigma_e": HalfNormal(1.0), "omega": Normal(0, 2)}
    spectrum = Spectrum.of(X)
    rng = np.random.default_rng(2026)
    hits = 0
    for _ in range(count):
        sb, se = (float(priors[name].sample(rng)) for name in ("sigma_beta", "sigma_e"))
        omega = priors["omega"].sample(rng, 2)
        y = Z @ omega + X @ rng.normal(scale=sb, size=X.shape[1]) + rng.normal(scale=se, size=len(Z))
        model = BayesWideLMM(priors=priors, fit_intercept=False, tol=1e-4).fit(X, y, Z, spectrum=spectrum)
        lower, upper = model.fit_.theta.quantile("pve", [0.025, 0.975])
        hits += lower <= sb**2 * t / (sb**2 * t + se**2) <= upper
    return hits / count


def test_coverage():
    assert coverage(60) == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 60))


@pytest.mark.slow
def test_coverage_over_a_thousand_sets():
    assert 0.93 <= coverage(1000) <= 0.97
