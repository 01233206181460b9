"""Random terms left out one at a time, and what the criterion loses."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..errors import ConvergenceWarning
from . import chi_bar, nesting, reml
from .cross_products import CrossProducts
from .design import Term
from .expression import deparse
from .formula import RandomTerm, parse
from .likelihood import Likelihood
from .lrt import tested
from .model_frame import build
from .standard import standard_term

if TYPE_CHECKING:
    from .result import MixedFit


@dataclass(frozen=True)
class Deletion:
    """What goes, and the terms that stay; of the term at `place`, `rest`."""

    label: str
    place: int
    rest: Term | None


def table(fit: "MixedFit") -> pd.DataFrame:
    """See `MixedFit.test_random_effects`."""
    p = len(fit.fixed_names)
    rows = {"<none>": _row(fit, fit.standard_theta.size + p + 1, fit.deviance) | tested(0.0, None)}
    for deletion in _deletions(fit):
        before = len(fit.data.design.terms[deletion.place].names)
        after = 0 if deletion.rest is None else len(deletion.rest.names)
        entries = fit.standard_theta.size - before * (before + 1) // 2 + after * (after + 1) // 2
        deviance = _deviance(fit, deletion)
        mixture = chi_bar.of_term([after] if after else [], before)
        rows[deletion.label] = _row(fit, entries + p + 1, deviance) | tested(deviance - fit.deviance, mixture)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("dropped")


def _row(fit: "MixedFit", npar: int, deviance: float) -> dict[str, object]:
    aic, bic = deviance + 2.0 * npar, deviance + float(np.log(fit.n)) * npar
    return {"npar": npar, "aic": aic, "bic": bic, "loglik": -0.5 * deviance}


def _deletions(fit: "MixedFit") -> Iterator[Deletion]:
    """All of them, term by term in the order of the formula."""
    for place, written in enumerate(parse(fit.data.design.formula).random):
        labels, products = written.basis.labels, written.basis.products
        for j, product in enumerate(products):
            if any(set(product) < set(other) for other in products):  # x stays as long as x:z is there
                continue
            rest = _without(fit.data, place, written, j)
            if rest is not None:
                yield Deletion(f"{labels[j]} in ({written})", place, rest)
                continue
            yield Deletion(f"({written})", place, None)
            break
        if not products:
            yield Deletion(f"({written})", place, None)


def _without(data: CrossProducts, place: int, written: RandomTerm, j: int) -> Term | None:
    """A random term without one of its products; None if what is left does not lie within it."""
    kept = [label for i, label in enumerate(written.basis.labels) if i != j]
    left = " + ".join(["1" if written.basis.intercept or not kept else "0", *kept])
    response = deparse(parse(data.design.formula).response)
    columns = pd.DataFrame({name: column.array for name, column in data.design.columns.items()})
    (rest,) = build(f"{response} ~ 1 + ({left} | {deparse(written.group)})", columns).terms
    inside = nesting.within(standard_term(rest, data.design.weights), data.terms[place])
    return rest if inside else None


def _deviance(fit: "MixedFit", deletion: Deletion) -> float:
    """The least deviance without what goes; without any random term that of least squares, which is the fit's at θ = 0."""
    terms = list(fit.data.design.terms)
    terms[deletion.place : deletion.place + 1] = [] if deletion.rest is None else [deletion.rest]
    if not terms:
        return fit.likelihood(np.zeros_like(fit.standard_theta)).deviance + fit.likelihood.constant
    likelihood = Likelihood(CrossProducts.of(replace(fit.data.design, terms=tuple(terms))), fit.reml)
    optimum = reml.fit(likelihood)
    if not optimum.minimum.converged:
        warnings.warn(f"The fit without {deletion.label} stopped before its optimum.", ConvergenceWarning, stacklevel=4)
    return optimum.deviance + likelihood.constant
