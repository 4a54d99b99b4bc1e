"""The command line in a process of its own, over a home and a store of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

AIOPS = [sys.executable, "-m", "aiops_core.cli"]


def environment(home: Path, cluster: str | None = None) -> dict[str, str]:
    """Return the environment of a process: a store of its own, and a Ray cluster of its own unless one is given."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    given = {} if cluster is None else {"RAY_ADDRESS": cluster}
    return {**kept, **given, "AIOPS_HOME": str(home), "MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow.db'}"}


def aiops(home: Path, *arguments: str, code: int = 0, cluster: str | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*AIOPS, *arguments], cwd=home, env=environment(home, cluster), capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done
