"""How q(β) factorises: by single features (mean field), by blocks of them, or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..result import Array
from .factor import Eigenvectors
from .spectrum import Spectrum, checked_gram
from .storage import FeatureMatrix


class Factorisation(Protocol):
    """What coordinate ascent and the closed form need to know of q(β) = Π_b N(m_b, S_b).

    At given θ every S_b = σ²_β (I + γ X_bᵀX_b)⁻¹, so that all traces and determinants are sums over `h`.
    """

    @property
    def h(self) -> Array:
        """Eigenvalues of all X_bᵀX_b, (p,): the squared norms of the columns where every block is one column."""
        ...

    def sweep(self, gamma: float, mean: Array, residual: Array) -> float:
        """Update every m_b once, in place, `residual` = y − Zω − X m with it; return the largest change.

        Of a block, in units of its standard deviation under q times σ_e: √(Δᵀ (X_bᵀX_b + I/γ) Δ).
        """
        ...

    def variances(self, gamma: float) -> Array:
        """Diagonal of the S_b over σ²_β, (p,)."""
        ...

    def predictive(self, gamma: float, X: Array) -> Array:
        """Σ_b x_bᵀ S_b x_b over σ²_β of every row x of `X` (k, p), (k,)."""
        ...


@dataclass(frozen=True, eq=False)
class Columns:
    """Mean field: every feature on its own."""

    features: FeatureMatrix

    @property
    def h(self) -> Array:
        """‖x_j‖²."""
        return self.features.column_sq_norms()

    def sweep(self, gamma: float, mean: Array, residual: Array) -> float:
        """One pass over X."""
        return self.features.sweep(gamma, mean, residual)

    def variances(self, gamma: float) -> Array:
        """1 / (1 + γ ‖x_j‖²)."""
        return 1.0 / (1.0 + gamma * self.h)

    def predictive(self, gamma: float, X: Array) -> Array:
        """Σ_j x_j² / (1 + γ ‖x_j‖²)."""
        return X**2 @ self.variances(gamma)


@dataclass(frozen=True, eq=False)
class Blocks:
    """Blocks of features, each with the spectrum of its own columns."""

    indices: tuple[NDArray[np.intp], ...]
    spectra: tuple[Spectrum, ...]
    h: Array

    @classmethod
    def of(cls, features: FeatureMatrix, indices: Sequence[NDArray[np.intp]]) -> "Blocks":
        """Decompose every X_bᵀX_b or X_bX_bᵀ, whichever is smaller."""
        spectra = []
        for part in indices:
            block = features.subset(part)
            spectra.append(Spectrum(block, Eigenvectors.of(checked_gram(block), block.rounding)))
        h = [
            np.append(s.eigenvalues, np.zeros(part.size - s.eigenvalues.size))
            for s, part in zip(spectra, indices, strict=True)
        ]
        return cls(tuple(indices), tuple(spectra), np.concatenate(h))

    def sweep(self, gamma: float, mean: Array, residual: Array) -> float:
        """Block Gauss–Seidel: m_b = γ X_bᵀ (I + γ X_bX_bᵀ)⁻¹ (residual + X_b m_b)."""
        largest = 0.0
        for part, spectrum in zip(self.indices, self.spectra, strict=True):
            old = mean[part]
            new = spectrum.ridge(gamma, residual + spectrum.features.matvec(old))
            step = spectrum.features.matvec(new - old)
            residual -= step
            mean[part] = new
            largest = max(largest, float(step @ step + (new - old) @ (new - old) / gamma))
        return float(np.sqrt(largest))

    def variances(self, gamma: float) -> Array:
        """Block by block."""
        out = np.empty(self.h.size)
        for part, spectrum in zip(self.indices, self.spectra, strict=True):
            out[part] = spectrum.variances(gamma)
        return out

    def predictive(self, gamma: float, X: Array) -> Array:
        """Summed over blocks."""
        out = np.zeros(len(X))
        for part, spectrum in zip(self.indices, self.spectra, strict=True):
            out += spectrum.predictive(gamma, X[:, part])
        return out


def factorise(features: FeatureMatrix, block_size: Any) -> Factorisation:
    """Return the factorisation that `block_size` means: a number of neighbouring columns, or a group label per column.

    Raises
    ------
    DataError
        If labels are not one per feature.
    """
    p = features.shape[1]
    if np.ndim(block_size) == 0:
        b = int(block_size)
        return (
            Columns(features) if b == 1 else Blocks.of(features, [np.arange(a, min(a + b, p)) for a in range(0, p, b)])
        )
    labels = np.asarray(block_size)
    if labels.shape != (p,):
        raise DataError(
            f"block_size holds labels of shape {labels.shape}, X has {p} features: give one label per feature."
        )
    _, codes = np.unique(labels, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes))[:-1]
    return Blocks.of(features, np.split(order, ends))
