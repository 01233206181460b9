# %% [markdown]
# # Mean-field variational inference by residual updates
#
# Mean field replaces the posterior of β by independent factors. This lesson derives their coordinate updates, every
# term of the ELBO and the M-step, keeps one residual so that a sweep over all features costs O(np), and accelerates
# the sweeps.
#
# You need: lesson 03 (the bound of EM), the multivariate normal density. Time: 120 minutes.
#
# ## 1. The family, and its best factor
#
# The model is that of lesson 03: $y=Z\omega+X\beta+e$, $\beta\sim N(0,\sigma^2_\beta I_p)$,
# $e\sim N(0,\sigma^2_e I_n)$, with $\theta=(\omega,\sigma^2_\beta,\sigma^2_e)$ and
# $\gamma=\sigma^2_\beta/\sigma^2_e$. For any density $q(\beta)$,
#
# $$\ell(\theta)=\underbrace{\mathbb E_q[\log p(y,\beta)]-\mathbb E_q[\log q(\beta)]}_{\text{ELBO}(q,\theta)}
# +\mathrm{KL}(q\,\Vert\,p(\beta\mid y)),\qquad\mathrm{KL}\ge0 .$$
#
# EM takes $q=p(\beta\mid y)$, whose covariance is $p\times p$. **Mean field** restricts $q$ to products,
# $q(\beta)=\prod_{j=1}^p q_j(\beta_j)$, and maximises the ELBO within that family. Nothing is assumed about the shape
# of a factor.
#
# Fix all factors but $q_j$. Write $\mathbb E_{-j}$ for the expectation over all $\beta_k$, $k\ne j$. The integral
# over β is an integral over $\beta_j$ of one over the others, and the logarithm of the product is a sum, so
#
# $$\text{ELBO}=\int q_j(\beta_j)\,\mathbb E_{-j}[\log p(y,\beta)]\,d\beta_j
# -\int q_j(\beta_j)\log q_j(\beta_j)\,d\beta_j+\text{const},$$
#
# where the constant holds the entropies of the other factors. Let
# $q_j^*(\beta_j)=\exp\left(\mathbb E_{-j}[\log p(y,\beta)]\right)/C$, with $C$ such that it integrates to one. Then
# $\mathbb E_{-j}[\log p(y,\beta)]=\log q_j^*(\beta_j)+\log C$ and
#
# $$\text{ELBO}=\int q_j\log\frac{q_j^*}{q_j}\,d\beta_j+\text{const}=-\mathrm{KL}(q_j\,\Vert\,q_j^*)+\text{const}.$$
#
# The maximum is at $\mathrm{KL}=0$, that is at $q_j=q_j^*$:
# **$\log q_j=\mathbb E_{-j}[\log p(y,\beta)]+\text{const}$**.

# %% [markdown] slide="derivations"
# # The best factor averages all others out
#
# Mean field: q(β) = Π q_{j}(β_{j}), shapes free. All factors but one fixed:
#
# $$\mathrm{ELBO}=-\mathrm{KL}\left(q_j\,\Vert\,q_j^*\right)+\mathrm{const}$$
#
# $$\log q_j^*(\beta_j)=\mathbb{E}_{-j}\left[\log p(y,\beta)\right]+\mathrm{const}$$
#
# - KL is zero only at q_{j} = q*_{j}: the update is the exact maximum
# - log p(y, β) is quadratic in β_{j}, so every factor **turns out** normal
# - One factor at a time: coordinate ascent, the ELBO never falls
#
# ---
# Say: Normal factors are not assumed, they come out. With the other factors fixed, the ELBO is minus a divergence of
# the one factor from an explicit density. So the best factor is that density, and the update is a maximum, not a step
# uphill.
#
# Ask: Where would the derivation change if the prior of β were a Laplace distribution?
#
# Answer: Up to the formula for log q* nowhere. Then |β_j| joins the quadratic, and the factor is no longer normal.
#
# Minutes: 3

# %% [markdown]
# ## 2. The coordinate updates
#
# Let $u_j=y-Z\omega-\sum_{k\ne j}x_k\beta_k$, which does not contain $\beta_j$. Only two terms of $\log p(y,\beta)$
# do:
#
# $$\log p(y,\beta)=-\frac{\lVert u_j-x_j\beta_j\rVert^2}{2\sigma^2_e}-\frac{\beta_j^2}{2\sigma^2_\beta}+\dots
# =-\tfrac12\beta_j^2\left(\frac{x_j^\top x_j}{\sigma^2_e}+\frac1{\sigma^2_\beta}\right)
# +\beta_j\,\frac{x_j^\top u_j}{\sigma^2_e}+\dots,$$
#
# where the dots do not contain $\beta_j$. Under $\mathbb E_{-j}$ only $u_j$ is random. It enters the terms with
# $\beta_j$ linearly, so that with $m_k=\mathbb E\beta_k$ it becomes its mean,
# $\mathbb E_{-j}u_j=y-Z\omega-\sum_{k\ne j}x_km_k$. Hence
#
# $$\log q_j(\beta_j)=-\tfrac12 a\,\beta_j^2+b\,\beta_j+\text{const}
# =-\tfrac12a\left(\beta_j-\tfrac ba\right)^2+\text{const},$$
#
# where $a$ and $b$ are read off the line above.
# This is the logarithm of a normal density with variance $1/a$ and mean $b/a$: $q_j=N(m_j,s_j^2)$ with
#
# $$s_j^2=⟦5.1: \left(\frac{x_j^\top x_j}{\sigma^2_e}+\frac1{\sigma^2_\beta}\right)^{-1}⟧,\qquad
# m_j=⟦5.1: \frac{s_j^2}{\sigma^2_e}\,x_j^\top\Big(y-Z\omega-\sum_{k\ne j}x_km_k\Big)⟧.$$
#
# It is a ridge regression of one column on what the other means leave of $y$.
# (`fastlmm_vi.wide.posterior.mean_field_variances` for the variances, `fastlmm_vi_kernels.sweep.sweep` for the
# means.) **Gap 5.1**: write it for one $j$. The small problem has $n=40$, $p=60$ and an intercept first among two
# covariates.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.stats
from fastlmm_vi_kernels import spectral, sweep
from numpy.linalg import inv, slogdet

import fastlmm_vi as fl

plt.rcParams.update({"figure.figsize": (6.4, 3.6), "figure.constrained_layout.use": True, "font.size": 11})
COLORS = ["#0072B2", "#D55E00", "#009E73"]


