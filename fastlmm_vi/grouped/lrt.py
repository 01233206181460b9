"""Likelihood-ratio tests of nested grouped models."""

import warnings
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..errors import FitWarning
from ..result import Array
from . import chi_bar, nesting
from .chi_bar import Mixture

if TYPE_CHECKING:
    from .result import MixedFit

SAME = 1e-8  # difference of two deviances that is rounding
WORSE = 1e-4  # by which the deviance of the larger model cannot lie above


def lrt(*fits: "MixedFit", refit: bool = True) -> pd.DataFrame:
    """Compare nested models by likelihood-ratio tests, each with the one before it, as R's `anova`.

    Parameters
    ----------
    *fits : MixedFit
        Two or more, of the same data. They are put in order of their number of parameters.
    refit : bool, default True
        Refit fits by REML by maximum likelihood, as lme4's `anova` does; the column `method` says so. False compares
        restricted likelihoods, which takes fixed parts of the same span: those of different X do not compare.

    Returns
    -------
    DataFrame
        A row per model, by its formula: `npar`, `method`, `aic`, `bic`, `loglik` (what was compared), `chisq`, `df`,
        `reference` and `p`. Models are nested where the columns of the smaller are linear combinations of those of the
        larger, of the random terms on the same groups, whatever their names: `x` lies within `poly(x, 2)` and
        `factor(x)`. Restricted likelihoods of two bases of the same span differ by a constant, which `chisq` leaves out.

        A variance that the smaller model lacks lies, under it, on the boundary of the larger: the
        reference is then a mixture of χ² distributions with different degrees of freedom, half each for one further random
        effect of a factor (Self and Liang, JASA 82, 1987; Stram and Lee, Biometrics 50, 1994). For two and more at once in
        a term no simple mixture is known, and χ² with all degrees of freedom is used: p is then too large, never too
        small. New variances of several terms are taken to be estimated independently, which they nearly are in crossed
        designs; for nested factors p is then somewhat too large, for an intercept and a slope apart in very small groups
        too small (a test at 5 % may reject 6 %).

    Raises
    ------
    ValueError
        If the fits are of different data, or not nested, or not comparable as they are.

    Examples
    --------
    >>> import numpy as np, pandas as pd, fastlmm_vi as fl
    >>> rng = np.random.default_rng(0)
    >>> df = pd.DataFrame({"g": np.repeat(list("abcdefgh"), 10), "x": np.tile(np.arange(10.0), 8)})
    >>> df["y"] = 0.5 * df["x"] + np.repeat(rng.normal(size=8), 10) + rng.normal(size=80)
    >>> table = fl.lrt(fl.lmm("y ~ 1 + (1 | g)", df), fl.lmm("y ~ x + (1 | g)", df))
    >>> table["df"].tolist()[1], table["reference"].tolist()[1], table["method"].tolist()[1]
    (1.0, 'χ²(1)', 'ml, refitted')
    """
    if len(fits) < 2:
        raise ValueError("lrt needs two or more fits, the larger model last: lrt(small, large).")
    order = sorted(fits, key=lambda fit: fit.n_parameters)
    _check_data(order)
    methods = ["ml, refitted" if refit and fit.reml else fit.method for fit in order]
    if refit:
        order = [fit.refit("ml") if fit.reml else fit for fit in order]
    else:
        _check_criteria(order)
    rows = [_row(order[0], None), *(_row(large, small) for small, large in pairwise(order))]
    table = pd.DataFrame(rows, index=pd.Index([fit.formula for fit in order], name="model"))
    table.insert(1, "method", methods)
    return table


def _check_data(fits: "list[MixedFit]") -> None:
    """Refuse fits of different rows, weights or offsets."""
    first = fits[0].data.design
    for fit in fits[1:]:
        design = fit.data.design
        if fit.n != fits[0].n or not np.array_equal(design.y, first.y):
            raise ValueError(
                f"{fit.formula!r} and {fits[0].formula!r} were fitted to different data (or rows in another order): "
                "missing values may have left out different rows."
            )
        for name in ("weights", "offset"):
            if not np.array_equal(_or_none(getattr(design, name)), _or_none(getattr(first, name))):
                raise ValueError(
                    f"{fit.formula!r} and {fits[0].formula!r} have different {name}: fit both with the same."
                )


