"""A grouped model with a posterior for everything in it: what every Bayesian method returns."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from ..copied import copied
from ..result import Array, Status
from . import parameters, quadrature
from .cross_products import CrossProducts
from .model_priors import ModelPriors, resolve
from .posterior import Posterior
from .quadrature import Mixtures, Quadrature

QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95}


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class BayesFit:
    """A grouped linear mixed model with priors: the posterior of its effects and variances.

    y = Xβ + Σ_l Z_l b_l + ε, b_l ~ N(0, Σ_l), ε ~ N(0, σ² W⁻¹), with priors on β, σ, and Σ_l.

    Attributes
    ----------
    formula : str
    method : {"quadrature"}
    data : CrossProducts
    priors : ModelPriors
        As given, defaults for the rest; `str(fit.priors)` lists them.
    posterior : Quadrature
        Marginals and draws.
    status, notes
        How the fit ended, and what else the user must know.
    timings : mapping of str to float
        Seconds by stage.
    """

    formula: str
    method: str
    data: CrossProducts
    priors: ModelPriors
    posterior: Quadrature
    status: Status
    notes: tuple[str, ...]
    timings: Mapping[str, float]

    @classmethod
    def of(
        cls,
        data: CrossProducts,
        formula: str,
        priors: Mapping[str, Any] | None,
        *,
        notes: tuple[str, ...] = (),
        timings: Mapping[str, float],
        show: Callable[[str], None] = lambda text: None,
    ) -> "BayesFit":
        """Integrate the posterior of the model of these cross products.

        Raises
        ------
        ValueError
            If a prior is wrong, or the model has too many variance parameters.
        """
        begin = time.perf_counter()
        resolved = resolve(priors, data.design, data.fixed.kept)
        found = quadrature.fit(Posterior(data, resolved), report=show)
        if not resolved.proper:
            notes = (*notes, "A prior is improper: the evidence is defined up to a factor only, and is not given.")
        return cls(
            formula=formula,
            method="quadrature",
            data=data,
            priors=resolved,
            posterior=found,
            status=Status.CONVERGED if found.converged else Status.NOT_CONVERGED,
            notes=notes,
            timings={**timings, "quadrature": time.perf_counter() - begin},
        )

    @property
    def converged(self) -> bool:
        """Whether the method reached its tolerance."""
        return self.status.converged

    @property
    def n(self) -> int:
        """Observations."""
        return len(self.data.design.y)

    @property
    def seconds(self) -> float:
        """Wall time of the whole fit."""
        return float(sum(self.timings.values()))

    @property
    def log_evidence(self) -> float | None:
        """Log p(y); None under an improper prior."""
        return self.posterior.log_evidence

    @property
    def elbo(self) -> None:
        """None: the posterior is exact."""
        return

    @property
    def fixed_names(self) -> tuple[str, ...]:
        """R's names of the columns of X that were kept."""
        return tuple(self.data.design.fixed_names[j] for j in self.data.fixed.kept)

    @copied
    def fixed_effects(self) -> pd.Series:
        """Posterior means of β, by R's names."""
        return pd.Series(self.posterior.fixed.mean, index=list(self.fixed_names), name="mean")

    @cached_property
    def sigma(self) -> float:
        """Posterior mean of the residual standard deviation."""
        return float(self.variances["mean"].loc["sigma"])

    @copied
    def variances(self) -> pd.DataFrame:
        """Standard deviations and correlations of the random effects, and σ: mean, sd, q05, q50, q95."""
        rows = {}
        for name in parameters.names(self.data.design.terms):
            rows[name] = self._variance(name)
        return pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "sd", *QUANTILES])

    def _variance(self, name: str) -> list[float]:
        if name not in self.posterior.posterior.names:
            value = self.posterior.fixed_value(name)
            return [value, 0.0, *[value] * len(QUANTILES)]
        found = self.posterior.variance(name)
        return [found.mean, found.sd, *(float(found.quantile(q)) for q in QUANTILES.values())]

    @copied
    def random_effects(self) -> dict[str, pd.DataFrame]:
        """Posterior means of the random effects of every grouping factor, levels by effects."""
        found: dict[str, pd.DataFrame] = {}
        for k in parameters.order(self.data.design.terms):
            term, mixtures = self.data.design.terms[k], self.posterior.random[k]
            index = pd.Index(term.factor.levels, name=term.factor.name)
            frame = pd.DataFrame(mixtures.mean.reshape(len(index), -1), index=index, columns=list(term.names))
            known = found.get(term.factor.name)
            found[term.factor.name] = frame if known is None else pd.concat([known, frame], axis=1)
        return found

    def to_frame(self) -> pd.DataFrame:
        """Every parameter's posterior mean, sd, and quantiles q05, q50, q95, by brms' names."""
        columns = ["mean", "sd", *QUANTILES]
        fixed = [f"b_{parameters.plain(name)}" for name in self.fixed_names]
        tables = [_table(self.posterior.fixed, fixed), self.variances]
        for term, mixtures in zip(self.data.design.terms, self.posterior.random, strict=True):
            index = [
                f"r_{term.factor.name}[{level},{parameters.plain(x)}]"
                for level in term.factor.labels
                for x in term.names
            ]
            tables.append(_table(mixtures, index))
        return pd.concat(tables)[columns].rename_axis("parameter")

    def summary(self) -> str:
        """Return the posterior as text."""
        lines = [f"Linear mixed model, exact posterior by {self.method}", f"Formula: {self.formula}", ""]
        evidence = "none (an improper prior)" if self.log_evidence is None else f"{self.log_evidence:.4f}"
        groups = "; ".join(f"{term.factor.name}, {len(term.factor.levels)}" for term in self.data.design.terms)
        lines += [f"log evidence: {evidence}", f"Number of obs: {self.n}, groups:  {groups}", ""]
        fixed = self.to_frame().iloc[: len(self.fixed_names)]
        body = pd.concat([fixed, self.variances]).rename_axis(None)
        lines += [body.to_string(float_format=lambda value: f"{value:.4g}"), "", "Priors:"]
        lines += [f"  {line}" for line in self.priors.lines()]
        lines += ["", f"{self.status.advice} ({self.seconds:.3g} s)", *(f"Note: {note}" for note in self.notes)]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"<BayesFit {self.method}: {self.formula}, {self.status.value}>"


def _table(mixtures: Mixtures, index: list[str]) -> pd.DataFrame:
    """Mean, sd and quantiles of effects."""
    values: dict[str, Array] = {"mean": mixtures.mean, "sd": mixtures.sd}
    values |= {name: mixtures.quantile(q) for name, q in QUANTILES.items()}
    return pd.DataFrame(values, index=index)
