"""Minimise a smooth function of a few parameters, given its gradient, to the last digits the gradient has."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from ..result import Array

FLAT = 1e-5  # curvature, relative to the largest, that differences of the gradient cannot tell from none
SADDLE = 1e-4  # and downwards, where fourth derivatives at the boundary make more of it than there is
LEAST = 1e-3  # largest curvature of a deviance, below which all of it is rounding
ROUGH = 1e-2  # predicted decrease at which the Hessian is computed again
CLOSE = 1e-9  # predicted decrease, relative to |f|, from which on values of f may be rounding: gradients are looked at
OLD = 4  # steps after which the Hessian is computed again
FINE = 1e-18  # predicted decrease, relative to |f|, at which the step that promises it is the last
SMALL = 1e-8  # predicted decrease at which the point is called a minimum: far below any digit that matters
RETURNS = 3  # times that the search goes on from what turned out to be no minimum
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
    value: V  # before the last step, which is taken unseen where the search converged
    hessian: Array
    decrease: float  # what that step promises
    iterations: int
    evaluations: int
    path: tuple[tuple[Array, float], ...]  # accepted points and their values
    converged: bool


def minimise(
    f: Callable[[Array], V],
    x: Array,
    now: V,
    guide: Callable[[Array, V], Array | None],
    max_iter: int,
    report: Callable[[int, float], None] = lambda iteration, decrease: None,
) -> Minimum[V]:
    """Search from x, where f is `now`: steps in a trust region; the Hessian B follows `guide` and is updated by rank one.

    `guide(x, f(x))` estimates the Hessian, or gives None where it cannot, or not cheaply; then B is computed by differences
    of the gradient, at the start and near the minimum. Newton's steps with a B that is positive definite come closer and
    closer only to points where the Hessian is so too: to minima. `report(iteration, predicted decrease)` is called at every
    step. (Nocedal and Wright, Numerical Optimization, 2006, algorithms 4.1 and 6.2.)
    """
    count = 1

    def evaluate(at: Array) -> V:
        nonlocal count
        count += 1
        return f(at)

    path = [(x, now.deviance)]
    radius, decrease, last, arrived = 1.0, np.inf, np.zeros_like(x), False
    returns = 0
    age, old = 0, 0  # steps since B was more than updated, and after how many it is computed again near the minimum
    guided = guide(x, now)
    B = differences(evaluate, x, now.gradient) if guided is None else guided
    iteration = -1
    for iteration in range(max_iter):
        step, decrease = newton_step(now.gradient, B, radius)
        report(iteration, decrease)
        close = decrease <= CLOSE * max(1.0, abs(now.deviance))
        if age > old and (close or decrease < ROUGH):
            B, age, old = differences(evaluate, x, now.gradient), 0, OLD
            continue
        if close or radius < 1e-12:
            x, now, B, last, decrease = _polish(evaluate, x, now, B)
            path.append((x, now.deviance))
            arrived = decrease < max(SMALL, 10.0 * ROUNDING * abs(now.deviance))
            returns += 1
            if arrived or not close or returns > RETURNS:
                break
            radius, age = 1.0, 0  # a saddle, or a valley: on along it
            continue
        new = evaluate(x + step)
        gained = now.deviance - new.deviance
        noise = ROUNDING * max(1.0, abs(now.deviance))
        if gained < 0.1 * decrease - noise:
            radius = 0.25 * float(np.linalg.norm(step))
        elif gained > 0.75 * decrease and np.linalg.norm(step) > 0.8 * radius:
            radius *= 2.0
        if not gained > 0.0 and age == 0:  # a Hessian just computed is right nearer by
            continue
        age += 1
        before, guided = guided, guide(x + step, new) if gained > 0.0 else None
        if before is None or guided is None:
            B = _rank_one(B, step, new.gradient - now.gradient)
        else:  # the gradient's change is that of the Hessian half-way
            half = 0.5 * (guided - before)
            B, age = _rank_one(B + half, step, new.gradient - now.gradient) + half, 0
        if gained > 0.0:
            x, now = x + step, new
            path.append((x, now.deviance))
    return Minimum(x + last if arrived else x, now, B, decrease, iteration + 1, count, tuple(path), arrived)


def _polish(f: Callable[[Array], V], x: Array, now: V, B: Array) -> tuple[Array, V, Array, Array, float]:
    """Newton's steps judged by the gradient alone, where values of f have no digits left to compare; and the next one."""
    fresh = False  # whether B was computed here
    fine = FINE * max(1.0, abs(now.deviance))
    step, decrease = newton_step(now.gradient, B, np.inf)
    for _ in range(20):
        if decrease < fine:
            break
        quick = False
        if decrease < np.inf:
            new = f(x + step)
            B_new = _rank_one(B, step, new.gradient - now.gradient)
            next_step, after = newton_step(new.gradient, B_new, np.inf)
            # Differences cost an evaluation a parameter: worth it where the steps left at this rate would cost more.
            quick = after * (after / decrease) ** (x.size + 1) < fine
            if after < decrease:
                x, now, B, step, decrease, fresh = x + step, new, B_new, next_step, after, False
        if fresh:
            break
        if not quick:
            B, fresh = differences(f, x, now.gradient), True
            step, decrease = newton_step(now.gradient, B, np.inf)
    return x, now, B, step, decrease


def _rank_one(B: Array, step: Array, change: Array) -> Array:
    """B, corrected so that it maps the step to the change of the gradient, where that can be done safely."""
    rest = change - B @ step
    along = float(rest @ step)
    if not along**2 > 1e-16 * float(rest @ rest) * float(step @ step):  # NaN too
        return B
    return B + np.outer(rest, rest) / along


def newton_step(gradient: Array, B: Array, radius: float) -> tuple[Array, float]:
    """The minimiser of the quadratic model within the radius, and the decrease it promises; (0, ∞) if it has none."""
    values, vectors = np.linalg.eigh(B)
    g = vectors.T @ gradient
    top = max(float(np.abs(values).max(initial=0.0)), LEAST)
    values = np.where((values > -SADDLE * top) & (values < FLAT * top), FLAT * top, values)
    if (values > 0.0).all():
        s = -g / values
        if float(s @ s) <= radius**2:
            return vectors @ s, 0.5 * float(-(g @ s))
    if radius == np.inf:
        return np.zeros_like(g), np.inf
    low = max(0.0, -float(values[0]))
    shift, high = low + 1e-12 * top, low + float(np.linalg.norm(g)) / radius + 1e-12 * top
    s = -g / (values + shift)
    short = radius**2 - float(s @ s)
    if short > 0.0:  # the gradient sees nothing of the steepest way down: a saddle, looked at from its ridge
        s[0] += np.copysign(np.sqrt(short), s[0])
        return vectors @ s, float(-(g @ s) - 0.5 * (s * values) @ s)
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
