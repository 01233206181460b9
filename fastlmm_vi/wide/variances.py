"""A distribution of (σ²_β, σ²_e) on a grid, exact or variational: nodes, moments, quantiles, densities to draw."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.ndimage import maximum_filter
from scipy.special import expit, log_expit

from ..grid import Grid, integrate
from ..marginal import Marginal, of_difference
from ..priors import Fixed, ScalePrior
from ..result import Array, Density, Theta

NAMES = ("sigma2_beta", "sigma2_e", "pve")
LEVELS = (0.05, 0.5, 0.95)
SCAN = np.linspace(-15.0, 15.0, 21), np.linspace(-4.0, 4.0, 13)  # of logit PVE and log total variance, around a start
MOST_MODES = 3
NEGLIGIBLE = 1e-10  # weight of nodes that no sum needs
LARGEST_LOG = 300.0  # of a variance that is a number, and whose inverse is

LogDensity = Callable[[Array, Array], Array]


class Variances(NamedTuple):
    """Nodes (m,) with their weights, the table that is reported, and how the integration went."""

    sigma2_beta: Array
    sigma2_e: Array
    weights: Array
    theta: Theta
    log_evidence: float
    error: float
    converged: bool
    evaluations: int


def log_prior(prior: ScalePrior | Fixed, log_variance: Array) -> Array:
    """Log density of a scale prior in log σ²: dσ = σ/2 d log σ². Zero where the scale is fixed."""
    if isinstance(prior, Fixed):
        return np.zeros_like(log_variance)
    with np.errstate(over="ignore"):
        sd = np.exp(0.5 * log_variance)
    return prior.log_density(sd) + 0.5 * log_variance - np.log(2.0)


def integrate_out(
    log_density: LogDensity,
    fixed: tuple[float | None, float | None],
    start: tuple[float, float],
    eigenvalue: float,
    *,
    tol: float,
    max_evaluations: int,
) -> Variances:
    """Integrate a log density of (log σ²_β, log σ²_e), arrays (m,), in those of the two that are free.

    Parameters
    ----------
    fixed : pair of float or None
        Variances that are held at a value.
    start : pair of float
        (σ²_β, σ²_e) where the search for the mode begins.
    eigenvalue : float
        t of PVE = σ²_β t / (σ²_β t + σ²_e).
    """
    options: dict[str, Any] = {"tol": tol, "max_evaluations": max_evaluations}
    beta, e = fixed
    if beta is not None and e is not None:
        log_evidence = float(log_density(np.log([beta]), np.log([e]))[0])
        return _gather(_Known(beta), _Known(e), eigenvalue, log_evidence)
    if beta is not None:
        free = _One(lambda x: log_density(np.full(x.shape, np.log(beta)), x), start[1], **options)
        return _gather(_Known(beta), free, eigenvalue, free.grid.log_evidence)
    if e is not None:
        free = _One(lambda x: log_density(x, np.full(x.shape, np.log(e))), start[0], **options)
        return _gather(free, _Known(e), eigenvalue, free.grid.log_evidence)
    t = eigenvalue if eigenvalue > 0.0 else 1.0

    def of_share_and_total(x: Array) -> Array:
        return log_density(*_logs(x, t))

    begin = np.array([np.log(start[0] * t / start[1]), np.log(start[0] * t + start[1])])
    starts = _scan(of_share_and_total, begin)
    grid = _integrate(of_share_and_total, lambda x: np.column_stack(_logs(x, t)), starts, **options)
    marginals = {
        "pve": grid.marginal(0),
        "sigma2_beta": grid.marginal(1, lambda v: log_expit(v) - np.log(t)),
        "sigma2_e": grid.marginal(1, lambda v: log_expit(-v)),
    }
    held = grid.weights > 0.0
    sigma2_beta, sigma2_e = np.exp(_logs(grid.nodes[held], t))
    weights = grid.weights[held]
    share = sigma2_beta * eigenvalue / (sigma2_beta * eigenvalue + sigma2_e)
    rows = (_row(values, weights) for values in (sigma2_beta, sigma2_e, share))
    theta = _theta(dict(zip(NAMES, rows, strict=True)), marginals, eigenvalue)
    keep = weights > NEGLIGIBLE
    nodes = sigma2_beta[keep], sigma2_e[keep], weights[keep] / weights[keep].sum()
    evaluations = grid.evaluations + SCAN[0].size * SCAN[1].size
    return Variances(*nodes, theta, grid.log_evidence, grid.error, grid.converged, evaluations)


def independent(
    log_beta: Callable[[Array], Array],
    log_e: Callable[[Array], Array],
    fixed: tuple[float | None, float | None],
    start: tuple[float, float],
    eigenvalue: float,
) -> Variances:
    """Do the same for σ²_β and σ²_e that are independent, with log densities of their logarithms; nodes are of σ²_e alone."""
    options: dict[str, Any] = {"tol": 1e-8, "max_evaluations": 100_000}
    beta, e = (
        _One(density, begin, **options) if value is None else _Known(value)
        for density, begin, value in zip((log_beta, log_e), start, fixed, strict=True)
    )
    return _gather(beta, e, eigenvalue, np.nan)


class _Known:
    """A variance that is held at a value."""

    def __init__(self, value: float) -> None:
        self.nodes, self.weights = np.array([value]), np.ones(1)
        self.logarithm: Marginal | float = float(np.log(value))
        self.error, self.converged, self.evaluations = 0.0, True, 1


class _One:
    """A variance of one-dimensional density, on a grid of its logarithm."""

    def __init__(
        self, log_density: Callable[[Array], Array], start: float, *, tol: float, max_evaluations: int
    ) -> None:
        grid = _integrate(
            lambda x: log_density(_clipped(x[:, 0])),
            _clipped,
            np.log([start]),
            tol=tol,
            max_evaluations=max_evaluations,
        )
        held = grid.weights > 0.0
        self.grid = grid
        self.nodes, self.weights = np.exp(grid.nodes[held, 0]), grid.weights[held]
        self.logarithm: Marginal | float = grid.marginal(0)
        self.error, self.converged, self.evaluations = grid.error, grid.converged, grid.evaluations


def _gather(beta: _Known | _One, e: _Known | _One, eigenvalue: float, log_evidence: float) -> Variances:
    """Nodes and table of two variances that are independent, or of which one is known."""
    marginals = {
        name: part.logarithm
        for name, part in zip(NAMES, (beta, e), strict=False)
        if isinstance(part.logarithm, Marginal)
    }
    if eigenvalue > 0.0 and marginals:
        offset = float(np.log(eigenvalue))
        if isinstance(beta.logarithm, Marginal):
            marginals["pve"] = of_difference(beta.logarithm, e.logarithm).shifted(offset)
        else:
            assert isinstance(e.logarithm, Marginal)
            marginals["pve"] = e.logarithm.reflected().shifted(offset + beta.logarithm)
    explained = eigenvalue * beta.nodes[:, None]
    share = explained / (explained + e.nodes)
    rows = {
        "sigma2_beta": _row(beta.nodes, beta.weights),
        "sigma2_e": _row(e.nodes, e.weights),
        "pve": _row(share.ravel(), np.outer(beta.weights, e.weights).ravel()),
    }
    # Where both are free only the noise needs nodes: β's posterior is then that at one value of σ²_β.
    by = beta if len(e.nodes) == 1 else e
    sigma2_beta = beta.nodes if by is beta else np.full(e.nodes.shape, rows["sigma2_beta"][0])
    sigma2_e = np.full(beta.nodes.shape, e.nodes[0]) if by is beta else e.nodes
    weights = by.weights
    keep = weights > NEGLIGIBLE
    error = max(beta.error, e.error)
    return Variances(
        sigma2_beta[keep],
        sigma2_e[keep],
        weights[keep] / weights[keep].sum(),
        _theta(rows, marginals, eigenvalue),
        log_evidence,
        error,
        beta.converged and e.converged,
        beta.evaluations + e.evaluations,
    )


def _integrate(density: Callable[[Array], Array], logs: Callable[[Array], Array], begin: Array, **options: Any) -> Grid:
    """A grid on which means and standard deviations of the variances themselves have converged."""
    return integrate(density, begin, of=lambda x: np.exp(logs(x)), vectorised=True, **options)


def _scan(log_density: Callable[[Array], Array], begin: Array) -> Array:
    """Where searches for modes begin, (s, 2): the local maxima of a coarse grid around `begin` that may matter.

    Priors against the data may leave several modes far from each other.
    """
    v, s = SCAN
    x = begin + np.stack(np.meshgrid(v, s, indexing="ij"), axis=-1)
    values = log_density(x.reshape(-1, 2)).reshape(v.size, s.size)
    peaks = (values == maximum_filter(values, size=3, mode="nearest")) & (values > values.max() - 50.0)
    found = x[peaks][np.argsort(-values[peaks])]
    return found[:MOST_MODES]


def _clipped(logarithm: Array) -> Array:
    return np.clip(logarithm, -LARGEST_LOG, LARGEST_LOG)


def _logs(x: Array, t: float) -> tuple[Array, Array]:
    """(log σ²_β, log σ²_e) of v = logit PVE and s = log(σ²_β t + σ²_e); the determinant of the Jacobian is 1.

    Where either variance goes to 0, v goes to ±∞ at the same s: the tails are along a coordinate.
    """
    v, s = x.T
    return _clipped(s + log_expit(v) - np.log(t)), _clipped(s + log_expit(-v))


def _row(values: Array, weights: Array) -> tuple[float, float]:
    """Mean and standard deviation."""
    mean = float(weights @ values)
    return mean, float(np.sqrt(weights @ (values - mean) ** 2))


def _theta(rows: Mapping[str, tuple[float, float]], marginals: Mapping[str, Marginal], eigenvalue: float) -> Theta:
    """Tables and densities of σ²_β, σ²_e and PVE, of which the logarithms (of PVE, the logit) have the marginals."""
    table, densities = {}, {}
    for name, (mean, sd) in rows.items():
        quantiles = np.full(len(LEVELS), mean)
        if name in marginals and (name != "pve" or eigenvalue > 0.0):
            found = marginals[name]
            natural = expit if name == "pve" else np.exp
            quantiles, x = natural(found.quantile(LEVELS)), natural(found.x)
            slope = x * (1.0 - x) if name == "pve" else x
            inside = slope > 0.0  # the share may round to 0 or 1
            densities[name] = Density(x[inside], found.density[inside] / slope[inside], found.cdf(found.x)[inside])
        table[name] = [mean, sd, *quantiles]
    columns = ["mean", "sd", *(f"q{round(100 * level):02d}" for level in LEVELS)]
    frame = pd.DataFrame.from_dict(table, orient="index", columns=columns).rename_axis("parameter")
    return Theta(table=frame, densities=densities)
