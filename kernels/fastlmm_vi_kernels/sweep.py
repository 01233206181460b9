"""The mean-field coordinate sweep on X itself, near the speed at which X can be read.

`sweep` and `advance` are the algorithm. What they are written in, vectors of half a cache line and a request to memory
ahead of time, stands below the fold of this file: numba has no word for either, LLVM has.
"""

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models, register_default
from numba.extending import intrinsic

from .jit import FAST_MATH, kernel

DOUBLE, INT32, INT64 = ir.DoubleType(), ir.IntType(32), ir.IntType(64)
LINES_AHEAD = 128  # cache lines of X asked for in advance: 8 KB
FLAGS = tuple(sorted(FAST_MATH))
FIRST_LEVEL = 56_000  # bytes: two columns and the residual beyond this do not stay in the first-level cache


# Vectors: 32 bytes of X as float64, 4 lanes for a float64 X and 8 for a float32 X.


class Vector(types.Type):
    """float64 numbers in registers; the type of local variables only."""

    def __init__(self, lanes):
        self.lanes = lanes
        super().__init__(f"Vector({lanes})")


@register_default(Vector)
class VectorModel(models.PrimitiveModel):
    """A vector is the LLVM vector it stands for."""

    def __init__(self, manager, vector):
        super().__init__(manager, vector, ir.VectorType(DOUBLE, vector.lanes))


