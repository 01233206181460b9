"""Standard errors from the observed information, and the share of variance explained."""

from typing import NamedTuple

import numpy as np

from ..result import Array
from .basis import LIKELIHOOD, RESTRICTED, Basis


class Information(NamedTuple):
    """Covariances of the estimates: of a (rotated ω) and of (σ²_β, σ²_e); NaN variances come with a reason."""

    effects: Array
    variances: Array
    reason: str = ""


def gls(basis: Basis, sigma2_beta: float, sigma2_e: float, reason: str) -> Information:
    """GLS covariance σ²_e A⁻¹ of a alone; the variances' errors are NaN for `reason`."""
    covariance = basis.effects(sigma2_beta / sigma2_e).covariance
    return Information(sigma2_e * covariance, np.full((2, 2), np.nan), reason)


def observed(basis: Basis, sigma2_beta: float, sigma2_e: float, *, reml: bool) -> Information:
    """Inverse of the observed information of the (restricted) log-likelihood, through its profile over γ.

    With ℓ'' the curvature of the profile and σ̂²_e(γ) = F / f: Var(γ) = −1 / ℓ'', σ²_e moves with γ by σ̂²_e' and has
    2 σ⁴_e / f of its own, and σ²_β = γ σ²_e. Under ML â moves with γ too; REML's Cov(a) is that of GLS. This is the
    inverse of the joint information of (a, σ²_β, σ²_e), by blocks (docs/derivation.md, section 10).
    """
    gamma = sigma2_beta / sigma2_e
    point, e = basis.at(RESTRICTED if reml else LIKELIHOOD, gamma), basis.effects(gamma)
    if not point.curvature < 0.0:
        return gls(basis, sigma2_beta, sigma2_e, "the observed information is not positive definite here")
    free = basis.n - basis.c if reml else basis.n
    var_gamma = -1.0 / point.curvature
    moves = e.rss_slope / free  # of σ²_e with γ
    var_e = 2.0 * sigma2_e**2 / free + var_gamma * moves**2
    to_beta = np.array([[sigma2_e, gamma], [0.0, 1.0]])
    variances = to_beta @ np.array([[var_gamma, var_gamma * moves], [var_gamma * moves, var_e]]) @ to_beta.T
    effects = sigma2_e * e.covariance
    if not reml:
        effects = effects + var_gamma * np.outer(e.a_slope, e.a_slope)
    return Information(effects, variances)


def pve_se(t: float, sigma2_beta: float, sigma2_e: float, covariance: Array) -> float:
    """Standard error of σ²_β t / (σ²_β t + σ²_e) by the delta method; t = tr(MK) / (n − c)."""
    gradient = t * np.array([sigma2_e, -sigma2_beta]) / (sigma2_beta * t + sigma2_e) ** 2
    return float(np.sqrt(gradient @ covariance @ gradient))
