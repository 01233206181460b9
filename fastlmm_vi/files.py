"""Fits read back from files, whichever wing they are of."""

import json
import zipfile
from pathlib import Path

import numpy as np

from .grouped.result import MixedFit
from .result import Fit, read_fit


def load(path: str | Path) -> Fit | MixedFit:
    """Read a fit that `Fit.save` or `MixedFit.save` wrote.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Fit or MixedFit
        With the same numbers. A `Fit` predicts means only, as correlations between its effects were not kept; a
        `MixedFit`, whose file holds the columns it was fitted to, does all it did.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ValueError
        If the file is no such fit.

    Examples
    --------
    >>> import tempfile, numpy as np, fastlmm_vi as fl
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(50, 80))
    >>> fit = fl.WideLMM().fit(X, X[:, 0] + rng.normal(size=50)).fit_
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = fl.load(fit.save(f"{folder}/fit.npz"))
    >>> again.loglik == fit.loglik
    True
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist: give the path that Fit.save or MixedFit.save returned.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a fit written by Fit.save or MixedFit.save.")
    with np.load(Path(path), allow_pickle=False) as archive:
        if "header" not in archive:
            raise ValueError(f"{path} is a numpy archive, but not a fit written by Fit.save or MixedFit.save.")
        kind = json.loads(str(archive["header"])).get("kind")
    return MixedFit.read(path) if kind == "grouped" else read_fit(path)
