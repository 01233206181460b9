"""Prior distributions: of coefficients, of standard deviations, of correlation and covariance matrices.

A prior of a scale is a density in the standard deviation itself; `InverseGamma` and `InverseWishart` are stated on the
variance or covariance. Every density carries its normalising constant, so that evidences are comparable; improper priors
(`proper` False) have density 1 where they are flat, and an evidence under them is defined up to a factor only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike
from scipy.special import betaln, gammaln, multigammaln

from .result import Array

LOG_2PI = float(np.log(2.0 * np.pi))
Size = int | tuple[int, ...] | None


class ScalePrior:
    """A prior of one standard deviation: log density and its derivative in the standard deviation, draws of it."""

    proper: ClassVar[bool] = True

    def log_density(self, sd: ArrayLike) -> Array:
        """Log density at standard deviations `sd` (any shape), −∞ below 0."""
        x = np.asarray(sd, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.where(x < 0.0, -np.inf, self._log_density(x))[()]

    def slope(self, sd: ArrayLike) -> Array:
        """Derivative of the log density in the standard deviation, at any `sd` ≥ 0."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return self._slope(np.asarray(sd, dtype=np.float64))[()]

    def sample(self, rng: np.random.Generator, size: Size = None) -> Array:
        """Draw standard deviations."""
        raise NotImplementedError

    def _log_density(self, x: Array) -> Array:
        raise NotImplementedError

    def _slope(self, x: Array) -> Array:
        raise NotImplementedError

    def __str__(self) -> str:
        return f"{type(self).__name__}({', '.join(_text(value) for value in vars(self).values())})"


@dataclass(frozen=True)
class HalfNormal(ScalePrior):
    """|N(0, scale²)|, a prior of a standard deviation.

    Parameters
    ----------
    scale : float

    Examples
    --------
    >>> from fastlmm_vi import priors
    >>> print(priors.HalfNormal(5), round(float(priors.HalfNormal(5).log_density(1.0)), 4))
    HalfNormal(5) -1.8552
    """

    scale: float

    def __post_init__(self) -> None:
        _store(self, scale=_positive(self, "scale", self.scale))

    def _log_density(self, x: Array) -> Array:
        return 0.5 * np.log(2.0 / np.pi) - np.log(self.scale) - 0.5 * (x / self.scale) ** 2

    def _slope(self, x: Array) -> Array:
        return -x / self.scale**2

    def sample(self, rng: np.random.Generator, size: Size = None) -> Array:
        """Draw standard deviations."""
        return self.scale * np.abs(rng.standard_normal(size))


@dataclass(frozen=True)
class HalfStudentT(ScalePrior):
    """|t| with `df` degrees of freedom times `scale`, a prior of a standard deviation.

    Parameters
    ----------
    df, scale : float
    """

    df: float
    scale: float

    def __post_init__(self) -> None:
        _store(self, df=_positive(self, "df", self.df), scale=_positive(self, "scale", self.scale))

    def _log_density(self, x: Array) -> Array:
        half = 0.5 * (self.df + 1.0)
        constant = np.log(2.0) + gammaln(half) - gammaln(0.5 * self.df) - 0.5 * np.log(self.df * np.pi)
        return constant - np.log(self.scale) - half * np.log1p((x / self.scale) ** 2 / self.df)

    def _slope(self, x: Array) -> Array:
        return -(self.df + 1.0) * x / (self.df * self.scale**2 + x**2)

    def sample(self, rng: np.random.Generator, size: Size = None) -> Array:
        """Draw standard deviations."""
        return self.scale * np.abs(rng.standard_t(self.df, size))


@dataclass(frozen=True)
class HalfCauchy(ScalePrior):
    """|Cauchy(0, scale)|, a prior of a standard deviation; `HalfStudentT(1, scale)`.

    Parameters
    ----------
    scale : float
    """

    scale: float

    def __post_init__(self) -> None:
        _store(self, scale=_positive(self, "scale", self.scale))

    def _log_density(self, x: Array) -> Array:
        return np.log(2.0 / np.pi) - np.log(self.scale) - np.log1p((x / self.scale) ** 2)

    def _slope(self, x: Array) -> Array:
        return -2.0 * x / (self.scale**2 + x**2)

    def sample(self, rng: np.random.Generator, size: Size = None) -> Array:
        """Draw standard deviations."""
        return self.scale * np.abs(rng.standard_cauchy(size))


