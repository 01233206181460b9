"""The priors of one grouped model: what the user says of coefficients and terms, and defaults for the rest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from .. import priors as family
from ..priors import (
    LKJ,
    Fixed,
    Flat,
    Gaussian,
    HalfStudentT,
    HuangWand,
    InverseGamma,
    InverseWishart,
    Normal,
    ScalePrior,
)
from ..result import Array
from . import default_priors
from .default_priors import Sizes
from .model_frame import GroupedDesign
from .parameters import plain

KEYS = ("beta", "sigma", "sd", "cor", "cov")
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class TermPrior:
    """Prior of the covariance of the d random effects of one term.

    Attributes
    ----------
    factor : str
    effects : tuple of str (d,)
        brms' names of the effects.
    scales : tuple of ScalePrior or Fixed (d,), or None
        Of every standard deviation.
    correlation : LKJ or None
        Of their correlation matrix, beside `scales`; None where d = 1.
    covariance : InverseWishart or HuangWand or None
        In place of the two.
    """

    factor: str
    effects: tuple[str, ...]
    scales: tuple[ScalePrior | Fixed, ...] | None
    correlation: LKJ | None = None
    covariance: InverseWishart | HuangWand | None = None

    def log_density(self, sd: Array, L: Array) -> float:
        """Log density in (sd_1, …, sd_d, the correlations below the diagonal), with every constant.

        `sd` (d,) and the lower Cholesky factor L (d, d) of the correlation matrix. A covariance prior is brought to this
        measure by |∂Σ/∂(sd, R)| = 2^d Π sd_j^d. Of a `Fixed` standard deviation, held where it is, the density is 1.
        """
        d = len(self.effects)
        if self.covariance is not None:
            with np.errstate(divide="ignore"):
                jacobian = d * np.log(2.0) + d * float(np.log(sd).sum())
            if not np.isfinite(jacobian):
                return -np.inf
            root = sd[:, None] * L
            return self.covariance.log_density(root @ root.T) + jacobian
        assert self.scales is not None
        value = sum(float(p.log_density(x)) for p, x in zip(self.scales, sd, strict=True) if isinstance(p, ScalePrior))
        if self.correlation is not None:
            with np.errstate(divide="ignore"):
                logdet = 2.0 * float(np.log(np.diag(L)).sum())
            value += self.correlation.log_constant(d)
            value += (self.correlation.eta - 1.0) * logdet if self.correlation.eta != 1.0 else 0.0
        return value

    @property
    def proper(self) -> bool:
        """Whether it integrates to 1."""
        return self.scales is None or all(prior.proper for prior in self.scales)

    def lines(self) -> list[str]:
        """`name ~ prior` of everything in it."""
        if self.covariance is not None:
            return [f"cov_{self.factor}({', '.join(self.effects)}) ~ {self.covariance}"]
        assert self.scales is not None
        found = [f"sd_{self.factor}__{x} ~ {prior}" for x, prior in zip(self.effects, self.scales, strict=True)]
        if self.correlation is not None:
            found.append(f"cor_{self.factor}({', '.join(self.effects)}) ~ {self.correlation}")
        return found


@dataclass(frozen=True, eq=False)
class ModelPriors:
    """Priors of all that a grouped model has to learn.

    Attributes
    ----------
    coefficients : tuple of str (p,)
        brms' names, without `b_`, of the columns of X that are kept.
    beta : Gaussian
        Of these, jointly.
    sigma : ScalePrior or Fixed
        Of the residual standard deviation.
    terms : tuple of TermPrior
        In formula order.
    """

    coefficients: tuple[str, ...]
    beta: Gaussian
    sigma: ScalePrior | Fixed
    terms: tuple[TermPrior, ...]
    _of_beta: tuple[str, ...]

    @property
    def proper(self) -> bool:
        """Whether every prior is: only then is there a log evidence."""
        return self.beta.proper and self.sigma.proper and all(term.proper for term in self.terms)

    def lines(self) -> list[str]:
        """`name ~ prior` of every parameter."""
        return [*self._of_beta, f"sigma ~ {self.sigma}", *(line for term in self.terms for line in term.lines())]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def resolve(
    priors: Mapping[str, Any] | None,
    design: GroupedDesign,
    kept: Sequence[int] | None = None,
    *,
    conjugate_from: int | None = None,
) -> ModelPriors:
    """Return the priors of a model from what the user gave, and defaults for what he did not.

    Parameters
    ----------
    priors : mapping, optional
        - "beta": `Normal` (of all, or joint), `Flat`, a list in order of the coefficients, or a mapping from their names.
        - "sigma": prior of a standard deviation.
        - "sd": the same for all random effects, or `{"subj": prior}`, or `{"subj": {"Intercept": prior, "x": prior}}`.
        - "cor": `LKJ`, or `{"subj": LKJ(…)}`.
        - "cov": `InverseWishart` or `HuangWand` in place of "sd" and "cor", for all terms or `{"subj": …}`.

        Names are brms' without `b_`: "Intercept", "x", "TypeT2"; R's "(Intercept)" is the same.
    design : GroupedDesign
    kept : sequence of int, optional
        Columns of X that take part; all.
    conjugate_from : int, optional
        Number of correlated effects from which the default is `HuangWand(2, …)`, half-t(2) standard deviations of the
        same scales with uniform correlations: its updates are closed.

    Notes
    -----
    Defaults, with s the standard deviation of y (by the weights, the offset subtracted), that of a column x beside it:

    - the intercept: Normal(mean of y, 2.5 s) where all other columns are at their means (but for those with a prior that
      is flat), so that it does not depend on their origin; other coefficients: Normal(0, 2.5 s / sd(x)). Without an intercept
      root mean squares stand for the standard deviations. These are the defaults of the R package rstanarm.
    - sigma, and standard deviations of random effects: HalfStudentT(3, s), of a slope HalfStudentT(3, s / sd(x)), the family
      of the R package brms, its scale in the units of response and column; correlations: LKJ(1), as there.

    A prior that the user gives for the intercept is of the intercept itself, uncentred.

    Raises
    ------
    ValueError
        If a name is unknown, a number wrong, a prior of the wrong kind, or improper where the posterior would be too.
    """
    given = _mapping(priors)
    kept = range(len(design.fixed_names)) if kept is None else kept
    sizes = Sizes.of(design)
    names, beta, lines = _beta(given.get("beta"), design, list(kept), sizes)
    residual = family.scale(given["sigma"], 'priors["sigma"]') if "sigma" in given else None
    terms = _terms(given, design, sizes, conjugate_from)
    return ModelPriors(names, beta, residual or default_priors.sigma(sizes), terms, lines)


def _mapping(priors: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if priors is None:
        return {}
    if not isinstance(priors, Mapping):
        raise ValueError(
            f"priors={priors!r} must be a mapping, such as {{'beta': Normal(0, 10), 'sd': HalfNormal(5)}}."
        )
    unknown = [key for key in priors if key not in KEYS]
    if unknown:
        raise ValueError(
            f"priors has {', '.join(map(repr, unknown))}, which is not known: choose among {', '.join(map(repr, KEYS))}."
        )
    return priors


def _beta(
    given: Any, design: GroupedDesign, kept: list[int], sizes: Sizes
) -> tuple[tuple[str, ...], Gaussian, tuple[str, ...]]:
    """Names, joint prior, and lines of it."""
    argument = 'priors["beta"]'
    names = tuple(plain(design.fixed_names[j]) for j in kept)
    slopes = {name: default_priors.coefficient(design.X[:, j], sizes) for name, j in zip(names, kept, strict=True)}
    of_mean = default_priors.mean(sizes)
    by_name: Mapping[str, Any] = {}
    if isinstance(given, Mapping):
        by_name = _plain_keys(given, argument)
        lost = [plain(name) for j, name in enumerate(design.fixed_names) if j not in kept and plain(name) in by_name]
        if lost:
            raise ValueError(
                f"{argument} names {', '.join(map(repr, lost))}, left out of the model as it depends linearly on other "
                "columns: drop the prior, or those columns."
            )
    elif given is not None:
        beta = family.coefficients(given, names, argument)
        each = given if isinstance(given, Sequence) else [given] * len(names)
        joint = isinstance(given, Normal) and given.length is not None
        text = [f"b ~ {given}"] if joint else [f"b_{x} ~ {one}" for x, one in zip(names, each, strict=True)]
        return names, beta, tuple(text)
    free = "Intercept" in names and "Intercept" not in by_name
    chosen = {**slopes, **({"Intercept": of_mean} if free else {}), **by_name}
    beta = family.coefficients(chosen, names, argument)
    lines = [f"b_{name} ~ {chosen[name]}" for name in names]
    if free:
        one = names.index("Intercept")
        means = np.array([default_priors.moments(design.X[:, j], sizes.weights, True)[0] for j in kept])
        means = np.where(np.diag(beta.precision) > 0.0, means, 0.0)
        beta = _centred(beta, one, means)
        if len(names) > 1:
            lines[one] += " with all columns at their means"
    return names, beta, tuple(lines)


def _centred(beta: Gaussian, one: int, means: Array) -> Gaussian:
    """Let the independent prior of coefficient `one` be that of β_one + Σ means_j β_j: a change of variables, Jacobian 1."""
    J = means.copy()
    J[one] = 1.0
    others = beta.precision.copy()
    others[one, one] = 0.0
    mean = beta.mean.copy()
    mean[one] += beta.mean[one] - J @ beta.mean
    return Gaussian(mean, others + beta.precision[one, one] * np.outer(J, J), beta.log_constant)


def _terms(
    given: Mapping[str, Any], design: GroupedDesign, sizes: Sizes, conjugate_from: int | None
) -> tuple[TermPrior, ...]:
    """Priors of the terms in formula order."""
    effects: dict[str, list[str]] = {}
    for term in design.terms:
        effects.setdefault(term.factor.name, []).extend(plain(name) for name in term.names)
    correlated = {term.factor.name for term in design.terms if len(term.names) > 1}
    sd = _by_factor(given, "sd", effects, lambda prior, argument: prior)
    cor = _by_factor(given, "cor", effects, _correlation)
    cov = _by_factor(given, "cov", effects, _covariance)
    for key, found in (("sd", sd), ("cor", cor)):
        both = [factor for factor in found if factor in cov]
        if both:
            raise ValueError(
                f"priors has {key!r} and 'cov' for {', '.join(map(repr, both))}: a covariance prior is one of standard "
                "deviations and correlations together. Give one of the two."
            )
    if "cor" in given and not set(cor) <= correlated and (isinstance(given["cor"], Mapping) or not correlated):
        alone = [factor for factor in cor if factor not in correlated]
        raise ValueError(
            f'priors["cor"] is given for {", ".join(map(repr, alone))}, whose effects have no correlations: drop it, or '
            "write the term with one bar, (1 + x | g)."
        )
    by_effect = {factor: _scales(prior, factor, effects[factor]) for factor, prior in sd.items()}
    chosen = []
    for term in design.terms:
        factor, names = term.factor.name, tuple(plain(name) for name in term.names)
        if factor in cov:
            chosen.append(_of_covariance(cov[factor], factor, names))
            continue
        defaults = default_priors.scales(term, "Intercept" in effects[factor], sizes)
        if conjugate_from is not None and len(names) >= conjugate_from and not {factor} & {*by_effect, *cor}:
            default = HuangWand(2.0, tuple(prior.scale for prior in defaults))
            chosen.append(TermPrior(factor, names, None, None, default))
            continue
        scales = tuple(by_effect.get(factor, {}).get(x, default) for x, default in zip(names, defaults, strict=True))
        for name, prior in zip(names, scales, strict=True):
            _check_flat(prior, f"sd_{factor}__{name}", len(term.factor.levels))
        chosen.append(TermPrior(factor, names, scales, cor.get(factor, LKJ(1.0)) if len(names) > 1 else None))
    return tuple(chosen)


def _by_factor(
    given: Mapping[str, Any], key: str, effects: Mapping[str, Sequence[str]], check: Callable[[Any, str], T]
) -> dict[str, T]:
    """What is given under a key for every factor; one prior is for all of them."""
    if key not in given:
        return {}
    value, argument = given[key], f"priors[{key!r}]".replace("'", '"')
    if not isinstance(value, Mapping):
        return {factor: check(value, argument) for factor in effects}
    unknown = [factor for factor in value if factor not in effects]
    if unknown:
        known = ", ".join(map(repr, effects)) or "none"
        raise ValueError(
            f"{argument} names {', '.join(map(repr, unknown))}, which is no grouping factor of the model: these are {known}."
        )
    return {factor: check(prior, f'{argument}["{factor}"]') for factor, prior in value.items()}


def _correlation(prior: Any, argument: str) -> LKJ:
    if not isinstance(prior, LKJ):
        raise ValueError(f"{argument}={prior!r} is no prior of a correlation matrix: give LKJ(eta).")
    return prior


def _covariance(prior: Any, argument: str) -> InverseWishart | HuangWand:
    if not isinstance(prior, InverseWishart | HuangWand):
        raise ValueError(f"{argument}={prior!r} is no prior of a covariance matrix: give HuangWand or InverseWishart.")
    return prior


def _scales(prior: Any, factor: str, effects: Sequence[str]) -> dict[str, ScalePrior | Fixed]:
    """Priors of the effects of a factor by name: one for all, or a mapping that may leave some out."""
    argument = f'priors["sd"]["{factor}"]'
    if not isinstance(prior, Mapping):
        return dict.fromkeys(effects, family.scale(prior, argument))
    by_name = _plain_keys(prior, argument)
    unknown = [name for name in by_name if name not in effects]
    if unknown:
        raise ValueError(
            f"{argument} names {', '.join(map(repr, unknown))}, which {factor} does not have: its effects are "
            f"{', '.join(map(repr, effects))}."
        )
    return {name: family.scale(one, f'{argument}["{name}"]') for name, one in by_name.items()}


def _plain_keys(given: Mapping[str, Any], argument: str) -> dict[str, Any]:
    """The same with R's name of the intercept as brms writes it."""
    found: dict[str, Any] = {}
    for name, prior in given.items():
        if plain(name) in found:
            raise ValueError(f"{argument} names the intercept twice, as 'Intercept' and '(Intercept)': drop one.")
        found[plain(name)] = prior
    return found


