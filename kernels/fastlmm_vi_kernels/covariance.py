"""From the parameters φ of a posterior to covariances, their priors, and back with a gradient.

φ has term by term the d standard deviations of its effects (those that are free, as logarithms, or with a sign: "signed")
and z = atanh p of the d (d − 1) / 2 canonical partial correlations p, by rows; at its end log σ, if free. A term's effects
are b = D C u, u ~ N(0, I), D = diag(s), C the lower Cholesky factor of the correlation matrix. Derivatives in C travel as
E = D ∂ℓ/∂(DC) (d, d), of which the lower triangle counts: nothing is divided by a standard deviation.
"""

import math
from typing import NamedTuple

import numpy as np

from .dense import clear
from .jit import kernel

# Priors of a standard deviation x: kinds, and what (a, b) of a row (constant, a, b) are.
FIXED = 0  # a: the value
HALF_NORMAL = 1  # scale
HALF_T = 2  # scale, degrees of freedom
EXPONENTIAL = 3  # rate
LOG_NORMAL = 4  # mean, sd of log x
INVERSE_GAMMA = 5  # of x²: shape, scale
POWER = 6  # a: x^a

# Priors of a term.
SCALES, INVERSE_WISHART, HUANG_WAND = 0, 1, 2


class Prior(NamedTuple):
    """Terms and their priors; those of effects and of squares (d, d) stand one term after another."""

    term: np.ndarray  # (terms · 5,): d, factor, first column in the factor's block, width of that, kind of the prior
    effect: np.ndarray  # (effects + 1,) kind of prior of each standard deviation; that of σ at the end
    row: np.ndarray  # (effects + 1 · 3,) constant, a, b
    of_term: np.ndarray  # (terms · 4,): constant, power of every s, weight of log cosh z, degrees of freedom
    M: np.ndarray  # (squares,) of the term's standard basis
    scale: np.ndarray  # (squares,) of an inverse Wishart; on its diagonal scales⁻² of Huang and Wand
    floor: np.ndarray  # (effects,) |s| below which a signed standard deviation is taken for that
    groups: np.ndarray  # (terms,) levels
    signed: int
    unit: float  # of y in the products


@kernel
def scale_prior(kind, constant, a, b, x, log_x):
    """Log density of a standard deviation x, and its derivative in log x."""
    if kind == HALF_NORMAL:
        square = (x / a) ** 2
        return constant - 0.5 * square, -square
    if kind == HALF_T:
        square = (x / a) ** 2 / b
        return constant - 0.5 * (b + 1.0) * math.log1p(square), -(b + 1.0) / (1.0 + 1.0 / square)
    if kind == EXPONENTIAL:
        return constant - a * x, -a * x
    if kind == LOG_NORMAL:
        off = (log_x - a) / b
        return constant - 0.5 * off * off - log_x, -off / b - 1.0
    if kind == INVERSE_GAMMA:
        inverse = b * math.exp(-2.0 * log_x)
        return constant - (2.0 * a + 1.0) * log_x - inverse, 2.0 * inverse - (2.0 * a + 1.0)
    return constant + a * log_x, a


@kernel
def effect_prior(prior, i, x, log_x):
    """The same of standard deviation i of `prior`."""
    row = prior.row
    return scale_prior(prior.effect[i], row[3 * i], row[3 * i + 1], row[3 * i + 2], x, log_x)


@kernel
def hyperbolic(z):
    """Tanh z, 1 / cosh z and log cosh z, to the last digits for any z."""
    x = math.expm1(-2.0 * abs(z))
    return math.copysign(-x / (2.0 + x), z), 2.0 * math.exp(-abs(z)) / (2.0 + x), abs(z) + math.log1p(0.5 * x)


