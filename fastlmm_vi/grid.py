"""Deterministic quadrature of any log density of one to four parameters: evidence, moments, marginals, draws.

The trapezoid rule on a lattice converges exponentially for smooth densities that decay, in any number of dimensions: what
matters is a good parameterisation, and to stop where the density is negligible (`lattice`).
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.optimize
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from . import marginal
from .errors import ConvergenceWarning, IntegrationError
from .lattice import Coordinates, Lattice, TooManyError, codes
from .marginal import Marginal
from .result import Array

WIDEST, NARROWEST = 0.88, 0.05  # spacings in standard deviations; a normal density is exact to 1e-9 at the first
MOST_STARTS = 5
LogDensity = Callable[[Array], object]
Functions = Callable[[Array], Array]


def integrate(
    log_density: LogDensity,
    start: ArrayLike,
    *,
    of: Functions | None = None,
    vectorised: bool = False,
    tol: float = 1e-8,
    max_evaluations: int = 500_000,
) -> "Grid":
    """Integrate exp(log_density) over all of R^k, k ≤ 4.

    The mode is found, the space whitened by the curvature there and heavy tails drawn in (sinh); along every axis the
    spacing is chosen on a slice through the mode. A lattice then grows from the mode until its edge is negligible, and is
    refined, nothing being evaluated twice, until evidence and moments change by less than `tol`.

    Parameters
    ----------
    log_density : callable
        x (k,) -> float, or, with `vectorised`, (m, k) -> (m,); −∞ where the density is 0. Smooth, in unconstrained
        coordinates (the logarithm of a variance, with its Jacobian).
    start : array-like (k,) or (s, k)
        Where the search for the mode begins; several rows where several modes are expected, all of which are covered.
    of : callable (m, k) -> (m, r), optional
        Functions whose posterior means and standard deviations have to converge too, e.g. `np.exp`; default the
        coordinates themselves.
    tol : float, default 1e-8
        Largest change of the log evidence, of means (in standard deviations) and of log standard deviations that
        the last refinement may make.
    max_evaluations : int
        Of the density; where they do not suffice the grid says so (`converged`, and a `ConvergenceWarning`).

    Raises
    ------
    ValueError
        If the density is NaN or +∞ somewhere, or 0 at `start`.
    IntegrationError
        If it does not decay within the evaluations allowed: improper, or too heavy-tailed for the functions asked for.

    Examples
    --------
    >>> from fastlmm_vi.grid import integrate
    >>> grid = integrate(lambda x: -0.5 * x @ x, [1.0, 1.0])
    >>> round(grid.log_evidence, 8), round(float(grid.marginal(0).quantile(0.95)), 6)  # log 2π and 1.644854
    (1.83787707, 1.644854)
    """
    points = np.atleast_2d(np.asarray(start, dtype=np.float64))
    k = points.shape[1]
    if not 1 <= k <= 4 or points.ndim != 2 or not np.isfinite(points).all():
        raise ValueError(f"start has shape {np.shape(start)}: give one to four finite coordinates, or rows of them.")
    density = _Density(log_density, vectorised)
    functions = (lambda x: x) if of is None else of
    for _ in range(MOST_STARTS):
        lattice, coordinates = _first(density, points, functions, tol, max_evaluations)
        found = coordinates.x(lattice.z[[(lattice.value - coordinates.log_jacobian(lattice.z)).argmax()]])
        if density(found)[0] < density.one(coordinates.center) + 0.5:
            break
        points = np.vstack([found, points[1:]])  # the search for the mode had stopped on its way
    error = _refine(lattice, coordinates, functions, tol, max_evaluations)
    if error > tol:
        warnings.warn(
            f"The quadrature stopped at {density.count} evaluations with an estimated error of {error:.2g} "
            f"(wanted: {tol:.2g}): raise max_evaluations.",
            ConvergenceWarning,
            stacklevel=2,
        )
    log_mass = lattice.log_mass
    log_evidence = float(logsumexp(log_mass))
    return Grid(
        nodes=coordinates.x(lattice.z),
        log_weights=log_mass - log_evidence,
        log_evidence=log_evidence,
        error=error,
        converged=error <= tol,
        evaluations=density.count,
        mode=coordinates.center,
        coordinates=coordinates,
        lattice=lattice,
        density=density,
    )


def _first(
    density: "_Density", points: Array, functions: Functions, tol: float, max_evaluations: int
) -> tuple[Lattice, Coordinates]:
    """The lattice before any refinement, in the coordinates that the mode next to `points` asks for."""
    k = points.shape[1]
    modes = [_mode(density, point) for point in points]
    center = max(modes, key=lambda mode: mode[1])[0]
    scale, T = _whitening(density, center)
    reach = _Reach(functions, center, scale[:, None] * T)
    cut = 5.0 - np.log(tol)
    coordinates = _tails(density, Coordinates(center, scale, T, np.zeros(k)), reach, cut)

    def in_z(z: Array) -> Array:
        return density(coordinates.x(z)) + coordinates.log_jacobian(z)

    def reach_in_z(z: Array) -> Array:
        return reach(coordinates.x(z))

    h = np.array([_spacing(in_z, axis, k, cut, tol) for axis in range(k)])
    seeds = np.rint(coordinates.z(np.array([mode for mode, _ in modes])) / h).astype(np.int64)
    try:
        return Lattice(in_z, reach_in_z, h, seeds, cut, max_evaluations), coordinates
    except TooManyError:
        raise IntegrationError(
            f"The density is not negligible at the edge of {max_evaluations} evaluations: it is improper, or its tails are "
            "too heavy for the moments asked for. Check the priors, or raise max_evaluations."
        ) from None


@dataclass(frozen=True, eq=False)
class Grid:
    """A density on the nodes of a lattice: sums over nodes are its integrals.

    Attributes
    ----------
    nodes : ndarray (m, k)
    log_weights : ndarray (m,)
        Log posterior probabilities of the nodes; they sum to 1.
    log_evidence : float
        Log of the integral.
    error : float
        By how much log evidence, means (in standard deviations) and log standard deviations changed at the last
        refinement, or the part of the mass at the grid's edge, whichever is larger: an upper estimate of their errors.
    converged : bool
        Whether that is below the tolerance.
    evaluations : int
        How often the density was evaluated, all told.
    mode : ndarray (k,)
    """

    nodes: Array
    log_weights: Array
    log_evidence: float
    error: float
    converged: bool
    evaluations: int
    mode: Array
    coordinates: Coordinates = field(repr=False)
    lattice: Lattice = field(repr=False)
    density: "_Density" = field(repr=False)

    @property
    def weights(self) -> Array:
        """Posterior probabilities of the nodes, (m,)."""
        return np.asarray(np.exp(self.log_weights))

    @property
    def coarser(self) -> tuple[Array, Array]:
        """Nodes (m, k) and probabilities (m,) before the last refinement, which changed no integral by more than `error`."""
        m = self.lattice.coarser or len(self.nodes)
        weights = np.exp(self.log_weights[:m] - self.log_weights[:m].max())
        return self.nodes[:m], weights / weights.sum()

    def expectation(self, values: Array) -> Array:
        """Posterior mean of a function given at the nodes, (m,) or (m, ...)."""
        return np.tensordot(self.weights, values, axes=1)

    @property
    def mean(self) -> Array:
        """Posterior means of the coordinates, (k,)."""
        return self.expectation(self.nodes)

    @property
    def covariance(self) -> Array:
        """Posterior covariance of the coordinates, (k, k)."""
        off = self.nodes - self.mean
        return (self.weights[:, None] * off).T @ off

    def marginal(self, j: int, plus: Functions | None = None) -> Marginal:
        """Posterior distribution of coordinate j or, of two coordinates, of the second plus a function of the first.

        No evaluation of the density (see `fastlmm_vi.marginal`).

        Parameters
        ----------
        j : int
        plus : callable (m,) -> (m,), optional
            Function of the first of two coordinates; with j = 1 only.
        """
        k = self.mode.size
        if not 0 <= j < k or (plus is not None and (j, k) != (1, 2)):
            raise ValueError(f"j={j} must be 0 … {k - 1}, and plus goes with the second of two coordinates.")
        if plus is None:
            return marginal.of(self.lattice, self.coordinates, j)
        return marginal.of_sum(self.lattice, self.coordinates, plus)

    def sample(self, rng: np.random.Generator, size: int) -> Array:
        """Draw from the density, (size, k): rejection from its piecewise linear interpolation.

        About 1.2^k evaluations of the density for every draw.
        """
        even = (self.lattice.index % 2 == 0).all(axis=1)
        index, value = self.lattice.index[even], self.lattice.value[even] - self.lattice.value.max()
        spacing = 2.0 * self.lattice.unit
        order = np.argsort(codes(index))
        index, mass = index[order], np.exp(value[order])
        known = codes(index)
        k = index.shape[1]
        corners = np.stack(np.meshgrid(*[[0, 1]] * k, indexing="ij"), axis=-1).reshape(-1, k)
        draws: list[Array] = []
        found, largest = 0, 1.0
        while found < size:
            m = int(1.3**k * (size - found)) + 32
            at = index[rng.choice(len(index), m, p=mass / mass.sum())]
            z = (0.5 * at + rng.random((m, k)) + rng.random((m, k)) - 1.0) * spacing
            cell = np.floor(z / spacing)
            part = z / spacing - cell
            proposal = np.zeros(m)
            for corner in corners:
                code = codes(2 * (cell.astype(np.int64) + corner))
                position = np.minimum(np.searchsorted(known, code), known.size - 1)
                height = np.where(known[position] == code, mass[position], 0.0)
                proposal += height * np.where(corner == 1, part, 1.0 - part).prod(axis=1)
            x = self.coordinates.x(z)
            log_ratio = self.density(x) + self.coordinates.log_jacobian(z) - self.lattice.value.max() - np.log(proposal)
            ratio = np.exp(log_ratio)
            largest = max(largest, float(ratio.max()))
            draws.append(x[rng.random(m) * largest < ratio])
            found += len(draws[-1])
        return np.concatenate(draws)[:size]


class _Density:
    """The log density on rows of points, counted and checked."""

    def __init__(self, log_density: LogDensity, vectorised: bool) -> None:
        self._log_density, self._vectorised = log_density, vectorised
        self.count = 0

    def __call__(self, x: Array) -> Array:
        self.count += len(x)
        values = self._log_density(x) if self._vectorised else [self._log_density(row) for row in x]
        out = np.asarray(values, dtype=np.float64).reshape(-1)
        bad = np.isnan(out) | (out == np.inf)
        if bad.any():
            first = int(bad.argmax())
            raise ValueError(
                f"The log density is {out[first]} at {x[first]}: it must be a number, or −inf where it is 0."
            )
        return out

    def one(self, x: Array) -> float:
        """At a single point (k,)."""
        return float(self(x[None, :])[0])


class _Reach:
    """Log of how fast the squares of the functions asked for grow away from the mode: 0 there."""

    def __init__(self, functions: Functions, center: Array, L: Array) -> None:
        self._functions = functions
        self._at_mode = functions(center[None, :])[0]
        change = 0.5 * (functions(center + L.T) - functions(center - L.T))
        spread = np.sqrt((change**2).sum(axis=0))
        self._spread = np.where(spread > 0.0, spread, 1.0)

    def __call__(self, x: Array) -> Array:
        with np.errstate(over="ignore"):
            units = np.minimum(np.abs((self._functions(x) - self._at_mode) / self._spread), 1e150)
        return np.log1p((units**2).max(axis=1))


def _mode(density: _Density, start: Array) -> tuple[Array, float]:
    """The maximum next to `start`, and its height; the search begins anew, in new units, while it gets higher."""
    at, height = start, density.one(start)
    if height == -np.inf:
        raise ValueError(f"The density is 0 at start={start}: start where it is not.")
    for _ in range(20):
        unit = _units(density, at, height)

        def depth(steps: Array, at: Array = at, unit: Array = unit, height: float = height) -> float:
            return -max(density.one(at + unit * steps), height - 1e8)

        found: Any = scipy.optimize.minimize(depth, np.zeros(at.size), method="BFGS")
        rise = -found.fun - height
        if rise > 0.0:
            at, height = at + unit * found.x, -found.fun
        if rise < 0.1:
            break
    return at, height


def _units(density: _Density, at: Array, height: float) -> Array:
    """Steps along the coordinates that change the log density by about 1."""
    unit = np.ones(at.size)
    for j in range(at.size):
        for _ in range(25):
            change = abs(density.one(at + unit[j] * np.eye(at.size)[j]) - height)
            if 0.01 < change < 10.0:
                break
            unit[j] *= 10.0 if change <= 0.01 else 0.1
        else:
            unit[j] = 1.0
    return unit


def _whitening(density: _Density, center: Array) -> tuple[Array, Array]:
    """Standard deviations, and the Cholesky factor of the correlations, that the curvature at the mode tells."""
    k = center.size
    top = density.one(center)
    step = np.ones(k)
    drop: Array = np.empty(k)
    E = np.eye(k)
    for j in range(k):
        # A step that halves the density or so, whatever the units.
        short, long = 0.0, np.inf
        for _ in range(60):
            fall = top - density(center + np.array([[step[j]], [-step[j]]]) * E[j])
            drop[j] = 0.5 * fall.sum()
            if 0.05 < drop[j] < 2.0:
                break
            short, long = (step[j], long) if drop[j] <= 0.05 else (short, step[j])
            step[j] = np.sqrt(short * long) if short > 0.0 and long < np.inf else step[j] * (10.0 if short else 0.1)
        else:
            raise IntegrationError(
                f"The density does not fall off along coordinate {j} around {center}: it is improper, or not smooth there."
            )
    H: Array = np.diag(2.0 * drop)  # in units of the steps
    for i in range(k):
        for j in range(i):
            both = (E[i] * step[i] + E[j] * step[j]) * np.array([[1.0], [-1.0]])
            loss = float(0.5 * (top - density(center + both)).sum())
            H[i, j] = H[j, i] = loss - drop[i] - drop[j] if np.isfinite(loss) else 0.0
    if np.linalg.eigvalsh(H)[0] < 1e-6 * H.diagonal().max():
        H = np.diag(H.diagonal())
    covariance = np.linalg.inv(H) * np.outer(step, step)
    sd = np.sqrt(covariance.diagonal())
    return sd, np.linalg.cholesky(covariance / np.outer(sd, sd))


def _tails(density: _Density, coordinates: Coordinates, reach: _Reach, cut: float) -> Coordinates:
    """The coordinates with a_j > 0 where the density reaches further along one than a normal density would."""
    center, scale = coordinates.center, coordinates.scale
    normal = np.sqrt(2.0 * cut)
    top = density.one(center)
    tails = np.zeros(center.size)
    for j in range(center.size):
        far = normal
        for sign in (-1.0, 1.0):
            while True:
                x = center + sign * far * scale * np.eye(center.size)[j : j + 1]
                if not np.isfinite(x).all() or far > 1e12 * normal:
                    raise IntegrationError(
                        f"The density does not decay as coordinate {j} goes to {'-' if sign < 0 else ''}∞ from {center}: it "
                        "is improper, or its tails are too heavy for the moments asked for. Check the priors."
                    )
                if density(x)[0] + reach(x)[0] < top - cut:
                    break
                far *= 1.5
        if far > 1.5 * normal:
            wanted = 1.25 * normal
            tails[j] = scipy.optimize.brentq(lambda a, r=far, w=wanted: np.arcsinh(a * r) / a - w, 1e-6, 1e3)
    return Coordinates(center, scale, coordinates.T, tails)


def _spacing(in_z: Functions, axis: int, k: int, cut: float, tol: float) -> float:
    """The widest spacing along an axis at which two trapezoid rules, half a spacing apart, agree on the slice's moments."""
    lo, hi = -1.4 * np.sqrt(2.0 * cut), 1.4 * np.sqrt(2.0 * cut)
    known: dict[float, float] = {}
    h = WIDEST
    while True:
        nodes = 0.5 * h * np.arange(np.ceil(2.0 * lo / h), 2.0 * hi / h)
        new = nodes[[node not in known for node in nodes]]
        at = np.zeros((new.size, k))
        at[:, axis] = new
        known.update(zip(new, in_z(at), strict=True))
        values = np.array([known[node] for node in nodes])
        p = np.exp(values - values.max())
        powers = p * nodes ** np.arange(3)[:, None]
        one, other = powers[:, ::2].sum(axis=1), powers[:, 1::2].sum(axis=1)
        near = 0.3 * tol * np.array([one[0], np.sqrt(one[0] * one[2]), one[2]])
        if h < NARROWEST or (np.abs(one - other) <= near).all():
            return h
        holds = np.flatnonzero(values > values.max() - cut)
        lo, hi = nodes[holds[0]] - h, nodes[holds[-1]] + h
        h *= np.sqrt(0.5)