def problem(n, p, c, correlation=0.0, seed=7):
    """Data from the model, σ²_β = 1.5 and σ²_e = 0.5; `correlation` is that between any two columns of X."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 1))
    X = np.sqrt(1 - correlation) * rng.normal(size=(n, p)) + np.sqrt(correlation) * common
    X = np.asfortranarray(X / np.sqrt(p))  # Fortran order: each column is contiguous in memory
    Z = np.column_stack([np.ones(n), rng.normal(size=(n, c - 1))])
    beta = np.sqrt(1.5) * rng.normal(size=p)
    return Z @ rng.normal(size=c) + X @ beta + np.sqrt(0.5) * rng.normal(size=n), Z, X


def log_joint(y, Z, X, beta, omega, sigma2_beta, sigma2_e):
    """log p(y, β | θ)."""
    log_normal = lambda v, variance: -0.5 * (v.size * np.log(2 * np.pi * variance) + v @ v / variance)
    return log_normal(y - Z @ omega - X @ beta, sigma2_e) + log_normal(beta, sigma2_beta)


y, Z, X = problem(n=40, p=60, c=2)
n, p, c = len(y), X.shape[1], Z.shape[1]
sq_norms = np.sum(X**2, axis=0)
omega, sigma2_beta, sigma2_e = np.linalg.lstsq(Z, y)[0], 1.5, 0.5
theta = (omega, sigma2_beta, sigma2_e)


# %% gap="5.1"
def coordinate(j, y, Z, X, omega, sigma2_beta, sigma2_e, mean):
    """Mean m_j and variance s²_j of the best factor q_j, given the means of all factors."""
    x = X[:, j]
    ### SOLUTION
    others = y - Z @ omega - X @ mean + x * mean[j]
    s2_j = 1 / (x @ x / sigma2_e + 1 / sigma2_beta)
    m_j = s2_j / sigma2_e * (x @ others)
    ### WRONG feature j's own part is subtracted too
    others = y - Z @ omega - X @ mean
    s2_j = 1 / (x @ x / sigma2_e + 1 / sigma2_beta)
    m_j = s2_j / sigma2_e * (x @ others)
    ### WRONG the other features are ignored
    others = y - Z @ omega
    s2_j = 1 / (x @ x / sigma2_e + 1 / sigma2_beta)
    m_j = s2_j / sigma2_e * (x @ others)
    ### WRONG the prior's precision is left out
    others = y - Z @ omega - X @ mean + x * mean[j]
    s2_j = 1 / (x @ x / sigma2_e)
    m_j = s2_j / sigma2_e * (x @ others)
    ### END
    return m_j, s2_j


# %% [markdown]
# The check averages $\log p(y,\beta)$ over the other factors by Monte Carlo, exponentiates it on a grid of $\beta_j$
# and takes mean and variance by quadrature. Draws come in pairs $m+\varepsilon$, $m-\varepsilon$: the part linear in
# ε then averages out exactly, and the part quadratic in ε shifts $\log q_j$ by a constant only. So the average has no
# Monte Carlo error where it matters.

# %% check="5.1"
rng = np.random.default_rng(51)
mean, sd = rng.normal(size=p), rng.uniform(0.1, 1.0, size=p)
eps = sd * rng.normal(size=(20, p))
grid, fine = np.linspace(-3, 3, 7), np.linspace(-12, 12, 24001)
for j in (0, 17, p - 1):
    draws = np.vstack([mean + eps, mean - eps])
    log_q = [np.mean([log_joint(y, Z, X, np.r_[b[:j], t, b[j + 1 :]], *theta) for b in draws]) for t in grid]
    log_q = np.polyval(np.polyfit(grid, log_q, 2), fine)  # a parabola: seven points determine it
    weight = np.exp(log_q - log_q.max())
    weight /= weight.sum()
    centre = weight @ fine
    m_j, s2_j = coordinate(j, y, Z, X, *theta, mean)
    assert abs(s2_j - weight @ (fine - centre) ** 2) < 1e-6, "gap 5.1: s²_j is not the variance of exp(E_-j log p)."
    assert abs(m_j - centre) < 1e-6, "gap 5.1: m_j is not the mean of exp(E_-j log p). What is left of y for x_j?"
print("gap 5.1 ✓")

# %% [markdown]
# In matrix form let $A=X^\top X/\sigma^2_e+I/\sigma^2_\beta$ and $b=X^\top(y-Z\omega)/\sigma^2_e$. The exact
# posterior is $N(\mu,S)$ with $S=A^{-1}$ and $\mu=A^{-1}b$ (lesson 03). The updates read $s_j^2=1/A_{jj}$ and
# $m_j=\big(b_j-\sum_{k\ne j}A_{jk}m_k\big)/A_{jj}$: mean and variance of $\beta_j$ **given** the other coefficients,
# at their means. A conditional variance is at most the marginal one: with the unit vector $e_j$, Cauchy–Schwarz gives
# $1=\big((A^{1/2}e_j)^\top A^{-1/2}e_j\big)^2\le(e_j^\top Ae_j)(e_j^\top A^{-1}e_j)=A_{jj}S_{jj}$, that is
# $s_j^2=1/A_{jj}\le S_{jj}$. Mean field understates uncertainty (lesson 06).
#
# With two correlated features the whole algorithm fits in a picture: each update moves parallel to an axis, to the
# highest point of the posterior density on that line; the steps end at the exact mean; the ellipse of $q$ has axes
# parallel to the coordinates and lies inside the exact one's box.

# %%
y2, Z2, X2 = problem(n=20, p=2, c=1, correlation=0.9, seed=3)
theta2 = (np.linalg.lstsq(Z2, y2)[0], 1.5, 0.5)
A2 = X2.T @ X2 / 0.5 + np.eye(2) / 1.5
mu2, S2 = inv(A2) @ X2.T @ (y2 - Z2 @ theta2[0]) / 0.5, inv(A2)
stairs = [mu2 - [1.2, 0.8] * np.sqrt(np.diag(S2))]  # any start will do
for update in range(200):
    mean2 = stairs[-1].copy()
    mean2[update % 2], s2 = coordinate(update % 2, y2, Z2, X2, *theta2, mean2)
    assert np.isclose(s2, 1 / A2[update % 2, update % 2])
    assert s2 < S2[update % 2, update % 2]
    stairs.append(mean2)
stairs = np.array(stairs)
assert np.allclose(stairs[-1], mu2, atol=1e-8)

# %% figure="staircase"
turn = np.linspace(0, 2 * np.pi, 200)
circle = np.vstack([np.cos(turn), np.sin(turn)])
figure, ax = plt.subplots()
exact = mu2[:, None] + np.linalg.cholesky(S2) @ circle
ax.plot(*exact, color=COLORS[0], label="exact posterior, one sd")
ax.plot(*(mu2[:, None] + circle / np.sqrt(np.diag(A2))[:, None]), color=COLORS[1], label="q, one sd")
ax.plot(*stairs.T, color="0.3", lw=1, marker=".", label="means, update by update")
ax.set(xlabel="$\\beta_1$", ylabel="$\\beta_2$", aspect="equal")
ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown] slide="derivations"
# # Each update is a ridge regression on one column
#
# $$s_j^2=\left(\frac{x_j^\top x_j}{\sigma^2_e}+\frac{1}{\sigma^2_\beta}\right)^{-1}$$
#
# $$m_j\leftarrow\frac{s_j^2}{\sigma^2_e}\,x_j^\top\left(y-Z\omega-\sum_{k\neq j}x_k m_k\right)$$
#
# - s²_{j} has a closed form: the two variances and the length of x_{j}
# - m_{j} sees what the other **means** leave of y, not their variances
# - s²_{j} is β_{j}'s variance given the others: at most the exact one
#
# ---
# Say: Precisions add: that of the data along one column, and that of the prior. The mean is a ridge regression of one
# column on a residual. Correlation between columns enters the means through the residual, but never the variances.
#
# Ask: Which features have the smallest s_j, and does y play a part in it?
#
# Answer: Those with the longest columns. y plays none: given the variances, s_j depends on X alone.
#
# Minutes: 3

# %% [markdown]
# ## 3. The ELBO, term by term
#
# With $q=\prod_jN(m_j,s_j^2)$ the ELBO has three terms, and all of them are finite sums.
#
# **Likelihood.** Let $\rho=y-Z\omega-Xm$ and $\delta=\beta-m$, so $\mathbb E\delta=0$ and, by independence,
# $\mathbb E\,\delta_j\delta_k=0$ for $j\ne k$, $\mathbb E\,\delta_j^2=s_j^2$:
#
# $$\mathbb E\lVert y-Z\omega-X\beta\rVert^2=\mathbb E\lVert\rho-X\delta\rVert^2
# =\lVert\rho\rVert^2-2\rho^\top X\,\mathbb E\delta+\sum_{j,k}x_j^\top x_k\,\mathbb E\,\delta_j\delta_k
# =\lVert\rho\rVert^2+\sum_jx_j^\top x_j\,s_j^2 .$$
#
# **Prior.** $\mathbb E\lVert\beta\rVert^2=\sum_j(m_j^2+s_j^2)$.
#
# **Entropy.** $-\log q_j(\beta_j)=\frac12\log2\pi s_j^2+(\beta_j-m_j)^2/(2s_j^2)$ has expectation
# $\frac12\log2\pi s_j^2+\frac12=\frac12\log2\pi e\,s_j^2$, since $\log e=1$. The entropy of a product is the sum.
#
# $$\mathbb E\log p(y\mid\beta)=
# ⟦5.2: -\tfrac n2\log2\pi\sigma^2_e-\frac{\lVert\rho\rVert^2+\sum_jx_j^\top x_j\,s_j^2}{2\sigma^2_e}⟧$$
#
# $$\mathbb E\log p(\beta)=
# ⟦5.2: -\tfrac p2\log2\pi\sigma^2_\beta-\frac{\lVert m\rVert^2+\sum_js_j^2}{2\sigma^2_\beta}⟧,\qquad
# -\mathbb E\log q(\beta)=⟦5.2: \tfrac12\sum_j\log2\pi e\,s_j^2⟧$$
#
# (`fastlmm_vi.wide.sweeps.elbo`, all three.) **Gap 5.2**: write them, every constant kept.


# %% gap="5.2"
def elbo_terms(y, Z, X, omega, sigma2_beta, sigma2_e, mean, var):
    """E log p(y | β), E log p(β) and the entropy of q = Π N(mean_j, var_j)."""
    n, p = X.shape
    sq_norms = np.sum(X**2, axis=0)
    residual = y - Z @ omega - X @ mean
    ### SOLUTION
    likelihood = -n / 2 * np.log(2 * np.pi * sigma2_e) - (residual @ residual + sq_norms @ var) / (2 * sigma2_e)
    prior = -p / 2 * np.log(2 * np.pi * sigma2_beta) - (mean @ mean + var.sum()) / (2 * sigma2_beta)
    entropy = 0.5 * np.log(2 * np.pi * np.e * var).sum()
    ### WRONG the likelihood at the mean, without the variances
    likelihood = -n / 2 * np.log(2 * np.pi * sigma2_e) - (residual @ residual) / (2 * sigma2_e)
    prior = -p / 2 * np.log(2 * np.pi * sigma2_beta) - (mean @ mean + var.sum()) / (2 * sigma2_beta)
    entropy = 0.5 * np.log(2 * np.pi * np.e * var).sum()
    ### WRONG the prior without the variances
    likelihood = -n / 2 * np.log(2 * np.pi * sigma2_e) - (residual @ residual + sq_norms @ var) / (2 * sigma2_e)
    prior = -p / 2 * np.log(2 * np.pi * sigma2_beta) - (mean @ mean) / (2 * sigma2_beta)
    entropy = 0.5 * np.log(2 * np.pi * np.e * var).sum()
    ### WRONG the entropy without the ½ per factor that E(β_j − m_j)² gives
    likelihood = -n / 2 * np.log(2 * np.pi * sigma2_e) - (residual @ residual + sq_norms @ var) / (2 * sigma2_e)
    prior = -p / 2 * np.log(2 * np.pi * sigma2_beta) - (mean @ mean + var.sum()) / (2 * sigma2_beta)
    entropy = 0.5 * np.log(2 * np.pi * var).sum()
    ### END
    return likelihood, prior, entropy


# %% [markdown]
# The check is on the problem with two features. Gauss–Hermite quadrature with three nodes per axis is exact for
# polynomials up to degree five, and $\log p$ is a quadratic; SciPy supplies densities and entropies, constants
# included.

# %% check="5.2"
mean2, var2 = np.array([0.3, -0.8]), np.array([0.2, 0.5])
nodes, weights = np.polynomial.hermite_e.hermegauss(3)
weights = weights / weights.sum()
expected = np.zeros(2)
for a, wa in zip(nodes, weights, strict=True):
    for b, wb in zip(nodes, weights, strict=True):
        beta = mean2 + np.sqrt(var2) * np.array([a, b])
        log_lik = scipy.stats.norm.logpdf(y2, Z2 @ theta2[0] + X2 @ beta, np.sqrt(theta2[2])).sum()
        log_prior = scipy.stats.norm.logpdf(beta, 0, np.sqrt(theta2[1])).sum()
        expected += wa * wb * np.array([log_lik, log_prior])
terms = elbo_terms(y2, Z2, X2, *theta2, mean2, var2)
assert np.isclose(terms[0], expected[0], rtol=1e-10), "gap 5.2: E log p(y | β) differs from its quadrature."
assert np.isclose(terms[1], expected[1], rtol=1e-10), "gap 5.2: E log p(β) differs from its quadrature."
entropy2 = sum(scipy.stats.norm.entropy(scale=np.sqrt(v)) for v in var2)
assert np.isclose(terms[2], entropy2, rtol=1e-10), "gap 5.2: the entropy differs from scipy.stats.norm.entropy."
fit = fl.WideLMM("mfvi", solver="sweep", fit_intercept=False).fit(X, y, Z)
total = sum(elbo_terms(y, Z, X, fit.omega_, fit.sigma2_beta_, fit.sigma2_e_, fit.coef_, fit.beta_var_))
assert np.isclose(total, fit.elbo_, rtol=1e-12), "gap 5.2: the sum is not the library's ELBO at its estimates."
print("gap 5.2 ✓")

# %% [markdown]
# The whole against dense densities: the ELBO must be $\ell-\mathrm{KL}(q\,\Vert\,p(\beta\mid y))$. Here
# $\log q-\log p(\beta\mid y)$ is a quadratic, and the average of a quadratic under $q$ is exactly its average over the
# $2p$ points $m\pm\sqrt p\,s_je_j$, whose mean is $m$ and whose covariance is $\operatorname{diag}(s_j^2)$. (Lesson 06 gives
# this KL in closed form.) For twenty arbitrary $q$:


# %%
def elbo(*arguments):
    """The ELBO: the sum of its three terms."""
    return sum(elbo_terms(*arguments))


def loglik(y, Z, X, omega, sigma2_beta, sigma2_e):
    """Log of N(y; Zω, σ²_β XXᵀ + σ²_e I)."""
    V = sigma2_beta * X @ X.T + sigma2_e * np.eye(len(y))
    r = y - Z @ omega
    return -0.5 * (len(y) * np.log(2 * np.pi) + slogdet(V)[1] + r @ inv(V) @ r)


A = X.T @ X / sigma2_e + np.eye(p) / sigma2_beta
mu = np.linalg.solve(A, X.T @ (y - Z @ omega) / sigma2_e)
rng = np.random.default_rng(52)
for _ in range(20):
    mean, var = rng.normal(size=p), rng.uniform(0.01, 2.0, size=p)
    steps = np.sqrt(p) * np.diag(np.sqrt(var))
    points = np.vstack([mean + steps, mean - steps])
    log_q = scipy.stats.norm.logpdf(points, mean, np.sqrt(var)).sum(axis=1)
    kl = np.mean(log_q - scipy.stats.multivariate_normal(mu, inv(A)).logpdf(points))
    assert np.isclose(elbo(y, Z, X, *theta, mean, var), loglik(y, Z, X, *theta) - kl, rtol=1e-10)
    assert elbo(y, Z, X, *theta, mean, var) <= loglik(y, Z, X, *theta)

# %% [markdown] slide="derivations"
# # The ELBO is three sums, one per expectation
#
# $$\mathbb{E}\log p(y|\beta)=-\frac{n}{2}\log 2\pi\sigma^2_e-\frac{R}{2\sigma^2_e}$$
#
# $$\mathbb{E}\log p(\beta)=-\frac{p}{2}\log 2\pi\sigma^2_\beta-\frac{\Vert m\Vert^2+\sum_j s_j^2}{2\sigma^2_\beta}$$
#
# $$-\mathbb{E}\log q(\beta)=\frac{1}{2}\sum_j\log 2\pi e\,s_j^2\qquad R=\Vert\rho\Vert^2+\sum_j x_j^\top x_j\,s_j^2$$
#
# - ρ = y − Zω − Xm; only the diagonal of X^{T}X appears, by independence
# - The M-step is EM's, with s²_{j} in place of S_{jj}: squares averaged under q
#
# ---
# Say: Each term is an expectation of a quadratic under independent normals. Keep the constants: without them the ELBO
# can still be maximised, but it can no longer be compared with the log-likelihood.
#
# Ask: Which of the three terms keeps the variances of q from shrinking to zero?
#
# Answer: The entropy. The other two rise as s_j falls, but log s_j goes to minus infinity.
#
# Minutes: 3

# %% [markdown]
# ## 4. The updates are the coordinate maxima of the ELBO
#
# Differentiate the three terms. Since $\partial\rho/\partial m_j=-x_j$,
#
# $$\frac{\partial\,\text{ELBO}}{\partial m_j}=\frac{x_j^\top\rho}{\sigma^2_e}-\frac{m_j}{\sigma^2_\beta},\qquad
# \frac{\partial\,\text{ELBO}}{\partial s_j^2}
# =-\tfrac12\left(\frac{x_j^\top x_j}{\sigma^2_e}+\frac1{\sigma^2_\beta}\right)+\frac1{2s_j^2}.$$
#
# The second is zero at the $s_j^2$ of section 2. For the first write $\rho=\mathbb E_{-j}u_j-x_jm_j$: it is zero
# where $m_j\left(x_j^\top x_j/\sigma^2_e+1/\sigma^2_\beta\right)=x_j^\top\,\mathbb E_{-j}u_j/\sigma^2_e$, the $m_j$
# of section 2. The second derivatives are $-A_{jj}$ in $m_j$ and $-1/(2s_j^4)$ in $s_j^2$, both negative: maxima.
#
# More holds. Up to a constant, the ELBO at given θ is
# $-\frac12m^\top Am+b^\top m+\frac12\sum_j\left[\log s_j^2-A_{jj}s_j^2\right]$: strictly concave in all $m_j$ and
# $s_j^2$ together, since $A$ is positive definite. **At given θ there is one maximum and no other stationary point.**

# %%
for j in range(p):
    mean, var = rng.normal(size=p), rng.uniform(0.1, 1.0, size=p)
    mean[j], var[j] = coordinate(j, y, Z, X, *theta, mean)
    unit, h = np.eye(p)[j], 1e-3
    along_mean = [elbo(y, Z, X, *theta, mean + t * unit, var) for t in (-h, 0, h)]
    along_var = [elbo(y, Z, X, *theta, mean, var * (1 + t * unit)) for t in (-h, 0, h)]
    for low, middle, high in (along_mean, along_var):
        assert abs(high - low) / (2 * h) < 1e-5  # no slope
        assert middle > max(low, high)  # and higher than both sides
    curvature = (along_mean[0] - 2 * along_mean[1] + along_mean[2]) / h**2
    assert np.isclose(curvature, -1 / var[j], rtol=1e-4)  # the ELBO is a parabola in m_j with curvature −1/s²_j

# %% [markdown]
# ## 5. The residual trick: a sweep for O(np)
#
# Computing $y-Z\omega-\sum_{k\ne j}x_km_k$ afresh costs O(np) for every $j$, hence O(np²) for all $p$ updates. But
# the current residual $\rho=y-Z\omega-Xm$ already contains the sum: $y-Z\omega-\sum_{k\ne j}x_km_k=\rho+x_jm_j$.
# Moreover
#
# $$\frac{s_j^2}{\sigma^2_e}=\frac{1}{x_j^\top x_j+\sigma^2_e/\sigma^2_\beta}=\frac{\gamma}{1+\gamma\,x_j^\top x_j},$$
#
# so a sweep needs γ only, not both variances. One update is an inner product with one column, and when $m_j$ moves by
# $\Delta_j=m_j^{\text{new}}-m_j$, the residual follows with one multiple of that column:
#
# $$m_j^{\text{new}}=⟦5.3: \frac{\gamma}{1+\gamma\,x_j^\top x_j}\left(x_j^\top\rho+x_j^\top x_j\,m_j\right)⟧,\qquad
# \rho\leftarrow⟦5.3: \rho-x_j\,\Delta_j⟧ .$$
#
# The $x_j^\top x_j$ are computed once. An update costs about $4n$ operations, a sweep $4np$: X is read once, and
# neither $X^\top X$ ($p^2$ numbers) nor $XX^\top$ is needed. (`fastlmm_vi_kernels.sweep.sweep`.) **Gap 5.3**: write
# the inside of the loop.


# %% gap="5.3"
def sweep_numpy(X, sq_norms, gamma, mean, residual):
    """Update every m_j once, in order; overwrite mean and residual. Returns σ_e times the largest |Δ_j| / s_j."""
    largest = 0.0
    for j in range(X.shape[1]):
        x = X[:, j]
        shrink = gamma / (1 + gamma * sq_norms[j])  # s²_j / σ²_e
        ### SOLUTION
        delta = shrink * (x @ residual + sq_norms[j] * mean[j]) - mean[j]
        mean[j] += delta
        residual -= delta * x
        ### WRONG the residual is not updated
        delta = shrink * (x @ residual + sq_norms[j] * mean[j]) - mean[j]
        mean[j] += delta
        ### WRONG the part of feature j itself is not put back
        delta = shrink * (x @ residual) - mean[j]
        mean[j] += delta
        residual -= delta * x
        ### WRONG the residual moves the wrong way
        delta = shrink * (x @ residual + sq_norms[j] * mean[j]) - mean[j]
        mean[j] += delta
        residual += delta * x
        ### END
        largest = max(largest, abs(delta) / np.sqrt(shrink))
    return largest


# %% check="5.3"
start = np.random.default_rng(53).normal(size=p)
mean, slow, residual = start.copy(), start.copy(), y - Z @ omega - X @ start
for j in range(p):
    slow[j] = coordinate(j, y, Z, X, *theta, slow)[0]
largest = sweep_numpy(X, sq_norms, sigma2_beta / sigma2_e, mean, residual)
assert np.allclose(residual, y - Z @ omega - X @ mean), (
    "gap 5.3: after the sweep `residual` is not y − Zω − X mean. Overwrite it in place (`residual -= …`)."
)
assert np.allclose(mean, slow), "gap 5.3: the means differ from p updates of gap 5.1, each with its sum afresh."
sd = np.sqrt([coordinate(j, y, Z, X, *theta, mean)[1] for j in range(p)])
moves = np.sqrt(sigma2_e) * np.abs(mean - start) / sd
assert np.isclose(largest, moves.max()), "gap 5.3: `delta` must be the change of m_j; sweep_numpy returns its largest."
print("gap 5.3 ✓")

# %% [markdown] slide="algorithms"
# # One kept residual makes a sweep cost O(np)
#
# The sum over all other features is never computed: ρ = y − Zω − Xm holds it.
#
# ```
# for j in range(p):
#     x = X[:, j]
#     shrink = gamma / (1 + gamma * xx[j])
#     fit = x @ rho + xx[j] * m[j]
#     delta = shrink * fit - m[j]
#     m[j] += delta
#     rho -= delta * x
# ```
#
# - Afresh for every j: O(np²) per sweep; with ρ kept: O(np)
# - No X^{T}X, no XX^{T}, no inverse: X is read once, column by column
# - Compiled, it is about as fast as memory delivers X
#
# ---
# Say: Add back the feature's own part, shrink, and subtract the change from the residual. Two passes over one column
# are all an update needs. The matrix should be stored by columns, so that a column is contiguous in memory.
#
# Ask: Rounding errors pile up in the residual over many sweeps. How would you notice, and what would you do?
#
# Answer: Compare it with y − Zω − Xm computed afresh; if they differ, replace it. One product with X, once in a
# while.
#
# Minutes: 3

# %% [markdown]
# ### A sweep is Gauss–Seidel, and its fixed point is the exact mean
#
# Multiply the update by $(1+\gamma x_j^\top x_j)/\gamma$ and insert $\rho=y-Z\omega-\sum_kx_km_k$, the $k<j$ new and
# the $k\ge j$ old:
#
# $$\Big(x_j^\top x_j+\frac1\gamma\Big)m_j^{\text{new}}+\sum_{k<j}x_j^\top x_k\,m_k^{\text{new}}
# +\sum_{k>j}x_j^\top x_k\,m_k^{\text{old}}=x_j^\top(y-Z\omega).$$
#
# With $X^\top X+I/\gamma=L+U$ ($L$ the lower triangle with the diagonal, $U$ the strict upper triangle) this is
# $L\,m^{\text{new}}=X^\top(y-Z\omega)-U\,m^{\text{old}}$: one step of Gauss–Seidel on
#
# $$(X^\top X+I/\gamma)\,m=X^\top(y-Z\omega).$$
#
# A fixed point solves this system. Divided by $\sigma^2_e$ it is $Am=b$, whose only solution is the exact posterior
# mean μ. **At given θ mean field has the exact mean; only its variances differ.**
#
# **Convergence from any start.** An update of $m_j$ raises the ELBO, or changes nothing where
# $\partial\,\text{ELBO}/\partial m_j=0$. The means stay bounded, because the ELBO tends to −∞ as
# $\lVert m\rVert\to\infty$; so some subsequence of the sweeps' results converges, to $m^\star$ say. The ELBO's values
# rise to a limit $f^\star$, and a sweep is a continuous map: a further sweep from $m^\star$ has the value $f^\star$
# again. A sweep that gains nothing moves no coordinate, so $m^\star$ is a fixed point, hence $m^\star=\mu$. Every
# convergent subsequence has this same limit: the whole sequence converges.
#
# **Rate.** The error obeys $m^{\text{new}}-\mu=-L^{-1}U(m^{\text{old}}-\mu)$. In the long run it falls on average by the
# largest absolute eigenvalue of $L^{-1}U$ per sweep (complex eigenvalues make single ratios oscillate). In the picture the columns correlate more and more, and the rate
# approaches one.


# %%
def errors_by_sweep(correlation, sweeps, gamma=1.0):
    """Distance of the means from the exact mean after each sweep, and the rate that Gauss–Seidel predicts."""
    y, Z, X = problem(n=100, p=60, c=1, correlation=correlation)
    B, r = X.T @ X + np.eye(60) / gamma, y - Z @ np.linalg.lstsq(Z, y)[0]
    mu, sq_norms = np.linalg.solve(B, X.T @ r), np.sum(X**2, axis=0)
    mean, residual, errors = np.zeros(60), r.copy(), [np.linalg.norm(mu)]
    for _ in range(sweeps):
        gauss_seidel = scipy.linalg.solve_triangular(np.tril(B), X.T @ r - np.triu(B, 1) @ mean, lower=True)
        sweep_numpy(X, sq_norms, gamma, mean, residual)
        assert np.allclose(mean, gauss_seidel)
        errors.append(np.linalg.norm(mean - mu))
    rate = np.abs(np.linalg.eigvals(np.linalg.solve(np.tril(B), np.triu(B, 1)))).max()
    return np.array(errors), rate


by_correlation = {correlation: errors_by_sweep(correlation, 60) for correlation in (0.0, 0.2, 0.4)}
for errors, rate in by_correlation.values():
    late = errors[(errors > 1e-11) & (np.arange(61) > 10)]
    assert abs((late[-1] / late[0]) ** (1 / (len(late) - 1)) - rate) < 0.05
rates = [rate for _, rate in by_correlation.values()]
assert rates[0] < rates[1] < rates[2] < 1

# %% figure="gauss_seidel"
figure, ax = plt.subplots()
for color, (correlation, (errors, rate)) in zip(COLORS, by_correlation.items(), strict=False):
    keep = errors > 1e-10 * errors[0]
    ax.semilogy(np.flatnonzero(keep), errors[keep], color=color, label=f"correlation {correlation}: rate {rate:.2f}")
ax.set(xlabel="sweep", ylabel="distance from the exact mean")
ax.legend(frameon=False, fontsize="small")
plt.show()

# %% [markdown]
# ### The same sweep, compiled
#
# The loop above spends most of its time calling NumPy. The library compiles it with Numba
# (`fastlmm_vi_kernels.sweep.sweep`):
#
# ```python
# @kernel
# def sweep(X, sq_norms, gamma, mean, residual):
#     ...
#     largest = delta = 0.0
#     for j in range(p):
#         correlation = advance(x, max(j - 1, 0) * n, j * n, n, delta, r)         # 1, 2
#         shrink = gamma / (1.0 + gamma * sq_norms[j])                            # 3
#         delta = shrink * (correlation + sq_norms[j] * mean[j]) - mean[j]        # 4
#         mean[j] += delta
#         largest = max(largest, abs(delta) / math.sqrt(shrink))                  # 5
#     advance(x, (p - 1) * n, (p - 1) * n, n, delta, r)                           # 6
#     ...
#     return largest
# ```
#
# 1. `x` is X as one row of numbers: in Fortran order column $j$ begins at $jn$, and no column is copied.
# 2. `advance` first subtracts $\Delta_{j-1}x_{j-1}$ from the residual and, in the same loop, adds up $x_j^\top\rho$. A number of
#    the residual that has just been updated is used at once. At $j=0$ there is nothing to subtract: $\Delta=0$.
# 3. $s_j^2/\sigma^2_e=\gamma/(1+\gamma x_j^\top x_j)$: nothing is divided by $\sigma^2_\beta$, which may be tiny.
# 4. The update of section 5, as a change.
# 5. $|\Delta_j|/\sqrt{s_j^2/\sigma^2_e}=\sigma_e|\Delta_j|/s_j$. The caller divides the largest by $\sigma_e$ and has
#    the largest change of any mean in units of its own standard deviation under $q$: the stopping rule of section 7.
# 6. The last column's change reaches the residual.
#
# The processor is far faster than memory, so the best a sweep can do is to read X once at the speed of memory. Inside,
# `advance` therefore works on vectors of several numbers and asks for X some 8 kB before it is needed:
#
# ```python
#     for i in range(0, whole, 2 * width):
#         prefetch(x, new + i + LINES_AHEAD * 2 * width)
#         r = fma(minus_delta, load(x, old + i, x), load(residual, i, x))    # ρ_i … −= Δ x_old
#         store(residual, i, r)
#         even = fma(r, load(x, new + i, x), even)                           # x_newᵀρ
#         ...                                                                # the same for the next vector
# ```

# %%
start = np.random.default_rng(54).normal(size=p)
twice = []
for one_sweep in (sweep_numpy, sweep.sweep):
    mean, residual = start.copy(), y - Z @ omega - X @ start
    twice.append((one_sweep(X, sq_norms, 3.0, mean, residual), mean, residual))
for by_numpy, by_numba in zip(*twice, strict=True):
    assert np.allclose(by_numpy, by_numba, rtol=1e-12, atol=1e-12)

# %% timing=true
y4, Z4, X4 = problem(n=300, p=500, c=2)
norms4 = np.sum(X4**2, axis=0)


def seconds(run, laps=3):
    """Shortest of a few runs."""
    taken = []
    for _ in range(laps):
        begin = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begin)
    return min(taken)


def afresh():
    """One sweep that computes the sum over all other features for every j."""
    mean = np.zeros(500)
    for j in range(500):
        mean[j] = coordinate(j, y4, Z4, X4, np.zeros(2), 1.5, 0.5, mean)[0]


print(f"one sweep, n = 300, p = 500: every sum afresh {seconds(afresh, laps=1):.6f} s")
print(f"residual kept, NumPy {seconds(lambda: sweep_numpy(X4, norms4, 3.0, np.zeros(500), y4.copy())):.6f} s")
print(f"residual kept, Numba {seconds(lambda: sweep.sweep(X4, norms4, 3.0, np.zeros(500), y4.copy())):.6f} s")

# %% [markdown]
# ### Why the library starts from zero means
#
# At given θ every start ends at μ, so the start decides only how many sweeps it takes. By section 4, with $s_j^2$ fixed, a start $m_0$
# is $\frac12(m_0-\mu)^\top A(m_0-\mu)$ below the maximum. For $m_0=0$ this is $\frac12\mu^\top A\mu$. For a random
# start from the prior, $m_0\sim N(0,\sigma^2_\beta I)$, the expectation is
#
# $$\tfrac12\mu^\top A\mu+\tfrac12\sigma^2_\beta\operatorname{tr}A
# =\tfrac12\mu^\top A\mu+\tfrac12\sum_j(1+\gamma x_j^\top x_j),$$
#
# **worse by more than** $p/2$ **nats**. Zero is the prior mean, its residual $y-Z\omega$ costs no product with X, and
# two runs give the same result.
#
# The cell below tries thirty random starts: all end at the same means, and on average they need no fewer sweeps than
# zero.


# %%
def sweeps_needed(start, gamma=3.0):
    """Number of sweeps until no mean moves by more than 1e-8 of its sd, and the means."""
    mean, residual, count = start.copy(), y - Z @ omega - X @ start, 1
    while sweep.sweep(X, sq_norms, gamma, mean, residual) / np.sqrt(sigma2_e) > 1e-8:
        count += 1
    return count, mean


rng = np.random.default_rng(55)
from_zero = sweeps_needed(np.zeros(p))
random_starts = np.sqrt(sigma2_beta) * rng.normal(size=(30, p))
from_random = [sweeps_needed(start) for start in random_starts]
assert all(np.allclose(mean, mu, atol=1e-6) for _, mean in (from_zero, *from_random))
assert from_zero[0] <= np.mean([count for count, _ in from_random])
var = 1 / np.diag(A)
losses = [elbo(y, Z, X, *theta, np.zeros(p), var) - elbo(y, Z, X, *theta, start, var) for start in random_starts]
expected_loss = 0.5 * (p + sigma2_beta / sigma2_e * sq_norms.sum())
assert abs(np.mean(losses) - expected_loss) < 4 * np.std(losses) / np.sqrt(30)

# %% [markdown]
# ## 6. The M-step
#
# Given $q$, maximise the ELBO over θ. Which of the three terms contain ω, which $\sigma^2_\beta$, which $\sigma^2_e$? ω
# enters through $\lVert\rho\rVert^2=\lVert(y-Xm)-Z\omega\rVert^2$ only, whatever the variances are. In either variance
# the ELBO has the form $-\frac k2\log\sigma^2-\frac{B}{2\sigma^2}$ with derivative $\frac1{2\sigma^4}(B-k\,\sigma^2)$:
# positive below one point and negative above, so that point is the only maximum. Read $k$ and $B$ off section 3 for each
# variance; $\sigma^2_e$ takes the new ω:
#
# $$\omega\leftarrow⟦5.4: (Z^\top Z)^{-1}Z^\top(y-Xm)⟧,\quad
# \sigma^2_\beta\leftarrow⟦5.4: \frac{\lVert m\rVert^2+\sum_js_j^2}{p}⟧,\quad
# \sigma^2_e\leftarrow⟦5.4: \frac{\lVert y-Z\omega-Xm\rVert^2+\sum_jx_j^\top x_j\,s_j^2}{n}⟧.$$
#
# It is EM's M-step with $\operatorname{diag}(s_j^2)$ for $S$. (`fastlmm_vi.wide.sweeps.ascend` with
# `accelerate=False`.) **Gap 5.4**: write it.


# %% gap="5.4"
def m_step(y, Z, X, mean, var):
    """The θ = (ω, σ²_β, σ²_e) that maximises the ELBO, given q = Π N(mean_j, var_j)."""
    n, p = X.shape
    sq_norms = np.sum(X**2, axis=0)
    ### SOLUTION
    omega = np.linalg.solve(Z.T @ Z, Z.T @ (y - X @ mean))
    residual = y - Z @ omega - X @ mean
    sigma2_beta = (mean @ mean + var.sum()) / p
    sigma2_e = (residual @ residual + sq_norms @ var) / n
    ### WRONG the variances of q are forgotten
    omega = np.linalg.solve(Z.T @ Z, Z.T @ (y - X @ mean))
    residual = y - Z @ omega - X @ mean
    sigma2_beta = mean @ mean / p
    sigma2_e = residual @ residual / n
    ### WRONG in σ²_e the variances are not weighted by the squared norms of the columns
    omega = np.linalg.solve(Z.T @ Z, Z.T @ (y - X @ mean))
    residual = y - Z @ omega - X @ mean
    sigma2_beta = (mean @ mean + var.sum()) / p
    sigma2_e = (residual @ residual + var.sum()) / n
    ### WRONG ω is fitted to y, not to y − X mean
    omega = np.linalg.solve(Z.T @ Z, Z.T @ y)
    residual = y - Z @ omega - X @ mean
    sigma2_beta = (mean @ mean + var.sum()) / p
    sigma2_e = (residual @ residual + sq_norms @ var) / n
    ### END
    return omega, sigma2_beta, sigma2_e


# %% check="5.4"
mean, var = mu, 1 / np.diag(A)
new_omega, *new_variances = m_step(y, Z, X, mean, var)
value = lambda t: elbo(y, Z, X, t[:c], *np.exp(t[c:]), mean, var)
at = np.r_[new_omega, np.log(new_variances)]
for k, name in enumerate([*(f"ω_{j}" for j in range(c)), "log σ²_β", "log σ²_e"]):
    h = 1e-4 * np.eye(c + 2)[k]
    slope = (value(at + h) - value(at - h)) / 2e-4
    assert abs(slope) < 1e-4, f"gap 5.4: the ELBO still has slope {slope:.3g} in {name} at your θ."
print("gap 5.4 ✓")

# %% [markdown]
# ### The whole algorithm, and every single update of it
#
# One iteration: a sweep, the variances $s_j^2$ at the current θ, the M-step. Start: zero means, ω by least squares,
# $\sigma^2_\beta=\sigma^2_e=\operatorname{var}(y)/2$. This is `WideLMM("mfvi", solver="sweep", accelerate=False)`,
# number for number.


# %%
def variational_em(y, Z, X, iterations):
    """Plain mean-field variational EM: ELBO, σ²_β and σ²_e at every iterate."""
    sq_norms, mean = np.sum(X**2, axis=0), np.zeros(X.shape[1])
    omega, sigma2_beta, sigma2_e = np.linalg.lstsq(Z, y)[0], y.var() / 2, y.var() / 2
    var = 1 / (sq_norms / sigma2_e + 1 / sigma2_beta)
    path = [(elbo(y, Z, X, omega, sigma2_beta, sigma2_e, mean, var), sigma2_beta, sigma2_e)]
    for _ in range(iterations):
        residual = y - Z @ omega - X @ mean
        sweep_numpy(X, sq_norms, sigma2_beta / sigma2_e, mean, residual)
        var = 1 / (sq_norms / sigma2_e + 1 / sigma2_beta)
        omega, sigma2_beta, sigma2_e = m_step(y, Z, X, mean, var)
        path.append((elbo(y, Z, X, omega, sigma2_beta, sigma2_e, mean, var), sigma2_beta, sigma2_e))
    return np.array(path)


plain = fl.WideLMM("mfvi", solver="sweep", accelerate=False, fit_intercept=False).fit(X, y, Z)
ours = variational_em(y, Z, X, 100)
theirs = plain.trace_[["elbo", "sigma2_beta", "sigma2_e"]].to_numpy()[:101]
assert np.allclose(ours, theirs, rtol=1e-10)
assert (np.diff(ours[:, 0]) >= -1e-10).all()

# %% [markdown]
# Each update is a coordinate maximum, so the ELBO may not fall at **any** of them, not only from one iteration to the
# next. Here it is evaluated after every $q_j$, after ω and after each variance.

# %%
mean, current = np.zeros(p), [np.linalg.lstsq(Z, y)[0], y.var() / 2, y.var() / 2]
var = 1 / (sq_norms / current[2] + 1 / current[1])
climbed, m_steps = [elbo(y, Z, X, *current, mean, var)], []
for _ in range(4):
    for j in range(p):
        mean[j], var[j] = coordinate(j, y, Z, X, *current, mean)
        climbed.append(elbo(y, Z, X, *current, mean, var))
    best_theta = m_step(y, Z, X, mean, var)
    for k in range(3):
        current[k] = best_theta[k]
        m_steps.append(len(climbed))
        climbed.append(elbo(y, Z, X, *current, mean, var))
        assert climbed[-1] <= loglik(y, Z, X, *current)
climbed = np.array(climbed)
assert (np.diff(climbed) >= -1e-10).all(), "the ELBO fell"

# %% figure="every_update"
figure, ax = plt.subplots()
ax.plot(climbed, color=COLORS[0], label="ELBO after every single update")
ax.scatter(m_steps, climbed[m_steps], color=COLORS[1], s=18, zorder=3, label="updates of $\\omega$ and variances")
ax.set(xlabel="updates so far", ylabel="ELBO")
ax.legend(frameon=False, loc="lower right")
plt.show()

# %% [markdown]
# ## 7. When to stop
#
# A small step alone proves nothing: a slow method takes small steps far from its goal. The library asks for a small
# **gradient**, in units that do not depend on those of $y$ and $X$.
#
# *Means.* In $m_j$ the ELBO is a parabola with curvature $-1/s_j^2$ and its top at $m_j+\Delta_j$, so its slope at
# $m_j$ is $\Delta_j/s_j^2$. Per standard deviation of $q_j$ the slope is $s_j\cdot\Delta_j/s_j^2=\Delta_j/s_j$: for
# an exact coordinate step, the change in units of $s_j$ **is** the gradient.
#
# *Variances.* With $B$ of section 6, and likewise in $\log\sigma^2_e$ with $n$,
#
# $$\frac{\partial\,\text{ELBO}}{\partial\log\sigma^2_\beta}
# =\sigma^2_\beta\cdot\frac{B-p\,\sigma^2_\beta}{2\sigma^4_\beta}
# =\frac p2\left(\frac{\sigma^{2\,\text{new}}_\beta}{\sigma^2_\beta}-1\right).$$
#
# Iteration stops when all three, the largest $|\Delta_j|/s_j$ and both slopes, are at most `tol`, $10^{-6}$ by
# default (`fastlmm_vi.wide.sweeps.ascend`). Rescaling $y$ must not change the number of iterations:

# %%
scaled = fl.WideLMM("mfvi", solver="sweep", accelerate=False, fit_intercept=False).fit(X, 1024 * y, Z)
assert scaled.n_iter_ == plain.n_iter_
assert np.isclose(scaled.sigma2_beta_, 1024**2 * plain.sigma2_beta_, rtol=1e-10)

mean, h = np.random.default_rng(57).normal(size=p), 1e-4
new_mean, s2 = coordinate(9, y, Z, X, *theta, mean)
value = lambda t: elbo(y, Z, X, *theta, mean + t * np.sqrt(s2) * np.eye(p)[9], var)
assert np.isclose((value(h) - value(-h)) / (2 * h), (new_mean - mean[9]) / np.sqrt(s2), rtol=1e-6)

_, new_sigma2_beta, new_sigma2_e = m_step(y, Z, X, mean, var)
value = lambda t: elbo(y, Z, X, omega, sigma2_beta * np.exp(t), sigma2_e, mean, var)
assert np.isclose((value(h) - value(-h)) / (2 * h), p / 2 * (new_sigma2_beta / sigma2_beta - 1), rtol=1e-6)

# %% [markdown]
# ## 8. Why plain variational EM is slow
#
# The formula of section 7, read backwards, says what an M-step is:
#
# $$\sigma^{2\,\text{new}}_\beta
# =\sigma^2_\beta\left(1+\tfrac2p\,\frac{\partial\,\text{ELBO}}{\partial\log\sigma^2_\beta}\right),
# \qquad\text{so}\qquad
# \log\sigma^2_\beta\;\text{ moves by about }\;\tfrac2p\,\frac{\partial\,\text{ELBO}}{\partial\log\sigma^2_\beta}$$
#
# near the optimum, where the slope is small. **Near its end plain variational EM is gradient ascent with the fixed step
# lengths $2/p$ in $\log\sigma^2_\beta$ and $2/n$ in $\log\sigma^2_e$.** Let $f(t)$, $t=(\log\sigma^2_\beta,\log\sigma^2_e)$,
# be the ELBO with $q$ and ω at their optimum. By the envelope theorem its gradient is the partial derivative at that
# $q$ and ω. Near the maximum $t^\star$ it is $H(t-t^\star)$, with the negative definite Hessian $H$, so
#
# $$t^{\text{new}}-t^\star\approx(I+DH)(t-t^\star),\qquad D=\operatorname{diag}(2/p,\,2/n).$$
#
# Let λ be the eigenvalue of $I+DH$ closest to one. Every iteration leaves the share λ of the error: six further
# digits cost about $\log(10^6)/(1-\lambda)$ iterations. $H$ says how sharply $n$ observations determine the
# variances; $D$ divides by $p/2$. With many features, each hardly informed by the data, $1-\lambda$ is tiny. In terms
# of the update: $s_j^2=\sigma^2_\beta/(1+\gamma x_j^\top x_j)$, so where $\gamma x_j^\top x_j$ is small the new
# $\sigma^2_\beta$ is the old one, almost entirely copied.
#
# ### The same with all means at their optimum: the kernel of EM
#
# Where a spectrum exists, a full E-step costs no sweep: $m=\mu$ (section 5) and $s_j^2=\sigma^2_\beta/(1+\gamma x_j^\top x_j)$.
# The M-step needs two sums over $s_j^2$. With $f=\sum_j\frac{\gamma x_j^\top x_j}{1+\gamma x_j^\top x_j}$ and
# $\frac1{1+g}=1-\frac g{1+g}$,
#
# $$\sum_js_j^2=\sigma^2_\beta\,(p-f),\qquad\sum_jx_j^\top x_j\,s_j^2=\sigma^2_e\,f .$$
#
# These are EM's $\operatorname{tr}S$ and $\operatorname{tr}(XSX^\top)$ (lesson 03) with $x_j^\top x_j$ in place of $d_i$. The
# ELBO is, likewise, EM's $\ell$ with $\sum_j\log(1+\gamma x_j^\top x_j)$ (section 9, step 1). So the loop of lesson 03
# serves: `fastlmm_vi_kernels.spectral.em` with `h` the diagonal of $X^\top X$. In the library this is
# `solver="collapsed", accelerate=False`.


# %%
def full_e_step(y, Z, X, iterations):
    """Variational EM with all means at their optimum in every iteration, densely: ELBO, σ²_β and σ²_e."""
    norms, omega = np.sum(X**2, axis=0), np.linalg.lstsq(Z, y)[0]
    sigma2_beta = sigma2_e = y.var() / 2
    path = []
    for _ in range(iterations + 1):
        A = X.T @ X / sigma2_e + np.eye(X.shape[1]) / sigma2_beta
        mean, var = np.linalg.solve(A, X.T @ (y - Z @ omega) / sigma2_e), 1 / np.diag(A)
        path.append((elbo(y, Z, X, omega, sigma2_beta, sigma2_e, mean, var), sigma2_beta, sigma2_e))
        fill = np.sum(sigma2_beta * norms / (sigma2_e + sigma2_beta * norms))
        assert np.isclose(var.sum(), sigma2_beta * (X.shape[1] - fill))
        assert np.isclose(norms @ var, sigma2_e * fill)
        omega, sigma2_beta, sigma2_e = m_step(y, Z, X, mean, var)
    return np.array(path)


d, U = np.linalg.eigh(X @ X.T)
Q = np.linalg.qr(Z)[0]
rotated = np.maximum(d, 0.0), U.T @ (y - Q @ (Q.T @ y)), U.T @ Q, n, p
by_kernel = spectral.em(y.var() / 2, y.var() / 2, np.zeros(Q.shape[1]), 50, 0.0, *rotated, sq_norms)[0]
assert np.allclose(by_kernel, full_e_step(y, Z, X, 50), rtol=1e-8)

# %% [markdown]
# The prediction of the rate on the small problem, against the library's iterates (as just described; the formula
# neglects that ω also moves by steps, which matters little):


# %%
def profile_elbo(t):
    """ELBO at t = (log σ²_β, log σ²_e) with q and ω at their optimum (derived at the end of section 9)."""
    sigma2_beta, sigma2_e = np.exp(t)
    gamma = sigma2_beta / sigma2_e
    W = inv(np.eye(n) + gamma * X @ X.T)
    r = y - Z @ np.linalg.solve(Z.T @ W @ Z, Z.T @ W @ y)
    return -0.5 * (n * np.log(2 * np.pi * sigma2_e) + r @ W @ r / sigma2_e + np.log(1 + gamma * sq_norms).sum())


top = np.log([fit.sigma2_beta_, fit.sigma2_e_])
assert np.isclose(profile_elbo(top), fit.elbo_, rtol=1e-10)
e = 1e-3 * np.eye(2)
second = lambda a, b: profile_elbo(top + a + b) - profile_elbo(top + a - b) - profile_elbo(top - a + b)
H = np.array([[(second(a, b) + profile_elbo(top - a - b)) / 4e-6 for a in e] for b in e])
predicted = np.linalg.eigvals(np.eye(2) + np.diag([2 / p, 2 / n]) @ H).max()
full = fl.WideLMM("mfvi", solver="collapsed", accelerate=False, fit_intercept=False).fit(X, y, Z)
steps = np.diff(np.log(full.trace_["sigma2_beta"].to_numpy()))
observed = steps[151] / steps[150]
assert abs(observed - predicted) < 1e-3
assert 0.9 < observed < 1

# %% [markdown]
# ## 9. Accelerated sweeps
#
# Such steps throw away what earlier sweeps found. The library keeps the means after the last four sweeps and,
# after each sweep, maximises the ELBO **jointly** over $\sigma^2_\beta$, $\sigma^2_e$, ω and all means in their span.
# This costs no read of X: after a sweep the residual tells what $Xm$ is. (The cell below multiplies by X all the
# same, to stay short.)
#
# **Step 1: take out $s_j^2$.** At its optimum $s_j^2=\sigma^2_\beta/(1+\gamma x_j^\top x_j)$ and
# $s_j^2\,(x_j^\top x_j/\sigma^2_e+1/\sigma^2_\beta)=1$. In the ELBO the terms with $s_j^2$ give
# $-\frac12\sum_js_j^2(x_j^\top x_j/\sigma^2_e+1/\sigma^2_\beta)=-\frac p2$, the entropy
# $\frac12\sum_j\log2\pi e\,s_j^2=\frac p2\log2\pi\sigma^2_\beta+\frac p2-\frac12\sum_j\log(1+\gamma x_j^\top x_j)$,
# and the prior $-\frac p2\log2\pi\sigma^2_\beta$. What remains is
#
# $$-\tfrac n2\log2\pi\sigma^2_e-\frac{\lVert y-Z\omega-Xm\rVert^2+\lVert m\rVert^2/\gamma}{2\sigma^2_e}
# -\tfrac12\sum_j\log(1+\gamma x_j^\top x_j).$$
#
# **Step 2: take out ω.** With $M=I-Z(Z^\top Z)^{-1}Z^\top$ the minimum over ω of $\lVert y-Xm-Z\omega\rVert^2$ is
# $\lVert M(y-Xm)\rVert^2$.
#
# **Step 3: confine the means.** Let the columns of $B$ ($p\times k$) be an orthonormal basis of the span, and
# $m=B\alpha$, so $\lVert m\rVert=\lVert\alpha\rVert$. Diagonalise the $k\times k$ matrix
# $(MXB)^\top(MXB)=T\operatorname{diag}(d_1,\dots,d_k)T^\top$; the $d_i$ are the *Ritz values* of $X^\top MX$ on the
# span, its best approximate eigenvalues there. With $\alpha=T\tau$ ($T$ is orthogonal, so
# $\lVert m\rVert=\lVert\tau\rVert$) and $h=T^\top(MXB)^\top My$,
#
# $$\lVert M(y-Xm)\rVert^2+\tfrac1\gamma\lVert m\rVert^2
# =\lVert My\rVert^2+\sum_{i=1}^k\left[\left(d_i+\tfrac1\gamma\right)\tau_i^2-2h_i\tau_i\right].$$
#
# Each bracket is a parabola in its own $\tau_i$, with minimum at $\tau_i=\gamma h_i/(1+\gamma d_i)$. The value there
# is $F(\gamma)=\lVert My\rVert^2-\sum_i\gamma h_i^2/(1+\gamma d_i)$.
#
# **Step 4: take out $\sigma^2_e$.** $-\frac n2\log\sigma^2_e-F/(2\sigma^2_e)$ is largest at $\sigma^2_e=F/n$ (as in
# section 6). A function of γ alone is left,
#
# $$-\tfrac n2\left(\log\frac{2\pi F(\gamma)}n+1\right)-\tfrac12\sum_j\log(1+\gamma x_j^\top x_j),$$
#
# maximised over γ within a factor of four of the current one. The current means lie in the span and the current γ
# within that range, so **the ELBO cannot fall**. The slopes in $\log\sigma^2_\beta$ and $\log\sigma^2_e$ are zero
# after the step (unless γ is at an end of its range), so that of the stopping rule only the change of the means
# remains.
#
# Since $\frac{h_i^2}{d_i}-\frac{\gamma h_i^2}{1+\gamma d_i}=\frac{h_i^2/d_i}{1+\gamma d_i}$, $F$ can be written as
# $\sum_i\frac{h_i^2/d_i}{1+\gamma d_i}$ plus what is left of $\lVert My\rVert^2$: a likelihood whose eigenvalues are
# the Ritz values. The compiled profile likelihood, `fastlmm_vi_kernels.spectral.profile`, therefore serves here too.
# The whole is `fastlmm_vi.wide.sweeps.ascend` with `accelerate=True`. Where γ keeps falling, it also tries
# $\gamma=0$, where the ELBO is the log-likelihood of least squares.
#
# **Were the span all of** $\mathbb R^p$ and γ free, one step would end at the optimum. For any $r=y-Z\omega$ the
# minimum of $\lVert r-Xm\rVert^2+\lVert m\rVert^2/\gamma$ over all $m$ is at $m=\gamma X^\top Wr$ with
# $W=(I+\gamma XX^\top)^{-1}$ (the exact mean); there $r-Xm=Wr$, and the minimum is
# $r^\top W^2r+\gamma\,r^\top WXX^\top Wr=r^\top W(I+\gamma XX^\top)Wr=r^\top Wr$. This is the `profile_elbo` of
# section 8, which lesson 06 maximises directly. The span of the last few sweeps proves enough in practice.


# %%
def subspace_step(means, gamma, y, Z, X):
    """The maximum of the ELBO over γ' in [γ/4, 4γ], σ²_e, ω and all means in the span of `means`."""
    n, My = len(y), y - Z @ np.linalg.lstsq(Z, y)[0]
    B = np.linalg.qr(np.transpose(means))[0]
    G = X @ B
    G -= Z @ np.linalg.lstsq(Z, G)[0]
    d, T = np.linalg.eigh(G.T @ G)
    h = T.T @ G.T @ My
    F = lambda gamma: My @ My - np.sum(gamma * h**2 / (1 + gamma * d))
    log_volume = lambda gamma: np.log(1 + gamma * np.sum(X**2, axis=0)).sum()
    profile = lambda gamma: -0.5 * (n * (np.log(2 * np.pi * F(gamma) / n) + 1) + log_volume(gamma))
    ends = np.log([gamma / 4, gamma * 4])
    found = scipy.optimize.minimize_scalar(
        lambda t: -profile(np.exp(t)), bounds=ends, method="bounded", options={"xatol": 1e-9}
    )
    gamma = np.exp(found.x)
    return profile(gamma), gamma, F(gamma) / n, B @ T @ (gamma * h / (1 + gamma * d))


