"""What a method hands back, and how it becomes the one result of all methods."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..result import Array, Fit, Posterior, Status, Trace
from . import information
from .basis import Basis
from .design import Design
from .profile import Optimum


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """The end of one method's road: θ, what was maximised there, q where there is one, and how it got there."""

    method: str
    criterion_name: str
    criterion: float
    sigma2_beta: float
    sigma2_e: float
    a: Array
    posterior: Posterior
    status: Status
    trace: Trace
    n_iter: int
    elbo: float | None = None
    reml: bool = False
    modes: tuple[tuple[float, float, float], ...] = ()
    notes: tuple[str, ...] = ()
    no_se: str = ""  # why the variances have no standard errors, if the method has none to give


def trace(
    criterion: Array,
    sigma2_beta: Array,
    sigma2_e: Array,
    seconds: float | Array,
    *,
    loglik: Array | None = None,
    elbo: Array | None = None,
    max_change: Array | None = None,
) -> Trace:
    """Return a `Trace`, with NaN where a method has nothing to say and a total of seconds spread over its rows."""
    nan = np.full(criterion.size, np.nan)
    return Trace(
        criterion=criterion,
        loglik=nan if loglik is None else loglik,
        elbo=nan if elbo is None else elbo,
        sigma2_beta=sigma2_beta,
        sigma2_e=sigma2_e,
        max_change=nan if max_change is None else max_change,
        seconds=np.linspace(0.0, seconds, criterion.size) if isinstance(seconds, float) else seconds,
    )


def modes(optimum: Optimum, shift: float = 0.0) -> tuple[tuple[float, float, float], ...]:
    """Every local maximum as (σ²_β, σ²_e, criterion), the returned one first; `shift` completes the criterion."""
    return tuple((float(m.sigma2_beta), float(m.sigma2_e), float(m.value + shift)) for m in optimum.modes)


def mode_notes(optimum: Optimum, name: str) -> tuple[str, ...]:
    """Say that there are other maxima, where there are."""
    visible = 1e-9 * (1.0 + abs(optimum.best.value))
    rest = [m for m in optimum.modes if optimum.best.value - m.value > visible]
    if not rest:
        return ()
    listed = "; ".join(f"σ²_β = {m.sigma2_beta:.6g} ({m.value - optimum.best.value:+.4g})" for m in rest)
    return (f"The {name} has other local maxima, lower by the amount in brackets: {listed}.",)


def judge(optimum: Optimum, arrived: bool, sigma2_beta: float, value: float) -> tuple[Status, tuple[str, ...]]:
    """Compare where an iteration ended with the known optimum: its status, and how far there is to go."""
    best = optimum.best
    if optimum.status is Status.ZERO_SIGMA2_E:
        return (Status.ZERO_SIGMA2_E if arrived or value >= best.value else Status.NOT_CONVERGED), ()
    if not arrived:
        where = "on its way to the optimum 0"
        if best.sigma2_beta > 0.0:
            where = f"{sigma2_beta / best.sigma2_beta:.4g} times the optimum {best.sigma2_beta:.6g}"
        return Status.NOT_CONVERGED, (
            f"σ²_β = {sigma2_beta:.6g} is still {where}; the criterion can rise by {best.value - value:.3g}.",
        )
    status: Status = optimum.status if optimum.status is Status.UNBOUNDED else Status.CONVERGED
    if sigma2_beta == 0.0:
        status = Status.ZERO_SIGMA2_BETA
    if best.value - value <= 1e-6 * max(1.0, abs(best.value)):
        return status, ()
    return status, (
        f"This is a local maximum: the global one, at σ²_β = {best.sigma2_beta:.6g}, is higher by "
        f"{best.value - value:.4g}.",
    )


def to_fit(
    design: Design,
    basis: Basis | None,
    estimate: Estimate,
    loglik: float,
    timings: Mapping[str, float],
    threads: int,
) -> Fit:
    """Add standard errors, PVE and names to an estimate; `basis` is None where no spectrum was made."""
    e = estimate
    found = _information(basis, e)
    omega, omega_cov = design.omega(e.a), design.omega_covariance(found.effects)
    omega_se = np.sqrt(np.diag(omega_cov))
    first = 1 if design.has_intercept else 0
    t = _mean_projected_eigenvalue(design, basis)
    explained = e.sigma2_beta * t
    sigma2_beta_se, sigma2_e_se = np.sqrt(np.diag(found.variances))
    return Fit(
        method=e.method,
        criterion_name=e.criterion_name,
        reml=e.reml,
        n=design.n,
        p=design.p,
        c=design.c,
        omega=omega[first:],
        omega_se=omega_se[first:],
        omega_cov=omega_cov,
        intercept=float(omega[0]) if first else None,
        intercept_se=float(omega_se[0]) if first else None,
        sigma2_beta=float(e.sigma2_beta),
        sigma2_e=float(e.sigma2_e),
        pve=float(explained / (explained + e.sigma2_e)),
        sigma2_beta_se=float(sigma2_beta_se),
        sigma2_e_se=float(sigma2_e_se),
        pve_se=information.pve_se(t, e.sigma2_beta, e.sigma2_e, found.variances),
        se_note=found.reason,
        loglik=float(loglik),
        criterion=float(e.criterion),
        elbo=None if e.elbo is None else float(e.elbo),
        posterior=e.posterior,
        status=e.status,
        notes=(*design.notes, *e.notes),
        modes=e.modes,
        n_iter=e.n_iter,
        trace=e.trace,
        timings=dict(timings),
        threads=threads,
        standardized=design.scale is not None,
        covariate_names=design.covariate_names,
        feature_names=design.feature_names,
    )


def centre_intercept(fit: Fit, design: Design) -> Fit:
    """Move the intercept so that predictions take X as given, where the design centred it."""
    if design.center is None:
        return fit
    moved = replace(fit, intercept=(fit.intercept or 0.0) - float(design.center @ fit.beta_mean))
    if not design.has_intercept:
        return moved
    note = "The intercept is that of X as given; its standard error is known at the mean of X only (omega_cov[0, 0])."
    return replace(moved, intercept_se=np.nan, notes=(*fit.notes, note))


def _information(basis: Basis | None, e: Estimate) -> information.Information:
    if basis is None:
        nan = np.full((e.a.size, e.a.size), np.nan)
        return information.Information(nan, np.full((2, 2), np.nan), "no spectrum was made for a matrix of this size")
    reason = e.no_se
    if e.status is Status.NOT_CONVERGED:
        reason = "not at the optimum"
    elif e.sigma2_beta == 0.0:
        reason = "σ²_β is on its boundary 0"
    elif e.status is Status.ZERO_SIGMA2_E:
        reason = "σ²_e is on its boundary"
    if reason:
        return information.gls(basis, e.sigma2_beta, e.sigma2_e, reason)
    return information.observed(basis, e.sigma2_beta, e.sigma2_e, reml=e.reml)


def _mean_projected_eigenvalue(design: Design, basis: Basis | None) -> float:
    """T = tr(MK) / (n − c), M projecting off the covariates: what one unit of σ²_β adds to the variance of y."""
    if basis is not None:
        return basis.explained / (design.n - design.c)
    explained = float((design.features.rmatvec(design.Q) ** 2).sum())
    return (float(design.features.column_sq_norms().sum()) - explained) / (design.n - design.c)
