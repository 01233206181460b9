# %% [markdown]
# # The course's data by EM
#
# EM run to the optimum on the course's data: the estimates, the posterior of β, why EM crawls along a ridge, why a
# small step is no sign of convergence, and the profile likelihood that judges it, derived down to every line of the
# kernel.
#
# You need: lesson 03 (EM and the eigen-rotation). Time: 90 minutes.
#
# ## 1. The data
#
# Source: «data.source». The file is tab-separated text, one observation a line, with a header:
#
#     y    Z.1    Z.2    ...    Z.«data.c»    X.1    X.2    ...    X.«data.p»
#
# The response y comes first, then the covariates Z, then the features X: n = «data.n» observations, c = «data.c»
# covariates and p = «data.p» features. `fl.datasets.read_xyz` reads any file in this layout and names line and column
# where something is wrong with it; `fl.datasets.make_xyz_twin` makes a seeded stand-in of the same size.
#
# The model is the one of lesson 03, taken literally: the covariates are those of the file, without an intercept.
#
# $$y = Z\omega + X\beta + e,\qquad \beta\sim N(0,\sigma^2_\beta I_p),\qquad e\sim N(0,\sigma^2_e I_n)$$

# %%
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from fastlmm_vi_kernels import spectral
from scipy.optimize import brentq
from scipy.stats import norm

import fastlmm_vi as fl
from fastlmm_vi.wide import profile as library
from fastlmm_vi.wide.basis import LIKELIHOOD

plt.rcParams.update({"figure.figsize": (6.4, 3.6), "figure.constrained_layout.use": True, "font.size": 11})

DATA = None  # None: the seeded twin of the course's data; or the path of a file in the layout of XYZ_MoM.txt
data = fl.datasets.make_xyz_twin() if DATA is None else fl.datasets.read_xyz(DATA)
n, p = data.X.shape
c = data.Z.shape[1]
covariates = pd.DataFrame(data.Z, columns=list(data.Z_names))
spectrum = fl.Spectrum.of(data.X)  # the eigenbasis of K = X Xᵀ: made once, used by every fit below

# %% data=true
print(f"n = {n}, p = {p}, c = {c}")

# %% [markdown]
# ## 2. The fit
#
# One line fits the model by EM. It starts at the least-squares ω and σ²_β = σ²_e = var(y)/2. A second line fits it by
# Newton's method on the profile likelihood (section 7). Newton is the judge of this lesson: where EM ought to arrive
# is known to machine precision.

# %%
em = fl.WideLMM("em", fit_intercept=False, max_iter=200_000).fit(data.X, data.y, covariates, spectrum=spectrum)
newton = fl.WideLMM("newton", fit_intercept=False).fit(data.X, data.y, covariates, spectrum=spectrum)
assert em.converged_, "EM did not arrive: raise max_iter"
assert newton.sigma2_beta_ > 0, "the maximum is at σ²_β = 0: there is no ridge, and sections 4 to 7 do not apply"

# %% data=true
for name in ("sigma2_beta", "sigma2_e", "pve"):
    print(f"{name:12s} {getattr(em.fit_, name):.4g}   standard error {getattr(em.fit_, name + '_se'):.4g}")
print(f"log-likelihood {em.loglik_:.2f} after {em.n_iter_} iterations")

# %% timing=true
print(f"EM {em.fit_.seconds:.3f} s, Newton {newton.fit_.seconds:.3f} s (the eigenbasis was there already)")

# %% [markdown]
# | parameter | EM | standard error |
# |---|---|---|
# | σ²_β | «fits.em.sigma2_beta:.4g» | «fits.em.sigma2_beta_se:.4g» |
# | σ²_e | «fits.em.sigma2_e:.4g» | «fits.em.sigma2_e_se:.4g» |
# | PVE | «fits.em.pve:.4f» | «fits.em.pve_se:.4f» |
# | log-likelihood | «fits.em.loglik:.2f» | |
#
# The remaining c parameters are ω. A picture shows them better than a table; `em.fit_.to_frame()` is the table.

# %% figure="omega"
ax = fl.plot_omega(em, names=["EM"], ax=plt.subplots()[1])
ax.get_legend().remove()
plt.show()

# %% [markdown]
# An interval is $\hat\omega_k\pm1.96\,\mathrm{se}_k$. Where it contains 0, the data do not rule out that this
# covariate has no effect. With c intervals at 95 %, one in twenty misses its true value on average, so a single
# interval just off 0 is weak evidence.
#
# **PVE**, the proportion of variance explained, puts σ²_β on a scale that means something: σ²_β alone depends on the
# units of X. Let $Z=QR$ with orthonormal columns of $Q$, and $M=I-QQ^\top$, which removes the covariates. The mean
# square of what the features and the noise leave there is, with
# $\mathbb E[u^\top Mu]=\operatorname{tr}(M\operatorname{Cov}u)$ for a $u$ of mean 0,
#
# $$\frac{\mathbb E\lVert MX\beta\rVert^2}{n-c}=\sigma^2_\beta\,\underbrace{\frac{\operatorname{tr}(MK)}{n-c}}_{t},
# \qquad
# \frac{\mathbb E\lVert Me\rVert^2}{n-c}=\sigma^2_e\,\frac{\operatorname{tr}M}{n-c}=\sigma^2_e,\qquad
# \mathrm{PVE}=\frac{\sigma^2_\beta t}{\sigma^2_\beta t+\sigma^2_e}.$$
#
# In the eigenbasis $K=UDU^\top$ the trace needs no matrix of size n. Let $q_i$ be row $i$ of $U^\top Q$. Then
# $\operatorname{tr}(MK)=\operatorname{tr}K-\operatorname{tr}(Q^\top UDU^\top Q)$, and so
#
# $$t=⟦4.1: \frac{\sum_i d_i-\sum_i d_i\lVert q_i\rVert^2}{n-c}⟧ .$$
#
# (`fastlmm_vi.wide.rotated.Rotated.explained` is the numerator.) The cell below makes the rotated rows as in lesson 03,
# for the data and for a small problem. Of `Spectrum.rotate`'s argument three things are used: y with its
# least-squares fit on Z taken out, Q and n. The effects of the rotated covariates are
# $a=R(\omega-\omega_{\mathrm{ls}})$. **Gap 4.1**: PVE from the rows.


# %%
def rotate(y, Z, spectrum):
    """Rotated rows: eigenvalues d (m,), y (m,), Q (m, c), and n."""
    Q = np.linalg.qr(Z)[0]
    residual = y - Q @ (Q.T @ y)
    return spectrum.rotate(SimpleNamespace(residual=residual, Q=Q, n=len(y)))


def toy(n=40, p=80, c=3, seed=5):
    """A small data set from the model with σ²_β = 0.4, σ²_e = 0.6."""
    rng = np.random.default_rng(seed)
    X, Z = rng.normal(size=(n, p)) / np.sqrt(p), rng.normal(size=(n, c))
    X *= np.linspace(0.3, 2.0, n)[:, None]
    return Z.sum(axis=1) + X @ rng.normal(size=p) * np.sqrt(0.4) + rng.normal(size=n) * np.sqrt(0.6), Z, X


rows = rotate(data.y, data.Z, spectrum)
y_toy, Z_toy, X_toy = toy()
small = rotate(y_toy, Z_toy, fl.Spectrum.of(X_toy))
y_tall, Z_tall, X_tall = toy(n=60, p=8)
tall = rotate(y_tall, Z_tall, fl.Spectrum.of(X_tall))  # n ≥ p: p + c + 1 = 12 rows stand for n = 60


# %% gap="4.1"
def pve(sigma2_beta, sigma2_e, d, Q, n):
    """Share of the variance of y beyond the covariates that is due to the features."""
    ### SOLUTION
    t = (d.sum() - d @ (Q**2).sum(axis=1)) / (n - Q.shape[1])
    ### WRONG the covariates are not removed from K
    t = d.sum() / n
    ### WRONG divided by n instead of n - c
    t = (d.sum() - d @ (Q**2).sum(axis=1)) / n
    ### WRONG stored rows are counted for observations
    t = (d.sum() - d @ (Q**2).sum(axis=1)) / (len(d) - Q.shape[1])
    ### END
    return sigma2_beta * t / (sigma2_beta * t + sigma2_e)


# %% check="4.1"
for Z_i, X_i, stored in ((Z_toy, X_toy, small), (Z_tall, X_tall, tall)):
    M = np.eye(len(Z_i)) - Z_i @ np.linalg.pinv(Z_i)
    unit = np.trace(M @ X_i @ X_i.T) / np.trace(M)
    value = pve(0.4, 0.6, stored.d, stored.Q, stored.n)
    assert abs(value / (1 - value) - 0.4 * unit / 0.6) < 1e-9, (
        "gap 4.1: PVE/(1 − PVE) must be σ²_β tr(MK)/(n − c) over σ²_e. Remove the covariates from K and from the count n."
    )
value = pve(em.sigma2_beta_, em.sigma2_e_, rows.d, rows.Q, rows.n)
assert abs(value - em.pve_) < 1e-8, "gap 4.1: on the data the library's PVE is another."
print("gap 4.1 ✓")

# %% [markdown] slide="results"
# # Two variances carry all «data.p» features
#
# «data.n» observations, «data.c» covariates, «data.p» features; no intercept; exact EM.
#
# $$y=Z\omega+X\beta+e\qquad \beta\sim N(0,\sigma^2_\beta I)\qquad e\sim N(0,\sigma^2_e I)$$
#
# | parameter | EM | standard error |
# |---|---|---|
# | σ²_{β} | «fits.em.sigma2_beta:.4g» | «fits.em.sigma2_beta_se:.4g» |
# | σ²_{e} | «fits.em.sigma2_e:.4g» | «fits.em.sigma2_e_se:.4g» |
# | PVE | «fits.em.pve:.4f» | «fits.em.pve_se:.4f» |
# | log-likelihood | «fits.em.loglik:.2f» | |
#
# ---
# Say: The features act through one variance, the noise through another, the covariates through ω. PVE is the share of
# the variance of y beyond the covariates that the features explain. Its standard error shows how little the data say
# about the split.
#
# Ask: Why is σ²_β itself hard to interpret?
#
# Answer: It depends on the units of X: X times 10 makes it a hundredth. PVE does not change.
#
# Minutes: 3

