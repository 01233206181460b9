"""Whole fits by REML from a data frame, side by side."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from ..grouped.result import MixedFit
from ..grouped.solution import Solution
from ..grouped.trust_region import differences, newton_step
from .grouped_contenders import OURS, Contender, Ours, standard_deviations
from .grouped_measure import Job, key
from .grouped_models import MODELS, Model
from .outcome import largest_relative

QUESTION = "Whole fits from a data frame, by REML"


def name(model: Model) -> str:
    """Name of a model's row.

    Examples
    --------
    >>> from fastlmm_vi.bench import grouped_fits
    >>> grouped_fits.name(grouped_fits.MODELS[0])
    'fit_sleepstudy'
    """
    return f"fit_{model.name}"


def jobs(contenders: Sequence[Contender], models: Iterable[Model] = MODELS) -> list[Job]:
    """Return the fits of every model by all who can express it."""
    return [_job(contender, model) for model in models for contender in contenders if contender.takes(model)]


def _job(contender: Contender, model: Model) -> Job:
    return Job(
        name=name(model),
        package=contender.name,
        version=contender.version,
        question=QUESTION,
        run=contender.timed(model),
        describe=lambda _: accuracy(contender, model),
        yardstick=None if contender.name == OURS else key(name(model), OURS),
        info={"model": model.name, "formula": model.formula, "rows": len(model.frame)},
    )


def accuracy(contender: Contender, model: Model) -> Mapping[str, Any]:
    """Return by how much the criterion −2ℓ lies above ours, and the largest relative difference of a standard deviation.

    Of our own fit: what another Newton step at its optimum promises to change.
    """
    truth = best(model)
    if isinstance(contender, Ours):
        error, sd_error = promised(truth)
        return {"error": error, "sd_error": sd_error, "deviance": truth.deviance, "mark": "", "messages": []}
    found = contender.outcome(model)
    if found.deviance is None:
        return {"error": None, "sd_error": None, "deviance": None, "mark": found.mark, "messages": [*found.messages]}
    return {
        "error": found.deviance - truth.deviance,
        "sd_error": largest_relative(found.sd, standard_deviations(truth, truth.solution)),
        "deviance": found.deviance,
        "mark": found.mark,
        "messages": [*found.messages],
    }


@cache
def best(model: Model) -> MixedFit:
    """Our fit by REML, which the others are held against."""
    return Ours().fit(model)


def promised(fit: MixedFit) -> tuple[float, float]:
    """What another Newton step at the optimum would change: −2ℓ, and a standard deviation, relative, at most."""
    likelihood, theta = fit.likelihood, fit.standard_theta
    gradient = likelihood(theta).gradient
    step, decrease = newton_step(gradient, differences(likelihood, theta, gradient), 1.0)
    here, there = (standard_deviations(fit, Solution(likelihood, at)) for at in (theta, theta + step))
    return decrease, largest_relative(there, here)
