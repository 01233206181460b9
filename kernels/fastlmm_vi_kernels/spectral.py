"""The wide model in the eigenbasis of K = X Xᵀ: its profile criterion and its EM iteration.

Every function takes the rotated data `d, y, Q`: row i carries the eigenvalue d_i of K (0 on the null space), the
response y_i (its least-squares fit on the covariates already removed) and the covariates Q_i, whose columns are
orthonormal. Rows of the null space beyond those needed to keep all inner products are left out; `n` counts them.
Inside, loops run along the columns of Q, kept as the rows of `C` = Qᵀ.

The variances enter through their ratio γ = σ²_β / σ²_e: V = σ²_e (I + γK). `h` is what the criterion takes for the
precision of β: the eigenvalues of XᵀX (the exact posterior, hence the log-likelihood) or its diagonal (mean field,
hence the ELBO). Nothing else tells the two apart (docs/derivation.md, section 6).
"""

import math

import numpy as np

from .jit import kernel

LOG_2PI = math.log(2.0 * math.pi)


@kernel
def log_volume(gamma, h):
    """Σ log(1 + γ h_j), with one logarithm for as many factors as a number holds."""
    total, product = 0.0, 1.0
    for j in range(h.size):
        product *= 1.0 + gamma * h[j]
        if product > 1e200:
            total += math.log(product)
            product = 1.0
    return total + math.log(product)


@kernel
def transpose(Q):
    """Qᵀ, rows contiguous."""
    m, c = Q.shape
    C = np.empty((c, m))
    for i in range(m):
        for j in range(c):
            C[j, i] = Q[i, j]
    return C


@kernel
def weighted_gram(w, C):
    """Lower triangle of C diag(w) Cᵀ."""
    c, m = C.shape
    A = np.zeros((c, c))
    weighted = np.empty(m)
    for j in range(c):
        for i in range(m):
            weighted[i] = w[i] * C[j, i]
        for k in range(j + 1):
            for i in range(m):
                A[j, k] += weighted[i] * C[k, i]
    return A


@kernel
def project(C, t):
    """C t."""
    c, m = C.shape
    out = np.zeros(c)
    for j in range(c):
        for i in range(m):
            out[j] += C[j, i] * t[i]
    return out


@kernel
def residual(y, C, omega, r):
    """Overwrite r by y − Cᵀ ω."""
    c, m = C.shape
    for i in range(m):
        r[i] = y[i]
    for j in range(c):
        for i in range(m):
            r[i] -= C[j, i] * omega[j]


@kernel
def cholesky(A):
    """Overwrite the lower triangle of A by its Cholesky factor L and return log|A|."""
    c = A.shape[0]
    logdet = 0.0
    for j in range(c):
        for k in range(j):
            s = A[j, k]
            for l in range(k):
                s -= A[j, l] * A[k, l]
            A[j, k] = s / A[k, k]
        s = A[j, j]
        for l in range(j):
            s -= A[j, l] * A[j, l]
        A[j, j] = math.sqrt(s)
        logdet += 2.0 * math.log(A[j, j])
    return logdet


@kernel
def solve_lower(L, b):
    """Overwrite b by L⁻¹ b."""
    for j in range(b.size):
        s = b[j]
        for k in range(j):
            s -= L[j, k] * b[k]
        b[j] = s / L[j, j]


@kernel
def solve_upper(L, b):
    """Overwrite b by L⁻ᵀ b."""
    for j in range(b.size - 1, -1, -1):
        s = b[j]
        for k in range(j + 1, b.size):
            s -= L[k, j] * b[k]
        b[j] = s / L[j, j]


@kernel
def whiten(L, B):
    """Full L⁻¹ B L⁻ᵀ of the symmetric B given by its lower triangle, which is overwritten."""
    for j in range(len(B)):
        for k in range(j):
            B[k, j] = B[j, k]
    for k in range(len(B)):
        solve_lower(L, B[k])  # rows: (L⁻¹ B)ᵀ
    B = transpose(B)
    for k in range(len(B)):
        solve_lower(L, B[k])
    return B


