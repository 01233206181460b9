"""What a posterior can be relied on for: what a variational one has lost, and how well its model predicts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from .. import elpd, pareto, threads
from ..elpd import Elpd
from ..result import Array
from . import parameters, pointwise, quadrature
from .draws import Draws, recovered
from .leave_one_out import LARGEST, left_out
from .linear_response import LinearResponse
from .marginals import Marginal
from .posterior import Posterior, Scales
from .variational_posterior import VariationalPosterior

if TYPE_CHECKING:
    from .bayes_result import BayesFit, Lens

MOST_WORK = 1e12  # (effects that are solved for together)³ × nodes up to which every row is left out in closed form
BLOCK = 10_000  # rows at a time
TAIL, POINTS = 1e-7, 4001  # of the distributions that are compared


@dataclass(frozen=True, kw_only=True, repr=False)
class Diagnostics:
    """What a fit by a Bayesian method can be relied on for.

    Attributes
    ----------
    elbo, log_evidence : float or None
        The second exact, by quadrature over up to four variance parameters, or None; the ELBO is at most as large.
    log_evidence_estimate : float or None
        By importance sampling from q(σ, Σ), all else integrated out.
    k, k_scales : float or None
        Pareto k̂ of importance weights from q to the exact posterior: of everything, and of σ and all Σ alone. Below 0.7 the
        draws can be reweighted to the exact posterior (Yao, Vehtari, Simpson and Gelman, ICML 2018).
    linear_response : DataFrame or None
        `sd` of q and `sd_lr` by linear response, of every parameter.
    accuracy : Series or None
        100 (1 − ½ ∫ |q − p|) of every parameter but the random effects (Faes, Ormerod and Wand, Journal of the American
        Statistical Association 106, 2011), where a reference is at hand.
    loo, waic : Elpd
        Expected log predictive density of single observations, the random effects of its groups known, by draws of the exact
        posterior (of a variational fit: σ, Σ from q, reweighted; β and b given these).
    exact_loo : Elpd or None
        Leave-one-out with every observation's predictive density given σ and Σ in closed form: by quadrature exact, else by
        weighted draws of σ and Σ. None of large data.
    """

    method: str
    elbo: float | None
    log_evidence: float | None
    log_evidence_estimate: float | None
    k: float | None
    k_scales: float | None
    linear_response: pd.DataFrame | None
    accuracy: pd.Series | None
    loo: Elpd
    waic: Elpd
    exact_loo: Elpd | None

    def __str__(self) -> str:
        lines = [f"Diagnostics of {self.method}"]
        if self.elbo is not None:
            lines.append(f"ELBO: {self.elbo:.4f}")
        if self.log_evidence is not None:
            lost = "" if self.elbo is None else f", {self.log_evidence - self.elbo:.4f} above the ELBO"
            lines.append(f"log evidence: {self.log_evidence:.4f}{lost}")
        if self.log_evidence_estimate is not None:
            lines.append(f"log evidence by importance sampling: {self.log_evidence_estimate:.4f}")
        if self.k is not None and self.k_scales is not None:
            lines.append(f"Pareto k of q: {self.k:.2f}; of σ and Σ alone: {self.k_scales:.2f} (reliable below 0.7)")
        lines += [str(one) for one in (self.loo, self.waic) if one is not None]
        if self.exact_loo is not None:
            lines.append(f"{self.exact_loo}, with all effects integrated out")
        tables = [self.linear_response] if self.linear_response is not None else []
        tables += [self.accuracy.to_frame()] if self.accuracy is not None else []
        if tables:
            table = pd.concat(tables, axis=1)
            shown = table[~table.index.str.startswith("r_")]
            lines += ["", shown.rename_axis(None).to_string(float_format=lambda value: f"{value:.4g}")]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Diagnostics {self.method}>"


class Ratios(NamedTuple):
    """What importance weights from q to the exact posterior say."""

    k: float
    k_scales: float
    log_evidence: float | None
    log_weights: Array


def of(
    fit: "BayesFit", reference: "BayesFit | None", size: int, rng: np.random.Generator, show: Callable[[str], None]
) -> Diagnostics:
    """See `BayesFit.diagnostics`."""
    exact, q = Posterior(fit.data, fit.priors), fit.posterior
    show("diagnostics, draws")
    draws = q.draw(rng, size)
    scales = draws.scales(exact.sizes)
    phi = np.array([exact.phi(at) for at in scales])
    ratios = None
    with threads.limit(1):  # many small systems
        if isinstance(q, VariationalPosterior):
            ratios = importance_ratios(exact, q, draws, scales, phi)
            draws = recovered(exact, phi, rng)
        log_weights = np.zeros(size) if ratios is None else ratios.log_weights
        show("diagnostics, exact posterior")
        truth = _truth(exact, q, reference)
        show("diagnostics, leave-one-out")
        loo, waic = _by_draws(fit, draws, log_weights)
        known = truth if isinstance(truth, quadrature.Quadrature) else None
        nodes, weights = (phi, None) if known is None else known.kept
        affordable = fit.n * len(nodes) <= LARGEST and _dense(exact) ** 3 * len(nodes) <= MOST_WORK
        leaving = left_out(exact, nodes, log_weights, weights) if affordable else None
    return Diagnostics(
        method=fit.method,
        elbo=fit.elbo,
        log_evidence=None if truth is None else truth.log_evidence,
        log_evidence_estimate=None if ratios is None else ratios.log_evidence,
        k=None if ratios is None else ratios.k,
        k_scales=None if ratios is None else ratios.k_scales,
        linear_response=responses(q) if isinstance(q, VariationalPosterior) else None,
        accuracy=None if truth is None or truth is q else accuracies(q.marginals, truth.marginals),
        loo=loo,
        waic=waic,
        exact_loo=leaving,
    )


def _truth(exact: Posterior, q: "Lens", reference: "BayesFit | None") -> "Lens | None":
    """The exact posterior: given, the fit's own, or by quadrature where there are few enough variance parameters."""
    if reference is not None:
        return reference.posterior
    if not isinstance(q, VariationalPosterior):
        return q
    return quadrature.fit(exact) if 0 < len(exact.names) <= quadrature.MOST else None


