"""A grouped model with a posterior for everything in it: what every Bayesian method returns."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd

from .. import threads
from ..copied import copied
from ..errors import ConvergenceWarning
from ..mixtures import Mixtures
from ..progress import stages
from ..result import Array, Status
from . import bayes_prediction, diagnostics, export, parameters, quadrature, reml, starts, variational
from .cross_products import CrossProducts
from .diagnostics import Diagnostics
from .draws import Draws
from .factors import MOST_CORRELATED
from .fit import GroupedFit
from .likelihood import Likelihood
from .marginals import Marginal
from .model_priors import ModelPriors, resolve
from .posterior import Posterior
from .starts import Start

QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95}
# Factorisations that a method can have, the default first.
FACTORISATIONS_OF = {"structured-vi": ("joint",), "mfvi": ("group", "factor", "coefficient")}
METHODS = ("quadrature", *FACTORISATIONS_OF)
CHAINS = 4  # of independent draws, where one is asked for them
SAID = {
    "joint": "q(β, b) q(σ) Π q(Σ_l)",
    "factor": "q(β) Π q(b of a grouping factor) q(σ) Π q(Σ_l)",
    "group": "q(β) Π q(b of a term) q(σ) Π q(Σ_l)",
    "coefficient": "q(β) Π q(single b) q(σ) Π q(Σ_l)",
}


class Lens(Protocol):
    """A posterior, or what stands for it, as every method gives it."""

    @property
    def marginals(self) -> Mapping[str, Marginal]:
        """Of every parameter but the random effects, by brms' name."""
        ...

    @property
    def random(self) -> Sequence[Mixtures]:
        """Of the random effects of every term, level by level."""
        ...

    @property
    def log_evidence(self) -> float | None:
        """Log p(y), where the method has it."""
        ...

    @property
    def elbo(self) -> float | None:
        """The evidence lower bound, where the method has one."""
        ...

    @property
    def trace(self) -> Array:
        """The ELBO after every iteration; empty where the method has none."""
        ...

    @property
    def starts(self) -> Sequence[Start]:
        """All that were tried, the best first; empty where there are none."""
        ...

    @property
    def n_iter(self) -> int:
        """Iterations, or evaluations of the density."""
        ...

    @property
    def status(self) -> Status:
        """How the method ended."""
        ...

    def draw(self, rng: np.random.Generator, size: int) -> Draws:
        """Draw everything."""
        ...


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class BayesFit(GroupedFit):
    """A grouped linear mixed model with priors: the posterior of its effects and variances.

    y = Xβ + Σ_l Z_l b_l + ε, b_l ~ N(0, Σ_l), ε ~ N(0, σ² W⁻¹), with priors on β, σ, and Σ_l.

    Attributes
    ----------
    formula : str
    method : {"quadrature", "structured-vi", "mfvi"}
    factorisation : {"joint", "factor", "group", "coefficient"} or None
        Of q; None where the posterior is exact.
    data : CrossProducts
    priors : ModelPriors
        As given, defaults for the rest; `str(fit.priors)` lists them.
    posterior : Quadrature or VariationalPosterior
        Marginals and draws.
    status, notes
        How the fit ended, and what else the user must know.
    timings : mapping of str to float
        Seconds by stage.
    """

    factorisation: str | None
    priors: ModelPriors
    posterior: Lens

    @classmethod
    def of(
        cls,
        data: CrossProducts,
        formula: str,
        method: str,
        priors: Mapping[str, Any] | None,
        *,
        factorisation: str | None = None,
        max_iter: int = variational.MAX_ITER,
        random_state: int | None = 0,
        notes: tuple[str, ...] = (),
        timings: Mapping[str, float],
        show: Callable[[str], None] = lambda text: None,
    ) -> "BayesFit":
        """Find the posterior of the model of these cross products.

        Raises
        ------
        ValueError
            If a prior is wrong, or one that the method cannot have, or the model has too many variance parameters.

        Warns
        -----
        ConvergenceWarning
            If the method stopped before its tolerance.
        """
        begin = time.perf_counter()
        conjugate = None if method == "quadrature" else MOST_CORRELATED + 1
        resolved = resolve(priors, data.design, data.fixed.kept, conjugate_from=conjugate)
        found: Lens
        if method == "quadrature":
            found = quadrature.fit(Posterior(data, resolved), report=show)
        else:
            factorisation = factorisation or FACTORISATIONS_OF[method][0]
            found = variational.fit(
                data,
                resolved,
                factorisation=factorisation,
                max_iter=max_iter,
                random_state=random_state,
                report=lambda i, elbo, change: show(f"{method}, iteration {i}, ELBO {elbo:.6f}"),
            )
            if not found.status.converged:
                warnings.warn(f"{method}: {found.status.advice}", ConvergenceWarning, stacklevel=3)
        if not resolved.proper:
            of_what = "evidence" if found.elbo is None else "ELBO"
            notes = (*notes, f"A prior is improper: the {of_what} is defined up to a factor only, and is not given.")
        return cls(
            formula=formula,
            method=method,
            factorisation=factorisation,
            data=data,
            priors=resolved,
            posterior=found,
            status=found.status,
            notes=notes,
            timings={**timings, method: time.perf_counter() - begin},
        )

    # Criteria.

    @property
    def reml(self) -> bool:
        """False: fixed effects have a posterior."""
        return False

    @property
    def log_evidence(self) -> float | None:
        """Log p(y); None under an improper prior, and by variational Bayes, whose ELBO is below it."""
        return self.posterior.log_evidence

    @property
    def elbo(self) -> float | None:
        """The evidence lower bound; None under an improper prior, and where the posterior is exact."""
        return self.posterior.elbo if self.priors.proper else None

    @property
    def criterion(self) -> float | None:
        """The log evidence, or the ELBO: the higher, the better the data are predicted by model and priors."""
        return self.log_evidence if self.posterior.elbo is None else self.elbo

    @cached_property
    def loglik(self) -> float:
        """Log-likelihood at the posterior means of σ, standard deviations and correlations, largest over β."""
        likelihood = Likelihood(self.data, reml=False)
        sigma = self.sigma / self.data.fixed.scale
        roots = [self.data.terms[k].M @ np.linalg.cholesky(self._covariances[k]) / self.sigma for k in likelihood.terms]
        at = likelihood(likelihood.pack([reml.canonical(root, 0.0)[0] for root in roots]))
        return float(-0.5 * likelihood.at_sigma2(at, sigma**2))

    @property
    def n_iter(self) -> int:
        """Turns of coordinate ascent, or evaluations of the density."""
        return self.posterior.n_iter

    @property
    def trace(self) -> pd.DataFrame:
        """`iteration` and `elbo`, which never falls; empty where there is none."""
        return pd.DataFrame({"iteration": np.arange(len(self.posterior.trace)), "elbo": self.posterior.trace})

    @copied
    def starts(self) -> pd.DataFrame:
        """Where every start of coordinate ascent led: `elbo`, `n_iter`, `status`; the one that was kept first."""
        return starts.table(self.posterior.starts)

    # Estimates.

    @copied
    def fixed_effects(self) -> pd.Series:
        """Posterior means of β, by R's names."""
        values = [self.posterior.marginals[name].mean for name in self.fixed_parameters]
        return pd.Series(values, index=list(self.fixed_names), name="mean", dtype=np.float64)

    @property
    def sigma(self) -> float:
        """Posterior mean of the residual standard deviation."""
        return self.posterior.marginals["sigma"].mean

    @property
    def point_estimates(self) -> pd.Series:
        """Posterior means of all parameters but the random effects, by brms' names."""
        return pd.concat([self._fixed["mean"], self.variances["mean"]])

    @copied
    def variances(self) -> pd.DataFrame:
        """Standard deviations and correlations of the random effects, and σ: mean, sd, q05, q50, q95."""
        return self._table(parameters.names(self.data.design.terms))

    @cached_property
    def _fixed(self) -> pd.DataFrame:
        return self._table(self.fixed_parameters)

    def _table(self, names: Sequence[str]) -> pd.DataFrame:
        found = [self.posterior.marginals[name] for name in names]
        rows = [[one.mean, one.sd, *one.quantile(list(QUANTILES.values()))] for one in found]
        return pd.DataFrame(rows, index=list(names), columns=["mean", "sd", *QUANTILES], dtype=np.float64)

    @copied
    def varcorr(self) -> dict[str, pd.DataFrame]:
        """Covariance matrices of the random effects made of posterior means of standard deviations and correlations."""
        found = {}
        for label, k in self.term_labels.items():
            names = list(self.data.design.terms[k].names)
            found[label] = pd.DataFrame(self._covariances[k], index=names, columns=names)
        return found

    @cached_property
    def _covariances(self) -> dict[int, Array]:
        values, at, found = self.variances["mean"].to_numpy(), 0, {}
        for k, term in enumerate(self.data.design.terms):
            d = len(term.names)
            sd, R = values[at : at + d], np.eye(d)
            at += d
            R[np.triu_indices(d, 1)] = R.T[np.triu_indices(d, 1)] = values[at : at + d * (d - 1) // 2]
            at += d * (d - 1) // 2
            found[k] = sd[:, None] * R * sd
        return found

    @copied
    def random_effects(self) -> dict[str, pd.DataFrame]:
        """Posterior means of the random effects of every grouping factor, levels by effects."""
        found = {}
        for name, ks in self._by_factor.items():
            term = self.data.design.terms[ks[0]]
            found[name] = pd.DataFrame(
                np.hstack([self.posterior.random[k].mean.reshape(len(term.factor.levels), -1) for k in ks]),
                index=pd.Index(term.factor.levels, name=name),
                columns=[effect for k in ks for effect in self.data.design.terms[k].names],
            )
        return found

    def to_frame(self) -> pd.DataFrame:
        """Every parameter's posterior mean, sd, and quantiles q05, q50, q95, by brms' names."""
        tables = [self._fixed, self.variances]
        for term, mixtures in zip(self.data.design.terms, self.posterior.random, strict=True):
            values: dict[str, Array] = {"mean": mixtures.mean, "sd": mixtures.sd}
            values |= {name: mixtures.quantile(q) for name, q in QUANTILES.items()}
            tables.append(pd.DataFrame(values, index=parameters.effect_names(term)))
        return pd.concat(tables).rename_axis("parameter")

    def draws(self, size: int = 1000, *, random_state: Any = None) -> pd.DataFrame:
        """Draw everything from the posterior, or from q.

        Parameters
        ----------
        size : int, default 1000
        random_state : int or Generator, optional

        Returns
        -------
        DataFrame (size, parameters)
            Columns are the rows of `to_frame`.
        """
        if size < 1:
            raise ValueError(f"size={size!r} is not a number of draws: give 1, 2, …")
        return self.posterior.draw(np.random.default_rng(random_state), size).to_frame(self.data.design.terms)

    def predict(
        self,
        data: Any = None,
        *,
        interval: str | None = None,
        level: float = 0.95,
        random_effects: bool = True,
        draws: int = 1000,
        random_state: Any = 0,
    ) -> "pd.Series | pd.DataFrame":
        """Predict the mean response of new rows.

        Parameters
        ----------
        data : DataFrame, optional
            With the columns of the formula but the response; default the data of the fit.
        interval : {"confidence", "prediction"}, optional
            Add `lower` and `upper`: of the mean response, or of a new observation; quantiles of draws, in which the
            variances are uncertain too. Of weight 1 for new rows.
        level : float, default 0.95
        random_effects : bool, default True
            False leaves them out.
        draws : int, default 1000
        random_state : int or Generator, default 0

        Returns
        -------
        Series, or DataFrame with columns `mean`, `lower`, `upper`
            By the index of `data`. Groups that the fit has not seen have effects drawn from their distribution, and a
            `FitWarning` counts them.

        Examples
        --------
        >>> import numpy as np, pandas as pd, fastlmm_vi as fl
        >>> rng = np.random.default_rng(0)
        >>> df = pd.DataFrame({"g": np.repeat(list("abcdefgh"), 5)})
        >>> df["y"] = np.repeat(rng.normal(size=8), 5) + rng.normal(size=40)
        >>> fit = fl.lmm("y ~ 1 + (1 | g)", df, method="quadrature")
        >>> fit.predict(df.head(1), interval="prediction").round(1)
           mean  lower  upper
        0  -0.7   -2.5    1.0
        """
        rng = np.random.default_rng(random_state)
        with threads.limit(1):
            return bayes_prediction.predict(
                self, data, interval=interval, level=level, random_effects=random_effects, size=draws, rng=rng
            )

    def to_inference_data(self, draws: int = 1000, *, random_state: Any = 0) -> Any:
        """Return draws as ArviZ's container, for its plots, summaries and files.

        Parameters
        ----------
        draws : int, default 1000
            All told, independent of each other, in four chains.
        random_state : int or Generator, default 0

        Returns
        -------
        arviz.InferenceData, or of ArviZ 1 xarray.DataTree
            Groups `posterior` (brms' names; `r_g` has the dimensions `g` and `g_effect`), `posterior_predictive`,
            `log_likelihood`, `observed_data`, and the ELBO by iteration in `constant_data`.

        Raises
        ------
        ImportError
            If ArviZ is not installed.
        """
        if draws < CHAINS or draws % CHAINS:
            raise ValueError(f"draws={draws!r} is not a multiple of {CHAINS}, the number of chains.")
        rng = np.random.default_rng(random_state)
        return export.of(self, self.posterior.draw(rng, draws), CHAINS, rng)

    def diagnostics(
        self, reference: "BayesFit | None" = None, *, draws: int = 1000, random_state: Any = 0, verbose: int = 0
    ) -> Diagnostics:
        """Say what this posterior can be relied on for: what q has lost, and how well the model predicts.

        Parameters
        ----------
        reference : BayesFit, optional
            The exact posterior of the same model; by default quadrature is done for it where there are up to four variance
            parameters.
        draws : int, default 1000
        random_state : int or Generator, default 0
        verbose : int, default 0
            1 shows progress.

        Returns
        -------
        Diagnostics
            ELBO and log evidence, Pareto k̂, standard deviations by linear response, accuracy against the exact posterior,
            and leave-one-out and WAIC of the model; printed, a table of them.

        Examples
        --------
        >>> import numpy as np, pandas as pd, fastlmm_vi as fl
        >>> rng = np.random.default_rng(0)
        >>> df = pd.DataFrame({"g": np.repeat(list("abcdefgh"), 5)})
        >>> df["y"] = np.repeat(rng.normal(size=8), 5) + rng.normal(size=40)
        >>> found = fl.lmm("y ~ 1 + (1 | g)", df, method="mfvi").diagnostics()
        >>> found.linear_response.loc["b_Intercept"].round(2).to_dict()
        {'sd': 0.13, 'sd_lr': 0.39}
        """
        if reference is not None:
            _check_reference(self, reference)
        if draws < 100:
            raise ValueError(f"draws={draws!r} are too few to say anything of tails: give 100 or more.")
        with stages(verbose > 0) as show:
            return diagnostics.of(self, reference, draws, np.random.default_rng(random_state), show)

    def summary(self) -> str:
        """Return the posterior as text."""
        groups = "; ".join(f"{name}, {size}" for name, size in self.groups.items())
        lines = [f"Linear mixed model, {self._headline}", f"Formula: {self.formula}", ""]
        lines += [self._criterion_line, f"Number of obs: {self.n}, groups:  {groups}", ""]
        body = self._estimates.rename_axis(None)
        lines += [body.to_string(float_format=lambda value: f"{value:.4g}"), "", "Priors:"]
        lines += [f"  {line}" for line in self.priors.lines()]
        steps = "evaluations" if self.factorisation is None else "iterations"
        lines += ["", f"{self._ending} ({self.n_iter} {steps}, {self.seconds:.3g} s)"]
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes)])

    @property
    def _headline(self) -> str:
        """What kind of posterior it is."""
        exact = self.factorisation is None
        return f"exact posterior by {self.method}" if exact else f"variational Bayes, {SAID[self.factorisation or '']}"

    @property
    def _criterion_line(self) -> str:
        exact = self.factorisation is None
        name, value = ("log evidence", self.log_evidence) if exact else ("ELBO", self.elbo)
        return f"{name}: {'none (an improper prior)' if value is None else f'{value:.4f}'}"

    @property
    def _estimates(self) -> pd.DataFrame:
        """All parameters but the random effects."""
        return pd.concat([self._fixed, self.variances])

    @property
    def _ending(self) -> str:
        if not self.converged:
            return self.status.advice
        if self.factorisation is None:
            return "Converged: no refinement of the grid changes the evidence or a moment."
        return "Converged: no update of a factor of q moves what the others know of it."

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.method}: {self.formula}, {self.status.value}>"


def _check_reference(fit: BayesFit, reference: object) -> None:
    """Refuse what is not the exact posterior of the same model."""
    if not isinstance(reference, BayesFit) or reference.factorisation is not None:
        raise ValueError(
            f"reference={reference!r} is no exact posterior: give a fit by method='quadrature', 'nuts' or 'laplace-is'."
        )
    same = reference.formula == fit.formula and reference.priors.lines() == fit.priors.lines()
    if not same or not np.array_equal(reference.data.design.y, fit.data.design.y):
        raise ValueError(
            f"reference={reference!r} is of another model: give one of the same formula, data and priors, {fit.formula!r}."
        )
