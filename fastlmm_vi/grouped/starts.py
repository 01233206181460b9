"""Where iterations over variances start, and which end is the best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import pandas as pd
import scipy.linalg

from ..result import Array, Status
from . import reml
from .likelihood import Likelihood
from .solution import Solution

SMALLEST = 0.03  # of a variance relative to σ², in standard coordinates: from 0 no update leads away
ALIKE = 1e-9  # difference of two ELBOs, relative, at which they are one: the first start is kept


@dataclass(frozen=True)
class Start:
    """One start, and where it led."""

    name: str
    elbo: float
    n_iter: int
    status: Status


class End(Protocol):
    """What the ends of several starts are compared by."""

    @property
    def elbo(self) -> float:
        """The evidence lower bound."""
        ...

    @property
    def status(self) -> Status:
        """How the iterations ended."""
        ...


E = TypeVar("E", bound=End)


def thetas(likelihood: Likelihood, rng: np.random.Generator) -> Mapping[str, Array]:
    """θ in standard coordinates by name: from moments, of REML, and at random; no variance is 0."""
    found = {
        "moments": reml.start(likelihood),
        "reml": reml.fit(Likelihood(likelihood.data, reml=True)).theta,
        "random": rng.normal(size=likelihood.free.size),
    }
    return {name: _away_from_zero(likelihood, theta) for name, theta in found.items()}


def _away_from_zero(likelihood: Likelihood, theta: Array) -> Array:
    """θ of ΛΛᵀ + a multiple of the identity."""
    return likelihood.pack(
        [np.asarray(np.linalg.cholesky(L @ L.T + SMALLEST * np.eye(len(L)))) for L in likelihood.unpack(theta)]
    )


def precisions(likelihood: Likelihood, theta: Array) -> tuple[float, list[Array]]:
    """1/σ² and Σ⁻¹ of every term in formula order, in the units of the data, at θ."""
    solution = Solution(likelihood, theta)
    inverses = {k: scipy.linalg.inv(solution.sigma * root) for k, root in solution.roots.items()}
    return solution.sigma**-2.0, [inverse.T @ inverse for _, inverse in sorted(inverses.items())]


def in_order(ends: Sequence[E]) -> list[E]:
    """The best first: of those that converged the one with the highest ELBO, the first of equals."""

    def better(one: E, other: E) -> bool:
        if one.status.converged != other.status.converged:
            return one.status.converged
        return one.elbo > other.elbo + ALIKE * max(1.0, abs(other.elbo))

    best = 0
    for i, end in enumerate(ends):
        if better(end, ends[best]):
            best = i
    return [ends[best], *(end for i, end in enumerate(ends) if i != best)]


def table(starts: Sequence[Start]) -> pd.DataFrame:
    """Where every start led: `elbo`, `n_iter`, `status`."""
    rows = [(start.elbo, start.n_iter, start.status.value) for start in starts]
    index = pd.Index([start.name for start in starts], name="start")
    return pd.DataFrame(rows, index=index, columns=["elbo", "n_iter", "status"])
