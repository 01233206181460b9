"""Dense twins of variational Bayes for the grouped model; docs/derivation_variational.md line by line, nothing of ours.

y (n,), X (n, p), weights w (n,); `Z` a list of terms, each (n, levels · d); `prior` of β: (mean, precision, log constant). A
scale prior is a function sd → log density. q is dense throughout: m and C of (β, u), zeros in C where q has independence.
"""

import numpy as np
from numpy.linalg import inv, slogdet
from scipy.special import digamma, gammaln, multigammaln

LOG_2PI = np.log(2 * np.pi)


def block_diagonal(blocks):
    size = sum(len(block) for block in blocks)
    out, at = np.zeros((size, size)), 0
    for block in blocks:
        out[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    return out


def kept(p, owners, factorisation):
    """Which entries of the precision q keeps; `owners` (effects, 4): factor, term, level and column of every effect."""
    n = p + len(owners)
    if factorisation == "joint":
        return np.ones((n, n), bool)
    labels = {
        "factor": owners[:, [0]],
        "group": owners[:, [1, 2]],
        "coefficient": owners[:, [1, 2, 3]],
    }[factorisation]
    out = np.zeros((n, n), bool)
    out[:p, :p] = True
    out[p:, p:] = (labels[:, None] == labels[None]).all(axis=2)
    return out


def gaussian(y, X, Z, w, prior, tau, precisions, mask):
    """Mean of the optimal Gaussian factors and their covariance, at E[1/σ²] and the E[Σ⁻¹]."""
    K = np.hstack([X, *Z])
    levels = [part.shape[1] // len(P) for part, P in zip(Z, precisions, strict=True)]
    own = block_diagonal([prior[1], *(np.kron(np.eye(J), P) for J, P in zip(levels, precisions, strict=True))])
    A = tau * K.T @ (w[:, None] * K) + own
    right = tau * K.T @ (w * y)
    right[: X.shape[1]] += prior[1] @ prior[0]
    return np.linalg.solve(A, right), inv(A * mask)


def residual_square(y, X, Z, w, m, C):
    """E (y − Xβ − Zu)ᵀ W (y − Xβ − Zu)."""
    K = np.hstack([X, *Z])
    r = y - K @ m
    return r @ (w * r) + np.trace(K.T @ (w[:, None] * K) @ C)


def effect_squares(p, widths, m, C):
    """Σ_v E u_v u_vᵀ of every term; `widths`: (levels, d)."""
    S, at, found = C + np.outer(m, m), p, []
    for J, d in widths:
        blocks = [S[at + v * d : at + v * d + d, at + v * d : at + v * d + d] for v in range(J)]
        found.append(sum(blocks))
        at += J * d
    return found


def gaussian_part(y, X, w, prior, m, C, effects):
    """E log p(β) + entropy of the Gaussian factors + what E log p(y | ·) and E log p(u | ·) have of 2π and weights."""
    p, n = X.shape[1], len(y)
    off = m[:p] - prior[0]
    of_beta = prior[2] - 0.5 * (off @ prior[1] @ off + np.trace(prior[1] @ C[:p, :p]))
    return of_beta + 0.5 * slogdet(2 * np.pi * np.e * C)[1] - 0.5 * (n + effects) * LOG_2PI + 0.5 * np.log(w).sum()


def scale(log_prior, n, square, at=None):
    """Of q(s) ∝ p(s) s⁻ⁿ exp(−square / 2s²): E[1/s²], what the ELBO has of it at another square `at`, its density in s."""
    t = np.linspace(-40, 40, 400_001)
    values = log_prior(np.exp(t)) + t - n * t - 0.5 * square * np.exp(-2 * t)
    top = values.max()
    mass = np.exp(values - top)
    log_z = top + np.log(mass.sum() * (t[1] - t[0]))
    q = mass / mass.sum()
    per_variance = q @ np.exp(-2 * t)
    entropy = log_z - q @ (values - t)
    held = q > 0
    expected = q[held] @ (log_prior(np.exp(t[held])) - n * t[held])
    other = square if at is None else at
    return (
        per_variance,
        expected - 0.5 * other * per_variance + entropy,
        lambda s: np.exp(log_prior(s) - n * np.log(s) - 0.5 * square / s**2 - log_z),
    )


def log_inverse_wishart_constant(df, scale):
    d = len(scale)
    return 0.5 * df * (slogdet(scale)[1] - d * np.log(2)) - multigammaln(0.5 * df, d)


def inverse_wishart(df, S0, n, squares):
    """Of q(Σ) = IW(df + n, S0 + squares): E[Σ⁻¹], and what the ELBO has of it, term by term."""
    d, df_q, S = len(S0), df + n, S0 + squares
    precision = df_q * inv(S)
    logdet = slogdet(S)[1] - digamma(0.5 * (df_q - np.arange(d))).sum() - d * np.log(2)
    prior = log_inverse_wishart_constant(df, S0) - 0.5 * (df + d + 1) * logdet - 0.5 * np.trace(S0 @ precision)
    minus_q = log_inverse_wishart_constant(df_q, S) - 0.5 * (df_q + d + 1) * logdet - 0.5 * np.trace(S @ precision)
    likelihood = -0.5 * n * logdet - 0.5 * np.trace(squares @ precision)
    return precision, likelihood + prior - minus_q


def huang_wand(nu, scales, n, squares, rounds=3000):
    """The same of q(Σ) Π q(a_j) under Huang and Wand's prior."""
    d = len(scales)
    shape, rate = 0.5 * (nu + d), 1 / scales**2 + 1.0
    for _ in range(rounds):
        S = squares + np.diag(2 * nu * shape / rate)
        df = nu + d - 1 + n
        precision = df * inv(S)
        rate = 1 / scales**2 + nu * np.diag(precision)
    per_a, log_a = shape / rate, np.log(rate) - digamma(shape)
    logdet = slogdet(S)[1] - digamma(0.5 * (df - np.arange(d))).sum() - d * np.log(2)
    inner = nu + d - 1
    prior = (
        0.5 * inner * (d * np.log(2 * nu) - log_a.sum()) - 0.5 * inner * d * np.log(2) - multigammaln(0.5 * inner, d)
    )
    prior += -0.5 * (inner + d + 1) * logdet - 0.5 * (2 * nu * per_a * np.diag(precision)).sum()
    minus_q = log_inverse_wishart_constant(df, S) - 0.5 * (df + d + 1) * logdet - 0.5 * np.trace(S @ precision)
    of_a = (-np.log(scales) - gammaln(0.5) - 1.5 * log_a - per_a / scales**2).sum()
    entropy = (shape + np.log(rate) + gammaln(shape) - (1 + shape) * digamma(shape)).sum()
    likelihood = -0.5 * n * logdet - 0.5 * np.trace(squares @ precision)
    return precision, likelihood + prior - minus_q + of_a + entropy


def correlated(log_priors, eta, n, squares, points=161):
    """The same of q(s₁, s₂, r) with an LKJ prior: a plain grid in (log s₁, log s₁/s₂, artanh r)."""
    middle, rho = 0.5 * np.log(np.diag(squares) / n), squares[0, 1] / np.sqrt(squares[0, 0] * squares[1, 1])
    width = min(1.0, 5.0 / np.sqrt(n))
    steps = np.linspace(-1.0, 1.0, points)
    x = middle[0] + width * (1.5 + 4.0 * steps)[:, None, None]
    ratio = middle[0] - middle[1] + 7.0 * width * np.sqrt(1 - rho**2) * steps[None, :, None]
    y = x - ratio
    z = np.arctanh(rho) + 6.0 * width * steps[None, None, :]
    r = np.tanh(z)
    rest = 1 / np.cosh(z) ** 2
    constant = -np.log(2) * (2 * eta - 1) - 2 * gammaln(eta) + gammaln(2 * eta)
    exponent = squares[0, 0] * np.exp(-2 * x) - 2 * r * squares[0, 1] * np.exp(-x - y) + squares[1, 1] * np.exp(-2 * y)
    values = log_priors[0](np.exp(x)) + x + log_priors[1](np.exp(y)) + y + constant + eta * np.log(rest)
    values = values - n * (x + y) - 0.5 * n * np.log(rest) - 0.5 * exponent / rest
    top = values.max()
    mass = np.exp(values - top)
    step = (x[1, 0, 0] - x[0, 0, 0]) * (ratio[0, 1, 0] - ratio[0, 0, 0]) * (z[0, 0, 1] - z[0, 0, 0])
    total = mass.sum()
    entries = np.exp(-2 * x) / rest, -r * np.exp(-x - y) / rest, np.exp(-2 * y) / rest
    a, b, c = ((mass * entry).sum() / total for entry in entries)
    return np.array([[a, b], [b, c]]), top + np.log(total * step)


def log_evidence(y, X, Z, w, prior, log_priors, points=48):
    """log ∫ N(y; X β₀, X P₀⁻¹ Xᵀ + Σ s_l² Z_l Z_lᵀ + σ² W⁻¹) p(σ, s) over σ and the s_l, on a grid of their logarithms.

    `log_priors`: of σ, then of every s_l, single effects. Where the grid ends, some mass is lost: a little too small.
    """
    base = X @ inv(prior[1]) @ X.T
    r = y - X @ prior[0]
    K = np.hstack([X, *Z])
    left = y - K @ np.linalg.lstsq(K, y, rcond=None)[0]
    size = np.sqrt(left @ (w * left) / len(y))
    spread = np.sqrt(np.mean((y - y.mean()) ** 2))
    axes = [np.linspace(np.log(size) - 1.0, np.log(spread * np.sqrt(w.mean())) + 2.0, points)]
    axes += [np.linspace(np.log(spread) - 7.0, np.log(spread) + 3.5, points) for _ in Z]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    values = sum(log(np.exp(t)) + t for log, t in zip(log_priors, grid.T, strict=True))
    V = base + np.exp(2 * grid[:, 0])[:, None, None] * np.diag(1 / w)
    for part, t in zip(Z, grid.T[1:], strict=True):
        V = V + np.exp(2 * t)[:, None, None] * (part @ part.T)
    L = np.linalg.cholesky(V)
    half = np.linalg.solve(L, np.broadcast_to(r[:, None], (len(V), len(y), 1)))[:, :, 0]
    values = values - np.log(np.einsum("gii->gi", L)).sum(axis=1) - 0.5 * (half**2).sum(axis=1) - 0.5 * len(y) * LOG_2PI
    top = values.max()
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    return top + np.log(np.exp(values - top).sum() * cell)


def marginals(y, X, Z, w, prior, log_priors, ranges, points=120):
    """Exact posterior on a grid: axes of log σ and log s_l, masses, and E β, Cov β at every point."""
    axes = [np.linspace(np.log(a), np.log(b), points) for a, b in ranges]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    values = sum(log(np.exp(t)) + t for log, t in zip(log_priors, grid.T, strict=True))
    K = np.hstack([X, *Z])
    G, c = K.T @ (w[:, None] * K), K.T @ (w * y)
    p, n, yy = X.shape[1], len(y), y @ (w * y)
    quadratic = prior[0] @ prior[1] @ prior[0]
    mean, cov = np.empty((len(grid), p)), np.empty((len(grid), p, p))
    for start in range(0, len(grid), 2000):
        rows = slice(start, start + 2000)
        t = grid[rows]
        tau = np.exp(-2 * t[:, 0])
        own = np.concatenate(
            [np.repeat(np.exp(-2 * t[:, [l]]), part.shape[1], 1) for l, part in enumerate(Z, 1)], axis=1
        )
        A = tau[:, None, None] * G
        A[:, :p, :p] += prior[1]
        A[:, range(p, len(G)), range(p, len(G))] += own
        right = tau[:, None] * c
        right[:, :p] += prior[1] @ prior[0]
        C = inv(A)
        m = np.einsum("gij,gj->gi", C, right)
        logdet = -slogdet(A)[1] + np.log(own).sum(axis=1) + slogdet(prior[1])[1]
        square = tau * yy + quadratic - np.einsum("gi,gi->g", right, m)
        values[rows] += 0.5 * (logdet - n * LOG_2PI + n * np.log(tau) + np.log(w).sum() - square)
        mean[rows], cov[rows] = m[:, :p], C[:, :p, :p]
    mass = np.exp(values - values.max())
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    shape = [points] * len(axes)
    log_z = values.max() + np.log(mass.sum() * cell)
    return axes, (mass / mass.sum()).reshape(shape), mean.reshape(*shape, p), cov.reshape(*shape, p, p), log_z


def accuracy(q, p, x):
    """100 (1 − ½ ∫|q − p|) of two densities on a fine grid."""
    return 100 * (1 - 0.5 * np.trapezoid(np.abs(q - p), x))


def correlation_density(df, S, i, j):
    """p(r) of the correlation of i and j under IW(df, S), up to its integral: over both standard deviations by a grid."""
    d = len(S)
    nu, block = df - d + 2, S[np.ix_([i, j], [i, j])]
    t = np.linspace(-4.0, 4.0, 401)
    x = 0.5 * np.log(block[0, 0] / nu) + t[:, None]
    y = 0.5 * np.log(block[1, 1] / nu) + t[None, :]

    def density(r):
        rest = 1 - r * r
        exponent = block[0, 0] * np.exp(-2 * x) - 2 * r * block[0, 1] * np.exp(-x - y) + block[1, 1] * np.exp(-2 * y)
        # |Σ|^(−(ν + 3)/2) with |Σ| = s₁² s₂² (1 − r²); dΣ = 4 s₁² s₂² ds₁ ds₂ dr, ds = s d log s
        logs = -(nu + 3) * (x + y) - 0.5 * (nu + 3) * np.log(rest) + 3 * (x + y) - 0.5 * exponent / rest
        return np.exp(logs).sum()

    return density


def point_elbo(y, X, Z, w, G, owners, factorisation):
    """ELBO and gap at covariances `G` over σ², β and σ² at their optimum: log-likelihood − KL of two Gaussians."""
    full = block_diagonal([np.kron(np.eye(part.shape[1] // len(g)), g) for part, g in zip(Z, G, strict=True)])
    K, n = np.hstack(Z), len(y)
    V = K @ full @ K.T + np.diag(1 / w)
    Vi = inv(V)
    r = y - X @ np.linalg.solve(X.T @ Vi @ X, X.T @ Vi @ y)
    sigma2 = r @ Vi @ r / n
    loglik = -0.5 * (n * np.log(2 * np.pi * sigma2) + slogdet(V)[1] + n)
    A = (K.T @ (w[:, None] * K) + inv(full)) / sigma2
    C = inv(A * kept(0, owners, factorisation))
    gap = 0.5 * (np.trace(A @ C) - len(A) - slogdet(A)[1] - slogdet(C)[1])
    return loglik - gap, gap


def kept_slope(logdet, lam, step=1e-6):
    """Derivatives of a function of Λ in all its entries, by differences."""
    out = np.zeros_like(lam)
    for i in range(len(lam)):
        for j in range(len(lam)):
            move = np.zeros_like(lam)
            move[i, j] = step
            out[i, j] = (logdet(lam + move) - logdet(lam - move)) / (2 * step)
    return out
