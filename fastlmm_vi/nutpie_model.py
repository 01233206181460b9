"""A log density as nutpie takes it: a compiled one by its address, any other as a Python function.

nutpie's road by address is private (`nutpie._lib`) and changes with its versions: the range in the extra `bayes` was tried at
both ends. Where a version lacks it, the Python function is used, 20 µs a step slower.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from fastlmm_vi_kernels import whitened

from .inference_data import import_arviz
from .log_density import LogDensity
from .result import Array

PRIVATE = ("LogpFunc", "ExpandFunc", "PyMcModel", "PyVariable", "PySampler", "ProgressType")
PROGRESS = "{{ total_finished_draws }} {{ total_draws }} {% for chain in chains %}{{ chain.divergences }} {% endfor %}"
EVERY = 200  # milliseconds between reports
Start = Callable[[int], Array]
Report = Callable[[int, int, int], None]


class NoDensityError(ValueError):
    """Raised where a density is 0: nutpie ends the trajectory there."""

    is_recoverable = True


def import_nutpie() -> ModuleType:
    """Return nutpie.

    Raises
    ------
    ImportError
        If it is not installed; the message names the extra.
    """
    import_arviz()  # nutpie imports it, and would pass its warnings on
    try:
        import nutpie
    except ImportError as error:
        raise ImportError('method="nuts" needs nutpie: pip install "fastlmm_vi[bayes]".') from error
    return nutpie


def has_address_road(nutpie: ModuleType) -> bool:
    """Whether this version takes a density by its address."""
    return all(hasattr(nutpie._lib, name) for name in PRIVATE)


def model(density: LogDensity, center: Array, root: Array, start: Start, report: Report | None) -> Any:
    """The density as nutpie takes it, in the coordinates z of x = center + root z, but with draws of x.

    Parameters
    ----------
    density : LogDensity
    center : ndarray (k,)
    root : ndarray (k, k)
    start : callable
        Seed -> z (k,), where a chain begins.
    report : callable or None
        Called with draws made, draws in all (of warm-up, too), and divergences; not by the Python road.
    """
    nutpie, address = import_nutpie(), density.address
    if address is None or not has_address_road(nutpie):
        return _by_function(nutpie, density, center, root, start)
    block = np.concatenate([np.zeros(whitened.HEADER), center, root.ravel()])
    block.view(np.uintp)[: whitened.HEADER] = address, density.user_data
    return _by_address(nutpie, density, block, start, report)


def _by_address(nutpie: ModuleType, density: LogDensity, block: Array, start: Start, report: Report | None) -> Any:
    from nutpie.sample import CompiledModel

    lib, k = nutpie._lib, density.dim
    data, keep, sizes = block.ctypes.data, (density, block), {"parameter": k}

    class ByAddress(CompiledModel):  # type: ignore[misc]
        n_dim = k
        coords: dict[str, Any] = {}  # noqa: RUF012 - nutpie's name

        def _make_model(self, mean: Array) -> Any:
            value = lib.LogpFunc(whitened.WHITENED.address, data, keep)
            draw = lib.ExpandFunc(k, k, whitened.EXPANDED.address, data, keep)
            variables = lib.PyVariable.new_variables(["x"], ["float64"], [(k,)], sizes, {"x": ["parameter"]})
            return lib.PyMcModel(value, draw, variables, k, sizes, {}, start, None)

        def _make_sampler(self, settings: Any, mean: Array, cores: int, progress: Any, *rest: Any) -> Any:
            if report is not None:
                progress = lib.ProgressType.template_callback(EVERY, PROGRESS, cores, lambda text: _tell(report, text))
            return lib.PySampler.from_pymc(settings, cores, self._make_model(mean), progress, *rest)

    return ByAddress({})


def _tell(report: Report, text: str) -> None:
    made, total, *divergences = (int(word) for word in text.split())
    report(made, total, sum(divergences))


def _by_function(nutpie: ModuleType, density: LogDensity, center: Array, root: Array, start: Start) -> Any:
    def value(z: Array) -> tuple[float, Array]:
        found, gradient = density.logp_grad(center + root @ z)
        if not np.isfinite(found) or not np.isfinite(gradient).all():
            raise NoDensityError
        return float(found), root.T @ gradient

    def draw(z: Array) -> dict[str, Array]:
        return {"x": center + root @ z}

    return nutpie.compiled_pyfunc.from_pyfunc(
        density.dim,
        lambda: value,
        lambda *seeds: draw,
        [np.dtype(np.float64)],
        [(density.dim,)],
        ["x"],
        make_initial_point_fn=start,
    )
