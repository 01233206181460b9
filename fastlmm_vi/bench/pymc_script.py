"""PyMC's and Bambi's side of `fastlmm-vi bench variational`, run by the Python of an environment of its own.

Requests come on standard input, answers go to standard output after "=> ", a line of JSON each. It imports nothing of this
package, and PyMC and Bambi only when it runs. Seconds begin with the data in memory and everything imported, and end with
q; those of the processor include the compilers that PyTensor starts.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ANSWER = "=> "
DRAWS = 1000  # of q, whose importance weights are returned


def clocks() -> tuple[float, float]:
    """Seconds on the wall, and of the processor, this process's children included."""
    return time.perf_counter(), time.process_time() + sum(os.times()[2:4])


class Watch:
    """Seconds of what runs within it, summed up."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Take the time."""
        wall, cpu = clocks()
        try:
            yield
        finally:
            self.wall += clocks()[0] - wall
            self.cpu += clocks()[1] - cpu

    @property
    def seconds(self) -> dict[str, float]:
        """By name."""
        return {"wall": self.wall, "cpu": self.cpu}


def columns(request: dict[str, Any]) -> Any:
    """The data as a frame, grouping factors as text."""
    import pandas as pd

    frame = pd.DataFrame(request["data"])
    return frame.astype({term["group"]: str for term in request["terms"]})


