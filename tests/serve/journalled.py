"""A journal as the service would have written it: the tables of a data set, asked for row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from aiops_core.data.tables import Dataset
from aiops_core.journal import segments
from aiops_core.journal.schema import SCHEMAS
from aiops_core.journal.versions import keep_version


def write(state: Path, loaded: Any, version: int, records: list[dict[str, Any]]) -> None:
    """Append records of one version to a sealed segment."""
    keep_version(state, loaded.task, version, loaded.card)
    segment = segments.Segment(segments.folder_of(state, loaded.task), SCHEMAS[loaded.task], "node-a")
    filled = [{"row": 0, "role": "champion", "latency_ms": 0.1, "version": version, **record} for record in records]
    segment.append(pa.RecordBatch.from_pylist(filled, SCHEMAS[loaded.task]))
    segment.close()
    segments.seal(segment.path)


def failures(
    state: Path, loaded: Any, dataset: Dataset, version: int = 1, *, resources: int = 4, hours: int = 240
) -> pd.DataFrame:
    """Ask about the last hours of some resources; returns the rows that were asked about."""
    telemetry = dataset.tables["telemetry"]
    asked, records = [], []
    for name in telemetry["resource_id"].unique()[:resources]:
        mine = telemetry[telemetry["resource_id"] == name].sort_values("timestamp").reset_index(drop=True)
        values = mine[loaded.features].to_numpy(dtype="<f4")
        for end in range(max(loaded.window, len(mine) - hours), len(mine)):
            window, at = values[end + 1 - loaded.window : end + 1], mine["timestamp"][end]
            probability = float(
                loaded.predict(window[None], np.array([at.tz_localize(None)], dtype="datetime64[s]"), [name])[0]
            )
            alarm = probability >= loaded.threshold
            records.append(
                {"request_id": f"{name}-{end}", "resource_id": name, "event_time": at,
                 "arrival_time": at + pd.Timedelta(seconds=2), "inputs": window.tobytes(), "steps": len(window),
                 "probability": probability, "threshold": loaded.threshold, "alarm": alarm}
            )  # fmt: skip
            asked.append({"resource_id": name, "timestamp": at, "probability": probability})
    write(state, loaded, version, records)
    return pd.DataFrame(asked)


def threats(state: Path, loaded: Any, dataset: Dataset, version: int = 1, *, rows: int = 300) -> pd.DataFrame:
    """Ask about the last rows of activity, an hour apart; returns them."""
    activity = dataset.tables["activity"].tail(rows).reset_index(drop=True)
    X = loaded.encode(
        activity[loaded.features].astype(object).where(activity[loaded.features].notna(), None).to_dict("records")
    )
    P = loaded.predict(X)
    said = np.array(loaded.classes)[loaded.decide(P)]
    start = pd.Timestamp("2026-03-01T00:00Z")
    records = [
        {"request_id": f"t{i}", "resource_id": f"10.0.0.{i % 5}", "event_time": start + pd.Timedelta(hours=i),
         "arrival_time": start + pd.Timedelta(hours=i), "inputs": X[i].astype("<f4").tobytes(), "steps": 1,
         "threat_type": str(said[i]), "probabilities": P[i].tolist(), "probability": float(P[i].max()),
         "alarm": bool(said[i] != "normal")}
        for i in range(len(activity))
    ]  # fmt: skip
    write(state, loaded, version, records)
    return activity


def forecasts(
    state: Path, loaded: Any, dataset: Dataset, version: int = 1, *, resources: int = 2, asked: int = 6
) -> None:
    """Ask for forecasts of some resources, the last a horizon after the first of them."""
    usage = dataset.tables["usage"]
    steps = np.arange(1, loaded.horizon + 1)
    records = []
    for name in usage["resource_id"].unique()[:resources]:
        mine = usage[usage["resource_id"] == name].sort_values("timestamp").reset_index(drop=True)
        for end in np.linspace(len(mine) - loaded.horizon - 1, len(mine) - 1, asked).astype(int):
            history = mine[loaded.features].to_numpy(dtype="<f4")[max(0, end + 1 - loaded.context) : end + 1]
            at = mine["timestamp"][end]
            for j, target in enumerate(loaded.targets):
                last = np.array([at.tz_localize(None)], dtype="datetime64[s]")
                bands = loaded.forecast(history[None, :, loaded.features.index(target)], last, steps, target)[0]
                records.append(
                    {"request_id": f"{name}-{end}", "row": j, "resource_id": name, "event_time": at, "arrival_time": at,
                     "inputs": history.tobytes(), "steps": len(history), "target": target,
                     "forecast": bands[:, 1].tolist(), "low": bands[:, 0].tolist(), "high": bands[:, 2].tolist()}
                )  # fmt: skip
    write(state, loaded, version, records)
