# %% [markdown]
# # The words: Bayes, evidence, variational inference
#
# Every word that the later lessons use, defined by its formula and checked by a number: from prior and likelihood to
# the evidence, the Kullback-Leibler divergence, the ELBO, mean field and coordinate ascent, on one effect and then on
# two.
#
# You need: the normal density of one and of several variables, integrals; trace, inverse and eigenvalues of a matrix. Time: 90 minutes.
#
# ## 1. One effect: prior, hyperparameters, sampling distribution, likelihood
#
# The running example has one effect β and six observations:
#
# $$y_i=x_i\beta+e_i,\qquad e_i\sim N(0,\sigma^2_e)\ \text{independent},\qquad i=1,\dots,n .$$
#
# Throughout, $N(t;\,m,v)=(2\pi v)^{-1/2}\exp\left(-(t-m)^2/2v\right)$ is the normal density with mean $m$ and
# **variance** $v$, and log is the natural logarithm. There are no covariates in this lesson; with covariates, read
# $y-Z\omega$ for $y$.
#
# * **Prior** $p(\beta)=N(\beta;0,\sigma^2_\beta)$: what is known about β before the data.
# * **Hyperparameter**: a parameter of the prior, here σ²_β. The noise variance σ²_e belongs to the data's distribution,
#   but like σ²_β it is not the effect one asks about. Both together, $\theta=(\sigma^2_\beta,\sigma^2_e)$, are the
#   **variance components** (with ω in θ as soon as there are covariates). In sections 1 to 4 θ is known, and densities
#   are written without it.
# * **Sampling distribution** $p(y\mid\beta)=\prod_i N(y_i;\,x_i\beta,\sigma^2_e)$, read as a density **in y** at a
#   fixed β. It integrates to 1 over $y$, for every β, as each factor does.
# * **Likelihood** $L(\beta)=p(y\mid\beta)$: the same formula, read as a function **of β** at the observed $y$. It is not a
#   density in β: nothing makes it integrate to 1.
#
# For one observation the substitution $u=x_1\beta$ gives the area under the likelihood,
#
# $$\int N(y_1;\,x_1\beta,\sigma^2_e)\,d\beta=\frac1{|x_1|}\int N(y_1;\,u,\sigma^2_e)\,du=\frac1{|x_1|} ,$$
#
# which depends on the unit in which $x_1$ is measured. The numbers of the example are short enough for a pocket
# calculator.

# %%
import itertools

import matplotlib.pyplot as plt
import numpy as np
from fastlmm_vi_kernels import spectral, sweep
from numpy.linalg import cholesky, eigh, inv, slogdet
from scipy.optimize import minimize

import fastlmm_vi as fl

plt.rcParams.update({"figure.figsize": (6.4, 3.6), "figure.constrained_layout.use": True, "font.size": 11})

x = np.array([-0.8, -1.3, -0.2, 0.4, 1.1, 0.1])
y = np.array([-1.3, -2.1, 0.3, 1.6, 1.5, -0.7])
theta = (0.5, 0.8)  # (σ²_β, σ²_e), known until section 5


def log_normal(t, mean, var):
    """Log of N(t; mean, var)."""
    return -0.5 * (np.log(2 * np.pi * var) + (t - mean) ** 2 / var)


def log_likelihood(beta, x, y, sigma2_e):
    """log p(y | β), at one β or at an array of them."""
    return log_normal(y, np.multiply.outer(beta, x), sigma2_e).sum(axis=-1)


T = np.linspace(-15, 15, 20_001)  # the grid of all integrals; every integrand is negligible at its ends


def integral(values):
    """∫ f(t) dt from the values of f on T (trapezoid rule)."""
    return values.sum() * (T[1] - T[0])


in_y = integral(np.exp(log_normal(T, x[0] * 1.0, theta[1])))
in_beta = integral(np.exp(log_normal(y[0], x[0] * T, theta[1])))
print(f"n = {len(y)}, x'x = {x @ x:.2f}, x'y = {x @ y:.2f}")
print(f"area under p(y_1 | β = 1) in y_1: {in_y:.6f}; area under the likelihood of y_1 in β: {in_beta:.6f}")
assert np.allclose([in_y, in_beta], [1, 1 / abs(x[0])])

# %% figure="two_readings"
figure, axes = plt.subplots(1, 2, sharey=True)
t = np.linspace(-4, 4, 401)
axes[1].plot(t, np.exp(log_normal(y[0], x[0] * t, theta[1])), color="0.3")
for k, (beta, style) in enumerate([(-1.0, ":"), (0.0, "--"), (1.5, "-")]):
    axes[0].plot(t, np.exp(log_normal(t, x[0] * beta, theta[1])), style, color=f"C{k}", label=f"β = {beta}")
    height = np.exp(log_normal(y[0], x[0] * beta, theta[1]))
    axes[0].scatter([y[0]], [height], color=f"C{k}", zorder=3)
    axes[1].scatter([beta], [height], color=f"C{k}", zorder=3)
axes[0].axvline(y[0], color="0.6", lw=0.8)
axes[0].set(
    xlabel="$y_1$  (line: observed)", ylabel="$p(y_1\\,|\\,\\beta)$", title="three densities, area 1", ylim=(0, 0.66)
)
axes[0].legend(frameon=False, fontsize="small", loc="upper right")
axes[1].set(xlabel="β", title=f"one likelihood, area {1 / abs(x[0]):.2f}")
plt.show()

# %% [markdown]
# Each dot on the right is the dot of the same colour on the left: the likelihood collects, at the observed $y_1$, one
# value from each of the densities. (*Sampling distribution* is also said of the distribution of an estimate over
# repeated samples; that is the same density carried over to a function of $y$.)
#
# All six observations: with $b=x^\top y/x^\top x$, the least-squares estimate, $x^\top(y-xb)=0$, so that
#
# $$\sum_i(y_i-x_i\beta)^2=\lVert y-xb\rVert^2+x^\top x\,(\beta-b)^2 .$$
#
# As a function of β the likelihood is therefore a constant times $N(\beta;\,b,\,\sigma^2_e/x^\top x)$: a bell around
# $b$, with an area that is in general not 1.

# %%
b = x @ y / (x @ x)
area = integral(np.exp(log_likelihood(T, x, y, theta[1])))
bell = np.exp(log_likelihood(b, x, y, theta[1])) * np.sqrt(2 * np.pi * theta[1] / (x @ x))
print(f"least squares b = {b:.4f}; area under the likelihood of all six: {area:.3e}, by the formula {bell:.3e}")
assert np.isclose(area, bell)

# %% [markdown] slide="model"
# # Bayes' rule turns the prior into a posterior
#
# $$p(\beta\,|\,y)=\frac{p(y\,|\,\beta)\,p(\beta)}{p(y)}$$
#
# - Precisions add: the posterior narrows
# - The mean is pulled towards the prior's
#
# ![Prior, likelihood and the narrower posterior; prior and posterior predictive densities](wide:bayes)
#
# ---
# Say: The same formula p(y | β) is a density in y and a likelihood in β. Times the prior and divided by its own
# integral, it becomes a density in β: the posterior. The right panel carries both over to a new observation.
#
# Ask: The likelihood alone peaks at least squares. Where does the posterior peak, and why not there?
#
# Answer: Between least squares and 0, the prior's mean; the weights are the precisions x'x/σ²_e and 1/σ²_β.
#
# Minutes: 3

# %% [markdown]
# ## 2. Bayes' rule: posterior and evidence
#
# The **joint density** $p(y,\beta)=p(y\mid\beta)\,p(\beta)$ also factorises the other way round,
# $p(y,\beta)=p(\beta\mid y)\,p(y)$. Equating both,
#
# $$p(\beta\mid y)=\frac{p(y\mid\beta)\,p(\beta)}{p(y)},\qquad p(y)=\int p(y\mid\beta)\,p(\beta)\,d\beta .$$
#
# * **Posterior** $p(\beta\mid y)$: what is known about β after the data; a density in β, as $p(y)$ makes it integrate
#   to 1.
# * **Marginal likelihood**, or **evidence**, $p(y)$: the likelihood averaged over the prior. *Marginal*, since β is
#   integrated out.
#
# **The posterior of one effect.** Collect the powers of β in the log joint density:
#
# $$\log p(y,\beta)=-\frac{\sum_i(y_i-x_i\beta)^2}{2\sigma^2_e}-\frac{\beta^2}{2\sigma^2_\beta}+\text{const}
# =-\frac12\underbrace{\left(\frac{x^\top x}{\sigma^2_e}+\frac1{\sigma^2_\beta}\right)}_{a}\beta^2
# +\underbrace{\frac{x^\top y}{\sigma^2_e}}_{h}\beta+\text{const}.$$
#
# Completing the square, $-\frac12a\beta^2+h\beta=-\frac12a\left(\beta-h/a\right)^2+h^2/2a$. The last term does not
# contain β. A density whose logarithm is $-\frac12a(\beta-\mu)^2$ plus a constant is normal with mean μ and variance
# $1/a$:
#
# $$\beta\mid y\sim N(\mu,S),\qquad S=⟦2.1: \left(\frac{x^\top x}{\sigma^2_e}+\frac1{\sigma^2_\beta}\right)^{-1}⟧,\qquad
# \mu=⟦2.1: \frac{S\,x^\top y}{\sigma^2_e}⟧ .$$
#
# The inverse of a variance is a **precision**: the posterior's is $a$, the sum of the data's and the prior's. **Gap
# 2.1**: write it. (For many effects: `fastlmm_vi.wide.posterior.exact_mean` and
# `fastlmm_vi.wide.spectrum.Spectrum.variances`; lesson 03.)


# %%
def log_joint(beta, x, y, sigma2_beta, sigma2_e):
    """log p(y, β) = log likelihood + log prior."""
    return log_likelihood(beta, x, y, sigma2_e) + log_normal(beta, 0.0, sigma2_beta)


