"""Maximum likelihood and REML: the profile criterion maximised to machine precision."""

import time

import numpy as np

from . import posterior, profile
from .basis import LIKELIHOOD, RESTRICTED, Basis, Point
from .design import Design
from .estimate import Estimate, mode_notes, modes, trace
from .spectrum import Spectrum


def fit(design: Design, spectrum: Spectrum, basis: Basis, *, reml: bool) -> Estimate:
    """Return the global (restricted) maximum-likelihood estimate.

    The profile over γ = σ²_β/σ²_e is scanned, every bracketed maximum polished by safeguarded Newton steps, and the
    best of them and of the boundary γ = 0 returned. REML's criterion follows lme4: without + ½ log|ZᵀZ|.

    Cost: some sixty evaluations of O(n c²), O(n) for REML of a single response; independent of p. Docs: derivation,
    sections 4 and 5.
    """
    start = time.perf_counter()
    criterion = RESTRICTED if reml else LIKELIHOOD
    optimum = profile.maximise(basis, criterion)
    seconds = time.perf_counter() - start
    best = optimum.best
    shift = -design.log_abs_R if reml else 0.0  # log|ZᵀV⁻¹Z| = log|QᵀV⁻¹Q| + 2 log|R|
    path = optimum.path
    values = np.array([point.value for point in path])
    a = basis.effects(best.gamma).a
    return Estimate(
        method="newton",
        criterion_name=criterion.name,
        criterion=best.value + shift,
        sigma2_beta=best.sigma2_beta,
        sigma2_e=best.sigma2_e,
        a=a,
        posterior=posterior.exact(design, spectrum, best.gamma, best.sigma2_e, a),
        status=optimum.status,
        trace=trace(
            values + shift,
            np.array([point.sigma2_beta for point in path]),
            np.array([point.sigma2_e for point in path]),
            seconds,
            loglik=np.array([_loglik(basis, point) for point in path]) if reml else values,
        ),
        n_iter=max(1, len(path) - 1),
        reml=reml,
        modes=modes(optimum, shift),
        notes=mode_notes(optimum, criterion.name),
    )


def _loglik(basis: Basis, point: Point) -> float:
    """Log-likelihood at a point of REML's profile."""
    return basis.loglik(point.sigma2_beta, point.sigma2_e, basis.effects(point.gamma).a)
