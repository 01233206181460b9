"""A grouped fit as text, laid out as lme4's."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..result import Array

if TYPE_CHECKING:
    from .result import MixedFit

DIGITS = 4  # as in lme4's print: max(3, getOption("digits") - 3)
MOST_CORRELATIONS = 12  # fixed effects beyond which lme4 too leaves their correlations out


def text(fit: "MixedFit") -> str:
    """Return model, criterion, residuals, random effects, fixed effects, and what to know about them."""
    parts = [_head(fit), _residuals(fit), _random(fit), _fixed(fit), _correlations(fit), _remarks(fit)]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _head(fit: "MixedFit") -> list[str]:
    name = "REML" if fit.reml else "maximum likelihood"
    lines = [f"Linear mixed model fit by {name}. t-tests use Satterthwaite's method", f"Formula: {fit.formula}"]
    if fit.reml:
        return [*lines, "", f"REML criterion at convergence: {fit.deviance:.1f}"]
    values = {"AIC": fit.aic, "BIC": fit.bic, "logLik": fit.criterion, "-2*log(L)": fit.deviance}
    values["df.resid"] = fit.n - fit.n_parameters
    cells = [f"{value:.0f}" if name == "df.resid" else f"{value:.1f}" for name, value in values.items()]
    widths = [max(len(name), len(cell)) + 2 for name, cell in zip(values, cells, strict=True)]
    return [
        *lines,
        "",
        "".join(f"{name:>{w}}" for name, w in zip(values, widths, strict=True)),
        "".join(f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=True)),
    ]


def _residuals(fit: "MixedFit") -> list[str]:
    weights = fit.data.design.weights
    scaled = fit.residuals.to_numpy() / fit.sigma * (1.0 if weights is None else np.sqrt(weights))
    names = ["Min", "1Q", "Median", "3Q", "Max"]
    return [
        "Scaled residuals:",
        "".join(f"{name:>9}" for name in names),
        "".join(f"{value:>9.4f}" for value in np.quantile(scaled, [0.0, 0.25, 0.5, 0.75, 1.0])),
    ]


def _random(fit: "MixedFit") -> list[str]:
    rows = [("Groups", "Name", "Variance", "Std.Dev.", "Corr")]
    every = np.array([*(sd for G in fit.varcorr.values() for sd in np.sqrt(np.diag(G))), fit.sigma])
    cells = list(zip(_column(every**2), _column(every), strict=True))
    for label, G in fit.varcorr.items():
        sd = np.sqrt(np.diag(G))
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = G.to_numpy() / np.outer(sd, sd)
        for i, name in enumerate(G.index):
            corr = " ".join(_fixed_point(value, 2) for value in correlation[i, :i])
            rows.append((label if i == 0 else "", name, *cells[len(rows) - 1], corr))
    rows.append(("Residual", "", *cells[-1], ""))
    if not any(row[-1] for row in rows[1:]):
        rows[0] = (*rows[0][:-1], "")
    widths = [max(len(row[j]) for row in rows) for j in range(5)]
    lines = [
        f" {g:<{widths[0]}} {n:<{widths[1]}} {v:>{widths[2]}} {s:>{widths[3]}} {c}".rstrip() for g, n, v, s, c in rows
    ]
    groups = "; ".join(f"{name}, {size}" for name, size in fit.groups.items())
    return ["Random effects:", *lines, f"Number of obs: {fit.n}, groups:  {groups}"]


def _fixed(fit: "MixedFit") -> list[str]:
    table = fit.coefficients
    if table.empty:
        return ["No fixed effects."]
    width = max(len(name) for name in table.index)
    lines = [f"{'':<{width}} {'Estimate':>12} {'Std. Error':>12} {'df':>9} {'t value':>9} {'Pr(>|t|)':>9}"]
    cells = np.reshape(_column(table[["estimate", "se"]].to_numpy().ravel()), (-1, 2))  # to the same decimal, as R
    for (name, row), (estimate, se) in zip(table.iterrows(), cells, strict=True):
        p = "< 2e-16" if row["p"] < 2e-16 else f"{row['p']:.3g}"
        lines.append(f"{name:<{width}} {estimate:>12} {se:>12} {row['df']:>9.2f} {row['t']:>9.3f} {p:>9}")
    return ["Fixed effects:", *lines]


def _correlations(fit: "MixedFit") -> list[str]:
    names = fit.fixed_names
    if not 1 < len(names) <= MOST_CORRELATIONS:
        return []
    sd = np.sqrt(np.diag(fit.vcov))
    correlation = pd.DataFrame(fit.vcov.to_numpy() / np.outer(sd, sd), index=list(names))
    width = max(len(name) for name in names)
    short = ["(Intr)" if n == "(Intercept)" else n if len(n) <= 6 else n[:5] + "." for n in names[:-1]]
    lines = [" " * width + " " + " ".join(f"{name:>6}" for name in short)]
    for i, name in enumerate(names[1:], start=1):
        cells = " ".join(f"{_fixed_point(value, 3):>6}" for value in correlation.iloc[i, :i])
        lines.append(f"{name:<{width}} {cells}")
    return ["Correlation of fixed effects:", *lines]


def _remarks(fit: "MixedFit") -> list[str]:
    seconds = f"{fit.seconds:.3g} s"
    lines = [f"{fit.status.advice} ({fit.n_iter} iterations, {fit.n_evaluations} evaluations, {seconds})"]
    return lines + [f"Note: {note}" for note in fit.notes]


def _column(values: Array) -> list[str]:
    """Numbers to the same decimal, the smallest to `DIGITS` significant digits; with exponents where that is shorter."""
    size = np.abs(values[np.isfinite(values) & (values != 0.0)])
    scientific = [f"{value:.{DIGITS - 1}e}" for value in values]
    if not size.size:
        return [f"{value:.{DIGITS - 1}f}" for value in values]
    exponent = int(f"{size.min():.{DIGITS - 1}e}".partition("e")[2])  # after rounding: 9.9999 is 10.00
    fixed = [f"{value:.{max(0, DIGITS - 1 - exponent)}f}" for value in values]
    return fixed if max(map(len, fixed)) <= max(map(len, scientific)) else scientific


def _fixed_point(value: float, digits: int) -> str:
    return "—" if np.isnan(value) else f"{value:.{digits}f}"
