"""A grouped model with a posterior of draws: tables with Monte-Carlo errors, ArviZ's containers, leave-one-out."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ..elpd import Elpd
from ..importance import WeightedDraws
from ..result import Array, Status
from ..sampler import Chains
from . import export, sampling
from .bayes_result import BayesFit
from .cross_products import CrossProducts
from .leave_one_out import Predictors, left_out
from .model_priors import resolve
from .sampled_posterior import SampledPosterior

MOST_LEFT_OUT = 1000  # draws at which observations are left out


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class SampledFit(BayesFit):
    """A grouped linear mixed model with priors, its posterior sampled: a `BayesFit` with Monte-Carlo errors.

    Only the variance parameters are sampled; means, standard deviations and quantiles of β and of the random effects are
    those of mixtures of the normal distributions given each draw.

    Attributes
    ----------
    method : {"nuts", "laplace-is"}
        What was used, where `method="auto"` chose.
    posterior : SampledPosterior
    """

    posterior: SampledPosterior

    @classmethod
    def sampled(
        cls,
        data: CrossProducts,
        formula: str,
        method: str,
        priors: Mapping[str, Any] | None,
        settings: sampling.Settings,
        *,
        notes: tuple[str, ...] = (),
        timings: Mapping[str, float],
        show: Callable[[str], None] = lambda text: None,
    ) -> "SampledFit":
        """Sample the posterior of the model of these cross products.

        Raises
        ------
        ValueError
            If a prior is wrong.
        IntegrationError
            If the posterior has no mode.
        """
        begin = time.perf_counter()
        resolved = resolve(priors, data.design, data.fixed.kept)
        used, found = sampling.fit(method, data, resolved, settings, show)
        if isinstance(found.run, Chains):
            notes = (*notes, *found.run.notes)
        else:
            notes = (*notes, f"Importance weights: Pareto k̂ {found.run.k:.2f}, effective draws {found.run.ess:.0f}.")
            if not resolved.proper:
                notes = (*notes, "A prior is improper: the evidence is defined up to a factor only, and is not given.")
        return cls(
            formula=formula,
            method=used,
            factorisation=None,
            data=data,
            priors=resolved,
            posterior=found,
            status=found.status,
            notes=notes,
            timings={**timings, used: time.perf_counter() - begin},
        )

    @property
    def log_evidence_se(self) -> float | None:
        """Monte-Carlo error of `log_evidence`; None where there is none."""
        run = self.posterior.run
        return run.log_evidence_se if isinstance(run, WeightedDraws) and self.log_evidence is not None else None

    @property
    def divergences(self) -> int:
        """Trajectories of NUTS that diverged."""
        return self.posterior.run.divergences if isinstance(self.posterior.run, Chains) else 0

    @property
    def pareto_k(self) -> float | None:
        """k̂ of the importance weights; None by NUTS."""
        return self.posterior.run.k if isinstance(self.posterior.run, WeightedDraws) else None

    def to_frame(self) -> pd.DataFrame:
        """Every parameter's posterior mean, sd, quantiles, and errors, by brms' names.

        `mcse_mean` is the Monte-Carlo error of the mean; by NUTS `ess_bulk`, `ess_tail` and `r_hat` of draws follow: those
        of effects are recovered, and thinned where effects are many.
        """
        found = self.posterior
        errors = pd.concat([found.errors_of_fixed, found.errors_of_variances, found.errors_of_random])
        return super().to_frame().join(errors)

    @property
    def _headline(self) -> str:
        run = self.posterior.run
        if isinstance(run, WeightedDraws):
            return f"posterior by importance sampling, {len(run.draws)} draws"
        return f"posterior by NUTS, {run.draws.shape[0]} chains of {run.draws.shape[1]} draws"

    @property
    def _criterion_line(self) -> str:
        if isinstance(self.posterior.run, Chains):
            return 'log evidence: not known by NUTS (method="laplace-is" estimates it)'
        found = super()._criterion_line
        return found if self.log_evidence is None else f"{found}, Monte-Carlo error {self.log_evidence_se:.2g}"

    @property
    def _estimates(self) -> pd.DataFrame:
        found = self.posterior
        return super()._estimates.join(pd.concat([found.errors_of_fixed, found.errors_of_variances]))

    @property
    def _ending(self) -> str:
        if self.status is not Status.CONVERGED:
            return self.status.advice
        if isinstance(self.posterior.run, WeightedDraws):
            return "Reliable: no weight carries the result."
        return "Converged: the chains agree (R-hat below 1.01), without divergences, and are long enough."

    @cached_property
    def fitted(self) -> pd.DataFrame:
        """Mean and sd of Xβ + Σ Z_l b_l of every row of the data."""
        phi, weights = self._few
        near = next(self._predictors.moments(phi[:1]))[0]  # second moments about it lose no digits
        first, second = np.zeros(self.n), np.zeros(self.n)
        for w, (mean, variance) in zip(weights, self._predictors.moments(phi), strict=True):
            first += w * (mean - near)
            second += w * (variance + (mean - near) ** 2)
        return pd.DataFrame({"mean": near + first, "sd": np.sqrt(second - first**2)}, index=self.data.design.index)

    @cached_property
    def _predictors(self) -> Predictors:
        return Predictors(self.posterior.posterior)

    @cached_property
    def _few(self) -> tuple[Array, Array]:
        """Some draws of φ (S, k), evenly spread or resampled, and their weights."""
        _, phi, weights = self.posterior.kept
        flat = phi.reshape(-1, phi.shape[2])
        if len(flat) <= MOST_LEFT_OUT:
            return flat, weights
        if isinstance(self.posterior.run, WeightedDraws):
            total = np.cumsum(weights)
            chosen = np.searchsorted(total, (np.arange(MOST_LEFT_OUT) + 0.5) / MOST_LEFT_OUT * total[-1])
        else:
            chosen = np.linspace(0, len(flat) - 1, MOST_LEFT_OUT).round().astype(int)
        return flat[chosen], np.full(MOST_LEFT_OUT, 1.0 / MOST_LEFT_OUT)

    def loo(self) -> Elpd:
        """Leave-one-out cross-validation with all effects integrated out, observation by observation.

        β and b are integrated out in closed form, so that only the variance parameters are importance sampled: Pareto k̂ stays
        low where that of the usual leave-one-out, by the likelihood given the effects, does not.

        Raises
        ------
        ValueError
            If there are more than 10⁵ observations.
        """
        phi, weights = self._few
        return left_out(self.posterior.posterior, phi, np.log(np.maximum(weights, np.finfo(float).tiny)))

    def to_inference_data(self, draws: int | None = None, *, random_state: Any = 0) -> Any:
        """Return the draws as ArviZ's container, for its plots, summaries and files.

        Parameters
        ----------
        draws : int, optional
            All told; default all of NUTS in their chains, thinned where effects are many, and 1000 of importance sampling,
            resampled to equal weights.
        random_state : int or Generator, default 0

        Returns
        -------
        arviz.InferenceData, or of ArviZ 1 xarray.DataTree
            Groups as those of `BayesFit.to_inference_data`, and `sample_stats` of NUTS.

        Raises
        ------
        ImportError
            If ArviZ is not installed.
        """
        found, run = self.posterior, self.posterior.run
        if not isinstance(run, Chains):
            return super().to_inference_data(1000 if draws is None else draws, random_state=random_state)
        chains, made = found.kept.phi.shape[:2]
        size = made if draws is None else draws // chains
        if not 1 <= size <= made:
            raise ValueError(f"draws={draws!r} is not between {chains} and {chains * made}, what there are.")
        chosen = np.linspace(0, made - 1, size).round().astype(np.int64)
        stats = {name: values[:, found.kept.places[chosen]] for name, values in run.stats.items()}
        return export.of(self, found.kept_draws(chosen), chains, np.random.default_rng(random_state), stats)
