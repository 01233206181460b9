"""Mean-field variational inference, q(β) = Π q(β_j): the ELBO's optimum by sweeps on X or collapsed into the spectrum."""

import time
from collections.abc import Callable

import numpy as np

from ..errors import UnboundedLikelihoodError
from ..result import Array, Status, Trace
from . import iteration, posterior, profile, sweeps
from .basis import LIKELIHOOD, RESTRICTED, Basis, elbo
from .blocks import Factorisation
from .design import Design
from .estimate import Estimate, judge, mode_notes, modes, trace
from .rotated import Rotated
from .spectrum import Spectrum

OVERCONFIDENT = (
    "q(β) ignores correlations between the β_j: its standard deviations are too narrow, and so are, on average, its "
    "intervals for new observations."
)
NO_SAMPLING_THEORY = "variances learned by the ELBO have no sampling theory"


def fit_collapsed(
    design: Design,
    spectrum: Spectrum,
    basis: Basis,
    factorisation: Factorisation,
    *,
    theta_by: str,
    accelerate: bool,
    tol: float,
    max_iter: int,
) -> Estimate:
    """Return the mean-field optimum without a sweep: at given θ, q has a closed form in the spectrum.

    q(β) has the exact posterior's mean and covariances (X_bᵀX_b/σ²_e + I/σ²_β)⁻¹, for single features variances
    1/(‖x_j‖²/σ²_e + 1/σ²_β), so that the ELBO depends on γ alone: it is maximised like the likelihood
    (`accelerate=True`) or by variational EM with a full E-step, the textbook's iteration (False). Docs: derivation,
    section 8.
    """
    start = time.perf_counter()
    by_elbo = theta_by == "elbo"
    criterion = elbo(factorisation.h) if by_elbo else LIKELIHOOD
    optimum = profile.maximise(basis, criterion)
    if accelerate or not by_elbo:
        path = np.array([(point.value, point.sigma2_beta, point.sigma2_e) for point in optimum.path])
        best, status, notes = optimum.best, optimum.status, mode_notes(optimum, criterion.name)
        sigma2_beta, sigma2_e, n_iter = best.sigma2_beta, best.sigma2_e, max(1, len(path) - 1)
        a = basis.effects(best.gamma).a
    else:
        half = 0.5 * float(np.var(design.y))
        assert isinstance(basis, Rotated)
        path, a, distance = iteration.run(basis, criterion, design.p, (half, half), tol=tol, max_iter=max_iter)
        value, sigma2_beta, sigma2_e = path[-1]
        status, notes = judge(optimum, distance <= tol, sigma2_beta, value)
        n_iter = len(path) - 1
    seconds = time.perf_counter() - start
    compared: tuple[str, ...] = ()
    if by_elbo:
        status, compared = _against_exact(status, sigma2_beta, basis)
    gamma = sigma2_beta / sigma2_e
    gap = np.array([basis.gap(factorisation.h, ratio) for ratio in path[:, 1] / path[:, 2]])
    loglik, bound = (path[:, 0] + gap, path[:, 0]) if by_elbo else (path[:, 0], path[:, 0] - gap)
    return Estimate(
        method="mfvi",
        criterion_name=criterion.name,
        criterion=path[-1, 0],
        elbo=bound[-1],
        sigma2_beta=sigma2_beta,
        sigma2_e=sigma2_e,
        a=a,
        posterior=posterior.factorised(
            design, factorisation, posterior.exact_mean(design, spectrum, gamma, a), gamma, sigma2_e, spectrum
        ),
        status=status,
        trace=trace(path[:, 0], path[:, 1], path[:, 2], seconds, loglik=loglik, elbo=bound),
        n_iter=n_iter,
        modes=modes(optimum),
        notes=(*notes, *compared, OVERCONFIDENT),
        no_se=NO_SAMPLING_THEORY if by_elbo else "",
    )


