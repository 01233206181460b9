"""From a design to a result: which method runs, on which spectrum, with how many threads."""

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .. import threads
from ..errors import ConvergenceWarning, DataError, FitWarning
from ..result import Fit, Status
from . import em, mean_field, newton, road
from .basis import Basis
from .blocks import factorise
from .design import Design
from .estimate import Estimate, centre_intercept, to_fit
from .rotated import Rotated
from .spectrum import Spectrum, check_size

METHODS = ("newton", "em", "mfvi")
SOLVERS = ("auto", "sweep", "collapsed")
THETA_BY = ("elbo", "loglik")
# Beyond this side a Gram matrix takes minutes: sweeps are chosen, and the log-likelihood is not filled in after them.
LARGEST_SPECTRUM = 5_000
# Fewer multiplications than this take a millisecond: threads only get in each other's way.
SMALL = 50_000_000
TOL = 1e-6
MAX_ITER = {"em": 20_000, "mfvi": 100_000}

Report = Callable[[str, int, float], None]


def fit(
    design: Design,
    *,
    method: str,
    reml: bool,
    theta_by: str,
    solver: str,
    accelerate: bool,
    block_size: Any,
    tol: float | None,
    max_iter: int | None,
    n_jobs: int | None,
    spectrum: Spectrum | None = None,
    report: Report,
    prepare_seconds: float = 0.0,
) -> Fit:
    """Run one method on a design and return its `Fit`; `spectrum`, where given, is reused.

    `report(stage, iteration, gradient)` is called at every stage and, for sweeps, every iteration.
    """
    n_threads = enough_threads(design, threads.count(n_jobs))
    timings = {"prepare": prepare_seconds}
    affordable = spectrum is not None or min(design.n, design.p) <= LARGEST_SPECTRUM
    by_sweeps = method == "mfvi" and (solver == "sweep" or (solver == "auto" and not affordable))
    basis = None
    if affordable or not by_sweeps:
        report("spectrum", 0, np.nan)
        with threads.limit(n_threads):
            spectrum, basis, timings["spectrum"] = _spectrum(
                design, spectrum, trace=method == "em" or (method == "mfvi" and not accelerate), jobs=n_threads
            )
    else:
        check_size(float(design.features.column_sq_norms().sum()), design.features)
    start = time.perf_counter()
    report(method, 0, np.nan)
    # What follows are many small products: threads would wait for each other longer than they work.
    with threads.limit(1):
        estimate = _estimate(
            design,
            spectrum,
            basis,
            method=method,
            reml=reml,
            theta_by=theta_by,
            by_sweeps=by_sweeps,
            accelerate=accelerate,
            block_size=block_size,
            tol=TOL if tol is None else tol,
            max_iter=max_iter or MAX_ITER.get(method, 0),
            report=lambda iteration, gradient: report(method, iteration, gradient),
        )
        loglik = np.nan
        if basis is not None:
            loglik = basis.loglik(estimate.sigma2_beta, estimate.sigma2_e, estimate.a)
        timings[method] = time.perf_counter() - start
        result = centre_intercept(to_fit(design, basis, estimate, loglik, timings, n_threads), design)
    _warn(result, estimate)
    if spectrum is not None and basis is not None and spectrum.features.single_gram:
        result = _with_rounding(result, spectrum, basis)
    return result


def _with_rounding(result: Fit, spectrum: Spectrum, basis: Basis) -> Fit:
    """Say how far single precision in X Xᵀ may move the log-likelihood, and warn where that is visible.

    To first order by n γ ‖ΔK‖, ‖ΔK‖ about 1e-6 λ_max; γ is taken where K and the noise are of one size.
    """
    mean = basis.explained / (basis.n - basis.c)
    bound = 1e-6 * basis.n * spectrum.factor.largest() / mean if mean > 0.0 else 0.0
    note = f"X Xᵀ in single precision: rounding may move the log-likelihood by up to {bound:.1g}, usually far less."
    if bound > 1.0:
        note = (
            f"X Xᵀ in single precision: its largest direction drowns the others in rounding (the log-likelihood may be off "
            f"by {bound:.1g}). Centre the columns of X (standardize=True), or use precision='float64'."
        )
        warnings.warn(note, FitWarning, stacklevel=4)
    return replace(result, notes=(*result.notes, note))


