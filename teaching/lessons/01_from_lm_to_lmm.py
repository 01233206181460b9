# %% [markdown]
# # From the ordinary linear model to the mixed model
#
# Why a normal distribution on β replaces p unknown coefficients by one variance, how least squares becomes ridge
# regression, and how the marginal likelihood and REML estimate what is left: c effects and two variances.
#
# You need: least squares, the multivariate normal distribution, the singular value decomposition. Time: 90 minutes.
#
# ## 1. Two models for the same data
#
# $$y=Z\omega+X\beta+e,\qquad e\sim N(0,\sigma^2_eI_n)$$
#
# $y$ holds $n$ observations. $Z$ is $n\times c$ of full column rank: a few *covariates*, the constant among them, with
# effects ω. $X$ is $n\times p$ with many *features*, with effects β; its columns are $x_j$. The **ordinary linear
# model** takes ω and β as unknown constants. The **mixed model** takes ω as constants (*fixed effects*) and β as random
# (*random effects*):
#
# $$\beta\sim N(0,\sigma^2_\beta I_p),\quad\text{independent of } e.$$
#
# What has to be estimated? Random effects are predicted from their distribution; they are not parameters.
#
# | model | parameters | how many | without $Z$ |
# |---|---|---|---|
# | ordinary, β fixed | β, $\sigma^2$, and ω | $p+1$, and $c$ more | $p+1$ |
# | mixed, β random | ω, $\sigma^2_\beta$, $\sigma^2_e$ | $c+2$ | $2$ |
#
# In short: **p + 1 parameters against c + 2**. The first number grows with the width of $X$, the second does not.
#
# $$\boxed{\textbf{X and Z are the other way round than in lme4.}}$$
#
# lme4 and most textbooks write $X$ for the fixed part and $Z$ for the random part. Here $X$ holds the wide features
# with random effects and $Z$ the covariates with fixed effects. The arguments of `WideLMM.fit(X, y, covariates)` follow
# this course.

# %%
import tracemalloc

import matplotlib.pyplot as plt
import numpy as np
from fastlmm_vi_kernels import spectral
from numpy.linalg import inv, slogdet
from scipy.special import logsumexp
from scipy.stats import norm

import fastlmm_vi as fl

plt.rcParams.update({"figure.figsize": (6.4, 3.6), "figure.constrained_layout.use": True, "font.size": 11})


def features(n, p, rng):
    """Independent normal features with variance 1/p: then xᵀβ has variance σ²_β, whatever p is."""
    return rng.normal(size=(n, p)) / np.sqrt(p)


def covariates(n, c, rng):
    """A constant and c − 1 normal covariates."""
    return np.column_stack([np.ones(n), rng.normal(size=(n, c - 1))])


n, p, c = 200, 300, 3
print(f"n = {n}, p = {p}, c = {c}: ordinary model {p + 1} + {c} parameters, mixed model {c + 2}")

# %% [markdown] slide="model"
# # Linear mixed models, exact and variational
#
# One model, y = Zω + Xβ + e, seen through an exact and a variational lens
#
# ---
# Say: This course studies one model with many more features than observations. The lenses are the EM algorithm,
# the likelihood maximised directly (ML and REML), and mean-field variational inference, all on the same data.
#
# Ask: Who has fitted a regression with more columns than rows, and what did the software say?
#
# Answer: R drops columns and reports NA coefficients; NumPy silently returns one of infinitely many solutions.
#
# Minutes: 2

# %% [markdown] slide="model"
# # p + 1 parameters against c + 2
#
# $$y=Z\omega+X\beta+e\qquad e\sim N(0,\sigma^2_e I_n)\qquad \beta\sim N(0,\sigma^2_\beta I_p)$$
#
# | model | parameters | how many |
# |---|---|---|
# | ordinary, β fixed | β and σ² (and ω) | p + 1 (and c) |
# | mixed, β random | ω, σ²_{β}, σ²_{e} | c + 2 |
#
# - Z: n × c covariates with fixed effects ω
# - X: n × p features with random effects β
# - **X and Z are the other way round than in lme4**
#
# ---
# Say: Both models have the same equation. The mixed model adds one assumption, a normal distribution for β. It has one
# variance to estimate in place of p unknown constants. Remember that lme4 swaps the letters X and Z.
#
# Ask: Why are the p random effects not counted as parameters of the mixed model?
#
# Answer: They are integrated out. The likelihood depends on ω and the two variances only; β is predicted afterwards.
#
# Minutes: 3

# %% [markdown]
# ## 2. Least squares, and where it fails
#
# In this section there are no covariates (or they are columns of $X$): $y=X\beta+e$, $e\sim N(0,\sigma^2I_n)$, β
# constant. The log-likelihood is
#
# $$-\tfrac n2\log2\pi\sigma^2-\frac{\lVert y-X\beta\rVert^2}{2\sigma^2}.$$
#
# In β it is highest where $\lVert y-X\beta\rVert^2$ is smallest. The gradient of the square, $-2X^\top(y-X\beta)$,
# vanishes at the **normal equations** $X^\top X\beta=X^\top y$. In σ² the derivative
# $-\frac n{2\sigma^2}+\frac{\mathrm{RSS}}{2\sigma^4}$ vanishes at $\hat\sigma^2=\mathrm{RSS}/n$,
# $\mathrm{RSS}=\lVert y-X\hat\beta\rVert^2$.
#
# **n < p.** The rank of $X$ is at most $n<p$. So there are vectors $v\ne0$ with $Xv=0$, and $X^\top Xv=0$: $X^\top X$
# is singular. With $\hat\beta$ every $\hat\beta+tv$ solves the normal equations. If the $n$ rows of $X$ are linearly
# independent (with probability 1 for continuous features), then $XX^\top$ is invertible and
# $\hat\beta=X^\top(XX^\top)^{-1}y$ gives $X\hat\beta=y$ **for any y**: the residual is zero, also when $y$ is pure
# noise. Then $\hat\sigma^2=0$ and the log-likelihood grows without bound as $\sigma^2\to0$. There is no
# maximum-likelihood estimate.

# %%
rng = np.random.default_rng(1)
X_wide, X_new = features(30, 50, rng), features(1000, 50, rng)
noise, noise_new = rng.normal(size=30), rng.normal(size=1000)  # no signal at all
shortest = X_wide.T @ np.linalg.solve(X_wide @ X_wide.T, noise)
null = np.linalg.svd(X_wide)[2][30:].T  # (50, 20): an orthonormal basis of all v with X v = 0
another = shortest + null @ rng.normal(size=20)
for name, fit in (("shortest solution", shortest), ("another solution", another), ("β = 0", np.zeros(50))):
    seen, unseen = np.mean((noise - X_wide @ fit) ** 2), np.mean((noise_new - X_new @ fit) ** 2)
    print(f"{name:18s} mean squared residual: fitted rows {seen:.2f}, new rows {unseen:.2f}")
print(f"rank of XᵀX: {np.linalg.matrix_rank(X_wide.T @ X_wide)} of 50")

