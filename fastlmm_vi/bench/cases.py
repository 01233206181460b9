"""The registry: every case that `fastlmm-vi bench` and tests/bench measure."""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from importlib import metadata
from typing import Any

import numpy as np
import scipy.linalg
from scipy.linalg.blas import ddot, dsyrk

from ..errors import DataError
from ..result import Array
from ..wide.storage import DenseFeatures
from .case import GAMMA, SWEEPS, Case, Problem, fit_case, response_case, sweep_case
from .peers import PEERS

READS = 20  # in one run


def whole_fit(**options: Any) -> Callable[[Problem], Callable[[], float]]:
    """From raw X to the optimum and E[β]."""
    return lambda problem: lambda: problem.fit(**options).sigma2_beta_


def further_response(**options: Any) -> Callable[[Problem], Callable[[], float]]:
    """Another response, the spectrum of X being there."""

    def prepare(problem: Problem) -> Callable[[], float]:
        y, spectrum = problem.further_y, problem.spectrum
        return lambda: problem.fit(y, spectrum, **options).sigma2_beta_

    return prepare


def sweep(make: Callable[[Problem], Array]) -> Callable[[Problem], Callable[[], Array]]:
    """Coordinate sweeps of mean field at fixed variances, over X in the layout and precision of `make`."""

    def prepare(problem: Problem) -> Callable[[], Array]:
        features = DenseFeatures(make(problem))
        features.column_sq_norms()

        def run() -> Array:
            mean, residual = np.zeros(problem.p), problem.y.copy()
            for _ in range(SWEEPS):
                features.sweep(GAMMA, mean, residual)
            return mean

        return run

    return prepare


def read(problem: Problem) -> Callable[[], None]:
    """X read at the bandwidth of the memory: its inner product with itself, which adds faster than numbers arrive."""
    x = problem.X.ravel()

    def run() -> None:
        for _ in range(READS):
            ddot(x, x)

    return run


def gram(problem: Problem) -> Array:
    """The smaller of X Xᵀ and XᵀX (lower triangle) by the BLAS."""
    return dsyrk(1.0, problem.X.T, trans=int(problem.n < problem.p), lower=1)


def gram_and_eigh(problem: Problem) -> Any:
    """The Gram matrix and its eigenvectors."""
    return scipy.linalg.eigh(gram(problem), lower=True, driver="evd", overwrite_a=True, check_finite=False)


ML, REML, ELBO = (lambda problem: problem.ml), (lambda problem: problem.reml), (lambda problem: problem.elbo)
EM_1000: Mapping[str, Any] = {"method": "em", "max_iter": 1000, "tol": 1e-300}
COLLAPSED: Mapping[str, Any] = {"method": "mfvi", "solver": "collapsed"}
YARDSTICKS = "Yardsticks"

OURS = (
    Case(name="read_X", question=YARDSTICKS, prepare=read, units=READS),
    Case(name="dsyrk", question=YARDSTICKS, prepare=lambda problem: lambda: gram(problem), yardstick="dsyrk_eigh"),
    Case(name="dsyrk_eigh", question=YARDSTICKS, prepare=lambda problem: lambda: gram_and_eigh(problem)),
    fit_case(name="newton_ml", prepare=whole_fit(), truth=ML, within=1e-6),
    fit_case(name="newton_reml", prepare=whole_fit(reml=True), truth=REML, within=1e-6),
    fit_case(name="newton_float32_gram", prepare=whole_fit(precision="float32-gram"), truth=ML, within=1e-5),
    fit_case(name="newton_float32", prepare=whole_fit(precision="float32"), truth=ML, within=1e-5),
    fit_case(name="em_optimum", prepare=whole_fit(method="em", max_iter=200_000), truth=ML, within=1e-4),
    fit_case(name="em_1000", prepare=whole_fit(**EM_1000), truth=ML),
    fit_case(name="mfvi_collapsed", prepare=whole_fit(**COLLAPSED), truth=ELBO, within=1e-6),
    fit_case(name="mfvi_sweep", prepare=whole_fit(method="mfvi", solver="sweep"), truth=ELBO, within=1e-3),
    response_case(
        name="response_newton_ml",
        prepare=further_response(),
        truth=lambda problem: problem.fit(problem.further_y).sigma2_beta_,
        within=1e-6,
    ),
    response_case(
        name="response_em_1000",
        prepare=further_response(**EM_1000),
        truth=lambda problem: problem.fit(problem.further_y).sigma2_beta_,
    ),
    response_case(
        name="response_mfvi_collapsed",
        prepare=further_response(**COLLAPSED),
        truth=lambda problem: problem.fit(problem.further_y, **COLLAPSED).sigma2_beta_,
        within=1e-6,
    ),
    sweep_case(name="sweep", prepare=sweep(lambda problem: problem.columns)),
    sweep_case(name="sweep_rows", prepare=sweep(lambda problem: problem.X)),
    sweep_case(name="sweep_float32", prepare=sweep(lambda problem: problem.columns.astype(np.float32, order="F"))),
)
CASES = (*OURS, *PEERS)


def version(case: Case) -> str | None:
    """Return the version of a peer that is installed, or None."""
    try:
        return metadata.version(case.package) if case.package else None
    except metadata.PackageNotFoundError:
        return None


def select(pattern: str = "*", peers: bool = True) -> tuple[Case, ...]:
    """Return the cases whose names match, installed ones only, with the yardsticks that they need.

    Examples
    --------
    >>> from fastlmm_vi.bench import cases
    >>> [case.name for case in cases.select("newton_*ml")]
    ['dsyrk_eigh', 'newton_ml', 'newton_reml']
    """
    chosen = [case for case in CASES if fnmatchcase(case.name, pattern)]
    if not chosen:
        raise DataError(f"{pattern!r} is the name of no case: {', '.join(case.name for case in CASES)}; * and ? work.")
    present = [case for case in chosen if case.package is None or (peers and version(case))]
    if not present:
        raise DataError(
            f"{pattern!r} names peers only ({', '.join(case.name for case in chosen)}), and "
            + ('they are not installed: pip install "fastlmm_vi[bench]".' if peers else "--no-peers leaves them out.")
        )
    return with_yardsticks(present)


def with_yardsticks(chosen: Iterable[Case]) -> tuple[Case, ...]:
    """Return the chosen cases and their yardsticks, in the registry's order."""
    names = {case.name for case in chosen}
    names |= {case.yardstick for case in chosen if case.yardstick}
    return tuple(case for case in CASES if case.name in names)
