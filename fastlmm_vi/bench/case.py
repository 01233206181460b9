"""What a benchmark is: a named piece of work on one data set, its yardstick, and the number that it has to get right."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from ..datasets import make_xyz_twin
from ..result import Array
from ..wide.estimator import WideLMM
from ..wide.spectrum import Spectrum

# σ²_β / σ²_e at which sweeps are measured: ten times what the twin is drawn with, so that nobody is done, and stops,
# before the last sweep.
GAMMA = 5.0
SWEEPS = 50  # in one run


@dataclass(frozen=True, eq=False)
class Problem:
    """The twin in one size, and what cases and their accuracies need beside it; each part is made when first used.

    Examples
    --------
    >>> from fastlmm_vi.bench.case import Problem
    >>> problem = Problem(n=40, p=90, c=2)
    >>> problem.ml == problem.fit().sigma2_beta_
    False
    >>> abs(problem.fit().sigma2_beta_ / problem.ml - 1.0) < 1e-6
    True
    """

    n: int = 1000
    p: int = 6000
    c: int = 30
    jobs: int | None = None

    @cached_property
    def _data(self) -> tuple[Array, Array, Array]:
        data = make_xyz_twin(n=self.n, p=self.p, c=self.c)
        return data.y, data.Z, data.X

    @property
    def y(self) -> Array:
        """Response (n,)."""
        return self._data[0]

    @property
    def Z(self) -> Array:
        """Covariates (n, c)."""
        return self._data[1]

    @property
    def X(self) -> Array:
        """Features (n, p), row by row."""
        return self._data[2]

    @cached_property
    def further_y(self) -> Array:
        """Another response of the same X."""
        rng = np.random.default_rng(1)
        return self.X @ rng.normal(scale=np.sqrt(0.3), size=self.p) + rng.normal(scale=np.sqrt(0.6), size=self.n)

    @cached_property
    def columns(self) -> Array:
        """X again, column by column."""
        return np.asfortranarray(self.X)

    @cached_property
    def spectrum(self) -> Spectrum:
        """Spectrum of X with eigenvectors: not what a fit from raw X makes, so that each checks the other."""
        return Spectrum.of(self.X)

    def fit(self, y: Array | None = None, spectrum: Spectrum | None = None, **options: Any) -> WideLMM:
        """Fit the literal model, Z as given, to the response or to `y`."""
        model = WideLMM(fit_intercept=False, n_jobs=self.jobs, **options)
        return model.fit(self.X, self.y if y is None else y, self.Z, spectrum=spectrum)

    @cached_property
    def ml(self) -> float:
        """σ²_β at the maximum of the likelihood."""
        return self.fit(spectrum=self.spectrum).sigma2_beta_

    @cached_property
    def reml(self) -> float:
        """σ²_β at the maximum of the restricted likelihood."""
        return self.fit(spectrum=self.spectrum, reml=True).sigma2_beta_

    @cached_property
    def elbo(self) -> float:
        """σ²_β at the maximum of the ELBO."""
        return self.fit(spectrum=self.spectrum, method="mfvi", solver="collapsed").sigma2_beta_

    @cached_property
    def ridge_mean(self) -> Array:
        """E[β] at `GAMMA` without covariates: where sweeps lead."""
        return self.spectrum.ridge(GAMMA, self.y)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the table.

    Attributes
    ----------
    name, question : str
        The question is the heading under which cases stand side by side.
    prepare : callable
        `prepare(problem)` does what is not to be measured and returns the function of no argument that is. That
        function returns the number or array which `truth(problem)` gives to rounding.
    yardstick : str or None
        Name of the case, measured in the same run, that its time is divided by.
    truth : callable or None
    within : float
        The relative error that it must not exceed.
    units : int
        Pieces of work in one run (sweeps, reads); times are given for one of them.
    once : bool
        So slow that one round has to do.
    package : str or None
        Of a peer: the distribution that it comes from.
    """

    name: str
    question: str
    prepare: Callable[[Problem], Callable[[], Any]]
    yardstick: str | None = None
    truth: Callable[[Problem], Any] | None = None
    within: float = np.inf
    units: int = 1
    once: bool = False
    package: str | None = None

    def error(self, problem: Problem, value: Any) -> float | None:
        """‖value − truth‖ / ‖truth‖, or None where there is nothing to be right about."""
        if self.truth is None:
            return None
        truth = np.atleast_1d(self.truth(problem))
        norm = float(np.linalg.norm(truth))
        return float(np.linalg.norm(value - truth)) / (norm or 1.0)


fit_case = partial(Case, question="A whole fit from raw X", yardstick="dsyrk_eigh")
response_case = partial(Case, question="A further response on a Spectrum", yardstick="read_X")
sweep_case = partial(
    Case,
    question="One sweep over the columns of X",
    yardstick="read_X",
    truth=lambda problem: problem.ridge_mean,
    within=1e-5,  # where the last sweep leads
    units=SWEEPS,
)
