"""Draws from a posterior of the grouped model, whatever the method that made it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..result import Array
from .design import Term
from .parameters import effect_names
from .posterior import Scales


class Draws(NamedTuple):
    """Parameters by brms' names, (size,) each, and the random effects of every term, (size, levels, d)."""

    parameters: Mapping[str, Array]
    effects: Sequence[Array]

    def to_frame(self, terms: Sequence[Term]) -> pd.DataFrame:
        """One row a draw, columns as the rows of a fit's `to_frame`."""
        columns = dict(self.parameters)
        for term, draws in zip(terms, self.effects, strict=True):
            columns |= dict(zip(effect_names(term), draws.reshape(len(draws), -1).T, strict=True))
        return pd.DataFrame(columns)


def of_scales(scales: Sequence[Scales]) -> list[Array]:
    """Standard deviations and correlations of every term, then σ: columns in the order of `parameters.names`."""
    columns: list[Array] = []
    for k in range(len(scales[0].sd)):
        columns += list(np.array([at.sd[k] for at in scales]).T)
        roots = np.array([at.correlation[k] for at in scales])
        i, j = np.triu_indices(roots.shape[1], 1)
        columns += list((roots @ roots.transpose(0, 2, 1))[:, i, j].T)
    return [*columns, np.array([at.sigma for at in scales])]
