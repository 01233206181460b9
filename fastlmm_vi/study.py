"""The whole study of the 1000 × 6000 data: exact and mean-field fits, their comparison, tables, files, pictures."""

import importlib.util
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from . import __version__
from .comparison import beta_comparison, compare
from .compilation import warmup
from .datasets import XYZ
from .errors import DataError, IntegrationError, UnboundedLikelihoodError
from .result import Fit
from .wide.bayes_estimator import BayesWideLMM
from .wide.estimator import WideLMM
from .wide.spectrum import Spectrum

METHODS: Mapping[str, Mapping[str, Any]] = {
    "em": {"method": "em", "max_iter": 200_000},  # weak signals crawl
    "newton": {"method": "newton"},
    "reml": {"method": "newton", "reml": True},
    "mfvi": {"method": "mfvi", "solver": "collapsed"},
}
EXTRA: Mapping[str, Mapping[str, Any]] = {
    "mfvi_sweep": {"method": "mfvi", "solver": "sweep"},
    "mfvi_plain": {"method": "mfvi", "solver": "collapsed", "accelerate": False},
    "mfvi_loglik": {"method": "mfvi", "theta_by": "loglik", "solver": "sweep"},
}
BAYES: Mapping[str, Mapping[str, Any]] = {
    "mfvi_posterior": {"engine": "mfvi"},
    "quadrature": {"engine": "quadrature"},
}
# The columns of the table of all methods, and where each way of coming by θ stands in it.
LENSES = {
    "em": "EM",
    "newton": "ML",
    "reml": "REML",
    "mfvi": "MFVI, θ by ELBO",
    "mfvi_loglik": "MFVI, θ by log-lik.",
    "mfvi_posterior": "MFVI, θ by posterior",
    "quadrature": "quadrature",
}
INTERVAL = 0.9  # of the variances in that table

ROWS = {
    "beta_mean_correlation": "correlation of the means",
    "beta_mean_rmse": "RMSE of the means",
    "beta_var_ratio": "ratio of the variances",
}


