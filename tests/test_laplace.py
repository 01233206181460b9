"""Modes, Laplace's approximation and importance sampling, against closed forms and quadrature."""

import densities
import numpy as np
import pytest
from scipy import special, stats

from fastlmm_vi import ConvergenceWarning, IntegrationError, Status
from fastlmm_vi.grid import integrate
from fastlmm_vi.importance import SplitT, importance, split_t
from fastlmm_vi.laplace import laplace
from fastlmm_vi.log_density import Differenced


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e5])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_normal_exactly(k, scale):
    density, exact = densities.normal(k, scale=scale)
    found = laplace(density, np.zeros(k))
    assert found.converged
    sd = np.sqrt(np.diag(exact.cov)) if k > 1 else np.sqrt(np.atleast_1d(exact.cov).ravel())
    np.testing.assert_allclose(found.mode, exact.mean, atol=1e-4 * sd.min(), rtol=0)
    np.testing.assert_allclose(found.covariance, np.atleast_2d(exact.cov), atol=1e-6 * sd.max() ** 2)
    assert found.log_evidence == pytest.approx(0.0, abs=1e-6)


def test_gradient_of_differences():
    for density in (densities.funnel(3), densities.schools(), densities.student(2, 4), densities.normal(4)[0]):
        x = np.random.default_rng(0).normal(size=density.dim)
        value, gradient = Differenced(density.logp, density.names).logp_grad(x)
        assert value == density.logp(x)
        np.testing.assert_allclose(gradient, density.logp_grad(x)[1], rtol=1e-9, atol=1e-9)


def test_mode_from_afar_and_where_curvature_is_negative():
    density = densities.student(3, 3)  # convex from √3 onwards
    found = laplace(density, [30.0, -20.0, 5.0])
    np.testing.assert_allclose(found.mode, 0.0, atol=1e-4)
    np.testing.assert_allclose(found.precision, 2.0 * np.eye(3), rtol=1e-5, atol=1e-5)
    schools = laplace(densities.schools(), [0.0, 0.0])
    np.testing.assert_allclose(densities.schools().logp_grad(schools.mode)[1], 0.0, atol=1e-4)


def test_no_mode():
    rising = Differenced(lambda x: float(x[0] - 0.5 * x[1] ** 2), ["a", "b"])
    with pytest.raises(IntegrationError, match="rises without end"):
        laplace(rising, [0.0, 0.0])
    with pytest.raises(ValueError, match="start has shape"):
        laplace(rising, [0.0])
    with pytest.raises(ValueError, match="at start"):
        laplace(Differenced(lambda x: -np.inf, ["a"]), [0.0])


def test_not_reached():
    with pytest.warns(ConvergenceWarning, match="mode was not reached"):
        found = laplace(densities.normal(3)[0], np.full(3, 100.0), max_iter=1)
    assert not found.converged


def test_split_t_is_a_density():
    proposal = SplitT(
        np.array([1.0, -2.0]), np.array([[2.0, 0.3], [0.3, 0.5]]), np.array([[1.0, 0.7], [3.0, 2.0]]), 5.0
    )
    x = proposal.draw(np.random.default_rng(0), 400_000)
    box = np.array([[-9.0, -4.0], [11.0, 3.0]])
    inside = ((x > box[0]) & (x < box[1])).all(axis=1).mean()
    a, b = np.meshgrid(*(np.linspace(*side, 1501) for side in box.T), indexing="ij")
    values = np.exp(proposal.log_density(np.column_stack([a.ravel(), b.ravel()])))
    cell = (a[1, 0] - a[0, 0]) * (b[0, 1] - b[0, 0])
    assert values.sum() * cell == pytest.approx(inside, abs=0.004)  # four Monte-Carlo errors; edges of the half axes
    eta = np.linalg.solve(proposal.root, (x - proposal.center).T)
    np.testing.assert_allclose((eta > 0.0).mean(axis=1), 0.5, atol=0.004)
    for side, sign in enumerate((-1.0, 1.0)):
        spread = [np.median(sign * one[sign * one > 0.0]) for one in eta] / stats.t(5).ppf(0.75)
        np.testing.assert_allclose(spread, proposal.scales[side], rtol=0.01)


