"""Bayes for the wide model: the exact posterior by quadrature over the two variances, or its mean-field approximation."""

import time
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
from scipy.special import log_expit

from .. import threads
from ..errors import ConvergenceWarning
from ..priors import Fixed
from ..result import Array, Fit, Status, Trace
from . import profile, variational
from .basis import RESTRICTED
from .design import Design
from .estimate import centre_intercept, trace
from .evidence import Evidence
from .fit import Report, check_limits, enough_threads, reusable
from .mixture import Mixture
from .prior import Priors, resolve
from .rotated import Rotated
from .spectrum import Spectrum
from .variances import NAMES, Variances, independent, integrate_out, log_prior

ENGINES = ("quadrature", "mfvi")
TOL = {"quadrature": 1e-6, "mfvi": 1e-8}
MAX_ITER = {"quadrature": 200_000, "mfvi": 1000}
INDEPENDENT = (
    "q(ω) q(β) q(σ²_β) q(σ²_e) ignores how these depend on each other: posterior standard deviations and intervals are too "
    "narrow, most of all those of σ²_β and PVE."
)
IMPROPER = "Some prior is improper: the {} is known up to a constant only, and compares no models of other parameters."


class Found(NamedTuple):
    """What an engine hands back."""

    variances: Variances
    posterior: Mixture
    criterion: float
    status: Status
    trace: Trace
    n_iter: int
    modes: tuple[tuple[float, float, float], ...]
    notes: tuple[str, ...]


def fit(
    design: Design,
    *,
    engine: str,
    priors: Mapping[str, Any] | None,
    tol: float | None,
    max_iter: int | None,
    n_jobs: int | None,
    spectrum: Spectrum | None = None,
    report: Report,
    prepare_seconds: float = 0.0,
) -> Fit:
    """Run one engine on a design and return its `Fit`; `spectrum`, where given, is reused."""
    n_threads = enough_threads(design, threads.count(n_jobs))
    timings = {"prepare": prepare_seconds}
    report("spectrum", 0, np.nan)
    start = time.perf_counter()
    with threads.limit(n_threads):
        made = Spectrum.of(design.features, n_jobs=n_threads) if spectrum is None else reusable(spectrum, design)
        basis = made.with_vectors().rotate(design)
    timings["spectrum"] = time.perf_counter() - start
    report(engine, 0, np.nan)
    start = time.perf_counter()
    eigenvalue = basis.explained / (design.n - design.c)
    with threads.limit(1):
        prior = resolve(priors, design, eigenvalue)
        run = by_quadrature if engine == "quadrature" else by_mean_field
        found = run(
            design,
            made.with_vectors(),
            basis,
            prior,
            eigenvalue if eigenvalue > 1e-12 * basis.trace / design.n else 0.0,
            tol=TOL[engine] if tol is None else tol,
            max_iter=MAX_ITER[engine] if max_iter is None else max_iter,
        )
        timings[engine] = time.perf_counter() - start
        result = centre_intercept(_to_fit(design, basis, engine, prior, found, timings, n_threads), design)
    if found.status is Status.NOT_CONVERGED and engine == "mfvi":
        text = " ".join([found.status.advice, *found.notes])
        warnings.warn(f"{text} ({found.n_iter} iterations)", ConvergenceWarning, stacklevel=3)
    return result


