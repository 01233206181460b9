"""The same model fitted by fastlmm_vi, by statsmodels and by lme4: what is timed, and what each finds."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import metadata, util
from typing import Any, ClassVar

import numpy as np

from .. import __version__
from ..grouped.model import lmm
from ..grouped.parameters import names, plain, values
from ..grouped.result import MixedFit
from ..grouped.solution import Solution
from . import cpu
from .grouped_models import MixedLM, Model
from .lme4 import RError, Session
from .outcome import Outcome, heard

OURS, STATSMODELS, LME4 = NAMES = ("fastlmm_vi", "statsmodels", "lme4")


class Contender(ABC):
    """Software that fits models from a data frame: to fixed effects with standard errors, and variances."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def version(self) -> str:
        """Version of the package."""

    def takes(self, model: Model) -> bool:
        """Whether it can express the model."""
        return True

    @abstractmethod
    def timed(self, model: Model) -> cpu.Timed:
        """Return a whole fit by REML that returns its seconds of the processor."""

    @abstractmethod
    def outcome(self, model: Model, *, reml: bool = True) -> Outcome:
        """Fit once, and return what was found and said."""


class Ours(Contender):
    """`fastlmm_vi.lmm`."""

    name = OURS
    version = __version__

    def timed(self, model: Model) -> cpu.Timed:
        """By REML, with what the others' fits hold when they are returned."""

        def run() -> object:
            fit = self.fit(model)
            return fit.fixed_effects, fit.se, fit.varcorr

        return lambda: cpu.seconds(run)

    def fit(self, model: Model, *, reml: bool = True) -> MixedFit:
        """Fit the model."""
        return lmm(model.formula, model.frame, method="reml" if reml else "ml")

    def outcome(self, model: Model, *, reml: bool = True) -> Outcome:
        """What it finds and says."""
        fit, messages = heard(lambda: self.fit(model, reml=reml))
        messages += ["singular"] if fit.singular else []
        return Outcome(deviance=fit.deviance, sd=standard_deviations(fit, fit.solution), messages=messages)


class Statsmodels(Contender):
    """`mixedlm` as it comes. Its restricted likelihood has the constants of lme4's, and of ours."""

    name = STATSMODELS

    @property
    def version(self) -> str:
        """Version of the package."""
        return metadata.version(self.name)

    def takes(self, model: Model) -> bool:
        """A single grouping factor, or factors nested in one."""
        return model.statsmodels is not None

    def timed(self, model: Model) -> cpu.Timed:
        """By REML."""
        fit = self.prepare(model)

        def run() -> object:
            found = fit(True)
            return found.fe_params, found.bse_fe, found.cov_re

        return lambda: cpu.seconds(run)

    def prepare(self, model: Model) -> Callable[[bool], Any]:
        """Return the function that fits the model by REML (True) or by ML."""
        make = self.model(model)
        return lambda reml: make().fit(reml=reml)

    def model(self, model: Model) -> Callable[[], Any]:
        """Return the function that makes statsmodels' model of the data frame."""
        from statsmodels.formula.api import mixedlm

        words = self._words(model)
        groups = model.frame[words.groups.split(":")].astype(str).agg(":".join, axis=1)
        options = {"re_formula": words.re_formula, "vc_formula": words.vc_formula}
        return lambda: mixedlm(words.formula, model.frame, groups=groups, **options)

    def outcome(self, model: Model, *, reml: bool = True) -> Outcome:
        """What it finds and says."""
        fit = self.prepare(model)
        try:
            found, messages = heard(lambda: fit(reml))
        except (np.linalg.LinAlgError, ValueError) as error:
            return Outcome(deviance=None, messages=[f"{type(error).__name__}: {error}"])
        sd = np.sqrt([*np.diag(np.atleast_2d(found.cov_re)), *found.vcomp, found.scale]).tolist()
        labelled = dict(zip([*self._words(model).sd, "sigma"], sd, strict=True))
        return Outcome(deviance=-2.0 * float(found.llf), sd=labelled, messages=messages)

    @staticmethod
    def _words(model: Model) -> MixedLM:
        assert model.statsmodels is not None
        return model.statsmodels


class Lme4(Contender):
    """`lmer` with its own defaults, in a running R."""

    name = LME4

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def version(self) -> str:
        """Version of the package."""
        return str(self.session.versions[self.name])

    def timed(self, model: Model) -> cpu.Timed:
        """By REML; the seconds are R's."""
        return lambda: self.fit(model, reml=True, least=cpu.LEAST)

    def fit(self, model: Model, *, reml: bool, least: float = 0.0) -> tuple[float, dict[str, list[Any]]]:
        """Fit the model, again and again for at least so many seconds."""
        self.session.add(model.name, model.frame, model.factors)
        return self.session.timed("fit", model.name, model.formula, str(reml).upper(), least)

    def outcome(self, model: Model, *, reml: bool = True) -> Outcome:
        """What it finds and says."""
        try:
            _, found = self.fit(model, reml=reml)
        except RError as error:
            return Outcome(deviance=None, messages=[str(error)])
        labels = [
            f"sd_{group}__{plain(effect)}" if effect else "sigma"
            for group, effect in zip(found["group"], found["effect"], strict=True)
        ]
        sd = dict(zip(labels, found["sd"], strict=True))
        return Outcome(deviance=found["deviance"][0], sd=sd, messages=found["messages"])


def contenders(session: Session | None, peers: bool = True) -> list[Contender]:
    """Return what is installed and wanted, ours first."""
    found: list[Contender] = [Ours()]
    found += [Statsmodels()] if peers and util.find_spec(STATSMODELS) else []
    return [*found, Lme4(session)] if session else found


def standard_deviations(fit: MixedFit, solution: Solution) -> dict[str, float]:
    """Those of the random effects, and σ, at a solution of the fit's equations."""
    found = zip(names(fit.data.design.terms), values(solution).tolist(), strict=True)
    return {name: value for name, value in found if not name.startswith("cor_")}
