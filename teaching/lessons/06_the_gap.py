# %% [markdown]
# # The gap: what mean field keeps and what it loses
#
# Log-likelihood and ELBO differ by one number, the gap. It has a closed form, and from it follows everything in which
# EM and mean-field VI agree (posterior means at the same θ) and differ (variances, intervals, and θ itself).
#
# You need: lessons 03, 04 and 05 (posterior of β, profile likelihood, mean-field sweeps). Time: 90 minutes.
#
# ## 1. Two criteria and one number between them
#
# The model is that of all lessons, $y=Z\omega+X\beta+e$ with $\beta\sim N(0,\sigma^2_\beta I_p)$,
# $e\sim N(0,\sigma^2_eI_n)$, $K=XX^\top$, $\gamma=\sigma^2_\beta/\sigma^2_e$,
# $\theta=(\omega,\sigma^2_\beta,\sigma^2_e)$. Given $y$ the exact posterior of β is normal (lesson 03),
#
# $$\beta\mid y\sim N(\mu,S),\qquad S=A^{-1},\qquad A=\frac{X^\top X}{\sigma^2_e}+\frac{I}{\sigma^2_\beta},\qquad
# A\mu=\frac{X^\top(y-Z\omega)}{\sigma^2_e},$$
#
# and mean field replaces it by $q(\beta)=\prod_jN(\beta_j;m_j,s_j^2)$, a normal density with the covariance
# $S_q=\operatorname{diag}(s_1^2,\dots,s_p^2)$ (lesson 05). For every $q$ the log-likelihood splits into a bound and a
# divergence,
#
# $$\ell(\theta)=\text{ELBO}(q,\theta)+\mathrm{KL}\big(q\,\Vert\,p(\beta\mid y,\theta)\big),\qquad
# \text{gap}:=\ell-\text{ELBO}=\mathrm{KL}\ge0 .$$
#
# EM keeps the gap at 0. Mean field cannot, and this lesson is about what that costs. The next cell loads the data of
# section 8 and writes the two criteria densely, for small problems.

# %%
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from fastlmm_vi_kernels import spectral, sweep
from numpy.linalg import eigvalsh, inv, slogdet
from scipy import integrate, optimize, stats

import fastlmm_vi as fl

plt.rcParams.update({"figure.figsize": (6.4, 3.6), "figure.constrained_layout.use": True, "font.size": 11})

DATA = None  # None: the seeded twin of the course's data; or the path of a file in the layout of XYZ_MoM.txt
data = fl.datasets.make_xyz_twin() if DATA is None else fl.datasets.read_xyz(DATA)


def loglik(y, Z, X, omega, sigma2_beta, sigma2_e):
    """Log of N(y; Zω, V)."""
    V = sigma2_beta * X @ X.T + sigma2_e * np.eye(len(y))
    r = y - Z @ omega
    return -0.5 * (len(y) * np.log(2 * np.pi) + slogdet(V)[1] + r @ inv(V) @ r)


def elbo(y, Z, X, omega, sigma2_beta, sigma2_e, mean, var):
    """E_q log p(y | β) + E_q log p(β) + entropy of q, for q(β) = Π N(mean_j, var_j)."""
    n, p = X.shape
    r = y - Z @ omega - X @ mean
    likelihood = -n / 2 * np.log(2 * np.pi * sigma2_e) - (r @ r + (X**2).sum(axis=0) @ var) / (2 * sigma2_e)
    prior = -p / 2 * np.log(2 * np.pi * sigma2_beta) - (mean @ mean + var.sum()) / (2 * sigma2_beta)
    return likelihood + prior + np.log(2 * np.pi * np.e * var).sum() / 2


def posterior(y, Z, X, omega, sigma2_beta, sigma2_e):
    """Mean μ (p,) and precision A (p, p) of β given y."""
    A = X.T @ X / sigma2_e + np.eye(X.shape[1]) / sigma2_beta
    return np.linalg.solve(A, X.T @ (y - Z @ omega) / sigma2_e), A


def problem(n, p, seed=6):
    """A small data set from the model with σ²_β = 1/p and σ²_e = 0.5: features share a factor, correlation 0.3."""
    rng = np.random.default_rng(seed)
    X = np.sqrt(0.3) * rng.normal(size=(n, 1)) + np.sqrt(0.7) * rng.normal(size=(n, p))
    Z = np.column_stack([np.ones(n), rng.normal(size=n)])
    y = Z @ [1.0, -0.5] + X @ rng.normal(size=p) / np.sqrt(p) + np.sqrt(0.5) * rng.normal(size=n)
    return y, Z, X


y, Z, X = problem(n=60, p=40)
n, p = X.shape
omega = np.linalg.lstsq(Z, y)[0]

# %% [markdown]
# ## 2. The divergence between two normals
#
# Take the logarithms of both densities and their difference under $q$:
#
# $$\mathrm{KL}(q\,\Vert\,p)=\mathbb E_q\Big[-\tfrac12\log\left|2\pi S_q\right|-\tfrac12(\beta-m)^\top S_q^{-1}(\beta-m)
# +\tfrac12\log\left|2\pi S\right|+\tfrac12(\beta-\mu)^\top A(\beta-\mu)\Big].$$
#
# For $\beta$ with mean $m$ and covariance $S_q$ and any matrix $M$,
# $\mathbb E[(\beta-b)^\top M(\beta-b)]=\operatorname{tr}(MS_q)+(m-b)^\top M(m-b)$. So the second term is
# $-\tfrac12\operatorname{tr}(S_q^{-1}S_q)=-\tfrac p2$, and the fourth is
# $\tfrac12\operatorname{tr}(AS_q)+\tfrac12(m-\mu)^\top A(m-\mu)$. The factors $2\pi$ cancel;
# $\log\left|S\right|=-\log\left|A\right|$ and $\log\left|S_q\right|=\sum_j\log s_j^2$:
#
# $$\ell-\text{ELBO}=⟦6.1: \tfrac12\Big[\operatorname{tr}(AS_q)-p-\log\left|A\right|-\sum_j\log s_j^2
# +(m-\mu)^\top A(m-\mu)\Big]⟧$$
#
# (`fastlmm_vi.wide.mean_field.kl_to_posterior`, which takes $\log\left|A\right|$ from $K$). **Gap
# 6.1**: write it. The check compares with `loglik` − `elbo` at arbitrary $q$ and θ, and with an integral for $p=1$.


# %% gap="6.1"
def kl(mean, var, mu, A):
    """KL of q = Π N(mean_j, var_j) from N(μ, A⁻¹)."""
    p = len(mean)
    ### SOLUTION
    value = 0.5 * (np.diag(A) @ var - p - slogdet(A)[1] - np.log(var).sum() + (mean - mu) @ A @ (mean - mu))
    ### WRONG log|A| has the sign of log|S|
    value = 0.5 * (np.diag(A) @ var - p + slogdet(A)[1] - np.log(var).sum() + (mean - mu) @ A @ (mean - mu))
    ### WRONG the distance of the means is not measured by A
    value = 0.5 * (np.diag(A) @ var - p - slogdet(A)[1] - np.log(var).sum() + (mean - mu) @ (mean - mu))
    ### WRONG the entropy's constant p is forgotten
    value = 0.5 * (np.diag(A) @ var - slogdet(A)[1] - np.log(var).sum() + (mean - mu) @ A @ (mean - mu))
    ### END
    return value


# %% check="6.1"
rng = np.random.default_rng(61)
q1, p1 = stats.norm(0.3, 0.5), stats.norm(-0.2, 0.8)
area = integrate.quad(lambda b: q1.pdf(b) * (q1.logpdf(b) - p1.logpdf(b)), -6.0, 6.0)[0]
yours = kl(np.array([0.3]), np.array([0.25]), np.array([-0.2]), np.array([[1 / 0.64]]))
assert abs(yours - area) < 1e-6, f"gap 6.1: for p = 1 the integral of q log(q/p) is {area:.4f}, yours is {yours:.4f}."
for sigma2_beta, sigma2_e in ((0.1, 0.5), (0.02, 2.0)):
    mu, A = posterior(y, Z, X, omega, sigma2_beta, sigma2_e)
    for _ in range(5):
        mean, var = rng.normal(size=p), rng.gamma(2.0, 0.05, size=p)
        theta = (omega, sigma2_beta, sigma2_e)
        difference = loglik(y, Z, X, *theta) - elbo(y, Z, X, *theta, mean, var)
        assert np.isclose(kl(mean, var, mu, A), difference, rtol=1e-9), (
            "gap 6.1: log-likelihood − ELBO is another number than your KL. Compare the five terms one by one."
        )
print("gap 6.1 ✓")

