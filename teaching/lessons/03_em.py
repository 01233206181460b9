# %% [markdown]
# # EM for the mixed model
#
# The full derivation of the EM algorithm for `y = Zω + Xβ + e`: the E-step is a ridge regression with error bars, the
# M-step averages squares, and one rotation of the data turns an iteration that costs O(p³) into one that costs O(nc),
# for n < p and for n ≥ p, down to every line of the compiled loop.
#
# You need: the multivariate normal density and matrix derivatives; lessons 01 and 02 for the words. Time: 90 minutes.
#
# ## 1. Model and likelihood
#
# $$y = Z\omega + X\beta + e,\qquad \beta\sim N(0,\sigma^2_\beta I_p),\qquad e\sim N(0,\sigma^2_e I_n)$$
#
# $y$ has $n$ entries, $Z$ is $n\times c$ (its columns are the covariates, ω their *fixed* effects), $X$ is $n\times p$ with
# columns $x_j$ (β are *random* effects). The unknown parameters are $\theta=(\omega,\sigma^2_\beta,\sigma^2_e)$, $c+2$ numbers, however
# large $p$ is. A sum of normal variables is normal, so with β integrated out
#
# $$y\sim N(Z\omega,\,V),\qquad V=\operatorname{Cov}(X\beta)+\operatorname{Cov}(e)=\sigma^2_\beta K+\sigma^2_e I_n,\qquad K=XX^\top,$$
#
# $$\ell(\theta)=-\tfrac12\left[n\log 2\pi+\log\left|V\right|+(y-Z\omega)^\top V^{-1}(y-Z\omega)\right].$$
#
# (`fastlmm_vi_kernels.spectral.marginal_loglik` computes this in the basis of section 7.) Here it is densely:

# %%
import matplotlib.pyplot as plt
import numpy as np
from fastlmm_vi_kernels import spectral
from numpy.linalg import inv, slogdet

import fastlmm_vi as fl

plt.rcParams.update({"figure.figsize": (6.4, 3.6), "figure.constrained_layout.use": True, "font.size": 11})


def loglik(y, Z, X, omega, sigma2_beta, sigma2_e):
    """Log of N(y; Zω, V)."""
    V = sigma2_beta * X @ X.T + sigma2_e * np.eye(len(y))
    r = y - Z @ omega
    return -0.5 * (len(y) * np.log(2 * np.pi) + slogdet(V)[1] + r @ inv(V) @ r)