def by_quadrature(
    design: Design,
    spectrum: Spectrum,
    basis: Rotated,
    priors: Priors,
    eigenvalue: float,
    *,
    tol: float,
    max_iter: int,
) -> Found:
    """Return the exact posterior: ω and β integrated out in closed form, (σ²_β, σ²_e) on an adaptive grid.

    Cost: one to a few thousand evaluations of O(n c²), independent of p. Docs: derivation_bayes_wide, sections 2 and 3.
    """
    start = time.perf_counter()
    evidence = Evidence(basis, priors.effects)

    def log_posterior(log_beta: Array, log_e: Array) -> Array:
        likelihood = evidence(np.exp(log_beta), np.exp(log_e)).log_likelihood
        return likelihood + log_prior(priors.sigma_beta, log_beta) + log_prior(priors.sigma_e, log_e)

    fixed = _fixed(priors)
    begin = _restricted(basis, eigenvalue)
    found = integrate_out(log_posterior, fixed, begin, eigenvalue, tol=tol, max_evaluations=max_iter)
    at = evidence(found.sigma2_beta, found.sigma2_e)
    gamma = found.sigma2_beta / found.sigma2_e
    posterior = Mixture(
        design, spectrum, basis, found.weights, gamma, found.sigma2_beta, found.sigma2_e, at.mean, at.covariance, True
    )
    one = np.array([found.log_evidence])
    mean = found.theta.table["mean"]
    seconds = time.perf_counter() - start
    error = f"{found.error:.1g}" if np.isfinite(found.error) else "unknown, as the grid could not be refined"
    notes = (f"Estimated error of the log evidence and of moments in standard deviations: {error}.",)
    return Found(
        variances=found,
        posterior=posterior,
        criterion=found.log_evidence,
        status=Status.CONVERGED if found.converged else Status.NOT_CONVERGED,
        trace=trace(one, mean[["sigma2_beta"]].to_numpy(), mean[["sigma2_e"]].to_numpy(), seconds),
        n_iter=found.evaluations,
        modes=_mode(log_posterior, begin, eigenvalue) if fixed == (None, None) else (),
        notes=notes if priors.proper else (*notes, IMPROPER.format("log evidence")),
    )


def by_mean_field(
    design: Design,
    spectrum: Spectrum,
    basis: Rotated,
    priors: Priors,
    eigenvalue: float,
    *,
    tol: float,
    max_iter: int,
) -> Found:
    """Return the best q(ω) q(β) q(σ²_β) q(σ²_e) from several starts. Docs: derivation_bayes_wide, section 4."""
    start = time.perf_counter()
    half = 0.5 * float(np.var(design.residual))
    t = eigenvalue if eigenvalue > 0.0 else 1.0
    starts = [_restricted(basis, eigenvalue), (half / t, half), (0.01 * half / t, half)]
    best, others = variational.climb(basis, design.p, priors, starts, tol=tol, max_iter=max_iter)
    last = best.states[-1]
    q_beta = variational.ScaleFactor(priors.sigma_beta, design.p)
    q_e = variational.ScaleFactor(priors.sigma_e, design.n)

    found = independent(
        lambda x: q_beta.log_kernel(x, last.half_squares[0]),
        lambda x: q_e.log_kernel(x, last.half_squares[1]),
        _fixed(priors),
        (float(1.0 / last.new[0]), float(1.0 / last.new[1])),
        eigenvalue,
    )
    t_beta, t_e = last.tau
    posterior = Mixture(
        design,
        spectrum,
        basis,
        found.weights,
        np.array([t_e / t_beta]),
        np.array([1.0 / t_beta]),
        found.sigma2_e,
        last.effects[None],
        last.covariance[None],
        False,
    )
    elbo = np.array([state.elbo for state in best.states])
    sigma2 = 1.0 / np.array([state.new for state in best.states])
    status = Status.CONVERGED if best.distance <= tol else Status.NOT_CONVERGED
    notes: list[str] = []
    if best.fell:
        status = Status.ELBO_FELL
    elif status is Status.NOT_CONVERGED:
        notes.append(f"log E[1/σ²] is still {best.distance:.3g} from its fixed point (wanted: {tol:.3g}).")
    ends = [(*(1.0 / end.states[-1].new).tolist(), end.states[-1].elbo) for end in (best, *others)]
    if others:
        listed = "; ".join(f"σ²_β = {beta:.6g} ({value - elbo[-1]:+.4g})" for beta, _, value in ends[1:])
        notes.append(f"Other starts end at other fixed points, lower by the amount in brackets: {listed}.")
    notes.append(INDEPENDENT)
    if not priors.proper:
        notes.append(IMPROPER.format("ELBO"))
    seconds = time.perf_counter() - start
    return Found(
        variances=found,
        posterior=posterior,
        criterion=float(elbo[-1]),
        status=status,
        trace=trace(elbo, sigma2[:, 0], sigma2[:, 1], seconds, elbo=elbo),
        n_iter=len(elbo) - 1,
        modes=tuple(ends),
        notes=tuple(notes),
    )