def fit_sweeps(
    design: Design,
    spectrum: Spectrum | None,
    basis: Basis | None,
    factorisation: Factorisation,
    *,
    theta_by: str,
    accelerate: bool,
    tol: float,
    max_iter: int,
    report: Callable[[int, float], None],
) -> Estimate:
    """Return the mean-field optimum by coordinate sweeps on X, O(n p) each; no Gram matrix is used for it.

    Spectrum and `basis` only fill in the log-likelihood of the trace afterwards (NaN where it is None), and gives θ for
    `theta_by="loglik"`. Starts from zero means. Docs: derivation, sections 7 and 9.
    """
    fixed = None
    status: Status = Status.CONVERGED
    notes: tuple[str, ...] = ()
    name = "ELBO"
    if theta_by == "loglik":
        if basis is None:
            raise ValueError('theta_by="loglik" needs the spectrum of X, which is too large here: use theta_by="elbo".')
        optimum = profile.maximise(basis, LIKELIHOOD)
        best = optimum.best
        fixed = (best.sigma2_beta, best.sigma2_e, basis.effects(best.gamma).a)
        status, notes, name = optimum.status, mode_notes(optimum, LIKELIHOOD.name), LIKELIHOOD.name
    half = 0.5 * float(np.var(design.y))
    mean_diagonal = float(design.features.column_sq_norms().mean()) * design.p / design.n
    run = sweeps.ascend(
        design,
        factorisation,
        accelerate=accelerate,
        fixed=fixed,
        start=(half / mean_diagonal if accelerate and mean_diagonal > 0.0 else half, half),
        tol=tol,
        max_iter=max_iter,
        report=report,
    )
    s = run.state
    if fixed is None and basis is not None:
        optimum = profile.maximise(basis, elbo(factorisation.h))
        status, notes = judge(optimum, run.converged, s.sigma2_beta, run.elbo[-1])
        status, compared = _against_exact(status, s.sigma2_beta, basis)
        notes = (*notes, *compared)
    elif fixed is None:
        notes = ("Log-likelihood, gap and standard errors are NaN: X is too large for the spectrum they need.",)
        status = Status.ZERO_SIGMA2_BETA if s.sigma2_beta == 0.0 else Status.CONVERGED
    if not run.converged and (fixed is not None or status is not Status.ZERO_SIGMA2_E):
        status = Status.NOT_CONVERGED
        notes = (f"The ELBO's largest scaled gradient is {run.gradient:.3g} (wanted: {tol:.3g}).", *notes)
    return Estimate(
        method="mfvi",
        criterion_name=name,
        criterion=run.elbo[-1] if fixed is None else optimum.best.value,
        elbo=run.elbo[-1],
        sigma2_beta=s.sigma2_beta,
        sigma2_e=s.sigma2_e,
        a=s.a,
        posterior=posterior.factorised(design, factorisation, s.mean, s.gamma, s.sigma2_e, spectrum),
        status=status,
        trace=_trace(run, basis, fixed is not None),
        n_iter=len(run.elbo) - 1,
        modes=((s.sigma2_beta, s.sigma2_e, float(run.elbo[-1])),),
        notes=(*notes, OVERCONFIDENT),
        no_se=NO_SAMPLING_THEORY if fixed is None else "",
    )


def kl_to_posterior(
    design: Design, spectrum: Spectrum, mean: Array, var: Array, sigma2_beta: float, sigma2_e: float, a: Array
) -> float:
    """KL(q ‖ p(β | y, θ)) of any q(β) = Π N(mean_j, var_j): log-likelihood − ELBO, converged or not.

    ½ [tr(AS) − p − log|A| − Σ log s²_j + (m − μ)ᵀ A (m − μ)], A = XᵀX/σ²_e + I/σ²_β, μ the exact posterior mean.
    """
    sq_norms = spectrum.features.column_sq_norms()
    p = mean.size
    if sigma2_beta == 0.0:
        return 0.0
    off = mean - posterior.exact_mean(design, spectrum, sigma2_beta / sigma2_e, a)
    trace_AS = float((sq_norms / sigma2_e + 1.0 / sigma2_beta) @ var)
    logdet_A = spectrum.logdet(sigma2_beta / sigma2_e) - p * np.log(sigma2_beta)
    distance = float((spectrum.features.matvec(off) ** 2).sum()) / sigma2_e + float(off @ off) / sigma2_beta
    return 0.5 * (trace_AS - p - logdet_A - float(np.log(var).sum()) + distance)


def _trace(run: sweeps.Ascent, basis: Basis | None, by_loglik: bool) -> Trace:
    loglik = np.full(run.elbo.size, np.nan)
    if basis is not None:
        loglik = np.array([basis.loglik(*theta) for theta in zip(run.sigma2_beta, run.sigma2_e, run.a, strict=True)])
    return trace(
        loglik if by_loglik else run.elbo,
        run.sigma2_beta,
        run.sigma2_e,
        run.seconds,
        loglik=loglik,
        elbo=run.elbo,
        max_change=run.max_change,
    )


def _exact_sigma2_beta(basis: Basis) -> tuple[float, str]:
    """σ²_β by maximum likelihood, or by REML where the likelihood has no maximum, and which of the two it is."""
    try:
        return profile.maximise(basis, LIKELIHOOD).best.sigma2_beta, "maximum likelihood"
    except UnboundedLikelihoodError:
        return profile.maximise(basis, RESTRICTED).best.sigma2_beta, "REML"


def _against_exact(status: Status, sigma2_beta: float, basis: Basis) -> tuple[Status, tuple[str, ...]]:
    """Say what learning θ by the ELBO did to σ²_β; name the state where it is below half of the exact one."""
    if status is Status.NOT_CONVERGED:
        return status, ()
    exact, name = _exact_sigma2_beta(basis)
    if not exact > 0.0:
        return status, ()
    note = f"θ maximises the ELBO: σ²_β = {sigma2_beta:.6g}, {sigma2_beta / exact:.3g} × the {exact:.6g} of {name}."
    if status is not Status.UNBOUNDED and sigma2_beta < 0.5 * exact:
        status = Status.SHRUNK if sigma2_beta > 0.0 else Status.SHRUNK_TO_ZERO
    return status, (note,)
