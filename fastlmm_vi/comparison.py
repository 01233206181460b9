"""Fits of the same data side by side."""

import numpy as np
import pandas as pd

from .result import Fit


def compare(*fits: object, names: list[str] | None = None) -> pd.DataFrame:
    """Return a table of fits, one column each: estimates, criteria, and posteriors of β against the first fit's.

    Parameters
    ----------
    *fits : Fit or fitted estimator
        At least one; of the same data.
    names : list of str, optional
        Column names; default the methods, numbered where they repeat.

    Returns
    -------
    DataFrame
        Rows: intercept and ω (`omega[name]`), `sigma2_beta`, `sigma2_e`, `pve`, `loglik`,
        `criterion` (what each maximised), `elbo`, `gap`,
        `beta_mean_correlation`, `beta_mean_rmse` (posterior means against the first fit's), `beta_var_ratio` (mean of
        Var(β_j) over the first fit's), `n_iter`, `converged`, `status`, `seconds`.

    Raises
    ------
    ValueError
        If the fits are not of data of the same size.

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
    results = [as_fit(fit) for fit in fits]
    if not results:
        raise ValueError("compare needs at least one fit.")
    sizes = {(fit.n, fit.p, fit.covariate_names) for fit in results}
    if len(sizes) > 1:
        raise ValueError(f"fits are of different data: (n, p, covariates) = {sorted(map(str, sizes))}.")
    labels = names or default_names(results)
    if len(labels) != len(results):
        raise ValueError(f"names has {len(labels)} entries for {len(results)} fits.")
    columns = {label: _column(fit, results[0]) for label, fit in zip(labels, results, strict=True)}
    return pd.DataFrame(columns)


def as_fit(fit: object) -> Fit:
    """Return the `Fit` of a fitted estimator, or the `Fit` itself."""
    found = fit if isinstance(fit, Fit) else getattr(fit, "fit_", None)
    if not isinstance(found, Fit):
        raise TypeError(f"{type(fit).__name__} is neither a Fit nor a fitted estimator: call its fit first.")
    return found


def default_names(fits: list[Fit]) -> list[str]:
    """Return the methods of the fits, numbered where they repeat."""
    labels: list[str] = []
    for fit in fits:
        label = "reml" if fit.reml else fit.method
        repeat = sum(known.split(" ")[0] == label for known in labels)
        labels.append(f"{label} ({repeat + 1})" if repeat else label)
    return labels


def _column(fit: Fit, first: Fit) -> dict[str, object]:
    rows: dict[str, object] = {"intercept": np.nan if fit.intercept is None else fit.intercept}
    rows |= {f"omega[{name}]": value for name, value in zip(fit.covariate_names, fit.omega, strict=True)}
    rows |= {name: getattr(fit, name) for name in ("sigma2_beta", "sigma2_e", "pve", "loglik", "criterion")}
    rows |= {"elbo": np.nan if fit.elbo is None else fit.elbo, "gap": np.nan if fit.gap is None else fit.gap}
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