# %% [markdown] slide="results"
# # ω is estimated together with its uncertainty
#
# ![Estimates of the fixed effects with 95 % intervals, one per covariate, and a line at zero](wide:omega)
#
# - Points: ω at the end of EM
# - Bars: 95 % intervals
# - One in twenty misses its true value
#
# ---
# Say: These are the fixed effects of all covariates, with intervals from the observed information. The random effects
# enter them: the noise in y is V, not σ²_e I.
#
# Ask: What would ordinary least squares of y on Z report instead?
#
# Answer: It is unbiased too; generalised least squares weights the directions of K by 1/v_i, so the two differ the more,
# the more unequal the eigenvalues are. Its errors treat Xβ + e as independent noise.
#
# Minutes: 2

# %% [markdown]
# ## 3. The log-likelihood by iteration
#
# The trace holds every iterate. The log-likelihood never falls (lesson 03). The dotted line is the maximum, from
# Newton.

# %%
trace = em.trace_
assert (np.diff(trace.loglik) > -1e-9).all(), "the log-likelihood fell"
checkpoints = [t for t in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if t < em.n_iter_] + [em.n_iter_]

# %% figure="trace"
fl.plot_trace(em, names=["EM"], optimum=newton.loglik_, ax=plt.subplots()[1])
plt.show()

# %% data=true
print("iteration   log-likelihood   sigma2_beta   sigma2_e")
for t in checkpoints:
    print(f"{t:9d}   {trace.loglik[t]:14.2f}   {trace.sigma2_beta[t]:11.4g}   {trace.sigma2_e[t]:8.4g}")

# %% [markdown]
# | iteration | log-likelihood | σ²_β |
# |---|---|---|
# | «paths.em.0.iteration» | «paths.em.0.loglik:.3f» | «paths.em.0.sigma2_beta:.4g» |
# | «paths.em.1.iteration» | «paths.em.1.loglik:.3f» | «paths.em.1.sigma2_beta:.4g» |
# | «paths.em.4.iteration» | «paths.em.4.loglik:.3f» | «paths.em.4.sigma2_beta:.4g» |
# | «paths.em.7.iteration» | «paths.em.7.loglik:.3f» | «paths.em.7.sigma2_beta:.4g» |
# | «paths.em.9.iteration» | «paths.em.9.loglik:.3f» | «paths.em.9.sigma2_beta:.4g» |
# | «paths.em.-1.iteration» | «paths.em.-1.loglik:.3f» | «paths.em.-1.sigma2_beta:.4g» |
#
# The first iteration gains much, as ω moves from ordinary towards generalised least squares (the picture leaves out
# this steep part). Then the gains become small, and the log-likelihood looks finished long before σ²_β is.

# %% [markdown] slide="results"
# # The log-likelihood rises fast, then crawls
#
# ![Log-likelihood of EM against iteration on a logarithmic axis, with the maximum as a level line](chart:trace)
#
# - It never falls; its steep start lies below the picture
# - Level line: the maximum, from Newton
#
# ---
# Say: EM gains most of the log-likelihood in a small part of its iterations; the others change digits that nobody
# prints. The level line is not from EM: only an independent optimum tells how far there is to go.
#
# Ask: Where would you have stopped, had you not seen the level line?
#
# Answer: Most would stop where the curve looks flat on a linear axis; the table of stopping rules shows what that
# costs.
#
# Minutes: 3

# %% [markdown]
# ## 4. The posterior of β
#
# `em.coef_` is the posterior mean μ, `em.beta_var_` the diagonal of the posterior covariance $S$.
#
# **How much is learned about one β_j?** By lesson 03, $\operatorname{tr}S=\sigma^2_\beta(p-\sum_i\gamma d_i/v_i)$
# with $\gamma=\sigma^2_\beta/\sigma^2_e$ and $v_i=1+\gamma d_i$. On average over j the posterior variance is the
# prior variance less a share κ:
#
# $$\frac1p\sum_jS_{jj}=\sigma^2_\beta(1-\kappa),\qquad \kappa=\frac1p\sum_i\frac{\gamma d_i}{1+\gamma d_i}<\frac np ,$$
#
# because each of the at most n positive terms is below 1. With p much larger than n the share is small **whatever the
# data say**: n numbers cannot determine p coefficients. This fixes the size of the means. At EM's fixed
# point $\sigma^2_\beta=(\mu^\top\mu+\operatorname{tr}S)/p$; inserting $\operatorname{tr}S$ leaves
#
# $$\frac{\mu^\top\mu}{p}=\kappa\,\sigma^2_\beta .$$
#
# A typical posterior mean is $\sqrt\kappa\,\sigma_\beta$, a typical posterior standard deviation
# $\sqrt{1-\kappa}\,\sigma_\beta$: the mean is $\sqrt{\kappa/(1-\kappa)}$ of a standard deviation from 0. The largest
# of p normal values lies about $\sqrt{2\log p}$ times further out. That is where the largest effect is to be expected
# when all p effects have the same prior, and it marks no special feature.

# %%
gamma = em.sigma2_beta_ / em.sigma2_e_
kappa = (gamma * rows.d / (1 + gamma * rows.d)).sum() / p
sd = np.sqrt(em.beta_var_)
assert np.isclose((em.coef_**2).mean(), kappa * em.sigma2_beta_, rtol=1e-4)
assert np.isclose((sd**2).mean(), (1 - kappa) * em.sigma2_beta_)
assert kappa < n / p
top = np.argsort(-np.abs(em.coef_ / sd), kind="stable")[:5]

# %% data=true
for j in top:
    print(f"mean {em.coef_[j]:8.4g}   sd {sd[j]:.4g}   mean/sd {em.coef_[j] / sd[j]:8.4g}")

# %% [markdown]
# | feature | posterior mean | sd | mean/sd |
# |---|---|---|---|
# | «effects.em.0.feature» | «effects.em.0.mean:.4g» | «effects.em.0.sd:.4g» | «effects.em.0.z:.3f» |
# | «effects.em.1.feature» | «effects.em.1.mean:.4g» | «effects.em.1.sd:.4g» | «effects.em.1.z:.3f» |
# | «effects.em.2.feature» | «effects.em.2.mean:.4g» | «effects.em.2.sd:.4g» | «effects.em.2.z:.3f» |
#
# **What shrinkage does.** μ is ridge regression with penalty σ²_e/σ²_β: every mean is pulled towards 0 by what the
# data leave open. One β_j is hardly known, and yet the sum $X\beta$ has the sizeable variance that PVE measures.
#
# **Prediction** separates the two. Below, a fifth of the rows is left out of a fit and then predicted. In the rows of
# the fit the predictions follow y (shrunken: y varies more than its prediction), because μ was fitted to these y. In
# the rows left out the points scatter widely: a new row $x$ needs β in its own direction, and the fewer directions it
# shares with the other rows, the less they say about it. Were the parameters known, y would have slope 1 on the
# prediction there; what is small when p ≫ n and the features are hardly correlated is the *correlation*. PVE is what the features *could* explain were β known; how well μ predicts is another question.

# %%
kept = np.arange(n) % 5 > 0
part = fl.WideLMM("newton", fit_intercept=False).fit(data.X[kept], data.y[kept], data.Z[kept])
predicted = part.predict(data.X, data.Z)

# %% figure="posterior"
figure, axes = plt.subplots(1, 2, width_ratios=[1.15, 1])
counts, edges, _ = axes[0].hist(em.coef_, bins=50, color="#56B4E9", label="$\\mathrm{E}[\\beta_j]$")
x = np.linspace(-1.1 * sd.mean(), 1.1 * sd.mean(), 200)
curve = p * (edges[1] - edges[0]) * norm.pdf(x, scale=np.sqrt(kappa * em.sigma2_beta_))
axes[0].plot(x, curve, color="0.2", lw=1, label="$N(0,\\kappa\\sigma^2_\\beta)$")
for sign in (-1, 1):
    axes[0].plot(
        [sign * sd.mean()] * 2, [0, counts.max()], color="#D55E00", ls="--", label="±1 sd" if sign > 0 else None
    )
axes[0].set(xlabel="posterior mean of $\\beta_j$", ylabel="features", ylim=(0, 1.45 * counts.max()))
axes[0].legend(frameon=False, fontsize="small", loc="upper left")
axes[1].scatter(predicted[kept], data.y[kept], s=4, color="#56B4E9", label="in the fit")
axes[1].scatter(predicted[~kept], data.y[~kept], s=6, color="#D55E00", label="left out")
ends = [predicted.min(), predicted.max()]
axes[1].plot(ends, ends, color="0.3", lw=1)
axes[1].set(xlabel="predicted", ylabel="y", ylim=(data.y.min() - 0.3, data.y.max() + 0.3 * np.ptp(data.y)))
axes[1].legend(frameon=False, fontsize="small", loc="upper left", markerscale=2)
plt.show()

# %% [markdown] slide="results"
# # What the data say about single features
#
# ![Histogram of posterior means of β; y against predictions in the fit and left out](wide:posterior)
#
# - n rows resolve at most n/p of σ²_{β}; the most extreme mean/sd is «effects.em.0.z:.2f»
# - Left-out rows are the fair test of prediction
#
# ---
# Say: Where rows are fewer than coefficients, most of each coefficient's prior variance remains. The means
# fill a narrow normal curve, and the largest lies where the largest of so many is expected. Together the effects
# explain variance, singly none is known.
#
# Ask: The predictions in the fit follow y well. Is that evidence for a good model?
#
# Answer: No: μ was fitted to these y. The left-out rows are the fair test.
#
# Minutes: 3

# %% [markdown]
# ## 5. The crawl along the ridge
#
# **Why there is a ridge.** In the eigenbasis $y_i$ has variance $\sigma^2_e+\sigma^2_\beta d_i$ (beside ω). The mean
# square of y beyond the covariates has expectation $\operatorname{tr}(MV)/(n-c)=\sigma^2_\beta t+\sigma^2_e$, so this
# *total* is known to about n − c degrees of freedom. The *split* shows only in how the variance of $y_i$ grows with
# $d_i$: were all $d_i$ equal, the two variances could not be told apart at all. Along a line of constant total the
# log-likelihood hardly changes.
#
# **Drawing it.** At a given γ the best ω is a weighted regression and does not depend on σ²_e (section 7 derives it).
# With $F(\gamma)=\sum_ir_i^2/v_i$ of its residuals, the log-likelihood along the ray σ²_β = γσ²_e is
#
# $$-\tfrac12\Big[n\log2\pi\sigma^2_e+\sum_i\log v_i+\frac{F}{\sigma^2_e}\Big],\qquad
# \text{highest at }\hat\sigma^2_e=\frac Fn .$$
#
# Call its highest value $\ell(\gamma)$ and write $\sigma^2_e=\hat\sigma^2_ee^{-u}$. Elsewhere on the ray the
# log-likelihood is $\ell(\gamma)-\frac n2(e^u-1-u)$. It is lower by δ where $e^u-1-u=2\delta/n$. The left side is 0
# at u = 0 and convex, so there is one root on either side of 0: each contour meets the ray in two points. The cell
# draws the contours from them, and `spectral.marginal_loglik` confirms them.

