"""Each formula of docs/derivation_grouped.md, evaluated by its function and by its dense twin."""

import re
from dataclasses import replace
from fractions import Fraction
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

import grouped_problems as problems
import naive
import numpy as np
import pages
import pandas as pd
import pytest
import scipy.linalg
import scipy.stats
from fastlmm_vi_kernels import blocks as kernels
from fastlmm_vi_kernels import dense
from fastlmm_vi_kernels.blocks import Pattern, Products
from problems import PROBLEMS
from scipy.optimize import nnls

from fastlmm_vi import WideLMM, lmm, lrt, threads
from fastlmm_vi.grouped import blocks, information, one_way, parameters, profiling, reml, trust_region, uncertainty
from fastlmm_vi.grouped import lrt as lrt_module
from fastlmm_vi.grouped.cross_products import CrossProducts
from fastlmm_vi.grouped.factor import Factor
from fastlmm_vi.grouped.likelihood import Likelihood
from fastlmm_vi.grouped.model_frame import build
from fastlmm_vi.grouped.result import MixedFit
from fastlmm_vi.grouped.solution import Solution
from fastlmm_vi.grouped.standard import StandardTerm, exact_centre, standard_term, standard_x
from fastlmm_vi.wide.basis import LIKELIHOOD, RESTRICTED
from fastlmm_vi.wide.design import build as build_wide
from fastlmm_vi.wide.spectrum import Spectrum

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "derivation_grouped.md").read_text(encoding="utf-8")
PAIRS = re.findall(r"^→ `([\w.]+)` · twin `naive\.([\w.]+)`$", PAGE, flags=re.MULTILINE)
METHODS = pytest.mark.parametrize("restricted", [False, True], ids=["ML", "REML"])
# d = 4 and singular; ||, weights, a tail; two tails; d = 3 by ||; factors crossed, with weights; a nested chain of three.
SEEDS = (1, 2, 8, 11, 15, 18, 19)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Matrices of order 100 gain nothing by threads, and lose much where other programs want the cores."""
    with threads.limit(1):
        yield


@cache
def setting(seed, restricted):
    return Setting(seed, restricted)


class Factored(NamedTuple):
    """What the kernels make of one problem at one θ: two whole matrices, and the arrays as they are."""

    filled: np.ndarray
    factor: np.ndarray
    half: float  # log-determinant of the leading part
    L: np.ndarray
    T: np.ndarray
    inverse: np.ndarray
    x: np.ndarray
    c: np.ndarray
    S: np.ndarray
    of_logdet: np.ndarray
    of_squares: np.ndarray


class Setting:
    """One random problem with everything that the formulas speak of, in standard coordinates and in those given."""

    def __init__(self, seed, restricted):
        self.seed, self.reml = seed, restricted
        self.problem = problems.draw(seed)
        self.design = build(self.problem.formula, self.problem.frame, weights=self.problem.weights)
        self.data = CrossProducts.of(self.design)
        self.likelihood = Likelihood(self.data, restricted)
        theta = np.random.default_rng(seed + 1000).normal(size=self.likelihood.free.size)
        roots = [reml.canonical(L)[0] for L in self.likelihood.unpack(theta)]
        self.theta = self.likelihood.pack(roots)
        self.X, self.y, self.n = self.data.fixed.Q, self.data.fixed.y, len(self.design.y)
        self.parts = [expand(group.basis, group.factor.codes, group.levels) for group in self.data.groups]
        self.Z = np.hstack(self.parts)
        self.weights = np.ones(self.n) if self.design.weights is None else self.design.weights

    def lam(self, theta):
        """Λ_f of every factor."""
        place = self.data.pattern.place
        lam = self.likelihood.lam(theta)
        return [lam[a:b].reshape(g.d, g.d) for g, a, b in zip(self.data.groups, place[:-1], place[1:], strict=True)]

    def expand(self, lams):
        """The whole of a Λ, or of a change of it, of all levels of all factors."""
        return naive._block_diagonal(
            [np.kron(np.eye(g.levels), L) for g, L in zip(self.data.groups, lams, strict=True)]
        )

    def root(self, theta):
        return self.expand(self.lam(theta))

    def standard(self, theta):
        """The dense model in standard coordinates."""
        root = self.root(theta)
        return naive.Grouped(self.y, self.X, [self.Z], [root @ root.T], np.ones(self.n))

    def weighted(self, theta):
        """The dense model in the units given, weights in the rows."""
        root, w = self.root(theta), np.sqrt(self.weights)
        y, X = self.design.y * w, self.design.X * w[:, None]
        return naive.Grouped(y, X, [self.Z], [root @ root.T], np.ones(self.n))

    def given(self, theta):
        """The dense model of the data as given."""
        return problems.dense(self.design, Solution(self.likelihood, theta).roots)

    def moves(self, theta):
        """The change of every Λ_f with every entry of θ."""
        eye = np.eye(theta.size)
        return [self.lam(row) for row in eye]

    def first(self, theta):
        """First derivatives of V in θ."""
        ZL, changed = self.Z @ self.root(theta), [self.Z @ self.expand(move) for move in self.moves(theta)]
        return [Z @ ZL.T + ZL @ Z.T for Z in changed]

    def second(self, theta):
        """Second derivatives of V in θ."""
        changed = [self.Z @ self.expand(move) for move in self.moves(theta)]
        return [[Za @ Zb.T + Zb @ Za.T for Zb in changed] for Za in changed]

    @cached_property
    def factored(self):
        """Every kernel's result at θ, one after another."""
        p, products, lam = self.data.pattern, self.data.products, self.likelihood.lam(self.theta)
        effects, side = p.effect[-1], len(products.border)
        L, S = np.empty_like(products.panels), np.zeros_like(products.panels)
        T = np.empty((side + p.q, side + p.q))
        kernels.fill(p, products, lam, L, T)
        filled = self.assemble(L, T)
        half = kernels.eliminate(p, L, T)
        assert dense.cholesky(T) == len(T)
        inverted = side + (p.q - 1 if self.reml else 0)
        inverse, x = np.empty((inverted, inverted)), np.empty(effects + p.q - 1)
        residual, c = np.empty(effects + p.q), np.empty(effects + p.q)
        dense.invert(T, inverse)
        kernels.solve(p, L, T, x)
        kernels.unexplained(p, products, lam, x, residual, c)
        kernels.selected_inverse(p, L, inverse, S)
        of_logdet, of_squares = np.empty(lam.size), np.empty(lam.size)
        kernels.gradient(p, products, lam, x, c, inverse, S, of_logdet, of_squares)
        return Factored(filled, self.assemble(L, T), half, L, T, inverse, x, c, S, of_logdet, of_squares)

    def places(self):
        """Row, column and place of every number of the panels, in the order of the mixed-model equations."""
        p, found = self.data.pattern, []
        for f in range(p.leading):
            d = p.width[f]
            for v in range(p.group[f], p.group[f + 1]):
                own = p.effect[f] + (v - p.group[f]) * d
                rows = [np.arange(own, own + d)]
                for e in range(p.near[v], p.near[v + 1]):
                    rows.append(p.row[e] + np.arange(p.width[p.factor[e]]))
                rows.append(p.effect[-1] + np.arange(p.q))
                row, column = np.meshgrid(np.concatenate(rows), np.arange(own, own + d), indexing="ij")
                place = p.panel[v] + np.arange(row.size)
                found.append(np.column_stack([row.ravel(), column.ravel(), place]))
        return np.concatenate(found).T

    def assemble(self, panels, tail):
        """The lower triangle of the whole matrix; what no block holds is 0."""
        p = self.data.pattern
        head, size = p.effect[p.leading], p.effect[-1] + p.q
        out = np.zeros((size, size))
        row, column, place = self.places()
        out[row, column] = panels[place]
        out[head:, head:] = tail
        return np.tril(out)

    @cached_property
    def fit(self):
        return MixedFit.of(self.data, self.design.formula, "reml" if self.reml else "ml")