@dataclass(frozen=True)
class Exponential(ScalePrior):
    """Exponential with `rate`, mean 1 / rate, a prior of a standard deviation.

    Parameters
    ----------
    rate : float
    """

    rate: float

    def __post_init__(self) -> None:
        _store(self, rate=_positive(self, "rate", self.rate))

    def _log_density(self, x: Array) -> Array:
        return np.log(self.rate) - self.rate * x

    def _slope(self, x: Array) -> Array:
        return np.full_like(x, -self.rate)

    def sample(self, rng: np.random.Generator, size: Size = None) -> Array:
        """Draw standard deviations."""
        return np.asarray(rng.exponential(1.0 / self.rate, size))[()]


@dataclass(frozen=True)
class LogNormal(ScalePrior):
    """exp N(mean, sd²), a prior of a standard deviation.

    Parameters
    ----------
    mean, sd : float
        Of the logarithm of the standard deviation.
    """

    mean: float
    sd: float

    def __post_init__(self) -> None:
        _store(self, mean=_finite(self, "mean", self.mean), sd=_positive(self, "sd", self.sd))

    def _log_density(self, x: Array) -> Array:
        # The square is completed, so that x = 0 gives −∞ and not ∞ − ∞.
        off = np.log(x) - self.mean + self.sd**2
        return -0.5 * (off / self.sd) ** 2 - self.mean + 0.5 * self.sd**2 - np.log(self.sd) - 0.5 * LOG_2PI

    def _slope(self, x: Array) -> Array:
        return -(1.0 + (np.log(x) - self.mean) / self.sd**2) / x

    def sample(self, rng: np.random.Generator, size: Size = None) -> Array:
        """Draw standard deviations."""
        return np.exp(self.mean + self.sd * rng.standard_normal(size))


@dataclass(frozen=True)
class InverseGamma(ScalePrior):
    """Inverse gamma on the variance: σ² ~ IG(shape, scale), density ∝ (σ²)^(−shape − 1) exp(−scale / σ²).

    `log_density` and `sample` are, as of every prior of a scale, those of the standard deviation: the density there
    includes dσ²/dσ = 2σ.

    Parameters
    ----------
    shape, scale : float

    Examples
    --------
    >>> from fastlmm_vi import priors
    >>> round(float(priors.InverseGamma(2, 3).log_density(1.5)), 4)
    -0.4703
    """

    shape: float
    scale: float

    def __post_init__(self) -> None:
        _store(self, shape=_positive(self, "shape", self.shape), scale=_positive(self, "scale", self.scale))

    def _log_density(self, x: Array) -> Array:
        constant = self.shape * np.log(self.scale) - gammaln(self.shape) + np.log(2.0)
        log_density = constant - (2.0 * self.shape + 1.0) * np.log(x) - self.scale / x**2
        return np.where(x == 0.0, -np.inf, log_density)

    def _slope(self, x: Array) -> Array:
        return (2.0 * self.scale / x**2 - (2.0 * self.shape + 1.0)) / x

    def sample(self, rng: np.random.Generator, size: Size = None) -> Array:
        """Draw standard deviations."""
        return np.sqrt(self.scale / rng.gamma(self.shape, 1.0, size))


@dataclass(frozen=True)
class Flat(ScalePrior):
    """Improper flat prior, of a coefficient or a scale: density 1 everywhere.

    Parameters
    ----------
    on : {"sd", "variance", "log"}, default "sd"
        What it is flat in, where the parameter is a scale: the standard deviation σ, the variance σ² (density 2σ in σ),
        or log σ (density 1/σ; with it the posterior of a variance that may be 0 is improper too).
    """

    on: str = "sd"
    proper: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.on not in ("sd", "variance", "log"):
            raise ValueError(f"Flat: on={self.on!r} is not known: choose 'sd', 'variance' or 'log'.")

    def _log_density(self, x: Array) -> Array:
        if self.on == "variance":
            return np.log(2.0 * x)
        return -np.log(x) if self.on == "log" else np.zeros_like(x)

    def _slope(self, x: Array) -> Array:
        return {"sd": 0.0, "variance": 1.0, "log": -1.0}[self.on] / np.where(self.on == "sd", 1.0, x)

    def sample(self, rng: np.random.Generator, size: Size = None) -> Array:
        """Not possible: the prior is improper."""
        raise ValueError("Flat() is improper and cannot be drawn from: choose a proper prior.")

    def __str__(self) -> str:
        return "Flat()" if self.on == "sd" else f"Flat({self.on})"


