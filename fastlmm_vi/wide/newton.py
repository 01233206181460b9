"""Maximum likelihood and REML: the profile criterion maximised to machine precision."""

import time

import numpy as np
from fastlmm_vi_kernels import spectral as kernels

from . import posterior, profile
from .design import Design
from .estimate import Estimate, mode_notes, modes, trace
from .spectrum import Rotated, Spectrum


def fit(design: Design, spectrum: Spectrum, rotated: Rotated, *, reml: bool) -> Estimate:
    """Return the global (restricted) maximum-likelihood estimate.

    The profile over γ = σ²_β/σ²_e is scanned, every bracketed maximum polished by safeguarded Newton steps, and the
    best of them and of the boundary γ = 0 returned. REML's criterion follows lme4: without + ½ log|ZᵀZ|.

    Cost: O(n c²) per evaluation, some 150 evaluations; independent of p. Docs: derivation, sections 4 and 5.
    """
    start = time.perf_counter()
    criterion = profile.likelihood(rotated, reml)
    optimum = profile.maximise(rotated, criterion)
    seconds = time.perf_counter() - start
    best = optimum.best
    shift = -design.log_abs_R if reml else 0.0  # log|ZᵀV⁻¹Z| = log|QᵀV⁻¹Q| + 2 log|R|
    path = [profile.evaluate(rotated, criterion, gamma) for gamma in optimum.path]
    loglik = [kernels.marginal_loglik(point.sigma2_beta, point.sigma2_e, point.a, *rotated) for point in path]
    return Estimate(
        method="newton",
        criterion_name=criterion.name,
        criterion=best.value + shift,
        sigma2_beta=best.sigma2_beta,
        sigma2_e=best.sigma2_e,
        a=best.a,
        posterior=posterior.exact(design, spectrum, best.gamma, best.sigma2_e, best.a),
        status=optimum.status,
        trace=trace(
            np.array([point.value for point in path]) + shift,
            np.array([point.sigma2_beta for point in path]),
            np.array([point.sigma2_e for point in path]),
            seconds,
            loglik=np.array(loglik),
        ),
        n_iter=max(1, len(path) - 1),
        reml=reml,
        modes=modes(optimum, shift),
        notes=mode_notes(optimum, criterion.name),
    )
