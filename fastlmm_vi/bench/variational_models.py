"""Models whose exact posterior is known by quadrature, with their priors, in our words and in those of PyMC and Bambi."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from ..grouped.bayes_result import BayesFit
from ..grouped.marginals import Marginal
from ..grouped.model import lmm
from ..priors import LKJ, HalfNormal, Normal
from .grouped_models import LME4, read
from .tabulated import Tabulated

EXACT = "quadrature"


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """One model on one data set, its priors alike for everybody.

    Attributes
    ----------
    name, dataset, formula : str
        `formula` as `lmm` takes it.
    response : str
    beta : mapping of str to (mean, sd)
        Normal priors of the fixed effects, the intercept where all columns are 0.
    scale : float
        Of the half-normal priors of σ and of all standard deviations.
    terms : tuple of (factor, effects)
        Correlated within a term, with LKJ(1).
    bambi : str or None
        Bambi's formula; None where it has no such model.
    """

    name: str
    dataset: str
    formula: str
    response: str
    beta: Mapping[str, tuple[float, float]]
    scale: float
    terms: tuple[tuple[str, tuple[str, ...]], ...]
    bambi: str | None

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The data."""
        return read(LME4, self.dataset)

    @cached_property
    def priors(self) -> dict[str, Any]:
        """In our words."""
        half = HalfNormal(self.scale)
        found: dict[str, Any] = {
            "beta": {name: Normal(*at) for name, at in self.beta.items()},
            "sigma": half,
            "sd": half,
        }
        return found | ({"cor": LKJ(1.0)} if self.correlated else {})

    @property
    def correlated(self) -> bool:
        """Whether a term has several effects."""
        return any(len(effects) > 1 for _, effects in self.terms)

    def fit(self, method: str, **options: Any) -> BayesFit:
        """Fit by a method of ours."""
        found: BayesFit = lmm(self.formula, self.frame, method=method, priors=self.priors, **options)  # type: ignore[call-overload]
        return found

    @cached_property
    def exact(self) -> BayesFit:
        """The posterior by quadrature."""
        return self.fit(EXACT)

    @cached_property
    def marginals(self) -> Mapping[str, Marginal]:
        """Of the exact posterior."""
        return {name: Tabulated.of(marginal) for name, marginal in self.exact.posterior.marginals.items()}

    @property
    def request(self) -> dict[str, Any]:
        """In the words of `pymc_script`."""
        columns = [
            self.response,
            *(name for name in self.beta if name != "Intercept"),
            *{group for group, _ in self.terms},
        ]
        return {
            "response": self.response,
            "data": {name: self.frame[name].tolist() for name in columns},
            "beta": {name: list(at) for name, at in self.beta.items()},
            "sigma": self.scale,
            "terms": [{"group": group, "effects": list(effects), "sd": self.scale} for group, effects in self.terms],
            "bambi": self.bambi,
        }


SLEEPSTUDY: Mapping[str, Any] = {
    "dataset": "sleepstudy",
    "response": "Reaction",
    "beta": {"Intercept": (250.0, 100.0), "Days": (0.0, 50.0)},
    "scale": 50.0,
}
MODELS = (
    Model(
        name="sleepstudy_uncorrelated",
        formula="Reaction ~ Days + (Days || Subject)",
        terms=(("Subject", ("Intercept",)), ("Subject", ("Days",))),
        bambi="Reaction ~ Days + (Days|Subject)",  # without correlations
        **SLEEPSTUDY,
    ),
    Model(
        name="sleepstudy_correlated",
        formula="Reaction ~ Days + (Days | Subject)",
        terms=(("Subject", ("Intercept", "Days")),),
        bambi=None,
        **SLEEPSTUDY,
    ),
    Model(
        name="Penicillin",
        dataset="Penicillin",
        formula="diameter ~ 1 + (1 | plate) + (1 | sample)",
        response="diameter",
        beta={"Intercept": (20.0, 10.0)},
        scale=3.0,
        terms=(("plate", ("Intercept",)), ("sample", ("Intercept",))),
        bambi="diameter ~ 1 + (1|plate) + (1|sample)",
    ),
)
