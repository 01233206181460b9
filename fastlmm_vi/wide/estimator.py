"""The scikit-learn estimator of the wide model: stores its options, checks nothing itself, holds no arithmetic."""

import time
from typing import Any, Self

import numpy as np
import pandas as pd
import scipy.stats
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import threads
from ..errors import DataError
from ..progress import reporter
from ..result import Array, Fit, Status
from . import design, fit
from .spectrum import Spectrum


class WideLMM(RegressorMixin, BaseEstimator):
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
        _check_rows(X, covariates)
        dtype = (
            [np.float64, np.float32] if self.precision == "float32" else np.float64
        )  # float32 is cast behind the door
        # That X is finite shows in the Gram matrix or the column norms, without another read of it.
        checked = {"ensure_min_samples": 2, "ensure_all_finite": bool(self.standardize)}
        Xa, ya = validate_data(self, X, y, dtype=dtype, y_numeric=True, **checked)
        with threads.limit(1):
            data = design.build(
                Xa,
                np.asarray(ya, dtype=np.float64),
                covariates,
                fit_intercept=self.fit_intercept,
                standardize=self.standardize,
                precision=self.precision,
                feature_names=getattr(self, "feature_names_in_", None),
            )
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

    def predict(
        self,
        X: Any,
        covariates: Any = None,
        return_std: bool = False,
        interval: str | None = None,
        level: float = 0.95,
    ) -> Any:
        """Predict the response, with its uncertainty where asked.

        Parameters
        ----------
        X : array-like (k, p)
        covariates : array-like (k, c), optional
            Needed exactly if the fit had covariates.
        return_std : bool, default False
            Also return the standard deviation of a new observation: posterior variance of xᵀβ plus σ²_e, with ω and
            the variances held at their estimates.
        interval : {None, "mean", "prediction"}
            Also return a central interval: for the expected response ("mean") or a new observation ("prediction"). It
            carries the uncertainty of ω too (the prediction error variance of the mixed model equations), at the
            estimated variances.
        level : float, default 0.95
            Of the interval.

        Returns
        -------
        mean : ndarray (k,)
            Or `(mean, std)`, or `(mean, lower, upper)`, or `(mean, std, lower, upper)`.
        """
        check_is_fitted(self)
        if interval not in (None, "mean", "prediction"):
            raise ValueError(f"interval={interval!r} is not known: choose None, 'mean' or 'prediction'.")
        if not isinstance(level, float) or not 0.0 < level < 1.0:
            raise ValueError(f"level={level!r} must lie between 0 and 1.")
        _check_rows(X, covariates)
        Xa = validate_data(self, X, dtype=np.float64, reset=False)
        Z = self._covariates(covariates, len(Xa))
        mean = Xa @ self.coef_ + self.intercept_ + Z @ self.omega_
        if not return_std and interval is None:
            return mean
        posterior = self.fit_.posterior
        variance = posterior.predictive(Xa)
        out = [mean, np.sqrt(variance + self.sigma2_e_)] if return_std else [mean]
        if interval is not None:
            if posterior.link is None:
                raise ValueError("interval needs the spectrum of X, which was too large here: use return_std=True.")
            variance = variance + posterior.link.variance(Xa, Z, self.fit_.omega_cov)
            if interval == "prediction":
                variance = variance + self.sigma2_e_
            half = scipy.stats.norm.ppf(0.5 + level / 2) * np.sqrt(variance)
            out += [mean - half, mean + half]
        return tuple(out)

    def score(self, X: Any, y: Any, covariates: Any = None, sample_weight: Any = None) -> float:
        """Return R² of `predict(X, covariates)`.

        Parameters
        ----------
        X, covariates
            As for `predict`.
        y : array-like (k,)
        sample_weight : array-like (k,), optional
        """
        return float(r2_score(y, self.predict(X, covariates), sample_weight=sample_weight))

    def _covariates(self, covariates: Any, k: int) -> Array:
        wanted = self.fit_.covariate_names
        if covariates is None and wanted:
            raise DataError(f"covariates is missing: the model was fitted with {', '.join(wanted)}.")
        Z, names = design.check_covariates(covariates, k)
        if len(names) != len(wanted):
            raise DataError(f"covariates has {len(names)} columns, the fit had {len(wanted)}: give the same ones.")
        if isinstance(covariates, pd.DataFrame) and tuple(names) != wanted:
            raise DataError(
                f"covariates has the columns {', '.join(names)}, the fit had {', '.join(wanted)}: give the same ones, in "
                "the same order."
            )
        return Z

    @property
    def coef_(self) -> Array:
        """Posterior mean of β, (p,)."""
        return self._result.beta_mean

    @property
    def beta_var_(self) -> Array:
        """Posterior variance of every β_j, (p,)."""
        return self._result.beta_var

    @property
    def omega_(self) -> Array:
        """Effects of the covariates, without the intercept."""
        return self._result.omega

    @property
    def omega_se_(self) -> Array:
        """Standard errors of `omega_`."""
        return self._result.omega_se

    @property
    def intercept_(self) -> float:
        """Intercept, 0.0 where the model has none."""
        return 0.0 if self._result.intercept is None else self._result.intercept

    @property
    def sigma2_beta_(self) -> float:
        """Variance of the random effects σ²_β."""
        return self._result.sigma2_beta

    @property
    def sigma2_beta_se_(self) -> float:
        """Standard error of σ²_β."""
        return self._result.sigma2_beta_se

    @property
    def sigma2_e_(self) -> float:
        """Residual variance σ²_e."""
        return self._result.sigma2_e

    @property
    def sigma2_e_se_(self) -> float:
        """Standard error of σ²_e."""
        return self._result.sigma2_e_se

    @property
    def pve_(self) -> float:
        """Proportion of variance explained by the features."""
        return self._result.pve

    @property
    def pve_se_(self) -> float:
        """Standard error of `pve_`."""
        return self._result.pve_se

    @property
    def loglik_(self) -> float:
        """Marginal log-likelihood at the estimates."""
        return self._result.loglik

    @property
    def criterion_(self) -> float:
        """What was maximised: log-likelihood, restricted log-likelihood (lme4's convention) or ELBO."""
        return self._result.criterion

    @property
    def elbo_(self) -> float | None:
        """ELBO at the estimates; None where there is no q."""
        return self._result.elbo

    @property
    def trace_(self) -> pd.DataFrame:
        """Accepted iterates as a tidy table."""
        return self._result.trace.to_frame()

    @property
    def n_iter_(self) -> int:
        """Number of iterations."""
        return self._result.n_iter

    @property
    def converged_(self) -> bool:
        """True at an optimum."""
        return self._result.converged

    @property
    def status_(self) -> Status:
        """How the fit ended."""
        return self._result.status

    @property
    def _result(self) -> Fit:
        check_is_fitted(self)
        return self.fit_

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "fit_")


def _check_rows(X: Any, covariates: Any) -> None:
    """Two pandas tables must mean the same rows in the same order."""
    if not isinstance(X, pd.DataFrame) or not isinstance(covariates, pd.DataFrame | pd.Series):
        return
    if len(X) == len(covariates) and not X.index.equals(covariates.index):
        raise DataError(
            "X and covariates are pandas tables with different indices: align them first, e.g. covariates.loc[X.index]."
        )
