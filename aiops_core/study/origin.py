"""Where a run lies, what made it, and what its card says of the data it came from."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import aiops_core
from aiops_core import settings
from aiops_core.data import sources, splits
from aiops_core.data.periods import within
from aiops_core.data.tables import Dataset
from aiops_core.rules import StatisticalAnomalyDetector

PACKAGES = ("ray", "tensorflow", "scikit-learn", "xgboost", "mlflow", "onnxruntime", "pandas", "numpy", "optuna")


def folder_of(out: str | Path | None, source: str) -> Path:
    """Return the absolute folder of a run: ``out``, or ``reports/<source>`` in the project's folder."""
    home = settings.load().home
    if out is None or str(out) == "":
        name = source if source in ("synthetic", *sources.PUBLIC) else Path(source).resolve().name
        return home / "reports" / name
    return home / Path(out)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that shape results."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def lineage_of(dataset: Dataset, data: Any, *, task: str, source: str, seed: int) -> dict[str, Any]:
    """Return what the card of a servable says of its data and of the code that made it."""
    info = data.info
    lineage = {
        "source": source,
        "title": dataset.title,
        "licence": dataset.licence,
        "digest": dataset.digest(task),
        "split": info["split"],
        "protocol": protocol_of(data),
        "seed": seed,
        "code_version": aiops_core.__version__,
        "versions": versions(),
        "train_rows": info["train_rows"],
    }
    if "incidents" in info:
        lineage["incidents"] = {part: info[f"{part}_incidents"] for part in ("train", "test")}
    return lineage


def protocol_of(data: Any) -> str:
    """Return how test was told from training: ``time``, or ``resource`` where whole resources or attack names were."""
    return str(data.info.get("protocol", "time"))


def anomaly_reference(dataset: Dataset, data: Any) -> dict[str, Any]:
    """Return the reference of the statistical anomaly detector, learned from what precedes each resource's test part.

    Incidents are left out: what is usual then must not be called usual.

    Parameters
    ----------
    dataset : Dataset
    data : FailureData
        Says which rows test, whatever they were split by.
    """
    telemetry: pd.DataFrame = dataset.tables["telemetry"]
    tested = data.part == splits.TEST
    names = np.array(data.resources, dtype=object)[data.resource[tested]]
    first = pd.Series(pd.DatetimeIndex(data.time[tested]).tz_localize("UTC")).groupby(names).min()
    early = telemetry.loc[~(telemetry["timestamp"] >= telemetry["resource_id"].map(first))]
    early = early[~within(early, dataset.tables["incidents"])]
    return StatisticalAnomalyDetector().learn(early, max_resources=0)