@kernel
def profile(gamma, d, y, Q, n, h, reml):
    """Return the criterion at γ with ω and σ²_e profiled out, its first two derivatives in γ, σ²_e and ω.

    With v_i = 1 + γ d_i, r = y − Q ω̂ and F = Σ r_i² / v_i (docs/derivation.md, section 4):
    −½ [f (log(2π F / f) + 1) + Σ log(1 + γ h_j)], f = n; for REML f = n − c and − ½ log|Qᵀ V⁻¹ Q σ²_e| joins.
    """
    C = transpose(Q)
    c, m = C.shape
    w, z = np.empty(m), np.empty(m)
    for i in range(m):
        w[i] = 1.0 / (1.0 + gamma * d[i])
        z[i] = w[i] * y[i]
    A = weighted_gram(w, C)
    logdet_A = cholesky(A)
    omega = project(C, z)
    solve_lower(A, omega)
    solve_upper(A, omega)

    r = np.empty(m)
    residual(y, C, omega, r)
    F, F1, F2 = 0.0, 0.0, 0.0  # weighted residual sum of squares and its derivatives in γ
    for i in range(m):
        u = d[i] * w[i]
        f = r[i] * r[i] * w[i]
        F += f
        F1 -= f * u
        F2 += 2.0 * f * u * u
        z[i] = w[i] * u * r[i]
    b = project(C, z)
    solve_lower(A, b)
    for j in range(c):
        F2 -= 2.0 * b[j] * b[j]

    logdet, logdet1, logdet2 = log_volume(gamma, h), 0.0, 0.0
    for j in range(h.size):
        u = h[j] / (1.0 + gamma * h[j])
        logdet1 += u
        logdet2 -= u * u

    free = n
    if reml:
        free = n - c
        for i in range(m):
            z[i] = w[i] * d[i] * w[i]
        B1 = whiten(A, weighted_gram(z, C))
        for i in range(m):
            z[i] *= d[i] * w[i]
        B2 = whiten(A, weighted_gram(z, C))
        logdet += logdet_A
        for j in range(c):
            logdet1 -= B1[j, j]
            logdet2 += 2.0 * B2[j, j]
            for k in range(c):
                logdet2 -= B1[j, k] * B1[j, k]

    value = -0.5 * (free * (math.log(F / free) + LOG_2PI + 1.0) + logdet)
    slope = -0.5 * (free * F1 / F + logdet1)
    curvature = -0.5 * (free * (F2 / F - (F1 / F) ** 2) + logdet2)
    return value, slope, curvature, F / free, omega


@kernel
def em(sigma2_beta, sigma2_e, omega, max_iter, tol, d, y, Q, n, p, h):
    """Run EM from (ω, σ²_β, σ²_e) until σ²_β moves by less than `tol`, relative; return its path and the last ω.

    One iteration: q(β) from the current θ, then ω, then both variances with the new ω. With h the eigenvalues of XᵀX
    q is the exact posterior (EM); with its diagonal q is the mean-field optimum (variational EM). The path holds per
    iteration the criterion, σ²_β and σ²_e; its first row is the start.
    """
    m = d.size
    C = transpose(Q)
    path = np.empty((max_iter + 1, 3))
    r = np.empty(m)  # y − Qω
    residual(y, C, omega, r)
    t = np.empty(m)  # y − X E[β]
    step = np.inf
    count = 0
    while True:
        gamma = sigma2_beta / sigma2_e
        # The criterion at θ (q at its optimum) and the E-step share one pass: Σ log(1 + γh), Σ γh/(1 + γh), ‖E[β]‖².
        logdet, fill = log_volume(gamma, h), 0.0
        for j in range(h.size):
            fill += gamma * h[j] / (1.0 + gamma * h[j])
        F, mean_sq = 0.0, 0.0
        for i in range(m):
            w = 1.0 / (1.0 + gamma * d[i])
            F += r[i] * r[i] * w
            mean_sq += d[i] * (gamma * w * r[i]) ** 2
            t[i] = y[i] - gamma * d[i] * w * r[i]
        path[count, 0] = -0.5 * (n * (LOG_2PI + math.log(sigma2_e)) + F / sigma2_e + logdet)
        path[count, 1] = sigma2_beta
        path[count, 2] = sigma2_e
        if abs(step) <= tol or count == max_iter or not math.isfinite(path[count, 0]):
            break
        # M-step: ω by least squares of y − X E[β] (Q orthonormal), then the variances with the new ω.
        omega = project(C, t)
        residual(y, C, omega, r)
        rss = 0.0
        for i in range(m):
            rss += (r[i] + t[i] - y[i]) ** 2
        new_beta = (mean_sq + sigma2_beta * (p - fill)) / p
        new_e = (rss + sigma2_e * fill) / n
        step = math.log(new_beta / sigma2_beta)
        sigma2_beta = new_beta
        sigma2_e = new_e
        count += 1
    return path[: count + 1], omega


# A few times in a fit, a few microseconds each: not worth compiling.


def marginal_loglik(sigma2_beta, sigma2_e, omega, d, y, Q, n):
    """Log-likelihood with β integrated out, at any (ω, σ²_β, σ²_e)."""
    v = 1.0 + sigma2_beta / sigma2_e * d
    F = ((y - Q @ omega) ** 2 / v).sum()
    return -0.5 * (n * (LOG_2PI + math.log(sigma2_e)) + np.log(v).sum() + F / sigma2_e)


def mean_field_gap(gammas, sq_norms, d):
    """Log-likelihood − ELBO at each γ, q(β) at its optimum: ½ [Σ log(1 + γ ‖x_j‖²) − Σ log(1 + γ d_i)]."""
    return np.array([0.5 * (np.log1p(gamma * sq_norms).sum() - np.log1p(gamma * d).sum()) for gamma in gammas])