def _fixed(priors: Priors) -> tuple[float | None, float | None]:
    """The variances that are held at a value."""
    beta, e = (p.value**2 if isinstance(p, Fixed) else None for p in (priors.sigma_beta, priors.sigma_e))
    return beta, e


def _restricted(basis: Rotated, eigenvalue: float) -> tuple[float, float]:
    """REML's variances, or some inside where they lie on the boundary: where posteriors are looked for first."""
    best = profile.maximise(basis, RESTRICTED).best
    if best.sigma2_beta > 0.0:
        return best.sigma2_beta, best.sigma2_e
    return 0.1 * best.sigma2_e / (eigenvalue if eigenvalue > 0.0 else 1.0), best.sigma2_e


def _mode(log_posterior: Any, begin: tuple[float, float], eigenvalue: float) -> tuple[tuple[float, float, float], ...]:
    """The local maximum of the density of (σ²_β, σ²_e) next to REML's; none where that density rises to the boundary."""
    if eigenvalue == 0.0:
        return ()

    def logs(x: Array) -> tuple[Array, Array]:
        return x[1:] + log_expit(x[:1]) - np.log(eigenvalue), x[1:] + log_expit(-x[:1])

    def depth(x: Array) -> float:
        log_beta, log_e = logs(np.clip(x, -100.0, 100.0))
        return -float((log_posterior(log_beta, log_e) - log_beta - log_e)[0])

    share = begin[0] * eigenvalue
    found: Any = scipy.optimize.minimize(
        depth, [np.log(share / begin[1]), np.log(share + begin[1])], method="BFGS", options={"gtol": 1e-7}
    )
    outwards = found.x + np.array([np.sign(found.x[0]), 0.0])
    if abs(found.x[0]) > 20.0 or depth(outwards) <= found.fun:
        return ()
    log_beta, log_e = logs(found.x)
    return ((float(np.exp(log_beta[0])), float(np.exp(log_e[0])), -float(found.fun)),)


def _to_fit(
    design: Design,
    basis: Rotated,
    engine: str,
    priors: Priors,
    found: Found,
    timings: Mapping[str, float],
    n_threads: int,
) -> Fit:
    """Posterior means and standard deviations as the one result of all methods."""
    posterior, table = found.posterior, found.variances.theta.table
    means, sds = (dict(zip(NAMES, table[column].tolist(), strict=True)) for column in ("mean", "sd"))
    a, covariance = posterior.effects_moments()
    omega, omega_cov = design.omega(a), design.omega_covariance(covariance)
    omega_se = np.sqrt(np.diag(omega_cov))
    first = 1 if design.has_intercept else 0
    exact = engine == "quadrature"
    return Fit(
        method=engine,
        criterion_name="log evidence" if exact else "ELBO",
        reml=False,
        n=design.n,
        p=design.p,
        c=design.c,
        omega=omega[first:],
        omega_se=omega_se[first:],
        omega_cov=omega_cov,
        intercept=float(omega[0]) if first else None,
        intercept_se=float(omega_se[0]) if first else None,
        sigma2_beta=means["sigma2_beta"],
        sigma2_e=means["sigma2_e"],
        pve=means["pve"],
        sigma2_beta_se=sds["sigma2_beta"],
        sigma2_e_se=sds["sigma2_e"],
        pve_se=sds["pve"],
        se_note="",
        loglik=basis.loglik(means["sigma2_beta"], means["sigma2_e"], a),
        criterion=found.criterion,
        elbo=None if exact else found.criterion,
        posterior=posterior,
        status=found.status,
        notes=(*design.notes, *found.notes),
        modes=found.modes,
        n_iter=found.n_iter,
        trace=found.trace,
        timings=dict(timings),
        threads=n_threads,
        standardized=design.scale is not None,
        covariate_names=design.covariate_names,
        feature_names=design.feature_names,
        theta=found.variances.theta,
        log_evidence=found.criterion if exact else None,
        priors=priors.texts,
    )


def check_options(options: dict[str, Any]) -> None:
    """Raise ValueError, naming the option and its choices, for anything a fit does not know."""
    if options["engine"] not in ENGINES:
        raise ValueError(f"engine={options['engine']!r} is not known: choose one of {', '.join(map(repr, ENGINES))}.")
    check_limits(options)