# %% [markdown] slide="comparison"
# # The gap is a KL divergence between two normals
#
# $$\ell-\mathrm{ELBO}=\frac{1}{2}\left[\mathrm{tr}(AS_q)-p-\log|A|-\sum_j\log s_j^2+\delta^\top A\delta\right]$$
#
# With δ = m − μ. At the best q for given θ it depends on γ = σ²_{β}/σ²_{e} alone:
#
# $$\mathrm{gap}=\frac{1}{2}\left[\sum_j\log(1+\gamma x_j^\top x_j)-\sum_i\log(1+\gamma d_i)\right]\geq 0$$
#
# - A is the exact posterior's precision, d_{i} are the eigenvalues of XX^{T}
# - Hadamard: the determinant of A is at most the product of its diagonal
# - Zero if and only if the columns of X are orthogonal
#
# ---
# Say: Both densities are normal, so the divergence has five terms: a trace, p, two log determinants and the distance of
# the means. At the best q only the two log determinants remain, and y drops out: the gap depends on the features and on γ, not on the response.
#
# Ask: Which data would make mean field exact?
#
# Answer: Features with orthogonal columns, which needs p ≤ n: then A is diagonal and q is the posterior.
#
# Minutes: 3

# %% [markdown]
# ## 3. At the same θ the means are equal
#
# Minimise the KL over $q$ with θ held fixed. The means occur in the last term only, and $A$ is positive definite, so
# the minimum is at $m=\mu$. The variances occur in $\tfrac12\sum_j(A_{jj}s_j^2-\log s_j^2)$, convex in each $s_j^2$
# with the derivative $\tfrac12(A_{jj}-1/s_j^2)$, which vanishes at $s_j^2=1/A_{jj}$:
#
# $$m=\mu,\qquad s_j^2=\frac1{A_{jj}}=\Big(\frac{x_j^\top x_j}{\sigma^2_e}+\frac1{\sigma^2_\beta}\Big)^{-1}.$$
#
# The sweep of lesson 05 says the same. At its fixed point, with $\rho=y-Z\omega-Xm$,
#
# $$m_j=\frac{\gamma}{1+\gamma x_j^\top x_j}\big(x_j^\top\rho+x_j^\top x_j\,m_j\big)\iff m_j=\gamma x_j^\top\rho,$$
#
# and this for all $j$ reads
#
# $$m=\gamma X^\top(y-Z\omega-Xm)\iff\Big(X^\top X+\frac I\gamma\Big)m=X^\top(y-Z\omega).$$
#
# Divided by σ²_e this is $Am=X^\top(y-Z\omega)/\sigma^2_e$, the equation of μ, and $A$ is invertible: there is no
# other solution. Mean field's independence costs nothing in the means. In particular predictions $Z\omega+Xm$ are the
# exact ones.
#
# All of this is at the **same** θ, with the same ω. Each method at its own θ has other means. Let $K=UDU^\top$ with
# eigenvalues $d_i$ and eigenvectors $u_i$ (lesson 03). For $d_i>0$ let $w_i=X^\top u_i/\sqrt{d_i}$, the matching
# eigenvectors of $X^\top X$ (μ has no part outside their span). The mean $\mu=\gamma X^\top(I+\gamma K)^{-1}(y-Z\omega)$ of lesson 03 has the coordinates
#
# $$w_i^\top\mu=\frac{\gamma\sqrt{d_i}}{1+\gamma d_i}\,u_i^\top(y-Z\omega),$$
#
# and each factor rises with γ. At the same ω, a method that estimates a smaller γ shrinks all of them more strongly
# towards 0 (section 6 shows that mean field does), and those with small $d_i$ more than the others, so that the means
# are not even proportional. The cell below sweeps to the fixed point, and then lets the library do both.

# %%
sigma2_beta, sigma2_e = 0.05, 0.5
gamma = sigma2_beta / sigma2_e
mu, A = posterior(y, Z, X, omega, sigma2_beta, sigma2_e)
sq_norms = (X**2).sum(axis=0)
mean, residual = np.zeros(p), y - Z @ omega
for _ in range(2000):
    sweep.sweep(np.asfortranarray(X), sq_norms, gamma, mean, residual)
assert np.allclose(mean, mu, atol=1e-10), "the sweep's fixed point is the exact mean"

exact = fl.WideLMM("newton", fit_intercept=False).fit(X, y, Z)
same_theta = fl.WideLMM("mfvi", theta_by="loglik", solver="sweep", fit_intercept=False).fit(X, y, Z)
own_theta = fl.WideLMM("mfvi", fit_intercept=False).fit(X, y, Z)
assert np.allclose(same_theta.coef_, exact.coef_, atol=1e-5), "the same θ, the same means"
assert np.linalg.norm(own_theta.coef_) < np.linalg.norm(exact.coef_), "at its own θ mean field shrinks more"

# %% [markdown] slide="comparison"
# # At the same θ the posterior means are equal
#
# $$\left(X^\top X+\frac{1}{\gamma}I\right)m=X^\top(y-Z\omega)$$
#
# ![Posterior means of mean field against those of maximum likelihood: on the line at the same θ,
# shrunk at each one's own.](wide:means)
#
# - Sweeps and ridge solve one equation: equal means, equal predictions
# - At its own θ mean field shrinks more; correlation with ML's means «table.mfvi.beta_mean_correlation:.4f»
#
# ---
# Say: The fixed point of the sweep is the ridge equation, so independence costs nothing in the means. The right panel
# is not a failure of q but of θ: a smaller γ shrinks every coordinate more, at the same ω.
#
# Ask: Why are the points of the right panel not exactly on a line?
#
# Answer: Each eigendirection is shrunk by γd/(1+γd), which changes by another factor in each of them; ω moves as well.
#
# Minutes: 3

# %% [markdown]
# ## 4. The gap at the optimum, and the variances
#
# Insert $m=\mu$ and $s_j^2=1/A_{jj}$ into the KL. The distance of the means is 0,
# $\operatorname{tr}(AS_q)=\sum_jA_{jj}s_j^2=p$ cancels the $-p$, and what is left is
# $\tfrac12\big[\sum_j\log A_{jj}-\log\left|A\right|\big]$. With $\sigma^2_\beta A=I+\gamma X^\top X$ the powers of
# σ²_β cancel too. The determinant of $I+\gamma X^\top X$ is the product over the eigenvalues of $X^\top X$; those that
# are not 0 are the $d_i$ of $K=XX^\top$, and zeros contribute $\log1$:
#
# $$\text{gap}(\gamma)=⟦6.2: \tfrac12\Big[\sum_j\log(1+\gamma x_j^\top x_j)-\sum_i\log(1+\gamma d_i)\Big]⟧$$
#
# (`fastlmm_vi_kernels.spectral.mean_field_gap`). It does not depend on $y$ or $Z$, and on θ through γ alone.
#
# **It is never negative** (Hadamard's inequality). Scale $A$ to a unit diagonal:
# $C=\operatorname{diag}(A)^{-1/2}A\operatorname{diag}(A)^{-1/2}$. Then $\text{gap}=-\tfrac12\log\left|C\right|$, and
# the eigenvalues $c_k>0$ of $C$ have the sum $\operatorname{tr}C=p$. From $\log c\le c-1$,
#
# $$\log\left|C\right|=\sum_k\log c_k\le\sum_k(c_k-1)=0 .$$
#
# Equality needs all $c_k=1$, hence $C=I$, hence $X^\top X$ diagonal: **the gap is zero if and only if the columns of X
# are orthogonal** (γ > 0). For $p>n$ they cannot be, unless some are zero. **Gap 6.2**: write it with the eigenvalues
# of $X^\top X$.


# %% gap="6.2"
def gap_at_optimum(X, gamma):
    """Log-likelihood − ELBO at the best q for given γ."""
    diagonal = (X**2).sum(axis=0)
    ### SOLUTION
    d = np.maximum(eigvalsh(X.T @ X), 0.0)
    value = 0.5 * (np.log1p(gamma * diagonal).sum() - np.log1p(gamma * d).sum())
    ### WRONG singular values of X in place of eigenvalues of XᵀX
    d = np.linalg.svd(X, compute_uv=False)
    value = 0.5 * (np.log1p(gamma * diagonal).sum() - np.log1p(gamma * d).sum())
    ### WRONG the factor ½ is missing
    d = np.maximum(eigvalsh(X.T @ X), 0.0)
    value = np.log1p(gamma * diagonal).sum() - np.log1p(gamma * d).sum()
    ### WRONG determinant minus diagonal: the wrong sign
    d = np.maximum(eigvalsh(X.T @ X), 0.0)
    value = 0.5 * (np.log1p(gamma * d).sum() - np.log1p(gamma * diagonal).sum())
    ### END
    return value


