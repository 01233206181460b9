"""The same model in coordinates in which no unit and no offset of the data can be felt.

Columns are centred on numbers that make every difference exact where it matters, then X, and each random-effects basis,
is made orthonormal. The criterion changes by a known constant, the estimates by a known linear map.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dtrtri

from ..errors import DataError
from ..result import Array
from .model_frame import GroupedDesign, Term

INTERCEPT = "(Intercept)"
# A column that differs by less than this from a combination of those before it, relative to its own variation, is one.
DEPENDENT = 1e-10
RANGE = 1e100  # of numbers whose squares and sums are taken


@dataclass(frozen=True, eq=False)
class StandardX:
    """y = scale · (residual) + fitted by least squares, and X = Q R after the intercept has taken up the offsets.

    Attributes
    ----------
    Q : ndarray (N, p)
        Orthonormal, of the weighted and centred columns that are kept.
    y : ndarray (N,)
        Residual of least squares, of mean square 1.
    to_beta : ndarray (p, p)
        β = least_squares + scale · to_beta · (effects of Q).
    least_squares : ndarray (p,)
        Coefficients of ordinary (weighted) least squares.
    scale : float
        Unit of y in the products.
    kept : tuple of int
        Columns of the design's X; the others depend on those before them.
    logdet : float
        log|XᵀX| of the kept columns, weighted, as given.
    """

    Q: Array
    y: Array
    to_beta: Array
    least_squares: Array
    scale: float
    kept: tuple[int, ...]
    logdet: float


@dataclass(frozen=True, eq=False)
class StandardTerm:
    """A basis B = (standard basis) M, M upper triangular, so that a covariance G of its effects stands as M G Mᵀ."""

    basis: Array  # (N, d), weighted; columns orthogonal, of mean square 1
    M: Array  # (d, d)


def standard_x(design: GroupedDesign) -> StandardX:
    """Bring X and y of a design to standard coordinates.

    Raises
    ------
    DataError
        If nothing of y is left beside the fixed effects, or a column is out of range.
    """
    X, names = design.X, design.fixed_names
    for column, name in zip((design.y, *X.T), (design.response, *names), strict=True):
        check_range(column, name)
    root = None if design.weights is None else np.sqrt(design.weights)
    y = design.y if design.offset is None else design.y - design.offset
    offsets, y_offset = np.zeros(X.shape[1]), 0.0
    if INTERCEPT in names:
        one = names.index(INTERCEPT)
        offsets = np.array([exact_centre(column) for column in X.T])
        offsets[one] = 0.0
        y_offset = exact_centre(y)
        X, y = X - offsets, y - y_offset
    if root is not None:
        X, y = X * root[:, None], y * root
    kept, Q, R = _independent(X)
    first = Q.T @ y
    residual = y - Q @ first
    second = Q.T @ residual  # once more: what rounding left
    residual -= Q @ second
    size = float(np.sqrt(residual @ residual / residual.size))
    if not size > 1e-13 * float(np.abs(y).max(initial=0.0)):
        raise DataError(
            f"The fixed effects fit {design.response} exactly: nothing is left for random effects and residual. Drop "
            "fixed terms, or look whether the response was computed from them."
        )
    inverse = dtrtri(R)[0] if kept else R
    coefficients = inverse @ (first + second)
    if INTERCEPT in names:  # the intercept of centred columns is that of the data less what the offsets take
        back = np.eye(len(kept))
        place = kept.index(names.index(INTERCEPT))
        back[place] -= offsets[list(kept)]
        inverse, coefficients = back @ inverse, back @ coefficients
        coefficients[place] += y_offset
    logdet = 2.0 * float(np.log(np.abs(np.diag(R))).sum())
    return StandardX(Q, residual / size, inverse, coefficients, size, kept, logdet)


def standard_term(term: Term, weights: Array | None) -> StandardTerm:
    """Bring the basis of a random-effects term to standard coordinates.

    Raises
    ------
    DataError
        If its columns depend on each other, or are out of range.
    """
    B, d = term.basis, len(term.names)
    for column, name in zip(B.T, term.names, strict=True):
        check_range(column, name)
    shift = np.eye(d)
    if INTERCEPT in term.names:
        one = term.names.index(INTERCEPT)
        offsets = np.array([exact_centre(column) for column in B.T])
        offsets[one] = 0.0
        B = B - offsets
        shift[one] += offsets
    if weights is not None:
        B = B * np.sqrt(weights)[:, None]
    kept, Q, R = _independent(B)
    if len(kept) < d:
        lost = ", ".join(name for j, name in enumerate(term.names) if j not in kept)
        raise DataError(
            f"In the random-effects term of {term.factor.name}, {lost} depends linearly on the columns before it: its "
            "variance cannot be told from theirs. Drop it from the term."
        )
    size = np.sqrt(len(B))
    return StandardTerm(np.ascontiguousarray(Q * size), R / size @ shift)


def check_range(column: Array, name: str) -> None:
    """Refuse numbers whose products leave the range of float64."""
    largest = float(np.abs(column).max(initial=0.0))
    if largest > RANGE or 0.0 < largest < 1.0 / RANGE:
        raise DataError(f"{name} is of the size {largest:.0e}, and its square out of range: give it in other units.")


def exact_centre(column: Array) -> float:
    """Return a number near the mean, with so few digits that subtracting it from the column rounds nothing.

    It is a multiple of the spacing of floating-point numbers at the largest entry; where the entries are of different
    sizes the difference may round, by less than that spacing.
    """
    spacing = float(np.spacing(np.abs(column).max(initial=0.0)))
    mean = float(column[0]) + float((column - column[0]).mean())
    return float(np.round(mean / spacing)) * spacing


def _independent(X: Array) -> tuple[tuple[int, ...], Array, Array]:
    """Columns that do not depend on those before them, and Q R of them, the diagonal of R positive."""
    columns = list(range(X.shape[1]))
    norms = np.sqrt(np.einsum("ij,ij->j", X, X))
    while True:
        Q, R = np.linalg.qr(X[:, columns])
        diagonal = np.zeros(len(columns))
        diagonal[: len(R)] = np.abs(np.diag(R))
        lost = diagonal <= DEPENDENT * norms[columns]
        if not lost.any():
            break
        columns = [j for j, gone in zip(columns, lost, strict=True) if not gone]
    signs = np.copysign(1.0, np.diag(R))
    return tuple(columns), np.asarray(Q * signs), np.asarray(R * signs[:, None])
