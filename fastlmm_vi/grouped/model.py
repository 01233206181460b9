"""The one door of the grouped model."""

import time
import warnings
from collections.abc import Mapping
from typing import Any, Literal, overload

from .. import threads
from ..errors import FitWarning
from ..progress import stages
from . import bayes_result, reml, sampling, variational
from .bayes_result import FACTORISATIONS_OF, BayesFit
from .cross_products import CrossProducts
from .mean_field_result import MeanFieldFit
from .model_frame import GroupedDesign, build
from .result import METHODS, MixedFit
from .sampled_result import SampledFit

BAYESIAN = (*bayes_result.METHODS, *sampling.METHODS)
THETA_BY = ("posterior", "elbo")


@overload
def lmm(
    formula: str,
    data: Any,
    *,
    method: Literal["reml", "ml"] = "reml",
    weights: Any = None,
    missing: str = "raise",
    max_iter: int | None = None,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> MixedFit: ...


@overload
def lmm(
    formula: str,
    data: Any,
    *,
    method: Literal["quadrature", "structured-vi", "mfvi"],
    priors: Mapping[str, Any] | None = None,
    factorisation: str | None = None,
    theta_by: Literal["posterior"] = "posterior",
    weights: Any = None,
    missing: str = "raise",
    max_iter: int | None = None,
    random_state: int | None = 0,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> BayesFit: ...


@overload
def lmm(
    formula: str,
    data: Any,
    *,
    method: Literal["laplace-is", "nuts", "auto"],
    priors: Mapping[str, Any] | None = None,
    weights: Any = None,
    missing: str = "raise",
    draws: int | None = None,
    tune: int | None = None,
    chains: int | None = None,
    target_accept: float | None = None,
    random_state: int | None = 0,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> SampledFit: ...


@overload
def lmm(
    formula: str,
    data: Any,
    *,
    method: Literal["mfvi"],
    theta_by: Literal["elbo"],
    factorisation: str | None = None,
    weights: Any = None,
    missing: str = "raise",
    max_iter: int | None = None,
    random_state: int | None = 0,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> MeanFieldFit: ...


def lmm(
    formula: str,
    data: Any,
    *,
    method: str = "reml",
    priors: Mapping[str, Any] | None = None,
    factorisation: str | None = None,
    theta_by: str = "posterior",
    weights: Any = None,
    missing: str = "raise",
    max_iter: int | None = None,
    draws: int | None = None,
    tune: int | None = None,
    chains: int | None = None,
    target_accept: float | None = None,
    random_state: int | None = 0,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> MixedFit | BayesFit | SampledFit | MeanFieldFit:
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
    method : {"reml", "ml", "quadrature", "laplace-is", "nuts", "auto", "structured-vi", "mfvi"}, default "reml"
        "reml", "ml": restricted or full maximum likelihood; the same optimum as `lmer(REML = TRUE / FALSE)`, to more digits.
        "quadrature": the exact posterior under `priors`, for up to four variance parameters.
        "nuts": the exact posterior by NUTS on the variance parameters alone, all effects integrated out (extra `bayes`).
        "laplace-is": the same by importance sampling from its mode, in less than a second and with the evidence, and with a
        warning where it fails. "auto": this, and NUTS where its weights are heavy (Pareto k̂ above 0.5).
        "structured-vi", "mfvi": variational Bayes, q(β, b) q(σ) Π q(Σ_l), or mean field, in which q(β) and the random
        effects of every term are apart too. Both are as fast for large data as "reml"; mean field's intervals of the fixed
        effects are too narrow where these are learned from few groups. `fit.diagnostics()` says what was lost.
    priors : mapping, optional
        Of the Bayesian methods, by brms' names: `{"beta": Normal(0, 10), "sigma": HalfNormal(5), "sd": {"subj":
        HalfNormal(5)}, "cor": LKJ(2)}`, or of single ones, `{"beta": {"Intercept": Normal(250, 100)}}`. Defaults in the units
        of the data for the rest: those of the R packages rstanarm (β) and brms (scales); the summary lists them.
        Variational Bayes has Huang and Wand's prior by default for three correlated effects or more.
    factorisation : {"joint", "group", "factor", "coefficient"}, optional
        Of q. "structured-vi" is "joint". "mfvi": "group" (default), the terms of the formula apart; "factor", grouping
        factors apart; "coefficient", all random effects apart, in the coordinates in which the formula gives them.
    theta_by : {"posterior", "elbo"}, default "posterior"
        Of "mfvi". "elbo": β, σ and the covariances are points that maximise the ELBO (variational EM, no priors).
    weights : column name or array (N,), optional
        Precisions: Var(ε_i) = σ² / w_i.
    missing : {"raise", "drop"}, default "raise"
        "drop" leaves rows with missing values out, and the fit counts them. As in R, `scale`, `center`, `poly` and `bs` look
        at all rows in which their own columns have values (R's `poly` refuses missing ones).
    max_iter : int, optional
        Default 200 steps of the search by likelihood, 1000 turns of variational Bayes.
    draws, tune, chains : int, optional
        Of NUTS: draws kept of every chain (1000), warm-up draws (200), chains (4). `draws` of "laplace-is", too (4000).
    target_accept : float, optional
        Of NUTS (0.8): nearer to 1 where trajectories diverge.
    random_state : int or None, default 0
        Of draws, and of the random one of the starts of variational Bayes.
    n_jobs : int or None
        Threads of the BLAS: None is 1, −1 all cores. Chains of NUTS that run at once: None is all cores.
    verbose : int, default 0
        1 shows progress.

    Returns
    -------
    MixedFit; BayesFit where the method is Bayesian, SampledFit, which is one, where it samples; MeanFieldFit where
    `theta_by="elbo"`

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
    _check(method, priors, factorisation, theta_by, max_iter)
    settings: dict[str, Any] = {"draws": draws, "tune": tune, "chains": chains, "target_accept": target_accept}
    given = {name: value for name, value in settings.items() if value is not None}
    _check_settings(method, given)
    start = time.perf_counter()
    design = build(formula, data, weights=weights, missing=missing)
    framed = time.perf_counter()
    with threads.limit(threads.count(n_jobs)), stages(verbose > 0) as show:
        show("cross products")
        products = CrossProducts.of(design)
        timings = {"design": framed - start, "cross products": time.perf_counter() - framed}
        notes = _notes(design, products)
        shared: dict[str, Any] = {"notes": notes, "timings": timings, "show": show}
        if method in METHODS:
            return MixedFit.of(products, formula, method, max_iter=max_iter or reml.MAX_ITER, **shared)
        if method in sampling.METHODS:
            cores = None if n_jobs is None else threads.count(n_jobs)
            chosen = sampling.Settings(**given, cores=cores, random_state=random_state)
            return SampledFit.sampled(products, formula, method, priors, chosen, **shared)
        shared |= {"max_iter": max_iter or variational.MAX_ITER, "random_state": random_state}
        if theta_by == "elbo":
            return MeanFieldFit.of(products, formula, factorisation or FACTORISATIONS_OF[method][0], **shared)
        return BayesFit.of(products, formula, method, priors, factorisation=factorisation, **shared)


def _check(method: str, priors: object, factorisation: str | None, theta_by: str, max_iter: int | None) -> None:
    """Refuse what is not known, and what does not go together."""
    known = (*METHODS, *BAYESIAN)
    if method not in known:
        raise ValueError(f"method={method!r} is not known: choose one of {', '.join(map(repr, known))}.")
    if theta_by not in THETA_BY:
        raise ValueError(f"theta_by={theta_by!r} is not known: choose one of {', '.join(map(repr, THETA_BY))}.")
    if priors is not None and method in METHODS:
        raise ValueError(f"priors are of Bayesian methods, {', '.join(map(repr, BAYESIAN))}: {method!r} has none.")
    if theta_by == "elbo" and method != "mfvi":
        raise ValueError(f"theta_by='elbo' is of method='mfvi', and method={method!r} was given: leave it out.")
    if theta_by == "elbo" and priors is not None:
        raise ValueError("theta_by='elbo' has points in place of posteriors, so no priors: drop priors, or theta_by.")
    choices = FACTORISATIONS_OF.get(method, ())
    if factorisation is not None and factorisation not in choices:
        fit = ", ".join(map(repr, choices)) if choices else "none"
        raise ValueError(f"factorisation={factorisation!r} is not one of method={method!r}: {fit}.")
    if max_iter is not None and (not isinstance(max_iter, int) or max_iter < 1):
        raise ValueError(f"max_iter={max_iter!r} is not a number of iterations: give 1, 2, …")


def _check_settings(method: str, given: Mapping[str, Any]) -> None:
    """Refuse settings of samplers where nothing is sampled."""
    allowed = {"nuts": set(given), "auto": set(given), "laplace-is": {"draws"}}.get(method, set())
    for name, value in given.items():
        if name not in allowed:
            raise ValueError(
                f"{name}={value!r} is a setting of method='nuts', and method={method!r} was given: leave it out."
            )


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
