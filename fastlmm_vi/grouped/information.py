"""The deviance's Hessian without a derivative of the gradient: the average of what is observed and what is expected."""

import numpy as np
from fastlmm_vi_kernels import blocks as kernels

from ..result import Array
from .likelihood import Evaluation, Likelihood


def average_information(likelihood: Likelihood, theta: Array, at: Evaluation) -> Array:
    """Average information in θ, (k, k); `at` is the evaluation at θ, where no Λ may be singular.

    Traces tr(Ω V_a Ω V_b) enter the observed and the expected Hessian with opposite signs: their average needs none. With
    P y = V⁻¹(y − Xβ̂), S_a = dΛ_a Λᵀ + Λ dΛ_aᵀ for an entry a of Λ, V_a = Z S_a Zᵀ, and D the derivative in Λ Λᵀ, which is 0
    at the optimum, it is

        ν/r² (V_a P y)ᵀ P (V_b P y) − ν/(2 r⁴) ∂_a r² ∂_b r² + 2 tr(D dΛ_a dΛ_bᵀ).

    (Gilmour, Thompson and Cullis, Biometrics 51, 1995, p. 1440, for σ² profiled out and variances as functions of θ.)
    """
    data, work, p = likelihood.data, likelihood.factored(theta), likelihood.data.pattern
    lam, nu, r2 = likelihood.lam(theta), likelihood.degrees, at.squares
    effects, factor = int(p.effect[-1]), np.searchsorted(p.place, likelihood.free, side="right") - 1
    moved = np.zeros((theta.size, effects + p.q))  # s_a = S_a Zᵀ P y, beside zeros for X and y
    curved = np.zeros((theta.size, theta.size))
    for f, group in enumerate(data.groups):
        d, rows, where = group.d, slice(*p.effect[f : f + 2]), slice(*p.place[f : f + 2])
        L, mine = lam[where].reshape(d, d), np.flatnonzero(factor == f)
        row, column = np.divmod(likelihood.free[mine] - where.start, d)
        c = work.c[rows].reshape(-1, d)
        for a, i, j in zip(mine, row, column, strict=True):
            s = np.outer(c[:, i], L[:, j])
            s[:, i] += c @ L[:, j]
            moved[a, rows] = s.ravel()
        slope = 0.5 * (at.of_logdet + nu / r2 * at.of_squares)[where].reshape(d, d) @ np.linalg.inv(L)
        D = 0.5 * (slope + slope.T)
        curved[np.ix_(mine, mine)] = 2.0 * D[np.ix_(row, row)] * (column[:, None] == column)
    products = np.empty_like(moved)
    for s, out in zip(moved, products, strict=True):
        kernels.multiply(p, data.products, s, out)
    half = products[:, :-1].T.copy()  # L⁻¹ [ZΛ X]ᵀ Z s: P = I − [ZΛ X] (L Lᵀ)⁻¹ [ZΛ X]ᵀ
    for f, group in enumerate(data.groups):
        rows, L = slice(*p.effect[f : f + 2]), lam[slice(*p.place[f : f + 2])].reshape(group.d, group.d)
        half[rows] = np.einsum("vik,ij->vjk", half[rows].reshape(group.levels, group.d, -1), L).reshape(
            half[rows].shape
        )
    work.forward(half)
    of_squares = at.of_squares[likelihood.free]
    return curved + nu / r2 * (moved @ products.T - half.T @ half) - 0.5 * nu / r2**2 * np.outer(of_squares, of_squares)
