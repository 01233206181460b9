"""Covariances from how the means of q answer to a change of the log density: what mean field loses of them comes back.

The covariance of g and h under a posterior is the derivative of E[h] when t g is added to its log density; of q, refitted for
every t, the same derivative is the linear-response covariance (Giordano, Broderick and Jordan, Journal of Machine Learning
Research 19(51), 2018). All that other factors of q learn of a factor are a few numbers: e = (E[1/σ²], E[Σ⁻¹] of every term)
and the expected squares s that belong to them, log p = −½ e·s + … With J = ∂s/∂e of the optimal Gaussian factors and
D = ∂e/∂s of the others, at the fixed point

    Cov(β)  = V + ∂β/∂e (I − D J)⁻¹ D (−2 ∂β/∂e)ᵀ,     V = Cov(β | e), jointly with all random effects,
    Var(g)  = Var_q(g) − ½ cᵀ J (I − D J)⁻¹ c,          c = Cov_q(g, numbers whose means are e).

Derivatives are differences of the updates themselves; c = −2 ∂E[g]/∂s, as q(g) depends on s by exp(−½ e·s).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..result import Array
from .factors import Factor, of_scale, of_term
from .gaussian_factor import GaussianFactor
from .gaussian_posterior import GaussianPosterior
from .parameters import names
from .variational_posterior import VariationalPosterior

STEP = 1e-4  # of differences, relative


@dataclass(frozen=True, eq=False)
class LinearResponse:
    """Covariances of a variational posterior by linear response."""

    q: VariationalPosterior

    @cached_property
    def _sizes(self) -> list[int]:
        """Side of the covariance of σ, and of every term."""
        return [1, *(len(term.names) for term in self.q.data.design.terms)]

    @cached_property
    def _e(self) -> Array:
        """E[1/σ²], then upper triangles of every E[Σ⁻¹] by rows."""
        return _packed([self.q.sigma.precision, *(factor.precision for factor in self.q.terms)])

    @cached_property
    def _s(self) -> Array:
        """Expected squares; those off a diagonal count twice, as they do in the trace."""
        return self._of_moments(self.q.gaussian.gaussian, self._e)[1]

    def _of_moments(self, gaussian: GaussianFactor, e: Array) -> tuple[Array, Array]:
        """E[β] and s of the optimal Gaussian factors at e."""
        (tau,), *precisions = _unpacked(e, self._sizes)
        moments = gaussian(float(tau[0]), precisions)
        return moments.beta, _packed([np.array([[moments.residual]]), *moments.squares], twice=True)

    def _factors(self, s: Array) -> list[Factor]:
        """The factors of σ and of every covariance that are optimal at s."""
        (residual,), *squares = _unpacked(s, self._sizes, twice=True)
        data, priors = self.q.data, self.q.priors
        levels = [len(term.factor.levels) for term in data.design.terms]
        of_terms = [of_term(*each) for each in zip(priors.terms, levels, squares, strict=True)]
        return [of_scale(priors.sigma, len(data.design.y), float(residual[0])), *of_terms]

    @cached_property
    def _answers(self) -> tuple[Array, Array, list[Array]]:
        """∂β/∂e (p, m), J (m, m), and ∂E[u]/∂e of every term (levels · d, m)."""
        gaussian = self.q.gaussian.gaussian

        def means(e: Array) -> Array:
            (tau,), *precisions = _unpacked(e, self._sizes)
            at = GaussianPosterior(gaussian, float(tau[0]), precisions)
            return np.concatenate([*self._of_moments(gaussian, e), *(mean.ravel() for mean in at.means)])

        found = _differences(means, self._e, _sizes_of(self._e, self._sizes))
        p, m = len(self.q.beta), len(self._e)
        ends = np.cumsum([p, m, *(mean.size for mean in self.q.gaussian.means)])
        beta, squares, *effects = np.split(found, ends[:-1])
        return beta, squares, effects

    @cached_property
    def _learned(self) -> tuple[Array, Array]:
        """D = ∂e/∂s (m, m), and the c of every standard deviation, correlation and σ, (parameters, m)."""
        sizes = self._sizes

        def of_factors(s: Array) -> Array:
            sigma, *terms = self._factors(s)
            scales = [one for factor in terms for part in factor.marginals() for one in part]
            means = [one.mean for one in (*scales, *sigma.marginals()[0])]
            return np.concatenate([_packed([sigma.precision, *(factor.precision for factor in terms)]), means])

        found = _differences(of_factors, self._s, _sizes_of(self._s, sizes))
        return found[: len(self._e)], -2.0 * found[len(self._e) :]

    @cached_property
    def _feedback(self) -> Array:
        """(I − D J)⁻¹, (m, m)."""
        D, J = self._learned[0], self._answers[1]
        return np.asarray(np.linalg.inv(np.eye(len(D)) - D @ J), dtype=np.float64)

    def _between(self, answers: Array) -> Array:
        """What the uncertainty of σ and of the covariances adds to the covariance of means with these ∂/∂e."""
        D = self._learned[0]
        return answers @ self._feedback @ D @ (-2.0 * answers.T)

    @cached_property
    def _joint(self) -> GaussianPosterior:
        """All of β and u together at the same e."""
        gaussian = replace(self.q.gaussian.gaussian, factorisation="joint")
        return GaussianPosterior(gaussian, self.q.gaussian.tau, self.q.gaussian.precisions)

    @cached_property
    def beta_cov(self) -> Array:
        """Cov(β), (p, p)."""
        found = self._joint.moments.beta_cov + self._between(self._answers[0])
        return np.asarray(0.5 * (found + found.T))

    @cached_property
    def effect_sd(self) -> list[Array]:
        """Standard deviations of the random effects of every term, (levels, d)."""
        found: list[Array] = []
        for cov, answers in zip(self._joint.covariances, self._answers[2], strict=True):
            half = answers @ self._feedback @ self._learned[0]
            between = -2.0 * np.einsum("ij,ij->i", half, answers)
            found.append(np.sqrt(np.einsum("vii->vi", cov) + between.reshape(cov.shape[:2])))
        return found

    @cached_property
    def scale_sd(self) -> dict[str, float]:
        """Standard deviation of every standard deviation, correlation and σ, by brms' name."""
        found, J = {}, self._answers[1]
        for name, c in zip(names(self.q.data.design.terms), self._learned[1], strict=True):
            added = -0.5 * float(c @ J @ self._feedback @ c)
            found[name] = float(np.sqrt(self.q.marginals[name].sd ** 2 + added))
        return found


