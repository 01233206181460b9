"""What samplers ask of a log density of a few parameters, and that of a plain function."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .result import Array

STEP = np.finfo(float).eps ** 0.2  # a relative step of differences of fourth order: truncation and rounding about 1e-12


class LogDensity(Protocol):
    """A smooth log density over all of R^dim, up to a constant, with its gradient.

    A compiled one also gives the address of a C function `int64 (uint64 dim, double *x, double *gradient, double *value,
    void *user_data)` that returns 0, or another number where there is no density; it is called from several threads at once.
    """

    @property
    def dim(self) -> int:
        """Parameters."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Of the parameters."""
        ...

    def logp(self, x: Array) -> float:
        """Log density at x (dim,); −∞ where it is 0."""
        ...

    def logp_grad(self, x: Array) -> tuple[float, Array]:
        """Log density at x and its gradient (dim,)."""
        ...

    @property
    def address(self) -> int | None:
        """Of the compiled function; None where there is none."""
        ...

    @property
    def user_data(self) -> int:
        """Address that is handed on to it."""
        ...


@dataclass(frozen=True, eq=False)
class Differenced:
    """A log density without a gradient: differences of fourth order stand in, 4 dim evaluations each.

    Attributes
    ----------
    function : callable
        x (dim,) -> float.
    names : sequence of str
        Of the parameters, each of order 1 (a logarithm, a z-transform).
    """

    function: Callable[[Array], float]
    names: Sequence[str]
    address: None = None
    user_data: int = 0

    @property
    def dim(self) -> int:
        """Parameters."""
        return len(self.names)

    def logp(self, x: Array) -> float:
        """Log density at x."""
        return float(self.function(x))

    def logp_grad(self, x: Array) -> tuple[float, Array]:
        """Log density at x and its gradient; NaN in the gradient where a neighbour has no density."""
        gradient = np.empty(self.dim)
        for j in range(self.dim):
            h = STEP * max(1.0, abs(x[j]))
            at = np.repeat(x[None, :], 4, axis=0)
            at[:, j] += h * np.array([-2.0, -1.0, 1.0, 2.0])
            far_left, left, right, far_right = (self.logp(one) for one in at)
            with np.errstate(invalid="ignore"):
                gradient[j] = (8.0 * (right - left) - (far_right - far_left)) / (12.0 * h)
        return self.logp(x), gradient
