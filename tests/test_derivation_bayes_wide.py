"""Each formula of docs/derivation_bayes_wide.md, evaluated by its function and by its dense twin."""

import re
from pathlib import Path

import naive
import numpy as np
import pages
import pytest
from problems import PROBLEMS
from scipy import stats

from fastlmm_vi.priors import Flat, HalfNormal, HalfStudentT, InverseGamma, Normal
from fastlmm_vi.wide import design, variational
from fastlmm_vi.wide.evidence import Evidence
from fastlmm_vi.wide.mixture import Mixture
from fastlmm_vi.wide.prior import resolve
from fastlmm_vi.wide.spectrum import Spectrum
from fastlmm_vi.wide.variances import integrate_out, log_prior

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "derivation_bayes_wide.md").read_text(encoding="utf-8")
PAIRS = re.findall(r"^→ `([\w.]+)` · twin `naive\.(\w+)`$", PAGE, flags=re.MULTILINE)
SB, SE = np.array([0.01, 0.03, 0.2]), np.array([0.9, 0.7, 0.1])
TAU = np.array([40.0, 1.7])
IG_BETA, IG_E = (2.0, 0.02), (3.0, 1.5)


class Setting:
    """One problem, the priors, and what is known given the variances."""

    def __init__(self, name):
        self.y, self.Z, self.X = PROBLEMS[name]
        self.data = (self.y, self.Z, self.X)
        self.design = design.build(self.X, self.y, self.Z, fit_intercept=False, standardize=False)
        self.spectrum = Spectrum.of(self.X)
        self.basis = self.spectrum.rotate(self.design)
        c = self.Z.shape[1]
        half = np.random.default_rng(1).normal(size=(c, c)) + 2 * np.eye(c)
        self.m0, self.S0 = np.linspace(-1, 1, c), half @ half.T
        self.priors = self.resolved(Normal(self.m0, self.S0))
        self.t = self.basis.explained / (self.design.n - self.design.c)

    def resolved(self, omega):
        scales = {"sigma_beta": InverseGamma(*IG_BETA), "sigma_e": InverseGamma(*IG_E)}
        return resolve({"omega": omega, **scales}, self.design, 1.0)

    def mixture(self, weights):
        at = Evidence(self.basis, self.priors.effects)(SB, SE)
        return Mixture(
            self.design, self.spectrum, self.basis, weights, SB / SE, SB, SE, at.mean, at.covariance, coupled=True
        )

    @property
    def state(self):
        return variational.update(self.basis, self.X.shape[1], self.priors, TAU)

    def means(self):
        """Where alternate updates of q(ω) and q(β) end at τ."""
        beta = np.zeros(self.X.shape[1])
        for _ in range(5000):
            omega, S_omega = naive.vb_q_omega(*self.data, beta, TAU[1], self.m0, self.S0)
            new, S_beta = naive.vb_q_beta(*self.data, omega, *TAU)
            if np.abs(new - beta).max() < 1e-15:
                break
            beta = new
        return omega, S_omega, new, S_beta


def check_log_prior(s):
    x = np.linspace(-4, 3, 20)
    got = [log_prior(InverseGamma(2.5, 3), x), log_prior(HalfNormal(1.5), x), log_prior(HalfStudentT(3, 0.7), x)]
    densities = [
        lambda sd: stats.invgamma(2.5, scale=3).pdf(sd**2) * 2 * sd,
        stats.halfnorm(scale=1.5).pdf,
        lambda sd: 2 * stats.t(3, scale=0.7).pdf(sd),
    ]
    return np.array(got), np.array([naive.log_variance_prior(density, x) for density in densities])


def check_evidence(s):
    found = Evidence(s.basis, s.priors.effects)(SB, SE)
    expected = [naive.bayes_loglik(*s.data, s.m0, s.S0, sb, se) for sb, se in zip(SB, SE, strict=True)]
    omega = [s.design.omega(a) for a in found.mean]
    W = np.eye(s.Z.shape[1], s.Z.shape[1] + s.X.shape[1])
    effects = [naive.bayes_effects(*s.data, s.m0, s.S0, sb, se, W) for sb, se in zip(SB, SE, strict=True)]
    got = np.r_[
        found.log_likelihood, np.ravel(omega), np.ravel([s.design.omega_covariance(C) for C in found.covariance])
    ]
    return got, np.r_[expected, np.ravel([m for m, _ in effects]), np.ravel([C for _, C in effects])]


