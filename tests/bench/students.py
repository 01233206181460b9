"""EM and mean-field VI as a student would write them in NumPy: O(n p) an iteration, plain loops. Peers of the benchmark."""

import numpy as np

from fastlmm_vi.bench.case import fit_case


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
    return sb


def mfvi(y, Z, X, iterations):
    """Mean field with a loop over columns and the plain M-step; returns the σ²_β that it has reached."""
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
    return sb


def prepare_em(problem):
    data, optimum = (problem.y, problem.Z, problem.X), problem.ml
    return lambda: em(*data, optimum, tolerance=1e-4, max_iter=20_000)


def prepare_mfvi(problem):
    """Its optimum would take some 25 000 sweeps: 20 are timed, and how far they are from it is reported."""
    data = (problem.y, problem.Z, problem.X)
    return lambda: mfvi(*data, iterations=20)


CASES = (
    fit_case(name="student_em", prepare=prepare_em, truth=lambda problem: problem.ml, within=1.1e-4, once=True),
    fit_case(name="student_mfvi_20_sweeps", prepare=prepare_mfvi, truth=lambda problem: problem.elbo, once=True),
)
