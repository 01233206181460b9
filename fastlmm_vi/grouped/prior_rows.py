"""The priors of a model as the rows of numbers that compiled code reads."""

import numpy as np
from fastlmm_vi_kernels import covariance as kernels
from fastlmm_vi_kernels.covariance import Prior

from ..priors import (
    Exponential,
    Fixed,
    Flat,
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    HuangWand,
    InverseGamma,
    InverseWishart,
    LogNormal,
    ScalePrior,
)
from ..result import Array
from .cross_products import CrossProducts
from .model_priors import ModelPriors, TermPrior

NEAREST = 1e-9  # to 0 that a signed standard deviation is told from 0, in units of what the term's column explains of y
POWERS = {"sd": 0.0, "variance": 1.0, "log": -1.0}


def rows(data: CrossProducts, priors: ModelPriors, signed: bool) -> Prior:
    """Terms in formula order, their effects and, at the end, σ."""
    place = {k: (f, start, group.d) for f, group in enumerate(data.groups) for k, start in _starts(data, f)}
    terms, effects, scales, of_terms, matrices, floors = [], [], [], [], [], []
    for k, (term, prior) in enumerate(zip(data.terms, priors.terms, strict=True)):
        d = len(term.M)
        kind, of_term, scale = _of_term(prior, d)
        terms.append((d, *place[k], kind))
        of_terms.append(of_term)
        matrices.append((term.M, scale))
        effects += [scale_row(one) for one in prior.scales or [Fixed(1.0)] * d]
        floors.append(NEAREST * data.fixed.scale / np.abs(np.diag(term.M)))
        scales += [prior.scales is None] * d
    found = [*effects, scale_row(priors.sigma)]
    covariance = np.array([*scales, False])  # standard deviations of which a covariance prior speaks are free
    return Prior(
        np.array(terms, np.int64).ravel(),
        np.where(covariance, kernels.POWER, [kind for kind, _ in found]).astype(np.int64),
        np.concatenate([row for _, row in found]),
        np.array(of_terms).ravel(),
        np.concatenate([np.zeros(0), *(M.ravel() for M, _ in matrices)]),
        np.concatenate([np.zeros(0), *(scale.ravel() for _, scale in matrices)]),
        np.concatenate([np.zeros(0), *floors]),
        np.array([len(term.factor.levels) for term in data.design.terms], np.int64),
        int(signed),
        data.fixed.scale,
    )


def _starts(data: CrossProducts, f: int) -> list[tuple[int, int]]:
    """Terms of a factor, and their first columns in its block."""
    found, start = [], 0
    for k in data.groups[f].terms:
        found.append((k, start))
        start += len(data.terms[k].M)
    return found


def scale_row(prior: ScalePrior | Fixed) -> tuple[int, Array]:
    """Kind of a prior of one standard deviation, and (constant, a, b) of `fastlmm_vi_kernels.covariance`."""
    match prior:
        case Fixed(value):
            return kernels.FIXED, np.array([0.0, value, 0.0])
        case HalfNormal(scale):
            kind, a, b, at = kernels.HALF_NORMAL, scale, 0.0, scale
        case HalfCauchy(scale):
            kind, a, b, at = kernels.HALF_T, scale, 1.0, scale
        case HalfStudentT(df, scale):
            kind, a, b, at = kernels.HALF_T, scale, df, scale
        case Exponential(rate):
            kind, a, b, at = kernels.EXPONENTIAL, rate, 0.0, 1.0 / rate
        case LogNormal(mean, sd):
            kind, a, b, at = kernels.LOG_NORMAL, mean, sd, float(np.exp(mean))
        case InverseGamma(shape, scale):
            kind, a, b, at = kernels.INVERSE_GAMMA, shape, scale, float(np.sqrt(scale))
        case Flat(on):
            kind, a, b, at = kernels.POWER, POWERS[on], 0.0, 1.0
        case _:
            raise TypeError(f"{type(prior).__name__} has no compiled density.")
    without = kernels.scale_prior(kind, 0.0, float(a), float(b), float(at), float(np.log(at)))[0]
    return kind, np.array([float(prior.log_density(at)) - without, a, b])


def _of_term(prior: TermPrior, d: int) -> tuple[int, Array, Array]:
    """Kind of a term's prior; constant, power of every s, weight of log cosh z, degrees of freedom; scale (d, d)."""
    if prior.covariance is None:
        eta = 1.0 if prior.correlation is None else prior.correlation.eta
        constant = 0.0 if prior.correlation is None else prior.correlation.log_constant(d)
        return kernels.SCALES, np.array([constant, 0.0, 2.0 * eta, 0.0]), np.zeros((d, d))
    df = prior.covariance.df
    match prior.covariance:
        case InverseWishart():
            kind, power = kernels.INVERSE_WISHART, -df - 1.0
            scale = prior.covariance.matrix(d)
            sd = np.sqrt(np.diag(scale))
        case HuangWand():
            kind, power = kernels.HUANG_WAND, -df - d
            sd = prior.covariance.vector(d)
            scale = np.diag(sd**-2.0)
    # |C|² = ∏ cosh⁻² z: of ½ log|Σ| as many as powers of s beyond the d of the Jacobian
    weight = 2.0 + power - d
    unit, work = np.eye(d), np.zeros(d * d)
    rest = kernels.covariance_prior(kind, df, scale.ravel(), d, sd, unit.ravel(), work)
    constant = prior.log_density(sd, unit) - power * float(np.log(sd).sum()) - rest
    return kind, np.array([constant, power, weight, df]), scale
