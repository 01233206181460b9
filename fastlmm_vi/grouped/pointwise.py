"""Every observation's log density at draws of the parameters, and the log joint density of all of a model."""

import numpy as np

from ..result import Array
from .cross_products import CrossProducts
from .draws import Draws
from .likelihood import LOG_2PI
from .posterior import Posterior, Scales


def predictor(data: CrossProducts, draws: Draws, rows: slice = slice(None)) -> Array:
    """Xβ + Zb (+ offset) of rows of the data at every draw, (draws, rows)."""
    design = data.design
    mean = draws.beta() @ design.X[rows][:, list(data.fixed.kept)].T
    for term, effects in zip(design.terms, draws.effects, strict=True):
        mean += np.einsum("rj,srj->sr", term.basis[rows], effects[:, term.factor.codes[rows]])
    return mean if design.offset is None else mean + design.offset[rows]


def log_density(data: CrossProducts, draws: Draws, rows: slice = slice(None)) -> Array:
    """Log p(y_i | β, b, σ) of rows of the data at every draw, (draws, rows)."""
    design = data.design
    weights = np.ones(len(design.y)) if design.weights is None else design.weights
    precision = weights[rows] / draws.parameters["sigma"][:, None] ** 2
    off = design.y[rows] - predictor(data, draws, rows)
    return -0.5 * (LOG_2PI - np.log(precision) + precision * off**2)


def log_joint(posterior: Posterior, draws: Draws, scales: list[Scales], phi: Array, log_likelihood: Array) -> Array:
    """Log p(y, β, b, φ) at every draw, of the log density of all of y there."""
    off = draws.beta() - posterior.priors.beta.mean
    precision = posterior.priors.beta.precision
    found = log_likelihood + posterior.priors.beta.log_constant - 0.5 * np.einsum("si,ij,sj->s", off, precision, off)
    found += [posterior.log_prior(*at) for at in zip(phi, scales, strict=True)]
    for k, effects in enumerate(draws.effects):
        roots = np.array([at.sd[k][:, None] * at.correlation[k] for at in scales])
        spherical = np.linalg.solve(roots, effects.transpose(0, 2, 1))
        logdet = np.log(np.einsum("sii->si", roots)).sum(axis=1)
        found -= 0.5 * (spherical**2).sum(axis=(1, 2)) + effects.shape[1] * (logdet + 0.5 * LOG_2PI * effects.shape[2])
    return found
