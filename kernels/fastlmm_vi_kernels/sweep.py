"""The mean-field coordinate sweep on X itself: for each column, correlate, update the mean, update the residual."""

import math

from .jit import kernel


@kernel
def sweep(X, sq_norms, gamma, mean, residual):
    """Update every E[β_j] once, in column order; overwrite `mean` and `residual` (y − Zω − X mean).

    X (n, p) is in Fortran order, so that a column is contiguous. E[β_j] = γ (x_jᵀ r + ‖x_j‖² E[β_j]) / (1 + γ ‖x_j‖²)
    with r the current residual (docs/derivation.md, section 7). Returns the largest |ΔE[β_j]| in units of its
    standard deviation under q, times σ_e.
    """
    n, p = X.shape
    largest = 0.0
    for j in range(p):
        x = X[:, j]
        correlation = 0.0
        for i in range(n):
            correlation += x[i] * residual[i]
        shrink = gamma / (1.0 + gamma * sq_norms[j])
        delta = shrink * (correlation + sq_norms[j] * mean[j]) - mean[j]
        for i in range(n):
            residual[i] -= delta * x[i]
        mean[j] += delta
        largest = max(largest, abs(delta) / math.sqrt(shrink))
    return largest
