"""Quadrature of log densities, against closed forms."""

import numpy as np
import pytest
from scipy import special, stats

from fastlmm_vi import ConvergenceWarning, IntegrationError
from fastlmm_vi.grid import integrate

LEVELS = np.array([0.001, 0.05, 0.5, 0.95, 0.999])


def normal(k, scale=1.0, seed=0):
    half = np.random.default_rng(seed).normal(size=(k, k + 2))
    return stats.multivariate_normal(scale * (np.arange(k) + 3), scale**2 * half @ half.T)


@pytest.mark.parametrize(("k", "most"), [(1, 100), (2, 700), (3, 7000), (4, 70_000)])
def test_normal(k, most):
    d = normal(k)
    grid = integrate(lambda x: np.atleast_1d(d.logpdf(x)), np.zeros(k), vectorised=True)
    assert grid.converged
    assert grid.error < 1e-8
    assert grid.evaluations <= most
    assert grid.log_evidence == pytest.approx(0.0, abs=1e-8)
    sd = np.sqrt(np.diag(d.cov))
    np.testing.assert_allclose(grid.mean, d.mean, atol=1e-8)
    np.testing.assert_allclose(grid.covariance / np.outer(sd, sd), d.cov / np.outer(sd, sd), atol=1e-8)
    assert grid.weights.sum() == pytest.approx(1.0, rel=1e-12)
    assert grid.expectation(np.ones((len(grid.nodes), 2))) == pytest.approx(np.ones(2), rel=1e-12)
    for j in range(k if k < 4 else 1):
        marginal, exact = grid.marginal(j), stats.norm(d.mean[j], sd[j])
        np.testing.assert_allclose(marginal.quantile(LEVELS), exact.ppf(LEVELS), atol=1e-7 * sd[j])
        np.testing.assert_allclose(marginal.cdf(exact.ppf(LEVELS)), LEVELS, atol=1e-8)
        np.testing.assert_allclose(marginal.density, exact.pdf(marginal.x), atol=1e-8 / sd[j])
        assert marginal.mass == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("scale", [1e-7, 1e7])
def test_units_do_not_matter(scale):
    """Starting 30 standard deviations away, in any units."""
    d = normal(2, scale)
    grid = integrate(lambda x: np.atleast_1d(d.logpdf(x)), d.mean + 30 * scale, vectorised=True)
    assert grid.log_evidence == pytest.approx(0.0, abs=1e-8)
    np.testing.assert_allclose(grid.covariance, d.cov, rtol=1e-8)
    assert grid.evaluations < 3000


@pytest.mark.parametrize("shape", [50.0, 5.0, 1.0, 0.3, 0.1])
def test_logarithm_of_a_gamma(shape):
    """Skewed; with a small shape, the posterior of a log standard deviation that has mass near 0."""
    grid = integrate(lambda x: shape * x[0] - np.exp(x[0]), [0.0])
    sd = np.sqrt(special.polygamma(1, shape))
    assert grid.log_evidence == pytest.approx(special.gammaln(shape), abs=1e-8)
    assert grid.mean[0] == pytest.approx(special.digamma(shape), abs=1e-8 * sd)
    assert grid.covariance[0, 0] == pytest.approx(sd**2, rel=1e-8)
    exact = np.log(stats.gamma(shape).ppf(LEVELS))
    # The mean's tail ends at a density of exp(−cut), which the smallest quantile of the heaviest tail notices.
    np.testing.assert_allclose(grid.marginal(0).quantile(LEVELS), exact, atol=1e-6 * sd)
    assert grid.evaluations < 900


@pytest.mark.parametrize(("df", "k", "most"), [(4, 1, 500), (4, 2, 20_000), (30, 2, 2000), (30, 3, 40_000)])
def test_student_t(df, k, most):
    d = stats.multivariate_t(np.ones(k), 2 * np.eye(k) - 1 + np.ones((k, k)) if k == 1 else np.eye(k) + 0.5, df)
    grid = integrate(lambda x: np.atleast_1d(d.logpdf(x)), np.zeros(k), vectorised=True)
    assert grid.log_evidence == pytest.approx(0.0, abs=1e-8)
    np.testing.assert_allclose(grid.covariance, np.atleast_2d(d.shape) * df / (df - 2), rtol=1e-8, atol=1e-8)
    exact = stats.t(df, 1, np.sqrt(np.atleast_2d(d.shape)[0, 0]))
    np.testing.assert_allclose(grid.marginal(0).quantile(LEVELS), exact.ppf(LEVELS), atol=1e-6)
    assert grid.evaluations < most