@dataclass(frozen=True)
class Fixed:
    """No distribution: the parameter is held at `value` (of a scale, the standard deviation).

    Parameters
    ----------
    value : float
    """

    value: float
    proper: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _store(self, value=_finite(self, "value", self.value))

    def sample(self, rng: np.random.Generator, size: Size = None) -> Array:
        """Return the value, in the shape asked for."""
        return np.full(() if size is None else size, self.value)[()]

    def __str__(self) -> str:
        return f"Fixed({_text(self.value)})"


@dataclass(frozen=True)
class Normal:
    """N(mean, sd²) of coefficients: one for all, one for each, or joint.

    Parameters
    ----------
    mean : float or sequence (k,)
    sd : float or sequence (k,), or matrix (k, k)
        Standard deviations; a matrix is the covariance.
    covariance : matrix (k, k), optional
        In place of `sd`, by name.

    Examples
    --------
    >>> from fastlmm_vi import priors
    >>> print(priors.Normal(0, 10), priors.Normal([0, 1], [[2.0, 0.5], [0.5, 1.0]]))
    Normal(0, 10) Normal([0, 1], covariance [[2, 0.5], [0.5, 1]])
    """

    mean: Any
    sd: Any = None
    covariance: Any = None
    proper: ClassVar[bool] = True

    def __post_init__(self) -> None:
        mean = _finite_array(self, "mean", self.mean)
        sd, covariance = self.sd, self.covariance
        if (sd is None) == (covariance is None):
            raise ValueError("Normal: give either sd or covariance.")
        if sd is not None and np.ndim(sd) == 2:
            sd, covariance = None, sd
        if mean.ndim > 1:
            raise ValueError(f"Normal: mean has {mean.ndim} dimensions: give a number or one number per coefficient.")
        if sd is not None:
            sd = _finite_array(self, "sd", sd)
            if sd.ndim > 1 or not (sd > 0.0).all():
                raise ValueError(f"Normal: sd={_text(sd)} must be positive, a number or one per coefficient.")
            if mean.ndim == sd.ndim == 1 and mean.size != sd.size:
                raise ValueError(f"Normal: mean has length {mean.size}, sd {sd.size}: give as many of both.")
            _store(self, mean=_frozen(mean), sd=_frozen(sd))
            return
        covariance = _covariance(self, "covariance", covariance)
        if mean.ndim == 1 and mean.size != len(covariance):
            raise ValueError(
                f"Normal: mean has length {mean.size}, covariance {len(covariance)} rows: give as many of both."
            )
        _store(self, mean=_frozen(mean), sd=None, covariance=_frozen(covariance))

    @property
    def length(self) -> int | None:
        """How many coefficients it is of; None where one distribution serves any number."""
        sizes = [np.shape(value)[0] for value in (self.mean, self.sd, self.covariance) if np.ndim(value)]
        return sizes[0] if sizes else None

    def moments(self, k: int, argument: str = "this prior") -> tuple[Array, Array]:
        """Mean (k,) and covariance (k, k) of k coefficients.

        Raises
        ------
        ValueError
            If it is of another number of coefficients; `argument` is what the message calls it.
        """
        if self.length not in (None, k):
            raise ValueError(f"{argument} is a Normal of {self.length} coefficients, the model has {k}: give {k}.")
        mean = np.broadcast_to(np.asarray(self.mean, dtype=np.float64), (k,)).copy()
        if self.covariance is not None:
            return mean, np.array(self.covariance)
        return mean, np.diag(np.broadcast_to(np.asarray(self.sd, dtype=np.float64) ** 2, (k,)))

    def log_density(self, x: ArrayLike) -> Array:
        """Joint log density of the coefficients x (..., k); of a `Normal` of numbers, that of every single x."""
        off = np.asarray(x, dtype=np.float64) - np.asarray(self.mean)
        if self.covariance is not None:
            chol = np.linalg.cholesky(np.array(self.covariance))
            z = scipy.linalg.solve_triangular(chol, np.moveaxis(off, -1, 0).reshape(len(chol), -1), lower=True)
            half_logdet = float(np.log(np.diag(chol)).sum())
            quadratic = (z**2).sum(axis=0).reshape(off.shape[:-1])
            return (-0.5 * (len(chol) * LOG_2PI + quadratic) - half_logdet)[()]
        sd = np.asarray(self.sd)
        each = -0.5 * (LOG_2PI + (off / sd) ** 2) - np.log(sd)
        return (each if self.length is None else each.sum(axis=-1))[()]

    def slope(self, x: ArrayLike) -> Array:
        """Derivative of the log density in every coefficient, of the shape of x."""
        off = np.asarray(x, dtype=np.float64) - np.asarray(self.mean)
        if self.covariance is not None:
            return -np.linalg.solve(np.array(self.covariance), off[..., None])[..., 0]
        return (-off / np.asarray(self.sd) ** 2)[()]

    def sample(self, rng: np.random.Generator, size: Size = None) -> Array:
        """Draw coefficients, of shape `size`, and (k,) behind it where the prior is of k coefficients."""
        shape = () if size is None else (size,) if isinstance(size, int) else tuple(size)
        z = rng.standard_normal(shape if self.length is None else (*shape, self.length))
        if self.covariance is not None:
            return np.asarray(self.mean) + z @ np.linalg.cholesky(np.array(self.covariance)).T
        return np.asarray(self.mean) + np.asarray(self.sd) * z

    def __str__(self) -> str:
        spread = _text(self.sd) if self.covariance is None else f"covariance {_text(self.covariance)}"
        return f"Normal({_text(self.mean)}, {spread})"


