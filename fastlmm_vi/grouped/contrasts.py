"""Contrasts, the numbers that stand for each level of a factor: treatment, or polynomials where levels are ordered."""

import numpy as np

from ..result import Array
from .factor import Factor


def dummies(factor: Factor) -> tuple[Array, list[str]]:
    """Return a column for every level (levels, levels), and what its name ends in."""
    return np.eye(len(factor.levels)), factor.labels


def contrasts(factor: Factor) -> tuple[Array, list[str]]:
    """Return R's contrasts of a factor (levels, levels − 1), and what the names of its columns end in.

    Of an ordered factor polynomials, `.L .Q .C ^4 …`, R's contr.poly; else what tells each level from the first one, R's
    contr.treatment.
    """
    if factor.ordered:
        size = len(factor.levels)
        return polynomials(size), [".L", ".Q", ".C", *(f"^{degree}" for degree in range(4, size))][: size - 1]
    columns, labels = dummies(factor)
    return columns[:, 1:], labels[1:]


def polynomials(size: int) -> Array:
    """Return polynomials of degree 1 to size − 1 on equally spaced points (size, size − 1), orthonormal to 1 and each other.

    Each is the one before it times the points, less its projection on all before it (twice, for the rounding), so that
    columns of any degree are orthonormal to rounding, where R's, by QR of powers, end at 94. Leading coefficients are
    positive.
    """
    points = np.arange(size) - 0.5 * (size - 1)
    Q = np.full((size, size), size**-0.5)
    for degree in range(1, size):
        column = points * Q[:, degree - 1]
        for _ in range(2):
            column -= Q[:, :degree] @ (Q[:, :degree].T @ column)
        Q[:, degree] = column / np.linalg.norm(column)
    return Q[:, 1:]