@dataclass(frozen=True, eq=False)
class Study:
    """All fits of one data set: `fits` is the literal model (Z as given, no intercept), `fits_intercept` adds one.

    `extra` and `bayes` are of the literal model too, the latter with weakly informative priors.
    """

    data: XYZ
    fits: Mapping[str, Fit]
    fits_intercept: Mapping[str, Fit]
    extra: Mapping[str, Fit]
    bayes: Mapping[str, Fit]
    failed: Mapping[str, Mapping[str, str]]  # by block: fits that do not exist, and why
    spectrum_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of `estimates.json`."""
        return {
            "version": __version__,
            "data": describe(self.data),
            "spectrum_seconds": self.spectrum_seconds,
            "fits": {name: estimates(fit) for name, fit in self.fits.items()},
            "fits_intercept": {name: estimates(fit) for name, fit in self.fits_intercept.items()},
            **{name: estimates(fit) for name, fit in {**self.extra, **self.bayes}.items()},
            "comparison": self.comparison(),
            "table": self.table(),
            "methods": {name: {row: _null(v) for row, v in column.items()} for name, column in self.methods().items()},
            "paths": {name: path(fit) for name, fit in {**self.fits, **self.extra}.items() if fit.n_iter > 1},
            "em_stopped": self.em_stopped(),
            "effects": {name: effects(fit, self.data.X_names) for name, fit in self.fits.items()},
            "failed": {block: dict(reasons) for block, reasons in self.failed.items()},
        }

    def comparison(self) -> dict[str, dict[str, float | None]]:
        """Return how mean field's posterior of β differs from the exact one, at the same θ and at each one's own."""
        pairs = {"same_theta": self.extra.get("mfvi_loglik"), "own_theta": self.fits.get("mfvi")}
        exact = self.fits.get("newton")
        return {
            name: {key: _null(value) for key, value in beta_comparison(fit, exact).items()}
            for name, fit in pairs.items()
            if fit is not None and exact is not None
        }

    def table(self) -> dict[str, dict[str, Any]]:
        """Return `compare` of all fits of the literal model with the maximum-likelihood fit, ω left out."""
        fits = {**self.fits, **self.extra}
        if "newton" not in fits:
            return {}
        order = ["newton", *(name for name in fits if name != "newton")]
        frame = compare(*(fits[name] for name in order), names=order)
        frame = frame.loc[[row for row in frame.index if not row.startswith("omega[")]]
        return {name: {str(row): _null(value) for row, value in frame[name].items()} for name in order}

    def methods(self) -> dict[str, dict[str, float]]:
        """Return θ by every method of the literal model, with intervals, and its posterior of β against the exact one.

        Intervals of 90 %: of the posterior where θ has one, else estimate ± 1.645 standard errors; NaN where there are none.
        `beta_*` compare with quadrature, whose posterior averages over θ.
        """
        fits = {**self.fits, **self.extra, **self.bayes}
        exact = self.bayes.get("quadrature")
        return {name: _lens(fits[name], exact) for name in LENSES if name in fits}

    def em_stopped(self) -> dict[str, dict[str, Any]]:
        """Return where EM would have ended by the usual rule, log-likelihood gained less than a tolerance in one step."""
        em, best = self.fits.get("em"), self.fits.get("newton")
        if em is None or best is None:
            return {}
        gains = np.diff(em.trace.loglik)
        stops = {}
        for exponent in range(2, 8):
            last = int(np.argmax(gains < 10.0**-exponent)) + 1 if (gains < 10.0**-exponent).any() else em.n_iter
            stops[f"1e-{exponent}"] = {
                "n_iter": last,
                "loglik": float(em.trace.loglik[last]),
                "below_maximum": best.loglik - float(em.trace.loglik[last]),
                "sigma2_beta": float(em.trace.sigma2_beta[last]),
                "sigma2_beta_off": em.trace.sigma2_beta[last] / best.sigma2_beta - 1.0 if best.sigma2_beta else None,
            }
        return stops


def run(data: XYZ, report: Callable[[str], None] = lambda stage: None) -> Study:
    """Fit everything; the eigenbasis of X Xᵀ is made once and serves every fit."""
    report("compiling")
    warmup("wide")  # no fit's seconds contain it
    report("eigenbasis of X Xᵀ")
    start = time.perf_counter()
    spectrum = Spectrum.of(data.X)
    seconds = time.perf_counter() - start

    covariates = pd.DataFrame(data.Z, columns=list(data.Z_names)) if data.Z_names else None
    failed: dict[str, dict[str, str]] = {}

    def fit_all(
        block: str,
        methods: Mapping[str, Mapping[str, Any]],
        intercept: bool,
        kind: type[WideLMM] | type[BayesWideLMM] = WideLMM,
    ) -> dict[str, Fit]:
        fits = {}
        for name, options in methods.items():
            report(f"{name} ({block})")
            model = kind(**options, fit_intercept=intercept)
            try:
                fits[name] = model.fit(data.X, data.y, covariates, spectrum=spectrum).fit_
            except (UnboundedLikelihoodError, IntegrationError, DataError) as error:
                failed.setdefault(block, {})[name] = str(error)
        return fits

    return Study(
        data=data,
        fits=fit_all("fits", METHODS, False),
        fits_intercept=fit_all("fits_intercept", METHODS, True),
        extra=fit_all("extra", EXTRA, False),
        bayes=fit_all("bayes", BAYES, False, BayesWideLMM),
        failed=failed,
        spectrum_seconds=seconds,
    )


def describe(data: XYZ) -> dict[str, Any]:
    """Return source, sizes and hash of the numbers."""
    n, p = data.X.shape
    return {"source": data.source, "n": n, "p": p, "c": data.Z.shape[1], "sha256": data.sha256}


def estimates(fit: Fit) -> dict[str, Any]:
    """Return one fit as plain numbers for JSON; null where a quantity does not exist."""
    row: dict[str, Any] = {"omega": fit.omega.tolist(), "omega_se": _null(fit.omega_se)}
    for name in (
        "intercept",
        "intercept_se",
        "sigma2_beta",
        "sigma2_beta_se",
        "sigma2_e",
        "sigma2_e_se",
        "pve",
        "pve_se",
    ):
        row[name] = _null(getattr(fit, name))
    for name in ("loglik", "criterion", "elbo", "gap", "n_iter", "converged", "seconds"):
        row[name] = _null(getattr(fit, name))
    row |= {"status": fit.status.value, "notes": list(fit.notes)}
    if fit.theta is None:
        return row
    theta = {str(name): values.to_dict() for name, values in fit.theta.table.iterrows()}
    return row | {"log_evidence": fit.log_evidence, "theta": theta, "priors": dict(fit.priors)}


def path(fit: Fit) -> list[dict[str, Any]]:
    """Return a fit's trace, thinned to the iterations 0, 1, 2, 5, 10, 20, 50, … and the last where it is long."""
    steps = {0, fit.n_iter, *(m * 10**k for k in range(7) for m in (1, 2, 5))}
    rows = fit.trace.to_frame().drop(columns=["max_change", "seconds"]).to_dict("records")
    return [{str(k): _null(v) for k, v in row.items()} for i, row in enumerate(rows) if fit.n_iter <= 20 or i in steps]


def effects(fit: Fit, names: tuple[str, ...], count: int = 8) -> list[dict[str, Any]]:
    """Return posterior mean and sd of the `count` features whose effects are furthest from 0 in sd."""
    sd = np.sqrt(fit.beta_var)
    z = np.divide(fit.beta_mean, sd, out=np.zeros(fit.p), where=sd > 0.0)
    top = np.argsort(-np.abs(z), kind="stable")[:count]
    return [{"feature": names[j], "mean": float(fit.beta_mean[j]), "sd": float(sd[j]), "z": float(z[j])} for j in top]


