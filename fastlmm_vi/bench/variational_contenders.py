"""Who finds a q for the same posterior: ours, and PyMC's and Bambi's automatic differentiation variational inference."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import pareto
from ..grouped.bayes_result import BayesFit
from ..grouped.diagnostics import accuracies as overlaps
from ..grouped.diagnostics import importance_ratios
from ..grouped.marginals import Marginal
from ..grouped.posterior import Posterior
from ..grouped.variational_posterior import VariationalPosterior
from .normal_q import marginals
from .pymc_script import DRAWS, Watch
from .pymc_session import PeerError, Session
from .variational_models import Model

LEAST = 0.2  # seconds that one measurement of ours lasts for, by running again


class Contender(ABC):
    """A method with its settings.

    Attributes
    ----------
    name : str
        As in tables.
    """

    name: str

    def takes(self, model: Model) -> bool:
        """Whether it can express the model."""
        return True

    @abstractmethod
    def run(self, model: Model, seed: int) -> dict[str, Any]:
        """Fit, and return seconds, the ELBO with its standard error, k̂, and accuracies."""


@dataclass(frozen=True)
class Ours(Contender):
    """A method of `lmm`."""

    name: str

    def run(self, model: Model, seed: int) -> dict[str, Any]:
        """Its ELBO is known to rounding."""
        seconds, fit = timed(model, self.name, seed)
        q = fit.posterior
        assert isinstance(q, VariationalPosterior)
        return seconds | row(elbo=fit.elbo, k=_k(fit, q, seed), accuracy=accuracies(q.marginals, model))


def _k(fit: BayesFit, q: VariationalPosterior, seed: int) -> float:
    """k̂ of importance weights of as many draws as the others' have."""
    exact, draws = Posterior(fit.data, fit.priors), q.draw(np.random.default_rng(seed), DRAWS)
    scales = draws.scales(exact.sizes)
    phi = np.array([exact.phi(at) for at in scales])
    return importance_ratios(exact, q, draws, scales, phi).k


def timed(model: Model, method: str, seed: int) -> tuple[dict[str, float], BayesFit]:
    """Seconds of one fit, the mean of as many as last for long enough; and the fit."""
    watch, count = Watch(), 0
    while count == 0 or watch.cpu < LEAST:
        with watch.running():
            fit = model.fit(method, random_state=seed)
        count += 1
    return {name: value / count for name, value in watch.seconds.items()}, fit


@dataclass(frozen=True, eq=False)
class Peer(Contender):
    """A fit in the other process.

    Attributes
    ----------
    package : {"pymc", "bambi"}
    method : {"advi", "fullrank_advi"}
    steps, rate : int, float or None
        Of Adam; None is everything as it comes.
    """

    name: str
    session: Session
    package: str
    method: str = "advi"
    steps: int | None = None
    rate: float | None = None

    def takes(self, model: Model) -> bool:
        """Bambi has no correlated effects."""
        return self.package != "bambi" or model.bambi is not None

    def run(self, model: Model, seed: int) -> dict[str, Any]:
        """Its ELBO is the mean log weight of draws."""
        settings = {
            "package": self.package,
            "method": self.method,
            "steps": self.steps,
            "rate": self.rate,
            "seed": seed,
        }
        try:
            answer = self.session.ask(model.request | settings)
        except PeerError as error:
            return row(elbo=None, k=None, accuracy={}, error=str(error))
        weights = np.array(answer["log_weights"])
        seconds = {key: answer[key] for key in ("wall", "cpu", "compile_wall", "compile_cpu")}
        return seconds | row(
            elbo=float(weights.mean()),
            elbo_se=float(weights.std(ddof=1) / np.sqrt(weights.size)),
            k=pareto.smooth(weights).k,
            accuracy=accuracies(marginals(answer, model.terms), model),
        )


def accuracies(q: Mapping[str, Marginal], model: Model) -> dict[str, float]:
    """Shares of overlap with the exact posterior."""
    found = overlaps(q, model.marginals)
    return {str(name): float(value) for name, value in found.items()}


def row(
    *, elbo: float | None, k: float | None, accuracy: Mapping[str, float], elbo_se: float = 0.0, error: str = ""
) -> dict[str, Any]:
    """What is said of a fit beside its seconds; a number that is not finite is None."""
    finite = {name: value for name, value in accuracy.items() if np.isfinite(value)}
    return {
        "elbo": elbo if elbo is not None and np.isfinite(elbo) else None,
        "elbo_se": elbo_se if np.isfinite(elbo_se) else None,
        "k": k if k is not None and np.isfinite(k) else None,
        "accuracy": finite,
        "error": error,
    }


OURS = (Ours("structured-vi"), Ours("mfvi"))


def quadrature(model: Model) -> dict[str, Any]:
    """Seconds of the exact posterior, which is found once."""
    watch = Watch()
    with watch.running():
        _ = model.exact
    return watch.seconds | row(elbo=None, k=None, accuracy={})


def peers(session: Session) -> Sequence[Peer]:
    """Defaults, and runs that are ten times as long by an optimiser that gets there."""
    longer: Mapping[str, Any] = {"steps": 100_000, "rate": 0.005}
    return (
        Peer("PyMC ADVI, defaults", session, "pymc"),
        Peer("Bambi vi, defaults", session, "bambi"),
        Peer("PyMC ADVI, Adam, 100 000 steps", session, "pymc", **longer),
        Peer("PyMC full rank, Adam, 100 000 steps", session, "pymc", "fullrank_advi", **longer),
    )