# %% check="6.2"
for sigma2_beta, sigma2_e in ((0.05, 0.5), (1.0, 0.1), (0.01, 3.0)):
    mu, A = posterior(y, Z, X, omega, sigma2_beta, sigma2_e)
    smallest = kl(mu, 1 / np.diag(A), mu, A)
    assert np.isclose(gap_at_optimum(X, sigma2_beta / sigma2_e), smallest, rtol=1e-8), (
        f"gap 6.2: the KL at m = μ, s²_j = 1/A_jj is {smallest:.4f}. Put these into your formula of gap 6.1."
    )
wide = problem(15, 40)[2]
library = spectral.mean_field_gap(np.array([0.3]), (wide**2).sum(axis=0), np.maximum(eigvalsh(wide @ wide.T), 0.0))
assert np.isclose(gap_at_optimum(wide, 0.3), library[0], rtol=1e-8), (
    "gap 6.2: for p > n the library has another number."
)
orthogonal = np.linalg.qr(X)[0] * np.linspace(1.0, 3.0, p)
assert abs(gap_at_optimum(orthogonal, 2.0)) < 1e-10, "gap 6.2: orthogonal columns have no gap."
print("gap 6.2 ✓")

# %% [markdown]
# ### Variances: always too small
#
# The exact variance of $\beta_j$ is $S_{jj}=(A^{-1})_{jj}$, mean field's is $s_j^2=1/A_{jj}$. By the inequality of
# Cauchy and Schwarz, with the unit vector $e_j$,
#
# $$1=\big(e_j^\top A^{1/2}A^{-1/2}e_j\big)^2\le\big(e_j^\top Ae_j\big)\big(e_j^\top A^{-1}e_j\big)=A_{jj}\,S_{jj}
# \qquad\Longrightarrow\qquad s_j^2=\frac1{A_{jj}}\le S_{jj}.$$
#
# Equality holds if and only if $A^{1/2}e_j$ and $A^{-1/2}e_j$ are parallel, that is $Ae_j\propto e_j$: $x_j$ is
# orthogonal to all other columns.
#
# What is $1/A_{jj}$? Seen as a function of $\beta_j$ alone, the log posterior density is
# $-\tfrac12A_{jj}\beta_j^2+\dots$: $1/A_{jj}$ is the variance of $\beta_j$ **given all other effects**. Mean field
# reports a conditional variance where the marginal one is wanted, as if the other effects were known.
# (`fastlmm_vi.wide.posterior.mean_field_variances`; exact: `Spectrum.variances`.)
#
# Two features of squared length $N$ and correlation ρ (from here on a correlation, no residual) show it all. The left picture has the contours that hold 95 % of
# either density: mean field's ellipse has the right centre, lies inside the exact one along its long axis, and sticks
# out of it along the short axis. The two meet on the axes, where the other effect is held fixed. The right picture has
# the ratio $s_j^2/S_{jj}$, derived in exercise 1.

# %% figure="two_features"
figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.6))
angle = np.linspace(0.0, 2 * np.pi, 200)
circle = np.sqrt(stats.chi2(2).ppf(0.95)) * np.array([np.cos(angle), np.sin(angle)])
A2 = np.eye(2) + 9.0 * np.array([[1.0, 0.8], [0.8, 1.0]])
for root, name, style in (
    (np.linalg.cholesky(inv(A2)), "exact", "-"),
    (np.diag(np.diag(A2) ** -0.5), "mean field", "--"),
):
    axes[0].plot(*(root @ circle), style, label=name)
axes[0].set(xlabel="$\\beta_1-\\mu_1$", ylabel="$\\beta_2-\\mu_2$", title="95 % regions, ρ = 0.8")
axes[0].set_ylim(-1.35, 1.8)
axes[0].legend(frameon=False, loc="upper right")
rho = np.linspace(-0.999, 0.999, 201)
for strength, style in ((1.0, ":"), (9.0, "-"), (99.0, "--")):
    axes[1].plot(rho, 1 - (rho * strength / (1 + strength)) ** 2, style, label=f"γN = {strength:.0f}")
axes[1].set(xlabel="correlation ρ of the two features", ylabel="variance, mean field / exact", ylim=(0.0, 1.05))
axes[1].legend(frameon=False, loc="lower center")
plt.show()

# %% [markdown] slide="comparison"
# # Mean field's variances are too small
#
# $$s_j^2=\frac{1}{A_{jj}}\leq (A^{-1})_{jj}=S_{jj}$$
#
# ![Left: ellipses of exact and mean-field posterior of two correlated effects.
# Right: variance ratio against the correlation.](figure:two_features)
#
# - 1/A_{jj}: variance given all other β
# - Equal only for orthogonal columns
# - On the data, same θ: mean ratio «comparison.same_theta.beta_var_ratio:.3f»
#
# ---
# Say: The proof is one line of Cauchy and Schwarz. Mean field reports the variance of an effect as if the others were
# known. With two correlated features the ellipse is right in its centre and wrong in its shape.
#
# Ask: Is there a direction in which mean field is too wide?
#
# Answer: Yes, along the ellipse's short axis. It is too narrow for every single effect, not for every combination of
# them.
#
# Minutes: 3

# %% [markdown]
# ## 5. What this does to predictions
#
# A new observation with features $x$ (and known $Z$ part) has the exact variance $x^\top Sx+\sigma^2_e$; mean field
# says $x^\top S_qx+\sigma^2_e=\sum_jx_j^2s_j^2+\sigma^2_e$ (`WideLMM.predict(..., return_std=True)`). Two averages
# over $x$ can be compared at the same θ.
#
# * **Features of a new observation uncorrelated, with mean 0 and variance $v$:** the averages are $v\operatorname{tr}S$
#   and $v\operatorname{tr}S_q$, and $\operatorname{tr}S_q\le\operatorname{tr}S$ by section 4. The variance is too
#   small on average.
# * **The rows of X themselves:** both densities have $\operatorname{tr}(AS)=p=\operatorname{tr}(AS_q)$. Since
#   $\operatorname{tr}(AS)=\operatorname{tr}(XSX^\top)/\sigma^2_e+\operatorname{tr}S/\sigma^2_\beta$, and likewise for
#   $S_q$, the difference of the two is
#
# $$\operatorname{tr}(XS_qX^\top)-\operatorname{tr}(XSX^\top)
# =\frac{\sigma^2_e}{\sigma^2_\beta}\big(\operatorname{tr}S-\operatorname{tr}S_q\big)\;\ge0 .$$
#
# What is missing in the variances of the effects is surplus in the variances of the fitted values: at the training rows
# the variance is too **large** on average. So "mean field's intervals are too narrow" is a statement about effects and
# about new rows, even from the distribution of the old ones; at the rows that were fitted it is the other way round.
#
# If θ is true, $\beta\mid y$ is exactly $N(\mu,S)$. A new response then lies in $x^\top\mu\pm1.96\,\text{sd}_q$ with
# probability $2\Phi(1.96\,\text{sd}_q/\text{sd})-1$, where $\text{sd}^2=x^\top Sx+\sigma^2_e$ and
# $\text{sd}_q^2=x^\top S_qx+\sigma^2_e$. The cell computes this (lines) and draws 400 data sets, each with
# new observations, and counts (points).


# %%
def coverage(pve, n=50, p=100, repeats=400, seed=5):
    """Coverage of 95 % intervals at the true θ, by kind of row: exact and mean field counted, mean field by formula."""
    rng = np.random.default_rng(seed)
    sigma2_beta, sigma2_e = pve, 1.0 - pve
    X, new = rng.normal(size=(n, p)) / np.sqrt(p), rng.normal(size=(n, p)) / np.sqrt(p)
    A = X.T @ X / sigma2_e + np.eye(p) / sigma2_beta
    S = inv(A)
    beta = np.sqrt(sigma2_beta) * rng.normal(size=(p, repeats))
    mean = S @ X.T @ (X @ beta + np.sqrt(sigma2_e) * rng.normal(size=(n, repeats))) / sigma2_e
    found = {}
    for kind, rows in (("new rows", new), ("training rows", X)):
        sd = np.sqrt(np.einsum("ij,jk,ik->i", rows, S, rows) + sigma2_e)
        sd_q = np.sqrt(rows**2 @ (1 / np.diag(A)) + sigma2_e)
        error = np.abs(rows @ (beta - mean) + np.sqrt(sigma2_e) * rng.normal(size=(n, repeats)))
        counted = [(error < 1.96 * width[:, None]).mean() for width in (sd, sd_q)]
        found[kind] = (*counted, (2 * stats.norm.cdf(1.96 * sd_q / sd) - 1).mean())
        assert abs(counted[0] - 0.95) < 0.02, "exact intervals keep their level"
    assert np.isclose(
        np.einsum("ij,jk,ik->", X, np.diag(1 / np.diag(A)) - S, X),
        sigma2_e / sigma2_beta * (np.trace(S) - (1 / np.diag(A)).sum()),
    ), "the identity of the two traces"
    return found