def accelerated(y, Z, X, iterations):
    """ELBO, σ²_β and σ²_e after every sweep and the step in the span of the last four."""
    sq_norms, mean, kept, path = np.sum(X**2, axis=0), np.zeros(X.shape[1]), [], []
    gamma = len(y) / sq_norms.sum()  # X adds as much variance to y as e, on average
    residual = y - Z @ np.linalg.lstsq(Z, y)[0]
    for _ in range(iterations):
        sweep.sweep(X, sq_norms, gamma, mean, residual)
        kept = [*kept[-3:], mean.copy()]
        value, gamma, sigma2_e, mean = subspace_step(kept, gamma, y, Z, X)
        residual = y - X @ mean
        residual -= Z @ np.linalg.lstsq(Z, residual)[0]
        path.append((value, gamma * sigma2_e, sigma2_e))
    return np.array(path)


ours = accelerated(y, Z, X, fit.n_iter_)
theirs = fit.trace_[["elbo", "sigma2_beta", "sigma2_e"]].to_numpy()[1:]
assert np.allclose(ours, theirs, rtol=1e-6)
assert (np.diff(ours[:, 0]) >= -1e-10).all()
assert np.isclose(ours[-1, 0], plain.elbo_, rtol=1e-10)
assert fit.n_iter_ < plain.n_iter_ / 10