def tables(study: Study) -> str:
    """Return what `reproduce` prints: estimates without and with intercept, and the comparison of the posteriors."""
    data, lines = describe(study.data), []
    lines.append(f"{data['source']}: n = {data['n']}, p = {data['p']}, c = {data['c']}")
    lines.append(f"sha256 of the numbers {data['sha256']}")
    lines += ["", "y = Zω + Xβ + e, Z as given, no intercept", ""]
    lines.append(_table({**study.fits, **study.extra}))
    lines += ["", "The same with an intercept", "", _table(study.fits_intercept)]
    lines += ["", "θ by every method (no intercept), 90 % intervals; β against quadrature", "", _methods(study)]
    lines += ["", "The ELBO bounds the log-likelihood, where θ has a posterior the log evidence."]
    lines += ["", f"Seconds leave out the eigenbasis of X Xᵀ, made once in {study.spectrum_seconds:.3f} s."]
    lines += ["", "Posterior of β: mean field against exact", ""]
    titles = {"same_theta": "both at maximum likelihood's θ", "own_theta": "each at its own θ"}
    frame = pd.DataFrame({titles[name]: column for name, column in study.comparison().items()})
    frame = frame.rename(index=ROWS).map(lambda value: "—" if value is None or np.isnan(value) else f"{value:.6g}")
    lines.append(frame.to_string() if len(frame) else "not possible: a fit does not exist")
    lines += ["", "How the fits ended"]
    for name, fit in {**study.fits, **study.extra, **study.bayes}.items():
        lines += [f"  {name}: {' '.join([fit.status.advice, *fit.notes])}"]
    for block, reasons in study.failed.items():
        lines += [f"  {name} ({block}): no fit. {reason}" for name, reason in reasons.items()]
    return "\n".join(lines)


def write(study: Study, folder: Path) -> list[Path]:
    """Write estimates.json, trace.csv, posterior.csv and, where matplotlib is installed, the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = {**study.fits, **study.extra}
    paths = [write_json(study.to_dict(), folder / "estimates.json")]
    paths.append(write_trace(shown, folder / "trace.csv"))
    chosen: dict[str, Fit] = {
        name: shown[name] for name in ("em", "newton", "reml", "mfvi", "mfvi_loglik") if name in shown
    }
    paths.append(write_posterior(chosen, study.data.X_names, folder / "posterior.csv"))
    complete = not any(study.failed.get(block) for block in ("fits", "extra", "bayes"))
    return paths + (figures(study, folder) if complete and importlib.util.find_spec("matplotlib") else [])


def write_json(content: Mapping[str, Any], path: Path) -> Path:
    """Write strict JSON (no NaN)."""
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def write_trace(fits: Mapping[str, Fit], path: Path) -> Path:
    """Write every fit's trace below one another."""
    frames = [fit.trace.to_frame().assign(fit=name) for name, fit in fits.items()]
    table = pd.concat(frames, ignore_index=True)
    table[["fit", *table.columns.drop("fit")]].to_csv(path, index=False)
    return path


