"""EM and variational EM run to an optimum: the compiled loop, and the test by which it ends."""

import numpy as np
from fastlmm_vi_kernels import spectral as kernels

from ..result import Array
from .basis import Criterion
from .rotated import Rotated


def run(
    rotated: Rotated, criterion: Criterion, p: int, start: tuple[float, float], *, tol: float, max_iter: int
) -> tuple[Array, Array, float]:
    """Return the path (criterion, σ²_β, σ²_e per iteration, the start first), the last a, and the distance to go.

    Starts at a = 0 (least squares). An EM step says little about the distance (docs/derivation.md, section 11), so once
    steps are below `tol` the distance is looked at, every tenth iteration and more rarely on a long way.
    """
    h = rotated.positive if criterion.h is None else criterion.h
    data = (*rotated, p, h)
    path, a = kernels.em(*start, np.zeros(rotated.c), max_iter, tol, *data)
    parts = [path]
    count = len(path) - 1
    distance = _distance(rotated, criterion, path[-1], a)
    while distance > tol and count < max_iter and np.isfinite(path[-1, 0]):
        more = min(max(10, count // 50), max_iter - count)
        path, a = kernels.em(path[-1, 1], path[-1, 2], a, more, 0.0, *data)
        parts.append(path[1:])
        count += len(path) - 1
        distance = _distance(rotated, criterion, path[-1], a)
    return np.concatenate(parts), a, distance


def _distance(rotated: Rotated, criterion: Criterion, last: Array, a: Array) -> float:
    """The largest of: the Newton step of the profile relative to γ; how far σ²_e (relative) and a (in σ_e) are off."""
    _, sigma2_beta, sigma2_e = last
    point = rotated.at(criterion, sigma2_beta / sigma2_e)
    if not point.curvature < 0.0:
        return np.inf
    off = np.abs(rotated.effects(point.gamma).a - a).max(initial=0.0) / np.sqrt(sigma2_e)
    newton = abs(point.slope / point.curvature) / point.gamma
    return float(max(newton, abs(point.sigma2_e / sigma2_e - 1.0), off))
