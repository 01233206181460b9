"""Estimates at one θ, and all that follows from them by the mixed-model equations."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from ..copied import copied
from ..result import Array
from . import parameters, reml
from .fit import GroupedFit
from .likelihood import Likelihood
from .solution import Solution


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class PointFit(GroupedFit):
    """A grouped model at estimated variances.

    Attributes
    ----------
    standard_theta : ndarray
        θ̂ in the standard coordinates of `data`.
    """

    standard_theta: Array

    @property
    def reml(self) -> bool:
        """Whether the restricted likelihood was maximised."""
        return self.method == "reml"

    @cached_property
    def likelihood(self) -> Likelihood:
        """The profiled deviance as a function of θ."""
        return Likelihood(self.data, self.reml)

    @property
    def n_parameters(self) -> int:
        """Fixed effects, entries of θ, and σ."""
        return len(self.fixed_names) + self.standard_theta.size + 1

    @cached_property
    def solution(self) -> Solution:
        """The mixed-model equations, solved at θ̂."""
        return Solution(self.likelihood, self.standard_theta)

    @property
    def sigma(self) -> float:
        """Residual standard deviation."""
        return self.solution.sigma

    @copied
    def theta(self) -> Array:
        """Relative Cholesky factors Λ in the units of the data, as lme4's `getME(m, "theta")`.

        Lower triangles by columns, terms in lme4's order: as written where no factor has more levels than the one before
        it, else by decreasing number of levels, of equals the last one first.
        """
        return self.likelihood.pack([_triangle(self.solution.roots[k]) for k in self.term_labels.values()])

    @copied
    def varcorr(self) -> dict[str, pd.DataFrame]:
        """Covariance matrix of the random effects of every term, as lme4's `VarCorr`."""
        found = {}
        for label, k in self.term_labels.items():
            names, root = list(self.data.design.terms[k].names), self.solution.roots[k]
            found[label] = pd.DataFrame(self.sigma**2 * root @ root.T, index=names, columns=names)
        return found

    @copied
    def fixed_effects(self) -> pd.Series:
        """β̂, by R's names."""
        return pd.Series(self.solution.beta, index=list(self.fixed_names), name="estimate")

    @copied
    def random_effects(self) -> dict[str, pd.DataFrame]:
        """E[b | y] (BLUPs) of every grouping factor, levels by effects, as lme4's `ranef`."""
        return {
            name: pd.DataFrame(
                np.hstack([self.solution.effects[k] for k in ks]),
                index=pd.Index(self.data.design.terms[ks[0]].factor.levels, name=name),
                columns=[effect for k in ks for effect in self.data.design.terms[k].names],
            )
            for name, ks in self._by_factor.items()
        }

    @copied
    def point_estimates(self) -> pd.Series:
        """All parameters but the random effects, by brms' names."""
        values = np.concatenate([self.solution.beta, parameters.values(self.solution)])
        return pd.Series(values, index=[*self.fixed_parameters, *parameters.names(self.data.design.terms)])

    @copied
    def fitted_values(self) -> pd.Series:
        """Xβ̂ + Zb̂ (+ offset), by the index of the data."""
        design = self.data.design
        values = design.X[:, list(self.data.fixed.kept)] @ self.solution.beta
        for k, term in enumerate(design.terms):
            values = values + np.einsum("ij,ij->i", term.basis, self.solution.effects[k][term.factor.codes])
        values = values if design.offset is None else values + design.offset
        return pd.Series(values, index=design.index, name="fitted")

    @copied
    def residuals(self) -> pd.Series:
        """Response less fitted values."""
        return pd.Series(
            self.data.design.y - self.fitted_values.to_numpy(), index=self.data.design.index, name="residual"
        )


def _triangle(root: Array) -> Array:
    """The lower-triangular root of root rootᵀ, whatever the units of its rows."""
    size = np.linalg.norm(root, axis=1)
    size[size == 0.0] = 1.0
    return reml.canonical(root / size[:, None], 1e-8)[0] * size[:, None]