# %% [markdown]
# ## 10. The data
#
# From here on the lesson works on the course's data: n = «data.n», p = «data.p», c = «data.c», with the covariates as
# given and no intercept. First what a sweep costs there, from zero means.

# %%
DATA = None  # None: the seeded twin of the course's data; or the path of a file in the layout of XYZ_MoM.txt
data = fl.datasets.make_xyz_twin() if DATA is None else fl.datasets.read_xyz(DATA)
spectrum = fl.Spectrum.of(data.X)  # only for the log-likelihood of the trace, and for the plain iteration
options = {"method": "mfvi", "fit_intercept": False}
sweeps = fl.WideLMM(**options, solver="sweep").fit(data.X, data.y, data.Z, spectrum=spectrum)
plain = fl.WideLMM(**options, solver="collapsed", accelerate=False).fit(data.X, data.y, data.Z, spectrum=spectrum)

# %% timing=true
columns = np.asfortranarray(data.X)
norms = np.sum(columns**2, axis=0)
for name, one_sweep in (("NumPy", sweep_numpy), ("Numba", sweep.sweep)):
    lap = seconds(lambda run=one_sweep: run(columns, norms, 1.0, np.zeros(norms.size), data.y.copy()))
    print(f"one sweep over all features, {name}: {lap:.4f} s")