def _packed(matrices: Sequence[Array], *, twice: bool = False) -> Array:
    """Upper triangles by rows, one after the other; entries off the diagonals doubled if `twice`."""
    found = []
    for A in matrices:
        i, j = np.triu_indices(len(A))
        found.append(A[i, j] * np.where(twice & (i != j), 2.0, 1.0))
    return np.concatenate(found)


def _unpacked(vector: Array, sizes: Sequence[int], *, twice: bool = False) -> list[Array]:
    """The reverse of `_packed`."""
    found, at = [], 0
    for d in sizes:
        i, j = np.triu_indices(d)
        A = np.empty((d, d))
        A[i, j] = A[j, i] = vector[at : at + i.size] * np.where(twice & (i != j), 0.5, 1.0)
        found.append(A)
        at += i.size
    return found


def _sizes_of(vector: Array, sizes: Sequence[int]) -> Array:
    """√(A_ii A_jj) in the place of every A_ij: the units of differences."""
    found = []
    for A in _unpacked(vector, sizes):
        root = np.sqrt(np.diag(A))
        found.append(np.outer(root, root)[np.triu_indices(len(A))])
    return np.concatenate(found)


def _differences(function: Callable[[Array], Array], at: Array, units: Array) -> Array:
    """Derivatives of the function, (values, arguments), by central differences."""
    columns = []
    for j, unit in enumerate(STEP * units):
        move = np.zeros_like(at)
        move[j] = unit
        columns.append((function(at + move) - function(at - move)) / (2.0 * unit))
    return np.column_stack(columns)
