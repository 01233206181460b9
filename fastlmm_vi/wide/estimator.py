"""The scikit-learn estimator of the wide model: stores its options, checks nothing itself, holds no arithmetic."""

import time
from typing import Any, Self

import numpy as np
import scipy.stats

from ..progress import reporter
from ..result import Array, Fit
from . import design, fit
from .regressor import WideRegressor
from .spectrum import Spectrum


class WideLMM(WideRegressor):
    """Linear mixed model with a wide random part: y = Zω + Xβ + e, β ~ N(0, σ²_β I_p), e ~ N(0, σ²_e I_n).

    Covariates Z (n, c) have fixed effects ω, features X (n, p) random effects β; p may be far larger than n. (lme4
    writes X for the fixed and Z for the random part: here it is the other way round, and arguments use words.)

    Parameters
    ----------
    method : {"newton", "em", "mfvi"}, default "newton"
        "newton": maximum likelihood (or REML), global and to machine precision. "em": the textbook's EM. "mfvi":
        mean-field variational inference, q(β) = Π q(β_j).
    reml : bool, default False
        Restricted maximum likelihood, with "newton" only; the same as `lmer(REML = TRUE)`. Recommended when p > n: plain
        ML (the default, comparable with "em" and "mfvi") is pulled towards 0 by the column means of X, and unbounded
        where X is column-centred or standardised and n ≤ p; REML with an intercept does not see the means at all.
    fit_intercept : bool, default True
        Add a constant to the covariates.
    standardize : bool, default False
        Centre the columns of X and divide them by their standard deviation (ddof 0) and by √p. σ²_β is then on that
        scale, `coef_` on the original one. Copies X.
    theta_by : {"elbo", "loglik"}, default "elbo"
        For "mfvi": whether ω, σ²_β, σ²_e maximise the ELBO (which shrinks σ²_β, often severely) or the exact
        log-likelihood, mean field then serving for q(β) alone.
    solver : {"auto", "sweep", "collapsed"}, default "auto"
        For "mfvi": coordinate sweeps on X, or the same fixed point in the eigenbasis; "auto" sweeps only where n and
        p are both above 5000.
    accelerate : bool, default True
        For "mfvi": False runs the plain variational EM of the textbook, which may need 10⁴ iterations and more.
    block_size : int or array-like (p,), default 1
        For "mfvi": q(β) factorises over blocks of so many neighbouring features, or over groups given by one label per
        feature, and is exact within them: from mean field (1) to the exact posterior (p). A block of b features costs
        O(min(n, b)² max(n, b)) once and min(n, b)² numbers of memory; groups of columns that are not neighbours are
        copied.
    precision : {"float64", "float32-gram", "float32"}, default "float64"
        "float32-gram" multiplies X Xᵀ in single precision, at nearly twice the speed, and sums in double; "float32" also
        holds X in it (half the memory; a float32 X is then used as it lies). To first order the log-likelihood is off
        by less than 1e-6 γ n λ_max, λ_max the largest eigenvalue of X Xᵀ, in practice by a thousandth of that: rounding
        errors mostly cancel. Centre columns whose means are large: λ_max is then theirs.
    tol : float or None
        None is 1e-6. "em" (and plain collapsed "mfvi"): relative distance to the optimum by a Newton step; sweeps:
        the ELBO's gradient, per posterior standard deviation and per unit of log variance. "newton" always polishes
        to rounding.
    max_iter : int or None
        None is 20 000 for "em" and 100 000 for "mfvi". "newton" and accelerated collapsed "mfvi" need none.
    n_jobs : int or None
        Threads for the Gram matrix and its reduction: None is 1, −1 all cores. Small problems, and all that
        follows, run on one: `fit_.threads` says how many were used.
    random_state : None
        Every present method is deterministic; kept so that all estimators are configured alike.
    verbose : int, default 0
        1 reports stages and iterations on standard error.

    Attributes
    ----------
    coef_ : ndarray (p,)
        Posterior mean of β on the original scale of X.
    beta_var_ : ndarray (p,)
        Posterior variance of each β_j at the estimates, ω held fixed; computed on first use.
    omega_, omega_se_ : ndarray (c,)
        Effects of the covariates, without the intercept, and standard errors.
    intercept_ : float
        0.0 where there is none.
    sigma2_beta_, sigma2_e_, pve_ : float
        Variance components and proportion of variance explained.
    sigma2_beta_se_, sigma2_e_se_, pve_se_ : float
        Standard errors; NaN where they do not exist (`fit_.se_note` says why).
    loglik_, criterion_, elbo_ : float
        Marginal log-likelihood at the estimates; what was maximised; ELBO (None without one).
    trace_ : DataFrame
        Per accepted iteration: iteration, loglik, elbo, gap, sigma2_beta, sigma2_e, max_change, seconds.
    n_iter_ : int
    converged_ : bool
    status_ : Status
        How the fit ended; `status_.advice` says what to try.
    fit_ : Fit
        The whole result: `fit_.summary()`, `fit_.to_frame()`, `fit_.save(path)`.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    Cost: O(min(n, p)² max(n, p)) once, then O(n c) to O(n c²) per iteration, independent of p. Memory: X in float64 (by
    reference where it is, else a copy) and min(n, p)² numbers; never p × p when p > n. Fits keep both for
    variances and predictions: do not change X afterwards, and expect both in a pickle (`fit_.save` writes estimates
    only). The derivation is in docs/derivation.md.

    With scikit-learn's cross-validation, covariates travel by metadata routing: after
    `sklearn.set_config(enable_metadata_routing=True)`, `WideLMM().set_fit_request(covariates=True)
    .set_score_request(covariates=True)` goes into `cross_val_score(model, X, y, params={"covariates": Z})`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastlmm_vi import WideLMM
    >>> rng = np.random.default_rng(1)
    >>> X = rng.normal(size=(200, 500))
    >>> y = 1.0 + X @ rng.normal(scale=0.05, size=500) + rng.normal(size=200)
    >>> model = WideLMM(reml=True).fit(X, y)
    >>> model.converged_, model.coef_.shape
    (True, (500,))
    >>> mean, sd = model.predict(X[:3], return_std=True)
    """

    def __init__(
        self,
        method: str = "newton",
        *,
        reml: bool = False,
        fit_intercept: bool = True,
        standardize: bool = False,
        theta_by: str = "elbo",
        solver: str = "auto",
        accelerate: bool = True,
        block_size: Any = 1,
        precision: str = "float64",
        tol: float | None = None,
        max_iter: int | None = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.method = method
        self.reml = reml
        self.fit_intercept = fit_intercept
        self.standardize = standardize
        self.theta_by = theta_by
        self.solver = solver
        self.accelerate = accelerate
        self.block_size = block_size
        self.precision = precision
        self.tol = tol
        self.max_iter = max_iter
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, covariates: Any = None, *, spectrum: Spectrum | None = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array-like (n, p)
            Features with random effects; numeric and finite. A float64 array is used as it lies, without a copy
            (a float32 one with `precision="float32"`).
        y : array-like (n,)
            Response.
        covariates : array-like (n, c) or DataFrame, optional
            Fixed-effect covariates, without the constant.
        spectrum : Spectrum, optional
            `Spectrum.of(X)` of an earlier fit: skips the expensive part for further responses or methods.

        Returns
        -------
        WideLMM
            Itself, fitted.

        Raises
        ------
        ValueError
            For an unknown option, or data that are not numeric, finite and of equal length; `DataError` (a
            ValueError) for covariates that depend on each other, `UnboundedLikelihoodError` where no maximum exists.
        """
        start = time.perf_counter()
        fit.check_options(self.get_params(deep=False))
        data = self._design(X, y, covariates, precision=self.precision)
        with reporter(self.verbose) as report:
            self.fit_: Fit = fit.fit(
                data,
                method=self.method,
                reml=self.reml,
                theta_by=self.theta_by,
                solver=self.solver,
                accelerate=self.accelerate,
                block_size=design.group_labels(self.block_size, data.feature_names, data.p),
                tol=self.tol,
                max_iter=self.max_iter,
                n_jobs=self.n_jobs,
                spectrum=spectrum,
                report=report,
                prepare_seconds=time.perf_counter() - start,
            )
        return self

    def _uncertainty(
        self, X: Array, Z: Array, mean: Array, *, return_std: bool, interval: str | None, level: float
    ) -> list[Array]:
        posterior = self.fit_.posterior
        variance = posterior.predictive(X)
        out = [np.sqrt(variance + self.sigma2_e_)] if return_std else []
        if interval is None:
            return out
        if posterior.link is None:
            raise ValueError("interval needs the spectrum of X, which was too large here: use return_std=True.")
        variance = variance + posterior.link.variance(X, Z, self.fit_.omega_cov)
        if interval == "prediction":
            variance = variance + self.sigma2_e_
        half = scipy.stats.norm.ppf(0.5 + level / 2) * np.sqrt(variance)
        return [*out, mean - half, mean + half]
