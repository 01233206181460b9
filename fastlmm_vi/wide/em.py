"""Expectation–maximisation in the eigenbasis, run to the optimum and honest where it is not there."""

import time

import numpy as np

from ..result import Status
from . import iteration, posterior, profile
from .basis import LIKELIHOOD
from .design import Design
from .estimate import Estimate, judge, modes, trace
from .rotated import Rotated
from .spectrum import Spectrum


def fit(design: Design, spectrum: Spectrum, rotated: Rotated, *, tol: float, max_iter: int) -> Estimate:
    """Return the EM estimate: ω from least squares and both variances var(y)/2 to start with.

    E-step: the exact posterior of β. M-step: ω by least squares of y − X E[β], then σ²_β and σ²_e with the new ω.
    The loop runs in one kernel at O(n c) an iteration, independent of p. It ends where the Newton step of the profile
    likelihood is below `tol`, relative to σ²_β: EM's own steps get small long before. Docs: derivation, sections 2–3.
    """
    start = time.perf_counter()
    optimum = profile.maximise(rotated, LIKELIHOOD)
    half = 0.5 * float(np.var(design.y))
    path, a, distance = iteration.run(rotated, LIKELIHOOD, design.p, (half, half), tol=tol, max_iter=max_iter)
    seconds = time.perf_counter() - start
    loglik, sigma2_beta, sigma2_e = path[-1]
    status, notes = judge(optimum, distance <= tol, sigma2_beta, loglik)
    if status is Status.NOT_CONVERGED:
        notes = (*notes, "method='newton' maximises the same likelihood without the crawl.")
    return Estimate(
        method="em",
        criterion_name=LIKELIHOOD.name,
        criterion=loglik,
        sigma2_beta=sigma2_beta,
        sigma2_e=sigma2_e,
        a=a,
        posterior=posterior.exact(design, spectrum, sigma2_beta / sigma2_e, sigma2_e, a),
        status=status,
        trace=trace(path[:, 0], path[:, 1], path[:, 2], seconds, loglik=path[:, 0]),
        n_iter=len(path) - 1,
        modes=modes(optimum),
        notes=notes,
    )
