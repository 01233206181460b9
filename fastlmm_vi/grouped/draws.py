"""Draws from a posterior of the grouped model, whatever the method that made it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..result import Array
from .design import Term
from .parameters import effect_names, names
from .posterior import Posterior, Scales


class Draws(NamedTuple):
    """Parameters by brms' names, (size,) each, and the random effects of every term, (size, levels, d).

    `log_density` (size,) is that of a variational posterior, in β, b, logarithms of standard deviations and z-transforms of
    canonical partial correlations; None of other posteriors.
    """

    parameters: Mapping[str, Array]
    effects: Sequence[Array]
    log_density: Array | None = None

    def beta(self) -> Array:
        """Fixed effects, (size, p)."""
        columns = [values for name, values in self.parameters.items() if name.startswith("b_")]
        return np.column_stack([np.empty((len(self.parameters["sigma"]), 0)), *columns])

    def scales(self, sizes: Sequence[int]) -> list[Scales]:
        """Standard deviations, roots of correlation matrices, and σ, draw by draw; `sizes` are the effects of every term."""
        values = np.array([v for name, v in self.parameters.items() if not name.startswith("b_")])
        sd, roots, at = [], [], 0
        for d in sizes:
            sd.append(values[at : at + d].T)
            at += d
            R = np.broadcast_to(np.eye(d), (values.shape[1], d, d)).copy()
            i, j = np.triu_indices(d, 1)
            R[:, i, j] = R[:, j, i] = values[at : at + i.size].T
            at += i.size
            roots.append(np.linalg.cholesky(R))
        return [
            Scales(tuple(one[k] for one in sd), tuple(one[k] for one in roots), float(sigma))
            for k, sigma in enumerate(values[-1])
        ]

    def to_frame(self, terms: Sequence[Term]) -> pd.DataFrame:
        """One row a draw, columns as the rows of a fit's `to_frame`."""
        columns = dict(self.parameters)
        for term, draws in zip(terms, self.effects, strict=True):
            columns |= dict(zip(effect_names(term), draws.reshape(len(draws), -1).T, strict=True))
        return pd.DataFrame(columns)


def recovered(posterior: Posterior, phis: Array, rng: np.random.Generator) -> Draws:
    """Variance parameters at rows of φ (size, k), and β and b drawn given these."""
    beta, effects = posterior.recovery.draw(phis, rng)
    scales = of_scales([posterior.scales(phi) for phi in phis])
    found = {f"b_{name}": beta[:, j] for j, name in enumerate(posterior.priors.coefficients)}
    found |= dict(zip(names(posterior.data.design.terms), scales, strict=True))
    return Draws(found, posterior.recovery.by_term(effects))


def of_scales(scales: Sequence[Scales]) -> list[Array]:
    """Standard deviations and correlations of every term, then σ: columns in the order of `parameters.names`."""
    columns: list[Array] = []
    for k in range(len(scales[0].sd)):
        columns += list(np.array([at.sd[k] for at in scales]).T)
        roots = np.array([at.correlation[k] for at in scales])
        i, j = np.triu_indices(roots.shape[1], 1)
        columns += list((roots @ roots.transpose(0, 2, 1))[:, i, j].T)
    return [*columns, np.array([at.sigma for at in scales])]
