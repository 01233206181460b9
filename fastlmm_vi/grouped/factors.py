"""The optimal factor of q for every prior of a covariance, or of σ."""

from typing import Protocol

import numpy as np

from ..priors import Fixed, HuangWand, ScalePrior
from ..result import Array
from .correlation_factor import CorrelationFactor
from .covariance_factor import auxiliary, conjugate
from .marginals import Marginal
from .model_priors import ModelPriors, TermPrior
from .scale_factor import FixedFactor, ScaleFactor

MOST_CORRELATED = 2  # effects under an LKJ prior


class Factor(Protocol):
    """The factor of q of one covariance matrix, or of σ²."""

    @property
    def precision(self) -> Array:
        """E[Σ⁻¹], (d, d)."""
        ...

    def bound(self, squares: Array) -> float:
        """What the ELBO has of it: E log of (prior, |Σ|^(−n/2) exp(−½ tr(squares Σ⁻¹))) + entropy."""
        ...

    def marginals(self) -> tuple[list[Marginal], list[Marginal]]:
        """Of the standard deviations, of the correlations."""
        ...

    def draw(self, rng: np.random.Generator, size: int) -> Array:
        """Draw covariances, (size, d, d)."""
        ...

    def log_q(self, logs: Array, z: Array) -> Array:
        """Log density of logarithms of standard deviations (size, d) and z-transforms of canonical partial correlations."""
        ...


def of_scale(prior: ScalePrior | Fixed, n: int, squares: float) -> Factor:
    """Q of one standard deviation of n numbers with this expected sum of squares."""
    return FixedFactor(prior, n) if isinstance(prior, Fixed) else ScaleFactor(prior, n, squares)


def of_term(prior: TermPrior, levels: int, squares: Array) -> Factor:
    """q(Σ) of a term with E Σ_v u_v u_vᵀ = squares, (d, d)."""
    if prior.covariance is not None:
        of = prior.covariance
        return auxiliary(of, levels, squares) if isinstance(of, HuangWand) else conjugate(of, levels, squares)
    assert prior.scales is not None
    if len(prior.scales) == 1:
        return of_scale(prior.scales[0], levels, float(squares[0, 0]))
    first, second = prior.scales
    assert prior.correlation is not None
    assert not isinstance(first, Fixed)
    assert not isinstance(second, Fixed)
    return CorrelationFactor(first, second, prior.correlation.eta, levels, squares)


def check(priors: ModelPriors) -> None:
    """Refuse priors for which no optimal factor is known.

    Raises
    ------
    ValueError
        Of LKJ correlations among three effects or more, or beside a standard deviation that is held.
    """
    for term in priors.terms:
        if term.correlation is None or term.scales is None:
            continue
        held = any(isinstance(prior, Fixed) for prior in term.scales)
        if held or len(term.scales) > MOST_CORRELATED:
            what = "with a standard deviation that is held" if held else f"of {len(term.scales)} effects"
            raise ValueError(
                f"The covariance of ({', '.join(term.effects)} | {term.factor}), {what}, has no optimal factor of q under an "
                f'LKJ prior: give priors={{"cov": {{"{term.factor}": HuangWand(2, scales)}}}} or InverseWishart, or leave '
                "the correlations out, ||."
            )
