"""Likelihood-ratio tests of nested grouped models."""

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
import scipy.stats

from ..result import Array
from .result import MixedFit

SAME = 1e-8  # difference of two deviances that is rounding
Mixture = Mapping[int, float]  # degrees of freedom → weight


def lrt(*fits: MixedFit) -> pd.DataFrame:
    """Compare nested models by likelihood-ratio tests, each with the one before it, as R's `anova`.

    Parameters
    ----------
    *fits : MixedFit
        Two or more, of the same data. They are put in order of their number of parameters. Where fixed effects differ, or
        methods do, fits by REML are refitted by maximum likelihood, as in R: restricted likelihoods of different X do not
        compare.

    Returns
    -------
    DataFrame
        A row per model, by its formula: `npar`, `aic`, `bic`, `loglik` (what was compared), `chisq`, `df`, `reference`
        and `p`. A variance that the smaller model lacks lies, under it, on the boundary of the larger: the reference is
        then a mixture of χ² distributions with different degrees of freedom, half each for one further random effect of a
        factor (Self and Liang, JASA 82, 1987; Stram and Lee, Biometrics 50, 1994). For two and more at once in a term no
        simple mixture is known, and χ² with all degrees of freedom is used: p is then too large, never too small. New
        variances of several terms are taken to be estimated independently, which they nearly are in crossed designs; for
        nested factors p is then somewhat too large, for an intercept and a slope apart in very small groups too small
        (a test at 5 % may reject 6 %).

    Raises
    ------
    ValueError
        If the fits are of different data, or not nested.

    Examples
    --------
    >>> import numpy as np, pandas as pd, fastlmm_vi as fl
    >>> rng = np.random.default_rng(0)
    >>> df = pd.DataFrame({"g": np.repeat(list("abcdefgh"), 10), "x": np.tile(np.arange(10.0), 8)})
    >>> df["y"] = 0.5 * df["x"] + np.repeat(rng.normal(size=8), 10) + rng.normal(size=80)
    >>> table = fl.lrt(fl.lmm("y ~ 1 + (1 | g)", df), fl.lmm("y ~ x + (1 | g)", df))
    >>> table["df"].tolist()[1], table["reference"].tolist()[1]
    (1.0, 'χ²(1)')
    """
    if len(fits) < 2:
        raise ValueError("lrt needs two or more fits, the larger model last: lrt(small, large).")
    order = sorted(fits, key=lambda fit: fit.n_parameters)
    first = order[0].data.design
    for fit in order[1:]:
        design = fit.data.design
        if fit.n != order[0].n or not np.array_equal(design.y, first.y):
            raise ValueError(
                f"{fit.formula!r} and {order[0].formula!r} were fitted to different data (or rows in another order): "
                "missing values may have left out different rows."
            )
        for name in ("weights", "offset"):
            if not np.array_equal(_or_none(getattr(design, name)), _or_none(getattr(first, name))):
                raise ValueError(
                    f"{fit.formula!r} and {order[0].formula!r} have different {name}: fit both with the same."
                )
    if len({(fit.method, fit.fixed_names) for fit in order}) > 1:
        order = [fit.refit("ml") if fit.reml else fit for fit in order]
    rows = [_row(order[0], None), *(_row(large, small) for small, large in pairwise(order))]
    return pd.DataFrame(rows, index=pd.Index([fit.formula for fit in order], name="model"))


def _or_none(values: Array | None) -> Array:
    return np.zeros(0) if values is None else values


def _row(fit: MixedFit, smaller: MixedFit | None) -> dict[str, object]:
    row: dict[str, object] = {"npar": fit.n_parameters, "aic": fit.aic, "bic": fit.bic, "loglik": fit.criterion}
    if smaller is None:
        return {**row, "chisq": np.nan, "df": np.nan, "reference": "", "p": np.nan}
    mixture = reference(smaller, fit)
    chisq = smaller.deviance - fit.deviance
    chisq = 0.0 if chisq < SAME else chisq
    p = sum(weight * (scipy.stats.chi2.sf(chisq, df) if df else float(chisq <= 0.0)) for df, weight in mixture.items())
    return {**row, "chisq": chisq, "df": float(max(mixture)), "reference": _name(mixture), "p": float(p)}


def reference(small: MixedFit, large: MixedFit) -> Mixture:
    """Distribution of the statistic under the smaller model, as weights of χ² distributions.

    Raises
    ------
    ValueError
        If the models are not nested.
    """
    if not set(small.fixed_names) <= set(large.fixed_names):
        lost = ", ".join(sorted(set(small.fixed_names) - set(large.fixed_names)))
        raise ValueError(f"{small.formula!r} is not nested in {large.formula!r}, which lacks {lost}.")
    fixed = len(large.fixed_names) - len(small.fixed_names)
    mixture: Mixture = {fixed: 1.0}
    left = [(term.factor.name, frozenset(term.names)) for term in small.data.design.terms]
    for term in large.data.design.terms:
        inside = [known for known in left if known[0] == term.factor.name and known[1] <= frozenset(term.names)]
        for known in inside:
            left.remove(known)
        mixture = _plus(mixture, _added([len(names) for _, names in inside], len(term.names)))
    if left:
        raise ValueError(
            f"{small.formula!r} is not nested in {large.formula!r}, which has no term on {left[0][0]} with "
            f"{', '.join(sorted(left[0][1]))}."
        )
    if max(mixture) == 0:
        raise ValueError(f"{small.formula!r} and {large.formula!r} are the same model.")
    return mixture


def _added(before: list[int], after: int) -> Mixture:
    """What a term adds that had blocks of these sizes before: covariances, and on the boundary variances."""
    variances = after - sum(before)
    total = after * (after + 1) // 2 - sum(d * (d + 1) // 2 for d in before)
    return {total - 1: 0.5, total: 0.5} if variances == 1 and len(before) <= 1 else {total: 1.0}


def _plus(a: Mixture, b: Mixture) -> Mixture:
    """The sum of two independent statistics."""
    out: dict[int, float] = {}
    for df, weight in a.items():
        for more, other in b.items():
            out[df + more] = out.get(df + more, 0.0) + weight * other
    return out


def _name(mixture: Mixture) -> str:
    """As a formula: ½ χ²(0) + ½ χ²(1)."""
    if len(mixture) == 1:
        return f"χ²({next(iter(mixture))})"
    parts = []
    for df, weight in sorted(mixture.items()):
        numerator, denominator = weight.as_integer_ratio()
        parts.append(f"{'½' if math.isclose(weight, 0.5) else f'{numerator}/{denominator}'} χ²({df})")
    return " + ".join(parts)