# %% [markdown]
# The trace of the accelerated sweeps: the start, then one row per sweep.

# %% data=true
trace = sweeps.trace_
shown = trace if sweeps.n_iter_ <= 20 else trace[trace["iteration"].isin([0, 1, 2, 5, 10, 20, 50, sweeps.n_iter_])]
for row in shown.itertuples():
    print(
        f"sweep {row.iteration}: log-likelihood {row.loglik:#.6g}, ELBO {row.elbo:#.6g}, gap {row.gap:#.5g}, ", end=""
    )
    print(f"σ²_β {row.sigma2_beta:#.5g}, σ²_e {row.sigma2_e:#.5g}")

# %% [markdown]
# * **ELBO**: it never falls, and it is settled after a few of the «table.mfvi_sweep.n_iter» sweeps, at
#   «table.mfvi_sweep.elbo:.3f».
# * **Log-likelihood**: it may fall. It is «paths.mfvi_sweep.1.loglik:.3f» after one sweep and
#   «table.mfvi_sweep.loglik:.3f» at the end. Nothing here maximises it; its maximum is «fits.newton.loglik:.3f»
#   (lesson 04).
# * **Gap** = KL from the posterior at that θ: «paths.mfvi_sweep.0.gap:.3f» at the start, «table.mfvi_sweep.gap:.4f»
#   at the end. The gap does not say whether θ is good: the ELBO went where the gap is smaller.
# * **Variances**: σ²_β = «table.mfvi_sweep.sigma2_beta:.4g», smaller than the «fits.newton.sigma2_beta:.4g» of
#   maximum likelihood. A fit that ends below half of the latter says so in its `status_`; lesson 06 derives why, and
#   what to do instead.

