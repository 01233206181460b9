"""The scikit-learn estimator of the Bayesian wide model."""

import time
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pandas as pd

from ..progress import reporter
from ..result import Array, Fit
from . import bayes
from .mixture import Mixture
from .regressor import WideRegressor
from .spectrum import Spectrum


class BayesWideLMM(WideRegressor):
    """Bayesian linear mixed model with a wide random part: y = Zω + Xβ + e, the variances with a posterior of their own.

    β ~ N(0, σ²_β I_p) and e ~ N(0, σ²_e I_n) as in `WideLMM`; ω, σ_β and σ_e have priors. Estimates are posterior means,
    and predictions carry the uncertainty of the variances.

    Parameters
    ----------
    engine : {"quadrature", "mfvi"}, default "quadrature"
        "quadrature": the exact posterior. ω and β are integrated out in closed form, (σ²_β, σ²_e) on an adaptive grid.
        "mfvi": mean field, q(ω) q(β) q(σ²_β) q(σ²_e) by coordinate ascent: a lower bound of the log evidence, and standard
        deviations that are too small.
    priors : mapping, optional
        From "omega" (covariates and intercept), "sigma_beta", "sigma_e" to priors of `fastlmm_vi.priors`. "omega" takes
        `Normal` or `Flat`, or a mapping from "intercept" and the covariates' names to these; a scale any prior of a standard
        deviation, e.g. `HalfNormal(1)`, `InverseGamma(2, 1)` (on the variance), `Flat("variance")`, `Fixed(1)`. What is not
        given is weakly informative, on the data's scale: with s the residual standard deviation given the covariates and t
        of PVE below, σ_e ~ HalfNormal(2.5 s), σ_β ~ HalfNormal(2.5 s / √t), the effect of a covariate ~ Normal(0, 10 s / its
        standard deviation), the intercept Normal around the mean of y. `summary()` prints all.
    fit_intercept : bool, default True
        Add a constant to the covariates. Its prior is that of the intercept where the features are 0 (at their means with
        `standardize`).
    standardize : bool, default False
        As in `WideLMM`; σ_β is then on that scale.
    tol : float or None
        "quadrature": largest error of log evidence and of moments (in standard deviations), None is 1e-6. "mfvi": distance
        of log E[1/σ²] to the fixed point, None is 1e-8.
    max_iter : int or None
        "quadrature": evaluations of the density of (σ²_β, σ²_e), None is 200 000. "mfvi": rounds, None is 1000.
    n_jobs : int or None
        Threads for the Gram matrix and its eigenvectors: None is 1, −1 all cores.
    verbose : int, default 0
        1 reports stages on standard error.

    Attributes
    ----------
    theta_ : DataFrame
        Posterior of `sigma2_beta`, `sigma2_e` and `pve`: mean, sd, q05, q50, q95. Other quantiles:
        `fit_.theta.quantile("pve", [0.025, 0.975])`.
    log_evidence_ : float or None
        log p(y); None by "mfvi".
    elbo_ : float or None
        Lower bound of the log evidence by "mfvi"; else None.
    coef_, beta_var_ : ndarray (p,)
        Posterior mean and variance of β, uncertainty of ω and the variances included; on the original scale of X.
    omega_, omega_se_ : ndarray (c,)
        Posterior means and standard deviations of the covariates' effects.
    intercept_ : float
        0.0 where there is none.
    sigma2_beta_, sigma2_e_, pve_ : float
        Posterior means; `sigma2_beta_se_`, `sigma2_e_se_`, `pve_se_` are posterior standard deviations.
    loglik_ : float
        Marginal log-likelihood at the posterior means of ω, σ²_β and σ²_e.
    criterion_ : float
        Log evidence or ELBO.
    trace_ : DataFrame
        "mfvi": per round, with 1 / E[1/σ²] as the variances.
    n_iter_ : int
        Rounds; by "quadrature" evaluations of the density.
    converged_, status_, fit_
        As in `WideLMM`. `fit_.modes[0]` is the posterior's mode in (σ²_β, σ²_e), where it is not on the boundary.

    Notes
    -----
    Cost: that of eigenvectors of X Xᵀ (or XᵀX), O(min(n, p)² max(n, p)), once; then one or two thousand evaluations of
    O(n c²), independent of p. PVE = σ²_β t / (σ²_β t + σ²_e), t = tr(M X Xᵀ) / (n − c). The derivation is in
    docs/derivation_bayes_wide.md. A posterior that is improper, or whose variance of σ² does not exist (a half-Cauchy prior
    and a handful of features), raises `IntegrationError`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastlmm_vi import BayesWideLMM, priors
    >>> rng = np.random.default_rng(1)
    >>> X = rng.normal(size=(200, 500))
    >>> y = 1.0 + X @ rng.normal(scale=0.05, size=500) + rng.normal(size=200)
    >>> exact = BayesWideLMM(priors={"sigma_e": priors.HalfNormal(5)}).fit(X, y)
    >>> exact.theta_.round(2)
                 mean    sd   q05   q50   q95
    parameter
    sigma2_beta  0.00  0.00  0.00  0.00  0.01
    sigma2_e     1.14  0.41  0.53  1.11  1.86
    pve          0.61  0.14  0.36  0.62  0.83
    >>> mean_field = BayesWideLMM("mfvi", priors={"sigma_e": priors.HalfNormal(5)}).fit(X, y)
    >>> bool(mean_field.elbo_ < exact.log_evidence_)
    True
    """

    def __init__(
        self,
        engine: str = "quadrature",
        *,
        priors: Mapping[str, Any] | None = None,
        fit_intercept: bool = True,
        standardize: bool = False,
        tol: float | None = None,
        max_iter: int | None = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.engine = engine
        self.priors = priors
        self.fit_intercept = fit_intercept
        self.standardize = standardize
        self.tol = tol
        self.max_iter = max_iter
        self.n_jobs = n_jobs
        self.verbose = verbose

    def fit(self, X: Any, y: Any, covariates: Any = None, *, spectrum: Spectrum | None = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array-like (n, p)
            Features with random effects; numeric and finite.
        y : array-like (n,)
            Response.
        covariates : array-like (n, c) or DataFrame, optional
            Covariates, without the constant.
        spectrum : Spectrum, optional
            `Spectrum.of(X)` of an earlier fit: skips the expensive part for further responses, priors or engines.

        Returns
        -------
        BayesWideLMM
            Itself, fitted.

        Raises
        ------
        ValueError
            For an unknown option or prior, or data that are not numeric, finite and of equal length; `DataError` for
            covariates that depend on each other, `IntegrationError` where the posterior is improper.
        """
        start = time.perf_counter()
        bayes.check_options(self.get_params(deep=False))
        data = self._design(X, y, covariates)
        with reporter(self.verbose) as report:
            self.fit_: Fit = bayes.fit(
                data,
                engine=self.engine,
                priors=self.priors,
                tol=self.tol,
                max_iter=self.max_iter,
                n_jobs=self.n_jobs,
                spectrum=spectrum,
                report=report,
                prepare_seconds=time.perf_counter() - start,
            )
        return self

    def summary(self) -> str:
        """Return the fit as text: model, priors, posterior of variances and covariates' effects."""
        return self._result.summary()

    @property
    def theta_(self) -> pd.DataFrame:
        """Posterior of σ²_β, σ²_e and PVE: mean, sd, q05, q50, q95."""
        theta = self._result.theta
        assert theta is not None
        return theta.table.copy()

    @property
    def log_evidence_(self) -> float | None:
        """Log p(y); None by "mfvi", whose `elbo_` is below it."""
        return self._result.log_evidence

    def _uncertainty(
        self, X: Array, Z: Array, mean: Array, *, return_std: bool, interval: str | None, level: float
    ) -> list[Array]:
        posterior = self.fit_.posterior
        assert isinstance(posterior, Mixture)
        out = [np.sqrt(posterior.moments(X, Z)[1] + self.sigma2_e_)] if return_std else []
        if interval is None:
            return out
        return [*out, *posterior.interval(X, Z, level, observation=interval == "prediction")]