# %%
best = newton.loglik_
positive = rows.d[rows.d > 0]
top_gamma = newton.sigma2_beta_ / newton.sigma2_e_
height = lambda g: spectral.profile(g, *rows, positive, False)[0] - best


def contour(below):
    """Closed curve (σ²_β, σ²_e) on which the log-likelihood, with the best ω, lies `below` under its maximum."""
    gap = lambda u: height(top_gamma * np.exp(u)) + below
    ends = [side if gap(side) > 0 else brentq(gap, 0.0, side) for side in (-4.0, 4.0)]
    g = top_gamma * np.exp(np.mean(ends) - 0.5 * np.ptp(ends) * np.cos(np.linspace(0, np.pi, 60)))
    points = [spectral.profile(x, *rows, positive, False) for x in g]  # value, slope, curvature, σ²_e, a
    delta = np.maximum([point[0] - best + below for point in points], 0.0)
    crest = np.array([point[3] for point in points])
    root = lambda x, end: brentq(lambda u: np.expm1(u) - u - x, 0.0, end)
    low = crest * np.exp([-root(x, np.sqrt(2 * x)) for x in 2 * delta / n])  # e^u − 1 − u ≥ u²/2 for u ≥ 0
    high = crest * np.exp([-root(x, -1.0 - x) for x in 2 * delta / n])
    g, s = np.r_[g, g[::-1], g[0]], np.r_[low, high[::-1], low[0]]
    return g * s, s


levels = (0.1, 0.5, 1.0, 2.0)
curves = [contour(below) for below in levels]
for below, curve in zip(levels, curves, strict=True):
    for sigma2_beta, sigma2_e in list(zip(*curve, strict=True))[::12]:
        a = spectral.profile(sigma2_beta / sigma2_e, *rows, positive, False)[4]
        assert abs(spectral.marginal_loglik(sigma2_beta, sigma2_e, a, *rows) - best + below) < 1e-5

# %% figure="ridge"
ax = plt.subplots()[1]
for below, curve, shade in zip(levels, curves, ("0.2", "0.4", "0.6", "0.75"), strict=True):
    ax.plot(*curve, color=shade, lw=1, label=f"{below:g} below the maximum")
ax.plot(trace.sigma2_beta, trace.sigma2_e, color="#D55E00", lw=1.5)
marks = [t for t in (0, 50, 100, 200, 500, 1000) if t < em.n_iter_]
ax.scatter(trace.sigma2_beta[marks], trace.sigma2_e[marks], s=22, color="#D55E00", zorder=3, label="EM")
for t in marks[:5]:
    ax.annotate(
        str(t),
        (trace.sigma2_beta[t], trace.sigma2_e[t]),
        xytext=(5, 4),
        textcoords="offset points",
        fontsize=9,
        annotation_clip=True,
    )
ax.scatter(
    [newton.sigma2_beta_], [newton.sigma2_e_], s=90, marker="*", color="#0072B2", zorder=4, label="optimum (Newton)"
)
around = np.concatenate([*curves, trace[["sigma2_beta", "sigma2_e"]].to_numpy()[50:].T], axis=1)
low, high = around.min(axis=1), around.max(axis=1)  # contours and the late path; an early start may lie outside
margin = 0.12 * (high - low)
ax.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + 3 * margin[1]))
ax.set(xlabel="$\\sigma^2_\\beta$", ylabel="$\\sigma^2_e$")
ax.legend(frameon=False, fontsize="small")
plt.show()

# %% [markdown]
# The contours are narrow across the ridge and long along it. The numbers beside the points are iterations. The start,
# half of var(y) for each variance, has about the right total when t is near 1, and so lies on the ridge; ω is right
# after a few iterations. What remains is the split, and EM follows the ridge towards it in ever smaller steps.

# %% [markdown] slide="results"
# # EM crawls along a ridge of the likelihood
#
# ![Contours of the log-likelihood in the two variances, EM's path and the optimum](figure:ridge)
#
# - The total variance is known well
# - The split between the two is not
# - Numbers: iterations of EM
#
# ---
# Say: The data know the sum of the two variances well and their split badly. That makes a ridge. EM starts on it,
# because the total is easy to guess, and spends its iterations walking along it, ever more slowly.
#
# Ask: When would the ridge be perfectly flat?
#
# Answer: When all eigenvalues of K are equal: then V depends on one number only, and the split is not identified.
#
# Minutes: 3

# %% [markdown]
# ## 6. Why "converged" can be wrong
#
# **The usual rule** stops where one iteration gains less than a tolerance. On this trace it would have ended here:

# %% data=true
gains = np.diff(trace.loglik)
first = lambda tol: int(np.argmax(gains < tol)) + 1 if (gains < tol).any() else em.n_iter_
stops = {tol: first(tol) for tol in 10.0 ** -np.arange(2, 8)}
print("iteration   below the maximum   sigma2_beta   off by the fraction")
for t in stops.values():
    sb = trace.sigma2_beta[t]
    print(f"{t:9d}   {best - trace.loglik[t]:17.4g}   {sb:11.4g}   {sb / newton.sigma2_beta_ - 1:19.4g}")

# %% [markdown]
# | gain below | stops at | below the maximum by | σ²_β off by |
# |---|---|---|---|
# | 1e-2 | «em_stopped.1e-2.n_iter» | «em_stopped.1e-2.below_maximum:.2g» | «em_stopped.1e-2.sigma2_beta_off:.1%» |
# | 1e-3 | «em_stopped.1e-3.n_iter» | «em_stopped.1e-3.below_maximum:.2g» | «em_stopped.1e-3.sigma2_beta_off:.1%» |
# | 1e-4 | «em_stopped.1e-4.n_iter» | «em_stopped.1e-4.below_maximum:.2g» | «em_stopped.1e-4.sigma2_beta_off:.1%» |
# | 1e-5 | «em_stopped.1e-5.n_iter» | «em_stopped.1e-5.below_maximum:.2g» | «em_stopped.1e-5.sigma2_beta_off:.2%» |
# | 1e-6 | «em_stopped.1e-6.n_iter» | «em_stopped.1e-6.below_maximum:.2g» | «em_stopped.1e-6.sigma2_beta_off:.2%» |
# | 1e-7 | «em_stopped.1e-7.n_iter» | «em_stopped.1e-7.below_maximum:.2g» | «em_stopped.1e-7.sigma2_beta_off:.2%» |
#
# Compare the distance to the maximum in each row with its tolerance: where EM crawls it is many times larger. The reason
# is EM's rate of convergence.
#
# **EM converges linearly.** One iteration is a map $\theta_{t+1}=\mathcal M(\theta_t)$ with fixed point θ*. By
# Taylor's theorem $\theta_{t+1}-\theta^*\approx R\,(\theta_t-\theta^*)$ with the Jacobian $R=\mathcal M'(\theta^*)$.
# To find $R$, write $\mathcal Q(\theta'\mid\theta)=\mathbb E[\log p(y,\beta\mid\theta')]$ and
# $\mathcal H(\theta'\mid\theta)=\mathbb E[\log p(\beta\mid y,\theta')]$, both expectations under
# $p(\beta\mid y,\theta)$. From $p(y\mid\theta')=p(y,\beta\mid\theta')/p(\beta\mid y,\theta')$,
#
# $$\ell(\theta')=\mathcal Q(\theta'\mid\theta)-\mathcal H(\theta'\mid\theta)\qquad\text{for all }\theta',\theta .$$
#
# 1. $\mathcal H(\theta'\mid\theta)$ is largest at θ' = θ: its difference to that value is −KL. So its gradient in θ'
#    vanishes there, and $\partial_1\mathcal Q(\theta\mid\theta)=\nabla\ell(\theta)$ for every θ ($\partial_1$,
#    $\partial_2$: derivatives in the first and second argument).
# 2. Differentiate this in θ, which stands in both places:
#    $\partial_{11}\mathcal Q+\partial_{12}\mathcal Q=\nabla^2\ell$.
# 3. The M-step solves $\partial_1\mathcal Q(\mathcal M(\theta)\mid\theta)=0$ for every θ. Differentiate:
#    $\partial_{11}\mathcal Q\,\mathcal M'+\partial_{12}\mathcal Q=0$.
# 4. At θ* both hold at the same point. With the **complete** information $I_c=-\partial_{11}\mathcal Q$ and the
#    **observed** information $I_o=-\nabla^2\ell$, step 2 gives $\partial_{12}\mathcal Q=I_c-I_o$, and step 3
#
# $$R=I_c^{-1}\,\partial_{12}\mathcal Q=⟦4.2: I-I_c^{-1}I_o⟧=I_c^{-1}I_m,\qquad
# I_m=I_c-I_o=-\partial_{11}\mathcal H\succeq0 .$$
#
# $I_m$ is the **missing** information: what knowing β would add. $R$ is the fraction of information that is missing.
# $R$ is similar to the symmetric $I_c^{-1/2}I_mI_c^{-1/2}$, so its eigenvalues are real, not negative, and below 1
# where $I_o$ is positive definite. The largest, λ, rules in the end: each iteration leaves the fraction λ of the
# distance along its eigenvector.
#
# **The two matrices.** Second derivatives of $\mathcal Q$ (lesson 03) at the fixed point, where
# $\sigma^2_\beta=\mathbb E\lVert\beta\rVert^2/p$, $\sigma^2_e=\mathbb E\lVert y-Z\omega-X\beta\rVert^2/n$ and
# $Z^\top(y-Z\omega-X\mu)=0$:
#
# $$-\frac{\partial^2\mathcal Q}{\partial(\sigma^2_\beta)^2}=-\frac p{2\sigma^4_\beta}
# +\frac{\mathbb E\lVert\beta\rVert^2}{\sigma^6_\beta}=\frac p{2\sigma^4_\beta},\qquad
# -\frac{\partial^2\mathcal Q}{\partial(\sigma^2_e)^2}=\frac n{2\sigma^4_e},\qquad
# -\frac{\partial^2\mathcal Q}{\partial\omega\,\partial\omega^\top}=\frac{Z^\top Z}{\sigma^2_e},$$
#
# and the mixed ones vanish
# ($\partial^2\mathcal Q/\partial\omega\,\partial\sigma^2_e=-Z^\top(y-Z\omega-X\mu)/\sigma^4_e=0$). In the rotated
# effects $a$, $Z^\top Z$ becomes $Q^\top Q=I$.
#
# For $I_o$ let $V_\beta=K$, $V_e=I$, so that $V=\sigma^2_\beta V_\beta+\sigma^2_eV_e$,
# $\partial V^{-1}/\partial\sigma^2_i=-V^{-1}V_iV^{-1}$ and
# $\partial\log|V|/\partial\sigma^2_i=\operatorname{tr}(V^{-1}V_i)$. With $r=y-Z\omega$ the gradient of ℓ is
#
# $$\frac{\partial\ell}{\partial\omega}=Z^\top V^{-1}r,\qquad
# \frac{\partial\ell}{\partial\sigma^2_i}=\tfrac12\left[r^\top V^{-1}V_iV^{-1}r-\operatorname{tr}(V^{-1}V_i)\right].$$
#
# Differentiate again. $r^\top V^{-1}V_iV^{-1}r$ has two factors $V^{-1}$, each giving
# $-r^\top V^{-1}V_jV^{-1}V_iV^{-1}r$. The negative second derivatives are
#
# $$Z^\top V^{-1}Z,\qquad Z^\top V^{-1}V_iV^{-1}r,\qquad
# r^\top V^{-1}V_iV^{-1}V_jV^{-1}r-\tfrac12\operatorname{tr}(V^{-1}V_iV^{-1}V_j).$$
#
# (`fastlmm_vi.wide.information.observed` gets its inverse from the profile of section 7.) In the eigenbasis $V$, $V_\beta$ and $V_e$ are diagonal, and these are
# sums over $i$. The cell writes $I_o$, $I_c$ and one EM step in rotated rows, and checks $I_o$ by finite differences.
# **Gap 4.2**: $R$.


