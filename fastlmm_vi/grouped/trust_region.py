"""Minimise a smooth function of a few parameters, given its gradient, to the last digits the gradient has."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from ..result import Array

FLAT = 1e-5  # curvature, relative to the largest, that differences of the gradient cannot tell from none
ROUGH = 1e-2  # predicted decrease at which the Hessian is computed
CLOSE = 1e-9  # predicted decrease, relative to |f|, from which on values of f may be rounding: gradients are looked at
OLD = 4  # steps after which a Hessian is computed again
FINE = 1e-18  # predicted decrease, relative to |f|, at which one more step ends the search: parameters have ten digits then
SMALL = 1e-8  # predicted decrease at which the point is called a minimum: far below any digit that matters
ROUNDING = 1e-13  # of f, relative
STEP = 1e-5  # of parameters of order 1, for differences of the gradient


class Value(Protocol):
    """What the function returns."""

    @property
    def deviance(self) -> float:
        """Of f."""
        ...

    @property
    def gradient(self) -> Array:
        """Its derivatives, (k,)."""
        ...


V = TypeVar("V", bound=Value)


@dataclass(frozen=True, eq=False)
class Minimum(Generic[V]):
    """Where the search ended."""

    x: Array
    value: V
    hessian: Array
    decrease: float  # what a further Newton step promises
    evaluations: int
    path: tuple[tuple[Array, float], ...]  # accepted points and their values
    converged: bool


def minimise(
    f: Callable[[Array], V],
    x: Array,
    now: V,
    B: Array,
    max_iter: int,
    report: Callable[[int, float], None] = lambda iteration, decrease: None,
) -> Minimum[V]:
    """Search from x, where f is `now`, with the Hessian's estimate B: steps in a trust region, B updated by rank one.

    Near the minimum the Hessian is computed by differences of the gradient: it speeds up the last steps, and shows whether
    the point is a minimum. `report(iteration, predicted decrease)` is called at every step.
    (Nocedal and Wright, Numerical Optimization, 2006, algorithms 4.1 and 6.2.)
    """
    count = 1

    def evaluate(at: Array) -> V:
        nonlocal count
        count += 1
        return f(at)

    path = [(x, now.deviance)]
    radius, age, decrease = 1.0, np.inf, np.inf  # age: steps since the Hessian was computed
    for iteration in range(max_iter):
        step, decrease = newton_step(now.gradient, B, radius)
        report(iteration, decrease)
        close = decrease <= CLOSE * max(1.0, abs(now.deviance))
        if age > OLD and (close or decrease < ROUGH):
            B, age = differences(evaluate, x, now.gradient), 0
            continue
        if close or radius < 1e-12:
            break
        new = evaluate(x + step)
        age += 1
        gained = now.deviance - new.deviance
        noise = ROUNDING * max(1.0, abs(now.deviance))
        B = _rank_one(B, step, new.gradient - now.gradient)
        if gained < 0.1 * decrease - noise:
            radius = 0.25 * float(np.linalg.norm(step))
        elif gained > 0.75 * decrease and np.linalg.norm(step) > 0.8 * radius:
            radius *= 2.0
        if gained > 0.0:
            x, now = x + step, new
            path.append((x, now.deviance))
    exact = age <= OLD
    if exact:
        x, now, B, decrease = _polish(evaluate, x, now, B)
        path.append((x, now.deviance))
    converged = exact and decrease < max(SMALL, 10.0 * ROUNDING * abs(now.deviance))
    return Minimum(x, now, B, decrease, count, tuple(path), converged)


def _polish(f: Callable[[Array], V], x: Array, now: V, B: Array) -> tuple[Array, V, Array, float]:
    """Newton's steps judged by the gradient alone, where values of f have no digits left to compare."""
    fresh = False  # whether B was computed here
    fine = FINE * max(1.0, abs(now.deviance))
    step, decrease = newton_step(now.gradient, B, np.inf)
    for _ in range(20):
        new = f(x + step)
        next_step, after = newton_step(new.gradient, B, np.inf)
        last, slow = decrease < fine, not after < 1e-3 * decrease
        if after < decrease:
            x, now, step, decrease, fresh = x + step, new, next_step, after, False
        elif fresh:
            break
        if last:
            break
        if slow and not fresh:
            B, fresh = differences(f, x, now.gradient), True
            step, decrease = newton_step(now.gradient, B, np.inf)
    return x, now, B, decrease


def _rank_one(B: Array, step: Array, change: Array) -> Array:
    """B, corrected so that it maps the step to the change of the gradient, where that can be done safely."""
    rest = change - B @ step
    along = float(rest @ step)
    if not abs(along) > 1e-8 * float(np.linalg.norm(rest) * np.linalg.norm(step)):  # NaN too
        return B
    return B + np.outer(rest, rest) / along


def newton_step(gradient: Array, B: Array, radius: float) -> tuple[Array, float]:
    """The minimiser of the quadratic model within the radius, and the decrease it promises."""
    values, vectors = np.linalg.eigh(B)
    g = vectors.T @ gradient
    top = max(float(np.abs(values).max(initial=0.0)), 1e-300)
    values = np.where(np.abs(values) < FLAT * top, FLAT * top, values)
    if (values > 0.0).all():
        s = -g / values
        if float(np.linalg.norm(s)) <= radius:
            return vectors @ s, float(-(g @ s) - 0.5 * (s * values) @ s)
    low = max(0.0, -float(values[0]))
    if g[0] == 0.0 and values[0] < 0.0:  # a saddle looked at from its ridge: leave it
        g[0] = 1e-8 * max(1.0, float(np.abs(g).max()))
    shift, high = low + 1e-12 * top, low + float(np.linalg.norm(g)) / radius + 1e-12 * top
    for _ in range(100):
        middle = 0.5 * (shift + high)
        if float(np.linalg.norm(g / (values + middle))) > radius:
            shift = middle
        else:
            high = middle
        if high - shift <= 1e-3 * high:
            break
    s = -g / (values + high)
    return vectors @ s, float(-(g @ s) - 0.5 * (s * values) @ s)


def differences(f: Callable[[Array], Value], x: Array, gradient: Array, step: float = STEP) -> Array:
    """The Hessian by forward differences of the gradient, symmetrised."""
    H = np.empty((x.size, x.size))
    for i in range(x.size):
        there = x.copy()
        there[i] += step
        H[i] = (f(there).gradient - gradient) / step
    return 0.5 * (H + H.T)