# %% gap="2.1"
def posterior_1d(x, y, sigma2_beta, sigma2_e):
    """Mean μ and variance S of β given y, for one effect."""
    ### SOLUTION
    S = 1 / (x @ x / sigma2_e + 1 / sigma2_beta)
    mu = S * (x @ y) / sigma2_e
    ### WRONG the prior's precision is left out
    S = sigma2_e / (x @ x)
    mu = S * (x @ y) / sigma2_e
    ### WRONG variances are added instead of precisions
    S = sigma2_e / (x @ x) + sigma2_beta
    mu = S * (x @ y) / sigma2_e
    ### WRONG the mean is not divided by σ²_e
    S = 1 / (x @ x / sigma2_e + 1 / sigma2_beta)
    mu = S * (x @ y)
    ### END
    return mu, S


# %% check="2.1"
for sb, se in [theta, (2.0, 0.3)]:
    mu, S = posterior_1d(x, y, sb, se)
    density = np.exp(log_joint(T, x, y, sb, se))
    density /= integral(density)
    mean = integral(T * density)
    var = integral((T - mean) ** 2 * density)
    assert np.isclose(S, var), f"gap 2.1: S = {S:.5f}, but the variance of p(y, β)/p(y) is {var:.5f}. Add precisions."
    assert np.isclose(mu, mean), f"gap 2.1: μ = {mu:.5f}, but the mean of p(y, β)/p(y) is {mean:.5f}."
print("gap 2.1 ✓")

# %% [markdown]
# **The evidence in closed form.** $y=x\beta+e$ is a sum of independent normal vectors, hence normal with mean 0 and
#
# $$\operatorname{Cov}(y_i,y_k)=x_ix_k\operatorname{Var}(\beta)+\operatorname{Cov}(e_i,e_k)\quad\Longrightarrow\quad
# V=\sigma^2_\beta\,xx^\top+\sigma^2_eI_n ,$$
#
# $$\log p(y)=-\tfrac12\left[n\log2\pi+\log\left|V\right|+y^\top V^{-1}y\right].$$
#
# With $p$ effects and $X$ of size $n\times p$, $xx^\top$ becomes $XX^\top$. The library calls log evidence the
# **log-likelihood**, `loglik_`, since it is the likelihood of θ (`fastlmm_vi_kernels.spectral.marginal_loglik`; it
# takes the data in the eigenbasis of $XX^\top$, where $V$ is diagonal). Bayes' rule offers a third way:
# $\log p(y)=\log p(y,\beta)-\log p(\beta\mid y)$ holds at **every** β.


# %%
def log_evidence(X, y, sigma2_beta, sigma2_e):
    """log p(y), X of size (n, p)."""
    V = sigma2_beta * X @ X.T + sigma2_e * np.eye(len(y))
    return -0.5 * (len(y) * np.log(2 * np.pi) + slogdet(V)[1] + y @ inv(V) @ y)


def library_loglik(X, y, sigma2_beta, sigma2_e):
    """The same by the library's kernel: eigenvalues d of X Xᵀ, rotated y, no covariates."""
    d, U = eigh(X @ X.T)
    no_omega, no_Q = np.empty(0), np.empty((len(y), 0))
    return spectral.marginal_loglik(sigma2_beta, sigma2_e, no_omega, d, U.T @ y, no_Q, len(y))


X1 = x[:, None]  # the one effect as a matrix with one column
mu, S = posterior_1d(x, y, *theta)
by_quadrature = np.log(integral(np.exp(log_joint(T, x, y, *theta))))
by_bayes = log_joint(0.3, x, y, *theta) - log_normal(0.3, mu, S)
print(f"log evidence: closed form {log_evidence(X1, y, *theta):.8f}, quadrature {by_quadrature:.8f},")
print(f"              Bayes' rule at β = 0.3 {by_bayes:.8f}, library {library_loglik(X1, y, *theta):.8f}")
assert np.allclose([by_quadrature, by_bayes, library_loglik(X1, y, *theta)], log_evidence(X1, y, *theta))

# %% [markdown]
# ## 3. Prior predictive and posterior predictive
#
# A prediction averages the sampling distribution of a new observation $y_*=x_*\beta+e_*$ over what is known about β:
#
# * **Prior predictive** $p(y_*)=\int p(y_*\mid\beta)\,p(\beta)\,d\beta=N(y_*;\,0,\;x_*^2\sigma^2_\beta+\sigma^2_e)$.
# * **Posterior predictive**
#   $p(y_*\mid y)=\int p(y_*\mid\beta)\,p(\beta\mid y)\,d\beta=N(y_*;\,x_*\mu,\;x_*^2S+\sigma^2_e)$.
#
# Both follow as the evidence did: $x_*\beta$ and $e_*$ are independent normals, given $y$ as well, so means and
# variances add. The prior predictive of the whole vector $y$ is $N(0,V)$: **the evidence is the prior predictive
# density, read at the observed y**. It is a density in $y$, and a likelihood in θ: the two readings of section 1
# again, one level up. (Mean and standard deviation of the posterior predictive: `WideLMM.predict` with
# `return_std=True`.)

# %%
x_new = 1.5
for label, mean, var in [("prior", 0.0, theta[0]), ("posterior", mu, S)]:
    for y_new in (-1.0, 2.0):
        average = integral(np.exp(log_normal(y_new, x_new * T, theta[1]) + log_normal(T, mean, var)))
        assert np.isclose(average, np.exp(log_normal(y_new, x_new * mean, x_new**2 * var + theta[1])))
    print(f"{label:>9} predictive at x = {x_new}: mean {x_new * mean:.4f}, sd {np.sqrt(x_new**2 * var + theta[1]):.4f}")

# %% figure="bayes"
figure, axes = plt.subplots(1, 2)
t = np.linspace(-2.4, 3.2, 401)
scaled = np.exp(log_likelihood(t, x, y, theta[1])) / area
axes[0].plot(t, np.exp(log_normal(t, 0.0, theta[0])), "--", color="C0", label="prior")
axes[0].plot(t, scaled, ":", color="C2", label="likelihood, scaled")
axes[0].plot(t, np.exp(log_normal(t, mu, S)), color="C1", label="posterior")
axes[0].set(xlabel="β", ylabel="density", ylim=(0, 1.5))
axes[0].legend(frameon=False, fontsize="small", loc="upper left")
t = np.linspace(-4.5, 6, 401)
for label, mean, var, style in [("prior", 0.0, theta[0], "C0--"), ("posterior", mu, S, "C1-")]:
    density = np.exp(log_normal(t, x_new * mean, x_new**2 * var + theta[1]))
    axes[1].plot(t, density, style, label=f"{label} predictive")
axes[1].set(xlabel=f"new observation at x = {x_new}", ylim=(0, 0.52))
axes[1].legend(frameon=False, fontsize="small", loc="upper left")
plt.show()

# %% [markdown]
# ## 4. Maximum likelihood is MAP with a flat prior
#
# * **Maximum likelihood** (ML): $\hat\beta_{\text{ML}}=\arg\max_\beta p(y\mid\beta)$. Here it is $b=x^\top y/x^\top x$.
# * **Maximum a posteriori** (MAP):
#   $\hat\beta_{\text{MAP}}=\arg\max_\beta p(\beta\mid y)=\arg\max_\beta\left[\log p(y\mid\beta)+\log p(\beta)\right]$.
#   A normal density peaks at its mean, so here it is μ.
#
# Where the prior is constant in β the two maximise the same function: **ML is MAP with a flat prior**. (On the whole line no
# density is constant: a flat prior is *improper*, meant as the limit below.) A normal prior
# becomes flat as $\sigma^2_\beta\to\infty$: the ratio of its values at any two β goes to 1. Put
# $x^\top y=x^\top x\,b$ into μ and multiply numerator and denominator by σ²_e:
#
# $$\mu=\frac{x^\top x\;b/\sigma^2_e}{x^\top x/\sigma^2_e+1/\sigma^2_\beta}
# =b\;\frac{x^\top x}{x^\top x+\sigma^2_e/\sigma^2_\beta}\;\longrightarrow\;b .$$
#
# The factor is below 1: MAP **shrinks** ML towards 0. Numerically:

# %%
print("     σ²_β         μ     b − μ   log evidence")
for sigma2_beta in (0.1, 1.0, 10.0, 1e2, 1e4, 1e6):
    at = posterior_1d(x, y, sigma2_beta, theta[1])[0]
    print(f"{sigma2_beta:9.0e}  {at:8.5f}  {b - at:8.1e}  {log_evidence(X1, y, sigma2_beta, theta[1]):13.5f}")
assert abs(b - at) < 1e-5

# %% figure="map"
figure, ax = plt.subplots()
t = np.linspace(-0.6, 2.6, 401)
heights = log_likelihood(t, x, y, theta[1]) - log_likelihood(b, x, y, theta[1])
ax.plot(t, heights, ":", color="0.3", lw=3, zorder=3, label="log likelihood")
for k, sigma2_beta in enumerate((0.1, 1.0, 100.0)):
    at = posterior_1d(x, y, sigma2_beta, theta[1])[0]
    heights = log_joint(t, x, y, sigma2_beta, theta[1]) - log_joint(at, x, y, sigma2_beta, theta[1])
    ax.plot(
        t, heights, ["--", "-.", "-"][k], color=f"C{k}", label=f"log posterior, $\\sigma^2_\\beta$ = {sigma2_beta:g}"
    )
    ax.scatter([at], [0.0], color=f"C{k}", zorder=4)
ax.axvline(b, color="0.6", lw=0.8)
ax.set(xlabel="β  (line: least squares)", ylabel="below the maximum, nats", ylim=(-4, 1.9))
ax.legend(frameon=False, fontsize="small", loc="upper left", ncols=2)
plt.show()

