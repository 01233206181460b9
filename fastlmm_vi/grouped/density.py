"""The log posterior density of the variance parameters and its gradient as one compiled function, callable by address."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from fastlmm_vi_kernels import marginal, marginal_blocks, marginal_crossed, marginal_nested, tiles
from fastlmm_vi_kernels import one_way as reduction
from numpy.typing import ArrayLike, NDArray

from ..priors import Fixed
from ..result import Array
from . import parameters, prior_rows
from .blocks import Group
from .cross_products import CrossProducts
from .likelihood import LOG_2PI
from .model_priors import ModelPriors
from .one_way import classes, merged

MEETING = 0.2  # share of pairs of groups that occur, from which products of whole matrices are faster
LARGEST = 2e8  # numbers of the others' columns, made once


@dataclass(frozen=True, eq=False)
class Density:
    """log p(φ | y) up to its constant p(y), β and all random effects integrated out, and its gradient.

    φ is that of `posterior.Posterior`, Jacobians of its transformations in the density. With `scale="signed"` a standard
    deviation s is sampled as t = ± s instead of log s, the prior at |t| shared by both signs, and the covariance of the
    effects is diag(t) R diag(t): smooth where t changes its sign (`unsigned`).

    No evaluation touches the data or writes to anything that another could read: any number of threads may evaluate at
    once, and call `address` with `user_data` as

        int (size_t dim, double *phi, double *gradient, double *log_density, void *user_data)

    which returns 0, or 1 where the density is 0 or rounding leaves no positive pivot (log density −∞), never NaN.

    Parameters
    ----------
    data : CrossProducts
    priors : ModelPriors
    scale : {"log", "signed"}
    """

    data: CrossProducts
    priors: ModelPriors
    scale: Literal["log", "signed"] = "log"

    @cached_property
    def names(self) -> list[str]:
        """Parameters of φ by brms' names."""
        found, keep = parameters.names(self.data.design.terms), []
        for prior, term in zip(self.priors.terms, self.data.design.terms, strict=True):
            d = len(term.names)
            keep += [not isinstance(one, Fixed) for one in prior.scales or [None] * d]
            keep += [True] * (d * (d - 1) // 2)
        keep.append(not isinstance(self.priors.sigma, Fixed))
        return [name for name, kept in zip(found, keep, strict=True) if kept]

    @property
    def dim(self) -> int:
        """Number of parameters."""
        return len(self.names)

    def logp(self, phi: ArrayLike) -> float:
        """Log density at φ; −∞ where it is 0."""
        return self.logp_grad(phi)[0]

    def logp_grad(self, phi: ArrayLike) -> tuple[float, Array]:
        """Log density and its gradient at φ."""
        x, gradient = np.array(phi, dtype=np.float64), np.zeros(self.dim)
        return self._family.evaluate(self._block, x, gradient), gradient

    def logp_many(self, phis: ArrayLike) -> Array:
        """Log densities (m,) at rows of φ (m, dim)."""
        rows = np.array(phis, dtype=np.float64, order="C")
        values = np.empty(len(rows))
        self._family.evaluate_many(self._block, rows, values)
        return values

    @property
    def address(self) -> int:
        """Of the C function, for as long as the process lives."""
        return self._family.callback.address

    @property
    def user_data(self) -> int:
        """Its last argument, valid as long as this object lives."""
        return int(self._block.ctypes.data)

    def unsigned(self, phis: ArrayLike) -> Array:
        """φ (…, dim) under `scale="signed"` as it is under "log": signs moved from deviations to correlations."""
        rows, at = np.array(phis, dtype=np.float64), 0
        if self.scale == "log":
            return rows
        for prior, term in zip(self.priors.terms, self.data.design.terms, strict=True):
            d = len(term.names)
            signs = np.ones((*rows.shape[:-1], d))
            for i, one in enumerate(prior.scales or [None] * d):
                if not isinstance(one, Fixed):
                    signs[..., i] = np.copysign(1.0, rows[..., at])
                    rows[..., at] = np.log(np.maximum(np.abs(rows[..., at]), np.finfo(np.float64).tiny))
                    at += 1
            for i in range(d):
                for j in range(i):
                    rows[..., at] *= signs[..., i] * signs[..., j]
                    at += 1
        return rows

    @cached_property
    def beta_rows(self) -> Array:
        """The prior N(m, P⁻¹) of β in standard coordinates δ as rows of [X y], [I m]ᵀ P [I m] (q, q)."""
        B, prior = self.data.fixed.scale * self.data.fixed.to_beta, self.priors.beta
        mean = np.linalg.solve(B, prior.mean - self.base)
        rows = np.column_stack([np.eye(len(mean)), mean])
        return np.asarray(rows.T @ B.T @ prior.precision @ B @ rows, dtype=np.float64)

    @cached_property
    def base(self) -> Array:
        """β where the coordinates δ of the standard X are 0: β = base + scale · to_beta · δ."""
        fixed, one_way = self.data.fixed, self.data.one_way
        shift = np.zeros(len(fixed.to_beta)) if one_way is None else one_way.shift
        return fixed.least_squares + fixed.scale * fixed.to_beta @ shift

    @cached_property
    def constant(self) -> float:
        """What of the log likelihood does not depend on the variance parameters."""
        fixed, weights = self.data.fixed, self.data.design.weights
        (n, p), of_weights = fixed.Q.shape, 0.0 if weights is None else float(np.log(weights).sum())
        jacobian = float(np.linalg.slogdet(fixed.scale * fixed.to_beta)[1])
        return (
            self.priors.beta.log_constant + jacobian - 0.5 * ((n - p) * LOG_2PI - of_weights) - n * np.log(fixed.scale)
        )

    @cached_property
    def _family(self) -> "Family":
        if self.data.one_way is not None:
            return ONE_WAY
        if self.data.pattern.leading == len(self.data.groups) == 2 and self.data.groups[1].d == 1:
            return NESTED
        return CROSSED if dense(self.data) else BLOCKS

    @cached_property
    def common(self) -> list[NDArray[Any]]:
        """What compiled functions read of priors and β, whatever the design."""
        prior = prior_rows.rows(self.data, self.priors, self.scale == "signed")
        n, p = self.data.fixed.Q.shape
        numbers = np.array([prior.signed, prior.unit, self.constant, n - p, p + 1])
        found = [*prior[:8], numbers, self.beta_rows, np.asarray(self.data.pattern.place, np.int64)]
        assert len(found) == marginal.COMMON
        return found

    @cached_property
    def _block(self) -> Array:
        """Everything that the compiled function reads, in one piece of memory."""
        return packed([*self.common, *self._family.sections(self.data)])


def dense(data: CrossProducts) -> bool:
    """Whether one factor leads, and its groups meet most of those of the others."""
    pattern = data.pattern
    if pattern.leading != 1 or len(data.groups) == 1:
        return False
    partners = sum(group.levels for group in data.groups[1:])
    columns = int(pattern.effect[-1] - pattern.effect[1])
    meeting = pattern.factor.size / (data.groups[0].levels * partners)
    return bool(meeting >= MEETING and columns * len(data.fixed.y) <= LARGEST)


def one_way_sections(data: CrossProducts) -> list[NDArray[Any]]:
    """Classes of groups as rows side by side, filled up to a multiple of 8: what one vector holds."""
    groups = data.one_way
    assert groups is not None
    R, count, first, C = merged(groups.R, groups.C)
    owner = np.repeat(np.arange(len(R)), np.diff(first))
    weight = np.zeros(len(C))
    weight[first[:-1]] = count
    n, single, by_row = side_by_side(weight, R[owner], C)
    sizes = np.array([R.shape[1], n, single, np.count_nonzero(weight)], np.int64)
    return [sizes, *by_row, groups.within]


def side_by_side(weight: Array, R: Array, C: Array) -> tuple[int, int, list[Array]]:
    """Number of rows filled up, how many of them have weight 1; R (d, d, n), C (q, d, n) and weights, those first, 0 last."""
    order = np.argsort(np.select([weight == 1.0, weight > 1.0], [0, 1], 2), kind="stable")
    n, used = int(tiles.padded(len(C))), len(C)
    by_row = [np.zeros((*R.shape[1:], n)), np.zeros((C.shape[2], C.shape[1], n)), np.zeros(n)]
    by_row[0][:, :, :used] = R[order].transpose(1, 2, 0)
    by_row[1][:, :, :used] = C[order].transpose(2, 1, 0)
    by_row[2][:used] = weight[order]
    return n, int(np.count_nonzero(weight == 1.0)), by_row


def crossed_sections(data: CrossProducts) -> list[NDArray[Any]]:
    """The leading factor's groups reduced, columns of all others' effects (slopes after intercepts), of X and y beside."""
    lead, *others = data.groups
    columns, tail, t = [], [], 0
    for group in others:
        Z = np.zeros((len(data.fixed.y), group.d, group.levels))
        Z[np.arange(len(Z)), :, group.factor.codes] = group.basis
        columns.append(Z.reshape(len(Z), -1))
        tail += [group.d, group.levels, t]
        t += group.d * group.levels
    rest = np.ascontiguousarray(np.column_stack([*columns, data.fixed.Q, data.fixed.y]))
    d, used = lead.d, rest.shape[1]
    R, C = reduced(lead, rest)
    weight, R, C, scatter = same_but_for_y(R, C)
    side = int(tiles.padded(used))
    C = np.concatenate([C, np.zeros((*C.shape[:2], side - used)), scatter], axis=2)
    n, single, by_row = side_by_side(weight, R, C)
    within = np.eye(side)
    within[:used, :used] = rest.T @ rest
    sizes = np.array([d, n, side, t, single, len(weight)], np.int64)
    return [sizes, np.array(tail, np.int64), *by_row, within]


def reduced(group: Group, rest: Array) -> tuple[Array, Array]:
    """R (J, d, d) and C (J, d, columns) of a factor's groups; `rest` is overwritten by what they do not reach."""
    order = np.argsort(group.factor.codes, kind="stable")
    start = np.searchsorted(group.factor.codes[order], np.arange(group.levels + 1))
    R, C = np.zeros((group.levels, group.d, group.d)), np.empty((group.levels, group.d, rest.shape[1]))
    reduction.reduce(order, start, group.basis, rest, R, C)
    return R, C


def nested_sections(data: CrossProducts) -> list[NDArray[Any]]:
    """Inner groups reduced, in order of the outer ones; of these the products of what is left with [z X y]."""
    inner, outer = data.groups
    rest = np.ascontiguousarray(np.column_stack([outer.basis, data.fixed.Q, data.fixed.y]))
    R, C = reduced(inner, rest)
    partner = np.empty(inner.levels, np.intp)
    partner[inner.factor.codes] = outer.factor.codes
    order = np.argsort(partner, kind="stable")
    start = np.searchsorted(partner[order], np.arange(outer.levels + 1))
    n, single, by_row = side_by_side(np.ones(inner.levels), R[order], C[order])
    m = int(tiles.padded(outer.levels))
    own = [np.bincount(outer.factor.codes, rest[:, 0] * column, minlength=m) for column in rest.T]
    sizes = np.array([inner.d, n, single, m, outer.levels], np.int64)
    return [sizes, start.astype(np.int64), *by_row, rest[:, 1:].T @ rest[:, 1:], np.array(own)]


def same_but_for_y(R: Array, C: Array) -> tuple[Array, Array, Array, Array]:
    """Groups of equal R and C but for the last column, taken together: how many, R, √count · mean C, scatter of y.

    The scatter of y about its mean is the lower factor (d, d) of Σ (y − ȳ)(y − ȳ)ᵀ: that many columns beside C.
    """
    order, start = classes(np.concatenate([R.reshape(len(R), -1), C[:, :, :-1].reshape(len(C), -1)], axis=1))
    count = np.diff(np.append(start, len(R)))
    means = np.add.reduceat(C[order], start) / count[:, None, None]
    off = C[order, :, -1] - np.repeat(means[:, :, -1], count, axis=0)
    d = R.shape[1]
    scatter = np.zeros((len(start), d, d))
    for c in np.flatnonzero(count > 1):
        found = np.asarray(np.linalg.qr(off[start[c] : start[c] + count[c]], mode="r"))
        scatter[c, :, : len(found)] = found.T
    return count.astype(np.float64), R[order[start]], np.sqrt(count)[:, None, None] * means, scatter


def blocks_sections(data: CrossProducts) -> list[NDArray[Any]]:
    """The pattern and the products."""
    *arrays, leading, q = data.pattern
    numbers = np.array([leading, q], np.int64)
    return [numbers, *(np.asarray(one, np.int64) for one in arrays), *data.products]


@dataclass(frozen=True)
class Family:
    """The compiled functions of one family of designs, and what they read."""

    evaluate: Any
    evaluate_many: Any
    callback: Any
    sections: Callable[[CrossProducts], list[NDArray[Any]]]


ONE_WAY = Family(marginal.one_way, marginal.one_way_many, marginal.ONE_WAY, one_way_sections)
BLOCKS = Family(marginal_blocks.by_blocks, marginal_blocks.by_blocks_many, marginal_blocks.BY_BLOCKS, blocks_sections)
CROSSED = Family(marginal_crossed.crossed, marginal_crossed.crossed_many, marginal_crossed.CROSSED, crossed_sections)

NESTED = Family(marginal_nested.nested, marginal_nested.nested_many, marginal_nested.NESTED, nested_sections)


def packed(sections: Sequence[NDArray[Any]]) -> Array:
    """One block of memory: its length, place and length of every section, the sections; all of 8 bytes, from 64 on."""
    starts, at = [], -(-(1 + 2 * len(sections)) // 8) * 8
    for one in sections:
        starts.append(at)
        at += -(-one.size // 8) * 8
    room = np.zeros(at + 8)
    block = room[(-room.ctypes.data // 8) % 8 :][:at]
    header = np.array([at, *(x for start, one in zip(starts, sections, strict=True) for x in (start, one.size))])
    block.view(np.int64)[: header.size] = header
    for start, one in zip(starts, sections, strict=True):
        part = block[start : start + one.size]
        (part.view(np.int64) if one.dtype.kind == "i" else part)[:] = one.ravel()
    return block
