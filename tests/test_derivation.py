"""Each formula of docs/derivation.md, evaluated by its function and by its dense twin."""

import re
from pathlib import Path

import naive
import numpy as np
import pages
import pytest
from fastlmm_vi_kernels import spectral, sweep
from problems import PROBLEMS

from fastlmm_vi import WideLMM
from fastlmm_vi.wide import blocks, design, information, mean_field, posterior, profile, road, sweeps
from fastlmm_vi.wide.basis import LIKELIHOOD, RESTRICTED, elbo
from fastlmm_vi.wide.spectrum import Spectrum

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "derivation.md").read_text(encoding="utf-8")
PAIRS = re.findall(r"^→ `([\w.]+)` · twin `naive\.(\w+)`$", PAGE, flags=re.MULTILINE)
SB, SE = 0.03, 0.7
GAMMA = SB / SE


class Setting:
    """One problem with everything that the formulas speak of."""

    def __init__(self, name, *, form="eigenvectors"):
        self.y, self.Z, self.X = PROBLEMS[name]
        self.design = design.build(self.X, self.y, self.Z, fit_intercept=False, standardize=False)
        self.rotated = Spectrum.of(self.X, reuse=form != "tridiagonal").rotate(self.design)
        self.spectrum, self.basis = Spectrum.of(self.X, reuse=form != "tridiagonal"), self.rotated
        if form == "bordered":
            self.spectrum, self.basis = road.choose(self.design, trace=False)
        rng = np.random.default_rng(0)
        self.a = rng.normal(size=self.Z.shape[1])
        self.omega = self.design.omega(self.a)
        p = self.X.shape[1]
        self.mean, self.var = rng.normal(size=p), rng.gamma(2.0, 0.01, size=p)
        self.data = (self.y, self.Z, self.X)
        self.theta = (self.omega, SB, SE)
        self.sq_norms = np.sum(self.X**2, axis=0)


def check_loglik(s):
    assert spectral.marginal_loglik(SB, SE, s.a, *s.rotated) == pytest.approx(s.basis.loglik(SB, SE, s.a), rel=1e-12)
    return s.basis.loglik(SB, SE, s.a), naive.loglik(*s.data, *s.theta)


def check_posterior_mean(s):
    return posterior.exact_mean(s.design, s.spectrum, GAMMA, s.a), naive.posterior(*s.data, *s.theta)[0]


def check_em(s):
    half = s.y.var() / 2
    n, p = s.X.shape
    path, a = spectral.em(half, half, np.zeros(s.rotated.c), 30, 0.0, *s.rotated[:3], n, p, s.rotated.d)
    expected, omega = naive.em(*s.data, 30)
    got = np.r_[path[:, [1, 2, 0]].ravel(), s.design.omega(a)]
    return got, np.r_[expected.ravel(), omega]


def check_em_step(s):
    got = spectral.em(SB, SE, np.zeros(s.rotated.c), 1, 0.0, *s.rotated[:3], *s.X.shape, s.rotated.d)
    start = s.design.omega(np.zeros(s.a.size))
    omega, sb, se = naive.em_step(*s.data, start, SB, SE)
    return np.r_[s.design.omega(got[1]), got[0][-1, 1:]], np.r_[omega, sb, se]


def check_variances(s):
    return SB * s.spectrum.variances(GAMMA, block=7), np.diag(naive.posterior(*s.data, *s.theta)[1])


def check_profile(s):
    gammas = [1e-3, GAMMA, 3.0]
    got = [s.basis.at(LIKELIHOOD, gamma).value for gamma in gammas]
    return np.array(got), np.array([naive.profile_loglik(*s.data, gamma) for gamma in gammas])


def check_reml(s):
    model = WideLMM(reml=True, fit_intercept=False).fit(s.X, s.y, s.Z)
    sb = max(model.sigma2_beta_, 1e-300)
    return model.criterion_, naive.restricted_loglik(*s.data, sb, model.sigma2_e_)


def check_elbo(s):
    residual = s.y - s.Z @ s.omega - s.X @ s.mean
    return sweeps.elbo(residual, s.sq_norms, s.mean, s.var, SB, SE), naive.elbo(*s.data, *s.theta, s.mean, s.var)