# %% [markdown]
# The estimate has a limit, the **log** evidence has none: for large σ²_β it falls like $-\frac12\log\sigma^2_\beta$
# without bound (by the formula of section 5), so the evidence goes to 0: the prior spreads over effects that the data
# rule out. A flat prior answers *which β*, and
# not *which prior*.
#
# ## 5. Type-II maximum likelihood: θ by the evidence
#
# So far θ was given. Its likelihood is the evidence,
# $p(y\mid\theta)=\int p(y\mid\beta,\theta)\,p(\beta\mid\theta)\,d\beta$. (From here on θ is written where it
# matters.)
#
# * **Type-II maximum likelihood**, the same as **empirical Bayes**: $\hat\theta=\arg\max_\theta\log p(y\mid\theta)$,
#   and then the posterior $p(\beta\mid y,\hat\theta)$ as if $\hat\theta$ were known.
#
# This is what lessons 03 to 06 do with σ²_β, σ²_e and ω, with the evidence itself or with a bound (section 7) in its
# place; mixed-model books call it maximum likelihood, without the *type-II*. Type I would maximise over β itself.
# With one effect and known σ²_e the maximum can be calculated. Let $u=x/\lVert x\rVert$. Then $Vu=\tau u$ with
# $\tau=\sigma^2_\beta x^\top x+\sigma^2_e$, and $Vw=\sigma^2_ew$ for every $w$ orthogonal to $x$. So $V$ has the
# eigenvalue τ once and σ²_e in the other $n-1$ directions, which do not see σ²_β:
# $\log\left|V\right|=\log\tau+(n-1)\log\sigma^2_e$, and
# $y^\top V^{-1}y=(u^\top y)^2/\tau+\left(y^\top y-(u^\top y)^2\right)/\sigma^2_e$. As a function of σ²_β,
#
# $$\log p(y\mid\theta)=-\tfrac12\left[\log\tau+\frac{(u^\top y)^2}{\tau}\right]+\text{const},\qquad
# \frac{d}{d\tau}\left[\log\tau+\frac{(u^\top y)^2}\tau\right]=\frac1\tau\left[1-\frac{(u^\top y)^2}{\tau}\right].$$
#
# The slope of the bracket is negative below $\tau=(u^\top y)^2$ and positive above: the evidence has one maximum,
# there, or at $\sigma^2_\beta=0$ if $(u^\top y)^2<\sigma^2_e$. The evidence is an average of the likelihood over the
# prior, so it never exceeds the likelihood's maximum. Too narrow a prior averages where the likelihood is low; too
# wide a prior spends most of its mass there. (Both variances at once: exercise 2.E1;
# for many effects: `fastlmm_vi.wide.newton.fit`.)

# %%
grid = np.geomspace(1e-2, 1e4, 8001)
values = np.array([log_evidence(X1, y, sigma2_beta, theta[1]) for sigma2_beta in grid])
best = grid[values.argmax()]
tau = best * (x @ x) + theta[1]
print(f"largest evidence on a grid: σ²_β = {best:.3f}; there τ = {tau:.3f}, and (u'y)² = {(x @ y) ** 2 / (x @ x):.3f}")
assert np.isclose(tau, (x @ y) ** 2 / (x @ x), rtol=2e-3)
assert values.max() < log_likelihood(b, x, y, theta[1])

# %% figure="evidence"
figure, axes = plt.subplots(1, 2)
t = np.linspace(-3.5, 4.5, 401)
axes[0].plot(t, np.exp(log_likelihood(t, x, y, theta[1])) / area, ":", color="0.3", label="likelihood, scaled")
axes[1].plot(grid, values, color="0.3")
for k, (sigma2_beta, label) in enumerate([(0.05, "narrow prior"), (best, "best prior"), (100.0, "wide prior")]):
    axes[0].plot(t, np.exp(log_normal(t, 0.0, sigma2_beta)), ["--", "-", "-."][k], color=f"C{k}", label=label)
    axes[1].scatter([sigma2_beta], [log_evidence(X1, y, sigma2_beta, theta[1])], color=f"C{k}", zorder=3)
axes[0].set(xlabel="β", ylabel="density", ylim=(0, 2.6), title="what is averaged")
axes[0].legend(frameon=False, fontsize="small", loc="upper left")
axes[1].set(xlabel="$\\sigma^2_\\beta$", ylabel="log evidence", xscale="log", title="its average")
plt.show()

# %% [markdown] slide="model"
# # The evidence judges the hyperparameters
#
# $$p(y\,|\,\theta)=\int p(y\,|\,\beta,\theta)\,p(\beta\,|\,\theta)\,d\beta$$
#
# - Evidence: likelihood averaged over prior
# - Too narrow or too wide a prior lowers it
# - Its maximum: type-II ML, empirical Bayes
#
# ![The likelihood with a narrow, the best and a wide prior; log evidence over the prior variance](figure:evidence)
#
# ---
# Say: The evidence is a density in y and the likelihood of θ. The following lessons maximise it over the variances,
# or a bound in its place; mixed-model books simply call that maximum likelihood.
#
# Ask: Why does a flat prior give a good estimate of β and yet the worst evidence?
#
# Answer: The posterior has a limit, but the prior spreads its mass over effects that the data rule out, so the
# average likelihood goes to 0.
#
# Minutes: 3

# %% [markdown]
# The library estimates both variances by the evidence, and predicts with the posterior at the estimates, as sections
# 2 and 3 do at known θ:

# %%
one = fl.WideLMM(fit_intercept=False).fit(X1, y)
mu_hat, S_hat = posterior_1d(x, y, one.sigma2_beta_, one.sigma2_e_)
mean, sd = one.predict([[x_new]], return_std=True)
print(f"log evidence {one.loglik_:.6f}, posterior mean {one.coef_[0]:.6f}, variance {one.beta_var_[0]:.6f}")
assert np.isclose(one.loglik_, log_evidence(X1, y, one.sigma2_beta_, one.sigma2_e_))
assert np.allclose([one.coef_[0], one.beta_var_[0]], [mu_hat, S_hat])
assert np.allclose([mean[0], sd[0]], [x_new * mu_hat, np.sqrt(x_new**2 * S_hat + one.sigma2_e_)])

# %% [markdown]
# ## 6. The Kullback-Leibler divergence
#
# How far is a density $q$ from a density $p$ of the same variable?
#
# $$\mathrm{KL}(q\,\Vert\,p)=\mathbb E_q\left[\log\frac{q(\beta)}{p(\beta)}\right]
# =\int q(\beta)\log\frac{q(\beta)}{p(\beta)}\,d\beta .$$
#
# **It is never negative.** First, $\log t\le t-1$ for all $t>0$: the function $t-1-\log t$ has the slope $1-1/t$,
# negative for $t<1$ and positive for $t>1$, so its minimum is its value at $t=1$, which is 0. Use it at $t=p/q$,
# wherever $q>0$:
#
# $$-\mathrm{KL}(q\,\Vert\,p)=\int_{q>0}q\,\log\frac pq\,d\beta\;\le\;\int_{q>0}q\left(\frac pq-1\right)d\beta
# =\int_{q>0}p\,d\beta-1\;\le\;0 .$$
#
# Equality needs $t=1$, that is $p=q$, almost everywhere where $q>0$; there $p$ then integrates to 1, and nothing of
# it is left elsewhere: **KL = 0 only if q = p**. (In other words: log is concave, so by Jensen's inequality
# $\mathbb E_q\log(p/q)\le\log\mathbb E_q(p/q)\le\log1=0$.)
#
# **It is not symmetric.** $\mathrm{KL}(q\,\Vert\,p)$ averages under $q$: a $q$ with mass where $p$ has little pays
# dearly, and a $q$ that leaves out part of $p$ pays little. It is no distance.
#
# **Two normal densities.** Let $q=N(m,s^2)$, $p=N(\mu,S)$. With $\mathbb E_q(\beta-m)^2=s^2$ and
# $\mathbb E_q(\beta-\mu)^2=\mathbb E_q\left[(\beta-m)+(m-\mu)\right]^2=s^2+(m-\mu)^2$ (the cross term has expectation
# 0),
#
# $$\mathbb E_q\log q=-\tfrac12\log2\pi s^2-\tfrac12,\qquad\mathbb E_q\log p
# =-\tfrac12\log2\pi S-\frac{s^2+(m-\mu)^2}{2S} .$$
#
# The difference is
#
# $$\mathrm{KL}\left(N(m,s^2)\,\Vert\,N(\mu,S)\right)=⟦2.2: \frac12\left[\frac{s^2}{S}+\frac{(m-\mu)^2}{S}-1
# -\log\frac{s^2}{S}\right]⟧ .$$
#
# **Gap 2.2**: subtract, and write it.


# %% gap="2.2"
def kl_normal(m, s2, mu, S):
    """KL( N(m, s2) ‖ N(mu, S) ) of one variable."""
    ### SOLUTION
    value = 0.5 * (s2 / S + (m - mu) ** 2 / S - 1 - np.log(s2 / S))
    ### WRONG the factor ½ is missing
    value = s2 / S + (m - mu) ** 2 / S - 1 - np.log(s2 / S)
    ### WRONG the logarithm has the wrong sign
    value = 0.5 * (s2 / S + (m - mu) ** 2 / S - 1 + np.log(s2 / S))
    ### WRONG the two densities are exchanged
    value = 0.5 * (S / s2 + (m - mu) ** 2 / s2 - 1 - np.log(S / s2))
    ### WRONG the distance of the means is left out
    value = 0.5 * (s2 / S - 1 - np.log(s2 / S))
    ### END
    return value