def banana(x):
    return stats.norm.logpdf(x[:, 0]) + stats.norm.logpdf(x[:, 1], x[:, 0] ** 2, 0.5)


def test_banana():
    grid = integrate(banana, [0.5, 0.5], vectorised=True)
    assert grid.log_evidence == pytest.approx(0.0, abs=1e-8)
    np.testing.assert_allclose(grid.mean, [0.0, 1.0], atol=1e-8)
    np.testing.assert_allclose(grid.covariance, np.diag([1.0, 2.25]), atol=1e-8)
    np.testing.assert_allclose(grid.marginal(0).quantile(LEVELS), stats.norm.ppf(LEVELS), atol=1e-5)  # short bent lines
    assert grid.evaluations < 5000


def test_start_on_a_cliff():
    """Of a variance that is 10⁷ times too small: the search for the mode is stuck, the lattice is not."""

    def log_density(x):
        return (-3000 * x - np.exp(-np.maximum(x, -300)))[:, 0]

    grid = integrate(log_density, [-25.0], vectorised=True)
    assert grid.log_evidence == pytest.approx(special.gammaln(3000), rel=1e-10)


def test_several_modes():
    def two(x):
        return np.logaddexp(
            stats.norm.logpdf(x, -30, 1).sum(axis=1) + np.log(0.3),
            stats.norm.logpdf(x, 30, 1).sum(axis=1) + np.log(0.7),
        )

    grid = integrate(two, [[-28.0, -28.0], [29.0, 29.0]], vectorised=True)
    assert grid.log_evidence == pytest.approx(0.0, abs=1e-8)
    np.testing.assert_allclose(grid.mean, [12.0, 12.0], rtol=1e-8)
    assert grid.marginal(0).cdf(0.0) == pytest.approx(0.3, abs=1e-6)
    one = integrate(two, [29.0, 29.0], vectorised=True)
    assert one.log_evidence == pytest.approx(np.log(0.7), abs=1e-8)


def test_functions_that_have_to_converge():
    """E[exp(2x)] of a skewed tail: the grid must reach where the integrand, not only the density, is negligible."""

    def log_density(x):  # of log v, v inverse gamma of shape 2.2: the variance of v exists, barely
        return (-2.2 * x - np.exp(-x))[:, 0]

    plain = integrate(log_density, [0.0], vectorised=True)
    grid = integrate(log_density, [0.0], of=np.exp, vectorised=True)
    v = np.exp(grid.nodes[:, 0])
    assert grid.expectation(v) == pytest.approx(1 / 1.2, rel=1e-8)
    assert grid.expectation(v**2) == pytest.approx(1 / (1.2 * 0.2), rel=1e-8)
    assert plain.expectation(np.exp(2 * plain.nodes[:, 0])) != pytest.approx(1 / (1.2 * 0.2), rel=1e-4)


@pytest.mark.parametrize("tol", [1e-8, 1e-6, 1e-4])
def test_two_variances_of_which_each_may_vanish(tol):
    """Correlated around the mode, with tails along coordinates: lattices rotated in x lost part of the mass in them."""
    rng = np.random.default_rng(3)
    d = rng.uniform(0.3, 2.0, 40)
    y = rng.normal(size=40) * np.sqrt(0.5 * d + 0.5)

    def log_density(b, e):
        v = np.exp(b)[:, None] * d + np.exp(e)[:, None]
        return -0.5 * (np.log(v) + y**2 / v).sum(axis=1) + 0.5 * (b + e) - 0.02 * (np.exp(b) + np.exp(e))

    # In share and total of the variances the tails are flat: the product rule is exact there.
    v, s = (grid.ravel() for grid in np.meshgrid(np.linspace(-80, 80, 641), np.linspace(-3, 4, 141)))
    values = log_density(s + special.log_expit(v), s + special.log_expit(-v))
    truth = special.logsumexp(values) + np.log(0.25 * 0.05)
    grid = integrate(lambda x: log_density(*x.T), [0.0, 0.0], of=np.exp, vectorised=True, tol=tol)
    assert grid.log_evidence == pytest.approx(truth, abs=tol)


