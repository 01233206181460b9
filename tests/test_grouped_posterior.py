"""The exact posterior of the grouped model: density, conditionals and draws against dense normal distributions."""

import re
from pathlib import Path

import grouped_problems as problems
import numpy as np
import pages
import pytest
import scipy.stats

from fastlmm_vi import priors
from fastlmm_vi.grouped import model_priors, posterior, recovery
from fastlmm_vi.grouped.cross_products import CrossProducts
from fastlmm_vi.grouped.model_frame import build

SEEDS = range(20)


def setting(seed):
    """A random problem, its posterior under normal priors, φ, and the dense joint moments of (β, b) and y."""
    problem = problems.draw(seed)
    design = build(problem.formula, problem.frame, weights=problem.weights)
    data = CrossProducts.of(design)
    rng = np.random.default_rng(seed)
    p = design.X.shape[1]
    beta = [priors.Normal(rng.normal(), rng.uniform(0.5, 3.0)) for _ in range(p)]
    post = posterior.Posterior(data, model_priors.resolve({"beta": beta}, design))
    return post, 0.5 * rng.normal(size=len(post.names)), beta


def dense(post, phi, beta):
    """Mean and covariance of (β, b of all terms, y), jointly."""
    design, scales = post.data.design, post.scales(phi)
    X = design.X
    parts, covs = [X], [np.diag([one.sd**2 for one in beta])]
    for term, sd, root in zip(design.terms, scales.sd, scales.correlation, strict=True):
        J, d = len(term.factor.levels), len(term.names)
        Z = np.zeros((len(X), J, d))
        Z[np.arange(len(X)), term.factor.codes] = term.basis
        parts.append(Z.reshape(len(X), -1))
        half = sd[:, None] * root
        covs.append(np.kron(np.eye(J), half @ half.T))
    A, P = np.hstack(parts), scipy.linalg.block_diag(*covs)
    weights = np.ones(len(X)) if design.weights is None else design.weights
    mean = np.append([one.mean for one in beta], np.zeros(A.shape[1] - len(beta)))
    V = A @ P @ A.T + np.diag(scales.sigma**2 / weights)
    offset = 0.0 if design.offset is None else design.offset
    gain = np.linalg.solve(V, A @ P).T
    return mean + gain @ (design.y - offset - A @ mean), P - gain @ A @ P, offset + A @ mean, V


def log_prior(post, phi, scales):
    """Of φ, β's apart: priors of standard deviations and correlations, times the Jacobians of φ."""
    total = float(post.priors.sigma.log_density(scales.sigma)) + phi[-1]
    for prior, sd, root in zip(post.priors.terms, scales.sd, scales.correlation, strict=True):
        total += (
            prior.log_density(sd, root) + np.log(sd).sum() + jacobian(posterior.partial_correlations(root), len(sd))
        )
    return total