# %% check="2.2"
for m, s2, mean, var in [(0.0, 1.0, 0.0, 1.0), (0.3, 0.4, 0.3, 1.1), (-0.5, 0.7, 0.9, 0.25), (1.0, 2.0, 0.2, 0.9)]:
    log_q = log_normal(T, m, s2)
    wanted = integral(np.exp(log_q) * (log_q - log_normal(T, mean, var)))
    got = kl_normal(m, s2, mean, var)
    case = f"KL(N({m}, {s2}) ‖ N({mean}, {var}))"
    assert np.isclose(got, wanted, atol=1e-8), f"gap 2.2: {case} is {wanted:.6f} by quadrature, not {got:.6f}."
print("gap 2.2 ✓")

# %%
print(
    f"q = N(0, 0.2), p = N(0, 1): KL(q ‖ p) = {kl_normal(0, 0.2, 0, 1):.4f}, KL(p ‖ q) = {kl_normal(0, 1, 0, 0.2):.4f}"
)

# %% figure="kl"
t = np.geomspace(0.1, 10, 301)
plt.plot(t, kl_normal(0, t, 0, 1), label="KL(q ‖ p): averaged under q")
plt.plot(t, kl_normal(0, 1, 0, t), "--", label="KL(p ‖ q): averaged under p")
plt.xscale("log")
plt.xticks([0.1, 0.2, 0.5, 1, 2, 5, 10], ["0.1", "0.2", "0.5", "1", "2", "5", "10"])
plt.minorticks_off()
plt.gca().set(xlabel="Var(q) / Var(p), equal means", ylabel="divergence, nats", ylim=(0, 3.5))
plt.legend(frameon=False, loc="upper center")
plt.show()

# %% [markdown]
# The solid line, the direction of variational inference, is steep to the right (too wide) and mild to the left (too
# narrow). Divergences by the natural logarithm are measured in *nats*.
#
# **p variables.** For $q=N(m,S_q)$ and $p=N(\mu,S)$ the same subtraction, with
# $\mathbb E_q(\beta-\mu)^\top S^{-1}(\beta-\mu)=\operatorname{tr}(S^{-1}S_q)+(m-\mu)^\top S^{-1}(m-\mu)$ and
# $\mathbb E_q(\beta-m)^\top S_q^{-1}(\beta-m)=\operatorname{tr}I_p=p$, gives
#
# $$\mathrm{KL}=\tfrac12\left[\operatorname{tr}(S^{-1}S_q)+(m-\mu)^\top S^{-1}(m-\mu)-p
# -\log\frac{\left|S_q\right|}{\left|S\right|}\right]$$
#
# (`fastlmm_vi.wide.mean_field.kl_to_posterior`, for diagonal $S_q$ and $p$ the posterior). The first expectation is
# $\mathbb E\,\delta^\top S^{-1}\delta=\operatorname{tr}(S^{-1}\,\mathbb E\,\delta\delta^\top)$ with
# $\delta=\beta-\mu$ and $\mathbb E_q\,\delta\delta^\top=S_q+(m-\mu)(m-\mu)^\top$. The check uses that $\log q-\log p$
# is quadratic: Gauss-Hermite quadrature with three nodes per coordinate integrates it without error.


