"""Dense, slow, obvious twins of everything fast: they follow docs/derivation.md line by line and import nothing of ours.

y (n,), Z (n, c) with its intercept column where there is one, X (n, p); theta = (omega, sigma2_beta, sigma2_e).
"""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.linalg import inv, slogdet
from scipy.optimize import brentq, minimize
from scipy.special import digamma


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


def gaussian_logpdf(y, mean, V):
    """Log of N(y; mean, V)."""
    r = y - mean
    return -0.5 * (len(y) * np.log(2 * np.pi) + slogdet(V)[1] + r @ inv(V) @ r)


# What docs/derivation_grouped.md needs beyond `Grouped`: y, X and Z with the weights already in their rows, `root` the
# whole Λ (random effects × random effects), `first` the derivatives of V in the entries of θ, `second` its second ones.


def mixed_model_matrix(y, X, Z, root):
    """Penalised normal equations of (u, β), bordered by y."""
    K = np.hstack([Z @ root, X, y[:, None]])
    C = K.T @ K
    m = Z.shape[1]
    C[:m, :m] += np.eye(m)
    return C


def mixed_model_solution(y, X, Z, root):
    """(û, β̂) of the mixed-model equations."""
    C = mixed_model_matrix(y, X, Z, root)
    return np.linalg.solve(C[:-1, :-1], C[:-1, -1])


def residual_products(y, X, Z, root):
    """[Z X y]ᵀ(y − ZΛû − Xβ̂)."""
    x = mixed_model_solution(y, X, Z, root)
    return np.column_stack([Z, X, y]).T @ (y - Z @ root @ x[: Z.shape[1]] - X @ x[Z.shape[1] :])


def inverse(y, X, Z, root, reml):
    """Inverse of the mixed-model equations of u (ML) or of (u, β) (REML)."""
    k = Z.shape[1] + (X.shape[1] if reml else 0)
    return inv(mixed_model_matrix(y, X, Z, root)[:k, :k])


def cholesky(C):
    """Lower-triangular L with L Lᵀ = C."""
    return np.linalg.cholesky(C)


def forward(C, A):
    """L⁻¹ A."""
    return np.linalg.solve(np.linalg.cholesky(C), A)


def exact_differences(x, c):
    """The numbers x_i − c in rational arithmetic."""
    return [Fraction(float(value)) - Fraction(float(c)) for value in x]


def least_squares(y, X, weights):
    """Weighted least squares: coefficients, root mean square of what is left, XᵀWX."""
    XtWX = X.T @ (weights[:, None] * X)
    beta = inv(XtWX) @ X.T @ (weights * y)
    return beta, np.sqrt(np.mean(weights * (y - X @ beta) ** 2)), XtWX


def basis_root(B, weights):
    """The upper-triangular M with positive diagonal and MᵀM = BᵀWB / N."""
    return np.linalg.cholesky(B.T @ (weights[:, None] * B) / len(B)).T


def cross_products(y, X, Z):
    """Zᵀ[Z X y] and [X y]ᵀ[X y], in the places they have in the mixed-model equations."""
    K = np.hstack([Z, X, y[:, None]])
    return K.T @ K


def eliminated_one_by_one(factors):
    """How many factors, in order, have levels that no elimination of the factors before them links; codes (N,) each.

    A graph with an edge between any two levels that occur in one row; eliminating a level links all its neighbours.
    """
    first = np.cumsum([0, *(codes.max() + 1 for codes in factors)])
    linked = np.zeros((first[-1], first[-1]), bool)
    for row in np.column_stack([codes + at for codes, at in zip(factors, first[:-1], strict=True)]):
        linked[np.ix_(row, row)] = True
    for f in range(len(factors)):
        own = slice(first[f], first[f + 1])
        if (linked[own, own] & ~np.eye(first[f + 1] - first[f], dtype=bool)).any():
            return f
        for level in range(first[f], first[f + 1]):
            later = np.flatnonzero(linked[level])
            later = later[later > level]
            linked[np.ix_(later, later)] = True
    return len(factors)


def projection(model, reml):
    """Ω, which stands in the traces, V⁻¹ for ML and P for REML; and P = V⁻¹ − V⁻¹X(XᵀV⁻¹X)⁻¹XᵀV⁻¹."""
    P = model.Vi - model.Vi @ model.X @ inv(model.XtViX) @ model.X.T @ model.Vi
    return (P if reml else model.Vi), P


