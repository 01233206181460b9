"""A log density given by its address, in coordinates z in which it is nearly standard normal: x = center + root z.

Its data are one block of numbers: address and user data of the density (two 64-bit integers), center (k), root (k, k).
"""

import math

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from .jit import Callback, kernel

HEADER = 2
NUMBERS = types.CPointer(types.float64)
DENSITY = types.int32(types.uintp, NUMBERS, NUMBERS, NUMBERS, types.voidptr)
EXPANSION = types.int32(types.uintp, types.uintp, NUMBERS, NUMBERS, types.voidptr)


@intrinsic
def call(typing, function, dim, x, gradient, value, data):
    """Call a density at its address, with arrays x and gradient; value is a pointer."""

    def generate(context, builder, signature, args):
        number, size = ir.DoubleType().as_pointer(), ir.IntType(64)
        kind = ir.FunctionType(ir.IntType(32), [size, number, number, number, size])
        vectors = [
            context.make_array(kind)(context, builder, one).data
            for kind, one in zip(signature.args[2:4], args[2:4], strict=True)
        ]
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1], *vectors, args[4], args[5]])

    return types.int32(types.uintp, types.uintp, x, gradient, value, types.uintp), generate


@kernel
def to_x(block, dim, z, x):
    """Write center + root z into x."""
    for i in range(dim):
        total = block[HEADER + i]
        for j in range(dim):
            total += block[HEADER + dim + i * dim + j] * z[j]
        x[i] = total


def _density(dim, z, gradient, value, data):
    """0, or 1 where there is no density or no gradient."""
    block = carray(data, HEADER + dim + dim * dim, np.float64)
    owner = block.view(np.uintp)
    x, slope = np.empty(dim), np.empty(dim)
    to_x(block, dim, carray(z, dim), x)
    failed = call(owner[0], dim, x, slope, value, owner[1]) != 0 or not math.isfinite(carray(value, 1)[0])
    out = carray(gradient, dim)
    for j in range(dim):
        total = 0.0
        for i in range(dim):
            total += block[HEADER + dim + i * dim + j] * slope[i]
        out[j] = total
        failed = failed or not math.isfinite(total)
    return 1 if failed else 0


def _expansion(dim, size, z, x, data):
    """0; x is written."""
    to_x(carray(data, HEADER + dim + dim * dim, np.float64), dim, carray(z, dim), carray(x, size))
    return 0


WHITENED = Callback(DENSITY, _density)
EXPANDED = Callback(EXPANSION, _expansion)
