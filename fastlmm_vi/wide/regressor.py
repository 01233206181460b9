"""What the scikit-learn estimators of the wide model share: data in, predictions, and the result under its names."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import threads
from ..errors import DataError
from ..result import Array, Fit, Status
from . import design


class WideRegressor(RegressorMixin, BaseEstimator):
    """Base of `WideLMM` and `BayesWideLMM`: a fitted one holds its result in `fit_`."""

    fit_: Fit
    fit_intercept: bool
    standardize: bool

    def _design(self, X: Any, y: Any, covariates: Any, *, precision: str = "float64") -> design.Design:
        """Check the data once and return them as a design; sets `n_features_in_` and `feature_names_in_`."""
        _check_rows(X, covariates)
        # float32 is cast behind the door
        dtypes: Any = [np.float64, np.float32] if precision == "float32" else np.float64
        # That X is finite shows in the Gram matrix or the column norms, without another read of it.
        checked = {"ensure_min_samples": 2, "ensure_all_finite": bool(self.standardize)}
        Xa, ya = validate_data(self, X, y, dtype=dtypes, y_numeric=True, **checked)
        names: Sequence[str] | None = getattr(self, "feature_names_in_", None)
        with threads.limit(1):
            return design.build(
                Xa,
                np.asarray(ya, dtype=np.float64),
                covariates,
                fit_intercept=self.fit_intercept,
                standardize=self.standardize,
                precision=precision,
                feature_names=names,
            )

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
            Also return the standard deviation of a new observation. `WideLMM`: posterior variance of xᵀβ plus σ²_e, with ω
            and the variances held at their estimates. `BayesWideLMM`: that of the posterior predictive distribution.
        interval : {None, "mean", "prediction"}
            Also return a central interval: for the expected response ("mean") or a new observation ("prediction"). It
            carries the uncertainty of ω too (`WideLMM`: the prediction error variance of the mixed model equations, at the
            estimated variances), and in `BayesWideLMM` that of the variances.
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
        return mean, *self._uncertainty(Xa, Z, mean, return_std=return_std, interval=interval, level=level)

    def _uncertainty(
        self, X: Array, Z: Array, mean: Array, *, return_std: bool, interval: str | None, level: float
    ) -> list[Array]:
        """What `predict` returns beside the mean: [std], [lower, upper] or all three."""
        raise NotImplementedError

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