def _of_covariance(prior: InverseWishart | HuangWand, factor: str, effects: tuple[str, ...]) -> TermPrior:
    """A covariance prior of one term; of a single effect it is one of its standard deviation."""
    d = len(effects)
    try:
        if isinstance(prior, InverseWishart):
            scale = prior.matrix(d)
            single: ScalePrior = InverseGamma(0.5 * prior.df, 0.5 * float(scale[0, 0]))
        else:
            single = HalfStudentT(prior.df, float(prior.vector(d)[0]))
    except ValueError as wrong:
        raise ValueError(f'priors["cov"] of {factor}, term of {", ".join(effects)}: {wrong}') from wrong
    return TermPrior(factor, effects, (single,)) if d == 1 else TermPrior(factor, effects, None, None, prior)


def _check_flat(prior: ScalePrior | Fixed, name: str, levels: int) -> None:
    """Refuse flat priors of a standard deviation under which no posterior exists.

    The likelihood does not go to 0 with the standard deviation, and falls like sd^(1 − levels) towards infinity (Gelman,
    Bayesian Analysis 1, 2006, section 2.2).
    """
    if not isinstance(prior, Flat):
        return
    least = {"sd": 3, "variance": 4}.get(prior.on)
    if least is None or levels < least:
        why = f"{levels} levels are too few, {least} are needed" if least else "the likelihood is positive at 0"
        raise ValueError(
            f"{name} ~ {prior} leaves no proper posterior ({why}): give a proper prior, such as HalfNormal."
        )
