"""What the three stories share: the default settings, the seed of a task, ids, stamps and slow noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from aiops_core.data.tables import TASKS
from aiops_core.errors import UsageError

__all__ = ["CONFIG", "DAY", "HOUR", "WEEK", "ar1", "chunks", "resource_ids", "task_seed", "utc_stamps"]

HOUR = np.timedelta64(3600, "s")
DAY = 24
WEEK = 168
#: Settings of the default data set, see `aiops_core.data.tables.CONFIG`.
CONFIG: dict[str, dict[str, Any]] = {
    # One label a day: windows of a resource do not overlap, so every sample is a new one.
    "failure": {"window": 24, "horizon": 24, "stride": 24, "test_fraction": 0.25},
    "threat": {"test_fraction": 0.25},
    # 25 h between origins: every hour of the day and, with eight of them, every day of the week is tested.
    "capacity": {
        "target": ["cpu_usage", "memory_usage", "storage_usage"],
        "season": 24,
        "horizon": 720,
        "origins": 8,
        "origin_step": 25,
        "score_steps": [1, 24, 168],
    },
}


def task_seed(task: str, n_samples: int, seed: int, signal: float, drift: float) -> np.random.SeedSequence:
    """Check the arguments all generators share and return the task's own seed."""
    if n_samples < 1:
        raise UsageError(f"n_samples must be at least 1, not {n_samples}")
    if seed < 0:
        raise UsageError(f"seed must not be negative, not {seed}")
    if not 0.0 <= signal <= 1.0:
        raise UsageError(f"signal must lie between 0 and 1, not {signal:g}")
    if not 0.0 <= drift <= 3.0:
        raise UsageError(f"drift must lie between 0 and 3, not {drift:g}")
    return np.random.SeedSequence(seed).spawn(len(TASKS))[TASKS.index(task)]


def resource_ids(prefix: str, count: int) -> list[str]:
    """Resource ids whose alphabetical order is their numerical one."""
    width = max(3, len(str(count)))
    return [f"{prefix}-{i + 1:0{width}d}" for i in range(count)]


def utc_stamps(start: np.ndarray | np.datetime64) -> pd.DatetimeIndex:
    """Timezone-aware UTC stamps, microseconds, of naive ones."""
    return pd.DatetimeIndex(np.asarray(start).astype("datetime64[us]")).tz_localize("UTC")


def chunks(total: int, size: int) -> Iterator[slice]:
    """Cut ``total`` rows into slices of at most ``size``."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def ar1(rng: np.random.Generator, shape: tuple[int, int], decay: float, sd: float) -> np.ndarray:
    """Stationary first-order autoregression along the last axis, (resources, hours), float32.

    ``x[t] = decay * x[t-1] + e[t]`` with the innovations scaled so that the standard deviation of ``x`` is ``sd``.
    """
    noise = rng.standard_normal((shape[1], shape[0]), dtype=np.float32)
    gain = math.sqrt(1 - decay**2)
    for t in range(1, shape[1]):
        noise[t] = decay * noise[t - 1] + gain * noise[t]
    return np.ascontiguousarray(sd * noise.T)
