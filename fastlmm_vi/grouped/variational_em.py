"""Mean field in the random effects with point estimates of β, θ and σ²: the ELBO maximised over all of them.

At any θ the optimal q(u) has the exact posterior's mean, and the blocks of its precision that the factorisation keeps, so
that the ELBO is the log-likelihood less

    gap(θ) = ½ [Σ log|blocks of A| − log|A|],   A = ZᵀZ + (ΛΛᵀ)⁻¹,

which does not depend on β and σ². Both are profiled out as in the likelihood, and −2 ELBO is minimised over θ by Newton's
steps: variational EM would crawl to the same point.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..result import Array, Status
from . import reml
from .cross_products import CrossProducts
from .kept_blocks import KeptBlocks
from .likelihood import Likelihood
from .solution import Solution
from .starts import Start, in_order, thetas
from .trust_region import minimise


class ProfileValue(NamedTuple):
    """−2 ELBO, its derivatives in θ, and the gap."""

    deviance: float
    gradient: Array
    gap: float


@dataclass(frozen=True, eq=False)
class ProfileElbo:
    """−2 ELBO of θ with its gradient, β and σ² profiled out, in standard coordinates."""

    likelihood: Likelihood
    factorisation: str

    @cached_property
    def blocks(self) -> tuple[KeptBlocks, ...]:
        """What q(u) keeps, factor by factor; nothing is lost where it is joint."""
        return () if self.factorisation == "joint" else KeptBlocks.of(self.likelihood.data, self.factorisation)

    def lams(self, theta: Array) -> list[Array]:
        """Λ_f of every factor."""
        place, lam = self.likelihood.data.pattern.place, self.likelihood.lam(theta)
        return [
            lam[a:b].reshape(group.d, group.d)
            for group, a, b in zip(self.likelihood.data.groups, place[:-1], place[1:], strict=True)
        ]

    def __call__(self, theta: Array) -> ProfileValue:
        """Value, gradient and gap; the value is infinite where rounding leaves no positive pivot."""
        at = self.likelihood(theta)
        if not self.blocks or not np.isfinite(at.deviance):
            return ProfileValue(at.deviance, at.gradient, 0.0)
        lams = self.lams(theta)
        logdet = sum(block.covariances(lam)[1] for block, lam in zip(self.blocks, lams, strict=True))
        slope = np.concatenate([block.slope(lam).ravel() for block, lam in zip(self.blocks, lams, strict=True)])
        gradient = (slope + (self.likelihood.degrees / at.squares) * at.of_squares)[self.likelihood.free]
        return ProfileValue(at.deviance - at.logdet + logdet, gradient, 0.5 * (logdet - at.logdet))


@dataclass(frozen=True, eq=False)
class PointMeanField:
    """q(u) at the β, θ and σ² that maximise the ELBO.

    Attributes
    ----------
    profile : ProfileElbo
    standard_theta : ndarray
        θ̂ in standard coordinates.
    elbo, gap : float
        gap = log-likelihood − ELBO = KL(q ‖ posterior), at the estimates.
    path : ndarray
        The ELBO at the accepted points.
    n_iter : int
    status : Status
    starts : tuple of Start
        All of them, the one that is returned first.
    """

    profile: ProfileElbo
    standard_theta: Array
    elbo: float
    gap: float
    path: Array
    n_iter: int
    status: Status
    starts: tuple[Start, ...]

    @property
    def loglik(self) -> float:
        """Marginal log-likelihood at the estimates."""
        return self.elbo + self.gap

    @cached_property
    def solution(self) -> Solution:
        """β̂, σ̂, roots of the covariances over σ̂², and the means of q(u), in the units of the data."""
        return Solution(self.profile.likelihood, self.standard_theta)

    @cached_property
    def effect_cov(self) -> dict[int, Array]:
        """Covariances of q(u) of every term, (levels, d, d)."""
        if not self.profile.blocks:
            return self.solution.effect_cov
        lams = self.profile.lams(self.standard_theta)
        kept = [block.covariances(lam)[0] for block, lam in zip(self.profile.blocks, lams, strict=True)]
        found = {}
        for f, start, k, d in self.profile.likelihood.data.places:
            part, root = slice(start, start + d), self.solution.sigma * self.solution.roots[k]
            found[k] = root @ kept[f][:, part, part] @ root.T
        return found


def maximise(
    data: CrossProducts,
    factorisation: str,
    *,
    max_iter: int,
    rng: np.random.Generator,
    report: Callable[[int, float, float], None],
) -> PointMeanField:
    """Maximise the ELBO from every start, and keep the best."""
    profile = ProfileElbo(Likelihood(data, reml=False), factorisation)
    starts = thetas(profile.likelihood, rng)
    found = [_search(profile, name, theta, max_iter, report) for name, theta in starts.items()]
    best, *others = in_order(found)
    return replace(best, starts=(*best.starts, *(one.starts[0] for one in others)))


def _search(
    profile: ProfileElbo, name: str, theta: Array, max_iter: int, report: Callable[[int, float, float], None]
) -> PointMeanField:
    """The maximum that one start leads to; covariances that lose rank do so exactly."""
    likelihood = profile.likelihood
    value = profile(theta)
    latest = [value.deviance]

    def evaluate(x: Array) -> ProfileValue:
        found = profile(x)
        latest.append(found.deviance)
        return found

    found = minimise(
        evaluate,
        theta,
        value,
        lambda x, at: None,
        max_iter,
        lambda i, decrease: report(i, -0.5 * (min(latest) + likelihood.constant), decrease),
    )
    roots = [reml.canonical(L) for L in likelihood.unpack(found.x)]
    theta, singular = likelihood.pack([L for L, _ in roots]), any(rank < len(L) for L, rank in roots)
    end = profile(theta)
    status = Status.SINGULAR if singular else Status.CONVERGED
    if not found.converged:
        status = Status.NOT_CONVERGED
    elbo = -0.5 * (end.deviance + likelihood.constant)
    path = -0.5 * (np.array([deviance for _, deviance in found.path]) + likelihood.constant)
    start = Start(name, elbo, found.iterations, status)
    return PointMeanField(profile, theta, elbo, end.gap, path, found.iterations, status, (start,))