# %% [markdown]
# **n a little above p.** Now let $X$ have rank $p\le n$. With $y=X\beta+e$,
#
# $$\hat\beta=(X^\top X)^{-1}X^\top y=\beta+(X^\top X)^{-1}X^\top e,\qquad
# \operatorname{Cov}(\hat\beta)=(X^\top X)^{-1}X^\top(\sigma^2I)X(X^\top X)^{-1}=\sigma^2(X^\top X)^{-1}.$$
#
# The estimate is unbiased. Its variance is the problem. Write $X=G/\sqrt p$ with independent standard normal entries in
# $G$. For a new row $x$ with mean 0 and covariance $I/p$ the error beyond the noise is, on average over $x$ and $e$,
#
# $$\mathbb E\big[(x^\top(\hat\beta-\beta))^2\big]=\tfrac1p\operatorname{tr}\operatorname{Cov}(\hat\beta)
# =\tfrac{\sigma^2}{p}\operatorname{tr}(X^\top X)^{-1}=\sigma^2\operatorname{tr}(G^\top G)^{-1}.$$
#
# By block elimination (section 9 has the argument), the $j$-th diagonal entry of $(G^\top G)^{-1}$ is $1/q_j$ with
# $q_j=g_j^\top\big(I-G_{-j}(G_{-j}^\top G_{-j})^{-1}G_{-j}^\top\big)g_j$: the squared length of column $g_j$ after
# projection onto the $k=n-p+1$ dimensions orthogonal to the other columns. As $g_j$ is independent of them,
# $q_j\sim\chi^2_k$, and for $k>2$
#
# $$\mathbb E\left[\frac1{q_j}\right]=\int_0^\infty\frac{q^{k/2-2}e^{-q/2}}{2^{k/2}\Gamma(k/2)}\,dq
# =\frac{2^{k/2-1}\,\Gamma(k/2-1)}{2^{k/2}\,\Gamma(k/2)}=\frac1{k-2}.$$
#
# Summed over the $p$ entries, on average over $X$ too,
#
# $$\mathbb E\big[(x^\top(\hat\beta-\beta))^2\big]=\sigma^2\,\frac{p}{n-p-1}\qquad(p<n-1).$$
#
# It exceeds σ² once $p>(n-1)/2$ and is infinite at $p=n-1$. On the fitted rows all looks well: with the projection
# $H=X(X^\top X)^{-1}X^\top$, $\mathrm{RSS}=e^\top(I-H)e$. As
# $\operatorname{tr}H=\operatorname{tr}\big((X^\top X)^{-1}X^\top X\big)=p$,
# $\mathbb E[\mathrm{RSS}]=\sigma^2\operatorname{tr}(I-H)=\sigma^2(n-p)$. As $p$ grows towards $n$, with the
# variance of $x^\top\beta$ held, the fit looks better and predicts worse.
#
# The picture has $n=60$, $\sigma^2=1$ and β drawn from $N(0,I_p)$; always predicting 0 has error 1 beyond the noise.
# The mixed model's prediction of β (section 3, at the true variances) is drawn beside least squares.

# %% figure="least_squares"
rng = np.random.default_rng(2)
n_rows, widths, narrow = 60, np.arange(4, 91, 4), np.arange(4, 53, 4)
fitted_error, new_error, mixed_error = [], [], []
for width in widths:
    draws = []
    for _ in range(100):
        X_draw = features(n_rows, width, rng)
        beta_draw, e_draw = rng.normal(size=width), rng.normal(size=n_rows)
        to_noise = X_draw @ np.linalg.lstsq(X_draw, e_draw, rcond=None)[0]
        least = np.linalg.lstsq(X_draw, X_draw @ beta_draw + e_draw, rcond=None)[0]
        mixed = np.linalg.solve(X_draw.T @ X_draw + np.eye(width), X_draw.T @ (X_draw @ beta_draw + e_draw))
        draws.append([np.mean((e_draw - to_noise) ** 2), *(np.mean((b - beta_draw) ** 2) for b in (least, mixed))])
    for series, value in zip((fitted_error, new_error, mixed_error), np.mean(draws, axis=0), strict=True):
        series.append(value)

figure, axes = plt.subplots(1, 2)
axes[0].plot(widths, fitted_error, "o", ms=4, label="least squares")
axes[0].plot(widths, np.maximum(0, 1 - widths / n_rows), color="0.4", lw=1, label="$1-p/n$, then 0")
axes[0].set(xlabel="p", ylabel="mean squared residual", title="pure noise, fitted rows")
axes[1].plot(narrow, new_error[: len(narrow)], "o", ms=4, label="least squares")
axes[1].plot(narrow, narrow / (n_rows - narrow - 1), color="0.4", lw=1, label="$p/(n-p-1)$")
axes[1].plot(widths, mixed_error, color="#D55E00", label="mixed model")
axes[1].plot(widths, np.ones(len(widths)), color="0.4", lw=1, ls=":", label="predict 0")
axes[1].set(xlabel="p", ylabel="error beyond the noise", title="signal, new rows", yscale="log")
for ax in axes:
    ax.axvline(n_rows, color="0.7", lw=0.8)
    ax.legend(facecolor="white", edgecolor="none", framealpha=1, fontsize="small")
plt.show()

# %% [markdown] slide="model"
# # Least squares fits noise and fails as p nears n
#
# ![Against p at n = 60: the residual of noise falls to 0, the test error explodes.](wide:least_squares)
#
# - p ≥ n: any y is fitted perfectly, pure noise too; p > n: X^{T}X is singular
# - p < n − 1, normal features: test error beyond the noise σ²p/(n−p−1)
# - The mixed model, at the true variances, stays below the error of predicting 0
#
# ---
# Say: On the left there is nothing to find, and still the residual is zero from p = n on. On the right signal and noise
# both have variance 1, and the features are independent normal. From about p = n/2 on, least squares is worse than
# predicting zero. The mixed model stays below that line.
#
# Ask: Why is a perfect fit with p ≥ n no evidence for the model?
#
# Answer: The n rows of X are linearly independent, so some β reproduces every y, noise included.
#
# Minutes: 3

# %% [markdown]
# ## 3. Ridge regression is the posterior mean
#
# Ridge regression adds a penalty to the squares. With ω given and $r=y-Z\omega$,
#
# $$J(\beta)=\lVert r-X\beta\rVert^2+\lambda\lVert\beta\rVert^2,\qquad
# \tfrac12\nabla J=-X^\top(r-X\beta)+\lambda\beta=0\quad\Longleftrightarrow
# \quad(X^\top X+\lambda I_p)\,\beta=X^\top r.$$
#
# For $\lambda>0$ and $v\ne0$, $v^\top(X^\top X+\lambda I)v=\lVert Xv\rVert^2+\lambda\lVert v\rVert^2>0$: half the
# second derivative of $J$ is positive definite, so the matrix is invertible for every $p$, and the solution is the one
# minimum.
#
# In the mixed model, Bayes' rule gives
#
# $$\log p(\beta\mid y)=-\frac{\lVert r-X\beta\rVert^2}{2\sigma^2_e}
# -\frac{\lVert\beta\rVert^2}{2\sigma^2_\beta}+\text{const}
# =-\frac{J(\beta)}{2\sigma^2_e}+\text{const}\quad\text{with}\quad\lambda=\frac{\sigma^2_e}{\sigma^2_\beta}.$$
#
# This is quadratic in β, so β given $y$ is normal. The mean of a normal density is where it is highest, where $J$ is
# lowest: **the posterior mean is the ridge solution with $\lambda=\sigma^2_e/\sigma^2_\beta$**. The covariance is the
# inverse of minus the second derivative: $S=\sigma^2_e(X^\top X+\lambda I_p)^{-1}$.
#
# **The n × n form.** Both products below are $X^\top XX^\top+\lambda X^\top$:
#
# $$X^\top(XX^\top+\lambda I_n)=(X^\top X+\lambda I_p)X^\top .$$
#
# Call the posterior mean μ. Multiply by $(X^\top X+\lambda I_p)^{-1}$ from the left and by $(XX^\top+\lambda I_n)^{-1}$ from the right (the
# *push-through identity*):
#
# $$\mu=(X^\top X+\lambda I_p)^{-1}X^\top r\;=\;⟦1.1: X^\top(XX^\top+\lambda I_n)^{-1}r⟧ .$$
#
# The left form solves $p$ equations, the right one $n$. (`fastlmm_vi.wide.posterior.exact_mean` computes the right one
# in the eigenbasis of $XX^\top$, with $\gamma=1/\lambda$.) **Gap 1.1**: write the $n\times n$ form.


