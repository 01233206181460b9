"""Priors: every density against scipy.stats or its integral, derivatives against differences, draws against densities."""

import dataclasses
import itertools
import pickle

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from scipy.stats import kstest

import fastlmm_vi as fl
from fastlmm_vi import priors
from fastlmm_vi.priors import (
    LKJ,
    Exponential,
    Fixed,
    Flat,
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    HuangWand,
    InverseGamma,
    InverseWishart,
    LogNormal,
    Normal,
)

ROOT_IG = scipy.stats.invgamma(2.5, scale=3.0)
SCALES = [
    (HalfNormal(1.7), scipy.stats.halfnorm(scale=1.7).logpdf, "HalfNormal(1.7)"),
    (HalfCauchy(0.6), scipy.stats.halfcauchy(scale=0.6).logpdf, "HalfCauchy(0.6)"),
    (HalfStudentT(3, 2), lambda x: np.log(2) + scipy.stats.t(3, scale=2).logpdf(x), "HalfStudentT(3, 2)"),
    (Exponential(0.25), scipy.stats.expon(scale=4).logpdf, "Exponential(0.25)"),
    (LogNormal(-1, 0.7), scipy.stats.lognorm(0.7, scale=np.exp(-1)).logpdf, "LogNormal(-1, 0.7)"),
    (InverseGamma(2.5, 3), lambda x: ROOT_IG.logpdf(x**2) + np.log(2 * x), "InverseGamma(2.5, 3)"),
]
each_scale = pytest.mark.parametrize(("prior", "log_density", "text"), SCALES, ids=[text for *_, text in SCALES])
AT = np.array([1e-3, 0.1, 0.8, 2.0, 11.0])
FLAT = [Flat(), Flat("variance"), Flat("log")]


@each_scale
def test_scale_priors_are_those_of_scipy(prior, log_density, text):
    np.testing.assert_allclose(prior.log_density(AT), log_density(AT), rtol=1e-10)
    assert isinstance(prior.log_density(0.8), float)
    assert prior.log_density(-0.1) == -np.inf
    assert np.isnan(prior.log_density(np.nan))
    assert str(prior) == text
    assert prior.proper
    assert priors.scale(prior, "sigma") is prior


@pytest.mark.parametrize("prior", [*(prior for prior, *_ in SCALES), *FLAT], ids=str)
def test_slopes_are_derivatives(prior):
    h = 1e-5 * AT
    difference = (prior.log_density(AT + h) - prior.log_density(AT - h)) / (2 * h)
    np.testing.assert_allclose(prior.slope(AT), difference, rtol=1e-6, atol=1e-6)  # differences


@each_scale
def test_draws_follow_the_density(prior, log_density, text):
    draws = prior.sample(np.random.default_rng(5), 4000)
    grid = np.exp(np.linspace(-12, 18, 20_001))
    cdf = scipy.integrate.cumulative_simpson(np.exp(prior.log_density(grid)), x=grid, initial=0.0)
    assert cdf[-1] == pytest.approx(1.0, abs=1e-4)  # Cauchy's tail beyond exp 18 and below exp −12
    assert kstest(draws, lambda x: np.interp(x, grid, cdf)).pvalue > 1e-3
    assert np.ndim(prior.sample(np.random.default_rng(0))) == 0
    assert prior.sample(np.random.default_rng(0), (2, 3)).shape == (2, 3)


def test_densities_at_zero():
    for prior in (LogNormal(0, 1), InverseGamma(1, 1)):
        assert prior.log_density(0.0) == -np.inf
        assert prior.slope(0.0) == np.inf
    assert HalfStudentT(1, 2).log_density(0.0) == pytest.approx(HalfCauchy(2).log_density(0.0), rel=1e-14)


