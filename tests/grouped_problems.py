"""Random grouped data of every shape, with the dense matrices of the same model, and the reference models."""

import json
from typing import NamedTuple

import naive
import numpy as np
import pandas as pd
from problems import REFERENCES, SHARED

DATA = SHARED / "data"


class Grouped(NamedTuple):
    formula: str
    frame: pd.DataFrame
    weights: np.ndarray | None


def draw(seed):
    """One to three factors, crossed or nested, d = 1 … 4 effects a level, unbalanced, with combinations that do not occur."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(60, 140))
    frame = pd.DataFrame(
        {f"x{j}": rng.normal(size=n) * 3.0 ** rng.integers(-2, 3) + 5 * rng.normal() for j in range(4)}
    )
    terms, y = [], rng.normal(size=n)
    names = "abc"[: rng.integers(1, 4)]
    for k, name in enumerate(names):
        parent = names[k - 1] if k and rng.random() < 0.4 else None
        levels = int(rng.integers(3, 8))
        share = rng.dirichlet(np.full(levels, 2.0))  # unbalanced
        codes = rng.choice(levels, n, p=share)
        frame[name] = [f"{name}{code}" for code in codes]
        if parent:
            frame[name] = frame[parent] + "." + frame[name]
        d = int(rng.integers(1, 5 if len(names) == 1 else 3))
        columns = " + ".join(f"x{j}" for j in range(d - 1))
        bars = "||" if d > 1 and rng.random() < 0.3 else "|"
        terms.append(f"(1 + {columns} {bars} {name})" if d > 1 else f"(1 | {name})")
        known = {label: rng.normal(size=d) for label in frame[name].unique()}
        basis = np.column_stack([np.ones(n), *(standard(frame[f"x{j}"]) for j in range(d - 1))])
        y = y + np.einsum("ij,ij->i", basis, np.array([known[label] for label in frame[name]]))
    p = int(rng.integers(0, 4))
    frame["y"] = y + frame[[f"x{j}" for j in range(p)]].sum(axis=1)
    fixed = " + ".join(["1", *(f"x{j}" for j in range(p))])
    weights = rng.uniform(0.3, 3.0, n) if rng.random() < 0.4 else None
    return Grouped(f"y ~ {fixed} + {' + '.join(terms)}", frame, weights)


def standard(column):
    return (column - column.mean()) / column.std()


def dense(design, roots):
    """naive.Grouped of a design, with G = root rootᵀ (relative to σ²) of every term."""
    columns, covariances = [], []
    for k, term in enumerate(design.terms):
        levels = len(term.factor.levels)
        Z = np.zeros((len(design.y), levels * len(term.names)))
        for i, code in enumerate(term.factor.codes):
            Z[i, code * len(term.names) : (code + 1) * len(term.names)] = term.basis[i]
        columns.append(Z)
        covariances.append(np.kron(np.eye(levels), roots[k] @ roots[k].T))
    weights = np.ones(len(design.y)) if design.weights is None else design.weights
    return naive.Grouped(design.y, design.X, columns, covariances, weights)


def reference_models():
    """id → block of `grouped_ml_reml.json`."""
    return json.loads((REFERENCES / "grouped_ml_reml.json").read_text())["models"]


def reference_frame(model):
    """The data of a reference model, factors with their levels in R's order."""
    frame = pd.read_csv(DATA / "lme4" / f"{model['dataset']}.csv")
    for column, levels in model["factor_levels_in_order"].items():
        frame[column] = pd.Categorical(frame[column].astype(str), categories=[str(level) for level in levels])
    return frame


def make(groups=30, size=8, sd=(1.0, 0.5), seed=0):
    """y = 2 + 0.5 x + intercept and slope by group + N(0, 1)."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), size)
    x = rng.normal(size=g.size)
    b = rng.normal(size=(groups, 2)) * sd
    y = 2.0 + 0.5 * x + b[g, 0] + b[g, 1] * x + rng.normal(size=g.size)
    return pd.DataFrame({"y": y, "x": x, "g": [f"g{i:02d}" for i in g]})