def grouped_gradient(model, first, reml):
    """Derivatives of the log-determinant, tr(Ω V_a), and of r², −yᵀP V_a P y."""
    Omega, P = projection(model, reml)
    Py = P @ model.y
    return np.array([np.sum(Omega * V) for V in first]), np.array([-Py @ V @ Py for V in first])


def grouped_information(model, first, second, reml):
    """Second derivatives of −2ℓ in (θ, log σ²), σ² at its optimum given θ."""
    Omega, P = projection(model, reml)
    Py, sigma2, k = P @ model.y, model.sigma2(reml), len(first)
    H, OV, VPy = np.empty((k + 1, k + 1)), [Omega @ V for V in first], [V @ Py for V in first]
    for a in range(k):
        for b in range(k):
            of_logdet = np.sum(Omega * second[a][b]) - np.sum(OV[a] * OV[b].T)
            of_squares = 2 * VPy[a] @ P @ VPy[b] - Py @ second[a][b] @ Py
            H[a, b] = of_logdet + of_squares / sigma2
        H[a, k] = H[k, a] = Py @ VPy[a] / sigma2
    H[k, k] = model.n - model.p if reml else model.n
    return H


def expected_information(model, first, reml):
    """Expectation of the same, σ² profiled out: tr(Ω V_a Ω V_b) − tr(Ω V_a) tr(Ω V_b) / ν."""
    Omega, _ = projection(model, reml)
    traces = np.array([np.sum(Omega * V) for V in first])
    H = np.array([[np.trace(Omega @ Va @ Omega @ Vb) for Vb in first] for Va in first])
    return H - np.outer(traces, traces) / (model.n - model.p if reml else model.n)


def level_means(model, Z, levels, reml):
    """Means over the levels of one factor, Z (N, levels · d), of Z_vᵀ Ω Z_v and of Z_vᵀ P y yᵀ P Z_v / σ²."""
    Omega, P = projection(model, reml)
    groups = np.split(Z, levels, axis=1)
    c = [Zv.T @ P @ model.y for Zv in groups]
    M = np.mean([Zv.T @ Omega @ Zv for Zv in groups], axis=0)
    return M, np.mean([np.outer(cv, cv) for cv in c], axis=0) / model.sigma2(reml)


def average_information(model, first, second, reml):
    """Mean of the observed and the expected Hessian, σ² profiled out, but for the part with V_ab, which is as observed."""
    Omega, P = projection(model, reml)
    Py, sigma2, k = P @ model.y, model.sigma2(reml), len(first)
    VPy = [V @ Py for V in first]
    H = np.empty((k, k))
    for a in range(k):
        for b in range(k):
            H[a, b] = VPy[a] @ P @ VPy[b] / sigma2 + np.sum(Omega * second[a][b]) - Py @ second[a][b] @ Py / sigma2
    slopes = np.array([Py @ v for v in VPy]) / sigma2
    return H - 0.5 * np.outer(slopes, slopes) / (model.n - model.p if reml else model.n)


def one_way(y, X, Z, root, reml):
    """Log-determinants of Cov(y) / σ² and, of REML, XᵀV⁻¹X; r²."""
    model = Grouped(y, X, [Z], [root @ root.T], np.ones(len(y)))
    V = model.V
    of_x = np.linalg.slogdet(X.T @ np.linalg.solve(V, X))[1] if reml and X.shape[1] else 0.0
    return np.linalg.slogdet(V)[1] + of_x, model.sigma2(reml) * (model.n - model.p if reml else model.n)


def boundary_curvature(model, Z, levels, reml):
    """Second derivatives of the deviance in a column of Λ that is 0: 2 D, D = Σ_v Z_vᵀ Ω Z_v − Σ_v c_v c_vᵀ / σ²."""
    M, cc = level_means(model, Z, levels, reml)
    return 2 * levels * (M - cc)