@dataclass(frozen=True)
class LKJ:
    """Correlation matrices R with density ∝ |R|^(eta − 1): 1 is uniform, above 1 favours the identity.

    Parameters
    ----------
    eta : float

    References
    ----------
    Lewandowski, Kurowicka and Joe, J. Multivariate Anal. 100 (2009) 1989-2001.

    Examples
    --------
    >>> from fastlmm_vi import priors
    >>> round(float(priors.LKJ(1).log_density([[1, 0.3], [0.3, 1]])), 6)  # uniform on (−1, 1)
    -0.693147
    """

    eta: float
    proper: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _store(self, eta=_positive(self, "eta", self.eta))

    def log_constant(self, k: int) -> float:
        """Log of the normalising constant: the density of k × k matrices is exp(log_constant) |R|^(eta − 1)."""
        i = np.arange(1, k)  # k − i of the paper
        shape = self.eta + 0.5 * (i - 1)
        return -float((i * ((2.0 * (self.eta - 1.0) + i) * np.log(2.0) + betaln(shape, shape))).sum())

    def log_density(self, correlation: ArrayLike) -> float:
        """Log density of a correlation matrix (k, k), in its k (k − 1) / 2 correlations; −∞ where it is none."""
        R = np.asarray(correlation, dtype=np.float64)
        sign, logdet = np.linalg.slogdet(R)
        if sign <= 0.0 or not _is_correlation(R):
            return -np.inf
        return self.log_constant(len(R)) + (self.eta - 1.0) * float(logdet)

    def log_density_cholesky(self, L: ArrayLike) -> float:
        """Log density of the lower Cholesky factor L of a correlation matrix, in its entries below the diagonal."""
        diagonal = np.diag(np.asarray(L, dtype=np.float64))
        k = diagonal.size
        powers = 2.0 * (self.eta - 1.0) + k - 1.0 - np.arange(k)
        return self.log_constant(k) + float((powers[1:] * np.log(diagonal[1:])).sum())

    def sample(self, rng: np.random.Generator, k: int, size: int = 1) -> Array:
        """Draw correlation matrices, (size, k, k), row by row of their Cholesky factor."""
        L = np.zeros((size, k, k))
        L[:, 0, 0] = 1.0
        for i in range(1, k):
            # What row i has off the diagonal: a direction at random, and a squared length of beta distribution.
            length = rng.beta(0.5 * i, self.eta + 0.5 * (k - 1 - i), size)
            z = rng.standard_normal((size, i))
            L[:, i, :i] = z * np.sqrt(length / (z**2).sum(axis=1))[:, None]
            L[:, i, i] = np.sqrt(1.0 - length)
        return L @ L.transpose(0, 2, 1)

    def __str__(self) -> str:
        return f"LKJ({_text(self.eta)})"


