"""NUTS, the no-U-turn sampler, of any log density of a few parameters.

Hoffman and Gelman (Journal of Machine Learning Research 15, 2014), as nutpie runs it, in coordinates whitened by the
curvature at the mode: the dense metric costs nothing, and a short warm-up has little left to learn.
"""

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from . import nutpie_model
from .convergence import Convergence, diagnose
from .errors import ConvergenceWarning
from .inference_data import inference_data
from .laplace import Laplace, laplace
from .log_density import LogDensity
from .result import Array, Status

STATS = {  # by ArviZ's names
    "diverging": "diverging",
    "energy": "energy",
    "logp": "lp",
    "step_size": "step_size",
    "depth": "tree_depth",
    "n_steps": "n_steps",
    "mean_tree_accept": "acceptance_rate",
}
FEWEST = 4  # draws of a chain that was stopped


@dataclass(frozen=True, eq=False)
class Chains:
    """Draws of Markov chains.

    Attributes
    ----------
    names : tuple of str
        Parameters.
    draws : ndarray (chains, draws, k)
    stats : mapping of str to ndarray (chains, draws)
        `diverging`, `energy`, `lp`, `step_size`, `tree_depth`, `n_steps`, `acceptance_rate`.
    status : Status
        CONVERGED, or INTERRUPTED, DIVERGENT, NOT_MIXED, FEW_DRAWS, the first that applies.
    notes : tuple of str
        All that apply, with figures.
    seconds : float
        Of sampling, without the search for the mode.
    """

    names: tuple[str, ...]
    draws: Array
    stats: Mapping[str, Any]
    status: Status
    notes: tuple[str, ...]
    seconds: float
    diagnostics: Convergence

    @property
    def converged(self) -> bool:
        """Whether the chains agree, without divergences, and were not stopped."""
        return self.status.converged

    @property
    def divergences(self) -> int:
        """Draws after warm-up whose trajectory diverged."""
        return int(self.stats["diverging"].sum())

    @cached_property
    def flat(self) -> Array:
        """Draws of all chains, (chains · draws, k)."""
        return self.draws.reshape(-1, self.draws.shape[2])

    def to_frame(self) -> pd.DataFrame:
        """Mean, sd, q05, q50, q95, mcse_mean, ess_bulk, ess_tail, r_hat of every parameter."""
        return frame(self.draws, self.names, self.diagnostics)

    def to_inference_data(self) -> Any:
        """The draws as ArviZ holds them, `x` by parameter, with `sample_stats`."""
        return inference_data(
            {"posterior": {"x": self.draws}, "sample_stats": self.stats},
            coords={"parameter": self.names},
            dims={"x": ["parameter"]},
            attributes={"status": self.status.value, "sampling_time": self.seconds},
        )


def frame(draws: Array, names: Sequence[str], diagnostics: Convergence) -> pd.DataFrame:
    """Table of draws (chains, draws, k) by name."""
    flat = draws.reshape(-1, draws.shape[2])
    q05, q50, q95 = np.quantile(flat, [0.05, 0.5, 0.95], axis=0)
    columns = {"mean": flat.mean(axis=0), "sd": flat.std(axis=0, ddof=1), "q05": q05, "q50": q50, "q95": q95}
    return pd.DataFrame(columns | diagnostics._asdict(), index=pd.Index(list(names), name="parameter"))