def _refine(lattice: Lattice, coordinates: Coordinates, functions: Functions, tol: float, most: int) -> float:
    """Refine the lattice until its integrals no longer change; return the last change, or what the edge holds."""
    before = _integrals(lattice, coordinates, functions)
    error = np.inf
    steps = 0
    while not error <= tol:
        try:
            if steps % 2 == 0 or lattice.unit.size == 1:
                lattice.interleave()
            else:
                lattice.halve()
        except TooManyError:
            break
        now = _integrals(lattice, coordinates, functions)
        (z0, m0, s0), (z1, m1, s1) = before, now
        unit = np.where(s1 > 1e-10 * np.abs(m1), s1, np.inf)  # constants have a spread of rounding
        change = max(abs(z1 - z0), *np.abs((m1 - m0) / unit), *np.abs((s1 - s0) / unit))
        error = max(float(change), lattice.edge)
        before = now
        steps += 1
    return error


def _integrals(lattice: Lattice, coordinates: Coordinates, functions: Functions) -> tuple[float, Array, Array]:
    """Log evidence, means and standard deviations of the functions."""
    log_mass = lattice.log_mass
    log_evidence = float(logsumexp(log_mass))
    weights = np.exp(log_mass - log_evidence)
    keep = weights > 0.0  # functions may overflow where there is nothing
    values = functions(coordinates.x(lattice.z[keep]))
    mean = weights[keep] @ values
    return log_evidence, mean, np.sqrt(weights[keep] @ (values - mean) ** 2)
