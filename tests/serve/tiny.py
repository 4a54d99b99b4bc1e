"""Real servables of all three tasks, trained on very little, for the tests of the service."""

from __future__ import annotations

import importlib
from pathlib import Path

from aiops_core import synthetic

#: Enough to predict sensibly, little enough to train in seconds.
SAMPLES = {"failure": 600, "threat": 1500, "capacity": 300}


def train(task: str, folder: Path, *, seed: int = 3) -> Path:
    """Train one task with its first default parameters and export it."""
    module = importlib.import_module(f"aiops_core.{task}")
    dataset = synthetic.dataset(SAMPLES[task], seed=seed, tasks=(task,))
    data = module.prepare(dataset, seed=seed)
    params = module.defaults(data)[0]
    model = module.finish([params], data, seed=seed)
    module.export(model, data, folder)
    return folder
