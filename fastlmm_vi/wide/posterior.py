"""The Gaussian posterior of β at given variances: exact, through the spectrum, or mean field."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..result import Array
from .blocks import Factorisation
from .design import Design
from .spectrum import Spectrum


@dataclass(frozen=True, eq=False)
class Link:
    """How E[β] answers to ω: dE[β]/dω = −γ Xᵀ (I + γK)⁻¹ Z, whatever the family of q."""

    design: Design
    spectrum: Spectrum
    gamma: float

    @cached_property
    def matrix(self) -> Array:
        """γ Xᵀ (I + γK)⁻¹ Z, (p, c), the intercept first; computed on first use, O(n p c)."""
        return self.spectrum.ridge(self.gamma, self.design.Q) @ self.design.R

    def variance(self, X: Array, Z: Array, covariance: Array) -> Array:
        """What Cov(ω̂) = `covariance` adds to the variance of a prediction at the rows of Z (k, c) and X (k, p)."""
        if self.design.center is not None and self.design.scale is not None:
            X = (X - self.design.center) / self.design.scale
        if self.design.has_intercept:
            Z = np.column_stack([np.ones(len(Z)), Z])
        D = Z - X @ self.matrix
        return np.einsum("ij,jk,ik->i", D, covariance, D)


@dataclass(frozen=True, eq=False)
class Exact:
    """N(μ, S), S = (XᵀX/σ²_e + I/σ²_β)⁻¹, never formed; on the original scale of X.

    Holds the spectrum (hence X): variances and predictions need the training features, as in any kernel method.
    """

    mean: Array
    spectrum: Spectrum
    gamma: float
    sigma2_beta: float
    center: Array | None
    scale: Array | None
    link: Link

    def variances(self) -> Array:
        """S_jj, (p,)."""
        var = self.sigma2_beta * self.spectrum.variances(self.gamma)
        return var if self.scale is None else var / self.scale**2

    def predictive(self, X: Array) -> Array:
        """xᵀ S x of every row of X (k, p), centred and scaled as the fit's features were."""
        if self.center is not None and self.scale is not None:
            X = (X - self.center) / self.scale
        return self.sigma2_beta * self.spectrum.predictive(self.gamma, X)


@dataclass(frozen=True, eq=False)
class Factorised:
    """q(β) = Π_b N(m_b, S_b), on the original scale of X: single features or blocks of them."""

    mean: Array
    factorisation: Factorisation
    gamma: float
    sigma2_beta: float
    center: Array | None
    scale: Array | None
    link: Link | None

    def variances(self) -> Array:
        """Diagonal of the S_b, (p,)."""
        var = self.sigma2_beta * self.factorisation.variances(self.gamma)
        return var if self.scale is None else var / self.scale**2

    def predictive(self, X: Array) -> Array:
        """Σ_b x_bᵀ S_b x_b of every row of X (k, p), centred and scaled as the fit's features were."""
        if self.center is not None and self.scale is not None:
            X = (X - self.center) / self.scale
        return self.sigma2_beta * self.factorisation.predictive(self.gamma, X)


def exact_mean(design: Design, spectrum: Spectrum, gamma: float, a: Array) -> Array:
    """μ = γ Xᵀ (I + γK)⁻¹ (y − Zω), (p,), on the scale of the design's features."""
    return spectrum.ridge(gamma, design.residual - design.Q @ a)


def mean_field_variances(h: Array, gamma: float, sigma2_e: float) -> Array:
    """s²_j = 1 / (h_j/σ²_e + 1/σ²_β), (p,), h_j = ‖x_j‖² for single features; 0 where γ = 0."""
    return sigma2_e * gamma / (1.0 + gamma * h)


def exact(design: Design, spectrum: Spectrum, gamma: float, sigma2_e: float, a: Array) -> Exact:
    """Return the exact posterior at (γ, σ²_e, a)."""
    mean = _unscale(design, exact_mean(design, spectrum, gamma, a))
    link = Link(design, spectrum, gamma)
    return Exact(mean, spectrum, gamma, gamma * sigma2_e, design.center, design.scale, link)


def factorised(
    design: Design, factorisation: Factorisation, mean: Array, gamma: float, sigma2_e: float, spectrum: Spectrum | None
) -> Factorised:
    """Return q(β) with every S_b at its optimum for (γ, σ²_e); without a spectrum it does not know how ω moves it."""
    link = None if spectrum is None else Link(design, spectrum, gamma)
    return Factorised(_unscale(design, mean), factorisation, gamma, gamma * sigma2_e, design.center, design.scale, link)


def _unscale(design: Design, mean: Array) -> Array:
    return np.asarray(mean if design.scale is None else mean / design.scale)
