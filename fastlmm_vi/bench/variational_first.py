"""The first fit of a process, and its imports, with machine code on disk and without."""

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from .lme4 import ONE_THREAD
from .pymc_script import Watch

CODE = "import sys; from fastlmm_vi.bench import variational_first; variational_first.child(sys.argv[1])"
IMPORT = """import time; wall, cpu = time.perf_counter(), time.process_time()
from fastlmm_vi.grouped.model import lmm
print(time.perf_counter() - wall, time.process_time() - cpu)"""


def run(name: str) -> dict[str, Any]:
    """Fit a model by structured variational Bayes in new processes, before and after kernels are compiled.

    Returns
    -------
    dict
        "import", "nothing" and "compiled": seconds on the wall and of the processor of the import, of the first fit of an
        installation, and of the first fit of a process after it.
    """
    with tempfile.TemporaryDirectory() as folder:
        environ = {**os.environ, **ONE_THREAD, "NUMBA_CACHE_DIR": folder}

        def done(*arguments: str) -> str:
            command = [sys.executable, "-c", *arguments]
            return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environ).stdout

        nothing, compiled = (json.loads(done(CODE, name)) for _ in range(2))
        return {"import": [float(each) for each in done(IMPORT).split()], "nothing": nothing, "compiled": compiled}


def child(name: str) -> None:
    """What the process does."""
    sys.stdout.write(json.dumps(measure(name)))


def measure(name: str) -> list[float]:
    """Seconds of the first fit in this process."""
    from .variational_models import MODELS

    (model,) = (model for model in MODELS if model.name == name)
    _ = model.frame
    watch = Watch()
    with watch.running():
        model.fit("structured-vi")
    return [watch.wall, watch.cpu]
