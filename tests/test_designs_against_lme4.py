"""Designs that R and lme4 make of the same formulas and data (tests/lme4/designs.R made the numbers)."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fastlmm_vi.grouped.model_frame import build

VALUES = json.loads((Path(__file__).parent / "lme4" / "designs.json").read_text())
DATA = pd.DataFrame(VALUES["data"]).assign(day=lambda d: pd.to_datetime(d["day"]))
for size in range(2, 8):
    labels = [f"l{i}" for i in range(1, size + 1)]
    DATA[f"o{size}"] = pd.Categorical(DATA[f"o{size}"], labels, ordered=True)


def probe(columns):
    """What stands for a column in the file: its product with (sin 1, sin 2, …)."""
    return np.sin(np.arange(1, len(columns) + 1)) @ columns


def random_columns(term):
    """Z of a term (n, levels · effects), dense."""
    indicators = np.eye(len(term.factor.levels))[term.factor.codes]
    return np.einsum("ij,ik->ijk", indicators, term.basis).reshape(len(indicators), -1)


def check_columns(found, expected):
    """Columns are of order 1, their products sums of some 80 such numbers, in 14 digits."""
    np.testing.assert_allclose(probe(found), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("expected", VALUES["designs"], ids=lambda design: design["formula"])
def test_design(expected):
    design = build(expected["formula"], DATA, missing="drop")
    assert len(design.y) == expected["n"]
    assert design.n_missing == len(DATA) - expected["n"]
    assert list(design.fixed_names) == expected["names"]
    check_columns(design.X, expected["X"])
    check_columns(design.y, expected["y"])
    check_columns(np.zeros(len(design.y)) if design.offset is None else design.offset, expected["offset"])
    assert sorted((term.factor.name, term.names) for term in design.terms) == sorted(
        (term["group"], tuple(term["effects"])) for term in expected["terms"]
    )
    by_name = {(term.factor.name, term.names): term for term in design.terms}
    for known in expected["terms"]:
        term = by_name[known["group"], tuple(known["effects"])]
        assert term.factor.labels == known["levels"]
        check_columns(random_columns(term), known["Z"])
