"""Every kernel compiled, or loaded from the cache, before it is needed."""

import time
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd

from .datasets import make_xyz_twin
from .grouped.elimination import SMALL
from .grouped.model import lmm
from .wide.estimator import WideLMM
from .wide.householder import in_two_stages
from .wide.spectrum import Spectrum

SHAPES = ((30, 50), (50, 20))  # n < p and n ≥ p
FITS: tuple[Mapping[str, Any], ...] = (
    {},
    {"reml": True},
    {"method": "em", "max_iter": 10},
    {"method": "mfvi", "solver": "collapsed"},
    {"method": "mfvi", "solver": "collapsed", "accelerate": False, "max_iter": 10},
    {"method": "mfvi", "solver": "sweep", "max_iter": 10},
    {"method": "mfvi", "theta_by": "loglik", "solver": "sweep", "max_iter": 10},
)


def warmup(model: str | None = None) -> float:
    """Compile every kernel, or load it from numba's cache, on small problems; return the seconds it took.

    The first fit of a process otherwise carries them: some seconds where nothing is cached yet, a fraction of one
    later. Call it before timing anything, or while a server starts.

    Parameters
    ----------
    model : {"wide", "grouped", "bayes"}, optional
        The kernels of `WideLMM`, of `lmm` by likelihood, or of its Bayesian methods (the longest, half a minute) alone;
        default all.

    Raises
    ------
    ValueError
        If `model` is none of these.

    Examples
    --------
    >>> import fastlmm_vi as fl
    >>> fl.warmup("wide") >= 0.0
    True
    """
    if model is not None and model not in MODELS:
        raise ValueError(
            f"model={model!r} is not known: choose one of {', '.join(map(repr, MODELS))}, or None for all."
        )
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # fits of a few iterations
        for name in MODELS if model is None else (model,):
            MODELS[name]()
    return time.perf_counter() - start


def _wide() -> None:
    for n, p in SHAPES:
        data = make_xyz_twin(n=n, p=p, c=2)
        for options in FITS:
            fit = WideLMM(**options).fit(data.X, data.y, data.Z).fit_
        fit.posterior.predictive(data.X[:1])
        WideLMM().fit(data.X, data.y, data.Z, spectrum=Spectrum.of(data.X))
        _ = WideLMM().fit(data.X, data.y, data.Z).fit_.beta_var
    by_stages = in_two_stages(np.asfortranarray(data.X @ data.X.T), 4)
    by_stages[2].apply(data.X, "T")


def _grouped() -> None:
    """Few random effects, and so many in crossed factors that LAPACK takes over."""
    rng = np.random.default_rng(0)
    g = np.arange(4 * SMALL)
    frame = pd.DataFrame({"y": rng.normal(size=g.size), "few": g % 8, "many": g // 2, "crossed": g % (SMALL + 1)})
    for formula in ("y ~ 1 + (1 | few)", "y ~ 1 + (1 | many) + (1 | crossed)"):
        lmm(formula, frame, max_iter=2).predict(frame.head(2), interval="prediction")


def _bayes() -> None:
    """One factor, one in another, and crossed ones; samplers where they are installed."""
    rng = np.random.default_rng(0)
    g = np.arange(60)
    frame = pd.DataFrame({"y": rng.normal(size=60), "g": g // 6, "h": g // 2, "k": g % 5})
    methods: list[Any] = ["quadrature", "structured-vi", "laplace-is"]
    if find_spec("nutpie") is not None:
        methods.append("nuts")
    for terms in ("(1 | g)", "(1 | g) + (1 | h)", "(1 | g) + (1 | k)"):
        for method in methods:
            lmm(f"y ~ 1 + {terms}", frame, method=method).draws(1)


MODELS = {"wide": _wide, "grouped": _grouped, "bayes": _bayes}