def test_same_scales_are_the_student_t():
    root = np.linalg.cholesky([[2.0, 0.5], [0.5, 1.0]])
    x = np.random.default_rng(0).normal(size=(5, 2))
    found = SplitT(np.ones(2), root, np.ones((2, 2)), 6.0).log_density(x)
    np.testing.assert_allclose(found, stats.multivariate_t(np.ones(2), root @ root.T, 6).logpdf(x), rtol=1e-12)


def gammas(*shapes):
    """Logarithms of independent Gamma variables."""
    a = np.array(shapes)
    return densities.Plain(lambda x: (float(a @ x - np.exp(x).sum()), a - np.exp(x)), [f"x{i}" for i in range(a.size)])


@pytest.mark.parametrize("shapes", [(3.0,), (0.5, 10.0), (1.0, 2.0, 5.0, 0.7)])
def test_skewed(shapes):
    density, a = gammas(*shapes), np.array(shapes)
    found = importance(density, laplace(density, np.zeros(a.size)), draws=10_000, random_state=1)
    assert found.converged
    assert found.k < 0.5
    assert found.log_evidence == pytest.approx(special.gammaln(a).sum(), abs=4 * found.log_evidence_se)
    assert found.log_evidence_se < 0.02
    np.testing.assert_array_less(np.abs(found.mean - special.digamma(a)), 4 * found.mcse(found.draws))
    np.testing.assert_allclose(found.sd, np.sqrt(special.polygamma(1, a)), rtol=0.06)
    chosen = found.draws[found.resample(np.random.default_rng(0), 10_000)]
    np.testing.assert_allclose(chosen.mean(axis=0), found.mean, atol=0.05)
    assert found.ess > 2000


def test_eight_schools_against_quadrature():
    density = densities.schools()
    exact = integrate(density.logp, [0.0, 0.0])
    found = importance(density, laplace(density, [0.0, 0.0]), draws=20_000, random_state=0)
    assert found.converged
    assert found.log_evidence == pytest.approx(exact.log_evidence, abs=4 * found.log_evidence_se)
    np.testing.assert_array_less(np.abs(found.mean - exact.mean), 4 * found.mcse(found.draws))


def test_error_of_the_evidence_is_honest():
    """Over 100 seeds, errors of the estimates in units of the stated ones have a standard deviation near 1."""
    density = gammas(1.0, 3.0)
    normal = laplace(density, [0.0, 0.0])
    runs = [importance(density, normal, draws=1000, random_state=seed) for seed in range(100)]
    z = [(run.log_evidence - special.gammaln(3.0)) / run.log_evidence_se for run in runs]
    assert np.std(z) == pytest.approx(1.0, abs=0.3)
    assert np.mean(z) == pytest.approx(0.0, abs=0.4)


def test_heavy_weights_are_admitted():
    density = densities.funnel(9)
    shifted = densities.Plain(
        lambda x: (density.logp(x) - 0.05 * (x @ x), density.logp_grad(x)[1] - 0.1 * x), density.names
    )
    normal = laplace(shifted, np.full(10, 0.3))
    with pytest.warns(ConvergenceWarning, match="Pareto k̂"):
        found = importance(shifted, normal, random_state=0)
    assert found.status is Status.HEAVY_WEIGHTS
    assert not found.converged
    assert "nuts" in found.status.advice


def test_few_effective_draws():
    with pytest.warns(ConvergenceWarning, match="effective sample size below 400"):
        found = importance(gammas(1.0), laplace(gammas(1.0), [0.0]), draws=300, random_state=0)
    assert found.status is Status.FEW_DRAWS


def test_seeds():
    density, _ = densities.normal(2)
    normal = laplace(density, [0.0, 0.0])
    one, same = (importance(density, normal, draws=500, random_state=7) for _ in range(2))
    np.testing.assert_array_equal(one.draws, same.draws)
    assert split_t(density, normal).df == 7.0
    with pytest.raises(ValueError, match="draws=5"):
        importance(density, normal, draws=5)
