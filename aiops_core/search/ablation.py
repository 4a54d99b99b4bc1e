"""Fits at default parameters on several versions of a data set, one a worker: what a change of the data brings."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import ray

from aiops_core.search.connection import ONE_THREAD, cluster

__all__ = ["default_scores"]


def default_scores(task: ModuleType, versions: Sequence[Any], *, seed: int) -> list[float]:
    """Fit a task's first default point on versions of a data set.

    Parameters
    ----------
    task : module
        As in `aiops_core.search.search`.
    versions : sequence
        What the task's ``prepare`` returned for each.
    seed : int

    Returns
    -------
    list of float
        Best ``OBJECTIVE`` of each on its validation rows; test rows are not looked at.
    """
    with cluster():
        work = ray.remote(num_cpus=1)(_score_in_worker)
        found: list[float] = ray.get([work.remote(task.__name__, data, seed) for data in versions])
        return found


def _score_in_worker(module: str, data: Any, seed: int) -> float:
    os.environ.update(ONE_THREAD)
    task = importlib.import_module(module)
    scores: list[float] = []
    task.fit(task.defaults(data)[0], data, seed=seed, report=lambda step, found: scores.append(found[task.OBJECTIVE]))
    return max(scores) if task.MODE == "max" else min(scores)