# %%
def expect(f, m, Sq):
    """E f(β) under N(m, Sq), exact for polynomials of degree up to 5."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    z = np.array(list(itertools.product(nodes, repeat=len(m))))
    w = np.array([np.prod(ws) for ws in itertools.product(weights / weights.sum(), repeat=len(m))])
    return w @ np.array([f(m + cholesky(Sq) @ row) for row in z])


def log_normal_p(t, mean, cov):
    """Log of the normal density of p variables."""
    return -0.5 * (len(t) * np.log(2 * np.pi) + slogdet(cov)[1] + (t - mean) @ inv(cov) @ (t - mean))


def kl_normal_p(m, Sq, mu, S):
    """KL( N(m, Sq) ‖ N(mu, S) ) of p variables."""
    A, off = inv(S), m - mu
    return 0.5 * (np.trace(A @ Sq) + off @ A @ off - len(m) - slogdet(Sq)[1] + slogdet(S)[1])


rng = np.random.default_rng(2)
half_q, half_p = rng.normal(size=(2, 3, 5))
m_q, m_p, S_q, S_p = rng.normal(size=3), rng.normal(size=3), half_q @ half_q.T, half_p @ half_p.T
by_nodes = expect(lambda t: log_normal_p(t, m_q, S_q) - log_normal_p(t, m_p, S_p), m_q, S_q)
print(f"p = 3: formula {kl_normal_p(m_q, S_q, m_p, S_p):.8f}, quadrature {by_nodes:.8f}")
assert np.isclose(by_nodes, kl_normal_p(m_q, S_q, m_p, S_p))

# %% [markdown]
# ## 7. The ELBO: log evidence = ELBO + KL
#
# Let $q(\beta)$ be **any** density for which the expectations below exist. (They look only where $q>0$, and the normal
# posterior is positive everywhere.) $\log p(y)$ does not contain β, so it equals its
# expectation under $q$. Bayes' rule, $p(y)=p(y,\beta)/p(\beta\mid y)$, and a factor $q/q$ give
#
# $$\log p(y)=\mathbb E_q\log\frac{p(y,\beta)}{p(\beta\mid y)}
# =\underbrace{\mathbb E_q\left[\log\frac{p(y,\beta)}{q(\beta)}\right]}_{\text{ELBO}(q)}
# +\underbrace{\mathbb E_q\left[\log\frac{q(\beta)}{p(\beta\mid y)}\right]}_{\mathrm{KL}(q\,\Vert\,p(\beta\mid y))} .$$
#
# * **ELBO**, evidence lower bound: since KL ≥ 0, $\text{ELBO}(q)\le\log p(y)$, with equality only at the posterior.
# * **Gap**: $\log p(y)-\text{ELBO}(q)=\mathrm{KL}(q\,\Vert\,p(\beta\mid y))$ (`Fit.gap`).
# * **Variational inference** (VI): choose a family of densities and maximise the ELBO over it. The left side does not
#   depend on $q$, so this **minimises the KL divergence to the posterior**, and the posterior itself is never needed.
#
# With $p(y,\beta)=p(y\mid\beta)p(\beta)$ the ELBO has two more readings; $-\mathbb E_q\log q$ is the **entropy** of
# $q$:
#
# $$\text{ELBO}(q)=\mathbb E_q\log p(y\mid\beta)+\mathbb E_q\log p(\beta)-\mathbb E_q\log q(\beta)
# =\mathbb E_q\log p(y\mid\beta)-\mathrm{KL}(q\,\Vert\,p(\beta)) :$$
#
# fit, minus the price of leaving the prior.
#
# **In closed form.** Let there be $p$ effects, $y=X\beta+e$ with columns $x_j$,
# $p(\beta)=\prod_jN(\beta_j;0,\sigma^2_\beta)$, and let the $\beta_j$ be independent under $q$,
# $\beta_j\sim N(m_j,s_j^2)$. (For one effect there is one factor.) Row $i$ of $X\beta$ then has mean
# $\sum_jx_{ij}m_j$ and variance $\sum_jx_{ij}^2s_j^2$, and
# $\mathbb E(\text{anything})^2=\text{mean}^2+\text{variance}$. Summed over $i$,
#
# $$\mathbb E_q\lVert y-X\beta\rVert^2=\lVert y-Xm\rVert^2+\sum_jx_j^\top x_j\,s_j^2,
# \qquad\mathbb E_q\lVert\beta\rVert^2=\lVert m\rVert^2+\sum_js_j^2 .$$
#
# The entropy of one normal factor is $-\mathbb E_q\log q_j=\frac12\log2\pi s_j^2+\frac12=\frac12\log2\pi e\,s_j^2$
# (section 6; $e$ inside the logarithm is Euler's number). Together,
#
# $$\text{ELBO}=⟦2.3: -\tfrac n2\log2\pi\sigma^2_e-\frac{\lVert y-Xm\rVert^2+\sum_jx_j^\top x_js_j^2}{2\sigma^2_e}⟧
# \;⟦2.3: -\tfrac p2\log2\pi\sigma^2_\beta-\frac{\lVert m\rVert^2+\sum_js_j^2}{2\sigma^2_\beta}⟧
# \;⟦2.3: +\tfrac12\sum_j\log2\pi e\,s_j^2⟧ .$$
#
# (`fastlmm_vi.wide.sweeps.elbo`.) **Gap 2.3**: write the three terms.


# %% gap="2.3"
def elbo(X, y, m, s2, sigma2_beta, sigma2_e):
    """ELBO of q(β) = Π N(m_j, s2_j); X (n, p), m and s2 (p,)."""
    n, p = X.shape
    r = y - X @ m
    sq_norms = np.sum(X**2, axis=0)  # x_jᵀx_j
    ### SOLUTION
    likelihood = -n / 2 * np.log(2 * np.pi * sigma2_e) - (r @ r + sq_norms @ s2) / (2 * sigma2_e)
    prior = -p / 2 * np.log(2 * np.pi * sigma2_beta) - (m @ m + s2.sum()) / (2 * sigma2_beta)
    entropy = np.log(2 * np.pi * np.e * s2).sum() / 2
    ### WRONG the variance of the fit Xβ is forgotten
    likelihood = -n / 2 * np.log(2 * np.pi * sigma2_e) - r @ r / (2 * sigma2_e)
    prior = -p / 2 * np.log(2 * np.pi * sigma2_beta) - (m @ m + s2.sum()) / (2 * sigma2_beta)
    entropy = np.log(2 * np.pi * np.e * s2).sum() / 2
    ### WRONG the variance of β is forgotten in the prior's term
    likelihood = -n / 2 * np.log(2 * np.pi * sigma2_e) - (r @ r + sq_norms @ s2) / (2 * sigma2_e)
    prior = -p / 2 * np.log(2 * np.pi * sigma2_beta) - m @ m / (2 * sigma2_beta)
    entropy = np.log(2 * np.pi * np.e * s2).sum() / 2
    ### WRONG the entropy is subtracted
    likelihood = -n / 2 * np.log(2 * np.pi * sigma2_e) - (r @ r + sq_norms @ s2) / (2 * sigma2_e)
    prior = -p / 2 * np.log(2 * np.pi * sigma2_beta) - (m @ m + s2.sum()) / (2 * sigma2_beta)
    entropy = -np.log(2 * np.pi * np.e * s2).sum() / 2
    ### WRONG the entropy lacks its ½ per effect (e is left out)
    likelihood = -n / 2 * np.log(2 * np.pi * sigma2_e) - (r @ r + sq_norms @ s2) / (2 * sigma2_e)
    prior = -p / 2 * np.log(2 * np.pi * sigma2_beta) - (m @ m + s2.sum()) / (2 * sigma2_beta)
    entropy = np.log(2 * np.pi * s2).sum() / 2
    ### END
    return likelihood + prior + entropy


# %% check="2.3"
for m, s2, sb, se in [(0.4, 0.2, *theta), (-1.0, 0.5, 2.0, 0.3)]:
    log_q = log_normal(T, m, s2)
    wanted = integral(np.exp(log_q) * (log_joint(T, x, y, sb, se) - log_q))
    got = elbo(X1, y, np.array([m]), np.array([s2]), sb, se)
    assert np.isclose(got, wanted), (
        f"gap 2.3: E_q[log p(y, β) − log q(β)] is {wanted:.6f} by quadrature, not {got:.6f}."
    )
X3, m, s2 = np.random.default_rng(1).normal(size=(6, 3)), np.array([0.5, -0.2, 0.1]), np.array([0.3, 0.9, 0.5])
joint = lambda t: log_normal(y, X3 @ t, 0.6).sum() + log_normal(t, 0.0, 1.7).sum()
wanted = expect(lambda t: joint(t) - log_normal(t, m, s2).sum(), m, np.diag(s2))
got = elbo(X3, y, m, s2, 1.7, 0.6)
assert np.isclose(got, wanted), f"gap 2.3: with three effects the ELBO is {wanted:.6f}, not {got:.6f}."
print("gap 2.3 ✓")

# %% [markdown]
# Now the identity itself, with each term from its own formula: evidence from $V$, ELBO from gap 2.3, KL from gap 2.2.

# %%
print("    m   s²       ELBO         KL       sum     log evidence")
for m, s2 in [(0.0, 0.5), (0.5, 0.1), (1.5, 0.3), (mu, S)]:
    bound, kl = elbo(X1, y, np.array([m]), np.array([s2]), *theta), kl_normal(m, s2, mu, S)
    total = log_evidence(X1, y, *theta)
    print(f"{m:5.2f} {s2:5.2f} {bound:10.5f} {kl:10.5f} {bound + kl:10.5f} {total:12.5f}")
    assert np.isclose(bound + kl, total)

# %% figure="elbo_ceiling"
figure, axes = plt.subplots(1, 2, sharey=True)
ceiling = log_evidence(X1, y, *theta)
t_m, t_s2 = np.linspace(-0.2, 2.4, 201), np.geomspace(0.01, 1.6, 201)
for ax, t in zip(axes, (t_m, t_s2), strict=True):
    ax.plot(t, np.full(t.size, ceiling), "--", color="C1", label="log evidence")
axes[0].plot(t_m, [elbo(X1, y, np.array([m]), np.array([S]), *theta) for m in t_m], color="C0", label="ELBO")
axes[1].plot(t_s2, [elbo(X1, y, np.array([mu]), np.array([s2]), *theta) for s2 in t_s2], color="C0")
axes[0].scatter([mu], [ceiling], color="k", zorder=3, label="posterior")
axes[1].scatter([S], [ceiling], color="k", zorder=3)
axes[0].set(xlabel="mean m of q", ylabel="ELBO", title="$s^2=S$", ylim=(ceiling - 4, ceiling + 0.6))
axes[1].set(xlabel="variance $s^2$ of q", title="$m=\\mu$", xscale="log")
axes[0].legend(frameon=False, fontsize="small", loc="lower center")
plt.show()

# %% [markdown]
# The vertical distance to the ceiling is the KL divergence. Here the maximum touches the ceiling, as the family of
# all normal densities contains the posterior. It remains to leave the posterior out.

# %% [markdown] slide="model"
# # Evidence = ELBO + KL: the ELBO is a floor
#
# $$\log p(y)=\mathbb{E}_q\left[\log\frac{p(y,\beta)}{q(\beta)}\right]+\mathrm{KL}(q\,\Vert\,p(\beta\,|\,y))$$
#
# - KL(q ‖ p) ≥ 0, since log t ≤ t − 1, and 0 only if q = p
# - **VI**: the left side does not depend on q, so raise the ELBO and KL falls
#
# ![ELBO over the mean and over the variance of q, with the log evidence as a ceiling](wide:elbo_ceiling)
#
# ---
# Say: The first term is the ELBO, which needs the joint density only. Raising it lowers the divergence to a posterior
# that is never computed. The ceiling in the picture is the log evidence, the vertical distance is the divergence.
#
# Ask: Two families of q give ELBOs of −9 and −8 for the same data and θ. Which q is nearer to the posterior, and
# by how much?
#
# Answer: The second, by one nat in KL(q ‖ posterior): the log evidence is the same for both, even if unknown.
#
# Minutes: 3

# %% [markdown]
# ## 8. Two effects: mean field and coordinate ascent
#
# Now $y=x_1\beta_1+x_2\beta_2+e$ with two similar columns. The joint density is quadratic in β as before,
#
# $$\log p(y,\beta)=-\tfrac12\beta^\top A\,\beta+h^\top\beta+\text{const},\qquad
# A=\frac{X^\top X}{\sigma^2_e}+\frac{I}{\sigma^2_\beta},\qquad h=\frac{X^\top y}{\sigma^2_e} ,$$
#
# so the posterior is $N(\mu,S)$ with $S=A^{-1}$ and $A\mu=h$: at μ the gradient $h-A\beta$ is zero. $A$ is the
# posterior precision (Λ in many books). Its off-diagonal $A_{12}=x_1^\top x_2/\sigma^2_e$ makes the effects
# **correlated given the data**: of two similar columns the data determine the sum of the effects well and
# the difference poorly. θ is the type-II maximum likelihood estimate for these data, by the library.

# %%
rng = np.random.default_rng(20)
common, own = rng.normal(size=(2, 8))
X2 = np.column_stack([common, 0.9 * common + np.sqrt(1 - 0.9**2) * own])
y2 = X2 @ [1.2, 0.6] + 0.8 * rng.normal(size=8)

model = fl.WideLMM("mfvi", theta_by="loglik", fit_intercept=False).fit(X2, y2)
theta2 = (model.sigma2_beta_, model.sigma2_e_)


def exact_posterior(X, y, sigma2_beta, sigma2_e):
    """Mean μ and covariance S = A⁻¹ of β given y."""
    S = inv(X.T @ X / sigma2_e + np.eye(X.shape[1]) / sigma2_beta)
    return S @ X.T @ y / sigma2_e, S


mu2, S2 = exact_posterior(X2, y2, *theta2)
A2, h2 = inv(S2), X2.T @ y2 / theta2[1]
rho = S2[0, 1] / np.sqrt(S2[0, 0] * S2[1, 1])
print(f"σ²_β = {theta2[0]:.4f}, σ²_e = {theta2[1]:.4f}; posterior means {mu2.round(4)}, correlation {rho:.4f}")

# %% [markdown]
# * **Mean field**: the family of all $q$ that factorise, $q(\beta)=\prod_jq_j(\beta_j)$. No shape is prescribed, only
#   independence. (With one effect it is no restriction.)
# * **Coordinate ascent**: maximise the ELBO over one factor at a time, the others held fixed, in turn.
#
# **The best factor.** Write $\mathbb E_{-j}$ for the expectation over all factors but $q_j$. The entropy of
# independent variables is the sum of their entropies, so with everything but $q_j$ fixed
#
# $$\text{ELBO}=\int q_j(\beta_j)\;\mathbb E_{-j}\left[\log p(y,\beta)\right]d\beta_j
# -\int q_j(\beta_j)\log q_j(\beta_j)\,d\beta_j+\text{const}.$$
#
# $\mathbb E_{-j}\log p(y,\beta)$ is a function of $\beta_j$. Its exponential, divided by its integral $C$ (finite
# here), is a density:
#
# $$\tilde q_j(\beta_j)=\frac1C\exp\left(\mathbb E_{-j}\log p(y,\beta)\right),\qquad\mathbb E_{-j}\log p(y,\beta)
# =\log\tilde q_j(\beta_j)+\log C .$$
#
# Put this in; $\log C$ does not contain $q_j$, and $\int q_j=1$:
#
# $$\text{ELBO}=\int q_j\log\frac{\tilde q_j}{q_j}\,d\beta_j+\log C+\text{const}
# =-\mathrm{KL}(q_j\,\Vert\,\tilde q_j)+\text{const}' .$$
#
# KL is smallest, 0, at $q_j=\tilde q_j$ and nowhere else. Hence the rule of all mean-field methods:
#
# $$\boxed{\;\log q_j(\beta_j)=\mathbb E_{-j}\log p(y,\beta)+\text{const}\;}$$
#
# **For this model.** Let $m_k=\mathbb E_{q_k}\beta_k$. Only two terms of $\log p(y,\beta)$ contain $\beta_j$, and
# $\mathbb E_{-j}$ replaces each other $\beta_k$ by $m_k$:
#
# $$\log q_j(\beta_j)=-\tfrac12A_{jj}\,\beta_j^2+\beta_j\Big(h_j-\sum_{k\ne j}A_{jk}m_k\Big)+\text{const}.$$
#
# This is quadratic, so $q_j$ **is** normal, $N(m_j,s_j^2)$; that was derived, not assumed. Completing the square as
# in section 2,
#
# $$s_j^2=\frac1{A_{jj}}=\left(\frac{x_j^\top x_j}{\sigma^2_e}+\frac1{\sigma^2_\beta}\right)^{-1},\qquad
# m_j\leftarrow⟦2.4: \frac{1}{A_{jj}}\Big(h_j-\sum_{k\ne j}A_{jk}m_k\Big)⟧ .$$
#
# (`fastlmm_vi.wide.posterior.mean_field_variances`; `fastlmm_vi_kernels.sweep.sweep`.) **Gap 2.4**: write one update.


# %% gap="2.4"
def coordinate_update(A, h, m, j):
    """New mean and variance of factor j, the other factors having the means m."""
    ### SOLUTION
    s2_j = 1 / A[j, j]
    m_j = (h[j] - A[j] @ m + A[j, j] * m[j]) / A[j, j]
    ### WRONG the other effects are ignored
    s2_j = 1 / A[j, j]
    m_j = h[j] / A[j, j]
    ### WRONG the other effects are added instead of subtracted
    s2_j = 1 / A[j, j]
    m_j = (h[j] + A[j] @ m - A[j, j] * m[j]) / A[j, j]
    ### WRONG the sum runs over k = j too
    s2_j = 1 / A[j, j]
    m_j = (h[j] - A[j] @ m) / A[j, j]
    ### WRONG the variance is the posterior's, (A⁻¹)_jj
    s2_j = inv(A)[j, j]
    m_j = (h[j] - A[j] @ m + A[j, j] * m[j]) / A[j, j]
    ### END
    return m_j, s2_j


# %% [markdown]
# The check knows no formula: after the update the ELBO of gap 2.3 must have no slope left in the coordinate's mean
# and variance.

# %% check="2.4"
for X, j in [(X2, 0), (X2, 1), (np.random.default_rng(4).normal(size=(8, 3)), 1)]:
    p = X.shape[1]
    A, h = inv(exact_posterior(X, y2, *theta2)[1]), X.T @ y2 / theta2[1]
    m, s2 = np.linspace(-0.4, 0.7, p), np.full(p, 0.3)
    m[j], s2[j] = coordinate_update(A, h, m, j)
    assert s2[j] > 0, "gap 2.4: a variance must be positive."
    step = 1e-4 * (np.arange(p) == j)
    slope_m = (elbo(X, y2, m + step, s2, *theta2) - elbo(X, y2, m - step, s2, *theta2)) / 2e-4
    slope_s2 = (elbo(X, y2, m, s2 + step * s2, *theta2) - elbo(X, y2, m, s2 - step * s2, *theta2)) / 2e-4
    assert abs(slope_m) < 1e-5, f"gap 2.4: the ELBO still has slope {slope_m:.3g} in m_{j} after your update."
    assert abs(slope_s2) < 1e-5, f"gap 2.4: the ELBO still has slope {slope_s2:.3g} in log s²_{j} after your update."
print("gap 2.4 ✓")

# %% [markdown]
# One pass over all $j$ is a **sweep**. With $r=y-Xm$, the current residual,
# $h_j-\sum_{k\ne j}A_{jk}m_k=\left(x_j^\top r+x_j^\top x_j\,m_j\right)/\sigma^2_e$, since
# $A_{jk}=x_j^\top x_k/\sigma^2_e$ for $k\ne j$: this is how the library's kernel works, which never forms $A$.

# %%
m = np.array([-0.6, 0.2])
stairs = [m.copy()]
mean, residual = m.copy(), y2 - X2 @ m
for _ in range(30):
    for j in (0, 1):
        m[j] = coordinate_update(A2, h2, m, j)[0]
        stairs.append(m.copy())
    sweep.sweep(np.asfortranarray(X2), np.sum(X2**2, axis=0), theta2[0] / theta2[1], mean, residual)
    assert np.allclose(m, mean), "kernel and gap 2.4 disagree"
stairs = np.array(stairs)
var2 = 1 / np.diag(A2)
bounds = np.array([elbo(X2, y2, row, var2, *theta2) for row in stairs])
assert (np.diff(bounds) >= -1e-10).all(), "the ELBO fell"
errors = stairs[2::2] - mu2  # after each full sweep
print(f"after 30 sweeps: m = {m.round(6)}, exact μ = {mu2.round(6)}")
print(f"error after sweep 6 over error after sweep 5: {errors[5] / errors[4]}; squared correlation {rho**2:.6f}")

# %% [markdown]
# ## 9. The mean-field optimum: means right, variances too small
#
# **Means.** Where no update changes anything, $A_{jj}m_j=h_j-\sum_{k\ne j}A_{jk}m_k$ for all $j$, that is $Am=h$. $A$
# is positive definite, so the only solution is $m=\mu$: **the mean-field means are the exact ones**, at the same θ.
# No other optimum exists. At an optimum each factor is its own best factor, hence normal (shown above); and for a
# normal $q$ with diagonal $S_q$, log evidence minus KL (section 6, $S^{-1}=A$) is
#
# $$\text{ELBO}=-\tfrac12(m-\mu)^\top A\,(m-\mu)+\tfrac12\sum_j\left(\log s_j^2-A_{jj}s_j^2\right)+\text{const},$$
#
# concave in $m$ with its one maximum at μ, and each bracket is largest at $s_j^2=1/A_{jj}$.
#
# **Convergence.** Subtract $A\mu=h$ from the two updates. With $\varepsilon=m-\mu$ they read
# $\varepsilon_1\leftarrow-\frac{A_{12}}{A_{11}}\varepsilon_2$ and
# $\varepsilon_2\leftarrow-\frac{A_{12}}{A_{22}}\varepsilon_1$. A full sweep multiplies $\varepsilon_2$ by
# $A_{12}^2/(A_{11}A_{22})$, and from the second sweep on $\varepsilon_1$ too. The inverse of a 2 × 2 matrix,
#
# $$S=A^{-1}=\frac1{A_{11}A_{22}-A_{12}^2}\begin{pmatrix}A_{22}&-A_{12}\\-A_{12}&A_{11}\end{pmatrix},\qquad
# \rho=\frac{S_{12}}{\sqrt{S_{11}S_{22}}}=\frac{-A_{12}}{\sqrt{A_{11}A_{22}}} ,$$
#
# shows that the factor is $\rho^2$, the squared posterior correlation, as printed above. The more alike the columns,
# the shorter the steps of the staircase.
#
# **Variances.** From the same inverse,
#
# $$S_{11}=\frac{A_{22}}{A_{11}A_{22}-A_{12}^2}=\frac{1/A_{11}}{1-\rho^2}\qquad\Longrightarrow\qquad
# s_1^2=\frac1{A_{11}}=(1-\rho^2)\,S_{11} .$$
#
# With $\beta_2$ held, the log joint is $-\frac12A_{11}\beta_1^2+\dots$, so $s_1^2$ is the variance of $\beta_1$ **given**
# $\beta_2$, smaller than its variance unless $\rho=0$. For any $p$: let $\iota_j$ be the $j$-th unit vector. By the
# Cauchy-Schwarz inequality $1=(\iota_j^\top\iota_j)^2=\left((A^{1/2}\iota_j)^\top(A^{-1/2}\iota_j)\right)^2
# \le(\iota_j^\top A\iota_j)(\iota_j^\top A^{-1}\iota_j)=A_{jj}S_{jj}$,
# so $1/A_{jj}\le S_{jj}$ always.
#
# **The direction of KL decides.** In $\mathrm{KL}(p\,\Vert\,q)=\mathbb E_p\log p-\sum_j\mathbb E_p\log q_j$ each
# factor stands alone. If $p_j$ is the $j$-th marginal of the posterior,
# $\mathbb E_p\log p_j-\mathbb E_p\log q_j=\mathrm{KL}(p_j\,\Vert\,q_j)\ge0$: the best factor in that direction is the
# marginal itself, variance $S_{jj}$. VI uses $\mathrm{KL}(q\,\Vert\,p)$, whose expectation is under $q$ and therefore
# can be computed. There a $q$ pays dearly where the posterior has little mass, so $q$ is only as wide as the
# posterior is along the line through μ parallel to each axis. On these lines the ellipses of the picture meet.

# %% figure="mean_field"
figure, axes = plt.subplots(1, 2, width_ratios=[1.25, 1])
angle = np.linspace(0, 2 * np.pi, 201)
circle = np.array([np.cos(angle), np.sin(angle)])
for radius in (1, 2):
    label = "posterior" if radius == 1 else None
    axes[0].plot(*(mu2[:, None] + radius * cholesky(S2) @ circle), color="C0", label=label)
    label = "mean field" if radius == 1 else None
    axes[0].plot(*(mu2[:, None] + radius * np.sqrt(var2)[:, None] * circle), "--", color="C1", label=label)
axes[0].plot(*stairs[:40].T, ".-", color="0.35", lw=0.9, ms=4, label="coordinate ascent")
axes[0].set(xlabel="$\\beta_1$", ylabel="$\\beta_2$", title="contours at 1 and 2 sd")
axes[0].set(xlim=(-1.1, 2.3), ylim=(-0.4, 3.2))
axes[0].legend(frameon=False, fontsize="small", loc="upper right")
t = np.linspace(-1.2, 2.4, 301)
axes[1].plot(t, np.exp(log_normal(t, mu2[0], S2[0, 0])), color="C0", label="posterior")
axes[1].plot(t, np.exp(log_normal(t, mu2[0], var2[0])), "--", color="C1", label="mean field")
axes[1].set(xlabel="$\\beta_1$", ylabel="density", title="first effect alone")
plt.show()

# %% [markdown]
# An ellipse *at r sd* is the contour $(\beta-\mu)^\top A(\beta-\mu)=r^2$; for $q$, $\sum_j(\beta_j-m_j)^2/s_j^2=r^2$.
# Now the same through the public interface: θ by the evidence, $q$ by mean field.

# %%
print("               mine    library")
mine = {
    "loglik_": (log_evidence(X2, y2, *theta2), model.loglik_),
    "elbo_": (elbo(X2, y2, mu2, var2, *theta2), model.elbo_),
    "fit_.gap": (kl_normal_p(mu2, np.diag(var2), mu2, S2), model.fit_.gap),
    "coef_[0]": (mu2[0], model.coef_[0]),
    "beta_var_[0]": (var2[0], model.beta_var_[0]),
}
for name, (value, library) in mine.items():
    print(f"{name:<12} {value:10.6f} {library:10.6f}")
    assert np.isclose(value, library, rtol=1e-7)
exact = fl.WideLMM("newton", fit_intercept=False).fit(X2, y2)
assert np.allclose(model.beta_var_, var2)
assert np.allclose(exact.beta_var_, np.diag(S2))
assert np.allclose(model.coef_, exact.coef_)
assert np.isclose(library_loglik(X2, y2, *theta2), model.loglik_)
print(f"Var(β_j), mean field over exact: {model.beta_var_ / exact.beta_var_}; 1 − ρ² = {1 - rho**2:.6f}")

# %% [markdown] slide="model"
# # Mean field: the means are right, the variances small
#
# $$\log q_j(\beta_j)=\mathbb{E}_{-j}\log p(y,\beta)+\mathrm{const}$$
#
# - q factorises: correlation is lost
# - Means are exact (at the same θ)
# - Var q_{j} = (1 − ρ²) S_{jj}: too small
#
# ![Tilted posterior contours, untilted ones of mean field, a staircase between; marginals](figure:mean_field)
#
# ---
# Say: One factor at a time, the best q_j has as its logarithm the expected log joint density. For this model that is a
# normal whose variance is the conditional one. The staircase arrives at the exact mean; the ellipse never tilts.
#
# Ask: For which X would mean field lose nothing at all?
#
# Answer: For orthogonal columns: X'X and so A is diagonal, the posterior factorises itself, ρ = 0.
#
# Minutes: 3

# %% [markdown]
# ## 10. EM and variational EM climb the same bound
#
# Now θ is unknown again. The ELBO depends on $q$ and on θ; call it $B(q,\theta)$. Section 7 holds at every θ:
#
# $$B(q,\theta)=\log p(y\mid\theta)-\mathrm{KL}\left(q\,\Vert\,p(\beta\mid y,\theta)\right).$$
#
# * **E-step**: maximise $B$ over $q$ at the present θ. **M-step**: maximise $B$ over θ at the present $q$.
# * **EM** lets $q$ be any density. The E-step's answer is the posterior, KL = 0, and $B=\log p(y\mid\theta)$: the bound
#   **touches** the log evidence before every M-step. The log evidence never falls, and a point **with positive
#   variances** where EM stands still has slope zero: $B$ has none, and KL, at its minimum 0, has none either. In this
#   sense EM is **exact**. (At $\sigma^2_\beta=0$ it always stands still, whatever the slope: start at a positive value.)
# * **Variational EM** lets $q$ be mean field only. The E-step's answer has $m=\mu$, $s_j^2=1/A_{jj}$, and the bound
#   stays below the log evidence by a gap that depends on θ. The ELBO never falls, and its maximum lies **elsewhere** in
#   θ. It is exact about the ELBO, and about the evidence only if the posterior itself factorises: then the gap is 0.
#
# Why neither falls: each step maximises $B$ over one of its two arguments. For EM in addition
#
# $$\log p(y\mid\theta_{\text{new}})\ge B(q,\theta_{\text{new}})\ge B(q,\theta_{\text{old}})
# =\log p(y\mid\theta_{\text{old}}),$$
#
# the last equality being the touch. Below, the M-step is done by a general-purpose maximiser, so that nothing but the
# definition is used; its closed form is gap 3.2 of the next lesson.


# %%
def e_step(theta, mean_field):
    """The best q of the family at θ: mean and covariance."""
    mean, cov = exact_posterior(X2, y2, *theta)
    return mean, np.diag(1 / np.diag(inv(cov))) if mean_field else cov


def bound(q, theta):
    """B(q, θ) for a normal q."""
    return log_evidence(X2, y2, *theta) - kl_normal_p(*q, *exact_posterior(X2, y2, *theta))


def m_step(q, theta):
    """The best θ at q, by a general-purpose maximiser in log θ."""
    options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 2000, "maxfev": 2000}
    best = minimize(lambda t: -bound(q, np.exp(t)), np.log(theta), method="Nelder-Mead", options=options)
    return np.exp(best.x)


def climb(start, iterations, mean_field):
    """Rows: bound after the E-step, log evidence, σ²_β, σ²_e."""
    rows, theta = [], start
    for _ in range(iterations + 1):
        q = e_step(theta, mean_field)
        rows.append((bound(q, theta), log_evidence(X2, y2, *theta), *theta))
        theta = m_step(q, theta)
    return np.array(rows)


start = np.full(2, y2.var() / 2)  # the library's start
em, vem = climb(start, 12, False), climb(start, 12, True)
print("                  EM                         variational EM")
print("iteration   bound  evidence    σ²_β      ELBO  evidence    σ²_β")
for k in (0, 1, 2, 4, 8, 12):
    print("{:9d} {:8.4f} {:8.4f} {:8.4f}".format(k, *em[k, :3]) + "  {:8.4f} {:8.4f} {:8.4f}".format(*vem[k, :3]))
for rows in (em, vem):
    assert (np.diff(rows[:, 0]) > -1e-9).all(), "a bound fell"
assert np.allclose(em[:, 0], em[:, 1])
assert (vem[:, 0] < vem[:, 1]).all()

options = {"fit_intercept": False, "tol": 1e-10}
em_fit = fl.WideLMM("em", **options).fit(X2, y2)
vem_fit = fl.WideLMM("mfvi", solver="collapsed", accelerate=False, **options).fit(X2, y2)
for mine, fit in [(em, em_fit), (vem, vem_fit)]:
    path = fit.trace_[["loglik", "sigma2_beta", "sigma2_e"]].to_numpy()[: len(mine)]
    assert np.allclose(path, mine[:, 1:], rtol=1e-5), "the library's path is another one"
print(f"end of the library's EM: σ²_β = {em_fit.sigma2_beta_:.4f}; of its variational EM: {vem_fit.sigma2_beta_:.4f}")

# %% [markdown]
# Variational EM ends at a smaller σ²_β. That its bound rises says nothing about the evidence: started at EM's limit,
# where the evidence is largest, one iteration raises the ELBO and lowers the evidence.

# %%
at_limit = climb(theta2, 1, True)
print("ELBO     {:.6f} → {:.6f}\nevidence {:.6f} → {:.6f}".format(*at_limit[:, 0], *at_limit[:, 1]))
assert at_limit[1, 0] > at_limit[0, 0]
assert at_limit[1, 1] < at_limit[0, 1]

# %% figure="two_bounds"
figure, axes = plt.subplots(1, 2, sharey=True)
t = np.geomspace(0.2, 4, 201)
at = (0.5, theta2[1])  # the present θ; σ²_e is held
for ax, mean_field, name in zip(axes, (False, True), ("EM", "variational EM"), strict=True):
    q = e_step(at, mean_field)
    climbed = np.array([bound(q, (sb, at[1])) for sb in t])
    ax.plot(t, [log_evidence(X2, y2, sb, at[1]) for sb in t], "--", color="C1", label="log evidence")
    ax.plot(t, climbed, color="C0", label="bound, q held")
    if mean_field:
        best = [bound(e_step((sb, at[1]), True), (sb, at[1])) for sb in t]
        ax.plot(t, best, ":", color="C2", label="bound, best q at each θ")
        assert bound(q, at) < log_evidence(X2, y2, *at), "below the evidence"
    else:
        assert np.isclose(bound(q, at), log_evidence(X2, y2, *at)), "touches the evidence"
    ax.scatter([at[0]], [bound(q, at)], color="k", zorder=3, label="after the E-step")
    ax.scatter([t[climbed.argmax()]], [climbed.max()], marker="^", color="C0", zorder=3, label="after the M-step")
    ax.set(xlabel="$\\sigma^2_\\beta$", title=name, xscale="log", ylim=(-13, -9.8))
    ax.set(xticks=[0.2, 0.5, 1, 2, 4], xticklabels=["0.2", "0.5", "1", "2", "4"])
    ax.minorticks_off()
    ax.legend(frameon=False, fontsize="small", loc="lower center")
axes[0].set_ylabel("nats")
plt.show()

# %% [markdown]
# ## What to remember
#
# * One formula, two readings: $p(y\mid\beta)$ is a density in $y$ and a likelihood in β; $p(y\mid\theta)$ is a density
#   in $y$ (prior predictive) and a likelihood in θ (evidence, `loglik_`).
# * Posterior = likelihood × prior / evidence. ML is MAP with a flat prior; type-II ML maximises the evidence over θ.
# * KL ≥ 0 by $\log t\le t-1$, zero only for equal densities, and not symmetric.
# * Log evidence = ELBO + KL(q ‖ posterior). Raising the ELBO over $q$ lowers the KL.
# * Mean field: $\log q_j=\mathbb E_{-j}\log p(y,\beta)+\text{const}$. Here the means are exact and the variances
#   $1/A_{jj}\le S_{jj}$.
# * EM and variational EM climb the same bound. EM's touches the evidence; mean field's does not, and its θ is another
#   one.
#
# ## Exercises
#
# **2.E1. Type-II maximum likelihood by hand.** One effect, both variances unknown. In an orthonormal basis whose
# first vector is $u=x/\lVert x\rVert$, $V$ is diagonal: $\tau=\sigma^2_\beta x^\top x+\sigma^2_e$ once, σ²_e in the
# other $n-1$ places. Hence
#
# $$-2\log p(y\mid\theta)=n\log2\pi+\log\tau+\frac{(u^\top y)^2}{\tau}+(n-1)\log\sigma^2_e
# +\frac{y^\top y-(u^\top y)^2}{\sigma^2_e} .$$
#
# (τ, σ²_e) can take the place of (σ²_β, σ²_e). Each appears in its own two terms, of the form $k\log v+Q/v$, whose
# derivative $k/v-Q/v^2$ is negative below $v=Q/k$ and positive above. Therefore $\hat\tau=(u^\top y)^2$ and
#
# $$\hat\sigma^2_e=⟦2.E1: \frac{y^\top y-(u^\top y)^2}{n-1}⟧,
# \qquad\hat\sigma^2_\beta=⟦2.E1: \frac{(u^\top y)^2-\hat\sigma^2_e}{x^\top x}⟧ .$$
#
# If the last is negative, this point violates $\tau\ge\sigma^2_e$. In $\log v$ each $k\log v+Q/v$ is convex and the
# constraint is linear, so the maximum is then on the boundary $\tau=\sigma^2_e$, that is $\sigma^2_\beta=0$, where
# $V=\sigma^2_eI_n$ and $\hat\sigma^2_e=y^\top y/n$.


# %% gap="2.E1"
def type_two_ml(x, y):
    """The σ²_β and σ²_e with the largest evidence, for one effect."""
    n, along = len(y), (x @ y) ** 2 / (x @ x)  # along = (uᵀy)²
    ### SOLUTION
    sigma2_e = (y @ y - along) / (n - 1)
    sigma2_beta = (along - sigma2_e) / (x @ x)
    ### WRONG divided by n instead of n − 1
    sigma2_e = (y @ y - along) / n
    sigma2_beta = (along - sigma2_e) / (x @ x)
    ### WRONG the noise in τ is not subtracted
    sigma2_e = (y @ y - along) / (n - 1)
    sigma2_beta = along / (x @ x)
    ### WRONG σ²_e by all of y, the effect left in
    sigma2_e = y @ y / n
    sigma2_beta = (along - sigma2_e) / (x @ x)
    ### END
    return (sigma2_beta, sigma2_e) if sigma2_beta > 0 else (0.0, y @ y / n)


# %% check="2.E1"
found = np.array(type_two_ml(x, y))
assert (found > 0).all(), "gap 2.E1: for these data both variances are positive."
for k, name in enumerate(["σ²_β", "σ²_e"]):
    factor = 1 + 1e-4 * (np.arange(2) == k)
    slope = (log_evidence(X1, y, *(found * factor)) - log_evidence(X1, y, *(found / factor))) / 2e-4
    assert abs(slope) < 1e-5, f"gap 2.E1: the log evidence still has slope {slope:.3g} in log {name} at your estimate."
library = fl.WideLMM(fit_intercept=False).fit(X1, y)
assert np.allclose(found, [library.sigma2_beta_, library.sigma2_e_]), "gap 2.E1: the library finds another maximum."
weak = y - 0.95 * b * x  # little of the effect is left
on_boundary = fl.WideLMM(fit_intercept=False).fit(X1, weak)
assert on_boundary.sigma2_beta_ == 0
got = type_two_ml(x, weak)
assert np.allclose(got, [0, on_boundary.sigma2_e_]), "gap 2.E1: for a weak effect the maximum is at σ²_β = 0."
print("gap 2.E1 ✓")

# %% [markdown]
# **2.E2. The price of mean field.** Put the mean-field optimum of two effects, $m=\mu$ and
# $S_q=\operatorname{diag}(1/A_{11},1/A_{22})$, into the KL divergence of section 6. The means cancel,
# $\operatorname{tr}(AS_q)=2=p$, and with $S=A^{-1}$ what is left is
#
# $$\log p(y)-\text{ELBO}=\tfrac12\left[\log A_{11}A_{22}-\log\left|A\right|\right] .$$
#
# Use $\left|A\right|=A_{11}A_{22}-A_{12}^2$ and the ρ of section 9 to write the gap as a function of ρ alone:
#
# $$\log p(y)-\text{ELBO}=⟦2.E2: -\tfrac12\log(1-\rho^2)⟧ .$$
#
# It is zero for uncorrelated effects and grows without bound as $|\rho|\to1$. (For $p$ effects:
# `fastlmm_vi_kernels.spectral.mean_field_gap`.)


# %% gap="2.E2"
def gap_of_correlation(rho):
    """Log evidence − ELBO at the mean-field optimum of two effects with posterior correlation rho."""
    ### SOLUTION
    gap = -0.5 * np.log(1 - rho**2)
    ### WRONG the sign: a gap is not negative
    gap = 0.5 * np.log(1 - rho**2)
    ### WRONG the factor ½ is missing
    gap = -np.log(1 - rho**2)
    ### WRONG the correlation is not squared
    gap = -0.5 * np.log(1 - abs(rho))
    ### END
    return gap


# %% check="2.E2"
got = gap_of_correlation(rho)
assert np.isclose(got, model.fit_.gap), f"gap 2.E2: the library's gap is {model.fit_.gap:.6f}, yours {got:.6f}."
for r in (-0.6, 0.0, 0.95):
    cov = np.array([[1.5, r * np.sqrt(3)], [r * np.sqrt(3), 2.0]])  # variances 1.5 and 2, correlation r
    wanted = kl_normal_p(mu2, np.diag(1 / np.diag(inv(cov))), mu2, cov)
    got = gap_of_correlation(r)
    assert np.isclose(got, wanted, atol=1e-12), f"gap 2.E2: at ρ = {r} the divergence is {wanted:.6f}, not {got:.6f}."
print("gap 2.E2 ✓")

# %% [markdown]
# ## Glossary
#
# $A=X^\top X/\sigma^2_e+I/\sigma^2_\beta$, $S=A^{-1}$, $V=\sigma^2_\beta XX^\top+\sigma^2_eI$; without covariates.
# `fit_` is the `Fit` of a fitted `WideLMM`.
#
# | word | symbol | formula | in the library |
# |---|---|---|---|
# | prior | $p(\beta)$ | $N(0,\sigma^2_\beta I)$ | the model of `WideLMM` |
# | hyperparameter | $\sigma^2_\beta$ | parameter of the prior | `sigma2_beta_` |
# | variance components (with ω: all of θ) | $\theta$ | $\sigma^2_\beta$, $\sigma^2_e$ (and ω) | `sigma2_beta_`, `sigma2_e_`, `omega_` |
# | sampling distribution | $p(y\mid\beta)$ in $y$ | $N(X\beta,\sigma^2_eI)$ | the model of `WideLMM` |
# | likelihood of β | $p(y\mid\beta)$ in β | the same | a term of `fastlmm_vi.wide.sweeps.elbo` |
# | marginal likelihood | $p(y)$ | $\int p(y\mid\beta)\,p(\beta)\,d\beta$ | `loglik_` is its logarithm |
# | evidence | $p(y\mid\theta)$ | $N(y;0,V)$ | `loglik_`, `fastlmm_vi_kernels.spectral.marginal_loglik` |
# | posterior | $p(\beta\mid y)$ | $N(\mu,S)$, $A\mu=X^\top y/\sigma^2_e$ | `coef_`, `beta_var_` |
# | prior predictive | $p(y)$ in $y$ | $N(0,V)$ | none |
# | posterior predictive | $p(y_*\mid y)$ | $N(x_*^\top\mu,x_*^\top Sx_*+\sigma^2_e)$ | `predict(X, return_std=True)` |
# | ML of β | $\hat\beta_{\text{ML}}$ | $\arg\max_\beta p(y\mid\beta)$ | `coef_` as $\sigma^2_\beta\to\infty$ |
# | MAP | $\hat\beta_{\text{MAP}}$ | $\arg\max_\beta p(\beta\mid y)=\mu$ | `coef_` |
# | type-II ML, empirical Bayes | $\hat\theta$ | $\arg\max_\theta p(y\mid\theta)$ | `method="newton"`, `"em"` |
# | KL divergence | $\mathrm{KL}(q\,\Vert\,p)$ | $\mathbb E_q\log(q/p)$ | `fastlmm_vi.wide.mean_field.kl_to_posterior` |
# | ELBO | $B(q,\theta)$ | $\mathbb E_q\log p(y,\beta)-\mathbb E_q\log q$ | `elbo_`, `fastlmm_vi.wide.sweeps.elbo` |
# | gap | $\mathrm{KL}(q\,\Vert\,p(\beta\mid y))$ | $\log p(y)-\text{ELBO}$ | `fit_.gap` (`Fit.gap`) |
# | variational inference | $\hat q$ | $\arg\max_q B(q,\theta)$ | `method="mfvi"` |
# | mean field | $q$ | $\prod_jq_j(\beta_j)$ | `method="mfvi"`; θ by evidence: `theta_by="loglik"` |
# | mean-field variances | $s_j^2$ | $1/A_{jj}$ | `beta_var_`, `fastlmm_vi.wide.posterior.mean_field_variances` |
# | coordinate ascent | $q_j$ | $\log q_j=\mathbb E_{-j}\log p(y,\beta)+c$ | `fastlmm_vi_kernels.sweep.sweep` |
# | EM | $q$ free | alternate $\max_qB$, $\max_\theta B$ | `method="em"` |
# | variational EM | $q$ mean field | the same, $q=\prod_jq_j$ | `method="mfvi", accelerate=False` |