# %% gap="1.1"
def ridge(X, r, lam):
    """The β that minimises ‖r − Xβ‖² + λ‖β‖², without any p × p matrix."""
    ### SOLUTION
    beta = X.T @ np.linalg.solve(X @ X.T + lam * np.eye(len(X)), r)
    ### WRONG the penalty is inverted
    beta = X.T @ np.linalg.solve(X @ X.T + np.eye(len(X)) / lam, r)
    ### WRONG the penalty is left out
    beta = X.T @ np.linalg.solve(X @ X.T + 1e-9 * np.eye(len(X)), r)
    ### WRONG the p × p form
    beta = np.linalg.solve(X.T @ X + lam * np.eye(X.shape[1]), X.T @ r)
    ### END
    return beta


# %% [markdown]
# The check takes the gradient of $J$ at the result by differences, and then measures the memory at $p=1500$.

# %% check="1.1"
rng = np.random.default_rng(3)
X_small, r_small = features(20, 35, rng), rng.normal(size=20)
for lam in (0.3, 2.0):
    J = lambda b, lam=lam: np.sum((r_small - X_small @ b) ** 2) + lam * b @ b
    at = ridge(X_small, r_small, lam)
    assert at.shape == (35,), "gap 1.1: β has one entry per column of X."
    slope = np.array([(J(at + h) - J(at - h)) / 2e-3 for h in 1e-3 * np.eye(35)])
    assert np.abs(slope).max() < 1e-8, f"gap 1.1: at λ = {lam} the penalised squares still have a slope at your β."
X_large = features(20, 1500, rng)
tracemalloc.start()
ridge(X_large, r_small, 1.0)
peak = tracemalloc.get_traced_memory()[1]
tracemalloc.stop()
assert peak < 1500 * 1500 * 8, "gap 1.1: a p × p matrix was made. Move Xᵀ to the left of the inverse."
print("gap 1.1 ✓")

# %% [markdown]
# The same through the library. `WideLMM` estimates ω and both variances; its `coef_` is the ridge solution at their
# ratio. How it estimates the variances is the subject of sections 6 to 9: by maximum likelihood (**ML**) or by
# *restricted* maximum likelihood (**REML**). Until then only their ratio λ is used. The constant is a column of $Z$ here, hence `fit_intercept=False`. `Spectrum.of(X)` holds the decomposition of
# $XX^\top$, the expensive part, which every later fit with the same $X$ shares.

# %%
rng = np.random.default_rng(4)
X, Z = features(n, p, rng), covariates(n, c, rng)
beta = rng.normal(size=p)  # σ²_β = 1
omega = np.array([2.0, -1.0, 0.5])
y = Z @ omega + X @ beta + rng.normal(size=n)  # σ²_e = 1
spectrum = fl.Spectrum.of(X)
ml = fl.WideLMM(fit_intercept=False).fit(X, y, Z, spectrum=spectrum)
reml = fl.WideLMM(reml=True, fit_intercept=False).fit(X, y, Z, spectrum=spectrum)
for name, model in (("ML", ml), ("REML", reml)):
    lam = model.sigma2_e_ / model.sigma2_beta_
    np.testing.assert_allclose(model.coef_, ridge(X, y - Z @ model.omega_, lam), rtol=1e-7, atol=1e-10)
    print(f"{name:4s} σ²_β = {model.sigma2_beta_:.4f}, σ²_e = {model.sigma2_e_:.4f}, λ = {lam:.4f}")

# %% [markdown] slide="model"
# # Ridge regression is the posterior mean
#
# $$\mu=(X^\top X+\lambda I_p)^{-1}X^\top r=X^\top(XX^\top+\lambda I_n)^{-1}r\qquad r=y-Z\omega$$
#
# $$\mu=\sum_k\frac{s_k^2}{s_k^2+\lambda}\,\frac{u_k^\top r}{s_k}\,w_k\qquad \lambda=\frac{\sigma^2_e}{\sigma^2_\beta}$$
#
# - Penalised squares, posterior mean and BLUP are one vector
# - p equations on the left, n on the right: push-through identity
# - In direction k of the SVD: least squares times s²_{k}/(s²_{k} + λ)
#
# ---
# Say: The logarithm of the posterior is the penalised sum of squares divided by minus two σ²_e. So its top is the ridge
# solution, and the penalty is a ratio of variances. Directions with small singular values are shrunk most.
#
# Ask: How do you prove the push-through identity in one line?
#
# Answer: X^{T}(XX^{T} + λI) and (X^{T}X + λI)X^{T} are both X^{T}XX^{T} + λX^{T}; multiply by both inverses.
#
# Minutes: 3

# %% [markdown]
# ## 4. Shrinkage along singular directions
#
# Let $X=\sum_{k=1}^{m}s_ku_kw_k^\top$ be the singular value decomposition with the $m$ positive $s_k$,
# $m=\operatorname{rank}X$. As $XX^\top u_k=s_k^2u_k$, $(XX^\top+\lambda I)^{-1}u_k=u_k/(s_k^2+\lambda)$, and as
# $X^\top u_k=s_kw_k$ (and $X^\top u=0$ for $u$ orthogonal to all $u_k$), the $n\times n$ form becomes
#
# $$\mu=\sum_{k=1}^m\frac{s_k}{s_k^2+\lambda}\,(u_k^\top r)\,w_k
# =\sum_{k=1}^m f_k\,\frac{u_k^\top r}{s_k}\,w_k,\qquad f_k=\frac{s_k^2}{s_k^2+\lambda}.$$
#
# Without a penalty all $f_k=1$: the vector solves the normal equations,
# $X^\top X\mu=\sum_ks_k(u_k^\top r)w_k=X^\top r$, and has no part in the null space of $X$. It is the shortest
# least-squares solution. With a penalty, directions with $s_k^2\gg\lambda$ are kept, those with $s_k^2\ll\lambda$ are
# taken out, and those orthogonal to all $w_k$, about which the data say nothing, get 0, the mean of the prior.

# %%
U, s, Wt = np.linalg.svd(X, full_matrices=False)
r, lam = y - Z @ reml.omega_, reml.sigma2_e_ / reml.sigma2_beta_
factors = s**2 / (s**2 + lam)
np.testing.assert_allclose(Wt.T @ (factors * (U.T @ r) / s), reml.coef_, rtol=1e-7, atol=1e-10)
print(f"singular values from {s[-1]:.3f} to {s[0]:.3f}, shrinkage factors from {factors[-1]:.3f} to {factors[0]:.3f}")

# %% figure="shrinkage"
figure, ax = plt.subplots()
ax.plot(s, np.ones(len(s)), color="0.4", lw=1, label="$\\lambda$ = 0, least squares")
for penalty, style in ((0.1, ":"), (1.0, "--"), (10.0, "-.")):
    ax.plot(s, s**2 / (s**2 + penalty), ls=style, label=f"$\\lambda$ = {penalty:g}")
