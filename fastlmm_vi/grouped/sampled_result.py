"""A grouped model with a posterior of draws: tables with Monte-Carlo errors, ArviZ's containers, leave-one-out."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import logsumexp

from .. import elpd
from ..elpd import Elpd
from ..importance import WeightedDraws
from ..inference_data import inference_data
from ..laplace import LOG_2PI
from ..result import Array
from ..sampler import Chains
from . import sampling
from .bayes_result import BayesFit
from .cross_products import CrossProducts
from .leave_one_out import Predictors
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
        log_weights = np.log(np.maximum(weights, np.finfo(float).tiny))
        without, within = self._predictors.log_densities(phi)
        found = elpd.loo(without, log_weights=log_weights)
        return replace(found, p=float(logsumexp(within + log_weights[:, None], axis=0).sum()) - found.elpd)

    def to_inference_data(self, *, log_likelihood: bool = False) -> Any:
        """The draws as ArviZ holds them (extra `bayes`).

        Parameters
        ----------
        log_likelihood : bool, default False
            Whether to add log p(y_i | β, b, σ) at every draw, (draws, N): ArviZ's own `loo` and `waic` ask for it.

        Returns
        -------
        arviz.InferenceData (0.23) or xarray.DataTree (1)
            `posterior` with `b`, standard deviations, correlations, `sigma`, and `r_…` of every term, by brms' names, thinned
            where effects are many; `sample_stats` of NUTS; `observed_data`. Weighted draws are resampled to equal weights.
        """
        found, design = self.posterior, self.data.design
        kept, shape = self._unweighted
        recovered, beta = found.effects
        labels = {k: f"r_{label}" for label, k in self.term_labels.items()}
        posterior: dict[str, Array] = {"b": beta[kept].reshape(*shape, -1)}
        posterior |= {name: x[:, found.kept.places].ravel()[kept].reshape(shape) for name, x in found.variances.items()}
        coords: dict[str, Any] = {"coefficient": self.fixed_names, "observation": np.arange(self.n)}
        dims, at = {"b": ["coefficient"], "y": ["observation"]}, 0
        for k, term in enumerate(design.terms):
            levels, d = len(term.factor.levels), len(term.names)
            posterior[labels[k]] = recovered.draws[kept, at : at + levels * d].reshape(*shape, levels, d)
            dims[labels[k]] = [term.factor.name, f"{labels[k]}_effect"]
            coords |= {term.factor.name: term.factor.labels, f"{labels[k]}_effect": term.names}
            at += levels * d
        groups: dict[str, Mapping[str, Any]] = {"posterior": posterior, "observed_data": {"y": design.y}}
        if log_likelihood:
            groups["log_likelihood"] = {"y": self._log_likelihood(posterior, labels)}
        run = found.run
        if isinstance(run, Chains):
            groups["sample_stats"] = {name: x[:, found.kept.places] for name, x in run.stats.items()}
        attributes = {"formula": self.formula, "method": self.method, "status": self.status.value}
        return inference_data(groups, coords=coords, dims=dims, attributes=attributes)

    @cached_property
    def _unweighted(self) -> tuple[NDArray[np.int64], tuple[int, int]]:
        """Places among the kept draws, those of large weight several times, and (chains, draws)."""
        _, phi, weights = self.posterior.kept
        if isinstance(self.posterior.run, Chains):
            return np.arange(len(weights)), phi.shape[:2]
        places = np.random.default_rng(self.posterior.seed).permutation((np.arange(len(weights)) + 0.5) / len(weights))
        return np.searchsorted(np.cumsum(weights), places).clip(max=len(weights) - 1), (1, len(weights))

    def _log_likelihood(self, posterior: Mapping[str, Array], labels: Mapping[int, str]) -> Array:
        """Log p(y_i | β, b, σ), (chains, draws, N)."""
        design = self.data.design
        eta = posterior["b"] @ design.X[:, list(self.data.fixed.kept)].T
        if design.offset is not None:
            eta = eta + design.offset
        for k, term in enumerate(design.terms):
            eta += np.einsum("sdnj,nj->sdn", posterior[labels[k]][:, :, term.factor.codes], term.basis)
        v = posterior["sigma"][:, :, None] ** 2 / (1.0 if design.weights is None else design.weights)
        return -0.5 * (LOG_2PI + np.log(v) + (design.y - eta) ** 2 / v)
