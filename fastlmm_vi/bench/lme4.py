"""lme4 in a process of its own, for as long as a benchmark lasts: requests on its standard input, answers in JSON."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import DataError

SCRIPT = Path(__file__).with_name("lme4.R")
ANSWER = "=> "
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class RError(DataError):
    """R stopped at a request; the message is R's."""


class Session:
    """A running R with lme4.

    Attributes
    ----------
    versions : mapping
        "R", "lme4", and "gflops": what R's BLAS does in XᵀX.
    """

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self._process, self._folder = process, folder
        self._frames: set[str] = set()
        self.versions: Mapping[str, Any] = {key: value[0] for key, value in self._answer().items() if value}

    def ask(self, request: str, *words: object) -> dict[str, list[Any]]:
        """Send a request of lme4.R and return the answer, every entry a list.

        Raises
        ------
        RError
            If R reports an error.
        """
        assert self._process.stdin is not None
        self._process.stdin.write("\t".join([request, *map(str, words)]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def timed(self, request: str, *words: object) -> tuple[float, dict[str, list[Any]]]:
        """Send a request that R takes the time of, and return R's seconds, and the answer."""
        answer = self.ask(request, *words)
        return float(answer["seconds"][0]), answer

    def add(self, name: str, frame: pd.DataFrame, factors: tuple[str, ...]) -> None:
        """Hand over a data set once, its numbers to the last bit; columns of text and `factors` become factors."""
        if name in self._frames:
            return
        path = self._folder / f"{name}.csv"
        exact = {column: frame[column].map(float.hex) for column in map(str, frame.select_dtypes("float64"))}
        frame.assign(**exact).to_csv(path, index=False)
        self.ask("frame", name, path, ",".join(factors))
        self._frames.add(name)

    def _answer(self) -> dict[str, list[Any]]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                answer: dict[str, list[Any]] = json.loads(line.removeprefix(ANSWER))
                if "error" in answer:
                    raise RError(f"R: {answer['error'][0]}")
                return answer
        raise RError(f"R ended before it answered: {(self._folder / 'messages').read_text(errors='replace').strip()}")


@contextmanager
def session(wanted: bool = True) -> Iterator[Session | None]:
    """Start R; None where there is none, where it lacks lme4, or where it is not `wanted`.

    Examples
    --------
    >>> from fastlmm_vi.bench import lme4
    >>> with lme4.session(wanted=False) as R:
    ...     print(R)
    None
    """
    program = shutil.which("Rscript") if wanted else None
    if program is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "messages").open("w", encoding="utf-8") as messages, _start(program, messages) as process:
            found = Session(process, folder)
            try:
                yield found if "lme4" in found.versions else None
            finally:
                process.kill()


def _start(program: str, messages: Any) -> "subprocess.Popen[str]":
    """R with one BLAS thread, messages in English."""
    return subprocess.Popen(
        [program, str(SCRIPT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=messages,
        text=True,
        encoding="utf-8",
        env={**os.environ, **ONE_THREAD, "LANGUAGE": "en"},
    )
