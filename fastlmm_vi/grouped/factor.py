"""Factors: labels as integer codes, in the order of a Categorical or else sorted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..errors import DataError

Codes = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Factor:
    """A factor: row i has the label `levels[codes[i]]`.

    Attributes
    ----------
    name : str
        As lme4 prints it: "Subject", "a:b", "cask:batch" for (1 | batch/cask).
    levels : Index (J,)
        Labels that occur. In the order of a Categorical, else sorted; of an interaction "x:y", the first factor slowest.
    codes : ndarray (n,)
    ordered : bool
        Whether the levels are steps of a scale, as those of an ordered Categorical.
    """

    name: str
    levels: pd.Index
    codes: Codes
    ordered: bool = False

    @property
    def labels(self) -> list[str]:
        """Levels as R prints them, (J,): 1.0 is "1", True is "TRUE", a day has no time."""
        if self.levels.inferred_type == "boolean":  # bool, the nullable boolean, or objects
            return ["TRUE" if level else "FALSE" for level in self.levels]
        if self.levels.dtype.kind == "M":
            return list(self.levels.astype(str))
        if self.levels.dtype.kind == "f":
            return [f"{level:.15g}" for level in self.levels]
        return [str(level) for level in self.levels]

    def recode(self, levels: pd.Index) -> Codes:
        """Codes in another set of levels, (n,); −1 for a label that is not in it."""
        if self.levels is levels:
            return self.codes
        return levels.get_indexer(self.levels).astype(np.intp, copy=False)[self.codes]


def listed(labels: Sequence[str], most: int = 3) -> str:
    """First labels, for a message."""
    return ", ".join(labels[:most]) + (", …" if len(labels) > most else "")


def encode(values: Any, name: str) -> Factor:
    """Factor of labels without missing ones, (n,): a Categorical's levels that occur, else the sorted labels.

    Raises
    ------
    DataError
        If labels cannot be sorted.
    """
    if isinstance(values, pd.Categorical):
        codes = np.asarray(values.codes, dtype=np.intp)
        return without_unused(Factor(name, values.categories, codes, bool(values.ordered)))
    try:
        codes, levels = pd.factorize(values, sort=True)
    except TypeError as unordered:
        raise DataError(
            f"{name} mixes labels that have no common order ({unordered}): make them all text, e.g. "
            f"data[{name!r}] = data[{name!r}].astype(str)."
        ) from unordered
    return Factor(name, pd.Index(levels), codes.astype(np.intp, copy=False))


def without_unused(factor: Factor) -> Factor:
    """Drop the levels that do not occur."""
    present = np.bincount(factor.codes, minlength=len(factor.levels)) > 0
    if present.all():
        return factor
    return replace(factor, levels=factor.levels[present], codes=(np.cumsum(present) - 1)[factor.codes])


def same_groups(one: Factor, other: Factor) -> bool:
    """Whether two factors without unused levels differ in their labels only."""
    if len(one.levels) != len(other.levels):
        return False
    partner = np.zeros(len(one.levels), dtype=np.intp)
    partner[one.codes] = other.codes
    return bool((partner[one.codes] == other.codes).all())


def cross(factors: Sequence[Factor], name: str, separator: str = ":", *, first_slowest: bool = True) -> Factor:
    """Interaction of factors: combinations that occur, labelled "x:y".

    `first_slowest` orders the levels as R's a:b does; R's interaction(a, b) has the first factor vary fastest.

    Raises
    ------
    DataError
        If two combinations have the same label.
    """
    codes = np.zeros_like(factors[0].codes)
    for factor in factors if first_slowest else factors[::-1]:
        codes = pd.factorize(codes * len(factor.levels) + factor.codes, sort=True)[0].astype(np.intp, copy=False)
    row = np.empty(codes.max(initial=-1) + 1, dtype=np.intp)  # one in which the combination occurs
    row[codes] = np.arange(codes.size)
    texts = [np.array(factor.labels, dtype=object)[factor.codes[row]] for factor in factors]
    levels = pd.Index([separator.join(combination) for combination in zip(*texts, strict=True)])
    if not levels.is_unique:
        twice = levels[levels.duplicated()][0]
        raise DataError(f"{name}: two combinations of labels read {twice!r}. Rename levels that hold {separator!r}.")
    return Factor(name, levels, codes)