# %%
def observed(theta, d, y, Q, n):
    """Minus the second derivatives of ℓ at θ = (a, σ²_β, σ²_e)."""
    a, sigma2_beta, sigma2_e = theta[:-2], theta[-2], theta[-1]
    c, w, r = len(a), 1 / (sigma2_e + sigma2_beta * d), y - Q @ a
    info = np.empty((c + 2, c + 2))
    info[:c, :c] = (Q.T * w) @ Q
    for i, V_i in enumerate((d, np.ones_like(d))):
        info[:c, c + i] = info[c + i, :c] = Q.T @ (w * V_i * w * r)
        for j, V_j in enumerate((d, np.ones_like(d))):
            info[c + i, c + j] = (r**2 * w**3 * V_i * V_j).sum() - 0.5 * (w**2 * V_i * V_j).sum()
    info[-1, -1] -= 0.5 * (n - len(d)) / sigma2_e**2  # rows of the null space that are not stored
    return info


def complete(theta, n, p):
    """Minus the second derivatives of the expected complete-data log-likelihood, at a fixed point θ of EM."""
    sigma2_beta, sigma2_e = theta[-2:]
    return np.diag(np.r_[np.full(len(theta) - 2, 1 / sigma2_e), p / (2 * sigma2_beta**2), n / (2 * sigma2_e**2)])


def em_step(theta, d, y, Q, n, p):
    """One EM iteration in rotated rows (lesson 03, section 7)."""
    a, sigma2_beta, sigma2_e = theta[:-2], theta[-2], theta[-1]
    gamma = sigma2_beta / sigma2_e
    shrink = gamma * d / (1 + gamma * d)
    r = y - Q @ a
    squares = (d * (gamma * r / (1 + gamma * d)) ** 2).sum() + sigma2_beta * (p - shrink.sum())
    a = Q.T @ (y - shrink * r)
    rss = ((y - Q @ a - shrink * r) ** 2).sum() + sigma2_e * shrink.sum()
    return np.r_[a, squares / p, rss / n]


def at_optimum(rows, gamma):
    """θ = (a, σ²_β, σ²_e) with a and σ²_e at their best for γ."""
    sigma2_e, a = spectral.profile(gamma, *rows, rows.d[rows.d > 0], False)[3:]
    return np.r_[a, gamma * sigma2_e, sigma2_e]


toy_fit = fl.WideLMM("newton", fit_intercept=False).fit(X_toy, y_toy, Z_toy)
theta_toy = at_optimum(small, toy_fit.sigma2_beta_ / toy_fit.sigma2_e_)
assert np.allclose(em_step(theta_toy, *small, X_toy.shape[1]), theta_toy, rtol=1e-6), "Newton's optimum: EM stays there"

ell = lambda theta: spectral.marginal_loglik(theta[-2], theta[-1], theta[:-2], *small)
H = 1e-4 * np.eye(len(theta_toy))
mixed = lambda u, v: (ell(theta_toy + u + v) - ell(theta_toy + u - v)) / 2e-4
hessian = np.array([[(mixed(u, v) - mixed(-u, v)) / 2e-4 for u in H] for v in H])
assert np.allclose(observed(theta_toy, *small), -hessian, rtol=1e-4, atol=1e-3)


# %% gap="4.2"
def em_rate(I_complete, I_observed):
    """Jacobian R of the EM map at its fixed point."""
    ### SOLUTION
    R = np.eye(len(I_observed)) - np.linalg.solve(I_complete, I_observed)
    ### WRONG the fraction observed, not the fraction missing
    R = np.linalg.solve(I_complete, I_observed)
    ### WRONG the two informations are exchanged
    R = np.eye(len(I_observed)) - np.linalg.solve(I_observed, I_complete)
    ### WRONG the inverse stands on the wrong side
    R = np.eye(len(I_observed)) - I_observed @ np.linalg.inv(I_complete)
    ### END
    return R


# %% check="4.2"
step = 1e-5 * np.eye(len(theta_toy))
move = lambda theta: em_step(theta, *small, X_toy.shape[1])
jacobian = np.column_stack([(move(theta_toy + h) - move(theta_toy - h)) / 2e-5 for h in step])
R_toy = em_rate(complete(theta_toy, len(y_toy), X_toy.shape[1]), observed(theta_toy, *small))
assert np.allclose(R_toy, jacobian, atol=1e-5), (
    "gap 4.2: R is not the Jacobian of one EM step (finite differences). Solve step 3 for M' and insert step 2."
)
print("gap 4.2 ✓")

# %% [markdown]
# **On the data.** λ is the largest eigenvalue of $R$. The trace knows it too: late in the run all other eigenvectors
# have died out, steps shrink by the factor λ, and $(\theta_{t+1}-\theta_t)/(\theta_t-\theta_{t-1})\to\lambda$ in
# every coordinate that the eigenvector moves.

# %%
theta = at_optimum(rows, newton.sigma2_beta_ / newton.sigma2_e_)
I_o, I_c = observed(theta, *rows), complete(theta, n, p)
lam = np.linalg.eigvals(em_rate(I_c, I_o)).real.max()
moves = np.diff(trace.sigma2_beta)
late = em.n_iter_ // 2
if late > 50:  # a shorter run ends before the other eigenvectors have died out
    assert abs((1 - moves[late] / moves[late - 1]) / (1 - lam) - 1) < 0.05, "the trace and the informations disagree"

# %% [markdown]
# **What a small step hides.** If steps shrink by λ, the steps still to come after the step
# $\Delta_t=\theta_{t+1}-\theta_t$ are $\lambda\Delta_t+\lambda^2\Delta_t+\dots$, hence
#
# $$\theta^*-\theta_{t+1}\approx⟦4.E1: \frac{\lambda}{1-\lambda}⟧\,(\theta_{t+1}-\theta_t).$$
#
# The log-likelihood is quadratic near its maximum, so its distance $D_t=\ell^*-\ell(\theta_t)$ shrinks by λ² an
# iteration. The gain is $g=D_t-D_{t+1}=D_{t+1}(\lambda^{-2}-1)$, so after it there remain
# $D_{t+1}=g\,\lambda^2/(1-\lambda^2)$. With λ close to 1 both factors are huge.
#
# What this means for σ²_β: let $\ell_\beta$ be the log-likelihood at a given σ²_β with all else at its best.
# Maximising a quadratic over its other variables leaves the Schur complement of $I_o$, and that is
# $1/(I_o^{-1})_{\beta\beta}$. So near the optimum
# $\ell_\beta=\ell^*-\tfrac12(\sigma^2_\beta-\hat\sigma^2_\beta)^2/\mathrm{se}^2$, with the standard error from
# $I_o^{-1}$, and no point with this σ²_β lies higher. So
# $|\sigma^2_\beta-\hat\sigma^2_\beta|\le\mathrm{se}\sqrt{2(\ell^*-\ell)}$, with equality on the crest of the ridge,
# which EM follows closely. Stopping at a gain of `tol` therefore leaves
#
# $$\frac{|\sigma^2_\beta-\hat\sigma^2_\beta|}{\mathrm{se}}
# \approx\sqrt{2(\ell^*-\ell)}\approx\sqrt{\frac{2\lambda^2}{1-\lambda^2}\,\mathtt{tol}}.$$
#
# The error of a stopped EM, in standard errors, falls only like √tol. Where it is far below one standard error it
# harms no conclusion about σ²_β; it does harm comparisons between methods, which this course makes.
#
# **Why λ is close to 1.** For any direction $u$ the smallest eigenvalue of $I_c^{-1}I_o$, which is 1 − λ, is at most
# $u^\top I_ou/u^\top I_cu$ (Rayleigh's quotient). Take $u=I_o^{-1}e_\beta$, the column of $I_o^{-1}$ that belongs to
# σ²_β. Then $u^\top I_ou=(I_o^{-1})_{\beta\beta}=\mathrm{se}^2$, and
# $u^\top I_cu\ge u_\beta^2\,p/(2\sigma^4_\beta)=\mathrm{se}^4\,p/(2\sigma^4_\beta)$:
#
# $$1-\lambda\le\frac{2\sigma^4_\beta}{p\,\mathrm{se}^2}.$$
#
# Both σ²_β and its error stand in the table of section 2. Known β would give σ²_β with error
# $\sigma^2_\beta\sqrt{2/p}$; the bound is the ratio of this error to the real one, squared. EM needs about
# $\ln10/(1-\lambda)$ iterations for each further decimal.