# %%
assert (np.diff(trace["elbo"]) >= -1e-9 * np.abs(trace["elbo"].iloc[-1])).all()
assert (trace["gap"] > -1e-8 * np.abs(trace["elbo"])).all()
gamma = sweeps.sigma2_beta_ / sweeps.sigma2_e_
r = data.y - data.Z @ sweeps.omega_
exact_mean = gamma * data.X.T @ np.linalg.solve(np.eye(len(r)) + gamma * data.X @ data.X.T, r)
assert (np.abs(sweeps.coef_ - exact_mean) <= 1e-3 * np.sqrt(sweeps.beta_var_)).all()
estimates = (sweeps.omega_, sweeps.sigma2_beta_, sweeps.sigma2_e_, sweeps.coef_, sweeps.beta_var_)
assert np.isclose(elbo(data.y, data.Z, data.X, *estimates), sweeps.elbo_, rtol=1e-10)

# %% figure="data_trace"
figure, ax = plt.subplots()
fl.plot_trace(sweeps, names=["sweeps"], ax=ax)
plt.show()

# %% [markdown] slide="results"
# # The ELBO settles within a few sweeps
#
# - «table.mfvi_sweep.n_iter» sweeps; ELBO «table.mfvi_sweep.elbo:.2f»
# - Log-likelihood «table.mfvi_sweep.loglik:.2f»
# - Gap at the end: «table.mfvi_sweep.gap:.3f» nats
# - σ²_{β} = «table.mfvi_sweep.sigma2_beta:.4g» (exact: «fits.newton.sigma2_beta:.4g»)
#
# ![Log-likelihood and ELBO by sweep; the gap lies between them](chart:data_trace)
#
# ---
# Say: The ELBO never falls. But look at the log-likelihood: it may fall while the ELBO rises. The ELBO prefers a θ at
# which independence costs little, and that is a
# smaller σ²_β.
#
# Ask: Would a small gap show that mean field found good variance components?
#
# Answer: No. The gap measures q against the posterior at this θ, not θ itself.
#
# Minutes: 3