ax.plot(s, factors, "o", ms=3, label=f"REML, $\\lambda$ = {lam:.2f}")
ax.set(xlabel="singular value $s_k$", ylabel="$s_k^2/(s_k^2+\\lambda)$", ylim=(0, 1.05))
ax.set_title("what is left of each direction")
ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# ## 5. Bias, variance, and the best penalty
#
# Shrinking costs bias and saves variance. Hold $X$, β and ω (known here) fixed and average over the noise $e$. Along
# $w_k$, with $u_k^\top r=s_kw_k^\top\beta+u_k^\top e$,
#
# $$w_k^\top(\mu-\beta)=f_k\Big(w_k^\top\beta+\frac{u_k^\top e}{s_k}\Big)-w_k^\top\beta
# =-\frac{\lambda}{s_k^2+\lambda}\,w_k^\top\beta+\frac{s_k}{s_k^2+\lambda}\,u_k^\top e .$$
#
# The first term is constant, the second has mean 0; each $u_k^\top e$ has variance σ²_e, and they are independent (the
# $u_k$ are orthonormal). Along the
# directions orthogonal to all $w_k$ the error is $-\beta_\perp$, where
# $\lVert\beta_\perp\rVert^2=\lVert\beta\rVert^2-\sum_k(w_k^\top\beta)^2$. Summing squares,
# $\mathbb E\lVert\mu-\beta\rVert^2=\text{bias}^2+\text{variance}$ with
#
# $$\text{bias}^2=⟦1.2: \sum_{k=1}^m\frac{\lambda^2\,(w_k^\top\beta)^2}{(s_k^2+\lambda)^2}+\lVert\beta_\perp\rVert^2⟧,
# \qquad\text{variance}=⟦1.2: \sigma^2_e\sum_{k=1}^m\frac{s_k^2}{(s_k^2+\lambda)^2}⟧ .$$
#
# A new row $x$ with mean 0 and covariance $I/p$ has expected squared prediction error
# $\sigma^2_e+(\text{bias}^2+\text{variance})/p$. **Gap 1.2**: write both parts.


# %% gap="1.2"
def bias2_and_variance(lam, X, beta, sigma2_e):
    """Squared bias and variance of the ridge solution, summed over all p directions."""
    U, s, Wt = np.linalg.svd(X, full_matrices=False)
    along = Wt @ beta  # w_kᵀβ
    ### SOLUTION
    outside = beta @ beta - along @ along
    bias2 = np.sum((lam * along / (s**2 + lam)) ** 2) + outside
    variance = sigma2_e * np.sum(s**2 / (s**2 + lam) ** 2)
    ### WRONG the part of β of which X says nothing is forgotten
    bias2 = np.sum((lam * along / (s**2 + lam)) ** 2)
    variance = sigma2_e * np.sum(s**2 / (s**2 + lam) ** 2)
    ### WRONG the variance is that of the fitted values
    outside = beta @ beta - along @ along
    bias2 = np.sum((lam * along / (s**2 + lam)) ** 2) + outside
    variance = sigma2_e * np.sum(s**4 / (s**2 + lam) ** 2)
    ### WRONG the factor of what is kept stands in the bias
    outside = beta @ beta - along @ along
    bias2 = np.sum((s**2 * along / (s**2 + lam)) ** 2) + outside
    variance = sigma2_e * np.sum(s**2 / (s**2 + lam) ** 2)
    ### END
    return bias2, variance


# %% [markdown]
# The check needs no formula. Ridge regression is linear in $r$: its mean over the noise is what `ridge` returns for
# data without noise, and its variance is σ²_e times the sum of squares of what `ridge` returns for the $n$ unit
# vectors.

# %% check="1.2"
rng = np.random.default_rng(5)
for rows, columns in ((12, 30), (30, 12)):
    X_small, beta_small = features(rows, columns, rng), rng.normal(size=columns)
    for lam in (0.2, 3.0):
        bias2, variance = bias2_and_variance(lam, X_small, beta_small, 0.7)
        expected = np.sum((ridge(X_small, X_small @ beta_small, lam) - beta_small) ** 2)
        assert np.isclose(bias2, expected, rtol=1e-8), (
            f"gap 1.2: bias² is {bias2:.6g}, ridge of noise-free data says {expected:.6g} (n = {rows}, p = {columns})."
        )
        expected = 0.7 * np.sum(ridge(X_small, np.eye(rows), lam) ** 2)
        assert np.isclose(variance, expected, rtol=1e-8), (
            f"gap 1.2: the variance is {variance:.6g}, ridge of unit vectors says {expected:.6g}."
        )
print("gap 1.2 ✓")

# %% [markdown]
# **Which λ is best?** Average over $\beta\sim N(0,\sigma^2_\beta I)$ as well:
# $\mathbb E(w_k^\top\beta)^2=\sigma^2_\beta$, and direction $k$ has error
# $g_k(\lambda)=(\lambda^2\sigma^2_\beta+\sigma^2_es_k^2)/(s_k^2+\lambda)^2$. By the quotient rule
#
# $$g_k'(\lambda)=
# \frac{2\lambda\sigma^2_\beta(s_k^2+\lambda)-2(\lambda^2\sigma^2_\beta+\sigma^2_es_k^2)}{(s_k^2+\lambda)^3}
# =\frac{2s_k^2\,(\lambda\sigma^2_\beta-\sigma^2_e)}{(s_k^2+\lambda)^3}.$$
#
# It is negative below $\lambda=\sigma^2_e/\sigma^2_\beta$ and positive above, **in every direction at once**. So the
# penalty of the posterior mean is the best one, and two variances are enough to set it. ML and REML estimate them from
# the data that are fitted: no rows are held out, and no cross-validation is needed. The picture has the error for the
# one β drawn above, so its lowest point lies near, not exactly at, the true ratio 1.

# %% figure="bias_variance"
penalties = np.geomspace(0.02, 50, 60)
parts = np.array([bias2_and_variance(lam, X, beta, 1.0) for lam in penalties]) / p
picks = {"ML": ml.sigma2_e_ / ml.sigma2_beta_, "REML": reml.sigma2_e_ / reml.sigma2_beta_}
figure, ax = plt.subplots()
ax.plot(penalties, parts[:, 0], ls="--", label="bias²")
ax.plot(penalties, parts[:, 1], ls=":", lw=2, label="variance")
ax.plot(penalties, parts.sum(axis=1), color="0.2", label="sum")
ax.plot([1.0, 1.0], [0.0, 1.0], color="0.6", lw=0.8, label="true $\\sigma^2_e/\\sigma^2_\\beta$")
for (name, pick), marker, color, size in zip(picks.items(), "sD", ("#D55E00", "#009E73"), (13, 6), strict=True):
    error = sum(bias2_and_variance(pick, X, beta, 1.0)) / p
    ax.plot([pick], [error], marker, color=color, mfc="none", mew=2, ms=size, label=f"$\\lambda$ by {name}")
ax.set(xlabel="$\\lambda$", ylabel="test error beyond the noise", xscale="log", ylim=(0, 2))
ax.legend(frameon=False, fontsize="small", loc="upper right", ncols=2)
plt.show()

# %% [markdown]
# One data set may be lucky. Here are 200, each with its own β and noise, and REML's penalty for each of them.

# %%
rng = np.random.default_rng(6)
errors = []
for _ in range(200):
    beta_draw = rng.normal(size=p)
    y_draw = Z @ omega + X @ beta_draw + rng.normal(size=n)
    model = fl.WideLMM(reml=True, fit_intercept=False).fit(X, y_draw, Z, spectrum=spectrum)
    r_draw = y_draw - Z @ model.omega_
    solutions = model.coef_, ridge(X, r_draw, 1.0), ridge(X, r_draw, 1e-8)
    errors.append([np.sum((b - beta_draw) ** 2) / p for b in (*solutions, np.zeros(p))])