# %%
se = np.sqrt(np.linalg.inv(I_o)[-2, -2])
assert np.isclose(se, newton.sigma2_beta_se_, rtol=1e-6), "standard errors are the root of the diagonal of I_o⁻¹"
assert 1 - lam <= 2 * newton.sigma2_beta_**2 / (p * se**2)

# %% figure="stopped"
figure, axes = plt.subplots(1, 2, width_ratios=[1.15, 1])
off = np.abs(trace.sigma2_beta.to_numpy() / newton.sigma2_beta_ - 1)
t = np.arange(len(off))
at = list(stops.values())
axes[0].plot(t, off, color="#0072B2", label="EM")
axes[0].plot(t, off[late] * lam ** (t - late), color="0.3", ls="--", lw=1, label="rate λ")
axes[0].scatter(at, off[at], s=25, color="#D55E00", zorder=3, label="stopped")
axes[0].set(yscale="log", xlabel="iteration", ylabel="$\\sigma^2_\\beta$ off by the fraction")
axes[0].legend(frameon=False, fontsize="small")
tols = np.array(list(stops))
predicted_off = se * np.sqrt(2 * tols * lam**2 / (1 - lam**2)) / newton.sigma2_beta_
axes[1].plot(tols, predicted_off, color="0.3", ls="--", lw=1, label="predicted from λ")
axes[1].scatter(tols, off[at], s=25, color="#D55E00", label="stopped")
axes[1].plot(tols, tols, color="0.6", lw=1, ls=":", label="the tolerance")
axes[1].set(
    xscale="log", yscale="log", xlabel="tolerance for one step's gain", ylabel="$\\sigma^2_\\beta$ off by the fraction"
)
axes[1].legend(frameon=False, fontsize="small", loc="lower right")
plt.show()

# %% [markdown]
# Left: on a logarithmic axis EM's error ends as a straight line of slope log λ; the dashed line has this slope,
# computed without the trace. Right: the prediction holds for small tolerances; for the largest the first-order theory
# does not reach so far from the optimum.

# %% [markdown] slide="results"
# # A small step is no sign of convergence
#
# | gain below | iterations | below max | σ²_{β} off by |
# |---|---|---|---|
# | 1e-2 | «em_stopped.1e-2.n_iter» | «em_stopped.1e-2.below_maximum:.2g» | «em_stopped.1e-2.sigma2_beta_off:.1%» |
# | 1e-4 | «em_stopped.1e-4.n_iter» | «em_stopped.1e-4.below_maximum:.2g» | «em_stopped.1e-4.sigma2_beta_off:.1%» |
# | 1e-6 | «em_stopped.1e-6.n_iter» | «em_stopped.1e-6.below_maximum:.2g» | «em_stopped.1e-6.sigma2_beta_off:.2%» |
# | 1e-7 | «em_stopped.1e-7.n_iter» | «em_stopped.1e-7.below_maximum:.2g» | «em_stopped.1e-7.sigma2_beta_off:.2%» |
#
# $$\theta_{t+1}-\theta^*\approx R\,(\theta_t-\theta^*)\qquad R=I-I_c^{-1}I_o$$
#
# - The rate is the fraction of **missing information**
# - Error in σ²_{β} falls only like the square root of the tolerance
#
# ---
# Say: The usual rule, stop when the log-likelihood gains little, stops far from the optimum. Near the optimum every
# EM step removes the fraction 1 − λ of the error, and λ is the largest fraction of information that is missing.
#
# Ask: Why is so much information about σ²_β missing here?
#
# Answer: Known β would give σ²_β with standard error σ²_β √(2/p). The n observations give it with a far larger one; the
# squared ratio of the two is about 1 − λ.
#
# Minutes: 4

# %% [markdown]
# ## 7. The judge: the profile likelihood
#
# In this section $y_i$, $q_i$ are the rotated rows, $a$ the effects of the rotated covariates and $v_i=1+\gamma d_i$.
# Rows of the null space of $K$ have $v_i=1$. $V=\sigma^2_e\operatorname{diag}(v_i)$, so
#
# $$\ell(a,\gamma,\sigma^2_e)=-\tfrac12\left[n\log2\pi\sigma^2_e+\sum_i\log v_i
# +\frac{\Phi(a,\gamma)}{\sigma^2_e}\right],\qquad
# \Phi(a,\gamma)=\sum_i\frac{(y_i-q_i^\top a)^2}{v_i}.$$
#
# **Two of the three have closed forms.** Only Φ contains $a$. Its gradient $-2\sum_iq_i(y_i-q_i^\top a)/v_i$ vanishes
# at the generalised least squares
#
# $$\hat a(\gamma)=A^{-1}\sum_i\frac{q_iy_i}{v_i},\qquad A=\sum_i\frac{q_iq_i^\top}{v_i}.$$
#
# Let $r_i=y_i-q_i^\top\hat a$ and $F(\gamma)=\Phi(\hat a,\gamma)=\sum_ir_i^2/v_i$. The derivative in σ²_e,
# $-\frac n{2\sigma^2_e}+\frac F{2\sigma^4_e}$, is zero at $\hat\sigma^2_e=F/n$, positive below and negative above.
# Inserting both leaves a function of γ alone:
#
# $$\ell(\gamma)=⟦4.3: -\tfrac12\left[n\left(\log\frac{2\pi F}{n}+1\right)+\sum_i\log v_i\right]⟧ .$$
#
# (`fastlmm_vi.wide.rotated.Rotated.at`, with the kernel `fastlmm_vi_kernels.spectral.profile`.) The maximum over one
# variable has replaced one over c + 2. **Gap 4.3**: write it.


# %% gap="4.3"
def profile_loglik(gamma, d, y, Q, n):
    """ℓ(γ), and the F and a at which it is reached."""
    v = 1 + gamma * d
    ### SOLUTION
    a = np.linalg.solve((Q.T / v) @ Q, Q.T @ (y / v))
    F = ((y - Q @ a) ** 2 / v).sum()
    value = -0.5 * (n * (np.log(2 * np.pi * F / n) + 1) + np.log(v).sum())
    ### WRONG ordinary instead of generalised least squares
    a = np.linalg.solve(Q.T @ Q, Q.T @ y)
    F = ((y - Q @ a) ** 2 / v).sum()
    value = -0.5 * (n * (np.log(2 * np.pi * F / n) + 1) + np.log(v).sum())
    ### WRONG the quadratic term, n at the optimum, is forgotten
    a = np.linalg.solve((Q.T / v) @ Q, Q.T @ (y / v))
    F = ((y - Q @ a) ** 2 / v).sum()
    value = -0.5 * (n * np.log(2 * np.pi * F / n) + np.log(v).sum())
    ### WRONG stored rows are counted for observations
    a = np.linalg.solve((Q.T / v) @ Q, Q.T @ (y / v))
    F = ((y - Q @ a) ** 2 / v).sum()
    value = -0.5 * (len(y) * (np.log(2 * np.pi * F / len(y)) + 1) + np.log(v).sum())
    ### WRONG the residuals are not weighted
    a = np.linalg.solve((Q.T / v) @ Q, Q.T @ (y / v))
    F = ((y - Q @ a) ** 2).sum()
    value = -0.5 * (n * (np.log(2 * np.pi * F / n) + 1) + np.log(v).sum())
    ### END
    return value, F, a


# %% [markdown]
# The check uses the full log-likelihood: your value must be attained at your $(a, F/n)$, and no small change of $a$
# or σ²_e may improve on it.

# %% check="4.3"
rng = np.random.default_rng(0)
for g, stored in ((g, stored) for g in (0.05, 0.7, 6.0) for stored in (small, tall)):
    value, F, a = profile_loglik(g, *stored)
    s = F / stored.n
    attained = spectral.marginal_loglik(g * s, s, a, *stored)
    assert abs(value - attained) < 1e-8, (
        f"gap 4.3: at your a and F/n the log-likelihood is {attained:.4f}, not your value."
    )
    for _ in range(40):
        other, scale = a + 1e-3 * rng.normal(size=a.size), np.exp(1e-3 * rng.normal())
        assert spectral.marginal_loglik(g * s * scale, s * scale, a, *stored) <= value, (
            "gap 4.3: σ²_e = F/n is not the best."
        )
        assert spectral.marginal_loglik(g * s, s, other, *stored) <= value, (
            "gap 4.3: another a is better: weight by 1/v_i."
        )
print("gap 4.3 ✓")

# %% [markdown]
# **First derivative.** $F(\gamma)=\min_a\Phi(a,\gamma)$. By the chain rule
# $F'=\partial_a\Phi\cdot\hat a'+\partial_\gamma\Phi$, and $\partial_a\Phi=0$ at the minimum: $\hat a$ moves, but to
# first order that changes nothing. This is the *envelope theorem*. What remains differentiates $1/v_i$, with
# $dv_i/d\gamma=d_i$:
#
# $$F'=⟦4.4: -\sum_i\frac{r_i^2d_i}{v_i^2}⟧ .$$
#
# **Second derivative.** Now $r_i$ does move with $\hat a$. The normal equations $\sum_iq_ir_i/v_i=0$ hold at every γ;
# differentiate them, with $r_i'=-q_i^\top\hat a'$:
#
# $$-\sum_i\frac{q_iq_i^\top}{v_i}\hat a'-\sum_i\frac{q_ir_id_i}{v_i^2}=0\quad\Longrightarrow\quad
# \hat a'=-A^{-1}b,\qquad b=\sum_i\frac{q_ir_id_i}{v_i^2},\qquad r_i'=q_i^\top A^{-1}b .$$
#
# In $F'$ both factors $1/v_i^2$ and $r_i^2$ move; insert $r_i'$ and collect $b$:
#
# $$F''=⟦4.4: 2\sum_i\frac{r_i^2d_i^2}{v_i^3}-2\,b^\top A^{-1}b⟧ .$$
#
# **The log-determinant** has derivatives $\sum_id_i/v_i$ and $-\sum_id_i^2/v_i^2$. With $(\log F)'=F'/F$ and
# $(\log F)''=F''/F-(F'/F)^2$,
#
# $$\ell'=-\tfrac12\left[n\frac{F'}F+\sum_i\frac{d_i}{v_i}\right],\qquad
# \ell''=-\tfrac12\left[n\left(\frac{F''}F-\Big(\frac{F'}F\Big)^2\right)-\sum_i\frac{d_i^2}{v_i^2}\right].$$
#
# **Gap 4.4**: $F'$ and $F''$; the cell after the check uses them.


