"""Every kernel compiled, or loaded from the cache, before it is needed."""

import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from .datasets import make_xyz_twin
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


def warmup() -> float:
    """Compile every kernel, or load it from numba's cache, on small problems; return the seconds it took.

    The first fit of a process otherwise carries them: some seconds where nothing is cached yet, a fraction of one
    later. Call it before timing anything, or while a server starts.

    Examples
    --------
    >>> import fastlmm_vi as fl
    >>> fl.warmup() >= 0.0
    True
    """
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # fits of a few iterations
        for n, p in SHAPES:
            data = make_xyz_twin(n=n, p=p, c=2)
            for options in FITS:
                fit = WideLMM(**options).fit(data.X, data.y, data.Z).fit_
            fit.posterior.predictive(data.X[:1])
            WideLMM().fit(data.X, data.y, data.Z, spectrum=Spectrum.of(data.X))
            _ = WideLMM().fit(data.X, data.y, data.Z).fit_.beta_var
        by_stages = in_two_stages(np.asfortranarray(data.X @ data.X.T), 4)
        by_stages[2].apply(data.X, "T")
    return time.perf_counter() - start