def moments(y, X, factors):
    """Start of the search: Λ of every term; `factors`: (Z, levels, widths of the terms), in standard coordinates."""
    found, within = [], None
    if len(factors) == 1:
        Q, left = orthonormal(np.column_stack([factors[0][0], X]), 1e-8), len(y)
        left -= Q.shape[1]
        within = min(1.0, np.sum((y - Q @ (Q.T @ y)) ** 2) / left) if left > 0 else None
    for Z, levels, widths in factors:
        d = sum(widths)
        blocks = np.split(Z, levels, axis=1)
        n2 = sum(np.sum((Zv.T @ Zv) ** 2) for Zv in blocks) / d  # Σ n_v²
        total = sum(np.outer(Zv.T @ y, Zv.T @ y) for Zv in blocks) / n2  # G + σ²_e (N / Σ n_v²) I
        noise = len(y) / n2
        sigma2 = (1 - np.trace(total)) / (1 - d * noise) if d * noise < 1 else 0.5
        sigma2 = np.clip(sigma2, 0.05, 1) if within is None else within
        values, vectors = np.linalg.eigh(total - noise * sigma2 * np.eye(d))
        least = 0.01 if within is None else 0.01 * within
        found.append((vectors @ np.diag(np.clip(values, least, 1)) @ vectors.T, widths))
    sigma2 = max(1 - sum(np.trace(G) for G, _ in found), 0.1) if within is None else within
    ends = [(G, np.cumsum([0, *widths])) for G, widths in found]
    return [np.linalg.cholesky(G[a:b, a:b] / sigma2) for G, at in ends for a, b in pairwise(at)]


def orthonormal(A, tolerance):
    """A basis of the columns of A."""
    U, s, _ = np.linalg.svd(A, full_matrices=False)
    return U[:, s > tolerance * s[0]]


def lower_root(G):
    """The lower-triangular L with L Lᵀ = G, diagonal ≥ 0; a column of zeros for every pivot that is 0 (to 1e-12)."""
    rest, L = G.copy(), np.zeros_like(G)
    for j in range(len(G)):
        if rest[j, j] > 1e-12:
            L[:, j] = rest[:, j] / np.sqrt(rest[j, j])
            rest -= np.outer(L[:, j], L[:, j])
    return L


def trust_region_step(g, B, radius):
    """The minimum of gᵀs + ½ sᵀBs over ‖s‖ ≤ radius: s = −(B + μI)⁻¹g with the smallest μ ≥ 0 that will do."""
    eye = np.eye(len(g))
    least = max(0.0, -np.linalg.eigvalsh(B)[0])

    def step(mu):
        return -np.linalg.solve(B + mu * eye, g)

    mu = 0.0
    if least > 0 or np.linalg.norm(step(0.0)) > radius:
        lo, hi = least + 1e-14, least + np.linalg.norm(g) / radius
        mu = brentq(lambda mu: np.linalg.norm(step(mu)) - radius, lo, hi, xtol=1e-14)
    s = step(mu)
    return s, -(g @ s) - s @ B @ s / 2


def minimum(f, x, jac=None):
    """The smallest value of f that a general-purpose search finds from x, and where."""
    found = minimize(f, x, jac=jac, method="BFGS", options={"gtol": 1e-7, "maxiter": 1000})
    return found.fun, found.x


def held_deviance(f, x, place, value):
    """The smallest value of f with x[place] held."""
    others = np.delete(np.arange(len(x)), place)

    def held(free):
        at = np.empty(len(x))
        at[place], at[others] = value, free
        return f(at)

    return minimum(held, np.asarray(x, dtype=float)[others])[0]


def kriging(model, X, Z, own, reml):
    """Best linear unbiased prediction of x'β + z'b: means and variances; `own`: what groups not in the data add, over σ²."""
    K = Z @ model.G @ model.Z.T
    mean = X @ model.beta + K @ model.Vi @ model.residual
    rest = X - K @ model.Vi @ model.X
    variance = np.diag(Z @ model.G @ Z.T - K @ model.Vi @ K.T + rest @ inv(model.XtViX) @ rest.T) + own
    return mean, model.sigma2(reml) * variance


def sd_and_cor(covariances, sigma2):
    """Standard deviations and correlations of covariances relative to σ², term by term; then σ."""
    found = []
    for G in covariances:
        sd = np.sqrt(np.diag(G))
        found += [*(np.sqrt(sigma2) * sd), *(G / np.outer(sd, sd))[np.triu_indices(len(G), 1)]]
    return np.array([*found, np.sqrt(sigma2)])


def delta_method(f, x, C):
    """Standard errors of f(x), x with covariance C."""
    moves = 1e-5 * np.eye(len(x))
    J = np.column_stack([(f(x + move) - f(x - move)) / 2e-5 for move in moves])
    return np.sqrt(np.diag(J @ C @ J.T))


def satterthwaite(model, first, C, reml):
    """2 v² / (gᵀ C g) of every fixed effect, v = se² with its gradient g in (θ, log σ²), C the covariance of those."""
    B, sigma2 = inv(model.XtViX), model.sigma2(reml)
    v = sigma2 * np.diag(B)
    ViXB = model.Vi @ model.X @ B
    g = np.column_stack([*(sigma2 * np.diag(ViXB.T @ V @ ViXB) for V in first), v])
    return 2 * v**2 / np.diag(g @ C @ g.T)