# %% gap="4.4"
def F_derivatives(gamma, d, y, Q, n):
    """F' and F'' at γ."""
    _, F, a = profile_loglik(gamma, d, y, Q, n)
    v, r = 1 + gamma * d, y - Q @ a
    A, b = (Q.T / v) @ Q, Q.T @ (r * d / v**2)
    ### SOLUTION
    F1 = -(r**2 * d / v**2).sum()
    F2 = 2 * (r**2 * d**2 / v**3).sum() - 2 * b @ np.linalg.solve(A, b)
    ### WRONG the residual's movement with a is forgotten
    F1 = -(r**2 * d / v**2).sum()
    F2 = 2 * (r**2 * d**2 / v**3).sum()
    ### WRONG the sign of the slope
    F1 = (r**2 * d / v**2).sum()
    F2 = 2 * (r**2 * d**2 / v**3).sum() - 2 * b @ np.linalg.solve(A, b)
    ### WRONG the movement of a is added, not subtracted
    F1 = -(r**2 * d / v**2).sum()
    F2 = 2 * (r**2 * d**2 / v**3).sum() + 2 * b @ np.linalg.solve(A, b)
    ### END
    return F1, F2


# %% check="4.4"
for g in (0.05, 0.7, 6.0):
    F1, F2 = F_derivatives(g, *small)
    h = 1e-4 * g
    below, middle, above = (profile_loglik(g + k * h, *small)[1] for k in (-1, 0, 1))
    assert np.isclose(F1, (above - below) / (2 * h), rtol=1e-5), (
        "gap 4.4: F' is not the slope of F (finite differences)."
    )
    assert np.isclose(F2, (above - 2 * middle + below) / h**2, rtol=1e-3), (
        "gap 4.4: F'' is off: r moves with a as well."
    )
print("gap 4.4 ✓")


# %%
def profile(gamma, d, y, Q, n):
    """ℓ, ℓ' and ℓ'' at γ."""
    value, F, _ = profile_loglik(gamma, d, y, Q, n)
    F1, F2 = F_derivatives(gamma, d, y, Q, n)
    u = d / (1 + gamma * d)
    return value, -0.5 * (n * F1 / F + u.sum()), -0.5 * (n * (F2 / F - (F1 / F) ** 2) - (u**2).sum())


for problem in (small, rows):
    for g in (0.05, 0.7, 6.0):
        kernel = spectral.profile(g, *problem, problem.d[problem.d > 0], False)
        assert np.allclose(profile(g, *problem), kernel[:3], rtol=1e-8)

# %% [markdown]
# **The kernel, line by line.** `spectral.profile(gamma, d, y, Q, n, h, reml)`; here `h` holds the positive
# eigenvalues $d_i$ (for the ELBO of lesson 05, something else).
#
# | line | formula |
# |---|---|
# | `w[i] = 1 / (1 + gamma * d[i])` | $1/v_i$ |
# | `A = weighted_gram(w, C)`, `cholesky(A)` | $A=\sum_iq_iq_i^\top/v_i=LL^\top$; only $L$ is kept, in the same array |
# | `z[i] = w[i] * y[i]`, `project(C, z)`, `solve_lower`, `solve_upper` | $\hat a=L^{-\top}L^{-1}\sum_iq_iy_i/v_i$ |
# | `residual(y, C, omega, r)` | $r_i=y_i-q_i^\top\hat a$ |
# | `f = r[i] * r[i] * w[i]`, `F += f` | $F=\sum r_i^2/v_i$ |
# | `u = d[i] * w[i]`, `F1 -= f * u` | $F'$: $-\sum r_i^2d_i/v_i^2$ |
# | `F2 += 2 * f * u * u` | first part of $F''$ |
# | `z[i] = w[i] * u * r[i]`, `b = project(C, z)`, `solve_lower(A, b)`, `F2 -= 2 * b * b` | second part, $\lVert L^{-1}b\rVert^2=b^\top A^{-1}b$ |
# | `log_volume(gamma, h)`, `logdet1`, `logdet2` | $\sum\log v_i$, $\sum d_i/v_i$, $-\sum d_i^2/v_i^2$ |
# | `value`, `slope`, `curvature` | $\ell$, $\ell'$, $\ell''$ with `free` = n (REML: n − c) |
# | `F / free` | $\hat\sigma^2_e$ |
#
# **The building blocks.** `log_volume` multiplies the factors $1+\gamma h_j$ and takes one logarithm for as many of them as a
# number holds. `C` is $Q^\top$, whose rows lie side by side in memory. `project(C, t)` is $Q^\top t$, and `weighted_gram(w, C)` adds
# $w_iQ_{ij}Q_{ik}$ over the rows of $Q$ for $k\le j$: the lower triangle of $Q^\top\operatorname{diag}(w)Q$. `cholesky`: entry $(j,k)$, $k\le j$, of $A=LL^\top$ is
# $A_{jk}=\sum_{l<k}L_{jl}L_{kl}+L_{jk}L_{kk}$. Row by row all but the last factor are known, hence
#
# $$L_{jk}=\frac{A_{jk}-\sum_{l<k}L_{jl}L_{kl}}{L_{kk}}\;(k<j),\qquad
# L_{jj}=\sqrt{A_{jj}-\sum_{l<j}L_{jl}^2},\qquad \log|A|=2\sum_j\log L_{jj},$$
#
# the last because $|A|=|L|^2$. `solve_lower`: row $j$ of $Lx=b$ is $\sum_{k<j}L_{jk}x_k+L_{jj}x_j=b_j$; from the top,
# $x_j=(b_j-\sum_{k<j}L_{jk}x_k)/L_{jj}$. `solve_upper` does it for $L^\top x=b$ from the bottom, with $L_{kj}$, $k>j$.
# `whiten(L, B)`: B is symmetric, so its rows are its columns. Solving every row in place leaves $(L^{-1}B)^\top=BL^{-\top}$;
# solving every row of its transpose leaves $L^{-1}BL^{-\top}$.

# %%
w = 1 / (1 + 0.7 * small.d)
A = (small.Q.T * w) @ small.Q
L = spectral.weighted_gram(w, spectral.transpose(small.Q))
assert np.allclose(L, np.tril(A))
assert np.isclose(spectral.cholesky(L), np.linalg.slogdet(A)[1])
assert np.allclose(L @ L.T, A)
b = np.arange(1.0, len(A) + 1)
solved = b.copy()
spectral.solve_lower(L, solved)
assert np.allclose(L @ solved, b)
spectral.solve_upper(L, solved)
assert np.allclose(A @ solved, b)
B = spectral.weighted_gram(w * small.d * w, spectral.transpose(small.Q))
full = B + np.tril(B, -1).T
assert np.allclose(L @ spectral.whiten(L, B) @ L.T, full)

# %% [markdown]
# **Why a grid first.** ℓ(γ) need not have one maximum, and the best point may be the boundary γ = 0. There
# $v_i=1$, $\hat a=0$ (least squares was taken out), and
#
# $$\ell'(0)=\tfrac12\Big[\frac{n\sum_iy_i^2d_i}{\sum_iy_i^2}-\sum_id_i\Big].$$
#
# Negative: γ = 0 is a local maximum. Positive: it is not. `fastlmm_vi.wide.profile.maximise` asks for the sign of the
# slope on a grid of log γ. Each pair of neighbours with slopes + and − brackets a maximum. Every
# bracket is polished, the best result is compared with γ = 0. A grid proves nothing between its points, but each term
# of ℓ′ changes over about two units of log γ, and the step is small against that where any $\gamma d_i$ is near 1; beyond,
# where ℓ is nearly linear in log γ or flat, it is larger.
#
# **Safeguarded Newton** (`fastlmm_vi.wide.profile.climb`)**.** In a bracket (lo, hi) Newton's step is $\gamma\leftarrow\gamma-\ell'/\ell''$: it
# maximises the parabola with the same value and derivatives. Taylor's theorem at γ,
# $0=\ell'(\gamma^*)=\ell'(\gamma)+\ell''(\gamma)(\gamma^*-\gamma)+\frac12\ell'''(\xi)(\gamma^*-\gamma)^2$, divided by
# $\ell''(\gamma)$, gives
#
# $$\gamma_{\mathrm{new}}-\gamma^*=\frac{\ell'''(\xi)}{2\,\ell''(\gamma)}\,(\gamma-\gamma^*)^2 :$$
#
# the error is squared, up to a factor, at every step, while EM multiplies it by λ. Two safeguards: the sign of ℓ′ moves one end of the
# bracket to γ each time, and where ℓ″ ≥ 0 or the step leaves the bracket, the geometric mean of its ends (half of hi,
# when lo is 0) is taken instead. The loop ends after a step of relative size 1e-8: the next error is of the size of
# rounding.


# %%
def climb(lo, hi, gamma, rows):
    """Newton's method on ℓ(γ) inside a bracket with slope > 0 at lo and < 0 at hi."""
    step, visited = np.inf, []
    while abs(step) > 1e-8 * gamma and len(visited) < 100:
        _, slope, curvature = profile(gamma, *rows)
        visited.append(gamma)
        if slope == 0:
            break
        lo, hi = (gamma, hi) if slope > 0 else (lo, gamma)
        new = gamma - slope / curvature if curvature < 0 else -1.0
        if not lo < new < hi:
            new = np.sqrt(lo * hi) if lo > 0 else hi / 2
        step, gamma = new - gamma, new
    return np.array([*visited, gamma])