def jacobian(partial, d):
    """Log |∂(correlation matrix) / ∂z|, z = atanh of the canonical partial correlations (LKJ 2009, equation 11)."""
    columns = np.array([j for i in range(d) for j in range(i)])
    return float(((1.0 + 0.5 * (d - 2 - columns)) * np.log1p(-(partial**2))).sum())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_density_and_conditionals(seed):
    post, phi, beta = setting(seed)
    design, scales = post.data.design, post.scales(phi)
    np.testing.assert_allclose(post.phi(scales), phi, rtol=1e-10, atol=1e-12)
    mean, cov, of_y, V = dense(post, phi, beta)
    expected = scipy.stats.multivariate_normal(of_y, V).logpdf(design.y) + log_prior(post, phi, scales)
    assert post(phi) == pytest.approx(expected, rel=1e-9, abs=1e-8)

    p = len(beta)
    fixed, covariance = post.recovery.fixed(phi)
    np.testing.assert_allclose(fixed[0], mean[:p], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(covariance[0], cov[:p, :p], rtol=1e-6, atol=1e-9)
    random, sds = post.recovery.random(phi)
    np.testing.assert_allclose(random[0], mean[p:], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(sds[0], np.sqrt(np.diag(cov)[p:]), rtol=1e-6, atol=1e-8)


class Numbers:
    """A generator of numbers that are known."""

    def __init__(self, rows):
        self.rows, self.at = rows, 0

    def standard_normal(self, shape):
        self.at += shape[0]
        return self.rows[self.at - shape[0] : self.at]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_draws_are_affine_in_normal_numbers_with_the_joint_covariance(seed, monkeypatch):
    post, phi, beta = setting(seed)
    mean, cov, *_ = dense(post, phi, beta)
    size = len(mean)
    monkeypatch.setattr(recovery, "MOST_VALUES", 5 * size)  # five rows at a time
    phis = np.tile(phi, (size + 1, 1))
    draws = np.hstack(post.recovery.draw(phis, Numbers(np.vstack([np.zeros(size), np.eye(size)]))))
    np.testing.assert_allclose(draws[0], mean, rtol=1e-6, atol=1e-8)
    root = draws[1:] - draws[0]
    np.testing.assert_allclose(root.T @ root, cov, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_predictors_of_the_data(seed):
    post, phi, beta = setting(seed)
    mean, cov, _, _ = dense(post, phi, beta)
    design = post.data.design
    parts = [design.X]
    for term in design.terms:
        Z = np.zeros((len(design.X), len(term.factor.levels), len(term.names)))
        Z[np.arange(len(Z)), term.factor.codes] = term.basis
        parts.append(Z.reshape(len(Z), -1))
    A = np.hstack(parts)
    means, variances = post.recovery.predictors(phi)
    np.testing.assert_allclose(means[0], A @ mean + (0.0 if design.offset is None else design.offset), rtol=1e-6)
    np.testing.assert_allclose(variances[0], np.einsum("ij,jk,ik->i", A, cov, A), rtol=1e-6)


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_many_rows_are_recovered_as_one_by_one(seed):
    post, phi, _ = setting(seed)
    phis = phi + 0.1 * np.random.default_rng(seed).normal(size=(4, phi.size))
    both = post.recovery.random_and_draw(phis, np.random.default_rng(1))
    rng = np.random.default_rng(1)
    alone = [post.recovery.random_and_draw(row, rng) for row in phis]
    for k, one in enumerate(both):
        np.testing.assert_array_equal(one, np.vstack([at[k] for at in alone]))
    np.testing.assert_array_equal(both[:2], post.recovery.random(phis))
    for one, other in zip(both[2:], post.recovery.draw(phis, np.random.default_rng(1)), strict=True):
        np.testing.assert_array_equal(one, other)
    levels = [(len(term.factor.levels), len(term.names)) for term in post.data.design.terms]
    by_term = post.recovery.by_term(both.means)
    assert [one.shape for one in by_term] == [(4, *shape) for shape in levels]
    np.testing.assert_array_equal(np.hstack([one.reshape(4, -1) for one in by_term]), both.means)


def test_rows_without_a_density_are_refused():
    post, phi, _ = setting(0)
    phis = np.array([phi, np.full(phi.size, np.nan)])
    with pytest.raises(ValueError, match="Row 1 of phis"):
        post.recovery.random(phis)


@pytest.mark.parametrize("d", [2, 3, 5])
def test_jacobian_of_correlations(d):
    rng = np.random.default_rng(d)
    z = 0.5 * rng.normal(size=d * (d - 1) // 2)

    def correlations(z):
        root = posterior.correlation_root(np.tanh(z), d)
        return (root @ root.T)[np.tril_indices(d, -1)]

    step = 1e-6
    J = np.array([(correlations(z + step * row) - correlations(z - step * row)) / (2 * step) for row in np.eye(z.size)])
    assert jacobian(np.tanh(z), d) == pytest.approx(np.linalg.slogdet(J)[1], rel=1e-7)
    np.testing.assert_allclose(
        posterior.partial_correlations(posterior.correlation_root(np.tanh(z), d)), np.tanh(z), rtol=1e-12
    )


def test_the_derivation_points_to_code_that_exists():
    page = (Path(__file__).resolve().parents[1] / "docs" / "derivation_posterior.md").read_text(encoding="utf-8")
    names = re.findall(r"^→ `([\w.]+)`", page, flags=re.MULTILINE)
    assert len(names) == 9
    for name in names:
        pages.check_exists(name)
