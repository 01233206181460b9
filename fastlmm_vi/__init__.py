"""Linear mixed models that are wide, fast and honest about their uncertainty.

`WideLMM` fits y = Zω + Xβ + e, β ~ N(0, σ²_β I), e ~ N(0, σ²_e I): covariates Z with fixed effects ω, wide features X
with random effects β; `BayesWideLMM` gives all of it a posterior. `lmm` fits y = Xβ + Σ Z_l b_l + ε from an lme4
formula. `compare` sets fits side by side, `datasets` holds the data, `priors` what is known before them, `plot_*`
draw. The names below are imported on first use, so that `import fastlmm_vi` itself costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    import fastlmm_vi_kernels as kernels

    from . import datasets, priors
    from .comparison import compare
    from .compilation import warmup
    from .errors import (
        ConvergenceWarning,
        DataError,
        FitWarning,
        FormulaError,
        IntegrationError,
        UnboundedLikelihoodError,
    )
    from .files import load
    from .grouped.bayes_result import BayesFit
    from .grouped.chain_plots import plot_chains, plot_pairs, plot_ranks
    from .grouped.cross_products import CrossProducts
    from .grouped.lrt import lrt
    from .grouped.mean_field_result import MeanFieldFit
    from .grouped.model import lmm
    from .grouped.plots import (
        plot_accuracy,
        plot_caterpillar,
        plot_elbo,
        plot_posterior,
        plot_profile,
        plot_residuals,
    )
    from .grouped.result import MixedFit
    from .grouped.sampled_result import SampledFit
    from .plots import (
        plot_compare,
        plot_gap,
        plot_marginals,
        plot_omega,
        plot_trace,
        plot_variance_path,
        plot_variances,
    )
    from .result import Fit, Status, Trace
    from .wide.bayes_estimator import BayesWideLMM
    from .wide.estimator import WideLMM
    from .wide.spectrum import Spectrum

_HOMES = {
    "WideLMM": ".wide.estimator",
    "BayesWideLMM": ".wide.bayes_estimator",
    "Spectrum": ".wide.spectrum",
    "lmm": ".grouped.model",
    "BayesFit": ".grouped.bayes_result",
    "MixedFit": ".grouped.result",
    "SampledFit": ".grouped.sampled_result",
    "MeanFieldFit": ".grouped.mean_field_result",
    "CrossProducts": ".grouped.cross_products",
    "lrt": ".grouped.lrt",
    "plot_caterpillar": ".grouped.plots",
    "plot_chains": ".grouped.chain_plots",
    "plot_pairs": ".grouped.chain_plots",
    "plot_ranks": ".grouped.chain_plots",
    "plot_elbo": ".grouped.plots",
    "plot_posterior": ".grouped.plots",
    "plot_accuracy": ".grouped.plots",
    "plot_profile": ".grouped.plots",
    "plot_residuals": ".grouped.plots",
    "Fit": ".result",
    "Status": ".result",
    "Trace": ".result",
    "load": ".files",
    "warmup": ".compilation",
    "compare": ".comparison",
    "plot_compare": ".plots",
    "plot_gap": ".plots",
    "plot_marginals": ".plots",
    "plot_variance_path": ".plots",
    "plot_omega": ".plots",
    "plot_trace": ".plots",
    "plot_variances": ".plots",
    "ConvergenceWarning": ".errors",
    "FitWarning": ".errors",
    "DataError": ".errors",
    "FormulaError": ".errors",
    "IntegrationError": ".errors",
    "UnboundedLikelihoodError": ".errors",
}
_MODULES = {"datasets": ".datasets", "priors": ".priors", "kernels": "fastlmm_vi_kernels"}

__all__ = [  # noqa: RUF022 - in reading order
    "WideLMM",
    "BayesWideLMM",
    "Spectrum",
    "lmm",
    "BayesFit",
    "SampledFit",
    "MeanFieldFit",
    "MixedFit",
    "CrossProducts",
    "lrt",
    "Fit",
    "Status",
    "Trace",
    "load",
    "warmup",
    "compare",
    "plot_compare",
    "plot_omega",
    "plot_trace",
    "plot_gap",
    "plot_variance_path",
    "plot_variances",
    "plot_marginals",
    "plot_posterior",
    "plot_elbo",
    "plot_accuracy",
    "plot_caterpillar",
    "plot_chains",
    "plot_pairs",
    "plot_ranks",
    "plot_residuals",
    "plot_profile",
    "ConvergenceWarning",
    "FitWarning",
    "DataError",
    "FormulaError",
    "IntegrationError",
    "UnboundedLikelihoodError",
    "priors",
    "datasets",
    "kernels",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = importlib.import_module(_MODULES[name], __name__)
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
