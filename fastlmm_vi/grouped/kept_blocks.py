"""What a factorisation keeps of the precision of the random effects of one factor: diagonal blocks, by groups and finer."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from ..result import Array
from .cross_products import CrossProducts

# What is independent of what in q, from nothing to every single random effect of everything else.
FACTORISATIONS = ("joint", "factor", "group", "coefficient")


@dataclass(frozen=True, eq=False)
class KeptBlocks:
    """Blocks of K_v = I + ΛᵀZ_vᵀZ_vΛ of the levels v of a factor, Λ (d, d), the effects in units of Λ.

    Attributes
    ----------
    factorisation : {"factor", "group", "coefficient"}
        All of K_v, its blocks of terms, or the diagonal of the precision of the effects themselves: with the rows of
        M⁻¹Λ scaled to length 1, C, these are κ_j = (C⁻ᵀ K_v C⁻¹)_jj in units of the prior variances.
    own : ndarray (levels, d, d)
        Z_vᵀZ_v.
    terms : tuple of (slice, ndarray)
        Places of the terms, and their M.
    """

    factorisation: str
    own: Array
    terms: tuple[tuple[slice, Array], ...]

    @classmethod
    def of(cls, data: CrossProducts, factorisation: str) -> "tuple[KeptBlocks, ...]":
        """Of every factor, in order of elimination."""
        found = []
        for f in range(len(data.groups)):
            terms = tuple((slice(start, start + d), data.terms[k].M) for g, start, k, d in data.places if g == f)
            found.append(cls(factorisation, data.own_blocks(f)[0], terms))
        return tuple(found)

    def covariances(self, lam: Array) -> tuple[Array, float]:
        """Inverse of what is kept, (levels, d, d), in units of Λ: covariances; the sum of the log-determinants."""
        K = np.eye(len(lam)) + lam.T @ self.own @ lam
        found, logdet = np.zeros_like(K), 0.0
        for part, C in self._parts(lam):
            block = K[:, part, part]
            if C is None:
                found[:, part, part] = np.linalg.inv(block)
                logdet += float(np.linalg.slogdet(block)[1].sum())
            else:
                inverse = scipy.linalg.inv(C)
                kappa = np.einsum("ai,vab,bi->vi", inverse, block, inverse)
                found[:, part, part] = np.einsum("ai,vi,bi->vab", inverse, 1.0 / kappa, inverse)
                logdet += float(np.log(kappa).sum()) + 2.0 * len(K) * float(np.linalg.slogdet(C)[1])
        return found, logdet

    def slope(self, lam: Array) -> Array:
        """Derivative of the log-determinant in Λ, (d, d)."""
        found = np.zeros_like(lam)
        covariances, _ = self.covariances(lam)
        for (part, C), (_, M) in zip(self._parts(lam), self.terms, strict=False):
            if C is None:
                found[part, part] = 2.0 * np.einsum("vab,bc,vcd->ad", self.own, lam, covariances)[part, part]
                continue
            inverse, root = scipy.linalg.inv(C), scipy.linalg.solve_triangular(M, lam[part, part])
            per_kappa = np.einsum("ia,vab,ib->i", C, covariances[:, part, part], C)
            of_root = 2.0 * (len(covariances) * np.eye(len(C)) - inverse.T @ inverse * per_kappa) @ inverse.T
            of_root /= np.linalg.norm(root, axis=1)[:, None]
            found[part, part] = scipy.linalg.solve_triangular(M, of_root, trans=1)
        return found

    def _parts(self, lam: Array) -> Iterator[tuple[slice, Array | None]]:
        """Places of what is kept together; of what is split into coefficients, C."""
        if self.factorisation == "factor":
            yield slice(0, len(lam)), None
            return
        for part, M in self.terms:
            if self.factorisation == "group" or len(M) == 1:
                yield part, None
                continue
            root = scipy.linalg.solve_triangular(M, lam[part, part])
            length = np.linalg.norm(root, axis=1)
            yield (
                part,
                np.where(length[:, None] > 0.0, root / np.where(length > 0.0, length, 1.0)[:, None], np.eye(len(M))),
            )
