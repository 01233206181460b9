"""A fit as text."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .result import Fit

MOST_PRIORS = 10


def text(fit: "Fit") -> str:
    """Return model, criterion, priors, variances, fixed effects, and what to know about them."""
    blocks = [_head(fit), _priors(fit), _variances(fit), _fixed_effects(fit), _remarks(fit)]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _head(fit: "Fit") -> list[str]:
    scale = ", X standardised" if fit.standardized else ""
    kind, effects = ("Wide linear mixed model", "fixed") if fit.theta is None else ("Bayesian wide model", "covariate")
    lines = [
        f"{kind}, {fit.criterion_name} ({fit.method}{scale})",
        f"n = {fit.n} observations, c = {fit.c} {effects} effects, p = {fit.p} random effects",
    ]
    if fit.theta is not None:
        return [*lines, f"{fit.criterion_name} {fit.criterion:.4f}   log-likelihood at the means {fit.loglik:.4f}"]
    lines.append(f"log-likelihood {fit.loglik:.4f}")
    if fit.elbo is not None:
        lines[-1] += f"   ELBO {fit.elbo:.4f}   gap {fit.loglik - fit.elbo:.4g}"
    elif fit.reml:
        lines[-1] += f"   REML criterion {fit.criterion:.4f}"
    return lines


def _priors(fit: "Fit") -> list[str]:
    """The priors, the covariates' shortened where there are many."""
    lines = [f"{name:<22}{prior}" for name, prior in fit.priors]
    if len(lines) > MOST_PRIORS:
        rest = len(lines) - MOST_PRIORS
        lines = [*lines[: MOST_PRIORS - 3], f"… and {rest + 1} more (fit.priors)", *lines[-2:]]
    return ["Priors", *lines] if lines else []


def _variances(fit: "Fit") -> list[str]:
    labels = {
        "sigma2_beta": "random effects  σ²_β",
        "sigma2_e": "residual        σ²_e",
        "pve": "share explained PVE ",
    }
    if fit.theta is not None:
        table = fit.theta.table
        lines = [f"{'Posterior':<22}" + "".join(f"{column:>12}" for column in table)]
        return lines + [
            f"{labels[str(name)]:<22}" + "".join(f"{value:>12.5g}" for value in row)
            for name, *row in table.itertuples()
        ]
    lines = [f"{'Variances':<22}{'estimate':>14}{'std. error':>14}"]
    lines += [
        f"{label:<22}{getattr(fit, name):>14.6g}{_number(getattr(fit, name + '_se')):>14}"
        for name, label in labels.items()
    ]
    return lines + ([f"  (no standard errors: {fit.se_note})"] if fit.se_note else [])


def _fixed_effects(fit: "Fit") -> list[str]:
    table = fit.to_frame().iloc[:-3]
    if table.empty:
        return ["No fixed effects." if fit.theta is None else "No covariates."]
    width = max(22, *(len(str(name)) + 2 for name in table.index))
    if fit.theta is not None:
        lines = [f"{'Effects of covariates':<{width}}{'mean':>14}{'sd':>14}"]
        return lines + [f"{name:<{width}}{mean:>14.6g}{_number(sd):>14}" for name, mean, sd in table.itertuples()]
    lines = [f"{'Fixed effects':<{width}}{'estimate':>14}{'std. error':>14}{'z':>10}"]
    for name, estimate, se in table.itertuples():
        lines.append(f"{name:<{width}}{estimate:>14.6g}{_number(se):>14}{_number(estimate / se):>10}")
    return lines


def _remarks(fit: "Fit") -> list[str]:
    advice, steps = fit.status.advice, "iterations"
    if fit.log_evidence is not None:
        steps = "evaluations"
        advice = "Converged: no refinement of the grid changes the evidence or a moment." if fit.converged else advice
    lines = [f"{advice} ({fit.n_iter} {steps}, {fit.seconds:.3f} s, {fit.threads} thread(s))"]
    return lines + [f"Note: {note}" for note in fit.notes]


def _number(value: float | None, spec: str = ".4g") -> str:
    return "—" if value is None or np.isnan(value) else format(value, spec)