def check_flat(s):
    got = Evidence(s.basis, s.resolved(Flat()).effects)(SB, SE).log_likelihood
    return got, np.array([naive.bayes_loglik_flat(*s.data, sb, se) for sb, se in zip(SB, SE, strict=True)])


def check_integral(s):
    """A density of known integral, in place of a posterior (those: tests/test_bayes_wide.py)."""

    def log_density(x_beta, x_e):
        return stats.norm.logpdf(x_beta, -2, 0.5) + stats.norm.logpdf(x_e, 0.1 * x_beta, 0.3) + 0.4

    def at(sb, se):
        return log_density(np.log(sb), np.log(se))

    found = integrate_out(log_density, (None, None), (0.1, 1.0), s.t, tol=1e-8, max_evaluations=10_000)
    nodes, weights, total = naive.bayes_nodes(at, s.t)
    share = nodes[:, 0] * s.t / (nodes[:, 0] * s.t + nodes[:, 1])
    means = [weights @ nodes[:, 0], weights @ nodes[:, 1], weights @ share]
    return np.r_[found.log_evidence, found.theta.table["mean"]], np.r_[total, means]


WEIGHTS = np.array([0.2, 0.5, 0.3])


def check_variances(s):
    c, p = s.Z.shape[1], s.X.shape[1]
    mean, variance = naive.bayes_average(*s.data, s.m0, s.S0, zip(SB, SE, strict=True), WEIGHTS, np.eye(c + p)[c:])
    mixture = s.mixture(WEIGHTS)
    return np.r_[mixture.mean, mixture.variances()], np.r_[mean, variance]


def check_prediction(s):
    rng = np.random.default_rng(0)
    Z, X = rng.normal(size=(5, s.Z.shape[1])), rng.normal(size=(5, s.X.shape[1]))
    W = np.hstack([Z, X])
    expected = naive.bayes_average(*s.data, s.m0, s.S0, zip(SB, SE, strict=True), WEIGHTS, W)
    only_beta = np.hstack([0 * Z, X])
    of_beta = naive.bayes_average(*s.data, s.m0, s.S0, zip(SB, SE, strict=True), WEIGHTS, only_beta)[1]
    mixture = s.mixture(WEIGHTS)
    return np.r_[(*mixture.moments(X, Z), mixture.predictive(X))], np.r_[(*expected, of_beta)]


def check_q_beta(s):
    _, _, beta, S_beta = s.means()
    mixture = Mixture(
        s.design,
        s.spectrum,
        s.basis,
        np.ones(1),
        TAU[1:] / TAU[0],
        1 / TAU[:1],
        1 / TAU[1:],
        s.state.effects[None],
        s.state.covariance[None],
        coupled=False,
    )
    return np.r_[mixture.mean, mixture.variances()], np.r_[beta, np.diag(S_beta)]


def check_q_omega(s):
    omega, S_omega, _, _ = s.means()
    got = s.design.omega(s.state.effects), s.design.omega_covariance(s.state.covariance).ravel()
    return np.r_[got], np.r_[omega, S_omega.ravel()]


def check_half_squares(s):
    return s.state.half_squares, np.array(naive.vb_half_squares(*s.data, *s.means()))


def check_scale(s):
    got, expected = [], []
    for prior in (InverseGamma(2, 1), HalfNormal(0.8), HalfStudentT(3, 0.5)):
        for number, half_squares in ((3, 0.5), (200, 30.0)):
            got.append(variational.ScaleFactor(prior, number).normalise(half_squares))
            expected.append(naive.vb_scale(prior.log_density, number, half_squares))
    return np.array(got), np.array(expected)