names = "λ by REML", "λ at the true ratio", "λ near 0 (shortest least squares)", "β = 0"
for name, error in zip(names, np.mean(errors, axis=0), strict=True):
    print(f"{name:34s} mean error beyond the noise {error:.3f}")

# %% [markdown]
# ## 6. The marginal model: β integrated out
#
# Where do the estimates of the variances come from? From the distribution of $y$ alone. As $\mathbb E\beta=0$ and
# $\mathbb Ee=0$,
#
# $$\mathbb E[y]=Z\omega+X\,\mathbb E[\beta]+\mathbb E[e]=Z\omega,$$
#
# $$\operatorname{Cov}(y)=\mathbb E\big[(X\beta+e)(X\beta+e)^\top\big]
# =X\,\mathbb E[\beta\beta^\top]X^\top+X\,\mathbb E[\beta e^\top]+\mathbb E[e\beta^\top]X^\top+\mathbb E[ee^\top]
# =\sigma^2_\beta XX^\top+\sigma^2_eI_n=:V.$$
#
# The two mixed terms are 0, as β and $e$ are independent with mean 0. $y$ is a linear function of the normal vector
# $(\beta,e)$, hence normal. With $K=XX^\top$, $y\sim N(Z\omega,V)$, $V=\sigma^2_\beta K+\sigma^2_eI$, and the logarithm
# of that density is
#
# $$\ell(\omega,\sigma^2_\beta,\sigma^2_e)
# =⟦1.3: -\tfrac12\left[n\log2\pi+\log\left|V\right|+(y-Z\omega)^\top V^{-1}(y-Z\omega)\right]⟧ .$$
#
# The observations are now *correlated*: rows of $X$ that are alike make observations alike. And ℓ is a function of
# $c+2$ numbers. (`fastlmm_vi_kernels.spectral.marginal_loglik`.) **Gap 1.3**: write it densely. The check integrates β
# out by quadrature where there is one feature.


# %% gap="1.3"
def loglik(y, Z, X, omega, sigma2_beta, sigma2_e):
    """Logarithm of the density of y with β integrated out."""
    V = sigma2_beta * X @ X.T + sigma2_e * np.eye(len(y))
    r = y - Z @ omega
    ### SOLUTION
    value = -0.5 * (len(y) * np.log(2 * np.pi) + slogdet(V)[1] + r @ np.linalg.solve(V, r))
    ### WRONG the determinant is left out
    value = -0.5 * (len(y) * np.log(2 * np.pi) + r @ np.linalg.solve(V, r))
    ### WRONG the determinant is not halved
    value = -0.5 * (len(y) * np.log(2 * np.pi) + r @ np.linalg.solve(V, r)) - slogdet(V)[1]
    ### WRONG V stands where its inverse belongs
    value = -0.5 * (len(y) * np.log(2 * np.pi) + slogdet(V)[1] + r @ V @ r)
    ### WRONG the constant is that of one observation
    value = -0.5 * (np.log(2 * np.pi) + slogdet(V)[1] + r @ np.linalg.solve(V, r))
    ### END
    return value


# %% check="1.3"
rng = np.random.default_rng(7)
x_one, Z_two, y_one = rng.normal(size=(6, 1)), rng.normal(size=(6, 2)), rng.normal(size=6)
w, grid = np.array([0.8, -0.3]), np.linspace(-15, 15, 20_001)
for sb, se in ((1.3, 0.6), (0.4, 2.0)):
    prior = norm.logpdf(grid, scale=np.sqrt(sb))
    rows = norm.logpdf(y_one[:, None], loc=(Z_two @ w)[:, None] + x_one * grid, scale=np.sqrt(se))
    integral = logsumexp(rows.sum(axis=0) + prior) + np.log(grid[1] - grid[0])
    value = loglik(y_one, Z_two, x_one, w, sb, se)
    assert np.isclose(value, integral, atol=1e-8), f"gap 1.3: ℓ is {value:.6f}, the integral over β {integral:.6f}."
print("gap 1.3 ✓")

# %% [markdown]
# Through the library: the kernel works in the eigenbasis of $K=UDU^\top$, where $V$ is diagonal (lesson 03). `loglik_`
# of a fit is ℓ at its estimates.

# %%
d, U_K = np.linalg.eigh(X @ X.T)
y_rot, Z_rot = U_K.T @ y, U_K.T @ Z
dense = loglik(y, Z, X, ml.omega_, ml.sigma2_beta_, ml.sigma2_e_)
kernel = spectral.marginal_loglik(ml.sigma2_beta_, ml.sigma2_e_, ml.omega_, d, y_rot, Z_rot, n)
print(f"log-likelihood at the ML estimates: dense {dense:.6f}, kernel {kernel:.6f}, loglik_ {ml.loglik_:.6f}")
assert np.allclose([kernel, ml.loglik_], dense, atol=1e-6)

# %% [markdown]
# ## 7. Generalised least squares for ω, and BLUP
#
# At given variances ω enters ℓ through one quadratic form:
#
# $$\frac{\partial\ell}{\partial\omega}=Z^\top V^{-1}(y-Z\omega)=0\quad\Longrightarrow\quad
# \hat\omega=(Z^\top V^{-1}Z)^{-1}Z^\top V^{-1}y .$$
#
# The second derivative $-Z^\top V^{-1}Z$ is negative definite ($Z$ has full column rank): a maximum. As
# $\mathbb Ey=Z\omega$, $\hat\omega$ is unbiased, and its covariance is
#
# $$\operatorname{Cov}(\hat\omega)=(Z^\top V^{-1}Z)^{-1}Z^\top V^{-1}\,V\,V^{-1}Z(Z^\top V^{-1}Z)^{-1}
# =(Z^\top V^{-1}Z)^{-1}.$$
#
# (`WideLMM.omega_se_` holds the roots of its diagonal, at the estimated variances.)
#
# **No linear unbiased estimate is better.** Write $\hat\omega=Gy$. Another one is $Cy$ with $CZ=I$, so $C=G+D$ with
# $DZ=0$. Then $GVD^\top=(Z^\top V^{-1}Z)^{-1}(DZ)^\top=0$, and $CVC^\top=GVG^\top+DVD^\top$: the second term only adds
# variance.
#
# **Why μ is called BLUP.** Predict $\beta_j$ by a linear function $a^\top y$ whose error has mean 0 for every ω:
# $\mathbb E[a^\top y-\beta_j]=a^\top Z\omega=0$, so $Z^\top a=0$. With
# $k=\operatorname{Cov}(y,\beta_j)=\sigma^2_\beta x_j$ its error variance is $a^\top Va-2a^\top k+\sigma^2_\beta$.
# Minimise it under $Z^\top a=0$ with multipliers $2\nu$: $Va-k+Z\nu=0$, so $a=V^{-1}(k-Z\nu)$ (a minimum, as $V$ is
# positive definite) and $Z^\top a=0$ gives $\nu=(Z^\top V^{-1}Z)^{-1}Z^\top V^{-1}k$. Therefore
#
# $$a^\top y=k^\top V^{-1}y-\nu^\top Z^\top V^{-1}y=k^\top V^{-1}y-k^\top V^{-1}Z\hat\omega
# =\sigma^2_\beta\,x_j^\top V^{-1}(y-Z\hat\omega).$$
#
# For all $j$: $\sigma^2_\beta X^\top V^{-1}(y-Z\hat\omega)=X^\top(K+\lambda I)^{-1}(y-Z\hat\omega)$, the $n\times n$
# form of section 3 at $\omega=\hat\omega$. The ridge solution is the *best linear unbiased predictor* (at given
# variances; with estimated ones it is called empirical BLUP). (μ: `WideLMM.coef_`; ω̂: `WideLMM.omega_`, computed by
# `fastlmm_vi_kernels.spectral.profile`, which lesson 04 derives.)