def check_kl(s):
    got = mean_field.kl_to_posterior(s.design, s.spectrum, s.mean, s.var, SB, SE, s.a)
    difference = naive.loglik(*s.data, *s.theta) - naive.elbo(*s.data, *s.theta, s.mean, s.var)
    return np.array([got, got]), np.array([naive.kl(*s.data, *s.theta, s.mean, s.var), difference])


def check_mean_field_variances(s):
    return posterior.mean_field_variances(s.sq_norms, GAMMA, SE), naive.mean_field_variances(s.X, SB, SE)


def check_sweep(s):
    mean, residual = s.mean.copy(), s.y - s.Z @ s.omega - s.X @ s.mean
    sweep.sweep(np.asfortranarray(s.X), s.sq_norms, GAMMA, mean, residual)
    expected = naive.sweep(*s.data, s.omega, s.mean, GAMMA)
    return np.r_[mean, residual], np.r_[expected, s.y - s.Z @ s.omega - s.X @ expected]


def check_block_sweep(s):
    parts = np.array_split(np.arange(s.X.shape[1]), 7)
    mean, residual = s.mean.copy(), s.y - s.Z @ s.omega - s.X @ s.mean
    blocks.Blocks.of(s.design.features, parts).sweep(GAMMA, mean, residual)
    expected = naive.block_sweep(*s.data, s.omega, s.mean, GAMMA, parts)
    return np.r_[mean, residual], np.r_[expected, s.y - s.Z @ s.omega - s.X @ expected]


def ascend(s, *, accelerate, max_iter):
    return sweeps.ascend(
        s.design,
        blocks.Columns(s.design.features),
        accelerate=accelerate,
        fixed=None,
        start=(SB, SE),
        tol=1e-300,
        max_iter=max_iter,
        report=lambda *_: None,
    )


def check_m_step(s):
    run = ascend(s, accelerate=False, max_iter=2)
    omega, mean, sb, se = s.design.omega(np.zeros(s.a.size)), np.zeros(s.X.shape[1]), SB, SE
    for _ in range(2):
        mean = naive.sweep(*s.data, omega, mean, sb / se)
        var = naive.mean_field_variances(s.X, sb, se)
        omega, sb, se = naive.mean_field_m_step(*s.data, mean, var)
    got = np.r_[run.state.mean, s.design.omega(run.state.a), run.state.sigma2_beta, run.state.sigma2_e, run.elbo[-1]]
    return got, np.r_[mean, omega, sb, se, naive.elbo(*s.data, omega, sb, se, mean, var)]


def check_gap(s):
    by_kernel = spectral.mean_field_gap(np.array([GAMMA]), s.sq_norms, s.rotated.d)[0]
    assert by_kernel == pytest.approx(s.basis.gap(s.sq_norms, GAMMA), rel=1e-9)
    return by_kernel, naive.gap(s.X, GAMMA)


def check_subspace(s):
    run = ascend(s, accelerate=True, max_iter=1)
    omega = s.design.omega(np.zeros(s.a.size))
    swept = naive.sweep(*s.data, omega, np.zeros(s.X.shape[1]), GAMMA)
    value, mean = naive.subspace_profile(*s.data, swept[None, :], run.state.gamma)
    around = [naive.subspace_profile(*s.data, swept[None, :], run.state.gamma * f)[0] for f in (0.999, 1.001)]
    held_back = not 0.26 < run.state.gamma / GAMMA < 3.99
    assert held_back or value >= max(around)
    return np.r_[run.elbo[-1], run.state.mean], np.r_[value, mean]


def check_information(s):
    c = s.a.size
    got, expected = [], []
    for reml in (False, True):
        best = profile.maximise(s.basis, RESTRICTED if reml else LIKELIHOOD).best
        found = information.observed(s.basis, best.sigma2_beta, best.sigma2_e, reml=reml)
        assert not found.reason
        got += [found.variances, s.design.omega_covariance(found.effects)]
        variances = np.array([best.sigma2_beta, best.sigma2_e])
        omega = s.design.omega(s.basis.effects(best.gamma).a)
        if reml:
            inverse = np.linalg.inv(-naive.hessian(lambda t: naive.restricted_loglik(*s.data, *t), variances))
            at_theta = np.linalg.inv(
                -naive.hessian(lambda t, v=variances: naive.loglik(*s.data, t, *v), omega)  # GLS at the estimates
            )
            expected += [inverse, at_theta]
        else:
            theta = np.r_[omega, variances]
            joint = np.linalg.inv(-naive.hessian(lambda t: naive.loglik(*s.data, t[:c], t[c], t[c + 1]), theta))
            expected += [joint[c:, c:], joint[:c, :c]]
    return np.concatenate([part.ravel() for part in got]), np.concatenate([part.ravel() for part in expected])