shares = np.linspace(0.1, 0.9, 9)
covered = [coverage(pve) for pve in shares]

# %% figure="coverage"
figure, ax = plt.subplots()
ax.axhline(0.95, color="0.6", lw=0.8)
ax.plot(shares, [found["new rows"][0] for found in covered], "k^", ms=5, label="exact, new rows")
for kind, marker, color in (("training rows", "s", "#009E73"), ("new rows", "o", "#D55E00")):
    ax.plot(shares, [found[kind][2] for found in covered], color=color, label=f"mean field, {kind}")
    ax.plot(shares, [found[kind][1] for found in covered], marker, color=color, ms=4)
ax.set(xlabel="share of variance due to the features", ylabel="coverage of 95 % intervals", ylim=(0.77, 1.0))
ax.legend(frameon=False, loc="lower left")
plt.show()

# %% [markdown]
# The exact intervals keep 95 %. Mean field's fall short at new rows, the more the larger γ is, and are too wide at the
# training rows.
#
# ## 6. What learning θ by the ELBO does to σ²_β
#
# ### The ELBO as a function of γ
#
# With $q$ at its optimum, $\text{ELBO}(\theta)=\ell(\theta)-\text{gap}(\gamma)$. At fixed γ the gap is a constant: ω
# and σ²_e that maximise the log-likelihood at this γ, generalised least squares and $\hat\sigma^2_e=F(\gamma)/n$
# (lesson 04, with $F(\gamma)=\min_\omega\sum_ir_i^2/(1+\gamma d_i)$ in the eigenbasis of $K$), maximise the ELBO as
# well. From the profile likelihood
#
# $$\ell(\gamma)=-\tfrac12\Big[n\Big(\log\frac{2\pi F}n+1\Big)+\sum_i\log(1+\gamma d_i)\Big]$$
#
# subtract gap(γ). The eigenvalues leave and the diagonal of $X^\top X$ takes their place:
#
# $$\text{ELBO}(\gamma)=⟦6.3: -\tfrac12\Big[n\Big(\log\frac{2\pi F}n+1\Big)+\sum_j\log(1+\gamma x_j^\top x_j)\Big]⟧ .$$
#
# (`fastlmm_vi.wide.basis.elbo`; `fastlmm_vi_kernels.spectral.profile` computes both, its argument `h` says which.)
# So the ELBO can be maximised over one variable, without a single sweep: the library's `solver="collapsed"`. **Gap
# 6.3**: write it. The kernel gives σ²_e = F/n at this γ.


# %%
def rotate(y, Z, X):
    """d, y, Q, n of lesson 04: eigenvalues of K, and residual of y and orthonormal covariates in its eigenbasis."""
    d, U = np.linalg.eigh(X @ X.T)
    Q = np.linalg.qr(Z)[0]
    return np.maximum(d, 0.0), U.T @ (y - Q @ (Q.T @ y)), np.ascontiguousarray(U.T @ Q), len(y)


rotated = rotate(y, Z, X)


# %% gap="6.3"
def elbo_profile(gamma, rotated, sq_norms):
    """ELBO at γ with q, ω and σ²_e at their optimum; `sq_norms` are the x_jᵀx_j."""
    d, y, Q, n = rotated
    _, _, _, sigma2_e, _ = spectral.profile(gamma, d, y, Q, n, d, False)
    ### SOLUTION
    value = -0.5 * (n * (np.log(2 * np.pi * sigma2_e) + 1) + np.log1p(gamma * sq_norms).sum())
    ### WRONG this is the log-likelihood: eigenvalues in place of the diagonal
    value = -0.5 * (n * (np.log(2 * np.pi * sigma2_e) + 1) + np.log1p(gamma * d).sum())
    ### WRONG the quadratic form at its optimum, n, is forgotten
    value = -0.5 * (n * np.log(2 * np.pi * sigma2_e) + np.log1p(gamma * sq_norms).sum())
    ### WRONG the factor ½ of the logarithms is forgotten
    value = -0.5 * n * (np.log(2 * np.pi * sigma2_e) + 1) - np.log1p(gamma * sq_norms).sum()
    ### END
    return value


# %% check="6.3"
rng = np.random.default_rng(63)
for gamma in (0.02, 0.3):
    V = np.eye(n) + gamma * X @ X.T
    best_omega = np.linalg.solve(Z.T @ inv(V) @ Z, Z.T @ inv(V) @ y)
    r = y - Z @ best_omega
    best_e = r @ inv(V) @ r / n
    mu, A = posterior(y, Z, X, best_omega, gamma * best_e, best_e)
    at_best = elbo(y, Z, X, best_omega, gamma * best_e, best_e, mu, 1 / np.diag(A))
    assert abs(elbo_profile(gamma, rotated, sq_norms) - at_best) < 1e-6, (
        f"gap 6.3: at γ = {gamma} the ELBO at the best q, ω, σ²_e is {at_best:.4f}, from its definition."
    )
    for _ in range(20):
        e = best_e * np.exp(0.1 * rng.normal())
        q = mu + 0.02 * rng.normal(size=p), np.exp(0.1 * rng.normal(size=p)) / np.diag(A)
        moved = elbo(y, Z, X, best_omega + 0.05 * rng.normal(size=2), gamma * e, e, *q)
        assert moved < elbo_profile(gamma, rotated, sq_norms), (
            "gap 6.3: another q, ω, σ²_e has a higher ELBO at this γ."
        )
print("gap 6.3 ✓")

# %% [markdown]
# Its maximiser is the library's mean-field fit:

# %%
found = optimize.minimize_scalar(
    lambda t: -elbo_profile(np.exp(t), rotated, sq_norms),
    bounds=(-10.0, 3.0),
    method="bounded",
    options={"xatol": 1e-8},
)
library = fl.WideLMM("mfvi", fit_intercept=False).fit(X, y, Z)
assert np.isclose(np.exp(found.x), library.sigma2_beta_ / library.sigma2_e_, rtol=1e-4)
assert np.isclose(-found.fun, library.elbo_, rtol=1e-10)

# %% [markdown]
# ### The gap rises with γ
#
# Differentiate the gap in $\log\gamma$ ($\gamma\,\tfrac{d}{d\gamma}\log(1+\gamma x)=\tfrac{\gamma x}{1+\gamma x}$),
# with $a_j=x_j^\top x_j$:
#
# $$\frac{d\,\text{gap}}{d\log\gamma}=\tfrac12\Big[\sum_jf(a_j)-\sum_if(d_i)\Big],\qquad
# f(x)=\frac{\gamma x}{1+\gamma x}.$$
#
# **It is never negative.** Let $X^\top X=W\Lambda W^\top$ with $W$ orthogonal and
# $\Lambda=\operatorname{diag}(\lambda_1,\dots,\lambda_p)$. The diagonal of $X^\top X$ is
# $a_j=\sum_kW_{jk}^2\lambda_k$. Rows and columns of an orthogonal matrix have length 1, so the weights $W_{jk}^2$ sum
# to 1 over $k$ **and** over $j$: each $a_j$ is a weighted mean of the eigenvalues (the diagonal is *majorised* by
# them, the theorem of Schur and Horn). The function $f$ is strictly concave, $f'(x)=\gamma/(1+\gamma x)^2$ falls, so
# by Jensen's inequality, summed over $j$,
#
# $$f(a_j)\ge\sum_kW_{jk}^2f(\lambda_k)\qquad\Longrightarrow\qquad
# \sum_jf(a_j)\ge\sum_k\Big(\sum_jW_{jk}^2\Big)f(\lambda_k)=\sum_kf(\lambda_k)=\sum_if(d_i),$$
#
# the last because $f(0)=0$ and the eigenvalues of $X^\top X$ and $K$ agree but for zeros. With $f=\log(1+\gamma x)$,
# also concave and 0 at 0, the same lines prove Hadamard's inequality once more. Equality in Jensen's inequality needs
# all $\lambda_k$ with $W_{jk}\ne0$ to be equal, that is $X^\top Xe_j=a_je_j$, for every $j$: orthogonal columns.
#
# A second look at the same derivative: $f(x)=1-\tfrac1{1+\gamma x}$ turns it into
# $\tfrac12\big[\sum_k\tfrac1{1+\gamma\lambda_k}-\sum_j\tfrac1{1+\gamma a_j}\big]$, which is
#
# $$\frac{d\,\text{gap}}{d\log\gamma}=\frac{\operatorname{tr}S-\operatorname{tr}S_q}{2\sigma^2_\beta}.$$
#
# **The variance that mean field loses is the force that pulls γ down.**
#
# ### Hence γ and σ²_β shrink
#
# Let $\hat\gamma$ maximise ℓ. For every $\gamma>\hat\gamma$: $\ell(\gamma)\le\ell(\hat\gamma)$ and
# $\text{gap}(\gamma)>\text{gap}(\hat\gamma)$ (unless the columns are orthogonal), so
# $\text{ELBO}(\gamma)<\text{ELBO}(\hat\gamma)$: the ELBO's maximum is not above $\hat\gamma$. Nor is it at
# $\hat\gamma>0$ itself: there the slope of ℓ is 0, and the ELBO's is minus that of the gap, which is negative. The
# ELBO's γ is **smaller**.
#
# So is σ²_β:
# $\sigma^2_\beta(\gamma)=\gamma F(\gamma)/n=\tfrac1n\min_\omega\sum_i\tfrac{\gamma}{1+\gamma d_i}r_i(\omega)^2$; at
# fixed ω each term rises with γ, hence so does the minimum over ω. And $\sigma^2_e=F(\gamma)/n$ does not fall when γ
# falls, by the same argument: noise takes over what the features give up. The share of variance explained,
# $\text{PVE}=\tfrac{\sigma^2_\beta t}{\sigma^2_\beta t+\sigma^2_e}=\tfrac{\gamma t}{1+\gamma t}$ with
# $t=\operatorname{tr}(MK)/(n-c)$ and $M=I-Z(Z^\top Z)^{-1}Z^\top$
# (`fastlmm_vi.wide.rotated.Rotated.explained`, divided by $n-c$), rises with γ: it shrinks too.
#
# How much? For small γ, $\log(1+x)=x-\tfrac{x^2}2+\dots$ and $\sum_ja_j=\operatorname{tr}X^\top X=\sum_id_i$ remove
# the first order; with $\sum_id_i^2=\operatorname{tr}(X^\top X)^2=\sum_{j,k}(x_j^\top x_k)^2$,
#
# $$\text{gap}(\gamma)\approx\frac{\gamma^2}4\sum_{j\ne k}(x_j^\top x_k)^2 .$$
#
# Every pair of features counts with its squared inner product. Features need not be correlated in the population: the
# inner products of $p\gg n$ independent columns are not zero in a sample, and there are $p(p-1)$ of them.