@kernel
def unpack(prior, phi, log_sd, sd, C):
    """Write log |s|, s (effects,) and C (squares,) of all terms; return log σ."""
    at, e, square = 0, 0, 0
    for k in range(prior.term.size // 5):
        d = prior.term[5 * k]
        for i in range(e, e + d):
            if prior.effect[i] == FIXED:
                sd[i] = prior.row[3 * i + 1]
                log_sd[i] = math.log(sd[i])
                continue
            if prior.signed:
                sd[i] = math.copysign(max(abs(phi[at]), prior.floor[i]), phi[at])
                log_sd[i] = math.log(abs(sd[i]))
            else:
                sd[i] = math.exp(phi[at])
                log_sd[i] = phi[at]
            at += 1
        for i in range(d):
            left = 1.0
            for j in range(i):
                p, h, _ = hyperbolic(phi[at])
                C[square + i * d + j] = p * left
                C[square + j * d + i] = 0.0
                left *= h
                at += 1
            C[square + i * d + i] = left
        e += d
        square += d * d
    return math.log(prior.row[3 * e + 1]) if prior.effect[e] == FIXED else phi[at]


@kernel
def relative(prior, sd, C, sigma, lam, place):
    """Λ (d, d) of every factor, M D C / σ of its terms on the diagonal, factor f from place[f] on; σ in units of y."""
    clear(lam, lam.size)
    e, square = 0, 0
    for k in range(prior.term.size // 5):
        d, f, start, width = prior.term[5 * k], prior.term[5 * k + 1], prior.term[5 * k + 2], prior.term[5 * k + 3]
        for i in range(d):
            for j in range(d):
                total = 0.0
                for l in range(max(i, j), d):
                    total += prior.M[square + i * d + l] * sd[e + l] * C[square + l * d + j]
                lam[place[f] + (start + i) * width + start + j] = total / sigma
        e += d
        square += d * d


@kernel
def triangular(prior, lam, place, turn):
    """Λ ← Λ O of every term, lower triangular, O orthogonal, by rotations of columns; `turn` ← O."""
    square = 0
    for k in range(prior.term.size // 5):
        d, f, start, width = prior.term[5 * k], prior.term[5 * k + 1], prior.term[5 * k + 2], prior.term[5 * k + 3]
        first = place[f] + start * width + start
        for i in range(d):
            for j in range(d):
                turn[square + i * d + j] = 1.0 if i == j else 0.0
        for i in range(d):
            for j in range(i + 1, d):
                a, b = lam[first + i * width + i], lam[first + i * width + j]
                if b == 0.0:
                    continue
                size = math.hypot(a, b)
                c, s = a / size, b / size
                for l in range(d):
                    at = first + l * width
                    one, two = lam[at + i], lam[at + j]
                    lam[at + i], lam[at + j] = c * one + s * two, c * two - s * one
                    at = square + l * d
                    one, two = turn[at + i], turn[at + j]
                    turn[at + i], turn[at + j] = c * one + s * two, c * two - s * one
                lam[first + i * width + j] = 0.0
        square += d * d


@kernel
def to_terms(prior, omega, lam, sd, sigma, width, E):
    """E of the terms of factor 0, D Mᵀ(Ω Λ)/σ, from the slope Ω Λ, (width, width)."""
    e, square = 0, 0
    for k in range(prior.term.size // 5):
        d, start = prior.term[5 * k], prior.term[5 * k + 2]
        for i in range(d if prior.term[5 * k + 1] == 0 else 0):
            for j in range(d):
                total = 0.0
                for l in range(i + 1):
                    slope = 0.0
                    for m in range(width):
                        slope += omega[(start + l) * width + m] * lam[m * width + start + j]
                    total += prior.M[square + l * d + i] * slope
                E[square + i * d + j] = sd[e + i] * total / sigma
        e += d
        square += d * d


@kernel
def by_terms(prior, first_factor, B, place, root, turn, E):
    """E ← C⁻ᵀ(O B Oᵀ − J I) of the terms of factors from `first_factor` on."""
    square = 0
    for k in range(prior.term.size // 5):
        d, f, start, width = prior.term[5 * k], prior.term[5 * k + 1], prior.term[5 * k + 2], prior.term[5 * k + 3]
        first = place[f] + start * width + start
        for i in range(d - 1 if f >= first_factor else -1, -1, -1):
            for j in range(d):
                total = 0.0
                for l in range(d):
                    for m in range(d):
                        total += turn[square + i * d + l] * B[first + l * width + m] * turn[square + j * d + m]
                if i == j:
                    total -= prior.groups[k]
                for l in range(i + 1, d):
                    total -= root[square + l * d + i] * E[square + l * d + j]
                E[square + i * d + j] = total / root[square + i * d + i]
        square += d * d


@kernel
def log_prior(prior, phi, log_sd, sd, C, E, of_sigma, gradient):
    """Log prior density of φ; `gradient` ← the derivatives of log prior and log likelihood.

    The likelihood's are given: E, overwritten, and `of_sigma` in log σ at constant Λ.
    """
    total, at, e, square = 0.0, 0, 0, 0
    for k in range(prior.term.size // 5):
        d, kind = prior.term[5 * k], prior.term[5 * k + 4]
        constant, power, weight = prior.of_term[4 * k], prior.of_term[4 * k + 1], prior.of_term[4 * k + 2]
        total += constant
        for i in range(d):  # Λ = Λ(DC / σ)
            for j in range(i + 1):
                of_sigma -= E[square + i * d + j] * C[square + i * d + j]
        if kind != SCALES:
            total += covariance_prior(
                kind, prior.of_term[4 * k + 3], prior.scale[square:], d, sd[e:], C[square:], E[square:]
            )
        for i in range(d):
            if prior.effect[e + i] == FIXED:
                continue
            slope = 0.0
            for j in range(i + 1):
                slope += E[square + i * d + j] * C[square + i * d + j]
            if kind == SCALES:
                value, own = effect_prior(prior, e + i, abs(sd[e + i]), log_sd[e + i])
            else:
                value, own = power * log_sd[e + i], power
            total += value
            slope += own
            if prior.signed:
                total -= math.log(2.0)
                gradient[at] = slope / sd[e + i]
            else:
                total += log_sd[e + i]
                gradient[at] = slope + 1.0
            at += 1
        for i in range(1, d):
            line = square + i * d
            left = 1.0
            for j in range(i):
                p, h, log_cosh = hyperbolic(phi[at])
                w = weight + (d - 2.0 - j)
                rest = 0.0
                for l in range(j + 1, i + 1):
                    rest += E[line + l] * C[line + l]
                gradient[at] = E[line + j] * h * h * left - p * (rest + w)
                total -= w * log_cosh
                left *= h
                at += 1
        e += d
        square += d * d
    if prior.effect[e] != FIXED:
        value, own = effect_prior(prior, e, math.exp(phi[at]), phi[at])
        total += value + phi[at]
        gradient[at] = of_sigma + own + 1.0
    return total


@kernel
def covariance_prior(kind, df, scale, d, sd, C, E):
    """What of the log density of Σ = D C Cᵀ D does not depend on s and |C| alone; its derivative is added to E."""
    inverse, A = np.zeros((d, d)), np.empty((d, d))  # C⁻¹; D⁻¹ (scale) D⁻¹
    for j in range(d):
        for i in range(j, d):
            total = 1.0 if i == j else 0.0
            for l in range(j, i):
                total -= C[i * d + l] * inverse[l, j]
            inverse[i, j] = total / C[i * d + i]
    value = 0.0
    for i in range(d):
        for j in range(d):
            A[i, j] = scale[i * d + j] / (sd[i] * sd[j]) if kind == INVERSE_WISHART else 0.0
            if kind == INVERSE_WISHART or i == j:
                total = 0.0  # of the inverse of the correlation matrix
                for l in range(max(i, j), d):
                    total += inverse[l, i] * inverse[l, j]
                if kind == INVERSE_WISHART:
                    value -= 0.5 * A[i, j] * total
                else:
                    precision = df * total / sd[i] ** 2
                    value -= 0.5 * (df + d) * math.log(precision + scale[i * d + i])
                    A[i, i] = (df + d) * df / (precision + scale[i * d + i]) / sd[i] ** 2
    B = np.empty((d, d))  # C⁻¹ A C⁻ᵀ
    for i in range(d):
        for j in range(d):
            total = 0.0
            for l in range(i + 1):
                for m in range(j + 1):
                    total += inverse[i, l] * A[l, m] * inverse[j, m]
            B[i, j] = total
    for i in range(d):
        for j in range(i + 1):
            for l in range(i, d):
                E[i * d + j] += inverse[l, i] * B[l, j]
    return value