def check_pve(s):
    t = s.basis.explained / (s.design.n - s.design.c)
    return SB * t / (SB * t + SE), naive.pve(s.Z, s.X, SB, SE)


CHECKS = {
    ("fastlmm_vi_kernels.spectral.marginal_loglik", "loglik"): check_loglik,
    ("fastlmm_vi.wide.posterior.exact_mean", "posterior"): check_posterior_mean,
    ("fastlmm_vi_kernels.spectral.em", "em"): check_em,
    ("fastlmm_vi.wide.spectrum.Spectrum.rotate", "em_step"): check_em_step,
    ("fastlmm_vi.wide.spectrum.Spectrum.variances", "posterior"): check_variances,
    ("fastlmm_vi.wide.rotated.Rotated.at", "profile_loglik"): check_profile,
    ("fastlmm_vi.wide.bordered.Bordered.at", "profile_loglik"): check_profile,
    ("fastlmm_vi.wide.newton.fit", "restricted_loglik"): check_reml,
    ("fastlmm_vi.wide.sweeps.elbo", "elbo"): check_elbo,
    ("fastlmm_vi.wide.mean_field.kl_to_posterior", "kl"): check_kl,
    ("fastlmm_vi.wide.posterior.mean_field_variances", "mean_field_variances"): check_mean_field_variances,
    ("fastlmm_vi_kernels.sweep.sweep", "sweep"): check_sweep,
    ("fastlmm_vi.wide.blocks.Blocks.sweep", "block_sweep"): check_block_sweep,
    ("fastlmm_vi.wide.sweeps.ascend", "mean_field_m_step"): check_m_step,
    ("fastlmm_vi_kernels.spectral.mean_field_gap", "gap"): check_gap,
    ("fastlmm_vi.wide.sweeps.ascend", "subspace_profile"): check_subspace,
    ("fastlmm_vi.wide.information.observed", "hessian"): check_information,
    ("fastlmm_vi.wide.rotated.Rotated.explained", "pve"): check_pve,
}
# Differences of a function of size 100 with relative steps of 1e-4 carry about five digits.
TOLERANCE = {check_information: 1e-4}


def test_the_page_and_the_checks_name_the_same_functions():
    assert len(PAIRS) > 10
    assert set(PAIRS) == set(CHECKS)


@pytest.mark.parametrize("path", sorted({path for path, _ in PAIRS}))
def test_named_functions_exist(path):
    pages.check_exists(path)


@pytest.mark.parametrize("form", ["eigenvectors", "tridiagonal", "bordered"])
@pytest.mark.parametrize("problem", ["wide", "tall", "rank_deficient_wide", "rank_deficient_tall"])
@pytest.mark.parametrize("pair", CHECKS, ids=lambda pair: pair[1])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_formula(pair, problem, form):
    check = CHECKS[pair]
    got, expected = check(Setting(problem, form=form))
    np.testing.assert_allclose(got, expected, rtol=TOLERANCE.get(check, 1e-9), atol=1e-10)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("form", ["eigenvectors", "bordered"])
def test_profile_derivatives(problem, form):
    s = Setting(problem, form=form)
    for criterion in (LIKELIHOOD, RESTRICTED, elbo(s.sq_norms)):
        for gamma in (0.01, 0.3, 5.0):
            h = 1e-4 * gamma
            below, point, above = (s.basis.at(criterion, g) for g in (gamma - h, gamma, gamma + h))
            slope, curvature = (above.value - below.value) / (2 * h), (above.slope - below.slope) / (2 * h)
            # Central differences: relative error of the step squared, and rounding over the step.
            np.testing.assert_allclose(point.slope * gamma, slope * gamma, rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(point.curvature * gamma**2, curvature * gamma**2, rtol=1e-5, atol=1e-7)
            assert s.basis.rises(criterion, gamma) == (point.slope > 0.0)