@dataclass(frozen=True)
class InverseWishart:
    """Inverse Wishart of a covariance matrix, density ∝ |Σ|^(−(df + k + 1)/2) exp(−½ tr(scale Σ⁻¹)).

    Of a single variance, `InverseGamma(df / 2, scale / 2)`.

    Parameters
    ----------
    df : float
        Above k − 1.
    scale : float or matrix (k, k)
        A number stands for that multiple of the identity.
    """

    df: float
    scale: Any
    proper: ClassVar[bool] = True

    def __post_init__(self) -> None:
        df = _positive(self, "df", self.df)
        if np.ndim(self.scale) == 0:
            _store(self, df=df, scale=_positive(self, "scale", self.scale))
            return
        scale = _covariance(self, "scale", self.scale)
        _store(self, df=df, scale=_frozen(scale))
        self.matrix(len(scale))

    def matrix(self, k: int) -> Array:
        """The scale matrix (k, k).

        Raises
        ------
        ValueError
            If it is of another size, or `df` too small for it.
        """
        scale = self.scale * np.eye(k) if np.ndim(self.scale) == 0 else np.array(self.scale)
        if len(scale) != k:
            raise ValueError(f"InverseWishart: scale is {len(scale)} × {len(scale)}, the covariance {k} × {k}.")
        if not self.df > k - 1:
            raise ValueError(
                f"InverseWishart: df={_text(self.df)} must be above k − 1 = {k - 1} for {k} × {k} matrices."
            )
        return scale

    def log_density(self, covariance: ArrayLike) -> float:
        """Log density of a covariance matrix (k, k), in its k (k + 1) / 2 entries; −∞ where it is none."""
        S = np.atleast_2d(np.asarray(covariance, dtype=np.float64))
        scale = self.matrix(len(S))
        found = _factor(S)
        if found is None:
            return -np.inf
        logdet, inverse = found
        k, df = len(S), self.df
        constant = 0.5 * df * (np.linalg.slogdet(scale)[1] - k * np.log(2.0)) - multigammaln(0.5 * df, k)
        return float(constant - 0.5 * (df + k + 1.0) * logdet - 0.5 * (scale * inverse).sum())

    def sample(self, rng: np.random.Generator, k: int, size: int = 1) -> Array:
        """Draw covariance matrices, (size, k, k)."""
        from scipy.stats import invwishart

        return np.asarray(invwishart.rvs(self.df, self.matrix(k), size, rng)).reshape(size, k, k)

    def __str__(self) -> str:
        return f"InverseWishart({_text(self.df)}, {_text(self.scale)})"


