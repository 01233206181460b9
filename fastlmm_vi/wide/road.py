"""Which form the Gram matrix of a fit is brought to: chosen here, by what was asked for."""

from .basis import Basis
from .bordered import Bordered
from .design import Design
from .spectrum import Spectrum, checked_gram, warn_if_offset_dominates


def choose(design: Design, *, trace: bool, jobs: int = 1) -> tuple[Spectrum, Basis]:
    """Return the spectrum of a fit that was given none, and its response in a basis where criteria are cheap.

    * n ≥ p: eigenvectors of XᵀX, which project y and Z off the columns of X.
    * `trace` (thousands of EM iterations): tridiagonal, diagonalised on the c + 1 rows of y and Z, as an iteration is
      then O(n c). Eigenvectors where X Xᵀ is singular.
    * otherwise some sixty evaluations of one criterion: the covariates split off, the rest tridiagonal, no eigenvalue at
      all. Eigenvectors where rounding hides which directions of X Xᵀ are null.
    """
    features = design.features
    if trace or not features.shape[0] < features.shape[1]:
        spectrum = Spectrum.of(features, reuse=False, n_jobs=jobs)
        return spectrum, spectrum.rotate(design)
    gram = checked_gram(features, jobs)
    total = float(gram.trace())
    factor = Bordered.of(gram, design.Q, design.residual, features.rounding)
    warn_if_offset_dominates(features, factor.largest(), total)
    if factor.ambiguous:
        spectrum = Spectrum(features, factor.eigenvectors(gram))
        return spectrum, spectrum.rotate(design)
    return Spectrum(features, factor), factor
