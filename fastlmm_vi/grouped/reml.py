"""Maximum likelihood and REML of the grouped model: from cross products to the relative covariances at the optimum."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..result import Array, Status
from .information import average_information
from .likelihood import Evaluation, Likelihood
from .trust_region import Minimum, differences, minimise

DOUBTFUL = 1e-3  # curvature, relative to the largest, below which it is looked at more closely
SINGULAR = 1e-5  # pivot of Λ, in standard coordinates, that is 0: Newton's steps end far below it or far above
DIGITS = 1e-3  # of the unit of the search, up to which that holds
LARGE = 3.0  # of Λ in standard coordinates: random effects with nine times the variance of the residual
LITTLE = 0.1  # the other way
GRID = np.geomspace(0.05, 50.0, 16)
REGULAR = 1e-3  # pivot of Λ below which the average information is no guide: the term is on its way to the boundary
FEW = 1000  # random effects up to which differences of the gradient cost next to nothing, as with one factor they always do
MAX_ITER = 200


@dataclass(frozen=True, eq=False)
class Optimum:
    """θ̂ in standard coordinates."""

    likelihood: Likelihood
    theta: Array
    deviance: float
    singular: bool  # whether a term's covariance has lost rank
    hessian: Array  # in θ, roughly
    minimum: Minimum[Evaluation]

    @property
    def doubtful(self) -> bool:
        """Whether the deviance may be flat along some direction, per level; columns of Λ that are 0 aside."""
        data, triangles = self.likelihood.data, self.likelihood.unpack(self.theta)
        levels = [len(data.design.terms[k].factor.levels) for k in self.likelihood.terms]
        size = np.sqrt(np.repeat(levels, [len(places) for places in self.likelihood.triangles]))
        active = self.likelihood.pack([np.tile(np.diag(L) > 0.0, (len(L), 1)) for L in triangles]).astype(bool)
        values = np.linalg.eigvalsh((self.hessian / np.outer(size, size))[np.ix_(active, active)])
        return bool(values.min(initial=np.inf) < DOUBTFUL * values.max(initial=DOUBTFUL))

    @property
    def status(self) -> Status:
        """How the search ended."""
        if not self.minimum.converged:
            return Status.NOT_CONVERGED
        return Status.SINGULAR if self.singular else Status.CONVERGED


def fit(
    likelihood: Likelihood,
    max_iter: int = MAX_ITER,
    report: Callable[[int, float], None] = lambda iteration, decrease: None,
) -> Optimum:
    """Minimise the deviance over θ; where a covariance loses rank it does so exactly.

    The deviance may have several minima, the higher ones mostly on the boundary. Where groups differ in design and a search
    costs little, it starts again with each of the standard deviations, alone, larger than any likely one, and with all of
    them; elsewhere with all of them, if the fit is singular. At last it looks where a single variance lowers the deviance.
    """
    found = _search(likelihood, start(likelihood), max_iter, report)
    if not found.minimum.converged:  # a curved valley towards a covariance of lower rank: jump to its end
        ends = [canonical(_of_lower_rank(L))[0] for L in likelihood.unpack(found.theta)]
        found = _better(found, _search(likelihood, likelihood.pack(ends), max_iter, report))
    sizes = [len(L) for L in likelihood.unpack(found.theta)]
    others: list[Array] = []
    if likelihood.data.pattern.effect[-1] <= FEW and not likelihood.balanced:
        roots = np.where(np.eye(sum(sizes), dtype=bool), LARGE, LITTLE)
        roots = np.vstack([roots, np.full(sum(sizes), LARGE)])
        others = [likelihood.pack([np.diag(part) for part in np.split(row, np.cumsum(sizes)[:-1])]) for row in roots]
    elif found.singular:
        others = [likelihood.pack([LARGE * np.eye(d) for d in sizes])]
    for theta in others:
        found = _better(found, _search(likelihood, theta, max_iter, report))
    if found.singular or found.theta.size == 1:
        elsewhere = _scan(likelihood, found)
        if elsewhere is not None:
            found = _better(found, _search(likelihood, elsewhere, max_iter, report))
    return found


def _search(likelihood: Likelihood, theta: Array, max_iter: int, report: Callable[[int, float], None]) -> Optimum:
    """The minimum that this start leads to; the search goes in units in which the start is of order 1, or less."""
    data = likelihood.data
    cheap = len(data.groups) == 1 or data.pattern.effect[-1] <= FEW
    rows = [np.maximum(1.0, np.linalg.norm(L, axis=1)) for L in likelihood.unpack(theta)]
    units = likelihood.pack([np.tile(row[:, None], row.size) for row in rows])

    def guide(x: Array, at: Evaluation) -> Array | None:
        theta = x * units
        if cheap or not all((np.abs(np.diag(L)) > REGULAR).all() for L in likelihood.unpack(theta)):
            return None
        return average_information(likelihood, theta, at) * np.outer(units, units)

    def scaled(x: Array) -> Evaluation:
        at = likelihood(x * units)
        return at._replace(gradient=at.gradient * units)

    found = minimise(scaled, theta / units, scaled(theta / units), guide, max_iter, report)
    ends = zip(likelihood.unpack(found.x * units), rows, strict=True)
    roots = [canonical(L, SINGULAR * max(1.0, DIGITS * row.max())) for L, row in ends]
    theta, singular = likelihood.pack([L for L, _ in roots]), any(rank < len(L) for L, rank in roots)
    deviance, hessian = found.value.deviance, found.hessian / np.outer(units, units)
    if singular or cheap:
        at = likelihood(theta)
        deviance, hessian = at.deviance, differences(likelihood, theta, at.gradient) if cheap else hessian
    found = replace(found, path=tuple((x * units, value) for x, value in found.path))
    return Optimum(likelihood, theta, deviance, singular, hessian, found)


def _better(one: Optimum, other: Optimum) -> Optimum:
    """The lower of two minima, with the evaluations of both; a search that arrived before one that did not."""
    a, b = one.minimum, other.minimum
    lower = other.deviance < one.deviance - 1e-6
    better = other if b.converged and (lower or not a.converged) else one
    return replace(better, minimum=replace(better.minimum, evaluations=a.evaluations + b.evaluations))


def _scan(likelihood: Likelihood, found: Optimum) -> Array | None:
    """θ with one variance, that is 0 or the only one, put to the value on a grid at which the deviance is least, if lower."""
    lowest, best = found.deviance - 1e-6, None
    places = np.flatnonzero(likelihood.pack([np.eye(len(L)) for L in likelihood.unpack(found.theta)]))
    for i in places:
        for value in GRID if found.theta[i] == 0.0 or found.theta.size == 1 else ():
            theta = found.theta.copy()
            theta[i] = value
            deviance = likelihood(theta).deviance
            if deviance < lowest:
                lowest, best = deviance, theta
    return best


def _of_lower_rank(L: Array) -> Array:
    """L without the directions in which it is all but singular."""
    U, s, V = np.linalg.svd(L)
    return np.asarray((U * np.where(s < 0.1 * s.max(), 0.0, s)) @ V)


def start(likelihood: Likelihood) -> Array:
    """Moments, factor by factor: Σ_v c_v c_vᵀ = σ²_e Σ_v W_v + Σ_v W_v G W_v, c_v = Z_vᵀy, with W_v ≈ n_v I.

    In standard coordinates y, and every random effect's column, has mean square 1. With one factor σ²_e is that within
    groups, if they have degrees of freedom for it.
    """
    data = likelihood.data
    n, within = len(data.fixed.y), np.nan if data.one_way is None else min(data.one_way.variance, 1.0)
    covariances = []
    for f, group in enumerate(data.groups):
        W, c = data.own_blocks(f)
        W = W.reshape(len(W), -1)
        squares = float((W**2).sum()) / group.d
        total = c.T @ c / squares
        noise = n / squares
        share = noise * group.d
        sigma2_e = (1.0 - float(np.trace(total))) / (1.0 - share) if share < 1.0 else 0.5
        sigma2_e = min(max(sigma2_e, 0.05), 1.0) if np.isnan(within) else within
        values, vectors = np.linalg.eigh(total - noise * sigma2_e * np.eye(group.d))
        covariances.append((vectors * np.clip(values, 0.01 * np.fmin(within, 1.0), 1.0)) @ vectors.T)
    sigma2_e = max(1.0 - sum(float(np.trace(G)) for G in covariances), 0.1) if np.isnan(within) else within
    roots = []
    for group, G in zip(data.groups, covariances, strict=True):
        at = 0
        for k in group.terms:
            d = len(data.terms[k].M)
            roots.append(np.linalg.cholesky(G[at : at + d, at : at + d] / sigma2_e))
            at += d
    return likelihood.pack(roots)


def canonical(L: Array, tolerance: float = SINGULAR) -> tuple[Array, int]:
    """The lower-triangular root (d, d) of L Lᵀ with diagonal ≥ 0; a pivot below the tolerance, and its column, is 0."""
    rest, rank = L.copy(), 0
    out = np.zeros((len(L), len(L)))
    for j in range(len(L)):  # Gram–Schmidt on the rows: L = out · (orthogonal rows)
        norm = float(np.linalg.norm(rest[j]))
        if norm > tolerance:
            out[j:, j] = rest[j:] @ (rest[j] / norm)
            rest[j:] -= np.outer(out[j:, j], rest[j] / norm)
            rank += 1
        else:
            rest[j] = 0.0
    return out, rank