# %% [markdown]
# Plain variational EM needs «mfvi_plain.n_iter» iterations, each with all means at their optimum; the accelerated sweeps
# need «mfvi_sweep.n_iter». Section 8 says why the number grows as the $\gamma x_j^\top x_j$ get small. At the iteration that
# the trace of `estimates.json` keeps before the last, «paths.mfvi_plain.-2.iteration», the ELBO is
# «paths.mfvi_plain.-2.elbo:.6f» and σ²_β «paths.mfvi_plain.-2.sigma2_beta:.6g»; at the end they are
# «mfvi_plain.elbo:.6f» and «mfvi_plain.sigma2_beta:.6g». Near the maximum the ELBO is flat, so a small gain per iteration
# is no proof that σ²_β has arrived.

# %% figure="data_climb"
best = max(sweeps.elbo_, plain.elbo_)
spaced = np.unique(np.geomspace(1, 1e6, 121).astype(int))  # on a logarithmic axis a few points per decade will do
figure, ax = plt.subplots()
for color, name, model in zip(COLORS, ("plain variational EM", "accelerated sweeps"), (plain, sweeps), strict=False):
    place = spaced[spaced <= model.n_iter_ + 1]
    below = best - model.trace_["elbo"].to_numpy()[place - 1]
    keep = below > 1e-6
    marker = "o" if keep.sum() < 20 else None
    ax.loglog(place[keep], below[keep], color=color, marker=marker, ms=4, label=name)
ax.set(xlabel="iteration, the start being 1", ylabel="ELBO below its maximum")
ax.legend(frameon=False, fontsize="small")
plt.show()

# %% [markdown] slide="algorithms"
# # The span of past sweeps replaces small steps
#
# Near the end the M-step moves log σ²_{β} by 2/p times the slope.
#
# - Plain: «mfvi_plain.n_iter» iterations
# - Accelerated: «mfvi_sweep.n_iter» sweeps
# - ELBO maximised over θ and the span
#
# ![ELBO below its maximum by iteration: the plain method creeps, sweeps drop](chart:data_climb)
#
# ---
# Say: Near its end plain variational EM is gradient ascent with step 2/p, and p is large. The accelerated version
# keeps the last four means and maximises the ELBO in their span, over both variances and the fixed effects as well. That is a
# problem in one variable.
#
# Ask: Why can the ELBO not fall in the accelerated step?
#
# Answer: The current means lie in the span and the current γ in its range, so the maximum is at least as high.
#
# Minutes: 3