# %%
gammas = np.geomspace(1e-4, 10.0, 60)
d = rotated[0]
step = 1e-5
up, down = (spectral.mean_field_gap(gammas * np.exp(s), sq_norms, d) for s in (step, -step))
f = lambda x: (gammas[:, None] * x / (1 + gammas[:, None] * x)).sum(axis=1)
slope = 0.5 * (f(sq_norms) - f(d))
assert np.allclose(slope, (up - down) / (2 * step), rtol=1e-5, atol=1e-7), "the derivative of the gap"
assert (slope >= 0.0).all(), "the gap rises"
for k in (20, 40):
    A = np.eye(p) + gammas[k] * X.T @ X  # times σ²_β, so that variances come out in units of σ²_β
    assert np.isclose(slope[k], (np.trace(inv(A)) - (1 / np.diag(A)).sum()) / 2), "half the lost variance"
pairs = ((X.T @ X) ** 2).sum() - (sq_norms**2).sum()
assert np.isclose(spectral.mean_field_gap(np.array([1e-6]), sq_norms, d)[0], 1e-12 * pairs / 4, rtol=1e-2)

# %% [markdown]
# ### The worst case is 0
#
# Features coded 0, 1, 2 (copies of a genetic variant) and not centred: all columns share the direction of the
# constant. One eigenvalue of $K$ is huge, and the intercept takes nearly all of this direction out of $y$. The
# likelihood pays $\tfrac12\log(1+\gamma d_{\max})$ for it, a few units, once. The ELBO pays in every column,
# $\tfrac12\sum_j\log(1+\gamma x_j^\top x_j)$, and loses the signal altogether: its maximum is at σ²_β = 0 exactly. The
# library says so by a warning, caught here. At γ = 0 both criteria have the same slope, since the gap begins with γ²;
# here it is negative, and from this dip the likelihood recovers while the ELBO does not.

# %%
rng = np.random.default_rng(2)
frequency = rng.uniform(0.1, 0.9, size=300)
counts = rng.binomial(2, frequency, size=(100, 300)).astype(float)
signal = counts @ rng.normal(size=300)
signal = (signal - signal.mean()) / signal.std()
trait = 1.0 + signal + 0.5 * rng.normal(size=100)  # features explain 80 % of the variance

by_likelihood = fl.WideLMM("newton").fit(counts, trait)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    by_elbo = fl.WideLMM("mfvi").fit(counts, trait)
assert by_likelihood.pve_ > 0.5, "the likelihood finds the signal"
assert by_elbo.sigma2_beta_ == 0.0
assert by_elbo.status_ is fl.Status.SHRUNK_TO_ZERO
assert any("lost the signal" in str(warning.message) for warning in caught)

d, t, Q, size = rotate(trait, np.ones((100, 1)), counts)
slopes = [spectral.profile(0.0, d, t, Q, size, h, False)[1] for h in (d, (counts**2).sum(axis=0))]
assert slopes[0] < 0.0, "a dip at γ = 0"
assert np.isclose(*slopes), "common to both criteria"

# %% figure="lost_signal"
rotated_counts, diagonal = rotate(trait, np.ones((100, 1)), counts), (counts**2).sum(axis=0)
d, t, Q, size = rotated_counts
zero = spectral.profile(0.0, d, t, Q, size, d, False)[0]
gammas = np.geomspace(1e-5, 1.0, 150)
figure, ax = plt.subplots()
ax.semilogx(gammas, [spectral.profile(g, d, t, Q, size, d, False)[0] - zero for g in gammas], label="log-likelihood")
ax.semilogx(gammas, [elbo_profile(g, rotated_counts, diagonal) - zero for g in gammas], "--", label="ELBO")
ax.axhline(0.0, color="0.6", lw=0.8)
ax.set(
    xlabel="$\\gamma$",
    ylabel="criterion, minus its value at 0",
    ylim=(-12.0, 4.0),
    title="features 0, 1, 2, not centred",
)
ax.legend(frameon=False, loc="lower left")
plt.show()

# %% [markdown]
# ## 7. The remedy for θ
#
# Nothing forces θ and $q$ to come from the same criterion. `WideLMM("mfvi", theta_by="loglik")` takes θ from the
# profile likelihood and leaves only $q$ to mean field. Then θ is the maximum-likelihood estimate, with its standard
# errors; the means of β and all predicted means are the exact ones (section 3). The variances of β are still
# $1/A_{jj}$: the remedy is for θ, not for them. The price is the eigendecomposition of $K$, which mean field was
# perhaps chosen to avoid.
#
# ## 8. EM and mean field on the data
#
# Everything below is the literal model (Z as given, no intercept), with one spectrum for all fits:
#
# * `ml`: maximum likelihood by Newton's method (lesson 04), the reference;
# * `em`: EM (lesson 03); it must end at the same place;
# * `plain`: variational EM, the textbook's alternation of the best q and the M-step (lesson 05);
# * `own`: mean field with the collapsed ELBO maximised by Newton's method; it must end where `plain` does;
# * `same`: mean field by sweeps at maximum likelihood's θ (`theta_by="loglik"`).

# %%
spectrum = fl.Spectrum.of(data.X)
covariates = pd.DataFrame(data.Z, columns=list(data.Z_names))


def fitted(method, **options):
    """The fit of the literal model to the data."""
    return fl.WideLMM(method, fit_intercept=False, **options).fit(data.X, data.y, covariates, spectrum=spectrum).fit_


ml, em = fitted("newton"), fitted("em")
plain, own = fitted("mfvi", solver="collapsed", accelerate=False), fitted("mfvi", solver="collapsed")
same = fitted("mfvi", theta_by="loglik", solver="sweep")

# %% [markdown]
# ### ℓ, ELBO and gap as functions of γ
#
# Two scans and two roots of a slope, from the kernel alone. The maxima are those of the fits.

# %% data=true
rotated = rotate(data.y, data.Z, data.X)
d, sq_norms = rotated[0], (data.X**2).sum(axis=0)
grid = np.geomspace(1e-4 / d.max(), 1e3 / d.mean(), 150)


def maximum(h):
    """γ, criterion and σ²_e at the global maximum; h: eigenvalues (log-likelihood) or diagonal (ELBO)."""
    k = int(np.argmax([spectral.profile(g, *rotated, h, False)[0] for g in grid]))
    slope = lambda t: spectral.profile(np.exp(t), *rotated, h, False)[1]
    gamma = np.exp(optimize.brentq(slope, np.log(grid[k - 1]), np.log(grid[k + 1]), xtol=1e-12))
    value, _, _, sigma2_e, _ = spectral.profile(gamma, *rotated, h, False)
    return gamma, value, sigma2_e