def test_second_coordinate_plus_a_function_of_the_first():
    grid = integrate(banana, [0.5, 0.5], vectorised=True)
    exact = stats.norm(0, np.sqrt(1 + 0.25))  # x_1 − x_0² + x_0
    found = grid.marginal(1, lambda x: x - x**2)
    np.testing.assert_allclose(found.quantile(LEVELS), exact.ppf(LEVELS), atol=1e-4)
    np.testing.assert_allclose(found.density, exact.pdf(found.x), atol=1e-4)
    with pytest.raises(ValueError, match=r"j=0 must be 0 … 1, and plus goes with the second of two"):
        grid.marginal(0, lambda x: x)


def test_sums_of_a_far_and_a_near_coordinate():
    """log σ² = total + share: a wide first coordinate, and lines of a narrow second one that lie far apart."""

    def log_density(x):
        return 0.3 * x[:, 0] - np.exp(x[:, 0]) + stats.norm.logpdf(x[:, 1], 0, 0.05)

    grid = integrate(log_density, [0.0, 0.0], vectorised=True, tol=1e-6)
    found = grid.marginal(1, lambda x: x)
    u, step = np.linspace(-0.4, 0.4, 161, retstep=True)
    kernel = stats.norm.pdf(u, 0, 0.05) * step
    for level in LEVELS:
        end = float(found.quantile(level))
        assert kernel @ stats.gamma(0.3).cdf(np.exp(end - u)) == pytest.approx(level, abs=1e-5)


def test_draws():
    draws = integrate(banana, [0.5, 0.5], vectorised=True).sample(np.random.default_rng(0), 4000)
    assert draws.shape == (4000, 2)
    assert stats.kstest(draws[:, 0], stats.norm.cdf).pvalue > 1e-3
    assert stats.kstest((draws[:, 1] - draws[:, 0] ** 2) / 0.5, stats.norm.cdf).pvalue > 1e-3
    draws = integrate(lambda x: 0.3 * x[0] - np.exp(x[0]), [0.0]).sample(np.random.default_rng(0), 2000)
    assert stats.kstest(np.exp(draws[:, 0]), stats.gamma(0.3).cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    "log_density",
    [
        lambda x: 0.0,
        lambda x: -0.5 * x[0] ** 2,  # flat in the second
        lambda x: -0.5 * x[0] ** 2 + min(x[1], 0.0),  # on one side
        lambda x: -0.5 * x[0] ** 2 - np.log1p(x[1] ** 2),  # Cauchy: no mean
    ],
)
def test_improper(log_density):
    with pytest.raises(IntegrationError, match=r"does not (decay|fall off)|not negligible"):
        integrate(log_density, [0.1, 0.1], max_evaluations=20_000)


def test_too_few_evaluations_are_named():
    d = normal(3)
    with pytest.warns(ConvergenceWarning, match=r"stopped at \d+ evaluations with an estimated error of"):
        grid = integrate(lambda x: d.logpdf(x), np.zeros(3), vectorised=True, max_evaluations=5000)
    assert not grid.converged
    assert grid.log_evidence == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(
    ("log_density", "start", "message"),
    [
        (lambda x: np.nan, [0.0], r"The log density is nan at \[0\.\]"),
        (lambda x: np.inf, [0.0], r"The log density is inf at \[0\.\]"),
        (lambda x: -np.inf, [0.0], r"The density is 0 at start=\[0\.\]"),
        (lambda x: 0.0, np.zeros(5), r"start has shape \(5,\): give one to four finite coordinates"),
        (lambda x: 0.0, [np.nan], r"give one to four finite"),
        (lambda x: 0.0, np.zeros((1, 1, 1)), r"give one to four finite"),
    ],
)
def test_bad_input(log_density, start, message):
    with pytest.raises(ValueError, match=message):
        integrate(log_density, start)


def test_quantiles_are_of_probabilities():
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        integrate(lambda x: -0.5 * x @ x, [0.0]).marginal(0).quantile(1.0)