def chi_bar_weights(information):
    """Weights of χ²_0, χ²_1, … of the squared length of a normal vector projected on a half-line or a quadrant.

    `information` (1, 1) or (2, 2): inverse covariance of the vector, and the metric of the projection.
    """
    if len(information) == 1:
        return np.array([0.5, 0.5])
    cosine = information[0, 1] / np.sqrt(information[0, 0] * information[1, 1])
    share = np.arccos(cosine) / (2 * np.pi)  # the quadrant's, where both are positive
    return np.array([0.5 - share, 0.5, share])


def mixture_p(statistic, weights):
    """P(T ≥ statistic > 0) of a mixture of χ²_0, χ²_1, …"""
    x = statistic / 2
    tails = [0.0, math.erfc(math.sqrt(x)), math.exp(-x)]
    while len(tails) < len(weights):
        k = len(tails) - 2
        tails.append(tails[k] + x ** (k / 2) * math.exp(-x) / math.gamma(k / 2 + 1))
    return np.dot(weights, tails[: len(weights)])


# The Bayesian wide model: ω ~ N(m0, S0), β ~ N(0, σ²_β I), and priors of σ_β and σ_e.


def log_variance_prior(density_of_sd, x):
    """Log density in x = log σ² of a density in σ: dσ = σ/2 dx."""
    sd = np.exp(x / 2)
    return np.log(density_of_sd(sd) * sd / 2)


def bayes_loglik(y, Z, X, m0, S0, sb, se):
    """log p(y | σ²_β, σ²_e): N(y; Z m0, Z S0 Zᵀ + V), everything but the variances integrated out."""
    V = Z @ S0 @ Z.T + covariance(X, sb, se)
    r = y - Z @ m0
    return -0.5 * (len(y) * np.log(2 * np.pi) + slogdet(V)[1] + r @ inv(V) @ r)


def bayes_loglik_flat(y, Z, X, sb, se):
    """∫ N(y; Zω, V) dω: REML without its constants left out."""
    return restricted_loglik(y, Z, X, sb, se)


def bayes_effects(y, Z, X, m0, S0, sb, se, W):
    """Mean and covariance of W (ω, β) given y and the variances, W (k, c + p): conditioning of a joint normal."""
    A = np.hstack([Z, X])
    prior_mean = np.concatenate([m0, np.zeros(X.shape[1])])
    prior = np.zeros((A.shape[1], A.shape[1]))
    prior[: len(m0), : len(m0)] = S0
    prior[len(m0) :, len(m0) :] = sb * np.eye(X.shape[1])
    gain = prior @ A.T @ inv(A @ prior @ A.T + se * np.eye(len(y)))
    mean = prior_mean + gain @ (y - A @ prior_mean)
    return W @ mean, W @ (prior - gain @ A @ prior) @ W.T


def bayes_average(y, Z, X, m0, S0, nodes, weights, W):
    """Mean and variances of W (ω, β) with the variances averaged over nodes: means of variances, variances of means."""
    parts = [bayes_effects(y, Z, X, m0, S0, sb, se, W) for sb, se in nodes]
    means, variances = np.array([mean for mean, _ in parts]), np.array([np.diag(V) for _, V in parts])
    mean = weights @ means
    return mean, weights @ variances + weights @ (means - mean) ** 2


def bayes_nodes(log_density, t, highest=40.0):
    """Nodes (σ²_β, σ²_e), their probabilities and the log of the integral of a density of the two log variances.

    Product trapezoid rule in v = log(σ²_β t / σ²_e), up to `highest`, and s = log(σ²_β t + σ²_e), by rows of v.
    """
    v, s = np.arange(-40, highest, 0.3), np.arange(-4, 8, 0.12)
    nodes = [(np.exp(b - np.logaddexp(0, -a)) / t, np.exp(b - np.logaddexp(0, a))) for a in v for b in s]
    logs = np.array([log_density(sb, se) for sb, se in nodes]) + np.log(0.3 * 0.12)
    total = logs.max() + np.log(np.exp(logs - logs.max()).sum())
    return np.array(nodes), np.exp(logs - total), total


def vb_q_beta(y, Z, X, mean_omega, t_beta, t_e):
    """q(β) given the rest: precision τ_e XᵀX + τ_β I, mean from the residual of E[ω]."""
    S = inv(t_e * X.T @ X + t_beta * np.eye(X.shape[1]))
    return t_e * S @ X.T @ (y - Z @ mean_omega), S