top_loglik, top_elbo = maximum(d), maximum(sq_norms)
assert np.isclose(top_loglik[1], ml.loglik, rtol=1e-10)
assert np.isclose(top_elbo[1], own.elbo, rtol=1e-10)
rng = np.random.default_rng(6)
shuffled = np.column_stack([rng.permutation(column) for column in data.X.T])  # rows like those of X, but new
predictive = [fit.posterior.predictive(shuffled) + fit.sigma2_e for fit in (ml, own)]
change = abs(np.log(np.sqrt(predictive[1] / predictive[0]).mean()))
assert change < abs(np.log(np.sqrt(own.beta_var / ml.beta_var).mean())), (
    "responses' intervals change less than effects'"
)
print("maximum of     criterion     σ²_β      σ²_e")
for name, (gamma, value, sigma2_e) in (("log-likelihood", top_loglik), ("ELBO          ", top_elbo)):
    print(f"{name} {value:.2f}      {gamma * sigma2_e:.4g}    {sigma2_e:.4g}")

# %% figure="profile"
gammas = np.geomspace(min(top_loglik[0], top_elbo[0]) / 12, top_loglik[0] * 4, 150)
values = np.array([spectral.profile(g, *rotated, d, False)[0] for g in gammas])
gaps = spectral.mean_field_gap(gammas, sq_norms, d)
figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.6))
axes[0].semilogx(gammas, values, color="#0072B2", label="log-likelihood")
axes[0].semilogx(gammas, values - gaps, "--", color="#D55E00", label="ELBO")
axes[1].loglog(gammas, gaps, color="0.3", label="gap")
for (gamma, value, _), color in ((top_loglik, "#0072B2"), (top_elbo, "#D55E00")):
    axes[0].plot([gamma], [value], "o", color=color)
    axes[1].plot([gamma], spectral.mean_field_gap(np.array([gamma]), sq_norms, d), "o", color=color)
height = top_loglik[1] - values[0]
axes[0].set(xlabel="$\\gamma$", ylabel="criterion", ylim=(values[0] - 0.8 * height, top_loglik[1] + 0.2 * height))
axes[0].ticklabel_format(axis="y", useOffset=False)
axes[0].legend(frameon=False, loc="upper left")
axes[0].set_title("dots: the maxima", fontsize=11)
axes[1].set(xlabel="$\\gamma$", ylabel="gap, nats")
plt.show()

# %% [markdown]
# The two curves agree for small γ and part where the gap begins to count. Maximum likelihood has σ²_β =
# «fits.newton.sigma2_beta:.4g», σ²_e = «fits.newton.sigma2_e:.4g» and attributes «fits.newton.pve:.1%» of the variance
# to the features. The ELBO's maximum has σ²_β = «fits.mfvi.sigma2_beta:.4g», σ²_e = «fits.mfvi.sigma2_e:.4g», and a
# share of «fits.mfvi.pve:.1%»: who learns θ by the ELBO reports the second number.
# Intervals for a new response change less than those for the effects, since the larger σ²_e makes up for the smaller
# σ²_β. The status of that fit is "«table.mfvi.status»". Its log-likelihood is «fits.mfvi.loglik:.2f» against
# «fits.newton.loglik:.2f».
#
# The gap is «table.mfvi.gap:.3f» at the ELBO's own θ, and it would be «table.mfvi_loglik.gap:.2f» at maximum
# likelihood's. The ELBO chose a θ at which its own approximation is better. **The gap at the end says how well q fits
# the posterior at that θ, not whether θ is good.**

# %% [markdown] slide="comparison"
# # Learning θ by the ELBO shrinks the random effects
#
# $$\frac{d\,\mathrm{gap}}{d\log\gamma}=\frac{\mathrm{tr}\,S-\mathrm{tr}\,S_q}{2\sigma^2_\beta}\geq 0$$
#
# ![Left: log-likelihood and ELBO against γ with their maxima, the ELBO's at a smaller γ.
# Right: the gap rises with γ.](wide:profile)
#
# - σ²_{β}: «fits.newton.sigma2_beta:.3g» by ML, «fits.mfvi.sigma2_beta:.3g» by the ELBO; PVE: «fits.newton.pve:.3f» and «fits.mfvi.pve:.3f»
# - ELBO(γ) = ℓ(γ) − gap(γ), and the gap rises with γ. Remedy: theta_by="loglik"
#
# ---
# Say: The ELBO is the log-likelihood minus a penalty that rises with γ, so its maximum lies to the left. The penalty's
# slope is the variance that mean field loses. The proof needs one orthogonal matrix and Jensen's inequality. With
# features 0, 1, 2 that are not centred σ²_β can end at 0, the signal lost.
#
# Ask: The gap is smaller at the ELBO's maximum than at ML's θ. Does this show that the ELBO's θ is better?
#
# Answer: No. It shows that q fits the posterior better there. The ELBO moved θ to where independence costs less.
#
# Minutes: 4

# %% [markdown]
# ### One table
#
# `fl.compare` sets the fits side by side; the first is the reference of the three rows about β (correlation and root
# mean square difference of the posterior means, mean ratio of the variances).

# %% data=true
names = ["ML", "EM", "var. EM", "MFVI", "MFVI, ML's θ"]
table = fl.compare(ml, em, plain, own, same, names=names)
rows = ["sigma2_beta", "sigma2_e", "pve", "loglik", "elbo", "gap"]
rows += ["beta_mean_correlation", "beta_mean_rmse", "beta_var_ratio", "n_iter", "status"]


def shown(row, value):
    """Five significant digits, six of the criteria, four of the root mean squares; a dash for what there is not."""
    if not isinstance(value, float):
        return str(value)
    digits = {"loglik": 6, "elbo": 6, "beta_mean_rmse": 4}.get(row, 5)
    return "-" if np.isnan(value) else format(value, f"#.{digits}g")


print(" " * 22 + "".join(f"{name:>14}" for name in names))
for row in rows:
    print(f"{row:22}" + "".join(f"{shown(row, table.loc[row, name]):>14}" for name in names))

# %% timing=true
print(f"spectrum and rotation of ML: {ml.timings['spectrum']:.3f} s (the decomposition itself was made once, before)")
for name, fit in zip(names, (ml, em, plain, own, same), strict=True):
    print(f"{name:14s} {fit.timings[fit.method]:8.3f} s for {fit.n_iter} iterations")

# %% [markdown]
# How to read it:
#
# * **EM and ML agree**, to EM's tolerance, in all but the number of iterations («table.em.n_iter» against
#   «table.newton.n_iter»): they are two ways to one maximum. Variational EM and MFVI agree likewise, after
#   «table.mfvi_plain.n_iter» and «table.mfvi.n_iter» iterations.
# * **At the same θ** (last column) the means are ML's, to the sweeps' tolerance: a root mean square difference of
#   «table.mfvi_loglik.beta_mean_rmse:.1e». Variances are «table.mfvi_loglik.beta_var_ratio:.3f» of the exact ones on
#   average. Small losses in many effects make a large gap, «table.mfvi_loglik.gap:.1f» here. (They do not simply add up:
#   a correlated pair lowers two variances but enters the gap once, exercise 1.)
# * **At its own θ** the means still correlate with «table.mfvi.beta_mean_correlation:.4f», but they are shrunk more,
#   and the variances are «table.mfvi.beta_var_ratio:.3f» of the exact ones at ML's θ. The last column (same θ) is what
#   the neglected correlations do, «table.mfvi_loglik.beta_var_ratio:.3f»; the rest is the other θ, σ²_β =
#   «table.mfvi.sigma2_beta:.4g» in place of «table.newton.sigma2_beta:.4g».
#
# ### The pictures
#
# First both criteria by iteration. EM's log-likelihood never falls. Variational EM's ELBO never falls; the
# log-likelihood along its path may, and ends below the maximum (dotted), for it is not what is climbed.

# %% figure="traces"
figure, axes = plt.subplots(1, 2, figsize=(8.0, 3.8))
fl.plot_trace(em, names=["EM"], optimum=ml.loglik, ax=axes[0])
fl.plot_trace(plain, names=["variational EM"], optimum=ml.loglik, ax=axes[1])
axes[0].legend(axes[0].lines, ["log-likelihood", "its maximum"], frameon=False, loc="lower right", fontsize="small")
labels = ["log-likelihood", "ELBO", "maximum of ℓ"]
axes[1].legend(axes[1].lines, labels, frameon=False, loc="lower right", fontsize="small")
axes[1].set_ylabel("")
for ax, title in zip(axes, ("EM", "variational EM: the gap is shaded"), strict=True):
    ax.set_xlabel("iteration (start = 1)")
    ax.set_title(title, fontsize=11)
plt.show()