def test_flat_is_flat_where_it_says():
    sd = np.array([0.5, 2.0])
    np.testing.assert_allclose(Flat().log_density(sd), 0.0)
    np.testing.assert_allclose(Flat("variance").log_density(sd) - np.log(2 * sd), 0.0)  # less the Jacobian of σ²
    np.testing.assert_allclose(Flat("log").log_density(sd) + np.log(sd), 0.0)
    assert not any(prior.proper for prior in FLAT)
    assert [str(prior) for prior in FLAT] == ["Flat()", "Flat(variance)", "Flat(log)"]
    with pytest.raises(ValueError, match="improper"):
        Flat().sample(np.random.default_rng(0), 3)


def test_fixed():
    assert str(Fixed(2)) == "Fixed(2)"
    assert Fixed(2).sample(np.random.default_rng(0), 3).tolist() == [2.0] * 3
    assert Fixed(2).proper
    assert priors.scale(Fixed(2), "sigma") == Fixed(2.0)


COVARIANCE = [[2.0, 0.5, 0.1], [0.5, 1.0, -0.2], [0.1, -0.2, 0.7]]


@pytest.mark.parametrize("prior", [Normal([0, 1, 2], COVARIANCE), Normal([0, 1, 2], covariance=COVARIANCE)])
def test_joint_normal(prior):
    x = np.random.default_rng(1).normal(size=(4, 5, 3))
    reference = scipy.stats.multivariate_normal([0, 1, 2], COVARIANCE)
    np.testing.assert_allclose(prior.log_density(x), reference.logpdf(x), rtol=1e-12)
    h = 1e-6 * np.eye(3)
    slope = [(prior.log_density(x + e) - prior.log_density(x - e)) / 2e-6 for e in h]
    np.testing.assert_allclose(prior.slope(x), np.moveaxis(slope, 0, -1), rtol=1e-6, atol=1e-8)
    draws = prior.sample(np.random.default_rng(2), 20_000)
    # Five Monte-Carlo standard errors, √(S_ii S_jj + S_ij²) / √draws at most.
    np.testing.assert_allclose(np.cov(draws.T), COVARIANCE, atol=5 * np.sqrt(8 / 20_000))
    np.testing.assert_allclose(draws.mean(axis=0), [0, 1, 2], atol=5 * np.sqrt(2 / 20_000))
    assert prior.length == 3
    assert prior == Normal([0.0, 1.0, 2.0], np.array(COVARIANCE))


def test_normal_of_each():
    x = np.array([[0.3, -1.0], [2.0, 4.0]])
    one, two = Normal(1, 2), Normal([1, 0], [2, 3])
    np.testing.assert_allclose(one.log_density(x), scipy.stats.norm(1, 2).logpdf(x), rtol=1e-13)
    np.testing.assert_allclose(two.log_density(x), scipy.stats.norm([1, 0], [2, 3]).logpdf(x).sum(axis=1), rtol=1e-13)
    np.testing.assert_allclose(one.slope(x), -(x - 1) / 4)
    np.testing.assert_allclose(two.slope(x), -(x - [1, 0]) / [4, 9])
    assert (one.length, two.length) == (None, 2)
    mean, covariance = one.moments(3)
    assert mean.tolist() == [1.0] * 3
    np.testing.assert_array_equal(covariance, 4 * np.eye(3))
    draws = two.sample(np.random.default_rng(3), 20_000)
    np.testing.assert_allclose(draws.std(axis=0), [2, 3], rtol=5 / np.sqrt(2 * 20_000))
    assert one.sample(np.random.default_rng(3), (4, 2)).shape == (4, 2)
    assert str(two) == "Normal([1, 0], [2, 3])"


