"""A fit as text."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .result import Fit


def text(fit: "Fit") -> str:
    """Return model, criterion, variances, fixed effects, and what to know about them."""
    return "\n".join([*_head(fit), "", *_variances(fit), "", *_fixed_effects(fit), "", *_remarks(fit)])


def _head(fit: "Fit") -> list[str]:
    scale = ", X standardised" if fit.standardized else ""
    lines = [
        f"Wide linear mixed model, {fit.criterion_name} ({fit.method}{scale})",
        f"n = {fit.n} observations, c = {fit.c} fixed effects, p = {fit.p} random effects",
        f"log-likelihood {fit.loglik:.4f}",
    ]
    if fit.elbo is not None:
        lines[-1] += f"   ELBO {fit.elbo:.4f}   gap {fit.loglik - fit.elbo:.4g}"
    elif fit.reml:
        lines[-1] += f"   REML criterion {fit.criterion:.4f}"
    return lines


def _variances(fit: "Fit") -> list[str]:
    rows = [
        ("random effects  σ²_β", fit.sigma2_beta, fit.sigma2_beta_se),
        ("residual        σ²_e", fit.sigma2_e, fit.sigma2_e_se),
        ("share explained PVE ", fit.pve, fit.pve_se),
    ]
    lines = [f"{'Variances':<22}{'estimate':>14}{'std. error':>14}"]
    lines += [f"{label:<22}{value:>14.6g}{_number(se):>14}" for label, value, se in rows]
    return lines + ([f"  (no standard errors: {fit.se_note})"] if fit.se_note else [])


def _fixed_effects(fit: "Fit") -> list[str]:
    table = fit.to_frame().iloc[:-3]
    if table.empty:
        return ["No fixed effects."]
    width = max(22, *(len(str(name)) + 2 for name in table.index))
    lines = [f"{'Fixed effects':<{width}}{'estimate':>14}{'std. error':>14}{'z':>10}"]
    for name, estimate, se in table.itertuples():
        lines.append(f"{name:<{width}}{estimate:>14.6g}{_number(se):>14}{_number(estimate / se):>10}")
    return lines


def _remarks(fit: "Fit") -> list[str]:
    lines = [f"{fit.status.advice} ({fit.n_iter} iterations, {fit.seconds:.3f} s, {fit.threads} thread(s))"]
    return lines + [f"Note: {note}" for note in fit.notes]


def _number(value: float | None, spec: str = ".4g") -> str:
    return "—" if value is None or np.isnan(value) else format(value, spec)
