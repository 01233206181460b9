"""The pieces of a grouped fit: design, cross products, an evaluation of the criterion, and the search."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from .. import __version__
from ..grouped.cross_products import CrossProducts
from ..grouped.likelihood import Likelihood
from ..grouped.model_frame import GroupedDesign, build
from ..grouped.result import MixedFit
from . import cpu
from .grouped_contenders import LME4, OURS
from .grouped_fits import best
from .grouped_measure import Job, key
from .grouped_models import INSTEVAL, SLEEPSTUDY, Model
from .lme4 import Session

QUESTION = "Pieces of a fit by REML"


@dataclass(frozen=True, eq=False)
class Parts:
    """What the pieces start from; each part is made when first used."""

    model: Model

    @cached_property
    def design(self) -> GroupedDesign:
        """The model's design."""
        return build(self.model.formula, self.model.frame)

    @cached_property
    def fit(self) -> MixedFit:
        """The fit at whose θ̂ the criterion is evaluated."""
        return best(self.model)

    @cached_property
    def twice(self) -> Model:
        """The same model with every row repeated."""
        frame = pd.concat([self.model.frame, self.model.frame], ignore_index=True)
        return self.model.on(f"{self.model.name}_twice", frame)

    def make_design(self) -> Callable[[], object]:
        """From data frame to design."""
        return lambda: build(self.model.formula, self.model.frame)

    def make_products(self) -> Callable[[], object]:
        """From design to cross products."""
        design = self.design
        return lambda: CrossProducts.of(design)

    def fit_design(self) -> Callable[[], object]:
        """From design to optimum."""
        design = self.design
        return lambda: MixedFit.of(CrossProducts.of(design), self.model.formula, "reml")

    def evaluate(self) -> Callable[[], float]:
        """Criterion and gradient at θ̂."""
        likelihood, theta, constant = self.fit.likelihood, self.fit.standard_theta, self.fit.likelihood.constant
        return lambda: likelihood(theta).deviance + constant

    def evaluate_twice(self) -> Callable[[], float]:
        """The same at the same θ, with every row of the data repeated."""
        likelihood = Likelihood(CrossProducts.of(build(self.model.formula, self.twice.frame)), True)
        theta, constant = self.fit.standard_theta, likelihood.constant
        return lambda: likelihood(theta).deviance + constant


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One of them.

    Attributes
    ----------
    name, title : str
    parts : Parts
    ours : callable
        Method of `Parts` that returns what is timed.
    lme4 : str or None
        Its counterpart in lme4.R.
    twice : bool
        Whether that is on the repeated rows.
    yardstick : str or None
        Another piece of ours.
    """

    name: str
    title: str
    parts: Parts
    ours: Callable[[Parts], Callable[[], Any]]
    lme4: str | None = None
    twice: bool = False
    yardstick: str | None = None


SMALL, LARGE = Parts(SLEEPSTUDY), Parts(INSTEVAL)
PIECES = (
    Piece(name="sleepstudy_design", title="sleepstudy: design", parts=SMALL, ours=Parts.make_design, lme4="design"),
    Piece(
        name="sleepstudy_fit",
        title="sleepstudy: fit, from the design",
        parts=SMALL,
        ours=Parts.fit_design,
        lme4="optimise",
    ),
    Piece(
        name="sleepstudy_evaluation",
        title="sleepstudy: one evaluation",
        parts=SMALL,
        ours=Parts.evaluate,
        lme4="evaluation",
    ),
    Piece(name="InstEval_design", title="InstEval: design", parts=LARGE, ours=Parts.make_design, lme4="design"),
    Piece(name="InstEval_cross_products", title="InstEval: cross products", parts=LARGE, ours=Parts.make_products),
    Piece(
        name="InstEval_evaluation",
        title="InstEval: one evaluation",
        parts=LARGE,
        ours=Parts.evaluate,
        lme4="evaluation",
    ),
    Piece(
        name="InstEval_evaluation_twice",
        title="InstEval: one evaluation, every row twice",
        parts=LARGE,
        ours=Parts.evaluate_twice,
        lme4="evaluation",
        twice=True,
        yardstick="InstEval_evaluation",
    ),
)


def jobs(session: Session | None, pieces: Sequence[Piece] = PIECES) -> list[Job]:
    """Return the pieces, and lme4's counterparts where R runs."""
    found = []
    for piece in pieces:
        run = piece.ours(piece.parts)
        found.append(_ours(piece, run))
        if session and piece.lme4:
            found.append(_lme4(piece, session, run))
    return found


def _ours(piece: Piece, run: Callable[[], Any]) -> Job:
    return Job(
        name=piece.name,
        package=OURS,
        version=__version__,
        question=QUESTION,
        run=lambda: cpu.seconds(run),
        yardstick=piece.yardstick and key(piece.yardstick, OURS),
        info={"title": piece.title},
    )


def _lme4(piece: Piece, session: Session, ours: Callable[[], Any]) -> Job:
    model = piece.parts.twice if piece.twice else piece.parts.model
    theta = ",".join(map(repr, piece.parts.fit.theta.tolist()))
    session.add(model.name, model.frame, model.factors)

    def describe(answer: Mapping[str, Sequence[float]]) -> dict[str, float | None]:
        return {"error": answer["value"][0] - ours() if answer["value"] else None}

    return Job(
        name=piece.name,
        package=LME4,
        version=str(session.versions[LME4]),
        question=QUESTION,
        run=lambda: session.timed("piece", model.name, model.formula, piece.lme4, theta, cpu.LEAST),
        describe=describe,
        yardstick=key(piece.name, OURS),
        info={"title": piece.title},
    )