def vb_q_omega(y, Z, X, mean_beta, t_e, m0, S0):
    """q(ω) given the rest: precision τ_e ZᵀZ + S0⁻¹."""
    S = inv(t_e * Z.T @ Z + inv(S0))
    return S @ (t_e * Z.T @ (y - X @ mean_beta) + inv(S0) @ m0), S


def vb_half_squares(y, Z, X, omega, S_omega, beta, S_beta):
    """½ E‖β‖² and ½ E‖y − Zω − Xβ‖²."""
    r = y - Z @ omega - X @ beta
    squares = r @ r + np.trace(Z @ S_omega @ Z.T) + np.trace(X @ S_beta @ X.T)
    return 0.5 * (beta @ beta + np.trace(S_beta)), 0.5 * squares


def vb_scale(log_density_of_sd, number, half_squares):
    """log ∫ p(σ) (2πσ²)^(−number/2) exp(−S/σ²) dσ and E[1/σ²] under that density, by a fine sum over log σ."""
    u = np.arange(-30, 30, 1e-4)
    sd = np.exp(u)
    logs = log_density_of_sd(sd) - number / 2 * np.log(2 * np.pi * sd**2) - half_squares / sd**2 + u
    mass = np.exp(logs - logs.max())
    return logs.max() + np.log(mass.sum() * 1e-4), mass @ sd**-2.0 / mass.sum()


def vb_elbo(y, Z, X, m0, S0, omega, S_omega, beta, S_beta, ig_beta, ig_e, q_beta, q_e):
    """E log p(y, ω, β, σ²_β, σ²_e) − E log q, term by term; `ig_*` are (shape, scale) of the priors, `q_*` of q."""
    n, p = X.shape
    half_beta, half_e = vb_half_squares(y, Z, X, omega, S_omega, beta, S_beta)

    def expected_log(shape, scale):  # E log σ² and E 1/σ²
        return np.log(scale) - digamma(shape), shape / scale

    def log_ig(shape, scale, of_shape, of_scale):  # E log IG(shape, scale) under IG(of_shape, of_scale)
        log_mean, inverse_mean = expected_log(of_shape, of_scale)
        return shape * np.log(scale) - math.lgamma(shape) - (shape + 1) * log_mean - scale * inverse_mean

    log_beta, t_beta = expected_log(*q_beta)
    log_e, t_e = expected_log(*q_e)
    likelihood = -n / 2 * (np.log(2 * np.pi) + log_e) - t_e * half_e
    prior_beta = -p / 2 * (np.log(2 * np.pi) + log_beta) - t_beta * half_beta
    off = omega - m0
    prior_omega = -0.5 * (slogdet(2 * np.pi * S0)[1] + off @ inv(S0) @ off + np.trace(inv(S0) @ S_omega))
    variances = log_ig(*ig_beta, *q_beta) + log_ig(*ig_e, *q_e) - log_ig(*q_beta, *q_beta) - log_ig(*q_e, *q_e)
    entropy = 0.5 * (slogdet(2 * np.pi * np.e * S_omega)[1] + slogdet(2 * np.pi * np.e * S_beta)[1])
    return likelihood + prior_beta + prior_omega + variances + entropy


def vb(y, Z, X, m0, S0, ig_beta, ig_e, iterations):
    """Coordinate ascent from E[1/σ²] = 2 / var(y), one factor after the other; the ELBO after every round."""
    n, p = X.shape
    t_beta = t_e = 2 / y.var()
    beta, omega = np.zeros(p), m0
    path = []
    for _ in range(iterations):
        omega, S_omega = vb_q_omega(y, Z, X, beta, t_e, m0, S0)
        beta, S_beta = vb_q_beta(y, Z, X, omega, t_beta, t_e)
        half_beta, half_e = vb_half_squares(y, Z, X, omega, S_omega, beta, S_beta)
        q_beta = ig_beta[0] + p / 2, ig_beta[1] + half_beta
        q_e = ig_e[0] + n / 2, ig_e[1] + half_e
        t_beta, t_e = q_beta[0] / q_beta[1], q_e[0] / q_e[1]
        path.append(vb_elbo(y, Z, X, m0, S0, omega, S_omega, beta, S_beta, ig_beta, ig_e, q_beta, q_e))
    return np.array(path), omega, S_omega, beta, S_beta, q_beta, q_e
