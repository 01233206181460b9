"""A grouped model whose parameters are points that maximise the ELBO of mean field in its random effects."""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..copied import copied
from ..errors import ConvergenceWarning
from ..result import Array
from . import parameters, prediction, starts, variational_em
from .cross_products import CrossProducts
from .point_fit import PointFit
from .variational_em import PointMeanField


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class MeanFieldFit(PointFit):
    """A grouped linear mixed model by variational EM: β, θ and σ² maximise the ELBO of q(b).

    What mean field loses is the `gap`, the Kullback-Leibler divergence of q from the posterior of b at the estimates.

    Attributes
    ----------
    formula : str
    method : {"mfvi"}
    factorisation : {"group", "factor", "coefficient"}
    data : CrossProducts
    standard_theta : ndarray
        θ̂ in the standard coordinates of `data`.
    found : PointMeanField
        q(b), the ELBO, and where each start led.
    status, notes
        How the fit ended, and what else the user must know.
    timings : mapping of str to float
        Seconds by stage.
    """

    factorisation: str
    found: PointMeanField

    @classmethod
    def of(
        cls,
        data: CrossProducts,
        formula: str,
        factorisation: str,
        *,
        max_iter: int,
        random_state: int | None,
        notes: tuple[str, ...],
        timings: Mapping[str, float],
        show: Callable[[str], None],
    ) -> "MeanFieldFit":
        """Fit the model of these cross products.

        Warns
        -----
        ConvergenceWarning
            If the optimum was not reached.
        """
        begin = time.perf_counter()
        found = variational_em.maximise(
            data,
            factorisation,
            max_iter=max_iter,
            rng=np.random.default_rng(random_state),
            report=lambda i, elbo, change: show(f"mfvi, iteration {i}, ELBO {elbo:.6f}"),
        )
        if not found.status.converged:
            warnings.warn(f"mfvi: {found.status.advice}", ConvergenceWarning, stacklevel=3)
        return cls(
            formula=formula,
            method="mfvi",
            factorisation=factorisation,
            data=data,
            standard_theta=found.standard_theta,
            found=found,
            status=found.status,
            notes=notes,
            timings={**timings, "mfvi": time.perf_counter() - begin},
        )

    @property
    def elbo(self) -> float:
        """The evidence lower bound of the log-likelihood at the estimates."""
        return self.found.elbo

    @property
    def criterion(self) -> float:
        """The ELBO: what was maximised."""
        return self.elbo

    @property
    def gap(self) -> float:
        """Log-likelihood − ELBO = KL(q(b) ‖ p(b | y)) at the estimates."""
        return self.found.gap

    @property
    def loglik(self) -> float:
        """Marginal log-likelihood at the estimates."""
        return self.found.loglik

    @property
    def log_evidence(self) -> None:
        """None: there is no prior."""
        return

    @property
    def n_iter(self) -> int:
        """Newton steps from the start that led highest."""
        return self.found.n_iter

    @property
    def trace(self) -> pd.DataFrame:
        """`iteration` and `elbo`, which never falls."""
        return pd.DataFrame({"iteration": np.arange(len(self.found.path)), "elbo": self.found.path})

    @copied
    def starts(self) -> pd.DataFrame:
        """Where every start led: `elbo`, `n_iter`, `status`; the one that was kept first."""
        return starts.table(self.found.starts)

    @copied
    def random_effects_var(self) -> dict[str, Array]:
        """Covariances of q(b) of every term, (levels, d, d)."""
        return {label: self.found.effect_cov[k] for label, k in self.term_labels.items()}

    def predict(self, data: Any = None, *, random_effects: bool = True) -> pd.Series:
        """Predict the mean response of new rows, by default those of the fit; see `MixedFit.predict`.

        Intervals that count the uncertainty of the parameters in are those of `theta_by="posterior"`.
        """
        X, offset, index, rows = prediction.rows_of(self, data, random_effects)
        mean = prediction.means(X, offset, rows, self.solution.beta, self.solution.effects)
        return pd.Series(mean, index=index, name="mean")

    def to_frame(self) -> pd.DataFrame:
        """Every estimate by brms' names; `se` is that of q(b) for the random effects, NaN for the points."""
        tables = [pd.DataFrame({"estimate": self.point_estimates, "se": np.nan})]
        for k, term in enumerate(self.data.design.terms):
            sd = np.sqrt(np.einsum("vii->vi", self.found.effect_cov[k])).ravel()
            values = {"estimate": self.solution.effects[k].ravel(), "se": sd}
            tables.append(pd.DataFrame(values, index=parameters.effect_names(term)))
        return pd.concat(tables).rename_axis("parameter")

    def summary(self) -> str:
        """Return the fit as text."""
        groups = "; ".join(f"{name}, {size}" for name, size in self.groups.items())
        lines = [
            f"Linear mixed model, mean field in the random effects by {self.factorisation}, θ by the ELBO",
            f"Formula: {self.formula}",
            "",
            f"ELBO: {self.elbo:.4f}, log-likelihood: {self.loglik:.4f}, gap: {self.gap:.4f}",
            f"Number of obs: {self.n}, groups:  {groups}",
            "",
            self.point_estimates.rename("estimate").to_frame().to_string(float_format=lambda value: f"{value:.4g}"),
            "",
            f"{self.status.advice} ({self.n_iter} iterations, {self.seconds:.3g} s)",
        ]
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes)])

    def __repr__(self) -> str:
        return f"<MeanFieldFit {self.factorisation}: {self.formula}, ELBO={self.elbo:.6f}, {self.status.value}>"
