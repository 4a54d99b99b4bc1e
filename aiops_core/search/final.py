"""The final model and the baselines, made side by side after a search."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import ray
from threadpoolctl import threadpool_limits

from aiops_core import tracking
from aiops_core.search.connection import ONE_THREAD, cluster
from aiops_core.search.result import SearchResult

__all__ = ["final_and_baselines"]


def final_and_baselines(
    task: ModuleType, result: SearchResult, data: Any, folder: str | Path, *, seed: int
) -> tuple[Path, dict[str, dict[str, Any]], dict[str, Any]]:
    """Make the final model in a worker, and the baselines in this process meanwhile.

    Parameters
    ----------
    task, data, seed
        As in `aiops_core.search.search`.
    result : SearchResult
    folder : path
        Where the servable is written.

    Returns
    -------
    servable : Path
        The written servable folder.
    baselines : dict of str to prediction
        Predictions of every baseline on the test part.
    native : dict
        ``prediction`` of the native model on test, for comparison with the servable, and ``files``, the folder
        with the native model.
    """
    with cluster():
        shared = ray.put(data)
        work = ray.remote(num_cpus=1)(_final_in_worker)
        folder = Path(folder).resolve()
        final = work.remote(task.__name__, result.ranked, shared, str(folder), seed)
        # A worker of their own would spend longer on imports than on most baselines.
        with threadpool_limits(1):
            others = dict(task.baselines(data, seed=seed))
        return folder, others, ray.get(final)


def _final_in_worker(module: str, ranked: list[dict[str, Any]], data: Any, folder: str, seed: int) -> dict[str, Any]:
    """Let the task finish what its search began: fit, calibrate, export; save the native parts."""
    os.environ.update(ONE_THREAD)
    task = importlib.import_module(module)
    model = task.finish(ranked, data, seed=seed)
    task.export(model, data, Path(folder))
    files = tracking.save_native(model, Path(folder).with_name("native"))
    return {"prediction": task.predict(model, data, "test"), "files": files}
