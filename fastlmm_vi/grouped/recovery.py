"""Fixed and random effects, and linear predictors, given draws or nodes of the variance parameters, compiled."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from fastlmm_vi_kernels import recovery as kernels
from fastlmm_vi_kernels import tiles
from numpy.typing import ArrayLike

from ..result import Array
from .density import Density, blocks_sections, dense, packed

MOST_VALUES = 1_000_000  # standard normal numbers at a time
NOTHING, NO_COVARIANCES = np.empty((0, 0)), np.empty((0, 0, 0))


class Effects(NamedTuple):
    """At rows of φ: moments of the random effects given each, and a draw of them with one of β."""

    means: Array  # (m, r)
    sds: Array  # (m, r)
    beta: Array  # (m, p)
    draws: Array  # (m, r)


@dataclass(frozen=True, eq=False)
class Recovery:
    """β and b | φ, y, jointly normal, at rows of φ (m, k), which is that of `posterior.Posterior`.

    r random effects stand term by term as in the formula, level by level, in units of the data. Nothing that
    another could read is written: any number of threads may recover at once.

    Parameters
    ----------
    density : Density
        Of `scale="log"`.

    Raises
    ------
    ValueError
        By any method, of a φ at which rounding leaves no positive pivot: where the log density is −∞.
    """

    density: Density

    def fixed(self, phis: ArrayLike) -> tuple[Array, Array]:
        """Means (m, p) and covariances (m, p, p) of β."""
        rows = _rows(phis)
        m, p, _ = self._shape(rows)
        means, covariances = np.empty((m, p)), np.empty((m, p, p))
        self._recover(rows, fixed=means, covariances=covariances)
        return means, covariances

    def random(self, phis: ArrayLike) -> tuple[Array, Array]:
        """Means and standard deviations (m, r) of random effects, β integrated out."""
        rows = _rows(phis)
        m, _, r = self._shape(rows)
        means, sds = np.empty((m, r)), np.empty((m, r))
        self._recover(rows, means=means, sds=sds)
        return means, sds

    def draw(self, phis: ArrayLike, rng: np.random.Generator) -> tuple[Array, Array]:
        """One β (m, p) and one b (m, r) at every φ, drawn together."""
        rows = _rows(phis)
        m, p, r = self._shape(rows)
        draws = np.empty((m, p + r))
        for part in self._parts(m):
            noise = rng.standard_normal((part.stop - part.start, p + r))
            self._recover(rows[part], noise=noise, draws=draws[part])
        return draws[:, :p], draws[:, p:]

    def random_and_draw(self, phis: ArrayLike, rng: np.random.Generator) -> Effects:
        """`random` and `draw` in one pass."""
        rows = _rows(phis)
        m, p, r = self._shape(rows)
        means, sds, draws = np.empty((m, r)), np.empty((m, r)), np.empty((m, p + r))
        for part in self._parts(m):
            noise = rng.standard_normal((part.stop - part.start, p + r))
            self._recover(rows[part], noise=noise, means=means[part], sds=sds[part], draws=draws[part])
        return Effects(means, sds, draws[:, :p], draws[:, p:])

    def by_term(self, effects: Array) -> list[Array]:
        """The r effects of rows (m, r) of every term, (m, levels, d)."""
        found, at = [], 0
        for term in self.density.data.design.terms:
            levels, d = len(term.factor.levels), len(term.names)
            found.append(effects[:, at : at + levels * d].reshape(-1, levels, d))
            at += levels * d
        return found

    def predictors(self, phis: ArrayLike) -> tuple[Array, Array]:
        """Means and variances (m, N) of Xβ + Σ_l Z_l b_l, at the rows of the data."""
        rows, n = _rows(phis), len(self.density.data.fixed.y)
        means, variances = np.empty((len(rows), n)), np.empty((len(rows), n))
        self._check(rows, kernels.predict(self._block, self._data_rows, rows, means, variances))
        return means + self._predictor_base, variances

    @cached_property
    def _predictor_base(self) -> Array:
        """Linear predictors (N,) where all coordinates are 0."""
        design, fixed = self.density.data.design, self.density.data.fixed
        found = design.X[:, list(fixed.kept)] @ self.density.base
        return np.asarray(found if design.offset is None else found + design.offset, dtype=np.float64)

    @cached_property
    def _data_rows(self) -> kernels.Rows:
        data = self.density.data
        p, fixed, weights = data.pattern, data.fixed, data.design.weights
        unit = fixed.scale / np.sqrt(1.0 if weights is None else weights[:, None])
        X = data.design.X[:, list(fixed.kept)] @ (fixed.scale * fixed.to_beta)
        values = np.column_stack([*(unit * group.basis for group in data.groups), X])
        codes = np.column_stack([group.factor.codes for group in data.groups])
        effect = np.asarray(p.effect[:-1] + codes * p.width, np.intp)
        leading = codes[:, : p.leading] + p.group[: p.leading]
        panel, block = np.zeros(codes.shape, np.intp), np.zeros((*codes.shape, codes.shape[1]), np.intp)
        widths = np.concatenate([[0], np.cumsum(p.width[p.factor])])
        keys = np.repeat(np.arange(len(p.near) - 1), np.diff(p.near)) * p.effect[-1] + p.row  # ascending
        for f in range(p.leading):
            d, v = p.width[f], leading[:, f]
            block[:, f, f] = p.panel[v]
            panel[:, f] = p.panel[v + 1] - p.q * d
            for g in range(f + 1, codes.shape[1]):
                e = np.searchsorted(keys, v * p.effect[-1] + effect[:, g])
                block[:, f, g] = p.panel[v] + d * (d + widths[e] - widths[p.near[v]])
        return kernels.Rows(values, effect, panel, block)

    @cached_property
    def _block(self) -> Array:
        """Everything that the compiled functions read, in one piece of memory."""
        density, data = self.density, self.density.data
        groups, empty = data.one_way, np.zeros(0)
        reduced = [empty, empty, empty] if groups is None else [groups.R, groups.C, groups.within]
        to_beta = data.fixed.scale * data.fixed.to_beta
        above = np.array([tiles.padded(data.pattern.effect[1]) if dense(data) else 0], np.int64)
        return packed([*density.common, *blocks_sections(data), above, density.base, to_beta, *reduced])

    def _shape(self, rows: Array) -> tuple[int, int, int]:
        """Rows of φ, fixed and random effects."""
        return len(rows), len(self.density.base), int(self.density.data.pattern.effect[-1])

    def _parts(self, m: int) -> Iterator[slice]:
        """Rows for which not too many numbers are drawn at a time."""
        size = max(MOST_VALUES // (len(self.density.base) + int(self.density.data.pattern.effect[-1])), 1)
        return (slice(start, min(start + size, m)) for start in range(0, m, size))

    def _recover(
        self,
        rows: Array,
        *,
        noise: Array = NOTHING,
        fixed: Array = NOTHING,
        covariances: Array = NO_COVARIANCES,
        means: Array = NOTHING,
        sds: Array = NOTHING,
        draws: Array = NOTHING,
    ) -> None:
        """Write to the arrays that are given."""
        self._check(rows, kernels.recover(self._block, rows, noise, fixed, covariances, means, sds, draws))

    def _check(self, rows: Array, done: int) -> None:
        """Refuse φ at which the kernel stopped."""
        if done < len(rows):
            values = dict(zip(self.density.names, rows[done].tolist(), strict=True))
            raise ValueError(
                f"Row {done} of phis, {values}, leaves no positive pivot: the log density is −∞ there. Give φ of positive "
                "density."
            )


def _rows(phis: ArrayLike) -> Array:
    return np.array(phis, dtype=np.float64, order="C", ndmin=2)