# %%
V = reml.sigma2_beta_ * X @ X.T + reml.sigma2_e_ * np.eye(n)
information = Z.T @ np.linalg.solve(V, Z)
gls = np.linalg.solve(information, Z.T @ np.linalg.solve(V, y))
np.testing.assert_allclose(reml.omega_, gls, rtol=1e-7)
np.testing.assert_allclose(reml.omega_se_, np.sqrt(np.diag(inv(information))), rtol=1e-7)
np.testing.assert_allclose(reml.coef_, reml.sigma2_beta_ * X.T @ np.linalg.solve(V, y - Z @ gls), rtol=1e-6, atol=1e-10)
for j in range(c):
    print(f"ω_{j + 1}: true {omega[j]:5.2f}, estimate {gls[j]:7.4f}, standard error {reml.omega_se_[j]:.4f}")

# %% [markdown]
# ## 8. Why maximum likelihood underestimates the noise variance
#
# Take the ordinary model $y=Z\omega+e$ first, $e\sim N(0,\sigma^2I_n)$. With $M=I-Z(Z^\top Z)^{-1}Z^\top$ the residual
# of least squares is $My=Me$ (as $MZ=0$), $M^\top M=M$, and
# $\operatorname{tr}M=n-c$ as in section 2, so
#
# $$\mathbb E[\mathrm{RSS}]=\mathbb E[e^\top Me]=\operatorname{tr}\big(M\,\mathbb E[ee^\top]\big)
# =\sigma^2\operatorname{tr}M=\sigma^2(n-c),
# \qquad\mathbb E\left[\frac{\mathrm{RSS}}n\right]=\sigma^2\Big(1-\frac cn\Big).$$
#
# Maximum likelihood divides by $n$ (section 2) as if ω were known. But $\hat\omega$ has been fitted to the same noise,
# and the residual has lost $c$ dimensions. RSS/(n − c) is unbiased. When $c$ grows with $n$, more data do not cure it.
# In *pairs* of observations, each pair with a mean of its own, $c=n/2$: ML converges to half of the variance. Here are
# 200 simulated data sets of each size:

# %%
rng = np.random.default_rng(8)
for pairs in (10, 100, 1000):
    y_pairs = rng.normal(size=(200, pairs, 1)) + rng.normal(size=(200, pairs, 2))  # 200 data sets, σ² = 1
    rss = np.sum((y_pairs - y_pairs.mean(axis=2, keepdims=True)) ** 2, axis=(1, 2))
    print(
        f"n = {2 * pairs:4d}, c = {pairs:4d}: mean RSS/n {rss.mean() / (2 * pairs):.3f}, "
        f"mean RSS/(n − c) {rss.mean() / pairs:.3f} (standard error {rss.std() / pairs / np.sqrt(200):.3f})"
    )

# %% [markdown]
# ## 9. REML: a likelihood without ω
#
# *Restricted* maximum likelihood does for any $V$ what $n-c$ does for the ordinary model. There are two roads to it.
#
# **Road 1: contrasts.** Let $A$ ($n\times(n-c)$) have orthonormal columns that span everything orthogonal to $Z$:
# $A^\top A=I$, $A^\top Z=0$. Then $u=A^\top y\sim N(0,A^\top VA)$, whatever ω is. The log-likelihood of these $n-c$
# *contrasts* is
#
# $$\ell_A=-\tfrac12\left[(n-c)\log2\pi+\log\left|A^\top VA\right|+u^\top(A^\top VA)^{-1}u\right].$$
#
# *The determinant.* Let $B=Z(Z^\top Z)^{-1/2}$, so that $T=[A,B]$ is orthogonal. Let $\Sigma$ be positive definite, in
# blocks. Subtracting $\Sigma_{21}\Sigma_{11}^{-1}$ times the first block row from the second is a multiplication by a
# matrix $L$ with $|L|=1$. It leaves $L\Sigma=R$ with a 0 below $\Sigma_{11}$ and
# $C=\Sigma_{22}-\Sigma_{21}\Sigma_{11}^{-1}\Sigma_{12}$ as its last block. So $|\Sigma|=|\Sigma_{11}|\,|C|$. The last
# block of $\Sigma^{-1}=R^{-1}L$ is $(\Sigma^{-1})_{22}=C^{-1}$, as the last block row of $R^{-1}$ is $[0,C^{-1}]$ and
# the last block of $L$ is $I$. With $\Sigma=T^\top VT$: $\Sigma_{11}=A^\top VA$, $\Sigma^{-1}=T^\top V^{-1}T$,
# $(\Sigma^{-1})_{22}=B^\top V^{-1}B$ and $|\Sigma|=|V|$. Hence $|V|=|A^\top VA|\,/\,|B^\top V^{-1}B|$, and
#
# $$\log\left|A^\top VA\right|=\log\left|V\right|+\log\left|B^\top V^{-1}B\right|
# =\log\left|V\right|+\log\left|Z^\top V^{-1}Z\right|-\log\left|Z^\top Z\right| .$$
#
# *The quadratic form.* Let $P=V^{-1}-V^{-1}Z(Z^\top V^{-1}Z)^{-1}Z^\top V^{-1}$ and $P_A=A(A^\top VA)^{-1}A^\top$. Both
# give 0 on $Z$. On $VA$ both give $A$: $P_AVA=A$, and $PVA=A-V^{-1}Z(Z^\top V^{-1}Z)^{-1}Z^\top A=A$. The $n$ columns
# of $[VA,Z]$ are a basis (if $VAa+Zb=0$, multiply by $A^\top$: $A^\top VAa=0$, so $a=0$, then $b=0$). So $P_A=P$. With
# $r=y-Z\hat\omega$, $Py=V^{-1}r$; and $Z^\top V^{-1}r=0$ by the equation of $\hat\omega$, so
#
# $$u^\top(A^\top VA)^{-1}u=y^\top Py=y^\top V^{-1}r=(r+Z\hat\omega)^\top V^{-1}r=r^\top V^{-1}r .$$
#
# **Road 2: integrate ω out** against a flat (improper) prior, 1 everywhere. As $Z^\top V^{-1}r=0$, the cross terms vanish
# in
#
# $$(y-Z\omega)^\top V^{-1}(y-Z\omega)=r^\top V^{-1}r+(\omega-\hat\omega)^\top Z^\top V^{-1}Z\,(\omega-\hat\omega),$$
#
# and $\int\exp\big(-\tfrac12(\omega-\hat\omega)^\top Q(\omega-\hat\omega)\big)d\omega=(2\pi)^{c/2}|Q|^{-1/2}$ with
# $Q=Z^\top V^{-1}Z$. Therefore $\ell_R:=\log\int e^{\ell}\,d\omega$ is
#
# $$\ell_R(\sigma^2_\beta,\sigma^2_e)
# =⟦1.4: -\tfrac12\left[(n-c)\log2\pi+\log\left|V\right|+\log\left|Z^\top V^{-1}Z\right|+r^\top V^{-1}r\right]⟧ .$$
#
# The roads meet: $\ell_A=\ell_R+\tfrac12\log|Z^\top Z|$. The difference does not contain the variances, so the
# estimates are the same. lme4 reports $\ell_R$ without that term, and so does this library. The value of $\ell_R$ then
# depends on the units of $Z$: compare it between fits with the same $Z$ only. (`fastlmm_vi.wide.newton.fit`,
# `WideLMM(reml=True)`; the value is `criterion_`.) **Gap 1.4**: write $\ell_R$.