@dataclass(frozen=True)
class HuangWand:
    """Σ | a ~ IW(df + k − 1, 2 df diag(1/a)), a_j ~ IG(½, 1/scales_j²): half-t standard deviations, free correlations.

    Every standard deviation is `HalfStudentT(df, scales_j)`; with df = 2 every correlation is uniform.

    Parameters
    ----------
    df : float
    scales : float or sequence (k,)

    References
    ----------
    Huang and Wand, Bayesian Analysis 8 (2013) 439-452.
    """

    df: float
    scales: Any
    proper: ClassVar[bool] = True

    def __post_init__(self) -> None:
        scales = _finite_array(self, "scales", self.scales)
        if scales.ndim > 1 or not (scales > 0.0).all():
            raise ValueError(
                f"HuangWand: scales={_text(scales)} must be positive, a number or one per standard deviation."
            )
        _store(self, df=_positive(self, "df", self.df), scales=_frozen(scales))

    def vector(self, k: int) -> Array:
        """The scales of k standard deviations, (k,).

        Raises
        ------
        ValueError
            If there are not k of them.
        """
        if np.ndim(self.scales) and np.size(self.scales) != k:
            raise ValueError(
                f"HuangWand: scales has length {np.size(self.scales)}, the covariance is {k} × {k}: give {k}."
            )
        return np.broadcast_to(np.asarray(self.scales, dtype=np.float64), (k,)).copy()

    def log_density(self, covariance: ArrayLike) -> float:
        """Log density of a covariance matrix (k, k), a integrated out, in its k (k + 1) / 2 entries."""
        S = np.atleast_2d(np.asarray(covariance, dtype=np.float64))
        k, df = len(S), self.df
        scales = self.vector(k)
        found = _factor(S)
        if found is None:
            return -np.inf
        logdet, inverse = found
        inner = df + k - 1.0  # degrees of freedom given a
        constant = k * (0.5 * inner * np.log(df) + gammaln(0.5 * (df + k)) - 0.5 * np.log(np.pi))
        constant -= multigammaln(0.5 * inner, k) + np.log(scales).sum()
        terms = np.log(df * np.diag(inverse) + scales**-2.0).sum()
        return float(constant - 0.5 * (df + 2.0 * k) * logdet - 0.5 * (df + k) * terms)

    def sample(self, rng: np.random.Generator, k: int, size: int = 1) -> Array:
        """Draw covariance matrices, (size, k, k)."""
        from scipy.stats import invwishart

        a = self.vector(k) ** -2.0 / rng.gamma(0.5, 1.0, (size, k))
        draws = [invwishart.rvs(self.df + k - 1.0, np.diag(2.0 * self.df / row), random_state=rng) for row in a]
        return np.array(draws).reshape(size, k, k)

    def __str__(self) -> str:
        return f"HuangWand({_text(self.df)}, {_text(self.scales)})"


class Gaussian(NamedTuple):
    """Prior of k coefficients, log p(x) = log_constant − ½ (x − mean)ᵀ precision (x − mean); 0 rows where flat."""

    mean: Array
    precision: Array
    log_constant: float

    @property
    def proper(self) -> bool:
        """Whether no coefficient is flat."""
        return bool((np.diag(self.precision) > 0.0).all())


def coefficients(prior: Any, names: Sequence[str], argument: str, default: "Normal | Flat | None" = None) -> Gaussian:
    """Return the joint prior of the coefficients `names` as one `Gaussian`.

    Parameters
    ----------
    prior : Normal, Flat, mapping or sequence
        One prior for all; or a mapping from names to a `Normal` or `Flat` of one coefficient each; or a list of these in
        the order of the coefficients.
    names : sequence of str
    argument : str
        What error messages call the prior.
    default : Normal or Flat, optional
        Of coefficients that a mapping does not name; without it every coefficient must be named.

    Raises
    ------
    ValueError
        If a name is unknown or missing, the number is wrong, or something is neither `Normal` nor `Flat`.
    """
    k = len(names)
    if isinstance(prior, Mapping):
        unknown = [name for name in prior if name not in names]
        if unknown:
            raise ValueError(
                f"{argument} names {', '.join(map(repr, unknown))}, which the model does not have: "
                f"its coefficients are {', '.join(map(repr, names))}."
            )
        missing = [name for name in names if name not in prior]
        if missing and default is None:
            raise ValueError(f"{argument} lacks a prior for {', '.join(map(repr, missing))}: give Normal(…) or Flat().")
        prior = [prior.get(name, default) for name in names]
    if isinstance(prior, Normal):
        mean, covariance = prior.moments(k, argument)
        half_logdet = float(np.log(np.diag(np.linalg.cholesky(covariance))).sum()) if k else 0.0
        return Gaussian(mean, np.asarray(np.linalg.inv(covariance), dtype=np.float64), -half_logdet - 0.5 * k * LOG_2PI)
    if isinstance(prior, Flat):
        return Gaussian(np.zeros(k), np.zeros((k, k)), 0.0)
    if not isinstance(prior, Sequence) or isinstance(prior, str):
        raise ValueError(f"{argument}={prior!r} is no prior of coefficients: give Normal(mean, sd) or Flat().")
    if len(prior) != k:
        raise ValueError(f"{argument} has {len(prior)} priors, the model has {k} coefficients: {', '.join(names)}.")
    parts = []
    for name, one in zip(names, prior, strict=True):
        if not isinstance(one, Normal | Flat):
            raise ValueError(
                f"{argument}[{name!r}]={one!r} is no prior of a coefficient: give Normal(mean, sd) or Flat()."
            )
        parts.append(coefficients(one, [name], f"{argument}[{name!r}]"))
    mean = np.array([part.mean[0] for part in parts])
    precision = np.diag([part.precision[0, 0] for part in parts]) if k else np.zeros((0, 0))
    return Gaussian(mean, precision, float(sum(part.log_constant for part in parts)))