def _estimate(
    design: Design,
    spectrum: Spectrum | None,
    basis: Basis | None,
    *,
    method: str,
    reml: bool,
    theta_by: str,
    by_sweeps: bool,
    accelerate: bool,
    block_size: Any,
    tol: float,
    max_iter: int,
    report: Callable[[int, float], None],
) -> Estimate:
    options: dict[str, Any] = {"tol": tol, "max_iter": max_iter}
    if method == "mfvi":
        options |= {"theta_by": theta_by, "accelerate": accelerate}
        q = factorise(design.features, block_size)
        if spectrum is None or basis is None or by_sweeps:
            return mean_field.fit_sweeps(design, spectrum, basis, q, report=report, **options)
        return mean_field.fit_collapsed(design, spectrum, basis, q, **options)
    assert spectrum is not None
    assert basis is not None
    if method == "newton":
        return newton.fit(design, spectrum, basis, reml=reml)
    assert isinstance(basis, Rotated)
    return em.fit(design, spectrum, basis, **options)


def _spectrum(design: Design, spectrum: Spectrum | None, *, trace: bool, jobs: int) -> tuple[Spectrum, Basis, float]:
    start = time.perf_counter()
    if spectrum is None:
        made, basis = road.choose(design, trace=trace, jobs=jobs)
        return made, basis, time.perf_counter() - start
    rotated = reusable(spectrum, design).rotate(design)
    return spectrum, rotated, time.perf_counter() - start


def enough_threads(design: Design, wanted: int) -> int:
    """The threads that a design of this size can make use of."""
    return 1 if design.n * design.p * min(design.n, design.p) < SMALL else wanted


def reusable(spectrum: Spectrum, design: Design) -> Spectrum:
    """Return a spectrum that was given for a design.

    Raises
    ------
    TypeError, DataError
        If it is none, or of another X.
    """
    if not isinstance(spectrum, Spectrum):
        raise TypeError(f"spectrum is a {type(spectrum).__name__}, not a Spectrum: make it with Spectrum.of(X).")
    if not spectrum.features.same(design.features):
        raise DataError(
            "spectrum was made from another X or in another precision (its shape or column norms differ"
            + (", X is standardised here: make it from the standardised X" if design.scale is not None else "")
            + "): use Spectrum.of(X, precision=...) of this X."
        )
    return spectrum


def _warn(result: Fit, estimate: Estimate) -> None:
    text = " ".join([result.status.advice, *estimate.notes])
    if result.status is Status.NOT_CONVERGED:
        warnings.warn(f"{text} ({result.n_iter} iterations)", ConvergenceWarning, stacklevel=4)
    elif result.status in (Status.UNBOUNDED, Status.SHRUNK_TO_ZERO):
        warnings.warn(text, FitWarning, stacklevel=4)


def check_options(options: dict[str, Any]) -> None:
    """Raise ValueError, naming the option and its choices, for anything a fit does not know or cannot combine."""
    choices = {"method": METHODS, "solver": SOLVERS, "theta_by": THETA_BY}
    for name, allowed in choices.items():
        if options[name] not in allowed:
            raise ValueError(f"{name}={options[name]!r} is not known: choose one of {', '.join(map(repr, allowed))}.")
    check_limits(options)
    if options["reml"] and options["method"] != "newton":
        raise ValueError(
            f"reml=True goes with method='newton' only, not {options['method']!r}: REML is maximised exactly there."
        )
    block_size = options["block_size"]
    if np.ndim(block_size) == 0 and not (_is_number(block_size) and block_size >= 1 and block_size == int(block_size)):
        raise ValueError(
            f"block_size={block_size!r} must be a whole number of columns (1: mean field), or one group label per column."
        )
    if options["method"] != "mfvi" and not (np.ndim(block_size) == 0 and block_size == 1):
        raise ValueError(
            f"block_size goes with method='mfvi' only, not {options['method']!r}: elsewhere β has no blocks."
        )


def check_limits(options: dict[str, Any]) -> None:
    """Raise ValueError for switches that are none, and for a `tol` or `max_iter` that makes no sense."""
    for name in ("reml", "fit_intercept", "standardize", "accelerate"):
        if name in options and not isinstance(options[name], bool | np.bool_):
            raise ValueError(f"{name}={options[name]!r} is neither True nor False.")
    tol, max_iter = options["tol"], options["max_iter"]
    if tol is not None and not (_is_number(tol) and 0.0 < tol < 1.0):
        raise ValueError(f"tol={tol!r} must be a number between 0 and 1, or None for the method's own.")
    if max_iter is not None and not (_is_number(max_iter) and max_iter >= 1 and max_iter == int(max_iter)):
        raise ValueError(f"max_iter={max_iter!r} must be a whole number of at least 1, or None for the method's own.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
