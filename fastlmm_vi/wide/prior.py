"""Priors of the Bayesian wide model: those given, and weakly informative ones on the data's own scale for the rest."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import priors
from ..priors import Fixed, Gaussian, HalfNormal, Normal, ScalePrior
from .design import Design

NAMES = ("omega", "sigma_beta", "sigma_e")
WIDE = 2.5  # default scale of standard deviations, in residual standard deviations of y


class Priors(NamedTuple):
    """p(ω) as one Gaussian in the rotated effects a, p(σ_β), p(σ_e), and how they are written in a summary."""

    effects: Gaussian
    sigma_beta: ScalePrior | Fixed
    sigma_e: ScalePrior | Fixed
    texts: tuple[tuple[str, str], ...]

    @property
    def proper(self) -> bool:
        """Whether all are: only then is the evidence more than a number up to a factor."""
        return self.effects.proper and self.sigma_beta.proper and self.sigma_e.proper


def resolve(given: Any, design: Design, eigenvalue: float) -> Priors:
    """Return the priors of a design, defaults filled in.

    With s the residual standard deviation of y given the covariates, and t = tr(MK) / (n − c) (`eigenvalue`): σ_e is
    HalfNormal(2.5 s), σ_β HalfNormal(2.5 s / √t), the effect of a covariate Normal(0, 10 s / its standard deviation), and
    the intercept Normal(mean of y, …) with as much added as the covariates' means move it.

    Raises
    ------
    ValueError
        If `given` is no mapping, has unknown names, or a prior does not fit its parameter.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f'priors={given!r} is no mapping: give a dict such as {{"sigma_e": HalfNormal(5)}}.')
    given = {} if given is None else given
    unknown = [name for name in given if name not in NAMES]
    if unknown:
        raise ValueError(
            f"priors has {', '.join(map(repr, unknown))}: the parameters are {', '.join(map(repr, NAMES))}."
        )
    names = [*(["intercept"] if design.has_intercept else []), *design.covariate_names]
    s = float(np.linalg.norm(design.residual) / np.sqrt(design.n - design.c))
    each = dict(zip(names, _default_effects(design, s), strict=True))
    omega = given.get("omega", each)
    if isinstance(omega, Mapping):
        unknown = [name for name in omega if name not in each]
        omega = omega if unknown else {**each, **omega}
    found = priors.coefficients(omega, names, 'priors["omega"]')
    sigma_beta = priors.scale(
        given.get("sigma_beta", HalfNormal(WIDE * s / np.sqrt(eigenvalue if eigenvalue > 0.0 else 1.0))),
        'priors["sigma_beta"]',
    )
    sigma_e = priors.scale(given.get("sigma_e", HalfNormal(WIDE * s)), 'priors["sigma_e"]')
    if isinstance(omega, Mapping):
        texts = [(name if name == "intercept" else f"omega[{name}]", str(omega[name])) for name in names]
    elif isinstance(omega, Normal | priors.Flat):
        texts = [("omega", str(omega))] if names else []
    else:
        texts = [(f"omega[{name}]", str(one)) for name, one in zip(names, omega, strict=True)]
    texts += [("sigma_beta", str(sigma_beta)), ("sigma_e", str(sigma_e))]
    return Priors(_rotated(found, design), sigma_beta, sigma_e, tuple(texts))


def _default_effects(design: Design, s: float) -> list[Normal]:
    """One weak normal prior for every effect, the intercept first."""
    Z = design.Q @ design.R
    if not design.has_intercept:
        return [Normal(0.0, 10.0 * s / size) for size in np.sqrt((Z**2).mean(axis=0))]
    means, sds = Z[:, 1:].mean(axis=0), Z[:, 1:].std(axis=0)
    moved = float(np.sqrt(1.0 + ((means / sds) ** 2).sum()))
    return [Normal(float(design.y.mean()), 10.0 * s * moved), *(Normal(0.0, 10.0 * s / sd) for sd in sds)]


def _rotated(prior: Gaussian, design: Design) -> Gaussian:
    """The prior of a = R(ω − ω_ls); dω = da / |det R|."""
    half = np.asarray(np.linalg.inv(design.R), dtype=np.float64)
    mean = design.R @ (prior.mean - design.omega_ls)
    return Gaussian(mean, half.T @ prior.precision @ half, prior.log_constant - design.log_abs_R)