def _dense(exact: Posterior) -> int:
    """Side of the dense matrix that an evaluation factors."""
    pattern = exact.data.pattern
    return int(pattern.effect[-1] - pattern.effect[pattern.leading]) + pattern.q


def _blocks(n: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def importance_ratios(
    exact: Posterior, q: VariationalPosterior, draws: Draws, scales: list[Scales], phi: Array
) -> Ratios:
    """Importance weights of all parameters and of σ and Σ alone, to what is left when the rest is integrated out."""
    n = len(exact.data.design.y)
    likelihood = np.sum([pointwise.log_density(exact.data, draws, rows).sum(axis=1) for rows in _blocks(n)], axis=0)
    joint = pointwise.log_joint(exact, draws, scales, phi, likelihood)
    assert draws.log_density is not None
    alone = pareto.smooth(exact.density.logp_many(phi) - q.log_density_of(scales))
    evidence = alone.log_mean if exact.priors.proper else None
    return Ratios(pareto.smooth(joint - draws.log_density).k, alone.k, evidence, alone.log_weights)


def _by_draws(fit: "BayesFit", draws: Draws, log_weights: Array) -> tuple[Elpd, Elpd]:
    """Leave-one-out and WAIC of single observations."""
    log_likelihood = np.concatenate([pointwise.log_density(fit.data, draws, rows) for rows in _blocks(fit.n)], axis=1)
    return elpd.loo(log_likelihood, log_weights=log_weights), elpd.waic(log_likelihood, log_weights=log_weights)


def responses(q: VariationalPosterior) -> pd.DataFrame:
    """`sd` of q and `sd_lr` by linear response, by brms' names."""
    answers, design = LinearResponse(q), q.data.design
    own = {name: marginal.sd for name, marginal in q.marginals.items()}
    by_response = dict(zip(own, np.sqrt(np.diag(answers.beta_cov)), strict=False)) | answers.scale_sd
    for term, mixtures, sd in zip(design.terms, q.random, answers.effect_sd, strict=True):
        labels = parameters.effect_names(term)
        own |= dict(zip(labels, mixtures.sd, strict=True))
        by_response |= dict(zip(labels, sd.ravel(), strict=True))
    return pd.DataFrame({"sd": own, "sd_lr": by_response}).reindex(list(own)).rename_axis("parameter")


def accuracies(q: Mapping[str, Marginal], p: Mapping[str, Marginal]) -> pd.Series:
    """100 (1 − ½ ∫ |q − p|) of every parameter that both have and none holds."""
    found = {name: accuracy(one, p[name]) for name, one in q.items() if name in p and one.sd > 0.0}
    return pd.Series(found, name="accuracy", dtype=np.float64).rename_axis("parameter")


def accuracy(q: Marginal, p: Marginal) -> float:
    """100 (1 − ½ ∫ |q − p|) = 100 ∫ min(q, p), by the trapezoidal rule between quantiles of both."""
    levels = np.concatenate([TAIL * 10.0 ** np.arange(5), np.linspace(0.02, 0.98, 97)])
    levels = np.unique(np.concatenate([levels, 1.0 - levels]))
    ends = np.sort(np.concatenate([q.quantile(levels), p.quantile(levels)]))
    x = np.unique(np.linspace(ends[:-1], ends[1:], POINTS // len(ends) + 2))
    return 100.0 * float(np.trapezoid(np.minimum(q.pdf(x), p.pdf(x)), x))