grid = np.geomspace(1e-3, 1e3, 60) / rows.d.mean()
arguments = (*rows, rows.d[rows.d > 0], False)
values, slopes = np.array([spectral.profile(g, *arguments)[:2] for g in grid]).T
k = np.flatnonzero((slopes[:-1] > 0) & (slopes[1:] <= 0))
k = k[np.argmax(values[k])]
ours = climb(grid[k], grid[k + 1], np.sqrt(grid[k] * grid[k + 1]), rows)
theirs = library.climb(rows, LIKELIHOOD, grid[k], grid[k + 1])
assert np.isclose(ours[-1], newton.sigma2_beta_ / newton.sigma2_e_, rtol=1e-8)
assert np.isclose(theirs[-1].gamma, ours[-1], rtol=1e-8)

# %% [markdown]
# The picture compares the two on the data: the relative error of γ at each step, both axes logarithmic. Its right
# panel shows a small problem, found by trying seeds, whose profile has three local maxima, one of them at γ = 0. A
# method that only climbs ends at one near its start, which need not be the highest, and EM is such a method.

# %%
rng = np.random.default_rng(702)
X_three = rng.normal(size=(12, 20)) * np.geomspace(1, 0.03, 12)[:, None]
three = rotate(rng.normal(size=12), np.ones((12, 1)), fl.Spectrum.of(X_three))
wide = np.geomspace(1e-2, 1e3, 300)
arguments_three = (*three, three.d[three.d > 0], False)
values_three, slopes_three = np.array([spectral.profile(g, *arguments_three)[:2] for g in wide]).T
zero = spectral.profile(0.0, *arguments_three)
peaks = np.flatnonzero((slopes_three[:-1] > 0) & (slopes_three[1:] <= 0))
assert len(peaks) == 2
assert zero[1] < 0

# %% figure="profile"
figure, axes = plt.subplots(1, 2)
for model, color, marker, label in ((em, "#D55E00", None, "EM"), (newton, "#0072B2", "x", "Newton")):
    error = np.abs(model.trace_.sigma2_beta / model.trace_.sigma2_e / top_gamma - 1).to_numpy()
    t = np.flatnonzero(error > 1e-15)
    axes[0].plot(t + 1, error[t], color=color, marker=marker, label=label)
axes[0].set(
    xscale="log", yscale="log", xlabel="iteration, the start being 1", ylabel="relative error of γ", title="the data"
)
axes[0].legend(frameon=False, fontsize="small", loc="lower right")
axes[1].plot(wide, values_three - zero[0], color="0.3", lw=1)
axes[1].scatter(wide[peaks], values_three[peaks] - zero[0], s=30, color="#0072B2", label="interior maxima")
axes[1].plot([wide[0], wide[-1]], [0, 0], color="0.6", ls=":", lw=1, label="γ = 0")
axes[1].set(xscale="log", xlabel="γ", ylabel="ℓ(γ) − ℓ(0)", title="three local maxima", ylim=(-0.45, 0.3))
axes[1].legend(frameon=False, fontsize="small", loc="upper left")
plt.show()

# %% data=true
print(f"Newton: {newton.n_iter_} steps; EM: {em.n_iter_} iterations")
for t in range(newton.n_iter_ + 1):
    row = newton.trace_.iloc[t]
    print(f"{t:3d}   log-likelihood {row.loglik:.2f}   sigma2_beta {row.sigma2_beta:.6g}   sigma2_e {row.sigma2_e:.6g}")

# %% [markdown]
# Newton needs «fits.newton.n_iter» steps, EM «fits.em.n_iter» iterations. The scan before Newton evaluates the
# profile once per point of its grid, each time at about the price of c EM iterations.
#
# **The stopping rule of the library's EM** uses the profile as the judge. Near a maximum the Newton step
# $-\ell'/\ell''$ *is* the distance to it, up to its square (the display above). `fastlmm_vi.wide.iteration.run` therefore computes
#
# $$\texttt{distance}=\max\left\{\frac{|\ell'/\ell''|}{\gamma},\;
# \Big|\frac{\hat\sigma^2_e(\gamma)}{\sigma^2_e}-1\Big|,\;\max_k\frac{|\hat a_k(\gamma)-a_k|}{\sigma_e}\right\}$$
#
# every tenth iteration, and every fiftieth part of a long way, once EM's own step in log σ²_β is below `tol`. It stops when
# the distance is below `tol`.
# Where ℓ″ is not negative the distance is infinite. A short step alone never ends it.

# %%
gamma_end = em.sigma2_beta_ / em.sigma2_e_
_, slope, curvature = profile(gamma_end, *rows)
true_distance = abs(gamma_end / (newton.sigma2_beta_ / newton.sigma2_e_) - 1)
assert abs(abs(slope / curvature) / gamma_end - true_distance) < 0.01 * true_distance + 1e-9

# %% [markdown] slide="algorithms"
# # Newton squares the error, EM multiplies it
#
# With ω and σ²_{e} at their best for each γ, one variable is left:
#
# $$\ell(\gamma)=-\frac{1}{2}\left[n\left(\log\frac{2\pi F}{n}+1\right)+\sum_i\log v_i\right]\qquad F=\sum_i\frac{r_i^2}{v_i}$$
#
# | method | steps | σ²_{β} | log-likelihood |
# |---|---|---|---|
# | EM | «fits.em.n_iter» | «fits.em.sigma2_beta:.5g» | «fits.em.loglik:.4f» |
# | Newton | «fits.newton.n_iter» | «fits.newton.sigma2_beta:.5g» | «fits.newton.loglik:.4f» |
#
# - Both derivatives of ℓ in γ are sums over the same rows
# - A scan over γ first: there may be several maxima, and γ = 0
#
# ---
# Say: Both arrive at the same maximum. Newton's error is squared at each step, EM's is multiplied by a number just
# below one. The library's EM uses Newton's step as its measure of distance and stops only when that is small.
#
# Ask: Then why teach EM at all?
#
# Answer: It needs no derivatives and never falls, it extends to models without a profile, and variational inference
# is EM with a lesser E-step.
#
# Minutes: 3

# %% [markdown]
# ## 8. REML, standard errors and the intercept
#
# **REML.** $\hat\sigma^2_e=F/n$ divides by n although c effects were fitted. REML uses the likelihood of the
# contrasts of y that are free of ω; equivalently, it integrates $a$ out under a flat prior. Around its minimum
# $\Phi(a,\gamma)=F+(a-\hat a)^\top A(a-\hat a)$ exactly, as Φ is quadratic. The Gaussian integral contributes
# $(2\pi\sigma^2_e)^{c/2}|A|^{-1/2}$:
#
# $$\ell_R(\gamma,\sigma^2_e)=-\tfrac12\left[(n-c)\log2\pi\sigma^2_e+\sum_i\log v_i
# +\log|A|+\frac F{\sigma^2_e}\right],\qquad
# \hat\sigma^2_e=\frac F{n-c}.$$
#
# Integrating over ω instead of $a=R(\omega-\omega_{\mathrm{ls}})$ subtracts $\log|\det R|$, a constant: lme4's
# convention, and the library's `criterion_`. Hence the profile is that of section 7 with n − c for n and the
# additional term $-\frac12\log|A|$.
#
# **Its derivatives.** With $A_k=\sum_iq_iq_i^\top d_i^k/v_i^{k+1}$ one has $A'=-A_1$ and $A_1'=-2A_2$. Jacobi's
# formula $(\log|A|)'=\operatorname{tr}(A^{-1}A')$ and $(A^{-1})'=-A^{-1}A'A^{-1}$ give
#
# $$(\log|A|)'=⟦4.E2: -\operatorname{tr}(A^{-1}A_1)⟧,\qquad
# (\log|A|)''=2\operatorname{tr}(A^{-1}A_2)-\operatorname{tr}(A^{-1}A_1A^{-1}A_1).$$
#
# The cell checks the kernel's
# value against a dense restricted likelihood and its derivatives by finite differences.

# %%
h_toy = small.d[small.d > 0]
log_R = np.log(np.abs(np.diag(np.linalg.qr(Z_toy)[1]))).sum()
for g in (0.05, 0.7, 6.0):
    value, slope, curvature, s, _ = spectral.profile(g, *small, h_toy, True)
    V = s * (g * X_toy @ X_toy.T + np.eye(len(y_toy)))
    P = np.linalg.inv(V)
    G = Z_toy.T @ P @ Z_toy
    r = y_toy - Z_toy @ np.linalg.solve(G, Z_toy.T @ P @ y_toy)
    free = len(y_toy) - Z_toy.shape[1]
    dense = -0.5 * (free * np.log(2 * np.pi) + np.linalg.slogdet(V)[1] + np.linalg.slogdet(G)[1] + r @ P @ r)
    assert np.isclose(value - log_R, dense, rtol=1e-9)
    h = 1e-4 * g
    low, high = (spectral.profile(g + k * h, *small, h_toy, True) for k in (-1, 1))
    assert np.isclose(slope, (high[0] - low[0]) / (2 * h), rtol=1e-5)
    assert np.isclose(curvature, (high[1] - low[1]) / (2 * h), rtol=1e-5)

# %% [markdown]
# **On the data.** Standard errors of ML are the roots of the diagonal of $I_o^{-1}$ (section 6). REML's come from the
# second derivatives of $\ell_R$ (`fastlmm_vi.wide.information.observed`). That of PVE follows by the delta
# method: to first order PVE moves with the two variances like its gradient $g$, and with $C$ their covariance
#
# $$\mathrm{se}^2=g^\top Cg,\qquad g=\frac{\partial\,\mathrm{PVE}}{\partial(\sigma^2_\beta,\sigma^2_e)}
# =\frac{t}{(\sigma^2_\beta t+\sigma^2_e)^2}\,(\sigma^2_e,\,-\sigma^2_\beta)$$
#
# (`fastlmm_vi.wide.information.pve_se`). The cell takes $g$ from gap 4.1 by finite differences.

# %%
reml = fl.WideLMM("newton", reml=True, fit_intercept=False).fit(data.X, data.y, covariates, spectrum=spectrum)
with_intercept = fl.WideLMM("newton").fit(data.X, data.y, covariates, spectrum=spectrum)
share = lambda u, v: pve(newton.sigma2_beta_ + u, newton.sigma2_e_ + v, rows.d, rows.Q, n)
covariance = np.linalg.inv(I_o)[-2:, -2:]
numeric = np.array([share(u, v) - share(-u, -v) for u, v in ((1e-6, 0.0), (0.0, 1e-6))]) / 2e-6
assert np.isclose(np.sqrt(numeric @ covariance @ numeric), newton.pve_se_, rtol=1e-5)

