"""A posterior of the grouped model as ArviZ holds it."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..inference_data import inference_data
from . import pointwise
from .draws import Draws
from .parameters import plain

if TYPE_CHECKING:
    from .bayes_result import BayesFit

TAKEN = ("chain", "draw", "obs")  # dimensions that a grouping factor cannot give its name to


def of(
    fit: "BayesFit", draws: Draws, chains: int, rng: np.random.Generator, sample_stats: dict[str, Any] | None = None
) -> Any:
    """See `BayesFit.to_inference_data`; the draws are those of all chains, one after the other."""
    design, size = fit.data.design, len(draws.parameters["sigma"])
    shape = chains, size // chains
    posterior = {name: values.reshape(shape) for name, values in draws.parameters.items()}
    dims, coords = {}, {"obs": list(design.index)}
    for name, ks in fit._by_factor.items():
        effects = np.concatenate([draws.effects[k] for k in ks], axis=2)
        posterior[f"r_{name}"] = effects.reshape(*shape, *effects.shape[1:])
        levels = f"{name}_level" if name in TAKEN else name
        dims[f"r_{name}"] = [levels, f"{name}_effect"]
        coords[levels] = list(design.terms[ks[0]].factor.levels)
        coords[f"{name}_effect"] = [plain(effect) for k in ks for effect in design.terms[k].names]
    mean = pointwise.predictor(fit.data, draws)
    weights = np.ones(fit.n) if design.weights is None else design.weights
    noise = draws.parameters["sigma"][:, None] / np.sqrt(weights) * rng.standard_normal(mean.shape)
    dims[design.response] = ["obs"]
    groups: dict[str, dict[str, Any]] = {
        "posterior": posterior,
        "posterior_predictive": {design.response: (mean + noise).reshape(*shape, -1)},
        "log_likelihood": {design.response: pointwise.log_density(fit.data, draws).reshape(*shape, -1)},
        "observed_data": {design.response: design.y},
    }
    if sample_stats:
        groups["sample_stats"] = sample_stats
    if len(fit.trace):
        groups["constant_data"] = {"elbo": fit.trace["elbo"].to_numpy()}
        dims["elbo"], coords["iteration"] = ["iteration"], fit.trace["iteration"].tolist()
    about = {"formula": fit.formula, "method": fit.method, "factorisation": fit.factorisation or "none"}
    numbers = {"elbo": fit.elbo, "log_evidence": fit.log_evidence}
    return inference_data(
        groups,
        coords=coords,
        dims=dims,
        attributes=about | {name: value for name, value in numbers.items() if value is not None},
    )
