"""Real servables of all three tasks, trained on very little, for the tests of the service."""

from __future__ import annotations

import dataclasses
import importlib
from datetime import timedelta
from pathlib import Path
from typing import Any

from aiops_core.data import synthetic
from aiops_core.data.tables import Dataset

#: Enough to predict sensibly, little enough to train in seconds.
SAMPLES = {"failure": 600, "threat": 1500, "capacity": 300}
#: What makes a final model slow to train.
LESS: dict[str, dict[str, Any]] = {
    "failure": {"epoch_rows": (600, 600), "max_steps": 3, "networks": 1, "watched_rows": 2_000},
    "threat": {"final_trees": 40},
    "capacity": {"search_rows": 2000, "final_rows": 4000, "edge_rows": 2000, "linear_rows": 2000, "scored_rows": 2000},
}
WEEKS = timedelta(weeks=14)


def dataset(task: str, *, seed: int = 3) -> Dataset:
    """Return a small synthetic data set; capacity keeps few resources, two targets and a week's horizon."""
    full = synthetic.dataset(SAMPLES[task], seed=seed, tasks=(task,))
    if task == "threat":  # without campaigns, so that few rows are enough for every class
        return full.replaced(activity=full.tables["activity"].drop(columns="group"))
    if task != "capacity":
        return full
    usage = full.tables["usage"]
    some = usage["resource_id"].unique()[:8]
    usage = usage[usage["resource_id"].isin(some) & (usage["timestamp"] > usage["timestamp"].max() - WEEKS)]
    config = {**full.config["capacity"], "target": ["cpu_usage", "memory_usage"], "horizon": 168}
    return dataclasses.replace(full, tables={"usage": usage.reset_index(drop=True)}, config={"capacity": config})


def train(task: str, folder: Path, *, seed: int = 3) -> Path:
    """Train one task with its first default parameters on few rows, and export it."""
    module = importlib.import_module(f"aiops_core.tasks.{task}")
    data = module.prepare(dataset(task, seed=seed), seed=seed, effort=module.Effort(**LESS[task]))
    params = module.defaults(data)[0]
    module.export(module.finish([params], data, seed=seed), data, folder)
    return folder
