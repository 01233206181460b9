"""Convergence of Markov chains, by ArviZ: R-hat, effective sample sizes, Monte-Carlo errors.

Vehtari, Gelman, Simpson, Carpenter and Bürkner (Bayesian Analysis 16, 2021).
"""

from typing import Any, NamedTuple

import numpy as np

from .inference_data import import_arviz
from .result import Array

LARGEST_R_HAT = 1.01
FEWEST_DRAWS = 400


class Convergence(NamedTuple):
    """Of every quantity, (k,)."""

    mcse_mean: Array
    ess_bulk: Array
    ess_tail: Array
    r_hat: Array

    @property
    def mixed(self) -> bool:
        """Whether every R-hat is below 1.01."""
        return bool((self.r_hat < LARGEST_R_HAT).all())

    @property
    def enough(self) -> bool:
        """Whether every effective sample size is 400 at least."""
        return bool(min(self.ess_bulk.min(), self.ess_tail.min()) >= FEWEST_DRAWS)


def diagnose(draws: Array) -> Convergence:
    """Convergence of draws (chains, draws, k); one chain is compared with itself, its first half with the second.

    Raises
    ------
    ImportError
        If ArviZ is not installed.
    """
    az = import_arviz()
    import xarray

    if len(draws) == 1:
        half = draws.shape[1] // 2
        draws = draws[0, : 2 * half].reshape(2, half, -1)
    data = xarray.Dataset({"x": (("chain", "draw", "k"), draws)})

    def values(found: Any) -> Array:
        return np.asarray(found["x"].values, dtype=np.float64)

    return Convergence(
        mcse_mean=values(az.mcse(data, method="mean")),
        ess_bulk=values(az.ess(data, method="bulk")),
        ess_tail=values(az.ess(data, method="tail")),
        r_hat=values(az.rhat(data)),
    )
