"""What every fit returns, whatever the method: a status that advises, a trace, and the frozen result."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import PchipInterpolator

from . import summary

Array = NDArray[np.float64]


class Status(Enum):
    """How a fit ended. `value` is a short name, `advice` says what it means and what to try."""

    CONVERGED = "converged"
    ZERO_SIGMA2_BETA = "zero_sigma2_beta"
    ZERO_SIGMA2_E = "zero_sigma2_e"
    UNBOUNDED = "unbounded"
    SHRUNK = "shrunk"
    SHRUNK_TO_ZERO = "shrunk_to_zero"
    SINGULAR = "singular"
    ELBO_FELL = "elbo_fell"
    NOT_CONVERGED = "not_converged"
    HEAVY_WEIGHTS = "heavy_weights"
    DIVERGENT = "divergent"
    NOT_MIXED = "not_mixed"
    FEW_DRAWS = "few_draws"
    INTERRUPTED = "interrupted"

    @property
    def advice(self) -> str:
        """One sentence: what the state means and what to try."""
        return _ADVICE[self]

    @property
    def converged(self) -> bool:
        """True at a maximum: interior, on the boundary, or local where the likelihood is unbounded."""
        return self not in _UNFINISHED


_ADVICE = {
    Status.CONVERGED: "Converged: the gradient of the criterion is zero to the tolerance.",
    Status.ZERO_SIGMA2_BETA: (
        "Boundary: σ²_β = 0 exactly; the criterion is highest without random effects, and every E[β_j] is 0."
    ),
    Status.ZERO_SIGMA2_E: (
        "Boundary: the criterion rises as σ²_e → 0 (X and the covariates reproduce y); σ²_e was stopped at its floor."
    ),
    Status.UNBOUNDED: (
        "The criterion has no maximum: it grows without end as σ²_e → 0, because X and the covariates together can "
        "reproduce any y. The interior maximum is returned; use reml=True, which is bounded."
    ),
    Status.SHRUNK: (
        "Converged, but mean field's σ²_β is below half of the exact one: learning the variances by the ELBO "
        'shrinks σ²_β when features are many or correlated. Use theta_by="loglik" for exact variance components.'
    ),
    Status.SHRUNK_TO_ZERO: (
        "Boundary: the ELBO is highest at σ²_β = 0 although the likelihood is not: mean field has lost the signal. "
        'Use theta_by="loglik" (mean field for β only) or an exact method.'
    ),
    Status.SINGULAR: (
        "Boundary (singular fit): the criterion is highest where a variance of random effects is exactly 0 or a correlation "
        "exactly ±1; the data hold no sign of that part of the model, and a simpler term would fit as well."
    ),
    Status.ELBO_FELL: (
        "Not converged: the ELBO fell at an update that can only raise it, so that rounding has the upper hand. Give the "
        "data in other units, or drop a term that explains next to everything."
    ),
    Status.NOT_CONVERGED: "Not converged: stopped before the optimum. Raise max_iter.",
    Status.HEAVY_WEIGHTS: (
        "Not reliable: a few importance weights (Pareto k̂ above its threshold) carry the result; the posterior is not near "
        'enough to its Laplace approximation. Use method="nuts".'
    ),
    Status.DIVERGENT: (
        "Not reliable: some trajectories diverged, so that a part of the posterior may be missing. Raise target_accept "
        "(0.95, 0.99), or use stronger priors."
    ),
    Status.NOT_MIXED: (
        "Not converged: the chains disagree (R-hat 1.01 or more). Raise tune and draws; if it stays, look for several modes."
    ),
    Status.FEW_DRAWS: (
        "Converged, but too few independent draws for quantiles (effective sample size below 400). Raise draws."
    ),
    Status.INTERRUPTED: "Stopped by the user: the draws made so far.",
}
_UNFINISHED = {
    Status.ELBO_FELL,
    Status.NOT_CONVERGED,
    Status.HEAVY_WEIGHTS,
    Status.DIVERGENT,
    Status.NOT_MIXED,
    Status.INTERRUPTED,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """The accepted iterates of one fit, one entry each; the criterion never falls along them.

    `loglik` is the marginal log-likelihood at the iterate, whatever the method maximises; `elbo` and `gap`
    (loglik − elbo) are NaN where there is no q; `max_change` is the largest change of any E[β_j] in units of its
    standard deviation (sweeps only); `seconds` counts from the start of the iteration (loops that run inside one
    compiled call are spread evenly). `criterion` is what the method maximises.
    """

    criterion: Array
    loglik: Array
    elbo: Array
    sigma2_beta: Array
    sigma2_e: Array
    max_change: Array
    seconds: Array

    @property
    def gap(self) -> Array:
        """Log-likelihood − ELBO = KL(q ‖ posterior)."""
        return self.loglik - self.elbo

    def to_frame(self) -> pd.DataFrame:
        """Tidy table: iteration, loglik, elbo, gap, sigma2_beta, sigma2_e, max_change, seconds."""
        names = ["loglik", "elbo", "gap", "sigma2_beta", "sigma2_e", "max_change", "seconds"]
        return pd.DataFrame({"iteration": np.arange(self.loglik.size), **{k: getattr(self, k) for k in names}})


class Density(NamedTuple):
    """Posterior density and distribution function of one parameter, at points x (m,) dense enough to be drawn."""

    x: Array
    density: Array
    cdf: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Theta:
    """The posterior of σ²_β, σ²_e and PVE, exact or variational.

    Attributes
    ----------
    table : DataFrame
        Indexed by `sigma2_beta`, `sigma2_e`, `pve`; columns `mean, sd, q05, q50, q95`.
    densities : mapping from these names to Density
        Without those whose value is fixed.
    """

    table: pd.DataFrame
    densities: Mapping[str, Density]

    def quantile(self, parameter: str, q: ArrayLike) -> Array:
        """Values below which the parameter is with probability q (any shape, between 0 and 1)."""
        if parameter not in self.table.index:
            raise ValueError(f"parameter={parameter!r} is not known: choose {', '.join(map(repr, self.table.index))}.")
        wanted = np.asarray(q, dtype=np.float64)
        if not ((wanted > 0.0) & (wanted < 1.0)).all():
            raise ValueError(f"q={q!r} must lie between 0 and 1.")
        if parameter not in self.densities:
            return np.full(wanted.shape, self.table.loc[parameter, "mean"])[()]
        x, _, cdf = self.densities[parameter]
        levels, first = np.unique(np.round(cdf, 12), return_index=True)  # differences below are rounding
        return np.asarray(PchipInterpolator(levels, x[first])(wanted))[()]


class Posterior(Protocol):
    """The Gaussian posterior of β at the estimates, ω held fixed; never a p × p matrix."""

    @property
    def mean(self) -> Array:
        """E[β_j], (p,)."""
        ...

    def variances(self) -> Array:
        """Var(β_j), (p,)."""
        ...

    def predictive(self, X: Array) -> Array:
        """Var(x_iᵀβ) for every row of X (k, p), (k,)."""
        ...

    @property
    def link(self) -> Any:
        """How E[β] answers to ω, with `variance(X, Z, covariance)`; None where that is not known."""
        ...


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A posterior read back from a file: means and variances of β, without their correlations."""

    mean: Array
    var: Array
    link: None = None

    def variances(self) -> Array:
        """Var(β_j), (p,)."""
        return self.var

    def predictive(self, X: Array) -> Array:
        """Not available: it needs the features that the fit was made from."""
        raise ValueError(
            "A fit read from a file holds each Var(β_j) but not their correlations, which return_std and interval need. "
            "Predict with the fitted estimator, or fit again."
        )


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Fit:
    """Frozen result of one fit, the same for every method.

    Attributes
    ----------
    method, criterion_name, reml
        What was run, and what was maximised.
    n, p, c : int
        Observations, features, covariates (the intercept counted in c).
    omega, omega_se : ndarray (number of covariates,)
        Fixed effects, without the intercept, and their standard errors.
    omega_cov : ndarray (c, c)
        Covariance of all fixed effects, the intercept first (at the mean of X where the fit standardised it).
    intercept, intercept_se : float or None
        None where the model has no intercept.
    sigma2_beta, sigma2_e, pve : float
        Variance components, and the proportion of variance explained σ²_β t / (σ²_β t + σ²_e), t = tr(M X Xᵀ)/(n − c).
    sigma2_beta_se, sigma2_e_se, pve_se : float
        NaN where they do not exist; `se_note` says why.
    loglik, criterion, elbo : float
        Marginal log-likelihood at the estimates; what was maximised; the ELBO (None where there is no q).
    posterior : Posterior
        Of β, on the scale of X as it was given.
    status, notes
        How the fit ended, and what else the user must know.
    modes : tuple of (sigma2_beta, sigma2_e, criterion)
        Every local maximum found by the scan, the returned one first; of a Bayesian fit by quadrature the posterior's mode.
    trace, n_iter, timings, threads
        The iterates, their number (by quadrature that of evaluated densities), seconds by stage, BLAS threads used.
    theta, log_evidence, priors : Theta, float, tuple of (parameter, prior)
        Of Bayesian fits: the posterior of the variances and PVE, the log evidence (None by mean field: see `elbo`), and the
        priors in words. Estimates are then posterior means, and standard errors posterior standard deviations.
    """

    method: str
    criterion_name: str
    reml: bool
    n: int
    p: int
    c: int
    omega: Array
    omega_se: Array
    omega_cov: Array
    intercept: float | None
    intercept_se: float | None
    sigma2_beta: float
    sigma2_e: float
    pve: float
    sigma2_beta_se: float
    sigma2_e_se: float
    pve_se: float
    se_note: str
    loglik: float
    criterion: float
    elbo: float | None
    posterior: Posterior
    status: Status
    notes: tuple[str, ...]
    modes: tuple[tuple[float, float, float], ...]
    n_iter: int
    trace: Trace
    timings: Mapping[str, float]
    threads: int
    standardized: bool
    covariate_names: tuple[str, ...]
    feature_names: tuple[str, ...] | None
    theta: Theta | None = None
    log_evidence: float | None = None
    priors: tuple[tuple[str, str], ...] = ()

    @property
    def converged(self) -> bool:
        """True at an optimum; False where the status says that the method stopped before."""
        return self.status.converged

    @property
    def gap(self) -> float | None:
        """Log-likelihood − ELBO, or None where there is no ELBO, or it is one of the evidence (Bayesian fits)."""
        return None if self.elbo is None or self.theta is not None else self.loglik - self.elbo

    @property
    def seconds(self) -> float:
        """Wall time of the whole fit."""
        return float(sum(self.timings.values()))

    @property
    def beta_mean(self) -> Array:
        """E[β], (p,), on the scale of X as given."""
        return self.posterior.mean

    @cached_property
    def beta_var(self) -> Array:
        """Var(β_j), (p,), at the estimates; computed on first use (exact posterior: O(min(n, p)² max(n, p)))."""
        return self.posterior.variances()

    def to_frame(self) -> pd.DataFrame:
        """Table of the estimated parameters with standard errors, indexed by name."""
        rows = [(name, *pair) for name, *pair in zip(self.covariate_names, self.omega, self.omega_se, strict=True)]
        if self.intercept is not None:
            rows.insert(0, ("intercept", self.intercept, self.intercept_se))
        rows += [
            ("sigma2_beta", self.sigma2_beta, self.sigma2_beta_se),
            ("sigma2_e", self.sigma2_e, self.sigma2_e_se),
            ("pve", self.pve, self.pve_se),
        ]
        return pd.DataFrame(rows, columns=["parameter", "estimate", "se"]).set_index("parameter")

    def effects(self) -> pd.DataFrame:
        """Table of the random effects: posterior mean and sd of every β_j, indexed by feature."""
        names = self.feature_names or tuple(f"x{j}" for j in range(self.p))
        frame = {"mean": self.beta_mean, "sd": np.sqrt(self.beta_var)}
        return pd.DataFrame(frame, index=pd.Index(names, name="feature"))

    def summary(self) -> str:
        """Return the fit as text: model, criterion, variances, fixed effects, and what to know about them."""
        return summary.text(self)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return (
            f"<Fit {self.method}: σ²_β={self.sigma2_beta:.6g}, σ²_e={self.sigma2_e:.6g}, "
            f"loglik={self.loglik:.6f}, {self.status.value}>"
        )

    def save(self, path: str | Path) -> Path:
        """Write the fit to `path` as a numpy archive without pickle; `fastlmm_vi.load` reads it back.

        Var(β_j) is computed if it was not yet. Correlations between effects are not kept, so a fit read back
        predicts means, not standard deviations.
        """
        apart = {"posterior", "trace", "status", "theta"}
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart}
        arrays = {k: plain.pop(k) for k in ("omega", "omega_se", "omega_cov")}
        theta = None if self.theta is None else self.theta.table.to_dict("split")
        densities = {} if self.theta is None else self.theta.densities
        arrays |= {f"density_{name}": np.array(density) for name, density in densities.items()}
        header = json.dumps({**plain, "timings": dict(self.timings), "status": self.status.value, "theta": theta})
        trace = {f"trace_{f.name}": getattr(self.trace, f.name) for f in fields(Trace)}
        path = Path(path)
        with path.open("wb") as file:
            np.savez(file, header=header, beta_mean=self.beta_mean, beta_var=self.beta_var, **arrays, **trace)
        return path


def read_fit(path: str | Path) -> Fit:
    """Read the archive that `Fit.save` wrote; see `fastlmm_vi.load`."""
    with np.load(Path(path), allow_pickle=False) as archive:
        header: dict[str, Any] = json.loads(str(archive["header"]))
        trace = Trace(**{f.name: archive[f"trace_{f.name}"] for f in fields(Trace)})
        posterior = Stored(mean=archive["beta_mean"], var=archive["beta_var"])
        arrays = {k: archive[k] for k in ("omega", "omega_se", "omega_cov")}
        densities = {k.removeprefix("density_"): Density(*archive[k]) for k in archive if k.startswith("density_")}
    if header.get("theta") is not None:
        table = pd.DataFrame(**header["theta"]).rename_axis("parameter")
        header["theta"] = Theta(table=table, densities=densities)
    header["priors"] = tuple(tuple(prior) for prior in header.get("priors", ()))
    for name in ("notes", "covariate_names", "feature_names"):
        header[name] = None if header[name] is None else tuple(header[name])
    header["modes"] = tuple(tuple(mode) for mode in header["modes"])
    header["status"] = Status(header["status"])
    return Fit(**header, **arrays, trace=trace, posterior=posterior)
