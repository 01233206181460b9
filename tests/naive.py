"""Dense, slow, obvious twins of everything fast: they follow docs/derivation.md line by line and import nothing of ours.

y (n,), Z (n, c) with its intercept column where there is one, X (n, p); theta = (omega, sigma2_beta, sigma2_e).
"""

import numpy as np
from numpy.linalg import inv, slogdet


def covariance(X, sb, se):
    """V = σ²_β X Xᵀ + σ²_e I."""
    return sb * X @ X.T + se * np.eye(len(X))


def gls(y, Z, V):
    """ω̂ = (ZᵀV⁻¹Z)⁻¹ ZᵀV⁻¹y."""
    Vi = inv(V)
    return inv(Z.T @ Vi @ Z) @ Z.T @ Vi @ y


def loglik(y, Z, X, omega, sb, se):
    """Log of N(y; Zω, V)."""
    V = covariance(X, sb, se)
    r = y - Z @ omega
    return -0.5 * (len(y) * np.log(2 * np.pi) + slogdet(V)[1] + r @ inv(V) @ r)


def restricted_loglik(y, Z, X, sb, se):
    """REML in lme4's convention: without + ½ log|ZᵀZ|."""
    n, c = Z.shape
    V = covariance(X, sb, se)
    Vi = inv(V)
    r = y - Z @ gls(y, Z, V)
    value = (n - c) * np.log(2 * np.pi) + slogdet(V)[1] + slogdet(Z.T @ Vi @ Z)[1] + r @ Vi @ r
    return -0.5 * value


def profile_loglik(y, Z, X, gamma, reml=False):
    """The (restricted) log-likelihood at γ = σ²_β/σ²_e with ω and σ²_e at their optimum."""
    n, c = Z.shape
    V1 = covariance(X, gamma, 1.0)
    omega = gls(y, Z, V1)
    r = y - Z @ omega
    se = r @ inv(V1) @ r / (n - c if reml else n)
    if reml:
        return restricted_loglik(y, Z, X, gamma * se, se)
    return loglik(y, Z, X, omega, gamma * se, se)


def posterior(y, Z, X, omega, sb, se):
    """N(μ, S) of β: S = (XᵀX/σ²_e + I/σ²_β)⁻¹, μ = S Xᵀ(y − Zω)/σ²_e."""
    S = inv(X.T @ X / se + np.eye(X.shape[1]) / sb)
    return S @ X.T @ (y - Z @ omega) / se, S


def em_step(y, Z, X, omega, sb, se):
    """E-step with the exact posterior, then ω, then both variances with the new ω."""
    n, p = X.shape
    mu, S = posterior(y, Z, X, omega, sb, se)
    omega = inv(Z.T @ Z) @ Z.T @ (y - X @ mu)
    r = y - Z @ omega - X @ mu
    return omega, (mu @ mu + np.trace(S)) / p, (r @ r + np.trace(X @ S @ X.T)) / n


def em(y, Z, X, iterations):
    """EM from the textbook's start: (σ²_β, σ²_e, log-likelihood) of every iterate."""
    omega = inv(Z.T @ Z) @ Z.T @ y
    sb = se = y.var() / 2
    path = [(sb, se, loglik(y, Z, X, omega, sb, se))]
    for _ in range(iterations):
        omega, sb, se = em_step(y, Z, X, omega, sb, se)
        path.append((sb, se, loglik(y, Z, X, omega, sb, se)))
    return np.array(path), omega


def sweep(y, Z, X, omega, mean, gamma):
    """One pass of coordinate updates of E[β_j], each with the residual of all others computed afresh."""
    mean = mean.copy()
    for j in range(X.shape[1]):
        others = y - Z @ omega - X @ mean + X[:, j] * mean[j]
        mean[j] = gamma * X[:, j] @ others / (1 + gamma * X[:, j] @ X[:, j])
    return mean


def block_sweep(y, Z, X, omega, mean, gamma, blocks):
    """One pass over blocks of columns, each ridge regression on what the others leave."""
    mean = mean.copy()
    for b in blocks:
        others = y - Z @ omega - X @ mean + X[:, b] @ mean[b]
        mean[b] = inv(X[:, b].T @ X[:, b] + np.eye(len(b)) / gamma) @ X[:, b].T @ others
    return mean


def block_covariance(X, sb, se, blocks):
    """The exact posterior precision without what lies outside the diagonal blocks, inverted."""
    S = np.zeros((X.shape[1], X.shape[1]))
    for b in blocks:
        S[np.ix_(b, b)] = inv(X[:, b].T @ X[:, b] / se + np.eye(len(b)) / sb)
    return S


def mean_field_variances(X, sb, se):
    """s²_j = 1 / (x_jᵀx_j/σ²_e + 1/σ²_β)."""
    return 1 / (np.sum(X**2, axis=0) / se + 1 / sb)


def mean_field_m_step(y, Z, X, mean, var):
    """ω, then σ²_β and σ²_e with the new ω, under q(β) = Π N(mean_j, var_j)."""
    n, p = X.shape
    omega = inv(Z.T @ Z) @ Z.T @ (y - X @ mean)
    r = y - Z @ omega - X @ mean
    return omega, (mean @ mean + var.sum()) / p, (r @ r + np.sum(X**2, axis=0) @ var) / n