# %% [markdown]
# The gap by iteration. Variational EM has the best q for its θ in every iteration, so its gap falls only as γ falls;
# that of the collapsed fit follows γ likewise. Sweeps at fixed θ start from zero means, where KL is dominated by the
# distance of the means, and come down to the floor of section 4.

# %% figure="gap_path"
figure, ax = plt.subplots()
fl.plot_gap(plain, own, same, names=["variational EM", "MFVI, collapsed", "sweeps at ML's θ"], ax=ax)
plt.show()

# %% [markdown]
# The posterior means: equal at the same θ, shrunk at mean field's own.

# %% figure="means"
figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.6))
fl.plot_compare(ml, same, names=["ML", "mean field"], ax=axes[0])
fl.plot_compare(ml, own, names=["ML", "mean field"], ax=axes[1])
axes[0].set_title("the same θ")
axes[1].set_title("each at its own θ")
axes[1].set(xlim=axes[0].get_xlim(), ylim=axes[0].get_ylim(), ylabel="")
plt.show()

# %% [markdown]
# The variances of the β_j, as ratios to the exact ones.

# %% figure="variances"
figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.6))
fl.plot_variances(ml, same, names=["ML", "mean field"], ax=axes[0])
fl.plot_variances(ml, own, names=["ML", "mean field"], ax=axes[1])
axes[0].set_title("the same θ")
axes[1].set_title("each at its own θ")
axes[1].set_ylabel("")
for ax in axes:
    ax.locator_params(axis="x", nbins=4)
plt.show()

# %% [markdown]
# The fixed effects: ω is a weighted regression, and γ changes its weights. Where the covariates are nearly uncorrelated
# with the leading eigenvectors of $K$, this matters little against the standard errors.

# %% figure="omega"
figure, ax = plt.subplots(figsize=(8.4, 3.8))
fl.plot_omega(ml, own, names=["ML", "mean field, own θ"], ax=ax)
plt.show()

# %% [markdown] slide="comparison"
# # One table: EM and ML agree, MFVI's own θ does not
#
# | | EM | ML | MFVI | MFVI, ML's θ |
# |---|---|---|---|---|
# |σ²_{β}|«fits.em.sigma2_beta:.4g»|«fits.newton.sigma2_beta:.4g»|«fits.mfvi.sigma2_beta:.4g»|«mfvi_loglik.sigma2_beta:.4g»|
# |σ²_{e}|«fits.em.sigma2_e:.4g»|«fits.newton.sigma2_e:.4g»|«fits.mfvi.sigma2_e:.4g»|«mfvi_loglik.sigma2_e:.4g»|
# |log-likelihood|«fits.em.loglik:.2f»|«fits.newton.loglik:.2f»|«fits.mfvi.loglik:.2f»|«mfvi_loglik.loglik:.2f»|
# | ELBO | – | – | «fits.mfvi.elbo:.2f» | «mfvi_loglik.elbo:.2f» |
# |Var(β)/ML|«table.em.beta_var_ratio:.3f»|1|«table.mfvi.beta_var_ratio:.3f»|«table.mfvi_loglik.beta_var_ratio:.3f»|
# | iterations | «fits.em.n_iter» | «fits.newton.n_iter» | «fits.mfvi.n_iter» | «mfvi_loglik.n_iter» |
#
# ---
# Say: Read the columns in pairs. EM and ML are two ways to one maximum. The last column takes ML's θ and lets mean
# field do β alone: the means are exact, the variances slightly small, and the lower ELBO is the price of staying at
# the right θ.
#
# Ask: Which column would the ELBO prefer, and is it right to?
#
# Answer: MFVI at its own θ has the higher ELBO. For q it is right; for θ the log-likelihood decides, and it prefers
# ML.
#
# Minutes: 3

# %% [markdown] slide="comparison"
# # Iterating brings the gap down to a floor, not to zero
#
# ![Gap against iteration for variational EM, the collapsed fit and sweeps at maximum likelihood's θ,
# logarithmic scales.](chart:gap_path)
#
# - Floor: gap(γ) of the closed form
# - Variational EM: falls as γ falls
# - Sweeps at ML's θ: a few suffice
# - EM: gap 0 in every E-step
#
# ---
# Say: Sweeps at a fixed θ bring the means to the exact ones and then stop at a floor that no iteration removes.
# Variational EM lowers the floor by moving θ, which is the shrinkage seen before.
#
# Ask: Variational EM needs «table.mfvi_plain.n_iter» iterations here. What makes it slow?
#
# Answer: As in EM, the M-step fits variances to a q made for the old ones: σ²_β changes by a factor close to 1 each time.
#
# Minutes: 2

# %% [markdown]
# ### What to remember
#
# * gap = KL(q ‖ posterior). At the best q it is
#   $\tfrac12[\sum_j\log(1+\gamma x_j^\top x_j)-\sum_i\log(1+\gamma d_i)]$, whatever $y$ is.
# * Same θ: same means, smaller variances; zero loss only for orthogonal columns.
# * The gap rises with γ, so the ELBO's γ, σ²_β and PVE are smaller than the likelihood's, sometimes 0.
# * `theta_by="loglik"` repairs θ and the means. It does not repair the variances.
#
# ## 9. Which lens when
#
# **What they share.** One model, one mean at given θ, the same M-step but for two traces, a criterion that never
# falls, and slowness of the plain alternation. In both the whole problem collapses to one function of γ: eigenvalues
# of $X^\top X$ in one, its diagonal in the other.
#
# **Speed.** On data that fit into memory with their spectrum it decides little: the spectrum is made once, and after that exact and collapsed
# fits are a matter of a few passes over $n$ or $p$ numbers. The difference comes with size. The exact fit needs
# $O(\min(n,p)^2\max(n,p))$ operations and $\min(n,p)^2$ numbers of memory; a sweep needs $O(np)$ operations and only
# X. Where both $n$ and $p$ are very large, sweeps are what remains (`solver="auto"` changes to them beyond 5000), at
# the price of a shrunken σ²_β: `theta_by="loglik"` needs the spectrum and is refused there.
#
# **Uncertainty.** Exact, wherever it can be computed. If σ²_β or PVE is the question, never take it from the ELBO. If
# effects or intervals at new features are, use the exact variances (they cost no $p\times p$ matrix), or correct mean
# field's (exercise 3).
#
# **Extensibility.** The exact E-step exists because everything is normal. A prior with many exact zeros, a binary
# response, heavy tails: the posterior is then no normal density, and EM needs sampling or an approximation, whereas
# factorised updates often remain simple. This is what mean field is for. The lesson of the normal case goes along: its
# means are useful, its variances and its θ are to be checked by other means.

# %% [markdown] slide="learned"
# # Choose the lens by the question
#
# | Question | Lens |
# |---|---|
# | σ²_{β}, PVE, their errors | ML or REML, Newton |
# | Derivation, teaching | EM: simple, slow |
# | Predicted means only | either, at ML's θ |
# | Effects with error bars | exact variances |
# | n and p both huge | mean-field sweeps |
# | Other priors, responses | mean field, checked |
#
# ---
# Say: Go down the questions, not the methods. Where the exact computation is possible it costs no more than the
# approximation, here at least. Mean field earns its place by size and by models in which no exact E-step exists.
#
# Ask: A colleague reports a PVE learned by an ELBO. What do you ask?
#
# Answer: What the likelihood says at that θ and at its own maximum, and whether the features are many or correlated.
#
# Minutes: 3

# %% [markdown] slide="learned"
# # What we learned: one model, two lenses
#
# - ℓ = ELBO + KL: EM makes KL zero, mean field makes it small
# - One rotation: all of θ becomes a search along one axis, γ
# - Same θ: same means. **Variances too small**, for every effect
# - Own θ: σ²_{β} and PVE too small: **check them by the likelihood**
#
# ---
# Say: One identity carries the whole course. Exact and variational inference differ in which matrix enters a
# logarithm: the eigenvalues or the diagonal. All differences in these lessons follow from this one.
#
# Ask: Name one thing that more iterations of variational EM cannot repair.
#
# Answer: The bias of σ²_β at the ELBO's maximum, and the variances of β: both belong to the optimum, not to the path
# to it.
#
# Minutes: 2