def check_elbo(s):
    omega, S_omega, beta, S_beta = s.means()
    half_beta, half_e = naive.vb_half_squares(*s.data, omega, S_omega, beta, S_beta)
    n, p = s.X.shape
    q = (IG_BETA[0] + p / 2, IG_BETA[1] + half_beta), (IG_E[0] + n / 2, IG_E[1] + half_e)
    expected = naive.vb_elbo(*s.data, s.m0, s.S0, omega, S_omega, beta, S_beta, IG_BETA, IG_E, *q)
    new = [q[0][0] / q[0][1], q[1][0] / q[1][1]]
    return np.r_[s.state.elbo, s.state.new], np.r_[expected, new]


def check_ascent(s):
    last = variational.ascend(s.basis, s.X.shape[1], s.priors, (30.0, 2.0), tol=1e-9, max_iter=200).states[-1]
    path, omega, _, _, _, q_beta, q_e = naive.vb(*s.data, s.m0, s.S0, IG_BETA, IG_E, 4000)
    assert (np.diff(path) > -1e-8).all()
    got = np.r_[last.elbo, s.design.omega(last.effects), last.new]
    return got, np.r_[path[-1], omega, q_beta[0] / q_beta[1], q_e[0] / q_e[1]]


CHECKS = {
    ("fastlmm_vi.wide.variances.log_prior", "log_variance_prior"): check_log_prior,
    ("fastlmm_vi.wide.evidence.Evidence", "bayes_loglik"): check_evidence,
    ("fastlmm_vi.wide.evidence.Evidence", "bayes_loglik_flat"): check_flat,
    ("fastlmm_vi.wide.variances.integrate_out", "bayes_nodes"): check_integral,
    ("fastlmm_vi.wide.mixture.Mixture.variances", "bayes_average"): check_variances,
    ("fastlmm_vi.wide.mixture.Mixture.moments", "bayes_average"): check_prediction,
    ("fastlmm_vi.wide.variational.update", "vb_q_beta"): check_q_beta,
    ("fastlmm_vi.wide.variational.update", "vb_q_omega"): check_q_omega,
    ("fastlmm_vi.wide.variational.update", "vb_half_squares"): check_half_squares,
    ("fastlmm_vi.wide.variational.ScaleFactor.normalise", "vb_scale"): check_scale,
    ("fastlmm_vi.wide.variational.update", "vb_elbo"): check_elbo,
    ("fastlmm_vi.wide.variational.ascend", "vb"): check_ascent,
}
# Fixed points of thousands of rounds, found by Newton to 1e-9 in log τ.
TOLERANCE = {check_ascent: 1e-6, check_integral: 1e-7}


def test_the_page_and_the_checks_name_the_same_functions():
    assert len(PAIRS) > 10
    assert set(PAIRS) == set(CHECKS)


@pytest.mark.parametrize("path", sorted({path for path, _ in PAIRS}))
def test_named_functions_exist(path):
    pages.check_exists(path)


@pytest.mark.parametrize("problem", ["wide", "tall", "rank_deficient_wide", "rank_deficient_tall"])
@pytest.mark.parametrize("pair", CHECKS, ids="-".join)
def test_formula(pair, problem):
    check = CHECKS[pair]
    got, expected = check(Setting(problem))
    np.testing.assert_allclose(got, expected, rtol=TOLERANCE.get(check, 1e-8), atol=1e-9)


def test_jacobian_of_share_and_total_is_one():
    h = 1e-6

    def logs(v, s):
        return np.array([s - np.logaddexp(0, -v), s - np.logaddexp(0, v)])

    for v, s in ((-3.0, 0.2), (0.4, -1.0), (6.0, 2.0)):
        J = np.column_stack([(logs(v + h, s) - logs(v - h, s)) / (2 * h), (logs(v, s + h) - logs(v, s - h)) / (2 * h)])
        assert np.linalg.det(J) == pytest.approx(1.0, abs=1e-8)


def test_trapezoid_rule_of_a_normal_density():
    """Its error is 2 exp(−2π²/h²) at worst, as the page says."""
    for h in (1.0, 1.2, 1.5):
        x = h * np.arange(-40, 41)
        error = abs(stats.norm.pdf(x).sum() * h - 1)
        assert error == pytest.approx(2 * np.exp(-2 * np.pi**2 / h**2), rel=1e-3)
