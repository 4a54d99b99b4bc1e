"""The final model, made in a worker after a search."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import ray

from aiops_core import tracking
from aiops_core.search.connection import ONE_THREAD, cluster

__all__ = ["final_model", "refits"]


def final_model(
    task: ModuleType, ranked: list[dict[str, Any]], data: Any, folder: str | Path, *, seed: int
) -> dict[str, Any]:
    """Make the final model in a worker: fit, calibrate, write the servable and, beside it, the native parts.

    Parameters
    ----------
    task, data, seed
        As in `aiops_core.search.search`.
    ranked : list of dict
        Parameter sets, best first; `SearchResult.ranked`, or sets of one's own.
    folder : path
        Where the servable is written.

    Returns
    -------
    dict
        The native model's prediction of the test part, for comparison with the servable's.
    """
    with cluster():
        shared = ray.put(data)
        work = ray.remote(num_cpus=1)(_final_in_worker)
        found: dict[str, Any] = ray.get(work.remote(task.__name__, ranked, shared, str(Path(folder).resolve()), seed))
        return found


def refits(
    task: ModuleType,
    ranked: list[dict[str, Any]],
    data: Any,
    *,
    seeds: Sequence[int],
    policy: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Fit the final model again with each of some seeds, in workers; nothing is written.

    Parameters
    ----------
    policy : mapping, optional
        What a failure model's threshold is chosen by; that of highest F1 by default.

    Returns
    -------
    list of dict
        The native models' predictions of the test part.
    """
    if not seeds:
        return []
    with cluster():
        shared = ray.put(data)
        work = ray.remote(num_cpus=1)(_refit_in_worker)
        found: list[dict[str, Any]] = ray.get(
            [work.remote(task.__name__, ranked, shared, seed, policy) for seed in seeds]
        )
        return found


def _refit_in_worker(
    module: str, ranked: list[dict[str, Any]], data: Any, seed: int, policy: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    os.environ.update(ONE_THREAD)
    task = importlib.import_module(module)
    model = task.finish(ranked, data, seed=seed)
    if policy:
        task.follow(model, policy)
    return dict(task.predict(model, data, "test"))


def _final_in_worker(module: str, ranked: list[dict[str, Any]], data: Any, folder: str, seed: int) -> dict[str, Any]:
    """Let the task finish what its search began: fit, calibrate, export; save the native parts."""
    os.environ.update(ONE_THREAD)
    task = importlib.import_module(module)
    model = task.finish(ranked, data, seed=seed)
    task.export(model, data, Path(folder))
    tracking.save_native(model, Path(folder).with_name("native"))
    return dict(task.predict(model, data, "test"))
