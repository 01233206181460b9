"""The grouped engine against N × N twins: deviance, gradient, effects and all their covariances, on random designs."""

import grouped_problems as problems
import numpy as np
import pandas as pd
import pytest

from fastlmm_vi import DataError, FitWarning
from fastlmm_vi.grouped import blocks, cross_products, elimination
from fastlmm_vi.grouped.cross_products import CrossProducts
from fastlmm_vi.grouped.factor import Factor
from fastlmm_vi.grouped.likelihood import Likelihood
from fastlmm_vi.grouped.model_frame import build
from fastlmm_vi.grouped.solution import Solution

SEEDS = range(50)


def products(seed):
    problem = problems.draw(seed)
    return CrossProducts.of(build(problem.formula, problem.frame, weights=problem.weights))


def at_random(seed, reml):
    """A likelihood, a random θ, and the dense twin there."""
    likelihood = Likelihood(products(seed), reml)
    theta = np.random.default_rng(seed + 1000).normal(size=likelihood.free.size)
    solution = Solution(likelihood, theta)
    return likelihood, theta, solution, problems.dense(likelihood.data.design, solution.roots)


@pytest.mark.parametrize("reml", [False, True], ids=["ML", "REML"])
@pytest.mark.parametrize("small", [64, 0], ids=["own loops", "LAPACK"])
@pytest.mark.parametrize("seed", SEEDS)
def test_deviance_and_gradient(seed, small, reml, monkeypatch):
    monkeypatch.setattr(elimination, "SMALL", small)
    likelihood, theta, _, twin = at_random(seed, reml)
    value = likelihood(theta)
    # N × N inverses lose some digits where random effects are much larger than the residual.
    assert value.deviance + likelihood.constant == pytest.approx(twin.deviance(reml), abs=1e-8)
    step = 1e-5
    for i in range(theta.size):
        up, down = theta.copy(), theta.copy()
        up[i] += step
        down[i] -= step
        slope = (likelihood(up).deviance - likelihood(down).deviance) / (2 * step)
        assert value.gradient[i] == pytest.approx(slope, abs=1e-6)  # rounding of f over the step


@pytest.mark.parametrize("seed", SEEDS)
def test_gradient_at_the_boundary(seed):
    """Where columns of Λ are 0 the deviance is even in them: their slope is 0, the others' that of differences."""
    likelihood, theta, *_ = at_random(seed, True)
    triangles = likelihood.unpack(theta)
    triangles[0][:, -1] = 0.0
    theta = likelihood.pack(triangles)
    value = likelihood(theta)
    for i in range(theta.size):
        up, down = theta.copy(), theta.copy()
        up[i] += 1e-5
        down[i] -= 1e-5
        slope = (likelihood(up).deviance - likelihood(down).deviance) / 2e-5
        assert value.gradient[i] == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("reml", [False, True], ids=["ML", "REML"])
@pytest.mark.parametrize("seed", SEEDS[:20])
def test_effects(seed, reml):
    likelihood, _, solution, twin = at_random(seed, reml)
    design = likelihood.data.design
    np.testing.assert_allclose(solution.beta, twin.beta, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(solution.sigma**2, twin.sigma2(reml), rtol=1e-8)
    joint = twin.joint_cov(reml)
    p = design.X.shape[1]
    np.testing.assert_allclose(solution.beta_cov, joint[:p, :p], rtol=1e-6, atol=1e-9)
    expected, covariance, at = twin.effects(), twin.effects_cov(reml), 0
    for k, term in enumerate(design.terms):
        levels, d = solution.effects[k].shape
        size = levels * d
        np.testing.assert_allclose(solution.effects[k].ravel(), expected[at : at + size], rtol=1e-6, atol=1e-8)
        blocks = [covariance[at + i * d : at + (i + 1) * d, at + i * d : at + (i + 1) * d] for i in range(levels)]
        np.testing.assert_allclose(solution.effect_cov[k], blocks, rtol=1e-6, atol=1e-8)
        at += size
        assert term.basis.shape[1] == d
    combine = np.hstack([design.X, twin.Z])  # every row of the data
    variance = solution.variance_of(design.X, [(term.basis, term.factor.codes) for term in design.terms])
    np.testing.assert_allclose(variance, np.einsum("ij,jk,ik->i", combine, joint, combine), rtol=1e-6, atol=1e-8)


def test_the_cost_of_an_evaluation_does_not_know_of_the_rows():
    problem = problems.draw(3)
    once, twice = (
        CrossProducts.of(build(problem.formula, frame))
        for frame in (problem.frame, problem.frame.loc[problem.frame.index.repeat(2)].reset_index(drop=True))
    )
    for a, b in zip((*once.pattern, *once.products), (*twice.pattern, *twice.products), strict=True):
        assert np.shape(a) == np.shape(b)


def test_a_parent_with_more_random_effects_than_its_children_leads_all_the_same():
    rng = np.random.default_rng(0)
    frame = problems.pd.DataFrame(
        {"child": np.arange(3000) // 5, "x": rng.normal(size=3000), "z": rng.normal(size=3000)}
    )
    frame["parent"] = frame["child"] // 2
    frame["y"] = rng.normal(size=3000)
    data = CrossProducts.of(build("y ~ x + (1 + x + z | parent) + (1 | child)", frame))
    assert [group.factor.name for group in data.groups] == ["child", "parent"]
    assert data.pattern.leading == 2


def test_nested_factors_need_no_dense_matrix():
    rng = np.random.default_rng(0)
    frame = problems.pd.DataFrame({"child": np.arange(4000) // 4})
    frame["parent"], frame["region"] = frame["child"] // 10, frame["child"] // 100
    frame["y"] = rng.normal(size=4000)
    nested = CrossProducts.of(build("y ~ 1 + (1 | child) + (1 | parent) + (1 | region)", frame))
    assert nested.pattern.leading == 3
    assert nested.products.border.size == 0
    frame["item"] = rng.integers(0, 30, 4000)
    crossed = CrossProducts.of(build("y ~ 1 + (1 | child) + (1 | item) + (1 | parent)", frame))
    assert [group.factor.name for group in crossed.groups] == ["child", "parent", "item"]
    assert crossed.pattern.leading == 2
    assert len(crossed.products.border) == 30
    frame["big"] = rng.integers(0, 1050, 4000)  # crossed, and with fewer random effects than the chain of the others
    heavy = CrossProducts.of(build("y ~ 1 + (1 | big) + (1 | parent) + (1 | child)", frame))
    assert [group.factor.name for group in heavy.groups] == ["child", "parent", "big"]


def test_what_a_dense_part_takes_is_said_before_it_is_taken():
    def crossed(levels):
        factor = Factor("item", pd.RangeIndex(levels), np.zeros(1, np.intp))
        return [blocks.Group(factor, (0,), np.ones((1, 1)))]

    cross_products._check_memory(crossed(5_000))
    with pytest.warns(
        FitWarning, match=r"20000 random effects of the crossed factors item need 6.4 GB, .* about 4 min"
    ):
        cross_products._check_memory(crossed(20_000))
    with pytest.raises(DataError, match=r"need 16000.0 GB; this machine has"):
        cross_products._check_memory(crossed(1_000_000))