@pytest.mark.parametrize("eta", [0.7, 1.0, 3.2])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_lkj_integrates_to_one(eta, k):
    """Over partial correlations given those before, where the space is a cube and Gauss-Jacobi rules are exact."""
    pairs = list(zip(*np.tril_indices(k, -1), strict=True))
    powers = [0.5 * (k - 2 - j) for _, j in pairs]  # of 1 − ρ² in the Jacobian
    rules = [scipy.special.roots_jacobi(3, eta - 1 + power, eta - 1 + power) for power in powers]
    total = 0.0
    for nodes in itertools.product(range(3), repeat=len(pairs)):
        L = np.eye(k)
        weight = 1.0
        for (i, j), (x, w), at in zip(pairs, rules, nodes, strict=True):
            L[i, j] = x[at] * L[i, i]
            L[i, i] *= np.sqrt(1 - x[at] ** 2)
            weight *= w[at] * (1 - x[at] ** 2) ** (1 - eta)  # less the rule's own weight, but for the Jacobian
        total += weight * np.exp(LKJ(eta).log_density(L @ L.T))
    assert total == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_lkj_of_the_cholesky_factor(k):
    """p(L) = p(R) |dR/dL|, the Jacobian by differences."""
    prior = LKJ(1.8)
    R = prior.sample(np.random.default_rng(k), k)[0]
    L = np.linalg.cholesky(R)
    lower = np.tril_indices(k, -1)

    def from_lower(values):
        low = np.zeros((k, k))
        low[lower] = values
        low[np.diag_indices(k)] = np.sqrt(1 - (low**2).sum(axis=1))
        return (low @ low.T)[lower]

    at = L[lower]
    J = np.array([(from_lower(at + e) - from_lower(at - e)) / 2e-6 for e in 1e-6 * np.eye(at.size)])
    expected = prior.log_density(R) + np.log(abs(np.linalg.det(J)))
    assert prior.log_density_cholesky(L) == pytest.approx(expected, rel=1e-6)  # differences


@pytest.mark.parametrize("k", [2, 4])
def test_lkj_draws(k):
    """Every correlation is 2 Beta(a, a) − 1 with a = η + (k − 2)/2."""
    draws = LKJ(1.5).sample(np.random.default_rng(8), k, 4000)
    a = 1.5 + 0.5 * (k - 2)
    for i, j in zip(*np.tril_indices(k, -1), strict=True):
        assert kstest(draws[:, i, j], scipy.stats.beta(a, a, loc=-1, scale=2).cdf).pvalue > 1e-3


def test_lkj_outside_its_support():
    assert LKJ(2).log_density([[1, 1.1], [1.1, 1]]) == -np.inf
    assert LKJ(2).log_density([[2.0, 0.0], [0.0, 1.0]]) == -np.inf
    assert LKJ(2).log_density(np.diag([1.0, -1.0])) == -np.inf
    assert str(LKJ(2)) == "LKJ(2)"


def test_inverse_wishart_is_scipys():
    S = np.array(COVARIANCE)
    for prior, scale in ((InverseWishart(5, 2 * S), 2 * S), (InverseWishart(5, 1.5), 1.5 * np.eye(3))):
        reference = scipy.stats.invwishart(5, scale)
        assert prior.log_density(S) == pytest.approx(reference.logpdf(S), rel=1e-12)
        draws = prior.sample(np.random.default_rng(1), 3, 4000)
        # The diagonal of an inverse Wishart is inverse gamma.
        marginal = scipy.stats.invgamma(0.5 * (5 - 2), scale=0.5 * scale[1, 1])
        assert kstest(draws[:, 1, 1], marginal.cdf).pvalue > 1e-3
    assert InverseWishart(5, 1.5).log_density(-S) == -np.inf
    one = InverseWishart(5, 3.0)
    expected = InverseGamma(2.5, 1.5).log_density(0.8) - np.log(2 * 0.8)
    assert one.log_density([[0.64]]) == pytest.approx(expected, rel=1e-12)
    assert one.sample(np.random.default_rng(1), 1, 7).shape == (7, 1, 1)
    assert str(one) == "InverseWishart(5, 3)"


