"""Predictions of a posterior: means by those of the effects, intervals by draws."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..result import Array
from .draws import Draws
from .prediction import checked, means, per_weight, rows_of
from .solution import Rows

if TYPE_CHECKING:
    from .bayes_result import BayesFit

BLOCK = 2_000  # rows at a time


def predict(
    fit: "BayesFit",
    data: Any,
    *,
    interval: str | None,
    level: float,
    random_effects: bool,
    size: int,
    rng: np.random.Generator,
) -> "pd.Series | pd.DataFrame":
    """See `BayesFit.predict`."""
    level = checked(interval, level, random_effects)
    X, offset, index, rows = rows_of(fit, data, random_effects)
    terms = zip(fit.data.design.terms, fit.posterior.random, strict=True)
    effects = {k: mixtures.mean.reshape(len(term.factor.levels), -1) for k, (term, mixtures) in enumerate(terms)}
    mean = means(X, offset, rows, fit.fixed_effects.to_numpy(), effects)
    if interval is None:
        return pd.Series(mean, index=index, name="mean")
    draws, ends = fit.posterior.draw(rng, size), np.empty((2, len(X)))
    new = _new_groups(draws, rows, rng)
    noise = np.sqrt(np.broadcast_to(per_weight(fit, data), len(X))) if interval == "prediction" else np.zeros(len(X))
    for start in range(0, len(X), BLOCK):
        part = slice(start, start + BLOCK)
        values = draws.beta() @ X[part].T
        for (Z, codes), known, fresh in zip(rows, draws.effects, new, strict=False):
            every = np.concatenate([known, fresh[:, None]], axis=1)  # a code of −1 is the last
            values += np.einsum("rj,srj->sr", Z[part], every[:, codes[part]])
        values += draws.parameters["sigma"][:, None] * noise[part] * rng.standard_normal(values.shape)
        ends[:, part] = np.quantile(values, [0.5 - 0.5 * level, 0.5 + 0.5 * level], axis=0)
    lower, upper = ends + offset
    return pd.DataFrame({"mean": mean, "lower": lower, "upper": upper}, index=index)


def _new_groups(draws: Draws, rows: Rows, rng: np.random.Generator) -> list[Array]:
    """Effects of a group that the data do not have, of every term, (size, d)."""
    sizes = [Z.shape[1] for Z, _ in rows]
    if not sizes:
        return []
    found = [np.empty((len(draws.parameters["sigma"]), d)) for d in sizes]
    for i, scales in enumerate(draws.scales(sizes)):
        for out, sd, root in zip(found, scales.sd, scales.correlation, strict=True):
            out[i] = sd * (root @ rng.standard_normal(len(sd)))
    return found
