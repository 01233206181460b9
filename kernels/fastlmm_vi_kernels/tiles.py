"""Cholesky factors and inverses of symmetric matrices, and products, in tiles of 8 × 8 that stay in registers.

A matrix is a stretch of memory, row after row, `stride` apart; sides are multiples of 8. Every algorithm asks for products
AᵀB alone, row k of A and B side by side, so that one tile serves all. What a tile is written in numba has no word for, LLVM
has (compare `gram`, whose panels are copied first: that pays for large matrices only).
"""

import math

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .dense import clear, copy
from .jit import FAST_MATH, kernel

FLAGS = tuple(sorted(FAST_MATH))
INT32, INT64 = ir.IntType(32), ir.IntType(64)
SIDE = 8
DEPTH = 96


@intrinsic
def subtract_tile(typing, a, first_a, stride_a, b, first_b, stride_b, depth, c, first_c, stride_c):
    """c[first_c + stride_c i + j] −= Σ_k a[first_a + stride_a k + i] b[first_b + stride_b k + j], i, j < 8, k < depth."""

    def generate(context, builder, signature, args):
        wide = "+avx512f" in context.codegen().magic_tuple()[2]
        rows, lanes = (8, 8) if wide else (4, 4)
        vectors = SIDE // lanes
        a, b, c = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3, 7))
        first_a, stride_a, first_b, stride_b, depth, first_c, stride_c = (args[i] for i in (1, 2, 4, 5, 6, 8, 9))
        number = ir.DoubleType()
        vector = ir.VectorType(number, lanes)
        zeros = ir.Constant(vector, [0.0] * lanes)
        everywhere = ir.Constant(ir.VectorType(INT32, lanes), [0] * lanes)

        def at(pointer, index):
            return builder.bitcast(builder.gep(pointer, [index]), vector.as_pointer())

        for half in range(SIDE // rows):
            sums = [[cgutils.alloca_once(builder, vector) for _ in range(vectors)] for _ in range(rows)]  # registers
            for i in range(rows):
                for j in range(vectors):
                    builder.store(zeros, sums[i][j])
            with cgutils.for_range(builder, depth, intp=INT64) as loop:
                left = builder.add(builder.add(first_a, INT64(half * rows)), builder.mul(stride_a, loop.index))
                right = builder.add(first_b, builder.mul(stride_b, loop.index))
                line = [builder.load(at(b, builder.add(right, INT64(lanes * j))), align=8) for j in range(vectors)]
                for i in range(rows):
                    one = builder.load(builder.gep(a, [builder.add(left, INT64(i))]))
                    one = builder.insert_element(ir.Constant(vector, ir.Undefined), one, INT32(0))
                    same = builder.shuffle_vector(one, one, everywhere)
                    for j in range(vectors):
                        product = builder.fmul(same, line[j], flags=FLAGS)
                        builder.store(builder.fadd(builder.load(sums[i][j]), product, flags=FLAGS), sums[i][j])
            for i in range(rows):
                line_c = builder.add(first_c, builder.mul(stride_c, INT64(half * rows + i)))
                for j in range(vectors):
                    place = at(c, builder.add(line_c, INT64(lanes * j)))
                    old = builder.load(place, align=8)
                    builder.store(builder.fsub(old, builder.load(sums[i][j]), flags=FLAGS), place, align=8)
        return context.get_dummy_value()

    index = types.intp
    return types.void(a, index, index, b, index, index, index, c, index, index), generate


@kernel
def factor(W, above, side):
    """Overwrite the upper triangle of T, rows from `above` on of W (above + side, side), by U, UᵀU = T − XᵀX.

    X are the rows before. Return the number of positive pivots, `side` where all are.
    """
    for i in range(0, side, SIDE):
        first = (above + i) * side
        for j in range(i, side, SIDE):
            subtract_tile(W, i, side, W, j, side, above + i, W, first + j, side)
        for k in range(i, i + SIDE):
            own = W[(above + k) * side : (above + k + 1) * side]
            if not own[k] > 0.0:
                return k
            pivot = 1.0 / math.sqrt(own[k])
            rest = own[k:]
            for r in range(rest.size):
                rest[r] *= pivot
            for l in range(k + 1, i + SIDE):
                x, line, from_l = own[l], W[(above + l) * side + l : (above + l + 1) * side], own[l:]
                for r in range(line.size):
                    line[r] -= x * from_l[r]
    return side


@kernel
def invert_factor(W, above, side, M):
    """M (side, side) ← U⁻ᵀ, lower triangular, U the factor that `factor` leaves in W; its upper triangle is 0."""
    clear(M, side * side)
    for i in range(0, side, SIDE):
        for j in range(0, i, SIDE):
            subtract_tile(W, (above + j) * side + i, side, M, j * side + j, side, i - j, M, i * side + j, side)
        for k in range(i, i + SIDE):
            M[k * side + k] = 1.0
            pivot = 1.0 / W[(above + k) * side + k]
            own = M[k * side : k * side + k + 1]
            for r in range(own.size):
                own[r] *= pivot
            for l in range(k + 1, i + SIDE):
                x, line = W[(above + k) * side + l], M[l * side : l * side + k + 1]
                for r in range(line.size):
                    line[r] -= x * own[r]


@kernel
def transpose(A, first, rows, columns, out):
    """Write out (columns, rows) ← A (rows, columns)ᵀ, from A[first] on; sides are multiples of 8."""
    for i in range(0, rows, SIDE):
        for j in range(0, columns, SIDE):
            for l in range(j, j + SIDE):
                line = out[l * rows + i : l * rows + i + SIDE]
                for k in range(SIDE):
                    line[k] = A[first + (i + k) * columns + l]


@kernel
def symmetric(M, side, out):
    """Write out (side, side) ← MᵀM, M lower triangular, whole."""
    clear(out, side * side)
    for first in range(0, side, DEPTH):  # rows that stay in the second-level cache
        last = min(first + DEPTH, side)
        for i in range(0, last, SIDE):
            start = max(first, i)
            for j in range(0, i + SIDE, SIDE):
                subtract_tile(
                    M, start * side + i, side, M, start * side + j, side, last - start, out, i * side + j, side
                )
    for i in range(0, side, SIDE):
        for j in range(0, i + SIDE, SIDE):
            for k in range(i, i + SIDE):
                for l in range(j, min(j + SIDE, k + 1)):
                    value = -out[k * side + l]
                    out[k * side + l] = value
                    out[l * side + k] = value


@kernel
def padded(n):
    """The next multiple of 8."""
    return (n + SIDE - 1) // SIDE * SIDE


@kernel
def factor_lower(T, W, above):
    """Overwrite the lower triangle of T (m, m) by L, L Lᵀ = T − XᵀX, and W, from row `above` on, by Lᵀ in its upper one.

    X are the rows of W before, as wide as the padded side. Return whether all pivots are positive.
    """
    m, side = len(T), padded(len(T))
    rest = W[above * side :]
    for i in range(m, side):
        clear(rest[i * side :], side)
        rest[i * side + i] = 1.0
    for first in range(0, m, SIDE):  # a few columns at a time, from as many rows of T
        last = min(first + SIDE, m)
        for j in range(last):
            for i in range(max(first, j), last):
                rest[j * side + i] = T[i, j]
    for j in range(m):
        for i in range(m, side):
            rest[j * side + i] = 0.0
    if factor(W, above, side) < side:
        return False
    for first in range(0, m, SIDE):
        last = min(first + SIDE, m)
        for j in range(last):
            for i in range(max(first, j), last):
                T[i, j] = rest[j * side + i]
    return True


@kernel
def invert_leading(W, above, side, M, out, inverse):
    """Write the inverse (k, k) of the leading part of UᵀU, U in W from row `above` on; M, k rows of U⁻ᵀ, and `out` too."""
    k = len(inverse)
    invert_factor(W, above, side, M)
    clear(M[k * side :], (side - k) * side)
    symmetric(M, side, out)
    for i in range(k):
        copy(inverse[i], out[i * side : i * side + k])
