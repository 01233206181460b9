"""Variational Bayes of the grouped model: from cross products to q."""

from collections.abc import Callable

import numpy as np

from ..errors import DataError
from .coordinate_ascent import climb
from .cross_products import CrossProducts
from .factors import check
from .gaussian_factor import GaussianFactor
from .kept_blocks import FACTORISATIONS
from .likelihood import Likelihood
from .model_priors import ModelPriors
from .starts import Start, in_order, precisions, thetas
from .variational_posterior import VariationalPosterior

MAX_ITER = 1000
TOL = 1e-8  # of the logarithm of an expected square, in a turn and in the step that extrapolation proposes


def fit(
    data: CrossProducts,
    priors: ModelPriors,
    *,
    factorisation: str = "joint",
    max_iter: int = MAX_ITER,
    tol: float = TOL,
    random_state: int | None = 0,
    report: Callable[[int, float, float], None] = lambda iteration, elbo, change: None,
) -> VariationalPosterior:
    """Maximise the ELBO over q of a factorisation, from several starts.

    Parameters
    ----------
    data : CrossProducts
    priors : ModelPriors
    factorisation : {"joint", "factor", "group", "coefficient"}
        q(β, u); q(β) Π q(u_f) by grouping factors; by groups of single terms; by single random effects, in the coordinates
        in which the formula gives them. The levels of one factor are independent in all but the first, by themselves.
    max_iter : int
        Turns from one start.
    tol : float
        A turn, and the step that extrapolation proposes, must move no logarithm of an expected square by more.
    random_state : int or None
        Of the random start.
    report : callable
        Called with iteration, ELBO, and change.

    Raises
    ------
    ValueError
        If an argument is wrong, or a prior has no optimal factor.
    DataError
        If numbers leave their range.
    """
    if factorisation not in FACTORISATIONS:
        known = ", ".join(map(repr, FACTORISATIONS))
        raise ValueError(f"factorisation={factorisation!r} is not known: choose one of {known}.")
    if not tol > 0.0:
        raise ValueError(f"tol={tol!r} must be positive.")
    rng = np.random.default_rng(random_state)
    check(priors)
    gaussian, likelihood = GaussianFactor(data, priors.beta, factorisation), Likelihood(data, reml=False)
    try:
        found = {
            name: climb(gaussian, priors, precisions(likelihood, theta), max_iter=max_iter, tol=tol, report=report)
            for name, theta in thetas(likelihood, rng).items()
        }
    except np.linalg.LinAlgError as lost:
        raise DataError(
            f"Variances of {data.design.response} and its random effects lie so far apart that their equations cannot be "
            f"solved in float64 ({lost}): take the largest random effects into the fixed part, or give proper priors."
        ) from lost
    best, *_ = ends = in_order(list(found.values()))
    of = {id(end): Start(name, end.elbo, len(end.trace), end.status) for name, end in found.items()}
    return VariationalPosterior.of(gaussian, priors, best, tuple(of[id(end)] for end in ends))