def _or_none(values: Array | None) -> Array:
    return np.zeros(0) if values is None else values


def _check_criteria(fits: "list[MixedFit]") -> None:
    """Refuse criteria that do not compare: of two methods, or by REML of fixed parts with different spans."""
    if len({fit.method for fit in fits}) > 1:
        raise ValueError(
            "the fits are by REML and by maximum likelihood, whose criteria do not compare: leave refit=True, or fit all by "
            "the same method."
        )
    for small, large in pairwise(fits) if fits[0].reml else ():
        lost = nesting.fixed_outside(small.data, large.data) or nesting.fixed_outside(large.data, small.data)
        if lost:
            raise ValueError(
                f"{small.formula!r} and {large.formula!r} differ in their fixed effects ({', '.join(lost)}): restricted "
                "likelihoods of different X do not compare. Leave refit=True, which compares them by maximum likelihood."
            )


def _row(fit: "MixedFit", smaller: "MixedFit | None") -> dict[str, object]:
    row: dict[str, object] = {"npar": fit.n_parameters, "aic": fit.aic, "bic": fit.bic, "loglik": fit.criterion}
    if smaller is None:
        return {**row, **tested(0.0, None)}
    return {**row, **tested(_invariant(smaller) - _invariant(fit), reference(smaller, fit))}


def _invariant(fit: "MixedFit") -> float:
    """The deviance, by REML without the log|XᵀX| that depends on the basis of the span of X."""
    return fit.deviance - (fit.data.fixed.logdet if fit.reml else 0.0)


def tested(chisq: float, mixture: Mixture | None) -> dict[str, object]:
    """Return the columns of a table that hold the test of a statistic; without a mixture those of no test."""
    if mixture is None:
        return {"chisq": np.nan, "df": np.nan, "reference": "", "p": np.nan}
    if chisq < -WORSE:
        warnings.warn(
            f"A model fits worse than one that is nested in it, by {-chisq:.2g} of the deviance: its fit is a local optimum. "
            "There is no test; look at its random effects.",
            FitWarning,
            stacklevel=4,
        )
        return {"chisq": chisq, "df": float(max(mixture)), "reference": chi_bar.name(mixture), "p": np.nan}
    chisq = 0.0 if chisq < SAME else chisq
    p = chi_bar.p_value(chisq, mixture)
    return {"chisq": chisq, "df": float(max(mixture)), "reference": chi_bar.name(mixture), "p": p}


def reference(small: "MixedFit", large: "MixedFit") -> Mixture:
    """Distribution of the statistic under the smaller model, as weights of χ² distributions.

    Raises
    ------
    ValueError
        If the models are not nested.
    """
    lost = nesting.fixed_outside(small.data, large.data)
    if lost:
        raise ValueError(f"{small.formula!r} is not nested in {large.formula!r}, which lacks {', '.join(lost)}.")
    mixture: Mixture = {len(large.fixed_names) - len(small.fixed_names): 1.0}
    left = list(zip(small.data.design.terms, small.data.terms, strict=True))
    for term, basis in zip(large.data.design.terms, large.data.terms, strict=True):
        inside = [
            known
            for known in left
            if nesting.same_groups(known[0].factor, term.factor) and nesting.within(known[1], basis)
        ]
        mixture = chi_bar.plus(mixture, chi_bar.of_term([len(known.names) for known, _ in inside], len(term.names)))
        left = [known for known in left if known not in inside]
    if left:
        lacking = left[0][0]
        raise ValueError(
            f"{small.formula!r} is not nested in {large.formula!r}, which has no term on {lacking.factor.name} with "
            f"{', '.join(lacking.names)}."
        )
    if max(mixture) == 0:
        raise ValueError(f"{small.formula!r} and {large.formula!r} are the same model.")
    return mixture
