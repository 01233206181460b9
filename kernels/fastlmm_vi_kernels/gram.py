"""The symmetric product X Xᵀ, near the speed of the processor's widest multiply-add.

`gram` and `pack` are the algorithm (Goto and van de Geijn, ACM TOMS 34, 2008): panels of X are copied to where they are
read side by side, and tiles of K as large as the registers hold are summed from two panels. What a tile is written in
stands first in this file: numba has no word for it, LLVM has.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import FAST_MATH, kernel

FLAGS = tuple(sorted(FAST_MATH))
INT32, INT64 = ir.IntType(32), ir.IntType(64)
DEPTH = 256  # columns of X taken at a time: 16 KB of a few rows stay in the first-level cache
BLOCK = 10  # panels, at most 32 KB each, that stay in the second-level cache
WIDEST = 32  # columns of the widest tile


# A tile: a few rows of K by a few vectors, as many sums as there are registers.


def tile_shape(context, like):
    """Rows of a tile, vectors in a row, lanes of a vector."""
    if "+avx512f" in context.codegen().magic_tuple()[2]:
        return 8, 2, 512 // like.dtype.bitwidth
    return 4, 3, 256 // like.dtype.bitwidth


@intrinsic
def height(typing, like):
    """Rows of a tile, a constant to the compiler."""
    return types.intp(like), lambda context, builder, signature, args: INT64(tile_shape(context, like)[0])


@intrinsic
def width(typing, like):
    """Columns of a tile, a multiple of its rows."""

    def generate(context, builder, signature, args):
        _, vectors, lanes = tile_shape(context, like)
        return INT64(vectors * lanes)

    return types.intp(like), generate


@intrinsic
def add_tile(typing, panels, a, b, depth, out, c, stride):
    """out[c + stride i + j] += Σ_k panels[a + width k + i] panels[b + width k + j], i < height, j < width, k < depth.

    Indices count in memory. The sums over k stay in registers.
    """

    def generate(context, builder, signature, args):
        rows, vectors, lanes = tile_shape(context, panels)
        a, b, depth, c, stride = args[1], args[2], args[3], args[5], args[6]
        arrays = ((panels, args[0]), (out, args[4]))
        memory, target = (context.make_array(kind)(context, builder, value).data for kind, value in arrays)
        vector, wide = (ir.VectorType(pointer.type.pointee, lanes) for pointer in (memory, target))
        size, wide_size = (array.dtype.bitwidth // 8 for array in (panels, out))
        zeros = ir.Constant(vector, [0.0] * lanes)
        everywhere = ir.Constant(ir.VectorType(INT32, lanes), [0] * lanes)

        def at(pointer, index, kind):
            return builder.bitcast(builder.gep(pointer, [index]), kind.as_pointer())

        sums = [[cgutils.alloca_once(builder, vector) for _ in range(vectors)] for _ in range(rows)]  # registers
        for i in range(rows):
            for j in range(vectors):
                builder.store(zeros, sums[i][j])
        with cgutils.for_range(builder, depth, intp=INT64) as loop:
            line = builder.mul(loop.index, INT64(vectors * lanes))
            left, right = (builder.gep(memory, [builder.add(start, line)]) for start in (a, b))
            factors = [builder.load(at(right, INT64(j * lanes), vector), align=size) for j in range(vectors)]
            for i in range(rows):
                number = builder.insert_element(zeros, builder.load(builder.gep(left, [INT64(i)])), INT32(0))
                number = builder.shuffle_vector(number, number, everywhere)
                for j in range(vectors):
                    product = builder.fmul(number, factors[j], flags=FLAGS)
                    builder.store(builder.fadd(builder.load(sums[i][j]), product, flags=FLAGS), sums[i][j])
        for i in range(rows):
            row = builder.gep(target, [builder.add(c, builder.mul(stride, INT64(i)))])
            for j in range(vectors):
                place = at(row, INT64(j * lanes), wide)
                value = builder.load(sums[i][j])
                value = value if vector == wide else builder.fpext(value, wide)
                value = builder.fadd(builder.load(place, align=wide_size), value, flags=FLAGS)
                builder.store(value, place, align=wide_size)
        return context.get_dummy_value()

    return types.void(panels, a, b, depth, out, c, stride), generate


# The product.


@kernel
def pack(x, n, row, column, first, depth, panels, side):
    """Copy `depth` columns of X into panels of `width` rows, one after another: panels[panel, k, lane] = X[i, first + k].

    The last panel holds the last rows of K, and zeros for those among them which another panel has.
    """
    w, h = width(panels), height(panels)
    whole = n - n % h
    for i in range(0, whole, h):  # a few rows at a time: every cache line of X is read once, in either order
        lane = i - min(i // w * w, side - w)
        for k in range(depth):
            for r in range(h):
                panels[i // w, k, lane + r] = x[row * (i + r) + column * (first + k)]
    for i in range(whole, n):
        lane = i - min(i // w * w, side - w)
        for k in range(depth):
            panels[i // w, k, lane] = x[row * i + column * (first + k)]


@kernel
def gram(x, n, row, column, start, stop, like, K):
    """Add the columns start … stop − 1 of X to the triangle K[i, j], i ≤ j, of X Xᵀ; below the diagonal K is undefined.

    X[i, k] is x[row i + column k]: either order. K (side, side), side = max(n, `WIDEST`), is in C order. Numbers are
    multiplied, and summed over `DEPTH` columns, in the type of the array `like`.
    """
    side = len(K)
    w, h = width(like), height(like)
    end = -(-n // w) * w
    panels = np.zeros((end // w, DEPTH, w), like.dtype)
    for first in range(start, stop, DEPTH):
        depth = min(DEPTH, stop - first)
        pack(x, n, row, column, first, depth, panels, side)
        for block in range(0, end, BLOCK * w):  # columns of K: panels that stay in the second-level cache
            last = min(block + BLOCK * w, end)
            for i in range(0, last, h):  # rows of K: part of a panel that stays in the first
                a = i // w * w * DEPTH + i % w
                top = min(i // w * w, side - w) + i % w
                for j in range(max(block, i // w * w), last, w):
                    add_tile(panels, a, j * DEPTH, depth, K, top * side + min(j, side - w), side)