def problem(n, p, c, seed=3):
    """A small data set from the model: σ²_β = 0.4, σ²_e = 0.6, an intercept first among the covariates."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) / np.sqrt(p)
    Z = np.column_stack([np.ones(n), rng.normal(size=(n, c - 1))])
    beta = np.sqrt(0.4) * rng.normal(size=p)
    y = Z @ rng.normal(size=c) + X @ beta + np.sqrt(0.6) * rng.normal(size=n)
    return y, Z, X


y, Z, X = problem(n=60, p=100, c=3)
n, p, c = len(y), X.shape[1], Z.shape[1]
omega = np.linalg.lstsq(Z, y)[0]
print(f"n = {n}, p = {p}, c = {c}; log-likelihood at a first guess: {loglik(y, Z, X, omega, 0.5, 0.5):.4f}")

# %% [markdown] slide="derivations"
# # EM climbs a bound that touches the likelihood
#
# $$\ell(\theta)=\mathbb{E}_q\left[\log p(y,\beta\mid\theta)\right]-\mathbb{E}_q\left[\log q(\beta)\right]+\mathrm{KL}\left(q\,\Vert\,p(\beta\mid y,\theta)\right)$$
#
# - **E-step**: q = p(β | y, θ) makes KL zero: the bound touches ℓ at θ
# - **M-step**: the best θ for this q raises the bound, and ℓ lies above it
# - Hence ℓ never falls, whatever the start
# - A lesser q gives the ELBO: variational inference (lesson 05)
#
# ---
# Say: For any density q the log-likelihood splits into a bound and a divergence. The E-step closes the divergence, the
# M-step raises the bound. Both lenses of this course, exact and variational, are this one line.
#
# Ask: Why can the log-likelihood rise by more than the bound does in the M-step?
#
# Answer: After θ moved, q is no longer the posterior, so KL is positive: ℓ gained the bound's rise plus that KL.
#
# Minutes: 3

# %% [markdown]
# ## 2. Why EM works
#
# Differentiating $\ell$ mixes all parameters in $V^{-1}$. Were β known, estimation would be trivial: σ²_β the mean of the β_j²,
# ω a regression. EM treats β as missing. For **any** density $q(\beta)$, take logarithms of
# $p(y\mid\theta)=p(y,\beta\mid\theta)/p(\beta\mid y,\theta)$ and the mean under $q$; the left side does not contain β:
#
# $$\ell(\theta)=\underbrace{\mathbb E_q[\log p(y,\beta\mid\theta)]-\mathbb E_q[\log q(\beta)]}_{\text{bound } B(q,\theta)}
# +\underbrace{\mathbb E_q\left[\log\frac{q(\beta)}{p(\beta\mid y,\theta)}\right]}_{\mathrm{KL}(q\,\Vert\,p(\beta\mid y,\theta))\;\ge\;0}.$$
#
# * **E-step**: take $q(\beta)=p(\beta\mid y,\theta_{\text{old}})$. Then KL = 0 and $B(q,\theta_{\text{old}})=\ell(\theta_{\text{old}})$.
# * **M-step**: maximise $B(q,\theta)$ over θ: $\ell(\theta_{\text{new}})\ge B(q,\theta_{\text{new}})\ge B(q,\theta_{\text{old}})=\ell(\theta_{\text{old}})$.
#
# So the log-likelihood never falls. The second term of $B$ does not contain θ; only the **complete-data log-likelihood** does:
#
# $$\log p(y,\beta\mid\theta)=-\tfrac n2\log 2\pi\sigma^2_e-\frac{\lVert y-Z\omega-X\beta\rVert^2}{2\sigma^2_e}
# -\tfrac p2\log 2\pi\sigma^2_\beta-\frac{\lVert\beta\rVert^2}{2\sigma^2_\beta}.$$


# %%
def log_joint(y, Z, X, beta, omega, sigma2_beta, sigma2_e):
    """log p(y, β | θ), the complete-data log-likelihood."""
    r = y - Z @ omega - X @ beta
    return (
        -len(y) / 2 * np.log(2 * np.pi * sigma2_e)
        - r @ r / (2 * sigma2_e)
        - len(beta) / 2 * np.log(2 * np.pi * sigma2_beta)
        - beta @ beta / (2 * sigma2_beta)
    )


# %% [markdown] slide="derivations"
# # The E-step is a ridge regression with error bars
#
# The log joint density is quadratic in β, so β | y is normal:
#
# $$S=\left(\frac{X^\top X}{\sigma^2_e}+\frac{I}{\sigma^2_\beta}\right)^{-1}\qquad \mu=\frac{1}{\sigma^2_e}\,S\,X^\top(y-Z\omega)$$
#
# - Precisions add: data X^{T}X/σ²_{e} plus prior I/σ²_{β}
# - μ is the ridge solution with penalty λ = σ²_{e}/σ²_{β}: the BLUP
# - S is p × p: never form it when p is large
#
# ---
# Say: Complete the square. What multiplies β twice is the posterior precision, what multiplies it once gives the mean.
# The penalty of ridge regression is a ratio of variances, which EM estimates instead of cross-validating.
#
# Ask: What happens to S and μ as σ²_β goes to infinity, with p smaller than n?
#
# Answer: The prior precision vanishes: μ becomes least squares and S its covariance. With p > n the inverse does not exist.
#
# Minutes: 3

# %% [markdown]
# ## 3. E-step: the posterior of β
#
# Collect the powers of β in $\log p(y,\beta)$, with $r=y-Z\omega$:
#
# $$\log p(y,\beta)=-\tfrac12\,\beta^\top\Big(\underbrace{\tfrac{X^\top X}{\sigma^2_e}+\tfrac{I}{\sigma^2_\beta}}_{A}\Big)\beta
# +\beta^\top\underbrace{\tfrac{X^\top r}{\sigma^2_e}}_{b}+\text{const}
# =-\tfrac12(\beta-A^{-1}b)^\top A\,(\beta-A^{-1}b)+\text{const}.$$
#
# A density whose logarithm is quadratic with matrix $-A$ is normal with covariance $A^{-1}$:
#
# $$\beta\mid y\sim N(\mu,S),\qquad S=⟦3.1: \left(\frac{X^\top X}{\sigma^2_e}+\frac{I}{\sigma^2_\beta}\right)^{-1}⟧,\qquad
# \mu=⟦3.1: \frac{S\,X^\top(y-Z\omega)}{\sigma^2_e}⟧ .$$
#
# (`fastlmm_vi.wide.posterior.exact_mean`; the diagonal of $S$: `fastlmm_vi.wide.posterior.Exact.variances`,
# σ²_β times `Spectrum.variances`.) **Gap 3.1**: write it densely.


# %% gap="3.1"
def posterior(y, Z, X, omega, sigma2_beta, sigma2_e):
    """Mean μ (p,) and covariance S (p, p) of β given y."""
    ### SOLUTION
    S = inv(X.T @ X / sigma2_e + np.eye(X.shape[1]) / sigma2_beta)
    mu = S @ X.T @ (y - Z @ omega) / sigma2_e
    ### WRONG the prior's precision is left out
    S = inv(X.T @ X / sigma2_e + 1e-6 * np.eye(X.shape[1]))
    mu = S @ X.T @ (y - Z @ omega) / sigma2_e
    ### WRONG the correlations of the β_j are left out of S
    S = np.diag(1 / ((X**2).sum(axis=0) / sigma2_e + 1 / sigma2_beta))
    A = X.T @ X / sigma2_e + np.eye(X.shape[1]) / sigma2_beta
    mu = np.linalg.solve(A, X.T @ (y - Z @ omega)) / sigma2_e
    ### WRONG the mean is not divided by σ²_e
    S = inv(X.T @ X / sigma2_e + np.eye(X.shape[1]) / sigma2_beta)
    mu = S @ X.T @ (y - Z @ omega)
    ### END
    return mu, S


# %% [markdown]
# The check knows no formula: at the mean of a normal density the gradient of its logarithm vanishes, and at $\mu+Sw$ it is
# $-w$. Both gradients are finite differences of `log_joint`.

# %% check="3.1"
mu, S = posterior(y, Z, X, omega, 0.4, 0.6)
f = lambda beta: log_joint(y, Z, X, beta, omega, 0.4, 0.6)
E = 1e-3 * np.eye(p)
slopes = lambda beta: np.array([(f(beta + e) - f(beta - e)) / 2e-3 for e in E])
assert np.abs(slopes(mu)).max() < 1e-5, (
    "gap 3.1: log p(y, β) still has a slope at your μ. Set its derivative in β to zero."
)
w = np.random.default_rng(0).normal(size=p)  # the slope at μ + δ is −S⁻¹δ; with δ = S w it must be −w
assert np.allclose(slopes(mu + S @ w), -w, atol=1e-5), (
    "gap 3.1: S⁻¹ must be minus the matrix of second derivatives of log p(y, β), off its diagonal too."
)
print("gap 3.1 ✓")

# %% [markdown] slide="derivations"
# # The M-step averages posterior squares
#
# $$\sigma^2_\beta\leftarrow\frac{\mu^\top\mu+\mathrm{tr}\,S}{p}\qquad \sigma^2_e\leftarrow\frac{\left\Vert y-Z\omega-X\mu\right\Vert^2+\mathrm{tr}(XSX^\top)}{n}$$
#
# $$\omega\leftarrow(Z^\top Z)^{-1}Z^\top(y-X\mu)$$
#
# - Known β would give the mean of β²; unknown β adds its variance: E β² = μ² + S
# - Plugging in μ alone (no traces) underestimates σ²_{β}; with p > n it can end at 0
# - ω first, then the variances with the new ω: a joint maximum
#
# ---
# Say: The M-step is what you would do with β in hand, averaged over the posterior. The two traces are the whole
# difference between EM and the naive alternation of ridge regression and variance estimates.
#
# Ask: Which of the two traces is larger when p is much larger than n, relative to its squared term?
#
# Answer: tr S, unless the features explain nearly all of y: n rows say little about p coefficients, so most of each
# β_j's variance remains.
#
# Minutes: 3

# %% [markdown]
# ## 4. M-step: expected squares
#
# For $\beta\sim N(\mu,S)$ and any matrix $M$: $\mathbb E[\beta^\top M\beta]=\mu^\top M\mu+\operatorname{tr}(MS)$. Hence
#
# $$\mathbb E\lVert\beta\rVert^2=\mu^\top\mu+\operatorname{tr}S,\qquad
# \mathbb E\lVert y-Z\omega-X\beta\rVert^2=\lVert y-Z\omega-X\mu\rVert^2+\operatorname{tr}(XSX^\top),$$
#
# and the expected complete-data log-likelihood is
#
# $$\mathcal Q(\theta)=-\tfrac n2\log 2\pi\sigma^2_e-\frac{\lVert y-Z\omega-X\mu\rVert^2+\operatorname{tr}(XSX^\top)}{2\sigma^2_e}
# -\tfrac p2\log 2\pi\sigma^2_\beta-\frac{\mu^\top\mu+\operatorname{tr}S}{2\sigma^2_\beta}.$$
#
# ω enters through the squared norm only, whatever σ²_e is: it is the least-squares fit of $y-X\mu$ on $Z$. Given it,
# $\partial\mathcal Q/\partial\sigma^2_e=-\frac n{2\sigma^2_e}+\frac{\lVert\cdot\rVert^2+\operatorname{tr}}{2\sigma^4_e}=0$ (positive below the root, negative
# above: a maximum), and likewise for σ²_β:
#
# $$\omega\leftarrow⟦3.2: (Z^\top Z)^{-1}Z^\top(y-X\mu)⟧,\quad
# \sigma^2_\beta\leftarrow⟦3.2: \frac{\mu^\top\mu+\operatorname{tr}S}{p}⟧,\quad
# \sigma^2_e\leftarrow⟦3.2: \frac{\lVert y-Z\omega-X\mu\rVert^2+\operatorname{tr}(XSX^\top)}{n}⟧.$$
#
# (`fastlmm_vi_kernels.spectral.em`, from its comment "M-step" on.) **Gap 3.2**: write it; ω first, then the variances with the new ω.


# %%
def Q_function(y, Z, X, mu, S, omega, sigma2_beta, sigma2_e):
    """E log p(y, β | θ) under β ~ N(mu, S)."""
    at_mean = log_joint(y, Z, X, mu, omega, sigma2_beta, sigma2_e)
    return at_mean - np.trace(X @ S @ X.T) / (2 * sigma2_e) - np.trace(S) / (2 * sigma2_beta)


# %% gap="3.2"
def m_step(y, Z, X, mu, S):
    """The θ = (ω, σ²_β, σ²_e) that maximises the expected complete-data log-likelihood."""
    n, p = X.shape
    ### SOLUTION
    omega = np.linalg.solve(Z.T @ Z, Z.T @ (y - X @ mu))
    r = y - Z @ omega - X @ mu
    sigma2_beta = (mu @ mu + np.trace(S)) / p
    sigma2_e = (r @ r + np.trace(X @ S @ X.T)) / n
    ### WRONG β's uncertainty is forgotten (no traces)
    omega = np.linalg.solve(Z.T @ Z, Z.T @ (y - X @ mu))
    r = y - Z @ omega - X @ mu
    sigma2_beta, sigma2_e = mu @ mu / p, r @ r / n
    ### WRONG ω is fitted to y, not to y − Xμ
    omega = np.linalg.solve(Z.T @ Z, Z.T @ y)
    r = y - Z @ omega - X @ mu
    sigma2_beta = (mu @ mu + np.trace(S)) / p
    sigma2_e = (r @ r + np.trace(X @ S @ X.T)) / n
    ### END
    return omega, sigma2_beta, sigma2_e


# %% check="3.2"
theta = m_step(y, Z, X, *posterior(y, Z, X, omega, 0.4, 0.6))
flat = np.r_[theta[0], theta[1], theta[2]]
value = lambda t: Q_function(y, Z, X, *posterior(y, Z, X, omega, 0.4, 0.6), t[:c], t[c], t[c + 1])
for k, name in enumerate([*(f"ω_{j}" for j in range(c)), "σ²_β", "σ²_e"]):
    h = 1e-4 * np.eye(c + 2)[k]
    slope = (value(flat + h) - value(flat - h)) / 2e-4
    assert abs(slope) < 1e-3, f"gap 3.2: the expected log-likelihood still has slope {slope:.3g} in {name} at your θ."
print("gap 3.2 ✓")

# %% [markdown]
# ## 5. The whole algorithm in ten lines
#
# Start: ω by least squares, σ²_β = σ²_e = var(y)/2, as the library does.


# %%
def em(y, Z, X, iterations):
    """Textbook EM: the log-likelihood and the variances at every iterate."""
    omega = np.linalg.lstsq(Z, y)[0]
    sigma2_beta = sigma2_e = y.var() / 2
    path = [(loglik(y, Z, X, omega, sigma2_beta, sigma2_e), sigma2_beta, sigma2_e)]
    for _ in range(iterations):
        mu, S = posterior(y, Z, X, omega, sigma2_beta, sigma2_e)
        omega, sigma2_beta, sigma2_e = m_step(y, Z, X, mu, S)
        path.append((loglik(y, Z, X, omega, sigma2_beta, sigma2_e), sigma2_beta, sigma2_e))
    return np.array(path), omega


path, omega = em(y, Z, X, 200)
assert (np.diff(path[:, 0]) >= -1e-10).all(), "the log-likelihood fell"
for k in (0, 1, 10, 100, 200):
    print("iteration {:3d}: log-likelihood {:.6f}, σ²_β {:.6f}, σ²_e {:.6f}".format(k, *path[k]))

# %% figure="em_path"
figure, axes = plt.subplots(1, 2)
axes[0].plot(path[:, 0])
axes[0].set(xlabel="iteration", ylabel="log-likelihood", title="never falls")
axes[1].plot(path[:, 1], label="$\\sigma^2_\\beta$")
axes[1].plot(path[:, 2], label="$\\sigma^2_e$", ls="--")
axes[1].set(xlabel="iteration", title="variances")
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# ## 6. n < p: Woodbury's identity, n × n instead of p × p
#
# $S$ has $p^2$ entries and its inverse costs O(p³) at every iteration. But $X^\top X$ has rank at most $n$. With
# $\gamma=\sigma^2_\beta/\sigma^2_e$ Woodbury's identity reads
#
# $$S=\sigma^2_\beta\left[I_p-\gamma X^\top(I_n+\gamma K)^{-1}X\right].$$
#
# *Proof.* $S^{-1}=\frac1{\sigma^2_\beta}(I_p+\gamma X^\top X)$. Write $C=(I_n+\gamma K)^{-1}$ and multiply:
#
# $$(I+\gamma X^\top X)(I-\gamma X^\top CX)=I+\gamma X^\top X-\gamma X^\top\left[C+\gamma KC\right]X
# =I+\gamma X^\top X-\gamma X^\top\left[(I+\gamma K)C\right]X=I .\;\square$$
#
# *The mean.* From $(I_p+\gamma X^\top X)X^\top=X^\top(I_n+\gamma K)$ follows $(I_p+\gamma X^\top X)^{-1}X^\top=X^\top C$ (push-through).
# Insert this in $\mu=\frac1{\sigma^2_e}SX^\top r$: ridge regression by an $n\times n$ system.
#
# *The traces.* $\operatorname{tr}(X^\top CX)=\operatorname{tr}(CK)$ by cyclicity;
# $XSX^\top=\sigma^2_\beta X(I_p+\gamma X^\top X)^{-1}X^\top$ takes the push-through once more:
#
# $$\mu=⟦3.3: \gamma X^\top C\,(y-Z\omega)⟧,\qquad \operatorname{tr}S=⟦3.3: \sigma^2_\beta\left[p-\gamma\operatorname{tr}(CK)\right]⟧,\qquad
# \operatorname{tr}(XSX^\top)=⟦3.3: \sigma^2_\beta\operatorname{tr}(KC)⟧ .$$
#
# **Gap 3.3**: no $p\times p$ matrix any more; cost O(n²p + n³).


# %% gap="3.3"
def e_step_rows(y, Z, X, omega, sigma2_beta, sigma2_e):
    """μ (p,), tr S and tr(X S Xᵀ) with n × n matrices only."""
    n, p = X.shape
    gamma = sigma2_beta / sigma2_e
    K = X @ X.T
    C = inv(np.eye(n) + gamma * K)
    ### SOLUTION
    mu = gamma * X.T @ C @ (y - Z @ omega)
    trace_S = sigma2_beta * (p - gamma * np.trace(C @ K))
    trace_XSX = sigma2_beta * np.trace(K @ C)
    ### WRONG tr S counts n variances instead of p
    mu = gamma * X.T @ C @ (y - Z @ omega)
    trace_S = sigma2_beta * (n - gamma * np.trace(C @ K))
    trace_XSX = sigma2_beta * np.trace(K @ C)
    ### WRONG γ is taken for σ²_β in the mean
    mu = sigma2_beta * X.T @ C @ (y - Z @ omega)
    trace_S = sigma2_beta * (p - gamma * np.trace(C @ K))
    trace_XSX = sigma2_beta * np.trace(K @ C)
    ### WRONG tr(X S Xᵀ) is taken from the prior alone
    mu = gamma * X.T @ C @ (y - Z @ omega)
    trace_S = sigma2_beta * (p - gamma * np.trace(C @ K))
    trace_XSX = sigma2_beta * np.trace(K)
    ### END
    return mu, trace_S, trace_XSX


# %% check="3.3"
mu, S = posterior(y, Z, X, omega, 0.4, 0.6)
got = e_step_rows(y, Z, X, omega, 0.4, 0.6)
assert np.allclose(got[0], mu), "gap 3.3: μ is not the posterior mean. Push X through: (I + γXᵀX)⁻¹Xᵀ = Xᵀ(I + γK)⁻¹."
assert np.isclose(got[1], np.trace(S)), (
    "gap 3.3: tr S differs from the dense one. Take the trace of Woodbury's identity."
)
assert np.isclose(got[2], np.trace(X @ S @ X.T)), (
    "gap 3.3: tr(X S Xᵀ) differs from the dense one. Use X S Xᵀ = σ²_β K C."
)
print("gap 3.3 ✓")

# %% [markdown] slide="derivations"
# # Woodbury: n × n instead of p × p
#
# $$S=\sigma^2_\beta\left[I-\gamma X^\top(I+\gamma K)^{-1}X\right]\qquad K=XX^\top\qquad \gamma=\frac{\sigma^2_\beta}{\sigma^2_e}$$
#
# $$\mu=\gamma X^\top(I+\gamma K)^{-1}(y-Z\omega)$$
#
# - Proof: multiply S by its inverse; what is left over cancels
# - The mean by pushing X through: (I + γX^{T}X)^{-1}X^{T} = X^{T}(I + γK)^{-1}
# - An iteration costs O(np + n³) with K kept: too much for thousands of them
#
# ---
# Say: X has n rows, so the data can move β in n directions only. Everything about the posterior can be said with an
# n by n matrix. In the other p − n directions the posterior is the prior.
#
# Ask: In how many directions is the posterior variance exactly σ²_β, when n = 1000 and p = 6000?
#
# Answer: In 5000: the null space of X. The data say nothing there.
#
# Minutes: 3

# %% [markdown]
# ## 7. One rotation for all iterations
#
# $K$ does not change from iteration to iteration, only γ does. Decompose it **once**: $K=UDU^\top$, $U$ orthogonal, $D$ diagonal with
# $d_i\ge0$. Then $C=(I+\gamma K)^{-1}=U\operatorname{diag}(1/v_i)\,U^\top$ with $v_i=1+\gamma d_i$: inverting costs $n$ divisions. Rotate the data once
# as well; from here on $y$ and $Z$ stand for $U^\top y$ and $U^\top Z$, with rows $y_i$, $z_i$; $r_0$ is the residual $y-Z\omega$ before, $r=U^\top r_0$ the one after rotation.
# An orthogonal matrix changes no inner product, so regressions and norms may be computed on rotated rows. One by one:
#
# * $U^\top X\mu=\gamma\,U^\top K C\,r_0=\gamma D\operatorname{diag}(1/v)\,r$ and $\mu^\top\mu=\gamma^2r_0^\top CKC\,r_0$:
#   $C$ and $K$ are diagonal in the same basis.
# * $\operatorname{tr}S=\sigma^2_\beta\big(p-\sum_i\frac{\gamma d_i}{v_i}\big)$, and
#   $\operatorname{tr}(XSX^\top)=\sigma^2_\beta\operatorname{tr}(KC)$; write it with $f$ below.
# * $\log\left|V\right|=n\log\sigma^2_e+\sum_i\log v_i$ and $r_0^\top V^{-1}r_0=\frac1{\sigma^2_e}\sum_i\frac{r_i^2}{v_i}$.
#
# With $f=\sum_i\frac{\gamma d_i}{v_i}$ ("how many of the $p$ effects the data determine") an iteration is
#
# $$t_i=y_i-⟦3.4: \frac{\gamma d_i}{v_i}r_i⟧,\qquad \omega\leftarrow(Z^\top Z)^{-1}Z^\top t,\qquad
# \sigma^2_\beta\leftarrow\frac{⟦3.4: \sum_i\frac{\gamma^2d_i}{v_i^2}r_i^2⟧+\sigma^2_\beta(p-f)}p,\qquad
# \sigma^2_e\leftarrow\frac{\lVert t-Z\omega\rVert^2+⟦3.4: \sigma^2_ef⟧}n .$$
#
# $t$ is the rotated $y-X\mu$. The cost is O(nc) an iteration: **neither $p$ nor $n^2$ appears**. (`fastlmm_vi.wide.spectrum.Spectrum.rotate`
# rotates, `fastlmm_vi_kernels.spectral.em` iterates.) **Gap 3.4**: one iteration on rotated rows.


# %% gap="3.4"
def em_step_rotated(d, y, Z, p, omega, sigma2_beta, sigma2_e):
    """One EM iteration on rotated rows: d (n,) eigenvalues of K, y (n,), Z (n, c)."""
    gamma = sigma2_beta / sigma2_e
    v = 1 + gamma * d
    r = y - Z @ omega
    ### SOLUTION
    fill = np.sum(gamma * d / v)
    t = y - gamma * d / v * r
    omega = np.linalg.lstsq(Z, t)[0]
    new_beta = (np.sum(d * (gamma * r / v) ** 2) + sigma2_beta * (p - fill)) / p
    new_e = (np.sum((t - Z @ omega) ** 2) + sigma2_e * fill) / len(y)
    ### WRONG μᵀμ without its factor d
    fill = np.sum(gamma * d / v)
    t = y - gamma * d / v * r
    omega = np.linalg.lstsq(Z, t)[0]
    new_beta = (np.sum((gamma * r / v) ** 2) + sigma2_beta * (p - fill)) / p
    new_e = (np.sum((t - Z @ omega) ** 2) + sigma2_e * fill) / len(y)
    ### WRONG the new ω is not used in the new σ²_e
    fill = np.sum(gamma * d / v)
    t = y - gamma * d / v * r
    new_beta = (np.sum(d * (gamma * r / v) ** 2) + sigma2_beta * (p - fill)) / p
    new_e = (np.sum((t - Z @ omega) ** 2) + sigma2_e * fill) / len(y)
    omega = np.linalg.lstsq(Z, t)[0]
    ### END
    return omega, new_beta, new_e


# %% check="3.4"
d, U = np.linalg.eigh(X @ X.T)
start = (omega + 0.3, 0.9, 0.5)  # far from the optimum, so that every term matters
dense = m_step(y, Z, X, *posterior(y, Z, X, *start))
rotated = em_step_rotated(d, U.T @ y, U.T @ Z, p, *start)
for name, a, b in zip(["ω", "σ²_β", "σ²_e"], dense, rotated, strict=True):
    assert np.allclose(a, b), f"gap 3.4: {name} differs from the dense iteration of sections 3 and 4."
print("gap 3.4 ✓")

# %% [markdown] slide="algorithms"
# # Rotate once, then an iteration costs O(nc)
#
# $$K=UDU^\top\qquad v_i=1+\gamma d_i\qquad f=\sum_{i}\frac{\gamma d_i}{v_i}$$
#
# $$t_i=y_i-\frac{\gamma d_i}{v_i}r_i\qquad \mu^\top\mu=\sum_{i}\frac{\gamma^2 d_i}{v_i^2}r_i^2$$
#
# $$\mathrm{tr}\,S=\sigma^2_\beta\,(p-f)\qquad \mathrm{tr}(XSX^\top)=\sigma^2_e\,f$$
#
# - y and Z are rotated once by U; r = y − Zω in that basis
# - No p and no n² in an iteration, and the same U for every method
#
# ---
# Say: K never changes, only γ does. In the eigenbasis of K every matrix of the E-step is diagonal, and matrix inverses
# become divisions. The expensive object is made once and shared by EM, Newton and variational inference.
#
# Ask: What does f count, and between which numbers does it lie?
#
# Answer: The effective number of effects determined by the data; between 0 (γ → 0) and the rank of X (γ → ∞).
#
# Minutes: 4

# %% [markdown]
# ## 8. n ≥ p: the other Gram matrix
#
# When $n\ge p$ decompose the smaller $X^\top X=W\Lambda W^\top$ ($p\times p$) instead. Where $\lambda_j>0$, $u_j=Xw_j/\sqrt{\lambda_j}$ is a unit vector
# ($u_j^\top u_k=w_j^\top X^\top Xw_k/\sqrt{\lambda_j\lambda_k}$ is 1 for $j=k$, else 0) and $Ku_j=X(X^\top X)w_j/\sqrt{\lambda_j}=\lambda_ju_j$. So $K$
# has the same positive eigenvalues, with eigenvectors $U_1=XW\Lambda^{-1/2}$, columns with $\lambda_j=0$ left out; its other eigenvalues are 0.
#
# Complete $U_1$ to an orthogonal $U=[U_1,U_0]$. On the rows $U_0^\top y$, $U_0^\top Z$ we have $d_i=0$, $v_i=1$: all sums of section 7
# treat these rows alike, so only **inner products** of $U_0^\top[y,Z]$ matter. $U_0U_0^\top[y,Z]=[y,Z]-U_1U_1^\top[y,Z]$ has the same
# inner products, and so has the triangular factor $R$ of its QR decomposition ($A=QR$ gives $A^\top A=R^\top R$): $c+1$ rows
# stand for all $n-p$ of them. The formulas stay as they are; $n$ and $p$ are the true counts.


# %%
def rotate_tall(y, Z, X):
    """Eigenvalues of K and rotated y, Z for n ≥ p, from XᵀX: rank + c + 1 rows with all inner products of the n."""
    lam, W = np.linalg.eigh(X.T @ X)
    lam, W = lam[lam > 1e-12 * lam[-1]], W[:, lam > 1e-12 * lam[-1]]
    U1 = X @ W / np.sqrt(lam)
    data = np.column_stack([y, Z])
    rest = data - U1 @ (U1.T @ data)
    rows = np.vstack([U1.T @ data, np.linalg.qr(rest, mode="r")])
    return np.concatenate([lam, np.zeros(Z.shape[1] + 1)]), rows[:, 0], rows[:, 1:]


yt, Zt, Xt = problem(n=200, p=15, c=3, seed=4)
d_tall, y_rot, Z_rot = rotate_tall(yt, Zt, Xt)
assert y_rot.size == 15 + 3 + 1
assert np.allclose(y_rot @ y_rot, yt @ yt) and np.allclose(Z_rot.T @ y_rot, Zt.T @ yt)

# %% [markdown]
# The rows left out are zeros with $v_i=1$: to $\log\left|V\right|$ they add $(n-m)\log\sigma^2_e$, with $m$ the rows kept, to the quadratic form nothing;
# the $n\log\sigma^2_e$ of `marginal_loglik` counts them. One EM iteration on 19 rows against the dense one on 200 (the denominator $n$ stays 200):

# %%
start = (np.full(3, 0.2), 0.9, 0.5)
dense = m_step(yt, Zt, Xt, *posterior(yt, Zt, Xt, *start))
kept = np.concatenate([y_rot, np.zeros(200 - 19)])  # rows of zeros, so that len(y) is the true n
kept_Z = np.vstack([Z_rot, np.zeros((200 - 19, 3))])
rotated = em_step_rotated(np.concatenate([d_tall, np.zeros(200 - 19)]), kept, kept_Z, 15, *start)
assert all(np.allclose(a, b) for a, b in zip(dense, rotated, strict=True))
value = spectral.marginal_loglik(0.9, 0.5, np.full(3, 0.2), d_tall, y_rot, Z_rot, 200)
assert np.isclose(value, loglik(yt, Zt, Xt, np.full(3, 0.2), 0.9, 0.5))
print("n ≥ p: 19 rows give the iteration and the likelihood of all 200")

# %% [markdown]
# ## 9. From the formulas to every line of the kernel
#
# Two preparations make the loop shorter (`fastlmm_vi.wide.design.Design`). The covariates are orthonormalised, $Z=QR$
# with $Q^\top Q=I$, and the least-squares fit $QQ^\top y=Z\omega_{\text{ls}}$ is taken out of $y$ once. With
# $a=R(\omega-\omega_{\text{ls}})$,
#
# $$y-Z\omega=(y-QQ^\top y)+QR\,\omega_{\text{ls}}-QR\,\omega=(y-QQ^\top y)-Qa :$$
#
# the same residual for every ω, hence the same E-step and variances. From here on $y$ stands for $y-QQ^\top y$. The
# least-squares step is $a=Q^\top t$, the start (least-squares ω) is $a=0$, and at the end
# $\omega=\omega_{\text{ls}}+R^{-1}a$ (`Design.omega`). With $F=\sum_ir_i^2/v_i$ the log-likelihood is
#
# $$\ell=-\tfrac12\left[n(\log2\pi+\log\sigma^2_e)+\frac F{\sigma^2_e}+\sum_i\log(1+\gamma d_i)\right].$$
#
# | kernel | formula |
# |---|---|
# | `log_volume(gamma, h)`, `fill` (loop over `h`) | $\sum_i\log(1+\gamma d_i)$ and $f=\sum_i\gamma d_i/v_i$; `h` holds the eigenvalues of $X^\top X$, and the zeros by which the two lists differ add nothing |
# | `F`, `mean_sq`, `t[i]` (loop over rows) | $\sum r_i^2/v_i$, $\mu^\top\mu$, the rotated $y-X\mu$ |
# | `path[count, 0]` | $\ell$ above, at the current θ: evaluated before the step, at no extra pass |
# | `omega = project(C, t)` | $a=Q^\top t$ |
# | `residual(y, C, omega, r)`, `rss` | the new $r=y-Qa$, and $\lVert t-Qa\rVert^2$ with $t-Qa=r+t-y$ |
# | `new_beta`, `new_e` | the M-step of section 7 |
# | `step`, `tol` | a pause: whether EM may end is judged outside, by the Newton step of the profile likelihood (lesson 04) |
#
# (In lesson 05 the same loop becomes variational EM: `h` is then the diagonal of $X^\top X$.) Here is the loop itself:

# %%
import inspect

print(inspect.getsource(spectral.em.py_func).partition('"""')[2].partition('"""')[2])

# %% [markdown]
# ## 10. The same through the library
#
# `WideLMM("em")` takes the whole road: checks, $Z=QR$, spectrum, rotation, loop. Its iterates equal those of section 5:

# %%
model = fl.WideLMM("em", fit_intercept=False).fit(X, y, Z)
trace = model.trace_[["loglik", "sigma2_beta", "sigma2_e"]].to_numpy()
assert np.allclose(trace[: len(path)], path, rtol=1e-8), "the library's EM is another one"
print(f"iterations 0 to {len(path) - 1} agree; converged: {model.converged_} after {model.n_iter_} iterations")
print(f"σ²_β {model.sigma2_beta_:.6f}, σ²_e {model.sigma2_e_:.6f}, log-likelihood {model.loglik_:.6f}")

# %% [markdown]
# What the rotation is worth: seconds per iteration of the dense textbook version, of the rotated NumPy step, of the kernel.

# %% timing=true
import time

start = time.perf_counter()
em(y, Z, X, 5)
dense_seconds = (time.perf_counter() - start) / 5

theta, rows = (omega, 0.5, 0.5), (d, U.T @ y, U.T @ Z)
start = time.perf_counter()
for _ in range(1000):
    theta = em_step_rotated(*rows, p, *theta)
numpy_seconds = (time.perf_counter() - start) / 1000

Q = np.linalg.qr(Z)[0]
residual = y - Q @ (Q.T @ y)
arguments = (d, U.T @ residual, U.T @ Q, n, p, d)
spectral.em(0.5, 0.5, np.zeros(Q.shape[1]), 1, 0.0, *arguments)  # compiled before it is timed
start = time.perf_counter()
spectral.em(0.5, 0.5, np.zeros(Q.shape[1]), 10_000, 0.0, *arguments)
kernel_seconds = (time.perf_counter() - start) / 10_000
for name, seconds in [("dense", dense_seconds), ("rotated, NumPy", numpy_seconds), ("kernel", kernel_seconds)]:
    print(f"{name:15s} {1e6 * seconds:9.2f} µs an iteration, n = {n}, p = {p}")

# %% [markdown]
# And where the dense iteration goes: its cost grows with $p^3$, the rotated one's does not contain $p$. The picture counts
# the leading multiplications, so it is the same on every machine: dense, $p^3+n^2p$; after Woodbury, $n^2p+n^3$; rotated, $n(2c+12)$.

# %% figure="em_cost"
sizes = np.geomspace(100, 100_000, 13)
rows_n, covariates_c = 1000, 30
figure, ax = plt.subplots()
ax.loglog(sizes, sizes**3 + rows_n**2 * sizes, label="dense: S is p × p")
ax.loglog(sizes, rows_n**2 * sizes + rows_n**3, label="Woodbury: n × n", ls="--")
ax.loglog(sizes, np.full_like(sizes, rows_n * (2 * covariates_c + 12)), label="rotated: sums over n", ls="-.")
ax.set(xlabel="features p (n = 1000, c = 30)", ylabel="multiplications an iteration")
ax.legend(frameon=False)
plt.show()

# %% [markdown] slide="algorithms"
# # The rotation takes p out of the loop
#
# ![Multiplications of one EM iteration against the number of features, on log axes: dense rises as p cubed, Woodbury as p, the rotated iteration is flat and lowest](chart:em_cost)
#
# - Dense: p³ an iteration
# - Woodbury: n²p + n³
# - Rotated: n(2c + 12), p is gone
# - Price: one decomposition
#
# ---
# Say: These are counted multiplications, not seconds, so they hold on every machine. With ten thousand features the dense
# iteration is more than ten million times the work of the rotated one. The decomposition is paid once.
#
# Ask: When would you not rotate?
#
# Answer: When n and p are both so large that neither Gram matrix can be decomposed; then sweeps on X (lesson 05) remain.
#
# Minutes: 2

# %% [markdown]
# ## What to remember
#
# * EM maximises a lower bound that the E-step makes touch the log-likelihood: the log-likelihood never falls.
# * The E-step is ridge regression with error bars; the M-step averages squares **with** the posterior variances.
# * Woodbury trades $p\times p$ for $n\times n$; the eigenbasis of $K=XX^\top$ trades matrices for sums. One iteration: O(nc).
# * For $n\ge p$ the smaller Gram matrix does the same, and $c+1$ rows stand for the whole null space.
# * Never falling is not the same as having arrived: lesson 04.
#
# ## Exercises
#
# **3.E1** The variances of all effects without a p × p matrix. Show from Woodbury's identity and $K=UDU^\top$ that
# $S_{jj}=\sigma^2_\beta\big[1-\sum_i\frac{\gamma}{v_i}(u_i^\top x_j)^2\big]$ and write it for all $j$ at once (`Spectrum.variances`, without the factor σ²_β).


# %% gap="3.E1"
def posterior_variances(X, d, U, sigma2_beta, sigma2_e):
    """Var(β_j | y), (p,): O(n²p), n × p memory."""
    gamma = sigma2_beta / sigma2_e
    ### SOLUTION
    projected = (U.T @ X) ** 2
    return sigma2_beta * (1 - (gamma / (1 + gamma * d)) @ projected)
    ### WRONG the weights lack γ
    projected = (U.T @ X) ** 2
    return sigma2_beta * (1 - (1 / (1 + gamma * d)) @ projected)
    ### WRONG not squared
    return sigma2_beta * (1 - (gamma / (1 + gamma * d)) @ (U.T @ X))
    ### END


# %% check="3.E1"
got = posterior_variances(X, d, U, 0.4, 0.6)
assert np.allclose(got, np.diag(posterior(y, Z, X, omega, 0.4, 0.6)[1])), "3.E1: not the diagonal of the dense S."
library = fl.WideLMM(fit_intercept=False).fit(X, y, Z)
assert np.allclose(posterior_variances(X, d, U, library.sigma2_beta_, library.sigma2_e_), library.beta_var_)
print("exercise 3.E1 ✓")

# %% [markdown]
# **3.E2** The gradient for free (Fisher's identity). Differentiate $\ell=B(q,\theta)+\mathrm{KL}$ at the θ where $q$ is the posterior: KL is at
# its minimum 0 there, so its derivative vanishes and $\nabla\ell=\nabla\mathcal Q$. Conclude that
#
# $$\frac{\partial\ell}{\partial\sigma^2_\beta}=\frac{p}{2\sigma^4_\beta}\left(\sigma^{2\,\text{new}}_\beta-\sigma^2_\beta\right)$$
#
# where "new" is EM's M-step. EM is gradient ascent whose step shrinks with σ⁴_β/p: small variances and many features crawl.


# %% gap="3.E2"
def slope_in_sigma2_beta(y, Z, X, omega, sigma2_beta, sigma2_e):
    """∂ℓ/∂σ²_β from one E-step."""
    p = X.shape[1]
    ### SOLUTION
    mu, trace_S, _ = e_step_rows(y, Z, X, omega, sigma2_beta, sigma2_e)
    return p / (2 * sigma2_beta**2) * ((mu @ mu + trace_S) / p - sigma2_beta)
    ### WRONG without the posterior's variance
    mu, _, _ = e_step_rows(y, Z, X, omega, sigma2_beta, sigma2_e)
    return p / (2 * sigma2_beta**2) * (mu @ mu / p - sigma2_beta)
    ### WRONG the factor ½ is lost
    mu, trace_S, _ = e_step_rows(y, Z, X, omega, sigma2_beta, sigma2_e)
    return p / sigma2_beta**2 * ((mu @ mu + trace_S) / p - sigma2_beta)
    ### END


# %% check="3.E2"
for sigma2_beta, sigma2_e in [(0.2, 0.6), (0.9, 0.3)]:
    difference = loglik(y, Z, X, omega, sigma2_beta + 1e-5, sigma2_e) - loglik(
        y, Z, X, omega, sigma2_beta - 1e-5, sigma2_e
    )
    got = slope_in_sigma2_beta(y, Z, X, omega, sigma2_beta, sigma2_e)
    assert np.isclose(got, difference / 2e-5, rtol=1e-5), (
        f"3.E2: the log-likelihood's slope is {difference / 2e-5:.6f}."
    )
print("exercise 3.E2 ✓")
