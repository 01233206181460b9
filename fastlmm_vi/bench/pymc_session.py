"""PyMC and Bambi in an environment and a process of their own, for as long as a benchmark lasts."""

import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import DataError
from .grouped_measure import Report, silent
from .lme4 import ONE_THREAD
from .pymc_script import ANSWER

SCRIPT = Path(__file__).with_name("pymc_script.py")
PACKAGES = ("bambi", "pymc", "matplotlib<3.11")  # of later ones ArviZ's plots miss a module


class PeerError(DataError):
    """The other process stopped at a request; the message is its own."""


class Session:
    """A running `pymc_script`.

    Attributes
    ----------
    hello : mapping
        "versions", and the seconds of the imports, "import_wall" and "import_cpu".
    """

    def __init__(self, process: "subprocess.Popen[str]", messages: Path) -> None:
        self._process, self._messages = process, messages
        self.hello: Mapping[str, Any] = self._answer()

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and return the answer.

        Raises
        ------
        PeerError
            If the other process reports an error, or ends.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                answer: dict[str, Any] = json.loads(line.removeprefix(ANSWER))
                if "error" in answer:
                    raise PeerError(answer["error"])
                return answer
        raise PeerError(f"It ended before it answered: {self._messages.read_text(errors='replace').strip()}")


def python_of(folder: Path) -> Path:
    """Return where the Python of an environment is."""
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def environment(folder: Path, report: Report = silent) -> Path:
    """Return the Python of an environment with PyMC and Bambi in `folder`; made where there is none.

    Raises
    ------
    DataError
        If the folder holds something else, or pip fails.
    """
    python = python_of(folder)
    if not python.is_file():
        if folder.exists() and any(folder.iterdir()):
            raise DataError(
                f"{folder} is not empty, and no virtual environment: give a new folder, or one made by this."
            )
        report("environment")
        venv.create(folder, with_pip=True)
    if not any(folder.glob("**/site-packages/bambi")):
        report("PyMC and Bambi, by pip")
        done = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", *PACKAGES], stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise DataError(f"pip could not install {', '.join(PACKAGES)} into {folder}: {done.stderr.strip()[-500:]}")
    return python


@contextmanager
def session(python: Path) -> Iterator[Session]:
    """Start the script with one thread and nothing that PyTensor has compiled before."""
    with tempfile.TemporaryDirectory() as name:
        messages = Path(name) / "messages"
        environ = {
            **os.environ,
            **ONE_THREAD,
            "PYTENSOR_FLAGS": f"base_compiledir={name}/compiled",
            "MPLBACKEND": "agg",
        }
        for ours in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
            environ.pop(ours, None)
        with (
            messages.open("w", encoding="utf-8") as errors,
            subprocess.Popen(
                [python, "-P", SCRIPT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                env=environ,
            ) as process,
        ):
            try:
                yield Session(process, messages)
            finally:
                process.kill()
