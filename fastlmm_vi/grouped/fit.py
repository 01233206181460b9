"""What every fit of the grouped model has, whatever the method: its data, its names, how it ended."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ..result import Status
from . import parameters
from .cross_products import CrossProducts


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class GroupedFit(ABC):
    """A grouped linear mixed model and how its fit ended.

    Attributes
    ----------
    formula, method : str
    data : CrossProducts
        What the fit stands on; `data.design` holds y, X and the random-effects terms.
    status, notes
        How the fit ended, and what else the user must know.
    timings : mapping of str to float
        Seconds by stage.
    """

    formula: str
    method: str
    data: CrossProducts
    status: Status
    notes: tuple[str, ...]
    timings: Mapping[str, float]

    @abstractmethod
    def summary(self) -> str:
        """Return the fit as text."""

    def __str__(self) -> str:
        return self.summary()

    @property
    def n(self) -> int:
        """Observations."""
        return len(self.data.design.y)

    @property
    def groups(self) -> dict[str, int]:
        """Number of levels of every grouping factor, in the order of `theta`."""
        return {name: len(self.data.design.terms[ks[0]].factor.levels) for name, ks in self._by_factor.items()}

    @property
    def fixed_names(self) -> tuple[str, ...]:
        """R's names of the columns of X that were kept."""
        return tuple(self.data.design.fixed_names[j] for j in self.data.fixed.kept)

    @property
    def fixed_parameters(self) -> list[str]:
        """Brms' names of the fixed effects."""
        return [f"b_{parameters.plain(name)}" for name in self.fixed_names]

    @property
    def converged(self) -> bool:
        """True where the method reached its end: an optimum, on the boundary or inside."""
        return self.status.converged

    @property
    def seconds(self) -> float:
        """Wall time of the whole fit."""
        return float(sum(self.timings.values()))

    @cached_property
    def term_labels(self) -> dict[str, int]:
        """Factor of every term, numbered from its second term on (Subject, Subject.1), with the term's place in the formula.

        In the order of `theta`.
        """
        terms, labels = self.data.design.terms, dict[str, int]()
        seen: Counter[str] = Counter()
        for k in parameters.order(terms):
            name = terms[k].factor.name
            labels[f"{name}.{seen[name]}" if seen[name] else name] = k
            seen[name] += 1
        return labels

    @property
    def _by_factor(self) -> dict[str, list[int]]:
        """Terms of every grouping factor, in the order of `theta`."""
        places: dict[str, list[int]] = {}
        for k in parameters.order(self.data.design.terms):
            places.setdefault(self.data.design.terms[k].factor.name, []).append(k)
        return places
