"""Kernels are cached under a hash of their sources, so that no test runs old machine code."""

import hashlib
import os
import tempfile
from pathlib import Path

_sources = sorted((Path(__file__).resolve().parents[1] / "kernels").rglob("*.py"))
_digest = hashlib.sha256(b"".join(path.read_bytes() for path in _sources)).hexdigest()[:16]
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"fastlmm_vi_tests_{_digest}"))
os.environ.setdefault("MPLBACKEND", "agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
