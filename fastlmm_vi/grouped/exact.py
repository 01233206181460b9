"""What a posterior that is not approximated by q has nothing of."""

import numpy as np

from ..result import Array
from .starts import Start


class Exact:
    """A posterior that no ELBO is below and no ascent led to."""

    @property
    def elbo(self) -> None:
        """None: nothing is approximated by q."""
        return

    @property
    def trace(self) -> Array:
        """Empty: there are no iterations."""
        return np.zeros(0)

    @property
    def starts(self) -> tuple[Start, ...]:
        """Empty."""
        return ()
