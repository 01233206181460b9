"""Each formula of docs/derivation_variational.md, evaluated by its function and by its dense twin."""

import re
from functools import cache
from pathlib import Path

import naive_variational as naive
import numpy as np
import pages
import pytest
import variational_problems as problems

from fastlmm_vi import priors, threads
from fastlmm_vi.grouped.correlation_factor import CorrelationFactor
from fastlmm_vi.grouped.covariance_factor import auxiliary, conjugate
from fastlmm_vi.grouped.gaussian_factor import GaussianFactor
from fastlmm_vi.grouped.gaussian_posterior import GaussianPosterior
from fastlmm_vi.grouped.kept_blocks import FACTORISATIONS, KeptBlocks
from fastlmm_vi.grouped.scale_factor import ScaleFactor
from fastlmm_vi.grouped.solution import Solution
from fastlmm_vi.grouped.variational_em import ProfileElbo

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "derivation_variational.md").read_text(encoding="utf-8")
PAIRS = re.findall(r"^→ `([\w.]+)` · twin `naive_variational\.(\w+)`$", PAGE, flags=re.MULTILINE)
# One factor with d = 4; a factor of two terms and a tail; three factors with weights; a nested chain.
SEEDS = (1, 2, 8, 12, 18)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with threads.limit(1):
        yield


class Setting:
    """A random model at random expectations of 1/σ² and Σ⁻¹, ours and dense."""

    def __init__(self, seed, factorisation):
        self.rng = np.random.default_rng(seed)
        self.model, self.factorisation = problems.random_model(seed), factorisation
        self.tau = self.rng.gamma(2.0)
        self.precisions = []
        for _, d in self.model.widths:
            A = self.rng.normal(size=(d, d + 2))
            self.precisions.append(A @ A.T)
        self.gaussian = GaussianFactor(self.model.data, self.model.priors.beta, factorisation)
        self.posterior = GaussianPosterior(self.gaussian, self.tau, self.precisions)
        self.dense = self.model.dense(self.tau, self.precisions, factorisation)

    def square(self, d):
        A = self.rng.normal(size=(d, d + 3))
        return A @ A.T


@cache
def setting(seed, factorisation):
    return Setting(seed, factorisation)


def check_means(s):
    p = s.model.X.shape[1]
    got = [s.posterior.moments.beta, *(part.ravel() for part in s.posterior.means)]
    np.testing.assert_allclose(s.posterior.moments.beta_cov, s.dense.cov[:p, :p], rtol=1e-7, atol=1e-10)
    return np.concatenate(got), s.dense.mean


def check_kept(s):
    """Covariances of all levels; of the joint q those of the selected inverse."""
    at, expected = s.model.X.shape[1], []
    for J, d in s.model.widths:
        for _ in range(J):
            expected.append(s.dense.cov[at : at + d, at : at + d].ravel())
            at += d
    return np.concatenate([part.ravel() for part in s.posterior.covariances]), np.concatenate(expected)


def check_residual(s):
    return s.gaussian(s.tau, s.precisions).residual, s.dense.residual


def check_squares(s):
    got = s.posterior.moments.squares
    return np.concatenate([A.ravel() for A in got]), np.concatenate([A.ravel() for A in s.dense.squares])


def check_scale(s):
    got, expected = [], []
    for make in problems.SCALES:
        prior, n, square = make(1.5), int(s.rng.integers(1, 200)), s.rng.gamma(2.0)
        factor = ScaleFactor(prior, n, square)
        precision, bound, density = naive.scale(prior.log_density, n, square, 1.3 * square)
        x = factor.marginals()[0][0].quantile(np.array([0.1, 0.5, 0.9]))
        got += [factor.precision[0, 0], factor.bound(np.array([[1.3 * square]])), *factor.marginals()[0][0].pdf(x)]
        expected += [precision, bound, *density(x)]
    return np.array(got), np.array(expected)


def check_conjugate(s):
    got, expected = [], []
    for d in (1, 2, 3):
        S0, E, n = s.square(d), s.square(d), int(s.rng.integers(1, 50))
        factor = conjugate(priors.InverseWishart(d + 1.5, S0), n, E)
        precision, value = naive.inverse_wishart(d + 1.5, S0, n, E)
        got += [*factor.precision.ravel(), factor.bound(E)]
        expected += [*precision.ravel(), value]
    return np.array(got), np.array(expected)


def check_auxiliary(s):
    got, expected = [], []
    for d in (1, 2, 3):
        scales, E, n = s.rng.gamma(2.0, size=d), s.square(d), int(s.rng.integers(2, 50))
        factor = auxiliary(priors.HuangWand(2.5, scales), n, E)
        precision, value = naive.huang_wand(2.5, scales, n, E)
        got += [*factor.precision.ravel(), factor.bound(E)]
        expected += [*precision.ravel(), value]
    return np.array(got), np.array(expected)


