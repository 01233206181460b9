"""What a fit of the grouped model returns: frozen, computed in full only where it is asked for."""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import NDArray

from .. import threads
from ..copied import copied
from ..errors import ConvergenceWarning, DataError, FitWarning
from ..progress import stages
from ..result import Array, Status
from . import deletions, files, hypotheses, parameters, prediction, profiling, reml, resampling, summary
from .cross_products import CrossProducts
from .likelihood import Likelihood
from .point_fit import PointFit
from .uncertainty import Uncertainty

METHODS = ("reml", "ml")
# Residual sd, relative to that of least squares, which rounding in differences of squares does not show any more.
EXACT = 1e-4


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class MixedFit(PointFit):
    """A grouped linear mixed model fitted by maximum likelihood or REML.

    y = Xβ + Σ_l Z_l b_l + ε, b_l ~ N(0, σ² Λ_l Λ_lᵀ) independently for every level, ε ~ N(0, σ² W⁻¹).

    Attributes
    ----------
    formula : str
    method : {"reml", "ml"}
    data : CrossProducts
        What the fit stands on; `data.design` holds y, X and the random-effects terms.
    standard_theta : ndarray
        θ̂ in the standard coordinates of `data`.
    deviance : float
        −2 × the criterion.
    status, notes
        How the fit ended, and what else the user must know.
    n_iter, n_evaluations : int
    undetermined : tuple of str
        Fixed effects whose variance depends on variance parameters that the data do not determine: they have no se.
    path : tuple of (ndarray, float)
        Accepted θ (standard coordinates) and the deviance there.
    timings : mapping of str to float
        Seconds by stage.
    """

    deviance: float
    n_iter: int
    n_evaluations: int
    path: tuple[tuple[Array, float], ...]
    undetermined: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        data: CrossProducts,
        formula: str,
        method: str,
        *,
        max_iter: int = reml.MAX_ITER,
        notes: tuple[str, ...] = (),
        timings: "Mapping[str, float] | None" = None,
        show: "Callable[[str], None]" = lambda text: None,
    ) -> "MixedFit":
        """Fit the model of these cross products.

        Raises
        ------
        DataError
            If no residual is left.

        Warns
        -----
        ConvergenceWarning
            If the optimum was not reached.
        """
        begin = time.perf_counter()
        likelihood = Likelihood(data, method == "reml")
        optimum = reml.fit(
            likelihood, max_iter, lambda i, gain: show(f"{method}, iteration {i}, deviance to fall by {gain:.1g}")
        )
        found, constant = optimum.minimum, likelihood.constant
        if data.one_way is None and found.value.squares < EXACT**2 * likelihood.degrees:
            raise DataError(
                f"Random effects are more than ten thousand times the residual of {data.design.response}: with several "
                "factors the digits of float64 do not tell variances then (with one they do). Take the largest into the "
                "fixed part, as factor(g), or look whether the response was computed from the groups."
            )
        fit = cls(
            formula=formula,
            method=method,
            data=data,
            standard_theta=optimum.theta,
            deviance=optimum.deviance + constant,
            status=optimum.status,
            notes=notes,
            n_iter=len(found.path) - 1,
            n_evaluations=found.evaluations,
            path=tuple((x, value + constant) for x, value in found.path),
            timings={**(timings or {}), method: time.perf_counter() - begin},
        )
        if optimum.doubtful:
            said, effects = fit._undetermined()
            fit = replace(fit, notes=(*notes, *said), undetermined=effects)
            if effects:
                warnings.warn(said[0], FitWarning, stacklevel=3)
        if not fit.converged:
            steps = found.iterations
            cure = "Raise max_iter" if steps >= max_iter else "The data may not tell its random effects apart"
            left = (
                f"promises to lower the deviance by {found.decrease:.2g}" if found.decrease < np.inf else "has no end"
            )
            warnings.warn(
                f"{method} did not reach its optimum: after {steps} steps of the search another one {left}. {cure}. The "
                "fit's trace shows the way.",
                ConvergenceWarning,
                stacklevel=3,
            )
        return fit

    def _undetermined(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What to say of parameters that the data do not determine, and fixed effects whose variance depends on these."""
        owner = np.repeat(self.likelihood.terms, [len(places) for places in self.likelihood.triangles])
        names = {self.data.design.terms[k].factor.name: None for k in owner[self.uncertainty.flat]}
        if not names:
            return (), ()
        text = (
            f"The criterion does not depend on some variances or correlations of {', '.join(names)}: the data do not "
            "determine them, others would fit as well. They have no standard errors."
        )
        lost = np.isnan(self.uncertainty.of(lambda solution: np.diag(solution.beta_cov)))
        effects = tuple(name for name, gone in zip(self.fixed_names, lost, strict=True) if gone)
        if effects:
            text += f" Nor have {', '.join(effects)}, whose variance depends on them."
        return (text,), effects

    # What was fitted.

    @property
    def singular(self) -> bool:
        """True where a covariance of random effects has lost rank: a variance is 0, or a correlation ±1."""
        return self.status is Status.SINGULAR

    @property
    def trace(self) -> pd.DataFrame:
        """Accepted iterates: iteration, criterion (it never falls), and θ in standard coordinates."""
        theta = np.array([x for x, _ in self.path]).reshape(len(self.path), -1)
        columns = {f"theta{j}": column for j, column in enumerate(theta.T)}
        return pd.DataFrame(
            {"iteration": np.arange(len(self.path)), "criterion": [-0.5 * value for _, value in self.path], **columns}
        )

    @cached_property
    def uncertainty(self) -> Uncertainty:
        """The deviance's curvature at θ̂."""
        return Uncertainty(self.likelihood, self.standard_theta)

    # Criteria.

    @property
    def criterion(self) -> float:
        """What was maximised: the log-likelihood, or the restricted one as lme4 defines it (without + ½ log|XᵀX|)."""
        return -0.5 * self.deviance

    @cached_property
    def loglik(self) -> float:
        """Log-likelihood at the estimates, whatever was maximised."""
        if not self.reml:
            return self.criterion
        ml = Likelihood(self.data, False)
        return -0.5 * ml.at_sigma2(ml(self.standard_theta), (self.sigma / self.data.fixed.scale) ** 2)

    @property
    def elbo(self) -> None:
        """None: there is no q."""
        return

    @property
    def log_evidence(self) -> None:
        """None: there is no prior."""
        return

    @property
    def aic(self) -> float:
        """−2 × criterion + 2 × parameters, as lme4's AIC."""
        return self.deviance + 2.0 * self.n_parameters

    @property
    def bic(self) -> float:
        """−2 × criterion + log N × parameters, as lme4's BIC."""
        return self.deviance + float(np.log(self.n)) * self.n_parameters

    # Effects.

    @copied
    def se(self) -> pd.Series:
        """Standard errors of β̂ at the estimated variances; NaN where these are not determined (`undetermined`)."""
        found = pd.Series(np.sqrt(np.diag(self.solution.beta_cov)), index=list(self.fixed_names), name="se")
        return found.mask(found.index.isin(self.undetermined))

    @copied
    def vcov(self) -> pd.DataFrame:
        """Covariance of β̂."""
        names = list(self.fixed_names)
        return pd.DataFrame(self.solution.beta_cov, index=names, columns=names)

    @copied
    def coefficients(self) -> pd.DataFrame:
        """Fixed effects with se, Satterthwaite's degrees of freedom, t and p."""
        return hypotheses.one_by_one(self, pd.DataFrame(np.eye(len(self.fixed_names)), index=list(self.fixed_names)))

    def test(self, contrasts: Any, *, joint: bool = True) -> pd.DataFrame:
        """Wald tests that linear combinations of the fixed effects are 0, Lβ = 0, as lmerTest's `contest`.

        Parameters
        ----------
        contrasts : str, list of str, array (q, p) or DataFrame
            A coefficient by R's name, several of them, or L: a row per hypothesis, a column per coefficient. A DataFrame has
            the names of coefficients as columns (those that it lacks are 0) and of hypotheses as its index.
        joint : bool, default True
            All of them at once, by F; False tests one after the other, by t.

        Returns
        -------
        DataFrame
            One hypothesis, or `joint=False`: a row each with `estimate`, `se`, `df`, `t` and `p`, Satterthwaite's degrees
            of freedom. Several at once: one row with `F`, `df1` (their rank), `df2` and `p`; df2 is made of those of
            uncorrelated combinations (Fai and Cornelius, Journal of Statistical Computation and Simulation 54, 1996) of
            the hypotheses in units of their standard errors. lmerTest takes them in units of the data, and its df2
            changes with these.

        Raises
        ------
        ValueError
            If a name is no coefficient, or L has another shape.

        Examples
        --------
        >>> import numpy as np, pandas as pd, fastlmm_vi as fl
        >>> rng = np.random.default_rng(0)
        >>> df = pd.DataFrame({"g": np.repeat(list("abcdefgh"), 9), "dose": np.tile(list("uvw"), 24)})
        >>> df["y"] = np.tile([0.0, 1.0, 3.0], 24) + np.repeat(rng.normal(size=8), 9) + rng.normal(size=72)
        >>> fit = fl.lmm("y ~ dose + (1 | g)", df)
        >>> fit.test(["dosev", "dosew"]).round(2).to_dict("records")
        [{'F': 58.33, 'df1': 2, 'df2': 62.0, 'p': 0.0}]
        >>> fit.test(pd.DataFrame({"dosev": [-1.0], "dosew": [1.0]}, index=["w - v"])).round(2)
               estimate    se    df     t    p
        w - v      2.18  0.26  62.0  8.22  0.0
        """
        return hypotheses.test(self, contrasts, joint=joint)

    def conf_int(
        self,
        level: float = 0.95,
        *,
        method: str = "wald",
        parameters: "str | list[str] | None" = None,
        draws: int = 500,
        random_state: Any = None,
        verbose: int = 0,
    ) -> pd.DataFrame:
        """Confidence intervals.

        Parameters
        ----------
        level : float, default 0.95
        method : {"wald", "profile", "bootstrap"}, default "wald"
            "wald": of the fixed effects, by t with Satterthwaite's degrees of freedom. "profile": of all parameters, by
            brms' names, where the profiled likelihood-ratio statistic reaches the quantile (as lme4's `confint`; maximum
            likelihood is fitted for it). It takes some hundred fits. "bootstrap": of all parameters, quantiles of the
            estimates from simulated responses (`bootstrap`), one fit a draw.
        parameters : str or list of str, optional
            Those wanted, by the names of the table; default all.
        draws, random_state
            Of the bootstrap.
        verbose : int, default 0
            1 shows the progress of profiles and of the bootstrap.

        Returns
        -------
        DataFrame with columns `lower`, `upper`

        Warns
        -----
        FitWarning
            If bootstrap fits stopped early, or have no correlation, as a variance is 0: the quantiles are of the others.
        """
        level = prediction.checked_level(level)
        if method == "wald":
            names = _chosen(parameters, list(self.fixed_names))
            table = self.coefficients.loc[names]
            half = scipy.stats.t.isf(0.5 * (1.0 - level), table["df"]) * table["se"]
            return pd.DataFrame({"lower": table["estimate"] - half, "upper": table["estimate"] + half})
        names = _chosen(parameters, [*self.variances.index, *self.fixed_parameters])
        if method == "profile":
            with threads.limit(1), stages(verbose > 0) as show:  # many small fits
                return profiling.intervals(self, level, names, show)
        if method == "bootstrap":
            table = self.bootstrap(draws, random_state=random_state, verbose=verbose)[names]
            return resampling.intervals(table, level)
        raise ValueError(f"method={method!r} is not known: choose 'wald', 'profile' or 'bootstrap'.")

    def profile(self, parameters: "str | list[str] | None" = None, *, verbose: int = 0) -> pd.DataFrame:
        """Return ζ, the signed root of the likelihood-ratio statistic, on a grid of values of every parameter.

        Parameters
        ----------
        parameters : str or list of str, optional
            By brms' names, those of `to_frame` (`sd_g__x`, `b_x`, `sigma`); default all but the random effects.
        verbose : int, default 0
            1 shows progress: of large data each parameter takes minutes.

        Returns
        -------
        DataFrame with columns `parameter`, `value`, `zeta`
        """
        names = _chosen(parameters, [*self.variances.index, *self.fixed_parameters])
        with threads.limit(1), stages(verbose > 0) as show:  # many small fits
            return profiling.tables(self, names, show)

    def test_random_effects(self) -> pd.DataFrame:
        """Test every random term by leaving it out, as lmerTest's `ranova`.

        An intercept alone, (1 | g), goes as a whole, the only term of a model too: what is left is least squares. Of other
        terms one effect goes at a time, `x` of (x | g), where what is left lies within the term; else the term as a whole.
        By the criterion of the fit, ML or REML.

        Returns
        -------
        DataFrame
            A row per deletion after that of the model itself, "<none>": `npar`, `aic`, `bic`, `loglik`, `chisq`, `df`,
            `reference` and `p`, as `lrt` has them. As the variance that is left out lies on the boundary, p is that of a
            mixture of χ² distributions; `ranova` takes χ² with all `df`, whose p is too large, for a single variance
            by a factor of 2. `ranova` also puts (1 | g) in place of (0 + x | g), a model that is not nested; here
            the term is left out.

        Warns
        -----
        ConvergenceWarning
            If a fit without a term stopped before its optimum.

        Examples
        --------
        >>> import numpy as np, pandas as pd, fastlmm_vi as fl
        >>> rng = np.random.default_rng(0)
        >>> df = pd.DataFrame({"g": np.repeat(list("abcdefgh"), 10), "x": np.tile(np.arange(10.0), 8)})
        >>> df["y"] = 0.5 * df["x"] + np.repeat(rng.normal(size=8), 10) + rng.normal(size=80)
        >>> fl.lmm("y ~ x + (x | g)", df).test_random_effects()["reference"].to_dict()
        {'<none>': '', 'x in (x | g)': '½ χ²(1) + ½ χ²(2)'}
        """
        with threads.limit(1):  # many small fits
            return deletions.table(self)

    @copied
    def random_effects_var(self) -> dict[str, Array]:
        """Var(b | y, θ̂, β̂) of every term, (levels, d, d): lme4's conditional variances."""
        return {label: self.solution.effect_cov[k] for label, k in self.term_labels.items()}

    def to_frame(self) -> pd.DataFrame:
        """Every estimate with its standard error, by brms' names.

        `b_x` fixed effects, `sd_g__x` and `cor_g__x__z` of random effects, `sigma`, and `r_g[level,x]` the random effects
        themselves, whose `se` is √Var(b | y). A standard deviation on the boundary has no standard error (NaN).
        """
        fixed = {"estimate": self.fixed_effects.to_numpy(), "se": self.se.to_numpy()}
        tables = [pd.DataFrame(fixed, index=self.fixed_parameters)]
        tables.append(self.variances)
        for k, term in enumerate(self.data.design.terms):
            sd = np.sqrt(np.einsum("vii->vi", self.solution.effect_cov[k]))
            index = parameters.effect_names(term)
            tables.append(pd.DataFrame({"estimate": self.solution.effects[k].ravel(), "se": sd.ravel()}, index=index))
        return pd.concat(tables).rename_axis("parameter")

    @copied
    def variances(self) -> pd.DataFrame:
        """Standard deviations and correlations of the random effects, and σ, with standard errors by the delta method."""
        with np.errstate(invalid="ignore"):
            se = np.where(self._interior(), self.uncertainty.of(parameters.values), np.nan)
        return pd.DataFrame(
            {"estimate": parameters.values(self.solution), "se": se}, index=parameters.names(self.data.design.terms)
        )

    def _interior(self) -> NDArray[np.bool_]:
        """Of those, the ones whose term has a covariance of full rank."""
        triangles = dict(zip(self.likelihood.terms, self.likelihood.unpack(self.standard_theta), strict=True))
        full = [[bool((np.diag(L) > 0.0).all())] * (len(L) * (len(L) + 1) // 2) for _, L in sorted(triangles.items())]
        return np.array([*(value for values in full for value in values), True])

    # The data again.

    def predict(
        self,
        data: Any = None,
        *,
        interval: str | None = None,
        level: float = 0.95,
        random_effects: bool = True,
    ) -> "pd.Series | pd.DataFrame":
        """Predict the mean response of new rows.

        Parameters
        ----------
        data : DataFrame, optional
            With the columns of the formula but the response; default the data of the fit.
        interval : {"confidence", "prediction"}, optional
            Add `lower` and `upper`: of the mean (β̂ and b̂ are uncertain), or of a new observation (with σ² on top, that of
            weight 1 for new rows). By t with Satterthwaite's degrees of freedom of each row's variance, as of variances of
            which few groups tell. What a singular fit estimates as 0 counts as 0: for a group that may differ, its
            interval of the mean is then too short.
        level : float, default 0.95
        random_effects : bool, default True
            False leaves them out, as for the mean over all groups (lme4's `re.form = NA`).

        Returns
        -------
        Series, or DataFrame with columns `mean`, `lower`, `upper`
            By the index of `data`. Levels of a grouping factor that the fit has not seen have random effects of mean 0 and
            of the estimated covariance, and a `FitWarning` counts them.
        """
        with threads.limit(1):  # many small products
            return prediction.predict(self, data, interval=interval, level=level, random_effects=random_effects)

    def simulate(self, draws: int = 1, *, random_effects: str = "new", random_state: Any = None) -> pd.DataFrame:
        """Draw responses from the fitted model.

        Parameters
        ----------
        draws : int, default 1
        random_effects : {"new", "estimated"}, default "new"
            Draw them anew for every response, or keep those that were predicted.
        random_state : int or Generator, optional

        Returns
        -------
        DataFrame (N, draws)
        """
        return resampling.simulate(self, draws, random_state=random_state, random_effects=random_effects)

    def bootstrap(self, draws: int = 200, *, random_state: Any = None, verbose: int = 0) -> pd.DataFrame:
        """Fit the same model to responses drawn from it: the parametric bootstrap.

        Parameters
        ----------
        draws : int, default 200
        random_state : int or Generator, optional
        verbose : int, default 0
            1 shows progress.

        Returns
        -------
        DataFrame (draws, parameters)
            Estimates by brms' names, and the criterion; quantiles of a column are a percentile interval.
        """
        if draws < 1:
            raise ValueError(f"draws={draws!r} is not a number of draws: give 1, 2, …")
        with threads.limit(1), stages(verbose > 0) as report:
            return resampling.bootstrap(self, draws, random_state=random_state, report=report)

    def refit(self, method: str | None = None, *, y: Any = None) -> "MixedFit":
        """Fit the same model by the other method, or to another response, as lme4's `refitML` and `refit`.

        Parameters
        ----------
        method : {"ml", "reml"}, optional
            Default that of this fit.
        y : Series or array (N,), optional
            What then stands left of ~, a logarithm already taken: a Series by the index of the data, or a value for each
            row of the fit (those with missing values left out). Default the response of this fit.

        Raises
        ------
        ValueError
            If neither is given, or `method` is not known.
        DataError
            If `y` does not match the rows, or is not finite.

        Examples
        --------
        >>> import numpy as np, pandas as pd, fastlmm_vi as fl
        >>> df = pd.DataFrame({"g": np.repeat(list("abcdef"), 5), "y": np.random.default_rng(0).normal(size=30)})
        >>> fit = fl.lmm("y ~ 1 + (1 | g)", df)
        >>> fit.refit("ml").method, fit.refit(y=2 * df["y"]).sigma / fit.sigma
        ('ml', 2.0)
        """
        if method is None and y is None:
            raise ValueError("refit() has nothing to change: give method='ml' or 'reml', or y=, another response.")
        method = self.method if method is None else method
        if method not in METHODS:
            raise ValueError(f"method={method!r} is not known: choose one of {', '.join(map(repr, METHODS))}.")
        design = self.data.design
        with threads.limit(1):
            data = (
                self.data if y is None else CrossProducts.of(replace(design, y=resampling.checked_response(design, y)))
            )
            own, _ = self._undetermined()  # notes of this optimum, not of the data
            return MixedFit.of(data, self.formula, method, notes=tuple(n for n in self.notes if n not in own))

    def save(self, path: str | Path) -> Path:
        """Write the fit to `path` as a numpy archive without pickle; `fastlmm_vi.load` reads it back.

        The file holds the columns of the data that the formula uses, so that a fit read back does all that this one does.

        Raises
        ------
        DataError
            If a column, or the index, holds objects other than text.
        """
        return files.save(self, path)

    @classmethod
    def read(cls, path: str | Path) -> "MixedFit":
        """Read a file that `save` wrote; see `fastlmm_vi.load`."""
        return cls(**files.load(path))

    def summary(self) -> str:
        """Return the fit as text, laid out as lme4's summary."""
        return summary.text(self)

    def __repr__(self) -> str:
        return f"<MixedFit {self.method}: {self.formula}, criterion={self.criterion:.6f}, {self.status.value}>"


def _chosen(given: "str | list[str] | None", known: list[str]) -> list[str]:
    """The parameters asked for, all of them by default."""
    names = known if given is None else [given] if isinstance(given, str) else list(given)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"parameters {unknown} are not of this table: choose from {known}.")
    return names