# %% data=true
for name, model in (("ML", newton), ("REML", reml), ("ML, intercept", with_intercept)):
    fit = model.fit_
    variances = f"sigma2_beta {fit.sigma2_beta:.4g} ({fit.sigma2_beta_se:.4g})   sigma2_e {fit.sigma2_e:.4g}"
    print(f"{name:14s} {variances} ({fit.sigma2_e_se:.4g})   PVE {fit.pve:.4f}   log-likelihood {fit.loglik:.2f}")

# %% [markdown]
# | Z as given | ML | REML |
# |---|---|---|
# | σ²_β | «fits.newton.sigma2_beta:.4g» | «fits.reml.sigma2_beta:.4g» |
# | its standard error | «fits.newton.sigma2_beta_se:.4g» | «fits.reml.sigma2_beta_se:.4g» |
# | σ²_e | «fits.newton.sigma2_e:.4g» | «fits.reml.sigma2_e:.4g» |
# | its standard error | «fits.newton.sigma2_e_se:.4g» | «fits.reml.sigma2_e_se:.4g» |
# | PVE | «fits.newton.pve:.4f» | «fits.reml.pve:.4f» |
# | log-likelihood | «fits.newton.loglik:.2f» | «fits.reml.loglik:.2f» |
#
# | with an intercept | ML | REML |
# |---|---|---|
# | σ²_β | «fits_intercept.newton.sigma2_beta:.4g» | «fits_intercept.reml.sigma2_beta:.4g» |
# | its standard error | «fits_intercept.newton.sigma2_beta_se:.4g» | «fits_intercept.reml.sigma2_beta_se:.4g» |
# | σ²_e | «fits_intercept.newton.sigma2_e:.4g» | «fits_intercept.reml.sigma2_e:.4g» |
# | its standard error | «fits_intercept.newton.sigma2_e_se:.4g» | «fits_intercept.reml.sigma2_e_se:.4g» |
# | PVE | «fits_intercept.newton.pve:.4f» | «fits_intercept.reml.pve:.4f» |
# | log-likelihood | «fits_intercept.newton.loglik:.2f» | «fits_intercept.reml.loglik:.2f» |
#
# At a given γ REML multiplies both variances by n/(n − c): it allows for the c degrees of freedom that ω used up. The
# term −½ log|A| moves γ as well, so the increase need not be shared in proportion: compare the two columns. Its
# marginal log-likelihood is below ML's, which is the largest by definition. The restricted criteria of models with
# and without the intercept are likelihoods of different contrasts, and their difference means nothing; the marginal
# log-likelihoods of the two ML fits may be compared.
#
# **The intercept** is one more column of Z. Its estimate is «fits_intercept.newton.intercept:.4f» with standard error
# «fits_intercept.newton.intercept_se:.4f». Twice the gain in log-likelihood, from «fits.newton.loglik:.2f» to
# «fits_intercept.newton.loglik:.2f», is the likelihood ratio statistic with one degree of freedom, and the squared
# ratio of estimate and error is Wald's form of the same test. The course keeps the literal model, without it, so that
# every lens is compared on the same footing.
#
# **A warning: the likelihood may be unbounded.** Let the null space of $K$ have dimension $n_0>0$ and let the
# covariates reach all of it (its basis $U_0$ has $U_0^\top Z$ of rank $n_0$). Then ω can make the residual there 0,
# $F\sim1/\gamma$ for large γ, $\sum\log v_i\sim(n-n_0)\log\gamma$, and
#
# $$\ell(\gamma)\sim-\tfrac12\left[-n\log\gamma+(n-n_0)\log\gamma\right]=\frac{n_0}2\log\gamma\to\infty$$
#
# for any y: σ²_e → 0 without end. It happens with column-centred X of rank n − 1 and an intercept, hence with
# standardised X when n ≤ p, and for X and Z in general position when n − c ≤ p < n. The library says so
# (`fl.UnboundedLikelihoodError`, `fl.Status.UNBOUNDED`). REML is bounded there: $\log|A|$ falls like
# $-(c-n_0)\log\gamma$, and with n − c in place of n the three terms cancel. On data with n < p whose X is not
# centred, K has full rank in general, $n_0=0$, and nothing of this occurs.

# %%
centred = rotate(y_toy, np.ones((len(y_toy), 1)), fl.Spectrum.of(X_toy - X_toy.mean(axis=0)))
h = centred.d[centred.d > 0]
growth = [spectral.profile(g, *centred, h, False)[0] for g in (1e6, 1e7)]
assert np.isclose(growth[1] - growth[0], 0.5 * np.log(10), rtol=1e-3)  # n₀ = 1
flat = [spectral.profile(g, *centred, h, True)[0] for g in (1e6, 1e7)]
assert abs(flat[1] - flat[0]) < 1e-3

# %% [markdown]
# ## What to remember
#
# * EM crawls along a ridge: the data know the total variance well and its split badly.
# * PVE can be sizeable while no single β_j is known: the data resolve less than the share n/p of the prior variance.
# * EM's rate is the fraction of missing information, $R=I-I_c^{-1}I_o$. A step or gain below a tolerance says little
#   about the distance to the optimum.
# * At fixed γ the model is a weighted regression. The profile ℓ(γ) is a function of one variable; scan it, then
#   Newton.
# * Judge an iterative fit by something that does not depend on its own steps: here the Newton step of the profile.
#
# ## Exercises
#
# **Exercise 4.E1.** Three successive EM iterates $x_0,x_1,x_2$ of one parameter give the rate and, by the
# remaining-steps formula of section 6, a prediction of the limit (Aitken's extrapolation). Write it, and see how much
# earlier EM could be judged. The check uses exact geometric sequences and a run of EM on the small problem.


# %% gap="4.E1"
def extrapolate(x0, x1, x2):
    """Rate λ and limit of a sequence whose steps shrink by a constant factor."""
    ### SOLUTION
    rate = (x2 - x1) / (x1 - x0)
    limit = x2 + rate / (1 - rate) * (x2 - x1)
    ### WRONG the last step is counted once more
    rate = (x2 - x1) / (x1 - x0)
    limit = x2 + (x2 - x1) / (1 - rate)
    ### WRONG the ratio is upside down
    rate = (x1 - x0) / (x2 - x1)
    limit = x2 + rate / (1 - rate) * (x2 - x1)
    ### WRONG the ratio of the values instead of the steps
    rate = x2 / x1
    limit = x2 + rate / (1 - rate) * (x2 - x1)
    ### END
    return rate, limit


# %% check="4.E1"
for true_rate, true_limit in ((0.5, 2.0), (0.9, -1.0), (0.997, 0.3)):
    x = true_limit + 0.7 * true_rate ** np.arange(3)
    rate, limit = extrapolate(*x)
    assert abs(rate - true_rate) < 1e-6, "gap 4.E1: the rate is the ratio of two successive steps."
    assert abs(limit - true_limit) < 1e-6, (
        "gap 4.E1: sum the steps still to come after x2; the first of them is λ(x2 − x1)."
    )
start = y_toy.var() / 2
run = spectral.em(start, start, np.zeros(small.c), 400, 0.0, *small, X_toy.shape[1], small.d)[0][:, 1]
limit = extrapolate(*run[198:201])[1]
assert abs(limit - theta_toy[-2]) < 0.2 * abs(run[200] - theta_toy[-2]), (
    "gap 4.E1: on EM's path your limit is no better."
)
print("gap 4.E1 ✓")

# %% [markdown]
# **Exercise 4.E2.** REML's slope differs from that of section 7 by n − c and by the slope of $-\frac12\log|A|$. Write
# $(\log|A|)'$; the check differentiates $\log|A|$ numerically and rebuilds the kernel's REML slope from your term.


# %% gap="4.E2"
def logdet_A_slope(gamma, d, Q):
    """Derivative in γ of log|A|, A = Σ q_i q_iᵀ / (1 + γ d_i)."""
    v = 1 + gamma * d
    ### SOLUTION
    slope = -np.trace(np.linalg.solve((Q.T / v) @ Q, (Q.T * (d / v**2)) @ Q))
    ### WRONG the sign
    slope = np.trace(np.linalg.solve((Q.T / v) @ Q, (Q.T * (d / v**2)) @ Q))
    ### WRONG v instead of its square under d
    slope = -np.trace(np.linalg.solve((Q.T / v) @ Q, (Q.T * (d / v)) @ Q))
    ### WRONG the inverse of A is forgotten
    slope = -np.trace((Q.T * (d / v**2)) @ Q)
    ### END
    return slope


# %% check="4.E2"
for g in (0.05, 0.7, 6.0):
    log_A = lambda x: np.linalg.slogdet((small.Q.T / (1 + x * small.d)) @ small.Q)[1]
    numeric = (log_A(g * 1.0001) - log_A(g * 0.9999)) / (2e-4 * g)
    slope = logdet_A_slope(g, small.d, small.Q)
    assert np.isclose(slope, numeric, rtol=1e-5), (
        f"gap 4.E2: log|A| has slope {numeric:.5f} at γ = {g} by finite differences."
    )
    by_ml, by_reml = (spectral.profile(g, *small, h_toy, flag) for flag in (False, True))
    F1, F = F_derivatives(g, *small)[0], profile_loglik(g, *small)[1]
    rebuilt = by_ml[1] + 0.5 * small.Q.shape[1] * F1 / F - 0.5 * slope
    assert np.isclose(rebuilt, by_reml[1], rtol=1e-8), "gap 4.E2: the kernel's REML slope is another."
print("gap 4.E2 ✓")

# %% [markdown]
# The kernel computes $(\log|A|)'$ and $(\log|A|)''$ without an inverse: `whiten(L, B)` is $L^{-1}BL^{-\top}$. With `B1`
# $=L^{-1}A_1L^{-\top}$ and `B2` $=L^{-1}A_2L^{-\top}$, cyclic traces turn them into sums,
#
# $$\operatorname{tr}(A^{-1}A_1)=\sum_jB_{1,jj},\qquad
# 2\operatorname{tr}(A^{-1}A_2)-\operatorname{tr}(A^{-1}A_1A^{-1}A_1)=2\sum_jB_{2,jj}-\sum_{j,k}B_{1,jk}^2 :$$
#
# `logdet1 -= B1[j, j]`, `logdet2 += 2 * B2[j, j]` and `logdet2 -= B1[j, k] * B1[j, k]`. The cell of section 8 checked them.