def write_posterior(fits: Mapping[str, Fit], names: tuple[str, ...], path: Path) -> Path:
    """Write mean and variance of every β_j, a pair of columns per fit."""
    columns: dict[str, Any] = {"feature": list(names)}
    for name, fit in fits.items():
        columns |= {f"{name}_mean": fit.beta_mean, f"{name}_var": fit.beta_var}
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def figures(study: Study, folder: Path) -> list[Path]:
    """Draw the study's seven pictures as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from . import plots

    fits, extra = study.fits, study.extra
    em, newton, mfvi = fits["em"], fits["newton"], fits["mfvi"]
    sweep, plain, same = extra["mfvi_sweep"], extra["mfvi_plain"], extra["mfvi_loglik"]
    optimum = newton.loglik
    ml, own = "exact, ML's θ", "mean field, ELBO's θ"

    def pair(axes: Any, a: Fit, b: Fit, names: list[str]) -> None:
        plots.plot_compare(a, b, names=names, ax=axes[0])
        if a.beta_var.all():
            plots.plot_variances(a, b, names=names, ax=axes[1])
        else:
            axes[1].text(0.5, 0.5, "σ²_β = 0: no posterior variance", ha="center")

    drawings: dict[str, tuple[int, str, Callable[[Any], object]]] = {
        "trace": (
            2,
            "Log-likelihood and ELBO by iteration",
            lambda axes: [
                plots.plot_trace(em, names=["EM"], optimum=optimum, ax=axes[0]),
                plots.plot_trace(plain, sweep, names=["plain variational EM", "sweeps"], optimum=optimum, ax=axes[1]),
            ],
        ),
        "gap": (
            1,
            "What mean field loses",
            lambda axes: plots.plot_gap(
                plain, sweep, mfvi, names=["plain variational EM", "sweeps", "collapsed Newton"], ax=axes[0]
            ),
        ),
        "variances": (
            2,
            "Variance components by iteration",
            lambda axes: [
                plots.plot_variance_path(em, newton, names=["EM", "Newton (ML)"], ax=axes[0]),
                plots.plot_variance_path(plain, sweep, names=["plain variational EM", "sweeps"], ax=axes[1]),
            ],
        ),
        "omega": (
            1,
            "Fixed effects",
            lambda axes: plots.plot_omega(newton, mfvi, names=["maximum likelihood", "mean field"], ax=axes[0]),
        ),
        "posterior_same_theta": (
            2,
            "Posterior of β at the same θ: equal means, smaller variances",
            lambda axes: pair(axes, newton, same, [ml, "mean field, ML's θ"]),
        ),
        "posterior_own_theta": (
            2,
            "Posterior of β, each at its own θ",
            lambda axes: pair(axes, newton, mfvi, [ml, own]),
        ),
        "posterior_theta": (
            2,
            "Posterior of the variances: mean field against quadrature",
            lambda axes: [
                plots.plot_marginals(
                    *study.bayes.values(),
                    fits["reml"],
                    names=["mean field", "quadrature", "REML"],
                    parameter=parameter,
                    ax=ax,
                )
                for parameter, ax in zip(("sigma2_beta", "pve"), axes, strict=True)
            ],
        ),
    }
    paths = []
    for name, (panels, title, draw) in drawings.items():
        figure = Figure(figsize=(5.2 * panels if panels > 1 else 8.0, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.subplots(1, panels, squeeze=False)[0])
        figure.suptitle(title, fontsize="medium")
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=150)
    return paths


def _table(fits: Mapping[str, Fit]) -> str:
    if not fits:
        return "no fit exists (the reasons stand below)"
    frame = compare(*fits.values(), names=list(fits))
    frame = frame.loc[[row for row in frame.index if not row.startswith(("omega[", "beta_"))]]
    if np.isnan(frame.loc["intercept"].astype(float)).all():
        frame = frame.drop(index="intercept")
    return frame.map(lambda v: "—" if isinstance(v, float) and np.isnan(v) else _short(v)).to_string()


def _lens(fit: Fit, exact: Fit | None) -> dict[str, float]:
    """One column of `Study.methods`."""
    column: dict[str, float] = {}
    for name in ("sigma2_beta", "sigma2_e", "pve"):
        value = float(getattr(fit, name))
        if fit.theta is not None:
            lower, upper = fit.theta.quantile(name, [0.5 - INTERVAL / 2, 0.5 + INTERVAL / 2])
        else:
            half = norm.ppf(0.5 + INTERVAL / 2) * getattr(fit, f"{name}_se")
            lower, upper = value - half, value + half
        column |= {name: value, f"{name}_lower": float(lower), f"{name}_upper": float(upper)}
    nan = float("nan")
    column |= {"loglik": fit.loglik, "elbo": nan, "log_evidence": nan}
    if fit.elbo is not None:
        column["elbo"] = fit.elbo
    if fit.log_evidence is not None:
        column["log_evidence"] = fit.log_evidence
    return column | (beta_comparison(fit, exact) if exact is not None else {}) | {"seconds": fit.seconds}


def _methods(study: Study) -> str:
    frame = pd.DataFrame({LENSES[name]: column for name, column in study.methods().items()}).astype(object)
    if frame.empty:
        return "no fit exists (the reasons stand below)"
    for name in ("sigma2_beta", "sigma2_e", "pve"):
        bounds = zip(frame.loc[f"{name}_lower"], frame.loc[f"{name}_upper"], strict=True)
        frame.loc[f"{name}_lower"] = pd.Series(
            ["—" if np.isnan(a) else f"{a:.4g} … {b:.4g}" for a, b in bounds], index=frame.columns
        )
    frame = frame.drop(index=[row for row in frame.index if str(row).endswith("_upper")])
    frame = frame.rename(index={**ROWS, **{f"{name}_lower": "  90 %" for name in ("sigma2_beta", "sigma2_e", "pve")}})
    return frame.map(lambda v: "—" if isinstance(v, float) and np.isnan(v) else _short(v)).to_string()


def _short(value: object) -> str:
    return (
        f"{value:.6g}"
        if isinstance(value, float) and abs(value) < 1000
        else f"{value:.4f}"
        if isinstance(value, float)
        else str(value)
    )


def _null(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_null(x) for x in value.tolist()]
    return None if isinstance(value, float) and not np.isfinite(value) else value
