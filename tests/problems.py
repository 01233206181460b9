"""Small random problems of every shape the methods must handle, and the loaders of the reference sets."""

import importlib.util
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
REFERENCES = SHARED / "references"
needs_references = pytest.mark.skipif(
    not REFERENCES.is_dir(), reason="the reference values lie beside the checkout on development machines only"
)
needs_bayes = pytest.mark.skipif(
    importlib.util.find_spec("nutpie") is None, reason="ArviZ and nutpie are of the extra bayes, which tests install"
)


class Problem(NamedTuple):
    y: np.ndarray
    Z: np.ndarray  # with its intercept column where there is one
    X: np.ndarray


def draw(seed, n, p, c, *, signal=0.5, rank=None, constant_column=False, scale=1.0):
    """y = Zω + Xβ + e with share `signal` of variance from X; optionally X of lower rank or with a constant column."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    if rank is not None:
        X = X[:, :rank] @ rng.normal(size=(rank, p)) / np.sqrt(rank)
    if constant_column:
        X[:, 0] = 2.0
    X *= scale
    Z = np.column_stack([np.ones(n), rng.normal(size=(n, max(c - 1, 0)))])[:, :c]
    noise = rng.normal(size=n) * np.sqrt(1 - signal)
    y = Z @ rng.normal(size=c) + X @ rng.normal(size=p) * np.sqrt(signal / (p * scale**2)) + noise
    return Problem(y, Z, X)


PROBLEMS = {
    "wide": draw(1, 40, 90, 3),
    "tall": draw(2, 80, 20, 2),
    "square": draw(3, 30, 30, 1),
    "one_feature": draw(4, 30, 1, 2, signal=0.7),
    "no_covariates": draw(5, 40, 60, 0),
    "rank_deficient_wide": draw(6, 40, 70, 2, rank=12),
    "rank_deficient_tall": draw(7, 60, 20, 2, rank=5),
    "constant_column": draw(8, 40, 60, 2, constant_column=True),
    "small_units": draw(9, 40, 90, 3, scale=1e-3),
}
SETS = ("w1_wide", "w2_tall", "w4_null")


def reference(name):
    """(y, Z, X) in float64, the JSON block and the arrays of one reference set."""
    data = np.load(REFERENCES / "wide" / f"{name}.npz")
    block = json.loads((REFERENCES / "wide.json").read_text())["datasets"][name]
    arrays = np.load(REFERENCES / "wide" / f"{name}_ref.npz")
    return Problem(*(data[k].astype(np.float64) for k in "yZX")), block, arrays