def expand(basis, codes, levels):
    """Z of one factor: the basis in the columns of its level, (N, levels · d)."""
    n, d = basis.shape
    Z = np.zeros((n, levels, d))
    Z[np.arange(n), codes] = basis
    return Z.reshape(n, levels * d)


# Section 2.


def check_fill(s):
    return s.factored.filled, np.tril(naive.mixed_model_matrix(s.y, s.X, s.Z, s.root(s.theta)))


def check_solve(s):
    return s.factored.x, naive.mixed_model_solution(s.y, s.X, s.Z, s.root(s.theta))


def check_deviance(s):
    model = s.standard(s.theta)
    logdets = [np.linalg.slogdet(model.V)[1], np.linalg.slogdet(model.XtViX)[1] if s.reml else 0.0]
    assert s.likelihood(s.theta).logdet == pytest.approx(sum(logdets), rel=1e-10)
    return s.likelihood(s.theta).deviance + s.likelihood.constant, s.given(s.theta).deviance(s.reml)


# Section 3.


def check_centre(s):
    """Differences are exact to the last bit under an offset, and for entries of the largest's power of two; else nearly."""
    offset = [1e9 + s.design.y, np.round(s.design.y, 1) + 3e5, 1.5 + 0.2 * np.tanh(s.design.y)]
    rounded, bounds = [], []
    for column in (*offset, s.design.y, *s.design.X.T):
        c, largest = exact_centre(column), np.abs(column).max()
        spacing = np.spacing(largest)
        assert abs(c - column.mean()) <= 2 * spacing
        assert (c / spacing).is_integer()
        exact = np.array(naive.exact_differences(column, c))
        error = np.array([float(abs(Fraction(float(d)) - e)) for d, e in zip(column - c, exact, strict=True)])
        assert error.max() <= spacing
        same = np.frexp(column)[1] == np.frexp(largest)[1]
        held = np.ones(len(column), bool) if np.ptp(column) < largest / 2 else same & (np.abs(column - c) <= largest)
        rounded.append(error[held])
        bounds.append(np.zeros(held.sum()))
    return np.concatenate(rounded), np.concatenate(bounds)


def check_standard_x(s):
    x = standard_x(s.design)
    beta, scale, XtWX = naive.least_squares(s.design.y, s.design.X, s.weights)
    np.testing.assert_allclose(x.Q.T @ x.Q, np.eye(len(beta)), atol=1e-13)
    np.testing.assert_allclose(x.Q.T @ x.y, 0.0, atol=1e-12)
    got = [x.least_squares, [x.scale, x.logdet], (x.to_beta @ x.to_beta.T).ravel()]
    return np.concatenate(got), np.r_[beta, scale, np.linalg.slogdet(XtWX)[1], np.linalg.inv(XtWX).ravel()]


def check_standard_term(s):
    got, expected = [], []
    for term in s.design.terms:
        standard = standard_term(term, s.design.weights)
        B, d = standard.basis, len(term.names)
        np.testing.assert_allclose(B.T @ B, s.n * np.eye(d), atol=1e-11 * s.n)
        np.testing.assert_allclose(B @ standard.M, term.basis * np.sqrt(s.weights)[:, None], rtol=1e-9, atol=1e-11)
        got.append(standard.M.ravel())
        expected.append(naive.basis_root(term.basis, s.weights).ravel())
    return np.concatenate(got), np.concatenate(expected)


def check_constant(s):
    return s.likelihood.constant, s.given(s.theta).deviance(s.reml) - s.standard(s.theta).deviance(s.reml)


# Section 4.


def check_order(s):
    groups, leading = blocks.order(s.data.groups)
    return leading, naive.eliminated_one_by_one([group.factor.codes for group in groups])


def check_sums(s):
    pattern, products = blocks.sums(s.data.groups, s.data.pattern.leading, np.column_stack([s.X, s.y]))
    head, size = pattern.effect[pattern.leading], pattern.effect[-1]
    tail = np.zeros((size - head + pattern.q,) * 2)
    for (left, right), (i, j), at in zip(pattern.tail_factor, pattern.tail_row, pattern.tail_block, strict=True):
        a, b = pattern.width[left], pattern.width[right]
        block = products.tail[at : at + a * b].reshape(a, b)
        tail[i - head : i - head + a, j - head : j - head + b] = block
    tail[size - head :, : size - head] = products.border.T
    tail[size - head :, size - head :] = products.corner
    return s.assemble(products.panels, tail), np.tril(naive.cross_products(s.y, s.X, s.Z))


def check_eliminate(s):
    C = naive.mixed_model_matrix(s.y, s.X, s.Z, s.root(s.theta))
    head = s.data.pattern.effect[s.data.pattern.leading]
    expected = naive.cholesky(C)
    assert s.factored.half == pytest.approx(np.log(np.diag(expected)[:head]).sum(), rel=1e-10)
    return s.factored.factor, expected


# Section 5.


def check_selected_inverse(s):
    head = s.data.pattern.effect[s.data.pattern.leading]
    dense = naive.inverse(s.y, s.X, s.Z, s.root(s.theta), s.reml)
    row, column, place = s.places()
    held = row < len(dense)
    np.testing.assert_allclose(s.factored.inverse, dense[head:, head:], rtol=1e-7, atol=1e-10)
    return s.factored.S[place[held]], dense[row[held], column[held]]


