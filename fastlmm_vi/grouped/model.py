"""The one door of the grouped model."""

import time
import warnings
from collections.abc import Mapping
from typing import Any, Literal, overload

from .. import threads
from ..errors import FitWarning
from ..progress import stages
from .bayes_result import BayesFit
from .cross_products import CrossProducts
from .model_frame import GroupedDesign, build
from .result import METHODS, MixedFit

BAYESIAN = ("quadrature",)


@overload
def lmm(
    formula: str,
    data: Any,
    *,
    method: Literal["reml", "ml"] = "reml",
    weights: Any = None,
    missing: str = "raise",
    max_iter: int = 200,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> MixedFit: ...


@overload
def lmm(
    formula: str,
    data: Any,
    *,
    method: Literal["quadrature"],
    priors: Mapping[str, Any] | None = None,
    weights: Any = None,
    missing: str = "raise",
    n_jobs: int | None = None,
    verbose: int = 0,
) -> BayesFit: ...


def lmm(
    formula: str,
    data: Any,
    *,
    method: str = "reml",
    priors: Mapping[str, Any] | None = None,
    weights: Any = None,
    missing: str = "raise",
    max_iter: int = 200,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> MixedFit | BayesFit:
    """Fit the grouped linear mixed model y = Xβ + Σ_l Z_l b_l + ε of an lme4 formula.

    Parameters
    ----------
    formula : str
        As for R's `lmer`: `"y ~ x + (1 + x | g)"`, `(x || g)`, `(1 | a/b)`, several terms, `offset(z)`; R's functions and
        names of coefficients.
    data : DataFrame
        pandas, polars, or a mapping of columns. Text, bool and categorical columns are factors, numbers are numbers: write
        `factor(year)` for a factor. Levels have the order of a Categorical, else that of their labels, text by code point (B
        before a; in R that depends on the language): the first is the reference, `relevel(f, ref="b")` takes another.
        Ordered Categoricals, those of `pd.cut` among them, have polynomial contrasts as R's ordered factors, `o.L`, `o.Q`,
        …; `factor(o, ordered=FALSE)` has treatment contrasts.
    method : {"reml", "ml", "quadrature"}, default "reml"
        Restricted or full maximum likelihood; the same optimum as `lmer(REML = TRUE / FALSE)`, to more digits. "quadrature":
        the exact posterior under `priors`, for up to four variance parameters.
    priors : mapping, optional
        Of the Bayesian methods, by brms' names: `{"beta": Normal(0, 10), "sigma": HalfNormal(5), "sd": {"subj":
        HalfNormal(5)}, "cor": LKJ(2)}`, or of single ones, `{"beta": {"Intercept": Normal(250, 100)}}`. Defaults in the units
        of the data for the rest: those of the R packages rstanarm (β) and brms (scales); the summary lists them.
    weights : column name or array (N,), optional
        Precisions: Var(ε_i) = σ² / w_i.
    missing : {"raise", "drop"}, default "raise"
        "drop" leaves rows with missing values out, and the fit counts them. As in R, `scale`, `center`, `poly` and `bs` look
        at all rows in which their own columns have values (R's `poly` refuses missing ones).
    max_iter : int, default 200
    n_jobs : int or None
        Threads of the BLAS: None is 1, −1 all cores.
    verbose : int, default 0
        1 shows progress.

    Returns
    -------
    MixedFit, or BayesFit where the method is Bayesian

    Raises
    ------
    FormulaError, DataError
        If the formula or the data cannot be used; the message names the term or column, and the cure.

    Warns
    -----
    ConvergenceWarning
        If the optimum was not reached.
    FitWarning
        If columns of X were left out, as they depend on others.

    Notes
    -----
    Profiled deviance after Bates, Mächler, Bolker and Walker (Journal of Statistical Software 67(1), 2015) with its analytic
    gradient, from cross products in group blocks: after one pass over the data no evaluation depends on N. One letter of
    warning: here, as in lme4, X has the *fixed* effects; in `WideLMM` X has the random ones.

    Examples
    --------
    >>> import numpy as np, pandas as pd, fastlmm_vi as fl
    >>> rng = np.random.default_rng(0)
    >>> df = pd.DataFrame({"g": np.repeat(list("abcdefgh"), 10), "x": np.tile(np.arange(10.0), 8)})
    >>> df["y"] = 1.0 + 0.5 * df["x"] + np.repeat(rng.normal(size=8), 10) + rng.normal(size=80)
    >>> fit = fl.lmm("y ~ x + (1 | g)", df)
    >>> fit.fixed_effects.round(3).to_dict()
    {'(Intercept)': 1.313, 'x': 0.526}
    >>> fit.converged
    True
    """
    if method not in (*METHODS, *BAYESIAN):
        raise ValueError(
            f"method={method!r} is not known: choose one of {', '.join(map(repr, (*METHODS, *BAYESIAN)))}."
        )
    if priors is not None and method in METHODS:
        raise ValueError(f"priors are of Bayesian methods, {', '.join(map(repr, BAYESIAN))}: {method!r} has none.")
    if not isinstance(max_iter, int) or max_iter < 1:
        raise ValueError(f"max_iter={max_iter!r} is not a number of iterations: give 1, 2, …")
    start = time.perf_counter()
    design = build(formula, data, weights=weights, missing=missing)
    framed = time.perf_counter()
    with threads.limit(threads.count(n_jobs)), stages(verbose > 0) as show:
        show("cross products")
        products = CrossProducts.of(design)
        timings = {"design": framed - start, "cross products": time.perf_counter() - framed}
        notes = _notes(design, products)
        if method in BAYESIAN:
            return BayesFit.of(products, formula, priors, notes=notes, timings=timings, show=show)
        return MixedFit.of(products, formula, method, max_iter=max_iter, notes=notes, timings=timings, show=show)


def _notes(design: GroupedDesign, products: CrossProducts) -> tuple[str, ...]:
    """What was left out, and how much of it."""
    notes = []
    if len(products.fixed.kept) < len(design.fixed_names):
        lost = [name for j, name in enumerate(design.fixed_names) if j not in products.fixed.kept]
        notes.append(f"Fixed effects left out, as they depend linearly on others: {', '.join(lost)}.")
        warnings.warn(notes[0], FitWarning, stacklevel=3)
    if design.n_missing:
        notes.append(f"Rows with missing values left out: {design.n_missing}.")
    for name, count in design.unused_levels.items():
        notes.append(f"Levels of {name} that do not occur in the data, and were left out: {count}.")
    return tuple(notes)