def vector_of(x):
    """The vector that 32 bytes of the array type `x` fill."""
    return Vector(32 // (x.dtype.bitwidth // 8))


def address(context, builder, array_type, array, index):
    """Pointer to element `index` of a contiguous array, in the order of memory."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def repeat(builder, number, lanes):
    """A vector of equal numbers."""
    first = builder.insert_element(ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined), number, INT32(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(INT32, lanes), [0] * lanes))


@intrinsic
def lanes(typing, x):
    """Lanes of a vector of x, a constant to the compiler."""
    return types.intp(x), lambda context, builder, signature, args: INT64(vector_of(x).lanes)


@intrinsic
def splat(typing, number, x):
    """A vector of equal numbers."""
    vector = vector_of(x)
    return vector(types.float64, x), lambda context, builder, sig, args: repeat(builder, args[0], vector.lanes)


@intrinsic
def fma(typing, a, b, c):
    """A · b + c, in one instruction where there is one."""

    def generate(context, builder, signature, args):
        return builder.fadd(builder.fmul(args[0], args[1], flags=FLAGS), args[2], flags=FLAGS)

    return a(a, b, c), generate


@intrinsic
def total(typing, a, b):
    """The sum of all lanes of both."""

    def generate(context, builder, signature, args):
        vector = builder.fadd(args[0], args[1], flags=FLAGS)
        while vector.type.count > 1:
            half = vector.type.count // 2
            lower, upper = (
                builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(INT32, half), [*range(k, k + half)]))
                for k in (0, half)
            )
            vector = builder.fadd(lower, upper, flags=FLAGS)
        return builder.extract_element(vector, INT32(0))

    return types.float64(a, b), generate


@intrinsic
def prefetch(typing, array, index):
    """Ask for the cache line of array[index], which may lie beyond the end of the array."""

    def generate(context, builder, signature, args):
        pointer = builder.bitcast(address(context, builder, array, *args), ir.IntType(8).as_pointer())
        function_type = ir.FunctionType(ir.VoidType(), [pointer.type, INT32, INT32, INT32])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        builder.call(function, [pointer, INT32(0), INT32(3), INT32(1)])  # to read, into every level, data
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@intrinsic
def load(typing, array, index, x):
    """array[index : index + lanes] as float64."""
    vector = vector_of(x)

    def generate(context, builder, signature, args):
        pointer = address(context, builder, array, args[0], args[1])
        narrow, wide = (ir.VectorType(kind, vector.lanes) for kind in (pointer.type.pointee, DOUBLE))
        value = builder.load(builder.bitcast(pointer, narrow.as_pointer()), align=array.dtype.bitwidth // 8)
        return value if narrow == wide else builder.fpext(value, wide)

    return vector(array, types.intp, x), generate


@intrinsic
def load_first(typing, array, index, count, x):
    """array[index : index + count] as float64, then zeros; what lies beyond is not touched."""
    vector = vector_of(x)

    def generate(context, builder, signature, args):
        pointer = address(context, builder, array, args[0], args[1])
        narrow, wide = (ir.VectorType(kind, vector.lanes) for kind in (pointer.type.pointee, DOUBLE))
        pointer = builder.bitcast(pointer, narrow.as_pointer())
        lane = ir.Constant(ir.VectorType(INT64, vector.lanes), [*range(vector.lanes)])
        mask = builder.icmp_signed("<", lane, repeat(builder, args[2], vector.lanes))
        function_type = ir.FunctionType(narrow, [pointer.type, INT32, mask.type, narrow])
        name = f"llvm.masked.load.v{vector.lanes}f{array.dtype.bitwidth}.p0"
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        zeros = ir.Constant(narrow, [0.0] * vector.lanes)
        value = builder.call(function, [pointer, INT32(array.dtype.bitwidth // 8), mask, zeros])
        return value if narrow == wide else builder.fpext(value, wide)

    return vector(array, types.intp, types.intp, x), generate


@intrinsic
def store(typing, array, index, value):
    """array[index : index + lanes] = value, into a float64 array."""

    def generate(context, builder, signature, args):
        pointer = address(context, builder, array, args[0], args[1])
        builder.store(args[2], builder.bitcast(pointer, args[2].type.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


# The sweep.


@kernel
def advance(x, old, new, n, delta, residual):
    """Overwrite residual (n + 8,) by residual − δ x_old and return x_newᵀ residual, in one pass.

    `old` and `new` say where the columns begin in the memory of x.
    """
    width = lanes(x)
    minus_delta = splat(-delta, x)
    even = odd = splat(0.0, x)
    # Where the old column comes from the second-level cache, a loop held just below the speed of memory is faster than
    # one which overtakes it (measured): one running sum, 8 cycles a cache line, instead of two.
    paced = n * (8 + 64 // width) > FIRST_LEVEL
    whole = n - n % (2 * width)
    for i in range(0, whole, 2 * width):  # one cache line of x
        prefetch(x, new + i + LINES_AHEAD * 2 * width)
        r = fma(minus_delta, load(x, old + i, x), load(residual, i, x))
        store(residual, i, r)
        even = fma(r, load(x, new + i, x), even)
        r = fma(minus_delta, load(x, old + i + width, x), load(residual, i + width, x))
        store(residual, i + width, r)
        if paced:
            even = fma(r, load(x, new + i + width, x), even)
        else:
            odd = fma(r, load(x, new + i + width, x), odd)
    for i in range(whole, n, width):
        r = fma(minus_delta, load_first(x, old + i, n - i, x), load(residual, i, x))
        store(residual, i, r)
        even = fma(r, load_first(x, new + i, n - i, x), even)
    return total(even, odd)


@kernel
def sweep(X, sq_norms, gamma, mean, residual):
    """Update every E[β_j] once, in column order; overwrite `mean` and `residual` (y − Zω − X mean).

    X (n, p), float64 or float32, is in Fortran order, so that a column is contiguous. E[β_j] =
    γ (x_jᵀ r + ‖x_j‖² E[β_j]) / (1 + γ ‖x_j‖²) with r the current residual (docs/derivation.md, section 7). The update of
    r by one column and the product of r with the next are one loop. Returns the largest |ΔE[β_j]| in units of its
    standard deviation under q, times σ_e.
    """
    n, p = X.shape
    r = np.zeros(n + 8)
    for i in range(n):
        r[i] = residual[i]
    largest = delta = 0.0
    for j in range(p):
        correlation = advance(X, max(j - 1, 0) * n, j * n, n, delta, r)
        shrink = gamma / (1.0 + gamma * sq_norms[j])
        delta = shrink * (correlation + sq_norms[j] * mean[j]) - mean[j]
        mean[j] += delta
        largest = max(largest, abs(delta) / math.sqrt(shrink))
    advance(X, (p - 1) * n, (p - 1) * n, n, delta, r)
    for i in range(n):
        residual[i] = r[i]
    return largest
