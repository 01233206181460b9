"""What a measurement ran on: processor, cores, BLAS and the versions that matter."""

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import scipy.linalg  # noqa: F401 - loads scipy's own BLAS, so that the controller finds it
from threadpoolctl import ThreadpoolController

from .. import __version__, threads


def describe() -> dict[str, Any]:
    """Return the machine as plain data, as it stands in a benchmark file.

    Examples
    --------
    >>> from fastlmm_vi.bench import machine
    >>> sorted(machine.describe())
    ['blas', 'cpu', 'python_version', 'system', 'versions']
    """
    blas = [
        {key: library.get(key) for key in ("internal_api", "version", "architecture")}
        for library in ThreadpoolController().select(user_api="blas").info()
    ]
    return {
        "cpu": {"brand_raw": _processor(), "arch": platform.machine(), "count": threads.count(-1)},
        "system": platform.system(),
        "python_version": platform.python_version(),
        "versions": {
            "fastlmm_vi": __version__,
            **{name: metadata.version(name) for name in ("numpy", "scipy", "numba")},
        },
        "blas": sorted((library for i, library in enumerate(blas) if library not in blas[:i]), key=str),
    }


def text(machine: dict[str, Any]) -> str:
    """Return the machine in two lines."""
    cpu = machine["cpu"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    blas = "; ".join(kernels(machine, "internal_api", "version", "architecture"))
    return (
        f"{cpu['brand_raw']} ({cpu['arch']}), {cpu['count']} core{'s' * (cpu['count'] > 1)}, {machine['system']}; {blas}\n"
        f"Python {machine['python_version']}, {versions}"
    )


def kernels(machine: dict[str, Any], *keys: str) -> list[str]:
    """Return every BLAS of the machine by the given keys, each once."""
    found = [" ".join(str(library[key]) for key in keys if library[key]) for library in machine["blas"]]
    return sorted(set(found))


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