# %% [markdown]
# ### Posterior means
#
# The features whose means are furthest from zero in units of their standard deviation, with intervals $m_j\pm2s_j$.
# The dotted lines are the prior's $\pm2\sigma_\beta$: with many features that share the signal, $\gamma x_j^\top x_j$
# is small, and the data move each factor little away from its prior. The largest in this sense is
# «effects.mfvi.0.feature», with mean «effects.mfvi.0.mean:.4g» and standard deviation «effects.mfvi.0.sd:.4g».

# %% figure="data_effects"
sd = np.sqrt(sweeps.beta_var_)
order = np.argsort(-np.abs(sweeps.coef_) / sd, kind="stable")[:8]
place = np.arange(len(order))
figure, ax = plt.subplots()
ax.errorbar(place, sweeps.coef_[order], yerr=2 * sd[order], fmt="o", color=COLORS[0], label="$m_j\\pm2s_j$")
for sign in (-2, 2):
    prior = np.full(len(order), sign * np.sqrt(sweeps.sigma2_beta_))
    ax.plot(place, prior, color="0.4", ls=":", label="prior, $\\pm2\\sigma_\\beta$" if sign > 0 else None)
ax.axhline(0.0, color="0.6", lw=0.8)
ax.set_xticks(place, [data.X_names[j] for j in order], fontsize="small")
ax.set_ylabel("$\\beta_j$")
ax.margins(y=0.25)
ax.legend(frameon=False, fontsize="small", loc="upper right", ncols=2)
plt.show()

# %% [markdown]
# ## What to remember
#
# * The best factor is $\log q_j=\mathbb E_{-j}\log p(y,\beta)+\text{const}$. For this model it is normal: a ridge
#   regression of one column on a residual.
# * The ELBO is three finite sums. With every constant kept, log-likelihood − ELBO is a divergence.
# * Keep $\rho=y-Z\omega-Xm$ and update it: a sweep costs O(np) and is Gauss–Seidel, with the exact posterior mean as
#   its limit.
# * Mean field's variances are those of β_j given all others: too small when columns correlate.
# * Near its end the plain M-step is gradient ascent with step $2/p$, tiny for large $p$. Maximising over the span of past sweeps
#   takes few sweeps.
# * Stop on the gradient in units of posterior standard deviations and log variances, not on a small step.
#
# ## Exercises
#
# **Exercise 1.** By how much does one update of $m_j$, from $m_j$ to $m_j+\Delta_j$, raise the ELBO? Give a formula
# in $\Delta_j$ and $s_j^2$ only.
#
# *Solution.* At given θ the ELBO is a parabola in $m_j$ with second derivative $-A_{jj}=-1/s_j^2$, and the update
# moves to its top. A parabola with top at $t$ and second derivative $-a$ is $\text{top}-\frac a2(m_j-t)^2$, so the
# gain is $⟦5.E1: \frac{\Delta_j^2}{2s_j^2}⟧$. It is a function of $|\Delta_j|/s_j$ alone, whose largest value
# the stopping rule watches. Write it as a function of $\Delta_j$, $x_j^\top x_j$ and the variances.


# %% gap="5.E1"
def gain(delta, sq_norm, sigma2_beta, sigma2_e):
    """How much the ELBO rises when the update moves m_j by delta."""
    ### SOLUTION
    s2_j = 1 / (sq_norm / sigma2_e + 1 / sigma2_beta)
    return delta**2 / (2 * s2_j)
    ### WRONG without the ½
    s2_j = 1 / (sq_norm / sigma2_e + 1 / sigma2_beta)
    return delta**2 / s2_j
    ### WRONG multiplied by the variance instead of divided
    s2_j = 1 / (sq_norm / sigma2_e + 1 / sigma2_beta)
    return delta**2 * s2_j / 2
    ### WRONG the likelihood's curvature only
    return delta**2 * sq_norm / sigma2_e / 2
    ### END


# %% check="5.E1"
mean, var = np.random.default_rng(58).normal(size=p), np.full(p, 0.3)
for j in range(p):
    before, old = elbo(y, Z, X, *theta, mean, var), mean[j]
    mean[j], _ = coordinate(j, y, Z, X, *theta, mean)
    rise = elbo(y, Z, X, *theta, mean, var) - before
    claimed = gain(mean[j] - old, sq_norms[j], sigma2_beta, sigma2_e)
    assert np.isclose(claimed, rise, rtol=1e-6, atol=1e-9), (
        f"gap 5.E1: the ELBO rose by {rise:.6f}, not by {claimed:.6f}."
    )
print("gap 5.E1 ✓")

# %% [markdown]
# **Exercise 2.** Two columns correlate strongly, and the staircase of section 2 takes many small steps. Update both
# together: give the pair $J=(j,k)$ one factor $q_J(\beta_j,\beta_k)$, all other factors as before. Derive the best
# one.
#
# *Solution.* The argument of section 1 holds for a block as for a single coefficient:
# $\log q_J=\mathbb E_{-J}\log p(y,\beta)+\text{const}$. Let $X_J$ ($n\times2$) hold the two columns, $\beta_J$ their
# coefficients, and $u_J=y-Z\omega-\sum_{k\notin J}x_k\beta_k$. Then
#
# $$\log p(y,\beta)=-\tfrac12\beta_J^\top\left(\frac{X_J^\top X_J}{\sigma^2_e}+\frac I{\sigma^2_\beta}\right)\beta_J
# +\beta_J^\top\frac{X_J^\top u_J}{\sigma^2_e}+\dots$$
#
# and under $\mathbb E_{-J}$ the only random part, $u_J$, becomes its mean $\rho+X_Jm_J$. Completing the square gives
# a normal with covariance and mean
#
# $$S_J=⟦5.E2: \left(\frac{X_J^\top X_J}{\sigma^2_e}+\frac{I}{\sigma^2_\beta}\right)^{-1}⟧,\qquad
# m_J=⟦5.E2: \frac1{\sigma^2_e}\,S_JX_J^\top\left(\rho+X_Jm_J\right)⟧.$$
#
# The correlation within the pair is now in $q$, in mean and covariance. With all $p$ features in one block it is EM's
# E-step.


# %% gap="5.E2"
def block_update(J, y, Z, X, omega, sigma2_beta, sigma2_e, mean):
    """Mean (k,) and covariance (k, k) of the best joint factor of the features J, given the means of all others."""
    XJ = X[:, J]
    residual = y - Z @ omega - X @ mean
    ### SOLUTION
    S_J = inv(XJ.T @ XJ / sigma2_e + np.eye(len(J)) / sigma2_beta)
    m_J = S_J @ XJ.T @ (residual + XJ @ mean[J]) / sigma2_e
    ### WRONG two single updates from the same residual: the correlation within the block is lost
    S_J = np.diag(1 / (np.sum(XJ**2, axis=0) / sigma2_e + 1 / sigma2_beta))
    m_J = S_J @ XJ.T @ (residual + XJ @ mean[J]) / sigma2_e
    ### WRONG the block's own part is not put back
    S_J = inv(XJ.T @ XJ / sigma2_e + np.eye(len(J)) / sigma2_beta)
    m_J = S_J @ XJ.T @ residual / sigma2_e
    ### WRONG the prior's precision is left out
    S_J = inv(XJ.T @ XJ / sigma2_e)
    m_J = S_J @ XJ.T @ (residual + XJ @ mean[J]) / sigma2_e
    ### END
    return m_J, S_J


# %% check="5.E2"
mean, J = np.random.default_rng(59).normal(size=p), np.array([4, 31])
m_J, S_J = block_update(J, y, Z, X, *theta, mean)


def log_factor(t):
    """log q_J up to a constant: the others enter by their means only."""
    beta = mean.copy()
    beta[J] = t
    return log_joint(y, Z, X, beta, *theta)


e = 1e-3 * np.eye(2)
slopes = np.array([(log_factor(m_J + a) - log_factor(m_J - a)) / 2e-3 for a in e])
assert np.abs(slopes).max() < 1e-5, "gap 5.E2: log q_J still has a slope at your m_J."
second = lambda a, b: log_factor(m_J + a + b) - log_factor(m_J + a - b) - log_factor(m_J - a + b)
bend = np.array([[(second(a, b) + log_factor(m_J - a - b)) / 4e-6 for a in e] for b in e])
assert np.allclose(inv(S_J), -bend, rtol=1e-4, atol=1e-4), (
    "gap 5.E2: S_J⁻¹ must be minus the second derivative of log q_J."
)
one_step = block_update(np.array([0, 1]), y2, Z2, X2, *theta2, np.array([1.0, -2.0]))
hint = "gap 5.E2: with both features of a problem with p = 2 in the block, it must be the exact posterior."
assert np.allclose(one_step[0], mu2), hint
assert np.allclose(one_step[1], S2), hint
print("gap 5.E2 ✓")

# %% [markdown]
# **Exercise 3** (on paper). Show that mean field is exact if the columns of $X$ are orthogonal, and that one sweep is
# enough.
#
# *Solution.* $x_j^\top x_k=0$ for $j\ne k$ makes $A=X^\top X/\sigma^2_e+I/\sigma^2_\beta$ diagonal. Then $S=A^{-1}$
# is diagonal with $S_{jj}=1/A_{jj}=s_j^2$: the posterior is itself a product, and at $m=\mu$ the divergence is zero.
# In Gauss–Seidel $U=0$, so $L\,m^{\text{new}}=X^\top(y-Z\omega)$ has the exact solution after one sweep, from any
# start. Conversely, if some $x_j^\top x_k\ne0$, $A$ and hence $S$ are not diagonal, and no product of factors is the
# posterior. The cell below builds orthogonal columns and holds the ELBO against the log-likelihood.

# %%
y5, Z5, _ = problem(n=30, p=8, c=1)
X5 = np.asfortranarray(np.linalg.qr(np.random.default_rng(5).normal(size=(30, 8)))[0] * np.linspace(1, 3, 8))
norms5, residual = np.sum(X5**2, axis=0), y5 - Z5 @ np.ones(1)
mean5 = np.random.default_rng(6).normal(size=8)
residual -= X5 @ mean5
sweep_numpy(X5, norms5, 3.0, mean5, residual)
var5 = 1 / (norms5 / 0.5 + 1 / 1.5)
assert np.isclose(elbo(y5, Z5, X5, np.ones(1), 1.5, 0.5, mean5, var5), loglik(y5, Z5, X5, np.ones(1), 1.5, 0.5))