# %% [markdown]
# ## What we learned
#
# A linear mixed model describes thousands of small effects by one variance, and integrating them out leaves a normal
# likelihood with few parameters. EM climbs it by alternating a ridge regression with error bars and averages of
# squares, and never falls. Rotating the data once into the eigenbasis of $XX^\top$ frees every iteration from $p$, and
# reduces the problem to one variable, γ. After a scan Newton's method needs «table.newton.n_iter» steps where EM needs
# «table.em.n_iter», and REML corrects for the estimated ω. Mean field replaces the posterior by independent factors and the
# log-likelihood by the ELBO, whose maximum sweeps over the columns reach without any Gram matrix. The difference of
# the two criteria is a KL divergence with a closed form: the eigenvalues of $X^\top X$ against its diagonal. At the
# same θ it costs nothing in the means and something in every variance; if θ is learned by it, σ²_β and the share of
# variance explained come out too small. So let the likelihood choose θ wherever it can be computed, and use mean field
# for what only it can do.

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Two features in closed form. Let both columns have squared length $N$ and correlation ρ,
# $x_1^\top x_2=N\rho$. Show $s_j^2/S_{jj}=1-r^2$ with $r=\tfrac{\gamma N\rho}{1+\gamma N}$, and
#
# $$\text{gap}=⟦6.E1: -\tfrac12\log(1-r^2),\quad r=\frac{\gamma N\rho}{1+\gamma N}⟧ .$$
#
# *Solution.* $\sigma^2_\beta A$ has the diagonal $1+\gamma N$ and the off-diagonal entry $\gamma N\rho$. Scaled to a
# unit diagonal it is $C$ with off-diagonal $r$, and section 4 says $\text{gap}=-\tfrac12\log\left|C\right|$. The
# inverse of a 2 × 2 matrix gives
# $S_{jj}=\sigma^2_\beta\frac{1+\gamma N}{(1+\gamma N)^2-(\gamma N\rho)^2}=\frac{s_j^2}{1-r^2}$. And $-r$ is the
# correlation of $\beta_1$ and $\beta_2$ in the posterior: the gap is what is lost by ignoring it (lesson 02 writes
# the gap by the posterior's correlation; here it is written by that of the features).


# %% gap="6.E1"
def gap_of_two(rho, gamma, N):
    """The gap of two features of squared length N and correlation rho."""
    ### SOLUTION
    r = gamma * N * rho / (1 + gamma * N)
    value = -0.5 * np.log(1 - r**2)
    ### WRONG the features' correlation in place of the posterior's
    value = -0.5 * np.log(1 - rho**2)
    ### WRONG the determinant of a 2 × 2 correlation matrix is not 1 − |r|
    r = gamma * N * rho / (1 + gamma * N)
    value = -0.5 * np.log(1 - abs(r))
    ### WRONG the factor ½ is missing
    r = gamma * N * rho / (1 + gamma * N)
    value = -np.log(1 - r**2)
    ### END
    return value


# %% check="6.E1"
for rho, gamma, N in ((0.5, 0.2, 10.0), (-0.9, 1.0, 50.0), (0.99, 0.05, 4.0)):
    pair = np.sqrt(N) * np.array([[1.0, rho], [0.0, np.sqrt(1 - rho**2)]])
    dense = gap_at_optimum(pair, gamma)
    assert np.isclose(gap_of_two(rho, gamma, N), dense), (
        f"gap 6.E1: for ρ = {rho}, γN = {gamma * N} the gap is {dense:.4f}."
    )
print("gap 6.E1 ✓")

# %% [markdown]
# **Exercise 2.** The gap with blocks (lesson 05 derived their update). Let $q$ factorise over blocks $B$ of effects,
# $q=\prod_BN(m_B,S_B)$, with any covariance within a block. Which $S_B$ is best, and what is the gap?
#
# *Solution.* As in section 2,
# $\mathrm{KL}=\tfrac12[\sum_B\operatorname{tr}(A_{BB}S_B)-p-\log\left|A\right|-\sum_B\log\left|S_B\right|+\dots]$. The
# derivative in $S_B$ is $\tfrac12(A_{BB}-S_B^{-1})$, so $S_B=A_{BB}^{-1}$: the covariance given all other blocks. The
# traces sum to $p$ again, and
#
# $$\text{gap}=⟦6.E2: \tfrac12\Big[\sum_B\log\left|A_{BB}\right|-\log\left|A\right|\Big]⟧ .$$
#
# One effect per block is mean field; a single block is exact. Merging blocks never raises the gap, since the larger
# family contains the smaller. Correlated features belong in one block.


# %% gap="6.E2"
def block_gap(A, blocks):
    """The smallest KL over q that factorises over `blocks`, lists of indices."""
    ### SOLUTION
    value = 0.5 * (sum(slogdet(A[np.ix_(b, b)])[1] for b in blocks) - slogdet(A)[1])
    ### WRONG marginal covariances: the blocks of S in place of those of A
    S = inv(A)
    value = 0.5 * (sum(slogdet(S[np.ix_(b, b)])[1] for b in blocks) - slogdet(S)[1])
    ### WRONG the blocks' diagonal only: this is mean field again
    value = 0.5 * (sum(np.log(np.diag(A)[b]).sum() for b in blocks) - slogdet(A)[1])
    ### END
    return value


# %% check="6.E2"
A = np.eye(12) + 0.5 * X[:, :12].T @ X[:, :12]
blocks = [[0, 1, 2], [3, 4], [5, 6, 7, 8], [9], [10, 11]]
value = block_gap(A, blocks)
normal_kl = lambda S_q: 0.5 * (np.trace(A @ S_q) - 12 - slogdet(A)[1] - slogdet(S_q)[1])
rng = np.random.default_rng(62)
best = np.zeros((12, 12))
for b in blocks:
    best[np.ix_(b, b)] = inv(A[np.ix_(b, b)])
for _ in range(20):
    root = np.eye(12)
    for b in blocks:
        root[np.ix_(b, b)] += 0.1 * rng.normal(size=(len(b), len(b)))
    assert normal_kl(root @ best @ root.T) > value - 1e-9, (
        "gap 6.E2: a q with these blocks has a smaller KL than yours."
    )
assert np.isclose(normal_kl(best), value), "gap 6.E2: this KL is not attained by any q with these blocks."
assert abs(block_gap(A, [list(range(12))])) < 1e-9, "gap 6.E2: a single block is the exact posterior."
assert 0 < value < block_gap(A, [[j] for j in range(12)]), "gap 6.E2: blocks lose less than single effects."
print("gap 6.E2 ✓")

# %% [markdown]
# **Exercise 3.** Exact variances from mean-field means: the linear response. Tilt the posterior: multiply its density
# by $\exp(t\beta_j)$ and normalise. Show that the mean of $\beta_j$ then moves at the rate $S_{jj}$, and get exact
# variances from sweeps alone.
#
# *Solution.* The log density is $-\tfrac12\beta^\top A\beta+b^\top\beta$ with $b=X^\top(y-Z\omega)/\sigma^2_e$; the
# tilt replaces $b$ by $b+te_j$, and the mean $A^{-1}b$ becomes $A^{-1}b+tSe_j$. Mean field's mean is exact for every
# right-hand side (section 3), so it answers to the tilt as the exact mean does:
#
# $$S_{jj}=⟦6.E3: m_j(b+e_j)-m_j(b)⟧,$$
#
# although $q$ itself says $1/A_{jj}$. The variance of a prediction, $x^\top Sx$, takes one more run of sweeps with
# $b+x$; all $p$ variances take $p$ runs, where the spectrum is faster if it can be afforded. **Gap 6.E3**:
# `means_by_sweeps(A, b)` runs them to the end.


# %%
def means_by_sweeps(A, b, sweeps=400):
    """Mean-field means for the precision A and the linear term b: Gauss–Seidel, one effect after the other."""
    mean = np.zeros(len(b))
    for _ in range(sweeps):
        for j in range(len(b)):
            mean[j] += (b[j] - A[j] @ mean) / A[j, j]
    return mean


# %% gap="6.E3"
def response_variances(A, b):
    """Var(β_j) of the exact posterior for all j, from mean-field means only."""
    p = len(b)
    before, var = means_by_sweeps(A, b), np.empty(p)
    for j in range(p):
        e = np.eye(p)[j]
        ### SOLUTION
        var[j] = means_by_sweeps(A, b + e)[j] - before[j]
        ### WRONG the mean before the tilt is not subtracted
        var[j] = means_by_sweeps(A, b + e)[j]
        ### WRONG the other means are not allowed to answer: one effect's update is the conditional variance again
        var[j] = (b[j] + 1.0 - A[j] @ before + A[j, j] * before[j]) / A[j, j] - before[j]
        ### WRONG the answers of all means are added up
        var[j] = (means_by_sweeps(A, b + e) - before).sum()
        ### END
    return var


# %% check="6.E3"
b = X[:, :12].T @ (y - Z @ omega)
yours, exact_variances = response_variances(A, b), np.diag(inv(A))
assert np.allclose(yours, exact_variances, rtol=1e-6), (
    "gap 6.E3: these are not the exact variances. How much does the j-th mean move when b_j rises by 1?"
)
assert (yours > 1 / np.diag(A)).all(), "gap 6.E3: q's own variances are smaller."
print("gap 6.E3 ✓")