def elbo(y, Z, X, omega, sb, se, mean, var):
    """E_q log p(y | β) + E_q log p(β) − E_q log q(β); `var` are variances (p,) or the whole covariance of q."""
    n, p = X.shape
    S = np.diag(var) if var.ndim == 1 else var
    r = y - Z @ omega - X @ mean
    likelihood = -n / 2 * np.log(2 * np.pi * se) - (r @ r + np.trace(X @ S @ X.T)) / (2 * se)
    prior = -p / 2 * np.log(2 * np.pi * sb) - (mean @ mean + np.trace(S)) / (2 * sb)
    return likelihood + prior + slogdet(2 * np.pi * np.e * S)[1] / 2


def kl(y, Z, X, omega, sb, se, mean, var):
    """KL(q ‖ posterior) between two Gaussians, from dense matrices."""
    mu, S = posterior(y, Z, X, omega, sb, se)
    A = inv(S)
    off = mean - mu
    return 0.5 * (np.trace(A @ np.diag(var)) - len(mean) + off @ A @ off + slogdet(S)[1] - np.log(var).sum())


def gap(X, gamma):
    """The gap at the mean-field optimum for given γ: ½ [Σ log A_jj − log|A|]."""
    A = np.eye(X.shape[1]) + gamma * X.T @ X
    return 0.5 * (np.log(np.diag(A)).sum() - slogdet(A)[1])


def subspace_profile(y, Z, X, means, gamma):
    """Profile ELBO at γ when E[β] is confined to the span of `means` (k, p): least squares over α, ω, then σ²_e."""
    n = len(y)
    M = np.eye(n) - Z @ inv(Z.T @ Z) @ Z.T if Z.shape[1] else np.eye(n)
    G = M @ X @ means.T
    alpha = inv(G.T @ G + means @ means.T / gamma) @ G.T @ M @ y
    mean = means.T @ alpha
    F = np.sum((M @ y - G @ alpha) ** 2) + mean @ mean / gamma
    return -0.5 * (n * (np.log(2 * np.pi * F / n) + 1) + np.log(1 + gamma * np.sum(X**2, axis=0)).sum()), mean


def pve(Z, X, sb, se):
    """σ²_β tr(MK)/(n − c) over itself plus σ²_e."""
    n, c = Z.shape
    M = np.eye(n) - Z @ inv(Z.T @ Z) @ Z.T if c else np.eye(n)
    t = np.trace(M @ X @ X.T) / (n - c)
    return sb * t / (sb * t + se)


def hessian(f, x, rel=1e-4):
    """Second derivatives of f at x by central differences, with steps relative to x."""
    x = np.asarray(x, dtype=float)
    h = rel * np.maximum(np.abs(x), 1e-3)
    k = len(x)
    H = np.empty((k, k))
    for i in range(k):
        for j in range(k):
            ei, ej = h * (np.arange(k) == i), h * (np.arange(k) == j)
            H[i, j] = (f(x + ei + ej) - f(x + ei - ej) - f(x - ei + ej) + f(x - ei - ej)) / (4 * h[i] * h[j])
    return H


def contrasts(y, Z, X):
    """AᵀX, Aᵀy with A an orthonormal basis of the complement of span(Z)."""
    U, _, _ = np.linalg.svd(Z, full_matrices=True)
    A = U[:, Z.shape[1] :]
    return A.T @ X, A.T @ y


class Grouped:
    """y = Xβ + Σ Z_l u_l + ε with N × N matrices; G_l is the covariance of u_l over σ², ε_i has variance σ² / w_i."""

    def __init__(self, y, X, Z, G, weights):
        self.y, self.X, self.n, self.p = y, X, *X.shape
        self.Z, self.G = np.hstack(Z), _block_diagonal(G)
        self.V = self.Z @ self.G @ self.Z.T + np.diag(1.0 / weights)
        self.Vi = inv(self.V)
        self.XtViX = X.T @ self.Vi @ X
        self.beta = inv(self.XtViX) @ X.T @ self.Vi @ y
        self.residual = y - X @ self.beta

    def deviance(self, reml):
        """−2 × the (restricted) log-likelihood, β and σ² at their optimum."""
        free = self.n - self.p if reml else self.n
        value = slogdet(self.V)[1] + (slogdet(self.XtViX)[1] if reml else 0.0)
        return value + free * (1.0 + np.log(2 * np.pi * self.sigma2(reml)))

    def sigma2(self, reml):
        """Its optimum."""
        return self.residual @ self.Vi @ self.residual / (self.n - self.p if reml else self.n)

    def effects(self):
        """E[u | y] = G Zᵀ V⁻¹ (y − Xβ̂)."""
        return self.G @ self.Z.T @ self.Vi @ self.residual

    def effects_cov(self, reml):
        """Var(u | y, β) = σ² (G − G Zᵀ V⁻¹ Z G)."""
        GZ = self.G @ self.Z.T
        return self.sigma2(reml) * (self.G - GZ @ self.Vi @ GZ.T)

    def joint_cov(self, reml):
        """Covariance of (β̂ − β, û − u): û − u = (GZᵀV⁻¹)(y − Xβ̂) − u."""
        GZVi = self.G @ self.Z.T @ self.Vi
        to_beta = inv(self.XtViX) @ self.X.T @ self.Vi
        of_y = np.vstack([to_beta, GZVi @ (np.eye(self.n) - self.X @ to_beta)])
        of_u = np.vstack([np.zeros((self.p, len(self.G))), np.eye(len(self.G))])
        cov_yu = self.Z @ self.G
        cross = of_y @ cov_yu @ of_u.T
        return self.sigma2(reml) * (of_y @ self.V @ of_y.T - cross - cross.T + of_u @ self.G @ of_u.T)


def _block_diagonal(blocks):
    size = sum(len(block) for block in blocks)
    out, at = np.zeros((size, size)), 0
    for block in blocks:
        out[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    return out