def check_unexplained(s):
    return s.factored.c, naive.residual_products(s.y, s.X, s.Z, s.root(s.theta))


def check_gradient(s):
    got, expected = [], []
    for theta in (s.theta, np.where(np.arange(s.theta.size) % 2, 0.0, s.theta)):  # the second: with entries at 0
        at = s.likelihood(theta)
        of_logdet, of_squares = naive.grouped_gradient(s.standard(theta), s.first(theta), s.reml)
        got += [at.of_logdet[s.likelihood.free], at.of_squares[s.likelihood.free], at.gradient]
        nu = s.likelihood.degrees
        expected += [of_logdet, of_squares, of_logdet + nu / at.squares * of_squares]
    same = s.likelihood(s.theta)
    np.testing.assert_allclose(s.factored.of_logdet, same.of_logdet, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(s.factored.of_squares, same.of_squares, rtol=1e-10, atol=1e-10)
    return np.concatenate(got), np.concatenate(expected)


def check_one_way(s):
    """The first factor as if it were the only one, against dense matrices, and its slopes against the general kernel's."""
    if len(s.data.groups) > 1:
        ks = s.data.groups[0].terms
        data = CrossProducts.of(replace(s.design, terms=tuple(s.design.terms[k] for k in ks)))
    else:
        data = s.data
    likelihood = Likelihood(data, s.reml)
    theta = np.random.default_rng(s.seed).normal(size=likelihood.free.size)
    one = one_way.OneWay.of(data.one_way, with_x=s.reml)
    one.lam[likelihood.free] = theta
    of_u, of_x, squares = one.run()
    (group,), work = data.groups, likelihood.factored(theta)
    np.testing.assert_allclose(one.slopes, work.slopes, rtol=1e-8, atol=1e-8 * np.abs(work.slopes).max())
    root = np.kron(np.eye(group.levels), one.lam.reshape(group.d, group.d))
    Z = expand(group.basis, group.factor.codes, group.levels)
    expected = naive.one_way(data.fixed.y, data.fixed.Q, Z, root, s.reml)
    return np.array([of_u + of_x if s.reml else of_u, squares]), np.array(expected)


def check_boundary(s):
    """The last column of the first term at 0: curvature 2 D in its entry, 0 with all other entries, and no slope."""
    triangles = s.likelihood.unpack(s.theta)
    triangles[0][:, -1] = 0.0
    theta, d = s.likelihood.pack(triangles), len(triangles[0])
    place = d * (d + 1) // 2 - 1
    at = s.likelihood(theta)
    assert at.gradient[place] == pytest.approx(0.0, abs=1e-12)
    H = trust_region.differences(s.likelihood, theta, at.gradient)
    curvature = naive.boundary_curvature(s.standard(theta), s.parts[0], s.data.groups[0].levels, s.reml)
    expected = np.zeros(theta.size)
    expected[place] = curvature[d - 1, d - 1]  # the first term's effects come first in their factor's block
    return H[place] / np.abs(H).max(), expected / np.abs(H).max()


# Section 6.


def check_start(s):
    factors = [
        (Z, group.levels, [len(s.data.terms[k].M) for k in group.terms])
        for Z, group in zip(s.parts, s.data.groups, strict=True)
    ]
    return reml.start(s.likelihood), s.likelihood.pack(naive.moments(s.y, s.X, factors))


def check_average_information(s):
    got = information.average_information(s.likelihood, s.theta, s.likelihood(s.theta))
    return got, naive.average_information(s.standard(s.theta), s.first(s.theta), s.second(s.theta), s.reml)


def check_newton_step(s):
    """Inside the region the step is Newton's; on its edge it promises nearly as much as the best."""
    rng = np.random.default_rng(s.seed)
    got, expected = [], []
    for shift, radius in ((8.0, 100.0), (8.0, 0.1), (0.0, 0.5), (-3.0, 1.0)):
        B = rng.normal(size=(4, 4))
        B, g = B + B.T + shift * np.eye(4), rng.normal(size=4)
        step, decrease = trust_region.newton_step(g, B, radius)
        best, most = naive.trust_region_step(g, B, radius)
        assert np.linalg.norm(step) <= radius * (1 + 1e-12)
        assert decrease == pytest.approx(-g @ step - step @ B @ step / 2, rel=1e-9)
        if radius == 100.0:
            np.testing.assert_allclose(step, -np.linalg.solve(B, g), rtol=1e-10)
            np.testing.assert_allclose(step, best, rtol=1e-10)
        assert decrease <= most * (1 + 1e-9)
        got.append(decrease)
        expected.append(most)
    return np.array(got), np.array(expected)


def check_fit(s):
    best = reml.fit(s.likelihood)
    nu = s.likelihood.degrees

    def gradient(theta):
        model = s.standard(theta)
        of_logdet, of_squares = naive.grouped_gradient(model, s.first(theta), s.reml)
        return of_logdet + of_squares / model.sigma2(s.reml)

    start = s.likelihood.pack([0.5 * np.eye(len(L)) for L in s.likelihood.unpack(s.theta)])
    value, theta = naive.minimum(lambda theta: s.standard(theta).deviance(s.reml), start, gradient)
    assert best.minimum.converged
    assert best.deviance <= value + 1e-9 * nu
    covariances = [np.concatenate([(L @ L.T).ravel() for L in s.lam(at)]) for at in (best.theta, theta)]
    return np.r_[best.deviance, covariances[0]], np.r_[value, covariances[1]]


def check_canonical(s):
    rng = np.random.default_rng(s.seed)
    got, expected = [], []
    for d in (1, 2, 3, 4):
        for lost in range(d + 1):
            L = np.tril(rng.normal(size=(d, d)))
            L[:, rng.choice(d, lost, replace=False)] = 0.0
            out, rank = reml.canonical(L)
            np.testing.assert_allclose(out @ out.T, L @ L.T, atol=1e-12)
            assert rank == np.linalg.matrix_rank(L) == (np.diag(out) > 0).sum()
            assert not out[:, np.diag(out) == 0.0].any()
            got.append(out.ravel())
            expected.append(naive.lower_root(L @ L.T).ravel())
    for pivot, kept in ((0.9e-5, 0.0), (1.1e-5, 1.1e-5)):  # a pivot below the tolerance, and one above
        np.testing.assert_allclose(reml.canonical(np.array([[-1.0, 0.0], [2.0, pivot]]))[0], [[1.0, 0.0], [-2.0, kept]])
    return np.concatenate(got), np.concatenate(expected)


# Section 7.


def check_beta(s):
    solution, twin = Solution(s.likelihood, s.theta), s.given(s.theta)
    covariance = twin.sigma2(s.reml) * np.linalg.inv(twin.XtViX)
    got = np.r_[solution.beta, solution.sigma, solution.beta_cov.ravel()]
    beta = naive.gls(s.design.y, s.design.X, twin.V)
    return got, np.r_[beta, np.sqrt(twin.sigma2(s.reml)), covariance.ravel()]


def check_effects(s):
    effects = Solution(s.likelihood, s.theta).effects
    return np.concatenate([effects[k].ravel() for k in sorted(effects)]), s.given(s.theta).effects()


def check_effect_cov(s):
    solution, covariance = Solution(s.likelihood, s.theta), s.given(s.theta).effects_cov(s.reml)
    got = naive._block_diagonal([block for k in sorted(solution.effect_cov) for block in solution.effect_cov[k]])
    return got, np.where(got != 0.0, covariance, 0.0)


def check_forward(s):
    p = s.data.pattern
    C = naive.mixed_model_matrix(s.y, s.X, s.Z, s.root(s.theta))[:-1, :-1]
    rng = np.random.default_rng(s.seed)
    A = rng.normal(size=(len(C), 3)) * (rng.random((len(C), 1)) < 0.3)
    expected = naive.forward(C, A)
    kernels.forward(p, s.factored.L, A)
    head = p.effect[p.leading]
    A[head:] = np.linalg.solve(np.tril(s.factored.T[:-1, :-1]), A[head:])
    return A, expected


def check_variance_of(s):
    solution, twin, rng = Solution(s.likelihood, s.theta), s.given(s.theta), np.random.default_rng(s.seed)
    X, rows, dense = rng.normal(size=(5, s.design.X.shape[1])), [], []
    for term in s.design.terms:
        levels, d = len(term.factor.levels), len(term.names)
        coefficients, codes = rng.normal(size=(5, d)), rng.integers(-1, levels, 5)
        rows.append((coefficients, codes))
        dense.append(expand(np.where(codes[:, None] < 0, 0.0, coefficients), codes, levels))
    combine = np.hstack([X, *dense])
    return solution.variance_of(X, rows), np.diag(combine @ twin.joint_cov(s.reml) @ combine.T)


def check_predict(s):
    """Rows of the data with other covariates, every third of groups that the fit has not seen."""
    fit, rng = s.fit, np.random.default_rng(s.seed)
    frame = s.problem.frame.sample(9, random_state=s.seed).reset_index(drop=True)
    frame[["x0", "x1", "x2", "x3"]] += rng.normal(size=(9, 4))
    for name in {term.factor.name for term in s.design.terms}:
        frame.loc[::3, name] = "another"
    with pytest.warns(match="not in the data of the fit"):
        table = fit.predict(frame, interval="prediction", level=0.9)
    rows, (theta, _, H), active = s.design.rows(frame), curvature(s), fit.uncertainty.active

    def dense(theta):
        roots, Z, own = Solution(s.likelihood, theta).roots, [], np.ones(9)  # σ² of the new observation itself
        for k, (term, new) in enumerate(zip(s.design.terms, rows.terms, strict=True)):
            known = new.codes >= 0
            Z.append(expand(new.basis * known[:, None], new.codes, len(term.factor.levels)))
            own += np.where(known, 0.0, np.einsum("ij,jk,ik->i", new.basis, roots[k] @ roots[k].T, new.basis))
        twin = s.given(theta)
        return *naive.kriging(twin, rows.X, np.hstack(Z), own, s.reml), twin.sigma2(s.reml)

    def errors(phi):
        moved = theta.copy()
        moved[active] = phi[:-1]
        _, variance, sigma2 = dense(moved)
        return variance * np.exp(phi[-1]) / sigma2

    mean, variance, sigma2 = dense(theta)
    se = naive.delta_method(errors, np.append(theta[active], np.log(sigma2)), 2 * np.linalg.inv(H))
    half = scipy.stats.t.ppf(0.95, np.maximum(2 * variance**2 / se**2, 1.0)) * np.sqrt(variance)
    return table.to_numpy(), np.column_stack([mean, mean - half, mean + half])


# Section 8, at the optimum of the fit.


def curvature(s):
    """Entries of θ̂ that are not in a column of zeros, derivatives of V in them, and the dense Hessian."""
    theta = s.fit.standard_theta
    first, second = s.first(theta), s.second(theta)
    active = s.fit.uncertainty.active
    first, second = [first[a] for a in active], [[second[a][b] for b in active] for a in active]
    return theta, first, naive.grouped_information(s.standard(theta), first, second, s.reml)


def check_hessian(s):
    return s.fit.uncertainty.hessian, curvature(s)[2]


def check_standard_errors(s):
    theta, _, H = curvature(s)
    active = s.fit.uncertainty.active

    def values(phi):
        moved = theta.copy()
        moved[active] = phi[:-1]
        triangles = dict(zip(s.likelihood.terms, s.likelihood.unpack(moved), strict=True))
        roots = [np.linalg.solve(s.data.terms[k].M, triangles[k]) for k in sorted(triangles)]
        return naive.sd_and_cor([root @ root.T for root in roots], np.exp(phi[-1]))

    phi = np.append(theta[active], 2 * np.log(s.fit.sigma))
    with np.errstate(invalid="ignore"):
        expected = naive.delta_method(values, phi, 2 * np.linalg.inv(H))
    return s.fit.uncertainty.of(parameters.values), expected


def check_satterthwaite(s):
    theta, first, H = curvature(s)
    expected = naive.satterthwaite(s.weighted(theta), first, 2 * np.linalg.inv(H), s.reml)
    return s.fit.uncertainty.satterthwaite(np.eye(len(s.fit.se))), expected


# Sections 9 and 10, on a problem of their own: one factor, intercept and slope.


@cache
def slopes():
    rng = np.random.default_rng(4)
    frame = pd.DataFrame({"g": np.arange(60) % 9, "h": np.arange(60) % 5, "x": rng.normal(size=60) + 1.0})
    b, c = rng.normal(size=(9, 2)) @ [[1.0, 0.4], [0.0, 0.7]], rng.normal(size=5)
    frame["y"] = 1.0 + 0.5 * frame["x"] + b[frame["g"], 0] + b[frame["g"], 1] * frame["x"] + rng.normal(size=60)
    frame["y"] += c[frame["h"]]
    return frame


def check_zeta(s):
    """Every parameter held; the dense deviance as a function of (sd, sd, correlation, σ), and of y − x_j β_j."""
    frame = slopes()
    fit = lmm("y ~ x + (1 + x | g)", frame, method="reml" if s.reml else "ml")
    ml = fit.refit("ml")
    design = fit.data.design
    Z = expand(design.terms[0].basis, design.terms[0].factor.codes, 9)

    def deviance(phi, y=design.y, X=design.X):
        sd, cor, sigma = phi[:2], phi[2], phi[3]
        G = np.outer(sd, sd) * [[1.0, cor], [cor, 1.0]] / sigma**2
        model = naive.Grouped(y, X, [Z], [np.kron(np.eye(9), G)], np.ones(60))
        squares = model.residual @ model.Vi @ model.residual
        return np.linalg.slogdet(model.V)[1] + 60 * np.log(2 * np.pi * sigma**2) + squares / sigma**2

    start = ml.variances.loc[["sd_g__Intercept", "sd_g__x", "cor_g__Intercept__x", "sigma"], "estimate"].to_numpy()
    lowest = naive.minimum(deviance, start)[0]
    got, expected = [], []
    for place, name in enumerate(["sd_g__Intercept", "sd_g__x", "cor_g__Intercept__x", "sigma"]):
        for factor in (0.8, 1.3):
            value = factor * start[place]
            got.append(profiling.Profile(fit, name).zeta(value))
            rise = naive.held_deviance(deviance, start, place, value) - lowest
            expected.append(np.sign(value - start[place]) * np.sqrt(rise))
    for j, name in enumerate(["b_Intercept", "b_x"]):
        value = ml.fixed_effects.iloc[j] + 1.5 * ml.se.iloc[j]
        moved, others = design.y - value * design.X[:, j], np.delete(design.X, j, axis=1)
        got.append(profiling.Profile(fit, name).zeta(value))
        expected.append(np.sqrt(naive.minimum(lambda phi, y=moved, X=others: deviance(phi, y, X), start)[0] - lowest))
    return np.array(got), np.array(expected)


def added_information(model, added, kept, reml):
    """Expected information on the variances of some Z (N, levels) at 0, all other variances unknown: Schur's complement."""
    H = naive.expected_information(model, [Z @ Z.T for Z in (*added, *kept)], reml)
    k = len(added)
    return H[:k, :k] - H[:k, k:] @ np.linalg.pinv(H[k:, k:]) @ H[k:, :k]


def check_reference(s):
    """A variance; a variance with a covariance; two variances of factors whose levels all occur together."""
    rng = np.random.default_rng(s.seed)
    cells = np.stack(np.meshgrid(range(6), range(5), range(4), indexing="ij")).reshape(3, -1)
    frame = pd.DataFrame(dict(zip("abc", cells, strict=True))).assign(x=rng.normal(size=120), y=rng.normal(size=120))
    frame["y"] += rng.normal(size=4)[frame["c"]] + rng.normal(size=120)
    formulas = [
        ("(1 | c)", "(1 | c) + (1 | a)"),
        ("(1 | c)", "(1 + x | c)"),
        ("(1 | c)", "(1 | c) + (1 | a) + (1 | b)"),
    ]
    method = "reml" if s.reml else "ml"
    got, expected = [], []
    for (small, large), added, free in zip(formulas, ("a", "c", "ab"), (0, 1, 0), strict=True):
        fits = [lmm(f"y ~ 1 + {terms}", frame, method=method) for terms in (small, large)]
        weights = lrt_module.reference(*fits)
        got.append(np.array([weights.get(df, 0.0) for df in range(4)]))
        theta2 = fits[0].varcorr["c"].to_numpy().item() / fits[0].sigma ** 2
        Z = {name: expand(np.ones((120, 1)), frame[name].to_numpy(), 6) for name in "abc"}
        model = naive.Grouped(frame["y"].to_numpy(), np.ones((120, 1)), [Z["c"]], [theta2 * np.eye(6)], np.ones(120))
        new = [Z[name] * (frame["x"].to_numpy()[:, None] if free else 1.0) for name in added]
        weights = naive.chi_bar_weights(added_information(model, new, [Z["c"]], s.reml))
        expected.append(np.pad(weights, (free, 4 - free - len(weights))))
    return np.concatenate(got), np.concatenate(expected)


def check_lrt(s):
    frame, method = slopes(), "reml" if s.reml else "ml"
    got, expected = [], []
    pairs = [("(1 | g)", "(1 + x | g)", [0, 0.5, 0.5]), ("(1 | h)", "(1 | h) + (1 | g)", [0.5, 0.5])]
    pairs.append(("(1 | h)", "(1 | h) + (1 + x | g)", [0, 0, 0, 1]))
    for small, large, weights in pairs:
        fits = [lmm(f"y ~ x + {terms}", frame, method=method) for terms in (small, large)]
        row = lrt(*fits, refit=False).iloc[1]
        got += [row["chisq"], row["p"]]
        low, high = (problems.dense(f.data.design, f.solution.roots).deviance(s.reml) for f in fits)
        expected += [low - high, naive.mixture_p(low - high, weights)]
    return np.array(got), np.array(expected)


# Section 11.


def as_grouped(y, Z, X):
    """The cross products of the wide model y = Zω + Xβ + e as of one factor with p levels, all of which every row has."""
    (n, c), p = Z.shape, X.shape[1]
    empty = build("y ~ 1 + (1 | g)", {"y": y, "g": np.arange(n) % 2})
    design = replace(empty, X=Z, fixed_names=tuple(f"z{j}" for j in range(c)))
    factor = Factor("feature", pd.RangeIndex(p), np.zeros(n, np.intp))
    group = blocks.Group(factor, (0,), np.ones((n, 1)))
    fixed = standard_x(design)
    border = np.column_stack([fixed.Q, fixed.y])
    pairs = np.column_stack(np.tril_indices(p))
    none, ends = np.zeros(0, np.intp), np.array([0, p])
    pattern = Pattern(
        width=np.array([1]),
        group=ends,
        effect=ends,
        place=np.array([0, 1]),
        panel=np.array([0]),
        near=np.array([0]),
        factor=none,
        row=none,
        tail_factor=np.zeros_like(pairs),
        tail_row=pairs,
        tail_block=np.arange(len(pairs)),
        leading=0,
        q=c + 1,
    )
    products = Products(np.zeros(0), (X.T @ X)[pairs[:, 0], pairs[:, 1]], X.T @ border, border.T @ border)
    return CrossProducts(design, fixed, (StandardTerm(group.basis, np.eye(1)),), (group,), pattern, products)


def wide_setting(s):
    name = list(PROBLEMS)[s.seed % len(PROBLEMS)]
    y, Z, X = PROBLEMS[name]
    return (y, Z, X), Likelihood(as_grouped(y, Z, X), s.reml), 1.0 / np.mean(np.sum(X**2, axis=0))


def check_bridge_deviance(s):
    data, likelihood, unit = wide_setting(s)
    gammas = unit * np.array([0.0, 0.01, 0.3, 5.0])
    got = [-0.5 * (likelihood(np.sqrt([g])).deviance + likelihood.constant) for g in gammas]
    return np.array(got), np.array([naive.profile_loglik(*data, g, reml=s.reml) for g in gammas])


def check_bridge_effects(s):
    data, likelihood, unit = wide_setting(s)
    solution = Solution(likelihood, np.sqrt([0.3 * unit]))
    se = solution.sigma**2
    mean, S = naive.posterior(*data, solution.beta, 0.3 * unit * se, se)
    return np.r_[solution.effects[0].ravel(), solution.effect_cov[0].ravel()], np.r_[mean, np.diag(S)]


KERNELS, GROUPED = "fastlmm_vi_kernels.blocks", "fastlmm_vi.grouped"
CHECKS = {
    (f"{KERNELS}.fill", "mixed_model_matrix"): check_fill,
    (f"{KERNELS}.solve", "mixed_model_solution"): check_solve,
    (f"{GROUPED}.likelihood.Likelihood", "Grouped.deviance"): check_deviance,
    (f"{GROUPED}.standard.exact_centre", "exact_differences"): check_centre,
    (f"{GROUPED}.standard.standard_x", "least_squares"): check_standard_x,
    (f"{GROUPED}.standard.standard_term", "basis_root"): check_standard_term,
    (f"{GROUPED}.likelihood.Likelihood.constant", "Grouped.deviance"): check_constant,
    (f"{GROUPED}.blocks.order", "eliminated_one_by_one"): check_order,
    (f"{GROUPED}.blocks.sums", "cross_products"): check_sums,
    (f"{KERNELS}.eliminate", "cholesky"): check_eliminate,
    (f"{KERNELS}.selected_inverse", "inverse"): check_selected_inverse,
    (f"{KERNELS}.unexplained", "residual_products"): check_unexplained,
    (f"{KERNELS}.gradient", "grouped_gradient"): check_gradient,
    (f"{GROUPED}.one_way.OneWay.run", "one_way"): check_one_way,
    (f"{GROUPED}.trust_region.differences", "boundary_curvature"): check_boundary,
    (f"{GROUPED}.reml.start", "moments"): check_start,
    (f"{GROUPED}.information.average_information", "average_information"): check_average_information,
    (f"{GROUPED}.trust_region.newton_step", "trust_region_step"): check_newton_step,
    (f"{GROUPED}.reml.fit", "minimum"): check_fit,
    (f"{GROUPED}.reml.canonical", "lower_root"): check_canonical,
    (f"{GROUPED}.solution.Solution.beta", "gls"): check_beta,
    (f"{GROUPED}.solution.Solution.effects", "Grouped.effects"): check_effects,
    (f"{GROUPED}.solution.Solution.effect_cov", "Grouped.effects_cov"): check_effect_cov,
    (f"{KERNELS}.forward", "forward"): check_forward,
    (f"{GROUPED}.solution.Solution.variance_of", "Grouped.joint_cov"): check_variance_of,
    (f"{GROUPED}.prediction.predict", "kriging"): check_predict,
    (f"{GROUPED}.uncertainty.Uncertainty.hessian", "grouped_information"): check_hessian,
    (f"{GROUPED}.uncertainty.Uncertainty.of", "delta_method"): check_standard_errors,
    (f"{GROUPED}.uncertainty.Uncertainty.satterthwaite", "satterthwaite"): check_satterthwaite,
    (f"{GROUPED}.profiling.Profile.zeta", "held_deviance"): check_zeta,
    (f"{GROUPED}.lrt.reference", "chi_bar_weights"): check_reference,
    (f"{GROUPED}.lrt.lrt", "mixture_p"): check_lrt,
    (f"{GROUPED}.likelihood.Likelihood", "profile_loglik"): check_bridge_deviance,
    (f"{GROUPED}.solution.Solution.effects", "posterior"): check_bridge_effects,
}
# Where the two do not agree to rounding: (relative, absolute) tolerance, and why.
TOLERANCE = {
    check_boundary: (1e-5, 1e-3),  # forward differences; relative to the largest entry
    check_newton_step: (2e-2, 0.0),  # the radius is met to 1e-3 of the shift
    check_fit: (1e-5, 1e-6),  # BFGS
    check_hessian: (1e-5, 1e-4),  # central differences
    check_standard_errors: (1e-4, 1e-7),  # two differences, one of the other
    check_satterthwaite: (1e-4, 1e-7),
    check_predict: (1e-4, 1e-7),  # degrees of freedom
    check_zeta: (1e-4, 0.0),  # minimum by sequential quadratic programming
    check_reference: (0.0, 1e-2),  # weights of crossed factors are ¼, ½, ¼ up to √(J_a J_b) / N
    check_lrt: (1e-7, 1e-12),  # N × N inverses
}
EVERY = {check_bridge_deviance: range(len(PROBLEMS)), check_bridge_effects: range(len(PROBLEMS))}
ONCE = dict.fromkeys((check_zeta, check_reference, check_lrt), SEEDS[:1])
RUNS = [(pair, seed) for pair, check in CHECKS.items() for seed in {**EVERY, **ONCE}.get(check, SEEDS)]


def test_the_page_and_the_checks_name_the_same_functions():
    assert len(PAIRS) > 30
    assert len(PAIRS) == len(set(PAIRS))
    assert set(PAIRS) == set(CHECKS)


@pytest.mark.parametrize("path", sorted({name for path, twin in PAIRS for name in (path, f"naive.{twin}")}))
def test_named_functions_exist(path):
    pages.check_exists(path)


def test_numbers_in_the_page_are_those_of_the_code():
    assert (trust_region.ROUGH, trust_region.FINE, reml.SINGULAR, reml.LARGE, uncertainty.STEP) == (
        1e-2,
        1e-18,
        1e-5,
        3,
        1e-5,
    )
    page = " ".join(PAGE.split())
    for words in (
        "by less than 0.01",
        "below $10^{-18}$",
        "below $10^{-5}$",
        "with $\\Lambda=3I$",
        "step $10^{-5}$",
    ):
        assert words in page


@METHODS
@pytest.mark.parametrize(("pair", "seed"), RUNS, ids=[f"{pair[0].split('.')[-1]}-{seed}" for pair, seed in RUNS])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_formula(pair, seed, restricted):
    check = CHECKS[pair]
    got, expected = check(setting(seed, restricted))
    rtol, atol = TOLERANCE.get(check, (1e-8, 1e-9))
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol)