# %% gap="1.4"
def restricted_loglik(y, Z, X, sigma2_beta, sigma2_e):
    """Logarithm of the integral of the likelihood over ω, in lme4's convention."""
    n, c = Z.shape
    V = sigma2_beta * X @ X.T + sigma2_e * np.eye(n)
    information = Z.T @ np.linalg.solve(V, Z)
    r = y - Z @ np.linalg.solve(information, Z.T @ np.linalg.solve(V, y))
    quadratic = r @ np.linalg.solve(V, r)
    ### SOLUTION
    value = -0.5 * ((n - c) * np.log(2 * np.pi) + slogdet(V)[1] + slogdet(information)[1] + quadratic)
    ### WRONG the determinant of ZᵀV⁻¹Z is left out
    value = -0.5 * ((n - c) * np.log(2 * np.pi) + slogdet(V)[1] + quadratic)
    ### WRONG its sign is turned
    value = -0.5 * ((n - c) * np.log(2 * np.pi) + slogdet(V)[1] - slogdet(information)[1] + quadratic)
    ### WRONG n instead of n − c
    value = -0.5 * (n * np.log(2 * np.pi) + slogdet(V)[1] + slogdet(information)[1] + quadratic)
    ### WRONG the convention of the contrasts, with ½ log|ZᵀZ|
    value = -0.5 * ((n - c) * np.log(2 * np.pi) + slogdet(V)[1] + slogdet(information)[1] + quadratic)
    value += 0.5 * slogdet(Z.T @ Z)[1]
    ### END
    return value


# %% [markdown]
# The check integrates the likelihood over ω by quadrature where there is one covariate, and then, for three covariates
# with orthonormal columns (so that $\log|Z^\top Z|=0$), compares with the density of the contrasts: the two must be
# equal.

# %% check="1.4"
rng = np.random.default_rng(9)
X_small, z_one, y_small = features(9, 5, rng), rng.normal(size=(9, 1)), rng.normal(size=9)
grid = np.linspace(-40, 40, 8001)
for sb, se in ((1.3, 0.6), (0.4, 2.0)):
    over = [loglik(y_small, z_one, X_small, np.array([w]), sb, se) for w in grid]
    integral = logsumexp(over) + np.log(grid[1] - grid[0])
    value = restricted_loglik(y_small, z_one, X_small, sb, se)
    assert np.isclose(value, integral, atol=1e-7), f"gap 1.4: ℓ_R is {value:.6f}, the integral over ω {integral:.6f}."
basis = np.linalg.svd(Z)[0]
Q, A = basis[:, :c], basis[:, c:]  # orthonormal bases of what Z spans and of everything orthogonal to it
for sb, se in ((1.0, 1.0), (0.3, 2.0), (2.0, 0.5)):
    contrasts = loglik(A.T @ y, np.zeros((n - c, 1)), A.T @ X, np.zeros(1), sb, se)
    value = restricted_loglik(y, Q, X, sb, se)
    assert np.isclose(value, contrasts, rtol=0, atol=1e-6), (
        f"gap 1.4: with orthonormal covariates ℓ_R is {value:.6f}, the density of the contrasts {contrasts:.6f}."
    )
print("gap 1.4 ✓")

# %% [markdown]
# **In the ordinary model** $\sigma^2_\beta=0$, $V=\sigma^2I$. Then $\log|V|=n\log\sigma^2$,
# $\log|Z^\top V^{-1}Z|=\log|Z^\top Z|-c\log\sigma^2$, $r^\top V^{-1}r=\mathrm{RSS}/\sigma^2$, and
#
# $$\ell_R=-\tfrac12\left[(n-c)\log2\pi\sigma^2+\log\left|Z^\top Z\right|+\frac{\mathrm{RSS}}{\sigma^2}\right],\qquad
# \frac{\partial\ell_R}{\partial\sigma^2}=-\frac{n-c}{2\sigma^2}+\frac{\mathrm{RSS}}{2\sigma^4}=0
# \quad\Longrightarrow\quad\hat\sigma^2=\frac{\mathrm{RSS}}{n-c}.$$
#
# The unbiased estimate is REML's. The library's profile at $\gamma=\sigma^2_\beta/\sigma^2_e=0$ returns just that, and
# `criterion_` of a REML fit is $\ell_R$ at its estimates:

# %%
rss = np.sum((y - Z @ np.linalg.lstsq(Z, y, rcond=None)[0]) ** 2)
for name, restricted, divisor in (("ML", False, n), ("REML", True, n - c)):
    sigma2 = spectral.profile(0.0, d, y_rot, Z_rot, n, d, restricted)[3]
    print(f"{name:4s} at σ²_β = 0: library {sigma2:.6f}, RSS/{divisor} = {rss / divisor:.6f}")
value = restricted_loglik(y, Z, X, reml.sigma2_beta_, reml.sigma2_e_)
print(f"ℓ_R at the REML estimates: dense {value:.6f}, criterion_ {reml.criterion_:.6f}")
assert np.isclose(value, reml.criterion_, atol=1e-6)

# %% [markdown]
# ## 10. ML against REML, simulated
#
# With random effects REML's estimates are no longer exactly unbiased (they are never negative). How good are they?
# $n=100$ observations, $p=40$ features, both variances 1, and $c$ from 1 to 30 covariates; 200 data sets each, fitted
# both ways. All fits of one $c$ share a `Spectrum`.


# %%
def mean_estimates(X, c, repeats, seed):
    """Means over data sets of σ²_e by ML, by REML, of σ²_β by ML, by REML; and the standard errors of these means."""
    rng = np.random.default_rng(seed)
    (n, p), spectrum = X.shape, fl.Spectrum.of(X)
    Z = covariates(n, c, rng)
    out = []
    for _ in range(repeats):
        y = Z @ rng.normal(size=c) + X @ rng.normal(size=p) + rng.normal(size=n)
        fits = [fl.WideLMM(reml=flag, fit_intercept=False).fit(X, y, Z, spectrum=spectrum) for flag in (False, True)]
        out.append([*(fit.sigma2_e_ for fit in fits), *(fit.sigma2_beta_ for fit in fits)])
    return np.mean(out, axis=0), np.std(out, axis=0) / np.sqrt(repeats)


counts = [1, 5, 10, 20, 30]
X_sim = features(100, 40, np.random.default_rng(10))
simulated = [mean_estimates(X_sim, count, 200, seed=count) for count in counts]
print("  c   σ²_e by ML   by REML   σ²_β by ML   by REML   (standard errors of the means in brackets)")
for count, (mean, error) in zip(counts, simulated, strict=True):
    print(f"{count:3d}", *(f"{m:6.3f} ({e:.3f})" for m, e in zip(mean, error, strict=True)))
mean, error = mean_estimates(features(100, 200, np.random.default_rng(11)), 20, 200, seed=12)
print(f"p = 200 > n, c = 20: σ²_e by ML {mean[0]:.3f}, by REML {mean[1]:.3f} (± {error[0]:.3f}, {error[1]:.3f})")

# %% figure="ml_reml"
figure, ax = plt.subplots()
means = np.array([mean for mean, _ in simulated])
ax.plot(counts, means[:, 1], "D-", ms=5, color="#009E73", label="REML")
ax.plot(counts, means[:, 0], "s-", ms=5, color="#D55E00", label="ML")
ax.plot(counts, 1 - np.array(counts) / 100, color="0.4", ls="--", lw=1, label="1 − c/n")
ax.plot(counts, np.ones(len(counts)), color="0.4", ls=":", lw=1, label="true value")
ax.set(xlabel="covariates c (n = 100)", ylabel="mean estimate of $\\sigma^2_e$", ylim=(0.4, 1.1))
ax.legend(frameon=False, loc="lower left")
plt.show()