def check_correlated(s):
    got, expected = [], []
    for eta, n in ((1.0, 12), (2.5, 40)):
        both, E = (priors.HalfNormal(1.5), priors.HalfStudentT(3, 2.0)), n * s.square(2)
        factor = CorrelationFactor(*both, eta, n, E)
        precision, value = naive.correlated([one.log_density for one in both], eta, n, E)
        got += [*factor.precision.ravel(), factor.bound(E)]
        expected += [*precision.ravel(), value]
    return np.array(got), np.array(expected)


def check_correlation_density(s):
    S = s.square(3)
    marginal = conjugate(priors.InverseWishart(5, np.eye(3)), 9, S).marginals()[1][1]  # of the first and the third
    density = naive.correlation_density(14, S + np.eye(3), 0, 2)
    r = np.linspace(-0.6, 0.8, 5)
    unscaled = np.array([density(value) for value in r])
    got = marginal.pdf(r)
    return got / got.sum(), unscaled / unscaled.sum()


def check_elbo(s):
    """What the ELBO has of the Gaussian factors; the whole is in tests/test_variational.py."""
    found = s.model.climb(s.factorisation, (s.tau, s.precisions), max_iter=3)
    return found.moments.value, s.model.dense(*found.expectations, s.factorisation).part


def point(s):
    profile = ProfileElbo(s.model.likelihood, s.factorisation)
    return profile, np.random.default_rng(7).normal(size=profile.likelihood.free.size)


def check_point_elbo(s):
    profile, theta = point(s)
    found, roots = profile(theta), Solution(profile.likelihood, theta).roots
    G = [root @ root.T for _, root in sorted(roots.items())]
    y, X, Z, w = s.model.y, s.model.X, s.model.Z, s.model.w
    expected = naive.point_elbo(y, X, Z, w, G, s.model.owners, s.factorisation)
    return np.array([-0.5 * (found.deviance + profile.likelihood.constant), found.gap]), np.array(expected)


def check_slope(s):
    profile, theta = point(s)
    if s.factorisation == "joint":  # keeps everything: there is nothing but the likelihood
        assert profile.blocks == ()
        return 0.0, 0.0
    got, expected = [], []
    for block, lam in zip(KeptBlocks.of(s.model.data, s.factorisation), profile.lams(theta), strict=True):
        free = np.zeros_like(lam, dtype=bool)
        for part, _ in block.terms:
            free[part, part] = np.tri(*lam[part, part].shape, dtype=bool)
        numeric = naive.kept_slope(lambda x, block=block: block.covariances(x)[1], lam)
        got.append(block.slope(lam)[free])
        expected.append(numeric[free])
    return np.concatenate(got), np.concatenate(expected)


CHECKS = {
    "gaussian_posterior.GaussianPosterior.means": check_means,
    "kept_blocks.KeptBlocks.covariances": check_kept,
    "gaussian_factor.GaussianFactor": check_residual,
    "gaussian_posterior.GaussianPosterior.moments": check_squares,
    "scale_factor.ScaleFactor": check_scale,
    "covariance_factor.conjugate": check_conjugate,
    "covariance_factor.auxiliary": check_auxiliary,
    "correlation_factor.CorrelationFactor": check_correlated,
    "covariance_factor.CovarianceFactor.marginals": check_correlation_density,
    "coordinate_ascent.climb": check_elbo,
    "variational_em.ProfileElbo": check_point_elbo,
    "kept_blocks.KeptBlocks.slope": check_slope,
}
ALIKE = {name for name in CHECKS if name.startswith(("scale", "covariance", "correlation"))}  # for all factorisations
CASES = [(name, f) for name in CHECKS for f in (FACTORISATIONS[:1] if name in ALIKE else FACTORISATIONS)]


def test_every_formula_is_checked():
    assert {name.removeprefix("fastlmm_vi.grouped.") for name, _ in PAIRS} == set(CHECKS)
    assert len(PAIRS) == len(CHECKS)


@pytest.mark.parametrize(("ours", "twin"), PAIRS)
def test_names_exist(ours, twin):
    pages.check_exists(ours)
    assert callable(getattr(naive, twin))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("name", "factorisation"), CASES)
def test_formulas(name, factorisation, seed):
    got, expected = CHECKS[name](setting(seed, factorisation))
    # differences by 1e-6 in kept_slope; plain grids with ends in correlated and correlation_density
    rough = {"kept_blocks.KeptBlocks.slope": 1e-6, "correlation_factor.CorrelationFactor": 1e-5}.get(name, 1e-7)
    np.testing.assert_allclose(got, expected, rtol=rough, atol=rough * 1e-2 * np.abs(expected).max())
