"""EM and mean-field VI as a student would write them in NumPy: O(n p) an iteration, plain loops. Peers of the benchmark."""

import numpy as np


def em(y, Z, X, sigma2_beta, tolerance, max_iter):
    """EM for n < p: one n × n eigendecomposition, then X is read twice an iteration; stops within `tolerance` of σ²_β."""
    n, p = X.shape
    d, U = np.linalg.eigh(X @ X.T)
    solve_Z = np.linalg.solve(Z.T @ Z, Z.T)
    omega = solve_Z @ y
    sb = se = y.var() / 2
    iterations = 0
    while iterations < max_iter and abs(sb / sigma2_beta - 1) >= tolerance:
        iterations += 1
        v = sb * d + se
        mu = sb * (X.T @ (U @ ((U.T @ (y - Z @ omega)) / v)))
        fitted = X @ mu
        omega = solve_Z @ (y - fitted)
        residual = y - Z @ omega - fitted
        explained = (sb * d / v).sum()
        sb, se = (mu @ mu + sb * (p - explained)) / p, (residual @ residual + se * explained) / n
    return sb, se, iterations


def mfvi(y, Z, X, iterations):
    """Mean field with a loop over columns and the plain M-step; returns the ELBO it has reached."""
    n, p = X.shape
    solve_Z = np.linalg.solve(Z.T @ Z, Z.T)
    omega = solve_Z @ y
    sb = se = y.var() / 2
    norms = (X**2).sum(axis=0)
    mean, residual = np.zeros(p), y - Z @ omega
    for _ in range(iterations):
        var = 1 / (norms / se + 1 / sb)
        for j in range(p):
            new = var[j] / se * (X[:, j] @ residual + norms[j] * mean[j])
            residual -= X[:, j] * (new - mean[j])
            mean[j] = new
        target = residual + Z @ omega
        omega = solve_Z @ target
        residual = target - Z @ omega
        sb, se = (mean @ mean + var.sum()) / p, (residual @ residual + norms @ var) / n
    likelihood = -n / 2 * np.log(2 * np.pi * se) - (residual @ residual + norms @ var) / (2 * se)
    prior = -p / 2 * np.log(2 * np.pi * sb) - (mean @ mean + var.sum()) / (2 * sb)
    return likelihood + prior + np.log(2 * np.pi * np.e * var).sum() / 2