def test_huang_wand_is_its_mixture():
    """The density with a integrated out, against numerical integration over a of the inverse Wishart given a."""
    prior = HuangWand(2.5, [1.3, 0.6])
    S = np.array([[0.8, 0.2], [0.2, 0.5]])

    def given(a2, a1):
        mix = scipy.stats.invgamma(0.5, scale=1.3**-2).pdf(a1) * scipy.stats.invgamma(0.5, scale=0.6**-2).pdf(a2)
        return mix * scipy.stats.invwishart(3.5, 2 * 2.5 * np.diag([1 / a1, 1 / a2])).pdf(S)

    u, step = np.linspace(-7, 14, 61, retstep=True)  # a = exp u: the trapezoid rule converges exponentially
    total = sum(given(np.exp(v), np.exp(w)) * np.exp(v + w) for v in u for w in u) * step**2
    assert prior.log_density(S) == pytest.approx(np.log(total), abs=1e-7)
    assert prior.log_density(-S) == -np.inf


def test_huang_wand_of_one_variance_is_a_half_t():
    expected = HalfStudentT(3, 1.3).log_density(0.8) - np.log(2 * 0.8)
    assert HuangWand(3, 1.3).log_density([[0.64]]) == pytest.approx(expected, rel=1e-12)


def test_huang_wand_draws():
    draws = HuangWand(2, [1.3, 0.6]).sample(np.random.default_rng(4), 2, 4000)
    for j, scale in enumerate((1.3, 0.6)):
        assert kstest(np.sqrt(draws[:, j, j]) / scale, lambda x: 2 * scipy.stats.t(2).cdf(x) - 1).pvalue > 1e-3
    r = draws[:, 0, 1] / np.sqrt(draws[:, 0, 0] * draws[:, 1, 1])
    assert kstest(r, scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert HuangWand(2, 1).sample(np.random.default_rng(4), 1, 3).shape == (3, 1, 1)
    assert str(HuangWand(2, [1.3, 0.6])) == "HuangWand(2, [1.3, 0.6])"


def test_coefficients():
    names = ["Intercept", "x"]
    x = np.array([0.4, -2.0])

    def log_density(g):
        return g.log_constant - 0.5 * (x - g.mean) @ g.precision @ (x - g.mean)

    wide, joint = Normal(0, 10), Normal([1, 2], [[2.0, 0.5], [0.5, 1.0]])
    for prior, expected in [
        (wide, wide.log_density(x).sum()),
        (joint, joint.log_density(x)),
        ({"x": Normal(1, 2), "Intercept": wide}, wide.log_density(0.4) + Normal(1, 2).log_density(-2.0)),
        ([wide, Normal(1, 2)], wide.log_density(0.4) + Normal(1, 2).log_density(-2.0)),
        ({"x": Normal(1, 2), "Intercept": Flat()}, Normal(1, 2).log_density(-2.0)),
        (Flat(), 0.0),
    ]:
        assert log_density(priors.coefficients(prior, names, "beta")) == pytest.approx(expected, abs=1e-12)
    assert priors.coefficients({"x": wide}, names, "beta", default=wide).proper
    assert not priors.coefficients({"x": wide}, names, "beta", default=Flat()).proper
    assert priors.coefficients(wide, [], "beta").mean.shape == (0,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HalfNormal(-1), r"HalfNormal: scale=-1 must be positive"),
        (lambda: HalfCauchy(0), r"HalfCauchy: scale=0 must be positive"),
        (lambda: HalfStudentT(0, 1), r"HalfStudentT: df=0 must be positive"),
        (lambda: Exponential(np.inf), r"Exponential: rate=inf must be finite"),
        (lambda: LogNormal(np.nan, 1), r"LogNormal: mean=nan must be finite"),
        (lambda: InverseGamma("a", 1), r"InverseGamma: shape='a' must be a number"),
        (lambda: InverseGamma(1, True), r"InverseGamma: scale=True must be a number"),
        (lambda: InverseGamma([1, 2], 1), r"InverseGamma: shape has shape \(2,\): give one number"),
        (lambda: Fixed(None), r"Fixed: value=None must be a number"),
        (lambda: Flat("sigma"), r"Flat: on='sigma' is not known"),
        (lambda: Normal(0, -1), r"Normal: sd=-1 must be positive"),
        (lambda: Normal(0), r"give either sd or covariance"),
        (lambda: Normal(0, 1, [[1.0]]), r"give either sd or covariance"),
        (lambda: Normal([[0.0]], 1), r"mean has 2 dimensions"),
        (lambda: Normal([0, 1], [1, 1, 1]), r"mean has length 2, sd 3"),
        (lambda: Normal([0, 1], np.eye(3)), r"mean has length 2, covariance 3 rows"),
        (lambda: Normal([0, 1], [[1, 2], [2, 1]]), r"covariance is not positive definite \(smallest eigenvalue -1\)"),
        (lambda: Normal([0, 1], [[1, 2], [0, 1]]), r"covariance is not symmetric"),
        (lambda: Normal(0, covariance=[1, 2]), r"covariance has shape \(2,\)"),
        (lambda: Normal([0, [1]], 1), r"mean=\[0, \[1\]\] must be a number"),
        (lambda: Normal([0, 1], 1).moments(3, "beta"), r"beta is a Normal of 2 coefficients, the model has 3"),
        (lambda: LKJ(0), r"LKJ: eta=0 must be positive"),
        (lambda: InverseWishart(1, np.eye(3)), r"df=1 must be above k − 1 = 2"),
        (lambda: InverseWishart(1, 1.0).log_density(np.eye(2)), r"df=1 must be above k − 1 = 1"),
        (lambda: InverseWishart(3, np.eye(2)).log_density(np.eye(3)), r"scale is 2 × 2, the covariance 3 × 3"),
        (lambda: InverseWishart(3, -1), r"scale=-1 must be positive"),
        (lambda: HuangWand(2, [1, 0]), r"scales=\[1, 0\] must be positive"),
        (lambda: HuangWand(2, [1, 2]).log_density(np.eye(3)), r"scales has length 2, the covariance is 3 × 3"),
        (lambda: priors.scale(Normal(0, 1), "sigma"), r"sigma=.* is no prior of a standard deviation: give HalfNormal"),
        (lambda: priors.scale(Fixed(0), "sigma"), r"sigma=Fixed\(0\) holds a standard deviation that is not positive"),
        (lambda: priors.coefficients(Fixed(1), ["x"], "beta"), r"beta=.* is no prior of coefficients"),
        (lambda: priors.coefficients("flat", ["x"], "beta"), r"beta='flat' is no prior of coefficients"),
        (lambda: priors.coefficients([Flat()], ["x", "z"], "beta"), r"beta has 1 priors, the model has 2 .*x, z"),
        (lambda: priors.coefficients([HalfNormal(1)], ["x"], "beta"), r"beta\['x'\]=.* is no prior of a coefficient"),
        (
            lambda: priors.coefficients({"w": Flat()}, ["x"], "beta"),
            r"beta names 'w', which the model does not have.*'x'",
        ),
        (lambda: priors.coefficients({"x": Flat()}, ["x", "z"], "beta"), r"beta lacks a prior for 'z'"),
        (lambda: priors.coefficients({"x": Normal([0, 1], 1)}, ["x"], "beta"), r"beta\['x'\] is a Normal of 2"),
    ],
)
def test_bad_arguments_say_what_and_how(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_priors_are_values():
    for prior in (*(prior for prior, *_ in SCALES), *FLAT, Normal([0, 1], np.eye(2)), LKJ(1), HuangWand(2, [1, 2])):
        assert pickle.loads(pickle.dumps(prior)) == prior
        assert hash(prior) == hash(dataclasses.replace(prior))
        with pytest.raises(dataclasses.FrozenInstanceError):
            prior.scale = 3.0
    assert fl.priors is priors