# Statements of the page that are no formula of one function.


@METHODS
@pytest.mark.parametrize("seed", SEEDS)
def test_the_deviance_is_even_in_every_column(seed, restricted):
    s = setting(seed, restricted)
    value = s.likelihood(s.theta)
    for k, L in enumerate(s.likelihood.unpack(s.theta)):
        for j in range(len(L)):
            triangles = s.likelihood.unpack(s.theta)
            triangles[k][:, j] *= -1.0
            theta = s.likelihood.pack(triangles)
            other = s.likelihood(theta)
            assert other.deviance == pytest.approx(value.deviance, rel=1e-12)
            np.testing.assert_allclose(other.gradient * np.sign(theta * s.theta), value.gradient, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("seed", SEEDS)
def test_units_and_offsets_drop_out(seed):
    """Positive scales and, where every term has its intercept, offsets: the search sees the same numbers."""
    problem, first = problems.draw(seed), setting(seed, False).data
    rng, frame = np.random.default_rng(seed), problem.frame.copy()
    for name in ("x0", "x1", "x2", "x3", "y"):
        shift = 0.0 if "||" in problem.formula and name != "y" else 100.0 * rng.normal()
        frame[name] = frame[name] * 10.0 ** rng.integers(-4, 5) + shift
    other = CrossProducts.of(build(problem.formula, frame, weights=problem.weights))
    # Digits are lost where an offset is many times a column's spread.
    for a, b in zip(first.products, other.products, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_equal_groups_are_taken_together():
    """Balanced data are one class with as many rows as a group has products, whatever the order of rows."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"g": np.repeat(np.arange(40), 6), "x": np.tile(np.arange(6.0) - 1.3, 40)})
    frame["y"] = rng.normal(size=40)[frame["g"]] + rng.normal(size=240)
    odd = pd.DataFrame({"g": [40, 40, 41], "x": [0.3, 1.0, 2.0], "y": [0.1, 0.2, 0.9]})
    theta = np.array([0.7, -0.2, 0.4])
    for data, classes in ((frame, [40]), (pd.concat([frame, odd], ignore_index=True), [1, 1, 40])):
        found = []
        for rows in (data, data.sample(frac=1.0, random_state=1)):
            products = CrossProducts.of(build("y ~ x + (1 + x | g)", rows))
            _, count, first, C = one_way.merged(products.one_way.R, products.one_way.C)
            assert sorted(count) == classes
            assert len(C) == first[-1] == len(classes) + 5  # 2 effects × 3 columns for the 40
            likelihood = Likelihood(products, True)
            at, work = likelihood(theta), likelihood.factored(theta)
            np.testing.assert_allclose((at.of_logdet, at.of_squares), work.slopes, rtol=1e-9, atol=1e-9)
            found.append(at.deviance)
        assert found[0] == pytest.approx(found[1], abs=1e-10)


@pytest.mark.parametrize("ratio", [1e3, 1e5, 1e7])
def test_one_factor_keeps_its_digits_at_any_ratio_of_variances(ratio):
    """Estimates of σ and of what varies within groups are those of fixed groups, but for some 1 / ratio."""
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(12), 8), rng.normal(size=96)
    b, e = rng.normal(size=12), rng.normal(size=96)
    frame = pd.DataFrame({"g": g, "x": x, "y": 0.5 * x + ratio * b[g] + e})
    fit = lmm("y ~ x + (1 | g)", frame)
    dummies = np.column_stack([x, g[:, None] == np.arange(12)])
    coefficients, (squares,), *_ = np.linalg.lstsq(dummies, e + 0.5 * x, rcond=None)
    digits = 0.1 / ratio
    assert fit.sigma**2 == pytest.approx(squares / (96 - 13), rel=digits)
    assert fit.fixed_effects["x"] == pytest.approx(coefficients[0], rel=digits)
    assert fit.varcorr["g"].iloc[0, 0] == pytest.approx(ratio**2 * np.var(b, ddof=1), rel=10.0 / ratio)
    assert fit.coefficients.loc["(Intercept)", "df"] == pytest.approx(11.0, rel=1e-5)


def test_average_information_is_near_the_hessian_of_large_data():
    """Within 10 % along any direction, with 2 × 30 levels crossed; half an expected and half an observed Hessian is."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"a": rng.integers(30, size=3000), "b": rng.integers(30, size=3000), "x": rng.normal(size=3000)}
    )
    b = rng.normal(size=(30, 2)) @ [[0.9, 0.3], [0.0, 0.5]]
    frame["y"] = b[frame["a"], 0] + b[frame["a"], 1] * frame["x"] + rng.normal(size=30)[frame["b"]]
    frame["y"] += rng.normal(size=3000)
    likelihood = Likelihood(CrossProducts.of(build("y ~ x + (1 + x | a) + (1 | b)", frame)), True)
    best = reml.fit(likelihood)
    at = likelihood(best.theta)
    true = trust_region.differences(likelihood, best.theta, at.gradient)
    ratio = scipy.linalg.eigvalsh(information.average_information(likelihood, best.theta, at), true)
    assert 0.8 < ratio.min() <= ratio.max() < 1.2


def singular(seed, restricted):
    """A setting whose fit is singular, and the places of θ̂ in columns of Λ that are 0."""
    s = setting(seed, restricted)
    assert s.fit.singular
    lost = np.setdiff1d(np.arange(s.theta.size), s.fit.uncertainty.active)
    assert lost.size
    return s, s.fit.standard_theta, lost


@METHODS
@pytest.mark.parametrize("seed", [1, 2, 8, 12])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_singular_fit_is_a_minimum_over_all_covariances(seed, restricted):
    """For every term D is positive semidefinite, D the derivative of the deviance in G, and D G = 0."""
    s, theta, _ = singular(seed, restricted)
    model, lams = s.standard(theta), s.lam(theta)
    for f, group in enumerate(s.data.groups):
        D, at = 0.5 * naive.boundary_curvature(model, s.parts[f], group.levels, restricted), 0
        for k in group.terms:
            d = len(s.data.terms[k].M)
            part, L = D[at : at + d, at : at + d], lams[f][at : at + d, at : at + d]
            at += d
            scale = np.abs(D).max() + group.levels
            np.testing.assert_allclose(part @ L / scale, 0.0, atol=1e-5)  # as far as the search went
            assert np.linalg.eigvalsh(part)[0] > -1e-5 * scale


@METHODS
@pytest.mark.parametrize("seed", [1, 2, 8, 12])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_columns_of_zeros_cost_no_degrees_of_freedom(seed, restricted):
    """With their entries among φ the Hessian has two blocks, and Satterthwaite's formula gives the same."""
    s, theta, lost = singular(seed, restricted)
    first, second = s.first(theta), s.second(theta)
    H = naive.grouped_information(s.standard(theta), first, second, restricted)
    rest = np.setdiff1d(np.arange(len(H)), lost)
    np.testing.assert_allclose(H[np.ix_(lost, rest)] / np.abs(H).max(), 0.0, atol=1e-12)
    expected = naive.satterthwaite(s.weighted(theta), first, 2 * np.linalg.inv(H), restricted)
    np.testing.assert_allclose(s.fit.uncertainty.satterthwaite(np.eye(len(s.fit.se))), expected, rtol=1e-4)


def test_weights_of_a_quadrant_by_simulation():
    rng = np.random.default_rng(0)
    information = np.array([[2.0, -0.8], [-0.8, 1.0]])
    half = np.linalg.cholesky(information).T  # the metric: ‖half z‖²
    draws = np.linalg.solve(half, rng.normal(size=(2, 4000))).T
    positive = [np.count_nonzero(nnls(half, half @ z)[0]) for z in draws]
    shares = np.bincount(positive, minlength=3) / 4000
    np.testing.assert_allclose(shares, naive.chi_bar_weights(information), atol=4 * 0.5 / np.sqrt(4000))


def cosine(X, added, kept=()):
    """Of the angle between the edges of the quadrant of two variances, by REML."""
    n = len(X)
    model = naive.Grouped(np.zeros(n), X, [np.zeros((n, 1))], [np.zeros((1, 1))], np.ones(n))
    information = added_information(model, added, kept, True)
    return information[0, 1] / np.sqrt(information[0, 0] * information[1, 1])


def test_two_variances_at_once_are_independent_in_crossed_designs_only():
    a, b = (codes.ravel() for codes in np.meshgrid(np.arange(12), np.arange(10)))
    one, mean = np.ones((120, 1)), np.ones((120, 1))
    crossed = cosine(mean, [expand(one, a, 12), expand(one, b, 10)])
    assert crossed == pytest.approx(-np.sqrt(11 * 9 / (108 * 110)), rel=1e-9)
    nested = cosine(mean, [expand(one, np.arange(120) // 4, 30), expand(one, np.arange(120) // 12, 10)])
    assert nested > 0.3


@pytest.mark.parametrize("n", [3, 4, 5])
def test_intercept_and_slope_of_small_groups_are_not_independent(n):
    """Groups of n with x centred in each: the cosine is −1 / (n − 1), many groups given."""
    levels = 60
    x, codes = np.tile(np.arange(n) - 0.5 * (n - 1), levels), np.repeat(np.arange(levels), n)
    X = np.column_stack([np.ones(levels * n), x / x.std()])
    found = cosine(X, [expand(X[:, [j]], codes, levels) for j in (0, 1)])
    assert found == pytest.approx(-1.0 / (n - 1), abs=1.0 / levels)
    if n == 3:
        weights = naive.chi_bar_weights(np.array([[1.0, found], [found, 1.0]]))
        np.testing.assert_allclose(weights, [1 / 6, 1 / 2, 1 / 3], atol=1.0 / levels)


# The bridge to the wide model, section 11.


@METHODS
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bridge_to_the_wide_model(name, restricted):
    y, Z, X = PROBLEMS[name]
    likelihood = Likelihood(as_grouped(y, Z, X), restricted)
    criterion = RESTRICTED if restricted else LIKELIHOOD
    basis = Spectrum.of(X).rotate(build_wide(X, y, Z, fit_intercept=False, standardize=False))
    units = 0.5 * np.linalg.slogdet(Z.T @ Z)[1] if restricted else 0.0  # the basis has orthonormal covariates
    unit = 1.0 / np.mean(np.sum(X**2, axis=0))
    for gamma in unit * np.array([0.01, 0.3, 5.0]):
        wide, grouped = basis.at(criterion, gamma), likelihood(np.sqrt([gamma]))
        assert -0.5 * (grouped.deviance + likelihood.constant) == pytest.approx(wide.value - units, abs=1e-9)
        assert grouped.gradient[0] == pytest.approx(-4.0 * np.sqrt(gamma) * wide.slope, rel=1e-7)
    at = likelihood(np.zeros(1))
    assert at.gradient[0] == 0.0
    curvature = (likelihood(np.sqrt([1e-6 * unit])).gradient[0]) / np.sqrt(1e-6 * unit)
    assert curvature == pytest.approx(-4.0 * basis.at(criterion, 0.0).slope, rel=1e-3)

    best, model = reml.fit(likelihood), WideLMM(reml=restricted, fit_intercept=False).fit(X, y, Z)
    solution = Solution(likelihood, best.theta)
    assert -0.5 * (best.deviance + likelihood.constant) == pytest.approx(model.criterion_, abs=1e-8)
    np.testing.assert_allclose(best.theta**2, [model.sigma2_beta_ / model.sigma2_e_], rtol=1e-6)
    np.testing.assert_allclose(solution.sigma**2, model.sigma2_e_, rtol=1e-7)
    np.testing.assert_allclose(solution.beta, model.omega_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(solution.effects[0].ravel(), model.coef_, rtol=1e-5, atol=1e-7 * np.sqrt(unit))


@METHODS
@pytest.mark.parametrize(("terms", "column"), [("(1 | g)", "one"), ("(0 + x | g)", "x")])
def test_one_scalar_term_is_a_wide_model_of_its_columns(terms, column, restricted):
    frame = slopes().assign(one=1.0)
    fit = lmm(f"y ~ x + {terms}", frame, method="reml" if restricted else "ml")
    X = expand(frame[[column]].to_numpy(), frame["g"].to_numpy(), 9)
    model = WideLMM(reml=restricted, fit_intercept=False).fit(X, frame["y"].to_numpy(), fit.data.design.X)
    assert fit.criterion == pytest.approx(model.criterion_, abs=1e-9)
    np.testing.assert_allclose(fit.fixed_effects, model.omega_, rtol=1e-8)
    np.testing.assert_allclose(fit.varcorr["g"].to_numpy().ravel(), [model.sigma2_beta_], rtol=1e-6)
    np.testing.assert_allclose(fit.random_effects["g"].to_numpy().ravel(), model.coef_, rtol=1e-6)
    np.testing.assert_allclose(fit.random_effects_var["g"].ravel(), model.beta_var_, rtol=1e-6)
