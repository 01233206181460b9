"""Standard errors from the observed information, and the share of variance explained."""

from typing import NamedTuple

import numpy as np

from ..result import Array
from .spectrum import Rotated


class Information(NamedTuple):
    """Covariances of the estimates: of a (rotated ω) and of (σ²_β, σ²_e); NaN variances come with a reason."""

    effects: Array
    variances: Array
    reason: str = ""


def gls(rotated: Rotated, sigma2_beta: float, sigma2_e: float, reason: str) -> Information:
    """GLS covariance (Qᵀ V⁻¹ Q)⁻¹ of a alone; the variances' errors are NaN for `reason`."""
    w = 1.0 / (sigma2_e + sigma2_beta * rotated.d)
    effects = np.linalg.inv((rotated.Q.T * w) @ rotated.Q).astype(np.float64, copy=False)
    return Information(effects, np.full((2, 2), np.nan), reason)


def observed_ml(rotated: Rotated, sigma2_beta: float, sigma2_e: float, a: Array) -> Information:
    """Inverse of the joint observed information of (a, σ²_β, σ²_e) of the log-likelihood.

    With V_β = K, V_e = I and r = y − Qa the blocks are Qᵀ V⁻¹ Q, Qᵀ V⁻¹ V_i V⁻¹ r and
    rᵀ V⁻¹ V_i V⁻¹ V_j V⁻¹ r − ½ tr(V⁻¹ V_i V⁻¹ V_j).
    """
    d, y, Q, n = rotated
    w = 1.0 / (sigma2_e + sigma2_beta * d)
    r = y - Q @ a
    c = Q.shape[1]
    info = np.empty((c + 2, c + 2))
    info[:c, :c] = (Q.T * w) @ Q
    for i, Vi in enumerate((d, np.ones_like(d))):
        info[:c, c + i] = info[c + i, :c] = Q.T @ (w * Vi * w * r)
        for j, Vj in enumerate((d, np.ones_like(d))):
            info[c + i, c + j] = (r * r * w**3 * Vi * Vj).sum() - 0.5 * (w**2 * Vi * Vj).sum()
    info[-1, -1] -= 0.5 * (n - d.size) / sigma2_e**2  # null-space rows that are not stored
    covariance = _invert(info)
    if covariance is None:
        return gls(rotated, sigma2_beta, sigma2_e, "the observed information is not positive definite here")
    return Information(covariance[:c, :c], covariance[c:, c:])


def observed_reml(rotated: Rotated, sigma2_beta: float, sigma2_e: float, a: Array) -> Information:
    """GLS covariance of a, and the inverse observed information of (σ²_β, σ²_e) of the restricted log-likelihood.

    With P = V⁻¹ − V⁻¹Q(QᵀV⁻¹Q)⁻¹QᵀV⁻¹: yᵀP V_i P V_j P y − ½ tr(P V_i P V_j).
    """
    d, y, Q, n = rotated
    effects, variances, _ = gls(rotated, sigma2_beta, sigma2_e, "")
    w = 1.0 / (sigma2_e + sigma2_beta * d)
    Py = w * (y - Q @ a)
    WQ = w[:, None] * Q
    info = np.empty((2, 2))
    for i, Vi in enumerate((d, np.ones_like(d))):
        for j, Vj in enumerate((d, np.ones_like(d))):
            left, right = Vi * Py, Vj * Py
            quad = left @ (w * right) - (WQ.T @ left) @ effects @ (WQ.T @ right)
            Gi, Gj = effects @ (WQ.T * Vi) @ WQ, effects @ (WQ.T * Vj) @ WQ
            trace = (w**2 * Vi * Vj).sum() + np.trace(Gi @ Gj)
            trace -= 2.0 * np.trace(effects @ (WQ.T * (Vi * w * Vj)) @ WQ)
            info[i, j] = quad - 0.5 * trace
    info[1, 1] -= 0.5 * (n - d.size) / sigma2_e**2
    covariance = _invert(info)
    if covariance is None:
        return Information(effects, variances, "the observed information is not positive definite here")
    return Information(effects, covariance)


def mean_projected_eigenvalue(rotated: Rotated) -> float:
    """T = tr(MK) / (n − c), M projecting off the covariates: what one unit of σ²_β adds to the variance of y."""
    d, _, Q, n = rotated
    return float((d.sum() - d @ (Q**2).sum(axis=1)) / (n - Q.shape[1]))


def pve_se(t: float, sigma2_beta: float, sigma2_e: float, covariance: Array) -> float:
    """Standard error of σ²_β t / (σ²_β t + σ²_e) by the delta method."""
    gradient = t * np.array([sigma2_e, -sigma2_beta]) / (sigma2_beta * t + sigma2_e) ** 2
    return float(np.sqrt(gradient @ covariance @ gradient))


def _invert(info: Array) -> Array | None:
    """Inverse of a positive definite matrix after scaling to unit diagonal, or None if it is not."""
    diagonal = np.diag(info)
    if not (diagonal > 0.0).all():
        return None
    scale = 1.0 / np.sqrt(diagonal)
    values, vectors = np.linalg.eigh(info * scale * scale[:, None])
    if values[0] <= 1e-14:
        return None
    return np.asarray((vectors / values) @ vectors.T * scale * scale[:, None])