def pymc_model(request: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """Return the model as PyMC's users write it, effects not centred, and our names of its single numbers."""
    import numpy as np
    import pymc as pm

    frame = columns(request)
    names = {"sigma": "sigma"}
    with pm.Model() as model:
        mean: Any = 0.0
        for effect, (location, scale) in request["beta"].items():
            names[f"b_{effect}"] = f"b_{effect}"
            x = 1.0 if effect == "Intercept" else frame[effect].to_numpy(float)
            mean = mean + pm.Normal(f"b_{effect}", location, scale) * x
        for term in request["terms"]:
            group, effects = term["group"], term["effects"]
            level, codes = np.unique(frame[group], return_inverse=True)
            basis = [1.0 if effect == "Intercept" else frame[effect].to_numpy(float) for effect in effects]
            if len(effects) == 1:
                sd = f"sd_{group}__{effects[0]}"
                names[sd] = sd
                z = pm.Normal(f"z_{sd}", 0.0, 1.0, shape=len(level))
                mean = mean + (pm.HalfNormal(sd, term["sd"]) * z)[codes] * basis[0]
                continue
            d = len(effects)
            root, _, _ = pm.LKJCholeskyCov(
                "root", n=d, eta=1.0, sd_dist=pm.HalfNormal.dist(term["sd"], shape=d), compute_corr=True
            )
            z = pm.Normal("z", 0.0, 1.0, shape=(len(level), d))
            b = z @ root.T
            mean = mean + sum(b[codes, j] * x for j, x in enumerate(basis))
        pm.Normal(
            "y", mean, pm.HalfNormal("sigma", request["sigma"]), observed=frame[request["response"]].to_numpy(float)
        )
    return model, names


def bambi_model(request: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """Return Bambi's model from its formula, built, and our names of its single numbers."""
    import bambi

    def half(scale: float) -> Any:
        return bambi.Prior("HalfNormal", sigma=scale)

    priors = {effect: bambi.Prior("Normal", mu=at, sigma=sd) for effect, (at, sd) in request["beta"].items()}
    priors["sigma"] = half(request["sigma"])
    names = {"sigma": "sigma"} | {effect: f"b_{effect}" for effect in request["beta"]}
    for term in request["terms"]:
        (effect,) = term["effects"]
        own = f"{'1' if effect == 'Intercept' else effect}|{term['group']}"
        priors[own] = bambi.Prior("Normal", mu=0.0, sigma=half(term["sd"]))
        names[f"{own}_sigma"] = f"sd_{term['group']}__{effect}"
    model = bambi.Model(request["bambi"], columns(request), priors=priors, center_predictors=False)
    model.build()
    return model, names


def options(request: dict[str, Any]) -> dict[str, Any]:
    """What `pm.fit` is told: nothing but the seed where everything is as it comes."""
    import pymc as pm

    given: dict[str, Any] = {"random_seed": request["seed"], "progressbar": False, "method": request["method"]}
    if request["steps"] is None:
        return given
    return given | {"n": request["steps"], "obj_optimizer": pm.adam(learning_rate=request["rate"])}


def run_pymc(request: dict[str, Any]) -> tuple[Any, Any, dict[str, str]]:
    """Fit by PyMC; return q, the model, and names."""
    import pymc as pm

    model, names = pymc_model(request)
    with model:
        return pm.fit(**options(request)), model, names


def run_bambi(request: dict[str, Any]) -> tuple[Any, Any, dict[str, str]]:
    """Fit by Bambi; return q, the model, and names."""
    model, names = bambi_model(request)
    return model.fit(inference_method="vi", **options(request)), model.backend.model, names


@contextmanager
def compilation(watch: Watch) -> Iterator[None]:
    """Take the time in which the step of the optimiser is derived and compiled."""
    from pymc.variational.opvi import ObjectiveFunction

    plain: Callable[..., Any] = ObjectiveFunction.step_function

    def watched(*arguments: Any, **named: Any) -> Any:
        with watch.running():
            return plain(*arguments, **named)

    ObjectiveFunction.step_function = watched
    try:
        yield
    finally:
        ObjectiveFunction.step_function = plain


def fit(request: dict[str, Any]) -> dict[str, Any]:
    """Fit once; return seconds, q, and the log importance weights of draws of it."""
    whole, compiling = Watch(), Watch()
    with compilation(compiling), whole.running():
        q, model, names = {"pymc": run_pymc, "bambi": run_bambi}[request["package"]](request)
    parts = {f"compile_{name}": value for name, value in compiling.seconds.items()}
    return {**whole.seconds, **parts, **found(q, model, names, request)}


def excess(model: Any, scale: float) -> float:
    """By how much the log density of a covariance matrix of two effects lies above that of its prior, LKJ(1) and half-normal.

    PyMC 5.28 adds the logarithm of LKJ's integral, log 2, where it is to be subtracted (its issue 1042): an ELBO would be
    log 4 too high.
    """
    import numpy as np

    at = model.initial_point() | {
        "root_cholesky-cov-packed__": np.zeros(3)
    }  # standard deviations 1, correlation 0, Jacobian 1
    half = 0.5 * np.log(2.0 / np.pi) - np.log(scale) - 0.5 / scale**2
    return float(model.compile_logp(vars=[model["root"]])(at) - (2.0 * half - np.log(2.0)))


def found(q: Any, model: Any, names: dict[str, str], request: dict[str, Any]) -> dict[str, Any]:
    """Return normal distributions of coordinates without bounds, by our names, and log weights p / q of draws."""
    import numpy as np

    (group,) = q.groups
    mean, cov = q.mean.eval(), np.atleast_2d(q.cov.eval())
    where = {name: (part[1], part[2]) for name, part in group.ordering.items()}
    plain: dict[str, list[float]] = {}
    logs: dict[str, list[float]] = {}
    for own, name in names.items():
        (at, _), to = (where[own], plain) if own in where else (where[f"{own}_log__"], logs)
        to[name] = [float(mean[at][0]), float(np.sqrt(np.diag(cov)[at][0]))]
    roots = [at for own, (at, _) in where.items() if own == "root_cholesky-cov-packed__"]
    half = np.linalg.cholesky(cov)
    log_p = model.compile_logp()
    rng, weights = np.random.default_rng(request["seed"]), []
    above = excess(model, request["terms"][0]["sd"]) if roots else 0.0
    constant = above - 0.5 * len(mean) * np.log(2.0 * np.pi) - np.log(np.diag(half)).sum()
    for _ in range(DRAWS):
        z = rng.standard_normal(len(mean))
        x = mean + half @ z
        at_x = log_p({own: x[at].reshape(shape) for own, (at, shape) in where.items()})
        weights.append(float(at_x) - float(constant - 0.5 * z @ z))
    return {
        "normal": plain,
        "log_normal": logs,
        "root": {"mean": mean[roots[0]].tolist(), "cov": cov[roots[0], roots[0]].tolist()} if roots else None,
        "log_weights": weights,
        "loss": float(np.mean(q.hist[-1000:])),
    }


def versions() -> dict[str, Any]:
    """Import everything; return the versions, and the seconds that it took."""
    watch = Watch()
    with watch.running():
        import bambi
        import pymc
        import pytensor
    return {
        "versions": {"pymc": pymc.__version__, "bambi": bambi.__version__, "pytensor": pytensor.__version__},
        "import_wall": watch.wall,
        "import_cpu": watch.cpu,
    }


def main() -> None:
    """Answer requests until there are no more."""
    import logging

    def answer(content: dict[str, Any]) -> None:
        sys.stdout.write(f"{ANSWER}{json.dumps(content)}\n")
        sys.stdout.flush()

    answer(versions())
    logging.getLogger("pymc").setLevel(logging.WARNING)
    for line in sys.stdin:
        try:
            answer(fit(json.loads(line)))
        except Exception as error:
            answer({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