# %% [markdown]
# ML's σ²_e falls with $c$, even faster than $1-c/n$: generalised least squares gives most weight to directions in which
# $V$ is small. These are the directions that tell about σ²_e, and there ω takes more than its share of the $c$
# dimensions. REML's mean stays within two standard errors of the true value. Where $c$ is small against $n$ the two
# agree. The estimate of σ²_β moves less, and the other way: ML puts into it part of what it takes from σ²_e. It can be
# worse: where $n-c\le p<n$, and $X$ and $Z$ are in general
# position, ML has no maximum at all (lesson 04).

# %% [markdown] slide="model"
# # ML divides by n, REML by n − c
#
# $$\ell_R=-\frac{1}{2}\left[(n-c)\log 2\pi+\log\left|V\right|+\log\left|Z^\top V^{-1}Z\right|+r^\top V^{-1}r\right]$$
#
# ![Mean estimate of σ²_e against c at n = 100: ML falls far below the true value, REML stays there.](chart:ml_reml)
#
# - ML takes fitted ω for known ω
# - REML: n − c contrasts, or ω integrated
# - Plain linear model: RSS/(n−c)
#
# ---
# Say: Maximum likelihood forgets that ω was fitted to the same noise. REML uses contrasts free of ω, or, which is the
# same, integrates ω out. lme4's convention leaves out one half log of the determinant of Z'Z, and so does the library.
#
# Ask: Two REML fits use different covariates. May their restricted log-likelihoods be compared?
#
# Answer: No: they are likelihoods of different contrasts, and lme4's convention also depends on the units of Z.
#
# Minutes: 3

# %% [markdown]
# ## What to remember
#
# * One assumption, $\beta\sim N(0,\sigma^2_\beta I)$, replaces $p+1$ parameters by $c+2$.
# * Least squares fits any $y$ once $p\ge n$ (and the rows of $X$ are linearly independent), and its test error explodes as $p$ nears $n$ from below.
# * Ridge solution = posterior mean = BLUP, with $\lambda=\sigma^2_e/\sigma^2_\beta$; it has a $p\times p$
#   and an $n\times n$ form.
# * That λ has the lowest expected error in every singular direction; ML and REML estimate it without cross-validation.
# * With β integrated out, $y\sim N(Z\omega,\sigma^2_\beta XX^\top+\sigma^2_eI)$; ω is then generalised least squares.
# * ML treats the fitted ω as known, and its σ²_e is too small when $c$ is not small against $n$. REML uses
#   contrasts free of ω.
# * X and Z are the other way round than in lme4.
#
# ## Exercises
#
# **Exercise 1.E1: ordinary least squares for ω in the mixed model.** Somebody ignores $X$ and computes
# $\tilde\omega=(Z^\top Z)^{-1}Z^\top y$. As $\mathbb Ey=Z\omega$,
# $\mathbb E\tilde\omega=(Z^\top Z)^{-1}Z^\top Z\omega=\omega$: unbiased, although the model is wrong. What is its
# covariance when the data come from the mixed model? (It is a linear function $Cy$ of $y$, and
# $\operatorname{Cov}(Cy)=C\operatorname{Cov}(y)C^\top$.)
#
# $$\operatorname{Cov}(\tilde\omega)=⟦1.E1: (Z^\top Z)^{-1}Z^\top VZ(Z^\top Z)^{-1}⟧$$


# %% gap="1.E1"
def ols_covariance(Z, V):
    """Covariance of (ZᵀZ)⁻¹Zᵀy when Cov(y) = V."""
    ### SOLUTION
    half = np.linalg.solve(Z.T @ Z, Z.T)
    covariance = half @ V @ half.T
    ### WRONG that of generalised least squares
    covariance = inv(Z.T @ np.linalg.solve(V, Z))
    ### WRONG what ordinary software reports: the mean variance times (ZᵀZ)⁻¹
    covariance = np.trace(V) / len(V) * inv(Z.T @ Z)
    ### WRONG V is inverted
    half = np.linalg.solve(Z.T @ Z, Z.T)
    covariance = half @ inv(V) @ half.T
    ### END
    return covariance


# %% [markdown]
# The check writes $y-Z\omega=L\varepsilon$ with $V=LL^\top$ and sends the columns of $L$ through `lstsq`. Then it
# confirms section 7: in every direction the variance of generalised least squares is no larger.

# %% check="1.E1"
rng = np.random.default_rng(13)
X_small, Z_small = features(25, 10, rng), covariates(25, 3, rng)
V_small = 3.0 * X_small @ X_small.T + 0.5 * np.eye(25)
sent = np.linalg.lstsq(Z_small, np.linalg.cholesky(V_small), rcond=None)[0]
covariance = ols_covariance(Z_small, V_small)
assert np.allclose(covariance, sent @ sent.T), "gap 1.E1: the covariance of a linear function Cy is C Cov(y) Cᵀ."
excess = np.linalg.eigvalsh(covariance - inv(Z_small.T @ np.linalg.solve(V_small, Z_small)))
assert excess.min() > -1e-12, "gap 1.E1: nothing linear and unbiased beats generalised least squares."
print("gap 1.E1 ✓")

# %% [markdown]
# **Exercise 1.E2: how many parameters does ridge regression use?** The *effective degrees of freedom* of a linear fit
# $\hat y$ are $\sum_i\partial\hat y_i/\partial y_i$, the trace of the matrix that makes $\hat y$ out of $y$. For least
# squares that matrix is the projection $H$, with trace $p$. Let $\hat y=X\mu$ at fixed λ (and ω = 0). By
# section 4 the fit along $u_k$ is $f_k\,u_k^\top y$.
#
# $$\mathrm{df}(\lambda)=\operatorname{tr}\big[X(X^\top X+\lambda I)^{-1}X^\top\big]
# =⟦1.E2: \sum_{k=1}^m\frac{s_k^2}{s_k^2+\lambda}⟧$$
#
# It runs from the rank of $X$ at $\lambda\to0$ to 0 at $\lambda\to\infty$: between the $p$ of the ordinary model (where
# $p\le n$) and none.


# %% gap="1.E2"
def degrees_of_freedom(X, lam):
    """Trace of the matrix that makes the fitted values of ridge regression out of y."""
    s = np.linalg.svd(X, compute_uv=False)
    ### SOLUTION
    df = np.sum(s**2 / (s**2 + lam))
    ### WRONG the singular values are not squared
    df = np.sum(s / (s + lam))
    ### WRONG what is taken out instead of what is kept
    df = np.sum(lam / (s**2 + lam))
    ### WRONG the factors are squared
    df = np.sum((s**2 / (s**2 + lam)) ** 2)
    ### END
    return df


# %% check="1.E2"
rng = np.random.default_rng(14)
X_small, y_small, h = features(25, 40, rng), rng.normal(size=25), 1e-3
for lam in (0.2, 1.0, 5.0):
    moved = [X_small @ (ridge(X_small, y_small + e, lam) - ridge(X_small, y_small - e, lam)) for e in h * np.eye(25)]
    slopes = np.array([moved[i][i] / (2 * h) for i in range(25)])
    df = degrees_of_freedom(X_small, lam)
    assert np.isclose(df, slopes.sum(), rtol=1e-6), f"gap 1.E2: at λ = {lam} the slopes add up to {slopes.sum():.4f}."
print("gap 1.E2 ✓")
