"""Mixtures of χ² distributions, which likelihood-ratio statistics have where a variance lies on the boundary."""

import math
from collections.abc import Mapping, Sequence

import scipy.stats

Mixture = Mapping[int, float]  # degrees of freedom → weight


def of_term(before: Sequence[int], after: int) -> Mixture:
    """Return what a term of so many effects adds that had blocks of these sizes before: covariances, and variances at 0.

    Half each for one further effect (Self and Liang, JASA 82, 1987; Stram and Lee, Biometrics 50, 1994). For more at once
    no simple mixture is known: χ² with all degrees of freedom, whose p is too large, never too small.
    """
    variances = after - sum(before)
    total = after * (after + 1) // 2 - sum(d * (d + 1) // 2 for d in before)
    return {total - 1: 0.5, total: 0.5} if variances == 1 and len(before) <= 1 else {total: 1.0}


def plus(a: Mixture, b: Mixture) -> Mixture:
    """Return the sum of two independent statistics."""
    out: dict[int, float] = {}
    for df, weight in a.items():
        for more, other in b.items():
            out[df + more] = out.get(df + more, 0.0) + weight * other
    return out


def p_value(statistic: float, mixture: Mixture) -> float:
    """Return the probability of a statistic that is as large or larger."""
    return float(
        sum(weight * (scipy.stats.chi2.sf(statistic, df) if df else statistic <= 0.0) for df, weight in mixture.items())
    )


def name(mixture: Mixture) -> str:
    """Return it as a formula: ½ χ²(0) + ½ χ²(1)."""
    if len(mixture) == 1:
        return f"χ²({next(iter(mixture))})"
    parts = []
    for df, weight in sorted(mixture.items()):
        numerator, denominator = weight.as_integer_ratio()
        parts.append(f"{'½' if math.isclose(weight, 0.5) else f'{numerator}/{denominator}'} χ²({df})")
    return " + ".join(parts)