def scale(prior: Any, argument: str) -> ScalePrior | Fixed:
    """Return `prior` where it is one of a single standard deviation.

    Raises
    ------
    ValueError
        If it is none, or holds the standard deviation at a value that is not positive.
    """
    if isinstance(prior, Fixed):
        if not prior.value > 0.0:
            raise ValueError(f"{argument}={prior} holds a standard deviation that is not positive: give Fixed(sd > 0).")
        return prior
    if not isinstance(prior, ScalePrior):
        raise ValueError(
            f"{argument}={prior!r} is no prior of a standard deviation: give HalfNormal, HalfCauchy, HalfStudentT, "
            "Exponential, LogNormal, InverseGamma (on the variance), Flat or Fixed of fastlmm_vi.priors."
        )
    return prior


def _store(prior: object, **values: Any) -> None:
    """Set the checked fields of a frozen instance."""
    for name, value in values.items():
        object.__setattr__(prior, name, value)


def _finite(prior: object, name: str, value: Any) -> float:
    array = _finite_array(prior, name, value)
    if array.ndim:
        raise ValueError(f"{type(prior).__name__}: {name} has shape {array.shape}: give one number.")
    return float(array)


def _positive(prior: object, name: str, value: Any) -> float:
    number = _finite(prior, name, value)
    if not number > 0.0:
        raise ValueError(f"{type(prior).__name__}: {name}={_text(number)} must be positive.")
    return number


def _finite_array(prior: object, name: str, value: Any) -> Array:
    owner = type(prior).__name__
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "iuf":
            raise TypeError
    except (TypeError, ValueError):
        raise ValueError(f"{owner}: {name}={value!r} must be a number, or numbers.") from None
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"{owner}: {name}={value!r} must be finite.")
    return array.astype(np.float64)


def _covariance(prior: object, name: str, value: Any) -> Array:
    owner = type(prior).__name__
    matrix = _finite_array(prior, name, value)
    if matrix.ndim != 2 or len(matrix) != matrix.shape[1]:
        raise ValueError(f"{owner}: {name} has shape {matrix.shape}: give a square matrix.")
    if not np.allclose(matrix, matrix.T, rtol=1e-10, atol=0.0):
        raise ValueError(f"{owner}: {name} is not symmetric.")
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        smallest = np.linalg.eigvalsh(matrix)[0]
        raise ValueError(
            f"{owner}: {name} is not positive definite (smallest eigenvalue {smallest:.3g}): drop what depends on the rest, "
            "or give it a variance of its own."
        ) from None
    return matrix


def _is_correlation(R: Array) -> bool:
    """Whether a matrix of positive determinant is a correlation matrix."""
    if not np.allclose(np.diag(R), 1.0, rtol=1e-10) or not np.allclose(R, R.T, atol=1e-12):
        return False
    return bool(np.linalg.eigvalsh(R)[0] > 0.0)


def _factor(S: Array) -> tuple[float, Array] | None:
    """log|S| and S⁻¹, or None where S is not positive definite."""
    try:
        factor = scipy.linalg.cho_factor(S, lower=True)
    except np.linalg.LinAlgError:
        return None
    return 2.0 * float(np.log(np.diag(factor[0])).sum()), scipy.linalg.cho_solve(factor, np.eye(len(S)))


def _frozen(array: Array) -> Any:
    """Numbers as nested tuples: comparable, hashable, and not to be changed behind the prior's back."""
    if array.ndim == 0:
        return float(array)
    return tuple(_frozen(row) for row in array)


def _text(value: Any) -> str:
    """Numbers as short as they can be written in six digits."""
    if np.ndim(value) == 0:
        return f"{value:g}" if isinstance(value, int | float | np.number | np.ndarray) else str(value)
    return f"[{', '.join(_text(row) for row in value)}]"
