"""Turn what was handed over into columns of the journal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from aiops_core.journal.privacy import Privacy
from aiops_core.journal.schema import SCHEMAS
from serve_app.journal.entries import About, Entry
from serve_app.wire.problems import Problem
from serve_app.wire.times import parse_stamp

__all__ = ["batch_of", "source_of"]

#: The benign class.
_NORMAL = "normal"


def batch_of(task: str, entries: Sequence[Entry], clock: float, privacy: Privacy) -> pa.RecordBatch:
    """Return the records of answers of one task.

    Parameters
    ----------
    task : str
    entries : sequence of Entry
    clock : float
        Seconds since 1970 at 0 of the performance counter.
    privacy : Privacy
    """
    columns = _BY_TASK[task](entries, privacy)
    # A forecast leaves a record for each target.
    repeated = columns.pop("of", None)
    several = entries if repeated is None else [entries[place] for place in repeated]
    columns |= _common(several, clock, privacy)
    schema = SCHEMAS[task]
    # Left out: the same nothing for all.
    arrays = [
        pa.array(columns[field.name], type=field.type) if field.name in columns else pa.nulls(len(several), field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _common(entries: Sequence[Entry], clock: float, privacy: Privacy) -> dict[str, Any]:
    shadow = {"shadow_version": [None if e.shadow is None else int(e.shadow[0]) for e in entries]}
    return {
        **(shadow if _shadowed(entries) else {}),
        "request_id": [e.request_id for e in entries],
        "row": [int(e.request_id.rpartition("-")[2]) if e.batch else 0 for e in entries],
        "arrival_time": np.array([1e6 * (clock + e.began) for e in entries]).astype("datetime64[us]"),
        "version": [e.about.version for e in entries],
        "recalibration": [e.about.recalibration for e in entries],
        "role": [e.about.role for e in entries],
        "latency_ms": np.array([1e3 * (e.ended - e.began) for e in entries], dtype=np.float32),
        "key": [privacy.text(e.key, "key") for e in entries],
    }


def _shadowed(entries: Sequence[Entry]) -> bool:
    return any(e.shadow is not None for e in entries)


def _outputs_of_shadow(entries: Sequence[Entry], *names: str) -> dict[str, Any]:
    """Return what other versions would have answered, in columns; none if there was no other."""
    if not _shadowed(entries):
        return {}
    values = [(None,) * len(names) if e.shadow is None else e.shadow[1:] for e in entries]
    return {name: list(column) for name, column in zip(names, zip(*values, strict=True), strict=True)}


def _times(seconds: Sequence[float | None]) -> np.ndarray:
    whole = np.array([np.nan if s is None else 1e6 * s for s in seconds])
    stamps = np.where(np.isnan(whole), 0, whole).astype(np.int64).astype("datetime64[us]")
    stamps[np.isnan(whole)] = np.datetime64("NaT")
    return stamps


def _kept(about: About, values: np.ndarray, privacy: Privacy) -> bytes | None:
    """Return what is kept of one input, (steps, n_features)."""
    if privacy.drop:
        gone = [j for j, name in enumerate(about.names) if name in privacy.drop]
        if gone:
            values = values.copy()
            values[..., gone] = np.nan
    return privacy.inputs(np.ascontiguousarray(values, dtype="<f4").tobytes())


def _failure(entries: Sequence[Entry], privacy: Privacy) -> dict[str, Any]:
    windows = [_snapshot(e) if isinstance(e.inputs, dict) else e.inputs for e in entries]
    return {
        "resource_id": [privacy.text(e.subject, "resource_id") for e in entries],
        "event_time": _times([e.time for e in entries]),
        "inputs": [_kept(e.about, window, privacy) for e, window in zip(entries, windows, strict=True)],
        "steps": [len(window) if privacy.readable else 0 for window in windows],
        "probability": [e.outputs[0] for e in entries],
        "threshold": [e.outputs[1] for e in entries],
        "alarm": [e.outputs[0] >= e.outputs[1] for e in entries],
        **_outputs_of_shadow(entries, "shadow_probability", "shadow_alarm"),
    }


def _snapshot(entry: Entry) -> np.ndarray:
    """Return the one row that the rules judged."""
    return np.array([[entry.inputs.get(name, np.nan) for name in entry.about.names]], dtype=np.float32)


def _threat(entries: Sequence[Entry], privacy: Privacy) -> dict[str, Any]:
    named = [e.about.classes[e.outputs[1]] for e in entries]
    return {
        "resource_id": [source_of(e.subject, privacy) for e in entries],
        "event_time": _times([_stamp(e) for e in entries]),
        "inputs": [_kept(e.about, e.inputs, privacy) for e in entries],
        "steps": [int(privacy.readable)] * len(entries),
        "threat_type": named,
        "probabilities": [e.outputs[0] for e in entries],
        "probability": [e.outputs[0][e.outputs[1]] for e in entries],
        "threshold": [e.outputs[2] for e in entries],
        "alarm": [name != _NORMAL for name in named],
        **_outputs_of_shadow(entries, "shadow_threat_type", "shadow_probabilities"),
    }


def source_of(request: Any, privacy: Privacy) -> str | None:
    """Return the resource that a threat request names, or its address."""
    for field in ("resource_id", "source_ip"):
        # A feature of that name takes it: then the request has no such field.
        found = getattr(request, field, None)
        if found is not None:
            return privacy.text(str(found), "resource_id", field)
    return None


def _stamp(entry: Entry) -> float | None:
    given = getattr(entry.subject, entry.about.stamp, None) if entry.about.stamp else None
    if not isinstance(given, (str, float, int)):
        return None
    try:
        return parse_stamp(given, "")
    except Problem:
        # The model does not use it, so nobody checked it.
        return None


def _capacity(entries: Sequence[Entry], privacy: Privacy) -> dict[str, Any]:
    of: list[int] = []
    columns: dict[str, list[Any]] = {
        name: [] for name in ("resource_id", "inputs", "steps", "target", "forecast", "low", "high", "shadow_forecast")
    }
    times: list[float | None] = []
    for place, e in enumerate(entries):
        history = _stacked(e)
        inputs = _kept(e.about, history, privacy)
        name = privacy.text(e.subject, "resource_id")
        for target, bands in e.outputs[0].items():
            if target in privacy.drop:
                continue
            of.append(place)
            times.append(e.time)
            low, middle, high = np.asarray(bands, dtype=np.float32).T
            shadow = None if e.shadow is None else e.shadow[1].get(target)
            steps = len(history) if privacy.readable else 0
            for column, value in zip(
                columns.values(), (name, inputs, steps, target, middle, low, high, shadow), strict=True
            ):
                column.append(value)
    return {"of": of, "event_time": _times(times), **columns}


def _stacked(entry: Entry) -> np.ndarray:
    """Return a history as rows, oldest first: columns of the card, NaN where one is shorter or was not given."""
    series = [entry.inputs.get(name) for name in entry.about.names]
    length = max(len(values) for values in series if values is not None)
    out = np.full((length, len(series)), np.nan, dtype=np.float32)
    for j, values in enumerate(series):
        if values is not None and len(values):
            out[length - len(values) :, j] = values
    return out


_BY_TASK = {"failure": _failure, "threat": _threat, "capacity": _capacity}
