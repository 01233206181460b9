"""Fits of the same data side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .result import Fit

if TYPE_CHECKING:
    from .grouped.bayes_result import BayesFit
    from .grouped.mean_field_result import MeanFieldFit
    from .grouped.result import MixedFit


def compare(*fits: object, names: list[str] | None = None) -> pd.DataFrame:
    """Return a table of fits, one column each: estimates, criteria, and of wide fits posteriors of β against the first's.

    Parameters
    ----------
    *fits : Fit or fitted estimator, or what `lmm` returns
        At least one; all wide or all grouped, and of the same data.
    names : list of str, optional
        Column names; default the methods, numbered where they repeat.

    Returns
    -------
    DataFrame
        Rows of wide fits: intercept and ω (`omega[name]`), `sigma2_beta`, `sigma2_e`, `pve`, `loglik`,
        `criterion` (what each maximised), `elbo`, `gap` (`log_evidence` too, where a fit is Bayesian),
        `beta_mean_correlation`, `beta_mean_rmse` (posterior means against the first fit's), `beta_var_ratio` (mean of
        Var(β_j) over the first fit's), `n_iter`, `converged`, `status`, `seconds`. Rows of grouped fits: every parameter
        but the random effects by its name in `to_frame` (Bayesian methods: its posterior mean), NaN where a model lacks it,
        then `formula`, `n_parameters`, `loglik`, `criterion` (what each maximised; the log evidence of an exact posterior),
        `elbo`, `log_evidence`, `aic`, `bic` (both of the criterion), `n_iter`, `converged`, `status`, `seconds`; of those
        in the middle the ones that some fit has.

    Raises
    ------
    ValueError
        If the fits are of data of different size or response, or some are wide and some grouped.

    Notes
    -----
    Means of different methods agree at the same θ and not at each one's own; see docs/derivation.md, section 8.

    Examples
    --------
    >>> import fastlmm_vi as fl
    >>> data = fl.datasets.make_xyz_twin(n=80, p=200, c=2)
    >>> exact = fl.WideLMM("newton").fit(data.X, data.y, data.Z)
    >>> mean_field = fl.WideLMM("mfvi", theta_by="loglik").fit(data.X, data.y, data.Z)
    >>> fl.compare(exact, mean_field).loc[["loglik", "elbo"]].shape
    (2, 2)
    """
    if not fits:
        raise ValueError("compare needs at least one fit.")
    grouped = [_is_grouped(fit) for fit in fits]
    if any(grouped) and not all(grouped):
        raise ValueError(
            "compare was given wide and grouped fits, which share no parameters: compare those of WideLMM with each other, "
            "and those of lmm."
        )
    results: list[Any] = list(fits) if all(grouped) else [as_fit(fit) for fit in fits]
    labels = names or default_names(results)
    if len(labels) != len(results):
        raise ValueError(f"names has {len(labels)} entries for {len(results)} fits.")
    columns = _of_grouped(results) if all(grouped) else _of_wide(results)
    return pd.DataFrame(dict(zip(labels, columns, strict=True)))


def as_fit(fit: object) -> Fit:
    """Return the `Fit` of a fitted estimator, or the `Fit` itself."""
    if _is_grouped(fit):
        raise TypeError(
            "This is for wide fits, and was given a fit of lmm. For that there are plot_caterpillar, plot_residuals and "
            "plot_profile, of Bayesian methods plot_posterior, plot_elbo and plot_accuracy; its iterations are in fit.trace: "
            'fit.trace.plot("iteration", "criterion").'
        )
    found = fit if isinstance(fit, Fit) else getattr(fit, "fit_", None)
    if not isinstance(found, Fit):
        raise TypeError(f"{type(fit).__name__} is neither a Fit nor a fitted estimator: call its fit first.")
    return found


def _is_grouped(fit: object) -> bool:
    """Whether `lmm` returned it: its classes are not known on the ground floor."""
    return hasattr(type(fit), "random_effects")


def default_names(fits: "Sequence[Fit | MixedFit | BayesFit | MeanFieldFit]") -> list[str]:
    """Return the methods of the fits, numbered where they repeat."""
    labels: list[str] = []
    for fit in fits:
        label = "reml" if fit.reml else fit.method
        repeat = sum(known.split(" ")[0] == label for known in labels)
        labels.append(f"{label} ({repeat + 1})" if repeat else label)
    return labels


def _of_grouped(fits: "Sequence[MixedFit | BayesFit | MeanFieldFit]") -> list[dict[str, object]]:
    """Columns of grouped fits: all fixed effects, all variances, σ, and how each fit did."""
    for fit in fits[1:]:
        if not np.array_equal(fit.data.design.y, fits[0].data.design.y):
            raise ValueError(
                f"fits are of different data: {fit.formula!r} has {fit.n} observations, {fits[0].formula!r} {fits[0].n}, or "
                "they have other responses."
            )
    known = dict.fromkeys(name for fit in fits for name in fit.point_estimates.index)
    order = sorted(known, key=lambda name: (not name.startswith("b_"), name == "sigma"))
    numbers = ("n_parameters", "loglik", "criterion", "elbo", "log_evidence", "aic", "bic", "n_iter")
    values = {name: [getattr(fit, name, None) for fit in fits] for name in numbers}
    some = {name: each for name, each in values.items() if any(value is not None for value in each)}
    return [
        dict(zip(order, fit.point_estimates.reindex(order), strict=True))
        | {"formula": fit.formula}
        | {name: np.nan if each[i] is None else each[i] for name, each in some.items()}
        | {"converged": fit.converged, "status": fit.status.value, "seconds": fit.seconds}
        for i, fit in enumerate(fits)
    ]


def _of_wide(fits: Sequence[Fit]) -> list[dict[str, object]]:
    """Columns of wide fits."""
    sizes = {(fit.n, fit.p, fit.covariate_names) for fit in fits}
    if len(sizes) > 1:
        raise ValueError(f"fits are of different data: (n, p, covariates) = {sorted(map(str, sizes))}.")
    bayesian = any(fit.theta is not None for fit in fits)
    return [_column(fit, fits[0], bayesian) for fit in fits]


def _column(fit: Fit, first: Fit, bayesian: bool) -> dict[str, object]:
    rows: dict[str, object] = {"intercept": np.nan if fit.intercept is None else fit.intercept}
    rows |= {f"omega[{name}]": value for name, value in zip(fit.covariate_names, fit.omega, strict=True)}
    rows |= {name: getattr(fit, name) for name in ("sigma2_beta", "sigma2_e", "pve", "loglik", "criterion")}
    rows |= {"elbo": np.nan if fit.elbo is None else fit.elbo, "gap": np.nan if fit.gap is None else fit.gap}
    if bayesian:
        rows["log_evidence"] = np.nan if fit.log_evidence is None else fit.log_evidence
    rows |= beta_comparison(fit, first)
    rows |= {"n_iter": fit.n_iter, "converged": fit.converged, "status": fit.status.value, "seconds": fit.seconds}
    return rows


def beta_comparison(fit: Fit, other: Fit) -> dict[str, float]:
    """Correlation and RMSE of posterior means, and mean ratio of posterior variances; NaN where one has none."""
    a, b = fit.beta_mean, other.beta_mean
    both = bool(a.any() and b.any())
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = fit.beta_var / other.beta_var
    return {
        "beta_mean_correlation": float(np.corrcoef(a, b)[0, 1]) if both and a.size > 1 else np.nan,
        "beta_mean_rmse": float(np.sqrt(np.mean((a - b) ** 2))),
        "beta_var_ratio": float(ratio.mean()),
    }
