"""The ordinary command on one source, in a home of its own: one search, several final fits, one grid of baselines."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from plan import argument_of, datasets_folder, tasks_of

#: Of a task's section in ``report.json``.
KEPT = (
    "model", "status", "reason", "main_metric", "metrics", "seeds", "baselines", "oracle", "share_of_oracle",
    "intervals_over", "test_looks", "gate", "search", "data",
)  # fmt: skip


def measure(source: str, *, seed: int, seeds: int, limit: float, extra: list[str], keep: Path | None) -> dict[str, Any]:
    """Run ``aiops report`` on a source and return its sections.

    Parameters
    ----------
    limit : float
        Seconds after which it is ended.
    extra : list of str
        More options of the command.
    keep : path, optional
        Folder that gets the report.

    Returns
    -------
    dict
        ``seconds``, and by task what `KEPT` names.

    Raises
    ------
    subprocess.TimeoutExpired
    subprocess.CalledProcessError
    """
    with tempfile.TemporaryDirectory() as home:
        kept = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
        environment = {**kept, "AIOPS_HOME": home, "AIOPS_DATASETS_DIR": str(datasets_folder())}
        command = [sys.executable, "-m", "aiops_core.cli", "report", "--source", argument_of(source)]
        command += ["--seed", str(seed), "--seeds", str(seeds), "--out", f"{home}/out"]
        command += ["--tasks", ",".join(tasks_of(source)), *extra]
        began = time.monotonic()
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            code = process.wait(timeout=limit)
        except BaseException:
            # Its kernels and its Ray belong to the same session.
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            raise
        if code:
            raise subprocess.CalledProcessError(code, command)
        content = json.loads(Path(home, "out", "report.json").read_text(encoding="utf-8"))
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            for name in ("report.html", "report.json"):
                shutil.copy(Path(home, "out", name), keep / name)
    tasks = {task: {key: content["tasks"][task].get(key) for key in KEPT} for task in tasks_of(source)}
    for section in tasks.values():
        # What a comparison found is in the reasons.
        (section["gate"] or {}).pop("gains", None)
    return {"seconds": round(time.monotonic() - began), "tasks": rounded(tasks)}


def rounded(value: Any) -> Any:
    """Return numbers with five significant digits, so that the stored file stays readable."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value
