"""The Gaussian factors of q at the end: means and covariances of single effects, and joint draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from fastlmm_vi_kernels import blocks as kernels

from ..result import Array
from .elimination import Workspace
from .gaussian_factor import GaussianFactor, Moments
from .likelihood import LOG_2PI


@dataclass(frozen=True, eq=False)
class GaussianPosterior:
    """q(β, u), or its factors, at E[1/σ²] = `tau` and E[Σ⁻¹] = `precisions`."""

    gaussian: GaussianFactor
    tau: float
    precisions: Sequence[Array]

    @cached_property
    def moments(self) -> Moments:
        """Of β, and the expected squares."""
        return self.gaussian(self.tau, self.precisions)

    @cached_property
    def _solved(self) -> tuple[Workspace, list[Array], float]:
        """The equations eliminated, solved and inverted, the roots of every term, and the log-determinant."""
        return self.gaussian.workspace(self.tau, self.precisions)

    @cached_property
    def means(self) -> list[Array]:
        """E[u] of every term in formula order, (levels, d)."""
        work, *_ = self._solved
        return [each[0] for each in self._by_term(work.x[None])]

    @cached_property
    def covariances(self) -> list[Array]:
        """Cov(u_v) of every level of every term, (levels, d, d)."""
        work, roots, _ = self._solved
        own, found = self._own(work), {}
        for f, start, k, d in self.gaussian.data.places:
            part = slice(start, start + d)
            found[k] = roots[k] @ own[f][:, part, part] @ roots[k].T / self.tau
        return [found[k] for k in range(len(found))]

    def _own(self, work: Workspace) -> list[Array]:
        """Covariances of the effects of every level of every factor, (levels, d, d), in units of Λ and of 1/τ."""
        if self.gaussian.factorisation == "joint":
            return work.own_inverses()
        return [block.covariances(lam)[0] for block, lam in zip(self.gaussian.blocks, self._lams(work), strict=True)]

    def _lams(self, work: Workspace) -> list[Array]:
        data, place = self.gaussian.data, self.gaussian.data.pattern.place
        ends = zip(data.groups, place[:-1], place[1:], strict=True)
        return [work.lam[a:b].reshape(group.d, group.d) for group, a, b in ends]

    def draw(self, rng: np.random.Generator, size: int) -> tuple[Array, list[Array], Array]:
        """Draw β (size, p) and the effects of every term, (size, levels, d); and their log density, (size,)."""
        joint = self.gaussian.factorisation == "joint"
        work, roots, _ = self._solved
        z = rng.standard_normal((size, work.x.size))
        draws, stretch = self._joint(z) if joint else self._apart(z)
        fixed, terms = self.gaussian.data.fixed, self.gaussian.data.design.terms
        alpha = draws[:, draws.shape[1] - len(fixed.kept) :]
        stretch += z.shape[1] * np.log(fixed.scale) + float(np.linalg.slogdet(fixed.to_beta)[1])
        stretch += sum(
            len(term.factor.levels) * float(np.linalg.slogdet(root)[1]) for term, root in zip(terms, roots, strict=True)
        )
        log_density = -0.5 * (z**2).sum(axis=1) - 0.5 * z.shape[1] * LOG_2PI - stretch
        return fixed.least_squares + fixed.scale * alpha @ fixed.to_beta.T, self._by_term(draws), log_density

    @property
    def _noise(self) -> float:
        """√(1/τ) in units of the standard y."""
        return 1.0 / (self.gaussian.data.fixed.scale * float(np.sqrt(self.tau)))

    def _joint(self, z: Array) -> tuple[Array, float]:
        """X = L⁻ᵀ(l + z/√τ), where L⁻ᵀl is the mean: back substitution with noise in the row of y; and log |∂X/∂z|."""
        work, _, logdet = self._solved
        p = work.pattern
        width = np.repeat(p.width[: p.leading], np.diff(p.group)[: p.leading])
        rows = [np.arange(end - d, end) for d, end in zip(width, p.panel[1:], strict=True)]
        head = np.concatenate([np.zeros(0, np.intp), *rows])
        L, T, draws = work.L.copy(), work.T.copy(), np.empty_like(z)
        for x, one in zip(draws, self._noise * z, strict=True):
            L[head] = work.L[head] + one[: head.size]
            T[-1, :-1] = work.T[-1, :-1] + one[head.size :]
            kernels.solve(p, L, T, x)
        return draws, z.shape[1] * np.log(self._noise) - 0.5 * logdet

    def _apart(self, z: Array) -> tuple[Array, float]:
        """Every factor of q by itself, in standard coordinates and units of Λ; and log |∂X/∂z|."""
        work, *_ = self._solved
        data, parts, logdet, at = self.gaussian.data, [], 0.0, 0
        for own, group in zip(self._own(work), data.groups, strict=True):
            root, count = np.linalg.cholesky(own), group.levels * group.d
            of_levels = z[:, at : at + count].reshape(len(z), group.levels, group.d)
            parts.append(np.einsum("vij,svj->svi", root, of_levels).reshape(len(z), -1))
            logdet += float(np.log(np.einsum("vii->vi", root)).sum())
            at += count
        of_x = self.gaussian.root_of_x(self.tau)
        parts.append(z[:, at:] @ of_x)
        logdet += float(np.log(np.diag(of_x)).sum())
        return work.x + self._noise * np.concatenate(parts, axis=1), z.shape[1] * np.log(self._noise) + logdet

    def _by_term(self, draws: Array) -> list[Array]:
        """Effects (size, levels, d) of every term in the units of the data, of rows x = (u, β)."""
        _, roots, _ = self._solved
        data, found = self.gaussian.data, {}
        for f, start, k, d in data.places:
            u = draws[:, slice(*data.pattern.effect[f : f + 2])].reshape(len(draws), -1, data.groups[f].d)
            found[k] = data.fixed.scale * u[:, :, start : start + d] @ roots[k].T
        return [found[k] for k in range(len(found))]