def nuts(
    density: LogDensity,
    start: ArrayLike,
    *,
    normal: Laplace | None = None,
    draws: int = 1000,
    tune: int = 200,
    chains: int = 4,
    target_accept: float = 0.8,
    max_depth: int = 10,
    cores: int | None = None,
    random_state: int | np.random.Generator | None = None,
    to: Callable[[Array], Array] | None = None,
    show: Callable[[str], None] | None = None,
) -> Chains:
    """Sample a log density by NUTS.

    Parameters
    ----------
    density : LogDensity
        Over all of R^k; one with an `address` runs without Python, chains in parallel.
    start : array-like (k,)
        Where the search for the mode begins.
    normal : Laplace, optional
        The approximation at the mode, where it is already known.
    draws, tune : int, default 1000, 200
        Draws kept of every chain, and draws before them that adapt step size and metric.
    chains : int, default 4
    target_accept : float, default 0.8
        Mean acceptance rate that the step size aims at; larger where trajectories diverge.
    max_depth : int, default 10
        A trajectory has up to 2^max_depth steps.
    cores : int, optional
        Chains that run at once, default as many as there are processors; draws do not depend on it.
    random_state : int, Generator or None
    to : callable, optional
        Rows of x -> rows of what is returned and judged, where the density is that of other coordinates.
    show : callable, optional
        Called with a line of progress, now and then.

    Returns
    -------
    Chains
        After Ctrl-C, the draws so far.

    Raises
    ------
    ImportError
        If nutpie or ArviZ is not installed.
    IntegrationError
        If the density has no mode.

    Warns
    -----
    ConvergenceWarning
        If trajectories diverged, chains disagree (R-hat 1.01 or more), the effective sample size is below 400, or it was
        interrupted.

    Examples
    --------
    >>> import numpy as np
    >>> from fastlmm_vi.log_density import Differenced
    >>> from fastlmm_vi.sampler import nuts
    >>> density = Differenced(lambda x: 3.0 * x[0] - np.exp(x[0]), ["log_rate"])
    >>> chains = nuts(density, [0.0], random_state=0)
    >>> chains.draws.shape, chains.converged
    ((4, 1000, 1), True)
    """
    _check(draws=draws, tune=tune, chains=chains, max_depth=max_depth)
    if not 0.0 < target_accept < 1.0:
        raise ValueError(f"target_accept={target_accept}: give a rate between 0 and 1, such as 0.8 or 0.95.")
    nutpie = nutpie_model.import_nutpie()
    rng = np.random.default_rng(random_state)
    normal = laplace(density, start) if normal is None else normal
    model = nutpie_model.model(density, normal.mode, normal.root, _Start(density, normal), _line(show))
    begin = time.perf_counter()
    running = nutpie.sample(
        model,
        draws=draws,
        tune=tune,
        chains=chains,
        cores=min(chains, os.cpu_count() or 1) if cores is None else cores,
        seed=int(rng.integers(2**63)),
        save_warmup=False,
        progress_bar=False,
        blocking=False,
        target_accept=target_accept,
        maxdepth=max_depth,
    )
    interrupted = False
    try:
        trace = running.wait()
    except KeyboardInterrupt:
        trace, interrupted = running.abort(), True
    found, stats = _arrays(trace)
    if found.shape[1] < FEWEST:
        raise KeyboardInterrupt
    found = found if to is None else to(found.reshape(-1, found.shape[2])).reshape(found.shape)
    diagnostics = diagnose(found)
    status, notes = _judge(diagnostics, int(stats["diverging"].sum()), interrupted, found.shape)
    for note in notes:
        warnings.warn(note, ConvergenceWarning, stacklevel=2)
    return Chains(
        names=tuple(density.names),
        draws=found,
        stats=stats,
        status=status,
        notes=tuple(notes),
        seconds=time.perf_counter() - begin,
        diagnostics=diagnostics,
    )


def _check(**counts: int) -> None:
    for name, value in counts.items():
        if not isinstance(value, int) or value < (FEWEST if name == "draws" else 1):
            raise ValueError(
                f"{name}={value!r} is not a count that can be used: give a whole number, such as the default."
            )


class _Start:
    """Where a chain begins: a draw of the normal approximation, drawn in where there is no density."""

    def __init__(self, density: LogDensity, normal: Laplace) -> None:
        self.density, self.normal = density, normal

    def __call__(self, seed: int) -> Array:
        z = np.random.default_rng(seed).standard_normal(self.density.dim)
        for _ in range(60):
            value, gradient = self.density.logp_grad(self.normal.mode + self.normal.root @ z)
            if np.isfinite(value) and np.isfinite(gradient).all():
                break
            z *= 0.7
        return z


def _line(show: Callable[[str], None] | None) -> nutpie_model.Report | None:
    """A report of counts as a line of text."""
    if show is None:
        return None
    return lambda made, total, divergences: show(f"nuts, {made} of {total} draws, {divergences} divergences")


def _arrays(trace: Any) -> tuple[Array, dict[str, Any]]:
    """Draws and statistics of chains of equal length: of chains that were stopped, what those have that came half as far."""
    draws = np.asarray(trace["posterior"]["x"].values, dtype=np.float64)
    made = np.isfinite(draws).all(axis=2).sum(axis=1)
    kept = made >= max(0.5 * made.max(initial=0), 1)
    length = int(made[kept].min()) if kept.any() else 0
    stats = {ours: trace["sample_stats"][theirs].values[kept, :length] for theirs, ours in STATS.items()}
    return draws[kept, :length], stats


def _judge(found: Convergence, divergences: int, interrupted: bool, shape: tuple[int, ...]) -> tuple[Status, list[str]]:
    """How the run ended, and all that is to be said about it."""
    causes = []
    if interrupted:
        causes.append((Status.INTERRUPTED, f"{shape[0]} chains of {shape[1]} draws"))
    if divergences:
        causes.append((Status.DIVERGENT, f"{divergences} of {shape[0] * shape[1]} trajectories"))
    if not found.mixed:
        causes.append((Status.NOT_MIXED, f"largest R-hat {found.r_hat.max():.3f}"))
    if not found.enough:
        causes.append((Status.FEW_DRAWS, f"smallest {min(found.ess_bulk.min(), found.ess_tail.min()):.0f}"))
    notes = [f"{status.advice} ({figure})" for status, figure in causes]
    return (causes[0][0] if causes else Status.CONVERGED), notes
