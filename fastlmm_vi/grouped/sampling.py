"""The exact posterior of the grouped model by draws of its variance parameters: NUTS, or importance sampling at the mode."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ConvergenceWarning
from ..importance import WeightedDraws, importance
from ..laplace import Laplace, laplace
from ..result import Array, Status
from ..sampler import nuts
from .cross_products import CrossProducts
from .density import Density
from .model_priors import ModelPriors
from .posterior import Posterior
from .quadrature import estimates
from .sampled_posterior import SampledPosterior

LIGHT = 0.5  # Pareto k̂ up to which "auto" takes importance sampling: weights of finite variance
WEIGHTED = 4000  # draws of importance sampling
# A standard deviation is sampled with a sign, and crosses 0, where the log density at 0 is less than this below the mode's.
NEAR = 5.0
FAR = 8.0  # in logarithms, from the mode to what is as good as 0
METHODS = ("laplace-is", "nuts", "auto")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of NUTS; `draws` and `random_state` of importance sampling too."""

    draws: int | None = None
    tune: int = 200
    chains: int = 4
    target_accept: float = 0.8
    cores: int | None = None
    random_state: int | None = 0


def fit(
    method: str,
    data: CrossProducts,
    priors: ModelPriors,
    settings: Settings,
    show: Callable[[str], None] = lambda text: None,
) -> tuple[str, SampledPosterior]:
    """Sample the posterior; returns the method that was used, and what it gave.

    Raises
    ------
    ValueError
        If every variance parameter is `Fixed`.
    ImportError
        If NUTS is asked for and nutpie is not installed.
    IntegrationError
        If the posterior has no mode: a prior is improper.

    Warns
    -----
    ConvergenceWarning
        If chains did not mix or diverged, or weights are heavy.
    """
    show(f"{method}, mode")
    posterior = Posterior(data, priors)
    density = posterior.density
    if not density.dim:
        raise ValueError(f"method={method!r} samples variance parameters, and all of them are Fixed: leave one free.")
    normal = laplace(density, posterior.phi(estimates(posterior)))
    if method == "nuts":
        return method, _by_chains(posterior, normal, settings, show)
    if method == "laplace-is":
        return method, _by_weights(posterior, normal, settings, show)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # NUTS follows
        found = _by_weights(posterior, normal, settings, show)
    if isinstance(found.run, WeightedDraws) and found.status is Status.CONVERGED and found.run.k <= LIGHT:
        return "laplace-is", found
    return "nuts", _by_chains(posterior, normal, settings, show)


def _by_weights(
    posterior: Posterior, normal: Laplace, settings: Settings, show: Callable[[str], None]
) -> SampledPosterior:
    show("laplace-is, weights")
    run = importance(posterior.density, normal, draws=settings.draws or WEIGHTED, random_state=settings.random_state)
    return SampledPosterior(posterior, run.draws[None], run, _seed(settings))


def _by_chains(
    posterior: Posterior, normal: Laplace, settings: Settings, show: Callable[[str], None]
) -> SampledPosterior:
    density = posterior.density
    if _near_zero(posterior, normal):
        density = Density(posterior.data, posterior.priors, "signed")
        normal = laplace(density, _exponentials(posterior, normal.mode))
    run = nuts(
        density,
        normal.mode,
        normal=normal,
        draws=settings.draws or 1000,
        tune=settings.tune,
        chains=settings.chains,
        target_accept=settings.target_accept,
        cores=settings.cores,
        random_state=settings.random_state,
        to=density.unsigned,
        show=show,
    )
    return SampledPosterior(posterior, run.draws, run, _seed(settings))


def _is_sd(posterior: Posterior) -> NDArray[np.bool_]:
    return np.array([name.startswith("sd_") for name in posterior.names])


def _near_zero(posterior: Posterior, normal: Laplace) -> bool:
    """Whether a standard deviation may be 0: its logarithm then has a long tail, which steps of one length do not fit."""
    for j in np.flatnonzero(_is_sd(posterior)):
        nearly = normal.mode.copy()
        nearly[j] -= FAR
        if normal.log_density - (posterior(nearly) + FAR) < NEAR:  # densities in the standard deviation itself
            return True
    return False


def _exponentials(posterior: Posterior, phi: Array) -> Array:
    """φ with standard deviations in place of their logarithms."""
    return np.where(_is_sd(posterior), np.exp(np.where(_is_sd(posterior), phi, 0.0)), phi)


def _seed(settings: Settings) -> int:
    """Of the draws of effects."""
    return int(np.random.default_rng(settings.random_state).integers(2**31))
