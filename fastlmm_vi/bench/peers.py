"""Cases of other people's software, on the same data and at the same accuracy; each is imported only when measured."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..result import Array
from . import clock
from .case import GAMMA, SWEEPS, Problem, fit_case, sweep_case

START = 10  # sweeps whose time, and with it a peer's start-up, is taken off the time of START + SWEEPS


def bayesian_ridge(problem: Problem) -> Callable[[], float]:
    """scikit-learn's BayesianRidge with flat priors is ML; it has no covariates, so contrasts of y and X make it REML."""
    from sklearn.linear_model import BayesianRidge

    U, _, _ = np.linalg.svd(problem.Z, full_matrices=True)
    A = U[:, problem.c :].T
    X, y = A @ problem.X, A @ problem.y
    flat = dict.fromkeys(("alpha_1", "alpha_2", "lambda_1", "lambda_2"), 0.0)
    ridge = BayesianRidge(fit_intercept=False, tol=1e-6, max_iter=10_000, **flat)
    return lambda: 1.0 / ridge.fit(X, y).lambda_


def fastlmm(problem: Problem) -> Callable[[], float]:
    """FaST-LMM's ML: a singular value decomposition, then Brent's method on h²."""
    from fastlmm.inference import LMM

    def run() -> float:
        lmm = LMM()
        lmm.setG(problem.X)
        lmm.setX(problem.Z)
        lmm.sety(problem.y)
        found = lmm.findH2(REML=False)
        return float(found["h2"] * found["sigma2"])

    return run


def glimix_core(problem: Problem) -> Callable[[], float]:
    """glimix-core's ML from X: its covariance X Xᵀ, the eigenbasis of that, then Brent's method."""
    from glimix_core.lmm import LMM
    from numpy_sugar.linalg import economic_qs

    def run() -> float:
        lmm = LMM(problem.y, problem.Z, economic_qs(problem.X @ problem.X.T), restricted=False)
        lmm.fit(verbose=False)
        return float(lmm.v0)

    return run


def sklearn_cd(problem: Problem) -> Callable[[], Array]:
    """scikit-learn's coordinate descent on the ridge penalty: the same update in the same order as our sweep."""
    from sklearn.linear_model import enet_path

    options: dict[str, Any] = {
        "alphas": [1.0 / (GAMMA * problem.n)],
        "l1_ratio": 0.0,
        "tol": 0.0,
        "return_n_iter": True,
    }

    def sweeps(count: int) -> Array:
        path = enet_path(problem.columns, problem.y, max_iter=count, check_input=False, copy_X=False, **options)
        coefficients: Array = path[1]
        if path[3] != [count]:
            raise RuntimeError(f"scikit-learn stopped after {path[3][0]} of {count} sweeps: their time is not known.")
        return coefficients[:, 0]

    return _less_start(sweeps)


def skglm_cd(problem: Problem) -> Callable[[], Array]:
    """Coordinate descent of skglm on the ridge penalty, with the acceleration and the checks that belong to it."""
    from skglm.datafits import Quadratic
    from skglm.penalties import L1_plus_L2
    from skglm.solvers import AndersonCD
    from skglm.utils.jit_compilation import compiled_clone

    loss, penalty = compiled_clone(Quadratic()), compiled_clone(L1_plus_L2(1.0 / (GAMMA * problem.n), 0.0))

    def sweeps(count: int) -> Array:
        solver = AndersonCD(max_iter=1, max_epochs=count, p0=problem.p, tol=0.0, fit_intercept=False)
        mean: Array = solver.solve(problem.columns, problem.y, loss, penalty)[0]
        return mean

    sweeps(1)  # compiles
    return _less_start(sweeps)


def _less_start(sweeps: Callable[[int], Array]) -> Callable[[], Array]:
    """Count `SWEEPS` sweeps without the start-up of the function that does them.

    On tiny data a start-up may drown the sweeps, so that fewer take longer: then it is counted with them.
    """

    def run() -> Array:
        begin = clock.now()
        sweeps(START)
        start = clock.now() - begin
        mean = sweeps(START + SWEEPS)
        rest = clock.now() - begin - start
        clock.add(-2.0 * start if rest > start else -start)
        return mean

    return run


PEERS = (
    fit_case(
        name="bayesian_ridge",
        prepare=bayesian_ridge,
        truth=lambda problem: problem.reml,
        within=0.05,
        once=True,
        package="scikit-learn",
    ),
    fit_case(name="fastlmm", prepare=fastlmm, truth=lambda problem: problem.ml, within=0.05, package="fastlmm"),
    fit_case(
        name="glimix_core", prepare=glimix_core, truth=lambda problem: problem.ml, within=0.05, package="glimix-core"
    ),
    sweep_case(name="sklearn_cd", prepare=sklearn_cd, package="scikit-learn"),
    sweep_case(name="skglm_cd", prepare=skglm_cd, package="skglm"),
)
